//! The log: what has happened to the rows and is not in the catalog yet, and how far the catalog has come.
//!
//! Rows of the log are made by the transaction that changes a row, from the row before and the row after, so that nobody
//! who changes one can forget it. A row of `files` is `live` if the last that was logged of its path is that it is there,
//! with what the row has stored.
//!
//! Invariant: the numbers of a folder's log go up by one and are never used twice, also when it was emptied.
//!
//! Bound: some 300 bytes for each change that is not published. While the bucket cannot be reached that is at most what
//! changes on the disk, as nothing becomes level: a row is put once, and is gone once. Where files can be stored and links
//! cannot, it grows with every change, and `status` says so.

use rusqlite::{Connection, OptionalExtension as _, Row, named_params, params};

use crate::base::digest::Sha256;
use crate::base::drill::Drill;
use crate::base::path::RelPath;
use crate::base::stat::{FolderStamp, Stat};
use crate::manifest::changes::sql_length;
use crate::manifest::connections::Manifest;
use crate::manifest::decode::{digest, length, rel_path, unreadable};
use crate::manifest::error::Error;
use crate::manifest::{Content, Entry, FolderId, State};

/// Inserts a row into the log, under the next number.
macro_rules! logs {
    ($what:literal) => {
        concat!(
            "INSERT INTO log (folder_id, seq, op, path, size, mtime_ns, mode, uid, gid, sha256, etag, version_id,
               is_kept, trash_key, time_ns) SELECT :folder, coalesce(
                 (SELECT max(seq) FROM log WHERE folder_id = :folder),
                 (SELECT published FROM catalog WHERE folder_id = :folder), 0) + ",
            $what
        )
    };
}

pub(super) use logs;

// A row that is there already, and says the same, is no news.
const LOG_PUT: &str = logs!(
    "1, 'put', :path, :size, :mtime, :mode, :uid, :gid, :sha256, :etag, :version, NULL, NULL, :time
     WHERE NOT EXISTS (SELECT 1 FROM files WHERE folder_id = :folder AND path = :path AND live = 1
       AND sha256 = :sha256 AND etag = :etag AND version_id IS :version AND size = :size AND mtime_ns = :mtime
       AND mode = :mode AND uid = :uid AND gid = :gid)"
);
const LOG_GONE: &str = logs!(
    "1, 'gone', path, size, mtime_ns, mode, uid, gid, sha256, etag, version_id, :kept, NULL, :time
     FROM files WHERE folder_id = :folder AND path = :path AND live = 1 AND sha256 IS NOT NULL"
);
const LOG_DROPPED: &str = logs!(
    "row_number() OVER (ORDER BY path), 'gone', path, size, mtime_ns, mode, uid, gid, sha256, etag, version_id, 1,
       NULL, :time
     FROM files WHERE folder_id = :folder AND held = 'delete' AND held IS NOT NULL AND state = 'synced' AND live = 1"
);
const LOG_ASIDE: &str = logs!(
    "1, 'aside', :path, :size, :mtime, :mode, :uid, :gid, :sha256, :etag, :version, NULL, :trash, :time"
);
const LOG_DRILL: &str = "INSERT INTO log (folder_id, seq, op, time_ns, drill) SELECT ?1, coalesce(
      (SELECT max(seq) FROM log WHERE folder_id = ?1),
      (SELECT published FROM catalog WHERE folder_id = ?1), 0) + 1, 'drill', ?2, ?3";
const LOGGED: &str =
    "SELECT seq, op, path, size, mtime_ns, mode, uid, gid, sha256, etag, version_id, is_kept,
    trash_key, time_ns, drill FROM log WHERE folder_id = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3";
const LAST: &str = "SELECT max(seq) FROM log WHERE folder_id = ?1";
const OLDEST: &str = "SELECT time_ns FROM log WHERE folder_id = ?1 ORDER BY seq LIMIT 1";
const LIVE: &str = "SELECT f.path, f.size, f.mtime_ns, f.mode, f.uid, f.gid, f.sha256, f.etag, f.version_id,
      f.synced_at_ns
    FROM files AS i CROSS JOIN files AS f ON f.id = i.id
    WHERE i.folder_id = ?1 AND i.path > ?2 AND f.live = 1 AND f.sha256 IS NOT NULL ORDER BY i.path LIMIT ?3";
const COUNT_LIVE: &str = "SELECT count(*) FROM files WHERE folder_id = ?1 AND live = 1";
const CATALOG: &str =
    "SELECT number, hash, base, published, records, links, is_due, began, after, after_folder FROM catalog
    WHERE folder_id = ?1";
