//! Turns and the jobs that they start.

use std::time::Duration;

use tokio::time::Instant;

use crate::agent::setting::is_of_clock;
use crate::agent::turn::{Turned, Work};
use crate::agent::weigh::Weigh;
use crate::agent::{JOBS_AHEAD, Loop, Pending, Said, Then};
use crate::base::clock::Now;
use crate::manifest::{Change, ErrorKind};
use crate::sync::Lane;
use crate::sync::file::{self, Aim, Message};
use crate::sync::queue::{self, End};
use crate::tree::Touch;

/// How often it is looked whether the manifest is still there, where nothing is written.
const MANIFEST_LOOK: Duration = Duration::from_secs(30);

/// How writing the manifest goes.
pub(super) struct Writing {
    /// Failures since it last worked.
    pub failures: u32,
    /// Its file is not there any more, which does not pass: the next start makes it anew.
    pub is_gone: bool,
    /// When it is looked at next, if nothing is written before.
    pub look: Instant,
}

impl Writing {
    pub fn new(now: Now) -> Self {
        Self {
            failures: 0,
            is_gone: false,
            look: now.mono,
        }
    }
}

impl Loop {
    /// Begins a turn, if none is under way and there is anything to commit or to start.
    pub(super) fn start_turn(&mut self, now: Now) {
        if !self.turns.is_empty() || self.turn_not_before.is_some_and(|at| now.mono < at) {
            return;
        }
        self.take_mends();
        let is_mending = |item: &Pending| matches!(item.then, Then::Mended(..));
        let is_first = |item: &Pending| is_mending(item) || is_of_clock(item);
        let due = if self.pending.iter().any(is_first) {
            Vec::new()
        } else {
            self.take_due(now)
        };
        let weigh = if self.stopping.is_some() || self.pending.iter().any(is_of_clock) {
            Weigh::default()
        } else {
            self.take_missing(now)
        };
        if due.is_empty()
            && self.pending.is_empty()
            && weigh.paths.is_empty()
            && !self.deletes.held_is_stale
            && now.mono < self.writing.look
        {
            return;
        }
        self.writing.look = now.mono + MANIFEST_LOOK;
        let pending: Vec<Pending> = self.pending.drain(..).collect();
        let count_held = std::mem::take(&mut self.deletes.held_is_stale);
        let work = Work {
            due,
            pending,
            weigh,
            root: self.root,
            count_held,
            knows_names: self.had_rows || self.scans.is_done_once(),
            now,
            set: self.set,
        };
        let turner = self.turner.clone();
        let work = self.ctx.offload.run(move || turner.run(work));
        self.turns.spawn(work);
    }

    /// Returns true while a commit or a job is under way, or due.
    pub(super) fn has_work_in_hand(&self) -> bool {
        !self.turns.is_empty() || !self.jobs.is_empty() || !self.pending.is_empty()
    }

    fn take_due(&mut self, now: Now) -> Vec<queue::Job> {
        let is_away = !self.is_root_there();
        if self.stopping.is_some()
            || self.is_paused()
            || is_away
            || !self.contact.is_done()
            || !self.lease.is_held(now)
            || self.teller.is_behind()
        {
            return Vec::new();
        }
        if self.outage.calm_until(now).is_some() {
            return Vec::new();
        }
        if self.outage.is_on() {
            if self.outage.is_full() {
                // What takes something away helps.
                let removals = self.queue.pop_removals(now, self.room(Lane::Backlog));
                if !removals.is_empty() {
                    return removals;
                }
            }
            // One at a time, to see whether the store is back.
            if !self.outage.may_try(now) {
                return Vec::new();
            }
            let live = self.queue.pop_due(now, 1, 0);
            let trial = if live.is_empty() {
                self.queue.pop_due(now, 0, 1)
            } else {
                live
            };
            if let Some(job) = trial.first() {
                self.outage.tries(job.path.clone());
            }
            return trial;
        }
        let (live, backlog) = (self.room(Lane::Live), self.room(Lane::Backlog));
        let due = self.queue.pop_due(now, live, backlog);
        self.without_denied(due, now)
    }

    /// Returns how many more jobs of a lane may run. Waiting for memory and requests happens inside them; this only bounds
    /// their number, so that one lane never takes the other's places.
    pub(super) fn room(&self, lane: Lane) -> usize {
        let most = self.ctx.limits.concurrency() + JOBS_AHEAD;
        (most as usize).saturating_sub(self.queue.running(lane))
    }

    pub(super) fn turned(&mut self, turned: Turned, now: Now) {
        let Turned {
            looked,
            pending,
            weighed,
            also,
            held,
            result,
        } = turned;
        self.catalog.logged(*result.as_ref().unwrap_or(&0), now);
        if let Err(error) = result {
            self.deletes.turn_failed();
            self.writing.failures += 1;
            self.writing.is_gone |= error.kind() == ErrorKind::Gone;
            let pause = Duration::from_secs(1 << self.writing.failures.min(5));
            self.turn_not_before = Some(now.mono + pause);
            self.teller
                .manifest_failed(&error.to_string(), self.writing.failures);
            for (job, _) in looked {
                self.outage.ended(&job.path, now);
                self.queue
                    .finish(&job.path, End::Failed, now, &mut self.random);
            }
            // In front of what came meanwhile: rows are written in the order in which things happened.
            for item in pending.into_iter().rev() {
                self.pending.push_front(item);
            }
            self.answer_askers(now);
            return;
        }
        if self.writing.failures > 0 {
            self.writing.failures = 0;
            self.teller.manifest_works();
        }
        self.turn_not_before = None;
        for Pending { changes, then } in pending {
            // This turn, and a scan that began before it, have seen what is let go as still held.
            if changes.contains(&Change::Release) {
                self.scans.lost(now);
            }
            match then {
                Then::Nothing => {}
                Then::Finish(done) => self.finished(*done, now),
                // An asker that has gone away needs no answer.
                Then::Answer(noted) => drop(noted.send(())),
                Then::Decided(answer, count) => drop(answer.send(Ok(Said::Count(count)))),
                Then::Mended(mending, paths) => self.mended(*mending, paths, now),
                Then::Contacted => self.has_contact(),
                Then::Unparked => self.unparked(now),
            }
        }
        if let Some(held) = held {
            self.deletes.held = held;
        }
        self.weighed(weighed, now);
        for path in also {
            if !self.queue.touch(path, Touch::Meta, 0, now) {
                self.scans.lost(now);
            }
        }
        for (job, seen) in looked {
            self.looked(&job, seen, now);
        }
        self.answer_askers(now);
    }

    /// Spawns a job; its intent is durable.
    pub(super) fn start_job(&mut self, task: file::Task) {
        let ctx = self.ctx.clone();
        let size = match task.aim {
            Aim::Remove { .. } => 0,
            Aim::Store | Aim::Rename { .. } => task.stat.size,
        };
        self.queue.started(&task.job.path, size);
        self.jobs.spawn(async move {
            let to_loop = ctx.to_loop.clone();
            let done = file::sync(ctx, task).await;
            // The loop outlives its jobs; if it does not, nobody is left to tell.
            let _ = to_loop.send(Message::Done(Box::new(done))).await;
        });
    }
}
