//! The cheapest endpoint that all clients take for an S3: it counts, waits, and keeps in memory what it is told to keep.
//!
//! One bucket of any name, without signatures. It speaks what these clients need: objects under conditions, copies,
//! removals one by one and by lists, ranges, both listings, multipart uploads. What is below `.tidewatch/` counts as
//! requests, not as files. Anything else is answered 501, so that a client that wants more fails instead of being measured
//! wrongly. It compares CRC64NVME where it is sent, which costs next to nothing.
//!
//! It runs on one thread in a process of its own, so that its CPU time is nobody's. The latency is a timer for each
//! request after its body has come; it blocks nothing.

#[path = "endpoint/listing.rs"]
mod listing;
#[path = "endpoint/objects.rs"]
mod objects;
#[path = "endpoint/parts.rs"]
mod parts;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::{BufRead as _, Write as _};
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::http::HeaderValue;
use hyper::http::request::Parts;
use hyper::rt::{Read, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::LocalSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use objects::{Body, Object};
use parts::Upload;

/// What a client of the endpoint with TLS has to trust.
pub const AUTHORITY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/faults/tls/ca.pem");

/// How an endpoint is run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Way {
    /// Whether files' bytes are kept, to be read again; otherwise only their length is.
    pub keeps: bool,
    /// Whether it speaks TLS.
    pub tls: bool,
}

/// What the endpoint saw.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Requests of every kind.
    pub requests: u64,
    /// Those of them about what is below `.tidewatch/`.
    pub own: u64,
    /// Those of them about `.tidewatch/lease.json`.
    pub lease: u64,
    /// Connections accepted.
    pub connections: u64,
    /// The most requests that it was busy with at one moment.
    pub at_once: u64,
    /// `PutObject` requests for files, and multipart uploads of files that were completed.
    pub puts: u64,
    /// Copies of files.
    pub copies: u64,
    /// Files that were removed.
    pub deletes: u64,
    /// Bytes of the bodies that were put for files, also as parts.
    pub bytes: u64,
    /// When the last file's object was there, microseconds since 1970.
    pub last_micros: u64,
    /// When files in a folder `live` were there, by path, microseconds since 1970.
    pub live: Vec<(String, u64)>,
    /// Different keys of files that are there.
    pub keys: u64,
}

/// The bucket.
#[derive(Default)]
struct Site {
    way: Way,
    latency: Cell<Duration>,
    counts: RefCell<Counts>,
    busy: Cell<u64>,
    /// By path, bucket included.
    objects: RefCell<BTreeMap<String, Object>>,
    /// What a multipart upload has, by its id.
    uploads: RefCell<BTreeMap<String, Upload>>,
    /// How many there have been.
    begun: Cell<u64>,
}

impl Site {
    /// Notes that an object is there.
    fn stored(&self, path: &str) {
        if is_own(path) {
            return;
        }
        let mut counts = self.counts.borrow_mut();
        counts.last_micros = now_micros();
        if path.contains("/live/") {
            let at = counts.last_micros;
            counts.live.push((path.to_owned(), at));
        }
    }
}

/// Returns the time that another process on this machine would read, microseconds since 1970.
#[expect(
    clippy::disallowed_methods,
    reason = "a benchmark measures the real clock"
)]
pub fn now_micros() -> u64 {
    let now = std::time::SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_micros() as u64)
}

/// Serves until standard input ends. The first line on standard output is the port; then each line of input sets the
/// latency in milliseconds, and is answered with what was counted since the one before.
pub fn serve(way: Way) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let tls = way.tls.then(acceptor).transpose()?;
    let site = Rc::new(Site {
        way,
        ..Site::default()
    });
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
                        let site = Rc::clone(&site);
                        match tls.clone() {
                            None => tokio::task::spawn_local(connection(TokioIo::new(stream), site)),
                            Some(tls) => tokio::task::spawn_local(async move {
                                if let Ok(stream) = tls.accept(stream).await {
                                    connection(TokioIo::new(stream), site).await;
                                }
                            }),
                        };
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

/// Takes the certificate that the tests have for this machine.
fn acceptor() -> anyhow::Result<TlsAcceptor> {
    let chain = include_bytes!("../../tests/it/faults/tls/server.pem");
    let key = include_bytes!("../../tests/it/faults/tls/server.key");
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(chain)?],
            PrivateKeyDer::from_pem_slice(key)?,
        )?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Writes one line to whoever started us.
fn say(line: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .context("could not answer")
}

async fn connection(stream: impl Read + Write + Unpin, site: Rc<Site>) {
    let service = service_fn(|request| answer(&site, request));
    // A client that goes away is no concern of ours.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(stream, service)
        .await;
}

async fn answer(
    site: &Site,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    {
        let mut counts = site.counts.borrow_mut();
        site.busy.set(site.busy.get() + 1);
        counts.requests += 1;
        counts.own += u64::from(is_own(head.uri.path()));
        counts.lease += u64::from(head.uri.path().ends_with("/.tidewatch/lease.json"));
        counts.at_once = counts.at_once.max(site.busy.get());
    }
    let body = Body::read(&head, body, site.way.keeps).await;
    if !site.latency.get().is_zero() {
        tokio::time::sleep(site.latency.get()).await;
    }
    site.busy.set(site.busy.get() - 1);
    let Ok(body) = body else {
        return Ok(said(StatusCode::BAD_REQUEST, "IncompleteBody"));
    };
    if !body.is_as_said(&head) {
        return Ok(said(StatusCode::BAD_REQUEST, "BadDigest"));
    }
    Ok(route(site, &head, body))
}

fn route(site: &Site, head: &Parts, body: Body) -> Response<Full<Bytes>> {
    let (bucket, key) = {
        let path = head.uri.path().trim_start_matches('/');
        path.split_once('/').unwrap_or((path, ""))
    };
    let is_copy = head.headers.contains_key("x-amz-copy-source");
    // What is framed is not a plain body.
    let is_plain = !head.headers.contains_key("x-amz-decoded-content-length");
    let has = |name: &str| query(head, name).is_some();
    match (&head.method, key.is_empty()) {
        (&Method::PUT | &Method::HEAD, true) => plain(StatusCode::OK),
        (&Method::GET, true) if has("uploads") => plain(StatusCode::NOT_IMPLEMENTED),
        (&Method::GET, true) => listing::list(site, bucket, head),
        (&Method::POST, true) if has("delete") => objects::delete_many(site, bucket, &body),
        (&Method::POST, false) if has("uploads") => parts::begin(site, head),
        (&Method::POST, false) if has("uploadId") => parts::join(site, head),
        (&Method::PUT, false) if has("uploadId") && is_copy => plain(StatusCode::NOT_IMPLEMENTED),
        (&Method::PUT, false) if has("uploadId") && is_plain => parts::put(site, head, body),
        (&Method::PUT, false) if is_copy => objects::copy(site, head),
        (&Method::PUT, false) if is_plain && !has("tagging") => objects::put(site, head, body),
        (&Method::GET | &Method::HEAD, false) if !has("tagging") && !has("uploadId") => {
            objects::read(site, head)
        }
        (&Method::DELETE, false) if has("uploadId") => parts::abort(site, head),
        (&Method::DELETE, false) => objects::delete(site, head),
        _ => plain(StatusCode::NOT_IMPLEMENTED),
    }
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
