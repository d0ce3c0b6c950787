//! The loop's part in the catalog: when what has happened is written into the bucket.
//!
//! - Overview: a minute after the first row of the log, or when a link is full, and before the loop ends, everything that
//!   waits is published, by one task at a time; `desk` writes the links. Nothing waits: nothing is asked and nothing is sent.
//! - Order: a record is logged with the row that it is about, and published after that; what is published is forgotten with
//!   the note of its link. Files never wait for it.
//! - Errors and retries: tried again at growing pauses, for ever by a loop that stays, some times by one that ends. It says
//!   so when that begins and when it ends. In an outage nothing is tried.
//! - Cancellation: at a stop it has the grace that jobs have. What is cut off then may have landed, and is found by the next
//!   start under its own number.
//! - After a crash: the log is still there.

mod desk;

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::agent::catalog::desk::{Desk, Failure};
use crate::agent::outage::CALM_MOST;
use crate::agent::{Loop, Mode, PATIENCE};
use crate::base::backoff;
use crate::base::clock::Now;
use crate::catalog::RECORDS_MOST;
use crate::manifest::Waiting;
use crate::store::fence::NOT_OURS;

/// How long what has happened waits for more: a link a minute is half a million in a year of changes without rest, and a
/// machine that is lost takes a minute of history with it.
const EVERY: Duration = Duration::from_secs(60);

pub(super) struct Catalog {
    /// The task that writes; at most one.
    pub tasks: JoinSet<Report>,
    /// What writes, unless it is at it.
    desk: Option<Desk>,
    /// When what waits is to be written; `None`: nothing waits.
    due: Option<Instant>,
    /// How many rows wait, as far as the loop knows.
    records: u64,
    /// Rows that were logged while the task was at work: it may not have seen them.
    meanwhile: u64,
    not_before: Option<Instant>,
    failures: u32,
    /// Why it could not be written; since when people know.
    pub trouble: Option<String>,
    is_told: bool,
    /// A loop that ends does not try again.
    is_given_up: bool,
}

/// What came of an attempt.
pub(super) struct Report {
    desk: Desk,
    /// Links that were written.
    links: u64,
    result: Result<(), Failure>,
}

impl Catalog {
    pub fn new() -> Self {
        Self {
            tasks: JoinSet::new(),
            desk: Some(Desk::default()),
            due: None,
            records: 0,
            meanwhile: 0,
            not_before: None,
            failures: 0,
            trouble: None,
            is_told: false,
            is_given_up: false,
        }
    }

    /// Takes what a former run has left.
    pub fn recall(&mut self, waiting: Waiting, now: Now) {
        self.records = waiting.records;
        self.due = (waiting.records > 0 || waiting.snapshot).then_some(now.mono);
    }

    /// Takes note that rows were logged.
    pub fn logged(&mut self, records: usize, now: Now) {
        if records == 0 {
            return;
        }
        self.records += records as u64;
        if self.desk.is_none() {
            self.meanwhile += records as u64;
        }
        let due = *self.due.get_or_insert(now.mono + EVERY);
        if self.records >= RECORDS_MOST as u64 {
            self.due = Some(due.min(now.mono));
        }
    }

    /// The loop is to end: what failed before gets one more try, at once.
    pub fn hurry(&mut self) {
        self.not_before = None;
    }

    /// There is no more time: drops what is being written. It may have landed; the next start finds it.
    pub fn give_up(&mut self) {
        self.tasks.abort_all();
        self.is_given_up = true;
    }

    /// Returns true if anything waits to be written.
    pub fn is_waiting(&self) -> bool {
        self.due.is_some()
    }

    fn next_at(&self) -> Option<Instant> {
        let due = self.due.filter(|_| self.tasks.is_empty())?;
        Some(self.not_before.map_or(due, |at| due.max(at)))
    }
}

impl Loop {
    /// Publishes what waits when it is time.
    pub(super) fn start_cataloguing(&mut self, now: Now) {
        let is_last = self.stopping.is_some() || self.is_level_but_for_the_catalog(now);
        let may = self.may_catalog(now);
        let catalog = &mut self.catalog;
        if is_last {
            // There is nothing more to wait for.
            catalog.due = catalog.due.map(|due| due.min(now.mono));
        }
        if !may || catalog.next_at().is_none_or(|at| at > now.mono) {
            return;
        }
        let Some(mut desk) = catalog.desk.take() else {
            return;
        };
        catalog.meanwhile = 0;
        let ctx = self.ctx.clone();
        catalog.tasks.spawn(async move {
            let mut links = 0;
            let result = desk.publish(&ctx, &mut links).await;
            Report {
                desk,
                links,
                result,
            }
        });
    }

