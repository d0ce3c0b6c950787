//! The folder that is restored into: everything in it is reached by handle, component by component.
//!
//! Invariant: nothing outside the target is ever opened, made, changed or removed, whatever others do to the tree
//! meanwhile. Every handle comes from `openat2` with `BENEATH`, `NO_SYMLINKS` and `NO_MAGICLINKS` from a handle that
//! came so itself; everything else names one component of such a folder and follows no link.
//!
//! What is on its way has a temporary name in its own folder (see `temporary`). Those that another run left are removed
//! from every folder that is touched, but for the beginnings of large files that this run goes on with; a lock on the
//! target keeps a second run from being the other one.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, FlockOperation, Mode, OFlags, RenameFlags, ResolveFlags, Timespec,
    Timestamps, UTIME_OMIT,
};
use rustix::io::Errno;

use crate::base::path::RelPath;
use crate::restore::flush::Flush;
use crate::restore::temporary::{self, Left, Temporary, Unplaced};
use crate::restore::wanted::Stamp;

/// Folders that are kept open at once: a process may usually have 1,024 handles, and connections need some.
const OPEN_FOLDERS: usize = 256;

/// How often `openat2` is asked again when it says that the tree changed under it.
const RACES: u32 = 64;

/// Permission bits that everybody may set.
const PLAIN: u32 = 0o777;

/// Whether owners, and bits that act in an owner's name, come back too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owners {
    /// Files belong to whoever restores them.
    Mine,
    /// Files get the owners that they had. Needs root.
    Theirs,
}

/// The target, open.
#[derive(Debug)]
pub struct Target {
    root: OwnedFd,
    owners: Owners,
    umask: u32,
    /// This run, in temporary names.
    run: u32,
    next: AtomicU32,
    /// The beginnings of files that this run can go on with.
    kept: Mutex<HashSet<Vec<u8>>>,
    folders: Mutex<HashMap<RelPath, Arc<OwnedFd>>>,
    flush: Arc<Flush>,
}

/// What a file takes the place of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Over {
    /// Nothing may be there.
    Nothing,
    /// Whatever is there goes.
    Whatever,
}

impl Target {
    /// Opens the target; `None` if nothing is there. The path may lead through links: it is the user's.
    pub fn open(path: &Path, owners: Owners, run: u32) -> io::Result<Option<Self>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = match rustix::fs::openat(CWD, path, flags, Mode::empty()) {
            Ok(root) => root,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        Ok(Some(Self {
            root,
            owners,
            umask: umask(),
            run,
            next: AtomicU32::new(0),
            kept: Mutex::default(),
            folders: Mutex::default(),
            flush: Arc::default(),
        }))
    }

    /// Keeps other runs out until this is dropped; returns whether none is in.
    pub fn lock(&self) -> bool {
        let lock = FlockOperation::NonBlockingLockExclusive;
        // A filesystem that has no locks on folders keeps nobody out.
        !matches!(rustix::fs::flock(&self.root, lock), Err(Errno::WOULDBLOCK))
    }

    /// Returns true if nothing is in it.
    pub fn is_empty(&self) -> io::Result<bool> {
        Ok(names(self.root.as_fd())?.is_empty())
    }

    /// Opens a folder that is there. A link on the way, or anything else but a folder, is [`Errno::LOOP`] or
    /// [`Errno::NOTDIR`].
    pub fn existing(&self, folder: &RelPath) -> rustix::io::Result<OwnedFd> {
        open_folder(self.root.as_fd(), folder)
    }

    /// Opens a folder, and makes it and those above it where they are missing.
    pub fn folder(&self, folder: &RelPath) -> io::Result<Arc<OwnedFd>> {
        if let Some(known) = lock(&self.folders).get(folder) {
            return Ok(known.clone());
        }
        let handle = match open_folder(self.root.as_fd(), folder) {
            Ok(handle) => {
                self.clean(handle.as_fd())?;
                handle
            }
            Err(Errno::NOENT) => self.make(folder)?,
            Err(error) => return Err(blocked(error)),
        };
        let device = rustix::fs::fstat(&handle)?.st_dev;
        let handle = Arc::new(handle);
        self.flush.on(device, &handle);
        let mut folders = lock(&self.folders);
        if folders.len() >= OPEN_FOLDERS {
            folders.clear();
        }
        folders.insert(folder.clone(), handle.clone());
        Ok(handle)
    }

