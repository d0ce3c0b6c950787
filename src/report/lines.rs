//! What a run that ends prints on standard output: a line of JSON for each thing that happens, and a summary.
//!
//! The names of the fields are a contract with scripts: fields may be added, never changed. Every line has all of its
//! fields; what does not apply is `null`.

use std::borrow::Cow;
use std::time::Duration;

use serde::Serialize;

use crate::base::path::{RelPath, told};
use crate::base::proof::Adopted;
use crate::base::snapshot::{FolderSnapshot, Happening};
use crate::base::units::{show_bytes, show_duration};

/// One thing that happened, or would happen, to one path.
///
/// `key` is `null` where there is none, `error` where nothing went wrong. `bytes` is what was sent or copied, 0 for what
/// failed or was skipped.
#[derive(Debug, Serialize)]
pub struct Event<'a> {
    /// `uploaded`, `adopted`, `copied`, `failed`, `skipped`; of a dry run `would_upload`.
    pub event: &'a str,
    /// The folder's name.
    pub folder: &'a str,
    /// The path as it is, or escaped for people if it is not UTF-8.
    pub path: Cow<'a, str>,
    /// The path's bytes, only if they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_base64: Option<String>,
    /// The object's key.
    pub key: Option<&'a str>,
    /// Bytes of content.
    pub bytes: u64,
    /// Why it failed or was skipped.
    pub error: Option<&'a str>,
}

impl<'a> Event<'a> {
    /// Makes an event without a key, bytes and error.
    pub fn new(event: &'a str, folder: &'a str, path: &'a RelPath) -> Self {
        let (path, path_base64) = told(path.as_bytes());
        Self {
            event,
            folder,
            path,
            path_base64,
            key: None,
            bytes: 0,
            error: None,
        }
    }

    /// Makes the event of what happened; `None` for what the contract does not tell.
    pub fn of(happening: &'a Happening) -> Option<Self> {
        let event = happening.what.word()?;
        Some(Self {
            key: happening.key.as_deref(),
            bytes: happening.bytes,
            error: happening.error.as_deref(),
            ..Self::new(event, &happening.folder, &happening.path)
        })
    }
}

/// What a run did, over all folders.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Summary {
    /// `summary`.
    pub event: &'static str,
    /// Whether every file inside the filters has its object now.
    pub level: bool,
    /// Files that needed nothing.
    pub unchanged: u64,
    /// Files whose bytes were sent.
    pub uploaded: u64,
    /// Files that became a server-side copy.
    pub copied: u64,
    /// Objects that were removed, their files being gone.
    pub deleted: u64,
    /// Names that are not for the bucket, and files that have no possible key.
    pub skipped: u64,
    /// Files that could not be synced, this time.
    pub failed: u64,
    /// Deletes and overwrites that wait for a person.
    pub held: u64,
    /// Objects of others that were moved into trash before their key was written.
    pub set_aside: u64,
    /// Bytes sent.
    pub bytes: u64,
    /// How long it took, to the millisecond.
    pub seconds: f64,
    /// Those of `skipped` that are regular files inside the filters.
    pub unsyncable: u64,
    /// Keys that are looked at again after an unclear answer.
    pub ambiguous: u64,
    /// Files that were still waiting when the run ended.
    pub queued: u64,
    /// Those of `unchanged` whose object was there already, by somebody else's hand.
    pub adopted: u64,
    /// Their bytes, which were not sent.
    pub adopted_bytes: u64,
    /// What has proven that they are equal.
    pub adopted_by: Adopted,
}

impl Summary {
    /// Adds up what the folders left.
    pub fn of(snapshots: &[FolderSnapshot], level: Level, took: Duration) -> Self {
        let sum = |of: fn(&FolderSnapshot) -> u64| snapshots.iter().map(of).sum::<u64>();
        Self {
            event: "summary",
            level: level == Level::Yes,
            unchanged: sum(|last| last.tally.unchanged),
            uploaded: sum(|last| last.tally.uploaded),
            copied: sum(|last| last.tally.copied),
            deleted: sum(|last| last.tally.deleted),
            skipped: sum(|last| last.tally.skipped + last.unsyncable),
            failed: sum(|last| last.failed),
            held: sum(|last| last.held),
            set_aside: sum(|last| last.tally.set_aside),
            bytes: sum(|last| last.tally.bytes),
            seconds: took.as_millis() as f64 / 1000.0,
            unsyncable: sum(|last| last.unsyncable),
            ambiguous: sum(|last| last.ambiguous),
            queued: sum(|last| last.queued_files),
            adopted: sum(|last| last.tally.adopted.total()),
            adopted_bytes: sum(|last| last.tally.adopted_bytes),
            adopted_by: snapshots
                .iter()
                .map(|last| last.tally.adopted)
                .fold(Adopted::default(), Adopted::and),
        }
    }

