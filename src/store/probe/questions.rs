//! The questions of a probe that do not wait for each other, each with keys of its own; within one, in order.

use bytes::Bytes;

use crate::base::digest::Crc64;
use crate::store::features::Features;
use crate::store::probe::{
    Asked, Asking, CONTENT, FIRST, NEVER, OTHER, Said, WRONG, is_held, locked,
};
use crate::store::{Body, ErrorKind, Part, Result, Stored, When};

/// The key that is written under conditions.
const GUARDED: &str = "B";

/// The key that is removed under conditions.
const VICTIM: &str = "a0";

/// The key that is removed with others.
const ONE_OF_MANY: &str = "a/b";

/// Keys whose order tells the order of bytes from others: of the alphabet, of folders, of file names. The last two are one
/// letter, written in two ways, which some file systems take for the same.
const NAMES: [&str; 6] = ["C", FIRST, ONE_OF_MANY, VICTIM, "a\u{308}", "\u{e4}"];

impl Asking<'_> {
    pub(super) async fn put_conditions(&self) -> Asked<()> {
        let key = self.note(GUARDED);
        let made = self.may_put(&key, CONTENT, &When::Absent).await?;
        let is_made = made.is_ok();
        let there = match made {
            Ok(stored) => Ok(stored),
            Err(_) => self.may_put(&key, CONTENT, &When::Always).await?,
        };
        let Ok(there) = there else {
            return Ok(());
        };
        let mut etag = there.etag;
        let over = self.may_put(&key, NEVER, &When::Absent).await?;
        self.find(|found| found.put_if_absent = is_made && is_held(&over));
        keep(&mut etag, over);

        let wrong = When::Is(WRONG.to_owned());
        let over = self.may_put(&key, NEVER, &wrong).await?;
        let is_refused = is_held(&over);
        keep(&mut etag, over);
        if is_refused {
            // Works only if the one before has changed nothing.
            let over = self.may_put(&key, OTHER, &When::Is(etag)).await?;
            self.find(|found| found.put_if_match = over.is_ok());
        }
        Ok(())
    }

    pub(super) async fn metadata(&self, first: &str) -> Asked<()> {
        let seen = self.may(|| self.store.head(first)).await?;
        // Some stores add names of their own.
        let metadata = seen.is_ok_and(|object| {
            self.meta.user.iter().all(|(name, value)| {
                let mut user = object.user.iter();
                user.any(|(other, kept)| name == other && value == kept)
            })
        });
        self.find(|found| found.metadata = metadata);
        Ok(())
    }

    /// Asks for a listing of odd names, and then for two ways to remove some of them.
    pub(super) async fn names(&self) -> Asked<()> {
        let [c, many, victim, apart, whole] =
            [NAMES[0], ONE_OF_MANY, VICTIM, NAMES[4], NAMES[5]].map(|name| self.note(name));
        let put = |key| self.may_put(key, CONTENT, &When::Always);
        let (c, many, there, apart, whole) =
            tokio::join!(put(&c), put(&many), put(&victim), put(&apart), put(&whole));
        c?.ok();
        many?.ok();
        apart?.ok();
        whole?.ok();
        let there = there?;
        self.listing().await?;
        let (removed, batches) =
            tokio::join!(self.delete_conditions(&victim, there), self.batches());
        removed.and(batches)
    }

    async fn listing(&self) -> Asked<()> {
        let page = self.may(|| self.store.list(&self.folder, None)).await?;
        let listed = page.map(|page| page.objects).unwrap_or_default();
        let listed: Vec<_> = listed.into_iter().map(|object| object.key).collect();
        let wanted = NAMES.map(|name| format!("{}{name}", self.folder));
        let left = locked(&self.left);
        let exact_keys = wanted.iter().all(|key| listed.contains(key))
            && listed.iter().all(|key| left.contains(key));
        self.find(|found| {
            found.is_ordered = !listed.is_empty() && listed.is_sorted();
            found.exact_keys = exact_keys;
        });
        Ok(())
    }

    pub(super) async fn copies(&self, first: &str, etag: &str) -> Asked<()> {
        let to = self.note("copy");
        let copy = |etag| self.store.copy(first, etag, &to, &self.meta);
        if self.may(|| copy(etag)).await?.is_err() {
            return Ok(());
        }
        let refused = is_held(&self.may(|| copy(WRONG)).await?);
        self.find(|found| {
            found.copy = true;
            found.copy_if_match = refused;
        });
        Ok(())
    }

    async fn delete_conditions(&self, key: &str, there: Said<Stored>) -> Asked<()> {
        let Ok(there) = there else {
            return Ok(());
        };
        let delete = |etag: &str| {
            let when = When::Is(etag.to_owned());
            let store = self.store;
            async move { store.delete_if(key, &when).await }
        };
        let said = self.may(|| delete(WRONG)).await?;
        if matches!(said, Err(ErrorKind::Denied)) {
            // Who may not remove anything cannot know; nor does it matter, until a person grants that right.
            return Ok(());
        }
        let mut is_held = is_held(&said);
        if is_held {
            let stayed = self.may(|| self.store.head(key)).await?.is_ok();
            let went = self.may(|| delete(&there.etag)).await?.is_ok();
            is_held = stayed && went;
        }
        self.find(|found| found.delete_if_match = Some(is_held));
        Ok(())
    }

    async fn batches(&self) -> Asked<()> {
        // What is removed, and what was never there.
        let keys = [self.note(ONE_OF_MANY), self.note("nothing")];
        let said = self.may(|| self.store.delete_many(&keys)).await?;
        let done =
            said.is_ok_and(|each| each.len() == keys.len() && each.iter().all(Result::is_ok));
        self.find(|found| found.delete_many = done);
        Ok(())
    }

    pub(super) async fn copied_part(&self, first: &str, etag: &str) -> Asked<()> {
        let key = self.note("parts");
        let Some(id) = self.begin(&key).await? else {
            return Ok(());
        };
        let range = 0..OTHER.len().min(16) as u64;
        let copied = self
            .may(|| {
                let (store, range) = (self.store, range.clone());
                store.copy_part(first, etag, range, &key, &id, 1)
            })
            .await?;
        self.find(|found| found.part_copy = copied.is_ok());
        if self.may(|| self.store.abort(&key, &id)).await?.is_ok() {
            self.has_ended(&id);
        }
        Ok(())
    }

    /// Asks for uploads by parts, over an object, so that conditions have something to be about.
    pub(super) async fn multipart(&self) -> Asked<()> {
        let key = self.note("whole");
        let (there, begun) = tokio::join!(
            self.may_put(&key, CONTENT, &When::Always),
            self.begin_with_part(&key)
        );
        let (Ok(there), Some((id, part))) = (there?, begun?) else {
            return Ok(());
        };
        let (parts, uploads) = tokio::join!(
            self.may(|| self.store.list_parts(&key, &id, 0)),
            self.may(|| self.store.list_uploads(&self.folder, None))
        );
        let list_parts = parts?.is_ok_and(|page| match &page.parts[..] {
            [only] => (only.number, &only.etag) == (1, &part.etag),
            _ => false,
        });
        let list_uploads = uploads?.is_ok_and(|page| page.uploads.iter().any(|open| open.id == id));
        self.find(|found| {
            found.list_parts = list_parts;
            found.list_uploads = list_uploads;
        });
        self.joined(&key, &there.etag, &id, &part).await
    }

    /// Asks under which conditions an upload ends that has one part, over an object with this ETag.
    async fn joined(&self, key: &str, etag: &str, id: &str, part: &Part) -> Asked<()> {
        let can = |found: &mut Features| found.multipart = true;
        let joined = self.join(key, id, part, &When::Absent).await?;
        if joined.is_ok() {
            self.find(can);
            return Ok(());
        }
        // Some stores know the one condition and not the other.
        let held = is_held(&joined) && {
            let wrong = When::Is(WRONG.to_owned());
            let joined = self.join(key, id, part, &wrong).await?;
            if joined.is_ok() {
                self.find(can);
                return Ok(());
            }
            is_held(&joined)
        };
        if held {
            let right = When::Is(etag.to_owned());
            if self.join(key, id, part, &right).await?.is_ok() {
                self.find(|found| {
                    found.complete_if = true;
                    found.multipart = true;
                });
                return Ok(());
            }
        }
        // Once more without conditions; the upload may have ended with the refusal.
        let Some((id, part)) = self.begin_with_part(key).await? else {
            return Ok(());
        };
        let joined = self.join(key, &id, &part, &When::Always).await?;
        self.find(|found| found.multipart = joined.is_ok());
        Ok(())
    }

    pub(super) async fn tags(&self) -> Asked<()> {
        let key = self.note("tagged");
        let tag = ("tidewatch", "probe");
        let body = Body::of(Bytes::from_static(CONTENT));
        let put = || self.store.put_tagged(&key, body.clone(), &self.meta, tag);
        if self.may(put).await?.is_err() {
            return Ok(());
        }
        let tags = match self.may(|| self.store.tags(&key)).await? {
            Ok(tags) => tags.iter().any(|(name, value)| (&**name, &**value) == tag),
            // Who may set tags may not always read them: then the put is believed.
            Err(kind) => kind == ErrorKind::Denied,
        };
        self.find(|found| found.tags = tags);
        Ok(())
    }

    fn find(&self, note: impl FnOnce(&mut Features)) {
        note(&mut locked(&self.found));
    }

    async fn begin_with_part(&self, key: &str) -> Asked<Option<(String, Part)>> {
        let Some(id) = self.begin(key).await? else {
            return Ok(None);
        };
        let body = Body::of(Bytes::from_static(CONTENT));
        let part = self.may(|| self.store.put_part(key, &id, 1, body.clone()));
        Ok(part.await?.ok().map(|part| (id, part)))
    }

    async fn join(&self, key: &str, id: &str, part: &Part, when: &When) -> Asked<Said<Stored>> {
        let (parts, crc64) = (std::slice::from_ref(part), Some(Crc64::of(CONTENT)));
        let joined = self.may(|| self.store.complete_if(key, id, parts, crc64, when));
        let joined = joined.await?;
        if joined.is_ok() {
            self.has_ended(id);
        }
        Ok(joined)
    }
}

/// What is under the key now.
fn keep(etag: &mut String, put: Said<Stored>) {
    if let Ok(stored) = put {
        *etag = stored.etag;
    }
}
