//! What the store refuses, or cannot take for a while, seen by whoever runs the program.

use std::fs;
use std::sync::Mutex;

use rustix::process::Signal;
use serde_json::Value;

use crate::process::{World, end_of, ended, eventually, send};
use crate::support::endpoint::Fault;

fn refuse(world: &World, name: &'static str, status: u16, code: &'static str) {
    world.endpoint.script(move |seen| {
        let is_meant = seen.operation == "PutObject" && seen.key.ends_with(name);
        is_meant.then_some(Fault::Error(status, code))
    });
}

fn puts(world: &World, name: &str) -> usize {
    let requests = world.endpoint.requests();
    let is_meant = |seen: &&crate::support::endpoint::Seen| {
        seen.operation == "PutObject" && seen.key.ends_with(name)
    };
    requests.iter().filter(is_meant).count()
}

#[tokio::test]
async fn what_is_refused_for_good_is_left_alone_shown_and_taken_up_again() {
    let world = World::new().await;
    world.write("bad", "refused");
    world.write("good", "good");
    refuse(&world, "bad", 400, "InvalidArgument");
    let ended_first = world.sync(&[]).await;
    assert_eq!(ended_first.code, Some(1), "{}", ended_first.err);
    assert_eq!(world.object("good").unwrap(), b"good");
    let tries = puts(&world, "/bad");
    // Tried once more without the checksum, which might have been what it minded.
    assert!((1..=2).contains(&tries), "{tries}");

    // The next one does not try, and does not say that all is well.
    let again = world.sync(&[]).await;
    assert_eq!(again.code, Some(1), "{}", again.err);
    assert_eq!(puts(&world, "/bad"), tries);
    let state = world.state();
    let state = state.to_str().unwrap();
    let shown = ended(&mut world.bare(["status", "--state-dir", state])).await;
    assert!(shown.out.contains("left alone until"), "{}", shown.out);
    assert!(shown.out.contains("--retry-failed"), "{}", shown.out);
    assert!(shown.out.lines().all(|line| line.chars().count() <= 80));
    let bad = world.tree("bad");
    let bad = bad.to_str().unwrap();
    let said = ended(&mut world.bare(["explain", bad, "--state-dir", state, "--json"])).await;
    let said: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(said["code"], "parked", "{said}");

    world.endpoint.clear();
    let retried = world.sync(&["--retry-failed"]).await;
    assert_eq!(retried.code, Some(0), "{}", retried.err);
    assert_eq!(world.object("bad").unwrap(), b"refused");
}

#[tokio::test]
async fn a_running_agent_is_told_to_try_again_what_failed() {
    let world = World::new().await;
    refuse(&world, "bad", 400, "InvalidStorageClass");
    world.write("bad", "refused");
    let child = world
        .command("watch", &["--settle", "50ms"])
        .spawn()
        .unwrap();
    let state = world.state();
    let failed = move || {
        let status = tidewatch::report::status_file::read(&state).unwrap();
        status.is_some_and(|status| status.folders[0].failed == 1)
    };
    eventually("the failure", failed).await;
    world.endpoint.clear();
    let told = world.sync(&["--retry-failed"]).await;
    assert_eq!(told.code, Some(0), "{}", told.err);
    assert!(told.err.contains("tries again"), "{}", told.err);
    eventually("the upload", || world.object("bad").is_some()).await;
    send(&child, Signal::TERM);
    assert_eq!(end_of(child).await.code, Some(0));
}

/// The state folder's disk is full: nothing is sent that could not be written down, and all of it when there is room.
#[tokio::test]
async fn f31_without_room_for_the_manifest_nothing_new_is_sent() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let world = World::new().await;
    fs::create_dir_all(world.state()).unwrap();
    // The first argument is the state folder, the second one where the signs are.
    let script = "set -e; state=$1; signs=$2; shift 2\n\
        mount -t tmpfs -o size=4m none \"$state\"\n\
        ( until [ -e \"$signs/fill\" ]; do sleep 0.05; done\n\
          dd if=/dev/zero of=\"$state/filler\" bs=4k 2>/dev/null || true\n\
          touch \"$signs/filled\"\n\
          until [ -e \"$signs/free\" ]; do sleep 0.05; done\n\
          rm \"$state/filler\" ) &\n\
        exec \"$@\"";
    let signs = world.dir.path().join("signs");
    fs::create_dir(&signs).unwrap();
    world.write("before", "before");
    let mut command = super::deletes::in_mounts(&world, script, &[&world.state(), &signs], "watch");
    let child = command.spawn().unwrap();
    eventually("the first file", || world.object("before").is_some()).await;
    fs::write(signs.join("fill"), "").unwrap();
    eventually("a full disk", || signs.join("filled").exists()).await;
    // One after the other, until the log of the manifest finds no room.
    let silent_since = Mutex::new((0_usize, std::time::SystemTime::now()));
    let mut n = 0;
    let is_silent = || {
        let count = world.endpoint.count("PutObject");
        let mut seen = silent_since.lock().unwrap();
        if seen.0 != count {
            *seen = (count, std::time::SystemTime::now());
        }
        seen.1.elapsed().is_ok_and(|since| since.as_secs() >= 3)
    };
    while !is_silent() {
        world.write(format!("f{n}"), format!("content {n}"));
        n += 1;
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        assert!(n < 5_000, "the manifest never ran out of room");
    }
    assert!(world.object(&format!("f{}", n - 1)).is_none());
    fs::write(signs.join("free"), "").unwrap();
    eventually("everything", || {
        (0..n).all(|n| world.object(&format!("f{n}")).is_some())
    })
    .await;
    send(&child, Signal::TERM);
    let ended = end_of(child).await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert!(ended.err.contains("nothing new is sent"), "{}", ended.err);
}
