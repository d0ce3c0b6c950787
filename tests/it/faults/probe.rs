//! The last two rows: stores that are less than they say.

use std::time::Duration;

use tidewatch::agent::{Mode, Reason};
use tidewatch::base::policy::{Guarding, OnDelete};
use tidewatch::manifest::Manifest;
use tidewatch::store::features::Features;
use tidewatch::store::{ErrorKind, Store};
use tokio::time::sleep;

use crate::agent::{Bench, path, slow};
use crate::store::probe::probed;
use crate::support::faulty::{Fault, Faulty, Odds};
use crate::support::mem_store::Habits;

const HOUR: Duration = Duration::from_secs(60 * 60);

/// A folder whose bucket has these habits, and has been asked.
async fn bench(habits: Habits) -> Bench {
    let bench = Bench::with_habits(slow(20), habits);
    let found = probed(&bench.bucket).await.expect("a probe");
    bench.bucket.learn(found);
    assert!(bench.bucket.objects().is_empty());
    bench.bucket.reset_counts();
    bench
}

#[tokio::test(start_paused = true)]
async fn f35_a_store_that_ignores_conditions_is_known_for_it() {
    let bench = bench(Habits {
        ignores_conditions: true,
        ignores_copy_conditions: true,
        ..Habits::default()
    })
    .await;
    let features = bench.bucket.features();
    assert!(features.is_known && features.copy && features.multipart);
    assert!(!features.put_if_absent && !features.put_if_match && !features.complete_if);
    assert_eq!(features.delete_if_match, Some(false));
    assert!(!features.copy_if_match);
    // It is served all the same.
    for n in 0..6 {
        bench
            .tree
            .write(&path(&format!("f{n}")), format!("{}", n / 2).as_bytes());
    }
    let ended = bench.sync().await;
    assert!(ended.last.level, "{:?}", ended.last);
    assert_eq!(bench.object("f5").as_deref(), Some(&b"2"[..]));
}

#[tokio::test(start_paused = true)]
async fn f36_a_store_that_loses_metadata_lists_oddly_and_changes_keys_is_known_for_it_and_left_in_peace()
 {
    let habits = Habits {
        drops_metadata: true,
        lists_oddly: true,
        composes_keys: true,
        ..Habits::default()
    };
    let mut bench = bench(habits).await;
    let features = bench.bucket.features();
    assert!(!features.metadata && !features.is_ordered && !features.exact_keys);

    let names = [
        "a\u{308}.txt",
        "B",
        "b",
        "a-b",
        "a/b",
        "a0",
        "deep/a\u{308}/B",
    ];
    for name in names {
        bench.tree.write(&path(name), name.as_bytes());
    }
    let mut agent = bench.start(Mode::Forever);
    agent.level().await;
    assert_eq!(bench.bucket.counts().of("PutObject"), names.len() as u64);
    bench.bucket.reset_counts();
    // Many scans later nothing has been sent again.
    sleep(HOUR * 12).await;
    agent.level().await;
    assert_eq!(
        bench.bucket.counts().total(),
        0,
        "{:?}",
        bench.bucket.counts()
    );
    assert_eq!(agent.stop().await.reason, Reason::Stopped(true));

    // Nor after the state is lost: what is listed under another name is sent once more, and then there is peace.
    bench.manifest = Manifest::in_memory().expect("a manifest");
    let ended = bench.sync().await;
    assert!(ended.last.level, "{:?}", ended.last);
    for name in names {
        let seen = bench.bucket.get(&format!("p/{name}"), None).await;
        assert_eq!(&*seen.expect("it is there").1, name.as_bytes());
    }
    let puts = bench.bucket.counts().of("PutObject");
    assert!(puts <= names.len() as u64, "{puts}");
    bench.bucket.reset_counts();
    assert!(bench.sync().await.last.level);
    assert_eq!(bench.bucket.counts().total(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_does_not_copy_is_not_asked_to() {
    let refuses = Habits {
        refuses_copies: true,
        ..Habits::default()
    };
    let bench = bench(refuses).await;
    for n in 0..5 {
        bench.tree.write(&path(&format!("f{n}")), b"the same bytes");
    }
    assert!(bench.sync().await.last.level);
    let counts = bench.bucket.counts();
    assert_eq!((counts.of("CopyObject"), counts.of("PutObject")), (0, 5));

    // One that nobody has asked may well copy.
    let unknown = Bench::with_habits(slow(20), Habits::default());
    unknown.bucket.learn(Features::default());
    for n in 0..5 {
        unknown
            .tree
            .write(&path(&format!("f{n}")), b"the same bytes");
    }
    assert!(unknown.sync().await.last.level);
    let counts = unknown.bucket.counts();
    assert_eq!((counts.of("CopyObject"), counts.of("PutObject")), (4, 1));
}

#[tokio::test(start_paused = true)]
async fn what_was_not_found_out_for_want_of_a_right_is_not_believed_when_it_is_granted() {
    let mut bench = Bench::new(Odds::default());
    let line = Faulty::new(bench.bucket.clone(), 1, Odds::default());
    line.rule(|operation, _| {
        (operation == "DeleteObject").then_some(Fault::Refused(ErrorKind::Denied))
    });
    let found = probed(&line).await.expect("a probe");
    assert_eq!(found.delete_if_match, None);
    assert!(found.put_if_match);
    bench.bucket.learn(found);
    bench.settings.guard = Guarding::Strict;
    bench.settings.on_delete = OnDelete::Delete;
    bench.tree.write(&path("a"), b"a");
    bench.tree.write(&path("b"), b"b");
    assert!(bench.sync().await.last.level, "nothing is to be removed");
    bench.tree.remove(&path("a"));
    let ended = bench.sync().await;
    assert_eq!(
        (ended.last.failed, bench.bucket.counts().of("DeleteObject")),
        (1, 0)
    );
    bench.bucket.learn(Features::ALL);
    assert!(bench.sync().await.last.level);
    assert_eq!(bench.object("a"), None);
}
