//! The way of one file, top to bottom: read, plan, dedupe, send, and what the manifest may say then.
//!
//! One way in ([`sync`]) and one way out ([`Done`]). A job never writes the manifest and never asks the queue: what it needs
//! of them goes to the folder's loop as a [`Message`]. Before it starts, the loop has made the intent durable.
//!
//! A file that never rests ends as moving, try after try. Where only what it began with could be sent the row says so by a
//! stat that the file no longer has, and by its doubt; the loop goes on naming it.
//!
//! The only module here that names its siblings.

mod aside;
mod contact;
mod former;
mod gate;
mod guard;
mod job;
mod large;
mod remove;
mod rows;

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::base::clock::Now;
use crate::base::digest::Sha256;
use crate::base::failpoint;
use crate::base::path::RelPath;
use crate::base::proof::Proof;
use crate::base::stat::Stat;
use crate::manifest::{Change, Entry, Remote};
use crate::store::{self, Body, Effect, ErrorKind, Stored};
use crate::sync::Lane;
use crate::sync::brake::Verdict;
use crate::sync::dedupe::{Claim, First};
use crate::sync::going::Progress;
use crate::sync::plan::{self, Read, Step};
use crate::sync::upload::copies::{self, Original};
use crate::sync::upload::{self, Gate as _, SINGLE_MOST};
use crate::tree::{ReadError, Whole};

pub use former::give_up;
pub use guard::THEIRS;
pub use job::{Ahead, Aim, Ctx, Done, Failed, How, Message, Outcome, Patience, Policy, Task};
pub use rows::{gone, read_error};

use aside::Guard;
use gate::JobGate;
use job::{Sharing, Small};

/// Why a job stopped short.
#[derive(Debug)]
enum Stop {
    Read(ReadError),
    Store(store::Error),
    /// It was asked to.
    Asked,
    /// Somebody else wrote the object, which is guarded.
    Theirs,
}

impl From<upload::Stop> for Stop {
    fn from(stop: upload::Stop) -> Self {
        match stop {
            upload::Stop::Read(error) => Self::Read(error),
            upload::Stop::Store(error) => Self::Store(error),
            upload::Stop::Stopped => Self::Asked,
        }
    }
}

impl From<ReadError> for Stop {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

/// Brings the bucket to what the disk has, for one path.
pub async fn sync(ctx: Arc<Ctx>, task: Task) -> Done {
    let now = ctx.clock.now_as_set(task.set);
    let mut way = Way {
        ctx,
        known: task.known.clone(),
        task,
        started: now,
        changes: Vec::new(),
        sources: Vec::new(),
        first: None,
        size: 0,
        set_aside: false,
        doubt: Doubt::None,
        allowed: None,
        old_is_safe: false,
        there: None,
        adopted: None,
    };
    let outcome = match way.run().await {
        Ok(outcome) => way.after(outcome).await,
        Err(stop) => way.stopped(stop),
    };
    Done {
        path: way.task.job.path.clone(),
        key: way.task.key,
        job: way.task.job,
        set: way.task.set,
        outcome,
        changes: way.changes,
        sources: way.sources,
        first: way.first,
        size: way.size,
        set_aside: way.set_aside,
    }
}

/// A write of the key that was not answered well and may have had, or may still have, its effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Doubt {
    None,
    /// Of that content; `None`: of one that nobody can name.
    Write(Option<Sha256>),
}

struct Way {
    ctx: Arc<Ctx>,
    task: Task,
    /// What is certain of the key now; starts as the row before the intent.
    known: Option<Entry>,
    started: Now,
    changes: Vec<Change>,
    sources: Vec<RelPath>,
    first: Option<First>,
    size: u64,
    set_aside: bool,
    /// A write of the key whose effect is unknown: of which content, where that is known.
    doubt: Doubt,
    /// What the brake said of overwriting the object, if it was asked.
    allowed: Option<Verdict>,
    /// The object that is about to be overwritten has been set aside, or there is none.
    old_is_safe: bool,
    /// Somebody else's object that may be overwritten: it has been set aside.
    there: Option<Remote>,
    /// What has proven that somebody else's object is equal.
    adopted: Option<Proof>,
}

impl Way {
    /// Reads the clock by which this job's row tells its horizons.
    fn now(&self) -> Now {
        self.ctx.clock.now_as_set(self.task.set)
    }

    async fn run(&mut self) -> Result<Outcome, Stop> {
        if let Aim::Remove { root } = self.task.aim {
            return self.remove(root).await;
        }
        self.settle_doubt().await?;
        if let Some(outcome) = self.renamed().await? {
            return Ok(outcome);
        }
        if self.task.stat.size <= SINGLE_MOST {
            self.small().await
        } else {
            self.large().await
        }
    }

