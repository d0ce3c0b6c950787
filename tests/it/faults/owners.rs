//! Two agents on one prefix: what the second does, from what the server saw.
#![cfg(feature = "demo")]

use std::time::Duration;

use rustix::process::Signal;
use tidewatch::sync::lease::Note;
use tokio::process::Command;

use crate::process::{Ended, World, complaints, end_of, ended, send};
use crate::support::endpoint::Fault;

const LEASE: &str = "p/.tidewatch/lease.json";

/// Makes a `sync` of the same folder with a state folder of its own.
fn other(world: &World, more: &[&str]) -> Command {
    let mut command = world.bare(["sync"]);
    command.arg(world.tree("")).arg("s3://tide/p");
    command.args(["--endpoint-url", &world.endpoint.url()]);
    command
        .arg("--state-dir")
        .arg(world.dir.path().join("other"));
    command.args(more);
    command
}

fn note(world: &World) -> Note {
    let bytes = world.endpoint.object(LEASE).expect("there is a lease");
    serde_json::from_slice(&bytes).expect("a note")
}

/// Writes the lease as its owner would.
async fn write(world: &World, note: &Note) {
    let body = serde_json::to_vec(note).unwrap();
    let put = world.endpoint.client().put_object().bucket("tide");
    put.key(LEASE).body(body.into()).send().await.unwrap();
}

fn is_change(operation: &str) -> bool {
    !["GetObject", "HeadObject", "HeadBucket", "ListObjectsV2"].contains(&operation)
}

/// Returns the requests so far that change anything but the lease.
fn changes(world: &World) -> usize {
    let requests = world.endpoint.requests();
    requests
        .iter()
        .filter(|seen| is_change(seen.operation))
        .count()
}

fn named(world: &World) -> String {
    let note = note(world);
    format!(
        "(process {}, folder `{}`, agent {})",
        note.pid,
        note.folder,
        &note.agent[..8]
    )
}

fn taken(world: &World, ended: &Ended) {
    assert_eq!(ended.code, Some(6), "{}", ended.err);
    let line = complaints(ended)[0];
    assert!(line.contains(&named(world)), "{line}");
    assert!(line.contains(" s more, until 20"), "{line}");
}

#[tokio::test]
async fn f34_two_agents_on_one_prefix_the_second_sync_exits_6_until_the_first_is_dead_and_its_lease_over()
 {
    let world = World::new().await;
    world.write("a", b"content");
    let watch = world.command("watch", &[]).spawn().unwrap();
    world
        .endpoint
        .until("the first object", |e| !e.keys().is_empty())
        .await;
    world.write("b", b"more");
    let both = |e: &crate::support::endpoint::Endpoint| e.keys().len() == 2;
    world.endpoint.until("both objects", both).await;

    let before = changes(&world);
    taken(
        &world,
        &ended(&mut other(&world, &["--timeout", "2s"])).await,
    );
    let dry = ended(&mut other(&world, &["--dry-run"])).await;
    taken(&world, &dry);
    assert_eq!(changes(&world), before);

    send(&watch, Signal::KILL);
    assert_eq!(end_of(watch).await.code, None);
    taken(
        &world,
        &ended(&mut other(&world, &["--timeout", "1s"])).await,
    );
    // The same lease, but one that ends soon.
    let dead = Note {
        seconds: 1,
        ..note(&world)
    };
    write(&world, &dead).await;
    let ended = ended(&mut other(&world, &[])).await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert!(
        ended.err.contains("waiting for the lease of host"),
        "{}",
        ended.err
    );
    let last = note(&world);
    assert!(last.released && last.agent != dead.agent, "{last:?}");
}

#[tokio::test]
async fn f34_two_agents_on_one_prefix_the_second_takes_over_from_a_living_one_if_it_is_told_to() {
    let world = World::new().await;
    world.write("a", b"content");
    let watch = world.command("watch", &[]).spawn().unwrap();
    world
        .endpoint
        .until("the first object", |e| !e.keys().is_empty())
        .await;
    let owner = named(&world);
    world.write("only later", b"more");
    let ended = ended(&mut other(&world, &["--take-over"])).await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    let warnings = ended.err.lines().filter(|line| line.contains("WARN"));
    let warnings: Vec<_> = warnings.filter(|line| line.contains("lease")).collect();
    assert_eq!(warnings.len(), 1, "{}", ended.err);
    assert!(warnings[0].contains(&owner), "{}", warnings[0]);
    assert!(note(&world).released);
    send(&watch, Signal::KILL);
    end_of(watch).await;
}

#[tokio::test]
async fn a_lease_that_may_not_be_written_is_a_missing_right_and_nothing_is_sent() {
    let world = World::new().await;
    world.write("a", b"content");
    world.endpoint.script(|seen| {
        let is_lease = seen.operation == "PutObject" && seen.key == LEASE;
        is_lease.then_some(Fault::Error(403, "AccessDenied"))
    });
    let ended = world.sync(&["--timeout", "20s"]).await;
    assert_eq!(ended.code, Some(5), "{}", ended.err);
    let line = complaints(&ended)[0];
    assert!(
        line.contains(LEASE) && line.contains("`.tidewatch/`"),
        "{line}"
    );
    assert_eq!(changes(&world), 0);
}

#[tokio::test]
async fn a_sync_after_another_that_ended_does_not_wait_for_it() {
    let world = World::new().await;
    world.write("a", b"content");
    world.sync_level().await;
    let soon = Duration::from_secs(30);
    let ended = tokio::time::timeout(soon, other(&world, &[]).output()).await;
    let output = ended.expect("at once").unwrap();
    assert_eq!(output.status.code(), Some(0));
}
