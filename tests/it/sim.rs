//! The whole agent against a tree and a store in memory: one thread, a paused clock, everything drawn from one seed.
//!
//! A crash is the runtime dropped at a random instant: every task dies where it waits. What survives is the tree, the
//! bucket and the manifest's database. After each crash, and at the end, what the manifest claims is held against the
//! bucket; when the storm is over everything must agree.
//!
//! A failing seed prints how to replay it: `TIDEWATCH_SIM_SEED=n cargo test --test it sim::`. `TIDEWATCH_SIM_SEEDS=n` runs that
//! many.

#![expect(clippy::print_stderr, reason = "a failing seed says how to replay it")]

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tidewatch::agent::{self, Folder, Mode, Reason, Settings};
use tidewatch::base::buffers::Pool;
use tidewatch::base::clock::Clock;
use tidewatch::base::digest::Sha256;
use tidewatch::base::offload::Offload;
use tidewatch::base::path::RelPath;
use tidewatch::base::snapshot::FolderSnapshot;
use tidewatch::manifest::{FolderKey, FolderRow, Manifest, State};
use tidewatch::store::Store;
use tidewatch::store::key::KeyMap;
use tidewatch::sync::limits::Limits;
use tidewatch::sync::plan;
use tidewatch::tree::filter::Filter;
use tidewatch::tree::hints;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::support::faulty::{Faulty, Odds};
use crate::support::mem_store::{Habits, MemStore};
use crate::support::mem_tree::MemTree;

const START_NS: i64 = 1_790_000_000_000_000_000;

struct World {
    seed: u64,
    random: fastrand::Rng,
    tree: MemTree,
    bucket: MemStore,
    store: Faulty<MemStore>,
    manifest: Manifest,
    row: FolderRow,
    wall_ns: i64,
    trace: bool,
    /// The folder is watched; else only the scans see anything.
    watched: bool,
}

