//! What a folder's loop says: snapshots, happenings, and log lines that do not repeat.

use std::collections::{BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::agent::rate::Rate;
use crate::agent::{Loop, Mode};
use crate::base::clock::Now;
use crate::base::path::RelPath;
use crate::base::policy::OnDelete;
use crate::base::snapshot::{FolderSnapshot, Happening, Tally, What};
use crate::manifest::{Mark, Marks};
use crate::tree::report::Watching;

/// The shortest time between two snapshots.
const EVERY: Duration = Duration::from_millis(200);
/// How soon a snapshot that is not level is made anew although nothing happened: its lag grows.
const REFRESH: Duration = Duration::from_secs(1);
/// Happenings that wait for a slow reader before new work waits too.
const BEHIND: usize = 10_000;
/// Files on their way that are named at most: as many as a page shows.
const NAMED: usize = 20;
/// Names that were reported as skipped and are remembered, so that each is reported once.
const REMEMBERED: usize = 10_000;

pub(super) struct Teller {
    snapshot: FolderSnapshot,
    snapshots: watch::Sender<FolderSnapshot>,
    happenings: Option<mpsc::Sender<Happening>>,
    outbox: VecDeque<Happening>,
    skipped: BTreeSet<RelPath>,
    published: Option<Instant>,
    is_stale: bool,
    manifest_trouble: String,
    started: Now,
    rate: Rate,
}

impl Teller {
    pub fn new(
        snapshot: FolderSnapshot,
        snapshots: watch::Sender<FolderSnapshot>,
        happenings: Option<mpsc::Sender<Happening>>,
        started: Now,
    ) -> Self {
        Self {
            snapshot,
            snapshots,
            happenings,
            outbox: VecDeque::new(),
            skipped: BTreeSet::new(),
            published: None,
            is_stale: true,
            manifest_trouble: String::new(),
            started,
            rate: Rate::default(),
        }
    }

    pub fn started(&self) -> Instant {
        self.started.mono
    }

    pub fn is_level(&self) -> bool {
        self.snapshot.level
    }

    pub fn name(&self) -> &str {
        &self.snapshot.name
    }

    pub fn tally(&mut self) -> &mut Tally {
        &mut self.snapshot.tally
    }

    /// Events were lost.
    pub fn lost(&mut self) {
        self.snapshot.lost += 1;
    }

    /// A full scan found that many changes that the watcher should have told of.
    pub fn missed(&mut self, changes: u64) {
        self.snapshot.missed += changes;
    }

    pub fn last(&self) -> FolderSnapshot {
        self.snapshot.clone()
    }

    pub fn scanned(&mut self, started_ns: i64) {
        self.snapshot.last_scan_ns = Some(started_ns);
        self.snapshot.rescans += 1;
    }

    /// What failed is tried again.
    pub fn retries(&mut self) {
        self.snapshot.retries += 1;
    }

    /// Takes when what proves that the bucket is right was done last.
    pub fn proven(&mut self, marks: &Marks) {
        self.snapshot.last_audit_ns = marks.audited_ns;
        (self.snapshot.last_verify, self.snapshot.last_drill) = (marks.verified, marks.drilled);
    }

    /// The same, of one of them.
    pub fn marked(&mut self, mark: Mark) {
        match mark {
            Mark::Audited(at_ns) => self.snapshot.last_audit_ns = Some(at_ns),
            Mark::Verified(last) => self.snapshot.last_verify = Some(last),
            Mark::Drilled(last) => self.snapshot.last_drill = Some(last),
            Mark::AuditsFrom(_) | Mark::Paused(_) | Mark::Clock(_) | Mark::Recontact(_) => {}
        }
    }

    /// The first scan has listed the root, and so armed it, or has found it away.
    pub fn begun(&mut self) {
        self.snapshot.begun = true;
    }

    pub fn manifest_failed(&mut self, why: &str, failures: u32) {
        why.clone_into(&mut self.manifest_trouble);
        if failures == 1 {
            tracing::error!(folder = %self.name(), "could not {why}; nothing new is sent until that works");
        }
    }

    pub fn manifest_works(&mut self) {
        tracing::info!(folder = %self.name(), "the manifest can be written again");
    }

    pub fn manifest_trouble(&self) -> String {
        self.manifest_trouble.clone()
    }

    pub fn tell(
        &mut self,
        what: What,
        path: &RelPath,
        key: Option<String>,
        bytes: u64,
        error: Option<String>,
    ) {
        if self.happenings.is_some() {
            let (folder, path) = (self.snapshot.name.clone(), path.clone());
            self.outbox.push_back(Happening {
                what,
                folder,
                path,
                key,
                bytes,
                error,
            });
        }
    }

    pub fn has_news(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Returns true if a reader is so slow that new work has to wait.
    pub fn is_behind(&self) -> bool {
        self.outbox.len() >= BEHIND
    }

    /// Hands one happening over. Cancel-safe.
    pub async fn told(&mut self) {
        let Some(happenings) = &self.happenings else {
            return;
        };
        if let Ok(place) = happenings.reserve().await {
            if let Some(happening) = self.outbox.pop_front() {
                place.send(happening);
            }
            return;
        }
        // Nobody listens any more.
        self.outbox.clear();
        self.happenings = None;
    }

    pub async fn flush(&mut self) {
        while self.has_news() {
            self.told().await;
        }
    }

    pub fn next_at(&self) -> Option<Instant> {
        if self.is_stale {
            self.published.map(|at| at + REFRESH)
        } else {
            None
        }
    }
}

impl Loop {
    /// Publishes a snapshot, not too often.
    pub(super) fn publish(&mut self, now: Now) {
        if self
            .teller
            .published
            .is_some_and(|at| now.mono < at + EVERY)
        {
            self.teller.is_stale = true;
            return;
        }
        self.publish_now(now);
    }

    pub(super) fn publish_now(&mut self, now: Now) {
        let mut snapshot = self.teller.snapshot.clone();
        let (mut oldest, mut bytes, mut queued) = (now.wall_ns, 0_u64, 0_u64);
        // A run that ends does not wait for that, and says beside it which keys are to be looked at again.
        let mut is_sure = self.mode != Mode::Forever || self.ambiguous.is_empty();
        for job in self.queue.jobs() {
            oldest = oldest.min(job.since.wall_ns);
            if job.is_check {
                // It may not be what it seems: it is to be looked at once more.
                is_sure = false;
                continue;
            }
            bytes = bytes.saturating_add(job.size);
            queued += 1;
        }
        snapshot.queued_files = queued;
        snapshot.queued_bytes = bytes;
        snapshot.sent_bytes = self.ctx.sent_bytes.load(Ordering::Relaxed);
        self.tell_speed(&mut snapshot, now);
        snapshot.parked = self.parked.len() as u64;
        snapshot.paused_ns = self.paused_ns;
        snapshot.failed = self.failing.len() as u64 + self.scans.unreadable();
        snapshot.unsyncable = self.unsyncable.len() as u64;
        snapshot.held = self.deletes.held.all();
        snapshot.deletes = if self.settings.on_delete == OnDelete::Keep {
            0
        } else {
            self.deletes.waiting()
        };
        snapshot.ambiguous = self.ambiguous.len() as u64;
        snapshot.ambiguous_until_ns = self.ambiguous.values().copied().max().unwrap_or(0);
        snapshot.outage = self.outage.since();
        snapshot.lease = self.lease.words(now);
        snapshot.lease_due = self
            .lease
            .answer_due(now)
            .filter(|_| self.stopping.is_none());
        snapshot.runs = true;
        (snapshot.lease_holder, snapshot.lease_until_ns) = self.lease.owner(now);
        snapshot.lease_is_advisory = self.lease.is_advisory(now);
        snapshot.away = self.scans.away().map(str::to_owned);
        snapshot.brake = self.brake();
        snapshot.catalog.clone_from(&self.catalog.trouble);
        let is_complete = self.scans.sees();
        snapshot.level = is_complete
            && !self.lease.is_anothers()
            && !self.contact.is_running()
            && snapshot.queued_files == 0
            && is_sure
            && self.pending.is_empty()
            && self.jobs.is_empty()
            && snapshot.failed == 0
            && snapshot.unsyncable == 0
            && snapshot.held == 0
            && self.deletes.is_done();
        if !is_complete {
            // A change that no event told is as old as the last scan that would have found it, at most.
            oldest = oldest.min(snapshot.last_scan_ns.unwrap_or(self.teller.started.wall_ns));
        }
        let lag_ns = if snapshot.level {
            0
        } else {
            now.wall_ns.saturating_sub(oldest)
        };
        snapshot.lag_seconds = u64::try_from(lag_ns / 1_000_000_000).unwrap_or(0);
        self.tell_watches(&mut snapshot);
        let reads = self.ctx.tree.reads();
        snapshot.reads_disturbed = reads.refused + reads.broken;
        snapshot.reads_unguarded = reads.unavailable;
        // What was sent lately becomes less with time.
        self.teller.is_stale = !snapshot.level || snapshot.rate_bytes_per_second > 0;
        self.teller.snapshot = snapshot;
        self.teller.published = Some(now.mono);
        let said = &self.teller.snapshot;
        // Counts and times go straight into our own copy; news is what the readers have not seen. A lease that is renewed
        // is none: a folder that rests would have its status written every few minutes.
        self.teller.snapshots.send_if_modified(|known| {
            known.lease_due = said.lease_due;
            let is_news = known != said;
            if is_news {
                known.clone_from(said);
            }
            is_news
        });
    }

    /// Says how fast it goes, and what is on its way.
    fn tell_speed(&mut self, snapshot: &mut FolderSnapshot, now: Now) {
        let going = &self.ctx.going;
        let rate = self.teller.rate.at(going.bytes_out(), now.mono);
        let left = snapshot.queued_bytes.saturating_sub(going.bytes_done());
        snapshot.rate_bytes_per_second = rate;
        snapshot.seconds_left = match (snapshot.queued_files, snapshot.queued_bytes) {
            (0, _) => Some(0),
            // Of what was only told of nobody has looked at the size yet.
            (_, 0) => None,
            _ => left.checked_div(rate),
        };
        snapshot.going_up = going.largest(NAMED);
    }

    /// Says what is held back, and why.
    pub(super) fn brake(&self) -> Option<String> {
        let held = self.deletes.held;
        let mut words = Vec::new();
        if let Some(why) = self.scans.away() {
            words.push(format!("away: {why}"));
        }
        if held.deletes > 0 {
            let why = self.deletes.why;
            words.push(format!("deletes: {} held, {why}", held.deletes));
        }
        if held.overwrites > 0 {
            let why = "more than the overwrite brake allows";
            words.push(format!("overwrites: {} held, {why}", held.overwrites));
        }
        (!words.is_empty()).then(|| words.join("; "))
    }

    fn tell_watches(&self, snapshot: &mut FolderSnapshot) {
        if self.hints.is_none() {
            "off".clone_into(&mut snapshot.watch);
            return;
        }
        let mut report = self.ctx.tree.watch_report();
        let is_native = matches!(report.mode, Watching::Native | Watching::Both(_));
        snapshot.watches_used = is_native.then_some(report.watched as u64);
        snapshot.watches_allowed = report.allowed.filter(|_| is_native);
        // What is on record as mounted, and what went while we ran.
        report.away.extend(self.mounts_away.iter().cloned());
        report.away.sort();
        report.away.dedup();
        let mut words = report.to_string();
        let unreadable = self.scans.unreadable();
        if unreadable > 0 {
            let _ = write!(words, "; unreadable: {unreadable}");
        }
        snapshot.watch = words;
    }

    /// A path has no trouble any more.
    pub(super) fn is_well(&mut self, path: &RelPath) {
        if self.failing.remove(path).is_some() {
            tracing::info!(folder = %self.teller.name(), %path, "a file that failed is level now");
        }
        self.parked.remove(path);
        self.unsyncable.remove(path);
    }

    pub(super) fn skipped(&mut self, path: &RelPath, why: &str) {
        if self.teller.skipped.len() >= REMEMBERED || !self.teller.skipped.insert(path.clone()) {
            return;
        }
        self.tally().skipped += 1;
        tracing::debug!(folder = %self.teller.name(), %path, "skipped: {why}");
        self.teller
            .tell(What::Skipped, path, None, 0, Some(why.to_owned()));
    }

    /// A regular file that belongs in the bucket cannot get there as it is.
    pub(super) fn cannot_sync(&mut self, path: &RelPath, why: &str) {
        self.failing.remove(path);
        self.parked.remove(path);
        let named = self.unsyncable.get(path);
        let is_said = named.is_some_and(|before| before == why);
        if is_said || (named.is_none() && self.unsyncable.len() >= REMEMBERED) {
            return;
        }
        self.unsyncable.insert(path.clone(), why.to_owned());
        tracing::warn!(folder = %self.teller.name(), %path, "could not sync the file: {why}");
        self.teller
            .tell(What::Skipped, path, None, 0, Some(why.to_owned()));
    }
}
