//! The limit of bandwidth, its change while everything runs, and documents that overtake, with the real program.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;
use tokio::process::Child;

use crate::process::{World, end_of, ended, eventually, send, told};
use crate::support::endpoint::Fault;

/// Writes a config with these lines in `[upload]`.
fn config(world: &World, upload: &str) -> PathBuf {
    let text = format!(
        "[agent]\nlisten = \"\"\nstate_dir = \"{}\"\n[s3]\nendpoint_url = \"{}\"\n[upload]\n{upload}\n\
         [[folder]]\npath = \"{}\"\nto = \"s3://tide/p\"\nsettle = \"100ms\"\n",
        world.state().display(),
        world.endpoint.url(),
        world.tree("").display(),
    );
    let place = world.dir.path().join("config.toml");
    fs::write(&place, text).unwrap();
    place
}

fn run(world: &World, upload: &str) -> Child {
    let place = config(world, upload);
    let mut command = world.bare(["run", "--config", place.to_str().unwrap()]);
    command.spawn().unwrap()
}

/// More than a minute's worth at the limit of these tests.
fn large() -> Vec<u8> {
    let mut bytes = vec![0; 6 << 20];
    fastrand::Rng::with_seed(1).fill(&mut bytes);
    bytes
}

#[tokio::test]
async fn a_new_bandwidth_is_used_at_once_after_a_reload() {
    let world = World::new().await;
    world.write("large", large());
    let mut child = run(&world, "bandwidth = \"8KiB/s\"");
    let began = |endpoint: &crate::support::endpoint::Endpoint| endpoint.count("PutObject") == 1;
    world.endpoint.until("the upload begins", began).await;
    // It would take twelve minutes, and has not sent a hundredth of it.
    assert!(world.endpoint.received() < 200 << 10);
    assert_eq!(world.object("large"), None);

    // A config with problems is reported, and changes nothing.
    config(&world, "bandwidth = \"0\"");
    send(&child, Signal::HUP);
    let said = told(&mut child, "what was read before stays in force").await;
    assert!(
        said.contains("config.toml:7: `bandwidth`: `0` would send nothing"),
        "{said}"
    );

    config(&world, "bandwidth = \"unlimited\"");
    send(&child, Signal::HUP);
    let said = told(&mut child, "the config has been read again").await;
    assert!(!said.contains("WARN"), "{said}");
    eventually("the object", || world.object("large").is_some()).await;
    assert!(world.object("large").unwrap() == large());
    // It was on its way all the time, and not begun anew.
    assert_eq!(world.endpoint.count("PutObject"), 1);

    config(
        &world,
        "bandwidth = \"1MiB/s\"\nmemory = \"64MiB\"\nconcurrency = 3",
    );
    send(&child, Signal::HUP);
    let said = told(&mut child, "the config has been read again").await;
    assert!(!said.contains("WARN"), "{said}");
    send(&child, Signal::TERM);
    let ended = end_of(child).await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
}

#[tokio::test]
async fn watch_has_nothing_to_reload_and_goes_on() {
    let world = World::new().await;
    let mut child = world
        .command("watch", &["--settle", "100ms", "--bandwidth", "10MiB/s"])
        .spawn()
        .unwrap();
    told(&mut child, "watching ").await;
    send(&child, Signal::HUP);
    told(&mut child, "there is no config to read again").await;
    world.write("after", b"content");
    eventually("the object", || world.object("after").is_some()).await;
    send(&child, Signal::INT);
    assert_eq!(end_of(child).await.code, Some(0));
}

#[tokio::test]
async fn sync_keeps_to_its_limit() {
    let world = World::new().await;
    for n in 0..4_u8 {
        world.write(format!("{n}"), vec![n; 256 << 10]);
    }
    let began = tidewatch::base::clock::Clock::Real.now().mono;
    let ended = world.sync(&["--bandwidth", "512KiB/s"]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    // 1 MiB at half of that a second, of which an eighth of a second may come at once. A busy machine only takes longer.
    let took = tidewatch::base::clock::Clock::Real.now().mono - began;
    assert!(took > Duration::from_millis(1800), "{took:?}");
    assert_eq!(world.objects().len(), 4);
}

#[tokio::test]
async fn a_bandwidth_that_sends_nothing_is_refused() {
    let world = World::new().await;
    let ended = ended(&mut world.command("sync", &["--bandwidth", "0"])).await;
    assert_eq!(ended.code, Some(2), "{}", ended.err);
    assert!(ended.err.contains("`unlimited`"), "{}", ended.err);
    assert!(ended.err.contains("10MiB/s"), "{}", ended.err);
}

#[tokio::test]
async fn a_document_overtakes_large_files_on_the_wire() {
    let world = World::new().await;
    world.endpoint.latency(Duration::from_millis(50));
    for n in 0..3_u64 {
        let mut bytes = vec![0; 24 << 20];
        fastrand::Rng::with_seed(n).fill(&mut bytes);
        world.write(format!("bulk-{n}"), bytes);
    }
    let child = run(&world, "bandwidth = \"2MiB/s\"\nmemory = \"32MiB\"");
    let parts = |endpoint: &crate::support::endpoint::Endpoint| endpoint.count("UploadPart") >= 2;
    world.endpoint.until("parts are on their way", parts).await;
    world.write("document", b"saved just now");
    eventually("the document", || world.object("document").is_some()).await;
    // All parts would take 36 seconds; the first of them are still on their way.
    let requests = world.endpoint.requests();
    let place = requests.iter().position(|seen| seen.key == "p/document");
    let parts_before = requests[..place.expect("it came")]
        .iter()
        .filter(|seen| seen.operation == "UploadPart")
        .count();
    let completed = requests
        .iter()
        .filter(|seen| seen.operation == "CompleteMultipartUpload")
        .count();
    assert!(
        parts_before <= 6,
        "{parts_before} of 9 parts came before it"
    );
    assert_eq!(completed, 0, "the large files were there before it");
    // The rest of the bulk does not matter.
    world.endpoint.always("UploadPart", Fault::Reset);
    drop(child);
}
