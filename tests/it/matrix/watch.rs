//! Rows 29 to 32, and 39 to 41: what the kernel tells of changes, and what it does not.

use std::fs;
use std::os::unix::fs::FileExt as _;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::process::Signal;

use crate::watching::child::Program;
use crate::watching::place::{Place, limit};
use crate::watching::rig::{Rig, With};
use crate::watching::table::row;

#[test]
fn r29_beyond_the_limit_of_watches_the_rest_is_scanned_and_that_is_said() {
    let mut row = row!();
    if !row.inside(Place::Limits) {
        return;
    }
    limit("max_inotify_watches", 20);
    let mut rig = Rig::new(With::default());
    for n in 0..60 {
        rig.write(format!("{n}/file"), format!("{n}"));
    }
    rig.start();
    for n in 0..60 {
        rig.write(format!("{n}/new"), format!("new {n}"));
    }
    rig.level();
    assert_ne!(rig.snapshot().watch, "native", "the status shows the split");
}

#[test]
fn r30_an_overflow_of_the_kernels_queue_ends_in_a_rescan() {
    let _row = row!();
    let mut program = Program::new();
    for name in ["one", "two", "old"] {
        fs::write(program.at(name), "before").unwrap();
    }
    program.start();
    program.until("a level status", Program::is_level);
    program.signal(Signal::STOP);
    // The kernel keeps 16,384 events; equal neighbours are one, so the files take turns.
    let files = ["one", "two"].map(|name| fs::File::create(program.at(name)).unwrap());
    for n in 0..20_000_u32 {
        files[n as usize % 2].write_at(&n.to_le_bytes(), 0).unwrap();
    }
    drop(files);
    // Of these no event tells any more.
    fs::write(program.at("old"), "changed meanwhile").unwrap();
    fs::create_dir(program.at("new")).unwrap();
    fs::write(program.at("new/file"), "made meanwhile").unwrap();
    program.signal(Signal::CONT);
    program.level();
    program.until("a level status", Program::is_level);
    let log = program.log();
    assert!(log.contains("events were lost"), "{log}");
    // And everything is watched again.
    program.probe();
}

#[test]
fn r31_what_is_moved_in_is_uploaded_and_what_is_moved_out_is_deleted() {
    let _row = row!();
    let mut rig = Rig::started(With::default());
    let outside = rig.outside("outside");
    for n in 0..20 {
        let at = outside.join(format!("{}/deep/{n}", n % 4));
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        fs::write(at, format!("content {n}")).unwrap();
    }
    fs::rename(&outside, rig.at("moved")).unwrap();
    rig.probe();
    assert_eq!(rig.deletes(), 0);
    fs::rename(rig.at("moved/1"), rig.outside("moved out")).unwrap();
    // Of what left nobody hears any more.
    fs::write(rig.outside("moved out/deep/late"), "late").unwrap();
    rig.probe();
    assert!(rig.deletes() >= 5);
    assert_eq!(rig.object("moved/1/deep/late"), None);
}

#[test]
fn r32_a_storm_on_one_file_is_few_uploads_and_the_newest_content() {
    let _row = row!();
    let mut rig = Rig::started(With::default());
    let file = fs::File::create(rig.at("stormy")).unwrap();
    for n in 0..20_000_u64 {
        file.write_at(&n.to_le_bytes(), 0).unwrap();
    }
    drop(file);
    rig.probe();
    let versions = rig.versions("stormy");
    assert_eq!(versions.last().unwrap(), &19_999_u64.to_le_bytes());
    assert!(versions.len() <= 10, "{}", versions.len());
}

#[test]
fn r39_through_chains_swaps_and_rings_of_renames_every_content_stays_in_the_bucket() {
    let _row = row!();
    let mut rig = Rig::new(With::default());
    let contents: Vec<Vec<u8>> = (0..9)
        .map(|n| format!("content {n}").into_bytes())
        .collect();
    for (n, content) in contents.iter().enumerate() {
        rig.write(format!("f{n}"), content);
    }
    rig.start();
    rig.level();
    let first = rig.bucket.history().len();
    let rename = |from: &str, to: &str| fs::rename(rig.at(from), rig.at(to)).unwrap();
    // Under free names, again and again: at each moment the old or the new one has the content.
    for (from, to) in [
        ("f0", "g0"),
        ("g0", "h0"),
        ("f1", "f0"),
        ("f2", "f1"),
        ("h0", "f2"),
    ] {
        rename(from, to);
        rig.level();
    }
    fs::create_dir(rig.at("deep")).unwrap();
    for n in 6..9 {
        rename(&format!("f{n}"), &format!("deep/f{n}"));
    }
    rig.level();
    let mut keys = std::collections::BTreeMap::new();
    for (at, (key, bytes)) in rig.bucket.history().into_iter().enumerate() {
        match bytes {
            Some(bytes) => drop(keys.insert(key, bytes)),
            None => drop(keys.remove(&key)),
        }
        let is_there = |content: &Vec<u8>| keys.values().any(|bytes| bytes[..] == content[..]);
        assert!(
            at + 1 < first || contents.iter().all(is_there),
            "after step {at} a content has no object"
        );
    }
    // What takes each other's names at once ends right: chains, swaps and rings.
    for round in 0..3 {
        for (from, to) in [("f2", "free"), ("f1", "f2"), ("f0", "f1"), ("free", "f0")] {
            rename(from, to);
        }
        renameat_with(CWD, rig.at("f3"), CWD, rig.at("f4"), RenameFlags::EXCHANGE).unwrap();
        fs::create_dir(rig.at(format!("d{round}"))).unwrap();
        rename("f5", &format!("d{round}/aside"));
        rename(&format!("d{round}/aside"), "f5");
        rig.level();
    }
    rig.probe();
}

#[test]
fn r40_what_is_replaced_by_rename_is_never_without_an_object() {
    let _row = row!();
    let mut rig = Rig::started(With::default());
    rig.write("file", "first");
    rig.level();
    for n in 0..60 {
        rig.write("file.new", format!("content {n}"));
        fs::rename(rig.at("file.new"), rig.at("file")).unwrap();
        std::thread::yield_now();
    }
    rig.probe();
    assert_eq!(rig.object("file").unwrap(), b"content 59");
    let history = rig.bucket.history();
    assert!(
        !history
            .iter()
            .any(|(key, bytes)| key == "p/file" && bytes.is_none()),
        "its object was deleted in between"
    );
}

#[test]
fn r41_each_name_of_a_hard_link_has_its_object_and_goes_alone() {
    let _row = row!();
    let mut rig = Rig::new(With::default());
    rig.write("name-0", "one file");
    for n in 1..6 {
        fs::hard_link(rig.at("name-0"), rig.at(format!("name-{n}"))).unwrap();
    }
    rig.start();
    rig.level();
    let named = |rig: &Rig| {
        (0..6)
            .filter(|n| rig.object(&format!("name-{n}")).is_some())
            .count()
    };
    assert_eq!(named(&rig), 6);
    fs::remove_file(rig.at("name-0")).unwrap();
    rig.level();
    assert_eq!((named(&rig), rig.deletes()), (5, 1));
    // Written through one name, changed under each.
    fs::write(rig.at("name-3"), "changed").unwrap();
    rig.probe();
    assert!((1..6).all(|n| rig.object(&format!("name-{n}")).unwrap() == b"changed"));
}
