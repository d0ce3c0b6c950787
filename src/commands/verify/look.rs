//! A folder that is looked at: its rows, its bucket, and the one judgement of a path.
//!
//! The agent may be running. What a listing or a page of rows says may be old by the time it is compared, so a difference
//! is only said after [`settle`]: the row, the object and the row once more.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::sync::Semaphore;

use crate::agent::audit::compare::{Rows, Short, Sight, There, Verdict, settle, short};
use crate::base::clock::Clock;
use crate::base::offload::Offload;
use crate::base::path::RelPath;
use crate::commands::verify::mend::Broken;
use crate::commands::verify::tell::{Kind, Teller, Whose};
use crate::manifest::{self, Entry, FolderRow, HeldWhat, Manifest, Remote, State};
use crate::store::key::KeyMap;
use crate::store::{self, ErrorKind, Page, Store};

/// Requests at once.
pub const REQUESTS: usize = 32;
/// The most files that one run sends again; the next one goes on.
pub const MENDS_MOST: usize = 100_000;

/// Why a folder cannot be looked at any further.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// The bucket does not answer, or not to us.
    #[error("{0}")]
    Bucket(#[from] store::Error),
    /// The rows cannot be read.
    #[error("{0}")]
    Manifest(#[from] manifest::Error),
}

/// A folder that is looked at.
pub struct Look {
    /// The bucket.
    pub store: Arc<dyn Store>,
    /// The rows, for reading only.
    pub manifest: Manifest,
    /// The folder.
    pub row: FolderRow,
    /// Its keys.
    pub keys: KeyMap,
    /// Requests that may be sent now.
    pub requests: Semaphore,
    /// Whether differences are to be mended.
    pub repair: bool,
    /// Whether something holds the state folder: rows may change.
    pub has_agent: bool,
    teller: Arc<Mutex<Teller>>,
    /// Paths whose object has been said to differ.
    said: Mutex<HashSet<Short>>,
    /// Paths that were not level when they were met: looked at again at the end.
    waiting: Mutex<HashSet<Short>>,
    broken: Mutex<Vec<Broken>>,
    /// Differences beyond [`MENDS_MOST`].
    beyond: AtomicU64,
}

impl Look {
    /// Begins to look at a folder that nobody works on and whose differences stay.
    pub fn new(
        store: Arc<dyn Store>,
        manifest: Manifest,
        row: FolderRow,
        teller: Arc<Mutex<Teller>>,
    ) -> Self {
        Self {
            store,
            manifest,
            keys: KeyMap::new(&row.key.prefix),
            row,
            requests: Semaphore::new(REQUESTS),
            repair: false,
            has_agent: false,
            teller,
            said: Mutex::default(),
            waiting: Mutex::default(),
            broken: Mutex::default(),
            beyond: AtomicU64::new(0),
        }
    }

    /// Returns where it is told what is found.
    pub fn teller(&self) -> MutexGuard<'_, Teller> {
        lock(&self.teller)
    }

    /// Tells one thing about a path.
    pub fn say(&self, kind: Kind, path: &RelPath, why: &str) {
        let key = self.keys.key(path).ok();
        let whose = Whose::Path(path, key.as_deref());
        self.teller().say(kind, whose, why);
    }

    /// Takes note of a path that was not level when it was met.
    pub fn wait_for(&self, path: &RelPath) {
        lock(&self.waiting).insert(short(path.as_bytes()));
    }

    /// Returns true for a path that was not level when it was met.
    pub fn waited_for(&self, path: &RelPath) -> bool {
        lock(&self.waiting).contains(&short(path.as_bytes()))
    }

    /// Returns true if any path was not level when it was met.
    pub fn waits(&self) -> bool {
        !lock(&self.waiting).is_empty()
    }

    /// Returns true if a path's object has been said to differ.
    pub fn has_said(&self, path: &RelPath) -> bool {
        lock(&self.said).contains(&short(path.as_bytes()))
    }

    /// Returns what lies under a key; an error that is the key's own has been told.
    async fn look_at(&self, key: &str, whose: Whose<'_>) -> Result<There, Trouble> {
        // The semaphore is never closed.
        let permit = self.requests.acquire().await;
        let there = self.store.head(key).await;
        drop(permit);
        match there {
            Ok(object) => Ok(There::Object(Box::new(object))),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(There::Nothing),
            Err(error) => self.failed(error, whose).map(|()| There::Unknown),
        }
    }

    /// Tells that one object could not be looked at; an error that is everyone's ends the whole.
    pub fn failed(&self, error: store::Error, whose: Whose<'_>) -> Result<(), Trouble> {
        if error.is_of_all_objects() {
            return Err(Trouble::Bucket(error));
        }
        self.teller().say(Kind::Failed, whose, &error.to_string());
        Ok(())
    }

    /// Settles a path and tells what differs.
    pub async fn judge(&self, path: &RelPath, key: &str) -> Result<Verdict, Trouble> {
        let verdict = settle(self, path, key).await?;
        match &verdict {
            Verdict::Missing(row) => {
                self.differs(Kind::Missing, row, None, "the bucket has no such object");
            }
            Verdict::Changed(row, object) => {
                let old = row.stored.as_ref();
                let was = old.map_or(0, |old| old.stat.size);
                let why = if was == object.size {
                    "somebody else wrote this object".to_owned()
                } else {
                    format!(
                        "somebody else wrote this object: it has {} bytes, and had {was}",
                        object.size
                    )
                };
                let there = Remote {
                    key: key.to_owned(),
                    size: object.size,
                    etag: object.etag.clone(),
                };
                self.differs(Kind::Changed, row, Some(there), &why);
            }
            Verdict::Extra => {
                if lock(&self.said).insert(short(path.as_bytes())) {
                    self.say(Kind::Extra, path, "nothing here is known of it");
                }
            }
            Verdict::Waits => self.wait_for(path),
            Verdict::Same | Verdict::Unknown => {}
        }
        Ok(verdict)
    }

    /// Judges a key that no path has.
    pub async fn judge_key(&self, key: &str) -> Result<(), Trouble> {
        let rest = key.strip_prefix(self.keys.prefix()).unwrap_or(key);
        let whose = Whose::Key(key, rest);
        if let There::Object(_) = self.look_at(key, whose).await? {
            self.teller()
                .say(Kind::Extra, whose, "no file can have this key");
        }
        Ok(())
    }

    /// Tells that a row's object is wrong, once, and remembers it if it is to be mended.
    pub fn differs(&self, kind: Kind, row: &Entry, there: Option<Remote>, why: &str) {
        if !lock(&self.said).insert(short(row.path.as_bytes())) {
            return;
        }
        self.say(kind, &row.path, why);
        if !self.repair {
            return;
        }
        let mut broken = lock(&self.broken);
        if broken.len() >= MENDS_MOST {
            self.beyond.fetch_add(1, Ordering::Relaxed);
        } else {
            broken.extend(Broken::of(kind, row, there));
        }
    }

    /// Takes what is to be mended, and how much there is beyond what one run mends.
    pub fn take_broken(&self) -> (Vec<Broken>, u64) {
        let broken = std::mem::take(&mut *lock(&self.broken));
        (broken, self.beyond.load(Ordering::Relaxed))
    }
}

