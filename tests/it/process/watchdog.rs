//! A watchdog that is fed by progress, under an ear that is the service manager's.

use std::fs;
use std::time::Duration;

use nix::sys::ptrace;
use nix::unistd::Pid;
use rustix::process::Signal;
use tidewatch::report::status_file;
use tokio::process::Child;

use crate::process::{Ear, World, end_of, eventually, send, told};
use crate::support::endpoint::Fault;

/// Starts `watch` with a watchdog that wants to be fed within `within`, and waits until it is ready.
async fn watched(world: &World, within: Duration) -> (Child, Ear) {
    let socket = world.dir.path().join("notify");
    let ear = Ear::at(&socket);
    let mut command = world.command("watch", &["--settle", "100ms"]);
    command
        .env("NOTIFY_SOCKET", &socket)
        .env("WATCHDOG_USEC", within.as_micros().to_string());
    let child = command.spawn().unwrap();
    ear.hear("READY=1").await;
    (child, ear)
}

/// Returns the thread in which the watcher takes the kernel's events.
fn watchers_thread(child: &Child) -> i32 {
    let tasks = fs::read_dir(format!("/proc/{}/task", child.id().unwrap())).unwrap();
    let is_it = |id: &i32| {
        let name = format!("/proc/{}/task/{id}/comm", child.id().unwrap());
        fs::read_to_string(name).is_ok_and(|name| name.starts_with("notify-rs"))
    };
    let ids = tasks.map(|task| task.unwrap().file_name().to_str().unwrap().parse().unwrap());
    let found: Vec<i32> = ids.filter(is_it).collect();
    assert_eq!(found.len(), 1, "one tree has one watcher");
    found[0]
}

#[tokio::test]
async fn a_watchdog_is_fed_while_everything_gets_on_and_through_a_known_outage() {
    let world = World::new().await;
    let (child, ear) = watched(&world, Duration::from_secs(4)).await;
    ear.hear("WATCHDOG=1").await;
    world.write("a", b"a");
    eventually("the object", || world.object("a").is_some()).await;
    // The marker belongs to nobody: what becomes of it is no trouble.
    fs::remove_file(world.state().join("pulse")).unwrap();
    ear.heard();
    let heard = ear.hear("WATCHDOG=1").await;
    assert!(
        !heard.iter().any(|said| said.contains("does not")),
        "{heard:?}"
    );

    world.endpoint.always("*", Fault::Reset);
    world.write("b", b"b");
    let is_out = || {
        let status = status_file::read(&world.state()).unwrap();
        status.is_some_and(|status| status.folders[0].outage_since.is_some())
    };
    eventually("an outage that is known", is_out).await;
    ear.heard();
    for _ in 0..2 {
        ear.hear("WATCHDOG=1").await;
    }
    world.endpoint.clear();
    send(&child, Signal::TERM);
    let ended = end_of(child).await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert!(
        !ended.err.contains("the watchdog is not fed"),
        "{}",
        ended.err
    );
}

#[tokio::test]
async fn a_watcher_that_went_deaf_does_not_feed_the_watchdog() {
    let world = World::new().await;
    let (mut child, ear) = watched(&world, Duration::from_secs(4)).await;
    ear.hear("WATCHDOG=1").await;
    let thread = watchers_thread(&child);
    // Who stops a thread has to be one itself, for as long as it stands.
    let (let_go, held) = std::sync::mpsc::sync_channel::<()>(0);
    let (stood, stands) = tokio::sync::oneshot::channel();
    let holder = std::thread::spawn(move || {
        let thread = Pid::from_raw(thread);
        ptrace::seize(thread, ptrace::Options::empty()).unwrap();
        ptrace::interrupt(thread).unwrap();
        nix::sys::wait::waitpid(thread, Some(nix::sys::wait::WaitPidFlag::__WALL)).unwrap();
        stood.send(()).unwrap();
        // An error means that the test has gone.
        let _ = held.recv();
        ptrace::detach(thread, None).unwrap();
    });
    stands.await.unwrap();
    let why = "its watcher does not tell of changes";
    told(&mut child, why).await;
    ear.heard();
    told(&mut child, why).await;
    told(&mut child, why).await;
    let heard = ear.heard();
    assert!(
        !heard.iter().any(|said| said.contains("WATCHDOG=1")),
        "{heard:?}"
    );
    let_go.send(()).unwrap();
    holder.join().unwrap();
    ear.hear("WATCHDOG=1").await;
    told(&mut child, "everything gets on again").await;
    // And it tells of what was written meanwhile.
    world.write("a", b"a");
    eventually("the object", || world.object("a").is_some()).await;
    send(&child, Signal::TERM);
    assert_eq!(end_of(child).await.code, Some(0));
}

#[tokio::test]
async fn a_state_folder_in_which_nothing_can_be_opened_does_not_feed_the_watchdog() {
    let world = World::new().await;
    let (mut child, ear) = watched(&world, Duration::from_secs(4)).await;
    ear.hear("WATCHDOG=1").await;
    let marker = world.state().join("pulse");
    fs::remove_file(&marker).unwrap();
    std::os::unix::fs::symlink("nowhere", &marker).unwrap();
    told(&mut child, "its watcher could not be tried").await;
    let heard = ear.hear("STATUS=").await;
    ear.heard();
    told(&mut child, "its watcher could not be tried").await;
    assert!(
        !ear.heard().iter().any(|said| said.contains("WATCHDOG=1")),
        "{heard:?}"
    );
    fs::remove_file(&marker).unwrap();
    ear.hear("WATCHDOG=1").await;
    send(&child, Signal::TERM);
    assert_eq!(end_of(child).await.code, Some(0));
}
