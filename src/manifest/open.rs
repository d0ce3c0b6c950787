//! Opening a state folder: its places, its lock, creation, damage. A database is never deleted, and never half-made
//! under its own name.
//!
//! ```text
//! STATE/lock                          held for life; has the agent's process number
//! STATE/tidewatch.db, -wal, -shm      the database
//! STATE/tidewatch.db.new              being created; of no worth
//! STATE/tidewatch.db.damaged-<UTC>    set aside
//! ```

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;
use rustix::fs::FlockOperation;

use crate::base::clock::rfc3339;
use crate::base::failpoint;
use crate::manifest::connections::{Manifest, Place};
use crate::manifest::error::{ErrorKind, OpenError};
use crate::manifest::schema::{self, Access};
use crate::manifest::{
    buckets, changes, log, marks, modes, moves, rows, said, subfolders, uploads,
};

const DATABASE: &str = "tidewatch.db";
const LOCK: &str = "lock";

/// What `SQLite` may leave beside a database, by what is added to its name.
const COMPANIONS: [&str; 3] = ["-wal", "-shm", "-journal"];

/// How a state folder was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Opened {
    /// The manifest is new and knows nothing: none was there, or it was set aside.
    pub created: bool,
    /// Where a damaged database was put.
    pub set_aside: Option<PathBuf>,
    /// The last agent ended in an orderly way, or there was none.
    pub clean: bool,
}

/// What a database turned out to be.
#[derive(Debug)]
enum Found {
    /// One of ours, and whole; closed in an orderly way or not.
    Ours { clean: bool },
    /// One of a newer version.
    Newer(i64),
    /// Not ours, or damaged, and why.
    Damaged(String),
}

impl Manifest {
    /// Opens the manifest in the state folder `dir`, which is made if it is not there, and takes its lock.
    ///
    /// `now_wall_ns` (wall clock, nanoseconds) names what is set aside. After an unclean stop the database is checked,
    /// 0.4 to 0.8 s for a million rows.
    pub fn open(dir: &Path, now_wall_ns: i64) -> Result<(Self, Opened), OpenError> {
        let database = dir.join(DATABASE);
        check_sqlite(&database)?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(OpenError::io("create", dir))?;
        modes::close(dir, LOCK, DATABASE)?;
        let lock = take_lock(dir)?;

        let mut opened = Opened {
            created: false,
            set_aside: None,
            clean: true,
        };
        let damage = match look(&database)? {
            None if companions(&database).next().is_some() => {
                // The log of a database that is gone would be replayed into the new one.
                Some("its log was left without it".to_owned())
            }
            None => None,
            Some(Found::Newer(found)) => return Err(newer(&database, found)),
            Some(Found::Ours { clean }) => {
                opened.clean = clean;
                match start(&database) {
                    Ok((connections, agent_id)) => {
                        return finish(&database, connections, agent_id, lock, opened);
                    }
                    Err(error) => Some(damage_of(&database, error)?),
                }
            }
            Some(Found::Damaged(reason)) => Some(reason),
        };
        if let Some(reason) = damage {
            let kept = set_aside(dir, &database, now_wall_ns)?;
            tracing::warn!(
                path = %database.display(), kept = %kept.display(), reason,
                "the manifest was damaged and is made anew from tree and bucket"
            );
            opened.set_aside = Some(kept);
            opened.clean = false;
            failpoint::hit("damaged-set-aside");
        }
        create(dir, &database)?;
        opened.created = true;
        let (connections, agent_id) =
            start(&database).map_err(OpenError::sql("open", &database))?;
        finish(&database, connections, agent_id, lock, opened)
    }

