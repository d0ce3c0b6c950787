//! Rows 18 to 21: roots, mounts and folders that go, come and close.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::watching::place::{Mounted, Place, text};
use crate::watching::rig::{Rig, With, ms, pace};
use crate::watching::table::row;

fn fill(rig: &Rig) {
    for n in 0..12 {
        rig.write(format!("{}/file-{n}", n % 3), format!("content {n}"));
    }
}

/// An agent that looks at everything again and again.
fn restless() -> Rig {
    let rig = Rig::new(With {
        rescan: ms(1_000),
        ..With::default()
    });
    fill(&rig);
    rig
}

fn away(rig: &Rig) {
    rig.until("away", |rig| rig.snapshot().away.is_some());
    // More scans come and go: time has to pass, because the row says that nothing happens in it.
    pace(ms(1_300));
    assert_eq!(rig.deletes(), 0);
    assert!(!rig.snapshot().level);
}

#[test]
fn r18_an_empty_folder_in_the_place_of_the_mounted_root_deletes_nothing() {
    let mut row = row!();
    if !row.inside(Place::Mounts) {
        return;
    }
    let mut rig = restless();
    rig.start();
    rig.level();
    let before = rig.bucket.objects();
    let over = Mounted::new(&["-t", "tmpfs", "none", text(&rig.root)]);
    away(&rig);
    assert!(rig.bucket.objects() == before);
    drop(over);
    rig.until("back", |rig| rig.snapshot().away.is_none());
    rig.probe();
    assert_eq!(rig.deletes(), 0);
}

#[test]
fn r19_another_folder_in_the_roots_place_is_not_synced_until_somebody_says_so() {
    let _row = row!();
    let mut rig = restless();
    rig.start();
    rig.level();
    let before = rig.bucket.objects();
    let aside = rig.outside("aside");
    fs::rename(&rig.root, &aside).unwrap();
    fs::create_dir(&rig.root).unwrap();
    rig.write("stranger", "of another folder");
    away(&rig);
    assert!(rig.bucket.objects() == before);
    // It is not taken for it by a new start either.
    rig.stop();
    rig.launch();
    away(&rig);
    assert!(rig.bucket.objects() == before);
}

#[test]
fn r20_what_was_mounted_below_the_root_and_is_gone_keeps_its_objects() {
    let mut row = row!();
    if !row.inside(Place::Mounts) {
        return;
    }
    let mut rig = restless();
    fs::create_dir(rig.at("sub")).unwrap();
    let mounted = Mounted::new(&["-t", "tmpfs", "none", text(&rig.at("sub"))]);
    rig.write("sub/deep/file", "on the mount");
    rig.start();
    rig.level();
    (rig.with.extras, rig.with.trouble) = (true, true);
    mounted.lazily();
    rig.write("0/later", "beside it");
    rig.until("the rest goes on", |rig| rig.object("0/later").is_some());
    // More scans come and go.
    pace(ms(1_300));
    assert_eq!(rig.deletes(), 0);
    assert_eq!(rig.object("sub/deep/file").unwrap(), b"on the mount");
}

#[test]
fn r21_nothing_below_a_folder_that_cannot_be_read_is_deleted_and_the_rest_goes_on() {
    let mut row = row!();
    if rustix::process::geteuid().is_root() && !row.inside(Place::Nobody) {
        return;
    }
    let mut rig = restless();
    rig.write("closed/deep/file", "closed");
    rig.start();
    rig.level();
    let chmod = |mode| fs::set_permissions(rig.at("closed"), fs::Permissions::from_mode(mode));
    chmod(0).unwrap();
    (rig.with.extras, rig.with.trouble) = (true, true);
    rig.write("0/later", "beside it");
    rig.until("the rest goes on", |rig| rig.object("0/later").is_some());
    rig.until("it is counted", |rig| {
        let now = rig.snapshot();
        now.failed > 0 && !now.level
    });
    pace(ms(1_300));
    assert_eq!(rig.deletes(), 0);
    assert_eq!(rig.object("closed/deep/file").unwrap(), b"closed");
    fs::set_permissions(rig.at("closed"), fs::Permissions::from_mode(0o755)).unwrap();
    (rig.with.extras, rig.with.trouble) = (false, false);
    rig.probe();
}
