//! How many bytes of bodies go out each second, for all folders and endpoints of the process together.
//!
//! A bucket that fills at the limit and holds an eighth of a second, from which each body takes a piece before it hands it
//! to its connection. Pieces are a sixteenth of a second at most, so that a slow line moves all the time. There is no task:
//! whoever is first in line keeps the time, and wakes the next when it has taken its piece.
//!
//! Both lanes move whenever both have something to send: live takes three pieces for one of the backlog's, which is more than
//! the quarter that it is guaranteed and leaves no upload standing so long that its server loses patience. What one lane does
//! not use the other one has.
//!
//! Invariant: whoever is first in line holds a timer or is about to be polled.

use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::base::clock::Clock;
use crate::sync::Lane;
use crate::sync::limits::gate::{Gate, Permit};

/// The bucket holds what comes in in one part in this many of a second.
const HOLDS: f64 = 8.0;
/// A piece is what comes in in one part in this many of a second.
const PIECES: u64 = 16;
/// The smallest piece, bytes: less would be more header than body.
const LEAST: usize = 128;
/// The largest piece, bytes.
const MOST: usize = 64 << 10;
/// Bodies on their way at once have at least this many bytes a second each.
const SEAT: u64 = 4 << 10;
/// And each gets a piece at least every so many seconds: servers wait twenty.
const TURN: u64 = 4;
/// Seats where there is no limit: more than there are requests.
const ALL: u64 = 1 << 20;
/// How many pieces of the live lane go out for one of the backlog's.
const LIVE: f64 = 3.0;

/// The bandwidth of a process. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub(in crate::sync::limits) struct Bandwidth(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    seats: Gate,
    /// Pieces that had to wait before they went out.
    held_back: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    rate: Option<NonZeroU64>,
    /// Bytes that may go out now.
    level: f64,
    /// When that was so; `None`: never yet.
    at: Option<Instant>,
    waiting: [VecDeque<Waiter>; 2],
    /// How far each lane has come, in bytes over its weight: the one that is behind is next.
    way: [f64; 2],
    /// Where the lane was that took last: one that was idle begins from there, and has nothing saved.
    now: f64,
    tickets: u64,
}

#[derive(Debug)]
struct Waiter {
    ticket: u64,
    wanted: usize,
    waker: Waker,
}

/// What a body is told that asks for a piece.
enum Answer {
    /// So many bytes may go out.
    Take(usize),
    /// It is first in line, and has to look again then.
    First(Instant),
    /// It will be woken.
    Later,
}

impl Default for Bandwidth {
    fn default() -> Self {
        Self(Arc::new(Shared {
            state: Mutex::new(State::default()),
            seats: Gate::new(ALL),
            held_back: AtomicU64::new(0),
        }))
    }
}

impl Bandwidth {
    /// Sets the limit, in bytes a second; `None`: there is none.
    pub fn set(&self, rate: Option<NonZeroU64>, now: Instant) {
        let next = {
            let mut state = self.lock();
            state.fill(now);
            state.rate = rate;
            state.level = state.level.min(state.holds());
            state.next().map(|(_, first)| first.waker.clone())
        };
        self.0
            .seats
            .resize(rate.map_or(ALL, |rate| seats(rate.get())));
        wake(next);
    }

    /// Returns the limit.
    pub fn rate(&self) -> Option<NonZeroU64> {
        self.lock().rate
    }

    /// Gives the live lane's share of seats to the backlog too.
    pub fn without_live_lane(&self) {
        self.0.seats.lock().keeps_live = false;
    }

    /// Waits for the right to begin a body; without a limit there is no need for one.
    pub async fn seat(&self, lane: Lane) -> Option<Permit> {
        self.rate()?;
        Some(self.0.seats.take(1, lane).await)
    }

    /// Returns how many pieces have gone out that had to wait.
    pub fn held_back(&self) -> u64 {
        self.0.held_back.load(Ordering::Relaxed)
    }

