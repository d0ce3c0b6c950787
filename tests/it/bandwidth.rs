//! How much happens at once, in paused time: live before backlog on a line that is full, and as many requests as an endpoint
//! takes.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidewatch::agent::{Mode, Reason};
use tidewatch::base::clock::Clock;
use tidewatch::store::{Body, Meta, Store as _};
use tidewatch::sync::Lane;
use tidewatch::sync::limits::{Limits, Verdict};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::agent::{Bench, SETTLE, passed, path, slow};
use crate::support::faulty::{Faulty, Odds};
use crate::support::mem_store::MemStore;

const MIB: usize = 1 << 20;

/// A line of 40 ms on which each connection takes 1 MiB a second.
fn narrow() -> Odds {
    Odds {
        speed: Some(MIB as u64),
        ..slow(40)
    }
}

/// Returns bytes that no other call returns.
fn content(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

/// Saves a document again and again while large files go up; each time it has to be there within its settle time and two
/// seconds.
async fn documents_overtake(limits: Limits) {
    let bench = Bench {
        limits: Arc::new(limits),
        ..Bench::new(narrow())
    };
    for n in 0..3 {
        let large = content(n, 40 * MIB);
        bench.tree.write(&path(&format!("bulk-{n}")), &large);
    }
    let mut agent = bench.start(Mode::Forever);
    let has_begun = async {
        while bench.bucket.counts().of("UploadPart") == 0 {
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(Duration::from_secs(600), has_begun)
        .await
        .expect("the bulk begins");
    for n in 0..5 {
        let name = format!("document-{n}");
        bench.tree.write(&path(&name), &content(100 + n, 4 << 10));
        let took = agent.until_uploaded(&name).await;
        assert!(took < SETTLE + Duration::from_secs(2), "{name}: {took:?}");
        sleep(Duration::from_millis(700)).await;
    }
    let left = bench.bucket.counts().of("CompleteMultipartUpload");
    assert!(left < 3, "the bulk was not even there any more");
    agent.level().await;
    let large = bench.object("bulk-2").expect("an object");
    assert!(large == content(2, 40 * MIB), "what came is what was there");
    assert_eq!(agent.stop().await.reason, Reason::Stopped(true));
}

fn per_second(bytes: usize) -> Option<NonZeroU64> {
    NonZeroU64::new(bytes as u64)
}

#[tokio::test(start_paused = true)]
async fn a_document_overtakes_large_files() {
    documents_overtake(Limits::new(None, 128 << 20)).await;
}

#[tokio::test(start_paused = true)]
async fn a_document_overtakes_large_files_on_a_limited_line_with_the_least_memory() {
    let limits = Limits::new(None, 32 << 20);
    limits.set_bandwidth(per_second(MIB));
    documents_overtake(limits).await;
}

#[tokio::test(start_paused = true)]
async fn a_limit_holds_for_all_folders_and_endpoints_together() {
    let one = Limits::new(None, 128 << 20);
    one.set_bandwidth(per_second(MIB));
    let other = one.beside();
    let benches = [one, other].map(|limits| Bench {
        limits: Arc::new(limits),
        ..Bench::new(slow(40))
    });
    for (n, bench) in (0..).zip(&benches) {
        for file in 0..4 {
            let name = path(&format!("file-{file}"));
            bench.tree.write(&name, &content(n * 10 + file, 2 * MIB));
        }
        bench.tree.write(&path("large"), &content(n + 50, 20 * MIB));
    }
    let began = Clock::Real.now().mono;
    let (first, second) = tokio::join!(benches[0].sync(), benches[1].sync());
    assert!(first.last.level && second.last.level);
    // 56 MiB at 1 MiB a second, and a settle time or so.
    let took = passed(began).as_secs_f64();
    assert!((55.0..62.0).contains(&took), "{took} s");
}

#[tokio::test(start_paused = true)]
async fn a_very_slow_limit_breaks_nothing() {
    let limits = Limits::new(None, 32 << 20);
    limits.set_bandwidth(per_second(1 << 10));
    let bench = Bench {
        limits: Arc::new(limits),
        ..Bench::new(slow(40))
    };
    // Each takes longer than `sync` waits in silence, and all together an hour.
    for n in 0..10 {
        let file = content(n, 360 << 10);
        bench.tree.write(&path(&format!("file-{n}")), &file);
    }
    let began = Clock::Real.now().mono;
    let task = bench.start(Mode::Once {
        timeout: Duration::from_secs(120),
    });
    let ended = timeout(Duration::from_secs(7200), task.task).await;
    let ended = ended.expect("it ends").unwrap();
    assert!(ended.last.level, "{:?}", ended.last);
    assert_eq!(bench.store.faults(), 0);
    let took = passed(began).as_secs();
    assert!((3590..3700).contains(&took), "{took} s");
}

/// Many who send small objects as long as they are not dropped, one request each time there is a place for it.
fn senders(limits: &Arc<Limits>, store: &Faulty<MemStore>) -> JoinSet<()> {
    let mut senders = JoinSet::new();
    for n in 0..400 {
        let (limits, store) = (limits.clone(), store.clone());
        senders.spawn(async move {
            let body = Body::of(Bytes::from(format!("sender {n}")));
            loop {
                let permit = limits.request(Lane::Backlog).await;
                let began = Clock::Real.now().mono;
                limits.began(began);
                let answer = store.put("k", body.clone(), &Meta::default()).await;
                drop(permit);
                let verdict = Verdict::of(&answer, 10);
                limits.ended(verdict, began, Clock::Real.now().mono);
                if answer.is_err() {
                    sleep(Duration::from_millis(500)).await;
                }
            }
        });
    }
    senders
}

#[tokio::test(start_paused = true)]
async fn requests_follow_what_the_endpoint_takes_down_and_up_again() {
    let store = Faulty::new(MemStore::default(), 1, slow(50));
    let limits = Arc::new(Limits::new(None, 32 << 20));
    let senders = senders(&limits, &store);
    sleep(Duration::from_secs(20)).await;
    assert_eq!(limits.concurrency(), 256, "nothing holds it back");

    store.crowd(Some(40));
    sleep(Duration::from_secs(30)).await;
    store.most_at_once();
    let throttled = store.throttled();
    let answered = store.inner().counts().of("PutObject");
    sleep(Duration::from_secs(60)).await;
    let most = store.most_at_once();
    assert!(
        (20..60).contains(&most),
        "{most} at once where 40 are taken"
    );
    // It goes on trying, which costs less than one request in a hundred.
    let refused = store.throttled() - throttled;
    let requests = store.inner().counts().of("PutObject") - answered;
    assert!(
        refused > 0 && refused * 100 < requests,
        "{refused} of {requests} refused"
    );

    store.crowd(None);
    sleep(Duration::from_secs(60)).await;
    let now = limits.concurrency();
    assert!(now > 200, "{now} a minute after the throttling ended");
    drop(senders);
}

#[tokio::test(start_paused = true)]
async fn requests_are_halved_where_answers_stay_away() {
    let store = Faulty::new(MemStore::default(), 1, slow(50));
    let limits = Arc::new(Limits::new(None, 32 << 20));
    let working = senders(&limits, &store);
    sleep(Duration::from_secs(5)).await;
    assert_eq!(limits.concurrency(), 256);
    drop(working);
    let odds = |lost| Odds { lost, ..slow(50) };
    // One in a hundred means nothing, one in five does.
    let quiet = Faulty::new(MemStore::default(), 1, odds(0.01));
    let working = senders(&limits, &quiet);
    sleep(Duration::from_secs(5)).await;
    assert_eq!(limits.concurrency(), 256);
    drop(working);
    let bad = Faulty::new(MemStore::default(), 1, odds(0.2));
    let working = senders(&limits, &bad);
    sleep(Duration::from_secs(15)).await;
    assert!(limits.concurrency() <= 8, "{}", limits.concurrency());
    drop(working);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_throttles_holds_no_other_back() {
    let slowed = Faulty::new(
        MemStore::default(),
        1,
        Odds {
            crowd: Some(8),
            ..slow(50)
        },
    );
    let free = Faulty::new(MemStore::default(), 1, slow(50));
    let one = Arc::new(Limits::new(None, 32 << 20));
    let other = Arc::new(one.beside());
    let both = (senders(&one, &slowed), senders(&other, &free));
    sleep(Duration::from_secs(15)).await;
    assert!(one.concurrency() < 16, "{}", one.concurrency());
    assert_eq!(other.concurrency(), 256);
    drop(both);
}

#[tokio::test(start_paused = true)]
async fn a_folder_comes_level_on_an_endpoint_that_throttles() {
    let bench = Bench {
        limits: Arc::new(Limits::new(None, 128 << 20)),
        ..Bench::new(Odds {
            crowd: Some(6),
            ..slow(50)
        })
    };
    for n in 0..1_000 {
        let name = path(&format!("file-{n}"));
        bench.tree.write(&name, format!("content {n}").as_bytes());
    }
    let ended = bench.sync().await;
    assert!(ended.last.level, "{:?}", ended.last);
    assert!(bench.store.throttled() > 0);
    let requests = bench.limits.concurrency();
    assert!(requests < 16, "{requests} requests at once");
}
