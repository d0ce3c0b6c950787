//! First contact with a prefix: before anything is written there, it is listed once, so that what others left is adopted or
//! set aside, never overwritten unseen.
//!
//! It is made anew after another agent has had the prefix: then our own rows are compared with what was listed, and one
//! whose object is another, or is missing, is believed no more. And once more when the last that the other may have sent
//! has landed: also a lost state folder's former life is such another.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::agent::{Loop, Pending, Then};
use crate::base::clock::Now;
use crate::base::path::RelPath;
use crate::manifest::{self, Change, Entry, Mark, Remote, State};
use crate::store::{self, Effect, ErrorKind};
use crate::sync::Lane;
use crate::sync::file::Ctx;
use crate::sync::plan;
use crate::tree::Touch;

/// Rows compared at once.
const ROWS: usize = 1000;

pub(super) struct Contact {
    stage: Stage,
    task: JoinSet<()>,
    failures: u32,
    /// Rows claim what another agent may have changed: it is made even if there is nothing to send.
    is_again: bool,
    /// It is made once more then.
    later: Option<Instant>,
}

enum Stage {
    /// Nothing has been asked yet, and not before that instant.
    Wanted(Option<Instant>),
    Running(mpsc::Receiver<Report>),
    /// Everything has been listed; the last commit is under way.
    Ending,
    Done,
}

/// What the listing found.
pub(super) enum Report {
    /// A page, to be made durable before the next one.
    Page(Vec<Remote>, oneshot::Sender<()>),
    /// Rows that agree with the listing, or do not, to be made durable before the next ones.
    Rows(Vec<Change>, oneshot::Sender<()>),
    /// The listing has ended.
    End(store::Result<()>),
}

impl Contact {
    pub fn new(is_done: bool) -> Self {
        let stage = if is_done {
            Stage::Done
        } else {
            Stage::Wanted(None)
        };
        Self {
            stage,
            task: JoinSet::new(),
            failures: 0,
            is_again: false,
            later: None,
        }
    }

    pub fn is_done(&self) -> bool {
        matches!(self.stage, Stage::Done)
    }

    /// Returns true while it keeps a run that has to end from ending.
    pub fn is_running(&self) -> bool {
        match self.stage {
            Stage::Running(_) | Stage::Ending => true,
            Stage::Wanted(_) => self.is_again,
            Stage::Done => false,
        }
    }

    pub fn next_at(&self) -> Option<Instant> {
        if let Stage::Wanted(at) = &self.stage {
            *at
        } else {
            None
        }
    }

    /// It is to be made once more, after what is going on now, and not before that instant.
    pub fn list_after(&mut self, at: Instant) {
        self.later = Some(at);
    }

    /// Returns when it is to be made once more.
    pub fn later_at(&self) -> Option<Instant> {
        self.later.filter(|_| self.is_done())
    }

    /// There are rows that may be wrong.
    pub fn wants_rows(&mut self) {
        self.is_again = true;
    }

    /// Another agent has had the prefix; returns true if what was known is looked at again.
    pub fn again(&mut self) -> bool {
        let is_new = !matches!(self.stage, Stage::Wanted(_));
        if is_new {
            self.is_again = true;
            self.task.abort_all();
            self.stage = Stage::Wanted(None);
        }
        is_new
    }

    /// Another agent has the prefix: what is listed now may change.
    pub fn interrupt(&mut self) {
        if matches!(self.stage, Stage::Running(_) | Stage::Ending) {
            self.task.abort_all();
            self.stage = Stage::Wanted(None);
        }
    }

    pub fn stop(&mut self) {
        self.task.abort_all();
    }

    /// Waits for the next report. Cancel-safe.
    pub async fn report(&mut self) -> Report {
        if let Stage::Running(reports) = &mut self.stage
            && let Some(report) = reports.recv().await
        {
            return report;
        }
        std::future::pending().await
    }
}

impl Loop {
    /// Returns true if there is something to send, be it only a link of the catalog, or rows that may be wrong.
    pub(super) fn wants_contact(&self) -> bool {
        let has_reason =
            !self.queue.is_empty() || self.contact.is_again || self.catalog.is_waiting();
        has_reason && !self.is_paused()
    }

    /// Has the bucket listed once more when the last that another agent may have sent has landed.
    pub(super) fn list_again(&mut self, now: Now) {
        if self.contact.later_at().is_none_or(|at| now.mono < at) || !self.lease.is_held(now) {
            return;
        }
        self.contact.later = None;
        self.contact.again();
        self.pending.push_back(Pending {
            changes: vec![Change::Recontact, Change::Mark(Mark::Recontact(None))],
            then: Then::Nothing,
        });
    }

    /// Takes from when on the bucket is to be listed once more. One that is due is made before a run that has to end ends.
    pub(super) fn recall_contact(&mut self, recontact_ns: Option<i64>, now: Now) {
        let Some(at_ns) = recontact_ns else {
            return;
        };
        match u64::try_from(at_ns.saturating_sub(now.wall_ns)) {
            Ok(left) if left > 0 => self
                .contact
                .list_after(now.mono + Duration::from_nanos(left)),
            _ => {
                self.contact.again();
                self.contact.wants_rows();
                self.pending.push_back(Pending {
                    changes: vec![Change::Recontact, Change::Mark(Mark::Recontact(None))],
                    then: Then::Nothing,
                });
            }
        }
    }

