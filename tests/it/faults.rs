//! The failure table, a row a test.

mod owners;
