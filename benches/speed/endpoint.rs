//! The cheapest endpoint that all clients take for an S3: it counts, waits, and keeps everything in memory.
//!
//! One bucket of any name, without signatures. It speaks what an upload and a restore need: `PutObject`, also under
//! conditions, `GetObject` with ranges, `HeadObject`, `DeleteObject`, `HeadBucket`, `CreateBucket`, both listings, and
//! multipart uploads. What is below `.tidewatch/` counts as requests, not as files. Anything else is answered 501, so that a
//! client that wants more fails instead of being measured wrongly. `ETag`s are true MD5s: rclone compares them.
//!
//! It runs on one thread in a process of its own, so that its CPU time is nobody's. The latency is a timer for each
//! request after its body has come; it blocks nothing.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::io::{BufRead as _, Write as _};
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_MATCH, IF_NONE_MATCH,
    LAST_MODIFIED, RANGE,
};
use hyper::http::request::Parts;
use hyper::http::{HeaderMap, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use md5::Digest as _;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::LocalSet;

/// When every object was stored.
const STORED: &str = "Thu, 01 Jan 2026 00:00:00 GMT";

/// Keys of one page of a listing.
const PAGE: usize = 1000;

/// What the endpoint saw.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Requests of every kind.
    pub requests: u64,
    /// Connections accepted.
    pub connections: u64,
    /// The most requests that it was busy with at one moment.
    pub at_once: u64,
    /// `PutObject` requests for files.
    pub puts: u64,
    /// Different keys of files that are there.
    pub keys: u64,
    /// Bytes of the bodies that were put for files.
    pub bytes: u64,
}

#[derive(Clone)]
struct Object {
    bytes: Bytes,
    etag: HeaderValue,
    /// What was stored with it, and comes back with it.
    headers: HeaderMap,
}

#[derive(Default)]
struct Site {
    latency: Cell<Duration>,
    counts: RefCell<Counts>,
    busy: Cell<u64>,
    /// By path, bucket included.
    objects: RefCell<BTreeMap<String, Object>>,
    /// What a multipart upload has, by its id.
    uploads: RefCell<BTreeMap<String, Upload>>,
}

struct Upload {
    headers: HeaderMap,
    parts: BTreeMap<u32, Bytes>,
}

/// Serves until standard input ends. The first line on standard output is the port; then each line of input sets the
/// latency in milliseconds, and is answered with what was counted since the one before.
pub fn serve() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let site = Rc::new(Site::default());
    let (ask, mut asked) = mpsc::channel(1);
    let reader = std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let latency = line.ok().and_then(|line| line.parse().ok());
            // The end of input and a broken one mean the same: whoever started us is done.
            let Some(latency) = latency else { break };
            if ask.blocking_send(Duration::from_millis(latency)).is_err() {
                break;
            }
        }
    });
    let tasks = LocalSet::new();
    tasks
        .block_on(&runtime, async {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            say(&listener.local_addr()?.port().to_string())?;
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let (stream, _) = accepted?;
                        site.counts.borrow_mut().connections += 1;
                        stream.set_nodelay(true)?;
                        tokio::task::spawn_local(connection(stream, Rc::clone(&site)));
                    }
                    latency = asked.recv() => {
                        let Some(latency) = latency else { return Ok(()) };
                        site.latency.set(latency);
                        let mut counts = site.counts.take();
                        let objects = site.objects.borrow();
                        counts.keys = objects.keys().filter(|path| !is_own(path)).count() as u64;
                        say(&serde_json::to_string(&counts)?)?;
                    }
                }
            }
        })
        .inspect(|()| drop(reader.join()))
}

/// Writes one line to whoever started us.
fn say(line: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .context("could not answer")
}

async fn connection(stream: TcpStream, site: Rc<Site>) {
    let service = service_fn(|request| answer(&site, request));
    // A client that goes away is no concern of ours.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(
    site: &Site,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    {
        let mut counts = site.counts.borrow_mut();
        site.busy.set(site.busy.get() + 1);
        counts.requests += 1;
        counts.at_once = counts.at_once.max(site.busy.get());
    }
    let (head, body) = request.into_parts();
    let body = body
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes);
    if !site.latency.get().is_zero() {
        tokio::time::sleep(site.latency.get()).await;
    }
    site.busy.set(site.busy.get() - 1);
    let Ok(body) = body else {
        return Ok(plain(StatusCode::BAD_REQUEST));
    };
    let (bucket, key) = {
        let path = head.uri.path().trim_start_matches('/');
        path.split_once('/').unwrap_or((path, ""))
    };
    // What is framed or copied is not a plain body.
    let is_plain = !head.headers.contains_key("x-amz-decoded-content-length")
        && !head.headers.contains_key("x-amz-copy-source");
    let has = |name: &str| query(&head, name).is_some();
    Ok(match (&head.method, key.is_empty()) {
        (&Method::PUT | &Method::HEAD, true) => plain(StatusCode::OK),
        (&Method::GET, true) if has("uploads") => plain(StatusCode::NOT_IMPLEMENTED),
        (&Method::GET, true) => list(site, bucket, &head),
        (&Method::POST, false) if has("uploads") => begin(site, &head),
        (&Method::POST, false) if has("uploadId") => join(site, &head),
        (&Method::PUT, false) if has("uploadId") && is_plain => put_part(site, &head, body),
        (&Method::PUT, false) if is_plain && !has("tagging") => put(site, &head, body),
        (&Method::GET | &Method::HEAD, false) if !has("tagging") && !has("uploadId") => {
            read(site, &head)
        }
        (&Method::DELETE, false) => {
            site.objects.borrow_mut().remove(head.uri.path());
            plain(StatusCode::NO_CONTENT)
        }
        _ => plain(StatusCode::NOT_IMPLEMENTED),
    })
}

