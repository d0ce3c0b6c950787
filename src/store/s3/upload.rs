//! The requests that store something: whole objects, and uploads by parts, each with its checksum.

use std::ops::Range;

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumType, CompletedMultipartUpload, CompletedPart};
use aws_smithy_runtime_api::http::Headers;

use crate::base::digest::{Crc32, Crc64};
use crate::store::features::Checksum;
use crate::store::s3::S3Store;
use crate::store::s3::attempt::{Call, Nature, Pace};
use crate::store::s3::classify::{Failure, Trouble, trouble};
use crate::store::s3::direct::{self, Said};
use crate::store::s3::objects::unless_absent;
use crate::store::s3::root::Root;
use crate::store::s3::sums::{
    Sum, algorithm, base64_32, base64_64, echoed, etag_of, lower_in_upload, same,
};
use crate::store::s3::wire::{absent, bytes_range, etag as tag, is, quoted, source, stored};
use crate::store::{Body, Meta, Part, Result, Stored, When};

/// A request's result before its failure became an error.
type Attempted<T> = std::result::Result<T, Failure>;

impl S3Store {
    pub(super) async fn put_once(
        &self,
        key: &str,
        body: &Body,
        meta: &Meta,
        when: &When,
        kind: Checksum,
    ) -> Attempted<Stored> {
        let call = Call {
            body: Some(body),
            ..Call::write("PutObject", key)
        };
        let sum = &Sum::of(kind, body);
        let mut said = Said::new();
        sum.say(&mut said);
        said.extend(absent(when).map(|value| ("if-none-match".into(), value)));
        said.extend(is(when).map(|value| ("if-match".into(), value)));
        self.given.say_stored(meta, &mut said);
        self.given.say_asked(&mut said);
        let said = &said;
        self.run(call, |watch| async move {
            let is_outstanding = watch.is_outstanding;
            if let Some(answer) = direct::put(&self.reach, &watch, key, "", said, body).await {
                let stored = self.put_answer(&answer?, body, sum)?;
                return Ok(Stored {
                    is_outstanding,
                    ..stored
                });
            }
            let request = asked_with!(self.client().put_object(), self.given);
            let answer = stored_with!(request, self.given, meta)
                .bucket(&self.bucket)
                .key(key)
                .body(ByteStream::from(body.bytes.clone()))
                .set_checksum_crc64_nvme(sum.crc64.clone())
                .set_checksum_crc32(sum.crc32.clone())
                .set_content_md5(sum.md5.clone())
                .set_if_none_match(absent(when))
                .set_if_match(is(when))
                .customize()
                .interceptor(watch)
                .send()
                .await
                .map_err(trouble)?;
            same(body, answer.checksum_crc64_nvme(), answer.checksum_crc32())?;
            let stored = stored(answer.e_tag(), answer.version_id())?;
            // A bucket may encrypt by itself.
            let is_plain = self.given.has_plain_etags()
                && answer.ssekms_key_id().is_none()
                && answer
                    .server_side_encryption()
                    .is_none_or(|how| how.as_str() == "AES256");
            if is_plain {
                etag_of(sum.md5.as_deref(), &stored.etag)?;
            }
            Ok(Stored {
                is_outstanding,
                ..stored
            })
        })
        .await
    }

    /// Checks the headers of an answer to a put.
    fn put_answer(
        &self,
        headers: &Headers,
        body: &Body,
        sum: &Sum,
    ) -> std::result::Result<Stored, Trouble> {
        same(
            body,
            headers.get("x-amz-checksum-crc64nvme"),
            headers.get("x-amz-checksum-crc32"),
        )?;
        let stored = stored(headers.get("etag"), headers.get("x-amz-version-id"))?;
        // A bucket may encrypt by itself.
        let is_plain = self.given.has_plain_etags()
            && headers
                .get("x-amz-server-side-encryption-aws-kms-key-id")
                .is_none()
            && headers
                .get("x-amz-server-side-encryption")
                .is_none_or(|how| how == "AES256");
        if is_plain {
            etag_of(sum.md5.as_deref(), &stored.etag)?;
        }
        Ok(stored)
    }

