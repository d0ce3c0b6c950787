//! Paths whose objects are being copied: no job of them starts meanwhile.

use std::time::Duration;

use crate::base::clock::Now;
use crate::base::path::RelPath;
use crate::sync::queue::{Queue, Slot, State};

/// How long a path whose turn has come waits for further copies of its object: none may put its own change off for ever.
const PATIENCE: Duration = Duration::from_secs(2);

/// The answer to who wants to hold a path as the source of a copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hold {
    /// It is held.
    Granted,
    /// It is being worked on, or has waited long enough.
    Refused,
    /// It is being looked at, which waits for nobody: ask again after [`Queue::started`] or [`Queue::finish`].
    Later,
}

impl Queue {
    /// Holds a path as the source of a copy, due or not: no job of it starts until [`Queue::release_source`].
    pub fn hold_source(&mut self, path: &RelPath, now: Now) -> Hold {
        let answer = match self.slots.get(path).map(|slot| &slot.state) {
            Some(State::Running { is_started, .. }) if *is_started => Hold::Refused,
            Some(State::Running { .. }) => Hold::Later,
            Some(State::Held { due, parked: true }) if *due + PATIENCE <= now.mono => Hold::Refused,
            None | Some(State::Held { .. }) => Hold::Granted,
        };
        if answer == Hold::Granted {
            *self.sources.entry(path.clone()).or_default() += 1;
        }
        answer
    }

    /// Ends one hold of a source.
    pub fn release_source(&mut self, path: &RelPath) {
        let Some(count) = self.sources.get_mut(path) else {
            debug_assert!(false, "{path} was not a source");
            return;
        };
        *count -= 1;
        if *count > 0 {
            return;
        }
        self.sources.remove(path);
        if let Some(Slot {
            job,
            state: State::Held { due, parked },
        }) = self.slots.get_mut(path)
            && std::mem::take(parked)
        {
            let (lane, entry) = (job.lane, (*due, path.clone()));
            self.lane(lane).insert(entry);
        }
    }
}
