//! Rows 44 to 48, 51, 54 and 60: lines and stores that are down, slow, late or out of patience.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tidewatch::agent::{Mode, Reason};
use tidewatch::base::policy::OnDelete;
use tidewatch::store::ErrorKind;
use tidewatch::sync::lease::{Manners, Owner};
use tokio::time::sleep;

use crate::agent::{Bench, passed, path, slow};
use crate::support::faulty::{Fault, Odds};
use crate::support::mem_store::Habits;
use crate::watching::table::row;

const MINUTE: Duration = Duration::from_secs(60);

fn write(bench: &Bench, files: usize) {
    for n in 0..files {
        let at = path(&format!("d{}/f{n}", n % 5));
        bench.tree.write(&at, format!("content {n}").as_bytes());
    }
}

/// Returns how many of the files are stored as they are.
fn stored(bench: &Bench, files: usize) -> usize {
    let is_right = |n: &usize| {
        bench.object(&format!("d{}/f{n}", n % 5)) == Some(format!("content {n}").into_bytes())
    };
    (0..files).filter(is_right).count()
}

#[tokio::test(start_paused = true)]
async fn r44_while_nothing_can_be_reached_little_is_asked_and_then_everything_is_sent() {
    let _row = row!();
    let bench = Bench::new(slow(5));
    bench
        .store
        .rule(|_, _| Some(Fault::Refused(ErrorKind::Network)));
    write(&bench, 300);
    let mut agent = bench.start(Mode::Forever);
    sleep(20 * MINUTE).await;
    let asked = bench.store.asked("*", "");
    assert!((1..=600).contains(&asked), "{asked} requests for 300 files");
    let now = agent.snapshots.borrow().clone();
    assert!(now.queued_files >= 300 && !now.level, "{now:?}");
    bench.store.calm();
    let began = tidewatch::base::clock::Clock::Real.now().mono;
    agent.level().await;
    assert!(passed(began) < 2 * MINUTE, "{:?}", passed(began));
    assert_eq!(stored(&bench, 300), 300);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn r45_a_lost_reply_is_settled_and_never_claimed_before() {
    let _row = row!();
    let mut bench = Bench::new(slow(5));
    bench.settings.on_delete = OnDelete::Delete;
    // An emptied folder would be a matter for the brake.
    bench.tree.write(&path("stays"), b"stays");
    let mut agent = bench.start(Mode::Forever);
    agent.level().await;
    bench.store.next("PutObject", Fault::Lost);
    bench.tree.write(&path("f"), b"first");
    let open = agent.snapshots.wait_for(|now| now.failed == 1);
    assert!(!open.await.unwrap().level);
    assert_eq!(bench.object("f").unwrap(), b"first", "it had its effect");
    agent.level().await;
    sleep(MINUTE).await;
    // The same with a removal, and with a copy under another name.
    let lose_once = |operations: [&'static str; 2]| {
        let is_done = AtomicBool::new(false);
        bench.store.rule(move |operation, _| {
            let is_it = operations.contains(&operation) && !is_done.swap(true, Ordering::SeqCst);
            is_it.then_some(Fault::Lost)
        });
    };
    lose_once(["DeleteObject", "DeleteObjects"]);
    bench.tree.remove(&path("f"));
    sleep(30 * MINUTE).await;
    agent.level().await;
    assert_eq!(bench.object("f"), None);
    bench.tree.write(&path("g"), b"second");
    agent.until_uploaded("g").await;
    sleep(MINUTE).await;
    lose_once(["CopyObject", "CopyObject"]);
    bench.tree.rename(&path("g"), &path("h"));
    sleep(30 * MINUTE).await;
    agent.level().await;
    assert_eq!(
        (bench.object("g"), bench.object("h").unwrap()),
        (None, b"second".to_vec())
    );
    assert_eq!(agent.snapshots.borrow().ambiguous, 0);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn r46_a_request_that_lands_after_a_newer_one_is_mended() {
    let _row = row!();
    let bench = Bench::new(slow(5));
    bench.tree.write(&path("f"), b"old");
    bench.store.next("PutObject", Fault::Late(3 * MINUTE));
    let mut agent = bench.start(Mode::Forever);
    let failed = agent.snapshots.wait_for(|now| now.failed == 1);
    failed.await.unwrap();
    bench.tree.write(&path("f"), b"new");
    agent.until_uploaded("f").await;
    assert!(
        !agent.snapshots.borrow().level,
        "the old one may still land"
    );
    sleep(4 * MINUTE).await;
    bench.store.tick().await;
    assert_eq!(bench.object("f").unwrap(), b"old", "it has landed");
    sleep(20 * MINUTE).await;
    agent.level().await;
    assert_eq!(bench.object("f").unwrap(), b"new");
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn r48_a_store_that_asks_to_slow_down_is_obeyed_and_gets_everything() {
    let _row = row!();
    let bench = Bench::new(Odds {
        refused: 0.05,
        ..slow(50)
    });
    bench.store.crowd(Some(2));
    write(&bench, 300);
    let mut agent = bench.start(Mode::Forever);
    sleep(30 * MINUTE).await;
    agent.level().await;
    assert_eq!(stored(&bench, 300), 300);
    assert!(bench.store.throttled() > 0, "it was never too much");
    let asked = bench.store.asked("PutObject", "");
    assert!(asked < 900, "{asked} requests for 300 files");
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn r51_credentials_that_are_refused_and_return_lose_and_delete_nothing() {
    let _row = row!();
    for kind in [ErrorKind::Barred, ErrorKind::Denied] {
        let mut bench = Bench::new(slow(5));
        bench.settings.on_delete = OnDelete::Delete;
        write(&bench, 20);
        let mut agent = bench.start(Mode::Forever);
        agent.level().await;
        sleep(MINUTE).await;
        bench.store.rule(move |_, _| Some(Fault::Refused(kind)));
        write(&bench, 40);
        bench.tree.remove(&path("d0/f0"));
        let before = bench.store.asked("*", "");
        sleep(60 * MINUTE).await;
        let asked = bench.store.asked("*", "") - before;
        assert!(asked < 400, "{kind:?}: {asked} requests in an hour");
        assert_eq!(stored(&bench, 40), 20, "{kind:?}");
        let now = agent.snapshots.borrow().clone();
        assert!(!now.level && now.lag_seconds > 0, "{kind:?}: {now:?}");
        bench.store.rule(|_, _| None);
        sleep(60 * MINUTE).await;
        agent.level().await;
        assert_eq!(stored(&bench, 40), 39, "{kind:?}");
        assert_eq!(bench.object("d0/f0"), None, "{kind:?}: its file is gone");
        agent.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn r54_a_store_without_conditions_is_told_to_guard_nothing_and_gets_everything() {
    let _row = row!();
    let mut bench = Bench::with_habits(
        slow(5),
        Habits {
            ignores_conditions: true,
            ..Habits::default()
        },
    );
    bench.bucket.set_clock(bench.clock);
    bench.owner = Some(Owner {
        agent: "agent".into(),
        epoch: "1".into(),
        host: "host".into(),
        pid: 1,
        manners: Manners::Wait,
    });
    write(&bench, 20);
    let mut agent = bench.start(Mode::Forever);
    agent.level().await;
    assert_eq!(stored(&bench, 20), 20);
    let words = agent.snapshots.borrow().lease.clone();
    assert!(
        words
            .as_ref()
            .is_some_and(|words| words.contains("advisory")),
        "{words:?}"
    );
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn r60_a_store_that_takes_30_seconds_is_not_crowded_and_can_be_left_in_time() {
    let _row = row!();
    let bench = Bench::new(slow(30_000));
    write(&bench, 12);
    let mut agent = bench.start(Mode::Forever);
    agent.level().await;
    assert_eq!(stored(&bench, 12), 12);
    assert!(
        bench.store.most_at_once() <= 8,
        "{}",
        bench.store.most_at_once()
    );
    for n in 0..40 {
        bench.tree.write(&path(&format!("new/{n}")), b"later");
    }
    sleep(Duration::from_secs(10)).await;
    let began = tidewatch::base::clock::Clock::Real.now().mono;
    let ended = agent.stop().await;
    let took = passed(began);
    assert!(matches!(ended.reason, Reason::Stopped(_)));
    assert!(
        took <= bench.settings.shutdown_grace + Duration::from_secs(6),
        "{took:?}"
    );
}
