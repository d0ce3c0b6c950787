//! What users set for each object, as it goes over the wire with every request that makes, reads or copies one.
#![expect(
    clippy::disallowed_methods,
    reason = "the files written here are the user's, not state"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use tidewatch::base::clock::Clock;
use tidewatch::base::terms::{Encryption, Lock, LockMode, Terms};
use tidewatch::store::features::Features;
use tidewatch::store::s3::{S3Store, Settings, SetupError};
use tidewatch::store::{Meta, Store, When};

use crate::store::faults::{OK, body, part, xml};
use crate::support::raw_server::{RawServer, Reply, Seen};

fn answer(request: &Seen) -> Reply {
    let line = request.head.lines().next().unwrap_or_default();
    let is_copy = request.header("x-amz-copy-source").is_some();
    if line.contains("uploads") {
        let text = "<InitiateMultipartUploadResult><UploadId>id</UploadId></InitiateMultipartUploadResult>";
        xml(200, text)
    } else if line.starts_with("POST") && line.contains("delete") {
        xml(
            200,
            "<DeleteResult><Deleted><Key>k</Key></Deleted></DeleteResult>",
        )
    } else if line.starts_with("POST") {
        let text =
            "<CompleteMultipartUploadResult><ETag>\"w\"</ETag></CompleteMultipartUploadResult>";
        xml(200, text)
    } else if is_copy && line.contains("partNumber") {
        xml(200, "<CopyPartResult><ETag>\"c\"</ETag></CopyPartResult>")
    } else if is_copy {
        xml(
            200,
            "<CopyObjectResult><ETag>\"c\"</ETag></CopyObjectResult>",
        )
    } else if line.contains("list-type") {
        xml(
            200,
            "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>",
        )
    } else {
        OK
    }
}

fn settings(server: &RawServer, terms: Terms) -> Settings {
    Settings {
        endpoint_url: Some(server.url().to_owned()),
        credentials: Some(("access".to_owned(), "secret".to_owned())),
        terms,
        ..Settings::default()
    }
}

/// Sends one request of each kind: put, own put, create, part, copied part, complete, copy, head, get, delete, batch, list.
async fn everything(settings: &Settings) {
    let store = S3Store::new(settings, "bucket").await.expect("a client");
    let meta = Meta::default();
    let own = Meta {
        is_own: true,
        ..Meta::default()
    };
    store.put("k", body(b"x"), &meta).await.expect("a put");
    store.put("own", body(b"x"), &own).await.expect("a put");
    let id = store.create_multipart("k", &meta).await.expect("an id");
    store
        .put_part("k", &id, 1, body(b"x"))
        .await
        .expect("a part");
    store
        .copy_part("from", "e", 0..1, "k", &id, 2)
        .await
        .expect("a part");
    store
        .complete("k", &id, &[part()], None)
        .await
        .expect("a whole");
    store.copy("from", "e", "k", &meta).await.expect("a copy");
    store.head("k").await.expect("an object");
    store.get("k", None).await.expect("an object");
    store.delete("k").await.expect("a delete");
    store.delete_many(&["k".to_owned()]).await.expect("a batch");
    store.list("", None).await.expect("a page");
    store.check().await.expect("a bucket");
}

const PUT: usize = 0;
const OWN: usize = 1;
const CREATE: usize = 2;
const PART: usize = 3;
const COPIED_PART: usize = 4;
const COMPLETE: usize = 5;
const COPY: usize = 6;
const HEAD: usize = 7;
const GET: usize = 8;
const BATCH: usize = 10;

/// Returns which of the requests have this header, all with the same value.
fn with(seen: &[Seen], name: &str, value: &str) -> Vec<usize> {
    let has = |(_, seen): &(usize, &Seen)| seen.header(name).is_some();
    let found: Vec<_> = seen.iter().enumerate().filter(has).collect();
    for (_, seen) in &found {
        assert_eq!(seen.header(name), Some(value), "{}", seen.head);
    }
    found.into_iter().map(|(number, _)| number).collect()
}

