//! Rows 9 to 13, 15 and 22 to 26: what becomes of the manifest, and of what it is written to.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;
use rustix::process::Signal;
use tidewatch::agent::Mode;
use tidewatch::base::policy::OnDelete;
use tidewatch::manifest::Manifest;
use tokio::time::sleep;

use crate::agent::{Bench, path};
use crate::matrix::{count, has_strace, wrapped};
use crate::process::{World, complaints, end_of, ended, eventually, send, told};
use crate::support::endpoint::Seen;
use crate::support::faulty::Odds;
use crate::watching::place::{Mounted, Place, text};
use crate::watching::table::row;

/// Asserts that files' objects were neither sent nor removed, whatever was asked: who removes one has to send it again.
fn untouched(world: &World, what: &str) {
    let requests = world.endpoint.requests();
    let touching = |seen: &&Seen| {
        let is_change = ["PutObject", "CopyObject", "DeleteObject"].contains(&seen.operation);
        is_change && !seen.key.contains(".tidewatch/")
    };
    let touched: Vec<_> = requests
        .iter()
        .filter(touching)
        .map(|seen| &seen.path)
        .collect();
    assert!(touched.is_empty(), "{what}: {touched:?}");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn r09_a_manifest_that_was_deleted_while_stopped_deletes_nothing_and_is_made_anew() {
    let _row = row!();
    let mut bench = Bench::new(Odds::default());
    bench.settings.on_delete = OnDelete::Delete;
    for name in ["a", "b", "d/c"] {
        bench.tree.write(&path(name), name.as_bytes());
    }
    assert!(bench.sync().await.last.level);
    // The state is lost, and so is one of the files.
    bench.manifest = Manifest::in_memory().unwrap();
    bench.tree.remove(&path("b"));
    bench.bucket.reset_counts();
    let mut agent = bench.start(Mode::Forever);
    agent.level().await;
    sleep(Duration::from_secs(3600)).await;
    let counts = bench.bucket.counts();
    assert_eq!(
        counts.of("DeleteObject") + counts.of("DeleteObjects"),
        0,
        "of b nothing is known: its object may be anybody's"
    );
    assert_eq!(counts.of("PutObject"), 0, "what is there is adopted");
    assert_eq!(bench.object("b").unwrap(), b"b");
    // What it knows again it deletes again.
    bench.tree.remove(&path("a"));
    sleep(Duration::from_secs(60)).await;
    assert_eq!(bench.object("a"), None);
    agent.stop().await;
}

#[tokio::test]
async fn r10_a_manifest_that_is_deleted_while_running_ends_the_agent_which_makes_it_anew() {
    let _row = row!();
    let world = World::new().await;
    world.write("a", "a");
    let mut child = world
        .command("watch", &["--settle", "50ms", "--on-delete", "delete"])
        .spawn()
        .unwrap();
    eventually("the first object", || world.object("a").is_some()).await;
    for name in ["tidewatch.db", "tidewatch.db-wal", "tidewatch.db-shm"] {
        let _ = fs::remove_file(world.state().join(name));
    }
    world.write("b", "b");
    let said = told(&mut child, "removed or replaced while in use").await;
    assert!(said.contains("restart the agent"), "{said}");
    assert_eq!(world.object("b"), None, "no intent, no request");
    // With what makes a service manager start it again.
    let ended = end_of(child).await;
    assert_eq!(ended.code, Some(1), "{}", ended.err);
    assert!(ended.err.contains("the agent ends"), "{}", ended.err);
    assert_eq!(world.object("b"), None, "nor at the end");
    // The next start makes it anew from tree and bucket.
    world.endpoint.reset_counts();
    let again = world.sync(&["--on-delete", "delete"]).await;
    assert_eq!(again.code, Some(0), "{}", again.err);
    assert_eq!(world.object("b").unwrap(), b"b");
    assert_eq!(world.endpoint.count("PutObject"), 1, "a is adopted");
    assert_eq!(world.objects().len(), 2);
}

#[tokio::test]
async fn r11_a_manifest_with_flipped_bits_or_cut_off_deletes_nothing() {
    let _row = row!();
    let world = World::new().await;
    for n in 0..30 {
        world.write(format!("d{}/f{n}", n % 3), format!("content {n}"));
    }
    let delete = ["--on-delete", "delete", "--timeout", "2s"];
    assert_eq!(world.sync(&delete).await.code, Some(0));
    let expected = world.objects();
    let (state, saved) = (world.state(), world.dir.path().join("saved"));
    copy(&state, &saved);
    let whole = fs::read(saved.join("tidewatch.db")).unwrap();
    let mut random = fastrand::Rng::with_seed(11);
    for turn in 0..count("TIDEWATCH_FLIPS", 4) {
        fs::remove_dir_all(&state).unwrap();
        copy(&saved, &state);
        let mut bytes = whole.clone();
        match turn % 4 {
            // The header, which is small and matters most.
            0 => bytes[random.usize(..100)] ^= 1 << random.usize(..8),
            1 => bytes.truncate(random.usize(..whole.len())),
            _ => {
                for _ in 0..20 {
                    let at = random.usize(100..whole.len());
                    bytes[at] ^= 1 << random.usize(..8);
                }
            }
        }
        fs::write(state.join("tidewatch.db"), &bytes).unwrap();
        world.endpoint.reset_counts();
        let ended = world.sync(&delete).await;
        // A schema number that became a higher one is a newer version's.
        let is_newer = ended.err.contains("update tidewatch");
        // Damage that only a commit finds ends this run, and the next one sets the file aside.
        let after = match ended.code {
            Some(0) => ended,
            _ if is_newer => continue,
            _ => world.sync(&delete).await,
        };
        assert_eq!(after.code, Some(0), "turn {turn}: {}", after.err);
        untouched(&world, &format!("turn {turn}"));
        assert_eq!(world.objects(), expected, "turn {turn}");
    }
}

#[tokio::test]
async fn r12_a_manifest_of_yesterday_claims_and_deletes_nothing() {
    let _row = row!();
    let world = World::new().await;
    for name in ["same", "changed", "removed"] {
        world.write(name, name);
    }
    let delete = ["--on-delete", "delete"];
    assert_eq!(world.sync(&delete).await.code, Some(0));
    let saved = world.dir.path().join("saved");
    copy(&world.state(), &saved);
    world.write("changed", "changed since");
    world.write("new", "new since");
    fs::rename(world.tree("removed"), world.dir.path().join("aside")).unwrap();
    assert_eq!(world.sync(&delete).await.code, Some(0));
    fs::remove_dir_all(world.state()).unwrap();
    copy(&saved, &world.state());
    // Back under its old name and stamps: only the bucket tells that its object is gone.
    fs::rename(world.dir.path().join("aside"), world.tree("removed")).unwrap();
    world.endpoint.reset_counts();
    let ended = world.sync(&delete).await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert!(ended.err.contains("older than the bucket"), "{}", ended.err);
    for (name, content) in [
        ("same", "same"),
        ("changed", "changed since"),
        ("new", "new since"),
        ("removed", "removed"),
    ] {
        assert_eq!(world.object(name).unwrap(), content.as_bytes(), "{name}");
    }
}

#[tokio::test]
async fn r13_a_newer_manifest_is_refused_and_its_file_not_touched() {
    let _row = row!();
    let world = World::new().await;
    world.write("a", "a");
    world.sync_level().await;
    let database = world.state().join("tidewatch.db");
    let connection = Connection::open(&database).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    let before = fs::read(&database).unwrap();
    world.write("b", "b");
    world.endpoint.reset_counts();
    let ended = world.sync(&[]).await;
    assert_eq!(ended.code, Some(2), "{}", ended.err);
    let lines = complaints(&ended);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("schema 99") && lines[0].contains("update tidewatch"));
    assert!(before == fs::read(&database).unwrap());
    assert_eq!(world.endpoint.count("*"), 0);
}

