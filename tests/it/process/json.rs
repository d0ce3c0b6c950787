//! What every command prints with `--json` is a contract: the fields and their kinds, held by a golden file each.
//!
//! A golden file has one line for each kind of object that a command prints, with what changes from run to run replaced by
//! its kind. Fields may be added to it, never changed or taken away. `TIDEWATCH_GOLDEN=write` writes the files anew.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use tokio::process::Command;

use crate::process::{Ended, World, ended};
use crate::restore;

/// Fields that say a word out of few, which is part of the contract.
const WORDS: &[&str] = &[
    "by", "code", "ended", "event", "grade", "kept", "state", "what", "Effect", "Action",
    "Version", "Sid",
];

fn golden(command: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(format!("{command}.jsonl"))
}

fn is_time(text: &str) -> bool {
    humantime::parse_rfc3339(text).is_ok() && text.ends_with('Z')
}

/// Returns the kinds of the values instead of the values.
fn kinds(value: &Value, name: &str) -> Value {
    match value {
        Value::Null => Value::Null,
        Value::Bool(_) => "BOOL".into(),
        Value::Number(_) => "NUMBER".into(),
        Value::String(_) if WORDS.contains(&name) => value.clone(),
        Value::String(text) if is_time(text) => "TIME".into(),
        Value::String(_) => "STRING".into(),
        Value::Array(all) => {
            let each: BTreeSet<String> =
                all.iter().map(|one| kinds(one, name).to_string()).collect();
            let each = each.iter().map(|one| serde_json::from_str(one).unwrap());
            Value::Array(each.collect())
        }
        Value::Object(fields) => {
            let fields = fields.iter();
            Value::Object(
                fields
                    .map(|(name, value)| (name.clone(), kinds(value, name)))
                    .collect(),
            )
        }
    }
}

/// Compares what a command printed with its golden file.
pub fn holds(command: &str, runs: &[&Ended]) {
    let mut seen = BTreeSet::new();
    for run in runs {
        for line in run.out.lines() {
            let value: Value = serde_json::from_str(line)
                .unwrap_or_else(|error| panic!("{command}: {error}: {line}\n{}", run.err));
            seen.insert(kinds(&value, "").to_string());
        }
    }
    let text = seen
        .iter()
        .fold(String::new(), |text, line| text + line + "\n");
    if std::env::var("TIDEWATCH_GOLDEN").is_ok_and(|what| what == "write") {
        fs::write(golden(command), &text).unwrap();
    }
    let expected = fs::read_to_string(golden(command)).unwrap_or_default();
    assert_eq!(text, expected, "{command} --json against its golden file");
}

/// A world with a config, and commands that use it.
struct Home {
    world: World,
    config: String,
}

impl Home {
    async fn new(more: &str) -> Self {
        let world = World::new().await;
        let config = restore::config(&world, more);
        Self { world, config }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = self.world.bare(words);
        command.args(["--config", &self.config]);
        command
    }

    async fn run(&self, words: &[&str]) -> Ended {
        let run = ended(&mut self.command(words)).await;
        // What is wrong with the words themselves is no object.
        assert!(!run.out.is_empty(), "{words:?}: {}", run.err);
        run
    }

    async fn level(&self) {
        let run = self.run(&["sync"]).await;
        assert_eq!(run.code, Some(0), "{}", run.err);
    }
}

#[tokio::test]
async fn explain_prints_the_fields_of_its_contract() {
    let home = Home::new("exclude = [\"*.tmp\"]\n").await;
    home.world.write("safe", "safe");
    home.world.write("left.tmp", "left out");
    home.level().await;
    home.world.write("changed", "new since");
    home.world.write_bytes(b"caf\xe9", "not UTF-8");
    let mut runs = Vec::new();
    for (name, code) in [("safe", 0), ("left.tmp", 3), ("changed", 3), ("nothing", 3)] {
        let run = home
            .run(&["explain", "--json", home.world.tree(name).to_str().unwrap()])
            .await;
        assert_eq!(run.code, Some(code), "{name}: {}{}", run.out, run.err);
        runs.push(run);
    }
    let mut odd = home.command(&["explain", "--json"]);
    odd.arg(
        home.world
            .tree(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"caf\xe9")),
    );
    runs.push(ended(&mut odd).await);
    holds("explain", &runs.iter().collect::<Vec<_>>());
}

#[tokio::test]
async fn check_prints_the_fields_of_its_contract() {
    let home = Home::new("").await;
    home.world.write("a", "a");
    let good = home.run(&["check", "--json"]).await;
    fs::remove_dir_all(home.world.tree("")).unwrap();
    let bad = home.run(&["check", "--json"]).await;
    assert_ne!(bad.code, Some(0), "{}", bad.out);
    holds("check", &[&good, &bad]);
}

#[tokio::test]
async fn fleet_prints_the_fields_of_its_contract() {
    let home = Home::new("").await;
    home.world.write("a", "a");
    home.level().await;
    let mut fleet = home.world.bare(["fleet", "s3://tide", "--json"]);
    fleet.args(["--endpoint-url", &home.world.endpoint.url()]);
    holds("fleet", &[&ended(&mut fleet).await]);
}

#[tokio::test]
async fn history_prints_the_fields_of_its_contract() {
    let home = Home::new("history = \"trash\"\n").await;
    for content in ["first", "second", "the third"] {
        home.world.write("a", content);
        home.level().await;
    }
    fs::rename(home.world.tree("a"), home.world.tree("b")).unwrap();
    home.level().await;
    let run = home.run(&["history", "b", "--from", "f", "--json"]).await;
    assert_eq!(run.code, Some(0), "{}", run.err);
    holds("history", &[&run]);
}

