//! Strict writes: what the key is known to hold, and what is said when somebody else has written it.

use std::sync::Arc;

use crate::base::digest::Sha256;
use crate::base::policy::Guarding;
use crate::manifest::{Change, Entry, Remote};
use crate::store::guarded::Guarded;
use crate::store::{self, Effect, Error, ErrorKind, Object, Store, When};
use crate::sync::file::aside::is_certain;
use crate::sync::file::{Stop, Way};
use crate::sync::plan;
use crate::sync::upload::{Gate as _, SINGLE_MOST};

/// What is said of an object that is not ours any more.
pub const THEIRS: &str =
    "somebody else wrote this object: it stays as it is, and the file is not safe";

impl Way {
    /// Returns the store to change this path's own key on: the bucket, or, under a strict guard, one that changes the key
    /// only while it holds what it is known to hold.
    ///
    /// `sha256` is what is to be sent, where that is known.
    pub(in crate::sync::file) async fn own(
        &self,
        sha256: Option<Sha256>,
    ) -> Result<Arc<dyn Store>, Stop> {
        let store = self.ctx.store.clone();
        if self.ctx.policy.guard == Guarding::Off {
            return Ok(store);
        }
        let when = self.known_there(sha256).await?;
        Ok(Arc::new(Guarded::new(store, &self.task.key, when)))
    }

    /// Somebody else's object under `key` has been set aside, and may be overwritten. Where objects are guarded that is on
    /// record until it has been: only that object may.
    pub(in crate::sync::file) fn taken(&mut self, key: String, object: Object) {
        match self.ctx.policy.guard {
            Guarding::Off => self.changes.push(Change::RemoteTaken(key)),
            Guarding::Strict => {
                let (size, etag) = (object.size, object.etag);
                self.there = Some(Remote { key, size, etag });
            }
        }
    }

    /// Returns what has to be true of the key for it to be written.
    async fn known_there(&self, sha256: Option<Sha256>) -> Result<When, Stop> {
        if let Some(there) = &self.there {
            return Ok(When::Is(there.etag.clone()));
        }
        let Some(entry) = &self.known else {
            return Ok(When::Absent);
        };
        let was_theirs = |entry: &Entry| {
            let failure = entry.failure.as_ref();
            failure.is_some_and(|failure| failure.error == THEIRS)
        };
        if let Some((_, content)) = plan::certain(entry).filter(|_| is_certain(entry))
            && !was_theirs(entry)
        {
            return Ok(When::Is(content.etag.clone()));
        }
        // In doubt, or somebody else's at the last try: the key is looked at before anything is sent.
        let object = match self.gate().head(&self.task.key).await {
            Ok(object) => object,
            Err(error) if error.kind == ErrorKind::NotFound => return Ok(When::Absent),
            Err(error) => return Err(Stop::Store(error)),
        };
        if self.may_be_ours(entry, &object, sha256).await? {
            Ok(When::Is(object.etag))
        } else {
            Err(Stop::Theirs)
        }
    }

    /// Returns true for an object that a row in doubt can be about: what was sent, what was there before, or what is to be
    /// sent now. Where several writes are in doubt, or one whose hash was not known when it began, what is declared of the
    /// file has to do.
    async fn may_be_ours(
        &self,
        entry: &Entry,
        object: &Object,
        sha256: Option<Sha256>,
    ) -> Result<bool, Stop> {
        let stored = entry.stored.as_ref();
        let is_named = |found: Sha256| {
            let was = stored.map(|content| content.sha256);
            [entry.want, was, sha256].contains(&Some(found))
        };
        if stored.is_some_and(|content| content.etag == object.etag) {
            return Ok(true);
        }
        let declares = |name: &&str| object.user.iter().any(|(n, _)| n == name);
        if entry.want.is_none() && ["gid", "mode", "mtime", "uid"].iter().all(declares) {
            return Ok(true);
        }
        if let Some(declared) = object.sha256() {
            return Ok(is_named(declared));
        }
        if object.size > SINGLE_MOST {
            return Ok(false);
        }
        // A store that drops what is declared: the content itself tells.
        // What is to be sent may be in memory already: nobody waits for more with some in hand.
        let Some(hold) = self.ctx.limits.try_memory(object.size, self.lane()) else {
            return Err(Stop::Store(Error::new(
                ErrorKind::Conflict,
                "GetObject",
                &self.task.key,
                Effect::None,
                "there is no memory left to look at the object that is there",
            )));
        };
        let get = self.ctx.store.get(&self.task.key, None);
        let got = self.gate().send(object.size, get).await;
        let (found, bytes) = got.map_err(Stop::Store)?;
        let is_ours = found.etag == object.etag && is_named(Sha256::of(&bytes));
        drop(hold);
        Ok(is_ours)
    }

    /// Tells a refusal that is about somebody else's write from other errors of a write of the own key.
    pub(in crate::sync::file) fn refused(&self, error: Error) -> Result<Error, Stop> {
        let is_theirs = self.ctx.policy.guard == Guarding::Strict
            && error.kind == ErrorKind::Precondition
            && error.effect == Effect::None
            && error.key == self.task.key
            && error.operation != "CopyObject";
        if is_theirs {
            Err(Stop::Theirs)
        } else {
            Ok(error)
        }
    }

    /// Returns what a copy that was not answered may have made of the key. Its source is only certain where the condition
    /// on it is held to.
    pub(in crate::sync::file) fn copied(&self, sha256: Sha256) -> Option<Sha256> {
        (self.ctx.policy.guard == Guarding::Strict).then_some(sha256)
    }

    /// Returns under which condition the object that was looked at may be removed.
    ///
    /// Of a store of which that is not known nothing is removed that is to be guarded.
    pub(in crate::sync::file) fn removes(&self, object: &Object) -> Result<When, Stop> {
        let features = self.ctx.store.features();
        match self.ctx.policy.guard {
            Guarding::Off => Ok(When::Always),
            Guarding::Strict if features.is_known && features.delete_if_match.is_none() => {
                Err(Stop::Store(Error::new(
                    ErrorKind::Denied,
                    "DeleteObject",
                    &self.task.key,
                    Effect::None,
                    "the right to remove objects was missing when the store was asked whether it guards them; grant it, and run `tidewatch check`",
                )))
            }
            Guarding::Strict => Ok(When::Is(object.etag.clone())),
        }
    }
}

/// Returns true for a removal that found another object than the one that was looked at.
pub(in crate::sync::file) fn is_changed<T>(removed: &store::Result<T>, when: &When) -> bool {
    *when != When::Always
        && removed.as_ref().is_err_and(|error| {
            error.kind == ErrorKind::Precondition && error.effect == Effect::None
        })
}
