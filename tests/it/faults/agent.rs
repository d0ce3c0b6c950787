//! What the agent makes of what the store refuses and of files that it cannot read: tree and store in memory, paused time.

use std::sync::Arc;
use std::time::Duration;

use tidewatch::agent::{Control, Mode, Reason, Request, Said};
use tidewatch::base::clock::Clock;
use tidewatch::base::policy::OnDelete;
use tidewatch::manifest::Entry;
use tidewatch::store::ErrorKind;
use tidewatch::sync::limits::Limits;
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::agent::{Agent, Bench, passed, path, slow};
use crate::support::faulty::Fault;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// Starts an agent that has looked and watches.
async fn watching(bench: &Bench) -> Agent {
    let mut agent = bench.start(Mode::Forever);
    agent.level().await;
    agent
}

/// Has every request of this operation for keys that start so refused.
fn refuse(bench: &Bench, operation: &'static str, prefix: &'static str, kind: ErrorKind) {
    bench.store.rule(move |asked, key| {
        (asked == operation && key.starts_with(prefix)).then_some(Fault::Refused(kind))
    });
}

fn allow(bench: &Bench) {
    bench.store.rule(|_, _| None);
}

fn row(bench: &Bench, name: &str) -> Option<Entry> {
    let folder = bench.manifest.folders().unwrap()[0].id;
    let rows = bench.manifest.entries(folder, &[path(name)]).unwrap();
    rows.into_iter().next().flatten()
}

fn is_parked(bench: &Bench, name: &str) -> bool {
    row(bench, name)
        .and_then(|row| row.failure)
        .is_some_and(|failure| failure.parked.is_some())
}

/// Writes so many small files, each with a content of its own.
fn write_many(bench: &Bench, folder: &str, count: u32) {
    for n in 0..count {
        let name = path(&format!("{folder}/f{n}"));
        bench.tree.write(&name, &n.to_be_bytes());
    }
}

