//! A machine whose clock is set while keys are in doubt: nothing is believed early, and nothing is waited for for days.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tidewatch::agent::Mode;
use tidewatch::base::clock::Clock;
use tokio::time::sleep;

use crate::agent::{Agent, Bench, path, slow};
use crate::support::faulty::Fault;

const HOUR_NS: i64 = 3_600_000_000_000;
const MINUTE: Duration = Duration::from_secs(60);

/// A folder on a machine whose clock can be set, and the setting.
struct Rig {
    bench: Bench,
    ahead_ns: &'static AtomicI64,
    time: Clock,
}

impl Rig {
    fn new() -> Self {
        let mut bench = Bench::new(slow(5));
        let time = bench.clock;
        // Clocks are copied everywhere.
        let ahead_ns: &'static AtomicI64 = Box::leak(Box::default());
        if let Clock::Virtual { since, wall_ns } = time {
            bench.clock = Clock::Set {
                since,
                wall_ns,
                ahead_ns,
            };
        }
        Self {
            bench,
            ahead_ns,
            time,
        }
    }

    /// What is on its way minds no machine's clock.
    fn start(&self) -> Agent {
        let agent = self.bench.start(Mode::Forever);
        self.bench.store.set_clock(self.time);
        agent
    }

    fn set(&self, ahead_ns: i64) {
        self.ahead_ns.store(ahead_ns, Ordering::Relaxed);
    }

    /// Lets a put of `f` with other bytes than it has then be on its way for ten minutes.
    async fn in_doubt(&self) -> Agent {
        self.bench.tree.write(&path("f"), b"old");
        let late = Fault::Late(10 * MINUTE);
        self.bench.store.next("PutObject", late);
        let mut agent = self.start();
        let failed = agent.snapshots.wait_for(|snapshot| snapshot.failed == 1);
        drop(failed.await.unwrap());
        self.bench.tree.write(&path("f"), b"new");
        agent.until_uploaded("f").await;
        doubted(&mut agent).await;
        agent
    }

    /// Ten minutes are over, and the late request has landed.
    async fn landed(&self) {
        sleep(10 * MINUTE).await;
        self.bench.store.tick().await;
        assert_eq!(self.bench.object("f").unwrap(), b"old", "it has landed");
    }
}

async fn doubted(agent: &mut Agent) {
    let doubted = agent.snapshots.wait_for(|snapshot| snapshot.ambiguous == 1);
    drop(doubted.await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_ahead_ends_no_horizon_early() {
    let rig = Rig::new();
    let agent = rig.in_doubt().await;
    rig.set(HOUR_NS);
    // Something to look at the row for.
    rig.bench.tree.chmod(&path("f"), 0o600);
    sleep(MINUTE).await;
    assert_eq!(
        agent.snapshots.borrow().ambiguous,
        1,
        "it is still in doubt"
    );
    rig.landed().await;
    sleep(6 * MINUTE).await;
    assert_eq!(rig.bench.object("f").unwrap(), b"new");
    assert_eq!(agent.snapshots.borrow().ambiguous, 0);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_ahead_between_two_runs_ends_no_horizon_early() {
    let rig = Rig::new();
    rig.in_doubt().await.stop().await;
    rig.set(HOUR_NS);
    rig.bench.tree.chmod(&path("f"), 0o600);
    let mut agent = rig.start();
    doubted(&mut agent).await;
    sleep(MINUTE).await;
    assert_eq!(
        agent.snapshots.borrow().ambiguous,
        1,
        "it is still in doubt"
    );
    rig.landed().await;
    sleep(6 * MINUTE).await;
    assert_eq!(rig.bench.object("f").unwrap(), b"new");
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_that_began_before_the_clock_was_set_ahead_leaves_a_horizon_that_lasts() {
    let rig = Rig::new();
    let late = Fault::Late(10 * MINUTE);
    rig.bench.tree.write(&path("f"), b"old");
    rig.bench.store.next("PutObject", late);
    let mut agent = rig.start();
    let failed = agent.snapshots.wait_for(|snapshot| snapshot.failed == 1);
    drop(failed.await.unwrap());
    rig.bench.tree.write(&path("f"), b"new");
    // While the second put is on its way, which remembers the first.
    let before = rig.bench.store.asked("PutObject", "p/f");
    while rig.bench.store.asked("PutObject", "p/f") == before {
        sleep(Duration::from_millis(1)).await;
    }
    rig.set(HOUR_NS);
    doubted(&mut agent).await;
    rig.bench.tree.chmod(&path("f"), 0o600);
    sleep(MINUTE).await;
    assert_eq!(
        agent.snapshots.borrow().ambiguous,
        1,
        "it is still in doubt"
    );
    rig.landed().await;
    sleep(30 * MINUTE).await;
    assert_eq!(rig.bench.object("f").unwrap(), b"new");
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_back_keeps_nothing_in_doubt_for_days() {
    let rig = Rig::new();
    let agent = rig.in_doubt().await;
    rig.set(-48 * HOUR_NS);
    rig.landed().await;
    sleep(6 * MINUTE).await;
    assert_eq!(rig.bench.object("f").unwrap(), b"new");
    assert_eq!(agent.snapshots.borrow().ambiguous, 0);
    agent.stop().await;
    rig.set(0);
    let again = rig.start();
    sleep(MINUTE).await;
    assert!(again.snapshots.borrow().level);
    again.stop().await;
}
