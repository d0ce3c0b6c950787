//! A store that says which changes were sent by an agent that did not own the prefix.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use tidewatch::base::digest::Crc64;
use tidewatch::store::features::Features;
use tidewatch::store::{
    Body, Meta, Object, Page, Part, PartPage, Removed, Result, Store, Stored, UploadPage,
    UploadToken, When, Which,
};

use crate::lease::{LEASE, note};
use crate::support::mem_store::MemStore;

/// What was found, shared by all witnesses.
pub type Found = Arc<Mutex<Vec<String>>>;

/// Stands before an agent's line and looks at the bucket whenever something is sent.
pub struct Witness {
    pub inner: Arc<dyn Store>,
    pub bucket: MemStore,
    pub epoch: String,
    pub found: Found,
    /// How many changes were sent.
    pub changes: Arc<Mutex<u64>>,
}

impl Witness {
    fn sends(&self, operation: &str, key: &str) {
        if key == LEASE {
            return;
        }
        *self.changes.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        let note = note(&self.bucket);
        let is_ours =
            |note: &tidewatch::sync::lease::Note| note.epoch == self.epoch && !note.released;
        if !note.as_ref().is_some_and(is_ours) {
            let what = format!("{} sent {operation} of {key} while {note:?}", self.epoch);
            self.found
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(what);
        }
    }
}

#[async_trait]
impl Store for Witness {
    async fn check(&self) -> Result<()> {
        self.inner.check().await
    }

    fn features(&self) -> Arc<Features> {
        self.inner.features()
    }

    fn learn(&self, features: Features) {
        self.inner.learn(features);
    }

    async fn put_if(&self, key: &str, body: Body, meta: &Meta, when: &When) -> Result<Stored> {
        self.sends("PutObject", key);
        self.inner.put_if(key, body, meta, when).await
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<(Object, Bytes)> {
        self.inner.get(key, range).await
    }

    async fn get_of(
        &self,
        key: &str,
        which: &Which,
        range: Option<Range<u64>>,
    ) -> Result<(Object, Bytes)> {
        self.inner.get_of(key, which, range).await
    }

    async fn head_of(&self, key: &str, which: &Which) -> Result<Object> {
        self.inner.head_of(key, which).await
    }

    async fn head(&self, key: &str) -> Result<Object> {
        self.inner.head(key).await
    }

    async fn list(&self, prefix: &str, token: Option<String>) -> Result<Page> {
        self.inner.list(prefix, token).await
    }

    async fn copy_if(
        &self,
        from: &str,
        etag: &str,
        to: &str,
        meta: &Meta,
        when: &When,
    ) -> Result<Stored> {
        self.sends("CopyObject", to);
        self.inner.copy_if(from, etag, to, meta, when).await
    }

    async fn delete_if(&self, key: &str, when: &When) -> Result<Removed> {
        self.sends("DeleteObject", key);
        self.inner.delete_if(key, when).await
    }

    async fn delete_many(&self, keys: &[String]) -> Result<Vec<Result<Removed>>> {
        self.sends("DeleteObjects", "");
        self.inner.delete_many(keys).await
    }

    async fn create_multipart(&self, key: &str, meta: &Meta) -> Result<String> {
        self.sends("CreateMultipartUpload", key);
        self.inner.create_multipart(key, meta).await
    }

    async fn put_part(&self, key: &str, upload: &str, number: u32, body: Body) -> Result<Part> {
        self.sends("UploadPart", key);
        self.inner.put_part(key, upload, number, body).await
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
        self.sends("UploadPartCopy", key);
        self.inner
            .copy_part(from, etag, range, key, upload, number)
            .await
    }

    async fn complete_if(
        &self,
        key: &str,
        upload: &str,
        parts: &[Part],
        crc64: Option<Crc64>,
        when: &When,
    ) -> Result<Stored> {
        self.sends("CompleteMultipartUpload", key);
        self.inner
            .complete_if(key, upload, parts, crc64, when)
            .await
    }

    async fn list_parts(&self, key: &str, upload: &str, after: u32) -> Result<PartPage> {
        self.inner.list_parts(key, upload, after).await
    }

    async fn list_uploads(&self, prefix: &str, token: Option<UploadToken>) -> Result<UploadPage> {
        self.inner.list_uploads(prefix, token).await
    }

    async fn abort(&self, key: &str, upload: &str) -> Result<()> {
        self.sends("AbortMultipartUpload", key);
        self.inner.abort(key, upload).await
    }
}
