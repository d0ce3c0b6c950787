//! One read of one file, beside a writer.

use std::fs::{self, File};
use std::io::{Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Signal, getpid, getuid, kill_process};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
use tempfile::TempDir;
use tidewatch::base::buffers::Pool;
use tidewatch::base::clock::Clock;
use tidewatch::base::path::RelPath;
use tidewatch::tree::real::RealTree;
use tidewatch::tree::{Lease, ReadError, Reading, Tree, Whole, read_whole};

use crate::reads::bench::{Restless, is_of_one_piece, open_to_write, path, say};
use crate::support::mapping::Mapping;

/// The size of a file that is rewritten as a whole: large enough to be met half written.
const SIZE: usize = 4 << 20;

/// Up to here a file is read as a whole.
const LIMIT: u64 = 16 << 20;

struct Place {
    _dir: TempDir,
    root: PathBuf,
    tree: RealTree,
    buffers: Pool,
}

impl Place {
    fn new() -> Self {
        Self::within(&std::env::temp_dir())
    }

    fn within(parent: &Path) -> Self {
        let dir = tempfile::tempdir_in(parent).unwrap();
        let root = dir.path().canonicalize().unwrap();
        Self {
            _dir: dir,
            tree: RealTree::open(&root),
            root,
            buffers: Pool::new(64 << 20),
        }
    }

    fn file(&self, bytes: &[u8]) -> PathBuf {
        let at = self.root.join("f");
        File::create(&at).unwrap().write_all(bytes).unwrap();
        at
    }

    fn read(&self) -> Result<Whole, ReadError> {
        read_whole(&self.tree, &path("f"), LIMIT, &self.buffers, Clock::Real)
    }

    /// Says so and returns false where there are no leases: what is tested is then that nothing is claimed.
    fn has_leases(&self) -> bool {
        self.file(b"x");
        let file = self.tree.open(&path("f")).unwrap();
        let has = matches!(file.lease(), Lease::Held(_));
        if !has {
            say(&format!("not run: no leases below {}", self.root.display()));
        }
        has
    }

