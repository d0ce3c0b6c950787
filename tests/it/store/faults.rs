//! What the S3 store makes of bad lines and bad answers, byte by byte over a socket. Real time: a socket does not wait
//! for a paused clock; every patience is some tens of milliseconds.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tidewatch::base::clock::Clock;
use tidewatch::base::digest::Crc64;
use tidewatch::store::s3::{Patience, S3Store, Settings};
use tidewatch::store::{Body, Effect, Error, ErrorKind, Flow, Meta, Part, Store, Tap};
use tokio::time::Sleep;

use crate::support::raw_server::{RawServer, Reply};

pub const OK: Reply = Reply::Answer(200, "etag: \"abc\"\r\n", "");

pub async fn at(url: &str) -> S3Store {
    let settings = Settings {
        endpoint_url: Some(url.to_owned()),
        credentials: Some(("access".to_owned(), "secret".to_owned())),
        patience: Patience {
            connect: Duration::from_millis(500),
            piece: Duration::from_millis(200),
            answer: Duration::from_millis(200),
            long_answer: Duration::from_millis(400),
            repeat: Duration::from_secs(30),
        },
        ..Settings::default()
    };
    S3Store::new(&settings, "bucket").await.expect("a client")
}

pub fn body(bytes: &[u8]) -> Body {
    Body::of(Bytes::copy_from_slice(bytes))
}

pub async fn put_fails(replies: Vec<Reply>) -> (Error, usize) {
    let server = RawServer::start(replies).await;
    let store = at(server.url()).await;
    let result = store.put("key", body(b"bytes"), &Meta::default()).await;
    (result.expect_err("a failure"), server.seen().len())
}

pub fn xml(status: u16, code_and_message: &'static str) -> Reply {
    Reply::Answer(
        status,
        "content-type: application/xml\r\n",
        code_and_message,
    )
}

/// Refusals: status, S3's word, what it means to the caller, and what has to be said.
const REFUSALS: [(u16, &str, ErrorKind, &str); 14] = {
    use ErrorKind::{
        Barred, Conflict, Corrupt, Denied, Full, Invalid, NotFound, Precondition, TooLarge,
    };
    [
        (403, "AccessDenied", Denied, "lack this right"),
        (
            403,
            "SignatureDoesNotMatch",
            Barred,
            "AWS_SECRET_ACCESS_KEY",
        ),
        (403, "InvalidAccessKeyId", Barred, "AWS_ACCESS_KEY_ID"),
        (400, "ExpiredToken", Barred, "renew"),
        (403, "QuotaExceeded", Full, "make room"),
        (400, "AuthorizationHeaderMalformed", Barred, "`region`"),
        (403, "InvalidObjectState", Invalid, "InvalidObjectState"),
        (404, "NoSuchBucket", NotFound, "create the bucket"),
        (
            412,
            "PreconditionFailed",
            Precondition,
            "PreconditionFailed",
        ),
        (409, "OperationAborted", Conflict, "OperationAborted"),
        (400, "BadDigest", Corrupt, "BadDigest"),
        (400, "EntityTooLarge", TooLarge, "EntityTooLarge"),
        (400, "InvalidStorageClass", Invalid, "InvalidStorageClass"),
        (418, "IAmATeapot", Invalid, "IAmATeapot"),
    ]
};

#[tokio::test]
async fn a_refusal_is_final_and_had_no_effect() {
    for (status, code, kind, words) in REFUSALS {
        let text = format!("<Error><Code>{code}</Code><Message>No.</Message></Error>").leak();
        let (error, seen) = put_fails(vec![xml(status, text)]).await;
        let told = (error.kind, error.effect, seen);
        assert_eq!(told, (kind, Effect::None, 1), "{code}: {error}");
        let text = error.to_string();
        assert!(text.contains(words), "{code}: {text}");
        assert!(
            text.starts_with(&format!("PutObject of `key`: {code}: No")),
            "{text}"
        );
    }
}

