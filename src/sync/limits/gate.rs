//! A counting gate with two lanes: what is free is handed out, live before backlog, in the order of asking.
//!
//! Must never grant more than its capacity, and never forget a waiter: one that went away loses nothing.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::sync::Lane;

/// A counting gate with two lanes.
#[derive(Clone, Debug)]
pub(in crate::sync::limits) struct Gate(Arc<Mutex<State>>);

#[derive(Debug)]
pub(in crate::sync::limits) struct State {
    pub capacity: u64,
    live: u64,
    backlog: u64,
    waiting_live: VecDeque<Waiter>,
    waiting_backlog: VecDeque<Waiter>,
    /// Whether anybody had to wait since the last look: only then does a larger capacity mean anything.
    contended: bool,
    /// Whether a share is kept for live work.
    pub keeps_live: bool,
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
    pub fn new(capacity: u64) -> Self {
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

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub async fn take(&self, amount: u64, lane: Lane) -> Permit {
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

    /// Takes `amount`, if nobody waits for it and there is room.
    pub fn try_take(&self, amount: u64, lane: Lane) -> Option<Permit> {
        let amount = {
            let mut state = self.lock();
            let is_free = state.waiting_live.is_empty() && state.waiting_backlog.is_empty();
            if is_free {
                state.grant_now(amount, lane)?
            } else {
                return None;
            }
        };
        Some(Permit {
            gate: self.clone(),
            amount,
            lane,
        })
    }

    /// Changes the capacity. What has been granted beyond a smaller one comes back in its own time.
    pub fn resize(&self, capacity: u64) {
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

    pub fn is_contended(&mut self) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::limits::Limits;

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
}
