//! What the catalog says there is to be restored, and where each content still is.
//!
//! The catalog may lag behind the bucket, so the bucket's own listing is laid over it: an object that is newer than the
//! catalog's last word is taken as it is. What the catalog says and the bucket has no more is looked for among the
//! versions, in trash, and under other names of the same content; what is nowhere is refused by name before anything is
//! written.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::task::JoinSet;

use crate::base::clock::rfc3339;
use crate::base::digest::Sha256;
use crate::base::offload::joined;
use crate::base::path::RelPath;
use crate::catalog::{self, Chain, Known, Op, Past, Record, Tree};
use crate::commands::restore::seek::{self, Candidate, Sought};
use crate::restore::listing::{Listing, kind_of};
use crate::restore::wanted::{Kind, Refused, Stamp, Wanted, trouble};
use crate::store::key::KeyMap;
use crate::store::{self, ErrorKind, Store, Which};

/// Objects that are looked at at once.
const LOOKS: usize = 32;

/// What is to be brought back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Moment {
    /// Wall clock, nanoseconds since the epoch; `None`: what is there now.
    pub at_ns: Option<i64>,
    /// Whether files that are gone from the disk, and whose objects are kept, come back too.
    pub deleted: bool,
}

/// What was found.
#[derive(Debug)]
pub struct Found {
    /// What there is to be restored.
    pub listing: Listing,
    /// What people should know of the catalog, each a sentence.
    pub notes: Vec<String>,
    /// Whether something is not known because of damage.
    pub is_damaged: bool,
    /// Files whose content is nowhere any more; they are among what the listing refuses.
    pub lost: Vec<Wanted>,
}

/// Why nothing can be restored.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// The bucket could not be read.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The catalog does not have what was asked for.
    #[error("{0}")]
    Catalog(catalog::Error),
}

impl From<catalog::Error> for Trouble {
    fn from(error: catalog::Error) -> Self {
        match error {
            catalog::Error::Store(error) => Self::Store(error),
            other => Self::Catalog(other),
        }
    }
}

