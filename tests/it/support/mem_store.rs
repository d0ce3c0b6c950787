//! A bucket in memory, as strict as S3, without tasks, and without time but what a body waits for its share of bandwidth.
//!
//! Checks what S3 checks: checksums, lengths, key and metadata limits, order, size and ETags of parts, conditions. A
//! handle is cheap to clone; all clones are one bucket. Habits of lesser stores can be switched on.

use std::collections::BTreeMap;
use std::ops::{Bound, Range};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use md5::{Digest as _, Md5};
use tidewatch::base::clock::Clock;
use tidewatch::base::digest::{Crc64, Sha256};
use tidewatch::store::features::{Checksum, Features};
use tidewatch::store::key::MAX_KEY_BYTES;
use tidewatch::store::{
    Body, Effect, Error, ErrorKind, Listed, ListedPart, ListedUpload, MAX_BATCH, MAX_SINGLE, Meta,
    Object, Page, Part, PartPage, Removed, Result, Store, Stored, UploadPage, UploadToken, When,
    Which,
};

/// Keys on one page of a listing.
pub const PAGE: usize = 1000;

const MIN_PART: usize = 5 << 20;

/// The bucket.
#[derive(Clone, Debug, Default)]
pub struct MemStore {
    inner: Arc<Mutex<Inner>>,
}

/// An object as it is stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemObject {
    /// Its content.
    pub bytes: Bytes,
    /// MD5, or MD5 of the parts' MD5s and their number.
    pub etag: String,
    /// What it carries.
    pub user: Vec<(String, String)>,
    /// Its MIME type.
    pub content_type: Option<String>,
    /// Its version, if the bucket keeps versions.
    pub version_id: Option<String>,
    /// When it was stored, by the store's clock, nanoseconds.
    pub modified_ns: Option<i64>,
}

/// In which way a store is worse than S3.
#[derive(Clone, Copy, Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "a list of what can be missing"
)]
pub struct Habits {
    /// A copy's condition is not looked at.
    pub ignores_copy_conditions: bool,
    /// User metadata is dropped.
    pub drops_metadata: bool,
    /// Copies are refused.
    pub refuses_copies: bool,
    /// Conditions of writes and removals are not looked at.
    pub ignores_conditions: bool,
    /// The parts of open uploads cannot be listed.
    pub lists_no_parts: bool,
    /// Open uploads cannot be listed.
    pub lists_no_uploads: bool,
    /// Several keys cannot be removed at once.
    pub refuses_batches: bool,
    /// Uploads by parts are refused.
    pub refuses_multipart: bool,
    /// The best checksum that is taken; requests with a better one are refused.
    pub checksum: Checksum,
    /// Checksums are taken and compared with nothing.
    pub ignores_checksums: bool,
    /// Listings are in the order of upper-case letters after lower-case ones, as nobody's bytes are.
    pub lists_oddly: bool,
    /// ETags of what is joined are no hashes, as where a key of the key service encrypts it.
    pub opaque_etags: bool,
    /// Letters with marks that are written as two characters become one, as on some file systems.
    pub composes_keys: bool,
}

impl Habits {
    /// The key under which something is stored and found.
    fn key(&self, key: &str) -> String {
        if self.composes_keys {
            key.replace("a\u{308}", "\u{e4}")
        } else {
            key.to_owned()
        }
    }
}

/// What was asked so far.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Requests by S3's name, refused ones too.
    pub requests: BTreeMap<&'static str, u64>,
    /// Requests about the agent's catalog, which are in none of the other numbers.
    pub catalog: u64,
    /// Bytes of bodies that came in.
    pub bytes_in: u64,
    /// Bytes of bodies that went out.
    pub bytes_out: u64,
}

impl Counts {
    /// Returns how often one operation was asked for.
    pub fn of(&self, operation: &str) -> u64 {
        self.requests.get(operation).copied().unwrap_or(0)
    }

