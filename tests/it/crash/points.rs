//! SIGKILL at each named place of the program. What runs them is compiled with the feature `failpoints` only.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// How the process gets to a place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(
    not(feature = "failpoints"),
    allow(dead_code, reason = "only read where the places are there")
)]
enum Scene {
    /// A sync of new, changed, copied and large files, and of one that is gone.
    Sync,
    /// The same, with several that are gone.
    Removals,
    /// The first sync of a state folder.
    First,
    /// A sync on a manifest of an older version.
    Older,
    /// A sync on a damaged manifest.
    Damaged,
}

/// Every place, and how many times in a row it can be passed in its scene, at least.
const PLACES: [(&str, Scene, u64); 23] = [
    ("lease-taken", Scene::Sync, 1),
    ("intent-committed", Scene::Sync, 1),
    ("put-answered", Scene::Sync, 2),
    ("copied", Scene::Sync, 1),
    ("multipart-created", Scene::Sync, 1),
    ("multipart-noted", Scene::Sync, 1),
    ("part-answered", Scene::Sync, 2),
    ("parts-sent", Scene::Sync, 1),
    ("multipart-completed", Scene::Sync, 1),
    ("outcome-known", Scene::Sync, 1),
    ("outcome-committed", Scene::Sync, 1),
    ("before-delete", Scene::Sync, 1),
    ("deleted", Scene::Sync, 1),
    ("before-delete-of-many", Scene::Removals, 1),
    ("deleted-many", Scene::Removals, 1),
    ("link-put", Scene::Sync, 1),
    ("database-filled", Scene::First, 1),
    ("database-named", Scene::First, 1),
    ("schema-step", Scene::Older, 1),
    ("schema-stamped", Scene::Older, 1),
    ("schema-committed", Scene::Older, 1),
    ("damaged-renamed", Scene::Damaged, 2),
    ("damaged-set-aside", Scene::Damaged, 1),
];

/// The places of a restore.
const OF_RESTORE: [&str; 2] = ["restore-written", "restore-named"];

fn named_in(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            named_in(&path, names);
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        for rest in text.split("failpoint::hit(\"").skip(1) {
            let (name, _) = rest.split_once('"').expect("its end");
            assert!(names.insert(name.to_owned()), "two places are named {name}");
        }
    }
}

#[test]
fn every_named_place_has_a_scene_that_gets_there() {
    let mut named = BTreeSet::new();
    named_in(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut named,
    );
    let places = PLACES.iter().map(|(name, ..)| *name).chain(OF_RESTORE);
    let ours: BTreeSet<String> = places.map(str::to_owned).collect();
    assert_eq!(named, ours);
}

#[test]
fn no_usual_build_has_the_named_places() {
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"));
    let manifest = manifest.unwrap();
    let default = manifest
        .lines()
        .find(|line| line.starts_with("default = "))
        .unwrap();
    assert!(!default.contains("failpoints"), "{default}");
}

#[cfg(feature = "failpoints")]
mod run {
    use std::fs;

    use tokio::process::Command;

    use crate::crash::note;
    use crate::crash::older::{NEWEST, OLDER, Older, version};
    use crate::crash::points::{OF_RESTORE, PLACES, Scene};
    use crate::crash::rig::Rig;
    use crate::process::{Ended, ended};
    use crate::restore;
    use crate::watching::table::row;

    fn at(mut command: Command, place: &str, number: u64) -> Command {
        command.env("TIDEWATCH_FAILPOINT", format!("{place}:{number}"));
        command
    }

    /// Runs a command that must be killed.
    async fn killed(command: Command, place: &str, number: u64) {
        let Ended { code, out, err } = ended(&mut at(command, place, number)).await;
        assert_eq!(
            code, None,
            "{place} was not passed {number} times: {out}{err}"
        );
    }

    fn sync(rig: &Rig) -> Command {
        rig.world.command("sync", &rig.args)
    }

