//! Writing rows. What cannot be true is refused, and the whole commit with it.

use rusqlite::{Connection, named_params, params};

use crate::base::clock::Clock;
use crate::base::path::{RelPath, escaped};
use crate::base::stat::{Identity, Kind};
use crate::manifest::connections::Manifest;
use crate::manifest::error::Error;
use crate::manifest::{Change, Entry, FolderId, Mend, Remote, log, marks, subfolders, uploads};

const PUT: &str = "INSERT INTO files (folder_id, path, state, ambiguous_until_ns, size, mtime_ns, ctime_ns, dev, ino,
      mode, uid, gid, nlink, read_at_ns, sha256, etag, version_id, synced_at_ns, want_sha256, attempts, last_error,
      doubtful, held, held_at_ns, held_seen, parked_until_ns, parked_seen, live)
    VALUES (:folder, :path, :state, :ambiguous, :size, :mtime, :ctime, :dev, :ino,
      :mode, :uid, :gid, :nlink, :read_at, :sha256, :etag, :version, :synced_at, :want, :attempts, :error,
      :doubtful, :held, :held_at, :held_seen, :parked_until, :parked_seen, :state = 'synced')
    ON CONFLICT (folder_id, path) DO UPDATE SET state = excluded.state,
      ambiguous_until_ns = excluded.ambiguous_until_ns, size = excluded.size, mtime_ns = excluded.mtime_ns,
      ctime_ns = excluded.ctime_ns, dev = excluded.dev, ino = excluded.ino, mode = excluded.mode, uid = excluded.uid,
      gid = excluded.gid, nlink = excluded.nlink, read_at_ns = excluded.read_at_ns, sha256 = excluded.sha256,
      etag = excluded.etag, version_id = excluded.version_id, synced_at_ns = excluded.synced_at_ns,
      want_sha256 = excluded.want_sha256, attempts = excluded.attempts, last_error = excluded.last_error,
      doubtful = excluded.doubtful, held = excluded.held, held_at_ns = excluded.held_at_ns,
      held_seen = excluded.held_seen, parked_until_ns = excluded.parked_until_ns, parked_seen = excluded.parked_seen,
      live = CASE WHEN excluded.state = 'synced' THEN 1 WHEN excluded.state = 'kept' OR excluded.sha256 IS NULL THEN 0
        ELSE live END";
const INTEND: &str = "INSERT INTO files (folder_id, path, state) VALUES (?1, ?2, 'open')
    ON CONFLICT (folder_id, path) DO UPDATE SET state = 'open', want_sha256 = NULL, ambiguous_until_ns = 0";
const FORGET: &str = "DELETE FROM files WHERE folder_id = ?1 AND path = ?2";
const REMOTE_FOUND: &str =
    "INSERT OR REPLACE INTO remote (folder_id, key, size, etag) VALUES (?1, ?2, ?3, ?4)";
const REMOTE_TAKEN: &str = "DELETE FROM remote WHERE folder_id = ?1 AND key = ?2";
const MEND: &str = "UPDATE files SET state = 'unsent', attempts = ?5, last_error = ?6, parked_until_ns = ?7, parked_seen = ?8
    WHERE folder_id = ?1 AND path = ?2 AND state = 'synced' AND sha256 = ?3 AND etag = ?4";
const CONTACTED: &str = "UPDATE folders SET contacted = 1 WHERE id = ?1";
const RECONTACT: &str = "UPDATE folders SET contacted = 0 WHERE id = ?1";
const SCANNED: &str = "UPDATE folders SET last_scan_ns = ?2 WHERE id = ?1";
const ROOT: &str = "UPDATE folders SET root_dev = ?2, root_ino = ?3, root_fsid = ?4 WHERE id = ?1";
const RELEASE: &str =
    "UPDATE files SET held = 'released' WHERE folder_id = ?1 AND held IN ('delete', 'overwrite')";
// A delete that is refused leaves what a folder under `keep` would have; an overwrite that is refused stays noted with
// the version of the file that it was about. A row in doubt stays open and is only no longer held.
const DROP_DELETES: &str = "UPDATE files SET live = CASE state WHEN 'synced' THEN 0 ELSE live END,
    state = CASE state WHEN 'synced' THEN 'kept' ELSE state END,
    held = NULL, held_at_ns = NULL, held_seen = NULL WHERE folder_id = ?1 AND held = 'delete'";
const DROP_OVERWRITES: &str =
    "UPDATE files SET held = 'dropped' WHERE folder_id = ?1 AND held = 'overwrite'";
const HOLD_DELETE: &str = "UPDATE files SET held = 'delete', held_at_ns = ?3, held_seen = NULL
    WHERE folder_id = ?1 AND path = ?2";
