//! Strict writes: what the key is known to hold, and what is said when somebody else has written it.

use std::sync::Arc;

use crate::base::policy::Guarding;
use crate::manifest::Entry;
use crate::store::guarded::Guarded;
use crate::store::{self, Effect, Error, ErrorKind, Object, Store, When};
use crate::sync::file::aside::is_certain;
use crate::sync::file::{Stop, Way};
use crate::sync::{meta, plan};

/// What is said of an object that is not ours any more.
pub const THEIRS: &str =
    "somebody else wrote this object: it stays as it is, and the file is not safe";

impl Way {
    /// Returns the store to change this path's own key on: the bucket, or, under a strict guard, one that changes the key
    /// only while it holds what it is known to hold.
    pub(in crate::sync::file) async fn own(&self) -> Result<Arc<dyn Store>, Stop> {
        let store = self.ctx.store.clone();
        if self.ctx.policy.guard == Guarding::Off {
            return Ok(store);
        }
        let when = self.known_there().await?;
        Ok(Arc::new(Guarded::new(store, &self.task.key, when)))
    }

    /// Returns what has to be true of the key for it to be written.
    async fn known_there(&self) -> Result<When, Stop> {
        if let Some(etag) = &self.there {
            return Ok(When::Is(etag.clone()));
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
        match self.gate().head(&self.task.key).await {
            Ok(object) if self.may_be_ours(entry, &object) => Ok(When::Is(object.etag)),
            Ok(_) => Err(Stop::Theirs),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(When::Absent),
            Err(error) => Err(Stop::Store(error)),
        }
    }

    /// Returns true for an object that a row in doubt can be about.
    fn may_be_ours(&self, entry: &Entry, object: &Object) -> bool {
        let stored = entry.stored.as_ref();
        let declared = object.sha256();
        let is_sent = declared.is_some()
            && (declared == entry.want || declared == stored.map(|content| content.sha256));
        let is_stored = stored.is_some_and(|content| content.etag == object.etag);
        // One of parts may have been begun before its hash was known: its times and owner are those of the file.
        let of_file = meta::of(&self.task.job.path, &self.task.stat, None);
        let is_file = declared.is_none()
            && object.size == self.task.stat.size
            && of_file.user.iter().all(|(name, value)| {
                let same = |(n, v): &(String, String)| n == name && v == value;
                object.user.iter().any(same)
            });
        is_sent || is_stored || is_file
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

    /// Returns under which condition the object that was looked at may be removed.
    pub(in crate::sync::file) fn removes(&self, object: &Object) -> When {
        match self.ctx.policy.guard {
            Guarding::Off => When::Always,
            Guarding::Strict => When::Is(object.etag.clone()),
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
