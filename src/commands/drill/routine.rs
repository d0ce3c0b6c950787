//! When a service drills: each folder whenever its last drill is old enough, one folder at a time.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::base::clock::Clock;
use crate::base::offload::Offload;
use crate::commands::drill::{one, text};
use crate::config::Folder;
use crate::report::drill_file::{self, Drilled};

/// How long a drill that could not be tried waits for the next try.
const RETRY: Duration = Duration::from_secs(3600);

/// The drills of one folder of a service.
#[derive(Clone, Debug)]
pub struct Routine {
    /// The folder.
    pub folder: Folder,
    /// Its state folder.
    pub state_dir: PathBuf,
    /// How long after a drill the next one begins.
    pub every: Duration,
    /// Bytes of content in memory; may change between two drills.
    pub memory_bytes: Arc<AtomicU64>,
    /// One for all folders: they drill one after the other.
    pub turns: Arc<Semaphore>,
}

impl Routine {
    /// Drills whenever the last drill is old enough, until `stop`.
    pub async fn keep_up(self, stop: CancellationToken) {
        let (dir, to) = (self.state_dir.clone(), self.folder.to.to_string());
        let last = Offload::Pool.run(move || drill_file::read(&dir).remove(&to));
        let first = first_pause(last.await.as_ref(), self.every, Clock::Real.now().wall_ns);
        let (every, until) = (self.every, stop.clone());
        let routine = Arc::new(self);
        let drill = move || routine.clone().once(stop.clone());
        again(first, every, &until, drill).await;
    }

    async fn once(self: Arc<Self>, stop: CancellationToken) -> Drilled {
        // Nobody closes it; after a stop everybody's turn is short.
        let _turn = self.turns.acquire().await;
        let memory_bytes = self.memory_bytes.load(Ordering::Relaxed);
        let (drilled, _) = one(&self.folder, &self.state_dir, memory_bytes, &stop).await;
        let name = &self.folder.name;
        if stop.is_cancelled() {
            tracing::debug!(folder = %name, "a restore drill was stopped");
        } else if drilled.ok {
            tracing::info!(folder = %name, "restore drill {}", text(&drilled));
        } else {
            let wrong = drilled.wrong.join("; ");
            tracing::error!(folder = %name, "restore drill {}: {wrong}", text(&drilled));
        }
        drilled
    }
}

/// Drills after `first`, and then again and again. What the last drill was is kept here: a state folder that cannot be
/// written to must not let one drill follow the other.
async fn again<F: Future<Output = Drilled>>(
    first: Duration,
    every: Duration,
    stop: &CancellationToken,
    mut drill: impl FnMut() -> F,
) {
    let mut pause = first;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = pause_after(&drill().await, every);
    }
}

/// Returns how long after a drill the next one comes.
fn pause_after(drilled: &Drilled, every: Duration) -> Duration {
    if drilled.error.is_some() {
        RETRY.min(every)
    } else {
        every
    }
}

/// Returns how long a service that has just begun waits for its first drill.
fn first_pause(last: Option<&Drilled>, every: Duration, now_ns: i64) -> Duration {
    // So that a new folder has something in the bucket.
    let Some(last) = last else {
        return every.min(RETRY);
    };
    let passed_ns = u64::try_from(now_ns.saturating_sub(last.at_ns)).unwrap_or(0);
    pause_after(last, every).saturating_sub(Duration::from_nanos(passed_ns))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test(start_paused = true)]
    async fn one_drill_never_follows_the_other_at_once() {
        let (every, stop, count) = (HOUR * 5, CancellationToken::new(), AtomicU32::new(0));
        let drill = async || {
            // The second cannot be tried.
            let is_second = count.fetch_add(1, Ordering::Relaxed) == 1;
            let error = is_second.then(|| "no".to_owned());
            Drilled {
                error,
                ..Drilled::default()
            }
        };
        let mut drills = Box::pin(again(Duration::ZERO, every, &stop, drill));
        // At 0, 5, 6, 11 and 16 hours; looked at half an hour beside that.
        for (minutes, expected) in [(270, 1), (60, 2), (60, 3), (240, 3), (60, 4), (300, 5)] {
            let _ = tokio::time::timeout(HOUR * minutes / 60, &mut drills).await;
            assert_eq!(count.load(Ordering::Relaxed), expected);
        }
        stop.cancel();
        drills.await;
    }

    #[test]
    fn a_service_that_begins_waits_for_what_is_left() {
        let hour_ns = 3_600_000_000_000;
        let last = |error: Option<&str>| Drilled {
            at_ns: 7,
            error: error.map(str::to_owned),
            ..Drilled::default()
        };
        let day = HOUR * 24;
        let pause =
            |last: Option<&Drilled>, hours: i64| first_pause(last, day, 7 + hours * hour_ns);
        assert_eq!(pause(Some(&last(None)), 4), HOUR * 20);
        assert_eq!(pause(Some(&last(None)), 30), Duration::ZERO);
        assert_eq!(pause(Some(&last(Some("no"))), 0), HOUR);
        assert_eq!(pause(None, 0), HOUR);
        // A clock that was put back.
        assert_eq!(pause(Some(&last(None)), -3), day);
    }
}
