//! What `sync` prints: the JSON contract, word for word, and the dry run.

use std::fs;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::process::World;
use crate::support::endpoint::Fault;

/// Everything that `sync --json` can say; seconds and a path that is too long are masked.
const GOLDEN: &str = include_str!("../../golden/sync.jsonl");

#[tokio::test]
async fn json_lines_are_as_the_contract_has_them() {
    let world = World::new().await;
    world.write("a.txt", b"hello");
    let mut said = world.sync(&["--json"]).await.out;

    world.write("b.txt", b"hello");
    world.write("bad", b"refused");
    world.write_bytes(b"caf\xe9", b"not UTF-8");
    mknodat(CWD, world.tree("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    std::os::unix::fs::symlink("a.txt", world.tree("link")).unwrap();
    world.write("x".repeat(250) + "/" + &["y"; 400].join("/"), b"too deep");
    world.endpoint.script(|seen| {
        let is_bad = seen.operation == "PutObject" && seen.key == "p/bad";
        is_bad.then_some(Fault::Error(400, "InvalidRequest"))
    });
    let ended = world.sync(&["--json"]).await;
    assert_eq!(ended.code, Some(1), "{}", ended.err);
    let (events, summary) = ended.out.trim_end().rsplit_once('\n').unwrap();
    // Folders and files go side by side: only the summary has its place.
    let mut events: Vec<_> = events.lines().collect();
    events.sort_unstable();
    for line in events.iter().chain([&summary]) {
        said.push_str(line);
        said.push('\n');
    }
    let long = "x".repeat(250) + "/" + &["y"; 400].join("/");
    let masked: Vec<String> = said
        .lines()
        .map(|line| masked(line).replace(&long, "LONG"))
        .collect();
    assert_eq!(masked.join("\n") + "\n", GOLDEN, "{}", ended.err);
}

/// Takes out what is different each time.
fn masked(line: &str) -> String {
    let Some((before, rest)) = line.split_once("\"seconds\":") else {
        return line.to_owned();
    };
    let (_, after) = rest.split_once(',').unwrap();
    format!("{before}\"seconds\":0.0,{after}")
}

#[tokio::test]
async fn a_dry_run_writes_nothing_anywhere() {
    let world = World::new().await;
    world.write("a", b"hello");
    world.write("b/c", vec![1; 20 << 20]);
    let ended = world.sync(&["--dry-run"]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert_eq!(
        ended.out,
        "would upload a → p/a (5 B)\n\
         would upload b/c → p/b/c (20.0 MiB)\n\
         would upload 2 files (20.0 MiB) with about 7 requests, for less than 0.0001 USD at most; 0 unchanged\n"
    );
    assert!(!world.state().exists());
    let seen: Vec<_> = world.endpoint.requests();
    let operations: Vec<_> = seen.iter().map(|seen| seen.operation).collect();
    assert_eq!(operations, ["HeadBucket", "ListObjectsV2"]);

    world.sync_level().await;
    fs::write(world.tree("a"), b"other").unwrap();
    let before = fs::read(world.state().join("tidewatch.db")).unwrap();
    world.endpoint.reset_counts();
    let ended = world.sync(&["--dry-run", "--json"]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    let mut lines = ended.out.lines();
    let expected =
        r#"{"event":"would_upload","folder":"tree","path":"a","key":"p/a","bytes":5,"error":null}"#;
    assert_eq!(lines.next(), Some(expected));
    let summary: serde_json::Value = serde_json::from_str(lines.next().unwrap()).unwrap();
    assert_eq!(summary["would_upload"], 1);
    assert_eq!(summary["unchanged"], 1);
    assert_eq!(world.endpoint.count("*"), 1);
    assert!(before == fs::read(world.state().join("tidewatch.db")).unwrap());
}
