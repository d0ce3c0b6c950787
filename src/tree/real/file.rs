//! A regular file of the real tree, open: everything known of it comes from the handle.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::base::stat::Stat;
use crate::tree::OpenFile;
use crate::tree::real::listing::stat_of_handle;

/// A regular file, open.
pub(in crate::tree::real) struct RealFile(pub(in crate::tree::real) File);

impl OpenFile for RealFile {
    fn stat(&self) -> io::Result<Stat> {
        stat_of_handle(&self.0)
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < into.len() {
            match self.0.read_at(&mut into[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }
}
