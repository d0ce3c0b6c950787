//! When to look again at what no event tells of.
//!
//! Each polled folder has a pause of its own: short where the last look found something, half as long again after each
//! look that did not, up to the time between two full scans, which look everywhere anyway. Nothing polled, no timer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::base::path::RelPath;
use crate::tree::scan::Depth;

/// The shortest pause: what a person who saves a file waits for without wondering.
const LEAST: Duration = Duration::from_secs(2);

/// How much each polled folder adds to the shortest pause: at most 500 looks a second, some hundredths of one core.
const EACH: Duration = Duration::from_millis(2);

/// How many times as long as the look itself its pause is at least: a tenth of the time is spent looking, no more.
const REST: u32 = 10;

/// The schedule.
///
/// Invariant: `due` holds each one of `folders` that is not being looked at, under its own instant, and nothing else.
#[derive(Debug)]
pub struct Polls {
    most: Duration,
    folders: BTreeMap<RelPath, Poll>,
    due: BTreeSet<(Instant, RelPath)>,
}

#[derive(Debug)]
struct Poll {
    depth: Depth,
    pause: Duration,
    due: Instant,
}

/// What a look found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Looked {
    /// Something differed.
    Changed,
    /// Nothing did.
    Same,
}

impl Polls {
    /// Makes an empty schedule whose pauses are at most `most`.
    pub fn new(most: Duration) -> Self {
        Self {
            most,
            folders: BTreeMap::new(),
            due: BTreeSet::new(),
        }
    }

    /// Begins to poll a folder.
    pub fn begin(&mut self, folder: RelPath, depth: Depth, now: Instant) {
        let pause = self.least();
        if let Some(poll) = self.folders.get_mut(&folder) {
            poll.depth = depth;
            return;
        }
        let due = now + pause;
        self.due.insert((due, folder.clone()));
        self.folders.insert(folder, Poll { depth, pause, due });
    }

    /// Takes the folder that has been due longest; [`Polls::ended`] or [`Polls::end`] has to follow.
    pub fn pop_due(&mut self, now: Instant) -> Option<(RelPath, Depth)> {
        let first = self.due.first().filter(|(due, _)| *due <= now)?.1.clone();
        self.due.pop_first();
        let depth = self.folders.get(&first)?.depth;
        Some((first, depth))
    }

    /// A look has ended: plans the next one.
    pub fn ended(&mut self, folder: &RelPath, looked: Looked, took: Duration, now: Instant) {
        let least = self.least().max(took * REST);
        let Some(poll) = self.folders.get_mut(folder) else {
            return;
        };
        self.due.remove(&(poll.due, folder.clone()));
        let pause = match looked {
            Looked::Changed => least,
            Looked::Same => (poll.pause + poll.pause / 2).max(least),
        };
        poll.pause = pause.min(self.most);
        poll.due = now + poll.pause;
        self.due.insert((poll.due, folder.clone()));
    }

    /// Polls a folder no longer.
    pub fn end(&mut self, folder: &RelPath) {
        if let Some(poll) = self.folders.remove(folder) {
            self.due.remove(&(poll.due, folder.clone()));
        }
    }

    /// Returns true if changes of `path` are looked for by polling.
    pub fn covers(&self, path: &RelPath) -> bool {
        let parent = path.parent();
        let mut above = parent.clone();
        while let Some(folder) = above {
            match self.folders.get(&folder).map(|poll| poll.depth) {
                Some(Depth::Full) => return true,
                Some(Depth::NewFolders) if parent.as_ref() == Some(&folder) => return true,
                _ => above = folder.parent(),
            }
        }
        false
    }

    /// Returns when the next look is due.
    pub fn next_at(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    fn least(&self) -> Duration {
        let many = u32::try_from(self.folders.len()).unwrap_or(u32::MAX);
        LEAST.max(EACH.saturating_mul(many)).min(self.most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Clock;

    const MOST: Duration = Duration::from_secs(10);

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).expect("a valid path")
    }

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn nothing_polled_means_no_timer() {
        let now = Clock::Real.now().mono;
        let mut polls = Polls::new(MOST);
        assert_eq!((polls.next_at(), polls.pop_due(now)), (None, None));
        polls.begin(path("a"), Depth::NewFolders, now);
        assert_eq!(polls.next_at(), Some(now + LEAST));
        assert!(polls.covers(&path("a/f")) && !polls.covers(&path("a/b/f")));
        polls.begin(path("a"), Depth::Full, now);
        assert!(polls.covers(&path("a/b/f")) && !polls.covers(&path("a")));
        polls.end(&path("a"));
        assert_eq!(polls.next_at(), None);
    }

    #[test]
    fn quiet_folders_are_looked_at_less_often_and_busy_ones_at_once() {
        let start = Clock::Real.now().mono;
        let mut polls = Polls::new(MOST);
        polls.begin(path("a"), Depth::NewFolders, start);
        let mut now = start;
        let mut pauses = Vec::new();
        for _ in 0..6 {
            let due = polls.next_at().expect("polled");
            pauses.push((due - now).as_millis());
            now = due;
            assert_eq!(
                polls.pop_due(now),
                Some((path("a"), Depth::NewFolders)),
                "due at that instant"
            );
            assert_eq!(polls.next_at(), None, "it is being looked at");
            polls.ended(&path("a"), Looked::Same, Duration::ZERO, now);
        }
        assert_eq!(pauses, [2_000, 3_000, 4_500, 6_750, 10_000, 10_000]);
        now = polls.next_at().expect("polled");
        assert!(polls.pop_due(now).is_some());
        polls.ended(&path("a"), Looked::Changed, Duration::ZERO, now);
        assert_eq!(polls.next_at(), Some(now + LEAST));
    }

    #[test]
    fn many_folders_and_long_looks_stretch_the_pause() {
        let now = Clock::Real.now().mono;
        let mut polls = Polls::new(secs(600));
        for number in 0..5_000 {
            polls.begin(path(&number.to_string()), Depth::NewFolders, now);
        }
        polls.ended(&path("7"), Looked::Changed, Duration::ZERO, now);
        polls.begin(path("7"), Depth::Full, now);
        let mut last = None;
        while let Some(due) = polls.pop_due(now + secs(9_999)) {
            last = Some(due);
        }
        assert_eq!(last, Some((path("7"), Depth::Full)));
        polls.ended(&path("7"), Looked::Changed, secs(3), now);
        assert_eq!(polls.next_at(), Some(now + secs(30)));
        polls.ended(&path("7"), Looked::Changed, secs(3_000), now);
        assert_eq!(polls.next_at(), Some(now + secs(600)));
    }
}
