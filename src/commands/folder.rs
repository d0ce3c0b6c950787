//! `tidewatch folder`: the folders of a state folder; one that has moved, or whose bucket has; one that is to be forgotten.
//!
//! Never changes a bucket: what of a forgotten folder lies there stays, and how to remove it is said.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::base::clock::{Clock, rfc3339};
use crate::base::path::escaped;
use crate::base::units::show_bytes;
use crate::commands::Exit;
use crate::commands::control::{DecideError, Verb, decide};
use crate::commands::folders::shown;
use crate::commands::held::{Place, places};
use crate::commands::status::target;
use crate::config::Target;
use crate::manifest::{FolderKey, Manifest, OpenError};
use crate::report::out::{Out, note};

/// What `folder` is asked.
#[derive(Debug)]
pub struct FolderOptions {
    /// The state folders to look into.
    pub states: Vec<PathBuf>,
    /// What is to be done.
    pub what: FolderCommand,
}

/// What is to be done with folders.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FolderCommand {
    /// They are listed.
    List,
    /// What is on record of one is changed.
    Set {
        /// A folder's name, path or URL.
        folder: String,
        /// What is at its path is taken for the right one, as it is now.
        accept_root: bool,
        /// Where it is now.
        moved: Moved,
    },
    /// One is forgotten.
    Forget {
        /// A folder's name, path or URL.
        folder: String,
    },
}

/// Where a folder is now; `None`: where it was.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Moved {
    /// On the disk.
    pub path: Option<PathBuf>,
    /// In S3: `s3://BUCKET[/PREFIX]`.
    pub to: Option<String>,
    /// The server; empty for AWS.
    pub endpoint_url: Option<String>,
}

impl Moved {
    fn is_anywhere(&self) -> bool {
        self.path.is_some() || self.to.is_some() || self.endpoint_url.is_some()
    }

    /// Returns what a folder is that was `key`. The error fits after "could not".
    fn applied(&self, key: &FolderKey) -> Result<FolderKey, String> {
        let mut key = key.clone();
        if let Some(path) = &self.path {
            let found = path.canonicalize();
            let found = found.map_err(|error| format!("find {}: {error}", shown(path)))?;
            if !found.is_dir() {
                return Err(format!("use {}: it is no folder", shown(path)));
            }
            key.path = found.into_os_string().into_encoded_bytes();
        }
        if let Some(to) = &self.to {
            let to = Target::parse(to).map_err(|why| format!("understand --to: {why}"))?;
            if to.to_string().contains('{') {
                return Err(format!(
                    "use {to}: write out what {{hostname}} and {{name}} are"
                ));
            }
            (key.bucket, key.prefix) = (to.bucket, to.prefix);
        }
        if let Some(url) = &self.endpoint_url {
            let is_url =
                url.is_empty() || url.starts_with("http://") || url.starts_with("https://");
            if !is_url {
                return Err(format!(
                    "use the endpoint {url:?}: expected http://… or https://…"
                ));
            }
            url.trim_end_matches('/').clone_into(&mut key.endpoint);
        }
        Ok(key)
    }
}

/// Lists folders, or changes what is on record of one.
///
/// Exit 2 if the folder is not there or cannot be what is said, 6 if another command is at work in its state folder, 1 if
/// something failed.
pub fn folder(options: &FolderOptions, out: &mut Out) -> anyhow::Result<Exit> {
    let wanted = match &options.what {
        FolderCommand::List => None,
        FolderCommand::Set { folder, .. } | FolderCommand::Forget { folder } => {
            Some(folder.as_str())
        }
    };
    let Some(places) = places(&options.states, wanted)? else {
        return Ok(Exit::Usage);
    };
    match &options.what {
        FolderCommand::List => list(&places, out),
        FolderCommand::Set {
            accept_root, moved, ..
        } => {
            if !accept_root && !moved.is_anywhere() {
                let remedy = "name at least one of --accept-root, --path, --to, --endpoint-url";
                note(format_args!(
                    "tidewatch: could not change anything: {remedy}"
                ));
                return Ok(Exit::Usage);
            }
            if moved.is_anywhere() {
                let Some(place) = only(places) else {
                    return Ok(Exit::Usage);
                };
                return set(place, moved, out);
            }
            let mut exit = Exit::Level;
            for place in places {
                exit = exit.strongest(accept(&place, out)?);
            }
            Ok(exit)
        }
        FolderCommand::Forget { .. } => match only(places) {
            Some(place) => forget(&place, out),
            None => Ok(Exit::Usage),
        },
    }
}