#[tokio::test]
async fn held_prints_the_fields_of_its_contract() {
    let home = Home::new("on_delete = \"delete\"\nsettle = \"50ms\"\n").await;
    for number in 0..60 {
        home.world
            .write(format!("{number}"), format!("content {number}"));
    }
    home.level().await;
    for number in 0..55 {
        fs::remove_file(home.world.tree(format!("{number}"))).unwrap();
    }
    assert_eq!(home.run(&["sync"]).await.code, Some(4));
    holds("held-list", &[&home.run(&["held", "list", "--json"]).await]);
}

#[tokio::test]
async fn verify_prints_the_fields_of_its_contract() {
    let home = Home::new("").await;
    for name in ["good", "lost", "changed"] {
        home.world.write(name, name);
    }
    home.level().await;
    let client = home.world.endpoint.client();
    let remove = client.delete_object().bucket("tide").key("p/lost");
    remove.send().await.unwrap();
    restore::plant(&home.world, "p/changed", b"by somebody else", &[]).await;
    restore::plant(&home.world, "p/extra", b"by somebody else", &[]).await;
    let run = home.run(&["verify", "--json"]).await;
    assert_eq!(run.code, Some(3), "{}", run.err);
    let mended = home.run(&["verify", "--repair", "--json"]).await;
    holds("verify", &[&run, &mended]);
}

#[tokio::test]
async fn drill_prints_the_fields_of_its_contract() {
    let home = Home::new("").await;
    home.world.write("a/good", "good");
    home.world.write("a/lost", "lost");
    home.level().await;
    let good = home.run(&["drill", "--json"]).await;
    assert_eq!(good.code, Some(0), "{}", good.err);
    let client = home.world.endpoint.client();
    let remove = client.delete_object().bucket("tide").key("p/a/lost");
    remove.send().await.unwrap();
    let bad = home.run(&["drill", "--json"]).await;
    assert_eq!(bad.code, Some(3), "{}", bad.err);
    holds("drill", &[&good, &bad]);
}

#[tokio::test]
async fn restore_prints_the_fields_of_its_contract() {
    let home = Home::new("").await;
    home.world.write("a", "a");
    home.world.write("b", "b");
    home.level().await;
    let back = restore::back(&home.world);
    let to = back.to_str().unwrap();
    let tried = home
        .run(&["restore", "f", "--to", to, "--dry-run", "--json"])
        .await;
    let first = home.run(&["restore", "f", "--to", to, "--json"]).await;
    assert_eq!(first.code, Some(0), "{}", first.err);
    fs::write(back.join("a"), "another").unwrap();
    let second = home.run(&["restore", "f", "--to", to, "--json"]).await;
    assert_eq!(second.code, Some(1), "{}", second.err);
    holds("restore", &[&tried, &first, &second]);
}

#[tokio::test]
async fn a_dry_run_and_adopt_print_the_fields_of_their_contract() {
    let home = Home::new("").await;
    home.world.write("mine", "mine");
    home.world.write("ours", "ours");
    restore::plant(&home.world, "p/ours", b"ours", &[]).await;
    let tried = home.run(&["sync", "--dry-run", "--json"]).await;
    holds("sync-dry-run", &[&tried]);
    let adopted = home.run(&["adopt", "--json"]).await;
    assert_eq!(adopted.code, Some(0), "{}", adopted.err);
    holds("adopt", &[&adopted]);
}

#[tokio::test]
async fn policy_prints_the_fields_of_its_contract() {
    let home = Home::new("on_delete = \"delete\"\n").await;
    // One document on one line or several: a program reads it as a whole.
    let mut run = home.run(&["policy", "--json"]).await;
    let whole: Value = serde_json::from_str(&run.out).unwrap();
    run.out = format!("{whole}\n");
    holds("policy", &[&run]);
}

/// Returns the commands below `words`, themselves among them if they can be run.
async fn commands(world: &World, words: Vec<String>) -> Vec<(Vec<String>, String)> {
    let mut open = vec![words];
    let mut found = Vec::new();
    while let Some(words) = open.pop() {
        let help = ended(world.bare(&words).arg("--help")).await;
        assert_eq!(help.code, Some(0), "{words:?}: {}", help.err);
        assert!(help.out.contains("\nUsage: tidewatch"), "{}", help.out);
        let below = help.out.split_once("\nCommands:\n");
        let below = below.map_or("", |(_, rest)| {
            rest.split("\n\n").next().unwrap_or_default()
        });
        let names = below.lines().filter_map(|line| {
            let line = line
                .strip_prefix("  ")
                .filter(|line| !line.starts_with(' '))?;
            line.split_whitespace()
                .next()
                .filter(|name| *name != "help")
        });
        open.extend(names.map(|name| [words.as_slice(), &[name.to_owned()]].concat()));
        found.push((words, help.out));
    }
    found
}

#[tokio::test]
async fn every_command_has_help_and_every_json_a_golden_file() {
    let world = World::new().await;
    let all = commands(&world, Vec::new()).await;
    assert!(all.len() > 25, "{all:?}");
    for (words, help) in all {
        let name = words.join("-");
        if help.contains("--json") && !words.is_empty() {
            let is_there = golden(&name).exists() || golden(&name).with_extension("json").exists();
            assert!(is_there, "tests/golden has nothing of `{name} --json`");
        }
    }
}
