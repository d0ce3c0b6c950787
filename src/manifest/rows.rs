//! Reading rows. What is read is what was written, or an error that says damage.

use rusqlite::{OptionalExtension as _, params};

use crate::base::digest::Sha256;
use crate::base::path::RelPath;
use crate::manifest::connections::Manifest;
use crate::manifest::decode::{entry, folder_row, length, misled, parked, rel_path};
use crate::manifest::error::Error;
use crate::manifest::{
    Counts, Entry, Failure, FolderId, FolderKey, FolderRow, HeldCounts, Remote, State,
};

/// Contents above this size are looked for by size, see [`Manifest::knows_size`]. Up to it a file is read once and sent
/// from memory, so that its hash is known before anything is sent.
pub const LARGE_BYTES: u64 = 16 << 20;

/// How many rows of one content [`Manifest::by_content`] returns: enough to find one that can be copied from.
const SAME_CONTENT: usize = 4;
/// How many rows of one inode [`Manifest::by_inode`] returns: every name that a file may well have.
const NAMES: usize = 1000;

/// The columns of an entry, in the order in which [`entry`] reads them.
///
/// The index (`i`) only finds the row's number, and all that is read is the row's own (`f`). In a plain query `SQLite`
/// takes from the index what the index has: one flipped bit in it would show another path's row under this path.
macro_rules! entries_where {
    ($condition:literal) => {
        concat!(
            "SELECT f.state, f.ambiguous_until_ns, f.size, f.mtime_ns, f.ctime_ns, f.dev, f.ino, f.mode, f.uid, f.gid,
               f.nlink, f.read_at_ns, f.sha256, f.etag, f.version_id, f.synced_at_ns, f.want_sha256, f.attempts,
               f.last_error, f.path, f.doubtful, f.held, f.held_at_ns, f.held_seen, f.parked_until_ns,
               f.parked_seen
             FROM files AS i CROSS JOIN files AS f ON f.id = i.id WHERE i.folder_id = ?1 AND ",
            $condition
        )
    };
}

const FOLDERS: &str = "SELECT id, path, endpoint, bucket, prefix, name, contacted, last_scan_ns,
    root_dev, root_ino, root_fsid, trash_due_ns, mounts, config FROM folders ORDER BY id";
const FOLDER: &str = "SELECT id, path, endpoint, bucket, prefix, name, contacted, last_scan_ns,
    root_dev, root_ino, root_fsid, trash_due_ns, mounts, config FROM folders
    WHERE path = ?1 AND endpoint = ?2 AND bucket = ?3 AND prefix = ?4";
const ADD_FOLDER: &str = "INSERT INTO folders (path, endpoint, bucket, prefix, name) VALUES (?1, ?2, ?3, ?4, ?5)
    ON CONFLICT (path, endpoint, bucket, prefix) DO UPDATE SET name = excluded.name WHERE name <> excluded.name";
const ENTRY: &str = entries_where!("i.path = ?2");
const PAGE: &str = entries_where!("i.path > ?2 ORDER BY i.path LIMIT ?3");
const PAGE_BELOW: &str = entries_where!("i.path > ?2 AND i.path < ?4 ORDER BY i.path LIMIT ?3");
const OPEN: &str = entries_where!(
    "i.path > ?2 AND (i.state IN ('open', 'unsent') OR i.ambiguous_until_ns <> 0) ORDER BY i.path LIMIT ?3"
);
const BY_CONTENT: &str = entries_where!(
    "substr(i.sha256, 1, 8) = substr(?2, 1, 8) AND i.state IN ('synced', 'kept') AND f.sha256 = ?2
     ORDER BY i.ambiguous_until_ns LIMIT ?3"
);
const BY_INODE: &str = entries_where!(
    "i.ino = ?2 AND i.dev = ?3 AND i.state IN ('synced', 'kept') ORDER BY i.id LIMIT ?4"
);
const HELD: &str = entries_where!("i.path > ?2 AND i.held IS NOT NULL ORDER BY i.path LIMIT ?3");
const LAST: &str = "SELECT coalesce(max(id), 0) FROM files";
const SYNCED_FROM: &str = entries_where!("i.id >= ?2 AND i.state = 'synced' ORDER BY i.id LIMIT 1");
const COUNT_HELD: &str =
    "SELECT count(*) FILTER (WHERE held = 'delete'), count(*) FILTER (WHERE held = 'overwrite')
    FROM files WHERE folder_id = ?1 AND held IS NOT NULL";
