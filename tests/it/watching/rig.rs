//! A folder on the disk, the real watcher, the real agent and a bucket in memory.
//!
//! Waits for conditions with a deadline, never for a duration; asks again and again, because the disk tells no test when
//! the agent has caught up.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;
use tidewatch::agent::{self, Ended, Folder, Mode, Settings};
use tidewatch::base::buffers::Pool;
use tidewatch::base::clock::Clock;
use tidewatch::base::offload::Offload;
use tidewatch::base::path::RelPath;
use tidewatch::base::policy::{OnDelete, WatchMode};
use tidewatch::base::snapshot::{FolderSnapshot, Happening, What};
use tidewatch::base::stat::Kind;
use tidewatch::manifest::{FolderKey, Manifest};
use tidewatch::store::Store;
use tidewatch::store::key::KeyMap;
use tidewatch::sync::limits::Limits;
use tidewatch::tree::filter::{Bounds, Filter};
use tidewatch::tree::real::RealTree;
use tidewatch::tree::{Hint, HintReceiver, HintSender, hints};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::support::faulty::{Faulty, Odds};
use crate::support::mem_store::{Counts, MemStore};

/// How long a test waits for what must happen, on a machine that is busy with other tests.
pub fn deadline() -> Duration {
    scale(Duration::from_secs(45), Duration::from_secs(600))
}

/// How the agent is run.
#[derive(Clone, Debug)]
pub struct With {
    pub settle: Duration,
    pub max_wait: Duration,
    /// Long, so that it is the watcher that has to see; short where the row is about the scan.
    pub rescan: Duration,
    pub exclude: Vec<String>,
    /// What each hint costs before the agent gets it.
    pub per_hint: Duration,
    /// Hints that wait for the agent.
    pub hints: usize,
    /// What each request takes.
    pub latency: Duration,
    pub clock: Clock,
    pub on_delete: OnDelete,
    /// Objects without a file are there for good: below a mount, for instance.
    pub extras: bool,
    /// Longer files are left out.
    pub max_size: Option<u64>,
    /// Something is wrong in the row, so that the agent never says that it is level.
    pub trouble: bool,
}

impl Default for With {
    fn default() -> Self {
        Self {
            settle: Duration::from_millis(50),
            max_wait: Duration::from_secs(300),
            rescan: Duration::from_secs(3600),
            exclude: Vec::new(),
            max_size: None,
            per_hint: Duration::ZERO,
            hints: 16_384,
            latency: Duration::ZERO,
            clock: Clock::Real,
            // The sharpest: whatever is wrongly held for gone is gone.
            on_delete: OnDelete::Delete,
            extras: false,
            trouble: false,
        }
    }
}

/// What went by on its way from the watcher to the agent.
#[derive(Debug, Default)]
pub struct Tap {
    pub hints: AtomicU64,
    pub lost: AtomicU64,
}

struct Agent {
    stop: CancellationToken,
    snapshots: watch::Receiver<FolderSnapshot>,
    task: JoinHandle<Ended>,
}

/// The whole of it.
pub struct Rig {
    pub base: TempDir,
    pub root: PathBuf,
    pub bucket: MemStore,
    pub with: With,
    pub tap: Arc<Tap>,
    happenings: Arc<Mutex<Vec<Happening>>>,
    manifest: Manifest,
    agent: Option<Agent>,
    probes: u32,
    runtime: Runtime,
}

impl Rig {
    /// Makes an empty folder beside room for what lies outside; nothing runs yet.
    pub fn new(with: With) -> Self {
        let base = tempfile::tempdir().unwrap();
        // What the tests name by path, the agent must be able to name in the same way.
        let root = base.path().canonicalize().unwrap().join("root");
        fs::create_dir(&root).unwrap();
        let bucket = MemStore::default();
        bucket.keep_history();
        Self {
            root,
            base,
            bucket,
            with,
            tap: Arc::default(),
            happenings: Arc::default(),
            manifest: Manifest::in_memory().unwrap(),
            agent: None,
            probes: 0,
            runtime: tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap(),
        }
    }

    /// Makes an empty folder, and an agent that has looked at it and watches.
    pub fn started(with: With) -> Self {
        let mut rig = Self::new(with);
        rig.start();
        rig
    }

    /// Starts the agent and waits until it has been level once.
    pub fn start(&mut self) {
        self.launch();
        self.until("a first level", |rig| {
            let now = rig.snapshot();
            now.level || rig.with.trouble && now.begun
        });
    }

