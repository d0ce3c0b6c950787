//! Rows 56, 65 and 66: other hands in the bucket, mass deletion, and another config.

use std::fs;
use std::time::Duration;

use tidewatch::agent::Mode;
use tidewatch::base::policy::{Brake, OnDelete};
use tokio::time::sleep;

use crate::agent::{Bench, path};
use crate::process::{World, ended};
use crate::support::faulty::Odds;
use crate::watching::table::row;

#[tokio::test(start_paused = true)]
async fn r56_what_somebody_else_deletes_or_changes_is_found_and_mended() {
    let _row = row!();
    let day = Duration::from_secs(24 * 3600);
    let mut bench = Bench::new(Odds::default());
    bench.settings.audit = Some(day);
    for name in ["a", "b", "c"] {
        bench.tree.write(&path(name), name.as_bytes());
    }
    let mut agent = bench.start(Mode::Forever);
    agent.level().await;
    bench.bucket.uproot("p/a");
    bench.bucket.plant("p/b", b"theirs");
    bench.bucket.plant("p/nobody's", b"extra");
    sleep(day + day / 2).await;
    for name in ["a", "b", "c"] {
        assert_eq!(bench.object(name).unwrap(), name.as_bytes());
    }
    assert_eq!(bench.object("nobody's").unwrap(), b"extra");
    let objects = bench.bucket.objects();
    let mut trash = objects
        .iter()
        .filter(|(key, _)| key.contains(".tidewatch/trash/"));
    assert!(
        trash.any(|(_, object)| object.bytes[..] == *b"theirs"),
        "theirs is kept"
    );
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn r65_a_mass_deletion_is_held_until_a_person_decides() {
    let _row = row!();
    let mut bench = Bench::new(Odds::default());
    bench.settings.on_delete = OnDelete::Delete;
    bench.settings.delete_brake = Some(Brake {
        files: 30,
        share_percent: None,
        window: Duration::from_secs(600),
    });
    for n in 0..100 {
        // Each its own: what is the same elsewhere is safe there, and no loss.
        let content = format!("content {n}");
        bench
            .tree
            .write(&path(&format!("d{}/f{n}", n % 2)), content.as_bytes());
    }
    let mut agent = bench.start(Mode::Forever);
    agent.level().await;
    bench.tree.remove(&path("d1"));
    let held = agent.snapshots.wait_for(|now| now.held == 50);
    tokio::time::timeout(Duration::from_secs(3600), held)
        .await
        .expect("it is held within an hour")
        .unwrap();
    sleep(Duration::from_secs(1_800)).await;
    assert_eq!(bench.bucket.objects().len(), 100);
    let now = agent.snapshots.borrow().clone();
    assert!(!now.level && now.brake.is_some(), "{now:?}");
    // What is no mass goes on meanwhile: new files are sent.
    bench.tree.write(&path("d0/new"), b"new");
    agent.until_uploaded("d0/new").await;
    agent.stop().await;
}

#[tokio::test]
async fn r66_a_changed_config_deletes_nothing() {
    let _row = row!();
    let world = World::new().await;
    for name in ["a", "b/c", "b/d"] {
        world.write(name, name);
    }
    let config = world.dir.path().join("config.toml");
    let run = async |to: &str, more: &str| {
        let text = format!(
            "[agent]\nlisten = \"\"\nstate_dir = {:?}\n[s3]\nendpoint_url = {:?}\n\
             [[folder]]\npath = {:?}\nto = \"s3://tide/{to}\"\non_delete = \"delete\"\n{more}\n",
            world.state(),
            world.endpoint.url(),
            world.tree(""),
        );
        fs::write(&config, text).unwrap();
        let args = ["sync", "--config", config.to_str().unwrap()];
        let ended = ended(&mut world.bare(args)).await;
        assert_eq!(ended.code, Some(0), "{to} {more}: {}", ended.err);
    };
    run("p", "").await;
    assert_eq!(world.objects().len(), 3);
    // Another prefix, a rule that leaves out what was taken in, and back.
    run("q", "").await;
    run("p", "exclude = [\"b/\"]").await;
    run("p", "max_size = \"1B\"").await;
    run("q", "include = [\"a\"]").await;
    run("p", "").await;
    assert_eq!(world.objects().len(), 3);
    let keys = world.endpoint.keys();
    assert_eq!(keys.iter().filter(|key| key.starts_with("q/")).count(), 3);
    // What is removed has to be sent again: each went up, or was copied, once a prefix.
    let sent = world.endpoint.count("PutObject") + world.endpoint.count("CopyObject");
    assert_eq!(sent, 6);
    assert_eq!(world.endpoint.count("DeleteObject"), 0);
}