#[tokio::test]
async fn what_stays_wrong_is_told_in_kind_and_effect() {
    use Effect::{None, Possible};
    use ErrorKind::{Barred, Busy, Corrupt, Network, Unsupported};
    let elsewhere = "x-amz-bucket-region: eu-west-3\r\n";
    let other_sum = "etag: \"a\"\r\nx-amz-checksum-crc64nvme: AAAAAAAAAAA=\r\n";
    let skewed = "<Error><Code>RequestTimeTooSkewed</Code></Error>";
    let slow_down = "<Error><Code>SlowDown</Code></Error>";
    let page = "<html>\r\n\x1b[2J</html>";
    let table = [
        (
            Reply::Answer(301, elsewhere, ""),
            Barred,
            None,
            2,
            "eu-west-3",
        ),
        // Without a date there is no clock to take from the answer.
        (xml(403, skewed), Barred, None, 1, "NTP"),
        // Tried with each lesser checksum, and with none.
        (Reply::Answer(501, "", ""), Unsupported, None, 4, "501"),
        (xml(503, slow_down), Busy, Possible, 3, "SlowDown"),
        (Reply::Answer(502, "", page), Busy, Possible, 3, "502"),
        (Reply::Answer(200, "", ""), Network, Possible, 3, "ETag"),
        (
            Reply::Answer(200, other_sum, ""),
            Corrupt,
            Possible,
            1,
            "checksum",
        ),
    ];
    for (reply, kind, effect, requests, words) in table {
        let (error, seen) = put_fails(vec![reply.clone()]).await;
        let told = (error.kind, error.effect, seen);
        assert_eq!(told, (kind, effect, requests), "{reply:?}: {error}");
        let text = error.to_string();
        assert!(text.contains(words), "{words}: {text}");
        assert!(
            !text.contains(['\n', '\x1b']) && !text.contains("secret"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn an_earlier_attempt_may_have_landed_although_the_last_was_refused() {
    let refused = xml(403, "<Error><Code>AccessDenied</Code></Error>");
    let (error, requests) = put_fails(vec![Reply::Close, refused]).await;
    assert_eq!(
        (error.kind, error.effect, requests),
        (ErrorKind::Denied, Effect::Possible, 2)
    );
}

pub fn part() -> Part {
    Part {
        number: 1,
        etag: "e".to_owned(),
        crc64: Some(Crc64::of(b"x")),
    }
}

#[tokio::test]
async fn an_upload_is_not_begun_twice_for_a_lost_answer() {
    let server = RawServer::start([Reply::Close]).await;
    let store = at(server.url()).await;
    let error = store
        .create_multipart("k", &Meta::default())
        .await
        .expect_err("lost");
    assert_eq!((error.effect, server.seen().len()), (Effect::Possible, 1));
    let seen = &server.seen()[0];
    assert_eq!(seen.header("x-amz-checksum-algorithm"), Some("CRC64NVME"));
    assert_eq!(seen.header("x-amz-checksum-type"), Some("FULL_OBJECT"));
}

#[tokio::test]
async fn a_head_has_no_words_and_is_understood() {
    for (status, kind, of_bucket) in [
        (403, ErrorKind::Denied, ErrorKind::Denied),
        (400, ErrorKind::Invalid, ErrorKind::Invalid),
        // What is not there is asked for once more, and this server has no words for that either.
        (404, ErrorKind::Busy, ErrorKind::NotFound),
    ] {
        let server = RawServer::start([Reply::Answer(status, "", "")]).await;
        let store = at(server.url()).await;
        let error = store.head("k").await.map(drop).expect_err("head");
        assert_eq!((error.kind, error.effect), (kind, Effect::None), "{error}");
        let error = store.check().await.expect_err("check");
        assert_eq!((error.kind, error.effect), (of_bucket, Effect::None));
    }
}

#[tokio::test]
async fn a_page_of_a_proxy_that_found_no_server_says_nothing_of_the_object() {
    const PAGE: &str = "<html><body>default backend - 404</body></html>";
    for page in ["", PAGE] {
        // Every answer is the same, however often it is asked within a request.
        let server =
            RawServer::start([Reply::Answer(404, "content-type: text/html\r\n", page)]).await;
        let store = at(server.url()).await;
        let part = store.put_part("k", "id", 1, body(b"x")).await;
        for error in [
            store.get("k", None).await.map(drop).expect_err("a read"),
            store.head("k").await.map(drop).expect_err("a look"),
            store.delete("k").await.map(drop).expect_err("a delete"),
            store.abort("k", "id").await.expect_err("an abort"),
            part.map(drop).expect_err("a part"),
        ] {
            assert_eq!(error.kind, ErrorKind::Busy, "{error}");
        }
    }
}

#[tokio::test]
async fn what_is_to_go_and_is_not_there_has_gone() {
    for code in ["NoSuchKey", "NoSuchUpload"] {
        let body = format!("<Error><Code>{code}</Code></Error>").leak();
        let server = RawServer::start([xml(404, body)]).await;
        let store = at(server.url()).await;
        store.delete("k").await.expect("a delete");
        store.abort("k", "id").await.expect("an abort");
    }
    let server = RawServer::start([xml(404, "<Error><Code>NoSuchBucket</Code></Error>")]).await;
    let store = at(server.url()).await;
    assert_eq!(
        store.delete("k").await.expect_err("no bucket").kind,
        ErrorKind::NotFound
    );
    assert!(store.abort("k", "id").await.is_err());
}

#[tokio::test]
async fn a_plain_server_behind_https_is_told_as_the_line_it_is() {
    let server = RawServer::start([OK]).await;
    let store = at(&server.url().replace("http://", "https://")).await;
    let error = store
        .put("k", body(b"x"), &Meta::default())
        .await
        .expect_err("no TLS there");
    assert_eq!(
        (error.kind, error.effect),
        (ErrorKind::Network, Effect::None),
        "{error}"
    );
}

/// Hands half of what is left out after 400 ms, again and again, and counts throttles.
#[derive(Debug, Default)]
struct SlowTap {
    throttled: AtomicUsize,
}

struct SlowFlow(Pin<Box<Sleep>>);

const TURN: Duration = Duration::from_millis(400);

impl Tap for SlowTap {
    fn open(&self) -> Box<dyn Flow> {
        Box::new(SlowFlow(Box::pin(tokio::time::sleep(TURN))))
    }

    fn throttled(&self) {
        self.throttled.fetch_add(1, Ordering::Relaxed);
    }
}

impl Flow for SlowFlow {
    fn poll_take(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<usize> {
        std::task::ready!(self.0.as_mut().poll(cx));
        let next = Clock::Real.now().mono + TURN;
        self.0.as_mut().reset(next);
        Poll::Ready(wanted.div_ceil(2))
    }
}

#[tokio::test]
async fn a_body_that_waits_for_its_share_of_the_bandwidth_is_not_given_up() {
    let server = RawServer::start([OK]).await;
    let store = at(server.url()).await;
    let tap = Arc::new(SlowTap::default());
    let bytes: Vec<u8> = (0..=255).cycle().take(100).collect();
    let began = Clock::Real.now().mono;
    // Twice the patience before each piece.
    let body = body(&bytes).with_tap(Some(tap));
    store
        .put("k", body, &Meta::default())
        .await
        .expect("it is only slow");
    assert!(Clock::Real.now().mono - began > Duration::from_secs(2));
    assert_eq!(server.seen().len(), 1);
    assert_eq!(server.seen()[0].body, bytes);
}

#[tokio::test]
async fn a_throttle_that_a_repetition_gets_over_is_told() {
    let slow_down = xml(503, "<Error><Code>SlowDown</Code></Error>");
    let server = RawServer::start([slow_down, OK]).await;
    let store = at(server.url()).await;
    let tap = Arc::new(SlowTap::default());
    let body = body(b"x").with_tap(Some(tap.clone()));
    let put = store.put("k", body, &Meta::default()).await;
    put.expect("the second time");
    assert_eq!(tap.throttled.load(Ordering::Relaxed), 1);
}
