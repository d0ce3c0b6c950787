//! The state folder as a power cut may leave it: images made from the recorded system calls of real runs, each opened by the
//! real code, some of them synced from.
//!
//! What a run has said on stdout it has promised: it must be in every image of a later instant. What an image's rows claim,
//! the bucket must have held at that instant; the bucket wrote that down itself, with its times.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tidewatch::base::clock::Clock;
use tidewatch::manifest::{Entry, Manifest, State};

use crate::crash::disk::{self, Keep, Model};
use crate::crash::ledger::Change;
use crate::crash::rig::{Rig, files_below, rows_of};
use crate::crash::trace::{self, Op, Step};
use crate::crash::{count, has, not_run};
use crate::process::ended;
use crate::support::results;

/// How many images are made of one record.
const IMAGES_EACH: u64 = 500;

/// How many runs are in one record.
const RUNS: u32 = 5;

/// The ledger's clock is whole milliseconds, and the bucket writes a moment after it has decided.
const BLUR_MS: i64 = 3;

#[derive(Default)]
struct Tally {
    images: BTreeMap<&'static str, u64>,
    promised: u64,
    claims: u64,
    synced: u64,
    removals: u64,
}

/// Some runs of the program: what they did to the state folder, and what the bucket held meanwhile.
struct Record {
    rig: Rig,
    steps: Vec<Step>,
    ledger: Vec<Change>,
}

/// Lets the program run, killed in one run of them, and records it.
async fn record(seed: u64) -> Record {
    let mut rig = Rig::new(seed).await;
    rig.args.push("--json");
    let state = rig.world.state();
    let mut steps: Vec<Step> = Vec::new();
    for run in 0..RUNS {
        for _ in 0..12 {
            rig.change();
        }
        let file = rig.world.dir.path().join("record");
        let inject = format!(
            "inject=pwrite64:signal=KILL:when={}",
            rig.random.u32(10..60)
        );
        let more = if run == 2 {
            vec!["-e", &inject]
        } else {
            Vec::new()
        };
        let command = rig.world.command("sync", &rig.args);
        let end = ended(&mut trace::recording(&command, &file, &more)).await;
        let is_well = end.code == Some(0) || run == 2 && end.code.is_none();
        assert!(
            is_well,
            "seed {seed}: {:?} {}{}",
            end.code, end.out, end.err
        );
        steps.extend(trace::read(&file, &state));
        // The model of the disk is only worth what it says when nothing is lost.
        let all = disk::after(&steps, Model::Strict, Keep::All, &mut rig.random);
        let real = files_below(&state);
        let real = real
            .into_iter()
            .map(|(name, bytes)| (state.join(name), bytes));
        let is_whole = |path: &PathBuf| !path.to_string_lossy().ends_with("-shm");
        let real: BTreeMap<_, _> = real.filter(|(path, _)| is_whole(path)).collect();
        let all: BTreeMap<_, _> = all.into_iter().filter(|(path, _)| is_whole(path)).collect();
        assert!(
            real.keys().eq(all.keys()),
            "{:?} {:?}",
            real.keys(),
            all.keys()
        );
        assert!(
            real == all,
            "seed {seed}: the image with everything kept is another"
        );
    }
    let ledger = rig.ledger().await;
    Record { rig, steps, ledger }
}

/// What was promised by an instant: of each path, whether it is in the bucket.
fn promised(steps: &[Step]) -> BTreeMap<String, bool> {
    let mut promised = BTreeMap::new();
    for step in steps {
        let Op::Said(said) = &step.op else { continue };
        for line in said.lines() {
            let line: Value = serde_json::from_str(line).expect("a line of JSON");
            let is_there = match line["event"].as_str() {
                Some("uploaded" | "copied") => true,
                Some("deleted") => false,
                _ => continue,
            };
            let path = line["path"].as_str().expect("a path");
            promised.insert(path.to_owned(), is_there);
        }
    }
    promised
}

/// Returns what a key held at about an instant: each of these is right.
fn held<'a>(ledger: &'a [Change], key: &str, at_ms: i64) -> Vec<Option<&'a str>> {
    let mut held = vec![None];
    for change in ledger.iter().filter(|change| change.key == key) {
        if change.at_ms < at_ms - BLUR_MS {
            held.clear();
        }
        if change.at_ms <= at_ms + BLUR_MS {
            held.push(change.etag.as_deref());
        }
    }
    held
}

