//! A store whose line is bad: requests fail before their effect, lose their answer, or land late.
//!
//! Everything is drawn from one seed, in the order of the requests, so that a run repeats. A late request waits in a list
//! and lands before the first request that comes after its time, or at `settle`: no task runs on its own. Time is
//! tokio's, which a test may have paused.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tidewatch::base::clock::Clock;
use tidewatch::base::digest::Crc64;
use tidewatch::store::features::Features;
use tidewatch::store::{
    Body, Effect, Error, ErrorKind, Meta, Object, Page, Part, PartPage, Removed, Result, Store,
    Stored, UploadPage, UploadToken, When, Which,
};

/// What happens to one request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// It is refused, and had no effect.
    Refused(ErrorKind),
    /// It had its effect, and the answer is lost.
    Lost,
    /// The caller hears nothing of it, and it lands so much later. A request that only looks is lost instead.
    Late(Duration),
    /// Nothing bad.
    Fine,
}

/// How likely what is, each from 0 to 1, drawn once a request.
#[derive(Clone, Debug)]
pub struct Odds {
    /// Refused by a store that is busy or a line that is down.
    pub refused: f64,
    /// The answer lost.
    pub lost: f64,
    /// Landing late.
    pub late: f64,
    /// The longest that a late request can take to land.
    pub latest: Duration,
    /// What every request takes.
    pub latency: Range<Duration>,
    /// How many bytes of a body a connection takes a second; `None`: all at once.
    pub speed: Option<u64>,
    /// How many requests may be on their way at once; one more is told to slow down.
    pub crowd: Option<usize>,
}

impl Default for Odds {
    fn default() -> Self {
        Self {
            refused: 0.0,
            lost: 0.0,
            late: 0.0,
            latest: Duration::from_secs(60),
            latency: Duration::ZERO..Duration::ZERO,
            speed: None,
            crowd: None,
        }
    }
}

/// A store behind a bad line. Cheap to clone; all clones share the line.
#[derive(Debug)]
pub struct Faulty<S> {
    inner: Arc<S>,
    line: Arc<Mutex<Line>>,
}

impl<S> Clone for Faulty<S> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            line: Arc::clone(&self.line),
        }
    }
}

#[derive(Debug)]
struct Line {
    random: fastrand::Rng,
    odds: Odds,
    calm: bool,
    script: VecDeque<(&'static str, Fault)>,
    /// When each lands, wall clock, nanoseconds.
    pending: Vec<(i64, Request)>,
    faults: u64,
    clock: Option<Clock>,
    on_delete: Option<OnDelete>,
    on_change: Option<OnChange>,
    rule: Option<Rule>,
    /// What every refusal asks for.
    retry_after: Option<Duration>,
    /// How often what was asked for.
    asked: BTreeMap<(&'static str, String), u64>,
    on_land: Option<OnLand>,
    /// Keys of which a request was late at any time.
    late_keys: BTreeSet<String>,
    /// Requests on their way now, and the most that there ever were since that was last asked.
    in_flight: (usize, usize),
    /// Requests that were told to slow down.
    throttled: u64,
}

/// A request on its way; it leaves when this is dropped.
struct OnItsWay(Arc<Mutex<Line>>);

impl Drop for OnItsWay {
    fn drop(&mut self) {
        let mut line = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        line.in_flight.0 -= 1;
    }
}

/// Decides about requests by operation and key.
#[derive(Clone)]
struct Rule(Arc<Decide>);

/// From an operation and a key to what happens.
type Decide = dyn Fn(&str, &str) -> Option<Fault> + Send + Sync;

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rule")
    }
}

/// Called with the key when a removal is asked for.
#[derive(Clone)]
struct OnDelete(Arc<dyn Fn(&str) + Send + Sync>);

impl fmt::Debug for OnDelete {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnDelete")
    }
}

/// Called with operation and key when a change is asked for.
#[derive(Clone)]
struct OnChange(Arc<See>);

/// Sees an operation and a key.
type See = dyn Fn(&str, &str) + Send + Sync;

impl fmt::Debug for OnChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnChange")
    }
}

