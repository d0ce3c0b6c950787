//! Requests about one object: look, read, copy, remove.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumMode, MetadataDirective, ServerSideEncryption};
use bytes::{Bytes, BytesMut};

use crate::store::s3::S3Store;
use crate::store::s3::attempt::{Call, Pace, Watch};
use crate::store::s3::classify::{Failure, Trouble, trouble};
use crate::store::s3::sums::{Told, sums_of};
use crate::store::s3::wire::{
    absent, bytes_range, etag as tag, is, length, nanoseconds, quoted, returned, source, stored,
};
use crate::store::{
    Effect, Error, ErrorKind, Meta, Object, Removed, Result, Sink, Stored, When, Which,
};

/// Bytes for which memory is taken before they have arrived.
const MOST_AHEAD: u64 = 16 << 20;

/// Whether a read asks for the checksum that the store has of the whole object.
///
/// Not always: where objects are encrypted with a key of the key service, a look needs the right to use it then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sums {
    Asked,
    Unasked,
}

impl Sums {
    fn mode(self) -> Option<ChecksumMode> {
        (self == Self::Asked).then_some(ChecksumMode::Enabled)
    }
}

/// Takes what the answer to a look or a read says of an object, whose `size` is told apart.
macro_rules! object_of {
    ($answer:expr, $size:expr, $date_ns:expr) => {{
        let etag = tag($answer.e_tag())?;
        let (crc64, sum) = sums_of!($answer).of_whole(&etag);
        Object {
            size: $size,
            etag,
            version_id: $answer.version_id().map(str::to_owned),
            user: returned($answer.metadata()),
            crc64,
            is_keyed: is_keyed(
                $answer.server_side_encryption(),
                $answer.sse_customer_algorithm(),
            ),
            modified_ns: $answer.last_modified().and_then(nanoseconds),
            date_ns: $date_ns,
            sum,
        }
    }};
}

impl S3Store {
    pub(super) async fn read_object(
        &self,
        key: &str,
        which: &Which,
        range: Option<Range<u64>>,
        sums: Sums,
    ) -> Result<(Object, Bytes)> {
        // HTTP has no words for an empty range.
        if range.as_ref().is_some_and(Range::is_empty) {
            return Ok((self.look_at(key, which, sums).await?, Bytes::new()));
        }
        let asked = range.as_ref();
        let read = self.run(Call::read("GetObject", key), |watch| async move {
            let flight = Arc::clone(&watch.flight);
            let (object, len, mut body) = self.ask_for(watch, key, which, asked, sums).await?;
            // What an answer says of itself is no reason to take more memory than has arrived.
            let most = usize::try_from(len.min(MOST_AHEAD)).unwrap_or_default();
            let mut bytes = BytesMut::with_capacity(most);
            while let Some(piece) = body.next().await {
                let piece = piece.map_err(|error| Trouble::Broken(error.to_string()))?;
                flight.received(&piece);
                bytes.extend_from_slice(&piece);
            }
            if bytes.len() as u64 != len {
                return Err(Trouble::Broken("the object came only in part".to_owned()));
            }
            Ok((object, bytes.freeze()))
        });
        let (object, bytes) = read.await.map_err(|failure| failure.error)?;
        expected("GetObject", key, which, object).map(|object| (object, bytes))
    }

