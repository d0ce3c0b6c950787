//! What has to happen before an object is overwritten: a person may have to be asked, and the old object be set aside.

use tokio::sync::oneshot;

use crate::base::digest::Sha256;
use crate::base::policy::History;
use crate::base::stat::Stat;
use crate::manifest::{Change, Held, HeldWhat};
use crate::store::{Body, ErrorKind};
use crate::sync::brake::Verdict;
use crate::sync::file::{Message, Outcome, Stop, Way};
use crate::sync::plan;
use crate::sync::upload::{self, Gate as _};
use crate::tree::Whole;

/// What comes before a write of the key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::sync::file) enum Guard {
    /// Nothing.
    Go,
    /// The old object is set aside; no memory may be held meanwhile.
    SetAside,
    /// The new content goes into quarantine instead.
    Quarantine,
}

impl Way {
    /// Asks what comes before the key is given the content `sha256`.
    pub(in crate::sync::file) async fn before_overwriting(&mut self, sha256: Sha256) -> Guard {
        let old = self.known.as_ref().and_then(|entry| entry.stored.as_ref());
        let is_other = old.is_none_or(|old| old.sha256 != sha256);
        self.guard(is_other).await
    }

    /// The same for content that has not been read, and is another one.
    pub(in crate::sync::file) async fn before_overwriting_unread(&mut self) -> Guard {
        self.guard(true).await
    }

    async fn guard(&mut self, is_other: bool) -> Guard {
        let Some(entry) = self.known.as_ref().filter(|_| is_other) else {
            return Guard::Go;
        };
        let held = entry.held.as_ref().map(|held| held.what);
        let is_good = plan::certain(entry).is_some();
        let asks = self.ctx.policy.asks_before_overwriting && held != Some(HeldWhat::Released);
        if held == Some(HeldWhat::Overwrite) {
            // Undecided: a newer version waits in the place of the one before.
            self.allowed = Some(Verdict::Hold);
        } else if is_good && asks && self.allowed.is_none() {
            let (verdict, answer) = oneshot::channel();
            let path = self.task.job.path.clone();
            let asked = self
                .ctx
                .to_loop
                .send(Message::Overwrite { path, verdict })
                .await;
            // A loop that has ended answers nothing, and this job ends with it.
            self.allowed = Some(if asked.is_ok() {
                answer.await.unwrap_or(Verdict::Hold)
            } else {
                Verdict::Hold
            });
        }
        if self.allowed == Some(Verdict::Hold) {
            Guard::Quarantine
        } else if self.ctx.policy.history == History::Trash
            && !self.old_is_safe
            // Somebody else's is adopted or set aside by first contact, which also takes note that it is settled.
            && self.task.remote.is_none()
        {
            Guard::SetAside
        } else {
            Guard::Go
        }
    }

    /// Copies what is under the key into trash.
    pub(in crate::sync::file) async fn set_old_aside(&mut self) -> Result<(), Stop> {
        match self.gate().head(&self.task.key).await {
            Ok(object) => self.move_aside(&object).await?,
            Err(error) if error.kind == ErrorKind::NotFound => {}
            Err(error) => return Err(Stop::Store(error)),
        }
        self.old_is_safe = true;
        Ok(())
    }

    /// Notes that something is in trash, and until when.
    pub(in crate::sync::file) fn note_trash(&mut self) {
        let keep_ns = i64::try_from(self.ctx.policy.trash_keep.as_nanos()).unwrap_or(i64::MAX);
        self.changes.push(Change::Trashed(
            self.started.wall_ns.saturating_add(keep_ns),
        ));
    }

    pub(in crate::sync::file) async fn quarantine_small(
        &mut self,
        whole: Whole,
    ) -> Result<Outcome, Stop> {
        let key = self.quarantine_key()?;
        let (stat, sha256) = (whole.stat, whole.sha256);
        let meta = self
            .ctx
            .labels
            .meta(&self.task.job.path, &stat, Some(sha256));
        let gate = self.gate();
        let body = Body::new(whole.bytes, whole.crc64, Some(sha256)).with_tap(Some(gate.tap()));
        let put = self.ctx.store.put(&key, body, &meta);
        gate.send(stat.size, put).await.map_err(Stop::Store)?;
        Ok(self.held(&stat))
    }

    pub(in crate::sync::file) async fn quarantine_large(
        &mut self,
        source: &upload::Source,
    ) -> Result<Outcome, Stop> {
        let key = self.quarantine_key()?;
        let meta = self
            .ctx
            .labels
            .meta(&self.task.job.path, &source.stat, None);
        let former = self.former(&key, source).await;
        let (store, gate) = (&self.ctx.store, self.gate_for(&key));
        let sent = upload::multipart(store, &gate, &key, &meta, source, former).await?;
        self.changes.push(Change::UploadEnded(sent.upload));
        Ok(self.held(&source.stat))
    }

    fn quarantine_key(&self) -> Result<String, Stop> {
        let key = self.ctx.keys.quarantine_key(&self.task.job.path);
        key.map_err(|error| {
            self.no_room(&format!(
                "the overwrite brake is on, and its place in quarantine: {error}"
            ))
        })
    }

    /// The row still says what the key has; what the file has waits for a person.
    fn held(&mut self, stat: &Stat) -> Outcome {
        if let Some(mut row) = self.row_now() {
            let (what, at_ns) = (HeldWhat::Overwrite, self.started.wall_ns);
            row.held = Some(Box::new(Held {
                what,
                at_ns,
                seen: Some(stat.fingerprint()),
            }));
            row.failure = None;
            self.changes.push(Change::Put(row));
        }
        Outcome::Held
    }

    /// After a file has become level: what waited for it in quarantine has no more use.
    pub(in crate::sync::file) async fn after(&mut self, outcome: Outcome) -> Outcome {
        let waited = self
            .task
            .known
            .as_ref()
            .and_then(|entry| entry.held.as_ref());
        let is_over = matches!(outcome, Outcome::Synced { .. } | Outcome::Deleted { .. });
        if is_over
            && waited.is_some_and(|held| held.seen.is_some())
            && let Ok(key) = self.ctx.keys.quarantine_key(&self.task.job.path)
            && let Err(error) = self.gate().send(0, self.ctx.store.delete(&key)).await
        {
            tracing::debug!(%error, "could not remove an object from quarantine");
        }
        outcome
    }
}

/// A row whose content is certain, for who only wants to know that.
pub(in crate::sync::file) fn is_certain(entry: &crate::manifest::Entry) -> bool {
    plan::certain(entry).is_some() && plan::doubt_until(entry) == 0
}
