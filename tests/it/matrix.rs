//! The fault matrix: 67 faults, each made on this machine, and what has to come of it. A test is called by its row's number.
//!
//! A row that the machine cannot run (no root, no namespace, no strace) is told as not run, never as passed:
//! `tests/watching.sh --told` lists them after a run of the tests.
#![cfg(feature = "demo")]
#![allow(
    clippy::unwrap_used,
    reason = "clippy knows only the functions that are marked as tests"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "these write users' files, which nobody writes durably"
)]

mod answers;
mod changes;
mod kinds;
mod lines;
mod manifest;
mod names;
mod others;
mod process;
mod roots;
pub mod rows;
mod swap;
mod time;
mod watch;

use std::ffi::OsStr;
use std::process::Stdio;

use tokio::process::Command;

use crate::process::World;
use crate::support::results;

/// Returns `count`, or what the environment says in `name`.
pub fn count(name: &str, count: u64) -> u64 {
    let set = std::env::var(name).ok();
    set.map_or(count, |text| text.parse().expect("a number"))
}

/// Makes the command that `wrapper` runs, with the words of `sync` or another of ours behind its own.
pub fn wrapped(world: &World, wrapper: &[&str], name: &str, more: &[&str]) -> Command {
    let ours = world.command(name, more);
    let mut words = wrapper.iter().map(OsStr::new);
    let mut command = Command::new(words.next().expect("a program"));
    command
        .args(words)
        .arg(ours.as_std().get_program())
        .args(ours.as_std().get_args())
        .env_clear()
        .envs(world.endpoint.env())
        .env("HOME", world.dir.path())
        // The wrapper finds what it needs by it.
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .current_dir(world.dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Returns whether strace may trace here.
pub fn has_strace() -> bool {
    let tried = std::process::Command::new("strace")
        .args(["-f", "-o", "/dev/null", "true"])
        .output();
    tried.is_ok_and(|output| output.status.success())
}

/// Notes a figure of the matrix, where the run writes figures down.
pub fn note(row: &str, figure: &str) {
    results::note("Fault matrix", row, figure);
}
