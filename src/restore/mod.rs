//! Bringing files back: from a list of what is wanted to a folder that has it.
//!
//! Overview: a list comes from `listing` (every object under a prefix) or from a catalog; `compare` holds it against what
//! `look` finds in the target, `plan` decides what becomes of each path, and `work` gathers it; then folders are made,
//! `transfer` brings the files back, with `fetch` for the requests, `window` for their number, `large` for files in ranges,
//! `check` for what proves a content right and `place` for the way into the tree; links come last, then the times of
//! folders, then the disks are flushed. `target` and `temporary`, the files on their way, are all that changes anything on
//! the disk.
//!
//! Order: nothing at all is written before everything in the target has been looked at, so that conflicts are named while
//! nothing has happened yet. A file gets its name when its content has been verified and its time and mode are set.
//!
//! Errors and retries: a file that fails is named and the others go on; see `fetch` for the retries. A full disk, or a
//! bucket that gives nothing any more, ends it.
//!
//! Cancellation: what is in its place stays and is counted; what is on its way goes, with its temporary name. Only the
//! beginning of a large file stays, under a temporary name too, and the next run goes on behind it (see `large`).
//!
//! After a crash: temporary names are left, which the next run removes from the folders that it touches, or goes on with,
//! and after a power cut perhaps files whose bytes never reached the disk. The next run reads and compares what is there,
//! so both are mended by running it again. A file that takes another one's place is flushed before that.
//!
//! What this does not protect against: somebody who may write in the target while it runs, inside the target; a bucket
//! whose owner changed content and metadata together.

pub mod check;
mod compare;
pub mod fetch;
pub mod flush;
pub mod large;
pub mod listing;
pub mod look;
pub mod patience;
pub mod place;
pub mod plan;
pub mod target;
pub mod temporary;
pub mod told;
pub mod transfer;
pub mod wanted;
pub mod window;
pub mod work;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio_util::sync::CancellationToken;

use crate::base::offload::Offload;
use crate::restore::fetch::Fetcher;
use crate::restore::listing::Listing;
use crate::restore::place::Ended;
use crate::restore::plan::OnConflict;
use crate::restore::target::{Owners, Target};
use crate::restore::told::{Counters, Happening, Sums, Tell, What};
use crate::restore::transfer::Transfer;
use crate::restore::wanted::Wanted;
use crate::restore::work::Work;
use crate::store::Store;

/// Paths that are looked at in one blocking call.
const BATCH: usize = 512;

/// How it is done.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// What happens where the target has something else.
    pub on_conflict: OnConflict,
    /// Whose the files are.
    pub owners: Owners,
    /// Requests at once.
    pub requests: usize,
    /// Bytes of content in memory.
    pub memory_bytes: u64,
    /// Nothing is written; what would be is told.
    pub is_dry_run: bool,
}

/// Why nothing could be done.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// The target cannot be used.
    #[error("use {}: {source}", shown(path))]
    Target {
        /// The target.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// Another restore is at work there.
    #[error("use {}: another restore is writing into it", shown(.0))]
    Taken(PathBuf),
}

/// One restore.
pub struct Restore<'a> {
    settings: Settings,
    dir: &'a Path,
    fetcher: Fetcher,
    /// How far it is.
    counters: Arc<Counters>,
    stop: CancellationToken,
    tell: Tell<'a>,
    sums: Sums,
}

impl<'a> Restore<'a> {
    /// Prepares to restore into `dir`, which need not be there.
    pub fn new(
        store: Arc<dyn Store>,
        dir: &'a Path,
        settings: Settings,
        counters: Arc<Counters>,
        stop: CancellationToken,
        tell: Tell<'a>,
    ) -> Self {
        Self {
            settings,
            dir,
            fetcher: Fetcher::new(store, settings.requests, settings.memory_bytes),
            counters,
            stop,
            tell,
            sums: Sums::default(),
        }
    }

