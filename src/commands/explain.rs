//! `tidewatch explain`: is this file safe, and if not, why.
//!
//! Only reads, takes no lock, and asks no bucket: it compares the disk, the rules and the manifest, which never claims a
//! version that the bucket does not hold. An agent that runs is asked first: it does the same by the rules that it goes by,
//! and knows besides where the file is on its way. Safe means that the bucket holds the file as it is on the disk now; of a file
//! that is gone, that it holds the last content that was synced. When in doubt it is not safe.
//!
//! With `--json` one object for each folder that holds the path, each on a line.

mod judge;
mod text;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};

use crate::base::clock::{Clock, rfc3339};
use crate::base::live::Live;
use crate::base::path::{RelPath, escaped};
use crate::base::policy::Symlinks;
use crate::commands::explain::judge::{Disk, Known, Verdict};
use crate::commands::{Exit, control, folders};
use crate::config::{self, Config, Options, Surroundings};
use crate::manifest::{self, FolderRow, Manifest};
use crate::report::out::{Out, note};
use crate::store::key::KeyMap;
use crate::tree::filter::Filter;

/// What `explain` is asked.
#[derive(Debug)]
pub struct ExplainOptions {
    /// The file, as it was given.
    pub path: PathBuf,
    /// The state folders to look into.
    pub states: Vec<PathBuf>,
    /// Whose rules count, or why there are none.
    pub config: Result<Named, String>,
    /// One JSON object for each folder instead of text.
    pub json: bool,
}

/// A config and where it was read.
#[derive(Debug)]
pub struct Named {
    place: PathBuf,
    config: Config,
}

/// Reads the config that `named` or the surroundings lead to; the error says why there is none to go by.
pub fn config(named: Option<&Path>, surroundings: &Surroundings) -> Result<Named, String> {
    let said = |problem: config::Problem| problem.to_string();
    // Where one was looked for is told by the commands that need one.
    let none = |_| "there is no config".to_owned();
    let place = config::find(named, surroundings).map_err(none)?;
    let text = config::text_of(&place).map_err(said)?;
    let config = Config::load(&text, &place, &Options::default(), surroundings);
    let first = |problems: config::Problems| problems.iter().next().map(ToString::to_string);
    match config {
        Ok(config) => Ok(Named { place, config }),
        Err(problems) => Err(first(problems).unwrap_or_default()),
    }
}

/// What is said of the path in one folder, in the words of the JSON contract.
#[derive(Debug, Serialize, Deserialize)]
pub struct Explained {
    /// The path, absolute, escaped for people.
    path: String,
    /// The path's bytes, where they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    path_base64: Option<String>,
    #[serde(flatten)]
    verdict: Verdict,
    /// The folder's name.
    folder: String,
    /// Where the folder goes.
    to: String,
    /// The key of the file's object; `None` if it cannot have one.
    key: Option<String>,
    /// What is on the disk; `None`: nothing.
    disk: Option<Disk>,
    /// What the manifest knows; `None`: nothing.
    known: Option<Known>,
    /// The config whose rules were asked.
    config: Option<String>,
    /// Why the config's rules could not be asked.
    config_missing: Option<String>,
    /// Whether a process holds the state folder.
    agent_alive: bool,
    /// What that process knows of the path now; `None`: it was not asked, or has not answered.
    #[serde(default)]
    live: Option<Live>,
    /// When the bucket was last compared with what is known of it, RFC 3339.
    #[serde(default)]
    last_audit: Option<String>,
    /// When `tidewatch verify` last went through the folder, RFC 3339.
    #[serde(default)]
    last_verify: Option<String>,
}

