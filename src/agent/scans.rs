//! The scans of a folder: a full one at the start and every `rescan`, small ones for folders that a hint named.
//!
//! At most one of each kind runs. A scan waits while the queue is full of its kind. A loss of events orders one more full
//! scan, after a pause that doubles from 1 s to 60 s, so that a scan that causes losses cannot run for ever.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::agent::polls::Polling;
use crate::agent::root::RootFound;
use crate::agent::rows::ManifestRows;
use crate::agent::{Loop, Mode, Pending, Then};
use crate::base::clock::Now;
use crate::base::path::RelPath;
use crate::manifest::{Change, FolderId, Manifest};
use crate::tree::filter::Filter;
use crate::tree::polls::Polls;
use crate::tree::scan::{Depth, FolderNews, Scanner, Scope, Step};
use crate::tree::{Hint, Touch, Tree};

/// Differing paths handed over at once.
const BATCH: usize = 512;
/// Folders that hints may name before one full scan is cheaper and safer.
const WANTED_MOST: usize = 10_000;
/// How soon an absent root is looked for again.
const AWAY: Duration = Duration::from_secs(5);
/// How much oftener than every `rescan` the folder is walked at most, while its watcher misses changes.
const MISSED_MOST: u32 = 8;
/// How long a scan that a hint asked for is waited for before a file is taken for deleted, and not renamed.
const HINTED: Duration = Duration::from_secs(60);
/// The first and the longest pause between two full scans that losses order.
const LOST_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

pub(super) struct Scans {
    tree: Arc<dyn Tree>,
    manifest: Manifest,
    folder: FolderId,
    filter: Arc<Filter>,
    rescan: Duration,
    /// The pause before the next full scan: shorter than `rescan` while scans find what no event told.
    interval: Duration,
    /// The full scan under way has found such a change.
    pub(super) missed_now: bool,
    tasks: JoinSet<()>,
    full: Option<Running>,
    pub(super) hinted: Option<Running>,
    pub(super) wanted: BTreeMap<RelPath, Depth>,
    pub(super) polls: Polls,
    /// What `hinted` looks at, if nothing but time led to it.
    pub(super) polling: Option<Polling>,
    next_full: Option<Instant>,
    lost_pause: Duration,
    /// Events were lost after the last complete scan began.
    pub(super) is_blind: bool,
    /// When the last complete scan began, and when it ended.
    pub(super) completed: Option<Now>,
    ended: Option<Instant>,
    pub(super) away: Option<String>,
    /// Scans in a row that could not go on, and why the last one could not.
    failures: (u32, String),
    pub(super) unreadable: BTreeSet<RelPath>,
    /// Those of the scan under way.
    pub(super) unreadable_now: BTreeSet<RelPath>,
    /// Those that the hinted scan under way looks at again.
    pub(super) rechecked: BTreeSet<RelPath>,
}

pub(super) struct Running {
    scope: Scope,
    reports: mpsc::Receiver<Found>,
    started: Now,
    lost_meanwhile: bool,
}

/// What a scan found, or why it could not go on.
enum Found {
    Step(Step),
    /// The root is to be trusted: what is new of it, and what was mounted inside it and is not.
    Root(Vec<Change>, Vec<RelPath>),
    Away(String),
    Failed(String),
}

/// What a scan says, and which.
pub(super) struct Report {
    is_full: bool,
    found: Found,
}

impl Scans {
    pub fn new(
        tree: &Arc<dyn Tree>,
        manifest: &Manifest,
        folder: FolderId,
        filter: &Arc<Filter>,
        rescan: Duration,
        now: Now,
    ) -> Self {
        Self {
            tree: tree.clone(),
            manifest: manifest.clone(),
            folder,
            filter: filter.clone(),
            rescan,
            interval: rescan,
            missed_now: false,
            tasks: JoinSet::new(),
            full: None,
            hinted: None,
            wanted: BTreeMap::new(),
            polls: Polls::new(rescan),
            polling: None,
            next_full: Some(now.mono),
            lost_pause: LOST_PAUSE.0,
            is_blind: true,
            completed: None,
            ended: None,
            away: None,
            failures: (0, String::new()),
            unreadable: BTreeSet::new(),
            unreadable_now: BTreeSet::new(),
            rechecked: BTreeSet::new(),
        }
    }

