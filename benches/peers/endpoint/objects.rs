//! One object: put, read, copied, removed.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use crc_fast::{CrcAlgorithm, Digest as Crc};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, ETAG, IF_MATCH, IF_NONE_MATCH, LAST_MODIFIED,
    RANGE,
};
use hyper::http::request::Parts;
use hyper::http::{HeaderMap, HeaderValue};
use hyper::{Method, Response, StatusCode};
use md5::Digest as _;

use super::{Site, is_own, plain, said, xml};

/// When every object was stored: later than any file that is made here says it was changed, so that who compares the two
/// finds nothing to do.
const STORED: &str = "Thu, 01 Jan 2026 00:00:00 GMT";

/// The header that holds the CRC64NVME of a body.
pub const CRC64: &str = "x-amz-checksum-crc64nvme";

/// Up to this length a body's `ETag` is its MD5, bytes. What is longer takes too much of the machine.
const MD5_MOST: usize = 64 << 10;

/// A request's body.
pub struct Body {
    /// How long it was, bytes.
    pub len: usize,
    /// It, if it is kept.
    pub bytes: Option<Bytes>,
    /// Its CRC64NVME.
    pub crc: u64,
    /// Its MD5, or what the client says that it is, in hex.
    md5: Option<String>,
}

/// What the bucket has.
#[derive(Clone)]
pub struct Object {
    /// Its length, bytes.
    pub len: usize,
    /// It, if it is kept.
    pub bytes: Option<Bytes>,
    /// Its `ETag`, in quotes.
    pub etag: HeaderValue,
    /// What was stored with it, and comes back with it.
    pub headers: HeaderMap,
}

impl Body {
    /// Reads it to its end; keeps it if `keeps`, and if it is not a file's.
    pub async fn read(head: &Parts, mut body: Incoming, keeps: bool) -> Result<Self, hyper::Error> {
        let is_kept = keeps || is_own(head.uri.path()) || head.method == Method::POST;
        let said = head.headers.get(CONTENT_LENGTH);
        let said = said.and_then(|len| len.to_str().ok()?.parse().ok());
        let said: usize = said.unwrap_or(0);
        let mut md5 =
            (said <= MD5_MOST && !head.headers.contains_key("content-md5")).then(md5::Md5::new);
        let (mut crc, mut len) = (Crc::new(CrcAlgorithm::Crc64Nvme), 0);
        let mut whole = BytesMut::with_capacity(if is_kept { said } else { 0 });
        while let Some(frame) = body.frame().await {
            let Ok(bytes) = frame?.into_data() else {
                continue;
            };
            len += bytes.len();
            crc.update(&bytes);
            if let Some(md5) = &mut md5 {
                md5.update(&bytes);
            }
            if is_kept {
                whole.extend_from_slice(&bytes);
            }
        }
        let given = head.headers.get("content-md5");
        let given = given.and_then(|sum| STANDARD.decode(sum).ok());
        let hex = |sum: &[u8]| {
            let digits = sum.iter().map(|byte| format!("{byte:02x}"));
            digits.collect::<String>()
        };
        Ok(Self {
            len,
            bytes: is_kept.then(|| whole.freeze()),
            crc: crc.finalize(),
            md5: given
                .map(|sum| hex(&sum))
                .or_else(|| md5.map(|md5| hex(&md5.finalize()))),
        })
    }

    /// Returns false if the client says that it has sent something else.
    pub fn is_as_said(&self, head: &Parts) -> bool {
        // With a completion comes the sum of the whole, which is looked at there.
        head.method != Method::PUT || is_sum(head, self.crc)
    }

    /// Returns what it is known by: MD5 if it is known, else something that cannot be taken for one.
    pub fn etag(&self) -> HeaderValue {
        let name = match &self.md5 {
            Some(md5) => format!("\"{md5}\""),
            None => format!("\"crc64nvme-{:016x}\"", self.crc),
        };
        HeaderValue::from_str(&name).unwrap_or(HeaderValue::from_static("\"\""))
    }
}

/// Returns false if a header says another CRC64NVME.
pub fn is_sum(head: &Parts, crc: u64) -> bool {
    let said = head.headers.get(CRC64);
    said.is_none_or(|said| said.as_bytes() == STANDARD.encode(crc.to_be_bytes()).as_bytes())
}

