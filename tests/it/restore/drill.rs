//! Restore drills, with the real program: what comes back, what does not, and how it is kept.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tidewatch::base::clock::Clock;
use tidewatch::base::drill::Drill;
use tidewatch::catalog::{self, Record};
use tidewatch::commands::Exit;
use tidewatch::commands::drill::trial;
use tidewatch::config::{Folder, Target};
use tidewatch::report::drill_file::{self, Drilled};
use tidewatch::store::ErrorKind;
use tidewatch::store::key::KeyMap;
use tokio_util::sync::CancellationToken;

use crate::agent::{passed, slow};
use crate::catalog::{Scribe, put};
use crate::process::{Ended, World, end_of, ended, eventually, send};
use crate::restore::config;
use crate::support::faulty::{Fault, Faulty, Odds};
use crate::support::mem_store::MemStore;

async fn run(world: &World, command: &str, config: &str, more: &[&str]) -> Ended {
    ended(world.bare([command, "--config", config]).args(more)).await
}

fn drilled(ended: &Ended) -> Value {
    let line = ended.out.lines().next().expect("a line");
    serde_json::from_str(line).expect("JSON")
}

/// Returns what the catalog in the bucket says of drills.
fn lines(world: &World) -> Vec<Drill> {
    let keys = KeyMap::new("p/");
    let mut drills = Vec::new();
    for key in world.endpoint.all_keys() {
        if catalog::number(&keys, &key).is_some() {
            let bytes = world.endpoint.object(&key).expect("a link");
            let each = |record: catalog::Record| drills.extend(record.drill.map(|drill| *drill));
            catalog::read_link(&bytes, &keys, each).expect("a link");
        }
    }
    drills
}

/// Nothing of a drill stays in the state folder but how it went.
fn is_clean(state: &Path) -> bool {
    let mut names = fs::read_dir(state).unwrap();
    !names.any(|entry| {
        let name = entry.unwrap().file_name().into_string().unwrap();
        name.starts_with("drill-") || name.starts_with("drill.json.")
    })
}

#[tokio::test]
async fn a_drill_brings_back_a_sample_compares_it_and_is_kept() {
    let world = World::new().await;
    let config = config(&world, "");
    let empty = run(&world, "drill", &config, &[]).await;
    assert_eq!(empty.code, Some(2), "{}{}", empty.out, empty.err);

    for number in 0..30 {
        world.write(format!("a/{number}"), format!("content {number}"));
    }
    assert_eq!(run(&world, "sync", &config, &[]).await.code, Some(0));
    world.write("a/0", "another content since");
    let before = world.endpoint.objects();
    let told = run(&world, "drill", &config, &["--json"]).await;
    assert_eq!(told.code, Some(0), "{}{}", told.out, told.err);
    let result = drilled(&told);
    assert_eq!(result["ok"], true);
    assert_eq!(result["files"], 30);
    assert_eq!(result["verified"], 30);
    assert_eq!(
        (&result["same"], &result["changed"]),
        (&29.into(), &1.into())
    );
    assert_eq!(world.endpoint.objects(), before, "it only reads");
    assert!(is_clean(&world.state()));
    // The next agent that runs writes its line; to the tree it says nothing.
    assert_eq!(lines(&world), Vec::<Drill>::new());
    assert_eq!(run(&world, "sync", &config, &[]).await.code, Some(0));
    let lines = lines(&world);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!((lines[0].ok, lines[0].files, lines[0].wrong), (true, 30, 0));
    assert_eq!((lines[0].same, lines[0].changed), (29, 1));
    let bytes = result["bytes"].as_u64();
    assert_eq!(
        (Some(lines[0].bytes), lines[0].host.is_empty()),
        (bytes, false)
    );

    let status = run(&world, "status", &config, &[]).await;
    let line = status.out.lines().find(|line| line.contains("last drill"));
    let line = line.expect("a line of the drill");
    assert!(line.contains("ok: 30 files"), "{line}");
    let status = run(&world, "status", &config, &["--json"]).await;
    let status: Value = serde_json::from_str(status.out.lines().next().unwrap()).unwrap();
    assert_eq!(status["folders"][0]["last_drill"]["files"], 30);
    // By its name, and not by another.
    assert_eq!(run(&world, "drill", &config, &["f"]).await.code, Some(0));
    let other = run(&world, "drill", &config, &["other"]).await;
    assert_eq!(other.code, Some(2), "{}", other.err);
}

