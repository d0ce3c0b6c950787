//! Tidewatch watches folders and keeps an S3 bucket level with them.
//!
//! The disk and the bucket are the truth; an event only says "look at this path". What has been seen synced is
//! persisted, never a list of work, so that a restart is a scan plus the keys whose intent is open.
//!
//! ```text
//!  kernel ── watch ──┐ Touched(path)     bounded; full → lost → scan
//!  walk   ── scan  ──┤ differing, missing paths   bounded; full → the walk waits
//!                    ▼
//!  ┌────────────────────────────── agent ─────────────────────────────┐
//!  │ queue.touch(path, now)     … quiet, or touched for max_wait …    │
//!  │ queue.pop_due(now) → intents into the next commit → spawn jobs   │
//!  └─────────────────────────────┬────────────────────────────────────┘
//!                                ▼           one async fn, top to bottom
//!    read (lease, stat, hash, stat) → plan::step → dedupe → put | multipart | copy | delete
//!                                │ Outcome   (a multipart's id and parts go up as messages)
//!  ┌─────────────────────────────▼────────────────────────────────────┐
//!  │ commit(outcomes + next intents) → queue.finish(path, outcome)    │
//!  └──────────────────────────────────────────────────────────────────┘
//! ```
//!
//! A process that stays has several folders: they begin and end as the config says, also as it changes
//! ([`commands::kept`]), and whether they get on is found out from outside ([`commands::watchdog`]).
//!
//! Who looks from outside reads the folders that run from one [`commands::board`]: the socket ([`commands::control`]), the
//! page with its metrics ([`commands::page`]), notifications ([`commands::alarm`]). Every request is counted where it is sent
//! ([`base::meter`]), and so are metrics and the bill made ([`commands::bill`]).
//!
//! A file that is missing takes a longer road before it is a path like any other: two listings, what was known by then
//! worked on first, the brake ([`agent`], `deletes`). What a person decides comes in as an event of the loop too.
//!
//! Whether the rows are true is asked from outside: [`commands::verify`] compares them with the bucket, the files and the
//! objects, beside a running agent, and has the loop send again what is wrong.
//! The first contact with a prefix that is not empty lists it once; what others left there is adopted where its content is
//! proven equal ([`sync::foreign`]), and set aside into trash before its key is written where it is not. `adopt` is that
//! with a plan before it.
//!
//! The modules in reading order: [`base`] has the words everybody uses; [`tree`] is what the disk has, [`store`] the
//! bucket, [`manifest`] what we have seen synced, [`catalog`] the same in the bucket, with its history; [`sync`] is the
//! way of one file; [`agent`] the loop of one folder; [`restore`] is the way back; [`commands`] what the command line runs
//! besides the agent; [`report`] what people see; [`config`] and [`cli`] what
//! they write. `tests/it/tidy.rs` holds who may know whom.

pub mod agent;
pub mod base;
pub mod catalog;
pub mod cli;
pub mod commands;
pub mod config;
pub mod manifest;
pub mod report;
pub mod restore;
pub mod store;
pub mod sync;
pub mod tree;