    /// Opens the manifest in the state folder `dir` to read it, without the lock, whether an agent lives or not; `None`
    /// if there is none.
    ///
    /// Commits of a living agent are seen as they come. Where the folder cannot be written, a database that was closed
    /// cleanly is still read.
    pub fn open_read_only(dir: &Path) -> Result<Option<Self>, OpenError> {
        let database = dir.join(DATABASE);
        check_sqlite(&database)?;
        if !is_there(&database)? {
            return Ok(None);
        }
        let mut access = Access::Read;
        let mut read = identify(&database, access);
        let is_barred = |error: &rusqlite::Error| {
            matches!(ErrorKind::of(error), ErrorKind::Io | ErrorKind::ReadOnly)
        };
        if read.as_ref().is_err_and(is_barred) && has_no_log(&database) {
            access = Access::ReadStill;
            read = identify(&database, access);
        }
        match read {
            Ok((connection, Found::Ours { .. })) => {
                let agent_id = schema::meta(&connection, "agent_id")
                    .map_err(OpenError::sql("read", &database))?;
                let place = Place::Read {
                    path: database,
                    access,
                };
                Ok(Some(Self::assemble(
                    place,
                    agent_id,
                    None,
                    Some(connection),
                    None,
                )))
            }
            Ok((_, Found::Newer(found))) => Err(newer(&database, found)),
            Ok((_, Found::Damaged(reason))) => Err(OpenError::Damaged {
                path: database,
                reason,
            }),
            Err(error) => {
                let reason = damage_of(&database, error)?;
                Err(OpenError::Damaged {
                    path: database,
                    reason,
                })
            }
        }
    }
}

/// Returns true if a living agent holds the state folder `dir`. Creates nothing.
pub fn is_locked(dir: &Path) -> io::Result<bool> {
    let file = match File::open(dir.join(LOCK)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    // A shared lock, given back at once: askers do not see one another, and an agent that starts just now tries again.
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(false),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// Returns the process number of the living agent that holds the state folder `dir`, if there is one.
pub fn holder(dir: &Path) -> io::Result<Option<u32>> {
    if !is_locked(dir)? {
        return Ok(None);
    }
    Ok(pid_in(&mut File::open(dir.join(LOCK))?))
}

/// Returns since when the living agent has held the state folder `dir`, wall clock, nanoseconds; `None` if there is none.
///
/// What another process said there is older, also if it had the same number, as in a container every process has.
pub fn held_since(dir: &Path) -> io::Result<Option<i64>> {
    if !is_locked(dir)? {
        return Ok(None);
    }
    // Taking the lock writes the number into it.
    let stat = fs::metadata(dir.join(LOCK))?;
    let ns = stat.mtime().saturating_mul(1_000_000_000);
    Ok(Some(ns.saturating_add(stat.mtime_nsec())))
}

/// Takes the lock of a state folder for as long as the file stays open. The kernel gives it back when the process dies.
fn take_lock(dir: &Path) -> Result<File, OpenError> {
    /// How often it is tried, 10 ms apart: whoever asks [`is_locked`] holds it for some microseconds.
    const TRIES: u32 = 10;
    let path = dir.join(LOCK);
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(OpenError::io("create the lock", &path))?;
    let mut tries = 0;
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => break,
            Err(rustix::io::Errno::WOULDBLOCK) if tries < TRIES => {
                tries += 1;
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(OpenError::Locked {
                    dir: dir.to_path_buf(),
                    pid: pid_in(&mut file),
                });
            }
            Err(error) => return Err(OpenError::io("lock", &path)(error.into())),
        }
    }
    // The number is for people; the lock holds without it, also on a full disk.
    let number = std::process::id().to_string();
    let _ = file
        .set_len(0)
        .and_then(|()| file.write_all_at(number.as_bytes(), 0));
    Ok(file)
}

