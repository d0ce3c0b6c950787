//! The world around the agent: when it runs, how it dies, who else comes, what becomes of its state.

mod changes;
mod rival;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tidewatch::agent::{self, Control, Folder, Mode, Reason, Request, Settings};
use tidewatch::base::buffers::Pool;
use tidewatch::base::clock::Clock;
use tidewatch::base::offload::Offload;
use tidewatch::base::policy::{Brake, Guarding, History, OnDelete};
use tidewatch::base::snapshot::FolderSnapshot;
use tidewatch::manifest::{FolderKey, Manifest};
use tidewatch::store::Store;
use tidewatch::store::key::KeyMap;
use tidewatch::sync::lease::{Manners, Owner};
use tidewatch::sync::limits::Limits;
use tidewatch::tree::filter::Filter;
use tidewatch::tree::hints;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::lease::witness::{Found, Witness};
use crate::sim::oracle::Oracle;
use crate::sim::planted::{Bug, Plant};
use crate::sim::tally::Tally;
use crate::sim::world::rival::Rival;
use crate::support::faulty::{Faulty, Odds};
use crate::support::mem_store::{Habits, MemStore};
use crate::support::mem_tree::MemTree;

const START_NS: i64 = 1_790_000_000_000_000_000;
const SECOND_NS: i64 = 1_000_000_000;
const MINUTE: Duration = Duration::from_secs(60);
/// How long it takes until everything is level after the last fault: the last request lands within 14 minutes, and is
/// waited for 15 minutes; what failed is tried again within 5.
const HORIZON_MINUTES: u32 = 40;

/// What is special about a world: each has its seeds, so that a few of them in a row have all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "a list of what can be")]
struct Kind {
    /// The prefix is owned by a lease.
    has_owner: bool,
    /// Another agent, with a state of its own, wants the same prefix.
    has_rival: bool,
    /// The state is lost, or put back from an old copy.
    forgets: bool,
    /// Some files go up by parts.
    has_large: bool,
    /// The machine's clock is set, while the agent runs and while it is down.
    jumps: bool,
    /// Objects are only changed while they are the ones that are known.
    is_strict: bool,
}

impl Kind {
    fn of(seed: u64) -> Self {
        let has_rival = seed % 12 == 6;
        let forgets = seed % 8 == 5;
        Self {
            has_owner: seed.is_multiple_of(3) || seed % 16 == 5,
            has_rival,
            forgets,
            has_large: seed % 10 == 7,
            jumps: seed % 8 == 3,
            // Nobody else writes there after the first contact: no object is ever taken for somebody else's.
            is_strict: seed % 4 == 1 && !forgets,
        }
    }
}

pub struct World {
    seed: u64,
    kind: Kind,
    random: fastrand::Rng,
    tree: MemTree,
    bucket: MemStore,
    store: Faulty<MemStore>,
    manifest: Manifest,
    /// A copy of the state as it was once.
    backup: Option<Manifest>,
    rival: Option<Rival>,
    /// Changes that were sent by an agent that did not own the prefix.
    trespasses: Found,
    settings: Settings,
    pub oracle: Oracle,
    plant: Plant,
    wall_ns: i64,
    /// What the machine's clock is ahead of the time, nanoseconds.
    ahead_ns: &'static AtomicI64,
    /// How often the agent was started.
    starts: u32,
    trace: bool,
    /// The folder is watched; else only the scans see anything.
    watched: bool,
    /// How likely an event is lost, and how likely a file changes under its reader.
    trouble: (f64, f64),
    /// Until when something else is mounted.
    mounted_until_ns: Option<i64>,
    tally: Tally,
}

impl Drop for World {
    fn drop(&mut self) {
        // The hooks know the stores that they hang on.
        let lines = [Some(&self.store), self.rival.as_ref().map(Rival::line)];
        for line in lines.into_iter().flatten() {
            line.on_delete(|_| {});
            line.on_change(|_, _| {});
        }
    }
}

/// Draws how bad a line is.
fn odds(random: &mut fastrand::Rng) -> Odds {
    Odds {
        refused: random.f64() * 0.2,
        lost: random.f64() * 0.1,
        late: random.f64() * 0.1,
        latest: Duration::from_secs(random.u64(1..=14 * 60)),
        latency: Duration::from_millis(1)..Duration::from_millis(random.u64(2..400)),
        ..Odds::default()
    }
}

/// Makes an empty state, of the agent with that number.
fn state(agent: u64) -> Manifest {
    let manifest = Manifest::in_memory_of(&format!("{agent:032}")).expect("a database in memory");
    let key = FolderKey {
        path: b"/sim".to_vec(),
        endpoint: String::new(),
        bucket: "bucket".into(),
        prefix: "p/".into(),
    };
    manifest.folder(&key, "sim").expect("a row");
    manifest
}

