//! What the disk, the rules and the manifest say of one path, and what that comes to.

use std::borrow::Cow;
use std::io;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::base::clock::{Clock, Now, rfc3339};
use crate::base::live::Live;
use crate::base::path::RelPath;
use crate::base::policy::Symlinks;
use crate::base::stat::{Kind, Stat};
use crate::manifest::{Entry, HeldWhat, State};
use crate::store::key::KeyError;
use crate::sync::plan::{self, Look};
use crate::tree::Tree;
use crate::tree::filter::Filter;
use crate::tree::filter::reason::Reason;
use crate::tree::planted::{PLANTED, is_planted};
use crate::tree::real::RealTree;

/// Whether the file is safe, and why.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Verdict {
    pub safe: bool,
    /// One word for programs; more may come.
    pub code: Cow<'static, str>,
    /// One sentence for people.
    pub why: String,
    /// The rule that leaves the file out, as it was written.
    pub rule: Option<String>,
    /// The ignore file that the rule stands in, relative to the folder.
    pub rule_file: Option<String>,
    /// The line in it.
    pub rule_line: Option<usize>,
}

impl Verdict {
    /// Returns the verdict in the light of what the agent knows: what it was told of and has not looked at is not safe.
    pub fn beside(self, live: Option<&Live>) -> Self {
        let is_waiting = live.is_some_and(|live| !matches!(live.stage.as_str(), "idle" | "check"));
        if !is_waiting || self.code != "level" {
            return self;
        }
        let why = "something was told of it just now, and it has not been looked at since";
        unsafe_for("doubtful", why.to_owned())
    }
}

/// What is on the disk.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Disk {
    pub kind: Cow<'static, str>,
    pub bytes: u64,
    pub modified: String,
}

/// What the manifest knows.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Known {
    /// `synced`, `open`, `kept` or `unsent`.
    pub state: Cow<'static, str>,
    pub bytes: Option<u64>,
    pub sha256: Option<String>,
    pub synced_at: Option<String>,
    pub version_id: Option<String>,
    pub attempts: u32,
    pub error: Option<String>,
    /// `delete` or `overwrite`, if a person is waited for.
    pub held: Option<Cow<'static, str>>,
    /// Until when an earlier request may still change the key.
    pub ambiguous_until: Option<String>,
    /// Whether it is read once more, because a writer may have been at work while it was read.
    pub doubtful: bool,
}

impl Known {
    pub fn of(entry: &Entry) -> Self {
        let stored = entry.stored.as_ref();
        let until_ns = entry.ambiguous_until_ns;
        Self {
            state: Cow::Borrowed(match entry.state {
                State::Synced => "synced",
                State::Open => "open",
                State::Kept => "kept",
                State::Unsent => "unsent",
            }),
            bytes: stored.map(|stored| stored.stat.size),
            sha256: stored.map(|stored| stored.sha256.to_hex()),
            synced_at: stored.map(|stored| rfc3339(stored.synced_at_ns)),
            version_id: stored.and_then(|stored| stored.version_id.clone()),
            attempts: entry.failure.as_ref().map_or(0, |failure| failure.attempts),
            error: entry.failure.as_ref().map(|failure| failure.error.clone()),
            held: entry.held.as_ref().and_then(|held| match held.what {
                HeldWhat::Delete => Some("delete".into()),
                HeldWhat::Overwrite => Some("overwrite".into()),
                HeldWhat::Released | HeldWhat::Dropped => None,
            }),
            ambiguous_until: (until_ns != 0).then(|| rfc3339(until_ns)),
            doubtful: stored.is_some_and(|stored| stored.doubtful),
        }
    }
}

/// What was seen on the disk.
pub(super) struct Seen {
    /// The path under which the folder's tree presents it.
    pub path: RelPath,
    stat: io::Result<Stat>,
    /// The root itself cannot be looked at.
    away: Option<io::Error>,
    reason: Option<Reason>,
    is_planted: bool,
}

impl Seen {
    pub fn disk(&self) -> Option<Disk> {
        let stat = self.stat.as_ref().ok()?;
        Some(Disk {
            kind: Cow::Borrowed(match stat.kind {
                Kind::File => "file",
                Kind::Folder => "folder",
                Kind::Symlink => "symlink",
                Kind::Special => "special",
            }),
            bytes: stat.size,
            modified: rfc3339(stat.mtime_ns),
        })
    }
}

