//! The real bucket: one method is one request, on the SDK, with own watching, repeating and judging.
//!
//! Overview: `connect` resolves how the bucket is reached, `reach` keeps that way and mends it, `attempt` sends one request,
//! watches it while it stands still and repeats it when it stumbled, `classify` turns what went wrong into kinds, effects
//! and words by `table`; `objects`, `upload` and `pages` say what is asked and check every answer, with checksums from
//! `sums` and what users set from `given`. Puts and parts go by `direct`, past the SDK, wherever it can sign them, over the
//! same connections; everything else goes by the SDK. No SDK type leaves this module.
//!
//! What an upload looks like: the body whole, with its length, its CRC64NVME as a plain header, and a signature over
//! either nothing (TLS guards the bytes) or their SHA-256 (plain HTTP). Never in signed chunks, never with trailers: many
//! stores refuse these or, worse, store the framing. A store that refuses the checksum header is asked again with a lesser
//! one (CRC32, Content-MD5, none), and gets what it took from then on; never two in one request.
//!
//! What is checked: that an answer is complete and of success, that a write names an ETag, and that an echoed checksum is
//! the one that was sent. What this does not protect against: a store that takes the header and never compares; that
//! needs a probe.
//!
//! Cancellation: dropping a method's future closes its connection; a write may still land then.

#[macro_use]
mod given;

mod asking;
mod attempt;
mod bucket;
mod classify;
mod connect;
mod direct;
mod objects;
mod pages;
mod reach;
mod root;
mod spread;
mod sums;
mod table;
mod upload;
mod web;
mod wire;

use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use aws_sdk_s3::Client;
use bytes::Bytes;

use crate::base::digest::Crc64;
use crate::store::features::{Checksum, Features};
use crate::store::s3::attempt::{Call, Watch};
use crate::store::s3::classify::{Failure, Trouble, trouble};
use crate::store::s3::given::Given;
use crate::store::s3::objects::Sums;
use crate::store::s3::reach::Reach;
use crate::store::s3::sums::{Uploads, lower};
use crate::store::{
    Body, Meta, Object, Page, Part, PartPage, Removed, Result, Sink, Store, Stored, UploadPage,
    UploadToken, When, Which,
};

pub use crate::store::s3::bucket::Rule;
pub use crate::store::s3::connect::{Addressing, Patience, Settings, SetupError};
pub use crate::store::s3::web::Web;

/// A bucket behind an S3 endpoint. One client and one pool of connections.
#[derive(Debug)]
pub struct S3Store {
    reach: Arc<Reach>,
    bucket: String,
    endpoint_url: String,
    patience: Patience,
    given: Arc<Given>,
    uploads: Uploads,
    features: RwLock<Arc<Features>>,
    /// It is asked what it can do: nothing is done in another way, and nothing of it is told.
    is_asked: bool,
}

impl S3Store {
    /// Makes the client. Sends nothing to the bucket.
    pub async fn new(settings: &Settings, bucket: &str) -> std::result::Result<Self, SetupError> {
        // Large, and made once: not a part of every future that may come to open a store.
        let connected = Box::pin(connect::client(settings, bucket)).await?;
        let given = Given::of(settings, &connected.endpoint_url).await?;
        Ok(Self {
            bucket: bucket.to_owned(),
            endpoint_url: connected.endpoint_url.clone(),
            reach: Arc::new(Reach::new(connected, settings.clone()).await),
            patience: settings.patience,
            given: Arc::new(given),
            uploads: Uploads::default(),
            features: RwLock::default(),
            is_asked: false,
        })
    }

    /// Returns the endpoint that was found, without a slash at its end; empty for AWS.
    pub fn endpoint_url(&self) -> &str {
        &self.endpoint_url
    }

    /// Returns the region that was found, or that the store has named since.
    pub fn region(&self) -> String {
        self.reach.region()
    }

    fn client(&self) -> Client {
        self.reach.client()
    }

    /// Runs `request` with the checksum that the store takes, and if it minds that, with lesser ones; remembers which one
    /// it took.
    async fn lowering<T, F, Fut>(&self, request: F) -> Result<(T, Checksum)>
    where
        F: Fn(Checksum) -> Fut,
        Fut: Future<Output = std::result::Result<T, Failure>>,
    {
        let first = self.known().checksum;
        let mut kind = first;
        let mut minded: Option<Failure> = None;
        loop {
            let failure = match request(kind).await {
                Ok(done) => {
                    if let Some(failure) = minded {
                        self.lowered(first, kind, &failure);
                    }
                    return Ok((done, kind));
                }
                Err(failure) => failure,
            };
            kind = match lower(kind).filter(|_| failure.minds_checksum) {
                Some(lesser) => lesser,
                None => return Err(failure.error),
            };
            minded.get_or_insert(failure);
        }
    }