    /// Returns how many requests there were.
    pub fn total(&self) -> u64 {
        self.requests.values().sum()
    }
}

#[derive(Debug, Default)]
struct Inner {
    objects: BTreeMap<String, MemObject>,
    uploads: BTreeMap<String, Upload>,
    uploads_made: u64,
    counts: Counts,
    habits: Habits,
    features: Option<Arc<Features>>,
    /// The store's own clock, if it is to have one.
    clock: Option<Clock>,
    /// Every object that was ever stored under a key, and `None` for each removal; only if it is asked for.
    history: Option<Vec<(String, Option<Bytes>)>>,
    /// Every content that was ever stored, by its version; only of a bucket that keeps them.
    versions: Option<BTreeMap<String, (String, MemObject)>>,
}

#[derive(Debug)]
struct Upload {
    key: String,
    meta: Meta,
    parts: BTreeMap<u32, (Bytes, String)>,
    begun_ns: Option<i64>,
}

impl MemStore {
    /// Makes an empty bucket with the habits of a lesser store.
    pub fn with_habits(habits: Habits) -> Self {
        let store = Self::default();
        store.lock().habits = habits;
        store
    }

    /// Gives the store a clock, so that it tells when an object was stored and when it was asked.
    pub fn set_clock(&self, clock: Clock) {
        self.lock().clock = Some(clock);
    }

    /// Returns everything that is stored, but the agent's catalog.
    pub fn objects(&self) -> BTreeMap<String, MemObject> {
        let mut objects = self.lock().objects.clone();
        objects.retain(|key, _| !key.contains(CATALOG));
        objects
    }

    /// Returns the links of the catalog, by key.
    pub fn catalog(&self) -> BTreeMap<String, MemObject> {
        let mut objects = self.lock().objects.clone();
        objects.retain(|key, _| key.contains(CATALOG));
        objects
    }

    /// Returns the id and key of each multipart upload that was neither completed nor given up.
    pub fn open_uploads(&self) -> Vec<(String, String)> {
        let inner = self.lock();
        let uploads = inner.uploads.iter();
        uploads
            .map(|(id, upload)| (id.clone(), upload.key.clone()))
            .collect()
    }

    /// Returns what was asked so far.
    pub fn counts(&self) -> Counts {
        self.lock().counts.clone()
    }

    /// Forgets what was asked so far.
    pub fn reset_counts(&self) {
        self.lock().counts = Counts::default();
    }

    /// Keeps from now on what each key held, in the order in which it came to hold it.
    pub fn keep_history(&self) {
        self.lock().history.get_or_insert_default();
    }

    /// Returns what each key held since [`MemStore::keep_history`], in order; `None` for a removal.
    pub fn history(&self) -> Vec<(String, Option<Bytes>)> {
        self.lock().history.clone().unwrap_or_default()
    }

    /// Keeps every version from now on.
    pub fn keep_versions(&self) {
        self.lock().versions.get_or_insert_default();
    }

    /// Stores an object as another tool would, uncounted and without metadata.
    pub fn plant(&self, key: &str, bytes: &[u8]) {
        let mut inner = self.lock();
        let object = MemObject {
            bytes: Bytes::copy_from_slice(bytes),
            etag: md5_hex(bytes),
            user: Vec::new(),
            content_type: None,
            version_id: None,
            modified_ns: inner.date_ns(),
        };
        inner.objects.insert(key.to_owned(), object);
    }

