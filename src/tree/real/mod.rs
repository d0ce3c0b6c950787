//! The real tree: everything beneath the root, by handle.
//!
//! The root is one open folder; what is below it is reached by `openat2` with `BENEATH`, `NO_SYMLINKS` and
//! `NO_MAGICLINKS`, so that no link and no `..` leads out, whatever others do to the tree meanwhile. Links are themselves,
//! unless they are to be followed or recorded (`links`). Nothing that could block or act when it
//! is opened (FIFO, socket, device) is opened. Mounts inside the tree are crossed. Needs Linux 5.6.
//!
//! A path that meets a link or a file where a folder was is *gone*: it is not there as it was. Any other failure is an
//! error and says nothing about what is below.
//!
//! Does not protect against a root whose own path goes through links: give a canonical one.

mod beneath;
mod capture;
mod eyes;
mod file;
mod lease;
mod links;
mod listing;
mod mount_watch;
mod mounts;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use tracing::warn;

use crate::base::path::{RelPath, escaped};
use crate::base::policy::{Symlinks, WatchMode};
use crate::base::stat::{Kind, Stat};
use crate::tree::budget::Budget;
use crate::tree::real::beneath::{
    NAME_ONLY, follow_quietly, gone, open_beneath, open_following, open_quietly,
};
use crate::tree::real::eyes::Eyes;
use crate::tree::real::file::RealFile;
use crate::tree::real::lease::Counters;
use crate::tree::real::listing::{identity_of, names, stat_of_handle};
use crate::tree::real::mount_watch::MountWatch;
use crate::tree::real::mounts::Mounts;
use crate::tree::report::WatchReport;
use crate::tree::scan::Depth;
use crate::tree::{Found, HintSender, Identity, OpenFile, ReadCounts, ReadError, Tree};

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
    eyes: Option<Arc<Eyes>>,
    /// Only held: it ends with the tree.
    _mounts: Option<MountWatch>,
    turns: AtomicU64,
    counters: Arc<Counters>,
    /// Where clones of files that never rest may be made.
    captures: Option<PathBuf>,
    /// What is opened to see whether the watcher tells.
    marker: Option<PathBuf>,
    symlinks: Symlinks,
    /// The path as it was given, which may lead to `path` through links.
    given: Option<PathBuf>,
}

/// A way to open what is beneath a root.
type Opening = fn(BorrowedFd<'_>, &RelPath, OFlags) -> rustix::io::Result<OwnedFd>;

/// What is known of the root.
#[derive(Default)]
struct Root {
    /// Whether it was there when it was last opened.
    is_there: bool,
    /// Which folder it has to be; `None` until it was accepted.
    was: Option<Identity>,
}

/// Makes an error that does not say "gone" of any failure to open the root.
fn away(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            io::Error::other("the root is not there")
        }
        _ => error,
    }
}

impl RealTree {
    /// Makes a tree that is not watched, at a canonical absolute path. Whether it is there, [`Tree::identity`] says.
    pub fn open(root: &Path) -> Self {
        // Long before the first lease: who sends it to an agent does not end it.
        lease::ignore_sigio();
        Self {
            path: root.to_path_buf(),
            root: Mutex::default(),
            eyes: None,
            _mounts: None,
            turns: AtomicU64::new(0),
            counters: Arc::default(),
            captures: None,
            marker: None,
            symlinks: Symlinks::Skip,
            given: None,
        }
    }

    /// Makes a tree whose folders are armed when they are listed, at a canonical absolute path.
    ///
    /// Where watches tell nothing, or none can be had, it is polled: [`Tree::watch_report`] says so. An error means that
    /// not even a thread could be started.
    pub fn watched(root: &Path, hints: HintSender, mode: WatchMode) -> io::Result<Self> {
        Self::watched_within(root, hints, mode, Budget::of_the_user())
    }

    /// Makes a tree as [`RealTree::watched`] does that takes its watches from a budget of its own.
    pub fn watched_within(
        root: &Path,
        hints: HintSender,
        mode: WatchMode,
        budget: Arc<Budget>,
    ) -> io::Result<Self> {
        // Where mounts are hidden none is known, and the thread below looks at the root instead.
        let mounts = Mounts::new(root, &mount_watch::mounted().unwrap_or_default());
        let eyes = Arc::new(Eyes::new(root.to_path_buf(), hints, mode, budget, mounts));
        Ok(Self {
            _mounts: Some(MountWatch::start(eyes.clone(), root)?),
            eyes: Some(eyes),
            ..Self::open(root)
        })
    }

