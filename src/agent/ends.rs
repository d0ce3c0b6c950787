//! What a look or a job found, taken in: the queue, the tally, the scans that follow from it. Its row is durable.

use std::time::Duration;

use crate::agent::Loop;
use crate::agent::turn::{AFTER_RACE, Seen};
use crate::base::clock::Now;
use crate::base::path::RelPath;
use crate::base::policy::OnDelete;
use crate::base::snapshot::What;
use crate::base::stat::Kind;
use crate::manifest::Entry;
use crate::sync::file::{self, Aim, Done, Failed, How, Outcome, Task};
use crate::sync::queue::{End, Job};
use crate::tree::scan::Depth;
use crate::tree::{Beginning, Touch};

/// What is said of a file of which only the beginning was sent.
const ONLY_ITS_BEGINNING: &str =
    "it is written to without rest; what was sent is its beginning at an instant";

impl Loop {
    /// Takes what a look found; what it changed is durable.
    pub(super) fn looked(&mut self, job: &Job, seen: Seen, now: Now) {
        let path = job.path.clone();
        tracing::trace!(%path, ?seen, "looked at");
        self.deletes.held_is_stale |= self.deletes.held.all() > 0;
        if job.failures > 0 {
            self.teller.retries();
        }
        let removes = matches!(&seen, Seen::Task(task) if matches!(task.aim, Aim::Remove { .. }));
        if !removes {
            // It is there again, or its absence has to be proven anew.
            self.deletes.is_not_going(&path);
        }
        match seen {
            // It stays among those that wait to be tried: tried again at once it would be found the same for ever.
            Seen::Unreadable(_) | Seen::Fresh(_) => self.outage.ended(&path, now),
            _ => self
                .outage
                .looked(&path, matches!(seen, Seen::Task(_)), now),
        }
        let end = match seen {
            Seen::Task(task) => {
                let task = self.with_care(*task);
                return self.start_job(task);
            }
            Seen::Level => {
                self.tally().unchanged += 1;
                self.is_well(&path);
                self.deletes.is_back(&path);
                End::Done
            }
            Seen::Gone {
                kind,
                ambiguous_until_ns,
                look_in,
            } => {
                if let Some(folder) = look_in {
                    self.scans.want(folder, Depth::NewFolders, now);
                }
                self.gone(&path, kind, ambiguous_until_ns, now)
            }
            // It goes on failing, without being tried.
            Seen::Parked => End::Done,
            Seen::Held | Seen::Excluded => {
                self.is_well(&path);
                End::Done
            }
            Seen::NoKey(why) => {
                self.cannot_sync(&path, &why);
                End::Done
            }
            Seen::Fresh(left) => match self.moving(job, None, now) {
                End::Moving(_) => End::Fresh(now.mono + left),
                other => other,
            },
            Seen::Unreadable(error) => {
                let failed = Failed {
                    error: file::read_error(&error),
                    kind: None,
                    is_everyones: false,
                    is_parked: false,
                    is_alarm: false,
                    retry_after: None,
                };
                self.failed(job, failed, now)
            }
        };
        if end != End::Failed {
            self.janitor.is_settled(&path, now);
        }
        self.queue.finish(&path, end, now, &mut self.random);
    }

