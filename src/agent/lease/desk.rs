//! What is asked about a lease: looked at, taken, renewed, given back, and what came of it.
//!
//! A lost answer is settled by reading: the note that is there names who wrote it, and which time.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::base::clock::{Clock, Now};
use crate::base::failpoint;
use crate::base::offload::Offload;
use crate::manifest::{self, Change, FolderId, Manifest, Mark};
use crate::store::fence::Fence;
use crate::store::{Body, Effect, Error, ErrorKind, Meta, Store, When};
use crate::sync::lease::{Claim, Holder, Note, Seen, Trust, Verdict};
use crate::sync::plan::HORIZON_NS;

/// How often the object may change under our eyes in one attempt.
const ROUNDS: u32 = 4;

/// What came of an attempt to own it.
pub(in crate::agent) enum Outcome {
    /// It is held; taken from a living owner, if one is named.
    Held(Held, Option<Holder>),
    /// Another agent owns it.
    Taken(Holder),
    /// The store did not let us.
    Failed(Error),
}

/// A note of ours that counts.
#[derive(Clone, Debug)]
pub(in crate::agent) struct Held {
    pub etag: String,
    /// When the request was sent.
    pub sent: Now,
    pub lasts: Duration,
}

/// Where the lease lies.
#[derive(Clone)]
pub(in crate::agent) struct Desk {
    pub store: Arc<dyn Store>,
    pub key: String,
    pub clock: Clock,
    pub fence: Arc<Fence>,
    pub rows: Rows,
}

/// Where it goes on record that another agent may have changed what the rows are about.
#[derive(Clone)]
pub(in crate::agent) struct Rows {
    pub manifest: Manifest,
    pub folder: FolderId,
    pub offload: Offload,
}

impl Rows {
    /// Takes into the claim what is on record of the notes that were written; returns the ETag of the last one, if with that
    /// the lease was given back.
    async fn remember(&self, claim: &mut Claim) -> Option<String> {
        let (manifest, folder) = (self.manifest.clone(), self.folder);
        let read = self.offload.run(move || {
            let count = manifest.lease_count(folder)?;
            Ok::<_, manifest::Error>((count, manifest.lease_left(folder)?))
        });
        // A manifest that cannot be read lets nothing be sent either.
        let (count, left) = read.await.ok()?;
        claim.remembers(count);
        left
    }

    /// Puts on record with which note the lease was given back. Where that cannot be done the next process looks at it.
    async fn left(&self, etag: String) {
        let (manifest, folder) = (self.manifest.clone(), self.folder);
        let noted = self
            .offload
            .run(move || manifest.commit(folder, &[Change::LeaseLeft(etag)]));
        noted.await.ok();
    }

    /// Puts on record that one more note is written, before it is. Where that cannot be done the note has the count of the
    /// one before: it says less, and nothing wrong.
    async fn count(&self, claim: &mut Claim) {
        let Some(next) = claim.next_count() else {
            return;
        };
        let (manifest, folder) = (self.manifest.clone(), self.folder);
        let noted = self
            .offload
            .run(move || manifest.commit(folder, &[Change::LeaseCount(next)]));
        if noted.await.is_ok() {
            claim.remembers(next);
        }
    }

    /// The bucket is to be listed now, and once more when nothing that another has sent can land any more.
    async fn doubt(&self, key: &str, now: Now) -> Result<(), Error> {
        let (manifest, folder) = (self.manifest.clone(), self.folder);
        let over_ns = now.wall_ns.saturating_add(HORIZON_NS);
        let changes = [
            Change::Recontact,
            Change::Mark(Mark::Recontact(Some(over_ns))),
        ];
        let noted = self.offload.run(move || manifest.commit(folder, &changes));
        noted.await.map_err(|error| {
            let why =
                format!("could not note that what is in the bucket may have changed: {error}");
            Error::new(ErrorKind::Busy, "PutObject", key, Effect::None, &why)
        })
    }
}

