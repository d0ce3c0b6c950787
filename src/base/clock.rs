//! The one place that reads a clock. Code that decides takes a [`Now`].

use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use jiff::tz::TimeZone;
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
    /// The same of a machine whose clock is set while it runs.
    Set {
        /// The monotonic instant at which the wall clock showed `wall_ns`.
        since: Instant,
        /// Nanoseconds since the epoch at that instant.
        wall_ns: i64,
        /// How far it has been set ahead by now, nanoseconds.
        ahead_ns: &'static AtomicI64,
    },
}

/// A clock that is off by no more is slewed, not set; nanoseconds.
pub const SLEWED_NS: i64 = 1_000_000_000;

/// How the machine's wall clock is set: as long as nobody sets it both stay as they are, also while the machine sleeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Setting {
    /// Which start of the machine this is; 0 if it does not say.
    pub boot: i64,
    /// What the wall clock shows more than the time since that start, nanoseconds.
    pub offset_ns: i64,
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
            Self::Virtual { since, wall_ns } => passed(mono, since, wall_ns),
            Self::Set {
                since,
                wall_ns,
                ahead_ns,
            } => passed(mono, since, wall_ns).saturating_add(ahead_ns.load(Ordering::Relaxed)),
        };
        Now { mono, wall_ns }
    }

    /// Reads both clocks, the one on the wall as it would show the time if nobody had set it since it was set so.
    pub fn now_as_set(self, set: Setting) -> Now {
        let now = self.now();
        let since_ns = self.setting().offset_ns.saturating_sub(set.offset_ns);
        let wall_ns = if since_ns.saturating_abs() <= SLEWED_NS {
            now.wall_ns
        } else {
            now.wall_ns.saturating_sub(since_ns)
        };
        Now { wall_ns, ..now }
    }

    /// Returns how the wall clock is set now.
    pub fn setting(self) -> Setting {
        match self {
            Self::Real => real_setting(),
            Self::Virtual { .. } => Setting {
                boot: 0,
                offset_ns: 0,
            },
            Self::Set { ahead_ns, .. } => Setting {
                boot: 0,
                offset_ns: ahead_ns.load(Ordering::Relaxed),
            },
        }
    }
}

/// What a clock shows that showed `wall_ns` at `since`.
fn passed(mono: Instant, since: Instant, wall_ns: i64) -> i64 {
    let passed = mono.saturating_duration_since(since);
    wall_ns.saturating_add(i64::try_from(passed.as_nanos()).unwrap_or(i64::MAX))
}

fn real_setting() -> Setting {
    static BOOT: OnceLock<i64> = OnceLock::new();
    // The first 15 digits of the kernel's random name of this start.
    let name = || {
        let name = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let digits: String = name.chars().filter(char::is_ascii_hexdigit).collect();
        i64::from_str_radix(digits.get(..15)?, 16).ok()
    };
    let boot = *BOOT.get_or_init(|| name().unwrap_or(0));
    let since_boot_ns = || {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        now.tv_sec * 1_000_000_000 + now.tv_nsec
    };
    loop {
        let before_ns = since_boot_ns();
        let wall_ns = Clock::Real.now().wall_ns;
        // Who was stopped between the two knows nothing.
        if since_boot_ns() - before_ns < 100_000_000 {
            let offset_ns = wall_ns - before_ns;
            return Setting { boot, offset_ns };
        }
    }
}

/// Returns what `CLOCK_MONOTONIC` shows, microseconds: the service manager tells reloads apart by it.
pub fn monotonic_usec() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000
        + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000
}

/// A minute of the week, as the clock on the wall shows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LocalMinute {
    /// From 0, which is Monday, to 6.
    pub weekday: u8,
    /// Of the day, from 0 to 1439.
    pub minute: u16,
}

impl LocalMinute {
    /// Returns what the clocks of this machine's time zone show at an instant, nanoseconds since the epoch. Where the
    /// machine does not say where it is, they show UTC.
    pub fn of(wall_ns: i64) -> Self {
        Self::in_zone(wall_ns, TimeZone::system())
    }

