//! `tidewatch history`: which contents a path has had, since when, what became of each, and whether it can still be had.
//!
//! Reads the catalog in the bucket, so it needs no state and no config, and looks at the objects before it says that a
//! content can be brought back; what it could not look at it calls unknown, and never lost. A file that was renamed is
//! followed to the name that it had before. Never writes.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use serde::Serialize;

use crate::base::clock::rfc3339_millis;
use crate::base::digest::Sha256;
use crate::base::path::{RelPath, told};
use crate::base::units::show_bytes;
use crate::catalog::{self, Chain, Op, Record};
use crate::commands::Exit;

use crate::commands::restore::seek::{self, Candidate, Place, Sought};
use crate::commands::restore::source::Source;
use crate::commands::stores::Stores;
use crate::config::Problems;
use crate::report::out::{Out, note};
use crate::store::key::KeyMap;
use crate::store::{self, Store, Which};

/// How far apart the appearance of a name and the disappearance of the other may be to be one rename: a removal waits for
/// two listings, and an agent may have been away for a while.
const RENAME_NS: i64 = 24 * 3600 * 1_000_000_000;

/// The most names that a file is followed through.
const NAMES: usize = 50;

/// What `history` is asked.
#[derive(Clone, Debug)]
pub struct HistoryOptions {
    /// The folder.
    pub source: Source,
    /// The path, as it was given.
    pub path: PathBuf,
    /// One JSON object for each version.
    pub json: bool,
}

/// One content that the file had.
#[derive(Clone, Debug, Serialize)]
#[expect(clippy::struct_field_names, reason = "the contract names them")]
pub struct Version {
    /// The name that it had then, as lines of JSON have it.
    pub path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_base64: Option<String>,
    /// Since when, RFC 3339.
    pub time: String,
    size: u64,
    mtime: Option<String>,
    sha256: String,
    /// `replaced`, `removed` or `renamed`; none of what is there now.
    ended: Option<&'static str>,
    /// When that was.
    until: Option<String>,
    /// Where it can be had: `bucket`, `version`, `trash`, or `nowhere`; `unknown` if somewhere could not be looked.
    pub kept: &'static str,
    /// The whole key, if it is in the bucket or a version: not the path's own where another file has the same content.
    pub key: Option<String>,
    version_id: Option<String>,
    trash_key: Option<String>,
    /// Whether that key is another file's.
    #[serde(skip)]
    is_of_other: bool,
    /// The name that it had then, for people.
    #[serde(skip)]
    name: String,
}

/// What is known of a path.
#[derive(Debug)]
pub struct Account {
    /// What it held, the oldest first.
    pub versions: Vec<Version>,
    /// What is wrong with the catalog.
    pub troubles: Vec<catalog::Trouble>,
    /// Why it is not known of some where they are.
    pub unknown: Option<store::Error>,
}

