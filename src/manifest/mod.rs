//! What we have seen synced: SQLite in the state folder, one writer.
//!
//! # Overview
//!
//! A [`Manifest`] is the state folder's database, `tidewatch.db`, and the lock that keeps a second agent out. It holds
//! a row for each path ([`Entry`]), the multipart uploads that were begun, and what first contact found under the
//! prefix. It never holds a list of work: what is to be done is what a scan finds to differ, plus the rows whose intent
//! is open ([`Manifest::open_rows`]). Every function blocks and is called through `offload`. A clone is the same
//! manifest.
//!
//! `open` has the places, the lock, creation and damage; `schema` the tables and how a connection is set up;
//! `connections` the two connections and what happens to them after an error; `rows` and `changes` read and write
//! rows; `log` has what is on its way into the catalog; `marks` what was done when; `subfolders`
//! the folders that it has on record; `uploads` has the multipart uploads; `error` what can go wrong.
//!
//! # Order
//!
//! Intent, bytes, name. The manifest never claims a version that the bucket does not hold: a row is [`State::Synced`]
//! only when its put was answered, and it is turned into an open intent, durably, before any request that may change
//! its key is sent. What [`Manifest::commit`] has returned from survives a crash and a loss of power. Commits of
//! several folders follow one another; a read that begins after a commit has returned sees it. Reads have a connection
//! of their own and never wait for a commit's fsync.
//!
//! # Errors and retries
//!
//! A commit that fails has changed nothing. [`ErrorKind`] says what the caller can do: [`ErrorKind::Full`] and
//! [`ErrorKind::Io`] may pass, and until they do no request that changes the bucket may be sent;
//! [`ErrorKind::Damaged`], [`ErrorKind::Gone`] and [`ErrorKind::Refused`] do not pass by waiting. Nothing is retried in
//! here. After any failure but a refused row or a busy database the connection is dropped: a page that a failed fsync
//! left behind is marked clean by the kernel and would never be written again, so it is read from the disk anew and,
//! after an I/O error, the whole file is checked before the next commit. (`SQLite` checkpoints by itself. If the fsync
//! of a checkpoint fails, the pages are still in the log, and the next checkpoint writes all of them once more.)
//!
//! # Cancellation
//!
//! There is none: a commit that has begun is finished, as `offload` promises. At most it waits ten seconds for another
//! program that writes to the database.
//!
//! # After a crash
//!
//! Opening takes the lock, which the kernel has released, and notices by the missing mark of a clean stop that the file
//! has to be checked. `SQLite` replays its log: every commit that returned is there, and of the last one that did not
//! return, or whose fsync failed, all or nothing. A creation that was interrupted has left a file under another name,
//! which is made anew. A file that is damaged, or not ours, is renamed and kept, never deleted, and an empty manifest
//! takes its place; the tree and the bucket fill it again. A newer schema is refused, and the file is not touched.
//!
//! # What this does not protect against
//!
//! - Flipped bits inside a value. Structure is checked, states differ in several bits, and what does not decode is
//!   reported as damage; but a wrong time, size or hash is only noticed as a difference, and the file is read again.
//! - Flipped bits in the log after a crash: the log is taken to end there, and later commits are not seen.
//! - A disk that acknowledges an fsync without doing it.
//! - An older copy of the database put back by hand: it is a valid manifest. The lease in the bucket tells
//!   ([`Change::LeaseCount`]), but for what was changed in the seconds before a crash, since the last renewal.
//! - A state folder on a network filesystem where locks or shared memory do not work; opening refuses it if it can
//!   tell.

mod buckets;
mod changes;
mod connections;
mod decode;
mod error;
mod log;
mod marks;
mod modes;
mod moves;
mod open;
mod rows;
mod said;
mod schema;
mod subfolders;
mod uploads;

pub use buckets::Probed;
pub use connections::Manifest;
pub use error::{Error, ErrorKind, OpenError};
pub use log::{Aside, Facts, Logged, Progress, Waiting, What};
pub use marks::Marks;
pub use moves::Holdings;
pub use open::{Opened, held_since, holder, is_locked};
pub use rows::LARGE_BYTES;

