//! Multipart uploads: create, parts, complete, abort.
//!
//! Parts are files of their own until the upload is completed; then they are joined into one file, without a lock, and
//! committed like a put if the upload is still open. An object remembers the upload that made it, so that a repeated
//! completion whose first answer was lost is answered like the first, as long as the object is still that one.

use std::collections::BTreeMap;
use std::io;

use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, CompleteMultipartUploadInput,
    CompleteMultipartUploadOutput, CompletedPart, CopyPartResult, CreateMultipartUploadInput,
    CreateMultipartUploadOutput, Range, UploadPartCopyInput, UploadPartCopyOutput, UploadPartInput,
    UploadPartOutput,
};
use s3s::{S3Error, S3Request, S3Response, S3Result, s3_error};

use crate::commands::demo::storage::condition::{self, OnRead, OnWrite};
use crate::commands::demo::storage::index::{Index, Object, Part, Upload};
use crate::commands::demo::storage::intake::{self, Intake, Taken};
use crate::commands::demo::storage::objects::{
    New, attributes, check_user, refuse_write_features, trailer,
};
use crate::commands::demo::storage::sums::{
    self, Claims, Kind, Method, compare, given, hex, join, show,
};
use crate::commands::demo::storage::{Answer, State, Storage, copy, now_ns, random, timestamp};
use crate::store::MAX_SINGLE;

/// The smallest part but the last, in bytes.
const MIN_PART: u64 = 5 << 20;

/// The highest number of a part.
const MAX_NUMBER: i32 = 10_000;

/// Looks an open upload up; its key must be the one it was created for.
pub fn find(index: &Index, key: &str, id: &str) -> S3Result<Upload> {
    index
        .upload(id)
        .map_err(S3Error::internal_error)?
        .filter(|upload| upload.key == key)
        .ok_or_else(no_upload)
}

fn no_upload() -> S3Error {
    s3_error!(
        NoSuchUpload,
        "The specified upload does not exist. It may have been aborted or completed."
    )
}

/// Returns the key for an answer in XML, which has no characters for some keys.
pub fn printable(key: &str) -> Option<String> {
    let is_printable = !key
        .chars()
        .any(|c| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}'));
    is_printable.then(|| key.to_owned())
}

fn check_number(number: i32) -> S3Result {
    if (1..=MAX_NUMBER).contains(&number) {
        return Ok(());
    }
    Err(s3_error!(
        InvalidArgument,
        "Part number must be an integer between 1 and {MAX_NUMBER}, inclusive"
    ))
}

pub async fn create(
    storage: &Storage,
    mut input: CreateMultipartUploadInput,
) -> Answer<CreateMultipartUploadOutput> {
    storage.check_bucket(&input.bucket)?;
    refuse_write_features!(input)?;
    let attributes = attributes!(input);
    check_user(&attributes)?;
    let kind = input
        .checksum_type
        .as_ref()
        .map(s3s::dto::ChecksumType::as_str);
    let declared = match &input.checksum_algorithm {
        Some(name) => {
            let method = Method::from_name(name.as_str()).ok_or_else(|| {
                s3_error!(
                    InvalidRequest,
                    "Checksum algorithm provided is unsupported."
                )
            })?;
            Some((method, method.kind(kind)?))
        }
        None if kind.is_some() => {
            return Err(s3_error!(
                InvalidRequest,
                "The x-amz-checksum-type header can only be used with the x-amz-checksum-algorithm header."
            ));
        }
        None => None,
    };
    let id = hex(&random::<16>().map_err(S3Error::internal_error)?);
    let upload = Upload {
        id: id.clone(),
        key: input.key.clone(),
        started_ns: now_ns(),
        declared,
        attributes,
    };
    storage
        .blocking(move |state| {
            state
                .index()
                .begin(&upload)
                .map_err(S3Error::internal_error)
        })
        .await?;
    Ok(S3Response::new(CreateMultipartUploadOutput {
        bucket: Some(input.bucket),
        key: printable(&input.key),
        upload_id: Some(id),
        checksum_algorithm: declared.map(|(method, _)| method.name().to_owned().into()),
        checksum_type: declared.map(|(_, kind)| kind.name().to_owned().into()),
        ..Default::default()
    }))
}

