//! The page of a running agent, its API, metrics and health: HTTP at `agent.listen`.
//!
//! - Overview: one task takes what the folders tell ([`recent`]), one accepts connections ([`serve`]); each connection
//!   brings one request, which is judged ([`guard`]) before anything else is looked at ([`routes`]). Everything is asked of
//!   the [`Board`] anew, as folders come and go.
//! - Never: shows a name, a path or a reason, or decides anything, without the token ([`token`]); takes down the agent.
//! - Bounds: 64 connections, 16 of them listeners; 5 seconds and 16 KiB for a head, 10 seconds and 16 KiB for a body, 60
//!   seconds for a line that takes nothing.
//! - What this does not protect against: programs of the same user, which could read the token's file; the network, where
//!   `listen` is not a loopback address, because the token goes over it as it is.

pub mod acts;
pub mod body;
pub mod events;
pub mod guard;
pub mod ready;
pub mod recent;
pub mod routes;
pub mod serve;
pub mod token;
pub mod view;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

use crate::base::clock::Clock;
use crate::base::offload::Offload;
use crate::base::price::Usage;
use crate::base::snapshot::{FolderSnapshot, Happening};
use crate::commands::bill::Biller;
use crate::commands::board::Board;
use crate::commands::page::guard::{Guard, Knows};
use crate::commands::page::recent::Recent;
use crate::commands::page::view::Failing;
use crate::config::Config;
use crate::manifest::Manifest;
use crate::report::drill_file;
use crate::report::metrics::{FolderFacts, Scrape};

/// Listeners to events at once.
const LISTENERS: usize = 16;
/// Happenings that wait to be taken.
const HAPPENINGS: usize = 1024;
/// How long what fails is taken to be the same: reading it costs a query.
const FAILING: Duration = Duration::from_secs(2);

/// What requests are answered from.
#[derive(Debug)]
pub struct Page {
    board: Board,
    recent: Recent,
    bill: Arc<Biller>,
    guard: Guard,
    state_dir: PathBuf,
    started_ns: i64,
    listeners: Arc<Semaphore>,
    /// What failed when it was last read.
    failing: Mutex<Option<Known>>,
}

/// What failed when it was read.
#[derive(Debug)]
struct Known {
    /// Until when it is taken to be the same.
    until: Instant,
    /// The folders, and how many paths of each failed.
    of: Vec<(String, u64)>,
    failing: Vec<Vec<Failing>>,
}

/// A page that is open.
pub struct Opened {
    /// Its address: `http://127.0.0.1:8737/`.
    pub address: String,
    listener: TcpListener,
    page: Arc<Page>,
    happenings: mpsc::Receiver<Happening>,
}

/// Makes the channel through which folders tell the page what happens.
pub fn channel() -> (mpsc::Sender<Happening>, mpsc::Receiver<Happening>) {
    mpsc::channel(HAPPENINGS)
}

/// Opens the page where the config says; `None` if it says nowhere, or that cannot be done, which has been said.
pub async fn open(
    config: &Config,
    board: &Board,
    bill: &Arc<Biller>,
    happenings: mpsc::Receiver<Happening>,
) -> Option<Opened> {
    let listen = config.listen?;
    match try_open(config, listen, board, bill, happenings).await {
        Ok(opened) => {
            tracing::info!(
                "the page is at {}; `tidewatch open` opens it",
                opened.address
            );
            Some(opened)
        }
        Err(error) => {
            tracing::warn!(
                "no page, metrics and health: could not listen at {listen}: {error}; `listen` in [agent] names another address, or \"\" for none"
            );
            None
        }
    }
}

