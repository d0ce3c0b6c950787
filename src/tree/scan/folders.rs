//! The scan's part in folders: which of them differ from what is on record, and which of those on record are gone.
//!
//! A folder counts if it belongs by its own path and could be listed, or is watched and so was listed before. One on record
//! is gone only if the folder in which its name should have been was listed without an error, and it belongs.

use crate::base::path::RelPath;
use crate::base::stat::{FolderStamp, Kind, Stat};
use crate::tree::scan::Scanner;

/// What is on record of one folder inside the scanned tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Folder {
    /// Its path.
    pub path: RelPath,
    /// Its time, mode and owner.
    pub stamp: FolderStamp,
}

/// What is new of a folder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FolderNews {
    /// It is there, and has these.
    Is(RelPath, FolderStamp),
    /// It is on record, and not there any more.
    Gone(RelPath),
}

impl Scanner {
    /// Takes a folder that was listed, or is known to be listed by somebody else.
    pub(in crate::tree::scan) fn met(
        &mut self,
        path: &RelPath,
        stat: &Stat,
        known: Option<Folder>,
    ) {
        let stamp = FolderStamp::of(stat);
        let is_news = known.is_none_or(|known| known.stamp != stamp);
        if is_news && self.filter.takes_folder(path) {
            let news = FolderNews::Is(path.clone(), stamp);
            self.step.folders.push(news);
        }
    }

    /// Takes the folder that the scan begins with: nothing lists it by its name.
    pub(in crate::tree::scan) fn met_first(
        &mut self,
        path: &RelPath,
        stat: &Stat,
    ) -> anyhow::Result<()> {
        let known = self.rows.folder(path)?;
        let known = known.map(|stamp| Folder {
            path: path.clone(),
            stamp,
        });
        self.met(path, stat, known);
        Ok(())
    }

    /// Goes through one folder on record before the given name, or any; returns false if there is none.
    pub(in crate::tree::scan) fn pass_folder(
        &mut self,
        before: Option<(&RelPath, bool)>,
    ) -> anyhow::Result<bool> {
        let Some(folder) = self.folders.peek(&mut *self.rows)? else {
            return Ok(false);
        };
        if !is_met_before(&folder.path, before) {
            return Ok(false);
        }
        let path = folder.path.clone();
        let is_listed = self
            .way
            .last()
            .is_some_and(|level| level.listed && path.is_within(&level.folder));
        let is_vanished = self
            .vanished
            .as_ref()
            .is_some_and(|folder| path.is_within(folder));
        if is_listed
            && !is_vanished
            && !self.tree.is_away(&path)
            && self.filter.excludes(&path, Kind::Folder).is_none()
        {
            self.step.folders.push(FolderNews::Gone(path));
        }
        self.folders.drop_first();
        Ok(true)
    }
}

/// Returns true if a walk would have met the folder before the given name.
fn is_met_before(folder: &RelPath, before: Option<(&RelPath, bool)>) -> bool {
    before.is_none_or(|(name, is_folder)| {
        let slash = is_folder.then_some(b'/');
        let name = name.as_bytes().iter().copied().chain(slash);
        folder.as_bytes().iter().copied().chain([b'/']).lt(name)
    })
}
