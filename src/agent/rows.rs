//! The manifest's rows as a scan wants them.

use crate::base::clock::Now;
use crate::base::path::RelPath;
use crate::base::stat::FolderStamp;
use crate::manifest::{Entry, FolderId, HeldWhat, Manifest, State};
use crate::sync::plan;
use crate::tree::scan::{Folder, Known, Rows};

/// The manifest's rows as a scan wants them.
pub struct ManifestRows {
    /// The manifest.
    pub manifest: Manifest,
    /// The folder.
    pub folder: FolderId,
    /// Which keys are to be looked at again by now.
    pub now: Now,
}

impl Rows for ManifestRows {
    fn page(
        &mut self,
        within: &RelPath,
        after: &RelPath,
        limit: usize,
    ) -> anyhow::Result<Vec<Known>> {
        let rows = self.manifest.page(self.folder, within, after, limit)?;
        Ok(rows.iter().map(|row| known(row, self.now)).collect())
    }

    fn folders(
        &mut self,
        within: &RelPath,
        after: &RelPath,
        limit: usize,
    ) -> anyhow::Result<Vec<Folder>> {
        let folders = self
            .manifest
            .subfolders(self.folder, within, after, limit)?
            .into_iter();
        Ok(folders
            .map(|(path, stamp)| Folder { path, stamp })
            .collect())
    }

    fn folder(&mut self, path: &RelPath) -> anyhow::Result<Option<FolderStamp>> {
        Ok(self.manifest.subfolder(self.folder, path)?)
    }
}

fn known(row: &Entry, now: Now) -> Known {
    let is_due_again = plan::is_due_again(row, now);
    let is_certain = matches!(row.state, State::Synced | State::Kept);
    let is_doubtful = row.stored.as_ref().is_some_and(|content| content.doubtful);
    // A person's word is used up by a look, whatever that finds.
    let is_released = row
        .held
        .as_ref()
        .is_some_and(|held| held.what == HeldWhat::Released);
    let held_seen = row.held.as_ref().and_then(|held| {
        let is_asked = matches!(held.what, HeldWhat::Overwrite | HeldWhat::Dropped);
        held.seen.clone().filter(|_| is_asked)
    });
    let parked = row
        .failure
        .as_ref()
        .and_then(|failure| failure.parked.as_ref());
    let parked_seen = parked
        .filter(|parked| parked.until_ns > now.wall_ns)
        .map(|parked| parked.seen.clone());
    Known {
        path: row.path.clone(),
        stat: row.stored.as_ref().map(|content| content.stat),
        read_at_ns: row.stored.as_ref().map_or(0, |content| content.read_at_ns),
        settled: is_certain
            && !is_due_again
            && !is_doubtful
            && !is_released
            && row.failure.is_none(),
        kept: plan::is_old_news(row, now),
        held_seen: held_seen.or(parked_seen),
    }
}
