//! What an audit finds, and what becomes of that.

use std::time::Duration;

use tidewatch::agent::Mode;
use tidewatch::base::snapshot::What;
use tidewatch::store::ErrorKind;
use tokio::time::sleep;

use crate::agent::{Agent, Bench, path};
use crate::support::faulty::{Fault, Odds};
use crate::support::mem_store::Habits;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A folder whose bucket is compared every day.
fn bench(habits: Habits) -> Bench {
    let mut bench = Bench::with_habits(Odds::default(), habits);
    bench.settings.audit = Some(DAY);
    bench
}

/// Starts with these files level.
async fn level_with(bench: &Bench, names: &[&str]) -> Agent {
    for name in names {
        bench.tree.write(&path(name), name.as_bytes());
    }
    let mut agent = bench.start(Mode::Forever);
    for name in names {
        agent.until_uploaded(name).await;
    }
    agent.level().await;
    agent
}

#[tokio::test(start_paused = true)]
async fn a_bucket_that_is_as_it_was_left_costs_one_listing_an_audit() {
    let bench = bench(Habits::default());
    let agent = level_with(&bench, &["a", "b/c", "odd\u{1}name"]).await;
    bench.bucket.reset_counts();
    sleep(3 * DAY + DAY / 2).await;
    let counts = bench.bucket.counts();
    assert_eq!(
        (counts.of("ListObjectsV2"), counts.of("HeadObject")),
        (3, 0)
    );
    assert_eq!(counts.of("PutObject"), 0);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_others_removed_or_changed_is_sent_again_and_theirs_is_set_aside() {
    for is_ordered in [true, false] {
        let bench = bench(Habits {
            lists_oddly: !is_ordered,
            ..Habits::default()
        });
        let names = ["a", "b", "c", "odd\u{1}name", "z"];
        let agent = level_with(&bench, &names).await;
        let key = |name: &str| {
            tidewatch::store::key::KeyMap::new("p/")
                .key(&path(name))
                .unwrap()
        };
        bench.bucket.uproot(&key("a"));
        bench.bucket.uproot(&key("odd\u{1}name"));
        bench.bucket.plant(&key("b"), b"theirs");
        bench.bucket.plant("p/extra", b"nobody's");
        sleep(DAY + DAY / 2).await;
        let objects = bench.bucket.objects();
        for name in names {
            assert_eq!(&objects[&key(name)].bytes[..], name.as_bytes(), "{name}");
        }
        let aside = |(key, object): (&String, _)| {
            let object: &crate::support::mem_store::MemObject = object;
            key.contains(".tidewatch/trash/") && &object.bytes[..] == b"theirs"
        };
        assert!(objects.iter().any(aside), "{:?}", objects.keys());
        assert!(objects.contains_key("p/extra"), "nobody's is left alone");
        let ended = agent.stop().await;
        assert!(ended.last.level);
    }
}

#[tokio::test(start_paused = true)]
async fn an_object_that_is_wrong_each_time_is_not_sent_for_ever() {
    let bench = bench(Habits::default());
    let mut agent = level_with(&bench, &["a", "b"]).await;
    for day in 1..=4 {
        bench
            .bucket
            .plant("p/a", format!("theirs {day}").as_bytes());
        bench.bucket.reset_counts();
        sleep(DAY).await;
        let sent = u64::from(day == 1);
        assert_eq!(bench.bucket.counts().of("PutObject"), sent, "day {day}");
    }
    let last = agent.snapshots.borrow().clone();
    assert_eq!((last.failed, last.level), (1, false));
    let mut why = String::new();
    while let Ok(happening) = agent.happenings.try_recv() {
        if happening.what == What::Failed {
            why = happening.error.unwrap_or_default();
        }
    }
    assert!(why.starts_with("its object was wrong again"), "{why}");
    // That is known to the next start, too.
    agent.stop().await;
    let mut agent = bench.start(Mode::Forever);
    sleep(DAY / 2).await;
    assert_eq!(agent.snapshots.borrow().failed, 1);
    // A change of the file is sent as ever.
    bench.tree.write(&path("a"), b"new");
    agent.until_uploaded("a").await;
    agent.level().await;
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_audit_is_due_by_the_time_since_the_last_one_however_often_the_agent_starts() {
    let bench = bench(Habits::default());
    level_with(&bench, &["a"]).await.stop().await;
    bench.bucket.uproot("p/a");
    for _ in 0..3 {
        let agent = bench.start(Mode::Forever);
        sleep(DAY * 2 / 5).await;
        agent.stop().await;
    }
    assert_eq!(bench.object("a").as_deref(), Some(&b"a"[..]));
}

#[tokio::test(start_paused = true)]
async fn an_audit_that_cannot_be_made_changes_nothing_and_is_tried_again() {
    let bench = bench(Habits::default());
    let agent = level_with(&bench, &["a"]).await;
    bench.bucket.uproot("p/a");
    bench.store.rule(|operation, _| {
        let fails = operation == "ListObjectsV2";
        fails.then_some(Fault::Refused(ErrorKind::Denied))
    });
    sleep(DAY + DAY / 2).await;
    assert_eq!(bench.object("a"), None);
    bench.store.rule(|_, _| None);
    sleep(DAY).await;
    assert_eq!(bench.object("a").as_deref(), Some(&b"a"[..]));
    agent.stop().await;
}
