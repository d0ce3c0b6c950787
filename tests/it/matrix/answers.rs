//! Rows 47, 49, 50, 52, 53 and 55: answers that are missing, false or about something else, over HTTP.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::process::{World, complaints, ended};
use crate::support::endpoint::Fault;
use crate::watching::table::row;

#[tokio::test]
async fn r47_a_body_that_was_cut_off_is_not_there_and_is_sent_again() {
    let _row = row!();
    let world = World::new().await;
    world.write("a", vec![7; 3 << 20]);
    let mut cuts = 2;
    world.endpoint.script(move |seen| {
        let is_cut = seen.operation == "PutObject" && seen.key == "p/a" && cuts > 0;
        cuts -= usize::from(is_cut);
        is_cut.then_some(Fault::Reset)
    });
    world.sync_level().await;
    assert_eq!(world.endpoint.count("PutObject"), 3);
    assert_eq!(world.object("a").unwrap(), vec![7; 3 << 20]);
    // Where the line never holds nothing comes to be, and that is said.
    world.write("b", vec![8; 3 << 20]);
    world.endpoint.always("*", Fault::Reset);
    let ended = world.sync(&["--timeout", "1s"]).await;
    assert_eq!(ended.code, Some(5), "{}", ended.err);
    assert!(world.object("b").is_none());
}

#[tokio::test]
async fn r49_an_error_inside_a_success_is_a_failure() {
    const ERROR: &str = "<Error><Code>InternalError</Code><Message>of late</Message></Error>";
    let _row = row!();
    let world = World::new().await;
    world.write("large", vec![3; 17 << 20]);
    world.endpoint.fail_next(
        "CompleteMultipartUpload",
        1,
        Fault::Answer(200, ERROR.to_owned()),
    );
    world.sync_level().await;
    assert!(world.endpoint.count("CompleteMultipartUpload") >= 2);
    assert_eq!(world.object("large").unwrap().len(), 17 << 20);
    // The same of a copy: the other name is a copy of the first.
    world
        .endpoint
        .fail_next("CopyObject", 2, Fault::Answer(200, ERROR.to_owned()));
    world.write("small", "the same twice");
    world.sync_level().await;
    world.write("other", "the same twice");
    let ended = world.sync(&[]).await;
    assert!(world.endpoint.count("CopyObject") > 0, "{}", ended.out);
    // Sent instead, or told to have failed: never called done without an object.
    let is_there = world.object("other") == Some(b"the same twice".to_vec());
    assert_eq!(ended.code == Some(0), is_there, "{}", ended.err);
    world.endpoint.clear();
    world.sync_level().await;
    assert_eq!(world.object("other").unwrap(), b"the same twice");
}

/// A line that flips a bit in the first body that holds `mark`; returns its URL, and what keeps it.
async fn flipping(to: String, mark: &'static [u8]) -> (String, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let is_done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut lines = JoinSet::new();
        while let Ok((near, _)) = listener.accept().await {
            let far = TcpStream::connect(to.trim_start_matches("http://"))
                .await
                .unwrap();
            let is_done = is_done.clone();
            lines.spawn(async move {
                let (mut from_near, mut to_near) = near.into_split();
                let (mut from_far, mut to_far) = far.into_split();
                let there = async {
                    let mut buffer = vec![0; 65_536];
                    while let Ok(len @ 1..) = from_near.read(&mut buffer).await {
                        let piece = &mut buffer[..len];
                        let at = piece.windows(mark.len()).position(|part| part == mark);
                        if let Some(at) = at
                            && !is_done.swap(true, std::sync::atomic::Ordering::SeqCst)
                        {
                            piece[at] ^= 1;
                        }
                        if to_far.write_all(piece).await.is_err() {
                            break;
                        }
                    }
                };
                let back = tokio::io::copy(&mut from_far, &mut to_near);
                tokio::select! {
                    () = there => {}
                    _ = back => {}
                }
            });
        }
    });
    (url, tasks)
}

#[tokio::test]
async fn r50_what_is_corrupted_on_the_wire_is_refused_and_sent_again() {
    let _row = row!();
    let world = World::new().await;
    let (url, _line) = flipping(world.endpoint.url(), b"mark of the content").await;
    world.write("a", "before it, the mark of the content, and after it");
    let mut command = world.bare(["sync"]);
    command
        .arg(world.tree(""))
        .args(["s3://tide/p", "--endpoint-url", &url, "--state-dir"])
        .arg(world.state());
    let ended = ended(&mut command).await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert_eq!(
        world.object("a").unwrap(),
        b"before it, the mark of the content, and after it"
    );
    let requests = world.endpoint.requests();
    let puts: Vec<_> = requests
        .iter()
        .filter(|seen| seen.operation == "PutObject")
        .map(|seen| seen.status)
        .collect();
    assert!(
        puts.len() == 2 && puts[0] != Some(200) && puts[1] == Some(200),
        "{puts:?}"
    );
}

