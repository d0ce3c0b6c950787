//! The bucket's side of a selftest: compares what is there with the disk, and removes everything that a selftest has put
//! there, and nothing else.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::base::digest::Sha256;
use crate::base::offload::joined;
use crate::base::path::{RelPath, escaped};
use crate::commands::selftest::Trouble;
use crate::commands::selftest::ground::{Held, Picture};
use crate::store::key::KeyMap;
use crate::store::{MAX_BATCH, Result, Store};

/// Objects that are read at once.
const READS: usize = 8;
/// How long after the last object was removed it is looked once more: what a killed run had sent may still land.
const SETTLE: Duration = Duration::from_secs(1);
/// How often it is looked: a store whose listings lag behind shows for a while what it has removed.
const ROUNDS: u32 = 12;

/// What was removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cleaned {
    /// Objects.
    pub objects: usize,
    /// Unfinished uploads.
    pub uploads: usize,
}

/// Compares every object of the prefix with the file that it is of; returns how many there are, and their bytes.
pub async fn compare(
    store: &Arc<dyn Store>,
    keys: &KeyMap,
    picture: &Picture,
) -> std::result::Result<(u64, u64), Trouble> {
    let mut expected = Vec::new();
    for (path, held) in picture {
        if let Held::File { sha256, size, .. } = held {
            let key = keys
                .key(path)
                .map_err(|error| Trouble::of(error.to_string()))?;
            expected.push((path.clone(), key, *sha256, *size));
        }
    }
    let known: BTreeSet<&str> = expected.iter().map(|(_, key, ..)| key.as_str()).collect();
    let listed = list(store, keys.prefix()).await?;
    let other = listed
        .iter()
        .find(|key| !keys.is_reserved(key) && !known.contains(key.as_str()));
    if let Some(other) = other {
        let why = format!(
            "the bucket has `{}`, which no file has",
            escaped(other.as_bytes())
        );
        return Err(Trouble::of(why));
    }
    let bytes = expected.iter().map(|(.., size)| size).sum();
    let files = expected.len() as u64;
    let mut reads = JoinSet::new();
    for (path, key, sha256, _) in expected {
        if reads.len() >= READS
            && let Some(read) = reads.join_next().await
        {
            joined(read).unwrap_or(Ok(()))?;
        }
        let store = store.clone();
        reads.spawn(async move { same(&*store, &path, &key, sha256).await });
    }
    while let Some(read) = reads.join_next().await {
        joined(read).unwrap_or(Ok(()))?;
    }
    Ok((files, bytes))
}

/// Reads an object, and holds it against the hash of its file.
async fn same(
    store: &dyn Store,
    path: &RelPath,
    key: &str,
    sha256: Sha256,
) -> std::result::Result<(), Trouble> {
    let (_, bytes) = store.get(key, None).await.map_err(|error| {
        if error.is_of_all_objects() {
            error.into()
        } else {
            Trouble::of(format!("the object of {path} cannot be read: {error}"))
        }
    })?;
    if Sha256::of(&bytes) == sha256 {
        Ok(())
    } else {
        Err(Trouble::of(format!(
            "the object of {path} has other bytes than the file"
        )))
    }
}

/// Returns the hashes of what is in trash.
pub async fn trash(
    store: &Arc<dyn Store>,
    keys: &KeyMap,
) -> std::result::Result<BTreeSet<[u8; 32]>, Trouble> {
    let mut found = BTreeSet::new();
    for key in list(store, &keys.trash_prefix()).await? {
        let (_, bytes) = store.get(&key, None).await?;
        found.insert(Sha256::of(&bytes).0);
    }
    Ok(found)
}

/// Lists all keys that begin with `prefix`.
pub async fn list(store: &Arc<dyn Store>, prefix: &str) -> Result<Vec<String>> {
    let (mut keys, mut token) = (Vec::new(), None);
    loop {
        let page = store.list(prefix, token).await?;
        keys.extend(page.objects.into_iter().map(|listed| listed.key));
        token = page.next;
        if token.is_none() {
            return Ok(keys);
        }
    }
}

/// Removes every object and every unfinished upload below `prefix`, until it was found empty twice.
pub async fn clean_up(
    store: &Arc<dyn Store>,
    prefix: &str,
) -> std::result::Result<Cleaned, Trouble> {
    let mut removed = BTreeSet::new();
    let mut cleaned = Cleaned::default();
    let mut is_calm = false;
    for round in 0..ROUNDS {
        if round > 0 {
            tokio::time::sleep(SETTLE).await;
        }
        let mut keys = list(store, prefix).await?;
        // A store that shows more than it was asked for must not lose it.
        keys.retain(|key| key.starts_with(prefix));
        let aborted = abort(store, prefix).await?;
        if keys.is_empty() && aborted == 0 {
            if is_calm {
                cleaned.objects = removed.len();
                return Ok(cleaned);
            }
            is_calm = true;
            continue;
        }
        is_calm = false;
        cleaned.uploads += aborted;
        remove(store, &keys).await?;
        removed.extend(keys);
    }
    Err(Trouble::of(format!(
        "something stays below `{}`, however often it is removed",
        escaped(prefix.as_bytes())
    )))
}

async fn remove(store: &Arc<dyn Store>, keys: &[String]) -> Result<()> {
    if !store.features().delete_many {
        for key in keys {
            store.delete(key).await?;
        }
        return Ok(());
    }
    for some in keys.chunks(MAX_BATCH) {
        for one in store.delete_many(some).await? {
            one?;
        }
    }
    Ok(())
}

/// Gives up all uploads below `prefix`, where the store can say which are open; returns how many.
async fn abort(store: &Arc<dyn Store>, prefix: &str) -> Result<usize> {
    if !store.features().list_uploads {
        return Ok(0);
    }
    let (mut count, mut token) = (0, None);
    loop {
        let page = store.list_uploads(prefix, token).await?;
        for upload in page.uploads {
            if upload.key.starts_with(prefix) {
                store.abort(&upload.key, &upload.id).await?;
                count += 1;
            }
        }
        token = page.next;
        if token.is_none() {
            return Ok(count);
        }
    }
}
