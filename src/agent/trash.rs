//! Emptying the trash: what was set aside longer ago than `trash_keep` goes.
//!
//! Only where the folder's own policy puts things there. The keys carry when they were set aside, and sort by it, so that a
//! listing stops at the first one that is still to be kept. A trash object is nobody's row: removing it twice does no
//! harm, and a crash in between is found by the next listing.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::agent::{Loop, Pending, Then};
use crate::base::clock::{Now, parse_rfc3339};
use crate::base::policy::{History, OnDelete};
use crate::manifest::Change;
use crate::store;
use crate::store::fence::NOT_OURS;
use crate::sync::Lane;
use crate::sync::file::Ctx;

/// How long after a failure it is tried again.
const RETRY: Duration = Duration::from_secs(3600);

pub(super) struct Trash {
    pub tasks: JoinSet<Report>,
    /// Wall clock when it has to be gone through, nanoseconds.
    pub due_ns: Option<i64>,
    not_before: Option<Instant>,
}

/// When the oldest that is left has to go, or why it could not be found out; and how many went.
pub(super) struct Report {
    removed: u64,
    due: store::Result<Option<i64>>,
}

impl Trash {
    pub fn new(due_ns: Option<i64>) -> Self {
        Self {
            tasks: JoinSet::new(),
            due_ns,
            not_before: None,
        }
    }

    pub fn is_running(&self) -> bool {
        !self.tasks.is_empty()
    }

    pub fn stop(&mut self) {
        self.tasks.abort_all();
    }

    /// Returns when it has to be gone through next; `None` while it may not be.
    pub fn next_at(&self, may_begin: bool, now: Now) -> Option<Instant> {
        if !may_begin {
            return None;
        }
        let due_ns = self.due_ns.filter(|_| self.tasks.is_empty())?;
        let left = u64::try_from(due_ns.saturating_sub(now.wall_ns)).unwrap_or(0);
        // A day at most, so that a clock that was set does not make it wait for ever.
        let at = now.mono + Duration::from_nanos(left).min(Duration::from_secs(24 * 3600));
        Some(self.not_before.map_or(at, |not_before| at.max(not_before)))
    }
}

impl Loop {
    /// Begins to empty the trash when the oldest in it has been kept long enough.
    pub(super) fn start_emptying(&mut self, now: Now) {
        let is_ours =
            self.settings.on_delete == OnDelete::Trash || self.settings.history == History::Trash;
        if !is_ours {
            self.trash.due_ns = None;
        }
        let is_due = self.trash.due_ns.is_some_and(|due| due <= now.wall_ns);
        let may = self.trash.not_before.is_none_or(|at| at <= now.mono)
            && self.lease.is_held(now)
            && (!self.outage.is_on() || self.outage.is_full())
            && self.contact.is_done()
            && !self.is_paused();
        if !is_due || !may || !self.trash.tasks.is_empty() {
            return;
        }
        // What is set aside meanwhile says so itself.
        self.trash.due_ns = None;
        let (ctx, keep) = (self.ctx.clone(), self.settings.trash_keep);
        self.trash.tasks.spawn(async move {
            let mut removed = 0;
            let due = empty(&ctx, keep, &mut removed).await;
            Report { removed, due }
        });
    }

    pub(super) fn emptied(&mut self, report: Report, now: Now) {
        let Report { removed, due } = report;
        if removed > 0 {
            tracing::info!(folder = %self.teller.name(), removed, "removed what was in trash long enough");
        }
        match due {
            Ok(found) => {
                let due = found.into_iter().chain(self.trash.due_ns).min();
                self.trash.due_ns = due;
                let changes = vec![Change::TrashDue(due)];
                self.pending.push_back(Pending {
                    changes,
                    then: Then::Nothing,
                });
            }
            // It goes on when the lease is held again.
            Err(error) if error.code == NOT_OURS => self.trash.due_ns = Some(now.wall_ns),
            Err(error) => {
                tracing::warn!(folder = %self.teller.name(), "could not empty the trash: {error}; it is tried again in an hour");
                self.trash.not_before = Some(now.mono + RETRY);
                if self.mode == crate::agent::Mode::Forever {
                    self.trash.due_ns = Some(now.wall_ns);
                }
            }
        }
    }

    /// Takes note that something was set aside.
    pub(super) fn trashed(&mut self, changes: &[Change]) {
        for change in changes {
            if let Change::Trashed(due_ns) = change {
                self.trash.due_ns = Some(
                    self.trash
                        .due_ns
                        .map_or(*due_ns, |before| before.min(*due_ns)),
                );
            }
        }
    }
}

/// Removes what was set aside longer ago than `keep`; returns when the oldest of the rest has to go.
async fn empty(ctx: &Arc<Ctx>, keep: Duration, removed: &mut u64) -> store::Result<Option<i64>> {
    let prefix = ctx.keys.trash_prefix();
    let keep_ns = i64::try_from(keep.as_nanos()).unwrap_or(i64::MAX);
    let now_ns = ctx.clock.now().wall_ns;
    // In the order of bytes the oldest comes first, and the first that may stay ends it.
    let is_ordered = ctx.store.features().is_ordered;
    let mut next: Option<i64> = None;
    let mut token = None;
    loop {
        let permit = ctx.limits.request(Lane::Backlog).await;
        let page = ctx.store.list(&prefix, token).await?;
        drop(permit);
        for object in page.objects {
            let stamp = object
                .key
                .strip_prefix(&prefix)
                .and_then(|rest| rest.split('/').next());
            // What has no time of ours was not put there by us.
            let Some(aside_ns) = stamp.and_then(stamp_ns) else {
                continue;
            };
            let due_ns = aside_ns.saturating_add(keep_ns);
            if due_ns > now_ns {
                if is_ordered {
                    return Ok(Some(due_ns));
                }
                next = Some(next.map_or(due_ns, |before| before.min(due_ns)));
                continue;
            }
            let _permit = ctx.limits.request(Lane::Backlog).await;
            ctx.store.delete(&object.key).await?;
            *removed += 1;
        }
        token = page.next;
        if token.is_none() {
            return Ok(next);
        }
    }
}

/// Reads a time as trash keys have it: RFC 3339 with `-` for `:`.
fn stamp_ns(stamp: &str) -> Option<i64> {
    let (date, time) = stamp.split_once('T')?;
    parse_rfc3339(&format!("{date}T{}", time.replace('-', ":")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::rfc3339_millis;

    #[test]
    fn a_trash_stamp_is_read_as_it_was_written() {
        for ns in [0, 1_700_000_000_000_000_000, 1_764_000_000_123_000_000] {
            let stamp = rfc3339_millis(ns).replace(':', "-");
            assert_eq!(stamp_ns(&stamp), Some(ns), "{stamp}");
        }
        assert_eq!(stamp_ns("notes"), None);
    }
}