/// A version, and what tells where it is.
struct Found {
    path: RelPath,
    put: Record,
    end: Option<(&'static str, i64)>,
    asides: Vec<Record>,
}

/// Prints the versions of a path, the oldest first. [`Problems`] as an error mean wrong usage.
pub async fn history(options: HistoryOptions) -> anyhow::Result<Exit> {
    let root = &options.source.folder.path;
    // Where it is on this machine, if that is in the folder; else a path inside the folder.
    let here = std::path::absolute(&options.path);
    let here = here
        .ok()
        .filter(|here| root.is_absolute() && here.starts_with(root));
    let path = here.as_deref().unwrap_or(&options.path);
    let path = options.source.path(path).map_err(Problems::from)?;
    let to = &options.source.folder.to;
    let complain = |why: &dyn std::fmt::Display, exit| {
        note(format_args!(
            "tidewatch: could not tell the history of `{path}` in {to}: {why}"
        ));
        Ok(exit)
    };
    let store: Arc<dyn Store> = match Stores::default().open(&options.source.folder).await {
        Ok(store) => store,
        Err(error) => return complain(&error, Exit::Unreachable),
    };
    let account = match account(&store, KeyMap::new(&to.prefix), path.clone()).await {
        Ok(account) => account,
        Err(catalog::Error::Store(error)) => return complain(&error, Exit::Unreachable),
        Err(error) => return complain(&error, Exit::Usage),
    };
    for trouble in &account.troubles {
        note(format_args!("tidewatch: the catalog: {trouble}"));
    }
    if account.versions.is_empty() {
        return complain(
            &"the catalog has never had a file of that name",
            Exit::Usage,
        );
    }
    let mut out = Out::stdout();
    let mut before = path.to_string();
    for version in &account.versions {
        let line = if options.json {
            serde_json::to_string(version)?
        } else {
            if before != version.name {
                out.line(format!("as {}:", version.name))
                    .context("write the results")?;
            }
            before.clone_from(&version.name);
            text(version)
        };
        out.line(&line).context("write the results")?;
    }
    if let Some(error) = account.unknown {
        let why = format!("some places could not be looked at: {error}");
        return complain(&why, Exit::Unreachable);
    }
    let is_damaged = account.troubles.iter().any(catalog::Trouble::is_damage);
    Ok(if is_damaged {
        Exit::Different
    } else {
        Exit::Level
    })
}

/// Tells what a path held, and where each content can be had.
pub async fn account(
    store: &Arc<dyn Store>,
    keys: KeyMap,
    path: RelPath,
) -> Result<Account, catalog::Error> {
    let chain = Chain::list(store.clone(), keys).await?;
    let (found, troubles) = follow(&chain, path).await?;
    let mut search = Search {
        store: &**store,
        chain: &chain,
        others: None,
        unknown: None,
    };
    let mut versions = Vec::with_capacity(found.len());
    for one in &found {
        let place = search.place(one, &found).await?;
        versions.push(version(one, place));
    }
    Ok(Account {
        versions,
        troubles,
        unknown: search.unknown,
    })
}

/// Returns the versions of a path and of the names that its file had before, the oldest first.
async fn follow(
    chain: &Chain,
    path: RelPath,
) -> Result<(Vec<Found>, Vec<catalog::Trouble>), catalog::Error> {
    let history = chain.history(|record| record.path == path).await?;
    let troubles = history.troubles;
    let records = history.versions.into_values().next().unwrap_or_default();
    let mut found = versions(&path, &records);
    let mut seen = vec![path];
    while let Some(first) = found.first()
        && seen.len() < NAMES
    {
        let (sha256, since_ns) = (first.put.sha256, first.put.time_ns);
        let same = chain.history(|record| record.sha256 == sha256).await?;
        let ended = |records: &Vec<Record>| {
            let mut gone = records.iter().filter(|record| record.op == Op::Gone);
            gone.any(|record| (record.time_ns - since_ns).abs() <= RENAME_NS)
                && records
                    .iter()
                    .any(|record| record.op == Op::Put && record.time_ns < since_ns)
        };
        let mut names = same.versions.iter();
        let Some((name, _)) = names.find(|(name, records)| !seen.contains(name) && ended(records))
        else {
            break;
        };
        let name = name.clone();
        let history = chain.history(|record| record.path == name).await?;
        let records = history.versions.into_values().next().unwrap_or_default();
        let mut earlier = versions(&name, &records);
        earlier.retain(|version| version.put.time_ns < since_ns);
        let Some(last) = earlier.last_mut() else {
            break;
        };
        if last.put.sha256 == sha256 {
            last.end = Some(("renamed", since_ns));
        }
        seen.push(name);
        earlier.append(&mut found);
        found = earlier;
    }
    Ok((found, troubles))
}

/// Makes versions of what happened to one path, which is in the order of time.
fn versions(path: &RelPath, records: &[Record]) -> Vec<Found> {
    let mut found: Vec<Found> = Vec::new();
    for record in records {
        let is_open = |version: &&mut Found| version.end.is_none();
        match record.op {
            Op::Put => {
                // The same content with another time or mode is no other version.
                if let Some(last) = found.last_mut().filter(is_open) {
                    if last.put.sha256 == record.sha256 && last.put.etag == record.etag {
                        continue;
                    }
                    last.end = Some(("replaced", record.time_ns));
                }
                found.push(Found {
                    path: path.clone(),
                    put: record.clone(),
                    end: None,
                    asides: Vec::new(),
                });
            }
            Op::Gone => {
                if let Some(last) = found.last_mut().filter(is_open) {
                    last.end = Some(("removed", record.time_ns));
                }
            }
            Op::Aside => {
                let is_of = |version: &&mut Found| {
                    version.put.sha256 == record.sha256 || version.put.etag == record.etag
                };
                if let Some(version) = found.iter_mut().rfind(is_of) {
                    version.asides.push(record.clone());
                }
            }
            // A history has only what happened to files.
            Op::Folder | Op::FolderGone | Op::Drill => {}
        }
    }
    found
}

/// Looks where versions can be had.
struct Search<'a> {
    store: &'a dyn Store,
    chain: &'a Chain,
    /// Where the contents are that are in the latest tree; read when the first is at none of its own places.
    others: Option<HashMap<Sha256, Vec<Candidate>>>,
    /// The first trouble.
    unknown: Option<store::Error>,
}

/// Where a version is; `Ok(None)`: nowhere; `Err`: not known.
type Where = Result<Option<Candidate>, ()>;

