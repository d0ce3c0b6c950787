//! Files that fail: how the queue goes on with them, and those that are left alone for a while.

use crate::agent::{Loop, Mode, PATIENCE, Pending, Then};
use crate::base::clock::Now;
use crate::base::path::RelPath;
use crate::base::snapshot::What;
use crate::manifest::{Change, Error};
use crate::store::ErrorKind;
use crate::sync::file::Failed;
use crate::sync::queue::{End, Job};
use crate::tree::Touch;

/// Parked files read at once.
const PAGE: usize = 1000;
/// Parked files whose names are remembered from the start; the others are known by their rows.
const NAMED_MOST: usize = 10_000;

impl Loop {
    /// Takes a failure of a path; returns how the queue goes on with it.
    pub(super) fn failed(&mut self, job: &Job, failed: Failed, now: Now) -> End {
        let Failed {
            error,
            kind,
            is_everyones,
            is_parked,
            is_alarm,
            retry_after,
        } = failed;
        let trouble = kind.filter(|_| is_everyones);
        if let Some(kind) = self.outage.failed(trouble, retry_after, &error, now) {
            self.outage.begin(kind, &error, self.teller.name(), now);
        }
        if trouble.is_none() && kind.is_some() {
            // It has answered, if not as one would like.
            self.store_works(now);
        }
        let is_news = self
            .failing
            .insert(job.path.clone(), error.clone())
            .is_none();
        let (folder, path) = (self.teller.name(), &job.path);
        if is_alarm {
            tracing::error!(%folder, %path, "{error}; memory, the disk or a proxy may be at fault");
        } else if is_parked {
            tracing::warn!(%folder, %path, "{error}; it is left alone until it changes, for a while");
        } else if is_news && !is_everyones {
            tracing::warn!(%folder, %path, "{error}; it is tried again");
        }
        if is_news {
            self.teller
                .tell(What::Failed, &job.path, None, 0, Some(error));
        }
        if is_parked || self.is_given_up(job.failures, kind, is_everyones) {
            End::GivenUp
        } else {
            End::Failed
        }
    }

    fn is_given_up(&self, job_failures: u32, kind: Option<ErrorKind>, is_everyones: bool) -> bool {
        let hopeless = matches!(
            kind,
            Some(ErrorKind::Invalid | ErrorKind::TooLarge | ErrorKind::Unsupported)
        );
        self.mode != Mode::Forever && !is_everyones && (hopeless || job_failures + 1 >= PATIENCE)
    }

    /// Reads which files were parked by a former run: they still fail, although nobody tries them.
    pub(super) async fn recall_parked(&mut self) -> Result<(), Error> {
        let (manifest, folder) = (self.ctx.manifest.clone(), self.ctx.folder);
        let word = format!("{:016x}", self.settings.config);
        let is_new = self.config_before.as_ref() != Some(&word);
        let has_changed = is_new && self.config_before.is_some();
        let takes_up = self.settings.retry_failed;
        let read = self.ctx.offload.run(move || {
            let mut changes = Vec::new();
            if takes_up || has_changed {
                changes.push(Change::Unpark);
            }
            if is_new {
                changes.push(Change::Config(word));
            }
            manifest.commit(folder, &changes)?;
            let mut rows = Vec::new();
            let mut after = RelPath::root();
            while rows.len() < NAMED_MOST {
                let page = manifest.parked(folder, &after, PAGE)?;
                let Some(last) = page.last() else { break };
                after = last.path.clone();
                rows.extend(page);
            }
            Ok::<_, Error>(rows)
        });
        for row in read.await? {
            let error = row.failure.map(|failure| failure.error).unwrap_or_default();
            self.teller
                .tell(What::Failed, &row.path, None, 0, Some(error.clone()));
            self.failing.insert(row.path, error);
        }
        Ok(())
    }

    /// Has everything tried again that was parked, when that is durable.
    pub(super) fn unpark(&mut self) {
        self.pending.push_back(Pending {
            changes: vec![Change::Unpark],
            then: Then::Unparked,
        });
    }

    /// What was parked is not any more.
    pub(super) fn unparked(&mut self, now: Now) {
        let failing: Vec<RelPath> = self.failing.keys().cloned().collect();
        for path in failing {
            self.queue.touch(path, Touch::Scan, 0, now);
        }
        self.queue.wake_failed(now);
        // Whatever is not remembered by name, the scan finds.
        self.scans.look_now(now);
    }
}
