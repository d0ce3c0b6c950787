//! The table of failures, row by row: each test has its row's number.

mod agent;
mod chain;
#[cfg(feature = "demo")]
mod large;
mod outage;
mod owners;
mod probe;
mod rows;
pub mod tls;
mod wire;
