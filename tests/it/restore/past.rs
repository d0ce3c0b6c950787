//! What was: a tree as it was at a moment, the versions of a path, and what becomes of a catalog that is damaged.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tidewatch::agent::Reason;
use tidewatch::base::path::RelPath;
use tidewatch::base::policy::{History, OnDelete};
use tidewatch::commands::history;
use tidewatch::commands::restore::past::{self, Found, Moment, Trouble};
use tidewatch::restore::wanted::Refused;
use tidewatch::store::key::KeyMap;
use tidewatch::store::{ErrorKind, Store};

use crate::agent::{Bench, path};
use crate::process::{Ended, World, ended};
use crate::restore::{back, command, config, restore};
use crate::support::faulty::{Fault, Odds};

/// What a folder held, by path.
type Files = BTreeMap<RelPath, Vec<u8>>;

fn files(bench: &Bench) -> Files {
    let files = bench.tree.files().into_iter();
    files
        .map(|(path, bytes)| (path, bytes.as_ref().clone()))
        .collect()
}

/// Makes one change: a new file, another content (now and then one that another file has), a rename, a removal.
fn edit(bench: &Bench, random: &mut fastrand::Rng) {
    let there: Vec<RelPath> = bench.tree.files().into_keys().collect();
    let some = |random: &mut fastrand::Rng| there[random.usize(..there.len())].clone();
    let content = |random: &mut fastrand::Rng| {
        // Of few contents, so that the same comes back and copies are made.
        let kind = random.u32(..60);
        format!("content {kind}").repeat(1 + kind as usize % 5)
    };
    let name = format!("{}/{}", random.u32(..4), random.u32(..40));
    match random.u32(..10) {
        _ if there.len() < 5 => bench.tree.write(&path(&name), content(random).as_bytes()),
        0..=2 => bench.tree.write(&path(&name), content(random).as_bytes()),
        3..=5 => bench.tree.write(&some(random), content(random).as_bytes()),
        6..=7 => {
            let to = path(&name);
            if !there.contains(&to) {
                bench.tree.rename(&some(random), &to);
            }
        }
        _ => bench.tree.remove(&some(random)),
    }
}

/// Looks for what there is at a moment, or now, through the bench's line.
async fn try_find(bench: &Bench, at_ns: Option<i64>) -> Result<Found, Trouble> {
    let store: Arc<dyn Store> = Arc::new(bench.store.clone());
    let deleted = false;
    past::find(&store, &KeyMap::new("p/"), &[], Moment { at_ns, deleted }).await
}

/// Returns what there is at a moment, or now.
async fn find(bench: &Bench, at_ns: Option<i64>) -> Found {
    try_find(bench, at_ns).await.expect("a tree")
}

/// Returns what there is now, by path, and what is refused.
async fn now(bench: &Bench) -> (Vec<String>, Vec<Refused>) {
    let listing = find(bench, None).await.listing;
    let paths = listing.wanted.iter().map(|wanted| wanted.path.to_string());
    (paths.collect(), listing.refused)
}

/// Returns the tree as it was then, as far as the bucket has it, and what is refused.
async fn at(bench: &Bench, at_ns: i64) -> (Files, Vec<String>) {
    let store: Arc<dyn Store> = Arc::new(bench.bucket.clone());
    let found = find(bench, Some(at_ns)).await;
    assert!(!found.is_damaged, "{:?}", found.notes);
    let mut files = Files::new();
    for wanted in found.listing.wanted {
        if wanted.is_bare_folder() {
            continue;
        }
        let got = store.get_of(&wanted.key, &wanted.which(), None).await;
        let (_, bytes) = got.expect("the content");
        files.insert(wanted.path, bytes.to_vec());
    }
    let refused = found.listing.refused.into_iter();
    (files, refused.map(|refused| refused.why).collect())
}