/// Finds what there is at or below the paths in `only` (all, if there is none).
pub async fn find(
    store: &Arc<dyn Store>,
    keys: &KeyMap,
    only: &[RelPath],
    moment: Moment,
) -> Result<Found, Trouble> {
    let listing = Listing::unsettled(store, keys, only).await?;
    let plain = |mut listing: Listing, notes, is_damaged| {
        listing.settle();
        Found {
            listing,
            notes,
            is_damaged,
            lost: Vec::new(),
        }
    };
    let chain = match Chain::list(store.clone(), keys.clone()).await {
        Ok(chain) => chain,
        Err(error) if moment.at_ns.is_some() || error.is_of_all_objects() => {
            return Err(error.into());
        }
        // Whoever may only see a part of the prefix gets that part.
        Err(error) => {
            let note = format!("the catalog could not be listed ({error}): every object is taken");
            return Ok(plain(listing, vec![note], true));
        }
    };
    if chain.is_empty() && moment.at_ns.is_none() {
        return Ok(plain(listing, Vec::new(), false));
    }
    let past = match chain.at(moment.at_ns.unwrap_or(i64::MAX)).await {
        Ok(past) => past,
        // Then the objects themselves are all that is known.
        Err(catalog::Error::NoTree(troubles)) if moment.at_ns.is_none() => {
            let notes = troubles
                .iter()
                .map(|trouble| format!("the catalog: {trouble}"));
            let mut notes: Vec<String> = notes.collect();
            notes.push("the catalog has no whole tree: every object is taken".to_owned());
            return Ok(plain(listing, notes, true));
        }
        Err(error) => return Err(error.into()),
    };
    let mut notes = Vec::new();
    let mut is_damaged = false;
    for trouble in past.then.troubles.iter().chain(&past.now().troubles) {
        let note = format!("the catalog: {trouble}");
        is_damaged |= trouble.is_damage();
        if !notes.contains(&note) {
            notes.push(note);
        }
    }
    let in_tree: HashSet<&str> = past
        .then
        .tree
        .values()
        .map(|known| known.key.as_str())
        .collect();
    let unknown = listing
        .wanted
        .iter()
        .filter(|wanted| moment.at_ns.is_none() && !in_tree.contains(wanted.key.as_str()));
    let mut unknown: Vec<Wanted> = unknown.cloned().collect();
    if !moment.deleted {
        let gone = gone(&chain, keys, &unknown).await?;
        unknown.retain(|wanted| !gone.contains(&wanted.key));
        if !gone.is_empty() {
            notes.push(format!(
                "{} of the objects are of files that are gone from the disk: they are left out, --deleted brings them back",
                gone.len()
            ));
        }
    }
    let left = left_below(store, &past, &unknown).await?;
    let is_left: HashSet<&str> = left.iter().map(|one| one.key.as_str()).collect();
    unknown.retain(|wanted| !is_left.contains(wanted.key.as_str()));
    if !moment.deleted && !unknown.is_empty() {
        notes.push(format!(
                "{} of the objects are not in the catalog, which may lag behind: they are taken as they are",
                unknown.len()
            ));
    }
    let mut finder = Finder::new(store, keys, &past, &listing);
    finder.gather_folders(only);
    finder.gather(only, moment);
    let (mut found, lost) = finder.settle().await?;
    found.wanted.extend(unknown);
    found.refused.extend(left);
    found.refused.extend(listing.refused.iter().cloned());
    found.unmatched.clone_from(&listing.unmatched);
    found.unmatched.retain(|path| {
        let is_at = |known: &RelPath| known.is_within(path);
        let has = found.wanted.iter().any(|wanted| is_at(&wanted.path));
        !has && !past.then.tree.keys().any(is_at)
    });
    found.settle();
    if let Some(at_ns) = moment.at_ns {
        notes.push(format!("as it was at {}", rfc3339(at_ns)));
    }
    Ok(Found {
        listing: found,
        notes,
        is_damaged,
        lost,
    })
}

/// Refuses what lies below what the catalog knows as a file, and is older than that file's object: a folder had its name
/// before. One that is newer may be of a folder that has taken the file's place since.
async fn left_below(
    store: &Arc<dyn Store>,
    past: &Past,
    unknown: &[Wanted],
) -> Result<Vec<Refused>, Trouble> {
    let mut left = Vec::new();
    let mut files: HashMap<&str, Option<i64>> = HashMap::new();
    for wanted in unknown {
        let Some(file) = file_above(&past.then.tree, &wanted.path) else {
            continue;
        };
        let file_ns = match files.get(file) {
            Some(file_ns) => *file_ns,
            None => modified_ns(store, file).await?,
        };
        files.insert(file, file_ns);
        if let Some(file_ns) = file_ns
            && let Some(ns) = modified_ns(store, &wanted.key).await?
            && ns < file_ns
        {
            let why = "a file that is newer has the place of the folder it lies in".to_owned();
            let key = wanted.key.clone();
            left.push(Refused { key, why });
        }
    }
    Ok(left)
}

/// Returns the key of the file that has the name of a folder above `path`.
fn file_above<'a>(tree: &'a Tree, path: &RelPath) -> Option<&'a str> {
    let mut above = path.parent();
    while let Some(folder) = above {
        if let Some(file) = tree.get(&folder) {
            return Some(&file.key);
        }
        above = folder.parent();
    }
    None
}

