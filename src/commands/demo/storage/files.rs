//! Where the bytes of the bucket lie.
//!
//! An object is the plain file `DIR/<key>` wherever a file system can hold that, so that a person sees the bucket by
//! looking into the folder. What it cannot hold so (names that are too long, `p` beside `p/q`, `.` and `..`, empty
//! components) lies in `DIR/.tidewatch-bucket/objects/` under the SHA-256 of its key. The index says which of the two.
//!
//! Never follows a symbolic link, never leaves `DIR`, and never replaces or removes a file that it has not put there.
//! A file appears under its name only whole: it is written in `.tidewatch-bucket/tmp` and renamed.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, Mode, OFlags, mkdirat, openat, renameat, statat, unlinkat};
use rustix::io::Errno;

use crate::base::digest::Sha256;

/// The folder in `DIR` that is ours; keys that begin with it never become plain files.
pub const OWN: &str = ".tidewatch-bucket";

/// The longest name of one component, in bytes (`NAME_MAX` of the common file systems).
const NAME_MAX: usize = 255;

/// The longest path that a program can open in one piece, in bytes (Linux's `PATH_MAX` with its final NUL).
const PATH_MAX: usize = 4096;

const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Which of the two places an object's bytes are in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// The file `DIR/<key>`.
    Plain,
    /// The overflow folder, under the key's SHA-256.
    Overflow,
}

/// The folder, held open.
///
/// `place` and `remove` must not run side by side: the caller's lock over the index orders them.
#[derive(Debug)]
pub struct Files {
    root: OwnedFd,
    root_len: usize,
    tmp: Arc<OwnedFd>,
    objects: OwnedFd,
    parts: OwnedFd,
    next: AtomicU64,
}

/// A file that is being written; removed when dropped, unless it was placed.
#[derive(Debug)]
pub struct Temporary {
    /// Open for writing and reading.
    pub file: File,
    folder: Arc<OwnedFd>,
    name: String,
    placed: bool,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.placed {
            // What stays behind is removed at the next start.
            let _ = unlinkat(&*self.folder, &self.name, AtFlags::empty());
        }
    }
}

impl Files {
    /// Opens `dir`, makes our folders in it, and removes what a killed process left half-written.
    pub fn open(dir: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let dir = dir.canonicalize()?;
        let root = rustix::fs::open(&dir, FOLDER, Mode::empty())?;
        let own = make_folder(root.as_fd(), OWN)?;
        let tmp = make_folder(own.as_fd(), "tmp")?;
        let files = Self {
            root_len: dir.as_os_str().len(),
            objects: make_folder(own.as_fd(), "objects")?,
            parts: make_folder(own.as_fd(), "parts")?,
            root,
            tmp: Arc::new(tmp),
            next: AtomicU64::new(0),
        };
        for name in names(files.tmp.as_fd())? {
            unlinkat(&*files.tmp, &*name, AtFlags::empty())?;
        }
        Ok(files)
    }

    /// Makes a file to write into.
    pub fn temporary(&self) -> io::Result<Temporary> {
        let name = self.next.fetch_add(1, Ordering::Relaxed).to_string();
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = openat(&*self.tmp, &name, flags, Mode::from_raw_mode(0o644))?;
        Ok(Temporary {
            file: File::from(file),
            folder: Arc::clone(&self.tmp),
            name,
            placed: false,
        })
    }

    /// Puts the file where `key` belongs. `before` is where the index says that the key's bytes are now.
    pub fn place(
        &self,
        temporary: Temporary,
        key: &str,
        before: Option<Place>,
    ) -> io::Result<Place> {
        let place = self.place_plain(&temporary, key, before)?;
        if place == Place::Overflow {
            renameat(
                &*temporary.folder,
                &temporary.name,
                &self.objects,
                overflow(key),
            )?;
        }
        let mut temporary = temporary;
        temporary.placed = true;
        if let Some(before) = before
            && before != place
        {
            self.remove(key, before)?;
        }
        Ok(place)
    }

    /// Tries the plain place; answers `Overflow` if the file system or somebody's file is in the way.
    fn place_plain(
        &self,
        temporary: &Temporary,
        key: &str,
        before: Option<Place>,
    ) -> io::Result<Place> {
        let Some((folders, name)) = self.split(key) else {
            return Ok(Place::Overflow);
        };
        let attempt = || -> rustix::io::Result<()> {
            let folder = self.walk(&folders, make_folder)?;
            let folder = folder.as_ref().unwrap_or(&self.root);
            // A file that is there although the index does not know it was put there by hand: it stays.
            if before != Some(Place::Plain) {
                match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Err(Errno::NOENT) => {}
                    Err(other) => return Err(other),
                    Ok(_) => return Err(Errno::EXIST),
                }
            }
            renameat(&*temporary.folder, &temporary.name, folder, name)
        };
        match attempt() {
            Ok(()) => Ok(Place::Plain),
            Err(error) if is_in_the_way(error) => Ok(Place::Overflow),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens an object's bytes.
    pub fn read(&self, key: &str, place: Place) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match (place, self.split(key)) {
            (Place::Plain, Some((folders, name))) => {
                let folder = self.walk(&folders, open_folder)?;
                openat(
                    folder.as_ref().unwrap_or(&self.root),
                    name,
                    flags,
                    Mode::empty(),
                )?
            }
            _ => openat(&self.objects, overflow(key), flags, Mode::empty())?,
        };
        Ok(File::from(file))
    }

