//! A file that is fetched in ranges: several at once, of one content, written and summed up in their order.
//!
//! It is looked at first, which tells its size, its metadata and the store's checksum of the whole; every range is asked
//! for under the ETag or version that was seen then, so that no file is made of two contents.
//!
//! Room in memory is taken for one range after the other: the one that is to be written next always has its room, so
//! that those that came before it cannot keep it out.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::task::JoinSet;

use crate::base::offload::Offload;
use crate::restore::check::{Check, Summing};
use crate::restore::fetch::{Fetched, Fetcher};
use crate::restore::place::{self, Ended, Job};
use crate::restore::target::{Target, Temporary};
use crate::restore::told::Counters;
use crate::restore::wanted::Stamp;
use crate::store::{self, Which};

/// The length of a range, in bytes; a shorter file is fetched whole.
pub const RANGE: u64 = 8 << 20;

/// Ranges of one file on their way or waiting for their turn: more only take memory, and the caches with it.
const AT_ONCE: usize = 8;

/// Fetches a file in ranges and puts it in its place.
pub async fn fetch(
    fetcher: &Fetcher,
    target: &Arc<Target>,
    job: &Job,
    counters: &Counters,
) -> Ended {
    let wanted = &job.wanted;
    let _turn = fetcher.turn_of_large().await;
    let object = match fetcher.head(&wanted.key, &wanted.which()).await {
        Ok(object) => object,
        Err(error) => return Ended::Refused(error),
    };
    let check = Check::best(wanted.sha256, &object);
    let stamp = wanted.stamp.or(Stamp::of(&object));
    let (dir, path) = (target.clone(), wanted.path.clone());
    let made = Offload::Pool.run(move || dir.temporary(&path, None)).await;
    let temporary = match made {
        Ok(temporary) => temporary,
        Err(error) => return Ended::of_disk(&error),
    };
    let ranges = Ranges {
        fetcher: fetcher.clone(),
        key: wanted.key.clone(),
        which: match &wanted.version_id {
            Some(id) => Which::Version(id.clone()),
            None => Which::Is(object.etag.clone()),
        },
        etag: object.etag.clone(),
        size: object.size,
        written: 0,
        file: Some((temporary, check.begin())),
    };
    let (temporary, summing) = match ranges.run(counters).await {
        Ok(done) => done,
        Err(ended) => return ended,
    };
    if !check.holds(summing, object.size) {
        return Ended::Unverified(place::unverified(check.by()));
    }
    let (dir, job) = (target.clone(), job.clone());
    let placed = Offload::Pool.run(move || place::written(&dir, &job, &stamp, temporary));
    match placed.await {
        Ok(()) => Ended::Restored {
            bytes: object.size,
            by: check.by(),
            has_time: stamp.mtime_ns.is_some(),
        },
        Err(error) => Ended::of_disk(&error),
    }
}

/// The ranges of one file.
struct Ranges {
    fetcher: Fetcher,
    key: String,
    which: Which,
    etag: String,
    size: u64,
    /// How much has been written, from the beginning.
    written: u64,
    /// The file and the sum of what it has; away while it is being written.
    file: Option<(Temporary, Summing)>,
}

impl Ranges {
    async fn run(mut self, counters: &Counters) -> Result<(Temporary, Summing), Ended> {
        let mut asked = 0;
        let mut arrived: BTreeMap<u64, Fetched> = BTreeMap::new();
        let mut gets: JoinSet<(u64, store::Result<Fetched>)> = JoinSet::new();
        let mut writes: JoinSet<std::io::Result<(Temporary, Summing, u64)>> = JoinSet::new();
        while self.written < self.size {
            if self.file.is_some()
                && let Some(fetched) = arrived.remove(&self.written)
                && let Some((temporary, mut summing)) = self.file.take()
            {
                let at = self.written;
                writes.spawn(Offload::Pool.run(move || {
                    temporary.write_at(&fetched.bytes, at)?;
                    summing.update(&fetched.bytes);
                    Ok((temporary, summing, fetched.bytes.len() as u64))
                }));
                continue;
            }
            let may_ask = asked < self.size && gets.len() + arrived.len() < AT_ONCE;
            let len = RANGE.min(self.size - asked);
            tokio::select! {
                Some(write) = writes.join_next() => {
                    let (temporary, summing, len) = joined(write)?.map_err(|error| Ended::of_disk(&error))?;
                    self.file = Some((temporary, summing));
                    self.written += len;
                    Counters::add(&counters.bytes, len);
                }
                Some(get) = gets.join_next() => {
                    let (at, fetched) = joined(get)?;
                    arrived.insert(at, self.checked(at, fetched)?);
                }
                held = self.fetcher.reserve(len), if may_ask => {
                    let (fetcher, key, which) = (self.fetcher.clone(), self.key.clone(), self.which.clone());
                    let range = asked..asked + len;
                    gets.spawn(async move {
                        (range.start, fetcher.get(&key, &which, Some(range), held).await)
                    });
                    asked += len;
                }
            }
        }
        self.file
            .ok_or_else(|| Ended::Failed("it was cut off".to_owned()))
    }

    /// Makes sure that a range is of the content that was seen, and whole.
    fn checked(&self, at: u64, fetched: store::Result<Fetched>) -> Result<Fetched, Ended> {
        let fetched = fetched.map_err(Ended::Refused)?;
        let expected = RANGE.min(self.size - at);
        if fetched.object.etag != self.etag || fetched.object.size != self.size {
            return Err(Ended::Failed(
                "the object was changed while it was read".to_owned(),
            ));
        }
        if fetched.bytes.len() as u64 != expected {
            return Err(Ended::Failed(
                "the store sent another range than it was asked for".to_owned(),
            ));
        }
        Ok(fetched)
    }
}

/// Takes what a task has come to; its panic goes on here.
fn joined<T>(result: Result<T, tokio::task::JoinError>) -> Result<T, Ended> {
    result.map_err(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => Ended::Failed("it was cut off".to_owned()),
    })
}
