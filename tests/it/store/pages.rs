//! Parts, uploads, batches and looks on an endpoint that is strict about them: pages, and keys that are hard to say.
#![cfg(feature = "demo")]

use tidewatch::base::digest::Crc64;
use tidewatch::store::features::{Checksum, Features};
use tidewatch::store::s3::{S3Store, Settings};
use tidewatch::store::{Effect, ErrorKind, MAX_BATCH, Meta, Store};

use crate::store::faults::{at, body, xml};
use crate::support::endpoint::{Endpoint, Fault};
use crate::support::raw_server::RawServer;

async fn store_at(endpoint: &Endpoint) -> S3Store {
    let settings = Settings {
        endpoint_url: Some(endpoint.url()),
        credentials: Some((
            endpoint.access_key().to_owned(),
            endpoint.secret_key().to_owned(),
        )),
        ..Settings::default()
    };
    S3Store::new(&settings, endpoint.bucket())
        .await
        .expect("a client")
}

/// Keys that XML, URLs and listings each have their own way to say.
const HARD: [&str; 6] = [
    "p/a b+c",
    "p/a&b<c>\"d\"'",
    "p/ü/€/🌊",
    "p/100%25%",
    "p/?x=1#y",
    "p/;:@=,$!*()~",
];

#[tokio::test]
async fn open_uploads_and_their_parts_are_listed_page_by_page() {
    let endpoint = Endpoint::start().await;
    let store = store_at(&endpoint).await;
    let mut begun = Vec::new();
    for key in HARD {
        for _ in 0..2 {
            let id = store.create_multipart(key, &Meta::default()).await.unwrap();
            begun.push((key.to_owned(), id));
        }
    }
    store
        .create_multipart("other", &Meta::default())
        .await
        .unwrap();
    let mut listed = Vec::new();
    let mut token = None;
    loop {
        let page = store.list_uploads("p/", token).await.unwrap();
        for upload in page.uploads {
            assert!(upload.begun_ns.is_some());
            listed.push((upload.key, upload.id));
        }
        token = page.next;
        if token.is_none() {
            break;
        }
    }
    begun.sort();
    listed.sort();
    assert_eq!(listed, begun);

    let (key, id) = &begun[0];
    let mut sent = Vec::new();
    for number in [1, 2, 7, 9999] {
        let part = store
            .put_part(key, id, number, body(b"part"))
            .await
            .unwrap();
        sent.push((number, part.etag, 4));
    }
    let page = store.list_parts(key, id, 0).await.unwrap();
    let told = |page: tidewatch::store::PartPage| {
        let parts = page.parts.into_iter();
        let told: Vec<_> = parts
            .map(|part| (part.number, part.etag, part.size))
            .collect();
        told
    };
    assert_eq!(page.next, None);
    assert_eq!(told(page), sent);
    let rest = store.list_parts(key, id, 2).await.unwrap();
    assert_eq!(told(rest), sent[2..]);
    let error = store.list_parts(key, "nothing", 0).await.expect_err("none");
    assert_eq!(error.kind, ErrorKind::NotFound, "{error}");
}

#[tokio::test]
async fn pages_go_on_where_the_store_says() {
    let parts = "<ListPartsResult><IsTruncated>true</IsTruncated><NextPartNumberMarker>5</NextPartNumberMarker>\
        <Part><PartNumber>5</PartNumber><ETag>\"e\"</ETag><Size>9</Size></Part></ListPartsResult>";
    let astray = "<ListPartsResult><IsTruncated>true</IsTruncated><NextPartNumberMarker>5</NextPartNumberMarker></ListPartsResult>";
    let uploads = "<ListMultipartUploadsResult><EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>\
        <NextKeyMarker>p/a+b%2B</NextKeyMarker><NextUploadIdMarker>u1</NextUploadIdMarker>\
        <Upload><Key>p/a+b%2B</Key><UploadId>u1</UploadId></Upload></ListMultipartUploadsResult>";
    let last =
        "<ListMultipartUploadsResult><IsTruncated>false</IsTruncated></ListMultipartUploadsResult>";
    let server = RawServer::start([parts, uploads, last].map(|text| xml(200, text))).await;
    let store = at(server.url()).await;
    let page = store.list_parts("k", "id", 0).await.unwrap();
    assert_eq!((page.next, page.parts[0].size), (Some(5), 9));
    let page = store.list_uploads("p/", None).await.unwrap();
    assert_eq!(page.uploads[0].key, "p/a b+");
    assert!(
        store
            .list_uploads("p/", page.next)
            .await
            .unwrap()
            .next
            .is_none()
    );
    let seen = server.seen();
    let head = &seen.last().unwrap().head;
    assert!(
        head.contains("key-marker=p%2Fa%20b%2B") && head.contains("upload-id-marker=u1"),
        "{head}"
    );

    let server = RawServer::start([xml(200, astray)]).await;
    let store = at(server.url()).await;
    let again = store.list_parts("k", "id", 5).await;
    assert!(again.is_err(), "it would never end");
    let head = &server.seen()[0].head;
    assert!(head.contains("part-number-marker=5"), "{head}");
}

