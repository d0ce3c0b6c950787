//! `tidewatch run` and `tidewatch watch`: keep the bucket level with the folders until they are stopped.
//!
//! `run` never ends because of S3: a folder that cannot be reached waits. `watch` is asked for by a person, who is told
//! at once if the bucket is not there. SIGHUP lets `run` read its config again. The first signal to stop lets what is on
//! its way finish, the second ends at once.

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::base::clock::Clock;
use crate::base::offload::Offload;
use crate::base::snapshot::{FolderSnapshot, Happening};
use crate::commands::alarm;
use crate::commands::board::Board;
use crate::commands::folders::{Eyes, Shared, shown};
use crate::commands::kept::{Kept, Trouble};
use crate::commands::manager::Manager;
use crate::commands::page;
use crate::commands::reload::{Reader, Reloads};
use crate::commands::signals::Signals;
use crate::commands::stores::Stores;
use crate::commands::{Exit, control, unusable, watchdog};
use crate::config::{Config, Notify};
use crate::report::out::note;
use crate::report::status_file::{self, FolderStatus, StatusFile};
use crate::report::systemd;

/// The shortest time between two writes of the status.
const STATUS: Duration = Duration::from_secs(1);

/// What `run` and `watch` are asked to do.
#[derive(Clone, Debug)]
pub struct WatchOptions {
    /// The folders.
    pub config: Config,
    /// Reads the config again; `None`: there is none.
    pub reader: Option<Reader>,
}

impl WatchOptions {
    /// Begins to listen to SIGHUP; `None` where it means that somebody's terminal was closed, which ends the process.
    fn reloads(&self) -> anyhow::Result<Option<Reloads>> {
        match &self.reader {
            Some(reader) => Reloads::listen(&self.config, reader.clone()).map(Some),
            None if io::stderr().is_terminal() => Ok(None),
            None => Reloads::without_config().map(Some),
        }
    }
}

/// Keeps every folder level until a signal comes, whatever S3 does.
pub async fn run(options: WatchOptions) -> anyhow::Result<Exit> {
    let mut signals = Signals::listen()?;
    let reloads = options.reloads()?;
    let shared = match Shared::open(&options.config, Stores::default(), Eyes::Open).await {
        Ok(shared) => Arc::new(shared),
        Err(exit) => return Ok(exit),
    };
    let told = options.config.listen.map(|_| page::channel());
    let tell = told.as_ref().map(|(tell, _)| tell);
    let mut service = Service::start(&options.config, &shared, tell).reloading(reloads);
    if let Some((_, told)) = told {
        service.show_page(&options.config, told).await;
    }
    let exit = service.attend(&mut signals).await;
    shared.close().await;
    Ok(exit)
}

/// Keeps one folder level until a signal comes, if its bucket is there.
pub async fn watch(options: WatchOptions) -> anyhow::Result<Exit> {
    let mut signals = Signals::listen()?;
    let reloads = options.reloads()?;
    let shared = match Shared::open(&options.config, Stores::default(), Eyes::Open).await {
        Ok(shared) => Arc::new(shared),
        Err(exit) => return Ok(exit),
    };
    let found = tokio::select! {
        found = find(&options.config, &shared) => found,
        _ = signals.next() => Err(Exit::Level),
    };
    let exit = match found {
        Ok(()) => {
            let mut service = Service::start(&options.config, &shared, None).reloading(reloads);
            service.attend(&mut signals).await
        }
        Err(exit) => exit,
    };
    shared.close().await;
    Ok(exit)
}

/// Asks every bucket whether it is there; tells which is not.
async fn find(config: &Config, shared: &Shared) -> Result<(), Exit> {
    for folder in &config.folders {
        let why = match shared.stores.open(folder).await {
            Err(error) => error.to_string(),
            Ok(store) => match unusable::ask(&*store, &folder.to.prefix).await {
                Err(error) if error.is_of_bucket() => error.to_string(),
                // What passes is waited for, as it is later.
                Ok(()) | Err(_) => continue,
            },
        };
        let path = shown(&folder.path);
        note(format_args!(
            "tidewatch: could not watch {path} for {}: {why}",
            folder.to
        ));
        return Err(Exit::Unreachable);
    }
    Ok(())
}

/// The folders of a process that stays.
pub struct Service {
    shared: Arc<Shared>,
    reloads: Option<Reloads>,
    state_dir: PathBuf,
    grace: Duration,
    kept: Kept,
    stop: CancellationToken,
    board: Board,
    manager: Manager,
    /// What was found out about whether everything gets on.
    verdicts: mpsc::Receiver<Option<String>>,
    /// Answer on the socket, and find that out.
    listeners: JoinSet<()>,
    cannot_write: bool,
    exit: Exit,
}

impl Service {
    /// Starts every folder; what happens goes to `happenings`, if anybody wants it.
    pub fn start(
        config: &Config,
        shared: &Arc<Shared>,
        happenings: Option<&mpsc::Sender<Happening>>,
    ) -> Self {
        let (stop, board) = (CancellationToken::new(), Board::default());
        let mut listeners = JoinSet::new();
        let kept = Kept::begin(config, shared, &board, happenings, &stop);
        if config.notify != Notify::default() {
            let (told, dir) = (config.notify.clone(), shared.state_dir.clone());
            let bill = shared.bill.clone();
            listeners.spawn(alarm::keep_up(told, board.clone(), dir, bill));
        }
        listeners.spawn(shared.bill.clone().keep_up());
        match control::server::listen(&shared.state_dir, board.clone()) {
            Ok(server) => drop(listeners.spawn(server)),
            Err(error) => {
                tracing::warn!("`tidewatch held` and `folder` will not reach this agent: {error}");
            }
        }
        let (verdict, verdicts) = mpsc::channel(1);
        // Twice within the time that the manager gives, as sd_watchdog_enabled(3) wants it.
        let every = systemd::watchdog().map_or(watchdog::USUAL, |within| within / 2);
        listeners.spawn(watchdog::keep_judging(board.clone(), every, verdict));
        Self {
            shared: shared.clone(),
            reloads: None,
            state_dir: config.state_dir.clone(),
            grace: config.shutdown_grace,
            kept,
            stop,
            board,
            manager: Manager::default(),
            verdicts,
            listeners,
            cannot_write: false,
            exit: Exit::Level,
        }
    }

