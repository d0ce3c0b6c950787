//! Multipart uploads that nobody will go on with: given up, and tried again until the store has them no more.
//!
//! At the start, once a day, and when a path with an open upload has come to its end. An upload is left alone while its file
//! is as it was, is not in the bucket yet, and the upload has come on within a day: a job goes on with it. What is given up
//! is ours, and its path is held like the source of a copy meanwhile, so that no job of it is at work.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::agent::Loop;
use crate::agent::turn::is_gone;
use crate::base::clock::Now;
use crate::base::path::RelPath;
use crate::base::stat::{Identity, Kind};
use crate::manifest::{self, Change, Cut, State, Upload};
use crate::sync::file::{self, Ctx, Message};
use crate::tree::filter::Filter;

/// How often all are looked at.
const EVERY: Duration = Duration::from_secs(24 * 3600);
/// Without a part for so long an upload is given up, nanoseconds: the store bills what it has.
const OLD_NS: i64 = 24 * 3600 * 1_000_000_000;
/// The first pause after a failure; doubled with each, up to [`LONGEST`].
const RETRY: Duration = Duration::from_secs(30);
/// The longest pause after a failure.
const LONGEST: Duration = Duration::from_secs(600);

#[derive(Default)]
pub(super) struct Janitor {
    pub tasks: JoinSet<Report>,
    /// Every upload that is on record, and its path.
    open: BTreeMap<String, RelPath>,
    due: Option<Instant>,
    failures: u32,
}

/// What is left of what should go.
#[derive(Default)]
pub(super) struct Report {
    /// Something could not be given up.
    failed: bool,
    /// When something has to be looked for once more, or will be too old (wall clock, nanoseconds).
    again_ns: Option<i64>,
}

impl Janitor {
    /// Takes what a former run has left.
    pub fn recall(&mut self, uploads: Vec<Upload>, now: Now) {
        let uploads = uploads.into_iter();
        self.open
            .extend(uploads.map(|upload| (upload.id, upload.path)));
        self.due = (!self.open.is_empty()).then_some(now.mono);
    }

    /// Takes note of which uploads are on record.
    pub fn see(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::UploadBegun(upload) => {
                    let (path, key) = (upload.path.clone(), upload.key.clone());
                    let asked = Upload::asked(path, key, upload.begun_at_ns);
                    self.open.remove(&asked.id);
                    self.open.insert(upload.id.clone(), upload.path.clone());
                }
                Change::UploadEnded(id) => drop(self.open.remove(id)),
                _ => {}
            }
        }
    }

    /// A path has come to an end: what is open of it serves nobody.
    pub fn is_settled(&mut self, path: &RelPath, now: Now) {
        if self.open.values().any(|open| open == path) {
            self.due = Some(now.mono);
        }
    }

    pub fn stop(&mut self) {
        self.tasks.abort_all();
    }

    fn pause(&self) -> Duration {
        RETRY.saturating_mul(1 << self.failures.min(8)).min(LONGEST)
    }
}

impl Loop {
    /// Looks at the open uploads when it is time.
    pub(super) fn start_cleaning(&mut self, now: Now) {
        if self.janitor.open.is_empty() {
            // Whatever begins from now on is looked at in a day, if it has not ended by then.
            self.janitor.due = None;
            return;
        }
        let due = *self.janitor.due.get_or_insert(now.mono + EVERY);
        if due > now.mono || !self.may_clean(now) {
            return;
        }
        self.janitor.due = None;
        let work = Work {
            ctx: self.ctx.clone(),
            filter: self.turner.filter.clone(),
            root: self.root,
        };
        self.janitor.tasks.spawn(work.run());
    }

    fn may_clean(&self, now: Now) -> bool {
        self.janitor.tasks.is_empty()
            && !self.is_paused()
            && self.is_root_there()
            && (!self.outage.is_on() || self.outage.is_full())
            && self.lease.is_held(now)
    }

    /// Returns true while a run that ends has to wait for it.
    pub(super) fn is_cleaning(&self, now: Now) -> bool {
        let is_due = self.janitor.due.is_some_and(|due| due <= now.mono);
        !self.janitor.tasks.is_empty() || (is_due && self.may_clean(now))
    }

    pub(super) fn janitor_wake(&self, now: Now) -> Option<Instant> {
        self.janitor.due.filter(|_| self.may_clean(now))
    }

