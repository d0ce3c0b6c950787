//! One request: sent, watched while it stands still, and repeated when it only stumbled.
//!
//! The one in-request retry of the program: at most three attempts, none begun later than 30 s after the first. Outages
//! are the queue's, not ours. Dropping the future at any point is safe: it closes the request's connection, and
//! nothing else is held.

mod bounded;
pub(in crate::store::s3) mod flight;

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use aws_runtime::auth::PayloadSigningOverride;
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::connection::CaptureSmithyConnection;
use aws_smithy_runtime_api::client::interceptors::context::{
    BeforeDeserializationInterceptorContextMut, BeforeDeserializationInterceptorContextRef,
    BeforeTransmitInterceptorContextMut,
};
use aws_smithy_runtime_api::client::interceptors::{Intercept, dyn_dispatch_hint};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::DateTime;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::config_bag::ConfigBag;
use aws_smithy_types::date_time::Format;
use bytes::Bytes;

use crate::base::backoff;
use crate::base::clock::Clock;
use crate::base::digest::Sha256;
use crate::store::s3::attempt::bounded::Bounded;
use crate::store::s3::attempt::flight::{Counted, Flight};
use crate::store::s3::classify::{self, Blip, Cure, Failure, Trouble};
use crate::store::s3::connect::Patience;
use crate::store::s3::reach::Reach;
use crate::store::{Body, Effect, Flow};

/// What is asked, as far as watching, repeating and judging it need to know.
#[derive(Clone, Copy)]
pub(super) struct Call<'a> {
    /// As S3 names it.
    pub operation: &'static str,
    /// Empty for the bucket.
    pub key: &'a str,
    /// Whether it changes anything.
    pub nature: Nature,
    /// What is sent, with its digests.
    pub body: Option<&'a Body>,
    /// Whether it works on whole objects, and so may think for minutes.
    pub pace: Pace,
}

impl<'a> Call<'a> {
    /// A look at a key, or at the bucket if it is empty.
    pub fn read(operation: &'static str, key: &'a str) -> Self {
        Self {
            operation,
            key,
            nature: Nature::Read,
            body: None,
            pace: Pace::Usual,
        }
    }

    /// A change without a body of ours.
    pub fn write(operation: &'static str, key: &'a str) -> Self {
        Self {
            nature: Nature::Write,
            ..Self::read(operation, key)
        }
    }
}

/// Whether a request changes the bucket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Nature {
    /// It only looks.
    Read,
    /// Twice is the same as once.
    Write,
    /// Each time makes something new: not repeated after a lost answer.
    Create,
}

/// How long an answer may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Pace {
    /// Seconds.
    Usual,
    /// Minutes.
    Long,
}

/// Attempts of one request, the first included.
const ATTEMPTS: u32 = 3;

/// Connections in a row that may turn out to have died while they lay idle, before one counts as an attempt.
const STALE: u32 = 4;

