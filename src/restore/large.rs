//! A file that is fetched in ranges: several at once, of one content, written and summed up in their order as they arrive.
//!
//! Where the catalog does not say everything of it, it is looked at first, which tells its size, its metadata and the
//! store's checksum of the whole; every range is asked for under the ETag or version that was seen then, so that no file is
//! made of two contents.
//!
//! What has been written when a run is stopped or killed, or the bucket gives nothing any more, stays under a name that
//! says which content it is the beginning of (`temporary`). The next run reads it again, which sums it up, and asks for the
//! rest alone. If the whole is not what was stored then, all of it is thrown away and fetched anew, once. A content that
//! nothing proves is not gone on with.
//!
//! Room in memory is taken for one range after the other: the one that is to be written next always has its room, so
//! that those that came before it cannot keep it out.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::base::offload::{Offload, joined};
use crate::restore::check::{Check, Summing};
use crate::restore::fetch::{Fetcher, Held};
use crate::restore::flush::Flush;
use crate::restore::place::{self, Ended, Job};
use crate::restore::plan::By;
use crate::restore::target::Target;
use crate::restore::temporary::{self, Temporary};
use crate::restore::told::Counters;
use crate::restore::wanted::{Kind, Stamp, Wanted};
use crate::store::{self, ErrorKind, Object, Sink, Which};

/// The length of a range, in bytes; a shorter file is fetched whole.
pub const RANGE: u64 = 8 << 20;

/// Ranges of one file on their way or waiting for their turn: more only take memory, and the caches with it.
const AT_ONCE: usize = 8;

/// Bytes that are worth a second thread: what takes much longer to write, and to sum up, than to wake one.
const WORTH: u64 = 1 << 20;

/// Bytes of a beginning that are read at once.
const READ: usize = 1 << 20;

/// Returns the name of the beginning of a file that may be there from another run; `None` for one that is fetched whole.
pub fn beginning(job: &Job) -> Option<Vec<u8>> {
    let wanted = &job.wanted;
    let is_large = wanted.kind == Kind::File && wanted.size > RANGE;
    let etag = wanted.etag.as_ref().filter(|_| is_large)?;
    Some(name(wanted, etag, wanted.size))
}

fn name(wanted: &Wanted, etag: &str, size: u64) -> Vec<u8> {
    let version = wanted.version_id.as_deref().unwrap_or_default();
    temporary::beginning(&wanted.path, &wanted.key, etag, version, size)
}

/// What is known of the object before its first range.
struct Seen {
    etag: String,
    size: u64,
    check: Check,
    stamp: Stamp,
}

impl Seen {
    /// Takes what the catalog says, if it says everything.
    fn of(wanted: &Wanted) -> Option<Self> {
        wanted.stamp.mtime_ns?;
        Some(Self {
            etag: wanted.etag.clone()?,
            size: wanted.size,
            check: Check::Sha256(wanted.sha256?),
            stamp: wanted.stamp,
        })
    }

    fn looked(wanted: &Wanted, object: &Object) -> Self {
        Self {
            etag: object.etag.clone(),
            size: object.size,
            check: Check::best(wanted.sha256, object),
            stamp: wanted.stamp.or(Stamp::of(object)),
        }
    }
}

/// Fetches a file in ranges and puts it in its place.
pub async fn fetch(
    fetcher: &Fetcher,
    target: &Arc<Target>,
    job: &Job,
    counters: &Arc<Counters>,
) -> Ended {
    let wanted = &job.wanted;
    let _turn = fetcher.turn_of_large().await;
    let seen = match Seen::of(wanted) {
        Some(seen) => seen,
        None => match fetcher.head(&wanted.key, &wanted.which()).await {
            Ok(object) => Seen::looked(wanted, &object),
            Err(error) => return Ended::Refused(error),
        },
    };
    let can_go_on = seen.check.by() != By::Size;
    let name = can_go_on.then(|| name(wanted, &seen.etag, seen.size));
    let ended = bring(fetcher, target, job, counters, seen, name.clone()).await;
    let stays = match &ended {
        Ended::Refused(error) => {
            !matches!(error.kind, ErrorKind::Precondition | ErrorKind::NotFound)
        }
        _ => false,
    };
    let is_left = !stays && !matches!(ended, Ended::Restored { .. });
    if let Some(name) = name.filter(|_| is_left) {
        let (dir, path) = (target.clone(), wanted.path.clone());
        // What cannot be removed now, the next run removes.
        let _ = Offload::Pool.run(move || dir.forget(&path, &name)).await;
    }
    ended
}

