//! Looking again and again where no event tells, and what the watcher missed elsewhere.
//!
//! A poll is a scan like one that a hint asks for, so that evidence and bounds are the same; only the clock asks for it.
//! Hints and polls take turns, so that neither waits for ever. Nothing is polled while the root is away.

use tokio::time::Instant;

use crate::agent::scans::Scans;
use crate::agent::{Loop, Mode};
use crate::base::clock::Now;
use crate::base::path::RelPath;
use crate::tree::polls::Looked;
use crate::tree::scan::Depth;

/// A poll under way.
pub(super) struct Polling {
    folder: RelPath,
    started: Now,
    looked: Looked,
}

impl Loop {
    /// Returns the next folder to scan; none is being scanned for a hint or a poll.
    pub(super) fn next_hinted(&mut self, now: Now) -> Option<(RelPath, Depth)> {
        let last = self.scans.polling.take();
        if let Some(Polling {
            folder,
            started,
            looked,
        }) = &last
        {
            let took = now.mono.saturating_duration_since(started.mono);
            self.scans.polls.ended(folder, *looked, took, now.mono);
            if *looked == Looked::Changed {
                self.ctx.tree.prefer(folder);
            }
        }
        let hint_first = last.is_some();
        let mut next = None;
        if hint_first {
            next = self.scans.wanted.pop_first();
        }
        if next.is_none() {
            next = self.next_polled(now);
        }
        let next = next.or_else(|| self.scans.wanted.pop_first());
        if let Some((folder, depth)) = &next {
            self.scans.recheck(folder, *depth);
        }
        next
    }

    fn next_polled(&mut self, now: Now) -> Option<(RelPath, Depth)> {
        while self.scans.away.is_none()
            && let Some((folder, _)) = self.scans.polls.pop_due(now.mono)
        {
            // It may be watched by now, or gone.
            let Some(depth) = self.ctx.tree.polled(&folder) else {
                self.scans.polls.end(&folder);
                continue;
            };
            self.scans.polling = Some(Polling {
                folder: folder.clone(),
                started: now,
                looked: Looked::Same,
            });
            return Some((folder, depth));
        }
        None
    }

    /// Takes what a scan found, before it is queued: what has to be polled from now on, and what nobody had told.
    pub(super) fn note_polls(&mut self, is_full: bool, differing: &[(RelPath, u64)], now: Now) {
        if self.mode != Mode::Forever {
            return;
        }
        for (folder, depth) in self.ctx.tree.take_polled() {
            self.scans.polls.begin(folder, depth, now.mono);
        }
        // What has been found and cannot be synced as it is differs for ever.
        let is_known = |path: &RelPath| self.queue.has(path) || self.unsyncable.contains_key(path);
        let news = differing.iter().filter(|(path, _)| !is_known(path));
        if !is_full {
            if let Some(polling) = &mut self.scans.polling
                && news.count() > 0
            {
                polling.looked = Looked::Changed;
            }
        } else if self.scans.completed.is_some() && !self.scans.is_blind && self.hints.is_some() {
            // What is polled is not for the watcher to tell.
            let told = news.filter(|(path, _)| !self.scans.polls.covers(path));
            let missed = told.count() as u64;
            if missed > 0 {
                tracing::info!(folder = %self.teller.name(), missed, "a full scan found changes that no event had told of");
                self.teller.missed(missed);
                self.scans.missed_now = true;
            }
        }
    }
}

impl Scans {
    /// Returns when the next poll is due, if nothing has to end before it.
    pub(super) fn next_poll(&self) -> Option<Instant> {
        let due = self.polls.next_at()?;
        (self.hinted.is_none() && self.away.is_none()).then_some(due)
    }

    /// The folder is about to be scanned: what could not be listed there can be perhaps.
    fn recheck(&mut self, folder: &RelPath, depth: Depth) {
        self.rechecked.clear();
        let is_looked_at = |path: &RelPath| match depth {
            Depth::Full => path.is_within(folder),
            Depth::NewFolders => path == folder,
        };
        let listed = [&mut self.unreadable, &mut self.unreadable_now];
        for paths in listed {
            self.rechecked
                .extend(paths.extract_if(.., |path| is_looked_at(path)));
        }
    }

    pub(super) fn is_known_unreadable(&self, path: &RelPath) -> bool {
        let known = [&self.unreadable, &self.unreadable_now, &self.rechecked];
        known.iter().any(|paths| paths.contains(path))
    }
}