    /// Makes a folder that is level, and then changed in each way.
    async fn changed(removed: usize) -> Rig {
        let mut rig = Rig::new(1).await;
        let mut old = Vec::new();
        for n in 0..8 {
            let bytes = rig.content(500 + n);
            old.push(rig.create(&bytes));
        }
        rig.level().await;
        for name in &old[..removed] {
            rig.remove(name);
        }
        let same = fs::read(rig.world.tree(&old[7])).unwrap();
        rig.create(&same);
        for len in [100, 20_000, (16 << 20) + 1] {
            let bytes = rig.content(len);
            rig.create(&bytes);
        }
        let bytes = rig.content(333);
        rig.world.write(&old[6], bytes);
        rig
    }

    /// Kills a sync that leads an older manifest on: what is there then is the old one or the new one.
    async fn older(fixture: &[u8], place: &str, number: u64) -> Rig {
        let older = Older::new(fixture).await;
        killed(sync(&older.rig), place, number).await;
        let is_new = place == "schema-committed";
        let expected = if is_new { NEWEST } else { older.version };
        assert_eq!(version(&older.database), expected, "{place} {number}");
        older.goes_on().await
    }

    /// Kills a sync that sets a damaged manifest aside: it is kept, and nothing is removed for it.
    async fn damaged(place: &str, number: u64) -> Rig {
        let rig = changed(0).await;
        let state = rig.world.state();
        let damage = [7; 5_000];
        for name in ["tidewatch.db", "tidewatch.db-wal"] {
            fs::write(state.join(name), damage).unwrap();
        }
        killed(sync(&rig), place, number).await;
        rig.level().await;
        let kept = fs::read_dir(&state).unwrap().filter(|entry| {
            let path = entry.as_ref().unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            name.contains(".damaged-") && fs::read(&path).unwrap() == damage
        });
        assert_eq!(kept.count(), 2, "both are kept");
        rig
    }

    async fn scene(scene: Scene, place: &str, number: u64) -> Rig {
        match scene {
            Scene::Sync | Scene::Removals => {
                let removed = if scene == Scene::Sync { 1 } else { 4 };
                let rig = changed(removed).await;
                killed(sync(&rig), place, number).await;
                rig.level().await;
                rig
            }
            Scene::First => {
                let mut rig = Rig::new(1).await;
                let bytes = rig.content(100);
                rig.create(&bytes);
                killed(sync(&rig), place, number).await;
                rig.level().await;
                rig
            }
            Scene::Damaged => damaged(place, number).await,
            Scene::Older => unreachable!("it has a loop of its own"),
        }
    }

    #[tokio::test]
    async fn r03_a_kill_at_any_named_place_loses_nothing() {
        let _row = row!();
        let (mut kills, mut removals) = (0, 0);
        for (place, of, times) in PLACES {
            if of == Scene::Older {
                for (n, fixture) in OLDER.iter().enumerate() {
                    // From version 1 there are four steps to the newest, from version 4 one.
                    let steps = if place == "schema-step" {
                        4 - n as u64
                    } else {
                        1
                    };
                    for number in 1..=steps {
                        removals += older(fixture, place, number).await.removals();
                        kills += 1;
                    }
                }
                continue;
            }
            for number in 1..=times {
                let rig = scene(of, place, number).await;
                if place == "put-answered" {
                    rig.restored().await;
                }
                removals += rig.removals();
                kills += 1;
            }
        }
        let places = PLACES.len();
        let said = format!("{kills} kills at {places} places, each of them reached; nothing lost");
        note("Crash", "kill -9 at each named place", &said);
        let wrong = format!("0 of {removals} removals");
        note(
            "Crash",
            "wrongful deletes in the kills at named places",
            &wrong,
        );
    }

    #[tokio::test]
    async fn a_restore_that_was_killed_is_finished_by_the_next() {
        for place in OF_RESTORE {
            let rig = changed(1).await;
            rig.level().await;
            killed(restore::command(&rig.world, &[]), place, 3).await;
            // What has its name by then is whole: it is compared, not fetched again, and nothing else is in its place.
            let again = restore::restore(&rig.world, &["--on-conflict", "skip"]).await;
            assert_eq!(again.code, Some(0), "{place}: {}", again.err);
            rig.compare_restored();
        }
    }
}
