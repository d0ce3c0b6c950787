//! What the agent writes: when, in which order, and after what goes wrong.

use std::time::Duration;

use tidewatch::agent::{Ended, Mode, Reason};
use tidewatch::base::policy::{History, OnDelete};
use tidewatch::catalog::{self, Kind, Op, Reading, Trouble};
use tidewatch::manifest::{Change, FolderKey, Manifest, Progress, State};
use tidewatch::store::ErrorKind;
use tokio::time::sleep;

use super::{chain_of, keys, names, path};
use crate::agent::Bench;
use crate::support::faulty::{Fault, Faulty, Odds};
use crate::support::mem_store::Habits;

const MINUTE: Duration = Duration::from_secs(60);
/// What the keys of links begin with.
const CATALOG: &str = "p/.tidewatch/catalog/";

fn bench() -> Bench {
    Bench::new(Odds::default())
}

impl Bench {
    async fn latest(&self) -> Reading {
        let reading = chain_of(&self.bucket).await.latest().await.unwrap();
        assert!(reading.is_latest);
        reading
    }

    /// Returns what each link holds, in few words: `delta 2`, `snapshot 3`.
    fn links(&self) -> Vec<String> {
        let links = self.bucket.catalog();
        let told = |bytes: &[u8]| {
            let mut count = 0;
            let header = catalog::read_link(bytes, &keys(), |_| count += 1).unwrap();
            match header.kind {
                Kind::Delta => format!("delta {count}"),
                Kind::Snapshot { .. } => format!("snapshot {count}"),
            }
        };
        links.values().map(|object| told(&object.bytes)).collect()
    }

    fn folder_key() -> FolderKey {
        FolderKey {
            path: b"/m".to_vec(),
            endpoint: String::new(),
            bucket: "b".into(),
            prefix: "p/".into(),
        }
    }

    fn progress(&self) -> Progress {
        let folder = self.manifest.folder(&Self::folder_key(), "m").unwrap();
        self.manifest.progress(folder.id).unwrap()
    }

    fn set_progress(&self, is: &Progress) {
        let folder = self.manifest.folder(&Self::folder_key(), "m").unwrap();
        self.manifest.note_progress(folder.id, is).unwrap();
    }

    /// The tree in the bucket says what the rows do.
    async fn agrees(&self) {
        let folder = self.manifest.folder(&Self::folder_key(), "m").unwrap();
        let root = path("");
        let rows = self.manifest.page(folder.id, &root, &root, 10_000).unwrap();
        let synced = rows.iter().filter(|row| row.state == State::Synced);
        let mut count = 0;
        let reading = self.latest().await;
        for row in synced {
            let content = row.stored.as_ref().unwrap();
            let known = &reading.tree[&row.path];
            assert_eq!((known.sha256, &known.etag), (content.sha256, &content.etag));
            let stat = content.stat;
            assert_eq!(
                (known.size, known.mtime_ns, known.mode),
                (stat.size, stat.mtime_ns, stat.mode)
            );
            count += 1;
        }
        assert_eq!(count, reading.tree.len());
    }
}

fn is_level(ended: &Ended) {
    assert_eq!(ended.reason, Reason::Finished);
    assert!(ended.last.level);
}

