//! What the loop says of itself beside the data, so that others can tell how far it is without asking this machine.
//!
//! - An agent that stays says it when it has changed, at most once in [`EVERY`], and when it has not, once in [`IDLE`]:
//!   who reads it can tell a living agent from a dead one. The first time when it is level, or a minute after its start.
//! - One that ends, of either kind, says so at its end, if what it says (but for the time) is not what was said last:
//!   a `sync` that finds everything level sends nothing.
//! - Only while the lease is held, and past the limits: it is one small object. What does not work is tried again after
//!   [`EVERY`], and is nobody's trouble: whatever stands in its way stands in the way of files too, and is told by them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::agent::{Folder, Loop, Mode};
use crate::base::clock::{Now, rfc3339};
use crate::base::offload::joined;
use crate::report::status_file::FolderStatus;
use crate::report::word::Word;
use crate::store::key::STATUS;
use crate::store::{Body, Meta};
use crate::sync::file::Ctx;

/// The shortest time between two words.
pub const EVERY: Duration = Duration::from_secs(60);
/// The longest, of an agent that stays.
pub const IDLE: Duration = Duration::from_secs(3600);
/// How long the last word may keep a process from ending.
const LAST: Duration = Duration::from_secs(5);

/// What was said; nothing ever is where there is no lease.
pub(super) struct LastWord {
    host: Option<String>,
    tasks: JoinSet<Option<String>>,
    /// The digest of the last word, as far as this process has said one.
    last: Option<(String, Instant)>,
    /// Not looked at before.
    next: Instant,
}

impl LastWord {
    pub fn new(folder: &Folder) -> Self {
        Self {
            host: folder.owner.as_ref().map(|owner| owner.host.clone()),
            tasks: JoinSet::new(),
            last: None,
            next: folder.clock.now().mono,
        }
    }
}

impl Loop {
    /// Says how it is, if it is time to.
    pub(super) fn say(&mut self, now: Now) {
        let said = &mut self.said;
        while let Some(ended) = said.tasks.try_join_next() {
            if let Some(Some(digest)) = joined(ended) {
                said.last = Some((digest, now.mono));
            }
        }
        let is_time = now.mono >= said.next && said.tasks.is_empty();
        if self.mode != Mode::Forever || self.stopping.is_some() || !is_time {
            return;
        }
        let is_first = self.said.last.is_none();
        let is_young = now.mono < self.teller.started() + EVERY;
        if !self.lease.is_held(now) || is_first && is_young && !self.teller.is_level() {
            return;
        }
        let Some(word) = self.word(now, Ending::GoesOn) else {
            return;
        };
        self.said.next = now.mono + EVERY;
        let digest = word.digest();
        let is_known = |(last, at): &(String, Instant)| *last == digest && now.mono < *at + IDLE;
        if !self.said.last.as_ref().is_some_and(is_known) {
            self.said.tasks.spawn(put(self.ctx.clone(), word, digest));
        }
    }

    /// Returns when something may be to be said that nothing else wakes the loop for.
    pub(super) fn say_at(&self, now: Now) -> Option<Instant> {
        let is_on = self.said.host.is_some() && self.mode == Mode::Forever;
        (is_on && self.lease.is_held(now)).then(|| self.said.next.max(now.mono + EVERY / 60))
    }

    /// Says how it ends, if that is news. The lease is given back only after it.
    pub(super) async fn say_last(&mut self) {
        let now = self.ctx.clock.now();
        if !self.lease.is_held(now) {
            return;
        }
        self.publish_now(now);
        let Some(word) = self.word(now, Ending::Ends) else {
            return;
        };
        let (digest, ctx) = (word.digest(), self.ctx.clone());
        let said = tokio::time::timeout(LAST, async {
            // What is on its way must not land behind the last word.
            self.said.tasks.shutdown().await;
            let (manifest, folder) = (ctx.manifest.clone(), ctx.folder);
            let known = ctx.offload.run(move || manifest.said(folder)).await;
            if known.ok().flatten().as_deref() != Some(&*digest) {
                put(ctx, word, digest).await;
            }
        });
        if said.await.is_err() {
            tracing::debug!(folder = %self.teller.name(), "the last word was not said in time");
        }
    }

    fn word(&self, now: Now, ending: Ending) -> Option<Word> {
        Some(Word {
            written_at: rfc3339(now.wall_ns),
            host: self.said.host.clone()?,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            by: match self.mode {
                Mode::Forever => "agent",
                Mode::Once { .. } => "sync",
            },
            ended: matches!(ending, Ending::Ends),
            folder: FolderStatus::of(&self.teller.last()),
        })
    }
}

#[derive(Clone, Copy)]
enum Ending {
    GoesOn,
    Ends,
}

/// Puts a word where it belongs; returns its digest if that has worked.
async fn put(ctx: Arc<Ctx>, word: Word, digest: String) -> Option<String> {
    let meta = Meta {
        content_type: Some("application/json".to_owned()),
        is_own: true,
        ..Meta::default()
    };
    let key = ctx.keys.reserved(STATUS);
    let body = Body::of(Bytes::from(word.json()));
    if let Err(error) = ctx.store.put(&key, body, &meta).await {
        tracing::debug!(key, "could not say how the folder is: {error}");
        return None;
    }
    let (manifest, folder, kept) = (ctx.manifest.clone(), ctx.folder, digest.clone());
    let keep = move || manifest.keep_said(folder, &kept);
    if let Err(error) = ctx.offload.run(keep).await {
        // It is said once more then.
        tracing::debug!("could not keep what was said: {error}");
    }
    Some(digest)
}