#[tokio::test(start_paused = true)]
async fn f13_what_arrives_damaged_is_read_again_twice_and_then_left_alone() {
    let bench = Bench::new(slow(20));
    let mut agent = watching(&bench).await;
    refuse(&bench, "PutObject", "p/bad", ErrorKind::Corrupt);
    bench.tree.write(&path("bad"), b"damaged on the way");
    bench.tree.write(&path("good"), b"good");
    agent.until_uploaded("good").await;
    sleep(6 * HOUR).await;
    assert_eq!(bench.store.asked("PutObject", "p/bad"), 3);
    assert!(is_parked(&bench, "bad"));
    assert_eq!(agent.snapshots.borrow().failed, 1);
    // Another version of it is tried at once.
    allow(&bench);
    bench.tree.write(&path("bad"), b"another version");
    agent.level().await;
    assert_eq!(bench.object("bad").unwrap(), b"another version");
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn f15_what_is_refused_for_good_is_tried_once_a_day() {
    for (kind, first) in [
        (ErrorKind::TooLarge, HOUR),
        (ErrorKind::Unsupported, HOUR),
        (ErrorKind::Invalid, 23 * HOUR),
    ] {
        let bench = Bench::new(slow(20));
        let agent = watching(&bench).await;
        refuse(&bench, "PutObject", "p/bad", kind);
        bench.tree.write(&path("bad"), b"refused");
        sleep(first).await;
        assert_eq!(bench.store.asked("PutObject", "p/bad"), 1, "{kind}");
        if first == HOUR {
            agent.stop().await;
            continue;
        }
        sleep(2 * HOUR).await;
        assert_eq!(bench.store.asked("PutObject", "p/bad"), 2, "{kind}");
        // A restart alone changes nothing; what is parked still counts as failed.
        agent.stop().await;
        let agent = bench.start(Mode::Forever);
        sleep(HOUR).await;
        assert_eq!(bench.store.asked("PutObject", "p/bad"), 2, "{kind}");
        assert_eq!(agent.snapshots.borrow().failed, 1);
        assert!(!agent.snapshots.borrow().level);
        agent.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn f15_a_changed_config_and_a_person_have_it_tried_at_once() {
    let mut bench = Bench::new(slow(20));
    let agent = watching(&bench).await;
    refuse(&bench, "PutObject", "p/bad", ErrorKind::Invalid);
    bench.tree.write(&path("bad"), b"refused");
    sleep(HOUR).await;
    assert_eq!(bench.store.asked("PutObject", "p/bad"), 1);
    let (answer, told) = oneshot::channel();
    let asked = Control {
        request: Request::RetryFailed,
        answer,
    };
    agent.control.send(asked).await.unwrap();
    assert_eq!(told.await.unwrap(), Ok(Said::Count(1)));
    sleep(MINUTE).await;
    assert_eq!(bench.store.asked("PutObject", "p/bad"), 2);
    agent.stop().await;
    bench.settings.config = 7;
    let agent = bench.start(Mode::Forever);
    sleep(MINUTE).await;
    assert_eq!(bench.store.asked("PutObject", "p/bad"), 3);
    agent.stop().await;
    // A sync leaves it alone and says so, unless it is told otherwise.
    allow(&bench);
    let ended = bench.sync().await;
    assert_eq!(ended.reason, Reason::Finished);
    assert_eq!(ended.last.failed, 1);
    bench.settings.retry_failed = true;
    let ended = bench.sync().await;
    assert!(ended.last.level, "{:?}", ended.last);
    assert_eq!(bench.object("bad").unwrap(), b"refused");
}

#[tokio::test(start_paused = true)]
async fn f19_a_right_that_is_missing_for_one_key_holds_nothing_else_up() {
    let bench = Bench::new(slow(20));
    let mut agent = watching(&bench).await;
    refuse(&bench, "PutObject", "p/secret/", ErrorKind::Denied);
    bench.tree.write(&path("secret/a"), b"denied");
    sleep(MINUTE).await;
    write_many(&bench, "open", 60);
    agent.until_uploaded("open/f59").await;
    sleep(50 * MINUTE).await;
    assert_eq!(bench.bucket.objects().len(), 60);
    assert!(is_parked(&bench, "secret/a"));
    let asked = bench.store.asked("PutObject", "p/secret/a");
    assert!((3..=4).contains(&asked), "{asked}");
    assert!(agent.snapshots.borrow().outage.is_none());
    // The right is given; nobody tells us.
    allow(&bench);
    sleep(HOUR + 15 * MINUTE).await;
    assert_eq!(bench.object("secret/a").unwrap(), b"denied");
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn f19_a_right_that_is_missing_for_all_keys_pauses_everything() {
    let bench = Bench::new(slow(20));
    let mut agent = watching(&bench).await;
    refuse(&bench, "PutObject", "p/", ErrorKind::Denied);
    for n in 0..500_u32 {
        // A folder each: what is left alone is not just a folder.
        let name = path(&format!("d{n}/f"));
        bench.tree.write(&name, &n.to_be_bytes());
    }
    sleep(HOUR).await;
    assert!(agent.snapshots.borrow().outage.is_some());
    // Fifty until it is noticed, what ran then, and one a minute.
    let asked = bench.store.asked("PutObject", "p/");
    assert!(asked < 160, "{asked} puts in an hour");
    allow(&bench);
    let began = Clock::Real.now().mono;
    agent.level().await;
    assert!(passed(began) < 3 * MINUTE, "{:?}", passed(began));
    assert_eq!(bench.bucket.objects().len(), 500);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn f19_a_folder_in_which_a_right_is_missing_is_not_tried_file_by_file() {
    let bench = Bench::new(slow(20));
    let mut agent = watching(&bench).await;
    refuse(&bench, "PutObject", "p/secret/", ErrorKind::Denied);
    write_many(&bench, "open", 300);
    bench.tree.write(&path("secret/first"), b"denied");
    sleep(2 * MINUTE).await;
    for folder in ["secret", "more"] {
        for n in 0..200_u32 {
            let name = path(&format!("{folder}/f{n}"));
            bench.tree.write(&name, format!("{folder} {n}").as_bytes());
        }
    }
    sleep(20 * MINUTE).await;
    assert_eq!(bench.bucket.objects().len(), 500);
    // Three tries until the first is parked, then those of a few neighbours every five minutes.
    let asked = bench.store.asked("PutObject", "p/secret/");
    assert!(asked < 120, "{asked} puts of 201 files in 20 minutes");
    allow(&bench);
    sleep(HOUR + 15 * MINUTE).await;
    agent.level().await;
    assert_eq!(bench.bucket.objects().len(), 701);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn f20_a_full_bucket_takes_no_writes_and_goes_on_with_deletes() {
    let mut bench = Bench::new(slow(20));
    bench.settings.on_delete = OnDelete::Delete;
    bench.settings.delete_brake = None;
    write_many(&bench, "old", 40);
    bench.tree.write(&path("stays"), b"stays");
    let mut agent = watching(&bench).await;
    refuse(&bench, "PutObject", "p/", ErrorKind::Full);
    for n in 0..200_u32 {
        let name = path(&format!("new/f{n}"));
        bench.tree.write(&name, format!("new {n}").as_bytes());
    }
    sleep(2 * MINUTE).await;
    assert!(agent.snapshots.borrow().outage.is_some());
    let before = bench.store.asked("PutObject", "p/");
    bench.tree.remove(&path("old"));
    sleep(30 * MINUTE).await;
    let tries = bench.store.asked("PutObject", "p/") - before;
    // One a minute, and some more when something was removed.
    assert!((25..=40).contains(&tries), "{tries} tries in half an hour");
    assert_eq!(
        bench.bucket.objects().len(),
        1,
        "what is removed makes room"
    );
    allow(&bench);
    let began = Clock::Real.now().mono;
    agent.level().await;
    assert!(passed(began) < 2 * MINUTE, "{:?}", passed(began));
    assert_eq!(bench.bucket.objects().len(), 201);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn f22_a_bucket_that_is_not_there_is_waited_for_and_never_made() {
    let bench = Bench::new(slow(20));
    let mut agent = watching(&bench).await;
    bench
        .store
        .rule(|_, _| Some(Fault::Refused(ErrorKind::NotFound)));
    write_many(&bench, "d", 100);
    let before = bench.store.asked("*", "");
    sleep(HOUR).await;
    let asked = bench.store.asked("*", "") - before;
    assert!(asked < 200, "{asked} requests in an hour");
    assert!(agent.snapshots.borrow().outage.is_some());
    allow(&bench);
    agent.level().await;
    assert_eq!(bench.bucket.objects().len(), 100);
    assert_eq!(bench.bucket.counts().of("CreateBucket"), 0);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn f24_a_copy_whose_source_is_gone_or_another_is_sent() {
    for kind in [
        ErrorKind::NotFound,
        ErrorKind::Precondition,
        ErrorKind::Invalid,
    ] {
        let bench = Bench::new(slow(20));
        bench.tree.write(&path("first"), b"the same bytes");
        let mut agent = watching(&bench).await;
        refuse(&bench, "CopyObject", "p/", kind);
        bench.tree.write(&path("second"), b"the same bytes");
        agent.until_uploaded("second").await;
        assert_eq!(bench.object("second").unwrap(), b"the same bytes");
        assert_eq!(bench.store.asked("CopyObject", "p/"), 1, "{kind}");
        assert_eq!(bench.store.asked("PutObject", "p/second"), 1, "{kind}");
        agent.level().await;
        agent.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn f25_a_conflict_is_waited_out_for_its_key_alone() {
    let bench = Bench::new(slow(20));
    let mut agent = watching(&bench).await;
    for _ in 0..3 {
        bench
            .store
            .next("PutObject", Fault::Refused(ErrorKind::Conflict));
    }
    bench.tree.write(&path("a"), b"in conflict");
    agent.until_uploaded("a").await;
    assert_eq!(bench.store.asked("PutObject", "p/a"), 4);
    assert_eq!(
        bench.store.asked("HeadBucket", ""),
        0,
        "the bucket is not suspected"
    );
    agent.level().await;
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn f29_a_file_that_changes_while_it_is_read_is_not_sent() {
    let bench = Bench::new(slow(20));
    bench.tree.without_leases();
    let mut agent = watching(&bench).await;
    bench.tree.trouble(0.0, 1.0);
    bench.tree.write(&path("restless"), b"at first");
    sleep(MINUTE).await;
    assert_eq!(bench.store.asked("PutObject", "p/restless"), 0);
    bench.tree.trouble(0.0, 0.0);
    bench.tree.write(&path("restless"), b"at last");
    agent.level().await;
    assert_eq!(bench.object("restless").unwrap(), b"at last");
    assert_eq!(bench.bucket.open_uploads(), []);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn f30_a_file_that_cannot_be_read_is_left_alone_and_named() {
    const EACCES: i32 = 13;
    const EIO: i32 = 5;
    for (errno, tries) in [(EACCES, 1), (EIO, 3)] {
        let bench = Bench::new(slow(20));
        let mut agent = watching(&bench).await;
        bench.tree.damage(&path("bad"), Some(errno));
        bench.tree.write(&path("bad"), b"cannot be read");
        bench.tree.write(&path("good"), b"good");
        agent.until_uploaded("good").await;
        sleep(10 * MINUTE).await;
        let failure = row(&bench, "bad").and_then(|row| row.failure).unwrap();
        assert_eq!(failure.attempts, tries, "{failure:?}");
        assert!(failure.parked.is_some());
        assert!(failure.error.contains("could not read"), "{failure:?}");
        assert_eq!(agent.snapshots.borrow().failed, 1);
        assert_eq!(bench.store.asked("*", "p/bad"), 0);
        // Whatever was wrong is put right, and nobody tells us.
        bench.tree.damage(&path("bad"), None);
        sleep(HOUR + 15 * MINUTE).await;
        assert_eq!(bench.object("bad").unwrap(), b"cannot be read");
        assert!(agent.snapshots.borrow().level);
        agent.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn objects_that_go_together_share_their_requests() {
    let mut bench = Bench::new(slow(20));
    bench.settings.on_delete = OnDelete::Delete;
    bench.settings.delete_brake = None;
    bench.limits = Arc::new(Limits::new(Some(64), 128 << 20));
    write_many(&bench, "d", 2_000);
    bench.tree.write(&path("stays"), b"stays");
    let mut agent = watching(&bench).await;
    bench.tree.remove(&path("d"));
    sleep(MINUTE).await;
    agent.level().await;
    assert_eq!(bench.bucket.objects().len(), 1);
    let counts = bench.bucket.counts();
    let (batches, singles) = (counts.of("DeleteObjects"), counts.of("DeleteObject"));
    assert!(batches + singles < 200, "{batches} and {singles} requests");
    agent.stop().await;
}
