//! What the real tree watches, what it polls, and what it says of both.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(
    clippy::disallowed_methods,
    reason = "these are the user's files, not the agent's state"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tidewatch::base::path::RelPath;
use tidewatch::base::policy::WatchMode;
use tidewatch::tree::budget::Budget;
use tidewatch::tree::real::RealTree;
use tidewatch::tree::report::Watching;
use tidewatch::tree::scan::Depth;
use tidewatch::tree::{Hint, HintReceiver, Tree, hints};

/// More hints than any test here causes: what is lost is lost by the kernel.
const HINTS: usize = 200_000;

fn path(text: &str) -> RelPath {
    RelPath::new(text.as_bytes()).unwrap()
}

struct Watched {
    _dir: TempDir,
    root: PathBuf,
    tree: RealTree,
    hints: HintReceiver,
}

impl Watched {
    fn new(mode: WatchMode, budget: Arc<Budget>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let (sender, hints) = hints(HINTS);
        let tree = RealTree::watched_within(&root, sender, mode, budget).unwrap();
        Self {
            _dir: dir,
            root,
            tree,
            hints,
        }
    }

    /// Lists everything below a folder, as a full scan does; returns how many folders there are.
    fn scan(&self, from: &str) -> usize {
        self.tree.accept(self.tree.identity().unwrap());
        let (mut folders, mut count) = (vec![path(from)], 0);
        while let Some(folder) = folders.pop() {
            count += 1;
            for found in self.tree.list(&folder).unwrap() {
                if found.stat.kind == tidewatch::base::stat::Kind::Folder {
                    folders.push(folder.join(&found.name));
                }
            }
        }
        count
    }

    async fn so_far(&mut self) -> Vec<Hint> {
        self.tree.round_trip().unwrap();
        let mut all = Vec::new();
        // The round trip has put them all into the channel, so that what is not ready is not there.
        while let Ok(hint) = tokio::time::timeout(Duration::ZERO, self.hints.recv()).await {
            all.push(hint.unwrap());
        }
        all
    }
}

