//! What is left out, and by what, on real folders: rules that lie in the tree, sizes, ages, caches, names, links.
#![allow(
    clippy::disallowed_methods,
    reason = "these are the user's files, not the agent's state"
)]

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use tempfile::TempDir;
use tidewatch::base::clock::Clock;
use tidewatch::base::path::RelPath;
use tidewatch::base::policy::Symlinks;
use tidewatch::base::stat::{Kind, Stat};
use tidewatch::tree::filter::reason::{Reason, RuleOf};
use tidewatch::tree::filter::{Bounds, Filter};
use tidewatch::tree::real::RealTree;
use tidewatch::tree::scan::{Depth, Known, Rows, Scanner, Scope, SkipReason, Step};
use tidewatch::tree::{Found, Identity, OpenFile, ReadError, Tree};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn path(bytes: impl AsRef<[u8]>) -> RelPath {
    RelPath::new(bytes.as_ref()).expect("a valid path")
}

/// A tree that notes which folders were listed.
struct Noting {
    tree: RealTree,
    listed: Mutex<BTreeSet<RelPath>>,
}

impl Tree for Noting {
    fn identity(&self) -> io::Result<Identity> {
        self.tree.identity()
    }

    fn accept(&self, root: Identity) {
        self.tree.accept(root);
    }

    fn list(&self, folder: &RelPath) -> io::Result<Vec<Found>> {
        self.listed.lock().expect("a lock").insert(folder.clone());
        self.tree.list(folder)
    }

    fn stat(&self, path: &RelPath) -> io::Result<Stat> {
        self.tree.stat(path)
    }

    fn open(&self, path: &RelPath) -> Result<Box<dyn OpenFile>, ReadError> {
        self.tree.open(path)
    }

    fn alias(&self, path: &RelPath) -> Option<RelPath> {
        self.tree.alias(path)
    }
}

/// The rows of a manifest.
struct Table(Vec<Known>);

impl Rows for Table {
    fn page(
        &mut self,
        within: &RelPath,
        after: &RelPath,
        limit: usize,
    ) -> anyhow::Result<Vec<Known>> {
        let below = |row: &&Known| row.path.is_within(within) && row.path > *after;
        Ok(self.0.iter().filter(below).take(limit).cloned().collect())
    }
}

/// A real folder, a filter, and what the manifest knows.
struct Place {
    dir: TempDir,
    tree: Arc<Noting>,
    filter: Arc<Filter>,
    known: Vec<RelPath>,
}

impl Place {
    fn new() -> Self {
        Self::with(RealTree::open, |filter| filter)
    }

    fn excluding(rules: &[&str]) -> Self {
        let rules: Vec<String> = rules.iter().map(ToString::to_string).collect();
        let filter = Filter::new(&rules, &[], true).expect("good rules");
        Self::with(RealTree::open, |_| filter)
    }

