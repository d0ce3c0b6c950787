//! Rows 62 and 63: names of every kind, and paths that are deep and long.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
use tidewatch::base::path::{RelPath, is_unruly};
use tidewatch::store::key::KeyMap;

use crate::process::World;
use crate::watching::table::row;

#[tokio::test]
async fn r62_every_name_has_a_key_of_its_own_or_is_reported_by_name() {
    let _row = row!();
    let world = World::new().await;
    let longest = "n".repeat(255);
    // With `p/` before it 1,024 bytes, and one more.
    let fits = [
        "x".repeat(255),
        "y".repeat(255),
        "z".repeat(255),
        "w".repeat(254),
    ]
    .join("/");
    let too_long = [
        "x".repeat(255),
        "y".repeat(255),
        "z".repeat(255),
        "v".repeat(255),
    ]
    .join("/");
    let names: Vec<&[u8]> = vec![
        longest.as_bytes(),
        fits.as_bytes(),
        b"new\nline",
        b"carriage\rreturn",
        b"escape \x1b[2J\x1b]0;title\x07",
        b"\x01\x7f",
        "c1 \u{85}\u{9b}".as_bytes(),
        "bidi \u{202e}txt.exe".as_bytes(),
        b"not UTF-8 \xff\xfe",
        b"half \xe2\x80",
        b"...",
        b"..a",
        b". .",
        b"%2e%2e%2f",
        b"a+b c&d=e?f#g",
        b"back\\slash",
        b"-rf",
        b" ",
        "\u{201b}0A".as_bytes(),
        "e\u{301}".as_bytes(),
        "\u{e9}".as_bytes(),
        b"CASE",
        b"case",
        "\u{1f30a}".as_bytes(),
    ];
    for name in &names {
        world.write_bytes(name, name);
    }
    world.write(&too_long, "too long");
    let ended = world.sync(&["-v"]).await;
    assert_eq!(ended.code, Some(3), "{}", ended.err);
    // Named, and in a way that no terminal acts on.
    assert!(ended.err.contains(&"v".repeat(255)), "{}", ended.err);
    for line in ended.err.lines().chain(ended.out.lines()) {
        assert!(!line.contains(is_unruly), "{line:?}");
    }
    let keys = KeyMap::new("p/");
    for name in &names {
        let path = RelPath::new(name).unwrap();
        let key = keys.key(&path).unwrap();
        assert_eq!(keys.path(&key), Some(path.clone()), "{key:?}");
        assert_eq!(
            world.endpoint.object(&key).as_deref(),
            Some(*name),
            "{path}"
        );
    }
    assert_eq!(world.objects().len(), names.len());
    // And each comes back under its name.
    let to = world.dir.path().join("back");
    let mut restore = world.bare([
        "restore",
        "s3://tide/p",
        "--endpoint-url",
        &world.endpoint.url(),
        "--to",
    ]);
    let restored = crate::process::ended(restore.arg(&to)).await;
    assert_eq!(restored.code, Some(0), "{}", restored.err);
    for name in &names {
        let at = to.join(std::ffi::OsStr::from_bytes(name));
        assert_eq!(fs::read(&at).unwrap(), **name, "{}", at.display());
    }
}

/// Makes `count` folders called `name`, one in the other, with a file in the last.
fn nest(world: &World, top: &str, name: &str, count: usize) {
    let mode = Mode::from_raw_mode(0o755);
    fs::create_dir(world.tree(top)).unwrap();
    let mut at = openat(CWD, world.tree(top), OFlags::DIRECTORY, Mode::empty()).unwrap();
    for _ in 0..count {
        mkdirat(&at, name, mode).unwrap();
        at = openat(&at, name, OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    let file = openat(&at, "file", OFlags::CREATE | OFlags::WRONLY, mode).unwrap();
    rustix::io::write(file, top.as_bytes()).unwrap();
}

#[tokio::test]
async fn r63_deep_and_long_paths_are_walked_and_those_without_a_key_reported() {
    let _row = row!();
    let world = World::new().await;
    world.write("beside", "beside");
    nest(&world, "deep", "d", 100);
    // Beyond what the kernel takes in one call.
    nest(&world, "long", &"n".repeat(200), 25);
    let ended = world.sync(&[]).await;
    assert_eq!(ended.code, Some(3), "{}", ended.err);
    assert!(ended.out.contains("could not sync 1,"), "{}", ended.out);
    let deep = format!("deep/{}file", "d/".repeat(100));
    assert_eq!(world.object(&deep).unwrap(), b"deep");
    assert_eq!(world.objects().len(), 2);
    // Nothing else can take that down again.
    crate::watching::place::run("rm", &["-rf", world.tree("long").to_str().unwrap()]);
}