/// Explains a path.
///
/// Exit 0 if it is safe in every folder that holds it, 3 if not, 2 if no folder holds it.
pub fn explain(options: &ExplainOptions) -> anyhow::Result<Exit> {
    let path =
        whole(&options.path).with_context(|| format!("find {}", folders::shown(&options.path)))?;
    let mut all = Vec::new();
    let mut roots = Vec::new();
    for dir in &options.states {
        match control::explain(dir, &path) {
            Some(Ok(explained)) if !explained.is_empty() => {
                all.extend(explained);
                continue;
            }
            Some(Err(why)) => {
                note(format_args!("tidewatch: could not {why}"));
                return Ok(Exit::Usage);
            }
            // It does not look after such a folder, or there is none.
            _ => {}
        }
        let Some(manifest) = opened(dir)? else {
            continue;
        };
        for row in manifest.folders()? {
            let root = PathBuf::from(OsStr::from_bytes(&row.key.path));
            roots.push(format!("  {}", folders::shown(&root)));
            let Some(below) = RelPath::below(&root, &path) else {
                continue;
            };
            let place = Place {
                rules: Rules::Config(&options.config),
                dir,
                root: &root,
                manifest: &manifest,
                row: &row,
                live: None,
            };
            if below.is_root() || place.is_folder(&below) {
                note(format_args!("tidewatch: could not {}", is_folder(&path)));
                return Ok(Exit::Usage);
            }
            all.push(place.explain(&path, &below)?);
        }
    }
    if all.is_empty() {
        note(missing(&path, &roots));
        return Ok(Exit::Usage);
    }
    let mut out = Out::stdout();
    for one in &all {
        let shown = if options.json {
            out.line(serde_json::to_string(one)?)
        } else {
            out.raw(text::page(one).as_bytes())
        };
        shown.context("write to standard output")?;
    }
    let is_safe = all.iter().all(|one| one.verdict.safe);
    Ok(if is_safe {
        Exit::Level
    } else {
        Exit::Different
    })
}

/// Explains a path in a folder that this process looks after; empty if the state folder knows no such folder. The error
/// fits after "could not".
pub fn in_folder(
    state_dir: &Path,
    folder: &config::Folder,
    path: &Path,
    live: Option<Live>,
) -> Result<Vec<Explained>, String> {
    let of = |error: &dyn std::fmt::Display| format!("explain {}: {error}", folders::shown(path));
    let manifest = Manifest::open_read_only(state_dir).map_err(|error| of(&error))?;
    let Some(manifest) = manifest else {
        return Ok(Vec::new());
    };
    let rows = manifest.folders().map_err(|error| of(&error))?;
    let Some(row) = rows.iter().find(|row| is_this(folder, row)) else {
        return Ok(Vec::new());
    };
    let Some(below) = RelPath::below(&folder.path, path) else {
        return Ok(Vec::new());
    };
    let place = Place {
        rules: Rules::Running(folder),
        dir: state_dir,
        root: &folder.path,
        manifest: &manifest,
        row,
        live,
    };
    if below.is_root() || place.is_folder(&below) {
        return Err(is_folder(path));
    }
    let explained = place.explain(path, &below);
    explained
        .map(|one| vec![one])
        .map_err(|error| of(&format_args!("{error:#}")))
}

fn is_folder(path: &Path) -> String {
    format!(
        "explain {}: it is a folder, name a file in it; `tidewatch status` shows how far a folder is",
        folders::shown(path)
    )
}

/// Opens the manifest; where the state folder may not be entered the error says who may.
fn opened(dir: &Path) -> anyhow::Result<Option<Manifest>> {
    let is_barred = |error: std::io::Error| error.kind() == std::io::ErrorKind::PermissionDenied;
    if std::fs::read_dir(dir).is_err_and(is_barred) {
        let dir = folders::shown(dir);
        anyhow::bail!(
            "look into the state folder {dir}: permission denied; ask as the user whom the agent runs as, as root, \
             or as a member of the group of /run/tidewatch/agent.sock"
        );
    }
    Ok(Manifest::open_read_only(dir)?)
}

/// Returns true if the config's folder is the one of the row.
fn is_this(folder: &config::Folder, row: &FolderRow) -> bool {
    folder.path.as_os_str().as_encoded_bytes() == row.key.path
        && folder.to.bucket == row.key.bucket
        && folder.to.prefix == row.key.prefix
}

fn missing(path: &Path, roots: &[String]) -> String {
    let path = folders::shown(path);
    if roots.is_empty() {
        return format!("tidewatch: could not explain {path}: nothing is synced from here yet");
    }
    format!(
        "tidewatch: could not explain {path}: it is in no folder that is synced; there are\n{}",
        roots.join("\n")
    )
}

