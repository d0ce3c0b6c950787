//! The state folder as a power cut may leave it: images made from the recorded system calls of real runs, each opened by the
//! real code, some of them synced from.
//!
//! What a run has said on stdout it has promised: it must be in every image of a later instant. What an image's rows claim,
//! the bucket must have held at that instant; the bucket wrote that down itself, with its times.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;
use tidewatch::base::clock::Clock;
use tidewatch::manifest::{Entry, Manifest, State};

use crate::crash::disk::{self, Keep, Model};
use crate::crash::ledger::Change;
use crate::crash::rig::{Rig, files_below, rows_of};
use crate::crash::trace::{self, Op, Step};
use crate::crash::{count, has, not_run, note};
use crate::process::ended;
use crate::watching::table::{Row, row};

/// How many images are made of one record.
const IMAGES_EACH: u64 = 500;

/// One of so many is synced from, besides.
const SYNCED_OF: u64 = 50;

/// How many runs are in one record; the small form has fewer.
const RUNS: u32 = 5;
const FEW: u32 = 3;

/// From how many images on it is the long form.
const MANY: u64 = 100;

/// The ledger's clock is whole milliseconds, and the bucket writes a moment after it has decided.
const BLUR_MS: i64 = 3;

#[derive(Default)]
struct Tally {
    images: u64,
    promised: usize,
    claims: usize,
    synced: u64,
    removals: u64,
}

/// Some runs of the program, and what they did to the state folder.
struct Record {
    rig: Rig,
    steps: Vec<Step>,
}

