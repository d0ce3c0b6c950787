//! How much happens at once: requests in flight for each endpoint, file bytes in memory and bandwidth for all together.
//!
//! Requests and memory are gates with two lanes, bandwidth is a bucket with two. Live work is kept a quarter of each (at
//! least one request), so that saving one document does not wait behind a million files. The number of requests follows
//! what its endpoint takes. Must never grant more than its capacity, and never forget a waiter.

mod bandwidth;
mod gate;
mod pace;

use std::collections::BTreeSet;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use crate::base::clock::Clock;
use crate::store::fence::NOT_OURS;
use crate::store::{self, ErrorKind, Flow, Tap};
use crate::sync::Lane;
use crate::sync::limits::bandwidth::Bandwidth;
use crate::sync::limits::gate::Gate;
use crate::sync::limits::pace::{Pace, START};

pub use crate::sync::limits::gate::Permit;

/// The limits of an endpoint. Memory and bandwidth are the same for all endpoints that came of one another.
#[derive(Debug)]
pub struct Limits {
    requests: Gate,
    pace: Mutex<Pace>,
    fixed: Mutex<Option<usize>>,
    memory: Gate,
    bandwidth: Bandwidth,
    /// Folders to which the endpoint is of no use now.
    out: Mutex<BTreeSet<String>>,
}

/// How a request ended, as far as the number of requests in flight should follow it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Answered, with this many bytes moved.
    Done(u64),
    /// The store asked for patience.
    Throttled,
    /// It went out, and was not answered, or with an error of the server's own.
    Lost,
    /// Anything else: says nothing about how much the endpoint takes.
    Neither,
}

impl Verdict {
    /// Judges the answer to a request that was to move `bytes`.
    pub fn of<T>(answer: &store::Result<T>, bytes: u64) -> Self {
        let Err(error) = answer else {
            return Self::Done(bytes);
        };
        match error.kind {
            // It was never sent: the prefix is another agent's now.
            _ if error.code == NOT_OURS => Self::Neither,
            // That the server broke says less than that it wants fewer requests, but if it happens often it means the same.
            ErrorKind::Busy if error.is_servers_own() => Self::Lost,
            ErrorKind::Busy => Self::Throttled,
            // A connection that was refused, a name that is not known: nothing of it is too much at once.
            ErrorKind::Network if error.never_left() => Self::Neither,
            ErrorKind::Network => Self::Lost,
            _ => Self::Neither,
        }
    }
}

impl Limits {
    /// Makes limits with a fixed number of requests (at least 1), or one that adapts, and without a limit of bandwidth.
    pub fn new(fixed: Option<usize>, memory_bytes: u64) -> Self {
        Self::with(
            fixed,
            Gate::new(memory_bytes.max(1)),
            Bandwidth::default(),
            true,
        )
    }

    /// Makes the limits of another endpoint, with which memory and bandwidth are shared.
    #[must_use]
    pub fn beside(&self) -> Self {
        let keeps_live = self.requests.lock().keeps_live;
        let (memory, bandwidth) = (self.memory.clone(), self.bandwidth.clone());
        Self::with(*self.fixed(), memory, bandwidth, keeps_live)
    }

    fn with(fixed: Option<usize>, memory: Gate, bandwidth: Bandwidth, keeps_live: bool) -> Self {
        let capacity = fixed.map_or(START, |n| n.max(1) as u64);
        let requests = Gate::new(capacity);
        requests.lock().keeps_live = keeps_live;
        Self {
            requests,
            pace: Mutex::new(Pace::new(fixed.is_none(), capacity)),
            fixed: Mutex::new(fixed),
            memory,
            bandwidth,
            out: Mutex::default(),
        }
    }

    /// Takes note that a folder cannot use the endpoint; returns true if it is the only one so far.
    pub fn is_out(&self, folder: &str) -> bool {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        out.insert(folder.to_owned()) && out.len() == 1
    }

    /// Takes note that a folder can use the endpoint, or does not want to any more; returns true if it was the last that
    /// could not.
    pub fn is_back(&self, folder: &str) -> bool {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        out.remove(folder) && out.is_empty()
    }

