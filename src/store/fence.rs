//! A store that changes nothing for an agent that does not own its prefix.
//!
//! Every changing request passes here, and is sent only while the fence is open. One that is under way when the fence
//! closes is dropped where it stands, so that nothing of it is repeated later: it may have had its effect. Requests that
//! only look pass always.
//!
//! Invariant: no changing request is sent, nor sent again, while the fence is closed. It is closed when either clock says
//! so: the monotonic one stands still while the machine sleeps, and the wall clock may be set back.

use std::future::Future;
use std::ops::Range;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::Instant;

use crate::base::clock::{Clock, Now};
use crate::base::digest::Crc64;
use crate::store::features::Features;
use crate::store::{
    Body, Effect, Error, ErrorKind, Meta, Object, Page, Part, PartPage, Removed, Result, Store,
    Stored, UploadPage, UploadToken, When, Which,
};

/// The word that errors of the fence carry in place of the store's own.
pub const NOT_OURS: &str = "LeaseNotHeld";

/// Until when changes may be sent. Closed at first.
#[derive(Debug)]
pub struct Fence {
    clock: Clock,
    /// On both clocks.
    until: Mutex<Option<(Instant, i64)>>,
}

impl Fence {
    /// Makes a closed one.
    pub fn new(clock: Clock) -> Self {
        Self {
            clock,
            until: Mutex::new(None),
        }
    }

    /// Opens it until so long after `from`, on both clocks.
    pub fn open(&self, from: Now, lasts: Duration) {
        let until = from.plus(lasts);
        self.set(Some((until.mono, until.wall_ns)));
    }

    /// Lets it close so long after `from` at the latest; never keeps it open for longer.
    pub fn cap(&self, from: Now, lasts: Duration) {
        let most = from.plus(lasts);
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((mono, wall_ns)) = &mut *until {
            (*mono, *wall_ns) = ((*mono).min(most.mono), (*wall_ns).min(most.wall_ns));
        }
    }

    /// Closes it at once.
    pub fn close(&self) {
        self.set(None);
    }

    /// Returns true if it is open at `now`.
    pub fn is_open(&self, now: Now) -> bool {
        let until = *self.until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|(mono, wall_ns)| now.mono < mono && now.wall_ns < wall_ns)
    }

    fn set(&self, until: Option<(Instant, i64)>) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    /// Polls `request` only while the fence is open.
    async fn pass<T>(
        &self,
        operation: &'static str,
        key: &str,
        request: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let mut request = pin!(request);
        let mut effect = Effect::None;
        std::future::poll_fn(|context| {
            if !self.is_open(self.clock.now()) {
                let why = "not sent: the lease of the prefix is not held";
                return Poll::Ready(Err(Error {
                    code: NOT_OURS.to_owned(),
                    ..Error::new(ErrorKind::Busy, operation, key, effect, why)
                }));
            }
            effect = Effect::Possible;
            request.as_mut().poll(context)
        })
        .await
    }
}

/// A store behind a fence.
pub struct Fenced {
    inner: Arc<dyn Store>,
    fence: Arc<Fence>,
}

impl Fenced {
    /// Puts a fence before a store.
    pub fn new(inner: Arc<dyn Store>, fence: Arc<Fence>) -> Self {
        Self { inner, fence }
    }
}

#[async_trait]
impl Store for Fenced {
    async fn check(&self) -> Result<()> {
        self.inner.check().await
    }

    fn features(&self) -> Arc<Features> {
        self.inner.features()
    }

    fn learn(&self, features: Features) {
        self.inner.learn(features);
    }

