//! What went up comes back byte for byte, with its times and modes, also on an empty machine.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use tidewatch::base::clock::{Clock, rfc3339_nanos};

use crate::process::{World, complaints, ended};
use crate::restore::{Held, back, names, path, plant, restore, told, tree};

/// Files of the large round trip.
const FILES: usize = 2000;

/// Its folders in which nothing is, or only others of them.
const EMPTY: [&[u8]; 6] = [
    b"nothing",
    b"d0/nothing",
    b"nested/in/nothing",
    b"odd \xff\n",
    "\u{201b}0A".as_bytes(),
    b"d1.rclonelink",
];

/// Fills the folder with files of every kind, each with a mode and a time of its own.
fn fill(world: &World, random: &mut fastrand::Rng) {
    let mut all: Vec<Vec<u8>> = (0..FILES)
        .map(|number| format!("d{}/e{}/file {number}", number % 7, number % 31).into_bytes())
        .collect();
    all.extend(
        [
            &b"new\nline"[..],
            b"caf\xe9/\xff\xfe",
            b"\x7f\x01",
            "own‛sign‛0A".as_bytes(),
            "ünï/日本/😀".as_bytes(),
            b"100%/%41+ &?#",
            b" leading/trailing ",
            b"back\\slash",
            b"a",
            b"a-b",
            b"a.b/c",
            b"not a link.rclonelink",
        ]
        .map(<[u8]>::to_vec),
    );
    for (number, name) in all.iter().enumerate() {
        let len = match number {
            0..20 => 0,
            20 => 40 << 20,
            _ => random.usize(1..3000),
        };
        let bytes: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(len).collect();
        world.write_bytes(name, bytes);
        let place = world.tree(path(name));
        let modes = [0o600, 0o644, 0o755, 0o400, 0o666];
        let mode = modes[number % modes.len()];
        let nanoseconds = random.u64(0..4_000_000_000_000_000_000);
        let file = File::options().read(true).open(&place).unwrap();
        let at = UNIX_EPOCH + Duration::from_nanos(nanoseconds);
        file.set_modified(at).unwrap();
        fs::set_permissions(&place, Permissions::from_mode(mode)).unwrap();
    }
    for (number, name) in EMPTY.iter().enumerate() {
        let place = world.tree(path(name));
        fs::create_dir_all(&place).unwrap();
        let mode = [0o755, 0o700, 0o555][number % 3];
        fs::set_permissions(&place, Permissions::from_mode(mode)).unwrap();
    }
    // Each folder gets a time and mode of its own, from the lowest up.
    for (number, name) in folders(&world.tree("")).iter().rev().enumerate() {
        let place = world.tree(path(name));
        let mode = [0o755, 0o750, 0o775][number % 3];
        if !EMPTY.contains(&&name[..]) {
            fs::set_permissions(&place, Permissions::from_mode(mode)).unwrap();
        }
        let nanoseconds = random.u64(0..4_000_000_000_000_000_000);
        let at = UNIX_EPOCH + Duration::from_nanos(nanoseconds);
        File::open(&place).unwrap().set_modified(at).unwrap();
    }
}

/// Returns the folders of a tree, those above before what is in them.
fn folders(root: &Path) -> Vec<Vec<u8>> {
    let all = tree(root).into_iter();
    let folders = all.filter(|(_, held)| *held == Held::Folder);
    folders.map(|(name, _)| name).collect()
}

/// Returns the mode and the time of every folder.
fn stats(root: &Path) -> Vec<(Vec<u8>, u32, i64, i64)> {
    let stat = |name: Vec<u8>| {
        let stat = fs::metadata(root.join(path(&name))).unwrap();
        (name, stat.mode() & 0o7777, stat.mtime(), stat.mtime_nsec())
    };
    folders(root).into_iter().map(stat).collect()
}