impl World {
    pub fn new(seed: u64, trace: bool, bug: Option<Bug>) -> Self {
        let kind = Kind::of(seed);
        let mut random = fastrand::Rng::with_seed(seed);
        let habits = Habits {
            ignores_copy_conditions: random.bool(),
            drops_metadata: random.u8(..4) == 0,
            refuses_copies: random.u8(..8) == 0,
            ..Habits::default()
        };
        let bucket = MemStore::with_habits(habits);
        let store = Faulty::new(bucket.clone(), random.u64(..), odds(&mut random));
        let manifest = state(0);
        let tree = MemTree::new(random.u64(..), Clock::Real);
        let plant = Plant::new(bug, seed);
        let watched = random.u8(..5) > 0 && !plant.is_of_ctime();
        let mut settings = policies(&mut random);
        if kind.is_strict {
            settings.guard = Guarding::Strict;
        }
        let oracle = Oracle {
            tree: tree.clone(),
            bucket: bucket.clone(),
            store: store.clone(),
            folder: manifest.folders().expect("readable").remove(0).id,
            manifest: manifest.clone(),
            on_delete: settings.on_delete,
            planted: Arc::default(),
            judged: Arc::default(),
            is_alone: !kind.has_rival && !kind.forgets,
        };
        let rival = kind.has_rival.then(|| Rival::new(&bucket, &mut random));
        let mut world = World {
            seed,
            kind,
            plant,
            random,
            tree,
            bucket,
            store,
            manifest,
            backup: None,
            rival,
            trespasses: Found::default(),
            settings,
            oracle,
            wall_ns: START_NS,
            // Clocks are copied everywhere: the few bytes stay until the end.
            ahead_ns: Box::leak(Box::default()),
            starts: 0,
            trace,
            watched,
            trouble: (0.0, 0.0),
            mounted_until_ns: None,
            tally: Tally::default(),
        };
        world.sleep(0);
        world.say(&format!("{:?} {:?}", world.kind, world.settings));
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
        self.watch_requests();
    }

    /// Has everything judged that is asked for.
    fn watch_requests(&self) {
        self.oracle.watch(&self.store);
        if let Some(rival) = &self.rival {
            rival.watch(&self.oracle);
        }
    }

    /// Lets the agent run and die a few times.
    pub fn epochs(&mut self) {
        for _ in 0..self.random.usize(1..5) {
            self.epoch();
            let nap = self.random.u32(1..2_000);
            self.sleep(nap);
            self.forget();
            self.set_clock();
            self.some_changes(4);
        }
    }

    /// Returns what a run left behind, in few words.
    pub fn digest(&self) -> impl PartialEq + std::fmt::Debug + use<> {
        let objects = self.bucket.objects().into_iter();
        let objects: Vec<_> = objects.map(|(key, object)| (key, object.etag)).collect();
        (objects, self.bucket.counts().requests, self.wall_ns)
    }