    /// A folder is to be looked at.
    pub fn want(&mut self, folder: RelPath, depth: Depth, now: Now) {
        let before = self.wanted.get(&folder).copied();
        let deeper = if before == Some(Depth::Full) {
            Depth::Full
        } else {
            depth
        };
        self.wanted.insert(folder, deeper);
        if self.wanted.len() > WANTED_MOST {
            self.wanted.clear();
            self.lost(now);
        }
    }

    /// Takes from a hint what it says of the rules that lie in the tree: they are read again, and what they may have left
    /// out or taken in is looked for.
    pub fn heard(&mut self, hint: &Hint, now: Now) {
        match hint {
            Hint::Touched { path, .. } => {
                if let Some(folder) = self.filter.touched(path) {
                    self.want(folder, Depth::Full, now);
                }
            }
            Hint::Folder(folder) => self.filter.forget(folder),
            Hint::Lost => self.filter.forget(&RelPath::root()),
            Hint::Pulse => {}
        }
    }

    /// Events were lost, or what they said could not be kept.
    pub fn lost(&mut self, now: Now) {
        self.is_blind = true;
        if let Some(full) = &mut self.full {
            full.lost_meanwhile = true;
            return;
        }
        let after = self.ended.map(|at| at + self.lost_pause);
        let at = after.map_or(now.mono, |after| after.max(now.mono));
        self.next_full = Some(self.next_full.map_or(at, |next| next.min(at)));
    }

    /// The root is looked at now.
    pub fn look_now(&mut self, now: Now) {
        (self.next_full, self.is_blind) = (Some(now.mono), true);
    }

    pub fn away(&self) -> Option<&str> {
        self.away.as_deref()
    }

    /// Returns why scans cannot go on, after several that could not.
    pub fn is_hopeless(&self) -> Option<&str> {
        (self.failures.0 >= crate::agent::PATIENCE).then_some(self.failures.1.as_str())
    }

    pub fn unreadable(&self) -> u64 {
        self.unreadable.len().max(self.unreadable_now.len()) as u64
    }

    /// Returns true if everything has been looked at since the start and nothing is being looked at.
    pub fn is_done(&self) -> bool {
        self.completed.is_some()
            && self.full.is_none()
            && self.hinted.is_none()
            && self.wanted.is_empty()
    }

    /// Returns true if everything has been looked at since the start.
    pub fn is_done_once(&self) -> bool {
        self.completed.is_some()
    }

    /// Returns true while a scan that began before `at` may find names that nobody knows of yet. One that a hint asked for
    /// is waited for only so long: on a busy tree there is always another.
    pub fn is_looking(&self, at: Instant, now: Now) -> bool {
        let full = self
            .full
            .as_ref()
            .is_some_and(|full| full.started.mono <= at);
        let hinted = self.hinted.is_some() || !self.wanted.is_empty();
        full || self.completed.is_none() || (hinted && now.mono < at + HINTED)
    }

    /// Returns true if a complete scan began after the last loss of events, and no hint is left to be followed. A rescan
    /// or a poll under way changes nothing of that: what it finds is queued.
    pub fn sees(&self) -> bool {
        let is_followed = self.hinted.is_none() || self.polling.is_some();
        let is_followed = is_followed && self.wanted.is_empty();
        self.completed.is_some() && !self.is_blind && self.away.is_none() && is_followed
    }

    /// Returns true if events may have been lost since the last complete scan began.
    pub fn is_blind(&self) -> bool {
        let is_losing = self.full.as_ref().is_some_and(|full| full.lost_meanwhile);
        self.is_blind || is_losing || self.away.is_some()
    }

    pub fn next_at(&self) -> Option<Instant> {
        let full = self.next_full.filter(|_| self.full.is_none());
        full.into_iter().chain(self.next_poll()).min()
    }

    pub fn stop(&mut self) {
        self.tasks.abort_all();
        (self.full, self.hinted, self.next_full) = (None, None, None);
    }

    /// Waits for the next report of a scan whose lane is not full. Cancel-safe.
    pub async fn report(&mut self, backlog_full: bool, live_full: bool) -> Report {
        let full = next(&mut self.full, backlog_full);
        let hinted = next(&mut self.hinted, live_full);
        tokio::select! {
            biased;
            found = hinted => Report { is_full: false, found },
            found = full => Report { is_full: true, found },
        }
    }