const CATALOGUED: &str = "INSERT INTO catalog
      (folder_id, number, hash, base, published, records, links, is_due, began, after, after_folder)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
    ON CONFLICT (folder_id) DO UPDATE SET number = excluded.number, hash = excluded.hash, base = excluded.base,
      published = excluded.published, records = excluded.records, links = excluded.links, is_due = excluded.is_due,
      began = excluded.began, after = excluded.after, after_folder = excluded.after_folder";
const PUBLISHED: &str = "DELETE FROM log WHERE folder_id = ?1 AND seq <= ?2";

/// Every statement of this file.
pub(super) const ALL: [&str; 13] = [
    LOG_PUT,
    LOG_GONE,
    LOG_DROPPED,
    LOG_ASIDE,
    LOG_DRILL,
    LOGGED,
    LAST,
    OLDEST,
    LIVE,
    COUNT_LIVE,
    CATALOG,
    CATALOGUED,
    PUBLISHED,
];

/// Something that has happened to a path, as it was logged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Logged {
    /// Its number, from 1.
    pub seq: u64,
    /// What.
    pub what: What,
    /// The path; the root, if it is about none.
    pub path: RelPath,
    /// What is known of the file and of its object; all of it for a [`What::Put`]. Of a folder its time, mode and owner.
    pub facts: Facts,
    /// When, wall clock, nanoseconds.
    pub time_ns: i64,
}

/// What can happen to a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum What {
    /// It has this content now.
    Put,
    /// The file is gone from the disk.
    Gone {
        /// Whether its object stays under its key.
        is_kept: bool,
    },
    /// Its object was copied to this whole key.
    Aside(String),
    /// It is a folder.
    Folder,
    /// The folder is gone from the disk.
    FolderGone,
    /// A restore drill has ended; it is about no path.
    Drill(Box<Drill>),
}

/// What is known of a file and of its object.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Facts {
    /// Length in bytes.
    pub size: Option<u64>,
    /// The file's mtime, nanoseconds.
    pub mtime_ns: Option<i64>,
    /// Its permission bits.
    pub mode: Option<u32>,
    /// Its owner.
    pub uid: Option<u32>,
    /// Its group.
    pub gid: Option<u32>,
    /// The content's name.
    pub sha256: Option<Sha256>,
    /// The object's ETag.
    pub etag: Option<String>,
    /// The object's version, in a versioned bucket.
    pub version_id: Option<String>,
}

impl Facts {
    /// Returns what is known of a folder.
    pub fn of_folder(stamp: &FolderStamp) -> Self {
        Self {
            mtime_ns: Some(stamp.mtime_ns),
            mode: Some(stamp.mode),
            uid: Some(stamp.uid),
            gid: Some(stamp.gid),
            ..Self::default()
        }
    }

    /// Returns all that is known of a content.
    pub fn of(content: &Content) -> Self {
        let Stat {
            size,
            mtime_ns,
            mode,
            uid,
            gid,
            ..
        } = content.stat;
        Self {
            size: Some(size),
            mtime_ns: Some(mtime_ns),
            mode: Some(mode),
            uid: Some(uid),
            gid: Some(gid),
            sha256: Some(content.sha256),
            etag: Some(content.etag.clone()),
            version_id: content.version_id.clone(),
        }
    }
}

/// An object that was copied out of the way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Aside {
    /// Whose object it was.
    pub path: RelPath,
    /// The whole key of the copy.
    pub trash_key: String,
    /// What is known of it; ETag and version are those that it had under the path's key.
    pub facts: Facts,
    /// When, wall clock, nanoseconds.
    pub at_ns: i64,
}

/// How far a folder's catalog has come.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    /// The number of the last link; 0: there is none.
    pub number: u64,
    /// Its hash.
    pub hash: Option<Sha256>,
    /// With which link reading has to begin; 0: there is no whole tree yet.
    pub base: u64,
    /// The number of the last row of the log that is published.
    pub published: u64,
    /// Records since the last snapshot.
    pub records: u64,
    /// Links since the last snapshot.
    pub links: u64,
    /// Whether a snapshot has to come next.
    pub is_due: bool,
    /// The first link of the snapshot that is being written.
    pub began: Option<u64>,
    /// The last file's path that is in it.
    pub after: Option<RelPath>,
    /// The last folder's path that is in it, the root at their beginning; `None`: not all files are in it yet.
    pub after_folder: Option<RelPath>,
}

/// What waits to be published.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Waiting {
    /// Rows of the log.
    pub records: u64,
    /// When the first of them was logged, wall clock, nanoseconds; `None`: there is none.
    pub since_ns: Option<i64>,
    /// Whether a snapshot is due, or not finished.
    pub snapshot: bool,
}

