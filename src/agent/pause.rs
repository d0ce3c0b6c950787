//! A person has the folder start nothing new.
//!
//! What is on its way ends, changes are noticed and queued, the lease is kept, and what is done already gets into the
//! catalog. Nothing else is sent: no file, no copy, no delete; no listing, no audit, no emptying of the trash. It holds
//! until it is ended, also over a restart: the manifest keeps since when (the mark `paused` in its table `meta`). A run
//! that ends by itself was asked for by a person, and is not held back.

use crate::agent::failures::Denied;
use crate::agent::{Loop, Mode};
use crate::base::clock::{Now, rfc3339};
use crate::base::path::RelPath;
use crate::manifest::{Change, Mark};
use crate::tree::Touch;

impl Loop {
    /// Returns true if nothing new is to be started.
    pub(super) fn is_paused(&self) -> bool {
        self.paused_ns.is_some() && self.mode == Mode::Forever
    }

    /// Takes from a former run since when it is paused, if it is.
    pub(super) fn recall_pause(&mut self, since_ns: Option<i64>) {
        self.paused_ns = since_ns;
        let folder = self.teller.name();
        if let Some(since_ns) = since_ns {
            let since = rfc3339(since_ns);
            if self.is_paused() {
                tracing::warn!(
                    folder,
                    "paused since {since}: nothing is sent until `tidewatch resume`"
                );
            } else {
                tracing::info!(
                    folder,
                    "paused since {since} for agents that stay; this run is not"
                );
            }
        }
    }

    /// Starts nothing new from now on; what is to be committed, and 0 if it was so already.
    pub(super) fn pause(&mut self, now: Now) -> (Vec<Change>, u64) {
        if self.paused_ns.is_some() {
            return (Vec::new(), 0);
        }
        self.paused_ns = Some(now.wall_ns);
        tracing::info!(folder = %self.teller.name(), "paused: nothing new is sent until `tidewatch resume`");
        (vec![Change::Mark(Mark::Paused(self.paused_ns))], 1)
    }

    /// Goes on; what is to be committed, and 0 if it was not paused.
    pub(super) fn resume(&mut self, now: Now) -> (Vec<Change>, u64) {
        let Some(since_ns) = self.paused_ns.take() else {
            return (Vec::new(), 0);
        };
        let since = rfc3339(since_ns);
        tracing::info!(folder = %self.teller.name(), "goes on; it was paused since {since}");
        self.outage.try_now(now);
        (vec![Change::Mark(Mark::Paused(None))], 1)
    }

    /// Ends every wait within `path`, and looks at it; with the root, at everything.
    pub(super) fn sync_now(
        &mut self,
        path: &RelPath,
        now: Now,
    ) -> Result<(Vec<Change>, u64), String> {
        if let Some(since_ns) = self.paused_ns {
            let since = rfc3339(since_ns);
            return Err(format!(
                "sync now: the folder is paused since {since}; `tidewatch resume` first"
            ));
        }
        let count = self.queue.hurry(path, now);
        if path.is_root() {
            self.scans.look_now(now);
        } else {
            // Read, whatever is known of it; a folder is looked at as a whole.
            self.queue.touch(path.clone(), Touch::Data, 0, now);
            self.queue.hurry(path, now);
        }
        self.denied = Denied::default();
        self.outage.try_now(now);
        Ok((Vec::new(), count))
    }
}
