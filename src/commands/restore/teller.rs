//! What `restore` prints: a line for each thing that a person has to know of, or one JSON object for each thing, and a
//! summary.
//!
//! The names of the fields are a contract with scripts: fields may be added, never changed.

use std::borrow::Cow;
use std::io;
use std::time::Duration;

use serde::Serialize;

use crate::base::path::{self, escaped};
use crate::base::units::{show_bytes, show_took};
use crate::report::out::Out;
use crate::restore::plan::By;
use crate::restore::told::{Happening, Sums, What};

/// Where it is told what happens.
#[derive(Debug)]
pub struct Teller {
    out: Out,
    json: bool,
    quiet: bool,
    /// Why a result could not be written. The files come first: the run goes on.
    pub trouble: Option<io::Error>,
}

#[derive(Serialize)]
#[expect(clippy::struct_field_names, reason = "the contract names them")]
struct Event<'a> {
    event: &'a str,
    path: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_base64: Option<String>,
    key: Option<&'a str>,
    bytes: u64,
    by: Option<&'a str>,
    error: Option<&'a str>,
}

#[derive(Serialize)]
struct Summary {
    event: &'static str,
    done: bool,
    dry_run: bool,
    restored: u64,
    folders: u64,
    would_restore: u64,
    equal: u64,
    skipped: u64,
    conflicts: u64,
    failed: u64,
    unverified: u64,
    refused: u64,
    untried: u64,
    bytes: u64,
    verified: Verified,
    without_time: u64,
    seconds: f64,
}

/// How many of the restored files were proven right by what.
#[derive(Serialize)]
struct Verified {
    sha256: u64,
    crc64: u64,
    md5: u64,
    size: u64,
}

/// How a run ended, for the closing line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Close {
    /// Whether everything is in the target now.
    pub is_done: bool,
    /// Whether nothing was to be written.
    pub is_dry_run: bool,
    /// How long it took.
    pub took: Duration,
}

impl Teller {
    /// Prints to standard output.
    pub fn new(json: bool, quiet: bool) -> Self {
        Self {
            out: Out::stdout(),
            json,
            quiet,
            trouble: None,
        }
    }

    /// Tells one thing.
    pub fn tell(&mut self, told: &Happening<'_>) {
        if self.json {
            return self.json(&event(told));
        }
        let name = match told.path {
            Some(path) => path.to_string(),
            None => format!("`{}`", escaped(told.key.as_bytes())),
        };
        let (word, why) = (told.what.word().replace('_', " "), told.error.unwrap_or(""));
        match told.what {
            What::Restored | What::Equal => tracing::debug!("{word} {name}"),
            What::WouldRestore if told.is_bare_folder() => {
                self.line(&format!("{word} {name} (a folder)"));
            }
            What::WouldRestore => self.line(&format!("{word} {name} ({})", show_bytes(told.bytes))),
            _ => self.line(&format!("{word} {name}: {why}")),
        }
    }

    /// Says what came of it.
    pub fn close(&mut self, sums: &Sums, close: Close) {
        if self.json {
            self.json(&summary(sums, close));
            return;
        }
        if self.quiet {
            return;
        }
        self.line(&closing(sums, close));
        if sums.without_time > 0 {
            let line = format!(
                "{} files have no time in the bucket; they have that of the restore",
                sums.without_time
            );
            self.line(&line);
        }
        let unproven = sums.by[By::Size as usize];
        if unproven > 0 {
            let line = format!(
                "{unproven} files could only be checked by their size: the bucket has no checksum of them"
            );
            self.line(&line);
        }
    }

    fn json(&mut self, line: &impl Serialize) {
        match serde_json::to_string(line) {
            Ok(line) => self.line(&line),
            Err(error) => self.trouble = Some(error.into()),
        }
    }

    fn line(&mut self, line: &str) {
        if let Err(error) = self.out.line(line) {
            self.trouble.get_or_insert(error);
        }
    }
}

fn event<'a>(told: &Happening<'a>) -> Event<'a> {
    let spelled = told.path.map(|path| path::told(path.as_bytes()));
    let (path, path_base64) = spelled.unzip();
    Event {
        event: told.what.word(),
        path,
        path_base64: path_base64.flatten(),
        key: Some(told.key).filter(|key| !key.is_empty()),
        bytes: told.bytes,
        by: told.by.map(By::word),
        error: told.error,
    }
}

