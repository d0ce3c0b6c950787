//! Whole objects: put, get, head, delete, copy.

use std::fs::File;
use std::ops::Range;

use s3s::dto::{
    DeleteObjectInput, DeleteObjectOutput, DeleteObjectsInput, DeleteObjectsOutput, DeletedObject,
    ETagCondition, Error as DeleteError, GetObjectInput, GetObjectOutput, HeadObjectInput,
    HeadObjectOutput, ObjectIdentifier, PutObjectInput, PutObjectOutput,
};
use s3s::{S3Error, S3Request, S3Response, S3Result, s3_error};

use crate::commands::demo::storage::condition::{self, OnRead, OnWrite};
use crate::commands::demo::storage::index::{Attributes, Object};
use crate::commands::demo::storage::intake::{self, Taken};
use crate::commands::demo::storage::sums::{Claims, Method, Sum, given, hex, show};
use crate::commands::demo::storage::{
    Answer, State, Storage, check_version, now_ns, reading, refuse_features, timestamp,
};

/// The most user metadata that S3 takes, names and values, in bytes.
const MAX_USER: usize = 2 << 10;

/// The most keys that S3 takes in one `DeleteObjects`.
const MAX_DELETES: usize = 1_000;

/// The content type of an object that was stored without one.
const BINARY: &str = "application/octet-stream";

/// Takes what an object carries out of a request.
macro_rules! attributes {
    ($input:expr) => {
        $crate::commands::demo::storage::index::Attributes {
            user: $input
                .metadata
                .take()
                .unwrap_or_default()
                .into_iter()
                .collect(),
            content_type: $input.content_type.take(),
            content_encoding: $crate::commands::demo::storage::objects::without_framing(
                $input.content_encoding.take(),
            ),
            content_language: $input.content_language.take(),
            content_disposition: $input.content_disposition.take(),
            cache_control: $input.cache_control.take(),
            storage_class: $input.storage_class.take().map(|c| c.as_str().to_owned()),
        }
    };
}
pub(super) use attributes;

/// Refuses the features that a write may ask for and this store does not have.
macro_rules! refuse_write_features {
    ($input:expr) => {
        $crate::commands::demo::storage::refuse_features(&[
            ("encryption", $input.server_side_encryption.is_some()),
            ("encryption", $input.sse_customer_algorithm.is_some()),
            ("object locks", $input.object_lock_mode.is_some()),
            (
                "object locks",
                $input.object_lock_legal_hold_status.is_some(),
            ),
            ("redirects", $input.website_redirect_location.is_some()),
        ])
    };
}
pub(super) use refuse_write_features;

/// Takes the framing of a request's own body out of its encodings: it has been undone, and is no encoding of the object.
pub fn without_framing(encodings: Option<String>) -> Option<String> {
    let encodings = encodings?;
    let kept: Vec<&str> = encodings
        .split(',')
        .map(str::trim)
        .filter(|encoding| !encoding.is_empty() && *encoding != "aws-chunked")
        .collect();
    (!kept.is_empty()).then(|| kept.join(","))
}

/// Refuses user metadata that is larger than S3 takes.
pub fn check_user(attributes: &Attributes) -> S3Result {
    let size: usize = attributes.user.iter().map(|(n, v)| n.len() + v.len()).sum();
    if size > MAX_USER {
        return Err(s3_error!(MetadataTooLarge));
    }
    Ok(())
}

/// A new object on its way into the index.
pub struct New {
    pub key: String,
    pub taken: Taken,
    pub etag: String,
    pub sum: Sum,
    pub upload: Option<String>,
    pub attributes: Attributes,
}

impl New {
    /// An object whose body arrived in one piece.
    pub fn single(key: String, taken: Taken, attributes: Attributes) -> Self {
        Self {
            key,
            etag: hex(&taken.md5),
            sum: taken.sum.clone(),
            taken,
            upload: None,
            attributes,
        }
    }
}

impl State {
    /// Looks an object up.
    pub fn find(&self, key: &str) -> S3Result<Object> {
        self.index()
            .object(key)
            .map_err(S3Error::internal_error)?
            .ok_or_else(|| s3_error!(NoSuchKey, "The specified key does not exist."))
    }

    /// Looks an object up and opens its bytes.
    pub fn open(
        &self,
        key: &str,
        check: impl FnOnce(&Object) -> S3Result,
    ) -> S3Result<(Object, File)> {
        let index = self.index();
        let object = index
            .object(key)
            .map_err(S3Error::internal_error)?
            .ok_or_else(|| s3_error!(NoSuchKey, "The specified key does not exist."))?;
        check(&object)?;
        let file = self
            .files
            .read(key, object.place)
            .map_err(S3Error::internal_error)?;
        drop(index);
        let size = file.metadata().map_err(S3Error::internal_error)?.len();
        if size != object.size {
            return Err(s3_error!(
                InternalError,
                "The object's file was changed outside."
            ));
        }
        Ok((object, file))
    }

