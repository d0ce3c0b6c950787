//! Deletes, renames and brakes, by the real binary on a real folder.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use rustix::process::{Signal, getuid};
use tokio::process::{Child, Command};

use crate::process::{World, complaints, end_of, ended, eventually, send};
use crate::support::endpoint::Fault;

/// Makes a folder of `count` files, syncs it, and watches it.
async fn watched(world: &World, count: usize, more: &[&str]) -> Child {
    for n in 0..count {
        world.write(format!("d{}/f{n}", n % 2), format!("content {n}"));
    }
    world.sync_level().await;
    let child = world.command("watch", more).spawn().unwrap();
    world.write("begun", "begun");
    eventually("the first upload", || world.object("begun").is_some()).await;
    child
}

async fn stop(child: Child) {
    send(&child, Signal::TERM);
    let ended = end_of(child).await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
}

fn held(world: &World, args: &[&str]) -> Command {
    let mut command = world.bare(["held"]);
    command.args(args).arg("--state-dir").arg(world.state());
    command
}

/// Makes a command that runs `script` in a mount namespace of its own; the script's arguments are `before`, and behind
/// them a whole `watch` or `sync` that deletes.
pub fn in_mounts(world: &World, script: &str, before: &[&Path], name: &str) -> Command {
    let ours = world.command(name, &["--settle", "50ms", "--on-delete", "delete"]);
    let mut command = Command::new("unshare");
    command.args([
        "-m",
        "--propagation",
        "private",
        "--",
        "bash",
        "-c",
        script,
        "bash",
    ]);
    command
        .args(before)
        .arg(ours.as_std().get_program())
        .args(ours.as_std().get_args());
    command
        .envs(world.endpoint.env())
        .env("HOME", world.dir.path());
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

#[tokio::test]
async fn an_object_that_a_proxy_denies_is_set_aside_before_it_is_removed() {
    let world = World::new().await;
    for name in ["kept", "gone"] {
        world.write(name, name);
    }
    world.sync_level().await;
    fs::remove_file(world.tree("gone")).unwrap();
    let nobody = Fault::Answer(404, String::new());
    world.endpoint.fail_next("HeadObject", 1, nobody);
    let run = world.sync(&["--on-delete", "trash"]).await;
    assert_eq!(run.code, Some(0), "{}", run.err);
    assert!(world.object("gone").is_none());
    let objects = world.endpoint.objects();
    let is_there = |(key, content): (&String, &Vec<u8>)| {
        key.contains(".tidewatch/trash/") && content.as_slice() == b"gone"
    };
    assert!(objects.iter().any(is_there), "{:?}", objects.keys());
}

#[tokio::test]
async fn a_mass_deletion_is_held_shown_and_released() {
    let world = World::new().await;
    let child = watched(&world, 100, &["--settle", "50ms", "--on-delete", "delete"]).await;
    fs::remove_dir_all(world.tree("d0")).unwrap();
    let state = world.state();
    let shows = move |count: u64| {
        let status = tidewatch::report::status_file::read(&state).unwrap();
        status.is_some_and(|status| status.folders[0].held == count)
    };
    eventually("fifty held", || shows(50)).await;
    world.write("more", "uploads go on");
    eventually("an upload", || world.object("more").is_some()).await;
    assert_eq!(world.objects().len(), 102);

    let list = ended(&mut held(&world, &["list"])).await;
    assert_eq!(list.code, Some(0), "{}", list.err);
    assert_eq!(
        list.out
            .lines()
            .filter(|line| line.contains("delete"))
            .count(),
        50,
        "{}",
        list.out
    );
    let json = ended(&mut held(&world, &["list", "--json"])).await;
    let first: serde_json::Value = serde_json::from_str(json.out.lines().next().unwrap()).unwrap();
    assert_eq!(
        (first["what"].as_str(), first["path"].as_str()),
        (Some("delete"), Some("d0/f0"))
    );

    let released = ended(&mut held(&world, &["release", "tree"])).await;
    assert_eq!(released.out, "tree: 50 released\n", "{}", released.err);
    eventually("the deletes", || world.objects().len() == 52).await;
    eventually("nothing held", || shows(0)).await;
    stop(child).await;
}

#[tokio::test]
async fn a_sync_that_is_held_exits_with_4_and_a_dropped_delete_keeps_its_objects() {
    let world = World::new().await;
    for n in 0..60 {
        world.write(format!("f{n}"), format!("content {n}"));
    }
    world.sync_level().await;
    for n in 0..55 {
        fs::remove_file(world.tree(format!("f{n}"))).unwrap();
    }
    let held_back = world
        .sync(&["--on-delete", "delete", "--settle", "50ms"])
        .await;
    assert_eq!(
        held_back.code,
        Some(4),
        "{}{}",
        held_back.out,
        held_back.err
    );
    assert!(
        held_back.err.contains("tidewatch held list"),
        "{}",
        held_back.err
    );
    assert_eq!(world.objects().len(), 60);
    let dropped = ended(&mut held(&world, &["drop"])).await;
    assert_eq!(dropped.code, Some(0), "{}", dropped.err);
    assert!(dropped.out.contains("55 dropped"), "{}", dropped.out);
    let after = world
        .sync(&["--on-delete", "delete", "--settle", "50ms"])
        .await;
    assert_eq!(after.code, Some(0), "{}{}", after.out, after.err);
    assert_eq!(world.objects().len(), 60);
    let unknown = ended(&mut held(&world, &["list", "elsewhere"])).await;
    assert_eq!(unknown.code, Some(2));
    assert!(
        complaints(&unknown)[0].contains("could not find the folder `elsewhere`"),
        "{}",
        unknown.err
    );
}

#[tokio::test]
async fn a_renamed_folder_sends_no_file_bytes_and_little_more_than_two_requests_a_file() {
    let files: usize = std::env::var("TIDEWATCH_RENAMED")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(400);
    let world = World::new().await;
    let child = watched(
        &world,
        files,
        &["--settle", "50ms", "--on-delete", "delete"],
    )
    .await;
    let puts = world.endpoint.count("PutObject");
    let requests = world.endpoint.count("*");
    fs::rename(world.tree("d1"), world.tree("moved")).unwrap();
    eventually("the copies and the deletes", || {
        let objects = world.objects();
        objects.len() == files + 1 && !objects.keys().any(|key| key.starts_with("d1/"))
    })
    .await;
    assert_eq!(world.endpoint.count("PutObject"), puts);
    // A copy and a delete, and some looks where the two names were seen at different times.
    let requests = world.endpoint.count("*") - requests;
    let most = files / 2 * 21 / 10 + 60;
    assert!(requests <= most, "{requests} requests instead of {most}");
    assert_eq!(world.object("moved/f1").unwrap(), b"content 1");
    stop(child).await;
}

#[tokio::test]
async fn a_dry_run_tells_what_would_be_deleted_and_held_and_touches_nothing() {
    let world = World::new().await;
    for n in 0..60 {
        world.write(format!("f{n}"), format!("content {n}"));
    }
    world.sync_level().await;
    fs::remove_file(world.tree("f0")).unwrap();
    let dry = &["--on-delete", "trash", "--dry-run"];
    let told = world.sync(dry).await;
    assert_eq!(told.code, Some(0), "{}", told.err);
    assert!(told.out.contains("would delete p/f0\n"), "{}", told.out);
    assert!(
        told.out.contains("; would delete 1 objects"),
        "{}",
        told.out
    );
    for n in 1..55 {
        fs::remove_file(world.tree(format!("f{n}"))).unwrap();
    }
    let told = world.sync(dry).await;
    assert_eq!(told.code, Some(4), "{}", told.err);
    assert!(told.out.contains("would hold 55 deletes"), "{}", told.out);
    assert_eq!(
        (world.objects().len(), world.endpoint.count("DeleteObject")),
        (60, 0)
    );
}

/// In a mount namespace of its own: the tmpfs is filled, unmounted, mounted again empty, and at last with its files.
const UNMOUNTS: &str = r#"set -e
            root=$1; shift
            mount -t tmpfs -o size=64m one "$root"
            fill() { for n in $(seq 1 200); do echo "content $n" > "$root/f$n"; done; }
            fill
            cp -a "$root" "$root/../saved"
            "$@" & agent=$!
            until [ -e "$root/../synced" ]; do sleep 0.05; done
            (for n in $(seq 1 40); do echo $n > "$root/late$n" || true; done) &
            for try in $(seq 1 100); do HOW "$root" && break; sleep 0.05; done
            touch "$root/../away"
            until [ -e "$root/../empty" ]; do sleep 0.05; done
            mount -t tmpfs -o size=64m two "$root"
            touch "$root/../mounted"
            until [ -e "$root/../back" ]; do sleep 0.05; done
            cp -a "$root/../saved/." "$root"; echo news > "$root/news"
            until [ -e "$root/../end" ]; do sleep 0.05; done
            kill -TERM $agent; wait $agent"#;

/// WATCHING 29 and 30: a root on a tmpfs that is unmounted under load, plainly or lazily.
#[tokio::test]
#[expect(clippy::print_stderr, reason = "says why it did not run")]
async fn a_root_unmounted_under_load_deletes_nothing_and_resumes_when_it_is_back() {
    if !getuid().is_root() {
        eprintln!("not run: needs root and a mount namespace");
        return;
    }
    for how in ["umount", "umount -l"] {
        let world = World::new().await;
        world.write("begun", "x");
        let script = UNMOUNTS.replace("HOW", how);
        let tree = world.tree("");
        let mut command = in_mounts(&world, &script, &[&tree], "watch");
        let child = command.spawn().unwrap();
        let touch = |name: &str| fs::write(world.dir.path().join(name), "").unwrap();
        let is_there = |name: &str| world.dir.path().join(name).exists();
        eventually("the first sync", || {
            world
                .objects()
                .keys()
                .filter(|key| key.starts_with('f'))
                .count()
                == 200
        })
        .await;
        touch("synced");
        eventually("the unmount", || is_there("away")).await;
        let state = world.state();
        let is_away = || {
            let status = tidewatch::report::status_file::read(&state)
                .unwrap()
                .unwrap();
            status.folders[0].trouble.is_some()
        };
        eventually("the agent to say so", is_away).await;
        let before = world.objects().len();
        touch("empty");
        eventually("an empty tmpfs in its place", || is_there("mounted")).await;
        // Two looks for the root, five seconds apart.
        tokio::time::sleep(std::time::Duration::from_secs(11)).await;
        assert_eq!(world.endpoint.count("DeleteObject"), 0, "{how}");
        assert!(world.objects().len() >= before, "{how}");
        assert!(is_away(), "{how}");
        touch("back");
        eventually("the news", || world.object("news").is_some()).await;
        assert_eq!(world.object("f7").unwrap(), b"content 7\n");
        touch("end");
        let ended = end_of(child).await;
        assert!(
            ended.code == Some(0) || ended.code == Some(143),
            "{how}: {}",
            ended.err
        );
    }
}

/// A filesystem inside the folder that is not there when a run begins.
#[tokio::test]
#[expect(clippy::print_stderr, reason = "says why it did not run")]
async fn what_was_mounted_inside_and_is_not_takes_no_objects_along() {
    if !getuid().is_root() {
        eprintln!("not run: needs root and a mount namespace");
        return;
    }
    let world = World::new().await;
    world.write("disk/.keep", "under the mount");
    world.write("elsewhere.txt", "beside it");
    let disk = world.dir.path().join("disk");
    fs::create_dir(&disk).unwrap();
    for n in 0..5 {
        fs::write(disk.join(format!("f{n}")), format!("on the disk {n}")).unwrap();
    }
    // A bind mount: the same device as the folder.
    let script = r#"set -e
        disk=$1; tree=$2; shift 2
        mount --bind "$disk" "$tree/disk"
        "$@"
        umount "$tree/disk"
        rm "$tree/elsewhere.txt"
        "$@""#;
    let mut command = in_mounts(&world, script, &[&disk, &world.tree("")], "sync");
    let ended = ended(&mut command).await;
    assert_eq!(ended.code, Some(0), "{}{}", ended.out, ended.err);
    let objects = world.objects();
    assert_eq!(
        (0..5)
            .filter(|n| objects.contains_key(&format!("disk/f{n}")))
            .count(),
        5,
        "{objects:?}"
    );
    assert!(!objects.contains_key("elsewhere.txt"));
}

/// Links that were followed, and are not any more: what was behind them is left out, not deleted.
#[tokio::test]
async fn links_that_are_not_followed_any_more_take_no_objects_along() {
    let world = World::new().await;
    world.write("real/file", "behind the link");
    std::os::unix::fs::symlink("real", world.tree("link")).unwrap();
    std::os::unix::fs::symlink("real/file", world.tree("note")).unwrap();
    let sync = async |symlinks: &str| {
        let config = format!(
            "[agent]\nlisten = \"\"\nstate_dir = {:?}\n[[folder]]\npath = {:?}\nto = \"s3://tide/p\"\nendpoint_url = {:?}\n\
             on_delete = \"delete\"\nsettle = \"50ms\"\nsymlinks = \"{symlinks}\"\n",
            world.state(),
            world.tree(""),
            world.endpoint.url()
        );
        let place = world.dir.path().join("config.toml");
        fs::write(&place, config).unwrap();
        let ended = ended(world.bare(["sync", "--config"]).arg(&place)).await;
        assert_eq!(ended.code, Some(0), "{}{}", ended.out, ended.err);
    };
    sync("follow").await;
    assert_eq!(world.objects().len(), 3);
    sync("skip").await;
    assert_eq!(world.objects().len(), 3);
    sync("record").await;
    assert!(world.object("note.rclonelink").is_some());
    sync("skip").await;
    assert_eq!(world.endpoint.count("DeleteObject"), 0);
}
