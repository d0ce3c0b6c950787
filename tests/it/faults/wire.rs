//! Rows of the table of failures at the level of one request, each test named by its row: what the store made of it, told
//! from what the server saw. Real time: a socket does not wait for a paused clock; every patience is some tens of
//! milliseconds.

use std::time::Duration;

use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use tidewatch::base::clock::Clock;
use tidewatch::base::digest::{Crc32, Crc64};
use tidewatch::store::features::{Checksum, Features};
use tidewatch::store::s3::{S3Store, Settings};
use tidewatch::store::{Effect, Error, ErrorKind, Meta, Store};

use crate::faults::tls::Tls;
use crate::store::faults::{OK, at, body, part, put_fails, xml};
use crate::support::raw_server::{RawServer, Reply, Seen};

/// Puts `x` once and returns how that went and what the server saw.
async fn put_once(replies: Vec<Reply>) -> (Result<(), Error>, Vec<Seen>) {
    let server = RawServer::start(replies).await;
    let store = at(server.url()).await;
    let put = store.put("key", body(b"x"), &Meta::default()).await;
    (put.map(drop), server.seen())
}

fn told(result: Result<(), Error>) -> (ErrorKind, Effect, String) {
    let error = result.expect_err("a failure");
    (error.kind, error.effect, error.to_string())
}

fn error_of(code: &str) -> &'static str {
    format!("<Error><Code>{code}</Code><Message>No.</Message></Error>").leak()
}

#[tokio::test]
async fn f01_a_refused_connection_has_no_effect_and_takes_no_time() {
    let began = Clock::Real.now().mono;
    // Port 9 is `discard`, which nothing serves.
    let store = at("http://127.0.0.1:9").await;
    let error = store
        .put("k", body(b"x"), &Meta::default())
        .await
        .expect_err("refused");
    assert_eq!(
        (error.kind, error.effect),
        (ErrorKind::Network, Effect::None),
        "{error}"
    );
    assert!(error.to_string().contains("refused"), "{error}");
    assert!(Clock::Real.now().mono - began < Duration::from_secs(5));
    let error = store.check().await.expect_err("refused");
    assert!(error.is_everyones());
}

#[tokio::test]
async fn f05_a_connection_that_closes_after_the_body_leaves_it_open_what_happened() {
    let server = RawServer::start([Reply::Close, Reply::Close, OK]).await;
    let store = at(server.url()).await;
    store
        .put("k", body(b"x"), &Meta::default())
        .await
        .expect("the third time");
    assert_eq!(server.seen().len(), 3);
    let (error, requests) = put_fails(vec![Reply::Close]).await;
    assert_eq!(
        (error.kind, error.effect),
        (ErrorKind::Network, Effect::Possible),
        "{error}"
    );
    assert_eq!(requests, 3);
}

#[tokio::test]
async fn f06_a_server_that_stops_reading_is_left() {
    let server = RawServer::start([Reply::StopReading]).await;
    let store = at(server.url()).await;
    // More than any buffer on the way holds.
    let large = body(&vec![1; 16 << 20]);
    let error = store
        .put("k", large, &Meta::default())
        .await
        .expect_err("a failure");
    assert_eq!(
        (error.kind, error.effect),
        (ErrorKind::Network, Effect::Possible),
        "{error}"
    );
}

#[tokio::test]
async fn f07_a_server_that_never_answers_is_left() {
    let began = Clock::Real.now().mono;
    let (error, requests) = put_fails(vec![Reply::Silence]).await;
    assert_eq!(
        (error.kind, error.effect),
        (ErrorKind::Network, Effect::Possible),
        "{error}"
    );
    assert_eq!(requests, 1);
    assert!(error.to_string().contains("no answer"), "{error}");
    // The patience is 200 ms; the rest is for a busy machine.
    assert!(Clock::Real.now().mono - began < Duration::from_secs(5));
}

#[tokio::test]
async fn f08_what_is_cut_off_is_not_taken_for_the_whole() {
    let server = RawServer::start([Reply::Cut("half of it")]).await;
    let store = at(server.url()).await;
    let error = store.get("k", None).await.expect_err("cut");
    assert_eq!(
        (error.kind, error.effect),
        (ErrorKind::Network, Effect::None),
        "{error}"
    );
    assert_eq!(server.seen().len(), 3);
}

