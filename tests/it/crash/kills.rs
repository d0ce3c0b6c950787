//! SIGKILL at random instants, while files are written and requests are on their way; some of them while the agent is still
//! starting, again and again.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use tokio::process::Child;

use crate::crash::rig::Rig;
use crate::crash::{count, note};
use crate::process::send;
use crate::support::endpoint::Fault;
use crate::watching::table::row;

/// How many kills one folder, one bucket and one manifest go through.
const KILLS_EACH: u64 = 150;

/// How long a process may take to get as far as it is to be killed at.
const PATIENCE: Duration = Duration::from_secs(5);

/// When a process is killed.
#[derive(Clone, Copy)]
enum When {
    /// That long after its start.
    After(Duration),
    /// At its request of that number.
    AtRequest(u64),
}

#[derive(Default)]
struct Tally {
    kills: u64,
    early: u64,
    levels: u64,
    restored: usize,
    removals: u64,
}

/// How many folders are tried side by side, where there are many kills to come.
const LANES: u64 = 2;

#[tokio::test]
async fn r01_kills_at_any_moment_lose_nothing_and_delete_nothing() {
    let _row = row!();
    let wanted = count("TIDEWATCH_KILLS", 12);
    let seed = count("TIDEWATCH_SEED", 1);
    let tally = RefCell::new(Tally::default());
    if wanted < KILLS_EACH {
        campaign(seed, wanted, &tally).await;
        tally.borrow().tell();
    } else {
        // While one waits for a process the other has the processor.
        tokio::join!(lane(seed, wanted, &tally), lane(seed + 1, wanted, &tally));
    }
    assert!(tally.borrow().kills >= wanted);
}

/// How many starts in a row are killed before they have put anything right.
const STARTS: u64 = 12;

#[tokio::test]
async fn r04_kills_while_it_starts_again_and_again_let_it_get_through_in_the_end() {
    let _row = row!();
    let mut rig = Rig::new(count("TIDEWATCH_SEED", 1)).await;
    let requests = Arc::new(AtomicU64::new(0));
    slow_down(&rig, &requests);
    let mut tally = Tally::default();
    // Something is on its way, and has to be put right.
    for when in [When::AtRequest(4), When::AtRequest(3)] {
        for _ in 0..8 {
            rig.change();
        }
        let before = tally.kills;
        kill_at(&mut rig, &requests, &mut tally, "sync", when).await;
        assert_eq!(tally.kills, before + 1, "it had ended before");
    }
    for _ in 0..STARTS {
        let time = Duration::from_millis(rig.random.u64(5..50));
        kill_at(&mut rig, &requests, &mut tally, "sync", When::After(time)).await;
    }
    assert!(tally.early > STARTS / 2, "only {} were killed", tally.early);
    rig.level().await;
    rig.removals();
}

async fn lane(mut seed: u64, wanted: u64, tally: &RefCell<Tally>) {
    while tally.borrow().kills < wanted {
        campaign(seed, KILLS_EACH, tally).await;
        seed += LANES;
        tally.borrow().tell();
    }
}

impl Tally {
    fn tell(&self) {
        let Self {
            kills,
            early,
            levels,
            restored,
            removals,
        } = self;
        let section = "Crash";
        let lost = format!(
            "{kills} kills, {early} of them within 50 ms of a start; compared {levels} times; nothing lost"
        );
        note(section, "kill -9 at random moments under load", &lost);
        let files = format!("{restored} files, byte for byte, with mode and time");
        note(section, "restored after the kills", &files);
        let wrong = format!("0 of {removals} removals");
        note(section, "wrongful deletes in the kills", &wrong);
    }
}

/// One folder from its first sync to its restore, through so many kills.
async fn campaign(seed: u64, kills: u64, tally: &RefCell<Tally>) {
    let mut rig = Rig::new(seed).await;
    let requests = Arc::new(AtomicU64::new(0));
    slow_down(&rig, &requests);
    for _ in 0..12 {
        rig.change();
    }
    let mut own = Tally::default();
    while own.kills < kills {
        for _ in 0..rig.random.u32(1..5) {
            kill_once(&mut rig, &requests, &mut own).await;
            if own.kills == kills {
                break;
            }
        }
        rig.level().await;
        own.levels += 1;
        rig.world.endpoint.reset_counts();
    }
    own.restored += rig.restored().await;
    own.removals += rig.removals();
    let mut tally = tally.borrow_mut();
    tally.kills += own.kills;
    tally.early += own.early;
    tally.levels += own.levels;
    tally.restored += own.restored;
    tally.removals += own.removals;
}

/// Counts requests, and lets some of them take a while.
fn slow_down(rig: &Rig, requests: &Arc<AtomicU64>) {
    let requests = Arc::clone(requests);
    let mut random = fastrand::Rng::with_seed(rig.seed ^ 0x5eed);
    rig.world.endpoint.meet_catalog();
    rig.world.endpoint.script(move |_| {
        requests.fetch_add(1, Ordering::Relaxed);
        let delay = Duration::from_millis(random.u64(1..25));
        (random.u8(..4) == 0).then_some(Fault::Delay(delay))
    });
}

/// Starts the agent, changes files, and kills it, unless it has ended before.
async fn kill_once(rig: &mut Rig, requests: &Arc<AtomicU64>, tally: &mut Tally) {
    for _ in 0..rig.random.u32(1..8) {
        rig.change();
    }
    let (command, when) = match rig.random.u8(..10) {
        0..3 => (
            "sync",
            When::After(Duration::from_millis(rig.random.u64(5..50))),
        ),
        3..4 => (
            "watch",
            When::After(Duration::from_millis(rig.random.u64(50..400))),
        ),
        4..6 => ("watch", When::AtRequest(rig.random.u64(2..40))),
        _ => ("sync", When::AtRequest(rig.random.u64(2..25))),
    };
    kill_at(rig, requests, tally, command, when).await;
}

/// Starts the agent and kills it then, unless it has ended before.
async fn kill_at(
    rig: &mut Rig,
    requests: &Arc<AtomicU64>,
    tally: &mut Tally,
    command: &str,
    when: When,
) {
    let before = requests.load(Ordering::Relaxed);
    let mut child = rig.world.command(command, &rig.args).spawn().unwrap();
    let waiting = async {
        match when {
            When::After(time) => tokio::time::sleep(time).await,
            When::AtRequest(number) => {
                let mut waits = 0_u32;
                while requests.load(Ordering::Relaxed) < before + number && is_alive(&mut child) {
                    // Nobody tells of a request or of an end but by being asked.
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    waits += 1;
                    if waits.is_multiple_of(20) {
                        rig.change();
                    }
                }
                // Somewhere between this request and what follows it.
                let wait = Duration::from_micros(rig.random.u64(..4_000));
                tokio::time::sleep(wait).await;
            }
        }
    };
    // A watch that has nothing more to send is killed idle.
    let _ = tokio::time::timeout(PATIENCE, waiting).await;
    if is_alive(&mut child) {
        send(&child, Signal::KILL);
    }
    let status = child.wait().await.unwrap();
    let is_killed = std::os::unix::process::ExitStatusExt::signal(&status) == Some(9);
    tally.kills += u64::from(is_killed);
    let is_early = matches!(when, When::After(time) if time < Duration::from_millis(50));
    tally.early += u64::from(is_killed && is_early);
}

fn is_alive(child: &mut Child) -> bool {
    matches!(child.try_wait(), Ok(None))
}