async fn bring(
    fetcher: &Fetcher,
    target: &Arc<Target>,
    job: &Job,
    counters: &Arc<Counters>,
    seen: Seen,
    name: Option<Vec<u8>>,
) -> Ended {
    let wanted = &job.wanted;
    let (dir, path, size) = (target.clone(), wanted.path.clone(), seen.size);
    let made = Offload::Pool.run(move || {
        let begun = name.and_then(|name| dir.beginning(&path, &name, size).ok());
        // Something that is no file and cannot be removed may have the name: then it goes without.
        let anew = || Ok((dir.temporary(&path, None)?, 0));
        begun.map_or_else(anew, Ok)
    });
    let (temporary, there) = match made.await {
        Ok(made) => made,
        Err(error) => return Ended::of_disk(&error),
    };
    let ranges = Ranges {
        fetcher: fetcher.clone(),
        key: wanted.key.clone(),
        which: match &wanted.version_id {
            Some(id) => Which::Version(id.clone()),
            None => Which::Is(seen.etag.clone()),
        },
        etag: seen.etag,
        size,
        done: there,
        rooms: VecDeque::new(),
        inbox: Arc::default(),
        counters: counters.clone(),
        flush: target.flush().clone(),
        file: None,
    };
    let (temporary, summing) = match ranges.run(temporary, seen.check.begin()).await {
        Ok(done) => done,
        Err(ended) => return ended,
    };
    if !seen.check.holds(summing, size) {
        return Ended::Unverified(place::unverified(seen.check.by()));
    }
    let (dir, job, stamp) = (target.clone(), job.clone(), seen.stamp);
    let placed = Offload::Pool.run(move || place::written(&dir, &job, &stamp, temporary));
    match placed.await {
        Ok(()) => Ended::Restored {
            bytes: size,
            by: seen.check.by(),
            has_time: stamp.mtime_ns.is_some(),
        },
        Err(error) => Ended::of_disk(&error),
    }
}

/// Pieces that have arrived and wait for those before them, by where they begin.
#[derive(Default)]
struct Inbox {
    pieces: Mutex<BTreeMap<u64, Bytes>>,
    arrived: Notify,
}

impl Inbox {
    fn has(&self, at: u64) -> bool {
        let pieces = self.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        pieces.contains_key(&at)
    }

    /// Takes what follows from `at` on, a range at most, so that the room of those that are done is given back.
    fn next(&self, mut at: u64) -> Vec<Bytes> {
        let end = at + RANGE;
        let mut waiting = self.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = Vec::new();
        while at < end {
            let Some(piece) = waiting.remove(&at) else {
                break;
            };
            at += piece.len() as u64;
            taken.push(piece);
        }
        taken
    }
}

impl Sink for Inbox {
    fn take(&self, at: u64, piece: Bytes) {
        if piece.is_empty() {
            return;
        }
        let mut pieces = self.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        pieces.insert(at, piece);
        drop(pieces);
        self.arrived.notify_one();
    }
}

/// What has been done of a file, and its sum.
type Worked = io::Result<(Temporary, Summing, u64)>;

/// The ranges of one file.
struct Ranges {
    fetcher: Fetcher,
    key: String,
    which: Which,
    etag: String,
    size: u64,
    /// How much has been written and summed up, from the beginning.
    done: u64,
    /// The room of each range that was asked for and is not done, and where it ends.
    rooms: VecDeque<(u64, Held)>,
    inbox: Arc<Inbox>,
    counters: Arc<Counters>,
    flush: Arc<Flush>,
    /// The file and the sum of what it has; away while it is worked on.
    file: Option<(Temporary, Summing)>,
}

