//! Looking at a key before it is written: after doubt, and at first contact with what others left there.

use bytes::Bytes;

use crate::base::clock::rfc3339_millis;
use crate::base::digest::Sha256;
use crate::base::policy::Guarding;
use crate::base::proof::Proof;
use crate::manifest::{Aside, Change, Content, Entry, Facts, State};
use crate::store::{ErrorKind, Meta, Object, Which};
use crate::sync::file::{Stop, Way};
use crate::sync::foreign::Claims;
use crate::sync::plan;
use crate::sync::upload::copies::{self, Original};
use crate::sync::upload::{Gate as _, part_size_bytes};

impl Way {
    /// After the horizon of an earlier request: one look at the key tells whether it is what the row says.
    pub(in crate::sync::file) async fn settle_doubt(&mut self) -> Result<(), Stop> {
        let Some((entry, content)) = self.known.as_ref().and_then(plan::certain) else {
            return Ok(());
        };
        if !plan::is_due_again(entry, self.started) {
            return Ok(());
        }
        let is_ours = match self.gate().head(&self.task.key).await {
            Ok(object) => object.etag == content.etag && object.size == content.stat.size,
            Err(error) if error.kind == ErrorKind::NotFound => false,
            Err(error) => return Err(Stop::Store(error)),
        };
        let state = if is_ours { entry.state } else { State::Unsent };
        self.known = Some(Entry {
            state,
            ambiguous_until_ns: 0,
            // Where objects are guarded: what has landed late is our own, and may be overwritten.
            want: entry
                .want
                .filter(|_| !is_ours && self.ctx.policy.guard == Guarding::Strict),
            ..entry.clone()
        });
        Ok(())
    }

    /// First contact with a key: looks at the object that somebody else wrote there; `None` if there is none any more.
    pub(in crate::sync::file) async fn theirs(&mut self) -> Result<Option<Object>, Stop> {
        let Some(remote) = &self.task.remote else {
            return Ok(None);
        };
        // With the checksums that the store keeps of it, which may prove what it holds.
        let look = self.ctx.store.head_of(&self.task.key, &Which::Current);
        match self.gate().send(0, look).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.kind == ErrorKind::NotFound => {
                self.changes.push(Change::RemoteTaken(remote.key.clone()));
                self.task.remote = None;
                self.old_is_safe = true;
                Ok(None)
            }
            Err(error) => Err(Stop::Store(error)),
        }
    }

    /// Takes somebody else's object that has been proven to have this content for ours.
    pub(in crate::sync::file) fn adopt(&mut self, object: Object, sha256: Sha256, proof: Proof) {
        self.changes
            .extend(self.task.remote.take().map(|r| Change::RemoteTaken(r.key)));
        tracing::debug!(key = %self.task.key, "adopted an object that was there before us, by its {}", proof.words());
        let content = Content {
            stat: self.task.stat,
            read_at_ns: 0,
            sha256,
            etag: object.etag,
            version_id: object.version_id,
            synced_at_ns: self.started.wall_ns,
            doubtful: false,
        };
        let mut row = self.blank(State::Synced);
        row.stored = Some(content);
        self.known = Some(row);
        self.adopted = Some(proof);
    }

    /// Moves somebody else's object into trash: the key may be written then.
    pub(in crate::sync::file) async fn set_theirs_aside(
        &mut self,
        object: Object,
    ) -> Result<(), Stop> {
        self.move_aside(&object).await?;
        tracing::info!(key = %self.task.key, "set an object aside that was there before us");
        (self.set_aside, self.old_is_safe) = (true, true);
        if let Some(remote) = self.task.remote.take() {
            self.taken(remote.key, object);
        }
        Ok(())
    }

    /// Compares a content that is in memory with somebody else's object.
    pub(in crate::sync::file) async fn compare(
        &self,
        object: &Object,
        bytes: Bytes,
        sha256: Sha256,
    ) -> Option<Proof> {
        let claims = Claims::of(object, part_size_bytes(object.size));
        if !claims.is_of_size(bytes.len() as u64) {
            return None;
        }
        let compare = move || {
            let mut sums = claims.sums();
            sums.update(&bytes);
            claims.judge(sums, sha256)
        };
        self.ctx.offload.run(compare).await
    }

    pub(in crate::sync::file) async fn move_aside(&mut self, object: &Object) -> Result<(), Stop> {
        let from = Original {
            key: self.task.key.clone(),
            etag: object.etag.clone(),
            size: object.size,
        };
        let stamp = rfc3339_millis(self.started.wall_ns).replace(':', "-");
        let to = self
            .ctx
            .keys
            .trash_key(&stamp, &self.task.job.path)
            .map_err(|error| {
                self.no_room(&format!("the object there could not be set aside: {error}"))
            })?;
        let user = object.user.iter();
        let carried = Meta {
            user: user
                .map(|(name, value)| (name.clone().into(), value.clone()))
                .collect(),
            content_type: self.ctx.labels.content_type(&self.task.job.path),
            ..Meta::default()
        };
        // Noted before: a copy whose answer is lost may be in trash all the same.
        self.note_trash();
        let (store, gate) = (&self.ctx.store, self.gate_for(&to));
        let mut copied = copies::copy(store, &gate, &from, &to, &carried).await;
        if copied
            .as_ref()
            .is_err_and(|error| error.kind == ErrorKind::Unsupported)
        {
            copied = copies::relay(store, &gate, &from, &to, &carried).await;
        }
        copied.map_err(|mut error| {
            error.message = format!("the object there could not be set aside: {}", error.message);
            Stop::Store(error)
        })?;
        tracing::debug!(key = %self.task.key, to, "set an object aside");
        let aside = self.aside(object, to);
        self.changes.push(Change::Aside(Box::new(aside)));
        Ok(())
    }

    /// Says of an object that was copied to `to` what is known of it: by the row if it is the row's, else what it declares.
    fn aside(&self, object: &Object, to: String) -> Aside {
        let stored = self.known.as_ref().and_then(|row| row.stored.as_ref());
        let is_it =
            |content: &&Content| content.etag == object.etag && content.stat.size == object.size;
        let known = stored.filter(is_it).map(Facts::of).unwrap_or_default();
        Aside {
            path: self.task.job.path.clone(),
            trash_key: to,
            facts: Facts {
                size: Some(object.size),
                sha256: known.sha256.or(object.sha256()),
                etag: Some(object.etag.clone()),
                version_id: object.version_id.clone(),
                ..known
            },
            at_ns: self.ctx.clock.now().wall_ns,
        }
    }
}
