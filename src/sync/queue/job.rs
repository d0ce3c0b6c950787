//! A path whose time comes, and how its work can end.

use tokio::time::Instant;

use crate::base::clock::Now;
use crate::base::path::RelPath;
use crate::sync::Lane;
use crate::tree::Beginning;
use crate::tree::Touch;

/// A path whose time has come.
#[derive(Clone, PartialEq, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is told by another touch, and asked for by another look"
)]
pub struct Job {
    /// The path.
    pub path: RelPath,
    /// Live, if the watcher has touched it since it was last done.
    pub lane: Lane,
    /// Whether its content may have changed without its stat saying so.
    pub must_read: bool,
    /// When it was first touched since it was last done: the age of the change.
    pub since: Now,
    /// Size in bytes when last looked at; 0 if unknown.
    pub size: u64,
    /// Failures since it was last done.
    pub failures: u32,
    /// How often it was found changing while it was read, since it was last done.
    pub moves: u32,
    /// What it was when it had been waited for long enough, if it has been looked at since.
    pub beginning: Option<Box<Beginning>>,
    /// It is level as far as anybody knows, and is only looked at once more.
    pub is_check: bool,
    /// An event told that it was moved to this name.
    pub moved: bool,
    /// Its file is proven gone, and its object is to go.
    pub remove: bool,
    /// Touches do not bring it forward before that: it failed, or would not rest.
    pub(in crate::sync::queue) not_before: Option<Instant>,
}

impl Job {
    pub(in crate::sync::queue) fn new(path: RelPath, since: Now) -> Self {
        Self {
            path,
            lane: Lane::Backlog,
            must_read: false,
            since,
            size: 0,
            failures: 0,
            moves: 0,
            beginning: None,
            is_check: false,
            moved: false,
            remove: false,
            not_before: None,
        }
    }

    /// Takes what a touch says.
    pub(in crate::sync::queue) fn told(&mut self, touch: Touch) {
        if touch > Touch::Scan {
            self.lane = Lane::Live;
            // Somebody has told of it: that it is gone has to be proven anew.
            self.remove = false;
        }
        self.must_read |= touch >= Touch::Data;
        self.moved |= touch == Touch::Moved;
    }

    /// Returns true for work that is neither waiting because it failed or moved, nor a check: what a scan waits for.
    pub(in crate::sync::queue) fn is_fresh(&self) -> bool {
        self.failures == 0 && self.moves == 0 && !self.is_check
    }
}

/// How a job ended, as far as the queue cares.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// Nothing more to do.
    Done,
    /// It is level, but has to be looked at again at that instant.
    Again(Instant),
    /// Its beginning is level, and it goes on growing: it is looked at again at that instant, and has to be waited for
    /// as long as if it had been touched just now.
    Grows(Instant),
    /// It changed while it was read. What it was then, if that is to be compared at the next try.
    Moving(Option<Beginning>),
    /// It was written to so lately that it has to rest until that instant.
    Fresh(Instant),
    /// It failed.
    Failed,
    /// It failed or moved too often for a run that has to end: it is not tried again.
    GivenUp,
}