    fn with(open: impl FnOnce(&Path) -> RealTree, filter: impl FnOnce(Filter) -> Filter) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let root = dir.path().canonicalize().expect("a path");
        let tree = Arc::new(Noting {
            tree: open(&root),
            listed: Mutex::default(),
        });
        let rules = filter(Filter::new(&[], &[], true).expect("no rules"));
        Self {
            filter: Arc::new(rules.reading(tree.clone())),
            dir,
            tree,
            known: Vec::new(),
        }
    }

    fn at(&self, at: impl AsRef<[u8]>) -> PathBuf {
        self.dir.path().join(OsStr::from_bytes(at.as_ref()))
    }

    fn write(&self, at: impl AsRef<[u8]>, text: &str) {
        let at = self.at(at);
        fs::create_dir_all(at.parent().expect("a folder")).expect("a folder");
        let mut file = fs::File::create(at).expect("a file");
        file.write_all(text.as_bytes()).expect("written");
    }

    fn step_in(&self, folder: &RelPath) -> Step {
        let mut known = self.known.clone();
        known.sort();
        let row = |path| Known {
            path,
            stat: None,
            read_at_ns: 0,
            settled: true,
            kept: false,
            held_seen: None,
        };
        let rows = Table(known.into_iter().map(row).collect());
        let scope = Scope {
            folder: folder.clone(),
            depth: Depth::Full,
        };
        let filter = self.filter.clone();
        let mut scanner = Scanner::new(self.tree.clone(), Box::new(rows), filter, scope)
            .at(Clock::Real.now().wall_ns);
        let mut all = Step::default();
        while !all.done {
            let step = scanner.step(100).expect("rows");
            all.differing.extend(step.differing);
            all.missing.extend(step.missing);
            all.skipped.extend(step.skipped);
            all.unreadable.extend(step.unreadable);
            all.excluded += step.excluded;
            all.done = step.done;
        }
        all
    }

    fn step(&self) -> Step {
        self.step_in(&RelPath::root())
    }

    /// Returns what a scan would have looked at.
    fn taken(&self) -> Vec<String> {
        let step = self.step();
        let differing = step.differing.into_iter().map(|(path, _)| path);
        let missing = step.missing.into_iter().map(|(path, _)| path);
        let mut all: Vec<RelPath> = differing.chain(missing).collect();
        all.sort();
        all.iter().map(ToString::to_string).collect()
    }

    fn reason(&self, at: &str) -> Option<String> {
        let reason = self.filter.excludes(&path(at), Kind::File);
        reason.map(|reason| reason.to_string())
    }

    fn was_listed(&self, at: &str) -> bool {
        let listed = self.tree.listed.lock().expect("a lock");
        listed.contains(&path(at))
    }
}

// -- rules that lie in the tree --

#[test]
fn a_rule_in_the_tree_reaches_down_and_the_nearest_wins() {
    let place = Place::excluding(&["*.bak", "!a/kept.tmp"]);
    place.write(".tidewatchignore", "*.tmp\n/top\n!x.bak\n");
    place.write("a/.tidewatchignore", "!y.tmp\nz\n");
    for at in [
        "1.tmp",
        "top",
        "x.bak",
        "y.bak",
        "z",
        "a/1.tmp",
        "a/kept.tmp",
        "a/top",
        "a/b/y.tmp",
        "a/b/z",
        "a/y.tmp",
    ] {
        place.write(at, "x");
    }
    let taken = [
        ".tidewatchignore",
        "a/.tidewatchignore",
        "a/b/y.tmp",
        "a/top",
        "a/y.tmp",
        "x.bak",
        "z",
    ];
    assert_eq!(place.taken(), taken);
    // A filter that was never shown a listing says the same.
    let lazy = Filter::new(&["*.bak".to_owned(), "!a/kept.tmp".to_owned()], &[], true);
    let lazy = lazy.expect("good rules").reading(place.tree.clone());
    for at in [
        "a/b/z",
        "a/b/y.tmp",
        "x.bak",
        "y.bak",
        "a/kept.tmp",
        "none/deep/1.tmp",
    ] {
        let at = path(at);
        let both = [&lazy, &*place.filter].map(|filter| filter.excludes(&at, Kind::File));
        assert_eq!(both[0], both[1], "{at}");
    }
    let rule = Reason::Rule {
        text: "z".to_owned(),
        of: Some(RuleOf {
            folder: path("a"),
            line: 2,
        }),
    };
    assert_eq!(lazy.excludes(&path("a/b/z"), Kind::File), Some(rule));
    assert_eq!(
        place.reason("a/b/z").as_deref(),
        Some("rule `z` of `a/.tidewatchignore`, line 2")
    );
}

#[test]
fn a_folder_that_a_file_in_the_tree_leaves_out_is_not_opened_again_below() {
    let place = Place::new();
    place.write(".tidewatchignore", "n/\n!n/keep\n");
    place.write("n/.tidewatchignore", "!keep\n");
    place.write("n/keep", "x");
    assert_eq!(place.taken(), [".tidewatchignore"]);
    assert!(!place.was_listed("n"));
    assert_eq!(
        place.reason("n/keep").as_deref(),
        Some("rule `n/` of `.tidewatchignore`, line 1")
    );
}

