//! A real S3 endpoint on loopback that counts, breaks on demand, and shows what is stored.
//!
//! It runs on a thread of its own, so that a test may block, and so that the program's binary can be its client. Every
//! write that it confirms is checked as S3 checks it: signatures, checksums, conditions, the rules of parts.
#![cfg(feature = "demo")]
#![allow(
    clippy::unwrap_used,
    reason = "clippy knows only the functions that are marked as tests"
)]
#![allow(
    dead_code,
    reason = "the tests' vocabulary; no single test uses all of it"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region, retry::RetryConfig};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use tempfile::TempDir;
use tidewatch::commands::demo::endpoint::{self, Action, Watcher};
use tokio::sync::{Notify, oneshot};

/// The only bucket.
pub const BUCKET: &str = "tide";

/// The region that requests are signed for.
pub const REGION: &str = "us-east-1";

/// How long a test waits for what must happen.
const DEADLINE: Duration = Duration::from_secs(30);

/// A running endpoint. Dropping it ends it and waits for that.
pub struct Endpoint {
    inner: Option<Arc<endpoint::Endpoint>>,
    watch: Arc<Watch>,
    dir: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    own_dir: Option<TempDir>,
}

/// What goes wrong with a request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// It is not done; the answer is an error of this status and S3 code.
    Error(u16, &'static str),
    /// It is not done; the answer is this status and body.
    Answer(u16, String),
    /// It is not done, and there is never an answer.
    Hang,
    /// It is not done, and the connection is reset.
    Reset,
    /// It is done, and its answer is lost.
    DropAnswer,
    /// It is done, this much later.
    Delay(Duration),
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    /// S3's name of it: `PutObject`.
    pub operation: &'static str,
    /// The path as sent, with the query.
    pub path: String,
    /// The decoded key; empty for the bucket.
    pub key: String,
    /// The headers, names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The status that it came to, also where the answer was lost; `None` while it runs, and where it was cut off.
    pub status: Option<u16>,
}

type Script = Box<dyn FnMut(&Seen) -> Option<Fault> + Send>;

#[derive(Default)]
struct Plan {
    seen: Vec<(u64, Seen)>,
    tickets: u64,
    /// Operation (or `*`), how often still, fault; the first that fits is taken.
    faults: Vec<(String, usize, Fault)>,
    script: Option<Script>,
    latency: Duration,
    /// Whether what goes wrong also does for the agent's questions about the store.
    meets_probes: bool,
    /// Whether it also does for the catalog.
    meets_catalog: bool,
}

#[derive(Default)]
struct Watch {
    plan: Mutex<Plan>,
    connections: AtomicU64,
    received: AtomicU64,
    changed: Notify,
}