    /// Starts the agent and waits for nothing.
    pub fn launch(&mut self) {
        assert!(self.agent.is_none(), "it runs already");
        let root = self.root.clone();
        let (sender, from_watcher) = hints(16_384);
        let tree = RealTree::watched(&root, sender, WatchMode::Auto).unwrap();
        let (to_agent, receiver) = hints(self.with.hints);
        let tap = tap(from_watcher, to_agent, self.tap.clone(), self.with.per_hint);
        self.runtime.spawn(tap);
        let (snapshot_sender, snapshots) = watch::channel(FolderSnapshot::default());
        let (happening_sender, mut happenings) = mpsc::channel(1024);
        let noted = self.happenings.clone();
        self.runtime.spawn(async move {
            while let Some(happening) = happenings.recv().await {
                noted.lock().unwrap().push(happening);
            }
        });
        let line = Odds {
            latency: self.with.latency..self.with.latency + Duration::from_micros(1),
            ..Odds::default()
        };
        let store: Arc<dyn Store> = if self.with.latency.is_zero() {
            Arc::new(self.bucket.clone())
        } else {
            Arc::new(Faulty::new(self.bucket.clone(), 1, line))
        };
        let key = FolderKey {
            path: root.as_os_str().as_bytes().to_vec(),
            endpoint: String::new(),
            bucket: "b".into(),
            prefix: "p/".into(),
        };
        let folder = Folder {
            name: "m".into(),
            path: root.display().to_string(),
            to: "s3://b/p/".into(),
            row: self.manifest.folder(&key, "m").unwrap(),
            tree: Arc::new(tree),
            store,
            manifest: self.manifest.clone(),
            filter: Arc::new(self.filter()),
            owner: None,
            keys: KeyMap::new("p/"),
            labels: Arc::default(),
            limits: Arc::new(Limits::new(Some(8), 128 << 20)),
            buffers: Pool::new(1 << 20),
            clock: self.with.clock,
            offload: Offload::Pool,
            random: fastrand::Rng::with_seed(1),
            hints: receiver,
            settings: Settings {
                settle: self.with.settle,
                scan_settle: Duration::ZERO,
                max_wait: self.with.max_wait,
                rescan: self.with.rescan,
                on_delete: self.with.on_delete,
                // The rows remove much at once, and nobody is there to say that they may.
                delete_brake: None,
                ..Settings::default()
            },
            mode: Mode::Forever,
            snapshots: snapshot_sender,
            happenings: Some(happening_sender),
            control: None,
        };
        let stop = CancellationToken::new();
        let task = self.runtime.spawn(agent::run(folder, stop.clone()));
        self.agent = Some(Agent {
            stop,
            snapshots,
            task,
        });
    }

    /// Stops the agent and waits for its end.
    pub fn stop(&mut self) -> Ended {
        let agent = self.agent.take().expect("it runs");
        agent.stop.cancel();
        self.runtime.block_on(agent.task).unwrap()
    }

    fn filter(&self) -> Filter {
        let max_size = self.with.max_size;
        let filter = Filter::new(&self.with.exclude, &[], true).unwrap();
        filter.with_bounds(Bounds {
            max_size,
            ..Bounds::default()
        })
    }

    pub fn snapshot(&self) -> FolderSnapshot {
        let agent = self.agent.as_ref().expect("it runs");
        assert!(!agent.task.is_finished(), "the agent has ended");
        agent.snapshots.borrow().clone()
    }

