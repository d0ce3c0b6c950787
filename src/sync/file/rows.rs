//! How a job's end becomes the row that the manifest may hold.

use std::io;
use std::time::Duration;

use rustix::io::Errno;

use crate::base::clock::Now;
use crate::base::digest::Sha256;
use crate::base::path::RelPath;
use crate::base::policy::{Guarding, OnDelete};
use crate::manifest::{Change, Content, Entry, Failure, LANDED_NS, Parked, State};
use crate::store::fence::NOT_OURS;
use crate::store::{ErrorKind, Stored};
use crate::sync::file::{Doubt, Failed, How, Outcome, Stop, THEIRS, Way};
use crate::sync::plan::{self, Read};
use crate::tree::ReadError;

impl Way {
    pub(in crate::sync::file) fn refreshed(&mut self, read: Read) -> Outcome {
        let mut row = self
            .known
            .clone()
            .unwrap_or_else(|| self.blank(State::Synced));
        row.state = State::Synced;
        (row.failure, row.held) = (None, None);
        if let Some(content) = &mut row.stored {
            (content.doubtful, content.read_at_ns) =
                plan::doubt_after(content, &read, self.task.job.must_read);
            content.stat = read.stat;
            content.synced_at_ns = self.started.wall_ns;
        }
        let how = self.adopted.map_or(How::Noted, How::Adopted);
        self.synced(how, row, read.is_beginning)
    }

    pub(in crate::sync::file) fn stored(
        &mut self,
        how: How,
        stored: Stored,
        sha256: Sha256,
        read: Read,
    ) -> Outcome {
        let now = self.now();
        if let Some(there) = self.there.take() {
            self.changes.push(Change::RemoteTaken(there.key));
        }
        let mut row = self.blank(State::Synced);
        plan::remember_outstanding(&mut row, self.task.known.as_ref(), now);
        // What this job itself sent without an answer may land after what it then sent with one.
        let own = if stored.is_outstanding {
            Doubt::Write(Some(sha256))
        } else {
            self.doubt
        };
        if let Doubt::Write(want) = own {
            row = plan::row_after_doubt(self.task.known.as_ref(), row, want, now);
            row.state = State::Synced;
        }
        row.stored = Some(Content {
            stat: read.stat,
            read_at_ns: read.read_at_ns,
            sha256,
            etag: stored.etag,
            version_id: stored.version_id,
            synced_at_ns: now.wall_ns,
            doubtful: read.doubtful,
        });
        self.synced(how, row, read.is_beginning)
    }

    fn synced(&mut self, how: How, row: Entry, is_beginning: bool) -> Outcome {
        let ambiguous_until_ns = plan::doubt_until(&row);
        let racy = row
            .stored
            .as_ref()
            .is_some_and(|content| content.doubtful || content.stat.is_racy(content.read_at_ns));
        self.changes.push(Change::Put(row));
        Outcome::Synced {
            how,
            ambiguous_until_ns,
            racy,
            is_beginning,
        }
    }

    /// What the row says after a job that did not end with the file in the bucket.
    pub(in crate::sync::file) fn stopped(&mut self, stop: Stop) -> Outcome {
        let path = self.task.job.path.clone();
        let failed = match stop {
            Stop::Read(ReadError::Gone) if self.ctx.policy.on_delete != OnDelete::Keep => {
                // Whether its object goes too, listings of its folder decide.
                self.restore(None);
                return Outcome::Gone {
                    kind: None,
                    ambiguous_until_ns: 0,
                };
            }
            Stop::Read(ReadError::Kind(kind)) if self.ctx.policy.on_delete != OnDelete::Keep => {
                self.restore(None);
                return Outcome::Gone {
                    kind: Some(kind),
                    ambiguous_until_ns: 0,
                };
            }
            Stop::Read(error @ (ReadError::Gone | ReadError::Kind(_))) => {
                let now = self.now();
                let guard = self.ctx.policy.guard;
                let (change, ambiguous_until_ns) = gone(self.row_now(), &path, guard, now);
                self.changes.push(change);
                let kind = if let ReadError::Kind(kind) = error {
                    Some(kind)
                } else {
                    None
                };
                return Outcome::Gone {
                    kind,
                    ambiguous_until_ns,
                };
            }
            Stop::Read(ReadError::Moving) => {
                self.restore(None);
                return Outcome::Moving { beginning: None };
            }
            // Nothing is wrong with the file: it is read when others have been.
            Stop::Read(ReadError::Io(error)) if is_want_of_handles(&error) => {
                self.restore(None);
                return Outcome::Moving { beginning: None };
            }
            Stop::Read(ReadError::Restless(beginning)) => {
                self.restore(None);
                return Outcome::Moving {
                    beginning: Some(*beginning),
                };
            }
            Stop::Asked => {
                self.put_off();
                return Outcome::Stopped;
            }
            // Another owns the prefix now: it is done when it is ours again.
            Stop::Store(error) if error.code == NOT_OURS => {
                self.put_off();
                return Outcome::Stopped;
            }
            Stop::Theirs => {
                self.restore(Some(Failure {
                    attempts: 1,
                    error: THEIRS.to_owned(),
                    parked: None,
                }));
                // The key does not hold what it held, and the row may not go on saying so.
                if let Some(Change::Put(row)) = self.changes.last_mut()
                    && row.state == State::Synced
                {
                    row.state = State::Unsent;
                }
                return Outcome::Theirs;
            }
            Stop::Read(ReadError::Io(error)) => self.failed(
                unreadable_pause(&error),
                Failed {
                    error: read_error(&error),
                    kind: None,
                    is_everyones: false,
                    is_parked: false,
                    is_alarm: is_damage(&error),
                    retry_after: None,
                },
            ),
            Stop::Store(error) => self.failed(
                refused_pause(error.kind),
                Failed {
                    error: error.to_string(),
                    kind: Some(error.kind),
                    is_everyones: error.is_everyones(),
                    is_parked: false,
                    is_alarm: false,
                    retry_after: error.retry_after,
                },
            ),
        };
        Outcome::Failed(failed)
    }