impl Watch {
    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which request it is: its number since the start, carried along in its extensions.
#[derive(Clone)]
struct Ticket(u64);

#[async_trait]
impl Watcher for Watch {
    fn connected(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    fn received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    async fn before(&self, request: &mut Parts) -> Action {
        let seen = Seen::new(request);
        let (fault, latency) = {
            let mut plan = self.plan();
            let fault = plan.fault(&seen);
            plan.tickets += 1;
            let ticket = plan.tickets;
            request.extensions.insert(Ticket(ticket));
            plan.seen.push((ticket, seen));
            (fault, plan.latency)
        };
        self.changed.notify_waiters();
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        match fault {
            None => Action::Pass,
            Some(Fault::Error(status, code)) => Action::Answer(
                StatusCode::from_u16(status).unwrap(),
                format!(
                    "<Error><Code>{code}</Code><Message>as the test wants it</Message></Error>"
                ),
            ),
            Some(Fault::Answer(status, body)) => {
                Action::Answer(StatusCode::from_u16(status).unwrap(), body)
            }
            Some(Fault::Hang) => Action::Hang,
            Some(Fault::Reset) => Action::Reset,
            Some(Fault::DropAnswer) => Action::DropAnswer,
            Some(Fault::Delay(by)) => {
                tokio::time::sleep(by).await;
                Action::Pass
            }
        }
    }

    fn after(&self, request: &Parts, status: StatusCode) {
        if let Some(Ticket(ticket)) = request.extensions.get()
            && let Some((_, seen)) = self.plan().seen.iter_mut().rfind(|(t, _)| t == ticket)
        {
            seen.status = Some(status.as_u16());
        }
        self.changed.notify_waiters();
    }
}

impl Plan {
    fn fault(&mut self, seen: &Seen) -> Option<Fault> {
        let path = seen.decoded_path();
        if !self.meets_probes && is_of_a_probe(&path)
            || !self.meets_catalog && path.contains(CATALOG)
        {
            return None;
        }
        if let Some(script) = &mut self.script
            && let Some(fault) = script(seen)
        {
            return Some(fault);
        }
        let fits = |(operation, left, _): &&mut (String, usize, Fault)| {
            *left > 0 && (operation == "*" || operation == seen.operation)
        };
        let (_, left, fault) = self.faults.iter_mut().find(fits)?;
        *left -= 1;
        Some(fault.clone())
    }
}

impl Seen {
    fn new(request: &Parts) -> Self {
        let path = request.uri.path();
        let key = path
            .trim_start_matches('/')
            .split_once('/')
            .map_or("", |(_, key)| key);
        let headers = request.headers.iter().map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            (name.as_str().to_owned(), value)
        });
        Self {
            operation: operation(request, path, key),
            path: request.uri.to_string(),
            key: percent_encoding::percent_decode_str(key)
                .decode_utf8_lossy()
                .into_owned(),
            headers: headers.collect(),
            status: None,
        }
    }

    fn decoded_path(&self) -> String {
        let path = percent_encoding::percent_decode_str(&self.path);
        path.decode_utf8_lossy().into_owned()
    }
}

/// Returns true for a key, or a path with its query, of the agent's questions about the store itself.
fn is_of_a_probe(key: &str) -> bool {
    key.contains(".tidewatch/probe-")
}

/// What the keys of the catalog have in them.
const CATALOG: &str = ".tidewatch/catalog/";

/// Returns true for a key, or a path with its query, of the agent's lease, of its last word, of its catalog or of its questions about the
/// store itself.
fn is_about_the_agent(key: &str) -> bool {
    [
        ".tidewatch/lease.json",
        ".tidewatch/status.json",
        ".tidewatch/probe-",
        CATALOG,
    ]
    .iter()
    .any(|own| key.contains(own))
}

/// Derives S3's name of a request.
fn operation(request: &Parts, path: &str, key: &str) -> &'static str {
    let query = request.uri.query().unwrap_or_default();
    let has = |name: &str| {
        query
            .split('&')
            .any(|pair| pair.split('=').next() == Some(name))
    };
    let is_copy = request.headers.contains_key("x-amz-copy-source");
    let is_bucket = key.is_empty();
    match request.method {
        Method::GET if path == "/" => "ListBuckets",
        Method::GET if is_bucket && has("location") => "GetBucketLocation",
        Method::GET if is_bucket && has("lifecycle") => "GetBucketLifecycleConfiguration",
        Method::GET if is_bucket && has("object-lock") => "GetObjectLockConfiguration",
        Method::GET if is_bucket && has("uploads") => "ListMultipartUploads",
        Method::GET if is_bucket && has("list-type") => "ListObjectsV2",
        Method::GET if is_bucket => "ListObjects",
        Method::GET if has("uploadId") => "ListParts",
        Method::GET if has("tagging") => "GetObjectTagging",
        Method::GET => "GetObject",
        Method::HEAD if is_bucket => "HeadBucket",
        Method::HEAD => "HeadObject",
        Method::PUT if is_bucket => "CreateBucket",
        Method::PUT if has("uploadId") && is_copy => "UploadPartCopy",
        Method::PUT if has("uploadId") => "UploadPart",
        Method::PUT if is_copy => "CopyObject",
        Method::PUT => "PutObject",
        Method::POST if is_bucket && has("delete") => "DeleteObjects",
        Method::POST if has("uploads") => "CreateMultipartUpload",
        Method::POST if has("uploadId") => "CompleteMultipartUpload",
        Method::DELETE if is_bucket => "DeleteBucket",
        Method::DELETE if has("uploadId") => "AbortMultipartUpload",
        Method::DELETE => "DeleteObject",
        _ => "unknown",
    }
}

