//! The real tree: everything beneath the root, by handle.
//!
//! The root is one open folder; what is below it is reached by `openat2` with `BENEATH`, `NO_SYMLINKS` and
//! `NO_MAGICLINKS`, so that no link and no `..` leads out, whatever others do to the tree meanwhile. Nothing that could block or act when it
//! is opened (FIFO, socket, device) is opened. Mounts inside the tree are crossed. Needs Linux 5.6.
//!
//! A path that meets a link or a file where a folder was is *gone*: it is not there as it was. Any other failure is an
//! error and says nothing about what is below.
//!
//! Does not protect against a root whose own path goes through links: give a canonical one.

mod beneath;
mod capture;
mod file;
mod lease;
mod listing;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, open, statx};
use rustix::io::Errno;
use tracing::{info, warn};

use crate::base::path::{RelPath, escaped};
use crate::base::stat::{Kind, Stat};
use crate::tree::real::beneath::{NAME_ONLY, gone, open_beneath, open_quietly};
use crate::tree::real::file::RealFile;
use crate::tree::real::lease::Counters;
use crate::tree::real::listing::{identity_of, names, stat_of, stat_of_handle};
use crate::tree::watch::{ArmError, Watch};
use crate::tree::{Found, Hint, HintSender, Identity, OpenFile, ReadCounts, ReadError, Tree};

/// How many folders are listed and files opened between two round trips to the watcher's thread.
///
/// Each of them queues one or two OPEN events of our own; the kernel holds 16,384 before it drops.
const PACE: u64 = 2_000;

/// Opens a folder itself, not what a link in its place leads to.
const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

/// A tree on the disk.
pub struct RealTree {
    path: PathBuf,
    root: Mutex<Root>,
    watching: Option<Watching>,
    turns: AtomicU64,
    counters: Arc<Counters>,
    /// Where clones of files that never rest may be made.
    captures: Option<PathBuf>,
}

/// What is known of the root.
#[derive(Default)]
struct Root {
    handle: Option<Arc<OwnedFd>>,
    /// Which folder it was when it was last there.
    was: Option<Identity>,
}

struct Watching {
    hints: HintSender,
    watch: Mutex<Arc<Watch>>,
}

impl RealTree {
    /// Makes a tree that is not watched, at a canonical absolute path. Whether it is there, [`Tree::identity`] says.
    pub fn open(root: &Path) -> Self {
        // Long before the first lease: who sends it to an agent does not end it.
        lease::ignore_sigio();
        Self {
            path: root.to_path_buf(),
            root: Mutex::default(),
            watching: None,
            turns: AtomicU64::new(0),
            counters: Arc::default(),
            captures: None,
        }
    }

    /// Makes a tree whose folders are armed when they are listed, at a canonical absolute path.
    ///
    /// An error means that no watcher could be started: nearly always that the user has no inotify instance left.
    pub fn watched(root: &Path, hints: HintSender) -> io::Result<Self> {
        let watch = Mutex::new(Arc::new(Watch::new(root, hints.clone())?));
        Ok(Self {
            watching: Some(Watching { hints, watch }),
            ..Self::open(root)
        })
    }

    /// Lets files that never rest be cloned into `dir`, where that is on their filesystem. It must not be watched itself.
    #[must_use]
    pub fn with_captures(self, dir: &Path) -> Self {
        Self {
            captures: Some(dir.to_path_buf()),
            ..self
        }
    }

    /// Waits until every event that the kernel had queued before the call has become a hint. Blocks.
    pub fn round_trip(&self) -> io::Result<()> {
        self.watch().map_or(Ok(()), |watch| watch.round_trip())
    }

