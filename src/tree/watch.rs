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
//!   path is disarmed there first, unless it is there under both.
//! - It keeps something of each folder that goes, so a tree starts over with a new watcher now and then.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use notify::event::{AccessKind, AccessMode, CreateKind, Flag, ModifyKind, RenameMode};
use notify::{Config, Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use crate::base::path::RelPath;
use crate::tree::armed::{Inode, Table};
use crate::tree::budget::Budget;
use crate::tree::{Hint, HintSender, Touch};

/// The watches of one tree.
///
/// [`Watch::arm`], [`Watch::disarm`], [`Watch::forget`] and [`Watch::round_trip`] wait for `notify`'s thread, and must not
/// be called from whoever drains the hints on that same thread.
pub struct Watch {
    root: PathBuf,
    hints: HintSender,
    watcher: Mutex<RecommendedWatcher>,
    table: Arc<Mutex<Table>>,
    marker: Arc<OnceLock<PathBuf>>,
}

/// Why a folder has no watch.
#[derive(Debug, thiserror::Error)]
pub enum ArmError {
    /// The path names nothing any more.
    #[error("it is gone")]
    Gone,
    /// Our share of the watches is used up, or the user has none left.
    #[error("no watches are left (sysctl fs.inotify.max_user_watches)")]
    Limit,
    /// The kernel refused otherwise.
    #[error("{0}")]
    Io(#[source] io::Error),
}

impl Watch {
    /// Starts a watcher without any watch, for the tree at the absolute path `root`.
    pub fn new(root: &Path, hints: HintSender, budget: Arc<Budget>) -> io::Result<Self> {
        let table = Arc::new(Mutex::new(Table::new(budget)));
        let marker = Arc::<OnceLock<PathBuf>>::default();
        let listener = Listener {
            root: root.to_path_buf(),
            hints: hints.clone(),
            table: table.clone(),
            marker: marker.clone(),
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
            hints,
            watcher: Mutex::new(watcher),
            table,
            marker,
        })
    }

    /// Arms the folder at `path`, which `inode` was found to be; arming again repairs a watch that was lost.
    ///
    /// When this returns the kernel's watch exists. Whether the path still named that folder is for the caller to check.
    /// `is_still` says whether another path names that folder, too.
    pub fn arm(
        &self,
        path: &RelPath,
        inode: Inode,
        is_still: impl Fn(&RelPath) -> bool,
    ) -> Result<(), ArmError> {
        self.make_room(path)?;
        let (other, is_another) = {
            let table = lock(&self.table);
            (table.other_name(path, inode), table.is_another(path, inode))
        };
        let mut stale: Vec<_> = other.filter(|other| !is_still(other)).into_iter().collect();
        stale.extend(is_another.then(|| path.clone()));
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

    /// Sees to it that one more folder can be armed, by polling a colder one if need be.
    fn make_room(&self, path: &RelPath) -> Result<(), ArmError> {
        let cold = {
            let mut table = lock(&self.table);
            if table.has_room(path) {
                return Ok(());
            }
            table.colder_than(path).ok_or(ArmError::Limit)?
        };
        // What it has told so far is not lost; what it will not tell, its polls find.
        self.round_trip().map_err(ArmError::Io)?;
        self.disarm(&cold);
        self.poll(&cold);
        Ok(())
    }

    /// Notes that the polled folder at `path` was found changed: it may take a colder folder's watch.
    pub fn prefer(&self, path: &RelPath) {
        lock(&self.table).prefer(path);
    }

    /// Takes the watch off `path`, if it has one.
    pub fn disarm(&self, path: &RelPath) {
        let other = lock(&self.table).remove(path.as_bytes());
        self.take_off(path, other);
    }

    /// Takes the watches off `path` and all below it: that folder is gone, or another one lies over it.
    pub fn forget(&self, path: &RelPath) {
        let gone = lock(&self.table).remove_within(path.as_bytes());
        for path in gone.names.iter().filter_map(|name| RelPath::new(name)) {
            self.take_off(&path, None);
        }
        for other in gone.others {
            self.hints.send(Hint::Folder(other));
        }
    }

    fn take_off(&self, path: &RelPath, other: Option<RelPath>) {
        // An error says only that there was no watch any more.
        let _ = self.watcher().unwatch(&path.under(&self.root));
        // The two names had one watch.
        if let Some(other) = other {
            self.hints.send(Hint::Folder(other));
        }
    }

    /// Returns true if `path` is armed as the folder `inode`, or polled.
    pub fn is_looked_after(&self, path: &RelPath, inode: Inode) -> bool {
        lock(&self.table).is_looked_after(path, inode)
    }

    /// Returns true if `path` is polled because it could not be armed.
    pub fn is_polled(&self, path: &RelPath) -> bool {
        lock(&self.table).is_polled(path)
    }

    /// Notes that the folder at `path` could not be armed, and is to be polled; returns true if it is the first one.
    pub fn poll(&self, path: &RelPath) -> bool {
        lock(&self.table).poll(path)
    }

    /// Notes that the folder at `path` is armed; returns true if it was the last one that was not.
    pub fn stop_polling(&self, path: &RelPath) -> bool {
        lock(&self.table).stop_polling(path)
    }

    /// Returns the folders that have come to be polled since it was asked last.
    pub fn take_news(&self) -> Vec<RelPath> {
        lock(&self.table).take_news()
    }

    /// Returns how many folders are armed, how many are polled, and how many armed ones have gone so far.
    pub fn counts(&self) -> (usize, usize, u64) {
        lock(&self.table).counts()
    }

    /// Opens the file at `marker`, the same one each time, having armed it: [`Hint::Pulse`] has to follow, through the same
    /// queue and thread as all that this tree's folders tell. False if there is no watch left for it.
    ///
    /// Only opened, and for reading: no disk has to be woken for it.
    pub fn pulse(&self, marker: &Path) -> io::Result<bool> {
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(flags.bits().cast_signed());
        if let Err(error) = options.open(marker) {
            if error.kind() != io::ErrorKind::NotFound {
                return Err(error);
            }
            let mut new = options.clone();
            new.write(true).create(true).mode(0o600).open(marker)?;
        }
        let marker = self.marker.get_or_init(|| marker.to_path_buf());
        // Each time: it may be another file by now.
        let added = self.watcher().watch(marker, RecursiveMode::NonRecursive);
        match added.map_err(|error| error.kind) {
            Ok(()) => {}
            Err(notify::ErrorKind::MaxFilesWatch) => return Ok(false),
            Err(notify::ErrorKind::Io(error)) => return Err(error),
            Err(kind) => return Err(io::Error::other(format!("{kind:?}"))),
        }
        options.open(marker).map(|_| true)
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
        "{why} (each watched tree takes one of fs.inotify.max_user_instances)"
    ))
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What runs on `notify`'s thread.
struct Listener {
    root: PathBuf,
    hints: HintSender,
    table: Arc<Mutex<Table>>,
    marker: Arc<OnceLock<PathBuf>>,
}

impl Listener {
    fn hear(&self, said: notify::Result<Event>) {
        match said {
            // First of all, because it has no path.
            Ok(event) if event.attrs.flag() == Some(Flag::Rescan) => self.hints.send(Hint::Lost),
            Ok(event) if self.is_of_marker(&event) => self.hints.send(Hint::Pulse),
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
        let (stranger, twins) = {
            let mut table = lock(&self.table);
            let parent = path.parent();
            let known = |path: &RelPath| table.is_armed(path);
            let stranger = !known(&path) && parent.as_ref().is_some_and(|parent| !known(parent));
            if let Some(parent) = &parent {
                table.heard(parent);
            }
            // A folder with two names tells under one of them: what is in it, and what it is itself, has two as well.
            let mut twins = table.aliases(&path);
            if let Some(parent) = &parent {
                let twin = |parent: RelPath| parent.join(path.name());
                twins.extend(table.aliases(parent).into_iter().map(twin));
            }
            if is_leaving(kind) {
                for path in twins.iter().chain([&path]) {
                    table.remove_within(path.as_bytes());
                }
            }
            (parent.filter(|_| stranger), twins)
        };
        if let Some(parent) = stranger {
            // A folder that we hold for gone still tells: it is there after all, or under another name.
            self.hints.send(Hint::Folder(parent));
        }
        let is_new_folder = kind == EventKind::Create(CreateKind::Folder);
        for path in twins.into_iter().chain([path]) {
            self.hints.send(if is_new_folder || path.is_root() {
                Hint::Folder(path)
            } else {
                Hint::Touched { path, touch }
            });
        }
    }

    fn is_of_marker(&self, event: &Event) -> bool {
        let marker = self.marker.get();
        marker.is_some() && event.paths.first() == marker
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
        let table = Arc::new(Mutex::new(Table::new(Budget::given(1_000))));
        for (ino, name) in (1..).zip(armed) {
            lock(&table).insert(&path(name), (0, ino));
        }
        let listener = Listener {
            root: "/r".into(),
            hints: sender,
            table,
            marker: Arc::default(),
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
    async fn what_happens_to_the_marker_is_a_pulse_and_nothing_else() {
        let (listener, mut receiver) = listener(&[""]);
        let opened = || event(EventKind::Access(AccessKind::Open(AccessMode::Any)), "/s/m");
        listener.hear(Ok(opened()));
        listener.marker.set("/s/m".into()).expect("it was not set");
        listener.hear(Ok(opened()));
        drop(listener);
        assert_eq!(receiver.recv().await, Some(Hint::Pulse));
        assert_eq!(receiver.recv().await, None);
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

    #[tokio::test]
    async fn what_happens_in_a_folder_with_two_names_is_told_of_both() {
        let (listener, mut receiver) = listener(&["", "a", "a/x"]);
        lock(&listener.table).insert(&path("b"), (0, 2));
        lock(&listener.table).insert(&path("b/x"), (0, 3));
        listener.hear(Ok(event(EventKind::Modify(ModifyKind::Any), "/r/b/f")));
        let left = EventKind::Modify(ModifyKind::Name(RenameMode::From));
        listener.hear(Ok(event(left, "/r/b/x")));
        let counts = lock(&listener.table).counts();
        assert_eq!(counts, (3, 0, 2), "both names of the folder that left");
        drop(listener);
        let mut told = Vec::new();
        while let Some(hint) = receiver.recv().await {
            if let Hint::Touched { path, .. } = hint {
                told.push(path);
            }
        }
        told.dedup();
        assert_eq!(told, ["a/f", "b/f", "a/x", "b/x"].map(path));
    }

    #[test]
    fn a_folder_that_leaves_takes_all_below_it_out_of_the_table() {
        let (listener, _receiver) = listener(&["", "a", "a/b", "a-b", "a0", "a/b/c"]);
        listener.pass_on(
            Path::new("/r/a"),
            EventKind::Modify(ModifyKind::Name(RenameMode::From)),
            Touch::Meta,
        );
        let table = lock(&listener.table);
        for (name, is_left) in [("", true), ("a", false), ("a/b/c", false), ("a0", true)] {
            assert_eq!(table.is_armed(&path(name)), is_left, "{name}");
        }
    }
}
