//! Rows 81 to 85: silence when nothing happens, restarts, and a busy neighbour.

use std::cell::Cell;
use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::fs::inotify;

use crate::watching::child::Program;
use crate::watching::new_folders::disturb;
use crate::watching::place::has;
use crate::watching::rig::{Rig, With, ms, now, pace, scale};
use crate::watching::table::row;

/// Counts how often files of a tree are opened, by whom ever: what the kernel says, not the agent.
pub struct Reads(OwnedFd);

impl Reads {
    /// Begins to count for all folders that are there.
    pub fn of(root: &Path) -> Self {
        let all = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC);
        let all = all.unwrap();
        let mut folders = vec![root.to_path_buf()];
        while let Some(folder) = folders.pop() {
            inotify::add_watch(&all, &folder, inotify::WatchFlags::OPEN).unwrap();
            for entry in fs::read_dir(folder).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_dir() {
                    folders.push(entry.path());
                }
            }
        }
        let reads = Self(all);
        // What looking around has opened.
        reads.seen();
        reads
    }

    /// Returns how many files were opened since the last time.
    pub fn seen(&self) -> usize {
        let mut buffer = vec![MaybeUninit::uninit(); 65_536];
        let mut reader = inotify::Reader::new(&self.0, &mut buffer);
        let mut count = 0;
        while let Ok(event) = reader.next() {
            assert!(!event.events().contains(inotify::ReadFlags::QUEUE_OVERFLOW));
            let is_file = !event.events().contains(inotify::ReadFlags::ISDIR);
            count += usize::from(is_file && event.file_name().is_some());
        }
        count
    }
}

/// Counts how often one folder is opened, which a scan does.
pub struct Looks(OwnedFd, Cell<usize>);

impl Looks {
    pub fn at(folder: &Path) -> Self {
        let flags = inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC;
        let all = inotify::init(flags).unwrap();
        inotify::add_watch(&all, folder, inotify::WatchFlags::OPEN).unwrap();
        Self(all, Cell::new(0))
    }

    /// Returns how often since the beginning.
    pub fn seen(&self) -> usize {
        let mut buffer = vec![MaybeUninit::uninit(); 65_536];
        let mut reader = inotify::Reader::new(&self.0, &mut buffer);
        while let Ok(event) = reader.next() {
            // Without a name it is the folder itself.
            self.1
                .set(self.1.get() + usize::from(event.file_name().is_none()));
        }
        self.1.get()
    }
}

/// No row of the list: what the scans of an idle folder are worth to whoever reads the status.
#[test]
fn the_last_scan_is_told_also_when_it_found_nothing() {
    let rig = Rig::started(With {
        rescan: ms(500),
        ..With::default()
    });
    let first = rig.snapshot().last_scan_ns;
    rig.until("a later scan is told", |rig| {
        rig.snapshot().last_scan_ns > first.map(|at| at + 2_000_000_000)
    });
}

#[test]
fn w81_our_own_reading_tells_us_nothing() {
    let _row = row!();
    let mut rig = Rig::new(With::default());
    let files = scale(2_000, 15_000);
    for n in 0..files {
        rig.write(format!("{}/{n}", n % 50), format!("content {n}"));
    }
    // Past the time in which a stamp could still be shared with a later write.
    pace(ms(2_500));
    let reads = Reads::of(&rig.root);
    rig.start();
    let seen = reads.seen();
    assert_eq!(rig.tap.hints.load(Ordering::SeqCst), 0);
    assert_eq!(seen, files, "each is read once");
    rig.level();
    rig.probe();
}

