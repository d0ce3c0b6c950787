//! What the agent last said of itself, in the state folder: what `status` shows, also when the agent is dead.
//!
//! Written by rename, so that a reader never sees half of it; not synced to the disk, because after a power cut nothing in
//! it is true any more. Must hold no secret.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};

use crate::base::clock::rfc3339;
use crate::base::snapshot::{FolderSnapshot, Tried, Up};

const NAME: &str = "status.json";

/// What an agent says of itself.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct StatusFile {
    /// Wall clock when it was said, nanoseconds since the epoch.
    pub at_ns: i64,
    /// The agent's process id.
    pub pid: u32,
    /// The agent's version.
    pub version: String,
    /// The address of its page, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<String>,
    /// Its folders, in the order of the config.
    pub folders: Vec<FolderStatus>,
}

/// A file that is on its way, in the words of the JSON contract.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct UpStatus {
    /// Its path in the folder, escaped for people.
    pub path: String,
    /// The path's bytes, where they are not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_base64: Option<String>,
    /// Bytes that have gone out, or were there already from an earlier try.
    pub bytes_done: u64,
    /// Its size, bytes.
    pub bytes_all: u64,
    /// Parts that were answered, of a large file.
    pub parts_done: Option<u32>,
    /// Parts that it has.
    pub parts_all: Option<u32>,
}

impl UpStatus {
    /// Puts it into the contract's words.
    pub fn of(up: &Up) -> Self {
        let bytes = up.path.as_bytes();
        let is_text = std::str::from_utf8(bytes).is_ok();
        Self {
            path: up.path.to_string(),
            path_base64: (!is_text).then(|| BASE64_STANDARD.encode(bytes)),
            bytes_done: up.bytes_done,
            bytes_all: up.bytes_all,
            parts_done: up.parts.map(|(done, _)| done),
            parts_all: up.parts.map(|(_, all)| all),
        }
    }
}

/// When something was tried last, and whether everything was right.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TriedStatus {
    /// RFC 3339.
    pub at: String,
    /// Whether everything was right.
    pub ok: bool,
}

impl TriedStatus {
    /// Puts it into the contract's words.
    pub fn of(tried: Tried) -> Self {
        Self {
            at: rfc3339(tried.at_ns),
            ok: tried.ok,
        }
    }
}

/// A folder, in the words of the JSON contract.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct FolderStatus {
    /// Its name.
    pub name: String,
    /// Its path on the disk, escaped for people.
    pub path: String,
    /// `s3://bucket/prefix/`.
    pub to: String,
    /// Whether every file inside the filter has its object.
    pub level: bool,
    /// Age of the oldest change that is not in the bucket, seconds: an upper bound.
    pub lag_seconds: u64,
    /// The longest lag that is not late, seconds; 0 if it is not known.
    #[serde(default)]
    pub max_lag_seconds: u64,
    /// Paths waiting or being worked on.
    pub queued_files: u64,
    /// Their bytes, as far as known.
    pub queued_bytes: u64,
    /// Since when a person has it do nothing new, RFC 3339.
    #[serde(default)]
    pub paused_since: Option<String>,
    /// Bytes of files that went out lately, a second.
    #[serde(default)]
    pub rate_bytes_per_second: u64,
    /// How long the queue takes at that rate, seconds; `None`: not known.
    #[serde(default)]
    pub seconds_left: Option<u64>,
    /// Some of the files that are on their way, the largest first.
    #[serde(default)]
    pub going_up: Vec<UpStatus>,
    /// Attempts that failed and were made again since the start.
    #[serde(default)]
    pub retries: u64,
    /// Paths whose last attempt failed.
    pub failed: u64,
    /// Of them, files that are left alone until they change, for a while: they failed for good.
    #[serde(default)]
    pub parked: u64,
    /// What waits for a person.
    pub held: u64,
    /// What is held back, and why, in one line.
    #[serde(default)]
    pub brake: Option<String>,
    /// How the tree is watched.
    pub watch: String,
    /// Watches that the folder has; `None` where none is watched.
    #[serde(default)]
    pub watches_used: Option<u64>,
    /// How many the user may have, for all programs; `None` where that is not known.
    #[serde(default)]
    pub watches_allowed: Option<u64>,
    /// Changes that the watcher should have told of, and a scan found.
    #[serde(default)]
    pub missed: u64,
    /// How often events were lost, or may have been; each time everything is looked at.
    #[serde(default)]
    pub lost: u64,
    /// Objects that are to go, because their files are gone, and have not gone yet.
    #[serde(default)]
    pub deletes: u64,
    /// Reads that had to wait for a writer.
    #[serde(default)]
    pub reads_disturbed: u64,
    /// Reads for which nobody could promise that there is no writer: such a file is read once more if it changed lately.
    #[serde(default)]
    pub reads_unguarded: u64,
    /// Start of the last complete scan, RFC 3339.
    pub last_scan: Option<String>,
    /// Complete scans since the start.
    #[serde(default)]
    pub rescans: u64,
    /// When the bucket was last compared with what is known of it, RFC 3339.
    #[serde(default)]
    pub last_audit: Option<String>,
    /// The last `tidewatch verify`.
    #[serde(default)]
    pub last_verify: Option<TriedStatus>,
    /// The last restore drill, in short.
    #[serde(default)]
    pub drill: Option<TriedStatus>,
    /// Files that cannot be synced as they are: no possible key, or never at rest.
    pub unsyncable: u64,
    /// Keys that are looked at again after an unclear answer, and when the last one is, RFC 3339.
    pub ambiguous: u64,
    /// See `ambiguous`.
    pub ambiguous_until: Option<String>,
    /// Who owns the prefix instead, why its lease is not held, or that it is advisory.
    #[serde(default)]
    pub lease: Option<String>,
    /// Who has the lease, where that is known.
    #[serde(default)]
    pub lease_holder: Option<String>,
    /// Until when that one has it unless it is renewed, RFC 3339.
    #[serde(default)]
    pub lease_until: Option<String>,
    /// Since when the bucket cannot be used, RFC 3339.
    pub outage_since: Option<String>,
    /// Why it cannot be used, or why the folder cannot.
    pub trouble: Option<String>,
}