    /// Reads a range piece by piece. A line that breaks is followed by a request for the rest, and only that.
    pub(super) async fn read_range(
        &self,
        key: &str,
        which: &Which,
        range: Range<u64>,
        sink: &dyn Sink,
    ) -> Result<Object> {
        if range.is_empty() {
            return self.look_at(key, which, Sums::Unasked).await;
        }
        let (next, first) = (&AtomicU64::new(range.start), &OnceLock::new());
        let read = self.run(Call::read("GetObject", key), |watch| async move {
            let flight = Arc::clone(&watch.flight);
            let mut at = next.load(Ordering::Relaxed);
            let rest = at..range.end;
            let asked = self.ask_for(watch, key, which, Some(&rest), Sums::Unasked);
            let (object, len, mut body) = asked.await?;
            if which.etag().is_some_and(|etag| etag != object.etag) {
                return Ok(object);
            }
            if *first.get_or_init(|| object.etag.clone()) != object.etag {
                let why = "the object was changed while it was read";
                return Err(Trouble::Garbled(why.to_owned()));
            }
            let end = at.saturating_add(len);
            if end != rest.end.min(object.size) {
                let why = "it sends another range than it was asked for";
                return Err(Trouble::Garbled(why.to_owned()));
            }
            while let Some(piece) = body.next().await {
                let piece = match piece {
                    Ok(piece) => piece,
                    Err(_) if at == end => break,
                    Err(error) => return Err(Trouble::Broken(error.to_string())),
                };
                flight.received(&piece);
                let len = piece.len() as u64;
                sink.take(at, piece);
                at += len;
                next.store(at, Ordering::Relaxed);
            }
            if at != end {
                return Err(Trouble::Broken("the range came only in part".to_owned()));
            }
            Ok(object)
        });
        let object = read.await.map_err(|failure| failure.error)?;
        expected("GetObject", key, which, object)
    }

    /// Sends one GET; returns what the answer says of the object, and its body, with the length that it is to have.
    async fn ask_for(
        &self,
        watch: Watch,
        key: &str,
        which: &Which,
        range: Option<&Range<u64>>,
        sums: Sums,
    ) -> std::result::Result<(Object, u64, ByteStream), Trouble> {
        let flight = Arc::clone(&watch.flight);
        let answer = asked_with!(self.client().get_object(), self.given)
            .bucket(&self.bucket)
            .key(key)
            .set_version_id(which.version_id().map(str::to_owned))
            .set_if_match(which.etag().map(quoted))
            .set_range(range.map(bytes_range))
            // Of a range, the checksum would be held against bytes that are not the whole.
            .set_checksum_mode(sums.mode().filter(|_| range.is_none()))
            .customize()
            .interceptor(watch)
            .send()
            .await
            .map_err(trouble)?;
        let len = length(answer.content_length())?;
        let size = match (range, answer.content_range()) {
            (Some(range), Some(text)) => size_of(text, range.start)
                .ok_or_else(|| Trouble::Garbled(format!("Content-Range is {text:?}")))?,
            (Some(_), None) => {
                return Err(Trouble::Garbled("it ignores the range".to_owned()));
            }
            (None, _) => len,
        };
        let object = object_of!(answer, size, flight.date_ns());
        Ok((object, len, answer.body))
    }

    pub(super) async fn look_at(&self, key: &str, which: &Which, sums: Sums) -> Result<Object> {
        // What a look does not find and a read does may have come in between.
        for _ in 0..2 {
            match self.look_once(key, which, sums).await {
                Err(error) if error.kind == ErrorKind::NotFound => {
                    if let Some(error) = self.not_found(key, which).await {
                        return Err(error);
                    }
                }
                looked => return expected("HeadObject", key, which, looked?),
            }
        }
        let why = "a look does not find it, and a read does";
        Err(Error::new(
            ErrorKind::Busy,
            "HeadObject",
            key,
            Effect::None,
            why,
        ))
    }

    async fn look_once(&self, key: &str, which: &Which, sums: Sums) -> Result<Object> {
        let call = Call::read("HeadObject", key);
        let looked = self.run(call, |watch| async {
            let flight = Arc::clone(&watch.flight);
            let answer = asked_with!(self.client().head_object(), self.given)
                .bucket(&self.bucket)
                .key(key)
                .set_version_id(which.version_id().map(str::to_owned))
                .set_if_match(which.etag().map(quoted))
                .set_checksum_mode(sums.mode())
                .customize()
                .interceptor(watch)
                .send()
                .await
                .map_err(trouble)?;
            let size = length(answer.content_length())?;
            Ok(object_of!(answer, size, flight.date_ns()))
        });
        looked.await.map_err(|failure| failure.error)
    }

