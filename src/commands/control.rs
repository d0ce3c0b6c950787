//! Asking a running agent: a Unix socket in its state folder, one line of JSON each way.
//!
//! Who may enter the state folder (mode 0700) may ask; nobody else can reach the socket. A request names a folder by its
//! path and URL as `status` shows them. Where no agent runs, the one who asks takes the lock and writes the decision into
//! the manifest itself ([`decide`]).

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::agent::{Control, Request};
use crate::base::clock::Clock;
use crate::base::digest::Sha256;
use crate::base::drill::Drill;
use crate::base::path::RelPath;
use crate::base::snapshot::Tried;
use crate::commands::board::Board;
use crate::commands::folders;
use crate::config::Target;
use crate::manifest::{Change, FolderRow, Manifest, Mark, Mend, OpenError, Remote};
use crate::tree::Tree as _;
use crate::tree::real::RealTree;

/// The socket's name in the state folder.
const NAME: &str = "agent.sock";
/// The longest line, bytes: a path and a URL of the longest kind, escaped.
const LINE_MOST: u64 = 64 << 10;
/// How long either side waits for the other: a release looks at every held row.
const PATIENCE: Duration = Duration::from_secs(30);
/// Askers at once.
const ASKERS: usize = 8;

#[derive(Debug, Serialize, Deserialize)]
struct Line {
    request: Word,
    path: String,
    to: String,
    /// What is to be sent again, if that is asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    mends: Vec<Wrong>,
    /// How a drill went, if that is to be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    drill: Option<Box<Drill>>,
    /// When a verify ended (wall clock, nanoseconds) and whether everything was right, if that is to be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    verified: Option<(i64, bool)>,
}

/// What can be asked, in the words of the line.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    Release,
    Drop,
    AcceptRoot,
    RetryFailed,
    Mend,
    Drilled,
    Verified,
}

/// A file to be sent again: its path in base64, and what its row claims; the object that somebody else has put there.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Wrong {
    path: String,
    sha256: String,
    etag: String,
    there: Option<(String, u64, String)>,
}

impl Wrong {
    fn of(mend: &Mend) -> Self {
        let there = mend.there.clone();
        Self {
            path: BASE64_STANDARD.encode(mend.path.as_bytes()),
            sha256: mend.sha256.to_hex(),
            etag: mend.etag.clone(),
            there: there.map(|Remote { key, size, etag }| (key, size, etag)),
        }
    }

    /// Takes it back; `None` if it is not what [`Wrong::of`] makes.
    fn mend(self) -> Option<Mend> {
        Some(Mend {
            path: RelPath::new(&BASE64_STANDARD.decode(self.path).ok()?)?,
            sha256: Sha256::from_hex(&self.sha256)?,
            etag: self.etag,
            there: self
                .there
                .map(|(key, size, etag)| Remote { key, size, etag }),
            failure: None,
        })
    }
}

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
}

impl From<Verb> for Word {
    fn from(verb: Verb) -> Self {
        match verb {
            Verb::Release => Self::Release,
            Verb::Drop => Self::Drop,
            Verb::AcceptRoot => Self::AcceptRoot,
            Verb::RetryFailed => Self::RetryFailed,
        }
    }
}

impl Line {
    fn new(row: &FolderRow, request: Word) -> Self {
        Self {
            request,
            path: crate::base::path::escaped(&row.key.path),
            to: crate::commands::status::target(row),
            mends: Vec::new(),
            drill: None,
            verified: None,
        }
    }

    fn request(self) -> Option<Request> {
        Some(match self.request {
            Word::Release => Request::Release,
            Word::Drop => Request::Drop,
            Word::AcceptRoot => Request::AcceptRoot,
            Word::RetryFailed => Request::RetryFailed,
            Word::Mend => {
                let mends = self.mends.into_iter().map(Wrong::mend);
                Request::Mend(mends.collect::<Option<_>>()?)
            }
            Word::Drilled => Request::Drilled(self.drill?),
            Word::Verified => {
                let (at_ns, ok) = self.verified?;
                Request::Verified(Tried { at_ns, ok })
            }
        })
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Reply {
    count: Option<u64>,
    error: Option<String>,
}

/// Makes a socket's path short enough for the kernel (108 bytes), however long the state folder's is.
fn address(dir: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{NAME}", dir.as_raw_fd()))
}

/// Opens the socket; the future answers until it is dropped.
pub fn listen(
    state_dir: &Path,
    board: Board,
) -> io::Result<impl Future<Output = ()> + Send + use<>> {
    let dir = File::open(state_dir)?;
    let place = state_dir.join(NAME);
    // The lock is ours: whoever made it is gone.
    match fs::remove_file(&place) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(address(&dir))?;
    Ok(async move {
        let mut askers = JoinSet::new();
        loop {
            tokio::select! {
                Some(_) = askers.join_next() => {}
                accepted = listener.accept(), if askers.len() < ASKERS => match accepted {
                    Ok((stream, _)) => {
                        let board = board.clone();
                        askers.spawn(async move {
                            // Somebody who hangs up, or says nothing, has no answer coming.
                            let _ = tokio::time::timeout(PATIENCE, answer(stream, &board)).await;
                        });
                    }
                    // Out of handles, perhaps: it passes.
                    Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
                },
            }
        }
    })
}

async fn answer(mut stream: tokio::net::UnixStream, board: &Board) -> io::Result<()> {
    let (read, mut write) = stream.split();
    let mut text = String::new();
    tokio::io::BufReader::new(read.take(LINE_MOST))
        .read_line(&mut text)
        .await?;
    let reply = match serde_json::from_str::<Line>(&text) {
        Ok(line) => pass_on(line, board).await,
        Err(error) => Err(format!("understand the request: {error}")),
    };
    let reply = match reply {
        Ok(count) => Reply {
            count: Some(count),
            error: None,
        },
        Err(error) => Reply {
            count: None,
            error: Some(error),
        },
    };
    let mut text = serde_json::to_vec(&reply)?;
    text.push(b'\n');
    write.write_all(&text).await
}

async fn pass_on(line: Line, board: &Board) -> Result<u64, String> {
    let mut seats = board.seats().into_iter();
    let seat = seats.find(|seat| seat.path == line.path && seat.to == line.to);
    let seat = seat.ok_or("find that folder: this agent does not look after it")?;
    let (answer, told) = oneshot::channel();
    let request = line.request();
    let request = request.ok_or("understand the request: it does not say what it is about")?;
    let asked = Control { request, answer };
    let gone = |_| "reach the folder's loop: it is stopping".to_owned();
    seat.asks
        .send(asked)
        .await
        .map_err(|error| gone(error.to_string()))?;
    told.await.map_err(|error| gone(error.to_string()))?
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

fn tell(state_dir: &Path, line: &Line) -> Option<Result<u64, DecideError>> {
    let dir = File::open(state_dir).ok()?;
    let stream = UnixStream::connect(address(&dir)).ok()?;
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
    BufReader::new(stream.take(LINE_MOST)).read_line(&mut answer)?;
    Ok(serde_json::from_str(&answer)?)
}
