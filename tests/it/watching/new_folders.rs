//! Rows 1 to 8: what is made inside a folder before its watch exists.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;

use tidewatch::base::clock::Clock;

use crate::watching::place::has;
use crate::watching::rig::{Rig, With, ms, now, pace, scale, write};
use crate::watching::table::row;

#[test]
fn w01_files_in_folders_made_at_once_all_arrive() {
    let _row = row!();
    let mut rig = Rig::started(With::default());
    let trees = scale(400, 2_000);
    for n in 0..trees {
        rig.write(format!("{n}/b/c/d/file"), format!("content {n}"));
    }
    rig.level();
    assert_eq!(rig.bucket.objects().len(), trees);
    rig.probe();
    assert_eq!(rig.lost(), 0, "it was the watch that saw them");
}

#[test]
fn w02_files_in_folders_made_one_by_one_all_arrive() {
    let _row = row!();
    let mut rig = Rig::started(With::default());
    let trees = scale(150, 500);
    for n in 0..trees {
        rig.write(format!("{n}/b/c/d/file"), format!("content {n}"));
        pace(ms(10));
    }
    rig.level();
    assert_eq!(rig.bucket.objects().len(), trees);
    rig.probe();
}

#[test]
fn w03_files_in_folders_that_are_renamed_meanwhile_all_arrive() {
    let _row = row!();
    let mut rig = Rig::started(With::default());
    let trees = scale(300, 2_000);
    let root = rig.root.clone();
    let renaming = thread::spawn(move || {
        for n in 0..trees {
            // Until the writer has made it; each folder is renamed once, soon after it appears.
            while fs::rename(root.join(n.to_string()), root.join(format!("moved-{n}"))).is_err() {
                thread::yield_now();
            }
        }
    });
    for n in 0..trees {
        let (before, after) = (rig.at(n.to_string()), rig.at(format!("moved-{n}")));
        fs::create_dir(&before).unwrap();
        for below in ["b", "b/c", "b/c/d"] {
            retry(&before, &after, |top| fs::create_dir(top.join(below)));
        }
        retry(&before, &after, |top| {
            fs::write(top.join("b/c/d/file"), format!("content {n}"))
        });
    }
    renaming.join().unwrap();
    let expected = rig.tree();
    assert_eq!(expected.len(), trees, "no name twice in the tree");
    rig.level();
    rig.probe();
}

/// Does it under the one name or the other, whichever it has now.
fn retry(before: &Path, after: &Path, act: impl Fn(&Path) -> std::io::Result<()>) {
    loop {
        let done = |top| match act(top) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
            other => {
                other.unwrap();
                true
            }
        };
        if done(before) || done(after) {
            return;
        }
    }
}

#[test]
fn w04_a_folder_copied_again_and_again_is_complete_each_time() {
    let _row = row!();
    let mut rig = Rig::started(With::default());
    write(&rig.outside("folder/file"), "the same in each");
    for n in 0..200 {
        let copied = Command::new("cp")
            .arg("-r")
            .arg(rig.outside("folder"))
            .arg(rig.at(format!("copy-{n}")))
            .status();
        assert!(copied.unwrap().success());
    }
    rig.level();
    assert_eq!(rig.bucket.objects().len(), 200);
    rig.probe();
}

#[test]
fn w05_a_repository_made_in_the_tree_is_complete() {
    let mut row = row!();
    if !has("git") {
        return row.could_not("needs git");
    }
    let mut rig = Rig::started(With::default());
    fs::create_dir(rig.at("repo")).unwrap();
    for n in 0..20 {
        rig.write(format!("repo/src/{n}/file.rs"), format!("// {n}"));
    }
    for args in [
        &["init", "-q"][..],
        &["add", "."],
        &[
            "-c",
            "user.name=a",
            "-c",
            "user.email=a@b",
            "commit",
            "-qm",
            "first",
        ],
    ] {
        let done = Command::new("git")
            .args(args)
            .current_dir(rig.at("repo"))
            .env("HOME", rig.base.path())
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .status();
        assert!(done.unwrap().success());
    }
    rig.level();
    let objects = rig.bucket.objects();
    let objects = objects.keys().filter(|key| key.contains(".git/objects/"));
    assert!(objects.count() >= 20);
    rig.probe();
}

#[test]
fn w06_random_changes_by_three_threads_leave_nothing_behind() {
    let _row = row!();
    let mut rig = Rig::started(With::default());
    let until = now() + scale(ms(3_000), ms(12_000));
    let threads: Vec<_> = (0..3)
        .map(|seed| {
            let root = rig.root.clone();
            thread::spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed);
                let mut written = 0_u64;
                while Clock::Real.now().mono < until {
                    disturb(&root, &mut random, &mut written, seed);
                }
            })
        })
        .collect();
    for one in threads {
        one.join().unwrap();
    }
    rig.level();
    rig.probe();
}

/// One change among few names, so that the threads meet. Whatever fails has met another thread.
pub fn disturb(root: &Path, random: &mut fastrand::Rng, written: &mut u64, seed: u64) {
    let mut folder = || {
        let depth = random.usize(1..5);
        (0..depth)
            .map(|_| random.u8(b'a'..b'f') as char)
            .fold(root.to_path_buf(), |at, name| at.join(name.to_string()))
    };
    let (one, two) = (folder(), folder());
    match random.u8(0..10) {
        0 => drop(fs::remove_dir_all(&one)),
        1 | 2 => drop(fs::rename(&one, &two)),
        3 => drop(fs::remove_file(one.join("file-1"))),
        _ => {
            drop(fs::create_dir_all(&one));
            *written += 1;
            let name = format!("file-{}", random.u8(0..4));
            drop(fs::write(one.join(name), format!("{seed} wrote {written}")));
        }
    }
}

#[test]
fn w07_folders_that_are_gone_at_once_leave_no_trouble() {
    let _row = row!();
    let mut rig = Rig::started(With::default());
    for n in 0..1_000 {
        let folder = rig.at(format!("brief-{n}"));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("file"), "brief").unwrap();
        fs::remove_dir_all(&folder).unwrap();
    }
    rig.probe();
    let snapshot = rig.snapshot();
    assert_eq!((snapshot.failed, snapshot.unsyncable), (0, 0));
}

#[test]
fn w08_a_tree_that_moves_in_while_it_is_deleted_is_seen_as_it_ends() {
    let _row = row!();
    let mut rig = Rig::started(With::default());
    let folders = scale(300, 3_000);
    for n in 0..folders {
        write(&rig.outside(&format!("tree/{n}/x/file")), format!("{n}"));
    }
    fs::rename(rig.outside("tree"), rig.at("tree")).unwrap();
    for n in (0..folders).step_by(3) {
        fs::remove_dir_all(rig.at(format!("tree/{n}"))).unwrap();
    }
    rig.probe();
}
