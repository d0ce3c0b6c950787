//! The real tree, its watcher and the scan, on real folders.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(
    clippy::disallowed_methods,
    reason = "these are the user's files, not the agent's state"
)]

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
use tempfile::TempDir;
use tidewatch::base::path::RelPath;
use tidewatch::base::policy::WatchMode;
use tidewatch::base::stat::Kind;
use tidewatch::tree::filter::Filter;
use tidewatch::tree::real::RealTree;
use tidewatch::tree::scan::{Depth, Known, Rows, Scanner, Scope};
use tidewatch::tree::{Hint, HintReceiver, ReadError, Touch, Tree, hints};

/// How long anything may take before a test gives up on it; only a failure takes that long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Hints that fit the channel: few enough that bursts overflow it, so that losses are tested too.
const HINTS: usize = 2_048;

fn path(bytes: impl AsRef<[u8]>) -> RelPath {
    RelPath::new(bytes.as_ref()).unwrap()
}

fn root() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().canonicalize().unwrap();
    (dir, path)
}

fn write(at: impl AsRef<Path>, bytes: &str) {
    fs::File::create(at)
        .unwrap()
        .write_all(bytes.as_bytes())
        .unwrap();
}

fn listed(tree: &dyn Tree, folder: &str) -> Vec<Vec<u8>> {
    let found = tree.list(&path(folder)).unwrap();
    found.into_iter().map(|found| found.name.to_vec()).collect()
}

fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

// -- by handle, beneath the root --

#[test]
fn a_listing_is_sorted_as_full_paths_are_and_names_are_bytes() {
    let (_dir, root) = root();
    let long = "n".repeat(255);
    let odd: [&[u8]; 5] = [
        b"\xff\xfe",
        b"new\nline",
        b" ",
        "für".as_bytes(),
        long.as_bytes(),
    ];
    for name in odd {
        write(root.join(OsStr::from_bytes(name)), "x");
    }
    for name in ["a.txt", "a-b", "a0"] {
        write(root.join(name), "x");
    }
    fs::create_dir(root.join("a")).unwrap();
    let tree = RealTree::open(&root);
    let expected: [&[u8]; 9] = [
        b" ",
        b"a-b",
        b"a.txt",
        b"a",
        b"a0",
        "für".as_bytes(),
        b"new\nline",
        long.as_bytes(),
        b"\xff\xfe",
    ];
    assert_eq!(listed(&tree, ""), expected);
    for name in odd {
        let file = tree.open(&path(name)).unwrap();
        let mut bytes = [0; 4];
        assert_eq!(file.read_at(0, &mut bytes).unwrap(), 1);
        assert_eq!(file.stat().unwrap(), tree.stat(&path(name)).unwrap());
    }
}

#[test]
fn a_link_is_itself_and_leads_nowhere() {
    let (_dir, root) = root();
    let (_elsewhere, outside) = self::root();
    write(outside.join("secret"), "x");
    symlink(&outside, root.join("out")).unwrap();
    symlink(outside.join("secret"), root.join("file")).unwrap();
    let tree = RealTree::open(&root);
    for name in ["out", "file"] {
        assert_eq!(tree.stat(&path(name)).unwrap().kind, Kind::Symlink);
        assert!(matches!(
            tree.open(&path(name)),
            Err(ReadError::Kind(Kind::Symlink))
        ));
        assert!(is_gone(&tree.list(&path(name)).unwrap_err()));
    }
    assert!(is_gone(&tree.stat(&path("out/secret")).unwrap_err()));
    assert!(matches!(
        tree.open(&path("out/secret")),
        Err(ReadError::Gone)
    ));
}

#[test]
fn a_folder_that_is_swapped_for_a_link_is_not_escaped_through() {
    let (_dir, root) = root();
    let (_elsewhere, outside) = self::root();
    write(outside.join("f"), "outside");
    fs::create_dir(root.join("a")).unwrap();
    write(root.join("a/f"), "inside");
    let swapping = {
        let root = root.clone();
        thread::spawn(move || {
            for _ in 0..2_000 {
                fs::rename(root.join("a"), root.join("b")).unwrap();
                symlink(&outside, root.join("a")).unwrap();
                fs::remove_file(root.join("a")).unwrap();
                fs::rename(root.join("b"), root.join("a")).unwrap();
            }
        })
    };
    let tree = RealTree::open(&root);
    let mut reads = 0;
    while !swapping.is_finished() {
        match tree.open(&path("a/f")) {
            Ok(file) => {
                let mut bytes = [0; 16];
                let read = file.read_at(0, &mut bytes).unwrap();
                assert_eq!(&bytes[..read], b"inside");
                reads += 1;
            }
            Err(error) => assert!(matches!(error, ReadError::Gone), "{error}"),
        }
    }
    swapping.join().unwrap();
    assert!(reads > 0);
}