/// Called before a late request lands, with its time, and after that without one.
#[derive(Clone)]
struct OnLand(Arc<dyn Fn(Option<i64>) + Send + Sync>);

impl fmt::Debug for OnLand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnLand")
    }
}

/// A request that can land without its caller.
#[derive(Clone, Debug)]
enum Request {
    Put(String, Body, Meta, When),
    Copy(String, String, String, Meta, When),
    Delete(String, When),
    DeleteMany(Vec<String>),
    Create(String, Meta),
    PutPart(String, String, u32, Body),
    CopyPart(String, String, Range<u64>, String, String, u32),
    Complete(String, String, Vec<Part>, Option<Crc64>, When),
    Abort(String, String),
}

impl Request {
    /// The length of its body, bytes.
    fn len(&self) -> usize {
        match self {
            Self::Put(_, body, ..) | Self::PutPart(_, _, _, body) => body.bytes.len(),
            _ => 0,
        }
    }
}

/// A body that has left already: it waits for nobody's bandwidth any more.
fn gone(body: &Body) -> Body {
    body.clone().with_tap(None)
}

impl<S: Store> Faulty<S> {
    /// Puts a line with these odds before `inner`.
    pub fn new(inner: S, seed: u64, odds: Odds) -> Self {
        Self {
            inner: Arc::new(inner),
            line: Arc::new(Mutex::new(Line {
                random: fastrand::Rng::with_seed(seed),
                odds,
                calm: false,
                script: VecDeque::new(),
                pending: Vec::new(),
                faults: 0,
                clock: None,
                on_delete: None,
                on_change: None,
                rule: None,
                retry_after: None,
                asked: BTreeMap::new(),
                on_land: None,
                late_keys: BTreeSet::new(),
                in_flight: (0, 0),
                throttled: 0,
            })),
        }
    }

    /// Decides what happens to the next request of this name; several are taken in order, before the odds.
    pub fn next(&self, operation: &'static str, fault: Fault) {
        self.lock().script.push_back((operation, fault));
    }

    /// Decides from now on about every request by its operation and key, after what `next` says and before the odds.
    pub fn rule(&self, rule: impl Fn(&str, &str) -> Option<Fault> + Send + Sync + 'static) {
        self.lock().rule = Some(Rule(Arc::new(rule)));
    }

    /// Lets every refusal from now on ask to be left alone for so long.
    pub fn ask_for_patience(&self, retry_after: Duration) {
        self.lock().retry_after = Some(retry_after);
    }

    /// Returns how often an operation was asked for with a key that starts so, refused ones too; `*` counts all.
    pub fn asked(&self, operation: &str, prefix: &str) -> u64 {
        let line = self.lock();
        let is_meant = |((name, key), _): &(&(&str, String), &u64)| {
            (operation == "*" || *name == operation) && key.starts_with(prefix)
        };
        line.asked
            .iter()
            .filter(is_meant)
            .map(|(_, count)| count)
            .sum()
    }

    /// Sets the clock that late requests land by: a line that outlives a runtime outlives its clock. Without one, tokio's
    /// clock from the first use on.
    pub fn set_clock(&self, clock: Clock) {
        self.lock().clock = Some(clock);
    }

    /// Has `hook` called with its key whenever an object's removal is asked for, before anything else happens.
    pub fn on_delete(&self, hook: impl Fn(&str) + Send + Sync + 'static) {
        self.lock().on_delete = Some(OnDelete(Arc::new(hook)));
    }

    /// Has `hook` called with operation and key whenever something that changes the bucket is asked for, before anything
    /// else happens; the key of several removals at once is empty.
    pub fn on_change(&self, hook: impl Fn(&str, &str) + Send + Sync + 'static) {
        self.lock().on_change = Some(OnChange(Arc::new(hook)));
    }

    /// Has `hook` called before each late request lands, with the time of that (wall clock, nanoseconds), and after it
    /// without one: who waits for no request would find it landed when the next one came.
    pub fn on_land(&self, hook: impl Fn(Option<i64>) + Send + Sync + 'static) {
        self.lock().on_land = Some(OnLand(Arc::new(hook)));
    }

