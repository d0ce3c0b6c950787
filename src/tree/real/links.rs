//! Symbolic links that are not just left out: followed inside the root, or recorded as small files.
//!
//! # Followed
//!
//! A link is what it leads to, under the link's name. `openat2` with `BENEATH` follows it, so that nothing outside the
//! root is ever reached, whatever others do to the tree meanwhile. Links that are dangling, lead out or lead in a circle
//! stay links, which a scan skips and counts. So does every link with an absolute target, also one that leads back into
//! the root: the kernel cannot follow it and promise to stay beneath. And so does a link to a folder that is met below
//! another link to a folder: a few dozen folders with two such links each would otherwise have more paths than there
//! are files in the world. Below a link nothing is armed, because a folder can be watched under one name only: a change
//! there is told under the folder's own name, and under the link's the rescan finds it.
//!
//! # Recorded
//!
//! A link `NAME` is a regular file `NAME.rclonelink` that holds the target's bytes, as `rclone --links` has it; its stat
//! is the link's but for kind and size. There is nothing under `NAME` then. A file that is called `NAME.rclonelink`
//! itself goes before, and the link stays a link.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{OFlags, readlinkat};
use rustix::io::Errno;

use crate::base::path::RelPath;
use crate::base::stat::{Kind, Stat};
use crate::tree::real::beneath::{NAME_ONLY, follow_quietly, gone, open_beneath, open_following};
use crate::tree::real::listing::stat_of_handle;
use crate::tree::{Found, OpenFile};

/// What rclone puts behind the name of a link.
const SUFFIX: &[u8] = b".rclonelink";

/// The longest name that a file of the disk can have, in bytes.
const NAME_MAX: usize = 255;

// -- followed --

/// Returns the stat of what `path` leads to inside the root, or of the link itself if it does not.
pub(in crate::tree::real) fn followed(root: BorrowedFd<'_>, path: &RelPath) -> io::Result<Stat> {
    let named = open_following(root, path, NAME_ONLY)
        .or_else(|_| open_beneath(root, path, NAME_ONLY))
        .map_err(gone)?;
    stat_of_handle(&named)
}

/// Puts what links lead to in their place. `is_direct` says that the folder itself was not reached through a link.
pub(in crate::tree::real) fn follow(
    root: BorrowedFd<'_>,
    folder: &RelPath,
    found: &mut [Found],
    is_direct: bool,
) {
    for link in found
        .iter_mut()
        .filter(|one| one.stat.kind == Kind::Symlink)
    {
        let target = followed(root, &folder.join(&link.name));
        if let Ok(stat) = target
            && (is_direct || stat.kind != Kind::Folder)
        {
            link.stat = stat;
        }
    }
}

/// Opens a folder, through a link only if need be; also returns whether there was none.
pub(in crate::tree::real) fn open_folder(
    root: BorrowedFd<'_>,
    folder: &RelPath,
    direct: Result<OwnedFd, Errno>,
    flags: OFlags,
) -> Result<(OwnedFd, bool), Errno> {
    match direct {
        Err(Errno::LOOP | Errno::NOTDIR) => Ok((follow_quietly(root, folder, flags)?, false)),
        direct => direct.map(|handle| (handle, true)),
    }
}

// -- recorded --

/// Returns the path under which a link at `path` is presented.
pub(in crate::tree::real) fn recorded_path(path: &RelPath) -> Option<RelPath> {
    let name = [path.name(), SUFFIX].concat();
    Some(path.parent()?.join(&name))
}

/// Returns the stat of what is presented at `path` where links are recorded.
pub(in crate::tree::real) fn recorded(root: BorrowedFd<'_>, path: &RelPath) -> io::Result<Stat> {
    let own = real(root, path);
    if let Ok(stat) = &own
        && stat.kind != Kind::Symlink
    {
        return own;
    }
    if let Some(link) = Recorded::open(root, path)? {
        return link.stat();
    }
    let stat = own?;
    // A link, which is to be found under its other name, unless that is taken.
    let other = recorded_path(path).map(|other| real(root, &other));
    match other {
        Some(Ok(other)) if other.kind != Kind::Symlink => Ok(stat),
        _ => Err(io::ErrorKind::NotFound.into()),
    }
}

/// Puts recorded links in the place of links, where no file of that name is.
pub(in crate::tree::real) fn record(folder: BorrowedFd<'_>, found: &mut Vec<Found>) {
    let names = found.iter().filter(|one| one.stat.kind != Kind::Symlink);
    let taken: BTreeSet<Box<[u8]>> = names
        .filter(|one| one.name.ends_with(SUFFIX))
        .map(|one| one.name.clone())
        .collect();
    found.retain_mut(|one| {
        if one.stat.kind != Kind::Symlink {
            return true;
        }
        let name: Box<[u8]> = [&one.name, SUFFIX].concat().into();
        if taken.contains(&name) {
            return true;
        }
        // Gone between its name and its target, or another thing by now: its event, or the next listing, tells.
        let Ok(target) = readlinkat(folder, &*one.name, Vec::new()) else {
            return false;
        };
        one.name = name;
        one.stat.kind = Kind::File;
        one.stat.size = target.as_bytes().len() as u64;
        true
    });
}

/// A link, open to be read as the file that records it.
pub(in crate::tree::real) struct Recorded {
    link: OwnedFd,
    target: Vec<u8>,
}

impl Recorded {
    /// Opens the link that `path` records; `None` if it records none, or is a file itself. `NotFound` for a name that no
    /// file can have, and no link either.
    pub fn open(root: BorrowedFd<'_>, path: &RelPath) -> io::Result<Option<Self>> {
        let name = path.name().strip_suffix(SUFFIX);
        let name = name.filter(|name| (1..=NAME_MAX).contains(&name.len()));
        let (Some(name), Some(folder)) = (name, path.parent()) else {
            return Self::none(path);
        };
        if real(root, path).is_ok_and(|stat| stat.kind != Kind::Symlink) {
            return Ok(None);
        }
        let link = match open_beneath(root, &folder.join(name), NAME_ONLY).map_err(gone) {
            Err(error) if is_gone(&error) => return Self::none(path),
            other => other?,
        };
        if stat_of_handle(&link)?.kind != Kind::Symlink {
            return Self::none(path);
        }
        let target = readlinkat(&link, c"", Vec::new())?.into_bytes();
        Ok(Some(Self { link, target }))
    }

    fn none(path: &RelPath) -> io::Result<Option<Self>> {
        if path.name().len() > NAME_MAX {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(None)
    }
}

impl OpenFile for Recorded {
    fn stat(&self) -> io::Result<Stat> {
        Ok(Stat {
            kind: Kind::File,
            size: self.target.len() as u64,
            ..stat_of_handle(self.link.as_fd())?
        })
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = self.target.get(offset..).unwrap_or(&[]);
        let len = rest.len().min(into.len());
        into[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }
}

/// Returns the stat of what the disk has at `path`; a name that no file can have is not there.
fn real(root: BorrowedFd<'_>, path: &RelPath) -> io::Result<Stat> {
    if path.name().len() > NAME_MAX {
        return Err(io::ErrorKind::NotFound.into());
    }
    let named = open_beneath(root, path, NAME_ONLY).map_err(gone)?;
    stat_of_handle(&named)
}

fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}
