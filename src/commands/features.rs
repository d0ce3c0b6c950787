//! What the stores can do: known from the state folder, or asked once before a folder's loop begins.
//!
//! Once per bucket and state folder, however many folders go there: whoever comes second waits for the first one's
//! answer. Nothing here ever stands in a folder's way: what cannot be found out in a short time is found out beside the
//! running loop, which goes on as with a store that nobody knows; so is what is too old to be believed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::base::clock::Clock;
use crate::base::offload::Offload;
use crate::manifest::{Manifest, Probed};
use crate::store::Store;
use crate::store::features::Features;
use crate::store::key::KeyMap;
use crate::store::probe::probe;
use crate::store::s3::Patience;

/// How long a folder's beginning waits for a probe: thirty requests to the other side of the world, and some slow ones.
const SHORT: Duration = Duration::from_secs(20);

/// How long a probe beside the running folder may take.
const LONG: Duration = Duration::from_secs(120);

/// How long after a probe that failed the next one is tried.
const RETRY: Duration = Duration::from_secs(5 * 60);

/// How long a probe is believed: stores are updated, and learn.
const BELIEVED: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// How often it is looked whether a probe is too old. The wall clock decides, which may be set.
const LOOK: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a clock may be wrong before its stamps are not believed.
const SKEW: Duration = Duration::from_secs(24 * 60 * 60);

/// Returns the patience of a probe's requests: bodies and answers are tiny, and somebody waits.
pub fn patience() -> Patience {
    Patience {
        connect: Duration::from_secs(3),
        piece: Duration::from_secs(5),
        answer: Duration::from_secs(5),
        long_answer: Duration::from_secs(10),
        repeat: Duration::from_secs(3),
    }
}

/// A bucket that a folder goes to.
#[derive(Clone)]
pub struct Bucket {
    /// Endpoint URL; empty for AWS.
    pub endpoint: String,
    /// Its name.
    pub name: String,
    /// Where the folder's keys are.
    pub keys: KeyMap,
    /// What is to learn.
    pub store: Arc<dyn Store>,
    /// What is asked: the same bucket, through a handle that nobody else uses.
    pub asked: Arc<dyn Store>,
}

/// What is known of a bucket in this process; held while it is asked.
#[derive(Default, Debug)]
struct Known {
    /// What it can do, and when that was found, wall clock, nanoseconds.
    found: Option<(Features, i64)>,
    /// When it was last asked without success.
    failed: Option<Instant>,
}

type Flight = Arc<tokio::sync::Mutex<Known>>;

/// Asks buckets, each at most once at a time, and keeps what they say.
#[derive(Debug)]
pub struct Asker {
    manifest: Manifest,
    clock: Clock,
    offload: Offload,
    flights: Mutex<BTreeMap<(String, String), Flight>>,
}

/// How old an answer may be that spares a probe.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Age {
    Any,
    Believed,
    None,
}

impl Asker {
    /// Makes one that keeps what it finds in `manifest`.
    pub fn new(manifest: Manifest, clock: Clock, offload: Offload) -> Self {
        Self {
            manifest,
            clock,
            offload,
            flights: Mutex::default(),
        }
    }

    /// Tells the bucket's store what it can do, from the state or by a short probe. What fails is tried again by
    /// [`Asker::keep_up`].
    pub async fn begin(&self, bucket: &Bucket, stop: &CancellationToken) {
        self.ask(bucket, Age::Any, SHORT, stop).await;
    }

    /// Asks by a short probe, whatever is known. Where that fails, what was known stays.
    pub async fn again(&self, bucket: &Bucket, stop: &CancellationToken) {
        self.ask(bucket, Age::None, SHORT, stop).await;
    }

