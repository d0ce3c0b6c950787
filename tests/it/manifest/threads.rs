//! Many threads on one manifest: every commit is seen whole or not at all, none is lost, and a close cuts none in two.
//!
//! Real threads, which a seed lets pause at other places each time. `TIDEWATCH_THREADS` says how many rounds there are.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use tidewatch::manifest::{ErrorKind, FolderId, Manifest, State};

use super::{NOW_NS, count, folder, path, puts, row};

/// Threads that write, each pairs of rows of its own.
const WRITERS: usize = 3;
/// Commits of each.
const COMMITS: usize = 12;

/// Lets the others go on, sometimes.
fn pause(random: &mut fastrand::Rng) {
    for _ in 0..random.u8(..4) {
        thread::yield_now();
    }
}

/// Writes the same word into both rows of a pair, again and again, until it is closed; returns the last word that was
/// committed.
fn write(manifest: &Manifest, folder: FolderId, me: usize, mut random: fastrand::Rng) -> usize {
    for number in 1..=COMMITS {
        let word = format!("{number}");
        let names = ["left", "right"].map(|side| format!("{me}/{side}"));
        let rows = names.map(|name| row(name, State::Synced, &word));
        pause(&mut random);
        match manifest.commit(folder, &puts(&rows)) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Closed => return number - 1,
            Err(error) => panic!("{error}"),
        }
    }
    COMMITS
}

/// Looks at all pairs until told to stop, or until it is closed: both rows are of one commit, and time does not run back.
fn look(
    manifest: &Manifest,
    folder: FolderId,
    stop: &AtomicBool,
    mut random: fastrand::Rng,
) -> usize {
    let (mut last, mut looks) = ([0; WRITERS], 0);
    while !stop.load(Ordering::Relaxed) {
        for (me, last) in last.iter_mut().enumerate() {
            let pair = ["left", "right"].map(|side| path(format!("{me}/{side}")));
            let found = match manifest.entries(folder, &pair) {
                Ok(found) => found,
                Err(error) if error.kind() == ErrorKind::Closed => return looks,
                Err(error) => panic!("{error}"),
            };
            let word = |place: usize| {
                let entry = found[place].as_ref()?;
                let etag = &entry.stored.as_ref().expect("it is synced").etag;
                Some(etag.trim_matches('"').parse::<usize>().expect("a number"))
            };
            assert_eq!(word(0), word(1), "half a commit is seen");
            let now = word(0).unwrap_or(0);
            assert!(now >= *last, "a commit that was seen is gone");
            *last = now;
            looks += 1;
            pause(&mut random);
        }
    }
    looks
}

fn round(seed: u64) {
    let dir = tempfile::tempdir().expect("a folder");
    let open = || Manifest::open(dir.path(), NOW_NS).expect("a manifest").0;
    let manifest = open();
    let folder = folder(&manifest);
    let mut random = fastrand::Rng::with_seed(seed);
    let closes = random.bool();
    let (stop, written) = (AtomicBool::new(false), AtomicUsize::new(0));
    let committed: Vec<usize> = thread::scope(|scope| {
        let (manifest, stop, written) = (&manifest, &stop, &written);
        let writers: Vec<_> = (0..WRITERS)
            .map(|me| {
                let random = random.fork();
                scope.spawn(move || {
                    let last = write(manifest, folder, me, random);
                    written.fetch_add(1, Ordering::Relaxed);
                    last
                })
            })
            .collect();
        let looking = [random.fork(), random.fork()]
            .map(|random| scope.spawn(move || look(manifest, folder, stop, random)));
        if closes {
            let mut random = random.fork();
            scope.spawn(move || {
                for _ in 0..random.u8(..100) {
                    thread::yield_now();
                }
                manifest.clone().close();
            });
        }
        let last = writers
            .into_iter()
            .map(|writer| writer.join().expect("it ends"));
        let last = last.collect();
        stop.store(true, Ordering::Relaxed);
        for looker in looking {
            looker.join().expect("it ends");
        }
        last
    });
    assert_eq!(written.into_inner(), WRITERS);
    drop(manifest);
    let again = open();
    for (me, last) in committed.into_iter().enumerate() {
        let found = again.entries(folder, &[path(format!("{me}/left"))]);
        let entry = found.expect("rows").remove(0);
        let etag = entry.map(|entry| entry.stored.expect("it is synced").etag);
        assert_eq!(
            etag,
            (last > 0).then(|| format!("\"{last}\"")),
            "seed {seed}"
        );
    }
}

#[test]
fn threads_see_whole_commits_and_a_close_cuts_none_in_two() {
    for seed in 0..count("TIDEWATCH_THREADS", 5) as u64 {
        round(seed);
    }
}