    /// Reads as often as it can while `writer` writes; returns how many reads were completed.
    fn race(&self, writer: Restless) -> u32 {
        let until = now() + Duration::from_secs(2);
        let mut completed = 0;
        while now() < until {
            match self.read() {
                Ok(whole) => {
                    assert!(!whole.doubtful && whole.bytes.len() == SIZE);
                    assert!(is_of_one_piece(&whole.bytes), "a torn read was believed");
                    completed += 1;
                }
                Err(ReadError::Moving) => thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        }
        writer.stop();
        assert!(is_of_one_piece(&self.read().unwrap().bytes));
        completed
    }
}

fn now() -> Instant {
    Clock::Real.now().mono.into_std()
}

fn is_moving<T>(read: &Result<T, ReadError>) -> bool {
    matches!(read, Err(ReadError::Moving))
}

/// WATCHING 46.
#[test]
fn w46_a_file_that_is_rewritten_by_one_write_is_never_read_torn() {
    for parent in [std::env::temp_dir(), PathBuf::from("/dev/shm")] {
        if !parent.is_dir() {
            continue;
        }
        let place = Place::within(&parent);
        if !place.has_leases() {
            continue;
        }
        let at = place.file(&vec![1; SIZE]);
        let writer = Restless::new(move |byte| {
            open_to_write(&at).write_all(&vec![byte; SIZE]).unwrap();
        });
        let completed = place.race(writer);
        say(&format!(
            "{completed} reads completed below {}",
            parent.display()
        ));
    }
}

/// WATCHING 47.
#[test]
fn w47_a_file_that_is_rewritten_through_a_mapping_is_never_read_torn() {
    for parent in [std::env::temp_dir(), PathBuf::from("/dev/shm")] {
        if !parent.is_dir() {
            continue;
        }
        let place = Place::within(&parent);
        if !place.has_leases() {
            continue;
        }
        let at = place.file(&vec![1; SIZE]);
        let writer = Restless::new(move |byte| {
            let file = File::options().read(true).write(true).open(&at).unwrap();
            let mut mapping = Mapping::new(&file, SIZE);
            drop(file);
            mapping.fill(byte);
        });
        let completed = place.race(writer);
        say(&format!(
            "{completed} reads completed below {}",
            parent.display()
        ));
    }
}

/// WATCHING 48, the kernel's part: there is no lease on what is not ours.
#[test]
fn w48_a_file_of_another_user_is_read_without_a_lease_and_in_doubt() {
    let read = thread::spawn(|| {
        let place = Place::new();
        let at = place.file(b"theirs");
        if getuid().is_root() {
            // Only this thread: it does not own the file, and has not the right to lease it.
            std::os::unix::fs::chown(&at, Some(12_345), None).unwrap();
            let have = capabilities(None).unwrap();
            let fewer = CapabilitySets {
                effective: have.effective - CapabilitySet::LEASE,
                ..have
            };
            set_capabilities(None, fewer).unwrap();
            let whole = place.read().unwrap();
            set_capabilities(None, have).unwrap();
            return Some((whole, place.tree.reads()));
        }
        say("not run: only root can make a file that is not ours");
        None
    });
    if let Some((whole, counts)) = read.join().unwrap() {
        assert!(whole.doubtful, "young, and not under a lease");
        assert_eq!(&whole.bytes[..], b"theirs");
        assert_eq!((counts.unavailable, counts.refused), (1, 0));
    }
}

/// WATCHING 50.
#[test]
fn w50_a_writer_that_opens_what_we_read_waits_for_one_piece_and_voids_our_read() {
    let place = Place::new();
    if !place.has_leases() {
        return;
    }
    let at = place.file(&vec![1; SIZE]);
    let mut shortest = Duration::MAX;
    // How long a thread waits for a processor on a busy machine is not ours: the best of some tries counts.
    for _ in 0..20 {
        let file = place.tree.open(&path("f")).unwrap();
        let reading = Reading::begin(&*file, Clock::Real.now().wall_ns).unwrap();
        let (began, beginning) = mpsc::sync_channel(1);
        let at = at.clone();
        let writer = thread::spawn(move || {
            began.send(()).unwrap();
            let before = now();
            drop(open_to_write(at));
            now() - before
        });
        beginning.recv().unwrap();
        let mut buffer = place.buffers.take(SIZE);
        let deadline = now() + Duration::from_secs(30);
        while reading.fill(0, &mut buffer).is_ok() {
            assert!(now() < deadline, "the lease is never broken");
        }
        assert!(is_moving(&reading.end()), "a read is void once broken");
        shortest = shortest.min(writer.join().unwrap());
    }
    assert!(shortest < Duration::from_millis(100), "{shortest:?}");
    assert_eq!(place.tree.reads().broken, 20);
}

/// WATCHING 51.
#[test]
fn w51_a_process_that_is_told_of_a_broken_lease_lives() {
    let place = Place::new();
    kill_process(getpid(), Signal::IO).unwrap();
    place.file(b"x");
    assert_eq!(&place.read().unwrap().bytes[..], b"x");
}

/// WATCHING 53, one read: no lease, no claim, and nothing is left in the writer's way.
#[test]
fn w53_a_file_that_is_mapped_for_writing_is_not_read_until_it_is_unmapped() {
    for parent in [std::env::temp_dir(), PathBuf::from("/dev/shm")] {
        if !parent.is_dir() {
            continue;
        }
        let place = Place::within(&parent);
        if !place.has_leases() {
            continue;
        }
        let at = place.file(&vec![1; SIZE]);
        let file = File::options().read(true).write(true).open(&at).unwrap();
        let mut mapping = Mapping::new(&file, SIZE);
        drop(file);
        mapping.fill(2);
        assert!(is_moving(&place.read()));
        drop(mapping);
        let whole = place.read().unwrap();
        assert!(whole.bytes.iter().all(|byte| *byte == 2) && !whole.doubtful);
        assert_eq!(place.tree.reads().refused, 1);
    }
}

/// WATCHING 57, the second half.
#[test]
fn w57_a_file_that_is_cut_off_while_it_is_read_is_moving() {
    let place = Place::new();
    let at = place.file(&vec![1; SIZE]);
    let file = place.tree.open(&path("f")).unwrap();
    let reading = Reading::begin(&*file, Clock::Real.now().wall_ns).unwrap();
    let mut buffer = place.buffers.take(SIZE);
    let cutter = thread::spawn(move || File::create(at).map(drop));
    let deadline = now() + Duration::from_secs(30);
    // Under a lease the cutter waits and the lease breaks; without one the file ends before it should.
    while reading.fill(0, &mut buffer).is_ok() {
        assert!(now() < deadline, "the cut is never noticed");
    }
    assert!(is_moving(&reading.end()));
    cutter.join().unwrap().unwrap();
    assert_eq!(place.read().unwrap().bytes.len(), 0);
}

#[test]
fn two_readers_of_one_file_do_not_disturb_each_other() {
    let place = Place::new();
    if !place.has_leases() {
        return;
    }
    place.file(b"twice");
    fs::hard_link(place.root.join("f"), place.root.join("g")).unwrap();
    let open = |name: &str| place.tree.open(&RelPath::new(name.as_bytes()).unwrap());
    let (one, other) = (open("f").unwrap(), open("g").unwrap());
    let at_ns = Clock::Real.now().wall_ns;
    let first = Reading::begin(&*one, at_ns).unwrap();
    let second = Reading::begin(&*other, at_ns).unwrap();
    assert!(!first.end().unwrap());
    // Somebody who writes under either name is seen under both.
    drop(second);
    let writer = open_to_write(place.root.join("g"));
    assert!(is_moving(&Reading::begin(&*one, at_ns).map(drop)));
    drop(writer);
    assert!(Reading::begin(&*one, at_ns).is_ok());
}

#[test]
fn a_lease_leaves_no_trace_on_the_file() {
    let place = Place::new();
    let at = place.file(b"as it was");
    place.read().unwrap();
    let before = fs::metadata(&at).unwrap();
    // Nothing is in the way of the next writer, also of one that does not wait.
    let mut writer = open_to_write(&at);
    writer.rewind().unwrap();
    assert_eq!(
        before.modified().unwrap(),
        fs::metadata(&at).unwrap().modified().unwrap()
    );
}
