//! `tidewatch adopt`: a prefix as each tool leaves it, taken over without sending again what is equal.
#![cfg(feature = "demo")]
#![allow(
    clippy::unwrap_used,
    reason = "clippy knows only the functions that are marked as tests"
)]

use std::fs;

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumType, CompletedMultipartUpload, CompletedPart};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use md5::{Digest as _, Md5};
use rustix::process::Signal;
use serde_json::{Value, json};
use tidewatch::base::digest::Sha256;
use tidewatch::base::path::RelPath;
use tidewatch::base::proof::Adopted;
use tidewatch::store::{Body, Meta, Store as _};

use crate::agent::{Bench, slow};
use crate::process::{Ended, World, end_of, ended, send};
use crate::support::endpoint::{BUCKET, Endpoint};
use crate::support::mem_store::Habits;

const MIB: usize = 1 << 20;

/// What a tool says of its parts' checksums.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sums {
    /// A CRC32 of each part, and of those one for the object: nothing that could be compared with a file.
    Composite,
    /// A CRC64NVME of the whole.
    Whole,
}

fn content(seed: u8, len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed.into());
    std::iter::repeat_with(|| random.u8(..)).take(len).collect()
}

/// Writes an object in one piece, as every tool does with small files.
async fn put(world: &World, key: &str, bytes: &[u8], meta: &[(&str, String)]) {
    let mut put = world.endpoint.client().put_object();
    for (name, value) in meta {
        put = put.metadata(*name, value);
    }
    let body = ByteStream::from(bytes.to_vec());
    put.bucket(BUCKET).key(key).body(body).send().await.unwrap();
}

/// Writes an object in parts of one size.
async fn put_parts(
    world: &World,
    key: &str,
    bytes: &[u8],
    part_bytes: usize,
    sums: Sums,
    meta: &[(&str, String)],
) {
    let client = world.endpoint.client();
    let mut create = client.create_multipart_upload();
    for (name, value) in meta {
        create = create.metadata(*name, value);
    }
    let (algorithm, kind) = match sums {
        Sums::Composite => (ChecksumAlgorithm::Crc32, ChecksumType::Composite),
        Sums::Whole => (ChecksumAlgorithm::Crc64Nvme, ChecksumType::FullObject),
    };
    let create = create
        .checksum_algorithm(algorithm.clone())
        .checksum_type(kind);
    let created = create.bucket(BUCKET).key(key).send().await.unwrap();
    let id = created.upload_id().unwrap();
    let mut parts = Vec::new();
    for (number, part) in (1..).zip(bytes.chunks(part_bytes)) {
        let answer = client
            .upload_part()
            .checksum_algorithm(algorithm.clone())
            .bucket(BUCKET)
            .key(key)
            .upload_id(id)
            .part_number(number)
            .body(ByteStream::from(part.to_vec()))
            .send()
            .await
            .unwrap();
        parts.push(
            CompletedPart::builder()
                .part_number(number)
                .set_e_tag(answer.e_tag)
                .set_checksum_crc32(answer.checksum_crc32)
                .set_checksum_crc64_nvme(answer.checksum_crc64_nvme)
                .build(),
        );
    }
    let parts = CompletedMultipartUpload::builder()
        .set_parts(Some(parts))
        .build();
    client
        .complete_multipart_upload()
        .bucket(BUCKET)
        .key(key)
        .upload_id(id)
        .multipart_upload(parts)
        .send()
        .await
        .unwrap();
}

