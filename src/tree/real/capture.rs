//! A file that never rests, captured: a clone that shares its blocks, made by the kernel between two writes.
//!
//! The clone has no name, lives in a folder of ours on the same filesystem (never in the watched tree), and is gone when
//! it is closed, also after a crash. It is the file's content at one instant; whether its writer had just finished a
//! thought then, nobody can say.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ioctl_ficlone, openat};

use crate::base::stat::Stat;
use crate::tree::OpenFile;
use crate::tree::real::file::read_at;
use crate::tree::real::lease::clones_at_an_instant;
use crate::tree::real::listing::stat_of_handle;

/// A clone, and what its original's stat was.
pub(in crate::tree::real) struct Captured {
    clone: File,
    stat: Stat,
}

/// Clones an open file into `dir`; `None` where that cannot be done.
pub(in crate::tree::real) fn capture(
    original: impl AsFd,
    dir: &Path,
) -> io::Result<Option<Captured>> {
    if !clones_at_an_instant(&original) {
        return Ok(None);
    }
    // Before the clone: a write that comes in between makes this stat old, and the file is read again for it.
    let before = stat_of_handle(&original)?;
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let cloned = openat(CWD, dir, flags, Mode::RUSR | Mode::WUSR)
        .and_then(|clone| ioctl_ficlone(&clone, &original).map(|()| clone));
    match cloned {
        Ok(clone) => {
            let size = stat_of_handle(&clone)?.size;
            Ok(Some(Captured {
                clone: clone.into(),
                stat: Stat { size, ..before },
            }))
        }
        // Another filesystem, one without clones, or no room: it is as if there were none.
        Err(error) => {
            tracing::debug!(%error, "could not clone a file that never rests");
            Ok(None)
        }
    }
}

impl OpenFile for Captured {
    /// Returns the original's stat from before the clone, with the clone's length.
    fn stat(&self) -> io::Result<Stat> {
        Ok(self.stat)
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        read_at(&self.clone, offset, into)
    }
}