#[test]
fn what_could_block_is_never_opened() {
    let (_dir, root) = root();
    rustix::fs::mknodat(
        CWD,
        root.join("pipe"),
        rustix::fs::FileType::Fifo,
        Mode::RUSR,
        0,
    )
    .unwrap();
    let _socket = UnixListener::bind(root.join("socket")).unwrap();
    fs::create_dir(root.join("folder")).unwrap();
    let tree = RealTree::open(&root);
    for name in ["pipe", "socket"] {
        let refused = tree.open(&path(name)).err();
        assert!(matches!(refused, Some(ReadError::Kind(Kind::Special))));
        assert_eq!(tree.stat(&path(name)).unwrap().kind, Kind::Special);
    }
    let refused = tree.open(&path("folder")).err();
    assert!(matches!(refused, Some(ReadError::Kind(Kind::Folder))));
}

#[test]
fn paths_longer_than_the_kernel_takes_at_once_work() {
    let (_dir, root) = root();
    let name = "d".repeat(250);
    let mut folder = openat(CWD, &root, OFlags::RDONLY, Mode::empty()).unwrap();
    let mut at = RelPath::root();
    for _ in 0..40 {
        mkdirat(&folder, name.as_str(), Mode::RWXU).unwrap();
        folder = openat(&folder, name.as_str(), OFlags::RDONLY, Mode::empty()).unwrap();
        at = at.join(name.as_bytes());
    }
    let flags = OFlags::CREATE | OFlags::WRONLY;
    drop(openat(&folder, "f", flags, Mode::RUSR).unwrap());
    assert!(at.as_bytes().len() > 2 * 4_096);
    let (sender, _receiver) = hints(HINTS);
    let plain = RealTree::open(&root);
    let watched = RealTree::watched(&root, sender, WatchMode::Auto).unwrap();
    for tree in [&plain, &watched] {
        assert_eq!(tree.list(&at).unwrap().len(), 1);
        assert_eq!(tree.stat(&at.join(b"f")).unwrap().kind, Kind::File);
        assert!(tree.open(&at.join(b"f")).is_ok());
    }
    // Too long for the kernel's watches: that is counted, and does not hide the folder.
    assert_eq!((plain.unwatched(), watched.unwatched()), (0, 1));
    // By hand, because removing by path fails where the path is too long.
    let mut top = root.join(&name);
    while fs::remove_dir_all(&top).is_err() {
        let below = root.join("below");
        fs::rename(top.join(&name), &below).unwrap();
        fs::remove_dir_all(&top).unwrap();
        top = root.join("top");
        fs::rename(below, &top).unwrap();
    }
}

#[test]
fn a_root_that_goes_is_an_error_and_one_that_comes_back_is_another() {
    let (_dir, top) = root();
    let root = top.join("root");
    let tree = RealTree::open(&root);
    assert!(tree.identity().is_err() && tree.list(&RelPath::root()).is_err());
    fs::create_dir(&root).unwrap();
    let first = tree.identity().unwrap();
    assert_eq!(tree.identity().unwrap(), first);
    // Moved away, and another in its place: the handle alone would not notice.
    fs::rename(&root, top.join("away")).unwrap();
    fs::create_dir(&root).unwrap();
    write(root.join("f"), "x");
    let second = tree.identity().unwrap();
    assert_ne!(second, first);
    assert_eq!(listed(&tree, ""), [b"f"]);
    fs::remove_dir_all(&root).unwrap();
    let error = tree.list(&RelPath::root()).unwrap_err();
    assert!(!is_gone(&error), "a root is away, never gone: {error}");
    assert!(tree.identity().is_err());
    symlink(top.join("away"), &root).unwrap();
    assert!(tree.identity().is_err(), "a link is not the root");
}

// -- watching --

struct Watched {
    _dir: TempDir,
    root: PathBuf,
    tree: Arc<RealTree>,
    hints: HintReceiver,
}

impl Watched {
    fn new() -> Self {
        let (dir, root) = root();
        let (sender, receiver) = hints(HINTS);
        let tree = Arc::new(RealTree::watched(&root, sender, WatchMode::Auto).unwrap());
        Self {
            _dir: dir,
            root,
            tree,
            hints: receiver,
        }
    }

