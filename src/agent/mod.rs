//! The loop of one folder: it owns the folder's queue and its rows of the manifest.
//!
//! - Overview: hints, scans and jobs come in as one closed enum of events; handling one is synchronous. Each turn makes one
//!   transaction of what has ended and of the intents of what is about to start; jobs start only after it has committed;
//!   at most one commit is in flight, and touches are taken meanwhile.
//! - Order: intent, bytes, row, catalog. Live before backlog, deletes last: after all that was known when their files were
//!   proven gone. A waiter of the dedupe map is told only when the row it copies from is durable.
//! - Errors and retries: a file's failure is data, held by the queue for its backoff. Trouble that is everyone's (endpoint,
//!   bucket, credentials) is confirmed by one question to the bucket and then probed with one job at a time. If the
//!   manifest cannot be written nothing new is sent until it can.
//! - Cancellation: the token stops taking work; what runs may end within the grace (large files stop where they are), then
//!   it is dropped, and its open intents tell the next start.
//! - After a crash: a scan, plus the rows whose intent is open; their keys are looked at once more after the request
//!   horizon. Multipart uploads are gone on with, or given up.
//! - Two agents on one prefix: only the one that holds the lease sends what changes anything.

pub mod audit;
mod catalog;
mod contact;
mod control;
mod deletes;
mod ends;
mod events;
mod failures;
mod folder;
mod janitor;
mod jobs;
mod lease;
mod live;
mod outage;
mod pause;
mod polls;
mod pulse;
mod rate;
mod recall;
mod rest;
mod root;
mod rows;
mod said;
mod scans;
mod setting;
mod tell;
mod trash;
mod turn;
mod wake;
mod weigh;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::agent::jobs::Writing;
use crate::base::clock::{Now, Setting};
use crate::base::offload::joined;
use crate::base::path::RelPath;
use crate::base::snapshot::Tally;
use crate::base::stat::Identity;
use crate::manifest::Change;
use crate::sync::Lane;
use crate::sync::brake::Brake;
use crate::sync::dedupe::Dedupe;
use crate::sync::file::{Ctx, Done, Message};
use crate::sync::going::Going;
use crate::sync::queue::Queue;
use crate::sync::removals::Removals;
use crate::tree::HintReceiver;

pub use root::root_trouble;
pub use rows::ManifestRows;

pub use control::{Answer, Control, Request, Said};
pub use folder::{Ended, Folder, Mode, Reason, Settings};

use audit::Audit;
use catalog::Catalog;
use contact::Contact;
use deletes::Deletes;
use events::{Event, control, hint};
use failures::Denied;
use janitor::Janitor;
use lease::Lease;
use outage::Outage;
use pulse::Pulses;
use rest::Rest;
use said::LastWord;
use scans::Scans;
use tell::Teller;
use trash::Trash;
use turn::{Turn, Turned};

/// How often a path may fail, or be found moving, in a run that has to end.
const PATIENCE: u32 = 4;
/// Jobs beyond the requests in flight, so that one is always read ahead.
const JOBS_AHEAD: u64 = 16;
/// Messages of jobs that wait for the loop; a job that finds it full waits.
const MESSAGES: usize = 1024;

/// What a commit carries, and what happens when it is durable.
struct Pending {
    changes: Vec<Change>,
    then: Then,
}

enum Then {
    Nothing,
    Finish(Box<Done>),
    Answer(tokio::sync::oneshot::Sender<()>),
    Decided(tokio::sync::oneshot::Sender<Answer>, u64),
    Mended(Box<control::Mending>, Vec<RelPath>),
    Contacted,
    Unparked,
}