    /// Lets files that never rest be cloned into `dir`, where that is on their filesystem. It must not be watched itself.
    #[must_use]
    pub fn with_captures(mut self, dir: &Path) -> Self {
        self.captures = Some(dir.to_path_buf());
        self
    }

    /// Lets the watcher be tried by a file at `marker`, which is made if it is not there, and which nobody else needs.
    #[must_use]
    pub fn with_marker(mut self, marker: &Path) -> Self {
        self.marker = Some(marker.to_path_buf());
        self
    }

    /// Takes the root for away when `given`, a path that leads to it, leads elsewhere.
    #[must_use]
    pub fn with_given(mut self, given: &Path) -> Self {
        self.given = (given != self.path).then(|| given.to_path_buf());
        self
    }

    /// Follows links, or records them, instead of leaving them as they are.
    #[must_use]
    pub fn with_symlinks(mut self, symlinks: Symlinks) -> Self {
        self.symlinks = symlinks;
        self
    }

    /// Waits until every event that the kernel had queued before the call has become a hint. Blocks.
    pub fn round_trip(&self) -> io::Result<()> {
        let watch = self.eyes.as_ref().and_then(|eyes| eyes.watch());
        watch.map_or(Ok(()), |watch| watch.round_trip())
    }

    /// Opens the root, if it is the folder that was accepted.
    ///
    /// It is not kept open: a filesystem with an open folder cannot be unmounted. An error never means "gone", since
    /// nothing is known of what is below a root that is away.
    fn handle(&self) -> io::Result<OwnedFd> {
        let root = || self.root.lock().unwrap_or_else(PoisonError::into_inner);
        let known = Some(root()).and_then(|root| root.was);
        let handle = open(&self.path, FOLDER, Mode::empty()).map_err(io::Error::from);
        let same = handle.and_then(|handle| {
            let now = stat_of_handle(&handle)?;
            if known.is_none_or(|was| (now.dev, now.ino) == (was.dev, was.ino)) {
                Ok(handle)
            } else {
                Err(io::Error::other("another folder is in its place"))
            }
        });
        same.map_err(|error| {
            let was_there = std::mem::take(&mut root().is_there);
            if let Some(eyes) = self.eyes.as_ref().filter(|_| was_there) {
                // So that it is looked at now, and not by the next rescan.
                eyes.hint_root();
            }
            away(error)
        })
    }

    /// Returns which folder is at the root's path now.
    fn look(&self) -> io::Result<Identity> {
        if let Some(given) = &self.given
            && given.canonicalize()? != self.path
        {
            let given = escaped(given.as_os_str().as_encoded_bytes());
            return Err(io::Error::other(format!(
                "the link {given} leads elsewhere now; start again to follow it"
            )));
        }
        let handle = open(&self.path, FOLDER, Mode::empty())?;
        identity_of(&handle)
    }

    /// Lets the watcher's thread empty the kernel's queue of what our own reading put into it.
    fn pace(&self) {
        if self.turns.fetch_add(1, Ordering::Relaxed) % PACE == PACE - 1
            && let Err(error) = self.round_trip()
        {
            warn!(%error, "the watcher does not answer; rescans still find every change");
        }
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
        let (named, open): (Opening, Opening) = match self.symlinks {
            Symlinks::Follow => (open_following, follow_quietly),
            Symlinks::Skip | Symlinks::Record => (open_beneath, open_quietly),
        };
        // Opening a device can do something; so first a look at what the path names.
        regular(&named(root.as_fd(), path, NAME_ONLY).map_err(failed)?)?;
        let flags =
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let handle = open(root.as_fd(), path, flags).map_err(failed)?;
        regular(&handle)?;
        Ok(handle)
    }

    fn list_open(&self, root: BorrowedFd<'_>, folder: &RelPath) -> io::Result<Vec<Found>> {
        let direct = open_quietly(root, folder, FOLDER);
        let (handle, is_direct) = match self.symlinks {
            Symlinks::Follow => links::open_folder(root, folder, direct, FOLDER).map_err(gone)?,
            Symlinks::Skip | Symlinks::Record => (direct.map_err(gone)?, true),
        };
        let eyes = self.eyes.as_ref().filter(|_| is_direct);
        let watch = eyes.and_then(|eyes| Some((eyes, eyes.watch()?)));
        if let Some((eyes, watch)) = &watch {
            let open = stat_of_handle(&handle)?;
            let is_still = |other: &RelPath| {
                let named = open_beneath(root, other, NAME_ONLY);
                let named = named.map_err(gone).and_then(stat_of_handle);
                named.is_ok_and(|named| (named.dev, named.ino) == (open.dev, open.ino))
            };
            eyes.arm(watch, folder, &open, is_still)?;
        }
        let mut found = names(&handle)?;
        if let Some((eyes, watch)) = &watch {
            for one in &mut found {
                one.armed = one.stat.kind != Kind::Folder
                    || eyes.is_looked_after(watch, &folder.join(&one.name), &one.stat);
            }
        }
        match self.symlinks {
            Symlinks::Skip => {}
            Symlinks::Follow => links::follow(root, folder, &mut found, is_direct),
            Symlinks::Record => links::record(handle.as_fd(), &mut found),
        }
        found.sort_unstable_by(|a, b| a.order().cmp(b.order()));
        Ok(found)
    }
}

