//! Rows and listing: what is missing, changed, extra, not level; what it costs, and how it ends.

use std::fs;

use rustix::process::Signal;
use tidewatch::base::clock::Clock;
use tidewatch::manifest::{Change, Manifest};

use crate::process::{World, complaints, end_of, ended, send};
use crate::support::endpoint::Fault;
use crate::verify::{command, lose, put, row, said, verify};

#[tokio::test]
async fn nothing_differs_after_a_sync_and_a_listing_is_all_that_it_costs() {
    let world = World::new().await;
    for name in ["a", "a.b", "a-b", "a0/x", "b/c/d", "é/ü", "empty"] {
        world.write(name, if name == "empty" { "" } else { name });
    }
    // Names whose keys are escaped, and do not come where their paths do.
    for name in [&b"a\x01b"[..], b"z\xffz", "m\u{201b}m".as_bytes()] {
        world.write_bytes(name, name);
    }
    world.sync_level().await;
    world.endpoint.reset_counts();
    let said = said(&world, &[]).await;
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(said.lines, Vec::<String>::new());
    assert_eq!(said.count("compared"), 10);
    assert_eq!(said.summary["level"], true);
    let requests = world.endpoint.requests();
    let names: Vec<_> = requests.iter().map(|seen| seen.operation).collect();
    assert_eq!(names, ["ListObjectsV2"]);

    let ended = verify(&world, &[]).await;
    assert_eq!((ended.code, &*ended.err), (Some(0), ""), "{}", ended.out);
    assert!(
        ended
            .out
            .starts_with("all there: nothing differs; 10 objects compared in "),
        "{}",
        ended.out
    );
}

#[tokio::test]
async fn each_difference_is_named_for_what_it_is() {
    let world = World::new().await;
    for name in [
        "a",
        "gone early",
        "same size",
        "other size",
        "z",
        "kept",
        "kept too",
    ] {
        world.write(name, name);
    }
    world.write_bytes(b"odd\x01", "odd");
    world.write_bytes(b"odd\x02", "odd too");
    world.sync_level().await;
    // Under `keep` their objects stay, and are known.
    for name in ["kept", "kept too"] {
        fs::remove_file(world.tree(name)).unwrap();
    }
    world.sync_level().await;
    assert_eq!(said(&world, &[]).await.lines, Vec::<String>::new());

    lose(&world, "gone early").await;
    lose(&world, "kept too").await;
    lose(&world, "odd\u{201b}01").await;
    put(&world, "same size", "SAME SIZE").await;
    put(&world, "other size", "longer than it was").await;
    put(&world, "odd\u{201b}02", "other").await;
    put(&world, "aaa extra", "nobody knows").await;
    put(&world, "zzz/extra", "nobody knows").await;
    put(&world, "folder/", "").await;
    put(&world, ".tidewatch/trash/x/y", "our own").await;
    let said = said(&world, &[]).await;
    assert_eq!(said.code, Some(3), "{said:?}");
    assert_eq!(
        said.lines,
        [
            "changed odd\u{2}",
            "changed other size",
            "changed same size",
            "extra aaa extra",
            "extra folder/",
            "extra zzz/extra",
            "missing gone early",
            "missing kept too",
            "missing odd\u{1}",
        ]
    );
    let keys: Vec<_> = said
        .all
        .iter()
        .map(|line| line["key"].as_str().unwrap())
        .collect();
    assert!(keys.contains(&"p/odd\u{201b}01"), "{keys:?}");
    assert!(said.all.iter().all(|line| line["folder"] == "tree"));
    for (field, count) in [
        ("missing", 3),
        ("changed", 3),
        ("extra", 3),
        ("not_level", 0),
    ] {
        assert_eq!(said.count(field), count, "{field}");
    }
    let ended = verify(&world, &[]).await;
    let has = |line: &str| ended.out.lines().any(|other| other == line);
    assert!(
        has(
            "changed     other size  (somebody else wrote this object: it has 18 bytes, and had 10)"
        ),
        "{}",
        ended.out
    );
    assert!(
        has("missing     gone early  (the bucket has no such object)"),
        "{}",
        ended.out
    );
    assert!(ended.err.contains("--repair"), "{}", ended.err);
}

