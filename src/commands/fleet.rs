//! `tidewatch fleet`: how far every host is whose agents write below one place of a bucket, from what each of them last
//! said there (`PREFIX.tidewatch/status.json`). Needs no server, no state and no config. Never writes.
//!
//! Looks for these objects level by level, with one listing by `/` each, and never lists the data: where there is a
//! `.tidewatch/`, nothing below is looked at, as one agent's prefix never lies in another's. Goes `DEPTH` levels deep
//! and through `PLACES` places at most, and says so where that was not enough.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::base::clock::{Clock, parse_rfc3339};
use crate::base::offload::joined;
use crate::base::path::escaped;
use crate::base::terms::Terms;
use crate::base::units::show_duration;
use crate::commands::{Exit, settings};
use crate::config::{S3, Target};
use crate::report::out::{Out, note};
use crate::store::key::{KeyMap, RESERVED, STATUS};
use crate::store::s3::S3Store;
use crate::store::{self, ErrorKind, Store as _};

/// How many levels below the given place are looked at: `{team}/{hostname}/{name}` and three more.
const DEPTH: usize = 6;
/// How many places are listed at most, in some seconds.
const PLACES: usize = 10_000;
/// Listings at once.
const AT_ONCE: usize = 16;
/// An agent that stays says something once an hour; after twice that it is silent.
const SILENT: Duration = Duration::from_secs(2 * 3600);
/// A longer word is not one of ours, bytes.
const WORD_MOST: u64 = 1 << 20;

/// What `fleet` is asked.
#[derive(Clone, Debug)]
pub struct FleetOptions {
    /// Where to look.
    pub to: Target,
    /// How the bucket is reached.
    pub s3: S3,
    /// One JSON object for each folder.
    pub json: bool,
}

/// What an agent has said, of whatever version.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(default)]
struct Word {
    written_at: String,
    host: String,
    version: String,
    by: String,
    ended: bool,
    folder: Said,
}

#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(default)]
struct Said {
    name: String,
    path: String,
    level: bool,
    lag_seconds: u64,
    max_lag_seconds: u64,
    queued_files: u64,
    failed: u64,
    held: u64,
    drill: Option<Drill>,
    outage_since: Option<String>,
    trouble: Option<String>,
    paused_since: Option<String>,
}

#[derive(Clone, PartialEq, Debug, Deserialize, Serialize)]
struct Drill {
    at: String,
    ok: bool,
}

/// A folder of a host, in the words of the JSON contract.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a field of the contract"
)]
struct Line {
    host: String,
    name: String,
    path: String,
    to: String,
    /// `level`, `behind`, `late`, `held`, `silent`, or `unknown` if there is no word that can be read.
    state: &'static str,
    level: bool,
    lag_seconds: u64,
    max_lag_seconds: u64,
    late: bool,
    silent: bool,
    queued_files: u64,
    failed: u64,
    held: u64,
    version: String,
    by: String,
    ended: bool,
    drill: Option<Drill>,
    outage_since: Option<String>,
    paused_since: Option<String>,
    trouble: Option<String>,
    written_at: Option<String>,
    age_seconds: Option<u64>,
}

impl Line {
    /// Judges what was said, by what time it is now. The lag of what was not level has grown since.
    fn of(to: String, word: Word, now_ns: i64) -> Self {
        let Word { folder, .. } = word;
        let age = parse_rfc3339(&word.written_at).map(|at_ns| {
            let ns = u64::try_from(now_ns.saturating_sub(at_ns)).unwrap_or(0);
            Duration::from_nanos(ns)
        });
        let age_seconds = age.map(|age| age.as_secs());
        let lag_seconds = if folder.level {
            0
        } else {
            let since = age_seconds.unwrap_or(0);
            folder.lag_seconds.saturating_add(since)
        };
        // A run that ends by itself has promised nothing of its next time.
        let silent = word.by != "sync" && age.is_none_or(|age| age > SILENT);
        let late = folder.max_lag_seconds > 0 && lag_seconds > folder.max_lag_seconds;
        let state = match folder {
            _ if silent => "silent",
            Said { held: 1.., .. } => "held",
            _ if late => "late",
            Said { level: true, .. } => "level",
            _ => "behind",
        };
        Self {
            host: word.host,
            name: folder.name,
            path: folder.path,
            to,
            state,
            level: folder.level,
            lag_seconds,
            max_lag_seconds: folder.max_lag_seconds,
            late,
            silent,
            queued_files: folder.queued_files,
            failed: folder.failed,
            held: folder.held,
            version: word.version,
            by: word.by,
            ended: word.ended,
            drill: folder.drill,
            outage_since: folder.outage_since,
            paused_since: folder.paused_since,
            trouble: folder.trouble,
            written_at: age.is_some().then_some(word.written_at),
            age_seconds,
        }
    }

    /// Makes one for a prefix whose agent has said nothing that can be read.
    fn unknown(to: String, why: &str) -> Self {
        Self {
            state: "unknown",
            silent: true,
            trouble: Some(why.to_owned()),
            ..Self::of(to, Word::default(), 0)
        }
    }

