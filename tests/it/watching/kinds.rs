//! Rows 73 to 75, and 78 to 80: what is no regular file, swaps in the agent's way, sparse files, and noise.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::os::unix::net::UnixListener;
use std::thread;
use std::time::Duration;

use rustix::fs::{CWD, FileType, FlockOperation, Mode, flock, makedev, mknodat};
use tidewatch::base::snapshot::What;

use crate::watching::place::Place;
use crate::watching::quiet::Reads;
use crate::watching::rig::{Rig, With, ms, now, pace, scale, write};
use crate::watching::table::row;

fn fifo(path: &std::path::Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
}

#[test]
fn w73_what_is_no_file_is_counted_and_holds_nothing_up() {
    let mut row = row!();
    // A device can only be made by root; it is made where nobody else looks for devices.
    if rustix::process::geteuid().is_root() && !row.inside(Place::Mounts) {
        return;
    }
    let mut rig = Rig::new(With::default());
    let secret = rig.outside("secret");
    write(&secret.join("file"), "secret");
    let make = |rig: &Rig, to: &str| {
        let at = |name: &str| rig.at(to).join(name);
        fs::create_dir_all(rig.at(to)).unwrap();
        fifo(&at("fifo"));
        drop(UnixListener::bind(at("socket")).unwrap());
        symlink("nowhere", at("dangling")).unwrap();
        symlink("loop", at("loop")).unwrap();
        symlink(&secret, at("folder outside")).unwrap();
        symlink(secret.join("file"), at("file outside")).unwrap();
        symlink("..", at("up")).unwrap();
        if rustix::process::geteuid().is_root() {
            let mode = Mode::from_raw_mode(0o600);
            // The device of /dev/null, which harms nobody.
            mknodat(
                CWD,
                at("device"),
                FileType::CharacterDevice,
                mode,
                makedev(1, 3),
            )
            .unwrap();
        }
        rig.write(format!("{to}/file"), "an honest file");
    };
    make(&rig, "before");
    rig.start();
    make(&rig, "while watched");
    rig.probe();
    assert!(rig.happened(What::Skipped).len() >= 14);
    let history = rig.bucket.history();
    let mut contents = history.iter().filter_map(|(_, bytes)| bytes.as_ref());
    assert!(!contents.any(|bytes| *bytes == "secret"));
}

#[test]
fn w74_a_file_swapped_for_a_fifo_hangs_nobody() {
    let _row = row!();
    let mut rig = Rig::started(With {
        settle: ms(1),
        max_wait: ms(5),
        ..With::default()
    });
    let at = rig.at("swapped");
    for n in 0..scale(4_000, 10_000) {
        fs::write(&at, format!("{n}")).unwrap();
        fs::remove_file(&at).unwrap();
        fifo(&at);
        fs::remove_file(&at).unwrap();
    }
    rig.write("swapped", "the end");
    rig.probe();
}

#[test]
fn w75_a_folder_swapped_for_a_link_lets_nothing_in_from_outside() {
    let _row = row!();
    let mut rig = Rig::started(With {
        settle: ms(1),
        max_wait: ms(5),
        ..With::default()
    });
    let outside = rig.outside("outside");
    for n in 0..10 {
        write(&outside.join(format!("{n}")), "secret");
        rig.write(format!("swapped/{n}"), format!("honest {n}"));
    }
    rig.probe();
    let (at, aside) = (rig.at("swapped"), rig.outside("aside"));
    for n in 0..scale(4_000, 10_000) {
        fs::rename(&at, &aside).unwrap();
        symlink(&outside, &at).unwrap();
        fs::remove_file(&at).unwrap();
        fs::rename(&aside, &at).unwrap();
        if n % 20 == 0 {
            fs::write(at.join(format!("{}", n % 10)), format!("honest {n}")).unwrap();
        }
    }
    rig.probe();
    let history = rig.bucket.history();
    let mut contents = history.iter().filter_map(|(_, bytes)| bytes.as_ref());
    assert!(
        !contents.any(|bytes| *bytes == "secret"),
        "a byte from outside"
    );
}