fn pid_in(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// Finds out what is under the database's name, without changing it; `None` if nothing is.
fn look(database: &Path) -> Result<Option<Found>, OpenError> {
    if !is_there(database)? {
        return Ok(None);
    }
    let looked = identify(database, Access::Read).and_then(|(connection, found)| match found {
        Found::Ours { clean: false } => Ok(match schema::first_fault(&connection)? {
            Some(fault) => Found::Damaged(fault),
            None => found,
        }),
        found => Ok(found),
    });
    match looked {
        Ok(found) => Ok(Some(found)),
        Err(error) => damage_of(database, error).map(|reason| Some(Found::Damaged(reason))),
    }
}

/// Opens a database and reads its stamp and its mark of a clean stop.
fn identify(database: &Path, access: Access) -> rusqlite::Result<(Connection, Found)> {
    let connection = schema::connect(database, access)?;
    let (application_id, version) = schema::stamp(&connection)?;
    let found = if application_id != schema::APPLICATION_ID {
        Found::Damaged(format!(
            "it is empty or another program's (application id {application_id})"
        ))
    } else if version > schema::VERSION {
        Found::Newer(version)
    } else if version < 1 {
        Found::Damaged(format!("it has no schema ({version})"))
    } else {
        Found::Ours {
            clean: schema::meta::<i64>(&connection, "clean_stop")? == 1,
        }
    };
    Ok((connection, found))
}

/// Returns what is wrong with a database at which `SQLite` failed; the error itself if it is not the database's fault.
fn damage_of(database: &Path, error: rusqlite::Error) -> Result<String, OpenError> {
    let is_damage = match ErrorKind::of(&error) {
        // A damaged header can claim a format that may only be read, or a journal that is not ours. If it is the
        // filesystem that is read-only, this call fails.
        ErrorKind::ReadOnly => rustix::fs::access(database, rustix::fs::Access::WRITE_OK).is_ok(),
        ErrorKind::Damaged | ErrorKind::Refused | ErrorKind::Other => true,
        ErrorKind::Full | ErrorKind::Io | ErrorKind::Busy | ErrorKind::Gone | ErrorKind::Closed => {
            false
        }
    };
    if is_damage {
        Ok(error.to_string())
    } else {
        Err(OpenError::sql("open", database)(error))
    }
}

/// Opens the two connections of a database of ours, brings its schema up to date, and notes that it is in use.
fn start(database: &Path) -> rusqlite::Result<([Connection; 2], String)> {
    let mut writer = schema::connect(database, Access::Write)?;
    let (_, version) = schema::stamp(&writer)?;
    schema::upgrade(&mut writer, version)?;
    // A schema that does not hold the statements is found here.
    for sql in rows::ALL
        .iter()
        .chain(&changes::ALL)
        .chain(&log::ALL)
        .chain(&subfolders::ALL)
        .chain(&uploads::ALL)
        .chain(&buckets::ALL)
        .chain(&said::ALL)
        .chain(&marks::ALL)
        .chain(&moves::ALL)
    {
        writer.prepare_cached(sql)?;
    }
    schema::mark_clean(&writer, false)?;
    let agent_id = schema::meta(&writer, "agent_id")?;
    let reader = schema::connect(database, Access::Read)?;
    Ok(([writer, reader], agent_id))
}

fn finish(
    database: &Path,
    [writer, reader]: [Connection; 2],
    agent_id: String,
    lock: File,
    opened: Opened,
) -> Result<(Manifest, Opened), OpenError> {
    let place = Place::owned(database).map_err(OpenError::io("look at", database))?;
    let manifest = Manifest::assemble(place, agent_id, Some(writer), Some(reader), Some(lock));
    Ok((manifest, opened))
}

/// Makes an empty database: under another name, whole and synced before it gets its own.
fn create(dir: &Path, database: &Path) -> Result<(), OpenError> {
    let new = with_suffix(database, ".new");
    // What an interrupted creation has left.
    for stale in std::iter::once(new.clone()).chain(companions(&new)) {
        match fs::remove_file(&stale) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(OpenError::io("remove", &stale)(error));
            }
            Ok(()) | Err(_) => {}
        }
    }
    File::options()
        .write(true)
        .create_new(true)
        .mode(0o600) // SQLite gives its other files the same.
        .open(&new)
        .map_err(OpenError::io("create", &new))?;
    fill(&new).map_err(OpenError::sql("create", &new))?;
    File::open(&new)
        .and_then(|file| file.sync_all())
        .map_err(OpenError::io("sync", &new))?;
    failpoint::hit("database-filled");
    rename(&new, database)?;
    failpoint::hit("database-named");
    sync_dir(dir)?;
    // The folder itself may be new. If its own name is lost with the power, so is all that was in it: a first start.
    if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        let _ = File::open(parent).and_then(|parent| parent.sync_all());
    }
    Ok(())
}