    fn is_trouble(&self) -> bool {
        self.late || self.silent || self.held > 0
    }

    fn cells(&self, now_ns: i64) -> [String; 8] {
        let seconds = |seconds| show_duration(Duration::from_secs(seconds));
        let dash = || "-".to_owned();
        let text = |text: &str| match text {
            "" => dash(),
            text => escaped(text.as_bytes()),
        };
        let drill = self.drill.as_ref().map_or_else(dash, |drill| {
            let word = if drill.ok { "ok" } else { "failed" };
            let age = parse_rfc3339(&drill.at).map(|at_ns| now_ns.saturating_sub(at_ns));
            let days = age.map_or(0, |ns| ns.max(0) / (24 * 3600 * 1_000_000_000));
            format!("{word} {days}d")
        });
        let state = if self.ended && self.by != "sync" && !self.silent {
            format!("{}, ended", self.state)
        } else {
            self.state.to_owned()
        };
        let name = if self.name.is_empty() {
            text(&self.to)
        } else {
            text(&self.name)
        };
        [
            text(&self.host),
            name,
            state,
            seconds(self.lag_seconds),
            self.held.to_string(),
            drill,
            text(&self.version),
            self.age_seconds
                .map_or_else(dash, |age| format!("{} ago", seconds(coarse(age)))),
        ]
    }
}

/// Rounds to minutes what is longer than an hour.
fn coarse(seconds: u64) -> u64 {
    match seconds {
        0..3600 => seconds,
        3600..86_400 => seconds - seconds % 60,
        _ => seconds - seconds % 3600,
    }
}

/// Lists what every host has said. Exit 3 if one is late, silent or holds something, 2 if nobody ever said anything.
pub async fn fleet(options: FleetOptions, out: &mut Out) -> anyhow::Result<Exit> {
    let settings = settings::of(&options.s3, &Terms::default());
    let store = match S3Store::new(&settings, &options.to.bucket).await {
        Ok(store) => Arc::new(store),
        Err(error) => return Ok(unreachable(&options.to, &error)),
    };
    let now_ns = Clock::Real.now().wall_ns;
    let found = match find(&store, &options.to, now_ns).await {
        Ok(found) => found,
        Err(error) => return Ok(unreachable(&options.to, &error)),
    };
    if let Some(bound) = found.bound {
        note(format_args!(
            "tidewatch: {bound}; give a longer prefix to see what is further down"
        ));
    }
    if found.lines.is_empty() {
        note(format_args!(
            "tidewatch: no agent has said anything below {}",
            options.to
        ));
        return Ok(Exit::Usage);
    }
    let written = if options.json {
        found.lines.iter().try_for_each(|line| {
            let line = serde_json::to_string(line).map_err(std::io::Error::from)?;
            out.line(line)
        })
    } else {
        table(&found.lines, now_ns, out)
    };
    written.context("write to standard output")?;
    if found.lines.iter().any(Line::is_trouble) {
        Ok(Exit::Different)
    } else {
        Ok(Exit::Level)
    }
}

fn unreachable(to: &Target, error: &dyn std::fmt::Display) -> Exit {
    note(format_args!("tidewatch: could not look at {to}: {error}"));
    Exit::Unreachable
}

fn table(lines: &[Line], now_ns: i64, out: &mut Out) -> std::io::Result<()> {
    let heads = [
        "HOST", "FOLDER", "STATE", "LAG", "HELD", "DRILL", "VERSION", "SAID",
    ];
    let mut rows = vec![heads.map(str::to_owned)];
    rows.extend(lines.iter().map(|line| line.cells(now_ns)));
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let widths: [usize; 8] = std::array::from_fn(width);
    for row in &rows {
        let cells = row.iter().zip(widths);
        let line: Vec<_> = cells
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        out.line(line.join("  ").trim_end())?;
    }
    Ok(())
}

/// What was found, in the order of the prefixes.
struct Found {
    lines: Vec<Line>,
    /// Which bound kept it from looking everywhere.
    bound: Option<String>,
}

async fn find(store: &Arc<S3Store>, to: &Target, now_ns: i64) -> Result<Found, store::Error> {
    let mut waiting = VecDeque::from([(to.prefix.clone(), 0)]);
    let (mut places, mut bound) = (0, None);
    let mut lines = Vec::new();
    let mut tasks = JoinSet::new();
    loop {
        while tasks.len() < AT_ONCE
            && places < PLACES
            && let Some((prefix, depth)) = waiting.pop_front()
        {
            places += 1;
            let store = store.clone();
            let url = Target {
                bucket: to.bucket.clone(),
                prefix: prefix.clone(),
            };
            tasks.spawn(async move {
                let seen = place(&store, &prefix, url.to_string(), now_ns).await;
                (depth, seen)
            });
        }
        let Some(ended) = tasks.join_next().await else {
            break;
        };
        let Some((depth, seen)) = joined(ended) else {
            continue;
        };
        match seen? {
            Seen::Word(line) => lines.push(*line),
            Seen::Below(folders) if folders.is_empty() => {}
            Seen::Below(_) if depth == DEPTH => {
                bound = Some(format!("only {DEPTH} levels were looked at"));
            }
            Seen::Below(folders) => {
                waiting.extend(folders.into_iter().map(|folder| (folder, depth + 1)));
            }
        }
    }
    if !waiting.is_empty() {
        bound = Some(format!("only {PLACES} places were looked at"));
    }
    lines.sort_by(|a, b| a.to.cmp(&b.to));
    Ok(Found { lines, bound })
}

