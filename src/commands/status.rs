//! `tidewatch status`: how far each folder is, from what the agent says and from the manifest.
//!
//! Only reads, and takes no lock. The living agent is asked over its socket. Never calls a folder level that none answers
//! for: where none is reached, a status file counts as the present only if the process that holds the state folder wrote
//! it, and since it does; else the manifest is asked, and the file is the last word of an agent that is gone.
//!
//! With `--json` one object a state folder, each on a line; one that says that there is nothing where nothing is.

pub mod follow;
pub mod meant;
pub mod states;
mod text;

use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::Context as _;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Serialize;

use crate::base::clock::{Clock, rfc3339};
use crate::base::host;
use crate::base::path::{RelPath, escaped};
use crate::base::snapshot::FolderSnapshot;
use crate::commands::open::{self, PagePlace};
use crate::commands::status::meant::Meant;
use crate::commands::{Exit, control};
use crate::manifest::{self, FolderRow, Manifest};
use crate::report::bill_file::{self, Cost};
use crate::report::drill_file::{self, Drilled};
use crate::report::out::{Out, note};
use crate::report::status_file::{self, FolderStatus, StatusFile, TriedStatus};

/// How many failing paths are named for each folder.
const NAMED: usize = 5;

/// What `status` is asked to show.
#[derive(Clone, Debug)]
pub struct StatusOptions {
    /// The state folders to look into, in this order; one that does not exist has nothing to show.
    pub states: Vec<PathBuf>,
    /// A folder's name, path or URL; all folders if `None`.
    pub folder: Option<String>,
    /// One JSON object for each state folder instead of text.
    pub json: bool,
}

/// Shows the folders of all state folders.
///
/// Exit 2 if a folder was asked for that is not there, 1 if a state folder could not be read, else 0.
pub fn status(options: &StatusOptions) -> anyhow::Result<Exit> {
    let Some((states, exit)) = gather(options) else {
        return Ok(Exit::Usage);
    };
    let mut out = Out::stdout();
    show(&states, options.json, exit, &mut out).context("write to standard output")?;
    Ok(exit)
}

/// Looks into all state folders; `None` if the folder that was asked for is not there, which has been said.
fn gather(options: &StatusOptions) -> Option<(Vec<State>, Exit)> {
    let now_ns = Clock::Real.now().wall_ns;
    let mut exit = Exit::Level;
    let mut states = Vec::new();
    for dir in &options.states {
        match look(dir, now_ns) {
            Ok(state) => states.extend(state),
            Err(error) => {
                note(format_args!("tidewatch: could not {error:#}"));
                exit = Exit::Failed;
            }
        }
    }
    if let Some(wanted) = &options.folder {
        let known: Vec<String> = states.iter().flat_map(State::known).collect();
        states.retain_mut(|state| state.keep(wanted));
        if states.is_empty() {
            let why = meant::missing(wanted, &known);
            note(format_args!("tidewatch: could not find {why}"));
            return None;
        }
    }
    Some((states, exit))
}

fn show(states: &[State], json: bool, exit: Exit, out: &mut Out) -> io::Result<()> {
    if json {
        for state in states {
            out.line(serde_json::to_string(state)?)?;
        }
        if states.is_empty() && exit == Exit::Level {
            out.line(serde_json::to_string(&State::default())?)?;
        }
    } else if states.is_empty() && exit == Exit::Level {
        out.line(
            "nothing is synced from here yet; `tidewatch sync DIR s3://BUCKET/PREFIX` begins",
        )?;
    } else {
        let pages: Vec<String> = states.iter().map(text::page).collect();
        if !pages.is_empty() {
            out.raw(pages.join("\n").as_bytes())?;
        }
    }
    Ok(())
}

/// What one state folder has to say, in the words of the JSON contract.
#[derive(Default, Debug, Serialize)]
struct State {
    agent: Agent,
    folders: Vec<View>,
    /// What its requests cost; `None` if it never asked anything.
    cost: Option<Cost>,
    /// Where its page is, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    page: Option<PagePlace>,
}

