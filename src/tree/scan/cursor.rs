//! The rows of a scanned folder, in order, a page at a time.

use std::collections::VecDeque;

use crate::base::path::RelPath;
use crate::tree::scan::{Known, Rows};

/// How many rows are asked for at once: enough to make the question cheap, small beside a listing.
pub(in crate::tree::scan) const PAGE: usize = 512;

/// The longest name of any filesystem that Linux knows, in bytes.
const NAME_MAX: usize = 255;

/// The rows of a folder, a page at a time.
pub(in crate::tree::scan) struct Cursor {
    rows: Box<dyn Rows>,
    within: RelPath,
    page: VecDeque<Known>,
    /// The next page begins after this path.
    after: RelPath,
    /// The last page has been taken.
    at_end: bool,
}

impl Cursor {
    pub(in crate::tree::scan) fn new(rows: Box<dyn Rows>, within: RelPath) -> Self {
        Self {
            rows,
            after: within.clone(),
            within,
            page: VecDeque::new(),
            at_end: false,
        }
    }

    pub(in crate::tree::scan) fn peek(&mut self) -> anyhow::Result<Option<&Known>> {
        if self.page.is_empty() && !self.at_end {
            let page = self.rows.page(&self.within, &self.after, PAGE)?;
            debug_assert!(
                page.is_sorted_by(|a, b| a.path < b.path)
                    && page.first().is_none_or(|first| first.path > self.after),
                "a page is sorted and begins after the last one"
            );
            self.at_end = page.len() < PAGE;
            if let Some(last) = page.last() {
                self.after = last.path.clone();
            }
            self.page = page.into();
        }
        Ok(self.page.front())
    }

    pub(in crate::tree::scan) fn drop_first(&mut self) {
        self.page.pop_front();
    }

    /// Takes the row at `path` if it is the one that was peeked at.
    pub(in crate::tree::scan) fn take_equal(&mut self, path: &RelPath) -> Option<Known> {
        self.page.pop_front_if(|row| row.path == *path)
    }

    /// Goes behind all rows below `folder`, without reading them where they are not in the page yet.
    pub(in crate::tree::scan) fn skip_below(&mut self, folder: &RelPath) {
        if folder.is_root() {
            self.page.clear();
            self.at_end = true;
            return;
        }
        let is_behind = |row: &Known| !row.path.is_within(folder) && row.path > *folder;
        let first_behind = self.page.iter().position(is_behind);
        self.page.drain(..first_behind.unwrap_or(self.page.len()));
        // No name is that long, so every path below the folder sorts before this one, and every other one as the
        // folder's own paths do.
        let end = folder.join(&[0xff; NAME_MAX + 1]);
        if self.page.is_empty() && self.after < end {
            self.after = end;
        }
    }
}