    /// Returns what happened, in numbers.
    pub fn tally(&self) -> Tally {
        let lines = [Some(&self.store), self.rival.as_ref().map(Rival::line)];
        let lines = || lines.iter().copied().flatten();
        let asked = |what: &str| lines().map(|line| line.asked(what, "")).sum::<u64>();
        Tally {
            seeds: 1,
            requests: asked("*"),
            puts: asked("PutObject") + asked("CopyObject") + asked("CompleteMultipartUpload"),
            faults: lines().map(Faulty::faults).sum(),
            deletes: self.oracle.judged.load(Ordering::Relaxed),
            ..self.tally
        }
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

    /// Now and then the state is lost, or put back as it once was.
    fn forget(&mut self) {
        if !self.kind.forgets {
            return;
        }
        match self.random.u8(..6) {
            0 => {
                self.say("the state is lost");
                self.manifest = state(self.tally.losses + 1);
                self.backup = None;
            }
            // Without a lease nobody can tell.
            1 | 2 if self.kind.has_owner && self.backup.is_some() => {
                self.say("the state is put back as it was");
                let backup = self.backup.as_ref().expect("it is there");
                self.manifest = backup.copy_in_memory().expect("a copy");
            }
            3 | 4 => {
                self.backup = Some(self.manifest.copy_in_memory().expect("a copy"));
                return;
            }
            _ => return,
        }
        self.tally.losses += 1;
        self.oracle.manifest = self.manifest.clone();
        self.watch_requests();
    }

    /// Now and then somebody sets the machine's clock, forwards or back.
    fn set_clock(&mut self) {
        if self.kind.jumps && self.random.bool() {
            let ahead = self.random.i64(-7200..7200);
            self.say(&format!("the clock is set {ahead} s ahead"));
            self.ahead_ns.store(ahead * SECOND_NS, Ordering::Relaxed);
            self.tree.set_ahead(ahead * SECOND_NS);
            self.tally.jumps += 1;
        }
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

    /// What the agent's machine shows as the time.
    fn machine(&self, clock: Clock) -> Clock {
        match clock {
            Clock::Virtual { since, wall_ns } if self.kind.jumps => Clock::Set {
                since,
                wall_ns,
                ahead_ns: self.ahead_ns,
            },
            _ => clock,
        }
    }

    fn folder(
        &mut self,
        clock: Clock,
        snapshots: watch::Sender<FolderSnapshot>,
    ) -> (Folder, mpsc::Sender<Control>) {
        let (sender, receiver) = hints(64);
        self.tree.watch(self.watched.then_some(sender), clock);
        set_time(&self.store, &self.bucket, clock);
        self.starts += 1;
        // Each start takes the prefix over from the one before.
        let owner = (self.kind.has_owner).then(|| Owner {
            agent: self.manifest.agent_id().to_owned(),
            epoch: self.starts.to_string(),
            host: "sim".to_owned(),
            pid: self.starts,
            manners: Manners::Wait,
        });
        let mut store = self.plant.store(&self.store);
        if let (Some(owner), true) = (&owner, self.kind.has_rival) {
            store = witnessed(store, owner, &self.bucket, &self.trespasses);
        }
        let row = self.manifest.folders().expect("readable").remove(0);
        let (asks, control) = mpsc::channel(4);
        let folder = Folder {
            name: "sim".into(),
            path: "/sim".into(),
            to: "s3://bucket/p/".into(),
            row,
            tree: self.plant.tree(&self.tree),
            store,
            manifest: self.manifest.clone(),
            filter: Arc::new(Filter::new(&[], &[], true).expect("no rules")),
            owner,
            keys: KeyMap::new("p/"),
            labels: Arc::default(),
            limits: Arc::new(Limits::new(Some(self.random.usize(1..9)), 128 << 20)),
            buffers: Pool::new(1 << 20),
            clock: self.machine(clock),
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
            if self.oracle.is_alone {
                self.oracle.claims_are_true();
            }
            if self.random.u8(..30) == 0 {
                self.set_clock();
            }
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
        self.tally.crashes += u64::from(is_kill);
        let visit = self.visit(clock, lasts);
        runtime.block_on(async {
            let agent = agent::run(folder, stop.clone());
            let visit = rival::visit(visit);
            tokio::pin!(agent, visit);
            tokio::select! {
                biased;
                ended = &mut agent => panic!("the agent ended by itself: {:?}", ended.reason),
                () = &mut visit => unreachable!("it never ends"),
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
        if let Some(rival) = &self.rival {
            runtime.block_on(rival.line().tick());
        }
        self.wall_ns = {
            let _enter = runtime.enter();
            clock.now().wall_ns
        };
        drop(runtime);
        self.sleep(0);
        self.say("the agent is down");
        self.nobody_trespassed();
        if self.oracle.is_alone {
            self.oracle.claims_are_true();
        }
        drop(runtime_of(self.oracle.chain_holds()));
    }

    fn nobody_trespassed(&self) {
        let found = self
            .trespasses
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        assert_eq!(
            *found,
            Vec::<String>::new(),
            "changes by an agent that does not own the prefix"
        );
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
        self.nobody_trespassed();
        self.oracle.no_upload_is_left();
        runtime_of(self.oracle.catalog_agrees());
    }

    /// What is in the bucket is brought back, in every so many worlds, and is the tree.
    pub fn comes_back(&mut self, every: u64) {
        if self.seed.is_multiple_of(every) {
            self.tally.restores += 1;
            self.oracle.comes_back();
        }
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
        if let Some(rival) = &self.rival {
            rival.line().calm();
        }
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

/// Gives a line and the bucket behind it the time.
fn set_time(line: &Faulty<MemStore>, bucket: &MemStore, clock: Clock) {
    line.set_clock(clock);
    bucket.set_clock(clock);
    let bucket = bucket.clone();
    line.on_land(move |due_ns| {
        bucket.set_clock(due_ns.map_or(clock, |wall_ns| Clock::Virtual {
            since: Clock::Real.now().mono,
            wall_ns,
        }));
    });
}

/// Has somebody look at each change that this owner sends.
fn witnessed(
    store: Arc<dyn Store>,
    owner: &Owner,
    bucket: &MemStore,
    found: &Found,
) -> Arc<dyn Store> {
    Arc::new(Witness {
        inner: store,
        bucket: bucket.clone(),
        epoch: owner.epoch.clone(),
        found: found.clone(),
        changes: Arc::new(Mutex::default()),
    })
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
