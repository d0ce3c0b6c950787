//! What the agent says of itself: plain data that commands and report read.

use tokio::time::Instant;

use crate::base::path::RelPath;
use crate::base::proof::Adopted;

/// Something that ended for one path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Happening {
    /// What.
    pub what: What,
    /// The folder's name.
    pub folder: String,
    /// The path.
    pub path: RelPath,
    /// The object's key, where there is one.
    pub key: Option<String>,
    /// Bytes sent or copied.
    pub bytes: u64,
    /// Why it failed or was skipped.
    pub error: Option<String>,
}

/// The kinds of [`Happening`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// The bytes were sent.
    Uploaded,
    /// The object was made by a server-side copy.
    Copied,
    /// The object was removed: its file is gone.
    Deleted,
    /// A brake holds it for a person.
    Held,
    /// It did not work; it is tried again.
    Failed,
    /// It is not for the bucket: no possible key, or not a regular file.
    Skipped,
    /// An object that somebody else wrote had the same content: only the manifest changed.
    Adopted,
    /// Same content, other times or mode: only the manifest changed.
    Noted,
}

impl What {
    /// Returns the word that the JSON contract uses; `None` for what it does not tell.
    pub fn word(self) -> Option<&'static str> {
        match self {
            Self::Uploaded => Some("uploaded"),
            Self::Copied => Some("copied"),
            Self::Deleted => Some("deleted"),
            Self::Held => Some("held"),
            Self::Failed => Some("failed"),
            Self::Skipped => Some("skipped"),
            Self::Adopted => Some("adopted"),
            Self::Noted => None,
        }
    }
}

/// Counts since the agent started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// Files that needed nothing.
    pub unchanged: u64,
    /// Files whose bytes were sent.
    pub uploaded: u64,
    /// Files that became a server-side copy.
    pub copied: u64,
    /// Objects that were removed, their files being gone.
    pub deleted: u64,
    /// Names that are not for the bucket.
    pub skipped: u64,
    /// Objects of others that were moved into trash before their key was written.
    pub set_aside: u64,
    /// Bytes sent.
    pub bytes: u64,
    /// Those of `unchanged` whose object somebody else wrote, by what proves that it is equal.
    pub adopted: Adopted,
    /// Bytes of content that were adopted.
    pub adopted_bytes: u64,
}

/// A file that is on its way to the bucket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Up {
    /// Its path.
    pub path: RelPath,
    /// Bytes that have gone out, or were there already from an earlier try.
    pub bytes_done: u64,
    /// Its size, bytes.
    pub bytes_all: u64,
    /// Of a large file, how many of its parts were answered, and how many there are.
    pub parts: Option<(u32, u32)>,
}

/// Something that is tried now and then to prove that the bucket is right: when it ended last, and how.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tried {
    /// Wall clock, nanoseconds since the epoch.
    pub at_ns: i64,
    /// Whether everything was right.
    pub ok: bool,
}

