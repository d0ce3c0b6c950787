//! What a person asks of a running loop, and when it may say that it is level: tree and store in memory, paused time.

use std::time::Duration;

use tidewatch::agent::{Control, Mode, Request, Said};
use tidewatch::base::live::Live;
use tidewatch::base::policy::{Brake, OnDelete};
use tidewatch::base::snapshot::{FolderSnapshot, Tried};
use tidewatch::store::ErrorKind;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use crate::agent::{Agent, Bench, SETTLE, path, slow};
use crate::support::faulty::{Fault, Odds};

const HOUR: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);

impl Agent {
    async fn say(&self, request: Request) -> Result<Said, String> {
        let (answer, told) = oneshot::channel();
        let asked = Control { request, answer };
        self.control.send(asked).await.unwrap();
        told.await.unwrap()
    }

    async fn does(&self, request: Request) -> u64 {
        match self.say(request).await {
            Ok(Said::Count(count)) => count,
            other => panic!("{other:?}"),
        }
    }

    async fn live(&self, name: &str) -> Live {
        match self.say(Request::Explain(path(name))).await {
            Ok(Said::Live(live)) => *live,
            other => panic!("{other:?}"),
        }
    }

    /// Returns how it is at this moment.
    async fn now(&self) -> FolderSnapshot {
        self.does(Request::Tell).await;
        self.snapshots.borrow().clone()
    }

    async fn comes_to(&mut self, what: &str, is: impl FnMut(&FolderSnapshot) -> bool) {
        let came = timeout(HOUR, self.snapshots.wait_for(is)).await;
        let is = came.map(|snapshot| drop(snapshot.unwrap()));
        assert!(is.is_ok(), "never {what}: {:?}", self.snapshots.borrow());
    }
}

async fn level(bench: &Bench) -> Agent {
    let mut agent = bench.start(Mode::Forever);
    agent.level().await;
    agent
}

// -- level is only said when it is so --

