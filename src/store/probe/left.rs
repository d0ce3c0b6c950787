//! What a probe puts into the bucket, and how that goes again.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::store::ErrorKind;
use crate::store::probe::{Asked, Asking, locked};

impl Asking<'_> {
    /// Returns a key of the probe, and notes that there may be an object under it.
    pub(super) fn note(&self, name: &str) -> String {
        let key = format!("{}{name}", self.folder);
        let mut left = locked(&self.left);
        if !left.contains(&key) {
            left.push(key.clone());
        }
        key
    }

    /// Begins an upload; `None`: the store refuses to.
    pub(super) async fn begin(&self, key: &str) -> Asked<Option<String>> {
        self.lost_uploads.fetch_add(1, Ordering::Relaxed);
        let asked = AtomicU32::new(0);
        let begin = || {
            asked.fetch_add(1, Ordering::Relaxed);
            self.store.create_multipart(key, &self.meta)
        };
        let Ok(id) = self.may(begin).await? else {
            return Ok(None);
        };
        locked(&self.uploads).push((key.to_owned(), id.clone()));
        // Whoever had to ask twice may have begun two.
        if asked.into_inner() == 1 {
            self.lost_uploads.fetch_sub(1, Ordering::Relaxed);
        }
        Ok(Some(id))
    }

    /// Notes that an upload is not open any more.
    pub(super) fn has_ended(&self, id: &str) {
        locked(&self.uploads).retain(|(_, open)| open != id);
    }

    /// Removes what there is, as far as that succeeds.
    pub(super) async fn clean_up(&self) {
        /// A request may fail once and again; one that fails three times is not tried for ever.
        const ROUNDS: usize = 3;
        let mut left = std::mem::take(&mut *locked(&self.left));
        let can_many = locked(&self.found).delete_many;
        for _ in 0..ROUNDS {
            if self.lost_uploads.load(Ordering::Relaxed) > 0 && self.find_lost().await {
                self.lost_uploads.store(0, Ordering::Relaxed);
            }
            let mut open = std::mem::take(&mut *locked(&self.uploads));
            let mut stays = Vec::new();
            for (key, id) in open.drain(..) {
                if self.store.abort(&key, &id).await.is_err() {
                    stays.push((key, id));
                }
            }
            *locked(&self.uploads) = stays;
            if can_many && let Ok(each) = self.store.delete_many(&left).await {
                let mut each = each.into_iter();
                left.retain(|_| each.next().is_none_or(|one| one.is_err()));
            }
            let store = self.store;
            let stays = async |key: Option<&String>| match key {
                Some(key) => store.delete(key).await.is_err(),
                None => false,
            };
            let keys = std::mem::take(&mut left);
            // Whoever waits for the answers should not wait for each of these.
            for four in keys.chunks(4) {
                let (a, b, c, d) = tokio::join!(
                    stays(four.first()),
                    stays(four.get(1)),
                    stays(four.get(2)),
                    stays(four.get(3))
                );
                let kept = four.iter().zip([a, b, c, d]).filter(|(_, stays)| *stays);
                left.extend(kept.map(|(key, _)| key.clone()));
            }
            if left.is_empty()
                && locked(&self.uploads).is_empty()
                && self.lost_uploads.load(Ordering::Relaxed) == 0
            {
                return;
            }
        }
        let (objects, uploads) = (left.len(), locked(&self.uploads).len());
        tracing::debug!(
            objects,
            uploads,
            folder = self.folder,
            "could not remove all of a probe"
        );
    }

    /// Looks for uploads whose id was never heard; returns whether that is settled.
    async fn find_lost(&self) -> bool {
        match self.store.list_uploads(&self.folder, None).await {
            Ok(page) => {
                let theirs = page.uploads.into_iter();
                let ours = theirs.filter(|open| open.key.starts_with(&self.folder));
                locked(&self.uploads).extend(ours.map(|open| (open.key, open.id)));
                true
            }
            Err(error) => matches!(error.kind, ErrorKind::Unsupported | ErrorKind::Denied),
        }
    }
}