#[tokio::test]
async fn r15_a_state_folder_that_is_read_only_is_one_clear_line() {
    let mut row = row!();
    if !row.inside(Place::Mounts) {
        return;
    }
    row.but_not("turning read-only later, which the kernel refuses while we write there");
    let world = World::new().await;
    world.write("a", "a");
    for is_known in [false, true] {
        fs::create_dir_all(world.state()).unwrap();
        let state = world.state();
        if is_known {
            world.sync_level().await;
            world.write("b", "b");
        }
        let mounted = Mounted::new(&["--bind", text(&state), text(&state)]);
        crate::watching::place::run("mount", &["-o", "remount,bind,ro", text(&state)]);
        world.endpoint.reset_counts();
        let ended = world.sync(&[]).await;
        assert_eq!(ended.code, Some(2), "{}", ended.err);
        let lines = complaints(&ended);
        assert_eq!(lines.len(), 1, "{}", ended.err);
        assert!(lines[0].contains("Read-only file system"), "{lines:?}");
        assert_eq!(world.endpoint.count("*"), 0);
        drop(mounted);
    }
    world.sync_level().await;
    assert_eq!(world.objects().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn r22_a_file_that_cannot_be_read_for_a_disk_error_keeps_its_object() {
    const EIO: i32 = 5;
    let _row = row!();
    let mut bench = Bench::new(Odds::default());
    bench.settings.on_delete = OnDelete::Delete;
    for name in ["good", "bad"] {
        bench.tree.write(&path(name), b"old");
    }
    let mut agent = bench.start(Mode::Forever);
    agent.level().await;
    bench.tree.damage(&path("bad"), Some(EIO));
    for name in ["good", "bad"] {
        bench.tree.write(&path(name), b"new");
    }
    agent.until_uploaded("good").await;
    let failed = agent.snapshots.wait_for(|now| now.failed == 1);
    failed.await.unwrap();
    sleep(Duration::from_secs(2 * 3600)).await;
    assert_eq!(bench.object("bad").unwrap(), b"old");
    let now = agent.snapshots.borrow().clone();
    assert_eq!((now.failed, now.level), (1, false));
    bench.tree.damage(&path("bad"), None);
    // By itself, at the latest when its pause is over.
    agent.until_uploaded("bad").await;
    agent.level().await;
    assert_eq!(bench.object("bad").unwrap(), b"new");
    agent.stop().await;
}

#[tokio::test]
async fn r23_a_sync_of_the_manifest_that_fails_loses_and_claims_nothing() {
    let mut row = row!();
    if !has_strace() {
        return row.could_not("needs strace that may trace");
    }
    for number in [6, 9] {
        let world = World::new().await;
        for n in 0..12 {
            world.write(format!("f{n}"), format!("content {n}"));
        }
        let inject = format!("inject=fdatasync,fsync:error=EIO:when={number}");
        let wrapper = [
            "strace",
            "-f",
            "--seccomp-bpf",
            "-o",
            "/dev/null",
            "-e",
            "trace=fdatasync,fsync",
            "-e",
            &inject,
        ];
        let ended = ended(&mut wrapped(&world, &wrapper, "sync", &[])).await;
        assert!(ended.code.is_some(), "{}", ended.err);
        assert!(
            ended.code == Some(0) || ended.err.contains("tidewatch: could not"),
            "number {number}: {}",
            ended.err
        );
        // Whatever the rows say now is true: the rest is sent, and nothing is missing.
        world.sync_level().await;
        let objects = world.objects();
        assert!((0..12).all(|n| objects[&format!("f{n}")] == format!("content {n}").as_bytes()));
    }
}

/// Fills what is left of a filesystem; returns the file.
fn ballast(dir: &Path) -> std::path::PathBuf {
    let path = dir.join("ballast");
    let mut file = fs::File::create(&path).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
    path
}

#[tokio::test]
async fn r24_a_full_disk_of_the_state_stops_what_is_new_until_there_is_room() {
    let mut row = row!();
    if !row.inside(Place::Mounts) {
        return;
    }
    let world = World::new().await;
    fs::create_dir(world.state()).unwrap();
    let options = "size=2m,mode=700";
    let _mounted = Mounted::new(&["-t", "tmpfs", "-o", options, "none", text(&world.state())]);
    let mut child = world
        .command("watch", &["--settle", "20ms"])
        .spawn()
        .unwrap();
    world.write("before", "before");
    eventually("the first object", || world.object("before").is_some()).await;
    let ballast = ballast(&world.state());
    // Names that fill pages, until a commit finds no room.
    let name = |n: usize| format!("{}/{}-{n}", "x".repeat(200), "y".repeat(200));
    let mut n = 0;
    let said = told(&mut child, "nothing new is sent");
    let writing = async {
        loop {
            world.write(name(n), format!("content {n}"));
            n += 1;
            sleep(Duration::from_millis(10)).await;
            assert!(n < 5_000, "the manifest never ran out of room");
        }
    };
    tokio::select! {
        said = said => assert!(said.contains("its disk is full"), "{said}"),
        () = writing => {}
    }
    let sent = world.endpoint.count("PutObject");
    world.write("last", "last");
    fs::remove_file(ballast).unwrap();
    eventually("everything", || {
        world.object("last").is_some() && (0..n).all(|n| world.object(&name(n)).is_some())
    })
    .await;
    assert!(world.endpoint.count("PutObject") > sent);
    send(&child, Signal::TERM);
    assert_eq!(end_of(child).await.code, Some(0));
}

#[tokio::test]
async fn r25_a_state_disk_without_inodes_is_told_and_lives_on_when_there_are_some() {
    let mut row = row!();
    if !row.inside(Place::Mounts) {
        return;
    }
    let world = World::new().await;
    fs::create_dir(world.state()).unwrap();
    let options = "size=8m,nr_inodes=40,mode=700";
    let _mounted = Mounted::new(&["-t", "tmpfs", "-o", options, "none", text(&world.state())]);
    let state = world.state();
    let fill = || {
        let mut files = Vec::new();
        for n in 0.. {
            let path = state.join(format!("inode-{n}"));
            if fs::File::create(&path).is_err() {
                break;
            }
            files.push(path);
        }
        assert!(!files.is_empty());
        files
    };
    let free = |files: Vec<std::path::PathBuf>| {
        for file in files {
            fs::remove_file(file).unwrap();
        }
    };
    // From the start: one line, and nothing half made.
    let ballast = fill();
    world.write("a", "a");
    let ended = world.sync(&[]).await;
    assert_eq!(ended.code, Some(2), "{}", ended.err);
    assert_eq!(complaints(&ended).len(), 1, "{}", ended.err);
    assert_eq!(world.objects().len(), 0);
    free(ballast);
    // While it runs: whatever cannot be written is no loss, and the agent stays.
    let child = world
        .command("watch", &["--settle", "20ms"])
        .spawn()
        .unwrap();
    eventually("the first object", || world.object("a").is_some()).await;
    let ballast = fill();
    world.write("b", "b");
    eventually("the second object", || world.object("b").is_some()).await;
    free(ballast);
    world.write("c", "c");
    eventually("the third object", || world.object("c").is_some()).await;
    send(&child, Signal::TERM);
    let ended = end_of(child).await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    world.sync_level().await;
}

#[tokio::test]
async fn r26_a_limit_of_the_size_of_files_stops_what_is_new_and_ends_nobody() {
    let _row = row!();
    let world = World::new().await;
    for n in 0..100 {
        world.write(format!("{}/f{n}", "d".repeat(200)), format!("content {n}"));
    }
    // In blocks of 1,024 bytes: less than a new database has, and room for that and little more.
    for blocks in ["4", "200"] {
        let script = format!("ulimit -f {blocks}; exec \"$0\" \"$@\"");
        let mut command = wrapped(
            &world,
            &["bash", "-c", &script],
            "sync",
            &["--timeout", "2s"],
        );
        let ended = ended(&mut command).await;
        // No signal has ended it.
        let code = ended
            .code
            .unwrap_or_else(|| panic!("{blocks}: killed\n{}", ended.err));
        assert!(
            code == 0 || !complaints(&ended).is_empty(),
            "{blocks}: {code} {}",
            ended.err
        );
    }
    world.sync_level().await;
    assert_eq!(world.objects().len(), 100);
}
