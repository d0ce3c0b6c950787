//! What the target has where something is wanted, and whether it is the same.
//!
//! A file of the wanted size is the same only if its content is: its SHA-256 is taken and held against the one that the
//! catalog or the object's metadata has, else against the store's checksum, else against the ETag where that is an MD5.
//! What is not known yet is asked with one HEAD, never with a GET. Only where there is no sum at all, time and size decide.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, readlinkat, statat};
use rustix::io::Errno;
use tokio_util::sync::CancellationToken;

use crate::base::digest::Sha256;
use crate::base::offload::Offload;
use crate::base::path::RelPath;
use crate::restore::check::Check;
use crate::restore::fetch::Fetcher;
use crate::restore::plan::{Same, There};
use crate::restore::target::{Owners, Target, open_file};
use crate::restore::wanted::{Kind, Stamp, Wanted};
use crate::store;

/// Bytes that are read at once.
const READ: usize = 256 << 10;

/// What is under a name, its content unread.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Local {
    /// Nothing.
    Nothing,
    /// A file.
    File {
        /// Length in bytes.
        size: u64,
        /// Its time, mode and owner.
        stamp: Stamp,
    },
    /// A folder.
    Folder,
    /// A link, and where it leads.
    Link(Vec<u8>),
    /// A FIFO, socket or device.
    Special,
    /// Something that is no folder, above it.
    Blocked(RelPath),
    /// It cannot be told.
    Unreadable(String),
}

/// What the target has, and what that took.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    /// What is there.
    pub there: There,
    /// Whether the bucket was asked for it, and has answered.
    pub has_asked: bool,
}

/// Why it cannot be told what the target has.
#[derive(Debug)]
pub enum Blind {
    /// The bucket does not say what the object is.
    Bucket(store::Error),
    /// The disk does not say what is there.
    Disk(String),
}

impl From<There> for Seen {
    fn from(there: There) -> Self {
        let has_asked = false;
        Self { there, has_asked }
    }
}

/// The folder that was looked into last.
enum Above {
    Open(OwnedFd),
    Missing,
    Blocked(RelPath),
    Unreadable(String),
}

/// Looks at what is there; the fastest in order of the paths. Blocks.
pub fn look(target: &Target, wanted: &[Wanted]) -> Vec<Local> {
    let mut last: Option<(RelPath, Above)> = None;
    let mut looked = Vec::with_capacity(wanted.len());
    for one in wanted {
        let folder = one.path.parent().unwrap_or_else(RelPath::root);
        let above = match last.take() {
            Some((known, above)) if known == folder => above,
            _ => open(target, &folder),
        };
        looked.push(match &above {
            Above::Open(handle) => named(handle, one.path.name()),
            Above::Missing => Local::Nothing,
            Above::Blocked(path) => Local::Blocked(path.clone()),
            Above::Unreadable(why) => Local::Unreadable(why.clone()),
        });
        last = Some((folder, above));
    }
    looked
}

fn open(target: &Target, folder: &RelPath) -> Above {
    match target.existing(folder) {
        Ok(handle) => Above::Open(handle),
        Err(Errno::NOENT) => Above::Missing,
        Err(Errno::LOOP | Errno::NOTDIR | Errno::XDEV) => {
            // The first of those above that is no folder is what is in the way.
            let mut culprit = folder.clone();
            while let Some(above) = culprit.parent() {
                if target.existing(&above).is_ok() {
                    break;
                }
                culprit = above;
            }
            Above::Blocked(culprit)
        }
        Err(error) => Above::Unreadable(format!("could not open `{folder}`: {error}")),
    }
}

fn named(folder: &OwnedFd, name: &[u8]) -> Local {
    let stat = match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Local::Nothing,
        Err(error) => return Local::Unreadable(format!("could not look at it: {error}")),
    };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Local::File {
            size: stat.st_size as u64,
            stamp: Stamp {
                mtime_ns: stat
                    .st_mtime
                    .checked_mul(1_000_000_000)
                    .and_then(|ns| ns.checked_add(stat.st_mtime_nsec as i64)),
                mode: Some(stat.st_mode & 0o7777),
                uid: Some(stat.st_uid),
                gid: Some(stat.st_gid),
            },
        },
        FileType::Directory => Local::Folder,
        FileType::Symlink => match readlinkat(folder, name, Vec::new()) {
            Ok(to) => Local::Link(to.into_bytes()),
            Err(error) => Local::Unreadable(format!("could not read the link: {error}")),
        },
        _ => Local::Special,
    }
}