#[test]
fn a_config_that_takes_in_again_opens_a_folder_that_the_tree_leaves_out() {
    let include = ["n/keep".to_owned()];
    let filter = Filter::new(&[], &include, true).expect("good rules");
    let place = Place::with(RealTree::open, |_| filter);
    place.write(".tidewatchignore", "n/\n");
    place.write("n/keep", "x");
    place.write("n/other", "x");
    assert_eq!(place.taken(), [".tidewatchignore", "n/keep"]);
}

/// Rule 15.
#[test]
fn a_changed_ignore_file_counts_from_its_event_or_the_next_listing_on() {
    let place = Place::new();
    place.write("d/x", "x");
    place.write("d/e/y", "x");
    assert_eq!(place.taken(), ["d/e/y", "d/x"]);
    assert_eq!(place.reason("d/e/y"), None);
    place.write("d/.tidewatchignore", "y\n");
    let touched = place.filter.touched(&path("d/.tidewatchignore"));
    assert_eq!(touched, Some(path("d")), "what has to be scanned");
    assert_eq!(place.filter.touched(&path("d/x")), None);
    assert!(place.reason("d/e/y").is_some());
    // Without an event the listing tells, and so it does when the file has gone.
    place.write("d/.tidewatchignore", "x\n");
    assert_eq!(place.taken(), ["d/.tidewatchignore", "d/e/y"]);
    assert!(place.reason("d/x").is_some() && place.reason("d/e/y").is_none());
    fs::remove_file(place.at("d/.tidewatchignore")).expect("removed");
    assert_eq!(place.taken(), ["d/e/y", "d/x"]);
}

#[test]
fn a_bad_line_and_what_is_behind_the_bound_do_not_count_and_the_others_do() {
    let place = Place::new();
    let long = "x".repeat(70 << 10);
    place.write(
        ".tidewatchignore",
        &format!("\u{feff}one\r\na{{b\ntwo\n# {long}\nthree\n"),
    );
    for at in ["one", "two", "three"] {
        place.write(at, "x");
    }
    assert_eq!(place.taken(), [".tidewatchignore", "three"]);
    // What is no regular file is no file with rules.
    fs::create_dir_all(place.at("d/.tidewatchignore")).expect("a folder");
    place.write("d/one", "x");
    assert_eq!(place.taken(), [".tidewatchignore", "three"]);
}

#[test]
fn more_folders_than_are_remembered_change_no_answer() {
    let place = Place::new();
    place.write(".tidewatchignore", "*.tmp\n");
    place.write("deep/.tidewatchignore", "!1.tmp\n");
    for folder in 0..5_000 {
        let at = path(format!("deep/{folder}/1.tmp"));
        assert_eq!(place.filter.excludes(&at, Kind::File), None, "{at}");
        let at = path(format!("deep/{folder}/2.tmp"));
        assert!(place.filter.excludes(&at, Kind::File).is_some(), "{at}");
    }
}

/// Rule 15, and test 26: a name that goes from ignored to wanted is taken, and back is left alone.
#[test]
fn an_ignored_name_that_becomes_a_wanted_one_is_taken_and_back_is_never_missing() {
    let mut place = Place::excluding(&["*.tmp"]);
    place.write("a.tmp", "x");
    assert!(place.taken().is_empty());
    fs::rename(place.at("a.tmp"), place.at("a.txt")).expect("renamed");
    assert_eq!(place.taken(), ["a.txt"]);
    fs::rename(place.at("a.txt"), place.at("a.tmp")).expect("renamed");
    // The old name is missing, which the policy decides; the ignored one is not looked at, with or without a row.
    place.known = vec![path("a.tmp"), path("a.txt")];
    assert_eq!(place.taken(), ["a.txt"]);
}

/// Rule 15.
#[test]
fn ignored_folders_are_neither_listed_nor_scanned_when_a_hint_names_them() {
    let place = Place::excluding(&["node_modules/"]);
    place.write(".tidewatchignore", "/build\n");
    for at in ["node_modules/a/b/x", "build/c/x", "src/x"] {
        place.write(at, "x");
    }
    assert_eq!(place.taken(), [".tidewatchignore", "src/x"]);
    for at in ["node_modules", "node_modules/a/b", "build", "build/c"] {
        assert!(place.step_in(&path(at)).differing.is_empty(), "{at}");
        assert!(!place.was_listed(at), "{at}");
    }
    assert!(place.was_listed("src"));
}

