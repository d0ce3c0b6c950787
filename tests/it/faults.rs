//! The table of failures, row by row: each test has its row's number.

mod agent;
#[cfg(feature = "demo")]
mod large;
mod outage;
mod rows;
