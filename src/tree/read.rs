//! The one consistent read: under a lease where there is one, between two equal stats everywhere.
//!
//! Stat, read, stat is not enough by itself: `write()` stamps the file before it copies the bytes, and a mapping stamps
//! it once for many stores, so that both stats can lie between the stamp and the last byte. A read lease answers what
//! stat cannot: it is refused while anybody has the file open or mapped for writing, and broken before anybody gets to.
//!
//! - Under a lease that was held from before the first stat until after the second, a read is whole.
//! - Without one it is whole as far as anybody can tell if the file's newest stamp is older than [`RESTED_NS`]: no write
//!   takes that long to copy, and the kernel writes a mapping's pages back within half a minute, after which the next
//!   store stamps the file anew. Else it is *doubtful*, and is read once more later. What remains is a mapping whose
//!   pages never get clean (tmpfs): only the close of the writer, which is an event, or a rescan finds what it changed.
//! - A lease that is refused means that a writer is there, and the read does not begin; unless the file has rested that
//!   long on a filesystem that stamps every change: many programs keep files open for writing for days.
//! - Of a file that has been waited for long enough a clone is read, where one can be made; else its beginning, if it is a
//!   file that only grows ([`Grown`] tells). Both are doubtful.
//!
//! A lease is held while bytes are read, and never while anything else is waited for. A writer waits until we have let
//! go, which is one piece at the most.

use bytes::Bytes;

use crate::base::buffers::{Buffer, Pool};
use crate::base::clock::Clock;
use crate::base::digest::{Crc64, Sha256};
use crate::base::path::RelPath;
use crate::base::stat::Stat;
use crate::tree::{Beginning, Grown, OpenFile, ReadError, Tree};

/// How much is read between two looks at the file, in bytes: the longest that a writer waits for us.
const PIECE: usize = 1 << 20;

/// How old the newest stamp of a file has to be for a read without a lease to be believed, nanoseconds: twice the half
/// minute after which the kernel writes dirty pages back.
const RESTED_NS: i64 = 60_000_000_000;

/// What the kernel says to a read lease.
pub enum Lease<'a> {
    /// Nobody has the file open for writing, and who wants to waits for us; given back when it is dropped.
    Held(Box<dyn Hold + 'a>),
    /// Somebody has the file open, or mapped, for writing.
    Busy {
        /// Whether every change gets a stamp of its own within half a minute, also one through a mapping.
        is_stamped: bool,
    },
    /// There is none: it is not our file, or the filesystem has none, or has some that cannot be believed.
    Unavailable,
}

/// A read lease.
pub trait Hold {
    /// Returns false once somebody has begun to open the file for writing. It waits until the lease is dropped.
    fn is_held(&self) -> bool;
}

/// How reads went since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ReadCounts {
    /// Leases that were refused because somebody had the file open for writing.
    pub refused: u64,
    /// Leases that were broken while the file was read.
    pub broken: u64,
    /// Reads for which there was no lease.
    pub unavailable: u64,
    /// Files that were read from a clone, because they never rest.
    pub captured: u64,
}

/// A file that was read as a whole.
#[derive(Clone, Debug)]
pub struct Whole {
    /// The stat before and after.
    pub stat: Stat,
    /// The content.
    pub bytes: Bytes,
    /// Its name.
    pub sha256: Sha256,
    /// Its request checksum.
    pub crc64: Crc64,
    /// Wall clock when reading began, nanoseconds since the epoch: what [`Stat::is_racy`] is judged by.
    pub read_at_ns: i64,
    /// Whether nobody can promise that no writer was at work meanwhile: it has to be read once more.
    pub doubtful: bool,
    /// Whether it is only what a file began with that is written to without rest; always doubtful then.
    pub is_beginning: bool,
}

/// Reads a file of at most `limit` bytes into one buffer: bytes and hash in one call.
///
/// A file that is longer than `limit` when it is opened counts as [`ReadError::Moving`]: it has grown since it was listed.
pub fn read_whole(
    tree: &dyn Tree,
    path: &RelPath,
    limit: u64,
    buffers: &Pool,
    clock: Clock,
) -> Result<Whole, ReadError> {
    let read_at_ns = clock.now().wall_ns;
    let file = tree.open(path)?;
    whole(&*file, limit, buffers, read_at_ns)
}

