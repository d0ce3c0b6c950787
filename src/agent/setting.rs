//! Somebody sets the machine's clock. The horizons of keys in doubt are kept by it, over restarts too, and go with it: a
//! jump ahead ends none of them early, and one back makes none of them last for days.
//!
//! The kernel tells how much time has really passed, also while nobody ran and while the machine slept, but not over a
//! start of the machine: then every horizon begins anew.
//!
//! Does not protect against: what is asked of the clock between a jump and the loop's next look at it, which every event
//! brings; and a machine that stands still without knowing it, whose clock is set when it goes on: its horizons only last
//! longer.

use std::collections::VecDeque;

use tokio::time::Instant;

use crate::agent::{Loop, Pending, Then};
use crate::base::clock::{Clock, Now, Setting};
use crate::base::units::show_duration;
use crate::manifest::{self, Change, Entry, Mark};
use crate::sync::file::{Done, Outcome};
use crate::sync::plan::HORIZON_NS;

/// A clock that is off by no more is slewed, not set; nanoseconds.
const SLEWED_NS: i64 = 1_000_000_000;
/// Jumps remembered for jobs that began before them; of more the oldest count as one.
const JUMPS_MOST: usize = 16;

/// How the clock is set, as far as the rows know.
pub(super) struct Wall {
    is: Setting,
    /// When it was found to be set ahead, and by how much, nanoseconds.
    ahead: VecDeque<(Instant, i64)>,
}

impl Wall {
    pub fn new(clock: Clock) -> Self {
        Self {
            is: clock.setting(),
            ahead: VecDeque::new(),
        }
    }

    /// Returns how far it was set since it was last looked at, if it was.
    fn jump(&mut self, is: Setting, now: Now) -> Option<i64> {
        let by_ns = is.offset_ns.saturating_sub(self.is.offset_ns);
        if by_ns.saturating_abs() <= SLEWED_NS {
            return None;
        }
        self.is = is;
        if by_ns > 0 {
            if self.ahead.len() >= JUMPS_MOST {
                let (_, oldest_ns) = self.ahead.pop_front().unwrap_or((now.mono, 0));
                if let Some((_, next_ns)) = self.ahead.front_mut() {
                    *next_ns = next_ns.saturating_add(oldest_ns);
                }
            }
            self.ahead.push_back((now.mono, by_ns));
        }
        Some(by_ns)
    }

    /// Returns how far it was set ahead since then, nanoseconds.
    fn ahead_since(&self, started: Instant) -> i64 {
        let since = self.ahead.iter().filter(|(at, _)| *at >= started);
        since.fold(0, |sum, (_, by_ns)| sum.saturating_add(*by_ns))
    }
}

impl Loop {
    /// Takes what has become of the clock since a former run wrote its horizons, before anything is made of them.
    pub(super) async fn recall_clock(&mut self) -> Result<(), manifest::Error> {
        let (now, is) = (self.ctx.clock.now(), self.wall.is);
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
    pub(super) fn watch_clock(&mut self, now: Now) {
        let is = self.ctx.clock.setting();
        let Some(by_ns) = self.wall.jump(is, now) else {
            return;
        };
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

    /// Lets horizons that a job took from the clock as it was last as long as they were meant to.
    pub(super) fn with_time(&self, done: &mut Done, changes: &mut [Change]) {
        let by_ns = self.wall.ahead_since(done.started);
        if by_ns == 0 {
            return;
        }
        let later = |until_ns: &mut i64| {
            if *until_ns != 0 {
                *until_ns = until_ns.saturating_add(by_ns);
            }
        };
        for change in changes {
            if let Change::Put(Entry {
                ambiguous_until_ns, ..
            }) = change
            {
                later(ambiguous_until_ns);
            }
        }
        match &mut done.outcome {
            Outcome::Synced {
                ambiguous_until_ns, ..
            }
            | Outcome::Gone {
                ambiguous_until_ns, ..
            }
            | Outcome::Deleted { ambiguous_until_ns } => later(ambiguous_until_ns),
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

    #[test]
    fn a_job_is_late_by_every_jump_ahead_since_it_began() {
        let start = Clock::Real.now();
        let mut wall = Wall {
            is: setting(1, 0),
            ahead: VecDeque::new(),
        };
        let at = |seconds| start.plus(std::time::Duration::from_secs(seconds));
        assert_eq!(wall.jump(setting(1, SECOND_NS), at(1)), None);
        for n in 1..=20 {
            let by = wall.jump(setting(1, n * 10 * SECOND_NS), at(n.unsigned_abs()));
            assert_eq!(by, Some(10 * SECOND_NS));
        }
        let back = wall.jump(setting(1, 0), at(30));
        assert_eq!(back, Some(-200 * SECOND_NS));
        assert_eq!(wall.ahead.len(), JUMPS_MOST);
        assert_eq!(wall.ahead_since(at(0).mono), 200 * SECOND_NS);
        assert_eq!(wall.ahead_since(at(20).mono), 10 * SECOND_NS);
        assert_eq!(wall.ahead_since(at(21).mono), 0);
    }
}