    fn scanner(&self, folder: RelPath, depth: Depth, now: Now) -> Scanner {
        let (manifest, folder_id) = (self.manifest.clone(), self.folder);
        let rows = ManifestRows {
            manifest,
            folder: folder_id,
            now,
        };
        Scanner::new(
            self.tree.clone(),
            Box::new(rows),
            self.filter.clone(),
            Scope { folder, depth },
        )
        .at(now.wall_ns)
    }
}

async fn next(running: &mut Option<Running>, has_to_wait: bool) -> Found {
    if let Some(running) = running.as_mut().filter(|_| !has_to_wait)
        && let Some(found) = running.reports.recv().await
    {
        return found;
    }
    std::future::pending().await
}

impl Loop {
    pub(super) fn start_scans(&mut self, now: Now) {
        // Reaped, so that the set does not grow; a scan that panicked takes the loop with it.
        while let Some(ended) = self.scans.tasks.try_join_next() {
            crate::agent::joined(ended);
        }
        if self.scans.full.is_none() && self.scans.next_full.is_some_and(|at| at <= now.mono) {
            self.scans.next_full = None;
            self.scans.unreadable_now.clear();
            let scanner = self.scans.scanner(RelPath::root(), Depth::Full, now);
            self.scans.full = Some(self.start_scan(scanner, now));
        }
        if self.scans.hinted.is_none()
            && let Some((folder, depth)) = self.next_hinted(now)
        {
            let scanner = self.scans.scanner(folder, depth, now);
            self.scans.hinted = Some(self.start_scan(scanner, now));
        }
    }

    fn start_scan(&mut self, mut scanner: Scanner, started: Now) -> Running {
        let (sender, reports) = mpsc::channel(2);
        let offload = self.ctx.offload;
        let scope = scanner.scope().clone();
        let (root, tree) = (self.root_check(), self.ctx.tree.clone());
        self.scans.tasks.spawn(async move {
            let is = match offload.run(move || root.check()).await {
                RootFound::There { changes, away, is } => {
                    if sender.send(Found::Root(changes, away)).await.is_err() {
                        return;
                    }
                    is
                }
                RootFound::Away(why) => {
                    let _ = sender.send(Found::Away(why)).await;
                    return;
                }
            };
            loop {
                let tree = tree.clone();
                let step = offload.run(move || {
                    let mut step = scanner.step(BATCH);
                    if let Ok(step) = &mut step
                        && !step.folders.is_empty()
                        && tree.identity().ok() != Some(is)
                    {
                        // They are those of something that has come to be there since.
                        step.folders.clear();
                    }
                    (scanner, step)
                });
                let (back, step) = step.await;
                scanner = back;
                let is_last = step.as_ref().map_or(true, |step| step.done);
                let found =
                    step.map_or_else(|error| Found::Failed(format!("{error:#}")), Found::Step);
                if sender.send(found).await.is_err() || is_last {
                    return;
                }
            }
        });
        Running {
            scope,
            reports,
            started,
            lost_meanwhile: false,
        }
    }

    pub(super) fn scanned(&mut self, report: Report, now: Now) {
        let Report { is_full, found } = report;
        let step = match found {
            Found::Step(step) => step,
            Found::Root(changes, away) => return self.trust_root(changes, away),
            Found::Away(why) => return self.is_away(&why, now),
            Found::Failed(why) => {
                self.scans.failures = (self.scans.failures.0 + 1, why.clone());
                tracing::warn!(folder = %self.teller.name(), "a scan could not go on: {why}");
                self.scans.next_full = Some(now.mono + AWAY);
                self.scans.is_blind = true;
                return self.forget_scan(is_full);
            }
        };
        self.teller.begun();
        self.scans.failures.0 = 0;
        if self.scans.away.take().is_some() {
            tracing::info!(folder = %self.teller.name(), "the folder is there again");
        }
        self.note_polls(is_full, &step.differing, now);
        // What a hint led to is being written perhaps; it settles like the file that was hinted.
        let is_hinted = !is_full && self.mode == Mode::Forever;
        let touch = if is_hinted { Touch::Meta } else { Touch::Scan };
        for (path, size) in step.differing {
            if !self.queue.touch(path, touch, size, now) {
                self.scans.lost(now);
            }
        }
        let running = if is_full {
            &self.scans.full
        } else {
            &self.scans.hinted
        };
        let started = running.as_ref().map_or(now, |running| running.started);
        self.found_missing(step.missing, started, now);
        if is_full && self.scans.completed.is_none() {
            self.tally().unchanged += step.unchanged;
        }
        self.note_folders(step.folders);
        for (path, why) in step.skipped {
            self.skipped(&path, &format!("it is {why}"));
        }
        for (path, error) in step.unreadable {
            self.cannot_list(&path, &error);
        }
        if step.done {
            self.scan_ended(is_full, now);
        }
    }

