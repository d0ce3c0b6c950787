//! What a probe puts into the bucket, and how that goes again.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::store::probe::Asking;
use crate::store::{ErrorKind, Result};

impl Asking<'_> {
    /// Returns a key of the probe, and notes that there may be an object under it.
    pub(super) fn note(&mut self, name: &str) -> String {
        let key = format!("{}{name}", self.folder);
        if !self.left.contains(&key) {
            self.left.push(key.clone());
        }
        key
    }

    /// Begins an upload; `None`: the store refuses to.
    pub(super) async fn begin(&mut self, key: &str) -> Result<Option<String>> {
        let was_lost = std::mem::replace(&mut self.is_upload_lost, true);
        let asked = AtomicU32::new(0);
        let begin = || {
            asked.fetch_add(1, Ordering::Relaxed);
            self.store.create_multipart(key, &self.meta)
        };
        let Ok(id) = self.may(begin).await? else {
            return Ok(None);
        };
        self.uploads.push((key.to_owned(), id.clone()));
        // Whoever had to ask twice may have begun two.
        self.is_upload_lost = was_lost || asked.into_inner() > 1;
        Ok(Some(id))
    }

    /// Removes what there is, as far as that succeeds.
    pub(super) async fn clean_up(&mut self) {
        /// A request may fail once and again; one that fails three times is not tried for ever.
        const ROUNDS: usize = 3;
        for _ in 0..ROUNDS {
            if self.is_upload_lost && self.find_lost().await {
                self.is_upload_lost = false;
            }
            let mut open = Vec::new();
            for (key, id) in std::mem::take(&mut self.uploads) {
                if self.store.abort(&key, &id).await.is_err() {
                    open.push((key, id));
                }
            }
            self.uploads = open;
            if self.found.delete_many
                && let Ok(each) = self.store.delete_many(&self.left).await
            {
                let mut each = each.into_iter();
                self.left
                    .retain(|_| each.next().is_none_or(|one| one.is_err()));
            }
            let store = self.store;
            let stays = async |key: Option<&String>| match key {
                Some(key) => store.delete(key).await.is_err(),
                None => false,
            };
            let keys = std::mem::take(&mut self.left);
            // Whoever waits for the answers should not wait for each of these.
            for four in keys.chunks(4) {
                let (a, b, c, d) = tokio::join!(
                    stays(four.first()),
                    stays(four.get(1)),
                    stays(four.get(2)),
                    stays(four.get(3))
                );
                let kept = four.iter().zip([a, b, c, d]).filter(|(_, stays)| *stays);
                self.left.extend(kept.map(|(key, _)| key.clone()));
            }
            if self.left.is_empty() && self.uploads.is_empty() && !self.is_upload_lost {
                return;
            }
        }
        let (objects, uploads) = (self.left.len(), self.uploads.len());
        tracing::debug!(
            objects,
            uploads,
            folder = self.folder,
            "could not remove all of a probe"
        );
    }

    /// Looks for uploads whose id was never heard; returns whether that is settled.
    async fn find_lost(&mut self) -> bool {
        match self.store.list_uploads(&self.folder, None).await {
            Ok(page) => {
                for open in page.uploads {
                    if open.key.starts_with(&self.folder) {
                        self.uploads.push((open.key, open.id));
                    }
                }
                true
            }
            Err(error) => matches!(error.kind, ErrorKind::Unsupported | ErrorKind::Denied),
        }
    }
}