    async fn put_if(&self, key: &str, body: Body, meta: &Meta, when: &When) -> Result<Stored> {
        let request = self.inner.put_if(key, body, meta, when);
        self.fence.pass("PutObject", key, request).await
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<(Object, Bytes)> {
        self.inner.get(key, range).await
    }

    async fn get_of(
        &self,
        key: &str,
        which: &Which,
        range: Option<Range<u64>>,
    ) -> Result<(Object, Bytes)> {
        self.inner.get_of(key, which, range).await
    }

    async fn head_of(&self, key: &str, which: &Which) -> Result<Object> {
        self.inner.head_of(key, which).await
    }

    async fn head(&self, key: &str) -> Result<Object> {
        self.inner.head(key).await
    }

    async fn list(&self, prefix: &str, token: Option<String>) -> Result<Page> {
        self.inner.list(prefix, token).await
    }

    async fn copy_if(
        &self,
        from: &str,
        etag: &str,
        to: &str,
        meta: &Meta,
        when: &When,
    ) -> Result<Stored> {
        let request = self.inner.copy_if(from, etag, to, meta, when);
        self.fence.pass("CopyObject", to, request).await
    }

    async fn delete_if(&self, key: &str, when: &When) -> Result<Removed> {
        let request = self.inner.delete_if(key, when);
        self.fence.pass("DeleteObject", key, request).await
    }

    async fn delete_many(&self, keys: &[String]) -> Result<Vec<Result<Removed>>> {
        let request = self.inner.delete_many(keys);
        self.fence.pass("DeleteObjects", "", request).await
    }

    async fn create_multipart(&self, key: &str, meta: &Meta) -> Result<String> {
        let request = self.inner.create_multipart(key, meta);
        self.fence.pass("CreateMultipartUpload", key, request).await
    }

    async fn put_part(&self, key: &str, upload: &str, number: u32, body: Body) -> Result<Part> {
        let request = self.inner.put_part(key, upload, number, body);
        self.fence.pass("UploadPart", key, request).await
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
        let request = self.inner.copy_part(from, etag, range, key, upload, number);
        self.fence.pass("UploadPartCopy", key, request).await
    }

    async fn complete_if(
        &self,
        key: &str,
        upload: &str,
        parts: &[Part],
        crc64: Option<Crc64>,
        when: &When,
    ) -> Result<Stored> {
        let request = self.inner.complete_if(key, upload, parts, crc64, when);
        self.fence
            .pass("CompleteMultipartUpload", key, request)
            .await
    }

    async fn list_parts(&self, key: &str, upload: &str, after: u32) -> Result<PartPage> {
        self.inner.list_parts(key, upload, after).await
    }

    async fn list_uploads(&self, prefix: &str, token: Option<UploadToken>) -> Result<UploadPage> {
        self.inner.list_uploads(prefix, token).await
    }

    async fn abort(&self, key: &str, upload: &str) -> Result<()> {
        let request = self.inner.abort(key, upload);
        self.fence.pass("AbortMultipartUpload", key, request).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fence() -> (Clock, Fence) {
        let since = Clock::Real.now().mono;
        let clock = Clock::Virtual { since, wall_ns: 0 };
        (clock, Fence::new(clock))
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_closed_at_first_and_after_its_time_and_when_it_is_closed() {
        let (clock, fence) = fence();
        assert!(!fence.is_open(clock.now()));
        fence.open(clock.now(), Duration::from_secs(10));
        assert!(fence.is_open(clock.now()));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert!(!fence.is_open(clock.now()));
        fence.open(clock.now(), Duration::from_secs(10));
        fence.close();
        assert!(!fence.is_open(clock.now()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_machine_that_slept_finds_it_closed_by_the_wall_clock() {
        let (clock, fence) = fence();
        fence.open(clock.now(), Duration::from_secs(10));
        let now = Now {
            wall_ns: clock.now().wall_ns + 3_600_000_000_000,
            ..clock.now()
        };
        assert!(!fence.is_open(now));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_under_way_is_dropped_when_it_closes_and_none_begins() {
        let (clock, fence) = fence();
        fence.open(clock.now(), Duration::from_secs(10));
        // Repeats for ever, as a request on a bad line does.
        let repeats = async {
            loop {
                tokio::time::sleep(Duration::from_secs(3)).await;
            }
        };
        let passed: Result<()> = fence.pass("PutObject", "k", repeats).await;
        let error = passed.unwrap_err();
        assert_eq!(
            (error.effect, error.code.as_str()),
            (Effect::Possible, NOT_OURS)
        );
        assert_eq!(clock.now().wall_ns, 12_000_000_000);
        let never = async { panic!("it is sent") };
        let passed: Result<()> = fence.pass("PutObject", "k", never).await;
        assert_eq!(passed.unwrap_err().effect, Effect::None);
    }
}
