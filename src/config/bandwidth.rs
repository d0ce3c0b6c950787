//! How fast may be sent, and when: a rate, or a timetable of rates. (pure)
//!
//! `Mon-Fri 08:00-18:00 2MiB/s, Sat,Sun 10:00-12:00 5MiB/s; else unlimited`: the first entry that fits holds. Days and hours
//! are those of the machine's clock on the wall; hours that end before they begin go on into the next day.

use std::fmt;
use std::num::NonZeroU64;

use crate::base::clock::LocalMinute;
use crate::base::units;

/// The least that can be asked for, bytes a second: below it no server would wait for the next byte.
const LEAST: u64 = 1 << 10;
/// Minutes of a day.
const DAY: u16 = 24 * 60;
/// What a timetable looks like, for messages.
const EXAMPLE: &str =
    "\"unlimited\", \"10MiB/s\" or \"Mon-Fri 08:00-18:00 2MiB/s, else unlimited\"";
/// The days as they are shown.
const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
/// The days as they may be written.
const NAMES: [&str; 7] = [
    "monday",
    "tuesday",
    "wednesday",
    "thursday",
    "friday",
    "saturday",
    "sunday",
];

/// Bytes a second; `None`: as many as the line takes.
pub type Rate = Option<NonZeroU64>;

/// How fast bodies may go out.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Bandwidth {
    /// The first that fits holds.
    entries: Vec<Entry>,
    /// What holds where none fits.
    otherwise: Rate,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Entry {
    /// By day, Monday first; none: every day.
    days: [bool; 7],
    /// From and to, minutes of the day; none: the whole day.
    hours: Vec<(u16, u16)>,
    rate: Rate,
}

impl Bandwidth {
    /// Reads what people write. The error fits behind the name of the key or option.
    pub fn parse(text: &str) -> Result<Self, String> {
        Words::new(text)
            .timetable()
            .map_err(|why| format!("{why} in {text:?}; expected {EXAMPLE}"))
    }

    /// Returns the limit that holds at a minute.
    pub fn at(&self, now: LocalMinute) -> Rate {
        let entry = self.entries.iter().find(|entry| entry.fits(now));
        entry.map_or(self.otherwise, |entry| entry.rate)
    }

    /// Returns whether it changes by itself.
    pub fn is_timetable(&self) -> bool {
        !self.entries.is_empty()
    }
}

impl Entry {
    fn fits(&self, now: LocalMinute) -> bool {
        let is_on = |day: u8| self.days == [false; 7] || self.days[usize::from(day % 7)];
        let (today, yesterday) = (is_on(now.weekday), is_on(now.weekday + 6));
        if self.hours.is_empty() {
            return today;
        }
        self.hours.iter().any(|(from, to)| {
            if from < to {
                today && (*from..*to).contains(&now.minute)
            } else {
                (today && now.minute >= *from) || (yesterday && now.minute < *to)
            }
        })
    }
}

/// Shows a limit for people: `2.0 MiB/s`.
#[derive(Clone, Copy, Debug)]
pub struct Shown(pub Rate);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(rate) => write!(f, "{}/s", units::show_bytes(rate.get())),
            None => f.write_str("unlimited"),
        }
    }
}

/// The words that are still to be read. A `,` and a `;` are words too.
struct Words<'a>(std::iter::Peekable<std::vec::IntoIter<&'a str>>);

impl<'a> Words<'a> {
    fn new(text: &'a str) -> Self {
        let mut words = Vec::new();
        for mut rest in text.split_whitespace() {
            while let Some(at) = rest.find([',', ';']) {
                let (word, behind) = rest.split_at(at);
                words.extend(Some(word).filter(|word| !word.is_empty()));
                words.push(&behind[..1]);
                rest = &behind[1..];
            }
            words.extend(Some(rest).filter(|rest| !rest.is_empty()));
        }
        Self(words.into_iter().peekable())
    }

