//! One object: single, multipart, or copied on the server; verified, or given up.
//!
//! - Order: permit, request, answer checked. A multipart's id is durable before its first part, so that a crash leaves
//!   nothing behind that nobody remembers. Parts are read in order, hashed in order, and sent side by side.
//! - Consistency: each part is read under a lease of its own, which is given back before the part is sent, and between two
//!   stats that are those of the beginning. Before the parts are joined there is one more such look: nobody writes now,
//!   and nobody has since the beginning. Where there are no leases only the stats say so, and a young file is doubtful.
//!   A source that is a clone, or the beginning of a file that only grows, has no lease either and says which stat it has;
//!   what was hashed before must come out again.
//! - Errors and retries: the store repeats a request for blips; what comes back from here is the queue's to retry. A
//!   complete whose answer was lost is settled by looking at the object.
//! - Cancellation: dropping the future aborts the parts on their way; the upload's id stays in the manifest, and the next
//!   start gives it up.
//! - After a crash: as after cancellation.
//! - Does not protect against: a store that answers with an ETag for bytes it did not keep.

use std::sync::Arc;

use md5::Digest as _;
use tokio::task::JoinSet;

use crate::base::buffers::Pool;
use crate::base::digest::{Crc64, Hasher, Sha256, hex};
use crate::base::offload::Offload;
use crate::base::stat::Stat;
use crate::store::{self, Body, ErrorKind, MAX_SINGLE, Meta, Part, Store, Stored, Tap};
use crate::tree::{OpenFile, ReadError, Reading};

/// Up to here a file is read once into one buffer and sent with one request, bytes.
pub const SINGLE_MOST: u64 = 16 << 20;
/// The smallest part, bytes: more small parts beat fewer large ones for the same memory.
const PART_LEAST: u64 = 8 << 20;
/// Parts aimed at for the largest files; S3 allows 10,000.
const PARTS_AIM: u64 = 9_000;
/// Parts of one file on their way at once.
const PARTS_AT_ONCE: usize = 16;
/// The range of one part of a copied object, bytes.
const COPY_RANGE: u64 = 512 << 20;

/// What an upload has to ask for.
pub trait Gate: Send + Sync + 'static {
    /// Memory held for a body.
    type Hold: Send + 'static;

    /// Waits for the right to hold `bytes` in memory.
    fn memory(&self, bytes: u64) -> impl Future<Output = Self::Hold> + Send;

    /// Sends a request that moves `bytes`, when there is a place for it.
    fn send<T: Send>(
        &self,
        bytes: u64,
        request: impl Future<Output = store::Result<T>> + Send,
    ) -> impl Future<Output = store::Result<T>> + Send;

    /// Returns what a body goes out through.
    fn tap(&self) -> Arc<dyn Tap>;

    /// Makes a multipart upload's id durable.
    fn begun(&self, upload: &str) -> impl Future<Output = ()> + Send;

    /// Lets go of an id: the upload was completed or given up.
    fn ended(&self, upload: &str) -> impl Future<Output = ()> + Send;
}

/// Why a multipart upload was given up.
#[derive(Debug)]
pub enum Stop {
    /// The file could not be read as a whole.
    Read(ReadError),
    /// The store did not take it.
    Store(store::Error),
}

impl From<store::Error> for Stop {
    fn from(error: store::Error) -> Self {
        Self::Store(error)
    }
}

impl From<ReadError> for Stop {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

/// Returns the size of all parts but the last of a file of `size` bytes: 8 MiB, more where that would be over 9,000
/// parts, in whole MiB.
pub fn part_size_bytes(size: u64) -> u64 {
    size.div_ceil(PARTS_AIM)
        .next_multiple_of(1 << 20)
        .max(PART_LEAST)
}

/// What a multipart upload works with.
#[derive(Clone)]
pub struct Source {
    /// The file.
    pub file: Arc<dyn OpenFile>,
    /// Its stat when it was opened; the upload is completed only if it is the same at the end.
    pub stat: Stat,
    /// Wall clock when it was opened, nanoseconds.
    pub read_at_ns: i64,
    /// What it was when it was hashed before: what is sent has to be the same.
    pub expected: Option<Sha256>,
    /// Where reading and hashing run.
    pub offload: Offload,
    /// Where parts are read into.
    pub buffers: Pool,
}

/// What was uploaded by parts.
#[derive(Debug)]
pub struct Uploaded {
    /// What the store says of it.
    pub stored: Stored,
    /// The SHA-256 of what was sent.
    pub sha256: Sha256,
    /// Whether nobody can promise that no writer was at work while it was read.
    pub doubtful: bool,
}

impl Source {
    /// Begins to read if the file is still as it was when it was opened.
    fn begin(&self) -> Result<Reading<'_>, ReadError> {
        let reading = Reading::begin(&*self.file, self.read_at_ns)?;
        if reading.stat.same_content_as(&self.stat) {
            Ok(reading)
        } else {
            Err(ReadError::Moving)
        }
    }
}