impl Search<'_> {
    async fn place(&mut self, found: &Found, all: &[Found]) -> Result<Where, catalog::Error> {
        let put = &found.put;
        let mut own = Vec::new();
        if let Some(key) = &put.key {
            own.push(Candidate::own(key, put.etag.as_deref()));
            let version = put.version_id.as_ref();
            own.extend(version.map(|id| Candidate::version(key, id)));
        }
        let asides = found.asides.iter().rev();
        let asides = asides.filter_map(|aside| aside.trash_key.as_deref());
        own.extend(asides.map(Candidate::trash));
        let place = self.first(put, &own).await;
        if matches!(place, Ok(Some(_))) || self.is_over() {
            return Ok(place);
        }
        let others = self.others(put, all).await?;
        Ok(match self.first(put, &others).await {
            Ok(None) => place,
            other => other,
        })
    }

    /// Returns true if nothing can be looked at any more.
    fn is_over(&self) -> bool {
        let unknown = self.unknown.as_ref();
        unknown.is_some_and(store::Error::is_of_all_objects)
    }

    async fn first(&mut self, put: &Record, candidates: &[Candidate]) -> Where {
        if self.is_over() {
            return Err(());
        }
        let size = put.size.unwrap_or_default();
        match seek::first(self.store, size, put.sha256, candidates).await {
            Sought::There(candidate, _) => Ok(Some(candidate.clone())),
            Sought::Nowhere => Ok(None),
            Sought::Unknown(_, error) => {
                if !self.is_over() {
                    self.unknown = Some(error);
                }
                Err(())
            }
        }
    }

    /// Returns where other files have the content now.
    async fn others(
        &mut self,
        put: &Record,
        all: &[Found],
    ) -> Result<Vec<Candidate>, catalog::Error> {
        let Some(sha256) = put.sha256 else {
            return Ok(Vec::new());
        };
        if self.others.is_none() {
            let mut others: HashMap<Sha256, Vec<Candidate>> = HashMap::new();
            let asked = all.iter().filter_map(|found| found.put.sha256);
            others.extend(asked.map(|sha256| (sha256, Vec::new())));
            match self.chain.latest().await {
                Ok(reading) => {
                    for known in reading.tree.values() {
                        if let Some(others) = others.get_mut(&known.sha256) {
                            others.push(Candidate::other(&known.key, &known.etag));
                        }
                    }
                }
                // What is wrong with the catalog has been told.
                Err(catalog::Error::NoTree(_)) => {}
                Err(error) => return Err(error),
            }
            self.others = Some(others);
        }
        let others = self.others.as_ref();
        let others = others.and_then(|others| others.get(&sha256)).cloned();
        Ok(others.unwrap_or_default())
    }
}

fn version(found: &Found, place: Where) -> Version {
    let put = &found.put;
    let (path, path_base64) = told(found.path.as_bytes());
    let kept = match &place {
        Err(()) => "unknown",
        Ok(None) => "nowhere",
        Ok(Some(candidate)) => match candidate.place {
            Place::Own | Place::Other => "bucket",
            Place::Version => "version",
            Place::Trash => "trash",
        },
    };
    let place = place.ok().flatten();
    let is_of_other = place.as_ref().is_some_and(|one| one.place == Place::Other);
    let is_trash = place.as_ref().is_some_and(|one| one.place == Place::Trash);
    let (key, version_id) = match place {
        Some(Candidate { key, which, .. }) => match which {
            Which::Version(id) => (Some(key), Some(id)),
            _ => (Some(key), None),
        },
        None => (None, None),
    };
    let (key, trash_key) = if is_trash { (None, key) } else { (key, None) };
    Version {
        path: path.into_owned(),
        path_base64,
        time: rfc3339_millis(put.time_ns),
        size: put.size.unwrap_or_default(),
        mtime: put.mtime_ns.map(rfc3339_millis),
        sha256: put.sha256.map(Sha256::to_hex).unwrap_or_default(),
        ended: found.end.map(|(how, _)| how),
        until: found.end.map(|(_, ns)| rfc3339_millis(ns)),
        kept,
        key,
        version_id,
        trash_key,
        is_of_other,
        name: found.path.to_string(),
    }
}

/// One line for people.
fn text(version: &Version) -> String {
    let since = version.time.get(..19).unwrap_or_default().replace('T', " ");
    let hash = version.sha256.get(..7).unwrap_or_default();
    let until = version.until.as_deref().and_then(|until| until.get(..19));
    let ended = match (version.ended, until) {
        (Some(how), Some(until)) => format!("{how} {}", until.replace('T', " ")),
        _ => "present".to_owned(),
    };
    let kept = match version.kept {
        "bucket" if version.is_of_other => "  (copy)",
        "bucket" => "",
        "version" => "  (version)",
        "trash" => "  (trash)",
        "unknown" => "  (unknown)",
        _ => "  (lost)",
    };
    let size = show_bytes(version.size);
    format!("{since}  {size:>9}  {hash}  {ended}{kept}")
}
