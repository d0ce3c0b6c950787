//! What goes over the wire, byte by byte, and what is read from it.

use tidewatch::base::digest::{Crc32, Crc32c, Crc64, Sha256};
use tidewatch::store::s3::{Addressing, S3Store, Settings, SetupError};
use tidewatch::store::{Effect, ErrorKind, Meta, Store, Sum, Which};

use crate::store::faults::{OK, at, body, part, xml};
use crate::store::suite::Pieces;
use crate::support::raw_server::{RawServer, Reply};

fn base64(crc64: Crc64) -> String {
    use ::base64::Engine as _;
    ::base64::engine::general_purpose::STANDARD.encode(crc64.0.to_be_bytes())
}

#[tokio::test]
async fn a_put_is_one_plain_body_with_its_checksum_and_its_hash() {
    let server = RawServer::start([OK]).await;
    let store = at(server.url()).await;
    let meta = Meta {
        user: vec![("mtime".into(), "1.5".to_owned())],
        content_type: Some("text/plain".to_owned()),
        ..Meta::default()
    };
    let stored = store
        .put("a b/ü", body(b"the tide"), &meta)
        .await
        .expect("a put");
    assert_eq!(stored.etag, "abc");
    // A part has no hash of its own: the signer takes it.
    let mut unhashed = body(b"part");
    unhashed.sha256 = None;
    store
        .put_part("k", "id", 7, unhashed)
        .await
        .expect("a part");

    let seen = server.seen();
    let put = &seen[0];
    assert!(
        put.head.starts_with("PUT /bucket/a%20b/%C3%BC"),
        "{}",
        put.head
    );
    assert_eq!(put.body, b"the tide");
    assert_eq!(put.header("content-length"), Some("8"));
    assert_eq!(
        put.header("x-amz-content-sha256"),
        Some(&*Sha256::of(b"the tide").to_hex())
    );
    let crc64 = base64(Crc64::of(b"the tide"));
    assert_eq!(put.header("x-amz-checksum-crc64nvme"), Some(&*crc64));
    assert_eq!(put.header("x-amz-meta-mtime"), Some("1.5"));
    assert_eq!(put.header("content-type"), Some("text/plain"));
    let signed = put.header("authorization").expect("a signature");
    for name in [
        "x-amz-checksum-crc64nvme",
        "x-amz-content-sha256",
        "x-amz-meta-mtime",
    ] {
        assert!(signed.contains(name), "{name} is not signed: {signed}");
    }
    let part = &seen[1];
    assert_eq!(
        part.header("x-amz-content-sha256"),
        Some(&*Sha256::of(b"part").to_hex())
    );
    for request in &seen {
        for name in [
            "transfer-encoding",
            "content-encoding",
            "x-amz-trailer",
            "x-amz-decoded-content-length",
            "expect",
            "x-amz-sdk-checksum-algorithm",
        ] {
            assert_eq!(request.header(name), None, "{name}");
        }
    }
}

#[tokio::test]
async fn an_empty_put_goes_like_any_other() {
    let server = RawServer::start([OK]).await;
    let store = at(server.url()).await;
    store
        .put("k", body(b""), &Meta::default())
        .await
        .expect("a put");
    assert_eq!(server.seen()[0].header("content-length"), Some("0"));
}

#[tokio::test]
async fn a_complete_says_the_sum_of_the_whole_and_repeats_after_a_lost_answer() {
    let done =
        "<CompleteMultipartUploadResult><ETag>\"w-1\"</ETag></CompleteMultipartUploadResult>";
    let server = RawServer::start([Reply::Close, xml(200, done)]).await;
    let store = at(server.url()).await;
    let whole = Crc64::of(b"x");
    let stored = store
        .complete("k", "id", &[part()], Some(whole))
        .await
        .expect("a whole");
    assert_eq!(stored.etag, "w-1");
    let seen = &server.seen()[1];
    assert_eq!(
        seen.header("x-amz-checksum-crc64nvme"),
        Some(&*base64(whole))
    );
    assert_eq!(seen.header("x-amz-checksum-type"), Some("FULL_OBJECT"));
    let sent = String::from_utf8_lossy(&seen.body).into_owned();
    assert!(
        sent.contains(&base64(whole)) && sent.contains("<PartNumber>1</PartNumber>"),
        "{sent}"
    );

    // The first one had worked: whoever asks learns that it may have.
    let gone = xml(404, "<Error><Code>NoSuchUpload</Code></Error>");
    let server = RawServer::start([Reply::Close, gone]).await;
    let store = at(server.url()).await;
    let error = store
        .complete("k", "id", &[part()], None)
        .await
        .expect_err("it is gone");
    assert_eq!(
        (error.kind, error.effect),
        (ErrorKind::NotFound, Effect::Possible)
    );
}

