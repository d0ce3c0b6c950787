//! An object made of another one: copied on the server, or read and written where the store cannot copy.
//!
//! By parts where it is large. Nothing of these is gone on with later: a copy that fails is given up at once.

use std::sync::Arc;

use crate::base::digest::Crc64;
use crate::base::failpoint;
use crate::store::{self, Body, ErrorKind, MAX_SINGLE, Meta, Store, Stored};
use crate::sync::upload::{Gate, SINGLE_MOST, create, give_up, part_size_bytes};

/// The range of one part of a copied object, bytes.
const COPY_RANGE: u64 = 512 << 20;

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
    failpoint::hit("copied");
    // The same bytes have the same ETag, where the ETag is an MD5 of them.
    if stored.etag == from.etag {
        return Ok(stored);
    }
    // It is there by now, whatever a look at it comes to.
    let is_made = |error: store::Error| store::Error {
        effect: store::Effect::Possible,
        ..error
    };
    let source = gate.send(0, store.head(&from.key)).await.map_err(is_made)?;
    let target = gate.send(0, store.head(to)).await.map_err(is_made)?;
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
    let upload = create(store, gate, to, meta, None).await?;
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
    let upload = create(store, gate, to, meta, None).await?;
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
