//! `tidewatch selftest`: it proves what holds, catches what does not, and leaves nothing behind.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use serde_json::Value;
use tokio::process::Command;

use crate::process::json::holds;
use crate::process::{Ended, World, end_of, ended, send};
use crate::support::endpoint::Fault;
use crate::support::results;

/// What everything of a selftest begins with in these tests.
const OWN: &str = "scratch/tidewatch-selftest-";

/// A world in which the bucket holds something that is nobody's business.
async fn world() -> World {
    let world = World::new().await;
    fs::create_dir(temporary(&world)).unwrap();
    for key in ["scratch/mine", "other", "scratch/tidewatch-selftes"] {
        let client = world.endpoint.client();
        let put = client.put_object().bucket("tide").key(key);
        put.body(b"mine".to_vec().into()).send().await.unwrap();
    }
    world.endpoint.reset_counts();
    world
}

fn temporary(world: &World) -> PathBuf {
    world.dir.path().join("tmp")
}

fn command(world: &World, more: &[&str]) -> Command {
    let mut command = world.bare(["selftest", "s3://tide/scratch", "--seed", "1"]);
    command.args(["--endpoint-url", &world.endpoint.url()]);
    command.env("TMPDIR", temporary(world)).args(more);
    command
}

/// Holds that nothing is left anywhere, and that nothing else was ever touched.
fn is_clean(world: &World) {
    let keys = world.endpoint.all_keys();
    assert_eq!(keys, ["other", "scratch/mine", "scratch/tidewatch-selftes"]);
    assert_eq!(world.endpoint.open_uploads(), []);
    assert_eq!(fs::read_dir(temporary(world)).unwrap().count(), 0);
    for seen in world.endpoint.all_requests() {
        let is_own = seen.key.starts_with(OWN)
            || (seen.key.is_empty() && seen.path.contains("tidewatch-selftest-"));
        let is_about_the_bucket =
            seen.key.is_empty() && matches!(seen.operation, "HeadBucket" | "DeleteObjects");
        assert!(is_own || is_about_the_bucket, "{seen:?}");
    }
}

/// Returns each proof with its result, and the summary.
fn told(ended: &Ended) -> (Vec<(String, String)>, Value) {
    let lines = ended.out.lines();
    let mut lines: Vec<Value> = lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let summary = lines.pop().unwrap();
    assert_eq!(summary["event"], "summary");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let proofs = lines
        .iter()
        .map(|line| (text(&line["proof"]), text(&line["result"])));
    (proofs.collect(), summary)
}

/// Returns the file in which the endpoint keeps an object.
fn stored(dir: &Path, end: &str) -> Option<PathBuf> {
    let mut open = vec![dir.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.ends_with(end) {
                return Some(path);
            }
        }
    }
    None
}

#[tokio::test]
async fn a_selftest_proves_everything_and_leaves_nothing() {
    let world = world().await;
    let ended = ended(&mut command(&world, &["--kills", "1", "--json"])).await;
    assert_eq!(ended.code, Some(0), "{}\n{}", ended.out, ended.err);
    let (proofs, summary) = told(&ended);
    let words = [
        "store", "synced", "level", "kills", "faults", "trash", "brake", "restore", "history",
        "cleaned",
    ];
    let wanted = words.map(|word| (word.to_owned(), "proven".to_owned()));
    assert_eq!(proofs, wanted);
    assert_eq!(summary["failed"], 0);
    assert_eq!(summary["cleaned_up"], true);
    assert!(summary["puts"].as_u64() > Some(50), "{summary}");
    assert!(summary["sent_bytes"].as_u64() > Some(30 << 20), "{summary}");
    is_clean(&world);
    holds("selftest", &[&ended]);
    let (proven, puts) = (&summary["proven"], &summary["puts"]);
    let figure = format!(
        "{proven} of {} proven with {puts} puts; cleaned up",
        words.len()
    );
    results::note("Selftest", "against the endpoint on loopback", &figure);
}