use crate::base::clock::Setting;
use crate::base::digest::{Crc64, Sha256};
use crate::base::drill::Drill;
use crate::base::path::RelPath;
use crate::base::snapshot::Tried;
use crate::base::stat::{FolderStamp, Identity, Stat};

/// A folder's number in this state folder.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FolderId(pub i64);

/// What makes a folder the same one again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FolderKey {
    /// Canonical absolute path, raw bytes.
    pub path: Vec<u8>,
    /// Endpoint URL; empty for AWS.
    pub endpoint: String,
    /// Bucket.
    pub bucket: String,
    /// Prefix with its trailing `/`, or empty.
    pub prefix: String,
}

/// A folder as the manifest knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FolderRow {
    /// Its number.
    pub id: FolderId,
    /// What it is.
    pub key: FolderKey,
    /// The name last given to it.
    pub name: String,
    /// Whether the bucket's prefix has been looked through before the first write ("first contact").
    pub contacted: bool,
    /// Wall clock at the start of the last complete scan, nanoseconds; `None` before the first.
    pub last_scan_ns: Option<i64>,
    /// Which folder the root was when it was last trusted; `None` before the first scan.
    pub root: Option<Identity>,
    /// Where filesystems were mounted inside the folder, as far as it was ever seen.
    pub mounts: Vec<RelPath>,
    /// Wall clock when the trash has to be gone through, nanoseconds; `None` if nothing is in it.
    pub trash_due_ns: Option<i64>,
    /// What the config said of it at its last start, as one word; `None` before the first.
    pub config: Option<String>,
}

/// What is known of one path.
#[derive(Clone, PartialEq, Debug)]
pub struct Entry {
    /// The path.
    pub path: RelPath,
    /// What the row claims.
    pub state: State,
    /// What the bucket holds (`Synced`, `Kept`), or held when it was last certain (`Open`, `Unsent`).
    pub stored: Option<Content>,
    /// What an open intent was going to put, where it is known.
    pub want: Option<Sha256>,
    /// Wall clock until which an earlier request may still land on the key, nanoseconds; 0 for none. After it the key
    /// is looked at again. [`LANDED_NS`] in an `Unsent` row: its file is gone, and what was sent of it may be there.
    pub ambiguous_until_ns: i64,
    /// The failure since the last success, if any.
    pub failure: Option<Failure>,
    /// What a brake holds back for this path, or what a person has said to it.
    pub held: Option<Box<Held>>,
}

/// The horizon of what has landed long ago, or never will.
pub const LANDED_NS: i64 = 1;

impl Entry {
    /// Returns true if all that the row says is what may lie under the key of a file that is gone.
    pub fn is_landed(&self) -> bool {
        self.state == State::Unsent && self.ambiguous_until_ns == LANDED_NS
    }

    /// Returns a row of which nothing is known.
    pub fn blank(path: RelPath, state: State) -> Self {
        Self {
            path,
            state,
            stored: None,
            want: None,
            ambiguous_until_ns: 0,
            failure: None,
            held: None,
        }
    }
}

/// What a brake holds back, or what a person has said to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Held {
    /// What waits, or was decided.
    pub what: HeldWhat,
    /// Wall clock when it was held, nanoseconds.
    pub at_ns: i64,
    /// For an overwrite: which version of the file it is about, as [`Stat::fingerprint`] says it.
    pub seen: Option<String>,
}

/// What a held path waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HeldWhat {
    /// The object is to be removed, and a person decides.
    Delete,
    /// The object is to be overwritten, and a person decides; the new content is in quarantine.
    Overwrite,
    /// A person has let it go: the brake does not hold it again.
    Released,
    /// A person has refused it: the object stays as it is until the file changes again.
    Dropped,
}

impl HeldWhat {
    /// Returns true for what waits for a person.
    pub fn is_waiting(self) -> bool {
        matches!(self, Self::Delete | Self::Overwrite)
    }
}

/// What a row claims.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// The bucket holds exactly `stored`, and nothing that could change it is on its way (but see
    /// `ambiguous_until_ns`).
    Synced,
    /// An intent: the key may be about to change, or have changed.
    Open,
    /// The file is gone; its object stays in the bucket, as `on_delete = "keep"` wants it.
    Kept,
    /// Never synced, and nothing is outstanding: it failed or is moving.
    Unsent,
}

