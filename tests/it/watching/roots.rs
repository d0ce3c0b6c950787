//! Rows 27 to 38: roots that go and come, mounts, filesystems that tell little.

use std::fs;
use std::os::unix::fs::symlink;
use std::thread;

use tidewatch::base::snapshot::What;

use crate::watching::child::Program;
use crate::watching::place::{Mounted, Place, has, run, text};
use crate::watching::quiet::Looks;
use crate::watching::rig::{Rig, With, ms, pace, write};
use crate::watching::table::row;

fn away(rig: &Rig) {
    rig.until("away", |rig| rig.snapshot().away.is_some());
}

fn back(rig: &Rig) {
    rig.until("back", |rig| rig.snapshot().away.is_none());
}

fn fill(rig: &Rig) {
    for n in 0..40 {
        rig.write(format!("{}/file-{n}", n % 5), format!("content {n}"));
    }
}

#[test]
fn w27_a_root_that_is_made_again_is_away_until_it_is_back() {
    let _row = row!();
    let mut rig = Rig::started(With::default());
    fill(&rig);
    rig.level();
    let before = rig.bucket.objects();
    let backup = rig.outside("backup");
    run("cp", &["-a", text(&rig.root), text(&backup)]);
    fs::remove_dir_all(&rig.root).unwrap();
    away(&rig);
    assert_eq!(rig.deletes(), 0);
    // As from a backup: the same files with their times.
    run("cp", &["-a", text(&backup), text(&rig.root)]);
    back(&rig);
    rig.probe();
    assert_eq!(rig.deletes(), 0);
    let after = rig.bucket.objects();
    assert!(before.keys().all(|key| after.contains_key(key)));
}

#[test]
fn w28_another_folder_in_the_roots_place_is_not_taken_for_it() {
    let _row = row!();
    let mut rig = Rig::started(With::default());
    fill(&rig);
    rig.probe();
    let before = rig.bucket.objects();
    let left = rig.outside("left");
    fs::rename(&rig.root, &left).unwrap();
    fs::create_dir(&rig.root).unwrap();
    rig.write("stranger", "of another folder");
    away(&rig);
    fs::write(left.join("0/late"), "in the folder that left").unwrap();
    rig.write("second stranger", "of another folder");
    // Time has to pass, because the row says that nothing happens in it.
    pace(ms(2_000));
    assert!(rig.bucket.objects() == before, "something was uploaded");
    assert_eq!(rig.deletes(), 0);
    // The right one comes back.
    fs::remove_dir_all(&rig.root).unwrap();
    fs::rename(&left, &rig.root).unwrap();
    back(&rig);
    rig.probe();
}

/// A root on a tmpfs that is being written to.
fn unmounted(lazily: bool) {
    let rig = Rig::new(With::default());
    let mount = || Mounted::new(&["-t", "tmpfs", "none", text(&rig.root)]);
    let mounted = mount();
    let mut rig = rig;
    fill(&rig);
    rig.start();
    rig.probe();
    let before = rig.bucket.objects();
    let root = rig.root.clone();
    let writing = thread::spawn(move || {
        let mut n = 0_u64;
        while root.join("0").is_dir() {
            n += 1;
            // It fails when the folder has gone.
            let _ = fs::write(root.join(format!("0/late-{}", n % 50)), n.to_string());
        }
    });
    pace(ms(300));
    if lazily {
        mounted.lazily();
    } else {
        let mut mounted = Some(mounted);
        // The writer keeps it busy from time to time; the agent may not do so for ever.
        for _ in 0..2_000 {
            if let Some(still) = mounted.take() {
                mounted = still.unmount().err();
                pace(ms(1));
            }
        }
        assert!(
            mounted.is_none(),
            "the agent keeps the filesystem from being unmounted"
        );
    }
    writing.join().unwrap();
    away(&rig);
    let empty = Mounted::new(&["-t", "tmpfs", "none", text(&rig.root)]);
    // Time has to pass, because the row says that nothing happens in it.
    pace(ms(2_000));
    assert_eq!(rig.deletes(), 0);
    let after = rig.bucket.objects();
    assert!(
        before
            .iter()
            .all(|(key, object)| after.get(key) == Some(object))
    );
    drop(empty);
}