#[test]
fn w82_an_idle_tree_costs_nothing() {
    let mut row = row!();
    let mut program = Program::new();
    for n in 0..200 {
        fs::create_dir(program.at(n.to_string())).unwrap();
        fs::write(program.at(format!("{n}/file")), n.to_string()).unwrap();
    }
    program.start();
    program.level();
    program.until("a level status", Program::is_level);
    if !has("strace") {
        return row.could_not("needs strace");
    }
    // Behind the second looks that the first reads may have ordered; the row says that nothing happens from then on.
    pace(ms(3_000));
    let pid = program.pid().as_raw_nonzero().to_string();
    let log = program.dir.path().join("trace");
    let seconds = scale(4_u64, 60);
    let traced = Command::new("timeout")
        .args([
            "-s",
            "INT",
            &seconds.to_string(),
            "strace",
            "-f",
            "-qq",
            "-p",
            &pid,
            "-o",
        ])
        .arg(&log)
        .output()
        .unwrap();
    let trace = fs::read_to_string(&log).unwrap_or_default();
    if trace.is_empty() && !traced.stderr.is_empty() {
        return row.could_not(&format!(
            "needs the right to trace: {}",
            String::from_utf8_lossy(&traced.stderr).trim()
        ));
    }
    // The tree, the manifest and the bucket are left alone. What is left: timers, and the status file's refresh.
    let tree = program.at("").display().to_string();
    let touched: Vec<&str> = trace
        .lines()
        .filter(|line| {
            line.contains(&tree) || line.contains("openat2(") || line.contains("getdents")
        })
        .filter(|line| !line.contains("/state"))
        .collect();
    assert!(touched.is_empty(), "{touched:#?}");
    let calls = trace.lines().count() as u64;
    assert!(calls <= seconds * 60, "{calls} in {seconds} s:\n{trace}");
    program.probe();
}

#[test]
fn w83_what_changed_while_stopped_is_found_and_the_rest_not_read() {
    let _row = row!();
    let mut rig = Rig::new(With::default());
    let mut random = fastrand::Rng::with_seed(7);
    for n in 0..1_000 {
        rig.write(format!("{}/{}/{n}", n % 10, n % 30), format!("content {n}"));
    }
    // Past the time in which a stamp could still be shared with a later write.
    pace(ms(2_500));
    rig.start();
    rig.level();
    rig.stop();
    let changed = 100;
    for _ in 0..changed {
        let n = random.usize(0..1_000);
        let path = rig.at(format!("{}/{}/{n}", n % 10, n % 30));
        match random.u8(0..4) {
            0 => drop(fs::remove_file(path)),
            1 => {
                let new = rig.at(format!("{}/renamed-{n}", n % 10));
                drop(fs::rename(path, new));
            }
            2 => rig.write(format!("new/{}/{n}", n % 3), format!("new {n}")),
            _ => fs::write(path, format!("changed {n}")).unwrap(),
        }
    }
    let expected = rig.tree().len();
    let reads = Reads::of(&rig.root);
    rig.start();
    let seen = reads.seen();
    assert!(
        seen <= 3 * changed,
        "{seen} files were opened for {changed} changes"
    );
    assert_eq!(rig.tree().len(), expected);
    rig.probe();
}

#[test]
fn w84_killed_in_the_first_walk_it_is_level_after_the_next_start() {
    let _row = row!();
    let mut program = Program::new();
    for n in 0..1_200 {
        let folder = program.at(format!("{}", n % 60));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(n.to_string()), format!("content {n}")).unwrap();
    }
    for round in 0..3 {
        program.start();
        // In the middle of it: some objects more than before are there.
        let before = program.endpoint.keys().len();
        program.until("some objects", |program| {
            program.endpoint.keys().len() > before + 50
        });
        program.kill();
        assert!(
            program.endpoint.keys().len() < 3_000,
            "too late in round {round}"
        );
    }
    program.start();
    program.probe();
}

#[test]
fn w85_a_busy_neighbour_holds_nothing_up() {
    let _row = row!();
    let mut rig = Rig::started(With::default());
    fs::create_dir(rig.at("busy")).unwrap();
    fs::create_dir(rig.at("calm")).unwrap();
    rig.probe();
    let stop = Arc::new(AtomicBool::new(false));
    let churning = {
        let (root, stop) = (rig.at("busy"), stop.clone());
        thread::spawn(move || {
            let (mut random, mut written) = (fastrand::Rng::with_seed(1), 0);
            while !stop.load(Ordering::SeqCst) {
                disturb(&root, &mut random, &mut written, 1);
            }
        })
    };
    let mut slowest = ms(0);
    for n in 0..scale(5, 30) {
        let name = format!("calm/{n}");
        rig.write(&name, format!("saved {n}"));
        let began = now();
        rig.until("a single save", |rig| rig.object(&name).is_some());
        slowest = slowest.max(now() - began);
        pace(ms(200));
    }
    stop.store(true, Ordering::SeqCst);
    churning.join().unwrap();
    assert!(slowest < rig.with.settle + ms(5_000), "{slowest:?}");
    rig.probe();
}