    /// Returns all hints of what has been done so far.
    async fn so_far(&mut self) -> Vec<Hint> {
        self.tree.round_trip().unwrap();
        let mut all = Vec::new();
        // The round trip has put them all into the channel, so that what is not ready is not there.
        while let Ok(hint) = tokio::time::timeout(Duration::ZERO, self.hints.recv()).await {
            all.push(hint.unwrap());
        }
        all
    }

    async fn touches(&mut self, name: &str) -> Vec<Touch> {
        let of = |hint| match hint {
            Hint::Touched { path: at, touch } if at == path(name) => Some(touch),
            _ => None,
        };
        self.so_far().await.into_iter().filter_map(of).collect()
    }
}

#[tokio::test]
async fn each_change_is_told_as_what_it_deserves() {
    let mut on = Watched::new();
    on.tree.list(&RelPath::root()).unwrap();
    let f = on.root.join("f");
    write(&f, "x");
    assert_eq!(
        on.touches("f").await,
        [Touch::Data, Touch::Data, Touch::Closed]
    );
    let mut file = fs::OpenOptions::new().append(true).open(&f).unwrap();
    file.write_all(b"y").unwrap();
    assert_eq!(on.touches("f").await, [Touch::Data]);
    drop(file);
    assert_eq!(on.touches("f").await, [Touch::Closed]);
    fs::set_permissions(&f, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(on.touches("f").await, [Touch::Meta]);
    fs::rename(&f, on.root.join("g")).unwrap();
    assert_eq!(on.touches("g").await, [Touch::Moved]);
    fs::remove_file(on.root.join("g")).unwrap();
    assert_eq!(on.touches("g").await.last(), Some(&Touch::Meta));
    fs::create_dir(on.root.join("d")).unwrap();
    assert_eq!(on.so_far().await, [Hint::Folder(path("d"))]);
    // A folder that is opened to us again says so.
    fs::set_permissions(on.root.join("d"), fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(on.touches("d").await, [Touch::Meta]);
}

#[tokio::test]
async fn what_we_read_ourselves_is_not_told() {
    let mut on = Watched::new();
    write(on.root.join("f"), "x");
    fs::create_dir(on.root.join("d")).unwrap();
    for folder in ["", "d"] {
        on.tree.list(&path(folder)).unwrap();
    }
    let file = on.tree.open(&path("f")).unwrap();
    assert_eq!(file.read_at(0, &mut [0; 8]).unwrap(), 1);
    drop(file);
    on.tree.accept(on.tree.identity().unwrap());
    assert_eq!(on.so_far().await, []);
}

#[tokio::test]
async fn a_folder_is_armed_before_it_is_listed() {
    let mut on = Watched::new();
    fs::create_dir(on.root.join("d")).unwrap();
    let armed = |tree: &RealTree| tree.list(&RelPath::root()).unwrap()[0].armed;
    assert!(!armed(&on.tree));
    on.tree.list(&path("d")).unwrap();
    assert!(armed(&on.tree));
    // A writer that never rests: each file is in the listing, or told after it, whenever the listing happens.
    for round in 0..50 {
        let folder = format!("r{round}");
        fs::create_dir(on.root.join(&folder)).unwrap();
        let writing = {
            let at = on.root.join(&folder);
            thread::spawn(move || (0..40).for_each(|n| write(at.join(n.to_string()), "")))
        };
        let mut seen: BTreeSet<RelPath> = on
            .tree
            .list(&path(&folder))
            .unwrap()
            .iter()
            .map(|found| path(&folder).join(&found.name))
            .collect();
        writing.join().unwrap();
        for hint in on.so_far().await {
            if let Hint::Touched { path, .. } = hint {
                seen.insert(path);
            }
        }
        assert_eq!(
            seen.iter()
                .filter(|at| at.is_within(&path(&folder)))
                .count(),
            40
        );
    }
}

#[tokio::test]
async fn a_round_trip_delivers_all_that_came_before_it() {
    let mut on = Watched::new();
    on.tree.list(&RelPath::root()).unwrap();
    for round in 0..500 {
        let name = format!("f{round}");
        write(on.root.join(&name), "");
        assert!(!on.touches(&name).await.is_empty(), "round {round}");
    }
}

#[tokio::test]
async fn an_armed_folder_that_is_another_one_now_is_not_armed() {
    let on = Watched::new();
    fs::create_dir(on.root.join("d")).unwrap();
    on.tree.list(&path("d")).unwrap();
    fs::rename(on.root.join("d"), on.root.join("e")).unwrap();
    fs::create_dir(on.root.join("d")).unwrap();
    let found = on.tree.list(&RelPath::root()).unwrap();
    assert!(found.iter().all(|found| !found.armed), "{found:?}");
    assert!(is_gone(&on.tree.list(&path("gone")).unwrap_err()));
}

#[tokio::test]
async fn a_folder_that_moved_is_watched_under_its_new_name_alone() {
    let mut on = Watched::new();
    fs::create_dir_all(on.root.join("a/x")).unwrap();
    for folder in ["", "a", "a/x"] {
        on.tree.list(&path(folder)).unwrap();
    }
    fs::rename(on.root.join("a"), on.root.join("b")).unwrap();
    // Armed under the new name before the rename has been heard of, and after.
    for _ in 0..2 {
        for folder in ["b", "b/x"] {
            on.tree.list(&path(folder)).unwrap();
        }
        on.so_far().await;
    }
    // The old names come and go; that must not take the new names' watches along.
    fs::create_dir_all(on.root.join("a/x")).unwrap();
    for folder in ["a", "a/x"] {
        on.tree.list(&path(folder)).unwrap();
    }
    fs::remove_dir_all(on.root.join("a")).unwrap();
    on.so_far().await;
    write(on.root.join("b/x/f"), "");
    assert!(on.touches("b/x/f").await.contains(&Touch::Closed));
}

#[tokio::test]
async fn a_root_that_was_made_again_is_watched_again() {
    let (_dir, top) = root();
    let root = top.join("root");
    fs::create_dir(&root).unwrap();
    let (sender, mut receiver) = hints(HINTS);
    let tree = RealTree::watched(&root, sender, WatchMode::Auto).unwrap();
    tree.accept(tree.identity().unwrap());
    tree.list(&RelPath::root()).unwrap();
    fs::rename(&root, top.join("away")).unwrap();
    fs::create_dir(&root).unwrap();
    tree.accept(tree.identity().unwrap());
    tree.list(&RelPath::root()).unwrap();
    write(root.join("new"), "");
    tree.round_trip().unwrap();
    let mut told = Vec::new();
    while let Ok(Some(hint)) = tokio::time::timeout(Duration::ZERO, receiver.recv()).await {
        told.push(hint);
    }
    assert_eq!(told[0], Hint::Lost);
    let names = |told: &[Hint], at: &RelPath| {
        told.iter()
            .any(|hint| matches!(hint, Hint::Touched { path, .. } if path == at))
    };
    assert!(names(&told, &path("new")), "{told:?}");
    // The folder that left is not the root any more, and soon not heard of: whoever watched it ends in its own time.
    let is_deaf = async {
        for number in 0.. {
            let old = format!("old{number}");
            write(top.join("away").join(&old), "");
            let next = format!("new{number}");
            write(root.join(&next), "");
            // What comes for the new root comes behind whatever came for the old one before.
            let mut told = Vec::new();
            while !names(&told, &path(&next)) {
                told.push(receiver.recv().await.expect("a hint"));
            }
            if !names(&told, &path(&old)) {
                return;
            }
        }
    };
    let deaf = tokio::time::timeout(Duration::from_secs(60), is_deaf).await;
    deaf.expect("the folder that left is not heard of any more");
}

// -- hints and scans together --

/// No rows: every file differs, so that a scan names every file that it sees.
struct NoRows;

impl Rows for NoRows {
    fn page(&mut self, _: &RelPath, _: &RelPath, _: usize) -> anyhow::Result<Vec<Known>> {
        Ok(Vec::new())
    }
}

/// What an agent does with hints, and nothing else.
struct Follower {
    on: Watched,
    filter: Arc<Filter>,
    seen: BTreeSet<RelPath>,
}

impl Follower {
    fn new() -> Self {
        let mut follower = Self {
            on: Watched::new(),
            filter: Arc::new(Filter::new(&[], &[], true).unwrap()),
            seen: BTreeSet::new(),
        };
        follower.scan(RelPath::root(), Depth::Full);
        follower
    }

    fn scan(&mut self, folder: RelPath, depth: Depth) {
        let filter = self.filter.clone();
        let scope = Scope { folder, depth };
        let mut scanner = Scanner::new(self.on.tree.clone(), Box::new(NoRows), filter, scope);
        loop {
            let step = scanner.step(500).unwrap();
            assert!(step.unreadable.is_empty(), "{:?}", step.unreadable);
            self.seen
                .extend(step.differing.into_iter().map(|(at, _)| at));
            if step.done {
                return;
            }
        }
    }

    fn follow(&mut self, hint: Hint) {
        match hint {
            Hint::Lost => self.scan(RelPath::root(), Depth::Full),
            Hint::Pulse => {}
            Hint::Folder(folder) => self.scan(folder, Depth::Full),
            Hint::Touched { path, .. } => match self.on.tree.stat(&path) {
                Ok(stat) if stat.kind == Kind::Folder => self.scan(path, Depth::Full),
                Ok(_) => {
                    self.seen.insert(path);
                }
                // A name of the past: the folder that it was in may have another one now.
                Err(error) if is_gone(&error) => {
                    let mut above = path.parent();
                    while let Some(folder) = above {
                        if self
                            .on
                            .tree
                            .stat(&folder)
                            .is_ok_and(|s| s.kind == Kind::Folder)
                        {
                            self.scan(folder, Depth::NewFolders);
                            break;
                        }
                        above = folder.parent();
                    }
                }
                Err(error) => panic!("{path}: {error}"),
            },
        }
    }

    async fn follow_until_seen(&mut self, expected: &BTreeSet<RelPath>) {
        for file in expected {
            while !self.seen.contains(file) {
                let hint = tokio::time::timeout(PATIENCE, self.on.hints.recv()).await;
                let hint = hint.unwrap_or_else(|_| panic!("{file} was never seen"));
                self.follow(hint.unwrap());
            }
        }
    }

    /// Makes one new file in every folder and follows the hints until all have been seen.
    async fn probe(&mut self) {
        // Hints of before must not help.
        for hint in self.on.so_far().await {
            self.follow(hint);
        }
        let mut expected = BTreeSet::new();
        let mut folders = vec![RelPath::root()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder.under(&self.on.root)).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_dir() {
                    folders.push(folder.join(entry.file_name().as_bytes()));
                }
            }
            let file = folder.join(b"probe");
            write(file.under(&self.on.root), "");
            expected.insert(file);
        }
        self.follow_until_seen(&expected).await;
    }
}

