//! How much happens at once, for all folders together: requests in flight and file bytes in memory.
//!
//! Both are gates with two lanes. Live work is kept a quarter of each (at least one request), so that saving one document
//! does not wait behind a million files. The number of requests follows what the endpoint takes: doubled each round trip
//! from 16 until goodput stops rising by 3 % or the first throttle, then raised by a tenth and cut by 0.7 as S3's own
//! clients do. Must never grant more than its capacity, and never forget a waiter.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::sync::Lane;

/// Where slow start begins: one connection more than a browser would open to two hosts, and no burden to any store.
const START: u64 = 16;
/// The most requests in flight: S3's 3,500 puts a second for a prefix at 65 ms.
const MOST: u64 = 256;
/// A window is at least this long once slow start has ended.
const WINDOW: Duration = Duration::from_secs(1);
/// And at least this many completions.
const WINDOW_COMPLETIONS: u64 = 20;
/// Growth of goodput that counts as growth.
const GROWTH: f64 = 1.03;
/// Windows in a row without growth that end slow start. One says nothing: answers come in bursts, one a round trip, and a
/// window may hold one burst more or less.
const FLAT: u32 = 2;
/// No raising for this long after a throttle.
const CALM: Duration = Duration::from_secs(10);

/// The limits of a process.
#[derive(Debug)]
pub struct Limits {
    requests: Gate,
    memory: Gate,
    pace: Mutex<Pace>,
}

/// How a request ended, as far as the number of requests in flight should follow it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Answered, with this many bytes moved.
    Done(u64),
    /// The store asked for patience.
    Throttled,
    /// No answer in time.
    TimedOut,
    /// Anything else: says nothing about how much the endpoint takes.
    Neither,
}

impl Limits {
    /// Makes limits with a fixed number of requests (at least 1), or one that adapts.
    pub fn new(fixed: Option<usize>, memory_bytes: u64) -> Self {
        let capacity = fixed.map_or(START, |n| n.max(1) as u64);
        Self {
            requests: Gate::new(capacity),
            memory: Gate::new(memory_bytes.max(1)),
            pace: Mutex::new(Pace::new(fixed.is_none(), capacity)),
        }
    }

    /// Returns how many requests may be in flight now.
    pub fn concurrency(&self) -> u64 {
        self.requests.lock().capacity
    }

    /// Waits for the right to send one request.
    pub async fn request(&self, lane: Lane) -> Permit {
        self.requests.take(1, lane).await
    }

    /// Waits for the right to hold `bytes` of files in memory. What is larger than the lane's whole share gets the share:
    /// one such body is then alone.
    pub async fn memory(&self, bytes: u64, lane: Lane) -> Permit {
        self.memory.take(bytes, lane).await
    }

    /// Takes the right to hold `bytes` of files in memory, if nobody waits for it and there is room.
    pub fn try_memory(&self, bytes: u64, lane: Lane) -> Option<Permit> {
        let amount = {
            let mut state = self.memory.lock();
            let is_free = state.waiting_live.is_empty() && state.waiting_backlog.is_empty();
            if is_free {
                state.grant_now(bytes, lane)?
            } else {
                return None;
            }
        };
        Some(Permit {
            gate: self.memory.clone(),
            amount,
            lane,
        })
    }

    /// Gives the live lane's share to the backlog too: for a run that watches nothing.
    #[must_use]
    pub fn without_live_lane(self) -> Self {
        self.requests.lock().keeps_live = false;
        self.memory.lock().keeps_live = false;
        self
    }

    /// Tells that a request is about to be sent.
    pub fn began(&self, now: Instant) {
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        pace.began(now);
    }

    /// Tells how a request ended.
    pub fn ended(&self, verdict: Verdict, now: Instant) {
        let busy = self.requests.lock().is_contended();
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(capacity) = pace.ended(verdict, busy, now) {
            self.requests.resize(capacity);
        }
    }
}

/// A counting gate with two lanes.
#[derive(Clone, Debug)]
struct Gate(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    capacity: u64,
    live: u64,
    backlog: u64,
    waiting_live: VecDeque<Waiter>,
    waiting_backlog: VecDeque<Waiter>,
    /// Whether anybody had to wait since the last look: only then does a larger capacity mean anything.
    contended: bool,
    /// Whether a share is kept for live work.
    keeps_live: bool,
}

#[derive(Debug)]
struct Waiter {
    amount: u64,
    granted: oneshot::Sender<Permit>,
}