impl Manifest {
    /// Returns how far the folder's catalog has come. Of a folder that never had one: that it begins with nothing.
    pub fn progress(&self, folder: FolderId) -> Result<Progress, Error> {
        self.ask(|connection| progress(connection, folder))
    }

    /// Returns what waits to be published.
    pub fn waiting(&self, folder: FolderId) -> Result<Waiting, Error> {
        self.read(|connection| {
            let is = progress(connection, folder)?;
            let last: Option<i64> = connection
                .prepare_cached(LAST)?
                .query_row(params![folder.0], |row| row.get(0))?;
            let since_ns = connection
                .prepare_cached(OLDEST)?
                .query_row(params![folder.0], |row| row.get(0))
                .optional()?;
            Ok(Waiting {
                records: last.map_or(0, |last| last.cast_unsigned().saturating_sub(is.published)),
                since_ns,
                snapshot: is.is_due,
            })
        })
    }

    /// Returns up to `limit` rows of the log behind number `after`, in their order.
    pub fn logged(&self, folder: FolderId, after: u64, limit: usize) -> Result<Vec<Logged>, Error> {
        self.ask(|connection| {
            let params = params![folder.0, after as i64, limit as i64];
            connection
                .prepare_cached(LOGGED)?
                .query_map(params, logged)?
                .collect()
        })
    }

    /// Returns up to `limit` paths of which the last word is that they are there, sorted, strictly after `after`, each as
    /// if it had just been logged under number 0.
    pub fn live(
        &self,
        folder: FolderId,
        after: &RelPath,
        limit: usize,
    ) -> Result<Vec<Logged>, Error> {
        self.ask(|connection| {
            let params = params![folder.0, after.as_bytes(), limit as i64];
            connection
                .prepare_cached(LIVE)?
                .query_map(params, |row| {
                    Ok(Logged {
                        seq: 0,
                        what: What::Put,
                        path: rel_path(row, 0)?,
                        facts: facts(row, 1)?,
                        time_ns: row.get(9)?,
                    })
                })?
                .collect()
        })
    }

    /// Counts the paths of which the last word is that they are there. Reads all rows.
    pub fn count_live(&self, folder: FolderId) -> Result<u64, Error> {
        self.ask(|connection| {
            connection
                .prepare_cached(COUNT_LIVE)?
                .query_row(params![folder.0], |row| length(row, 0))
        })
    }

    /// Notes how far the catalog has come, and forgets what is published; durable on return.
    pub fn note_progress(&self, folder: FolderId, is: &Progress) -> Result<(), Error> {
        self.write(|connection| {
            connection.prepare_cached(CATALOGUED)?.execute(params![
                folder.0,
                sql_length(is.number)?,
                is.hash.map(|hash| hash.0),
                sql_length(is.base)?,
                sql_length(is.published)?,
                sql_length(is.records)?,
                sql_length(is.links)?,
                is.is_due,
                is.began.map(sql_length).transpose()?,
                is.after.as_ref().map(RelPath::as_bytes),
                is.after_folder.as_ref().map(RelPath::as_bytes),
            ])?;
            connection
                .prepare_cached(PUBLISHED)?
                .execute(params![folder.0, sql_length(is.published)?])
                .map(drop)
        })
    }
}

/// Logs what a row's new state says; called before the row is written. Returns how many rows were logged.
pub(super) fn row(
    connection: &Connection,
    folder: FolderId,
    entry: &Entry,
    now_ns: i64,
) -> rusqlite::Result<usize> {
    match (&entry.stored, entry.state) {
        (Some(content), State::Synced) => {
            let stat = &content.stat;
            connection.prepare_cached(LOG_PUT)?.execute(named_params! {
                ":folder": folder.0,
                ":path": entry.path.as_bytes(),
                ":size": sql_length(stat.size)?,
                ":mtime": stat.mtime_ns,
                ":mode": stat.mode,
                ":uid": stat.uid,
                ":gid": stat.gid,
                ":sha256": content.sha256.0,
                ":etag": content.etag,
                ":version": content.version_id,
                ":time": content.synced_at_ns,
            })
        }
        (_, State::Kept) => gone(connection, folder, &entry.path, true, now_ns),
        (_, State::Unsent) if entry.is_landed() => {
            gone(connection, folder, &entry.path, false, now_ns)
        }
        (None, _) => gone(connection, folder, &entry.path, false, now_ns),
        // An intent, or a failure: what was is still the last word.
        (Some(_), State::Open | State::Unsent) => Ok(0),
    }
}

