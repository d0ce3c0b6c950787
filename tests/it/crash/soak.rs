//! A long run over a folder that is changed all the time, through a line and a store that fail in every way; then
//! everything is compared, and restored byte for byte.
//!
//! `TIDEWATCH_SOAK_SECONDS=1800` for the long form. From a minute on, memory, open files and threads have to be flat: the
//! last third of the time is compared with the second.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;
use tidewatch::base::clock::Clock;

use crate::crash::rig::{Rig, files_below};
use crate::crash::{count, note};
use crate::process::{DEADLINE, World, end_of, send};
use crate::support::endpoint::Fault;
use crate::watching::table::row;

/// From how many seconds on there is enough to compare.
const JUDGED: u64 = 60;

/// How many samples a soak has.
const SAMPLES: u32 = 90;

/// What a process holds at an instant.
#[derive(Clone, Copy, Debug)]
struct Sample {
    /// Allocated memory, KiB.
    memory: u64,
    handles: u64,
    threads: u64,
}

impl Sample {
    fn of(pid: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let number = |name: &str| -> u64 {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        Self {
            memory: number("RssAnon:"),
            handles: fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as u64,
            threads: number("Threads:"),
        }
    }
}

/// Returns the middle one of a third of the samples.
fn middle(samples: &[Sample], third: usize, what: impl Fn(&Sample) -> u64) -> u64 {
    let len = samples.len() / 3;
    let mut values: Vec<u64> = samples[third * len..(third + 1) * len]
        .iter()
        .map(what)
        .collect();
    values.sort_unstable();
    values[values.len() / 2]
}

/// Writes the config of a folder whose files come and go without anybody being asked, and returns where.
fn config(world: &World) -> String {
    let text = format!(
        "[agent]\nlisten = \"\"\nstate_dir = \"{}\"\n[s3]\nendpoint_url = {:?}\n[[folder]]\nname = \"f\"\npath = \"{}\"\n\
         to = \"s3://tide/p\"\nsettle = \"50ms\"\non_delete = \"delete\"\ndelete_brake = \"off\"\n",
        world.state().display(),
        world.endpoint.url(),
        world.tree("").display(),
    );
    let place = world.dir.path().join("config.toml");
    fs::write(&place, text).unwrap();
    place.to_str().unwrap().to_owned()
}

fn fault(random: &mut fastrand::Rng) -> Option<Fault> {
    match random.u16(..1_000) {
        0..30 => Some(Fault::Error(503, "SlowDown")),
        30..50 => Some(Fault::Error(500, "InternalError")),
        50..75 => Some(Fault::Reset),
        75..95 => Some(Fault::DropAnswer),
        95..97 => Some(Fault::Hang),
        97..200 => Some(Fault::Delay(Duration::from_millis(random.u64(1..200)))),
        _ => None,
    }
}

#[tokio::test]
async fn r67_a_soak_with_faults_ends_level_in_flat_memory_and_comes_back_byte_for_byte() {
    let _row = row!();
    let seconds = count("TIDEWATCH_SOAK_SECONDS", 5);
    let seed = count("TIDEWATCH_SEED", 1);
    let mut rig = Rig::new(seed).await;
    let mut random = fastrand::Rng::with_seed(seed);
    rig.world.endpoint.meet_catalog();
    rig.world.endpoint.script(move |_| fault(&mut random));

    let config = config(&rig.world);
    let mut command = rig.world.bare(["run", "--config", &config]);
    // What it says of each failure would fill the pipe.
    let log = rig.world.dir.path().join("log");
    let child = command.stderr(fs::File::create(&log).unwrap()).spawn();
    let child = child.unwrap();
    let pid = child.id().expect("it runs");
    let began = Clock::Real.now().mono;
    let every = Duration::from_secs(seconds) / SAMPLES;
    let (mut samples, mut changes, mut requests) = (Vec::new(), 0_u64, 0);
    while samples.len() < SAMPLES as usize {
        let next = began + every * (samples.len() as u32 + 1);
        while Clock::Real.now().mono < next {
            rig.change();
            changes += 1;
            // The pace of the writer, which is what is tried here.
            tokio::time::sleep(Duration::from_millis(rig.random.u64(5..120))).await;
        }
        samples.push(Sample::of(pid));
        requests += rig.world.endpoint.all_requests().len();
        rig.world.endpoint.reset_counts();
    }
    rig.world.endpoint.clear();
    let patience = DEADLINE + Duration::from_secs(seconds / 3);
    let levelling = async {
        while files_below(&rig.world.tree("")) != rig.world.objects() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    if tokio::time::timeout(patience, levelling).await.is_err() {
        let (files, objects) = (files_below(&rig.world.tree("")), rig.world.objects());
        let missing = files
            .iter()
            .filter(|(name, bytes)| objects.get(*name) != Some(bytes));
        let missing: Vec<_> = missing.map(|(name, _)| name).collect();
        let extra: Vec<_> = objects
            .keys()
            .filter(|name| !files.contains_key(*name))
            .collect();
        let log = fs::read_to_string(log).unwrap_or_default();
        let last: Vec<&str> = log.lines().rev().take(20).collect();
        panic!(
            "never level: not there {missing:?}, too many {extra:?}; it says, last first: {last:#?}"
        );
    }
    send(&child, Signal::TERM);
    assert_eq!(end_of(child).await.code, Some(0));
    rig.level().await;
    let restored = rig.restored().await;
    let removals = rig.removals();

    let flat = judge(&samples, seconds);
    let section = "Soak";
    let said = format!(
        "{seconds} s, {changes} changes, {requests} requests with faults; level at the end"
    );
    note(section, "run with random faults", &said);
    note(section, "second third, then last third", &flat);
    let said = format!("{restored} files, byte for byte, with mode and time");
    note(section, "restored after the soak", &said);
    let wrong = format!("0 of {removals} removals");
    note(section, "wrongful deletes in the soak", &wrong);
}

/// Says what the thirds had, and fails if the last had more.
fn judge(samples: &[Sample], seconds: u64) -> String {
    let thirds = |what: fn(&Sample) -> u64| (middle(samples, 1, what), middle(samples, 2, what));
    let (memory, handles, threads) = (
        thirds(|sample| sample.memory),
        thirds(|sample| sample.handles),
        thirds(|sample| sample.threads),
    );
    // Whatever the time: no more than `upload.memory` and what the program is besides, and what its requests need.
    let is_bounded =
        |sample: &Sample| sample.memory < 190 << 10 && sample.handles < 400 && sample.threads < 200;
    let over = samples.iter().find(|sample| !is_bounded(sample));
    assert!(over.is_none(), "{over:?}");
    if seconds >= JUDGED {
        assert!(
            memory.1 <= memory.0 + memory.0 / 5 + 8_192,
            "memory, KiB: {memory:?}"
        );
        assert!(handles.1 <= handles.0 + 16, "handles: {handles:?}");
        assert!(threads.1 <= threads.0 + 8, "threads: {threads:?}");
    }
    format!(
        "{} and {} MiB allocated, {} and {} handles, {} and {} threads",
        memory.0 >> 10,
        memory.1 >> 10,
        handles.0,
        handles.1,
        threads.0,
        threads.1
    )
}