#[tokio::test]
async fn no_file_in_a_new_folder_is_missed() {
    let mut follower = Follower::new();
    let root = follower.on.root.clone();
    let writing = thread::spawn(move || {
        let mut files = BTreeSet::new();
        for n in 0..2_000 {
            let folder = format!("{n:04}/b/c/d");
            fs::create_dir_all(root.join(&folder)).unwrap();
            write(root.join(&folder).join("f"), "x");
            files.insert(path(format!("{folder}/f")));
        }
        files
    });
    while !writing.is_finished() {
        if let Ok(hint) =
            tokio::time::timeout(Duration::from_millis(1), follower.on.hints.recv()).await
        {
            follower.follow(hint.unwrap());
        }
    }
    let files = writing.join().unwrap();
    follower.follow_until_seen(&files).await;
    follower.probe().await;
}

#[tokio::test]
async fn no_folder_goes_blind_while_three_threads_move_make_and_remove() {
    let mut follower = Follower::new();
    let threads: Vec<_> = (0..3)
        .map(|seed| {
            let root = follower.on.root.clone();
            thread::spawn(move || disturb(&root, seed, 1_500))
        })
        .collect();
    while !threads.iter().all(thread::JoinHandle::is_finished) {
        if let Ok(hint) =
            tokio::time::timeout(Duration::from_millis(1), follower.on.hints.recv()).await
        {
            follower.follow(hint.unwrap());
        }
    }
    for one in threads {
        one.join().unwrap();
    }
    follower.probe().await;
}

