//! Is the root the folder that it was? Asked before each scan; nothing is believed gone under another one.
//!
//! Device, inode and filesystem id must be those on record. Numbers change when a machine starts again or a disk moves to
//! another port, so a root that differs is still taken for the same if most of a sample of the files that were synced from
//! it are there, with their size and mtime. An empty folder where a filesystem was is neither.

use std::sync::Arc;

use crate::agent::{Loop, Pending, Then};
use crate::base::path::RelPath;
use crate::base::stat::{Identity, Kind};
use crate::manifest::{Change, Entry, FolderId, FolderRow, Manifest, State};
use crate::tree::Tree;

/// Rows that are compared with the tree when its root is not the one on record.
const SAMPLE: usize = 64;

/// What a look at the root needs.
pub(super) struct RootCheck {
    tree: Arc<dyn Tree>,
    manifest: Manifest,
    folder: FolderId,
    was: Option<Identity>,
}

/// What it found.
pub(super) enum RootFound {
    /// It is the folder on record.
    Same,
    /// It is to be put on record.
    Moved(Vec<Change>),
    /// It is not there, or another one.
    Away(String),
}

impl RootCheck {
    /// Looks at the root. Blocks.
    pub fn check(&self) -> RootFound {
        let is = match self.tree.identity() {
            Ok(is) => is,
            Err(error) => return RootFound::Away(error.to_string()),
        };
        let Some(was) = self.was else {
            return RootFound::Moved(vec![Change::Root(is)]);
        };
        if was == is {
            return RootFound::Same;
        }
        match self.is_familiar() {
            Ok(true) => {
                let renumbered = (was.dev != is.dev).then_some(Change::Renumbered { from: was.dev, to: is.dev });
                RootFound::Moved(renumbered.into_iter().chain([Change::Root(is)]).collect())
            }
            Ok(false) => RootFound::Away(
                "another folder is there than before, without the files that were synced from it; nothing is sent and \
                 nothing is removed until the former one is back (if it is right: `tidewatch folder set --accept-root`)"
                    .to_owned(),
            ),
            Err(error) => RootFound::Away(error.to_string()),
        }
    }

    /// Returns true if most of the files that a sample of rows is about are there.
    fn is_familiar(&self) -> Result<bool, crate::manifest::Error> {
        let root = RelPath::root();
        let rows = self.manifest.page(self.folder, &root, &root, SAMPLE)?;
        let is_there = |row: &&Entry| {
            let Some(content) = &row.stored else {
                return false;
            };
            self.tree.stat(&row.path).is_ok_and(|stat| {
                stat.kind == Kind::File
                    && (stat.size, stat.mtime_ns) == (content.stat.size, content.stat.mtime_ns)
            })
        };
        let synced: Vec<&Entry> = rows
            .iter()
            .filter(|row| row.state == State::Synced)
            .collect();
        // Nothing to lose: nothing was ever synced from it.
        Ok(rows.is_empty() || synced.iter().copied().filter(is_there).count() * 2 > synced.len())
    }
}

/// Returns why the root cannot be used as the folder that `row` is about; `None` if it can. Blocks.
pub fn root_trouble(tree: &Arc<dyn Tree>, manifest: &Manifest, row: &FolderRow) -> Option<String> {
    let check = RootCheck {
        tree: tree.clone(),
        manifest: manifest.clone(),
        folder: row.id,
        was: row.root,
    };
    match check.check() {
        RootFound::Away(why) => Some(why),
        RootFound::Same | RootFound::Moved(_) => None,
    }
}

impl Loop {
    pub(super) fn root_check(&self) -> RootCheck {
        let ctx = &self.ctx;
        RootCheck {
            tree: ctx.tree.clone(),
            manifest: ctx.manifest.clone(),
            folder: ctx.folder,
            was: self.root,
        }
    }

    /// Puts the root on record.
    pub(super) fn trust_root(&mut self, changes: Vec<Change>) {
        for change in &changes {
            if let Change::Root(identity) = change {
                if self.root.is_some() {
                    tracing::info!(folder = %self.teller.name(), "the folder has another device or inode, and the same files");
                }
                self.root = Some(*identity);
            }
        }
        self.pending.push_back(Pending {
            changes,
            then: Then::Nothing,
        });
    }
}
