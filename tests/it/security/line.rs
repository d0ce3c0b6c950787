//! S11 to S13 and S15: what comes over the line, and from whom.

use std::time::Duration;

use tidewatch::store::s3::{S3Store, Settings};
use tidewatch::store::{ErrorKind, Meta, Store};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;

use crate::faults::tls::Tls;
use crate::process::{World, ended, eventually, send};
use crate::store::faults::{OK, at, body};
use crate::support::endpoint::Fault;
use crate::support::raw_server::{RawServer, Reply};
use crate::watching::table::row;

async fn over_tls(tls: &Tls, ca: Option<std::path::PathBuf>) -> S3Store {
    let settings = Settings {
        endpoint_url: Some(tls.url()),
        credentials: Some(("access".to_owned(), "secret".to_owned())),
        ca_bundle: ca,
        ..Settings::default()
    };
    S3Store::new(&settings, "bucket").await.expect("a client")
}

#[tokio::test]
async fn s11_a_certificate_of_another_issuer_name_or_time_is_not_talked_to() {
    let _row = row!();
    let server = RawServer::start([OK]).await;
    for (what, tls, ca) in [
        ("issuer", Tls::before(server.address()).await, None),
        (
            "name",
            Tls::misnamed(server.address()).await,
            Some(Tls::ca()),
        ),
        (
            "time",
            Tls::expired(server.address()).await,
            Some(Tls::ca_of_expired()),
        ),
    ] {
        let store = over_tls(&tls, ca).await;
        let put = store.put("k", body(b"x"), &Meta::default()).await;
        let error = put.expect_err(what);
        assert_eq!(error.kind, ErrorKind::Barred, "{what}: {error}");
        assert!(error.to_string().contains("not trusted"), "{what}: {error}");
    }
    assert_eq!(server.seen().len(), 0, "nothing was said to any of them");
    let good = Tls::before(server.address()).await;
    let store = over_tls(&good, Some(Tls::ca())).await;
    let put = store.put("k", body(b"x"), &Meta::default()).await;
    put.expect("the right one");
}

#[tokio::test]
async fn s11_nothing_older_than_tls_1_2_is_offered() {
    const SUPPORTED_VERSIONS: [u8; 2] = [0x00, 0x2b];
    let _row = row!();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let settings = Settings {
        endpoint_url: Some(format!("https://{}", listener.local_addr().unwrap())),
        credentials: Some(("access".to_owned(), "secret".to_owned())),
        ca_bundle: Some(Tls::ca()),
        ..Settings::default()
    };
    let store = S3Store::new(&settings, "bucket").await.unwrap();
    let hello = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = [0; 5];
        stream.read_exact(&mut head).await.unwrap();
        let mut hello = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
        stream.read_exact(&mut hello).await.unwrap();
        hello
    };
    let meta = Meta::default();
    let hello = tokio::select! {
        hello = hello => hello,
        put = store.put("k", body(b"x"), &meta) => panic!("nobody has answered: {put:?}"),
    };
    // Extension, its length, the length of the list, two bytes each (RFC 8446, 4.2.1).
    let versions: Vec<u16> = hello
        .windows(5)
        .enumerate()
        .filter(|(_, part)| part[..2] == SUPPORTED_VERSIONS)
        .filter(|(_, part)| part[2] == 0 && part[3] == part[4] + 1 && part[4] % 2 == 0)
        .map(|(at, part)| &hello[at + 5..at + 5 + usize::from(part[4])])
        .flat_map(|list| {
            list.chunks(2)
                .map(|two| u16::from_be_bytes([two[0], two[1]]))
        })
        .collect();
    assert!(!versions.is_empty(), "no versions in {hello:02x?}");
    assert!(
        versions
            .iter()
            .all(|version| matches!(version, 0x0303 | 0x0304)),
        "{versions:04x?}"
    );
}