impl FolderStatus {
    /// Returns true if it is known to be late: its lag is longer than the config allows.
    pub fn is_late(&self) -> bool {
        self.max_lag_seconds > 0 && self.lag_seconds > self.max_lag_seconds
    }

    /// Puts a snapshot into the contract's words.
    pub fn of(snapshot: &FolderSnapshot) -> Self {
        let when = |ns: i64| (ns != 0).then(|| rfc3339(ns));
        let outage = snapshot.outage.as_ref();
        Self {
            name: snapshot.name.clone(),
            path: snapshot.path.clone(),
            to: snapshot.to.clone(),
            level: snapshot.level,
            lag_seconds: snapshot.lag_seconds,
            max_lag_seconds: snapshot.max_lag_seconds,
            queued_files: snapshot.queued_files,
            queued_bytes: snapshot.queued_bytes,
            paused_since: snapshot.paused_ns.and_then(when),
            rate_bytes_per_second: snapshot.rate_bytes_per_second,
            seconds_left: snapshot.seconds_left,
            going_up: snapshot.going_up.iter().map(UpStatus::of).collect(),
            retries: snapshot.retries,
            failed: snapshot.failed,
            parked: snapshot.parked,
            held: snapshot.held,
            brake: snapshot.brake.clone(),
            watch: snapshot.watch.clone(),
            watches_used: snapshot.watches_used,
            watches_allowed: snapshot.watches_allowed,
            missed: snapshot.missed,
            lost: snapshot.lost,
            deletes: snapshot.deletes,
            reads_disturbed: snapshot.reads_disturbed,
            reads_unguarded: snapshot.reads_unguarded,
            last_scan: snapshot.last_scan_ns.and_then(when),
            rescans: snapshot.rescans,
            last_audit: snapshot.last_audit_ns.and_then(when),
            last_verify: snapshot.last_verify.map(TriedStatus::of),
            drill: snapshot.last_drill.map(TriedStatus::of),
            unsyncable: snapshot.unsyncable,
            ambiguous: snapshot.ambiguous,
            ambiguous_until: when(snapshot.ambiguous_until_ns),
            lease: snapshot.lease.clone(),
            lease_holder: snapshot.lease_holder.clone(),
            lease_until: snapshot.lease_until_ns.and_then(when),
            outage_since: outage.and_then(|(since_ns, _)| when(*since_ns)),
            trouble: snapshot
                .away
                .clone()
                .or_else(|| outage.map(|(_, why)| why.clone()))
                .or_else(|| snapshot.catalog.clone()),
        }
    }
}

/// Writes what the agent says into its state folder.
#[expect(
    clippy::disallowed_methods,
    reason = "not durable on purpose: see the top of this file"
)]
pub fn write(state_dir: &Path, status: &StatusFile) -> io::Result<()> {
    let (temporary, target) = (state_dir.join(format!("{NAME}.new")), state_dir.join(NAME));
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    let mut text = serde_json::to_vec(status)?;
    text.push(b'\n');
    file.write_all(&text)?;
    fs::rename(&temporary, &target)
}

/// Reads what an agent last said; `None` if none ever said anything there.
pub fn read(state_dir: &Path) -> io::Result<Option<StatusFile>> {
    match fs::read(state_dir.join(NAME)) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        assert!(read(folder.path()).expect("readable").is_none());
        let snapshot = FolderSnapshot {
            name: "a".into(),
            last_scan_ns: Some(1),
            ..FolderSnapshot::default()
        };
        let folders = vec![FolderStatus::of(&snapshot)];
        let status = StatusFile {
            at_ns: 5,
            pid: 1,
            version: "0".into(),
            page: None,
            folders,
        };
        write(folder.path(), &status).expect("writable");
        assert_eq!(read(folder.path()).expect("readable"), Some(status));
    }
}