    /// Brings back what is listed.
    pub async fn run(mut self, listing: Listing) -> Result<Sums, Trouble> {
        for refused in &listing.refused {
            self.told(What::Refused, None, &refused.key, Some(&refused.why));
        }
        let run = fastrand::u32(..);
        let target = self.open(run).await?;
        let is_fresh = match &target {
            Some(target) => self.prepare(target).await?,
            None => true,
        };
        let around = listing.around;
        let mut plan = match target.as_ref().filter(|_| !is_fresh) {
            Some(target) => self.compare(target, listing.wanted).await,
            None => Work::of_nothing(listing.wanted),
        };
        let is_blocked = self.settings.on_conflict == OnConflict::Fail && self.sums.conflicts > 0;
        if is_blocked || self.settings.is_dry_run || self.stop.is_cancelled() {
            if self.settings.is_dry_run && !self.stop.is_cancelled() && !is_blocked {
                self.tell_plan(&plan);
            } else {
                self.sums.untried += plan.count();
            }
            return Ok(self.sums);
        }
        let target = match target {
            Some(target) => target,
            None => self.make(run).await?,
        };
        self.announce(&plan);
        target.keep(plan.files.iter().filter_map(large::beginning));
        self.stamp_files(&target, std::mem::take(&mut plan.stamps))
            .await;
        self.folders(&target, std::mem::take(&mut plan.folders))
            .await;
        let flushing = target.flush().keep_flushing();
        // Links come last: until then nothing can lie behind one that we have made ourselves.
        for jobs in [
            std::mem::take(&mut plan.files),
            std::mem::take(&mut plan.links),
        ] {
            if self.stop.is_cancelled() || self.sums.stopped_by.is_some() {
                self.sums.untried += jobs.len() as u64;
                continue;
            }
            let mut transfer = Transfer {
                fetcher: &self.fetcher,
                target: &target,
                at_once: self.settings.requests,
                counters: &self.counters,
                stop: &self.stop,
                sums: &mut self.sums,
                tell: &mut *self.tell,
            };
            transfer.run(jobs).await;
        }
        drop(flushing);
        let mut folders = plan.folder_stamps;
        // A folder that may not be written to is for when nothing is to be put in it any more.
        if self.sums.failed + self.sums.untried == 0 && !self.stop.is_cancelled() {
            folders.extend(around);
        }
        self.finish(&target, folders).await;
        Ok(self.sums)
    }

    async fn open(&self, run: u32) -> Result<Option<Arc<Target>>, Trouble> {
        let (path, owners) = (self.dir.to_owned(), self.settings.owners);
        let opened = Offload::Pool
            .run(move || Target::open(&path, owners, run))
            .await;
        opened
            .map(|target| target.map(Arc::new))
            .map_err(|error| self.unusable(error))
    }

    fn unusable(&self, source: io::Error) -> Trouble {
        let path = self.dir.to_owned();
        Trouble::Target { path, source }
    }

    /// Makes the target and opens it.
    async fn make(&self, run: u32) -> Result<Arc<Target>, Trouble> {
        let path = self.dir.to_owned();
        let made = Offload::Pool
            .run(move || std::fs::create_dir_all(&path))
            .await;
        made.map_err(|error| self.unusable(error))?;
        let target = self.open(run).await?;
        let target = target.ok_or_else(|| self.unusable(io::ErrorKind::NotFound.into()))?;
        self.prepare(&target).await?;
        Ok(target)
    }

    /// Keeps others out; returns whether nothing is in it.
    async fn prepare(&self, target: &Arc<Target>) -> Result<bool, Trouble> {
        let (target, is_dry_run) = (target.clone(), self.settings.is_dry_run);
        let looked = Offload::Pool.run(move || {
            let is_ours = is_dry_run || target.lock();
            is_ours.then(|| target.is_empty()).transpose()
        });
        match looked.await {
            Ok(Some(is_empty)) => Ok(is_empty),
            Ok(None) => Err(Trouble::Taken(self.dir.to_owned())),
            Err(error) => Err(self.unusable(error)),
        }
    }

    fn tell_plan(&mut self, plan: &Work) {
        for wanted in &plan.stamps {
            self.told(What::Equal, Some(&wanted.path), &wanted.key, None);
        }
        let jobs = plan.files.iter().chain(&plan.links).map(|job| &job.wanted);
        for wanted in plan.folders.iter().chain(jobs) {
            let told = Happening {
                what: What::WouldRestore,
                path: Some(&wanted.path),
                key: &wanted.key,
                bytes: wanted.size,
                by: None,
                error: None,
            };
            self.sums.count(&told);
            (self.tell)(&told);
        }
    }

