//! A store whose line breaks: requests that are never sent, requests whose answer is lost, requests that take long.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::base::digest::Crc64;
use crate::store::features::Features;
use crate::store::{
    Body, Effect, Error, ErrorKind, Meta, Object, Page, Part, PartPage, Removed, Result, Sink,
    Store, Stored, UploadPage, UploadToken, When, Which,
};

/// How many requests go wrong at most: each costs its file a pause.
const MOST: u64 = 40;
/// Of a hundred requests, how many are never sent; how many are sent, and their answer lost; how many take longer.
const OF_A_HUNDRED: [u8; 3] = [10, 10, 5];
/// How much longer, at most.
const LONGER: Duration = Duration::from_millis(100);

/// Breaks the line to another store, as a seed says.
pub struct Flaky {
    inner: Arc<dyn Store>,
    random: Mutex<fastrand::Rng>,
    counts: Arc<Counts>,
}

/// What went wrong.
#[derive(Default, Debug)]
pub struct Counts {
    /// All requests.
    pub all: AtomicU64,
    /// Of them, never sent.
    pub before: AtomicU64,
    /// Of them, done without an answer.
    pub after: AtomicU64,
    /// Of them, sent later than asked for.
    pub late: AtomicU64,
}

impl Counts {
    /// Draws what becomes of a request, and counts it. Whatever the seed, the first changes of the bucket meet one fault of
    /// each kind: a line that loses no answer proves nothing of that.
    fn draw(&self, operation: &str, random: &mut fastrand::Rng) -> Fault {
        self.all.fetch_add(1, Ordering::Relaxed);
        let [before, after, late] =
            [&self.before, &self.after, &self.late].map(|count| count.load(Ordering::Relaxed));
        let is_change = !["Get", "Head", "List"]
            .iter()
            .any(|word| operation.starts_with(word));
        let [often_before, often_after, often_late] = OF_A_HUNDRED;
        let by = LONGER.mul_f64(random.f64());
        let fault = match random.u8(..100) {
            _ if is_change && after == 0 => Fault::After,
            _ if is_change && before == 0 => Fault::Before,
            _ if is_change && late == 0 => Fault::Late(by),
            _ if before + after >= MOST => Fault::None,
            dice if dice < often_before => Fault::Before,
            dice if dice < often_before + often_after => Fault::After,
            dice if dice < often_before + often_after + often_late => Fault::Late(by),
            _ => Fault::None,
        };
        let count = match fault {
            Fault::None => return fault,
            Fault::Before => &self.before,
            Fault::After => &self.after,
            Fault::Late(_) => &self.late,
        };
        count.fetch_add(1, Ordering::Relaxed);
        fault
    }
}

enum Fault {
    None,
    Before,
    After,
    Late(Duration),
}

impl Flaky {
    /// Breaks the line to `inner`; what went wrong is counted in `counts`.
    pub fn new(inner: Arc<dyn Store>, random: fastrand::Rng, counts: Arc<Counts>) -> Self {
        Self {
            inner,
            random: Mutex::new(random),
            counts,
        }
    }

    async fn pass<T: Send>(
        &self,
        operation: &'static str,
        key: &str,
        request: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let broken =
            |effect, why: &str| Error::new(ErrorKind::Network, operation, key, effect, why);
        let fault = {
            let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
            self.counts.draw(operation, &mut random)
        };
        match fault {
            Fault::None => request.await,
            Fault::Before => Err(broken(
                Effect::None,
                "the selftest has broken the line before the request was sent",
            )),
            Fault::After => {
                // Whatever it came to, nobody hears of it.
                let _ = request.await;
                Err(broken(
                    Effect::Possible,
                    "the selftest has broken the line before the answer came",
                ))
            }
            Fault::Late(by) => {
                tokio::time::sleep(by).await;
                request.await
            }
        }
    }
}

#[async_trait]
impl Store for Flaky {
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
        self.pass("PutObject", key, request).await
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<(Object, Bytes)> {
        self.pass("GetObject", key, self.inner.get(key, range))
            .await
    }

    async fn get_of(
        &self,
        key: &str,
        which: &Which,
        range: Option<Range<u64>>,
    ) -> Result<(Object, Bytes)> {
        let request = self.inner.get_of(key, which, range);
        self.pass("GetObject", key, request).await
    }

    async fn read_into(
        &self,
        key: &str,
        which: &Which,
        range: Range<u64>,
        sink: &dyn Sink,
    ) -> Result<Object> {
        let request = self.inner.read_into(key, which, range, sink);
        self.pass("GetObject", key, request).await
    }

    async fn head_of(&self, key: &str, which: &Which) -> Result<Object> {
        self.pass("HeadObject", key, self.inner.head_of(key, which))
            .await
    }

    async fn head(&self, key: &str) -> Result<Object> {
        self.pass("HeadObject", key, self.inner.head(key)).await
    }

    async fn list(&self, prefix: &str, token: Option<String>) -> Result<Page> {
        let request = self.inner.list(prefix, token);
        self.pass("ListObjectsV2", prefix, request).await
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
        self.pass("CopyObject", to, request).await
    }

    async fn delete_if(&self, key: &str, when: &When) -> Result<Removed> {
        self.pass("DeleteObject", key, self.inner.delete_if(key, when))
            .await
    }

    async fn delete_many(&self, keys: &[String]) -> Result<Vec<Result<Removed>>> {
        self.pass("DeleteObjects", "", self.inner.delete_many(keys))
            .await
    }

    async fn create_multipart(&self, key: &str, meta: &Meta) -> Result<String> {
        let request = self.inner.create_multipart(key, meta);
        self.pass("CreateMultipartUpload", key, request).await
    }

    async fn put_part(&self, key: &str, upload: &str, number: u32, body: Body) -> Result<Part> {
        let request = self.inner.put_part(key, upload, number, body);
        self.pass("UploadPart", key, request).await
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
        self.pass("UploadPartCopy", key, request).await
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
        self.pass("CompleteMultipartUpload", key, request).await
    }

    async fn list_parts(&self, key: &str, upload: &str, after: u32) -> Result<PartPage> {
        let request = self.inner.list_parts(key, upload, after);
        self.pass("ListParts", key, request).await
    }

    async fn list_uploads(&self, prefix: &str, token: Option<UploadToken>) -> Result<UploadPage> {
        let request = self.inner.list_uploads(prefix, token);
        self.pass("ListMultipartUploads", prefix, request).await
    }

    async fn abort(&self, key: &str, upload: &str) -> Result<()> {
        let request = self.inner.abort(key, upload);
        self.pass("AbortMultipartUpload", key, request).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seed_meets_each_kind_of_fault() {
        for seed in 0..200 {
            let (counts, mut random) = (Counts::default(), fastrand::Rng::with_seed(seed));
            for operation in [
                "HeadObject",
                "PutObject",
                "GetObject",
                "CopyObject",
                "DeleteObject",
            ] {
                counts.draw(operation, &mut random);
            }
            for count in [&counts.before, &counts.after, &counts.late] {
                assert!(count.load(Ordering::Relaxed) > 0, "seed {seed}: {counts:?}");
            }
            for _ in 0..1_000 {
                counts.draw("PutObject", &mut random);
            }
            let broken = [&counts.before, &counts.after].map(|count| count.load(Ordering::Relaxed));
            assert_eq!(broken[0] + broken[1], MOST, "seed {seed}: {counts:?}");
        }
    }
}
