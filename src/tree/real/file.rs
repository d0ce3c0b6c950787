//! A regular file of the real tree, open: everything known of it comes from the handle.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::base::stat::Stat;
use crate::tree::real::lease::{self, Counters};
use crate::tree::real::listing::stat_of_handle;
use crate::tree::{Lease, OpenFile};

/// A regular file, open for reading only.
pub(in crate::tree::real) struct RealFile {
    pub(in crate::tree::real) file: File,
    pub(in crate::tree::real) counters: Arc<Counters>,
}

impl OpenFile for RealFile {
    fn stat(&self) -> io::Result<Stat> {
        stat_of_handle(&self.file)
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        read_at(&self.file, offset, into)
    }

    fn lease(&self) -> Lease<'_> {
        lease::take(&self.file, &self.counters)
    }
}

/// Reads at `offset` until `into` is full or the file ends; returns how many bytes were read.
pub(in crate::tree::real) fn read_at(
    file: &File,
    offset: u64,
    into: &mut [u8],
) -> io::Result<usize> {
    let mut done = 0;
    while done < into.len() {
        match file.read_at(&mut into[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}
