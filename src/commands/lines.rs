//! The lines to the endpoints: how many requests each takes, and the bandwidth of all together, which may follow a timetable.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::base::clock::{Clock, LocalMinute};
use crate::commands::folders::Eyes;
use crate::config::{Bandwidth, Concurrency, Rate, ShownRate, Upload};
use crate::sync::limits::Limits;

/// Handles that are open whatever is sent: the manifest's, the lock, the root, the watcher's, those of the runtime.
const OURS: u64 = 40;
/// Handles of a request: its connection, its file, and one that is just being opened or closed.
const EACH: u64 = 3;
/// More requests than an endpoint is sent without being asked to.
const PLENTY: usize = 300;

/// Nanoseconds of a minute: timetables know nothing shorter.
const MINUTE_NS: i64 = 60_000_000_000;

/// The limits of a process.
#[derive(Debug)]
pub struct Lines {
    /// Of no endpoint; what all share is in it.
    common: Arc<Limits>,
    endpoints: Mutex<BTreeMap<String, Arc<Limits>>>,
    bandwidth: watch::Sender<Bandwidth>,
    /// Keeps the bandwidth at what the timetable says.
    follower: Mutex<JoinSet<()>>,
}

impl Lines {
    /// Sets the limits up; the bandwidth is what it has to be from the first byte on. Needs a runtime.
    pub fn open(upload: &Upload, eyes: Eyes) -> Self {
        let limits = Limits::new(fixed(upload.concurrency), upload.memory_bytes);
        let common = Arc::new(match eyes {
            Eyes::Open => limits,
            // Nothing is live where nothing is watched.
            Eyes::Closed => limits.without_live_lane(),
        });
        let (bandwidth, changes) = watch::channel(upload.bandwidth.clone());
        let rate = rate_at(&upload.bandwidth, Clock::Real);
        if rate.is_some() || upload.bandwidth.is_timetable() {
            tracing::info!("bandwidth: {}", ShownRate(rate));
        }
        common.set_bandwidth(rate);
        let mut follower = JoinSet::new();
        follower.spawn(follow(common.clone(), changes, Clock::Real));
        Self {
            common,
            endpoints: Mutex::default(),
            bandwidth,
            follower: Mutex::new(follower),
        }
    }

    /// Returns the limits of an endpoint, the same each time.
    pub fn to(&self, endpoint_url: &str) -> Arc<Limits> {
        let mut endpoints = self
            .endpoints
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let limits = endpoints.entry(endpoint_url.to_owned());
        let limits = limits.or_insert_with(|| Arc::new(self.common.beside()));
        limits.clone()
    }

    /// Sets another bandwidth, or timetable, for what is on its way too.
    pub fn set_bandwidth(&self, bandwidth: Bandwidth) {
        // The only one who might not hear it is the follower, which ends with us.
        self.bandwidth.send_replace(bandwidth);
    }

    /// Sets another number of requests to each endpoint.
    pub fn set_concurrency(&self, concurrency: Concurrency) {
        let endpoints = self
            .endpoints
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for limits in endpoints.values().chain([&self.common]) {
            limits.set_requests(fixed(concurrency));
        }
    }

    /// Sets how many bytes of files may be in memory.
    pub fn set_memory(&self, bytes: u64) {
        self.common.set_memory(bytes);
    }

    /// Ends what follows the timetable.
    pub async fn close(&self) {
        let mut follower = {
            let mut follower = self.follower.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *follower)
        };
        follower.shutdown().await;
    }
}

/// Returns how many requests there are to be at once; `None`: as many as the endpoint takes.
fn fixed(concurrency: Concurrency) -> Option<usize> {
    let bearable = bearable();
    match concurrency {
        Concurrency::Auto if bearable >= PLENTY => None,
        Concurrency::Auto => Some(bearable),
        Concurrency::Fixed(requests) => Some(requests.get().min(bearable)),
    }
}

/// Returns how many requests at once the handles allow that this process may have open, at least one: as many as it may be
/// given are taken first.
fn bearable() -> usize {
    let mut allowed = getrlimit(Resource::Nofile);
    if allowed.current < allowed.maximum {
        let most = Rlimit {
            current: allowed.maximum,
            ..allowed
        };
        if setrlimit(Resource::Nofile, most).is_ok() {
            allowed = most;
        }
    }
    let handles = allowed.current.unwrap_or(u64::MAX);
    usize::try_from(handles.saturating_sub(OURS) / EACH)
        .unwrap_or(usize::MAX)
        .max(1)
}

fn rate_at(bandwidth: &Bandwidth, clock: Clock) -> Rate {
    bandwidth.at(LocalMinute::of(clock.now().wall_ns))
}

/// Keeps the bandwidth at what is wanted, which is looked at again when it changes, and each minute.
async fn follow(limits: Arc<Limits>, mut wanted: watch::Receiver<Bandwidth>, clock: Clock) {
    loop {
        let (rate, is_timetable) = {
            let wanted = wanted.borrow_and_update();
            (rate_at(&wanted, clock), wanted.is_timetable())
        };
        let known = limits.bandwidth();
        if rate != known {
            tracing::info!(
                "bandwidth: {}, it was {}",
                ShownRate(rate),
                ShownRate(known)
            );
            limits.set_bandwidth(rate);
        }
        // A clock that is set, or a machine that slept, is noticed within a minute.
        let past_ns = clock.now().wall_ns.rem_euclid(MINUTE_NS);
        let minute = Duration::from_nanos((MINUTE_NS - past_ns).unsigned_abs());
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() {
                return;
            },
            () = tokio::time::sleep(minute), if is_timetable => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_timetable_is_followed_to_the_minute() {
        let since = Clock::Real.now();
        // Half a minute before a full one, on a Sunday in June.
        let wall_ns = 1_781_999_970_000_000_000;
        let clock = Clock::Virtual {
            since: since.mono,
            wall_ns,
        };
        let at = |plus: i64| {
            let LocalMinute { minute, .. } = LocalMinute::of(wall_ns + plus * MINUTE_NS);
            format!("{:02}:{:02}", minute / 60, minute % 60)
        };
        let text = format!("{}-{} 1MiB/s, else 2MiB/s", at(1), at(3));
        let limits = Arc::new(Limits::new(None, 1));
        let (wanted, changes) = watch::channel(Bandwidth::parse(&text).expect("a timetable"));
        let mut follower = JoinSet::new();
        follower.spawn(follow(limits.clone(), changes, clock));
        let mib = || limits.bandwidth().map(|rate| rate.get() >> 20);
        let second = Duration::from_secs(1);
        tokio::time::sleep(29 * second).await;
        assert_eq!(mib(), Some(2));
        tokio::time::sleep(2 * second).await;
        assert_eq!(mib(), Some(1));
        tokio::time::sleep(118 * second).await;
        assert_eq!(mib(), Some(1));
        tokio::time::sleep(2 * second).await;
        assert_eq!(mib(), Some(2));
        wanted.send_replace(Bandwidth::default());
        tokio::time::sleep(second).await;
        assert_eq!(mib(), None);
    }

    #[tokio::test]
    async fn folders_of_one_endpoint_share_its_requests() {
        let lines = Lines::open(&Upload::default(), Eyes::Open);
        let one = lines.to("https://one");
        assert!(Arc::ptr_eq(&one, &lines.to("https://one")));
        assert!(!Arc::ptr_eq(&one, &lines.to("https://other")));
        lines.close().await;
    }
}
