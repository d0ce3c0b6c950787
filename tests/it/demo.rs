//! The endpoint inside the program, asked by the plain SDK.
#![cfg(feature = "demo")]
#![allow(
    clippy::unwrap_used,
    reason = "clippy knows only the functions that are marked as tests"
)]

use std::collections::HashMap;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::{BoxError, ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::put_object::PutObjectOutput;
use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use aws_sdk_s3::types::{
    ChecksumAlgorithm, ChecksumMode, ChecksumType, CompletedMultipartUpload, CompletedPart, Delete,
    EncodingType, MetadataDirective, ObjectIdentifier,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use tidewatch::base::digest::Crc64;

use crate::support::endpoint::{BUCKET, Endpoint, Fault};

/// The smallest part but the last.
const PART: usize = 5 << 20;

/// Keys that stores stumble over.
const ODD: &[&str] = &[
    " x ",
    "a b/c d.txt",
    "100%",
    "%41",
    "a+b",
    "it's \"quoted\"",
    "back\\slash",
    "emoji 🌊/ü/é.txt",
    "‛0A",
    "line\nbreak",
    "tab\tand\u{1}",
    "?query=1&b",
    "#fragment",
    "star*",
    "a//b",
    "/leading",
    "trailing/",
    "./dot",
    "a/../b",
    "..",
    ".tidewatch-bucket/index.db",
    ".Tidewatch-Bucket/x",
    "p",
    "p/q",
    "p/q/r",
    "<xml>&amp;",
    "~tilde",
    "\u{10ffff}",
    "\u{e000}",
];

async fn put(client: &Client, key: &str, bytes: &[u8]) -> PutObjectOutput {
    client
        .put_object()
        .bucket(BUCKET)
        .key(key)
        .body(ByteStream::from(bytes.to_vec()))
        .send()
        .await
        .unwrap()
}

async fn get(client: &Client, key: &str) -> Vec<u8> {
    let output = client.get_object().bucket(BUCKET).key(key).send().await;
    let body = output.unwrap().body.collect().await.unwrap();
    body.into_bytes().to_vec()
}

/// The error code and the status of a refusal.
fn refusal<T, E: ProvideErrorMetadata>(
    result: Result<T, SdkError<E, aws_smithy_runtime_api::client::orchestrator::HttpResponse>>,
) -> (u16, String) {
    match result {
        Ok(_) => panic!("it was not refused"),
        Err(SdkError::ServiceError(error)) => (
            error.raw().status().as_u16(),
            error.err().code().unwrap_or_default().to_owned(),
        ),
        Err(error) => panic!("{:?} is no answer", error.code()),
    }
}

fn is(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

fn md5(bytes: &[u8]) -> String {
    use md5::Digest as _;
    use std::fmt::Write as _;
    let digest = md5::Md5::digest(bytes);
    digest.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn crc64(bytes: &[u8]) -> String {
    BASE64.encode(Crc64::of(bytes).0.to_be_bytes())
}

/// Lists everything, page by page, and decodes as S3's clients have to.
async fn list(client: &Client, prefix: &str, delimiter: Option<&str>, page: i32) -> Vec<String> {
    let decode = |text: &str| {
        let text = text.replace('+', " ");
        percent_decode_str(&text)
            .decode_utf8()
            .unwrap()
            .into_owned()
    };
    let mut names = Vec::new();
    let mut token = None;
    loop {
        let output = client
            .list_objects_v2()
            .bucket(BUCKET)
            .prefix(prefix)
            .set_delimiter(delimiter.map(str::to_owned))
            .encoding_type(EncodingType::Url)
            .max_keys(page)
            .set_continuation_token(token)
            .send()
            .await
            .unwrap();
        let keys = output.contents().iter().filter_map(|object| object.key());
        let prefixes = output.common_prefixes().iter().filter_map(|p| p.prefix());
        let mut here: Vec<String> = keys.chain(prefixes).map(decode).collect();
        assert!(here.len() <= page as usize);
        here.sort();
        names.extend(here);
        token = output.next_continuation_token().map(str::to_owned);
        assert_eq!(output.is_truncated(), Some(token.is_some()));
        if token.is_none() {
            return names;
        }
    }
}

#[tokio::test]
async fn the_bucket_is_there_and_no_other_is() {
    let endpoint = Endpoint::start().await;
    let client = endpoint.client();
    client.head_bucket().bucket(BUCKET).send().await.unwrap();
    let buckets = client.list_buckets().send().await.unwrap();
    assert_eq!(buckets.buckets()[0].name(), Some(BUCKET));
    let location = client.get_bucket_location().bucket(BUCKET).send().await;
    assert!(location.is_ok());
    let other = client.list_objects_v2().bucket("another").send().await;
    assert_eq!(refusal(other), is(404, "NoSuchBucket"));
    let other = client.put_object().bucket("another").key("k").send().await;
    assert_eq!(refusal(other), is(404, "NoSuchBucket"));
}

#[tokio::test]
async fn an_object_comes_back_as_it_was_put() {
    let endpoint = Endpoint::start().await;
    let client = endpoint.client();
    let output = client
        .put_object()
        .bucket(BUCKET)
        .key("a/b.txt")
        .body(ByteStream::from_static(b"tide"))
        .content_type("text/plain")
        .metadata("mtime", "1764000000.123456789")
        .send()
        .await
        .unwrap();
    let etag = format!("\"{}\"", md5(b"tide"));
    assert_eq!(output.e_tag(), Some(&*etag));
    let head = client
        .head_object()
        .bucket(BUCKET)
        .key("a/b.txt")
        .checksum_mode(ChecksumMode::Enabled)
        .send()
        .await
        .unwrap();
    assert_eq!(head.content_length(), Some(4));
    assert_eq!(head.e_tag(), Some(&*etag));
    assert_eq!(head.content_type(), Some("text/plain"));
    // The SDK's own default.
    assert!(head.checksum_crc32().is_some());
    let user = head.metadata().unwrap();
    assert_eq!(user["mtime"], "1764000000.123456789");
    assert_eq!(get(&client, "a/b.txt").await, b"tide");
    assert_eq!(endpoint.object("a/b.txt").unwrap(), b"tide");
    let missing = client.head_object().bucket(BUCKET).key("a").send().await;
    assert_eq!(refusal(missing).0, 404);
    let missing = client.get_object().bucket(BUCKET).key("a").send().await;
    assert_eq!(refusal(missing), is(404, "NoSuchKey"));
}

#[tokio::test]
async fn a_person_sees_the_keys_as_paths() {
    let endpoint = Endpoint::start().await;
    let client = endpoint.client();
    put(&client, "a/b/c.txt", b"one").await;
    put(&client, "a/d.txt", b"two").await;
    assert_eq!(
        std::fs::read(endpoint.dir().join("a/b/c.txt")).unwrap(),
        b"one"
    );
    put(&client, "a/b/c.txt", b"three").await;
    assert_eq!(
        std::fs::read(endpoint.dir().join("a/b/c.txt")).unwrap(),
        b"three"
    );
    let deleted = client
        .delete_object()
        .bucket(BUCKET)
        .key("a/b/c.txt")
        .send();
    deleted.await.unwrap();
    assert!(!endpoint.dir().join("a/b").exists(), "empty folders go");
    assert!(endpoint.dir().join("a/d.txt").exists());
}

#[tokio::test]
async fn a_file_put_by_hand_is_no_object_and_stays() {
    let endpoint = Endpoint::start().await;
    let client = endpoint.client();
    let outside = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(outside.path(), endpoint.dir().join("link")).unwrap();
    std::fs::File::create(endpoint.dir().join("mine")).unwrap();
    assert!(list(&client, "", None, 10).await.is_empty());
    put(&client, "mine", b"object").await;
    put(&client, "link/x", b"object").await;
    assert_eq!(std::fs::read(endpoint.dir().join("mine")).unwrap(), b"");
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    assert_eq!(get(&client, "mine").await, b"object");
    assert_eq!(get(&client, "link/x").await, b"object");
}

#[tokio::test]
async fn odd_keys_list_and_come_back_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let longest = "k".repeat(1024);
    let mut expected: Vec<String> = ODD.iter().map(ToString::to_string).collect();
    expected.push(longest);
    expected.push(format!("long/{}", "n".repeat(255)));
    {
        let endpoint = Endpoint::start_in(dir.path()).await;
        let client = endpoint.client();
        for key in &expected {
            put(&client, key, key.as_bytes()).await;
        }
    }
    // Strings order by their UTF-8 bytes, as S3 does.
    expected.sort();
    let endpoint = Endpoint::start_in(dir.path()).await;
    let client = endpoint.client();
    assert_eq!(list(&client, "", None, 1000).await, expected);
    assert_eq!(list(&client, "", None, 3).await, expected);
    for key in &expected {
        assert_eq!(get(&client, key).await, key.as_bytes(), "{key:?}");
    }
    for key in &expected {
        let source = format!("{BUCKET}/{}", utf8_percent_encode(key, NON_ALPHANUMERIC));
        let copy = client
            .copy_object()
            .bucket(BUCKET)
            .key("copy")
            .copy_source(source);
        copy.send().await.unwrap();
        assert_eq!(endpoint.object("copy").unwrap(), key.as_bytes(), "{key:?}");
        let deleted = client.delete_object().bucket(BUCKET).key(key).send().await;
        deleted.unwrap();
    }
    assert_eq!(endpoint.keys(), ["copy"]);
    let too_long = client.put_object().bucket(BUCKET).key("k".repeat(1025));
    assert_eq!(refusal(too_long.send().await), is(400, "KeyTooLongError"));
}

#[tokio::test]
async fn what_is_not_signed_with_the_secret_is_refused() {
    let endpoint = Endpoint::start().await;
    let stranger = endpoint.client_with_secret("not the secret");
    let result = stranger.put_object().bucket(BUCKET).key("k").send().await;
    assert_eq!(refusal(result), is(403, "SignatureDoesNotMatch"));
    assert!(endpoint.objects().is_empty());
}

#[tokio::test]
async fn a_body_that_is_not_what_was_hashed_is_refused() {
    let endpoint = Endpoint::start().await;
    let client = endpoint.client();
    let wrong = |key| {
        let body = ByteStream::from_static(b"tide");
        client.put_object().bucket(BUCKET).key(key).body(body)
    };
    let result = wrong("crc64")
        .checksum_crc64_nvme(crc64(b"ebb"))
        .send()
        .await;
    assert_eq!(refusal(result), is(400, "BadDigest"));
    let result = wrong("sha256")
        .checksum_sha256(BASE64.encode([7; 32]))
        .send()
        .await;
    assert_eq!(refusal(result), is(400, "BadDigest"));
    let result = wrong("sha1")
        .checksum_sha1(BASE64.encode([7; 20]))
        .send()
        .await;
    assert_eq!(refusal(result), is(400, "BadDigest"));
    let result = wrong("crc32c")
        .checksum_crc32_c(BASE64.encode([7; 4]))
        .send()
        .await;
    assert_eq!(refusal(result), is(400, "BadDigest"));
    let result = wrong("md5")
        .content_md5(BASE64.encode([7; 16]))
        .send()
        .await;
    assert_eq!(refusal(result), is(400, "BadDigest"));
    let result = wrong("broken").checksum_crc64_nvme("AAAA").send().await;
    assert_eq!(refusal(result), is(400, "InvalidRequest"));
    assert!(endpoint.objects().is_empty());
    assert_eq!(temporaries(&endpoint), 0);
    let right = wrong("crc64")
        .checksum_crc64_nvme(crc64(b"tide"))
        .send()
        .await;
    assert_eq!(right.unwrap().checksum_crc64_nvme(), Some(&*crc64(b"tide")));
}

/// Sends another body than the one that was signed, of the same length.
#[derive(Debug)]
struct Swap;

impl Intercept for Swap {
    fn name(&self) -> &'static str {
        "Swap"
    }

    fn modify_before_transmit(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        *context.request_mut().body_mut() = SdkBody::from("ebbs");
        Ok(())
    }
}

#[tokio::test]
async fn a_body_that_is_not_what_was_signed_is_refused() {
    let endpoint = Endpoint::start().await;
    let client = endpoint.client();
    let put = client.put_object().bucket(BUCKET).key("k");
    let put = put
        .body(ByteStream::from_static(b"tide"))
        .checksum_crc64_nvme(crc64(b"ebbs"));
    let result = put.customize().interceptor(Swap).send().await;
    assert_eq!(refusal(result), is(400, "XAmzContentSHA256Mismatch"));
    assert!(endpoint.objects().is_empty());
}

fn temporaries(endpoint: &Endpoint) -> usize {
    let tmp = endpoint.dir().join(".tidewatch-bucket/tmp");
    std::fs::read_dir(tmp).unwrap().count()
}

#[tokio::test]
async fn a_write_with_a_condition_that_does_not_hold_changes_nothing() {
    let endpoint = Endpoint::start().await;
    let client = endpoint.client();
    let first = put(&client, "k", b"first").await;
    let new = |key: &str| {
        let body = ByteStream::from_static(b"second");
        client.put_object().bucket(BUCKET).key(key).body(body)
    };
    assert_eq!(
        refusal(new("k").if_none_match("*").send().await),
        is(412, "PreconditionFailed")
    );
    assert_eq!(
        refusal(new("k").if_match("\"other\"").send().await),
        is(412, "PreconditionFailed")
    );
    assert_eq!(
        refusal(new("gone").if_match("\"other\"").send().await),
        is(404, "NoSuchKey")
    );
    let delete = client.delete_object().bucket(BUCKET).key("k");
    assert_eq!(
        refusal(delete.clone().if_match("\"other\"").send().await),
        is(412, "PreconditionFailed")
    );
    assert_eq!(endpoint.object("k").unwrap(), b"first");
    let etag = first.e_tag().unwrap();
    let second = new("k").if_match(etag).send().await.unwrap();
    new("new").if_none_match("*").send().await.unwrap();
    assert_eq!(endpoint.object("k").unwrap(), b"second");
    delete
        .if_match(second.e_tag().unwrap())
        .send()
        .await
        .unwrap();
    assert_eq!(endpoint.keys(), ["new"]);
}

#[tokio::test]
async fn a_read_answers_ranges_and_conditions() {
    let endpoint = Endpoint::start().await;
    let client = endpoint.client();
    let bytes: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let stored = put(&client, "k", &bytes).await;
    assert_eq!(get(&client, "k").await, bytes);
    let read = client.get_object().bucket(BUCKET).key("k");
    for (range, expected) in [
        ("bytes=10-19", 10..20),
        ("bytes=3999990-", 3_999_990..4_000_000),
        ("bytes=-5", 3_999_995..4_000_000),
        ("bytes=100-3000000", 100..3_000_001),
        ("bytes=0-99999999", 0..4_000_000),
    ] {
        let output = read.clone().range(range).send().await.unwrap();
        let shown = format!("bytes {}-{}/4000000", expected.start, expected.end - 1);
        assert_eq!(output.content_range(), Some(&*shown));
        let body = output.body.collect().await.unwrap().into_bytes();
        assert_eq!(body, bytes[expected], "{range}");
    }
    let beyond = read.clone().range("bytes=4000000-").send().await;
    assert_eq!(refusal(beyond), is(416, "InvalidRange"));
    let etag = stored.e_tag().unwrap();
    assert!(read.clone().if_match(etag).send().await.is_ok());
    let result = read.clone().if_match("\"other\"").send().await;
    assert_eq!(refusal(result), is(412, "PreconditionFailed"));
    assert_eq!(
        refusal(read.clone().if_none_match(etag).send().await).0,
        304
    );
}

#[tokio::test]
async fn a_copy_takes_the_bytes_and_what_it_is_told_to() {
    let endpoint = Endpoint::start().await;
    let client = endpoint.client();
    let source = client
        .put_object()
        .bucket(BUCKET)
        .key("from")
        .body(ByteStream::from_static(b"tide"))
        .metadata("sha256", "old")
        .send()
        .await
        .unwrap();
    let copy = |to: &str| {
        let source = format!("{BUCKET}/from");
        client
            .copy_object()
            .bucket(BUCKET)
            .key(to)
            .copy_source(source)
    };
    let copied = copy("kept").send().await.unwrap();
    let result = copied.copy_object_result().unwrap();
    assert_eq!(result.e_tag(), source.e_tag());
    copy("new")
        .metadata_directive(MetadataDirective::Replace)
        .metadata("sha256", "new")
        .copy_source_if_match(source.e_tag().unwrap())
        .send()
        .await
        .unwrap();
    assert_eq!(user(&client, "kept").await["sha256"], "old");
    assert_eq!(user(&client, "new").await["sha256"], "new");
    assert_eq!(endpoint.object("new").unwrap(), b"tide");
    let changed = copy("no").copy_source_if_match("\"other\"").send().await;
    assert_eq!(refusal(changed), is(412, "PreconditionFailed"));
    let onto_itself = copy("from").send().await;
    assert_eq!(refusal(onto_itself), is(400, "InvalidRequest"));
    copy("from")
        .metadata_directive(MetadataDirective::Replace)
        .metadata("sha256", "new")
        .send()
        .await
        .unwrap();
    assert_eq!(user(&client, "from").await["sha256"], "new");
    let missing = client.copy_object().bucket(BUCKET).key("no");
    let missing = missing.copy_source(format!("{BUCKET}/none")).send().await;
    assert_eq!(refusal(missing), is(404, "NoSuchKey"));
    assert_eq!(endpoint.keys(), ["from", "kept", "new"]);
}

async fn user(client: &Client, key: &str) -> HashMap<String, String> {
    let head = client.head_object().bucket(BUCKET).key(key).send().await;
    head.unwrap().metadata().cloned().unwrap_or_default()
}

#[tokio::test]
async fn user_metadata_is_at_most_two_kibibytes() {
    let endpoint = Endpoint::start().await;
    let client = endpoint.client();
    let put = |size| {
        let put = client.put_object().bucket(BUCKET).key("k");
        put.metadata("name", "v".repeat(size)).send()
    };
    assert!(put(2044).await.is_ok());
    assert_eq!(refusal(put(2045).await), is(400, "MetadataTooLarge"));
}

#[tokio::test]
async fn a_listing_groups_by_the_delimiter_and_starts_where_it_is_told() {
    let endpoint = Endpoint::start().await;
    let client = endpoint.client();
    for key in ["a", "b/1", "b/2", "b0", "c/d/1", "c/e", "d"] {
        put(&client, key, b"").await;
    }
    let top = ["a", "b/", "b0", "c/", "d"];
    assert_eq!(list(&client, "", Some("/"), 1000).await, top);
    assert_eq!(list(&client, "", Some("/"), 1).await, top);
    assert_eq!(list(&client, "c/", Some("/"), 1).await, ["c/d/", "c/e"]);
    assert_eq!(list(&client, "b", None, 2).await, ["b/1", "b/2", "b0"]);
    let after = client.list_objects_v2().bucket(BUCKET).start_after("b/2");
    let after = after.send().await.unwrap();
    assert_eq!(after.contents()[0].key(), Some("b0"));
    assert_eq!(after.key_count(), Some(4));
    let old = client
        .list_objects()
        .bucket(BUCKET)
        .delimiter("/")
        .max_keys(2);
    let page = old.clone().send().await.unwrap();
    assert_eq!(page.next_marker(), Some("b/"));
    let page = old.marker("b/").send().await.unwrap();
    assert_eq!(page.contents()[0].key(), Some("b0"));
    assert_eq!(page.common_prefixes()[0].prefix(), Some("c/"));
}

#[tokio::test]
async fn many_keys_are_deleted_at_once() {
    let endpoint = Endpoint::start().await;
    let client = endpoint.client();
    for key in ["a", "b", "c"] {
        put(&client, key, b"").await;
    }
    let id = |key: &str| ObjectIdentifier::builder().key(key);
    let delete = Delete::builder()
        .objects(id("a").build().unwrap())
        .objects(id("none").build().unwrap())
        .objects(id("b").e_tag("other").build().unwrap());
    let output = client.delete_objects().bucket(BUCKET);
    let output = output.delete(delete.build().unwrap()).send().await.unwrap();
    assert_eq!(output.deleted().len(), 2);
    assert_eq!(output.errors()[0].code(), Some("PreconditionFailed"));
    assert_eq!(endpoint.keys(), ["b", "c"]);
}

/// Creates an upload for CRC64NVME.
async fn create(client: &Client, key: &str) -> String {
    let output = client
        .create_multipart_upload()
        .bucket(BUCKET)
        .key(key)
        .checksum_algorithm(ChecksumAlgorithm::Crc64Nvme)
        .checksum_type(ChecksumType::FullObject)
        .metadata("mode", "0644")
        .send()
        .await;
    output.unwrap().upload_id().unwrap().to_owned()
}

async fn put_part(
    client: &Client,
    key: &str,
    id: &str,
    number: i32,
    bytes: &[u8],
) -> CompletedPart {
    let output = client
        .upload_part()
        .bucket(BUCKET)
        .key(key)
        .upload_id(id)
        .part_number(number)
        .checksum_crc64_nvme(crc64(bytes))
        .body(ByteStream::from(bytes.to_vec()))
        .send()
        .await
        .unwrap();
    completed(number, output.e_tag().unwrap())
}

fn completed(number: i32, etag: &str) -> CompletedPart {
    CompletedPart::builder()
        .part_number(number)
        .e_tag(etag)
        .build()
}

fn complete(
    client: &Client,
    key: &str,
    id: &str,
    parts: &[CompletedPart],
) -> aws_sdk_s3::operation::complete_multipart_upload::builders::CompleteMultipartUploadFluentBuilder
{
    let parts = CompletedMultipartUpload::builder().set_parts(Some(parts.to_vec()));
    client
        .complete_multipart_upload()
        .bucket(BUCKET)
        .key(key)
        .upload_id(id)
        .checksum_type(ChecksumType::FullObject)
        .multipart_upload(parts.build())
}

#[tokio::test]
async fn parts_become_an_object_and_a_repeated_completion_says_so_again() {
    let endpoint = Endpoint::start().await;
    let client = endpoint.client();
    let (one, two) = (vec![1; PART], vec![2; 1000]);
    let id = create(&client, "big").await;
    let parts = [
        put_part(&client, "big", &id, 1, &one).await,
        put_part(&client, "big", &id, 7, &two).await,
    ];
    assert_eq!(endpoint.open_uploads(), [("big".to_owned(), id.clone())]);
    let listed = client.list_parts().bucket(BUCKET).key("big").upload_id(&id);
    let listed = listed.max_parts(1).send().await.unwrap();
    assert_eq!(listed.parts()[0].size(), Some(PART as i64));
    assert_eq!(listed.next_part_number_marker(), Some("1"));
    let uploads = client.list_multipart_uploads().bucket(BUCKET).send().await;
    assert_eq!(uploads.unwrap().uploads()[0].upload_id(), Some(&*id));
    assert!(endpoint.objects().is_empty());

    let whole = [one, two].concat();
    let wrong = complete(&client, "big", &id, &parts).checksum_crc64_nvme(crc64(b"other"));
    assert_eq!(refusal(wrong.send().await), is(400, "BadDigest"));
    let finish = complete(&client, "big", &id, &parts).checksum_crc64_nvme(crc64(&whole));
    let done = finish.clone().if_none_match("*").send().await.unwrap();
    let etags: Vec<u8> = [md5(&whole[..PART]), md5(&whole[PART..])]
        .iter()
        .flat_map(|hex| (0..16).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()))
        .collect();
    assert_eq!(done.e_tag(), Some(&*format!("\"{}-2\"", md5(&etags))));
    assert_eq!(done.checksum_crc64_nvme(), Some(&*crc64(&whole)));
    assert!(endpoint.object("big").unwrap() == whole);
    assert_eq!(user(&client, "big").await["mode"], "0644");
    assert!(endpoint.open_uploads().is_empty());
    assert_eq!(part_files(&endpoint), 0);

    let again = finish.clone().send().await.unwrap();
    assert_eq!(again.e_tag(), done.e_tag());
    put(&client, "big", b"small").await;
    assert_eq!(refusal(finish.send().await), is(404, "NoSuchUpload"));
    assert_eq!(endpoint.object("big").unwrap(), b"small");
}

fn part_files(endpoint: &Endpoint) -> usize {
    let parts = endpoint.dir().join(".tidewatch-bucket/parts");
    std::fs::read_dir(parts).unwrap().count()
}

#[tokio::test]
async fn a_completion_that_breaks_the_rules_of_parts_is_refused() {
    let endpoint = Endpoint::start().await;
    let client = endpoint.client();
    let id = create(&client, "k").await;
    let small = put_part(&client, "k", &id, 1, b"small").await;
    let last = put_part(&client, "k", &id, 2, b"last").await;
    let finish = |parts: &[CompletedPart]| complete(&client, "k", &id, parts).send();
    let result = finish(&[small.clone(), last.clone()]).await;
    assert_eq!(refusal(result), is(400, "EntityTooSmall"));
    let result = finish(&[last.clone(), small.clone()]).await;
    assert_eq!(refusal(result), is(400, "InvalidPartOrder"));
    let result = finish(&[completed(3, "none")]).await;
    assert_eq!(refusal(result), is(400, "InvalidPart"));
    let result = finish(&[completed(1, last.e_tag().unwrap())]).await;
    assert_eq!(refusal(result), is(400, "InvalidPart"));
    let part = |number: i32, id: &str| {
        let body = ByteStream::from_static(b"x");
        let part = client.upload_part().bucket(BUCKET).key("k").upload_id(id);
        part.part_number(number).body(body)
    };
    let result = part(1, &id)
        .checksum_crc32_c(BASE64.encode([7; 4]))
        .send()
        .await;
    assert_eq!(refusal(result), is(400, "InvalidRequest"));
    let crc = crc64(b"other");
    let result = part(1, &id).checksum_crc64_nvme(&crc).send().await;
    assert_eq!(refusal(result), is(400, "BadDigest"));
    let right = crc64(b"x");
    let result = part(10_001, &id).checksum_crc64_nvme(&right).send().await;
    assert_eq!(refusal(result), is(400, "InvalidArgument"));
    let result = part(1, "unknown").checksum_crc64_nvme(&right).send().await;
    assert_eq!(refusal(result), is(404, "NoSuchUpload"));
    finish(&[small]).await.unwrap();
    assert_eq!(endpoint.object("k").unwrap(), b"small");
}

#[tokio::test]
async fn an_aborted_upload_leaves_nothing() {
    let endpoint = Endpoint::start().await;
    let client = endpoint.client();
    let id = create(&client, "k").await;
    put_part(&client, "k", &id, 1, b"one").await;
    put_part(&client, "k", &id, 1, b"one again").await;
    assert_eq!(part_files(&endpoint), 1);
    let abort = client
        .abort_multipart_upload()
        .bucket(BUCKET)
        .key("k")
        .upload_id(id);
    abort.clone().send().await.unwrap();
    assert_eq!(part_files(&endpoint), 0);
    assert_eq!(refusal(abort.send().await), is(404, "NoSuchUpload"));
    assert!(endpoint.open_uploads().is_empty());
}

#[tokio::test]
async fn parts_are_made_of_ranges_of_another_object() {
    let endpoint = Endpoint::start().await;
    let client = endpoint.client();
    let bytes: Vec<u8> = (0..PART + 1000).map(|i| (i % 251) as u8).collect();
    let stored = put(&client, "from", &bytes).await;
    let id = create(&client, "to").await;
    let copy = |number: i32, range: String| {
        client
            .upload_part_copy()
            .bucket(BUCKET)
            .key("to")
            .upload_id(&id)
            .part_number(number)
            .copy_source(format!("{BUCKET}/from"))
            .copy_source_range(range)
    };
    let mut parts = Vec::new();
    for (number, range) in [(1, 0..PART), (2, PART..bytes.len())] {
        let range = format!("bytes={}-{}", range.start, range.end - 1);
        let output = copy(number, range).copy_source_if_match(stored.e_tag().unwrap());
        let output = output.send().await.unwrap();
        let result = output.copy_part_result().unwrap();
        parts.push(completed(number, result.e_tag().unwrap()));
    }
    let changed = copy(1, "bytes=0-1".to_owned()).copy_source_if_match("\"other\"");
    assert_eq!(refusal(changed.send().await), is(412, "PreconditionFailed"));
    let beyond = copy(1, format!("bytes=0-{}", bytes.len())).send().await;
    assert_eq!(refusal(beyond), is(416, "InvalidRange"));
    let finish = complete(&client, "to", &id, &parts).checksum_crc64_nvme(crc64(&bytes));
    finish.send().await.unwrap();
    assert!(endpoint.object("to").unwrap() == bytes);
    // A copy of what came in parts is one piece.
    let copied = client.copy_object().bucket(BUCKET).key("whole");
    let copied = copied
        .copy_source(format!("{BUCKET}/to"))
        .send()
        .await
        .unwrap();
    let etag = copied
        .copy_object_result()
        .unwrap()
        .e_tag()
        .unwrap()
        .to_owned();
    assert_eq!(etag, format!("\"{}\"", md5(&bytes)));
}

#[tokio::test]
async fn an_open_upload_outlives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (id, part) = {
        let endpoint = Endpoint::start_in(dir.path()).await;
        let client = endpoint.client();
        let id = create(&client, "k").await;
        let part = put_part(&client, "k", &id, 1, b"tide").await;
        put(&client, "other", b"object").await;
        (id, part)
    };
    let endpoint = Endpoint::start_in(dir.path()).await;
    let client = endpoint.client();
    complete(&client, "k", &id, &[part]).send().await.unwrap();
    assert_eq!(get(&client, "k").await, b"tide");
    assert_eq!(get(&client, "other").await, b"object");
}

