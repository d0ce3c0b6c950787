//! Everything that is tested from outside the modules, in one binary.
#![allow(missing_docs, reason = "tests are named as statements")]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on fails where it stands"
)]

mod support;

mod adopt;
mod agent;
mod asked;
mod audit;
mod bandwidth;
mod catalog;
#[cfg(feature = "demo")]
mod check;
mod clocks;
mod config;
mod corpus;
#[cfg(feature = "demo")]
mod crash;
mod deletes;
mod demo;
mod explain;
mod eyes;
mod faults;
mod features;
mod filter;
mod lease;
#[cfg(feature = "demo")]
mod machine;
mod manifest;
mod matrix;
mod page;
mod process;
mod reads;
#[cfg(feature = "demo")]
mod restore;
mod security;
mod sim;
mod status;
mod store;
mod tidy;
mod tree;
mod verify;
mod watching;