/// A content that is stored, and the file it was read from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Content {
    /// The file's stat when it was read.
    pub stat: Stat,
    /// Wall clock when reading began, nanoseconds.
    pub read_at_ns: i64,
    /// The content's name.
    pub sha256: Sha256,
    /// The object's ETag.
    pub etag: String,
    /// The object's version, in a versioned bucket.
    pub version_id: Option<String>,
    /// Wall clock when it was found level, nanoseconds.
    pub synced_at_ns: i64,
    /// Whether nobody could promise that no writer was at work while it was read: it is read once more.
    pub doubtful: bool,
}

/// A failure that repeats.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// How many times since the last success.
    pub attempts: u32,
    /// The last error, one line, without secrets.
    pub error: String,
    /// Set if trying again soon would not help.
    pub parked: Option<Box<Parked>>,
}

/// A file that is not tried again for a while, because its failure is for good.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Parked {
    /// Wall clock until which it is left alone, nanoseconds.
    pub until_ns: i64,
    /// The version of the file that failed, as [`Stat::fingerprint`] says it: another one is tried at once.
    pub seen: String,
}

/// An object that was under the prefix at first contact and has not been compared yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Remote {
    /// The whole key.
    pub key: String,
    /// Length in bytes.
    pub size: u64,
    /// The ETag.
    pub etag: String,
}

/// A multipart upload that was begun, or was about to be, and not yet completed or aborted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Upload {
    /// The path it is for.
    pub path: RelPath,
    /// The whole key.
    pub key: String,
    /// The store's id; of a creation that has not been answered, what [`Upload::asked`] makes up.
    pub id: String,
    /// Wall clock when its creation was asked for, nanoseconds; 0 if an older version did not say.
    pub begun_at_ns: i64,
    /// How a later try can go on with it; `None` if none can.
    pub cut: Option<Cut>,
}

/// Of which file, and in which parts, an upload is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cut {
    /// The size of all parts but the last, bytes.
    pub part_size: u64,
    /// The file's length in bytes.
    pub size: u64,
    /// The file's mtime, nanoseconds.
    pub mtime_ns: i64,
    /// The file's ctime, nanoseconds.
    pub ctime_ns: i64,
    /// The file's device.
    pub dev: u64,
    /// The file's inode.
    pub ino: u64,
}

impl Cut {
    /// Returns how a file with that stat is cut into parts of `part_size` bytes.
    pub fn of(stat: &Stat, part_size: u64) -> Self {
        Self {
            part_size,
            size: stat.size,
            mtime_ns: stat.mtime_ns,
            ctime_ns: stat.ctime_ns,
            dev: stat.dev,
            ino: stat.ino,
        }
    }
}

/// A part that the store has answered for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UploadPart {
    /// From 1 to 10,000.
    pub number: u32,
    /// The part's ETag.
    pub etag: String,
    /// The CRC64NVME of what was sent.
    pub crc64: Crc64,
    /// Wall clock when it was answered, nanoseconds.
    pub stored_at_ns: i64,
}

/// A row whose object is not what the row says, as somebody has found who looked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mend {
    /// The path.
    pub path: RelPath,
    /// The content that the row claimed when that was found.
    pub sha256: Sha256,
    /// The object's ETag, as the row claimed it.
    pub etag: String,
    /// What somebody else has put under the key, which is set aside before it is written.
    pub there: Option<Remote>,
    /// Why the file is not to be sent again at once, if so.
    pub failure: Option<Failure>,
}