#[tokio::test]
async fn a_drill_names_what_is_lost_and_what_is_not_as_it_was() {
    let world = World::new().await;
    let config = config(&world, "");
    for name in ["lost", "rotten", "good"] {
        world.write(name, format!("content of {name}"));
    }
    assert_eq!(run(&world, "sync", &config, &[]).await.code, Some(0));
    let client = world.endpoint.client();
    let remove = client.delete_object().bucket("tide").key("p/lost");
    remove.send().await.unwrap();
    // Other bytes, and nothing else of it has changed.
    let rotten = world.tree("rotten");
    let stat = fs::metadata(&rotten).unwrap();
    fs::write(&rotten, "CONTENT of rotten").unwrap();
    let file = File::options().write(true).open(&rotten).unwrap();
    file.set_modified(stat.modified().unwrap()).unwrap();

    let told = run(&world, "drill", &config, &[]).await;
    assert_eq!(told.code, Some(3), "{}{}", told.out, told.err);
    assert!(told.out.starts_with("f: FAILED: 2 files"), "{}", told.out);
    assert!(
        told.out
            .contains("lost: its content is not in the bucket any more"),
        "{}",
        told.out
    );
    assert!(
        told.out
            .contains("rotten: what came back is not what is on the disk"),
        "{}",
        told.out
    );
    let status = run(&world, "status", &config, &[]).await;
    assert!(status.out.contains("FAILED"), "{}", status.out);

    world.endpoint.always(
        "ListObjectsV2",
        crate::support::endpoint::Fault::Error(403, "AccessDenied"),
    );
    let barred = run(&world, "drill", &config, &["--json"]).await;
    assert_eq!(barred.code, Some(5), "{}{}", barred.out, barred.err);
    assert!(
        drilled(&barred)["error"]
            .as_str()
            .unwrap()
            .contains("AccessDenied")
    );
}

#[tokio::test]
async fn a_service_drills_when_the_last_drill_is_old() {
    let world = World::new().await;
    let config = config(&world, "drill = \"1h\"");
    world.write("a", "content");
    assert_eq!(run(&world, "sync", &config, &[]).await.code, Some(0));
    let to = "s3://tide/p/";
    let old = drill_file::Drilled {
        at_ns: 1,
        ..drill_file::Drilled::default()
    };
    drill_file::keep(&world.state(), to, &old).unwrap();
    let child = world.bare(["run", "--config", &config]).spawn().unwrap();
    let last = || drill_file::read(&world.state()).remove(to).unwrap();
    eventually("a drill of the service", || last().at_ns > 1).await;
    assert!(last().ok, "{:?}", last());
    assert_eq!(last().files, 1);
    // One by hand, while it runs: it is the agent that writes both lines.
    let by_hand = run(&world, "drill", &config, &[]).await;
    assert_eq!((by_hand.code, &*by_hand.err), (Some(0), ""));
    assert_eq!(lines(&world), Vec::<Drill>::new());
    send(&child, Signal::TERM);
    let ended = end_of(child).await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    let lines = lines(&world);
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines.iter().all(|drill| drill.ok && drill.files == 1));
    assert!(
        ended.err.contains("restore drill ok: 1 files"),
        "{}",
        ended.err
    );
    assert!(is_clean(&world.state()));
}

/// A folder on the disk that is level with a bucket in memory, and a catalog that says so.
struct Level {
    dir: TempDir,
    bucket: MemStore,
    stop: CancellationToken,
}

impl Level {
    fn new(names: &[&str]) -> Self {
        let (dir, mut scribe) = (tempfile::tempdir().unwrap(), Scribe::new());
        fs::create_dir(dir.path().join("state")).unwrap();
        let bucket = scribe.bucket.clone();
        let record = |name: &&str| {
            let (content, place) = (
                format!("content of {name}"),
                dir.path().join("tree").join(name),
            );
            crate::restore::write(&place, content.as_bytes());
            let stat = fs::metadata(&place).unwrap();
            let key = format!("p/{name}");
            bucket.plant(&key, content.as_bytes());
            Record {
                etag: Some(bucket.objects()[&key].etag.clone()),
                mtime_ns: Some(stat.mtime() * 1_000_000_000 + stat.mtime_nsec()),
                ..put(name, &content, 1)
            }
        };
        let records: Vec<Record> = names.iter().map(record).collect();
        scribe.delta(2, &records);
        let stop = CancellationToken::new();
        Self { dir, bucket, stop }
    }