/// Reads a file that never rests, of at most `limit` bytes, from a clone of it; `None` if none can be made.
///
/// The content is the file's at one instant, but the next one was being written: it is doubtful.
pub fn read_captured(
    tree: &dyn Tree,
    path: &RelPath,
    limit: u64,
    buffers: &Pool,
    clock: Clock,
) -> Result<Option<Whole>, ReadError> {
    let read_at_ns = clock.now().wall_ns;
    let Some(file) = tree.capture(path)? else {
        return Ok(None);
    };
    let mut whole = whole(&*file, limit, buffers, read_at_ns)?;
    whole.doubtful = true;
    Ok(Some(whole))
}

/// Reads what a file that never rests began with, of at most `limit` bytes. `before`: what it was at an earlier try.
///
/// [`ReadError::Restless`]: what to remember until the next one.
pub fn read_beginning(
    tree: &dyn Tree,
    path: &RelPath,
    limit: u64,
    before: Option<Beginning>,
    buffers: &Pool,
    clock: Clock,
) -> Result<Whole, ReadError> {
    // An empty beginning says nothing of a file.
    let grown = Grown::open(tree, path, before, &(1..=limit), clock)?;
    let whole = whole(&grown, limit, buffers, grown.read_at_ns)?;
    if !whole.stat.same_content_as(&grown.stat) {
        // It became shorter just now.
        return Err(ReadError::Moving);
    }
    grown.judge(whole.sha256)?;
    Ok(Whole {
        doubtful: true,
        is_beginning: true,
        ..whole
    })
}

fn whole(
    file: &dyn OpenFile,
    limit: u64,
    buffers: &Pool,
    read_at_ns: i64,
) -> Result<Whole, ReadError> {
    let reading = Reading::begin(file, read_at_ns)?;
    let stat = reading.stat;
    if stat.size > limit {
        return Err(ReadError::Moving);
    }
    let mut buffer = buffers.take(stat.size as usize);
    reading.fill(0, &mut buffer)?;
    let doubtful = reading.end()?;
    // Hashed when the lease has been given back: nobody waits for that.
    let bytes = buffer.freeze();
    Ok(Whole {
        stat,
        sha256: Sha256::of(&bytes),
        crc64: Crc64::of(&bytes),
        bytes,
        read_at_ns,
        doubtful,
        is_beginning: false,
    })
}

/// One read of an open file, or of a part of it, from its first stat to its last. Dropped, it gives its lease back.
pub struct Reading<'a> {
    /// The stat when it began.
    pub stat: Stat,
    file: &'a dyn OpenFile,
    hold: Option<Box<dyn Hold + 'a>>,
    doubtful: bool,
}

impl<'a> Reading<'a> {
    /// Begins to read at `read_at_ns`, wall clock. [`ReadError::Moving`]: somebody else is writing.
    pub fn begin(file: &'a dyn OpenFile, read_at_ns: i64) -> Result<Self, ReadError> {
        // The lease first: a stat that is taken under it is one that no writer is about to make old.
        let lease = file.lease();
        let stat = file.stat().map_err(ReadError::from_io)?;
        let newest_ns = stat.mtime_ns.max(stat.ctime_ns);
        // A stamp in the future counts as now's.
        let has_rested = read_at_ns.saturating_sub(newest_ns) >= RESTED_NS;
        let (hold, doubtful) = match lease {
            Lease::Held(hold) => (Some(hold), false),
            Lease::Unavailable => (None, !has_rested),
            Lease::Busy { is_stamped: true } if has_rested => (None, true),
            Lease::Busy { .. } => return Err(ReadError::Moving),
        };
        Ok(Self {
            stat,
            file,
            hold,
            doubtful,
        })
    }