#[tokio::test(start_paused = true)]
async fn a_run_publishes_what_it_did_before_it_ends_and_a_level_one_asks_nothing() {
    let bench = bench();
    for name in ["a", "b/c", "d"] {
        bench.tree.write(&path(name), name.as_bytes());
    }
    is_level(&bench.sync().await);
    assert_eq!(bench.links(), ["delta 4"]);
    bench.agrees().await;
    // One put, and nothing looked at or listed: the store holds to conditions.
    bench.bucket.reset_counts();
    is_level(&bench.sync().await);
    assert_eq!(
        (bench.bucket.counts().catalog, bench.bucket.counts().total()),
        (0, 0)
    );

    bench.tree.chmod(&path("a"), 0o600);
    bench.tree.remove(&path("d"));
    is_level(&bench.sync().await);
    assert_eq!(bench.bucket.counts().catalog, 1);
    assert_eq!(bench.links(), ["delta 4", "delta 2"]);
    let reading = bench.latest().await;
    assert_eq!(names(&reading.tree), ["a", "b/c"]);
    assert_eq!(reading.tree[&path("a")].mode, 0o600);
    let history = chain_of(&bench.bucket)
        .await
        .history(|_| true)
        .await
        .unwrap();
    let of_d = &history.versions[&path("d")];
    assert_eq!((of_d[0].op, of_d[1].op), (Op::Put, Op::Gone));
    assert_eq!(of_d[1].key.as_deref(), Some("p/d"), "its object is kept");
    assert_eq!(of_d[1].sha256, of_d[0].sha256);

    // A file that is back is there again, although nothing is sent.
    bench.tree.write(&path("d"), b"d");
    is_level(&bench.sync().await);
    assert_eq!(names(&bench.latest().await.tree), ["a", "b/c", "d"]);
    bench.agrees().await;
}

