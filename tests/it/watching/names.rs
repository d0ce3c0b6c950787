//! Rows 76 and 77: names that few programs expect, and paths longer than the kernel takes at once.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
use tidewatch::base::snapshot::What;

use crate::watching::rig::{Rig, With};
use crate::watching::table::row;

#[test]
fn w76_strange_names_are_level_or_reported() {
    let _row = row!();
    let mut rig = Rig::new(With::default());
    let long = vec![b'n'; 255];
    let names: &[&[u8]] = &[
        &long,
        b"not \xff utf-8 \xc3",
        b"new\nline",
        b"esc\x1b[31m",
        b"trailing space ",
        b" leading space",
        b"#123",
        "caf\u{e9}".as_bytes(),
        "cafe\u{301}".as_bytes(),
        b"Case",
        b"case",
        b"back\\slash",
        b"quote\"'",
        b"*?[star]",
        b"%41",
        b"+plus&and=more",
        "mark \u{201b}0A".as_bytes(),
        b"...",
        b"-rf",
        b"~",
    ];
    for (n, name) in names.iter().enumerate() {
        if n % 2 == 0 {
            rig.write(OsStr::from_bytes(name), format!("before {n}"));
            rig.write(
                std::path::Path::new("before")
                    .join(OsStr::from_bytes(name))
                    .join("below"),
                format!("{n}"),
            );
        }
    }
    rig.start();
    for (n, name) in names.iter().enumerate() {
        rig.write(
            std::path::Path::new("later")
                .join(OsStr::from_bytes(name))
                .join("below"),
            format!("{n}"),
        );
        if n % 2 == 1 {
            rig.write(OsStr::from_bytes(name), format!("later {n}"));
        }
    }
    rig.level();
    assert_eq!(rig.bucket.objects().len(), rig.tree().len());
    assert_eq!(rig.tree().len(), 20 + 20 + 10);
    rig.probe();
    for key in rig.bucket.objects().keys() {
        assert!(!key.chars().any(char::is_control), "{key:?}");
    }
}

#[test]
fn w77_a_file_below_a_path_that_is_too_long_is_reported() {
    let _row = row!();
    let mut rig = Rig::started(With {
        // What has no key is never level.
        trouble: true,
        ..With::default()
    });
    let name = "d".repeat(200);
    let folder = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at = openat(CWD, &rig.root, folder, Mode::empty()).unwrap();
    for level in 0..25 {
        mkdirat(&at, &name, Mode::from_raw_mode(0o755)).unwrap();
        at = openat(&at, &name, folder, Mode::empty()).unwrap();
        if level < 4 {
            let create = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
            let file = openat(&at, "sibling", create, Mode::from_raw_mode(0o644)).unwrap();
            rustix::io::write(&file, b"a sibling").unwrap();
        }
    }
    let create = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
    let bottom = openat(&at, "bottom", create, Mode::from_raw_mode(0o644)).unwrap();
    rustix::io::write(&bottom, b"at the bottom").unwrap();
    drop(bottom);
    rig.write("beside/file", "beside it");
    rig.until("the siblings", |rig| {
        let objects = rig.bucket.objects();
        let siblings = objects.keys().filter(|key| key.ends_with("/sibling"));
        siblings.count() == 4 && objects.contains_key("p/beside/file")
    });
    let names_it = |rig: &Rig| {
        let said = [What::Skipped, What::Failed].map(|what| rig.happened(what));
        said.iter()
            .flatten()
            .any(|one| one.path.as_bytes().len() > 1_024)
    };
    rig.until("a report of what is below", names_it);
    fs::write(rig.at("beside/later"), "later").unwrap();
    rig.until("the later one", |rig| rig.object("beside/later").is_some());
    // Too long to be removed by its path.
    let mut depth = 0;
    let mut top = rig.at(&name);
    while fs::remove_dir_all(&top).is_err() && depth < 10 {
        depth += 1;
        let below = rig.outside(&format!("below-{depth}"));
        let _ = fs::rename(top.join(&name).join(&name).join(&name), &below);
        let _ = fs::remove_dir_all(&top);
        top = below;
    }
    rig.stop();
}
