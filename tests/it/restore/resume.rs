//! A large file that was fetched in part goes on where it stopped, and only with the same content.

use std::fs;
use std::path::PathBuf;

use rustix::process::Signal;

use crate::process::{Ended, World, end_of, eventually, send};
use crate::restore::{back, command, names, plant, restore, told};
use crate::support::endpoint::{Fault, Seen};

const MIB: usize = 1 << 20;

/// Bytes of the file: eight ranges.
const SIZE: usize = 64 * MIB;

/// How much of it arrives before nothing more does: five ranges, more than 60 %.
const ARRIVES: usize = 40 * MIB;

/// Makes a content that is nowhere the same.
fn content(seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; SIZE];
    random.fill(&mut bytes);
    bytes
}

/// Returns the first and the last byte that a request asks for.
fn asked(seen: &Seen) -> Option<(usize, usize)> {
    let (first, last) = seen
        .headers
        .get("range")?
        .strip_prefix("bytes=")?
        .split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?))
}

/// Returns how many bytes of content were asked for.
fn bytes_asked(world: &World) -> usize {
    let requests = world.endpoint.requests();
    let gets = requests.iter().filter(|seen| seen.operation == "GetObject");
    gets.map(|seen| asked(seen).map_or(SIZE, |(first, last)| last + 1 - first))
        .sum()
}

/// Returns the beginning that lies in the target.
fn beginning(world: &World) -> Option<PathBuf> {
    let name = fs::read_dir(back(world)).ok()?.find_map(|entry| {
        let path = entry.ok()?.path();
        let name = path
            .file_name()?
            .to_str()?
            .strip_prefix(".tidewatch-restore-")?;
        (name.len() == 32).then_some(path)
    })?;
    Some(name)
}

/// Begins a restore that comes as far as [`ARRIVES`], and ends it with `signal`.
async fn stopped(world: &World, signal: Signal) -> Ended {
    world.endpoint.script(|seen| {
        let is_late = asked(seen).is_some_and(|(first, _)| first >= ARRIVES);
        is_late.then_some(Fault::Hang)
    });
    let child = command(world, &["--json"]).spawn().unwrap();
    let has_come = || {
        let len = beginning(world).and_then(|path| fs::metadata(path).ok());
        len.is_some_and(|stat| stat.len() as usize >= ARRIVES)
    };
    eventually("a part of it is there", has_come).await;
    send(&child, signal);
    let ended = end_of(child).await;
    world.endpoint.clear();
    world.endpoint.reset_counts();
    assert_eq!(names(&back(world)).len(), 1, "only the beginning is there");
    ended
}

#[tokio::test]
async fn a_half_fetched_large_file_goes_on_where_it_stopped() {
    for signal in [Signal::KILL, Signal::TERM] {
        let world = World::new().await;
        let bytes = content(1);
        plant(&world, "p/large", &bytes, &[("mtime", "1.5")]).await;
        let ended = stopped(&world, signal).await;
        if signal == Signal::TERM {
            assert_eq!(ended.code, Some(143), "{}{}", ended.out, ended.err);
            let (events, summary) = told(&ended);
            assert_eq!((events.len(), &summary["restored"]), (0, &0.into()));
        }
        let done = restore(&world, &["--json"]).await;
        assert_eq!(done.code, Some(0), "{}{}", done.out, done.err);
        let (_, summary) = told(&done);
        assert_eq!(summary["restored"], 1, "{summary}");
        assert_eq!(summary["unverified"], 0, "{summary}");
        let again = bytes_asked(&world);
        assert!(again * 100 <= SIZE * 45, "{again} bytes were fetched again");
        assert!(fs::read(back(&world).join("large")).unwrap() == bytes);
        assert_eq!(names(&back(&world)), [b"large"]);
    }
}