    /// Checks the conditions, puts the bytes in their place and writes the row. `more` is done under the same lock.
    pub fn commit(
        &self,
        new: New,
        conditions: &OnWrite,
        more: impl FnOnce(&crate::commands::demo::storage::index::Index) -> S3Result,
    ) -> S3Result<Object> {
        let index = self.index();
        let before = index.object(&new.key).map_err(S3Error::internal_error)?;
        conditions.check(before.as_ref())?;
        index.transaction(|index| {
            more(index)?;
            let place = self
                .files
                .place(
                    new.taken.temporary,
                    &new.key,
                    before.map(|object| object.place),
                )
                .map_err(S3Error::internal_error)?;
            let object = Object {
                key: new.key,
                place,
                size: new.taken.size,
                etag: new.etag,
                modified_ns: now_ns(),
                sum: new.sum,
                upload: new.upload,
                attributes: new.attributes,
            };
            index.put(&object).map_err(S3Error::internal_error)?;
            Ok(object)
        })
    }

    /// Removes an object. Absent is success.
    fn delete(&self, key: &str, condition: Option<&ETagCondition>) -> S3Result {
        let index = self.index();
        let there = index.object(key).map_err(S3Error::internal_error)?;
        OnWrite::new(condition.cloned(), None)?.check(there.as_ref())?;
        if let Some(object) = there {
            // The row first: a file without a row is no object, a row without a file would be a broken one.
            index.delete(key).map_err(S3Error::internal_error)?;
            self.files
                .remove(key, object.place)
                .map_err(S3Error::internal_error)?;
        }
        Ok(())
    }
}

pub async fn put(storage: &Storage, req: S3Request<PutObjectInput>) -> Answer<PutObjectOutput> {
    let mut input = req.input;
    storage.check_bucket(&input.bucket)?;
    refuse_write_features!(input)?;
    refuse_features(&[("appending", input.write_offset_bytes.is_some())])?;
    let conditions = OnWrite::new(input.if_match.take(), input.if_none_match.as_ref())?;
    let attributes = attributes!(input);
    check_user(&attributes)?;
    let claims = Claims::new(
        input.content_length,
        input.content_md5.take(),
        given!(input),
        trailer(&req.headers, req.trailing_headers),
    )?;
    let method = claims.method().unwrap_or(Method::Crc64Nvme);
    let body = intake::receive(storage, input.body.take(), claims.length(), method).await?;
    let object = storage
        .blocking(move |state| {
            let taken = body.finish(&state.files)?;
            claims.check(taken.size, taken.md5, &taken.sum)?;
            let new = New::single(input.key, taken, attributes);
            state.commit(new, &conditions, |_| Ok(()))
        })
        .await?;
    let mut output = PutObjectOutput {
        e_tag: Some(condition::etag(&object.etag)),
        checksum_type: Some(object.sum.kind.name().to_owned().into()),
        ..Default::default()
    };
    show!(object.sum, output);
    Ok(S3Response::new(output))
}

/// Pairs the announcement of a trailer with the place where it will be.
pub fn trailer(
    headers: &hyper::HeaderMap,
    trailing: Option<s3s::TrailingHeaders>,
) -> Option<(Option<&str>, s3s::TrailingHeaders)> {
    let name = headers
        .get("x-amz-trailer")
        .and_then(|name| name.to_str().ok());
    trailing.map(|trailing| (name, trailing))
}

pub async fn get(storage: &Storage, input: GetObjectInput) -> Answer<GetObjectOutput> {
    storage.check_bucket(&input.bucket)?;
    check_version(input.version_id.as_deref())?;
    refuse_features(&[("reading by parts", input.part_number.is_some())])?;
    let conditions = OnRead {
        is: input.if_match,
        is_not: input.if_none_match,
        since: input.if_modified_since,
        not_since: input.if_unmodified_since,
    };
    let wanted = input.range;
    let (object, range, body) = storage
        .blocking(move |state| {
            let (object, file) = state.open(&input.key, |object| conditions.check(object))?;
            let range = match wanted {
                Some(range) => range
                    .check(object.size)
                    .map_err(|_| s3_error!(InvalidRange))?,
                None => 0..object.size,
            };
            let body = reading::body(file, &range).map_err(S3Error::internal_error)?;
            Ok((object, range, body))
        })
        .await?;
    let mut output = GetObjectOutput {
        accept_ranges: Some("bytes".to_owned()),
        body: Some(body),
        content_length: Some((range.end - range.start) as i64),
        content_range: wanted.is_some().then(|| content_range(&range, object.size)),
        content_type: Some(
            object
                .attributes
                .content_type
                .unwrap_or_else(|| BINARY.to_owned()),
        ),
        content_encoding: object.attributes.content_encoding,
        content_language: object.attributes.content_language,
        content_disposition: object.attributes.content_disposition,
        cache_control: object.attributes.cache_control,
        storage_class: object.attributes.storage_class.map(Into::into),
        metadata: Some(object.attributes.user.into_iter().collect()),
        e_tag: Some(condition::etag(&object.etag)),
        last_modified: Some(timestamp(object.modified_ns)),
        ..Default::default()
    };
    // A checksum of the whole would be compared with the range's bytes.
    if input.checksum_mode.is_some() && wanted.is_none() {
        output.checksum_type = Some(object.sum.kind.name().to_owned().into());
        show!(object.sum, output);
    }
    Ok(S3Response::new(output))
}

