//! Folders that come, go and change while `run` goes on.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;
use tokio::process::Child;

use crate::process::{Ear, World, end_of, eventually, send, told};
use crate::support::endpoint::Fault;

/// Writes a config with these folders (their name, their prefix, and more of their keys), each below the tree.
fn config(world: &World, folders: &[(&str, &str, &str)]) -> PathBuf {
    let mut text = format!(
        "[agent]\nlisten = \"\"\nstate_dir = \"{}\"\n[s3]\nendpoint_url = {:?}\n",
        world.state().display(),
        world.endpoint.url(),
    );
    for (name, prefix, more) in folders {
        let path = world.tree(name);
        fs::create_dir_all(&path).unwrap();
        writeln!(
            text,
            "[[folder]]\nname = \"{name}\"\npath = \"{}\"\nto = \"s3://tide/{prefix}\"\nsettle = \"100ms\"\n{more}",
            path.display()
        )
        .unwrap();
    }
    let place = world.dir.path().join("config.toml");
    fs::write(&place, text).unwrap();
    place
}

/// Starts `run` and waits until it is ready.
async fn running(world: &World, folders: &[(&str, &str, &str)]) -> (Child, Ear) {
    let place = config(world, folders);
    let socket = world.dir.path().join("notify");
    let ear = Ear::at(&socket);
    let mut command = world.bare(["run", "--config", place.to_str().unwrap()]);
    let child = command.env("NOTIFY_SOCKET", &socket).spawn().unwrap();
    ear.hear("READY=1").await;
    (child, ear)
}

async fn reload(world: &World, child: &mut Child, folders: &[(&str, &str, &str)]) -> String {
    config(world, folders);
    send(child, Signal::HUP);
    told(child, "the config has been read again").await
}

async fn until_there(world: &World, key: &str) {
    eventually(key, || world.endpoint.object(key).is_some()).await;
}

#[tokio::test]
async fn folders_come_go_and_change_and_an_upload_beside_them_goes_on() {
    let world = World::new().await;
    let mut large = vec![0; 40 << 20];
    fastrand::Rng::with_seed(1).fill(&mut large);
    world.write("stays/large", &large);
    world.write("goes/before", b"1");
    world.write("changes/file", b"2");
    // The first part of each kind is held up, so that the upload is on its way for as long as it takes.
    world
        .endpoint
        .always("UploadPart", Fault::Delay(Duration::from_secs(2)));
    let before = [
        ("stays", "stays", ""),
        ("goes", "goes", ""),
        ("changes", "changes", ""),
    ];
    let (mut child, _ear) = running(&world, &before).await;
    until_there(&world, "goes/before").await;
    until_there(&world, "changes/file").await;
    let began = |endpoint: &crate::support::endpoint::Endpoint| endpoint.count("UploadPart") > 0;
    world.endpoint.until("a part is on its way", began).await;
    assert_eq!(world.endpoint.object("stays/large"), None);

    world.write("comes/new", b"3");
    let after = [
        ("comes", "comes", ""),
        ("stays", "stays", ""),
        ("changes", "elsewhere", ""),
    ];
    let said = reload(&world, &mut child, &after).await;
    assert!(said.contains("added: comes"), "{said}");
    assert!(
        said.contains("removed, and what is in the bucket stays: goes"),
        "{said}"
    );
    assert!(said.contains("changed, and begun anew: changes"), "{said}");
    until_there(&world, "comes/new").await;
    until_there(&world, "elsewhere/file").await;
    until_there(&world, "stays/large").await;
    assert!(world.endpoint.object("stays/large").unwrap() == large);

    // One upload, none given up, and no part of it sent twice.
    let requests = world.endpoint.requests();
    let count = |operation: &str| {
        requests
            .iter()
            .filter(|seen| seen.operation == operation)
            .count()
    };
    assert_eq!(count("CreateMultipartUpload"), 1);
    assert_eq!(count("AbortMultipartUpload"), 0);
    let parts: Vec<&str> = requests
        .iter()
        .filter(|seen| seen.operation == "UploadPart")
        .map(|seen| seen.path.as_str())
        .collect();
    let different: BTreeSet<&str> = parts.iter().copied().collect();
    assert_eq!(different.len(), parts.len(), "{parts:?}");

    // What was removed is not looked after any more; what it had sent is there.
    world.write("goes/after", b"4");
    world.write("comes/last", b"5");
    until_there(&world, "comes/last").await;
    assert_eq!(world.endpoint.object("goes/after"), None);
    assert!(world.endpoint.object("goes/before").is_some());
    let status = world
        .bare(["status", "--state-dir"])
        .arg(world.state())
        .output()
        .await
        .unwrap();
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(
        status.contains("comes") && status.contains("elsewhere"),
        "{status}"
    );
    send(&child, Signal::TERM);
    assert_eq!(end_of(child).await.code, Some(0));
}

