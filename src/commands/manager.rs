//! What a process that stays tells the service manager, and when: ready, reloading, well, stopping, not done yet.
//!
//! Never says that it is well because time has passed: the watchdog is fed by what [`watchdog`](crate::commands::watchdog)
//! has found out. Without a manager nothing is told.

use std::time::Duration;

use tokio::time::Instant;

use crate::base::snapshot::FolderSnapshot;
use crate::report::systemd;

/// How much time is asked for at once while something moves: longer than the longest pause between two signs of that.
const EXTENSION: Duration = Duration::from_secs(15);
/// What is asked for beyond the grace: the catalog's last link, and the lease that is given back.
const BEYOND: Duration = Duration::from_secs(10);

/// What the manager knows.
#[derive(Debug, Default)]
pub struct Manager {
    is_ready: bool,
    /// Why the config as it is now is not in force.
    refused: Option<String>,
    /// What does not get on.
    stuck: Option<String>,
    drain: Option<Drain>,
}

/// The way out.
#[derive(Debug)]
struct Drain {
    until: Instant,
    /// What had moved when it was looked at last.
    moved: u64,
}

impl Manager {
    /// Tells that every folder is being looked after, once.
    pub fn tell_ready(&mut self) {
        if !self.is_ready {
            // Told again at the next occasion if it was not heard.
            self.is_ready = systemd::ready();
        }
    }

    /// Tells that the config is being read again.
    pub fn reloading(&self) {
        // Before the start is over, a reload must not seem to end it.
        if self.is_ready {
            systemd::reloading();
        }
    }

    /// Tells that a reload is over. Why the config could not be used stays in the status until one could.
    pub fn reloaded(&mut self, outcome: Result<(), String>, snapshots: &[FolderSnapshot]) {
        self.refused = outcome.err().map(|why| {
            let what = "the config has problems, and the one read before is in force";
            format!("{what}: {why}")
        });
        self.status(snapshots);
        if self.is_ready {
            systemd::ready();
        }
    }

    /// Tells how the folders are.
    pub fn status(&self, snapshots: &[FolderSnapshot]) {
        let notes: Vec<&str> = [&self.stuck, &self.refused]
            .into_iter()
            .filter_map(|note| note.as_deref())
            .collect();
        systemd::status(snapshots, &notes);
    }

    /// Feeds the watchdog if everything gets on, and says what does not.
    pub fn judged(&mut self, stuck: Option<String>, snapshots: &[FolderSnapshot]) {
        match (&stuck, &self.stuck) {
            (Some(why), before) => {
                if systemd::watchdog().is_some() {
                    tracing::warn!("the watchdog is not fed: {why}");
                } else if before.as_ref() != Some(why) {
                    tracing::warn!("something does not get on: {why}");
                }
            }
            (None, Some(_)) => tracing::info!("everything gets on again"),
            (None, None) => {}
        }
        let is_news = stuck != self.stuck;
        self.stuck = stuck;
        if is_news {
            self.status(snapshots);
        }
        if self.stuck.is_none() {
            systemd::feed();
        }
    }

    /// Returns true if it was told that the process is on its way out.
    pub fn is_stopping(&self) -> bool {
        self.drain.is_some()
    }

    /// Tells that the process is on its way out, which may take `grace`.
    pub fn stopping(&mut self, grace: Duration, snapshots: &[FolderSnapshot], now: Instant) {
        if self.is_stopping() {
            return;
        }
        systemd::stopping();
        self.drain = Some(Drain {
            until: now + grace + BEYOND,
            moved: moved(snapshots),
        });
    }

    /// On the way out, asks for more time if something has moved since it was asked last.
    pub fn draining(&mut self, snapshots: &[FolderSnapshot], now: Instant) {
        if let Some(by) = self.extension(moved(snapshots), now) {
            systemd::extend(by);
        }
    }

    fn extension(&mut self, moved: u64, now: Instant) -> Option<Duration> {
        let drain = self.drain.as_mut().filter(|drain| drain.moved != moved)?;
        drain.moved = moved;
        let left = drain.until.saturating_duration_since(now);
        (!left.is_zero()).then(|| left.min(EXTENSION))
    }
}

/// Returns a number that grows with whatever gets into the bucket.
fn moved(snapshots: &[FolderSnapshot]) -> u64 {
    let of = |one: &FolderSnapshot| {
        let tally = &one.tally;
        one.sent_bytes
            + tally.bytes
            + tally.uploaded
            + tally.copied
            + tally.deleted
            + tally.set_aside
    };
    snapshots.iter().map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Clock;

    #[test]
    fn more_time_is_asked_for_only_while_something_moves_and_within_the_grace() {
        let now = Clock::Real.now().mono;
        let second = Duration::from_secs(1);
        let mut manager = Manager::default();
        assert_eq!(manager.extension(1, now), None, "nothing ends");
        manager.stopping(20 * second, &[], now);
        assert_eq!(manager.extension(0, now), None);
        assert_eq!(manager.extension(5, now), Some(EXTENSION));
        assert_eq!(manager.extension(5, now + second), None);
        // A second signal does not begin it anew.
        manager.stopping(20 * second, &[], now + 19 * second);
        assert_eq!(manager.extension(6, now + 20 * second), Some(BEYOND));
        assert_eq!(manager.extension(7, now + 30 * second), None);
    }
}
