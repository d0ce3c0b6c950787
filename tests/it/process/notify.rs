//! Who is told when something is wrong, and what beats while nothing is: the real program, a webhook and a script.

use std::fs;
use std::path::Path;

use rustix::process::Signal;
use serde_json::Value;
use tokio::process::{Child, Command};

use crate::process::{World, end_of, eventually, send};
use crate::support::endpoint::Fault;
use crate::support::raw_server::{RawServer, Reply};

/// Starts `run` with these lines in `[notify]`, and a folder whose changes are late after a second.
fn running(world: &World, notify: &str) -> Child {
    configured(world, notify).spawn().unwrap()
}

fn configured(world: &World, notify: &str) -> Command {
    let config = world.dir.path().join("config.toml");
    let text = format!(
        "[agent]\nlisten = \"\"\nstate_dir = {:?}\n[notify]\n{notify}\n[s3]\nendpoint_url = {:?}\n\
         [[folder]]\nname = \"photos\"\npath = {:?}\nto = \"s3://tide/p\"\nsettle = \"50ms\"\nmax_lag = \"1s\"\n",
        world.state().to_str().unwrap(),
        world.endpoint.url(),
        world.tree("").to_str().unwrap()
    );
    fs::write(&config, text).unwrap();
    let mut command = world.bare(["run", "--config"]);
    command.arg(&config);
    command
}

fn told(hook: &RawServer) -> Vec<Value> {
    let seen = hook.seen();
    seen.iter()
        .map(|seen| serde_json::from_slice(&seen.body).expect("JSON"))
        .collect()
}

fn events(hook: &RawServer) -> Vec<String> {
    let told = told(hook);
    told.iter()
        .map(|message| message["event"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a_lag_over_its_target_and_its_end_are_posted() {
    let world = World::new().await;
    // The first is refused: it is told again.
    let replies = [Reply::Answer(500, "", "no"), Reply::Answer(200, "", "ok")];
    let hook = RawServer::start(replies).await;
    world.endpoint.script(|seen| {
        let is_file = seen.operation == "PutObject" && seen.key == "p/late";
        is_file.then_some(Fault::Error(500, "InternalError"))
    });
    let child = running(&world, &format!("webhook = \"{}/secret\"", hook.url()));
    world.write("late", b"late");
    eventually("it is told", || events(&hook).len() >= 2).await;
    let all = told(&hook);
    assert_eq!(all[0], all[1], "the same message is tried again");
    assert_eq!(all[0]["event"], "late");
    assert_eq!(all[0]["folder"], "photos");
    let text = all[0]["text"].as_str().unwrap();
    assert!(
        text.starts_with("photos is ") && text.contains("more than 1s"),
        "{text}"
    );
    let request = &hook.seen()[0];
    assert!(
        request.head.starts_with("POST /secret HTTP/1.1"),
        "{}",
        request.head
    );
    assert_eq!(request.header("content-type"), Some("application/json"));

    world.endpoint.clear();
    eventually("its end is told", || {
        events(&hook).last().is_some_and(|last| last == "on_time")
    })
    .await;
    send(&child, Signal::TERM);
    let ended = end_of(child).await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert!(!ended.err.contains("/secret"), "{}", ended.err);
}

#[tokio::test]
async fn a_command_is_run_without_a_shell_and_told_what_is_held() {
    let world = World::new().await;
    let script = world.dir.path().join("tell me");
    let heard = world.dir.path().join("heard");
    let text = "#!/bin/sh\ncat > \"$1.new\"\necho \"$TIDEWATCH_EVENT $TIDEWATCH_FOLDER\" >> \"$1.new\"\nmv \"$1.new\" \"$1\"\n";
    fs::write(&script, text).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&script, mode).unwrap();
    let line = format!("command = \"'{}' '{}'\"", script.display(), heard.display());
    let mut command = configured(&world, &line);
    let config = world.dir.path().join("config.toml");
    let brake = "on_delete = \"delete\"\ndelete_brake = { files = 1, window = \"10m\" }\n";
    let text = fs::read_to_string(&config).unwrap() + brake;
    fs::write(&config, text).unwrap();
    for number in 0..3 {
        world.write(format!("{number}"), b"x");
    }
    let child = command.spawn().unwrap();
    eventually("all objects", || world.objects().len() == 3).await;
    for number in 0..3 {
        fs::remove_file(world.tree(format!("{number}"))).unwrap();
    }
    eventually("it is told", || heard.exists()).await;
    let heard = fs::read_to_string(&heard).unwrap();
    let (json, words) = heard.split_once('\n').unwrap();
    assert_eq!(words, "held photos\n");
    let message: Value = serde_json::from_str(json).expect("JSON");
    assert_eq!(message["event"], "held");
    assert!(
        message["text"]
            .as_str()
            .unwrap()
            .contains("tidewatch held list")
    );
    send(&child, Signal::TERM);
    end_of(child).await;
}

#[tokio::test]
async fn the_heart_beats_only_while_no_folder_is_late() {
    let world = World::new().await;
    let heart = RawServer::start([Reply::Answer(200, "", "ok")]).await;
    let lines = format!(
        "heartbeat = \"{}/beat\"\nheartbeat_every = \"1s\"",
        heart.url()
    );
    let child = running(&world, &lines);
    let beats = || heart.seen().len();
    eventually("it beats", || beats() >= 2).await;
    assert!(heart.seen()[0].head.starts_with("GET /beat HTTP/1.1"));

    world.endpoint.script(|seen| {
        let is_file = seen.operation == "PutObject" && seen.key == "p/late";
        is_file.then_some(Fault::Error(500, "InternalError"))
    });
    world.write("late", b"late");
    let state = world.state();
    let is_late = || status_of(&state).is_some_and(|folder| folder.is_late());
    eventually("it is late", is_late).await;
    // One that was decided on before may still be on its way.
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    let before = beats();
    // Real time, three beats long: that something does not come can only be waited for.
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert_eq!(beats(), before);
    world.endpoint.clear();
    eventually("it beats again", || beats() > before).await;
    send(&child, Signal::TERM);
    end_of(child).await;
}

fn status_of(state: &Path) -> Option<tidewatch::report::status_file::FolderStatus> {
    let status = tidewatch::report::status_file::read(state).unwrap()?;
    status.folders.into_iter().next()
}

#[tokio::test]
async fn what_cannot_be_told_is_one_warning_and_keeps_nothing_from_the_bucket() {
    let world = World::new().await;
    let lines = "heartbeat = \"http://127.0.0.1:1/secret\"\nheartbeat_every = \"1s\"";
    let mut child = running(&world, lines);
    let errors = child.stderr.take().expect("standard error");
    world.write("a", b"a");
    eventually("the object", || world.object("a").is_some()).await;
    let mut count = 0;
    let warning = async {
        use tokio::io::AsyncBufReadExt as _;
        let mut lines = tokio::io::BufReader::new(errors).lines();
        while let Some(line) = lines.next_line().await.unwrap() {
            assert!(!line.contains("secret"), "{line}");
            if line.contains("could not tell anybody by notify.heartbeat") {
                count += 1;
                send(&child, Signal::TERM);
            }
        }
    };
    tokio::time::timeout(crate::process::DEADLINE, warning)
        .await
        .expect("a warning");
    assert_eq!(count, 1);
    assert!(world.object("a").is_some());
    assert_eq!(end_of(child).await.code, Some(0));
}