const TRASHED: &str =
    "UPDATE folders SET trash_due_ns = coalesce(min(trash_due_ns, ?2), ?2) WHERE id = ?1";
const TRASH_DUE: &str = "UPDATE folders SET trash_due_ns = ?2 WHERE id = ?1";
// Exchanged, so that what another filesystem inside the folder had under the new number stays apart.
const RENUMBERED: &str = "UPDATE files SET dev = CASE dev WHEN ?2 THEN ?3 ELSE ?2 END
    WHERE folder_id = ?1 AND dev IN (?2, ?3)";
const UNPARK: &str = "UPDATE files SET parked_until_ns = NULL, parked_seen = NULL
    WHERE folder_id = ?1 AND last_error IS NOT NULL AND parked_until_ns IS NOT NULL";
const CONFIG: &str = "UPDATE folders SET config = ?2 WHERE id = ?1";
const LEASE_COUNT: &str = "INSERT INTO meta (k, v) VALUES ('lease_count:' || ?1, ?2)
    ON CONFLICT (k) DO UPDATE SET v = excluded.v";
const LEASE_LEFT: &str = "INSERT INTO meta (k, v) VALUES ('lease_left:' || ?1, ?2)
    ON CONFLICT (k) DO UPDATE SET v = excluded.v";
const LEASE_TAKEN: &str = "DELETE FROM meta WHERE k = 'lease_left:' || ?1";
const CLOCK_SET: &str = "UPDATE files SET ambiguous_until_ns = max(ambiguous_until_ns + ?2, 1)
    WHERE folder_id = ?1 AND ambiguous_until_ns <> 0 AND NOT (state = 'unsent' AND ambiguous_until_ns = 1)";
const HORIZONS: &str = "UPDATE files SET ambiguous_until_ns = ?2
    WHERE folder_id = ?1 AND ambiguous_until_ns <> 0 AND NOT (state = 'unsent' AND ambiguous_until_ns = 1)";
const CLOCK_SET_RECONTACT: &str = "UPDATE meta SET v = v + ?2 WHERE k = 'recontact:' || ?1";
const HORIZON_RECONTACT: &str = "UPDATE meta SET v = ?2 WHERE k = 'recontact:' || ?1";
const MOUNTS: &str = "UPDATE folders SET mounts = ?2 WHERE id = ?1";

/// Every statement of this file.
pub(super) const ALL: [&str; 27] = [
    PUT,
    INTEND,
    FORGET,
    REMOTE_FOUND,
    REMOTE_TAKEN,
    MEND,
    CONTACTED,
    RECONTACT,
    SCANNED,
    ROOT,
    RELEASE,
    DROP_DELETES,
    DROP_OVERWRITES,
    HOLD_DELETE,
    TRASHED,
    TRASH_DUE,
    RENUMBERED,
    MOUNTS,
    UNPARK,
    CONFIG,
    LEASE_COUNT,
    LEASE_LEFT,
    LEASE_TAKEN,
    CLOCK_SET,
    CLOCK_SET_RECONTACT,
    HORIZONS,
    HORIZON_RECONTACT,
];

impl Manifest {
    /// Applies `changes` in their order, all or none of them; they are durable on return.
    ///
    /// A row that claims what cannot be true is refused, and the whole commit with it: `Synced` or `Kept` without a
    /// content, a content that is not of a regular file, a length that no file has, a folder that is not there.
    ///
    /// What it means for the catalog is logged by the same transaction; returns how many rows that are. `now_ns`: wall
    /// clock, nanoseconds.
    pub fn commit_at(
        &self,
        folder: FolderId,
        changes: &[Change],
        now_ns: i64,
    ) -> Result<usize, Error> {
        if changes.is_empty() {
            return Ok(0);
        }
        self.write(|connection| {
            let logged = changes.iter().map(|change| {
                let logged = log_change(connection, folder, change, now_ns)?;
                apply(connection, folder, change).map(|()| logged)
            });
            logged.sum()
        })
    }

    /// Applies `changes` as [`Manifest::commit_at`] does, by the machine's clock: for who has no other.
    pub fn commit(&self, folder: FolderId, changes: &[Change]) -> Result<(), Error> {
        self.commit_at(folder, changes, Clock::Real.now().wall_ns)
            .map(drop)
    }
}

/// Logs what a change means for the catalog, by the row as it was; returns how many rows that are.
fn log_change(
    connection: &Connection,
    folder: FolderId,
    change: &Change,
    now_ns: i64,
) -> rusqlite::Result<usize> {
    match change {
        Change::Put(entry) => {
            log::row(connection, folder, entry, now_ns).map_err(naming(entry.path.as_bytes()))
        }
        Change::Forget(path) => log::gone(connection, folder, path, false, now_ns),
        Change::DropHeld => log::dropped(connection, folder, now_ns),
        Change::Aside(aside) => {
            log::aside(connection, folder, aside).map_err(naming(aside.path.as_bytes()))
        }
        Change::Folder(path, stamp) => subfolders::seen(connection, folder, path, stamp, now_ns)
            .map_err(naming(path.as_bytes())),
        Change::FolderGone(path) => subfolders::gone(connection, folder, path, now_ns),
        Change::Drilled(drill) => log::drilled(connection, folder, drill, now_ns),
        _ => Ok(0),
    }
}

