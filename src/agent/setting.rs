//! Somebody sets the machine's clock. The horizons of keys in doubt are kept by it, over restarts too, and go with it: a
//! jump ahead ends none of them early, and one back makes none of them last for days.
//!
//! The kernel tells how much time has really passed, also while nobody ran and while the machine slept, but not over a
//! start of the machine: then every horizon begins anew.
//!
//! A look and a job go by the clock as it was set when the rows were read that they begin with; what they write is put right
//! when it is taken in.
//!
//! Does not protect against: a machine that stands still without knowing it, whose clock is set when it goes on: its horizons only last
//! longer.

use crate::agent::{Loop, Pending, Then};
use crate::base::clock::{Now, SLEWED_NS, Setting};
use crate::base::units::show_duration;
use crate::manifest::{self, Change, Mark};
use crate::sync::file::{Done, Outcome};
use crate::sync::plan::HORIZON_NS;

impl Loop {
    /// Takes what has become of the clock since a former run wrote its horizons, before anything is made of them.
    pub(super) async fn recall_clock(&mut self) -> Result<(), manifest::Error> {
        let (now, is) = (self.ctx.clock.now(), self.set);
        let (manifest, folder) = (self.ctx.manifest.clone(), self.ctx.folder);
        let recalled = self.ctx.offload.run(move || {
            let was = manifest.marks(folder)?.clock;
            let changes = since(was, is, now);
            let committed = manifest.commit_at(folder, &changes, now.wall_ns);
            Ok::<_, manifest::Error>(committed.err().map(|_| changes))
        });
        // What cannot be written now goes before everything else.
        if let Some(changes) = recalled.await? {
            let then = Then::Nothing;
            self.pending.push_front(Pending { changes, then });
        }
        Ok(())
    }

    /// Notices that somebody has set the clock.
    pub(super) fn watch_clock(&mut self) {
        let is = self.ctx.clock.setting();
        let by_ns = is.offset_ns.saturating_sub(self.set.offset_ns);
        if by_ns.saturating_abs() <= SLEWED_NS {
            return;
        }
        self.set = is;
        let folder = self.teller.name();
        let by = show_duration(std::time::Duration::from_nanos(by_ns.unsigned_abs()));
        let way = if by_ns > 0 { "ahead" } else { "back" };
        tracing::info!(folder, "the machine's clock was set {way} by {by}");
        for until_ns in self.ambiguous.values_mut() {
            *until_ns = until_ns.saturating_add(by_ns);
        }
        let changes = vec![Change::ClockSet(by_ns), Change::Mark(Mark::Clock(is))];
        let then = Then::Nothing;
        self.pending.push_back(Pending { changes, then });
    }

    /// Brings the horizons of a job that went by the clock as it was to how it is set now.
    pub(super) fn with_time(&self, done: &mut Done, changes: &mut [Change]) {
        let by_ns = self.set.offset_ns.saturating_sub(done.set.offset_ns);
        if by_ns == 0 {
            return;
        }
        let moved = |until_ns: &mut i64| {
            if *until_ns != 0 {
                *until_ns = until_ns.saturating_add(by_ns).max(1);
            }
        };
        for change in changes {
            if let Change::Put(row) = change
                && !row.is_landed()
            {
                moved(&mut row.ambiguous_until_ns);
            }
        }
        match &mut done.outcome {
            Outcome::Synced {
                ambiguous_until_ns, ..
            }
            | Outcome::Gone {
                ambiguous_until_ns, ..
            }
            | Outcome::Deleted { ambiguous_until_ns } => moved(ambiguous_until_ns),
            _ => {}
        }
    }
}

/// Returns true for what has to be durable before any row is looked at by the clock.
pub(super) fn is_of_clock(item: &Pending) -> bool {
    let is_it = |change: &Change| matches!(change, Change::ClockSet(_) | Change::Horizons(_));
    item.changes.iter().any(is_it)
}

/// Returns what is to be noted at a start.
fn since(was: Option<Setting>, is: Setting, now: Now) -> Vec<Change> {
    let change = match was {
        None => None,
        Some(was) if was.boot == is.boot => {
            let by_ns = is.offset_ns.saturating_sub(was.offset_ns);
            if by_ns.saturating_abs() <= SLEWED_NS {
                return Vec::new();
            }
            Some(Change::ClockSet(by_ns))
        }
        Some(_) => Some(Change::Horizons(now.wall_ns.saturating_add(HORIZON_NS))),
    };
    let mark = Change::Mark(Mark::Clock(is));
    change.into_iter().chain([mark]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Clock;

    const SECOND_NS: i64 = 1_000_000_000;

    fn setting(boot: i64, offset_ns: i64) -> Setting {
        Setting { boot, offset_ns }
    }

    #[test]
    fn horizons_go_with_the_clock_and_begin_anew_with_the_machine() {
        let now = Clock::Real.now();
        let is = setting(7, 50 * SECOND_NS);
        let mark = Change::Mark(Mark::Clock(is));
        let anew = Change::Horizons(now.wall_ns + HORIZON_NS);
        let table = [
            (None, vec![mark.clone()]),
            (Some(is), vec![]),
            (Some(setting(7, 49 * SECOND_NS)), vec![]),
            (
                Some(setting(7, 20 * SECOND_NS)),
                vec![Change::ClockSet(30 * SECOND_NS), mark.clone()],
            ),
            (
                Some(setting(7, 60 * SECOND_NS)),
                vec![Change::ClockSet(-10 * SECOND_NS), mark.clone()],
            ),
            (Some(setting(6, 50 * SECOND_NS)), vec![anew, mark]),
        ];
        for (at, (was, expected)) in table.into_iter().enumerate() {
            assert_eq!(since(was, is, now), expected, "row {at}");
        }
    }
}