#[tokio::test]
async fn what_is_set_goes_with_every_request_that_makes_an_object() {
    let server = RawServer::start([Reply::By(answer)]).await;
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    let mut settings = settings(
        &server,
        Terms {
            storage_class: Some("STANDARD_IA".to_owned()),
            encryption: Encryption::Kms(Some("alias/tide".to_owned())),
            acl: Some("bucket-owner-full-control".to_owned()),
            tags: vec![pair("team", "a b&c"), pair("ü", "")],
            lock: Some(Lock {
                mode: LockMode::Governance,
                keep: Duration::from_secs(24 * 3600),
            }),
        },
    );
    settings.requester_pays = true;
    everything(&settings).await;

    let seen = server.seen();
    let made = [PUT, CREATE, COPY];
    assert_eq!(with(&seen, "x-amz-storage-class", "STANDARD_IA"), made);
    assert_eq!(with(&seen, "x-amz-tagging", "team=a%20b%26c&%C3%BC="), made);
    assert_eq!(with(&seen, "x-amz-tagging-directive", "REPLACE"), [COPY]);
    assert_eq!(with(&seen, "x-amz-object-lock-mode", "GOVERNANCE"), made);
    let made_or_own = [PUT, OWN, CREATE, COPY];
    assert_eq!(
        with(&seen, "x-amz-acl", "bucket-owner-full-control"),
        made_or_own
    );
    assert_eq!(
        with(&seen, "x-amz-server-side-encryption", "aws:kms"),
        made_or_own
    );
    assert_eq!(
        with(
            &seen,
            "x-amz-server-side-encryption-aws-kms-key-id",
            "alias/tide"
        ),
        made_or_own
    );
    let payers = with(&seen, "x-amz-request-payer", "requester");
    assert_eq!(payers.len(), seen.len(), "{payers:?}");
    let until = seen[PUT]
        .header("x-amz-object-lock-retain-until-date")
        .and_then(|until| humantime::parse_rfc3339(until).ok())
        .expect("a time");
    let now = std::time::UNIX_EPOCH + Duration::from_nanos(Clock::Real.now().wall_ns as u64);
    let left = until.duration_since(now).expect("in the future");
    assert!(
        (23 * 3600..=24 * 3600).contains(&left.as_secs()),
        "{left:?}"
    );
    // A lock bucket wants a checksum with each.
    assert!(seen[PUT].header("x-amz-checksum-crc64nvme").is_some());
    assert!(
        seen[BATCH].header("content-md5").is_some()
            && seen[BATCH].header("x-amz-checksum-crc32").is_none(),
        "{}",
        seen[BATCH].head
    );
}

#[tokio::test]
async fn an_access_list_for_others_is_not_set_on_the_agents_own_objects() {
    let server = RawServer::start([Reply::By(answer)]).await;
    let terms = Terms {
        acl: Some("public-read".to_owned()),
        ..Terms::default()
    };
    everything(&settings(&server, terms)).await;
    let seen = server.seen();
    assert_eq!(with(&seen, "x-amz-acl", "public-read"), [PUT, CREATE, COPY]);
}

#[tokio::test]
async fn what_is_not_set_is_not_said() {
    let server = RawServer::start([Reply::By(answer)]).await;
    everything(&settings(&server, Terms::default())).await;
    for seen in server.seen() {
        for word in [
            "storage-class",
            "server-side-encryption",
            "x-amz-acl",
            "tagging",
            "object-lock",
            "request-payer",
        ] {
            assert!(!seen.head.contains(word), "{word}: {}", seen.head);
        }
    }
}

#[tokio::test]
async fn a_key_of_ones_own_goes_wherever_the_object_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key");
    let raw = [7; 32];
    let base64 = |bytes: &[u8]| aws_smithy_types::base64::encode(bytes);
    let md5: [u8; 16] = {
        use md5::Digest as _;
        md5::Md5::digest(raw).into()
    };
    for text in [raw.to_vec(), format!("{}\n", base64(&raw)).into_bytes()] {
        fs::write(&file, &text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let server = RawServer::start([Reply::By(answer)]).await;
        let terms = Terms {
            encryption: Encryption::Customer(file.clone()),
            ..Terms::default()
        };
        everything(&settings(&server, terms)).await;
        let seen = server.seen();
        let name = |what: &str| format!("x-amz-server-side-encryption-customer-{what}");
        let touched = [
            PUT,
            OWN,
            CREATE,
            PART,
            COPIED_PART,
            COMPLETE,
            COPY,
            HEAD,
            GET,
        ];
        assert_eq!(with(&seen, &name("algorithm"), "AES256"), touched);
        assert_eq!(with(&seen, &name("key"), &base64(&raw)), touched);
        assert_eq!(with(&seen, &name("key-md5"), &base64(&md5)), touched);
        let source = "x-amz-copy-source-server-side-encryption-customer-key";
        assert_eq!(with(&seen, source, &base64(&raw)), [COPIED_PART, COPY]);
    }
}

#[tokio::test]
async fn a_key_that_is_none_or_not_safe_is_refused_before_any_request() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key");
    let server = RawServer::start([OK]).await;
    let mut settings = settings(
        &server,
        Terms {
            encryption: Encryption::Customer(file.clone()),
            ..Terms::default()
        },
    );
    let refused = async |settings: &Settings| {
        let error = S3Store::new(settings, "bucket").await.expect_err("refused");
        assert!(matches!(error, SetupError::CustomerKey { .. }), "{error}");
        assert!(!format!("{settings:?}").contains("secret"));
        error.to_string()
    };
    assert!(refused(&settings).await.contains("No such file"));
    fs::write(&file, [1; 31]).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(refused(&settings).await.contains("chmod 600"));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(refused(&settings).await.contains("32 bytes"));
    fs::write(&file, [1; 32]).unwrap();
    S3Store::new(&settings, "bucket")
        .await
        .expect("on loopback");
    settings.endpoint_url = Some("http://minio.example".to_owned());
    assert!(refused(&settings).await.contains("in the clear"));
    settings.endpoint_url = Some("https://minio.example".to_owned());
    S3Store::new(&settings, "bucket").await.expect("over TLS");
    assert_eq!(server.seen().len(), 0);
}

