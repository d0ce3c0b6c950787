//! One large object: uploaded by parts, gone on with after whatever interrupted it; verified, or given up.
//!
//! - Order: it is durable that an upload is about to be created, then it is created, then its id and the file's stamps are
//!   durable, then its first part is sent: a crash leaves nothing behind that nobody remembers. Each part's number, ETag and
//!   CRC64 are noted once it is answered; nobody waits for these notes, for what is lost of them is only sent again.
//! - Consistency: each part is read under a lease of its own, which is given back before the part is sent, and between two
//!   stats that are those of the beginning. Before the parts are joined there is one more such look: nobody writes now,
//!   and nobody has since the beginning. Where there are no leases only the stats say so, and a young file is doubtful.
//!   A source that is a clone, or the beginning of a file that only grows, has no lease either and says which stat it has;
//!   what was hashed before must come out again.
//! - Going on: an upload of an earlier try serves if it is of the same file under the same stamps, in parts of the same
//!   size. Of its parts those are trusted that the store lists as they were noted; where it cannot list, those that were
//!   noted. All of the file is read again, each trusted part has to have the CRC64 that it had, and the SHA-256 is
//!   rebuilt on the way; only the rest is sent.
//! - Errors and retries: the store repeats a request for blips; what comes back from here is the queue's to retry. What
//!   may pass (the line, the store's patience, credentials, room) leaves the upload open for the next try; a file that
//!   changed, and a store that refuses for good, do not. An upload that the store has lost, or whose parts it does not
//!   join, is begun anew, once. A completion that was not answered well is settled by looking at the object, whose ETag
//!   has to be the one that these parts make.
//! - Cancellation: asked to stop, it sends no further part, waits for those on their way, and leaves the upload open.
//!   Dropping the future aborts the parts on their way, and leaves the upload in the manifest all the same.
//! - After a crash: the next try goes on. What nobody will go on with, the folder's loop gives up. Uploads of clones and
//!   beginnings, and of copies, serve nobody later, and are given up.
//! - Does not protect against: a store that answers with an ETag for bytes it did not keep, unless it is known not to
//!   verify; then the object is looked at once more.

pub mod copies;
mod parts;

use std::collections::BTreeMap;
use std::sync::Arc;

use md5::Digest as _;

use crate::base::buffers::Pool;
use crate::base::digest::{Crc64, Sha256, hex};
use crate::base::failpoint;
use crate::base::offload::Offload;
use crate::base::stat::Stat;
use crate::manifest::{self, Cut, UploadPart};
use crate::store::{self, Effect, ErrorKind, Meta, Object, Part, Store, Stored, Tap, Which};
use crate::sync::upload::parts::{Sent, Way};
use crate::tree::{OpenFile, ReadError, Reading};

/// Up to here a file is read once into one buffer and sent with one request, bytes.
pub const SINGLE_MOST: u64 = 16 << 20;
/// The smallest part, bytes: more small parts beat fewer large ones for the same memory.
const PART_LEAST: u64 = 8 << 20;
/// Parts aimed at for the largest files; S3 allows 10,000.
const PARTS_AIM: u64 = 9_000;

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

    /// Makes durable that a multipart upload is about to be created; returns what stands for it.
    fn asks(&self) -> impl Future<Output = manifest::Upload> + Send;

    /// Makes a multipart upload durable that was created.
    fn begun(&self, upload: manifest::Upload) -> impl Future<Output = ()> + Send;

    /// Notes a part that was answered. Not durable on return.
    fn stored(&self, upload: &str, part: &Part, crc64: Crc64) -> impl Future<Output = ()> + Send;

    /// Lets go of an id: the upload was completed or given up.
    fn ended(&self, upload: &str) -> impl Future<Output = ()> + Send;

    /// Returns when no further part is to be sent; never, if nobody asks for that.
    fn stopped(&self) -> impl Future<Output = ()> + Send;

    /// Takes note that work goes on although nothing is sent: a part of so many bytes was there already.
    fn went_on(&self, bytes: u64);
}

/// Why a multipart upload did not come to its end.
#[derive(Debug)]
pub enum Stop {
    /// The file could not be read as a whole.
    Read(ReadError),
    /// The store did not take it.
    Store(store::Error),
    /// It was asked to stop.
    Stopped,
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

/// What becomes of an upload that did not come to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    /// It stays open, and the next try goes on with it.
    Kept,
    /// It serves nobody any more.
    GivenUp,
}

impl Stop {
    fn fate(&self, source: &Source) -> Fate {
        let may_pass = match self {
            Self::Stopped | Self::Read(ReadError::Io(_)) => true,
            Self::Read(_) => false,
            Self::Store(error) => match error.kind {
                ErrorKind::Network
                | ErrorKind::Busy
                | ErrorKind::Barred
                | ErrorKind::Full
                | ErrorKind::Conflict => true,
                // That part was not taken; the others were.
                ErrorKind::Corrupt => error.operation == "UploadPart",
                ErrorKind::NotFound => !is_lost(error),
                _ => false,
            },
        };
        if may_pass && source.lasts {
            Fate::Kept
        } else {
            Fate::GivenUp
        }
    }