    /// Takes the end of a job; its row is durable.
    pub(super) fn finished(&mut self, done: Done, now: Now) {
        let Done {
            path,
            outcome,
            sources,
            first,
            size,
            set_aside,
            key,
            job,
            ..
        } = done;
        tracing::trace!(%path, ?outcome, "a job has ended");
        self.deletes.held_is_stale |= self.deletes.held.all() > 0;
        for source in sources {
            self.queue.release_source(&source);
        }
        self.outage.ended(&path, now);
        self.tally().set_aside += u64::from(set_aside);
        let (mut is_stored, mut is_back) = (false, false);
        let end = match outcome {
            Outcome::Synced {
                how,
                ambiguous_until_ns,
                racy,
                is_beginning,
            } => {
                is_stored = true;
                self.may_overwrite.remove(&path);
                self.allowed(&path);
                self.synced(&path, key, how, size, now);
                let end = self.after_success(&path, ambiguous_until_ns, racy, now);
                self.names_beginning(&path, is_beginning, end)
            }
            Outcome::Gone {
                kind,
                ambiguous_until_ns,
            } => {
                if self.settings.on_delete != OnDelete::Keep {
                    let folder = path.parent().unwrap_or_else(RelPath::root);
                    self.scans.want(folder, Depth::NewFolders, now);
                }
                self.gone(&path, kind, ambiguous_until_ns, now)
            }
            Outcome::Deleted { ambiguous_until_ns } => {
                self.deleted(&path, key, size, now);
                self.look_again(&path, ambiguous_until_ns, now)
            }
            Outcome::Back => {
                self.deletes.is_back(&path);
                is_back = true;
                End::Done
            }
            Outcome::Foreign => {
                self.deletes.is_back(&path);
                tracing::warn!(folder = %self.teller.name(), %path, "the file is gone, but the object under its key was written by somebody else: it stays");
                End::Done
            }
            Outcome::Held => {
                self.is_well(&path);
                self.deletes.held_is_stale = true;
                self.teller.tell(What::Held, &path, Some(key), 0, None);
                End::Done
            }
            Outcome::Theirs => {
                self.cannot_sync(&path, file::THEIRS);
                End::Done
            }
            Outcome::Moving { beginning } => self.moving(&job, beginning, now),
            // It stays in the queue, as what is not done yet.
            Outcome::Stopped => End::Failed,
            Outcome::Failed(failed) => {
                let end = self.failed(&job, failed, now);
                if job.remove {
                    self.not_removed(&path, end, now)
                } else {
                    end
                }
            }
        };
        if end != End::Failed {
            self.janitor.is_settled(&path, now);
        }
        self.queue.finish(&path, end, now, &mut self.random);
        if is_back {
            self.queue.touch(path.clone(), Touch::Scan, 0, now);
        }
        // Last: who waits for this content asks at once whether its source is at rest.
        if let Some(first) = first.filter(|_| is_stored) {
            first.stored(&path);
        }
    }

    /// A file that is taken for a renamed one must not have been written to under its former name. Where its own stamps
    /// cannot say so (a rename sets the ctime), events have to have told both halves of the move, from that name to this
    /// one, and none may have been lost: it may have had another name, and another content, in between.
    fn with_care(&mut self, mut task: Task) -> Task {
        if let Aim::Rename { from, .. } = &task.aim
            && ((!is_unchanged(from, &task)
                && (self.scans.is_blind() || !self.queue.has(&from.path)))
                || self.queue.was_written(&from.path))
        {
            task.aim = Aim::Store;
        }
        if !matches!(task.aim, Aim::Remove { .. }) {
            self.deletes.is_back(&task.job.path);
        }
        task
    }

    fn deleted(&mut self, path: &RelPath, key: String, size: u64, now: Now) {
        self.is_well(path);
        self.deletes.is_back(path);
        if self.outage.is_full() {
            // That makes room, but perhaps not enough.
            self.outage.try_now(now);
        } else {
            self.store_works(now);
        }
        self.ctx
            .moved
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.tally().deleted += 1;
        tracing::debug!(folder = %self.teller.name(), %path, "Deleted");
        self.teller.tell(What::Deleted, path, Some(key), size, None);
    }