/// Sends a request until it succeeds, fails for good, or has stumbled too often.
pub(super) async fn run<T, F, Fut>(
    call: Call<'_>,
    patience: &Patience,
    reach: &Reach,
    send: F,
) -> Result<T, Failure>
where
    F: Fn(Watch) -> Fut,
    Fut: Future<Output = Result<T, Trouble>>,
{
    let began = Clock::Real.now().mono;
    let mut effect = Effect::None;
    let (mut attempt, mut stale) = (1, 0);
    let mut cured: Vec<Cure> = Vec::new();
    loop {
        let flight = Arc::new(Flight::new(call.body, reach.generation()));
        let is_outstanding = effect == Effect::Possible;
        let watch = Watch {
            flight: Arc::clone(&flight),
            body: call.body.cloned(),
            is_outstanding,
            is_content: call.operation == "GetObject",
            elsewhere: cured.iter().find_map(Cure::place).map(str::to_owned),
        };
        let counted = Counted {
            operation: call.operation,
            flight: Arc::clone(&flight),
            meter: reach.meter(),
        };
        let limit = match call.pace {
            Pace::Usual => patience.answer_to(flight.len),
            Pace::Long => patience.long_answer,
        };
        let result = tokio::select! {
            biased;
            result = send(watch) => result,
            after = flight.stands_still(patience.piece, limit) => Err(Trouble::Stalled(after)),
        };
        drop(counted);
        let line = flight.line();
        let trouble = match result {
            Ok(done) => {
                reach.lines().answered(line);
                return Ok(done);
            }
            Err(trouble) => trouble,
        };
        let was_idle = match (&trouble, line) {
            // Its answer has come: whatever is wrong with it, the connection was alive.
            _ if flight.has_answer() => {
                reach.lines().answered(line);
                false
            }
            (Trouble::Broken(_), Some(line)) => reach.lines().died(line),
            _ => false,
        };
        let mut failure = classify::judge(trouble, &call, flight.may_have_left());
        if failure.error.effect == Effect::Possible {
            effect = Effect::Possible;
        }
        let may_repeat = failure.may_repeat(call.nature);
        if may_repeat && was_idle && stale < STALE {
            stale += 1;
            tracing::debug!(
                "an idle connection was gone, repeating {} on another",
                failure.error
            );
            continue;
        }
        let mut fresh = std::mem::take(&mut failure.cures);
        fresh.retain(|cure| may_repeat && !cured.iter().any(|earlier| earlier.is_like(cure)));
        if let Some(cure) = reach.first_cure(fresh, &flight).await {
            tracing::debug!("repeating after {}", failure.error);
            cured.push(cure);
            continue;
        }
        let pause = failure
            .blip
            .filter(|_| attempt < ATTEMPTS && may_repeat)
            .map(|blip| pause(blip, attempt, failure.error.retry_after))
            .filter(|pause| {
                let passed = Clock::Real.now().mono.duration_since(began);
                passed + *pause <= patience.repeat
            });
        let Some(pause) = pause else {
            // An earlier attempt whose answer was lost may still land.
            failure.error.effect = effect;
            return Err(failure);
        };
        if failure.blip == Some(Blip::Throttle)
            && let Some(tap) = call.body.and_then(|body| body.tap.as_ref())
        {
            tap.throttled();
        }
        tracing::debug!(
            attempt,
            ?pause,
            "could not finish {}, repeating it",
            failure.error
        );
        tokio::time::sleep(pause).await;
        attempt += 1;
    }
}

fn pause(blip: Blip, failures: u32, asked: Option<Duration>) -> Duration {
    let (base, cap) = match blip {
        // A new connection is usually all that is missing.
        Blip::Connection => (Duration::from_millis(50), Duration::from_secs(5)),
        Blip::Server => (Duration::from_millis(200), Duration::from_secs(20)),
        Blip::Throttle => (Duration::from_millis(500), Duration::from_secs(30)),
    };
    backoff::pause(failures, base, cap, &mut fastrand::Rng::new()).max(asked.unwrap_or_default())
}

/// Rides along with one attempt: chooses how the payload is signed and hands the body out in watched pieces.
#[derive(Debug)]
pub(super) struct Watch {
    /// How far the attempt has come.
    pub flight: Arc<Flight>,
    body: Option<Body>,
    /// An earlier attempt was not answered, and may still land.
    pub is_outstanding: bool,
    /// The answer is a content, which is taken piece by piece and may be of any length.
    is_content: bool,
    /// The URL that the store has sent the request on to.
    elsewhere: Option<String>,
}

/// What a signature says of the bytes.
pub(super) enum Payload {
    /// Nothing.
    Unsigned,
    /// Their hash, which is known.
    Known(Sha256),
    /// Their hash, which is yet to be taken.
    Unknown,
}

impl Watch {
    /// Returns whether the request goes where it was first meant to go.
    pub fn is_at_home(&self) -> bool {
        self.elsewhere.is_none()
    }

    /// TLS guards the bytes, and the checksum header is signed; hashing them again would be the most expensive part of a
    /// request. Over plain HTTP the hash is the only guard; where it is not known, the signer takes it.
    pub fn payload(&self, uri: &str) -> Payload {
        if uri.starts_with("https://") {
            return Payload::Unsigned;
        }
        let known = self.body.as_ref().and_then(|body| body.sha256);
        known.map_or(Payload::Unknown, Payload::Known)
    }