#[tokio::test]
async fn what_went_up_comes_back_with_its_times_and_modes_on_an_empty_machine() {
    let world = World::new().await;
    fill(&world, &mut fastrand::Rng::with_seed(11));
    let before = tree(&world.tree(""));
    assert!(before.len() > FILES);
    let of_folders = stats(&world.tree(""));
    world.sync_level().await;
    let puts = world.endpoint.keys().len();
    assert_eq!(puts, FILES + 12, "no folder has an object");
    fs::remove_dir_all(world.tree("")).unwrap();
    fs::remove_dir_all(world.state()).unwrap();

    let first = restore(&world, &[]).await;
    assert_eq!(first.code, Some(0), "{}{}", first.out, first.err);
    assert!(first.out.starts_with("done: "), "{}", first.out);
    assert!(!first.out.contains("by size"), "{}", first.out);
    assert!(first.out.contains("), 6 empty folders, "), "{}", first.out);
    assert!(before == tree(&back(&world)), "the trees differ");
    assert_eq!(of_folders, stats(&back(&world)));

    // Again: everything is there, and not a byte of it is fetched.
    world.endpoint.reset_counts();
    let again = restore(&world, &["--json"]).await;
    assert_eq!(again.code, Some(0), "{}", again.err);
    let (_, summary) = told(&again);
    assert_eq!(summary["restored"], 0, "{summary}");
    assert_eq!(summary["equal"], FILES + 12 + EMPTY.len(), "{summary}");
    assert_eq!(world.endpoint.count("GetObject"), 0);
    assert!(before == tree(&back(&world)), "the trees differ");
    assert_eq!(of_folders, stats(&back(&world)));

    // One that was touched gets its time and mode back, and nothing is fetched for it.
    let touched = back(&world).join("a");
    fs::set_permissions(&touched, Permissions::from_mode(0o640)).unwrap();
    let file = File::options().read(true).open(&touched).unwrap();
    file.set_modified(UNIX_EPOCH).unwrap();
    let mended = restore(&world, &[]).await;
    assert_eq!(mended.code, Some(0), "{}", mended.err);
    assert_eq!(world.endpoint.count("GetObject"), 0);
    assert!(before == tree(&back(&world)), "the trees differ");
}

#[tokio::test]
async fn folders_come_back_as_they_were_then_and_a_file_in_the_way_is_a_conflict() {
    let world = World::new().await;
    let config = crate::restore::config(&world, "exclude = [\"left/\"]");
    let sync = async || {
        let synced = ended(world.bare(["sync", "--config"]).arg(&config)).await;
        assert_eq!(synced.code, Some(0), "{}", synced.err);
    };
    world.write("full/file", b"tide");
    for name in ["empty", "left/out", "nested/below"] {
        fs::create_dir_all(world.tree(name)).unwrap();
    }
    sync().await;
    let then = rfc3339_nanos(Clock::Real.now().wall_ns);
    fs::remove_dir(world.tree("nested/below")).unwrap();
    fs::remove_dir(world.tree("empty")).unwrap();
    world.write("empty", b"a file now");
    sync().await;

    let dry = restore(&world, &["--dry-run"]).await;
    assert_eq!(dry.code, Some(0), "{}", dry.err);
    assert!(
        dry.out.contains("would restore nested (a folder)\n"),
        "{}",
        dry.out
    );
    assert!(
        dry.out
            .contains("2 would be restored (14 B), 1 empty folder, "),
        "{}",
        dry.out
    );
    let now = restore(&world, &[]).await;
    assert_eq!(now.code, Some(0), "{}{}", now.out, now.err);
    assert_eq!(names(&back(&world)), [&b"empty"[..], b"full", b"nested"]);
    assert!(back(&world).join("empty").is_file());
    assert_eq!(names(&back(&world).join("nested")), [b""; 0]);

    // A file where a folder has to be is in the way, and named before anything is written.
    let past = restore(&world, &["--at", &then, "--json"]).await;
    assert_eq!(past.code, Some(1), "{}{}", past.out, past.err);
    let (events, summary) = told(&past);
    let conflict = ("conflict".to_owned(), "empty".to_owned());
    assert!(events.contains(&conflict), "{events:?}");
    assert_eq!(
        (&summary["conflicts"], &summary["folders"]),
        (&1.into(), &0.into())
    );
    assert!(!back(&world).join("nested/below").exists());
    fs::remove_dir_all(back(&world)).unwrap();
    let past = restore(&world, &["--at", &then, "--json"]).await;
    assert_eq!(past.code, Some(0), "{}{}", past.out, past.err);
    let (events, summary) = told(&past);
    let restored = ["empty", "full/file", "nested/below"];
    let expected = restored.map(|name| ("restored".to_owned(), name.to_owned()));
    assert_eq!(
        events, expected,
        "a folder in which something lies is not told of"
    );
    assert_eq!(
        (&summary["restored"], &summary["folders"]),
        (&1.into(), &2.into())
    );
    assert_eq!(names(&back(&world)), [&b"empty"[..], b"full", b"nested"]);

    // One folder alone, and one that never was anything else.
    let mut one = world.bare(["restore", "s3://tide/p", "nested"]);
    one.args(["--endpoint-url", &world.endpoint.url(), "--to"]);
    let alone = world.dir.path().join("alone");
    let one = ended(one.arg(&alone)).await;
    assert_eq!(one.code, Some(0), "{}{}", one.out, one.err);
    assert_eq!(names(&alone), [b"nested"]);
    let mut history = world.bare(["history", "nested", "--from", "s3://tide/p"]);
    history.args(["--endpoint-url", &world.endpoint.url()]);
    let history = ended(&mut history).await;
    assert_eq!(history.code, Some(2), "{}{}", history.out, history.err);
}

