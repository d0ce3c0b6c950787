//! Listings, in the order of the keys' UTF-8 bytes.
//!
//! With `encoding-type=url` names are encoded as S3 does it: a space is `+`, a slash stays.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::dto::{
    CommonPrefix, EncodingType, ListMultipartUploadsInput, ListMultipartUploadsOutput,
    ListObjectsInput, ListObjectsOutput, ListObjectsV2Input, ListObjectsV2Output, ListPartsInput,
    ListPartsOutput, MultipartUpload, Part,
};
use s3s::{S3Error, S3Response, S3Result, s3_error};

use crate::commands::demo::storage::index::{self, Index};
use crate::commands::demo::storage::sums::{Method, show};
use crate::commands::demo::storage::{Answer, Storage, condition, timestamp};

/// The most entries of a page, whatever a client asks for.
const MAX_PAGE: i32 = 1_000;

const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'*');

/// What a client wants listed.
struct Query {
    prefix: String,
    delimiter: Option<String>,
    from: From,
    limit: usize,
}

/// Where a page begins.
enum From {
    Start,
    /// After this key; keys that begin with it follow.
    After(String),
    /// After everything that begins with this.
    Past(String),
}

/// A page before it is put into one of the two versions' words.
#[derive(Default)]
struct Page {
    objects: Vec<index::Object>,
    prefixes: Vec<String>,
    /// The last key or common prefix of the page, if more follow.
    next: Option<Last>,
}

enum Last {
    Key(String),
    Prefix(String),
}

impl Query {
    fn run(&self, index: &Index) -> rusqlite::Result<Page> {
        let mut page = Page::default();
        if self.limit == 0 {
            return Ok(page);
        }
        let mut from = match &self.from {
            From::Start => self.prefix.clone().into_bytes(),
            // No key lies between a key and the same with a zero byte.
            From::After(key) => [key.as_bytes(), b"\0"].concat(),
            From::Past(prefix) => past(prefix),
        };
        from = from.max(self.prefix.clone().into_bytes());
        let mut last = None;
        loop {
            // Set when a common prefix was met: everything that begins with it is stepped over.
            let mut group: Option<String> = None;
            let mut is_full = false;
            index.scan(&from, |object| {
                if !object.key.starts_with(&self.prefix) {
                    return false;
                }
                if page.objects.len() + page.prefixes.len() == self.limit {
                    is_full = true;
                    return false;
                }
                if let Some(common) = self.common_prefix(&object.key) {
                    group = Some(common.to_owned());
                    return false;
                }
                last = Some(Last::Key(object.key.clone()));
                page.objects.push(object);
                true
            })?;
            if is_full {
                page.next = last;
                return Ok(page);
            }
            let Some(common) = group else {
                return Ok(page);
            };
            from = past(&common);
            last = Some(Last::Prefix(common.clone()));
            page.prefixes.push(common);
        }
    }

    fn common_prefix<'k>(&self, key: &'k str) -> Option<&'k str> {
        let delimiter = self.delimiter.as_deref()?;
        let rest = &key[self.prefix.len()..];
        let end = self.prefix.len() + rest.find(delimiter)? + delimiter.len();
        Some(&key[..end])
    }
}

/// Returns the first bytes after everything that begins with `prefix`, which is not empty.
fn past(prefix: &str) -> Vec<u8> {
    let mut bytes = prefix.as_bytes().to_vec();
    if let Some(last) = bytes.last_mut() {
        // The highest byte of UTF-8 is 0xf4.
        *last += 1;
    }
    bytes
}

impl Last {
    /// Returns the continuation token: opaque to clients.
    fn token(&self) -> String {
        let text = match self {
            Self::Key(key) => format!("k{key}"),
            Self::Prefix(prefix) => format!("p{prefix}"),
        };
        BASE64.encode(text)
    }

    fn into_text(self) -> String {
        match self {
            Self::Key(text) | Self::Prefix(text) => text,
        }
    }
}

fn from_token(token: &str) -> S3Result<From> {
    let refused = || {
        s3_error!(
            InvalidArgument,
            "The continuation token is not one of ours."
        )
    };
    let text = BASE64.decode(token).map_err(|_| refused())?;
    let text = String::from_utf8(text).map_err(|_| refused())?;
    match text.split_at_checked(1) {
        Some(("k", key)) => Ok(From::After(key.to_owned())),
        Some(("p", prefix)) if !prefix.is_empty() => Ok(From::Past(prefix.to_owned())),
        _ => Err(refused()),
    }
}

fn limit(asked: Option<i32>) -> S3Result<i32> {
    match asked.unwrap_or(MAX_PAGE) {
        negative if negative < 0 => Err(s3_error!(InvalidArgument, "a page cannot be negative")),
        asked => Ok(asked.min(MAX_PAGE)),
    }
}