    fn make(&self, folder: &RelPath) -> io::Result<OwnedFd> {
        let Some(above) = folder.parent() else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let above = self.folder(&above)?;
        match rustix::fs::mkdirat(&above, folder.name(), Mode::from_raw_mode(PLAIN)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let name = RelPath::root().join(folder.name());
        open_folder(above.as_fd(), &name).map_err(blocked)
    }

    /// Lets the beginnings of files of these names stay where they are found.
    pub fn keep(&self, names: impl Iterator<Item = Vec<u8>>) {
        lock(&self.kept).extend(names);
    }

    /// Removes what other runs have left on their way.
    fn clean(&self, folder: BorrowedFd<'_>) -> io::Result<()> {
        for name in names(folder)? {
            let is_others = match temporary::left_by(&name) {
                Some(Left::Run(run)) => run != self.run,
                Some(Left::Beginning) => !lock(&self.kept).contains(&name),
                None => false,
            };
            if is_others {
                // What cannot be removed, such as a folder of that name, stays, and is in nobody's way.
                let _ = rustix::fs::unlinkat(folder, &*name, AtFlags::empty());
            }
        }
        Ok(())
    }

    fn temporary_name(&self) -> Vec<u8> {
        temporary::name(self.run, self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Makes an empty file in the folder of `path`. `mode`: of a file whose content is certain already, the one that it is
    /// to have; else only its owner may read it for now.
    pub fn temporary(&self, path: &RelPath, mode: Option<u32>) -> io::Result<Temporary> {
        let folder = self.folder(&path.parent().unwrap_or_else(RelPath::root))?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(mode.unwrap_or(0o600) & PLAIN);
        let name = self.temporary_name();
        let file = rustix::fs::openat(&folder, &*name, flags, mode)?;
        Ok(Temporary::new(folder, name, file, Unplaced::Goes))
    }

    /// Opens the beginning of the file of `path` that has this name, or makes an empty one; returns how much of it there
    /// is, at most `most` bytes. What is not a file of our own, or longer, is removed first.
    pub fn beginning(
        &self,
        path: &RelPath,
        name: &[u8],
        most: u64,
    ) -> io::Result<(Temporary, u64)> {
        let folder = self.folder(&path.parent().unwrap_or_else(RelPath::root))?;
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        // Asked for its kind before it is opened: opening a device can do something.
        if let Ok(stat) = rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW)
            && is_beginning(&stat, most)
            && let Ok(file) = open_beneath(folder.as_fd(), name, flags)
            && let stat = rustix::fs::fstat(&file)?
            && is_beginning(&stat, most)
        {
            let temporary = Temporary::new(folder, name.to_vec(), file, Unplaced::Stays);
            return Ok((temporary, stat.st_size as u64));
        }
        self.forget(path, name)?;
        let flags = flags | OFlags::CREATE | OFlags::EXCL;
        let file = rustix::fs::openat(&folder, name, flags, Mode::from_raw_mode(0o600))?;
        let temporary = Temporary::new(folder, name.to_vec(), file, Unplaced::Stays);
        Ok((temporary, 0))
    }

    /// Removes the beginning of the file of `path`, if it is there.
    pub fn forget(&self, path: &RelPath, name: &[u8]) -> io::Result<()> {
        let folder = self.folder(&path.parent().unwrap_or_else(RelPath::root))?;
        match rustix::fs::unlinkat(&folder, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns the mode of a file of which nobody says what mode it has.
    pub fn usual_mode(&self) -> u32 {
        0o666 & !self.umask
    }

    /// Gives an open file its owner, mode and time. `made_with` is the mode that it was made with.
    pub fn stamp(
        &self,
        file: BorrowedFd<'_>,
        stamp: &Stamp,
        made_with: Option<u32>,
    ) -> io::Result<()> {
        let mut mode = stamp.mode.unwrap_or_else(|| self.usual_mode());
        let mut has = made_with.map(|mode| mode & !self.umask);
        match self.owners {
            Owners::Mine => mode &= PLAIN,
            Owners::Theirs => {
                rustix::fs::fchown(file, uid(stamp.uid), gid(stamp.gid))?;
                // Changing the owner takes bits away.
                has = None;
            }
        }
        if has != Some(mode) {
            rustix::fs::fchmod(file, Mode::from_raw_mode(mode))?;
        }
        if let Some(mtime_ns) = stamp.mtime_ns {
            rustix::fs::futimens(file, &times(mtime_ns))?;
        }
        Ok(())
    }

    /// Puts the time and mode of a file right that is there. What is not known stays.
    pub fn stamp_file(&self, path: &RelPath, stamp: &Stamp) -> io::Result<()> {
        let folder = self.folder(&path.parent().unwrap_or_else(RelPath::root))?;
        let file = open_file(folder.as_fd(), path.name())?;
        let mode = rustix::fs::fstat(&file)?.st_mode & 0o7777;
        let stamp = Stamp {
            mode: stamp.mode.or(Some(mode)),
            ..*stamp
        };
        self.stamp(file.as_fd(), &stamp, None)
    }

    /// Gives a folder its owner, mode and time, as far as they are known.
    pub fn stamp_folder(&self, path: &RelPath, stamp: &Stamp) -> io::Result<()> {
        let folder = open_folder(self.root.as_fd(), path).map_err(blocked)?;
        // What is right already may be somebody else's, who alone can set it.
        let has = rustix::fs::fstat(&folder)?;
        let may = match self.owners {
            Owners::Mine => PLAIN,
            Owners::Theirs => 0o7777,
        };
        if self.owners == Owners::Theirs {
            rustix::fs::fchown(&folder, uid(stamp.uid), gid(stamp.gid))?;
        }
        let mode = stamp.mode.map(|mode| mode & may);
        // Changing the owner takes bits away.
        let is_mode = |mode: u32| self.owners == Owners::Mine && mode == has.st_mode & may;
        if let Some(mode) = mode.filter(|mode| !is_mode(*mode)) {
            rustix::fs::fchmod(&folder, Mode::from_raw_mode(mode))?;
        }
        let mtime_ns = has.st_mtime.checked_mul(1_000_000_000);
        let mtime_ns = mtime_ns.and_then(|ns| ns.checked_add(has.st_mtime_nsec as i64));
        if let Some(wanted_ns) = stamp.mtime_ns.filter(|ns| Some(*ns) != mtime_ns) {
            rustix::fs::futimens(&folder, &times(wanted_ns))?;
        }
        Ok(())
    }

    /// Makes a link that leads to `to`, which is written as it is and never followed.
    pub fn link(&self, path: &RelPath, to: &[u8], stamp: &Stamp, over: Over) -> io::Result<()> {
        let folder = self.folder(&path.parent().unwrap_or_else(RelPath::root))?;
        let name = self.temporary_name();
        rustix::fs::symlinkat(to, &folder, &*name)?;
        let finished = (|| {
            if self.owners == Owners::Theirs {
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                rustix::fs::chownat(&folder, &*name, uid(stamp.uid), gid(stamp.gid), flags)?;
            }
            if let Some(mtime_ns) = stamp.mtime_ns {
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                rustix::fs::utimensat(&folder, &*name, &times(mtime_ns), flags)?;
            }
            rename(folder.as_fd(), &name, path.name(), over)
        })();
        if finished.is_err() {
            let _ = rustix::fs::unlinkat(&folder, &*name, AtFlags::empty());
        }
        finished
    }

    /// Returns what brings everything to the disks.
    pub fn flush(&self) -> &Arc<Flush> {
        &self.flush
    }
}

/// Opens a file of a folder for reading, without following a link and without waiting for a FIFO's other end.
pub fn open_file(folder: BorrowedFd<'_>, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(open_beneath(folder, name, flags)?)
}

/// Returns true for a file that nobody but a run of ours, or of the same user, can have put there: it has no other name,
/// under which somebody else would see what is written.
fn is_beginning(stat: &rustix::fs::Stat, most: u64) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
        && stat.st_nlink == 1
        && stat.st_uid == rustix::process::geteuid().as_raw()
        && u64::try_from(stat.st_size).is_ok_and(|size| size <= most)
}

fn open_folder(from: BorrowedFd<'_>, folder: &RelPath) -> rustix::io::Result<OwnedFd> {
    /// The kernel's `PATH_MAX` in bytes, its NUL included: the longest path that one call takes.
    const PATH_MAX: usize = 4096;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut rest = folder.as_bytes();
    if rest.is_empty() {
        return open_beneath(from, b".", flags);
    }
    let mut reached: Option<OwnedFd> = None;
    loop {
        let at = reached.as_ref().map_or(from, |reached| reached.as_fd());
        if rest.len() < PATH_MAX {
            return open_beneath(at, rest, flags);
        }
        let slash = rest[..PATH_MAX - 1].iter().rposition(|byte| *byte == b'/');
        let slash = slash.ok_or(Errno::NAMETOOLONG)?;
        let next = open_beneath(at, &rest[..slash], flags)?;
        rest = &rest[slash + 1..];
        reached = Some(next);
    }
}

fn open_beneath(from: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let mut races = 0;
    loop {
        match rustix::fs::openat2(from, path, flags, Mode::empty(), beneath) {
            Err(Errno::INTR) => {}
            // Something was renamed while the kernel walked, so it could not be sure to have stayed beneath.
            Err(Errno::AGAIN) if races < RACES => races += 1,
            other => return other,
        }
    }
}

/// Gives something of a folder another name there.
pub fn rename(folder: BorrowedFd<'_>, from: &[u8], to: &[u8], over: Over) -> io::Result<()> {
    if over == Over::Whatever {
        return Ok(rustix::fs::renameat(folder, from, folder, to)?);
    }
    match rustix::fs::renameat_with(folder, from, folder, to, RenameFlags::NOREPLACE) {
        // A filesystem that cannot promise it: looking first is all there is.
        Err(Errno::INVAL | Errno::NOSYS) => {
            match rustix::fs::statat(folder, to, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => Ok(rustix::fs::renameat(folder, from, folder, to)?),
                Ok(_) => Err(Errno::EXIST.into()),
                Err(error) => Err(error.into()),
            }
        }
        other => Ok(other?),
    }
}

fn blocked(error: Errno) -> io::Error {
    match error {
        Errno::LOOP | Errno::NOTDIR | Errno::XDEV => io::Error::new(
            io::ErrorKind::NotADirectory,
            "something that is no folder is in the way",
        ),
        error => error.into(),
    }
}

fn names(folder: BorrowedFd<'_>) -> io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    Ok(names)
}

/// Returns the bits that the process takes from every new file. Asking the kernel the usual way would set them, for every
/// thread.
fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    line.and_then(|digits| u32::from_str_radix(digits.trim(), 8).ok())
        .unwrap_or(0o022)
}

fn times(mtime_ns: i64) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: mtime_ns.div_euclid(1_000_000_000),
            tv_nsec: mtime_ns.rem_euclid(1_000_000_000),
        },
    }
}