fn list(places: &[Place], out: &mut Out) -> anyhow::Result<Exit> {
    for place in places {
        let row = &place.row;
        let scan = row.last_scan_ns.map_or_else(|| "never".to_owned(), rfc3339);
        let state = escaped(place.dir.as_os_str().as_encoded_bytes());
        out.line(format!(
            "{}\n  path       {}",
            row.name,
            escaped(&row.key.path)
        ))?;
        out.line(format!(
            "  to         {}\n  state      {state}\n  last scan  {scan}",
            target(row)
        ))?;
    }
    if places.is_empty() {
        out.line("no folder is known here yet")?;
    }
    Ok(Exit::Level)
}

/// Returns the one folder that is meant, or says that there are several.
fn only(mut places: Vec<Place>) -> Option<Place> {
    if places.len() == 1 {
        return places.pop();
    }
    note("tidewatch: could not tell which folder is meant; name it by its path or URL:");
    for place in &places {
        let (path, to) = (escaped(&place.row.key.path), target(&place.row));
        note(format_args!("  {}  {path}  {to}", place.row.name));
    }
    None
}

fn accept(place: &Place, out: &mut Out) -> anyhow::Result<Exit> {
    Ok(match decide(&place.dir, &place.row, Verb::AcceptRoot) {
        Ok(_) => {
            let name = &place.row.name;
            out.line(format!(
                "{name}: the folder that is there now is the right one"
            ))?;
            Exit::Level
        }
        Err(error) => {
            note(format_args!("tidewatch: could not {error}"));
            if matches!(error, DecideError::Taken(_)) {
                Exit::Taken
            } else {
                Exit::Failed
            }
        }
    })
}

fn set(mut place: Place, moved: &Moved, out: &mut Out) -> anyhow::Result<Exit> {
    let before = place.row.key.clone();
    let key = match moved.applied(&before) {
        Ok(key) => key,
        Err(why) => {
            note(format_args!("tidewatch: could not {why}"));
            return Ok(Exit::Usage);
        }
    };
    let manifest = match hold(&place.dir) {
        Ok(manifest) => manifest,
        Err(exit) => return Ok(exit),
    };
    let is_moved = manifest.move_folder(place.row.id, &before, &key);
    manifest.close();
    if !is_moved.context("change what is on record")? {
        note(format_args!(
            "tidewatch: could not move {}: another folder is on record there; `tidewatch folder list` shows it, and \
             `tidewatch folder forget` forgets it",
            place.row.name
        ));
        return Ok(Exit::Usage);
    }
    let is_elsewhere = key.path != before.path;
    let other_bucket = (&key.endpoint, &key.bucket, &key.prefix)
        != (&before.endpoint, &before.bucket, &before.prefix);
    place.row.key = key;
    let (path, to) = (escaped(&place.row.key.path), target(&place.row));
    let name = &place.row.name;
    out.line(format!(
        "{name}: is {path} now, and goes to {to}; the config has to say the same"
    ))?;
    if other_bucket {
        out.line(
            "  what lies there is compared with what is on record at the next start, before anything is written",
        )?;
    }
    if is_elsewhere {
        return accept(&place, out);
    }
    Ok(Exit::Level)
}

fn forget(place: &Place, out: &mut Out) -> anyhow::Result<Exit> {
    let manifest = match hold(&place.dir) {
        Ok(manifest) => manifest,
        Err(exit) => return Ok(exit),
    };
    let forgotten = manifest.forget_folder(place.row.id);
    manifest.close();
    let left = forgotten.context("forget the folder")?;
    let (name, to) = (&place.row.name, target(&place.row));
    out.line(format!(
        "{name}: forgotten; a config that names it would begin it anew"
    ))?;
    out.line(format!(
        "  {} objects ({}) stay below {to}, with what is below {to}.tidewatch/",
        left.objects,
        show_bytes(left.bytes)
    ))?;
    out.line(format!("  to remove them: aws s3 rm --recursive {to}"))?;
    if left.uploads > 0 {
        out.line(format!(
            "  and {} unfinished uploads, which a lifecycle rule ends (AbortIncompleteMultipartUpload)",
            left.uploads
        ))?;
    }
    Ok(Exit::Level)
}

/// Takes the state folder for this command alone.
fn hold(dir: &Path) -> Result<Manifest, Exit> {
    let opened = Manifest::open(dir, Clock::Real.now().wall_ns);
    opened.map(|(manifest, _)| manifest).map_err(|error| {
        if let OpenError::Locked { .. } = error {
            note(format_args!(
                "tidewatch: could not change what is on record: {error}; stop the agent first"
            ));
            return Exit::Taken;
        }
        note(format_args!("tidewatch: could not {error}"));
        Exit::Failed
    })
}
