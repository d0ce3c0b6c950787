//! Rows 57 to 64: writers that truncate, append, replace, and stamps that lie.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use tidewatch::base::clock::Clock;
use tidewatch::base::snapshot::What;

use crate::watching::place::{Mounted, Place};
use crate::watching::rig::{Rig, With, ms, now, pace, scale};
use crate::watching::table::row;

#[test]
fn w57_an_empty_moment_is_not_the_last_word() {
    let _row = row!();
    let mut rig = Rig::started(With::default());
    rig.write("file", "before");
    rig.level();
    let mut file = fs::File::create(rig.at("file")).unwrap();
    pace(ms(200));
    file.write_all(b"after").unwrap();
    drop(file);
    rig.level();
    // Shrinks while it is read.
    let size = 64 << 20;
    let big = fs::File::create(rig.at("big")).unwrap();
    for length in (0..60_u64).map(|n| size - (n << 20)) {
        big.set_len(length).unwrap();
        pace(ms(10));
    }
    drop(big);
    rig.level();
    assert_eq!(rig.versions("file").pop().unwrap(), b"after");
    assert!(rig.happened(What::Failed).is_empty());
    rig.probe();
}

#[test]
fn w58_a_file_that_grows_for_ever_is_spaced_and_always_a_prefix() {
    let _row = row!();
    let mut rig = Rig::started(With {
        max_wait: ms(500),
        ..With::default()
    });
    let mut file = fs::OpenOptions::new();
    let mut file = file.create(true).append(true).open(rig.at("log")).unwrap();
    let until = now() + scale(ms(3_000), ms(20_000));
    let mut n = 0_u64;
    let mut named = 0;
    while now() < until {
        n += 1;
        writeln!(file, "line {n}").unwrap();
        let snapshot = rig.snapshot();
        named += u64::from(snapshot.queued_files + snapshot.unsyncable > 0);
        pace(ms(5));
    }
    let uploads = rig.versions("log").len();
    assert!(named > 0, "the status said nothing of it");
    assert!(uploads <= scale(8, 45), "{uploads} uploads");
    drop(file);
    rig.probe();
    let last = fs::read(rig.at("log")).unwrap();
    for version in rig.versions("log") {
        assert!(last.starts_with(&version));
    }
}

#[test]
fn w59_what_replaces_a_file_while_it_is_uploaded_is_not_taken_for_it() {
    let _row = row!();
    let mut rig = Rig::started(With {
        latency: ms(300),
        ..With::default()
    });
    for round in 0..scale(2, 5) {
        let (one, two) = (format!("first {round}"), format!("other {round}"));
        rig.write("file", &one);
        rig.until("it is on its way", |rig| rig.snapshot().queued_files > 0);
        pace(ms(200));
        rig.write("file.new", &two);
        fs::rename(rig.at("file.new"), rig.at("file")).unwrap();
        rig.level();
    }
    rig.probe();
}

#[test]
fn w60_what_two_writers_put_through_one_descriptor_is_both_there() {
    let _row = row!();
    let mut rig = Rig::started(With::default());
    let mut file = fs::File::create(rig.at("shared")).unwrap();
    let other = Command::new("sh")
        .args(["-c", "echo child 1; sleep 0.5; echo child 2"])
        .stdin(Stdio::null())
        .stdout(file.try_clone().unwrap())
        .spawn();
    let mut other = other.unwrap();
    pace(ms(200));
    file.write_all(b"parent\n").unwrap();
    drop(file);
    assert!(other.wait().unwrap().success());
    rig.probe();
    let content = String::from_utf8(rig.object("shared").unwrap()).unwrap();
    for line in ["child 1\n", "parent\n", "child 2\n"] {
        assert!(content.contains(line), "{content}");
    }
}

fn set_mtime(path: &std::path::Path, at: SystemTime) {
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_times(fs::FileTimes::new().set_modified(at))
        .unwrap();
}

