//! What a crash and a power cut leave: the real binary is ended at any instant, and after it tree, bucket and manifest are
//! compared entirely.
//!
//! - `kills`: SIGKILL at random instants under load. `TIDEWATCH_KILLS=3000` for the long form.
//! - `points`: SIGKILL at each named place. Needs the feature `failpoints`; `tests/crash.sh` builds with it.
//! - `requests`: SIGKILL at each kind of request, which every build can.
//! - `older`: SIGKILL while a manifest of an older version is led on.
//! - `calls`: SIGKILL at each system call on the state folder. `TIDEWATCH_CALLS=all` for every one of them.
//! - `power`: the state folder as a power cut may leave it, from recorded system calls. `TIDEWATCH_POWER_IMAGES=5000`.
//! - `soak`: a run through random faults. `TIDEWATCH_SOAK_SECONDS=1800`.
//!
//! What cannot be tried here says so on stderr. `$TIDEWATCH_SEED` begins other runs than the usual ones.
#![cfg(feature = "demo")]
#![allow(
    clippy::unwrap_used,
    reason = "clippy knows only the functions that are marked as tests"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "these write users' files, which nobody writes durably"
)]

mod calls;
mod disk;
mod kills;
mod ledger;
mod older;
mod points;
mod power;
mod requests;
mod rig;
mod soak;
mod trace;

use crate::support::results;

/// Returns a count from the environment.
fn count(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |text| text.parse().expect("a count"))
}

/// Notes a figure; runs that begin at another seed have rows of their own.
fn note(section: &str, row: &str, figure: &str) {
    let row = match std::env::var("TIDEWATCH_SEED") {
        Ok(seed) => format!("{row}, seeds from {seed}"),
        Err(_) => row.to_owned(),
    };
    results::note(section, &row, figure);
}

/// Says what cannot be tried here, and why.
#[expect(clippy::print_stderr, reason = "it is for whoever runs the tests")]
fn not_run(what: &str, why: &str) {
    eprintln!("NOT RUN: {what}: {why}");
}

fn has(program: &str) -> bool {
    let mut command = std::process::Command::new(program);
    command.arg("-V").output().is_ok()
}
