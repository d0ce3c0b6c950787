//! Asking a running agent: over a Unix socket, one line of JSON each way.
//!
//! The agent's own socket is in its state folder, which nobody else may enter; the service's group has one besides, and may
//! only read there (`door` says who may do what). A request names a folder by its path and URL as `status` shows them.
//! Where no agent runs, the one who asks takes the lock and writes the decision into the manifest itself ([`decide`]).

mod door;
pub mod server;
mod wire;

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::base::clock::Clock;
use crate::base::drill::Drill;
use crate::base::path::RelPath;
use crate::base::snapshot::Tried;
use crate::commands::control::wire::{ANSWER_MOST, LINE_MOST, Line, Reply, Said, Word, Wrong};
use crate::commands::explain::Explained;
use crate::commands::folders;
use crate::config::Target;
use crate::manifest::{Change, FolderRow, Manifest, Mark, Mend, OpenError};
use crate::tree::Tree as _;
use crate::tree::real::RealTree;

/// How long either side waits for the other: a release looks at every held row.
const PATIENCE: Duration = Duration::from_secs(30);

/// A person's decision about a folder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verb {
    /// Let go what a brake holds.
    Release,
    /// Refuse what a brake holds.
    Drop,
    /// Take the root as it is for the right one.
    AcceptRoot,
    /// Try again what failed for good.
    RetryFailed,
    /// Start nothing new.
    Pause,
    /// Go on.
    Resume,
}

impl From<Verb> for Word {
    fn from(verb: Verb) -> Self {
        match verb {
            Verb::Release => Self::Release,
            Verb::Drop => Self::Drop,
            Verb::AcceptRoot => Self::AcceptRoot,
            Verb::RetryFailed => Self::RetryFailed,
            Verb::Pause => Self::Pause,
            Verb::Resume => Self::Resume,
        }
    }
}

/// How a decision did not come about.
#[derive(Debug, thiserror::Error)]
pub enum DecideError {
    /// Another command holds the state folder, and does not listen.
    #[error("decide now: {0}; try again when it has ended")]
    Taken(String),
    /// The agent said no, or could not.
    #[error("{0}")]
    Refused(String),
}

/// Has a decision carried out: by the agent that runs, else here. Returns how many paths it was about. Blocks.
pub fn decide(state_dir: &Path, row: &FolderRow, verb: Verb) -> Result<u64, DecideError> {
    let refused = |error: &dyn std::fmt::Display| DecideError::Refused(error.to_string());
    if let Some(answer) = ask(state_dir, row, verb) {
        return answer;
    }
    let now = Clock::Real.now();
    let (manifest, _) = Manifest::open(state_dir, now.wall_ns).map_err(|error| match error {
        OpenError::Locked { .. } => DecideError::Taken(error.to_string()),
        error => refused(&error),
    })?;
    let count = manifest
        .count_held(row.id)
        .map_err(|error| refused(&error))?
        .all();
    let (changes, count) = match verb {
        Verb::Release => (vec![Change::Release], count),
        Verb::Drop => (vec![Change::DropHeld], count),
        Verb::RetryFailed => (vec![Change::Unpark], 0),
        Verb::Pause | Verb::Resume => {
            let marks = manifest.marks(row.id).map_err(|error| refused(&error))?;
            let (is_paused, pauses) = (marks.paused_ns.is_some(), verb == Verb::Pause);
            let mark = Change::Mark(Mark::Paused(pauses.then_some(now.wall_ns)));
            if is_paused == pauses {
                (Vec::new(), 0)
            } else {
                (vec![mark], 1)
            }
        }
        Verb::AcceptRoot => {
            let tree = RealTree::open(Path::new(folders::root_of(row)));
            let is = tree.identity().map_err(|error| refused(&error))?;
            let was = row.root.filter(|was| was.dev != is.dev);
            let renumbered = was.map(|was| Change::Renumbered {
                from: was.dev,
                to: is.dev,
            });
            let mounts = Change::Mounts(tree.mounts().unwrap_or_default());
            (
                renumbered
                    .into_iter()
                    .chain([Change::Root(is), mounts])
                    .collect(),
                1,
            )
        }
    };
    let committed = manifest.commit(row.id, &changes);
    manifest.close();
    committed.map(|()| count).map_err(|error| refused(&error))
}

/// Asks the agent; `None` if none listens. Blocks.
pub fn ask(state_dir: &Path, row: &FolderRow, verb: Verb) -> Option<Result<u64, DecideError>> {
    tell(state_dir, &Line::new(row, verb.into()))
}

/// Has the catalog told how a drill of a folder went: by the agent that runs, else by the next one. Returns false if the
/// state folder knows no such folder. Blocks.
pub fn note_drill(
    state_dir: &Path,
    (root, to): (&Path, &Target),
    drill: Drill,
) -> Result<bool, DecideError> {
    let refused = |error: &dyn std::fmt::Display| DecideError::Refused(error.to_string());
    let reader = Manifest::open_read_only(state_dir).map_err(|error| refused(&error))?;
    let rows = reader.map(|manifest| manifest.folders());
    let rows = rows.transpose().map_err(|error| refused(&error))?;
    let is_it = |row: &FolderRow| {
        let is_there = (&row.key.bucket, &row.key.prefix) == (&to.bucket, &to.prefix);
        is_there && Path::new(folders::root_of(row)) == root
    };
    let Some(row) = rows.unwrap_or_default().into_iter().find(is_it) else {
        return Ok(false);
    };
    let drill = Box::new(drill);
    let line = Line {
        drill: Some(drill.clone()),
        ..Line::new(&row, Word::Drilled)
    };
    let mark = Change::Mark(Mark::Drilled(Tried {
        at_ns: Clock::Real.now().wall_ns,
        ok: drill.ok,
    }));
    keep(state_dir, &row, &line, &[mark, Change::Drilled(drill)]).map(|()| true)
}

