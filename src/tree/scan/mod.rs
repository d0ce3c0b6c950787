//! A walk merged with the manifest: which paths differ.
//!
//! One function for the start, a new folder, a folder that moved in, and the rescan. Both sides come in the order of
//! their paths' bytes, so one pass finds every path that is on one side only or differs. It only finds: what a path that
//! differs needs is decided by who looks at it again.
//!
//! # What differs
//!
//! A file without a row, with a row that is not settled or is kept for a file that was gone, with another stat (owner and
//! mode count: they are kept too), or with a row that was read too close to the file's last change.
//!
//! # What is missing
//!
//! A row without its file, unless that is no news. It counts as missing only if the folder in which its name, or the
//! name of a folder above it, should have been was listed without an error. Below a folder that went away on the way to
//! it a row merely differs.
//!
//! # What is left alone
//!
//! Rows below a folder that could not be listed (unknown is not missing), rows of paths that are left out (excluding
//! never deletes), rows below a folder that is not entered, and both sides of a filesystem that is not mounted.
//!
//! # Bounds
//!
//! A step does a bounded amount of work. In memory are the listings of the folders on the way down, one page of rows and
//! one of folders.
//! Nothing recurses, however deep the tree.

mod cursor;
mod folders;

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::base::path::RelPath;
use crate::base::stat::{FolderStamp, Kind, Stat};
use crate::tree::filter::Filter;
use crate::tree::filter::reason::Reason;
use crate::tree::scan::cursor::Cursor;
use crate::tree::{Found, Tree};

pub use folders::{Folder, FolderNews};

/// How many names and rows one step looks at, about 20 ms of cold disk: a step can be waited for when stopping.
const WORK: usize = 2_000;

/// What the manifest knows of one path, as far as a scan asks.
#[derive(Clone, PartialEq, Debug)]
pub struct Known {
    /// The path.
    pub path: RelPath,
    /// The file's stat when its stored content was read.
    pub stat: Option<Stat>,
    /// Wall clock when that reading began, nanoseconds.
    pub read_at_ns: i64,
    /// False for a row that has to be looked at whatever the disk says: open, unsent, ambiguous, doubtful.
    pub settled: bool,
    /// True if the file is known to be gone: missing is then no news, but being there is.
    pub kept: bool,
    /// The version of the file that a person is asked about, or has refused: it is no news either.
    pub held_seen: Option<String>,
}

/// Where a scan takes rows from.
pub trait Rows: Send {
    /// Returns the first `limit` rows below the folder `within` whose paths sort after `after` by their bytes, sorted so.
    ///
    /// `after` need not exist, nor be below `within`. Fewer than `limit` rows mean that there are no more.
    fn page(
        &mut self,
        within: &RelPath,
        after: &RelPath,
        limit: usize,
    ) -> anyhow::Result<Vec<Known>>;

    /// Returns the first `limit` folders on record below `within` that a walk meets after `after`, in its order: that of
    /// their paths with a `/` behind. By default none is on record.
    fn folders(
        &mut self,
        within: &RelPath,
        after: &RelPath,
        limit: usize,
    ) -> anyhow::Result<Vec<Folder>> {
        let _ = (within, after, limit);
        Ok(Vec::new())
    }

    /// Returns what is on record of one folder. By default nothing is.
    fn folder(&mut self, path: &RelPath) -> anyhow::Result<Option<FolderStamp>> {
        let _ = path;
        Ok(None)
    }
}

/// What is scanned.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Scope {
    /// The folder to begin with.
    pub folder: RelPath,
    /// How far down.
    pub depth: Depth,
}

/// How far down a scan goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Depth {
    /// Everything below.
    Full,
    /// This folder's own names, and everything below those of its folders that were not armed yet.
    NewFolders,
}

/// Why a name is not for the bucket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SkipReason {
    /// A symbolic link; links are not followed.
    Symlink,
    /// A symbolic link whose recorded name is another file's.
    Collision,
    /// A FIFO, socket or device.
    Special,
    /// A top-level `.tidewatch`.
    Reserved,
    /// A folder that contains itself (a bind mount); not entered again.
    Loop,
}

/// Shows the reason for people, to stand behind "skipped: ".
impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Symlink => "a symbolic link, which is not followed",
            Self::Collision => "a symbolic link, and a file has the name that would record it",
            Self::Special => "a FIFO, socket or device",
            Self::Reserved => "`.tidewatch` at the top is the agent's own name",
            Self::Loop => "a folder that contains itself",
        })
    }
}

/// What a step found.
#[derive(Debug, Default)]
pub struct Step {
    /// The paths that differ, with the file's length in bytes; 0 for one that could not be judged.
    pub differing: Vec<(RelPath, u64)>,
    /// Rows whose file is missing from a clean listing, and the folder that was listed.
    pub missing: Vec<(RelPath, RelPath)>,
    /// How many files are as the manifest knows them.
    pub unchanged: u64,
    /// How many names were left out by the filter.
    pub excluded: u64,
    /// Names that are not for the bucket, each once a scan.
    pub skipped: Vec<(RelPath, SkipReason)>,
    /// Folders that differ from what is on record of them.
    pub folders: Vec<FolderNews>,
    /// Folders that could not be listed; what is below them is unknown.
    pub unreadable: Vec<(RelPath, io::Error)>,
    /// True if this was the last step.
    pub done: bool,
}

