//! Rows 5, 16, 17, 27, 28, 59 and 61: signals, other agents, and limits of the machine.

use std::time::Duration;

use rustix::process::Signal;
use tidewatch::report::status_file;

use crate::matrix::{count, has_strace, wrapped};
use crate::process::{World, complaints, end_of, ended, eventually, send};
use crate::support::endpoint::Fault;
use crate::watching::place::has;
use crate::watching::table::row;

#[tokio::test]
async fn r05_a_stop_under_load_lets_finish_what_runs_and_leaves_the_rest_to_the_next() {
    let _row = row!();
    let world = World::new().await;
    for n in 0..60 {
        world.write(format!("f{n}"), format!("content {n}"));
    }
    world
        .endpoint
        .always("PutObject", Fault::Delay(Duration::from_millis(200)));
    let child = world
        .command("watch", &["--concurrency", "3"])
        .spawn()
        .unwrap();
    world
        .endpoint
        .until("some uploads", |e| e.count("PutObject") > 3)
        .await;
    send(&child, Signal::TERM);
    let ended = end_of(child).await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    let begun = world.endpoint.count("PutObject");
    assert!(begun < 60, "{begun}");
    assert_eq!(world.objects().len(), begun, "what was begun is finished");
    world.endpoint.clear();
    world.endpoint.reset_counts();
    world.sync_level().await;
    assert_eq!(world.endpoint.count("PutObject"), 60 - begun, "none twice");
    assert_eq!(world.objects().len(), 60);
}

#[tokio::test]
async fn r16_a_second_agent_on_one_state_folder_ends_and_the_first_goes_on() {
    let _row = row!();
    let world = World::new().await;
    world.write("a", "a");
    let first = world
        .command("watch", &["--settle", "20ms"])
        .spawn()
        .unwrap();
    eventually("the first object", || world.object("a").is_some()).await;
    for name in ["sync", "watch"] {
        let second = ended(&mut world.command(name, &[])).await;
        assert_eq!(second.code, Some(6), "{name}: {}", second.err);
        assert!(complaints(&second)[0].contains("another agent holds it"));
    }
    world.write("b", "b");
    eventually("the second object", || world.object("b").is_some()).await;
    send(&first, Signal::TERM);
    assert_eq!(end_of(first).await.code, Some(0));
}

