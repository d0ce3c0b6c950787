//! A running agent is asked: over its socket, by the commands that people use.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Child;

use crate::process::{DEADLINE, Ended, World, end_of, ended, eventually, send};
use crate::support::endpoint::Fault;

impl World {
    /// Runs a command that asks the agent of this state folder.
    async fn ask(&self, args: &[&str]) -> Ended {
        let mut command = self.bare(args);
        ended(command.arg("--state-dir").arg(self.state())).await
    }

    async fn said(&self) -> Value {
        let ended = self.ask(&["status", "--json"]).await;
        assert_eq!(ended.code, Some(0), "{}", ended.err);
        serde_json::from_str(&ended.out).unwrap()
    }

    async fn explained(&self, path: &str) -> Value {
        let path = self.tree(path);
        let ended = self
            .ask(&["explain", path.to_str().unwrap(), "--json"])
            .await;
        serde_json::from_str(&ended.out).unwrap_or_else(|_| panic!("{ended:?}"))
    }

    /// Waits until the agent says that the folder is level.
    async fn until_level(&self) {
        let waiting = async {
            while self.said().await["folders"][0]["level"] != true {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let waited = tokio::time::timeout(DEADLINE, waiting).await;
        assert!(waited.is_ok(), "never level: {}", self.said().await);
    }

    async fn watch(&self, more: &[&str]) -> Child {
        let child = self.command("watch", more).spawn().unwrap();
        eventually("its socket", || self.state().join("agent.sock").exists()).await;
        self.until_level().await;
        child
    }
}

async fn stopped(child: Child) {
    send(&child, Signal::INT);
    let ended = end_of(child).await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
}

#[tokio::test]
async fn status_asks_the_agent_and_not_what_it_wrote_down() {
    let world = World::new().await;
    world.write("a", b"a");
    let child = world.watch(&[]).await;
    // Whatever lies there is not what is said.
    fs::write(world.state().join("status.json"), b"{}").unwrap();
    let said = world.said().await;
    assert_eq!(said["agent"]["alive"], true);
    assert_eq!(said["agent"]["pid"], child.id().unwrap());
    let folder = &said["folders"][0];
    assert_eq!(folder["level"], true);
    assert_eq!(folder["lease_holder"], "this agent");
    assert!(folder["lease_until"].is_string(), "{folder}");
    assert!(folder["watches_used"].as_u64() >= Some(1), "{folder}");
    assert!(folder["watches_allowed"].as_u64() >= Some(1), "{folder}");
    assert!(folder["rescans"].as_u64() >= Some(1), "{folder}");
    let text = world.ask(&["status"]).await.out;
    assert!(text.contains("  lease      this agent, until 20"), "{text}");
    assert!(
        text.lines()
            .all(|line| line.chars().count() <= 80 || line.contains("/tree")),
        "{text}"
    );
    stopped(child).await;
    let said = world.said().await;
    assert_eq!(said["agent"]["alive"], false);
    assert_eq!(said["folders"][0]["level"], false);
    assert_eq!(said["folders"][0]["lease_until"], Value::Null);
}

#[tokio::test]
async fn a_paused_folder_sends_nothing_until_it_is_resumed_also_over_a_restart() {
    let world = World::new().await;
    world.write("a", b"a");
    let child = world.watch(&["--settle", "50ms"]).await;
    let paused = world.ask(&["pause"]).await;
    assert_eq!(paused.code, Some(0), "{}", paused.err);
    assert!(paused.out.contains(": paused; "), "{}", paused.out);
    world.write("new", b"new");
    eventually_said(&world, "queued", |folder| folder["queued_files"] == 1).await;
    let text = world.ask(&["status"]).await.out;
    assert!(text.contains(", PAUSED since 20"), "{text}");
    let explained = world.explained("new").await;
    assert_eq!(explained["safe"], false);
    let waits = explained["live"]["waits_for"].as_str().unwrap();
    assert!(waits.starts_with("paused since "), "{waits}");
    let now = world.ask(&["sync-now"]).await;
    assert_eq!(now.code, Some(1));
    assert!(now.err.contains("`tidewatch resume` first"), "{}", now.err);
    stopped(child).await;

    let child = world.command("watch", &[]).spawn().unwrap();
    eventually_said(&world, "queued again", |folder| {
        folder["queued_files"] == 1 && folder["paused_since"].is_string()
    })
    .await;
    assert_eq!(world.object("new"), None);
    let resumed = world.ask(&["resume"]).await;
    assert!(resumed.out.ends_with(": goes on\n"), "{}", resumed.out);
    world.until_level().await;
    assert_eq!(world.object("new").unwrap(), b"new");
    stopped(child).await;
}

/// Waits until the agent says something of the folder.
async fn eventually_said(world: &World, what: &str, is: impl Fn(&Value) -> bool) {
    let waiting = async {
        while !is(&world.said().await["folders"][0]) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let waited = tokio::time::timeout(DEADLINE, waiting).await;
    assert!(waited.is_ok(), "never {what}: {}", world.said().await);
}

#[tokio::test]
async fn a_pause_can_be_told_when_no_agent_runs_and_a_sync_is_not_held_back() {
    let world = World::new().await;
    world.write("a", b"a");
    world.sync_level().await;
    let paused = world.ask(&["pause"]).await;
    assert!(paused.out.contains("no agent runs now"), "{}", paused.out);
    let again = world.ask(&["pause", "tree"]).await;
    assert!(again.out.ends_with("was paused already\n"), "{}", again.out);
    assert!(world.said().await["folders"][0]["paused_since"].is_string());
    world.write("b", b"b");
    world.sync_level().await;
    assert_eq!(world.object("b").unwrap(), b"b");
    assert_eq!(world.ask(&["pause", "nothing"]).await.code, Some(2));
    let resumed = world.ask(&["resume"]).await;
    assert_eq!(resumed.code, Some(0));
    assert!(
        resumed.out.contains("not paused any more"),
        "{}",
        resumed.out
    );
}

#[tokio::test]
async fn sync_now_sends_a_file_that_still_settles_by_whatever_name_it_is_called() {
    let world = World::new().await;
    let child = world.watch(&["--settle", "1h"]).await;
    let absolute = world.tree("d/one").to_str().unwrap().to_owned();
    for (name, args) in [
        ("d/one", vec!["sync-now", &*absolute]),
        ("d/two", vec!["sync-now", "tree", "d/two"]),
        ("three", vec!["sync-now", "tree"]),
        ("four", vec!["sync-now"]),
    ] {
        world.write(name, name);
        let settles = async {
            while world.explained(name).await["live"]["stage"] != "settling" {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let settles = tokio::time::timeout(DEADLINE, settles).await;
        assert!(settles.is_ok(), "{}", world.explained(name).await);
        assert_eq!(world.object(name), None, "{name}");
        let ended = world.ask(&args).await;
        assert_eq!(ended.code, Some(0), "{}", ended.err);
        assert!(
            ended.out.contains("now; 1 file waits no longer"),
            "{}",
            ended.out
        );
        eventually(name, || world.object(name).is_some()).await;
    }
    assert_eq!(
        world.ask(&["sync-now", "tree", "/elsewhere"]).await.code,
        Some(2)
    );
    assert_eq!(world.ask(&["sync-now", "/elsewhere"]).await.code, Some(2));
    stopped(child).await;
    let ended = world.ask(&["sync-now"]).await;
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("no agent runs for it"), "{}", ended.err);
}

#[tokio::test]
async fn explain_knows_how_far_a_large_file_is_and_what_failed_and_what_is_safe() {
    let world = World::new().await;
    world.write("safe", b"safe");
    world.write("out.tmp", b"out");
    let child = world
        .watch(&["--settle", "50ms", "--exclude", "*.tmp"])
        .await;
    let explained = world.explained("safe").await;
    assert_eq!(explained["code"], "level");
    assert_eq!(explained["live"]["stage"], "idle");
    assert_eq!(explained["config_missing"], Value::Null);
    // Only the agent knows what it was told on its command line.
    let explained = world.explained("out.tmp").await;
    assert_eq!(
        (&explained["code"], &explained["rule"]),
        (&"excluded".into(), &"*.tmp".into())
    );
    let ended = world
        .ask(&["explain", world.tree("").to_str().unwrap()])
        .await;
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.err.contains("it is a folder"), "{}", ended.err);

    let slow = Fault::Delay(Duration::from_secs(2));
    world.endpoint.always("UploadPart", slow);
    world.write("large", vec![7; 40 << 20]);
    let path = world.tree("large");
    let moves = async {
        loop {
            let explained = world.explained("large").await;
            let live = &explained["live"];
            if live["stage"] == "in_flight" && live["bytes_done"].as_u64() > Some(0) {
                break explained;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let explained = tokio::time::timeout(DEADLINE, moves).await.unwrap();
    assert_eq!(explained["safe"], false);
    assert_eq!(explained["live"]["bytes_all"], 40 << 20);
    assert_eq!(explained["live"]["parts_all"], 5);
    let said = world.said().await;
    assert_eq!(said["folders"][0]["going_up"][0]["path"], "large", "{said}");
    let text = world.ask(&["explain", path.to_str().unwrap()]).await.out;
    assert!(text.contains("  now      on its way: "), "{text}");
    world.endpoint.clear();
    world.until_level().await;

    world.endpoint.script(|seen| {
        let is_it = seen.operation == "PutObject" && seen.key == "p/bad";
        is_it.then_some(Fault::Error(500, "InternalError"))
    });
    world.write("bad", b"bad");
    let fails = async {
        while world.explained("bad").await["live"]["stage"] != "retrying" {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(DEADLINE, fails).await.unwrap();
    let explained = world.explained("bad").await;
    assert!(explained["live"]["error"].is_string(), "{explained}");
    let path = world.tree("bad");
    let text = world.ask(&["explain", path.to_str().unwrap()]).await.out;
    assert!(text.contains("is tried next at 20"), "{text}");
    send(&child, Signal::INT);
    end_of(child).await;
}

#[tokio::test]
async fn follow_tells_each_change_until_it_is_stopped() {
    let world = World::new().await;
    let child = world.watch(&["--settle", "50ms"]).await;
    let mut command = world.bare(["status", "--follow", "--json"]);
    command.arg("--state-dir").arg(world.state());
    let mut follower = command.spawn().unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    let mut next = async || {
        let line = tokio::time::timeout(DEADLINE, lines.next_line()).await;
        let line = line.expect("a line").unwrap().expect("it goes on");
        serde_json::from_str::<Value>(&line).unwrap()
    };
    assert_eq!(next().await["folders"][0]["level"], true);
    let paused = world.ask(&["pause"]).await;
    assert_eq!(paused.code, Some(0), "{}", paused.err);
    while !next().await["folders"][0]["paused_since"].is_string() {}
    world.write("a", b"a");
    while next().await["folders"][0]["queued_files"] != 1 {}
    stopped(child).await;
    while next().await["agent"]["alive"] != false {}
    send(&follower, Signal::INT);
    assert_eq!(end_of(follower).await.code, Some(0));
    // A folder that is not there is nothing to follow.
    let ended = world.ask(&["status", "--follow", "nothing"]).await;
    assert_eq!(ended.code, Some(2), "{ended:?}");
}

#[tokio::test]
async fn the_group_has_a_socket_of_its_own_where_the_service_has_a_runtime_directory() {
    let world = World::new().await;
    let run = world.dir.path().join("run");
    fs::create_dir(&run).unwrap();
    let mut command = world.command("watch", &[]);
    let child = command.env("RUNTIME_DIRECTORY", &run).spawn().unwrap();
    let socket = run.join("agent.sock");
    eventually("the group's socket", || socket.exists()).await;
    let mode = fs::symlink_metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o660);
    world.until_level().await;
    // Where the state folder may not be entered the group's socket answers. (The superuser may enter it: nothing to see.)
    fs::set_permissions(world.state(), fs::Permissions::from_mode(0o000)).unwrap();
    let mut command = world.bare(["status", "--json", "--state-dir"]);
    let command = command.arg(world.state()).env("RUNTIME_DIRECTORY", &run);
    let asked = ended(command).await;
    let barred = world.ask(&["status"]).await;
    let can_enter = fs::read_dir(world.state()).is_ok();
    fs::set_permissions(world.state(), fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(asked.code, Some(0), "{}", asked.err);
    let said: Value = serde_json::from_str(&asked.out).unwrap();
    assert_eq!(said["folders"][0]["level"], true, "{said}");
    if !can_enter {
        assert_eq!(barred.code, Some(1));
        assert!(barred.err.contains("member of the group"), "{}", barred.err);
    }
    stopped(child).await;
}