#[tokio::test]
async fn a_folder_that_changes_has_ended_before_it_begins_anew() {
    let world = World::new().await;
    world.write("a/file", b"1");
    let (mut child, _ear) = running(&world, &[("a", "p", "")]).await;
    until_there(&world, "p/file").await;
    // Another name and other settings, and the same prefix: the lease goes from one to the other.
    fs::create_dir(world.tree("b")).unwrap();
    world.write("b/other", b"2");
    let mut said = reload(&world, &mut child, &[("b", "p", "rescan = \"1m\"")]).await;
    if said.matches("watching ").count() < 2 {
        said += &told(&mut child, "watching ").await;
    }
    let stopped = said.find("stopped").expect("the one before has ended");
    let watching = said.rfind("watching ").expect("the other begins");
    assert!(stopped < watching, "{said}");
    until_there(&world, "p/other").await;
    assert!(!said.contains("WARN") && !said.contains("ERROR"), "{said}");
    // Back, and both at once: each change is carried out to its end.
    config(&world, &[("a", "q", "")]);
    send(&child, Signal::HUP);
    config(&world, &[("a", "p", ""), ("b", "r", "")]);
    send(&child, Signal::HUP);
    until_there(&world, "r/other").await;
    world.write("a/later", b"3");
    until_there(&world, "p/later").await;
    send(&child, Signal::TERM);
    let ended = end_of(child).await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
}

#[tokio::test]
async fn a_bad_config_changes_nothing_and_the_manager_is_told_why() {
    let world = World::new().await;
    let (mut child, ear) = running(&world, &[("a", "a", "")]).await;
    config(&world, &[("a", "a", ""), ("b", "a/b", "")]);
    send(&child, Signal::HUP);
    told(&mut child, "what was read before stays in force").await;
    let heard = ear.hear("RELOADING=1").await;
    let reloading = heard.last().unwrap();
    let stamp = reloading
        .lines()
        .find_map(|line| line.strip_prefix("MONOTONIC_USEC="));
    assert!(stamp.unwrap().parse::<u64>().unwrap() > 0, "{reloading}");
    let heard = ear.hear("READY=1").await;
    let is_told =
        |said: &String| said.starts_with("STATUS=") && said.contains("the config has problems");
    assert!(heard.iter().any(is_told), "{heard:?}");
    world.write("a/file", b"1");
    until_there(&world, "a/file").await;
    assert_eq!(world.endpoint.object("a/b/file"), None);

    // One that is good ends that.
    reload(&world, &mut child, &[("a", "a", ""), ("b", "b", "")]).await;
    ear.hear("RELOADING=1").await;
    let heard = ear.hear("READY=1").await;
    assert!(!heard.iter().any(is_told), "{heard:?}");
    send(&child, Signal::TERM);
    ear.hear("STOPPING=1").await;
    assert_eq!(end_of(child).await.code, Some(0));
}

#[tokio::test]
async fn a_new_folder_that_cannot_be_kept_leaves_the_others_alone() {
    let world = World::new().await;
    let (mut child, _ear) = running(&world, &[("a", "a", "")]).await;
    let place = config(&world, &[("a", "a", "")]);
    let text = fs::read_to_string(&place).unwrap();
    let own = format!(
        "[[folder]]\nname = \"own\"\npath = {:?}\nto = \"s3://tide/own\"\n",
        world.state()
    );
    fs::write(&place, text + &own).unwrap();
    send(&child, Signal::HUP);
    let said = told(&mut child, "the other folders go on").await;
    assert!(said.contains("its own state folder"), "{said}");
    world.write("a/file", b"1");
    until_there(&world, "a/file").await;
    reload(&world, &mut child, &[("a", "a", ""), ("b", "b", "")]).await;
    world.write("b/file", b"1");
    until_there(&world, "b/file").await;
    send(&child, Signal::TERM);
    assert_eq!(end_of(child).await.code, Some(0));
}

#[tokio::test]
async fn what_only_a_restart_changes_is_named() {
    let world = World::new().await;
    let (mut child, _ear) = running(&world, &[("a", "a", "")]).await;
    let place = config(&world, &[("a", "a", "")]);
    let text = fs::read_to_string(&place).unwrap();
    fs::write(
        &place,
        text.replace("[agent]", "[agent]\nshutdown_grace = \"7s\""),
    )
    .unwrap();
    send(&child, Signal::HUP);
    told(
        &mut child,
        "`shutdown_grace` changed too and needs a restart",
    )
    .await;
    send(&child, Signal::TERM);
    assert_eq!(end_of(child).await.code, Some(0));
}

#[tokio::test]
async fn while_it_drains_more_time_is_asked_for() {
    let world = World::new().await;
    let (child, ear) = running(&world, &[("a", "a", "")]).await;
    world
        .endpoint
        .always("PutObject", Fault::Delay(Duration::from_secs(2)));
    for n in 0..200 {
        world.write(format!("a/{n}"), format!("content {n}"));
    }
    let began = |endpoint: &crate::support::endpoint::Endpoint| endpoint.count("PutObject") > 0;
    world.endpoint.until("an upload is on its way", began).await;
    send(&child, Signal::TERM);
    ear.hear("STOPPING=1").await;
    let heard = ear.hear("EXTEND_TIMEOUT_USEC=").await;
    let by = heard
        .last()
        .unwrap()
        .trim()
        .strip_prefix("EXTEND_TIMEOUT_USEC=")
        .unwrap();
    assert!(
        (1..=15_000_000).contains(&by.parse::<u64>().unwrap()),
        "{by}"
    );
    assert_eq!(end_of(child).await.code, Some(0));
}