/// A scan that can be stopped between two steps and gone on with, or dropped.
pub struct Scanner {
    tree: Arc<dyn Tree>,
    filter: Arc<Filter>,
    /// Wall clock that ages are judged by, nanoseconds.
    now_ns: Option<i64>,
    scope: Scope,
    rows: Box<dyn Rows>,
    files: Cursor<Known>,
    folders: Cursor<Folder>,
    /// The folders on the way down, the lowest last. Empty before the first step and after the walk.
    way: Vec<Level>,
    stage: Stage,
    /// The folder that went away last: what is below it was not listed. The walk is sorted, so one is enough.
    vanished: Option<RelPath>,
    /// What has been found and not been returned yet: an error of the rows loses nothing.
    step: Step,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Begin,
    Walk,
    /// The walk is over; rows may be left.
    Rest,
    Done,
}

/// A folder on the way down.
struct Level {
    folder: RelPath,
    /// Device and inode: what a loop is known by.
    inode: (u64, u64),
    names: std::vec::IntoIter<Found>,
    depth: Depth,
    /// False for the folders above the scope, which are not listed.
    listed: bool,
    /// A name that was taken from `names` and waits for the rows before it to be gone through.
    next: Option<Found>,
}

impl Scanner {
    /// Makes a scan; nothing is read before the first step.
    pub fn new(
        tree: Arc<dyn Tree>,
        rows: Box<dyn Rows>,
        filter: Arc<Filter>,
        scope: Scope,
    ) -> Self {
        Self {
            tree,
            filter,
            now_ns: None,
            rows,
            files: Cursor::new(scope.folder.clone()),
            folders: Cursor::new(scope.folder.clone()),
            scope,
            way: Vec::new(),
            stage: Stage::Begin,
            vanished: None,
            step: Step::default(),
        }
    }

    /// Judges ages as they are at this wall clock, nanoseconds. Without it no file is left out for its size or age.
    #[must_use]
    pub fn at(mut self, now_ns: i64) -> Self {
        self.now_ns = Some(now_ns);
        self
    }

    /// Returns what is scanned.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Goes on until `limit` paths differ, or some thousand names have been looked at, or everything has. Blocks.
    ///
    /// The error is the rows'; the scan stands where it was and can be gone on with.
    pub fn step(&mut self, limit: usize) -> anyhow::Result<Step> {
        let mut work = 0;
        while self.stage != Stage::Done
            && work < WORK
            && self.step.differing.len() + self.step.missing.len() + self.step.folders.len() < limit
        {
            work += 1;
            match self.stage {
                Stage::Begin => self.begin()?,
                Stage::Walk => self.advance()?,
                Stage::Rest => {
                    if !self.pass_row(None)? {
                        self.stage = Stage::Done;
                    }
                }
                Stage::Done => {}
            }
        }
        let mut step = std::mem::take(&mut self.step);
        step.done = self.stage == Stage::Done;
        Ok(step)
    }

    fn begin(&mut self) -> anyhow::Result<()> {
        let folder = self.scope.folder.clone();
        // The folders above count as the way down too: a scan may begin below a loop's beginning.
        let mut above = folder.parent();
        while let Some(path) = above {
            if let Ok(stat) = self.tree.stat(&path) {
                self.way.push(Level {
                    folder: path.clone(),
                    inode: (stat.dev, stat.ino),
                    names: Vec::new().into_iter(),
                    depth: Depth::NewFolders,
                    listed: false,
                    next: None,
                });
            }
            above = path.parent();
        }
        self.way.reverse();
        // A hint may have named a folder that is left out: it is neither watched nor walked.
        if !folder.is_root() && self.filter.excludes(&folder, Kind::Folder).is_some() {
            self.stage = Stage::Walk;
            self.skip_below(&folder);
            self.step.excluded += 1;
            return Ok(());
        }
        let stat = self.tree.stat(&folder).ok();
        let inode = stat.map_or((0, 0), |stat| (stat.dev, stat.ino));
        let is_listed = self.enter(folder.clone(), inode, self.scope.depth);
        self.stage = Stage::Walk;
        match stat.filter(|_| is_listed && !folder.is_root()) {
            Some(stat) => self.met_first(&folder, &stat),
            None => Ok(()),
        }
    }

    /// Leaves everything on record below a folder alone.
    fn skip_below(&mut self, folder: &RelPath) {
        self.files.skip_below(folder);
        self.folders.skip_below(folder);
    }

