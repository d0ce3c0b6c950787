//! One agent's lease, and two agents that want the same one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tidewatch::agent::{Mode, Reason};
use tidewatch::base::policy::OnDelete;
use tidewatch::manifest::{Change, FolderKey};
use tidewatch::store::ErrorKind;
use tidewatch::store::key::KeyMap;
use tidewatch::sync::lease::{Manners, Owner};
use tokio::time::{sleep, timeout};

use crate::agent::{Agent, Bench, passed, path};
use crate::lease::{LEASE, first, line, note, owner, second};
use crate::support::faulty::{Fault, Odds};
use crate::support::mem_store::Habits;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn now() -> tokio::time::Instant {
    tidewatch::base::clock::Clock::Real.now().mono
}

/// Ends an agent as a crash does.
async fn kill(agent: Agent) {
    agent.task.abort();
    assert!(agent.task.await.unwrap_err().is_cancelled());
}

async fn until_waiting(agent: &mut Agent) {
    let waits = |words: &Option<String>| {
        let is_said = |words: &String| words.contains("waiting for the lease of host `host-");
        words.as_ref().is_some_and(is_said)
    };
    let waiting = agent.snapshots.wait_for(|snapshot| waits(&snapshot.lease));
    timeout(Duration::from_secs(60), waiting)
        .await
        .expect("it says so within a minute")
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_level_sync_takes_the_lease_gives_it_back_and_asks_nothing_else() {
    let bench = first(line(5), Habits::default());
    bench.tree.write(&path("f"), b"content");
    assert_eq!(bench.sync().await.reason, Reason::Finished);
    assert!(note(&bench.bucket).unwrap().released);
    bench.bucket.reset_counts();
    let ended = bench.sync().await;
    assert!(ended.last.level, "{:?}", ended.last);
    let counts = bench.bucket.counts();
    assert_eq!(
        (
            counts.of("GetObject"),
            counts.of("PutObject"),
            counts.total()
        ),
        // Nobody has had it since: that the condition holds says as much as a look.
        (0, 2, 2)
    );
    let note = note(&bench.bucket).unwrap();
    assert!(note.released);
    assert_eq!((note.version, note.agent.as_str()), (1, "agent-id"));
    assert_eq!((note.host.as_str(), note.pid), ("host-a", 1));
    assert_eq!(note.folder, "m");
}

#[tokio::test(start_paused = true)]
async fn a_level_agent_renews_its_lease_360_times_a_day_says_24_words_and_asks_nothing_else() {
    let bench = first(line(5), Habits::default());
    bench.tree.write(&path("f"), b"content");
    let mut agent = bench.start(Mode::Forever);
    agent.level().await;
    sleep(Duration::from_secs(600)).await;
    bench.bucket.reset_counts();
    sleep(DAY).await;
    let counts = bench.bucket.counts();
    // A word an hour tells others that it is alive.
    assert!(
        (358 + 23..=362 + 25).contains(&counts.total()),
        "{counts:?}"
    );
    assert_eq!(counts.total(), counts.of("PutObject"));
    let held = note(&bench.bucket).unwrap();
    assert_eq!((held.seconds, held.released), (600, false));
    agent.stop().await;
    assert!(note(&bench.bucket).unwrap().released);
}

#[tokio::test(start_paused = true)]
async fn while_there_is_work_the_lease_is_short_and_renewed_every_twenty_seconds() {
    let bench = first(line(1_000), Habits::default());
    for n in 0..2_000 {
        bench
            .tree
            .write(&path(&format!("f{n}")), format!("{n}").as_bytes());
    }
    let agent = bench.start(Mode::Forever);
    sleep(Duration::from_secs(100)).await;
    let before = note(&bench.bucket).unwrap();
    assert_eq!(before.seconds, 60);
    sleep(Duration::from_secs(210)).await;
    let after = note(&bench.bucket).unwrap();
    assert_eq!(after.seconds, 60);
    assert!(
        (9..=11).contains(&(after.turn - before.turn)),
        "{before:?} {after:?}"
    );
    assert!(bench.bucket.objects().len() < 2_000, "it still works");
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_next_one_waits_for_the_end_of_a_dead_owners_lease_and_then_goes_on() {
    let bench = first(line(5), Habits::default());
    bench.tree.write(&path("f"), b"theirs");
    let mut agent = bench.start(Mode::Forever);
    agent.level().await;
    sleep(Duration::from_secs(300)).await;
    let next = second(&bench, line(5));
    next.tree.write(&path("g"), b"ours");
    let mut other = next.start(Mode::Forever);
    until_waiting(&mut other).await;
    assert!(!other.snapshots.borrow().level, "it does not know");
    sleep(Duration::from_secs(3_000)).await;
    assert_eq!(bench.object("g"), None);
    assert_eq!(note(&bench.bucket).unwrap().agent, "agent-id");
    kill(agent).await;
    let died = now();
    other.until_uploaded("g").await;
    let waited = passed(died);
    // Renewed up to four minutes before; looked at once a minute.
    let (least, most) = (Duration::from_secs(300), Duration::from_secs(670));
    assert!(waited > least && waited < most, "{waited:?}");
    other.level().await;
    assert_eq!(other.snapshots.borrow().lease, None);
    other.stop().await;
}

#[tokio::test(start_paused = true)]
async fn who_has_nothing_to_do_is_not_level_before_the_prefix_is_its_own_and_looked_at() {
    let minutes = |count: u64| Duration::from_secs(60 * count);
    let bench = first(line(5), Habits::default());
    let next = second(&bench, line(5));
    next.tree.write(&path("f"), b"the same");
    sleep(minutes(1)).await;
    assert!(next.sync().await.last.level);
    // Another agent has it now, which may do there what it likes.
    let mut agent = bench.start(Mode::Forever);
    agent.level().await;
    let mut other = next.start(Mode::Forever);
    until_waiting(&mut other).await;
    sleep(minutes(20)).await;
    let said = other.snapshots.borrow().clone();
    assert_eq!((said.queued_files, said.failed, said.held), (0, 0, 0));
    assert!(said.last_scan_ns.is_some() && !said.level, "{said:?}");

    // Given back; but what the other has done to it nobody can tell yet.
    let is_denied = Arc::new(AtomicBool::new(true));
    let denied = is_denied.clone();
    next.store.rule(move |operation, _| {
        let is_list = operation == "ListObjectsV2" && denied.load(Ordering::SeqCst);
        is_list.then_some(Fault::Refused(ErrorKind::Denied))
    });
    agent.stop().await;
    let taken = other
        .snapshots
        .wait_for(|snapshot| snapshot.lease.is_none());
    timeout(minutes(10), taken)
        .await
        .expect("it is taken")
        .unwrap();
    sleep(minutes(20)).await;
    assert!(next.store.asked("ListObjectsV2", "") > 0);
    let said = other.snapshots.borrow().clone();
    assert_eq!((said.queued_files, said.failed, said.held), (0, 0, 0));
    assert!(!said.level, "{said:?}");
    is_denied.store(false, Ordering::SeqCst);
    timeout(minutes(10), other.level())
        .await
        .expect("it has been looked at");
    other.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_was_given_back_is_taken_within_a_minute() {
    let bench = first(line(5), Habits::default());
    let mut agent = bench.start(Mode::Forever);
    agent.level().await;
    let next = second(&bench, line(5));
    next.tree.write(&path("g"), b"ours");
    let mut other = next.start(Mode::Forever);
    until_waiting(&mut other).await;
    agent.stop().await;
    let stopped = now();
    other.until_uploaded("g").await;
    assert!(
        passed(stopped) < Duration::from_secs(65),
        "{:?}",
        passed(stopped)
    );
    other.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_sync_ends_when_the_prefix_has_another_owner_and_says_who_and_until_when() {
    let bench = first(line(5), Habits::default());
    let mut agent = bench.start(Mode::Forever);
    agent.level().await;
    let next = second(&bench, line(5));
    next.tree.write(&path("g"), b"ours");
    let began = now();
    let Reason::Taken(why) = next.sync().await.reason else {
        panic!("it is taken")
    };
    assert!(
        passed(began) < Duration::from_secs(70),
        "{:?}",
        passed(began)
    );
    let named = "host `host-a` (process 1, folder `m`, agent agent-id)";
    assert!(why.contains(named), "{why}");
    assert!(why.contains(" s more, until 2026-"), "{why}");
    assert_eq!(bench.object("g"), None);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_sync_waits_for_the_end_of_a_short_lease() {
    let bench = first(line(1_000), Habits::default());
    for n in 0..1_000 {
        bench
            .tree
            .write(&path(&format!("f{n}")), format!("{n}").as_bytes());
    }
    let mut agent = bench.start(Mode::Forever);
    agent.until_uploaded("f1").await;
    kill(agent).await;
    let next = second(&bench, line(5));
    next.tree.write(&path("g"), b"ours");
    let began = now();
    let ended = next.sync().await;
    assert_eq!(ended.reason, Reason::Finished);
    assert!(
        passed(began) > Duration::from_secs(30),
        "{:?}",
        passed(began)
    );
    assert!(bench.object("g").is_some());
}

#[tokio::test(start_paused = true)]
async fn the_same_state_folder_takes_its_dead_processs_lease_over_at_once() {
    let mut bench = first(line(5), Habits::default());
    bench.tree.write(&path("f"), b"content");
    let mut agent = bench.start(Mode::Forever);
    agent.level().await;
    kill(agent).await;
    bench.owner = Some(Owner {
        epoch: "a9".to_owned(),
        ..owner("a", 9)
    });
    bench.tree.write(&path("g"), b"more");
    let began = now();
    assert_eq!(bench.sync().await.reason, Reason::Finished);
    assert!(
        passed(began) < Duration::from_secs(5),
        "{:?}",
        passed(began)
    );
}

#[tokio::test(start_paused = true)]
async fn an_owner_whose_lease_was_taken_starts_nothing_more() {
    let bench = first(line(500), Habits::default());
    bench.bucket.keep_history();
    for n in 0..2_000 {
        bench
            .tree
            .write(&path(&format!("f{n}")), format!("{n}").as_bytes());
    }
    let mut agent = bench.start(Mode::Forever);
    agent.until_uploaded("f1").await;
    let mut next = second(&bench, line(500));
    next.owner.as_mut().unwrap().manners = Manners::TakeOver;
    next.tree.write(&path("g"), b"ours");
    let mut other = next.start(Mode::Forever);
    other.until_uploaded("g").await;
    // It finds out at its next renewal.
    until_waiting(&mut agent).await;
    let sent = bench.bucket.objects().len();
    assert!(sent < 1_000, "{sent}");
    sleep(Duration::from_secs(3_600)).await;
    assert!(
        bench.bucket.objects().len() < sent + 8,
        "what ran has ended"
    );
    assert_eq!(note(&bench.bucket).unwrap().agent, "bgent-id");
    // Taken from a living owner once, not for ever.
    assert_eq!(other.snapshots.borrow().lease, None);
    other.stop().await;
    agent.level().await;
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_sync_that_loses_its_lease_ends() {
    let bench = first(line(500), Habits::default());
    for n in 0..2_000 {
        bench
            .tree
            .write(&path(&format!("f{n}")), format!("{n}").as_bytes());
    }
    let mut agent = bench.start(Mode::Once {
        timeout: Duration::from_secs(120),
    });
    agent.until_uploaded("f1").await;
    let mut next = second(&bench, line(5));
    next.owner.as_mut().unwrap().manners = Manners::TakeOver;
    let other = next.start(Mode::Forever);
    let ended = timeout(Duration::from_secs(30), agent.task).await;
    let reason = ended.expect("at its next renewal").unwrap().reason;
    assert!(matches!(reason, Reason::Taken(_)), "{reason:?}");
    other.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_outage_costs_few_requests_and_the_lease_is_held_before_anything_is_sent_again() {
    let bench = first(
        Odds {
            refused: 1.0,
            ..line(5)
        },
        Habits::default(),
    );
    bench.store.calm();
    bench.bucket.keep_history();
    bench.tree.write(&path("before"), b"before");
    let mut agent = bench.start(Mode::Forever);
    agent.level().await;
    sleep(Duration::from_secs(120)).await;
    bench.store.storm();
    for n in 0..200 {
        bench
            .tree
            .write(&path(&format!("f{n}")), format!("{n}").as_bytes());
    }
    let before = bench.store.faults();
    sleep(Duration::from_secs(3_600)).await;
    let faults = bench.store.faults() - before;
    assert!(faults < 400, "{faults} requests in an hour");
    assert!(agent.snapshots.borrow().outage.is_some());
    let held = bench.bucket.history().len();
    bench.store.calm();
    timeout(Duration::from_secs(62), agent.level())
        .await
        .expect("level within a minute");
    let (key, _) = bench.bucket.history().remove(held);
    assert_eq!(key, LEASE, "the first that changed anything");
    assert!(bench.bucket.objects().len() > 200);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_level_agent_asks_little_in_an_outage() {
    let bench = first(
        Odds {
            refused: 1.0,
            ..line(5)
        },
        Habits::default(),
    );
    bench.store.calm();
    let mut agent = bench.start(Mode::Forever);
    agent.level().await;
    sleep(Duration::from_secs(600)).await;
    bench.store.storm();
    let before = bench.store.faults();
    sleep(Duration::from_secs(3_600)).await;
    let faults = bench.store.faults() - before;
    assert!(faults < 250, "{faults} requests in an hour");
    bench.store.calm();
    sleep(Duration::from_secs(62)).await;
    assert_eq!(agent.snapshots.borrow().outage, None);
    let held = note(&bench.bucket).unwrap();
    assert_eq!((held.agent.as_str(), held.released), ("agent-id", false));
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn lost_answers_about_the_lease_are_settled_by_reading() {
    for fault in [
        Fault::Lost,
        Fault::Late(Duration::from_secs(40)),
        Fault::Refused(ErrorKind::Conflict),
    ] {
        let bench = first(line(5), Habits::default());
        bench.store.next("PutObject", fault);
        bench.tree.write(&path("f"), b"content");
        let began = now();
        assert_eq!(bench.sync().await.reason, Reason::Finished, "{fault:?}");
        assert!(passed(began) < Duration::from_secs(10), "{fault:?}");
        assert!(bench.object("f").is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn credentials_that_cannot_write_the_lease_are_a_missing_right() {
    let bench = first(line(5), Habits::default());
    for _ in 0..4 {
        bench
            .store
            .next("PutObject", Fault::Refused(ErrorKind::Denied));
    }
    bench.tree.write(&path("f"), b"content");
    let Reason::Store(why) = bench.sync().await.reason else {
        panic!("it is the store's")
    };
    assert!(
        why.contains(LEASE) && why.contains("`.tidewatch/`"),
        "{why}"
    );
    assert_eq!(bench.object("f"), None);
}

#[tokio::test(start_paused = true)]
async fn where_conditions_are_ignored_the_lease_is_advisory_and_one_of_two_still_waits() {
    let habits = Habits {
        ignores_conditions: true,
        ..Habits::default()
    };
    let bench = first(line(50), habits);
    let next = second(&bench, line(50));
    bench.tree.write(&path("f"), b"theirs");
    next.tree.write(&path("g"), b"ours");
    let mut agents = [bench.start(Mode::Forever), next.start(Mode::Forever)];
    sleep(Duration::from_secs(30)).await;
    let words = agents
        .each_mut()
        .map(|agent| agent.snapshots.borrow().lease.clone().unwrap());
    let is = |part: &str| words.iter().filter(|words| words.contains(part)).count();
    assert_eq!((is("advisory"), is("waiting for")), (1, 1), "{words:?}");
    assert!(bench.object("f").is_some() != bench.object("g").is_some());
    for agent in agents {
        agent.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_bucket_that_tells_no_times_is_judged_by_how_long_nothing_changed() {
    let bench = Bench {
        owner: Some(owner("a", 1)),
        ..Bench::new(line(5))
    };
    let mut agent = bench.start(Mode::Forever);
    agent.level().await;
    let next = second(&bench, line(5));
    next.tree.write(&path("g"), b"ours");
    let mut other = next.start(Mode::Forever);
    until_waiting(&mut other).await;
    sleep(Duration::from_secs(3_000)).await;
    assert_eq!(bench.object("g"), None, "it is renewed all the time");
    kill(agent).await;
    let died = now();
    other.until_uploaded("g").await;
    assert!(
        passed(died) < Duration::from_secs(670),
        "{:?}",
        passed(died)
    );
    other.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_shorter_renewal_that_was_not_answered_counts_for_no_longer_than_it_says() {
    let bench = first(line(5), Habits::default());
    bench.bucket.keep_history();
    let mut agent = bench.start(Mode::Forever);
    agent.level().await;
    sleep(Duration::from_secs(300)).await;
    let next = second(&bench, line(5));
    next.tree.write(&path("g"), b"ours");
    let mut other = next.start(Mode::Forever);
    until_waiting(&mut other).await;
    bench
        .store
        .rule(|operation, key| match (operation, key == LEASE) {
            ("PutObject", true) => Some(Fault::Lost),
            ("GetObject", true) => Some(Fault::Refused(ErrorKind::Network)),
            _ => None,
        });
    for n in 0..480 {
        bench
            .tree
            .write(&path(&format!("f{n}")), format!("{n}").as_bytes());
        sleep(Duration::from_millis(500)).await;
    }
    other.until_uploaded("g").await;
    let history = bench.bucket.history();
    let at = history.iter().position(|(key, _)| key == "p/g").unwrap();
    let late: Vec<_> = history[at..]
        .iter()
        .filter(|(key, _)| key.starts_with("p/f"))
        .collect();
    assert!(late.is_empty(), "two owners: {late:?}");
    assert!(history[..at].iter().any(|(key, _)| key == "p/f5"));
    agent.task.abort();
    other.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_renewal_stops_everything_even_if_nobody_can_look_why() {
    let bench = first(line(500), Habits::default());
    for n in 0..2_000 {
        bench
            .tree
            .write(&path(&format!("f{n}")), format!("{n}").as_bytes());
    }
    let mut agent = bench.start(Mode::Forever);
    agent.until_uploaded("f1").await;
    let mut next = second(&bench, line(500));
    next.owner.as_mut().unwrap().manners = Manners::TakeOver;
    next.tree.write(&path("g"), b"ours");
    bench.store.rule(|operation, key| {
        (operation == "GetObject" && key == LEASE).then_some(Fault::Refused(ErrorKind::Network))
    });
    let mut other = next.start(Mode::Forever);
    other.until_uploaded("g").await;
    sleep(Duration::from_secs(23)).await;
    let sent = bench.bucket.objects().len();
    sleep(Duration::from_secs(30)).await;
    assert_eq!(bench.bucket.objects().len(), sent);
    agent.task.abort();
    other.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_renewal_does_not_end_an_outage_that_it_says_nothing_about() {
    let bench = first(line(50), Habits::default());
    bench.store.rule(|operation, key| {
        (operation == "PutObject" && key != LEASE).then_some(Fault::Refused(ErrorKind::Full))
    });
    for n in 0..20 {
        bench
            .tree
            .write(&path(&format!("f{n}")), format!("{n}").as_bytes());
    }
    let agent = bench.start(Mode::Forever);
    sleep(Duration::from_secs(30)).await;
    let since = |agent: &Agent| agent.snapshots.borrow().outage.as_ref().map(|on| on.0);
    let began = since(&agent);
    assert!(began.is_some());
    sleep(Duration::from_secs(600)).await;
    assert_eq!(since(&agent), began);
    agent.stop().await;
    let Reason::Store(_) = bench.sync().await.reason else {
        panic!("it is the store's")
    };
}

/// What lies in trash below the prefix.
fn trash(bench: &Bench) -> Vec<Vec<u8>> {
    let prefix = KeyMap::new("p/").trash_prefix();
    let objects = bench.bucket.objects().into_iter();
    let aside = objects.filter(|(key, _)| key.starts_with(&prefix));
    aside.map(|(_, object)| object.bytes.to_vec()).collect()
}

#[tokio::test(start_paused = true)]
async fn what_another_owner_did_meanwhile_is_found_and_set_aside_at_the_next_start() {
    let mut bench = first(line(5), Habits::default());
    bench.tree.write(&path("a.txt"), b"mine");
    bench.tree.write(&path("same"), b"same");
    let mut agent = bench.start(Mode::Forever);
    agent.level().await;
    kill(agent).await;
    let next = second(&bench, line(5));
    next.tree.write(&path("a.txt"), b"theirs");
    next.tree.write(&path("c.txt"), b"theirs too");
    let mut other = next.start(Mode::Forever);
    other.until_uploaded("c.txt").await;
    other.level().await;
    other.stop().await;
    bench.owner = Some(owner("a", 9));
    bench.bucket.reset_counts();
    let mut agent = bench.start(Mode::Forever);
    agent.level().await;
    assert_eq!(bench.object("a.txt").unwrap(), b"mine");
    assert!(trash(&bench).contains(&b"theirs".to_vec()));
    // The lease twice, and the one that differs.
    assert!(bench.bucket.counts().of("PutObject") <= 3);
    bench.tree.write(&path("c.txt"), b"mine now");
    agent.until_uploaded("c.txt").await;
    assert!(trash(&bench).contains(&b"theirs too".to_vec()));
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_gets_its_lease_back_looks_at_everything_again_before_it_is_level() {
    let bench = first(line(5), Habits::default());
    bench.tree.write(&path("a.txt"), b"mine");
    bench.tree.write(&path("b.txt"), b"also mine");
    let mut agent = bench.start(Mode::Forever);
    agent.level().await;
    let mut next = second(&bench, line(5));
    next.owner.as_mut().unwrap().manners = Manners::TakeOver;
    next.tree.write(&path("a.txt"), b"theirs");
    let mut other = next.start(Mode::Forever);
    other.until_uploaded("a.txt").await;
    timeout(
        Duration::from_secs(300),
        agent
            .snapshots
            .wait_for(|snapshot| snapshot.lease.is_some()),
    )
    .await
    .expect("at its next renewal")
    .unwrap();
    bench.bucket.uproot("p/b.txt");
    other.stop().await;
    sleep(Duration::from_secs(10)).await;
    agent.level().await;
    assert_eq!(bench.object("a.txt").unwrap(), b"mine");
    assert_eq!(bench.object("b.txt").unwrap(), b"also mine");
    assert!(trash(&bench).contains(&b"theirs".to_vec()));
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_sync_that_waits_for_another_ends_even_if_its_looks_fail() {
    for (kind, is_denied) in [(ErrorKind::Busy, false), (ErrorKind::Denied, true)] {
        let bench = first(line(5), Habits::default());
        let mut agent = bench.start(Mode::Forever);
        agent.level().await;
        let next = second(&bench, line(5));
        next.tree.write(&path("g"), b"ours");
        next.store.next("GetObject", Fault::Fine);
        next.store.rule(move |operation, key| {
            (operation == "GetObject" && key == LEASE).then_some(Fault::Refused(kind))
        });
        let ending = timeout(Duration::from_secs(80), next.sync()).await;
        let reason = ending.expect("it ends").reason;
        assert_eq!(matches!(reason, Reason::Store(_)), is_denied, "{reason:?}");
        assert_eq!(matches!(reason, Reason::Taken(_)), !is_denied, "{reason:?}");
        agent.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_sync_that_never_got_its_lease_says_so() {
    let bench = first(line(5), Habits::default());
    bench.tree.write(&path("f"), b"content");
    bench.store.rule(|operation, key| {
        (operation == "PutObject" && key != LEASE).then_some(Fault::Refused(ErrorKind::Invalid))
    });
    assert_eq!(bench.sync().await.last.failed, 1);
    bench.store.rule(|operation, key| {
        (operation == "PutObject" && key == LEASE).then_some(Fault::Refused(ErrorKind::Busy))
    });
    let Reason::Store(why) = bench.sync().await.reason else {
        panic!("it is the store's")
    };
    assert!(why.contains("could not hold the lease"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn emptying_the_trash_goes_on_when_the_lease_is_back() {
    let mut bench = first(line(1_000), Habits::default());
    bench.settings.on_delete = OnDelete::Trash;
    let key = FolderKey {
        path: b"/m".to_vec(),
        endpoint: String::new(),
        bucket: "b".into(),
        prefix: "p/".into(),
    };
    let row = bench.manifest.folder(&key, "m").unwrap();
    let due = [Change::Contacted, Change::TrashDue(Some(0))];
    bench.manifest.commit(row.id, &due).unwrap();
    for n in 0..100 {
        let prefix = KeyMap::new("p/").trash_prefix();
        let key = format!("{prefix}2020-01-01T00-00-00.000Z/f{n}");
        bench.bucket.plant(&key, b"old");
    }
    let agent = bench.start(Mode::Forever);
    sleep(Duration::from_secs(15)).await;
    let left = trash(&bench).len();
    assert!(left > 50 && left < 100, "{left}");
    let mut next = second(&bench, line(5));
    next.owner.as_mut().unwrap().manners = Manners::TakeOver;
    let other = next.start(Mode::Forever);
    sleep(Duration::from_secs(40)).await;
    let left = trash(&bench).len();
    assert!(left > 20, "{left}: it has not ended by itself");
    other.stop().await;
    sleep(Duration::from_secs(600)).await;
    assert_eq!(trash(&bench).len(), 0);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_overdue_only_when_the_store_says_nothing_at_all() {
    let hour = Duration::from_secs(3600);
    let overdue = |agent: &Agent| {
        let due = agent.snapshots.borrow().lease_due;
        due.expect("there is a lease") < now()
    };
    // It is renewed when it should be, at work and at rest.
    let bench = first(line(5), Habits::default());
    bench.tree.write(&path("f"), b"content");
    let mut agent = bench.start(Mode::Forever);
    agent.level().await;
    for _ in 0..60 {
        sleep(hour / 60).await;
        assert!(!overdue(&agent));
    }
    // The store refuses everything: that is an answer, and it is asked again and again.
    bench
        .store
        .rule(|_, _| Some(Fault::Refused(ErrorKind::Network)));
    for _ in 0..60 {
        sleep(hour / 60).await;
        assert!(!overdue(&agent));
    }
    assert!(agent.snapshots.borrow().outage.is_some());
    kill(agent).await;

    // Not a word.
    let bench = first(line(24 * 3_600_000), Habits::default());
    let agent = bench.start(Mode::Forever);
    sleep(hour / 60).await;
    assert!(!overdue(&agent));
    sleep(hour / 20).await;
    assert!(overdue(&agent));
    assert!(agent.snapshots.borrow().outage.is_none());
    kill(agent).await;
}
