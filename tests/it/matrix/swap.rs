//! Row 64: links that are swapped in while files are opened. `TIDEWATCH_SWAPS` says how many opens, 100,000 by default.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use rustix::fs::{RenameFlags, renameat_with};
use tidewatch::base::path::RelPath;
use tidewatch::tree::real::RealTree;
use tidewatch::tree::{ReadError, Tree};

use crate::matrix::{count, note};
use crate::watching::table::row;

/// Lets two names in a folder change places for as long as `goes_on`; returns how often they did.
fn swapping(
    folder: fs::File,
    one: &'static str,
    two: &'static str,
    goes_on: &Arc<AtomicBool>,
) -> JoinHandle<u64> {
    let goes_on = goes_on.clone();
    thread::spawn(move || {
        let mut swaps = 0;
        while goes_on.load(Ordering::Relaxed) {
            renameat_with(&folder, one, &folder, two, RenameFlags::EXCHANGE).unwrap();
            swaps += 1;
        }
        swaps
    })
}

#[test]
fn r64_no_open_is_led_outside_by_links_that_are_swapped_in() {
    let _row = row!();
    let dir = tempfile::tempdir().unwrap();
    let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
    for (at, content) in [
        (root.join("a/b/f"), "inside"),
        (outside.join("b/f"), "outside"),
    ] {
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        fs::write(at, content).unwrap();
    }
    fs::write(outside.join("f"), "outside").unwrap();
    // A folder at the top, one in between and the file itself: each takes turns with a link that leads outside.
    symlink(&outside, root.join("link-a")).unwrap();
    symlink("../../outside/b", root.join("a/link-b")).unwrap();
    symlink(outside.join("f"), root.join("a/b/link-f")).unwrap();
    let goes_on = Arc::new(AtomicBool::new(true));
    let places = [
        (".", "a", "link-a"),
        ("a", "b", "link-b"),
        ("a/b", "f", "link-f"),
    ];
    // Opened before anything moves, so that each pair is swapped wherever it is.
    let folders = places.map(|(at, ..)| fs::File::open(root.join(at)).unwrap());
    let swaps: Vec<_> = folders
        .into_iter()
        .zip(places)
        .map(|(folder, (_, one, two))| swapping(folder, one, two, &goes_on))
        .collect();
    let tree = RealTree::open(&root);
    let path = RelPath::new(b"a/b/f").unwrap();
    let opens = count("TIDEWATCH_SWAPS", 100_000);
    let (mut read, mut refused) = (0_u64, 0_u64);
    for _ in 0..opens {
        match tree.open(&path) {
            Ok(file) => {
                let mut bytes = [0; 16];
                let len = file.read_at(0, &mut bytes).unwrap();
                assert_eq!(&bytes[..len], b"inside");
                read += 1;
            }
            // Not there, or no file: looked at again, and never read.
            Err(ReadError::Gone | ReadError::Kind(_)) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    goes_on.store(false, Ordering::Relaxed);
    let swaps: u64 = swaps.into_iter().map(|one| one.join().unwrap()).sum();
    assert!(
        read > 0 && refused > 0 && swaps > 0,
        "{read} {refused} {swaps}"
    );
    note(
        "symlinks swapped under us",
        &format!("{opens} opens, {swaps} swaps, 0 escapes"),
    );
}