/// Makes one change; `connection` is inside a transaction.
fn apply(connection: &Connection, folder: FolderId, change: &Change) -> rusqlite::Result<()> {
    let run =
        |sql, params: &[&dyn rusqlite::ToSql]| connection.prepare_cached(sql)?.execute(params);
    match change {
        Change::Put(entry) => put(connection, folder, entry).map_err(naming(entry.path.as_bytes())),
        Change::Forget(path) => run(FORGET, params![folder.0, path.as_bytes()]).map(drop),
        // They are done with what is logged.
        Change::Aside(_) | Change::Folder(..) | Change::FolderGone(_) | Change::Drilled(_) => {
            Ok(())
        }
        Change::Intend(path) => run(INTEND, params![folder.0, path.as_bytes()])
            .map(drop)
            .map_err(naming(path.as_bytes())),
        Change::UploadBegun(upload) => {
            uploads::begun(connection, folder, upload).map_err(naming(upload.path.as_bytes()))
        }
        Change::PartStored { upload, part } => {
            uploads::part_stored(connection, folder, upload, part)
        }
        Change::UploadEnded(id) => uploads::ended(connection, folder, id),
        Change::RemoteFound(found) => found
            .iter()
            .try_for_each(|found| remote_found(connection, folder, found)),
        Change::Mend(mend) => mended(connection, folder, mend),
        Change::RemoteTaken(key) => run(REMOTE_TAKEN, params![folder.0, key]).map(drop),
        Change::Contacted => run(CONTACTED, params![folder.0]).and_then(the_folder),
        Change::Recontact => run(RECONTACT, params![folder.0]).and_then(the_folder),
        Change::Root(Identity { dev, ino, fsid }) => {
            let bits = params![
                folder.0,
                dev.cast_signed(),
                ino.cast_signed(),
                fsid.cast_signed()
            ];
            run(ROOT, bits).and_then(the_folder)
        }
        Change::HoldDelete(path, at_ns) => {
            run(HOLD_DELETE, params![folder.0, path.as_bytes(), at_ns]).map(drop)
        }
        Change::Trashed(due_ns) => run(TRASHED, params![folder.0, due_ns]).and_then(the_folder),
        Change::TrashDue(due_ns) => run(TRASH_DUE, params![folder.0, due_ns]).and_then(the_folder),
        Change::Renumbered { from, to } => run(
            RENUMBERED,
            params![folder.0, from.cast_signed(), to.cast_signed()],
        )
        .map(drop),
        Change::Mounts(points) => {
            let points: Vec<&[u8]> = points.iter().map(RelPath::as_bytes).collect();
            run(MOUNTS, params![folder.0, points.join(&0)]).and_then(the_folder)
        }
        Change::Release => run(RELEASE, params![folder.0]).map(drop),
        Change::DropHeld => {
            run(DROP_DELETES, params![folder.0])?;
            run(DROP_OVERWRITES, params![folder.0]).map(drop)
        }
        Change::Unpark => run(UNPARK, params![folder.0]).map(drop),
        Change::Config(word) => run(CONFIG, params![folder.0, word]).and_then(the_folder),
        Change::Mark(mark) => marks::set(connection, folder, *mark),
        Change::LeaseCount(count) => {
            run(LEASE_TAKEN, params![folder.0])?;
            // The same bits, signed.
            run(LEASE_COUNT, params![folder.0, count.cast_signed()]).map(drop)
        }
        Change::LeaseLeft(etag) => run(LEASE_LEFT, params![folder.0, etag]).map(drop),
        Change::ClockSet(by_ns) => {
            run(CLOCK_SET_RECONTACT, params![folder.0, by_ns])?;
            run(CLOCK_SET, params![folder.0, by_ns]).map(drop)
        }
        Change::Horizons(until_ns) => {
            run(HORIZON_RECONTACT, params![folder.0, until_ns])?;
            run(HORIZONS, params![folder.0, until_ns]).map(drop)
        }
        Change::Scanned(began_ns) => run(SCANNED, params![folder.0, began_ns]).and_then(the_folder),
    }
}