    pub(super) async fn create_once(
        &self,
        key: &str,
        meta: &Meta,
        kind: Checksum,
    ) -> Attempted<String> {
        let call = Call {
            nature: Nature::Create,
            ..Call::write("CreateMultipartUpload", key)
        };
        self.run(call, |watch| async {
            let request = asked_with!(self.client().create_multipart_upload(), self.given);
            let mut request = stored_with!(request, self.given, meta)
                .bucket(&self.bucket)
                .key(key);
            if let Some(algorithm) = algorithm(kind) {
                request = request
                    .checksum_algorithm(algorithm)
                    .checksum_type(ChecksumType::FullObject);
            }
            let answer = request
                .customize()
                .interceptor(Root)
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

    async fn part_once(
        &self,
        key: &str,
        upload: &str,
        number: u32,
        body: &Body,
        kind: Checksum,
    ) -> Attempted<Part> {
        let call = Call {
            body: Some(body),
            ..Call::write("UploadPart", key)
        };
        let sum = &Sum::of(kind, body);
        let mut said = Said::new();
        sum.say(&mut said);
        // What the SDK takes for bytes of no kind.
        said.push(("content-type".into(), "application/octet-stream".to_owned()));
        self.given.say_asked(&mut said);
        let (query, said) = (&direct::part_query(upload, number), &said);
        self.run(call, |watch| async move {
            if let Some(answer) = direct::put(&self.reach, &watch, key, query, said, body).await {
                let headers = answer?;
                same(
                    body,
                    headers.get("x-amz-checksum-crc64nvme"),
                    headers.get("x-amz-checksum-crc32"),
                )?;
                return Ok(Part {
                    number,
                    etag: tag(headers.get("etag"))?,
                    crc64: Some(body.crc64),
                });
            }
            let answer = asked_with!(self.client().upload_part(), self.given)
                .bucket(&self.bucket)
                .key(key)
                .upload_id(upload)
                .part_number(number as i32)
                .body(ByteStream::from(body.bytes.clone()))
                .set_checksum_crc64_nvme(sum.crc64.clone())
                .set_checksum_crc32(sum.crc32.clone())
                .set_content_md5(sum.md5.clone())
                .customize()
                .interceptor(watch)
                .send()
                .await
                .map_err(trouble)?;
            same(body, answer.checksum_crc64_nvme(), answer.checksum_crc32())?;
            Ok(Part {
                number,
                etag: tag(answer.e_tag())?,
                crc64: Some(body.crc64),
            })
        })
        .await
    }

    /// Stores a part with the checksum that its upload was created with; if the store minds that, with a lesser one, by
    /// which the rest of the upload then goes.
    pub(super) async fn upload_part(
        &self,
        key: &str,
        upload: &str,
        number: u32,
        body: &Body,
    ) -> Result<Part> {
        let first = self.kind_of(upload);
        let mut kind = first;
        let mut minded: Option<Failure> = None;
        loop {
            let failure = match self.part_once(key, upload, number, body, kind).await {
                Ok(part) => {
                    if let Some(failure) = minded {
                        self.uploads.set_kind(upload, kind);
                        self.lowered(first, kind, &failure);
                    }
                    if kind == Checksum::Crc32 {
                        let len = body.bytes.len() as u64;
                        let crc32 = Crc32::of(&body.bytes);
                        self.uploads.note(upload, number, crc32, len);
                    }
                    return Ok(part);
                }
                Err(failure) => failure,
            };
            kind = match lower_in_upload(kind).filter(|_| failure.minds_checksum) {
                Some(lesser) => lesser,
                // The first answer says what the store minds; later ones may only mind that it is missing.
                None => return Err(minded.unwrap_or(failure).error),
            };
            minded.get_or_insert(failure);
        }
    }

    /// Returns with which checksum an upload was created; of one from before a restart, what would be taken now.
    fn kind_of(&self, upload: &str) -> Checksum {
        let known = self.uploads.kind(upload);
        known.unwrap_or_else(|| self.known().checksum)
    }

    pub(super) async fn copy_range(
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
            let request = asked_with!(self.client().upload_part_copy(), self.given);
            let answer = source_with!(request, self.given)
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
                etag: tag(made)?,
                crc64: None,
            })
        })
        .await
        .map_err(|failure| failure.error)
    }

    /// Joins an upload's parts. A store that minds the sums is asked once more without: each part was checked.
    pub(super) async fn join_parts(
        &self,
        key: &str,
        upload: &str,
        parts: &[Part],
        crc64: Option<Crc64>,
        when: &When,
    ) -> Result<Stored> {
        let whole = Whole { parts, crc64, when };
        let kind = self.kind_of(upload);
        let mut result = self.complete_once(key, upload, &whole, kind).await;
        if let Err(failure) = &result
            && failure.minds_checksum
            && algorithm(kind).is_some()
        {
            result = self
                .complete_once(key, upload, &whole, Checksum::None)
                .await;
        }
        let stored = result.map_err(|failure| failure.error)?;
        self.uploads.end(upload);
        Ok(stored)
    }

    async fn complete_once(
        &self,
        key: &str,
        upload: &str,
        whole: &Whole<'_>,
        kind: Checksum,
    ) -> Attempted<Stored> {
        let call = Call {
            pace: Pace::Long,
            ..Call::write("CompleteMultipartUpload", key)
        };
        let is_64 = kind == Checksum::Crc64;
        let (sums, crc32) = match kind {
            Checksum::Crc32 => self.uploads.crc32(upload, whole.parts),
            _ => (vec![None; whole.parts.len()], None),
        };
        let crc64 = whole.crc64.filter(|_| is_64).map(base64_64);
        let crc32 = crc32.map(base64_32);
        let parts = whole.parts.iter().zip(sums).map(|(part, crc32)| {
            CompletedPart::builder()
                .part_number(part.number as i32)
                .e_tag(quoted(&part.etag))
                .set_checksum_crc64_nvme(part.crc64.filter(|_| is_64).map(base64_64))
                .set_checksum_crc32(crc32.map(base64_32))
                .build()
        });
        let parts = CompletedMultipartUpload::builder()
            .set_parts(Some(parts.collect()))
            .build();
        self.run(call, |watch| async {
            let request = self.client().complete_multipart_upload();
            let mut request = asked_with!(request, self.given)
                .bucket(&self.bucket)
                .key(key)
                .upload_id(upload)
                .multipart_upload(parts.clone())
                .set_checksum_crc64_nvme(crc64.clone())
                .set_checksum_crc32(crc32.clone())
                .set_if_none_match(absent(whole.when))
                .set_if_match(is(whole.when));
            if crc64.is_some() || crc32.is_some() {
                request = request.checksum_type(ChecksumType::FullObject);
            }
            let answer = request
                .customize()
                .interceptor(watch)
                .send()
                .await
                .map_err(trouble)?;
            let known = whole.crc64.map(base64_64);
            echoed(known.as_deref(), answer.checksum_crc64_nvme())?;
            echoed(crc32.as_deref(), answer.checksum_crc32())?;
            stored(answer.e_tag(), answer.version_id())
        })
        .await
    }

    pub(super) async fn give_up(&self, key: &str, upload: &str) -> Result<()> {
        let result = self
            .run(Call::write("AbortMultipartUpload", key), |watch| async {
                self.client()
                    .abort_multipart_upload()
                    .bucket(&self.bucket)
                    .key(key)
                    .upload_id(upload)
                    .set_request_payer(self.given.payer())
                    .customize()
                    .interceptor(watch)
                    .send()
                    .await
                    .map_err(trouble)
            })
            .await;
        unless_absent(result.map(drop))?;
        self.uploads.end(upload);
        Ok(())
    }
}

/// What an upload is joined to.
struct Whole<'a> {
    parts: &'a [Part],
    crc64: Option<Crc64>,
    when: &'a When,
}