/// One change of a folder's rows; a turn of the loop commits many at once.
#[derive(Clone, PartialEq, Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly every change is a row")]
pub enum Change {
    /// Writes a row as it is.
    Put(Entry),
    /// Removes a path's row.
    Forget(RelPath),
    /// Opens an intent: state `Open`, `want` unknown, no horizon yet (a crash from here on begins one at the next start);
    /// what was stored stays beside it. Makes the row if there is none.
    Intend(RelPath),
    /// Notes a multipart upload: before its creation is asked for, and, in place of that, before its first part.
    UploadBegun(Box<Upload>),
    /// Notes a part of an upload; nothing if that has ended.
    PartStored {
        /// The upload's id.
        upload: String,
        /// The part.
        part: UploadPart,
    },
    /// Forgets a multipart upload that was completed or aborted, and its parts.
    UploadEnded(String),
    /// Notes what first contact found.
    RemoteFound(Vec<Remote>),
    /// Forgets an object of first contact: it was adopted, set aside or overwritten.
    RemoteTaken(String),
    /// A row is believed no more and its file sent again. Nothing, if the row is not `Synced` any more, or claims something
    /// else by now.
    Mend(Box<Mend>),
    /// First contact is over.
    Contacted,
    /// Another agent may have changed what lies in the bucket: first contact is to be made anew.
    Recontact,
    /// A complete scan has ended; its start, wall clock, nanoseconds.
    Scanned(i64),
    /// The root is this folder, and is trusted.
    Root(Identity),
    /// A brake holds the removal of this path's object; wall clock, nanoseconds.
    HoldDelete(RelPath, i64),
    /// Something was set aside that is to be kept until then (wall clock, nanoseconds).
    Trashed(i64),
    /// The trash has been gone through; when it has to be next, or `None` if it is empty.
    TrashDue(Option<i64>),
    /// Filesystems are or were mounted at these paths inside the folder.
    Mounts(Vec<RelPath>),
    /// The root has another device number than before, and is the same folder all the same: so are its files.
    Renumbered {
        /// The device number in the rows.
        from: u64,
        /// What it is now.
        to: u64,
    },
    /// A person lets everything go that a brake holds.
    Release,
    /// A person refuses everything that a brake holds: objects stay as they are.
    DropHeld,
    /// Everything that is parked is to be tried again.
    Unpark,
    /// An object was copied out of the way; only the catalog is told.
    Aside(Box<Aside>),
    /// A folder inside the synced one is there and has this time, mode and owner; only the catalog is told.
    Folder(RelPath, FolderStamp),
    /// A folder inside the synced one is gone; only the catalog is told.
    FolderGone(RelPath),
    /// A restore drill has ended; only the catalog is told.
    Drilled(Box<Drill>),
    /// So many notes have been written into the lease, or are about to be: it is not as it was left any more.
    LeaseCount(u64),
    /// The lease was given back, and has this ETag since.
    LeaseLeft(String),
    /// Something that is done now and then was done, or a person has it paused.
    Mark(Mark),
    /// What the config says of the folder, as one word: when it changes, what failed for good may work.
    Config(String),
    /// The machine's clock was set ahead by so many nanoseconds: all horizons go with it.
    ClockSet(i64),
    /// Nobody knows how much time has passed: all horizons end then, wall clock, nanoseconds.
    Horizons(i64),
}

/// What is kept of a folder besides its rows; times are wall clock, nanoseconds since the epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mark {
    /// The bucket was compared with the rows.
    Audited(i64),
    /// From when on the time before the first comparison counts.
    AuditsFrom(i64),
    /// `tidewatch verify` has ended.
    Verified(Tried),
    /// A restore drill has ended.
    Drilled(Tried),
    /// Nothing new is to be started, since then; `None`: any more.
    Paused(Option<i64>),
    /// How the machine's clock is set, which horizons are told by.
    Clock(Setting),
    /// From when on the bucket is listed once more, since requests of another agent may change it until then; `None`: it
    /// is not.
    Recontact(Option<i64>),
}

/// How many rows a brake holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HeldCounts {
    /// Whose objects would be removed.
    pub deletes: u64,
    /// Whose objects would be overwritten.
    pub overwrites: u64,
}

impl HeldCounts {
    /// Returns how many they are together.
    pub fn all(self) -> u64 {
        self.deletes + self.overwrites
    }
}

/// Counts of a folder's rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Rows that are `Synced`.
    pub synced: u64,
    /// Their bytes.
    pub synced_bytes: u64,
    /// Rows that are `Open` or `Unsent`.
    pub open: u64,
    /// Rows with a failure.
    pub failed: u64,
    /// Rows that are looked at again later.
    pub ambiguous: u64,
    /// Rows that a brake holds.
    pub held: u64,
}
