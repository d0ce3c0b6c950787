//! The whole agent against a tree and a store in memory: one thread, a paused clock, everything drawn from one seed.
//!
//! A crash is the runtime dropped at a random instant: every task dies where it waits. What survives is the tree, the
//! bucket and the manifest's database, in some worlds not even that. Every change of the bucket is judged when it is asked
//! for; what the manifest claims is held against the bucket again and again; when the storm is over everything must agree,
//! and what is restored must be the tree.
//!
//! A failing seed prints how to replay it: `TIDEWATCH_SIM_SEED=n cargo test --test it sim::`. `TIDEWATCH_SIM_SEEDS=n` runs
//! that many from `TIDEWATCH_SIM_FIRST` on, `TIDEWATCH_SIM_PLANTED=n` that many with each planted bug. Long runs are built
//! with `cargo test --profile sim --test it sim::`, and two processes can have a range each; `TIDEWATCH_SIM_LOG` names a
//! file that gets a line for each thousand seeds, `TIDEWATCH_SIM_ALL=1` goes on after a seed that failed.

#![expect(clippy::print_stderr, reason = "a failing seed says how to replay it")]

mod oracle;
mod planted;
mod tally;
mod world;

use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use planted::Bug;
use tally::Tally;
use world::World;

use crate::support::results;

/// Seeds after each of which a long run says how far it is.
const STRETCH: u64 = 1000;

