//! A folder that is looked at: its rows, its bucket, and the one judgement of a path.
//!
//! The agent may be running. What a listing or a page of rows says may be old by the time it is compared, so a difference
//! is only said after [`Look::settle`]: the row, the object and the row once more.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Semaphore;

use crate::base::clock::Clock;
use crate::base::digest::Sha256;
use crate::base::offload::Offload;
use crate::base::path::RelPath;
use crate::commands::verify::mend::Broken;
use crate::commands::verify::tell::{Kind, Teller, Whose};
use crate::manifest::{self, Entry, FolderRow, HeldWhat, Manifest, Remote, State};
use crate::store::key::KeyMap;
use crate::store::{self, ErrorKind, Object, Store};
use crate::sync::plan;

/// Requests at once.
pub const REQUESTS: usize = 32;
/// Rows read at once.
const PAGE: usize = 1000;
/// How often a path is looked at that changes meanwhile; then it is one that is not level.
const TRIES: usize = 5;
/// The most files that one run sends again; the next one goes on.
pub const MENDS_MOST: usize = 100_000;

/// Why a folder cannot be looked at any further.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// The bucket does not answer, or not to us.
    #[error("{0}")]
    Bucket(store::Error),
    /// The rows cannot be read.
    #[error("{0}")]
    Manifest(#[from] manifest::Error),
}

/// A short name of a path, for sets of many: two of a million share one with a chance of one in 10²⁶.
type Short = u128;

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

/// What is true of a path's object.
#[derive(Debug)]
pub enum Verdict {
    /// It is what the row says, or neither is there.
    Same,
    /// The row, whose object is not there.
    Missing(Box<Entry>),
    /// The row, and the object that is there instead.
    Changed(Box<Entry>, Box<Object>),
    /// An object without a row.
    Extra,
    /// The row claims nothing just now.
    Waits,
    /// Nobody could say; that has been told.
    Unknown,
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

    /// Returns a path's row.
    pub async fn entry(&self, path: &RelPath) -> Result<Option<Entry>, manifest::Error> {
        let (manifest, folder, path) = (self.manifest.clone(), self.row.id, path.clone());
        let read = Offload::Pool.run(move || manifest.entries(folder, &[path]));
        Ok(read.await?.pop().flatten())
    }

    /// Returns what lies under a key; an error that is the key's own has been told, and is `Err(None)`.
    async fn head(&self, key: &str, whose: Whose<'_>) -> Result<Option<Object>, Option<Trouble>> {
        // The semaphore is never closed.
        let permit = self.requests.acquire().await;
        let there = self.store.head(key).await;
        drop(permit);
        match there {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed(error, whose).err()),
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

    /// Judges a path by its row and its object, as they are now.
    pub async fn settle(&self, path: &RelPath, key: &str) -> Result<Verdict, Trouble> {
        for _ in 0..TRIES {
            let before = self.entry(path).await?;
            let claim = before.as_ref().and_then(plan::certain);
            if before.is_some() && claim.is_none() {
                return Ok(Verdict::Waits);
            }
            let there = match self.head(key, Whose::Path(path, Some(key))).await {
                Ok(there) => there,
                Err(None) => return Ok(Verdict::Unknown),
                Err(Some(trouble)) => return Err(trouble),
            };
            let verdict = match (claim, there) {
                (None, None) => Verdict::Same,
                (None, Some(_)) => Verdict::Extra,
                (Some((row, old)), there) => match there {
                    Some(new) if new.etag == old.etag && new.size == old.stat.size => Verdict::Same,
                    // An earlier request may have landed, or be about to: the agent looks at it by itself.
                    _ if plan::doubt_until(row) != 0 => Verdict::Waits,
                    Some(new) => Verdict::Changed(Box::new(row.clone()), Box::new(new)),
                    None => Verdict::Missing(Box::new(row.clone())),
                },
            };
            // An intent is durable before the key changes: a row that stayed the same was true all the while.
            if matches!(verdict, Verdict::Same) || self.entry(path).await? == before {
                return Ok(verdict);
            }
        }
        Ok(Verdict::Waits)
    }

    /// Settles a path and tells what differs.
    pub async fn judge(&self, path: &RelPath, key: &str) -> Result<Verdict, Trouble> {
        let verdict = self.settle(path, key).await?;
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
        match self.head(key, whose).await {
            Ok(Some(_)) => {
                self.teller()
                    .say(Kind::Extra, whose, "no file can have this key");
                Ok(())
            }
            Ok(None) | Err(None) => Ok(()),
            Err(Some(trouble)) => Err(trouble),
        }
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

    /// Returns a reader of all rows.
    pub fn rows(self: &Arc<Self>) -> Rows {
        Rows {
            look: self.clone(),
            after: RelPath::root(),
            page: Vec::new().into_iter(),
            is_over: false,
        }
    }
}

/// All rows of a folder, by path, a page at a time.
pub struct Rows {
    look: Arc<Look>,
    after: RelPath,
    page: std::vec::IntoIter<Entry>,
    is_over: bool,
}

impl Rows {
    /// Returns the next row.
    pub async fn next(&mut self) -> Result<Option<Entry>, manifest::Error> {
        loop {
            if let Some(row) = self.page.next() {
                return Ok(Some(row));
            }
            if self.is_over {
                return Ok(None);
            }
            let (manifest, folder) = (self.look.manifest.clone(), self.look.row.id);
            let after = self.after.clone();
            let read = move || manifest.page(folder, &RelPath::root(), &after, PAGE);
            let page = Offload::Pool.run(read).await?;
            match page.last() {
                Some(last) => self.after = last.path.clone(),
                None => self.is_over = true,
            }
            self.page = page.into_iter();
        }
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
        (_, State::Unsent) => Some("it has not been sent".to_owned()),
        (_, State::Synced | State::Kept) => None,
    }
}

/// Returns the short name of a path or key.
pub fn short(bytes: &[u8]) -> Short {
    let Sha256(digest) = Sha256::of(bytes);
    digest
        .first_chunk()
        .map_or(0, |bytes| u128::from_be_bytes(*bytes))
}

/// Locks what cannot be left in disorder.
pub fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The clock that reads and ages are told by.
pub const CLOCK: Clock = Clock::Real;