#[tokio::test]
async fn a_range_names_the_size_of_the_whole() {
    let range = Reply::Answer(206, "etag: \"e\"\r\ncontent-range: bytes 2-4/10\r\n", "cde");
    let whole = Reply::Answer(200, "etag: \"e\"\r\n", "abcdefghij");
    let server = RawServer::start([range, whole]).await;
    let store = at(server.url()).await;
    let (object, bytes) = store.get("k", Some(2..5)).await.expect("a range");
    assert_eq!((object.size, &*bytes), (10, &b"cde"[..]));
    assert_eq!(server.seen()[0].header("range"), Some("bytes=2-4"));
    assert!(
        store.get("k", Some(2..5)).await.is_err(),
        "the range was ignored"
    );
}

#[tokio::test]
async fn a_look_asks_for_checksums_and_takes_those_of_the_whole_only() {
    // The sums of "123456789".
    let (crc64, crc32, crc32c) = (
        Crc64::of(b"123456789"),
        Crc32::of(b"123456789"),
        Crc32c::of(b"123456789"),
    );
    let look = |headers| Reply::Answer(200, headers, "");
    let table = [
        (look("etag: \"e\"\r\n"), None, None),
        (
            look("etag: \"e-2\"\r\nx-amz-checksum-crc64nvme: rosUhgp5mIg=\r\n"),
            Some(crc64),
            None,
        ),
        (
            look("etag: \"e\"\r\nx-amz-checksum-crc32: y/Q5Jg==\r\n"),
            None,
            Some(Sum::Crc32(crc32)),
        ),
        (
            look(
                "etag: \"e-2\"\r\nx-amz-checksum-crc32c: 4waSgw==\r\nx-amz-checksum-type: FULL_OBJECT\r\n",
            ),
            None,
            Some(Sum::Crc32c(crc32c)),
        ),
        // Sums of sums: one says so, one shows it, one may be anything.
        (
            look(
                "etag: \"e-2\"\r\nx-amz-checksum-crc32: y/Q5Jg==\r\nx-amz-checksum-type: COMPOSITE\r\n",
            ),
            None,
            None,
        ),
        (
            look("etag: \"e-2\"\r\nx-amz-checksum-crc64nvme: rosUhgp5mIg=-2\r\n"),
            None,
            None,
        ),
        (
            look("etag: \"e-2\"\r\nx-amz-checksum-crc32: y/Q5Jg==\r\n"),
            None,
            None,
        ),
    ];
    let server = RawServer::start(table.clone().map(|(reply, ..)| reply)).await;
    let store = at(server.url()).await;
    for (at, (_, crc64, sum)) in table.iter().enumerate() {
        let object = store.head_of("k", &Which::Current).await.expect("a look");
        assert_eq!((&object.crc64, &object.sum), (crc64, sum), "row {at}");
    }
    let asked = &server.seen()[0];
    assert_eq!(asked.header("x-amz-checksum-mode"), Some("ENABLED"));
}

#[tokio::test]
async fn a_copy_names_its_source_encoded_and_its_condition() {
    let done = "<CopyObjectResult><ETag>\"c\"</ETag></CopyObjectResult>";
    let server = RawServer::start([xml(200, done)]).await;
    let store = at(server.url()).await;
    let stored = store
        .copy("a b+ü/c", "e", "to", &Meta::default())
        .await
        .expect("a copy");
    assert_eq!(stored.etag, "c");
    let seen = &server.seen()[0];
    assert_eq!(
        seen.header("x-amz-copy-source"),
        Some("/bucket/a%20b%2B%C3%BC/c")
    );
    assert_eq!(seen.header("x-amz-copy-source-if-match"), Some("\"e\""));
    assert_eq!(seen.header("x-amz-metadata-directive"), Some("REPLACE"));
}

