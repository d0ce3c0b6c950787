//! What goes wrong on the way: nothing half done is left, and whoever asked is told.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Signal;

use crate::manifest::faults::tmpfs;
use crate::process::{World, complaints, end_of, ended, eventually, send};
use crate::restore::{back, command, names, plant, restore, told, tree};
use crate::support::endpoint::{Endpoint, Fault};

/// Plants this many objects of some bytes.
async fn many(world: &World, count: usize) {
    for number in 0..count {
        plant(world, &format!("p/d{}/{number}", number % 3), b"tide", &[]).await;
    }
}

/// Counts the files that have their names, also while others are on their way.
fn count_files(world: &World) -> usize {
    let folders = (0..3).map(|number| back(world).join(format!("d{number}")));
    let inside = folders
        .filter(|folder| folder.exists())
        .flat_map(|folder| names(&folder));
    inside
        .filter(|name| !name.starts_with(b".tidewatch-restore-"))
        .count()
}

#[tokio::test]
async fn a_killed_restore_is_finished_by_the_next_one() {
    let world = World::new().await;
    many(&world, 60).await;
    let large = vec![7; 20 << 20];
    plant(&world, "p/d0/large", &large, &[]).await;
    world.endpoint.latency(Duration::from_millis(20));
    let mut child = command(&world, &["--concurrency", "2"]).spawn().unwrap();
    eventually("some files are back", || count_files(&world) >= 10).await;
    send(&child, Signal::KILL);
    child.wait().await.unwrap();
    world.endpoint.clear();
    // What a kill in the middle of a write leaves, and what only looks like it.
    for (folder, name) in [
        ("d0", ".tidewatch-restore-0123456789abcdef"),
        ("d0", ".tidewatch-restore-mine"),
    ] {
        fs::write(back(&world).join(folder).join(name), b"half").unwrap();
    }
    world.endpoint.reset_counts();
    let done = restore(&world, &["--json"]).await;
    assert_eq!(done.code, Some(0), "{}{}", done.out, done.err);
    let (_, summary) = told(&done);
    let equal = summary["equal"].as_u64().unwrap();
    assert!(equal >= 9, "{summary}");
    assert_eq!(summary["restored"].as_u64().unwrap() + equal, 61);
    assert!(fs::read(back(&world).join("d0/large")).unwrap() == large);
    let left = |name: &&Vec<u8>| name.starts_with(b".tidewatch-restore-");
    let names = names(&back(&world).join("d0"));
    let left: Vec<_> = names.iter().filter(left).collect();
    assert_eq!(left, [&b".tidewatch-restore-mine".to_vec()]);
}

#[tokio::test]
async fn a_stopped_restore_keeps_and_counts_what_came_back() {
    let world = World::new().await;
    many(&world, 40).await;
    world.endpoint.latency(Duration::from_millis(30));
    let child = command(&world, &["--concurrency", "2", "--json"])
        .spawn()
        .unwrap();
    eventually("some files are back", || count_files(&world) >= 6).await;
    send(&child, Signal::TERM);
    let ended = end_of(child).await;
    assert_eq!(ended.code, Some(143), "{}{}", ended.out, ended.err);
    let (events, summary) = told(&ended);
    let restored = events
        .iter()
        .filter(|(event, _)| event == "restored")
        .count();
    assert_eq!(restored, count_files(&world));
    assert_eq!(summary["restored"], restored, "{summary}");
    assert_eq!(summary["done"], false);
    let temporary = |name: &Vec<u8>| name.windows(18).any(|part| part == b".tidewatch-restore");
    assert!(!tree(&back(&world)).keys().any(temporary));
}