    fn synced(&mut self, path: &RelPath, key: String, how: How, size: u64, now: Now) {
        if how != How::Noted {
            self.store_works(now);
            self.ctx
                .moved
                .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
        let what = match how {
            How::Uploaded => {
                self.tally().uploaded += 1;
                self.tally().bytes += size;
                What::Uploaded
            }
            How::Copied => {
                self.tally().copied += 1;
                What::Copied
            }
            How::Noted => {
                self.tally().unchanged += 1;
                What::Noted
            }
            How::Adopted(proof) => {
                let tally = self.tally();
                tally.unchanged += 1;
                tally.adopted.count(proof);
                tally.adopted_bytes += size;
                What::Adopted
            }
        };
        tracing::debug!(folder = %self.teller.name(), %path, size, "{what:?}");
        self.teller.tell(what, path, Some(key), size, None);
    }

    fn after_success(
        &mut self,
        path: &RelPath,
        ambiguous_until_ns: i64,
        racy: bool,
        now: Now,
    ) -> End {
        let again = self.look_again(path, ambiguous_until_ns, now);
        if self.mode != crate::agent::Mode::Forever {
            // A run that ends does not wait; the row says what the next one has to look at.
            return End::Done;
        }
        if racy {
            return End::Again(now.mono + AFTER_RACE);
        }
        again
    }

    /// The file is not there any more, or not a file.
    fn gone(
        &mut self,
        path: &RelPath,
        kind: Option<Kind>,
        ambiguous_until_ns: i64,
        now: Now,
    ) -> End {
        self.is_well(path);
        match kind {
            // Nothing says that it is new: what is below it is looked at, and armed.
            Some(Kind::Folder) => self.scans.want(path.clone(), Depth::Full, now),
            Some(kind) => self.skipped(path, &format!("it is {}", kind_words(kind))),
            None => {}
        }
        self.look_again(path, ambiguous_until_ns, now)
    }

    /// Remembers a key that an earlier request may still change, to be looked at after that.
    pub(super) fn look_again(&mut self, path: &RelPath, ambiguous_until_ns: i64, now: Now) -> End {
        if ambiguous_until_ns == 0 {
            self.ambiguous.remove(path);
            return End::Done;
        }
        self.ambiguous.insert(path.clone(), ambiguous_until_ns);
        if self.mode != crate::agent::Mode::Forever {
            return End::Done;
        }
        let left = u64::try_from(ambiguous_until_ns.saturating_sub(now.wall_ns)).unwrap_or(0);
        // One grain later than the horizon, so that rounding never makes it early.
        End::Again(now.mono + Duration::from_nanos(left) + Duration::from_millis(1))
    }

    /// What was sent may be only what the file began with: then it is still to be named, and is looked at again.
    fn names_beginning(&mut self, path: &RelPath, is_beginning: bool, end: End) -> End {
        if !is_beginning {
            self.is_well(path);
            return end;
        }
        self.cannot_sync(path, ONLY_ITS_BEGINNING);
        match end {
            End::Again(due) => End::Grows(due),
            other => other,
        }
    }

    /// A file that was written to while it was read, or is open for writing.
    fn moving(&mut self, job: &Job, beginning: Option<Beginning>, now: Now) -> End {
        let waited = now.mono.saturating_duration_since(job.since.mono);
        let once = self.mode != crate::agent::Mode::Forever;
        let is_last = once && job.moves + 1 >= crate::agent::PATIENCE;
        // The next try may find that it only grows.
        let is_first_look = beginning.is_some() && job.beginning.is_none();
        if !is_last && (waited < self.settings.max_wait || is_first_look) {
            return End::Moving(beginning);
        }
        // Of one that is named already something may be safe.
        if !self.unsyncable.contains_key(&job.path) {
            self.cannot_sync(&job.path, "it is written to without rest, and is not safe");
        }
        if once {
            End::GivenUp
        } else {
            End::Moving(beginning)
        }
    }
}

/// Returns true if a file has the whole stat under which its former name was synced.
fn is_unchanged(from: &Entry, task: &Task) -> bool {
    from.stored
        .as_ref()
        .is_some_and(|content| content.stat.same_content_as(&task.stat))
}

fn kind_words(kind: Kind) -> &'static str {
    match kind {
        Kind::File => "a regular file",
        Kind::Folder => "a folder",
        Kind::Symlink => "a symbolic link, and links are not followed",
        Kind::Special => "a FIFO, socket or device",
    }
}
