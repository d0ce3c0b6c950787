//! `tidewatch sync`: brings the bucket to what the folders hold, once, and exits. `tidewatch adopt`: the same with a
//! prefix that another tool wrote, and says first what that comes to.
//!
//! All folders run side by side; what goes wrong with one is that folder's, and the strongest exit of all is the
//! command's. A folder that is level already costs the requests of its lease, and no other.

mod dry_run;
mod retry;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::agent::{Mode, Reason};
use crate::base::clock::{Clock, rfc3339};
use crate::base::offload::joined;
use crate::base::snapshot::{FolderSnapshot, Happening};
use crate::commands::Exit;
use crate::commands::folders::{Eyes, Left, Shared, Start, first_snapshot, shown};
use crate::commands::signals::{Asked, Signals};
use crate::commands::stores::Stores;
use crate::commands::sync::dry_run::Telling;
use crate::commands::unusable;
use crate::config::{self, Config};
use crate::report::lines::{Event, Level, Summary};
use crate::report::out::{Out, note};
use crate::report::progress::Progress;

/// Happenings that wait to be printed; beyond it the folders wait for whoever reads them.
const HAPPENINGS: usize = 1024;
/// How often the progress bar is told where the folders are.
const PROGRESS: Duration = Duration::from_millis(200);

/// What `sync` is asked to do.
#[derive(Clone, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the command line"
)]
pub struct SyncOptions {
    /// The folders.
    pub config: Config,
    /// `--settle`, if it was given: what a scan finds waits too.
    pub settle: Option<Duration>,
    /// How long to go on without any success.
    pub timeout: Duration,
    /// Only print what would be done.
    pub dry_run: bool,
    /// Try files at once that failed for good.
    pub retry_failed: bool,
    /// One JSON object for each event.
    pub json: bool,
    /// No progress bar and no closing line.
    pub quiet: bool,
}

/// Syncs every folder once.
pub async fn sync(options: SyncOptions) -> anyhow::Result<Exit> {
    let mut signals = Signals::listen()?;
    if options.dry_run {
        return dry_run(&options, Telling::Paths, &mut signals).await;
    }
    run(options, signals).await
}

/// Takes over prefixes that other tools wrote: says what becomes of how much, and then does it as a sync does.
pub async fn adopt(options: SyncOptions) -> anyhow::Result<Exit> {
    let mut signals = Signals::listen()?;
    if options.dry_run {
        return dry_run(&options, Telling::Plan, &mut signals).await;
    }
    let exit = dry_run(&options, Telling::PlanFirst, &mut signals).await?;
    match exit {
        // Files that cannot be read do not keep the others from being adopted.
        Exit::Level | Exit::Failed | Exit::Different | Exit::Held => run(options, signals).await,
        _ => Ok(exit),
    }
}

async fn dry_run(
    options: &SyncOptions,
    telling: Telling,
    signals: &mut Signals,
) -> anyhow::Result<Exit> {
    tokio::select! {
        exit = dry_run::dry_run(options, telling) => exit,
        asked = signals.next() => Ok(asked.exit()),
    }
}

async fn run(options: SyncOptions, mut signals: Signals) -> anyhow::Result<Exit> {
    if options.retry_failed
        && let Some(exit) = retry::by_the_agent(&options.config).await?
    {
        return Ok(exit);
    }
    let started = Clock::Real.now();
    let shared = match Shared::open(&options.config, Stores::default(), Eyes::Closed).await {
        Ok(shared) => Arc::new(shared),
        Err(exit) => return Ok(exit),
    };
    let mut run = Run::start(&options, &shared);
    run.attend(&mut signals).await;
    shared.close().await;
    let took = Clock::Real
        .now()
        .mono
        .saturating_duration_since(started.mono);
    run.close(took)
}

/// The folders at work, and whoever looks at them.
struct Run {
    folders: Vec<config::Folder>,
    tasks: JoinSet<(usize, Left)>,
    stop: CancellationToken,
    snapshots: Vec<watch::Receiver<FolderSnapshot>>,
    happenings: mpsc::Receiver<Happening>,
    /// What is left of each folder; `None` while it runs, and for one that was cut off.
    left: Vec<Option<Left>>,
    asked: Option<Asked>,
    teller: Teller,
}

impl Run {
    fn start(options: &SyncOptions, shared: &Arc<Shared>) -> Self {
        let folders = options.config.folders.clone();
        let (sender, happenings) = mpsc::channel(HAPPENINGS);
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let mut snapshots = Vec::new();
        for (number, folder) in folders.iter().enumerate() {
            let (publish, snapshot) = watch::channel(first_snapshot(folder));
            snapshots.push(snapshot);
            let start = Start {
                control: None,
                retry_failed: options.retry_failed,
                folder: folder.clone(),
                mode: Mode::Once {
                    timeout: options.timeout,
                },
                eyes: Eyes::Closed,
                scan_settle: options.settle.unwrap_or_default(),
                snapshots: publish,
                // Each one would wake this task, and only JSON shows them.
                happenings: options.json.then(|| sender.clone()),
            };
            let (shared, stop) = (shared.clone(), stop.clone());
            tasks.spawn(async move { (number, shared.drive(start, stop).await) });
        }
        Self {
            left: folders.iter().map(|_| None).collect(),
            folders,
            tasks,
            stop,
            snapshots,
            happenings,
            asked: None,
            teller: Teller::new(options),
        }
    }