    /// Notes a failure in the row. `pause`: after how many attempts it is left alone, and for how long.
    fn failed(&mut self, pause: Option<(u32, Duration)>, mut failed: Failed) -> Failed {
        let before = self
            .task
            .known
            .as_ref()
            .and_then(|entry| entry.failure.as_ref());
        let attempts = before.map_or(0, |failure| failure.attempts) + 1;
        let pause = pause.filter(|(tries, _)| attempts >= *tries && !self.task.job.remove);
        let now_ns = self.ctx.clock.now().wall_ns;
        let parked = pause.map(|(_, pause)| {
            let pause_ns = i64::try_from(pause.as_nanos()).unwrap_or(i64::MAX);
            Box::new(Parked {
                until_ns: now_ns.saturating_add(pause_ns),
                seen: self.task.stat.fingerprint(),
            })
        });
        failed.is_parked = parked.is_some();
        failed.is_alarm |= failed.kind == Some(ErrorKind::Corrupt) && attempts >= DAMAGED;
        self.restore(Some(Failure {
            attempts,
            error: failed.error.clone(),
            parked,
        }));
        failed
    }

    /// Returns the row as it has to be if nothing more happens; `None` if there was none and nothing was written.
    pub(in crate::sync::file) fn row_now(&self) -> Option<Entry> {
        let Doubt::Write(want) = self.doubt else {
            return self.known.clone();
        };
        let row = self
            .known
            .clone()
            .unwrap_or_else(|| self.blank(State::Unsent));
        let now = self.now();
        Some(plan::row_after_doubt(
            self.task.known.as_ref(),
            row,
            want,
            now,
        ))
    }

    /// Puts the row back to what is still certain.
    pub(in crate::sync::file) fn restore(&mut self, failure: Option<Failure>) {
        let mut row = self.row_now().unwrap_or_else(|| self.blank(State::Unsent));
        row.failure = failure;
        // A path that was unknown, and of which nothing can be said, leaves no row behind.
        let says_nothing = row.state == State::Unsent
            && row.stored.is_none()
            && row.failure.is_none()
            && !row.is_landed();
        self.changes.push(if says_nothing {
            Change::Forget(row.path)
        } else {
            Change::Put(row)
        });
    }

    /// Puts the row back, of a file that is looked at again after a stop.
    fn put_off(&mut self) {
        self.restore(None);
        // Only an event said that its content is another one under the same stamps: the row has to say so now.
        if self.task.job.must_read
            && let Some(Change::Put(row)) = self.changes.last_mut()
            && let Some(content) = &mut row.stored
        {
            content.doubtful = true;
        }
    }

    pub(in crate::sync::file) fn blank(&self, state: State) -> Entry {
        Entry::blank(self.task.job.path.clone(), state)
    }
}

/// What only a person, or another version of the file, can mend is tried again once a day: rules of a store change too.
const DAILY: Duration = Duration::from_secs(24 * 3600);
/// Rights are put right by people, who do not tell us.
const HOURLY: Duration = Duration::from_secs(3600);
/// A file that arrives damaged is read again twice: memory, a disk or a proxy may have stumbled.
const DAMAGED: u32 = 3;

