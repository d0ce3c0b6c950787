//! What can go wrong with the manifest, sorted by what the caller can do about it. `SQLite`'s own errors never leave
//! this module but as words.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

use crate::base::path::escaped;

/// What a caller can do about an [`Error`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorKind {
    /// The disk is full. It goes on when there is room again.
    Full,
    /// The database cannot be written: its filesystem has become read-only, or it was opened for reading.
    ReadOnly,
    /// The disk failed, or the process has run out of file handles or memory. It may pass.
    Io,
    /// The database is damaged. Opening it again sets it aside.
    Damaged,
    /// The database was removed or replaced while it was in use.
    Gone,
    /// Another program has kept the database locked for longer than we wait.
    Busy,
    /// A row was refused because it claims what cannot be true: a mistake of the caller. The database is well.
    Refused,
    /// The manifest has been closed.
    Closed,
    /// Anything else that `SQLite` says.
    Other,
}

/// A failure to read or to commit. Nothing of a commit that failed was applied.
#[derive(Debug, thiserror::Error)]
#[error("{doing} the manifest {}: {}{detail}{}", shown(.path), .kind.what(), .kind.remedy())]
pub struct Error {
    kind: ErrorKind,
    doing: Doing,
    path: PathBuf,
    /// More words after the kind's, in brackets; or empty.
    detail: String,
}

/// What was being done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Doing {
    /// Reading rows.
    Read,
    /// Committing.
    Write,
}

impl std::fmt::Display for Doing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
        })
    }
}

impl Error {
    /// Returns what the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Makes an error that did not come from `SQLite`.
    pub(super) fn plain(kind: ErrorKind, doing: Doing, path: &Path, detail: &str) -> Self {
        Self {
            kind,
            doing,
            path: path.to_path_buf(),
            detail: in_brackets(detail),
        }
    }

    /// Makes an error of `SQLite`'s.
    pub(super) fn sql(doing: Doing, path: &Path, source: &rusqlite::Error) -> Self {
        Self {
            kind: ErrorKind::of(source),
            doing,
            path: path.to_path_buf(),
            detail: in_brackets(&source.to_string()),
        }
    }
}

/// Returns `detail` as it follows the kind's words: on one line, whatever a damaged database makes `SQLite` say.
fn in_brackets(detail: &str) -> String {
    if detail.is_empty() {
        String::new()
    } else {
        format!(" ({})", detail.replace(char::is_control, " "))
    }
}

impl ErrorKind {
    /// Sorts an error of `SQLite`'s, or of reading its values.
    pub(super) fn of(error: &rusqlite::Error) -> Self {
        /// `SQLITE_READONLY_DBMOVED`: the file that is open is no longer the one under the name.
        const MOVED: i32 = rusqlite::ffi::SQLITE_READONLY_DBMOVED;
        match error {
            rusqlite::Error::SqliteFailure(failure, _) if failure.extended_code == MOVED => {
                Self::Gone
            }
            rusqlite::Error::SqliteFailure(failure, _) => match failure.code {
                ErrorCode::DiskFull => Self::Full,
                ErrorCode::ReadOnly => Self::ReadOnly,
                ErrorCode::SystemIoFailure
                | ErrorCode::CannotOpen
                | ErrorCode::PermissionDenied
                | ErrorCode::FileLockingProtocolFailed
                | ErrorCode::OutOfMemory => Self::Io,
                ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => Self::Damaged,
                ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => Self::Busy,
                ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig => {
                    Self::Refused
                }
                _ => Self::Other,
            },
            // A value that is there but is not what the schema lets be written.
            rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::Utf8Error(..) => Self::Damaged,
            rusqlite::Error::ToSqlConversionFailure(_)
            | rusqlite::Error::StatementChangedRows(_) => Self::Refused,
            _ => Self::Other,
        }
    }

    /// Returns true if the file may be other than `SQLite` believes, so that it is checked before it is used again.
    pub(super) fn casts_doubt(self) -> bool {
        matches!(self, Self::Io | Self::Damaged | Self::Other)
    }

    fn what(self) -> &'static str {
        match self {
            Self::Full => "its disk is full",
            Self::ReadOnly => "it is read-only",
            Self::Io => "input or output failed",
            Self::Damaged => "it is damaged",
            Self::Gone => "it was removed or replaced while in use",
            Self::Busy => "another program keeps it locked",
            Self::Refused => "a row was refused",
            Self::Closed => "it is closed",
            Self::Other => "the database failed",
        }
    }

    fn remedy(self) -> &'static str {
        match self {
            Self::Full => "; free some space, nothing is lost and work goes on by itself",
            Self::ReadOnly => "; make its filesystem writable, nothing is lost",
            Self::Io => "; look at the disk and the system log",
            Self::Damaged => {
                "; restart the agent, which sets it aside and makes it anew from tree and bucket"
            }
            Self::Gone => "; restart the agent, which makes it anew from tree and bucket",
            Self::Busy => "; end the program that has it open",
            Self::Refused | Self::Closed | Self::Other => "",
        }
    }
}

/// A failure to open a state folder. Fit after "could not".
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another agent holds the state folder.
    #[error(
        "use the state folder {}: another agent holds it{}; stop that one, or give this one another --state-dir",
        shown(.dir),
        .pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
    )]
    Locked {
        /// The state folder.
        dir: PathBuf,
        /// The other agent's process, if it has left its number.
        pid: Option<u32>,
    },
    /// The database was written by a newer version. It was not touched.
    #[error(
        "open the manifest {}: it has schema {found} and this version knows {known}; update tidewatch",
        shown(.path)
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its schema's number.
        found: i64,
        /// The newest schema's number that we know.
        known: i64,
    },
    /// The database is damaged or not ours, and was opened for reading only, so that it stays where it is.
    #[error("open the manifest {}: it is damaged ({reason}); the agent sets it aside when it starts", shown(.path))]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The state folder, or a file in it, cannot be used as it is.
    #[error("use the state folder: cannot {doing} {}: {reason}", shown(.path))]
    Unusable {
        /// What was being done to `path`.
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
}

impl OpenError {
    /// Makes an [`OpenError::Unusable`] of an I/O error, for `map_err`.
    pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Unusable {
            doing,
            path,
            reason: source.to_string(),
        }
    }

    /// Makes an [`OpenError::Unusable`] of an error of `SQLite`'s, for `map_err`.
    pub(super) fn sql(doing: &'static str, path: &Path) -> impl FnOnce(rusqlite::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Unusable {
            doing,
            path,
            reason: source.to_string(),
        }
    }
}

/// Returns a path for people.
fn shown(path: &Path) -> String {
    escaped(path.as_os_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_the_path_and_the_remedy() {
        let source = rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL),
            None,
        );
        let error = Error::sql(Doing::Write, Path::new("/s/tide\nwatch.db"), &source);
        assert_eq!(error.kind(), ErrorKind::Full);
        let text = error.to_string();
        assert!(text.starts_with("write the manifest /s/tide\\nwatch.db: its disk is full ("));
        assert!(text.ends_with("; free some space, nothing is lost and work goes on by itself"));
    }

    #[test]
    fn a_value_that_does_not_decode_is_damage() {
        let error = rusqlite::Error::IntegralValueOutOfRange(0, -1);
        assert_eq!(ErrorKind::of(&error), ErrorKind::Damaged);
    }
}