async fn try_open(
    config: &Config,
    listen: SocketAddr,
    board: &Board,
    bill: &Arc<Biller>,
    happenings: mpsc::Receiver<Happening>,
) -> io::Result<Opened> {
    let listener = TcpListener::bind(listen).await?;
    let address = listener.local_addr()?;
    let dir = config.state_dir.clone();
    let token = Offload::Pool.run(move || token::keep(&dir)).await?;
    if !address.ip().is_loopback() {
        tracing::warn!(
            "the page listens at {address}, which others can reach: they see health, counts and lag, and whoever \
             watches the network sees the token"
        );
    }
    let guard = Guard {
        address,
        hostname: hostname(),
        token,
    };
    let page = Page {
        board: board.clone(),
        recent: Recent::default(),
        bill: bill.clone(),
        guard,
        state_dir: config.state_dir.clone(),
        started_ns: Clock::Real.now().wall_ns,
        listeners: Arc::new(Semaphore::new(LISTENERS)),
        failing: Mutex::new(None),
    };
    Ok(Opened {
        address: format!("http://{}/", reached_at(address)),
        listener,
        page: Arc::new(page),
        happenings,
    })
}

impl Opened {
    /// Answers, and keeps what happens, until it is dropped.
    pub async fn serve(self) {
        let (recent, board) = (self.page.recent.clone(), self.page.board.clone());
        tokio::join!(
            recent.listen(board, self.happenings),
            serve::serve(self.listener, self.page),
        );
    }
}

impl Page {
    /// Returns the whole state as JSON, as far as the one who asks may know it.
    pub async fn state(&self, knows: Knows) -> String {
        let snapshots = self.board.snapshots();
        let failing = match knows {
            Knows::Counts => Vec::new(),
            Knows::Names => self.failing(&snapshots).await,
        };
        let now_ns = Clock::Real.now().wall_ns;
        view::text(self, knows, &snapshots, failing, now_ns)
    }

    /// Returns which paths fail, as they were at most a moment ago.
    async fn failing(&self, snapshots: &[FolderSnapshot]) -> Vec<Vec<Failing>> {
        if snapshots.iter().all(|snapshot| snapshot.failed == 0) {
            return Vec::new();
        }
        let now = Clock::Real.now().mono;
        let of: Vec<(String, u64)> = snapshots
            .iter()
            .map(|snapshot| (snapshot.name.clone(), snapshot.failed))
            .collect();
        if let Some(failing) = self.known(now, &of) {
            return failing;
        }
        let (dir, asked) = (self.state_dir.clone(), snapshots.to_vec());
        let read = Offload::Pool.run(move || {
            let manifest = Manifest::open_read_only(&dir).ok().flatten()?;
            Some(view::failing(&manifest, &asked))
        });
        let read = read.await.unwrap_or_default();
        let mut known = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        *known = Some(Known {
            until: now + FAILING,
            of,
            failing: read.clone(),
        });
        read
    }

    fn known(&self, now: Instant, of: &[(String, u64)]) -> Option<Vec<Vec<Failing>>> {
        let known = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.as_ref()?;
        (now < known.until && known.of == of).then(|| known.failing.clone())
    }

    /// Returns what the metrics are made of.
    async fn scrape(&self) -> Scrape {
        let dir = self.state_dir.clone();
        let mut drills = Offload::Pool.run(move || drill_file::read(&dir)).await;
        let folders = self.board.snapshots().into_iter().map(|snapshot| {
            let came_to = self.recent.came_to(&snapshot.name);
            FolderFacts {
                drill: drills.remove(&snapshot.to),
                failed_attempts: came_to.failed,
                success_ns: came_to.success_ns,
                snapshot,
            }
        });
        let folders = folders.collect();
        let (requests, prices) = (self.bill.requests(), self.bill.prices());
        Scrape {
            folders,
            cost_micros: prices.cost(Usage::of(&requests)),
            cost: self.bill.cost(),
            requests,
            started_ns: self.started_ns,
            version: env!("CARGO_PKG_VERSION"),
        }
    }
}

/// Returns how a browser of this machine reaches an address: one that means every address is reached by the loopback.
fn reached_at(address: SocketAddr) -> SocketAddr {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

fn hostname() -> String {
    let uname = rustix::system::uname();
    uname.nodename().to_string_lossy().into_owned()
}
