//! `--local` and `--deep`: what the bytes are.

use std::fs;

use tidewatch::tree::real::RealTree;
use tidewatch::tree::{Lease, Tree as _};

use crate::process::{World, complaints};
use crate::support::endpoint::Fault;
use crate::verify::{damage, lose, path, rot, said, verify};

fn has_leases(world: &World, at: &str) -> bool {
    let tree = RealTree::open(&world.tree(""));
    let file = tree.open(&path(at)).unwrap();
    matches!(file.lease(), Lease::Held(_))
}

#[tokio::test]
async fn a_file_whose_bytes_alone_have_changed_is_rotten_and_its_object_stays() {
    let world = World::new().await;
    for name in ["good", "rotten", "touched", "gone"] {
        world.write(name, name);
    }
    world.sync_level().await;
    rot(&world, "rotten", b"rOtten");
    fs::write(world.tree("touched"), "touched again").unwrap();
    fs::remove_file(world.tree("gone")).unwrap();
    // Without leases nobody can tell so soon after a change that no writer is at work.
    let verdict = if has_leases(&world, "rotten") {
        "rotten"
    } else {
        "not_level"
    };
    assert_eq!(
        said(&world, &[]).await.code,
        Some(0),
        "the disk was not asked for"
    );
    let said = said(&world, &["--local"]).await;
    assert_eq!(said.code, Some(3), "{said:?}");
    let mut expected = vec![
        "gone gone".to_owned(),
        "not_level touched".to_owned(),
        format!("{verdict} rotten"),
    ];
    expected.sort();
    assert_eq!(said.lines, expected);
    assert_eq!(said.count("files_read"), 1 + u64::from(verdict == "rotten"));
    assert_eq!(world.object("rotten").unwrap(), b"rotten");

    let ended = verify(&world, &["--local"]).await;
    if verdict == "rotten" {
        assert!(
            ended.err.contains("tidewatch restore 'tree' PATH --to "),
            "{}",
            ended.err
        );
    }
    // Nothing that the agent sees tells it to read the file.
    fs::write(world.tree("touched"), "touched").unwrap();
    assert_eq!(world.sync(&[]).await.code, Some(0));
    assert_eq!(world.object("rotten").unwrap(), b"rotten");
}

#[tokio::test]
async fn a_file_that_cannot_be_read_exits_1() {
    let world = World::new().await;
    world.write("a", "a");
    world.sync_level().await;
    // Another folder stands in its place: nothing below it can be judged.
    fs::rename(world.tree(""), world.dir.path().join("elsewhere")).unwrap();
    fs::create_dir(world.tree("")).unwrap();
    let ended = verify(&world, &["--local"]).await;
    assert_eq!(ended.code, Some(1), "{}", ended.err);
    assert!(!ended.out.contains("gone"), "{}", ended.out);
    let lines = complaints(&ended);
    assert!(
        lines[0].contains("another folder is in its place"),
        "{lines:?}"
    );
    // The bucket is compared all the same.
    assert!(
        ended
            .out
            .starts_with("not all was looked at: nothing differs; 1 objects compared"),
        "{}",
        ended.out
    );
}

#[tokio::test]
async fn a_damaged_object_is_found_by_reading_it_and_by_nothing_else() {
    let world = World::new().await;
    // More than one range, and not a whole number of them.
    let large: Vec<u8> = (0..9_500_001_u32).map(|n| (n % 251) as u8).collect();
    world.write("large", &large);
    world.write("small", "small");
    world.write("empty", "");
    world.write("good", "good");
    world.sync_level().await;
    assert_eq!(said(&world, &["--deep"]).await.code, Some(0));
    damage(&world, "large");
    damage(&world, "small");
    let without = said(&world, &["--local"]).await;
    assert_eq!((without.code, without.count("objects_read")), (Some(0), 0));
    world.endpoint.reset_counts();
    let said = said(&world, &["--deep"]).await;
    assert_eq!(said.code, Some(3), "{said:?}");
    assert_eq!(said.lines, ["damaged large", "damaged small"]);
    assert_eq!(said.count("objects_read"), 4);
    assert!(said.count("bytes") > large.len() as u64);
    let requests = world.endpoint.requests();
    let ranges = requests.iter().filter(|seen| seen.key == "p/large");
    let ranges = ranges.filter(|seen| seen.headers.contains_key("range"));
    // Read twice, as damage is only said of what was read twice.
    assert_eq!(ranges.count(), 6);
}

#[tokio::test]
async fn an_object_that_is_missing_is_said_once_also_when_it_is_read() {
    let world = World::new().await;
    world.write("a", "a");
    world.write("b", "b");
    world.sync_level().await;
    lose(&world, "b").await;
    let said = said(&world, &["--deep", "--local"]).await;
    assert_eq!(
        (said.code, &*said.lines),
        (Some(3), &["missing b".to_owned()][..])
    );
}

#[tokio::test]
async fn a_sample_reads_as_many_files_as_it_says() {
    let world = World::new().await;
    for number in 0..40 {
        world.write(format!("{number}"), format!("{number}"));
    }
    world.sync_level().await;
    for (share, read) in [("10%", 4), ("1%", 1), ("100%", 40)] {
        let said = said(&world, &["--deep", "--local", "--sample", share]).await;
        assert_eq!(said.code, Some(0), "{said:?}");
        assert_eq!(said.count("objects_read"), read, "{share}");
        assert_eq!(said.count("files_read"), read, "{share}");
        assert_eq!(said.count("compared"), 40);
    }
}

#[tokio::test]
async fn an_object_that_is_shown_and_not_given_is_not_passed_over() {
    let world = World::new().await;
    for name in ["a", "b"] {
        world.write(name, name);
    }
    world.sync_level().await;
    world.endpoint.script(|seen| {
        let is_it = seen.operation == "GetObject" && seen.key == "p/a";
        is_it.then_some(Fault::Error(404, "NoSuchKey"))
    });
    let said = said(&world, &["--deep"]).await;
    assert_eq!(said.code, Some(1), "{said:?}");
    assert_eq!(said.lines, ["failed a"]);
    assert_eq!(said.count("objects_read"), 1);
}