    /// Gives the live lane's share to the backlog too: for a run that watches nothing.
    #[must_use]
    pub fn without_live_lane(self) -> Self {
        self.requests.lock().keeps_live = false;
        self.memory.lock().keeps_live = false;
        self.bandwidth.without_live_lane();
        self
    }

    /// Sets a fixed number of requests (at least 1), or lets it adapt, from what it is now on. What is in flight beyond a
    /// smaller number ends in its own time.
    pub fn set_requests(&self, fixed: Option<usize>) {
        *self.fixed() = fixed;
        let capacity = fixed.map_or_else(|| self.concurrency(), |n| n.max(1) as u64);
        *self.pace() = Pace::new(fixed.is_none(), capacity);
        self.requests.resize(capacity);
    }

    /// Sets how many bytes of files may be in memory, at all endpoints that came of one another together. What is held
    /// beyond a smaller number comes back in its own time.
    pub fn set_memory(&self, bytes: u64) {
        self.memory.resize(bytes.max(1));
    }

    /// Sets how many bytes of bodies go out each second, `None` for as many as the line takes. Applies at once, also to
    /// bodies on their way.
    pub fn set_bandwidth(&self, bytes_per_second: Option<NonZeroU64>) {
        self.bandwidth.set(bytes_per_second, Clock::Real.now().mono);
    }

    /// Returns how many bytes of bodies go out each second at most.
    pub fn bandwidth(&self) -> Option<NonZeroU64> {
        self.bandwidth.rate()
    }

    /// Returns how many requests may be in flight now.
    pub fn concurrency(&self) -> u64 {
        self.requests.lock().capacity
    }

    /// Waits for the right to send one request.
    pub async fn request(&self, lane: Lane) -> Permit {
        self.requests.take(1, lane).await
    }

    /// Waits for the right to begin a body. There is one only under a limit of bandwidth: of few bytes a second for each of
    /// many bodies a server would take none for one that is coming.
    pub async fn seat(&self, lane: Lane) -> Option<Permit> {
        self.bandwidth.seat(lane).await
    }

    /// Waits for the right to hold `bytes` of files in memory. What is larger than the lane's whole share gets the share:
    /// one such body is then alone.
    pub async fn memory(&self, bytes: u64, lane: Lane) -> Permit {
        self.memory.take(bytes, lane).await
    }

    /// Takes the right to hold `bytes` of files in memory, if nobody waits for it and there is room.
    pub fn try_memory(&self, bytes: u64, lane: Lane) -> Option<Permit> {
        self.memory.try_take(bytes, lane)
    }

    /// Returns how many pieces of bodies have gone out that had to wait for their share of the bandwidth, of all endpoints
    /// together. While that grows, who hears nothing may be waiting for the others.
    pub fn held_back(&self) -> u64 {
        self.bandwidth.held_back()
    }

    /// Returns what one body goes out through: it waits for its share of the bandwidth, and tells the number of requests of
    /// throttles on the way.
    pub fn tap(self: &Arc<Self>, lane: Lane) -> Arc<dyn Tap> {
        Arc::new(LaneTap {
            limits: self.clone(),
            lane,
            opened: Mutex::new(None),
        })
    }

    /// Tells that a request is about to be sent.
    pub fn began(&self, now: Instant) {
        self.pace().began(now);
    }

    /// Tells how a request ended that began at `began`.
    pub fn ended(&self, verdict: Verdict, began: Instant, now: Instant) {
        let busy = self.requests.lock().is_contended();
        let changed = self.pace().ended(verdict, busy, began, now);
        if let Some(capacity) = changed {
            self.requests.resize(capacity);
        }
    }

    fn fixed(&self) -> MutexGuard<'_, Option<usize>> {
        self.fixed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one body goes out through.
#[derive(Debug)]
struct LaneTap {
    limits: Arc<Limits>,
    lane: Lane,
    /// When the latest attempt began.
    opened: Mutex<Option<Instant>>,
}

impl Tap for LaneTap {
    fn open(&self) -> Box<dyn Flow> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        *opened = Some(Clock::Real.now().mono);
        Box::new(self.limits.bandwidth.flow(self.lane))
    }

