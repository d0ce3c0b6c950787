//! Rows 39 to 45: fewer watches than folders, and what may not be read.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use tidewatch::base::snapshot::What;

use crate::watching::child::Program;
use crate::watching::place::{Place, limit};
use crate::watching::rig::{Rig, With, ms};
use crate::watching::table::row;

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn w39_with_fewer_watches_than_folders_all_changes_arrive() {
    let mut row = row!();
    if !row.inside(Place::Limits) {
        return;
    }
    limit("max_inotify_watches", 40);
    let mut rig = Rig::new(With::default());
    for n in 0..200 {
        rig.write(format!("{}/{n}/file", n % 10), format!("{n}"));
    }
    rig.start();
    rig.probe();
    assert_ne!(rig.snapshot().watch, "native", "the status shows the split");
}

#[test]
fn w40_folders_beyond_the_limit_are_watched_when_it_is_raised() {
    let mut row = row!();
    if !row.inside(Place::Limits) {
        return;
    }
    limit("max_inotify_watches", 40);
    let mut rig = Rig::new(With {
        // Arming is tried again at each scan.
        rescan: ms(2_000),
        ..With::default()
    });
    for n in 0..10 {
        rig.write(format!("{n}/file"), format!("{n}"));
    }
    rig.start();
    for n in 0..100 {
        rig.write(format!("{}/{n}/file", n % 10), format!("new {n}"));
    }
    rig.level();
    rig.until("the status shows it", |rig| {
        rig.snapshot().watch != "native"
    });
    limit("max_inotify_watches", 10_000);
    rig.until("all are watched", |rig| rig.snapshot().watch == "native");
    rig.probe();
}

#[test]
fn w41_without_an_instance_everything_is_polled() {
    let mut row = row!();
    if !row.inside(Place::Limits) {
        return;
    }
    limit("max_inotify_instances", 0);
    let mut program = Program::new();
    program.rescan = "1s";
    fs::create_dir(program.at("sub")).unwrap();
    fs::write(program.at("sub/file"), "content").unwrap();
    program.start();
    program.probe();
    assert!(program.log().contains("cannot be"), "{}", program.log());
    program.until("the status says so", |program| {
        let status = program.status();
        status.is_some_and(|status| status.folders[0].watch != "native")
    });
}

#[test]
fn w42_an_unreadable_folder_does_not_keep_the_rest_from_being_watched() {
    let mut row = row!();
    if !row.inside(Place::Nobody) {
        return;
    }
    let mut rig = Rig::new(With::default());
    for n in 0..20 {
        rig.write(format!("{n}/sub/file"), format!("{n}"));
    }
    rig.start();
    rig.level();
    rig.stop();
    let before = rig.bucket.objects();
    chmod(&rig.at("7"), 0o000);
    rig.with.trouble = true;
    rig.start();
    rig.probe();
    rig.until("it is said", |rig| rig.snapshot().failed > 0);
    let said = rig.happened(What::Failed);
    let said = said
        .iter()
        .filter(|one| one.path.as_bytes() == b"7")
        .count();
    assert_eq!(said, 1);
    assert_eq!(rig.deletes(), 0);
    let after = rig.bucket.objects();
    assert!(before.keys().all(|key| after.contains_key(key)));
    chmod(&rig.at("7"), 0o755);
}

#[test]
fn w43_a_folder_that_is_made_readable_is_looked_into_at_once() {
    let mut row = row!();
    if !row.inside(Place::Nobody) {
        return;
    }
    let mut rig = Rig::new(With {
        trouble: true,
        ..With::default()
    });
    rig.write("closed/sub/file", "behind the door");
    chmod(&rig.at("closed"), 0o000);
    rig.write("open", "");
    rig.start();
    rig.level();
    assert_eq!(rig.object("closed/sub/file"), None);
    chmod(&rig.at("closed"), 0o755);
    rig.probe();
    assert_eq!(rig.object("closed/sub/file").unwrap(), b"behind the door");
}

#[test]
fn w44_a_tree_that_moves_in_with_an_unreadable_folder_is_watched_but_for_it() {
    let mut row = row!();
    if !row.inside(Place::Nobody) {
        return;
    }
    let mut rig = Rig::started(With::default());
    for n in 0..40 {
        crate::watching::rig::write(&rig.outside(&format!("tree/{n}/file")), format!("{n}"));
    }
    chmod(&rig.outside("tree/11"), 0o000);
    fs::rename(rig.outside("tree"), rig.at("tree")).unwrap();
    rig.with.trouble = true;
    rig.probe();
    chmod(&rig.at("tree/11"), 0o755);
    rig.probe();
}

#[test]
fn w45_an_unreadable_file_holds_nothing_up() {
    let mut row = row!();
    if !row.inside(Place::Nobody) {
        return;
    }
    let mut rig = Rig::started(With {
        trouble: true,
        ..With::default()
    });
    rig.write("sub/secret", "secret");
    chmod(&rig.at("sub/secret"), 0o000);
    for n in 0..100 {
        rig.write(format!("sub/{n}"), format!("{n}"));
    }
    rig.probe();
    rig.until("it is said", |rig| rig.snapshot().failed > 0);
    chmod(&rig.at("sub/secret"), 0o644);
    rig.with.trouble = false;
    rig.probe();
}