/// Keeps how a look at the whole folder in the bucket went: through the agent that runs, else here. Blocks.
pub fn note_verify(state_dir: &Path, row: &FolderRow, last: Tried) -> Result<(), DecideError> {
    let line = Line {
        verified: Some((last.at_ns, last.ok)),
        ..Line::new(row, Word::Verified)
    };
    keep(state_dir, row, &line, &[Change::Mark(Mark::Verified(last))])
}

/// Tells the agent that runs; where none does, writes the changes into the manifest.
fn keep(
    state_dir: &Path,
    row: &FolderRow,
    line: &Line,
    changes: &[Change],
) -> Result<(), DecideError> {
    let refused = |error: &dyn std::fmt::Display| DecideError::Refused(error.to_string());
    if let Some(answer) = tell(state_dir, line) {
        return answer.map(drop);
    }
    let now = Clock::Real.now();
    let (manifest, _) = Manifest::open(state_dir, now.wall_ns).map_err(|error| match error {
        OpenError::Locked { .. } => DecideError::Taken(error.to_string()),
        error => refused(&error),
    })?;
    let committed = manifest.commit(row.id, changes);
    manifest.close();
    committed.map_err(|error| refused(&error))
}

/// Asks the agent to send files again; returns how many it has taken, `None` if none listens. Blocks.
pub fn ask_to_mend(
    state_dir: &Path,
    row: &FolderRow,
    mends: &[Mend],
) -> Option<Result<u64, DecideError>> {
    let mut count = 0;
    let (mut some, mut bytes) = (Vec::new(), 0);
    for (at, mend) in mends.iter().enumerate() {
        let wrong = Wrong::of(mend);
        bytes += serde_json::to_vec(&wrong).map_or(LINE_MOST as usize, |text| text.len() + 1);
        some.push(wrong);
        // A key has at most 1,024 bytes, and so the next one fits too.
        if bytes < LINE_MOST as usize / 2 && at + 1 < mends.len() {
            continue;
        }
        bytes = 0;
        let line = Line {
            mends: std::mem::take(&mut some),
            ..Line::new(row, Word::Mend)
        };
        match tell(state_dir, &line)? {
            Ok(taken) => count += taken,
            Err(error) => return Some(Err(error)),
        }
    }
    Some(Ok(count))
}

/// Asks the agent to look at a file now, or at a whole folder (the root: at everything); returns for how many paths that
/// ended a wait, `None` if none listens. Blocks.
pub fn sync_now(
    state_dir: &Path,
    row: &FolderRow,
    path: &RelPath,
) -> Option<Result<u64, DecideError>> {
    let file = (!path.is_root()).then(|| BASE64_STANDARD.encode(path.as_bytes()));
    let line = Line {
        file,
        ..Line::new(row, Word::SyncNow)
    };
    tell(state_dir, &line)
}

/// Asks the agent how its folders are; `None` if none listens, or none may be asked. Blocks.
pub fn status(state_dir: &Path) -> Option<Said> {
    let line = Line::about(Word::Status, None);
    let said = converse(door::reach(state_dir)?, &line).ok()?.said?;
    // The socket of the group may be another agent's.
    (said.state_dir == folders::shown(state_dir)).then_some(said)
}

/// Asks the agent what it knows of a file, by its absolute path: for each of its folders that holds it. `None` if none
/// listens. Blocks.
pub fn explain(state_dir: &Path, file: &Path) -> Option<Result<Vec<Explained>, String>> {
    let line = Line::about(Word::Explain, Some(file.as_os_str().as_encoded_bytes()));
    let reply = converse(door::reach(state_dir)?, &line).ok()?;
    match reply {
        Reply {
            explained: Some(explained),
            ..
        } => Some(Ok(explained)),
        Reply { error, .. } => error.map(Err),
    }
}

fn tell(state_dir: &Path, line: &Line) -> Option<Result<u64, DecideError>> {
    let stream = door::own(state_dir)?;
    Some(
        converse(stream, line)
            .map_err(|error| format!("ask the agent: {error}"))
            .and_then(|reply| match reply {
                Reply {
                    count: Some(count), ..
                } => Ok(count),
                Reply { error, .. } => {
                    Err(error.unwrap_or_else(|| "ask the agent: it said nothing".to_owned()))
                }
            })
            .map_err(DecideError::Refused),
    )
}

fn converse(mut stream: UnixStream, line: &Line) -> io::Result<Reply> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    stream.write_all(&text)?;
    let mut answer = String::new();
    BufReader::new(stream.take(ANSWER_MOST)).read_line(&mut answer)?;
    Ok(serde_json::from_str(&answer)?)
}
