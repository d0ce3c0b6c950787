//! What agents say beside their data, and `tidewatch fleet`, which reads it.

use std::fs;

use rustix::process::Signal;
use serde_json::Value;

use crate::process::{Ended, World, end_of, ended, eventually, send};
use crate::support::endpoint::Fault;

const WORD: &str = "p/.tidewatch/status.json";

fn word(world: &World) -> Option<Value> {
    let bytes = world.endpoint.object(WORD)?;
    Some(serde_json::from_slice(&bytes).expect("JSON"))
}

fn words_put(world: &World) -> usize {
    let requests = world.endpoint.all_requests();
    let is_word =
        |seen: &&crate::support::endpoint::Seen| seen.operation == "PutObject" && seen.key == WORD;
    requests.iter().filter(is_word).count()
}

async fn fleet(world: &World, url: &str, more: &[&str]) -> Ended {
    let mut command = world.bare(["fleet", url, "--endpoint-url", &world.endpoint.url()]);
    ended(command.args(more)).await
}

#[tokio::test]
async fn a_sync_says_how_it_ended_and_a_level_one_says_nothing_more() {
    let world = World::new().await;
    world.write("a", b"a");
    world.sync_level().await;
    let said = word(&world).expect("a word");
    assert_eq!(
        (&said["by"], &said["ended"]),
        (&"sync".into(), &true.into())
    );
    assert_eq!(said["folder"]["level"], true);
    assert_eq!(said["folder"]["to"], "s3://tide/p/");
    assert_eq!(words_put(&world), 1);
    world.endpoint.reset_counts();
    world.sync_level().await;
    let requests = world.endpoint.all_requests();
    assert!(
        requests
            .iter()
            .all(|seen| seen.key == "p/.tidewatch/lease.json"),
        "{requests:?}"
    );
    // Another version of the same file changes nothing that is worth a word; one that cannot be synced does.
    world.write("a", b"b");
    world.sync_level().await;
    assert_eq!(words_put(&world), 0);
    world.write(
        "x".repeat(255)
            + "/"
            + &"y".repeat(255)
            + "/"
            + &"z".repeat(255)
            + "/"
            + &"w".repeat(255)
            + "/"
            + &"v".repeat(100),
        b"",
    );
    assert_eq!(world.sync(&[]).await.code, Some(3));
    assert_eq!(words_put(&world), 1);
    assert_eq!(word(&world).expect("a word")["folder"]["unsyncable"], 1);
}

#[tokio::test]
async fn a_dry_run_and_one_that_has_no_lease_say_nothing() {
    let world = World::new().await;
    world.write("a", b"a");
    world.sync(&["--dry-run"]).await;
    assert_eq!(word(&world), None);
    world.endpoint.script(|seen| {
        let is_lease = seen.key.ends_with("lease.json") && seen.operation == "PutObject";
        is_lease.then_some(Fault::Error(403, "AccessDenied"))
    });
    let denied = world.sync(&[]).await;
    assert_eq!(denied.code, Some(5), "{}", denied.err);
    assert_eq!(word(&world), None);
}

#[tokio::test]
async fn an_agent_that_stays_says_something_when_it_is_level_and_when_it_ends() {
    let world = World::new().await;
    world.write("a", b"a");
    let child = world.command("watch", &[]).spawn().unwrap();
    eventually("a word", || word(&world).is_some()).await;
    let said = word(&world).expect("a word");
    assert_eq!(
        (&said["by"], &said["ended"]),
        (&"agent".into(), &false.into())
    );
    assert_eq!(said["folder"]["level"], true);
    send(&child, Signal::TERM);
    assert_eq!(end_of(child).await.code, Some(0));
    assert_eq!(word(&world).expect("a word")["ended"], true);
    assert_eq!(words_put(&world), 2);
    let shown = fleet(&world, "s3://tide", &[]).await;
    assert_eq!(shown.code, Some(0), "{}{}", shown.out, shown.err);
    assert!(shown.out.contains("level, ended"), "{}", shown.out);
}

