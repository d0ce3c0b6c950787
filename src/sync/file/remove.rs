//! Removing the object of a file that is proven gone.
//!
//! Never removes what it does not know: an object that is not the one of the row was written by somebody else, and stays.

use std::io;

use crate::base::path::RelPath;
use crate::base::policy::OnDelete;
use crate::base::stat::{Identity, Kind};
use crate::manifest::{Change, Entry, Remote, State};
use crate::store::{self, ErrorKind, Object};
use crate::sync::file::aside::is_certain;
use crate::sync::file::guard::is_changed;
use crate::sync::file::{Doubt, Outcome, Stop, Way};
use crate::sync::plan;
use crate::tree::Tree;

impl Way {
    pub(in crate::sync::file) async fn remove(&mut self, root: Identity) -> Result<Outcome, Stop> {
        let object = match self.gate().head(&self.task.key).await {
            Ok(object) => object,
            Err(error) if error.kind == ErrorKind::NotFound => return Ok(self.deleted()),
            Err(error) => return Err(Stop::Store(error)),
        };
        if !self.is_ours(&object) {
            return Ok(self.left_alone(object));
        }
        self.size = object.size;
        let when = self.removes(&object)?;
        if self.ctx.policy.on_delete == OnDelete::Trash {
            self.move_aside(&object).await?;
        }
        // The last look, as late as can be: much may have happened since the one before the intent.
        let (tree, path) = (self.ctx.tree.clone(), self.task.job.path.clone());
        let look = move || {
            tree.identity().is_ok_and(|is| is == root)
                && !tree.is_away(&path)
                && is_gone(&*tree, &path)
        };
        let (ctx, gate) = (self.ctx.clone(), self.gate());
        let removal = ctx.removals.remove(
            &ctx.store,
            &*gate,
            ctx.offload,
            (&self.task.key, &when),
            Box::new(look),
        );
        let removed = removal.await;
        if is_changed(&removed, &when) {
            return match gate.head(&self.task.key).await {
                Ok(object) => Ok(self.left_alone(object)),
                Err(error) => Err(Stop::Store(error)),
            };
        }
        let removed = removed.map_err(|error| self.unwritten(error, None))?;
        let Some(removed) = removed else {
            self.restore(None);
            return Ok(Outcome::Back);
        };
        if removed.is_outstanding {
            self.doubt = Doubt::Write(None);
        }
        Ok(self.deleted())
    }

    /// Returns true for an object that this row is about. A row in doubt is about whatever we may have written there.
    fn is_ours(&self, object: &Object) -> bool {
        match self
            .known
            .as_ref()
            .filter(|entry| is_certain(entry))
            .and_then(|entry| entry.stored.as_ref())
        {
            Some(content) => object.etag == content.etag && object.size == content.stat.size,
            // What was there before us is set aside before we write: another object since then is ours, if it says so.
            None => self.task.remote.as_ref().is_none_or(|theirs| {
                let want = self.known.as_ref().and_then(|entry| entry.want);
                object.etag != theirs.etag && want.is_some() && object.sha256() == want
            }),
        }
    }

    /// Somebody else's object stays; if a file comes to its key again, it is set aside first.
    fn left_alone(&mut self, object: Object) -> Outcome {
        let (key, size, etag) = (self.task.key.clone(), object.size, object.etag);
        self.changes
            .push(Change::RemoteFound(vec![Remote { key, size, etag }]));
        self.changes
            .push(Change::Forget(self.task.job.path.clone()));
        Outcome::Foreign
    }

    /// Until nothing can land on the key any more, the row stays as a tombstone.
    fn deleted(&mut self) -> Outcome {
        let now = self.now();
        let own = if self.doubt == Doubt::None {
            0
        } else {
            now.wall_ns.saturating_add(plan::HORIZON_NS)
        };
        let earlier = self
            .task
            .known
            .as_ref()
            .map_or(0, |entry| plan::outstanding_until(entry, now));
        let ambiguous_until_ns = own.max(earlier);
        let path = self.task.job.path.clone();
        self.changes.push(if ambiguous_until_ns == 0 {
            Change::Forget(path)
        } else {
            Change::Put(Entry {
                ambiguous_until_ns,
                ..Entry::blank(path, State::Open)
            })
        });
        Outcome::Deleted { ambiguous_until_ns }
    }

    /// Makes the error of a reserved key that has no room.
    pub(in crate::sync::file) fn no_room(&self, why: &str) -> Stop {
        Stop::Store(store::Error::new(
            ErrorKind::TooLarge,
            "CopyObject",
            &self.task.key,
            store::Effect::None,
            why,
        ))
    }
}

/// Returns true if there is no file at `path`.
fn is_gone(tree: &dyn Tree, path: &RelPath) -> bool {
    match tree.stat(path) {
        Ok(stat) => stat.kind != Kind::File,
        Err(error) => matches!(
            error.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
        ),
    }
}
