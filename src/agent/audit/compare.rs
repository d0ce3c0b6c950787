//! The rows against the bucket's listing.
//!
//! Both come in the order of their bytes, so that a page of each is in memory at a time. What does not fit that order
//! (names that a key holds escaped, and everything on a store that lists in an order of its own) is looked up by name
//! instead, and its short name remembered. Nothing but an object that is listed as its row says costs no request; whatever
//! else a page suggests is judged, so that neither a listing nor a row that is old makes a difference.

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::base::digest::Sha256;
use crate::base::offload::{Offload, joined};
use crate::base::path::RelPath;
use crate::manifest::{self, Entry, FolderId, Manifest};
use crate::store::key::KeyMap;
use crate::store::{Listed, Object, Page};
use crate::sync::plan;

/// Rows read at once.
const PAGE: usize = 1000;
/// How often a path is looked at that changes meanwhile; then it is one that is not level.
const TRIES: usize = 5;

/// A short name of a path, for sets of many: two of a million share one with a chance of one in 10²⁶.
pub type Short = u128;

/// Where rows and objects are looked at.
#[async_trait]
pub trait Sight: Send + Sync + 'static {
    /// What ends a comparison.
    type Error: From<manifest::Error> + Send + 'static;

    /// Returns the keys of the folder.
    fn keys(&self) -> &KeyMap;

    /// Returns the folder's rows.
    fn rows(&self) -> Rows;

    /// Lists one page of the folder's objects.
    async fn list(&self, token: Option<String>) -> Result<Page, Self::Error>;

    /// Returns a path's row.
    async fn entry(&self, path: &RelPath) -> Result<Option<Entry>, Self::Error>;

    /// Returns rows of paths, in their order.
    async fn entries(&self, paths: Vec<RelPath>) -> Result<Vec<Option<Entry>>, Self::Error>;

    /// Looks at the object of a path.
    async fn head(&self, path: &RelPath, key: &str) -> Result<There, Self::Error>;
}

/// What lies under a key.
#[derive(Debug)]
pub enum There {
    /// This object.
    Object(Box<Object>),
    /// Nothing.
    Nothing,
    /// Nobody could say, for a reason that is this key's own.
    Unknown,
}

/// Who judges what a comparison meets.
#[async_trait]
pub trait Judge: Send {
    /// What ends a comparison.
    type Error;

    /// A row was met; `claims`: it says what lies in the bucket.
    fn met(&mut self, row: &Entry, claims: bool);

    /// A path's row and object do not look equal.
    async fn path(&mut self, path: RelPath, key: String) -> Result<(), Self::Error>;

    /// An object has a key that no path has.
    async fn key(&mut self, key: &str) -> Result<(), Self::Error>;
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
    /// Nobody could say.
    Unknown,
}

/// What a comparison has met that was not in order.
#[derive(Debug)]
pub struct Merged {
    /// Paths that were listed and looked up by name.
    pub seen: HashSet<Short>,
    /// There are rows that were not compared in order.
    pub has_odd: bool,
    /// The listing has been in order so far.
    is_ordered: bool,
}

/// Compares all rows with the listing; what does not look equal is judged.
pub async fn compare<S: Sight, J: Judge<Error = S::Error>>(
    sight: &Arc<S>,
    judge: &mut J,
) -> Result<Merged, S::Error> {
    let mut merge = Merge {
        sight,
        judge,
        merged: Merged {
            seen: HashSet::new(),
            has_odd: false,
            is_ordered: true,
        },
    };
    merge.run().await?;
    Ok(merge.merged)
}

/// Judges a path by its row and its object, as they are now.
pub async fn settle<S: Sight>(sight: &S, path: &RelPath, key: &str) -> Result<Verdict, S::Error> {
    for _ in 0..TRIES {
        let before = sight.entry(path).await?;
        let claim = before.as_ref().and_then(plan::certain);
        if before.is_some() && claim.is_none() {
            return Ok(Verdict::Waits);
        }
        let verdict = match (claim, sight.head(path, key).await?) {
            (_, There::Unknown) => return Ok(Verdict::Unknown),
            (None, There::Nothing) => Verdict::Same,
            (None, There::Object(_)) => Verdict::Extra,
            (Some((row, old)), there) => match there {
                There::Object(new) if new.etag == old.etag && new.size == old.stat.size => {
                    Verdict::Same
                }
                // An earlier request may have landed, or be about to: the agent looks at it by itself.
                _ if plan::doubt_until(row) != 0 => Verdict::Waits,
                There::Object(new) => Verdict::Changed(Box::new(row.clone()), new),
                _ => Verdict::Missing(Box::new(row.clone())),
            },
        };
        // An intent is durable before the key changes: a row that stayed the same was true all the while.
        if matches!(verdict, Verdict::Same) || sight.entry(path).await? == before {
            return Ok(verdict);
        }
    }
    Ok(Verdict::Waits)
}

struct Merge<'a, S, J> {
    sight: &'a Arc<S>,
    judge: &'a mut J,
    merged: Merged,
}

