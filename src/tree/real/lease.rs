//! Read leases: the kernel's word that nobody has a file open for writing.
//!
//! Refused while anybody has the inode open or mapped for writing, under whatever name; broken when somebody begins to
//! open it so, or to cut it off, who then waits until we let go (45 s at most, `/proc/sys/fs/lease-break-time`; one that
//! opens without blocking is refused meanwhile). Only the owner of a file and who has `CAP_LEASE` gets one.
//!
//! The kernel tells of a break by SIGIO, whose default ends the process: it is ignored, for the whole process and for
//! good, before the first lease is taken (children inherit that). We look instead of being told.
//!
//! Believed only where they were seen to be right in every case (`take` names them): an overlay does not see a mapping whose
//! descriptor is closed, FUSE does not see another name of the same file.
#![expect(
    unsafe_code,
    reason = "neither rustix nor nix wraps leases, nor lets a signal be ignored without unsafe code"
)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::fstatfs;

use crate::tree::{Hold, Lease, ReadCounts};

/// Numbers of filesystems, as statfs gives them (linux/magic.h).
const BTRFS: u64 = 0x9123_683e;
const EXT: u64 = 0xef53;
const TMPFS: u64 = 0x0102_1994;
const XFS: u64 = 0x5846_5342;

/// Counts of what became of leases; shared by a tree and its open files.
#[derive(Default)]
pub(in crate::tree::real) struct Counters {
    refused: AtomicU64,
    broken: AtomicU64,
    unavailable: AtomicU64,
    captured: AtomicU64,
}

impl Counters {
    pub(in crate::tree::real) fn captured(&self) {
        self.captured.fetch_add(1, Ordering::Relaxed);
    }

    pub(in crate::tree::real) fn read(&self) -> ReadCounts {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ReadCounts {
            refused: of(&self.refused),
            broken: of(&self.broken),
            unavailable: of(&self.unavailable),
            captured: of(&self.captured),
        }
    }
}

/// Returns the number of the filesystem that an open file is on; 0 if it does not say.
fn filesystem(file: impl AsFd) -> u64 {
    // Signed or not, 32 bits or 64, by platform; the numbers themselves have 32.
    fstatfs(file).map_or(0, |statfs| u64::from(statfs.f_type as u32))
}

/// Returns true where a clone is the file at one instant, whoever writes: both take the locks of writes and of faults.
pub(in crate::tree::real) fn clones_at_an_instant(file: impl AsFd) -> bool {
    matches!(filesystem(file), BTRFS | XFS)
}

/// Ignores SIGIO, once for the process; returns false if the kernel would not have it.
pub(in crate::tree::real) fn ignore_sigio() -> bool {
    static IGNORED: OnceLock<bool> = OnceLock::new();
    *IGNORED.get_or_init(|| {
        // SAFETY: the signal's number is valid, and SIG_IGN installs no code of ours that could run at a bad time.
        let before = unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
        before != libc::SIG_ERR
    })
}

/// Asks for a read lease on a file that was opened for reading only.
pub(in crate::tree::real) fn take<'a>(file: &'a File, counters: &'a Counters) -> Lease<'a> {
    let filesystem = filesystem(file);
    let unavailable = || {
        counters.unavailable.fetch_add(1, Ordering::Relaxed);
        Lease::Unavailable
    };
    if !matches!(filesystem, BTRFS | EXT | TMPFS | XFS) || !ignore_sigio() {
        return unavailable();
    }
    match set(file.as_fd(), libc::F_RDLCK) {
        Ok(()) => Lease::Held(Box::new(ReadLease {
            file: file.as_fd(),
            counters,
            is_broken: AtomicBool::new(false),
        })),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            counters.refused.fetch_add(1, Ordering::Relaxed);
            Lease::Busy {
                // Pages of tmpfs are never written back, so a mapping stamps the file once and then never again.
                is_stamped: filesystem != TMPFS,
            }
        }
        Err(_) => unavailable(),
    }
}

/// A read lease on an open file; given back when it is dropped.
struct ReadLease<'a> {
    file: BorrowedFd<'a>,
    counters: &'a Counters,
    is_broken: AtomicBool,
}

impl Hold for ReadLease<'_> {
    fn is_held(&self) -> bool {
        // SAFETY: F_GETLEASE takes no argument and touches no memory of ours; the borrow keeps the descriptor open.
        let kind = unsafe { libc::fcntl(self.file.as_raw_fd(), libc::F_GETLEASE) };
        // While it is being broken the kernel already names what it is to become.
        let is_held = kind == libc::F_RDLCK;
        if !is_held && !self.is_broken.swap(true, Ordering::Relaxed) {
            self.counters.broken.fetch_add(1, Ordering::Relaxed);
        }
        is_held
    }
}

impl Drop for ReadLease<'_> {
    fn drop(&mut self) {
        // By hand, not by closing: a child that is being started may still have a copy of the descriptor for a moment.
        // Refused only if the kernel has taken the lease away already.
        let _ = set(self.file, libc::F_UNLCK);
    }
}

fn set(file: BorrowedFd<'_>, kind: libc::c_int) -> io::Result<()> {
    // SAFETY: F_SETLEASE takes a number and touches no memory of ours; the borrow keeps the descriptor open.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
