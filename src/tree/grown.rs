//! A file that is written to without rest and only grows: its beginning is whole, though the file never is.
//!
//! Where no lease is to be had and no clone can be made, as many bytes as the file has are read at one try, and the same
//! ones at a later try. If they are the same, and the file has grown meanwhile, they are what the file was when its stat
//! was first taken: a log. They are kept under that stat, which the file no longer has, so that nobody takes it for level.
//!
//! Never taken for such a file: one that has kept its size (a writer that is at work in place may be met half way twice);
//! one that begins otherwise than before, which is not read again until it is another file or a shorter one; an empty one.
//!
//! Does not protect against: a writer that changes bytes and puts them back between the two readings.

use std::io;
use std::ops::RangeInclusive;

use crate::base::clock::Clock;
use crate::base::digest::Sha256;
use crate::base::path::RelPath;
use crate::base::stat::Stat;
use crate::tree::{OpenFile, ReadError, Tree};

/// What a file that never rests was when it was looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Beginning {
    /// Its stat before it was read; as many bytes as its size were read.
    pub stat: Stat,
    /// Wall clock when that was, nanoseconds since the epoch.
    pub read_at_ns: i64,
    /// Their name; `None`: the file was found to begin otherwise later, and is no log.
    pub sha256: Option<Sha256>,
}

/// The beginning of a file that may go on growing: open, to be read and then judged.
pub struct Grown {
    file: Box<dyn OpenFile>,
    /// The file's stat when it had only this.
    pub stat: Stat,
    /// Wall clock when that was, nanoseconds since the epoch.
    pub read_at_ns: i64,
    expected: Option<Sha256>,
}

impl Grown {
    /// Opens what a file had `before`, if that has a size among `sizes` and the file has grown; else what it has now.
    ///
    /// [`ReadError::Moving`]: there is no use in reading it now.
    pub fn open(
        tree: &dyn Tree,
        path: &RelPath,
        before: Option<Beginning>,
        sizes: &RangeInclusive<u64>,
        clock: Clock,
    ) -> Result<Self, ReadError> {
        let read_at_ns = clock.now().wall_ns;
        let file = tree.open(path)?;
        let stat = file.stat().map_err(ReadError::from_io)?;
        if !sizes.contains(&stat.size) {
            return Err(ReadError::Moving);
        }
        let before = before.filter(|before| {
            let was = &before.stat;
            (was.dev, was.ino) == (stat.dev, stat.ino)
                && was.size <= stat.size
                && sizes.contains(&was.size)
        });
        match before {
            None => Ok(Self {
                file,
                stat,
                read_at_ns,
                expected: None,
            }),
            Some(before) if before.sha256.is_some() && before.stat.size < stat.size => Ok(Self {
                file,
                stat: before.stat,
                read_at_ns: before.read_at_ns,
                expected: before.sha256,
            }),
            Some(_) => Err(ReadError::Moving),
        }
    }

    /// Returns `Ok` if what was read is what the file was; else what is to be remembered until the next try.
    pub fn judge(&self, sha256: Sha256) -> Result<(), ReadError> {
        if self.expected == Some(sha256) {
            return Ok(());
        }
        Err(ReadError::Restless(Box::new(Beginning {
            stat: self.stat,
            read_at_ns: self.read_at_ns,
            sha256: self.expected.is_none().then_some(sha256),
        })))
    }
}

impl OpenFile for Grown {
    /// Returns the stat that the file had when it had only this, unless it has become shorter.
    fn stat(&self) -> io::Result<Stat> {
        let now = self.file.stat()?;
        Ok(if now.size < self.stat.size {
            now
        } else {
            self.stat
        })
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let left = self.stat.size.saturating_sub(offset);
        let len = usize::try_from(left).map_or(into.len(), |left| left.min(into.len()));
        self.file.read_at(offset, &mut into[..len])
    }
}