    fn line(&self, odds: Odds) -> Faulty<MemStore> {
        Faulty::new(self.bucket.clone(), 1, odds)
    }

    fn tree(&self, name: &str) -> PathBuf {
        self.dir.path().join("tree").join(name)
    }

    async fn drill(&self, store: &Faulty<MemStore>) -> (Drilled, Exit) {
        let to = Target::parse("s3://tide/p").unwrap();
        let folder = Folder::new("f".to_owned(), self.tree(""), to);
        let (store, state) = (Arc::new(store.clone()), self.dir.path().join("state"));
        let drilled = trial::try_out(store, &folder, &state, 1 << 20, &self.stop).await;
        assert!(is_clean(&state));
        drilled
    }
}

#[tokio::test(start_paused = true)]
async fn what_changes_while_a_drill_runs_is_no_fault() {
    let level = Level::new(&["stays", "went", "goes", "changes", "lost"]);
    // Since the catalog's last link.
    fs::remove_file(level.tree("went")).unwrap();
    level.bucket.uproot("p/went");
    let store = level.line(Odds::default());
    let (bucket, tree) = (level.bucket.clone(), level.tree(""));
    store.rule(move |operation, key| {
        match (operation, key) {
            ("GetObject", "p/goes") => {
                bucket.uproot(key);
                drop(fs::remove_file(tree.join("goes")));
            }
            ("GetObject", "p/changes") => {
                bucket.plant(key, b"another content");
                fs::write(tree.join("changes"), "another content").unwrap();
            }
            _ => {}
        }
        None
    });
    let (drilled, exit) = level.drill(&store).await;
    assert!(drilled.ok && exit == Exit::Level, "{drilled:?}");
    assert_eq!((drilled.files, drilled.same), (2, 2), "{drilled:?}");
    // What the disk still has, the bucket owes.
    level.bucket.uproot("p/lost");
    let (drilled, exit) = level.drill(&store).await;
    assert_eq!(exit, Exit::Different);
    assert_eq!(drilled.wrong.len(), 1, "{drilled:?}");
    assert!(drilled.wrong[0].starts_with("lost: "), "{drilled:?}");
    // Also all of it.
    for key in level.bucket.objects().keys() {
        level.bucket.uproot(key);
    }
    let (drilled, exit) = level.drill(&store).await;
    assert_eq!((exit, drilled.wrong.len()), (Exit::Different, 2));
    assert!(!drilled.ok && drilled.error.is_none(), "{drilled:?}");
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_no_fault_of_the_backup() {
    let level = Level::new(&["a", "b", "c"]);
    let store = level.line(Odds::default());
    let count = Arc::new(AtomicU32::new(0));
    let fails = |from, to| {
        let count = count.clone();
        count.store(0, Ordering::Relaxed);
        move |operation: &str, key: &str| {
            let is_file = !key.contains("catalog") && operation != "ListObjectsV2";
            let number = if is_file {
                count.fetch_add(1, Ordering::Relaxed)
            } else {
                u32::MAX
            };
            let is_down = (from..to).contains(&number);
            is_down.then_some(Fault::Refused(ErrorKind::Network))
        }
    };
    // One comes back, then the line is down.
    store.rule(fails(1, u32::MAX));
    let (drilled, exit) = level.drill(&store).await;
    assert_eq!(exit, Exit::Unreachable);
    assert!(drilled.wrong.is_empty(), "{drilled:?}");
    assert!(drilled.error.is_some(), "{drilled:?}");
    // It is down for as long as two files are tried, and then it is not.
    store.rule(fails(1, 1 + 2 * 5));
    let (drilled, exit) = level.drill(&store).await;
    assert!(drilled.ok && exit == Exit::Level, "{drilled:?}");
    assert_eq!((drilled.files, drilled.same), (3, 3));
}

#[tokio::test(start_paused = true)]
async fn a_drill_that_is_stopped_does_not_wait_for_the_bucket() {
    let level = Level::new(&["a"]);
    let store = level.line(slow(3_600_000));
    let began = Clock::Real.now().mono;
    let stop = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        level.stop.cancel();
    };
    let ((drilled, _), ()) = tokio::join!(level.drill(&store), stop);
    assert!(passed(began) < Duration::from_secs(2), "{drilled:?}");
    assert!(!drilled.ok && drilled.wrong.is_empty(), "{drilled:?}");
}
