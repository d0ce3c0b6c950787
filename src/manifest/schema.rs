//! The tables, and how a connection to them is set up. What must never happen: a row that lies can be stored.
//!
//! A step is never edited once a release has written it; `tests/fixtures/` keeps a database of each.

use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use crate::base::failpoint;

/// Marks the file as ours: "Tide".
pub(super) const APPLICATION_ID: i32 = 0x5469_6465;

/// The schema that this version writes: the number of [`STEPS`].
pub(super) const VERSION: i64 = STEPS.len() as i64;

/// The oldest `SQLite` to use, 3.51.3: it fixed the race at the reset of the log that could lose a commit.
pub(super) const OLDEST_SQLITE: i32 = 3_051_003;

/// Each step leads from the schema of its index to the next. Creation runs all of them, so that an upgraded file and a
/// new one are the same.
///
/// - Integers are signed: `dev`, `ino` and `nlink` hold the bits of unsigned ones.
/// - What is stored (`size` to `synced_at_ns`) is there as a whole or not at all. Only regular files have rows, so that
///   the kind of file has no column.
/// - A row is `live` if the log's last word of it is that it is there; what was known before there was a log gets into the
///   catalog with a snapshot.
/// - The path of a subfolder ends with `/`: so the table has the order in which a walk meets them.
/// - States are words: people read them, and no flipped bit makes one into another.
/// - An index is partial wherever its query is, and its query repeats the index's condition word for word: that is how
///   `SQLite` knows that it may use it. The first 8 bytes of a hash find it, and keep the index small.
const STEPS: [&str; 5] = ["
CREATE TABLE meta (k TEXT PRIMARY KEY, v ANY NOT NULL) STRICT, WITHOUT ROWID;

CREATE TABLE folders (
  id INTEGER PRIMARY KEY,
  path BLOB NOT NULL,
  endpoint TEXT NOT NULL,
  bucket TEXT NOT NULL,
  prefix TEXT NOT NULL,
  name TEXT NOT NULL,
  contacted INTEGER NOT NULL DEFAULT 0 CHECK (contacted IN (0, 1)),
  last_scan_ns INTEGER,
  UNIQUE (path, endpoint, bucket, prefix)
) STRICT;

CREATE TABLE files (
  id INTEGER PRIMARY KEY,
  folder_id INTEGER NOT NULL REFERENCES folders (id),
  path BLOB NOT NULL CHECK (length(path) > 0),
  state TEXT NOT NULL CHECK (state IN ('synced', 'open', 'kept', 'unsent')),
  ambiguous_until_ns INTEGER NOT NULL DEFAULT 0,
  size INTEGER CHECK (size >= 0),
  mtime_ns INTEGER,
  ctime_ns INTEGER,
  dev INTEGER,
  ino INTEGER,
  mode INTEGER,
  uid INTEGER,
  gid INTEGER,
  nlink INTEGER,
  read_at_ns INTEGER,
  sha256 BLOB CHECK (length(sha256) = 32),
  etag TEXT,
  version_id TEXT,
  synced_at_ns INTEGER,
  want_sha256 BLOB CHECK (length(want_sha256) = 32),
  attempts INTEGER NOT NULL DEFAULT 0 CHECK (attempts >= 0),
  last_error TEXT,
  UNIQUE (folder_id, path),
  CHECK (state IN ('open', 'unsent') OR (sha256 IS NOT NULL AND etag IS NOT NULL)),
  CHECK ((size IS NULL) + (mtime_ns IS NULL) + (ctime_ns IS NULL) + (dev IS NULL) + (ino IS NULL) + (mode IS NULL)
    + (uid IS NULL) + (gid IS NULL) + (nlink IS NULL) + (read_at_ns IS NULL) + (sha256 IS NULL) + (etag IS NULL)
    + (synced_at_ns IS NULL) IN (0, 13)),
  CHECK (version_id IS NULL OR etag IS NOT NULL)
) STRICT;
CREATE INDEX files_content ON files (folder_id, substr(sha256, 1, 8), ambiguous_until_ns)
  WHERE state IN ('synced', 'kept');
CREATE INDEX files_large ON files (folder_id, size) WHERE state IN ('synced', 'kept') AND size > 16777216;
CREATE INDEX files_open ON files (folder_id, path) WHERE state IN ('open', 'unsent') OR ambiguous_until_ns <> 0;
CREATE INDEX files_failed ON files (folder_id, path) WHERE last_error IS NOT NULL;

CREATE TABLE remote (
  folder_id INTEGER NOT NULL REFERENCES folders (id),
  key TEXT NOT NULL,
  size INTEGER NOT NULL CHECK (size >= 0),
  etag TEXT NOT NULL,
  PRIMARY KEY (folder_id, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE uploads (
  folder_id INTEGER NOT NULL REFERENCES folders (id),
  upload_id TEXT NOT NULL,
  path BLOB NOT NULL CHECK (length(path) > 0),
  key TEXT NOT NULL,
  PRIMARY KEY (folder_id, upload_id)
) STRICT, WITHOUT ROWID;

INSERT INTO meta (k, v) VALUES ('agent_id', lower(hex(randomblob(16)))), ('clean_stop', 1);
", "
ALTER TABLE folders ADD COLUMN root_dev INTEGER;
ALTER TABLE folders ADD COLUMN root_ino INTEGER;
ALTER TABLE folders ADD COLUMN root_fsid INTEGER;
ALTER TABLE folders ADD COLUMN trash_due_ns INTEGER;
ALTER TABLE folders ADD COLUMN mounts BLOB;
ALTER TABLE files ADD COLUMN doubtful INTEGER NOT NULL DEFAULT 0 CHECK (doubtful IN (0, 1));
ALTER TABLE files ADD COLUMN held TEXT CHECK (held IN ('delete', 'overwrite', 'released', 'dropped'));
ALTER TABLE files ADD COLUMN held_at_ns INTEGER;
ALTER TABLE files ADD COLUMN held_seen TEXT;
CREATE INDEX files_inode ON files (folder_id, ino, dev) WHERE state IN ('synced', 'kept');
CREATE INDEX files_held ON files (folder_id, path) WHERE held IS NOT NULL;
", "
ALTER TABLE files ADD COLUMN parked_until_ns INTEGER;
ALTER TABLE files ADD COLUMN parked_seen TEXT;
ALTER TABLE folders ADD COLUMN config TEXT;

ALTER TABLE uploads ADD COLUMN begun_at_ns INTEGER;
ALTER TABLE uploads ADD COLUMN part_size INTEGER CHECK (part_size > 0);
ALTER TABLE uploads ADD COLUMN size INTEGER CHECK (size >= 0);
ALTER TABLE uploads ADD COLUMN mtime_ns INTEGER;
ALTER TABLE uploads ADD COLUMN ctime_ns INTEGER;
ALTER TABLE uploads ADD COLUMN dev INTEGER;
ALTER TABLE uploads ADD COLUMN ino INTEGER;
CREATE INDEX uploads_path ON uploads (folder_id, path);
CREATE TABLE parts (
  folder_id INTEGER NOT NULL,
  upload_id TEXT NOT NULL,
  number INTEGER NOT NULL CHECK (number BETWEEN 1 AND 10000),
  etag TEXT NOT NULL,
  crc64 INTEGER NOT NULL,
  stored_at_ns INTEGER NOT NULL,
  PRIMARY KEY (folder_id, upload_id, number),
  FOREIGN KEY (folder_id, upload_id) REFERENCES uploads (folder_id, upload_id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

CREATE TABLE buckets (
  endpoint TEXT NOT NULL,
  bucket TEXT NOT NULL,
  features TEXT NOT NULL,
  probed_at_ns INTEGER NOT NULL,
  PRIMARY KEY (endpoint, bucket)
) STRICT, WITHOUT ROWID;
", "
ALTER TABLE files ADD COLUMN live INTEGER NOT NULL DEFAULT 0 CHECK (live IN (0, 1));
UPDATE files SET live = 1 WHERE state = 'synced';

CREATE TABLE log (
  folder_id INTEGER NOT NULL REFERENCES folders (id),
  seq INTEGER NOT NULL CHECK (seq > 0),
  op TEXT NOT NULL CHECK (op IN ('put', 'gone', 'aside')),
  path BLOB NOT NULL CHECK (length(path) > 0),
  size INTEGER CHECK (size >= 0),
  mtime_ns INTEGER,
  mode INTEGER,
  uid INTEGER,
  gid INTEGER,
  sha256 BLOB CHECK (length(sha256) = 32),
  etag TEXT,
  version_id TEXT,
  is_kept INTEGER CHECK (is_kept IN (0, 1)),
  trash_key TEXT,
  time_ns INTEGER NOT NULL,
  PRIMARY KEY (folder_id, seq),
  CHECK ((op = 'aside') = (trash_key IS NOT NULL)),
  CHECK (op <> 'put' OR (size IS NOT NULL AND mtime_ns IS NOT NULL AND mode IS NOT NULL AND uid IS NOT NULL
    AND gid IS NOT NULL AND sha256 IS NOT NULL AND etag IS NOT NULL))
) STRICT, WITHOUT ROWID;

CREATE TABLE catalog (
  folder_id INTEGER PRIMARY KEY REFERENCES folders (id),
  number INTEGER NOT NULL DEFAULT 0 CHECK (number >= 0),
  hash BLOB CHECK (length(hash) = 32),
  base INTEGER NOT NULL DEFAULT 0,
  published INTEGER NOT NULL DEFAULT 0,
  records INTEGER NOT NULL DEFAULT 0,
  links INTEGER NOT NULL DEFAULT 0,
  is_due INTEGER NOT NULL CHECK (is_due IN (0, 1)),
  began INTEGER,
  after BLOB
) STRICT;
INSERT INTO catalog (folder_id, is_due) SELECT DISTINCT folder_id, 1 FROM files;
", "
CREATE TABLE subfolders (
  folder_id INTEGER NOT NULL REFERENCES folders (id),
  path BLOB NOT NULL CHECK (length(path) > 1 AND substr(path, -1) = x'2f'),
  mtime_ns INTEGER NOT NULL,
  mode INTEGER NOT NULL,
  uid INTEGER NOT NULL,
  gid INTEGER NOT NULL,
  seen_at_ns INTEGER NOT NULL,
  PRIMARY KEY (folder_id, path)
) STRICT, WITHOUT ROWID;

ALTER TABLE log RENAME TO log_before;
CREATE TABLE log (
  folder_id INTEGER NOT NULL REFERENCES folders (id),
  seq INTEGER NOT NULL CHECK (seq > 0),
  op TEXT NOT NULL CHECK (op IN ('put', 'gone', 'aside', 'folder', 'folder_gone', 'drill')),
  path BLOB CHECK (length(path) > 0),
  size INTEGER CHECK (size >= 0),
  mtime_ns INTEGER,
  mode INTEGER,
  uid INTEGER,
  gid INTEGER,
  sha256 BLOB CHECK (length(sha256) = 32),
  etag TEXT,
  version_id TEXT,
  is_kept INTEGER CHECK (is_kept IN (0, 1)),
  trash_key TEXT,
  time_ns INTEGER NOT NULL,
  drill TEXT,
  PRIMARY KEY (folder_id, seq),
  CHECK ((op = 'aside') = (trash_key IS NOT NULL)),
  CHECK ((op = 'drill') = (path IS NULL) AND (op = 'drill') = (drill IS NOT NULL)),
  CHECK (op <> 'put' OR (size IS NOT NULL AND mtime_ns IS NOT NULL AND mode IS NOT NULL AND uid IS NOT NULL
    AND gid IS NOT NULL AND sha256 IS NOT NULL AND etag IS NOT NULL)),
  CHECK (op <> 'folder' OR (mtime_ns IS NOT NULL AND mode IS NOT NULL AND uid IS NOT NULL AND gid IS NOT NULL))
) STRICT, WITHOUT ROWID;
INSERT INTO log (folder_id, seq, op, path, size, mtime_ns, mode, uid, gid, sha256, etag, version_id, is_kept, trash_key,
    time_ns)
  SELECT folder_id, seq, op, path, size, mtime_ns, mode, uid, gid, sha256, etag, version_id, is_kept, trash_key, time_ns
  FROM log_before;
DROP TABLE log_before;
ALTER TABLE catalog ADD COLUMN after_folder BLOB;
"];

/// What every connection is told: 16 MiB of cache; no mapped memory, where an I/O error would be a signal; cells and
/// schema are not trusted blindly; no temporary file.
const EVERY: &str = "
PRAGMA cache_size = -16384;
PRAGMA mmap_size = 0;
PRAGMA foreign_keys = ON;
PRAGMA cell_size_check = ON;
PRAGMA trusted_schema = OFF;
PRAGMA temp_store = MEMORY;
";

/// What a writing connection is told besides. FULL is what makes a commit durable in WAL mode. A checkpoint every 4,000
/// pages (16 MB) is rare enough to gather pages; a log that grew beyond 64 MiB is cut again.
const WRITING: &str = "
PRAGMA synchronous = FULL;
PRAGMA wal_autocheckpoint = 4000;
PRAGMA journal_size_limit = 67108864;
";

/// How a database is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Access {
    /// To read and write; the file must be there.
    Write,
    /// To read only.
    Read,
    /// To read a file that cannot change, without its log and its shared memory: only right if there is no log and the
    /// folder cannot be written.
    ReadStill,
}

/// Opens a database that is there and sets the connection up.
///
/// A filesystem on which `SQLite` cannot keep its log and its shared memory is an error of kind "cannot open".
pub(super) fn connect(path: &Path, access: Access) -> rusqlite::Result<Connection> {
    let connection = match access {
        Access::Write => {
            Connection::open_with_flags(path, flags(OpenFlags::SQLITE_OPEN_READ_WRITE))
        }
        Access::Read => Connection::open_with_flags(path, flags(OpenFlags::SQLITE_OPEN_READ_ONLY)),
        Access::ReadStill => Connection::open_with_flags(
            still_uri(path),
            flags(OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI),
        ),
    }?;
    set_up(&connection)?;
    if access == Access::Write {
        let mode: String =
            connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
        if mode != "wal" {
            return Err(rusqlite::Error::SqliteFailure(
                rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CANTOPEN),
                Some(format!(
                    "its filesystem cannot hold a write-ahead log (journal mode {mode})"
                )),
            ));
        }
        connection.execute_batch(WRITING)?;
    }
    Ok(connection)
}

/// Opens an empty database in memory, with all tables.
pub(super) fn connect_memory() -> rusqlite::Result<Connection> {
    let mut connection = Connection::open_in_memory_with_flags(flags(
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE,
    ))?;
    set_up(&connection)?;
    upgrade(&mut connection, 0)?;
    Ok(connection)
}

/// Adds what every open has. Connections stand behind a mutex of ours.
fn flags(access: OpenFlags) -> OpenFlags {
    access | OpenFlags::SQLITE_OPEN_NO_MUTEX
}

fn set_up(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(Duration::from_secs(10))?;
    // More than there are statements, so that each is prepared once.
    connection.set_prepared_statement_cache_capacity(112);
    // Also when other values are bound: what a plan may rest on are the texts of the statements alone.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.execute_batch(EVERY)
}

/// Returns the URI that opens `path` as a file that does not change.
fn still_uri(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    /// What may stand in a URI's path as it is; the rest is escaped byte by byte.
    const ESCAPED: percent_encoding::AsciiSet = percent_encoding::NON_ALPHANUMERIC
        .remove(b'/')
        .remove(b'.')
        .remove(b'-')
        .remove(b'_');
    let path = percent_encoding::percent_encode(path.as_os_str().as_bytes(), &ESCAPED);
    format!("file:{path}?immutable=1")
}

/// Leads a database from the schema `from` to [`VERSION`], in one transaction: it is the old one or the new one, never
/// a mixture.
pub(super) fn upgrade(connection: &mut Connection, from: i64) -> rusqlite::Result<()> {
    if from >= VERSION {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for step in STEPS.iter().skip(usize::try_from(from).unwrap_or(0)) {
        transaction.execute_batch(step)?;
        failpoint::hit("schema-step");
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", VERSION)?;
    failpoint::hit("schema-stamped");
    transaction.commit()?;
    failpoint::hit("schema-committed");
    Ok(())
}

/// Returns the file's application id and its schema's number.
pub(super) fn stamp(connection: &Connection) -> rusqlite::Result<(i32, i64)> {
    let number = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    // Both are 32 bits wide in the file.
    Ok((number("application_id")? as i32, number("user_version")?))
}

/// Returns what `SQLite`'s own check of the structure finds first; `None` if nothing. 0.4 to 0.8 s for a million rows.
pub(super) fn first_fault(connection: &Connection) -> rusqlite::Result<Option<String>> {
    let found: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    Ok((found != "ok").then_some(found))
}

/// Returns a value of the `meta` table.
pub(super) fn meta<T: rusqlite::types::FromSql>(
    connection: &Connection,
    key: &str,
) -> rusqlite::Result<T> {
    connection.query_row("SELECT v FROM meta WHERE k = ?1", [key], |row| row.get(0))
}

/// Notes durably whether the last agent has ended in an orderly way.
pub(super) fn mark_clean(connection: &Connection, clean: bool) -> rusqlite::Result<()> {
    connection
        .execute(
            "UPDATE meta SET v = ?1 WHERE k = 'clean_stop'",
            [i64::from(clean)],
        )
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_uri_of_an_odd_path_opens_that_path() {
        assert_eq!(
            still_uri(Path::new("/a b?c#d%/tidewatch.db")),
            "file:/a%20b%3Fc%23d%25/tidewatch.db?immutable=1"
        );
    }
}