fn make(root: &Path, folders: impl IntoIterator<Item = String>) {
    for folder in folders {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
}

#[test]
fn beyond_the_budget_folders_are_polled_until_there_is_room() {
    let budget = Budget::given(5);
    let on = Watched::new(WatchMode::Auto, budget.clone());
    make(&on.root, (0..9).map(|n| n.to_string()));
    assert_eq!(on.scan(""), 10);
    let report = on.tree.watch_report();
    assert_eq!((report.watched, report.polled), (4, 6));
    let words = report.to_string();
    assert!(
        words.starts_with("native; 6 of 10 folders are polled: raise "),
        "{words}"
    );
    let polled = on.tree.take_polled();
    assert_eq!(polled.len(), 6);
    assert!(on.tree.take_polled().is_empty(), "each is named once");
    for (folder, depth) in &polled {
        assert_eq!(*depth, Depth::NewFolders);
        assert_eq!(on.tree.polled(folder), Some(Depth::NewFolders));
    }
    // A folder that is polled is looked after, a new one is not.
    make(&on.root, ["new".to_owned()]);
    let found = on.tree.list(&RelPath::root()).unwrap();
    let strangers: Vec<_> = found.iter().filter(|found| !found.armed).collect();
    assert_eq!(strangers.len(), 1, "{strangers:?}");
    assert_eq!(&*strangers[0].name, b"new");
    // One that goes is not polled any more.
    let (gone, _) = &polled[0];
    fs::remove_dir(gone.under(&on.root)).unwrap();
    assert!(on.tree.list(gone).is_err());
    assert_eq!(on.tree.polled(gone), None);
    budget.set_limit(100);
    assert_eq!(on.scan(""), 10);
    assert_eq!(on.tree.watch_report().to_string(), "native");
    assert_eq!(on.tree.watch_report().watched, 10);
    assert!(polled.iter().all(|(at, _)| on.tree.polled(at).is_none()));
}

#[tokio::test]
async fn a_polled_folder_that_changes_takes_the_watch_of_a_cold_one() {
    let mut on = Watched::new(WatchMode::Auto, Budget::given(5));
    make(&on.root, (0..6).map(|n| n.to_string()));
    on.scan("");
    let polled: Vec<_> = on
        .tree
        .take_polled()
        .into_iter()
        .map(|(at, _)| at)
        .collect();
    let hot = polled[0].clone();
    // The first time round all are new; then only those that have told something are kept.
    for _ in 0..2 {
        on.tree.prefer(&hot);
        on.tree.list(&hot).unwrap();
    }
    assert_eq!(on.tree.polled(&hot), None);
    let cold = on.tree.take_polled();
    assert_eq!(cold.len(), 1, "{cold:?}");
    assert!(!polled.contains(&cold[0].0));
    assert_eq!(on.tree.watch_report().watched, 4);
    on.so_far().await;
    fs::File::create(hot.under(&on.root).join("f")).unwrap();
    assert!(!on.so_far().await.is_empty(), "it is watched now");
    fs::File::create(cold[0].0.under(&on.root).join("f")).unwrap();
    assert_eq!(on.so_far().await, [], "and the other one is not");
}

#[test]
fn trees_share_their_budget_and_give_it_back() {
    let budget = Budget::given(5);
    let first = Watched::new(WatchMode::Auto, budget.clone());
    make(&first.root, (0..9).map(|n| n.to_string()));
    first.scan("");
    let second = Watched::new(WatchMode::Auto, budget);
    second.scan("");
    assert_eq!(second.tree.unwatched(), 1);
    drop(first);
    second.scan("");
    assert_eq!(second.tree.unwatched(), 0);
}

#[tokio::test]
async fn a_tree_that_is_to_be_polled_takes_no_watch() {
    let mut on = Watched::new(WatchMode::Poll, Budget::given(100));
    make(&on.root, ["a".to_owned()]);
    on.scan("");
    let report = on.tree.watch_report();
    assert_eq!((report.watched, report.polled), (0, 0));
    assert_eq!(report.mode, Watching::Polling("as configured".to_owned()));
    assert_eq!(on.tree.take_polled(), [(RelPath::root(), Depth::Full)]);
    assert_eq!(on.tree.polled(&RelPath::root()), Some(Depth::Full));
    fs::File::create(on.root.join("a/f")).unwrap();
    assert_eq!(on.so_far().await, []);
}

#[test]
fn a_filesystem_that_tells_nothing_is_polled_unless_it_is_to_be_watched() {
    let polled = |mode| {
        let (sender, _receiver) = hints(1);
        let root = Path::new("/proc/sys");
        let tree = RealTree::watched_within(root, sender, mode, Budget::given(10)).unwrap();
        (tree.watch_report().to_string(), tree.take_polled().len())
    };
    assert_eq!(polled(WatchMode::Auto), ("polling: proc".to_owned(), 1));
    let words = "native; proc does not tell of every change";
    assert_eq!(polled(WatchMode::Native), (words.to_owned(), 0));
}

#[tokio::test]
async fn looking_at_many_watched_folders_loses_nothing() {
    // Two events of our own for each: more than twice what the kernel's queue holds.
    const FOLDERS: usize = 20_000;
    let mut on = Watched::new(WatchMode::Auto, Budget::given(100_000));
    make(&on.root, (0..FOLDERS).map(|n| format!("{}/{n}", n % 100)));
    assert_eq!(on.scan(""), FOLDERS + 101);
    on.so_far().await;
    for round in 0..2 {
        assert_eq!(on.scan(""), FOLDERS + 101);
        assert_eq!(on.so_far().await, [], "round {round}");
    }
    // And what others do meanwhile is told.
    fs::File::create(on.root.join("7/107/f")).unwrap();
    assert!(!on.so_far().await.is_empty());
}

#[tokio::test]
async fn a_root_that_is_renamed_away_is_noticed_at_once() {
    let mut on = Watched::new(WatchMode::Auto, Budget::given(100));
    on.scan("");
    let elsewhere = on.root.with_extension("elsewhere");
    fs::rename(&on.root, &elsewhere).unwrap();
    assert_eq!(on.so_far().await, [Hint::Folder(RelPath::root())]);
    assert!(on.tree.identity().is_err(), "a scan begins by asking that");
    fs::rename(&elsewhere, &on.root).unwrap();
    // Back: with new watches, and with everything to be looked at.
    on.scan("");
    assert_eq!(on.so_far().await.first(), Some(&Hint::Lost));
    fs::File::create(on.root.join("f")).unwrap();
    assert!(!on.so_far().await.is_empty());
}
