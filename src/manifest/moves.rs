//! What a person says of a whole folder: it is somewhere else now, or is to be forgotten.

use rusqlite::{Connection, params};

use crate::manifest::connections::Manifest;
use crate::manifest::error::Error;
use crate::manifest::{FolderId, FolderKey};

const TAKEN: &str = "SELECT EXISTS (SELECT 1 FROM folders
    WHERE path = ?1 AND endpoint = ?2 AND bucket = ?3 AND prefix = ?4 AND id <> ?5)";
const MOVE: &str =
    "UPDATE folders SET path = ?2, endpoint = ?3, bucket = ?4, prefix = ?5 WHERE id = ?1";
// What lies in another place is compared with the rows before anything is written there, as after another agent.
const MEET: &str = "UPDATE folders SET contacted = 0 WHERE id = ?1";
const CATALOG: &str = "INSERT INTO catalog (folder_id, is_due)
    SELECT ?1, 1 WHERE EXISTS (SELECT 1 FROM files WHERE folder_id = ?1)";
const COUNT: &str = "SELECT count(*), coalesce(sum(size), 0) FROM files
    WHERE folder_id = ?1 AND state IN ('synced', 'kept', 'open') AND sha256 IS NOT NULL";
const UPLOADS: &str = "SELECT count(*) FROM uploads WHERE folder_id = ?1";
const NO_REMOTE: &str = "DELETE FROM remote WHERE folder_id = ?1";
const NO_UPLOADS: &str = "DELETE FROM uploads WHERE folder_id = ?1";
const NO_PARTS: &str = "DELETE FROM parts WHERE folder_id = ?1";
const NO_LOG: &str = "DELETE FROM log WHERE folder_id = ?1";
const NO_CATALOG: &str = "DELETE FROM catalog WHERE folder_id = ?1";
const NO_FILES: &str = "DELETE FROM files WHERE folder_id = ?1";
const NO_SUBFOLDERS: &str = "DELETE FROM subfolders WHERE folder_id = ?1";
const NO_NOTES: &str = "DELETE FROM meta WHERE k LIKE '%:' || ?1";
const NO_FOLDER: &str = "DELETE FROM folders WHERE id = ?1";

/// Every statement of this file.
pub(super) const ALL: [&str; 15] = [
    TAKEN,
    MOVE,
    MEET,
    CATALOG,
    COUNT,
    UPLOADS,
    NO_REMOTE,
    NO_UPLOADS,
    NO_PARTS,
    NO_LOG,
    NO_CATALOG,
    NO_FILES,
    NO_SUBFOLDERS,
    NO_NOTES,
    NO_FOLDER,
];

/// What of a folder lies in its bucket.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Holdings {
    /// Objects of files.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Uploads that were begun and have not ended.
    pub uploads: u64,
}

impl Manifest {
    /// Returns what of a folder lies in its bucket, as far as it is known.
    pub fn holdings(&self, folder: FolderId) -> Result<Holdings, Error> {
        self.read(|connection| holdings(connection, folder))
    }

    /// Says that a folder is what `to` says from now on; false if another one is that already, and nothing has changed.
    ///
    /// Its rows stay. Where it is in another place of S3, they are compared with what lies there at the next start.
    pub fn move_folder(
        &self,
        folder: FolderId,
        from: &FolderKey,
        to: &FolderKey,
    ) -> Result<bool, Error> {
        self.write(|connection| {
            let FolderKey {
                path,
                endpoint,
                bucket,
                prefix,
            } = to;
            let run = |sql: &str| connection.prepare_cached(sql)?.execute(params![folder.0]);
            let taken: bool = connection
                .prepare_cached(TAKEN)?
                .query_row(params![path, endpoint, bucket, prefix, folder.0], |row| {
                    row.get(0)
                })?;
            if taken {
                return Ok(false);
            }
            connection
                .prepare_cached(MOVE)?
                .execute(params![folder.0, path, endpoint, bucket, prefix])?;
            let place = |key: &FolderKey| {
                let FolderKey {
                    endpoint,
                    bucket,
                    prefix,
                    ..
                } = key.clone();
                (endpoint, bucket, prefix)
            };
            if place(from) != place(to) {
                for sql in [
                    MEET, NO_REMOTE, NO_PARTS, NO_UPLOADS, NO_LOG, NO_CATALOG, CATALOG,
                ] {
                    run(sql)?;
                }
            }
            Ok(true)
        })
    }

    /// Forgets everything about a folder. Returns what of it lies in the bucket, where it stays.
    pub fn forget_folder(&self, folder: FolderId) -> Result<Holdings, Error> {
        self.write(|connection| {
            let holdings = holdings(connection, folder)?;
            for sql in [
                NO_REMOTE,
                NO_PARTS,
                NO_UPLOADS,
                NO_LOG,
                NO_CATALOG,
                NO_FILES,
                NO_SUBFOLDERS,
                NO_NOTES,
                NO_FOLDER,
            ] {
                connection.prepare_cached(sql)?.execute(params![folder.0])?;
            }
            Ok(holdings)
        })
    }
}

fn holdings(connection: &Connection, folder: FolderId) -> rusqlite::Result<Holdings> {
    let (objects, bytes) = connection
        .prepare_cached(COUNT)?
        .query_row(params![folder.0], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
        })?;
    let uploads: i64 = connection
        .prepare_cached(UPLOADS)?
        .query_row(params![folder.0], |row| row.get(0))?;
    Ok(Holdings {
        objects: objects.cast_unsigned(),
        bytes: bytes.cast_unsigned(),
        uploads: uploads.cast_unsigned(),
    })
}