fn remote_found(connection: &Connection, folder: FolderId, found: &Remote) -> rusqlite::Result<()> {
    let Remote { key, size, etag } = found;
    let insert = |size| {
        let mut statement = connection.prepare_cached(REMOTE_FOUND)?;
        statement.execute(params![folder.0, key, size, etag])
    };
    let inserted = sql_length(*size).and_then(insert);
    inserted.map(drop).map_err(naming(key.as_bytes()))
}

/// Takes a row's claim back, if it is still the one that was found wrong.
fn mended(connection: &Connection, folder: FolderId, mend: &Mend) -> rusqlite::Result<()> {
    let Mend {
        path,
        sha256,
        etag,
        there,
        failure,
    } = mend;
    let parked = failure.as_ref().and_then(|failure| failure.parked.as_ref());
    let changed = connection.prepare_cached(MEND)?.execute(params![
        folder.0,
        path.as_bytes(),
        sha256.0,
        etag,
        failure.as_ref().map_or(0, |failure| failure.attempts),
        failure.as_ref().map(|failure| &failure.error),
        parked.map(|parked| parked.until_ns),
        parked.map(|parked| &parked.seen),
    ])?;
    match there.as_ref().filter(|_| changed > 0) {
        Some(there) => remote_found(connection, folder, there),
        None => Ok(()),
    }
}

/// Refuses a change to a folder that is not there.
fn the_folder(changed: usize) -> rusqlite::Result<()> {
    match changed {
        1 => Ok(()),
        other => Err(rusqlite::Error::StatementChangedRows(other)),
    }
}

/// Adds the name of what was being written to an error.
fn naming(name: &[u8]) -> impl FnOnce(rusqlite::Error) -> rusqlite::Error {
    move |error| match error {
        rusqlite::Error::SqliteFailure(failure, message) => {
            let message = message.unwrap_or_else(|| failure.to_string());
            let named = format!("{}: {message}", escaped(name));
            rusqlite::Error::SqliteFailure(failure, Some(named))
        }
        rusqlite::Error::ToSqlConversionFailure(why) => {
            let named = format!("{}: {why}", escaped(name));
            rusqlite::Error::ToSqlConversionFailure(named.into())
        }
        other => other,
    }
}

fn put(connection: &Connection, folder: FolderId, entry: &Entry) -> rusqlite::Result<()> {
    let stored = entry.stored.as_ref();
    if stored.is_some_and(|content| content.stat.kind != Kind::File) {
        return Err(impossible("a content of what is not a regular file"));
    }
    let stat = stored.map(|content| &content.stat);
    let failure = entry.failure.as_ref();
    let parked = failure.and_then(|failure| failure.parked.as_ref());
    connection
        .prepare_cached(PUT)?
        .execute(named_params! {
            ":folder": folder.0,
            ":path": entry.path.as_bytes(),
            ":state": entry.state.word(),
            ":ambiguous": entry.ambiguous_until_ns,
            ":size": stat.map(|stat| sql_length(stat.size)).transpose()?,
            ":mtime": stat.map(|stat| stat.mtime_ns),
            ":ctime": stat.map(|stat| stat.ctime_ns),
            // The same bits, signed: the kernel uses all 64 for devices and inodes.
            ":dev": stat.map(|stat| stat.dev.cast_signed()),
            ":ino": stat.map(|stat| stat.ino.cast_signed()),
            ":mode": stat.map(|stat| stat.mode),
            ":uid": stat.map(|stat| stat.uid),
            ":gid": stat.map(|stat| stat.gid),
            ":nlink": stat.map(|stat| stat.nlink.cast_signed()),
            ":read_at": stored.map(|content| content.read_at_ns),
            ":sha256": stored.map(|content| content.sha256.0),
            ":etag": stored.map(|content| &content.etag),
            ":version": stored.and_then(|content| content.version_id.as_ref()),
            ":synced_at": stored.map(|content| content.synced_at_ns),
            ":want": entry.want.map(|want| want.0),
            ":attempts": failure.map_or(0, |failure| failure.attempts),
            ":error": failure.map(|failure| &failure.error),
            ":doubtful": stored.is_some_and(|content| content.doubtful),
            ":held": entry.held.as_ref().map(|held| held.what.word()),
            ":held_at": entry.held.as_ref().map(|held| held.at_ns),
            ":held_seen": entry.held.as_ref().and_then(|held| held.seen.as_ref()),
            ":parked_until": parked.map(|parked| parked.until_ns),
            ":parked_seen": parked.map(|parked| &parked.seen),
        })
        .map(drop)
}

/// Returns a length as `SQLite` holds it. No file is longer: the kernel's own are signed.
pub(super) fn sql_length(bytes: u64) -> rusqlite::Result<i64> {
    i64::try_from(bytes).map_err(|_| impossible("a length that no file has"))
}

/// Makes the error of a value that does not go into the database.
fn impossible(what: &'static str) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(what.into())
}
