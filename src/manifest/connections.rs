//! The two connections of an open manifest, and what happens to them after an error. A failed fsync is never tried
//! again on the same connection.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, TransactionBehavior};

use crate::manifest::error::{Doing, Error, ErrorKind, OpenError};
use crate::manifest::schema::{self, Access};

/// The manifest of a state folder. Cheap to clone; a clone is the same manifest. The last one to go releases the state
/// folder's lock; only [`Manifest::close`] marks a clean stop.
#[derive(Clone, Debug)]
pub struct Manifest {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    place: Place,
    agent_id: String,
    // Lock order: writer, reader, lock. Fields drop in this order too: the lock goes last.
    writer: Mutex<Slot>,
    reader: Mutex<Slot>,
    lock: Mutex<Option<File>>,
    /// Something in it could not be read for what it is: the next start has to look at all of it.
    is_damaged: AtomicBool,
}

/// Where the rows are.
#[derive(Debug)]
pub(super) enum Place {
    /// In memory: one connection reads and writes, and is never dropped, for the rows would go with it.
    Memory,
    /// In a file that we hold the lock for.
    Owned {
        /// The database.
        path: PathBuf,
        /// Its device and inode when it was opened.
        identity: (u64, u64),
    },
    /// In a file that we only read.
    Read {
        /// The database.
        path: PathBuf,
        /// How it is opened.
        access: Access,
    },
}

/// A connection, or why there is none.
#[derive(Debug)]
enum Slot {
    /// Ready.
    Open(Connection),
    /// Dropped after an error; made anew before the next use.
    Failed {
        /// Whether the file has to be checked first.
        check: bool,
    },
    /// This manifest is only read.
    Never,
    /// The manifest was closed.
    Closed,
}

impl Place {
    /// Returns the place of a database that was just opened for writing.
    pub(super) fn owned(path: &Path) -> io::Result<Self> {
        Ok(Self::Owned {
            identity: identity(path)?,
            path: path.to_path_buf(),
        })
    }

    fn path(&self) -> &Path {
        match self {
            Self::Memory => Path::new(":memory:"),
            Self::Owned { path, .. } | Self::Read { path, .. } => path,
        }
    }
}

/// Returns what tells a file from another of the same name.
///
/// The name is looked up and the file not opened: closing any handle of a database drops all of the process's locks on
/// it.
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = std::fs::metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

impl Manifest {
    /// Puts an open manifest together. `writer` is absent where it is only read, `reader` where one connection does
    /// both.
    pub(super) fn assemble(
        place: Place,
        agent_id: String,
        writer: Option<Connection>,
        reader: Option<Connection>,
        lock: Option<File>,
    ) -> Self {
        let slot =
            |connection: Option<Connection>| Mutex::new(connection.map_or(Slot::Never, Slot::Open));
        Self {
            inner: Arc::new(Inner {
                place,
                agent_id,
                writer: slot(writer),
                reader: slot(reader),
                lock: Mutex::new(lock),
                is_damaged: AtomicBool::new(false),
            }),
        }
    }

    /// Returns an empty manifest in memory, for simulations. It lives as long as a clone of it does, whatever becomes
    /// of the runtime that used it; its agent's id is always the same.
    pub fn in_memory() -> Result<Self, OpenError> {
        Self::in_memory_of(&"0".repeat(32))
    }

    /// Returns the same for another agent, with this id.
    pub fn in_memory_of(agent_id: &str) -> Result<Self, OpenError> {
        let path = Path::new(":memory:");
        let agent_id = agent_id.to_owned();
        let connection =
            schema::connect_memory().map_err(OpenError::sql("make a database", path))?;
        Ok(Self::assemble(
            Place::Memory,
            agent_id,
            Some(connection),
            None,
            None,
        ))
    }

    /// Returns a copy in memory of what it has now, as a backup would be, for simulations of one that is put back.
    pub fn copy_in_memory(&self) -> Result<Self, OpenError> {
        let path = Path::new(":memory:");
        let failed = OpenError::sql("copy a database", path);
        let copied = schema::connect_memory().and_then(|to| {
            let mut from = guard(&self.inner.writer);
            if let Slot::Open(from) = &mut *from {
                copy(from, &to)?;
            }
            Ok(to)
        });
        let (place, agent_id) = (Place::Memory, self.inner.agent_id.clone());
        let connection = copied.map_err(failed)?;
        Ok(Self::assemble(
            place,
            agent_id,
            Some(connection),
            None,
            None,
        ))
    }