    /// Returns true if a run that has to end has nothing more to do but to say in the bucket what it did.
    pub(super) fn is_level_but_for_the_catalog(&self, now: Now) -> bool {
        self.mode != Mode::Forever
            && !self.has_work_in_hand()
            && self.queue.is_empty()
            && self.scans.is_done()
            && !self.contact.is_running()
            && self.deletes.is_done()
            && !self.trash.is_running()
            && !self.is_cleaning(now)
            && self.lease.is_settled()
    }

    /// Returns true if nothing but time keeps it from being written.
    fn may_catalog(&self, now: Now) -> bool {
        self.catalog.tasks.is_empty()
            && !self.catalog.is_given_up
            && self.lease.is_held(now)
            && !self.outage.is_on()
            && self.outage.calm_until(now).is_none()
            && self.contact.is_done()
            && (self.stopping.is_none() || !self.has_work_in_hand())
    }

    /// Returns true while a loop that ends has to wait for it.
    pub(super) fn is_cataloguing(&self, now: Now) -> bool {
        let catalog = &self.catalog;
        if !catalog.tasks.is_empty() {
            return true;
        }
        if self.stopping.is_some() {
            return catalog.due.is_some() && self.may_catalog(now);
        }
        catalog.due.is_some() && !catalog.is_given_up && !self.outage.is_on()
    }

    /// Says why it is not written, of a loop that has nothing else to do.
    pub(super) fn catalog_trouble(&self) -> Option<String> {
        self.catalog.due?;
        let why = match &self.catalog.trouble {
            Some(why) => why.clone(),
            None => self.outage.why(),
        };
        let is_all_there = self.failing.is_empty()
            && self.unsyncable.is_empty()
            && self.scans.unreadable() == 0
            && self.deletes.held.all() == 0;
        Some(if is_all_there {
            format!("every file is in the bucket, but the catalog of them is not: {why}")
        } else {
            why
        })
    }

    pub(super) fn catalog_wake(&self, now: Now) -> Option<Instant> {
        self.catalog.next_at().filter(|_| self.may_catalog(now))
    }

    pub(super) fn catalogued(&mut self, report: Report, now: Now) {
        let Report {
            desk,
            links,
            result,
        } = report;
        self.ctx
            .moved
            .fetch_add(links, std::sync::atomic::Ordering::Relaxed);
        let catalog = &mut self.catalog;
        catalog.desk = Some(desk);
        let folder = self.teller.name();
        match result {
            Ok(()) => {
                let meanwhile = std::mem::take(&mut catalog.meanwhile);
                catalog.records = meanwhile;
                catalog.due = (meanwhile > 0).then(|| now.mono + EVERY);
                (catalog.failures, catalog.not_before, catalog.trouble) = (0, None, None);
                if std::mem::take(&mut catalog.is_told) {
                    tracing::info!(folder, "the catalog is written again");
                }
            }
            // It goes on when the lease is held again.
            Err(Failure::Store(error)) if error.code == NOT_OURS => {}
            Err(failure) => {
                catalog.failures += 1;
                let (first, longest) = self.mode.retry();
                let pause = backoff::pause(catalog.failures, first, longest, &mut self.random);
                let asked = match &failure {
                    Failure::Store(error) => error.retry_after.unwrap_or_default(),
                    _ => Duration::ZERO,
                };
                catalog.not_before = Some(now.mono + pause.max(asked.min(CALM_MOST)));
                catalog.is_given_up = self.stopping.is_some()
                    || (self.mode != Mode::Forever && catalog.failures >= PATIENCE);
                let why = format!("could not write the catalog: {failure}");
                if !catalog.is_told && !self.outage.is_on() {
                    catalog.is_told = true;
                    let next = if catalog.is_given_up {
                        "the next run writes it"
                    } else {
                        "it is tried again, and files go on being sent"
                    };
                    tracing::warn!(folder, "{why}; {next}");
                }
                catalog.trouble = Some(why);
            }
        }
    }
}
