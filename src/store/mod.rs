//! The bucket: the seam that the simulator replaces.
//!
//! One method is one request (a lost answer may be repeated within it, nothing else). No AWS type leaves this module.

mod error;
pub mod features;
pub mod fence;
pub mod guarded;
pub mod key;
mod object;
pub mod probe;
pub mod s3;
pub mod sink;
pub mod tap;
pub mod which;

use std::borrow::Cow;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::base::digest::{Crc64, Sha256};
use crate::store::features::Features;

pub use crate::store::error::{Effect, Error, ErrorKind, Result, UNREACHED};
pub use crate::store::object::{Object, Sum};
pub use crate::store::sink::Sink;
pub use crate::store::tap::{Flow, Tap};
pub use crate::store::which::Which;

/// The largest body of a single put or copy, in bytes (S3's limit).
pub const MAX_SINGLE: u64 = 5 << 30;

/// A bucket behind one endpoint. Keys are whole keys, prefix included.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Asks whether the bucket is there and may be used (`HeadBucket`).
    async fn check(&self) -> Result<()>;

    /// Returns what the store is known to do; until it has been probed, only what every store does.
    fn features(&self) -> Arc<Features>;

    /// Remembers what a probe has found.
    fn learn(&self, features: Features);

    /// Stores one object with one request, if `when` holds. A store that has no such conditions may ignore it: see
    /// [`Features`].
    async fn put_if(&self, key: &str, body: Body, meta: &Meta, when: &When) -> Result<Stored>;

    /// Stores one object with one request.
    async fn put(&self, key: &str, body: Body, meta: &Meta) -> Result<Stored> {
        self.put_if(key, body, meta, &When::Always).await
    }

    /// Stores one object with a tag, with one request. Only asked to find out whether the store takes tags.
    async fn put_tagged(&self, key: &str, _: Body, _: &Meta, _: (&str, &str)) -> Result<Stored> {
        let (kind, why) = (ErrorKind::Unsupported, "this store has no tags");
        Err(Error::new(kind, "PutObject", key, Effect::None, why))
    }

    /// Returns an object's tags.
    async fn tags(&self, key: &str) -> Result<Vec<(String, String)>> {
        let (kind, why) = (ErrorKind::Unsupported, "this store has no tags");
        Err(Error::new(kind, "GetObjectTagging", key, Effect::None, why))
    }

    /// Reads an object, or the part of it in `range`.
    async fn get(&self, key: &str, range: Option<std::ops::Range<u64>>) -> Result<(Object, Bytes)>;

    /// Reads one of a key's contents, or the part of it in `range`; whole, it comes with the checksum that the store has.
    async fn get_of(
        &self,
        key: &str,
        which: &Which,
        range: Option<std::ops::Range<u64>>,
    ) -> Result<(Object, Bytes)>;

    /// Reads a part of one of a key's contents into `sink`, while it arrives. What `sink` has taken is of that content, also
    /// when it ends with an error.
    async fn read_into(
        &self,
        key: &str,
        which: &Which,
        range: std::ops::Range<u64>,
        sink: &dyn Sink,
    ) -> Result<Object> {
        let (object, bytes) = self.get_of(key, which, Some(range.clone())).await?;
        sink.take(range.start, bytes);
        Ok(object)
    }

    /// Looks at one of a key's contents, and asks for the checksum that the store has of it.
    async fn head_of(&self, key: &str, which: &Which) -> Result<Object>;

    /// Looks at an object. Absent: [`ErrorKind::NotFound`].
    async fn head(&self, key: &str) -> Result<Object>;

    /// Lists one page of the keys that start with `prefix`, in the store's order, from `token` of the page before.
    async fn list(&self, prefix: &str, token: Option<String>) -> Result<Page>;

    /// Copies `from`, if its ETag is still `etag`, to `to` with new metadata, on the server, if `when` holds of `to`. At
    /// most [`MAX_SINGLE`] bytes.
    ///
    /// Some stores ignore the conditions and answer as if they had held.
    async fn copy_if(
        &self,
        from: &str,
        etag: &str,
        to: &str,
        meta: &Meta,
        when: &When,
    ) -> Result<Stored>;

    /// Copies `from`, if its ETag is still `etag`, over whatever is at `to`.
    async fn copy(&self, from: &str, etag: &str, to: &str, meta: &Meta) -> Result<Stored> {
        self.copy_if(from, etag, to, meta, &When::Always).await
    }

    /// Removes an object, if `when` holds; absent is success.
    async fn delete_if(&self, key: &str, when: &When) -> Result<Removed>;

    /// Removes an object; absent is success.
    async fn delete(&self, key: &str) -> Result<Removed> {
        self.delete_if(key, &When::Always).await
    }

    /// Removes up to [`MAX_BATCH`] objects with one request (`DeleteObjects`), and says of each, in the given order, how
    /// that went.
    async fn delete_many(&self, keys: &[String]) -> Result<Vec<Result<Removed>>>;

    /// Begins a multipart upload and returns its id.
    async fn create_multipart(&self, key: &str, meta: &Meta) -> Result<String>;

    /// Stores part `number`, from 1 to 10,000.
    async fn put_part(&self, key: &str, upload: &str, number: u32, body: Body) -> Result<Part>;

    /// Makes part `number` of a range of another object, if its ETag is still `etag`.
    async fn copy_part(
        &self,
        from: &str,
        etag: &str,
        range: std::ops::Range<u64>,
        key: &str,
        upload: &str,
        number: u32,
    ) -> Result<Part>;

    /// Joins the parts, which must be in order, into the object, if `when` holds. `crc64` is the whole object's, where it
    /// is known.
    async fn complete_if(
        &self,
        key: &str,
        upload: &str,
        parts: &[Part],
        crc64: Option<Crc64>,
        when: &When,
    ) -> Result<Stored>;

    /// Joins the parts into the object, over whatever is there.
    async fn complete(
        &self,
        key: &str,
        upload: &str,
        parts: &[Part],
        crc64: Option<Crc64>,
    ) -> Result<Stored> {
        self.complete_if(key, upload, parts, crc64, &When::Always)
            .await
    }

    /// Lists one page of the parts that an upload has, by number, above `after`. Unknown: [`ErrorKind::NotFound`].
    async fn list_parts(&self, key: &str, upload: &str, after: u32) -> Result<PartPage>;

    /// Lists one page of the multipart uploads that are open below `prefix`, from `token` of the page before.
    async fn list_uploads(&self, prefix: &str, token: Option<UploadToken>) -> Result<UploadPage>;

    /// Gives a multipart upload up; unknown is success.
    async fn abort(&self, key: &str, upload: &str) -> Result<()>;
}

