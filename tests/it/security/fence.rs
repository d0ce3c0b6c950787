//! S1 to S4, S6 and S14 to S17: nothing outside the fence is read, written or removed, whoever makes names and links.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use tidewatch::agent;
use tidewatch::base::path::RelPath;
use tidewatch::base::policy::OnDelete;
use tidewatch::base::snapshot::What;
use tidewatch::base::stat::Kind;
use tidewatch::tree::real::RealTree;
use tidewatch::tree::{Hint, ReadError, Touch, Tree, hints};
use tokio::time::{sleep, timeout};

use crate::agent::{Bench, path};
use crate::process::{World, ended};
use crate::support::faulty::Odds;
use crate::watching::place::{Mounted, Place, text};
use crate::watching::rig::{Rig, With, write};
use crate::watching::table::row;

const NOBODY: u32 = 65_534;

#[test]
fn s01_a_file_is_opened_beneath_the_root_and_through_no_link() {
    let _row = row!();
    let dir = tempfile::tempdir().unwrap();
    let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
    write(&root.join("a/file"), "inside");
    write(&outside.join("file"), "outside");
    for (link, to) in [
        ("folder", "../outside"),
        ("absolute", outside.to_str().unwrap()),
        ("file link", "../outside/file"),
        ("within", "a"),
        ("magic", "/proc/self/root"),
    ] {
        symlink(to, root.join(link)).unwrap();
    }
    let tree = RealTree::open(&root);
    let mut bytes = [0; 16];
    let file = tree.open(&path("a/file")).unwrap();
    assert_eq!(file.read_at(0, &mut bytes).unwrap(), 6);
    // Through a link that stays within it is not opened either: each file has one way to it.
    for at in [
        "folder/file",
        "absolute/file",
        "file link",
        "within/file",
        "magic/etc/passwd",
    ] {
        let refused = tree.open(&path(at)).err();
        let is_refused = matches!(
            refused,
            Some(ReadError::Gone | ReadError::Kind(Kind::Symlink))
        );
        assert!(is_refused, "{at}: {refused:?}");
    }
    // A name that leads upwards cannot even be said.
    for name in ["../outside/file", "a/../../outside/file", "/etc/passwd"] {
        assert!(RelPath::new(name.as_bytes()).is_none(), "{name}");
    }
}

#[test]
fn s02_a_hard_link_to_a_file_of_somebody_else_is_left_out_by_name_and_ones_own_are_not() {
    let mut row = row!();
    if !rustix::process::geteuid().is_root() {
        return row.could_not("needs root, who may give files away");
    }
    let mut rig = Rig::new(With::default());
    let planted = rig.outside("shadow");
    write(&planted, "of root alone");
    rig.write("theirs/honest", "their own");
    rig.write("roots/one", "of root, twice");
    for at in ["", "theirs", "theirs/honest"] {
        chown(rig.at(at), Some(NOBODY), Some(NOBODY)).unwrap();
    }
    chown(rig.at("roots"), Some(0), Some(0)).unwrap();
    fs::hard_link(&planted, rig.at("theirs/planted")).unwrap();
    fs::hard_link(rig.at("theirs/honest"), rig.at("theirs/again")).unwrap();
    fs::hard_link(rig.at("roots/one"), rig.at("roots/two")).unwrap();
    rig.with.trouble = true;
    rig.launch();
    for name in ["theirs/honest", "theirs/again", "roots/one", "roots/two"] {
        rig.until(name, |rig| rig.object(name).is_some());
    }
    rig.until("word of it", |rig| {
        let skipped = rig.happened(What::Skipped);
        skipped
            .iter()
            .any(|one| one.path.as_bytes() == b"theirs/planted")
    });
    assert_eq!(rig.object("theirs/planted"), None);
}

#[test]
fn s03_what_could_block_is_not_opened_and_what_is_too_large_not_read() {
    let _row = row!();
    let dir = tempfile::tempdir().unwrap();
    let mode = Mode::from_raw_mode(0o600);
    mknodat(CWD, dir.path().join("fifo"), FileType::Fifo, mode, 0).unwrap();
    let tree = RealTree::open(dir.path());
    // Nobody writes to it: an open that waits would wait for ever.
    let refused = tree.open(&path("fifo")).err();
    assert!(matches!(refused, Some(ReadError::Kind(Kind::Special))));

    let mut rig = Rig::new(With {
        max_size: Some(1 << 20),
        ..With::default()
    });
    fs::File::create(rig.at("sparse"))
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    rig.write("small", "small");
    rig.launch();
    rig.until("the small one", |rig| rig.object("small").is_some());
    rig.until("level", |rig| rig.snapshot().level);
    assert_eq!(rig.bucket.objects().len(), 1);
    assert!(rig.counts().bytes_in < 1 << 20);
}

#[test]
fn s04_a_mount_inside_is_crossed_and_takes_nothing_along_when_it_goes() {
    let mut row = row!();
    if !row.inside(Place::Mounts) {
        return;
    }
    let mut rig = Rig::new(With {
        extras: true,
        ..With::default()
    });
    fs::create_dir(rig.at("mount")).unwrap();
    let mounted = Mounted::new(&["-t", "tmpfs", "none", text(&rig.at("mount"))]);
    rig.write("mount/file", "on the mount");
    rig.start();
    rig.level();
    assert_eq!(rig.object("mount/file").unwrap(), b"on the mount");
    rig.with.trouble = true;
    mounted.lazily();
    rig.write("beside", "beside it");
    rig.until("the rest goes on", |rig| rig.object("beside").is_some());
    assert_eq!(rig.deletes(), 0);
    assert!(rig.object("mount/file").is_some());
}