#[tokio::test]
async fn what_was_never_sent_is_not_level_and_says_why() {
    let world = World::new().await;
    world.write("good", "good");
    world.write("bad", "bad");
    world.endpoint.script(|seen| {
        let is_bad = seen.operation == "PutObject" && seen.key == "p/bad";
        is_bad.then_some(Fault::Error(400, "InvalidRequest"))
    });
    assert_eq!(world.sync(&[]).await.code, Some(1));
    let said = said(&world, &[]).await;
    assert_eq!(
        (said.code, &*said.lines),
        (Some(3), &["not_level bad".to_owned()][..])
    );
    let why = said.all[0]["error"].as_str().unwrap();
    assert!(why.contains("InvalidRequest"), "{why}");
    world.endpoint.clear();
    assert_eq!(world.sync(&["--retry-failed"]).await.code, Some(0));
    assert_eq!(verify(&world, &[]).await.code, Some(0));
}

#[tokio::test]
async fn several_pages_are_compared_each_with_its_rows() {
    let world = World::new().await;
    for number in 0..1_300 {
        world.write(format!("{}/{number:05}", number % 7), format!("{number}"));
    }
    world.sync_level().await;
    let clean = said(&world, &[]).await;
    assert_eq!(
        (clean.code, clean.count("compared")),
        (Some(0), 1_300),
        "{clean:?}"
    );
    assert_eq!(clean.lines, Vec::<String>::new());
    lose(&world, "0/00000").await;
    lose(&world, "6/01287").await;
    put(&world, "3/00500x", "extra").await;
    let said = said(&world, &[]).await;
    assert_eq!(
        said.lines,
        ["extra 3/00500x", "missing 0/00000", "missing 6/01287"],
        "{}",
        said.err
    );
}

#[tokio::test]
async fn a_store_that_lists_in_an_order_of_its_own_makes_no_difference() {
    let world = World::new().await;
    let names = ["a", "b", "c", "d", "e"];
    for name in names {
        world.write(name, name);
    }
    world.sync_level().await;
    let objects = world.endpoint.client().list_objects_v2();
    let objects = objects.bucket("tide").prefix("p/").send().await.unwrap();
    let etag = |name: &str| {
        let key = format!("p/{name}");
        let mut objects = objects.contents().iter();
        let found = objects.find(|object| object.key() == Some(&key)).unwrap();
        found.e_tag().unwrap().to_owned()
    };
    // `c` is not there, as far as the listing says, and `b` has another ETag.
    let listed = |name: &str| {
        let etag = if name == "b" {
            "\"0\"".to_owned()
        } else {
            etag(name)
        };
        format!(
            "<Contents><Key>p/{name}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>\
             <ETag>{etag}</ETag><Size>1</Size><StorageClass>STANDARD</StorageClass></Contents>"
        )
    };
    let contents: String = ["d", "a", "e", "b"].map(listed).concat();
    let body = format!(
        "<?xml version=\"1.0\"?><ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
         <Name>tide</Name><Prefix>p/</Prefix><KeyCount>4</KeyCount><MaxKeys>1000</MaxKeys>\
         <IsTruncated>false</IsTruncated>{contents}</ListBucketResult>"
    );
    world
        .endpoint
        .always("ListObjectsV2", Fault::Answer(200, body));
    let said = said(&world, &[]).await;
    // A listing alone makes no difference: the objects are there, and are looked at.
    assert_eq!((said.code, &*said.lines), (Some(0), &[][..]), "{said:?}");
    assert!(world.endpoint.count("HeadObject") > 0);
    lose(&world, "c").await;
    let said = self::said(&world, &[]).await;
    assert_eq!(said.lines, ["missing c"], "{said:?}");
}

#[tokio::test]
async fn a_bucket_that_cannot_be_asked_exits_5_and_nothing_is_said_of_files() {
    let world = World::new().await;
    world.write("a", "a");
    world.sync_level().await;
    let mut wrong = command(&world, &[]);
    wrong.env("AWS_SECRET_ACCESS_KEY", "wrong");
    let refused = command(&world, &["--endpoint-url", "http://127.0.0.1:1"]);
    for (case, mut command) in [("secret", wrong), ("refused", refused)] {
        let ended = ended(&mut command).await;
        assert_eq!(ended.code, Some(5), "{case}: {}", ended.err);
        let lines = complaints(&ended);
        assert_eq!(lines.len(), 1, "{case}: {}", ended.err);
        assert!(
            lines[0].starts_with("tidewatch: could not verify tree in s3://tide/p/: "),
            "{case}: {}",
            ended.err
        );
        assert!(
            ended.out.starts_with("not all was looked at: "),
            "{case}: {}",
            ended.out
        );
    }
}

