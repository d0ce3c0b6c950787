//! What the disk has: the seam that the simulator replaces, and the one consistent read on top of it.
//!
//! Never follows a link, never leaves the root, never believes an event.

pub(in crate::tree) mod armed;
pub mod budget;
pub mod filter;
mod grown;
pub mod planted;
pub mod polls;
mod read;
pub mod real;
pub mod report;
pub mod scan;
pub mod watch;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::mpsc;

use crate::base::path::RelPath;
use crate::base::stat::{Kind, Stat};
use crate::tree::report::WatchReport;
use crate::tree::scan::Depth;

pub use crate::base::stat::Identity;
pub use grown::{Beginning, Grown};
pub use read::{
    Hold, Lease, ReadCounts, Reading, Whole, read_beginning, read_captured, read_whole,
};

/// A folder's tree. Every method may block and is called through `offload`.
pub trait Tree: Send + Sync + 'static {
    /// Returns which folder the root is now.
    ///
    /// An error means that the root is away (not there, not a folder, not readable): nothing below it may be judged.
    fn identity(&self) -> io::Result<Identity>;

    /// Takes the folder that the root is for the right one: from now on nothing is listed, looked at or read under another.
    /// Called before each scan; a tree that is watched starts over with its watches if the root has changed or was away.
    fn accept(&self, root: Identity) {
        let _ = root;
    }

    /// Returns the stat of what `path` names under the folder that is there, whether it is the right one or not.
    fn peek(&self, path: &RelPath) -> io::Result<Stat> {
        self.stat(path)
    }

    /// Lists one folder, sorted by [`Found::order`], having armed its watch first if this tree is watched
    /// (add the watch, then list: what is created in between is seen by one of the two).
    ///
    /// `NotFound` or `NotADirectory`: the folder is gone. Any other error: its content is unknown, and nothing below it
    /// may be judged missing.
    fn list(&self, folder: &RelPath) -> io::Result<Vec<Found>>;

    /// Returns the stat of what `path` names, links not followed. `NotFound` and `NotADirectory` mean gone.
    fn stat(&self, path: &RelPath) -> io::Result<Stat>;

    /// Returns how many folders should be watched and are polled instead.
    fn unwatched(&self) -> usize {
        0
    }

    /// Returns the other path under which this tree presents what is at `path`, if it does: an event that names the one
    /// deserves a look at both.
    fn alias(&self, path: &RelPath) -> Option<RelPath> {
        let _ = path;
        None
    }

    /// Returns how the tree is watched.
    fn watch_report(&self) -> WatchReport {
        WatchReport::default()
    }

    /// Opens the watcher's marker, of which [`Hint::Pulse`] has to follow. False where nothing tells of it: the tree is not
    /// watched, or polled.
    fn pulse(&self) -> io::Result<bool> {
        Ok(false)
    }

    /// Returns the folders that have come to be polled since it was asked last, and how deep each is to be looked at.
    fn take_polled(&self) -> Vec<(RelPath, Depth)> {
        Vec::new()
    }

    /// Returns how deep `folder` is polled; `None` if it is not, or not any more.
    fn polled(&self, folder: &RelPath) -> Option<Depth> {
        let _ = folder;
        None
    }

    /// Takes note that a polled folder was found changed: watches are for those that change.
    fn prefer(&self, folder: &RelPath) {
        let _ = folder;
    }

    /// Returns where filesystems are mounted inside the tree now; `None` where that cannot be known.
    fn mounts(&self) -> Option<Vec<RelPath>> {
        None
    }

    /// Returns true if what belongs at `path` is on a filesystem that was mounted inside the tree and is not now: nothing
    /// there may be judged, in either direction.
    fn is_away(&self, path: &RelPath) -> bool {
        let _ = path;
        false
    }

    /// Opens a regular file for reading.
    fn open(&self, path: &RelPath) -> Result<Box<dyn OpenFile>, ReadError>;

    /// Opens a clone of a regular file that never rests: its content at one instant, under the stat that it had just before,
    /// with the clone's length. `None` where none can be made.
    fn capture(&self, _path: &RelPath) -> Result<Option<Box<dyn OpenFile>>, ReadError> {
        Ok(None)
    }

    /// Returns how reads went since the start.
    fn reads(&self) -> ReadCounts {
        ReadCounts::default()
    }
}

/// A regular file, open. Everything known of it comes from the handle.
pub trait OpenFile: Send + Sync {
    /// Returns the file's stat now.
    fn stat(&self) -> io::Result<Stat>;

    /// Reads at `offset` until `into` is full or the file ends; returns how many bytes were read.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize>;

    /// Asks that nobody writes to the file until the lease is dropped.
    fn lease(&self) -> Lease<'_> {
        Lease::Unavailable
    }
}

/// One name in a listing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// The name, a single component.
    pub name: Box<[u8]>,
    /// Its stat, links not followed.
    pub stat: Stat,
    /// For a folder: whether it is looked after already, by a watch that was armed before this listing or by being
    /// polled. A tree that is not watched says true.
    pub armed: bool,
}

impl Found {
    /// Returns what listings are sorted by: the name, a folder's with a `/` behind it.
    ///
    /// A walk in this order meets full paths in the order of their bytes, which is the manifest's.
    pub fn order(&self) -> impl Iterator<Item = u8> + '_ {
        let slash = (self.stat.kind == Kind::Folder).then_some(b'/');
        self.name.iter().copied().chain(slash)
    }
}