    /// Returns the random name of the agent that owns this manifest, 32 hexadecimal digits, made once.
    pub fn agent_id(&self) -> &str {
        &self.inner.agent_id
    }

    /// Ends in an orderly way: marks the clean stop, brings the log into the database and releases the lock. Clones can
    /// do nothing any more.
    ///
    /// Best effort: what was committed is safe without it, and what does not succeed only costs a check at the next
    /// start.
    pub fn close(self) {
        let mut writer = guard(&self.inner.writer);
        let mut reader = guard(&self.inner.reader);
        if let (Slot::Open(connection), Place::Owned { .. }) = (&*writer, &self.inner.place)
            && !self.inner.is_damaged.load(Ordering::Relaxed)
            && let Err(error) = schema::mark_clean(connection, true).and_then(|()| {
                connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            })
        {
            let path = self.inner.place.path();
            tracing::debug!(path = %path.display(), %error, "the manifest was not closed cleanly");
        }
        // The writer goes last: the last connection to close removes the log, and a reading one cannot.
        *reader = Slot::Closed;
        *writer = Slot::Closed;
        *guard(&self.inner.lock) = None;
    }

    /// Runs `work` in one transaction, which is durable on return; on any error it has changed nothing.
    pub(super) fn write<T>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, Error> {
        let mut slot = guard(&self.inner.writer);
        self.check_identity()?;
        let connection = self.ready(&mut slot, Doing::Write)?;
        let result = transact(connection, TransactionBehavior::Immediate, work);
        result.map_err(|source| self.give_up(&mut slot, Doing::Write, &source))
    }

    /// Runs `work` on one unchanging view of the database.
    pub(super) fn read<T>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, Error> {
        self.with_reader(|connection| transact(connection, TransactionBehavior::Deferred, work))
    }

    /// Runs `work`, which asks one question: a statement is a view of its own, and needs no transaction around it.
    pub(super) fn ask<T>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, Error> {
        self.with_reader(|connection| work(connection))
    }

    fn with_reader<T>(
        &self,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T>,
    ) -> Result<T, Error> {
        let slot = match self.inner.place {
            Place::Memory => &self.inner.writer,
            Place::Owned { .. } | Place::Read { .. } => &self.inner.reader,
        };
        let mut slot = guard(slot);
        let connection = self.ready(&mut slot, Doing::Read)?;
        work(connection).map_err(|source| self.give_up(&mut slot, Doing::Read, &source))
    }

    /// Returns the slot's connection, made anew if the last one was dropped.
    fn ready<'a>(&self, slot: &'a mut Slot, doing: Doing) -> Result<&'a mut Connection, Error> {
        let path = self.inner.place.path();
        if let Slot::Failed { check } = *slot {
            *slot = Slot::Open(self.connect_again(check, doing)?);
        }
        match slot {
            Slot::Open(connection) => Ok(connection),
            Slot::Never => {
                let why = "it was opened for reading only";
                Err(Error::plain(ErrorKind::ReadOnly, doing, path, why))
            }
            Slot::Closed | Slot::Failed { .. } => {
                Err(Error::plain(ErrorKind::Closed, doing, path, ""))
            }
        }
    }

    /// Opens the database once more after an error, and looks whether it is still ours and, if told so, whole.
    fn connect_again(&self, check: bool, doing: Doing) -> Result<Connection, Error> {
        let path = self.inner.place.path();
        let access = match (&self.inner.place, doing) {
            (Place::Read { access, .. }, _) => *access,
            (_, Doing::Read) => Access::Read,
            (_, Doing::Write) => Access::Write,
        };
        let sql = |source| Error::sql(doing, path, &source);
        let connection = schema::connect(path, access).map_err(sql)?;
        let stamp = schema::stamp(&connection).map_err(sql)?;
        if stamp != (schema::APPLICATION_ID, schema::VERSION) {
            let why = "it is no longer the database that was opened";
            return Err(Error::plain(ErrorKind::Gone, doing, path, why));
        }
        if check && let Some(fault) = schema::first_fault(&connection).map_err(sql)? {
            return Err(Error::plain(ErrorKind::Damaged, doing, path, &fault));
        }
        Ok(connection)
    }

    /// Sorts an error, and drops the connection unless it is as good as before.
    fn give_up(&self, slot: &mut Slot, doing: Doing, source: &rusqlite::Error) -> Error {
        let error = Error::sql(doing, self.inner.place.path(), source);
        if error.kind() == ErrorKind::Damaged {
            self.inner.is_damaged.store(true, Ordering::Relaxed);
        }
        let is_sound = matches!(error.kind(), ErrorKind::Refused | ErrorKind::Busy);
        if !is_sound && !matches!(self.inner.place, Place::Memory) {
            *slot = Slot::Failed {
                // Only what is written can be lost by a failed write.
                check: doing == Doing::Write && error.kind().casts_doubt(),
            };
        }
        error
    }

    /// Finds out whether the database still has its name: what is written into a removed file is lost.
    pub fn check_identity(&self) -> Result<(), Error> {
        let Place::Owned {
            path,
            identity: opened,
        } = &self.inner.place
        else {
            return Ok(());
        };
        match identity(path) {
            Ok(found) if found == *opened => Ok(()),
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let why = error.to_string();
                Err(Error::plain(ErrorKind::Io, Doing::Write, path, &why))
            }
            Ok(_) | Err(_) => Err(Error::plain(ErrorKind::Gone, Doing::Write, path, "")),
        }
    }
}

