//! One turn: look at what is due, commit what has ended and the intents of what is about to start. One blocking call.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::agent::{Loop, Pending};
use crate::base::clock::Now;
use crate::base::path::RelPath;
use crate::base::snapshot::What;
use crate::base::stat::{Kind, Stat};
use crate::manifest::{self, Change, Entry, State};
use crate::sync::file::{self, Ctx, Done, How, Outcome, Task};
use crate::sync::plan::{self, Look};
use crate::sync::queue::{End, Job};
use crate::tree::filter::Filter;
use crate::tree::scan::Depth;

/// How long after a racy read the file is looked at again: longer than the coarsest filesystem clock (2 s).
const AFTER_RACE: Duration = Duration::from_millis(2_100);

/// What turns work with.
pub(super) struct Turn {
    pub ctx: Arc<Ctx>,
    pub filter: Arc<Filter>,
    pub scan_settle: Duration,
}

/// How long a turn goes on reading small files after its commit: the next commit waits for it.
const READ_AHEAD: Duration = Duration::from_millis(5);

/// What a turn did.
pub(super) struct Turned {
    pub looked: Vec<(Job, Seen)>,
    /// What was to be committed; it has been, if `result` says so.
    pub pending: Vec<Pending>,
    pub result: Result<(), manifest::Error>,
}

/// What the looks of a turn share.
struct Notes {
    now: Now,
    /// Whether first contact found anything that has not been taken.
    has_remote: bool,
    /// What is to be committed.
    changes: Vec<Change>,
    /// The manifest could not be asked: nothing of this turn is done.
    error: Option<manifest::Error>,
}

/// What a look at a due path found.
#[derive(Debug)]
pub(super) enum Seen {
    /// Level already.
    Level,
    /// To be read; the intent is durable.
    Task(Box<Task>),
    /// Not there.
    Gone {
        /// What is there instead, if anything.
        kind: Option<Kind>,
        /// Wall clock until which its key is ambiguous, nanoseconds; 0: it is not.
        ambiguous_until_ns: i64,
        /// The manifest knows files below it: it was a folder.
        had_files: bool,
        /// Its folder is gone too; this one above is still there.
        within: Option<RelPath>,
    },
    Excluded,
    NoKey(String),
    /// Written to so lately that it has to be left alone that much longer.
    Fresh(Duration),
    Unreadable(io::Error),
}

impl Turn {
    pub fn run(&self, due: Vec<Job>, pending: Vec<Pending>, now: Now) -> Turned {
        let paths: Vec<RelPath> = due.iter().map(|job| job.path.clone()).collect();
        let mut looked = Vec::with_capacity(due.len());
        let mut changes: Vec<Change> = Vec::new();
        for item in &pending {
            changes.extend(item.changes.iter().cloned());
        }
        let known = match self.ctx.manifest.entries(self.ctx.folder, &paths) {
            Ok(known) => known,
            Err(error) => {
                looked.extend(due.into_iter().map(|job| (job, Seen::Level)));
                return Turned {
                    looked,
                    pending,
                    result: Err(error),
                };
            }
        };
        let has_remote = self
            .ctx
            .manifest
            .has_remote(self.ctx.folder)
            .unwrap_or(true);
        let mut notes = Notes {
            now,
            has_remote,
            changes,
            error: None,
        };
        for (job, known) in due.into_iter().zip(known) {
            let seen = self.look(&job, known, &mut notes);
            looked.push((job, seen));
        }
        if let Some(error) = notes.error {
            return Turned {
                looked,
                pending,
                result: Err(error),
            };
        }
        let changes = notes.changes;
        let result = if changes.is_empty() {
            Ok(())
        } else {
            self.ctx.manifest.commit(self.ctx.folder, &changes)
        };
        if result.is_ok() {
            self.read_ahead(&mut looked);
        }
        Turned {
            looked,
            pending,
            result,
        }
    }

    /// Reads small files here, one after the other, instead of each in a blocking call of its own: half the cost.
    fn read_ahead(&self, looked: &mut [(Job, Seen)]) {
        let began = self.ctx.clock.now();
        for (_, seen) in looked {
            let now = self.ctx.clock.now();
            if now.mono.saturating_duration_since(began.mono) >= READ_AHEAD {
                break;
            }
            if let Seen::Task(task) = seen {
                self.ctx.read_ahead(task, now);
            }
        }
    }