fn uid(id: Option<u32>) -> Option<rustix::fs::Uid> {
    // The largest number says "as it is" to the kernel.
    id.filter(|id| *id != u32::MAX)
        .map(rustix::fs::Uid::from_raw)
}

fn gid(id: Option<u32>) -> Option<rustix::fs::Gid> {
    id.filter(|id| *id != u32::MAX)
        .map(rustix::fs::Gid::from_raw)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).expect("a path")
    }

    fn target(at: &Path) -> Target {
        let opened = Target::open(at, Owners::Mine, 7).expect("it opens");
        opened.expect("it is there")
    }

    #[test]
    fn nothing_is_made_or_opened_through_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (inside, outside) = (dir.path().join("in"), dir.path().join("out"));
        std::fs::create_dir(&inside).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::os::unix::fs::symlink(&outside, inside.join("link")).unwrap();
        std::os::unix::fs::symlink("../out", inside.join("up")).unwrap();
        let target = target(&inside);
        for name in ["link", "link/deep", "up", "up/deep"] {
            let error = target
                .folder(&path(name))
                .expect_err("a link is in the way");
            assert_eq!(error.kind(), io::ErrorKind::NotADirectory, "{name}");
        }
        assert!(std::fs::read_dir(&outside).unwrap().next().is_none());
    }

    #[test]
    fn what_another_run_left_on_its_way_goes_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let names = [
            ".tidewatch-restore-0000000800000000",
            ".tidewatch-restore-0000000700000000",
            ".tidewatch-restore-000000080000000",
            ".tidewatch-restore-000000080000000G",
            ".tidewatch-restore-00000008000000001",
            "x.tidewatch-restore-0000000800000000",
            ".tidewatch-restore-00000000000000000000000000000001",
        ];
        for name in names {
            std::fs::File::create(dir.path().join(name)).unwrap();
        }
        let gone = ".tidewatch-restore-00000000000000000000000000000002";
        std::fs::File::create(dir.path().join(gone)).unwrap();
        let target = target(dir.path());
        target.keep([names[6].as_bytes().to_vec()].into_iter());
        target.folder(&RelPath::root()).expect("it opens");
        assert!(!dir.path().join(gone).exists());
        let left: Vec<_> = names
            .iter()
            .filter(|name| dir.path().join(name).exists())
            .collect();
        assert_eq!(left, names[1..].iter().collect::<Vec<_>>());
    }

    #[test]
    fn a_beginning_stays_until_it_is_whole_and_an_empty_or_too_long_one_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let target = target(dir.path());
        let of = |etag: &str| temporary::beginning(&path("a"), "key", etag, "", 6);
        let name = of("one");
        assert_ne!(name, of("two"));
        let begin = |name: &[u8], most: u64| target.beginning(&path("a"), name, most).unwrap();
        let left = || std::fs::read_dir(dir.path()).unwrap().count();
        drop(begin(&name, 6));
        assert_eq!(left(), 0);
        let (file, there) = begin(&name, 6);
        assert_eq!(there, 0);
        let pieces = ["ti", "", "de"].map(|text| bytes::Bytes::from_static(text.as_bytes()));
        file.write_all_at(&pieces, 0).unwrap();
        drop(file);
        assert_eq!(left(), 1);
        let (file, there) = begin(&name, 6);
        let mut read = [0; 9];
        assert_eq!((there, file.read_at(&mut read, 1).unwrap()), (4, 3));
        assert_eq!(&read[..3], b"ide");
        drop(file);
        assert_eq!(begin(&name, 3).1, 0, "it is longer than the whole");
        assert_eq!(left(), 0);
    }

    #[test]
    fn a_file_that_is_not_put_in_place_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let target = target(dir.path());
        let first = target.temporary(&path("a/b"), None).expect("a file");
        first.write_at(b"tide", 0).expect("a write");
        first.place(&path("a/b"), Over::Nothing).expect("its name");
        let second = target.temporary(&path("a/b"), None).expect("a file");
        let error = second
            .place(&path("a/b"), Over::Nothing)
            .expect_err("one is there");
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        let left: Vec<_> = std::fs::read_dir(dir.path().join("a")).unwrap().collect();
        assert_eq!(left.len(), 1);
    }
}
