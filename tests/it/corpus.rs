//! Replays what the fuzzers have found: each file of `fuzz/corpus` through its target, as it is and changed by a seed.

mod targets;

use std::fs;
use std::path::{Path, PathBuf};

use crate::corpus::targets::ALL;
use crate::support::results;

/// How often each file is changed and tried again, unless `TIDEWATCH_CORPUS` says how often.
const CHANGES: u32 = 100;
/// Of answers, which go over a socket each.
const CHANGES_OF_ANSWERS: u32 = 10;

fn corpus(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("fuzz/corpus").join(name)
}

/// Returns the files of one target, in order of name.
fn files(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(corpus(name)).expect("a folder of the corpus");
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let read = |path: PathBuf| (path.clone(), fs::read(path).unwrap());
    paths.into_iter().map(read).collect()
}

/// Changes some bytes: other ones, fewer, more, some twice, some of another file.
fn change(bytes: &[u8], other: &[u8], random: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..random.u8(1..5) {
        let at = random.usize(..=bytes.len());
        let until = random.usize(at..=bytes.len().min(at + 16));
        match random.u8(..5) {
            0 => drop(bytes.drain(at..until)),
            1 => bytes.insert(at, random.u8(..)),
            2 => {
                let again = bytes[at..until].to_vec();
                bytes.splice(at..at, again);
            }
            3 if !other.is_empty() => {
                let from = random.usize(..other.len());
                let to = random.usize(from..=other.len().min(from + 64));
                bytes.splice(at..until, other[from..to].iter().copied());
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << random.u8(..8);
                }
            }
        }
    }
    bytes
}

/// Gives bytes to a target; what fails is named, so that it can become a file of the corpus.
fn replayed(target: fn(&[u8]), bytes: &[u8], path: &Path) {
    let replay = std::panic::AssertUnwindSafe(|| target(bytes));
    if std::panic::catch_unwind(replay).is_err() {
        let path = path.display();
        panic!("made of {path}: {:?}", bytes.escape_ascii().to_string());
    }
}

fn replay(name: &str) {
    let (_, target) = *ALL.iter().find(|(known, _)| *known == name).unwrap();
    let given = std::env::var("TIDEWATCH_CORPUS").ok();
    let given = given.map(|text| text.parse().expect("a number"));
    let usual = if name == "answers" {
        CHANGES_OF_ANSWERS
    } else {
        CHANGES
    };
    let files = files(name);
    assert!(files.len() >= 5, "there is no corpus of `{name}`");
    let mut random = fastrand::Rng::with_seed(7);
    for (path, bytes) in &files {
        replayed(target, bytes, path);
        for _ in 0..given.unwrap_or(usual) {
            let other = &files[random.usize(..files.len())].1;
            replayed(target, &change(bytes, other, &mut random), path);
        }
    }
    let tried = files.len() as u64 * (1 + u64::from(given.unwrap_or(usual)));
    results::note(
        "Fuzz",
        &format!("inputs of `{name}` replayed"),
        &tried.to_string(),
    );
}

#[test]
fn whatever_a_store_answers_there_is_an_answer_or_an_error() {
    replay("answers");
}

#[test]
fn whatever_a_link_holds_the_catalog_reads_it_or_says_why_not() {
    replay("catalog");
}

#[test]
fn whatever_a_config_says_it_is_one_or_each_problem_is_a_line() {
    replay("config");
}

#[test]
fn whatever_an_ignore_file_says_it_is_rules_or_an_error() {
    replay("ignore");
}

#[test]
fn whatever_a_path_or_key_is_the_way_back_leads_to_it() {
    replay("keys");
}

#[test]
fn every_target_has_its_corpus_and_its_fuzzer() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = fs::read_to_string(root.join("fuzz/Cargo.toml")).unwrap();
    for (name, _) in ALL {
        assert!(!files(name).is_empty());
        assert!(
            manifest.contains(&format!("fuzz_targets/{name}.rs")),
            "{name}"
        );
    }
    assert_eq!(
        fs::read_dir(root.join("fuzz/corpus")).unwrap().count(),
        ALL.len()
    );
}
