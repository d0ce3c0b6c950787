//! Multipart uploads.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use crc_fast::{CrcAlgorithm, checksum_combine};
use http_body_util::Full;
use hyper::header::ETAG;
use hyper::http::request::Parts;
use hyper::http::{HeaderMap, HeaderValue};
use hyper::{Response, StatusCode};

use super::objects::{Body, Object, is_sum, kept, refused};
use super::{Site, is_own, plain, query, said, xml};

/// What has come of an object.
pub struct Upload {
    headers: HeaderMap,
    parts: BTreeMap<u32, Body>,
}

/// Begins an upload.
pub fn begin(site: &Site, head: &Parts) -> Response<Full<Bytes>> {
    site.begun.set(site.begun.get() + 1);
    let id = format!("upload-{}", site.begun.get());
    let upload = Upload {
        headers: kept(site, head),
        parts: BTreeMap::new(),
    };
    site.uploads.borrow_mut().insert(id.clone(), upload);
    xml(format!(
        "<InitiateMultipartUploadResult><Bucket>b</Bucket><Key>k</Key><UploadId>{id}</UploadId>\
         </InitiateMultipartUploadResult>"
    ))
}

/// Takes a part.
pub fn put(site: &Site, head: &Parts, body: Body) -> Response<Full<Bytes>> {
    let mut uploads = site.uploads.borrow_mut();
    let upload = query(head, "uploadId").and_then(|id| uploads.get_mut(&id));
    let number = query(head, "partNumber").and_then(|number| number.parse().ok());
    let (Some(upload), Some(number)) = (upload, number) else {
        return said(StatusCode::NOT_FOUND, "NoSuchUpload");
    };
    if !is_own(head.uri.path()) {
        site.counts.borrow_mut().bytes += body.len as u64;
    }
    let etag = body.etag();
    upload.parts.insert(number, body);
    let mut response = plain(StatusCode::OK);
    response.headers_mut().insert(ETAG, etag);
    response
}

/// Forgets an upload.
pub fn abort(site: &Site, head: &Parts) -> Response<Full<Bytes>> {
    let id = query(head, "uploadId").unwrap_or_default();
    match site.uploads.borrow_mut().remove(&id) {
        Some(_) => plain(StatusCode::NO_CONTENT),
        None => said(StatusCode::NOT_FOUND, "NoSuchUpload"),
    }
}

/// Joins all parts that are there.
pub fn join(site: &Site, head: &Parts) -> Response<Full<Bytes>> {
    if let Some(refused) = refused(site, head) {
        return refused;
    }
    let id = query(head, "uploadId").unwrap_or_default();
    let Some(upload) = site.uploads.borrow_mut().remove(&id) else {
        return said(StatusCode::NOT_FOUND, "NoSuchUpload");
    };
    let (count, len) = (
        upload.parts.len(),
        upload.parts.values().map(|part| part.len).sum(),
    );
    let crc = upload.parts.values().fold(0, |crc, part| {
        checksum_combine(CrcAlgorithm::Crc64Nvme, crc, part.crc, part.len as u64)
    });
    if !is_sum(head, crc) {
        return said(StatusCode::BAD_REQUEST, "BadDigest");
    }
    let is_kept = upload.parts.values().all(|part| part.bytes.is_some());
    let mut whole = BytesMut::with_capacity(if is_kept { len } else { 0 });
    for part in upload.parts.values() {
        if is_kept {
            whole.extend_from_slice(part.bytes.as_deref().unwrap_or_default());
        }
    }
    let tag = format!("crc64nvme-{crc:016x}-{count}");
    let object = Object {
        len,
        bytes: is_kept.then(|| whole.freeze()),
        etag: HeaderValue::from_str(&format!("\"{tag}\""))
            .unwrap_or(HeaderValue::from_static("\"\"")),
        headers: upload.headers,
    };
    let path = head.uri.path();
    site.counts.borrow_mut().puts += u64::from(!is_own(path));
    site.objects.borrow_mut().insert(path.to_owned(), object);
    site.stored(path);
    xml(format!(
        "<CompleteMultipartUploadResult><ETag>&quot;{tag}&quot;</ETag></CompleteMultipartUploadResult>"
    ))
}
