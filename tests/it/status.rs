//! What `tidewatch status` says of living agents, dead ones, and none.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;
use tidewatch::base::clock::Clock;
use tidewatch::base::path::RelPath;
use tidewatch::base::snapshot::{FolderSnapshot, Tried, Up};
use tidewatch::manifest::{Change, Entry, Failure, FolderKey, Manifest, State};
use tidewatch::report::status_file::{self, FolderStatus, StatusFile};

const SECOND_NS: i64 = 1_000_000_000;

fn now_ns() -> i64 {
    Clock::Real.now().wall_ns
}

fn run(state: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_tidewatch"))
        .arg("status")
        .args(arguments)
        .arg("--state-dir")
        .arg(state)
        .env_clear()
        .output()
        .expect("the program runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

fn json(state: &Path) -> Value {
    let (code, out, err) = run(state, &["--json"]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert_eq!(out.lines().count(), 1, "{out}");
    serde_json::from_str(&out).expect("one object")
}

/// Opens a manifest with one folder, `photos`, that was scanned at `scanned_ns`.
fn manifest(state: &Path, scanned_ns: i64) -> Manifest {
    let (manifest, _) = Manifest::open(state, now_ns()).expect("a state folder");
    let key = FolderKey {
        path: b"/srv/photos".to_vec(),
        endpoint: String::new(),
        bucket: "backups".to_owned(),
        prefix: "photos/".to_owned(),
    };
    let row = manifest.folder(&key, "photos").expect("a folder");
    manifest
        .commit(row.id, &[Change::Scanned(scanned_ns)])
        .expect("committed");
    manifest
}

fn say(state: &Path, at_ns: i64, pid: u32, level: bool) {
    let snapshot = FolderSnapshot {
        name: "photos".to_owned(),
        path: "/srv/photos".to_owned(),
        to: "s3://backups/photos/".to_owned(),
        level,
        watch: "native".to_owned(),
        last_scan_ns: Some(at_ns),
        rate_bytes_per_second: 7,
        seconds_left: Some(9),
        going_up: vec![Up {
            path: RelPath::new(b"a/\xff.bin").expect("a valid path"),
            bytes_done: 8 << 20,
            bytes_all: 40 << 20,
            parts: Some((1, 5)),
        }],
        watches_used: Some(3),
        watches_allowed: Some(65_536),
        last_verify: Some(Tried {
            at_ns: SECOND_NS,
            ok: true,
        }),
        lease_holder: Some("this agent".to_owned()),
        lease_until_ns: Some(2 * SECOND_NS),
        ..FolderSnapshot::default()
    };
    let said = StatusFile {
        at_ns,
        pid,
        version: "0.1.0".to_owned(),
        page: None,
        folders: vec![FolderStatus::of(&snapshot)],
    };
    status_file::write(state, &said).expect("written");
}

#[test]
fn a_living_agent_speaks_for_itself() {
    let state = TempDir::new().expect("a folder");
    let _held = manifest(state.path(), now_ns());
    say(state.path(), now_ns(), std::process::id(), true);
    let said = json(state.path());
    assert_eq!(said["agent"]["alive"], true);
    assert_eq!(said["agent"]["pid"], std::process::id());
    assert_eq!(said["agent"]["version"], "0.1.0");
    let folder = &said["folders"][0];
    for (field, value) in [
        ("name", Value::from("photos")),
        ("path", "/srv/photos".into()),
        ("to", "s3://backups/photos/".into()),
        ("level", true.into()),
        ("lag_seconds", 0.into()),
        ("queued_files", 0.into()),
        ("queued_bytes", 0.into()),
        ("failed", 0.into()),
        ("held", 0.into()),
        ("watch", "native".into()),
    ] {
        assert_eq!(folder[field], value, "{field}");
    }
    assert!(folder["last_scan"].is_string());
    let (code, text, _) = run(state.path(), &[]);
    assert_eq!(code, Some(0));
    assert!(text.contains("photos  level\n"), "{text}");
}

/// The contract with scripts: these fields, with these types. Fields may be added here, never changed.
#[test]
fn the_fields_of_the_json_are_those_of_the_contract() {
    let state = TempDir::new().expect("a folder");
    let _held = manifest(state.path(), now_ns());
    say(state.path(), now_ns(), std::process::id(), true);
    let mut said = json(state.path());
    for (place, mask) in [
        ("/agent/pid", Value::from(1)),
        ("/agent/last_heard", "TIME".into()),
        ("/agent/state_dir", "DIR".into()),
        ("/folders/0/last_scan", "TIME".into()),
    ] {
        let value = said.pointer_mut(place).expect(place);
        assert_eq!(value.is_number(), mask.is_number(), "{place}: {value}");
        *value = mask;
    }
    let golden: Value = serde_json::from_str(include_str!("../golden/status.json")).expect("JSON");
    assert_eq!(said, golden, "{said:#}");
}

#[test]
fn a_dead_agents_folder_is_never_level() {
    let state = TempDir::new().expect("a folder");
    drop(manifest(state.path(), now_ns() - 600 * SECOND_NS));
    say(
        state.path(),
        now_ns() - 300 * SECOND_NS,
        std::process::id(),
        true,
    );
    let said = json(state.path());
    assert_eq!(said["agent"]["alive"], false);
    assert_eq!(said["agent"]["pid"], Value::Null);
    let folder = &said["folders"][0];
    assert_eq!(folder["level"], false);
    assert_eq!(folder["last_known_level"], true);
    assert_eq!(folder["watch"], "off");
    let lag = folder["lag_seconds"].as_u64().expect("a number");
    assert!((300..330).contains(&lag), "{lag}");
    let (code, text, _) = run(state.path(), &[]);
    assert_eq!(code, Some(0));
    for part in ["photos  BEHIND up to 5m", "not running since 20", "level"] {
        assert!(text.contains(part), "{part}\n{text}");
    }
}

#[test]
fn a_file_that_another_process_left_is_not_the_living_agents_word() {
    let state = TempDir::new().expect("a folder");
    let _held = manifest(state.path(), now_ns() - 60 * SECOND_NS);
    say(state.path(), now_ns(), std::process::id() + 1, true);
    let said = json(state.path());
    assert_eq!(said["agent"]["alive"], true);
    assert_eq!(said["agent"]["version"], Value::Null);
    assert_eq!(said["folders"][0]["level"], false);
    assert!(said["folders"][0]["lag_seconds"].as_u64() >= Some(60));
}

#[test]
fn what_an_earlier_process_of_the_same_number_said_is_the_past() {
    let state = TempDir::new().expect("a folder");
    let said_ns = now_ns() - 60 * SECOND_NS;
    say(state.path(), said_ns, std::process::id(), true);
    let _held = manifest(state.path(), said_ns);
    let said = json(state.path());
    assert_eq!(said["agent"]["alive"], true);
    assert_eq!(said["folders"][0]["level"], false);
    say(state.path(), now_ns(), std::process::id(), true);
    assert_eq!(json(state.path())["folders"][0]["level"], true);
}

#[test]
fn what_fails_is_named_with_its_reason() {
    let state = TempDir::new().expect("a folder");
    let manifest = manifest(state.path(), now_ns());
    let folder = manifest.folders().expect("read")[0].id;
    let failing = |number: usize| {
        Change::Put(Entry {
            path: RelPath::root().join(format!("file {number}").as_bytes()),
            state: State::Unsent,
            stored: None,
            want: None,
            ambiguous_until_ns: 0,
            failure: Some(Failure {
                attempts: 2,
                error: "could not read it: Permission denied".to_owned(),
                parked: None,
            }),
            held: None,
        })
    };
    let changes: Vec<Change> = (1..=7).map(failing).collect();
    manifest.commit(folder, &changes).expect("committed");
    drop(manifest);
    let (_, text, _) = run(state.path(), &["photos"]);
    assert!(
        text.contains("  failed     7 files; the first 5:\n"),
        "{text}"
    );
    assert!(text.contains("file 5 (2 times)\n"), "{text}");
    assert!(!text.contains("file 6"), "{text}");
    let folder = &json(state.path())["folders"][0];
    assert_eq!(folder["failing"][0]["path"], "file 1");
    assert_eq!(
        (&folder["failed"], &folder["queued_files"]),
        (&7.into(), &7.into())
    );
}

#[test]
fn a_folder_is_found_by_name_path_and_url_and_else_all_are_listed() {
    let state = TempDir::new().expect("a folder");
    drop(manifest(state.path(), now_ns()));
    for wanted in [
        "photos",
        "/srv/photos",
        "/srv/photos/",
        "s3://backups/photos",
    ] {
        assert_eq!(run(state.path(), &[wanted]).0, Some(0), "{wanted}");
    }
    let (code, out, err) = run(state.path(), &["music"]);
    assert_eq!((code, out.as_str()), (Some(2), ""));
    assert_eq!(
        err,
        "tidewatch: could not find the folder `music`; there are (name, path, URL):\n  \
         photos  /srv/photos  s3://backups/photos/\n"
    );
}

#[test]
fn where_nothing_was_ever_synced_it_says_so_and_makes_nothing() {
    let dir = TempDir::new().expect("a folder");
    let state = dir.path().join("state");
    let (code, out, _) = run(&state, &[]);
    assert_eq!(code, Some(0));
    assert!(out.starts_with("nothing is synced from here yet"), "{out}");
    assert_eq!(run(&state, &["photos"]).0, Some(2));
    let said = json(&state);
    assert_eq!(said["agent"]["alive"], false);
    assert_eq!(said["folders"], Value::Array(Vec::new()));
    assert!(!state.exists());
}

#[cfg(feature = "demo")]
#[tokio::test]
async fn what_watch_says_is_shown_while_it_lives_and_is_the_past_when_it_is_killed() {
    let endpoint = crate::support::endpoint::Endpoint::start().await;
    let dir = TempDir::new().expect("a folder");
    let (folder, state) = (dir.path().join("photos"), dir.path().join("state"));
    std::fs::create_dir_all(folder.join("empty")).expect("a folder");
    let mut child = Command::new(env!("CARGO_BIN_EXE_tidewatch"))
        .args([
            "watch",
            "--quiet",
            "--endpoint-url",
            &endpoint.url(),
            "--state-dir",
        ])
        .arg(&state)
        .arg(&folder)
        .arg("s3://tide/p")
        .env_clear()
        .envs(endpoint.env())
        .spawn()
        .expect("the program runs");
    // Another process's file: there is nothing to wait on but the clock.
    let deadline = std::time::Duration::from_secs(30);
    let level = async {
        // Its last word is what it has written down.
        let is_written = || {
            let said = status_file::read(&state).expect("readable");
            said.is_some_and(|said| said.folders.iter().all(|folder| folder.level))
        };
        while json(&state)["folders"][0]["level"] != true || !is_written() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    let waited = tokio::time::timeout(deadline, level).await;
    let said = json(&state);
    child.kill().expect("killed");
    child.wait().expect("ended");
    assert!(waited.is_ok(), "never level: {said}");
    assert_eq!(said["agent"]["pid"], child.id());
    let said = json(&state);
    assert_eq!(said["agent"]["alive"], false);
    assert_eq!(said["folders"][0]["level"], false);
    assert_eq!(said["folders"][0]["last_known_level"], true);
}
