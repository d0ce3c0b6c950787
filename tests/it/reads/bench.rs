//! A folder on the disk, a bucket in memory, and an agent between them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle as Thread};
use std::time::Duration;

use tempfile::TempDir;
use tidewatch::agent::{self, Ended, Folder, Mode, Settings};
use tidewatch::base::buffers::Pool;
use tidewatch::base::clock::Clock;
use tidewatch::base::offload::Offload;
use tidewatch::base::path::RelPath;
use tidewatch::base::policy::WatchMode;
use tidewatch::base::snapshot::{FolderSnapshot, Happening, What};
use tidewatch::base::stat::Stat;
use tidewatch::manifest::{Content, FolderKey, FolderRow, Manifest};
use tidewatch::store::key::KeyMap;
use tidewatch::sync::limits::Limits;
use tidewatch::tree::filter::Filter;
use tidewatch::tree::real::RealTree;
use tidewatch::tree::{Found, Identity, Lease, OpenFile, ReadCounts, ReadError, Tree, hints};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::support::mem_store::MemStore;

/// How long anything may take before a test gives up on it; only a failure takes that long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What goes wrong on the way to the real tree.
#[derive(Clone, Default)]
pub struct Eyes {
    /// No file is ours: there are no leases.
    pub leaseless: bool,
    /// All files have these stamps, whatever happens to them.
    pub frozen_ns: Option<i64>,
    /// How many files were opened.
    pub opened: Arc<AtomicU64>,
}

/// The real tree, seen through [`Eyes`].
struct Seen {
    tree: RealTree,
    eyes: Eyes,
}

struct SeenFile {
    file: Box<dyn OpenFile>,
    eyes: Eyes,
}

/// A folder and a bucket.
pub struct Bench {
    _dir: TempDir,
    pub root: PathBuf,
    pub state: PathBuf,
    pub bucket: MemStore,
    pub manifest: Manifest,
    pub eyes: Eyes,
    pub max_wait: Duration,
    row: FolderRow,
}

/// A running agent.
pub struct Agent {
    stop: CancellationToken,
    pub snapshots: watch::Receiver<FolderSnapshot>,
    pub happenings: mpsc::Receiver<Happening>,
    task: JoinHandle<Ended>,
}

impl Bench {
    /// Makes a bench in a new folder below `within`, or in the usual place.
    pub fn new(within: Option<&Path>) -> Self {
        let dir = within.map_or_else(tempfile::tempdir, tempfile::tempdir_in);
        let dir = dir.unwrap();
        let path = dir.path().canonicalize().unwrap();
        let (root, state) = (path.join("root"), path.join("state"));
        fs::create_dir(&root).unwrap();
        fs::create_dir(&state).unwrap();
        let manifest = Manifest::in_memory().unwrap();
        let key = FolderKey {
            path: root.as_os_str().as_encoded_bytes().to_vec(),
            endpoint: String::new(),
            bucket: "b".into(),
            prefix: "p/".into(),
        };
        Self {
            _dir: dir,
            root,
            state,
            bucket: MemStore::default(),
            row: manifest.folder(&key, "m").unwrap(),
            manifest,
            eyes: Eyes::default(),
            max_wait: Duration::from_millis(100),
        }
    }

    /// Starts an agent that reads as soon as it is allowed to.
    pub fn start(&self, mode: Mode) -> Agent {
        let (sender, receiver) = hints(16_384);
        let tree = match mode {
            Mode::Forever => RealTree::watched(&self.root, sender, WatchMode::Auto).unwrap(),
            Mode::Once { .. } => RealTree::open(&self.root),
        };
        let tree = Seen {
            tree: tree.with_captures(&self.state),
            eyes: self.eyes.clone(),
        };
        let (snapshot_sender, snapshots) = watch::channel(FolderSnapshot::default());
        let (happening_sender, happenings) = mpsc::channel(100_000);
        let folder = Folder {
            name: "m".into(),
            path: self.root.display().to_string(),
            to: "s3://b/p/".into(),
            row: self.row.clone(),
            tree: Arc::new(tree),
            store: Arc::new(self.bucket.clone()),
            manifest: self.manifest.clone(),
            filter: Arc::new(Filter::new(&[], &[], true).unwrap()),
            owner: None,
            keys: KeyMap::new("p/"),
            labels: Arc::default(),
            limits: Arc::new(Limits::new(Some(4), 128 << 20)),
            buffers: Pool::new(32 << 20),
            clock: Clock::Real,
            offload: Offload::Pool,
            random: fastrand::Rng::with_seed(1),
            hints: receiver,
            settings: Settings {
                settle: Duration::from_millis(20),
                scan_settle: Duration::ZERO,
                max_wait: self.max_wait,
                rescan: Duration::from_secs(600),
                shutdown_grace: Duration::from_secs(30),
                ..Settings::default()
            },
            control: None,
            mode,
            snapshots: snapshot_sender,
            happenings: Some(happening_sender),
        };
        let stop = CancellationToken::new();
        #[expect(
            clippy::disallowed_methods,
            reason = "the test owns the agent's task and joins it"
        )]
        let task = tokio::spawn(agent::run(folder, stop.clone()));
        Agent {
            stop,
            snapshots,
            happenings,
            task,
        }
    }

    /// Runs an agent that ends when everything has been looked at.
    pub async fn sync(&self) -> Ended {
        let agent = self.start(Mode::Once { timeout: PATIENCE });
        timeout(PATIENCE, agent.task)
            .await
            .expect("it ends")
            .unwrap()
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Writes a file in place: opened, cut off, written by one call, closed.
    pub fn write(&self, name: &str, bytes: &[u8]) {
        File::create(self.at(name))
            .unwrap()
            .write_all(bytes)
            .unwrap();
    }

    pub fn object(&self, name: &str) -> Option<Vec<u8>> {
        let objects = self.bucket.objects();
        Some(objects.get(&format!("p/{name}"))?.bytes.to_vec())
    }

    pub fn content(&self, name: &str) -> Option<Content> {
        let entries = self.manifest.entries(self.row.id, &[path(name)]);
        entries.unwrap().remove(0)?.stored
    }

    pub fn opened(&self) -> u64 {
        self.eyes.opened.load(Ordering::SeqCst)
    }
}

