//! The parts of one multipart upload: read in order, hashed in order, sent side by side.
//!
//! A part that an earlier try has sent is read all the same, for its hash, and only taken for sent if its CRC64 is what it
//! was then. What was answered is noted before it counts. When sending stops and the upload stays, what is on its way may
//! end, and is noted too.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::JoinSet;

use crate::base::digest::{Crc64, Hasher, Sha256};
use crate::base::failpoint;
use crate::base::offload;
use crate::manifest::UploadPart;
use crate::store::{Body, Part, Store};
use crate::sync::upload::{Fate, Gate, Source, Stop, part_size_bytes};
use crate::tree::ReadError;

/// Parts of one file on their way at once; fewer where their bytes do not fit the memory that there is for bodies.
const PARTS_AT_ONCE: usize = 16;

/// What was sent, as the object will have it.
pub(super) struct Sent {
    /// The parts, by number.
    pub parts: Vec<Part>,
    /// The whole's checksum; `None` of nothing.
    pub crc64: Option<Crc64>,
    /// The whole's name.
    pub sha256: Sha256,
    /// Whether nobody can promise that no writer was at work while it was read.
    pub doubtful: bool,
}

/// Where parts are sent.
pub(super) struct Way<'a, G> {
    pub store: &'a Arc<dyn Store>,
    pub gate: &'a Arc<G>,
    pub key: &'a str,
    pub upload: &'a str,
}

/// Sends a file's parts but those in `trusted`, by number, and makes sure that what was read is one content.
pub(super) async fn send<G: Gate>(
    way: &Way<'_, G>,
    source: &Source,
    trusted: &BTreeMap<u32, UploadPart>,
) -> Result<Sent, Stop> {
    let mut running = JoinSet::new();
    let sent = send_all(way, source, trusted, &mut running).await;
    if let Err(stop) = &sent
        && stop.fate(source) == Fate::Kept
    {
        while !running.is_empty() {
            // The first trouble is the one that is told.
            drop(joined(&mut running).await);
        }
    }
    sent
}

async fn send_all<G: Gate>(
    way: &Way<'_, G>,
    source: &Source,
    trusted: &BTreeMap<u32, UploadPart>,
    running: &mut JoinSet<Result<Part, Stop>>,
) -> Result<Sent, Stop> {
    let size = source.stat.size;
    let part_size = part_size_bytes(size);
    let mut parts = Vec::new();
    let mut hasher = Hasher::default();
    let mut crc64: Option<Crc64> = None;
    let mut doubtful = false;
    for (number, offset) in (1..).zip((0..size).step_by(part_size as usize)) {
        while running.len() >= PARTS_AT_ONCE {
            parts.extend(joined(running).await?);
        }
        let len = part_size.min(size - offset);
        let hold = tokio::select! {
            biased;
            () = way.gate.stopped() => return Err(Stop::Stopped),
            hold = way.gate.memory(len) => hold,
        };
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
        if let Some(part) = trusted.get(&number) {
            if part.crc64 != crc {
                // Another content under the same stamps: nothing of it was of the file as it is.
                return Err(Stop::Read(ReadError::Moving));
            }
            parts.push(Part {
                number,
                etag: part.etag.clone(),
                crc64: Some(crc),
            });
            way.gate.went_on(len);
        } else {
            let part = OnePart {
                store: way.store.clone(),
                gate: way.gate.clone(),
                key: way.key.to_owned(),
                upload: way.upload.to_owned(),
                number,
                lasts: source.lasts,
            };
            let body = Body::new(bytes, crc, None).with_tap(Some(way.gate.tap()));
            running.spawn(async move {
                let answer = part.send(body).await;
                drop(hold);
                answer
            });
        }
        while let Some(ended) = running.try_join_next() {
            parts.push(taken(ended)?);
        }
    }
    while let Some(part) = joined(running).await? {
        parts.push(part);
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

/// A part that is sent by a task of its own.
struct OnePart<G> {
    store: Arc<dyn Store>,
    gate: Arc<G>,
    key: String,
    upload: String,
    number: u32,
    lasts: bool,
}

impl<G: Gate> OnePart<G> {
    /// Sends it, unless it still waits for its turn when everything is to stop; notes it when it is answered.
    async fn send(self, body: Body) -> Result<Part, Stop> {
        let (len, crc64) = (body.bytes.len() as u64, body.crc64);
        let is_begun = AtomicBool::new(false);
        let request = async {
            is_begun.store(true, Ordering::Relaxed);
            let (key, upload) = (&self.key, &self.upload);
            self.store.put_part(key, upload, self.number, body).await
        };
        let mut sending = pin!(self.gate.send(len, request));
        let part = tokio::select! {
            biased;
            part = sending.as_mut() => part?,
            () = self.gate.stopped() => {
                if !is_begun.load(Ordering::Relaxed) {
                    return Err(Stop::Stopped);
                }
                sending.await?
            }
        };
        failpoint::hit("part-answered");
        if self.lasts {
            self.gate.stored(&self.upload, &part, crc64).await;
        }
        Ok(part)
    }
}

/// Returns the next part that has ended; `None` if none is on its way.
async fn joined(running: &mut JoinSet<Result<Part, Stop>>) -> Result<Option<Part>, Stop> {
    match running.join_next().await {
        None => Ok(None),
        Some(ended) => taken(ended).map(Some),
    }
}

/// Takes what a part's task returned.
fn taken(ended: Result<Result<Part, Stop>, tokio::task::JoinError>) -> Result<Part, Stop> {
    // A part's task panics only if a broken invariant did; the panic belongs to this job.
    offload::joined(ended).unwrap_or(Err(Stop::Read(ReadError::Moving)))
}
