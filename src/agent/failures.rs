//! Files that fail: how the queue goes on with them, and those that are left alone for a while.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

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

/// How long a folder is left alone in which two files were denied, and none was stored since.
const DENIED: Duration = Duration::from_secs(300);
/// Such folders remembered at most; the files of others are found out one by one.
const DENIED_MOST: usize = 1000;

/// Folders in which a right is missing: their files are not tried one by one.
#[derive(Debug, Default)]
pub(super) struct Denied {
    folders: BTreeMap<RelPath, (Instant, String)>,
    /// Folders in which one file was denied so far, and which.
    first: BTreeMap<RelPath, RelPath>,
}

impl Denied {
    fn add(&mut self, path: &RelPath, error: &str, now: Now) {
        self.folders.retain(|_, (until, _)| *until > now.mono);
        let Some(folder) = path.parent() else { return };
        // One may be denied for itself.
        let is_second = self.first.get(&folder).is_some_and(|first| first != path);
        if is_second && self.folders.len() < DENIED_MOST {
            self.folders
                .insert(folder, (now.mono + DENIED, error.to_owned()));
        } else if self.first.len() < DENIED_MOST {
            self.first.insert(folder, path.clone());
        }
    }

    /// A file of the folder was stored.
    fn is_allowed(&mut self, path: &RelPath) {
        if !self.first.is_empty()
            && let Some(folder) = path.parent()
        {
            self.first.remove(&folder);
            self.folders.remove(&folder);
        }
    }

    fn why(&self, path: &RelPath, now: Now) -> Option<String> {
        let (until, error) = self.folders.get(&path.parent()?)?;
        (*until > now.mono).then(|| error.clone())
    }
}

impl Loop {
    /// Keeps back what would be denied like its neighbours.
    pub(super) fn without_denied(&mut self, due: Vec<Job>, now: Now) -> Vec<Job> {
        let mut kept = Vec::with_capacity(due.len());
        for job in due {
            // A run that ends tries each for itself.
            let is_patient = self.mode == Mode::Forever && !job.remove;
            let Some(why) = self.denied.why(&job.path, now).filter(|_| is_patient) else {
                kept.push(job);
                continue;
            };
            self.failing.entry(job.path.clone()).or_insert(why);
            self.queue
                .finish(&job.path, End::Failed, now, &mut self.random);
        }
        kept
    }

    /// A file of a folder was stored: what was denied there is not any more.
    pub(super) fn allowed(&mut self, path: &RelPath) {
        self.denied.is_allowed(path);
    }

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
            self.begin_outage(kind, &error, now);
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
        if kind == Some(ErrorKind::Denied) {
            self.denied.add(&job.path, &error, now);
        }
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
        if is_parked {
            self.parked.insert(job.path.clone());
        }
        if is_parked || self.is_given_up(job.failures, kind, is_everyones) {
            return End::GivenUp;
        }
        if trouble.is_some() {
            self.outage.waits(&job.path);
        }
        End::Failed
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
            self.parked.insert(row.path.clone());
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
        self.denied = Denied::default();
        self.parked.clear();
        let failing: Vec<RelPath> = self.failing.keys().cloned().collect();
        for path in failing {
            self.queue.touch(path, Touch::Scan, 0, now);
        }
        self.queue.wake_failed(now);
        // Whatever is not remembered by name, the scan finds.
        self.scans.look_now(now);
    }
}