/// Edits a tree 200 times, and then looks back at ten moments.
async fn looks_back(bench: &Bench) {
    let mut random = fastrand::Rng::with_seed(7);
    let mut moments = Vec::new();
    for _ in 0..10 {
        for _ in 0..20 {
            edit(bench, &mut random);
        }
        let ended = bench.sync().await;
        assert_eq!(ended.reason, Reason::Finished);
        assert!(ended.last.level, "{:?}", ended.last);
        moments.push((bench.clock.now().wall_ns, files(bench)));
        tokio::time::advance(Duration::from_secs(3600)).await;
    }
    for (number, (at_ns, expected)) in moments.iter().enumerate() {
        let (found, refused) = at(bench, *at_ns).await;
        assert_eq!(refused, [""; 0], "moment {number}");
        assert_eq!(&found, expected, "moment {number}");
    }
    // And the changes were such that looking back means something.
    assert!(moments.windows(2).all(|pair| pair[0].1 != pair[1].1));
}

#[tokio::test(start_paused = true)]
async fn a_versioned_bucket_gives_back_what_the_disk_was_at_any_moment() {
    let mut bench = Bench::new(Odds::default());
    bench.bucket.keep_versions();
    bench.settings.on_delete = OnDelete::Delete;
    bench.settings.delete_brake = None;
    looks_back(&bench).await;
}

#[tokio::test(start_paused = true)]
async fn a_plain_bucket_with_history_in_trash_gives_back_what_the_disk_was_at_any_moment() {
    let mut bench = Bench::new(Odds::default());
    bench.settings.history = History::Trash;
    bench.settings.on_delete = OnDelete::Trash;
    bench.settings.delete_brake = None;
    looks_back(&bench).await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_had_any_more_is_named() {
    let bench = Bench::new(Odds::default());
    bench.tree.write(&path("a"), b"first");
    bench.tree.write(&path("b"), b"stays");
    assert!(bench.sync().await.last.level);
    let then_ns = bench.clock.now().wall_ns;
    tokio::time::advance(Duration::from_secs(60)).await;
    bench.tree.write(&path("a"), b"second");
    assert!(bench.sync().await.last.level);
    let (found, refused) = at(&bench, then_ns).await;
    assert_eq!(found.into_keys().collect::<Vec<_>>(), [path("b")]);
    assert_eq!(refused.len(), 1);
    assert!(refused[0].contains("`a`") && refused[0].contains("not in the bucket any more"));
}

async fn level(world: &World, config: &str) {
    let ended = ended(&mut world.bare(["sync", "--config", config])).await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
}

/// What the files of a folder that was restored hold, by name.
fn restored(world: &World) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(back(world)).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        found.push((name, fs::read_to_string(entry.path()).unwrap()));
    }
    found.sort();
    fs::remove_dir_all(back(world)).unwrap();
    found
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    let pair = |(a, b): &(&str, &str)| ((*a).to_owned(), (*b).to_owned());
    expected.iter().map(pair).collect()
}