// -- sizes, ages, caches --

/// Test 78, the part without an upload: the logical size counts.
#[test]
fn a_file_is_left_out_by_its_length_whatever_it_takes_on_the_disk() {
    let bounds = Bounds {
        max_size: Some(1 << 30),
        min_size: Some(2),
        ..Bounds::default()
    };
    let place = Place::with(RealTree::open, |filter| filter.with_bounds(bounds));
    place.write("short", "x");
    place.write("right", "xx");
    let sparse = fs::File::create(place.at("sparse")).expect("a file");
    sparse.set_len(10 << 30).expect("a hole");
    assert_eq!(place.taken(), ["right"]);
    let reason = |at: &str| {
        let stat = place.tree.stat(&path(at)).expect("a file");
        let reason = place.filter.leaves_out(&path(at), &stat, 0);
        reason.map(|reason| reason.to_string())
    };
    assert_eq!(
        reason("sparse").as_deref(),
        Some("longer than max_size = 1.0 GiB")
    );
    assert_eq!(
        reason("short").as_deref(),
        Some("shorter than min_size = 2 B")
    );
    assert_eq!(reason("right"), None);
}

#[test]
fn a_file_comes_of_age_and_grows_too_old() {
    let bounds = Bounds {
        min_age: Some(DAY),
        max_age: Some(10 * DAY),
        ..Bounds::default()
    };
    let place = Place::with(RealTree::open, |filter| filter.with_bounds(bounds));
    place.write("a", "x");
    let stat = place.tree.stat(&path("a")).expect("a file");
    let reason_after = |age: Duration| {
        let age_ns = i64::try_from(age.as_nanos()).expect("short");
        let reason = place
            .filter
            .leaves_out(&path("a"), &stat, stat.mtime_ns + age_ns);
        reason.map(|reason| reason.to_string())
    };
    assert!(place.taken().is_empty());
    assert_eq!(
        reason_after(DAY / 2).as_deref(),
        Some("younger than min_age = 1day")
    );
    assert_eq!(reason_after(DAY), None);
    assert_eq!(
        reason_after(11 * DAY).as_deref(),
        Some("older than max_age = 10days")
    );
    let file = fs::File::open(place.at("a")).expect("a file");
    let now = Duration::from_nanos(Clock::Real.now().wall_ns.unsigned_abs());
    file.set_modified(UNIX_EPOCH + now - 2 * DAY)
        .expect("a time");
    assert_eq!(place.taken(), ["a"], "a rescan finds what has come of age");
    file.set_modified(UNIX_EPOCH + now + DAY).expect("a time");
    assert!(place.taken().is_empty(), "the future is young");
}

#[test]
fn a_cache_is_left_out_but_for_its_tag() {
    let place = Place::with(RealTree::open, Filter::without_caches);
    let tag = "Signature: 8a477f597d28d172789f06886806bc55\n# made by a test\n";
    place.write("CACHEDIR.TAG", tag);
    place.write("c/CACHEDIR.TAG", tag);
    place.write("c/x", "x");
    place.write("c/d/y", "x");
    place.write("fake/CACHEDIR.TAG", "Signature: none");
    place.write("fake/x", "x");
    let taken = [
        "CACHEDIR.TAG",
        "c/CACHEDIR.TAG",
        "fake/CACHEDIR.TAG",
        "fake/x",
    ];
    assert_eq!(place.taken(), taken);
    assert!(!place.was_listed("c/d"));
    assert_eq!(
        place.reason("c/d/y").as_deref(),
        Some("`c` holds a CACHEDIR.TAG")
    );
    fs::remove_file(place.at("c/CACHEDIR.TAG")).expect("removed");
    assert_eq!(
        place.filter.touched(&path("c/CACHEDIR.TAG")),
        Some(path("c"))
    );
    assert_eq!(place.reason("c/d/y"), None);
    let with_caches = Place::new();
    with_caches.write("c/CACHEDIR.TAG", tag);
    with_caches.write("c/x", "x");
    assert_eq!(with_caches.taken(), ["c/CACHEDIR.TAG", "c/x"]);
}