/// Uploads a large file by parts.
pub async fn multipart<G: Gate>(
    store: &Arc<dyn Store>,
    gate: &Arc<G>,
    key: &str,
    meta: &Meta,
    source: &Source,
) -> Result<Uploaded, Stop> {
    let upload = gate.send(0, store.create_multipart(key, meta)).await?;
    gate.begun(&upload).await;
    let sent = match send_parts(store, gate, key, &upload, source).await {
        Ok(sent) => complete(store, gate, key, &upload, &sent)
            .await
            .map(|stored| Uploaded {
                stored,
                sha256: sent.sha256,
                doubtful: sent.doubtful,
            }),
        Err(stop) => Err(stop),
    };
    settled(store, gate, key, &upload, sent).await
}

/// Lets go of an upload that was completed; gives any other one up.
async fn settled<G: Gate, T, E>(
    store: &Arc<dyn Store>,
    gate: &Arc<G>,
    key: &str,
    upload: &str,
    result: Result<T, E>,
) -> Result<T, E> {
    match &result {
        Ok(_) => gate.ended(upload).await,
        Err(_) => give_up(store, gate, key, upload).await,
    }
    result
}

/// Gives an upload up; what does not work now is done at the next start.
async fn give_up<G: Gate>(store: &Arc<dyn Store>, gate: &Arc<G>, key: &str, upload: &str) {
    match gate.send(0, store.abort(key, upload)).await {
        Ok(()) => gate.ended(upload).await,
        Err(error) => {
            tracing::debug!(%error, "could not give up a multipart upload; it is tried at the next start");
        }
    }
}

struct Sent {
    parts: Vec<Part>,
    crc64: Option<Crc64>,
    sha256: Sha256,
    doubtful: bool,
}

async fn send_parts<G: Gate>(
    store: &Arc<dyn Store>,
    gate: &Arc<G>,
    key: &str,
    upload: &str,
    source: &Source,
) -> Result<Sent, Stop> {
    let size = source.stat.size;
    let part_size = part_size_bytes(size);
    let mut running: JoinSet<store::Result<Part>> = JoinSet::new();
    let mut parts = Vec::new();
    let mut hasher = Hasher::default();
    let mut crc64: Option<Crc64> = None;
    let mut doubtful = false;
    for (number, offset) in (1..).zip((0..size).step_by(part_size as usize)) {
        while running.len() >= PARTS_AT_ONCE {
            parts.extend(joined(&mut running).await?);
        }
        let len = part_size.min(size - offset);
        let hold = gate.memory(len).await;
        let from = source.clone();
        let read = source.offload.run(move || {
            let mut buffer = from.buffers.take(len as usize);
            let reading = from.begin()?;
            reading.fill(offset, &mut buffer)?;
            let in_doubt = reading.end()?;
            hasher.update(buffer.as_ref());
            let crc64 = Crc64::of(buffer.as_ref());
            Ok::<_, ReadError>((buffer.freeze(), crc64, hasher, in_doubt))
        });
        let (bytes, crc, so_far, in_doubt) = read.await?;
        (hasher, doubtful) = (so_far, doubtful | in_doubt);
        crc64 = Some(crc64.map_or(crc, |before| before.followed_by(crc, len)));
        let (store, gate) = (store.clone(), gate.clone());
        let (key, upload) = (key.to_owned(), upload.to_owned());
        running.spawn(async move {
            let body = Body::new(bytes, crc, None).with_tap(Some(gate.tap()));
            let part = gate
                .send(len, store.put_part(&key, &upload, number, body))
                .await;
            drop(hold);
            part
        });
        while let Some(ended) = running.try_join_next() {
            parts.push(ended.map_err(|_| ReadError::Moving)??);
        }
    }
    while !running.is_empty() {
        parts.extend(joined(&mut running).await?);
    }
    parts.sort_by_key(|part: &Part| part.number);
    let (from, sha256) = (source.clone(), hasher.finish());
    let look = source.offload.run(move || from.begin()?.end());
    doubtful |= look.await?;
    if source.expected.is_some_and(|expected| expected != sha256) {
        return Err(Stop::Read(ReadError::Moving));
    }
    Ok(Sent {
        parts,
        crc64,
        sha256,
        doubtful,
    })
}