    /// Fills `buffer` from `offset` on; a file that ends before is [`ReadError::Moving`], never padding.
    pub fn fill(&self, offset: u64, buffer: &mut Buffer) -> Result<(), ReadError> {
        let mut at = offset;
        for piece in buffer.bytes_mut().chunks_mut(PIECE) {
            if self.file.read_at(at, piece).map_err(ReadError::from_io)? != piece.len() {
                return Err(ReadError::Moving);
            }
            self.look()?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    /// Ends the read: same stat, and the lease still held. Returns whether what was read is doubtful.
    pub fn end(self) -> Result<bool, ReadError> {
        let after = self.file.stat().map_err(ReadError::from_io)?;
        self.look()?;
        if after.same_content_as(&self.stat) {
            Ok(self.doubtful)
        } else {
            Err(ReadError::Moving)
        }
    }

    fn look(&self) -> Result<(), ReadError> {
        match &self.hold {
            Some(hold) if !hold.is_held() => Err(ReadError::Moving),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::stat::Kind;
    use std::io;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// When reads begin here, wall clock, nanoseconds.
    const NOW_NS: i64 = 1_000 * RESTED_NS;

    /// What a fake file answers.
    #[derive(Clone, Copy)]
    enum Says {
        /// Held for so many looks.
        Held(u32),
        Busy,
        BusyUnstamped,
        Unavailable,
    }

    struct Fake {
        says: Says,
        newest_ns: i64,
        looks: AtomicU32,
    }

    struct FakeHold<'a>(&'a Fake, u32);

    impl Hold for FakeHold<'_> {
        fn is_held(&self) -> bool {
            self.0.looks.fetch_add(1, Ordering::Relaxed) < self.1
        }
    }

    impl OpenFile for Fake {
        fn stat(&self) -> io::Result<Stat> {
            Ok(Stat {
                kind: Kind::File,
                size: 2 * PIECE as u64 + 1,
                mtime_ns: 1,
                ctime_ns: self.newest_ns,
                dev: 1,
                ino: 1,
                mode: 0o644,
                uid: 0,
                gid: 0,
                nlink: 1,
            })
        }

        fn read_at(&self, _offset: u64, into: &mut [u8]) -> io::Result<usize> {
            Ok(into.len())
        }

        fn lease(&self) -> Lease<'_> {
            match self.says {
                Says::Held(looks) => Lease::Held(Box::new(FakeHold(self, looks))),
                Says::Busy => Lease::Busy { is_stamped: true },
                Says::BusyUnstamped => Lease::Busy { is_stamped: false },
                Says::Unavailable => Lease::Unavailable,
            }
        }
    }

    #[test]
    fn a_read_is_certain_under_a_lease_and_else_only_of_what_has_rested() {
        let (young, rested) = (NOW_NS - 1_000_000_000, NOW_NS - RESTED_NS);
        let table = [
            (Says::Held(u32::MAX), young, Some(false)),
            (Says::Held(u32::MAX), rested, Some(false)),
            // A look after each of three pieces, and one at the end.
            (Says::Held(4), young, Some(false)),
            (Says::Held(3), young, None),
            (Says::Held(0), rested, None),
            (Says::Unavailable, young, Some(true)),
            (Says::Unavailable, rested, Some(false)),
            (Says::Unavailable, rested + 1, Some(true)),
            // A stamp in the future is now's.
            (Says::Unavailable, i64::MAX, Some(true)),
            (Says::Busy, young, None),
            (Says::Busy, rested, Some(true)),
            (Says::BusyUnstamped, rested, None),
        ];
        for (at, (says, newest_ns, expected)) in table.into_iter().enumerate() {
            let file = Fake {
                says,
                newest_ns,
                looks: AtomicU32::new(0),
            };
            let read = whole(&file, 1 << 30, &Pool::new(0), NOW_NS);
            let doubtful = match read {
                Ok(whole) => Some(whole.doubtful),
                Err(ReadError::Moving) => None,
                Err(error) => panic!("row {at}: {error}"),
            };
            assert_eq!(doubtful, expected, "row {at}");
        }
    }
}
