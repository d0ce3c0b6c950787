//! What people ask of a running loop: to let go or to refuse what a brake holds, to accept another root.

use std::collections::BTreeSet;

use tokio::sync::oneshot;

use crate::agent::root::renumbered;
use crate::agent::{Loop, Pending, Then};
use crate::base::clock::Now;
use crate::base::drill::Drill;
use crate::base::path::RelPath;
use crate::base::snapshot::Tried;
use crate::manifest::{Change, Mark, Mend};
use crate::tree::Touch;

/// A request and where its answer goes.
#[derive(Debug)]
pub struct Control {
    /// What is asked.
    pub request: Request,
    /// Answered when it is durable.
    pub answer: oneshot::Sender<Answer>,
}

/// What can be asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// Lets everything go that the brakes hold.
    Release,
    /// Refuses everything that the brakes hold.
    Drop,
    /// Takes the root as it is for the right one.
    AcceptRoot,
    /// Tries again what failed for good.
    RetryFailed,
    /// Sends these files again: their objects are not what the rows say.
    Mend(Vec<Mend>),
    /// Has the catalog told how a restore drill went.
    Drilled(Box<Drill>),
    /// Keeps how `tidewatch verify` went.
    Verified(Tried),
}

/// How it went: how many paths it was about, or why it did not work.
pub type Answer = Result<u64, String>;

/// Rows that are to be believed no more, of one request.
pub(super) struct Mending {
    /// Those whose turn has not come.
    waiting: Vec<Mend>,
    count: u64,
    answer: oneshot::Sender<Answer>,
}

impl Mending {
    pub fn new(waiting: Vec<Mend>, answer: oneshot::Sender<Answer>) -> Self {
        Self {
            waiting,
            count: 0,
            answer,
        }
    }
}

/// The most paths that one release looks at again at once; what is beyond is found by the scan that follows.
const AT_ONCE: usize = 50_000;

impl Loop {
    pub(super) fn asked(&mut self, asked: Control, now: Now) {
        let Control { request, answer } = asked;
        let result = match request {
            Request::Release => self.decide(Change::Release, now),
            Request::Drop => self.decide(Change::DropHeld, now),
            Request::AcceptRoot => self.accept_root(now),
            Request::RetryFailed => {
                self.unpark();
                Ok((Vec::new(), self.failing.len() as u64))
            }
            Request::Drilled(drill) => {
                let mark = Mark::Drilled(Tried {
                    at_ns: now.wall_ns,
                    ok: drill.ok,
                });
                self.teller.marked(mark);
                Ok((vec![Change::Drilled(drill), Change::Mark(mark)], 1))
            }
            Request::Verified(last) => {
                let mark = Mark::Verified(last);
                self.teller.marked(mark);
                Ok((vec![Change::Mark(mark)], 1))
            }
            Request::Mend(mends) => {
                self.mends.push(Mending::new(mends, answer));
                return;
            }
        };
        match result {
            Ok((changes, count)) => {
                self.pending.push_back(Pending {
                    changes,
                    then: Then::Decided(answer, count),
                });
            }
            // An asker that has gone away needs no answer.
            Err(why) => drop(answer.send(Err(why))),
        }
    }

    /// Takes what is to be mended, but for paths whose job runs: it would write its row over that.
    ///
    /// What is taken is committed by a turn that looks at nothing, as it would look at the rows of before.
    pub(super) fn take_mends(&mut self) {
        for mut mending in std::mem::take(&mut self.mends) {
            let (busy, free) = std::mem::take(&mut mending.waiting)
                .into_iter()
                .partition(|mend| self.queue.is_running(&mend.path));
            mending.waiting = busy;
            if free.is_empty() && !mending.waiting.is_empty() {
                self.mends.push(mending);
                continue;
            }
            mending.count += free.len() as u64;
            let paths = free.iter().map(|mend: &Mend| mend.path.clone()).collect();
            let changes = free.into_iter().map(|mend| Change::Mend(Box::new(mend)));
            self.pending.push_back(Pending {
                changes: changes.collect(),
                then: Then::Mended(Box::new(mending), paths),
            });
        }
    }

    /// Rows are believed no more, durably: their files are looked at. The others of the same request have their turn.
    pub(super) fn mended(&mut self, mending: Mending, paths: Vec<RelPath>, now: Now) {
        for path in paths {
            if !self.queue.touch(path, Touch::Scan, 0, now) {
                self.scans.lost(now);
            }
        }
        if mending.waiting.is_empty() {
            // An asker that has gone away needs no answer.
            drop(mending.answer.send(Ok(mending.count)));
        } else {
            self.mends.push(mending);
        }
    }

    /// Writes a person's decision about everything that is held.
    fn decide(&mut self, change: Change, now: Now) -> Result<(Vec<Change>, u64), String> {
        let rows = self
            .ctx
            .manifest
            .held(self.ctx.folder, &RelPath::root(), AT_ONCE);
        let rows = rows.map_err(|error| error.to_string())?;
        let is_waiting = |row: &&crate::manifest::Entry| {
            row.held.as_ref().is_some_and(|held| held.what.is_waiting())
        };
        let paths: BTreeSet<RelPath> = rows
            .iter()
            .filter(is_waiting)
            .map(|row| row.path.clone())
            .collect();
        let count = self.deletes.held.all().max(paths.len() as u64);
        if change == Change::Release {
            self.released(paths, now);
        }
        self.deletes.held_is_stale = true;
        // Deletes need their proof anew; the scan also finds what is beyond the first of them.
        self.scans.lost(now);
        Ok((vec![change], count))
    }

    /// Takes the root as it is for the right one.
    fn accept_root(&mut self, now: Now) -> Result<(Vec<Change>, u64), String> {
        let identity = self
            .ctx
            .tree
            .identity()
            .map_err(|error| error.to_string())?;
        let renumbered = self.root.and_then(|was| renumbered(was, identity));
        let mounts = self.ctx.tree.mounts().unwrap_or_default();
        self.root = Some(identity);
        self.mounts = mounts.iter().cloned().collect();
        self.scans.look_now(now);
        let changes = renumbered
            .into_iter()
            .chain([Change::Root(identity), Change::Mounts(mounts)]);
        Ok((changes.collect(), 1))
    }
}
