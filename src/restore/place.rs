//! Bytes that have arrived become files: checked first, put in place last.
//!
//! A file is written under a temporary name, and gets its own only when its content has been verified and its time and
//! mode are set. What does not verify never gets a name. Everything here blocks.

use std::io;

use rustix::io::Errno;

use crate::restore::check::Check;
use crate::restore::fetch::Fetched;
use crate::restore::plan::By;
use crate::restore::target::{Over, Target};
use crate::restore::temporary::Temporary;
use crate::restore::wanted::{Kind, Stamp, Wanted};
use crate::store;

/// One thing that is to be brought back.
#[derive(Clone, Debug)]
pub struct Job {
    /// What.
    pub wanted: Wanted,
    /// Whether anything makes room for it.
    pub over: Over,
    /// Whether its content has been read once already and was not the right one.
    pub is_again: bool,
}

/// How the work on one thing ended.
#[derive(Debug)]
pub enum Ended {
    /// It is in its place.
    Restored {
        /// Bytes of content.
        bytes: u64,
        /// What proved it right.
        by: By,
        /// Whether its time is known.
        has_time: bool,
    },
    /// It is not what was stored.
    Unverified(String),
    /// The bucket did not give it.
    Refused(store::Error),
    /// The disk did not take it.
    Failed(String),
    /// The disk takes nothing any more.
    Full(String),
}

impl Ended {
    /// Takes what the disk says.
    pub fn of_disk(error: &io::Error) -> Self {
        let errno = Errno::from_io_error(error);
        if matches!(errno, Some(Errno::NOSPC | Errno::DQUOT)) {
            return Self::Full(format!("the target's disk is full: {error}"));
        }
        Self::Failed(match error.kind() {
            // Two names that a filesystem takes for one end here too.
            io::ErrorKind::AlreadyExists => {
                "something else has come to be there, or the filesystem \
                takes its name for another one's"
                    .to_owned()
            }
            _ => format!("could not write it: {error}"),
        })
    }
}

/// Puts a whole content in its place.
pub fn whole(target: &Target, job: &Job, fetched: &Fetched) -> Ended {
    let check = Check::best(job.wanted.sha256, &fetched.object);
    let mut summing = check.begin();
    summing.update(&fetched.bytes);
    if !check.holds(summing, fetched.object.size) {
        return Ended::Unverified(unverified(check.by()));
    }
    let stamp = job.wanted.stamp.or(Stamp::of(&fetched.object));
    let placed = match job.wanted.kind {
        Kind::Link => target.link(&job.wanted.path, &fetched.bytes, &stamp, job.over),
        Kind::File | Kind::Folder => file(target, job, &stamp, &fetched.bytes),
    };
    match placed {
        Ok(()) => Ended::Restored {
            bytes: fetched.bytes.len() as u64,
            by: check.by(),
            has_time: stamp.mtime_ns.is_some(),
        },
        Err(error) => Ended::of_disk(&error),
    }
}

fn file(target: &Target, job: &Job, stamp: &Stamp, bytes: &[u8]) -> io::Result<()> {
    // What is certain already can be made with its mode, which saves setting it.
    let mode = Some(stamp.mode.map_or(0o666, |mode| mode & 0o777));
    let temporary = target.temporary(&job.wanted.path, mode)?;
    temporary.write_at(bytes, 0)?;
    target.stamp(temporary.file(), stamp, mode)?;
    temporary.place(&job.wanted.path, job.over)?;
    target.flush().wrote(bytes.len() as u64);
    target.flush().placed();
    Ok(())
}

/// Puts a file in its place whose content has been written and verified.
pub fn written(target: &Target, job: &Job, stamp: &Stamp, temporary: Temporary) -> io::Result<()> {
    target.stamp(temporary.file(), stamp, None)?;
    temporary.place(&job.wanted.path, job.over)
}

/// Says what is wrong with a content.
pub fn unverified(by: By) -> String {
    let what = match by {
        By::Sha256 => "its SHA-256 is not the one that it was stored with",
        By::Crc64 => "its checksum is not the one that the store made of it",
        By::Md5 => "its MD5 is not its ETag",
        By::Size => "its size is not the one that the store names",
    };
    format!("{what}; nothing was written")
}