/// Fills a new database and leaves nothing of it in a log.
fn fill(new: &Path) -> rusqlite::Result<()> {
    let mut connection = schema::connect(new, Access::Write)?;
    schema::upgrade(&mut connection, 0)?;
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    connection.close().map_err(|(_, error)| error)
}

/// Renames a database and what belongs to it, and returns its new name.
fn set_aside(dir: &Path, database: &Path, now_wall_ns: i64) -> Result<PathBuf, OpenError> {
    let stamp = rfc3339(now_wall_ns).replace(['-', ':'], "");
    let is_taken = |name: &PathBuf| name.exists() || companions(name).next().is_some();
    let aside = (1..1000)
        .map(|n| match n {
            1 => with_suffix(database, &format!(".damaged-{stamp}")),
            n => with_suffix(database, &format!(".damaged-{stamp}.{n}")),
        })
        .find(|name| !is_taken(name))
        .unwrap_or_else(|| with_suffix(database, ".damaged"));
    let mut kept = None;
    // The database first: without its log it would look whole after a crash in between, and be an older state. A log
    // without its database is set aside in its turn.
    for suffix in std::iter::once("").chain(COMPANIONS) {
        let from = with_suffix(database, suffix);
        if is_there(&from)? {
            let to = with_suffix(&aside, suffix);
            rename(&from, &to)?;
            failpoint::hit("damaged-renamed");
            kept.get_or_insert(to);
        }
    }
    sync_dir(dir)?;
    Ok(kept.unwrap_or(aside))
}

/// Returns those of a database's companions that are there.
fn companions(database: &Path) -> impl Iterator<Item = PathBuf> {
    COMPANIONS
        .map(|suffix| with_suffix(database, suffix))
        .into_iter()
        .filter(|path| path.exists())
}

/// Returns true if everything of a database is in its own file.
fn has_no_log(database: &Path) -> bool {
    match fs::metadata(with_suffix(database, "-wal")) {
        Ok(metadata) => metadata.len() == 0,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// Returns whether there is something at `path`, a dangling link included.
fn is_there(path: &Path) -> Result<bool, OpenError> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(OpenError::io("look at", path)(error)),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "both callers sync the folder, and what is renamed was synced or must stay as it is"
)]
fn rename(from: &Path, to: &Path) -> Result<(), OpenError> {
    fs::rename(from, to).map_err(OpenError::io("rename", from))
}

/// Makes the names in `dir` durable.
fn sync_dir(dir: &Path) -> Result<(), OpenError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(OpenError::io("sync", dir))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

fn newer(database: &Path, found: i64) -> OpenError {
    OpenError::Newer {
        path: database.to_path_buf(),
        found,
        known: schema::VERSION,
    }
}

/// Refuses an older `SQLite` than the one that the manifest's promises were measured with.
fn check_sqlite(database: &Path) -> Result<(), OpenError> {
    if rusqlite::version_number() >= schema::OLDEST_SQLITE {
        return Ok(());
    }
    Err(OpenError::Unusable {
        doing: "open",
        path: database.to_path_buf(),
        reason: format!(
            "SQLite {} is too old, 3.51.3 is needed",
            rusqlite::version()
        ),
    })
}
