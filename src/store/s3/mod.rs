//! The real bucket: one method is one request, on the SDK, with own watching, repeating and judging.
//!
//! Overview: `connect` resolves how the bucket is reached, `attempt` sends one request, watches it while it stands still
//! and repeats it when it stumbled, `classify` turns what went wrong into kinds, effects and words; this file says what is
//! asked and checks every answer. No SDK type leaves this module.
//!
//! What an upload looks like: the body whole, with its length, its CRC64NVME as a plain header, and a signature over
//! either nothing (TLS guards the bytes) or their SHA-256 (plain HTTP). Never in signed chunks, never with trailers: many
//! stores refuse these or, worse, store the framing. A store that refuses the checksum header is asked once more without
//! it, and if that works no longer gets one.
//!
//! What is checked: that an answer is complete and of success, that a write names an ETag, and that an echoed checksum is
//! the one that was sent. What this does not protect against: a store that takes the header and never compares; that
//! needs a probe.
//!
//! Cancellation: dropping a method's future closes its connection; a write may still land then.

mod attempt;
mod classify;
mod connect;
mod pages;
mod upload;
mod wire;

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::types::{EncodingType, MetadataDirective};
use bytes::{Bytes, BytesMut};

use crate::base::digest::Crc64;
use crate::store::features::Features;
use crate::store::s3::attempt::{Call, Pace, Watch};
use crate::store::s3::classify::{Failure, Trouble, trouble};
use crate::store::s3::wire::{
    absent, bytes_range, decoded, is, length, nanoseconds, quoted, returned, source, stored, user,
};
use crate::store::{
    Body, ErrorKind, Listed, Meta, Object, Page, Part, PartPage, Removed, Result, Store, Stored,
    UploadPage, UploadToken, When,
};

pub use crate::store::s3::connect::{Addressing, Patience, Settings, SetupError};

/// A bucket behind an S3 endpoint. One client and one pool of connections.
#[derive(Debug)]
pub struct S3Store {
    client: Client,
    bucket: String,
    endpoint_url: String,
    region: String,
    patience: Patience,
    checksums: AtomicU8,
    features: RwLock<Arc<Features>>,
}

/// How uploads are checked. Only ever lowered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Checksums {
    /// The store has refused the header.
    None = 0,
    /// CRC64NVME over the whole object.
    Crc64 = 1,
}

impl S3Store {
    /// Makes the client. Sends nothing to the bucket.
    pub async fn new(settings: &Settings, bucket: &str) -> std::result::Result<Self, SetupError> {
        let connected = connect::client(settings, bucket).await?;
        Ok(Self {
            client: connected.client,
            bucket: bucket.to_owned(),
            endpoint_url: connected.endpoint_url,
            region: connected.region,
            patience: settings.patience,
            checksums: AtomicU8::new(Checksums::Crc64 as u8),
            features: RwLock::default(),
        })
    }

    /// Returns the endpoint that was found, without a slash at its end; empty for AWS.
    pub fn endpoint_url(&self) -> &str {
        &self.endpoint_url
    }

    /// Returns the region that was found.
    pub fn region(&self) -> &str {
        &self.region
    }

    fn checksums(&self) -> Checksums {
        if self.checksums.load(Ordering::Relaxed) == Checksums::Crc64 as u8 {
            Checksums::Crc64
        } else {
            Checksums::None
        }
    }

    /// Runs `request` with checksums, and if the store minds them, once more without; remembers it if that helped.
    async fn lowering<T, F, Fut>(&self, request: F) -> Result<T>
    where
        F: Fn(Checksums) -> Fut,
        Fut: Future<Output = std::result::Result<T, Failure>>,
    {
        let mode = self.checksums();
        let failure = match request(mode).await {
            Ok(done) => return Ok(done),
            Err(failure) => failure,
        };
        if mode == Checksums::None || !failure.minds_checksum {
            return Err(failure.error);
        }
        let done = request(Checksums::None)
            .await
            .map_err(|failure| failure.error)?;
        if self
            .checksums
            .swap(Checksums::None as u8, Ordering::Relaxed)
            != Checksums::None as u8
        {
            tracing::info!(
                bucket = self.bucket,
                answer = failure.error.message,
                "the store does not take CRC64NVME checksums; uploads are sent without"
            );
        }
        Ok(done)
    }

