//! The world around the agent: what happens to the tree, when the agent runs, how it dies.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidewatch::agent::{self, Control, Folder, Mode, Reason, Request, Settings};
use tidewatch::base::buffers::Pool;
use tidewatch::base::clock::Clock;
use tidewatch::base::offload::Offload;
use tidewatch::base::path::RelPath;
use tidewatch::base::policy::{Brake, Guarding, History, OnDelete};
use tidewatch::base::snapshot::FolderSnapshot;
use tidewatch::manifest::{FolderKey, Manifest};
use tidewatch::store::key::KeyMap;
use tidewatch::sync::lease::{Manners, Owner};
use tidewatch::sync::limits::Limits;
use tidewatch::tree::filter::Filter;
use tidewatch::tree::hints;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::sim::oracle::Oracle;
use crate::sim::planted::{Bug, Plant};
use crate::support::faulty::{Faulty, Odds};
use crate::support::mem_store::{Habits, MemStore};
use crate::support::mem_tree::{MemTree, Mount};

const START_NS: i64 = 1_790_000_000_000_000_000;
const SECOND_NS: i64 = 1_000_000_000;
const MINUTE: Duration = Duration::from_secs(60);
/// How long it takes until everything is level after the last fault: the last request lands within 14 minutes, and is
/// waited for 15 minutes; what failed is tried again within 5.
const HORIZON_MINUTES: u32 = 40;

pub struct World {
    seed: u64,
    random: fastrand::Rng,
    tree: MemTree,
    bucket: MemStore,
    store: Faulty<MemStore>,
    manifest: Manifest,
    settings: Settings,
    pub oracle: Oracle,
    plant: Plant,
    wall_ns: i64,
    /// How often the agent was started.
    starts: u32,
    trace: bool,
    /// The folder is watched; else only the scans see anything.
    watched: bool,
    /// How likely an event is lost, and how likely a file changes under its reader.
    trouble: (f64, f64),
    /// Until when something else is mounted.
    mounted_until_ns: Option<i64>,
}

impl Drop for World {
    fn drop(&mut self) {
        // The hook knows the store that it hangs on.
        self.store.on_delete(|_| {});
    }
}