/// The most keys that one request removes (S3's limit).
pub const MAX_BATCH: usize = 1000;

/// Under which condition a key is changed. Only the current version counts.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum When {
    /// Under none.
    #[default]
    Always,
    /// If nothing is there.
    Absent,
    /// If the object there has this ETag.
    Is(String),
}

/// Bytes to send, with their digests.
#[derive(Clone, Debug)]
pub struct Body {
    /// What is sent. Cheap to clone, so that a repeat sends what was hashed.
    pub bytes: Bytes,
    /// The request's checksum.
    pub crc64: Crc64,
    /// The content's SHA-256 where it is known: the payload hash of the signature over plain HTTP.
    pub sha256: Option<Sha256>,
    /// What it goes out through; `None`: as fast as the line takes it.
    pub tap: Option<Arc<dyn Tap>>,
    /// Other bytes that the checksum is made of: only to find out whether the store compares it.
    pub claimed: Option<Bytes>,
}

impl Body {
    /// Makes a body of bytes whose digests are known.
    pub fn new(bytes: Bytes, crc64: Crc64, sha256: Option<Sha256>) -> Self {
        Self {
            bytes,
            crc64,
            sha256,
            tap: None,
            claimed: None,
        }
    }

    /// Lets it go out through `tap`.
    #[must_use]
    pub fn with_tap(self, tap: Option<Arc<dyn Tap>>) -> Self {
        Self { tap, ..self }
    }

    /// Makes a body whose checksum, of whatever kind, is that of other bytes.
    pub fn claiming(bytes: Bytes, others: Bytes) -> Self {
        Self {
            crc64: Crc64::of(&others),
            claimed: Some(others),
            ..Self::of(bytes)
        }
    }

    /// Returns what its checksum is made of.
    pub fn claims(&self) -> &[u8] {
        self.claimed.as_ref().unwrap_or(&self.bytes)
    }

    /// Makes a body, and its digests.
    pub fn of(bytes: Bytes) -> Self {
        let (crc64, sha256) = (Crc64::of(&bytes), Sha256::of(&bytes));
        Self::new(bytes, crc64, Some(sha256))
    }
}

/// What an object carries besides its bytes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Meta {
    /// User metadata: lower-case names, printable ASCII values, in order of name.
    pub user: Vec<(Cow<'static, str>, String)>,
    /// The MIME type.
    pub content_type: Option<String>,
    /// What caches on the way may do, as HTTP's Cache-Control says it.
    pub cache_control: Option<String>,
    /// Whether it is an object of the agent's own, which is rewritten and read: it gets no storage class, tags, access
    /// list or retention.
    pub is_own: bool,
}

/// A write that was answered and whose answer was checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stored {
    /// The ETag, without quotes; opaque identity, never a hash.
    pub etag: String,
    /// The version, in a versioned bucket.
    pub version_id: Option<String>,
    /// Whether an earlier attempt of the same request was not answered, and may still land.
    pub is_outstanding: bool,
}

/// A removal that was answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Removed {
    /// Whether an earlier attempt of the same request was not answered, and may still land.
    pub is_outstanding: bool,
}

/// A part that was answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Part {
    /// From 1 to 10,000.
    pub number: u32,
    /// The part's ETag, without quotes.
    pub etag: String,
    /// The part's checksum; `None` for one that was copied.
    pub crc64: Option<Crc64>,
}

/// One page of a listing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Page {
    /// The objects.
    pub objects: Vec<Listed>,
    /// Where the next page begins; `None` on the last one.
    pub next: Option<String>,
}

/// An object as a listing shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    /// The whole key.
    pub key: String,
    /// Length in bytes.
    pub size: u64,
    /// The ETag, without quotes.
    pub etag: String,
}

/// One page of the parts of an open upload.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PartPage {
    /// The parts, by number.
    pub parts: Vec<ListedPart>,
    /// The number to go on above; `None` on the last page.
    pub next: Option<u32>,
}

/// A part as a listing shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListedPart {
    /// From 1 to 10,000.
    pub number: u32,
    /// Its ETag, without quotes.
    pub etag: String,
    /// Length in bytes.
    pub size: u64,
}

/// Where the next page of open uploads begins: the last key and upload id, opaque.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UploadToken {
    /// The last key.
    pub key: String,
    /// The last upload's id.
    pub upload: String,
}

/// One page of the open multipart uploads.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct UploadPage {
    /// The uploads.
    pub uploads: Vec<ListedUpload>,
    /// Where the next page begins; `None` on the last one.
    pub next: Option<UploadToken>,
}

/// An open multipart upload as a listing shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListedUpload {
    /// The whole key.
    pub key: String,
    /// The store's id.
    pub id: String,
    /// When it was begun, by the store's clock, nanoseconds since the epoch; `None` where it is not told.
    pub begun_ns: Option<i64>,
}