    /// Removes an object as another tool would, uncounted.
    pub fn uproot(&self, key: &str) {
        self.lock().objects.remove(key);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, operation: &'static str) -> MutexGuard<'_, Inner> {
        let mut inner = self.lock();
        *inner.counts.requests.entry(operation).or_default() += 1;
        inner
    }

    /// Counts a request about `key`; those about the catalog have a count of their own.
    fn count_of(&self, operation: &'static str, key: &str) -> MutexGuard<'_, Inner> {
        if !key.contains(CATALOG) {
            return self.count(operation);
        }
        let mut inner = self.lock();
        inner.counts.catalog += 1;
        inner
    }
}

/// What the keys of the catalog have in them.
const CATALOG: &str = ".tidewatch/catalog/";

/// Takes a body as slowly as its tap hands it out.
async fn take_in(body: &Body) {
    let Some(tap) = &body.tap else { return };
    let mut flow = tap.open();
    let mut left = body.bytes.len();
    while left > 0 {
        // As large as the real store's pieces.
        let wanted = left.min(64 << 10);
        left -= std::future::poll_fn(|cx| flow.poll_take(cx, wanted)).await;
    }
}

/// What is refused is refused before it has any effect.
fn refusal(operation: &'static str, key: &str, kind: ErrorKind, message: &str) -> Error {
    // The store's word comes first, as S3 says it.
    let code = message.split(':').next().unwrap_or_default();
    Error {
        code: code.to_owned(),
        ..Error::new(kind, operation, key, Effect::None, message)
    }
}

fn md5_hex(bytes: &[u8]) -> String {
    hex(&Md5::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        use std::fmt::Write as _;
        let _ = write!(text, "{byte:02x}");
        text
    })
}

impl Inner {
    /// The store's clock, in whole seconds, as HTTP tells it.
    fn date_ns(&self) -> Option<i64> {
        const SECOND: i64 = 1_000_000_000;
        let now_ns = self.clock.as_ref()?.now().wall_ns;
        Some(now_ns.div_euclid(SECOND) * SECOND)
    }

    /// Refuses a change of `key` that `when` does not allow.
    fn allows(&self, operation: &'static str, key: &str, when: &When) -> Result<()> {
        if self.habits.ignores_conditions {
            return Ok(());
        }
        let there = self.objects.get(key).map(|object| object.etag.as_str());
        let no = |kind, word| Err(refusal(operation, key, kind, word));
        match (when, there) {
            (When::Always, _) | (When::Absent, None) => Ok(()),
            (When::Is(etag), Some(there)) if etag == there => Ok(()),
            // A removal of what is not there has nothing to compare.
            (When::Is(_), None) if operation == "DeleteObject" => Ok(()),
            (When::Is(_), None) => no(ErrorKind::NotFound, "NoSuchKey"),
            (When::Absent | When::Is(_), Some(_)) => {
                no(ErrorKind::Precondition, "PreconditionFailed")
            }
        }
    }

    fn receive(&mut self, operation: &'static str, key: &str, body: &Body) -> Result<()> {
        let no = |kind, message| Err(refusal(operation, key, kind, message));
        if !key.contains(CATALOG) {
            self.counts.bytes_in += body.bytes.len() as u64;
        }
        if body.bytes.len() as u64 > MAX_SINGLE {
            return no(ErrorKind::TooLarge, "EntityTooLarge");
        }
        let sent = match &self.features {
            Some(features) => features.checksum,
            None => self.habits.checksum,
        };
        if (sent as u8) < self.habits.checksum as u8 {
            return no(
                ErrorKind::Invalid,
                "InvalidArgument: Unsupported header 'x-amz-checksum'",
            );
        }
        // Only the CRC64NVME comes with the body; of the others what is claimed tells whether they would be right.
        let is_wrong = match sent {
            Checksum::Crc64 => Crc64::of(&body.bytes) != body.crc64,
            Checksum::Crc32 | Checksum::Md5 => body.claims() != &body.bytes[..],
            Checksum::None => false,
        };
        if is_wrong && !self.habits.ignores_checksums {
            return no(
                ErrorKind::Corrupt,
                "BadDigest: the checksum is not the body's",
            );
        }
        if body
            .sha256
            .is_some_and(|sha256| sha256 != Sha256::of(&body.bytes))
        {
            return no(ErrorKind::Corrupt, "XAmzContentSHA256Mismatch");
        }
        Ok(())
    }