    async fn small(&mut self) -> Result<Outcome, Stop> {
        // An object of somebody else's under the key is looked at before anything is shared.
        let mut sharing = if self.task.remote.is_none() {
            Sharing::Claim
        } else {
            Sharing::Alone
        };
        loop {
            let Small {
                whole,
                claim,
                twins,
                hold,
            } = self.read_small(sharing).await?;
            let (read, stat, sha256) = (Read::of(&whole), whole.stat, whole.sha256);
            self.size = stat.size;
            if plan::step(self.known.as_ref(), sha256, self.started) == Step::Refresh {
                return Ok(self.refreshed(read));
            }
            match self.before_overwriting(sha256).await {
                Guard::Go => {}
                Guard::SetAside => {
                    // No memory is held meanwhile, and nobody waits for these bytes.
                    drop((whole, claim, hold));
                    self.set_old_aside().await?;
                    sharing = Sharing::Claim;
                    continue;
                }
                Guard::Quarantine => {
                    drop(claim);
                    return self.quarantine_small(whole).await;
                }
            }
            match claim {
                Some(Claim::Later(waiter)) => {
                    // Neither buffer nor permit is held while somebody else sends the same bytes.
                    drop((whole, hold));
                    if let Some(source) = waiter.wait().await
                        && let Some(stored) = self.copy_from(&source, sha256, &stat).await?
                    {
                        return Ok(self.stored(How::Copied, stored, sha256, read));
                    }
                    sharing = Sharing::Alone;
                    continue;
                }
                Some(Claim::First(first)) => {
                    self.first = Some(first);
                    if let Some(stored) = self.copy_from_any(twins, sha256, &stat).await? {
                        return Ok(self.stored(How::Copied, stored, sha256, read));
                    }
                }
                None if self.task.remote.is_some() => {
                    if let Some(object) = self.theirs().await? {
                        let bytes = whole.bytes.clone();
                        if let Some(proof) = self.compare(&object, bytes, sha256).await {
                            self.adopt(object, sha256, proof);
                            return Ok(self.refreshed(read));
                        }
                        // Setting aside may need memory of its own; nobody waits for it with some in hand.
                        drop((whole, hold));
                        self.set_theirs_aside(object).await?;
                    }
                    sharing = Sharing::Claim;
                    continue;
                }
                None => {}
            }
            return self.send_small(whole).await;
        }
    }

    /// Takes what was read ahead, or reads the file now.
    async fn read_small(&mut self, sharing: Sharing) -> Result<Small, Stop> {
        if let Some(Ahead(ahead)) = self.task.ahead.take() {
            return Ok(ahead?);
        }
        let hold = self
            .ctx
            .limits
            .memory(self.task.stat.size, self.lane())
            .await;
        let (ctx, path) = (self.ctx.clone(), self.task.job.path.clone());
        let (known, started) = (self.known.clone(), self.started);
        let patience = self.task.patience;
        let read = move || ctx.read_small(&path, known.as_ref(), sharing, started, hold, patience);
        Ok(self.ctx.offload.run(read).await?)
    }

    async fn send_small(&mut self, whole: Whole) -> Result<Outcome, Stop> {
        let (read, stat, sha256) = (Read::of(&whole), whole.stat, whole.sha256);
        let meta = self
            .ctx
            .labels
            .meta(&self.task.job.path, &stat, Some(sha256));
        let gate = self.gate();
        let body = Body::new(whole.bytes, whole.crc64, Some(sha256)).with_tap(Some(gate.tap()));
        let own = self.own(Some(sha256)).await?;
        let put = own.put(&self.task.key, body, &meta);
        let stored = match gate.send(stat.size, put).await {
            Ok(stored) => stored,
            Err(error) => return Err(self.unwritten(self.refused(error)?, Some(sha256))),
        };
        failpoint::hit("put-answered");
        Ok(self.stored(How::Uploaded, stored, sha256, read))
    }

    async fn copy_from_any(
        &mut self,
        twins: Vec<Entry>,
        sha256: Sha256,
        stat: &Stat,
    ) -> Result<Option<Stored>, Stop> {
        for twin in twins {
            if let Some(stored) = self.copy_from(&twin.path, sha256, stat).await? {
                return Ok(Some(stored));
            }
        }
        Ok(None)
    }

