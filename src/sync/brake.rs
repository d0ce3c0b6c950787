//! When deletes or overwrites have to wait for a person. (pure)
//!
//! A brake counts what is asked for within its window, whether it was let through or held. What would make more than
//! its limit is held, and so is everything after it until the window has passed. What belongs to a rename, or was
//! released by a person, is not asked here at all.

use std::collections::VecDeque;

use tokio::time::Instant;

use crate::base::policy::Brake as Limit;

/// From how many on the share counts: below, a few files of a small folder would already be a large part of it.
const SHARE_FROM: u64 = 50;

/// What a brake says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It may be done.
    Go,
    /// It waits for a person.
    Hold,
}

/// A count within a window, and its limit.
#[derive(Clone, Debug)]
pub struct Brake {
    limit: Option<Limit>,
    /// When how many were asked for, oldest first.
    asked: VecDeque<(Instant, u64)>,
}

impl Brake {
    /// Makes a brake; without a limit it never holds anything.
    pub fn new(limit: Option<Limit>) -> Self {
        Self {
            limit,
            asked: VecDeque::new(),
        }
    }

    /// Forgets what was asked for so far: a person has looked at it.
    #[must_use]
    pub fn reset(mut self) -> Self {
        self.asked.clear();
        self
    }

    /// Decides about `count` more, of which `known` files are in the bucket now (those to be removed among them).
    pub fn ask(&mut self, count: u64, known: u64, now: Instant) -> Verdict {
        let Some(limit) = self.limit else {
            return Verdict::Go;
        };
        while self
            .asked
            .front()
            .is_some_and(|(at, _)| *at + limit.window <= now)
        {
            self.asked.pop_front();
        }
        let before: u64 = self.asked.iter().map(|(_, count)| count).sum();
        let asked = before.saturating_add(count);
        // Those before are not among the known any more, if they were let through: the share is of what there was.
        let share = limit.share_percent.is_some_and(|percent| {
            let of = u128::from(known.saturating_add(before));
            asked >= SHARE_FROM && u128::from(asked) * 100 > of * u128::from(percent)
        });
        if count > 0 {
            // One entry a second is enough to forget by.
            match self.asked.back_mut() {
                Some((at, so_far)) if now.saturating_duration_since(*at).as_secs() == 0 => {
                    *so_far += count;
                }
                _ => self.asked.push_back((now, count)),
            }
        }
        if asked > limit.files || share {
            Verdict::Hold
        } else {
            Verdict::Go
        }
    }

    /// Returns true if `count` more could be over the limit by their share, so that the known files have to be counted.
    pub fn needs_known(&self, count: u64) -> bool {
        let before: u64 = self.asked.iter().map(|(_, count)| count).sum();
        self.limit
            .is_some_and(|limit| limit.share_percent.is_some())
            && before + count >= SHARE_FROM
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::clock::Clock;

    fn brake(files: u64, share_percent: Option<u8>) -> Brake {
        Brake::new(Some(Limit {
            files,
            share_percent,
            window: Duration::from_secs(600),
        }))
    }

    #[test]
    fn more_than_the_limit_is_held_and_what_follows_in_the_window_too() {
        let mut brake = brake(100, None);
        let start = Clock::Real.now().mono;
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(brake.ask(100, 0, start), Verdict::Go);
        assert_eq!(brake.ask(1, 0, after(1)), Verdict::Hold);
        assert_eq!(brake.ask(1, 0, after(599)), Verdict::Hold);
        assert_eq!(brake.ask(99, 0, after(600)), Verdict::Hold);
        assert_eq!(brake.ask(1, 0, after(2000)), Verdict::Go);
    }

    #[test]
    fn a_share_counts_from_fifty_on_and_of_what_there_was() {
        let start = Clock::Real.now().mono;
        assert_eq!(brake(1000, Some(20)).ask(49, 49, start), Verdict::Go);
        assert_eq!(brake(1000, Some(20)).ask(50, 100, start), Verdict::Hold);
        assert_eq!(brake(1000, Some(20)).ask(50, 250, start), Verdict::Go);
        assert_eq!(brake(1000, Some(20)).ask(51, 250, start), Verdict::Hold);
        let mut slow = brake(1000, Some(20));
        assert_eq!(slow.ask(45, 250, start), Verdict::Go);
        assert_eq!(slow.ask(5, 205, start), Verdict::Go);
        assert_eq!(slow.ask(1, 200, start), Verdict::Hold);
    }

    #[test]
    fn without_a_limit_nothing_is_held() {
        assert_eq!(
            Brake::new(None).ask(u64::MAX, 0, Clock::Real.now().mono),
            Verdict::Go
        );
    }
}