    /// Waits until every folder has ended, and tells what happens meanwhile.
    async fn attend(&mut self, signals: &mut Signals) {
        let mut ticks = tokio::time::interval(PROGRESS);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The folders are the only ones to tell: when they have ended, so has the telling.
        let mut is_telling = true;
        while is_telling || !self.tasks.is_empty() {
            tokio::select! {
                biased;
                asked = signals.next() => {
                    if self.asked.is_some() {
                        // The open intents tell the next run what was cut off.
                        self.tasks.shutdown().await;
                        break;
                    }
                    self.asked = Some(asked);
                    self.stop.cancel();
                    tracing::info!("{}: what is on its way is finished; once more to stop at once", asked.name());
                }
                happening = self.happenings.recv(), if is_telling => match happening {
                    Some(happening) => self.teller.tell(&happening),
                    None => is_telling = false,
                },
                Some(ended) = self.tasks.join_next() => if let Some((number, left)) = joined(ended) {
                    self.left[number] = Some(left);
                },
                _ = ticks.tick(), if !self.tasks.is_empty() => self.teller.show(&self.snapshots),
            }
        }
    }

    /// Says what came of it.
    fn close(mut self, took: Duration) -> anyhow::Result<Exit> {
        self.teller.progress.end();
        let mut exit = Exit::Level;
        let mut last = Vec::new();
        for (number, folder) in self.folders.iter().enumerate() {
            let left = self.left[number].take();
            exit = exit.strongest(folder_exit(folder, left.as_ref(), self.asked));
            last.push(match left {
                Some(Left::Ended(ended)) => ended.last,
                _ => self.snapshots[number].borrow().clone(),
            });
        }
        let level = if exit == Exit::Level {
            Level::Yes
        } else {
            Level::No
        };
        self.teller.close(&Summary::of(&last, level, took), &last);
        match self.teller.trouble {
            Some(error) => Err(error).context("write the results"),
            None => Ok(exit),
        }
    }
}

/// Tells why a folder is not level, where that is more than single files, and returns its exit.
fn folder_exit(folder: &config::Folder, left: Option<&Left>, asked: Option<Asked>) -> Exit {
    let complain = |why: &dyn std::fmt::Display, exit| {
        let path = shown(&folder.path);
        note(format_args!(
            "tidewatch: could not sync {path} to {}: {why}",
            folder.to
        ));
        exit
    };
    let stopped = asked.map_or(Exit::Failed, Asked::exit);
    let ended = match left {
        None | Some(Left::Stopped) => return stopped,
        Some(Left::Unable(why)) => return complain(why, Exit::Usage),
        Some(Left::Unasked) => return complain(&unusable::UNASKED, Exit::Unreachable),
        Some(Left::NoStore(error)) => return complain(error, Exit::Unreachable),
        Some(Left::Broken(why)) => {
            note(format_args!("tidewatch: could not {why}"));
            return Exit::Failed;
        }
        Some(Left::Ended(ended)) => ended,
    };
    match &ended.reason {
        Reason::Stopped(_) => stopped,
        Reason::Store(why) => complain(why, Exit::Unreachable),
        Reason::Taken(why) => complain(why, Exit::Taken),
        Reason::Away(why) => complain(why, Exit::Failed),
        Reason::Manifest(why) => complain(&format_args!("could not {why}"), Exit::Failed),
        Reason::Finished if ended.last.failed > 0 => Exit::Failed,
        Reason::Finished if ended.last.held > 0 => Exit::Held,
        Reason::Finished if ended.last.unsyncable > 0 => Exit::Different,
        Reason::Finished => Exit::Level,
    }
}

/// Where it is told what happens.
struct Teller {
    out: Out,
    json: bool,
    quiet: bool,
    progress: Progress,
    /// Why a result could not be written. The files come first: the run goes on.
    trouble: Option<io::Error>,
}

impl Teller {
    fn new(options: &SyncOptions) -> Self {
        let progress = if options.quiet || options.json {
            Progress::hidden()
        } else {
            Progress::on_terminal()
        };
        Self {
            out: Out::stdout(),
            json: options.json,
            quiet: options.quiet,
            progress,
            trouble: None,
        }
    }

    fn show(&self, snapshots: &[watch::Receiver<FolderSnapshot>]) {
        let snapshots: Vec<_> = snapshots.iter().map(|one| one.borrow().clone()).collect();
        self.progress.show(&snapshots);
    }

    fn tell(&mut self, happening: &Happening) {
        if let Some(event) = Event::of(happening).filter(|_| self.json) {
            self.json(&event);
        }
    }

    fn close(&mut self, summary: &Summary, last: &[FolderSnapshot]) {
        if self.json {
            self.json(summary);
        } else if !self.quiet {
            self.line(&summary.line());
            let until_ns = last.iter().map(|last| last.ambiguous_until_ns).max();
            if let Some(until_ns) = until_ns.filter(|_| summary.ambiguous > 0) {
                let (keys, after) = (summary.ambiguous, rfc3339(until_ns));
                self.line(&format!(
                    "{keys} keys are looked at again after {after}, as an answer was lost: run sync again then"
                ));
            }
        }
    }

    fn json(&mut self, line: &impl serde::Serialize) {
        match serde_json::to_string(line) {
            Ok(line) => self.line(&line),
            Err(error) => self.trouble = Some(error.into()),
        }
    }

    fn line(&mut self, line: &str) {
        if let Err(error) = self.out.line(line) {
            self.trouble.get_or_insert(error);
        }
    }
}
