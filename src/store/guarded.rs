//! A store on which one key is changed only while it holds what it is known to hold.
//!
//! Every change of that key is sent with a condition, whatever the caller asked for; other keys are not touched. A refusal
//! that follows an attempt without an answer is settled by looking: our own write may be what is there. Any other refusal
//! says that somebody else wrote the object, which stays as it is.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use md5::Digest as _;

use crate::base::digest::{Crc64, hex};
use crate::store::features::Features;
use crate::store::{
    Body, Effect, Error, ErrorKind, Meta, Object, Page, Part, PartPage, Removed, Result, Store,
    Stored, UploadPage, UploadToken, When, Which,
};

/// Says why a store with these features cannot be guarded; `None` if it can, or if nobody has asked it yet.
pub fn trouble(features: &Features) -> Option<&'static str> {
    let is_able = features.put_if_absent
        && features.put_if_match
        && features.complete_if
        && features.delete_if_match != Some(false);
    (features.is_known && !is_able).then_some(
        "`guard = \"strict\"` needs a store that holds to If-None-Match and If-Match on puts, completions and deletes, and \
         this one was found to ignore some of them; use another store, or set `guard = \"off\"`",
    )
}

/// A store with one key that is guarded.
pub struct Guarded {
    inner: Arc<dyn Store>,
    key: String,
    when: When,
    /// Whether a write of the key was sent whose answer is missing.
    is_unanswered: AtomicBool,
}

impl Guarded {
    /// Guards `key` of a store: it is changed if `when` holds.
    pub fn new(inner: Arc<dyn Store>, key: &str, when: When) -> Self {
        Self {
            inner,
            key: key.to_owned(),
            when,
            is_unanswered: AtomicBool::new(false),
        }
    }

    /// Returns the condition for a write of `key`.
    fn when<'a>(&'a self, key: &str, asked: &'a When) -> Result<&'a When> {
        if key != self.key {
            return Ok(asked);
        }
        match trouble(&self.inner.features()) {
            None => Ok(&self.when),
            Some(why) => {
                let kind = ErrorKind::Unsupported;
                Err(Error::new(kind, "PutObject", key, Effect::None, why))
            }
        }
    }

    fn note<T>(&self, answer: &Result<T>) {
        if let Err(error) = answer
            && error.effect == Effect::Possible
        {
            self.is_unanswered.store(true, Ordering::Relaxed);
        }
    }

    /// Settles a refusal: `is_ours` says of the object that is there whether we may have written it just now.
    async fn settle(
        &self,
        error: Error,
        is_ours: impl Fn(&Object) -> bool + Send,
    ) -> Result<Stored> {
        let is_in_doubt =
            error.effect == Effect::Possible || self.is_unanswered.load(Ordering::Relaxed);
        if error.kind != ErrorKind::Precondition || !is_in_doubt {
            return Err(error);
        }
        match self.inner.head(&self.key).await {
            Ok(object) if is_ours(&object) => Ok(Stored {
                etag: object.etag,
                version_id: object.version_id,
                is_outstanding: false,
            }),
            // The outstanding write can only land where the same condition holds, and it does not any more.
            Ok(_) => Err(Error {
                effect: Effect::None,
                ..error
            }),
            Err(_) => Err(Error {
                kind: ErrorKind::Network,
                ..error
            }),
        }
    }
}

/// Returns true if an object declares what `meta` does, its content's SHA-256 among it.
fn declares(object: &Object, meta: &Meta) -> bool {
    let declared = meta.user.iter().find(|(name, _)| name == "sha256");
    declared.is_some_and(|(_, sha256)| {
        object
            .user
            .iter()
            .any(|(name, value)| name == "sha256" && value == sha256)
    })
}

#[async_trait]
impl Store for Guarded {
    async fn check(&self) -> Result<()> {
        self.inner.check().await
    }

    fn features(&self) -> Arc<Features> {
        self.inner.features()
    }

    fn learn(&self, features: Features) {
        self.inner.learn(features);
    }

