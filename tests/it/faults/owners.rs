//! Two agents on one prefix: what the second does, from what the server saw.
#![cfg(feature = "demo")]
#![allow(
    clippy::disallowed_methods,
    reason = "these write users' files, which nobody writes durably"
)]

use std::fs;
use std::time::Duration;

use rustix::process::Signal;
use tidewatch::agent::{Mode, Reason};
use tidewatch::base::policy::{Guarding, OnDelete};
use tidewatch::sync::lease::Note;
use tokio::process::Command;
use tokio::time::sleep;

use crate::agent::{Bench, path};
use crate::process::{Ended, World, complaints, end_of, ended, send};
use crate::support::endpoint::{Fault, Seen};
use crate::support::faulty::{self, Odds};

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

/// What asks a bucket what it can do names no key when it removes its objects; nothing else is removed here.
fn is_change(operation: &str) -> bool {
    ![
        "GetObject",
        "HeadObject",
        "HeadBucket",
        "ListObjectsV2",
        "ListMultipartUploads",
        "DeleteObjects",
    ]
    .contains(&operation)
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

/// Makes a folder whose objects are guarded.
fn guarded() -> Bench {
    let mut bench = Bench::new(Odds::default());
    bench.settings.guard = Guarding::Strict;
    bench.settings.delete_brake = None;
    bench
}

#[tokio::test(start_paused = true)]
async fn f26_what_somebody_else_wrote_is_kept_and_the_file_is_named() {
    let bench = guarded();
    bench.tree.write(&path("f"), b"first");
    assert!(bench.sync().await.last.level);
    bench.bucket.plant("p/f", b"theirs");
    bench.bucket.plant("p/new", b"theirs too");
    bench.tree.write(&path("f"), b"second");
    bench.tree.write(&path("new"), b"ours");
    bench.tree.write(&path("other"), b"other");
    let ended = bench.sync().await;
    assert_eq!(ended.reason, Reason::Finished);
    assert_eq!((ended.last.unsyncable, ended.last.failed), (2, 0));
    assert!(!ended.last.level);
    assert_eq!(bench.object("f").unwrap(), b"theirs");
    assert_eq!(bench.object("new").unwrap(), b"theirs too");
    assert_eq!(bench.object("other").unwrap(), b"other");

    // Its bytes are not sent again and again.
    bench.bucket.reset_counts();
    let ended = bench.sync().await;
    assert_eq!(ended.last.unsyncable, 2);
    assert_eq!(bench.bucket.counts().of("PutObject"), 0);

    // Out of the way, it is ours again.
    bench.bucket.uproot("p/f");
    bench.bucket.uproot("p/new");
    assert!(bench.sync().await.last.level);
    assert_eq!(bench.object("f").unwrap(), b"second");
}

#[tokio::test(start_paused = true)]
async fn f26_what_landed_late_of_a_file_that_was_gone_by_then_is_known_as_ours() {
    let bench = guarded();
    assert_eq!(bench.settings.on_delete, OnDelete::Keep);
    let mut agent = bench.start(Mode::Forever);
    for is_known in [false, true] {
        if is_known {
            bench.tree.write(&path("f"), b"known");
            agent.until_uploaded("f").await;
        }
        let late = faulty::Fault::Late(Duration::from_mins(5));
        bench
            .store
            .rule(move |operation, key| (operation == "PutObject" && key == "p/f").then_some(late));
        bench.tree.write(&path("f"), b"sent late");
        sleep(Duration::from_secs(2)).await;
        assert!(bench.store.pending() > 0);
        bench.tree.remove(&path("f"));
        bench.store.rule(|_, _| None);
        sleep(Duration::from_mins(40)).await;
        bench.store.settle().await;
        assert_eq!(bench.object("f").unwrap(), b"sent late");

        // Nobody else was here: the next file of that name goes over it.
        bench.tree.write(&path("f"), b"another");
        let took = agent.until_uploaded("f").await;
        assert!(took < Duration::from_mins(1), "not at once: {took:?}");
        assert_eq!(bench.object("f").unwrap(), b"another");
        agent.level().await;
    }
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn f26_a_large_file_and_a_renamed_one_do_not_overwrite_what_somebody_else_wrote() {
    let bench = guarded();
    let large = vec![b'L'; (16 << 20) + 1];
    bench.tree.write(&path("large"), &large);
    bench.tree.write(&path("old"), b"content that moves");
    assert!(bench.sync().await.last.level);
    bench.bucket.plant("p/large", b"theirs");
    bench.bucket.plant("p/moved", b"theirs too");
    let larger = vec![b'M'; (16 << 20) + 2];
    bench.tree.write(&path("large"), &larger);
    bench.tree.rename(&path("old"), &path("moved"));
    let ended = bench.sync().await;
    assert_eq!(ended.last.unsyncable, 2, "{:?}", ended.last);
    assert_eq!(bench.object("large").unwrap(), b"theirs");
    assert_eq!(bench.object("moved").unwrap(), b"theirs too");
    assert_eq!(bench.bucket.open_uploads(), []);
}

#[tokio::test(start_paused = true)]
async fn f26_a_refusal_after_a_lost_answer_is_our_own_write() {
    for operation in ["PutObject", "CopyObject", "CompleteMultipartUpload"] {
        let bench = guarded();
        bench.tree.write(&path("f"), b"first");
        bench.tree.write(&path("old"), b"content that moves");
        bench
            .tree
            .write(&path("large"), &vec![b'L'; (16 << 20) + 1]);
        assert!(bench.sync().await.last.level);
        bench.tree.write(&path("f"), b"second");
        bench.tree.rename(&path("old"), &path("new"));
        bench
            .tree
            .write(&path("large"), &vec![b'M'; (16 << 20) + 2]);
        bench.store.next(operation, faulty::Fault::Lost);
        let ended = bench.sync().await;
        assert_eq!(ended.reason, Reason::Finished, "{operation}");
        assert_eq!(
            (ended.last.unsyncable, ended.last.failed),
            (0, 0),
            "{operation}"
        );
        assert_eq!(bench.object("f").unwrap(), b"second");
        assert_eq!(bench.object("new").unwrap(), b"content that moves");
    }
}

#[tokio::test]
async fn f26_every_write_and_removal_carries_a_condition_and_a_lost_answer_is_settled() {
    let world = World::new().await;
    world.write("a", b"first");
    world.write("gone", b"gone");
    world.write("stays", b"stays");
    let text = format!(
        "[agent]\nlisten = \"\"\nstate_dir = {:?}\n[s3]\nendpoint_url = {:?}\n\
         [[folder]]\npath = {:?}\nto = \"s3://tide/p\"\nguard = \"strict\"\non_delete = \"delete\"\n",
        world.state(),
        world.endpoint.url(),
        world.tree(""),
    );
    let config = world.dir.path().join("config.toml");
    fs::write(&config, text).unwrap();
    let sync = async || {
        let args = ["sync", "--config", config.to_str().unwrap()];
        let ended = ended(&mut world.bare(args)).await;
        assert_eq!(ended.code, Some(0), "{}", ended.err);
    };
    sync().await;
    // Done, and its answer lost: the repeat of the same request is refused, and was ours.
    let mut left = 1;
    world.endpoint.script(move |seen| {
        let is_put = seen.operation == "PutObject" && seen.key == "p/a" && left > 0;
        left -= usize::from(is_put);
        is_put.then_some(Fault::DropAnswer)
    });
    world.write("a", b"second");
    fs::remove_file(world.tree("gone")).unwrap();
    sync().await;
    assert_eq!(world.object("a").unwrap(), b"second");
    assert_eq!(world.object("gone"), None);
    let requests = world.endpoint.requests();
    let of = |operation: &str, key: &str| {
        let found = requests
            .iter()
            .filter(|seen| seen.operation == operation && seen.key == key);
        found.collect::<Vec<_>>()
    };
    let puts = of("PutObject", "p/a");
    assert_eq!(puts.len(), 3, "the first, the second, and its repeat");
    assert_eq!(puts[0].headers["if-none-match"], "*");
    assert!(
        puts[1..]
            .iter()
            .all(|put| put.headers.contains_key("if-match"))
    );
    assert_eq!(puts[2].status, Some(412));
    assert!(
        of("DeleteObject", "p/gone")[0]
            .headers
            .contains_key("if-match")
    );
}

/// Writes a config with a guarded folder, and returns where.
fn guarded_config(world: &World) -> String {
    let text = format!(
        "[agent]\nlisten = \"\"\nstate_dir = \"{}\"\n[s3]\nendpoint_url = {:?}\n\
         [[folder]]\npath = \"{}\"\nto = \"s3://tide/p\"\nguard = \"strict\"\n",
        world.state().display(),
        world.endpoint.url(),
        world.tree("").display(),
    );
    let config = world.dir.path().join("config.toml");
    fs::write(&config, text).unwrap();
    config.display().to_string()
}

#[tokio::test]
async fn a_store_that_was_found_to_take_no_conditions_is_asked_anew_before_it_is_refused_again() {
    let world = World::new().await;
    world.write("a", b"a");
    let config = guarded_config(&world);
    world.endpoint.meet_probes();
    let takes_none = |seen: &Seen| {
        let has_one = seen.operation == "PutObject" && seen.headers.contains_key("if-match");
        has_one.then_some(Fault::Error(501, "NotImplemented"))
    };
    world.endpoint.script(takes_none);
    let refused = ended(&mut world.bare(["sync", "--config", &config])).await;
    assert_eq!(refused.code, Some(2), "{}", refused.err);
    assert_eq!(world.object("a"), None);
    world.endpoint.clear();
    let ended = ended(&mut world.bare(["sync", "--config", &config])).await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert!(world.object("a").is_some());
}

#[tokio::test(start_paused = true)]
async fn f26_an_object_that_was_changed_meanwhile_is_not_removed() {
    let mut bench = guarded();
    bench.settings.on_delete = OnDelete::Delete;
    bench.tree.write(&path("f"), b"first");
    bench.tree.write(&path("stays"), b"stays");
    assert!(bench.sync().await.last.level);
    bench.tree.remove(&path("f"));
    // Between the look and the removal.
    let bucket = bench.bucket.clone();
    bench
        .store
        .on_delete(move |key| bucket.plant(key, b"theirs"));
    bench.sync().await;
    bench.store.on_delete(|_| {});
    assert_eq!(bench.object("f").unwrap(), b"theirs");
}

#[test]
fn f26_a_store_that_ignores_conditions_cannot_be_guarded() {
    use tidewatch::store::features::Features;
    use tidewatch::store::guarded::trouble;
    assert_eq!(trouble(&Features::ALL), None);
    for without in [
        Features {
            put_if_absent: false,
            ..Features::ALL
        },
        Features {
            put_if_match: false,
            ..Features::ALL
        },
        Features {
            complete_if: false,
            ..Features::ALL
        },
        Features {
            delete_if_match: Some(false),
            ..Features::ALL
        },
    ] {
        let why = trouble(&without).expect("it is refused");
        assert!(why.contains("guard = \"off\""), "{why}");
    }
}
