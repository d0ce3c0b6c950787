//! How far one attempt of a request has come, and what is counted of it when it ends.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use aws_smithy_runtime_api::client::connection::CaptureSmithyConnection;
use bytes::Bytes;
use tokio::time::Instant;

use crate::base::clock::Clock;
use crate::base::meter::Meter;
use crate::store::Body;

/// How far one attempt has come.
#[derive(Debug)]
pub(in crate::store::s3) struct Flight {
    pub(in crate::store::s3::attempt) len: u64,
    pub(in crate::store::s3::attempt) taken: AtomicU64,
    received: AtomicU64,
    steps: AtomicU64,
    /// Whether the next piece waits for its share of the bandwidth, which is no standstill.
    pub(in crate::store::s3::attempt) is_held_back: AtomicBool,
    pub(in crate::store::s3::attempt) handed_over: AtomicBool,
    /// The store's clock, as its answer says it, nanoseconds since the epoch; 0: it was not told.
    pub(in crate::store::s3::attempt) date_ns: AtomicI64,
    pub(in crate::store::s3::attempt) has_answer: AtomicBool,
    /// The HTTP status of the answer; 0: there is none.
    pub(in crate::store::s3::attempt) status: AtomicU16,
    /// When it began.
    pub began: Instant,
    /// Which client of the way to the bucket sends it.
    pub generation: u64,
    pub(in crate::store::s3::attempt) line: OnceLock<CaptureSmithyConnection>,
    /// Access key and session token of the signature.
    pub(in crate::store::s3::attempt) signed_with: OnceLock<(String, Option<String>)>,
}

/// What may lie in the kernel's and the HTTP client's buffers when the last piece has been taken from us.
const BUFFERED: u64 = 4 << 20;

/// The slowest line on which those buffers still drain in time, in bytes a second.
const SLOWEST: u64 = 128 << 10;

impl Flight {
    pub(in crate::store::s3::attempt) fn new(body: Option<&Body>, generation: u64) -> Self {
        Self {
            len: body.map_or(0, |body| body.bytes.len() as u64),
            taken: AtomicU64::new(0),
            received: AtomicU64::new(0),
            steps: AtomicU64::new(0),
            is_held_back: AtomicBool::new(false),
            handed_over: AtomicBool::new(false),
            date_ns: AtomicI64::new(0),
            has_answer: AtomicBool::new(false),
            status: AtomicU16::new(0),
            began: Clock::Real.now().mono,
            generation,
            line: OnceLock::new(),
            signed_with: OnceLock::new(),
        }
    }

    /// Returns our end of the connection that it went over, if that is known.
    pub(in crate::store::s3::attempt) fn line(&self) -> Option<SocketAddr> {
        self.line.get()?.get()?.local_addr()
    }

    /// Returns whether the head of an answer has come.
    pub(in crate::store::s3::attempt) fn has_answer(&self) -> bool {
        self.has_answer.load(Ordering::Relaxed)
    }

    /// Returns the access key and the session token that it was signed with, if it was.
    pub fn signed_with(&self) -> Option<&(String, Option<String>)> {
        self.signed_with.get()
    }

    /// Notes that a piece of an object came.
    pub fn received(&self, piece: &Bytes) {
        let len = piece.len() as u64;
        self.received.fetch_add(len, Ordering::Relaxed);
        self.step();
    }

    /// Notes that something moved.
    pub fn step(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the store's clock, as the answer said it, nanoseconds since the epoch.
    pub fn date_ns(&self) -> Option<i64> {
        Some(self.date_ns.load(Ordering::Relaxed)).filter(|date_ns| *date_ns != 0)
    }

    /// Returns false only if surely no byte of the request went out: a body is first asked for when a connection stands.
    pub(in crate::store::s3::attempt) fn may_have_left(&self) -> bool {
        if self.len > 0 {
            self.taken.load(Ordering::Relaxed) > 0
        } else {
            self.handed_over.load(Ordering::Relaxed)
        }
    }

    pub(in crate::store::s3::attempt) fn limit(
        &self,
        piece: Duration,
        answer: Duration,
    ) -> Duration {
        let taken = self.taken.load(Ordering::Relaxed);
        if taken > 0 && taken < self.len {
            piece
        } else {
            answer + Duration::from_secs(taken.min(BUFFERED) / SLOWEST)
        }
    }

    /// Ends when nothing has moved for as long as it may, and says how long that was.
    pub(in crate::store::s3::attempt) async fn stands_still(
        &self,
        piece: Duration,
        answer: Duration,
    ) -> Duration {
        // Looks eight times per limit instead of reading a clock with every piece.
        const LOOKS: u32 = 8;
        let mut seen = self.steps.load(Ordering::Relaxed);
        let mut idle = 0;
        loop {
            let limit = self.limit(piece, answer);
            tokio::time::sleep(limit / LOOKS).await;
            let steps = self.steps.load(Ordering::Relaxed);
            let has_moved = steps != seen || self.is_held_back.load(Ordering::Relaxed);
            idle = if has_moved { 0 } else { idle + 1 };
            seen = steps;
            if idle >= LOOKS {
                return limit;
            }
        }
    }
}

/// Counts an attempt when it ends, also if nobody waits for its end.
pub(in crate::store::s3::attempt) struct Counted<'a> {
    pub operation: &'static str,
    pub flight: Arc<Flight>,
    pub meter: &'a Meter,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        let flight = &self.flight;
        // No connection ever stood: nothing was asked.
        if flight.line().is_none() && !flight.has_answer() {
            return;
        }
        let status = Some(flight.status.load(Ordering::Relaxed)).filter(|status| *status != 0);
        let bytes = (
            flight.taken.load(Ordering::Relaxed),
            flight.received.load(Ordering::Relaxed),
        );
        let took = Clock::Real.now().mono.duration_since(flight.began);
        self.meter.count(self.operation, status, bytes, took);
    }
}