    pub fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.join(path)
    }

    /// Returns a path beside the root, on the same filesystem.
    pub fn outside(&self, name: &str) -> PathBuf {
        self.root.parent().unwrap().join(name)
    }

    pub fn write(&self, path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) {
        write(&self.at(path), bytes);
    }

    /// Returns what the bucket holds for a path.
    pub fn object(&self, path: &str) -> Option<Vec<u8>> {
        let objects = self.bucket.objects();
        Some(objects.get(&format!("p/{path}"))?.bytes.to_vec())
    }

    /// Returns every content that the key of `path` ever had, in order.
    pub fn versions(&self, path: &str) -> Vec<Vec<u8>> {
        let key = format!("p/{path}");
        let all = self.bucket.history().into_iter();
        all.filter(|(at, _)| *at == key)
            .filter_map(|(_, bytes)| Some(bytes?.to_vec()))
            .collect()
    }

    /// Returns whether the row of a file waits for a second read; `None` if there is no such row.
    pub fn is_doubtful(&self, path: &str) -> Option<bool> {
        let folder = self.manifest.folders().unwrap()[0].id;
        let path = RelPath::new(path.as_bytes()).unwrap();
        let row = self.manifest.entries(folder, &[path]).unwrap().remove(0)?;
        Some(row.stored?.doubtful)
    }

    pub fn counts(&self) -> Counts {
        self.bucket.counts()
    }

    /// Returns how many objects were removed, by whatever request.
    pub fn deletes(&self) -> usize {
        let history = self.bucket.history();
        history.iter().filter(|(_, bytes)| bytes.is_none()).count()
    }

    pub fn lost(&self) -> u64 {
        self.tap.lost.load(Ordering::SeqCst)
    }

    pub fn happened(&self, what: What) -> Vec<Happening> {
        let all = self.happenings.lock().unwrap();
        all.iter().filter(|one| one.what == what).cloned().collect()
    }

    /// Waits until `holds`.
    pub fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let began = now();
        while !holds(self) {
            assert!(
                now() - began < deadline(),
                "never came to be: {what}; {:?}",
                self.agent
                    .as_ref()
                    .map(|agent| agent.snapshots.borrow().clone())
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until bucket, manifest and tree agree. Nobody may write to the tree meanwhile.
    pub fn level(&self) {
        let expected = self.tree();
        let began = now();
        let mut differences = self.differences(&expected);
        while !differences.is_empty() {
            if now() - began > deadline() {
                let count = differences.len();
                differences.truncate(20);
                panic!(
                    "{count} of {} are not level:\n  {}\n{:?}",
                    expected.len(),
                    differences.join("\n  "),
                    self.snapshot()
                );
            }
            thread::sleep(Duration::from_millis(50));
            differences = self.differences(&expected);
        }
        if !self.with.trouble {
            self.until("the agent says so too", |rig| rig.snapshot().level);
        }
    }

    /// Waits for level, and then for one new file in every folder, which only a watch that works can have seen.
    pub fn probe(&mut self) {
        self.level();
        self.probes += 1;
        let name = format!("probe-{}", self.probes);
        let filter = self.filter();
        let mut folders = vec![RelPath::root()];
        while let Some(folder) = folders.pop() {
            for (path, kind) in self.list(&folder) {
                if kind == Kind::Folder && filter.excludes(&path, kind).is_none() {
                    folders.push(path);
                }
            }
            let path = folder.join(name.as_bytes());
            // A folder that is closed to us is closed to the probe.
            let written = fs::write(path.under(&self.root), format!("{name} {path}"));
            assert!(written.is_ok() || self.with.trouble, "{path}: {written:?}");
        }
        self.level();
    }

    fn list(&self, folder: &RelPath) -> Vec<(RelPath, Kind)> {
        let mut all = Vec::new();
        // What cannot be listed is not expected in the bucket either.
        for entry in fs::read_dir(folder.under(&self.root)).into_iter().flatten() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            let kind = if kind.is_dir() {
                Kind::Folder
            } else if kind.is_file() {
                Kind::File
            } else if kind.is_symlink() {
                Kind::Symlink
            } else {
                Kind::Special
            };
            all.push((folder.join(entry.file_name().as_bytes()), kind));
        }
        all
    }

    /// Returns what should be in the bucket, by key.
    pub fn tree(&self) -> BTreeMap<String, Vec<u8>> {
        let (filter, keys) = (self.filter(), KeyMap::new("p/"));
        let mut all = BTreeMap::new();
        let mut folders = vec![RelPath::root()];
        while let Some(folder) = folders.pop() {
            for (path, kind) in self.list(&folder) {
                if filter.excludes(&path, kind).is_some() {
                    continue;
                }
                match kind {
                    Kind::Folder => folders.push(path),
                    Kind::File => {
                        if let Ok(key) = keys.key(&path)
                            && let Ok(bytes) = fs::read(path.under(&self.root))
                        {
                            all.insert(key, bytes);
                        }
                    }
                    Kind::Symlink | Kind::Special => {}
                }
            }
        }
        all
    }

    fn differences(&self, expected: &BTreeMap<String, Vec<u8>>) -> Vec<String> {
        let objects = self.bucket.objects();
        let mut all = Vec::new();
        for (key, bytes) in expected {
            match objects.get(key) {
                None => all.push(format!("missing: {key}")),
                Some(object) if object.bytes != *bytes => all.push(format!(
                    "differs: {key} has {} bytes, its object {}",
                    bytes.len(),
                    object.bytes.len()
                )),
                Some(_) => {}
            }
        }
        if self.with.on_delete == OnDelete::Delete && !self.with.extras && !self.with.trouble {
            let extra = objects.keys().filter(|key| !expected.contains_key(*key));
            all.extend(extra.map(|key| format!("extra: {key}")));
        }
        all
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.task.abort();
        }
    }
}

async fn tap(mut from: HintReceiver, to: HintSender, tap: Arc<Tap>, per_hint: Duration) {
    while let Some(hint) = from.recv().await {
        let count = if hint == Hint::Lost {
            &tap.lost
        } else {
            &tap.hints
        };
        count.fetch_add(1, Ordering::SeqCst);
        if !per_hint.is_zero() {
            tokio::time::sleep(per_hint).await;
        }
        to.send(hint);
    }
}

/// Writes a file, making the folders above it.
pub fn write(path: &Path, bytes: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

pub fn now() -> Instant {
    Clock::Real.now().mono
}

/// Returns `full` where long runs are asked for (`TIDEWATCH_FULL=1`), else `small`.
pub fn scale<T>(small: T, full: T) -> T {
    if std::env::var_os("TIDEWATCH_FULL").is_some_and(|value| value == "1") {
        full
    } else {
        small
    }
}

/// Sleeps so that a writer keeps its pace: the pace is what the row is about.
pub fn pace(duration: Duration) {
    thread::sleep(duration);
}

pub const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}
