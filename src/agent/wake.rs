//! When the loop wakes without being told.

use std::time::Duration;

use tokio::time::Instant;

use crate::agent::{Loop, Mode};
use crate::base::clock::Now;
use crate::sync::Lane;

impl Loop {
    /// Returns when something is to be done without being told.
    pub(super) fn wake_at(&self, now: Now) -> Instant {
        // Far enough away to be never, near enough for the timer's arithmetic.
        let mut wake = now.mono + Duration::from_secs(24 * 3600);
        let mut sooner = |at: Option<Instant>| wake = at.map_or(wake, |at| wake.min(at));
        sooner(self.lease_due(now));
        sooner(self.catalog_wake(now));
        sooner(self.say_at(now).filter(|_| self.stopping.is_none()));
        if let Some(until) = self.stopping {
            sooner(Some(until));
            sooner(
                self.turn_not_before
                    .filter(|_| !self.pending.is_empty() && self.turns.is_empty()),
            );
        } else {
            // Nothing is started before: the manifest could not be written, or the store wants to be left alone.
            let not_before = self.turn_not_before.max(self.outage.calm_until(now));
            let is_ours = self.lease.is_held(now);
            let may_start = self.turns.is_empty()
                && is_ours
                && !self.is_paused()
                && !self.outage.is_on()
                && self.is_root_there()
                && self.contact.is_done()
                && !self.teller.is_behind();
            for lane in [Lane::Live, Lane::Backlog] {
                // A lane without room waits for a job to end, not for time to pass.
                let due = self
                    .queue
                    .next_due(lane)
                    .filter(|_| may_start && self.room(lane) > 0);
                sooner(due.map(|due| due.max(not_before.unwrap_or(due))));
            }
            sooner(
                self.turn_not_before
                    .filter(|_| !self.pending.is_empty() && self.turns.is_empty()),
            );
            let look = self
                .writing
                .look
                .max(self.turn_not_before.unwrap_or(now.mono));
            sooner(Some(look).filter(|_| self.turns.is_empty()));
            sooner(self.scans.next_at());
            let may_try = self.turns.is_empty()
                && is_ours
                && !self.is_paused()
                && self.is_root_there()
                && self.contact.is_done()
                && !self.teller.is_behind();
            let next_try = self.outage.next_at().filter(|_| may_try);
            sooner(next_try.map(|at| at.max(not_before.unwrap_or(at))));
            sooner(self.deletes.next_at());
            let is_out = self.outage.is_on() && !self.outage.is_full();
            let may_empty = is_ours && !is_out && self.contact.is_done() && !self.is_paused();
            sooner(self.trash.next_at(may_empty, now));
            sooner(self.janitor_wake(now));
            sooner(self.audit_wake(now));
            let may_list = is_ours && (self.wants_contact() || self.contact.is_running());
            sooner(self.contact.next_at().filter(|_| may_list));
            sooner(self.contact.later_at().filter(|_| is_ours));
            sooner(self.teller.next_at());
            if let Mode::Once { timeout } = self.mode {
                sooner(self.wants_the_store(now).then(|| self.last_move + timeout));
            }
        }
        wake.max(now.mono)
    }
}
