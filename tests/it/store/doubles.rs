//! What the simulator stands on: that the bad line is as bad as it is told, and repeats.

use std::time::Duration;

use bytes::Bytes;
use tidewatch::base::clock::Clock;
use tidewatch::store::{Body, Effect, ErrorKind, Meta, Store, Which};

use crate::support::faulty::{Fault, Faulty, Odds};
use crate::support::mem_store::{Habits, MemStore};

fn body(bytes: &'static [u8]) -> Body {
    Body::of(Bytes::from_static(bytes))
}

fn line(odds: Odds) -> (MemStore, Faulty<MemStore>) {
    let store = MemStore::default();
    (store.clone(), Faulty::new(store, 1, odds))
}

fn content(store: &MemStore, key: &str) -> Option<Vec<u8>> {
    store.objects().get(key).map(|object| object.bytes.to_vec())
}

#[tokio::test(start_paused = true)]
async fn a_refused_request_had_no_effect_and_a_lost_one_had_it() {
    let (store, line) = line(Odds::default());
    line.next("PutObject", Fault::Refused(ErrorKind::Busy));
    line.next("PutObject", Fault::Lost);
    let meta = Meta::default();
    let error = line.put("a", body(b"1"), &meta).await.expect_err("refused");
    assert_eq!((error.kind, error.effect), (ErrorKind::Busy, Effect::None));
    assert_eq!(store.counts().total(), 0);
    let error = line.put("a", body(b"1"), &meta).await.expect_err("lost");
    let told = (error.kind, error.effect);
    assert_eq!(told, (ErrorKind::Network, Effect::Possible));
    assert_eq!(content(&store, "a"), Some(b"1".to_vec()));
    line.next("HeadObject", Fault::Lost);
    let error = line.head("a").await.expect_err("lost");
    assert_eq!(error.effect, Effect::None, "a look changes nothing");
    assert!(line.head("a").await.is_ok());
    assert_eq!(line.faults(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_late_put_lands_over_what_came_after_it() {
    let (store, line) = line(Odds::default());
    let meta = Meta::default();
    line.next("PutObject", Fault::Late(Duration::from_secs(30)));
    let error = line.put("a", body(b"old"), &meta).await.expect_err("late");
    assert_eq!(error.effect, Effect::Possible);
    line.put("a", body(b"new"), &meta).await.expect("a put");
    tokio::time::sleep(Duration::from_secs(29)).await;
    line.tick().await;
    assert_eq!(content(&store, "a"), Some(b"new".to_vec()));
    tokio::time::sleep(Duration::from_secs(1)).await;
    // Any request lands what is due before itself.
    let (object, _) = line.get("a", None).await.expect("a get");
    assert_eq!(
        (object.size, content(&store, "a")),
        (3, Some(b"old".to_vec()))
    );
    assert_eq!(line.pending(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_late_lands_in_the_order_of_its_time() {
    let (store, line) = line(Odds::default());
    let meta = Meta::default();
    for (seconds, bytes) in [(9, &b"last"[..]), (3, b"first"), (3, b"second")] {
        line.next("PutObject", Fault::Late(Duration::from_secs(seconds)));
        line.put("a", body(bytes), &meta).await.expect_err("late");
    }
    tokio::time::sleep(Duration::from_secs(4)).await;
    line.tick().await;
    assert_eq!(content(&store, "a"), Some(b"second".to_vec()));
    line.next("DeleteObject", Fault::Late(Duration::from_secs(1)));
    line.delete("a").await.expect_err("late");
    line.settle().await;
    assert_eq!(
        content(&store, "a"),
        Some(b"last".to_vec()),
        "the delete came before"
    );
}

/// What a hundred puts on a bad line meet, and what is left of them.
async fn storm(
    seed: u64,
) -> (
    Vec<Option<(ErrorKind, Effect)>>,
    usize,
    tokio::time::Duration,
) {
    let odds = Odds {
        refused: 0.2,
        lost: 0.2,
        late: 0.2,
        latest: Duration::from_secs(5),
        latency: Duration::from_millis(1)..Duration::from_millis(100),
        ..Odds::default()
    };
    let line = Faulty::new(MemStore::default(), seed, odds);
    let began = tidewatch::base::clock::Clock::Real.now().mono;
    let meta = Meta::default();
    let mut met = Vec::new();
    for number in 0..100 {
        let key = number.to_string();
        let put = line.put(&key, body(b"x"), &meta).await;
        met.push(put.err().map(|error| (error.kind, error.effect)));
    }
    line.calm();
    line.settle().await;
    assert!(line.put("calm", body(b"x"), &Meta::default()).await.is_ok());
    line.storm();
    let passed = tidewatch::base::clock::Clock::Real.now().mono - began;
    (met, line.inner().objects().len(), passed)
}

#[tokio::test(start_paused = true)]
async fn a_seed_repeats() {
    let first = storm(7).await;
    assert_eq!(storm(7).await, first);
    assert_ne!(storm(8).await.0, first.0);
    let refused = |met: &Option<(ErrorKind, Effect)>| matches!(met, Some((_, Effect::None)));
    let lost = first.0.iter().filter(|met| refused(met)).count();
    assert!((10..=30).contains(&lost), "{lost} of 100 refused");
    // Whatever was not refused is there, and the calm one.
    assert_eq!(first.1, 101 - lost);
}

#[tokio::test]
async fn a_bucket_that_keeps_versions_gives_each_back() {
    let store = MemStore::default();
    store.keep_versions();
    let put = async |text: &'static [u8]| {
        let body = Body::of(Bytes::from_static(text));
        let stored = store.put("k", body, &Meta::default()).await;
        stored.expect("a put").version_id.expect("a version")
    };
    let (old, new) = (put(b"old").await, put(b"new").await);
    let read = async |id: &str| {
        let which = Which::Version(id.to_owned());
        store
            .get_of("k", &which, None)
            .await
            .map(|(_, bytes)| bytes)
    };
    store.uproot("k");
    assert_eq!(&*read(&old).await.expect("the old one"), b"old");
    assert_eq!(&*read(&new).await.expect("the new one"), b"new");
    let error = read("none").await.expect_err("there is none");
    assert_eq!(error.kind, ErrorKind::NotFound);
}

#[tokio::test]
async fn the_store_in_memory_can_be_changed_behind_the_agents_back() {
    let store = MemStore::default();
    store.plant("theirs", b"bytes");
    let (object, bytes) = store.get("theirs", None).await.expect("a get");
    assert_eq!((&*bytes, object.user), (&b"bytes"[..], Vec::new()));
    assert_eq!(store.counts().bytes_out, 5);
    store.reset_counts();
    store.uproot("theirs");
    assert!(store.objects().is_empty());
    assert_eq!(store.counts().total(), 0);

    let store = MemStore::with_habits(Habits {
        refuses_copies: true,
        ..Habits::default()
    });
    store.plant("a", b"bytes");
    let etag = store.head("a").await.expect("a head").etag;
    let error = store
        .copy("a", &etag, "b", &Meta::default())
        .await
        .expect_err("refused");
    assert_eq!(
        (error.kind, error.effect),
        (ErrorKind::Unsupported, Effect::None)
    );
}

#[tokio::test(start_paused = true)]
async fn a_store_with_a_clock_tells_how_old_an_object_is() {
    let store = MemStore::default();
    let since = Clock::Real.now().mono;
    store.set_clock(Clock::Virtual {
        since,
        wall_ns: 1_800_000_000_000_000_000,
    });
    store
        .put("a", body(b"a"), &Meta::default())
        .await
        .expect("a put");
    tokio::time::sleep(Duration::from_secs(90)).await;
    let seen = store.head("a").await.expect("a head");
    let age_ns = seen
        .date_ns
        .zip(seen.modified_ns)
        .map(|(date, modified)| date - modified);
    assert_eq!(age_ns, Some(90_000_000_000));
}