    fn timetable(&mut self) -> Result<Bandwidth, String> {
        let mut table = Bandwidth::default();
        if self.0.peek().is_none() {
            return Err("nothing stands".to_owned());
        }
        while let Some(word) = self.0.peek() {
            if word.eq_ignore_ascii_case("else") {
                self.0.next();
                table.otherwise = self.rate()?;
                return match self.0.next() {
                    None => Ok(table),
                    Some(word) => Err(format!("`{word}` behind `else`, which comes last,")),
                };
            }
            let entry = self.entry()?;
            if entry.days == [false; 7] && entry.hours.is_empty() {
                // A rate alone is for always, and only alone.
                return match (self.0.next(), table.entries.is_empty()) {
                    (None, true) => Ok(Bandwidth {
                        otherwise: entry.rate,
                        ..table
                    }),
                    _ => Err("a limit without days, hours or `else` besides others".to_owned()),
                };
            }
            table.entries.push(entry);
            match self.0.next() {
                None | Some("," | ";") => {}
                Some(word) => return Err(format!("no `,` before `{word}`")),
            }
        }
        Ok(table)
    }

    fn entry(&mut self) -> Result<Entry, String> {
        let mut entry = Entry::default();
        // `Mon-Fri` and `Sat,Sun`, then `08:00-18:00` or several, then the limit.
        while let Some(word) = self.0.peek().copied() {
            if word == "," && entry != Entry::default() {
                self.0.next();
            } else if let Some(days) = days(word).filter(|_| entry.hours.is_empty()) {
                self.0.next();
                for day in days? {
                    entry.days[day] = true;
                }
            } else if word.contains(':') {
                self.0.next();
                entry.hours.push(hours(word)?);
            } else {
                break;
            }
        }
        entry.rate = self.rate()?;
        Ok(entry)
    }

    fn rate(&mut self) -> Result<Rate, String> {
        let Some(word) = self.0.next() else {
            return Err("no limit at the end".to_owned());
        };
        if word.eq_ignore_ascii_case("unlimited") {
            return Ok(None);
        }
        let is_number = word
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'.');
        // `10 MiB/s`
        let unit = self
            .0
            .next_if(|next| is_number && next.starts_with(|c: char| c.is_ascii_alphabetic()));
        rate(&format!("{word}{}", unit.unwrap_or_default())).map(Some)
    }
}

/// Reads `Mon` or `Fri-Mon`; `None`: that is something else.
fn days(word: &str) -> Option<Result<Vec<usize>, String>> {
    let day = |text: &str| {
        let text = text.to_ascii_lowercase();
        let is_it = |name: &&str| text.len() >= 3 && name.starts_with(&text);
        NAMES.iter().position(is_it)
    };
    let Some((from, to)) = word.split_once('-') else {
        return day(word).map(|day| Ok(vec![day]));
    };
    match (day(from), day(to)) {
        (Some(from), Some(to)) => {
            let days = (0..7).map(|plus| (from + plus) % 7);
            let last = (to + 7 - from) % 7;
            Some(Ok(days.take(last + 1).collect()))
        }
        (None, None) => None,
        (Some(_), None) => Some(Err(format!("`{to}` is not a day ({})", DAYS.join(", ")))),
        (None, Some(_)) => Some(Err(format!("`{from}` is not a day ({})", DAYS.join(", ")))),
    }
}

/// Reads `08:00-18:00`.
fn hours(word: &str) -> Result<(u16, u16), String> {
    let minute = |text: &str| -> Option<u16> {
        let (hour, minute) = text.split_once(':')?;
        let number = |text: &str, lens: std::ops::RangeInclusive<usize>| {
            let is_one =
                lens.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
            is_one.then(|| text.parse::<u16>().ok()).flatten()
        };
        let (hour, minute) = (number(hour, 1..=2)?, number(minute, 2..=2)?);
        let at = hour * 60 + minute;
        (minute < 60 && at <= DAY).then_some(at)
    };
    let hours = word
        .split_once('-')
        .and_then(|(from, to)| Some((minute(from)?, minute(to)?)));
    match hours {
        Some((from, to)) if from != to && from < DAY => Ok((from, to)),
        _ => Err(format!("`{word}` are not hours such as 08:00-18:00")),
    }
}