#[tokio::test]
async fn one_content_is_read_with_the_checksum_of_the_whole() {
    let bytes = "abcdefghij";
    let crc64 = Crc64::of(bytes.as_bytes());
    let sum = base64(crc64);
    let answer = |more: &str| {
        let head = format!("etag: \"e\"\r\nx-amz-checksum-crc64nvme: {sum}\r\n{more}");
        Reply::Answer(200, head.leak(), bytes)
    };
    let other = Reply::Answer(200, "etag: \"f\"\r\n", bytes);
    let keyed = "x-amz-checksum-type: COMPOSITE\r\nx-amz-server-side-encryption: aws:kms\r\n";
    let range = "etag: \"e\"\r\ncontent-range: bytes 2-4/10\r\n";
    let replies = [
        answer("x-amz-checksum-type: FULL_OBJECT\r\n"),
        answer(keyed),
        Reply::Answer(206, range, "cde"),
        other,
    ];
    let server = RawServer::start(replies).await;
    let store = at(server.url()).await;
    let (is, version) = (Which::Is("e".to_owned()), Which::Version("v 1".to_owned()));
    let (object, read) = store.get_of("k", &is, None).await.expect("a get");
    assert_eq!((&*read, object.crc64), (bytes.as_bytes(), Some(crc64)));
    assert!(!object.is_keyed);
    // A checksum of the parts' checksums says nothing of the whole, nor does the ETag of what is encrypted with a key.
    let (object, _) = store.get_of("k", &version, None).await.expect("a get");
    assert_eq!((object.crc64, object.is_keyed), (None, true));
    let (_, part) = store.get_of("k", &is, Some(2..5)).await.expect("a range");
    assert_eq!(&*part, b"cde");
    // A store that does not look at the condition answers with another content.
    let error = store.get_of("k", &is, None).await.expect_err("another");
    assert_eq!(error.kind, ErrorKind::Precondition, "{error}");

    let seen = server.seen();
    assert_eq!(seen[0].header("if-match"), Some("\"e\""));
    assert_eq!(seen[0].header("x-amz-checksum-mode"), Some("ENABLED"));
    assert!(seen[1].head.contains("versionId=v%201"), "{}", seen[1].head);
    assert_eq!(seen[1].header("if-match"), None);
    assert_eq!(seen[2].header("range"), Some("bytes=2-4"));
    assert_eq!(seen[2].header("x-amz-checksum-mode"), None);
}

#[tokio::test]
async fn a_listing_is_decoded_and_goes_on() {
    let first = "<ListBucketResult><EncodingType>url</EncodingType><IsTruncated>true</IsTruncated><NextContinuationToken>t+/=</NextContinuationToken>\
        <Contents><Key>a+b%2Bc%0A%C3%BC</Key><Size>3</Size><ETag>&quot;e&quot;</ETag></Contents></ListBucketResult>";
    let last = "<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>raw+%2B</Key><Size>0</Size><ETag>\"f\"</ETag></Contents></ListBucketResult>";
    let astray = "<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>";
    let server = RawServer::start([xml(200, first), xml(200, last), xml(200, astray)]).await;
    let store = at(server.url()).await;
    let page = store.list("p ", None).await.expect("a page");
    assert_eq!(page.objects[0].key, "a b+c\nü");
    assert_eq!((page.objects[0].size, &*page.objects[0].etag), (3, "e"));
    let page = store.list("p ", page.next).await.expect("a page");
    assert_eq!((&*page.objects[0].key, page.next), ("raw+%2B", None));
    assert!(store.list("", None).await.is_err(), "more, but not where");
    let seen = server.seen();
    assert!(seen[0].head.contains("encoding-type=url") && seen[0].head.contains("prefix=p%20"));
    assert!(
        seen[1].head.contains("continuation-token=t%2B%2F%3D"),
        "{}",
        seen[1].head
    );
}

