//! What an endpoint can do, found by asking it once.
//!
//! Many stores answer 200 to what they do not do: they take a condition and overwrite, take a checksum and compare
//! nothing, take metadata and drop it. So each question is asked in the way that tells: what must be refused is sent and
//! has to be refused, and what must work has to work.
//!
//! Writes only below `PREFIX.tidewatch/probe-<16 hex digits>/`, some thirty requests with bodies of a few bytes, and
//! removes all of it again, also after an error; an agent always uses the same digits, so that its next probe removes
//! what a crash has left of the last one, and what is older than a day of others'. A refusal is a finding, whatever its words. An error ends the probe if it is
//! everyone's: the line, the credentials, the bucket, a missing right to write. Requests whose answer was lost prove
//! nothing, and end it too.
//!
//! What this does not protect against: a store that changes; and one that answers differently for large objects.

mod former;
mod left;

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;

use crate::base::digest::{Crc64, Sha256};
use crate::store::features::{Checksum, Features};
use crate::store::key::{KeyMap, PROBE};
use crate::store::{Body, Effect, Error, ErrorKind, Meta, Part, Result, Store, Stored, When};

/// What the objects hold.
const CONTENT: &[u8] = b"tidewatch asks what this store can do; may be removed\n";

/// What they hold after a change.
const OTHER: &[u8] = b"tidewatch asks what this store can do; changed\n";

/// What they hold after a change that must not happen.
const NEVER: &[u8] = b"tidewatch asks what this store can do; overwritten\n";

/// An ETag that no object has: the MD5 of nothing.
const WRONG: &str = "d41d8cd98f00b204e9800998ecf8427e";

/// The first key, which every question may lean on.
const FIRST: &str = "a-b";

/// Keys whose order tells the order of bytes from others: of the alphabet, of folders, of file names. The last two are one
/// letter, written in two ways, which some file systems take for the same.
const NAMES: [&str; 6] = ["B", FIRST, "a/b", VICTIM, "a\u{308}", "\u{e4}"];

/// The key that is removed under conditions.
const VICTIM: &str = "a0";

/// How long the objects of a probe are tried to be removed.
const CLEANING: Duration = Duration::from_secs(10);

/// The checksums, from the best to none.
const CHECKSUMS: [Checksum; 4] = [
    Checksum::Crc64,
    Checksum::Crc32,
    Checksum::Md5,
    Checksum::None,
];

/// Asks `store` what it can do, below the prefix of `keys`; gives up when `until` comes.
///
/// `id` names the probe's own folder. What the store has learned is changed while it is asked, and put back: a store that
/// is in use is asked through a handle of its own.
pub async fn probe(
    store: &dyn Store,
    keys: &KeyMap,
    id: u64,
    until: impl Future<Output = ()> + Send,
) -> Result<Features> {
    let before = *store.features();
    let mut asking = Asking {
        store,
        folder: keys.reserved(&format!("{PROBE}{id:016x}/")),
        meta: meta(),
        found: Features::default(),
        left: Vec::new(),
        uploads: Vec::new(),
        is_upload_lost: false,
    };
    let asked = tokio::select! {
        biased;
        asked = asking.everything() => asked,
        () = until => {
            let why = "it was not done in time";
            Err(Error::new(ErrorKind::Network, "the probe", "", Effect::Possible, why))
        }
    };
    // What cannot be removed now is removed by the next probe.
    let (all, folder) = (keys.reserved(PROBE), asking.folder.clone());
    let former = async {
        if asked.is_ok() {
            former::clear(store, &all, &folder).await;
        }
    };
    let cleaning = async { tokio::join!(asking.clean_up(), former) };
    let _ = tokio::time::timeout(CLEANING, cleaning).await;
    let found = asking.found;
    store.learn(before);
    asked.map(|()| Features {
        is_known: true,
        ..found
    })
}

/// The names and shapes of what a file's object carries.
fn meta() -> Meta {
    let user = [
        ("gid", "0".to_owned()),
        ("mode", "0644".to_owned()),
        ("mtime", "1764000000.123456789".to_owned()),
        ("sha256", Sha256::of(CONTENT).to_hex()),
        ("uid", "1000".to_owned()),
    ];
    Meta {
        user: user.map(|(name, value)| (name.into(), value)).to_vec(),
        content_type: Some("text/plain".to_owned()),
        is_own: true,
        ..Meta::default()
    }
}

