//! Requests about many things at once: batches of removals; objects, parts and uploads page by page.

use aws_sdk_s3::types::{ChecksumAlgorithm, Delete, EncodingType, ObjectIdentifier};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::context::BeforeTransmitInterceptorContextMut;
use aws_smithy_runtime_api::client::interceptors::{Intercept, dyn_dispatch_hint};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::ConfigBag;

use crate::store::features::{Checksum, Features};
use crate::store::s3::S3Store;
use crate::store::s3::attempt::Call;
use crate::store::s3::classify::{Failure, Trouble, refused, trouble};
use crate::store::s3::sums::md5;
use crate::store::s3::wire::{decoded, etag, length, nanoseconds};
use crate::store::{
    ErrorKind, Listed, ListedPart, ListedUpload, Page, PartPage, Removed, Result, Store as _,
    UploadPage, UploadToken, When,
};

impl S3Store {
    /// Removes many objects, with one request if the store can, else one after the other.
    pub(super) async fn remove_many(&self, keys: &[String]) -> Result<Vec<Result<Removed>>> {
        let failure = match self.remove_batch(keys).await {
            Ok(removed) => return Ok(removed),
            Err(failure) => failure,
        };
        // What is wrong with everything, such as the credentials, has a kind of its own.
        let minds_batches = matches!(
            failure.error.kind,
            ErrorKind::Unsupported | ErrorKind::Invalid
        );
        if !failure.answered || !minds_batches || self.is_asked {
            return Err(failure.error);
        }
        let mut removed = Vec::with_capacity(keys.len());
        for key in keys {
            removed.push(self.remove(key, &When::Always).await);
        }
        let known = self.known();
        // If nothing can be removed either way, it is not the batch.
        if known.delete_many && removed.iter().any(Result::is_ok) {
            self.learn(Features {
                delete_many: false,
                ..*known
            });
            tracing::info!(
                answer = failure.error.message,
                "the store does not remove objects in batches; they are removed one by one"
            );
        }
        Ok(removed)
    }

    /// Removes many objects with one request; what the answer does not name is not known to be removed.
    async fn remove_batch(
        &self,
        keys: &[String],
    ) -> std::result::Result<Vec<Result<Removed>>, Failure> {
        let objects = keys
            .iter()
            .map(|key| ObjectIdentifier::builder().key(key).build())
            .collect::<std::result::Result<Vec<_>, _>>();
        let batch = objects.and_then(|objects| {
            let batch = Delete::builder().set_objects(Some(objects));
            batch.quiet(false).build()
        });
        let batch = &batch;
        self.run(Call::write("DeleteObjects", ""), |watch| async move {
            let is_outstanding = watch.is_outstanding;
            let batch = batch
                .as_ref()
                .map_err(|error| Trouble::Local(error.to_string()))?;
            let answer = self
                .client()
                .delete_objects()
                .bucket(&self.bucket)
                .delete(batch.clone())
                .set_request_payer(self.given.payer())
                .customize()
                .interceptor(WithMd5)
                .interceptor(watch)
                .send()
                .await
                .map_err(trouble)?;
            let one = |key: &String| {
                let error = answer
                    .errors()
                    .iter()
                    .find(|error| error.key() == Some(key));
                let is_gone = answer
                    .deleted()
                    .iter()
                    .any(|deleted| deleted.key() == Some(key));
                match error {
                    // What is to go and is not there has gone.
                    Some(error) if error.code() == Some("NoSuchKey") => {
                        Ok(Removed { is_outstanding })
                    }
                    Some(error) => Err(refused(
                        key,
                        error.code().unwrap_or_default(),
                        error.message().unwrap_or_default(),
                        is_outstanding,
                    )),
                    None if is_gone => Ok(Removed { is_outstanding }),
                    None => Err(refused(key, "", "the answer does not name it", true)),
                }
            };
            Ok(keys.iter().map(one).collect())
        })
        .await
    }

    pub(super) async fn objects_page(&self, prefix: &str, token: Option<String>) -> Result<Page> {
        let token = &token;
        self.run(Call::read("ListObjectsV2", ""), |watch| async {
            let answer = self
                .client()
                .list_objects_v2()
                .bucket(&self.bucket)
                .prefix(prefix)
                .set_continuation_token(token.clone())
                .set_request_payer(self.given.payer())
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
                    etag: etag(object.e_tag())?,
                });
            }
            page.next = answer
                .next_continuation_token()
                // The way to where we are would lead round for ever.
                .filter(|next| !next.is_empty() && Some(*next) != token.as_deref())
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