/// What is at one place.
enum Seen {
    /// An agent's.
    Word(Box<Line>),
    /// Nobody's; these lie below.
    Below(Vec<String>),
}

async fn place(
    store: &S3Store,
    prefix: &str,
    url: String,
    now_ns: i64,
) -> Result<Seen, store::Error> {
    let keys = KeyMap::new(prefix);
    let own = format!("{prefix}{RESERVED}/");
    let (mut below, mut token) = (Vec::new(), None);
    loop {
        let (folders, next) = store.folders_page(prefix, token).await?;
        if folders.contains(&own) {
            let line = word(store, &keys, url, now_ns).await?;
            return Ok(Seen::Word(Box::new(line)));
        }
        below.extend(folders);
        token = next;
        // What is beyond is not looked at, nor are there so many hosts.
        if token.is_none() || below.len() > PLACES {
            return Ok(Seen::Below(below));
        }
    }
}

async fn word(
    store: &S3Store,
    keys: &KeyMap,
    url: String,
    now_ns: i64,
) -> Result<Line, store::Error> {
    let key = keys.reserved(STATUS);
    let got = match store.head(&key).await {
        Ok(object) if object.size > WORD_MOST => {
            return Ok(Line::unknown(url, "its word is too long to be one"));
        }
        Ok(_) => store.get(&key, None).await,
        Err(error) => Err(error),
    };
    Ok(match got {
        Ok((_, bytes)) => match serde_json::from_slice::<Word>(&bytes) {
            Ok(word) => Line::of(url, word, now_ns),
            Err(error) => Line::unknown(url, &format!("its word cannot be read: {error}")),
        },
        Err(error) if error.kind == ErrorKind::NotFound => {
            Line::unknown(url, "it has said nothing yet")
        }
        Err(error) if error.kind == ErrorKind::Denied => {
            Line::unknown(url, "its word may not be read: allow s3:GetObject on it")
        }
        Err(error) => return Err(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: &str = "2026-01-01T00:00:00Z";

    fn judged(word: &str, seconds: i64) -> Line {
        let word = serde_json::from_str(word).expect("a word");
        let now_ns = parse_rfc3339(AT).expect("a time") + seconds * 1_000_000_000;
        Line::of("s3://b/".to_owned(), word, now_ns)
    }

    fn state(word: &str, seconds: i64) -> (&'static str, bool) {
        let line = judged(word, seconds);
        (line.state, line.is_trouble())
    }

    #[test]
    fn who_is_level_is_late_silent_and_held_is_told_apart() {
        let level = r#"{"written_at":"2026-01-01T00:00:00Z","by":"agent","folder":{"level":true,"max_lag_seconds":60}}"#;
        assert_eq!(state(level, 30), ("level", false));
        assert_eq!(state(level, 7200), ("level", false));
        assert_eq!(state(level, 7201), ("silent", true));
        let behind = r#"{"written_at":"2026-01-01T00:00:00Z","by":"agent","folder":{"lag_seconds":50,"max_lag_seconds":60}}"#;
        assert_eq!(state(behind, 10), ("behind", false));
        // What was not level then is older now.
        assert_eq!(state(behind, 11), ("late", true));
        let held = r#"{"written_at":"2026-01-01T00:00:00Z","by":"agent","folder":{"held":2}}"#;
        assert_eq!(state(held, 0), ("held", true));
        let once = level.replace("agent", "sync");
        assert_eq!(state(&once, 1_000_000), ("level", false));
        // A clock that is ahead of ours makes nobody silent.
        assert_eq!(state(level, -100), ("level", false));
        // Words of other versions say less, or more.
        assert_eq!(state("{\"new\":1}", 0), ("silent", true));
    }

    #[test]
    fn a_line_says_how_the_last_drill_went_and_that_an_agent_has_ended() {
        let line = judged(
            r#"{"written_at":"2026-01-01T00:00:00Z","host":"web1","version":"0.1.0","by":"agent","ended":true,
            "folder":{"name":"photos","level":true,"drill":{"at":"2025-12-29T00:00:00Z","ok":true}}}"#,
            12,
        );
        let cells = line.cells(parse_rfc3339(AT).expect("a time"));
        let expected = [
            "web1",
            "photos",
            "level, ended",
            "0s",
            "0",
            "ok 3d",
            "0.1.0",
            "12s ago",
        ];
        assert_eq!(cells, expected);
    }
}