#[tokio::test(start_paused = true)]
async fn folders_are_on_record_as_scans_see_them_also_where_there_is_no_file() {
    let mut bench = bench();
    bench.exclude = vec!["left/".to_owned()];
    for name in ["a/empty", "b", "left/out"] {
        bench.tree.mkdir(&path(name));
    }
    bench.tree.close(&path("b"), true);
    let ended = bench.sync().await;
    assert_eq!(ended.reason, Reason::Finished);
    let told = async |bench: &Bench| -> Vec<String> {
        let folders = bench.latest().await.folders.into_iter();
        folders
            .map(|(path, stamp)| format!("{path} {:o}", stamp.mode))
            .collect()
    };
    // One that cannot be listed, or is left out, is not on record.
    assert_eq!(told(&bench).await, ["a 755", "a/empty 755"]);
    assert_eq!(bench.links(), ["delta 2"]);
    bench.tree.open_all();
    bench.tree.chmod(&path("a/empty"), 0o700);
    is_level(&bench.sync().await);
    assert_eq!(told(&bench).await, ["a 755", "a/empty 700", "b 755"]);
    is_level(&bench.sync().await);
    assert_eq!(bench.links(), ["delta 2", "delta 2"], "nothing was new");

    // What cannot be seen is not gone.
    bench.tree.close(&path("a"), true);
    bench.sync().await;
    bench.tree.open_all();
    bench.tree.away(true);
    let away = bench.sync().await;
    assert!(matches!(away.reason, Reason::Away(_)), "{:?}", away.reason);
    bench.tree.away(false);
    assert_eq!(bench.links(), ["delta 2", "delta 2"]);
    bench.tree.rename(&path("a/empty"), &path("c"));
    bench.tree.remove(&path("b"));
    is_level(&bench.sync().await);
    assert_eq!(told(&bench).await, ["a 755", "c 700"]);
    // An agent that stays hears of a folder by its event.
    let agent = bench.start(Mode::Forever);
    sleep(MINUTE).await;
    bench.tree.mkdir(&path("a/d/e"));
    bench.tree.remove(&path("c"));
    sleep(2 * MINUTE).await;
    assert_eq!(told(&bench).await, ["a 755", "a/d 755", "a/d/e 755"]);
    assert_eq!(agent.stop().await.reason, Reason::Stopped(true));
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_has_the_folders_too() {
    let bench = bench();
    bench.tree.write(&path("a/x"), b"x");
    bench.tree.mkdir(&path("b"));
    is_level(&bench.sync().await);
    bench.tree.mkdir(&path("c"));
    bench.set_progress(&Progress {
        is_due: true,
        ..bench.progress()
    });
    is_level(&bench.sync().await);
    let links = bench.links();
    assert!(
        links.contains(&"snapshot 4".to_owned()) || links.contains(&"snapshot 3".to_owned()),
        "{links:?}"
    );
    let reading = bench.latest().await;
    assert!(reading.number > 1);
    assert_eq!(reading.folders, bench.tree.folder_stamps());
    bench.agrees().await;
}

#[tokio::test(start_paused = true)]
async fn what_happens_within_a_minute_shares_a_link() {
    let bench = bench();
    let mut agent = bench.start(Mode::Forever);
    agent.level().await;
    assert!(bench.links().is_empty(), "an empty folder has no catalog");
    for name in ["a", "b", "c"] {
        bench.tree.write(&path(name), name.as_bytes());
        agent.until_uploaded(name).await;
        sleep(Duration::from_secs(5)).await;
    }
    assert!(bench.links().is_empty());
    sleep(MINUTE).await;
    assert_eq!(bench.links(), ["delta 3"]);
    sleep(60 * MINUTE).await;
    assert_eq!(
        bench.bucket.counts().catalog,
        1,
        "nothing new: nothing is asked"
    );
    // At a stop nothing waits any longer.
    bench.tree.write(&path("d"), b"d");
    agent.until_uploaded("d").await;
    assert_eq!(agent.stop().await.reason, Reason::Stopped(true));
    assert_eq!(bench.links(), ["delta 3", "delta 1"]);
    bench.agrees().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_set_aside_is_told_with_its_place() {
    let mut bench = bench();
    bench.settings.history = History::Trash;
    bench.settings.on_delete = OnDelete::Trash;
    bench.tree.write(&path("a"), b"first");
    is_level(&bench.sync().await);
    sleep(MINUTE).await;
    bench.tree.write(&path("a"), b"second");
    is_level(&bench.sync().await);
    sleep(MINUTE).await;
    bench.tree.remove(&path("a"));
    bench.tree.write(&path("b"), b"else");
    is_level(&bench.sync().await);
    let history = chain_of(&bench.bucket)
        .await
        .history(|_| true)
        .await
        .unwrap();
    let records = &history.versions[&path("a")];
    let ops: Vec<Op> = records.iter().map(|record| record.op).collect();
    assert_eq!(ops, [Op::Put, Op::Aside, Op::Put, Op::Aside, Op::Gone]);
    let objects = bench.bucket.objects();
    for (of, aside, content) in [(0, 1, "first"), (2, 3, "second")] {
        let (of, aside) = (&records[of], &records[aside]);
        let trash_key = aside.trash_key.as_ref().unwrap();
        assert_eq!(objects[trash_key].bytes, content.as_bytes());
        assert_eq!((aside.sha256, &aside.etag), (of.sha256, &of.etag));
        assert_eq!((aside.mtime_ns, aside.mode), (of.mtime_ns, of.mode));
        assert!(aside.time_ns > of.time_ns);
    }
    assert_eq!(records[4].key, None, "its object was removed");
    bench.agrees().await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_and_a_late_one_make_no_link_twice() {
    for fault in [Fault::Lost, Fault::Late(Duration::from_secs(40))] {
        let bench = bench();
        let script = std::sync::Mutex::new(Some(fault));
        bench.store.rule(move |operation, key| {
            let is_it = operation == "PutObject" && key.starts_with(CATALOG);
            is_it.then(|| script.lock().unwrap().take()).flatten()
        });
        let mut agent = bench.start(Mode::Forever);
        bench.tree.write(&path("a"), b"a");
        agent.until_uploaded("a").await;
        sleep(5 * MINUTE).await;
        bench.tree.write(&path("b"), b"b");
        agent.until_uploaded("b").await;
        agent.stop().await;
        assert_eq!(bench.links(), ["delta 1", "delta 1"], "{fault:?}");
        bench.agrees().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_link_that_was_stored_before_a_crash_and_not_noted_is_taken_for_what_it_holds() {
    let bench = bench();
    bench.store.rule(|operation, key| {
        // It lands while nobody hears of it.
        let is_link = operation == "PutObject" && key.starts_with(CATALOG);
        is_link.then_some(Fault::Late(Duration::from_secs(1)))
    });
    let mut agent = bench.start(Mode::Forever);
    bench.tree.write(&path("a"), b"a");
    agent.until_uploaded("a").await;
    while bench.store.pending() == 0 {
        sleep(Duration::from_secs(1)).await;
    }
    agent.task.abort();
    bench.store.settle().await;
    assert_eq!(bench.links(), ["delta 1"]);
    assert_eq!(bench.progress().number, 0, "it is not noted");
    // More has happened when the next one starts: the first link is ours, and the rest comes behind it.
    bench.store.rule(|_, _| None);
    bench.tree.write(&path("b"), b"b");
    is_level(&bench.sync().await);
    assert_eq!(bench.links(), ["delta 1", "delta 1"]);
    let chain = chain_of(&bench.bucket).await;
    assert_eq!(chain.history(|_| true).await.unwrap().troubles, []);
    bench.agrees().await;
}

#[tokio::test(start_paused = true)]
async fn a_state_folder_that_was_put_back_is_noticed_by_its_log() {
    let bench = bench();
    bench.tree.write(&path("a"), b"a");
    is_level(&bench.sync().await);
    let before = bench.progress();
    bench.tree.write(&path("b"), b"b");
    is_level(&bench.sync().await);
    // The same numbers, and other rows: an older copy of the state went another way.
    bench.set_progress(&before);
    bench.tree.write(&path("c"), b"c");
    is_level(&bench.sync().await);
    assert_eq!(
        bench.links(),
        ["delta 1", "delta 1", "snapshot 3", "delta 1"]
    );
    bench.agrees().await;
}

fn with_own_manifest(bench: Bench, dir: &std::path::Path) -> Bench {
    let (manifest, _) = Manifest::open(dir, 0).unwrap();
    Bench { manifest, ..bench }
}

#[tokio::test(start_paused = true)]
async fn behind_another_agents_links_the_chain_goes_on_with_a_snapshot() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let first = with_own_manifest(bench(), dirs[0].path());
    let second = with_own_manifest(
        Bench {
            bucket: first.bucket.clone(),
            store: first.store.clone(),
            ..bench()
        },
        dirs[1].path(),
    );
    first.tree.write(&path("a"), b"a");
    is_level(&first.sync().await);
    second.tree.write(&path("a"), b"a");
    second.tree.write(&path("b"), b"b");
    is_level(&second.sync().await);
    assert_eq!(first.links(), ["delta 1", "snapshot 2", "delta 2"]);
    second.agrees().await;
    // And back again.
    first.tree.write(&path("c"), b"c");
    is_level(&first.sync().await);
    assert_eq!(first.links()[3..], ["snapshot 2", "delta 1"]);
    let chain = chain_of(&first.bucket).await;
    let troubles = chain.history(|_| true).await.unwrap().troubles;
    let handed: Vec<u64> = troubles
        .iter()
        .map(|trouble| match trouble {
            Trouble::Handed { number, .. } => *number,
            other => panic!("{other}"),
        })
        .collect();
    assert_eq!(handed, [2, 4]);
    first.agrees().await;
}

#[tokio::test(start_paused = true)]
async fn rows_of_before_there_was_a_catalog_get_a_snapshot() {
    let bench = bench();
    bench.store.rule(|_, key| {
        let is_link = key.starts_with(CATALOG);
        is_link.then_some(Fault::Refused(ErrorKind::Denied))
    });
    for name in ["a", "b", "c"] {
        bench.tree.write(&path(name), name.as_bytes());
    }
    bench.sync().await;
    // As the upgrade leaves it: nothing is logged of what is there.
    let upgraded = Progress {
        published: 3,
        is_due: true,
        ..Progress::default()
    };
    bench.set_progress(&upgraded);
    bench.store.rule(|_, _| None);
    is_level(&bench.sync().await);
    assert_eq!(bench.links(), ["snapshot 3"]);
    bench.agrees().await;
    bench.bucket.reset_counts();
    is_level(&bench.sync().await);
    assert_eq!(bench.bucket.counts().catalog, 0);
    bench.tree.write(&path("d"), b"d");
    is_level(&bench.sync().await);
    assert_eq!(bench.links(), ["snapshot 3", "delta 1"]);
    bench.agrees().await;
}

#[tokio::test(start_paused = true)]
async fn a_long_chain_gets_a_snapshot_so_that_reading_stays_short() {
    let bench = bench();
    bench.tree.write(&path("a"), b"a");
    is_level(&bench.sync().await);
    // Nearly a thousand links later.
    let is = bench.progress();
    bench.set_progress(&Progress { links: 1007, ..is });
    bench.tree.write(&path("b"), b"b");
    is_level(&bench.sync().await);
    assert_eq!(bench.links(), ["delta 1", "delta 1", "snapshot 2"]);
    let is = bench.progress();
    assert_eq!((is.base, is.links, is.records, is.is_due), (3, 0, 0, false));
    bench.set_progress(&Progress {
        records: 100_001,
        links: 15,
        ..is
    });
    bench.tree.write(&path("c"), b"c");
    is_level(&bench.sync().await);
    assert_eq!(bench.links()[3..], ["delta 1", "snapshot 3"]);
    bench.agrees().await;
}

#[tokio::test(start_paused = true)]
async fn a_store_without_conditions_is_looked_at_before_each_link() {
    let habits = Habits {
        ignores_conditions: true,
        ..Habits::default()
    };
    let bench = Bench::with_habits(Odds::default(), habits);
    bench.tree.write(&path("a"), b"a");
    is_level(&bench.sync().await);
    assert_eq!(bench.bucket.counts().catalog, 2, "a look and a put");
    // Another one has been here: its link is not overwritten.
    let is = bench.progress();
    bench.set_progress(&Progress {
        published: is.published,
        ..Progress::default()
    });
    bench.tree.write(&path("b"), b"b");
    is_level(&bench.sync().await);
    assert_eq!(bench.links(), ["delta 1", "snapshot 2", "delta 1"]);
    bench.agrees().await;
}

#[tokio::test(start_paused = true)]
async fn links_of_others_are_not_overwritten_without_conditions_either() {
    let habits = Habits {
        ignores_conditions: true,
        ..Habits::default()
    };
    let bench = Bench::with_habits(Odds::default(), habits);
    let mut agent = bench.start(Mode::Forever);
    bench.tree.write(&path("a"), b"a");
    agent.until_uploaded("a").await;
    sleep(2 * MINUTE).await;
    assert_eq!(bench.links(), ["delta 1"]);
    // Somebody else wrote while this one did not hold the lease; and what comes behind cannot be listed for a while.
    bench.bucket.plant(&super::key(2), b"theirs");
    bench.store.rule(|operation, _| {
        (operation == "ListObjectsV2").then_some(Fault::Refused(ErrorKind::Busy))
    });
    for name in ["b", "c"] {
        bench.tree.write(&path(name), name.as_bytes());
        agent.until_uploaded(name).await;
        sleep(10 * MINUTE).await;
        let links = bench.bucket.catalog();
        assert_eq!(links.len(), 2);
        assert_eq!(&links[&super::key(2)].bytes[..], b"theirs");
    }
    bench.store.rule(|_, _| None);
    sleep(10 * MINUTE).await;
    let links = bench.bucket.catalog();
    assert_eq!(&links[&super::key(2)].bytes[..], b"theirs");
    assert!(links.len() > 2);
    assert_eq!(names(&bench.latest().await.tree), ["a", "b", "c"]);
    agent.stop().await;
    bench.agrees().await;
}

#[tokio::test(start_paused = true)]
async fn what_happened_to_the_last_row_is_told_after_another_owner_too() {
    let bench = bench();
    bench.tree.write(&path("a"), b"a");
    is_level(&bench.sync().await);
    bench.tree.remove(&path("a"));
    let folder = bench.manifest.folder(&Bench::folder_key(), "m").unwrap();
    let changes = [Change::Forget(path("a")), Change::Recontact];
    bench.manifest.commit(folder.id, &changes).unwrap();
    is_level(&bench.sync().await);
    assert_eq!(bench.links(), ["delta 1", "delta 1"]);
    assert!(bench.latest().await.tree.is_empty());
}

#[tokio::test(start_paused = true)]
async fn files_that_failed_are_not_told_to_be_in_the_bucket() {
    let bench = bench();
    bench.store.rule(|operation, key| {
        let fails = operation == "PutObject" && (key.starts_with(CATALOG) || key == "p/b");
        fails.then_some(Fault::Refused(ErrorKind::Denied))
    });
    for name in ["a", "b"] {
        bench.tree.write(&path(name), name.as_bytes());
    }
    let ended = bench.sync().await;
    let Reason::Store(why) = &ended.reason else {
        panic!("{:?}", ended.reason)
    };
    assert!(why.starts_with("could not write the catalog: "), "{why}");
    assert_eq!(ended.last.failed, 1);
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_a_link_that_hangs() {
    let speed = Some(1);
    let mut bench = Bench::new(Odds {
        speed,
        ..Odds::default()
    });
    let mut agent = bench.start(Mode::Forever);
    bench.tree.write(&path("a"), b"a");
    agent.until_uploaded("a").await;
    let began = tidewatch::base::clock::Clock::Real.now().mono;
    // The link would take some minutes.
    assert_eq!(agent.stop().await.reason, Reason::Stopped(false));
    let grace = bench.settings.shutdown_grace;
    assert!((grace..2 * grace).contains(&crate::agent::passed(began)));
    bench.store = Faulty::new(bench.bucket.clone(), 1, Odds::default());
    is_level(&bench.sync().await);
    assert_eq!(bench.links(), ["delta 1"]);
    bench.agrees().await;
}

#[tokio::test(start_paused = true)]
async fn a_catalog_that_cannot_be_written_holds_nothing_up_and_is_told() {
    let bench = bench();
    bench.store.rule(|operation, key| {
        let is_link = operation == "PutObject" && key.starts_with(CATALOG);
        is_link.then_some(Fault::Refused(ErrorKind::Denied))
    });
    bench.tree.write(&path("a"), b"a");
    let ended = bench.sync().await;
    let Reason::Store(why) = &ended.reason else {
        panic!("{:?}", ended.reason)
    };
    assert!(
        why.starts_with("every file is in the bucket, but the catalog of them is not: could not write the catalog: "),
        "{why}"
    );
    assert_eq!(ended.last.failed, 0);
    assert_eq!(bench.object("a").as_deref(), Some(&b"a"[..]));

    // One that stays goes on with its files, and with the catalog when it can.
    let mut agent = bench.start(Mode::Forever);
    for name in ["b", "c"] {
        bench.tree.write(&path(name), name.as_bytes());
        agent.until_uploaded(name).await;
        sleep(10 * MINUTE).await;
    }
    assert!(bench.links().is_empty());
    let trouble = agent.snapshots.borrow().catalog.clone();
    let trouble = trouble.expect("it is shown");
    assert!(
        trouble.starts_with("could not write the catalog: "),
        "{trouble}"
    );
    bench.store.rule(|_, _| None);
    sleep(10 * MINUTE).await;
    assert_eq!(bench.links(), ["delta 3"]);
    assert_eq!(agent.snapshots.borrow().catalog, None);
    agent.stop().await;
    bench.agrees().await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_the_catalog_no_longer_than_for_files() {
    let bench = bench();
    let mut agent = bench.start(Mode::Forever);
    bench.tree.write(&path("a"), b"a");
    agent.until_uploaded("a").await;
    bench.store.rule(|_, key| {
        let is_link = key.starts_with(CATALOG);
        is_link.then_some(Fault::Refused(ErrorKind::Busy))
    });
    let began = tidewatch::base::clock::Clock::Real.now().mono;
    assert_eq!(agent.stop().await.reason, Reason::Stopped(true));
    assert!(crate::agent::passed(began) < Duration::from_secs(1));
    bench.store.rule(|_, _| None);
    is_level(&bench.sync().await);
    assert_eq!(bench.links(), ["delta 1"]);
    bench.agrees().await;
}