#[tokio::test]
async fn an_upload_of_crc32_is_verified_whole_by_a_strict_store() {
    let endpoint = Endpoint::start().await;
    let store = store_at(&endpoint).await;
    store.learn(Features {
        checksum: Checksum::Crc32,
        ..Features::ALL
    });
    let id = store.create_multipart("k", &Meta::default()).await.unwrap();
    let first = vec![1; 5 << 20];
    let parts = [
        store.put_part("k", &id, 1, body(&first)).await.unwrap(),
        store.put_part("k", &id, 2, body(b"end")).await.unwrap(),
    ];
    let whole = [&first[..], b"end"].concat();
    // Somebody else who resumes it learns from the list how it was begun.
    let other = store_at(&endpoint).await;
    other.list_parts("k", &id, 0).await.unwrap();
    other.put_part("k", &id, 2, body(b"end")).await.unwrap();
    store
        .complete("k", &id, &parts, Some(Crc64::of(&whole)))
        .await
        .unwrap();
    assert!(endpoint.object("k").unwrap() == whole);
    for seen in endpoint.requests() {
        assert!(
            !seen.headers.contains_key("x-amz-checksum-crc64nvme"),
            "{seen:?}"
        );
        if seen.operation == "UploadPart" || seen.operation == "CompleteMultipartUpload" {
            assert!(
                seen.headers.contains_key("x-amz-checksum-crc32"),
                "{seen:?}"
            );
        }
    }
    // Content-MD5 is checked as strictly.
    store.learn(Features {
        checksum: Checksum::Md5,
        ..Features::ALL
    });
    store
        .put("m", body(b"tide"), &Meta::default())
        .await
        .unwrap();
    let put = endpoint.requests().pop().unwrap();
    assert!(put.headers.contains_key("content-md5"), "{put:?}");
}

#[tokio::test]
async fn a_batch_removes_what_is_there_and_what_is_not() {
    let endpoint = Endpoint::start().await;
    let store = store_at(&endpoint).await;
    let mut keys: Vec<String> = HARD.map(str::to_owned).to_vec();
    for key in &keys {
        store.put(key, body(b"x"), &Meta::default()).await.unwrap();
    }
    store
        .put("kept", body(b"x"), &Meta::default())
        .await
        .unwrap();
    keys.extend((keys.len()..MAX_BATCH).map(|n| format!("absent/{n}")));
    let removed = store.delete_many(&keys).await.unwrap();
    assert_eq!(removed.len(), MAX_BATCH);
    assert!(removed.iter().all(Result::is_ok), "{removed:?}");
    assert_eq!(endpoint.keys(), ["kept"]);
    assert_eq!(
        (
            endpoint.count("DeleteObjects"),
            endpoint.count("DeleteObject")
        ),
        (1, 0)
    );
    let seen = endpoint.requests().pop().unwrap();
    assert!(seen.headers.contains_key("content-md5"), "{seen:?}");
    assert!(
        !seen.headers.contains_key("x-amz-checksum-crc32"),
        "{seen:?}"
    );
    let signed = &seen.headers["authorization"];
    assert!(signed.contains("content-md5"), "{signed}");
    // A batch whose answer was lost is asked for again: it removes nothing that was not to go.
    endpoint.fail_next("DeleteObjects", 1, Fault::DropAnswer);
    let removed = store.delete_many(&["kept".to_owned()]).await.unwrap();
    assert!(removed[0].as_ref().unwrap().is_outstanding);
}

#[tokio::test]
async fn a_batch_says_of_each_key_how_that_went() {
    let answer = "<DeleteResult><Deleted><Key>a</Key></Deleted>\
        <Error><Key>b</Key><Code>AccessDenied</Code><Message>No.</Message></Error>\
        <Error><Key>c</Key><Code>InternalError</Code><Message>Hm.</Message></Error>\
        <Error><Key>d</Key><Code>NoSuchKey</Code></Error></DeleteResult>";
    let server = RawServer::start([xml(200, answer)]).await;
    let store = at(server.url()).await;
    let keys = ["e", "d", "c", "b", "a"].map(str::to_owned);
    let removed = store.delete_many(&keys).await.unwrap();
    let told: Vec<_> = removed
        .iter()
        .map(|one| {
            one.as_ref()
                .map(|_| ())
                .map_err(|error| (error.kind, error.effect))
        })
        .collect();
    assert_eq!(
        told,
        [
            Err((ErrorKind::Busy, Effect::Possible)),
            Ok(()),
            Err((ErrorKind::Busy, Effect::Possible)),
            Err((ErrorKind::Denied, Effect::None)),
            Ok(()),
        ]
    );
}

#[tokio::test]
async fn what_a_look_does_not_find_is_asked_for_once_more() {
    let endpoint = Endpoint::start().await;
    let store = store_at(&endpoint).await;
    for content in [&b""[..], b"tide"] {
        store
            .put("k", body(content), &Meta::default())
            .await
            .unwrap();
        // It came between the look and the read.
        endpoint.fail_next("HeadObject", 1, Fault::Answer(404, String::new()));
        assert_eq!(store.head("k").await.unwrap().size, content.len() as u64);
        endpoint.fail_next("HeadObject", 2, Fault::Answer(404, String::new()));
        let error = store.head("k").await.map(drop).expect_err("a lie");
        assert_eq!(error.kind, ErrorKind::Busy, "{error}");
    }
    let error = store
        .head("other")
        .await
        .map(drop)
        .expect_err("nothing there");
    assert_eq!(error.kind, ErrorKind::NotFound);
    endpoint.fail_next("HeadObject", 1, Fault::Answer(404, String::new()));
    endpoint.fail_next("GetObject", 1, Fault::Error(404, "NoSuchBucket"));
    let error = store.head("k").await.map(drop);
    assert_eq!(error.expect_err("no bucket").code, "NoSuchBucket");
}