    async fn put_if(&self, key: &str, body: Body, meta: &Meta, when: &When) -> Result<Stored> {
        let when = self.when(key, when)?;
        if key != self.key {
            return self.inner.put_if(key, body, meta, when).await;
        }
        let mut answer = self.inner.put_if(key, body.clone(), meta, when).await;
        if answer.as_ref().is_err_and(|error| is_gone(error, when)) {
            // The object was removed by others: the file is put where nothing is.
            answer = self
                .inner
                .put_if(key, body.clone(), meta, &When::Absent)
                .await;
        }
        self.note(&answer);
        let Err(error) = answer else { return answer };
        let is_ours = |object: &Object| {
            let is_plain = object.etag.len() == 32;
            object.size == body.bytes.len() as u64
                && (declares(object, meta)
                    || (is_plain && object.etag == hex(&md5::Md5::digest(&body.bytes))))
        };
        self.settle(error, is_ours).await
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<(Object, Bytes)> {
        self.inner.get(key, range).await
    }

    async fn get_of(
        &self,
        key: &str,
        which: &Which,
        range: Option<Range<u64>>,
    ) -> Result<(Object, Bytes)> {
        self.inner.get_of(key, which, range).await
    }

    async fn head_of(&self, key: &str, which: &Which) -> Result<Object> {
        self.inner.head_of(key, which).await
    }

    async fn head(&self, key: &str) -> Result<Object> {
        self.inner.head(key).await
    }

    async fn list(&self, prefix: &str, token: Option<String>) -> Result<Page> {
        self.inner.list(prefix, token).await
    }

    /// A store that holds to the conditions of a put need not hold to those of a copy: the key is looked at before, too.
    async fn copy_if(
        &self,
        from: &str,
        etag: &str,
        to: &str,
        meta: &Meta,
        when: &When,
    ) -> Result<Stored> {
        let when = self.when(to, when)?;
        if to == self.key {
            let is_there = match self.inner.head(to).await {
                Ok(object) => Some(object.etag),
                Err(error) if error.kind == ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            };
            let holds = match when {
                When::Is(etag) => is_there.as_ref().is_none_or(|there| there == etag),
                When::Absent => is_there.is_none(),
                When::Always => true,
            };
            if !holds {
                let (kind, why) = (ErrorKind::Precondition, "the object there is another one");
                return Err(Error::new(kind, "CopyObject", to, Effect::None, why));
            }
        }
        let answer = self.inner.copy_if(from, etag, to, meta, when).await;
        if to != self.key {
            return answer;
        }
        self.note(&answer);
        match answer {
            Ok(stored) => Ok(stored),
            Err(error) => self.settle(error, |object| declares(object, meta)).await,
        }
    }

    async fn delete_if(&self, key: &str, when: &When) -> Result<Removed> {
        let when = self.when(key, when)?;
        self.inner.delete_if(key, when).await
    }

    async fn delete_many(&self, keys: &[String]) -> Result<Vec<Result<Removed>>> {
        self.inner.delete_many(keys).await
    }

    async fn create_multipart(&self, key: &str, meta: &Meta) -> Result<String> {
        self.inner.create_multipart(key, meta).await
    }

    async fn put_part(&self, key: &str, upload: &str, number: u32, body: Body) -> Result<Part> {
        self.inner.put_part(key, upload, number, body).await
    }

    async fn copy_part(
        &self,
        from: &str,
        etag: &str,
        range: Range<u64>,
        key: &str,
        upload: &str,
        number: u32,
    ) -> Result<Part> {
        self.inner
            .copy_part(from, etag, range, key, upload, number)
            .await
    }

    /// What a refusal after an unanswered attempt means, who knows the parts can tell.
    async fn complete_if(
        &self,
        key: &str,
        upload: &str,
        parts: &[Part],
        crc64: Option<Crc64>,
        when: &When,
    ) -> Result<Stored> {
        let when = self.when(key, when)?;
        let answer = self
            .inner
            .complete_if(key, upload, parts, crc64, when)
            .await;
        let is_gone = |error: &Error| error.code != "NoSuchUpload" && is_gone(error, when);
        if key == self.key && answer.as_ref().is_err_and(is_gone) {
            let when = &When::Absent;
            return self
                .inner
                .complete_if(key, upload, parts, crc64, when)
                .await;
        }
        answer
    }

    async fn list_parts(&self, key: &str, upload: &str, after: u32) -> Result<PartPage> {
        self.inner.list_parts(key, upload, after).await
    }

    async fn list_uploads(&self, prefix: &str, token: Option<UploadToken>) -> Result<UploadPage> {
        self.inner.list_uploads(prefix, token).await
    }

    async fn abort(&self, key: &str, upload: &str) -> Result<()> {
        self.inner.abort(key, upload).await
    }
}

/// Returns true if a write was refused because the object that it was to replace is gone.
fn is_gone(error: &Error, when: &When) -> bool {
    error.kind == ErrorKind::NotFound
        && error.effect == Effect::None
        && error.code != "NoSuchBucket"
        && matches!(when, When::Is(_))
}
