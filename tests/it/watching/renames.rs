//! Rows 17 to 26: names that change.

use std::fs;
use std::path::Path;
use std::thread;

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::watching::rig::{Rig, With, ms, pace, scale, write};
use crate::watching::table::row;

fn exchange(one: &Path, two: &Path) {
    renameat_with(CWD, one, CWD, two, RenameFlags::EXCHANGE).unwrap();
}

#[test]
fn w17_a_folder_that_is_renamed_sends_no_bytes() {
    let _row = row!();
    let mut rig = Rig::started(With::default());
    let files = scale(300, 1_000);
    for n in 0..files {
        rig.write(format!("before/{n}"), format!("content {n}"));
    }
    rig.level();
    let sent = rig.counts().bytes_in;
    fs::rename(rig.at("before"), rig.at("after")).unwrap();
    rig.level();
    assert_eq!(rig.counts().bytes_in, sent);
    assert!(rig.counts().of("CopyObject") >= files);
    rig.probe();
}

#[test]
fn w18_a_write_behind_a_rename_is_found_under_the_new_name() {
    let _row = row!();
    let mut rig = Rig::started(With {
        // The queue is busy.
        per_hint: ms(1),
        hints: 1 << 20,
        ..With::default()
    });
    let folders = scale(8, 20);
    for n in 0..folders {
        rig.write(format!("{n}/sub/file"), "there before");
    }
    rig.level();
    for n in 0..folders {
        for busy in 0..50 {
            rig.write(format!("{n}/{busy}"), format!("{busy}"));
        }
        fs::rename(rig.at(format!("{n}")), rig.at(format!("new-{n}"))).unwrap();
        fs::write(rig.at(format!("new-{n}/sub/behind")), format!("behind {n}")).unwrap();
    }
    rig.level();
    for n in 0..folders {
        let found = rig.object(&format!("new-{n}/sub/behind"));
        assert_eq!(found, Some(format!("behind {n}").into_bytes()));
    }
    rig.probe();
}

#[test]
fn w19_a_folder_that_is_moved_in_brings_all_its_files() {
    let _row = row!();
    let mut rig = Rig::started(With::default());
    for n in 0..500 {
        let at = rig.outside(&format!("tree/{}/{}/file-{n}", n % 7, n % 13));
        write(&at, format!("{n}"));
    }
    fs::rename(rig.outside("tree"), rig.at("moved in")).unwrap();
    rig.level();
    assert_eq!(rig.bucket.objects().len(), 500);
    rig.probe();
}

#[test]
fn w20_a_folder_that_is_moved_out_is_not_heard_of_any_more() {
    let _row = row!();
    let mut rig = Rig::started(With::default());
    // A tree that is left with nothing waits for a person, which is another matter.
    rig.write("stays", "as it is");
    for n in 0..20 {
        rig.write(format!("leaves/sub/{n}"), format!("{n}"));
    }
    rig.level();
    fs::rename(rig.at("leaves"), rig.outside("left")).unwrap();
    for n in 0..20 {
        write(&rig.outside(&format!("left/sub/{n}")), "secret");
        write(&rig.outside(&format!("left/sub/new-{n}")), "secret");
    }
    rig.probe();
    let secrets = rig.bucket.history();
    let mut secrets = secrets.iter().filter_map(|(_, bytes)| bytes.as_ref());
    assert!(
        !secrets.any(|bytes| *bytes == "secret"),
        "uploaded from outside"
    );
}

#[test]
fn w21_what_is_exchanged_is_found_exchanged() {
    let _row = row!();
    let mut rig = Rig::started(With::default());
    rig.write("one", "first file");
    rig.write("two", "second file");
    for n in 0..20 {
        rig.write(format!("a/{n}"), format!("in a {n}"));
        rig.write(format!("b/{n}"), format!("in b {n}"));
        rig.write(format!("b/only/{n}"), format!("only in b {n}"));
    }
    rig.level();
    exchange(&rig.at("one"), &rig.at("two"));
    exchange(&rig.at("a"), &rig.at("b"));
    rig.level();
    assert_eq!(rig.object("one").unwrap(), b"second file");
    assert_eq!(rig.object("a/3").unwrap(), b"in b 3");
    rig.probe();
}