#[tokio::test]
async fn r52_a_bucket_that_cannot_be_used_is_one_clear_line_each() {
    let _row = row!();
    for (status, code, words) in [
        (404, "NoSuchBucket", "NoSuchBucket"),
        (301, "PermanentRedirect", "region"),
        (403, "AccessDenied", "AccessDenied"),
    ] {
        let world = World::new().await;
        world.write("a", "a");
        world.endpoint.always("*", Fault::Error(status, code));
        let ended = world.sync(&["--timeout", "2s"]).await;
        assert_eq!(ended.code, Some(5), "{code}: {}", ended.err);
        let lines = complaints(&ended);
        assert_eq!(lines.len(), 1, "{code}: {}", ended.err);
        assert!(
            lines[0].contains(words) || lines[0].contains("tide"),
            "{code}: {}",
            ended.err
        );
        let asked = world.endpoint.all_requests().len();
        assert!(asked < 80, "{code}: {asked} requests");
    }
    // A lock on what is to go: it stays, and is named.
    let world = World::new().await;
    world.write("a", "a");
    world.write("b", "b");
    let delete = ["--on-delete", "delete", "--timeout", "2s"];
    assert_eq!(world.sync(&delete).await.code, Some(0));
    std::fs::remove_file(world.tree("a")).unwrap();
    for operation in ["DeleteObject", "DeleteObjects"] {
        world
            .endpoint
            .always(operation, Fault::Error(403, "AccessDenied"));
    }
    let ended = world.sync(&delete).await;
    assert_ne!(ended.code, Some(0), "{}{}", ended.out, ended.err);
    assert_eq!(world.object("a").unwrap(), b"a");
    let asked = world.endpoint.count("DeleteObject") + world.endpoint.count("DeleteObjects");
    assert!(asked < 20, "{asked} requests");
}

#[tokio::test]
async fn r53_an_upload_by_parts_survives_a_lost_part_a_lost_id_and_a_lost_answer() {
    let _row = row!();
    let world = World::new().await;
    let content: Vec<u8> = (0..(20_u32 << 20)).map(|n| (n % 241) as u8).collect();
    for (operation, fault) in [
        ("UploadPart", Fault::Reset),
        ("UploadPart", Fault::Error(404, "NoSuchUpload")),
        ("CompleteMultipartUpload", Fault::Error(400, "InvalidPart")),
        ("CompleteMultipartUpload", Fault::DropAnswer),
    ] {
        let name = format!("{operation} {fault:?}");
        let mut bytes = content.clone();
        bytes.extend(name.as_bytes());
        world.write("large", &bytes);
        world.endpoint.fail_next(operation, 1, fault);
        let first = world.sync(&[]).await;
        if first.code != Some(0) {
            world.sync_level().await;
        }
        assert!(world.object("large").unwrap() == bytes, "{name}");
        assert_eq!(world.endpoint.open_uploads(), [], "{name}");
        world.endpoint.clear();
    }
}

#[tokio::test]
async fn r55_an_object_that_a_listing_leaves_out_is_not_missing() {
    const EMPTY: &str = "<ListBucketResult><Name>tide</Name><Prefix>p/</Prefix>\
        <KeyCount>0</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated></ListBucketResult>";
    let _row = row!();
    let world = World::new().await;
    for n in 0..5 {
        world.write(format!("f{n}"), format!("content {n}"));
    }
    world.sync_level().await;
    let before = world.objects();
    world
        .endpoint
        .always("ListObjectsV2", Fault::Answer(200, EMPTY.to_owned()));
    let verify = ended(
        world
            .bare(["verify", "--state-dir"])
            .arg(world.state())
            .args(["--endpoint-url", &world.endpoint.url()]),
    )
    .await;
    assert_eq!(verify.code, Some(0), "{}{}", verify.out, verify.err);
    assert!(world.endpoint.count("HeadObject") >= 5, "a look decides");
    // A lost state with the same listing: nothing is removed, nothing changes.
    std::fs::remove_dir_all(world.state()).unwrap();
    let again = world.sync(&["--on-delete", "delete"]).await;
    assert_eq!(again.code, Some(0), "{}", again.err);
    assert_eq!(world.objects(), before);
    assert_eq!(world.endpoint.count("DeleteObject"), 0);
}
