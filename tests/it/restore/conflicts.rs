//! What is there and is something else: nothing of it is lost unless somebody says so.

use std::fs;
use std::os::unix::fs::symlink;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::process::World;
use crate::restore::{back, plant, restore, told, tree, write};

/// Makes a bucket, and a target with something in the way of nearly everything.
async fn world() -> World {
    let world = World::new().await;
    for name in [
        "equal", "file", "folder", "link", "new", "pipe", "under/a", "linked/b",
    ] {
        let bytes = format!("the bucket's {name}");
        plant(&world, &format!("p/{name}"), bytes.as_bytes(), &[]).await;
    }
    let back = back(&world);
    write(&back.join("equal"), b"the bucket's equal");
    write(&back.join("file"), b"mine, and longer than the bucket's");
    write(&back.join("folder/x"), b"mine");
    write(&back.join("under"), b"a file where a folder has to be");
    write(&world.dir.path().join("outside/keep"), b"mine");
    symlink("../outside/keep", back.join("link")).unwrap();
    symlink("../outside", back.join("linked")).unwrap();
    mknodat(CWD, back.join("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    world
}

fn of(what: &str, paths: &[&str]) -> Vec<(String, String)> {
    let pair = |path: &&str| (what.to_owned(), (*path).to_owned());
    paths.iter().map(pair).collect()
}

#[tokio::test]
async fn every_conflict_is_named_before_anything_is_written() {
    let world = world().await;
    let before = tree(world.dir.path());
    let ended = restore(&world, &["--json"]).await;
    assert_eq!(ended.code, Some(1), "{}", ended.err);
    assert!(ended.err.contains("nothing was written"), "{}", ended.err);
    let (events, summary) = told(&ended);
    let mut expected = of(
        "conflict",
        &["file", "folder", "link", "linked/b", "pipe", "under/a"],
    );
    expected.extend(of("equal", &["equal"]));
    assert_eq!(events, expected);
    assert_eq!(
        (&summary["done"], &summary["restored"]),
        (&false.into(), &0.into())
    );
    assert_eq!(before, tree(world.dir.path()));
    assert_eq!(world.endpoint.count("GetObject"), 0);
    // A person reads which, and why.
    let ended = restore(&world, &[]).await;
    assert!(
        ended
            .out
            .contains("conflict under/a: `under` is not a folder"),
        "{}",
        ended.out
    );
    assert!(
        ended.out.contains("conflict link: a link is there"),
        "{}",
        ended.out
    );
}

#[tokio::test]
async fn what_is_skipped_stays_and_the_rest_comes_back() {
    let world = world().await;
    let before = tree(world.dir.path());
    let ended = restore(&world, &["--json", "--on-conflict", "skip"]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    let (events, _) = told(&ended);
    let mut expected = of("equal", &["equal"]);
    expected.extend(of("restored", &["new"]));
    expected.extend(of(
        "skipped",
        &["file", "folder", "link", "linked/b", "pipe", "under/a"],
    ));
    assert_eq!(events, expected);
    let mut after = tree(world.dir.path());
    assert!(after.remove(&b"back/new"[..]).is_some());
    assert_eq!(before, after);
}

#[tokio::test]
async fn an_overwrite_replaces_files_and_links_but_no_folder_and_nothing_through_a_link() {
    let world = world().await;
    let before = tree(world.dir.path());
    let ended = restore(&world, &["--json", "--on-conflict", "overwrite"]).await;
    assert_eq!(ended.code, Some(1), "{}", ended.err);
    let (events, _) = told(&ended);
    let mut expected = of("conflict", &["folder", "linked/b", "pipe", "under/a"]);
    expected.extend(of("equal", &["equal"]));
    expected.extend(of("restored", &["file", "link", "new"]));
    assert_eq!(events, expected);
    let mut after = tree(world.dir.path());
    for name in ["file", "link", "new"] {
        let bytes = fs::read(back(&world).join(name)).unwrap();
        assert_eq!(bytes, format!("the bucket's {name}").into_bytes());
        after.remove(format!("back/{name}").as_bytes());
    }
    assert!(before.contains_key(&b"outside/keep"[..]));
    let kept: Vec<_> = before
        .into_iter()
        .filter(|(name, _)| !matches!(&name[..], b"back/file" | b"back/link"))
        .collect();
    assert_eq!(kept, after.into_iter().collect::<Vec<_>>());
}
