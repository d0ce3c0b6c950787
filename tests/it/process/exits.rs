//! Every exit code, each with one clear line.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};

use rustix::process::Signal;

use crate::process::{World, complaints, end_of, ended, send};
use crate::support::endpoint::Fault;
use std::time::Duration;

/// A user without rights: `nobody`.
const NOBODY: u32 = 65_534;

#[tokio::test]
async fn wrong_usage_exits_2_and_names_what_is_wrong() {
    let world = World::new().await;
    let config = world.dir.path().join("config.toml");
    let relative = "[[folder]]\npath = \"relative\"\nto = \"s3://tide/p\"\n";
    fs::write(&config, relative).unwrap();
    let blocked = world.dir.path().join("blocked");
    fs::write(&blocked, "a file").unwrap();
    let tree = world.tree("");
    let (tree, blocked) = (tree.to_str().unwrap(), blocked.to_str().unwrap());
    for (args, named) in [
        (
            vec!["sync", "--config", config.to_str().unwrap()],
            "relative",
        ),
        (vec!["sync", "missing", "s3://tide/p"], "missing"),
        (vec!["sync", tree, "s3://"], "no bucket"),
        (vec!["watch", tree, "tide/p"], "tide/p"),
        (vec!["sync", "--config", "nowhere.toml"], "nowhere.toml"),
        (
            vec!["sync", tree, "s3://tide/p", "--state-dir", blocked],
            "blocked",
        ),
        (vec!["run", "--bogus"], "--bogus"),
    ] {
        let ended = ended(&mut world.bare(&args)).await;
        assert_eq!(ended.code, Some(2), "{args:?}: {}", ended.err);
        assert!(ended.err.contains(named), "{args:?}: {}", ended.err);
        assert_eq!(ended.out, "");
    }
    assert_eq!(world.endpoint.count("*"), 0);
}

#[tokio::test]
async fn a_bucket_that_cannot_be_used_exits_5_with_one_line() {
    let world = World::new().await;
    world.write("a", b"content");
    let (tree, url) = (world.tree(""), world.endpoint.url());
    for command in ["sync", "watch"] {
        for (case, bucket, endpoint, secret, named) in [
            (
                "refused",
                "tide",
                "http://127.0.0.1:1",
                None,
                "Connection refused",
            ),
            ("missing", "nosuch", url.as_str(), None, "nosuch"),
            (
                "secret",
                "tide",
                url.as_str(),
                Some("wrong"),
                "SignatureDoesNotMatch",
            ),
        ] {
            let mut child = world.bare([command]);
            child.arg(&tree).arg(format!("s3://{bucket}/p"));
            child.args(["--endpoint-url", endpoint]);
            if command == "sync" {
                child.args(["--timeout", "2s"]);
            }
            child.arg("--state-dir").arg(world.dir.path().join(case));
            if let Some(secret) = secret {
                child.env("AWS_SECRET_ACCESS_KEY", secret);
            }
            let ended = ended(&mut child).await;
            assert_eq!(ended.code, Some(5), "{command} {case}: {}", ended.err);
            let lines = complaints(&ended);
            assert_eq!(lines.len(), 1, "{command} {case}: {}", ended.err);
            let is_named = lines[0].contains(named) || command == "sync" && case == "secret";
            assert!(is_named, "{command} {case}: {}", ended.err);
        }
    }
    assert_eq!(world.endpoint.keys(), Vec::<String>::new());
}

#[tokio::test]
async fn a_file_that_the_store_refuses_exits_1_and_the_others_go_on() {
    let world = World::new().await;
    world.write("good", b"good");
    world.write("bad", b"bad");
    world.endpoint.script(|seen| {
        let is_bad = seen.operation == "PutObject" && seen.key == "p/bad";
        is_bad.then_some(Fault::Error(400, "InvalidRequest"))
    });
    let ended = world.sync(&[]).await;
    assert_eq!(ended.code, Some(1), "{}", ended.err);
    assert!(
        ended.out.starts_with("not level: failed 1, 1 uploaded"),
        "{}",
        ended.out
    );
    assert!(ended.err.contains("p/bad"), "{}", ended.err);
    assert_eq!(world.objects().keys().collect::<Vec<_>>(), ["good"]);
}

