//! Is the root the folder that it was? Asked before each scan; nothing is believed gone under another one.
//!
//! Device, inode and filesystem id must be those on record. Numbers change when a machine starts again or a disk moves to
//! another port, so a root that differs is still taken for the same if four of five files of a sample that were synced from
//! it are there, with their size and mtime. An empty folder where a filesystem was is neither.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use crate::agent::{Loop, Pending, Then};
use crate::base::path::RelPath;
use crate::base::stat::{Identity, Kind};
use crate::manifest::{Change, Entry, FolderId, FolderRow, Manifest, State};
use crate::tree::Tree;

/// Rows that are compared with the tree when its root is not the one on record.
const SAMPLE: u32 = 64;

/// What a look at the root needs.
pub(super) struct RootCheck {
    tree: Arc<dyn Tree>,
    manifest: Manifest,
    folder: FolderId,
    was: Option<Identity>,
    /// Where filesystems are known to be mounted inside it.
    mounts: BTreeSet<RelPath>,
}

/// What it found.
pub(super) enum RootFound {
    /// It is the folder on record, or is to be put on record.
    There {
        /// What is new.
        changes: Vec<Change>,
        /// Where something was mounted, and is not.
        away: Vec<RelPath>,
        /// Which one it is.
        is: Identity,
    },
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
        let mut changes = Vec::new();
        if self.was != Some(is) {
            match self.was.map_or(Ok(true), |_| self.is_familiar()) {
                Ok(true) => {
                    changes.extend(self.was.and_then(|was| renumbered(was, is)));
                    changes.push(Change::Root(is));
                }
                Ok(false) => return RootFound::Away(ANOTHER.to_owned()),
                Err(error) => return RootFound::Away(error.to_string()),
            }
        }
        self.tree.accept(is);
        let now: BTreeSet<RelPath> = match self.tree.mounts() {
            Some(points) => points.into_iter().collect(),
            // What cannot be known is as it was.
            None => self.mounts.clone(),
        };
        let mut known: BTreeSet<RelPath> = self.mounts.union(&now).cloned().collect();
        // A place that is gone, with nothing known below it, was mounted only for a while.
        known.retain(|point| now.contains(point) || !self.is_forgotten(point));
        let away = known.difference(&now).cloned().collect();
        if known != self.mounts {
            changes.push(Change::Mounts(known.into_iter().collect()));
        }
        RootFound::There { changes, away, is }
    }

    fn is_forgotten(&self, point: &RelPath) -> bool {
        let is_gone =
            matches!(self.tree.peek(point), Err(error) if error.kind() == io::ErrorKind::NotFound);
        is_gone && matches!(self.manifest.has_below(self.folder, point), Ok(false))
    }

    /// Returns true if four of five files that a sample of rows is about are there.
    fn is_familiar(&self) -> Result<bool, crate::manifest::Error> {
        let rows = self.manifest.sample(self.folder, SAMPLE)?;
        if rows.is_empty() {
            return self.has_begun();
        }
        let is_there = |row: &&Entry| {
            let Some(content) = &row.stored else {
                return false;
            };
            self.tree.peek(&row.path).is_ok_and(|stat| {
                stat.kind == Kind::File
                    && (stat.size, stat.mtime_ns) == (content.stat.size, content.stat.mtime_ns)
            })
        };
        Ok(rows.iter().filter(is_there).count() * 5 >= rows.len() * 4)
    }

    /// Returns true if four of five files are there that were being sent when a run ended: with no synced row they are all
    /// that there is to lose.
    fn has_begun(&self) -> Result<bool, crate::manifest::Error> {
        let limit = SAMPLE as usize;
        let mut rows = self
            .manifest
            .open_rows(self.folder, &RelPath::root(), limit)?;
        rows.retain(|row| row.state == State::Open);
        let is_there = |row: &&Entry| {
            let seen = self.tree.peek(&row.path);
            seen.is_ok_and(|stat| stat.kind == Kind::File)
        };
        Ok(rows.iter().filter(is_there).count() * 5 >= rows.len() * 4)
    }
}

const ANOTHER: &str = "another folder is there than before, without the files that were synced from it; nothing is sent \
    and nothing is removed until the former one is back (if it is right: `tidewatch folder set FOLDER --accept-root`)";

/// Returns the change that takes a device's new number into the rows.
pub(super) fn renumbered(was: Identity, is: Identity) -> Option<Change> {
    (was.dev != is.dev).then_some(Change::Renumbered {
        from: was.dev,
        to: is.dev,
    })
}

/// Returns why the root cannot be used as the folder that `row` is about; `None` if it can. Blocks.
pub fn root_trouble(tree: &Arc<dyn Tree>, manifest: &Manifest, row: &FolderRow) -> Option<String> {
    let check = RootCheck {
        tree: tree.clone(),
        manifest: manifest.clone(),
        folder: row.id,
        was: row.root,
        mounts: row.mounts.iter().cloned().collect(),
    };
    match check.check() {
        RootFound::Away(why) => Some(why),
        RootFound::There { .. } => None,
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
            mounts: self.mounts.clone(),
        }
    }

    /// Takes what a look at the root has found; it is durable before anything that follows from it.
    pub(super) fn trust_root(&mut self, changes: Vec<Change>, away: Vec<RelPath>) {
        for change in &changes {
            match change {
                Change::Root(identity) => {
                    if self.root.is_some() {
                        tracing::info!(folder = %self.teller.name(), "the folder has another device or inode, and the same files");
                    }
                    self.root = Some(*identity);
                }
                Change::Mounts(points) => self.mounts = points.iter().cloned().collect(),
                _ => {}
            }
        }
        for point in away
            .iter()
            .filter(|point| !self.mounts_away.contains(point))
        {
            tracing::warn!(folder = %self.teller.name(), path = %point, "what was mounted there is not; the objects of its files stay");
        }
        self.mounts_away = away;
        self.is_root_checked = true;
        if !changes.is_empty() {
            self.pending.push_back(Pending {
                changes,
                then: Then::Nothing,
            });
        }
    }
}