struct Loop {
    ctx: Arc<Ctx>,
    settings: Settings,
    mode: Mode,
    random: fastrand::Rng,
    queue: Queue,
    hints: Option<HintReceiver>,
    messages: mpsc::Receiver<Message>,
    jobs: JoinSet<()>,
    turns: JoinSet<Turned>,
    turner: Arc<Turn>,
    /// What waits for the next commit.
    pending: VecDeque<Pending>,
    /// Who wants to copy the object of a path that is being looked at.
    askers: Vec<(RelPath, tokio::sync::oneshot::Sender<bool>)>,
    /// No turn before that: the manifest could not be written.
    turn_not_before: Option<Instant>,
    writing: Writing,
    scans: Scans,
    contact: Contact,
    outage: Outage,
    deletes: Deletes,
    overwrites: Brake,
    /// Paths that it has let through, and that have not been stored yet.
    may_overwrite: BTreeSet<RelPath>,
    trash: Trash,
    janitor: Janitor,
    audit: Audit,
    catalog: Catalog,
    lease: Lease,
    /// How the machine's clock is set, as far as the rows know.
    set: Setting,
    said: LastWord,
    /// The folder that the root was when it was last trusted.
    root: Option<Identity>,
    /// Where filesystems were ever seen mounted inside it, and which of them are not now.
    mounts: BTreeSet<RelPath>,
    mounts_away: Vec<RelPath>,
    /// Whether any file may have been known at the start.
    had_rows: bool,
    /// What the config said of the folder at its last start.
    config_before: Option<String>,
    /// Whether the root was looked at since the start, and found to be the right one.
    is_root_checked: bool,
    control: Option<mpsc::Receiver<Control>>,
    mends: Vec<control::Mending>,
    pulses: Pulses,
    teller: Teller,
    /// Keys that are looked at again, and when (wall clock, nanoseconds).
    ambiguous: BTreeMap<RelPath, i64>,
    /// Paths whose last attempt failed, and why.
    failing: BTreeMap<RelPath, String>,
    /// Those of them that are not tried again before they change.
    parked: BTreeSet<RelPath>,
    denied: Denied,
    /// Regular files inside the filter that cannot be synced as they are.
    unsyncable: BTreeMap<RelPath, String>,
    /// Since when a person has it start nothing new, wall clock, nanoseconds.
    paused_ns: Option<i64>,
    stop: CancellationToken,
    /// Until when what runs may end.
    stopping: Option<Instant>,
    /// Whether something that ran was dropped.
    dropped: bool,
    moved_before: u64,
    /// When something last moved, or nothing was wanted of the store.
    last_move: Instant,
}

/// Runs a folder's loop until it ends or `stop` is cancelled.
pub async fn run(folder: Folder, stop: CancellationToken) -> Ended {
    Box::pin(Loop::new(folder, stop).run()).await
}

impl Loop {
    fn new(folder: Folder, stop: CancellationToken) -> Self {
        let ((lease, store), said) = (Lease::new(&folder), LastWord::new(&folder));
        let snapshot = folder.snapshot();
        let Folder {
            row,
            settings,
            mode,
            clock,
            offload,
            ..
        } = folder;
        let (to_loop, messages) = mpsc::channel(MESSAGES);
        let now = clock.now();
        let scans = Scans::new(
            &folder.tree,
            &folder.manifest,
            row.id,
            &folder.filter,
            settings.rescan,
            now,
        );
        let ctx = Arc::new(Ctx {
            tree: folder.tree,
            store,
            manifest: folder.manifest,
            folder: row.id,
            keys: folder.keys,
            labels: folder.labels,
            limits: folder.limits,
            dedupe: Dedupe::default(),
            removals: Removals::default(),
            buffers: folder.buffers,
            clock,
            offload,
            policy: settings.policy(),
            sent_bytes: Arc::new(AtomicU64::new(0)),
            going: Going::default(),
            moved: Arc::new(AtomicU64::new(0)),
            to_loop,
            stop: stop.clone(),
        });
        let turner = Arc::new(Turn {
            ctx: ctx.clone(),
            filter: folder.filter,
            rest: Rest::new(&settings, mode),
        });
        Self {
            contact: Contact::new(row.contacted),
            outage: Outage::new(mode),
            deletes: Deletes::new(settings.on_delete, settings.delete_brake, settings.settle),
            overwrites: Brake::new(settings.overwrite_brake),
            may_overwrite: BTreeSet::new(),
            trash: Trash::new(row.trash_due_ns),
            janitor: Janitor::default(),
            audit: Audit::new(settings.audit, mode),
            catalog: Catalog::new(),
            lease,
            set: clock.setting(),
            said,
            root: row.root,
            mounts: row.mounts.into_iter().collect(),
            mounts_away: Vec::new(),
            had_rows: row.contacted,
            config_before: row.config,
            is_root_checked: false,
            control: folder.control,
            mends: Vec::new(),
            pulses: Pulses::new(),
            teller: Teller::new(snapshot, folder.snapshots, folder.happenings, now),
            settings,
            mode,
            random: folder.random,
            queue: Queue::new(settings.queue(mode)),
            hints: Some(folder.hints),
            messages,
            jobs: JoinSet::new(),
            turns: JoinSet::new(),
            turner,
            pending: VecDeque::new(),
            askers: Vec::new(),
            turn_not_before: None,
            writing: Writing::new(now),
            scans,
            ambiguous: BTreeMap::new(),
            failing: BTreeMap::new(),
            parked: BTreeSet::new(),
            paused_ns: None,
            denied: Denied::default(),
            unsyncable: BTreeMap::new(),
            stop,
            stopping: None,
            dropped: false,
            moved_before: 0,
            last_move: now.mono,
            ctx,
        }
    }