/// What came of a question that a store may refuse: done, or why not.
type Said<T> = std::result::Result<T, ErrorKind>;

/// Returns true if it was the condition that was refused, rather than the having of one.
fn is_held<T>(said: &Said<T>) -> bool {
    matches!(said, Err(ErrorKind::Precondition | ErrorKind::Conflict))
}

/// A store that is being asked.
struct Asking<'a> {
    store: &'a dyn Store,
    folder: String,
    meta: Meta,
    found: Features,
    /// Keys under which there may be an object; noted before the request is sent.
    left: Vec<String>,
    /// Open uploads, by key and id.
    uploads: Vec<(String, String)>,
    /// An upload may have been begun whose id was never heard.
    is_upload_lost: bool,
}

impl Asking<'_> {
    async fn everything(&mut self) -> Result<()> {
        let first = self.note(FIRST);
        let mut etag = self.checksum(&first).await?;
        self.verifies().await?;
        self.put_conditions(&first, &mut etag).await?;
        self.metadata(&first).await?;
        self.listing().await?;
        self.copies(&first, &etag).await?;
        self.delete_conditions().await?;
        self.copied_part(&first, &etag).await?;
        self.multipart(&first, &etag).await?;
        self.tags().await?;
        self.batches().await
    }

    /// Finds the best checksum that is taken, and returns the first object's ETag.
    async fn checksum(&mut self, first: &str) -> Result<String> {
        let mut kinds = CHECKSUMS.into_iter();
        loop {
            self.learn(kinds.next().unwrap_or(Checksum::None));
            let error = match self.put(first, CONTENT, &When::Always).await {
                Ok(stored) => {
                    // The request may have gone on without what was refused.
                    self.learn(self.store.features().checksum);
                    return Ok(stored.etag);
                }
                Err(error) => error,
            };
            let may_mind = matches!(
                error.kind,
                ErrorKind::Invalid | ErrorKind::Unsupported | ErrorKind::Corrupt
            );
            if self.found.checksum == Checksum::None || !may_mind {
                return Err(error);
            }
        }
    }

    async fn verifies(&mut self) -> Result<()> {
        if self.found.checksum == Checksum::None {
            return Ok(());
        }
        let key = self.note("wrong");
        let wrong = Body::claiming(Bytes::from_static(CONTENT), Bytes::from_static(OTHER));
        let said = self.may(|| self.store.put(&key, wrong.clone(), &self.meta));
        self.found.verifies = match said.await {
            Ok(said) => matches!(said, Err(ErrorKind::Corrupt | ErrorKind::Invalid)),
            // Found out by ourselves, when all was stored.
            Err(error) if error.kind == ErrorKind::Corrupt => false,
            Err(error) => return Err(error),
        };
        self.learn(self.found.checksum);
        Ok(())
    }

    async fn put_conditions(&mut self, first: &str, etag: &mut String) -> Result<()> {
        let fresh = self.note(NAMES[0]);
        let made = self.may_put(&fresh, CONTENT, &When::Absent).await?;
        if made.is_err() {
            self.may_put(&fresh, CONTENT, &When::Always).await?.ok();
        }
        let over = self.may_put(first, NEVER, &When::Absent).await?;
        self.found.put_if_absent = made.is_ok() && is_held(&over);
        keep(etag, over);

        let wrong = When::Is(WRONG.to_owned());
        let over = self.may_put(first, NEVER, &wrong).await?;
        let is_refused = is_held(&over);
        keep(etag, over);
        if is_refused {
            let right = When::Is(etag.clone());
            // Works only if the one before has changed nothing.
            let over = self.may_put(first, OTHER, &right).await?;
            self.found.put_if_match = over.is_ok();
            keep(etag, over);
        }
        Ok(())
    }

    async fn metadata(&mut self, first: &str) -> Result<()> {
        let seen = self.may(|| self.store.head(first)).await?;
        // Some stores add names of their own.
        self.found.metadata = seen.is_ok_and(|object| {
            self.meta.user.iter().all(|(name, value)| {
                let mut user = object.user.iter();
                user.any(|(other, kept)| name == other && value == kept)
            })
        });
        Ok(())
    }

    async fn listing(&mut self) -> Result<()> {
        let mut wanted = Vec::new();
        for name in NAMES {
            let key = self.note(name);
            if !NAMES[..2].contains(&name) {
                self.may_put(&key, CONTENT, &When::Always).await?.ok();
            }
            wanted.push(key);
        }
        let page = self.may(|| self.store.list(&self.folder, None)).await?;
        let listed = page.map(|page| page.objects).unwrap_or_default();
        let listed: Vec<_> = listed.into_iter().map(|object| object.key).collect();
        self.found.is_ordered = !listed.is_empty() && listed.is_sorted();
        self.found.exact_keys = wanted.iter().all(|key| listed.contains(key))
            && listed.iter().all(|key| self.left.contains(key));
        Ok(())
    }

    async fn copies(&mut self, first: &str, etag: &str) -> Result<()> {
        let to = self.note("copy");
        let copy = |etag| self.store.copy(first, etag, &to, &self.meta);
        if self.may(|| copy(etag)).await?.is_err() {
            return Ok(());
        }
        let refused = is_held(&self.may(|| copy(WRONG)).await?);
        self.found.copy = true;
        self.found.copy_if_match = refused;
        Ok(())
    }

    async fn delete_conditions(&mut self) -> Result<()> {
        let key = self.note(VICTIM);
        let Ok(there) = self.may(|| self.store.head(&key)).await? else {
            return Ok(());
        };
        let delete = |etag: &str| {
            let when = When::Is(etag.to_owned());
            let (store, key) = (self.store, &key);
            async move { store.delete_if(key, &when).await }
        };
        let said = self.may(|| delete(WRONG)).await?;
        if matches!(said, Err(ErrorKind::Denied)) {
            // Who may not remove anything cannot know; nor does it matter, until a person grants that right.
            return Ok(());
        }
        let mut is_held = is_held(&said);
        if is_held {
            let stayed = self.may(|| self.store.head(&key)).await?.is_ok();
            let went = self.may(|| delete(&there.etag)).await?.is_ok();
            is_held = stayed && went;
        }
        self.found.delete_if_match = Some(is_held);
        Ok(())
    }

    async fn copied_part(&mut self, first: &str, etag: &str) -> Result<()> {
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
        self.found.part_copy = copied.is_ok();
        if self.may(|| self.store.abort(&key, &id)).await?.is_ok() {
            self.uploads.retain(|(_, open)| *open != id);
        }
        Ok(())
    }

    /// Asks for uploads by parts, over the first object, so that conditions have something to be about.
    async fn multipart(&mut self, first: &str, etag: &str) -> Result<()> {
        let Some((id, part)) = self.begin_with_part(first).await? else {
            return Ok(());
        };
        let page = self.may(|| self.store.list_parts(first, &id, 0)).await?;
        self.found.list_parts = page.is_ok_and(|page| match &page.parts[..] {
            [only] => (only.number, &only.etag) == (1, &part.etag),
            _ => false,
        });
        let page = self.may(|| self.store.list_uploads(&self.folder, None));
        let page = page.await?;
        self.found.list_uploads =
            page.is_ok_and(|page| page.uploads.iter().any(|open| open.id == id));

        let joined = self.join(first, &id, &part, &When::Absent).await?;
        if joined.is_ok() {
            self.found.multipart = true;
            return Ok(());
        }
        // Some stores know the one condition and not the other.
        let held = is_held(&joined) && {
            let wrong = When::Is(WRONG.to_owned());
            let joined = self.join(first, &id, &part, &wrong).await?;
            if joined.is_ok() {
                self.found.multipart = true;
                return Ok(());
            }
            is_held(&joined)
        };
        if held {
            let right = When::Is(etag.to_owned());
            if self.join(first, &id, &part, &right).await?.is_ok() {
                self.found.complete_if = true;
                self.found.multipart = true;
                return Ok(());
            }
        }
        // Once more without conditions; the upload may have ended with the refusal.
        let Some((id, part)) = self.begin_with_part(first).await? else {
            return Ok(());
        };
        let joined = self.join(first, &id, &part, &When::Always).await?;
        self.found.multipart = joined.is_ok();
        Ok(())
    }

    async fn tags(&mut self) -> Result<()> {
        let key = self.note("tagged");
        let tag = ("tidewatch", "probe");
        let body = Body::of(Bytes::from_static(CONTENT));
        let put = || self.store.put_tagged(&key, body.clone(), &self.meta, tag);
        if self.may(put).await?.is_err() {
            return Ok(());
        }
        self.found.tags = match self.may(|| self.store.tags(&key)).await? {
            Ok(tags) => tags.iter().any(|(name, value)| (&**name, &**value) == tag),
            // Who may set tags may not always read them: then the put is believed.
            Err(kind) => kind == ErrorKind::Denied,
        };
        Ok(())
    }

    async fn batches(&mut self) -> Result<()> {
        // What is removed, and what was never there.
        let keys = [self.note(NAMES[2]), self.note("nothing")];
        let said = self.may(|| self.store.delete_many(&keys)).await?;
        self.found.delete_many =
            said.is_ok_and(|each| each.len() == keys.len() && each.iter().all(Result::is_ok));
        Ok(())
    }

    fn learn(&mut self, checksum: Checksum) {
        self.found.checksum = checksum;
        self.store.learn(self.found);
    }

    async fn put(&self, key: &str, bytes: &'static [u8], when: &When) -> Result<Stored> {
        let body = Body::of(Bytes::from_static(bytes));
        self.store.put_if(key, body, &self.meta, when).await
    }

    async fn may_put(&self, key: &str, bytes: &'static [u8], when: &When) -> Result<Said<Stored>> {
        self.may(|| self.put(key, bytes, when)).await
    }

    async fn begin_with_part(&mut self, key: &str) -> Result<Option<(String, Part)>> {
        let Some(id) = self.begin(key).await? else {
            return Ok(None);
        };
        let body = Body::of(Bytes::from_static(CONTENT));
        let part = self.may(|| self.store.put_part(key, &id, 1, body.clone()));
        Ok(part.await?.ok().map(|part| (id, part)))
    }

    async fn join(
        &mut self,
        key: &str,
        id: &str,
        part: &Part,
        when: &When,
    ) -> Result<Said<Stored>> {
        let (parts, crc64) = (std::slice::from_ref(part), Some(Crc64::of(CONTENT)));
        let joined = self.may(|| self.store.complete_if(key, id, parts, crc64, when));
        let joined = joined.await?;
        if joined.is_ok() {
            self.uploads.retain(|(_, open)| open != id);
        }
        Ok(joined)
    }

    /// Asks what a store may refuse.
    ///
    /// A line that breaks, or a server that stumbles, at this question only, twice, while it answers another one between,
    /// is a refusal too: some servers have no better words for what they do not know.
    async fn may<T, F>(&self, ask: impl Fn() -> F) -> Result<Said<T>>
    where
        F: Future<Output = Result<T>>,
    {
        let mut is_again = false;
        loop {
            let error = match ask().await {
                Ok(done) => return Ok(Ok(done)),
                Err(error) => error,
            };
            match error.kind {
                ErrorKind::Barred | ErrorKind::Full => return Err(error),
                ErrorKind::Network | ErrorKind::Busy => {
                    if is_throttled(&error) || !self.is_answering().await {
                        return Err(error);
                    }
                    if is_again {
                        return Ok(Err(error.kind));
                    }
                    is_again = true;
                }
                // An earlier attempt may have done it, and this one have met that.
                _ if error.effect == Effect::Possible => return Err(error),
                kind => return Ok(Err(kind)),
            }
        }
    }

    async fn is_answering(&self) -> bool {
        let key = format!("{}{FIRST}", self.folder);
        let seen = self.store.head(&key).await;
        !seen.is_err_and(|error| {
            matches!(
                error.kind,
                ErrorKind::Network | ErrorKind::Busy | ErrorKind::Barred
            )
        })
    }
}

/// What is under the key now.
fn keep(etag: &mut String, put: Said<Stored>) {
    if let Ok(stored) = put {
        *etag = stored.etag;
    }
}

/// Returns true if the store only asks for patience.
fn is_throttled(error: &Error) -> bool {
    error.kind == ErrorKind::Busy
        && !matches!(
            &*error.code,
            "" | "InternalError" | "InternalFailure" | "NotImplemented"
        )
}