const COUNT_SYNCED: &str = "SELECT count(*) FROM files WHERE folder_id = ?1 AND state = 'synced'";
const ANY: &str = "SELECT EXISTS (SELECT 1 FROM files WHERE folder_id = ?1)";
const ANY_BELOW: &str =
    "SELECT EXISTS (SELECT 1 FROM files WHERE folder_id = ?1 AND path > ?2 AND path < ?3)";
const KNOWS_SIZE: &str =
    "SELECT EXISTS (SELECT 1 FROM files WHERE folder_id = ?1 AND size = ?2 AND path <> ?3
    AND state IN ('synced', 'kept') AND size > 16777216)";
const FAILURES: &str = "SELECT path, attempts, last_error, parked_until_ns, parked_seen FROM files
    WHERE folder_id = ?1 AND last_error IS NOT NULL ORDER BY path LIMIT ?2";
const PARKED: &str = entries_where!(
    "i.path > ?2 AND i.last_error IS NOT NULL AND f.parked_until_ns IS NOT NULL ORDER BY i.path LIMIT ?3"
);
const COUNTS: &str = "SELECT
    count(*) FILTER (WHERE state = 'synced'),
    coalesce(sum(size) FILTER (WHERE state = 'synced'), 0),
    count(*) FILTER (WHERE state IN ('open', 'unsent') AND NOT (state = 'unsent' AND ambiguous_until_ns = 1)),
    count(*) FILTER (WHERE last_error IS NOT NULL),
    count(*) FILTER (WHERE ambiguous_until_ns <> 0 AND NOT (state = 'unsent' AND ambiguous_until_ns = 1)),
    count(*) FILTER (WHERE held IN ('delete', 'overwrite'))
    FROM files WHERE folder_id = ?1";
const ANY_REMOTE: &str = "SELECT EXISTS (SELECT 1 FROM remote WHERE folder_id = ?1)";
const REMOTE: &str = "SELECT key, size, etag FROM remote WHERE folder_id = ?1 AND key = ?2";
/// Every statement of this file.
pub(super) const ALL: [&str; 22] = [
    FOLDERS,
    FOLDER,
    ADD_FOLDER,
    ENTRY,
    PAGE,
    PAGE_BELOW,
    OPEN,
    BY_CONTENT,
    BY_INODE,
    HELD,
    LAST,
    SYNCED_FROM,
    COUNT_HELD,
    COUNT_SYNCED,
    ANY,
    ANY_BELOW,
    KNOWS_SIZE,
    FAILURES,
    PARKED,
    COUNTS,
    ANY_REMOTE,
    REMOTE,
];

impl Manifest {
    /// Returns the folder that is `key`, made if it is not there; `name` becomes its name.
    pub fn folder(&self, key: &FolderKey, name: &str) -> Result<FolderRow, Error> {
        self.write(|connection| {
            let FolderKey {
                path,
                endpoint,
                bucket,
                prefix,
            } = key;
            connection
                .prepare_cached(ADD_FOLDER)?
                .execute(params![path, endpoint, bucket, prefix, name])?;
            connection
                .prepare_cached(FOLDER)?
                .query_row(params![path, endpoint, bucket, prefix], folder_row)
        })
    }

    /// Returns all folders, in the order in which they were first seen.
    pub fn folders(&self) -> Result<Vec<FolderRow>, Error> {
        self.read(|connection| {
            connection
                .prepare_cached(FOLDERS)?
                .query_map([], folder_row)?
                .collect()
        })
    }