    async fn run(mut self) -> Ended {
        let recalled = async {
            self.recall_clock().await?;
            self.recall_parked().await?;
            self.recall().await
        };
        let recalled = recalled.await;
        if let Err(error) = recalled {
            return self.end(Reason::Manifest(error.to_string()));
        }
        loop {
            let now = self.ctx.clock.now();
            if let Some(reason) = self.advance(now) {
                return self.finish(reason).await;
            }
            let event = self.next_event(now).await;
            let now = self.ctx.clock.now();
            self.handle(event, now);
            // Whatever has piled up meanwhile shares the next commit.
            while let Ok(message) = self.messages.try_recv() {
                self.handle(Event::Message(message), now);
            }
        }
    }

    /// Starts what can be started; returns why the loop ends, if it does.
    fn advance(&mut self, now: Now) -> Option<Reason> {
        self.watch_clock();
        // Silence counts only while something is wanted of the store.
        let moved = self.ctx.moved.load(Ordering::Relaxed) + self.ctx.limits.held_back();
        if moved != self.moved_before || !self.wants_the_store(now) {
            self.moved_before = moved;
            self.last_move = now.mono;
        }
        self.start_leasing(now);
        if self.stopping.is_none() {
            self.start_scans(now);
            self.list_again(now);
            self.start_contact();
            self.start_probe(now);
            self.start_confirming(now);
            self.decide_deletes(now);
            self.start_emptying(now);
            self.start_cleaning(now);
            self.start_auditing(now);
        }
        self.start_cataloguing(now);
        self.start_turn(now);
        let reason = self.ending(now);
        self.publish(now);
        self.say(now);
        reason
    }

    fn ending(&self, now: Now) -> Option<Reason> {
        if self.stopping.is_some() {
            let is_over = !self.has_work_in_hand() && !self.is_cataloguing(now);
            return is_over.then_some(Reason::Stopped(!self.dropped));
        }
        if self.writing.is_gone {
            return Some(Reason::Manifest(self.teller.manifest_trouble()));
        }
        let Mode::Once { timeout } = self.mode else {
            return None;
        };
        if self.writing.failures >= PATIENCE {
            return Some(Reason::Manifest(self.teller.manifest_trouble()));
        }
        if let Some(why) = self.scans.is_hopeless() {
            return Some(Reason::Manifest(why.to_owned()));
        }
        if let Some(why) = self.scans.away() {
            return Some(Reason::Away(why.to_owned()));
        }
        if let Some(reason) = self.ends_without_lease(timeout, now) {
            return Some(reason);
        }
        if self.outage.is_final() && self.ctx.moved.load(Ordering::Relaxed) == 0 {
            return Some(Reason::Store(self.outage.why()));
        }
        if now.mono.saturating_duration_since(self.last_move) >= timeout {
            return Some(Reason::Store(self.silence(timeout)));
        }
        let is_over = self.is_level_but_for_the_catalog(now) && !self.is_cataloguing(now);
        is_over.then(|| {
            self.catalog_trouble()
                .map_or(Reason::Finished, Reason::Store)
        })
    }