/// Returns when an object was stored, by the store's clock; `None` if there is none, or the store does not tell.
async fn modified_ns(store: &Arc<dyn Store>, key: &str) -> Result<Option<i64>, Trouble> {
    match store.head(key).await {
        Ok(object) => Ok(object.modified_ns),
        Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Returns the keys of which the catalog's last word is that the file is gone and that this very object stays. Another
/// object is newer than that word: the file has been made again since.
async fn gone(
    chain: &Chain,
    keys: &KeyMap,
    unknown: &[Wanted],
) -> Result<HashSet<String>, Trouble> {
    let paths = unknown
        .iter()
        .filter_map(|wanted| Some((keys.path(&wanted.key)?, wanted)));
    let unknown: HashMap<RelPath, &Wanted> = paths.collect();
    if unknown.is_empty() {
        return Ok(HashSet::new());
    }
    let history = chain
        .history(|record| unknown.contains_key(&record.path))
        .await?;
    let is_gone = |wanted: &Wanted, records: &[Record]| {
        let mut records = records.iter().rev().filter(|one| one.op != Op::Aside);
        let is_kept = |record: &Record| record.op == Op::Gone && record.key.is_some();
        let mut latest = records.clone();
        latest.next().is_some_and(is_kept)
            && records.find_map(|record| record.etag.as_ref()) == wanted.etag.as_ref()
    };
    let gone = history.versions.into_iter().filter_map(|(path, records)| {
        let wanted = unknown.get(&path)?;
        is_gone(wanted, &records).then(|| wanted.key.clone())
    });
    Ok(gone.collect())
}

/// A content that is not where the catalog says, and where it may be.
struct Lost {
    path: RelPath,
    known: Known,
    candidates: Vec<Candidate>,
}

struct Finder<'a> {
    store: &'a Arc<dyn Store>,
    past: &'a Past,
    /// What the bucket has under each key: index into the listing.
    there: HashMap<&'a str, &'a Wanted>,
    /// What has the content now.
    by_content: HashMap<Sha256, &'a Known>,
    keys: &'a KeyMap,
    found: Listing,
    lost: Vec<Lost>,
}

impl<'a> Finder<'a> {
    fn new(
        store: &'a Arc<dyn Store>,
        keys: &'a KeyMap,
        past: &'a Past,
        listing: &'a Listing,
    ) -> Self {
        let there: HashMap<&str, &Wanted> = listing
            .wanted
            .iter()
            .map(|wanted| (wanted.key.as_str(), wanted))
            .collect();
        let mut by_content = HashMap::new();
        for known in past.now().tree.values() {
            let there = there.get(known.key.as_str());
            if there.is_some_and(|there| there.etag.as_ref() == Some(&known.etag)) {
                by_content.insert(known.sha256, known);
            } else {
                // Perhaps it was only not asked for.
                by_content.entry(known.sha256).or_insert(known);
            }
        }
        Self {
            store,
            past,
            there,
            by_content,
            keys,
            found: Listing::default(),
            lost: Vec::new(),
        }
    }

    fn gather(&mut self, only: &[RelPath], moment: Moment) {
        let past = self.past;
        for (path, known) in &past.then.tree {
            // A recorded link is asked for by its own name, too.
            let (name, _) = kind_of(path, Some(known.mode), known.size);
            let is_at = |asked: &RelPath| path.is_within(asked) || name.is_within(asked);
            let is_asked = only.is_empty() || only.iter().any(is_at);
            if !is_asked || !known.key.starts_with(self.keys.prefix()) {
                continue;
            }
            match self.there.get(known.key.as_str()) {
                Some(there) if there.etag.as_deref() == Some(known.etag.as_str()) => {
                    let wanted = wanted(path, known, known.key.clone(), Which::Current);
                    self.found.wanted.push(wanted);
                }
                // Newer than the catalog's last word.
                Some(there) if moment.at_ns.is_none() => {
                    self.found.wanted.push((*there).clone());
                }
                _ => self.lose(path, known),
            }
        }
    }

    /// Takes the folders that were on record then, empty or not.
    fn gather_folders(&mut self, only: &[RelPath]) {
        for (path, stamp) in &self.past.then.folders {
            if !only.is_empty() && !only.iter().any(|asked| path.is_within(asked)) {
                continue;
            }
            if let Some(why) = trouble(path) {
                let key = path.to_string();
                self.found.refused.push(Refused { key, why });
                continue;
            }
            self.found.wanted.push(Wanted {
                path: path.clone(),
                key: String::new(),
                kind: Kind::Folder,
                size: 0,
                etag: None,
                version_id: None,
                sha256: None,
                stamp: (*stamp).into(),
            });
        }
    }

    /// Notes where else a content may be: its version, what was set aside of its path, another name of it.
    fn lose(&mut self, path: &RelPath, known: &Known) {
        let mut candidates = Vec::new();
        if let Some(id) = &known.version_id {
            candidates.push(Candidate::version(&known.key, id));
        }
        let asides = self.past.asides.get(path).map_or(&[][..], Vec::as_slice);
        let asides = asides.iter().rev().filter(|aside| {
            aside.sha256 == Some(known.sha256) || aside.etag.as_ref() == Some(&known.etag)
        });
        let asides = asides.filter_map(|aside| aside.trash_key.as_deref());
        candidates.extend(asides.map(Candidate::trash));
        if let Some(other) = self.by_content.get(&known.sha256) {
            candidates.push(Candidate::other(&other.key, &other.etag));
        }
        self.lost.push(Lost {
            path: path.clone(),
            known: known.clone(),
            candidates,
        });
    }

    /// Looks at the candidates, and refuses what has none.
    async fn settle(mut self) -> Result<(Listing, Vec<Wanted>), Trouble> {
        let mut nowhere = Vec::new();
        let mut looks: JoinSet<(Lost, store::Result<Option<Wanted>>)> = JoinSet::new();
        let mut lost = std::mem::take(&mut self.lost).into_iter();
        loop {
            while looks.len() < LOOKS
                && let Some(lost) = lost.next()
            {
                let store = self.store.clone();
                looks.spawn(async move {
                    let found = found(&*store, &lost).await;
                    (lost, found)
                });
            }
            let Some(looked) = looks.join_next().await else {
                return Ok((self.found, nowhere));
            };
            let Some((lost, found)) = joined(looked) else {
                continue;
            };
            if let Some(found) = found? {
                self.found.wanted.push(found);
            } else {
                self.found.refused.push(Refused {
                    key: lost.known.key.clone(),
                    why: format!(
                        "the content that `{}` had from {} on is not in the bucket any more",
                        lost.path,
                        rfc3339(lost.known.time_ns)
                    ),
                });
                let key = lost.known.key.clone();
                nowhere.push(wanted(&lost.path, &lost.known, key, Which::Current));
            }
        }
    }
}

/// Returns what there is of the content; `None` if it is nowhere any more.
async fn found(store: &dyn Store, lost: &Lost) -> store::Result<Option<Wanted>> {
    let known = &lost.known;
    let (candidate, etag) =
        match seek::first(store, known.size, Some(known.sha256), &lost.candidates).await {
            Sought::There(candidate, object) => (candidate, Some(object.etag)),
            Sought::Nowhere => return Ok(None),
            Sought::Unknown(_, error) if error.is_of_all_objects() => return Err(error),
            // Reading it will tell, and what is read is held against its hash.
            Sought::Unknown(candidate, _) => (candidate, None),
        };
    let (key, which) = (candidate.key.clone(), candidate.which.clone());
    Ok(Some(Wanted {
        etag,
        ..wanted(&lost.path, known, key, which)
    }))
}

fn wanted(path: &RelPath, known: &Known, key: String, which: Which) -> Wanted {
    let (path, kind) = kind_of(path, Some(known.mode), known.size);
    Wanted {
        path,
        key,
        kind,
        size: known.size,
        etag: Some(known.etag.clone()),
        version_id: match which {
            Which::Version(id) => Some(id),
            _ => None,
        },
        sha256: Some(known.sha256),
        stamp: Stamp {
            mtime_ns: Some(known.mtime_ns),
            mode: Some(known.mode),
            uid: Some(known.uid),
            gid: Some(known.gid),
        },
    }
}
