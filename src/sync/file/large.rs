//! A file that does not fit one buffer: hashed first only where that may spare the upload, then sent by parts.
//!
//! Order: open, hash where it may spare something, ask who has to be asked, look for an upload of an earlier try, send what
//! that does not have. That an upload is over and what the key has are one change of the manifest: a crash between the
//! completion and that finds an upload of which every part is noted, and the object tells that it was completed.
//!
//! Cancellation: asked to stop, hashing ends within a megabyte and sending after the parts on their way; what was sent
//! waits. After a crash the next try of the same file, under the same stamps, goes on; [`upload`] says how.
//!
//! The hash-first pass is one read under one lease. Parts are read one by one, each under a lease of its own, since no
//! lease is held while anything is sent; [`upload`] says what makes them one content.
//!
//! By parts a file that never rests would be sent in vain each time. A clone of it is sent instead, where one can be made;
//! else its beginning, if it only grows: hashed at two tries first, and its parts have to come to the same hash.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::base::digest::{Hasher, Sha256};
use crate::base::path::RelPath;
use crate::base::proof::Proof;
use crate::base::stat::Stat;
use crate::manifest::Change;
use crate::store::{Object, Stored};
use crate::sync::dedupe::Claim;
use crate::sync::file::aside::Guard;
use crate::sync::file::job::{Ctx, How, Outcome, Patience};
use crate::sync::file::{Stop, Way};
use crate::sync::foreign::Claims;
use crate::sync::plan::{self, Read, Step};
use crate::sync::upload::{self, SINGLE_MOST, Source};
use crate::tree::{Grown, OpenFile, ReadError, Reading};

impl Way {
    pub(in crate::sync::file) async fn large(&mut self) -> Result<Outcome, Stop> {
        // Looked at first: what it says of its content decides what is computed.
        let theirs = self.theirs().await?;
        let Large {
            mut source,
            digests,
            is_of_an_instant,
            mut read,
        } = self.open_large(theirs.as_ref()).await?;
        let stat = read.stat;
        self.size = stat.size;
        if let Some(Digests { sha256, .. }) = &digests
            && plan::step(self.known.as_ref(), *sha256, self.started) == Step::Refresh
        {
            return Ok(self.refreshed(read));
        }
        if let Some(object) = theirs {
            let proof = digests.as_ref().and_then(|found| found.proof);
            if let (Some(proof), Some(Digests { sha256, .. })) = (proof, &digests) {
                self.adopt(object, *sha256, proof);
                return Ok(self.refreshed(read));
            }
            self.set_theirs_aside(object).await?;
        }
        let guard = match &digests {
            Some(Digests { sha256, .. }) => self.before_overwriting(*sha256).await,
            // Its size is another one, or there is nothing to overwrite.
            None => self.before_overwriting_unread().await,
        };
        match guard {
            Guard::Quarantine => return self.quarantine_large(&source).await,
            Guard::SetAside => self.set_old_aside().await?,
            Guard::Go => {}
        }
        if let Some(Digests { sha256, .. }) = digests {
            if let Some(stored) = self.copy_large(sha256, &stat).await? {
                return Ok(self.stored(How::Copied, stored, sha256, read));
            }
            source.expected = Some(sha256);
        }
        let hashed = source.expected;
        let meta = self.ctx.labels.meta(&self.task.job.path, &stat, hashed);
        let former = self.former(&self.task.key, &source).await;
        let own = self.own(hashed).await?;
        let (gate, key) = (self.gate(), &self.task.key);
        let sent = upload::multipart(&own, &gate, key, &meta, &source, former).await;
        let sent = sent.map_err(|stop| match stop {
            upload::Stop::Store(error) => match self.refused(error) {
                // Parts do not touch the key; only their joining does.
                Ok(error) if error.operation == "CompleteMultipartUpload" => {
                    self.unwritten(error, hashed)
                }
                Ok(error) => Stop::Store(error),
                Err(stop) => stop,
            },
            stop => stop.into(),
        })?;
        self.changes.push(Change::UploadEnded(sent.upload));
        read.doubtful = is_of_an_instant || sent.doubtful;
        Ok(self.stored(How::Uploaded, sent.stored, sent.sha256, read))
    }

