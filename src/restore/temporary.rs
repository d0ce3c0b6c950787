//! Files on their way, and the names that they have until they are whole.
//!
//! A name is `.tidewatch-restore-` and hexadecimal digits. 16 of them: the run's number and the file's, of a file that goes
//! if its run does not finish it. 32 of them: the beginning of a large file, which stays when a run is stopped or killed,
//! so that the next one goes on behind it. The digits say of what it is the beginning: path, key, ETag or version, and
//! size; another content has another name, and never goes on with it.
//!
//! Invariant: a beginning is written in order, so that its length is how far it has come. After a power cut that need not
//! be so; its bytes are only taken for good when the whole has been held against its checksum.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::AtFlags;
use rustix::io::Errno;

use crate::base::digest::Hasher;
use crate::base::failpoint;
use crate::base::path::RelPath;
use crate::restore::target::{Over, rename};

/// What every temporary name begins with.
const TEMPORARY: &[u8] = b".tidewatch-restore-";

/// Digits of the name of a file that goes with its run.
const OF_A_RUN: usize = 16;

/// Digits of the name of a beginning.
const OF_A_BEGINNING: usize = 32;

/// Pieces that one call writes, at most (the kernel's `UIO_MAXIOV`).
const PIECES: usize = 1024;

/// Bytes that one call writes, at most. A filesystem takes pages as large as the call, and on a virtual machine large ones
/// are those that the host has taken back: 1 GiB in calls of 8 MiB took 5 s there, in calls of 256 KiB less than one.
const WRITE: usize = 256 << 10;

/// A file on its way, under its temporary name.
#[derive(Debug)]
pub struct Temporary {
    folder: Arc<OwnedFd>,
    name: Vec<u8>,
    file: OwnedFd,
    unplaced: Unplaced,
    is_placed: bool,
}

/// What becomes of a file that is dropped before it has been put in its place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unplaced {
    /// It is removed.
    Goes,
    /// It stays for the next run, unless it is empty.
    Stays,
}

/// Who has left a temporary name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Left {
    /// The run of this number.
    Run(u32),
    /// Any run, for another one to go on with.
    Beginning,
}

impl Temporary {
    /// Takes a file that was made or opened under this name of `folder`.
    pub fn new(folder: Arc<OwnedFd>, name: Vec<u8>, file: OwnedFd, unplaced: Unplaced) -> Self {
        Self {
            folder,
            name,
            file,
            unplaced,
            is_placed: false,
        }
    }

    /// Returns the file.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Writes at an offset.
    pub fn write_at(&self, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            match rustix::io::pwrite(&self.file, bytes, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    bytes = &bytes[written..];
                    offset += written as u64;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Writes pieces one behind the other from an offset on.
    pub fn write_all_at(&self, pieces: &[Bytes], mut offset: u64) -> io::Result<()> {
        let mut slices: Vec<IoSlice<'_>> = Vec::new();
        let mut len = 0;
        for part in pieces.iter().flat_map(|piece| piece.chunks(WRITE)) {
            if len + part.len() > WRITE || slices.len() == PIECES {
                self.write_slices(&slices, offset)?;
                offset += len as u64;
                len = 0;
                slices.clear();
            }
            len += part.len();
            slices.push(IoSlice::new(part));
        }
        self.write_slices(&slices, offset)
    }

    fn write_slices(&self, slices: &[IoSlice<'_>], mut offset: u64) -> io::Result<()> {
        if slices.is_empty() {
            return Ok(());
        }
        let mut written = match rustix::io::pwritev(&self.file, slices, offset) {
            Ok(written) => written,
            Err(Errno::INTR) => 0,
            Err(error) => return Err(error.into()),
        };
        for slice in slices {
            let done = written.min(slice.len());
            written -= done;
            self.write_at(&slice[done..], offset + done as u64)?;
            offset += slice.len() as u64;
        }
        Ok(())
    }

    /// Reads up to a whole buffer from an offset on; returns how much.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        loop {
            match rustix::io::pread(&self.file, &mut *buffer, offset) {
                Ok(read) => return Ok(read),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Gives it its name. What it takes the place of must not be lost to a power cut, so its own bytes go to the disk
    /// before that.
    pub fn place(mut self, path: &RelPath, over: Over) -> io::Result<()> {
        if over == Over::Whatever {
            rustix::fs::fsync(&self.file)?;
        }
        failpoint::hit("restore-written");
        rename(self.folder.as_fd(), &self.name, path.name(), over)?;
        self.is_placed = true;
        failpoint::hit("restore-named");
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let stays = || match self.unplaced {
            Unplaced::Goes => false,
            Unplaced::Stays => rustix::fs::fstat(&self.file).is_ok_and(|stat| stat.st_size > 0),
        };
        if !self.is_placed && !stays() {
            // What cannot be removed now, the next run removes.
            let _ = rustix::fs::unlinkat(&self.folder, &*self.name, AtFlags::empty());
        }
    }
}

/// Returns the name of a run's file.
pub fn name(run: u32, number: u32) -> Vec<u8> {
    let digits = format!("{run:08x}{number:08x}");
    [TEMPORARY, digits.as_bytes()].concat()
}

/// Returns the name of the beginning of a file: of this path, of the object of this key that has this ETag, of this version
/// where it has one, and of this size.
pub fn beginning(path: &RelPath, key: &str, etag: &str, version: &str, size: u64) -> Vec<u8> {
    let mut hasher = Hasher::default();
    let size = size.to_string();
    for part in [
        path.as_bytes(),
        key.as_bytes(),
        etag.as_bytes(),
        version.as_bytes(),
        size.as_bytes(),
    ] {
        // None of them can be taken for a part of the next one.
        hasher.update(&(part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    let digits = hasher.finish().to_hex();
    [TEMPORARY, &digits.as_bytes()[..OF_A_BEGINNING]].concat()
}

/// Returns true for the names that files have while they are being restored.
pub fn is_temporary(name: &[u8]) -> bool {
    left_by(name).is_some()
}

/// Returns who gave a temporary name; `None` for every other name.
pub fn left_by(name: &[u8]) -> Option<Left> {
    let digits = name.strip_prefix(TEMPORARY)?;
    let is_hex = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
    if !digits.iter().all(is_hex) {
        return None;
    }
    match digits.len() {
        OF_A_RUN => {
            let run = std::str::from_utf8(&digits[..8]).ok()?;
            u32::from_str_radix(run, 16).ok().map(Left::Run)
        }
        OF_A_BEGINNING => Some(Left::Beginning),
        _ => None,
    }
}
