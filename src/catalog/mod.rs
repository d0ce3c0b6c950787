//! The catalog: what the bucket itself knows of the tree, and of its past.
//!
//! # Overview
//!
//! A chain of small objects below `.tidewatch/catalog/`, numbered from 1. Each is a *link*: zstd-compressed JSON lines, the
//! first a [`Header`], the others [`Record`]s. A *delta* says what has changed since the link before; a *snapshot*, of one
//! link or many, says the whole tree. Links are never changed and never removed; each names the hash of the one before.
//! Here is the format, and what reads it; what writes it is the agent's (`agent::catalog`), from the manifest's log.
//!
//! `record` has the lines, `link` the objects, `walk` what a chain says, `read` brings the two together with a bucket.
//!
//! # Order
//!
//! Intent, bytes, name, catalog. A record is logged by the very transaction that changes the manifest's row, and published
//! later: the catalog may lag behind the bucket, it never says what was not there. Records of a link are in the order in
//! which they happened; those of a snapshot are in the order of their paths, read while rows may change. That does no harm:
//! what changes meanwhile is in the log, and the deltas behind the snapshot are replayed over it. A delta may also hold
//! what had happened before the snapshot in front of it. Folders, which scans see, are on record beside the files, each by
//! its own records: neither says anything of the other.
//!
//! # Errors and retries
//!
//! A reader says by name what is wrong with a chain ([`Trouble`]), and goes on: the tree up to a break is known, and so is
//! everything from the next complete snapshot on. Errors of the bucket are the caller's. Nothing is retried here.
//!
//! # Cancellation
//!
//! A reader can be dropped at any time. Nothing here writes.
//!
//! # After a crash
//!
//! The rows of the log that were not published are still there. A link that was stored and not noted is found under its own
//! number, and is taken for what it is. A snapshot goes on behind its last link that was noted; one whose link was stored and
//! not noted is begun again behind that, and readers pass over the first.
//!
//! # What this does not protect against
//!
//! - Somebody who may write to the bucket: whoever can replace every link can tell any story. The chain shows accidents,
//!   and forgeries of less than the whole.
//! - The last link has none behind it: only its own checksum, and the store's, speak for it.
//! - Objects that are changed or removed by others: the catalog says what this agent has put there.
//! - An agent that takes a prefix over on a store without conditions while another still writes.
//! - Growth: a link is some hundred bytes at least, and nothing removes old ones.

mod link;
mod read;
mod record;
mod walk;

pub use link::read as read_link;
pub use link::{Draft, OBJECT_MOST, RECORDS_MOST, header, key, number};
pub use read::{Chain, Error, Folders, History, Past, Reading, Tree, Trouble};
pub use record::{FORMAT, Fault, Header, Kind, Known, Op, Record};