    /// Makes the object of a renamed file by a copy of its former name's, without reading it. `None`: read it.
    async fn renamed(&mut self) -> Result<Option<Outcome>, Stop> {
        let Aim::Rename { from, looked_at_ns } = std::mem::replace(&mut self.task.aim, Aim::Store)
        else {
            return Ok(None);
        };
        let Some((_, content)) = plan::certain(&from) else {
            return Ok(None);
        };
        let (stat, sha256) = (self.task.stat, content.sha256);
        if self.task.remote.is_some()
            || plan::step(self.known.as_ref(), sha256, self.started) == Step::Refresh
        {
            return Ok(None);
        }
        match self.before_overwriting(sha256).await {
            Guard::Go => {}
            Guard::SetAside => self.set_old_aside().await?,
            Guard::Quarantine => return Ok(None),
        }
        self.size = stat.size;
        let copied = self.copy_from(&from.path, sha256, &stat).await?;
        // The content is certain by its former row; a later write gets other stamps than this look saw.
        let read = Read {
            stat,
            read_at_ns: looked_at_ns,
            doubtful: false,
            is_beginning: false,
        };
        Ok(copied.map(|stored| self.stored(How::Copied, stored, sha256, read)))
    }

    /// Makes the object by a server-side copy of `source`'s, if that is certain to have this content. `None`: send the
    /// bytes.
    async fn copy_from(
        &mut self,
        source: &RelPath,
        sha256: Sha256,
        stat: &Stat,
    ) -> Result<Option<Stored>, Stop> {
        let features = self.ctx.store.features();
        if features.is_known && !features.copy {
            return Ok(None);
        }
        let (granted, answer) = oneshot::channel();
        let ask = Message::Source {
            path: source.clone(),
            granted,
        };
        if *source == self.task.job.path
            || self.ctx.to_loop.send(ask).await.is_err()
            || answer.await != Ok(true)
        {
            return Ok(None);
        }
        self.sources.push(source.clone());
        // Looked up after the grant: from here on nobody changes it.
        let (ctx, path) = (self.ctx.clone(), source.clone());
        let row = self
            .ctx
            .offload
            .run(move || ctx.manifest.entries(ctx.folder, &[path]))
            .await;
        let row = row.ok().and_then(|mut rows| rows.pop()).flatten();
        let Some((entry, content)) = row.as_ref().and_then(plan::certain) else {
            return Ok(None);
        };
        let Ok(key) = self.ctx.keys.key(source) else {
            return Ok(None);
        };
        if content.sha256 != sha256
            || plan::doubt_until(entry) != 0
            || content.stat.size != stat.size
        {
            return Ok(None);
        }
        let original = Original {
            key,
            etag: content.etag.clone(),
            size: stat.size,
        };
        let meta = self
            .ctx
            .labels
            .meta(&self.task.job.path, stat, Some(sha256));
        match copies::copy(
            &self.own(Some(sha256)).await?,
            &self.gate(),
            &original,
            &self.task.key,
            &meta,
        )
        .await
        {
            Ok(stored) => Ok(Some(stored)),
            Err(error) if matches!(error.kind, ErrorKind::Network | ErrorKind::Busy) => {
                // What lands late copies what its source is then, on a store that ignores the condition.
                Err(self.unwritten(error, self.copied(sha256)))
            }
            Err(error) => {
                tracing::debug!(%error, "a server-side copy was refused; the bytes are sent");
                drop(self.unwritten(error, self.copied(sha256)));
                Ok(None)
            }
        }
    }

    /// Remembers that a write that was not answered well may have had, or may still have, its effect.
    fn unwritten(&mut self, error: store::Error, want: Option<Sha256>) -> Stop {
        if error.effect == Effect::Possible {
            self.doubt = match self.doubt {
                Doubt::Write(before) if before != want => Doubt::Write(None),
                _ => Doubt::Write(want),
            };
        }
        Stop::Store(error)
    }

    fn lane(&self) -> Lane {
        if self.task.stat.size <= SINGLE_MOST {
            self.task.job.lane
        } else {
            Lane::Backlog
        }
    }

    fn gate(&self) -> Arc<JobGate> {
        self.gate_for(&self.task.key)
    }

    /// The gate of what is written under another key on behalf of this path.
    fn gate_for(&self, key: &str) -> Arc<JobGate> {
        let (path, key) = (self.task.job.path.clone(), key.to_owned());
        let parts = match self.size {
            0..=SINGLE_MOST => 0,
            size => size.div_ceil(upload::part_size_bytes(size)),
        };
        let parts = u32::try_from(parts).unwrap_or(u32::MAX);
        Arc::new(JobGate {
            ctx: self.ctx.clone(),
            path,
            key,
            lane: self.lane(),
            progress: Arc::new(Progress::new(self.size, parts)),
        })
    }
}

impl Ctx {
    /// Returns rows of other paths whose objects have this content. An error of the manifest counts as none: the bytes
    /// are sent, and the loop meets the same error when it commits.
    fn twins(&self, path: &RelPath, sha256: &Sha256) -> Vec<Entry> {
        let mut twins = self
            .manifest
            .by_content(self.folder, sha256)
            .unwrap_or_default();
        twins.retain(|twin| twin.path != *path);
        twins
    }
}