    fn accept(operation: &'static str, key: &str, meta: &Meta) -> Result<()> {
        let no = |message| Err(refusal(operation, key, ErrorKind::Invalid, message));
        if key.is_empty() || key.len() > MAX_KEY_BYTES {
            return no("KeyTooLongError");
        }
        let size: usize = meta
            .user
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        if size > 2048 {
            return no("MetadataTooLarge");
        }
        let printable = |text: &str| text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        if !meta.user.iter().all(|(name, value)| {
            printable(name) && printable(value) && name.to_ascii_lowercase() == *name
        }) {
            return no("InvalidArgument: metadata is not lower-case names and printable ASCII");
        }
        Ok(())
    }

    fn store(&mut self, key: &str, bytes: Bytes, etag: String, meta: &Meta) -> Stored {
        let user = if self.habits.drops_metadata {
            Vec::new()
        } else {
            let mut user: Vec<_> = meta
                .user
                .iter()
                .map(|(name, value)| (name.clone().into_owned(), value.clone()))
                .collect();
            user.sort();
            user
        };
        if let Some(history) = &mut self.history {
            history.push((key.to_owned(), Some(bytes.clone())));
        }
        let object = MemObject {
            bytes,
            etag: etag.clone(),
            user,
            content_type: meta.content_type.clone(),
            version_id: self.versions.as_ref().map(|all| format!("v{}", all.len())),
            modified_ns: self.date_ns(),
        };
        let version_id = object.version_id.clone();
        if let (Some(versions), Some(id)) = (&mut self.versions, &version_id) {
            versions.insert(id.clone(), (key.to_owned(), object.clone()));
        }
        self.objects.insert(key.to_owned(), object);
        Stored {
            is_outstanding: false,
            etag,
            version_id,
        }
    }

    fn remove(&mut self, key: &str) {
        self.objects.remove(key);
        if let Some(history) = &mut self.history {
            history.push((key.to_owned(), None));
        }
    }

    fn find(&self, operation: &'static str, key: &str, which: &Which) -> Result<(Object, Bytes)> {
        let none = |word| refusal(operation, key, ErrorKind::NotFound, word);
        let object = match which {
            Which::Version(id) => {
                let version = self.versions.as_ref().and_then(|all| all.get(id));
                let version = version.filter(|(of, _)| of == key);
                &version.ok_or_else(|| none("NoSuchVersion"))?.1
            }
            Which::Current | Which::Is(_) => {
                self.objects.get(key).ok_or_else(|| none("NoSuchKey"))?
            }
        };
        if which.etag().is_some_and(|etag| etag != object.etag) {
            let kind = ErrorKind::Precondition;
            return Err(refusal(operation, key, kind, "PreconditionFailed"));
        }
        let seen = Object {
            size: object.bytes.len() as u64,
            etag: object.etag.clone(),
            version_id: object.version_id.clone(),
            user: object.user.clone(),
            crc64: None,
            is_keyed: false,
            modified_ns: object.modified_ns,
            date_ns: self.date_ns(),
            sum: None,
        };
        Ok((seen, object.bytes.clone()))
    }

    /// A page of a listing in the order of nobody's bytes; the token is how many there were before it.
    fn odd_page(&self, prefix: &str, token: Option<&str>) -> Page {
        let mut all: Vec<_> = self
            .objects
            .iter()
            .filter(|(key, _)| key.starts_with(prefix))
            .map(|(key, object)| Listed {
                key: key.clone(),
                size: object.bytes.len() as u64,
                etag: object.etag.clone(),
            })
            .collect();
        let swapped = |key: &str| -> Vec<u8> {
            let bytes = key.bytes();
            bytes
                .map(|byte| {
                    if byte.is_ascii_alphabetic() {
                        byte ^ 32
                    } else {
                        byte
                    }
                })
                .collect()
        };
        all.sort_by_key(|listed| swapped(&listed.key));
        let begin = token.map_or(0, |token| token.parse().unwrap());
        let end = (begin + PAGE).min(all.len());
        Page {
            next: (end < all.len()).then(|| end.to_string()),
            objects: all.drain(begin..end).collect(),
        }
    }

