//! What an agent says of a folder beside the folder's data, `PREFIX.tidewatch/status.json`: who reads the bucket can tell
//! from it how far the host is. Must hold no secret.

use serde::Serialize;

use crate::base::digest::Sha256;
use crate::report::status_file::FolderStatus;

/// What is said.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Word {
    /// When, RFC 3339.
    pub written_at: String,
    /// The machine.
    pub host: String,
    /// The agent's version.
    pub version: String,
    /// `agent`: of a process that stays, which says something at least once an hour; `sync`: of one that ends by itself.
    pub by: &'static str,
    /// Whether the process has ended with that, in an orderly way.
    pub ended: bool,
    /// The folder.
    pub folder: FolderStatus,
}

impl Word {
    /// Returns what stands for everything that is worth saying again: not when it was said, nor counts of what is always
    /// going on.
    pub fn digest(&self) -> String {
        let folder = &self.folder;
        let what = (
            (&self.host, &self.version, self.by, self.ended),
            (&folder.name, &folder.path, &folder.to, &folder.watch),
            (folder.level, folder.lag_seconds, folder.max_lag_seconds),
            (folder.queued_files, folder.queued_bytes, folder.deletes),
            (folder.failed, folder.unsyncable, folder.held),
            (&folder.lease, &folder.outage_since, &folder.trouble),
        );
        // Plain fields only.
        let text = serde_json::to_vec(&what).unwrap_or_default();
        Sha256::of(&text).to_hex()
    }

    /// Returns it as it is stored.
    pub fn json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::snapshot::FolderSnapshot;

    #[test]
    fn what_is_always_going_on_is_not_worth_a_word() {
        let word = |snapshot: &FolderSnapshot, at: &str| Word {
            written_at: at.to_owned(),
            host: "h".to_owned(),
            version: "1".to_owned(),
            by: "agent",
            ended: false,
            folder: FolderStatus::of(snapshot),
        };
        let snapshot = FolderSnapshot::default();
        let first = word(&snapshot, "1").digest();
        let scanned = FolderSnapshot {
            last_scan_ns: Some(5),
            reads_unguarded: 7,
            ..snapshot.clone()
        };
        assert_eq!(word(&scanned, "2").digest(), first);
        let held = FolderSnapshot {
            held: 1,
            ..snapshot.clone()
        };
        assert_ne!(word(&held, "1").digest(), first);
        let mut ended = word(&snapshot, "1");
        ended.ended = true;
        assert_ne!(ended.digest(), first);
    }
}
