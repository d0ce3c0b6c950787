//! The folders inside a synced folder, as the last scan that met them saw them: what the catalog has on record of each.
//!
//! Paths in the table end with `/`, so that its order is the one in which a walk meets folders.

use rusqlite::{Connection, OptionalExtension as _, Row, named_params, params};

use crate::base::path::RelPath;
use crate::base::stat::FolderStamp;
use crate::manifest::connections::Manifest;
use crate::manifest::decode::unreadable;
use crate::manifest::error::Error;
use crate::manifest::log::logs;
use crate::manifest::{Facts, FolderId, Logged, What};

const PAGE: &str = "SELECT path, mtime_ns, mode, uid, gid FROM subfolders
    WHERE folder_id = ?1 AND path > ?2 ORDER BY path LIMIT ?3";
const PAGE_BELOW: &str = "SELECT path, mtime_ns, mode, uid, gid FROM subfolders
    WHERE folder_id = ?1 AND path > ?2 AND path < ?4 ORDER BY path LIMIT ?3";
const ONE: &str =
    "SELECT path, mtime_ns, mode, uid, gid FROM subfolders WHERE folder_id = ?1 AND path = ?2";
const ANY: &str =
    "SELECT EXISTS (SELECT 1 FROM subfolders WHERE folder_id = ?1 AND path >= ?2 AND path < ?3)";
const LIVE: &str = "SELECT path, mtime_ns, mode, uid, gid, seen_at_ns FROM subfolders
    WHERE folder_id = ?1 AND path > ?2 ORDER BY path LIMIT ?3";
const PUT: &str =
    "INSERT OR REPLACE INTO subfolders (folder_id, path, mtime_ns, mode, uid, gid, seen_at_ns)
    VALUES (:folder, :slashed, :mtime, :mode, :uid, :gid, :time)";
const REMOVE: &str = "DELETE FROM subfolders WHERE folder_id = ?1 AND path = ?2";
// A row that is there already, and says the same, is no news.
const LOG_PUT: &str = logs!(
    "1, 'folder', :path, NULL, :mtime, :mode, :uid, :gid, NULL, NULL, NULL, NULL, NULL, :time
     WHERE NOT EXISTS (SELECT 1 FROM subfolders WHERE folder_id = :folder AND path = :slashed AND mtime_ns = :mtime
       AND mode = :mode AND uid = :uid AND gid = :gid)"
);
const LOG_GONE: &str = logs!(
    "1, 'folder_gone', :path, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, :time
     WHERE EXISTS (SELECT 1 FROM subfolders WHERE folder_id = :folder AND path = :slashed)"
);

/// Every statement of this file.
pub(super) const ALL: [&str; 9] = [
    PAGE, PAGE_BELOW, ONE, ANY, LIVE, PUT, REMOVE, LOG_PUT, LOG_GONE,
];

impl Manifest {
    /// Returns up to `limit` folders on record below `within`, in the order in which a walk meets them, strictly after
    /// `after`.
    pub fn subfolders(
        &self,
        folder: FolderId,
        within: &RelPath,
        after: &RelPath,
        limit: usize,
    ) -> Result<Vec<(RelPath, FolderStamp)>, Error> {
        let (low, after, limit) = (slashed(within), slashed(after), limit as i64);
        let from = if within.is_root() {
            after
        } else {
            after.max(low.clone())
        };
        self.read(|connection| {
            if within.is_root() {
                let params = params![folder.0, from, limit];
                let mut statement = connection.prepare_cached(PAGE)?;
                return statement.query_map(params, subfolder)?.collect();
            }
            let params = params![folder.0, from, limit, behind(low)];
            let mut statement = connection.prepare_cached(PAGE_BELOW)?;
            statement.query_map(params, subfolder)?.collect()
        })
    }

