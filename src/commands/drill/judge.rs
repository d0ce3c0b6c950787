//! What came back, or did not, beside what is on the disk. Everything here blocks, and only reads.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use tokio_util::sync::CancellationToken;

use crate::base::digest::{Hasher, Sha256};
use crate::base::path::RelPath;
use crate::restore::wanted::{Kind, Wanted};

/// What a file that came back is beside the one on the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compared {
    /// The same.
    Same,
    /// The one on the disk has changed since, or is gone.
    Changed,
    /// Another one, though nothing says that either has changed.
    Different,
    /// It did not come back, and has been told of.
    Missing,
}

/// Returns true if the disk no longer has what is wanted, so that the bucket need not have it either. A disk that is not
/// there says nothing.
pub fn has_changed(root: &Path, wanted: &Wanted) -> bool {
    if !root.is_dir() {
        return false;
    }
    let path = root.join(wanted.path.as_os_str());
    let stat = match fs::symlink_metadata(&path) {
        Ok(stat) => stat,
        Err(error) => {
            return is_none(&error);
        }
    };
    let mtime_ns = || {
        stat.mtime()
            .checked_mul(1_000_000_000)?
            .checked_add(stat.mtime_nsec())
    };
    match wanted.kind {
        Kind::File => {
            let stamp = wanted.stamp.mtime_ns;
            let is_later = stamp.is_some() && stamp != mtime_ns();
            !stat.is_file() || stat.size() != wanted.size || is_later
        }
        Kind::Link => fs::read_link(&path).map_or(true, |to| {
            let to = Sha256::of(to.as_os_str().as_bytes());
            wanted.sha256.is_some_and(|sha256| sha256 != to)
        }),
        Kind::Folder => !stat.is_dir(),
    }
}

/// Compares a file that came back with the one on the disk.
pub fn compare(
    root: &Path,
    scratch: &Path,
    path: &RelPath,
    stop: &CancellationToken,
) -> io::Result<Compared> {
    let (ours, back) = (root.join(path.as_os_str()), scratch.join(path.as_os_str()));
    let Ok(returned) = fs::symlink_metadata(&back) else {
        return Ok(Compared::Missing);
    };
    let stamp = |stat: &fs::Metadata| (stat.size(), stat.mtime(), stat.mtime_nsec());
    let is_as_synced = |stat: &fs::Metadata| stat.is_file() && stamp(stat) == stamp(&returned);
    let before = match fs::symlink_metadata(&ours) {
        Ok(stat) if is_as_synced(&stat) => stat,
        Ok(_) => return Ok(Compared::Changed),
        Err(error) if is_none(&error) => return Ok(Compared::Changed),
        Err(error) => return Err(error),
    };
    let (on_disk, in_bucket) = (hash(&ours, stop), hash(&back, stop)?);
    if on_disk.as_ref().is_ok_and(|sha256| *sha256 == in_bucket) {
        return Ok(Compared::Same);
    }
    // It may have been written to, or taken away, while it was read.
    let is_still = fs::symlink_metadata(&ours).is_ok_and(|after| {
        let changed = |stat: &fs::Metadata| (stat.ino(), stat.ctime(), stat.ctime_nsec());
        is_as_synced(&after) && changed(&after) == changed(&before)
    });
    if !is_still {
        return Ok(Compared::Changed);
    }
    on_disk.map(|_| Compared::Different)
}

fn hash(path: &Path, stop: &CancellationToken) -> io::Result<Sha256> {
    let mut file = File::options()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)?;
    let (mut hasher, mut piece) = (Hasher::default(), vec![0; 1 << 16]);
    loop {
        if stop.is_cancelled() {
            return Err(io::Error::other("stopped"));
        }
        match file.read(&mut piece)? {
            0 => return Ok(hasher.finish()),
            len => hasher.update(&piece[..len]),
        }
    }
}

fn is_none(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}