/// The process that holds the state folder, or held it last.
#[derive(Default, Debug, Serialize)]
struct Agent {
    /// Whether a process holds the state folder now.
    alive: bool,
    /// That process, if it has left its number.
    pid: Option<u32>,
    /// The version of the agent that spoke last.
    version: Option<String>,
    /// When it spoke last, or was last known to be at work, RFC 3339.
    last_heard: Option<String>,
    /// The state folder, escaped for people.
    state_dir: String,
}

/// One folder.
#[derive(Debug, Serialize)]
struct View {
    #[serde(flatten)]
    status: FolderStatus,
    /// Whether it was level when it was last heard of; `None` if nobody knows.
    last_known_level: Option<bool>,
    /// The first paths that fail.
    failing: Vec<Failing>,
    /// How the last restore drill went, if there was one.
    last_drill: Option<Drilled>,
    /// The endpoint, if everybody on the way to it can read what is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    unencrypted: Option<String>,
}

/// A path that fails.
#[derive(Debug, Serialize)]
struct Failing {
    path: String,
    /// The path's bytes, where they are not UTF-8 and `path` is only for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    path_base64: Option<String>,
    error: String,
    attempts: u32,
    /// Until when it is left alone unless it changes, RFC 3339; `None`: it is tried again soon.
    parked_until: Option<String>,
}

impl State {
    /// Drops every folder but those that `wanted` means; returns whether there is one.
    fn keep(&mut self, wanted: &str) -> bool {
        let meant = Meant::of(wanted);
        self.folders
            .retain(|view| meant.is(&view.status.name, &view.status.path, &view.status.to));
        !self.folders.is_empty()
    }

    fn known(&self) -> Vec<String> {
        let line = |view: &View| {
            let FolderStatus { name, path, to, .. } = &view.status;
            format!("  {name}  {path}  {to}")
        };
        self.folders.iter().map(line).collect()
    }
}

/// Looks into one state folder; `None` if no agent ever used it.
fn look(dir: &Path, now_ns: i64) -> anyhow::Result<Option<State>> {
    let shown = escaped(dir.as_os_str().as_encoded_bytes());
    let reading = || {
        format!(
            "read the state folder {shown}; is it another user's? Ask as that user, as root, or as a member of the \
             group of /run/tidewatch/agent.sock"
        )
    };
    let live = control::status(dir).map(|said| said.status);
    let is_live = live.is_some();
    let Kept {
        held_since_ns,
        pid,
        said,
    } = match live {
        Some(said) => Kept {
            held_since_ns: Some(said.at_ns),
            pid: Some(said.pid),
            said: Some(said),
        },
        None => kept(dir).with_context(reading)?,
    };
    let alive = held_since_ns.is_some();
    let is_present = is_live
        || said
            .as_ref()
            .is_some_and(|said| Some(said.pid) == pid && Some(said.at_ns) >= held_since_ns);
    let manifest = match Manifest::open_read_only(dir) {
        Ok(manifest) => manifest,
        // The living agent's own words need no manifest.
        Err(_) if is_present => None,
        Err(error) => return Err(error.into()),
    };
    if said.is_none() && manifest.is_none() && !alive {
        return Ok(None);
    }
    let rows = match &manifest {
        Some(manifest) => manifest.folders()?,
        None => Vec::new(),
    };
    let heard = said.as_ref().map(|said| said.at_ns);
    let worked = rows.iter().filter_map(|row| row.last_scan_ns).max();
    let last_heard = heard.max(worked);
    let past = Past {
        said: said.as_ref(),
        manifest: manifest.as_ref(),
        began_ns: began(dir),
        now_ns,
        is_alive: alive,
    };
    let mut folders = match &said {
        Some(said) if is_present => past.as_said(said, &rows)?,
        _ => past.as_known(&rows)?,
    };
    let mut drilled = drill_file::read(dir);
    for view in &mut folders {
        view.last_drill = drilled.remove(&view.status.to);
    }
    let trusted = said.filter(|_| is_present || !alive);
    let agent = Agent {
        alive,
        pid,
        version: trusted.map(|said| said.version),
        last_heard: last_heard.map(rfc3339),
        state_dir: shown,
    };
    let cost = bill_file::read(dir).map(|bill| bill.cost(now_ns));
    Ok(Some(State {
        agent,
        folders,
        cost,
        page: open::place_of(dir),
    }))
}

