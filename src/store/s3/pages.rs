//! Requests about many things at once: batches of removals, parts and uploads page by page.

use aws_sdk_s3::types::{Delete, EncodingType, ObjectIdentifier};

use crate::store::s3::S3Store;
use crate::store::s3::attempt::Call;
use crate::store::s3::classify::{Trouble, refused, trouble};
use crate::store::s3::wire::{decoded, etag, length, nanoseconds};
use crate::store::{ListedPart, ListedUpload, PartPage, Removed, Result, UploadPage, UploadToken};

impl S3Store {
    /// Removes many objects with one request; what the answer does not name is not known to be removed.
    pub(super) async fn remove_batch(&self, keys: &[String]) -> Result<Vec<Result<Removed>>> {
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
                .client
                .delete_objects()
                .bucket(&self.bucket)
                .delete(batch.clone())
                .customize()
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
                    Some(error) => Err(refused(
                        key,
                        error.code().unwrap_or_default(),
                        error.message().unwrap_or_default(),
                    )),
                    None if is_gone => Ok(Removed { is_outstanding }),
                    None => Err(refused(key, "", "the answer does not name it")),
                }
            };
            Ok(keys.iter().map(one).collect())
        })
        .await
        .map_err(|failure| failure.error)
    }

    pub(super) async fn parts_page(&self, key: &str, upload: &str, after: u32) -> Result<PartPage> {
        self.run(Call::read("ListParts", key), |watch| async {
            let answer = self
                .client
                .list_parts()
                .bucket(&self.bucket)
                .key(key)
                .upload_id(upload)
                .set_part_number_marker((after > 0).then(|| after.to_string()))
                .customize()
                .interceptor(watch)
                .send()
                .await
                .map_err(trouble)?;
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
                .client
                .list_multipart_uploads()
                .bucket(&self.bucket)
                .prefix(prefix)
                .encoding_type(EncodingType::Url)
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
