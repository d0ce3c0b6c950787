//! How changes get lost, doubled or misplaced: 85 rows, each against a real filesystem, the real watcher and the real
//! agent. Each test ends level, most of them with one new file in every folder, which only a working watch can have seen.
//!
//! Small counts by default; `TIDEWATCH_FULL=1` for the full ones. `tests/watching.sh` runs them and tells which ran.
#![cfg(feature = "demo")]
#![allow(
    clippy::unwrap_used,
    reason = "clippy knows only the functions that are marked as tests"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "these write users' files, which nobody writes durably"
)]

pub mod child;
mod kinds;
mod limits;
mod names;
mod new_folders;
mod overflow;
pub mod place;
mod programs;
mod quiet;
mod reading;
mod renames;
pub mod rig;
mod roots;
pub mod table;
mod writers;