    /// Returns true if there is nothing wrong with the file, and another upload of it may go well: the store has lost this
    /// one, or will not join its parts.
    fn asks_for_another(&self) -> bool {
        match self {
            Self::Store(error) => {
                is_lost(error)
                    || matches!(
                        error.code.as_str(),
                        "InvalidPart" | "InvalidPartOrder" | "EntityTooSmall"
                    )
            }
            Self::Read(_) | Self::Stopped => false,
        }
    }
}

/// Returns true if the store does not have the upload, or not any more.
fn is_lost(error: &store::Error) -> bool {
    error.kind == ErrorKind::NotFound && error.code != "NoSuchBucket"
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
    /// Whether a later try finds it as it is: not a clone, and not the beginning of what grows.
    pub lasts: bool,
    /// Where reading and hashing run.
    pub offload: Offload,
    /// Where parts are read into.
    pub buffers: Pool,
}

/// An upload of an earlier try that is gone on with.
#[derive(Clone, Debug)]
pub struct Former {
    /// The store's id.
    pub id: String,
    /// Its parts that were answered.
    pub parts: Vec<UploadPart>,
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
    /// The upload's id, to be forgotten together with noting the object.
    pub upload: String,
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

    /// Returns how it is cut into parts.
    pub fn cut(&self) -> Cut {
        Cut::of(&self.stat, part_size_bytes(self.stat.size))
    }
}

/// Uploads a large file by parts, or goes on with an upload of it.
pub async fn multipart<G: Gate>(
    store: &Arc<dyn Store>,
    gate: &Arc<G>,
    key: &str,
    meta: &Meta,
    source: &Source,
    mut former: Option<Former>,
) -> Result<Uploaded, Stop> {
    let mut may_begin_anew = true;
    loop {
        tokio::select! {
            biased;
            () = gate.stopped() => return Err(Stop::Stopped),
            () = std::future::ready(()) => {}
        }
        let is_resumed = former.is_some();
        let Former { id, parts } = match former.take() {
            Some(former) => former,
            None => Former {
                id: create(store, gate, key, meta, source.lasts.then(|| source.cut())).await?,
                parts: Vec::new(),
            },
        };
        let way = Way {
            store,
            gate,
            key,
            upload: &id,
        };
        let stop = match attempt(&way, source, parts, is_resumed).await {
            Ok((stored, sent)) => {
                return Ok(Uploaded {
                    stored,
                    sha256: sent.sha256,
                    doubtful: sent.doubtful,
                    upload: id,
                });
            }
            Err(stop) => stop,
        };
        if stop.fate(source) == Fate::Kept {
            return Err(stop);
        }
        give_up(store, gate, key, &id).await;
        if !stop.asks_for_another() || !std::mem::take(&mut may_begin_anew) {
            return Err(stop);
        }
        tracing::debug!(key, ?stop, "an upload is begun anew");
    }
}

/// Brings one upload to its end.
async fn attempt<G: Gate>(
    way: &Way<'_, G>,
    source: &Source,
    noted: Vec<UploadPart>,
    is_resumed: bool,
) -> Result<(Stored, Sent), Stop> {
    let trusted = trusted(way, &source.cut(), noted).await?;
    let sent = parts::send(way, source, &trusted).await?;
    failpoint::hit("parts-sent");
    let stored = complete(way, &sent).await?;
    failpoint::hit("multipart-completed");
    let stored = look(way, source, stored, &sent, is_resumed).await?;
    Ok((stored, sent))
}

/// Creates an upload: what may be left of it is durable at every moment.
async fn create<G: Gate>(
    store: &Arc<dyn Store>,
    gate: &Arc<G>,
    key: &str,
    meta: &Meta,
    cut: Option<Cut>,
) -> store::Result<String> {
    let asked = gate.asks().await;
    match gate.send(0, store.create_multipart(key, meta)).await {
        Ok(id) => {
            failpoint::hit("multipart-created");
            let upload = manifest::Upload {
                id: id.clone(),
                cut,
                ..asked
            };
            gate.begun(upload).await;
            failpoint::hit("multipart-noted");
            Ok(id)
        }
        Err(error) => {
            // Only what was surely refused has left nothing behind.
            if error.effect == Effect::None {
                gate.ended(&asked.id).await;
            }
            Err(error)
        }
    }
}

/// Gives an upload up; what does not work now, the folder's loop does later.
async fn give_up<G: Gate>(store: &Arc<dyn Store>, gate: &Arc<G>, key: &str, upload: &str) {
    match gate.send(0, store.abort(key, upload)).await {
        Ok(()) => gate.ended(upload).await,
        Err(error) => {
            tracing::debug!(%error, "could not give up a multipart upload; it is tried again later");
        }
    }
}