#[tokio::test]
async fn s11_a_line_that_others_can_read_is_warned_of_and_shown_in_the_status() {
    let _row = row!();
    let world = World::new().await;
    world.write("a", "a");
    world.sync_level().await;
    // Nobody has this name: what is known of the line needs no answer.
    let mut command = world.bare(["sync"]);
    command
        .arg(world.tree(""))
        .args(["s3://tide/p", "--endpoint-url", "http://tide.invalid:9"])
        .args(["--timeout", "1s", "--state-dir"])
        .arg(world.state());
    let ended_ = ended(&mut command).await;
    assert_eq!(ended_.code, Some(5), "{}", ended_.err);
    assert!(
        ended_
            .err
            .contains("sent unencrypted to http://tide.invalid:9"),
        "{}",
        ended_.err
    );
    let status = async |more: &[&str]| {
        let mut command = world.bare(["status", "--state-dir"]);
        ended(command.arg(world.state()).args(more)).await.out
    };
    let text = status(&[]).await;
    let shown = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        shown.contains("NOT ENCRYPTED on the way to http://tide.invalid:9"),
        "{text}"
    );
    // The one on this machine is not meant.
    assert_eq!(text.matches("NOT ENCRYPTED").count(), 1, "{text}");
    assert_eq!(
        status(&["--json"]).await.matches("\"unencrypted\"").count(),
        1
    );
}

#[tokio::test]
async fn s12_a_success_that_is_about_other_bytes_is_none() {
    // CRC64NVME of nothing we have sent.
    const OTHER: Reply = Reply::Answer(
        200,
        "etag: \"abc\"\r\nx-amz-checksum-crc64nvme: AAAAAAAAAAA=\r\n",
        "",
    );
    let _row = row!();
    let server = RawServer::start([OTHER]).await;
    let store = at(server.url()).await;
    let put = store.put("k", body(b"the tide"), &Meta::default()).await;
    let error = put.expect_err("another content");
    assert_eq!(error.kind, ErrorKind::Corrupt, "{error}");
    // A success that says nothing at all is none either.
    let server = RawServer::start([Reply::Answer(200, "", "")]).await;
    let store = at(server.url()).await;
    let put = store.put("k", body(b"the tide"), &Meta::default()).await;
    assert!(put.is_err());
    // With the program: never level on it.
    let world = World::new().await;
    world.write("a", "a");
    world
        .endpoint
        .always("PutObject", Fault::Answer(200, String::new()));
    let ended = world.sync(&["--timeout", "2s"]).await;
    assert_ne!(ended.code, Some(0), "{}", ended.out);
}

#[tokio::test]
async fn s13_no_redirect_leads_to_another_host() {
    let _row = row!();
    for status in [301, 302, 303, 307, 308] {
        let trap = RawServer::start([OK]).await;
        // By another name: the trap listens on the same machine.
        let there = trap.url().replace("127.0.0.1", "localhost");
        let location = format!(
            "location: {there}/bucket/k\r\nx-amz-bucket-region: {}\r\n",
            trap.address()
        );
        let here = RawServer::start([Reply::Answer(status, location.leak(), "")]).await;
        let store = at(here.url()).await;
        let put = store.put("k", body(b"the tide"), &Meta::default()).await;
        assert!(put.is_err(), "{status}");
        assert!(store.head("k").await.is_err(), "{status}");
        assert!(store.list("", None).await.is_err(), "{status}");
        assert!(!here.seen().is_empty());
        assert_eq!(trap.seen().len(), 0, "{status}: the trap was asked");
    }
}

#[tokio::test]
async fn s13_a_webhook_that_redirects_is_not_followed() {
    let _row = row!();
    let trap = RawServer::start([OK]).await;
    let location = format!("location: {}/\r\n", trap.url()).leak();
    let hook = RawServer::start([Reply::Answer(307, location, "")]).await;
    let world = World::new().await;
    let config = world.dir.path().join("config.toml");
    let text = format!(
        "[agent]\nlisten = \"\"\nstate_dir = {:?}\n[s3]\nendpoint_url = {:?}\n\
         [notify]\nheartbeat = {:?}\nheartbeat_every = \"1s\"\n\
         [[folder]]\npath = {:?}\nto = \"s3://tide/p\"\n",
        world.state(),
        world.endpoint.url(),
        hook.url(),
        world.tree(""),
    );
    std::fs::write(&config, text).unwrap();
    let mut command = world.bare(["run", "--config", config.to_str().unwrap()]);
    let child = command.spawn().unwrap();
    eventually("two heartbeats", || hook.seen().len() >= 2).await;
    send(&child, rustix::process::Signal::TERM);
    let ended = crate::process::end_of(child).await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert_eq!(trap.seen().len(), 0);
}