#[tokio::test]
async fn an_unreadable_file_exits_1_and_the_others_go_on() {
    let world = World::new().await;
    world.write("good", b"good");
    world.write("bad", b"bad");
    fs::set_permissions(world.tree("bad"), Permissions::from_mode(0o0)).unwrap();
    let mut command = world.command("sync", &[]);
    if rustix::process::geteuid().is_root() {
        // Root reads everything: the binary runs as somebody else, from a place where that one finds it.
        let binary = world.dir.path().join("tidewatch");
        fs::copy(env!("CARGO_BIN_EXE_tidewatch"), &binary).unwrap();
        fs::create_dir(world.state()).unwrap();
        chown(world.state(), Some(NOBODY), Some(NOBODY)).unwrap();
        fs::set_permissions(world.dir.path(), Permissions::from_mode(0o755)).unwrap();
        let args: Vec<_> = command.as_std().get_args().map(ToOwned::to_owned).collect();
        command = tokio::process::Command::new(&binary);
        command.args(args).env_clear().envs(world.endpoint.env());
        command.uid(NOBODY).gid(NOBODY).current_dir("/");
    }
    let ended = ended(&mut command).await;
    assert_eq!(ended.code, Some(1), "{}", ended.err);
    assert!(ended.err.contains("bad"), "{}", ended.err);
    assert_eq!(world.objects().keys().collect::<Vec<_>>(), ["good"]);
}

#[tokio::test]
async fn a_path_without_a_possible_key_exits_3() {
    let world = World::new().await;
    let deep = vec!["x".repeat(250); 4].join("/") + "/" + &"y".repeat(100);
    world.write(&deep, b"too deep");
    world.write("good", b"good");
    let ended = world.sync(&[]).await;
    assert_eq!(ended.code, Some(3), "{}", ended.err);
    assert!(
        ended
            .out
            .starts_with("not level: could not sync 1, 1 uploaded"),
        "{}",
        ended.out
    );
    assert!(ended.err.contains("1024"), "{}", ended.err);
    assert_eq!(world.objects().keys().collect::<Vec<_>>(), ["good"]);
    let ended = world.sync(&["--dry-run"]).await;
    assert_eq!(ended.code, Some(3), "{}", ended.err);
}

#[tokio::test]
async fn a_folder_in_trouble_does_not_touch_another() {
    let world = World::new().await;
    world.write("one/a", b"a");
    world.write("two/b", b"b");
    let text = format!(
        "[agent]\nlisten = \"\"\nstate_dir = {:?}\n[s3]\nendpoint_url = {:?}\n\
         [[folder]]\npath = {:?}\nto = \"s3://nosuch/one\"\n\
         [[folder]]\npath = {:?}\nto = \"s3://tide/two\"\n",
        world.state(),
        world.endpoint.url(),
        world.tree("one"),
        world.tree("two"),
    );
    let config = world.dir.path().join("config.toml");
    fs::write(&config, text).unwrap();
    let args = [
        "sync",
        "--timeout",
        "5s",
        "--config",
        config.to_str().unwrap(),
    ];
    let ended = ended(&mut world.bare(args)).await;
    assert_eq!(ended.code, Some(5), "{}", ended.err);
    assert!(complaints(&ended)[0].contains("s3://nosuch/one/"));
    assert_eq!(world.endpoint.keys(), ["two/b"]);
}

#[tokio::test]
async fn a_second_process_on_one_state_folder_exits_6() {
    let world = World::new().await;
    world.write("a", b"content");
    let watch = world.command("watch", &[]).spawn().unwrap();
    world
        .endpoint
        .until("the first object", |e| e.count("PutObject") > 0)
        .await;
    let ended = world.sync(&[]).await;
    assert_eq!(ended.code, Some(6), "{}", ended.err);
    let line = complaints(&ended)[0];
    assert!(line.contains(world.state().to_str().unwrap()), "{line}");
    assert!(
        line.contains(&format!("process {}", watch.id().unwrap())),
        "{line}"
    );
    send(&watch, Signal::TERM);
    assert_eq!(end_of(watch).await.code, Some(0));
}

#[tokio::test]
async fn a_sync_that_is_terminated_exits_143_and_the_next_one_goes_on() {
    let world = World::new().await;
    for number in 0..100 {
        world.write(format!("{number}"), format!("content {number}"));
    }
    world
        .endpoint
        .always("PutObject", Fault::Delay(Duration::from_millis(300)));
    let child = world
        .command("sync", &["--concurrency", "2"])
        .spawn()
        .unwrap();
    world
        .endpoint
        .until("the first upload", |e| e.count("PutObject") > 0)
        .await;
    send(&child, Signal::TERM);
    let ended = end_of(child).await;
    assert_eq!(ended.code, Some(143), "{}", ended.err);
    assert!(
        ended.out.starts_with("not level: not sent "),
        "{}",
        ended.out
    );
    assert!(world.objects().len() < 100);
    world.endpoint.clear();
    world.sync_level().await;
    assert_eq!(world.objects().len(), 100);
}