    /// Notes that the request is handed to the HTTP client: on which line it goes, once that is known, and the access key and
    /// session token of its signature. Returns its body, if there is one that is not empty.
    pub fn departs(
        &self,
        line: Option<CaptureSmithyConnection>,
        signed_with: Option<(String, Option<String>)>,
    ) -> Option<SdkBody> {
        if let Some(line) = line {
            let _ = self.flight.line.set(line);
        }
        if let Some(signed_with) = signed_with {
            let _ = self.flight.signed_with.set(signed_with);
        }
        self.flight.handed_over.store(true, Ordering::Relaxed);
        let body = self.body.as_ref().filter(|body| !body.bytes.is_empty())?;
        Some(SdkBody::from_body_1_x(Pieces {
            rest: body.bytes.clone(),
            flight: Arc::clone(&self.flight),
            flow: body.tap.as_ref().map(|tap| tap.open()),
        }))
    }

    /// Notes that the head of the answer has come.
    pub fn arrives(&self, response: &HttpResponse) {
        self.flight.has_answer.store(true, Ordering::Relaxed);
        let status = response.status().as_u16();
        self.flight.status.store(status, Ordering::Relaxed);
        let date = response.headers().get("date");
        let date_ns = date
            .and_then(|date| DateTime::from_str(date, Format::HttpDate).ok())
            .and_then(|date| i64::try_from(date.as_nanos()).ok());
        if let Some(date_ns) = date_ns {
            self.flight.date_ns.store(date_ns, Ordering::Relaxed);
        }
    }
}

#[dyn_dispatch_hint]
impl Intercept for Watch {
    fn name(&self) -> &'static str {
        "Watch"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(url) = &self.elsewhere
            // Never out of TLS: what was to be secret would be sent in the clear.
            && (url.starts_with("https://") || context.request().uri().starts_with("http://"))
        {
            context.request_mut().set_uri(url.as_str())?;
        }
        if self.body.is_none() {
            return Ok(());
        }
        let payload = match self.payload(context.request().uri()) {
            Payload::Unsigned => PayloadSigningOverride::UnsignedPayload,
            Payload::Known(sha256) => PayloadSigningOverride::Precomputed(sha256.to_hex()),
            Payload::Unknown => return Ok(()),
        };
        config.interceptor_state().store_put(payload);
        Ok(())
    }

    fn modify_before_transmit(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let headers = context.request().headers();
        let key = headers
            .get("authorization")
            .and_then(|text| text.split_once("Credential="))
            .and_then(|(_, rest)| rest.split_once('/'));
        let signed_with = key.map(|(key, _)| {
            let token = headers.get("x-amz-security-token").map(str::to_owned);
            (key.to_owned(), token)
        });
        // The SDK's own interceptor, which comes before, has put it there.
        let line = config.load::<CaptureSmithyConnection>().cloned();
        if let Some(body) = self.departs(line, signed_with) {
            // The length is in a header already, and signed: this only changes who hands the bytes out.
            *context.request_mut().body_mut() = body;
        }
        Ok(())
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.arrives(context.response());
        Ok(())
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let response = context.response_mut();
        if !(self.is_content && response.status().is_success()) {
            // It is held in memory as a whole.
            let inner = std::mem::replace(response.body_mut(), SdkBody::taken());
            *response.body_mut() = SdkBody::from_body_1_x(Bounded::new(inner));
        }
        Ok(())
    }
}

/// A body that notes each piece that the connection takes, and asks for leave before it hands one out.
struct Pieces {
    rest: Bytes,
    flight: Arc<Flight>,
    flow: Option<Box<dyn Flow>>,
}