#[tokio::test]
async fn a_beginning_of_another_content_is_not_gone_on_with() {
    let world = World::new().await;
    plant(&world, "p/large", &content(1), &[]).await;
    stopped(&world, Signal::KILL).await;
    let new = content(2);
    plant(&world, "p/large", &new, &[]).await;
    let done = restore(&world, &[]).await;
    assert_eq!(done.code, Some(0), "{}{}", done.out, done.err);
    assert_eq!(bytes_asked(&world), SIZE);
    assert!(fs::read(back(&world).join("large")).unwrap() == new);
    assert_eq!(names(&back(&world)), [b"large"]);
}

#[tokio::test]
async fn a_beginning_that_was_damaged_is_thrown_away_and_all_fetched_anew() {
    let world = World::new().await;
    let bytes = content(1);
    plant(&world, "p/large", &bytes, &[]).await;
    stopped(&world, Signal::KILL).await;
    // As a power cut leaves it: the length is there, and a part of the bytes never came.
    let beginning = beginning(&world).unwrap();
    let mut held = fs::read(&beginning).unwrap();
    let kept = held.len();
    held[10 * MIB..11 * MIB].fill(0);
    fs::write(&beginning, held).unwrap();
    let done = restore(&world, &["--json"]).await;
    assert_eq!(done.code, Some(0), "{}{}", done.out, done.err);
    let (_, summary) = told(&done);
    assert_eq!(
        (&summary["restored"], &summary["unverified"]),
        (&1.into(), &0.into())
    );
    assert_eq!(bytes_asked(&world), SIZE - kept + SIZE);
    assert!(fs::read(back(&world).join("large")).unwrap() == bytes);
    assert_eq!(names(&back(&world)), [b"large"]);
}

#[tokio::test]
async fn a_content_that_is_not_what_was_stored_leaves_no_beginning() {
    let world = World::new().await;
    let wrong = "0".repeat(64);
    let bytes = content(1);
    // The whole is there and only has to be checked, which it does not stand.
    plant(&world, "p/large", &bytes, &[("sha256", &wrong)]).await;
    stopped(&world, Signal::TERM).await;
    let done = restore(&world, &["--json"]).await;
    assert_eq!(done.code, Some(3), "{}{}", done.out, done.err);
    let (_, summary) = told(&done);
    assert_eq!(summary["unverified"], 1, "{summary}");
    assert!(names(&back(&world)).is_empty(), "nothing of it stays");
}

#[tokio::test]
async fn what_somebody_else_put_under_the_name_of_a_beginning_is_not_written_to() {
    let world = World::new().await;
    let bytes = content(1);
    plant(&world, "p/large", &bytes, &[]).await;
    stopped(&world, Signal::KILL).await;
    let (name, mine) = (beginning(&world).unwrap(), world.dir.path().join("mine"));
    fs::write(&mine, b"mine").unwrap();
    for link in [
        |to: &PathBuf, at: &PathBuf| std::os::unix::fs::symlink(to, at),
        |to: &PathBuf, at: &PathBuf| fs::hard_link(to, at),
    ] {
        let _ = fs::remove_dir_all(back(&world));
        fs::create_dir(back(&world)).unwrap();
        link(&mine, &name).unwrap();
        let done = restore(&world, &[]).await;
        assert_eq!(done.code, Some(0), "{}{}", done.out, done.err);
        assert_eq!(fs::read(&mine).unwrap(), b"mine");
        assert!(fs::read(back(&world).join("large")).unwrap() == bytes);
        assert_eq!(names(&back(&world)), [b"large"]);
    }
    // What cannot be removed is in nobody's way.
    let _ = fs::remove_dir_all(back(&world));
    fs::create_dir_all(name.join("mine")).unwrap();
    let done = restore(&world, &[]).await;
    assert_eq!(done.code, Some(0), "{}{}", done.out, done.err);
    assert!(fs::read(back(&world).join("large")).unwrap() == bytes);
    assert!(name.join("mine").is_dir());
}