impl Tree for RealTree {
    fn unwatched(&self) -> usize {
        self.watch_report().polled
    }

    fn watch_report(&self) -> WatchReport {
        let eyes = self.eyes.as_ref();
        eyes.map(|eyes| eyes.report()).unwrap_or_default()
    }

    fn pulse(&self) -> io::Result<bool> {
        let watch = self.eyes.as_ref().and_then(|eyes| eyes.watch());
        match (watch, &self.marker) {
            (Some(watch), Some(marker)) => watch.pulse(marker),
            _ => Ok(false),
        }
    }

    fn take_polled(&self) -> Vec<(RelPath, Depth)> {
        let eyes = self.eyes.as_ref();
        eyes.map(|eyes| eyes.take_polled()).unwrap_or_default()
    }

    fn polled(&self, folder: &RelPath) -> Option<Depth> {
        self.eyes.as_ref()?.polled(folder)
    }

    fn prefer(&self, folder: &RelPath) {
        if let Some(eyes) = &self.eyes {
            eyes.prefer(folder);
        }
    }

    fn is_away(&self, path: &RelPath) -> bool {
        self.eyes.as_ref().is_some_and(|eyes| eyes.is_away(path))
    }

    fn identity(&self) -> io::Result<Identity> {
        let found = self.look();
        if found.is_err() {
            let mut root = self.root.lock().unwrap_or_else(PoisonError::into_inner);
            root.is_there = false;
        }
        found
    }

    fn accept(&self, identity: Identity) {
        let starts_over = {
            let mut root = self.root.lock().unwrap_or_else(PoisonError::into_inner);
            let is_same = root.is_there && root.was == Some(identity);
            let was_known = root.was.is_some();
            (root.is_there, root.was) = (true, Some(identity));
            was_known && !is_same
        };
        let Some(eyes) = &self.eyes else { return };
        if starts_over {
            eyes.start_over();
        }
        eyes.before_scan();
    }

    fn peek(&self, path: &RelPath) -> io::Result<Stat> {
        let root = open(&self.path, FOLDER, Mode::empty())?;
        let named = open_beneath(root.as_fd(), path, NAME_ONLY).map_err(gone)?;
        stat_of_handle(&named)
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
        if is_gone && let Some(watch) = self.eyes.as_ref().and_then(|eyes| eyes.watch()) {
            watch.forget(folder);
        }
        listed
    }

    fn stat(&self, path: &RelPath) -> io::Result<Stat> {
        let root = self.handle()?;
        match self.symlinks {
            Symlinks::Skip => {}
            Symlinks::Follow => return links::followed(root.as_fd(), path),
            Symlinks::Record => return links::recorded(root.as_fd(), path),
        }
        let named = open_beneath(root.as_fd(), path, NAME_ONLY).map_err(gone)?;
        stat_of_handle(&named)
    }

    fn mounts(&self) -> Option<Vec<RelPath>> {
        let listed = mount_watch::mounted().ok()?;
        let points = listed
            .iter()
            .filter_map(|mount| RelPath::below(&self.path, &mount.point));
        let mut points: Vec<RelPath> = points.filter(|point| !point.is_root()).collect();
        points.sort();
        points.dedup();
        Some(points)
    }

    fn alias(&self, path: &RelPath) -> Option<RelPath> {
        let is_recorded = self.symlinks == Symlinks::Record;
        is_recorded.then(|| links::recorded_path(path)).flatten()
    }

    fn open(&self, path: &RelPath) -> Result<Box<dyn OpenFile>, ReadError> {
        if self.symlinks == Symlinks::Record
            && let Some(link) =
                links::Recorded::open(self.handle()?.as_fd(), path).map_err(ReadError::from_io)?
        {
            return Ok(Box::new(link));
        }
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