#[tokio::test]
async fn f11_an_error_inside_a_success_is_an_error() {
    let error_200 = xml(
        200,
        "<?xml version=\"1.0\"?>\n<Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>",
    );
    let server = RawServer::start([error_200]).await;
    let store = at(server.url()).await;
    for error in [
        store
            .complete("k", "id", &[part()], None)
            .await
            .expect_err("complete"),
        store
            .copy("from", "e", "k", &Meta::default())
            .await
            .expect_err("copy"),
        store
            .copy_part("from", "e", 0..9, "k", "id", 1)
            .await
            .map(drop)
            .expect_err("copy of a part"),
    ] {
        assert_eq!(
            (error.kind, error.effect),
            (ErrorKind::Busy, Effect::Possible),
            "{error}"
        );
        assert!(error.message.contains("InternalError"), "{error}");
    }
    assert_eq!(server.seen().len(), 9);
}

#[tokio::test]
async fn f01_a_name_that_nobody_has_is_a_line_that_is_down() {
    // Longer than a name's parts may be: it is refused without asking the network.
    let url = format!("http://{}.example", "a".repeat(70));
    let store = at(&url).await;
    let put = store.put("k", body(b"x"), &Meta::default()).await;
    let (kind, effect, text) = told(put.map(drop));
    assert_eq!((kind, effect), (ErrorKind::Network, Effect::None), "{text}");
    assert!(text.contains("cannot connect"), "{text}");
}

#[tokio::test]
async fn f02_a_certificate_that_is_not_trusted_is_told_and_never_talked_around() {
    let server = RawServer::start([OK]).await;
    let tls = Tls::before(server.address()).await;
    let mut settings = Settings {
        endpoint_url: Some(tls.url()),
        credentials: Some(("access".to_owned(), "secret".to_owned())),
        ..Settings::default()
    };
    let store = S3Store::new(&settings, "bucket").await.expect("a client");
    let put = store.put("k", body(b"x"), &Meta::default()).await;
    let (kind, effect, text) = told(put.map(drop));
    assert_eq!((kind, effect), (ErrorKind::Barred, Effect::None), "{text}");
    assert!(text.contains("`ca_bundle`"), "{text}");
    assert_eq!((tls.connections(), server.seen().len()), (1, 0));

    settings.ca_bundle = Some(Tls::ca());
    let store = S3Store::new(&settings, "bucket").await.expect("a client");
    store
        .put("k", body(b"x"), &Meta::default())
        .await
        .expect("its issuer is trusted now");
    let seen = &server.seen()[0];
    assert_eq!(
        seen.header("x-amz-content-sha256"),
        Some("UNSIGNED-PAYLOAD"),
        "TLS guards the bytes"
    );
    // A certificate is for its name alone.
    let misnamed = Tls::misnamed(server.address()).await;
    settings.endpoint_url = Some(misnamed.url());
    let store = S3Store::new(&settings, "bucket").await.expect("a client");
    let put = store.put("k", body(b"x"), &Meta::default()).await;
    let (kind, _, text) = told(put.map(drop));
    assert_eq!(
        (kind, server.seen().len()),
        (ErrorKind::Barred, 1),
        "{text}"
    );
}

#[tokio::test]
async fn f03_a_reset_of_a_reused_connection_is_repeated_at_once() {
    // Every second request dies on the connection that the one before it has left.
    let died = [OK, Reply::Close];
    let server =
        RawServer::start([died.to_vec(), vec![Reply::Close, Reply::Close, OK]].concat()).await;
    let store = at(server.url()).await;
    let meta = Meta::default();
    let put = || store.put("k", body(b"x"), &meta);
    put().await.expect("a put");
    // Three attempts and the idle connection, which does not count as one.
    put().await.expect("the fourth time");
    let connections: Vec<_> = server.seen().iter().map(|seen| seen.connection).collect();
    assert_eq!(connections, [0, 0, 1, 2, 3]);
}