    /// Returns what is on record of one folder.
    pub fn subfolder(
        &self,
        folder: FolderId,
        path: &RelPath,
    ) -> Result<Option<FolderStamp>, Error> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached(ONE)?;
            let found = statement.query_row(params![folder.0, slashed(path)], subfolder);
            Ok(found.optional()?.map(|(_, stamp)| stamp))
        })
    }

    /// Returns true if a folder is on record at or below `path`, which is not the root.
    pub fn has_subfolder(&self, folder: FolderId, path: &RelPath) -> Result<bool, Error> {
        let low = slashed(path);
        self.read(|connection| {
            let params = params![folder.0, low, behind(low.clone())];
            connection
                .prepare_cached(ANY)?
                .query_row(params, |row| row.get(0))
        })
    }

    /// Returns up to `limit` folders on record, in the order of a walk, strictly after `after`, each as if it had just been
    /// logged under number 0.
    pub fn live_subfolders(
        &self,
        folder: FolderId,
        after: &RelPath,
        limit: usize,
    ) -> Result<Vec<Logged>, Error> {
        self.ask(|connection| {
            let params = params![folder.0, slashed(after), limit as i64];
            let logged = |row: &Row<'_>| {
                let (path, stamp) = subfolder(row)?;
                Ok(Logged {
                    seq: 0,
                    what: What::Folder,
                    path,
                    facts: Facts::of_folder(&stamp),
                    time_ns: row.get(5)?,
                })
            };
            let mut statement = connection.prepare_cached(LIVE)?;
            statement.query_map(params, logged)?.collect()
        })
    }
}

/// Notes what a folder is like, and logs it if that is news; returns how many rows were logged.
pub(super) fn seen(
    connection: &Connection,
    folder: FolderId,
    path: &RelPath,
    stamp: &FolderStamp,
    now_ns: i64,
) -> rusqlite::Result<usize> {
    let FolderStamp {
        mtime_ns,
        mode,
        uid,
        gid,
    } = stamp;
    let logged = connection.prepare_cached(LOG_PUT)?.execute(named_params! {
        ":folder": folder.0,
        ":path": path.as_bytes(),
        ":slashed": slashed(path),
        ":mtime": mtime_ns,
        ":mode": mode,
        ":uid": uid,
        ":gid": gid,
        ":time": now_ns,
    })?;
    if logged > 0 {
        connection.prepare_cached(PUT)?.execute(named_params! {
            ":folder": folder.0,
            ":slashed": slashed(path),
            ":mtime": mtime_ns,
            ":mode": mode,
            ":uid": uid,
            ":gid": gid,
            ":time": now_ns,
        })?;
    }
    Ok(logged)
}

/// Forgets a folder, and logs that it is gone if it was on record; returns how many rows were logged.
pub(super) fn gone(
    connection: &Connection,
    folder: FolderId,
    path: &RelPath,
    now_ns: i64,
) -> rusqlite::Result<usize> {
    let logged = connection
        .prepare_cached(LOG_GONE)?
        .execute(named_params! {
            ":folder": folder.0,
            ":path": path.as_bytes(),
            ":slashed": slashed(path),
            ":time": now_ns,
        })?;
    connection
        .prepare_cached(REMOVE)?
        .execute(params![folder.0, slashed(path)])?;
    Ok(logged)
}

/// Returns the path as the table has it; of the root, which it has not, what sorts before all.
fn slashed(path: &RelPath) -> Vec<u8> {
    let slash = (!path.is_root()).then_some(b'/');
    path.as_bytes().iter().copied().chain(slash).collect()
}

/// Returns what sorts behind all that begins with a slashed path: `0` is the byte after `/`.
fn behind(mut slashed: Vec<u8>) -> Vec<u8> {
    if let Some(slash) = slashed.last_mut() {
        *slash = b'/' + 1;
    }
    slashed
}

fn subfolder(row: &Row<'_>) -> rusqlite::Result<(RelPath, FolderStamp)> {
    let path = row.get_ref(0)?.as_blob()?.strip_suffix(b"/");
    let path = path.and_then(RelPath::new);
    let path = path.ok_or_else(|| unreadable(0, "a path that cannot be"))?;
    let stamp = FolderStamp {
        mtime_ns: row.get(1)?,
        mode: row.get(2)?,
        uid: row.get(3)?,
        gid: row.get(4)?,
    };
    Ok((path, stamp))
}
