//! The multipart uploads that were begun and not ended, and their parts: what a later try goes on with, and what has to be
//! given up.
//!
//! The row of a creation that is being asked for has an id of our own; the store's answer takes its place. Must never forget
//! an upload that the store may still have.

use rusqlite::{Connection, Row, params};

use crate::base::digest::Crc64;
use crate::base::path::RelPath;
use crate::manifest::changes::sql_length;
use crate::manifest::connections::Manifest;
use crate::manifest::decode::{length, rel_path};
use crate::manifest::error::Error;
use crate::manifest::{Cut, FolderId, Upload, UploadPart};

/// What the id of a creation that has not been answered begins with; no store's id does.
const ASKED: char = '?';

/// The columns of an upload, in the order in which [`upload`] reads them.
macro_rules! uploads_where {
    ($condition:literal) => {
        concat!(
            "SELECT path, key, upload_id, begun_at_ns, part_size, size, mtime_ns, ctime_ns, dev, ino
             FROM uploads WHERE folder_id = ?1",
            $condition
        )
    };
}

const ALL_OF_THEM: &str = uploads_where!(" ORDER BY path, upload_id");
const OF_PATH: &str = uploads_where!(" AND path = ?2 ORDER BY upload_id");
const PARTS: &str = "SELECT number, etag, crc64, stored_at_ns FROM parts
    WHERE folder_id = ?1 AND upload_id = ?2 ORDER BY number";
const PROGRESS: &str =
    "SELECT max(stored_at_ns) FROM parts WHERE folder_id = ?1 AND upload_id = ?2";
const BEGUN: &str = "INSERT INTO uploads (folder_id, upload_id, path, key, begun_at_ns, part_size, size, mtime_ns,
      ctime_ns, dev, ino)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
    ON CONFLICT (folder_id, upload_id) DO UPDATE SET path = excluded.path, key = excluded.key,
      begun_at_ns = excluded.begun_at_ns, part_size = excluded.part_size, size = excluded.size,
      mtime_ns = excluded.mtime_ns, ctime_ns = excluded.ctime_ns, dev = excluded.dev, ino = excluded.ino";
// What is told late of an upload that has ended is no part of anything.
const PART_STORED: &str = "INSERT OR REPLACE INTO parts (folder_id, upload_id, number, etag, crc64, stored_at_ns)
    SELECT folder_id, upload_id, ?3, ?4, ?5, ?6 FROM uploads WHERE folder_id = ?1 AND upload_id = ?2";
const ENDED: &str = "DELETE FROM uploads WHERE folder_id = ?1 AND upload_id = ?2";

/// Every statement of this file.
pub(super) const ALL: [&str; 7] = [
    ALL_OF_THEM,
    OF_PATH,
    PARTS,
    PROGRESS,
    BEGUN,
    PART_STORED,
    ENDED,
];

impl Upload {
    /// Returns the upload that is about to be created at `now_ns` (wall clock, nanoseconds).
    pub fn asked(path: RelPath, key: String, now_ns: i64) -> Self {
        Self {
            id: asked_id(&key, now_ns),
            path,
            key,
            begun_at_ns: now_ns,
            cut: None,
        }
    }

    /// Returns true if the store has told its id: it can be aborted by it.
    pub fn is_answered(&self) -> bool {
        !self.id.starts_with(ASKED)
    }
}

/// Returns an id that differs for each key and instant: the same key may have been asked for before, without an answer.
fn asked_id(key: &str, now_ns: i64) -> String {
    format!("{ASKED}{now_ns}:{key}")
}

impl Manifest {
    /// Returns the multipart uploads that were begun and not ended, by path.
    pub fn uploads(&self, folder: FolderId) -> Result<Vec<Upload>, Error> {
        self.read(|connection| {
            connection
                .prepare_cached(ALL_OF_THEM)?
                .query_map(params![folder.0], upload)?
                .collect()
        })
    }

    /// Returns those of one path.
    pub fn uploads_of(&self, folder: FolderId, path: &RelPath) -> Result<Vec<Upload>, Error> {
        self.read(|connection| {
            connection
                .prepare_cached(OF_PATH)?
                .query_map(params![folder.0, path.as_bytes()], upload)?
                .collect()
        })
    }