/// A folder at one moment.
#[derive(Clone, PartialEq, Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each says something of its own"
)]
pub struct FolderSnapshot {
    /// Its name.
    pub name: String,
    /// Its path on the disk, escaped for people.
    pub path: String,
    /// Where it goes: `s3://bucket/prefix/`.
    pub to: String,
    /// True only with an empty queue, no open row, and a complete scan later than the last loss of events.
    pub level: bool,
    /// Age of the oldest change that is not yet in the bucket, seconds: an upper bound; 0 when level.
    pub lag_seconds: u64,
    /// The longest lag that is not late, seconds; 0 if it is not known.
    pub max_lag_seconds: u64,
    /// Paths waiting or being worked on.
    pub queued_files: u64,
    /// Their bytes, as far as known.
    pub queued_bytes: u64,
    /// Bytes of files that were sent since the start, also of those that are still going up.
    pub sent_bytes: u64,
    /// Paths whose last attempt failed.
    pub failed: u64,
    /// Of them, files that are left alone until they change, for a while: they failed for good.
    pub parked: u64,
    /// Attempts that failed and were made again since the start.
    pub retries: u64,
    /// Bytes of files that went out in the last 30 seconds, a second.
    pub rate_bytes_per_second: u64,
    /// How long the queue takes at that rate, seconds; `None`: not known.
    pub seconds_left: Option<u64>,
    /// Some of the files that are on their way, the largest first.
    pub going_up: Vec<Up>,
    /// Since when a person has it do nothing new, wall clock, nanoseconds.
    pub paused_ns: Option<i64>,
    /// Files inside the filter that have no possible key, or never rest, also if their beginning was sent.
    pub unsyncable: u64,
    /// Deletes and overwrites that a brake holds for a person.
    pub held: u64,
    /// What is held back, and why, in one line: deletes, overwrites, or everything while the root is away.
    pub brake: Option<String>,
    /// Objects that are to go, because their files are gone, and have not gone yet.
    pub deletes: u64,
    /// Keys that are looked at again after the request horizon.
    pub ambiguous: u64,
    /// When the last of them is looked at, wall clock, nanoseconds; 0 for none.
    pub ambiguous_until_ns: i64,
    /// Whether the first scan has begun to look, or found the root away: where the tree is watched, its root is armed.
    pub begun: bool,
    /// How the tree is watched: `native`, `polling` and why, `off`; and what of it is not watched.
    pub watch: String,
    /// Folders that the kernel tells of: watches of this folder; `None` where none is watched.
    pub watches_used: Option<u64>,
    /// How many the user may have (`fs.inotify.max_user_watches`), for all programs; `None` where that is not known.
    pub watches_allowed: Option<u64>,
    /// Changes since the start that only a full scan found: the watcher should have told of them.
    pub missed: u64,
    /// How often events were lost, or may have been.
    pub lost: u64,
    /// Reads that had to wait because somebody had the file open for writing, or began to write.
    pub reads_disturbed: u64,
    /// Reads for which nobody could promise that there is no writer.
    pub reads_unguarded: u64,
    /// Start of the last complete scan, wall clock, nanoseconds.
    pub last_scan_ns: Option<i64>,
    /// Complete scans since the start.
    pub rescans: u64,
    /// When the bucket was last compared with what is known of it, wall clock, nanoseconds.
    pub last_audit_ns: Option<i64>,
    /// The last `tidewatch verify`.
    pub last_verify: Option<Tried>,
    /// The last restore drill.
    pub last_drill: Option<Tried>,
    /// Since when the store has been refusing everything, wall clock, nanoseconds, and why.
    pub outage: Option<(i64, String)>,
    /// Whether its loop has begun to turn: until then nothing answers, and nothing is asked of the watcher or the lease.
    pub runs: bool,
    /// By when the store has to have answered what is asked about the lease next, by the monotonic clock: a request that is
    /// not answered by then, not even by an error, hangs. `None`: there is no lease, or it is on its way out.
    pub lease_due: Option<Instant>,
    /// What people should know of the lease of the prefix: who has it instead, why it is not held, that it is advisory.
    pub lease: Option<String>,
    /// Who has the lease, where that is known.
    pub lease_holder: Option<String>,
    /// All that is to be known of the lease is that the store cannot keep others out by it.
    pub lease_is_advisory: bool,
    /// Until when that one has it unless it is renewed, wall clock, nanoseconds.
    pub lease_until_ns: Option<i64>,
    /// Why the folder's root cannot be used, if so.
    pub away: Option<String>,
    /// Why the catalog of what is in the bucket cannot be written, if so.
    pub catalog: Option<String>,
    /// Counts since the start.
    pub tally: Tally,
}

impl FolderSnapshot {
    /// Returns true if the oldest change that is not in the bucket is older than the config allows.
    pub fn is_late(&self) -> bool {
        self.max_lag_seconds > 0 && self.lag_seconds > self.max_lag_seconds
    }
}