fn run_seed(seed: u64, trace: bool, bug: Option<Bug>) -> Tally {
    let mut world = World::new(seed, trace, bug);
    world.stir();
    world.some_changes(12);
    world.others();
    world.epochs();
    world.calm_down();
    world.oracle.everything_agrees();
    world.comes_back(8);
    world.tally()
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Adds a line to the log of a long run, if it has one.
fn log(line: &str) {
    eprintln!("{line}");
    if let Some(path) = std::env::var_os("TIDEWATCH_SIM_LOG") {
        let mut options = std::fs::OpenOptions::new();
        let file = options.create(true).append(true).open(path);
        let written = file.and_then(|mut file| writeln!(file, "{line}"));
        written.expect("the log can be written");
    }
}

#[test]
fn after_any_storm_tree_manifest_and_bucket_agree() {
    if let Some(seed) = number("TIDEWATCH_SIM_SEED") {
        let level = tracing_subscriber::filter::LevelFilter::TRACE;
        tracing_subscriber::fmt()
            .with_max_level(level)
            .without_time()
            .with_writer(std::io::stderr)
            .init();
        return log(&run_seed(seed, true, None).to_string());
    }
    let first = number("TIDEWATCH_SIM_FIRST").unwrap_or(1);
    let seeds = number("TIDEWATCH_SIM_SEEDS").unwrap_or(60);
    let goes_on = std::env::var_os("TIDEWATCH_SIM_ALL").is_some();
    let (mut all, mut stretch) = (Tally::default(), Tally::default());
    let mut failed: Vec<u64> = Vec::new();
    for seed in first..first + seeds {
        match catch_unwind(AssertUnwindSafe(|| run_seed(seed, false, None))) {
            Ok(tally) => {
                all += tally;
                stretch += tally;
            }
            Err(panic) => {
                log(&format!(
                    "seed {seed} failed; replay it with TIDEWATCH_SIM_SEED={seed} cargo test --test it sim::"
                ));
                if !goes_on {
                    std::panic::resume_unwind(panic);
                }
                failed.push(seed);
            }
        }
        if stretch.seeds == STRETCH {
            log(&format!("up to {seed}: {stretch}"));
            stretch = Tally::default();
        }
    }
    let result = format!("{all}, {} violations", failed.len());
    log(&format!("from {first} on, {result}"));
    results::note(
        "Simulator",
        &format!("seeds {first} to {}", first + seeds - 1),
        &result,
    );
    assert!(
        failed.is_empty(),
        "{failed:?} of {seeds} seeds from {first} on"
    );
}

/// Looks whether a bug at a seam is caught: in the first of a few seeds, or in how many of `TIDEWATCH_SIM_PLANTED`.
fn catches(bug: Bug) {
    let caught = |seed: &u64| {
        let run = || run_seed(*seed, false, Some(bug));
        catch_unwind(AssertUnwindSafe(run)).is_err()
    };
    if let Some(seeds) = number("TIDEWATCH_SIM_PLANTED") {
        let count = bug.seeds().take(seeds as usize).filter(caught).count();
        eprintln!("{bug:?} is caught in {count} of {seeds} seeds");
        assert!(count > 0, "{bug:?} is not caught");
    } else {
        let first = bug.seeds().take(150).find(caught);
        eprintln!("{bug:?} is caught by seed {first:?}");
        assert!(first.is_some(), "{bug:?} is not caught in 150 seeds");
    }
}

/// Makes a test of each bug at a seam, by its name, and a list of them.
macro_rules! seams {
    ($($name:ident: $bug:ident,)*) => {
        /// The bugs at the seams, each a test that is called by it: `tests/planted.sh` counts them.
        mod seams {
            use super::*;

            $(#[test]
            fn $name() {
                catches(Bug::$bug);
            })*
        }

        /// How many there are.
        const SEAMS: usize = [$(Bug::$bug),*].len();
    };
}

seams! {
    a_root_that_is_always_right_is_caught: AnyRootIsRight,
    an_unreadable_folder_that_is_empty_is_caught: UnreadableIsEmpty,
    an_unreadable_folder_that_is_gone_is_caught: UnreadableIsGone,
    a_name_that_is_overlooked_is_caught: OverlooksNames,
    a_loss_that_is_not_told_is_caught: NoRescan,
    a_start_without_a_scan_is_caught: NoStartScan,
    a_ctime_that_is_not_looked_at_is_caught: NoCtime,
    a_put_that_is_not_kept_is_caught: PutIsNotKept,
    a_copy_that_is_not_kept_is_caught: CopyIsNotKept,
    a_put_that_is_torn_is_caught: PutIsTorn,
    a_delete_that_is_not_done_is_caught: DeleteIsNotDone,
    a_delete_of_another_object_is_caught: DeletesAnother,
    a_silence_that_is_taken_for_success_is_caught: SilenceIsSuccess,
    a_silence_that_is_taken_for_no_effect_is_caught: SilenceIsNoEffect,
    a_link_that_is_not_kept_is_caught: LinkIsNotKept,
    a_link_that_is_torn_is_caught: LinkIsTorn,
    a_head_that_is_blind_is_caught: HeadIsBlind,
    a_completion_that_is_not_kept_is_caught: CompleteIsNotKept,
}

/// The patches of `tests/planted.sh`, which has every one of them caught.
#[test]
fn every_bug_that_is_planted_in_a_copy_says_what_it_breaks_and_which_test_has_to_fail() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/planted");
    let files = std::fs::read_dir(folder).expect("the folder of the patches");
    let mut names: Vec<_> = files.map(|file| file.expect("readable").path()).collect();
    names.sort();
    let (switch, patches) = names.split_first().expect("the switch");
    assert!(switch.ends_with("00-switch.patch"), "{switch:?}");
    for (number, name) in (1..).zip(patches) {
        let patch = std::fs::read_to_string(name).expect("readable");
        let begins = |word: &str| patch.lines().take(2).any(|line| line.starts_with(word));
        assert!(begins("Breaks "), "{name:?}");
        assert!(begins("Test: it ") || begins("Test: lib "), "{name:?}");
        let file = name.file_name().unwrap_or_default().to_string_lossy();
        assert!(file.starts_with(&format!("{number:02}-")), "{name:?}");
        let switched = format!("base::planted::is({number})");
        let added = patch.lines().filter(|line| line.starts_with('+'));
        assert!(
            added.filter(|line| line.contains(&switched)).count() > 0,
            "{name:?}"
        );
    }
    // What the long form has counted, if it was just run.
    if let Ok(count) = std::env::var("TIDEWATCH_PLANTED_COUNT") {
        let all = patches.len() + SEAMS;
        assert_eq!(count, format!("caught {all} of {all}"));
        let figure = format!(
            "{count}: {} in a copy of the sources, {SEAMS} at the simulator's seams",
            patches.len()
        );
        results::note(
            "Planted bugs",
            "each caught by the test that it names",
            &figure,
        );
    }
    assert!(patches.len() + SEAMS >= 40);
}

#[test]
fn the_same_seed_is_the_same_run() {
    let digest = |seed| {
        let mut world = World::new(seed, false, None);
        world.stir();
        world.some_changes(12);
        world.others();
        world.epochs();
        world.digest()
    };
    for seed in 900..906 {
        assert_eq!(digest(seed), digest(seed), "seed {seed}");
    }
}
