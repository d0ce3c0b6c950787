//! Contents that are on their way to the bucket right now, so that the same bytes are sent once.
//!
//! What is stored already is found by the manifest's hash index, not here: a content leaves this map when its row is
//! committed or its upload has ended otherwise. No guard of the map is ever held across an await.

use std::sync::Arc;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use tokio::sync::oneshot;

use crate::base::digest::Sha256;
use crate::base::path::RelPath;

/// The contents of one folder that are on their way, each with those who wait for it, in the order in which they came.
#[derive(Clone, Debug, Default)]
pub struct Dedupe(Arc<DashMap<Sha256, Vec<oneshot::Sender<RelPath>>>>);

/// What the first asker, or a later one, is told.
#[derive(Debug)]
pub enum Claim {
    /// Nobody else is sending this content: send it.
    First(First),
    /// Somebody is: wait, holding neither a permit nor a buffer.
    Later(Waiter),
}

/// The right, and duty, to send a content. Dropping it without [`First::stored`] tells the waiters to send their own bytes.
#[derive(Debug)]
pub struct First {
    map: Dedupe,
    content: Sha256,
    is_done: bool,
}

/// Waits for the one who sends the same content.
#[derive(Debug)]
pub struct Waiter(oneshot::Receiver<RelPath>);

impl Dedupe {
    /// Asks for the right to send `content`.
    pub fn claim(&self, content: Sha256) -> Claim {
        match self.0.entry(content) {
            Entry::Occupied(mut there) => {
                let (told, waiter) = oneshot::channel();
                there.get_mut().push(told);
                Claim::Later(Waiter(waiter))
            }
            Entry::Vacant(place) => {
                place.insert(Vec::new());
                Claim::First(First {
                    map: self.clone(),
                    content,
                    is_done: false,
                })
            }
        }
    }

    /// Returns how many contents are on their way.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns true if nothing is on its way.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl First {
    /// Tells the waiters that the content is in the bucket under `path`'s key, and that the manifest says so, durably.
    pub fn stored(mut self, path: &RelPath) {
        self.is_done = true;
        for waiter in self.give_up() {
            // One that has gone away does not mind.
            let _ = waiter.send(path.clone());
        }
    }

    fn give_up(&self) -> Vec<oneshot::Sender<RelPath>> {
        self.map
            .0
            .remove(&self.content)
            .map(|(_, waiters)| waiters)
            .unwrap_or_default()
    }
}

impl Drop for First {
    fn drop(&mut self) {
        // Whoever still waits here hears that nothing will come. After `stored` nobody does, but somebody else may have
        // claimed the content since: it is theirs.
        if !std::mem::take(&mut self.is_done) {
            drop(self.give_up());
        }
    }
}

impl Waiter {
    /// Returns the path whose object has the content; `None` if sending it did not work.
    pub async fn wait(self) -> Option<RelPath> {
        self.0.await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path() -> RelPath {
        RelPath::root().join(b"a")
    }

    #[tokio::test]
    async fn the_second_waits_for_the_first() {
        let dedupe = Dedupe::default();
        let content = Sha256::of(b"x");
        let Claim::First(first) = dedupe.claim(content) else {
            panic!("nobody was before")
        };
        let Claim::Later(waiter) = dedupe.claim(content) else {
            panic!("somebody was before")
        };
        first.stored(&path());
        assert_eq!(waiter.wait().await, Some(path()));
        assert!(dedupe.is_empty());
    }

    #[tokio::test]
    async fn a_first_that_is_done_does_not_end_the_next_ones_claim() {
        let dedupe = Dedupe::default();
        let content = Sha256::of(b"x");
        let Claim::First(first) = dedupe.claim(content) else {
            panic!("nobody was before")
        };
        first.stored(&path());
        let Claim::First(second) = dedupe.claim(content) else {
            panic!("the claim was free")
        };
        let Claim::Later(waiter) = dedupe.claim(content) else {
            panic!("somebody was before")
        };
        second.stored(&path());
        assert_eq!(waiter.wait().await, Some(path()));
    }

    #[tokio::test]
    async fn a_first_that_gives_up_sets_the_others_free() {
        let dedupe = Dedupe::default();
        let content = Sha256::of(b"x");
        let Claim::First(first) = dedupe.claim(content) else {
            panic!("nobody was before")
        };
        let Claim::Later(waiter) = dedupe.claim(content) else {
            panic!("somebody was before")
        };
        drop(first);
        assert_eq!(waiter.wait().await, None);
        assert!(matches!(dedupe.claim(content), Claim::First(_)));
    }
}