impl World {
    pub fn new(seed: u64, trace: bool, bug: Option<Bug>) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let habits = Habits {
            ignores_copy_conditions: random.bool(),
            drops_metadata: random.u8(..4) == 0,
            refuses_copies: random.u8(..8) == 0,
            ..Habits::default()
        };
        let bucket = MemStore::with_habits(habits);
        let odds = Odds {
            refused: random.f64() * 0.2,
            lost: random.f64() * 0.1,
            late: random.f64() * 0.1,
            latest: Duration::from_secs(random.u64(1..800)),
            latency: Duration::from_millis(1)..Duration::from_millis(random.u64(2..400)),
            ..Odds::default()
        };
        let store = Faulty::new(bucket.clone(), random.u64(..), odds);
        let manifest = Manifest::in_memory().expect("a database in memory");
        let key = FolderKey {
            path: b"/sim".to_vec(),
            endpoint: String::new(),
            bucket: "bucket".into(),
            prefix: "p/".into(),
        };
        let folder = manifest.folder(&key, "sim").expect("a row").id;
        let tree = MemTree::new(random.u64(..), Clock::Real);
        let watched = random.u8(..5) > 0;
        let mut settings = policies(&mut random);
        if seed % 4 == 1 {
            // Nobody else writes here after the first contact: no object is ever taken for somebody else's.
            settings.guard = Guarding::Strict;
        }
        let oracle = Oracle {
            tree: tree.clone(),
            bucket: bucket.clone(),
            store: store.clone(),
            manifest: manifest.clone(),
            folder,
            on_delete: settings.on_delete,
            planted: Arc::default(),
        };
        let mut world = World {
            seed,
            plant: Plant::new(bug, seed),
            random,
            tree,
            bucket,
            store,
            manifest,
            settings,
            oracle,
            wall_ns: START_NS,
            starts: 0,
            trace,
            watched,
            trouble: (0.0, 0.0),
            mounted_until_ns: None,
        };
        world.sleep(0);
        world.say(&format!("{:?}", world.settings));
        world
    }

    /// Draws how bad the tree is.
    pub fn stir(&mut self) {
        self.trouble = (self.random.f64() * 0.3, self.random.f64() * 0.1);
        self.tree.trouble(self.trouble.0, self.trouble.1);
        self.tree.echo(self.random.f64() * 0.3);
        if self.seed.is_multiple_of(3) {
            self.tree.without_leases();
        }
    }

    /// Lets so many things happen at most.
    pub fn some_changes(&mut self, most: usize) {
        for _ in 0..self.random.usize(..most) {
            self.change();
        }
    }

    /// Now and then somebody else was here before us.
    pub fn others(&mut self) {
        let mut planted = BTreeMap::new();
        if self.random.u8(..3) == 0 {
            for _ in 0..3 {
                let (path, content) = (self.path(), self.content());
                self.bucket.plant(&format!("p/{path}"), &content);
                planted.insert(path, content);
            }
        }
        self.oracle.planted = Arc::new(planted);
        let oracle = self.oracle.clone();
        self.store.on_delete(move |key| oracle.removal(key));
    }

    /// Lets the agent run and die a few times.
    pub fn epochs(&mut self) {
        for _ in 0..self.random.usize(1..5) {
            self.epoch();
            let nap = self.random.u32(1..2_000);
            self.sleep(nap);
            self.some_changes(4);
        }
    }

    /// Returns what a run left behind, in few words.
    pub fn digest(&self) -> impl PartialEq + std::fmt::Debug + use<> {
        let objects = self.bucket.objects().into_iter();
        let objects: Vec<_> = objects.map(|(key, object)| (key, object.etag)).collect();
        (objects, self.bucket.counts().requests, self.wall_ns)
    }

    /// The agent is down; time stands still until it is moved.
    fn sleep(&mut self, seconds: u32) {
        self.wall_ns += i64::from(seconds) * SECOND_NS;
        // A clock that begins tomorrow stands still today: what a real one shows would differ from run to run.
        let since = Clock::Real.now().mono + Duration::from_secs(24 * 3600);
        let clock = Clock::Virtual {
            since,
            wall_ns: self.wall_ns,
        };
        self.tree.watch(None, clock);
    }

    fn say(&self, what: &str) {
        if self.trace {
            eprintln!(
                "seed {} at {:.3}s: {what}",
                self.seed,
                (self.wall_ns - START_NS) as f64 / 1e9
            );
        }
    }

    fn path(&mut self) -> RelPath {
        let names = ["a", "b", "a.txt", "c d", "e"];
        let depth = self.random.usize(1..4);
        let mut path = RelPath::root();
        for _ in 0..depth {
            path = path.join(names[self.random.usize(..names.len())].as_bytes());
        }
        path
    }

    /// Returns a file that is there, or any path.
    fn file(&mut self) -> RelPath {
        let files: Vec<RelPath> = self.tree.files().into_keys().collect();
        self.one_of(files)
    }

    fn one_of(&mut self, paths: Vec<RelPath>) -> RelPath {
        match paths.len() {
            0 => self.path(),
            len => paths.into_iter().nth(self.random.usize(..len)).expect("in"),
        }
    }

    fn content(&mut self) -> Vec<u8> {
        // Few contents, so that many files are equal; now and then a large one.
        match self.random.u16(..1000) {
            0..4 => vec![b"LM"[self.random.usize(..2)]; (16 << 20) + 5],
            4..60 => Vec::new(),
            _ => {
                let letter = b"xyz"[self.random.usize(..3)];
                vec![letter; self.random.usize(1..7)]
            }
        }
    }

    fn change(&mut self) {
        self.change_mount();
        // Seldom the whole folder goes away, until the next change.
        self.tree.away(self.random.u8(..40) == 0);
        match self.random.u8(..32) {
            0..=9 => {
                let (path, content) = (self.path(), self.content());
                self.write(&path, &content);
            }
            10 | 11 => {
                let (path, content) = (self.file(), self.content());
                self.say(&format!("write {path} secretly ({})", content.len()));
                // Only its ctime tells, and a rename on top of it would hide even that: its event is not lost silently.
                self.tree.trouble(0.0, self.trouble.1);
                self.tree.write_secretly(&path, &content);
                self.tree.trouble(self.trouble.0, self.trouble.1);
            }
            12 | 13 => {
                let path = self.path();
                self.say(&format!("remove {path}"));
                self.tree.remove(&path);
            }
            14 => {
                let path = self.file();
                self.say(&format!("remove {path}"));
                self.tree.remove(&path);
            }
            15 => {
                let folders = self.tree.folders();
                let path = self.one_of(folders);
                self.say(&format!("remove {path} with all that is in it"));
                self.tree.remove(&path);
            }
            16..=18 => {
                let (from, to) = (self.path(), self.path());
                self.rename(&from, &to);
            }
            19 | 20 => {
                let (from, to) = (self.file(), self.path());
                self.rename(&from, &to);
            }
            21 => {
                let folders = self.tree.folders();
                let (from, to) = (self.one_of(folders), self.path());
                self.rename(&from, &to);
            }
            22 => {
                // Two files change their names.
                let (a, b) = (self.file(), self.file());
                let aside = RelPath::root().join(b"aside");
                self.rename(&a, &aside);
                self.rename(&b, &a);
                self.rename(&aside, &b);
            }
            23 => {
                let path = self.path();
                self.say(&format!("make the folder {path}"));
                self.tree.mkdir(&path);
            }
            24 | 25 => {
                let (path, mode) = (self.file(), 0o600 + u32::from(self.random.u8(..64)));
                self.tree.chmod(&path, mode);
                // Of a folder's own mode no event tells.
                if let Some(folder) = path.parent() {
                    self.tree.chmod_unheard(&folder, mode | 0o100);
                }
            }
            26 => {
                let folders = self.tree.folders();
                let path = self.one_of(folders);
                self.say(&format!("close {path}"));
                self.tree.close(&path, true);
            }
            27 | 28 => self.tree.open_all(),
            29 => self.run_over(),
            _ => {
                // A tree at once: its inner folders are blind until they are armed.
                let (mut below, content) = (self.path(), self.content());
                for name in ["n1", "n2", "n3"] {
                    below = below.join(name.as_bytes());
                }
                self.write(&below, &content);
            }
        }
    }

    fn write(&mut self, path: &RelPath, content: &[u8]) {
        self.say(&format!("write {path} ({})", content.len()));
        self.tree.write(path, content);
    }

    fn rename(&mut self, from: &RelPath, to: &RelPath) {
        self.say(&format!("rename {from} to {to}"));
        self.tree.rename(from, to);
    }

    /// The kernel's queue runs over: some events are gone, and that is said.
    fn run_over(&mut self) {
        self.say("events are lost");
        self.tree.trouble(1.0, self.trouble.1);
        for _ in 0..self.random.usize(1..4) {
            let (path, content) = (self.path(), self.content());
            self.write(&path, &content);
        }
        self.tree.trouble(self.trouble.0, self.trouble.1);
        if self.plant.tells_losses() {
            self.tree.overflow();
        }
    }

    /// Something else is mounted over the root, from seconds to many minutes.
    fn change_mount(&mut self) {
        if let Some(until_ns) = self.mounted_until_ns {
            if until_ns <= self.wall_ns {
                self.mount_back();
            }
        } else if self.random.u8(..50) == 0 {
            let mount = [Mount::Gone, Mount::Other, Mount::Emptied][self.random.usize(..3)];
            let lasts = if self.random.bool() {
                self.random.i64(1..30)
            } else {
                self.random.i64(30..1200)
            };
            self.say(&format!("{mount:?} for {lasts} s"));
            self.tree.mount(mount);
            self.mounted_until_ns = Some(self.wall_ns + lasts * SECOND_NS);
        }
    }

    fn mount_back(&mut self) {
        if self.mounted_until_ns.take().is_some() {
            self.say("mounted again");
            self.tree.mount(Mount::Here);
        }
    }

    fn folder(
        &mut self,
        clock: Clock,
        snapshots: watch::Sender<FolderSnapshot>,
    ) -> (Folder, mpsc::Sender<Control>) {
        let (sender, receiver) = hints(64);
        self.tree.watch(self.watched.then_some(sender), clock);
        self.store.set_clock(clock);
        self.bucket.set_clock(clock);
        let bucket = self.bucket.clone();
        self.store.on_land(move |due_ns| {
            bucket.set_clock(due_ns.map_or(clock, |wall_ns| Clock::Virtual {
                since: Clock::Real.now().mono,
                wall_ns,
            }));
        });
        self.starts += 1;
        // Of every third folder the prefix is owned: each start takes it over from the one before.
        let owner = self.seed.is_multiple_of(3).then(|| Owner {
            agent: self.manifest.agent_id().to_owned(),
            epoch: self.starts.to_string(),
            host: "sim".to_owned(),
            pid: self.starts,
            manners: Manners::Wait,
        });
        let row = self.manifest.folders().expect("readable").remove(0);
        let (asks, control) = mpsc::channel(4);
        let folder = Folder {
            name: "sim".into(),
            path: "/sim".into(),
            to: "s3://bucket/p/".into(),
            row,
            tree: self.plant.tree(&self.tree),
            store: self.plant.store(&self.store),
            manifest: self.manifest.clone(),
            filter: Arc::new(Filter::new(&[], &[], true).expect("no rules")),
            owner,
            keys: KeyMap::new("p/"),
            labels: Arc::default(),
            limits: Arc::new(Limits::new(Some(self.random.usize(1..9)), 128 << 20)),
            buffers: Pool::new(1 << 20),
            clock,
            offload: Offload::Inline,
            random: fastrand::Rng::with_seed(self.random.u64(..)),
            hints: receiver,
            settings: self.settings,
            control: Some(control),
            mode: Mode::Forever,
            snapshots,
            happenings: None,
        };
        (folder, asks)
    }

    /// Lets time pass and things happen.
    async fn storm(&mut self, clock: Clock, lasts: Duration) {
        let now = || Clock::Real.now().mono;
        let end = now() + lasts;
        loop {
            let pause = Duration::from_millis(self.random.u64(1..3_000));
            tokio::time::sleep_until(end.min(now() + pause)).await;
            if now() >= end {
                return;
            }
            self.wall_ns = clock.now().wall_ns;
            self.change();
        }
    }

    fn clock(&self, runtime: &tokio::runtime::Runtime) -> Clock {
        let _enter = runtime.enter();
        Clock::Virtual {
            since: Clock::Real.now().mono,
            wall_ns: self.wall_ns,
        }
    }

    /// Runs the agent while the tree changes, until it is killed or stopped.
    pub fn epoch(&mut self) {
        let runtime = runtime();
        let clock = self.clock(&runtime);
        let (snapshots, _) = watch::channel(FolderSnapshot::default());
        let (folder, _asks) = self.folder(clock, snapshots);
        let stop = CancellationToken::new();
        let is_kill = self.random.u8(..3) > 0;
        let longest = if self.random.u8(..8) == 0 {
            400_000
        } else {
            90_000
        };
        let lasts = Duration::from_millis(self.random.u64(10..longest));
        self.say(&format!(
            "the agent runs for {lasts:?}, then is {}",
            if is_kill { "killed" } else { "stopped" }
        ));
        runtime.block_on(async {
            let agent = agent::run(folder, stop.clone());
            tokio::pin!(agent);
            tokio::select! {
                biased;
                ended = &mut agent => panic!("the agent ended by itself: {:?}", ended.reason),
                () = self.storm(clock, lasts) => {}
            }
            if !is_kill {
                stop.cancel();
                let ended = agent.await;
                assert!(
                    matches!(ended.reason, Reason::Stopped(_)),
                    "{:?}",
                    ended.reason
                );
            }
        });
        runtime.block_on(self.store.tick());
        self.wall_ns = {
            let _enter = runtime.enter();
            clock.now().wall_ns
        };
        drop(runtime);
        self.sleep(0);
        self.say("the agent is down");
        self.oracle.claims_are_true();
        drop(runtime_of(self.oracle.chain_holds()));
    }

    /// The storm ends, often while the agent runs: everything has to become level, and to stay so past every horizon.
    pub fn calm_down(&mut self) {
        let runtime = runtime();
        let clock = self.clock(&runtime);
        let (snapshots, seen) = watch::channel(FolderSnapshot::default());
        let (folder, asks) = self.folder(clock, snapshots);
        let stop = CancellationToken::new();
        let storm = Duration::from_millis(self.random.u64(..90_000));
        let storm = Some(storm).filter(|_| self.random.bool());
        runtime.block_on(async {
            let agent = agent::run(folder, stop.clone());
            tokio::pin!(agent);
            tokio::select! {
                biased;
                ended = &mut agent => panic!("the agent ended by itself: {:?}", ended.reason),
                () = self.until_level(clock, storm, &seen, &asks) => {}
            }
            // Late requests have all landed by now; a last look at the doubtful keys has been taken.
            let snapshot = seen.borrow().clone();
            assert!(
                snapshot.level,
                "not level {HORIZON_MINUTES} minutes after the storm: {snapshot:?}"
            );
            assert_eq!(snapshot.lag_seconds, 0);
            assert_eq!(
                snapshot.ambiguous, 0,
                "keys are still in doubt: {snapshot:?}"
            );
            assert_eq!((snapshot.held, snapshot.deletes), (0, 0));
            stop.cancel();
            assert_eq!(agent.await.reason, Reason::Stopped(true));
        });
        self.oracle.no_upload_is_left();
        runtime_of(self.oracle.catalog_agrees());
    }

    async fn until_level(
        &mut self,
        clock: Clock,
        storm: Option<Duration>,
        seen: &watch::Receiver<FolderSnapshot>,
        asks: &mpsc::Sender<Control>,
    ) {
        if let Some(storm) = storm {
            self.say("the last storm");
            self.storm(clock, storm).await;
        }
        self.wall_ns = clock.now().wall_ns;
        self.say("calm");
        self.store.calm();
        self.tree.trouble(0.0, 0.0);
        self.tree.away(false);
        self.mount_back();
        self.tree.open_all();
        for _ in 0..HORIZON_MINUTES {
            tokio::time::sleep(MINUTE).await;
            // Only where it is needed: a release looks at everything again, and would hide what is never looked at.
            if seen.borrow().held > 0 {
                let (answer, told) = oneshot::channel();
                let request = Request::Release;
                let asked = asks.send(Control { request, answer }).await;
                asked.expect("the agent runs");
                told.await.expect("the agent runs").expect("released");
            }
        }
    }
}

