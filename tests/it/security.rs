//! The measures of security, S1 to S24: each with a test that is called by its number.
#![cfg(feature = "demo")]
#![allow(
    clippy::unwrap_used,
    reason = "clippy knows only the functions that are marked as tests"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "these write users' files, which nobody writes durably"
)]

mod fence;
mod line;
mod outside;
mod secrets;
mod source;
mod words;

use crate::matrix::rows::numbers;
use crate::support::results;

/// The measures, from 1.
pub const ROWS: [&str; 24] = [
    "files are opened beneath the root, through no link",
    "hard links to files of others are left out",
    "what is no file is not opened, what is too large is left out",
    "mounts inside the tree",
    "no control character reaches a log, a status or a terminal",
    "everything has a bound",
    "secrets that are swept into the bucket",
    "secrets in arguments, environments, logs, status and core files",
    "others' rights to state and config",
    "who may ask and control",
    "TLS",
    "false success",
    "redirects and other endpoints",
    "hostile keys on restore",
    "answers without an end",
    "a bucket that the agent's key cannot destroy",
    "a mass of deletes waits for a person",
    "privilege",
    "memory safety",
    "temporary files",
    "logs and metrics as a leak",
    "dependencies",
    "updates and builds",
    "a crash as a leak",
];

#[test]
fn every_measure_of_security_has_its_test() {
    let found = numbers('s');
    let missing: Vec<_> = (1..=ROWS.len())
        .filter(|number| !found.contains(number))
        .map(|number| format!("s{number:02}: {}", ROWS[number - 1]))
        .collect();
    assert!(
        missing.is_empty(),
        "without a test:\n{}",
        missing.join("\n")
    );
    assert!(found.iter().all(|number| (1..=ROWS.len()).contains(number)));
    let figure = format!("{} of {}", found.len(), ROWS.len());
    results::note("Security", "measures with a test", &figure);
}