/// Returns a word of the query; empty if it has no value.
fn query(head: &Parts, name: &str) -> Option<String> {
    let pairs = head.uri.query().unwrap_or_default().split('&');
    let mut pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let (_, value) = pairs.find(|(known, _)| *known == name)?;
    let value = percent_encoding::percent_decode_str(value);
    Some(value.decode_utf8_lossy().into_owned())
}

/// Returns true for what tidewatch keeps for itself.
fn is_own(path: &str) -> bool {
    path.contains("/.tidewatch/")
}

fn etag(body: &[u8], suffix: &str) -> HeaderValue {
    let mut quoted = String::with_capacity(40);
    quoted.push('"');
    for byte in md5::Md5::digest(body) {
        let _ = write!(quoted, "{byte:02x}");
    }
    let _ = write!(quoted, "{suffix}\"");
    HeaderValue::from_str(&quoted).unwrap_or(HeaderValue::from_static("\"\""))
}

/// Takes what is stored with an object.
fn kept(headers: &HeaderMap) -> HeaderMap {
    let kept = headers.iter().filter(|(name, _)| {
        let name = name.as_str();
        name.starts_with("x-amz-meta-")
            || name == "content-type"
            || name == "x-amz-checksum-crc64nvme"
    });
    kept.map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// Returns an answer if the request's condition does not hold.
fn refused(site: &Site, head: &Parts) -> Option<Response<Full<Bytes>>> {
    let objects = site.objects.borrow();
    let there = objects.get(head.uri.path()).map(|object| &object.etag);
    let is_refused = head.headers.contains_key(IF_NONE_MATCH) && there.is_some()
        || head
            .headers
            .get(IF_MATCH)
            .is_some_and(|wanted| there != Some(wanted));
    is_refused.then(|| said(StatusCode::PRECONDITION_FAILED, "PreconditionFailed"))
}

fn put(site: &Site, head: &Parts, bytes: Bytes) -> Response<Full<Bytes>> {
    if let Some(refused) = refused(site, head) {
        return refused;
    }
    let path = head.uri.path();
    if !is_own(path) {
        let mut counts = site.counts.borrow_mut();
        counts.puts += 1;
        counts.bytes += bytes.len() as u64;
    }
    let (etag, headers) = (etag(&bytes, ""), kept(&head.headers));
    let object = Object {
        bytes,
        etag: etag.clone(),
        headers,
    };
    site.objects.borrow_mut().insert(path.to_owned(), object);
    let mut response = plain(StatusCode::OK);
    response.headers_mut().insert(ETAG, etag);
    response
}

fn begin(site: &Site, head: &Parts) -> Response<Full<Bytes>> {
    let mut uploads = site.uploads.borrow_mut();
    let id = format!("upload-{}", uploads.len());
    let headers = kept(&head.headers);
    let parts = BTreeMap::new();
    uploads.insert(id.clone(), Upload { headers, parts });
    xml(format!(
        "<InitiateMultipartUploadResult><Bucket>b</Bucket><Key>k</Key><UploadId>{id}</UploadId>\
         </InitiateMultipartUploadResult>"
    ))
}

fn put_part(site: &Site, head: &Parts, bytes: Bytes) -> Response<Full<Bytes>> {
    let mut uploads = site.uploads.borrow_mut();
    let upload = query(head, "uploadId").and_then(|id| uploads.get_mut(&id));
    let number = query(head, "partNumber").and_then(|number| number.parse().ok());
    let (Some(upload), Some(number)) = (upload, number) else {
        return said(StatusCode::NOT_FOUND, "NoSuchUpload");
    };
    let etag = etag(&bytes, "");
    upload.parts.insert(number, bytes);
    let mut response = plain(StatusCode::OK);
    response.headers_mut().insert(ETAG, etag);
    response
}

/// Joins all parts that are there.
fn join(site: &Site, head: &Parts) -> Response<Full<Bytes>> {
    let mut uploads = site.uploads.borrow_mut();
    let Some(mut upload) = query(head, "uploadId").and_then(|id| uploads.remove(&id)) else {
        return said(StatusCode::NOT_FOUND, "NoSuchUpload");
    };
    let mut whole = BytesMut::with_capacity(upload.parts.values().map(Bytes::len).sum());
    let mut digests = Vec::new();
    for part in upload.parts.values() {
        digests.extend_from_slice(&md5::Md5::digest(part));
        whole.extend_from_slice(part);
    }
    let etag = etag(&digests, &format!("-{}", upload.parts.len()));
    upload.headers.extend(kept(&head.headers));
    let object = Object {
        bytes: whole.freeze(),
        etag: etag.clone(),
        headers: upload.headers,
    };
    let path = head.uri.path().to_owned();
    site.objects.borrow_mut().insert(path, object);
    let tag = etag.to_str().unwrap_or_default().trim_matches('"');
    xml(format!(
        "<CompleteMultipartUploadResult><ETag>&quot;{tag}&quot;</ETag></CompleteMultipartUploadResult>"
    ))
}

fn read(site: &Site, head: &Parts) -> Response<Full<Bytes>> {
    let objects = site.objects.borrow();
    let Some(object) = objects.get(head.uri.path()) else {
        return said(StatusCode::NOT_FOUND, "NoSuchKey");
    };
    if head
        .headers
        .get(IF_MATCH)
        .is_some_and(|wanted| object.etag != wanted)
    {
        return said(StatusCode::PRECONDITION_FAILED, "PreconditionFailed");
    }
    let whole = object.bytes.len();
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
    let bytes = match range {
        Some((first, last)) => object.bytes.slice(first..=last),
        None => object.bytes.clone(),
    };
    let headers = response.headers_mut();
    headers.extend(object.headers.clone());
    headers.insert(ETAG, object.etag.clone());
    headers.insert(LAST_MODIFIED, HeaderValue::from_static(STORED));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
    if let Some((first, last)) = range {
        // A sum of the whole says nothing of a part.
        headers.remove("x-amz-checksum-crc64nvme");
        if let Ok(value) = HeaderValue::try_from(format!("bytes {first}-{last}/{whole}")) {
            headers.insert(CONTENT_RANGE, value);
        }
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    if head.method == Method::GET {
        *response.body_mut() = Full::from(bytes);
    }
    response
}

/// Answers both listings: each client finds the words of the one that it asked for.
fn list(site: &Site, bucket: &str, head: &Parts) -> Response<Full<Bytes>> {
    let word = |name| query(head, name).filter(|word| !word.is_empty());
    let (prefix, delimiter) = (word("prefix").unwrap_or_default(), word("delimiter"));
    let after = word("continuation-token")
        .or_else(|| word("start-after"))
        .or_else(|| word("marker"))
        .unwrap_or_default();
    let most = word("max-keys").and_then(|most| most.parse().ok());
    let most = most.unwrap_or(PAGE).min(PAGE);
    let objects = site.objects.borrow();
    let start = format!("/{bucket}/");
    let (mut found, mut count, mut last, mut is_cut) = (String::new(), 0, String::new(), false);
    for (path, object) in objects.range(format!("{start}{prefix}")..) {
        let Some(key) = path
            .strip_prefix(&start)
            .filter(|key| key.starts_with(&prefix))
        else {
            break;
        };
        let rest = &key[prefix.len()..];
        let folder = delimiter
            .as_ref()
            .and_then(|delimiter| rest.find(delimiter).map(|at| at + delimiter.len()))
            .map(|end| &key[..prefix.len() + end]);
        let shown = folder.unwrap_or(key);
        if shown <= after.as_str() || shown == last {
            continue;
        }
        if count == most {
            is_cut = true;
            break;
        }
        count += 1;
        shown.clone_into(&mut last);
        let _ = match folder {
            Some(folder) => write!(
                found,
                "<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>"
            ),
            None => write!(
                found,
                "<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>\
                 <ETag>&quot;{}&quot;</ETag><Size>{}</Size><StorageClass>STANDARD</StorageClass></Contents>",
                object.etag.to_str().unwrap_or_default().trim_matches('"'),
                object.bytes.len()
            ),
        };
    }
    let next = if is_cut {
        format!(
            "<NextContinuationToken>{last}</NextContinuationToken><NextMarker>{last}</NextMarker>"
        )
    } else {
        String::new()
    };
    xml(format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>{bucket}</Name>\
         <Prefix>{prefix}</Prefix><KeyCount>{count}</KeyCount><MaxKeys>{most}</MaxKeys>\
         <IsTruncated>{is_cut}</IsTruncated>{next}{found}</ListBucketResult>"
    ))
}

fn xml(text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    let xml = HeaderValue::from_static("application/xml");
    response.headers_mut().insert(CONTENT_TYPE, xml);
    response
}

/// An error in S3's words.
fn said(status: StatusCode, code: &str) -> Response<Full<Bytes>> {
    let mut response = plain(status);
    *response.body_mut() = Full::from(format!("<Error><Code>{code}</Code></Error>"));
    response
}

fn plain(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}
