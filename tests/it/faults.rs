//! The table of failures, row by row: each test has its row's number.

mod agent;
mod outage;
mod rows;
