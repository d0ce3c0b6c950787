//! What an endpoint can do, found by asking it once.
//!
//! Many stores answer 200 to what they do not do: they take a condition and overwrite, take a checksum and compare
//! nothing, take metadata and drop it. So each question is asked in the way that tells: what must be refused is sent and
//! has to be refused, and what must work has to work.
//!
//! Writes only below `PREFIX.tidewatch/probe-<16 hex digits>/`, some thirty requests with bodies of a few bytes, and
//! removes all of it again, also after an error; an agent always uses the same digits, so that its next probe removes
//! what a crash has left of the last one, and what is older than a day of others'. What does not lean on each other is
//! asked at the same time, each question with keys of its own: eight answers are waited for one after another, and one for
//! the removal. A refusal is a finding, whatever its words. An error ends the probe if it is everyone's: the line, the
//! credentials, the bucket, a missing right to write. Requests whose answer was lost prove nothing, and end it too.
//!
//! What this does not protect against: a store that changes; and one that answers differently for large objects.

mod former;
mod left;
mod questions;

use std::future::Future;
use std::sync::atomic::AtomicU32;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use crate::base::digest::Sha256;
use crate::store::features::{Checksum, Features};
use crate::store::key::{KeyMap, PROBE};
use crate::store::{Body, Effect, Error, ErrorKind, Meta, Result, Store, Stored, When};

/// What the objects hold.
const CONTENT: &[u8] = b"tidewatch asks what this store can do; may be removed\n";

/// What they hold after a change.
const OTHER: &[u8] = b"tidewatch asks what this store can do; changed\n";

/// What they hold after a change that must not happen.
const NEVER: &[u8] = b"tidewatch asks what this store can do; overwritten\n";

/// An ETag that no object has: the MD5 of nothing.
const WRONG: &str = "d41d8cd98f00b204e9800998ecf8427e";

/// The first key, which every question may lean on.
const FIRST: &str = "a-b";

/// How long the objects of a probe are tried to be removed.
const CLEANING: Duration = Duration::from_secs(10);

/// The checksums, from the best to none.
const CHECKSUMS: [Checksum; 4] = [
    Checksum::Crc64,
    Checksum::Crc32,
    Checksum::Md5,
    Checksum::None,
];

/// Asks `store` what it can do, below the prefix of `keys`; gives up when `until` comes.
///
/// `id` names the probe's own folder. What the store has learned is changed while it is asked, and put back: a store that
/// is in use is asked through a handle of its own.
pub async fn probe(
    store: &dyn Store,
    keys: &KeyMap,
    id: u64,
    until: impl Future<Output = ()> + Send,
) -> Result<Features> {
    let before = *store.features();
    let asking = Asking {
        store,
        folder: keys.reserved(&format!("{PROBE}{id:016x}/")),
        meta: meta(),
        found: Mutex::default(),
        left: Mutex::default(),
        uploads: Mutex::default(),
        lost_uploads: AtomicU32::new(0),
        error: Mutex::default(),
    };
    let asked = tokio::select! {
        biased;
        asked = asking.everything() => asked.map_err(|Ended| asking.why()),
        () = until => {
            let why = "it was not done in time";
            Err(Error::new(ErrorKind::Network, "the probe", "", Effect::Possible, why))
        }
    };
    // What cannot be removed now is removed by the next probe.
    let (all, folder) = (keys.reserved(PROBE), asking.folder.clone());
    let former = async {
        if asked.is_ok() {
            former::clear(store, &all, &folder).await;
        }
    };
    let cleaning = async { tokio::join!(asking.clean_up(), former) };
    let _ = tokio::time::timeout(CLEANING, cleaning).await;
    let found = *locked(&asking.found);
    store.learn(before);
    asked.map(|()| Features {
        is_known: true,
        ..found
    })
}

/// The names and shapes of what a file's object carries.
fn meta() -> Meta {
    let user = [
        ("gid", "0".to_owned()),
        ("mode", "0644".to_owned()),
        ("mtime", "1764000000.123456789".to_owned()),
        ("sha256", Sha256::of(CONTENT).to_hex()),
        ("uid", "1000".to_owned()),
    ];
    Meta {
        user: user.map(|(name, value)| (name.into(), value)).to_vec(),
        content_type: Some("text/plain".to_owned()),
        is_own: true,
        ..Meta::default()
    }
}

/// What came of a question that a store may refuse: done, or why not.
type Said<T> = std::result::Result<T, ErrorKind>;

/// Returns true if it was the condition that was refused, rather than the having of one.
fn is_held<T>(said: &Said<T>) -> bool {
    matches!(said, Err(ErrorKind::Precondition | ErrorKind::Conflict))
}

/// The probe is over; why is kept beside.
struct Ended;

/// What came of a question, unless the probe is over.
type Asked<T> = std::result::Result<T, Ended>;

/// A store that is being asked.
struct Asking<'a> {
    store: &'a dyn Store,
    folder: String,
    meta: Meta,
    found: Mutex<Features>,
    /// Keys under which there may be an object; noted before the request is sent.
    left: Mutex<Vec<String>>,
    /// Open uploads, by key and id.
    uploads: Mutex<Vec<(String, String)>>,
    /// How many uploads may have been begun whose id was never heard.
    lost_uploads: AtomicU32,
    /// The first error that is everyone's. Whoever asks next does not ask any more; what was asked is waited for, so that
    /// nothing lands after the cleaning.
    error: Mutex<Option<Error>>,
}