#[async_trait]
impl Sight for Look {
    type Error = Trouble;

    fn keys(&self) -> &KeyMap {
        &self.keys
    }

    fn rows(&self) -> Rows {
        Rows::new(self.manifest.clone(), self.row.id, Offload::Pool)
    }

    async fn list(&self, token: Option<String>) -> Result<Page, Trouble> {
        // The semaphore is never closed.
        let _permit = self.requests.acquire().await;
        Ok(self.store.list(self.keys.prefix(), token).await?)
    }

    async fn entry(&self, path: &RelPath) -> Result<Option<Entry>, Trouble> {
        Ok(self.entries(vec![path.clone()]).await?.pop().flatten())
    }

    async fn entries(&self, paths: Vec<RelPath>) -> Result<Vec<Option<Entry>>, Trouble> {
        let (manifest, folder) = (self.manifest.clone(), self.row.id);
        let read = Offload::Pool.run(move || manifest.entries(folder, &paths));
        Ok(read.await?)
    }

    async fn head(&self, path: &RelPath, key: &str) -> Result<There, Trouble> {
        self.look_at(key, Whose::Path(path, Some(key))).await
    }
}

/// Says what is still to be done for a row; `None` if it is level.
pub fn to_do(row: &Entry) -> Option<String> {
    let held = row.held.as_ref().map(|held| held.what);
    let failure = row.failure.as_ref().map(|failure| &failure.error);
    match (held, row.state) {
        (Some(HeldWhat::Delete), _) => Some("a brake holds its delete".to_owned()),
        (Some(HeldWhat::Overwrite), _) => Some("a brake holds its new content".to_owned()),
        (Some(HeldWhat::Dropped), _) => Some("its new content was refused".to_owned()),
        _ if failure.is_some() => failure.map(|error| format!("it failed: {error}")),
        (_, State::Open) => Some("it is being sent, or was when a run ended".to_owned()),
        _ if row.is_landed() => None,
        (_, State::Unsent) => Some("it has not been sent".to_owned()),
        (_, State::Synced | State::Kept) => None,
    }
}

/// Locks what cannot be left in disorder.
pub fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The clock that reads and ages are told by.
pub const CLOCK: Clock = Clock::Real;