#[tokio::test]
async fn r17_a_second_agent_on_one_prefix_changes_nothing_there() {
    let _row = row!();
    let world = World::new().await;
    world.write("a", "a");
    let first = world
        .command("watch", &["--settle", "20ms"])
        .spawn()
        .unwrap();
    eventually("the first object", || world.object("a").is_some()).await;
    let other = world.dir.path().join("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("a"), "of the other").unwrap();
    std::fs::write(other.join("b"), "of the other").unwrap();
    world.endpoint.reset_counts();
    // One that ends by itself would be waited for: a minute.
    let state = world.dir.path().join("other state");
    let mut command = world.bare(["watch", other.to_str().unwrap(), "s3://tide/p"]);
    command
        .args(["--endpoint-url", &world.endpoint.url(), "--state-dir"])
        .arg(&state);
    let second = command.spawn().unwrap();
    eventually("it waits", || {
        let said = status_file::read(&state).ok().flatten();
        let lease = said.and_then(|said| said.folders.into_iter().next()?.lease);
        lease.is_some_and(|words| words.contains("waiting for"))
    })
    .await;
    send(&second, Signal::TERM);
    assert_eq!(end_of(second).await.code, Some(0));
    assert_eq!(world.objects().len(), 1);
    assert_eq!(world.object("a").unwrap(), b"a");
    assert_eq!(world.endpoint.count("PutObject"), 0);
    world.write("c", "c");
    eventually("the first goes on", || world.object("c").is_some()).await;
    send(&first, Signal::TERM);
    assert_eq!(end_of(first).await.code, Some(0));
}

#[tokio::test]
async fn r27_with_few_file_handles_it_slows_down_and_skips_nothing() {
    let mut row = row!();
    if !has("prlimit") {
        return row.could_not("needs prlimit");
    }
    let world = World::new().await;
    for n in 0..150 {
        world.write(format!("{}/{n}", n % 50), format!("content {n}"));
    }
    let wrapper = ["prlimit", "--nofile=64"];
    let once = ended(&mut wrapped(&world, &wrapper, "sync", &[])).await;
    assert_eq!(once.code, Some(0), "{}", once.err);
    assert_eq!(world.objects().len(), 150);
    // Watching takes handles too.
    let mut command = wrapped(&world, &wrapper, "watch", &["--settle", "20ms"]);
    let child = command.spawn().unwrap();
    for n in 0..100 {
        world.write(format!("{}/new-{n}", n % 50), format!("new {n}"));
    }
    eventually("all of them", || world.objects().len() == 250).await;
    send(&child, Signal::TERM);
    let ended = end_of(child).await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
}

#[tokio::test]
async fn r28_without_memory_it_ends_and_the_next_one_goes_on() {
    let mut row = row!();
    if !has("prlimit") {
        return row.could_not("needs prlimit");
    }
    let world = World::new().await;
    for n in 0..40 {
        world.write(format!("f{n}"), vec![n; 200_000]);
    }
    let mut ends = Vec::new();
    for mib in [60_u64, 150, 300] {
        let limit = format!("--as={}", mib << 20);
        let mut command = wrapped(&world, &["prlimit", &limit], "sync", &["--timeout", "5s"]);
        let ended = ended(&mut command).await;
        // Whatever it was, it was not called done before it was.
        if ended.code == Some(0) {
            assert_eq!(world.objects().len(), 40);
        }
        ends.push(ended.code);
    }
    assert!(ends.iter().any(|code| *code != Some(0)), "{ends:?}");
    // The lease of one that was killed is its state folder's own.
    world.sync_level().await;
    let objects = world.objects();
    assert!((0..40_u8).all(|n| objects[&format!("f{n}")] == vec![n; 200_000]));
    assert_eq!(world.endpoint.count("DeleteObject"), 0);
}

#[tokio::test]
async fn r59_on_a_slow_disk_it_is_slower_and_nothing_else() {
    let mut row = row!();
    if !has_strace() {
        return row.could_not("needs strace that may trace");
    }
    let world = World::new().await;
    for n in 0..10 {
        world.write(format!("f{n}"), format!("content {n}"));
    }
    let inject = "inject=fdatasync,fsync:delay_enter=60000";
    let wrapper = [
        "strace",
        "-f",
        "--seccomp-bpf",
        "-o",
        "/dev/null",
        "-e",
        "trace=fdatasync,fsync",
        "-e",
        inject,
    ];
    let ended = ended(&mut wrapped(&world, &wrapper, "sync", &[])).await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert_eq!(world.objects().len(), 10);
    assert_eq!(world.endpoint.count("PutObject"), 10);
}

#[tokio::test]
async fn r61_a_first_start_on_many_files_goes_on_half_way_where_it_was_killed() {
    let _row = row!();
    let files = usize::try_from(count("TIDEWATCH_FILES", 400)).unwrap();
    let world = World::new().await;
    for n in 0..files {
        world.write(
            format!("{}/{}/f{n}", n % 10, n % 97),
            format!("content {n}"),
        );
    }
    world
        .endpoint
        .always("PutObject", Fault::Delay(Duration::from_millis(5)));
    let mut child = world.command("sync", &[]).spawn().unwrap();
    let puts = |world: &World| world.endpoint.count("PutObject");
    eventually("a half of them", || puts(&world) * 2 >= files).await;
    child.kill().await.unwrap();
    world.endpoint.clear();
    let done = world.objects().len();
    world.endpoint.reset_counts();
    let next = world.command("watch", &[]).spawn().unwrap();
    eventually("all of them", || world.objects().len() == files).await;
    let status = std::fs::read_to_string(format!("/proc/{}/status", next.id().unwrap())).unwrap();
    send(&next, Signal::TERM);
    assert_eq!(end_of(next).await.code, Some(0));
    // Only what was running or not yet on record is sent again.
    let sent = puts(&world);
    assert!(
        sent >= files - done && sent <= files - done + 200,
        "{sent} after {done} of {files}"
    );
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|peak| peak.trim().trim_end_matches(" kB").parse::<u64>().ok());
    // The limit of the files' bytes in memory, and the program.
    assert!(peak.is_some_and(|kib| kib < 256 << 10), "{peak:?}");
}