/// A part of a gate's capacity; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    gate: Gate,
    amount: u64,
    lane: Lane,
}

impl Gate {
    fn new(capacity: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            capacity,
            live: 0,
            backlog: 0,
            waiting_live: VecDeque::new(),
            waiting_backlog: VecDeque::new(),
            contended: false,
            keeps_live: true,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn take(&self, amount: u64, lane: Lane) -> Permit {
        let waiting = {
            let mut state = self.lock();
            let (sender, receiver) = oneshot::channel();
            let waiter = Waiter {
                amount,
                granted: sender,
            };
            match lane {
                Lane::Live => state.waiting_live.push_back(waiter),
                Lane::Backlog => state.waiting_backlog.push_back(waiter),
            }
            receiver
        };
        self.grant();
        match waiting.await {
            Ok(permit) => permit,
            // The gate lives as long as `self`, and a waiter leaves its queue only by being granted.
            Err(_) => unreachable!("a waiter was dropped without a permit"),
        }
    }

    fn resize(&self, capacity: u64) {
        self.lock().capacity = capacity;
        self.grant();
    }

    /// Hands out what is free, live before backlog, in the order of asking.
    fn grant(&self) {
        // A permit that nobody wants any more is dropped outside the lock: dropping it takes the lock again.
        loop {
            let next = self.lock().next_grant();
            let Some((waiter, lane, amount)) = next else {
                break;
            };
            let permit = Permit {
                gate: self.clone(),
                amount,
                lane,
            };
            drop(waiter.granted.send(permit));
        }
        let mut state = self.lock();
        state.contended |= !state.waiting_live.is_empty() || !state.waiting_backlog.is_empty();
    }
}

impl State {
    /// What is kept for live work: a quarter, at least one; nothing where there is only one, or no live work.
    fn reserve(&self) -> u64 {
        if self.capacity < 2 || !self.keeps_live {
            0
        } else {
            (self.capacity / 4).max(1)
        }
    }

    fn next_grant(&mut self) -> Option<(Waiter, Lane, u64)> {
        self.waiting_live
            .retain(|waiter| !waiter.granted.is_closed());
        self.waiting_backlog
            .retain(|waiter| !waiter.granted.is_closed());
        let (lane, first) = match self.waiting_live.front() {
            // Backlog that slipped past would keep a large live body waiting for ever.
            Some(first) => (Lane::Live, first),
            None => (Lane::Backlog, self.waiting_backlog.front()?),
        };
        let amount = self.grant_now(first.amount, lane)?;
        let queue = match lane {
            Lane::Live => &mut self.waiting_live,
            Lane::Backlog => &mut self.waiting_backlog,
        };
        queue.pop_front().map(|waiter| (waiter, lane, amount))
    }

    /// Takes `amount`, or a lane's whole share of it, if it is free; returns how much was taken.
    fn grant_now(&mut self, amount: u64, lane: Lane) -> Option<u64> {
        let used = self.live + self.backlog;
        let share = match lane {
            Lane::Live => self.capacity,
            Lane::Backlog => self.capacity - self.reserve(),
        };
        let amount = amount.min(share);
        let fits = used + amount <= self.capacity
            && (lane == Lane::Live || self.backlog + amount <= share);
        if !fits {
            return None;
        }
        match lane {
            Lane::Live => self.live += amount,
            Lane::Backlog => self.backlog += amount,
        }
        Some(amount)
    }

    fn is_contended(&mut self) -> bool {
        std::mem::take(&mut self.contended)
            || !self.waiting_live.is_empty()
            || !self.waiting_backlog.is_empty()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        {
            let mut state = self.gate.lock();
            match self.lane {
                Lane::Live => state.live -= self.amount,
                Lane::Backlog => state.backlog -= self.amount,
            }
        }
        self.gate.grant();
    }
}

/// Decides how many requests may be in flight.
#[derive(Debug)]
struct Pace {
    adapts: bool,
    limit: u64,
    slow_start: bool,
    window: Option<Window>,
    /// The most requests and bytes a second of any window since the last trouble.
    best: (f64, f64),
    /// Windows in a row without growth.
    flat: u32,
    calm_until: Option<Instant>,
}

/// What was seen since the last decision.
#[derive(Clone, Copy, Debug)]
struct Window {
    began: Instant,
    completions: u64,
    bytes: u64,
    timeouts: u64,
    throttled: bool,
    /// Whether anybody had to wait: if not, a larger limit would not have been used, and what was reached says nothing.
    contended: bool,
}

impl Window {
    fn new(began: Instant) -> Self {
        Self {
            began,
            completions: 0,
            bytes: 0,
            timeouts: 0,
            throttled: false,
            contended: false,
        }
    }

