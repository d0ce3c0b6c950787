//! Copies of objects within the bucket.

use std::fs::File;
use std::io;

use s3s::dto::{
    CopyObjectInput, CopyObjectOutput, CopyObjectResult, CopySource, ETagCondition,
    MetadataDirective,
};
use s3s::{S3Error, S3Request, S3Response, S3Result, s3_error};

use crate::commands::demo::storage::condition::{self, OnRead, OnWrite};
use crate::commands::demo::storage::index::{Attributes, Object};
use crate::commands::demo::storage::intake::{Intake, Taken};
use crate::commands::demo::storage::objects::{New, attributes, check_user, refuse_write_features};
use crate::commands::demo::storage::sums::{Kind, Method, show};
use crate::commands::demo::storage::{Answer, State, Storage, check_version, timestamp};
use crate::store::MAX_SINGLE;

/// Returns the key of a copy's source, which must be in this bucket.
pub fn source_key(storage: &Storage, source: &CopySource) -> S3Result<String> {
    match source {
        CopySource::Bucket {
            bucket,
            key,
            version_id,
        } => {
            storage.check_bucket(bucket)?;
            check_version(version_id.as_deref())?;
            Ok(key.to_string())
        }
        _ => Err(s3_error!(
            NotImplemented,
            "This endpoint does not have access points."
        )),
    }
}

pub async fn object(
    storage: &Storage,
    req: S3Request<CopyObjectInput>,
) -> Answer<CopyObjectOutput> {
    let mut input = req.input;
    storage.check_bucket(&input.bucket)?;
    refuse_write_features!(input)?;
    let from = source_key(storage, &input.copy_source)?;
    // The protocol library's model is older than these two headers of CopyObject.
    let conditions = OnWrite::new(
        header_condition(&req.headers, "if-match")?,
        header_condition(&req.headers, "if-none-match")?.as_ref(),
    )?;
    let on_source = OnRead {
        is: input.copy_source_if_match.take(),
        is_not: input.copy_source_if_none_match.take(),
        since: input.copy_source_if_modified_since.take(),
        not_since: input.copy_source_if_unmodified_since.take(),
    };
    let is_replacing = input
        .metadata_directive
        .as_ref()
        .is_some_and(|directive| directive.as_str() == MetadataDirective::REPLACE);
    let mut attributes = attributes!(input);
    check_user(&attributes)?;
    if from == input.key && !is_replacing && attributes.storage_class.is_none() {
        return Err(s3_error!(
            InvalidRequest,
            "This copy request is illegal because it is trying to copy an object to itself without changing it."
        ));
    }
    let method = match &input.checksum_algorithm {
        Some(name) => Some(
            Method::from_name(name.as_str())
                .ok_or_else(|| s3_error!(InvalidRequest, "checksum algorithm"))?,
        ),
        None => None,
    };
    let object = storage
        .blocking(move |state| {
            let (source, file) = state.open(&from, |object| on_source.check_source(object))?;
            if source.size > MAX_SINGLE {
                return Err(s3_error!(
                    InvalidRequest,
                    "The specified copy source is larger than the maximum allowable size for a copy source: {MAX_SINGLE}"
                ));
            }
            if !is_replacing {
                let class = attributes.storage_class.take();
                attributes = source.attributes.clone();
                attributes.storage_class = class;
            }
            let new = copied(state, &source, &file, input.key, attributes, method)?;
            state.commit(new, &conditions, |_| Ok(()))
        })
        .await?;
    let mut result = CopyObjectResult {
        e_tag: Some(condition::etag(&object.etag)),
        last_modified: Some(timestamp(object.modified_ns)),
        checksum_type: Some(object.sum.kind.name().to_owned().into()),
        ..Default::default()
    };
    show!(object.sum, result);
    Ok(S3Response::new(CopyObjectOutput {
        copy_object_result: Some(result),
        ..Default::default()
    }))
}

/// Copies the bytes. What was one piece keeps its `ETag` and checksum; what was parts becomes one piece.
fn copied(
    state: &State,
    source: &Object,
    mut file: &File,
    key: String,
    attributes: Attributes,
    method: Option<Method>,
) -> S3Result<New> {
    let method = method.unwrap_or(source.sum.method);
    let is_known = source.upload.is_none()
        && source.sum.method == method
        && source.sum.kind == Kind::FullObject;
    if !is_known {
        let mut intake = Intake::new(&state.files, method).map_err(S3Error::internal_error)?;
        intake
            .copy(file, source.size)
            .map_err(S3Error::internal_error)?;
        let taken = intake.finish().map_err(S3Error::internal_error)?;
        return Ok(New::single(key, taken, attributes));
    }
    let mut temporary = state.files.temporary().map_err(S3Error::internal_error)?;
    // The kernel copies, and shares the blocks where the file system can.
    let size = io::copy(&mut file, &mut temporary.file).map_err(S3Error::internal_error)?;
    if size != source.size {
        return Err(s3_error!(
            InternalError,
            "The object's file was changed outside."
        ));
    }
    Ok(New {
        key,
        taken: Taken {
            temporary,
            size,
            md5: [0; 16],
            sum: source.sum.clone(),
        },
        etag: source.etag.clone(),
        sum: source.sum.clone(),
        upload: None,
        attributes,
    })
}

fn header_condition(headers: &hyper::HeaderMap, name: &str) -> S3Result<Option<ETagCondition>> {
    match headers.get(name) {
        None => Ok(None),
        Some(value) => ETagCondition::parse_http_header(value.as_bytes())
            .map(Some)
            .map_err(|_| s3_error!(InvalidArgument, "{name}")),
    }
}
