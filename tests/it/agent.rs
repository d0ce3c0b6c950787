//! Scenarios of one folder's loop: tree and store in memory, paused time.

use std::sync::Arc;
use std::time::Duration;

use tidewatch::agent::{self, Control, Ended, Folder, Mode, Reason, Request, Said, Settings};
use tidewatch::base::buffers::Pool;
use tidewatch::base::clock::Clock;
use tidewatch::base::offload::Offload;
use tidewatch::base::path::RelPath;
use tidewatch::base::snapshot::{FolderSnapshot, Happening, What};
use tidewatch::manifest::{FolderKey, Manifest, Mend, State};
use tidewatch::store::key::KeyMap;
use tidewatch::store::{ErrorKind, Store};
use tidewatch::sync::Lane;
use tidewatch::sync::lease::Owner;
use tidewatch::sync::limits::Limits;
use tidewatch::tree::filter::Filter;
use tidewatch::tree::hints;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::support::faulty::{Fault, Faulty, Odds};
use crate::support::mem_store::{Habits, MemStore};
use crate::support::mem_tree::MemTree;

pub const SETTLE: Duration = Duration::from_secs(1);

/// A folder, a bucket and what lies between, before the agent starts.
pub struct Bench {
    pub tree: MemTree,
    pub bucket: MemStore,
    pub store: Faulty<MemStore>,
    pub manifest: Manifest,
    pub clock: Clock,
    pub limits: Arc<Limits>,
    pub settings: Settings,
    pub exclude: Vec<String>,
    /// Who wants to own the prefix, if anybody.
    pub owner: Option<Owner>,
}

/// A running agent.
pub struct Agent {
    pub stop: CancellationToken,
    pub snapshots: watch::Receiver<FolderSnapshot>,
    pub happenings: mpsc::Receiver<Happening>,
    pub control: mpsc::Sender<Control>,
    pub task: JoinHandle<Ended>,
}

impl Bench {
    pub fn new(odds: Odds) -> Self {
        Self::with_habits(odds, Habits::default())
    }

    pub fn with_habits(odds: Odds, habits: Habits) -> Self {
        let wall_ns = 1_790_000_000_000_000_000;
        let clock = Clock::Virtual {
            since: Clock::Real.now().mono,
            wall_ns,
        };
        let bucket = MemStore::with_habits(habits);
        Self {
            tree: MemTree::new(1, clock),
            store: Faulty::new(bucket.clone(), 1, odds),
            bucket,
            manifest: Manifest::in_memory().unwrap(),
            clock,
            limits: Arc::new(Limits::new(Some(4), 128 << 20)),
            settings: Settings {
                settle: SETTLE,
                ..Settings::default()
            },
            exclude: Vec::new(),
            owner: None,
        }
    }

    pub fn start(&self, mode: Mode) -> Agent {
        self.start_before(mode, Arc::new(self.store.clone()))
    }

    /// Starts it with this store before its line.
    pub fn start_before(&self, mode: Mode, store: Arc<dyn Store>) -> Agent {
        let (sender, receiver) = hints(1024);
        self.tree
            .watch((mode == Mode::Forever).then_some(sender), self.clock);
        self.store.set_clock(self.clock);
        let key = FolderKey {
            path: b"/m".to_vec(),
            endpoint: String::new(),
            bucket: "b".into(),
            prefix: "p/".into(),
        };
        let (control, requests) = mpsc::channel(4);
        let (snapshot_sender, snapshots) = watch::channel(FolderSnapshot::default());
        let (happening_sender, happenings) = mpsc::channel(100_000);
        let folder = Folder {
            name: "m".into(),
            path: "/m".into(),
            to: "s3://b/p/".into(),
            row: self.manifest.folder(&key, "m").unwrap(),
            tree: Arc::new(self.tree.clone()),
            store,
            manifest: self.manifest.clone(),
            filter: Arc::new(Filter::new(&self.exclude, &[], true).unwrap()),
            owner: self.owner.clone(),
            keys: KeyMap::new("p/"),
            labels: Arc::default(),
            limits: self.limits.clone(),
            buffers: Pool::new(1 << 20),
            clock: self.clock,
            offload: Offload::Inline,
            random: fastrand::Rng::with_seed(1),
            hints: receiver,
            settings: self.settings,
            control: Some(requests),
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
            control,
            task,
        }
    }