#[tokio::test]
async fn one_object_that_cannot_be_looked_at_exits_1_and_the_others_go_on() {
    let world = World::new().await;
    for name in ["a", "b", "c"] {
        world.write(name, name);
    }
    world.sync_level().await;
    put(&world, "a", "other").await;
    put(&world, "b", "other").await;
    world.endpoint.script(|seen| {
        let is_it = seen.operation == "HeadObject" && seen.key == "p/a";
        is_it.then_some(Fault::Error(403, "AccessDenied"))
    });
    let said = said(&world, &[]).await;
    assert_eq!(said.code, Some(1), "{said:?}");
    assert_eq!(said.lines, ["changed b", "failed a"]);
    assert_eq!(said.summary["level"], false);
}

#[tokio::test]
async fn wrong_usage_exits_2_and_names_the_folders_that_there_are() {
    let world = World::new().await;
    let nothing = verify(&world, &[]).await;
    assert_eq!(nothing.code, Some(2), "{}", nothing.err);
    assert!(
        nothing.err.contains("nothing is synced from here yet"),
        "{}",
        nothing.err
    );
    world.write("a", "a");
    world.sync_level().await;
    let ended = verify(&world, &["fotos"]).await;
    assert_eq!(ended.code, Some(2), "{}", ended.err);
    assert!(
        ended.err.contains("could not find the folder `fotos`"),
        "{}",
        ended.err
    );
    assert!(ended.err.contains("s3://tide/p/"), "{}", ended.err);
    for folder in ["tree", world.tree("").to_str().unwrap(), "s3://tide/p"] {
        assert_eq!(verify(&world, &[folder]).await.code, Some(0), "{folder}");
    }
    // A config that nobody has named is left aside when it is broken, and that is said.
    let broken = world.dir.path().join(".config/tidewatch");
    fs::create_dir_all(&broken).unwrap();
    fs::write(broken.join("config.toml"), "bogus = 1\n").unwrap();
    let aside = verify(&world, &[]).await;
    assert_eq!(aside.code, Some(0), "{}", aside.err);
    assert!(
        aside.err.contains("the config is left aside: "),
        "{}",
        aside.err
    );
    fs::remove_file(broken.join("config.toml")).unwrap();
    for (more, named) in [
        (&["--sample", "5%"][..], "--local"),
        (&["--deep", "--sample", "0%"], "above 0%"),
        (&["--deep", "--sample", "5"], "such as 1%"),
        (&["--config", "nowhere.toml"], "nowhere.toml"),
    ] {
        let ended = verify(&world, more).await;
        assert_eq!(ended.code, Some(2), "{more:?}: {}", ended.err);
        assert!(ended.err.contains(named), "{more:?}: {}", ended.err);
    }
}

#[tokio::test]
async fn a_signal_ends_it_and_is_its_exit() {
    let world = World::new().await;
    world.write("a", "a");
    world.sync_level().await;
    world.endpoint.always("ListObjectsV2", Fault::Hang);
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        world.endpoint.reset_counts();
        let child = command(&world, &[]).spawn().unwrap();
        let has_asked =
            |endpoint: &crate::support::endpoint::Endpoint| endpoint.count("ListObjectsV2") > 0;
        world.endpoint.until("it lists", has_asked).await;
        send(&child, signal);
        let ended = end_of(child).await;
        assert_eq!(ended.code, Some(code), "{}", ended.err);
        assert!(
            ended.out.starts_with("not all was looked at: "),
            "{}",
            ended.out
        );
    }
}

#[tokio::test]
async fn a_row_whose_object_may_still_change_is_compared_once() {
    let world = World::new().await;
    world.write("a", "a");
    world.sync_level().await;
    let mut doubtful = row(&world, "a");
    doubtful.ambiguous_until_ns = Clock::Real.now().wall_ns + 3_600_000_000_000;
    let (manifest, _) = Manifest::open(&world.state(), Clock::Real.now().wall_ns).unwrap();
    let folder = manifest.folders().unwrap().remove(0).id;
    manifest.commit(folder, &[Change::Put(doubtful)]).unwrap();
    manifest.close();
    put(&world, "a", "other").await;
    let said = said(&world, &[]).await;
    assert_eq!(said.code, Some(3), "{said:?}");
    assert_eq!(said.lines, ["not_level a"]);
    assert_eq!(said.count("compared"), 1);
}