    /// Begins the listing when there is something to send and it has not been done.
    pub(super) fn start_contact(&mut self) {
        let Stage::Wanted(not_before) = self.contact.stage else {
            return;
        };
        let now = self.ctx.clock.now();
        // What another owner would still add has to be seen.
        if !self.lease.is_held(now)
            || !self.wants_contact()
            || !self.jobs.is_empty()
            || not_before.is_some_and(|at| now.mono < at)
        {
            return;
        }
        let (sender, reports) = mpsc::channel(1);
        self.contact.stage = Stage::Running(reports);
        let ctx = self.ctx.clone();
        self.contact.task.spawn(async move {
            let mut token = None;
            loop {
                let permit = ctx.limits.request(Lane::Live).await;
                let page = ctx.store.list(ctx.keys.prefix(), token).await;
                drop(permit);
                let page = match page {
                    Ok(page) => page,
                    Err(error) => {
                        let _ = sender.send(Report::End(Err(error))).await;
                        return;
                    }
                };
                ctx.moved.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let mut found = Vec::new();
                for object in page.objects {
                    if !ctx.keys.is_reserved(&object.key) {
                        found.push(Remote {
                            key: object.key,
                            size: object.size,
                            etag: object.etag,
                        });
                    }
                }
                let (durable, answer) = oneshot::channel();
                if !found.is_empty()
                    && (sender.send(Report::Page(found, durable)).await.is_err()
                        || answer.await.is_err())
                {
                    return;
                }
                token = page.next;
                if token.is_none() {
                    break;
                }
            }
            let mut after = RelPath::root();
            loop {
                let (from, last) = (ctx.clone(), after);
                let compared = ctx.offload.run(move || compare(&from, &last)).await;
                let (changes, last) = match compared {
                    Ok(Some(compared)) => compared,
                    Ok(None) => {
                        let _ = sender.send(Report::End(Ok(()))).await;
                        return;
                    }
                    Err(error) => {
                        let (key, why) = (ctx.keys.prefix(), error.to_string());
                        let error =
                            store::Error::new(ErrorKind::Busy, "compare", key, Effect::None, &why);
                        let _ = sender.send(Report::End(Err(error))).await;
                        return;
                    }
                };
                after = last;
                let (durable, answer) = oneshot::channel();
                if !changes.is_empty()
                    && (sender.send(Report::Rows(changes, durable)).await.is_err()
                        || answer.await.is_err())
                {
                    return;
                }
            }
        });
    }

    /// That it is over is durable.
    pub(super) fn has_contact(&mut self) {
        if !matches!(self.contact.stage, Stage::Ending) {
            return;
        }
        self.contact.stage = Stage::Done;
        self.contact.is_again = false;
    }

    pub(super) fn contacted(&mut self, report: Report, now: Now) {
        match report {
            Report::Page(found, durable) => {
                let changes = vec![Change::RemoteFound(found)];
                self.pending.push_back(Pending {
                    changes,
                    then: Then::Answer(durable),
                });
            }
            Report::Rows(changes, durable) => {
                for change in &changes {
                    // Looked at when contact is over, and so after this is durable.
                    if let Change::Put(row) = change
                        && !self.queue.touch(row.path.clone(), Touch::Scan, 0, now)
                    {
                        self.scans.lost(now);
                    }
                }
                self.pending.push_back(Pending {
                    changes,
                    then: Then::Answer(durable),
                });
            }
            Report::End(Ok(())) => {
                self.contact.stage = Stage::Ending;
                self.store_works(now);
                let changes = vec![Change::Contacted];
                self.pending.push_back(Pending {
                    changes,
                    then: Then::Contacted,
                });
            }
            Report::End(Err(error)) => {
                self.contact.failures += 1;
                let pause = Duration::from_secs(1 << self.contact.failures.min(5));
                self.contact.stage = Stage::Wanted(Some(now.mono + pause));
                if error.is_everyones() {
                    let why = error.to_string();
                    self.outage.suspect(error.kind, &why);
                    self.begin_outage(error.kind, &why, now);
                } else {
                    tracing::warn!(folder = %self.teller.name(), "could not look at what is in the bucket: {error}");
                }
            }
        }
    }
}

/// Compares the rows after `after` with what was listed; returns what follows and the last of them, `None` if there is none.
fn compare(ctx: &Ctx, after: &RelPath) -> Result<Option<(Vec<Change>, RelPath)>, manifest::Error> {
    let rows = ctx
        .manifest
        .page(ctx.folder, &RelPath::root(), after, ROWS)?;
    let Some(last) = rows.last().map(|row| row.path.clone()) else {
        return Ok(None);
    };
    let mut changes = Vec::new();
    for row in rows {
        let Ok(key) = ctx.keys.key(&row.path) else {
            continue;
        };
        let remote = ctx.manifest.remote(ctx.folder, &key)?;
        compare_row(row, remote, &mut changes);
    }
    Ok(Some((changes, last)))
}

/// Compares a row with what was listed under its key.
fn compare_row(row: Entry, remote: Option<Remote>, changes: &mut Vec<Change>) {
    let is_ours = |remote: &Remote| {
        let stored = row.stored.as_ref();
        stored.is_some_and(|old| old.etag == remote.etag && old.stat.size == remote.size)
    };
    match remote {
        Some(remote) if is_ours(&remote) => changes.push(Change::RemoteTaken(remote.key)),
        // Nobody has a file for it: if one comes, its key is looked at first.
        _ if row.state == State::Kept => changes.push(Change::Forget(row.path)),
        _ if plan::certain(&row).is_some() => changes.push(Change::Put(Entry {
            state: State::Unsent,
            ..row
        })),
        _ => {}
    }
}
