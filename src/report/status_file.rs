//! What the agent last said of itself, in the state folder: what `status` shows, also when the agent is dead.
//!
//! Written by rename, so that a reader never sees half of it; not synced to the disk, because after a power cut nothing in
//! it is true any more. Must hold no secret.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::base::clock::rfc3339;
use crate::base::snapshot::FolderSnapshot;

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
    /// Paths whose last attempt failed.
    pub failed: u64,
    /// What waits for a person.
    pub held: u64,
    /// How the tree is watched.
    pub watch: String,
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
    /// Files that cannot be synced as they are: no possible key, or never at rest.
    pub unsyncable: u64,
    /// Keys that are looked at again after an unclear answer, and when the last one is, RFC 3339.
    pub ambiguous: u64,
    /// See `ambiguous`.
    pub ambiguous_until: Option<String>,
    /// Who owns the prefix instead, why its lease is not held, or that it is advisory.
    #[serde(default)]
    pub lease: Option<String>,
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
            failed: snapshot.failed,
            held: snapshot.held,
            watch: snapshot.watch.clone(),
            missed: snapshot.missed,
            lost: snapshot.lost,
            deletes: snapshot.deletes,
            reads_disturbed: snapshot.reads_disturbed,
            reads_unguarded: snapshot.reads_unguarded,
            last_scan: snapshot.last_scan_ns.and_then(when),
            unsyncable: snapshot.unsyncable,
            ambiguous: snapshot.ambiguous,
            ambiguous_until: when(snapshot.ambiguous_until_ns),
            lease: snapshot.lease.clone(),
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