/// Looks at the path, and asks the rules about it.
pub(super) fn look(root: &Path, path: &RelPath, filter: Filter, symlinks: Symlinks) -> Seen {
    let tree = Arc::new(RealTree::open(root).with_symlinks(symlinks));
    let filter = filter.reading(tree.clone());
    let away = tree.identity().err();
    let (mut path, mut stat) = (path.clone(), tree.stat(path));
    // A link that is recorded is to be found under its other name.
    if stat.is_err()
        && let Some(other) = tree.alias(&path)
        && let Ok(found) = tree.stat(&other)
    {
        (path, stat) = (other, Ok(found));
    }
    let reason = match &stat {
        Ok(stat) => filter.leaves_out(&path, stat, Clock::Real.now().wall_ns),
        Err(_) => filter.excludes(&path, Kind::File),
    };
    let is_planted = stat
        .as_ref()
        .is_ok_and(|stat| is_planted(&*tree, &path, stat));
    Seen {
        path,
        stat,
        away,
        reason,
        is_planted,
    }
}

/// Judges what was seen and what is known.
pub(super) fn verdict(
    seen: &Seen,
    known: Option<&Entry>,
    key: Result<&String, &KeyError>,
    now: Now,
) -> Verdict {
    if let Some(error) = &seen.away {
        return unsafe_for("away", format!("the folder cannot be looked at: {error}"));
    }
    if let Some(reason) = &seen.reason {
        return left_out(reason, known);
    }
    let stat = match &seen.stat {
        Ok(stat) => stat,
        Err(error) if is_gone(error) => return of_gone(known),
        Err(error) => return unsafe_for("unreadable", format!("it cannot be looked at: {error}")),
    };
    match stat.kind {
        Kind::File => {}
        Kind::Symlink => {
            let why = "it is a symbolic link, and what it leads to is not taken under its name";
            return unsafe_for("skipped", why.to_owned());
        }
        Kind::Special | Kind::Folder => {
            return unsafe_for("skipped", "it is not a regular file".to_owned());
        }
    }
    if seen.is_planted {
        return unsafe_for("planted", PLANTED.to_owned());
    }
    if let Err(error) = key {
        return unsafe_for("no_key", format!("the bucket cannot hold it: {error}"));
    }
    of_file(stat, known, now)
}

fn of_file(stat: &Stat, known: Option<&Entry>, now: Now) -> Verdict {
    let Some(entry) = known else {
        return unsafe_for("new", "it has not been synced yet".to_owned());
    };
    if let Some(trouble) = trouble(entry) {
        return trouble;
    }
    let Some(stored) = &entry.stored else {
        return unsafe_for("new", "it has not been synced yet".to_owned());
    };
    if !stored.stat.same_content_as(stat) {
        let at = rfc3339(stored.synced_at_ns);
        if stored.doubtful && has_grown(&stored.stat, stat) {
            let why = format!(
                "it has grown since it was synced at {at}, and may never rest; the bucket holds no more than its \
                 beginning at an instant"
            );
            return unsafe_for("changed", why);
        }
        return unsafe_for(
            "changed",
            format!("it was changed after it was synced at {at}"),
        );
    }
    if entry.state == State::Kept {
        let why = "it was gone, is there again, and has not been synced since";
        return unsafe_for("changed", why.to_owned());
    }
    if stored.doubtful || plan::look(known, stat, false, now) == Look::Read {
        let why = "it may have changed while it was read, and is to be read once more";
        return unsafe_for("doubtful", why.to_owned());
    }
    safe(
        "level",
        "the bucket holds it as it is on the disk".to_owned(),
    )
}

/// Returns true if it is the same file, and longer than it was.
fn has_grown(was: &Stat, is: &Stat) -> bool {
    (was.dev, was.ino) == (is.dev, is.ino) && was.size < is.size
}