    async fn run<T, F, Fut>(&self, call: Call<'_>, send: F) -> std::result::Result<T, Failure>
    where
        F: Fn(Watch) -> Fut,
        Fut: Future<Output = std::result::Result<T, Trouble>>,
    {
        attempt::run(call, &self.patience, send).await
    }
}

#[async_trait]
impl Store for S3Store {
    async fn check(&self) -> Result<()> {
        self.run(Call::read("HeadBucket", ""), |watch| async {
            self.client
                .head_bucket()
                .bucket(&self.bucket)
                .customize()
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
        self.features
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn learn(&self, features: Features) {
        *self
            .features
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Arc::new(features);
    }

    async fn put_if(&self, key: &str, body: Body, meta: &Meta, when: &When) -> Result<Stored> {
        let body = &body;
        self.lowering(|mode| self.put_once(key, body, meta, when, mode))
            .await
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<(Object, Bytes)> {
        // HTTP has no words for an empty range.
        if range.as_ref().is_some_and(Range::is_empty) {
            return Ok((self.head(key).await?, Bytes::new()));
        }
        let asked = range.as_ref().map(bytes_range);
        let asked = &asked;
        self.run(Call::read("GetObject", key), |watch| async move {
            let flight = Arc::clone(&watch.flight);
            let mut answer = self
                .client
                .get_object()
                .bucket(&self.bucket)
                .key(key)
                .set_range(asked.clone())
                .customize()
                .interceptor(watch)
                .send()
                .await
                .map_err(trouble)?;
            let len = length(answer.content_length())?;
            let mut bytes = BytesMut::with_capacity(usize::try_from(len).unwrap_or_default());
            while let Some(piece) = answer.body.next().await {
                flight.step();
                let piece = piece.map_err(|error| Trouble::Broken(error.to_string()))?;
                bytes.extend_from_slice(&piece);
            }
            if bytes.len() as u64 != len {
                return Err(Trouble::Broken("the object came only in part".to_owned()));
            }
            let size = match (asked, answer.content_range()) {
                (Some(_), Some(text)) => text
                    .rsplit_once('/')
                    .and_then(|(_, size)| size.parse().ok())
                    .ok_or_else(|| Trouble::Garbled(format!("Content-Range is {text:?}")))?,
                (Some(_), None) => {
                    return Err(Trouble::Garbled("it ignores the range".to_owned()));
                }
                (None, _) => len,
            };
            let object = Object {
                size,
                etag: wire::etag(answer.e_tag())?,
                version_id: answer.version_id().map(str::to_owned),
                user: returned(answer.metadata()),
                modified_ns: answer.last_modified().and_then(nanoseconds),
                date_ns: flight.date_ns(),
            };
            Ok((object, bytes.freeze()))
        })
        .await
        .map_err(|failure| failure.error)
    }

    async fn head(&self, key: &str) -> Result<Object> {
        self.run(Call::read("HeadObject", key), |watch| async {
            let flight = Arc::clone(&watch.flight);
            let answer = self
                .client
                .head_object()
                .bucket(&self.bucket)
                .key(key)
                .customize()
                .interceptor(watch)
                .send()
                .await
                .map_err(trouble)?;
            Ok(Object {
                size: length(answer.content_length())?,
                etag: wire::etag(answer.e_tag())?,
                version_id: answer.version_id().map(str::to_owned),
                user: returned(answer.metadata()),
                modified_ns: answer.last_modified().and_then(nanoseconds),
                date_ns: flight.date_ns(),
            })
        })
        .await
        .map_err(|failure| failure.error)
    }

    async fn list(&self, prefix: &str, token: Option<String>) -> Result<Page> {
        let token = &token;
        self.run(Call::read("ListObjectsV2", ""), |watch| async {
            let answer = self
                .client
                .list_objects_v2()
                .bucket(&self.bucket)
                .prefix(prefix)
                .set_continuation_token(token.clone())
                // One key with a control character would make the XML of a whole page unreadable.
                .encoding_type(EncodingType::Url)
                .customize()
                .interceptor(watch)
                .send()
                .await
                .map_err(trouble)?;
            let encoded = answer.encoding_type() == Some(&EncodingType::Url);
            let mut page = Page::default();
            for object in answer.contents() {
                let key = object.key().unwrap_or_default();
                page.objects.push(Listed {
                    key: if encoded {
                        decoded(key)?
                    } else {
                        key.to_owned()
                    },
                    size: length(object.size())?,
                    etag: wire::etag(object.e_tag())?,
                });
            }
            page.next = answer
                .next_continuation_token()
                .filter(|next| !next.is_empty())
                .map(str::to_owned);
            if page.next.is_none() && answer.is_truncated() == Some(true) {
                return Err(Trouble::Garbled(
                    "a page without the way to the next".to_owned(),
                ));
            }
            Ok(page)
        })
        .await
        .map_err(|failure| failure.error)
    }

    async fn copy_if(
        &self,
        from: &str,
        etag: &str,
        to: &str,
        meta: &Meta,
        when: &When,
    ) -> Result<Stored> {
        let call = Call {
            pace: Pace::Long,
            ..Call::write("CopyObject", to)
        };
        self.run(call, |watch| async {
            let is_outstanding = watch.is_outstanding;
            let answer = self
                .client
                .copy_object()
                .bucket(&self.bucket)
                .key(to)
                .copy_source(source(&self.bucket, from))
                .copy_source_if_match(quoted(etag))
                .set_if_none_match(absent(when))
                .set_if_match(is(when))
                // Without it the source's metadata is copied, or a copy onto itself refused.
                .metadata_directive(MetadataDirective::Replace)
                .set_metadata(Some(user(meta)))
                .set_content_type(meta.content_type.clone())
                .set_cache_control(meta.cache_control.clone())
                .customize()
                .interceptor(watch)
                .send()
                .await
                .map_err(trouble)?;
            let made = answer.copy_object_result();
            let stored = stored(made.and_then(|made| made.e_tag()), answer.version_id())?;
            Ok(Stored {
                is_outstanding,
                ..stored
            })
        })
        .await
        .map_err(|failure| failure.error)
    }

    async fn delete_if(&self, key: &str, when: &When) -> Result<Removed> {
        let earlier = AtomicBool::new(false);
        let result = self
            .run(Call::write("DeleteObject", key), |watch| async {
                earlier.fetch_or(watch.is_outstanding, Ordering::Relaxed);
                self.client
                    .delete_object()
                    .bucket(&self.bucket)
                    .key(key)
                    .set_if_match(is(when))
                    .customize()
                    .interceptor(watch)
                    .send()
                    .await
                    .map_err(trouble)
            })
            .await;
        unless_absent(result.map(drop))?;
        Ok(Removed {
            is_outstanding: earlier.into_inner(),
        })
    }

    async fn delete_many(&self, keys: &[String]) -> Result<Vec<Result<Removed>>> {
        self.remove_batch(keys).await
    }

    async fn create_multipart(&self, key: &str, meta: &Meta) -> Result<String> {
        self.lowering(|mode| self.create_once(key, meta, mode))
            .await
    }

    async fn put_part(&self, key: &str, upload: &str, number: u32, body: Body) -> Result<Part> {
        let body = &body;
        self.lowering(|mode| self.part_once(key, upload, number, body, mode))
            .await
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
        let call = Call {
            pace: Pace::Long,
            ..Call::write("UploadPartCopy", key)
        };
        let range = &bytes_range(&range);
        self.run(call, |watch| async move {
            let answer = self
                .client
                .upload_part_copy()
                .bucket(&self.bucket)
                .key(key)
                .upload_id(upload)
                .part_number(number as i32)
                .copy_source(source(&self.bucket, from))
                .copy_source_if_match(quoted(etag))
                .copy_source_range(range)
                .customize()
                .interceptor(watch)
                .send()
                .await
                .map_err(trouble)?;
            let made = answer.copy_part_result().and_then(|made| made.e_tag());
            Ok(Part {
                number,
                etag: wire::etag(made)?,
                crc64: None,
            })
        })
        .await
        .map_err(|failure| failure.error)
    }

    async fn complete_if(
        &self,
        key: &str,
        upload: &str,
        parts: &[Part],
        crc64: Option<Crc64>,
        when: &When,
    ) -> Result<Stored> {
        self.lowering(|mode| self.complete_once(key, upload, parts, crc64, when, mode))
            .await
    }

    async fn list_parts(&self, key: &str, upload: &str, after: u32) -> Result<PartPage> {
        self.parts_page(key, upload, after).await
    }

    async fn list_uploads(&self, prefix: &str, token: Option<UploadToken>) -> Result<UploadPage> {
        self.uploads_page(prefix, token).await
    }

    async fn abort(&self, key: &str, upload: &str) -> Result<()> {
        let result = self
            .run(Call::write("AbortMultipartUpload", key), |watch| async {
                self.client
                    .abort_multipart_upload()
                    .bucket(&self.bucket)
                    .key(key)
                    .upload_id(upload)
                    .customize()
                    .interceptor(watch)
                    .send()
                    .await
                    .map_err(trouble)
            })
            .await;
        unless_absent(result.map(drop))
    }
}

/// What is to go and is not there has gone. That its bucket is not there is another matter.
fn unless_absent(result: std::result::Result<(), Failure>) -> Result<()> {
    match result {
        Err(failure)
            if failure.error.kind == ErrorKind::NotFound
                && failure.error.code != "NoSuchBucket" =>
        {
            Ok(())
        }
        other => other.map_err(|failure| failure.error),
    }
}