    fn watch(&self) -> Option<Arc<Watch>> {
        let watching = self.watching.as_ref()?;
        let watch = watching.watch.lock();
        Some(watch.unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// Returns the root's handle, opening it if it was away.
    fn handle(&self) -> io::Result<Arc<OwnedFd>> {
        let root = self.root.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(handle) = &root.handle {
            return Ok(handle.clone());
        }
        drop(root);
        self.look().map(|(handle, _)| handle)
    }

    /// Opens the root's path anew, keeps the handle, and starts over with the watches if the root was away or is another.
    fn look(&self) -> io::Result<(Arc<OwnedFd>, Identity)> {
        let mut root = self.root.lock().unwrap_or_else(PoisonError::into_inner);
        let was_there = root.handle.take().is_some();
        let handle = open(&self.path, FOLDER, Mode::empty())?;
        let identity = identity_of(&handle)?;
        if root.was.is_some() && !(was_there && root.was == Some(identity)) {
            self.start_over()?;
        }
        // Also when it is the same folder: it may have been mounted anew, and mounts inside it with it.
        let handle = Arc::new(handle);
        root.handle = Some(handle.clone());
        root.was = Some(identity);
        Ok((handle, identity))
    }

    /// Replaces the watcher: the old one's watches are on a folder that has left, and go on telling under the root's path.
    fn start_over(&self) -> io::Result<()> {
        let Some(watching) = &self.watching else {
            return Ok(());
        };
        let new = Arc::new(Watch::new(&self.path, watching.hints.clone())?);
        let old = {
            let mut watch = watching
                .watch
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *watch, new)
        };
        drop(old);
        watching.hints.send(Hint::Lost);
        Ok(())
    }

    /// Lets the watcher's thread empty the kernel's queue of what our own reading put into it.
    fn pace(&self) {
        if let Some(watch) = self.watch()
            && self.turns.fetch_add(1, Ordering::Relaxed) % PACE == PACE - 1
            && let Err(error) = watch.round_trip()
        {
            warn!(%error, "the watcher does not answer; rescans still find every change");
        }
    }

    /// Adds the folder's watch; an error means that the path does not name the open folder any more.
    fn arm(&self, watch: &Watch, path: &RelPath, open: &Stat) -> io::Result<()> {
        let armed = watch.arm(path, (open.dev, open.ino)).and_then(|()| {
            // The watch was added by path, which may have come to name something else, or a link to it.
            let named = statx(
                CWD,
                path.under(&self.path),
                AtFlags::SYMLINK_NOFOLLOW,
                StatxFlags::BASIC_STATS,
            );
            let named = named.map_err(|error| match gone(error).kind() {
                io::ErrorKind::NotFound => ArmError::Gone,
                _ => ArmError::Io(error.into()),
            });
            let same = named.map(|named| {
                let named = stat_of(&named);
                (named.dev, named.ino) == (open.dev, open.ino)
            });
            match same {
                Ok(true) => return Ok(()),
                Ok(false) => watch.disarm(path),
                Err(error) => {
                    watch.disarm(path);
                    return Err(error);
                }
            }
            Err(ArmError::Gone)
        });
        match armed {
            Ok(()) => {
                if watch.note_watched(path) {
                    info!(root = %self.shown(), "every folder is watched again");
                }
            }
            Err(ArmError::Gone) => return Err(io::ErrorKind::NotFound.into()),
            Err(error) => {
                if watch.note_unwatched(path) {
                    warn!(root = %self.shown(), folder = %path, %error,
                        "a folder cannot be watched, and others may follow; rescans still find every change");
                }
            }
        }
        Ok(())
    }

    fn shown(&self) -> String {
        escaped(self.path.as_os_str().as_encoded_bytes())
    }

    fn open_regular(&self, path: &RelPath) -> Result<OwnedFd, ReadError> {
        self.pace();
        let root = self.handle()?;
        let regular = |handle: &OwnedFd| match stat_of_handle(handle)?.kind {
            Kind::File => Ok(()),
            kind => Err(ReadError::Kind(kind)),
        };
        let failed = |error: Errno| match error {
            // A socket, or a device without a driver, that came between the two looks.
            Errno::NXIO => ReadError::Kind(Kind::Special),
            // Somebody else's lease has to be given back first.
            Errno::AGAIN => ReadError::Moving,
            error => ReadError::from_io(gone(error)),
        };
        // Opening a device can do something; so first a look at what the path names.
        regular(&open_beneath(root.as_fd(), path, NAME_ONLY).map_err(failed)?)?;
        let flags =
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let handle = open_quietly(root.as_fd(), path, flags).map_err(failed)?;
        regular(&handle)?;
        Ok(handle)
    }

    fn list_open(&self, root: BorrowedFd<'_>, folder: &RelPath) -> io::Result<Vec<Found>> {
        let handle = open_quietly(root, folder, FOLDER).map_err(gone)?;
        let watch = self.watch();
        if let Some(watch) = &watch {
            self.arm(watch, folder, &stat_of_handle(&handle)?)?;
        }
        let mut found = names(&handle)?;
        if let Some(watch) = &watch {
            for one in &mut found {
                one.armed = one.stat.kind != Kind::Folder
                    || watch.is_armed(&folder.join(&one.name), (one.stat.dev, one.stat.ino));
            }
        }
        found.sort_unstable_by(|a, b| a.order().cmp(b.order()));
        Ok(found)
    }
}

impl Tree for RealTree {
    fn unwatched(&self) -> usize {
        self.watch().map_or(0, |watch| watch.unwatched())
    }

    fn identity(&self) -> io::Result<Identity> {
        self.look().map(|(_, identity)| identity)
    }

    fn list(&self, folder: &RelPath) -> io::Result<Vec<Found>> {
        self.pace();
        let root = self.handle()?;
        let listed = self.list_open(root.as_fd(), folder);
        let Err(error) = &listed else {
            return listed;
        };
        let is_gone = matches!(
            error.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
        );
        if is_gone && folder.is_root() {
            // The root is never just gone: it is away, and what was below it is unknown.
            return Err(io::Error::other("the root is not there"));
        }
        if is_gone && let Some(watch) = self.watch() {
            watch.forget(folder);
        }
        listed
    }

    fn stat(&self, path: &RelPath) -> io::Result<Stat> {
        let root = self.handle()?;
        let named = open_beneath(root.as_fd(), path, NAME_ONLY).map_err(gone)?;
        stat_of_handle(&named)
    }

    fn open(&self, path: &RelPath) -> Result<Box<dyn OpenFile>, ReadError> {
        Ok(Box::new(RealFile {
            file: File::from(self.open_regular(path)?),
            counters: self.counters.clone(),
        }))
    }

    fn capture(&self, path: &RelPath) -> Result<Option<Box<dyn OpenFile>>, ReadError> {
        let Some(dir) = &self.captures else {
            return Ok(None);
        };
        let captured = capture::capture(self.open_regular(path)?, dir);
        let Some(captured) = captured.map_err(ReadError::from_io)? else {
            return Ok(None);
        };
        self.counters.captured();
        Ok(Some(Box::new(captured)))
    }

    fn reads(&self) -> ReadCounts {
        self.counters.read()
    }
}
