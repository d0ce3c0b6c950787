//! The cheapest endpoint that all clients take for an S3: it counts, waits, and keeps nothing.
//!
//! One bucket of any name, without signatures. It speaks what an upload of small files needs: `PutObject`, `HeadObject`,
//! `HeadBucket`, `CreateBucket`, and listings, which say that the bucket is empty, as it is at the start of every run.
//! What is below `.tidewatch/` is kept, with conditions and removals, as a lease needs it; it counts as requests, not as
//! files. Anything else is answered 501, so that a client that wants more fails instead of being measured wrongly. ETags
//! are true MD5s: rclone compares them.
//!
//! It runs on one thread in a process of its own, so that its CPU time is nobody's. The latency is a timer for each
//! request after its body has come; it blocks nothing.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::{Read as _, Write as _};
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_MATCH, IF_NONE_MATCH, LAST_MODIFIED};
use hyper::http::{HeaderMap, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use md5::Digest as _;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::LocalSet;

/// What a listing says.
const EMPTY: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
    <ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>bucket</Name><Prefix></Prefix>\
    <KeyCount>0</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated></ListBucketResult>";

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
    /// Different keys among them.
    pub keys: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
}

#[derive(Default)]
struct Site {
    latency: Duration,
    counts: RefCell<Counts>,
    busy: RefCell<u64>,
    /// Length and ETag by path.
    objects: RefCell<BTreeMap<String, (u64, HeaderValue)>>,
    /// What tidewatch keeps for itself.
    own: RefCell<BTreeMap<String, (Bytes, HeaderValue)>>,
}

/// Serves until standard input ends. The first line on standard output is the port, the second what was counted.
pub fn serve(latency: Duration) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let site = Rc::new(Site {
        latency,
        ..Site::default()
    });
    let (stop, stopped) = oneshot::channel();
    let waiter = std::thread::spawn(move || {
        // The end of input and a broken one mean the same: whoever started us is done.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        let _ = stop.send(());
    });
    let tasks = LocalSet::new();
    tasks.block_on(&runtime, async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        say(&listener.local_addr()?.port().to_string())?;
        tokio::select! {
            failed = accept(&listener, &site) => failed,
            _ = stopped => Ok(()),
        }
    })?;
    let mut counts = site.counts.borrow().clone();
    counts.keys = site.objects.borrow().len() as u64;
    say(&serde_json::to_string(&counts)?)?;
    drop(waiter.join());
    Ok(())
}

/// Writes one line to whoever started us.
fn say(line: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .context("could not answer")
}

async fn accept(listener: &TcpListener, site: &Rc<Site>) -> anyhow::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        site.counts.borrow_mut().connections += 1;
        stream.set_nodelay(true)?;
        tokio::task::spawn_local(connection(stream, Rc::clone(site)));
    }
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
        let (mut counts, mut busy) = (site.counts.borrow_mut(), site.busy.borrow_mut());
        *busy += 1;
        counts.requests += 1;
        counts.at_once = counts.at_once.max(*busy);
    }
    let (head, body) = request.into_parts();
    let body = body
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes);
    tokio::time::sleep(site.latency).await;
    *site.busy.borrow_mut() -= 1;
    let Ok(body) = body else {
        return Ok(plain(StatusCode::BAD_REQUEST));
    };
    let path = head.uri.path();
    let is_object = path
        .trim_start_matches('/')
        .split_once('/')
        .is_some_and(|(_, key)| !key.is_empty());
    // What is framed or copied is not a plain body, and a query on an object is a multipart upload or a sub-resource.
    let is_plain = !head.headers.contains_key("x-amz-decoded-content-length")
        && !head.headers.contains_key("x-amz-copy-source")
        && head
            .uri
            .query()
            .is_none_or(|query| query.starts_with("x-id="));
    let is_own = is_plain && path.contains("/.tidewatch/");
    Ok(match (&head.method, is_object) {
        (method, true) if is_own => own(site, method, path, &head.headers, body),
        (&Method::PUT, true) if is_plain => put(site, path, &body),
        (&Method::HEAD, true) => look(site, path),
        (&Method::PUT | &Method::HEAD, false) => plain(StatusCode::OK),
        (&Method::GET, false)
            if head
                .uri
                .query()
                .is_none_or(|query| !query.contains("uploads")) =>
        {
            let mut response = Response::new(Full::from(EMPTY));
            let xml = HeaderValue::from_static("application/xml");
            response.headers_mut().insert(CONTENT_TYPE, xml);
            response
        }
        _ => plain(StatusCode::NOT_IMPLEMENTED),
    })
}

/// Answers for an object that tidewatch keeps for itself.
fn own(
    site: &Site,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
    body: Bytes,
) -> Response<Full<Bytes>> {
    let mut own = site.own.borrow_mut();
    let there = own.get(path).map(|(_, etag)| etag.clone());
    let wants = |name| headers.get(name).cloned();
    let is_refused = (wants(IF_NONE_MATCH).is_some() && there.is_some())
        || wants(IF_MATCH).is_some_and(|wanted| there != Some(wanted));
    match (*method == Method::PUT, *method == Method::DELETE) {
        _ if is_refused => said(StatusCode::PRECONDITION_FAILED, "PreconditionFailed"),
        (true, _) => {
            let Some(etag) = etag(&body) else {
                return plain(StatusCode::INTERNAL_SERVER_ERROR);
            };
            own.insert(path.to_owned(), (body, etag.clone()));
            let mut response = plain(StatusCode::OK);
            response.headers_mut().insert(ETAG, etag);
            response
        }
        (_, true) => {
            own.remove(path);
            plain(StatusCode::NO_CONTENT)
        }
        _ => match own.get(path) {
            Some((bytes, etag)) => {
                let mut response = Response::new(Full::from(bytes.clone()));
                response.headers_mut().insert(ETAG, etag.clone());
                response
            }
            None => said(StatusCode::NOT_FOUND, "NoSuchKey"),
        },
    }
}

fn etag(body: &Bytes) -> Option<HeaderValue> {
    let mut quoted = String::with_capacity(34);
    quoted.push('"');
    for byte in md5::Md5::digest(body) {
        for nibble in [byte >> 4, byte & 15] {
            quoted.extend(char::from_digit(u32::from(nibble), 16));
        }
    }
    quoted.push('"');
    HeaderValue::from_str(&quoted).ok()
}

fn put(site: &Site, path: &str, body: &Bytes) -> Response<Full<Bytes>> {
    let Some(etag) = etag(body) else {
        return plain(StatusCode::INTERNAL_SERVER_ERROR);
    };
    let len = body.len() as u64;
    {
        let mut counts = site.counts.borrow_mut();
        counts.puts += 1;
        counts.bytes += len;
    }
    let mut objects = site.objects.borrow_mut();
    objects.insert(path.to_owned(), (len, etag.clone()));
    let mut response = plain(StatusCode::OK);
    response.headers_mut().insert(ETAG, etag);
    response
}

fn look(site: &Site, path: &str) -> Response<Full<Bytes>> {
    let objects = site.objects.borrow();
    let Some((len, etag)) = objects.get(path) else {
        return plain(StatusCode::NOT_FOUND);
    };
    let mut response = plain(StatusCode::OK);
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, HeaderValue::from(*len));
    headers.insert(ETAG, etag.clone());
    let date = HeaderValue::from_static("Thu, 01 Jan 2026 00:00:00 GMT");
    headers.insert(LAST_MODIFIED, date);
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
