//! The way of one file: from "look at this path" to "the bucket has it", and what all files on that way share.
//!
//! [`file`](mod@file) is the straight function and the only one that names its siblings; the others are parts that can be read and
//! tested alone.

pub mod brake;
pub mod dedupe;
pub mod file;
pub mod foreign;
pub mod going;
pub mod lease;
pub mod limits;
pub mod meta;
pub mod plan;
pub mod queue;
pub mod removals;
pub mod upload;

/// What goes first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Lane {
    /// What the watcher touched and fits one put. A quarter of every limit is kept for it.
    Live,
    /// What a scan found, and every part of a large file.
    Backlog,
}
