//! An S3 endpoint inside the program: one bucket in a folder, served on loopback.
//!
//! It listens on a free port of 127.0.0.1 and on nothing else, takes only requests that are signed with the keys it has
//! made up for this run, and speaks enough of S3 for any client: see `storage` for what it has and has not.
//!
//! Everything runs in tasks that the [`Endpoint`] owns: dropping it ends them at once, [`Endpoint::stop`] lets requests
//! that are running finish. The protocol library logs each refused request as an error under the target `s3s`; whoever
//! sets the logs up leaves that target out, for a refusal is an answer here.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{Body, HttpError};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::base::offload::Offload;
use crate::commands::demo::storage::{Storage, random};

/// How long running requests may take to finish after [`Endpoint::stop`]; what is not done then is cut off.
const GRACE: Duration = Duration::from_secs(5);

/// How long to wait before accepting again when the machine has no more sockets to give.
const OUT_OF_SOCKETS: Duration = Duration::from_millis(50);

/// A running endpoint. Dropping it ends it.
pub struct Endpoint {
    address: SocketAddr,
    bucket: String,
    access_key: String,
    secret_key: String,
    storage: Storage,
    stopping: CancellationToken,
    tasks: JoinSet<()>,
}

/// Somebody who looks at the requests, and may stand in their way.
#[async_trait]
pub trait Watcher: Send + Sync + 'static {
    /// A connection was accepted.
    fn connected(&self) {}

    /// Bytes arrived on some connection.
    fn received(&self, bytes: usize) {
        let _ = bytes;
    }

    /// A request's head has arrived; its body waits until this returns, which may take as long as it likes.
    ///
    /// What it leaves in the head's extensions, [`Watcher::after`] finds there.
    async fn before(&self, request: &mut Parts) -> Action;

    /// The request has been done, and this will be its answer's status, though [`Action::DropAnswer`] hides it.
    fn after(&self, request: &Parts, status: StatusCode);
}

/// What becomes of a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// It is done and answered.
    Pass,
    /// It is not done; its body is read, and this is the answer.
    Answer(StatusCode, String),
    /// It is not done, and there is never an answer.
    Hang,
    /// It is not done, and the connection is reset.
    Reset,
    /// It is done, and the connection is closed without the answer.
    DropAnswer,
}

impl Endpoint {
    /// Serves the bucket that lies in `dir`, which is made if it is not there. The keys are new each time.
    pub async fn start(dir: &Path, bucket: &str) -> anyhow::Result<Self> {
        Self::begin(dir, bucket, None).await
    }

    /// Serves the bucket under the eyes of `watcher`.
    pub async fn start_watched(
        dir: &Path,
        bucket: &str,
        watcher: Arc<dyn Watcher>,
    ) -> anyhow::Result<Self> {
        Self::begin(dir, bucket, Some(watcher)).await
    }

    async fn begin(
        dir: &Path,
        bucket: &str,
        watcher: Option<Arc<dyn Watcher>>,
    ) -> anyhow::Result<Self> {
        let (dir, name) = (dir.to_owned(), bucket.to_owned());
        let storage = Offload::Pool
            .run(move || Storage::open(&dir, &name))
            .await?;
        let access_key = secret(20, b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")?;
        let secret_key = secret(
            40,
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/",
        )?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .context("could not listen on 127.0.0.1")?;
        let address = listener.local_addr()?;
        let mut service = S3ServiceBuilder::new(storage.clone());
        service.set_auth(SimpleAuth::from_single(&*access_key, &*secret_key));
        let site = Arc::new(Site {
            service: service.build(),
            watcher,
            stopping: CancellationToken::new(),
        });
        let stopping = site.stopping.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, site));
        Ok(Self {
            address,
            bucket: bucket.to_owned(),
            access_key,
            secret_key,
            storage,
            stopping,
            tasks,
        })
    }

    /// Returns the endpoint's URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the bucket's name.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// Returns the id of the only key that may sign requests.
    pub fn access_key(&self) -> &str {
        &self.access_key
    }

    /// Returns the secret of the only key that may sign requests.
    pub fn secret_key(&self) -> &str {
        &self.secret_key
    }

    /// Lists the keys of all objects, in order of their bytes. Blocks; no request is sent.
    pub fn keys(&self) -> anyhow::Result<Vec<String>> {
        self.storage.keys()
    }

    /// Reads an object whole; `None` if there is none. Blocks; no request is sent.
    pub fn object(&self, key: &str) -> anyhow::Result<Option<Vec<u8>>> {
        self.storage.read(key)
    }

    /// Lists the open multipart uploads as pairs of key and upload id, in order. Blocks; no request is sent.
    pub fn open_uploads(&self) -> anyhow::Result<Vec<(String, String)>> {
        self.storage.open_uploads()
    }

    /// Stops accepting, lets running requests finish for up to five seconds, and ends.
    pub async fn stop(mut self) {
        self.stopping.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Shows no secret.
impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("address", &self.address)
            .field("bucket", &self.bucket)
            .finish_non_exhaustive()
    }
}