    /// Removes an object's bytes, and the folders that are empty by it. Absent is success.
    pub fn remove(&self, key: &str, place: Place) -> io::Result<()> {
        let (Place::Plain, Some((folders, name))) = (place, self.split(key)) else {
            return absent_is_fine(unlinkat(&self.objects, overflow(key), AtFlags::empty()));
        };
        let folder = match self.walk(&folders, open_folder) {
            Ok(folder) => folder,
            Err(error) if error == Errno::NOENT || is_in_the_way(error) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        absent_is_fine(unlinkat(
            folder.as_ref().unwrap_or(&self.root),
            name,
            AtFlags::empty(),
        ))?;
        for depth in (0..folders.len()).rev() {
            let above = self.walk(&folders[..depth], open_folder)?;
            let above = above.as_ref().unwrap_or(&self.root);
            if unlinkat(above, folders[depth], AtFlags::REMOVEDIR).is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Puts the file into the folder of parts and returns its name there.
    pub fn place_part(&self, mut temporary: Temporary, upload: &str) -> io::Result<String> {
        // The running number makes the name this attempt's own: the part it replaces goes only when the index says so.
        let name = format!("{upload}-{}", temporary.name);
        renameat(&*temporary.folder, &temporary.name, &self.parts, &name)?;
        temporary.placed = true;
        Ok(name)
    }

    /// Opens a part by its name.
    pub fn read_part(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(File::from(openat(&self.parts, name, flags, Mode::empty())?))
    }

    /// Removes a part by its name. Absent is success.
    pub fn remove_part(&self, name: &str) -> io::Result<()> {
        absent_is_fine(unlinkat(&self.parts, name, AtFlags::empty()))
    }

    /// Lists the names of all parts, and keeps the running number ahead of them.
    pub fn parts(&self) -> io::Result<Vec<String>> {
        let names = names(self.parts.as_fd())?;
        let highest = names
            .iter()
            .filter_map(|name| name.rsplit('-').next()?.parse::<u64>().ok())
            .max();
        if let Some(highest) = highest {
            self.next.fetch_max(highest + 1, Ordering::Relaxed);
        }
        Ok(names)
    }

    /// Takes a key apart into folders and name; `None` if no plain file can have it.
    fn split<'k>(&self, key: &'k str) -> Option<(Vec<&'k str>, &'k str)> {
        let possible = |part: &&str| {
            !part.is_empty()
                && *part != "."
                && *part != ".."
                && part.len() <= NAME_MAX
                && !part.contains('\0')
        };
        let mut parts: Vec<&str> = key.split('/').collect();
        if !parts.iter().all(possible)
            || parts[0].eq_ignore_ascii_case(OWN)
            || self.root_len + 1 + key.len() >= PATH_MAX
        {
            return None;
        }
        let name = parts.pop()?;
        Some((parts, name))
    }

    /// Goes down from the root, one component at a time; `None` is the root itself.
    fn walk(
        &self,
        folders: &[&str],
        step: impl Fn(BorrowedFd<'_>, &str) -> rustix::io::Result<OwnedFd>,
    ) -> rustix::io::Result<Option<OwnedFd>> {
        let mut at: Option<OwnedFd> = None;
        for folder in folders {
            let next = step(at.as_ref().unwrap_or(&self.root).as_fd(), folder)?;
            at = Some(next);
        }
        Ok(at)
    }
}

/// Returns true if the plain place is taken, or one that this file system cannot have.
fn is_in_the_way(error: Errno) -> bool {
    // INVAL and ILSEQ are how file systems refuse names that they cannot store.
    matches!(
        error,
        Errno::EXIST
            | Errno::ISDIR
            | Errno::NOTDIR
            | Errno::NOTEMPTY
            | Errno::LOOP
            | Errno::NAMETOOLONG
            | Errno::INVAL
            | Errno::ILSEQ
    )
}

fn open_folder(at: BorrowedFd<'_>, name: &str) -> rustix::io::Result<OwnedFd> {
    openat(at, name, FOLDER, Mode::empty())
}

fn make_folder(at: BorrowedFd<'_>, name: &str) -> rustix::io::Result<OwnedFd> {
    match open_folder(at, name) {
        Err(Errno::NOENT) => {
            mkdirat(at, name, Mode::from_raw_mode(0o755))?;
            open_folder(at, name)
        }
        other => other,
    }
}

fn absent_is_fine(result: rustix::io::Result<()>) -> io::Result<()> {
    match result {
        Err(Errno::NOENT) => Ok(()),
        other => Ok(other?),
    }
}

/// Lists a folder of ours, whose names are all ASCII.
fn names(folder: BorrowedFd<'_>) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(folder)? {
        if let Ok(name) = entry?.file_name().to_str()
            && name != "."
            && name != ".."
        {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

fn overflow(key: &str) -> String {
    Sha256::of(key.as_bytes()).to_hex()
}
