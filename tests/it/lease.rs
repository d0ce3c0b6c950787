//! Who owns a prefix: agents side by side on one bucket in memory, paused time.

mod late;
mod scenes;
mod storm;
pub mod witness;

use std::time::Duration;

use tidewatch::sync::lease::{Manners, Note, Owner};

use crate::agent::Bench;
use crate::support::faulty::{Faulty, Odds};
use crate::support::mem_store::{Habits, MemStore};

/// Where the lease lies.
const LEASE: &str = "p/.tidewatch/lease.json";

/// Returns an agent of its own state folder; `epoch` is its process.
fn owner(agent: &str, epoch: u32) -> Owner {
    Owner {
        agent: format!("{agent}gent-id"),
        epoch: format!("{agent}{epoch}"),
        host: format!("host-{agent}"),
        pid: epoch,
        manners: Manners::Wait,
    }
}

/// Makes the first agent's folder, and a bucket that tells the time.
fn first(odds: Odds, habits: Habits) -> Bench {
    let mut bench = Bench::with_habits(odds, habits);
    bench.bucket.set_clock(bench.clock);
    bench.owner = Some(owner("a", 1));
    bench
}

/// Makes another agent's folder, which goes to the same place.
fn second(first: &Bench, odds: Odds) -> Bench {
    let mut bench = Bench::new(odds.clone());
    bench.bucket = first.bucket.clone();
    bench.store = Faulty::new(first.bucket.clone(), 2, odds);
    bench.clock = first.clock;
    bench.owner = Some(owner("b", 2));
    bench
}

/// Returns what the lease says.
fn note(bucket: &MemStore) -> Option<Note> {
    let object = bucket.objects().remove(LEASE)?;
    Some(serde_json::from_slice(&object.bytes).expect("a note"))
}

fn line(millis: u64) -> Odds {
    let latency = Duration::from_millis(millis);
    Odds {
        latency: latency..latency,
        ..Odds::default()
    }
}