/// A listing with a key in it and what is behind.
fn listing(rest: &str) -> String {
    format!(
        "<ListBucketResult><Name>bucket</Name><KeyCount>1</KeyCount><MaxKeys>1000</MaxKeys>\
         <Contents><Key>k</Key><Size>1</Size><ETag>\"e\"</ETag></Contents>{rest}"
    )
}

#[tokio::test]
async fn s15_an_answer_without_an_end_or_sense_is_an_error() {
    let _row = row!();
    let long = "<Contents><Key>k</Key><Size>1</Size><ETag>\"e\"</ETag></Contents>".repeat(1 << 19);
    let around = listing(
        "<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken></ListBucketResult>",
    );
    let deep = "<a>".repeat(100_000);
    for (what, text, words) in [
        ("endless", listing(&long), "longer than 16 MiB"),
        ("no XML", "\0\u{1}<<<>>>&&&".to_owned(), ""),
    ] {
        let text: &'static str = text.leak();
        let server = RawServer::start([Reply::Answer(200, "", text)]).await;
        let mut settings = patient();
        settings.endpoint_url = Some(server.url().to_owned());
        let store = S3Store::new(&settings, "bucket").await.unwrap();
        let page = store.list("", None).await;
        let error = page.expect_err(what);
        assert!(error.to_string().contains(words), "{what}: {error}");
        assert!(error.to_string().len() < 2_000, "{what}: {error}");
    }
    // What is deep or cut off inside one whole answer is read as far as it goes, in bounded time and memory: what a
    // listing does not name is never taken for missing.
    let entity = format!("<!DOCTYPE a [<!ENTITY b \"c\">]>{}", listing("&b;"));
    for text in [listing("<Contents><Key>"), listing(&deep), entity] {
        let server = RawServer::start([Reply::Answer(200, "", text.leak())]).await;
        let store = at(server.url()).await;
        let page = store.list("", None).await;
        assert!(page.is_err() || page.is_ok_and(|page| page.objects.len() <= 2));
    }
    // The second page leads to itself.
    let server = RawServer::start([Reply::Answer(200, "", around.leak())]).await;
    let store = at(server.url()).await;
    let first = store.list("", None).await.expect("a first page");
    assert_eq!(first.next.as_deref(), Some("t"));
    assert!(store.list("", first.next).await.is_err());
}

/// Settings of a test with a patience for large answers.
fn patient() -> Settings {
    let mut settings = Settings {
        credentials: Some(("access".to_owned(), "secret".to_owned())),
        ..Settings::default()
    };
    settings.patience.repeat = Duration::ZERO;
    settings
}

#[tokio::test]
async fn s15_metadata_without_measure_and_a_line_without_progress_are_errors() {
    let _row = row!();
    let headers = format!(
        "etag: \"e\"\r\n{}",
        (0..2_000)
            .map(|n| [
                "x-amz-meta-h",
                &n.to_string(),
                ": ",
                &"v".repeat(1_000),
                "\r\n"
            ]
            .concat())
            .collect::<String>()
    );
    let server = RawServer::start([Reply::Answer(200, headers.leak(), "")]).await;
    let store = at(server.url()).await;
    assert!(store.head("k").await.is_err(), "two megabytes of metadata");
    let server = RawServer::start([Reply::Silence]).await;
    let store = at(server.url()).await;
    let began = tidewatch::base::clock::Clock::Real.now().mono;
    assert!(store.list("", None).await.is_err());
    let took = tidewatch::base::clock::Clock::Real.now().mono - began;
    assert!(took < Duration::from_secs(5), "{took:?}");
}