    pub async fn sync(&self) -> Ended {
        let mode = Mode::Once {
            timeout: Duration::from_secs(120),
        };
        timeout(Duration::from_secs(3600), self.start(mode).task)
            .await
            .expect("it ends")
            .unwrap()
    }

    pub fn object(&self, name: &str) -> Option<Vec<u8>> {
        Some(
            self.bucket
                .objects()
                .get(&format!("p/{name}"))?
                .bytes
                .to_vec(),
        )
    }
}

impl Agent {
    /// Waits until a snapshot says level.
    pub async fn level(&mut self) {
        let level = self.snapshots.wait_for(|snapshot| snapshot.level);
        timeout(Duration::from_secs(3600), level)
            .await
            .expect("level within an hour")
            .unwrap();
    }

    /// Waits until a file is in the bucket; returns how long that took.
    pub async fn until_uploaded(&mut self, name: &str) -> Duration {
        let began = Clock::Real.now().mono;
        loop {
            let happening = timeout(Duration::from_secs(3600), self.happenings.recv()).await;
            let happening = happening.expect("within an hour").expect("the agent runs");
            if happening.path == path(name)
                && matches!(happening.what, What::Uploaded | What::Copied)
            {
                return passed(began);
            }
        }
    }

    pub async fn stop(self) -> Ended {
        self.stop.cancel();
        self.task.await.unwrap()
    }
}

pub fn passed(since: tokio::time::Instant) -> Duration {
    Clock::Real.now().mono - since
}

pub fn path(name: &str) -> RelPath {
    RelPath::new(name.as_bytes()).unwrap()
}