    async fn next_event(&mut self, now: Now) -> Event {
        let wake = self.wake_at(now);
        let full = (
            self.queue.is_full(Lane::Backlog),
            self.queue.is_full(Lane::Live),
        );
        let takes_scans = self.stopping.is_none();
        tokio::select! {
            biased;
            () = self.stop.cancelled(), if self.stopping.is_none() => Event::Stop,
            Some(turned) = self.turns.join_next() => {
                joined(turned).map_or(Event::Tick, |turned| Event::Turned(Box::new(turned)))
            }
            Some(message) = self.messages.recv() => Event::Message(message),
            Some(probed) = self.outage.probes.join_next() => joined(probed).map_or(Event::Tick, Event::Probed),
            Some(emptied) = self.trash.tasks.join_next() => joined(emptied).map_or(Event::Tick, Event::Emptied),
            Some(cleaned) = self.janitor.tasks.join_next() => joined(cleaned).map_or(Event::Tick, Event::Cleaned),
            Some(audited) = self.audit.tasks.join_next() => joined(audited).map_or(Event::Tick, |report| Event::Audited(Box::new(report))),
            Some(catalogued) = self.catalog.tasks.join_next() => joined(catalogued).map_or(Event::Tick, |report| Event::Catalogued(Box::new(report))),
            Some(leased) = self.lease.tasks.join_next() => joined(leased).map_or(Event::Tick, |leased| Event::Leased(Box::new(leased))),
            Some(pulsed) = self.pulses.tasks.join_next() => joined(pulsed).map_or(Event::Tick, Event::Pulsed),
            asked = control(&mut self.control), if takes_scans => Event::Control(asked),
            () = self.teller.told(), if self.teller.has_news() => Event::Told,
            hint = hint(&mut self.hints), if takes_scans => hint.map_or(Event::HintsEnded, Event::Hint),
            report = self.scans.report(full.0, full.1), if takes_scans => Event::Scan(report),
            report = self.contact.report(), if takes_scans => Event::Contact(report),
            Some(ended) = self.jobs.join_next() => { joined(ended); Event::Tick }
            () = tokio::time::sleep_until(wake) => {
                if self.stopping.is_some_and(|until| until <= wake) { Event::GraceOver } else { Event::Tick }
            }
        }
    }

    /// Returns true if the root is the right one, as far as anybody knows.
    fn is_root_there(&self) -> bool {
        self.is_root_checked && self.scans.away().is_none()
    }

    fn handle(&mut self, event: Event, now: Now) {
        match event {
            Event::Stop => {
                self.stopping = Some(now.mono + self.settings.shutdown_grace);
                self.scans.stop();
                self.contact.stop();
                self.trash.stop();
                self.janitor.stop();
                self.audit.stop();
                self.catalog.hurry();
            }
            Event::GraceOver => {
                self.dropped |= !self.jobs.is_empty() || !self.catalog.tasks.is_empty();
                self.jobs.abort_all();
                self.catalog.give_up();
                // What cannot be written now is found again at the next start.
                self.stopping = Some(now.mono + self.settings.shutdown_grace);
                if self.writing.failures > 0 {
                    self.pending.clear();
                }
            }
            Event::Turned(turned) => self.turned(*turned, now),
            Event::Message(message) => self.message(message, now),
            Event::Hint(hint) => self.hint(hint, now),
            Event::HintsEnded => self.hints = None,
            Event::Scan(report) => self.scanned(report, now),
            Event::Contact(report) => self.contacted(report, now),
            Event::Probed(answer) => self.probed(answer, now),
            Event::Emptied(report) => self.emptied(report, now),
            Event::Cleaned(report) => self.cleaned(&report, now),
            Event::Audited(report) => self.audited(*report, now),
            Event::Catalogued(report) => self.catalogued(*report, now),
            Event::Leased(report) => self.leased(*report, now),
            Event::Control(asked) => self.asked(asked, now),
            Event::Pulsed(opened) => self.pulsed(opened),
            Event::Told | Event::Tick => {}
        }
    }

    async fn finish(mut self, reason: Reason) -> Ended {
        // A loop that ends in trouble drops what still runs; the open intents remember it.
        let is_cut = self.dropped || !self.jobs.is_empty() || !self.catalog.tasks.is_empty();
        self.jobs.shutdown().await;
        self.catalog.tasks.shutdown().await;
        while let Some(turned) = self.turns.join_next().await {
            let now = self.ctx.clock.now();
            if let Some(turned) = joined(turned) {
                self.turned(turned, now);
            }
        }
        self.jobs.shutdown().await;
        // What was cut off may still land: the next one has to wait for that.
        if !is_cut && !self.outage.is_on() {
            self.say_last().await;
            self.give_lease_back().await;
        }
        self.teller.flush().await;
        self.end(reason)
    }

    fn end(mut self, reason: Reason) -> Ended {
        self.ctx.limits.is_back(self.teller.name());
        let now = self.ctx.clock.now();
        self.publish_now(now);
        Ended {
            reason,
            last: self.teller.last(),
        }
    }

    fn tally(&mut self) -> &mut Tally {
        self.teller.tally()
    }
}
