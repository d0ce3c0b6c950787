//! The one place that reads a clock. Code that decides takes a [`Now`].

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// An instant on both clocks: monotonic for waiting, wall for people, stamps and horizons.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Now {
    /// Monotonic; stands still and jumps with tokio's paused clock.
    pub mono: Instant,
    /// Nanoseconds since the epoch.
    pub wall_ns: i64,
}

impl Now {
    /// Returns the instant `by` later on both clocks.
    #[must_use]
    pub fn plus(self, by: Duration) -> Self {
        let ns = i64::try_from(by.as_nanos()).unwrap_or(i64::MAX);
        Self {
            mono: self.mono + by,
            wall_ns: self.wall_ns.saturating_add(ns),
        }
    }
}

/// Where [`Now`] comes from.
#[derive(Clone, Copy, Debug)]
pub enum Clock {
    /// The machine's clocks.
    Real,
    /// A wall clock that follows tokio's clock, which a test may have paused: `wall_ns` at `since`.
    Virtual {
        /// The monotonic instant at which the wall clock showed `wall_ns`.
        since: Instant,
        /// Nanoseconds since the epoch at that instant.
        wall_ns: i64,
    },
}

impl Clock {
    /// Reads both clocks.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that reads the clocks"
    )]
    pub fn now(self) -> Now {
        let mono = Instant::now();
        let wall_ns = match self {
            Self::Real => {
                let since = SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default();
                i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
            }
            Self::Virtual { since, wall_ns } => {
                let passed = mono.saturating_duration_since(since);
                wall_ns.saturating_add(i64::try_from(passed.as_nanos()).unwrap_or(i64::MAX))
            }
        };
        Now { mono, wall_ns }
    }
}

/// Returns a wall-clock stamp as RFC 3339 in UTC, to the second.
pub fn rfc3339(wall_ns: i64) -> String {
    let seconds = u64::try_from(wall_ns / 1_000_000_000).unwrap_or(0);
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds)).to_string()
}

/// Returns a wall-clock stamp as RFC 3339 in UTC, to the millisecond.
pub fn rfc3339_millis(wall_ns: i64) -> String {
    let millis = u64::try_from(wall_ns / 1_000_000).unwrap_or(0);
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(millis)).to_string()
}

/// Reads what [`rfc3339`] and [`rfc3339_millis`] write, as nanoseconds since the epoch.
pub fn parse_rfc3339(text: &str) -> Option<i64> {
    let time = humantime::parse_rfc3339(text).ok()?;
    i64::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_nanos()).ok()
}