/// What is wrong with a row, whatever is on the disk.
fn trouble(entry: &Entry) -> Option<Verdict> {
    match entry.held.as_ref().map(|held| held.what) {
        Some(HeldWhat::Overwrite) => {
            let why = "a brake holds its overwrite until a person decides";
            return Some(unsafe_for("held", why.to_owned()));
        }
        Some(HeldWhat::Delete) => {
            let why = "a brake holds the delete of its object until a person decides";
            return Some(unsafe_for("held", why.to_owned()));
        }
        Some(HeldWhat::Dropped) => {
            let why = "a person has refused its overwrite; the object stays as it is";
            return Some(unsafe_for("dropped", why.to_owned()));
        }
        Some(HeldWhat::Released) | None => {}
    }
    if let Some(failure) = &entry.failure {
        let (times, error) = (failure.attempts, &failure.error);
        let s = if times == 1 { "" } else { "s" };
        if let Some(parked) = &failure.parked {
            let until = rfc3339(parked.until_ns);
            let why = format!(
                "it failed {times} time{s} and is left alone until {until}, or until it changes \
                 (`tidewatch sync --retry-failed` tries it now); last: {error}"
            );
            return Some(unsafe_for("parked", why));
        }
        return Some(unsafe_for(
            "failed",
            format!("it failed {times} time{s}, last: {error}"),
        ));
    }
    match entry.state {
        State::Open => {
            let why = "it is on its way, or was when the agent ended";
            return Some(unsafe_for("open", why.to_owned()));
        }
        State::Unsent => {
            return Some(unsafe_for("new", "it has not been sent yet".to_owned()));
        }
        State::Synced | State::Kept => {}
    }
    match plan::doubt_until(entry) {
        0 => None,
        until_ns => {
            let at = rfc3339(until_ns);
            let why = format!(
                "an earlier request may change its object until {at}; then it is looked at again"
            );
            Some(unsafe_for("ambiguous", why))
        }
    }
}

/// A path under which there is nothing on the disk.
fn of_gone(known: Option<&Entry>) -> Verdict {
    let known = known.filter(|entry| !entry.is_landed());
    let stored = known.and_then(|entry| entry.stored.as_ref());
    let (Some(entry), Some(stored)) = (known, stored) else {
        let why = "there is no such file, and none of that name was synced";
        return unsafe_for("unknown", why.to_owned());
    };
    if let Some(trouble) = trouble(entry) {
        return trouble;
    }
    let at = rfc3339(stored.synced_at_ns);
    let why = match entry.state {
        State::Kept => {
            format!("it is gone from the disk; the bucket keeps what was synced at {at}")
        }
        _ => format!(
            "it is gone from the disk; the bucket holds what was synced at {at}, until `on_delete` \
             decides"
        ),
    };
    safe("gone", why)
}

fn left_out(reason: &Reason, known: Option<&Entry>) -> Verdict {
    let stored = known.and_then(|entry| entry.stored.as_ref());
    let at = stored.map(|stored| rfc3339(stored.synced_at_ns));
    let why = match at {
        Some(at) => {
            format!("left out: {reason}; what was synced at {at} stays in the bucket")
        }
        None => format!("left out: {reason}"),
    };
    let verdict = unsafe_for("excluded", why);
    match reason {
        Reason::Rule { text, of } => Verdict {
            rule: Some(text.clone()),
            rule_file: of.as_ref().map(|of| of.file().to_string()),
            rule_line: of.as_ref().map(|of| of.line),
            ..verdict
        },
        Reason::Builtin(shape) => Verdict {
            rule: Some((*shape).to_owned()),
            ..verdict
        },
        _ => verdict,
    }
}

fn safe(code: &'static str, why: String) -> Verdict {
    Verdict {
        safe: true,
        ..unsafe_for(code, why)
    }
}

fn unsafe_for(code: &'static str, why: String) -> Verdict {
    Verdict {
        safe: false,
        code: code.into(),
        why,
        rule: None,
        rule_file: None,
        rule_line: None,
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_of_and_not_looked_at_since_is_not_safe() {
        for (stage, is_safe) in [
            ("idle", true),
            ("check", true),
            ("settling", false),
            ("queued", false),
            ("in_flight", false),
        ] {
            let live = Live {
                stage: stage.to_owned(),
                ..Live::default()
            };
            let level = || safe("level", String::new());
            assert_eq!(level().beside(Some(&live)).safe, is_safe, "{stage}");
            assert!(level().beside(None).safe);
            let gone = safe("gone", String::new()).beside(Some(&live));
            assert!(gone.safe, "the bucket keeps it whatever is told: {stage}");
        }
    }
}
