//! The kernel's file events as hints: which path to look at, which folder may be new, or that events were lost.
//!
//! The only file that names `notify`. It never decides anything from an event, and its callback never blocks, looks at
//! the disk or logs: the callback runs on the thread that arms watches, and each moment it takes widens the window in
//! which a new folder has no watch.
//!
//! Folders are armed one by one, not recursively, by who lists them (add the watch, then list, then descend): `notify`'s
//! own recursion arms a new folder only after it has drained the whole queue, and what is written into it before is never
//! told. Two habits of `notify` 8.2 shape this file:
//!
//! - It removes a watch when an event says that its path has gone, after it has drained the queue. If a new folder has
//!   come to that path meanwhile and is armed already, it is the new folder's watch that goes. So the callback takes
//!   such a path and all below it out of the table before it passes the hint on; the hint leads to a scan, a scan arms
//!   every folder that it lists, whatever the table says, and that arming comes after the removal because both happen on
//!   the one thread.
//! - It knows watches by path. A folder that has moved and is armed under its new path is still known under the old one
//!   as well, and when that name goes its watch goes with it, unsaid. So a folder that the table knows under another
//!   path is disarmed there first.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use notify::event::{AccessKind, AccessMode, CreateKind, Flag, ModifyKind, RenameMode};
use notify::{Config, Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use crate::base::path::RelPath;
use crate::tree::{Hint, HintSender, Touch};

/// A device and an inode number: which folder a path names.
pub type Inode = (u64, u64);

/// The watches of one tree.
///
/// Every method but [`Watch::is_armed`] and [`Watch::unwatched`] is a round trip to `notify`'s thread, and must not be
/// called from whoever drains the hints on that same thread.
pub struct Watch {
    root: PathBuf,
    watcher: Mutex<RecommendedWatcher>,
    table: Arc<Mutex<Table>>,
}

/// Why a folder has no watch.
#[derive(Debug, thiserror::Error)]
pub enum ArmError {
    /// The path names nothing any more.
    #[error("it is gone")]
    Gone,
    /// The user has no watches left.
    #[error("no watches are left (sysctl fs.inotify.max_user_watches)")]
    Limit,
    /// The kernel refused otherwise.
    #[error("{0}")]
    Io(#[source] io::Error),
}

impl Watch {
    /// Starts a watcher without any watch, for the tree at the absolute path `root`.
    pub fn new(root: &Path, hints: HintSender) -> io::Result<Self> {
        let table = Arc::new(Mutex::new(Table::default()));
        let listener = Listener {
            root: root.to_path_buf(),
            hints,
            table: table.clone(),
        };
        let config = Config::default().with_follow_symlinks(false);
        let mut watcher = RecommendedWatcher::new(move |said| listener.hear(said), config)
            .map_err(|error| starting(&error.to_string()))?;
        // `notify` does not say if its thread could not be started, and panics at the first use without it, also when it
        // is dropped.
        if let Err(error) = watcher.configure(config) {
            std::mem::forget(watcher);
            return Err(starting(&error.to_string()));
        }
        Ok(Self {
            root: root.to_path_buf(),
            watcher: Mutex::new(watcher),
            table,
        })
    }

    /// Arms the folder at `path`, which `inode` was found to be; arming again repairs a watch that was lost.
    ///
    /// When this returns the kernel's watch exists. Whether the path still named that folder is for the caller to check.
    pub fn arm(&self, path: &RelPath, inode: Inode) -> Result<(), ArmError> {
        let stale = lock(&self.table).stale_names(path, inode);
        if !stale.is_empty() {
            // What is still queued under the old name would be dropped with its watch.
            self.round_trip().map_err(ArmError::Io)?;
            for name in &stale {
                self.disarm(name);
            }
        }
        // Before the watch is added: a removal that the callback hears from now on finds the entry.
        lock(&self.table).insert(path, inode);
        let added = self
            .watcher()
            .watch(&path.under(&self.root), RecursiveMode::NonRecursive);
        added.map_err(|error| {
            lock(&self.table).remove(path.as_bytes());
            match error.kind {
                notify::ErrorKind::PathNotFound => ArmError::Gone,
                notify::ErrorKind::MaxFilesWatch => ArmError::Limit,
                notify::ErrorKind::Io(error) => match error.kind() {
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => ArmError::Gone,
                    _ => ArmError::Io(error),
                },
                kind => ArmError::Io(io::Error::other(format!("{kind:?}"))),
            }
        })
    }

    /// Takes the watch off `path`, if it has one.
    pub fn disarm(&self, path: &RelPath) {
        lock(&self.table).remove(path.as_bytes());
        // An error says only that there was no watch any more.
        let _ = self.watcher().unwatch(&path.under(&self.root));
    }

    /// Takes the watches off `path` and all below it: that folder is gone.
    pub fn forget(&self, path: &RelPath) {
        let gone = lock(&self.table).remove_within(path.as_bytes());
        for bytes in gone {
            if let Some(path) = RelPath::new(&bytes) {
                let _ = self.watcher().unwatch(&path.under(&self.root));
            }
        }
    }

    /// Returns true if `path` is armed as the folder `inode`.
    pub fn is_armed(&self, path: &RelPath, inode: Inode) -> bool {
        lock(&self.table).armed.get(path.as_bytes()) == Some(&inode)
    }

    /// Notes that the folder at `path` could not be armed; returns true if it is the first one.
    pub fn note_unwatched(&self, path: &RelPath) -> bool {
        let mut table = lock(&self.table);
        let first = table.unwatched.is_empty();
        table.unwatched.insert(Arc::from(path.as_bytes()));
        first
    }

    /// Notes that the folder at `path` is armed; returns true if it was the last one that was not.
    pub fn note_watched(&self, path: &RelPath) -> bool {
        let mut table = lock(&self.table);
        table.unwatched.remove(path.as_bytes()) && table.unwatched.is_empty()
    }

    /// Returns how many folders could not be armed.
    pub fn unwatched(&self) -> usize {
        lock(&self.table).unwatched.len()
    }

    /// Returns when every event that the kernel had queued before the call has become a hint.
    pub fn round_trip(&self) -> io::Result<()> {
        let mut watcher = self.watcher();
        // Twice: the thread may have been just about to leave its loop over messages, and answer the first one from
        // there; after that it has to wait in epoll, which yields what was ready first, the events, first.
        for _ in 0..2 {
            watcher
                .configure(Config::default())
                .map_err(|error| io::Error::other(error.to_string()))?;
        }
        Ok(())
    }

    fn watcher(&self) -> MutexGuard<'_, RecommendedWatcher> {
        self.watcher.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn starting(why: &str) -> io::Error {
    io::Error::other(format!(
        "start watching: {why} (each watched folder takes one of sysctl fs.inotify.max_user_instances)"
    ))
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Which folders are armed.
///
/// Invariant: `armed` and `names` are each other's inverse. What is in here may have lost its watch to a race; what is
/// not may still have one. Both only cost a listing, see the module's docs.
#[derive(Default)]
struct Table {
    armed: BTreeMap<Arc<[u8]>, Inode>,
    names: HashMap<Inode, Arc<[u8]>>,
    unwatched: BTreeSet<Arc<[u8]>>,
}

impl Table {
    /// Returns the other path under which `inode` is armed, and `path` if it is armed as another folder.
    fn stale_names(&self, path: &RelPath, inode: Inode) -> Vec<RelPath> {
        let elsewhere = self.names.get(&inode);
        let elsewhere = elsewhere.filter(|name| &***name != path.as_bytes());
        let other = self.armed.get(path.as_bytes()).filter(|is| **is != inode);
        elsewhere
            .and_then(|name| RelPath::new(name))
            .into_iter()
            .chain(other.map(|_| path.clone()))
            .collect()
    }

    fn insert(&mut self, path: &RelPath, inode: Inode) {
        let name: Arc<[u8]> = Arc::from(path.as_bytes());
        if let Some(before) = self.names.insert(inode, name.clone())
            && before != name
        {
            self.armed.remove(&before);
        }
        if let Some(before) = self.armed.insert(name, inode)
            && before != inode
        {
            self.names.remove(&before);
        }
    }

    fn remove(&mut self, path: &[u8]) {
        if let Some(inode) = self.armed.remove(path) {
            self.names.remove(&inode);
        }
    }

    /// Removes `path` and all below it; returns which of them were armed.
    fn remove_within(&mut self, path: &[u8]) -> Vec<Arc<[u8]>> {
        // From "path/" up to but without "path0", the byte after the slash; the root holds everything.
        let from = [path, b"/"].concat();
        let to = [path, b"0"].concat();
        let below = if path.is_empty() {
            (Bound::Unbounded, Bound::Unbounded)
        } else {
            (
                Bound::Included(from.as_slice()),
                Bound::Excluded(to.as_slice()),
            )
        };
        let mut gone: Vec<_> = self
            .armed
            .range::<[u8], _>(below)
            .map(|(name, _)| name.clone())
            .collect();
        gone.extend(
            self.armed
                .get_key_value(path)
                .filter(|_| !path.is_empty())
                .map(|(name, _)| name.clone()),
        );
        for name in &gone {
            self.remove(name);
        }
        let blind: Vec<_> = self.unwatched.range::<[u8], _>(below).cloned().collect();
        for name in blind {
            self.unwatched.remove(&name);
        }
        self.unwatched.remove(path);
        gone
    }
}

/// What runs on `notify`'s thread.
struct Listener {
    root: PathBuf,
    hints: HintSender,
    table: Arc<Mutex<Table>>,
}

impl Listener {
    fn hear(&self, said: notify::Result<Event>) {
        match said {
            // First of all, because it has no path.
            Ok(event) if event.attrs.flag() == Some(Flag::Rescan) => self.hints.send(Hint::Lost),
            Ok(event) => {
                let Some(touch) = touch_of(event.kind) else {
                    return;
                };
                if event.paths.is_empty() {
                    self.hints.send(Hint::Lost);
                }
                for path in &event.paths {
                    self.pass_on(path, event.kind, touch);
                }
            }
            Err(error) if error.paths.is_empty() => self.hints.send(Hint::Lost),
            Err(error) => {
                for path in &error.paths {
                    match self.relative(path) {
                        Some(path) => self.hints.send(Hint::Folder(path)),
                        None => self.hints.send(Hint::Lost),
                    }
                }
            }
        }
    }

    fn pass_on(&self, path: &Path, kind: EventKind, touch: Touch) {
        let Some(path) = self.relative(path) else {
            // Cannot be ours if it is elsewhere; below the root, but no path that could be: something is wrong.
            if path.starts_with(&self.root) {
                self.hints.send(Hint::Lost);
            }
            return;
        };
        let parent = path.parent();
        let stranger = {
            let mut table = lock(&self.table);
            let known = |path: &RelPath| table.armed.contains_key(path.as_bytes());
            let stranger = !known(&path) && parent.as_ref().is_some_and(|parent| !known(parent));
            if is_leaving(kind) {
                table.remove_within(path.as_bytes());
            }
            stranger
        };
        if let Some(parent) = parent.filter(|_| stranger) {
            // A folder that we hold for gone still tells: it is there after all, or under another name.
            self.hints.send(Hint::Folder(parent));
        }
        let is_new_folder = kind == EventKind::Create(CreateKind::Folder);
        self.hints.send(if is_new_folder || path.is_root() {
            Hint::Folder(path)
        } else {
            Hint::Touched { path, touch }
        });
    }

    fn relative(&self, path: &Path) -> Option<RelPath> {
        RelPath::below(&self.root, path)
    }
}

/// Returns true if `notify` will take the watch of the event's path away.
fn is_leaving(kind: EventKind) -> bool {
    matches!(
        kind,
        EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(RenameMode::From))
    )
}

/// Returns what kind of look an event deserves; `None` if it says nothing.
fn touch_of(kind: EventKind) -> Option<Touch> {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => Some(Touch::Closed),
        EventKind::Modify(ModifyKind::Name(RenameMode::To)) => Some(Touch::Moved),
        // Opening and reading, our own included. And a rename's summary: both halves have been told already.
        EventKind::Access(_) | EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => None,
        EventKind::Modify(ModifyKind::Name(_) | ModifyKind::Metadata(_)) | EventKind::Remove(_) => {
            Some(Touch::Meta)
        }
        EventKind::Create(_) | EventKind::Modify(_) | EventKind::Any | EventKind::Other => {
            Some(Touch::Data)
        }
    }
}

#[cfg(test)]
mod tests {
    use notify::event::{DataChange, MetadataKind, RemoveKind};

    use super::*;
    use crate::tree::{HintReceiver, hints};

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).expect("a valid path")
    }

    fn listener(armed: &[&str]) -> (Listener, HintReceiver) {
        let (sender, receiver) = hints(64);
        let table = Arc::new(Mutex::new(Table::default()));
        for (ino, name) in (1..).zip(armed) {
            lock(&table).insert(&path(name), (0, ino));
        }
        let listener = Listener {
            root: "/r".into(),
            hints: sender,
            table,
        };
        (listener, receiver)
    }

    async fn heard(armed: &[&str], said: Vec<notify::Result<Event>>) -> Vec<Hint> {
        let (listener, mut receiver) = listener(armed);
        for one in said {
            listener.hear(one);
        }
        drop(listener);
        let mut all = Vec::new();
        while let Some(hint) = receiver.recv().await {
            all.push(hint);
        }
        all
    }

    fn event(kind: EventKind, at: &str) -> Event {
        Event::new(kind).add_path(at.into())
    }

    #[tokio::test]
    async fn each_event_becomes_its_hint() {
        let touched = |touch| {
            vec![Hint::Touched {
                path: path("f"),
                touch,
            }]
        };
        let name = |mode| EventKind::Modify(ModifyKind::Name(mode));
        let table = [
            (EventKind::Access(AccessKind::Open(AccessMode::Any)), vec![]),
            (
                EventKind::Access(AccessKind::Close(AccessMode::Read)),
                vec![],
            ),
            (
                EventKind::Access(AccessKind::Close(AccessMode::Write)),
                touched(Touch::Closed),
            ),
            (
                EventKind::Create(CreateKind::Folder),
                vec![Hint::Folder(path("f"))],
            ),
            (EventKind::Create(CreateKind::File), touched(Touch::Data)),
            (
                EventKind::Modify(ModifyKind::Data(DataChange::Any)),
                touched(Touch::Data),
            ),
            (EventKind::Modify(ModifyKind::Any), touched(Touch::Data)),
            (
                EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any)),
                touched(Touch::Meta),
            ),
            (EventKind::Remove(RemoveKind::Folder), touched(Touch::Meta)),
            (name(RenameMode::From), touched(Touch::Meta)),
            (name(RenameMode::To), touched(Touch::Moved)),
            (name(RenameMode::Both), vec![]),
        ];
        for (kind, expected) in table {
            assert_eq!(
                heard(&[""], vec![Ok(event(kind, "/r/f"))]).await,
                expected,
                "{kind:?}"
            );
        }
    }

    #[tokio::test]
    async fn what_cannot_be_placed_is_lost_and_what_is_elsewhere_is_not_ours() {
        let rescan = Ok(Event::new(EventKind::Other).set_flag(Flag::Rescan));
        assert_eq!(heard(&[""], vec![rescan]).await, [Hint::Lost]);
        let no_path = Ok(Event::new(EventKind::Any));
        assert_eq!(heard(&[""], vec![no_path]).await, [Hint::Lost]);
        let error = Err(notify::Error::generic("odd"));
        assert_eq!(heard(&[""], vec![error]).await, [Hint::Lost]);
        let above = event(EventKind::Any, "/r/../x");
        assert_eq!(heard(&[""], vec![Ok(above)]).await, [Hint::Lost]);
        let elsewhere = event(EventKind::Any, "/rx/y");
        assert_eq!(heard(&[""], vec![Ok(elsewhere)]).await, []);
    }

    #[tokio::test]
    async fn an_event_on_the_root_asks_for_the_root() {
        let removed = event(EventKind::Remove(RemoveKind::Folder), "/r");
        assert_eq!(
            heard(&[""], vec![Ok(removed)]).await,
            [Hint::Folder(RelPath::root())]
        );
    }

    #[tokio::test]
    async fn an_event_below_a_folder_that_is_not_armed_asks_for_that_folder() {
        let data = event(EventKind::Modify(ModifyKind::Any), "/r/a/b/f");
        let expected = [
            Hint::Folder(path("a/b")),
            Hint::Touched {
                path: path("a/b/f"),
                touch: Touch::Data,
            },
        ];
        assert_eq!(heard(&["", "a"], vec![Ok(data)]).await, expected);
    }

    #[test]
    fn a_folder_that_leaves_takes_all_below_it_out_of_the_table() {
        let (listener, _receiver) = listener(&["", "a", "a/b", "a-b", "a0", "a/b/c"]);
        lock(&listener.table)
            .unwatched
            .insert(Arc::from(&b"a/x"[..]));
        listener.pass_on(
            Path::new("/r/a"),
            EventKind::Modify(ModifyKind::Name(RenameMode::From)),
            Touch::Meta,
        );
        let table = lock(&listener.table);
        let left: Vec<_> = table
            .armed
            .keys()
            .map(|k| String::from_utf8_lossy(k).into_owned())
            .collect();
        assert_eq!(left, ["", "a-b", "a0"]);
        assert_eq!(table.names.len(), 3);
        assert!(table.unwatched.is_empty());
    }

    #[test]
    fn a_folder_has_one_name_in_the_table() {
        let mut table = Table::default();
        table.insert(&path("a"), (1, 1));
        assert_eq!(table.stale_names(&path("b"), (1, 1)), [path("a")]);
        assert_eq!(table.stale_names(&path("a"), (1, 2)), [path("a")]);
        assert!(table.stale_names(&path("a"), (1, 1)).is_empty());
        table.insert(&path("b"), (1, 1));
        assert_eq!((table.armed.len(), table.names.len()), (1, 1));
        table.insert(&path("b"), (1, 2));
        assert_eq!((table.armed.len(), table.names.len()), (1, 1));
    }
}
