//! The files at work: so many on their way, what has arrived written in batches, each ending told.
//!
//! Small contents are fetched by tasks and handed to the blocking pool together, as many as have arrived while the batch
//! before was written: one wake for many files. Large ones see to themselves.
//!
//! When the disk is full, or the bucket has not given anything for a long while, nothing more is begun. What has arrived
//! is written or dropped, never left half done; the same when somebody asks to stop.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::base::clock::Clock;
use crate::base::offload::{Offload, joined};
use crate::restore::fetch::{Fetched, Fetcher};
use crate::restore::large::{self, RANGE};
use crate::restore::patience::Patience;
use crate::restore::place::{self, Ended, Job};
use crate::restore::target::Target;
use crate::restore::told::{Counters, Happening, Sums, Tell, What};
use crate::restore::wanted::Kind;
use crate::restore::window::Window;
use crate::store::{self, ErrorKind, Which};

/// Batches that are written at once: one for each core would do, and a second one hides a slow disk.
const WRITERS: usize = 2;

/// Files of one batch at most, so that what arrives meanwhile does not wait for long.
const BATCH: usize = 64;

/// How often an object is looked at again that changes while it is read.
const CHANGES: u32 = 3;

/// The files of one restore.
pub struct Transfer<'a> {
    /// Requests.
    pub fetcher: &'a Fetcher,
    /// Where they go.
    pub target: &'a Arc<Target>,
    /// Files on their way at most.
    pub at_once: usize,
    /// How far it is.
    pub counters: &'a Arc<Counters>,
    /// Asks to stop.
    pub stop: &'a CancellationToken,
    /// What has been done.
    pub sums: &'a mut Sums,
    /// Who is told.
    pub tell: Tell<'a>,
}

enum Arrived {
    Bytes(Box<Fetched>),
    Ended(Ended),
}

impl Transfer<'_> {
    /// Brings files and links back, until all are settled or nothing more can be.
    pub async fn run(&mut self, jobs: Vec<Job>) {
        let mut next = jobs.into_iter();
        let mut again: Vec<Job> = Vec::new();
        let mut gets: JoinSet<(Job, Arrived)> = JoinSet::new();
        let mut writes: JoinSet<Vec<(Job, Ended)>> = JoinSet::new();
        let mut waiting: Vec<(Job, Fetched)> = Vec::new();
        let mut patience = Patience::default();
        let mut window = Window::new(self.at_once, Clock::Real.now().mono);
        loop {
            let is_over = self.stop.is_cancelled() || self.sums.stopped_by.is_some();
            if is_over {
                // Dropped where they stand: their temporary names go with them.
                self.sums.untried += (gets.len() + waiting.len()) as u64;
                gets.shutdown().await;
                waiting.clear();
            }
            while !is_over && gets.len() < window.size() {
                let Some(job) = again.pop().or_else(|| next.next()) else {
                    break;
                };
                gets.spawn(get(
                    self.fetcher.clone(),
                    self.target.clone(),
                    self.counters.clone(),
                    job,
                ));
            }
            while writes.len() < WRITERS && !waiting.is_empty() {
                let batch: Vec<_> = waiting.drain(..waiting.len().min(BATCH)).collect();
                let target = self.target.clone();
                writes.spawn(Offload::Pool.run(move || write(&target, batch)));
            }
            if gets.is_empty() && writes.is_empty() {
                self.sums.untried += (next.len() + again.len()) as u64;
                return;
            }
            tokio::select! {
                () = self.stop.cancelled(), if !is_over => {}
                Some(written) = writes.join_next() => {
                    for (job, ended) in joined(written).unwrap_or_default() {
                        self.end(job, ended, &mut again, &mut patience);
                    }
                }
                Some(got) = gets.join_next() => {
                    // Whatever else has arrived goes along.
                    let mut got = Some(got);
                    while let Some(one) = got {
                        match joined(one) {
                            Some((job, Arrived::Bytes(fetched))) => {
                                window.done(fetched.bytes.len() as u64, Clock::Real.now().mono);
                                waiting.push((job, *fetched));
                            }
                            Some((job, Arrived::Ended(ended))) => {
                                self.end(job, ended, &mut again, &mut patience);
                            }
                            None => {}
                        }
                        got = gets.try_join_next();
                    }
                }
            }
        }
    }

    /// Counts and tells how one ended, or begins it once more.
    fn end(&mut self, mut job: Job, ended: Ended, again: &mut Vec<Job>, patience: &mut Patience) {
        let mut told = Happening {
            what: What::Failed,
            path: Some(&job.wanted.path),
            key: &job.wanted.key,
            bytes: 0,
            by: None,
            error: None,
        };
        let why;
        match ended {
            // Once more, if only the line was bad.
            Ended::Unverified(_) if !job.is_again => {
                job.is_again = true;
                again.push(job);
                return;
            }
            Ended::Restored {
                bytes,
                by,
                has_time,
            } => {
                (told.what, told.bytes, told.by) = (What::Restored, bytes, Some(by));
                self.sums.without_time += u64::from(!has_time);
                patience.answered(self.sums);
            }
            Ended::Unverified(text) => {
                told.what = What::Unverified;
                why = text;
                told.error = Some(&why);
            }
            Ended::Refused(error) => {
                why = match error.kind {
                    ErrorKind::Precondition => {
                        "the object is another one by now; run the restore again".to_owned()
                    }
                    _ => error.to_string(),
                };
                told.error = Some(&why);
                patience.refused(&error, self.sums);
            }
            Ended::Failed(text) => {
                why = text;
                told.error = Some(&why);
                self.sums.is_unreachable = false;
            }
            Ended::Full(text) => {
                self.sums.is_unreachable = false;
                self.sums.stopped_by.get_or_insert_with(|| text.clone());
                why = text;
                told.error = Some(&why);
            }
        }
        self.counters.files.fetch_add(1, Ordering::Relaxed);
        self.sums.count(&told);
        (self.tell)(&told);
    }
}

