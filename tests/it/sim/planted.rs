//! Bugs that are planted at the seams: each must be caught, or the simulator has gone blind.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use tidewatch::base::digest::{Crc64, Sha256};
use tidewatch::base::path::RelPath;
use tidewatch::base::stat::Stat;
use tidewatch::store::features::Features;
use tidewatch::store::{
    Body, Effect, Error, ErrorKind, Meta, Object, Page, Part, PartPage, Removed, Result, Store,
    Stored, UploadPage, UploadToken, When, Which,
};
use tidewatch::tree::{Found, Identity, OpenFile, ReadError, Tree};

use crate::support::faulty::Faulty;
use crate::support::mem_store::MemStore;
use crate::support::mem_tree::MemTree;

/// What is wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// The root is never found to be another one.
    AnyRootIsRight,
    /// A folder that cannot be read is taken for empty.
    UnreadableIsEmpty,
    /// A folder that cannot be read is taken for gone.
    UnreadableIsGone,
    /// A name is now and then not found, for half a minute.
    OverlooksNames,
    /// Losses of events are not told, and what a folder had when it was first listed is all that is ever found.
    NoRescan,
    /// The same, over restarts.
    NoStartScan,
    /// Only the mtime says that a file has changed.
    NoCtime,
    /// A PUT is recorded that has not been done.
    PutIsNotKept,
    /// A copy is recorded that has not been done.
    CopyIsNotKept,
    /// What is stored is not what was sent.
    PutIsTorn,
    /// A DELETE is recorded that has not been done.
    DeleteIsNotDone,
    /// Another object is removed than was said.
    DeletesAnother,
    /// No answer is taken for a good one.
    SilenceIsSuccess,
    /// What was not answered is taken for not done.
    SilenceIsNoEffect,
    /// A link of the catalog is noted that was not stored.
    LinkIsNotKept,
    /// A link is not what was sent.
    LinkIsTorn,
    /// An object that is there is now and then not found.
    HeadIsBlind,
    /// Parts are joined into an object, and it is not kept.
    CompleteIsNotKept,
}

impl Bug {
    /// Returns the seeds of which one is to catch it: what shows with large files only has worlds of its own.
    pub fn seeds(self) -> impl Iterator<Item = u64> {
        let (first, step) = match self {
            Self::CompleteIsNotKept => (7, 10),
            _ => (1, 1),
        };
        (first..).step_by(step)
    }
}

/// A bug in its world, or none.
pub struct Plant {
    bug: Option<Bug>,
    seed: u64,
    memory: Arc<Mutex<Memory>>,
}

/// What a broken tree remembers.
#[derive(Default)]
struct Memory {
    identity: Option<Identity>,
    listings: BTreeMap<RelPath, Vec<Found>>,
}

impl Plant {
    pub fn new(bug: Option<Bug>, seed: u64) -> Self {
        Self {
            bug,
            seed,
            memory: Arc::default(),
        }
    }

    /// Returns whether only the ctime has to tell of changes, and nobody sees them when they happen.
    pub fn is_of_ctime(&self) -> bool {
        self.bug == Some(Bug::NoCtime)
    }

    /// Returns whether the agent is told of lost events.
    pub fn tells_losses(&self) -> bool {
        !matches!(self.bug, Some(Bug::NoRescan | Bug::NoStartScan))
    }

    /// Returns the tree that the agent is given for one run.
    pub fn tree(&self, tree: &MemTree) -> Arc<dyn Tree> {
        let Some(bug) = self.bug else {
            return Arc::new(tree.clone());
        };
        if bug == Bug::NoRescan {
            lock(&self.memory).listings.clear();
        }
        Arc::new(Broken {
            inner: tree.clone(),
            bug,
            memory: self.memory.clone(),
        })
    }