impl World {
    fn new(seed: u64, trace: bool) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let habits = Habits {
            ignores_copy_conditions: random.bool(),
            drops_metadata: random.u8(..4) == 0,
            refuses_copies: random.u8(..8) == 0,
        };
        let bucket = MemStore::with_habits(habits);
        let odds = Odds {
            refused: random.f64() * 0.2,
            lost: random.f64() * 0.1,
            late: random.f64() * 0.1,
            latest: Duration::from_secs(random.u64(1..800)),
            latency: Duration::from_millis(1)..Duration::from_millis(random.u64(2..400)),
        };
        let store = Faulty::new(bucket.clone(), random.u64(..), odds);
        let manifest = Manifest::in_memory().expect("a database in memory");
        let key = FolderKey {
            path: b"/sim".to_vec(),
            endpoint: String::new(),
            bucket: "bucket".into(),
            prefix: "p/".into(),
        };
        let row = manifest.folder(&key, "sim").expect("a row");
        let tree = MemTree::new(random.u64(..), Clock::Real);
        let watched = random.u8(..5) > 0;
        World {
            seed,
            random,
            tree,
            bucket,
            store,
            manifest,
            row,
            wall_ns: START_NS,
            trace,
            watched,
        }
    }

    /// The agent is down; time stands still until it is moved.
    fn sleep(&mut self, seconds: u32) {
        self.wall_ns += i64::from(seconds) * 1_000_000_000;
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

    fn content(&mut self) -> Vec<u8> {
        // Few contents, so that many files are equal; now and then a large one.
        match self.random.u16(..1000) {
            0 => vec![b'L'; (16 << 20) + 5],
            1..60 => Vec::new(),
            _ => vec![b'x'; self.random.usize(1..7)],
        }
    }

    fn change(&mut self) {
        let path = self.path();
        // Seldom the whole folder goes away, until the next change.
        self.tree.away(self.random.u8(..40) == 0);
        match self.random.u8(..12) {
            0..=4 => {
                let content = self.content();
                self.say(&format!("write {path} ({})", content.len()));
                self.tree.write(&path, &content);
            }
            5 => {
                let content = self.content();
                self.say(&format!("write {path} secretly ({})", content.len()));
                self.tree.write_secretly(&path, &content);
            }
            6 => {
                self.say(&format!("remove {path}"));
                self.tree.remove(&path);
            }
            7 | 8 => {
                let to = self.path();
                self.say(&format!("rename {path} to {to}"));
                self.tree.rename(&path, &to);
            }
            9 => self.tree.mkdir(&path),
            10 => self
                .tree
                .chmod(&path, 0o600 + u32::from(self.random.u8(..64))),
            _ => {
                // A tree at once: its inner folders are blind until they are armed.
                let mut below = path;
                for name in ["n1", "n2", "n3"] {
                    below = below.join(name.as_bytes());
                }
                let content = self.content();
                self.say(&format!("write {below} ({})", content.len()));
                self.tree.write(&below, &content);
            }
        }
    }

    fn folder(&mut self, clock: Clock, snapshots: watch::Sender<FolderSnapshot>) -> Folder {
        let (sender, receiver) = hints(64);
        self.tree.watch(self.watched.then_some(sender), clock);
        self.store.set_clock(clock);
        let row = self.manifest.folders().expect("readable").remove(0);
        Folder {
            name: "sim".into(),
            path: "/sim".into(),
            to: "s3://bucket/p/".into(),
            row,
            tree: Arc::new(self.tree.clone()),
            store: Arc::new(self.store.clone()) as Arc<dyn Store>,
            manifest: self.manifest.clone(),
            filter: Arc::new(Filter::new(&[], &[], true).expect("no rules")),
            keys: KeyMap::new("p/"),
            limits: Arc::new(Limits::new(Some(self.random.usize(1..9)), 128 << 20)),
            buffers: Pool::new(1 << 20),
            clock,
            offload: Offload::Inline,
            random: fastrand::Rng::with_seed(self.random.u64(..)),
            hints: receiver,
            settings: Settings {
                settle: Duration::from_secs(1),
                scan_settle: Duration::ZERO,
                max_wait: Duration::from_secs(30),
                rescan: Duration::from_secs(60),
                shutdown_grace: Duration::from_secs(5),
                ..Settings::default()
            },
            control: None,
            mode: Mode::Forever,
            snapshots,
            happenings: None,
        }
    }

    /// Runs the agent while the tree changes, until it is killed or stopped.
    fn epoch(&mut self) {
        let runtime = runtime();
        let since = {
            let _enter = runtime.enter();
            Clock::Real.now().mono
        };
        let clock = Clock::Virtual {
            since,
            wall_ns: self.wall_ns,
        };
        let (snapshots, _) = watch::channel(FolderSnapshot::default());
        let folder = self.folder(clock, snapshots);
        let stop = CancellationToken::new();
        let is_kill = self.random.u8(..3) > 0;
        let lasts = Duration::from_millis(self.random.u64(10..90_000));
        self.say(&format!(
            "the agent runs for {lasts:?}, then is {}",
            if is_kill { "killed" } else { "stopped" }
        ));
        runtime.block_on(async {
            let agent = agent::run(folder, stop.clone());
            tokio::pin!(agent);
            let end = tokio::time::sleep(lasts);
            tokio::pin!(end);
            loop {
                let pause = Duration::from_millis(self.random.u64(1..3_000));
                tokio::select! {
                    biased;
                    ended = &mut agent => panic!("the agent ended by itself: {:?}", ended.reason),
                    () = &mut end => break,
                    () = tokio::time::sleep(pause) => {
                        self.wall_ns = clock.now().wall_ns;
                        self.change();
                    }
                }
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
        self.claims_are_true();
    }

    /// A row says "synced" without reserve only if the bucket holds exactly that.
    fn claims_are_true(&self) {
        let objects = self.bucket.objects();
        let rows = self
            .manifest
            .page(self.row.id, &RelPath::root(), &RelPath::root(), 10_000)
            .expect("readable");
        for row in rows.iter().filter(|row| plan::doubt_until(row) == 0) {
            if !matches!(row.state, State::Synced | State::Kept) {
                continue;
            }
            let content = row.stored.as_ref().expect("a synced row has a content");
            let object = objects
                .get(&format!("p/{}", row.path))
                .unwrap_or_else(|| panic!("{} is said to be in the bucket and is not", row.path));
            assert_eq!(
                object.etag, content.etag,
                "{}: another object than the manifest says",
                row.path
            );
            assert_eq!(
                Sha256::of(&object.bytes),
                content.sha256,
                "{}: other bytes than the manifest says",
                row.path
            );
        }
    }

    /// The storm is over: everything has to become level, and to stay so past every horizon.
    fn calm_down(&mut self) {
        self.store.calm();
        self.tree.trouble(0.0, 0.0);
        self.tree.away(false);
        let runtime = runtime();
        let since = {
            let _enter = runtime.enter();
            Clock::Real.now().mono
        };
        let clock = Clock::Virtual {
            since,
            wall_ns: self.wall_ns,
        };
        let (snapshots, mut seen) = watch::channel(FolderSnapshot::default());
        let folder = self.folder(clock, snapshots);
        let stop = CancellationToken::new();
        self.say("calm");
        runtime.block_on(async {
            let agent = agent::run(folder, stop.clone());
            tokio::pin!(agent);
            let horizon = Duration::from_secs(40 * 60);
            tokio::select! {
                biased;
                ended = &mut agent => panic!("the agent ended by itself: {:?}", ended.reason),
                () = tokio::time::sleep(horizon) => {}
            }
            // Late requests have all landed by now; a last look at the doubtful keys has been taken.
            let snapshot = seen.borrow_and_update().clone();
            assert!(
                snapshot.level,
                "not level {horizon:?} after the storm: {snapshot:?}"
            );
            assert_eq!(snapshot.lag_seconds, 0);
            assert_eq!(
                snapshot.ambiguous, 0,
                "keys are still in doubt: {snapshot:?}"
            );
            stop.cancel();
            assert_eq!(agent.await.reason, Reason::Stopped(true));
        });
    }

    fn everything_agrees(&self) {
        self.claims_are_true();
        let objects = self.bucket.objects();
        let rows: BTreeMap<RelPath, _> = self
            .manifest
            .page(self.row.id, &RelPath::root(), &RelPath::root(), 10_000)
            .expect("readable")
            .into_iter()
            .map(|row| (row.path.clone(), row))
            .collect();
        let files = self.tree.files();
        for (path, content) in &files {
            let object = objects
                .get(&format!("p/{path}"))
                .unwrap_or_else(|| panic!("{path} is not in the bucket"));
            assert!(
                object.bytes == content.as_slice(),
                "{path}: the bucket has another content"
            );
            let row = rows
                .get(path)
                .unwrap_or_else(|| panic!("{path} has no row"));
            assert_eq!(row.state, State::Synced, "{path}");
        }
        for (path, row) in &rows {
            let expected = if files.contains_key(path) {
                State::Synced
            } else {
                State::Kept
            };
            assert_eq!(row.state, expected, "{path}");
        }
        // An upload whose beginning was never answered has no id that anybody could know; every other one was ended.
        let uploads = self.manifest.uploads(self.row.id).expect("readable");
        assert_eq!(uploads, [], "unfinished uploads were left behind");
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime")
}

fn run_seed(seed: u64, trace: bool) {
    let mut world = World::new(seed, trace);
    world.sleep(0);
    world
        .tree
        .trouble(world.random.f64() * 0.3, world.random.f64() * 0.1);
    if seed.is_multiple_of(3) {
        world.tree.without_leases();
    }
    for _ in 0..world.random.usize(..12) {
        world.change();
    }
    if world.random.u8(..3) == 0 {
        // Somebody else was here before us.
        for _ in 0..3 {
            let (path, content) = (world.path(), world.content());
            world.bucket.plant(&format!("p/{path}"), &content);
        }
    }
    for _ in 0..world.random.usize(1..5) {
        world.epoch();
        let nap = world.random.u32(1..2_000);
        world.sleep(nap);
        for _ in 0..world.random.usize(..4) {
            world.change();
        }
    }
    world.calm_down();
    world.everything_agrees();
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn after_any_storm_tree_manifest_and_bucket_agree() {
    if let Some(seed) = number("TIDEWATCH_SIM_SEED") {
        let level = tracing_subscriber::filter::LevelFilter::TRACE;
        tracing_subscriber::fmt()
            .with_max_level(level)
            .without_time()
            .with_writer(std::io::stderr)
            .init();
        return run_seed(seed, true);
    }
    let first = number("TIDEWATCH_SIM_FIRST").unwrap_or(1);
    let seeds = number("TIDEWATCH_SIM_SEEDS").unwrap_or(300);
    for seed in first..first + seeds {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run_seed(seed, false))) {
            eprintln!(
                "seed {seed} failed; replay it with TIDEWATCH_SIM_SEED={seed} cargo test --test it sim::"
            );
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    let digest = |seed| {
        let mut world = World::new(seed, false);
        world.tree.trouble(0.1, 0.05);
        for _ in 0..3 {
            world.change();
            world.epoch();
        }
        let objects = world.bucket.objects().into_iter();
        let objects: Vec<_> = objects.map(|(key, object)| (key, object.etag)).collect();
        (objects, world.bucket.counts().requests, world.wall_ns)
    };
    for seed in 900..910 {
        assert_eq!(digest(seed), digest(seed), "seed {seed}");
    }
}