#[tokio::test(start_paused = true)]
async fn s06_hints_beyond_the_bound_are_one_loss_and_a_storm_is_few_uploads() {
    let _row = row!();
    let (sender, mut receiver) = hints(16);
    for n in 0..10_000 {
        sender.send(Hint::Touched {
            path: path(&format!("f{n}")),
            touch: Touch::Data,
        });
    }
    let mut got = 0;
    let mut lost = 0;
    while let Ok(Some(hint)) = timeout(Duration::from_secs(1), receiver.recv()).await {
        got += 1;
        lost += usize::from(hint == Hint::Lost);
    }
    assert!(got <= 17 && lost == 1, "{got} hints, {lost} losses");

    let bench = Bench::new(Odds::default());
    let mut agent = bench.start(agent::Mode::Forever);
    agent.level().await;
    bench.bucket.reset_counts();
    for n in 0..5_000_u32 {
        bench.tree.write(&path("stormy"), &n.to_le_bytes());
        sleep(Duration::from_millis(1)).await;
    }
    sleep(Duration::from_secs(60)).await;
    agent.level().await;
    assert!(bench.bucket.counts().of("PutObject") <= 2);
    assert_eq!(bench.object("stormy").unwrap(), 4_999_u32.to_le_bytes());
    agent.stop().await;
}

#[tokio::test]
async fn s14_no_hostile_key_leads_out_of_the_folder_that_is_restored_to() {
    let _row = row!();
    let world = World::new().await;
    let to = world.dir.path().join("deep/inside");
    let hostile = [
        "../out",
        "../../outside",
        "a/../../../outside",
        "a//b",
        "./x",
        "‛2E‛2E/out",
        "‛00",
        "new\nline",
        "\u{1b}[2J",
    ];
    for key in hostile.into_iter().chain(["good/file"]) {
        let put = world.endpoint.client().put_object().bucket("tide");
        let put = put
            .key(format!("p/{key}"))
            .body(key.as_bytes().to_vec().into());
        put.send().await.unwrap();
    }
    let before: BTreeSet<_> = fs::read_dir(world.dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    let url = world.endpoint.url();
    let mut command = world.bare(["restore", "s3://tide/p", "--endpoint-url", &url, "--to"]);
    let ended = ended(command.arg(&to)).await;
    assert!(matches!(ended.code, Some(1 | 3)), "{}", ended.err);
    assert_eq!(fs::read(to.join("good/file")).unwrap(), b"good/file");
    let mut after: BTreeSet<_> = fs::read_dir(world.dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    after.remove(std::ffi::OsStr::new("deep"));
    assert_eq!(before, after);
    let deep: Vec<_> = fs::read_dir(to.parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(deep, ["inside"]);
    assert!(!world.dir.path().parent().unwrap().join("outside").exists());
}

#[tokio::test]
async fn s16_the_policy_gives_no_right_to_destroy_what_is_kept() {
    const NEVER: [&str; 8] = [
        "*",
        "s3:*",
        "s3:DeleteObjectVersion",
        "s3:PutBucket",
        "s3:DeleteBucket",
        "s3:PutLifecycleConfiguration",
        "s3:BypassGovernanceRetention",
        "s3:PutObjectLegalHold",
    ];
    let _row = row!();
    let world = World::new().await;
    let config = world.dir.path().join("config.toml");
    for on_delete in ["keep", "trash", "delete"] {
        let text = format!(
            "[agent]\nstate_dir = {:?}\n[[folder]]\npath = {:?}\nto = \"s3://tide/p\"\non_delete = {on_delete:?}\n",
            world.state(),
            world.tree(""),
        );
        fs::write(&config, text).unwrap();
        let args = ["policy", "--config", config.to_str().unwrap()];
        let ended = ended(&mut world.bare(args)).await;
        assert_eq!(ended.code, Some(0), "{}", ended.err);
        let policy: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
        let statements = policy["Statement"].as_array().unwrap();
        for statement in statements {
            let text = statement.to_string();
            for never in NEVER {
                let is_given = text.contains(&format!("\"{never}"));
                assert!(!is_given, "{on_delete}: {never} in {text}");
            }
            assert!(text.contains("arn:aws:s3:::tide"), "{text}");
        }
    }
    let readme = include_str!("../../../README.md");
    for word in ["Object Lock", "DeleteObjectVersion", "versioning"] {
        assert!(readme.contains(word), "the README does not say {word}");
    }
}

#[tokio::test(start_paused = true)]
async fn s17_a_mass_of_deletes_waits_by_default() {
    let _row = row!();
    // Nothing is set but that deletes are wanted at all.
    let mut bench = Bench::new(Odds::default());
    bench.settings.on_delete = OnDelete::Delete;
    for n in 0..200 {
        let content = format!("content {n}");
        bench
            .tree
            .write(&path(&format!("d{}/f{n}", n % 2)), content.as_bytes());
    }
    let mut agent = bench.start(agent::Mode::Forever);
    agent.level().await;
    bench.tree.remove(&path("d1"));
    sleep(Duration::from_secs(3600)).await;
    let now = agent.snapshots.borrow().clone();
    assert_eq!((now.held, bench.bucket.objects().len()), (100, 200));
    agent.stop().await;
}