    /// Tells whoever shows how far it is how much there is to do.
    fn announce(&self, plan: &Work) {
        let jobs = || plan.files.iter().chain(&plan.links);
        let bytes = jobs().map(|job| job.wanted.size).sum();
        let files = jobs().count() as u64;
        self.counters.all_files.store(files, Ordering::Relaxed);
        self.counters.all_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Puts times and modes right of files whose content is the right one.
    async fn stamp_files(&mut self, target: &Arc<Target>, wanted: Vec<Wanted>) {
        let work = |target: &Target, one: &Wanted| target.stamp_file(&one.path, &one.stamp);
        self.each(target, wanted, What::Equal, work).await;
    }

    async fn folders(&mut self, target: &Arc<Target>, wanted: Vec<Wanted>) {
        let work = |target: &Target, one: &Wanted| target.folder(&one.path).map(drop);
        self.each(target, wanted, What::Restored, work).await;
    }

    /// Does something short to each on the disk, in batches.
    async fn each(
        &mut self,
        target: &Arc<Target>,
        wanted: Vec<Wanted>,
        what: What,
        work: impl Fn(&Target, &Wanted) -> io::Result<()> + Copy + Send + 'static,
    ) {
        let mut rest = wanted.into_iter();
        loop {
            let batch: Vec<Wanted> = rest.by_ref().take(BATCH).collect();
            let is_over = self.stop.is_cancelled() || self.sums.stopped_by.is_some();
            if batch.is_empty() || is_over {
                self.sums.untried += (batch.len() + rest.len()) as u64;
                return;
            }
            let target = target.clone();
            let done = Offload::Pool.run(move || {
                let each = batch.into_iter();
                each.map(|one| {
                    let done = work(&target, &one);
                    (one, done)
                })
                .collect::<Vec<_>>()
            });
            for (one, done) in done.await {
                match done {
                    Ok(()) => self.told(what, Some(&one.path), &one.key, None),
                    Err(error) => self.unwritten(&one, &error),
                }
            }
        }
    }

    fn unwritten(&mut self, wanted: &Wanted, error: &io::Error) {
        let why = match Ended::of_disk(error) {
            Ended::Full(why) => {
                self.sums.stopped_by.get_or_insert_with(|| why.clone());
                why
            }
            Ended::Failed(why) => why,
            _ => error.to_string(),
        };
        self.told(What::Failed, Some(&wanted.path), &wanted.key, Some(&why));
    }

    /// Sets what folders are to have, the deepest first, for whatever is done in one changes its time; then flushes.
    async fn finish(&mut self, target: &Arc<Target>, mut folders: Vec<Wanted>) {
        folders.retain(|one| one.stamp != wanted::Stamp::default());
        folders.sort_by(|a, b| b.path.cmp(&a.path));
        let dir = target.clone();
        let finished = Offload::Pool.run(move || {
            let mut failed = Vec::new();
            for one in folders {
                match dir.stamp_folder(&one.path, &one.stamp) {
                    // Something else stays there, or nothing came to be in it: that has been told.
                    Err(error) if one.is_bare_folder() && is_no_folder(&error) => {}
                    Err(error) => failed.push((one, error)),
                    Ok(()) => {}
                }
            }
            (failed, dir.flush().sync())
        });
        let (failed, synced) = finished.await;
        for (one, error) in failed {
            self.unwritten(&one, &error);
        }
        if let Err(error) = synced {
            let why = format!("what was written may not be on the disk: {error}");
            self.sums.stopped_by = Some(why);
        }
    }

    fn told(
        &mut self,
        what: What,
        path: Option<&crate::base::path::RelPath>,
        key: &str,
        error: Option<&str>,
    ) {
        self.happened(what, path, key, error, None);
    }

    fn happened(
        &mut self,
        what: What,
        path: Option<&crate::base::path::RelPath>,
        key: &str,
        error: Option<&str>,
        by: Option<plan::By>,
    ) {
        let told = Happening {
            what,
            path,
            key,
            bytes: 0,
            by,
            error,
        };
        self.sums.count(&told);
        (self.tell)(&told);
    }
}

fn is_no_folder(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn shown(path: &Path) -> String {
    crate::base::path::escaped(path.as_os_str().as_encoded_bytes())
}