    /// Returns whether a request for this key was ever late.
    pub fn was_late(&self, key: &str) -> bool {
        self.lock().late_keys.contains(key)
    }

    /// Ends all faults and latency; what is pending still lands at its time.
    pub fn calm(&self) {
        let mut line = self.lock();
        line.calm = true;
        line.script.clear();
    }

    /// Lets faults happen again.
    pub fn storm(&self) {
        self.lock().calm = false;
    }

    /// Sets how many requests may be on their way at once from now on.
    pub fn crowd(&self, most: Option<usize>) {
        self.lock().odds.crowd = most;
    }

    /// Returns how many requests have been told to slow down.
    pub fn throttled(&self) -> u64 {
        self.lock().throttled
    }

    /// Returns the most requests that were on their way at once since this was last asked.
    pub fn most_at_once(&self) -> usize {
        let mut line = self.lock();
        let now = line.in_flight.0;
        std::mem::replace(&mut line.in_flight.1, now)
    }

    /// Returns the store behind the line.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// Returns how many requests did not go well.
    pub fn faults(&self) -> u64 {
        self.lock().faults
    }

    /// Returns how many requests are still to land.
    pub fn pending(&self) -> usize {
        self.lock().pending.len()
    }

    /// Lands everything that is due by now, in the order of its time.
    pub async fn tick(&self) {
        let now_ns = self.lock().now_ns();
        self.land(Some(now_ns)).await;
    }

    /// Lands everything, due or not, in the order of its time.
    pub async fn settle(&self) {
        self.land(None).await;
    }

    async fn land(&self, until: Option<i64>) {
        loop {
            let ((due_ns, request), hook) = {
                let mut line = self.lock();
                let hook = line.on_land.clone();
                // The first of several with one time is the one that was sent first.
                let first = line
                    .pending
                    .iter()
                    .enumerate()
                    .filter(|(_, (due, _))| until.is_none_or(|until| *due <= until))
                    .min_by_key(|(at, (due, _))| (*due, *at))
                    .map(|(at, _)| at);
                match first {
                    Some(at) => (line.pending.remove(at), hook),
                    None => return,
                }
            };
            let tell = |due_ns| hook.iter().for_each(|OnLand(hook)| hook(due_ns));
            tell(Some(due_ns));
            self.apply(request).await;
            tell(None);
        }
    }