    /// Returns the store that the agent is given for one run.
    pub fn store(&self, store: &Faulty<MemStore>) -> Arc<dyn Store> {
        let Some(bug) = self.bug else {
            return Arc::new(store.clone());
        };
        let random = Mutex::new(fastrand::Rng::with_seed(self.seed));
        Arc::new(Lying {
            inner: store.clone(),
            bug,
            random,
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A tree that tells things as they are not.
struct Broken {
    inner: MemTree,
    bug: Bug,
    memory: Arc<Mutex<Memory>>,
}

impl Broken {
    fn bent(&self, stat: Stat) -> Stat {
        if self.bug == Bug::NoCtime {
            let ctime_ns = stat.mtime_ns;
            Stat { ctime_ns, ..stat }
        } else {
            stat
        }
    }

    fn overlooks(&self, path: &RelPath) -> bool {
        let window = self.inner.now_ns() / 30_000_000_000;
        let dice = Sha256::of(&[path.as_bytes(), &window.to_le_bytes()].concat());
        self.bug == Bug::OverlooksNames && !path.is_root() && dice.0[0] < 32
    }

    fn takes_for_gone(&self, path: &RelPath) -> bool {
        let is_closed = match self.bug {
            Bug::UnreadableIsGone => self.inner.is_hidden(path),
            Bug::UnreadableIsEmpty => path
                .parent()
                .is_some_and(|folder| self.inner.is_hidden(&folder)),
            _ => false,
        };
        is_closed || self.overlooks(path)
    }
}

impl Tree for Broken {
    fn identity(&self) -> io::Result<Identity> {
        let identity = self.inner.identity()?;
        if self.bug != Bug::AnyRootIsRight {
            return Ok(identity);
        }
        Ok(*lock(&self.memory).identity.get_or_insert(identity))
    }

    fn list(&self, folder: &RelPath) -> io::Result<Vec<Found>> {
        if self.bug == Bug::UnreadableIsEmpty && self.inner.is_hidden(folder) {
            return Ok(Vec::new());
        }
        if self.takes_for_gone(folder) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let mut found = self.inner.list(folder)?;
        found.retain(|found| !self.takes_for_gone(&folder.join(&found.name)));
        for found in &mut found {
            found.stat = self.bent(found.stat);
        }
        if matches!(self.bug, Bug::NoRescan | Bug::NoStartScan) {
            let mut memory = lock(&self.memory);
            return Ok(memory
                .listings
                .entry(folder.clone())
                .or_insert(found)
                .clone());
        }
        Ok(found)
    }

    fn stat(&self, path: &RelPath) -> io::Result<Stat> {
        if self.takes_for_gone(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.inner.stat(path).map(|stat| self.bent(stat))
    }

    fn open(&self, path: &RelPath) -> std::result::Result<Box<dyn OpenFile>, ReadError> {
        if self.takes_for_gone(path) {
            return Err(ReadError::Gone);
        }
        let is_bent = self.bug == Bug::NoCtime;
        let file = self.inner.open(path)?;
        Ok(Box::new(BrokenFile { file, is_bent }))
    }
}

struct BrokenFile {
    file: Box<dyn OpenFile>,
    is_bent: bool,
}

impl OpenFile for BrokenFile {
    fn stat(&self) -> io::Result<Stat> {
        let mut stat = self.file.stat()?;
        if self.is_bent {
            stat.ctime_ns = stat.mtime_ns;
        }
        Ok(stat)
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(offset, into)
    }
}

/// A store that says what is not so.
struct Lying {
    inner: Faulty<MemStore>,
    bug: Bug,
    random: Mutex<fastrand::Rng>,
}

impl Lying {
    fn lies(&self, bug: Bug) -> bool {
        self.bug == bug && lock(&self.random).u8(..10) == 0
    }

    /// What the agent is told of a write.
    fn told<T>(&self, answer: Result<T>, good: impl FnOnce() -> Option<T>) -> Result<T> {
        answer.or_else(|mut error| {
            let is_silence = error.kind == ErrorKind::Network && error.effect == Effect::Possible;
            if is_silence && self.bug == Bug::SilenceIsNoEffect {
                error.effect = Effect::None;
            }
            if is_silence && self.bug == Bug::SilenceIsSuccess {
                return good().ok_or(error);
            }
            Err(error)
        })
    }
}

#[async_trait]
impl Store for Lying {
    async fn check(&self) -> Result<()> {
        self.inner.check().await
    }

    fn features(&self) -> Arc<Features> {
        self.inner.features()
    }

    fn learn(&self, features: Features) {
        self.inner.learn(features);
    }

    async fn put_if(&self, key: &str, body: Body, meta: &Meta, when: &When) -> Result<Stored> {
        let elsewhere = MemStore::default();
        let stored = elsewhere.put(key, body.clone(), meta).await;
        // What is wrong with files must show by the files.
        let is_link = key.contains(".tidewatch/catalog/");
        let (not_kept, torn) = if is_link {
            (Bug::LinkIsNotKept, Bug::LinkIsTorn)
        } else {
            (Bug::PutIsNotKept, Bug::PutIsTorn)
        };
        if self.lies(not_kept) {
            return stored;
        }
        if self.lies(torn) && !body.bytes.is_empty() {
            let bytes = body.bytes.slice(1..);
            let (crc64, sha256) = (Crc64::of(&bytes), Some(Sha256::of(&bytes)));
            let torn = Body::new(bytes, crc64, sha256);
            return self.inner.put_if(key, torn, meta, when).await;
        }
        let answer = self.inner.put_if(key, body, meta, when).await;
        if is_link {
            return answer;
        }
        self.told(answer, || stored.ok())
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<(Object, Bytes)> {
        self.inner.get(key, range).await
    }

    async fn get_of(
        &self,
        key: &str,
        which: &Which,
        range: Option<Range<u64>>,
    ) -> Result<(Object, Bytes)> {
        self.inner.get_of(key, which, range).await
    }

    async fn head_of(&self, key: &str, which: &Which) -> Result<Object> {
        self.inner.head_of(key, which).await
    }

    async fn head(&self, key: &str) -> Result<Object> {
        if self.lies(Bug::HeadIsBlind) {
            let (kind, effect) = (ErrorKind::NotFound, Effect::None);
            return Err(Error::new(kind, "HeadObject", key, effect, "NoSuchKey"));
        }
        self.inner.head(key).await
    }

    async fn list(&self, prefix: &str, token: Option<String>) -> Result<Page> {
        self.inner.list(prefix, token).await
    }

    async fn copy_if(
        &self,
        from: &str,
        etag: &str,
        to: &str,
        meta: &Meta,
        when: &When,
    ) -> Result<Stored> {
        let stored = || Stored {
            etag: etag.to_owned(),
            version_id: None,
            is_outstanding: false,
        };
        if self.lies(Bug::CopyIsNotKept) {
            return Ok(stored());
        }
        let answer = self.inner.copy_if(from, etag, to, meta, when).await;
        self.told(answer, || Some(stored()))
    }

    async fn delete_if(&self, key: &str, when: &When) -> Result<Removed> {
        if self.lies(Bug::DeleteIsNotDone) {
            return Ok(Removed::default());
        }
        if self.lies(Bug::DeletesAnother) {
            let objects = self.inner.inner().objects();
            let another = objects.keys().find(|other| other.as_str() > key);
            return self.inner.delete(another.map_or(key, String::as_str)).await;
        }
        let answer = self.inner.delete_if(key, when).await;
        self.told(answer, || Some(Removed::default()))
    }

    async fn delete_many(&self, keys: &[String]) -> Result<Vec<Result<Removed>>> {
        let mut answers = Vec::new();
        for key in keys {
            answers.push(self.delete(key).await);
        }
        Ok(answers)
    }

    async fn create_multipart(&self, key: &str, meta: &Meta) -> Result<String> {
        self.inner.create_multipart(key, meta).await
    }

    async fn put_part(&self, key: &str, upload: &str, number: u32, body: Body) -> Result<Part> {
        self.inner.put_part(key, upload, number, body).await
    }

    async fn copy_part(
        &self,
        from: &str,
        etag: &str,
        range: Range<u64>,
        key: &str,
        upload: &str,
        number: u32,
    ) -> Result<Part> {
        self.inner
            .copy_part(from, etag, range, key, upload, number)
            .await
    }

    async fn complete_if(
        &self,
        key: &str,
        upload: &str,
        parts: &[Part],
        crc64: Option<Crc64>,
        when: &When,
    ) -> Result<Stored> {
        if self.bug == Bug::CompleteIsNotKept {
            let stored = self
                .inner
                .complete_if(key, upload, parts, crc64, when)
                .await;
            self.inner.inner().uproot(key);
            return stored;
        }
        self.inner
            .complete_if(key, upload, parts, crc64, when)
            .await
    }

    async fn list_parts(&self, key: &str, upload: &str, after: u32) -> Result<PartPage> {
        self.inner.list_parts(key, upload, after).await
    }

    async fn list_uploads(&self, prefix: &str, token: Option<UploadToken>) -> Result<UploadPage> {
        self.inner.list_uploads(prefix, token).await
    }

    async fn abort(&self, key: &str, upload: &str) -> Result<()> {
        self.inner.abort(key, upload).await
    }
}
