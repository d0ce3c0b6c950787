//! First contact with a prefix: before anything is written there, it is listed once, so that what others left is adopted or
//! set aside, never overwritten unseen.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::agent::{Loop, Pending, Then};
use crate::base::clock::Now;
use crate::manifest::{Change, Remote};
use crate::store;
use crate::sync::Lane;

pub(super) struct Contact {
    stage: Stage,
    task: JoinSet<()>,
    failures: u32,
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
        }
    }

    pub fn is_done(&self) -> bool {
        matches!(self.stage, Stage::Done)
    }

    /// Returns true while it keeps a run that has to end from ending.
    pub fn is_running(&self) -> bool {
        matches!(self.stage, Stage::Running(_) | Stage::Ending)
    }

    pub fn next_at(&self) -> Option<Instant> {
        if let Stage::Wanted(at) = &self.stage {
            *at
        } else {
            None
        }
    }

    pub fn done(&mut self) {
        self.stage = Stage::Done;
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
    /// Begins the listing when there is something to send and it has not been done.
    pub(super) fn start_contact(&mut self) {
        let Stage::Wanted(not_before) = self.contact.stage else {
            return;
        };
        let now = self.ctx.clock.now();
        // What another owner would still add has to be seen.
        if !self.lease.is_held(now)
            || self.queue.is_empty()
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
                    let _ = sender.send(Report::End(Ok(()))).await;
                    return;
                }
            }
        });
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