/// Reads `10MiB/s` or `10Mbit/s`.
fn rate(text: &str) -> Result<NonZeroU64, String> {
    let not_one = || format!("`{text}` is not a limit such as 10MiB/s or 10Mbit/s");
    if text.trim_end_matches("/s") == "0" {
        return Err("`0` would send nothing (without a limit: `unlimited`)".to_owned());
    }
    let amount = text.strip_suffix("/s").ok_or_else(not_one)?;
    let bytes = match amount.strip_suffix("bit") {
        Some(bits) => units::size_bytes(bits).map(|bits| bits / 8),
        None => units::size_bytes(amount),
    };
    let bytes = bytes.map_err(|_| not_one())?;
    match NonZeroU64::new(bytes) {
        Some(rate) if bytes >= LEAST => Ok(rate),
        None => Err(format!(
            "`{text}` would send nothing (without a limit: `unlimited`)"
        )),
        Some(_) => Err(format!("`{text}` is less than 1KiB/s")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Bandwidth {
        Bandwidth::parse(text).unwrap_or_else(|why| panic!("{why}"))
    }

    /// Returns the limit in KiB/s, 0 for none, on a day and at a time.
    fn at(table: &Bandwidth, when: &str) -> u64 {
        let (day, time) = when.split_once(' ').unwrap();
        let (hour, minute) = time.split_once(':').unwrap();
        let now = LocalMinute {
            weekday: DAYS.iter().position(|name| *name == day).unwrap() as u8,
            minute: hour.parse::<u16>().unwrap() * 60 + minute.parse::<u16>().unwrap(),
        };
        table.at(now).map_or(0, |rate| rate.get() >> 10)
    }

    #[test]
    fn a_limit_is_written_in_bytes_or_bits_a_second() {
        let always = |text: &str| {
            let table = parse(text);
            assert!(!table.is_timetable());
            table.at(LocalMinute {
                weekday: 0,
                minute: 0,
            })
        };
        let bytes = NonZeroU64::new;
        assert_eq!(always("unlimited"), None);
        assert_eq!(always("Unlimited"), None);
        assert_eq!(always("else unlimited"), None);
        assert_eq!(always("10MiB/s"), bytes(10 << 20));
        assert_eq!(always(" 10 MiB/s "), bytes(10 << 20));
        assert_eq!(always("1.5MB/s"), bytes(1_500_000));
        assert_eq!(always("10Mbit/s"), bytes(1_250_000));
        assert_eq!(always("10 Mbit/s"), bytes(1_250_000));
        assert_eq!(always("512kbit/s"), bytes(64_000));
        assert_eq!(always("1Gbit/s"), bytes(125_000_000));
        assert_eq!(always("8Mibit/s"), bytes(1 << 20));
        assert_eq!(always("1KiB/s"), bytes(1024));
        assert_eq!(always("4096/s"), bytes(4096));
    }

    #[test]
    fn the_first_entry_that_fits_holds() {
        let table =
            parse("Mon-Fri 08:00-18:00 2MiB/s, Sat,Sun 5MiB/s; 20:00-22:00 3MiB/s, else 1MiB/s");
        assert!(table.is_timetable());
        for (when, mib) in [
            ("Mon 07:59", 1),
            ("Mon 08:00", 2),
            ("Fri 17:59", 2),
            ("Fri 18:00", 1),
            ("Sat 12:00", 5),
            ("Sun 21:00", 5),
            ("Wed 20:00", 3),
            ("Wed 22:00", 1),
        ] {
            assert_eq!(at(&table, when), mib << 10, "{when}");
        }
        // Nothing is said of the rest: it is free.
        assert_eq!(at(&parse("saturday 1MiB/s"), "Sun 12:00"), 0);
    }

    #[test]
    fn hours_go_across_midnight_and_days_across_the_week() {
        let table = parse("Fri-Mon 22:00-06:00 1MiB/s, else unlimited");
        for (when, kib) in [
            ("Fri 05:00", 0),
            ("Fri 22:00", 1024),
            ("Sat 05:59", 1024),
            ("Sat 06:00", 0),
            ("Mon 23:59", 1024),
            ("Tue 05:59", 1024),
            ("Tue 22:00", 0),
        ] {
            assert_eq!(at(&table, when), kib, "{when}");
        }
        let table = parse("Mon,Wed-Thu 0:00-8:30,17:00-24:00 64KiB/s");
        for (when, kib) in [
            ("Mon 00:00", 64),
            ("Mon 08:30", 0),
            ("Wed 23:59", 64),
            ("Thu 17:00", 64),
            ("Fri 00:00", 0),
            ("Tue 03:00", 0),
        ] {
            assert_eq!(at(&table, when), kib, "{when}");
        }
    }

    #[test]
    fn what_is_not_understood_is_named_with_an_example() {
        for (text, what) in [
            ("", "nothing stands"),
            ("0", "`0` would send nothing (without a limit: `unlimited`)"),
            (
                "0MiB/s",
                "`0MiB/s` would send nothing (without a limit: `unlimited`)",
            ),
            ("100/s", "`100/s` is less than 1KiB/s"),
            ("10", "`10` is not a limit such as 10MiB/s or 10Mbit/s"),
            (
                "10MiB",
                "`10MiB` is not a limit such as 10MiB/s or 10Mbit/s",
            ),
            (
                "-1MiB/s",
                "`-1MiB/s` is not a limit such as 10MiB/s or 10Mbit/s",
            ),
            ("fast", "`fast` is not a limit such as 10MiB/s or 10Mbit/s"),
            ("Mon-Fri", "no limit at the end"),
            ("Mon-Fri 08:00-18:00", "no limit at the end"),
            (
                "Mon-Fry 1MiB/s",
                "`Fry` is not a day (Mon, Tue, Wed, Thu, Fri, Sat, Sun)",
            ),
            (
                "Mun-Fri 1MiB/s",
                "`Mun` is not a day (Mon, Tue, Wed, Thu, Fri, Sat, Sun)",
            ),
            (
                "Moon 1MiB/s",
                "`Moon` is not a limit such as 10MiB/s or 10Mbit/s",
            ),
            ("08:00 1MiB/s", "`08:00` are not hours such as 08:00-18:00"),
            (
                "08:00-25:00 1MiB/s",
                "`08:00-25:00` are not hours such as 08:00-18:00",
            ),
            (
                "08:00-08:00 1MiB/s",
                "`08:00-08:00` are not hours such as 08:00-18:00",
            ),
            ("Mon 1MiB/s Tue 2MiB/s", "no `,` before `Tue`"),
            (
                "else 1MiB/s, Mon 2MiB/s",
                "`,` behind `else`, which comes last,",
            ),
            (
                "Mon 1MiB/s, 2MiB/s",
                "a limit without days, hours or `else` besides others",
            ),
            (
                "2MiB/s, Mon 1MiB/s",
                "a limit without days, hours or `else` besides others",
            ),
        ] {
            let error = Bandwidth::parse(text).expect_err(text);
            assert_eq!(error, format!("{what} in {text:?}; expected {EXAMPLE}"));
        }
    }

    #[test]
    fn a_limit_is_shown_for_people() {
        assert_eq!(Shown(NonZeroU64::new(2 << 20)).to_string(), "2.0 MiB/s");
        assert_eq!(Shown(None).to_string(), "unlimited");
    }
}