/// Draws what the folder's owner wants.
fn policies(random: &mut fastrand::Rng) -> Settings {
    let mut brake = || {
        (random.u8(..4) == 0).then_some(Brake {
            files: 3,
            share_percent: None,
            window: 5 * MINUTE,
        })
    };
    let (delete_brake, overwrite_brake) = (brake(), brake());
    Settings {
        settle: Duration::from_secs(1),
        scan_settle: Duration::ZERO,
        max_wait: Duration::from_secs(30),
        rescan: MINUTE,
        shutdown_grace: Duration::from_secs(5),
        on_delete: [OnDelete::Keep, OnDelete::Trash, OnDelete::Delete][random.usize(..3)],
        delete_brake,
        overwrite_brake,
        history: [History::Off, History::Trash][random.usize(..2)],
        guard: Guarding::Off,
        // Nobody else is here: it must never find anything wrong.
        audit: delete_brake.is_some().then_some(5 * MINUTE),
        trash_keep: [30 * 24 * 60 * MINUTE, 10 * MINUTE][usize::from(random.u8(..4) == 0)],
        ..Settings::default()
    }
}

/// Asks something while the agent is down.
fn runtime_of<T>(asked: impl Future<Output = T>) -> T {
    runtime().block_on(asked)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime")
}