    /// The source of a copy, if its ETag is still `etag`.
    fn source(&self, operation: &'static str, from: &str, etag: &str) -> Result<Bytes> {
        if self.habits.refuses_copies {
            return Err(refusal(
                operation,
                from,
                ErrorKind::Unsupported,
                "NotImplemented",
            ));
        }
        let (object, bytes) = self.find(operation, from, &Which::Current)?;
        if object.etag != etag && !self.habits.ignores_copy_conditions {
            let message = "PreconditionFailed: the source has another ETag";
            return Err(refusal(operation, from, ErrorKind::Precondition, message));
        }
        Ok(bytes)
    }

    fn take_part(
        &mut self,
        operation: &'static str,
        (key, upload, number): (&str, &str, u32),
        bytes: Bytes,
    ) -> Result<String> {
        let found = self
            .uploads
            .get_mut(upload)
            .filter(|upload| upload.key == key);
        let Some(upload) = found else {
            return Err(refusal(operation, key, ErrorKind::NotFound, "NoSuchUpload"));
        };
        if !(1..=10_000).contains(&number) {
            let message = "InvalidArgument: part numbers are from 1 to 10,000";
            return Err(refusal(operation, key, ErrorKind::Invalid, message));
        }
        let etag = md5_hex(&bytes);
        upload.parts.insert(number, (bytes, etag.clone()));
        Ok(etag)
    }

    /// Checks the parts of a finished upload and returns the whole and its ETag.
    fn join(&self, key: &str, upload: &str, parts: &[Part]) -> Result<(Bytes, String)> {
        let no = |kind, message| Err(refusal("CompleteMultipartUpload", key, kind, message));
        let Some(upload) = self.uploads.get(upload).filter(|upload| upload.key == key) else {
            return no(ErrorKind::NotFound, "NoSuchUpload");
        };
        if parts.is_empty() {
            return no(ErrorKind::Invalid, "MalformedXML: no part is named");
        }
        if parts.windows(2).any(|two| two[0].number >= two[1].number) {
            return no(ErrorKind::Invalid, "InvalidPartOrder");
        }
        let mut whole = Vec::new();
        let mut digests = Md5::new();
        for (at, part) in parts.iter().enumerate() {
            let Some((bytes, etag)) = upload.parts.get(&part.number) else {
                return no(ErrorKind::Invalid, "InvalidPart: it was never stored");
            };
            if *etag != part.etag {
                return no(ErrorKind::Invalid, "InvalidPart: its ETag is another");
            }
            if part.crc64.is_some_and(|crc64| crc64 != Crc64::of(bytes)) {
                return no(ErrorKind::Invalid, "InvalidPart: its checksum is another");
            }
            if at + 1 < parts.len() && bytes.len() < MIN_PART {
                return no(ErrorKind::Invalid, "EntityTooSmall");
            }
            whole.extend_from_slice(bytes);
            digests.update(Md5::digest(bytes));
        }
        let etag = format!("{}-{}", hex(&digests.finalize()), parts.len());
        Ok((whole.into(), etag))
    }
}

#[async_trait]
impl Store for MemStore {
    async fn check(&self) -> Result<()> {
        drop(self.count("HeadBucket"));
        Ok(())
    }

