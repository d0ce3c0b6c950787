//! From columns to values and words: what does not decode is reported as damage.

use rusqlite::Row;
use rusqlite::types::Type;

use crate::base::digest::Sha256;
use crate::base::path::RelPath;
use crate::base::stat::{Identity, Kind, Stat};
use crate::manifest::{
    Content, Entry, Failure, FolderId, FolderKey, FolderRow, Held, HeldWhat, Parked, State,
};

/// Reads a row of `entries_where`.
pub(super) fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    let word = row.get_ref(0)?.as_str()?;
    let state = State::of(word).ok_or_else(|| unreadable(0, "a state that there is none of"))?;
    let stored = stored(row)?;
    if stored.is_none() && matches!(state, State::Synced | State::Kept) {
        return Err(unreadable(0, "a claim without a content"));
    }
    let error: Option<String> = row.get(18)?;
    let attempts = row.get(17)?;
    Ok(Entry {
        path: rel_path(row, 19)?,
        state,
        stored,
        want: digest(row, 16)?,
        ambiguous_until_ns: row.get(1)?,
        failure: match error {
            Some(error) => Some(Failure {
                attempts,
                error,
                parked: parked(row, 24)?,
            }),
            None => None,
        },
        held: held(row)?,
    })
}

/// Reads until when a file is parked, and which version of it, from two columns.
pub(super) fn parked(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Box<Parked>>> {
    let until_ns: Option<i64> = row.get(column)?;
    let seen: Option<String> = row.get(column + 1)?;
    Ok(until_ns
        .zip(seen)
        .map(|(until_ns, seen)| Box::new(Parked { until_ns, seen })))
}

/// Reads what a brake holds of an entry.
fn held(row: &Row<'_>) -> rusqlite::Result<Option<Box<Held>>> {
    let Some(word) = row.get_ref(21)?.as_str_or_null()? else {
        return Ok(None);
    };
    let what = HeldWhat::of(word).ok_or_else(|| unreadable(21, "a hold that there is none of"))?;
    let at_ns = row.get::<_, Option<i64>>(22)?.unwrap_or(0);
    let seen = row.get(23)?;
    Ok(Some(Box::new(Held { what, at_ns, seen })))
}

/// Reads what is stored, which is there as a whole or not at all.
fn stored(row: &Row<'_>) -> rusqlite::Result<Option<Content>> {
    let Some(sha256) = digest(row, 12)? else {
        return Ok(None);
    };
    Ok(Some(Content {
        stat: Stat {
            kind: Kind::File,
            size: length(row, 2)?,
            mtime_ns: row.get(3)?,
            ctime_ns: row.get(4)?,
            dev: row.get::<_, i64>(5)?.cast_unsigned(),
            ino: row.get::<_, i64>(6)?.cast_unsigned(),
            mode: row.get(7)?,
            uid: row.get(8)?,
            gid: row.get(9)?,
            nlink: row.get::<_, i64>(10)?.cast_unsigned(),
        },
        read_at_ns: row.get(11)?,
        sha256,
        etag: row.get(13)?,
        version_id: row.get(14)?,
        synced_at_ns: row.get(15)?,
        doubtful: row.get(20)?,
    }))
}

pub(super) fn folder_row(row: &Row<'_>) -> rusqlite::Result<FolderRow> {
    Ok(FolderRow {
        id: FolderId(row.get(0)?),
        key: FolderKey {
            path: row.get(1)?,
            endpoint: row.get(2)?,
            bucket: row.get(3)?,
            prefix: row.get(4)?,
        },
        name: row.get(5)?,
        contacted: row.get(6)?,
        last_scan_ns: row.get(7)?,
        root: identity(row)?,
        trash_due_ns: row.get(11)?,
        mounts: mounts(row)?,
        config: row.get(13)?,
    })
}

/// Reads paths that are separated by NULs, which no path has.
fn mounts(row: &Row<'_>) -> rusqlite::Result<Vec<RelPath>> {
    let Some(bytes) = row.get_ref(12)?.as_blob_or_null()? else {
        return Ok(Vec::new());
    };
    let paths = bytes
        .split(|byte| *byte == 0)
        .filter(|path| !path.is_empty());
    paths
        .map(|path| RelPath::new(path).ok_or_else(|| unreadable(12, "a path that cannot be")))
        .collect()
}

/// Reads which folder a root was.
fn identity(row: &Row<'_>) -> rusqlite::Result<Option<Identity>> {
    let bits = |column| {
        Ok::<_, rusqlite::Error>(row.get::<_, Option<i64>>(column)?.map(i64::cast_unsigned))
    };
    let (Some(dev), Some(ino), Some(fsid)) = (bits(8)?, bits(9)?, bits(10)?) else {
        return Ok(None);
    };
    Ok(Some(Identity { dev, ino, fsid }))
}

pub(super) fn rel_path(row: &Row<'_>, column: usize) -> rusqlite::Result<RelPath> {
    let bytes = row.get_ref(column)?.as_blob()?;
    RelPath::new(bytes).ok_or_else(|| unreadable(column, "a path that cannot be"))
}

pub(super) fn digest(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Sha256>> {
    let Some(bytes) = row.get_ref(column)?.as_blob_or_null()? else {
        return Ok(None);
    };
    let digest = Sha256::from_slice(bytes);
    digest
        .map(Some)
        .ok_or_else(|| unreadable(column, "a hash that is not 32 bytes long"))
}

/// Reads a count or a length in bytes.
pub(super) fn length(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let value: i64 = row.get(column)?;
    u64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, value))
}

/// Makes the error of an index that leads to another row.
pub(super) fn misled() -> rusqlite::Error {
    unreadable(19, "an index leads to another row")
}

/// Makes the error of a value that should not be in the database.
pub(super) fn unreadable(column: usize, what: &'static str) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Null, what.into())
}

impl State {
    /// Returns the word that stands for it in the database.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Synced => "synced",
            Self::Open => "open",
            Self::Kept => "kept",
            Self::Unsent => "unsent",
        }
    }

    fn of(word: &str) -> Option<Self> {
        [Self::Synced, Self::Open, Self::Kept, Self::Unsent]
            .into_iter()
            .find(|state| state.word() == word)
    }
}

impl HeldWhat {
    /// Returns the word that stands for it in the database.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Delete => "delete",
            Self::Overwrite => "overwrite",
            Self::Released => "released",
            Self::Dropped => "dropped",
        }
    }

    fn of(word: &str) -> Option<Self> {
        [Self::Delete, Self::Overwrite, Self::Released, Self::Dropped]
            .into_iter()
            .find(|what| what.word() == word)
    }
}