    /// Takes one step of the walk: one row before the next name, or the name itself, or the way up.
    fn advance(&mut self) -> anyhow::Result<()> {
        let Some(level) = self.way.last_mut() else {
            self.stage = Stage::Rest;
            return Ok(());
        };
        let Some(found) = level.next.take().or_else(|| level.names.next()) else {
            // What is on record behind its last name is its own to judge.
            let folder = level.folder.clone();
            let row = self.files.peek(&mut *self.rows)?;
            if row.is_some_and(|row| row.path.is_within(&folder)) && self.pass_row(None)? {
                return Ok(());
            }
            let known = self.folders.peek(&mut *self.rows)?;
            if !(known.is_some_and(|known| known.path.is_within(&folder))
                && self.pass_folder(None)?)
            {
                self.way.pop();
            }
            return Ok(());
        };
        let path = level.folder.join(&found.name);
        let depth = level.depth;
        let is_folder = found.stat.kind == Kind::Folder;
        let passed = match self.pass_row(Some((&path, is_folder))) {
            Ok(false) => self.pass_folder(Some((&path, is_folder))),
            passed => passed,
        };
        match passed {
            Ok(false) => {
                let row = (found.stat.kind == Kind::File).then(|| self.files.take_equal(&path));
                self.look(path, &found, row.flatten(), depth);
                Ok(())
            }
            not_yet => {
                if let Some(level) = self.way.last_mut() {
                    level.next = Some(found);
                }
                not_yet.map(drop)
            }
        }
    }

    /// Looks at a name; the rows before it have been gone through.
    fn look(&mut self, path: RelPath, found: &Found, row: Option<Known>, depth: Depth) {
        // It is there, whatever is made of it.
        let is_folder = found.stat.kind == Kind::Folder;
        let known = is_folder.then(|| self.folders.take_equal(&path)).flatten();
        let reason = match self.now_ns {
            Some(now_ns) => self.filter.leaves_out(&path, &found.stat, now_ns),
            None => self.filter.excludes(&path, found.stat.kind),
        };
        match reason {
            Some(Reason::Reserved) => {
                self.step.skipped.push((path, SkipReason::Reserved));
                return;
            }
            Some(_) => {
                self.step.excluded += 1;
                return;
            }
            None => {}
        }
        match found.stat.kind {
            Kind::File if row.is_some_and(|row| is_level(&row, &found.stat)) => {
                self.step.unchanged += 1;
            }
            Kind::File => self.step.differing.push((path, found.stat.size)),
            Kind::Symlink => {
                // A tree that presents links under another name leaves only those that cannot be.
                let is_recorded = self.tree.alias(&path).is_some();
                let why = if is_recorded {
                    SkipReason::Collision
                } else {
                    SkipReason::Symlink
                };
                self.step.skipped.push((path, why));
            }
            Kind::Special => self.step.skipped.push((path, SkipReason::Special)),
            Kind::Folder if depth == Depth::NewFolders && found.armed => {
                self.skip_below(&path);
                self.met(&path, &found.stat, known);
            }
            Kind::Folder => {
                let inode = (found.stat.dev, found.stat.ino);
                // A folder whose stat was refused has no inode to compare.
                if inode != (0, 0) && self.way.iter().any(|level| level.inode == inode) {
                    self.skip_below(&path);
                    self.step.skipped.push((path, SkipReason::Loop));
                } else if self.enter(path.clone(), inode, Depth::Full) && inode != (0, 0) {
                    self.met(&path, &found.stat, known);
                }
            }
        }
    }

    /// Lists a folder and makes it the lowest on the way; returns whether it could. One that is gone leaves its rows to be
    /// found without files.
    fn enter(&mut self, folder: RelPath, inode: (u64, u64), depth: Depth) -> bool {
        if self.tree.is_away(&folder) {
            self.skip_below(&folder);
            let error = io::Error::other("its filesystem is not mounted");
            self.step.unreadable.push((folder, error));
            return false;
        }
        let error = match self.tree.list(&folder) {
            Ok(names) => {
                self.filter.listed(&folder, &names);
                self.way.push(Level {
                    folder,
                    inode,
                    names: names.into_iter(),
                    depth,
                    listed: true,
                    next: None,
                });
                return true;
            }
            Err(error) => error,
        };
        let is_gone = matches!(
            error.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
        );
        // A root that is not there is away, and says nothing about what was in it.
        if !is_gone || folder.is_root() {
            self.skip_below(&folder);
            self.step.unreadable.push((folder, error));
        } else {
            self.vanished = Some(folder);
        }
        false
    }