#[tokio::test]
async fn other_checksums_of_parts_join_as_s3_joins_them() {
    let endpoint = Endpoint::start().await;
    let client = endpoint.client();
    for (algorithm, kind) in [
        (ChecksumAlgorithm::Crc32, ChecksumType::FullObject),
        (ChecksumAlgorithm::Crc32C, ChecksumType::Composite),
        (ChecksumAlgorithm::Sha256, ChecksumType::Composite),
    ] {
        let created = client
            .create_multipart_upload()
            .bucket(BUCKET)
            .key("k")
            .checksum_algorithm(algorithm.clone())
            .checksum_type(kind.clone())
            .send()
            .await
            .unwrap();
        let id = created.upload_id().unwrap();
        // The SDK computes the part's checksum and sends it as a trailer.
        let output = client
            .upload_part()
            .bucket(BUCKET)
            .key("k")
            .upload_id(id)
            .part_number(1)
            .checksum_algorithm(algorithm)
            .body(ByteStream::from_static(b"tide"))
            .send()
            .await
            .unwrap();
        let part = completed(1, output.e_tag().unwrap());
        let finish = complete(&client, "k", id, &[part]).checksum_type(kind.clone());
        let done = finish.send().await.unwrap();
        assert_eq!(done.checksum_type(), Some(&kind));
        let sum = done.checksum_crc32_c().or(done.checksum_sha256());
        let is_composite = sum.is_some_and(|sum| sum.ends_with("-1"));
        assert_eq!(is_composite, kind == ChecksumType::Composite);
        if kind == ChecksumType::FullObject {
            assert!(done.checksum_crc32().is_some());
            assert_eq!(done.checksum_crc32(), output.checksum_crc32());
        }
    }
}