    /// Remembers that the store did not take one checksum and then took a lesser one.
    fn lowered(&self, from: Checksum, to: Checksum, failure: &Failure) {
        let known = self.known();
        // Somebody else may have found out as much, or more, meanwhile.
        if known.checksum as u8 >= to as u8 {
            return;
        }
        self.learn(Features {
            checksum: to,
            ..*known
        });
        if self.is_asked {
            return;
        }
        tracing::info!(
            bucket = self.bucket,
            answer = failure.error.message,
            "the store does not take checksums of the kind {from:?}; uploads are sent with {to:?}"
        );
    }

    fn known(&self) -> Arc<Features> {
        self.features
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    async fn run<T, F, Fut>(&self, call: Call<'_>, send: F) -> std::result::Result<T, Failure>
    where
        F: Fn(Watch) -> Fut,
        Fut: Future<Output = std::result::Result<T, Trouble>>,
    {
        attempt::run(call, &self.patience, &self.reach, send).await
    }
}

#[async_trait]
impl Store for S3Store {
    async fn check(&self) -> Result<()> {
        self.run(Call::read("HeadBucket", ""), |watch| async {
            let request = self.client().head_bucket().bucket(&self.bucket);
            let payer = self.given.payer();
            request
                .customize()
                // The SDK has no field for it here.
                .mutate_request(move |request| {
                    if let Some(payer) = &payer {
                        let payer = payer.as_str().to_owned();
                        request.headers_mut().insert("x-amz-request-payer", payer);
                    }
                })
                .interceptor(watch)
                .send()
                .await
                .map_err(trouble)
        })
        .await
        .map_err(|failure| failure.error)?;
        Ok(())
    }

    fn features(&self) -> Arc<Features> {
        let known = self.known();
        if !self.given.terms().is_archive() {
            return known;
        }
        // What this folder stores cannot be copied, whatever the store can.
        Arc::new(Features {
            copy: false,
            part_copy: false,
            ..*known
        })
    }

    fn learn(&self, features: Features) {
        *self
            .features
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Arc::new(features);
    }

    async fn put_if(&self, key: &str, body: Body, meta: &Meta, when: &When) -> Result<Stored> {
        let body = &body;
        let put = self.lowering(|kind| self.put_once(key, body, meta, when, kind));
        put.await.map(|(stored, _)| stored)
    }

    async fn put_tagged(
        &self,
        key: &str,
        body: Body,
        meta: &Meta,
        tag: (&str, &str),
    ) -> Result<Stored> {
        self.put_with_tag(key, &body, meta, tag).await
    }

    async fn tags(&self, key: &str) -> Result<Vec<(String, String)>> {
        self.tags_of(key).await
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<(Object, Bytes)> {
        self.read_object(key, &Which::Current, range, Sums::Unasked)
            .await
    }

    async fn get_of(
        &self,
        key: &str,
        which: &Which,
        range: Option<Range<u64>>,
    ) -> Result<(Object, Bytes)> {
        self.read_object(key, which, range, Sums::Asked).await
    }

    async fn read_into(
        &self,
        key: &str,
        which: &Which,
        range: Range<u64>,
        sink: &dyn Sink,
    ) -> Result<Object> {
        self.read_range(key, which, range, sink).await
    }

    async fn head_of(&self, key: &str, which: &Which) -> Result<Object> {
        self.look_at(key, which, Sums::Asked).await
    }

    async fn head(&self, key: &str) -> Result<Object> {
        self.look_at(key, &Which::Current, Sums::Unasked).await
    }

    async fn list(&self, prefix: &str, token: Option<String>) -> Result<Page> {
        self.objects_page(prefix, token).await
    }

    async fn copy_if(
        &self,
        from: &str,
        etag: &str,
        to: &str,
        meta: &Meta,
        when: &When,
    ) -> Result<Stored> {
        self.copy_object(from, etag, to, meta, when).await
    }

    async fn delete_if(&self, key: &str, when: &When) -> Result<Removed> {
        self.remove(key, when).await
    }

    async fn delete_many(&self, keys: &[String]) -> Result<Vec<Result<Removed>>> {
        self.remove_many(keys).await
    }

    async fn create_multipart(&self, key: &str, meta: &Meta) -> Result<String> {
        let create = self.lowering(|kind| self.create_once(key, meta, kind));
        let (id, kind) = create.await?;
        self.uploads.set_kind(&id, kind);
        Ok(id)
    }

    async fn put_part(&self, key: &str, upload: &str, number: u32, body: Body) -> Result<Part> {
        self.upload_part(key, upload, number, &body).await
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
        self.copy_range(from, etag, range, key, upload, number)
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
        self.join_parts(key, upload, parts, crc64, when).await
    }

    async fn list_parts(&self, key: &str, upload: &str, after: u32) -> Result<PartPage> {
        self.parts_page(key, upload, after).await
    }

    async fn list_uploads(&self, prefix: &str, token: Option<UploadToken>) -> Result<UploadPage> {
        self.uploads_page(prefix, token).await
    }

    async fn abort(&self, key: &str, upload: &str) -> Result<()> {
        self.give_up(key, upload).await
    }
}
