//! `tidewatch pause`, `resume` and `sync-now`: a person tells the agent that runs.
//!
//! A pause can be told when none runs: it is written into the manifest, and the next agent that stays starts with it. To
//! look now takes an agent.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::base::path::RelPath;
use crate::commands::control::{self, DecideError, Verb};
use crate::commands::folders::{root_of, shown};
use crate::commands::held::{Place, places};
use crate::commands::status::meant::{self, Meant};
use crate::commands::status::target;
use crate::commands::{Exit, explain};
use crate::report::out::{Out, note};

/// What `sync-now` is asked.
#[derive(Debug)]
pub struct SyncNowOptions {
    /// The state folders to look into.
    pub states: Vec<PathBuf>,
    /// A folder's name, path or URL, or a path in one; all folders if `None`.
    pub folder: Option<OsString>,
    /// A path in the folder.
    pub path: Option<PathBuf>,
}

/// Has folders pause or go on.
///
/// Exit 2 if the folder is not there, 6 if another command is at work in its state folder, 1 if something failed.
pub fn decide(
    states: &[PathBuf],
    folder: Option<&str>,
    verb: Verb,
    out: &mut Out,
) -> anyhow::Result<Exit> {
    let Some(places) = places(states, folder)? else {
        return Ok(Exit::Usage);
    };
    let mut exit = Exit::Level;
    for Place { dir, row } in &places {
        let asked = control::ask(dir, row, verb);
        let has_agent = asked.is_some();
        match asked.unwrap_or_else(|| control::decide(dir, row, verb)) {
            Ok(count) => {
                let done = words(verb, count > 0, has_agent);
                out.line(format!("{}: {done}", row.name))?;
            }
            Err(error) => {
                note(format_args!("tidewatch: could not {error}"));
                let one = match error {
                    DecideError::Taken(_) => Exit::Taken,
                    DecideError::Refused(_) => Exit::Failed,
                };
                exit = exit.strongest(one);
            }
        }
    }
    if places.is_empty() {
        out.line("nothing is synced from here yet")?;
    }
    Ok(exit)
}

/// Says what was done. (pure)
fn words(verb: Verb, is_new: bool, has_agent: bool) -> &'static str {
    match (verb == Verb::Pause, is_new, has_agent) {
        (true, true, true) => "paused; what is on its way ends, `tidewatch resume` goes on",
        (true, true, false) => {
            "paused; no agent runs now, the next one sends nothing until `tidewatch resume`"
        }
        (true, false, _) => "was paused already",
        (false, true, true) => "goes on",
        (false, true, false) => "not paused any more; no agent runs now",
        (false, false, _) => "was not paused",
    }
}

/// Has the agent look at folders, or at one path, now.
///
/// Exit 2 if the folder is not there, 1 if no agent runs or it could not be done.
pub fn sync_now(options: &SyncNowOptions, out: &mut Out) -> anyhow::Result<Exit> {
    let Some(wanted) = wanted(options)? else {
        return Ok(Exit::Usage);
    };
    let mut exit = Exit::Level;
    for (Place { dir, row }, path) in &wanted {
        let what = if path.is_root() {
            "everything".to_owned()
        } else {
            format!("`{path}`")
        };
        let name = &row.name;
        match control::sync_now(dir, row, path) {
            Some(Ok(waits)) => {
                let waits = match waits {
                    0 => String::new(),
                    1 => "; 1 file waits no longer".to_owned(),
                    n => format!("; {n} files wait no longer"),
                };
                out.line(format!("{name}: the agent looks at {what} now{waits}"))?;
            }
            Some(Err(error)) => {
                note(format_args!("tidewatch: {name}: could not {error}"));
                exit = Exit::Failed;
            }
            None => {
                note(format_args!(
                    "tidewatch: could not sync {name} now: no agent runs for it; `tidewatch sync` does it without one"
                ));
                exit = Exit::Failed;
            }
        }
    }
    if wanted.is_empty() {
        note("tidewatch: could not sync anything now: nothing is synced from here yet");
        exit = Exit::Usage;
    }
    Ok(exit)
}

/// Finds the folders, and the path in each; `None` if there is none, which has been said.
fn wanted(options: &SyncNowOptions) -> anyhow::Result<Option<Vec<(Place, RelPath)>>> {
    let all = places(&options.states, None)?.unwrap_or_default();
    let Some(first) = &options.folder else {
        let whole = |place| (place, RelPath::root());
        return Ok(Some(all.into_iter().map(whole).collect()));
    };
    let known: Vec<String> = all.iter().map(line).collect();
    // A path of bytes that are no text is no name.
    let meant = first.to_str().map(Meant::of);
    let is_meant = |place: &Place| {
        let (path, to) = (shown(Path::new(root_of(&place.row))), target(&place.row));
        let meant = meant.as_ref();
        meant.is_some_and(|meant| meant.is(&place.row.name, &path, &to))
    };
    let (meant, others): (Vec<Place>, Vec<Place>) = all.into_iter().partition(is_meant);
    let mut wanted = Vec::new();
    if meant.is_empty() && options.path.is_none() {
        let whole = whole(Path::new(first))?;
        let below = |place: Place| {
            let path = RelPath::below(Path::new(root_of(&place.row)), &whole)?;
            Some((place, path))
        };
        wanted.extend(others.into_iter().filter_map(below));
    }
    for place in meant {
        let path = match &options.path {
            None => Some(RelPath::root()),
            Some(path) => within(&place, path)?,
        };
        let Some(path) = path else {
            let path = options.path.as_deref().unwrap_or(Path::new(""));
            note(format_args!(
                "tidewatch: could not find {}: it is not in {}",
                shown(path),
                place.row.name
            ));
            return Ok(None);
        };
        wanted.push((place, path));
    }
    if wanted.is_empty() {
        let why = meant::missing(&first.to_string_lossy(), &known);
        note(format_args!("tidewatch: could not find {why}"));
        return Ok(None);
    }
    Ok(Some(wanted))
}

/// Returns a path in a folder: from here, or from the folder's root.
fn within(place: &Place, path: &Path) -> anyhow::Result<Option<RelPath>> {
    let root = Path::new(root_of(&place.row));
    let from_here = RelPath::below(root, &whole(path)?);
    let from_root = || RelPath::new(path.as_os_str().as_encoded_bytes());
    Ok(from_here.or_else(from_root))
}

fn whole(path: &Path) -> anyhow::Result<PathBuf> {
    explain::whole(path).with_context(|| format!("find {}", shown(path)))
}

fn line(place: &Place) -> String {
    let path = shown(Path::new(root_of(&place.row)));
    format!("  {}  {path}  {}", place.row.name, target(&place.row))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_is_said_in_words_that_tell_what_is_next() {
        assert!(words(Verb::Pause, true, true).contains("tidewatch resume"));
        assert!(words(Verb::Pause, true, false).contains("the next one"));
        assert_eq!(words(Verb::Pause, false, true), "was paused already");
        assert_eq!(words(Verb::Resume, false, false), "was not paused");
    }
}