impl<S: Sight, J: Judge<Error = S::Error>> Merge<'_, S, J> {
    async fn run(&mut self) -> Result<(), S::Error> {
        let (sender, mut pages) = mpsc::channel(1);
        let mut listing = JoinSet::new();
        listing.spawn(list(self.sight.clone(), sender));
        let mut rows = self.sight.rows();
        let mut row = self.next(&mut rows).await?;
        let mut last = String::new();
        while let Some(page) = pages.recv().await {
            let mut by_name = Vec::new();
            for listed in page? {
                let keys = self.sight.keys();
                if keys.is_reserved(&listed.key) {
                    continue;
                }
                if is_odd(keys.prefix(), &listed.key) {
                    by_name.push(listed);
                    continue;
                }
                self.merged.is_ordered &= last < listed.key || last.is_empty();
                if !self.merged.is_ordered {
                    by_name.push(listed);
                    continue;
                }
                while let Some((key, before)) = row.take_if(|(key, _)| *key < listed.key) {
                    self.judge.path(before.path, key).await?;
                    row = self.next(&mut rows).await?;
                }
                match row.take_if(|(key, _)| *key == listed.key) {
                    Some((key, equal)) => {
                        if !is_as_listed(&equal, &listed) {
                            self.judge.path(equal.path, key).await?;
                        }
                        row = self.next(&mut rows).await?;
                    }
                    None => self.key(&listed.key).await?,
                }
                last = listed.key;
            }
            self.look_up(by_name).await?;
        }
        // What is left was not listed, or not in order.
        while let Some((key, left)) = row {
            let name = short(left.path.as_bytes());
            if self.merged.is_ordered || !self.merged.seen.contains(&name) {
                self.judge.path(left.path, key).await?;
            }
            row = self.next(&mut rows).await?;
        }
        listing.join_next().await.and_then(joined);
        Ok(())
    }

    /// Returns the next row that claims an object under a key in the order of paths; takes note of the others.
    async fn next(&mut self, rows: &mut Rows) -> Result<Option<(String, Entry)>, S::Error> {
        while let Some(row) = rows.next().await? {
            let claims = plan::certain(&row).is_some();
            self.judge.met(&row, claims);
            if !claims {
                continue;
            }
            let keys = self.sight.keys();
            match keys.key(&row.path) {
                Ok(key) if !is_odd(keys.prefix(), &key) => return Ok(Some((key, row))),
                // A row that claims an object under no key is one that is looked at again.
                _ => self.merged.has_odd = true,
            }
        }
        Ok(None)
    }

    /// Compares what was listed out of order with its rows.
    async fn look_up(&mut self, listed: Vec<Listed>) -> Result<(), S::Error> {
        let mut some = Vec::new();
        for object in listed {
            match self.sight.keys().path(&object.key) {
                Some(path) => some.push((path, object)),
                None => self.judge.key(&object.key).await?,
            }
        }
        if some.is_empty() {
            return Ok(());
        }
        let paths = some.iter().map(|(path, _)| path.clone()).collect();
        let rows = self.sight.entries(paths).await?;
        for ((path, object), row) in some.into_iter().zip(rows) {
            self.merged.seen.insert(short(path.as_bytes()));
            if row.is_none_or(|row| !is_as_listed(&row, &object)) {
                self.judge.path(path, object.key).await?;
            }
        }
        Ok(())
    }

    /// Judges an object that is listed and has no row.
    async fn key(&mut self, key: &str) -> Result<(), S::Error> {
        match self.sight.keys().path(key) {
            Some(path) => self.judge.path(path, key.to_owned()).await,
            None => self.judge.key(key).await,
        }
    }
}

/// Lists the prefix, one page ahead of who compares it.
async fn list<S: Sight>(sight: Arc<S>, pages: mpsc::Sender<Result<Vec<Listed>, S::Error>>) {
    let mut token = None;
    loop {
        let (page, next) = match sight.list(token).await {
            Ok(page) => (Ok(page.objects), page.next),
            Err(error) => (Err(error), None),
        };
        // Who does not take it any more has met trouble of its own.
        if pages.send(page).await.is_err() || next.is_none() {
            return;
        }
        token = next;
    }
}

/// All rows of a folder, by path, a page at a time.
pub struct Rows {
    manifest: Manifest,
    folder: FolderId,
    offload: Offload,
    after: RelPath,
    page: std::vec::IntoIter<Entry>,
    is_over: bool,
}

impl Rows {
    /// Begins before the first.
    pub fn new(manifest: Manifest, folder: FolderId, offload: Offload) -> Self {
        Self {
            manifest,
            folder,
            offload,
            after: RelPath::root(),
            page: Vec::new().into_iter(),
            is_over: false,
        }
    }

    /// Returns the next row.
    pub async fn next(&mut self) -> Result<Option<Entry>, manifest::Error> {
        loop {
            if let Some(row) = self.page.next() {
                return Ok(Some(row));
            }
            if self.is_over {
                return Ok(None);
            }
            let (manifest, folder) = (self.manifest.clone(), self.folder);
            let after = self.after.clone();
            let read = move || manifest.page(folder, &RelPath::root(), &after, PAGE);
            let page = self.offload.run(read).await?;
            match page.last() {
                Some(last) => self.after = last.path.clone(),
                None => self.is_over = true,
            }
            self.page = page.into_iter();
        }
    }
}

/// Returns the short name of a path or key.
pub fn short(bytes: &[u8]) -> Short {
    let Sha256(digest) = Sha256::of(bytes);
    digest
        .first_chunk()
        .map_or(0, |bytes| u128::from_be_bytes(*bytes))
}

/// Returns true for a key that is not the prefix and the path as they are: the order of such keys is not that of paths.
pub fn is_odd(prefix: &str, key: &str) -> bool {
    key.strip_prefix(prefix)
        .is_none_or(|rest| rest.contains('\u{201b}'))
}

fn is_as_listed(row: &Entry, listed: &Listed) -> bool {
    plan::certain(row)
        .is_some_and(|(_, old)| old.etag == listed.etag && old.stat.size == listed.size)
}
