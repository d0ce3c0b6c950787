//! Two agents and one prefix through crashes, bad lines and long naps: no change is ever sent by one that does not own it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tidewatch::agent::{Mode, Settings};
use tidewatch::base::policy::OnDelete;
use tokio::time::sleep;

use crate::agent::{Bench, path};
use crate::lease::witness::{Found, Witness};
use crate::lease::{first, note, owner, second};
use crate::support::faulty::Odds;
use crate::support::mem_store::Habits;

/// How many storms there are, unless `TIDEWATCH_LEASE_SEEDS` says so.
const SEEDS: u64 = 60;

fn odds(random: &mut fastrand::Rng) -> Odds {
    Odds {
        refused: random.f64() * 0.3,
        lost: random.f64() * 0.15,
        late: random.f64() * 0.1,
        latest: Duration::from_secs(random.u64(1..800)),
        latency: Duration::from_millis(1)..Duration::from_millis(random.u64(2..4_000)),
        ..Odds::default()
    }
}

/// Lets one agent live and die again and again.
async fn life(mut bench: Bench, name: &str, seed: u64, found: Found, changes: Arc<Mutex<u64>>) {
    let mut random = fastrand::Rng::with_seed(seed);
    for epoch in 0..random.u32(2..6) {
        // Taken over from a living owner, that one cannot know before its next renewal: not here.
        let owner = owner(name, epoch);
        let witness = Witness {
            inner: Arc::new(bench.store.clone()),
            bucket: bench.bucket.clone(),
            epoch: owner.epoch.clone(),
            found: found.clone(),
            changes: changes.clone(),
        };
        bench.owner = Some(owner);
        let agent = bench.start_before(Mode::Forever, Arc::new(witness));
        for _ in 0..random.u32(1..8) {
            sleep(Duration::from_millis(random.u64(1..120_000))).await;
            for _ in 0..random.u32(..4) {
                let at = path(["a", "b", "c/d", "c/e"][random.usize(..4)]);
                match random.u8(..4) {
                    0 => bench.tree.remove(&at),
                    _ => bench.tree.write(&at, &[b'x'; 6][..random.usize(1..6)]),
                }
            }
        }
        if random.bool() {
            agent.task.abort();
            assert!(agent.task.await.unwrap_err().is_cancelled());
        } else {
            agent.stop().await;
        }
        sleep(Duration::from_millis(random.u64(1..700_000))).await;
    }
    // The last life is a calm one.
    bench.store.calm();
}

/// Returns what was seen, and how many changes were sent.
fn storm(seed: u64) -> (Vec<String>, u64) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let mut random = fastrand::Rng::with_seed(seed);
        let settings = Settings {
            rescan: Duration::from_secs(60),
            on_delete: [OnDelete::Keep, OnDelete::Trash, OnDelete::Delete][random.usize(..3)],
            ..Settings::default()
        };
        let mut one = first(odds(&mut random), Habits::default());
        let mut two = second(&one, odds(&mut random));
        (one.settings, two.settings) = (settings, settings);
        let (found, changes) = (Found::default(), Arc::<Mutex<u64>>::default());
        let bucket = one.bucket.clone();
        tokio::join!(
            life(one, "a", random.u64(..), found.clone(), changes.clone()),
            life(two, "b", random.u64(..), found.clone(), changes.clone()),
        );
        assert!(note(&bucket).is_some(), "somebody owned it");
        let found = found.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let changes = *changes.lock().unwrap_or_else(PoisonError::into_inner);
        (found, changes)
    })
}

#[test]
fn no_change_is_ever_sent_by_an_agent_that_does_not_own_the_prefix() {
    let seeds = std::env::var("TIDEWATCH_LEASE_SEEDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(SEEDS);
    let mut sent = 0;
    for seed in 1..=seeds {
        let (found, changes) = storm(seed);
        assert_eq!(found, Vec::<String>::new(), "seed {seed}");
        sent += changes;
    }
    assert!(sent > seeds * 5, "only {sent} changes in {seeds} storms");
}

#[tokio::test(start_paused = true)]
async fn the_witness_sees_an_agent_that_asks_for_no_lease() {
    let mut bench = first(Odds::default(), Habits::default());
    let (found, changes) = (Found::default(), Arc::<Mutex<u64>>::default());
    let witness = Witness {
        inner: Arc::new(bench.store.clone()),
        bucket: bench.bucket.clone(),
        epoch: "a1".to_owned(),
        found: found.clone(),
        changes,
    };
    bench.owner = None;
    bench.tree.write(&path("f"), b"content");
    let mut agent = bench.start_before(Mode::Forever, Arc::new(witness));
    agent.level().await;
    agent.stop().await;
    assert_eq!(found.lock().unwrap().len(), 2, "the file and the catalog");
}