    fn look(&self, job: &Job, known: Option<Entry>, notes: &mut Notes) -> Seen {
        let stat = match self.ctx.tree.stat(&job.path) {
            Ok(stat) => stat,
            Err(error) if is_gone(&error) => return self.gone(&job.path, known, notes),
            Err(error) => {
                let failure = manifest::Failure {
                    attempts: job.failures + 1,
                    error: file::read_error(&error),
                };
                notes
                    .changes
                    .push(Change::Put(with_failure(known, &job.path, failure)));
                return Seen::Unreadable(error);
            }
        };
        let now_ns = notes.now.wall_ns;
        if self.filter.leaves_out(&job.path, &stat, now_ns).is_some() {
            return Seen::Excluded;
        }
        match stat.kind {
            Kind::File => self.look_at_file(job, known, stat, notes),
            kind => {
                // Whatever is there now, the file that was is gone.
                let ambiguous_until_ns = keep(known, &job.path, notes);
                Seen::Gone {
                    kind: Some(kind),
                    ambiguous_until_ns,
                    had_files: false,
                    within: None,
                }
            }
        }
    }

    fn look_at_file(&self, job: &Job, known: Option<Entry>, stat: Stat, notes: &mut Notes) -> Seen {
        match plan::look(known.as_ref(), &stat, job.must_read, notes.now) {
            Look::Nothing => {
                // A failure that has passed by itself is forgotten.
                if let Some(entry) = known.filter(|entry| entry.failure.is_some()) {
                    notes.changes.push(Change::Put(Entry {
                        failure: None,
                        held: None,
                        ..entry
                    }));
                }
                return Seen::Level;
            }
            Look::Refresh => {
                if let Some(mut entry) = known {
                    (entry.state, entry.failure) = (State::Synced, None);
                    if let Some(content) = &mut entry.stored {
                        content.stat = stat;
                    }
                    notes.changes.push(Change::Put(entry));
                }
                return Seen::Level;
            }
            Look::Read => {}
        }
        if let Some(left) = self.unsettled(&stat, notes.now) {
            return Seen::Fresh(left);
        }
        let key = match self.ctx.keys.key(&job.path) {
            Ok(key) => key,
            Err(error) => return Seen::NoKey(error.to_string()),
        };
        let may_be_theirs = notes.has_remote && known.as_ref().and_then(plan::certain).is_none();
        let mut remote = None;
        if may_be_theirs {
            match self.ctx.manifest.remote(self.ctx.folder, &key) {
                Ok(found) => remote = found,
                // Nothing may be written over an object that could be somebody else's.
                Err(error) => {
                    notes.error = Some(error);
                    return Seen::Level;
                }
            }
        }
        notes.changes.push(Change::Intend(job.path.clone()));
        Seen::Task(Box::new(Task {
            job: job.clone(),
            key,
            stat,
            known,
            remote,
            ahead: None,
        }))
    }

    /// Returns how much longer a file that no event told of has to rest. Times in the future count as now's.
    fn unsettled(&self, stat: &Stat, now: Now) -> Option<Duration> {
        let newest = stat.mtime_ns.max(stat.ctime_ns);
        let rested = u64::try_from(now.wall_ns.saturating_sub(newest)).ok()?;
        self.scan_settle
            .checked_sub(Duration::from_nanos(rested))
            .filter(|left| !left.is_zero())
    }

    fn gone(&self, path: &RelPath, known: Option<Entry>, notes: &mut Notes) -> Seen {
        let ambiguous_until_ns = keep(known, path, notes);
        let had_files = self
            .ctx
            .manifest
            .has_below(self.ctx.folder, path)
            .unwrap_or(true);
        let mut within = path.parent();
        let mut steps = 0;
        while let Some(folder) = &within {
            match self.ctx.tree.stat(folder) {
                Err(error) if is_gone(&error) => within = folder.parent(),
                _ => break,
            }
            steps += 1;
        }
        let within = within.filter(|_| steps > 0);
        Seen::Gone {
            kind: None,
            ambiguous_until_ns,
            had_files,
            within,
        }
    }
}

/// A file is gone: its object stays, and so does what is certain of it. Returns until when its key is ambiguous.
fn keep(known: Option<Entry>, path: &RelPath, notes: &mut Notes) -> i64 {
    let is_old_news = |entry: &Entry| entry.state == State::Kept && entry.ambiguous_until_ns == 0;
    if known.as_ref().is_none_or(is_old_news) {
        return 0;
    }
    let (change, until) = file::gone(known, path, notes.now);
    notes.changes.push(change);
    until
}

fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn with_failure(known: Option<Entry>, path: &RelPath, failure: manifest::Failure) -> Entry {
    let unsent = || Entry {
        path: path.clone(),
        state: State::Unsent,
        stored: None,
        want: None,
        ambiguous_until_ns: 0,
        failure: None,
        held: None,
    };
    Entry {
        failure: Some(failure),
        ..known.unwrap_or_else(unsent)
    }
}

impl Loop {
    /// Takes what a look found; what it changed is durable.
    pub(super) fn looked(&mut self, job: &Job, seen: Seen, now: Now) {
        let path = job.path.clone();
        tracing::trace!(%path, ?seen, "looked at");
        self.outage
            .looked(&path, matches!(seen, Seen::Task(_)), now);
        let end = match seen {
            Seen::Task(task) => return self.start_job(*task),
            Seen::Level => {
                self.tally().unchanged += 1;
                self.is_well(&path);
                End::Done
            }
            Seen::Gone {
                kind,
                ambiguous_until_ns,
                had_files,
                within,
            } => {
                // What is known to be gone, and only waits for its horizon, is no news.
                let is_news = !self.ambiguous.contains_key(&path);
                if had_files {
                    self.scans.want(path.clone(), Depth::Full, now);
                }
                if let Some(folder) = within.filter(|_| is_news) {
                    self.scans.want(folder, Depth::NewFolders, now);
                }
                self.gone(&path, kind, ambiguous_until_ns, now)
            }
            Seen::Excluded => End::Done,
            Seen::NoKey(why) => {
                self.cannot_sync(&path, &why);
                End::Done
            }
            Seen::Fresh(left) => match self.moving(job, now) {
                End::Moving => End::Fresh(now.mono + left),
                other => other,
            },
            Seen::Unreadable(error) => self.failed(job, &file::read_error(&error), None, false),
        };
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
        for source in sources {
            self.queue.release_source(&source);
        }
        self.outage.ended(&path, now);
        self.tally().set_aside += u64::from(set_aside);
        let mut is_stored = false;
        let end = match outcome {
            Outcome::Synced {
                how,
                ambiguous_until_ns,
                racy,
            } => {
                is_stored = true;
                self.synced(&path, key, how, size, now);
                self.after_success(&path, ambiguous_until_ns, racy, now)
            }
            Outcome::Gone {
                kind,
                ambiguous_until_ns,
            } => self.gone(&path, kind, ambiguous_until_ns, now),
            Outcome::Moving => self.moving(&job, now),
            Outcome::Failed {
                error,
                kind,
                is_everyones,
            } => {
                if is_everyones && let Some(kind) = kind {
                    self.outage.suspect(kind, &error);
                }
                self.failed(&job, &error, kind, is_everyones)
            }
        };
        self.queue.finish(&path, end, now, &mut self.random);
        // Last: who waits for this content asks at once whether its source is at rest.
        if let Some(first) = first.filter(|_| is_stored) {
            first.stored(&path);
        }
    }

    fn synced(&mut self, path: &RelPath, key: String, how: How, size: u64, now: Now) {
        self.is_well(path);
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
            Some(Kind::Folder) => self.scans.want(path.clone(), Depth::Full, now),
            Some(kind) => self.skipped(path, &format!("it is {}", kind_words(kind))),
            None => {}
        }
        self.look_again(path, ambiguous_until_ns, now)
    }

    /// Remembers a key that an earlier request may still change, to be looked at after that.
    fn look_again(&mut self, path: &RelPath, ambiguous_until_ns: i64, now: Now) -> End {
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

    fn moving(&mut self, job: &Job, now: Now) -> End {
        let waited = now.mono.saturating_duration_since(job.since.mono);
        let once = self.mode != crate::agent::Mode::Forever;
        if waited >= self.settings.max_wait || (once && job.moves + 1 >= crate::agent::PATIENCE) {
            self.cannot_sync(&job.path, "it is written to without rest, and is not safe");
            if once {
                return End::GivenUp;
            }
        }
        End::Moving
    }
}

fn kind_words(kind: Kind) -> &'static str {
    match kind {
        Kind::File => "a regular file",
        Kind::Folder => "a folder",
        Kind::Symlink => "a symbolic link, and links are not followed",
        Kind::Special => "a FIFO, socket or device",
    }
}