    /// Returns the entries of `paths`, in their order; `None` where there is no row.
    pub fn entries(
        &self,
        folder: FolderId,
        paths: &[RelPath],
    ) -> Result<Vec<Option<Entry>>, Error> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached(ENTRY)?;
            let mut find = |path: &RelPath| {
                let found = statement
                    .query_row(params![folder.0, path.as_bytes()], entry)
                    .optional()?;
                match found {
                    // Only a damaged index leads to another path's row.
                    Some(other) if other.path != *path => Err(misled()),
                    found => Ok(found),
                }
            };
            paths.iter().map(&mut find).collect()
        })
    }

    /// Returns up to `limit` entries that lie below `within` (its own row is not among them), sorted by the bytes of
    /// their paths, beginning strictly after `after`; with the root as `after`, from the beginning.
    pub fn page(
        &self,
        folder: FolderId,
        within: &RelPath,
        after: &RelPath,
        limit: usize,
    ) -> Result<Vec<Entry>, Error> {
        let limit = sql_limit(limit);
        self.read(|connection| match bounds(within) {
            None => ascending(
                after,
                connection
                    .prepare_cached(PAGE)?
                    .query_map(params![folder.0, after.as_bytes(), limit], entry)?,
            ),
            Some((low, high)) => ascending(
                after,
                connection.prepare_cached(PAGE_BELOW)?.query_map(
                    params![folder.0, after.as_bytes().max(&low), limit, high],
                    entry,
                )?,
            ),
        })
    }

    /// Returns true if there is a row below `path`.
    pub fn has_below(&self, folder: FolderId, path: &RelPath) -> Result<bool, Error> {
        self.read(|connection| match bounds(path) {
            None => connection
                .prepare_cached(ANY)?
                .query_row(params![folder.0], |row| row.get(0)),
            Some((low, high)) => connection
                .prepare_cached(ANY_BELOW)?
                .query_row(params![folder.0, low, high], |row| row.get(0)),
        })
    }

    /// Returns up to `limit` rows that are `Open`, `Unsent` or looked at again later, sorted by path, strictly after
    /// `after`: what is known to be undone after a restart.
    pub fn open_rows(
        &self,
        folder: FolderId,
        after: &RelPath,
        limit: usize,
    ) -> Result<Vec<Entry>, Error> {
        self.read(|connection| {
            let params = params![folder.0, after.as_bytes(), sql_limit(limit)];
            let mut statement = connection.prepare_cached(OPEN)?;
            ascending(after, statement.query_map(params, entry)?)
        })
    }

    /// Returns up to four rows that are `Synced` or `Kept` with this content, those that are certain first.
    pub fn by_content(&self, folder: FolderId, content: &Sha256) -> Result<Vec<Entry>, Error> {
        self.ask(|connection| {
            let mut statement = connection.prepare_cached(BY_CONTENT)?;
            let params = params![folder.0, content.0, sql_limit(SAME_CONTENT)];
            let rows = statement.query_map(params, entry)?;
            // The index answers for the state; the row itself is asked once more.
            let is_claim = |row: &Entry| matches!(row.state, State::Synced | State::Kept);
            rows.map(|row| row.and_then(|row| is_claim(&row).then_some(row).ok_or_else(misled)))
                .collect()
        })
    }

    /// Returns the rows that are `Synced` or `Kept` and were read from this inode, but not more than 1,000.
    pub fn by_inode(&self, folder: FolderId, dev: u64, ino: u64) -> Result<Vec<Entry>, Error> {
        self.ask(|connection| {
            let mut statement = connection.prepare_cached(BY_INODE)?;
            // The same bits, signed, as they were written.
            let params = params![
                folder.0,
                ino.cast_signed(),
                dev.cast_signed(),
                sql_limit(NAMES)
            ];
            statement.query_map(params, entry)?.collect()
        })
    }

    /// Returns up to `limit` rows that a brake holds or a person has decided about, sorted by path, strictly after
    /// `after`.
    pub fn held(
        &self,
        folder: FolderId,
        after: &RelPath,
        limit: usize,
    ) -> Result<Vec<Entry>, Error> {
        self.read(|connection| {
            let params = params![folder.0, after.as_bytes(), sql_limit(limit)];
            ascending(
                after,
                connection.prepare_cached(HELD)?.query_map(params, entry)?,
            )
        })
    }

    /// Returns at most `count` rows that are `Synced`, spread over all that there are.
    pub fn sample(&self, folder: FolderId, count: u32) -> Result<Vec<Entry>, Error> {
        self.read(|connection| {
            let last: i64 = connection
                .prepare_cached(LAST)?
                .query_row([], |row| row.get(0))?;
            let mut statement = connection.prepare_cached(SYNCED_FROM)?;
            let mut rows: Vec<Entry> = Vec::new();
            for n in 0..i64::from(count) {
                let from = last * n / i64::from(count);
                let row = statement
                    .query_row(params![folder.0, from], entry)
                    .optional()?;
                rows.extend(row.filter(|row| rows.last().is_none_or(|last| last.path != row.path)));
            }
            Ok(rows)
        })
    }

    /// Counts the rows that a brake holds.
    pub fn count_held(&self, folder: FolderId) -> Result<HeldCounts, Error> {
        self.ask(|connection| {
            let mut statement = connection.prepare_cached(COUNT_HELD)?;
            statement.query_row(params![folder.0], |row| {
                Ok(HeldCounts {
                    deletes: length(row, 0)?,
                    overwrites: length(row, 1)?,
                })
            })
        })
    }

    /// Counts the rows that are `Synced`. Reads all of them: some tenths of a second for a million.
    pub fn count_synced(&self, folder: FolderId) -> Result<u64, Error> {
        self.ask(|connection| {
            connection
                .prepare_cached(COUNT_SYNCED)?
                .query_row(params![folder.0], |row| length(row, 0))
        })
    }

    /// Returns true if another path than `except` is `Synced` or `Kept` with a content of exactly this size.
    ///
    /// Answers for sizes above [`LARGE_BYTES`], and is false for others: only a large file has to be read before it is
    /// sent to know whether its content is there.
    pub fn knows_size(&self, folder: FolderId, size: u64, except: &RelPath) -> Result<bool, Error> {
        let Ok(sql_size) = i64::try_from(size) else {
            return Ok(false);
        };
        self.read(|connection| {
            connection
                .prepare_cached(KNOWS_SIZE)?
                .query_row(params![folder.0, sql_size, except.as_bytes()], |row| {
                    row.get(0)
                })
        })
    }

    /// Returns true if first contact found anything that has not been taken.
    pub fn has_remote(&self, folder: FolderId) -> Result<bool, Error> {
        self.ask(|connection| {
            connection
                .prepare_cached(ANY_REMOTE)?
                .query_row(params![folder.0], |row| row.get(0))
        })
    }

    /// Returns what first contact found under the whole key `key`, if it has not been taken.
    pub fn remote(&self, folder: FolderId, key: &str) -> Result<Option<Remote>, Error> {
        self.ask(|connection| {
            connection
                .prepare_cached(REMOTE)?
                .query_row(params![folder.0, key], |row| {
                    Ok(Remote {
                        key: row.get(0)?,
                        size: length(row, 1)?,
                        etag: row.get(2)?,
                    })
                })
                .optional()
        })
    }

    /// Counts a folder's rows. Reads all of them: about half a second for a million.
    pub fn counts(&self, folder: FolderId) -> Result<Counts, Error> {
        self.read(|connection| {
            connection
                .prepare_cached(COUNTS)?
                .query_row(params![folder.0], |row| {
                    Ok(Counts {
                        synced: length(row, 0)?,
                        synced_bytes: length(row, 1)?,
                        open: length(row, 2)?,
                        failed: length(row, 3)?,
                        ambiguous: length(row, 4)?,
                        held: length(row, 5)?,
                    })
                })
        })
    }

    /// Returns up to `limit` rows that are parked, sorted by path, strictly after `after`.
    pub fn parked(
        &self,
        folder: FolderId,
        after: &RelPath,
        limit: usize,
    ) -> Result<Vec<Entry>, Error> {
        self.read(|connection| {
            let params = params![folder.0, after.as_bytes(), sql_limit(limit)];
            ascending(
                after,
                connection
                    .prepare_cached(PARKED)?
                    .query_map(params, entry)?,
            )
        })
    }

    /// Returns up to `limit` rows with a failure, by path.
    pub fn failures(
        &self,
        folder: FolderId,
        limit: usize,
    ) -> Result<Vec<(RelPath, Failure)>, Error> {
        self.read(|connection| {
            connection
                .prepare_cached(FAILURES)?
                .query_map(params![folder.0, sql_limit(limit)], |row| {
                    let failure = Failure {
                        attempts: row.get(1)?,
                        error: row.get(2)?,
                        parked: parked(row, 3)?,
                    };
                    Ok((rel_path(row, 0)?, failure))
                })?
                .collect()
        })
    }
}