#[tokio::test]
async fn f03_an_upload_is_not_begun_twice_on_a_dead_connection() {
    let server = RawServer::start([OK, Reply::Close]).await;
    let store = at(server.url()).await;
    store
        .put("k", body(b"x"), &Meta::default())
        .await
        .expect("a put");
    let begun = store.create_multipart("k", &Meta::default()).await;
    let (kind, effect, text) = told(begun.map(drop));
    assert_eq!(
        (kind, effect),
        (ErrorKind::Network, Effect::Possible),
        "{text}"
    );
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn f04_a_reset_while_sending_is_repeated_on_another_connection() {
    let server = RawServer::start([Reply::CloseEarly, OK]).await;
    let store = at(server.url()).await;
    // More than the buffers on the way hold: the reset comes while there is something left to send.
    let large = body(&vec![7; 16 << 20]);
    store
        .put("k", large.clone(), &Meta::default())
        .await
        .expect("the second time");
    let seen = server.seen();
    assert_eq!((seen.len(), seen[1].connection), (2, 1));
    assert!(seen[1].body == large.bytes, "the whole body again");
}

#[tokio::test]
async fn f05_an_answer_that_is_late_leaves_it_open_what_happened() {
    let (put, seen) = put_once(vec![Reply::Silence]).await;
    let (kind, effect, text) = told(put);
    assert_eq!(
        (kind, effect),
        (ErrorKind::Network, Effect::Possible),
        "{text}"
    );
    assert_eq!(seen.len(), 1, "it has taken its time already");
}

#[tokio::test]
async fn f08_a_success_that_names_nothing_is_asked_for_again() {
    for reply in [
        Reply::Answer(200, "", ""),
        Reply::Answer(
            200,
            "content-type: text/html\r\n",
            "<html>Log in first</html>",
        ),
    ] {
        let (put, seen) = put_once(vec![reply.clone(), OK]).await;
        assert!(put.is_ok() && seen.len() == 2, "{put:?}");
        let (put, _) = put_once(vec![reply]).await;
        let (kind, effect, text) = told(put);
        assert_eq!(
            (kind, effect),
            (ErrorKind::Network, Effect::Possible),
            "{text}"
        );
    }
}

#[tokio::test]
async fn f09_a_server_that_stumbles_is_asked_again() {
    let page = "<html><body>Bad Gateway";
    for reply in [
        xml(500, error_of("InternalError")),
        xml(503, error_of("ServiceUnavailable")),
        Reply::Answer(502, "content-type: text/html\r\n", page),
        Reply::Answer(504, "content-type: text/html\r\n", page),
        Reply::Answer(503, "", ""),
    ] {
        let (put, seen) = put_once(vec![reply.clone(), OK]).await;
        assert!(put.is_ok() && seen.len() == 2, "{reply:?}: {put:?}");
        let (put, seen) = put_once(vec![reply.clone()]).await;
        let (kind, effect, text) = told(put);
        assert_eq!(
            (kind, effect),
            (ErrorKind::Busy, Effect::Possible),
            "{text}"
        );
        assert_eq!(seen.len(), 3, "{reply:?}");
    }
}

#[tokio::test]
async fn f10_a_throttled_request_waits_as_it_is_told() {
    for reply in [
        xml(503, error_of("SlowDown")),
        xml(400, error_of("ThrottlingException")),
        Reply::Answer(429, "", ""),
    ] {
        let (put, seen) = put_once(vec![reply.clone(), OK]).await;
        assert!(put.is_ok() && seen.len() == 2, "{reply:?}: {put:?}");
    }
    // Real time, a second: the server's word is in seconds.
    let began = Clock::Real.now().mono;
    let told_so = Reply::Answer(503, "retry-after: 1\r\n", error_of("SlowDown"));
    let (put, seen) = put_once(vec![told_so, OK]).await;
    assert!(put.is_ok() && seen.len() == 2, "{put:?}");
    assert!(Clock::Real.now().mono - began >= Duration::from_secs(1));
    // Longer than a request goes on: whoever asked is told.
    let later =
        "date: Mon, 23 Nov 2026 08:00:00 GMT\r\nretry-after: Mon, 23 Nov 2026 08:02:00 GMT\r\n";
    let (put, seen) = put_once(vec![Reply::Answer(503, later, error_of("SlowDown")), OK]).await;
    let error = put.expect_err("it asks for two minutes");
    assert_eq!((error.kind, seen.len()), (ErrorKind::Busy, 1));
    assert_eq!(error.retry_after, Some(Duration::from_secs(120)));
}

#[tokio::test]
async fn f11_an_error_inside_a_success_is_taken_by_its_code() {
    use ErrorKind::{Busy, Denied, Invalid, NotFound, Precondition};
    for (code, kind, requests) in [
        ("InternalError", Busy, 3),
        ("SlowDown", Busy, 3),
        ("NoSuchUpload", NotFound, 1),
        ("InvalidPart", Invalid, 1),
        ("AccessDenied", Denied, 1),
        ("PreconditionFailed", Precondition, 1),
    ] {
        let server = RawServer::start([xml(200, error_of(code))]).await;
        let store = at(server.url()).await;
        let done = store.complete("k", "id", &[part()], None).await;
        let error = done.expect_err("an error");
        assert_eq!(
            (error.kind, error.effect, server.seen().len()),
            (kind, Effect::Possible, requests),
            "{error}"
        );
    }
}

#[tokio::test]
async fn f12_a_request_that_timed_out_at_the_server_is_sent_again() {
    let (put, seen) = put_once(vec![xml(400, error_of("RequestTimeout")), OK]).await;
    assert!(put.is_ok() && seen.len() == 2, "{put:?}");
    let (put, seen) = put_once(vec![xml(400, error_of("RequestTimeout"))]).await;
    let (kind, effect, text) = told(put);
    assert_eq!((kind, effect), (ErrorKind::Network, Effect::None), "{text}");
    assert_eq!(seen.len(), 3);
}

#[tokio::test]
async fn f16_credentials_that_cannot_be_others_are_not_asked_for_again() {
    for code in ["ExpiredToken", "InvalidToken", "TokenRefreshRequired"] {
        let (put, seen) = put_once(vec![xml(400, error_of(code)), OK]).await;
        let (kind, effect, text) = told(put);
        assert_eq!((kind, effect), (ErrorKind::Barred, Effect::None), "{text}");
        assert!(seen.len() == 1 && text.contains("renew"), "{text}");
    }
}

/// A store whose clock is an hour ahead, and that looks at a signature's date as S3 does.
fn an_hour_ahead(request: &Seen) -> Reply {
    const WINDOW: i64 = 15 * 60;
    let theirs = Clock::Real.now().wall_ns / 1_000_000_000 + 3600;
    let compact = |seconds| {
        let text = DateTime::from_secs(seconds).fmt(Format::DateTime).unwrap();
        text.replace(['-', ':'], "")
    };
    let signed = request.header("x-amz-date").unwrap_or_default();
    let is_right = *compact(theirs - WINDOW) <= *signed && *signed <= *compact(theirs + WINDOW);
    let date = DateTime::from_secs(theirs).fmt(Format::HttpDate).unwrap();
    let headers = format!("date: {date}\r\netag: \"e\"\r\n").leak();
    // Which of the two words is said depends on the store.
    let code = if request.head.contains("/signature") {
        "SignatureDoesNotMatch"
    } else {
        "RequestTimeTooSkewed"
    };
    match (is_right, request.head.starts_with("HEAD")) {
        (true, _) => Reply::Answer(200, headers, ""),
        (false, true) => Reply::Answer(403, headers, ""),
        (false, false) => Reply::Answer(403, headers, error_of(code)),
    }
}

#[tokio::test]
async fn f17_the_stores_clock_is_adopted_once_and_kept() {
    for key in ["skewed", "signature"] {
        let server = RawServer::start([Reply::By(an_hour_ahead)]).await;
        let store = at(server.url()).await;
        for requests in [2, 3, 4] {
            let put = store.put(key, body(b"x"), &Meta::default()).await;
            assert!(put.is_ok(), "{put:?}");
            assert_eq!(server.seen().len(), requests, "only the first is repeated");
        }
    }
    // The answer to a HEAD has no words.
    let server = RawServer::start([Reply::By(an_hour_ahead)]).await;
    let store = at(server.url()).await;
    store.check().await.expect("the second time");
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn f18_a_key_that_the_store_does_not_know_bars_everything() {
    for (code, words) in [
        ("SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY"),
        ("InvalidAccessKeyId", "AWS_ACCESS_KEY_ID"),
    ] {
        // The clocks agree: they are not to blame.
        let now = DateTime::from_secs(Clock::Real.now().wall_ns / 1_000_000_000);
        let date = now.fmt(Format::HttpDate).unwrap();
        let headers = format!("date: {date}\r\n").leak();
        let (put, seen) = put_once(vec![Reply::Answer(403, headers, error_of(code)), OK]).await;
        let (kind, effect, text) = told(put);
        assert_eq!((kind, effect), (ErrorKind::Barred, Effect::None), "{text}");
        assert!(seen.len() == 1 && text.contains(words), "{text}");
    }
}

#[tokio::test]
async fn f21_a_bucket_of_another_region_is_asked_there_from_then_on() {
    let elsewhere = Reply::Answer(
        301,
        "x-amz-bucket-region: eu-west-3\r\n",
        "<Error><Code>PermanentRedirect</Code></Error>",
    );
    let server = RawServer::start([elsewhere.clone(), OK]).await;
    let store = at(server.url()).await;
    for _ in 0..2 {
        store
            .put("k", body(b"x"), &Meta::default())
            .await
            .expect("the region is known now");
    }
    let signed = |seen: &Seen| {
        let scope = seen.header("authorization").unwrap_or_default();
        scope.split('/').nth(2).unwrap_or_default().to_owned()
    };
    let regions: Vec<_> = server.seen().iter().map(signed).collect();
    assert_eq!(regions, ["us-east-1", "eu-west-3", "eu-west-3"]);
    assert_eq!(store.region(), "eu-west-3");

    // Sent back and forth: once is enough.
    let server = RawServer::start([elsewhere]).await;
    let store = at(server.url()).await;
    let put = store.put("k", body(b"x"), &Meta::default()).await;
    let (kind, effect, text) = told(put.map(drop));
    assert_eq!((kind, effect), (ErrorKind::Barred, Effect::None), "{text}");
    assert!(
        server.seen().len() == 2 && text.contains("eu-west-3"),
        "{text}"
    );
}

#[tokio::test]
async fn f21_a_request_that_is_sent_on_is_signed_for_where_it_goes() {
    let there = RawServer::start([OK]).await;
    let location = format!("location: {}/other/k?x=1\r\n", there.url()).leak();
    let here = RawServer::start([Reply::Answer(307, location, "")]).await;
    let store = at(here.url()).await;
    store
        .put("k", body(b"the tide"), &Meta::default())
        .await
        .expect("it is followed");
    assert_eq!((here.seen().len(), there.seen().len()), (1, 1));
    let (first, second) = (&here.seen()[0], &there.seen()[0]);
    assert!(
        second.head.starts_with("PUT /other/k?x=1 "),
        "{}",
        second.head
    );
    assert_eq!(second.body, b"the tide");
    assert_eq!(second.header("host"), there.url().strip_prefix("http://"));
    assert_ne!(
        first.header("authorization"),
        second.header("authorization"),
        "signed anew"
    );
    // It was for that once.
    store
        .put("k", body(b"x"), &Meta::default())
        .await
        .expect("and again");
    assert_eq!((here.seen().len(), there.seen().len()), (2, 2));
}

/// The checksum headers of a request.
fn sums(seen: &Seen) -> Vec<&'static str> {
    let names = [
        "x-amz-checksum-crc64nvme",
        "x-amz-checksum-crc32",
        "content-md5",
        "x-amz-trailer",
        "x-amz-sdk-checksum-algorithm",
    ];
    let mut names = names.to_vec();
    names.retain(|name| seen.header(name).is_some());
    names
}

#[tokio::test]
async fn f27_a_store_that_minds_a_checksum_gets_the_next_lesser_one_from_then_on() {
    const CRC64: &[&str] = &["x-amz-checksum-crc64nvme"];
    const CRC32: &[&str] = &["x-amz-checksum-crc32"];
    const MD5: &[&str] = &["content-md5"];
    let unsupported = xml(
        400,
        "<Error><Code>InvalidArgument</Code><Message>Unsupported header 'x-amz-checksum-crc64nvme' received for this API call.</Message></Error>",
    );
    let refusal = xml(501, error_of("NotImplemented"));
    let expected: [(_, &[&[&str]], _); 3] = [
        (
            vec![unsupported, OK],
            &[CRC64, CRC32, CRC32],
            Checksum::Crc32,
        ),
        (
            vec![refusal.clone(), refusal.clone(), OK],
            &[CRC64, CRC32, MD5, MD5],
            Checksum::Md5,
        ),
        (
            vec![refusal.clone(), refusal.clone(), refusal.clone(), OK],
            &[CRC64, CRC32, MD5, &[], &[]],
            Checksum::None,
        ),
    ];
    for (replies, headers, checksum) in expected {
        let server = RawServer::start(replies).await;
        let store = at(server.url()).await;
        for _ in 0..2 {
            store
                .put("k", body(b"tide"), &Meta::default())
                .await
                .expect("a put");
        }
        let seen: Vec<_> = server.seen().iter().map(sums).collect();
        assert_eq!(seen, headers);
        assert_eq!(store.features().checksum, checksum);
        for seen in server.seen() {
            if let Some(crc32) = seen.header("x-amz-checksum-crc32") {
                let sum = aws_smithy_types::base64::encode(Crc32::of(b"tide").0.to_be_bytes());
                assert_eq!(crc32, sum);
            }
        }
    }
    // A wrong checksum is not a refused one.
    let mismatch = "<Error><Code>InvalidRequest</Code><Message>Checksum Type mismatch occurred</Message></Error>";
    let (put, seen) = put_once(vec![xml(400, mismatch), OK]).await;
    assert_eq!((told(put).0, seen.len()), (ErrorKind::Invalid, 1));
}

#[tokio::test]
async fn f27_the_parts_of_an_upload_keep_to_how_it_was_created() {
    let begun = xml(
        200,
        "<InitiateMultipartUploadResult><UploadId>id</UploadId></InitiateMultipartUploadResult>",
    );
    let done = xml(
        200,
        "<CompleteMultipartUploadResult><ETag>\"w-2\"</ETag></CompleteMultipartUploadResult>",
    );
    let refusal = xml(501, error_of("NotImplemented"));
    // The upload begins as CRC32, and is the only one that knows it: a put has been lowered meanwhile.
    let server = RawServer::start([refusal.clone(), begun, OK, refusal, OK, OK, done]).await;
    let store = at(server.url()).await;
    let id = store
        .create_multipart("k", &Meta::default())
        .await
        .expect("the second time");
    let first = store.put_part("k", &id, 1, body(b"the ")).await.unwrap();
    store
        .put("other", body(b"x"), &Meta::default())
        .await
        .expect("with MD5");
    assert_eq!(store.features().checksum, Checksum::Md5);
    let second = store.put_part("k", &id, 2, body(b"tide")).await.unwrap();
    let whole = Some(Crc64::of(b"the tide"));
    store
        .complete("k", &id, &[first, second], whole)
        .await
        .unwrap();

    let seen = server.seen();
    let algorithm = |seen: &Seen| seen.header("x-amz-checksum-algorithm").map(str::to_owned);
    assert_eq!(algorithm(&seen[0]).as_deref(), Some("CRC64NVME"));
    assert_eq!(algorithm(&seen[1]).as_deref(), Some("CRC32"));
    assert_eq!(seen[1].header("x-amz-checksum-type"), Some("FULL_OBJECT"));
    assert_eq!(sums(&seen[2]), ["x-amz-checksum-crc32"]);
    assert_eq!(sums(&seen[3]), ["x-amz-checksum-crc32"], "refused");
    assert_eq!(sums(&seen[4]), ["content-md5"]);
    assert_eq!(sums(&seen[5]), ["x-amz-checksum-crc32"]);
    let base64 = |crc: Crc32| aws_smithy_types::base64::encode(crc.0.to_be_bytes());
    assert_eq!(
        seen[6].header("x-amz-checksum-crc32"),
        Some(&*base64(Crc32::of(b"the tide"))),
        "joined of the parts'"
    );
    assert_eq!(seen[6].header("x-amz-checksum-type"), Some("FULL_OBJECT"));
    let text = String::from_utf8_lossy(&seen[6].body).into_owned();
    assert!(text.contains(&base64(Crc32::of(b"tide"))), "{text}");
    assert!(!text.contains("CRC64NVME"), "{text}");
}

#[tokio::test]
async fn f27_a_store_without_batches_removes_one_by_one() {
    let keys = ["a".to_owned(), "b".to_owned()];
    for refusal in [
        xml(501, error_of("NotImplemented")),
        xml(400, error_of("MalformedXML")),
    ] {
        let server = RawServer::start([refusal, Reply::Answer(204, "", "")]).await;
        let store = at(server.url()).await;
        store.learn(Features::ALL);
        let removed = store.delete_many(&keys).await.expect("answers");
        assert!(removed.iter().all(Result::is_ok), "{removed:?}");
        assert!(!store.features().delete_many, "it is remembered");
        let lines: Vec<_> = server
            .seen()
            .iter()
            .map(|seen| seen.head.lines().next().unwrap().to_owned())
            .collect();
        assert!(lines[0].starts_with("POST /bucket/?delete"), "{lines:?}");
        assert!(lines[1].starts_with("DELETE /bucket/a"), "{lines:?}");
        assert!(lines[2].starts_with("DELETE /bucket/b"), "{lines:?}");
    }
    // What is wrong with everything is no matter of batches.
    let server = RawServer::start([xml(400, error_of("ExpiredToken"))]).await;
    let store = at(server.url()).await;
    store.learn(Features::ALL);
    let error = store.delete_many(&keys).await.expect_err("barred");
    assert_eq!((error.kind, server.seen().len()), (ErrorKind::Barred, 1));
    assert!(store.features().delete_many);
}

#[tokio::test]
async fn f28_what_the_store_says_that_it_has_must_be_what_was_sent() {
    let md5 = "etag: \"0123456789abcdef0123456789abcdef\"\r\n";
    let kms =
        "etag: \"0123456789abcdef0123456789abcdef\"\r\nx-amz-server-side-encryption: aws:kms\r\n";
    let crc64 = "etag: \"e\"\r\nx-amz-checksum-crc64nvme: AAAAAAAAAAA=\r\n";
    let crc32 = "etag: \"e\"\r\nx-amz-checksum-crc32: AAAAAA==\r\n";
    let of_parts = "etag: \"e\"\r\nx-amz-checksum-crc32: AAAAAA==-2\r\n";
    for (checksum, headers, is_wrong) in [
        (Checksum::Crc64, crc64, true),
        // Of a kind that we did not send, and still not what was sent.
        (Checksum::Crc64, crc32, true),
        (Checksum::Md5, crc64, true),
        (Checksum::Crc32, crc32, true),
        (Checksum::Crc64, of_parts, false),
        // Only where MD5 is what checks, and the ETag can be one.
        (Checksum::Md5, md5, true),
        (Checksum::Md5, kms, false),
        (Checksum::Crc64, md5, false),
    ] {
        let server = RawServer::start([Reply::Answer(200, headers, "")]).await;
        let store = at(server.url()).await;
        store.learn(Features {
            checksum,
            ..Features::ALL
        });
        let put = store.put("k", body(b"x"), &Meta::default()).await;
        assert_eq!(put.is_err(), is_wrong, "{checksum:?} {headers}: {put:?}");
        if let Err(error) = put {
            let told = (error.kind, error.effect, server.seen().len());
            assert_eq!(told, (ErrorKind::Corrupt, Effect::Possible, 1), "{error}");
        }
    }
}