/// What a state folder says of the process that holds it.
struct Kept {
    held_since_ns: Option<i64>,
    pid: Option<u32>,
    said: Option<StatusFile>,
}

fn kept(dir: &Path) -> io::Result<Kept> {
    Ok(Kept {
        held_since_ns: manifest::held_since(dir)?,
        pid: manifest::holder(dir)?,
        said: match status_file::read(dir) {
            Ok(said) => said,
            // Left by another version, or cut short by a power cut: as if nothing had been said.
            Err(error) if is_garbled(&error) => None,
            Err(error) => return Err(error),
        },
    })
}

/// Returns when the state folder was first used, wall clock, nanoseconds: 0 if the filesystem does not tell.
fn began(dir: &Path) -> i64 {
    let created = std::fs::metadata(dir).and_then(|dir| dir.created());
    let since = created.map(|at| at.duration_since(UNIX_EPOCH).unwrap_or_default());
    since.map_or(0, |since| {
        i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
    })
}

/// What is known of a state folder's past.
struct Past<'a> {
    said: Option<&'a StatusFile>,
    manifest: Option<&'a Manifest>,
    began_ns: i64,
    now_ns: i64,
    is_alive: bool,
}

impl Past<'_> {
    /// Returns the folders in the words of the living agent.
    fn as_said(&self, said: &StatusFile, rows: &[FolderRow]) -> anyhow::Result<Vec<View>> {
        let age = seconds_between(said.at_ns, self.now_ns);
        let view = |folder: &FolderStatus| {
            let mut status = folder.clone();
            // What is behind has gone on being behind since it was said.
            if !status.level {
                status.lag_seconds = status.lag_seconds.saturating_add(age);
            }
            let row = rows.iter().find(|row| is_same(row, folder));
            Ok(View {
                last_known_level: Some(status.level),
                failing: match row {
                    Some(row) if folder.failed > 0 => self.failing(row)?,
                    _ => Vec::new(),
                },
                last_drill: None,
                unencrypted: row.and_then(unencrypted),
                status,
            })
        };
        said.folders.iter().map(view).collect()
    }

    /// Returns the folders as the manifest knows them, with what the last agent said of them. None of them is level.
    fn as_known(&self, rows: &[FolderRow]) -> anyhow::Result<Vec<View>> {
        let mut views = Vec::new();
        for row in rows {
            views.push(self.known(row)?);
        }
        // Without a manifest, its damage being the next start's to mend, there is only what was said.
        if let (Some(said), true) = (self.said, rows.is_empty()) {
            views.extend(said.folders.iter().map(|folder| View {
                status: self.silenced(folder.clone(), said.at_ns, folder.last_scan.clone()),
                last_known_level: Some(folder.level),
                failing: Vec::new(),
                last_drill: None,
                unencrypted: None,
            }));
        }
        Ok(views)
    }

    fn known(&self, row: &FolderRow) -> anyhow::Result<View> {
        let counts = match self.manifest {
            Some(manifest) => manifest.counts(row.id)?,
            None => manifest::Counts::default(),
        };
        let last_scan = row.last_scan_ns.map(rfc3339);
        // The words of another process are the past of this one, when this one holds the folder.
        let said = self.said.filter(|_| !self.is_alive);
        let folder = said.and_then(|said| said.folders.iter().find(|folder| is_same(row, folder)));
        let mut status = if let (Some(said), Some(folder)) = (said, folder) {
            self.silenced(folder.clone(), said.at_ns, last_scan)
        } else {
            let since_ns = row.last_scan_ns.unwrap_or(self.began_ns);
            self.silenced(unknown(row), since_ns, last_scan)
        };
        if let Some(manifest) = self.manifest {
            // What was kept after the agent's last word counts too.
            let marks = manifest.marks(row.id)?;
            status.paused_since = marks.paused_ns.map(rfc3339);
            status.last_audit = marks.audited_ns.map(rfc3339);
            status.last_verify = marks.verified.map(TriedStatus::of);
            status.drill = marks.drilled.map(TriedStatus::of);
        }
        status.queued_files = counts.open;
        status.queued_bytes = 0;
        status.failed = counts.failed;
        status.held = counts.held;
        status.ambiguous = counts.ambiguous;
        // Nobody has said it, but a complete scan that left nothing undone has shown it, as `sync` does.
        let shown = row
            .last_scan_ns
            .map(|_| counts.open + counts.failed + counts.held == 0);
        Ok(View {
            status,
            last_known_level: folder.map(|folder| folder.level).or(shown),
            failing: self.failing(row)?,
            last_drill: None,
            unencrypted: unencrypted(row),
        })
    }

    /// Returns what was said of a folder at `at_ns` as it has to be read now that nobody says it any more.
    fn silenced(
        &self,
        mut status: FolderStatus,
        at_ns: i64,
        last_scan: Option<String>,
    ) -> FolderStatus {
        let age = seconds_between(at_ns, self.now_ns);
        status.level = false;
        status.lag_seconds = status.lag_seconds.saturating_add(age);
        let watch = if self.is_alive { "unknown" } else { "off" };
        watch.clone_into(&mut status.watch);
        status.last_scan = last_scan;
        status.outage_since = None;
        // Nobody sends anything, and nobody watches.
        (status.rate_bytes_per_second, status.seconds_left) = (0, None);
        status.going_up = Vec::new();
        (status.watches_used, status.lease_holder, status.lease_until) = (None, None, None);
        status
    }

    fn failing(&self, row: &FolderRow) -> anyhow::Result<Vec<Failing>> {
        let Some(manifest) = self.manifest else {
            return Ok(Vec::new());
        };
        let failures = manifest.failures(row.id, NAMED)?;
        let failing = |(path, failure): (RelPath, manifest::Failure)| Failing {
            path: path.to_string(),
            path_base64: std::str::from_utf8(path.as_bytes())
                .is_err()
                .then(|| BASE64_STANDARD.encode(path.as_bytes())),
            error: failure.error,
            attempts: failure.attempts,
            parked_until: failure.parked.map(|parked| rfc3339(parked.until_ns)),
        };
        Ok(failures.into_iter().map(failing).collect())
    }
}

/// Returns whether a status file is there but cannot be understood.
fn is_garbled(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
    )
}

/// Returns a folder of which nothing was ever said.
fn unknown(row: &FolderRow) -> FolderStatus {
    FolderStatus::of(&FolderSnapshot {
        name: row.name.clone(),
        path: escaped(&row.key.path),
        to: target(row),
        ..FolderSnapshot::default()
    })
}

/// Returns where a folder goes, as a URL.
pub fn target(row: &FolderRow) -> String {
    format!("s3://{}/{}", row.key.bucket, row.key.prefix)
}

/// Returns a folder's endpoint, if what is sent to it crosses a network in the clear.
fn unencrypted(row: &FolderRow) -> Option<String> {
    let endpoint = &row.key.endpoint;
    host::is_open_line(endpoint).then(|| escaped(endpoint.as_bytes()))
}

fn is_same(row: &FolderRow, folder: &FolderStatus) -> bool {
    folder.path == escaped(&row.key.path) && folder.to == target(row)
}

fn seconds_between(from_ns: i64, to_ns: i64) -> u64 {
    u64::try_from(to_ns.saturating_sub(from_ns) / 1_000_000_000).unwrap_or(0)
}
