//! What the runs did, counted, so that a clean result can be judged by how much there was to go wrong.

use std::fmt;
use std::ops::AddAssign;

/// Counts of one run, or of many.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// Runs.
    pub seeds: u64,
    /// Changes of the tree.
    pub changes: u64,
    /// Requests that were asked for.
    pub requests: u64,
    /// Those of them that put or copied an object.
    pub puts: u64,
    /// Agents that were killed.
    pub crashes: u64,
    /// Requests that went wrong.
    pub faults: u64,
    /// Removals of files' objects; each was judged, and a wrong one ends the run.
    pub deletes: u64,
    /// States that were lost or put back from an old copy.
    pub losses: u64,
    /// Times that another agent wanted the same prefix.
    pub rivals: u64,
    /// Times that the clock was set.
    pub jumps: u64,
    /// Trees that were brought back and compared.
    pub restores: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.seeds += other.seeds;
        self.changes += other.changes;
        self.requests += other.requests;
        self.puts += other.puts;
        self.crashes += other.crashes;
        self.faults += other.faults;
        self.deletes += other.deletes;
        self.losses += other.losses;
        self.rivals += other.rivals;
        self.jumps += other.jumps;
        self.restores += other.restores;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            seeds,
            changes,
            requests,
            puts,
            crashes,
            faults,
            deletes,
            losses,
            rivals,
            jumps,
            restores,
        } = self;
        write!(
            f,
            "{seeds} seeds: {changes} changes of the tree, {requests} requests, {puts} of them puts, {crashes} crashes, \
             {faults} faults injected, {deletes} deletes judged, {losses} states lost or rolled back, {rivals} visits of \
             another agent, {jumps} clock jumps, {restores} restores compared"
        )
    }
}
