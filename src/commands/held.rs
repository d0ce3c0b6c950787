//! `tidewatch held`: what the brakes hold, and a person's decision about it.
//!
//! Listing only reads. A decision is about everything that is held in a folder; it goes to the agent that runs, or into
//! the manifest where none does, and is then carried out by the next run.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Serialize;

use crate::base::clock::rfc3339;
use crate::base::path::{RelPath, escaped};
use crate::commands::Exit;
use crate::commands::control::{DecideError, Verb, decide};
use crate::commands::status::meant::{self, Meant};
use crate::commands::status::target;
use crate::manifest::{FolderRow, HeldWhat, Manifest};
use crate::report::out::{Out, note};

/// Rows read at once.
const PAGE: usize = 1000;

/// What `held` is asked.
#[derive(Debug)]
pub struct HeldOptions {
    /// The state folders to look into.
    pub states: Vec<PathBuf>,
    /// A folder's name, path or URL; all folders if `None`.
    pub folder: Option<String>,
    /// What is to be done.
    pub what: HeldCommand,
}

/// What is to be done with what is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HeldCommand {
    /// It is shown.
    List {
        /// As one JSON object for each path.
        json: bool,
    },
    /// It is done after all.
    Release,
    /// It is forgotten, and the objects stay as they are.
    Drop,
}

/// One held path.
#[derive(Debug, Serialize)]
struct Line {
    folder: String,
    what: &'static str,
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_base64: Option<String>,
    bytes: u64,
    since: String,
}

/// A folder, where it is kept.
pub struct Place {
    /// The state folder.
    pub dir: PathBuf,
    /// The folder.
    pub row: FolderRow,
}

/// Lists what is held, or decides about it.
///
/// Exit 2 if the folder is not there, 6 if another command is at work in its state folder, 1 if something failed.
pub fn held(options: &HeldOptions, out: &mut Out) -> anyhow::Result<Exit> {
    let Some(places) = places(&options.states, options.folder.as_deref())? else {
        return Ok(Exit::Usage);
    };
    let verb = match options.what {
        HeldCommand::List { json } => {
            let mut count = 0;
            for place in &places {
                count += list(place, json, out)?;
            }
            if count == 0 && !json {
                out.line("nothing is held")?;
            }
            return Ok(Exit::Level);
        }
        HeldCommand::Release => Verb::Release,
        HeldCommand::Drop => Verb::Drop,
    };
    let mut exit = Exit::Level;
    for place in places {
        let name = &place.row.name;
        match decide(&place.dir, &place.row, verb) {
            Ok(count) => {
                let done = if verb == Verb::Release {
                    "released"
                } else {
                    "dropped; their objects stay as they are"
                };
                out.line(format!("{name}: {count} {done}"))?;
            }
            Err(error) => {
                note(format_args!("tidewatch: could not {error}"));
                exit = if matches!(error, DecideError::Taken(_)) {
                    Exit::Taken
                } else {
                    Exit::Failed
                };
            }
        }
    }
    Ok(exit)
}

/// Finds the folders that `wanted` means, or all; `None` if there is none, which has been said.
pub fn places(states: &[PathBuf], wanted: Option<&str>) -> anyhow::Result<Option<Vec<Place>>> {
    let meant = wanted.map(Meant::of);
    let (mut places, mut known) = (Vec::new(), Vec::new());
    for dir in states {
        let Some(manifest) = Manifest::open_read_only(dir)? else {
            continue;
        };
        for row in manifest.folders()? {
            let (path, to) = (escaped(&row.key.path), target(&row));
            known.push(format!("  {}  {path}  {to}", row.name));
            if meant
                .as_ref()
                .is_none_or(|meant| meant.is(&row.name, &path, &to))
            {
                places.push(Place {
                    dir: dir.clone(),
                    row,
                });
            }
        }
    }
    if let Some(wanted) = wanted.filter(|_| places.is_empty()) {
        let why = meant::missing(wanted, &known);
        note(format_args!("tidewatch: could not find {why}"));
        return Ok(None);
    }
    Ok(Some(places))
}

/// Shows what is held in a folder; returns how much that is.
fn list(place: &Place, json: bool, out: &mut Out) -> anyhow::Result<u64> {
    let reading = || format!("read the state folder {}", shown(&place.dir));
    let Some(manifest) = Manifest::open_read_only(&place.dir).with_context(reading)? else {
        return Ok(0);
    };
    let (mut after, mut count) = (RelPath::root(), 0);
    loop {
        let rows = manifest.held(place.row.id, &after, PAGE)?;
        let Some(last) = rows.last() else { break };
        after = last.path.clone();
        for row in &rows {
            let Some(held) = row.held.as_ref().filter(|held| held.what.is_waiting()) else {
                continue;
            };
            let what = if held.what == HeldWhat::Delete {
                "delete"
            } else {
                "overwrite"
            };
            let line = Line {
                folder: place.row.name.clone(),
                what,
                path: row.path.to_string(),
                path_base64: std::str::from_utf8(row.path.as_bytes())
                    .is_err()
                    .then(|| BASE64_STANDARD.encode(row.path.as_bytes())),
                bytes: row.stored.as_ref().map_or(0, |content| content.stat.size),
                since: rfc3339(held.at_ns),
            };
            count += 1;
            if json {
                out.line(serde_json::to_string(&line)?)?;
            } else {
                if count == 1 {
                    out.line(format!("{}  {}", place.row.name, target(&place.row)))?;
                }
                out.line(format!("  {:<9}  {}  {}", line.what, line.since, line.path))?;
            }
        }
    }
    Ok(count)
}

fn shown(dir: &Path) -> String {
    escaped(dir.as_os_str().as_encoded_bytes())
}