/// Returns the next part that has ended.
async fn joined(running: &mut JoinSet<store::Result<Part>>) -> Result<Option<Part>, Stop> {
    match running.join_next().await {
        None => Ok(None),
        Some(Ok(part)) => Ok(Some(part?)),
        // A part's task panics only if a broken invariant did; the panic belongs to this job.
        Some(Err(error)) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Stop::Read(ReadError::Moving)),
        },
    }
}

async fn complete<G: Gate>(
    store: &Arc<dyn Store>,
    gate: &Arc<G>,
    key: &str,
    upload: &str,
    sent: &Sent,
) -> Result<Stored, Stop> {
    let error = match gate
        .send(0, store.complete(key, upload, &sent.parts, sent.crc64))
        .await
    {
        Ok(stored) => return Ok(stored),
        Err(error) => error,
    };
    if error.effect != store::Effect::Possible {
        return Err(error.into());
    }
    // The answer is missing, or the upload is gone because it was completed: the object tells, by the ETag that these
    // parts must have. Existence or size alone would be no proof.
    match gate.send(0, store.head(key)).await {
        Ok(object) if Some(&object.etag) == joined_etag(&sent.parts).as_ref() => Ok(Stored {
            etag: object.etag,
            version_id: object.version_id,
            is_outstanding: false,
        }),
        _ => Err(error.into()),
    }
}

/// Returns the ETag that S3 gives to parts whose ETags are MD5s: the MD5 of the MD5s and their number.
fn joined_etag(parts: &[Part]) -> Option<String> {
    let mut md5 = md5::Md5::new();
    for part in parts {
        let etag = part.etag.as_bytes();
        if etag.len() != 32 {
            return None;
        }
        for pair in part.etag.as_bytes().chunks_exact(2) {
            let byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
            md5.update([byte]);
        }
    }
    Some(format!("{}-{}", hex(&md5.finalize()), parts.len()))
}

/// An object that is to be copied.
#[derive(Clone, Debug)]
pub struct Original {
    /// Its whole key.
    pub key: String,
    /// Its ETag: what is copied if, and only if, it is still this.
    pub etag: String,
    /// Its length in bytes.
    pub size: u64,
}

/// Copies an object on the server, by parts above 5 GiB, and makes sure that what was copied is what was meant, also on a
/// store that ignores the condition.
pub async fn copy<G: Gate>(
    store: &Arc<dyn Store>,
    gate: &Arc<G>,
    from: &Original,
    to: &str,
    meta: &Meta,
) -> store::Result<Stored> {
    let stored = if from.size <= MAX_SINGLE {
        gate.send(0, store.copy(&from.key, &from.etag, to, meta))
            .await?
    } else {
        copy_parts(store, gate, from, to, meta).await?
    };
    // The same bytes have the same ETag, where the ETag is an MD5 of them.
    if stored.etag == from.etag {
        return Ok(stored);
    }
    let source = gate.send(0, store.head(&from.key)).await?;
    let target = gate.send(0, store.head(to)).await?;
    if source.etag == from.etag && target.etag == stored.etag && target.size == from.size {
        return Ok(stored);
    }
    Err(store::Error::new(
        ErrorKind::Corrupt,
        "CopyObject",
        to,
        store::Effect::Possible,
        "the copy is not the object that was to be copied",
    ))
}

/// Copies an object by reading and writing it, for a store that cannot: piece by piece, in bounded memory.
pub async fn relay<G: Gate>(
    store: &Arc<dyn Store>,
    gate: &Arc<G>,
    from: &Original,
    to: &str,
    meta: &Meta,
) -> store::Result<Stored> {
    if from.size <= SINGLE_MOST {
        let hold = gate.memory(from.size).await;
        let body = fetch(store, gate, from, None).await?;
        let stored = gate.send(from.size, store.put(to, body, meta)).await;
        drop(hold);
        return stored;
    }
    let upload = gate.send(0, store.create_multipart(to, meta)).await?;
    gate.begun(&upload).await;
    let relayed = relay_parts(store, gate, from, to, &upload).await;
    settled(store, gate, to, &upload, relayed).await
}