// -- excluding never deletes --

#[test]
fn what_is_left_out_is_never_missing() {
    let bounds = Bounds {
        max_size: Some(1),
        ..Bounds::default()
    };
    let rules = ["*.out".to_owned()];
    let filter = Filter::new(&rules, &[], true).expect("good rules");
    let filter = filter
        .with_bounds(bounds)
        .without_caches()
        .with_hidden(path("state"));
    let mut place = Place::with(RealTree::open, |_| filter);
    place.write(".tidewatchignore", "gone-*\nn/\n");
    place.write(
        "cache/CACHEDIR.TAG",
        "Signature: 8a477f597d28d172789f06886806bc55",
    );
    place.write("long", "too long");
    let left_out = [
        "a.out",
        "gone-1",
        "n/x",
        "cache/x",
        "cache/d/x",
        ".x.swp",
        "state/x",
        ".tidewatch/x",
        "long",
    ];
    place.known = left_out.iter().map(path).collect();
    place.known.push(path("missing"));
    // The two small files are too long for this filter too.
    assert_eq!(place.taken(), ["missing"]);
}

// -- names --

/// Test 65, the names that are never uploaded: what editors leave beside a file while they save it.
#[test]
fn no_name_that_an_editor_makes_while_it_saves_is_taken() {
    let place = Place::new();
    for at in [
        ".a.txt.swp",
        ".a.txt.swx",
        ".a.txt.swpx",
        "#a.txt#",
        ".~lock.a.odt#",
        ".#a.txt",
        "~$a.docx",
        ".goutputstream-ABC123",
        ".fuse_hidden0001a2b300000001",
        ".nfs000000000123456700000001",
        ".a.txt.Zk3PqT",
        "a.txt",
    ] {
        place.write(at, "x");
    }
    assert_eq!(place.taken(), ["a.txt"]);
}

/// Test 69, the names of unfinished downloads.
#[test]
fn a_download_is_taken_under_its_last_name_only() {
    let place = Place::new();
    place.write("film.mkv.crdownload", "half");
    place.write("song.ogg.part", "half");
    assert!(place.taken().is_empty());
    fs::rename(place.at("film.mkv.crdownload"), place.at("film.mkv")).expect("renamed");
    fs::rename(place.at("song.ogg.part"), place.at("song.ogg")).expect("renamed");
    assert_eq!(place.taken(), ["film.mkv", "song.ogg"]);
}

/// Test 76: every name is itself, and names of `#` and digits are the user's where a walk finds them.
#[test]
fn odd_names_are_taken_and_named_as_they_are() {
    let place = Place::new();
    let long = "n".repeat(255);
    let names: [&[u8]; 9] = [
        b"#123",
        b"A",
        b"a",
        b"esc\x1b",
        b"line\nfeed",
        long.as_bytes(),
        b"trailing ",
        b"\xfe\xff",
        "e\u{301}".as_bytes(),
    ];
    for name in names {
        place.write(name, "x");
    }
    place.write("\u{e9}", "x");
    let step = place.step();
    let taken: BTreeSet<RelPath> = step.differing.into_iter().map(|(path, _)| path).collect();
    let expected = names.iter().map(path).chain([path("\u{e9}")]);
    assert_eq!(taken, expected.collect());
    assert!(step.skipped.is_empty() && step.excluded == 0);
}

// -- links --