/// Compares the rows of an image with what was promised and with what the bucket held.
fn judge(
    rows: &BTreeMap<String, Entry>,
    promised: &BTreeMap<String, bool>,
    ledger: &[Change],
    at_ms: i64,
    tally: &mut Tally,
) {
    for (path, row) in rows.iter().filter(|(_, row)| row.state == State::Synced) {
        let stored = row.stored.as_ref().expect("what is synced is stored");
        let etag = stored.etag.trim_matches('"');
        let held = held(ledger, &format!("p/{path}"), at_ms);
        let is_true = held
            .iter()
            .any(|held| held.is_some_and(|held| held.trim_matches('"') == etag));
        assert!(
            is_true,
            "{path} claims {etag}, and the bucket held {held:?}"
        );
        tally.claims += 1;
    }
    for (path, is_there) in promised {
        let state = rows.get(path).map(|row| row.state);
        let held = held(ledger, &format!("p/{path}"), at_ms);
        // A later intent may have opened the row again, and a later removal may have taken it away.
        let is_kept = match (is_there, state) {
            (true, Some(State::Synced | State::Open)) | (false, None | Some(State::Open)) => true,
            (true, None) => held.contains(&None),
            // Forgotten, and made again: names are used once.
            _ => false,
        };
        assert!(
            is_kept,
            "{path}: promised {is_there}, and the row is {state:?}"
        );
        tally.promised += 1;
    }
}

fn put_down(image: &BTreeMap<PathBuf, Vec<u8>>, state: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for (path, bytes) in image {
        let name = path.strip_prefix(state).expect("below it");
        fs::write(to.join(name), bytes).unwrap();
    }
}

/// Makes one image, and opens it.
async fn image(record: &mut Record, tally: &mut Tally, is_synced: bool) {
    let Record { rig, steps, ledger } = record;
    let random = &mut rig.random;
    let until = random.usize(1..=steps.len());
    let (model, name) = if random.bool() {
        (Model::Ordered, "ordered")
    } else {
        (Model::Strict, "strict")
    };
    let keep = [Keep::Nothing, Keep::All, Keep::Half, Keep::Torn][random.usize(..4)];
    let steps = &steps[..until];
    let at_ms = steps[until - 1].at_ms;
    let image = disk::after(steps, model, keep, random);
    let place = tempfile::tempdir().unwrap();
    let to = place.path().join("state");
    put_down(&image, &rig.world.state(), &to);
    let what = format!("seed {}, step {until}, {model:?}, {keep:?}", rig.seed);
    let opened = Manifest::open(&to, Clock::Real.now().wall_ns);
    let (manifest, opened) = opened.unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(opened.set_aside, None, "{what}");
    let rows = rows_of(&manifest);
    let promised = promised(steps);
    assert!(
        !opened.created || promised.is_empty(),
        "{what}: all is lost"
    );
    let judged = std::panic::AssertUnwindSafe(|| judge(&rows, &promised, ledger, at_ms, tally));
    if let Err(why) = std::panic::catch_unwind(judged) {
        let why = why.downcast_ref::<String>().cloned().unwrap_or_default();
        panic!("{what}: {why}");
    }
    *tally.images.entry(name).or_default() += 1;
    if !is_synced {
        return manifest.close();
    }
    // As after the cut: not closed.
    drop(manifest);
    let mut command = rig.sync_with(&to);
    let end = ended(&mut command).await;
    assert_eq!(end.code, Some(0), "{what}: {}{}", end.out, end.err);
    rig.compare(&to);
    tally.synced += 1;
}

#[tokio::test]
async fn a_power_cut_at_any_instant_loses_nothing_that_was_promised() {
    if !has("strace") {
        return not_run("power cuts", "needs strace");
    }
    let wanted = count("TIDEWATCH_POWER_IMAGES", 60);
    let mut seed = count("TIDEWATCH_SEED", 1);
    let mut tally = Tally::default();
    let mut made = 0;
    while made < wanted {
        let mut record = record(seed).await;
        let until = wanted.min(made + IMAGES_EACH);
        while made < until {
            image(&mut record, &mut tally, made % 50 == 20).await;
            made += 1;
        }
        tally.removals += record.rig.removals();
        seed += 1;
        note(&tally);
    }
    assert!(tally.promised > 0 && tally.claims > 0 && tally.synced > 0);
}

fn note(tally: &Tally) {
    let section = "Power";
    for (model, images) in &tally.images {
        let said = format!(
            "{images} images, all opened, nothing promised was lost, no claim that the bucket did not hold"
        );
        results::note(section, &format!("power cut, {model} names"), &said);
    }
    let said = format!("{} promises and {} claims", tally.promised, tally.claims);
    results::note(section, "compared in the images", &said);
    let said = format!("{} images, level at the end", tally.synced);
    results::note(section, "synced from an image", &said);
    let wrong = format!("0 of {} removals", tally.removals);
    results::note(section, "wrongful deletes in the power cuts", &wrong);
}
