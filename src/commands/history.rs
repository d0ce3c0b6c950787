//! `tidewatch history`: which contents a path has had, since when, what became of each, and whether it can still be had.
//!
//! Reads the catalog in the bucket, so it needs no state and no config, and looks at the objects before it says that a
//! content can be brought back. A file that was renamed is followed to the name that it had before. Never writes.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Serialize;

use crate::base::clock::rfc3339_millis;
use crate::base::digest::Sha256;
use crate::base::path::RelPath;
use crate::base::units::show_bytes;
use crate::catalog::{self, Chain, Op, Record};
use crate::commands::Exit;
use crate::commands::folders::Stores;
use crate::commands::restore::source::Source;
use crate::config::Problems;
use crate::report::out::{Out, note};
use crate::store::key::KeyMap;
use crate::store::{Store, Which};

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
struct Version {
    /// The name that it had then, escaped for people.
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_base64: Option<String>,
    /// Since when, RFC 3339.
    time: String,
    size: u64,
    mtime: Option<String>,
    sha256: String,
    /// `replaced`, `removed` or `renamed`; none of what is there now.
    ended: Option<&'static str>,
    /// When that was.
    until: Option<String>,
    /// Where it can be had: `bucket`, `version`, `trash`, or `nowhere`.
    kept: &'static str,
    version_id: Option<String>,
    trash_key: Option<String>,
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
    let keys = KeyMap::new(&to.prefix);
    let chain = match Chain::list(store.clone(), keys).await {
        Ok(chain) => chain,
        Err(error) => return complain(&error, Exit::Unreachable),
    };
    let told = async {
        let (found, troubles) = follow(&chain, path.clone()).await?;
        Ok::<_, catalog::Error>((found, troubles))
    };
    let (found, troubles) = match told.await {
        Ok(told) => told,
        Err(catalog::Error::Store(error)) => return complain(&error, Exit::Unreachable),
        Err(error) => return complain(&error, Exit::Usage),
    };
    for trouble in &troubles {
        note(format_args!("tidewatch: the catalog: {trouble}"));
    }
    if found.is_empty() {
        return complain(
            &"the catalog has never had a file of that name",
            Exit::Usage,
        );
    }
    let mut out = Out::stdout();
    let mut before: Option<RelPath> = None;
    for version in &found {
        let told = tell(&*store, version).await;
        let line = if options.json {
            serde_json::to_string(&told)?
        } else {
            let is_renamed = before.as_ref().is_some_and(|path| *path != version.path);
            if (before.is_none() && version.path != path) || is_renamed {
                out.line(format!("as {}:", version.path))
                    .context("write the results")?;
            }
            before = Some(version.path.clone());
            text(&told)
        };
        out.line(&line).context("write the results")?;
    }
    let is_damaged = troubles.iter().any(catalog::Trouble::is_damage);
    Ok(if is_damaged {
        Exit::Different
    } else {
        Exit::Level
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

/// Looks where a version can be had.
async fn tell(store: &dyn Store, version: &Found) -> Version {
    let put = &version.put;
    let is_there = async |key: &str, which: Which, etag: Option<&str>| {
        let object = store.head_of(key, &which).await;
        object.is_ok_and(|object| {
            Some(object.size) == put.size && etag.is_none_or(|etag| object.etag == etag)
        })
    };
    let (mut kept, mut version_id, mut trash_key) = ("nowhere", None, None);
    if let Some(key) = &put.key {
        if is_there(key, Which::Current, put.etag.as_deref()).await {
            kept = "bucket";
        } else if let Some(id) = &put.version_id
            && is_there(key, Which::Version(id.clone()), None).await
        {
            (kept, version_id) = ("version", Some(id.clone()));
        }
    }
    if kept == "nowhere" {
        for aside in version.asides.iter().rev() {
            if let Some(key) = &aside.trash_key
                && is_there(key, Which::Current, None).await
            {
                (kept, trash_key) = ("trash", Some(key.clone()));
                break;
            }
        }
    }
    let bytes = version.path.as_bytes();
    Version {
        path: version.path.to_string(),
        path_base64: std::str::from_utf8(bytes)
            .is_err()
            .then(|| BASE64_STANDARD.encode(bytes)),
        time: rfc3339_millis(put.time_ns),
        size: put.size.unwrap_or_default(),
        mtime: put.mtime_ns.map(rfc3339_millis),
        sha256: put.sha256.map(Sha256::to_hex).unwrap_or_default(),
        ended: version.end.map(|(how, _)| how),
        until: version.end.map(|(_, ns)| rfc3339_millis(ns)),
        kept,
        version_id,
        trash_key,
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
        "bucket" => "",
        "version" => "  (version)",
        "trash" => "  (trash)",
        _ => "  (lost)",
    };
    let size = show_bytes(version.size);
    format!("{since}  {size:>9}  {hash}  {ended}{kept}")
}