impl Endpoint {
    /// Starts one with an empty bucket in a folder of its own.
    pub async fn start() -> Self {
        let own = tempfile::tempdir().unwrap();
        let mut endpoint = Self::start_in(own.path()).await;
        endpoint.own_dir = Some(own);
        endpoint
    }

    /// Starts one on what is in `dir`.
    pub async fn start_in(dir: &Path) -> Self {
        let watch = Arc::new(Watch::default());
        let (started, starting) = oneshot::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let (folder, watcher) = (dir.to_owned(), Arc::clone(&watch));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let inner = endpoint::Endpoint::start_watched(&folder, BUCKET, watcher)
                    .await
                    .unwrap();
                let inner = Arc::new(inner);
                let _ = started.send(Arc::clone(&inner));
                // The sender's going away is a stop too.
                let _ = stopped.await;
                if let Some(inner) = Arc::into_inner(inner) {
                    inner.stop().await;
                }
            });
        });
        Self {
            inner: Some(starting.await.expect("the endpoint starts")),
            watch,
            dir: dir.to_owned(),
            stop: Some(stop),
            thread: Some(thread),
            own_dir: None,
        }
    }

    fn inner(&self) -> &endpoint::Endpoint {
        self.inner.as_ref().expect("only a drop takes it away")
    }

    /// Returns `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        self.inner().url()
    }

    /// Returns the bucket's name.
    pub fn bucket(&self) -> &str {
        self.inner().bucket()
    }

    /// Returns the id of the only key.
    pub fn access_key(&self) -> &str {
        self.inner().access_key()
    }

    /// Returns the secret of the only key.
    pub fn secret_key(&self) -> &str {
        self.inner().secret_key()
    }

    /// Returns the folder that the bucket lies in.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the environment in which a child process finds the keys and nothing of the machine's own settings.
    pub fn env(&self) -> Vec<(String, String)> {
        [
            ("AWS_ACCESS_KEY_ID", self.access_key()),
            ("AWS_SECRET_ACCESS_KEY", self.secret_key()),
            ("AWS_REGION", REGION),
            ("AWS_EC2_METADATA_DISABLED", "true"),
            ("AWS_CONFIG_FILE", "/dev/null"),
            ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
    }

    /// Returns another tool's client of the bucket: the plain SDK, without retries.
    pub fn client(&self) -> aws_sdk_s3::Client {
        self.client_with_secret(self.secret_key())
    }

    /// Returns a client that signs with this secret.
    pub fn client_with_secret(&self, secret: &str) -> aws_sdk_s3::Client {
        let keys = Credentials::new(self.access_key(), secret, None, None, "test");
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(REGION))
            .endpoint_url(self.url())
            .force_path_style(true)
            .credentials_provider(keys)
            .retry_config(RetryConfig::disabled())
            .http_client(aws_smithy_http_client::Builder::new().build_http())
            .build();
        aws_sdk_s3::Client::from_conf(config)
    }

    /// Returns every object, by key, but the agent's lease and its catalog.
    pub fn objects(&self) -> BTreeMap<String, Vec<u8>> {
        let keys = self.keys();
        keys.into_iter()
            .filter_map(|key| self.object(&key).map(|bytes| (key, bytes)))
            .collect()
    }

    /// Returns the keys of all objects, in order.
    pub fn all_keys(&self) -> Vec<String> {
        self.inner().keys().unwrap()
    }

    /// Returns the keys of all objects but the agent's lease and its catalog, in order.
    pub fn keys(&self) -> Vec<String> {
        let mut keys = self.inner().keys().unwrap();
        keys.retain(|key| !is_about_the_agent(key));
        keys
    }

    /// Returns one object's bytes.
    pub fn object(&self, key: &str) -> Option<Vec<u8>> {
        self.inner().object(key).unwrap()
    }

    /// Returns the open multipart uploads as pairs of key and upload id.
    pub fn open_uploads(&self) -> Vec<(String, String)> {
        self.inner().open_uploads().unwrap()
    }

    /// Returns how many requests of this operation have arrived; `*` counts all. The agent's lease, its catalog and its
    /// questions about the store itself are not counted.
    pub fn count(&self, operation: &str) -> usize {
        let requests = self.requests();
        let of = |seen: &&Seen| operation == "*" || seen.operation == operation;
        requests.iter().filter(of).count()
    }

    /// Returns the requests that have arrived, in order, but those about the agent's lease, its catalog and the store
    /// itself.
    pub fn requests(&self) -> Vec<Seen> {
        let mut requests = self.all_requests();
        requests.retain(|seen| !is_about_the_agent(&seen.decoded_path()));
        requests
    }

    /// Returns all requests that have arrived, in order.
    pub fn all_requests(&self) -> Vec<Seen> {
        let plan = self.watch.plan();
        plan.seen.iter().map(|(_, seen)| seen.clone()).collect()
    }

    /// Returns how many connections were made.
    pub fn connections(&self) -> u64 {
        self.watch.connections.load(Ordering::Relaxed)
    }

    /// Returns how many bytes have arrived, heads included.
    pub fn received(&self) -> u64 {
        self.watch.received.load(Ordering::Relaxed)
    }

    /// Forgets the requests, the connections and the bytes so far.
    pub fn reset_counts(&self) {
        self.watch.plan().seen.clear();
        self.watch.connections.store(0, Ordering::Relaxed);
        self.watch.received.store(0, Ordering::Relaxed);
    }

    /// Lets the next `times` requests of this operation (`*`: of any) go wrong.
    pub fn fail_next(&self, operation: &str, times: usize, fault: Fault) {
        let fault = (operation.to_owned(), times, fault);
        self.watch.plan().faults.push(fault);
    }

    /// Lets every request of this operation (`*`: of any) go wrong.
    pub fn always(&self, operation: &str, fault: Fault) {
        self.fail_next(operation, usize::MAX, fault);
    }

    /// Asks `script` about every request, before the other faults are looked at.
    pub fn script(&self, script: impl FnMut(&Seen) -> Option<Fault> + Send + 'static) {
        self.watch.plan().script = Some(Box::new(script));
    }

    /// Lets faults and script also meet the agent's questions about the store itself, which they else leave alone.
    pub fn meet_probes(&self) {
        self.watch.plan().meets_probes = true;
    }

    /// Lets faults and script also meet the catalog, which they else leave alone.
    pub fn meet_catalog(&self) {
        self.watch.plan().meets_catalog = true;
    }

    /// Lets every request take this much longer.
    pub fn latency(&self, latency: Duration) {
        self.watch.plan().latency = latency;
    }

    /// Ends all faults, the script and the latency, for requests to come.
    pub fn clear(&self) {
        let mut plan = self.watch.plan();
        plan.faults.clear();
        plan.script = None;
        plan.latency = Duration::ZERO;
    }

    /// Waits until `holds`, which is asked again whenever a request has arrived or ended.
    pub async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let waiting = async {
            loop {
                let changed = self.watch.changed.notified();
                let mut changed = std::pin::pin!(changed);
                changed.as_mut().enable();
                if holds(self) {
                    return;
                }
                changed.await;
            }
        };
        let waited = tokio::time::timeout(DEADLINE, waiting).await;
        assert!(waited.is_ok(), "never came to be: {what}");
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.inner = None;
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(
                ended.is_ok() || std::thread::panicking(),
                "the endpoint's thread panicked"
            );
        }
    }
}