impl State {
    /// Puts a part that is whole into its place, and removes the one it replaces.
    fn commit_part(&self, key: &str, id: &str, number: i32, taken: Taken) -> S3Result<Part> {
        let index = self.index();
        find(&index, key, id)?;
        let file = self
            .files
            .place_part(taken.temporary, id)
            .map_err(S3Error::internal_error)?;
        let part = Part {
            number,
            file,
            size: taken.size,
            etag: hex(&taken.md5),
            modified_ns: now_ns(),
            sum: taken.sum,
        };
        let replaced = index
            .transaction(|index| index.put_part(id, &part).map_err(S3Error::internal_error))?;
        if let Some(replaced) = replaced {
            self.files
                .remove_part(&replaced)
                .map_err(S3Error::internal_error)?;
        }
        Ok(part)
    }

    /// Removes the files of parts whose upload is over.
    fn remove_parts(&self, parts: &[Part]) -> S3Result {
        parts
            .iter()
            .try_for_each(|part| self.files.remove_part(&part.file))
            .map_err(S3Error::internal_error)
    }
}

pub async fn put_part(
    storage: &Storage,
    req: S3Request<UploadPartInput>,
) -> Answer<UploadPartOutput> {
    let mut input = req.input;
    storage.check_bucket(&input.bucket)?;
    check_number(input.part_number)?;
    let claims = Claims::new(
        input.content_length,
        input.content_md5.take(),
        given!(input),
        trailer(&req.headers, req.trailing_headers),
    )?;
    let (key, id) = (input.key.clone(), input.upload_id.clone());
    let upload = storage
        .blocking(move |state| find(&state.index(), &key, &id))
        .await?;
    let declared = upload.declared.map(|(method, _)| method);
    if claims.method().is_some() && claims.method() != declared {
        return Err(s3_error!(
            InvalidRequest,
            "Checksum Type mismatch occurred, expected checksum Type: {}, actual checksum Type: {}",
            declared.map_or("null", Method::name),
            claims.method().map_or("null", Method::name)
        ));
    }
    let method = declared.unwrap_or(Method::Crc64Nvme);
    let body = intake::receive(storage, input.body.take(), claims.length(), method).await?;
    let part = storage
        .blocking(move |state| {
            let taken = body.finish(&state.files)?;
            claims.check(taken.size, taken.md5, &taken.sum)?;
            state.commit_part(&input.key, &input.upload_id, input.part_number, taken)
        })
        .await?;
    let mut output = UploadPartOutput {
        e_tag: Some(condition::etag(&part.etag)),
        ..Default::default()
    };
    if declared.is_some() {
        show!(part.sum, output);
    }
    Ok(S3Response::new(output))
}

pub async fn copy_part(
    storage: &Storage,
    input: UploadPartCopyInput,
) -> Answer<UploadPartCopyOutput> {
    storage.check_bucket(&input.bucket)?;
    check_number(input.part_number)?;
    let from = copy::source_key(storage, &input.copy_source)?;
    let wanted = match input.copy_source_range.as_deref().map(Range::parse) {
        None => None,
        Some(Ok(Range::Int {
            first,
            last: Some(last),
        })) => Some((first, last)),
        Some(_) => {
            return Err(s3_error!(
                InvalidArgument,
                "The x-amz-copy-source-range value must be of the form bytes=first-last"
            ));
        }
    };
    let on_source = OnRead {
        is: input.copy_source_if_match,
        is_not: input.copy_source_if_none_match,
        since: input.copy_source_if_modified_since,
        not_since: input.copy_source_if_unmodified_since,
    };
    let (part, is_declared) = storage
        .blocking(move |state| {
            let upload = find(&state.index(), &input.key, &input.upload_id)?;
            let (source, mut file) = state.open(&from, |object| on_source.check_source(object))?;
            let (first, last) = wanted.unwrap_or((0, source.size.saturating_sub(1)));
            if wanted.is_some() && last >= source.size {
                return Err(s3_error!(
                    InvalidRange,
                    "The specified range is not in the source."
                ));
            }
            let len = if source.size == 0 {
                0
            } else {
                last - first + 1
            };
            if len > MAX_SINGLE {
                return Err(s3_error!(EntityTooLarge));
            }
            let method = upload
                .declared
                .map_or(Method::Crc64Nvme, |(method, _)| method);
            let taken = (|| {
                io::Seek::seek(&mut file, io::SeekFrom::Start(first))?;
                let mut intake = Intake::new(&state.files, method)?;
                intake.copy(&file, len)?;
                intake.finish()
            })()
            .map_err(S3Error::internal_error)?;
            let part = state.commit_part(&input.key, &input.upload_id, input.part_number, taken)?;
            Ok((part, upload.declared.is_some()))
        })
        .await?;
    let mut result = CopyPartResult {
        e_tag: Some(condition::etag(&part.etag)),
        last_modified: Some(timestamp(part.modified_ns)),
        ..Default::default()
    };
    if is_declared {
        show!(part.sum, result);
    }
    Ok(S3Response::new(UploadPartCopyOutput {
        copy_part_result: Some(result),
        ..Default::default()
    }))
}