impl Asking<'_> {
    async fn everything(&self) -> Asked<()> {
        let first = self.note(FIRST);
        let etag = self.checksum(&first).await?;
        self.verifies().await?;
        let asked = tokio::join!(
            self.put_conditions(),
            self.metadata(&first),
            self.names(),
            self.copies(&first, &etag),
            self.copied_part(&first, &etag),
            self.multipart(),
            self.tags(),
        );
        asked.0.and(asked.1).and(asked.2).and(asked.3)?;
        asked.4.and(asked.5).and(asked.6)
    }

    /// Finds the best checksum that is taken, and returns the first object's ETag.
    async fn checksum(&self, first: &str) -> Asked<String> {
        let mut kinds = CHECKSUMS.into_iter();
        loop {
            self.learn(kinds.next().unwrap_or(Checksum::None));
            let error = match self.put(first, CONTENT, &When::Always).await {
                Ok(stored) => {
                    // The request may have gone on without what was refused.
                    self.learn(self.store.features().checksum);
                    return Ok(stored.etag);
                }
                Err(error) => error,
            };
            let may_mind = matches!(
                error.kind,
                ErrorKind::Invalid | ErrorKind::Unsupported | ErrorKind::Corrupt
            );
            if locked(&self.found).checksum == Checksum::None || !may_mind {
                return Err(self.end(error));
            }
        }
    }

    async fn verifies(&self) -> Asked<()> {
        let checksum = locked(&self.found).checksum;
        if checksum == Checksum::None {
            return Ok(());
        }
        let key = self.note("wrong");
        let wrong = Body::claiming(Bytes::from_static(CONTENT), Bytes::from_static(OTHER));
        let said = self.try_ask(|| self.store.put(&key, wrong.clone(), &self.meta));
        locked(&self.found).verifies = match said.await {
            Ok(said) => matches!(said, Err(ErrorKind::Corrupt | ErrorKind::Invalid)),
            // Found out by ourselves, when all was stored.
            Err(error) if error.kind == ErrorKind::Corrupt => false,
            Err(error) => return Err(self.end(error)),
        };
        // The refusal may have been taken for one of the checksum's kind.
        self.learn(checksum);
        Ok(())
    }

    fn learn(&self, checksum: Checksum) {
        let found = &mut *locked(&self.found);
        found.checksum = checksum;
        self.store.learn(*found);
    }

    /// Ends the probe for everyone, with the first reason.
    fn end(&self, error: Error) -> Ended {
        locked(&self.error).get_or_insert(error);
        Ended
    }

    fn why(&self) -> Error {
        let error = locked(&self.error).take();
        error.unwrap_or_else(|| {
            let why = "it has ended without a reason";
            Error::new(ErrorKind::Network, "the probe", "", Effect::Possible, why)
        })
    }

    async fn put(&self, key: &str, bytes: &'static [u8], when: &When) -> Result<Stored> {
        let body = Body::of(Bytes::from_static(bytes));
        self.store.put_if(key, body, &self.meta, when).await
    }

    async fn may_put(&self, key: &str, bytes: &'static [u8], when: &When) -> Asked<Said<Stored>> {
        self.may(|| self.put(key, bytes, when)).await
    }

    /// Asks what a store may refuse.
    ///
    /// A line that breaks, or a server that stumbles, at this question only, twice, while it answers another one between,
    /// is a refusal too: some servers have no better words for what they do not know.
    async fn may<T, F>(&self, ask: impl Fn() -> F) -> Asked<Said<T>>
    where
        F: Future<Output = Result<T>>,
    {
        if locked(&self.error).is_some() {
            return Err(Ended);
        }
        self.try_ask(ask).await.map_err(|error| self.end(error))
    }

    /// Asks what a store may refuse; an error is everyone's.
    async fn try_ask<T, F>(&self, ask: impl Fn() -> F) -> Result<Said<T>>
    where
        F: Future<Output = Result<T>>,
    {
        let mut is_again = false;
        loop {
            let error = match ask().await {
                Ok(done) => return Ok(Ok(done)),
                Err(error) => error,
            };
            match error.kind {
                ErrorKind::Barred | ErrorKind::Full => return Err(error),
                ErrorKind::Network | ErrorKind::Busy => {
                    if is_throttled(&error) || !self.is_answering().await {
                        return Err(error);
                    }
                    if is_again {
                        return Ok(Err(error.kind));
                    }
                    is_again = true;
                }
                // An earlier attempt may have done it, and this one have met that.
                _ if error.effect == Effect::Possible => return Err(error),
                kind => return Ok(Err(kind)),
            }
        }
    }

    async fn is_answering(&self) -> bool {
        let key = format!("{}{FIRST}", self.folder);
        let seen = self.store.head(&key).await;
        !seen.is_err_and(|error| {
            matches!(
                error.kind,
                ErrorKind::Network | ErrorKind::Busy | ErrorKind::Barred
            )
        })
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns true if the store only asks for patience.
fn is_throttled(error: &Error) -> bool {
    error.kind == ErrorKind::Busy
        && !matches!(
            &*error.code,
            "" | "InternalError" | "InternalFailure" | "NotImplemented"
        )
}
