//! The requests that carry a checksum, each once and in the given mode.

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumType, CompletedMultipartUpload, CompletedPart};

use crate::base::digest::Crc64;
use crate::store::s3::attempt::{Call, Nature, Pace};
use crate::store::s3::classify::{Failure, Trouble, trouble};
use crate::store::s3::wire::{absent, echoed, etag, header, is, quoted, stored, user};
use crate::store::s3::{Checksums, S3Store};
use crate::store::{Body, Meta, Part, Stored, When};

/// A request's result before its failure became an error.
type Attempted<T> = Result<T, Failure>;

impl S3Store {
    pub(super) async fn put_once(
        &self,
        key: &str,
        body: &Body,
        meta: &Meta,
        when: &When,
        mode: Checksums,
    ) -> Attempted<Stored> {
        let call = Call {
            body: Some(body),
            ..Call::write("PutObject", key)
        };
        let crc64 = header(mode, Some(body.crc64));
        self.run(call, |watch| async {
            let is_outstanding = watch.is_outstanding;
            let answer = self
                .client
                .put_object()
                .bucket(&self.bucket)
                .key(key)
                .body(ByteStream::from(body.bytes.clone()))
                .set_checksum_crc64_nvme(crc64.clone())
                .set_metadata(Some(user(meta)))
                .set_content_type(meta.content_type.clone())
                .set_cache_control(meta.cache_control.clone())
                .set_if_none_match(absent(when))
                .set_if_match(is(when))
                .customize()
                .interceptor(watch)
                .send()
                .await
                .map_err(trouble)?;
            echoed(crc64.as_deref(), answer.checksum_crc64_nvme())?;
            Ok(Stored {
                is_outstanding,
                ..stored(answer.e_tag(), answer.version_id())?
            })
        })
        .await
    }

    pub(super) async fn create_once(
        &self,
        key: &str,
        meta: &Meta,
        mode: Checksums,
    ) -> Attempted<String> {
        let call = Call {
            nature: Nature::Create,
            ..Call::write("CreateMultipartUpload", key)
        };
        self.run(call, |watch| async {
            let mut request = self
                .client
                .create_multipart_upload()
                .bucket(&self.bucket)
                .key(key)
                .set_metadata(Some(user(meta)))
                .set_content_type(meta.content_type.clone())
                .set_cache_control(meta.cache_control.clone());
            if mode == Checksums::Crc64 {
                request = request
                    .checksum_algorithm(ChecksumAlgorithm::Crc64Nvme)
                    .checksum_type(ChecksumType::FullObject);
            }
            let answer = request
                .customize()
                .interceptor(watch)
                .send()
                .await
                .map_err(trouble)?;
            match answer.upload_id() {
                Some(id) if !id.is_empty() => Ok(id.to_owned()),
                _ => Err(Trouble::Garbled("it names no upload".to_owned())),
            }
        })
        .await
    }

    pub(super) async fn part_once(
        &self,
        key: &str,
        upload: &str,
        number: u32,
        body: &Body,
        mode: Checksums,
    ) -> Attempted<Part> {
        let call = Call {
            body: Some(body),
            ..Call::write("UploadPart", key)
        };
        let crc64 = header(mode, Some(body.crc64));
        self.run(call, |watch| async {
            let answer = self
                .client
                .upload_part()
                .bucket(&self.bucket)
                .key(key)
                .upload_id(upload)
                .part_number(number as i32)
                .body(ByteStream::from(body.bytes.clone()))
                .set_checksum_crc64_nvme(crc64.clone())
                .customize()
                .interceptor(watch)
                .send()
                .await
                .map_err(trouble)?;
            echoed(crc64.as_deref(), answer.checksum_crc64_nvme())?;
            Ok(Part {
                number,
                etag: etag(answer.e_tag())?,
                crc64: Some(body.crc64),
            })
        })
        .await
    }

    pub(super) async fn complete_once(
        &self,
        key: &str,
        upload: &str,
        parts: &[Part],
        crc64: Option<Crc64>,
        when: &When,
        mode: Checksums,
    ) -> Attempted<Stored> {
        let call = Call {
            pace: Pace::Long,
            ..Call::write("CompleteMultipartUpload", key)
        };
        let whole = header(mode, crc64);
        let parts: Vec<_> = parts
            .iter()
            .map(|part| {
                CompletedPart::builder()
                    .part_number(part.number as i32)
                    .e_tag(quoted(&part.etag))
                    .set_checksum_crc64_nvme(header(mode, part.crc64))
                    .build()
            })
            .collect();
        let parts = CompletedMultipartUpload::builder()
            .set_parts(Some(parts))
            .build();
        self.run(call, |watch| async {
            let mut request = self
                .client
                .complete_multipart_upload()
                .bucket(&self.bucket)
                .key(key)
                .upload_id(upload)
                .multipart_upload(parts.clone())
                .set_if_none_match(absent(when))
                .set_if_match(is(when));
            if let Some(whole) = &whole {
                request = request
                    .checksum_crc64_nvme(whole)
                    .checksum_type(ChecksumType::FullObject);
            }
            let answer = request
                .customize()
                .interceptor(watch)
                .send()
                .await
                .map_err(trouble)?;
            // Of a sum of sums, which some stores answer with, nothing can be said.
            if !answer
                .checksum_crc64_nvme()
                .is_some_and(|sum| sum.contains('-'))
            {
                echoed(whole.as_deref(), answer.checksum_crc64_nvme())?;
            }
            stored(answer.e_tag(), answer.version_id())
        })
        .await
    }
}