/// Returns those of the parts that were noted which the store has as they were noted.
async fn trusted<G: Gate>(
    way: &Way<'_, G>,
    cut: &Cut,
    noted: Vec<UploadPart>,
) -> store::Result<BTreeMap<u32, UploadPart>> {
    let count = cut.size.div_ceil(cut.part_size);
    let size_of = |number: u32| {
        let begin = u64::from(number - 1) * cut.part_size;
        cut.part_size.min(cut.size.saturating_sub(begin))
    };
    let noted: BTreeMap<u32, UploadPart> = noted
        .into_iter()
        .filter(|part| (1..=count).contains(&u64::from(part.number)))
        .map(|part| (part.number, part))
        .collect();
    let features = way.store.features();
    if noted.is_empty() || (features.is_known && !features.list_parts) {
        return Ok(noted);
    }
    let (mut listed, mut after) = (BTreeMap::new(), 0);
    loop {
        let request = way.store.list_parts(way.key, way.upload, after);
        let page = match way.gate.send(0, request).await {
            Ok(page) => page,
            Err(error) => {
                let cannot = match error.kind {
                    ErrorKind::Unsupported | ErrorKind::Denied | ErrorKind::Invalid => true,
                    // All of it was sent, so that it may have been completed, which completing it once more tells.
                    ErrorKind::NotFound if is_lost(&error) => {
                        noted.len() as u64 == count
                            || !matches!(error.code.as_str(), "NoSuchUpload" | "")
                    }
                    _ => false,
                };
                return if cannot { Ok(noted) } else { Err(error) };
            }
        };
        for part in page.parts {
            let as_noted = noted
                .get(&part.number)
                .filter(|noted| noted.etag == part.etag && part.size == size_of(part.number));
            listed.extend(as_noted.map(|noted| (part.number, noted.clone())));
        }
        match page.next {
            Some(next) => after = next,
            None => return Ok(listed),
        }
    }
}

async fn complete<G: Gate>(way: &Way<'_, G>, sent: &Sent) -> store::Result<Stored> {
    let request = way
        .store
        .complete(way.key, way.upload, &sent.parts, sent.crc64);
    let error = match way.gate.send(0, request).await {
        Ok(stored) => return Ok(stored),
        Err(error) => error,
    };
    if error.effect != Effect::Possible && !is_lost(&error) {
        return Err(error);
    }
    // The answer is missing, or the upload is gone, perhaps because it was completed: the object tells, by the ETag that
    // these parts must have, or, where ETags are no hashes, by the checksum of the whole. Existence or size alone would be
    // no proof.
    let is_named = |object: &Object| Some(&object.etag) == joined_etag(&sent.parts).as_ref();
    let is_ours =
        |object: &Object| is_named(object) || (sent.crc64.is_some() && object.crc64 == sent.crc64);
    let look = way.store.head_of(way.key, &Which::Current);
    match way.gate.send(0, look).await {
        Ok(object) if is_ours(&object) => Ok(Stored {
            // It may be an earlier object of the same content, which is still to be replaced.
            is_outstanding: error.effect == Effect::Possible && !is_named(&object),
            etag: object.etag,
            version_id: object.version_id,
        }),
        _ => Err(error),
    }
}

/// Looks at the object where its answer is not believed alone: the store does not verify what it takes, or the upload was
/// created by an earlier try, which may have declared another content.
async fn look<G: Gate>(
    way: &Way<'_, G>,
    source: &Source,
    stored: Stored,
    sent: &Sent,
    is_resumed: bool,
) -> store::Result<Stored> {
    let features = way.store.features();
    let is_unsure = features.is_known && !features.verifies;
    if !is_unsure && !is_resumed {
        return Ok(stored);
    }
    let wrong = |kind, message: String| {
        let operation = "CompleteMultipartUpload";
        store::Error::new(kind, operation, way.key, Effect::Possible, message)
    };
    let object = match way.gate.send(0, way.store.head(way.key)).await {
        Ok(object) => object,
        Err(_) if !is_unsure => return Ok(stored),
        Err(error) => {
            let why = format!("the object could not be looked at: {}", error.message);
            return Err(wrong(error.kind, why));
        }
    };
    // Some stores answer with the ETag that parts make, and have the object under another one from then on.
    let is_named = object.etag == stored.etag || is_unsure;
    let declares_it = object
        .sha256()
        .is_none_or(|declared| declared == sent.sha256);
    if is_named && object.size == source.stat.size && declares_it {
        return Ok(Stored {
            etag: object.etag,
            ..stored
        });
    }
    let why = "the object is not the one that was completed".to_owned();
    Err(wrong(ErrorKind::Corrupt, why))
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