    fn features(&self) -> Arc<Features> {
        let inner = self.lock();
        let habits = inner.habits;
        inner.features.clone().unwrap_or_else(|| {
            Arc::new(Features {
                put_if_absent: !habits.ignores_conditions,
                put_if_match: !habits.ignores_conditions,
                complete_if: !habits.ignores_conditions && !habits.refuses_multipart,
                delete_if_match: Some(!habits.ignores_conditions),
                copy: !habits.refuses_copies,
                copy_if_match: !habits.refuses_copies && !habits.ignores_copy_conditions,
                part_copy: !habits.refuses_copies && !habits.refuses_multipart,
                list_parts: !habits.lists_no_parts && !habits.refuses_multipart,
                list_uploads: !habits.lists_no_uploads && !habits.refuses_multipart,
                multipart: !habits.refuses_multipart,
                delete_many: !habits.refuses_batches,
                metadata: !habits.drops_metadata,
                checksum: habits.checksum,
                verifies: habits.checksum != Checksum::None && !habits.ignores_checksums,
                is_ordered: !habits.lists_oddly,
                exact_keys: !habits.composes_keys,
                tags: false,
                ..Features::ALL
            })
        })
    }

    fn learn(&self, features: Features) {
        self.lock().features = Some(Arc::new(features));
    }

    async fn put_if(&self, key: &str, body: Body, meta: &Meta, when: &When) -> Result<Stored> {
        take_in(&body).await;
        let mut inner = self.count_of("PutObject", key);
        let key = &*inner.habits.key(key);
        inner.receive("PutObject", key, &body)?;
        Inner::accept("PutObject", key, meta)?;
        inner.allows("PutObject", key, when)?;
        let etag = md5_hex(&body.bytes);
        // Copied: a pooled buffer would never come back to its pool.
        let bytes = Bytes::copy_from_slice(&body.bytes);
        Ok(inner.store(key, bytes, etag, meta))
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<(Object, Bytes)> {
        let (mut object, bytes) = self.get_of(key, &Which::Current, range).await?;
        object.crc64 = None;
        Ok((object, bytes))
    }

    async fn get_of(
        &self,
        key: &str,
        which: &Which,
        range: Option<Range<u64>>,
    ) -> Result<(Object, Bytes)> {
        let mut inner = self.count_of("GetObject", key);
        let key = &*inner.habits.key(key);
        let (mut object, mut bytes) = inner.find("GetObject", key, which)?;
        object.crc64 =
            (range.is_none() && !inner.habits.ignores_checksums).then(|| Crc64::of(&bytes));
        if let Some(range) = range {
            if range.is_empty() {
                return Ok((object, Bytes::new()));
            }
            if range.start >= object.size {
                return Err(refusal(
                    "GetObject",
                    key,
                    ErrorKind::Invalid,
                    "InvalidRange",
                ));
            }
            bytes = bytes.slice(range.start as usize..range.end.min(object.size) as usize);
        }
        inner.counts.bytes_out += bytes.len() as u64;
        Ok((object, bytes))
    }

    async fn head(&self, key: &str) -> Result<Object> {
        let inner = self.count_of("HeadObject", key);
        let key = &*inner.habits.key(key);
        Ok(inner.find("HeadObject", key, &Which::Current)?.0)
    }

    async fn head_of(&self, key: &str, which: &Which) -> Result<Object> {
        let inner = self.count_of("HeadObject", key);
        let key = &*inner.habits.key(key);
        let (mut object, bytes) = inner.find("HeadObject", key, which)?;
        object.crc64 = (!inner.habits.ignores_checksums).then(|| Crc64::of(&bytes));
        Ok(object)
    }

    async fn list(&self, prefix: &str, token: Option<String>) -> Result<Page> {
        let inner = self.count_of("ListObjectsV2", prefix);
        if inner.habits.lists_oddly {
            return Ok(inner.odd_page(prefix, token.as_deref()));
        }
        let start = match &token {
            Some(last) => Bound::Excluded(last.as_str()),
            None => Bound::Included(prefix),
        };
        let mut rest = inner
            .objects
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, object)| Listed {
                key: key.clone(),
                size: object.bytes.len() as u64,
                etag: object.etag.clone(),
            });
        let objects: Vec<_> = rest.by_ref().take(PAGE).collect();
        let more = rest.next().is_some();
        let next = objects.last().filter(|_| more).map(|last| last.key.clone());
        Ok(Page { objects, next })
    }