/// Logs that a file is gone, if it was there.
pub(super) fn gone(
    connection: &Connection,
    folder: FolderId,
    path: &RelPath,
    is_kept: bool,
    now_ns: i64,
) -> rusqlite::Result<usize> {
    connection.prepare_cached(LOG_GONE)?.execute(named_params! {
        ":folder": folder.0,
        ":path": path.as_bytes(),
        ":kept": is_kept,
        ":time": now_ns,
    })
}

/// Logs that the files are gone whose removal a person has refused.
pub(super) fn dropped(
    connection: &Connection,
    folder: FolderId,
    now_ns: i64,
) -> rusqlite::Result<usize> {
    let params = named_params! { ":folder": folder.0, ":time": now_ns };
    connection.prepare_cached(LOG_DROPPED)?.execute(params)
}

/// Logs that an object was set aside.
pub(super) fn aside(
    connection: &Connection,
    folder: FolderId,
    aside: &Aside,
) -> rusqlite::Result<usize> {
    let facts = &aside.facts;
    connection
        .prepare_cached(LOG_ASIDE)?
        .execute(named_params! {
            ":folder": folder.0,
            ":path": aside.path.as_bytes(),
            ":size": facts.size.map(sql_length).transpose()?,
            ":mtime": facts.mtime_ns,
            ":mode": facts.mode,
            ":uid": facts.uid,
            ":gid": facts.gid,
            ":sha256": facts.sha256.map(|sha256| sha256.0),
            ":etag": facts.etag,
            ":version": facts.version_id,
            ":trash": aside.trash_key,
            ":time": aside.at_ns,
        })
}

/// Logs how a restore drill went.
pub(super) fn drilled(
    connection: &Connection,
    folder: FolderId,
    drill: &Drill,
    now_ns: i64,
) -> rusqlite::Result<usize> {
    let text = serde_json::to_string(drill)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    connection
        .prepare_cached(LOG_DRILL)?
        .execute(params![folder.0, now_ns, text])
}

fn progress(connection: &Connection, folder: FolderId) -> rusqlite::Result<Progress> {
    let is = connection
        .prepare_cached(CATALOG)?
        .query_row(params![folder.0], |row| {
            let path = |column| {
                let path = row.get_ref(column)?.as_blob_or_null()?.map(RelPath::new);
                path.map(|path| path.ok_or_else(|| unreadable(column, "a path that cannot be")))
                    .transpose()
            };
            let began: Option<i64> = row.get(7)?;
            Ok(Progress {
                number: length(row, 0)?,
                hash: digest(row, 1)?,
                base: length(row, 2)?,
                published: length(row, 3)?,
                records: length(row, 4)?,
                links: length(row, 5)?,
                is_due: row.get(6)?,
                began: began.map(i64::cast_unsigned),
                after: path(8)?,
                after_folder: path(9)?,
            })
        })
        .optional()?;
    Ok(is.unwrap_or_default())
}

fn logged(row: &Row<'_>) -> rusqlite::Result<Logged> {
    let what = match row.get_ref(1)?.as_str()? {
        "put" => What::Put,
        "gone" => What::Gone {
            is_kept: row.get::<_, Option<bool>>(11)?.unwrap_or(false),
        },
        "aside" => What::Aside(row.get(12)?),
        "folder" => What::Folder,
        "folder_gone" => What::FolderGone,
        "drill" => What::Drill(drill(row.get_ref(14)?.as_str()?)?),
        _ => return Err(unreadable(1, "a word that nothing is logged under")),
    };
    Ok(Logged {
        seq: length(row, 0)?,
        what,
        path: match row.get_ref(2)?.as_blob_or_null()? {
            Some(_) => rel_path(row, 2)?,
            None => RelPath::root(),
        },
        facts: facts(row, 3)?,
        time_ns: row.get(13)?,
    })
}

fn drill(text: &str) -> rusqlite::Result<Box<Drill>> {
    serde_json::from_str(text).map_err(|_| unreadable(14, "a drill that cannot be"))
}

fn facts(row: &Row<'_>, first: usize) -> rusqlite::Result<Facts> {
    let size: Option<i64> = row.get(first)?;
    Ok(Facts {
        size: size.map(i64::cast_unsigned),
        mtime_ns: row.get(first + 1)?,
        mode: row.get(first + 2)?,
        uid: row.get(first + 3)?,
        gid: row.get(first + 4)?,
        sha256: digest(row, first + 5)?,
        etag: row.get(first + 6)?,
        version_id: row.get(first + 7)?,
    })
}
