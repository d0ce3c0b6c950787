//! Paths whose objects are being copied: no job of them starts meanwhile.

use crate::base::clock::Now;
use crate::base::path::RelPath;
use crate::sync::queue::{Queue, Slot, State};

impl Queue {
    /// Holds a path as the source of a copy, if it is neither running nor due: no job of it starts until
    /// [`Queue::release_source`].
    pub fn hold_source(&mut self, path: &RelPath, now: Now) -> bool {
        let busy = match self.slots.get(path).map(|slot| &slot.state) {
            None => false,
            Some(State::Running { .. }) => true,
            Some(State::Held { due, parked }) => !parked && *due <= now.mono,
        };
        if !busy {
            *self.sources.entry(path.clone()).or_default() += 1;
        }
        !busy
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