    async fn copy_if(
        &self,
        from: &str,
        etag: &str,
        to: &str,
        meta: &Meta,
        when: &When,
    ) -> Result<Stored> {
        let mut inner = self.count("CopyObject");
        let (from, to) = (&*inner.habits.key(from), &*inner.habits.key(to));
        Inner::accept("CopyObject", to, meta)?;
        inner.allows("CopyObject", to, when)?;
        let bytes = inner.source("CopyObject", from, etag)?;
        if bytes.len() as u64 > MAX_SINGLE {
            return Err(refusal(
                "CopyObject",
                to,
                ErrorKind::Invalid,
                "InvalidRequest: too large",
            ));
        }
        let etag = md5_hex(&bytes);
        Ok(inner.store(to, bytes, etag, meta))
    }

    async fn delete_if(&self, key: &str, when: &When) -> Result<Removed> {
        let mut inner = self.count("DeleteObject");
        let key = &*inner.habits.key(key);
        inner.allows("DeleteObject", key, when)?;
        inner.remove(key);
        Ok(Removed::default())
    }

    async fn delete_many(&self, keys: &[String]) -> Result<Vec<Result<Removed>>> {
        let mut inner = self.count("DeleteObjects");
        let no = |kind, word| Err(refusal("DeleteObjects", "", kind, word));
        if inner.habits.refuses_batches {
            return no(ErrorKind::Unsupported, "NotImplemented");
        }
        if keys.is_empty() || keys.len() > MAX_BATCH {
            return no(ErrorKind::Invalid, "MalformedXML");
        }
        for key in keys {
            let key = inner.habits.key(key);
            inner.remove(&key);
        }
        Ok(keys.iter().map(|_| Ok(Removed::default())).collect())
    }

    async fn create_multipart(&self, key: &str, meta: &Meta) -> Result<String> {
        let mut inner = self.count("CreateMultipartUpload");
        if inner.habits.refuses_multipart {
            let kind = ErrorKind::Unsupported;
            return Err(refusal(
                "CreateMultipartUpload",
                key,
                kind,
                "NotImplemented",
            ));
        }
        let key = &*inner.habits.key(key);
        Inner::accept("CreateMultipartUpload", key, meta)?;
        inner.uploads_made += 1;
        let id = format!("upload-{:06}", inner.uploads_made);
        let upload = Upload {
            key: key.to_owned(),
            meta: meta.clone(),
            parts: BTreeMap::new(),
            begun_ns: inner.date_ns(),
        };
        inner.uploads.insert(id.clone(), upload);
        Ok(id)
    }

    async fn put_part(&self, key: &str, upload: &str, number: u32, body: Body) -> Result<Part> {
        take_in(&body).await;
        let mut inner = self.count("UploadPart");
        let key = &*inner.habits.key(key);
        inner.receive("UploadPart", key, &body)?;
        let bytes = Bytes::copy_from_slice(&body.bytes);
        let etag = inner.take_part("UploadPart", (key, upload, number), bytes)?;
        Ok(Part {
            number,
            etag,
            crc64: Some(body.crc64),
        })
    }

    async fn copy_part(
        &self,
        from: &str,
        etag: &str,
        range: Range<u64>,
        key: &str,
        upload: &str,
        number: u32,
    ) -> Result<Part> {
        let mut inner = self.count("UploadPartCopy");
        let (from, key) = (&*inner.habits.key(from), &*inner.habits.key(key));
        let bytes = inner.source("UploadPartCopy", from, etag)?;
        if range.is_empty() || range.end > bytes.len() as u64 {
            let message = "InvalidArgument: the range is not within the source";
            return Err(refusal("UploadPartCopy", key, ErrorKind::Invalid, message));
        }
        let bytes = bytes.slice(range.start as usize..range.end as usize);
        let etag = inner.take_part("UploadPartCopy", (key, upload, number), bytes)?;
        Ok(Part {
            number,
            etag,
            crc64: None,
        })
    }

