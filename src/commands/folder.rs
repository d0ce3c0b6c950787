//! `tidewatch folder`: the folders of a state folder, and a root that has been replaced on purpose.

use std::path::PathBuf;

use crate::base::clock::rfc3339;
use crate::base::path::escaped;
use crate::commands::Exit;
use crate::commands::control::{DecideError, Verb, decide};
use crate::commands::held::places;
use crate::commands::status::target;
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
    /// The root of one is taken for the right one, as it is now.
    AcceptRoot {
        /// A folder's name, path or URL.
        folder: String,
    },
}

/// Lists folders, or accepts the root of one.
///
/// Exit 2 if the folder is not there, 6 if another command is at work in its state folder, 1 if something failed.
pub fn folder(options: &FolderOptions, out: &mut Out) -> anyhow::Result<Exit> {
    let wanted = match &options.what {
        FolderCommand::List => None,
        FolderCommand::AcceptRoot { folder } => Some(folder.as_str()),
    };
    let Some(places) = places(&options.states, wanted)? else {
        return Ok(Exit::Usage);
    };
    if wanted.is_none() {
        for place in &places {
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
        return Ok(Exit::Level);
    }
    let mut exit = Exit::Level;
    for place in places {
        match decide(&place.dir, &place.row, Verb::AcceptRoot) {
            Ok(_) => out.line(format!(
                "{}: the folder that is there now is the right one",
                place.row.name
            ))?,
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
