//! How fast files have been going out lately: what went out within the last 30 seconds, a second. (pure)

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// How far back it looks: long enough to smooth over parts and pauses, short enough to be about now.
const WINDOW: Duration = Duration::from_secs(30);
/// The shortest time between two samples, and the shortest that bytes are divided by.
const GRAIN: Duration = Duration::from_secs(1);

/// Samples of a count that grows.
#[derive(Debug, Default)]
pub(super) struct Rate {
    /// When it was how much, the oldest first; the first may be older than the window.
    samples: VecDeque<(Instant, u64)>,
}

impl Rate {
    /// Takes how much has gone out in all by `now`; returns how much it was lately, a second.
    pub fn at(&mut self, total: u64, now: Instant) -> u64 {
        while self.samples.len() > 1 && self.samples[1].0 + WINDOW <= now {
            self.samples.pop_front();
        }
        let (since, before) = *self.samples.front().unwrap_or(&(now, total));
        // Nothing since the oldest sample, or less: what goes out next begins now.
        let Some(bytes) = total.checked_sub(before).filter(|bytes| *bytes > 0) else {
            self.samples.clear();
            self.samples.push_back((now, total));
            return 0;
        };
        if self
            .samples
            .back()
            .is_some_and(|(at, _)| *at + GRAIN <= now)
        {
            self.samples.push_back((now, total));
        }
        let passed = now.saturating_duration_since(since).clamp(GRAIN, WINDOW);
        let millis = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX);
        bytes.saturating_mul(1000) / millis
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Clock;

    #[test]
    fn the_rate_is_that_of_the_last_half_minute_and_falls_to_nothing() {
        let start = Clock::Real.now().mono;
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut rate = Rate::default();
        assert_eq!(rate.at(0, start), 0);
        // An hour of nothing is not counted.
        assert_eq!(rate.at(0, after(3600)), 0);
        assert_eq!(rate.at(500, after(3600)), 500, "divided by a second");
        let mut total = 0;
        for second in 3601..=3660 {
            total += 1000;
            let shown = rate.at(total, after(second));
            assert!((500..=1034).contains(&shown), "{second}: {shown}");
        }
        assert_eq!(rate.at(total, after(3660)), 1000);
        assert_eq!(rate.at(total, after(3675)), 500);
        assert_eq!(rate.at(total, after(3691)), 0);
        assert_eq!(rate.at(total + 300, after(3700)), 33);
        // What is taken back, to be sent again, is no negative rate.
        assert_eq!(rate.at(total - 300, after(3701)), 0);
        assert!(rate.samples.len() <= 2);
    }
}