/// Takes what is stored with an object.
pub fn kept(site: &Site, head: &Parts) -> HeaderMap {
    // Nobody asks for the headers of a file that is not kept.
    if !site.way.keeps && !is_own(head.uri.path()) {
        return HeaderMap::new();
    }
    let kept = head.headers.iter().filter(|(name, _)| {
        let name = name.as_str();
        name.starts_with("x-amz-meta-") || name == "content-type" || name == CRC64
    });
    kept.map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// Returns an answer if the request's condition does not hold.
pub fn refused(site: &Site, head: &Parts) -> Option<Response<Full<Bytes>>> {
    let objects = site.objects.borrow();
    let there = objects.get(head.uri.path()).map(|object| &object.etag);
    let is_refused = head.headers.contains_key(IF_NONE_MATCH) && there.is_some()
        || head
            .headers
            .get(IF_MATCH)
            .is_some_and(|wanted| there.is_none_or(|there| !is_same(there, wanted)));
    is_refused.then(|| said(StatusCode::PRECONDITION_FAILED, "PreconditionFailed"))
}

/// Compares two `ETag`s, with or without quotes.
fn is_same(one: &HeaderValue, other: &HeaderValue) -> bool {
    let plain = |etag: &HeaderValue| String::from_utf8_lossy(etag.as_bytes()).replace('"', "");
    plain(one) == plain(other)
}

/// Stores an object.
pub fn put(site: &Site, head: &Parts, body: Body) -> Response<Full<Bytes>> {
    if let Some(refused) = refused(site, head) {
        return refused;
    }
    let path = head.uri.path();
    if !is_own(path) {
        let mut counts = site.counts.borrow_mut();
        counts.puts += 1;
        counts.bytes += body.len as u64;
    }
    let etag = body.etag();
    let object = Object {
        len: body.len,
        bytes: body.bytes,
        etag: etag.clone(),
        headers: kept(site, head),
    };
    site.objects.borrow_mut().insert(path.to_owned(), object);
    site.stored(path);
    let mut response = plain(StatusCode::OK);
    response.headers_mut().insert(ETAG, etag);
    response
}

/// Stores what another key has.
pub fn copy(site: &Site, head: &Parts) -> Response<Full<Bytes>> {
    if let Some(refused) = refused(site, head) {
        return refused;
    }
    let source = head.headers.get("x-amz-copy-source");
    let source = source.and_then(|source| source.to_str().ok()).unwrap_or("");
    // Both are compared as they are written: the names that are made here need no escaping.
    let source = format!("/{}", source.trim_start_matches('/'));
    let Some(mut object) = site.objects.borrow().get(&source).cloned() else {
        return said(StatusCode::NOT_FOUND, "NoSuchKey");
    };
    let wanted = head.headers.get("x-amz-copy-source-if-match");
    if wanted.is_some_and(|wanted| !is_same(&object.etag, wanted)) {
        return said(StatusCode::PRECONDITION_FAILED, "PreconditionFailed");
    }
    let directive = head.headers.get("x-amz-metadata-directive");
    if directive.is_some_and(|word| word == "REPLACE") {
        object.headers = kept(site, head);
    }
    let etag = object.etag.to_str().unwrap_or_default();
    let etag = etag.trim_matches('"').to_owned();
    let path = head.uri.path();
    site.counts.borrow_mut().copies += u64::from(!is_own(path));
    site.objects.borrow_mut().insert(path.to_owned(), object);
    site.stored(path);
    xml(format!(
        "<CopyObjectResult><ETag>&quot;{etag}&quot;</ETag><LastModified>2026-01-01T00:00:00.000Z</LastModified>\
         </CopyObjectResult>"
    ))
}

/// Answers a GET or a HEAD.
pub fn read(site: &Site, head: &Parts) -> Response<Full<Bytes>> {
    let objects = site.objects.borrow();
    let Some(object) = objects.get(head.uri.path()) else {
        return said(StatusCode::NOT_FOUND, "NoSuchKey");
    };
    if head
        .headers
        .get(IF_MATCH)
        .is_some_and(|wanted| !is_same(&object.etag, wanted))
    {
        return said(StatusCode::PRECONDITION_FAILED, "PreconditionFailed");
    }
    let whole = object.len;
    let range = head.headers.get(RANGE).and_then(|range| {
        let (first, last) = range
            .to_str()
            .ok()?
            .strip_prefix("bytes=")?
            .split_once('-')?;
        let last = last
            .parse()
            .unwrap_or(usize::MAX)
            .min(whole.checked_sub(1)?);
        let first: usize = first.parse().ok()?;
        (first <= last).then_some((first, last))
    });
    let mut response = plain(StatusCode::OK);
    let headers = response.headers_mut();
    headers.extend(object.headers.clone());
    headers.insert(ETAG, object.etag.clone());
    headers.insert(LAST_MODIFIED, HeaderValue::from_static(STORED));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    let len = range.map_or(whole, |(first, last)| last - first + 1);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(len));
    if let Some((first, last)) = range {
        // A sum of the whole says nothing of a part.
        headers.remove(CRC64);
        if let Ok(value) = HeaderValue::try_from(format!("bytes {first}-{last}/{whole}")) {
            headers.insert(CONTENT_RANGE, value);
        }
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    if head.method == Method::GET {
        let Some(bytes) = &object.bytes else {
            return said(StatusCode::NOT_IMPLEMENTED, "NotKept");
        };
        *response.body_mut() = Full::from(match range {
            Some((first, last)) => bytes.slice(first..=last),
            None => bytes.clone(),
        });
    }
    response
}

/// Removes one object, if the condition holds.
pub fn delete(site: &Site, head: &Parts) -> Response<Full<Bytes>> {
    if head.headers.contains_key(IF_MATCH)
        && let Some(refused) = refused(site, head)
    {
        return refused;
    }
    remove(site, head.uri.path());
    plain(StatusCode::NO_CONTENT)
}

/// Removes what a list names.
pub fn delete_many(site: &Site, bucket: &str, body: &Body) -> Response<Full<Bytes>> {
    let text = String::from_utf8_lossy(body.bytes.as_deref().unwrap_or_default()).into_owned();
    let mut done = String::from("<DeleteResult>");
    let keys = text.split("<Key>").skip(1);
    for key in keys.filter_map(|rest| rest.split("</Key>").next()) {
        remove(site, &format!("/{bucket}/{key}"));
        let _ = write!(done, "<Deleted><Key>{key}</Key></Deleted>");
    }
    done.push_str("</DeleteResult>");
    xml(done)
}

fn remove(site: &Site, path: &str) {
    let removed = site.objects.borrow_mut().remove(path);
    if removed.is_some() && !is_own(path) {
        site.counts.borrow_mut().deletes += 1;
    }
}