pub fn slow(latency_ms: u64) -> Odds {
    let latency = Duration::from_millis(latency_ms)..Duration::from_millis(latency_ms + 1);
    Odds {
        latency,
        ..Odds::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_file_is_in_the_bucket_when_it_has_settled() {
    let bench = Bench::new(slow(50));
    let mut agent = bench.start(Mode::Forever);
    agent.level().await;
    bench.tree.write(&path("a/new.txt"), b"tide");
    let took = agent.until_uploaded("a/new.txt").await;
    assert!(took < SETTLE + Duration::from_millis(600), "{took:?}");
    assert_eq!(bench.object("a/new.txt").unwrap(), b"tide");
    agent.level().await;
    assert_eq!(agent.stop().await.reason, Reason::Stopped(true));
}

#[tokio::test(start_paused = true)]
async fn forty_equal_files_send_their_bytes_once() {
    let bench = Bench::new(slow(50));
    for n in 0..40 {
        bench
            .tree
            .write(&path(&format!("copy-{n}")), b"the same bytes");
    }
    let ended = bench.sync().await;
    assert!(ended.last.level);
    assert_eq!(
        (ended.last.tally.uploaded, ended.last.tally.copied),
        (1, 39)
    );
    assert_eq!(
        (
            bench.bucket.counts().of("PutObject"),
            bench.bucket.counts().of("CopyObject")
        ),
        (1, 39)
    );
}

#[tokio::test(start_paused = true)]
async fn where_copies_are_refused_the_bytes_are_sent() {
    let bench = Bench::with_habits(
        slow(50),
        Habits {
            refuses_copies: true,
            ..Habits::default()
        },
    );
    for n in 0..5 {
        bench
            .tree
            .write(&path(&format!("copy-{n}")), b"the same bytes");
    }
    let ended = bench.sync().await;
    assert!(ended.last.level, "{:?}", ended.last);
    assert_eq!(bench.bucket.counts().of("PutObject"), 5);
}

#[tokio::test(start_paused = true)]
async fn a_second_sync_asks_the_bucket_nothing() {
    let bench = Bench::new(slow(5));
    for n in 0..50 {
        bench.tree.write(
            &path(&format!("d{}/f{n}", n % 7)),
            format!("{n}").as_bytes(),
        );
    }
    sleep(Duration::from_secs(3)).await;
    assert!(bench.sync().await.last.level);
    bench.bucket.reset_counts();
    let ended = bench.sync().await;
    assert!(ended.last.level);
    assert_eq!(ended.last.tally.unchanged, 50);
    assert_eq!(bench.bucket.counts().total(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_renamed_file_is_copied_on_the_server() {
    let bench = Bench::new(slow(5));
    bench.tree.write(&path("old"), b"content that moves");
    bench.sync().await;
    bench.tree.rename(&path("old"), &path("new"));
    bench.bucket.reset_counts();
    assert!(bench.sync().await.last.level);
    assert_eq!(bench.object("new").unwrap(), b"content that moves");
    assert_eq!(bench.bucket.counts().of("PutObject"), 0);
    assert!(bench.object("old").is_some(), "nothing is deleted");
}

#[tokio::test(start_paused = true)]
async fn a_file_that_changes_under_the_reader_is_not_recorded_and_ends_at_its_last_content() {
    let bench = Bench::new(slow(5));
    bench.tree.write(&path("busy"), b"0");
    bench.tree.trouble(0.0, 0.9);
    let mut agent = bench.start(Mode::Forever);
    sleep(Duration::from_secs(20)).await;
    let recorded = bench
        .bucket
        .objects()
        .get("p/busy")
        .map(|object| object.bytes.to_vec());
    if let Some(content) = recorded {
        assert!(
            content.starts_with(b"0") && content[1..].iter().all(|byte| *byte == b'!'),
            "a torn read was sent"
        );
    }
    bench.tree.trouble(0.0, 0.0);
    bench.tree.write(&path("busy"), b"the end");
    sleep(Duration::from_secs(400)).await;
    agent.level().await;
    assert_eq!(bench.object("busy").unwrap(), b"the end");
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_live_file_overtakes_a_backlog_of_thousands() {
    let bench = Bench::new(slow(100));
    for n in 0..3_000 {
        bench
            .tree
            .write(&path(&format!("bulk/{n}")), format!("bulk {n}").as_bytes());
    }
    let mut agent = bench.start(Mode::Forever);
    agent.until_uploaded("bulk/10").await;
    bench.tree.write(&path("bulk/live"), b"saved just now");
    let took = agent.until_uploaded("bulk/live").await;
    assert!(took < SETTLE + Duration::from_secs(2), "{took:?}");
    assert!(
        bench.bucket.objects().len() < 2_900,
        "the backlog was not even there any more"
    );
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_twenty_minutes_costs_few_requests_and_ends_within_a_minute() {
    let bench = Bench::new(Odds {
        refused: 1.0,
        ..slow(5)
    });
    for n in 0..500 {
        bench
            .tree
            .write(&path(&format!("f{n}")), format!("{n}").as_bytes());
    }
    let mut agent = bench.start(Mode::Forever);
    sleep(Duration::from_secs(20 * 60)).await;
    assert!(
        bench.store.faults() < 200,
        "{} requests in twenty minutes",
        bench.store.faults()
    );
    assert!(agent.snapshots.borrow().outage.is_some());
    bench.store.calm();
    let level = timeout(Duration::from_secs(61), agent.level()).await;
    level.expect("level within a minute of the outage's end");
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_outage_that_comes_later_is_survived_too() {
    let bench = Bench::new(Odds {
        refused: 1.0,
        ..slow(5)
    });
    bench.store.calm();
    bench.tree.write(&path("before"), b"before");
    let mut agent = bench.start(Mode::Forever);
    agent.level().await;
    bench.store.storm();
    for n in 0..200 {
        bench
            .tree
            .write(&path(&format!("f{n}")), format!("{n}").as_bytes());
    }
    let before = bench.store.faults();
    sleep(Duration::from_secs(20 * 60)).await;
    // Each file may have been tried once when it began; after that one at a time.
    assert!(
        bench.store.faults() - before < 400,
        "{} requests",
        bench.store.faults() - before
    );
    bench.store.calm();
    timeout(Duration::from_secs(61), agent.level())
        .await
        .expect("level within a minute");
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_sync_without_a_store_gives_up_in_time() {
    let bench = Bench::new(Odds {
        refused: 1.0,
        ..slow(5)
    });
    bench.tree.write(&path("f"), b"1");
    let began = Clock::Real.now().mono;
    let ended = bench.sync().await;
    assert!(
        matches!(ended.reason, Reason::Store(_)),
        "{:?}",
        ended.reason
    );
    assert!(
        passed(began) < Duration::from_secs(130),
        "{:?}",
        passed(began)
    );
}

#[tokio::test(start_paused = true)]
async fn a_first_listing_that_takes_longer_than_the_timeout_is_no_silence() {
    // Three pages, a minute each; the timeout is two.
    let bench = Bench::new(slow(60_000));
    for n in 0..2_500 {
        bench.bucket.plant(&format!("p/theirs-{n}"), b"theirs");
    }
    bench.tree.write(&path("ours"), b"ours");
    let ended = bench.sync().await;
    assert_eq!(ended.reason, Reason::Finished);
    assert!(ended.last.level, "{:?}", ended.last);
}

#[tokio::test(start_paused = true)]
async fn a_sync_that_is_denied_ends_at_once() {
    let bench = Bench::new(slow(5));
    bench.tree.write(&path("f"), b"1");
    for operation in ["ListObjectsV2", "HeadBucket", "PutObject"] {
        bench
            .store
            .next(operation, Fault::Refused(ErrorKind::Denied));
    }
    let began = Clock::Real.now().mono;
    let ended = bench.sync().await;
    assert!(
        matches!(ended.reason, Reason::Store(_)),
        "{:?}",
        ended.reason
    );
    assert!(
        passed(began) < Duration::from_secs(5),
        "{:?}",
        passed(began)
    );
}

#[tokio::test(start_paused = true)]
async fn one_key_that_is_refused_fails_alone() {
    let bench = Bench::new(slow(5));
    bench.sync().await;
    for name in ["a", "b", "c"] {
        bench.tree.write(&path(name), name.as_bytes());
    }
    for _ in 0..1 {
        bench
            .store
            .next("PutObject", Fault::Refused(ErrorKind::Invalid));
    }
    let ended = bench.sync().await;
    assert_eq!(ended.reason, Reason::Finished);
    assert_eq!((ended.last.failed, ended.last.tally.uploaded), (1, 2));
    assert!(!ended.last.level);
}

#[tokio::test(start_paused = true)]
async fn equal_objects_are_adopted_and_others_set_aside_at_first_contact() {
    let bench = Bench::new(slow(5));
    bench.bucket.plant("p/same", b"same");
    bench.bucket.plant("p/other", b"theirs");
    bench.bucket.plant("p/elsewhere", b"nobody's");
    bench.tree.write(&path("same"), b"same");
    bench.tree.write(&path("other"), b"ours");
    let ended = bench.sync().await;
    assert!(ended.last.level);
    let tally = ended.last.tally;
    assert_eq!(
        (
            tally.uploaded,
            tally.set_aside,
            bench.bucket.counts().of("PutObject")
        ),
        (1, 1, 1)
    );
    assert_eq!(bench.object("other").unwrap(), b"ours");
    let objects = bench.bucket.objects();
    let trash: Vec<_> = objects
        .iter()
        .filter(|(key, _)| key.starts_with("p/.tidewatch/trash/"))
        .collect();
    assert_eq!(trash.len(), 1);
    assert!(trash[0].0.ends_with("/other") && trash[0].1.bytes == b"theirs".as_slice());
    assert!(objects.contains_key("p/elsewhere"));
}

#[tokio::test(start_paused = true)]
async fn where_copies_are_refused_an_object_is_set_aside_by_reading_and_writing_it() {
    let bench = Bench::with_habits(
        slow(5),
        Habits {
            refuses_copies: true,
            ..Habits::default()
        },
    );
    let large: Vec<u8> = (0..(17_u32 << 20)).map(|n| (n % 251) as u8).collect();
    for (name, theirs) in [("small", b"theirs".as_slice()), ("large", &large)] {
        bench.bucket.plant(&format!("p/{name}"), theirs);
        bench.tree.write(&path(name), b"ours");
    }
    let ended = bench.sync().await;
    assert!(ended.last.level, "{:?}", ended.last);
    let objects = bench.bucket.objects();
    let in_trash = |name: &str| {
        let mut keys = objects
            .iter()
            .filter(|(key, _)| key.starts_with("p/.tidewatch/trash/"));
        keys.find(|(key, _)| key.ends_with(name))
            .map(|(_, object)| object.bytes.to_vec())
    };
    assert_eq!(in_trash("/small").unwrap(), b"theirs");
    assert!(in_trash("/large").unwrap() == large);
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_settled_by_repeating_it() {
    let bench = Bench::new(slow(5));
    bench.tree.write(&path("f"), b"1");
    bench.store.next("PutObject", Fault::Lost);
    let ended = bench.sync().await;
    assert!(ended.last.level);
    assert_eq!(
        (ended.last.ambiguous, bench.bucket.counts().of("PutObject")),
        (0, 2)
    );
}

#[tokio::test(start_paused = true)]
async fn what_a_killed_run_left_open_is_sent_at_once_by_the_next() {
    let bench = Bench::new(slow(5));
    bench.tree.write(&path("f"), b"1");
    bench
        .store
        .next("PutObject", Fault::Late(Duration::from_secs(600)));
    let mut agent = bench.start(Mode::Forever);
    agent
        .snapshots
        .wait_for(|snapshot| snapshot.failed == 1)
        .await
        .unwrap();
    agent.task.abort();
    let began = Clock::Real.now().mono;
    let mut agent = bench.start(Mode::Forever);
    agent.until_uploaded("f").await;
    assert!(
        passed(began) < Duration::from_secs(5),
        "{:?}",
        passed(began)
    );
    agent.level().await;
    assert_eq!(bench.object("f").unwrap(), b"1");
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_edit_of_a_key_in_doubt_is_never_called_level() {
    let bench = Bench::new(slow(5));
    bench.tree.write(&path("f"), b"old");
    bench
        .store
        .next("PutObject", Fault::Late(Duration::from_secs(800)));
    let mut agent = bench.start(Mode::Forever);
    agent
        .snapshots
        .wait_for(|snapshot| snapshot.failed == 1)
        .await
        .unwrap();
    bench.tree.write(&path("f"), b"new");
    agent.until_uploaded("f").await;
    agent.level().await;
    // The key is in doubt now, and the store goes away.
    bench
        .store
        .next("PutObject", Fault::Refused(ErrorKind::Network));
    bench
        .store
        .next("HeadBucket", Fault::Refused(ErrorKind::Network));
    bench.tree.write(&path("f"), b"newer");
    agent
        .snapshots
        .wait_for(|snapshot| snapshot.outage.is_some())
        .await
        .unwrap();
    assert!(!agent.snapshots.borrow().level);
    agent.until_uploaded("f").await;
    agent.level().await;
    assert_eq!(bench.object("f").unwrap(), b"newer");
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_file_that_went_while_its_put_was_in_doubt_does_not_keep_a_sync_busy() {
    let bench = Bench::new(slow(5));
    bench.tree.write(&path("d/x"), b"1");
    bench
        .store
        .next("PutObject", Fault::Late(Duration::from_secs(600)));
    let mut agent = bench.start(Mode::Forever);
    agent
        .snapshots
        .wait_for(|snapshot| snapshot.failed == 1)
        .await
        .unwrap();
    agent.task.abort();
    bench.tree.remove(&path("d"));
    let began = Clock::Real.now().mono;
    let ended = bench.sync().await;
    assert_eq!((ended.reason, ended.last.ambiguous), (Reason::Finished, 1));
    assert!(
        passed(began) < Duration::from_secs(5),
        "{:?}",
        passed(began)
    );
}

#[tokio::test(start_paused = true)]
async fn a_sync_that_waits_for_rest_names_the_file_that_never_rests() {
    let mut bench = Bench::new(slow(5));
    bench.settings.scan_settle = Duration::from_secs(10);
    bench.tree.write(&path("log"), b"line");
    bench.tree.write(&path("quiet"), b"rests");
    let writer = async {
        for n in 0..600 {
            bench
                .tree
                .write(&path("log"), format!("line {n}").as_bytes());
            sleep(Duration::from_secs(1)).await;
        }
    };
    let ended = tokio::select! {
        ended = bench.sync() => ended,
        () = writer => panic!("the sync did not end in ten minutes"),
    };
    assert_eq!(
        (
            ended.reason,
            ended.last.unsyncable,
            ended.last.tally.uploaded
        ),
        (Reason::Finished, 1, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn a_late_request_with_other_bytes_is_found_and_mended_after_the_horizon() {
    let bench = Bench::new(slow(5));
    bench.tree.write(&path("f"), b"old");
    bench
        .store
        .next("PutObject", Fault::Late(Duration::from_secs(600)));
    let mut agent = bench.start(Mode::Forever);
    // The first put hangs in the line; before it is repeated the file has other content.
    agent
        .snapshots
        .wait_for(|snapshot| snapshot.failed == 1)
        .await
        .unwrap();
    bench.tree.write(&path("f"), b"new");
    agent.until_uploaded("f").await;
    assert_eq!(
        agent
            .snapshots
            .wait_for(|s| s.ambiguous == 1)
            .await
            .unwrap()
            .ambiguous,
        1
    );
    sleep(Duration::from_secs(700)).await;
    bench.store.tick().await;
    assert_eq!(
        bench.object("f").unwrap(),
        b"old",
        "the late request has landed"
    );
    sleep(Duration::from_secs(400)).await;
    assert_eq!(bench.object("f").unwrap(), b"new");
    assert_eq!(agent.snapshots.borrow().ambiguous, 0);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_large_file_goes_up_by_parts_and_its_equal_is_copied() {
    let bench = Bench::new(slow(5));
    let content: Vec<u8> = (0..(20_u32 << 20)).map(|n| (n % 251) as u8).collect();
    bench.tree.write(&path("large"), &content);
    // Rested, so that the second run does not read it again just when it should be copied from.
    sleep(Duration::from_secs(3)).await;
    assert!(bench.sync().await.last.level);
    assert_eq!(bench.object("large").unwrap(), content);
    assert_eq!(bench.bucket.counts().of("UploadPart"), 3);
    bench.tree.write(&path("large too"), &content);
    assert!(bench.sync().await.last.level);
    assert_eq!(bench.bucket.counts().of("UploadPart"), 3);
    assert_eq!(bench.bucket.counts().of("CopyObject"), 1);
    assert!(bench.bucket.open_uploads().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_absent_root_is_waited_for_and_costs_nothing() {
    let bench = Bench::new(slow(5));
    for name in ["a", "b/c"] {
        bench.tree.write(&path(name), name.as_bytes());
    }
    let mut agent = bench.start(Mode::Forever);
    agent.level().await;
    bench.bucket.reset_counts();
    bench.tree.away(true);
    sleep(Duration::from_secs(1200)).await;
    assert!(agent.snapshots.borrow().away.is_some() && !agent.snapshots.borrow().level);
    bench.tree.away(false);
    agent.level().await;
    assert_eq!(
        bench.bucket.counts().total(),
        0,
        "{:?}",
        bench.bucket.counts()
    );
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_gone_keeps_its_object_and_costs_no_request() {
    let bench = Bench::new(slow(5));
    bench.tree.write(&path("a"), b"1");
    bench.sync().await;
    bench.tree.remove(&path("a"));
    bench.bucket.reset_counts();
    let ended = bench.sync().await;
    assert!(ended.last.level);
    assert_eq!(bench.bucket.counts().total(), 0);
    let row = bench.manifest.folders().unwrap().remove(0);
    let entry = bench
        .manifest
        .entries(row.id, &[path("a")])
        .unwrap()
        .remove(0)
        .unwrap();
    assert_eq!(entry.state, State::Kept);
}

#[tokio::test(start_paused = true)]
async fn what_is_excluded_is_left_alone_on_both_sides() {
    let mut bench = Bench::new(slow(5));
    bench.tree.write(&path("a.tmp"), b"1");
    bench.tree.write(&path("b"), b"2");
    bench.sync().await;
    bench.exclude = vec!["*.tmp".to_owned()];
    bench.tree.write(&path("a.tmp"), b"3");
    bench.bucket.reset_counts();
    assert!(bench.sync().await.last.level);
    assert_eq!(bench.bucket.counts().total(), 0);
    assert_eq!(bench.object("a.tmp").unwrap(), b"1");
}

#[tokio::test(start_paused = true)]
async fn what_only_a_full_scan_finds_is_counted_as_missed() {
    let bench = Bench::new(slow(10));
    let mut agent = bench.start(Mode::Forever);
    agent.level().await;
    bench.tree.write(&path("told"), b"tide");
    agent.until_uploaded("told").await;
    bench.tree.trouble(1.0, 0.0);
    bench.tree.write(&path("untold"), b"tide");
    let took = agent.until_uploaded("untold").await;
    assert!(took > Duration::from_secs(300), "{took:?}: a rescan did it");
    agent.level().await;
    assert_eq!(agent.stop().await.last.missed, 1);
}

#[tokio::test(start_paused = true)]
async fn losses_during_a_rescan_order_exactly_one_more() {
    let mut bench = Bench::new(slow(5));
    bench.settings.rescan = Duration::from_secs(24 * 3600);
    for n in 0..9_000 {
        bench
            .tree
            .write(&path(&format!("d{}/f{n}", n % 90)), b"same");
    }
    let mut agent = bench.start(Mode::Forever);
    agent.level().await;
    sleep(Duration::from_secs(600)).await;
    let walks = bench.tree.walks();
    bench.tree.overflow();
    // No time passes until it has.
    let mut turns = 0;
    while bench.tree.walks() == walks {
        turns += 1;
        assert!(turns < 100_000, "a loss orders no scan");
        tokio::task::yield_now().await;
    }
    // It has begun, and has thousands of names before it.
    for _ in 0..20 {
        bench.tree.overflow();
        tokio::task::yield_now().await;
    }
    sleep(Duration::from_secs(3 * 3600)).await;
    assert_eq!(bench.tree.walks(), walks + 2);
    agent.level().await;
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn changes_that_no_event_told_shorten_the_rescan_and_their_absence_lengthens_it() {
    let mut bench = Bench::new(slow(5));
    bench.settings.rescan = Duration::from_secs(600);
    bench.tree.write(&path("d/f"), b"0");
    let mut agent = bench.start(Mode::Forever);
    agent.level().await;
    let walks_in = async |bench: &Bench, deaf: bool| {
        bench.tree.trouble(if deaf { 1.0 } else { 0.0 }, 0.0);
        let before = bench.tree.walks();
        for n in 0..120 {
            if deaf {
                bench.tree.write(&path("d/f"), format!("{n}").as_bytes());
            }
            sleep(Duration::from_secs(60)).await;
        }
        bench.tree.walks() - before
    };
    let (quiet, deaf) = (walks_in(&bench, false).await, walks_in(&bench, true).await);
    assert!(deaf > 3 * quiet, "{deaf} {quiet}");
    walks_in(&bench, false).await;
    let after = walks_in(&bench, false).await;
    assert!(after <= quiet + 2, "{after} {quiet}");
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_row_is_not_believed_any_more_although_its_job_runs_when_that_is_asked() {
    let bench = Bench::new(Odds::default());
    bench.tree.write(&path("a"), b"a");
    assert!(bench.sync().await.last.level);
    let folder = bench.manifest.folders().unwrap().remove(0);
    let row = bench.manifest.entries(folder.id, &[path("a")]).unwrap();
    let stored = row[0].clone().and_then(|row| row.stored).unwrap();
    // The object is lost, and nobody has noticed: a new time alone sends nothing.
    bench.bucket.uproot("p/a");
    let mut agent = bench.start(Mode::Forever);
    agent.level().await;
    // Its job waits for room to read it.
    let room = bench.limits.memory(128 << 20, Lane::Live).await;
    bench.tree.write(&path("a"), b"a");
    sleep(SETTLE + Duration::from_secs(5)).await;
    let (answer, answered) = tokio::sync::oneshot::channel();
    let mend = Mend {
        path: path("a"),
        sha256: stored.sha256,
        etag: stored.etag,
        there: None,
        failure: None,
    };
    let request = Request::Mend(vec![mend]);
    agent
        .control
        .send(Control { request, answer })
        .await
        .unwrap();
    sleep(Duration::from_secs(5)).await;
    drop(room);
    assert_eq!(answered.await.unwrap(), Ok(Said::Count(1)));
    agent.until_uploaded("a").await;
    assert_eq!(bench.object("a").as_deref(), Some(&b"a"[..]));
    agent.stop().await;
}