fn content_range(range: &Range<u64>, size: u64) -> String {
    format!(
        "bytes {}-{}/{size}",
        range.start,
        range.end.saturating_sub(1)
    )
}

pub async fn head(storage: &Storage, input: HeadObjectInput) -> Answer<HeadObjectOutput> {
    storage.check_bucket(&input.bucket)?;
    check_version(input.version_id.as_deref())?;
    refuse_features(&[("reading by parts", input.part_number.is_some())])?;
    let conditions = OnRead {
        is: input.if_match,
        is_not: input.if_none_match,
        since: input.if_modified_since,
        not_since: input.if_unmodified_since,
    };
    let object = storage
        .blocking(move |state| {
            let object = state.find(&input.key)?;
            conditions.check(&object)?;
            Ok(object)
        })
        .await?;
    let mut output = HeadObjectOutput {
        accept_ranges: Some("bytes".to_owned()),
        content_length: Some(object.size as i64),
        content_type: Some(
            object
                .attributes
                .content_type
                .unwrap_or_else(|| BINARY.to_owned()),
        ),
        content_encoding: object.attributes.content_encoding,
        content_language: object.attributes.content_language,
        content_disposition: object.attributes.content_disposition,
        cache_control: object.attributes.cache_control,
        storage_class: object.attributes.storage_class.map(Into::into),
        metadata: Some(object.attributes.user.into_iter().collect()),
        e_tag: Some(condition::etag(&object.etag)),
        last_modified: Some(timestamp(object.modified_ns)),
        ..Default::default()
    };
    if input.checksum_mode.is_some() {
        output.checksum_type = Some(object.sum.kind.name().to_owned().into());
        show!(object.sum, output);
    }
    Ok(S3Response::new(output))
}

pub async fn delete(storage: &Storage, input: DeleteObjectInput) -> Answer<DeleteObjectOutput> {
    storage.check_bucket(&input.bucket)?;
    check_version(input.version_id.as_deref())?;
    refuse_features(&[
        ("deletes by size", input.if_match_size.is_some()),
        (
            "deletes by time",
            input.if_match_last_modified_time.is_some(),
        ),
    ])?;
    storage
        .blocking(move |state| state.delete(&input.key, input.if_match.as_ref()))
        .await?;
    Ok(S3Response::new(DeleteObjectOutput::default()))
}

pub async fn delete_many(
    storage: &Storage,
    input: DeleteObjectsInput,
) -> Answer<DeleteObjectsOutput> {
    storage.check_bucket(&input.bucket)?;
    let wanted = input.delete.objects;
    if wanted.is_empty() || wanted.len() > MAX_DELETES {
        return Err(s3_error!(MalformedXML));
    }
    let is_quiet = input.delete.quiet == Some(true);
    let output = storage
        .blocking(move |state| {
            let (mut deleted, mut errors) = (Vec::new(), Vec::new());
            for object in wanted {
                match delete_one(state, &object) {
                    Ok(()) if is_quiet => {}
                    Ok(()) => deleted.push(DeletedObject {
                        key: Some(object.key),
                        ..Default::default()
                    }),
                    Err(error) => errors.push(DeleteError {
                        code: Some(error.code().as_str().to_owned()),
                        message: error.message().map(str::to_owned),
                        key: Some(object.key),
                        version_id: object.version_id,
                    }),
                }
            }
            Ok(DeleteObjectsOutput {
                deleted: Some(deleted),
                errors: Some(errors),
                ..Default::default()
            })
        })
        .await?;
    Ok(S3Response::new(output))
}

fn delete_one(state: &State, object: &ObjectIdentifier) -> S3Result {
    check_version(object.version_id.as_deref())?;
    refuse_features(&[
        ("deletes by size", object.size.is_some()),
        ("deletes by time", object.last_modified_time.is_some()),
    ])?;
    let condition = object.e_tag.clone().map(ETagCondition::ETag);
    state.delete(&object.key, condition.as_ref())
}