#[tokio::test]
async fn a_body_from_a_file_arrives_in_chunks_and_whole() {
    let endpoint = Endpoint::start().await;
    let client = endpoint.client();
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 253) as u8).collect();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file.as_file(), &bytes).unwrap();
    let body = ByteStream::from_path(file.path()).await.unwrap();
    let sent = client
        .put_object()
        .bucket(BUCKET)
        .key("k")
        .body(body)
        .send();
    sent.await.unwrap();
    assert!(endpoint.object("k").unwrap() == bytes);
    let head = client.head_object().bucket(BUCKET).key("k").send().await;
    assert_eq!(head.unwrap().content_encoding(), None);
}

#[tokio::test]
async fn the_endpoint_counts_and_breaks_on_demand() {
    let endpoint = Endpoint::start().await;
    let client = endpoint.client();
    endpoint.fail_next("PutObject", 1, Fault::Error(503, "SlowDown"));
    let send = || client.put_object().bucket(BUCKET).key("k").send();
    assert_eq!(refusal(send().await), is(503, "SlowDown"));
    assert!(endpoint.objects().is_empty());
    endpoint.fail_next("*", 1, Fault::DropAnswer);
    assert!(matches!(send().await, Err(SdkError::DispatchFailure(_))));
    assert_eq!(endpoint.keys(), ["k"], "it was done all the same");
    endpoint.always("HeadObject", Fault::Reset);
    let head = client.head_object().bucket(BUCKET).key("k");
    assert!(matches!(
        head.clone().send().await,
        Err(SdkError::DispatchFailure(_))
    ));
    endpoint.clear();
    head.send().await.unwrap();
    assert_eq!(endpoint.count("PutObject"), 2);
    assert_eq!(endpoint.count("HeadObject"), 2);
    let seen = endpoint.requests();
    assert_eq!(seen[1].status, Some(200));
    assert_eq!(seen[2].status, None);
    assert_eq!(seen[1].key, "k");
    assert!(endpoint.connections() >= 2);
    assert!(endpoint.received() > 100);
    endpoint.reset_counts();
    assert_eq!(endpoint.count("*"), 0);

    endpoint.script(|seen| (seen.key == "stuck").then_some(Fault::Hang));
    let stuck = client.put_object().bucket(BUCKET).key("stuck").send();
    let arrived = endpoint.until("the request arrives", |e| e.count("PutObject") == 1);
    tokio::select! {
        _ = stuck => panic!("there is no answer"),
        () = arrived => {}
    }
}

#[tokio::test]
async fn two_endpoints_never_serve_one_folder() {
    let endpoint = Endpoint::start().await;
    let second = tidewatch::commands::demo::endpoint::Endpoint::start(endpoint.dir(), BUCKET);
    assert!(second.await.is_err());
}