    /// Lists one page of what lies directly below `prefix`, from `token` of the page before: the prefixes that end with the
    /// next `/`, and where the next page begins. Keys are counted by the store as entries of the page too.
    pub async fn folders_page(
        &self,
        prefix: &str,
        token: Option<String>,
    ) -> Result<(Vec<String>, Option<String>)> {
        let token = &token;
        self.run(Call::read("ListObjectsV2", ""), |watch| async {
            let answer = self
                .client()
                .list_objects_v2()
                .bucket(&self.bucket)
                .prefix(prefix)
                .delimiter("/")
                .set_continuation_token(token.clone())
                .set_request_payer(self.given.payer())
                .encoding_type(EncodingType::Url)
                .customize()
                .interceptor(watch)
                .send()
                .await
                .map_err(trouble)?;
            let is_encoded = answer.encoding_type() == Some(&EncodingType::Url);
            let mut folders = Vec::new();
            for common in answer.common_prefixes() {
                let name = common.prefix().unwrap_or_default();
                folders.push(if is_encoded {
                    decoded(name)?
                } else {
                    name.to_owned()
                });
            }
            let next = answer
                .next_continuation_token()
                .filter(|next| !next.is_empty() && Some(*next) != token.as_deref())
                .map(str::to_owned);
            if next.is_none() && answer.is_truncated() == Some(true) {
                return Err(no_way());
            }
            Ok((folders, next))
        })
        .await
        .map_err(|failure| failure.error)
    }

    pub(super) async fn parts_page(&self, key: &str, upload: &str, after: u32) -> Result<PartPage> {
        self.run(Call::read("ListParts", key), |watch| async {
            let answer = asked_with!(self.client().list_parts(), self.given)
                .bucket(&self.bucket)
                .key(key)
                .upload_id(upload)
                .set_part_number_marker((after > 0).then(|| after.to_string()))
                .customize()
                .interceptor(watch)
                .send()
                .await
                .map_err(trouble)?;
            // How the parts of an upload from before a restart have to go on.
            let kind = match answer.checksum_algorithm() {
                Some(ChecksumAlgorithm::Crc64Nvme) => Some(Checksum::Crc64),
                Some(ChecksumAlgorithm::Crc32) => Some(Checksum::Crc32),
                _ => None,
            };
            if let Some(kind) = kind.filter(|_| self.uploads.kind(upload).is_none()) {
                self.uploads.set_kind(upload, kind);
            }
            let mut page = PartPage::default();
            for part in answer.parts() {
                page.parts.push(ListedPart {
                    number: number(part.part_number())?,
                    etag: etag(part.e_tag())?,
                    size: length(part.size())?,
                });
            }
            if answer.is_truncated() == Some(true) {
                // The marker is the last number; a store that does not say it has said that number.
                let last = page.parts.last().map(|part| part.number);
                let next = answer
                    .next_part_number_marker()
                    .and_then(|marker| marker.parse().ok())
                    .or(last)
                    .filter(|next| *next > after);
                page.next = Some(next.ok_or_else(no_way)?);
            }
            Ok(page)
        })
        .await
        .map_err(|failure| failure.error)
    }

    pub(super) async fn uploads_page(
        &self,
        prefix: &str,
        token: Option<UploadToken>,
    ) -> Result<UploadPage> {
        let token = &token;
        self.run(Call::read("ListMultipartUploads", ""), |watch| async {
            let answer = self
                .client()
                .list_multipart_uploads()
                .bucket(&self.bucket)
                .prefix(prefix)
                .encoding_type(EncodingType::Url)
                .set_request_payer(self.given.payer())
                .set_key_marker(token.as_ref().map(|token| token.key.clone()))
                .set_upload_id_marker(token.as_ref().map(|token| token.upload.clone()))
                .customize()
                .interceptor(watch)
                .send()
                .await
                .map_err(trouble)?;
            let is_encoded = answer.encoding_type() == Some(&EncodingType::Url);
            let plain = |key: &str| {
                if is_encoded {
                    decoded(key)
                } else {
                    Ok(key.to_owned())
                }
            };
            let mut page = UploadPage::default();
            for upload in answer.uploads() {
                page.uploads.push(ListedUpload {
                    key: plain(upload.key().unwrap_or_default())?,
                    id: upload.upload_id().unwrap_or_default().to_owned(),
                    begun_ns: upload.initiated().and_then(nanoseconds),
                });
            }
            if answer.is_truncated() == Some(true) {
                let key = answer.next_key_marker().filter(|key| !key.is_empty());
                page.next = Some(UploadToken {
                    key: plain(key.ok_or_else(no_way)?)?,
                    upload: answer
                        .next_upload_id_marker()
                        .unwrap_or_default()
                        .to_owned(),
                });
                if page.next == *token {
                    return Err(no_way());
                }
            }
            Ok(page)
        })
        .await
        .map_err(|failure| failure.error)
    }
}

fn number(number: Option<i32>) -> std::result::Result<u32, Trouble> {
    number
        .and_then(|number| u32::try_from(number).ok())
        .filter(|number| (1..=10_000).contains(number))
        .ok_or_else(|| Trouble::Garbled("a part without a number".to_owned()))
}

fn no_way() -> Trouble {
    Trouble::Garbled("a page without the way to the next".to_owned())
}

/// Gives a request the MD5 of its body, which every store takes, in place of the SDK's checksum, which many do not.
#[derive(Debug)]
struct WithMd5;

#[dyn_dispatch_hint]
impl Intercept for WithMd5 {
    fn name(&self) -> &'static str {
        "WithMd5"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> std::result::Result<(), BoxError> {
        let request = context.request_mut();
        let md5 = request.body().bytes().map(md5);
        let headers = request.headers_mut();
        for name in ["x-amz-checksum-crc32", "x-amz-sdk-checksum-algorithm"] {
            headers.remove(name);
        }
        if let Some(md5) = md5 {
            headers.insert("content-md5", md5);
        }
        Ok(())
    }
}