/// Lets the program run, killed in one run of them, and records it.
async fn record(seed: u64, runs: u32) -> Record {
    let mut rig = Rig::new(seed).await;
    rig.args.push("--json");
    let state = rig.world.state();
    let mut steps: Vec<Step> = Vec::new();
    for run in 0..runs {
        for _ in 0..12 {
            rig.change();
        }
        let file = rig.world.dir.path().join("record");
        let inject = format!(
            "inject=pwrite64:signal=KILL:when={}",
            rig.random.u32(10..60)
        );
        let more = if run == 1 {
            vec!["-e", &inject]
        } else {
            Vec::new()
        };
        let command = rig.world.command("sync", &rig.args);
        let end = ended(&mut trace::recording(&command, &file, &more)).await;
        let is_well = end.code == Some(0) || run == 1 && end.code.is_none();
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
    Record { rig, steps }
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

/// Compares the rows of an image with what was promised and with what the bucket held; tells what is wrong.
fn judge(
    rows: &BTreeMap<String, Entry>,
    promised: &BTreeMap<String, bool>,
    ledger: &[Change],
    at_ms: i64,
) -> Result<(), String> {
    for (path, row) in rows.iter().filter(|(_, row)| row.state == State::Synced) {
        let stored = row.stored.as_ref().expect("what is synced is stored");
        let etag = stored.etag.trim_matches('"');
        let held = held(ledger, &format!("p/{path}"), at_ms);
        let mut held_then = held.iter().flatten();
        if !held_then.any(|held| held.trim_matches('"') == etag) {
            return Err(format!(
                "{path} claims {etag}, and the bucket held {held:?}"
            ));
        }
    }
    for (path, is_there) in promised {
        let state = rows.get(path).map(|row| row.state);
        let held = held(ledger, &format!("p/{path}"), at_ms);
        // A later intent may have opened the row again, and a later removal may have taken it away.
        let is_kept = match (is_there, state) {
            (true, Some(State::Synced | State::Open)) | (false, None | Some(State::Open)) => true,
            (true, None) => held.contains(&None),
            // Names are used once.
            _ => false,
        };
        if !is_kept {
            return Err(format!(
                "{path}: promised {is_there}, and its row is {state:?}"
            ));
        }
    }
    Ok(())
}

fn put_down(image: &BTreeMap<PathBuf, Vec<u8>>, state: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for (path, bytes) in image {
        let name = path.strip_prefix(state).expect("below it");
        fs::write(to.join(name), bytes).unwrap();
    }
}

/// An image that was put down and opened.
struct Image {
    what: String,
    place: TempDir,
    rows: BTreeMap<String, Entry>,
    promised: BTreeMap<String, bool>,
    /// The instant, wall clock, milliseconds.
    at_ms: i64,
}

impl Image {
    fn state(place: &TempDir) -> PathBuf {
        place.path().join("state")
    }

    /// Makes one of some of `steps`; says what is wrong with it.
    fn make(rig: &mut Rig, steps: &[Step], cut: &Cut) -> Result<Self, String> {
        let random = &mut rig.random;
        let until = random.usize(1..=steps.len());
        let model = cut.models[random.usize(..cut.models.len())];
        let keep = cut.keeps[random.usize(..cut.keeps.len())];
        let steps = &steps[..until];
        let files = disk::after(steps, model, keep, random);
        let place = tempfile::tempdir().unwrap();
        put_down(&files, &rig.world.state(), &Self::state(&place));
        let what = format!("seed {}, step {until}, {model:?}, {keep:?}", rig.seed);
        let opened = Manifest::open(&Self::state(&place), Clock::Real.now().wall_ns);
        let (manifest, opened) = opened.map_err(|error| format!("{what}: {error}"))?;
        if let Some(aside) = opened.set_aside {
            return Err(format!("{what}: it was damaged: {}", aside.display()));
        }
        let rows = rows_of(&manifest);
        // As after the cut: not closed.
        drop(manifest);
        Ok(Self {
            what,
            place,
            rows,
            promised: promised(steps),
            at_ms: steps[until - 1].at_ms,
        })
    }

    /// Says what is wrong with its rows.
    fn judge(&self, ledger: &[Change]) -> Result<(), String> {
        judge(&self.rows, &self.promised, ledger, self.at_ms)
            .map_err(|why| format!("{}: {why}", self.what))
    }

    /// Syncs from it, and compares everything.
    async fn sync(&self, rig: &Rig) {
        let state = Self::state(&self.place);
        let end = ended(&mut rig.sync_with(&state)).await;
        assert_eq!(end.code, Some(0), "{}: {}{}", self.what, end.out, end.err);
        rig.compare(&state);
    }
}

/// What a power cut may leave.
struct Cut {
    name: &'static str,
    models: &'static [Model],
    keeps: &'static [Keep],
}

/// A file system that keeps names in order.
const ORDERED: Cut = Cut {
    name: "ordered names",
    models: &[Model::Ordered],
    keeps: &[Keep::Nothing, Keep::All],
};

/// One that keeps a name only when its folder was synced.
const STRICT: Cut = Cut {
    name: "strict names",
    models: &[Model::Strict],
    keeps: &[Keep::Nothing, Keep::All],
};

/// Either, with half a write, or some pages of what was written.
const TORN: Cut = Cut {
    name: "torn writes and lost pages",
    models: &[Model::Ordered, Model::Strict],
    keeps: &[Keep::Half, Keep::Torn],
};

#[tokio::test]
async fn r06_a_power_cut_on_a_file_system_with_ordered_names_loses_nothing_that_was_promised() {
    cut_at_any_instant(&ORDERED, row!()).await;
}

#[tokio::test]
async fn r07_a_power_cut_that_forgets_unsynced_names_loses_nothing_that_was_promised() {
    cut_at_any_instant(&STRICT, row!()).await;
}

#[tokio::test]
async fn r08_a_power_cut_that_tears_writes_and_loses_pages_loses_nothing_that_was_promised() {
    cut_at_any_instant(&TORN, row!()).await;
}

async fn cut_at_any_instant(cut: &Cut, mut row: Row) {
    if !has("strace") {
        return row.could_not("needs strace");
    }
    // The three have their shares of them.
    let wanted = count("TIDEWATCH_POWER_IMAGES", 60).div_ceil(3);
    let runs = if wanted < MANY { FEW } else { RUNS };
    let mut seed = count("TIDEWATCH_SEED", 1);
    let mut tally = Tally::default();
    while tally.images < wanted {
        let Record { mut rig, steps } = record(seed, runs).await;
        let until = wanted.min(tally.images + IMAGES_EACH);
        // First, while the endpoint is the one that the rows know.
        for _ in 0..(until - tally.images).div_ceil(SYNCED_OF) {
            let image = Image::make(&mut rig, &steps, cut).unwrap_or_else(|why| panic!("{why}"));
            image.sync(&rig).await;
            tally.synced += 1;
        }
        let ledger = rig.ledger().await;
        while tally.images < until {
            let image = Image::make(&mut rig, &steps, cut).and_then(|image| {
                image.judge(&ledger)?;
                Ok(image)
            });
            let image = image.unwrap_or_else(|why| panic!("{why}"));
            let is_claim = |row: &&Entry| row.state == State::Synced;
            tally.claims += image.rows.values().filter(is_claim).count();
            tally.promised += image.promised.len();
            tally.images += 1;
        }
        tally.removals += rig.removals();
        seed += 1;
        tell(cut, &tally);
    }
    assert!(tally.promised > 0 && tally.claims > 0 && tally.synced > 0);
}

#[tokio::test]
async fn a_disk_that_forgets_what_it_has_synced_is_caught() {
    if !has("strace") {
        return not_run("a disk that forgets", "needs strace");
    }
    let Record { mut rig, mut steps } = record(1, FEW).await;
    let ledger = rig.ledger().await;
    // The log of the manifest is what every promise rests on.
    let is_log = |path: &Path| path.to_string_lossy().ends_with("-wal");
    steps.retain(|step| !matches!(&step.op, Op::Sync(path) if is_log(path)));
    let caught = (0..100).filter(|n| {
        let cut = [&ORDERED, &STRICT, &TORN][n % 3];
        let image = Image::make(&mut rig, &steps, cut);
        image.and_then(|image| image.judge(&ledger)).is_err()
    });
    assert!(caught.count() > 5);
}

fn tell(cut: &Cut, tally: &Tally) {
    let (section, name) = ("Power", cut.name);
    let said = format!(
        "{} images, all opened, nothing promised was lost, no claim that the bucket did not hold; compared {} promises \
         and {} claims; {} synced from, level at the end",
        tally.images, tally.promised, tally.claims, tally.synced
    );
    note(section, &format!("power cut, {name}"), &said);
    let wrong = format!("0 of {} removals", tally.removals);
    let row = format!("wrongful deletes in the power cuts, {name}");
    note(section, &row, &wrong);
}