#[test]
fn w61_the_same_size_with_its_mtime_put_back_is_found() {
    let _row = row!();
    let mut rig = Rig::new(With::default());
    rig.write("file", "aaaa");
    rig.start();
    rig.level();
    let was = fs::metadata(rig.at("file")).unwrap().modified().unwrap();
    // Once while nobody looks, and once while somebody does.
    rig.stop();
    rig.write("file", "bbbb");
    set_mtime(&rig.at("file"), was);
    rig.start();
    rig.level();
    rig.write("file", "cccc");
    set_mtime(&rig.at("file"), was);
    rig.probe();
    assert_eq!(rig.object("file").unwrap(), b"cccc");
}

#[test]
fn w62_two_writes_in_one_tick_end_with_the_last() {
    let mut row = row!();
    if !row.inside(Place::Mounts) {
        return;
    }
    let mut rig = Rig::new(With::default());
    let _mounted = Mounted::image(&rig.outside("image"), &rig.root, 128);
    fs::create_dir(rig.at("in")).unwrap();
    // Beside the tree on the same filesystem there is nothing; so the second name is one that is left out.
    rig.with.exclude = vec!["out/".into()];
    fs::create_dir(rig.at("out")).unwrap();
    rig.start();
    let mut same = 0;
    for round in 0..3 {
        let name = |n: usize| format!("{round}-{n}");
        // Early in a second, so that the second write is in the same one.
        while Clock::Real.now().wall_ns % 1_000_000_000 > 100_000_000 {
            pace(ms(5));
        }
        for n in 0..8 {
            fs::write(rig.at("in").join(name(n)), format!("first  {n}")).unwrap();
            fs::hard_link(rig.at("in").join(name(n)), rig.at("out").join(name(n))).unwrap();
        }
        rig.until("the first", |rig| {
            (0..8).all(|n| rig.object(&format!("in/{}", name(n))).is_some())
        });
        for n in 0..8 {
            let (file, link) = (rig.at("in").join(name(n)), rig.at("out").join(name(n)));
            let stamps = || {
                let stat = fs::metadata(&file).unwrap();
                (stat.mtime(), stat.ctime())
            };
            let before = stamps();
            // Through the other name, of which no event tells.
            fs::write(&link, format!("second {n}")).unwrap();
            if stamps() == before {
                same += 1;
            } else {
                // Only a scan would find that one.
                fs::write(&file, format!("second {n}")).unwrap();
            }
        }
    }
    assert!(same > 0, "no two writes met in one tick");
    rig.probe();
}

#[test]
fn w63_what_was_unlinked_and_made_again_has_its_new_content() {
    let _row = row!();
    let mut rig = Rig::started(With::default());
    for n in 0..100 {
        rig.write(format!("{n}"), format!("before {n}"));
    }
    rig.level();
    let mut same = 0;
    for n in 0..100 {
        let path = rig.at(format!("{n}"));
        let was = fs::metadata(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, format!("behind {n}")).unwrap();
        set_mtime(&path, was.modified().unwrap());
        same += usize::from(fs::metadata(&path).unwrap().ino() == was.ino());
    }
    rig.probe();
    assert_eq!(
        rig.object("7").unwrap(),
        b"behind 7",
        "{same} had the same inode"
    );
}

#[test]
fn w64_times_in_the_future_do_not_make_a_loop() {
    let _row = row!();
    // As if the machine's clock had been set back: all stamps are from the future.
    let real = Clock::Real.now();
    let mut rig = Rig::started(With {
        clock: Clock::Virtual {
            since: real.mono,
            wall_ns: real.wall_ns - 3_600_000_000_000,
        },
        rescan: ms(1_000),
        ..With::default()
    });
    rig.write("now", "content of now");
    rig.write("later", "content of later");
    set_mtime(
        &rig.at("later"),
        SystemTime::now() + Duration::from_secs(3_600),
    );
    rig.level();
    // Several rescans, because the row says that nothing comes of them.
    pace(ms(4_000));
    for path in ["now", "later"] {
        assert_eq!(rig.versions(path).len(), 1, "{path}");
    }
    rig.probe();
}