pub async fn abort(
    storage: &Storage,
    input: AbortMultipartUploadInput,
) -> Answer<AbortMultipartUploadOutput> {
    storage.check_bucket(&input.bucket)?;
    storage
        .blocking(move |state| {
            let index = state.index();
            find(&index, &input.key, &input.upload_id)?;
            let parts = index
                .parts(&input.upload_id)
                .map_err(S3Error::internal_error)?;
            index
                .end(&input.upload_id)
                .map_err(S3Error::internal_error)?;
            state.remove_parts(&parts)
        })
        .await?;
    Ok(S3Response::new(AbortMultipartUploadOutput::default()))
}

/// What a client says of the object that it completes.
struct Finish {
    key: String,
    id: String,
    parts: Vec<CompletedPart>,
    size: Option<i64>,
    sum: Option<(Method, String)>,
    kind: Option<String>,
    conditions: OnWrite,
}

pub async fn complete(
    storage: &Storage,
    mut input: CompleteMultipartUploadInput,
) -> Answer<CompleteMultipartUploadOutput> {
    storage.check_bucket(&input.bucket)?;
    let finish = Finish {
        id: input.upload_id.clone(),
        parts: input
            .multipart_upload
            .take()
            .and_then(|list| list.parts)
            .unwrap_or_default(),
        size: input.mpu_object_size,
        sum: sums::single(given!(input))?,
        kind: input
            .checksum_type
            .take()
            .map(|kind| kind.as_str().to_owned()),
        conditions: OnWrite::new(input.if_match.take(), input.if_none_match.as_ref())?,
        key: input.key.clone(),
    };
    let object = storage.blocking(move |state| finish.run(state)).await?;
    let mut output = CompleteMultipartUploadOutput {
        bucket: Some(input.bucket),
        key: printable(&input.key),
        e_tag: Some(condition::etag(&object.etag)),
        checksum_type: Some(object.sum.kind.name().to_owned().into()),
        ..Default::default()
    };
    show!(object.sum, output);
    Ok(S3Response::new(output))
}

impl Finish {
    fn run(mut self, state: &State) -> S3Result<Object> {
        let (upload, stored) = {
            let index = state.index();
            match index.upload(&self.id).map_err(S3Error::internal_error)? {
                Some(upload) if upload.key == self.key => {
                    let stored = index.parts(&self.id).map_err(S3Error::internal_error)?;
                    (upload, stored)
                }
                _ => return self.done_before(&index),
            }
        };
        let chosen = choose(&mut self.parts, &stored)?;
        let (method, kind) = upload
            .declared
            .unwrap_or((Method::Crc64Nvme, Kind::FullObject));
        let sums: Vec<(&str, u64)> = chosen
            .iter()
            .map(|part| (part.sum.value.as_str(), part.size))
            .collect();
        let sum = join(method, kind, &sums)?;
        self.check(&chosen, &sum)?;
        let Some(taken) = joined(state, &chosen, sum)? else {
            // Somebody else has ended the upload, or replaced a part, meanwhile.
            return self.done_before(&state.index());
        };
        let new = New {
            etag: sums::etag_of_parts(chosen.iter().map(|part| part.etag.as_str())),
            key: upload.key,
            sum: taken.sum.clone(),
            taken,
            upload: Some(upload.id),
            attributes: upload.attributes,
        };
        let outcome = state.commit(new, &self.conditions, |index| {
            find(index, &self.key, &self.id)?;
            index.end(&self.id).map_err(S3Error::internal_error)
        });
        match outcome {
            Ok(object) => {
                state.remove_parts(&stored)?;
                Ok(object)
            }
            Err(error) => self.done_before(&state.index()).map_err(|_| error),
        }
    }