/// Encodes names if the client asked for it.
struct Names {
    is_encoding: bool,
}

impl Names {
    fn new(encoding: Option<&EncodingType>) -> S3Result<Self> {
        match encoding {
            None => Ok(Self { is_encoding: false }),
            Some(encoding) if encoding.as_str() == EncodingType::URL => {
                Ok(Self { is_encoding: true })
            }
            Some(_) => Err(s3_error!(
                InvalidArgument,
                "Invalid Encoding Method specified in Request"
            )),
        }
    }

    fn show(&self, name: String) -> String {
        if !self.is_encoding {
            return name;
        }
        // A percent sign of the name itself is encoded, so that `%20` can only be a space.
        utf8_percent_encode(&name, ENCODED)
            .to_string()
            .replace("%20", "+")
    }

    fn prefixes(&self, prefixes: Vec<String>) -> Vec<CommonPrefix> {
        let wrap = |prefix| CommonPrefix {
            prefix: Some(self.show(prefix)),
        };
        prefixes.into_iter().map(wrap).collect()
    }

    fn objects(&self, objects: Vec<index::Object>) -> Vec<s3s::dto::Object> {
        let wrap = |object: index::Object| s3s::dto::Object {
            key: Some(self.show(object.key)),
            size: Some(object.size as i64),
            e_tag: Some(condition::etag(&object.etag)),
            last_modified: Some(timestamp(object.modified_ns)),
            checksum_algorithm: Some(vec![object.sum.method.name().to_owned().into()]),
            checksum_type: Some(object.sum.kind.name().to_owned().into()),
            storage_class: Some(
                object
                    .attributes
                    .storage_class
                    .unwrap_or_else(|| "STANDARD".to_owned())
                    .into(),
            ),
            ..Default::default()
        };
        objects.into_iter().map(wrap).collect()
    }
}

async fn run(storage: &Storage, query: Query) -> S3Result<Page> {
    storage
        .blocking(move |state| query.run(&state.index()).map_err(S3Error::internal_error))
        .await
}