#[tokio::test]
async fn every_host_below_a_place_is_listed_without_listing_its_data() {
    let world = World::new().await;
    for number in 0..30 {
        world.write(format!("folder{number}/file"), format!("{number}"));
    }
    let client = world.endpoint.client();
    let to = |host: &str| format!("s3://tide/team/{host}/photos");
    for host in ["web1", "web2"] {
        let url = world.endpoint.url();
        let tree = world.tree("");
        let mut command = world.bare(["sync"]);
        command
            .arg(&tree)
            .args([&*to(host), "--endpoint-url", &url]);
        let state = world.dir.path().join(host);
        let synced = ended(command.arg("--state-dir").arg(state)).await;
        assert_eq!(synced.code, Some(0), "{}", synced.err);
    }
    world.endpoint.reset_counts();
    let shown = fleet(&world, "s3://tide", &["--json"]).await;
    assert_eq!(shown.code, Some(0), "{}{}", shown.out, shown.err);
    let lines: Vec<Value> = shown
        .out
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(lines.len(), 2, "{}", shown.out);
    assert_eq!(lines[0]["to"], "s3://tide/team/web1/photos/");
    assert_eq!(
        (&lines[0]["state"], &lines[0]["held"]),
        (&"level".into(), &0.into())
    );
    // The place, its team, the two hosts and their folders; nothing in these.
    let requests = world.endpoint.all_requests();
    let listed = requests
        .iter()
        .filter(|seen| seen.operation == "ListObjectsV2");
    assert_eq!(listed.count(), 6);

    // An agent that said its last word long ago is silent; one that cannot be understood is not known.
    for (host, text) in [
        (
            "old",
            r#"{"written_at":"2026-01-01T00:00:00Z","host":"old","by":"agent","folder":{"name":"x","level":true}}"#,
        ),
        ("odd", "not JSON"),
    ] {
        client
            .put_object()
            .bucket("tide")
            .key(format!("team/{host}/.tidewatch/status.json"))
            .body(text.as_bytes().to_vec().into())
            .send()
            .await
            .unwrap();
    }
    let shown = fleet(&world, "s3://tide/team", &[]).await;
    assert_eq!(shown.code, Some(3), "{}{}", shown.out, shown.err);
    let states: Vec<_> = shown
        .out
        .lines()
        .filter_map(|line| line.split_whitespace().nth(2))
        .collect();
    assert_eq!(states, ["STATE", "unknown", "silent", "level", "level"]);
    let nothing = fleet(&world, "s3://tide/elsewhere", &[]).await;
    assert_eq!(nothing.code, Some(2), "{}", nothing.err);
    assert!(nothing.err.contains("no agent has said anything below"));
}

#[tokio::test]
async fn what_a_brake_holds_makes_the_fleet_say_so() {
    let world = World::new().await;
    for number in 0..3 {
        world.write(format!("{number}"), format!("{number}"));
    }
    let config = world.dir.path().join("config.toml");
    let text = format!(
        "[agent]\nlisten = \"\"\nstate_dir = {:?}\n[s3]\nendpoint_url = {:?}\n[[folder]]\npath = {:?}\nto = \"s3://tide/p\"\n\
         on_delete = \"delete\"\ndelete_brake = {{ files = 1, window = \"10m\" }}\n",
        world.state(),
        world.endpoint.url(),
        world.tree("")
    );
    fs::write(&config, text).unwrap();
    let sync = || {
        let mut command = world.bare(["sync", "--config"]);
        command.arg(&config);
        command
    };
    assert_eq!(ended(&mut sync()).await.code, Some(0));
    for number in 0..3 {
        fs::remove_file(world.tree(format!("{number}"))).unwrap();
    }
    assert_eq!(ended(&mut sync()).await.code, Some(4));
    let shown = fleet(&world, "s3://tide", &[]).await;
    assert_eq!(shown.code, Some(3), "{}{}", shown.out, shown.err);
    assert!(shown.out.contains("  held  "), "{}", shown.out);
}