    /// Opens a large file; hashes it first only when its content may be in the bucket already, by its size: under a key
    /// that we know, or in an object of somebody else's under its own.
    async fn open_large(&self, theirs: Option<&Object>) -> Result<Large, Stop> {
        let (ctx, path) = (self.ctx.clone(), self.task.job.path.clone());
        let own_size = self
            .known
            .as_ref()
            .and_then(plan::certain)
            .map(|(_, content)| content.stat.size);
        let claims = theirs.map(|object| Claims::of(object, upload::part_size_bytes(object.size)));
        let patience = self.task.patience;
        let open = self.ctx.offload.run(move || {
            let read_at_ns = ctx.clock.now().wall_ns;
            let opened = open_patiently(&ctx, &path, read_at_ns, patience)?;
            let (file, grown) = match &opened {
                Opened::Itself(file) | Opened::Clone(file) => (file.clone(), None),
                Opened::Beginning(grown) => (grown.clone() as Arc<dyn OpenFile>, Some(grown)),
            };
            let is_of_an_instant = !matches!(opened, Opened::Itself(_));
            let stat = match grown {
                Some(grown) => grown.stat,
                None => file.stat().map_err(ReadError::from_io)?,
            };
            let read_at_ns = grown.map_or(read_at_ns, |grown| grown.read_at_ns);
            if stat.size <= SINGLE_MOST {
                // It has shrunk since it was looked at: another road.
                return Err(ReadError::Moving.into());
            }
            let known_elsewhere = ctx
                .manifest
                .knows_size(ctx.folder, stat.size, &path)
                .unwrap_or(false);
            let claims = claims.filter(|claims| claims.is_of_size(stat.size));
            let may_be_there = known_elsewhere
                || own_size == Some(stat.size)
                || claims.is_some()
                || grown.is_some();
            let mut read = Read {
                stat,
                read_at_ns,
                doubtful: is_of_an_instant,
                is_beginning: grown.is_some(),
            };
            let mut digests = None;
            if may_be_there {
                let (found, doubtful) = hash(&*file, &read, &ctx, claims.as_ref())?;
                read.doubtful |= doubtful;
                if let Some(grown) = grown {
                    grown.judge(found.sha256)?;
                }
                digests = Some(found);
            }
            let source = Source {
                file,
                stat,
                read_at_ns,
                expected: None,
                lasts: !is_of_an_instant,
                offload: ctx.offload,
                buffers: ctx.buffers.clone(),
            };
            Ok(Large {
                source,
                digests,
                is_of_an_instant,
                read,
            })
        });
        open.await
    }

    async fn copy_large(&mut self, sha256: Sha256, stat: &Stat) -> Result<Option<Stored>, Stop> {
        match self.ctx.dedupe.claim(sha256) {
            Claim::First(first) => self.first = Some(first),
            Claim::Later(waiter) => {
                return match waiter.wait().await {
                    Some(source) => self.copy_from(&source, sha256, stat).await,
                    None => Ok(None),
                };
            }
        }
        let (ctx, path) = (self.ctx.clone(), self.task.job.path.clone());
        let twins = self
            .ctx
            .offload
            .run(move || ctx.twins(&path, &sha256))
            .await;
        self.copy_from_any(twins, sha256, stat).await
    }
}

/// A large file, open.
struct Large {
    source: Source,
    /// The names of its content, if it was hashed first.
    digests: Option<Digests>,
    /// It is a clone of a file that never rests, or its beginning.
    is_of_an_instant: bool,
    /// How it was hashed; no more than begun if it was not.
    read: Read,
}

/// The names of a large file's content.
struct Digests {
    sha256: Sha256,
    /// What proves that somebody else's object has it, if anything does.
    proof: Option<Proof>,
}

/// What is read of a file.
enum Opened {
    Itself(Arc<dyn OpenFile>),
    Clone(Arc<dyn OpenFile>),
    Beginning(Arc<Grown>),
}

/// Opens a file; if it has been waited for long enough, a clone of it or, while it is written to, its beginning.
fn open_patiently(
    ctx: &Ctx,
    path: &RelPath,
    read_at_ns: i64,
    patience: Patience,
) -> Result<Opened, ReadError> {
    let Patience::Over { before } = patience else {
        return Ok(Opened::Itself(ctx.tree.open(path)?.into()));
    };
    if let Some(clone) = ctx.tree.capture(path)? {
        return Ok(Opened::Clone(clone.into()));
    }
    let file = ctx.tree.open(path)?;
    match Reading::begin(&*file, read_at_ns).map(drop) {
        Ok(()) => Ok(Opened::Itself(file.into())),
        Err(ReadError::Moving) => {
            let sizes = SINGLE_MOST + 1..=u64::MAX;
            let grown = Grown::open(&*ctx.tree, path, before, &sizes, ctx.clock)?;
            Ok(Opened::Beginning(grown.into()))
        }
        Err(error) => Err(error),
    }
}

/// How much of a large file is hashed between two reads, bytes.
const HASH_PIECE: u64 = 1 << 20;

/// Reads a whole file through the hashes; returns whether what was read is doubtful, too.
fn hash(
    file: &dyn OpenFile,
    read: &Read,
    ctx: &Ctx,
    claims: Option<&Claims>,
) -> Result<(Digests, bool), Stop> {
    let reading = Reading::begin(file, read.read_at_ns)?;
    if !reading.stat.same_content_as(&read.stat) {
        return Err(ReadError::Moving.into());
    }
    let size = read.stat.size;
    let mut hasher = Hasher::default();
    let mut sums = claims.map(Claims::sums);
    let mut offset = 0;
    while offset < size {
        if ctx.stop.is_cancelled() {
            return Err(Stop::Asked);
        }
        let mut piece = ctx.buffers.take(HASH_PIECE.min(size - offset) as usize);
        ctx.moved.fetch_add(1, Ordering::Relaxed);
        reading.fill(offset, &mut piece)?;
        hasher.update(piece.as_ref());
        if let Some(sums) = &mut sums {
            sums.update(piece.as_ref());
        }
        offset += piece.as_ref().len() as u64;
    }
    let doubtful = reading.end()?;
    let sha256 = hasher.finish();
    let proof = claims
        .zip(sums)
        .and_then(|(claims, sums)| claims.judge(sums, sha256));
    Ok((Digests { sha256, proof }, doubtful))
}