    /// Nobody hears whether it worked.
    async fn apply(&self, request: Request) {
        let store = &self.inner;
        match request {
            Request::Put(key, body, meta, when) => {
                drop(store.put_if(&key, body, &meta, &when).await);
            }
            Request::Copy(from, etag, to, meta, when) => {
                drop(store.copy_if(&from, &etag, &to, &meta, &when).await);
            }
            Request::Delete(key, when) => drop(store.delete_if(&key, &when).await),
            Request::DeleteMany(keys) => drop(store.delete_many(&keys).await),
            Request::Create(key, meta) => drop(store.create_multipart(&key, &meta).await),
            Request::PutPart(key, upload, number, body) => {
                drop(store.put_part(&key, &upload, number, body).await);
            }
            Request::CopyPart(from, etag, range, key, upload, number) => {
                drop(
                    store
                        .copy_part(&from, &etag, range, &key, &upload, number)
                        .await,
                );
            }
            Request::Complete(key, upload, parts, crc64, when) => {
                drop(store.complete_if(&key, &upload, &parts, crc64, &when).await);
            }
            Request::Abort(key, upload) => drop(store.abort(&key, &upload).await),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send<T: Send>(
        &self,
        operation: &'static str,
        key: &str,
        late: Option<Request>,
        call: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let hook = self.lock().on_change.clone().filter(|_| late.is_some());
        if let Some(OnChange(hook)) = hook {
            hook(operation, key);
        }
        let (mut latency, mut fault) = self.lock().draw(operation, key);
        let _way = {
            let mut line = self.lock();
            line.in_flight.0 += 1;
            line.in_flight.1 = line.in_flight.1.max(line.in_flight.0);
            if line.odds.crowd.is_some_and(|most| line.in_flight.0 > most) {
                line.throttled += 1;
                fault = Fault::Refused(ErrorKind::Busy);
            } else if let (Some(speed), Some(late)) = (line.odds.speed, &late) {
                latency += Duration::from_secs_f64(late.len() as f64 / speed as f64);
            }
            OnItsWay(Arc::clone(&self.line))
        };
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        self.tick().await;
        let failed =
            |kind, effect, message: &str| Error::new(kind, operation, key, effect, message);
        let writes = late.is_some();
        match (fault, late) {
            (Fault::Fine, _) => call.await,
            (Fault::Refused(kind), _) => Err(Error {
                retry_after: self.lock().retry_after,
                ..failed(kind, Effect::None, "refused by a fault")
            }),
            (Fault::Late(after), Some(request)) => {
                let mut line = self.lock();
                let due = line.now_ns() + after.as_nanos() as i64;
                line.late_keys.insert(key.to_owned());
                line.pending.push((due, request));
                drop(line);
                Err(failed(
                    ErrorKind::Network,
                    Effect::Possible,
                    "late by a fault",
                ))
            }
            (Fault::Lost | Fault::Late(_), _) => {
                drop(call.await);
                let effect = if writes {
                    Effect::Possible
                } else {
                    Effect::None
                };
                Err(failed(ErrorKind::Network, effect, "answer lost by a fault"))
            }
        }
    }
}

impl Line {
    fn now_ns(&mut self) -> i64 {
        let since = || Clock::Virtual {
            since: Clock::Real.now().mono,
            wall_ns: 0,
        };
        self.clock.get_or_insert_with(since).now().wall_ns
    }

    fn draw(&mut self, operation: &'static str, key: &str) -> (Duration, Fault) {
        *self.asked.entry((operation, key.to_owned())).or_default() += 1;
        if self.calm {
            return (Duration::ZERO, Fault::Fine);
        }
        let Range { start, end } = self.odds.latency;
        // Drawn also where it is not used, so that changing one odd does not change what all later requests draw.
        let latency = start + end.saturating_sub(start).mul_f64(self.random.f64());
        let (which, how) = (self.random.f64(), self.random.f64());
        let scripted = self.script.iter().position(|(name, _)| *name == operation);
        let ruled = self
            .rule
            .as_ref()
            .and_then(|Rule(rule)| rule(operation, key));
        let fault = if let Some(at) = scripted {
            self.script
                .remove(at)
                .map_or(Fault::Fine, |(_, fault)| fault)
        } else if let Some(fault) = ruled {
            fault
        } else if which < self.odds.refused {
            Fault::Refused(if how < 0.5 {
                ErrorKind::Busy
            } else {
                ErrorKind::Network
            })
        } else if which < self.odds.refused + self.odds.lost {
            Fault::Lost
        } else if which < self.odds.refused + self.odds.lost + self.odds.late {
            Fault::Late(self.odds.latest.mul_f64(how))
        } else {
            Fault::Fine
        };
        self.faults += u64::from(fault != Fault::Fine);
        (latency, fault)
    }
}

#[async_trait]
impl<S: Store> Store for Faulty<S> {
    async fn check(&self) -> Result<()> {
        self.send("HeadBucket", "", None, self.inner.check()).await
    }

    fn features(&self) -> Arc<Features> {
        self.inner.features()
    }

    fn learn(&self, features: Features) {
        self.inner.learn(features);
    }

    async fn put_if(&self, key: &str, body: Body, meta: &Meta, when: &When) -> Result<Stored> {
        let late = Request::Put(key.to_owned(), gone(&body), meta.clone(), when.clone());
        let call = self.inner.put_if(key, body, meta, when);
        self.send("PutObject", key, Some(late), call).await
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<(Object, Bytes)> {
        self.send("GetObject", key, None, self.inner.get(key, range))
            .await
    }

    async fn get_of(
        &self,
        key: &str,
        which: &Which,
        range: Option<Range<u64>>,
    ) -> Result<(Object, Bytes)> {
        let call = self.inner.get_of(key, which, range);
        self.send("GetObject", key, None, call).await
    }

    async fn head_of(&self, key: &str, which: &Which) -> Result<Object> {
        self.send("HeadObject", key, None, self.inner.head_of(key, which))
            .await
    }

    async fn head(&self, key: &str) -> Result<Object> {
        self.send("HeadObject", key, None, self.inner.head(key))
            .await
    }

    async fn list(&self, prefix: &str, token: Option<String>) -> Result<Page> {
        let call = self.inner.list(prefix, token);
        self.send("ListObjectsV2", "", None, call).await
    }

    async fn copy_if(
        &self,
        from: &str,
        etag: &str,
        to: &str,
        meta: &Meta,
        when: &When,
    ) -> Result<Stored> {
        let late = Request::Copy(
            from.to_owned(),
            etag.to_owned(),
            to.to_owned(),
            meta.clone(),
            when.clone(),
        );
        let call = self.inner.copy_if(from, etag, to, meta, when);
        self.send("CopyObject", to, Some(late), call).await
    }

    async fn delete_if(&self, key: &str, when: &When) -> Result<Removed> {
        let hook = self.lock().on_delete.clone();
        if let Some(OnDelete(hook)) = hook {
            hook(key);
        }
        let late = Request::Delete(key.to_owned(), when.clone());
        let call = self.inner.delete_if(key, when);
        self.send("DeleteObject", key, Some(late), call).await
    }

    async fn delete_many(&self, keys: &[String]) -> Result<Vec<Result<Removed>>> {
        let hook = self.lock().on_delete.clone();
        if let Some(OnDelete(hook)) = hook {
            for key in keys {
                hook(key);
            }
        }
        let late = Request::DeleteMany(keys.to_vec());
        let call = self.inner.delete_many(keys);
        self.send("DeleteObjects", "", Some(late), call).await
    }

    async fn create_multipart(&self, key: &str, meta: &Meta) -> Result<String> {
        let late = Request::Create(key.to_owned(), meta.clone());
        let call = self.inner.create_multipart(key, meta);
        self.send("CreateMultipartUpload", key, Some(late), call)
            .await
    }

    async fn put_part(&self, key: &str, upload: &str, number: u32, body: Body) -> Result<Part> {
        let late = Request::PutPart(key.to_owned(), upload.to_owned(), number, gone(&body));
        let call = self.inner.put_part(key, upload, number, body);
        self.send("UploadPart", key, Some(late), call).await
    }

    async fn copy_part(
        &self,
        from: &str,
        etag: &str,
        range: Range<u64>,
        key: &str,
        upload: &str,
        number: u32,
    ) -> Result<Part> {
        let late = Request::CopyPart(
            from.to_owned(),
            etag.to_owned(),
            range.clone(),
            key.to_owned(),
            upload.to_owned(),
            number,
        );
        let call = self.inner.copy_part(from, etag, range, key, upload, number);
        self.send("UploadPartCopy", key, Some(late), call).await
    }

    async fn complete_if(
        &self,
        key: &str,
        upload: &str,
        parts: &[Part],
        crc64: Option<Crc64>,
        when: &When,
    ) -> Result<Stored> {
        let late = Request::Complete(
            key.to_owned(),
            upload.to_owned(),
            parts.to_vec(),
            crc64,
            when.clone(),
        );
        let call = self.inner.complete_if(key, upload, parts, crc64, when);
        self.send("CompleteMultipartUpload", key, Some(late), call)
            .await
    }

    async fn list_parts(&self, key: &str, upload: &str, after: u32) -> Result<PartPage> {
        let call = self.inner.list_parts(key, upload, after);
        self.send("ListParts", key, None, call).await
    }

    async fn list_uploads(&self, prefix: &str, token: Option<UploadToken>) -> Result<UploadPage> {
        let call = self.inner.list_uploads(prefix, token);
        self.send("ListMultipartUploads", "", None, call).await
    }

    async fn abort(&self, key: &str, upload: &str) -> Result<()> {
        let late = Request::Abort(key.to_owned(), upload.to_owned());
        let call = self.inner.abort(key, upload);
        self.send("AbortMultipartUpload", key, Some(late), call)
            .await
    }
}