#[tokio::test]
async fn a_file_is_followed_through_its_versions_and_names_and_brought_back_as_it_was() {
    let world = World::new().await;
    let config = config(&world, "history = \"trash\"\non_delete = \"trash\"");
    world.write("a", "one");
    level(&world, &config).await;
    let history = async |path: &str, more: &[&str]| -> Ended {
        let url = world.endpoint.url();
        let mut command = world.bare(["history", path, "--from", "s3://tide/p"]);
        ended(command.args(["--endpoint-url", &url]).args(more)).await
    };
    let stamp = |ended: &Ended, line: usize| -> String {
        let lines: Vec<Value> = ended
            .out
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        lines[line]["time"].as_str().unwrap().to_owned()
    };
    world.write("a", "two, which is longer");
    level(&world, &config).await;
    fs::rename(world.tree("a"), world.tree("b")).unwrap();
    level(&world, &config).await;
    fs::remove_file(world.tree("b")).unwrap();
    world.write("other", "other");
    level(&world, &config).await;

    let told = history("b", &["--json"]).await;
    assert_eq!(told.code, Some(0), "{}", told.err);
    let lines: Vec<Value> = told
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let shown: Vec<_> = lines
        .iter()
        .map(|line| {
            let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
            (
                text("path"),
                line["size"].as_u64(),
                text("ended"),
                text("kept"),
            )
        })
        .collect();
    let version = |path: &str, size, ended: &str| {
        (
            path.to_owned(),
            Some(size),
            ended.to_owned(),
            "trash".to_owned(),
        )
    };
    assert_eq!(
        shown,
        [
            version("a", 3, "replaced"),
            version("a", 20, "renamed"),
            version("b", 20, "removed"),
        ]
    );
    let text = history("b", &[]).await;
    assert!(text.out.starts_with("as a:\n"), "{}", text.out);
    assert!(text.out.contains("(trash)"), "{}", text.out);
    assert!(
        text.out.lines().all(|line| line.len() <= 80),
        "{}",
        text.out
    );

    // Each as it was when its version began.
    for (line, expected) in [
        (0, pairs(&[("a", "one")])),
        (1, pairs(&[("a", "two, which is longer")])),
    ] {
        let ended = restore(&world, &["--at", &stamp(&told, line)]).await;
        assert_eq!(ended.code, Some(0), "{}", ended.err);
        assert_eq!(restored(&world), expected, "{}", ended.err);
    }
    let ended = restore(&world, &[]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert_eq!(restored(&world), pairs(&[("other", "other")]));
    // One path alone, which is not there any more.
    let mut one = world.bare(["restore", "s3://tide/p", "a"]);
    one.args([
        "--endpoint-url",
        &world.endpoint.url(),
        "--at",
        &stamp(&told, 1),
    ]);
    let one = crate::process::ended(one.arg("--to").arg(back(&world))).await;
    assert_eq!(one.code, Some(0), "{}", one.err);
    assert_eq!(restored(&world), pairs(&[("a", "two, which is longer")]));

    let early = restore(&world, &["--at", "2020-01-01"]).await;
    assert_eq!(early.code, Some(2), "{}", early.err);
    assert!(early.err.contains("the catalog begins at"), "{}", early.err);
    let wrong = restore(&world, &["--at", "yesterday"]).await;
    assert_eq!(wrong.code, Some(2), "{}", wrong.err);
    assert!(!back(&world).exists());
    let never = history("never", &[]).await;
    assert_eq!(never.code, Some(2), "{}", never.err);
    assert!(never.err.contains("never had a file"), "{}", never.err);
}

#[tokio::test]
async fn the_history_of_a_path_of_this_machine_is_found_in_its_folder() {
    let world = World::new().await;
    let config = config(&world, "");
    world.write("deep/a", "one");
    level(&world, &config).await;
    for here in [world.tree("deep/a").to_str().unwrap(), "tree/deep/a"] {
        let told = ended(&mut world.bare(["history", here, "--config", &config])).await;
        assert_eq!(told.code, Some(0), "{here}: {}", told.err);
        assert_eq!(told.out.lines().count(), 1, "{}", told.out);
        assert!(told.out.ends_with("  present\n"), "{}", told.out);
    }
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_looked_at_is_not_called_lost() {
    let bench = Bench::new(Odds::default());
    bench.tree.write(&path("a"), b"one");
    bench.tree.write(&path("b"), b"two");
    assert!(bench.sync().await.last.level);
    for content in [&b"two"[..], b"three", b"four"] {
        tokio::time::advance(Duration::from_secs(60)).await;
        bench.tree.write(&path("a"), content);
        assert!(bench.sync().await.last.level);
    }
    let told = async || {
        let store: Arc<dyn Store> = Arc::new(bench.store.clone());
        let account = history::account(&store, KeyMap::new("p/"), path("a")).await;
        let account = account.expect("an account");
        let kept = account.versions.iter().map(|version| {
            let key = version.key.as_deref().unwrap_or("-");
            format!("{} {key}", version.kept)
        });
        (
            kept.collect::<Vec<_>>().join(", "),
            account.unknown.is_some(),
        )
    };
    // The second content is still there under another name.
    let all = "nowhere -, bucket p/b, nowhere -, bucket p/a".to_owned();
    assert_eq!(told().await, (all.clone(), false));
    for kind in [ErrorKind::NotFound, ErrorKind::Precondition] {
        bench.store.next("HeadObject", Fault::Refused(kind));
        assert_eq!(told().await, (all.clone(), false), "{kind}");
    }
    bench
        .store
        .next("HeadObject", Fault::Refused(ErrorKind::Denied));
    let expected = "unknown -, bucket p/b, nowhere -, bucket p/a".to_owned();
    assert_eq!(told().await, (expected, true));
    // What stands for everything is asked once.
    let heads = || bench.store.asked("HeadObject", "");
    let before = heads();
    bench
        .store
        .next("HeadObject", Fault::Refused(ErrorKind::Network));
    let expected = "unknown -, unknown -, unknown -, unknown -".to_owned();
    assert_eq!(told().await, (expected, true));
    assert_eq!(heads(), before + 1);
}

#[tokio::test]
async fn a_recorded_link_is_asked_for_by_its_own_name() {
    let world = World::new().await;
    let config = config(&world, "symlinks = \"record\"");
    world.write("a", "one");
    std::os::unix::fs::symlink("a", world.tree("link")).unwrap();
    level(&world, &config).await;
    let mut one = world.bare(["restore", "s3://tide/p", "link"]);
    one.args(["--endpoint-url", &world.endpoint.url()]);
    let told = ended(one.arg("--to").arg(back(&world))).await;
    assert_eq!(told.code, Some(0), "{}", told.err);
    let link = fs::read_link(back(&world).join("link")).unwrap();
    assert_eq!(link.to_str(), Some("a"));
    assert!(!back(&world).join("a").exists());
}

#[tokio::test]
async fn a_deleted_file_whose_object_is_kept_comes_back_only_if_asked_for() {
    let world = World::new().await;
    let config = config(&world, "");
    world.write("gone", "gone");
    world.write("stays", "stays");
    level(&world, &config).await;
    fs::remove_file(world.tree("gone")).unwrap();
    level(&world, &config).await;
    assert!(world.object("gone").is_some());

    let told = restore(&world, &[]).await;
    assert_eq!(told.code, Some(0), "{}", told.err);
    assert!(told.err.contains("--deleted brings them"), "{}", told.err);
    assert_eq!(restored(&world), pairs(&[("stays", "stays")]));
    assert_eq!(restore(&world, &["--deleted"]).await.code, Some(0));
    assert_eq!(
        restored(&world),
        pairs(&[("gone", "gone"), ("stays", "stays")])
    );
}

#[tokio::test]
async fn what_is_newer_than_the_catalog_comes_back_too() {
    let world = World::new().await;
    let config = config(&world, "");
    world.write("a", "one");
    world.write("b", "one too");
    level(&world, &config).await;
    // As if the machine had died before the catalog was written.
    let (key, bytes) = ("p/a", &b"two, of the last minute"[..]);
    crate::restore::plant(&world, key, bytes, &[]).await;
    crate::restore::plant(&world, "p/new", b"new", &[]).await;
    let ended = restore(&world, &[]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert!(
        ended
            .err
            .contains("1 of the objects are not in the catalog"),
        "{}",
        ended.err
    );
    assert_eq!(
        restored(&world),
        pairs(&[
            ("a", "two, of the last minute"),
            ("b", "one too"),
            ("new", "new")
        ])
    );
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_made_again_after_the_catalogs_last_word_comes_back() {
    let bench = Bench::new(Odds::default());
    for name in ["again", "gone", "stays"] {
        bench.tree.write(&path(name), b"old");
    }
    assert!(bench.sync().await.last.level);
    for name in ["again", "gone"] {
        bench.tree.remove(&path(name));
    }
    assert!(bench.sync().await.last.level);
    assert_eq!(now(&bench).await, (vec!["stays".to_owned()], Vec::new()));
    // As if the machine had died before the catalog was written.
    let before = bench.bucket.catalog();
    bench.bucket.plant("p/again", b"new");
    assert_eq!(now(&bench).await.0, ["again", "stays"]);
    bench.tree.write(&path("again"), b"newer");
    assert!(bench.sync().await.last.level);
    assert_eq!(now(&bench).await.0, ["again", "stays"]);
    // And as if that word of it could not be read.
    for (key, link) in bench.bucket.catalog() {
        if !before.contains_key(&key) {
            bench.bucket.plant(&key, &link.bytes[1..]);
        }
    }
    assert!(find(&bench, None).await.is_damaged);
    assert_eq!(now(&bench).await.0, ["again", "stays"]);
}

#[tokio::test(start_paused = true)]
async fn of_a_file_and_an_object_below_it_that_nobody_knows_the_newer_one_comes_back() {
    let bench = Bench::new(Odds::default());
    bench.bucket.set_clock(bench.clock);
    bench
        .bucket
        .plant("p/one/old", b"left from when `one` was a folder");
    tokio::time::sleep(Duration::from_secs(10)).await;
    for name in ["one", "two"] {
        bench.tree.write(&path(name), b"a file");
    }
    assert!(bench.sync().await.last.level);
    tokio::time::sleep(Duration::from_secs(10)).await;
    bench.bucket.plant("p/two/new", b"`two` is a folder by now");

    let (there, refused) = now(&bench).await;
    assert_eq!(there, ["one", "two/new"]);
    let refused: Vec<String> = refused.into_iter().map(|refused| refused.key).collect();
    assert_eq!(refused, ["p/one/old", "p/two"]);
}

#[tokio::test(start_paused = true)]
async fn a_kept_object_is_not_in_the_way_of_what_has_taken_its_place() {
    let bench = Bench::new(Odds::default());
    bench.tree.write(&path("file"), b"a file");
    bench
        .tree
        .write(&path("folder/in it"), b"a file in a folder");
    assert!(bench.sync().await.last.level);
    for name in ["file", "folder/in it", "folder"] {
        bench.tree.remove(&path(name));
    }
    bench.tree.write(&path("file/in it"), b"now it is a folder");
    bench.tree.write(&path("folder"), b"now it is a file");
    assert!(bench.sync().await.last.level);
    assert!(bench.object("file").is_some() && bench.object("folder/in it").is_some());
    let names = ["file/in it", "folder"].map(str::to_owned);
    assert_eq!(now(&bench).await, (names.to_vec(), Vec::new()));
}

#[tokio::test(start_paused = true)]
async fn what_is_gone_is_found_under_another_name_of_its_content() {
    let bench = Bench::new(Odds::default());
    for name in ["a", "b", "c"] {
        bench.tree.write(&path(name), b"the same");
    }
    assert!(bench.sync().await.last.level);
    for name in ["b", "c"] {
        bench.bucket.uproot(&format!("p/{name}"));
    }
    let found = find(&bench, None).await;
    assert_eq!(found.lost, []);
    let keys = found.listing.wanted.iter().map(|wanted| &*wanted.key);
    assert_eq!(keys.collect::<Vec<_>>(), ["p/a", "p/a", "p/a"]);
}

#[tokio::test(start_paused = true)]
async fn a_place_that_may_not_be_looked_at_ends_nothing() {
    let mut bench = Bench::new(Odds::default());
    bench.bucket.keep_versions();
    bench.settings.history = History::Trash;
    bench.tree.write(&path("a"), b"first");
    bench.tree.write(&path("b"), b"stays");
    assert!(bench.sync().await.last.level);
    let then_ns = bench.clock.now().wall_ns;
    tokio::time::advance(Duration::from_secs(60)).await;
    bench.tree.write(&path("a"), b"second");
    assert!(bench.sync().await.last.level);
    let sought = async |refused: &'static str, kind| {
        bench.store.rule(move |operation, key| {
            let is_it = operation == "HeadObject" && key.starts_with(refused);
            is_it.then_some(Fault::Refused(kind))
        });
        let found = try_find(&bench, Some(then_ns)).await?;
        assert_eq!((found.lost, found.listing.refused), (vec![], vec![]));
        Ok::<_, Trouble>(found.listing.wanted[0].key.clone())
    };
    // The version, then what was set aside, then neither: reading it will tell.
    let first = sought("nothing", ErrorKind::Denied).await.unwrap();
    assert_eq!(first, "p/a");
    let second = sought("p/a", ErrorKind::Denied).await.unwrap();
    assert!(second.starts_with("p/.tidewatch/trash/"), "{second}");
    let neither = sought("p/", ErrorKind::Denied).await.unwrap();
    assert_eq!(neither, "p/a");
    // But what stands for everything is not gone through again for each file.
    let ended = sought("p/a", ErrorKind::Network).await;
    assert!(matches!(ended, Err(Trouble::Store(_))), "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn a_link_that_cannot_be_looked_at_is_a_file_and_an_outage_is_an_error() {
    let bench = Bench::new(Odds::default());
    bench.bucket.plant("p/a", b"tide");
    bench.bucket.plant("p/link.rclonelink", b"a");
    for kind in [ErrorKind::NotFound, ErrorKind::Denied, ErrorKind::Invalid] {
        bench.store.next("HeadObject", Fault::Refused(kind));
        assert_eq!(now(&bench).await.0, ["a", "link.rclonelink"], "{kind}");
    }
    for kind in [ErrorKind::Network, ErrorKind::Busy, ErrorKind::Barred] {
        bench.store.next("HeadObject", Fault::Refused(kind));
        let ended = try_find(&bench, None).await;
        assert!(matches!(ended, Err(Trouble::Store(_))), "{kind}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_catalog_that_cannot_be_listed_is_never_passed_over_in_silence() {
    let bench = Bench::new(Odds::default());
    bench.bucket.plant("p/a", b"tide");
    let listing = async |fault| {
        // The objects, then the catalog.
        bench.store.next("ListObjectsV2", Fault::Fine);
        bench.store.next("ListObjectsV2", fault);
        try_find(&bench, None).await
    };
    let found = listing(Fault::Fine).await.unwrap();
    assert!(!found.is_damaged && found.notes.is_empty());
    let found = listing(Fault::Refused(ErrorKind::Denied)).await.unwrap();
    assert!(found.is_damaged && found.listing.wanted.len() == 1);
    assert!(found.notes[0].contains("every object is taken"));
    let ended = listing(Fault::Refused(ErrorKind::Network)).await;
    assert!(matches!(ended, Err(Trouble::Store(_))), "{ended:?}");
}

#[tokio::test]
async fn a_catalog_that_is_damaged_is_named_and_the_files_come_back() {
    let world = World::new().await;
    let config = config(&world, "");
    for number in 0..3 {
        world.write(format!("{number}"), format!("content {number}"));
        level(&world, &config).await;
    }
    let second = "p/.tidewatch/catalog/0000000002.jsonl.zst";
    let mut bytes = world.endpoint.object(second).expect("a link");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    crate::restore::plant(&world, second, &bytes, &[]).await;
    let mut command = command(&world, &[]);
    let told = ended(&mut command).await;
    assert_eq!(told.code, Some(3), "{}", told.err);
    assert!(told.err.contains("the catalog: link 2"), "{}", told.err);
    let expected = pairs(&[("0", "content 0"), ("1", "content 1"), ("2", "content 2")]);
    assert_eq!(restored(&world), expected);
}