    /// Returns the closing line for people.
    pub fn line(&self) -> String {
        let mut line = if self.level { "level: " } else { "not level: " }.to_owned();
        let mut parts = Vec::new();
        let mut say = |count: u64, what: String| {
            if count > 0 {
                parts.push(what);
            }
        };
        say(self.failed, format!("failed {}", self.failed));
        say(
            self.unsyncable,
            format!("could not sync {}", self.unsyncable),
        );
        say(self.queued, format!("not sent {}", self.queued));
        if self.uploaded > 0 || self.copied == 0 {
            let uploaded = format!("{} uploaded ({})", self.uploaded, show_bytes(self.bytes));
            say(1, uploaded);
        }
        say(self.adopted, self.adopted_words());
        say(self.copied, format!("{} copied", self.copied));
        say(self.set_aside, format!("{} set aside", self.set_aside));
        let unchanged = self.unchanged - self.adopted;
        say(1, format!("{unchanged} unchanged"));
        line.push_str(&parts.join(", "));
        let took = if self.seconds < 60.0 {
            format!("{:.1}s", self.seconds)
        } else {
            show_duration(Duration::from_secs_f64(self.seconds))
        };
        line + " in " + &took
    }

    /// Says what was not sent because it was there, and how that is known.
    fn adopted_words(&self) -> String {
        let by = self.adopted_by.each().into_iter();
        let by: Vec<_> = by
            .filter(|(_, count)| *count > 0)
            .map(|(proof, count)| format!("{count} by {}", proof.words()))
            .collect();
        let (count, bytes) = (self.adopted, show_bytes(self.adopted_bytes));
        format!("{count} adopted ({bytes}; {})", by.join(", "))
    }
}

/// Whether everything is in the bucket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    /// It is.
    Yes,
    /// Something is not.
    No,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::snapshot::{Tally, What};

    #[test]
    fn every_line_has_all_of_its_fields() {
        let mut happening = Happening {
            what: What::Uploaded,
            folder: "f".into(),
            path: RelPath::new(b"a\\\"b").expect("a path"),
            key: Some("p/a".into()),
            bytes: 3,
            error: None,
        };
        let text = |happening: &Happening| {
            serde_json::to_string(&Event::of(happening)).expect("plain data")
        };
        assert_eq!(
            text(&happening),
            r#"{"event":"uploaded","folder":"f","path":"a\\\"b","key":"p/a","bytes":3,"error":null}"#
        );
        happening.path = RelPath::new(b"\xff").expect("a path");
        assert_eq!(
            text(&happening),
            r#"{"event":"uploaded","folder":"f","path":"\\xff","path_base64":"/w==","key":"p/a","bytes":3,"error":null}"#
        );
        happening.what = What::Noted;
        assert!(Event::of(&happening).is_none());
    }

    #[test]
    fn the_closing_line_says_what_is_not_level() {
        let tally = Tally {
            unchanged: 100,
            uploaded: 12,
            copied: 2,
            bytes: 3_565_158,
            ..Tally::default()
        };
        let mut last = FolderSnapshot {
            tally,
            ..FolderSnapshot::default()
        };
        let took = Duration::from_millis(1_234);
        let line = |last: &FolderSnapshot, level| {
            Summary::of(std::slice::from_ref(last), level, took).line()
        };
        assert_eq!(
            line(&last, Level::Yes),
            "level: 12 uploaded (3.4 MiB), 2 copied, 100 unchanged in 1.2s"
        );
        (last.failed, last.unsyncable) = (1, 2);
        assert_eq!(
            line(&last, Level::No),
            "not level: failed 1, could not sync 2, 12 uploaded (3.4 MiB), 2 copied, 100 unchanged in 1.2s"
        );
        last = FolderSnapshot::default();
        assert_eq!(
            line(&last, Level::Yes),
            "level: 0 uploaded (0 B), 0 unchanged in 1.2s"
        );
    }
}
