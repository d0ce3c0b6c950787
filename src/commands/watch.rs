//! `tidewatch run` and `tidewatch watch`: keep the bucket level with the folders until they are stopped.
//!
//! `run` never ends because of S3: a folder that cannot be reached waits. `watch` is asked for by a person, who is told
//! at once if the bucket is not there. SIGHUP lets `run` read its config again. The first signal to stop lets what is on
//! its way finish, the second ends at once.

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::agent::{Control, Mode, Reason};
use crate::base::clock::Clock;
use crate::base::offload::{self, Offload};
use crate::base::snapshot::{FolderSnapshot, Happening};
use crate::commands::Exit;
use crate::commands::board::Board;
use crate::commands::control;
use crate::commands::drill::routine::Routine;
use crate::commands::folders::{Eyes, Left, Shared, Start, shown};
use crate::commands::page;
use crate::commands::reload::{Reader, Reloads};
use crate::commands::signals::Signals;
use crate::commands::stores::Stores;
use crate::commands::unusable;
use crate::config::{self, Config};
use crate::report::out::note;
use crate::report::status_file::{self, FolderStatus, StatusFile};
use crate::report::systemd;
use crate::store::Store as _;

/// How soon a bucket that could not even be asked is tried again.
const RETRY: Duration = Duration::from_secs(60);
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
            Ok(store) => match store.check().await {
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
    tasks: JoinSet<Left>,
    stop: CancellationToken,
    board: Board,
    /// Answer on the socket, and keep drills up.
    listeners: JoinSet<()>,
    /// The address of the page.
    page: Option<String>,
    is_ready: bool,
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
        let stop = CancellationToken::new();
        let (mut tasks, mut listeners) = (JoinSet::new(), JoinSet::new());
        let board = Board::default();
        let turns = Arc::new(Semaphore::new(1));
        for folder in &config.folders {
            let (publish, asked) = board.seat(folder);
            let path = shown(&folder.path);
            tracing::info!(folder = %folder.name, "watching {path} → {}", folder.to);
            if let Some(every) = folder.drill {
                let routine = Routine {
                    folder: folder.clone(),
                    state_dir: config.state_dir.clone(),
                    every,
                    memory_bytes: config.upload.memory_bytes,
                    turns: turns.clone(),
                };
                listeners.spawn(routine.keep_up(stop.clone()));
            }
            let (shared, stop) = (shared.clone(), stop.clone());
            let (folder, happenings) = (folder.clone(), happenings.cloned());
            tasks.spawn(
                async move { keep(&shared, folder, publish, happenings, asked, stop).await },
            );
        }
        listeners.spawn(shared.bill.clone().keep_up());
        match control::listen(&shared.state_dir, board.clone()) {
            Ok(server) => drop(listeners.spawn(server)),
            Err(error) => {
                tracing::warn!("`tidewatch held` and `folder` will not reach this agent: {error}");
            }
        }
        Self {
            shared: shared.clone(),
            reloads: None,
            state_dir: config.state_dir.clone(),
            tasks,
            stop,
            board,
            listeners,
            page: None,
            is_ready: false,
            cannot_write: false,
            exit: Exit::Level,
        }
    }

    /// Opens the page, if it can be.
    async fn show_page(&mut self, config: &Config, told: mpsc::Receiver<Happening>) {
        let bill = &self.shared.bill;
        if let Some(page) = page::open(config, &self.board, bill, told).await {
            self.page = Some(page.address.clone());
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
        let mut has_news = true;
        while !self.tasks.is_empty() {
            tokio::select! {
                biased;
                asked = signals.next() => {
                    if self.stop.is_cancelled() {
                        tracing::warn!("{} again: stopping at once; what was on its way is looked at again at the next start", asked.name());
                        self.tasks.shutdown().await;
                        break;
                    }
                    tracing::info!("{}: stopping when what is on its way has ended", asked.name());
                    self.end();
                }
                () = asked(&mut self.reloads) => if let Some(reloads) = &mut self.reloads {
                    reloads.reload(&self.shared.lines).await;
                },
                Some(ended) = self.tasks.join_next() => self.ended(ended),
                Ok(()) = news.changed() => has_news = true,
                () = tokio::time::sleep_until(next_status), if has_news => {
                    has_news = false;
                    self.write_status().await;
                    next_status = Clock::Real.now().mono + STATUS;
                }
            }
            self.tell_ready();
        }
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

    /// Lets the folders end.
    fn end(&self) {
        systemd::stopping();
        self.stop.cancel();
    }

    /// A folder has ended: as it was told, or because it cannot go on, and then the others are better started anew too.
    fn ended(&mut self, ended: Result<Left, tokio::task::JoinError>) {
        let why = match offload::joined(ended) {
            None | Some(Left::Stopped) => return,
            Some(Left::Ended(ended)) => match ended.reason {
                Reason::Stopped(true) | Reason::Finished => return,
                Reason::Stopped(false) => {
                    tracing::warn!(folder = %ended.last.name, "what was still on its way was cut off; it is looked at again at the next start");
                    return;
                }
                Reason::Store(why) | Reason::Taken(why) | Reason::Away(why) => why,
                Reason::Manifest(why) => format!("could not {why}"),
            },
            Some(Left::Unable(why)) => {
                tracing::error!(
                    "a folder cannot be kept level as its config says, the agent ends: {why}"
                );
                self.exit = Exit::Usage;
                return self.end();
            }
            Some(Left::Unasked) => unusable::UNASKED.to_owned(),
            Some(Left::Broken(why)) => format!("could not {why}"),
            Some(Left::NoStore(error)) => error.to_string(),
        };
        tracing::error!("a folder cannot go on, the agent ends: {why}");
        self.exit = Exit::Failed;
        self.end();
    }

    /// Tells the service manager once every folder is being looked after.
    fn tell_ready(&mut self) {
        let is_begun = |snapshot: &FolderSnapshot| snapshot.begun;
        if !self.is_ready && !self.stop.is_cancelled() && self.last().iter().all(is_begun) {
            // Told again at the next occasion if it was not heard.
            self.is_ready = systemd::ready();
        }
    }

    async fn write_status(&mut self) {
        let snapshots = self.last();
        systemd::status(&snapshots);
        let status = StatusFile {
            at_ns: Clock::Real.now().wall_ns,
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            page: self.page.clone(),
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

/// Runs one folder; while its bucket cannot even be asked, tries again and again.
async fn keep(
    shared: &Shared,
    folder: config::Folder,
    snapshots: watch::Sender<FolderSnapshot>,
    happenings: Option<mpsc::Sender<Happening>>,
    control: mpsc::Receiver<Control>,
    stop: CancellationToken,
) -> Left {
    let mut told = None;
    loop {
        let opened = tokio::select! {
            opened = shared.stores.open(&folder) => opened,
            () = stop.cancelled() => return Left::Stopped,
        };
        let Err(error) = opened else { break };
        let why = error.to_string();
        if told.as_ref() != Some(&why) {
            tracing::error!(folder = %folder.name, "the bucket cannot be used: {why}; it is tried again every minute");
        }
        unusable::show(&snapshots, &why);
        told = Some(why);
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = stop.cancelled() => return Left::Stopped,
        }
    }
    if told.is_some() {
        tracing::info!(folder = %folder.name, "the bucket can be used now");
    }
    let start = Start {
        control: Some(control),
        retry_failed: false,
        folder,
        mode: Mode::Forever,
        eyes: Eyes::Open,
        scan_settle: Duration::ZERO,
        snapshots,
        happenings,
    };
    shared.drive(start, stop).await
}
