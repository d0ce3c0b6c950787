//! Opening beneath a root by handle, whatever others do to the tree meanwhile: no link, no `..`, no way out.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use crate::base::path::RelPath;

/// The kernel's `PATH_MAX`, in bytes, its final NUL included: the longest path that one call takes.
const PATH_MAX: usize = 4096;

/// How often `openat2` is asked again when it says that the tree changed under it.
const RACES: u32 = 64;

/// Names a thing without opening it: no permission to read is needed, nothing blocks, a link is itself.
pub(in crate::tree::real) const NAME_ONLY: OFlags =
    OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens without leaving a mark on the file's time of last access, where we may (its owner, or privileged).
pub(in crate::tree::real) fn open_quietly(
    root: BorrowedFd<'_>,
    path: &RelPath,
    flags: OFlags,
) -> rustix::io::Result<OwnedFd> {
    match open_beneath(root, path, flags | OFlags::NOATIME) {
        Err(Errno::PERM) => open_beneath(root, path, flags),
        other => other,
    }
}

/// As [`open_quietly`], for what `path` leads to.
pub(in crate::tree::real) fn follow_quietly(
    root: BorrowedFd<'_>,
    path: &RelPath,
    flags: OFlags,
) -> rustix::io::Result<OwnedFd> {
    match open_following(root, path, flags | OFlags::NOATIME) {
        Err(Errno::PERM) => open_following(root, path, flags),
        other => other,
    }
}

/// Opens what `path` leads to, following links as long as they stay beneath `root`; one that is absolute does not.
///
/// A path that is longer than the kernel takes at once is refused: taken in pieces, a link could not lead above its own.
pub(in crate::tree::real) fn open_following(
    root: BorrowedFd<'_>,
    path: &RelPath,
    flags: OFlags,
) -> rustix::io::Result<OwnedFd> {
    let path = match path.as_bytes() {
        b"" => b".",
        path => path,
    };
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    asked_again(|| openat2(root, path, flags - OFlags::NOFOLLOW, Mode::empty(), beneath))
}

/// Opens `path` beneath `root`, in pieces if it is longer than the kernel takes at once.
pub(in crate::tree::real) fn open_beneath(
    root: BorrowedFd<'_>,
    path: &RelPath,
    flags: OFlags,
) -> rustix::io::Result<OwnedFd> {
    let mut rest = path.as_bytes();
    if rest.is_empty() {
        return open_piece(root, b".", flags);
    }
    let mut reached: Option<OwnedFd> = None;
    loop {
        let from = reached.as_ref().map_or(root, AsFd::as_fd);
        if rest.len() < PATH_MAX {
            return open_piece(from, rest, flags);
        }
        let slash = rest[..PATH_MAX - 1].iter().rposition(|b| *b == b'/');
        let slash = slash.ok_or(Errno::NAMETOOLONG)?;
        let next = open_piece(from, &rest[..slash], NAME_ONLY | OFlags::DIRECTORY)?;
        rest = &rest[slash + 1..];
        reached = Some(next);
    }
}

fn open_piece(from: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    asked_again(|| openat2(from, path, flags, Mode::empty(), beneath))
}

/// Asks until the answer is one.
fn asked_again(
    mut ask: impl FnMut() -> rustix::io::Result<OwnedFd>,
) -> rustix::io::Result<OwnedFd> {
    let mut races = 0;
    loop {
        match ask() {
            Err(Errno::INTR) => {}
            // Something was renamed while the kernel walked, so it could not be sure to have stayed beneath.
            Err(Errno::AGAIN) if races < RACES => races += 1,
            other => return other,
        }
    }
}

/// Turns "not there as it was" (a link on the way, or a way out) into "not there".
pub(in crate::tree::real) fn gone(error: Errno) -> io::Error {
    match error {
        Errno::LOOP | Errno::XDEV => io::ErrorKind::NotFound.into(),
        error => error.into(),
    }
}