#[tokio::test(start_paused = true)]
async fn level_is_not_said_before_the_first_scan_has_ended() {
    let bench = Bench::new(slow(20));
    for n in 0..2000 {
        bench.tree.write(&path(&format!("f{n}")), b"x");
    }
    let mut agent = bench.start(Mode::Forever);
    agent
        .comes_to("scanning", |now| {
            assert!(!now.level || now.last_scan_ns.is_some(), "{now:?}");
            now.level
        })
        .await;
    assert_eq!(agent.now().await.rescans, 1);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn level_is_not_said_while_a_change_settles_or_is_on_its_way() {
    // A request takes ten seconds.
    let bench = Bench::new(slow(10_000));
    bench.tree.write(&path("before"), b"x");
    let agent = level(&bench).await;
    bench.tree.write(&path("a"), b"a");
    sleep(SETTLE / 2).await;
    let now = agent.now().await;
    assert!(!now.level && now.queued_files == 1, "{now:?}");
    sleep(SETTLE + Duration::from_secs(5)).await;
    let now = agent.now().await;
    assert!(!now.level && now.lag_seconds >= 5, "{now:?}");
    assert_eq!(agent.live("a").await.stage, "in_flight");
    sleep(MINUTE).await;
    let now = agent.now().await;
    assert!(now.level && now.lag_seconds == 0, "{now:?}");
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn level_is_not_said_after_events_were_lost_until_everything_was_looked_at() {
    let bench = Bench::new(slow(20));
    bench.tree.write(&path("a"), b"a");
    let mut agent = level(&bench).await;
    sleep(MINUTE).await;
    bench.tree.trouble(1.0, 0.0);
    bench.tree.write(&path("b"), b"b");
    bench.tree.trouble(0.0, 0.0);
    bench.tree.overflow();
    agent
        .comes_to("blind", |now| !now.level && now.lost == 1)
        .await;
    agent.level().await;
    assert_eq!(bench.object("b").unwrap(), b"b");
    assert_eq!(agent.now().await.rescans, 2);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn level_is_not_said_while_the_root_is_away_and_the_brake_says_so() {
    let bench = Bench::new(slow(20));
    bench.tree.write(&path("a"), b"a");
    let mut agent = level(&bench).await;
    bench.tree.away(true);
    agent.does(Request::SyncNow(path(""))).await;
    agent.comes_to("away", |now| now.away.is_some()).await;
    let now = agent.now().await;
    assert!(!now.level, "{now:?}");
    assert!(now.brake.unwrap().starts_with("away: "));
    let waits = agent.live("a").await.waits_for.unwrap();
    assert!(waits.starts_with("the folder cannot be used: "), "{waits}");
    bench.tree.away(false);
    agent.level().await;
    assert_eq!(agent.now().await.brake, None);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn level_is_not_said_while_a_file_fails_or_cannot_have_a_key() {
    let bench = Bench::new(slow(20));
    bench.tree.write(&path("bad"), b"a");
    bench.tree.damage(&path("bad"), Some(5));
    let mut agent = bench.start(Mode::Forever);
    agent.comes_to("failing", |now| now.failed == 1).await;
    let live = agent.live("bad").await;
    assert!(live.stage == "retrying" && live.failures >= 1, "{live:?}");
    assert!(live.error.is_some() && live.due_at.is_some(), "{live:?}");
    sleep(MINUTE).await;
    let now = agent.now().await;
    assert!(!now.level && now.retries >= 1, "{now:?}");
    bench.tree.damage(&path("bad"), None);
    bench.tree.write(&path("bad"), b"better");
    agent.level().await;
    let long = vec!["x".repeat(250); 5].join("/");
    bench.tree.write(&path(&long), b"too long for a key");
    agent
        .comes_to("unsyncable", |now| now.unsyncable == 1)
        .await;
    sleep(MINUTE).await;
    assert!(!agent.now().await.level);
    assert!(agent.live(&long).await.error.unwrap().contains("key"));
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_refused_for_good_is_parked_and_counted() {
    let bench = Bench::new(slow(20));
    bench.tree.write(&path("fine"), b"fine");
    bench.tree.write(&path("refused"), b"refused");
    bench.store.rule(|operation, key| {
        let is_it = operation == "PutObject" && key == "p/refused";
        is_it.then_some(Fault::Refused(ErrorKind::Invalid))
    });
    let mut agent = bench.start(Mode::Forever);
    agent.comes_to("parked", |now| now.parked == 1).await;
    let now = agent.now().await;
    assert!(now.failed == 1 && !now.level, "{now:?}");
    // Another content is tried.
    bench.store.calm();
    bench.tree.write(&path("refused"), b"other");
    agent.level().await;
    assert_eq!(agent.now().await.parked, 0);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn level_is_not_said_while_a_brake_holds_deletes_and_it_says_why() {
    let mut bench = Bench::new(slow(20));
    bench.settings.on_delete = OnDelete::Delete;
    bench.settings.delete_brake = Some(Brake {
        files: 3,
        share_percent: None,
        window: Duration::from_secs(600),
    });
    for n in 0..9 {
        bench.tree.write(&path(&format!("d/{n}")), &[n]);
    }
    bench.tree.write(&path("stays"), b"x");
    let mut agent = level(&bench).await;
    sleep(MINUTE).await;
    bench.tree.remove(&path("d"));
    agent.comes_to("held", |now| now.held == 9).await;
    let now = agent.now().await;
    assert!(!now.level, "{now:?}");
    let brake = now.brake.unwrap();
    assert_eq!(brake, "deletes: 9 held, more than the delete brake allows");
    assert_eq!(agent.live("d/1").await.brake, Some(brake));
    agent.does(Request::Drop).await;
    agent.level().await;
    assert_eq!(agent.now().await.brake, None);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn level_is_not_said_while_a_key_is_to_be_looked_at_once_more() {
    let bench = Bench::new(Odds::default());
    // The first put may land late, over the second.
    bench.tree.write(&path("a"), b"two");
    bench
        .store
        .next("PutObject", Fault::Late(Duration::from_secs(600)));
    let mut agent = bench.start(Mode::Forever);
    agent.comes_to("failing", |now| now.failed == 1).await;
    bench.tree.write(&path("a"), b"three");
    agent.until_uploaded("a").await;
    agent.comes_to("in doubt", |now| now.ambiguous == 1).await;
    sleep(MINUTE).await;
    let now = agent.now().await;
    assert!(!now.level && now.queued_files == 0, "{now:?}");
    assert_eq!(agent.live("a").await.stage, "check");
    sleep(Duration::from_secs(700)).await;
    bench.store.tick().await;
    agent.level().await;
    let now = agent.now().await;
    assert_eq!((now.ambiguous, now.lag_seconds), (0, 0));
    assert_eq!(bench.object("a").unwrap(), b"three");
    agent.stop().await;
}

// -- pause, resume, sync-now --

#[tokio::test(start_paused = true)]
async fn what_is_paused_notices_changes_and_sends_nothing_until_it_goes_on() {
    let bench = Bench::new(slow(20));
    bench.tree.write(&path("before"), b"x");
    let agent = level(&bench).await;
    assert_eq!(agent.does(Request::Pause).await, 1);
    assert_eq!(agent.does(Request::Pause).await, 0, "it is so already");
    bench.tree.write(&path("new"), b"new");
    sleep(HOUR).await;
    let now = agent.now().await;
    assert_eq!(bench.object("new"), None);
    assert!(!now.level && now.queued_files == 1 && now.paused_ns.is_some());
    assert!(now.lag_seconds >= 3590, "{now:?}");
    let live = agent.live("new").await;
    assert_eq!((live.stage.as_str(), live.ahead), ("queued", 0));
    assert!(live.waits_for.unwrap().starts_with("paused since "));
    let refused = agent.say(Request::SyncNow(path("new"))).await;
    assert!(refused.unwrap_err().contains("`tidewatch resume` first"));
    // It is remembered.
    agent.stop().await;
    let mut agent = bench.start(Mode::Forever);
    sleep(HOUR).await;
    assert!(agent.now().await.paused_ns.is_some());
    assert_eq!(bench.object("new"), None);
    // A run that a person has asked for is not held back.
    assert_eq!(agent.does(Request::Resume).await, 1);
    assert_eq!(agent.does(Request::Resume).await, 0);
    agent.level().await;
    assert_eq!(bench.object("new").unwrap(), b"new");
    assert_eq!(agent.now().await.paused_ns, None);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_sync_that_a_person_has_asked_for_is_not_held_back_by_a_pause() {
    let bench = Bench::new(slow(20));
    let agent = level(&bench).await;
    agent.does(Request::Pause).await;
    agent.stop().await;
    bench.tree.write(&path("a"), b"a");
    assert!(bench.sync().await.last.level);
    assert_eq!(bench.object("a").unwrap(), b"a");
}

#[tokio::test(start_paused = true)]
async fn a_pause_in_an_outage_asks_nothing_of_the_bucket_and_does_not_turn_round_and_round() {
    let bench = Bench::new(slow(20));
    let mut agent = level(&bench).await;
    bench
        .store
        .rule(|_, _| Some(Fault::Refused(ErrorKind::Network)));
    for n in 0..20 {
        bench.tree.write(&path(&format!("f{n}")), &[n]);
    }
    agent.comes_to("out", |now| now.outage.is_some()).await;
    agent.does(Request::Pause).await;
    sleep(MINUTE).await;
    let asked = bench.store.asked("PutObject", "");
    sleep(HOUR).await;
    assert_eq!(bench.store.asked("PutObject", ""), asked);
    bench.store.calm();
    agent.does(Request::Resume).await;
    agent.level().await;
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn sync_now_waits_neither_for_rest_nor_for_the_end_of_a_pause_after_a_failure() {
    let mut bench = Bench::new(slow(20));
    bench.settings.settle = HOUR;
    bench.settings.max_wait = HOUR * 24;
    let mut agent = level(&bench).await;
    bench.tree.write(&path("d/a"), b"a");
    bench.tree.write(&path("other"), b"other");
    sleep(MINUTE).await;
    let live = agent.live("d/a").await;
    assert_eq!(live.stage, "settling");
    assert!(live.due_at.is_some() && live.waits_for.is_none());
    assert_eq!(agent.does(Request::SyncNow(path("d"))).await, 1);
    assert!(agent.until_uploaded("d/a").await < MINUTE);
    assert_eq!(bench.object("other"), None, "nobody has asked for it");
    // What no event told is found, too.
    bench.tree.trouble(1.0, 0.0);
    bench.tree.write(&path("unheard"), b"unheard");
    bench.tree.trouble(0.0, 0.0);
    assert!(agent.does(Request::SyncNow(path(""))).await >= 1);
    sleep(MINUTE).await;
    assert_eq!(bench.object("other").unwrap(), b"other");
    assert_eq!(bench.object("unheard").unwrap(), b"unheard");
    agent.stop().await;
}

// -- what is told --

#[tokio::test(start_paused = true)]
async fn who_waits_knows_who_is_in_front() {
    let bench = Bench::new(slow(20));
    let agent = level(&bench).await;
    agent.does(Request::Pause).await;
    for name in ["a", "b", "c", "d"] {
        bench.tree.write(&path(name), name.as_bytes());
        sleep(Duration::from_millis(100)).await;
    }
    sleep(MINUTE).await;
    let live = agent.live("d").await;
    assert_eq!((live.stage.as_str(), live.ahead), ("queued", 3));
    assert_eq!(live.front, ["a", "b", "c"]);
    assert_eq!(agent.live("nobody").await.stage, "idle");
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_large_file_on_its_way_tells_its_bytes_and_parts_and_the_rate_ends() {
    let mut odds = slow(20);
    // A part takes eight seconds.
    odds.speed = Some(1 << 20);
    let bench = Bench::new(odds);
    let mut agent = level(&bench).await;
    bench.tree.write(&path("large"), &vec![7; 64 << 20]);
    agent
        .comes_to("on its way", |now| {
            let up = now.going_up.first();
            up.is_some_and(|up| up.parts.is_some_and(|(done, _)| done > 0))
        })
        .await;
    let now = agent.now().await;
    let up = &now.going_up[0];
    assert_eq!((up.path.clone(), up.bytes_all), (path("large"), 64 << 20));
    let (done, all) = up.parts.unwrap();
    assert!((1..8).contains(&done) && all == 8, "{up:?}");
    assert!(up.bytes_done >= 8 << 20, "{up:?}");
    assert_eq!(now.queued_bytes, 64 << 20);
    assert!(now.rate_bytes_per_second > 0, "{now:?}");
    let left = now.seconds_left.unwrap();
    assert!((1..=600).contains(&left), "{left}");
    let live = agent.live("large").await;
    assert_eq!(live.stage, "in_flight");
    assert_eq!((live.bytes_all, live.parts_all), (Some(64 << 20), Some(8)));
    agent.level().await;
    sleep(MINUTE).await;
    let now = agent.snapshots.borrow().clone();
    assert_eq!((now.rate_bytes_per_second, now.going_up.len()), (0, 0));
    assert_eq!(now.seconds_left, Some(0));
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn when_the_bucket_was_proven_right_is_kept_over_a_restart() {
    let bench = Bench::new(slow(20));
    let agent = level(&bench).await;
    let now = agent.now().await;
    assert_eq!((now.last_verify, now.last_drill), (None, None));
    let last = Tried {
        at_ns: bench.clock.now().wall_ns,
        ok: false,
    };
    agent.does(Request::Verified(last)).await;
    let drill = Box::new(tidewatch::base::drill::Drill {
        ok: true,
        ..Default::default()
    });
    agent.does(Request::Drilled(drill)).await;
    agent.stop().await;
    let agent = level(&bench).await;
    let now = agent.now().await;
    assert_eq!(now.last_verify, Some(last));
    assert!(now.last_drill.is_some_and(|drill| drill.ok), "{now:?}");
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_audit_is_told_when_there_was_one_and_not_before() {
    let mut bench = Bench::new(slow(20));
    bench.settings.audit = Some(HOUR * 24);
    bench.tree.write(&path("a"), b"a");
    let mut agent = level(&bench).await;
    sleep(HOUR).await;
    assert_eq!(agent.now().await.last_audit_ns, None);
    sleep(HOUR * 24).await;
    let first = agent.now().await.last_audit_ns;
    assert!(first.is_some());
    agent.level().await;
    agent.stop().await;
    let agent = level(&bench).await;
    assert_eq!(agent.now().await.last_audit_ns, first);
    agent.stop().await;
}