    /// Returns the object if this very upload has made it already.
    fn done_before(&self, index: &Index) -> S3Result<Object> {
        index
            .object(&self.key)
            .map_err(S3Error::internal_error)?
            .filter(|object| object.upload.as_ref() == Some(&self.id))
            .ok_or_else(no_upload)
    }

    /// Compares what the client says of the whole with what there is.
    fn check(&self, chosen: &[&Part], sum: &sums::Sum) -> S3Result {
        let total: u64 = chosen.iter().map(|part| part.size).sum();
        if self.size.is_some_and(|size| size as u64 != total) {
            return Err(s3_error!(
                InvalidRequest,
                "The provided 'x-amz-mp-object-size' header does not match what was computed."
            ));
        }
        if self
            .kind
            .as_ref()
            .is_some_and(|kind| *kind != sum.kind.name())
        {
            return Err(s3_error!(
                InvalidRequest,
                "The upload was created using the {} checksum mode. The complete request must use the same checksum mode.",
                sum.kind.name()
            ));
        }
        match &self.sum {
            None => Ok(()),
            Some((method, claimed)) if *method == sum.method => {
                compare(*method, claimed, &sum.value)
            }
            // As S3: what cannot be compared cannot be right.
            Some((method, _)) => Err(s3_error!(
                BadDigest,
                "The {} you specified did not match the calculated checksum.",
                method.name()
            )),
        }
    }
}

/// Finds the parts that the client names, in its order, which must be ascending.
fn choose<'s>(named: &mut [CompletedPart], stored: &'s [Part]) -> S3Result<Vec<&'s Part>> {
    let invalid = || {
        s3_error!(
            InvalidPart,
            "One or more of the specified parts could not be found, or its ETag does not match."
        )
    };
    if named.is_empty() {
        return Err(s3_error!(
            MalformedXML,
            "You must specify at least one part"
        ));
    }
    let by_number: BTreeMap<i32, &Part> = stored.iter().map(|part| (part.number, part)).collect();
    let mut chosen: Vec<&Part> = Vec::with_capacity(named.len());
    for claim in named {
        let number = claim.part_number.ok_or_else(|| s3_error!(MalformedXML))?;
        if chosen.last().is_some_and(|last| last.number >= number) {
            return Err(s3_error!(
                InvalidPartOrder,
                "The list of parts was not in ascending order."
            ));
        }
        let part = *by_number.get(&number).ok_or_else(invalid)?;
        if claim.e_tag.as_ref().map(s3s::dto::ETag::value) != Some(&*part.etag) {
            return Err(invalid());
        }
        if let Some((method, claimed)) = sums::single(given!(claim))?
            && (method != part.sum.method || claimed != part.sum.value)
        {
            return Err(invalid());
        }
        chosen.push(part);
    }
    let (_, all_but_last) = chosen.split_last().ok_or_else(invalid)?;
    if all_but_last.iter().any(|part| part.size < MIN_PART) {
        return Err(s3_error!(
            EntityTooSmall,
            "Your proposed upload is smaller than the minimum allowed size"
        ));
    }
    Ok(chosen)
}

/// Joins the parts' files into one; `None` if one of them has gone.
fn joined(state: &State, parts: &[&Part], sum: sums::Sum) -> S3Result<Option<Taken>> {
    let mut temporary = state.files.temporary().map_err(S3Error::internal_error)?;
    let mut size = 0;
    for part in parts {
        let mut file = match state.files.read_part(&part.file) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(S3Error::internal_error(error)),
        };
        size += io::copy(&mut file, &mut temporary.file).map_err(S3Error::internal_error)?;
    }
    Ok(Some(Taken {
        temporary,
        size,
        // The whole's ETag is made of the parts'.
        md5: [0; 16],
        sum,
    }))
}