#[test]
fn w22_a_ring_of_renames_ends_level() {
    let _row = row!();
    let mut rig = Rig::started(With::default());
    for name in ["a", "b", "c"] {
        rig.write(name, format!("content of {name}"));
        rig.write(format!("d{name}/file"), format!("below d{name}"));
    }
    rig.level();
    for _ in 0..scale(4, 10) {
        for prefix in ["", "d"] {
            for (from, to) in [("a", "t"), ("c", "a"), ("b", "c"), ("t", "b")] {
                fs::rename(
                    rig.at(format!("{prefix}{from}")),
                    rig.at(format!("{prefix}{to}")),
                )
                .unwrap();
            }
        }
        rig.level();
    }
    rig.probe();
}

#[test]
fn w23_a_file_over_another_leaves_the_winner_and_never_nothing() {
    let _row = row!();
    let mut rig = Rig::started(With::default());
    for n in 0..50 {
        rig.write(format!("winner-{n}"), format!("winner {n}"));
        rig.write(format!("{n}"), format!("loser {n}"));
    }
    rig.level();
    for n in 0..50 {
        fs::rename(rig.at(format!("winner-{n}")), rig.at(format!("{n}"))).unwrap();
    }
    rig.level();
    for n in 0..50 {
        assert_eq!(
            rig.object(&format!("{n}")).unwrap(),
            format!("winner {n}").into_bytes()
        );
        let removed = rig
            .bucket
            .history()
            .iter()
            .any(|(key, bytes)| *key == format!("p/{n}") && bytes.is_none());
        assert!(!removed, "there was a moment without {n}");
    }
    rig.probe();
}

#[test]
fn w24_many_renames_by_four_threads_end_level() {
    let _row = row!();
    let mut rig = Rig::started(With::default());
    for n in 0..10 {
        fs::create_dir(rig.at(format!("{n}"))).unwrap();
    }
    let count = scale(200, 500);
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let root = rig.root.clone();
            thread::spawn(move || {
                for n in 0..count {
                    let before = root.join(format!("{}/before-{thread}-{n}", n % 10));
                    fs::write(&before, format!("{thread} {n}")).unwrap();
                    let after = root.join(format!("{}/after-{thread}-{n}", (n + 1) % 10));
                    fs::rename(before, after).unwrap();
                }
            })
        })
        .collect();
    for one in threads {
        one.join().unwrap();
    }
    assert_eq!(rig.tree().len(), 4 * count);
    rig.probe();
}

#[test]
fn w25_a_folder_that_becomes_a_file_and_back_is_level_each_time() {
    let _row = row!();
    let mut rig = Rig::started(With::default());
    for round in 0..5 {
        rig.write("name/below/file", format!("in the folder {round}"));
        if round % 2 == 0 {
            rig.level();
        }
        fs::remove_dir_all(rig.at("name")).unwrap();
        rig.write("name", format!("the file {round}"));
        if round % 2 == 0 {
            rig.level();
        }
        fs::remove_file(rig.at("name")).unwrap();
    }
    rig.write("name/below/file", "the end");
    rig.probe();
    assert_eq!(rig.object("name/below/file").unwrap(), b"the end");
}

#[test]
fn w26_an_ignored_name_that_becomes_a_wanted_one_is_uploaded() {
    let _row = row!();
    let mut rig = Rig::started(With {
        exclude: vec!["ignored/".into(), "*.tmp".into()],
        ..With::default()
    });
    rig.write("file.tmp", "wanted later");
    rig.write("ignored/deep/file", "wanted later too");
    rig.write("beside", "");
    rig.level();
    // Longer than any of it would take, as the row says that nothing comes.
    pace(ms(300));
    assert_eq!(rig.bucket.objects().len(), 1);
    fs::rename(rig.at("file.tmp"), rig.at("file")).unwrap();
    fs::rename(rig.at("ignored"), rig.at("wanted")).unwrap();
    rig.level();
    assert_eq!(rig.object("file").unwrap(), b"wanted later");
    assert_eq!(rig.object("wanted/deep/file").unwrap(), b"wanted later too");
    rig.probe();
    fs::rename(rig.at("file"), rig.at("file.tmp")).unwrap();
    fs::rename(rig.at("wanted"), rig.at("ignored")).unwrap();
    fs::write(rig.at("ignored/deep/file"), "unwanted").unwrap();
    fs::write(rig.at("file.tmp"), "unwanted").unwrap();
    rig.probe();
    let history = rig.bucket.history();
    let mut contents = history.iter().filter_map(|(_, bytes)| bytes.as_ref());
    assert!(!contents.any(|bytes| *bytes == "unwanted"));
}