    fn in_zone(wall_ns: i64, zone: TimeZone) -> Self {
        // From an instant to what the wall shows there is always exactly one way, on the days that skip or repeat an hour
        // too; an instant beyond what the calendar knows counts as the epoch.
        let shown = Timestamp::from_nanosecond(wall_ns.into())
            .unwrap_or_default()
            .to_zoned(zone);
        let (hour, minute) = (shown.hour().unsigned_abs(), shown.minute().unsigned_abs());
        Self {
            weekday: shown.weekday().to_monday_zero_offset().unsigned_abs(),
            minute: u16::from(hour) * 60 + u16::from(minute),
        }
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

/// Returns how much of the month has passed in UTC, 0 to 1.
pub fn share_of_month(wall_ns: i64) -> f64 {
    let now = Timestamp::from_nanosecond(wall_ns.into()).unwrap_or_default();
    let now = TimeZone::UTC.to_datetime(now);
    let of_day = f64::from(now.hour()) / 24.0 + f64::from(now.minute()) / 1_440.0;
    (f64::from(now.day() - 1) + of_day) / f64::from(now.days_in_month())
}

/// Returns a stamp as RFC 3339 in UTC with all nine digits, also before 1970.
pub fn rfc3339_nanos(ns: i64) -> String {
    // Every number of nanoseconds lies between 1677 and 2262, which the calendar knows.
    let time = Timestamp::from_nanosecond(ns.into()).unwrap_or_default();
    format!("{time:.9}")
}

/// Reads what [`rfc3339_nanos`] writes, or any other RFC 3339 time, as nanoseconds since the epoch.
pub fn parse_rfc3339_nanos(text: &str) -> Option<i64> {
    let time: Timestamp = text.parse().ok()?;
    i64::try_from(time.as_nanosecond()).ok()
}

/// Reads a time as people write it: RFC 3339 with a zone, or `2026-11-20 10:00[:30]` or `2026-11-20` by the clocks of this
/// machine's time zone. Nanoseconds since the epoch; the last one that is written so: of `10:00` and `10:00:00` the last of
/// that second, of `10:00:00.123` the last of that millisecond.
pub fn parse_moment(text: &str) -> Option<i64> {
    let text = text.trim();
    let begins_ns = moment_in(text, TimeZone::system())?;
    let fraction = text.split_once('.').map_or("", |(_, rest)| rest);
    let digits = fraction
        .bytes()
        .take_while(u8::is_ascii_digit)
        .count()
        .min(9);
    let left = 10_i64.pow(9 - digits as u32) - 1;
    Some(begins_ns.saturating_add(left))
}

fn moment_in(text: &str, zone: TimeZone) -> Option<i64> {
    if let Some(ns) = parse_rfc3339_nanos(text) {
        return Some(ns);
    }
    let local: jiff::civil::DateTime = text.parse().ok()?;
    // What follows the moment and is no zone would be passed over.
    let is_plain = text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || b"-:. T".contains(&byte));
    let time = local.to_zoned(zone).ok().filter(|_| is_plain)?;
    i64::try_from(time.timestamp().as_nanosecond()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_read_as_people_write_it() {
        let zone = TimeZone::fixed(jiff::tz::offset(2));
        let of = |text: &str| moment_in(text, zone.clone()).map(rfc3339);
        for (text, expected) in [
            ("2026-11-20 10:00", "2026-11-20T08:00:00Z"),
            ("2026-11-20T10:00:30", "2026-11-20T08:00:30Z"),
            ("2026-11-20", "2026-11-19T22:00:00Z"),
            ("2026-11-20T10:00:00Z", "2026-11-20T10:00:00Z"),
            ("2026-11-20T10:00:00+01:00", "2026-11-20T09:00:00Z"),
        ] {
            assert_eq!(of(text).as_deref(), Some(expected), "{text}");
        }
        for (text, expected) in [
            ("2026-11-20T10:00:00Z", 999_999_999),
            ("2026-11-20T10:00:00.5Z", 599_999_999),
            ("2026-11-20T10:00:00.123Z", 123_999_999),
            ("2026-11-20T10:00:00.123456789+00:00", 123_456_789),
        ] {
            let ns = parse_moment(text).map(|ns| ns.rem_euclid(1_000_000_000));
            assert_eq!(ns, Some(expected), "{text}");
        }
        for text in [
            "",
            "yesterday",
            "10:00",
            "2026-13-01",
            "2026-11-20 25:00",
            "20.11.2026",
        ] {
            assert_eq!(of(text), None, "{text}");
        }
    }

    #[test]
    fn every_stamp_of_a_file_goes_there_and_back_to_the_nanosecond() {
        for (ns, text) in [
            (1_764_000_000_123_456_789, "2025-11-24T16:00:00.123456789Z"),
            (0, "1970-01-01T00:00:00.000000000Z"),
            (-1, "1969-12-31T23:59:59.999999999Z"),
            (i64::MIN, "1677-09-21T00:12:43.145224192Z"),
            (i64::MAX, "2262-04-11T23:47:16.854775807Z"),
        ] {
            assert_eq!(rfc3339_nanos(ns), text);
            assert_eq!(parse_rfc3339_nanos(text), Some(ns));
        }
        assert_eq!(parse_rfc3339_nanos("9999-01-01T00:00:00Z"), None);
        assert_eq!(parse_rfc3339_nanos("yesterday"), None);
    }

    #[test]
    fn the_wall_skips_and_repeats_an_hour_when_the_clocks_change() {
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").expect("a zone");
        let at = |text: &str| {
            let ns = parse_rfc3339(text).expect("a time");
            let LocalMinute { weekday, minute } = LocalMinute::in_zone(ns, zone.clone());
            (weekday, minute / 60, minute % 60)
        };
        assert_eq!(at("2026-01-05T07:30:00Z"), (0, 8, 30));
        // Sunday, 29 March: there is no time between 02:00 and 03:00.
        assert_eq!(at("2026-03-29T00:59:00Z"), (6, 1, 59));
        assert_eq!(at("2026-03-29T01:00:00Z"), (6, 3, 0));
        // Sunday, 25 October: the hour from 02:00 is there twice.
        assert_eq!(at("2026-10-25T00:30:00Z"), (6, 2, 30));
        assert_eq!(at("2026-10-25T01:30:00Z"), (6, 2, 30));
        assert_eq!(at("2026-10-25T23:30:00Z"), (0, 0, 30));
        for wall_ns in [i64::MIN, -1, 0, i64::MAX] {
            assert!(LocalMinute::in_zone(wall_ns, zone.clone()).minute < 1440);
            assert!(LocalMinute::of(wall_ns).weekday < 7);
        }
    }
}