/// Test 73 without a device: nothing of it is opened, and each is counted.
#[test]
fn what_is_no_regular_file_is_counted_and_never_opened() {
    let place = Place::new();
    let elsewhere = tempfile::tempdir().expect("a folder");
    fs::write(elsewhere.path().join("secret"), "x").expect("a file");
    let _socket = std::os::unix::net::UnixListener::bind(place.at("socket")).expect("a socket");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        place.at("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .expect("a fifo");
    for (name, target) in [
        ("dangling", Path::new("nowhere")),
        ("loop", Path::new("loop")),
        ("out", elsewhere.path()),
    ] {
        std::os::unix::fs::symlink(target, place.at(name)).expect("a link");
    }
    let step = place.step();
    assert!(step.differing.is_empty() && step.unreadable.is_empty());
    let skipped: Vec<_> = step
        .skipped
        .iter()
        .map(|(path, why)| (path.to_string(), *why))
        .collect();
    let link = SkipReason::Symlink;
    let expected = [
        ("dangling", link),
        ("fifo", SkipReason::Special),
        ("loop", link),
        ("out", link),
        ("socket", SkipReason::Special),
    ];
    assert_eq!(skipped, expected.map(|(name, why)| (name.to_owned(), why)));
}

fn skipped(step: &Step) -> Vec<(String, SkipReason)> {
    let shown = |(path, why): &(RelPath, SkipReason)| (path.to_string(), *why);
    step.skipped.iter().map(shown).collect()
}

fn link(place: &Place, target: impl AsRef<Path>, at: &str) {
    std::os::unix::fs::symlink(target, place.at(at)).expect("a link");
}

fn content(tree: &dyn Tree, at: &str) -> Vec<u8> {
    let file = tree.open(&path(at)).expect("a file");
    let stat = file.stat().expect("a stat");
    assert_eq!(stat, tree.stat(&path(at)).expect("a stat"), "{at}");
    let mut bytes = vec![0; 64];
    let len = file.read_at(0, &mut bytes).expect("read");
    assert_eq!(len as u64, stat.size, "{at}");
    bytes.truncate(len);
    bytes
}

/// Test 73, with links followed: nothing from outside, no hang, everything counted.
#[test]
fn a_link_is_followed_as_far_as_it_stays_inside() {
    let place = Place::with(
        |path| RealTree::open(path).with_symlinks(Symlinks::Follow),
        |filter| filter,
    );
    let elsewhere = tempfile::tempdir().expect("a folder");
    fs::write(elsewhere.path().join("secret"), "x").expect("a file");
    place.write("d/sub/x", "inside");
    place.write("d/f", "file");
    link(&place, "../d/f", "d/up");
    link(&place, "d/f", "file");
    link(&place, "file", "twice");
    link(&place, "d", "folder");
    link(&place, "../..", "d/sub/top");
    link(&place, "sub", "d/below");
    let inside = place.at("d/f").canonicalize().expect("a path");
    for (target, at) in [
        (Path::new("nowhere"), "bad-dangling"),
        (Path::new("bad-loop"), "bad-loop"),
        (Path::new("../../etc/passwd"), "bad-out"),
        (elsewhere.path(), "bad-out-folder"),
        (&inside, "bad-absolute"),
    ] {
        link(&place, target, at);
    }
    let step = place.step();
    let taken: Vec<_> = step
        .differing
        .iter()
        .map(|(at, _)| at.to_string())
        .collect();
    let expected = [
        "d/below/x",
        "d/f",
        "d/sub/x",
        "d/up",
        "file",
        "folder/f",
        "folder/sub/x",
        "folder/up",
        "twice",
    ];
    assert_eq!(taken, expected);
    assert!(step.unreadable.is_empty(), "{:?}", step.unreadable);
    let bad = SkipReason::Symlink;
    let expected = [
        ("bad-absolute", bad),
        ("bad-dangling", bad),
        ("bad-loop", bad),
        ("bad-out", bad),
        ("bad-out-folder", bad),
        // The way down goes through a link already.
        ("d/below/top", bad),
        ("d/sub/top", SkipReason::Loop),
        ("folder/below", bad),
        ("folder/sub/top", bad),
    ];
    assert_eq!(
        skipped(&step),
        expected.map(|(at, why)| (at.to_owned(), why))
    );
    let tree = &*place.tree;
    for (at, text) in [
        ("twice", "file"),
        ("d/up", "file"),
        ("folder/sub/x", "inside"),
    ] {
        assert_eq!(content(tree, at), text.as_bytes(), "{at}");
        assert_eq!(tree.stat(&path(at)).expect("a stat").kind, Kind::File);
    }
    for at in ["bad-dangling", "bad-loop", "bad-out", "bad-absolute"] {
        assert_eq!(tree.stat(&path(at)).expect("itself").kind, Kind::Symlink);
        assert!(tree.open(&path(at)).is_err(), "{at}");
    }
    for at in ["bad-out-folder/secret", "bad-loop/x"] {
        let error = tree.stat(&path(at)).expect_err("nothing");
        assert_eq!(error.kind(), io::ErrorKind::NotFound, "{at}");
    }
}

#[test]
fn a_followed_link_is_never_a_way_out_while_it_is_swapped() {
    let place = Place::with(
        |path| RealTree::open(path).with_symlinks(Symlinks::Follow),
        |filter| filter,
    );
    let elsewhere = tempfile::tempdir().expect("a folder");
    fs::write(elsewhere.path().join("f"), "secret").expect("a file");
    place.write("d/f", "inside");
    let (at, next) = (place.at("l"), place.at("next"));
    let outside = elsewhere.path().to_path_buf();
    let swapping = std::thread::spawn(move || {
        for _ in 0..2_000 {
            for target in [Path::new("d"), outside.as_path()] {
                std::os::unix::fs::symlink(target, &next).expect("a link");
                fs::rename(&next, &at).expect("renamed");
            }
        }
    });
    let mut read = 0;
    while !swapping.is_finished() {
        if let Ok(file) = place.tree.open(&path("l/f")) {
            let mut bytes = [0; 6];
            file.read_at(0, &mut bytes).expect("read");
            assert_eq!(&bytes, b"inside");
            read += 1;
        }
    }
    swapping.join().expect("swapped");
    assert!(read > 0);
}

#[test]
fn a_recorded_link_is_a_small_file_with_its_target() {
    let place = Place::with(
        |path| RealTree::open(path).with_symlinks(Symlinks::Record),
        |filter| filter,
    );
    place.write("d/x", "x");
    place.write("taken.rclonelink", "mine");
    let long = "n".repeat(255);
    for (target, at) in [
        ("/somewhere/else", "out"),
        ("d", "folder"),
        ("x", "taken"),
        ("x", "twice.rclonelink"),
        ("y", &*long),
    ] {
        link(&place, target, at);
    }
    let step = place.step();
    let taken: Vec<_> = step
        .differing
        .iter()
        .map(|(at, _)| at.to_string())
        .collect();
    let recorded_long = format!("{long}.rclonelink");
    let expected = [
        "d/x",
        "folder.rclonelink",
        &recorded_long,
        "out.rclonelink",
        "taken.rclonelink",
        "twice.rclonelink.rclonelink",
    ];
    assert_eq!(taken, expected);
    assert_eq!(
        skipped(&step),
        [("taken".to_owned(), SkipReason::Collision)]
    );
    let tree = &*place.tree;
    assert_eq!(content(tree, "out.rclonelink"), b"/somewhere/else");
    assert_eq!(content(tree, &recorded_long), b"y");
    assert_eq!(content(tree, "taken.rclonelink"), b"mine");
    assert_eq!(content(tree, "twice.rclonelink.rclonelink"), b"x");
    // A listing and a stat are of one mind, also about what is not there.
    for found in tree.list(&RelPath::root()).expect("a listing") {
        let at = RelPath::root().join(&found.name);
        assert_eq!(tree.stat(&at).expect("listed"), found.stat, "{at}");
    }
    let longer = format!("{recorded_long}.rclonelink");
    for at in [
        "out",
        "folder",
        "folder/x",
        "twice.rclonelink",
        "d/x.rclonelink",
        &longer,
    ] {
        let error = tree.stat(&path(at)).expect_err("nothing");
        assert_eq!(error.kind(), io::ErrorKind::NotFound, "{at}");
        assert!(tree.open(&path(at)).is_err(), "{at}");
    }
    assert_eq!(tree.alias(&path("d/x")), Some(path("d/x.rclonelink")));
    assert_eq!(RealTree::open(place.dir.path()).alias(&path("d/x")), None);
}