    /// Goes through one row before the given name (for a folder: before what is below it), or any row; returns false if
    /// there is none.
    fn pass_row(&mut self, before: Option<(&RelPath, bool)>) -> anyhow::Result<bool> {
        let Some(row) = self.files.peek(&mut *self.rows)? else {
            return Ok(false);
        };
        let passed = before.is_none_or(|(name, is_folder)| {
            // Below the folder "a" all paths begin with "a/", and "a-b" sorts before them.
            let slash = is_folder.then_some(b'/');
            let name = name.as_bytes().iter().copied().chain(slash);
            row.path.as_bytes().iter().copied().lt(name)
        });
        if !passed {
            return Ok(false);
        }
        let is_judged = !row.kept && !self.tree.is_away(&row.path);
        if is_judged && self.filter.excludes(&row.path, Kind::File).is_none() {
            let path = row.path.clone();
            let listed = self
                .way
                .last()
                .filter(|level| level.listed && path.is_within(&level.folder));
            let vanished = self
                .vanished
                .as_ref()
                .is_some_and(|folder| path.is_within(folder));
            match listed {
                Some(level) if !vanished => self.step.missing.push((path, level.folder.clone())),
                _ => self.step.differing.push((path, 0)),
            }
        }
        self.files.drop_first();
        Ok(true)
    }
}