#[test]
fn w29_an_unmounted_root_deletes_nothing() {
    let mut row = row!();
    if row.inside(Place::Mounts) {
        unmounted(false);
    }
}

#[test]
fn w30_a_lazily_unmounted_root_deletes_nothing() {
    let mut row = row!();
    if row.inside(Place::Mounts) {
        unmounted(true);
    }
}

#[test]
fn w31_the_same_disk_mounted_again_is_back_by_itself() {
    let mut row = row!();
    if !row.inside(Place::Mounts) {
        return;
    }
    let mut rig = Rig::new(With::default());
    let image = rig.outside("image");
    let mounted = Mounted::image(&image, &rig.root, 256);
    fill(&rig);
    rig.start();
    rig.probe();
    mounted.lazily();
    away(&rig);
    let _mounted = Mounted::new(&["-o", "loop", text(&image), text(&rig.root)]);
    rig.write("0/after", "it came back");
    back(&rig);
    rig.probe();
    assert_eq!(rig.deletes(), 0);
}

#[test]
fn w32_a_mount_over_a_subfolder_hides_and_deletes_nothing() {
    let mut row = row!();
    if !row.inside(Place::Mounts) {
        return;
    }
    let mut rig = Rig::started(With {
        extras: true,
        ..With::default()
    });
    fill(&rig);
    rig.write("sub/hidden", "hidden for a while");
    rig.probe();
    // What it hides, and later what was on it, is away, and as long as that lasts the status may say so.
    rig.with.trouble = true;
    let mounted = Mounted::new(&["-t", "tmpfs", "none", text(&rig.at("sub"))]);
    rig.write("sub/new/on the mount", "seen while it is there");
    rig.probe();
    assert_eq!(rig.deletes(), 0);
    mounted.lazily();
    rig.probe();
    assert_eq!(rig.object("sub/hidden").unwrap(), b"hidden for a while");
    assert_eq!(rig.deletes(), 0);
}

#[test]
fn w33_a_root_behind_a_link_that_is_swung_is_away() {
    let _row = row!();
    let mut program = Program::new();
    let link = program.dir.path().join("link");
    symlink(program.at(""), &link).unwrap();
    program.folder = link.clone();
    program.rescan = "1s";
    fs::create_dir(program.at("sub")).unwrap();
    fs::write(program.at("sub/file"), "before").unwrap();
    program.start();
    program.probe();
    let other = program.dir.path().join("other");
    write(&other.join("stranger"), "of another folder");
    fs::remove_file(&link).unwrap();
    symlink(&other, &link).unwrap();
    program.until("trouble in the status", |program| {
        let status = program.status();
        status.is_some_and(|status| status.folders[0].trouble.is_some())
    });
    assert!(program.endpoint.object("p/stranger").is_none());
    assert!(program.endpoint.object("p/sub/file").is_some());
}

#[test]
fn w34_both_names_of_a_bind_mount_are_level() {
    let mut row = row!();
    if !row.inside(Place::Mounts) {
        return;
    }
    let mut rig = Rig::new(With::default());
    fs::create_dir_all(rig.at("one/sub")).unwrap();
    fs::create_dir(rig.at("two")).unwrap();
    let _mounted = Mounted::new(&["--bind", text(&rig.at("one")), text(&rig.at("two"))]);
    rig.write("one/file", "before");
    rig.start();
    rig.level();
    for n in 0..10 {
        rig.write(format!("one/by-one-{n}"), format!("{n}"));
        rig.write(format!("two/by-two-{n}"), format!("{n}"));
        rig.write(format!("one/sub/by-one-{n}"), format!("{n}"));
        rig.write(format!("two/sub/by-two-{n}"), format!("{n}"));
    }
    rig.probe();
}

