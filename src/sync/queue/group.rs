//! Files that only make sense together settle together: an SQLite database and what it keeps beside it.
//!
//! While its log is written to, the main file may rest for hours; at a checkpoint both change, and at the close the log
//! goes. One is not read while another of them is still being written to. That makes no backup of a live database: they
//! are read one after the other all the same.

use std::ops::Bound;

use crate::base::clock::Now;
use crate::base::path::RelPath;
use crate::sync::queue::{Queue, State};

/// What stands behind the name of the main file: its log, the log's index, the rollback journal
/// (<https://www.sqlite.org/tempfiles.html>).
const BESIDE: [&str; 3] = ["-wal", "-shm", "-journal"];

/// Returns the name of the main file of the group that `name` would be in.
pub(in crate::sync::queue) fn main_of(name: &[u8]) -> &[u8] {
    let main = |beside: &&str| name.strip_suffix(beside.as_bytes());
    BESIDE.iter().find_map(main).unwrap_or(name)
}

impl Queue {
    /// Makes every member of `path`'s group wait as long as the one that waits longest, `path` having been touched: none
    /// longer than `max_wait` after it was first touched, none that failed or would not rest.
    pub(in crate::sync::queue) fn settle_group(&mut self, path: &RelPath, now: Now) {
        let members = self.group(path);
        if members.len() < 2 {
            return;
        }
        let due_of = |member: &RelPath| match self.slots.get(member)?.state {
            State::Held { due, .. } => Some(due),
            State::Running { .. } => None,
        };
        let Some(last) = members.iter().filter_map(due_of).max() else {
            return;
        };
        for member in members {
            let Some(job) = self.slots.get(&member).map(|slot| slot.job.clone()) else {
                continue;
            };
            self.remove_held(&member);
            let due = last
                .min(job.since.mono + self.settings.max_wait)
                .max(now.mono);
            self.hold(job, due);
        }
    }

    /// Returns the members of `path`'s group that are held and settling; nothing more than `path` for most.
    fn group(&self, path: &RelPath) -> Vec<RelPath> {
        let name = path.as_bytes();
        let main = main_of(name);
        if main.len() == name.len() && !self.has_beside(path) {
            return Vec::new();
        }
        let names = BESIDE
            .iter()
            .map(|beside| [main, beside.as_bytes()].concat());
        let names = std::iter::once(main.to_vec()).chain(names);
        let settles = |member: &RelPath| {
            self.slots.get(member).is_some_and(|slot| {
                matches!(slot.state, State::Held { parked: false, .. })
                    && slot.job.is_fresh()
                    && !slot.job.remove
            })
        };
        names
            .filter_map(|name| RelPath::new(&name))
            .filter(settles)
            .collect()
    }

    /// Returns true if the queue may have a file beside the main file `path`: one look for the many paths that are none.
    fn has_beside(&self, path: &RelPath) -> bool {
        let Some(dash) = RelPath::new(&[path.as_bytes(), b"-"].concat()) else {
            return false;
        };
        let mut behind = self.slots.range((Bound::Excluded(&dash), Bound::Unbounded));
        behind
            .next()
            .is_some_and(|(next, _)| next.as_bytes().starts_with(dash.as_bytes()))
    }
}
