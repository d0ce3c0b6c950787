//! Removals that are under way at the same time share a request.
//!
//! Whoever comes first waits a moment for others and then sends all of them, up to S3's 1,000, with one `DeleteObjects`;
//! just before that each is asked once more whether its object may go. Each is answered for itself. A store that removes
//! one object a request gets one request for each.
//!
//! - Cancellation: jobs are dropped all at once. If only the one that sends were, those that it had taken would say that
//!   they do not know whether theirs were sent.
//! - Bound: as many wait as there are jobs.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::base::failpoint;
use crate::base::offload::Offload;
use crate::store::{self, Effect, Error, ErrorKind, MAX_BATCH, Removed, Store, When};

/// How long the first one waits for others.
const GATHER: Duration = Duration::from_millis(20);

/// Asks once more, as late as can be, whether an object may go. Blocks.
pub type Look = Box<dyn FnOnce() -> bool + Send>;

/// Sends one request when there is a place for it.
pub trait Gate: Send + Sync {
    /// Waits for the place, then sends.
    fn send<T: Send>(
        &self,
        request: impl Future<Output = store::Result<T>> + Send,
    ) -> impl Future<Output = store::Result<T>> + Send;
}

/// The removals of one folder that wait for a request.
#[derive(Clone, Default)]
pub struct Removals(Arc<Mutex<Vec<Waiting>>>);

impl fmt::Debug for Removals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Removals").field(&self.lock().len()).finish()
    }
}

struct Waiting {
    key: String,
    look: Look,
    done: oneshot::Sender<store::Result<Option<Removed>>>,
}

impl Removals {
    /// Removes an object if `when` holds, unless `look` says no; `None` if it did. Under a condition it goes alone.
    pub async fn remove<G: Gate>(
        &self,
        store: &Arc<dyn Store>,
        gate: &G,
        offload: Offload,
        (key, when): (&str, &When),
        look: Look,
    ) -> store::Result<Option<Removed>> {
        if *when != When::Always || !store.features().delete_many {
            return gate
                .send(remove_one(store, offload, (key, when), look))
                .await;
        }
        let (done, answer) = oneshot::channel();
        let is_first = {
            let mut waiting = self.lock();
            waiting.push(Waiting {
                key: key.to_owned(),
                look,
                done,
            });
            waiting.len() == 1
        };
        if is_first {
            tokio::time::sleep(GATHER).await;
            self.send_all(store, gate, offload).await;
        }
        answer.await.unwrap_or_else(|_| Err(given_up(key)))
    }

    async fn send_all<G: Gate>(&self, store: &Arc<dyn Store>, gate: &G, offload: Offload) {
        loop {
            let mut batch: Vec<Waiting> = {
                let mut waiting = self.lock();
                let most = waiting.len().min(MAX_BATCH);
                waiting.drain(..most).collect()
            };
            match batch.len() {
                0 => return,
                1 => {
                    let Waiting { key, look, done } = batch.remove(0);
                    let what = (&*key, &When::Always);
                    let answer = gate.send(remove_one(store, offload, what, look)).await;
                    // Who has gone away needs no answer.
                    let _ = done.send(answer);
                }
                _ => remove_all(store, gate, offload, batch).await,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Waiting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn remove_one(
    store: &Arc<dyn Store>,
    offload: Offload,
    (key, when): (&str, &When),
    look: Look,
) -> store::Result<Option<Removed>> {
    if offload.run(look).await {
        failpoint::hit("before-delete");
        let removed = store.delete_if(key, when).await;
        failpoint::hit("deleted");
        removed.map(Some)
    } else {
        Ok(None)
    }
}

/// Sends one batch and answers everybody in it.
async fn remove_all<G: Gate>(
    store: &Arc<dyn Store>,
    gate: &G,
    offload: Offload,
    batch: Vec<Waiting>,
) {
    let (mut keys, mut looks, mut askers) = (Vec::new(), Vec::new(), Vec::new());
    for Waiting { key, look, done } in batch {
        keys.push(key);
        looks.push(look);
        askers.push(done);
    }
    let request = async {
        let may_go: Vec<bool> = offload
            .run(move || looks.into_iter().map(|look| look()).collect())
            .await;
        let is_going = keys.iter().zip(&may_go).filter(|(_, may_go)| **may_go);
        let going: Vec<String> = is_going.map(|(key, _)| key.clone()).collect();
        let removed = if going.is_empty() {
            Vec::new()
        } else {
            failpoint::hit("before-delete-of-many");
            let removed = store.delete_many(&going).await;
            failpoint::hit("deleted-many");
            removed?
        };
        Ok((may_go, removed))
    };
    match gate.send(request).await {
        Ok((may_go, removed)) => {
            let mut removed = removed.into_iter();
            for ((done, key), may_go) in askers.into_iter().zip(&keys).zip(may_go) {
                let answer = if may_go {
                    // A store that answers for fewer than it was asked about leaves the others unknown.
                    let one = removed.next();
                    one.unwrap_or_else(|| Err(given_up(key))).map(Some)
                } else {
                    Ok(None)
                };
                let _ = done.send(answer);
            }
        }
        Err(error) => {
            for (done, key) in askers.into_iter().zip(keys) {
                let _ = done.send(Err(Error {
                    key,
                    ..error.clone()
                }));
            }
        }
    }
}

/// Makes the error of a removal of which nobody knows whether it was sent.
fn given_up(key: &str) -> Error {
    Error::new(
        ErrorKind::Network,
        "DeleteObjects",
        key,
        Effect::Possible,
        "the request that it was part of was given up",
    )
}
