//! What is on record of a scanned folder, in the order in which a walk meets it, a page at a time.

use std::collections::VecDeque;

use crate::base::path::RelPath;
use crate::tree::scan::{Folder, Known, Rows};

/// How much is asked for at once: enough to make the question cheap, small beside a listing.
pub(in crate::tree::scan) const PAGE: usize = 512;

/// The longest name of any filesystem that Linux knows, in bytes.
const NAME_MAX: usize = 255;

/// Something that is on record under a path.
pub(in crate::tree::scan) trait Row: Sized {
    /// Whether it sorts with a `/` behind its path, as a folder's own name does in a listing.
    const IS_FOLDER: bool;

    fn path(&self) -> &RelPath;

    fn page(rows: &mut dyn Rows, within: &RelPath, after: &RelPath) -> anyhow::Result<Vec<Self>>;

    /// Returns what a path sorts by.
    fn order(path: &RelPath) -> impl Iterator<Item = u8> + '_ {
        let slash = Self::IS_FOLDER.then_some(b'/');
        path.as_bytes().iter().copied().chain(slash)
    }
}

impl Row for Known {
    const IS_FOLDER: bool = false;

    fn path(&self) -> &RelPath {
        &self.path
    }

    fn page(rows: &mut dyn Rows, within: &RelPath, after: &RelPath) -> anyhow::Result<Vec<Self>> {
        rows.page(within, after, PAGE)
    }
}

impl Row for Folder {
    const IS_FOLDER: bool = true;

    fn path(&self) -> &RelPath {
        &self.path
    }

    fn page(rows: &mut dyn Rows, within: &RelPath, after: &RelPath) -> anyhow::Result<Vec<Self>> {
        rows.folders(within, after, PAGE)
    }
}

/// What is on record below a folder, a page at a time.
pub(in crate::tree::scan) struct Cursor<R> {
    within: RelPath,
    page: VecDeque<R>,
    /// The next page begins after this path.
    after: RelPath,
    /// The last page has been taken.
    at_end: bool,
}

impl<R: Row> Cursor<R> {
    pub(in crate::tree::scan) fn new(within: RelPath) -> Self {
        Self {
            after: within.clone(),
            within,
            page: VecDeque::new(),
            at_end: false,
        }
    }

    pub(in crate::tree::scan) fn peek(
        &mut self,
        rows: &mut dyn Rows,
    ) -> anyhow::Result<Option<&R>> {
        if self.page.is_empty() && !self.at_end {
            let page = R::page(rows, &self.within, &self.after)?;
            let is_sorted = |a: &R, b: &R| R::order(a.path()).lt(R::order(b.path()));
            debug_assert!(
                page.is_sorted_by(is_sorted)
                    && page
                        .first()
                        .is_none_or(|first| R::order(&self.after).lt(R::order(first.path()))),
                "a page is sorted and begins after the last one"
            );
            self.at_end = page.len() < PAGE;
            if let Some(last) = page.last() {
                self.after = last.path().clone();
            }
            self.page = page.into();
        }
        Ok(self.page.front())
    }

    pub(in crate::tree::scan) fn drop_first(&mut self) {
        self.page.pop_front();
    }

    /// Takes the row at `path` if it is the one that was peeked at.
    pub(in crate::tree::scan) fn take_equal(&mut self, path: &RelPath) -> Option<R> {
        self.page.pop_front_if(|row| row.path() == path)
    }

    /// Goes behind all rows below `folder`, without reading them where they are not in the page yet.
    pub(in crate::tree::scan) fn skip_below(&mut self, folder: &RelPath) {
        if folder.is_root() {
            self.page.clear();
            self.at_end = true;
            return;
        }
        let is_behind =
            |row: &R| !row.path().is_within(folder) && R::order(row.path()).gt(R::order(folder));
        let first_behind = self.page.iter().position(is_behind);
        self.page.drain(..first_behind.unwrap_or(self.page.len()));
        // No name is that long, so every path below the folder sorts before this one, and every other one as the
        // folder's own paths do.
        let end = folder.join(&[0xff; NAME_MAX + 1]);
        if self.page.is_empty() && R::order(&self.after).lt(R::order(&end)) {
            self.after = end;
        }
    }
}