#[test]
fn w35_a_root_inside_itself_ends_and_is_said_once() {
    let mut row = row!();
    if !row.inside(Place::Mounts) {
        return;
    }
    let mut rig = Rig::new(With {
        trouble: true,
        ..With::default()
    });
    fill(&rig);
    fs::create_dir(rig.at("inside")).unwrap();
    let _mounted = Mounted::new(&["--bind", text(&rig.root), text(&rig.at("inside"))]);
    rig.start();
    let says = |rig: &Rig| {
        let skipped = rig.happened(What::Skipped);
        skipped
            .iter()
            .filter(|one| one.path.as_bytes() == b"inside")
            .count()
    };
    rig.until("word of it", |rig| says(rig) > 0);
    rig.write("0/late", "while it is there");
    rig.until("its object", |rig| rig.object("0/late").is_some());
    assert_eq!(says(&rig), 1);
    assert!(
        rig.bucket
            .objects()
            .keys()
            .all(|key| !key.starts_with("p/inside/"))
    );
}

#[test]
fn w36_changes_behind_fuse_are_found_by_polling() {
    let mut row = row!();
    if !has("bindfs") {
        return row.could_not("needs bindfs");
    }
    if !row.inside(Place::Mounts) {
        return;
    }
    let mut rig = Rig::new(With::default());
    let behind = rig.outside("behind");
    write(&behind.join("sub/file"), "before");
    run("bindfs", &[text(&behind), text(&rig.root)]);
    let mounted = Mounted::at(&rig.root);
    rig.start();
    rig.level();
    write(&behind.join("sub/file"), "changed behind the mount");
    write(&behind.join("new/file"), "new behind the mount");
    rig.level();
    rig.write("new/through", "through the mount");
    rig.probe();
    drop(mounted);
}

#[test]
fn w37_overlay_tells_what_is_written_through_it_and_the_scan_the_rest() {
    let mut row = row!();
    if !row.inside(Place::Mounts) {
        return;
    }
    let mut rig = Rig::new(With::default());
    for name in ["lower", "upper", "work"] {
        fs::create_dir(rig.outside(name)).unwrap();
    }
    write(&rig.outside("lower/sub/file"), "in the lower folder");
    write(&rig.outside("lower/sub/other"), "in the lower folder too");
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        text(&rig.outside("lower")),
        text(&rig.outside("upper")),
        text(&rig.outside("work"))
    );
    let _mounted = Mounted::new(&["-t", "overlay", "-o", &options, "overlay", text(&rig.root)]);
    rig.start();
    rig.level();
    rig.write("sub/file", "copied up");
    rig.probe();
    assert_eq!(rig.object("sub/file").unwrap(), b"copied up");
    rig.stop();
    rig.with.rescan = ms(1_000);
    rig.start();
    // Behind the overlay's back: no event.
    fs::write(rig.outside("upper/sub/file"), "changed in the upper folder").unwrap();
    rig.until("the scan finds it", |rig| {
        rig.object("sub/file").unwrap() == b"changed in the upper folder"
    });
}

#[test]
fn w38_a_disk_that_fails_deletes_nothing() {
    let mut row = row!();
    if !has("python3") {
        return row.could_not("needs python3");
    }
    if !row.inside(Place::Mounts) {
        return;
    }
    let mut rig = Rig::new(With {
        rescan: ms(1_000),
        trouble: true,
        ..With::default()
    });
    let _mounted = Mounted::image(&rig.outside("image"), &rig.root, 256);
    fill(&rig);
    rig.start();
    rig.probe();
    let before = rig.bucket.objects();
    // EXT4_IOC_SHUTDOWN without a flush: what a disk does that was pulled out.
    let script = "import fcntl, os, struct, sys\n\
                  at = os.open(sys.argv[1], os.O_RDONLY)\n\
                  fcntl.ioctl(at, 0x8004587d, struct.pack('I', 2))";
    run("python3", &["-c", script, text(&rig.root)]);
    let looks = Looks::at(&rig.root);
    if fs::read_dir(&rig.root).is_err() || fs::read_dir(rig.at("0")).is_err() {
        rig.until("it is said", |rig| {
            let now = rig.snapshot();
            now.away.is_some() || now.failed > 0
        });
    } else {
        // Each asks who the root is, and lists it.
        rig.until("more scans", |_| looks.seen() >= 6);
    }
    assert_eq!(rig.deletes(), 0);
    assert!(rig.bucket.objects() == before);
}
