//! Between our words and the wire's: what goes into a header, and what an answer must have to be believed.

use std::collections::HashMap;
use std::ops::Range;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::store::s3::classify::Trouble;
use crate::store::{Meta, Stored, When};

/// An answer that was checked.
type Checked<T> = Result<T, Trouble>;

/// The header that names the source of a copy, which nobody encodes for us.
pub(super) fn source(bucket: &str, key: &str) -> String {
    const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
        .remove(b'/')
        .remove(b'-')
        .remove(b'_')
        .remove(b'.')
        .remove(b'~');
    format!("/{bucket}/{}", utf8_percent_encode(key, PLAIN))
}

pub(super) fn stored(tag: Option<&str>, version_id: Option<&str>) -> Checked<Stored> {
    Ok(Stored {
        etag: etag(tag)?,
        version_id: version_id.map(str::to_owned),
        is_outstanding: false,
    })
}

pub(super) fn etag(tag: Option<&str>) -> Checked<String> {
    match tag.map(|tag| tag.trim_matches('"')) {
        Some(tag) if !tag.is_empty() => Ok(tag.to_owned()),
        _ => Err(Trouble::Garbled("it names no ETag".to_owned())),
    }
}

pub(super) fn quoted(etag: &str) -> String {
    format!("\"{etag}\"")
}

pub(super) fn length(len: Option<i64>) -> Checked<u64> {
    len.and_then(|len| u64::try_from(len).ok())
        .ok_or_else(|| Trouble::Garbled("it names no length".to_owned()))
}

/// HTTP's ranges include their end.
pub(super) fn bytes_range(range: &Range<u64>) -> String {
    format!("bytes={}-{}", range.start, range.end.saturating_sub(1))
}

/// Takes a key of a listing back: S3 writes a space as `+`, as forms do, and a plus as `%2B`.
pub(super) fn decoded(key: &str) -> Checked<String> {
    percent_decode_str(&key.replace('+', " "))
        .decode_utf8()
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| Trouble::Garbled("a key that is not UTF-8".to_owned()))
}

pub(super) fn user(meta: &Meta) -> HashMap<String, String> {
    let user = meta.user.iter();
    user.map(|(name, value)| (name.clone().into_owned(), value.clone()))
        .collect()
}

pub(super) fn returned(metadata: Option<&HashMap<String, String>>) -> Vec<(String, String)> {
    let mut user: Vec<_> = metadata
        .into_iter()
        .flatten()
        .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
        .collect();
    user.sort();
    user
}

/// The header `If-None-Match`: the only value that S3 knows.
pub(super) fn absent(when: &When) -> Option<String> {
    (*when == When::Absent).then(|| "*".to_owned())
}

/// The header `If-Match`.
pub(super) fn is(when: &When) -> Option<String> {
    match when {
        When::Is(etag) => Some(quoted(etag)),
        When::Always | When::Absent => None,
    }
}

/// Returns the SDK's time in nanoseconds since the epoch.
pub(super) fn nanoseconds(time: &aws_smithy_types::DateTime) -> Option<i64> {
    i64::try_from(time.as_nanos()).ok()
}