/// Returns true if nothing says that the file is not as the manifest knows it.
fn is_level(row: &Known, now: &Stat) -> bool {
    let Some(stat) = &row.stat else {
        return false;
    };
    if row
        .held_seen
        .as_ref()
        .is_some_and(|seen| *seen == now.fingerprint())
    {
        return true;
    }
    let same_inode_facts = (stat.mode, stat.uid, stat.gid) == (now.mode, now.uid, now.gid);
    row.settled
        && !row.kept
        && stat.same_content_as(now)
        && same_inode_facts
        && !stat.is_racy(row.read_at_ns)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::tree::scan::cursor::PAGE;
    use crate::tree::{Identity, OpenFile, ReadError};

    /// A tree in memory: paths with their stats, folders with what listing them answers.
    #[derive(Clone, Default)]
    struct Fake {
        at: BTreeMap<RelPath, Stat>,
        refused: BTreeMap<RelPath, io::ErrorKind>,
        armed: BTreeSet<RelPath>,
    }

    impl Tree for Fake {
        fn identity(&self) -> io::Result<Identity> {
            unreachable!("a scan does not ask")
        }

        fn list(&self, folder: &RelPath) -> io::Result<Vec<Found>> {
            if let Some(kind) = self.refused.get(folder) {
                return Err((*kind).into());
            }
            let mut found: Vec<_> = self
                .at
                .iter()
                .filter(|(path, _)| path.parent().as_ref() == Some(folder))
                .map(|(path, stat)| Found {
                    name: path.name().into(),
                    stat: *stat,
                    armed: self.armed.contains(path),
                })
                .collect();
            found.sort_by(|a, b| a.order().cmp(b.order()));
            Ok(found)
        }

        fn stat(&self, path: &RelPath) -> io::Result<Stat> {
            if path.is_root() {
                return Ok(stat(Kind::Folder, 1));
            }
            self.at
                .get(path)
                .copied()
                .ok_or(io::ErrorKind::NotFound.into())
        }

        fn open(&self, _: &RelPath) -> Result<Box<dyn OpenFile>, ReadError> {
            unreachable!("a scan does not read")
        }
    }

    struct Table {
        rows: BTreeMap<RelPath, Known>,
        folders: BTreeMap<RelPath, FolderStamp>,
        fails: usize,
    }

    impl Rows for Table {
        fn folders(
            &mut self,
            within: &RelPath,
            after: &RelPath,
            limit: usize,
        ) -> anyhow::Result<Vec<Folder>> {
            let slashed = |path: &RelPath| [path.as_bytes(), b"/"].concat();
            let is_below = |path: &RelPath| path != within && path.is_within(within);
            let is_after = |path: &RelPath| after.is_root() || slashed(path) > slashed(after);
            let mut found: Vec<Folder> = self
                .folders
                .iter()
                .filter(|(path, _)| is_below(path) && is_after(path))
                .map(|(path, stamp)| Folder {
                    path: path.clone(),
                    stamp: *stamp,
                })
                .collect();
            found.sort_by_key(|folder| slashed(&folder.path));
            found.truncate(limit);
            Ok(found)
        }

        fn folder(&mut self, path: &RelPath) -> anyhow::Result<Option<FolderStamp>> {
            Ok(self.folders.get(path).copied())
        }

        fn page(
            &mut self,
            within: &RelPath,
            after: &RelPath,
            limit: usize,
        ) -> anyhow::Result<Vec<Known>> {
            if self.fails > 0 {
                self.fails -= 1;
                anyhow::bail!("no rows today");
            }
            Ok(self
                .rows
                .values()
                .filter(|row| row.path.is_within(within) && row.path > *after)
                .take(limit)
                .cloned()
                .collect())
        }
    }

    fn stat(kind: Kind, ino: u64) -> Stat {
        Stat {
            kind,
            size: 7,
            mtime_ns: 5,
            ctime_ns: 5,
            dev: 1,
            ino,
            mode: 0o644,
            uid: 0,
            gid: 0,
            nlink: 1,
        }
    }

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).expect("a valid path")
    }

    /// A path with a slash at its end is a folder. Inode numbers count from 2.
    fn fake(paths: &[&str]) -> Fake {
        let mut fake = Fake::default();
        for (ino, text) in (2..).zip(paths) {
            let kind = match text.strip_suffix('/') {
                Some(_) => Kind::Folder,
                None => Kind::File,
            };
            let at = path(text.trim_end_matches('/'));
            fake.at.insert(at, stat(kind, ino));
        }
        fake
    }

    /// Rows for all files of a tree, read long after their last change.
    fn level(tree: &Fake) -> BTreeMap<RelPath, Known> {
        let files = tree.at.iter().filter(|(_, stat)| stat.kind == Kind::File);
        files
            .map(|(at, stat)| (at.clone(), known(at, *stat)))
            .collect()
    }

    fn known(at: &RelPath, stat: Stat) -> Known {
        Known {
            path: at.clone(),
            stat: Some(stat),
            read_at_ns: 1_000_000_000_000,
            settled: true,
            kept: false,
            held_seen: None,
        }
    }

    struct Run {
        tree: Fake,
        rows: BTreeMap<RelPath, Known>,
        folders: BTreeMap<RelPath, FolderStamp>,
        exclude: Vec<String>,
        include: Vec<String>,
        folder: RelPath,
        depth: Depth,
    }

    impl Run {
        fn of(tree: &Fake, rows: BTreeMap<RelPath, Known>) -> Self {
            Self {
                tree: tree.clone(),
                rows,
                folders: BTreeMap::new(),
                exclude: Vec::new(),
                include: Vec::new(),
                folder: RelPath::root(),
                depth: Depth::Full,
            }
        }

        fn start(&self, fails: usize) -> Scanner {
            let filter = Filter::new(&self.exclude, &self.include, true).expect("good rules");
            let rows = Table {
                rows: self.rows.clone(),
                folders: self.folders.clone(),
                fails,
            };
            Scanner::new(
                Arc::new(self.tree.clone()),
                Box::new(rows),
                Arc::new(filter),
                Scope {
                    folder: self.folder.clone(),
                    depth: self.depth,
                },
            )
        }

        fn go(&self) -> Step {
            let mut all = Step::default();
            let mut scanner = self.start(0);
            while !all.done {
                add(&mut all, scanner.step(100).expect("rows"));
            }
            all
        }

        fn differing(&self) -> Vec<String> {
            names(&self.go())
        }
    }

    fn add(all: &mut Step, step: Step) {
        all.differing.extend(step.differing);
        all.missing.extend(step.missing);
        all.skipped.extend(step.skipped);
        all.unreadable.extend(step.unreadable);
        all.folders.extend(step.folders);
        all.unchanged += step.unchanged;
        all.excluded += step.excluded;
        all.done = step.done;
    }

    fn names(step: &Step) -> Vec<String> {
        let differing = step.differing.iter().map(|(at, _)| at);
        let mut all: Vec<_> = differing
            .chain(step.missing.iter().map(|(at, _)| at))
            .collect();
        all.sort();
        all.into_iter().map(ToString::to_string).collect()
    }

    const SOME: &[&str] = &[
        "a/", "a/x", "a/y", "a-b", "a.txt", "b/", "b/c/", "b/c/d", "e",
    ];

    #[test]
    fn a_level_tree_differs_nowhere_and_an_unknown_one_everywhere() {
        let tree = fake(SOME);
        let step = Run::of(&tree, level(&tree)).go();
        assert_eq!((names(&step).len(), step.unchanged), (0, 6));
        let unknown = Run::of(&tree, BTreeMap::new()).differing();
        // In the order of the paths' bytes.
        assert_eq!(unknown, ["a-b", "a.txt", "a/x", "a/y", "b/c/d", "e"]);
        let gone = Run::of(&Fake::default(), level(&tree)).differing();
        assert_eq!(gone, ["a-b", "a.txt", "a/x", "a/y", "b/c/d", "e"]);
    }

    type Change = fn(&mut Known);

    #[test]
    fn each_way_to_differ_is_found() {
        let tree = fake(&["f"]);
        let table: &[(&str, Change, bool)] = &[
            ("nothing", |_| {}, false),
            ("not settled", |row| row.settled = false, true),
            ("kept and back", |row| row.kept = true, true),
            ("no stat", |row| row.stat = None, true),
            ("read too soon", |row| row.read_at_ns = 6, true),
            ("size", |row| set(row, |stat| stat.size = 8), true),
            ("mtime", |row| set(row, |stat| stat.mtime_ns = 6), true),
            ("ctime", |row| set(row, |stat| stat.ctime_ns = 6), true),
            ("inode", |row| set(row, |stat| stat.ino = 99), true),
            ("mode", |row| set(row, |stat| stat.mode = 0o600), true),
            ("owner", |row| set(row, |stat| stat.uid = 1), true),
            ("group", |row| set(row, |stat| stat.gid = 1), true),
            ("links", |row| set(row, |stat| stat.nlink = 2), false),
        ];
        for (what, change, differs) in table {
            let mut rows = level(&tree);
            rows.values_mut().for_each(change);
            let found = Run::of(&tree, rows).differing();
            assert_eq!(!found.is_empty(), *differs, "{what}");
        }
    }

    fn set(row: &mut Known, change: impl Fn(&mut Stat)) {
        change(row.stat.as_mut().expect("a stat"));
    }

    #[test]
    fn a_missing_file_differs_unless_that_is_known() {
        let tree = fake(&["a", "b"]);
        let mut rows = level(&fake(&["a", "b", "c", "d"]));
        rows.get_mut(&path("d")).expect("a row").kept = true;
        let step = Run::of(&tree, rows).go();
        assert_eq!(step.missing, [(path("c"), RelPath::root())]);
    }

    #[test]
    fn a_file_that_became_a_folder_and_back_differs_on_both_sides() {
        let file = fake(&["a"]);
        let folder = fake(&["a/", "a/x"]);
        assert_eq!(Run::of(&folder, level(&file)).differing(), ["a", "a/x"]);
        assert_eq!(Run::of(&file, level(&folder)).differing(), ["a", "a/x"]);
    }

    #[test]
    fn below_an_unreadable_folder_nothing_is_missing() {
        let tree = fake(SOME);
        let mut blind = tree.clone();
        blind
            .at
            .retain(|at, _| *at == path("e") || at.name().len() == 1);
        blind.at.remove(&path("a/x"));
        blind
            .refused
            .insert(path("a"), io::ErrorKind::PermissionDenied);
        let step = Run::of(&blind, level(&tree)).go();
        assert_eq!(names(&step), ["a-b", "a.txt"]);
        assert_eq!(step.unreadable.len(), 1);
        assert_eq!(step.unreadable[0].0, path("a"));
    }

    #[test]
    fn a_folder_that_goes_while_it_is_walked_leaves_its_rows_missing() {
        let tree = fake(SOME);
        let mut gone = tree.clone();
        gone.refused.insert(path("a"), io::ErrorKind::NotFound);
        let step = Run::of(&gone, level(&tree)).go();
        assert_eq!(names(&step), ["a/x", "a/y"]);
        assert!(step.unreadable.is_empty());
    }

    #[test]
    fn a_root_that_is_not_there_makes_nothing_missing() {
        let tree = fake(SOME);
        let mut away = tree.clone();
        away.refused
            .insert(RelPath::root(), io::ErrorKind::NotFound);
        let step = Run::of(&away, level(&tree)).go();
        assert_eq!((names(&step).len(), step.unreadable.len()), (0, 1));
    }

    #[test]
    fn what_is_left_out_is_neither_found_nor_missed() {
        let tree = fake(&["a/", "a/x", "keep", "x.tmp", ".keep.swp"]);
        let mut run = Run::of(&tree, level(&fake(&["a/", "a/old", "gone.tmp"])));
        run.exclude = vec!["a/".to_string(), "*.tmp".to_string()];
        let step = run.go();
        assert_eq!(names(&step), ["keep"]);
        assert_eq!(step.excluded, 3);
        assert!(step.skipped.is_empty());
    }

    #[test]
    fn what_is_no_file_is_skipped_and_said() {
        let mut tree = fake(&["link", "pipe", ".tidewatch/", ".tidewatch/x", "f"]);
        let rows = level(&tree);
        tree.at.insert(path("link"), stat(Kind::Symlink, 50));
        tree.at.insert(path("pipe"), stat(Kind::Special, 51));
        let step = Run::of(&tree, rows).go();
        let expected = [
            (path(".tidewatch"), SkipReason::Reserved),
            (path("link"), SkipReason::Symlink),
            (path("pipe"), SkipReason::Special),
        ];
        assert_eq!(step.skipped, expected);
        // Both were files once.
        assert_eq!(names(&step), ["link", "pipe"]);
    }

    #[test]
    fn missing_is_what_a_clean_listing_does_not_have() {
        let tree = fake(&["a/", "a/x", "b/", "b/y", "c"]);
        let rows = level(&fake(&[
            "a/",
            "a/gone",
            "a/gone.d/",
            "a/gone.d/e",
            "b/",
            "b/gone",
            "d",
        ]));
        let step = Run::of(&tree, rows.clone()).go();
        let missing = |at: &str, listed: &str| {
            let listed = if listed.is_empty() {
                RelPath::root()
            } else {
                path(listed)
            };
            (path(at), listed)
        };
        let expected = [
            missing("a/gone", "a"),
            missing("a/gone.d/e", "a"),
            missing("b/gone", "b"),
            missing("d", ""),
        ];
        assert_eq!(step.missing, expected);
        // A folder that goes away between its name and its listing proves nothing of what was in it.
        let mut going = tree.clone();
        going.refused.insert(path("a"), io::ErrorKind::NotFound);
        let step = Run::of(&going, rows.clone()).go();
        assert_eq!(step.missing, expected[2..]);
        let of_a = [(path("a/gone"), 0), (path("a/gone.d/e"), 0)];
        assert!(
            of_a.iter().all(|one| step.differing.contains(one)),
            "{step:?}"
        );
        // Nor does a scope that is gone itself.
        let mut run = Run::of(&going, rows);
        run.folder = path("a");
        let step = run.go();
        assert_eq!((step.missing.len(), step.differing.len()), (0, 2));
    }

    #[test]
    fn a_folder_that_contains_itself_is_not_entered() {
        let mut tree = fake(&["a/", "a/b/", "a/b/x", "z"]);
        let rows = level(&tree);
        let a = tree.at[&path("a")];
        tree.at.insert(path("a/b"), a);
        let step = Run::of(&tree, rows.clone()).go();
        assert_eq!(step.skipped, [(path("a/b"), SkipReason::Loop)]);
        assert!(names(&step).is_empty());
        // Also when the scan begins inside.
        let mut tree = fake(&["a/", "a/b/", "a/b/c/"]);
        tree.at.insert(path("a/b/c"), a);
        let mut run = Run::of(&tree, BTreeMap::new());
        run.folder = path("a/b");
        assert_eq!(run.go().skipped, [(path("a/b/c"), SkipReason::Loop)]);
    }

    #[test]
    fn a_scope_is_kept_to() {
        let tree = fake(SOME);
        let mut run = Run::of(&tree, BTreeMap::new());
        run.folder = path("a");
        assert_eq!(run.differing(), ["a/x", "a/y"]);
        run.rows = level(&fake(&["a/", "a/z", "a-b", "a0", "b"]));
        assert_eq!(run.differing(), ["a/x", "a/y", "a/z"]);
    }

    #[test]
    fn only_folders_that_were_not_armed_are_entered() {
        let mut tree = fake(&["a/", "a/x", "b/", "b/c/", "b/c/d", "b/e", "f"]);
        tree.armed = BTreeSet::from([path("a"), path("b/c")]);
        let mut run = Run::of(
            &tree,
            level(&fake(&["a/", "a/gone", "b/", "b/gone", "gone"])),
        );
        run.depth = Depth::NewFolders;
        assert_eq!(run.differing(), ["b/c/d", "b/e", "b/gone", "f", "gone"]);
    }

    #[test]
    fn skipping_jumps_over_pages_of_rows() {
        let many: Vec<String> = (0..3 * PAGE).map(|n| format!("a/{n:05}")).collect();
        let mut all = vec!["a/", "b"];
        all.extend(many.iter().map(String::as_str));
        let rows = level(&fake(&all));
        let mut tree = fake(&["a/", "b"]);
        tree.at
            .insert(path("b"), rows[&path("b")].stat.expect("a stat"));
        tree.refused
            .insert(path("a"), io::ErrorKind::PermissionDenied);
        let step = Run::of(&tree, rows.clone()).go();
        assert_eq!((step.differing.len(), step.unchanged), (0, 1));
        tree.refused.clear();
        let step = Run::of(&tree, rows).go();
        assert_eq!((step.missing.len(), step.unchanged), (3 * PAGE, 1));
    }

    #[test]
    fn a_step_ends_at_its_limit_and_the_next_goes_on() {
        let tree = fake(SOME);
        let mut scanner = Run::of(&tree, BTreeMap::new()).start(0);
        let mut all = Vec::new();
        loop {
            let step = scanner.step(1).expect("rows");
            assert!(step.differing.len() + step.missing.len() <= 1);
            all.extend(names(&step));
            if step.done {
                break;
            }
        }
        assert_eq!(all, ["a-b", "a.txt", "a/x", "a/y", "b/c/d", "e"]);
    }

    #[test]
    fn an_error_of_the_rows_loses_nothing() {
        let tree = fake(SOME);
        let mut scanner = Run::of(&tree, level(&tree)).start(3);
        let mut errors = 0;
        let step = loop {
            match scanner.step(100) {
                Ok(step) => break step,
                Err(_) => errors += 1,
            }
        };
        assert_eq!((errors, step.unchanged, step.done), (3, 6, true));
        assert!(step.differing.is_empty());
    }

    /// What a run says of folders, which it takes for known from then on.
    fn news(run: &mut Run) -> String {
        let mut words = Vec::new();
        for news in run.go().folders {
            match news {
                FolderNews::Is(path, stamp) => {
                    words.push(path.to_string());
                    run.folders.insert(path, stamp);
                }
                FolderNews::Gone(path) => {
                    words.push(format!("-{path}"));
                    run.folders.remove(&path);
                }
            }
        }
        words.join(" ")
    }

    #[test]
    fn folders_are_news_when_they_are_new_or_others_or_gone() {
        let paths = ["a-b/", "a.c/", "a.c/d/", "a/", "a/b/", "a/b/f", "e", "z/"];
        let mut run = Run::of(&fake(&paths), BTreeMap::new());
        assert_eq!(news(&mut run), "a-b a.c a.c/d a a/b z");
        assert_eq!(news(&mut run), "");
        for (at, what) in [("a-b", 0), ("a/b", 1), ("z", 2)] {
            let stat = run.tree.at.get_mut(&path(at)).expect("there");
            match what {
                0 => stat.mode = 0o700,
                1 => stat.mtime_ns += 1,
                // The kernel's own numbers are nobody's business.
                _ => (stat.ino, stat.ctime_ns, stat.nlink) = (99, 99, 99),
            }
        }
        assert_eq!(news(&mut run), "a-b a/b");
        // A file in the place of a folder, and one that is gone with all that was in it.
        run.tree.at.insert(path("a-b"), stat(Kind::File, 50));
        run.tree.at.retain(|at, _| !at.is_within(&path("a")));
        assert_eq!(news(&mut run), "-a-b -a -a/b");
        assert_eq!(news(&mut run), "");
        run.tree.at.clear();
        assert_eq!(news(&mut run), "-a.c -a.c/d -z");
    }

    #[test]
    fn a_folder_that_is_left_out_or_cannot_be_listed_is_as_it_was() {
        let paths = ["a/", "a/b/", "c/", "c/d/", "f/", "f/g/", "f/g/h"];
        let mut run = Run::of(&fake(&paths), BTreeMap::new());
        run.exclude = vec!["c".to_owned(), "f".to_owned()];
        run.include = vec!["f/g/h".to_owned()];
        let refused = io::ErrorKind::PermissionDenied;
        run.tree.refused.insert(path("a"), refused);
        // One that is only entered for what is taken in again is left out itself.
        assert_eq!(news(&mut run), "");
        (run.exclude, run.include) = (Vec::new(), Vec::new());
        run.tree.refused.clear();
        assert_eq!(news(&mut run), "a a/b c c/d f f/g");
        for at in ["a", "c"] {
            run.tree.at.get_mut(&path(at)).expect("there").mode = 0o700;
        }
        run.tree.at.remove(&path("a/b"));
        run.tree.at.remove(&path("c/d"));
        run.tree.refused.insert(path("a"), refused);
        run.exclude = vec!["c".to_owned()];
        assert_eq!(news(&mut run), "");
        run.tree
            .refused
            .insert(RelPath::root(), io::ErrorKind::NotFound);
        assert_eq!(news(&mut run), "", "the root is away");
        run.tree.refused.clear();
        run.exclude.clear();
        assert_eq!(news(&mut run), "a -a/b c -c/d");
    }

    #[test]
    fn a_scan_of_one_folder_tells_of_that_and_of_what_is_below() {
        let mut run = Run::of(&fake(&["a/", "a/b/", "a/b/c/", "d/"]), BTreeMap::new());
        run.folder = path("a");
        assert_eq!(news(&mut run), "a a/b a/b/c");
        assert_eq!(news(&mut run), "");
        // What is watched already is not entered, and is met all the same.
        run.depth = Depth::NewFolders;
        run.tree.armed.insert(path("a/b"));
        run.tree.at.get_mut(&path("a/b")).expect("there").mode = 0o700;
        run.tree.at.remove(&path("a/b/c"));
        assert_eq!(news(&mut run), "a/b");
        run.tree.at.remove(&path("a/b"));
        assert_eq!(news(&mut run), "-a/b -a/b/c");
        // It is gone itself: the folder above says so.
        run.tree.at.remove(&path("a"));
        assert_eq!(news(&mut run), "");
        run.folder = RelPath::root();
        assert_eq!(news(&mut run), "-a d");
    }

    #[test]
    fn many_folders_are_compared_a_page_at_a_time() {
        let many: Vec<String> = (0..3 * PAGE).map(|n| format!("a/{n:05}/")).collect();
        let mut all = vec!["a/", "b/"];
        all.extend(many.iter().map(String::as_str));
        let mut run = Run::of(&fake(&all), BTreeMap::new());
        assert_eq!(run.go().folders.len(), 3 * PAGE + 2);
        news(&mut run);
        assert_eq!(news(&mut run), "");
        let refused = io::ErrorKind::PermissionDenied;
        run.tree.refused.insert(path("a"), refused);
        run.tree.at.get_mut(&path("b")).expect("there").mode = 0o700;
        assert_eq!(news(&mut run), "b");
        run.tree.at.retain(|at, _| *at == path("b"));
        assert_eq!(run.go().folders.len(), 3 * PAGE + 1);
    }

    #[test]
    fn depth_costs_no_stack() {
        let mut tree = Fake::default();
        let mut at = RelPath::root();
        for ino in 2..2_002 {
            at = at.join(b"d");
            tree.at.insert(at.clone(), stat(Kind::Folder, ino));
        }
        tree.at.insert(at.join(b"f"), stat(Kind::File, 9_999));
        assert_eq!(Run::of(&tree, BTreeMap::new()).go().differing.len(), 1);
    }
}
