//! What the folder's loop asks of its queue. Changes nothing.

use tokio::time::Instant;

use crate::base::path::RelPath;
use crate::sync::Lane;
use crate::sync::queue::{BACKLOG_MOST, Job, Queue, State};
use crate::tree::Touch;

/// Paths in front of another that are named.
const NAMED: usize = 3;

/// Where a path is in the queue.
#[derive(Clone, PartialEq, Debug)]
pub enum Place {
    /// Its time has not come.
    Waiting {
        /// When it comes.
        due: Instant,
        /// What is known of it.
        job: Job,
    },
    /// Its time has come, and it has not begun.
    Due {
        /// How many are before it.
        ahead: u64,
        /// The first of them.
        front: Vec<RelPath>,
        /// What is known of it.
        job: Job,
    },
    /// It is being worked on.
    Running {
        /// What is known of it.
        job: Job,
    },
}

impl Queue {
    /// Returns where a path is; `None`: not in the queue. Counts all that are before it.
    pub fn place(&self, path: &RelPath, now: Instant) -> Option<Place> {
        let slot = self.slots.get(path)?;
        let job = slot.job.clone();
        let State::Held { due, .. } = slot.state else {
            return Some(Place::Running { job });
        };
        if due > now {
            return Some(Place::Waiting { due, job });
        }
        let at = (due, path.clone());
        let own = match job.lane {
            Lane::Live => &self.live,
            Lane::Backlog => &self.backlog,
        };
        // Live goes first, as far as it is due.
        let live = self.live.iter().take_while(|(due, _)| *due <= now);
        let live = live.filter(|_| job.lane == Lane::Backlog);
        let mut before = live.chain(own.range(..at)).map(|(_, path)| path);
        let front: Vec<RelPath> = before.by_ref().take(NAMED).cloned().collect();
        let ahead = front.len() + before.count();
        Some(Place::Due {
            ahead: ahead as u64,
            front,
            job,
        })
    }

    /// Returns true if `path` is being worked on.
    pub fn is_running(&self, path: &RelPath) -> bool {
        let state = self.slots.get(path).map(|slot| &slot.state);
        matches!(state, Some(State::Running { .. }))
    }

    /// Returns true if somebody has said that the content of `path` may have changed, and nobody has read it since.
    pub fn was_written(&self, path: &RelPath) -> bool {
        self.slots.get(path).is_some_and(|slot| {
            let again = match slot.state {
                State::Running { again, .. } => {
                    again.is_some_and(|(touch, _)| touch >= Touch::Data)
                }
                State::Held { .. } => false,
            };
            slot.job.must_read || again
        })
    }

    /// Returns since when the oldest work has waited that is neither failing, nor a check, nor a removal.
    pub fn oldest_work(&self) -> Option<Instant> {
        let jobs = self.slots.values().map(|slot| &slot.job);
        jobs.filter(|job| job.is_fresh() && !job.remove)
            .map(|job| job.since.mono)
            .min()
    }

    /// Returns at most so many paths whose last attempt failed or found them moving, or `all` that are to be stored.
    pub fn unsettled(&self, most: usize, all: bool) -> Vec<RelPath> {
        let jobs = self
            .jobs()
            .filter(|job| all || job.failures + job.moves > 0);
        jobs.filter(|job| !job.remove)
            .map(|job| job.path.clone())
            .take(most)
            .collect()
    }

    /// Returns true if any path waits because it failed.
    pub fn has_failed(&self) -> bool {
        self.jobs().any(|job| job.failures > 0)
    }

    /// Returns when the next held path of a lane is due.
    pub fn next_due(&self, lane: Lane) -> Option<Instant> {
        let held = match lane {
            Lane::Live => &self.live,
            Lane::Backlog => &self.backlog,
        };
        held.first().map(|(due, _)| *due)
    }

    /// Returns how many paths of a lane are running.
    pub fn running(&self, lane: Lane) -> usize {
        self.running.get(&lane).copied().unwrap_or(0)
    }

    /// Returns true while a scan has to wait before it hands over more of that lane.
    pub fn is_full(&self, lane: Lane) -> bool {
        match lane {
            Lane::Live => self.fresh[0] >= BACKLOG_MOST,
            Lane::Backlog => self.fresh[1] >= BACKLOG_MOST,
        }
    }

    /// Returns what is known of every path in the queue, in order of path.
    pub fn jobs(&self) -> impl Iterator<Item = &Job> {
        self.slots.values().map(|slot| &slot.job)
    }

    /// Returns true if the path is waiting or running.
    pub fn has(&self, path: &RelPath) -> bool {
        self.slots.contains_key(path)
    }

    /// Returns how many paths are waiting or running.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Returns true if nothing waits and nothing runs.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}