    fn throttled(&self) {
        let now = Clock::Real.now().mono;
        let opened = *self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        self.limits
            .ended(Verdict::Throttled, opened.unwrap_or(now), now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Effect, Error};

    #[test]
    fn of_several_folders_that_find_an_endpoint_unusable_the_first_and_the_last_speak() {
        let limits = Limits::new(None, 1);
        assert!(limits.is_out("a"));
        assert!(!limits.is_out("b") && !limits.is_out("a"));
        assert!(!limits.is_back("a"));
        assert!(!limits.is_back("a"), "once is enough");
        assert!(limits.is_back("b"));
        assert!(limits.is_out("b"), "the next outage has a line again");
    }

    #[test]
    fn endpoints_share_memory_and_not_requests() {
        let one = Limits::new(Some(1), 100);
        let other = one.beside();

        assert_eq!((one.concurrency(), other.concurrency()), (1, 1));
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(async {
            let _held = one.request(Lane::Live).await;
            drop(other.request(Lane::Live).await);
        });
        let held = one.try_memory(75, Lane::Backlog);
        assert!(held.is_some());
        assert!(other.try_memory(1, Lane::Backlog).is_none());
        drop(held);
        assert!(other.try_memory(1, Lane::Backlog).is_some());
    }

    #[tokio::test]
    async fn limits_change_under_what_is_in_flight() {
        let limits = Limits::new(Some(2), 100);
        let held = limits.request(Lane::Live).await;
        let memory = limits.memory(75, Lane::Backlog).await;
        limits.set_requests(Some(1));
        limits.set_memory(50);
        assert_eq!(limits.concurrency(), 1);
        let second = tokio::time::timeout(std::time::Duration::ZERO, limits.request(Lane::Live));
        assert!(second.await.is_err(), "the only one is taken");
        assert!(limits.try_memory(1, Lane::Live).is_none());
        drop((held, memory));
        drop(limits.request(Lane::Live).await);
        assert!(limits.try_memory(50, Lane::Live).is_some());
        // What comes later at another endpoint has the same.
        assert_eq!(limits.beside().concurrency(), 1);
        limits.set_requests(None);
        assert_eq!(limits.concurrency(), 1, "it grows from where it is");
        let now = Clock::Real.now().mono;
        limits.began(now);
        let busy = [limits.request(Lane::Live).await];
        let waits = tokio::time::timeout(std::time::Duration::ZERO, limits.request(Lane::Live));
        assert!(waits.await.is_err());
        limits.ended(Verdict::Done(1), now, now);
        assert_eq!(limits.concurrency(), 2);
        drop(busy);
    }

    #[test]
    fn only_what_too_many_requests_can_cause_counts_against_them() {
        let failed = |kind, effect, message: &str, code: &str| {
            let mut error = Error::new(kind, "PutObject", "k", effect, message);
            code.clone_into(&mut error.code);
            Verdict::of::<()>(&Err(error), 1)
        };
        let (none, possible) = (Effect::None, Effect::Possible);
        for (kind, effect, message, code, verdict) in [
            (ErrorKind::Busy, none, "", "SlowDown", Verdict::Throttled),
            (ErrorKind::Busy, none, "", "", Verdict::Throttled),
            (
                ErrorKind::Busy,
                possible,
                "",
                "InternalError",
                Verdict::Lost,
            ),
            (
                ErrorKind::Network,
                none,
                "cannot connect: refused",
                "",
                Verdict::Neither,
            ),
            (
                ErrorKind::Network,
                none,
                "no answer for 15 s",
                "",
                Verdict::Lost,
            ),
            (
                ErrorKind::Network,
                possible,
                "the connection broke",
                "",
                Verdict::Lost,
            ),
            (
                ErrorKind::Network,
                none,
                "",
                "RequestTimeout",
                Verdict::Lost,
            ),
            (ErrorKind::Denied, none, "", "", Verdict::Neither),
        ] {
            assert_eq!(
                failed(kind, effect, message, code),
                verdict,
                "{message} {code}"
            );
        }
        assert_eq!(Verdict::of(&Ok(()), 7), Verdict::Done(7));
    }
}
