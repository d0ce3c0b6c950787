//! What only a probe needs: a handle of its own, and the two requests that tell whether a store takes tags.

use std::sync::{Arc, RwLock};

use aws_sdk_s3::primitives::ByteStream;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::store::s3::attempt::Call;
use crate::store::s3::classify::trouble;
use crate::store::s3::sums::{Sum, Uploads};
use crate::store::s3::wire::stored;
use crate::store::s3::{Patience, S3Store};
use crate::store::{Body, Meta, Result, Stored};

impl S3Store {
    /// Returns the same bucket by the same way, with a patience of its own, to be asked what it can do: what it learns
    /// here is not known there.
    #[must_use]
    pub fn apart(&self, patience: Patience) -> Self {
        Self {
            reach: Arc::clone(&self.reach),
            bucket: self.bucket.clone(),
            endpoint_url: self.endpoint_url.clone(),
            patience,
            given: Arc::clone(&self.given),
            uploads: Uploads::default(),
            features: RwLock::default(),
            is_asked: true,
        }
    }

    pub(super) async fn put_with_tag(
        &self,
        key: &str,
        body: &Body,
        meta: &Meta,
        (name, value): (&str, &str),
    ) -> Result<Stored> {
        let encoded = |text| utf8_percent_encode(text, NON_ALPHANUMERIC);
        let tagging = &format!("{}={}", encoded(name), encoded(value));
        let call = Call {
            body: Some(body),
            ..Call::write("PutObject", key)
        };
        // A bucket with object locks takes nothing without a checksum.
        let sum = &Sum::of(self.known().checksum, body);
        self.run(call, |watch| async {
            let is_outstanding = watch.is_outstanding;
            let request = asked_with!(self.client().put_object(), self.given);
            let answer = stored_with!(request, self.given, meta)
                .bucket(&self.bucket)
                .key(key)
                .body(ByteStream::from(body.bytes.clone()))
                .set_checksum_crc64_nvme(sum.crc64.clone())
                .set_checksum_crc32(sum.crc32.clone())
                .set_content_md5(sum.md5.clone())
                .tagging(tagging)
                .customize()
                .interceptor(watch)
                .send()
                .await
                .map_err(trouble)?;
            Ok(Stored {
                is_outstanding,
                ..stored(answer.e_tag(), answer.version_id())?
            })
        })
        .await
        .map_err(|failure| failure.error)
    }

    pub(super) async fn tags_of(&self, key: &str) -> Result<Vec<(String, String)>> {
        self.run(Call::read("GetObjectTagging", key), |watch| async {
            let answer = self
                .client()
                .get_object_tagging()
                .bucket(&self.bucket)
                .key(key)
                .set_request_payer(self.given.payer())
                .customize()
                .interceptor(watch)
                .send()
                .await
                .map_err(trouble)?;
            let tags = answer.tag_set().iter();
            Ok(tags
                .map(|tag| (tag.key().to_owned(), tag.value().to_owned()))
                .collect())
        })
        .await
        .map_err(|failure| failure.error)
    }
}