impl Ranges {
    /// Goes on with a file that has `done` bytes, which are summed up while the others come.
    async fn run(
        mut self,
        temporary: Temporary,
        summing: Summing,
    ) -> Result<(Temporary, Summing), Ended> {
        let mut asked = self.done;
        let mut gets: JoinSet<store::Result<Object>> = JoinSet::new();
        let mut work: JoinSet<Worked> = JoinSet::new();
        let (there, counters) = (self.done, self.counters.clone());
        work.spawn(Offload::Pool.run(move || again(temporary, summing, there, &counters)));
        loop {
            if self.inbox.has(self.done)
                && let Some((temporary, summing)) = self.file.take()
            {
                let pieces = self.inbox.next(self.done);
                work.spawn(take_in(temporary, summing, pieces, self.done));
            }
            if asked == self.size
                && gets.is_empty()
                && let Some(file) = self.file.take()
            {
                let why = || Ended::Failed("the store sent less than it was asked for".to_owned());
                return (self.done == self.size).then_some(file).ok_or_else(why);
            }
            let may_ask = asked < self.size && self.rooms.len() < AT_ONCE;
            let len = RANGE.min(self.size - asked);
            tokio::select! {
                Some(worked) = work.join_next() => {
                    let worked = come(worked)?.map_err(|error| Ended::of_disk(&error));
                    let (temporary, summing, done) = worked?;
                    self.file = Some((temporary, summing));
                    self.flush.wrote(done - self.done);
                    Counters::add(&self.counters.bytes, done - self.done);
                    self.done = done;
                    self.rooms.retain(|(end, _)| *end > done);
                }
                Some(get) = gets.join_next() => self.check(come(get)?)?,
                held = self.fetcher.reserve(len), if may_ask => {
                    let (fetcher, key, which) = (self.fetcher.clone(), self.key.clone(), self.which.clone());
                    let (range, inbox) = (asked..asked + len, self.inbox.clone());
                    asked = range.end;
                    self.rooms.push_back((asked, held));
                    gets.spawn(async move { fetcher.get_into(&key, &which, range, &*inbox).await });
                }
                () = self.inbox.arrived.notified(), if self.file.is_some() => {}
            }
        }
    }

    /// Makes sure that a range is of the content that was seen.
    fn check(&self, got: store::Result<Object>) -> Result<(), Ended> {
        let object = got.map_err(Ended::Refused)?;
        if object.etag != self.etag || object.size != self.size {
            let why = "the object was changed while it was read";
            return Err(Ended::Failed(why.to_owned()));
        }
        Ok(())
    }
}

/// Sums up what another run has left. Blocks.
fn again(temporary: Temporary, mut summing: Summing, there: u64, counters: &Counters) -> Worked {
    let mut buffer = vec![0; if there == 0 { 0 } else { READ }];
    let mut at = 0;
    while at < there {
        let most = buffer
            .len()
            .min(usize::try_from(there - at).unwrap_or(READ));
        let read = temporary.read_at(&mut buffer[..most], at)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        summing.update(&buffer[..read]);
        at += read as u64;
        Counters::add(&counters.bytes, read as u64);
    }
    Ok((temporary, summing, there))
}

/// Writes and sums up what has arrived: side by side, where it is enough to be worth a second thread.
async fn take_in(
    temporary: Temporary,
    mut summing: Summing,
    pieces: Vec<Bytes>,
    at: u64,
) -> Worked {
    let len: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
    let pieces = Arc::new(pieces);
    let same = pieces.clone();
    let write = move || temporary.write_all_at(&pieces, at).map(|()| temporary);
    let sum = move || {
        for piece in &*same {
            summing.update(piece);
        }
        summing
    };
    let (temporary, summing) = if len < WORTH {
        Offload::Pool.run(move || (write(), sum())).await
    } else {
        tokio::join!(Offload::Pool.run(write), Offload::Pool.run(sum))
    };
    Ok((temporary?, summing, at + len))
}

/// Takes what a task has come to; its panic goes on here.
fn come<T>(result: Result<T, tokio::task::JoinError>) -> Result<T, Ended> {
    joined(result).ok_or_else(|| Ended::Failed("it was cut off".to_owned()))
}