/// Makes, fills, renames and removes folders among few names, so that the threads meet.
fn disturb(root: &Path, seed: u64, rounds: u32) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut folder = || {
        let depth = random.usize(1..4);
        (0..depth)
            .map(|_| random.u8(b'a'..b'e') as char)
            .fold(root.to_path_buf(), |at, name| at.join(name.to_string()))
    };
    // Whatever fails has met another thread.
    for round in 0..rounds {
        let (one, two) = (folder(), folder());
        match round % 8 {
            0 => drop(fs::remove_dir_all(&one)),
            1 | 2 => drop(fs::rename(&one, &two)),
            _ => {
                drop(fs::create_dir_all(&one));
                drop(fs::File::create(one.join("f")));
            }
        }
    }
}

#[tokio::test]
async fn a_tree_that_moves_in_is_seen_as_a_whole() {
    let mut follower = Follower::new();
    let (_dir, outside) = root();
    fs::create_dir_all(outside.join("t/a/b")).unwrap();
    for at in ["t/1", "t/a/2", "t/a/b/3"] {
        write(outside.join(at), "");
    }
    fs::rename(outside.join("t"), follower.on.root.join("t")).unwrap();
    let expected = ["t/1", "t/a/2", "t/a/b/3"].map(path);
    follower.follow_until_seen(&BTreeSet::from(expected)).await;
    follower.probe().await;
}