    /// Begins to hand out a body.
    pub fn flow(&self, lane: Lane) -> BodyFlow {
        BodyFlow {
            bandwidth: self.clone(),
            lane,
            ticket: None,
            timer: None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns how many bodies may be on their way at a limit, at least one of each lane.
fn seats(rate: u64) -> u64 {
    let turn = TURN * rate / step(rate) as u64;
    (rate / SEAT).min(turn).max(2)
}

/// Returns the size of a piece at a limit, bytes.
fn step(rate: u64) -> usize {
    usize::try_from(rate / PIECES)
        .unwrap_or(MOST)
        .clamp(LEAST, MOST)
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

impl State {
    fn holds(&self) -> f64 {
        self.rate.map_or(0.0, |rate| {
            (rate.get() as f64 / HOLDS).max(step(rate.get()) as f64)
        })
    }

    fn fill(&mut self, now: Instant) {
        let since = self.at.replace(now).unwrap_or(now);
        if let Some(rate) = self.rate {
            let passed = now.saturating_duration_since(since).as_secs_f64();
            self.level = (self.level + passed * rate.get() as f64).min(self.holds());
        }
    }

    /// Returns the lane whose turn it is, and who is first in it.
    fn next(&self) -> Option<(Lane, &Waiter)> {
        let [live, backlog] = [0, 1].map(|lane| self.waiting[lane].front());
        match (live, backlog) {
            (Some(live), Some(backlog)) => Some(if self.way[0] <= self.way[1] {
                (Lane::Live, live)
            } else {
                (Lane::Backlog, backlog)
            }),
            (Some(live), None) => Some((Lane::Live, live)),
            (None, backlog) => backlog.map(|backlog| (Lane::Backlog, backlog)),
        }
    }

    fn join(&mut self, lane: Lane, waiter: Waiter) {
        let place = place(lane);
        if self.waiting[place].is_empty() {
            self.way[place] = self.way[place].max(self.now);
        }
        self.waiting[place].push_back(waiter);
    }

    /// Answers the body that holds `ticket`. What comes with it is to be woken.
    fn ask(&mut self, ticket: u64, now: Instant) -> (Answer, Option<Waker>) {
        self.fill(now);
        let Some((lane, first)) = self.next().filter(|(_, first)| first.ticket == ticket) else {
            return (Answer::Later, None);
        };
        let take = match self.rate {
            None => first.wanted,
            Some(rate) => {
                let take = first.wanted.min(step(rate.get()));
                let missing = take as f64 - self.level;
                if missing > 0.0 {
                    let wait = Duration::from_secs_f64(missing / rate.get() as f64);
                    // Timers know no less than a millisecond, and what is lost by rounding would be asked for in a circle.
                    let wait = wait.max(Duration::from_millis(1));
                    return (Answer::First(now + wait), None);
                }
                self.level -= take as f64;
                take
            }
        };
        let place = place(lane);
        self.waiting[place].pop_front();
        self.now = self.way[place];
        self.way[place] += take as f64 / if lane == Lane::Live { LIVE } else { 1.0 };
        let next = self.next().map(|(_, next)| next.waker.clone());
        (Answer::Take(take), next)
    }

    /// Forgets a body that has gone. What is returned is to be woken: it may be first now.
    fn leave(&mut self, ticket: u64) -> Option<Waker> {
        for waiting in &mut self.waiting {
            waiting.retain(|waiter| waiter.ticket != ticket);
        }
        self.next().map(|(_, next)| next.waker.clone())
    }
}

fn place(lane: Lane) -> usize {
    match lane {
        Lane::Live => 0,
        Lane::Backlog => 1,
    }
}

/// One body on its way out.
#[derive(Debug)]
pub(in crate::sync::limits) struct BodyFlow {
    bandwidth: Bandwidth,
    lane: Lane,
    ticket: Option<u64>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl BodyFlow {
    fn ask(&mut self, cx: &Context<'_>, wanted: usize) -> Answer {
        let now = Clock::Real.now().mono;
        let bandwidth = self.bandwidth.clone();
        let mut state = bandwidth.lock();
        let is_free = state.waiting.iter().all(VecDeque::is_empty);
        let ticket = match self.ticket {
            None if state.rate.is_none() && is_free => return Answer::Take(wanted),
            None => {
                state.tickets += 1;
                let ticket = state.tickets;
                let waker = cx.waker().clone();
                let waiter = Waiter {
                    ticket,
                    wanted,
                    waker,
                };
                state.join(self.lane, waiter);
                *self.ticket.insert(ticket)
            }
            Some(ticket) => {
                let waiting = &mut state.waiting[place(self.lane)];
                if let Some(waiter) = waiting.iter_mut().find(|waiter| waiter.ticket == ticket) {
                    waiter.wanted = wanted;
                    waiter.waker.clone_from(cx.waker());
                }
                ticket
            }
        };
        let (answer, next) = state.ask(ticket, now);
        drop(state);
        wake(next);
        answer
    }
}

impl crate::store::Flow for BodyFlow {
    fn poll_take(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<usize> {
        let has_waited = self.ticket.is_some();
        loop {
            match self.ask(cx, wanted) {
                Answer::Take(bytes) => {
                    self.ticket = None;
                    if has_waited {
                        self.bandwidth.0.held_back.fetch_add(1, Ordering::Relaxed);
                    }
                    return Poll::Ready(bytes);
                }
                Answer::Later => return Poll::Pending,
                Answer::First(at) => {
                    let timer = self
                        .timer
                        .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
                    if timer.deadline() != at {
                        timer.as_mut().reset(at);
                    }
                    if timer.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                }
            }
        }
    }
}

impl Drop for BodyFlow {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            let next = self.bandwidth.lock().leave(ticket);
            wake(next);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Flow as _;

    const SECOND: Duration = Duration::from_secs(1);

    fn limited(rate: u64) -> Bandwidth {
        let bandwidth = Bandwidth::default();
        bandwidth.set(NonZeroU64::new(rate), Clock::Real.now().mono);
        bandwidth
    }

    async fn take(flow: &mut BodyFlow, wanted: usize) -> usize {
        std::future::poll_fn(|cx| flow.poll_take(cx, wanted)).await
    }

    /// Sends a body in pieces; returns when each went out, and its length.
    async fn send(bandwidth: Bandwidth, lane: Lane, mut len: usize) -> Vec<(Duration, usize)> {
        let began = Clock::Real.now().mono;
        let mut flow = bandwidth.flow(lane);
        let mut pieces = Vec::new();
        while len > 0 {
            let piece = take(&mut flow, len.min(64 << 10)).await;
            len -= piece;
            pieces.push((Clock::Real.now().mono - began, piece));
        }
        pieces
    }

    /// Returns the most bytes that went out within any quarter of a second.
    fn most_in_a_quarter(pieces: &[(Duration, usize)]) -> usize {
        let (mut first, mut sum, mut most) = (0, 0, 0);
        for (at, len) in pieces {
            sum += len;
            while pieces[first].0 + SECOND / 4 <= *at {
                sum -= pieces[first].1;
                first += 1;
            }
            most = most.max(sum);
        }
        most
    }

    fn longest_gap(pieces: &[(Duration, usize)]) -> Duration {
        let gaps = pieces
            .windows(2)
            .map(|two| two[1].0.saturating_sub(two[0].0));
        gaps.max().unwrap_or_default()
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_go_out_evenly_at_the_limit() {
        for rate in [1 << 10, 100 << 10, 2 << 20, 1 << 30] {
            let bandwidth = limited(rate);
            let len = 10 * rate as usize;
            let pieces = send(bandwidth, Lane::Backlog, len).await;
            let took = pieces.last().map(|(at, _)| at.as_secs_f64()).unwrap();
            assert!((9.8..=10.2).contains(&took), "{rate}: {took} s");
            let most = most_in_a_quarter(&pieces) as u64;
            assert!(most <= rate / 2, "{rate}: {most} in a quarter of a second");
            assert!(longest_gap(&pieces) < SECOND, "{rate}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn many_bodies_share_it_and_none_stands_still() {
        let bandwidth = limited(64 << 10);
        let mut bodies = tokio::task::JoinSet::new();
        for _ in 0..seats(64 << 10) {
            bodies.spawn(send(bandwidth.clone(), Lane::Backlog, 40 << 10));
        }
        let all: Vec<_> = bodies.join_all().await;
        assert_eq!(all.len(), 16);
        for pieces in &all {
            let took = pieces.last().map(|(at, _)| at.as_secs_f64()).unwrap();
            assert!((8.0..=10.2).contains(&took), "{took} s");
            assert!(longest_gap(pieces) < 2 * SECOND);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn live_has_its_share_and_the_backlog_what_is_left() {
        let bandwidth = limited(1 << 20);
        let mut bodies = tokio::task::JoinSet::new();
        for _ in 0..8 {
            bodies.spawn(send(bandwidth.clone(), Lane::Backlog, 4 << 20));
        }
        tokio::time::sleep(5 * SECOND).await;
        // A document slips through at once, and a large live body gets more than a quarter of the line.
        let small = send(bandwidth.clone(), Lane::Live, 4 << 10).await;
        assert!(small.last().unwrap().0 < SECOND / 2, "{small:?}");
        let large = send(bandwidth.clone(), Lane::Live, 4 << 20).await;
        let took = large.last().map(|(at, _)| at.as_secs_f64()).unwrap();
        assert!((4.0..=6.0).contains(&took), "{took} s");
        // Meanwhile the backlog went on.
        let all: Vec<_> = bodies.join_all().await;
        for pieces in &all {
            assert!(longest_gap(pieces) < 5 * SECOND);
        }
        // All in all nothing of the line was left unused.
        let whole = all.iter().map(|pieces| pieces.last().unwrap().0).max();
        let whole = whole.unwrap().as_secs_f64();
        assert!((35.5..=36.5).contains(&whole), "{whole} s for 36 MiB");
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_limit_is_for_bodies_on_their_way_too() {
        let bandwidth = limited(1 << 10);
        let mut bodies = tokio::task::JoinSet::new();
        for _ in 0..4 {
            bodies.spawn(send(bandwidth.clone(), Lane::Backlog, 1 << 20));
        }
        tokio::time::sleep(10 * SECOND).await;
        let set = |rate| bandwidth.set(NonZeroU64::new(rate), Clock::Real.now().mono);
        set(1 << 20);
        tokio::time::sleep(SECOND).await;
        set(1 << 10);
        tokio::time::sleep(10 * SECOND).await;
        assert_eq!(bodies.len(), 4);
        assert!(bodies.try_join_next().is_none());
        set(0);
        let ended = tokio::time::timeout(SECOND, bodies.join_all()).await;
        let early = |pieces: &Vec<(Duration, usize)>| -> usize {
            let by = |(at, len): &(Duration, usize)| if *at < 21 * SECOND { *len } else { 0 };
            pieces.iter().map(by).sum()
        };
        let before: usize = ended.expect("at once").iter().map(early).sum();
        // 10 s of 1 KiB/s, one of 1 MiB/s, 10 of 1 KiB/s, and a piece that was not ready when the limit fell.
        assert!((900 << 10..1100 << 10).contains(&before), "{before}");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_goes_away_holds_nobody_up() {
        let bandwidth = limited(1 << 10);
        let mut first = bandwidth.flow(Lane::Backlog);
        take(&mut first, 1).await;
        {
            let waiting = take(&mut first, 64 << 10);
            assert!(
                tokio::time::timeout(Duration::from_millis(1), waiting)
                    .await
                    .is_err()
            );
        }
        // In a task of its own, which only its waker wakes.
        let mut second = tokio::task::JoinSet::new();
        second.spawn(send(bandwidth.clone(), Lane::Backlog, 1 << 10));
        tokio::time::sleep(Duration::from_millis(5)).await;
        drop(first);
        let sent = tokio::time::timeout(2 * SECOND, second.join_all()).await;
        assert!(sent.is_ok(), "it was never woken");
    }

    #[tokio::test]
    async fn there_are_fewer_bodies_at_once_on_a_slower_line() {
        assert_eq!(
            [1 << 10, 64 << 10, 1 << 20, 10 << 20].map(seats),
            [2, 16, 64, 640]
        );
        let unlimited = Bandwidth::default();
        assert!(unlimited.seat(Lane::Backlog).await.is_none());
        let bandwidth = limited(1 << 10);
        let held = bandwidth.seat(Lane::Backlog).await;
        let second = bandwidth.seat(Lane::Backlog);
        assert!(tokio::time::timeout(Duration::ZERO, second).await.is_err());
        assert!(bandwidth.seat(Lane::Live).await.is_some());
        drop(held);
        assert!(bandwidth.seat(Lane::Backlog).await.is_some());
    }
}