impl Agent {
    /// Waits until what the snapshots say is so.
    pub async fn until(&mut self, what: &str, is_so: impl FnMut(&FolderSnapshot) -> bool) {
        let waited = timeout(PATIENCE, self.snapshots.wait_for(is_so)).await;
        assert!(waited.is_ok_and(|seen| seen.is_ok()), "never: {what}");
    }

    /// Waits until a file is level with what is on the disk, and the agent says so.
    pub async fn level(&mut self, bench: &Bench, name: &str) {
        until("the object is the file", || {
            bench.object(name) == fs::read(bench.at(name)).ok()
        })
        .await;
        self.until("level", |snapshot| snapshot.level).await;
        assert_eq!(bench.object(name), fs::read(bench.at(name)).ok(), "{name}");
    }

    /// Waits until everything that was done to the folder before has been heard and dealt with.
    pub async fn caught_up(&mut self, bench: &Bench, probe: &str) {
        bench.write(probe, probe.as_bytes());
        self.level(bench, probe).await;
    }

    /// Waits for the next upload of a file.
    pub async fn uploaded(&mut self, name: &str) {
        loop {
            let happening = timeout(PATIENCE, self.happenings.recv()).await;
            let happening = happening.expect("it is uploaded").expect("the agent runs");
            if happening.path == path(name) && happening.what == What::Uploaded {
                return;
            }
        }
    }

    pub async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

/// Waits for a condition.
pub async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(PATIENCE, waiting).await.is_ok(), "never: {what}");
}

/// Tells who runs the tests what a green test does not show.
#[expect(
    clippy::print_stdout,
    reason = "shown with --nocapture, and of a failure"
)]
pub fn say(what: &str) {
    println!("{what}");
}

/// Returns the wall clock, nanoseconds since the epoch.
pub fn now_ns() -> i64 {
    Clock::Real.now().wall_ns
}

pub fn path(name: &str) -> RelPath {
    RelPath::new(name.as_bytes()).unwrap()
}

/// Returns true if every byte is the same: a version of a file that is written as a whole.
pub fn is_of_one_piece(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == bytes[0])
}

/// Opens a file for writing as it is.
pub fn open_to_write(at: impl AsRef<Path>) -> File {
    OpenOptions::new().write(true).open(at).unwrap()
}

/// Does something again and again in a thread of its own, with another byte each time, until it is stopped.
pub struct Restless {
    stop: Arc<AtomicBool>,
    thread: Thread<()>,
}

impl Restless {
    pub fn new(mut act: impl FnMut(u8) + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            for byte in (1..=250).cycle() {
                if stopped.load(Ordering::SeqCst) {
                    break;
                }
                act(byte);
                // The pace of the program that is played, not a wait for anything.
                thread::sleep(Duration::from_millis(3));
            }
        });
        Self { stop, thread }
    }

    /// Waits until it has ended.
    pub fn stop(self) {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap();
    }
}

impl Seen {
    fn file(&self, file: Box<dyn OpenFile>) -> Box<dyn OpenFile> {
        let eyes = self.eyes.clone();
        Box::new(SeenFile { file, eyes })
    }
}

impl Eyes {
    fn see(&self, stat: Stat) -> Stat {
        self.frozen_ns.map_or(stat, |ns| Stat {
            mtime_ns: ns,
            ctime_ns: ns,
            ..stat
        })
    }
}

impl Tree for Seen {
    fn identity(&self) -> io::Result<Identity> {
        self.tree.identity()
    }

    fn accept(&self, root: Identity) {
        self.tree.accept(root);
    }

    fn list(&self, folder: &RelPath) -> io::Result<Vec<Found>> {
        let mut found = self.tree.list(folder)?;
        for one in &mut found {
            one.stat = self.eyes.see(one.stat);
        }
        Ok(found)
    }

    fn stat(&self, path: &RelPath) -> io::Result<Stat> {
        self.tree.stat(path).map(|stat| self.eyes.see(stat))
    }

    fn open(&self, path: &RelPath) -> Result<Box<dyn OpenFile>, ReadError> {
        self.eyes.opened.fetch_add(1, Ordering::SeqCst);
        Ok(self.file(self.tree.open(path)?))
    }

    fn capture(&self, path: &RelPath) -> Result<Option<Box<dyn OpenFile>>, ReadError> {
        Ok(self.tree.capture(path)?.map(|file| self.file(file)))
    }

    fn reads(&self) -> ReadCounts {
        self.tree.reads()
    }
}

impl OpenFile for SeenFile {
    fn stat(&self) -> io::Result<Stat> {
        self.file.stat().map(|stat| self.eyes.see(stat))
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(offset, into)
    }

    fn lease(&self) -> Lease<'_> {
        if self.eyes.leaseless {
            Lease::Unavailable
        } else {
            self.file.lease()
        }
    }
}
