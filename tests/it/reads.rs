//! Reads of files that others write meanwhile: a real folder, the real watcher, a bucket in memory, real time.
//!
//! The numbers are the rows of the list of tests that the watching of a tree has to pass.

mod agent;
mod bench;
mod growing;
mod images;
mod lease;