    /// Has the catalog told what is new of folders.
    fn note_folders(&mut self, news: Vec<FolderNews>) {
        if news.is_empty() {
            return;
        }
        let change = |news| match news {
            FolderNews::Is(path, stamp) => Change::Folder(path, stamp),
            FolderNews::Gone(path) => Change::FolderGone(path),
        };
        let changes = news.into_iter().map(change).collect();
        let then = Then::Nothing;
        self.pending.push_back(Pending { changes, then });
    }

    fn cannot_list(&mut self, path: &RelPath, error: &std::io::Error) {
        if !self.scans.is_known_unreadable(path) {
            let name = if path.is_root() {
                "the folder itself".to_owned()
            } else {
                format!("`{path}`")
            };
            let why = format!("could not list {name}: {error}; what is below it is not looked at");
            tracing::warn!(folder = %self.teller.name(), "{why}");
            self.teller.tell(
                crate::base::snapshot::What::Failed,
                path,
                None,
                0,
                Some(why),
            );
        }
        self.scans.unreadable_now.insert(path.clone());
    }

    fn scan_ended(&mut self, is_full: bool, now: Now) {
        let Some(running) = self.forget_scan_running(is_full) else {
            return;
        };
        let Scope { folder, depth } = &running.scope;
        self.deletes.scanned(folder, *depth, running.started.mono);
        if !is_full {
            return;
        }
        let is_first = self.scans.completed.is_none();
        let took = crate::base::units::show_duration(
            now.mono.saturating_duration_since(running.started.mono),
        );
        if is_first {
            tracing::info!(folder = %self.teller.name(), took, found = self.queue.len(), "the first scan has ended");
        } else {
            tracing::debug!(folder = %self.teller.name(), took, "a full scan has ended");
        }
        (self.scans.completed, self.scans.ended) = (Some(running.started), Some(now.mono));
        self.scans.unreadable = std::mem::take(&mut self.scans.unreadable_now);
        self.scans.is_blind = running.lost_meanwhile;
        self.teller.scanned(running.started.wall_ns);
        let changes = vec![Change::Scanned(running.started.wall_ns)];
        self.pending.push_back(Pending {
            changes,
            then: Then::Nothing,
        });
        if self.mode != Mode::Forever {
            return;
        }
        let pause = if running.lost_meanwhile {
            let pause = self.scans.lost_pause;
            self.scans.lost_pause = (pause * 2).min(LOST_PAUSE.1);
            pause
        } else {
            self.scans.lost_pause = LOST_PAUSE.0;
            self.scans.interval = if std::mem::take(&mut self.scans.missed_now) {
                (self.scans.interval / 2).max(self.scans.rescan / MISSED_MOST)
            } else {
                (self.scans.interval * 2).min(self.scans.rescan)
            };
            // Jitter, so that many folders, and many hosts, do not walk at the same instant.
            self.scans.interval.mul_f64(0.9 + self.random.f64() / 5.0)
        };
        self.scans.next_full = Some(now.mono + pause);
    }

    fn is_away(&mut self, why: &str, now: Now) {
        // What any scan says from now on is about a folder that may not be ours.
        self.forget_scan(true);
        self.forget_scan(false);
        if self.scans.away.is_none() {
            tracing::error!(folder = %self.teller.name(), "the folder cannot be used: {why}; it is looked for again and again");
        }
        self.teller.begun();
        self.scans.away = Some(why.to_owned());
        self.scans.is_blind = true;
        self.scans.next_full = Some(now.mono + AWAY);
    }

    fn forget_scan(&mut self, is_full: bool) {
        drop(self.forget_scan_running(is_full));
    }

    fn forget_scan_running(&mut self, is_full: bool) -> Option<Running> {
        if is_full {
            self.scans.full.take()
        } else {
            self.scans.hinted.take()
        }
    }
}