    /// Asks again, until `stop`: every few minutes while it is not known what the store can do, and at once when that
    /// was found long ago. What the store has learned by itself meanwhile is kept too.
    pub async fn keep_up(&self, bucket: &Bucket, stop: &CancellationToken) {
        let mut pause = match self.flight(bucket).lock().await.found {
            Some((_, at_ns)) if self.is_believed(at_ns) => LOOK,
            Some(_) => Duration::ZERO,
            None => RETRY,
        };
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
            let is_known = self.ask(bucket, Age::Believed, LONG, stop).await;
            pause = if is_known { LOOK } else { RETRY };
        }
        let flight = self.flight(bucket);
        let known = flight.lock().await;
        let learned = bucket.store.features();
        if let Some((found, at_ns)) = known.found {
            // Only what a store lowers by itself: what it says else is what its folder may use of it.
            let lowered = Features {
                checksum: learned.checksum,
                delete_many: found.delete_many && learned.delete_many,
                ..found
            };
            if learned.is_known && lowered != found {
                self.keep(bucket, lowered, at_ns).await;
            }
        }
    }

    /// Tells the store what is known, after asking it if that is missing or too old; returns whether it is known now.
    async fn ask(
        &self,
        bucket: &Bucket,
        age: Age,
        patience: Duration,
        stop: &CancellationToken,
    ) -> bool {
        let flight = self.flight(bucket);
        let mut known = tokio::select! {
            known = flight.lock() => known,
            () = stop.cancelled() => return false,
        };
        if known.found.is_none() {
            known.found = self.kept(bucket).await;
        }
        if let Some((features, at_ns)) = known.found {
            if !bucket.store.features().is_known {
                bucket.store.learn(features);
            }
            if age == Age::Any || (age == Age::Believed && self.is_believed(at_ns)) {
                return true;
            }
        }
        let began = self.clock.now().mono;
        if stop.is_cancelled() || known.failed.is_some_and(|at| began < at + RETRY) {
            return false;
        }
        let until = async {
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(patience) => {}
            }
        };
        // Boxed, as it is large and rare: every folder's future would carry it along.
        let found = Box::pin(probe(&*bucket.asked, &bucket.keys, self.id(), until)).await;
        let now = self.clock.now();
        match found {
            Ok(features) => {
                tracing::debug!(
                    bucket = bucket.name,
                    ?features,
                    "asked the store what it can do"
                );
                *known = Known {
                    found: Some((features, now.wall_ns)),
                    failed: None,
                };
                bucket.store.learn(features);
                self.keep(bucket, features, now.wall_ns).await;
                true
            }
            Err(error) => {
                tracing::debug!(
                    bucket = bucket.name,
                    "could not ask the store what it can do: {error}; it is asked again later"
                );
                known.failed = Some(now.mono);
                false
            }
        }
    }

    fn flight(&self, bucket: &Bucket) -> Flight {
        let key = (bucket.endpoint.clone(), bucket.name.clone());
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        flights.entry(key).or_default().clone()
    }

    /// What the state says of a bucket. What cannot be read was not found.
    async fn kept(&self, bucket: &Bucket) -> Option<(Features, i64)> {
        let (manifest, bucket) = (self.manifest.clone(), bucket.clone());
        let row = move || manifest.probed(&bucket.endpoint, &bucket.name);
        let row = self.offload.run(row).await.ok()??;
        let features: Features = serde_json::from_str(&row.features).ok()?;
        features.is_known.then_some((features, row.at_ns))
    }

    /// Keeps what was found. Where that fails it is found once more by the next start.
    async fn keep(&self, bucket: &Bucket, features: Features, at_ns: i64) {
        let Ok(features) = serde_json::to_string(&features) else {
            return;
        };
        let (manifest, bucket) = (self.manifest.clone(), bucket.clone());
        let keep = move || {
            manifest.keep_probed(&bucket.endpoint, &bucket.name, &Probed { features, at_ns })
        };
        if let Err(error) = self.offload.run(keep).await {
            tracing::debug!("could not keep what the store can do: {error}");
        }
    }

    fn is_believed(&self, at_ns: i64) -> bool {
        let age_ns = i128::from(self.clock.now().wall_ns) - i128::from(at_ns);
        age_ns < BELIEVED.as_nanos() as i128 && age_ns > -(SKEW.as_nanos() as i128)
    }

    /// The same for all of an agent's probes, so that the next one removes what a crash has left of the last.
    fn id(&self) -> u64 {
        let digits = self.manifest.agent_id().get(..16).unwrap_or_default();
        u64::from_str_radix(digits, 16).unwrap_or_default()
    }
}
