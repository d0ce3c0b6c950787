//! A person has the folder start nothing new.
//!
//! What is on its way ends, changes are noticed and queued, the lease is kept, and what is done already gets into the
//! catalog. Nothing else is sent: no file, no copy, no delete; no listing, no audit, no emptying of the trash. It holds
//! until it is ended, also over a restart: the manifest keeps since when (the mark `paused` in its table `meta`). A run
//! that ends by itself was asked for by a person, and is not held back.

use crate::agent::{Loop, Mode};
use crate::base::clock::rfc3339;

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
}