    fn take(&mut self, verdict: Verdict, contended: bool) {
        self.contended |= contended;
        match verdict {
            Verdict::Done(bytes) => {
                self.completions += 1;
                self.bytes += bytes;
            }
            Verdict::Throttled => self.throttled = true,
            Verdict::TimedOut => self.timeouts += 1,
            Verdict::Neither => {}
        }
    }

    /// A throttle is trouble, and so are timeouts of more than one request in twenty.
    fn is_troubled(&self) -> bool {
        self.throttled || self.timeouts * 20 > self.completions.max(20)
    }
}

impl Pace {
    fn new(adapts: bool, limit: u64) -> Self {
        Self {
            adapts,
            limit,
            slow_start: true,
            window: None,
            best: (0.0, 0.0),
            flat: 0,
            calm_until: None,
        }
    }

    /// Opens the first window. Not at the first answer: all of a first burst are answered at once, which would look like a
    /// rate that no later window could reach.
    fn began(&mut self, now: Instant) {
        self.window.get_or_insert(Window::new(now));
    }

    /// Takes one request's end; returns the new limit when a window has closed and changed it.
    fn ended(&mut self, verdict: Verdict, contended: bool, now: Instant) -> Option<u64> {
        if !self.adapts {
            return None;
        }
        let window = self.window.get_or_insert(Window::new(now));
        window.take(verdict, contended);
        let window = *window;
        let is_long = now.saturating_duration_since(window.began) >= WINDOW;
        let is_full = if self.slow_start {
            window.completions >= self.limit
        } else {
            is_long && window.completions >= WINDOW_COMPLETIONS
        };
        // Trouble is answered once a window, but need not wait for completions that do not come.
        if !is_full && !(window.is_troubled() && (self.slow_start || is_long)) {
            return None;
        }
        let before = self.limit;
        self.limit = self.next(&window, now).clamp(1, MOST);
        self.window = Some(Window::new(now));
        (self.limit != before).then_some(self.limit)
    }