fn refused_pause(kind: ErrorKind) -> Option<(u32, Duration)> {
    match kind {
        ErrorKind::Invalid | ErrorKind::TooLarge | ErrorKind::Unsupported => Some((1, DAILY)),
        ErrorKind::Corrupt => Some((DAMAGED, DAILY)),
        ErrorKind::Denied => Some((3, HOURLY)),
        ErrorKind::NotFound
        | ErrorKind::Precondition
        | ErrorKind::Barred
        | ErrorKind::Full
        | ErrorKind::Conflict
        | ErrorKind::Busy
        | ErrorKind::Network => None,
    }
}

/// Returns whether this process, or the machine, has as many files open as it may.
fn is_want_of_handles(error: &io::Error) -> bool {
    let wants = [Errno::MFILE, Errno::NFILE].map(Errno::raw_os_error);
    error
        .raw_os_error()
        .is_some_and(|code| wants.contains(&code))
}

fn unreadable_pause(error: &io::Error) -> Option<(u32, Duration)> {
    match error.kind() {
        io::ErrorKind::PermissionDenied => Some((1, HOURLY)),
        _ if is_damage(error) => Some((DAMAGED, HOURLY)),
        // Too many open files, a server that is away: it passes.
        _ => None,
    }
}

/// Returns true for `EIO`: a disk that cannot read its own blocks.
fn is_damage(error: &io::Error) -> bool {
    const EIO: i32 = 5;
    error.raw_os_error() == Some(EIO)
}

/// Returns the change for a file that is not there any more, and until when its key stays ambiguous (wall clock,
/// nanoseconds; 0: it does not).
///
/// What the bucket certainly holds of it stays, and is remembered. A key that an earlier request may still change keeps its
/// row until the horizon: if the file comes back before, that request must not be forgotten.
///
/// Where objects are guarded the row stays after the horizon too: nobody looks whether what was sent has landed, and the
/// next file of that name would take it for somebody else's.
pub fn gone(known: Option<Entry>, path: &RelPath, guard: Guarding, now: Now) -> (Change, i64) {
    let forget = (Change::Forget(path.clone()), 0);
    let Some(mut entry) = known else {
        return forget;
    };
    let is_certain = plan::certain(&entry).is_some() && !plan::is_due_again(&entry, now);
    let until = plan::outstanding_until(&entry, now);
    let may_be_there = guard == Guarding::Strict
        && !is_certain
        && until == 0
        && (entry.want.is_some() || entry.ambiguous_until_ns != 0);
    (entry.failure, entry.ambiguous_until_ns) = (None, until);
    if may_be_there {
        (entry.state, entry.ambiguous_until_ns) = (State::Unsent, LANDED_NS);
        return (Change::Put(entry), 0);
    }
    entry.want = entry.want.filter(|_| until != 0);
    entry.state = match (is_certain, until) {
        (true, _) => State::Kept,
        (false, 0) => return forget,
        (false, _) => State::Open,
    };
    let doubt = if is_certain {
        plan::doubt_until(&entry)
    } else {
        until
    };
    (Change::Put(entry), doubt)
}

/// Returns the kernel's error as people can use it.
pub fn read_error(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            format!(
                "could not read the file: {error}; give the user that runs tidewatch the right to read it"
            )
        }
        _ => format!("could not read the file: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_gone_keeps_only_what_is_certain() {
        let path = RelPath::root().join(b"a");
        let entry = Entry {
            path: path.clone(),
            state: State::Open,
            stored: None,
            want: None,
            ambiguous_until_ns: 0,
            failure: None,
            held: None,
        };
        let now = crate::base::clock::Clock::Real.now();
        let left = |known| gone(known, &path, Guarding::Off, now);
        let (change, until) = left(Some(entry.clone()));
        assert_eq!(until, now.wall_ns + plan::HORIZON_NS);
        assert!(
            matches!(change, Change::Put(row) if row.state == State::Open && row.ambiguous_until_ns == until)
        );
        let late = Entry {
            ambiguous_until_ns: now.wall_ns - 1,
            ..entry
        };
        assert_eq!(left(Some(late.clone())), (Change::Forget(path.clone()), 0));
        assert_eq!(left(None), (Change::Forget(path.clone()), 0));

        // Where objects are guarded, what may have landed stays known, and is no doubt any more.
        let want = Some(Sha256::of(b"sent"));
        let sent = Entry { want, ..late };
        let (change, until) = gone(Some(sent), &path, Guarding::Strict, now);
        assert_eq!(until, 0);
        assert!(matches!(change, Change::Put(row) if row.is_landed() && row.want == want));
    }
}