impl Desk {
    /// Looks at the lease; `None`: there is none.
    async fn look(&self) -> Result<Option<Seen>, Error> {
        match self.store.get(&self.key, None).await {
            Ok((object, bytes)) => Ok(Some(Seen::of(&object, &bytes))),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn write(&self, note: &Note, when: &When) -> Result<String, Error> {
        let bytes = Bytes::from(serde_json::to_vec(note).expect("a note has only plain fields"));
        let meta = Meta {
            content_type: Some("application/json".to_owned()),
            is_own: true,
            ..Meta::default()
        };
        let stored = self
            .store
            .put_if(&self.key, Body::of(bytes), &meta, when)
            .await?;
        Ok(stored.etag)
    }

    /// Takes the lease, or renews it, if it is free or ours.
    pub async fn seek(
        &self,
        claim: &mut Claim,
        held: Option<Held>,
        lasts: Duration,
        settles: Duration,
    ) -> Outcome {
        let left = match claim.next_count() {
            None => self.rows.remember(claim).await,
            Some(_) => None,
        };
        let mut trust = Trust::of(&self.store.features());
        let is_renewal = held.is_some();
        // Where conditions hold, a renewal needs no look before it; nor does a lease that nobody has had since our own state
        // folder gave it back.
        let known = held.map(|held| held.etag).or(left);
        let mut known = known.filter(|_| trust == Trust::Known);
        let mut sent = None;
        let mut refused = None;
        for _ in 0..ROUNDS {
            let (when, from) = if let Some(etag) = known.take() {
                (When::Is(etag), None)
            } else {
                let seen = match self.look().await {
                    Ok(seen) => seen,
                    Err(error) => return Outcome::Failed(error),
                };
                // What we have just written, whatever its answer was.
                if let (Some(sent), Some(seen)) = (sent, &seen)
                    && claim.is_latest(seen)
                {
                    return taken(claim, seen.etag.clone(), sent, lasts, None);
                }
                match claim.judge(seen.as_ref(), self.clock.now().mono) {
                    Verdict::Free { when, from } => (when, from),
                    Verdict::Taken(holder) => return Outcome::Taken(holder),
                }
            };
            // Before our own note is there: the next process would see nothing but that.
            if claim.follows()
                && let Err(error) = self.rows.doubt(&self.key, self.clock.now()).await
            {
                return Outcome::Failed(error);
            }
            let when = if trust == Trust::None {
                When::Always
            } else {
                when
            };
            self.rows.count(claim).await;
            let note = claim.next_note(lasts);
            let now = self.clock.now();
            sent = Some(now);
            match self.write(&note, &when).await {
                Ok(etag) if trust == Trust::Known || is_renewal => {
                    return taken(claim, etag, now, lasts, from);
                }
                Ok(etag) => {
                    // Whoever wrote last owns it.
                    tokio::time::sleep(settles).await;
                    match self.look().await {
                        Ok(Some(seen)) if claim.is_latest(&seen) => {
                            return taken(claim, etag, now, lasts, from);
                        }
                        Ok(_) => {}
                        Err(error) => return Outcome::Failed(error),
                    }
                }
                Err(error) => {
                    let is_refused = matches!(
                        error.kind,
                        ErrorKind::Precondition | ErrorKind::Conflict | ErrorKind::NotFound
                    );
                    if is_refused && when != When::Always {
                        // Somebody else may have it: nothing is sent until a look has settled that.
                        self.fence.close();
                    }
                    match error.kind {
                        ErrorKind::Precondition => refused = Some(error),
                        ErrorKind::Conflict => {
                            refused = Some(error);
                            tokio::time::sleep(settles).await;
                        }
                        ErrorKind::NotFound if matches!(when, When::Is(_)) => refused = Some(error),
                        ErrorKind::Unsupported if when != When::Always => trust = Trust::None,
                        _ if error.effect == Effect::Possible => refused = Some(error),
                        _ => return Outcome::Failed(error),
                    }
                }
            }
        }
        Outcome::Failed(refused.unwrap_or_else(|| {
            let why = "others change it all the time";
            Error::new(ErrorKind::Busy, "PutObject", &self.key, Effect::None, why)
        }))
    }

    /// Writes that it is nobody's any more, if it still is ours.
    pub async fn give_back(&self, claim: &mut Claim, held: Held) -> Result<(), Error> {
        let when = if Trust::of(&self.store.features()) == Trust::Known {
            When::Is(held.etag)
        } else {
            match self.look().await? {
                Some(seen) if claim.is_ours(&seen) => match Trust::of(&self.store.features()) {
                    Trust::None => When::Always,
                    Trust::Known | Trust::Unknown => When::Is(seen.etag),
                },
                _ => return Ok(()),
            }
        };
        self.rows.count(claim).await;
        let note = Note {
            released: true,
            ..claim.next_note(held.lasts)
        };
        let etag = self.write(&note, &when).await?;
        self.rows.left(etag).await;
        Ok(())
    }
}

fn taken(
    claim: &mut Claim,
    etag: String,
    sent: Now,
    lasts: Duration,
    from: Option<Holder>,
) -> Outcome {
    claim.owned();
    failpoint::hit("lease-taken");
    Outcome::Held(Held { etag, sent, lasts }, from)
}