fn summary(sums: &Sums, close: Close) -> Summary {
    let [sha256, crc64, md5, size] = sums.by;
    Summary {
        event: "summary",
        done: close.is_done,
        dry_run: close.is_dry_run,
        restored: sums.restored,
        folders: sums.folders,
        would_restore: sums.would_restore,
        equal: sums.equal,
        skipped: sums.skipped,
        conflicts: sums.conflicts,
        failed: sums.failed,
        unverified: sums.unverified,
        refused: sums.refused,
        untried: sums.untried,
        bytes: sums.bytes,
        verified: Verified {
            sha256,
            crc64,
            md5,
            size,
        },
        without_time: sums.without_time,
        seconds: close.took.as_millis() as f64 / 1000.0,
    }
}

/// Returns the closing line for people.
fn closing(sums: &Sums, close: Close) -> String {
    let mut parts = Vec::new();
    let mut say = |count: u64, what: &str| {
        if count > 0 {
            parts.push(format!("{count} {what}"));
        }
    };
    say(sums.conflicts, "in the way");
    say(sums.failed, "failed");
    say(sums.unverified, "not verified");
    say(sums.refused, "refused");
    say(sums.untried, "not tried");
    let bytes = show_bytes(sums.bytes);
    if close.is_dry_run {
        parts.push(format!(
            "{} would be restored ({bytes})",
            sums.would_restore
        ));
    } else {
        let [sha256, crc64, md5, size] = sums.by;
        let by = [
            (sha256, "SHA-256"),
            (crc64, "CRC64"),
            (md5, "MD5"),
            (size, "size"),
        ];
        let by = by.iter().filter(|(count, _)| *count > 0);
        let by: Vec<_> = by
            .map(|(count, what)| format!("{count} by {what}"))
            .collect();
        let verified = if by.is_empty() {
            String::new()
        } else {
            format!("; verified {}", by.join(", "))
        };
        parts.push(format!("{} restored ({bytes}{verified})", sums.restored));
    }
    if sums.folders > 0 {
        let s = if sums.folders == 1 { "" } else { "s" };
        parts.push(format!("{} empty folder{s}", sums.folders));
    }
    if sums.skipped > 0 {
        parts.push(format!("{} skipped", sums.skipped));
    }
    parts.push(format!("{} there already", sums.equal));
    let took = show_took(close.took);
    let word = if close.is_done { "done" } else { "not done" };
    format!("{word}: {} in {took}", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::path::RelPath;

    #[test]
    fn every_line_has_all_of_its_fields() {
        let path = RelPath::new(b"a\xff").expect("a path");
        let mut told = Happening {
            what: What::Restored,
            path: Some(&path),
            key: "p/a",
            bytes: 3,
            by: Some(By::Sha256),
            error: None,
        };
        let text = |told: &Happening<'_>| serde_json::to_string(&event(told)).expect("plain data");
        assert_eq!(
            text(&told),
            r#"{"event":"restored","path":"a\\xff","path_base64":"Yf8=","key":"p/a","bytes":3,"by":"sha256","error":null}"#
        );
        (told.what, told.path, told.error) = (What::Refused, None, Some("no path"));
        (told.bytes, told.by) = (0, None);
        assert_eq!(
            text(&told),
            r#"{"event":"refused","path":null,"key":"p/a","bytes":0,"by":null,"error":"no path"}"#
        );
    }

    #[test]
    fn the_closing_line_says_what_is_not_done() {
        let mut sums = Sums {
            restored: 12,
            equal: 100,
            bytes: 3_565_158,
            by: [10, 2, 0, 0],
            ..Sums::default()
        };
        let mut close = Close {
            is_done: true,
            is_dry_run: false,
            took: Duration::from_millis(1_234),
        };
        assert_eq!(
            closing(&sums, close),
            "done: 12 restored (3.4 MiB; verified 10 by SHA-256, 2 by CRC64), 100 there already in 1.2s"
        );
        (sums.failed, sums.refused, close.is_done) = (1, 2, false);
        assert!(closing(&sums, close).starts_with("not done: 1 failed, 2 refused, 12 restored ("));
    }
}
