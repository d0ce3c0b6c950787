//! The table of failures, row by row: each test is named by its row.

mod chain;
mod probe;
mod tls;
mod wire;
