//! What a body goes out through: the seam between the store, which sends, and whoever says how fast.

use std::fmt;
use std::task::{Context, Poll};

/// Says how fast bodies go out. One body may be sent several times, each time through a flow of its own.
pub trait Tap: fmt::Debug + Send + Sync + 'static {
    /// Begins an attempt to send the body.
    fn open(&self) -> Box<dyn Flow>;

    /// An attempt ended because the store asked for patience, and another one follows.
    fn throttled(&self) {}
}

/// One attempt to send a body. Dropping it gives up its place in line.
pub trait Flow: Send + Sync + 'static {
    /// Asks for leave to hand `wanted` bytes out, at least one; ready with how many of them may go now, at least one.
    /// While it is pending the task is woken when it may be asked again. `wanted` may differ from one poll to the next.
    fn poll_take(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<usize>;
}