/// Compares what is there with what is wanted; what is learned of the object goes into `wanted`. The error says why that
/// cannot be told; a stop is one, too.
pub async fn compare(
    fetcher: &Fetcher,
    target: &Arc<Target>,
    wanted: &mut Wanted,
    local: Local,
    owners: Owners,
    stop: &CancellationToken,
) -> Result<Seen, Blind> {
    let (size, has) = match local {
        Local::Nothing => return Ok(There::Nothing.into()),
        Local::Folder => return Ok(There::Folder.into()),
        Local::Special => return Ok(There::Special.into()),
        Local::Blocked(path) => return Ok(There::Blocked(path).into()),
        Local::Unreadable(why) => return Err(Blind::Disk(why)),
        Local::Link(to) => {
            let is_same =
                wanted.kind == Kind::Link && wanted.sha256.is_some_and(|of| of == Sha256::of(&to));
            return Ok(There::Link { is_same }.into());
        }
        Local::File { size, stamp } => (size, stamp),
    };
    if wanted.kind != Kind::File || wanted.size != size {
        return Ok(There::File(Same::Not).into());
    }
    let (check, has_asked) = match wanted.sha256 {
        Some(sha256) if wanted.stamp.mtime_ns.is_some() => (Check::Sha256(sha256), false),
        known => {
            let which = wanted.which();
            let object = tokio::select! {
                object = fetcher.head(&wanted.key, &which) => object.map_err(Blind::Bucket)?,
                () = stop.cancelled() => return Err(Blind::Disk("stopped".to_owned())),
            };
            if object.size != size {
                let (there, has_asked) = (There::File(Same::Not), true);
                return Ok(Seen { there, has_asked });
            }
            wanted.stamp = wanted.stamp.or(Stamp::of(&object));
            (Check::best(known, &object), true)
        }
    };
    let is_stamped = is_stamped(&wanted.stamp, &has, owners);
    let by = check.by();
    let is_same = if check == Check::Size {
        // Time and size are all there is to go by.
        wanted.stamp.mtime_ns.is_some() && wanted.stamp.mtime_ns == has.mtime_ns
    } else {
        let turn = fetcher.turn_to_read().await;
        let (target, path, stop) = (target.clone(), wanted.path.clone(), stop.clone());
        let read = Offload::Pool.run(move || holds(&target, &path, &check, size, &stop));
        let read = read.await;
        drop(turn);
        read.map_err(|error| Blind::Disk(format!("could not read what is there: {error}")))?
    };
    let there = There::File(match (is_same, is_stamped) {
        (true, true) => Same::All(by),
        (true, false) => Same::Content(by),
        (false, _) => Same::Not,
    });
    Ok(Seen { there, has_asked })
}

/// Returns true if nothing of a stamp has to be put right.
fn is_stamped(wanted: &Stamp, has: &Stamp, owners: Owners) -> bool {
    let fits = |wanted: Option<u32>, has: Option<u32>| wanted.is_none() || wanted == has;
    let plain = |mode: Option<u32>| mode.map(|mode| mode & 0o777);
    let is_mine = match owners {
        Owners::Mine => fits(plain(wanted.mode), plain(has.mode)),
        Owners::Theirs => {
            fits(wanted.mode, has.mode) && fits(wanted.uid, has.uid) && fits(wanted.gid, has.gid)
        }
    };
    is_mine && (wanted.mtime_ns.is_none() || wanted.mtime_ns == has.mtime_ns)
}

/// Reads a file of the target and holds it against `check`.
fn holds(
    target: &Target,
    path: &RelPath,
    check: &Check,
    size: u64,
    stop: &CancellationToken,
) -> io::Result<bool> {
    let folder = target.existing(&path.parent().unwrap_or_else(RelPath::root))?;
    let file = open_file(folder.as_fd(), path.name())?;
    let mut buffer = vec![0; READ.min(usize::try_from(size).unwrap_or(READ)).max(1)];
    let mut summing = check.begin();
    loop {
        if stop.is_cancelled() {
            return Err(io::Error::other("stopped"));
        }
        match rustix::io::read(&file, &mut *buffer) {
            Ok(0) => return Ok(check.holds(summing, size)),
            Ok(read) => summing.update(&buffer[..read]),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