fn not_empty(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

pub async fn objects_v2(
    storage: &Storage,
    input: ListObjectsV2Input,
) -> Answer<ListObjectsV2Output> {
    storage.check_bucket(&input.bucket)?;
    let names = Names::new(input.encoding_type.as_ref())?;
    let limit = limit(input.max_keys)?;
    let start_after = not_empty(input.start_after);
    let from = match (&input.continuation_token, &start_after) {
        (Some(token), _) => from_token(token)?,
        (None, Some(key)) => From::After(key.clone()),
        (None, None) => From::Start,
    };
    let query = Query {
        prefix: input.prefix.clone().unwrap_or_default(),
        delimiter: not_empty(input.delimiter.clone()),
        from,
        limit: limit as usize,
    };
    let page = run(storage, query).await?;
    Ok(S3Response::new(ListObjectsV2Output {
        name: Some(input.bucket),
        prefix: Some(names.show(input.prefix.unwrap_or_default())),
        delimiter: input.delimiter.map(|delimiter| names.show(delimiter)),
        start_after: start_after.map(|key| names.show(key)),
        max_keys: Some(limit),
        key_count: Some((page.objects.len() + page.prefixes.len()) as i32),
        continuation_token: input.continuation_token,
        is_truncated: Some(page.next.is_some()),
        next_continuation_token: page.next.as_ref().map(Last::token),
        contents: Some(names.objects(page.objects)),
        common_prefixes: Some(names.prefixes(page.prefixes)),
        encoding_type: input.encoding_type,
        ..Default::default()
    }))
}

pub async fn objects(storage: &Storage, input: ListObjectsInput) -> Answer<ListObjectsOutput> {
    storage.check_bucket(&input.bucket)?;
    let names = Names::new(input.encoding_type.as_ref())?;
    let limit = limit(input.max_keys)?;
    let prefix = input.prefix.unwrap_or_default();
    let delimiter = not_empty(input.delimiter);
    let marker = not_empty(input.marker);
    let from = match (&marker, &delimiter) {
        (None, _) => From::Start,
        // A marker that is a common prefix was the last entry of a page.
        (Some(marker), Some(delimiter))
            if marker.ends_with(delimiter) && marker.len() > prefix.len() =>
        {
            From::Past(marker.clone())
        }
        (Some(marker), _) => From::After(marker.clone()),
    };
    let query = Query {
        prefix: prefix.clone(),
        delimiter: delimiter.clone(),
        from,
        limit: limit as usize,
    };
    let page = run(storage, query).await?;
    let is_truncated = page.next.is_some();
    // S3 says the next marker only with a delimiter; without one it is the last key.
    let next = page.next.filter(|_| delimiter.is_some());
    Ok(S3Response::new(ListObjectsOutput {
        name: Some(input.bucket),
        prefix: Some(names.show(prefix)),
        marker: Some(names.show(marker.unwrap_or_default())),
        delimiter: delimiter.map(|delimiter| names.show(delimiter)),
        max_keys: Some(limit),
        is_truncated: Some(is_truncated),
        next_marker: next.map(|last| names.show(last.into_text())),
        contents: Some(names.objects(page.objects)),
        common_prefixes: Some(names.prefixes(page.prefixes)),
        encoding_type: input.encoding_type,
        ..Default::default()
    }))
}

pub async fn parts(storage: &Storage, input: ListPartsInput) -> Answer<ListPartsOutput> {
    storage.check_bucket(&input.bucket)?;
    let limit = limit(input.max_parts)?;
    let marker = input.part_number_marker.unwrap_or(0);
    let (key, id) = (input.key.clone(), input.upload_id.clone());
    let (upload, mut parts) = storage
        .blocking(move |state| {
            let index = state.index();
            let upload = crate::commands::demo::storage::multipart::find(&index, &key, &id)?;
            let parts = index.parts(&id).map_err(S3Error::internal_error)?;
            Ok((upload, parts))
        })
        .await?;
    parts.retain(|part| part.number > marker);
    let is_truncated = parts.len() > limit as usize;
    parts.truncate(limit as usize);
    let last = parts.last().map(|part| part.number);
    let shown = parts.into_iter().map(|part| {
        let mut shown = Part {
            part_number: Some(part.number),
            size: Some(part.size as i64),
            e_tag: Some(condition::etag(&part.etag)),
            last_modified: Some(timestamp(part.modified_ns)),
            ..Default::default()
        };
        show!(part.sum, shown);
        shown
    });
    Ok(S3Response::new(ListPartsOutput {
        bucket: Some(input.bucket),
        key: crate::commands::demo::storage::multipart::printable(&input.key),
        upload_id: Some(input.upload_id),
        part_number_marker: Some(marker),
        next_part_number_marker: last.filter(|_| is_truncated),
        max_parts: Some(limit),
        is_truncated: Some(is_truncated),
        parts: Some(shown.collect()),
        checksum_algorithm: upload
            .declared
            .map(|(method, _)| method.name().to_owned().into()),
        checksum_type: upload
            .declared
            .map(|(_, kind)| kind.name().to_owned().into()),
        ..Default::default()
    }))
}

pub async fn uploads(
    storage: &Storage,
    input: ListMultipartUploadsInput,
) -> Answer<ListMultipartUploadsOutput> {
    storage.check_bucket(&input.bucket)?;
    if not_empty(input.delimiter.clone()).is_some() {
        return Err(s3_error!(
            NotImplemented,
            "This endpoint lists uploads without a delimiter."
        ));
    }
    let names = Names::new(input.encoding_type.as_ref())?;
    let limit = limit(input.max_uploads)?;
    let prefix = input.prefix.unwrap_or_default();
    let key_marker = input.key_marker.unwrap_or_default();
    let id_marker = input.upload_id_marker.unwrap_or_default();
    let mut uploads = storage
        .blocking(|state| state.index().uploads().map_err(S3Error::internal_error))
        .await?;
    uploads.retain(|upload| {
        let is_after = upload.key > key_marker
            || (upload.key == key_marker && !id_marker.is_empty() && upload.id > id_marker);
        upload.key.starts_with(&prefix) && (key_marker.is_empty() || is_after)
    });
    let is_truncated = uploads.len() > limit as usize;
    uploads.truncate(limit as usize);
    let last = uploads.last().filter(|_| is_truncated).cloned();
    let shown = uploads.into_iter().map(|upload| MultipartUpload {
        key: Some(names.show(upload.key)),
        upload_id: Some(upload.id),
        initiated: Some(timestamp(upload.started_ns)),
        checksum_algorithm: upload
            .declared
            .map(|(method, _)| method.name().to_owned().into()),
        checksum_type: upload
            .declared
            .map(|(_, kind)| kind.name().to_owned().into()),
        ..Default::default()
    });
    Ok(S3Response::new(ListMultipartUploadsOutput {
        bucket: Some(input.bucket),
        uploads: Some(shown.collect()),
        prefix: Some(names.show(prefix)),
        key_marker: Some(names.show(key_marker)),
        upload_id_marker: Some(id_marker),
        next_key_marker: last.as_ref().map(|upload| names.show(upload.key.clone())),
        next_upload_id_marker: last.map(|upload| upload.id),
        max_uploads: Some(limit),
        is_truncated: Some(is_truncated),
        encoding_type: input.encoding_type,
        ..Default::default()
    }))
}