    /// Returns the parts of an upload that were answered, by number.
    pub fn parts(&self, folder: FolderId, upload: &str) -> Result<Vec<UploadPart>, Error> {
        self.read(|connection| {
            connection
                .prepare_cached(PARTS)?
                .query_map(params![folder.0, upload], |row| {
                    Ok(UploadPart {
                        number: row.get(0)?,
                        etag: row.get(1)?,
                        // The same bits, signed.
                        crc64: Crc64(row.get::<_, i64>(2)?.cast_unsigned()),
                        stored_at_ns: row.get(3)?,
                    })
                })?
                .collect()
        })
    }

    /// Returns when an upload last came on (wall clock, nanoseconds): its last answered part, or its beginning.
    pub fn progress_ns(&self, folder: FolderId, upload: &Upload) -> Result<i64, Error> {
        self.read(|connection| {
            let last: Option<i64> = connection
                .prepare_cached(PROGRESS)?
                .query_row(params![folder.0, upload.id], |row| row.get(0))?;
            Ok(last.unwrap_or(upload.begun_at_ns).max(upload.begun_at_ns))
        })
    }
}

/// Reads a row of `uploads_where`.
fn upload(row: &Row<'_>) -> rusqlite::Result<Upload> {
    Ok(Upload {
        path: rel_path(row, 0)?,
        key: row.get(1)?,
        id: row.get(2)?,
        begun_at_ns: row.get::<_, Option<i64>>(3)?.unwrap_or(0),
        cut: cut(row)?,
    })
}

/// Reads how an upload is cut, which is there as a whole or not at all.
fn cut(row: &Row<'_>) -> rusqlite::Result<Option<Cut>> {
    if row.get::<_, Option<i64>>(4)?.is_none() {
        return Ok(None);
    }
    Ok(Some(Cut {
        part_size: length(row, 4)?,
        size: length(row, 5)?,
        mtime_ns: row.get(6)?,
        ctime_ns: row.get(7)?,
        dev: row.get::<_, i64>(8)?.cast_unsigned(),
        ino: row.get::<_, i64>(9)?.cast_unsigned(),
    }))
}

/// Notes an upload; `connection` is inside a transaction. An answer takes the place of its question.
pub(super) fn begun(
    connection: &Connection,
    folder: FolderId,
    upload: &Upload,
) -> rusqlite::Result<()> {
    let Upload {
        path,
        key,
        id,
        begun_at_ns,
        cut,
    } = upload;
    if upload.is_answered() {
        ended(connection, folder, &asked_id(key, *begun_at_ns))?;
    }
    let part_size = cut.map(|cut| sql_length(cut.part_size)).transpose()?;
    let size = cut.map(|cut| sql_length(cut.size)).transpose()?;
    connection
        .prepare_cached(BEGUN)?
        .execute(params![
            folder.0,
            id,
            path.as_bytes(),
            key,
            begun_at_ns,
            part_size,
            size,
            cut.map(|cut| cut.mtime_ns),
            cut.map(|cut| cut.ctime_ns),
            cut.map(|cut| cut.dev.cast_signed()),
            cut.map(|cut| cut.ino.cast_signed()),
        ])
        .map(drop)
}

/// Notes a part; `connection` is inside a transaction.
pub(super) fn part_stored(
    connection: &Connection,
    folder: FolderId,
    upload: &str,
    part: &UploadPart,
) -> rusqlite::Result<()> {
    let UploadPart {
        number,
        etag,
        crc64,
        stored_at_ns,
    } = part;
    connection
        .prepare_cached(PART_STORED)?
        .execute(params![
            folder.0,
            upload,
            number,
            etag,
            crc64.0.cast_signed(),
            stored_at_ns
        ])
        .map(drop)
}

/// Forgets an upload and its parts; `connection` is inside a transaction.
pub(super) fn ended(connection: &Connection, folder: FolderId, id: &str) -> rusqlite::Result<()> {
    connection
        .prepare_cached(ENDED)?
        .execute(params![folder.0, id])
        .map(drop)
}