/// Leaves a folder in the bucket as rclone, aws-cli, s5cmd and mc do, each file as one of them; returns how each of them
/// has to be proven.
async fn written_by_tools(world: &World) -> Adopted {
    let files = [
        ("small.txt", content(1, 1_000)),
        ("empty", Vec::new()),
        ("rclone/large.bin", content(2, 20 * MIB)),
        ("aws/new.bin", content(3, 20 * MIB)),
        ("aws/old.bin", content(4, 20 * MIB + 1)),
        ("aws/ten.bin", content(5, 10 * MIB)),
        ("s5cmd/large.bin", content(6, 18 * MIB)),
        ("mc/large.bin", content(7, 33 * MIB)),
        ("ours.bin", content(8, 17 * MIB)),
    ];
    for (name, bytes) in &files {
        world.write(name, bytes);
    }
    let mtime = [("mtime", "1764000000.123456789".to_owned())];
    put(world, "p/small.txt", &files[0].1, &mtime).await;
    put(world, "p/empty", b"", &[]).await;
    let rclone = &files[2].1;
    let md5 = BASE64_STANDARD.encode(Md5::digest(rclone));
    let meta = [mtime[0].clone(), ("md5chksum", md5)];
    put_parts(
        world,
        "p/rclone/large.bin",
        rclone,
        5 * MIB,
        Sums::Composite,
        &meta,
    )
    .await;
    put_parts(
        world,
        "p/aws/new.bin",
        &files[3].1,
        8 * MIB,
        Sums::Whole,
        &[],
    )
    .await;
    put_parts(
        world,
        "p/aws/old.bin",
        &files[4].1,
        8 * MIB,
        Sums::Composite,
        &[],
    )
    .await;
    put_parts(
        world,
        "p/aws/ten.bin",
        &files[5].1,
        8 * MIB,
        Sums::Composite,
        &[],
    )
    .await;
    put(world, "p/s5cmd/large.bin", &files[6].1, &[]).await;
    put_parts(
        world,
        "p/mc/large.bin",
        &files[7].1,
        16 * MIB,
        Sums::Composite,
        &[],
    )
    .await;
    let sha256 = [("sha256", Sha256::of(&files[8].1).to_hex())];
    put_parts(
        world,
        "p/ours.bin",
        &files[8].1,
        8 * MIB,
        Sums::Composite,
        &sha256,
    )
    .await;
    world.endpoint.reset_counts();
    Adopted {
        sha256: 1,
        etag: 3,
        md5: 1,
        checksum: 1,
        parts: 3,
    }
}

async fn adopt(world: &World, more: &[&str]) -> Ended {
    ended(&mut world.command("adopt", more)).await
}