async fn relay_parts<G: Gate>(
    store: &Arc<dyn Store>,
    gate: &Arc<G>,
    from: &Original,
    to: &str,
    upload: &str,
) -> store::Result<Stored> {
    let part_size = part_size_bytes(from.size);
    let (mut parts, mut crc64) = (Vec::new(), None::<Crc64>);
    for (number, start) in (1..).zip((0..from.size).step_by(part_size as usize)) {
        let range = start..(start + part_size).min(from.size);
        let len = range.end - range.start;
        let hold = gate.memory(len).await;
        let body = fetch(store, gate, from, Some(range)).await?;
        crc64 = Some(crc64.map_or(body.crc64, |before| before.followed_by(body.crc64, len)));
        parts.push(
            gate.send(len, store.put_part(to, upload, number, body))
                .await?,
        );
        drop(hold);
    }
    gate.send(0, store.complete(to, upload, &parts, crc64))
        .await
}

/// Reads an object, or a part of it, if it is still the one that is meant.
async fn fetch<G: Gate>(
    store: &Arc<dyn Store>,
    gate: &Arc<G>,
    from: &Original,
    range: Option<std::ops::Range<u64>>,
) -> store::Result<Body> {
    let len = range
        .as_ref()
        .map_or(from.size, |range| range.end - range.start);
    let (object, bytes) = gate.send(len, store.get(&from.key, range)).await?;
    if object.etag != from.etag || bytes.len() as u64 != len {
        return Err(store::Error::new(
            ErrorKind::Corrupt,
            "GetObject",
            &from.key,
            store::Effect::None,
            "the object changed while it was read",
        ));
    }
    // What comes in is not counted against the bandwidth, what goes out again is.
    Ok(Body::of(bytes).with_tap(Some(gate.tap())))
}

async fn copy_parts<G: Gate>(
    store: &Arc<dyn Store>,
    gate: &Arc<G>,
    from: &Original,
    to: &str,
    meta: &Meta,
) -> store::Result<Stored> {
    let upload = gate.send(0, store.create_multipart(to, meta)).await?;
    gate.begun(&upload).await;
    let copied = copy_ranges(store, gate, from, to, &upload).await;
    settled(store, gate, to, &upload, copied).await
}

async fn copy_ranges<G: Gate>(
    store: &Arc<dyn Store>,
    gate: &Arc<G>,
    from: &Original,
    to: &str,
    upload: &str,
) -> store::Result<Stored> {
    let mut parts = Vec::new();
    let range_size = COPY_RANGE.max(part_size_bytes(from.size));
    for (number, start) in (1..).zip((0..from.size).step_by(range_size as usize)) {
        let range = start..(start + range_size).min(from.size);
        let part = store.copy_part(&from.key, &from.etag, range, to, upload, number);
        parts.push(gate.send(0, part).await?);
    }
    gate.send(0, store.complete(to, upload, &parts, None)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_grow_with_the_file_and_stay_below_ten_thousand() {
        assert_eq!(part_size_bytes(17 << 20), 8 << 20);
        assert_eq!(part_size_bytes(70 << 30), 8 << 20);
        for size in [80_u64 << 30, 1 << 40, 5 << 40, 48 << 40] {
            let part = part_size_bytes(size);
            assert!(
                part.is_multiple_of(1 << 20) && size.div_ceil(part) <= PARTS_AIM,
                "{size}"
            );
        }
    }

    #[test]
    fn the_etag_of_parts_is_the_md5_of_their_md5s() {
        let part = |etag: &str| Part {
            number: 1,
            etag: etag.into(),
            crc64: None,
        };
        let a = "900150983cd24fb0d6963f7d28e17f72";
        // md5 of the 16 bytes above, twice.
        assert_eq!(joined_etag(&[part("opaque")]), None);
        let joined = joined_etag(&[part(a), part(a)]).expect("both are MD5s");
        assert!(joined.ends_with("-2") && joined.len() == 34, "{joined}");
    }
}
