//! The folders that a process looks after at this moment: where they are, and how they are reached.
//!
//! One writer, whoever starts and ends folders; everybody who tells or asks something about them reads it: the socket, the
//! status file, the service manager.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::agent::Control;
use crate::base::clock::Clock;
use crate::base::snapshot::FolderSnapshot;
use crate::commands::folders::{first_snapshot, shown};
use crate::config;

/// A folder, and how it is reached.
#[derive(Clone, Debug)]
pub struct Seat {
    /// Its name.
    pub name: String,
    /// Its path, as `status` shows it.
    pub path: String,
    /// Its URL.
    pub to: String,
    /// What the config says of it.
    pub folder: Arc<config::Folder>,
    /// Where it is.
    pub snapshots: watch::Receiver<FolderSnapshot>,
    /// To its loop.
    pub asks: mpsc::Sender<Control>,
    /// When it was given its seat.
    pub since: Instant,
    /// By when it has to be gone, if it was told to end.
    pub leaves_by: Option<Instant>,
}

/// All seats; a clone is the same board.
#[derive(Clone, Debug)]
pub struct Board(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    seats: watch::Sender<Vec<Seat>>,
    /// Changes with whatever is told of any folder.
    news: watch::Sender<()>,
    /// What does not get on, as it was last found.
    stuck: Mutex<Option<String>>,
    /// The address of the page.
    page: Mutex<Option<String>>,
    /// Pass a folder's news on, each until its loop ends.
    listeners: Mutex<JoinSet<()>>,
}

impl Default for Board {
    fn default() -> Self {
        Self(Arc::new(Inner {
            seats: watch::channel(Vec::new()).0,
            news: watch::channel(()).0,
            stuck: Mutex::default(),
            page: Mutex::default(),
            listeners: Mutex::default(),
        }))
    }
}

impl Board {
    /// Gives a folder its seat, behind the others; one of the same name loses its own. Returns the ends that its loop keeps.
    pub fn seat(
        &self,
        folder: &config::Folder,
    ) -> (watch::Sender<FolderSnapshot>, mpsc::Receiver<Control>) {
        let (publish, snapshots) = watch::channel(first_snapshot(folder));
        let (asks, asked) = mpsc::channel(4);
        let (mut changes, inner) = (snapshots.clone(), Arc::downgrade(&self.0));
        let mut listeners = self
            .0
            .listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        while listeners.try_join_next().is_some() {}
        listeners.spawn(async move {
            while changes.changed().await.is_ok() {
                let Some(inner) = inner.upgrade() else { break };
                inner.news.send_replace(());
            }
        });
        let seat = Seat {
            name: folder.name.clone(),
            path: shown(&folder.path),
            to: folder.to.to_string(),
            folder: Arc::new(folder.clone()),
            snapshots,
            asks,
            since: Clock::Real.now().mono,
            leaves_by: None,
        };
        self.0.seats.send_modify(|seats| {
            seats.retain(|other| other.name != seat.name);
            seats.push(seat);
        });
        self.0.news.send_replace(());
        (publish, asked)
    }

    /// Notes that a folder was told to end, and by when it has to. It keeps its seat until [`Board::unseat`].
    pub fn leaves(&self, name: &str, by: Instant) {
        self.0.seats.send_modify(|seats| {
            for seat in seats.iter_mut().filter(|seat| seat.name == name) {
                seat.leaves_by = Some(by);
            }
        });
    }

    /// Takes the seat of a folder away, which has ended.
    pub fn unseat(&self, name: &str) {
        self.0
            .seats
            .send_modify(|seats| seats.retain(|seat| seat.name != name));
        self.0.news.send_replace(());
    }

    /// Puts the seats into the order of `names`; who is not named comes last.
    pub fn arrange(&self, names: &[&str]) {
        let place = |seat: &Seat| {
            let place = names.iter().position(|name| *name == seat.name);
            place.unwrap_or(names.len())
        };
        self.0.seats.send_modify(|seats| seats.sort_by_key(place));
    }

    /// Notes the address of the page.
    pub fn has_page(&self, address: String) {
        *self.0.page.lock().unwrap_or_else(PoisonError::into_inner) = Some(address);
    }

    /// Returns the address of the page, if there is one.
    pub fn page(&self) -> Option<String> {
        let page = self.0.page.lock();
        page.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes what does not get on, or that everything does.
    pub fn judged(&self, stuck: Option<String>) {
        *self.0.stuck.lock().unwrap_or_else(PoisonError::into_inner) = stuck;
    }

    /// Returns what does not get on although nothing is known that would explain it, as it was last found; `None` if
    /// everything does.
    pub fn stuck(&self) -> Option<String> {
        let stuck = self.0.stuck.lock();
        stuck.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the seats, in the order in which they were given.
    pub fn seats(&self) -> Vec<Seat> {
        self.0.seats.borrow().clone()
    }

    /// Returns where the folders are.
    pub fn snapshots(&self) -> Vec<FolderSnapshot> {
        let seats = self.0.seats.borrow();
        let snapshot = |seat: &Seat| seat.snapshots.borrow().clone();
        seats.iter().map(snapshot).collect()
    }

    /// Returns what changes whenever anything is told of any folder; what was told before counts as seen.
    pub fn news(&self) -> watch::Receiver<()> {
        self.0.news.subscribe()
    }
}