fn lines(ended: &Ended) -> Vec<Value> {
    let lines = ended.out.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Counts the requests that send bytes of files, or change objects.
fn sent(world: &World) -> usize {
    let writes = [
        "PutObject",
        "CreateMultipartUpload",
        "UploadPart",
        "CopyObject",
        "DeleteObject",
    ];
    writes.iter().map(|what| world.endpoint.count(what)).sum()
}

/// Returns what was set aside, by path.
fn trash(world: &World) -> Vec<(String, Vec<u8>)> {
    let objects = world.endpoint.objects().into_iter();
    objects
        .filter_map(|(key, bytes)| {
            let rest = key.strip_prefix("p/.tidewatch/trash/")?;
            let (_, path) = rest.split_once('/')?;
            Some((path.to_owned(), bytes))
        })
        .collect()
}

#[tokio::test]
async fn what_each_tool_left_is_adopted_without_sending_a_byte() {
    let world = World::new().await;
    let expected = written_by_tools(&world).await;
    let ended = adopt(&world, &["--json"]).await;
    assert_eq!(ended.code, Some(0), "{}{}", ended.out, ended.err);
    let lines = lines(&ended);
    assert_eq!(lines[0]["event"], "plan");
    assert_eq!(lines[0]["would_compare"], 9);
    assert_eq!(lines[0]["would_upload"], 0);
    let adopted = lines.iter().filter(|line| line["event"] == "adopted");
    assert_eq!(adopted.count(), 9);
    let summary = lines.last().unwrap();
    assert_eq!(summary["level"], true);
    assert_eq!(summary["adopted_by"], json!(expected), "{summary}");
    assert_eq!(
        (&summary["adopted"], &summary["bytes"]),
        (&json!(9), &json!(0))
    );
    assert_eq!(sent(&world), 0, "{:?}", world.endpoint.requests());
    assert_eq!(trash(&world), []);

    // From now on it is a folder like any other.
    world.endpoint.reset_counts();
    world.sync_level().await;
    assert_eq!(world.endpoint.count("*"), 0);
    let again = adopt(&world, &[]).await;
    assert_eq!(again.code, Some(0), "{}", again.err);
    assert!(
        again.out.contains("was synced to s3://tide/p/ before"),
        "{}",
        again.out
    );
    assert!(again.out.contains("level: 0 uploaded"), "{}", again.out);
}

#[tokio::test]
async fn what_differs_is_sent_and_what_was_there_lies_in_trash() {
    let world = World::new().await;
    let all = written_by_tools(&world).await;
    let before = world.objects();
    // Same size, another byte; another size; new; and one that only the bucket has.
    for name in ["small.txt", "rclone/large.bin", "aws/old.bin"] {
        let mut bytes = fs::read(world.tree(name)).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        world.write(name, bytes);
    }
    world.write("mc/large.bin", content(9, 17 * MIB));
    world.write("new.txt", b"new");
    fs::remove_file(world.tree("s5cmd/large.bin")).unwrap();
    let ended = adopt(&world, &[]).await;
    assert_eq!(ended.code, Some(0), "{}{}", ended.out, ended.err);
    assert_eq!(
        ended.out.lines().take(5).collect::<Vec<_>>(),
        [
            "7 files (87.0 MiB) of the same size as the object there: compared by content, and sent only if it differs",
            "1 file (17.0 MiB) of another size than the object there: that is set aside into trash, the file is sent",
            "1 file (3 B) only here: sent",
            "1 object (18.0 MiB) only there: they stay",
            "so 2 files (17.0 MiB) to send with about 16 requests; 9 files (104.0 MiB) with 46 (0.0002 USD at most) if nothing is equal",
        ]
    );
    assert!(
        ended.out.contains("level: 5 uploaded (57.0 MiB), 4 adopted (47.0 MiB; 1 by SHA-256, 1 by ETag, 1 by checksum, 1 by ETag of parts), 4 set aside, 0 unchanged"),
        "{}",
        ended.out
    );
    assert_eq!(all.total(), 9);
    let mut aside = trash(&world);
    aside.sort();
    let changed = [
        "aws/old.bin",
        "mc/large.bin",
        "rclone/large.bin",
        "small.txt",
    ];
    assert_eq!(
        aside.iter().map(|(path, _)| path).collect::<Vec<_>>(),
        changed
    );
    for (path, bytes) in &aside {
        assert!(before[path] == *bytes, "{path}");
    }
    let after = world.objects();
    for (path, bytes) in &after {
        let here = fs::read(world.tree(path)).unwrap_or_else(|_| before[path].clone());
        assert!(here == *bytes, "{path}");
    }
    assert_eq!(after.len(), 10);
}

#[tokio::test]
async fn a_dry_adoption_writes_nothing_anywhere_and_says_what_would_be_done() {
    let world = World::new().await;
    written_by_tools(&world).await;
    put(&world, "p/folder/", b"", &[]).await;
    put(&world, "p/x//y", b"odd", &[]).await;
    world.write("new.txt", b"new");
    world.write("small.txt", b"of another size");
    let objects = world.endpoint.objects();
    world.endpoint.reset_counts();
    let ended = adopt(&world, &["--dry-run", "--json"]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    let lines = lines(&ended);
    assert_eq!(lines.len(), 1, "{}", ended.out);
    let plan = &lines[0];
    let expected = json!({
        "event": "plan", "dry_run": true, "level": false, "objects_there": 11,
        "would_compare": 8, "would_upload": 2, "would_set_aside": 1, "only_there": 1,
        "folder_markers": 1, "odd_keys": 1, "odd_key_names": ["p/x//y"],
        "bytes": 18, "set_aside_bytes": 15, "only_there_bytes": 3,
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&plan[name], value, "{name}: {plan}");
    }
    assert!(!world.state().exists());
    assert!(objects == world.endpoint.objects());
    let seen = world.endpoint.all_requests();
    let operations: Vec<_> = seen.iter().map(|seen| seen.operation).collect();
    assert_eq!(operations, ["HeadBucket", "ListObjectsV2", "GetObject"]);

    let said = adopt(&world, &["--dry-run"]).await.out;
    assert!(
        said.contains("1 object that only mark a folder: ignored"),
        "{said}"
    );
    assert!(
        said.contains("1 of them under keys that no file can have: `p/x//y`"),
        "{said}"
    );
    // A plan and a run end alike.
    world.write("x".repeat(250) + "/" + &["y"; 400].join("/"), b"too deep");
    assert_eq!(adopt(&world, &["--dry-run"]).await.code, Some(3));
    assert_eq!(adopt(&world, &[]).await.code, Some(3));
    let keys = world.endpoint.keys();
    assert!(keys.iter().any(|key| key == "p/folder/"), "{keys:?}");
    assert!(keys.iter().any(|key| key == "p/x//y"), "{keys:?}");
    assert_eq!(trash(&world).len(), 1);
}

#[tokio::test]
async fn a_dry_sync_tells_what_is_compared_from_what_is_sent() {
    let world = World::new().await;
    world.write("same", b"same");
    world.write("other", b"ours");
    put(&world, "p/same", b"same", &[]).await;
    put(&world, "p/other", b"theirs", &[]).await;
    let ended = world.sync(&["--dry-run"]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert_eq!(
        ended.out,
        "2 objects are under s3://tide/p/ already: equal ones would be adopted without sending, others set aside before their key is written\n\
         would upload other → p/other (4 B)\n\
         would compare same → p/same (4 B)\n\
         would upload 1 files (4 B) with about 5 requests, for less than 0.0001 USD at most; 0 unchanged; would compare 1 (4 B) with the objects there\n"
    );
}

#[tokio::test]
async fn a_bucket_that_cannot_be_reached_or_is_not_ours_is_not_adopted() {
    let world = World::new().await;
    world.write("a", b"a");
    let watch = world.command("watch", &[]).spawn().unwrap();
    let has_lease = |endpoint: &Endpoint| {
        let keys = endpoint.all_keys();
        keys.iter().any(|key| key == "p/.tidewatch/lease.json")
    };
    world.endpoint.until("a lease", has_lease).await;
    let elsewhere = |bucket: &str| {
        let mut command = world.bare(["adopt"]);
        let to = format!("s3://{bucket}/p");
        command
            .arg(world.tree(""))
            .args([&to, "--endpoint-url", &world.endpoint.url()]);
        command
    };
    for more in ["--dry-run", "--json"] {
        let taken = ended(elsewhere(BUCKET).arg(more)).await;
        assert_eq!(taken.code, Some(6), "{}{}", taken.out, taken.err);
        assert!(
            taken.err.contains("another agent owns the prefix"),
            "{}",
            taken.err
        );
    }
    send(&watch, Signal::KILL);
    assert_eq!(end_of(watch).await.code, None);
    let absent = ended(&mut elsewhere("nosuch")).await;
    assert_eq!(absent.code, Some(5), "{}", absent.err);
    assert_eq!(adopt(&world, &["--no-such-option"]).await.code, Some(2));
}

#[tokio::test]
async fn after_a_lost_state_nothing_is_sent_that_is_there() {
    let world = World::new().await;
    world.write("small", content(1, 5_000));
    world.write("large", content(2, 20 * MIB));
    world.sync_level().await;
    fs::remove_dir_all(world.state()).unwrap();
    world.endpoint.reset_counts();
    let ended = world.sync(&["--json"]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    let summary = lines(&ended).pop().unwrap();
    assert_eq!(
        (&summary["adopted"], &summary["bytes"]),
        (&json!(2), &json!(0))
    );
    assert_eq!(sent(&world), 0, "{:?}", world.endpoint.requests());
}

#[tokio::test(start_paused = true)]
async fn where_a_store_keeps_no_checksums_the_parts_are_made_again() {
    let habits = Habits {
        ignores_checksums: true,
        ..Habits::default()
    };
    let bench = Bench::with_habits(slow(5), habits);
    let path = |name: &str| RelPath::root().join(name.as_bytes());
    let (equal, other) = (content(1, 20 * MIB), content(2, 20 * MIB));
    for (name, part_bytes) in [
        ("rclone", 5 * MIB),
        ("aws", 8 * MIB),
        ("odd", 11 * MIB),
        ("other", 8 * MIB),
    ] {
        let key = format!("p/{name}");
        let meta = Meta::default();
        let id = bench.bucket.create_multipart(&key, &meta).await.unwrap();
        let mut parts = Vec::new();
        for (number, part) in (1..).zip(equal.chunks(part_bytes)) {
            let body = Body::of(bytes::Bytes::copy_from_slice(part));
            parts.push(
                bench
                    .bucket
                    .put_part(&key, &id, number, body)
                    .await
                    .unwrap(),
            );
        }
        bench
            .bucket
            .complete(&key, &id, &parts, None)
            .await
            .unwrap();
        let here = if name == "other" { &other } else { &equal };
        bench.tree.write(&path(name), here);
    }
    let ended = bench.sync().await;
    assert!(ended.last.level, "{:?}", ended.last);
    let tally = ended.last.tally;
    assert_eq!((tally.adopted.parts, tally.adopted.total()), (2, 2));
    // What cannot be proven is set aside, and sent or copied from what has been.
    assert_eq!((tally.set_aside, tally.uploaded + tally.copied), (2, 2));
    assert!(bench.object("other").unwrap() == other);
    assert!(bench.object("odd").unwrap() == equal);
}

#[tokio::test(start_paused = true)]
async fn an_adoption_that_takes_longer_than_the_patience_of_a_sync_goes_on() {
    let bench = Bench::new(slow(20_000));
    for number in 0..40 {
        let name = format!("f{number}");
        bench.bucket.plant(&format!("p/{name}"), name.as_bytes());
        let path = RelPath::root().join(name.as_bytes());
        bench.tree.write(&path, name.as_bytes());
    }
    let began = bench.clock.now().mono;
    let ended = bench.sync().await;
    assert!(ended.last.level, "{:?}", ended.reason);
    assert_eq!(ended.last.tally.adopted.etag, 40);
    assert!(crate::agent::passed(began) > std::time::Duration::from_secs(120));
}