#[test]
fn w78_a_sparse_file_is_sent_as_it_reads() {
    let _row = row!();
    let mut rig = Rig::started(With::default());
    // The bucket is in memory, so the full ten gigabytes are never sent to it.
    let size = scale(64_u64 << 20, 512 << 20);
    let mut file = fs::File::create(rig.at("sparse")).unwrap();
    file.set_len(size).unwrap();
    file.write_all(b"at its beginning").unwrap();
    drop(file);
    rig.until("its object", |rig| {
        rig.bucket
            .objects()
            .get("p/sparse")
            .is_some_and(|object| object.bytes.len() as u64 == size)
    });
    rig.probe();
}

#[test]
fn w78_a_sparse_file_beyond_the_limit_is_left_out_before_it_is_read() {
    let _row = row!();
    let rig = Rig::started(With {
        max_size: Some(1 << 30),
        ..With::default()
    });
    let mut file = fs::File::create(rig.at("sparse")).unwrap();
    file.set_len(10 << 30).unwrap();
    file.write_all(b"at its beginning").unwrap();
    drop(file);
    rig.write("beside", "it");
    rig.until("the file beside it", |rig| rig.object("beside").is_some());
    rig.until("the agent says so", |rig| {
        let snapshot = rig.snapshot();
        snapshot.level && snapshot.sent_bytes > 0
    });
    assert!(rig.object("sparse").is_none());
    assert_eq!(rig.snapshot().sent_bytes, 2);
}

#[test]
fn w79_metadata_alone_uploads_nothing_and_reads_nothing() {
    let _row = row!();
    let mut rig = Rig::started(With::default());
    for n in 0..10 {
        rig.write(format!("{n}"), format!("content {n}"));
    }
    rig.probe();
    // Longer than a second read that a first one may have ordered.
    rig.until_quiet(Duration::from_millis(2_500));
    let reads = Reads::of(&rig.root);
    let uploads = rig.bucket.history().len();
    for n in 0..10 {
        let path = rig.at(format!("{n}"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let stat = fs::metadata(&path).unwrap();
        let times = fs::FileTimes::new()
            .set_accessed(stat.accessed().unwrap())
            .set_modified(stat.modified().unwrap());
        // By a folder's own rights: opening the file to write would be another row.
        let file = fs::File::open(&path).unwrap();
        file.set_times(times).unwrap();
        drop(file);
        if rustix::process::geteuid().is_root() {
            chown(&path, Some(65_534), Some(65_534)).unwrap();
        }
    }
    rig.until_quiet(ms(1_000));
    // The bucket may be told of other metadata, but no content is sent again.
    assert_eq!(rig.bucket.history().len(), uploads, "{:?}", rig.counts());
    let seen = reads.seen();
    assert!(seen <= 10 * 2, "only the test's own opens: {seen}");
    rig.probe();
}

#[test]
fn w80_a_file_that_is_opened_and_not_written_is_not_uploaded() {
    let _row = row!();
    let mut rig = Rig::started(With::default());
    rig.write("file", "content");
    rig.probe();
    let uploads = rig.bucket.history().len();
    for _ in 0..10 {
        let file = fs::OpenOptions::new()
            .write(true)
            .open(rig.at("file"))
            .unwrap();
        flock(&file, FlockOperation::LockExclusive).unwrap();
        pace(ms(20));
        flock(&file, FlockOperation::Unlock).unwrap();
    }
    rig.until_quiet(ms(1_000));
    assert_eq!(rig.bucket.history().len(), uploads);
    rig.probe();
}

impl Rig {
    /// Waits until nothing has moved for so long: no hint, no request, nothing queued.
    pub fn until_quiet(&self, long: Duration) {
        let look = |rig: &Self| {
            let hints = rig.tap.hints.load(std::sync::atomic::Ordering::SeqCst);
            (hints, rig.counts().total(), rig.snapshot().queued_files)
        };
        let (mut before, mut since) = (look(self), now());
        let began = now();
        while now() - since < long {
            assert!(
                now() - began < crate::watching::rig::deadline(),
                "never quiet"
            );
            thread::sleep(ms(20));
            let seen = look(self);
            if seen != before {
                (before, since) = (seen, now());
            }
        }
    }
}
