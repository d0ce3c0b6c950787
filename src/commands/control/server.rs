//! The agent's side: who asks is judged, then answered. Each folder's loop is asked for its own.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::agent::{self, Control, Request};
use crate::base::clock::Clock;
use crate::base::live::Live;
use crate::base::offload::Offload;
use crate::base::path::RelPath;
use crate::commands::board::{Board, Seat};
use crate::commands::control::PATIENCE;
use crate::commands::control::door::{self, Door, Right};
use crate::commands::control::wire::{LINE_MOST, Line, Reply, Said, Word};
use crate::commands::explain;
use crate::commands::folders::shown;
use crate::report::status_file::{FolderStatus, StatusFile};

/// Askers at once, at each socket.
const ASKERS: usize = 8;
/// How long a loop may take to say how it is: one that takes longer is told from one that is well.
const SILENCE: Duration = Duration::from_secs(2);

/// What answers are made from.
struct Desk {
    state_dir: PathBuf,
    board: Board,
}

/// Opens the sockets; the future answers until it is dropped.
pub fn listen(
    state_dir: &Path,
    board: Board,
) -> io::Result<impl Future<Output = ()> + Send + use<>> {
    let own = door::bind_own(state_dir)?;
    let group = door::runtime_dir().and_then(|dir| match door::bind_group(&dir) {
        Ok(listener) => Some(listener),
        Err(error) => {
            let dir = shown(&dir);
            tracing::warn!("the group cannot ask this agent: no socket in {dir}: {error}");
            None
        }
    });
    let state_dir = state_dir.to_path_buf();
    let desk = Arc::new(Desk { state_dir, board });
    Ok(async move {
        let group = async {
            if let Some(group) = group {
                serve(group, Door::Group, &desk).await;
            }
        };
        tokio::join!(serve(own, Door::Own, &desk), group);
    })
}

async fn serve(listener: UnixListener, door: Door, desk: &Arc<Desk>) {
    let mut askers = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = askers.join_next() => {}
            accepted = listener.accept(), if askers.len() < ASKERS => match accepted {
                Ok((stream, _)) => {
                    let desk = desk.clone();
                    askers.spawn(async move {
                        // Somebody who hangs up, or says nothing, has no answer coming.
                        let _ = tokio::time::timeout(PATIENCE, desk.answer(stream, door)).await;
                    });
                }
                // Out of handles, perhaps: it passes.
                Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
            },
        }
    }
}

impl Desk {
    async fn answer(&self, mut stream: UnixStream, door: Door) -> io::Result<()> {
        let peer = stream.peer_cred()?.uid();
        let right = door.right(peer, rustix::process::geteuid().as_raw());
        let (read, mut write) = stream.split();
        let mut text = String::new();
        tokio::io::BufReader::new(read.take(LINE_MOST))
            .read_line(&mut text)
            .await?;
        let reply = match serde_json::from_str::<Line>(&text) {
            Ok(line) if right == Right::All || (right == Right::Read && line.request.is_read()) => {
                self.reply(line).await
            }
            Ok(_) => Err("do that: only the agent's own user and root may".to_owned()),
            Err(error) => Err(format!("understand the request: {error}")),
        };
        let reply = reply.unwrap_or_else(|error| Reply {
            error: Some(error),
            ..Reply::default()
        });
        let mut text = serde_json::to_vec(&reply)?;
        text.push(b'\n');
        write.write_all(&text).await
    }

    async fn reply(&self, line: Line) -> Result<Reply, String> {
        match line.request {
            Word::Status => Ok(Reply {
                said: Some(self.status().await),
                ..Reply::default()
            }),
            Word::Explain => {
                let file = line
                    .file()
                    .ok_or("understand the request: it names no file")?;
                Ok(Reply {
                    explained: Some(self.explain(&file).await?),
                    ..Reply::default()
                })
            }
            _ => Ok(Reply {
                count: Some(self.pass_on(line).await?),
                ..Reply::default()
            }),
        }
    }

    async fn pass_on(&self, line: Line) -> Result<u64, String> {
        let mut seats = self.board.seats().into_iter();
        let seat = seats.find(|seat| seat.path == line.path && seat.to == line.to);
        let seat = seat.ok_or("find that folder: this agent does not look after it")?;
        let request = line.request();
        let request = request.ok_or("understand the request: it does not say what it is about")?;
        match ask(&seat, request).await? {
            agent::Said::Count(count) => Ok(count),
            agent::Said::Live(_) => Ok(0),
        }
    }

    /// Has every loop say how it is now; of one that does not answer, what it said last, and that it does not.
    async fn status(&self) -> Said {
        let mut asking = JoinSet::new();
        for (place, seat) in self.board.seats().into_iter().enumerate() {
            asking.spawn(async move {
                let asked = tokio::time::timeout(SILENCE, ask(&seat, Request::Tell)).await;
                let mut status = FolderStatus::of(&seat.snapshots.borrow());
                if !matches!(asked, Ok(Ok(_))) {
                    status.level = false;
                    status.trouble.get_or_insert_with(|| {
                        "the folder's loop does not answer; it may be starting or stopping"
                            .to_owned()
                    });
                }
                (place, status)
            });
        }
        let mut folders = asking.join_all().await;
        folders.sort_by_key(|(place, _)| *place);
        let status = StatusFile {
            at_ns: Clock::Real.now().wall_ns,
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            page: self.board.page(),
            folders: folders.into_iter().map(|(_, status)| status).collect(),
        };
        Said {
            state_dir: shown(&self.state_dir),
            status,
        }
    }

    /// Explains a file in each folder that holds it.
    async fn explain(&self, file: &[u8]) -> Result<Vec<explain::Explained>, String> {
        let file = PathBuf::from(OsStr::from_bytes(file));
        let mut all = Vec::new();
        for seat in self.board.seats() {
            let Some(below) = RelPath::below(&seat.folder.path, &file) else {
                continue;
            };
            let live = self.live(&seat, below).await;
            let (dir, file) = (self.state_dir.clone(), file.clone());
            let explained =
                Offload::Pool.run(move || explain::in_folder(&dir, &seat.folder, &file, live));
            all.extend(explained.await?);
        }
        Ok(all)
    }

    /// Returns what the loop knows of a path; `None` if it does not answer.
    async fn live(&self, seat: &Seat, path: RelPath) -> Option<Live> {
        let asked = tokio::time::timeout(SILENCE, ask(seat, Request::Explain(path))).await;
        match asked {
            Ok(Ok(agent::Said::Live(live))) => Some(*live),
            _ => None,
        }
    }
}

/// Asks a folder's loop.
async fn ask(seat: &Seat, request: Request) -> Result<agent::Said, String> {
    let (answer, told) = oneshot::channel();
    let gone = |_| "reach the folder's loop: it is stopping".to_owned();
    let asked = Control { request, answer };
    seat.asks
        .send(asked)
        .await
        .map_err(|error| gone(error.to_string()))?;
    told.await.map_err(|error| gone(error.to_string()))?
}