#[tokio::test]
async fn what_is_not_what_was_stored_is_not_put_in_place() {
    let world = World::new().await;
    let wrong = "0".repeat(64);
    let large = vec![7; 9 << 20];
    plant(&world, "p/good", b"tide", &[]).await;
    plant(&world, "p/small", b"rotten", &[("sha256", &wrong)]).await;
    plant(&world, "p/large", &large, &[("sha256", &wrong)]).await;
    let ended = restore(&world, &["--json"]).await;
    assert_eq!(ended.code, Some(3), "{}{}", ended.out, ended.err);
    let (events, summary) = told(&ended);
    let expected = [
        ("restored", "good"),
        ("unverified", "large"),
        ("unverified", "small"),
    ];
    assert_eq!(events, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
    assert_eq!(summary["unverified"], 2);
    assert_eq!(names(&back(&world)), [b"good"]);
    // A person reads which.
    let ended = restore(&world, &[]).await;
    let line = "unverified small: its SHA-256 is not the one that it was stored with";
    assert!(ended.out.contains(line), "{}", ended.out);
}

#[tokio::test]
async fn a_store_that_stumbles_is_asked_again() {
    let world = World::new().await;
    many(&world, 20).await;
    plant(&world, "p/d0/large", &vec![1; 30 << 20], &[]).await;
    world
        .endpoint
        .fail_next("GetObject", 12, Fault::Error(503, "SlowDown"));
    world.endpoint.fail_next("GetObject", 3, Fault::Reset);
    let ended = restore(&world, &[]).await;
    assert_eq!(ended.code, Some(0), "{}{}", ended.out, ended.err);
    assert_eq!(count_files(&world), 21);
}

#[tokio::test]
async fn an_object_that_changes_while_it_is_read_comes_back_as_one_of_its_contents() {
    let world = World::new().await;
    let (old, new) = (vec![1; 30 << 20], vec![2; 29 << 20]);
    plant(&world, "p/large", &old, &[]).await;
    // After the first range the others wait until the object is another one.
    let is_new = Arc::new(AtomicBool::new(false));
    let (has_begun, has_changed) = (AtomicBool::new(false), is_new.clone());
    world.endpoint.script(move |seen| {
        let is_early = seen.operation == "GetObject"
            && has_begun.swap(true, Ordering::Relaxed)
            && !has_changed.load(Ordering::Relaxed);
        is_early.then_some(Fault::Error(503, "SlowDown"))
    });
    let child = command(&world, &["--concurrency", "1", "--json"])
        .spawn()
        .unwrap();
    let begun = |e: &Endpoint| e.count("GetObject") > 0;
    world.endpoint.until("the first range", begun).await;
    plant(&world, "p/large", &new, &[]).await;
    is_new.store(true, Ordering::Relaxed);
    let ended = end_of(child).await;
    assert_eq!(ended.code, Some(0), "{}{}", ended.out, ended.err);
    assert!(fs::read(back(&world).join("large")).unwrap() == new);
    assert_eq!(names(&back(&world)), [b"large"]);
}

#[tokio::test]
async fn owners_come_back_only_if_they_are_asked_for_and_only_for_root() {
    const NOBODY: u32 = 65_534;
    let world = World::new().await;
    let user = [
        ("gid", "65534"),
        ("mode", "4755"),
        ("mtime", "1.5"),
        ("uid", "65534"),
    ];
    plant(&world, "p/a", b"tide", &user).await;
    let ended = restore(&world, &["--owner"]).await;
    if !rustix::process::geteuid().is_root() {
        assert_eq!(ended.code, Some(2), "{}", ended.err);
        assert!(ended.err.contains("only root"), "{}", ended.err);
        assert!(!back(&world).exists());
        return;
    }
    assert_eq!(ended.code, Some(0), "{}{}", ended.out, ended.err);
    let stat = fs::metadata(back(&world).join("a")).unwrap();
    assert_eq!(
        (stat.uid(), stat.gid(), stat.mode() & 0o7777),
        (NOBODY, NOBODY, 0o4755)
    );
    assert_eq!((stat.mtime(), stat.mtime_nsec()), (1, 500_000_000));
    // Without it a file of another owner is equal, and is left alone.
    world.endpoint.reset_counts();
    let again = restore(&world, &[]).await;
    assert_eq!(again.code, Some(0), "{}{}", again.out, again.err);
    assert_eq!(world.endpoint.count("GetObject"), 0);
    assert_eq!(fs::metadata(back(&world).join("a")).unwrap().uid(), NOBODY);
}

#[tokio::test]
async fn a_file_that_fails_is_named_and_the_others_come_back() {
    let world = World::new().await;
    many(&world, 3).await;
    world.endpoint.script(|seen| {
        let is_it = seen.operation == "GetObject" && seen.key == "p/d1/1";
        is_it.then_some(Fault::Error(403, "InvalidObjectState"))
    });
    let ended = restore(&world, &["--json"]).await;
    assert_eq!(ended.code, Some(1), "{}{}", ended.out, ended.err);
    let (events, _) = told(&ended);
    let expected = [
        ("failed", "d1/1"),
        ("restored", "d0/0"),
        ("restored", "d2/2"),
    ];
    assert_eq!(events, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
}

#[tokio::test]
async fn what_cannot_begin_says_why_and_leaves_nothing() {
    let world = World::new().await;
    plant(&world, "p/a", b"tide", &[]).await;
    let url = world.endpoint.url();
    for (from, more, code, said) in [
        ("s3://tide/q", &[][..], 2, "nothing under the prefix `q/`"),
        ("s3://tide/a//b", &[], 2, "an empty component"),
        ("s3://nowhere/p", &[], 5, "NoSuchBucket"),
        ("nothing", &[], 2, "`nothing`"),
        (
            "s3://tide/p",
            &["--on-conflict", "burn"],
            2,
            "expected fail, skip or overwrite",
        ),
        ("s3://tide/p", &["../x"], 2, "not a path inside the folder"),
    ] {
        let mut command = world.bare(["restore", from, "--endpoint-url", &url]);
        let ended = ended(command.arg("--to").arg(back(&world)).args(more)).await;
        assert_eq!(ended.code, Some(code), "{from} {more:?}: {}", ended.err);
        assert!(ended.err.contains(said), "{from} {more:?}: {}", ended.err);
        assert!(!back(&world).exists());
    }
    // A file where the target has to be.
    fs::write(back(&world), b"mine").unwrap();
    let ended = restore(&world, &[]).await;
    assert_eq!(ended.code, Some(1), "{}", ended.err);
    assert!(
        complaints(&ended)[0].contains("Not a directory"),
        "{}",
        ended.err
    );
    assert_eq!(fs::read(back(&world)).unwrap(), b"mine");
}

#[tokio::test]
async fn a_right_that_is_missing_ends_it_with_5() {
    let world = World::new().await;
    many(&world, 3).await;
    world
        .endpoint
        .always("GetObject", Fault::Error(403, "AccessDenied"));
    let ended = restore(&world, &[]).await;
    assert_eq!(ended.code, Some(5), "{}{}", ended.out, ended.err);
    assert!(ended.out.contains("AccessDenied"), "{}", ended.out);
    world.endpoint.clear();
    world
        .endpoint
        .always("ListObjectsV2", Fault::Error(403, "AccessDenied"));
    let ended = restore(&world, &[]).await;
    assert_eq!(ended.code, Some(5), "{}{}", ended.out, ended.err);
}

#[tokio::test]
async fn an_endpoint_that_is_not_there_ends_it_with_5() {
    let world = World::new().await;
    // Taken and given back: nobody listens there.
    let address = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let url = format!("http://{address}");
    let mut command = world.bare(["restore", "s3://tide/p", "--endpoint-url", &url, "--to"]);
    let ended = ended(command.arg(back(&world))).await;
    assert_eq!(ended.code, Some(5), "{}{}", ended.out, ended.err);
    assert!(
        complaints(&ended)[0].contains("cannot connect"),
        "{}",
        ended.err
    );
    assert!(!back(&world).exists());
}

#[tokio::test]
async fn two_restores_do_not_write_into_one_folder() {
    let world = World::new().await;
    many(&world, 20).await;
    world.endpoint.latency(Duration::from_millis(50));
    let child = command(&world, &["--concurrency", "1"]).spawn().unwrap();
    eventually("the first is at work", || count_files(&world) >= 1).await;
    let second = restore(&world, &[]).await;
    assert_eq!(second.code, Some(1), "{}{}", second.out, second.err);
    assert!(second.err.contains("another restore"), "{}", second.err);
    world.endpoint.clear();
    let first = end_of(child).await;
    assert_eq!(first.code, Some(0), "{}{}", first.out, first.err);
}

#[tokio::test]
async fn a_restore_into_a_folder_that_is_synced_says_so() {
    let world = World::new().await;
    world.write("a", b"tide");
    world.sync_level().await;
    let mut command = world.bare(["restore", "tree", "--state-dir"]);
    command
        .arg(world.state())
        .arg("--to")
        .arg(world.tree("again"));
    let ended = ended(&mut command).await;
    assert_eq!(ended.code, Some(0), "{}{}", ended.out, ended.err);
    assert!(
        ended.err.contains("is synced to s3://tide/p/"),
        "{}",
        ended.err
    );
}

#[tokio::test]
async fn a_full_disk_ends_it_with_one_message_and_nothing_half_done() {
    let world = World::new().await;
    fs::create_dir(back(&world)).unwrap();
    let Some(mount) = tmpfs(&back(&world)) else {
        return;
    };
    plant(&world, "p/a", b"tide", &[]).await;
    plant(&world, "p/b", &vec![7; 5 << 20], &[]).await;
    let list = world.dir.path().join("list");
    let script = format!(
        "{mount} && \"$0\" \"$@\"; code=$?; ls -A '{}' > '{}'; exit $code",
        back(&world).display(),
        list.display()
    );
    let inner = command(&world, &["--concurrency", "1"]);
    let mut outer = tokio::process::Command::new("unshare");
    outer.args(["-rm", "sh", "-c", &script]);
    outer
        .arg(inner.as_std().get_program())
        .args(inner.as_std().get_args());
    outer
        .env_clear()
        .envs(world.endpoint.env())
        .env("HOME", world.dir.path());
    outer.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    let ended = ended(&mut outer).await;
    assert_eq!(ended.code, Some(1), "{}{}", ended.out, ended.err);
    let said = complaints(&ended);
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("the target's disk is full"), "{said:?}");
    assert_eq!(fs::read_to_string(list).unwrap(), "a\n");
}