#[tokio::test]
async fn settings_that_cannot_work_are_told_before_any_request() {
    let with = |url: &str| Settings {
        endpoint_url: Some(url.to_owned()),
        credentials: Some(("a".to_owned(), "s".to_owned())),
        ..Settings::default()
    };
    for url in ["localhost:9000", "ftp://x", "http://", "http://a b"] {
        let error = S3Store::new(&with(url), "b").await.expect_err("no URL");
        assert!(matches!(error, SetupError::Endpoint(_)), "{url}: {error}");
    }
    let settings = Settings {
        ca_bundle: Some("/nowhere/ca.pem".into()),
        ..with("https://127.0.0.1:1")
    };
    let error = S3Store::new(&settings, "b").await.expect_err("no file");
    assert!(
        error.to_string().contains("ca_bundle `/nowhere/ca.pem`"),
        "{error}"
    );

    let store = S3Store::new(&with("http://127.0.0.1:1/"), "b")
        .await
        .expect("a client");
    assert_eq!(
        (store.endpoint_url(), &*store.region()),
        ("http://127.0.0.1:1", "us-east-1")
    );
}

#[tokio::test]
async fn the_bucket_is_in_the_path_unless_asked_otherwise() {
    let server = RawServer::start([OK]).await;
    let settings = Settings {
        endpoint_url: Some(server.url().replace("127.0.0.1", "localhost")),
        credentials: Some(("a".to_owned(), "s".to_owned())),
        path_style: Addressing::Host,
        ..Settings::default()
    };
    let store = S3Store::new(&settings, "bucket").await.expect("a client");
    // `bucket.localhost` need not resolve here; where it does, the host says the bucket.
    if store.put("k", body(b"x"), &Meta::default()).await.is_ok() {
        let seen = &server.seen()[0];
        assert!(
            seen.header("host")
                .is_some_and(|host| host.starts_with("bucket.localhost"))
        );
        assert!(seen.head.starts_with("PUT /k"), "{}", seen.head);
    }
}

#[tokio::test]
async fn a_range_that_breaks_off_is_asked_for_from_there_on() {
    let server = RawServer::start([
        Reply::Part("etag: \"e\"\r\ncontent-range: bytes 2-8/10\r\n", "the", 4),
        Reply::Part("etag: \"e\"\r\ncontent-range: bytes 5-8/10\r\n", "tide", 0),
    ])
    .await;
    let store = at(server.url()).await;
    let (which, pieces) = (Which::Is("e".to_owned()), Pieces::default());
    let object = store.read_into("k", &which, 2..9, &pieces).await;
    assert_eq!(object.expect("a range").size, 10);
    assert_eq!(pieces.joined_from(2), b"thetide");
    let seen = server.seen();
    let ranges: Vec<_> = seen.iter().map(|seen| seen.header("range")).collect();
    assert_eq!(ranges, [Some("bytes=2-8"), Some("bytes=5-8")]);
    assert!(
        seen.iter()
            .all(|seen| seen.header("if-match") == Some("\"e\""))
    );
}

#[tokio::test]
async fn a_range_of_another_place_or_of_two_contents_is_not_taken() {
    for second in [
        Reply::Part("etag: \"e\"\r\ncontent-range: bytes 0-3/10\r\n", "tide", 0),
        Reply::Part("etag: \"f\"\r\ncontent-range: bytes 5-8/10\r\n", "tide", 0),
        Reply::Part("etag: \"e\"\r\ncontent-range: bytes 5-6/10\r\n", "ti", 0),
    ] {
        let first = Reply::Part("etag: \"e\"\r\ncontent-range: bytes 2-8/10\r\n", "the", 4);
        let server = RawServer::start([first, second.clone()]).await;
        let store = at(server.url()).await;
        let pieces = Pieces::default();
        let read = store.read_into("k", &Which::Current, 2..9, &pieces).await;
        read.expect_err("it is no whole range");
        assert_eq!(pieces.joined_from(2), b"the", "{second:?}");
    }
}
