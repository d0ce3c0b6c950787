//! Requests of a restore: bounded in number and in bytes, and repeated while it is worth it.
//!
//! The store repeats a request that stumbled within half a minute. Above that a request is tried up to five times with
//! growing pauses, if the store wants patience or cannot be reached; waiting holds none of the requests. There is no queue that
//! would take it up later, as a sync has: a restore that fails is run again by whoever wants the files.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::base::backoff;
use crate::store::{Error, ErrorKind, Object, Result, Sink, Store, Which};

/// How often one request is tried.
const TRIES: u32 = 5;

/// The pause before the second try; it doubles up to [`LONGEST`].
const PAUSE: Duration = Duration::from_millis(500);

/// The longest pause between two tries.
const LONGEST: Duration = Duration::from_secs(8);

/// What one permit for bytes stands for.
const UNIT: u64 = 4 << 10;

/// Files in ranges at once: their ranges fill the line, and what a stop throws away is what these have.
const LARGE_AT_ONCE: usize = 4;

/// Files of the disk that are read at once: enough for any disk, and not all threads that there are.
const READS_AT_ONCE: usize = 8;

/// The requests of one restore, and what else is bounded.
#[derive(Clone)]
pub struct Fetcher {
    store: Arc<dyn Store>,
    requests: Arc<Semaphore>,
    large: Arc<Semaphore>,
    reads: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    units: u32,
    random: Arc<Mutex<fastrand::Rng>>,
}

/// Bytes that have arrived, and count as memory until this is dropped.
#[derive(Debug)]
pub struct Fetched {
    /// The object.
    pub object: Object,
    /// Its content.
    pub bytes: Bytes,
    _held: Held,
}

/// Room for bytes, or a turn.
#[derive(Debug)]
pub struct Held(#[expect(dead_code, reason = "it is only held")] OwnedSemaphorePermit);

impl Fetcher {
    /// Makes one that sends so many requests at once and holds so many bytes.
    pub fn new(store: Arc<dyn Store>, requests: usize, bytes: u64) -> Self {
        let units = u32::try_from(bytes / UNIT).unwrap_or(u32::MAX >> 3).max(1);
        Self {
            store,
            requests: Arc::new(Semaphore::new(requests)),
            large: Arc::new(Semaphore::new(LARGE_AT_ONCE)),
            reads: Arc::new(Semaphore::new(READS_AT_ONCE)),
            bytes: Arc::new(Semaphore::new(units as usize)),
            units,
            random: Arc::new(Mutex::new(fastrand::Rng::new())),
        }
    }

    /// Waits until `len` more bytes may be in memory; more than there may be at all counts as all.
    ///
    /// Whoever waits is served in order, so that many small ones do not starve a large one.
    pub async fn reserve(&self, len: u64) -> Held {
        let units = u32::try_from(len.div_ceil(UNIT)).unwrap_or(u32::MAX);
        Held(permit(&self.bytes, units.clamp(1, self.units)).await)
    }

    /// Waits for the turn of a file that comes in ranges.
    pub async fn turn_of_large(&self) -> Held {
        Held(permit(&self.large, 1).await)
    }

    /// Waits until one more file of the disk may be read.
    pub async fn turn_to_read(&self) -> Held {
        Held(permit(&self.reads, 1).await)
    }

    /// Reads one of an object's contents, for which there is room.
    pub async fn get(&self, key: &str, which: &Which, held: Held) -> Result<Fetched> {
        let mut failures = 0;
        loop {
            let request = permit(&self.requests, 1).await;
            let answer = self.store.get_of(key, which, None).await;
            drop(request);
            match answer {
                Ok((object, bytes)) => {
                    return Ok(Fetched {
                        object,
                        bytes,
                        _held: held,
                    });
                }
                Err(error) => {
                    failures += 1;
                    self.rest(error, failures).await?;
                }
            }
        }
    }

    /// Reads a part of one of an object's contents into `sink`, for which there is room. What has arrived is not asked for
    /// again.
    pub async fn get_into(
        &self,
        key: &str,
        which: &Which,
        range: Range<u64>,
        sink: &dyn Sink,
    ) -> Result<Object> {
        let through = Through {
            sink,
            next: AtomicU64::new(range.start),
        };
        let mut failures = 0;
        loop {
            let rest = through.next.load(Ordering::Relaxed)..range.end;
            let request = permit(&self.requests, 1).await;
            let answer = self.store.read_into(key, which, rest, &through).await;
            drop(request);
            match answer {
                Ok(object) => return Ok(object),
                Err(error) => {
                    failures += 1;
                    self.rest(error, failures).await?;
                }
            }
        }
    }

    /// Looks at an object, with its checksum.
    pub async fn head(&self, key: &str, which: &Which) -> Result<Object> {
        let mut failures = 0;
        loop {
            let request = permit(&self.requests, 1).await;
            let answer = self.store.head_of(key, which).await;
            drop(request);
            match answer {
                Ok(object) => return Ok(object),
                Err(error) => {
                    failures += 1;
                    self.rest(error, failures).await?;
                }
            }
        }
    }

    /// Waits before the next try; or gives the error back if there is none.
    async fn rest(&self, error: Error, failures: u32) -> Result<()> {
        let is_worth_it = matches!(
            error.kind,
            ErrorKind::Busy | ErrorKind::Network | ErrorKind::Conflict | ErrorKind::Corrupt
        );
        if !is_worth_it || failures >= TRIES {
            return Err(error);
        }
        let pause = {
            let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
            backoff::pause(failures, PAUSE, LONGEST, &mut random)
        };
        tokio::time::sleep(error.retry_after.map_or(pause, |asked| asked.min(LONGEST))).await;
        Ok(())
    }
}

/// Notes how far a content has come on its way into a sink.
struct Through<'a> {
    sink: &'a dyn Sink,
    next: AtomicU64,
}

impl Sink for Through<'_> {
    fn take(&self, at: u64, piece: Bytes) {
        let next = at + piece.len() as u64;
        self.sink.take(at, piece);
        self.next.store(next, Ordering::Relaxed);
    }
}

async fn permit(of: &Arc<Semaphore>, count: u32) -> OwnedSemaphorePermit {
    let permit = of.clone().acquire_many_owned(count).await;
    permit.expect("nobody closes these semaphores")
}