    pub(super) fn cleaned(&mut self, report: &Report, now: Now) {
        let janitor = &mut self.janitor;
        let mut next = now.mono + EVERY;
        if report.failed {
            next = now.mono + janitor.pause();
            janitor.failures += 1;
        } else {
            janitor.failures = 0;
        }
        if let Some(again_ns) = report.again_ns {
            let left = u64::try_from(again_ns.saturating_sub(now.wall_ns)).unwrap_or(0);
            next = next.min(now.mono + Duration::from_nanos(left));
        }
        // A path that has ended meanwhile may have made it due already.
        janitor.due = Some(janitor.due.map_or(next, |due| due.min(next)));
    }
}

/// One look at all open uploads.
struct Work {
    ctx: Arc<Ctx>,
    filter: Arc<Filter>,
    /// The folder that the root has to be before anything below it is believed gone.
    root: Option<Identity>,
}

impl Work {
    async fn run(self) -> Report {
        let work = Arc::new(self);
        let mut report = Report::default();
        let Ok((over, again_ns)) = work.over(None).await else {
            report.failed = true;
            return report;
        };
        report.again_ns = again_ns;
        for upload in over {
            let path = upload.path.clone();
            let (granted, answer) = oneshot::channel();
            let asked = Message::Source {
                path: path.clone(),
                granted,
            };
            let is_asked = work.ctx.to_loop.send(asked).await.is_ok();
            if !is_asked || answer.await != Ok(true) {
                // A job of it runs or is about to: that one goes on with it or gives it up.
                report.failed = true;
                continue;
            }
            work.give_up(&upload, &mut report).await;
            let _ = work.ctx.to_loop.send(Message::Release(path)).await;
        }
        report
    }

    /// Gives one up whose path is held, if that is still right.
    async fn give_up(self: &Arc<Self>, upload: &Upload, report: &mut Report) {
        let still = self.over(Some(upload.path.clone())).await;
        let is_over = still.is_ok_and(|(still, _)| still.iter().any(|one| one.id == upload.id));
        if !is_over {
            return;
        }
        match file::give_up(&self.ctx, upload).await {
            Ok(None) => {}
            Ok(Some(again_ns)) => {
                let sooner = report.again_ns.into_iter().chain([again_ns]).min();
                report.again_ns = sooner;
            }
            Err(error) => {
                report.failed = true;
                tracing::debug!(%error, "could not give up an unfinished upload; it is tried again");
            }
        }
    }

    /// Returns the uploads, all or those of one path, that nobody will go on with, and when the first of the others will be
    /// too old (wall clock, nanoseconds).
    async fn over(
        self: &Arc<Self>,
        path: Option<RelPath>,
    ) -> Result<(Vec<Upload>, Option<i64>), manifest::Error> {
        let work = self.clone();
        let judge = move || {
            let (manifest, folder) = (&work.ctx.manifest, work.ctx.folder);
            let uploads = match &path {
                Some(path) => manifest.uploads_of(folder, path)?,
                None => manifest.uploads(folder)?,
            };
            let now_ns = work.ctx.clock.now().wall_ns;
            let is_root = work.root.is_none() || work.ctx.tree.identity().ok() == work.root;
            let (mut over, mut first_ns) = (Vec::new(), None::<i64>);
            for upload in uploads {
                let old_at_ns = manifest
                    .progress_ns(folder, &upload)?
                    .saturating_add(OLD_NS);
                if old_at_ns <= now_ns || work.is_over(&upload, is_root, now_ns)? {
                    over.push(upload);
                } else {
                    first_ns = Some(first_ns.map_or(old_at_ns, |first_ns| first_ns.min(old_at_ns)));
                }
            }
            Ok((over, first_ns))
        };
        self.ctx.offload.run(judge).await
    }

    fn is_over(
        &self,
        upload: &Upload,
        is_root: bool,
        now_ns: i64,
    ) -> Result<bool, manifest::Error> {
        let ctx = &self.ctx;
        let Some(cut) = upload.cut.filter(|_| upload.is_answered()) else {
            return Ok(true);
        };
        if !is_root || ctx.tree.is_away(&upload.path) {
            return Ok(false);
        }
        let stat = match ctx.tree.stat(&upload.path) {
            Ok(stat) if stat.kind == Kind::File => stat,
            Ok(_) => return Ok(true),
            Err(error) => return Ok(is_gone(&error)),
        };
        if Cut::of(&stat, cut.part_size) != cut
            || self
                .filter
                .leaves_out(&upload.path, &stat, now_ns)
                .is_some()
        {
            return Ok(true);
        }
        let rows = ctx
            .manifest
            .entries(ctx.folder, std::slice::from_ref(&upload.path))?;
        let is_synced = rows.into_iter().flatten().any(|row| {
            let is_it = |content: &manifest::Content| content.stat.same_content_as(&stat);
            row.state == State::Synced && row.stored.as_ref().is_some_and(is_it)
        });
        Ok(is_synced)
    }
}