/// Returns `len` characters that nobody can guess. The alphabet's length must be a power of two, so that all are alike.
fn secret(len: usize, alphabet: &[u8]) -> io::Result<String> {
    debug_assert!(alphabet.len().is_power_of_two());
    let bytes = random::<64>()?;
    let letter = |byte: &u8| char::from(alphabet[usize::from(*byte) % alphabet.len()]);
    Ok(bytes.iter().take(len).map(letter).collect())
}

/// What all connections share.
struct Site {
    service: S3Service,
    watcher: Option<Arc<dyn Watcher>>,
    stopping: CancellationToken,
}

/// Accepts connections until the endpoint stops, then waits for the last of them.
async fn accept(listener: TcpListener, site: Arc<Site>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = site.stopping.cancelled() => break,
            // Only so that connections that have ended are let go of.
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve(stream, Arc::clone(&site)));
                }
                Err(error) => {
                    tracing::debug!(%error, "could not accept a connection");
                    tokio::time::sleep(OUT_OF_SOCKETS).await;
                }
            },
        }
    }
    drop(listener);
    let ended = tokio::time::timeout(GRACE, async {
        while connections.join_next().await.is_some() {}
    });
    if ended.await.is_err() {
        connections.shutdown().await;
    }
}

/// Serves one connection to its end.
async fn serve(stream: TcpStream, site: Arc<Site>) {
    if let Some(watcher) = &site.watcher {
        watcher.connected();
    }
    // Answers are small and wanted at once.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "could not turn Nagle's algorithm off");
    }
    let is_reset = Arc::new(AtomicBool::new(false));
    let line = Line {
        stream,
        watcher: site.watcher.clone(),
        is_reset: Arc::clone(&is_reset),
    };
    let service = service_fn(|request| answer(&site, &is_reset, request));
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(line), service)
    );
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = site.stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke off");
    }
}

/// Answers one request; an error closes the connection.
async fn answer(
    site: &Site,
    is_reset: &AtomicBool,
    request: Request<Incoming>,
) -> Result<Response<Body>, HttpError> {
    let Some(watcher) = &site.watcher else {
        return site.service.call(request.map(Body::from)).await;
    };
    let (mut parts, body) = request.into_parts();
    let action = tokio::select! {
        action = watcher.before(&mut parts) => action,
        () = site.stopping.cancelled() => return Err(cut("stopping")),
    };
    match action {
        Action::Pass | Action::DropAnswer => {}
        Action::Answer(status, text) => {
            // A client that is still sending would see the connection break instead of the answer.
            body.collect()
                .await
                .map_err(|error| HttpError::new(Box::new(error)))?;
            let mut response = Response::new(Body::from(text));
            *response.status_mut() = status;
            watcher.after(&parts, status);
            return Ok(response);
        }
        Action::Hang => {
            site.stopping.cancelled().await;
            return Err(cut("a request that was to hang"));
        }
        Action::Reset => {
            is_reset.store(true, Ordering::Relaxed);
            return Err(cut("a request that was to be reset"));
        }
    }
    let request = Request::from_parts(parts.clone(), Body::from(body));
    let response = site.service.call(request).await?;
    watcher.after(&parts, response.status());
    if action == Action::DropAnswer {
        return Err(cut("an answer that was to be lost"));
    }
    Ok(response)
}

fn cut(why: &'static str) -> HttpError {
    HttpError::new(Box::new(io::Error::other(why)))
}

/// A connection's bytes: counted for the watcher, and reset instead of closed where the watcher wants that.
struct Line {
    stream: TcpStream,
    watcher: Option<Arc<dyn Watcher>>,
    is_reset: Arc<AtomicBool>,
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.is_reset.load(Ordering::Relaxed) {
            // Closing without lingering is what sends a reset; if it fails, the connection is closed, which is close.
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if let Some(watcher) = &self.watcher {
            watcher.received(buffer.filled().len() - before);
        }
        outcome
    }
}

impl AsyncWrite for Line {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }
}