/// Returns the path with every link above its last component resolved, as far as it is there.
pub fn whole(path: &Path) -> std::io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    // A path that ends in `..` has no name, and names a folder.
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return path.canonicalize();
    };
    let mut rest = vec![name.to_owned()];
    let mut at = parent;
    loop {
        if let Ok(found) = at.canonicalize() {
            return Ok(rest
                .into_iter()
                .rev()
                .fold(found, |path, name| path.join(name)));
        }
        let (Some(parent), Some(name)) = (at.parent(), at.file_name()) else {
            return Ok(path);
        };
        rest.push(name.to_owned());
        at = parent;
    }
}

/// A folder that holds the path.
struct Place<'a> {
    rules: Rules<'a>,
    dir: &'a Path,
    root: &'a Path,
    manifest: &'a Manifest,
    row: &'a FolderRow,
    live: Option<Live>,
}

/// Whose rules count.
enum Rules<'a> {
    /// Those of a config, or why there are none.
    Config(&'a Result<Named, String>),
    /// Those that this process goes by.
    Running(&'a config::Folder),
}

impl Place<'_> {
    fn is_folder(&self, path: &RelPath) -> bool {
        // A link to a folder is a link.
        std::fs::symlink_metadata(path.under(self.root)).is_ok_and(|stat| stat.is_dir())
    }

    fn explain(self, whole: &Path, path: &RelPath) -> anyhow::Result<Explained> {
        let (filter, symlinks, config) = self.filter()?;
        let seen = judge::look(self.root, path, filter, symlinks);
        let entries = self
            .manifest
            .entries(self.row.id, std::slice::from_ref(&seen.path))?;
        let entry = entries.into_iter().next().flatten();
        let key = KeyMap::new(&self.row.key.prefix).key(&seen.path);
        let reading = || format!("read {}", folders::shown(self.dir));
        let agent_alive = manifest::held_since(self.dir)
            .with_context(reading)?
            .is_some();
        let bytes = whole.as_os_str().as_encoded_bytes();
        let marks = self.manifest.marks(self.row.id)?;
        let verdict = judge::verdict(&seen, entry.as_ref(), key.as_ref(), Clock::Real.now());
        Ok(Explained {
            path: escaped(bytes),
            path_base64: std::str::from_utf8(bytes)
                .is_err()
                .then(|| BASE64_STANDARD.encode(bytes)),
            verdict: verdict.beside(self.live.as_ref()),
            folder: self.row.name.clone(),
            to: format!("s3://{}/{}", self.row.key.bucket, self.row.key.prefix),
            key: key.ok(),
            disk: seen.disk(),
            known: entry.as_ref().map(Known::of),
            config_missing: config.as_ref().err().filter(|why| !why.is_empty()).cloned(),
            config: config.ok(),
            agent_alive,
            live: self.live,
            last_audit: marks.audited_ns.map(rfc3339),
            last_verify: marks.verified.map(|last| rfc3339(last.at_ns)),
        })
    }

    /// Returns the folder's rules, what becomes of links, and the config they are from, or why there is none.
    fn filter(&self) -> anyhow::Result<(Filter, Symlinks, Result<String, String>)> {
        let named = match &self.rules {
            Rules::Config(Ok(named)) => named,
            Rules::Config(Err(why)) => {
                return Ok((without_config()?, Symlinks::Skip, Err(why.clone())));
            }
            // Where it was read from is not what is asked; nothing is missing.
            Rules::Running(folder) => {
                return Ok((self.own_rules(folder)?, folder.symlinks, Err(String::new())));
            }
        };
        let mut folders = named.config.folders.iter();
        let Some(folder) = folders.find(|folder| is_this(folder, self.row)) else {
            let why = format!(
                "{} does not name this folder, and what a command was told by --exclude is not kept",
                folders::shown(&named.place)
            );
            return Ok((without_config()?, Symlinks::Skip, Err(why)));
        };
        let filter = self.own_rules(folder)?;
        Ok((filter, folder.symlinks, Ok(folders::shown(&named.place))))
    }

    fn own_rules(&self, folder: &config::Folder) -> anyhow::Result<Filter> {
        let filter = folders::rules(folder)?;
        Ok(match RelPath::below(self.root, self.dir) {
            Some(own) if !own.is_root() => filter.with_hidden(own),
            _ => filter,
        })
    }
}

/// Returns the rules that count without a config: the built-in ones, and those in the tree.
fn without_config() -> anyhow::Result<Filter> {
    Ok(Filter::new(&[], &[], true)?.without_caches())
}