#[tokio::test]
async fn links_that_were_recorded_are_links_again() {
    let world = World::new().await;
    world.write("real/file", b"behind the link");
    world.write("plain.rclonelink", b"a file of that name");
    for (to, name) in [
        ("real", "folder"),
        ("real/file", "file link"),
        ("/etc/hostname", "absolute"),
        ("../../nowhere", "dangling"),
    ] {
        symlink(to, world.tree(name)).unwrap();
    }
    let config = format!(
        "[agent]\nstate_dir = {:?}\n[s3]\nendpoint_url = {:?}\n[[folder]]\nname = \"mine\"\npath = {:?}\n\
         to = \"s3://tide/p\"\nsymlinks = \"record\"\n",
        world.state(),
        world.endpoint.url(),
        world.tree(""),
    );
    let place = world.dir.path().join("config.toml");
    fs::write(&place, config).unwrap();
    let synced = ended(world.bare(["sync", "--config"]).arg(&place)).await;
    assert_eq!(synced.code, Some(0), "{}", synced.err);
    let before = tree(&world.tree(""));
    fs::remove_dir_all(world.tree("")).unwrap();

    // By its name, which the config knows, where the folder itself is gone.
    let mut command = world.bare(["restore", "mine", "--config"]);
    command.arg(&place).arg("--to").arg(back(&world));
    let done = ended(&mut command).await;
    assert_eq!(done.code, Some(0), "{}{}", done.out, done.err);
    assert_eq!(before, tree(&back(&world)));
    world.endpoint.reset_counts();
    let again = ended(&mut command).await;
    assert_eq!(again.code, Some(0), "{}{}", again.out, again.err);
    assert_eq!(world.endpoint.count("GetObject"), 0);
}

#[tokio::test]
async fn a_folder_is_found_by_what_the_state_knows_of_it() {
    let world = World::new().await;
    world.write("a", b"tide");
    world.sync_level().await;
    for from in [None, Some("tree"), Some(world.tree("").to_str().unwrap())] {
        let mut command = world.bare(["restore", "--state-dir"]);
        command.arg(world.state()).args(from);
        command.arg("--to").arg(back(&world));
        let done = ended(&mut command).await;
        assert_eq!(done.code, Some(0), "{from:?}: {}", done.err);
        assert_eq!(fs::read(back(&world).join("a")).unwrap(), b"tide");
    }
    let mut command = world.bare(["restore", "other", "--state-dir"]);
    command.arg(world.state()).arg("--to").arg(back(&world));
    let none = ended(&mut command).await;
    assert_eq!(none.code, Some(2), "{}", none.err);
    assert!(none.err.contains("`other`"), "{}", none.err);
    assert!(none.err.contains("s3://tide/p/"), "{}", none.err);
}

