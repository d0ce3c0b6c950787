//! What probes have left that were killed: found and removed once a probe, with two listings where there is nothing.
//!
//! The first page of each listing is enough: what it does not show, a later probe finds. Never touches what may belong to
//! a probe that is still going on: another agent may be asking just now.

use bytes::Bytes;

use crate::store::probe::{CONTENT, FIRST, meta};
use crate::store::{Body, Store};

/// How old what another agent's probe has put there is removed, nanoseconds by the store's own clock: no probe takes a day.
const OLD_NS: i64 = 24 * 3600 * 1_000_000_000;

/// Gives up every upload that is still open in the probe's own `folder`, and removes what is older than a day of other
/// agents' probes; `all` is what the keys of all probes begin with. What fails is left to the next probe.
///
/// Called when the probe's own questions have been answered: it goes on with no upload then.
pub(super) async fn clear(store: &dyn Store, all: &str, folder: &str) {
    let is_theirs = |key: &str| key.starts_with(all) && !key.starts_with(folder);
    let (objects, uploads) = tokio::join!(store.list(all, None), store.list_uploads(all, None));
    let mut theirs = Vec::new();
    for open in uploads.map(|page| page.uploads).unwrap_or_default() {
        if open.key.starts_with(folder) {
            let _ = store.abort(&open.key, &open.id).await;
        } else if is_theirs(&open.key) {
            theirs.push(open);
        }
    }
    for listed in objects.map(|page| page.objects).unwrap_or_default() {
        if !is_theirs(&listed.key) {
            continue;
        }
        let Ok(object) = store.head(&listed.key).await else {
            continue;
        };
        let is_old = |(now_ns, then_ns): (i64, i64)| now_ns.saturating_sub(then_ns) > OLD_NS;
        if object.date_ns.zip(object.modified_ns).is_some_and(is_old) {
            let _ = store.delete(&listed.key).await;
        }
    }
    if theirs.is_empty() {
        return;
    }
    let Some(now_ns) = now_ns(store, folder).await else {
        return;
    };
    for open in theirs {
        let is_old = |begun_ns: i64| now_ns.saturating_sub(begun_ns) > OLD_NS;
        if open.begun_ns.is_some_and(is_old) {
            let _ = store.abort(&open.key, &open.id).await;
        }
    }
}

/// Asks for the store's own time, nanoseconds since the epoch; `None` where it does not tell. Ours may be set wrong.
async fn now_ns(store: &dyn Store, folder: &str) -> Option<i64> {
    // One of the names that each probe removes, should this one not come to it.
    let key = format!("{folder}{FIRST}");
    let body = Body::of(Bytes::from_static(CONTENT));
    store.put(&key, body, &meta()).await.ok()?;
    let seen = store.head(&key).await;
    let _ = store.delete(&key).await;
    seen.ok()?.date_ns
}
