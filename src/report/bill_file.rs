//! What was asked of S3 on each of the last days, and what it came to, in the state folder: what `status` shows.
//!
//! One writer, the process that holds the state folder. Written by rename, so that a reader never sees half of it. What
//! cannot be read counts as nothing asked.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::base::clock::{rfc3339, share_of_month};
use crate::base::price::{Micros, Prices, Usage};

const NAME: &str = "cost.json";

/// Days that are kept: this month and the one before.
const DAYS: usize = 62;

/// What was asked on each day.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Bill {
    /// The name of the money.
    pub currency: String,
    /// What may be spent in a month, millionths.
    #[serde(default)]
    pub budget: Option<Micros>,
    /// The days (`2026-11-23`, UTC, as S3's months are) and what was asked on each.
    pub days: BTreeMap<String, Day>,
}

/// What was asked on a day.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Day {
    /// The counts.
    pub usage: Usage,
    /// What they came to by the prices of that time, millionths.
    pub cost: Micros,
}

/// What it costs, in the words of the JSON contract; money in millionths of `currency`.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct Cost {
    /// The name of the money.
    pub currency: String,
    /// What was asked today (UTC).
    pub today: Day,
    /// What was asked since the month began.
    pub month: Day,
    /// What the month will have cost if it goes on like this.
    pub month_at_this_pace: Micros,
    /// What may be spent in a month.
    pub budget: Option<Micros>,
}

impl Cost {
    /// Returns true if the budget is, or is about to be, passed.
    pub fn is_over(&self) -> bool {
        let most = self.month_at_this_pace.max(self.month.cost);
        self.budget.is_some_and(|budget| most > budget)
    }
}

impl Bill {
    /// Adds what was asked up to `now_ns` (wall clock, nanoseconds).
    pub fn add(&mut self, usage: Usage, prices: &Prices, now_ns: i64) {
        self.currency.clone_from(&prices.currency);
        self.budget = prices.budget;
        let day = self.days.entry(date(now_ns)).or_default();
        day.usage = day.usage.plus(usage);
        day.cost = day.cost.saturating_add(prices.cost(usage));
        while self.days.len() > DAYS {
            self.days.pop_first();
        }
    }

    /// Returns what it costs, at `now_ns` (wall clock, nanoseconds).
    pub fn cost(&self, now_ns: i64) -> Cost {
        let today = date(now_ns);
        let month = &today[..7];
        let mut sum = Day::default();
        for (_, day) in self.days.iter().filter(|(date, _)| date.starts_with(month)) {
            sum.usage = sum.usage.plus(day.usage);
            sum.cost = sum.cost.saturating_add(day.cost);
        }
        Cost {
            currency: self.currency.clone(),
            today: self.days.get(&today).copied().unwrap_or_default(),
            month: sum,
            month_at_this_pace: Prices::by_the_end_of_the_month(sum.cost, share_of_month(now_ns)),
            budget: self.budget,
        }
    }
}

/// Returns the day in UTC: `2026-11-23`.
fn date(now_ns: i64) -> String {
    let mut text = rfc3339(now_ns);
    text.truncate(10);
    text
}

/// Returns what was asked; nothing if nobody ever asked.
pub fn read(state_dir: &Path) -> Option<Bill> {
    let text = fs::read(state_dir.join(NAME)).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Keeps what was asked.
#[expect(
    clippy::disallowed_methods,
    reason = "not durable on purpose: after a power cut the last minute may be missing"
)]
pub fn write(state_dir: &Path, bill: &Bill) -> io::Result<()> {
    let (temporary, target) = (state_dir.join(format!("{NAME}.new")), state_dir.join(NAME));
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(true).mode(0o600);
    options
        .open(&temporary)?
        .write_all(&serde_json::to_vec(bill)?)?;
    fs::rename(&temporary, &target)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::parse_rfc3339_nanos;

    fn at(text: &str) -> i64 {
        parse_rfc3339_nanos(text).expect("a time")
    }

    fn puts(puts: u64) -> Usage {
        Usage {
            puts,
            ..Usage::default()
        }
    }

    #[test]
    fn today_and_this_month_are_told_apart_from_what_was_before() {
        let (mut bill, prices) = (Bill::default(), Prices::default());
        bill.add(puts(1_000_000), &prices, at("2026-10-31T23:59:59Z"));
        bill.add(puts(1_000), &prices, at("2026-11-01T00:00:00Z"));
        bill.add(puts(2_000), &prices, at("2026-11-15T01:00:00Z"));
        bill.add(puts(3_000), &prices, at("2026-11-15T02:00:00Z"));
        let cost = bill.cost(at("2026-11-16T00:00:00Z"));
        assert_eq!((cost.today, cost.month.usage.puts), (Day::default(), 6_000));
        assert_eq!((cost.month.cost, cost.month_at_this_pace), (30_000, 60_000));
        let cost = bill.cost(at("2026-11-15T12:00:00Z"));
        assert_eq!((cost.today.usage.puts, cost.today.cost), (5_000, 25_000));
        for n in 1..=80 {
            bill.add(
                puts(1),
                &prices,
                at("2027-01-01T00:00:00Z") + n * 86_400_000_000_000,
            );
        }
        assert_eq!(bill.days.len(), DAYS);
    }

    #[test]
    fn a_budget_that_is_about_to_be_passed_is_known_before() {
        let mut bill = Bill::default();
        let prices = Prices {
            budget: Some(1_000_000),
            ..Prices::default()
        };
        // Sixty cents in half a month.
        bill.add(puts(120_000), &prices, at("2026-11-15T00:00:00Z"));
        let cost = bill.cost(at("2026-11-16T00:00:00Z"));
        assert!(cost.is_over() && cost.month.cost < 1_000_000);
        assert!(!bill.cost(at("2026-11-30T23:00:00Z")).is_over());
        assert!(!Bill::default().cost(0).is_over());
    }

    #[test]
    fn what_is_kept_is_read_and_what_is_garbled_counts_as_nothing() {
        let dir = tempfile::tempdir().expect("a folder");
        assert_eq!(read(dir.path()), None);
        let mut bill = Bill::default();
        bill.add(puts(7), &Prices::default(), 5);
        write(dir.path(), &bill).expect("it is kept");
        assert_eq!(read(dir.path()), Some(bill));
        let names = fs::read_dir(dir.path()).expect("a listing").count();
        assert_eq!(names, 1, "nothing is left beside it");
        fs::File::create(dir.path().join(NAME)).expect("half a file");
        assert_eq!(read(dir.path()), None);
    }
}