impl Pieces {
    /// Returns how long the next piece may be.
    fn poll_leave(&mut self, cx: &mut Context<'_>) -> Poll<usize> {
        let wanted = self.rest.len().min(PIECE);
        let Some(flow) = &mut self.flow else {
            return Poll::Ready(wanted);
        };
        let leave = flow.poll_take(cx, wanted);
        self.flight
            .is_held_back
            .store(leave.is_pending(), Ordering::Relaxed);
        leave.map(|bytes| bytes.clamp(1, wanted))
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        // Nobody asks for it any more: now it is the answer that is waited for.
        self.flight.is_held_back.store(false, Ordering::Relaxed);
    }
}

/// Small enough that a line of 3 KiB/s takes one within the patience for a piece.
const PIECE: usize = 64 << 10;

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let len = std::task::ready!(self.poll_leave(cx));
        let piece = self.rest.split_to(len);
        self.flight.taken.fetch_add(len as u64, Ordering::Relaxed);
        self.flight.step();
        Poll::Ready(Some(Ok(http_body::Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(self.rest.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::digest::Crc64;

    fn flight(len: usize) -> Flight {
        let body = Body::new(vec![0; len].into(), Crc64(0), None);
        Flight::new(Some(&body), 0)
    }

    #[test]
    fn a_slow_line_gets_time_for_what_is_buffered() {
        let (piece, answer) = (Duration::from_secs(20), Duration::from_secs(15));
        let small = flight(1000);
        assert_eq!(small.limit(piece, answer), answer);
        let large = flight(8 << 20);
        large.taken.store(1 << 20, Ordering::Relaxed);
        assert_eq!(large.limit(piece, answer), piece);
        large.taken.store(8 << 20, Ordering::Relaxed);
        assert_eq!(large.limit(piece, answer), Duration::from_secs(15 + 32));
    }

    #[test]
    fn a_body_that_nobody_asked_for_has_not_left() {
        let full = flight(1);
        full.handed_over.store(true, Ordering::Relaxed);
        assert!(!full.may_have_left());
        full.taken.store(1, Ordering::Relaxed);
        assert!(full.may_have_left());
        let empty = flight(0);
        assert!(!empty.may_have_left());
        empty.handed_over.store(true, Ordering::Relaxed);
        assert!(empty.may_have_left());
    }

    #[tokio::test(start_paused = true)]
    async fn what_moves_is_not_standing_still() {
        let flight = Arc::new(flight(10));
        let (piece, answer) = (Duration::from_secs(20), Duration::from_secs(16));
        let moving = async {
            for _ in 0..10 {
                tokio::time::sleep(Duration::from_secs(10)).await;
                flight.step();
            }
            std::future::pending::<Duration>().await
        };
        let began = Clock::Real.now().mono;
        let limit = tokio::select! {
            limit = flight.stands_still(piece, answer) => limit,
            limit = moving => limit,
        };
        assert_eq!(limit, answer);
        let passed = Clock::Real.now().mono.duration_since(began);
        assert!(
            (116..=120).contains(&passed.as_secs()),
            "{passed:?} for 100 s of movement"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_for_its_share_of_the_bandwidth_is_not_standing_still() {
        let flight = Arc::new(flight(10));
        let (piece, answer) = (Duration::from_secs(20), Duration::from_secs(16));
        flight.is_held_back.store(true, Ordering::Relaxed);
        let held_back = async {
            tokio::time::sleep(Duration::from_secs(1000)).await;
            flight.step();
            flight.is_held_back.store(false, Ordering::Relaxed);
            std::future::pending::<Duration>().await
        };
        let began = Clock::Real.now().mono;
        tokio::select! {
            _ = flight.stands_still(piece, answer) => {}
            _ = held_back => {}
        }
        // The whole patience begins when the last piece has been handed out.
        let passed = Clock::Real.now().mono.duration_since(began);
        assert!((1016..=1018).contains(&passed.as_secs()), "{passed:?}");
    }

    #[test]
    fn a_throttled_request_waits_as_long_as_it_is_told() {
        let told = Some(Duration::from_secs(7));
        assert_eq!(pause(Blip::Throttle, 1, told), Duration::from_secs(7));
        assert!(pause(Blip::Connection, 1, None) <= Duration::from_millis(50));
        assert!(pause(Blip::Server, 2, None) >= Duration::from_millis(200));
    }
}
