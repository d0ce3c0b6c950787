//! Beside a running agent: what it changes meanwhile is no difference.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::process::{World, eventually, send};
use crate::support::endpoint::{Endpoint, Fault};
use crate::verify::{lose, put, said, trash, verify};

#[tokio::test]
async fn what_a_running_agent_changes_meanwhile_is_never_a_difference() {
    let world = World::new().await;
    for number in 0..60 {
        world.write(
            format!("{}/{number}", number % 5),
            format!("before {number}"),
        );
    }
    let watch = ["--settle", "20ms", "--on-delete", "delete"];
    let child = world.command("watch", &watch).spawn().unwrap();
    eventually("all objects", || world.objects().len() == 60).await;
    let stop = Arc::new(AtomicBool::new(false));
    let (ends, root) = (stop.clone(), world.tree(""));
    let writer = std::thread::spawn(move || {
        let mut random = fastrand::Rng::with_seed(5);
        let mut rounds = 0_u64;
        // Fewer than a brake would hold.
        let mut removed = 0;
        while !ends.load(Ordering::Relaxed) {
            let path = root.join(format!("{}/{}", random.u8(..5), random.u8(..90)));
            if removed < 30 && random.u8(..10) == 0 {
                removed += u8::from(fs::remove_file(&path).is_ok());
            } else {
                fs::write(&path, format!("round {rounds}")).unwrap();
            }
            rounds += 1;
            // As fast as somebody works, and not so fast that nothing ever settles.
            std::thread::sleep(Duration::from_millis(15));
        }
    });
    for round in 0..2 {
        let before = world.endpoint.count("PutObject");
        let said = said(&world, &["--deep", "--local"]).await;
        assert!(matches!(said.code, Some(0 | 3)), "{said:?}");
        for line in &said.lines {
            let is_honest = line.starts_with("not_level ") || line.starts_with("gone ");
            assert!(is_honest, "round {round}: {said:?}");
        }
        let at_work = world.endpoint.count("PutObject") > before;
        assert!(at_work, "the agent was at work");
    }
    stop.store(true, Ordering::Relaxed);
    writer.join().unwrap();
    send(&child, rustix::process::Signal::TERM);
    crate::process::end_of(child).await;
    assert_eq!(world.sync(&["--on-delete", "delete"]).await.code, Some(0));
    let after = said(&world, &["--deep", "--local"]).await;
    assert_eq!((after.code, &*after.lines), (Some(0), &[][..]), "{after:?}");
}

#[tokio::test]
async fn a_listing_that_is_newer_than_the_rows_makes_no_difference() {
    let world = World::new().await;
    for name in ["a", "b", "c"] {
        world.write(name, name);
    }
    let watch = ["--settle", "20ms", "--on-delete", "delete"];
    let child = world.command("watch", &watch).spawn().unwrap();
    eventually("all objects", || world.objects().len() == 3).await;
    eventually("a level state", || is_level(&world)).await;
    // The rows are read before the listing is asked for; the longer it takes, the older they are. What is not done in
    // time only makes the test a lesser one.
    let later = Fault::Delay(Duration::from_secs(3));
    world.endpoint.fail_next("ListObjectsV2", 1, later);
    world.endpoint.reset_counts();
    let changing = async {
        let has_asked = |endpoint: &Endpoint| endpoint.count("ListObjectsV2") > 0;
        world.endpoint.until("it lists", has_asked).await;
        world.write("a", "changed meanwhile");
        world.write("ab", "new meanwhile");
        fs::remove_file(world.tree("c")).unwrap();
        eventually("the changes in the bucket", || {
            let objects = world.objects();
            objects
                .get("a")
                .is_some_and(|bytes| bytes == b"changed meanwhile")
                && objects.contains_key("ab")
                && !objects.contains_key("c")
        })
        .await;
    };
    let (said, ()) = tokio::join!(said(&world, &[]), changing);
    let is_honest = |line: &String| line.starts_with("not_level ");
    assert!(said.lines.iter().all(is_honest), "{said:?}");
    send(&child, rustix::process::Signal::TERM);
    assert_eq!(crate::process::end_of(child).await.code, Some(0));
}

fn is_level(world: &World) -> bool {
    let status = tidewatch::report::status_file::read(&world.state()).unwrap();
    status.is_some_and(|status| status.folders.iter().all(|folder| folder.level))
}

#[tokio::test]
async fn a_running_agent_sends_again_what_the_bucket_has_lost() {
    let world = World::new().await;
    for name in ["a", "b", "c"] {
        world.write(name, name);
    }
    let child = world
        .command("watch", &["--settle", "20ms"])
        .spawn()
        .unwrap();
    eventually("all objects", || world.objects().len() == 3).await;
    eventually("a level state", || is_level(&world)).await;
    lose(&world, "a").await;
    put(&world, "b", "somebody else's").await;
    let said = said(&world, &["--repair"]).await;
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(
        said.lines,
        ["changed b", "mended a", "mended b", "missing a"]
    );
    assert_eq!(world.object("a").unwrap(), b"a");
    assert_eq!(world.object("b").unwrap(), b"b");
    assert_eq!(
        trash(&world),
        [("b".to_owned(), b"somebody else's".to_vec())]
    );
    assert_eq!(verify(&world, &["--deep"]).await.code, Some(0));
    send(&child, rustix::process::Signal::TERM);
    assert_eq!(crate::process::end_of(child).await.code, Some(0));
}