/// Brings one content here; a large one into its place.
async fn get(
    fetcher: Fetcher,
    target: Arc<Target>,
    counters: Arc<Counters>,
    mut job: Job,
) -> (Job, Arrived) {
    let mut changes = 0;
    loop {
        let arrived = match job.wanted.size {
            size if size > RANGE => {
                Arrived::Ended(large::fetch(&fetcher, &target, &job, &counters).await)
            }
            size => {
                let held = fetcher.reserve(size).await;
                // Under what the listing has seen: an object that has grown since would not fit in there.
                let which = match (&job.wanted.version_id, &job.wanted.etag) {
                    (None, Some(etag)) => Which::Is(etag.clone()),
                    _ => job.wanted.which(),
                };
                match fetcher.get(&job.wanted.key, &which, held).await {
                    Ok(content) => {
                        Counters::add(&counters.bytes, content.bytes.len() as u64);
                        Arrived::Bytes(Box::new(content))
                    }
                    Err(error) => Arrived::Ended(Ended::Refused(error)),
                }
            }
        };
        let Arrived::Ended(Ended::Refused(error)) = &arrived else {
            return (job, arrived);
        };
        // Another content by now: what is there is what is wanted, unless one was wanted by its hash or version.
        let wanted = &job.wanted;
        let is_fixed = wanted.version_id.is_some() || wanted.sha256.is_some();
        let is_fixed = is_fixed || wanted.kind != Kind::File;
        changes += 1;
        if error.kind != ErrorKind::Precondition || is_fixed || changes > CHANGES {
            return (job, arrived);
        }
        if let Err(error) = look_again(&fetcher, &mut job).await {
            return (job, Arrived::Ended(Ended::Refused(error)));
        }
    }
}

/// Takes the object as it is now.
async fn look_again(fetcher: &Fetcher, job: &mut Job) -> store::Result<()> {
    let object = fetcher.head(&job.wanted.key, &Which::Current).await?;
    job.wanted.size = object.size;
    job.wanted.etag = Some(object.etag);
    Ok(())
}

/// Puts a batch in place. Blocks.
fn write(target: &Target, batch: Vec<(Job, Fetched)>) -> Vec<(Job, Ended)> {
    let batch = batch.into_iter();
    batch
        .map(|(job, fetched)| {
            let ended = place::whole(target, &job, &fetched);
            (job, ended)
        })
        .collect()
}