    async fn complete_if(
        &self,
        key: &str,
        upload: &str,
        parts: &[Part],
        crc64: Option<Crc64>,
        when: &When,
    ) -> Result<Stored> {
        let mut inner = self.count("CompleteMultipartUpload");
        let key = &*inner.habits.key(key);
        inner.allows("CompleteMultipartUpload", key, when)?;
        let (bytes, etag) = inner.join(key, upload, parts)?;
        if crc64.is_some_and(|crc64| crc64 != Crc64::of(&bytes)) {
            let message = "BadDigest: the CRC64NVME is not the object's";
            return Err(refusal(
                "CompleteMultipartUpload",
                key,
                ErrorKind::Corrupt,
                message,
            ));
        }
        let etag = if inner.habits.opaque_etags {
            format!("opaque-{etag}")
        } else {
            etag
        };
        let done = inner.uploads.remove(upload);
        let meta = done.map(|upload| upload.meta).unwrap_or_default();
        Ok(inner.store(key, bytes, etag, &meta))
    }

    async fn list_parts(&self, key: &str, upload: &str, after: u32) -> Result<PartPage> {
        let inner = self.count("ListParts");
        let key = &*inner.habits.key(key);
        let no = |kind, word| Err(refusal("ListParts", key, kind, word));
        if inner.habits.lists_no_parts {
            return no(ErrorKind::Unsupported, "NotImplemented");
        }
        let Some(upload) = inner.uploads.get(upload).filter(|upload| upload.key == key) else {
            return no(ErrorKind::NotFound, "NoSuchUpload");
        };
        let mut rest = upload.parts.range(after + 1..);
        let parts: Vec<_> = rest
            .by_ref()
            .take(PAGE)
            .map(|(number, (bytes, etag))| ListedPart {
                number: *number,
                etag: etag.clone(),
                size: bytes.len() as u64,
            })
            .collect();
        let more = rest.next().is_some();
        let next = parts.last().filter(|_| more).map(|last| last.number);
        Ok(PartPage { parts, next })
    }

    async fn list_uploads(&self, prefix: &str, token: Option<UploadToken>) -> Result<UploadPage> {
        let inner = self.count("ListMultipartUploads");
        if inner.habits.lists_no_uploads {
            let kind = ErrorKind::Unsupported;
            return Err(refusal("ListMultipartUploads", "", kind, "NotImplemented"));
        }
        // By key, and of one key in the order in which they were begun.
        let mut uploads: Vec<_> = inner
            .uploads
            .iter()
            .filter(|(_, upload)| upload.key.starts_with(prefix))
            .map(|(id, upload)| ListedUpload {
                key: upload.key.clone(),
                id: id.clone(),
                begun_ns: upload.begun_ns,
            })
            .collect();
        uploads.sort_by(|a, b| (&a.key, &a.id).cmp(&(&b.key, &b.id)));
        if let Some(token) = token {
            uploads.retain(|upload| (&upload.key, &upload.id) > (&token.key, &token.upload));
        }
        let more = uploads.len() > PAGE;
        uploads.truncate(PAGE);
        let next = uploads.last().filter(|_| more).map(|last| UploadToken {
            key: last.key.clone(),
            upload: last.id.clone(),
        });
        Ok(UploadPage { uploads, next })
    }

    async fn abort(&self, key: &str, upload: &str) -> Result<()> {
        let mut inner = self.count("AbortMultipartUpload");
        let key = &*inner.habits.key(key);
        if inner
            .uploads
            .get(upload)
            .is_some_and(|upload| upload.key == key)
        {
            inner.uploads.remove(upload);
        }
        Ok(())
    }
}
