//! The commands that stay: `watch`, `run`, `demo`.

use std::fs;

use rustix::process::Signal;
use tidewatch::report::status_file;
use tokio::process::Child;

use crate::process::{Ear, World, end_of, ended, eventually, send};
use crate::support::endpoint::Fault;

/// Starts `watch` and waits until it says that it sees everything from now on.
async fn watching(world: &World, more: &[&str]) -> (Child, Ear) {
    let socket = world.dir.path().join("notify");
    let ear = Ear::at(&socket);
    let mut command = world.command("watch", more);
    let child = command.env("NOTIFY_SOCKET", &socket).spawn().unwrap();
    ear.hear("READY=1").await;
    (child, ear)
}

#[tokio::test]
async fn a_file_written_while_watched_is_in_the_bucket_soon() {
    let world = World::new().await;
    world.write("before", b"before");
    let (child, ear) = watching(&world, &["--settle", "100ms"]).await;
    world.write("new/folder/file", b"while watched");
    eventually("both objects", || world.objects().len() == 2).await;
    assert_eq!(world.object("new/folder/file").unwrap(), b"while watched");

    let is_level = || {
        let status = status_file::read(&world.state()).unwrap();
        status.is_some_and(|status| status.folders.iter().all(|folder| folder.level))
    };
    eventually("a level status", is_level).await;
    let status = status_file::read(&world.state()).unwrap().unwrap();
    assert_eq!(Some(status.pid), child.id());
    assert_eq!(status.folders[0].to, "s3://tide/p/");
    assert_eq!(status.folders[0].watch, "native");
    ear.hear("STATUS=level").await;

    send(&child, Signal::INT);
    ear.hear("STOPPING=1").await;
    let ended = end_of(child).await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert!(ended.err.contains("watching "), "{}", ended.err);
}

#[tokio::test]
async fn a_log_that_nobody_reads_any_more_ends_nothing() {
    let world = World::new().await;
    let (mut child, ear) = watching(&world, &["--settle", "100ms", "-v"]).await;
    drop((child.stdout.take(), child.stderr.take()));
    // A line of the log for each.
    for number in 0..3 {
        world.write(format!("{number}"), b"logged to nobody");
        eventually("the object", || world.objects().len() == number + 1).await;
    }
    assert_eq!(child.try_wait().unwrap(), None, "it goes on");
    send(&child, Signal::TERM);
    ear.hear("STOPPING=1").await;
    assert_eq!(end_of(child).await.code, Some(0));
}

#[tokio::test]
async fn files_in_new_nested_folders_are_never_missed() {
    const TREES: usize = 2_000;
    let world = World::new().await;
    // Nobody listens to the ear any more, which must not hold anything up.
    let (child, _ear) = watching(&world, &["--settle", "100ms"]).await;
    for number in 0..TREES {
        world.write(format!("{number}/a/b/c/file"), format!("content {number}"));
    }
    let count = || world.endpoint.count("PutObject");
    eventually("as many uploads as files", || count() >= TREES).await;
    eventually("all the objects", || world.endpoint.keys().len() == TREES).await;
    let objects = world.objects();
    for number in 0..TREES {
        let expected = format!("content {number}");
        assert_eq!(
            objects[&format!("{number}/a/b/c/file")],
            expected.as_bytes()
        );
    }
    send(&child, Signal::TERM);
    assert_eq!(end_of(child).await.code, Some(0));
}

#[tokio::test]
async fn a_guarded_folder_whose_bucket_cannot_be_asked_keeps_no_service_from_being_ready() {
    let world = World::new().await;
    world.write("a", b"a");
    let config = world.dir.path().join("config.toml");
    let text = format!(
        "[agent]\nlisten = \"\"\nstate_dir = {:?}\n[s3]\nendpoint_url = {:?}\n[[folder]]\npath = {:?}\nto = \"s3://tide/p\"\n\
         guard = \"strict\"\n",
        world.state(),
        world.endpoint.url(),
        world.tree(""),
    );
    fs::write(&config, text).unwrap();
    world.endpoint.meet_probes();
    world
        .endpoint
        .always("PutObject", Fault::Error(403, "AccessDenied"));
    let socket = world.dir.path().join("notify");
    let ear = Ear::at(&socket);
    let mut command = world.bare(["run", "--config", config.to_str().unwrap()]);
    let child = command.env("NOTIFY_SOCKET", &socket).spawn().unwrap();
    ear.hear("READY=1").await;
    let is_told = || {
        let status = status_file::read(&world.state()).unwrap();
        status.is_some_and(|status| {
            let trouble = status.folders[0].trouble.as_ref();
            trouble.is_some_and(|why| why.contains("holds to conditions"))
        })
    };
    eventually("a status that says why nothing is sent", is_told).await;
    assert_eq!(world.object("a"), None);
    send(&child, Signal::TERM);
    let ended = end_of(child).await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert!(ended.err.contains("holds to conditions"), "{}", ended.err);
}

#[tokio::test]
async fn run_goes_on_without_a_bucket() {
    let world = World::new().await;
    world.write("a", b"content");
    let text = format!(
        "[agent]\nlisten = \"\"\nstate_dir = {:?}\n[s3]\nendpoint_url = {:?}\n\
         [[folder]]\npath = {:?}\nto = \"s3://nosuch/a\"\n",
        world.state(),
        world.endpoint.url(),
        world.tree(""),
    );
    let config = world.dir.path().join("config.toml");
    fs::write(&config, text).unwrap();
    let child = world
        .bare(["run", "--config", config.to_str().unwrap()])
        .spawn();
    let child = child.unwrap();
    let has_trouble = || {
        let status = status_file::read(&world.state()).ok().flatten();
        status.is_some_and(|status| status.folders[0].trouble.is_some())
    };
    eventually("a status that tells of it", has_trouble).await;
    send(&child, Signal::TERM);
    let ended = end_of(child).await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert!(ended.err.contains("nosuch"), "{}", ended.err);
}

#[tokio::test]
async fn the_demo_is_level_and_shows_its_object() {
    let world = World::new().await;
    for _ in 0..2 {
        let ended = ended(&mut world.bare(["demo", "try", "--for", "5s"])).await;
        assert_eq!(ended.code, Some(0), "{}{}", ended.out, ended.err);
        assert!(ended.out.contains("hello.txt  "), "{}", ended.out);
        assert!(!ended.err.contains("ERROR"), "{}", ended.err);
        let object = world.dir.path().join("try/bucket/hello.txt");
        assert_eq!(fs::read(object).unwrap(), b"hello, tide\n");
    }
}
