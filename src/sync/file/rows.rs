//! How a job's end becomes the row that the manifest may hold.

use std::io;

use crate::base::clock::Now;
use crate::base::digest::Sha256;
use crate::base::path::RelPath;
use crate::base::policy::OnDelete;
use crate::manifest::{Change, Content, Entry, Failure, State};
use crate::store::Stored;
use crate::sync::file::{Doubt, How, Outcome, Stop, THEIRS, Way};
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
            content.doubtful = plan::is_still_doubtful(content, &read, self.task.job.must_read);
            (content.stat, content.read_at_ns) = (read.stat, read.read_at_ns);
            content.synced_at_ns = self.started.wall_ns;
        }
        self.synced(How::Noted, row, read.is_beginning)
    }

    pub(in crate::sync::file) fn stored(
        &mut self,
        how: How,
        stored: Stored,
        sha256: Sha256,
        read: Read,
    ) -> Outcome {
        let now = self.ctx.clock.now();
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
        let (error, kind, is_everyones) = match stop {
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
                let now = self.ctx.clock.now();
                let (change, ambiguous_until_ns) = gone(self.row_now(), &path, now);
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
            Stop::Read(ReadError::Restless(beginning)) => {
                self.restore(None);
                return Outcome::Moving {
                    beginning: Some(*beginning),
                };
            }
            Stop::Theirs => {
                self.restore(Some(THEIRS.to_owned()));
                return Outcome::Theirs;
            }
            Stop::Read(ReadError::Io(error)) => (read_error(&error), None, false),
            Stop::Store(error) => (error.to_string(), Some(error.kind), error.is_everyones()),
        };
        self.restore(Some(error.clone()));
        Outcome::Failed {
            error,
            kind,
            is_everyones,
        }
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
        let now = self.ctx.clock.now();
        Some(plan::row_after_doubt(
            self.task.known.as_ref(),
            row,
            want,
            now,
        ))
    }

    /// Puts the row back to what is still certain.
    pub(in crate::sync::file) fn restore(&mut self, error: Option<String>) {
        let attempts = self.task.job.failures.saturating_add(1);
        let failure = error.map(|error| Failure { attempts, error });
        let mut row = self.row_now().unwrap_or_else(|| self.blank(State::Unsent));
        row.failure = failure;
        // A path that was unknown, and of which nothing can be said, leaves no row behind.
        let says_nothing =
            row.state == State::Unsent && row.stored.is_none() && row.failure.is_none();
        self.changes.push(if says_nothing {
            Change::Forget(row.path)
        } else {
            Change::Put(row)
        });
    }

    pub(in crate::sync::file) fn blank(&self, state: State) -> Entry {
        Entry::blank(self.task.job.path.clone(), state)
    }
}

/// Returns the change for a file that is not there any more, and until when its key stays ambiguous (wall clock,
/// nanoseconds; 0: it does not).
///
/// What the bucket certainly holds of it stays, and is remembered. A key that an earlier request may still change keeps its
/// row until the horizon: if the file comes back before, that request must not be forgotten.
pub fn gone(known: Option<Entry>, path: &RelPath, now: Now) -> (Change, i64) {
    let forget = (Change::Forget(path.clone()), 0);
    let Some(mut entry) = known else {
        return forget;
    };
    let is_certain = plan::certain(&entry).is_some() && !plan::is_due_again(&entry, now);
    let until = plan::outstanding_until(&entry, now);
    (entry.failure, entry.ambiguous_until_ns) = (None, until);
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
        let (change, until) = gone(Some(entry.clone()), &path, now);
        assert_eq!(until, now.wall_ns + plan::HORIZON_NS);
        assert!(
            matches!(change, Change::Put(row) if row.state == State::Open && row.ambiguous_until_ns == until)
        );
        let late = Entry {
            ambiguous_until_ns: now.wall_ns - 1,
            ..entry
        };
        assert_eq!(
            gone(Some(late), &path, now),
            (Change::Forget(path.clone()), 0)
        );
        assert_eq!(gone(None, &path, now), (Change::Forget(path), 0));
    }
}