#[tokio::test]
async fn what_rests_in_an_archive_is_no_source_of_copies() {
    let server = RawServer::start([OK]).await;
    for (class, copies) in [("GLACIER", false), ("GLACIER_IR", true)] {
        let terms = Terms {
            storage_class: Some(class.to_owned()),
            ..Terms::default()
        };
        let store = S3Store::new(&settings(&server, terms), "bucket")
            .await
            .expect("a client");
        store.learn(Features::ALL);
        let features = store.features();
        assert_eq!((features.copy, features.part_copy), (copies, copies));
        assert!(features.delete_many, "the rest is as it was found");
    }
}

#[tokio::test]
async fn what_only_aws_has_is_not_asked_of_another_store() {
    let server = RawServer::start([OK]).await;
    for name in ["dualstack", "accelerate", "fips"] {
        let settings = Settings {
            dualstack: name == "dualstack",
            accelerate: name == "accelerate",
            fips: name == "fips",
            ..settings(&server, Terms::default())
        };
        let error = S3Store::new(&settings, "b").await.expect_err("refused");
        assert!(error.to_string().contains(name), "{error}");
    }
}

/// Returns what a request says in its headers but for what is its own: where to, when, by whom, how often.
fn said(seen: &Seen) -> Vec<String> {
    const OF_EACH: [&str; 7] = [
        "amz-sdk-invocation-id",
        "amz-sdk-request",
        "authorization",
        "host",
        "user-agent",
        "x-amz-date",
        "x-amz-user-agent",
    ];
    let lines = seen.head.lines().skip(1).filter(|line| !line.is_empty());
    let is_own = |line: &&str| {
        let name = line.split_once(':').map_or(*line, |(name, _)| name);
        !OF_EACH.contains(&name)
    };
    let mut lines: Vec<String> = lines.filter(is_own).map(str::to_owned).collect();
    lines.sort();
    lines
}

#[tokio::test]
async fn a_body_that_goes_the_short_way_says_what_it_says_by_the_sdk() {
    let there = RawServer::start([OK]).await;
    let location = format!("location: {}/bucket/k\r\n", there.url()).leak();
    // What is sent on goes by the SDK.
    let here = RawServer::start([Reply::Answer(307, location, "")]).await;
    let all = Terms {
        storage_class: Some("STANDARD_IA".to_owned()),
        encryption: Encryption::Kms(Some("arn:aws:kms:eu-central-1:1:key/a".to_owned())),
        acl: Some("bucket-owner-full-control".to_owned()),
        tags: vec![("team".to_owned(), "a b&c".to_owned())],
        lock: Some(Lock {
            mode: LockMode::Governance,
            keep: Duration::from_secs(86_400),
        }),
    };
    let meta = Meta {
        user: vec![
            ("mtime".into(), "1764000000.5".to_owned()),
            ("sha256".into(), "ab".repeat(32)),
        ],
        content_type: Some("text/plain; charset=utf-8".to_owned()),
        cache_control: Some("no-store".to_owned()),
        is_own: false,
    };
    for (terms, meta) in [(Terms::default(), Meta::default()), (all, meta)] {
        let mut settings = settings(&here, terms);
        settings.requester_pays = meta.cache_control.is_some();
        let store = S3Store::new(&settings, "bucket").await.expect("a client");
        for when in [When::Always, When::Absent, When::Is("e".to_owned())] {
            let put = store.put_if("k", body(b"the tide"), &meta, &when).await;
            put.expect("it is followed");
        }
        store
            .put("k", body(b""), &meta)
            .await
            .expect("it is followed");
        let part = store.put_part("k", "an id/+", 3, body(b"a part")).await;
        part.expect("it is followed");
    }
    let (short, long) = (here.seen(), there.seen());
    assert_eq!((short.len(), long.len()), (10, 10));
    for (short, long) in short.iter().zip(&long) {
        assert!(
            short
                .header("user-agent")
                .expect("one")
                .starts_with("tidewatch/")
        );
        assert!(
            long.header("user-agent")
                .expect("one")
                .starts_with("aws-sdk-rust/")
        );
        // The time of a lock is of its second.
        let masked = |lines: Vec<String>| {
            let lines = lines.into_iter();
            lines
                .map(|line| {
                    line.split_once("retain-until-date:")
                        .map_or(line.clone(), |(name, _)| name.to_owned())
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(masked(said(short)), masked(said(long)), "{}", long.head);
        assert_eq!(short.body, long.body);
    }
    assert!(
        short[4]
            .head
            .starts_with("PUT /bucket/k?partNumber=3&uploadId=an%20id%2F%2B ")
    );
}