#[tokio::test]
async fn an_old_state_leads_no_url_to_another_server() {
    let world = World::new().await;
    world.write("a", b"of the old server");
    world.sync_level().await;
    let other = World::new().await;
    plant(&other, "p/a", b"of the new server", &[]).await;
    let mut command = world.bare(["restore", "s3://tide/p", "--state-dir"]);
    command.arg(world.state()).arg("--to").arg(back(&world));
    command.envs(other.endpoint.env());
    command.env("AWS_ENDPOINT_URL", other.endpoint.url());
    let done = ended(&mut command).await;
    assert_eq!(done.code, Some(0), "{}{}", done.out, done.err);
    assert_eq!(
        fs::read(back(&world).join("a")).unwrap(),
        b"of the new server"
    );
}

#[tokio::test]
async fn only_what_is_named_comes_back() {
    let world = World::new().await;
    for name in ["a/b/c", "a/b/d", "a/bc", "a/x", "e"] {
        plant(&world, &format!("p/{name}"), name.as_bytes(), &[]).await;
    }
    let mut command = super::command(&world, &[]);
    command.args(["a/b", "./e", "a/b/c"]);
    let done = ended(&mut command).await;
    assert_eq!(done.code, Some(0), "{}{}", done.out, done.err);
    let files: Vec<_> = tree(&back(&world))
        .into_iter()
        .filter(|(_, held)| *held != Held::Folder)
        .map(|(name, _)| name)
        .collect();
    assert_eq!(files, [&b"a/b/c"[..], b"a/b/d", b"e"]);

    let mut command = super::command(&world, &[]);
    let none = ended(command.args(["a/x", "a/none", "b"])).await;
    assert_eq!(none.code, Some(2), "{}", none.err);
    let said = complaints(&none);
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(
        said[0].ends_with("there is nothing at `a/none`"),
        "{said:?}"
    );
    assert!(!back(&world).join("a/x").exists());
}

#[tokio::test]
async fn what_other_tools_stored_is_held_against_what_the_bucket_knows() {
    let world = World::new().await;
    plant(
        &world,
        "p/old",
        b"by another tool",
        &[("mtime", "1764000000.5")],
    )
    .await;
    plant(&world, "p/timeless", b"without a time", &[]).await;
    plant(&world, "p/empty/", b"", &[]).await;
    let done = restore(&world, &["--json"]).await;
    assert_eq!(done.code, Some(0), "{}{}", done.out, done.err);
    let (events, summary) = told(&done);
    let restored = |path: &str| ("restored".to_owned(), path.to_owned());
    assert_eq!(events, ["empty", "old", "timeless"].map(restored));
    assert_eq!(summary["without_time"], 1, "{summary}");
    let verified = &summary["verified"];
    assert_eq!(verified["size"], 0, "{summary}");
    let by_the_store = verified["md5"].as_u64().unwrap() + verified["crc64"].as_u64().unwrap();
    assert_eq!(by_the_store, 2, "{summary}");
    let Held::File(_, mode, seconds, nanoseconds) = tree(&back(&world))[&b"old"[..]] else {
        panic!("a file comes back as one");
    };
    assert_eq!((seconds, nanoseconds), (1_764_000_000, 500_000_000));
    assert_eq!(mode & 0o600, 0o600);
    assert_eq!(names(&back(&world)), [&b"empty"[..], b"old", b"timeless"]);
    // The second run proves them equal by what the store knows, without a time to go by.
    world.endpoint.reset_counts();
    let again = restore(&world, &[]).await;
    assert_eq!(again.code, Some(0), "{}{}", again.out, again.err);
    assert_eq!(world.endpoint.count("GetObject"), 0);
}

#[tokio::test]
async fn a_dry_run_writes_nothing_and_says_what_would_come_back() {
    let world = World::new().await;
    plant(&world, "p/a", b"hello", &[]).await;
    plant(&world, "p/b/c", b"hello, tide", &[]).await;
    let done = restore(&world, &["--dry-run"]).await;
    assert_eq!(done.code, Some(0), "{}{}", done.out, done.err);
    let (lines, closing) = done.out.trim_end().rsplit_once('\n').unwrap();
    assert_eq!(lines, "would restore a (5 B)\nwould restore b/c (11 B)");
    assert!(
        closing.starts_with("done: 2 would be restored"),
        "{closing}"
    );
    assert!(!back(&world).exists());
    assert_eq!(world.endpoint.count("GetObject"), 0);
}