    /// Asks once more about an object that a look has not found, and returns the error that holds; `None`: it is there.
    ///
    /// A look has no words: a proxy behind which no server is says the same. What a read does not find it says in S3's.
    async fn not_found(&self, key: &str, which: &Which) -> Option<Error> {
        // Of an object without a byte a read says that the range is not in it, which only what is there can be told.
        match Box::pin(self.read_object(key, which, Some(0..1), Sums::Unasked)).await {
            Err(error) if error.kind != ErrorKind::Invalid => Some(error),
            _ => None,
        }
    }

    pub(super) async fn copy_object(
        &self,
        from: &str,
        etag: &str,
        to: &str,
        meta: &Meta,
        when: &When,
    ) -> Result<Stored> {
        let call = Call {
            pace: Pace::Long,
            ..Call::write("CopyObject", to)
        };
        self.run(call, |watch| async {
            let is_outstanding = watch.is_outstanding;
            let request = asked_with!(self.client().copy_object(), self.given);
            let request = source_with!(request, self.given);
            let answer = stored_with!(request, self.given, meta)
                .bucket(&self.bucket)
                .key(to)
                .copy_source(source(&self.bucket, from))
                .copy_source_if_match(quoted(etag))
                .set_if_none_match(absent(when))
                .set_if_match(is(when))
                // Without it the source's metadata is copied, or a copy onto itself refused.
                .metadata_directive(MetadataDirective::Replace)
                .set_tagging_directive(self.given.tagging_directive(meta))
                .customize()
                .interceptor(watch)
                .send()
                .await
                .map_err(trouble)?;
            let made = answer.copy_object_result();
            let stored = stored(made.and_then(|made| made.e_tag()), answer.version_id())?;
            Ok(Stored {
                is_outstanding,
                ..stored
            })
        })
        .await
        .map_err(|failure| failure.error)
    }

    pub(super) async fn remove(&self, key: &str, when: &When) -> Result<Removed> {
        let earlier = AtomicBool::new(false);
        let result = self
            .run(Call::write("DeleteObject", key), |watch| async {
                earlier.fetch_or(watch.is_outstanding, Ordering::Relaxed);
                self.client()
                    .delete_object()
                    .bucket(&self.bucket)
                    .key(key)
                    .set_if_match(is(when))
                    .set_request_payer(self.given.payer())
                    .customize()
                    .interceptor(watch)
                    .send()
                    .await
                    .map_err(trouble)
            })
            .await;
        unless_absent(result.map(drop))?;
        Ok(Removed {
            is_outstanding: earlier.into_inner(),
        })
    }
}

/// Reads the size of the whole object from a Content-Range that begins at `start`, as `bytes 0-4/9` does.
fn size_of(text: &str, start: u64) -> Option<u64> {
    let (range, size) = text.trim().strip_prefix("bytes")?.split_once('/')?;
    let (first, _) = range.trim().split_once('-')?;
    let is_asked = first.parse() == Ok(start);
    size.parse().ok().filter(|_| is_asked)
}

fn is_keyed(service: Option<&ServerSideEncryption>, customer: Option<&str>) -> bool {
    customer.is_some() || service.is_some_and(|kind| *kind != ServerSideEncryption::Aes256)
}

/// Some stores do not look at the condition of a read.
fn expected(operation: &'static str, key: &str, which: &Which, object: Object) -> Result<Object> {
    match which.etag() {
        Some(etag) if etag != object.etag => {
            let (kind, why) = (ErrorKind::Precondition, "the object is another by now");
            Err(Error::new(kind, operation, key, Effect::None, why))
        }
        _ => Ok(object),
    }
}

/// What is to go and is not there has gone. That its bucket is not there is another matter.
pub(super) fn unless_absent(result: std::result::Result<(), Failure>) -> Result<()> {
    match result {
        Err(failure)
            if failure.error.kind == ErrorKind::NotFound
                && failure.error.code != "NoSuchBucket" =>
        {
            Ok(())
        }
        other => other.map_err(|failure| failure.error),
    }
}