    fn next(&mut self, window: &Window, now: Instant) -> u64 {
        if window.is_troubled() {
            self.slow_start = false;
            self.calm_until = Some(now + CALM);
            self.best = (0.0, 0.0);
            let factor = if window.throttled { 0.7 } else { 0.5 };
            return (self.limit as f64 * factor) as u64;
        }
        if !window.contended || self.calm_until.is_some_and(|until| now < until) {
            return self.limit;
        }
        let seconds = now
            .saturating_duration_since(window.began)
            .as_secs_f64()
            .max(1e-6);
        let reached = (
            window.completions as f64 / seconds,
            window.bytes as f64 / seconds,
        );
        let grew = reached.0 > self.best.0 * GROWTH || reached.1 > self.best.1 * GROWTH;
        self.best = (self.best.0.max(reached.0), self.best.1.max(reached.1));
        self.flat = if grew { 0 } else { self.flat + 1 };
        match (grew, self.slow_start) {
            (true, true) => self.limit * 2,
            (true, false) => self.limit + (self.limit / 10).max(1),
            (false, _) => {
                self.slow_start &= self.flat < FLAT;
                self.limit
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_quarter_is_kept_for_live_work() {
        let limits = Limits::new(Some(8), 100);
        let mut held = Vec::new();
        for _ in 0..6 {
            held.push(limits.request(Lane::Backlog).await);
        }
        let seventh = limits.request(Lane::Backlog);
        tokio::pin!(seventh);
        assert!(futures_now(&mut seventh).is_none());
        held.push(limits.request(Lane::Live).await);
        held.push(limits.request(Lane::Live).await);
        let third = limits.request(Lane::Live);
        tokio::pin!(third);
        assert!(futures_now(&mut third).is_none());
        // A backlog permit comes back: live takes it first.
        drop(held.remove(0));
        let third = futures_now(&mut third);
        assert!(third.is_some());
        assert!(futures_now(&mut seventh).is_none());
    }

    #[tokio::test]
    async fn one_request_at_a_time_serves_both_lanes() {
        let limits = Limits::new(Some(1), 100);
        drop(limits.request(Lane::Backlog).await);
        drop(limits.request(Lane::Live).await);
    }

    #[tokio::test]
    async fn a_waiter_that_went_away_loses_nothing() {
        let limits = Limits::new(Some(1), 100);
        let held = limits.request(Lane::Live).await;
        {
            let waiting = limits.request(Lane::Live);
            tokio::pin!(waiting);
            assert!(futures_now(&mut waiting).is_none());
        }
        drop(held);
        drop(limits.request(Lane::Live).await);
    }

    #[tokio::test]
    async fn a_body_larger_than_the_bound_is_let_in_alone() {
        let limits = Limits::new(None, 100);
        let big = limits.memory(1_000, Lane::Backlog).await;
        let next = limits.memory(1, Lane::Backlog);
        tokio::pin!(next);
        assert!(futures_now(&mut next).is_none());
        drop(limits.memory(25, Lane::Live).await);
        drop(big);
        assert!(futures_now(&mut next).is_some());
    }

    fn futures_now<F: Future>(future: &mut std::pin::Pin<&mut F>) -> Option<F::Output> {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match future.as_mut().poll(&mut context) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        }
    }

    fn window(pace: &mut Pace, now: &mut Instant, completions: u64, each: Duration) -> Option<u64> {
        let mut last = None;
        for _ in 0..completions {
            *now += each;
            last = pace.ended(Verdict::Done(4096), true, *now).or(last);
        }
        last
    }

    #[tokio::test(start_paused = true)]
    async fn slow_start_doubles_until_goodput_stops_rising() {
        let mut now = Clock::now_mono();
        let mut pace = Pace::new(true, START);
        // The first completion opens the window.
        assert_eq!(
            window(&mut pace, &mut now, 16, Duration::from_micros(1000)),
            Some(32)
        );
        assert_eq!(
            window(&mut pace, &mut now, 32, Duration::from_micros(500)),
            Some(64)
        );
        assert_eq!(
            window(&mut pace, &mut now, 64, Duration::from_micros(500)),
            None
        );
        assert!(pace.slow_start);
        assert_eq!(
            window(&mut pace, &mut now, 64, Duration::from_micros(500)),
            None
        );
        assert!(!pace.slow_start);
        assert_eq!(pace.limit, 64);
    }

    #[tokio::test(start_paused = true)]
    async fn one_window_that_caught_a_burst_less_does_not_end_slow_start() {
        let mut now = Clock::now_mono();
        let mut pace = Pace::new(true, START);
        let each = Duration::from_micros(500);
        assert_eq!(window(&mut pace, &mut now, 16, each), Some(32));
        assert_eq!(window(&mut pace, &mut now, 32, each * 2), None);
        assert_eq!(window(&mut pace, &mut now, 32, each / 2), Some(64));
    }

    #[tokio::test(start_paused = true)]
    async fn a_first_burst_that_is_answered_at_once_does_not_end_slow_start() {
        let mut now = Clock::now_mono();
        let mut pace = Pace::new(true, START);
        pace.began(now);
        for (limit, next) in [
            (16, Some(32)),
            (32, Some(64)),
            (64, Some(128)),
            (128, Some(256)),
        ] {
            // Each round trip takes 30 ms, and its answers come within a moment.
            now += Duration::from_millis(30);
            assert_eq!(
                window(&mut pace, &mut now, limit, Duration::from_micros(1)),
                next
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_throttle_cuts_once_a_window_and_pauses_raising() {
        let mut now = Clock::now_mono();
        let mut pace = Pace::new(true, 100);
        pace.slow_start = false;
        pace.window = Some(Window::new(now));
        now += Duration::from_millis(500);
        assert_eq!(pace.ended(Verdict::Throttled, true, now), None);
        assert_eq!(pace.ended(Verdict::Throttled, true, now), None);
        now += Duration::from_millis(600);
        assert_eq!(pace.ended(Verdict::Done(1), true, now), Some(70));
        assert_eq!(
            window(&mut pace, &mut now, 40, Duration::from_millis(100)),
            None
        );
        assert_eq!(
            window(&mut pace, &mut now, 100, Duration::from_millis(100)),
            Some(77)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_agent_does_not_grow() {
        let mut now = Clock::now_mono();
        let mut pace = Pace::new(true, START);
        for _ in 0..1000 {
            now += Duration::from_millis(5);
            assert_eq!(pace.ended(Verdict::Done(1), false, now), None);
        }
    }

    struct Clock;
    impl Clock {
        fn now_mono() -> Instant {
            crate::base::clock::Clock::Real.now().mono
        }
    }
}
