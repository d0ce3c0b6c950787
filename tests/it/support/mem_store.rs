//! A bucket in memory, as strict as S3, without time and without tasks.
//!
//! Checks what S3 checks: checksums, lengths, key and metadata limits, order, size and ETags of parts, conditions. A
//! handle is cheap to clone; all clones are one bucket. Habits of lesser stores can be switched on.

use std::collections::BTreeMap;
use std::ops::{Bound, Range};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use md5::{Digest as _, Md5};
use tidewatch::base::digest::{Crc64, Sha256};
use tidewatch::store::key::MAX_KEY_BYTES;
use tidewatch::store::{
    Body, Effect, Error, ErrorKind, Listed, MAX_SINGLE, Meta, Object, Page, Part, Removed, Result,
    Store, Stored,
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
}

/// In which way a store is worse than S3.
#[derive(Clone, Copy, Debug, Default)]
pub struct Habits {
    /// A copy's condition is not looked at.
    pub ignores_copy_conditions: bool,
    /// User metadata is dropped.
    pub drops_metadata: bool,
    /// Copies are refused.
    pub refuses_copies: bool,
}

/// What was asked so far.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Requests by S3's name, refused ones too.
    pub requests: BTreeMap<&'static str, u64>,
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
    /// Every object that was ever stored under a key, and `None` for each removal; only if it is asked for.
    history: Option<Vec<(String, Option<Bytes>)>>,
}

#[derive(Debug)]
struct Upload {
    key: String,
    meta: Meta,
    parts: BTreeMap<u32, (Bytes, String)>,
}

impl MemStore {
    /// Makes an empty bucket with the habits of a lesser store.
    pub fn with_habits(habits: Habits) -> Self {
        let store = Self::default();
        store.lock().habits = habits;
        store
    }

    /// Returns everything that is stored.
    pub fn objects(&self) -> BTreeMap<String, MemObject> {
        self.lock().objects.clone()
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
    #[cfg(feature = "demo")]
    pub fn keep_history(&self) {
        self.lock().history.get_or_insert_default();
    }

    /// Returns what each key held since [`MemStore::keep_history`], in order; `None` for a removal.
    #[cfg(feature = "demo")]
    pub fn history(&self) -> Vec<(String, Option<Bytes>)> {
        self.lock().history.clone().unwrap_or_default()
    }

    /// Stores an object as another tool would, uncounted and without metadata.
    pub fn plant(&self, key: &str, bytes: &[u8]) {
        let object = MemObject {
            bytes: Bytes::copy_from_slice(bytes),
            etag: md5_hex(bytes),
            user: Vec::new(),
            content_type: None,
        };
        self.lock().objects.insert(key.to_owned(), object);
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
}

/// What is refused is refused before it has any effect.
fn refusal(operation: &'static str, key: &str, kind: ErrorKind, message: &str) -> Error {
    Error {
        kind,
        operation,
        key: key.to_owned(),
        effect: Effect::None,
        message: message.to_owned(),
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
    fn receive(&mut self, operation: &'static str, key: &str, body: &Body) -> Result<()> {
        let no = |kind, message| Err(refusal(operation, key, kind, message));
        self.counts.bytes_in += body.bytes.len() as u64;
        if body.bytes.len() as u64 > MAX_SINGLE {
            return no(ErrorKind::TooLarge, "EntityTooLarge");
        }
        if Crc64::of(&body.bytes) != body.crc64 {
            return no(
                ErrorKind::Corrupt,
                "BadDigest: the CRC64NVME is not the body's",
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
        };
        self.objects.insert(key.to_owned(), object);
        Stored {
            is_outstanding: false,
            etag,
            version_id: None,
        }
    }

    fn find(&self, operation: &'static str, key: &str) -> Result<(Object, Bytes)> {
        let object = self
            .objects
            .get(key)
            .ok_or_else(|| refusal(operation, key, ErrorKind::NotFound, "NoSuchKey"))?;
        let seen = Object {
            size: object.bytes.len() as u64,
            etag: object.etag.clone(),
            version_id: None,
            user: object.user.clone(),
        };
        Ok((seen, object.bytes.clone()))
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
        let (object, bytes) = self.find(operation, from)?;
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

    async fn put(&self, key: &str, body: Body, meta: &Meta) -> Result<Stored> {
        let mut inner = self.count("PutObject");
        inner.receive("PutObject", key, &body)?;
        Inner::accept("PutObject", key, meta)?;
        let etag = md5_hex(&body.bytes);
        // Copied: a pooled buffer would never come back to its pool.
        let bytes = Bytes::copy_from_slice(&body.bytes);
        Ok(inner.store(key, bytes, etag, meta))
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<(Object, Bytes)> {
        let mut inner = self.count("GetObject");
        let (object, mut bytes) = inner.find("GetObject", key)?;
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
        Ok(self.count("HeadObject").find("HeadObject", key)?.0)
    }

    async fn list(&self, prefix: &str, token: Option<String>) -> Result<Page> {
        let inner = self.count("ListObjectsV2");
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

    async fn copy(&self, from: &str, etag: &str, to: &str, meta: &Meta) -> Result<Stored> {
        let mut inner = self.count("CopyObject");
        Inner::accept("CopyObject", to, meta)?;
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

    async fn delete(&self, key: &str) -> Result<Removed> {
        let mut inner = self.count("DeleteObject");
        inner.objects.remove(key);
        if let Some(history) = &mut inner.history {
            history.push((key.to_owned(), None));
        }
        Ok(Removed::default())
    }

    async fn create_multipart(&self, key: &str, meta: &Meta) -> Result<String> {
        let mut inner = self.count("CreateMultipartUpload");
        Inner::accept("CreateMultipartUpload", key, meta)?;
        inner.uploads_made += 1;
        let id = format!("upload-{:06}", inner.uploads_made);
        let upload = Upload {
            key: key.to_owned(),
            meta: meta.clone(),
            parts: BTreeMap::new(),
        };
        inner.uploads.insert(id.clone(), upload);
        Ok(id)
    }

    async fn put_part(&self, key: &str, upload: &str, number: u32, body: Body) -> Result<Part> {
        let mut inner = self.count("UploadPart");
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

    async fn complete(
        &self,
        key: &str,
        upload: &str,
        parts: &[Part],
        crc64: Option<Crc64>,
    ) -> Result<Stored> {
        let mut inner = self.count("CompleteMultipartUpload");
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
        let done = inner.uploads.remove(upload);
        let meta = done.map(|upload| upload.meta).unwrap_or_default();
        Ok(inner.store(key, bytes, etag, &meta))
    }

    async fn abort(&self, key: &str, upload: &str) -> Result<()> {
        let mut inner = self.count("AbortMultipartUpload");
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
