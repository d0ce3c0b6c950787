//! Names and stats of an open folder.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, RawDir, Statx, StatxFlags, fstatvfs, makedev, statx};
use rustix::io::Errno;

use crate::base::stat::{Kind, Stat};
use crate::tree::{Found, Identity};

/// What a listing reads into at once, in bytes: some thousand names.
const NAMES: usize = 64 << 10;

/// Lists an open folder, unsorted, everything taken for armed.
pub(in crate::tree::real) fn names(folder: &OwnedFd) -> io::Result<Vec<Found>> {
    let mut buffer = Vec::<u8>::with_capacity(NAMES);
    let mut entries = RawDir::new(folder, buffer.spare_capacity_mut());
    let mut found = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        let stat = match statx(folder, name, flags, StatxFlags::BASIC_STATS) {
            Ok(stat) => stat_of(&stat),
            // Gone between its name and its stat.
            Err(Errno::NOENT) => continue,
            // A mount whose server has died, or that is closed even to us, must not hide its neighbours. It is there, and
            // that is all we know: who opens it learns why.
            Err(error) => match kind_of(entry.file_type()) {
                Some(kind) => unknown(kind),
                None => return Err(error.into()),
            },
        };
        found.push(Found {
            name: name.to_bytes().into(),
            stat,
            armed: true,
        });
    }
    Ok(found)
}

pub(in crate::tree::real) fn identity_of(handle: &OwnedFd) -> io::Result<Identity> {
    let stat = stat_of_handle(handle)?;
    Ok(Identity {
        dev: stat.dev,
        ino: stat.ino,
        fsid: fstatvfs(handle)?.f_fsid,
    })
}

pub(in crate::tree::real) fn stat_of_handle(handle: impl AsFd) -> io::Result<Stat> {
    let stat = statx(handle, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
    Ok(stat_of(&stat))
}

pub(in crate::tree::real) fn stat_of(raw: &Statx) -> Stat {
    let mode = u32::from(raw.stx_mode);
    let ns = |seconds: i64, ns: u32| {
        seconds
            .saturating_mul(1_000_000_000)
            .saturating_add(i64::from(ns))
    };
    Stat {
        kind: kind_of(FileType::from_raw_mode(mode)).unwrap_or(Kind::Special),
        size: raw.stx_size,
        mtime_ns: ns(raw.stx_mtime.tv_sec, raw.stx_mtime.tv_nsec),
        ctime_ns: ns(raw.stx_ctime.tv_sec, raw.stx_ctime.tv_nsec),
        dev: makedev(raw.stx_dev_major, raw.stx_dev_minor),
        ino: raw.stx_ino,
        mode: mode & 0o7777,
        uid: raw.stx_uid,
        gid: raw.stx_gid,
        nlink: u64::from(raw.stx_nlink),
    }
}

fn kind_of(raw: FileType) -> Option<Kind> {
    match raw {
        FileType::RegularFile => Some(Kind::File),
        FileType::Directory => Some(Kind::Folder),
        FileType::Symlink => Some(Kind::Symlink),
        FileType::Unknown => None,
        _ => Some(Kind::Special),
    }
}

/// A stat that equals no real one.
fn unknown(kind: Kind) -> Stat {
    Stat {
        kind,
        size: 0,
        mtime_ns: 0,
        ctime_ns: 0,
        dev: 0,
        ino: 0,
        mode: 0,
        uid: 0,
        gid: 0,
        nlink: 0,
    }
}