/// Runs `work` in a transaction and commits it.
fn transact<T>(
    connection: &mut Connection,
    behavior: TransactionBehavior,
    work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    let transaction = connection.transaction_with_behavior(behavior)?;
    // On an error the transaction is rolled back when it is dropped.
    let result = work(&transaction)?;
    transaction.commit()?;
    Ok(result)
}

/// Takes every row of one database into another with the same tables, in place of its own.
fn copy(from: &Connection, to: &Connection) -> rusqlite::Result<()> {
    // Tables come in any order.
    to.execute_batch("PRAGMA foreign_keys = OFF")?;
    let mut tables = from.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'")?;
    let names = tables.query_map([], |row| row.get::<_, String>(0))?;
    for name in names {
        let name = name?;
        to.execute(&format!("DELETE FROM {name}"), [])?;
        let mut rows = from.prepare(&format!("SELECT * FROM {name}"))?;
        let columns = rows.column_count();
        let marks = vec!["?"; columns].join(", ");
        let mut insert = to.prepare(&format!("INSERT INTO {name} VALUES ({marks})"))?;
        let mut rows = rows.query([])?;
        while let Some(row) = rows.next()? {
            let values = (0..columns).map(|at| row.get::<_, rusqlite::types::Value>(at));
            let values = values.collect::<rusqlite::Result<Vec<_>>>()?;
            insert.execute(rusqlite::params_from_iter(values))?;
        }
    }
    to.execute_batch("PRAGMA foreign_keys = ON")
}

/// Locks a mutex. A panic while it was held has rolled its transaction back, so that nothing is left half-done.
fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_shared<T: Clone + Send + Sync>() {}

    #[test]
    fn a_manifest_can_be_shared_between_threads() {
        assert_shared::<Manifest>();
    }

    #[test]
    fn a_copy_of_a_memory_manifest_has_its_rows_and_goes_its_own_way()
    -> Result<(), Box<dyn std::error::Error>> {
        let manifest = Manifest::in_memory()?;
        let set = |manifest: &Manifest, value: i64| {
            manifest.write(|connection| {
                let sql = "INSERT OR REPLACE INTO meta (k, v) VALUES ('test', ?1)";
                connection.execute(sql, [value]).map(drop)
            })
        };
        let value = |manifest: &Manifest| {
            manifest.read(|connection| {
                let sql = "SELECT v FROM meta WHERE k = 'test'";
                connection.query_row(sql, [], |row| row.get::<_, i64>(0))
            })
        };
        set(&manifest, 1)?;
        let copy = manifest.copy_in_memory()?;
        set(&manifest, 2)?;
        assert_eq!((value(&copy)?, value(&manifest)?), (1, 2));
        assert_eq!(copy.agent_id(), manifest.agent_id());
        Ok(())
    }

    #[test]
    fn a_memory_manifest_keeps_its_rows_after_an_error() -> Result<(), Box<dyn std::error::Error>> {
        let manifest = Manifest::in_memory()?;
        let broken = manifest.write(|connection| connection.execute_batch("SELECT nothing"));
        assert_eq!(broken.expect_err("no such column").kind(), ErrorKind::Other);
        let tables: i64 = manifest.read(|connection| {
            connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        })?;
        assert!(tables > 5);
        Ok(())
    }
}
