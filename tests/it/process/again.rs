//! What a later sync finds: nothing to do, changes made meanwhile, what a crash left, what others left.

use std::fs::{self, File};
use std::io::Write as _;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::Signal;

use crate::process::{World, end_of, send};
use crate::support::endpoint::{Fault, Seen};

#[tokio::test]
async fn a_second_sync_asks_for_the_lease_and_nothing_else() {
    let world = World::new().await;
    for number in 0..20 {
        world.write(
            format!("folder {}/{number}", number % 3),
            format!("{number}"),
        );
    }
    world.sync_level().await;
    world.endpoint.reset_counts();
    let ended = world.sync(&[]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert!(
        ended.out.contains("0 uploaded (0 B), 20 unchanged"),
        "{}",
        ended.out
    );
    assert_eq!(
        world.endpoint.count("*"),
        0,
        "{:?}",
        world.endpoint.requests()
    );
    let lease = world.endpoint.all_requests();
    let is_lease = |seen: &Seen| seen.key == "p/.tidewatch/lease.json";
    assert!(lease.iter().all(is_lease), "{lease:?}");
    let writes = lease.iter().filter(|seen| seen.operation == "PutObject");
    assert_eq!(writes.count(), 2, "taken, and given back");
    assert_eq!(world.endpoint.connections(), 1);
}

#[tokio::test]
async fn a_bucket_is_asked_what_it_can_do_by_the_first_sync_only_and_never_by_a_dry_run() {
    let world = World::new().await;
    world.write("a", "a");
    let asked = || {
        let requests = world.endpoint.all_requests();
        let of_probe = |path: &str| path.contains(".tidewatch/probe-");
        requests.iter().filter(|seen| of_probe(&seen.path)).count()
    };
    assert_eq!(world.sync(&["--dry-run"]).await.code, Some(0));
    assert_eq!(asked(), 0);
    world.sync_level().await;
    assert!(asked() > 20);
    world.endpoint.reset_counts();
    world.write("b", "b");
    world.sync_level().await;
    assert_eq!(asked(), 0);
    let keys = world.endpoint.all_keys();
    assert!(!keys.iter().any(|key| key.contains("/probe-")), "{keys:?}");
}

#[tokio::test]
async fn changes_made_while_stopped_are_found() {
    let world = World::new().await;
    for path in ["same size", "appended", "replaced", "left alone"] {
        world.write(path, format!("old {path}"));
    }
    world.sync_level().await;
    world.endpoint.reset_counts();

    // Same size, same mtime: only the ctime gives it away.
    let mtime = fs::metadata(world.tree("same size")).unwrap().modified();
    world.write("same size", "new same size");
    let file = File::options().append(true).open(world.tree("same size"));
    file.unwrap().set_modified(mtime.unwrap()).unwrap();

    let file = File::options().append(true).open(world.tree("appended"));
    file.unwrap().write_all(b", and more").unwrap();

    fs::write(world.tree("other"), "new replaced").unwrap();
    fs::rename(world.tree("other"), world.tree("replaced")).unwrap();

    let outside = world.dir.path().join("outside");
    fs::create_dir_all(outside.join("b")).unwrap();
    fs::write(outside.join("b/c"), "moved in").unwrap();
    fs::rename(&outside, world.tree("a")).unwrap();

    world.sync_level().await;
    let text = |path| String::from_utf8(world.object(path).unwrap()).unwrap();
    assert_eq!(text("same size"), "new same size");
    assert_eq!(text("appended"), "old appended, and more");
    assert_eq!(text("replaced"), "new replaced");
    assert_eq!(text("a/b/c"), "moved in");
    assert_eq!(world.endpoint.count("PutObject"), 4);
    assert_eq!(world.objects().len(), 5);
}

#[tokio::test]
async fn a_file_that_became_a_fifo_keeps_its_object() {
    let world = World::new().await;
    world.write("a", b"content");
    world.sync_level().await;
    fs::remove_file(world.tree("a")).unwrap();
    mknodat(CWD, world.tree("a"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    world.sync_level().await;
    assert_eq!(world.object("a").as_deref(), Some(&b"content"[..]));
}

#[tokio::test]
async fn after_a_kill_in_the_middle_the_next_sync_is_level_and_leaves_no_upload_open() {
    let world = World::new().await;
    for number in 0..200 {
        world.write(format!("{number}"), format!("content {number}"));
    }
    let large = vec![7; 24 << 20];
    world.write("large", &large);
    let slow = Duration::from_millis(200);
    world.endpoint.script(move |seen| {
        matches!(seen.operation, "PutObject" | "UploadPart").then_some(Fault::Delay(slow))
    });
    let child = world
        .command("sync", &["--concurrency", "4"])
        .spawn()
        .unwrap();
    let is_midway = |operation| world.endpoint.count(operation) > 0;
    let midway = world.endpoint.until("both kinds of upload", |_| {
        is_midway("PutObject") && is_midway("UploadPart")
    });
    midway.await;
    send(&child, Signal::KILL);
    assert_eq!(end_of(child).await.code, None);
    assert!(world.objects().len() < 201);

    world.endpoint.clear();
    world.sync_level().await;
    let objects = world.objects();
    assert_eq!(objects.len(), 201);
    assert!(objects["large"] == large);
    for number in 0..200 {
        let expected = format!("content {number}");
        assert_eq!(objects[&number.to_string()], expected.as_bytes());
    }
    assert_eq!(world.endpoint.open_uploads(), []);
}

#[tokio::test]
async fn an_equal_object_of_others_is_adopted_and_a_different_one_set_aside() {
    let world = World::new().await;
    world.write("equal", b"the same");
    world.write("different", b"ours");
    let client = world.endpoint.client();
    for (key, bytes) in [("p/equal", "the same"), ("p/different", "theirs")] {
        let body = bytes.as_bytes().to_vec();
        let put = client.put_object().bucket("tide").key(key);
        put.body(body.into()).send().await.unwrap();
    }
    world.endpoint.reset_counts();

    let ended = world.sync(&["--json"]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    let summary: serde_json::Value =
        serde_json::from_str(ended.out.lines().last().unwrap()).unwrap();
    assert_eq!(summary["set_aside"], 1);
    assert_eq!(summary["uploaded"], 1);
    assert_eq!(world.endpoint.count("PutObject"), 1);
    assert_eq!(world.object("different").unwrap(), b"ours");
    let objects = world.endpoint.objects();
    let aside: Vec<_> = objects
        .iter()
        .filter(|(key, _)| key.starts_with("p/.tidewatch/trash/") && key.ends_with("/different"))
        .collect();
    assert_eq!(aside.len(), 1, "{:?}", objects.keys());
    assert_eq!(aside[0].1, b"theirs");
}

#[tokio::test]
async fn a_sync_whose_catalog_is_refused_has_sent_its_files_and_exits_with_5() {
    let world = World::new().await;
    world.write("a", "a");
    let is_link = |seen: &Seen| seen.key.starts_with("p/.tidewatch/catalog/");
    world.endpoint.meet_catalog();
    world.endpoint.script(move |seen| {
        let refused = Fault::Error(403, "AccessDenied");
        (is_link(seen) && seen.operation == "PutObject").then_some(refused)
    });
    let ended = world.sync(&[]).await;
    assert_eq!(ended.code, Some(5), "{}", ended.err);
    assert!(
        ended
            .err
            .contains("every file is in the bucket, but the catalog of them is not"),
        "{}",
        ended.err
    );
    assert_eq!(world.object("a").as_deref(), Some(&b"a"[..]));
    world.endpoint.clear();

    // A dry run writes none; the next real one does, with one request, if nothing is there.
    let links = || {
        let requests = world.endpoint.all_requests().into_iter();
        requests.filter(is_link).collect::<Vec<_>>()
    };
    world.endpoint.reset_counts();
    assert_eq!(world.sync(&["--dry-run"]).await.code, Some(0));
    assert_eq!(links().len(), 0);
    world.sync_level().await;
    let [link] = &links()[..] else {
        panic!("{:?}", links())
    };
    assert_eq!(
        (link.operation, link.key.as_str()),
        ("PutObject", "p/.tidewatch/catalog/0000000001.jsonl.zst")
    );
    assert_eq!(link.headers["if-none-match"], "*");
    world.endpoint.reset_counts();
    world.sync_level().await;
    assert_eq!(links().len(), 0);
}

#[tokio::test]
async fn a_dry_run_has_patience_for_each_answer_and_not_for_all_together() {
    let world = World::new().await;
    world.write("a", "a");
    world.endpoint.latency(Duration::from_secs(1));
    // The bucket, a listing, the lease: three seconds.
    let patient = world.sync(&["--dry-run", "--timeout", "2s"]).await;
    assert_eq!(patient.code, Some(0), "{}", patient.err);
    let hasty = world.sync(&["--dry-run", "--timeout", "500ms"]).await;
    assert_eq!(hasty.code, Some(5), "{}", hasty.err);
    assert!(
        hasty.err.contains("no answer within 500ms"),
        "{}",
        hasty.err
    );
}