/// Why a file could not be read as a whole.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is not there any more.
    #[error("it is gone")]
    Gone,
    /// It is not a regular file.
    #[error("it is not a regular file")]
    Kind(Kind),
    /// It changed while it was read.
    #[error("it changed while it was read")]
    Moving,
    /// It is written to without rest. What it began with is compared at a later try.
    #[error("it is written to without rest")]
    Restless(Box<Beginning>),
    /// The kernel refused.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl ReadError {
    /// Tells "gone" from other errors of the kernel.
    pub fn from_io(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Self::Gone,
            _ => Self::Io(error),
        }
    }
}

/// What the watcher says. A hint only: where to look, never what happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Hint {
    /// Look at this path.
    Touched {
        /// The path, relative to the root.
        path: RelPath,
        /// What kind of look it deserves.
        touch: Touch,
    },
    /// This folder may be new, moved in, or opened: arm and list it and what is below.
    Folder(RelPath),
    /// Events were lost, or may have been: everything has to be looked at.
    Lost,
    /// The watcher tells: its marker was opened ([`Tree::pulse`]). Says nothing of the tree.
    Pulse,
}

/// Why a path is to be looked at.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Touch {
    /// A scan found that it differs from the manifest.
    Scan,
    /// Its inode changed, or its name: the stat decides.
    Meta,
    /// It was moved to this name, as complete as it ever was: the stat decides.
    Moved,
    /// Its content may have changed: it is read whatever the stat says.
    Data,
    /// Its content may have changed, and the writer has closed it: it is quiet sooner.
    Closed,
}

/// Where a watcher leaves hints: bounded, never blocking; what does not fit becomes [`Hint::Lost`].
#[derive(Clone, Debug)]
pub struct HintSender {
    sender: mpsc::Sender<Hint>,
    lost: Arc<AtomicBool>,
}

/// Where a folder's loop takes hints from.
#[derive(Debug)]
pub struct HintReceiver {
    receiver: mpsc::Receiver<Hint>,
    lost: Arc<AtomicBool>,
}

/// Makes a channel of `capacity` hints.
pub fn hints(capacity: usize) -> (HintSender, HintReceiver) {
    let (sender, receiver) = mpsc::channel(capacity);
    let lost = Arc::new(AtomicBool::new(false));
    (
        HintSender {
            sender,
            lost: lost.clone(),
        },
        HintReceiver { receiver, lost },
    )
}

impl HintSender {
    /// Leaves a hint. When the channel is full the hint is dropped and the receiver is told [`Hint::Lost`] instead.
    pub fn send(&self, hint: Hint) {
        if hint == Hint::Lost || self.sender.try_send(hint).is_err() {
            self.lost.store(true, Ordering::SeqCst);
            // Wakes a receiver that waits on an empty channel; a full one is awake anyway.
            let _ = self.sender.try_send(Hint::Lost);
        }
    }
}

impl HintReceiver {
    /// Returns the next hint; `None` when every sender is gone. Cancel-safe.
    ///
    /// [`Hint::Lost`] comes before the hints that were queued when it happened, once for any number of losses.
    pub async fn recv(&mut self) -> Option<Hint> {
        loop {
            if self.lost.swap(false, Ordering::SeqCst) {
                return Some(Hint::Lost);
            }
            match self.receiver.recv().await {
                // Only a waker: the flag says it, unless it has been taken already.
                Some(Hint::Lost) => {}
                other => return other,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touched(name: &str) -> Hint {
        Hint::Touched {
            path: RelPath::root().join(name.as_bytes()),
            touch: Touch::Data,
        }
    }

    #[tokio::test]
    async fn a_full_channel_says_lost_once_and_keeps_what_it_had() {
        let (sender, mut receiver) = hints(2);
        for name in ["a", "b", "c", "d"] {
            sender.send(touched(name));
        }
        drop(sender);
        assert_eq!(receiver.recv().await, Some(Hint::Lost));
        assert_eq!(receiver.recv().await, Some(touched("a")));
        assert_eq!(receiver.recv().await, Some(touched("b")));
        assert_eq!(receiver.recv().await, None);
    }

    #[tokio::test]
    async fn lost_wakes_a_receiver_that_waits() {
        let (sender, mut receiver) = hints(2);
        let waiting = receiver.recv();
        sender.send(Hint::Lost);
        assert_eq!(waiting.await, Some(Hint::Lost));
        drop(sender);
        assert_eq!(receiver.recv().await, None);
    }

    #[test]
    fn a_folder_sorts_as_the_paths_below_it_do() {
        let stat = |kind| Stat {
            kind,
            size: 0,
            mtime_ns: 0,
            ctime_ns: 0,
            dev: 0,
            ino: 0,
            mode: 0,
            uid: 0,
            gid: 0,
            nlink: 1,
        };
        let found = |name: &str, kind| Found {
            name: name.as_bytes().into(),
            stat: stat(kind),
            armed: true,
        };
        let mut listing = [
            found("a", Kind::Folder),
            found("a.txt", Kind::File),
            found("a-b", Kind::File),
        ];
        listing.sort_by(|x, y| x.order().cmp(y.order()));
        let names: Vec<_> = listing
            .iter()
            .map(|f| String::from_utf8_lossy(&f.name).into_owned())
            .collect();
        // "a-b" < "a.txt" < "a/anything", as bytes.
        assert_eq!(names, ["a-b", "a.txt", "a"]);
    }
}