/// Returns a limit as `SQLite` takes it.
fn sql_limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// Returns the open interval that holds exactly the paths below `within`; `None` for the root, below which all are.
///
/// `within/` itself is no path, and `0` is the byte after `/`.
fn bounds(within: &RelPath) -> Option<(Vec<u8>, Vec<u8>)> {
    if within.is_root() {
        return None;
    }
    let ending = |byte: u8| [within.as_bytes(), &[byte]].concat();
    Some((ending(b'/'), ending(b'/' + 1)))
}

/// Collects rows in the order of their paths, beginning after `after`. The index has sorted them; a row that is out of
/// order is not the one that the index meant.
fn ascending(
    after: &RelPath,
    rows: impl Iterator<Item = rusqlite::Result<Entry>>,
) -> rusqlite::Result<Vec<Entry>> {
    let mut sorted: Vec<Entry> = Vec::new();
    for row in rows {
        let row = row?;
        if row.path <= *sorted.last().map_or(after, |last| &last.path) {
            return Err(misled());
        }
        sorted.push(row);
    }
    Ok(sorted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::schema;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).expect("a valid path")
    }

    #[test]
    fn the_bounds_hold_what_is_below_and_nothing_else() {
        let (low, high) = bounds(&path("a")).expect("not the root");
        let is_below = |text: &[u8]| text > &low[..] && text < &high[..];
        for below in [&b"a/b"[..], b"a/b/c", b"a/0", b"a/\x01", b"a/\xff\xff"] {
            assert!(is_below(below));
        }
        for beside in [&b"a"[..], b"a.txt", b"a0", b"a0/b", b"ab", b"b", b"A"] {
            assert!(!is_below(beside));
        }
        assert!(bounds(&RelPath::root()).is_none());
    }

    #[test]
    fn no_question_but_the_counts_reads_all_rows_or_sorts() -> rusqlite::Result<()> {
        let connection = schema::connect_memory()?;
        for (sql, index) in [
            (ENTRY, "sqlite_autoindex_files_1 (folder_id=? AND path=?)"),
            (PAGE, "sqlite_autoindex_files_1 (folder_id=? AND path>?)"),
            (
                PAGE_BELOW,
                "sqlite_autoindex_files_1 (folder_id=? AND path>? AND path<?)",
            ),
            (OPEN, "files_open (folder_id=? AND path>?)"),
            (BY_CONTENT, "files_content (folder_id=? AND <expr>=?)"),
            (
                ANY_BELOW,
                "sqlite_autoindex_files_1 (folder_id=? AND path>? AND path<?)",
            ),
            (BY_INODE, "files_inode (folder_id=? AND ino=? AND dev=?)"),
            (HELD, "files_held (folder_id=? AND path>?)"),
            (COUNT_HELD, "files_held (folder_id=?)"),
            (KNOWS_SIZE, "files_large (folder_id=? AND size=?)"),
            (FAILURES, "files_failed (folder_id=?)"),
            (PARKED, "files_failed (folder_id=? AND path>?)"),
        ] {
            let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}"))?;
            for n in 1..=statement.parameter_count() {
                statement.raw_bind_parameter(n, 1)?;
            }
            let mut rows = statement.raw_query();
            let mut plan = String::new();
            while let Some(row) = rows.next()? {
                plan.push_str(&row.get::<_, String>(3)?);
                plan.push('\n');
            }
            assert!(plan.contains(index), "{sql}\n{plan}");
            assert!(!plan.contains("TEMP B-TREE"), "{sql}\n{plan}");
        }
        Ok(())
    }
}