    /// Opens the page, if it can be.
    async fn show_page(&mut self, config: &Config, told: mpsc::Receiver<Happening>) {
        let bill = &self.shared.bill;
        if let Some(page) = page::open(config, &self.board, bill, told).await {
            self.board.has_page(page.address.clone());
            self.listeners.spawn(page.serve());
        }
    }

    /// Lets it change with its config.
    #[must_use]
    pub fn reloading(mut self, reloads: Option<Reloads>) -> Self {
        self.reloads = reloads;
        self
    }

    /// Waits until the folders have ended, which they do when a signal comes, and keeps the status up to date.
    pub async fn attend(&mut self, signals: &mut Signals) -> Exit {
        let mut next_status = Clock::Real.now().mono;
        let mut news = self.board.news();
        let (mut has_news, stop) = (true, self.stop.clone());
        while !self.kept.is_over() {
            tokio::select! {
                biased;
                asked = signals.next() => {
                    if self.stop.is_cancelled() {
                        tracing::warn!("{} again: stopping at once; what was on its way is looked at again at the next start", asked.name());
                        self.kept.shutdown().await;
                        break;
                    }
                    tracing::info!("{}: stopping when what is on its way has ended", asked.name());
                    self.stop.cancel();
                }
                () = stop.cancelled(), if !self.manager.is_stopping() => self.tell_end(),
                () = asked(&mut self.reloads), if !stop.is_cancelled() => self.reload().await,
                trouble = self.kept.ended() => if let Some(trouble) = trouble {
                    self.ended(trouble);
                },
                Some(stuck) = self.verdicts.recv() => self.manager.judged(stuck, &self.last()),
                Ok(()) = news.changed() => has_news = true,
                () = tokio::time::sleep_until(next_status), if has_news => {
                    has_news = false;
                    self.write_status().await;
                    next_status = Clock::Real.now().mono + STATUS;
                }
            }
            self.tell_ready();
        }
        self.kept.shutdown().await;
        self.listeners.shutdown().await;
        self.write_status().await;
        tracing::info!("stopped");
        self.exit
    }

    /// Waits until `deadline`, or for ever if it is `None`, or until a signal comes, then lets the folders end.
    pub async fn attend_until(&mut self, signals: &mut Signals, deadline: Option<Instant>) -> Exit {
        let stop = self.stop.clone();
        let mut timer = JoinSet::new();
        if let Some(deadline) = deadline {
            timer.spawn(async move {
                tokio::time::sleep_until(deadline).await;
                stop.cancel();
            });
        }
        let exit = self.attend(signals).await;
        timer.shutdown().await;
        exit
    }

    /// Returns where the folders are.
    pub fn last(&self) -> Vec<FolderSnapshot> {
        self.board.snapshots()
    }

    /// Reads the config again.
    async fn reload(&mut self) {
        let Some(reloads) = &mut self.reloads else {
            return;
        };
        self.manager.reloading();
        let outcome = reloads.reload(&self.shared, &mut self.kept).await;
        self.manager.reloaded(outcome, &self.board.snapshots());
    }

    /// A folder cannot go on, and then the others are better started anew too.
    fn ended(&mut self, trouble: Trouble) {
        match trouble {
            Trouble::Unable(why) => {
                tracing::error!(
                    "a folder cannot be kept level as its config says, the agent ends: {why}"
                );
                self.exit = Exit::Usage;
            }
            Trouble::Broken(why) => {
                tracing::error!("a folder cannot go on, the agent ends: {why}");
                self.exit = Exit::Failed;
            }
        }
        self.stop.cancel();
        self.tell_end();
    }

    /// The folders were told to end.
    fn tell_end(&mut self) {
        self.kept.leave();
        let now = Clock::Real.now().mono;
        self.manager.stopping(self.grace, &self.last(), now);
    }

    /// Tells the service manager once every folder is being looked after.
    fn tell_ready(&mut self) {
        let is_begun = |snapshot: &FolderSnapshot| snapshot.begun;
        if !self.stop.is_cancelled() && self.last().iter().all(is_begun) {
            self.manager.tell_ready();
        }
    }

    async fn write_status(&mut self) {
        let snapshots = self.last();
        self.manager.status(&snapshots);
        self.manager.draining(&snapshots, Clock::Real.now().mono);
        let status = StatusFile {
            at_ns: Clock::Real.now().wall_ns,
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            page: self.board.page(),
            folders: snapshots.iter().map(FolderStatus::of).collect(),
        };
        let dir = self.state_dir.clone();
        let written = Offload::Pool.run(move || status_file::write(&dir, &status));
        match written.await {
            Ok(()) => self.cannot_write = false,
            Err(error) if !self.cannot_write => {
                self.cannot_write = true;
                let dir = shown(&self.state_dir);
                tracing::warn!("could not write the status into {dir}: {error}");
            }
            Err(_) => {}
        }
    }
}

/// Waits until the config is to be read again; for ever where nobody listens.
async fn asked(reloads: &mut Option<Reloads>) {
    match reloads {
        Some(reloads) => reloads.asked().await,
        None => std::future::pending().await,
    }
}
