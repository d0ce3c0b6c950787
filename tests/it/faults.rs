//! The table of failures, row by row: each test is named by its row.

mod chain;
mod tls;
mod wire;