#[tokio::test]
async fn a_selftest_names_what_a_store_has_lost_and_tries_nothing_more() {
    let world = world().await;
    world.endpoint.script(|seen| {
        let is_it = seen.operation == "GetObject" && seen.key.ends_with("/a.b/c");
        is_it.then_some(Fault::Error(404, "NoSuchKey"))
    });
    let ended = ended(&mut command(&world, &[])).await;
    assert_eq!(ended.code, Some(1), "{}\n{}", ended.out, ended.err);
    assert!(
        ended
            .out
            .contains("  FAILED   synced   the object of a.b/c cannot be read"),
        "{}",
        ended.out
    );
    assert!(ended.out.contains("  untried  kills\n"), "{}", ended.out);
    assert!(
        ended.out.contains("1 proven") || ended.out.contains("2 proven, 1 failed"),
        "{}",
        ended.out
    );
    is_clean(&world);
}

#[tokio::test]
async fn a_selftest_catches_a_copy_that_is_none() {
    let world = world().await;
    let dir = world.endpoint.dir().to_owned();
    let mut is_done = false;
    world.endpoint.script(move |seen| {
        let is_time = seen.operation == "GetObject" && seen.key.contains("/twins/");
        if is_time && !std::mem::replace(&mut is_done, true) {
            let object = stored(&dir, "twins/second").unwrap();
            let mut bytes = fs::read(&object).unwrap();
            bytes[7] ^= 1;
            fs::write(&object, bytes).unwrap();
        }
        None
    });
    let ended = ended(&mut command(&world, &[])).await;
    assert_eq!(ended.code, Some(1), "{}\n{}", ended.out, ended.err);
    assert!(
        ended
            .out
            .contains("  FAILED   synced   the object of twins/"),
        "{}",
        ended.out
    );
    is_clean(&world);
}

#[tokio::test]
async fn a_selftest_that_is_stopped_cleans_up() {
    let world = world().await;
    let child = command(&world, &["--kills", "500"]).spawn().unwrap();
    world
        .endpoint
        .until("the second upload by parts", |endpoint| {
            endpoint.count("CompleteMultipartUpload") >= 2
        })
        .await;
    send(&child, Signal::INT);
    let ended = end_of(child).await;
    assert_eq!(ended.code, Some(130), "{}\n{}", ended.out, ended.err);
    assert!(ended.out.contains("  proven   cleaned"), "{}", ended.out);
    is_clean(&world);
}

#[tokio::test]
async fn a_selftest_keeps_what_it_is_told_to_keep_and_its_seed_repeats_it() {
    let world = world().await;
    world.endpoint.script(|seen| {
        let is_it = seen.operation == "GetObject" && seen.key.ends_with("/empty");
        is_it.then_some(Fault::Error(404, "NoSuchKey"))
    });
    for _ in 0..2 {
        let ended = ended(&mut command(&world, &["--keep"])).await;
        assert_eq!(ended.code, Some(1), "{}\n{}", ended.out, ended.err);
    }
    let objects = world.endpoint.objects();
    let plain: Vec<_> = objects
        .iter()
        .filter(|(key, _)| key.starts_with(OWN) && key.ends_with("/plain.txt"))
        .map(|(_, bytes)| bytes)
        .collect();
    assert_eq!(plain.len(), 2);
    assert_eq!(plain[0], plain[1]);
}

#[tokio::test]
async fn a_selftest_of_a_bucket_that_is_not_there_ends_with_5() {
    let world = world().await;
    let mut command = world.bare(["selftest", "s3://tide/scratch"]);
    command.args(["--endpoint-url", "http://127.0.0.1:9"]);
    let unreachable = ended(&mut command).await;
    assert_eq!(unreachable.code, Some(5), "{}", unreachable.err);
    let usage = ended(&mut world.bare(["selftest", "s3://tide/a//b"])).await;
    assert_eq!(usage.code, Some(2), "{}", usage.err);
}
