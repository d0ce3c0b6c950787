//! The bucket's index: one SQLite file that says which objects and uploads there are.
//!
//! The index decides: a file in the folder without a row here is not an object. It is a store to try things with and to
//! test against, so it is not synced to the disk: a killed process loses nothing, a power cut may lose the last writes.
//! The file is locked for as long as it is open, so that two endpoints never serve one folder.
//!
//! Keys are blobs, because S3 orders keys by their UTF-8 bytes.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use s3s::{S3Error, S3Result};
use serde::{Deserialize, Serialize};

use crate::commands::demo::storage::files::Place;
use crate::commands::demo::storage::sums::{Kind, Method, Sum};

/// The version of the schema, in `user_version`.
const VERSION: i64 = 1;

const SCHEMA: &str = "
    CREATE TABLE bucket (created_ns INTEGER NOT NULL) STRICT;
    CREATE TABLE objects (
        key BLOB NOT NULL PRIMARY KEY,
        plain INTEGER NOT NULL,       -- 1: the file DIR/<key>; 0: the overflow folder
        size INTEGER NOT NULL,
        etag TEXT NOT NULL,
        modified_ns INTEGER NOT NULL,
        method TEXT NOT NULL,         -- the checksum that the object keeps
        kind TEXT NOT NULL,
        sum TEXT NOT NULL,
        upload TEXT,                  -- the multipart upload that made it
        attributes TEXT NOT NULL      -- JSON
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE uploads (
        id TEXT NOT NULL PRIMARY KEY,
        key BLOB NOT NULL,
        started_ns INTEGER NOT NULL,
        method TEXT,
        kind TEXT,
        attributes TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX uploads_by_key ON uploads (key, id);
    CREATE TABLE parts (
        upload TEXT NOT NULL REFERENCES uploads (id) ON DELETE CASCADE,
        number INTEGER NOT NULL,
        file TEXT NOT NULL,
        size INTEGER NOT NULL,
        etag TEXT NOT NULL,
        modified_ns INTEGER NOT NULL,
        method TEXT NOT NULL,
        sum TEXT NOT NULL,
        PRIMARY KEY (upload, number)
    ) STRICT, WITHOUT ROWID;
";

const OBJECT: &str = "SELECT key, plain, size, etag, modified_ns, method, kind, sum, upload, attributes FROM objects";
const PART: &str = "SELECT number, file, size, etag, modified_ns, method, sum FROM parts";

/// What an object carries besides its bytes, kept as it was sent.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Attributes {
    pub user: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_encoding: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_language: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_disposition: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_control: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_class: Option<String>,
}

/// An object.
#[derive(Clone, Debug)]
pub struct Object {
    pub key: String,
    pub place: Place,
    pub size: u64,
    /// Without quotes.
    pub etag: String,
    pub modified_ns: i64,
    pub sum: Sum,
    /// The multipart upload that made it.
    pub upload: Option<String>,
    pub attributes: Attributes,
}

/// A multipart upload that is open.
#[derive(Clone, Debug)]
pub struct Upload {
    pub id: String,
    pub key: String,
    pub started_ns: i64,
    /// The checksum that the upload was created for.
    pub declared: Option<(Method, Kind)>,
    pub attributes: Attributes,
}

/// A part of an open upload.
#[derive(Clone, Debug)]
pub struct Part {
    pub number: i32,
    pub file: String,
    pub size: u64,
    pub etag: String,
    pub modified_ns: i64,
    pub sum: Sum,
}

/// The open index.
#[derive(Debug)]
pub struct Index {
    db: Connection,
    /// When the bucket was made.
    pub created_ns: i64,
}

impl Index {
    /// Opens the index, or makes an empty one.
    pub fn open(path: &Path, now_ns: i64) -> anyhow::Result<Self> {
        let db = Connection::open(path)?;
        // An endpoint that has just been dropped may still be finishing its last write.
        db.busy_timeout(Duration::from_secs(2))?;
        db.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        db.pragma_update(None, "journal_mode", "WAL")?;
        db.pragma_update(None, "synchronous", "OFF")?;
        db.pragma_update(None, "foreign_keys", true)?;
        db.set_prepared_statement_cache_capacity(64);
        let version: i64 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
        match version {
            0 => {
                db.execute_batch(&format!(
                    "BEGIN IMMEDIATE; {SCHEMA} INSERT INTO bucket VALUES ({now_ns}); \
                     PRAGMA user_version = {VERSION}; COMMIT;"
                ))?;
            }
            VERSION => {}
            other => anyhow::bail!(
                "`{}` is of version {other}, this program knows {VERSION}: use another folder",
                path.display()
            ),
        }
        let created_ns = db.query_row("SELECT created_ns FROM bucket", [], |row| row.get(0))?;
        Ok(Self { db, created_ns })
    }

    /// Runs `work` as one transaction, which its failure rolls back.
    pub fn transaction<R>(&self, work: impl FnOnce(&Self) -> S3Result<R>) -> S3Result<R> {
        let run = |sql| {
            self.db
                .prepare_cached(sql)
                .and_then(|mut statement| statement.execute([]))
                .map_err(S3Error::internal_error)
        };
        run("BEGIN IMMEDIATE")?;
        let result = work(self);
        run(if result.is_ok() { "COMMIT" } else { "ROLLBACK" })?;
        result
    }

    /// Looks an object up.
    pub fn object(&self, key: &str) -> rusqlite::Result<Option<Object>> {
        self.db
            .prepare_cached(&format!("{OBJECT} WHERE key = ?1"))?
            .query_row([key.as_bytes()], object)
            .optional()
    }

    /// Writes an object's row, over an older one.
    pub fn put(&self, object: &Object) -> rusqlite::Result<()> {
        self.db
            .prepare_cached(
                "INSERT OR REPLACE INTO objects VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            )?
            .execute(params![
                object.key.as_bytes(),
                object.place == Place::Plain,
                object.size as i64,
                object.etag,
                object.modified_ns,
                object.sum.method.name(),
                object.sum.kind.name(),
                object.sum.value,
                object.upload,
                json(&object.attributes)?,
            ])
            .map(drop)
    }

    /// Removes an object's row.
    pub fn delete(&self, key: &str) -> rusqlite::Result<()> {
        self.db
            .prepare_cached("DELETE FROM objects WHERE key = ?1")?
            .execute([key.as_bytes()])
            .map(drop)
    }

    /// Hands over the objects from the key `from` on, in order, until `each` returns false.
    pub fn scan(&self, from: &[u8], mut each: impl FnMut(Object) -> bool) -> rusqlite::Result<()> {
        let mut statement = self
            .db
            .prepare_cached(&format!("{OBJECT} WHERE key >= ?1 ORDER BY key"))?;
        let mut rows = statement.query([from])?;
        while let Some(row) = rows.next()? {
            if !each(object(row)?) {
                break;
            }
        }
        Ok(())
    }

    /// Writes an upload's row.
    pub fn begin(&self, upload: &Upload) -> rusqlite::Result<()> {
        self.db
            .prepare_cached("INSERT INTO uploads VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
            .execute(params![
                upload.id,
                upload.key.as_bytes(),
                upload.started_ns,
                upload.declared.map(|(method, _)| method.name()),
                upload.declared.map(|(_, kind)| kind.name()),
                json(&upload.attributes)?,
            ])
            .map(drop)
    }

    /// Looks an open upload up.
    pub fn upload(&self, id: &str) -> rusqlite::Result<Option<Upload>> {
        self.db
            .prepare_cached("SELECT * FROM uploads WHERE id = ?1")?
            .query_row([id], upload)
            .optional()
    }

    /// Lists the open uploads, in order of key, then of id.
    pub fn uploads(&self) -> rusqlite::Result<Vec<Upload>> {
        self.db
            .prepare_cached("SELECT * FROM uploads ORDER BY key, id")?
            .query_map([], upload)?
            .collect()
    }

    /// Removes an upload and its parts from the index.
    pub fn end(&self, id: &str) -> rusqlite::Result<()> {
        self.db
            .prepare_cached("DELETE FROM uploads WHERE id = ?1")?
            .execute([id])
            .map(drop)
    }

    /// Writes a part's row and returns the file of the part that it replaces.
    pub fn put_part(&self, upload: &str, part: &Part) -> rusqlite::Result<Option<String>> {
        let replaced = self
            .db
            .prepare_cached("SELECT file FROM parts WHERE upload = ?1 AND number = ?2")?
            .query_row(params![upload, part.number], |row| row.get(0))
            .optional()?;
        self.db
            .prepare_cached("INSERT OR REPLACE INTO parts VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?
            .execute(params![
                upload,
                part.number,
                part.file,
                part.size as i64,
                part.etag,
                part.modified_ns,
                part.sum.method.name(),
                part.sum.value,
            ])?;
        Ok(replaced)
    }

    /// Lists an upload's parts in order.
    pub fn parts(&self, upload: &str) -> rusqlite::Result<Vec<Part>> {
        self.db
            .prepare_cached(&format!("{PART} WHERE upload = ?1 ORDER BY number"))?
            .query_map([upload], part)?
            .collect()
    }

    /// Returns true if some open upload has this file as a part.
    pub fn is_part(&self, file: &str) -> rusqlite::Result<bool> {
        self.db
            .query_row("SELECT 1 FROM parts WHERE file = ?1", [file], |_| Ok(()))
            .optional()
            .map(|row| row.is_some())
    }
}

fn object(row: &Row<'_>) -> rusqlite::Result<Object> {
    Ok(Object {
        key: key(row, 0)?,
        place: if row.get(1)? {
            Place::Plain
        } else {
            Place::Overflow
        },
        size: row.get::<_, i64>(2)? as u64,
        etag: row.get(3)?,
        modified_ns: row.get(4)?,
        sum: Sum {
            method: method(row, 5)?,
            kind: kind(row, 6)?,
            value: row.get(7)?,
        },
        upload: row.get(8)?,
        attributes: attributes(row, 9)?,
    })
}

fn upload(row: &Row<'_>) -> rusqlite::Result<Upload> {
    let declared = match row.get::<_, Option<String>>(3)? {
        Some(_) => Some((method(row, 3)?, kind(row, 4)?)),
        None => None,
    };
    Ok(Upload {
        id: row.get(0)?,
        key: key(row, 1)?,
        started_ns: row.get(2)?,
        declared,
        attributes: attributes(row, 5)?,
    })
}

fn part(row: &Row<'_>) -> rusqlite::Result<Part> {
    Ok(Part {
        number: row.get(0)?,
        file: row.get(1)?,
        size: row.get::<_, i64>(2)? as u64,
        etag: row.get(3)?,
        modified_ns: row.get(4)?,
        sum: Sum {
            method: method(row, 5)?,
            kind: Kind::FullObject,
            value: row.get(6)?,
        },
    })
}

fn key(row: &Row<'_>, column: usize) -> rusqlite::Result<String> {
    String::from_utf8(row.get(column)?).map_err(|error| broken(column, Box::new(error)))
}

fn method(row: &Row<'_>, column: usize) -> rusqlite::Result<Method> {
    let name: String = row.get(column)?;
    Method::from_name(&name).ok_or_else(|| broken(column, name.into()))
}

fn kind(row: &Row<'_>, column: usize) -> rusqlite::Result<Kind> {
    let name: String = row.get(column)?;
    Kind::from_name(&name).ok_or_else(|| broken(column, name.into()))
}

fn attributes(row: &Row<'_>, column: usize) -> rusqlite::Result<Attributes> {
    let text = row.get_ref(column)?.as_str()?;
    serde_json::from_str(text).map_err(|error| broken(column, Box::new(error)))
}

fn broken(
    column: usize,
    why: Box<dyn std::error::Error + Send + Sync + 'static>,
) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, why)
}

fn json(attributes: &Attributes) -> rusqlite::Result<String> {
    serde_json::to_string(attributes)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}
