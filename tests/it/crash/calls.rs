//! SIGKILL at the system calls of a sync on its state folder, one after the other.
//!
//! strace delivers it when a thread makes its N-th call of a kind on one of the manifest's files. The usual form takes a few
//! of them; `TIDEWATCH_CALLS=all` takes every N of every kind, until a run gets through.

use std::path::PathBuf;
use std::process::Stdio;

use tokio::process::Command;

use crate::crash::rig::Rig;
use crate::crash::{count, has, note};
use crate::process::{Ended, ended};
use crate::watching::table::row;

/// The kinds of calls that change files or names, or make them durable, and those that open and lock.
const KINDS: [&str; 10] = [
    "openat",
    "write",
    "pwrite64",
    "ftruncate",
    "fdatasync",
    "fsync",
    "rename",
    "unlink",
    "mkdir",
    "flock",
];

/// What the manifest's files are called in their time.
const NAMES: [&str; 10] = [
    "",
    "lock",
    "tidewatch.db",
    "tidewatch.db-wal",
    "tidewatch.db-shm",
    "tidewatch.db-journal",
    "tidewatch.db.new",
    "tidewatch.db.new-wal",
    "tidewatch.db.new-shm",
    "tidewatch.db.new-journal",
];

/// Makes a sync that is killed at a call; it runs to its end if it has fewer of that kind.
pub fn killed_at(rig: &Rig, kind: &str, number: u64) -> Command {
    let plain = rig.world.command("sync", &rig.args);
    let plain = plain.as_std();
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o", "/dev/null", "-e"]);
    strace.arg(format!("trace={kind}"));
    strace.arg("-e");
    strace.arg(format!("inject={kind}:signal=KILL:when={number}"));
    for name in NAMES {
        let path: PathBuf = rig.world.state().join(name);
        strace.arg("-P").arg(path);
    }
    strace.arg(plain.get_program()).args(plain.get_args());
    strace
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .envs(rig.world.endpoint.env())
        .env("HOME", rig.world.dir.path())
        .current_dir(rig.world.dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    strace
}

/// Changes what there is in each way that a sync tells apart.
fn change(rig: &mut Rig, old: &mut Vec<String>) {
    let (new, other) = (rig.content(900), rig.content(700));
    let first = rig.create(&new);
    let copy = rig.create(&new);
    if old.len() > 2 {
        let gone = old.remove(0);
        rig.remove(&gone);
        rig.world.write(&old[0], other);
    }
    old.extend([first, copy]);
}

/// Kills one sync; returns true if it was, and has the rest settled and compared.
async fn one(rig: &mut Rig, old: &mut Vec<String>, kind: &str, number: u64) -> bool {
    change(rig, old);
    let Ended { code, out, err } = ended(&mut killed_at(rig, kind, number)).await;
    assert!(
        code.is_none() || code == Some(0),
        "{kind} {number}: {code:?} {out}{err}"
    );
    rig.level().await;
    code.is_none()
}

/// Kills syncs at `numbers` of a kind of call, each a first one or one of a state folder that is in use. Returns how many
/// were killed, and how many removals there were.
async fn at(kind: &str, numbers: impl Iterator<Item = u64>, is_first: bool) -> (u64, u64) {
    let (mut kills, mut removals) = (0, 0);
    let mut rig = Rig::new(1).await;
    let mut old = Vec::new();
    if !is_first {
        change(&mut rig, &mut old);
        change(&mut rig, &mut old);
        rig.level().await;
    }
    for number in numbers {
        if !one(&mut rig, &mut old, kind, number).await {
            break;
        }
        kills += 1;
        if is_first {
            removals += std::mem::replace(&mut rig, Rig::new(1).await).removals();
            old.clear();
        }
    }
    if !is_first {
        rig.restored().await;
    }
    (kills, removals + rig.removals())
}

#[tokio::test]
async fn r02_a_kill_at_any_system_call_on_the_state_folder_loses_nothing() {
    let mut row = row!();
    if !has("strace") {
        return row.could_not("needs strace");
    }
    let is_all = std::env::var_os("TIDEWATCH_CALLS").is_some();
    let (mut kills, mut removals) = (0, 0);
    let mut random = fastrand::Rng::with_seed(count("TIDEWATCH_SEED", 1));
    for is_first in [true, false] {
        for kind in KINDS {
            if !is_all && !["pwrite64", "fdatasync", "rename"].contains(&kind) {
                continue;
            }
            let (some, gone) = if is_all {
                at(kind, 1.., is_first).await
            } else {
                at(kind, std::iter::once(random.u64(1..4)), is_first).await
            };
            kills += some;
            removals += gone;
        }
    }
    assert!(kills >= if is_all { 30 } else { 3 }, "only {kills} kills");
    let section = "Crash";
    let which = if is_all {
        "every one of them"
    } else {
        "a few of them"
    };
    let lost = format!("{kills} kills, {which}; compared after each; nothing lost");
    note(
        section,
        "kill -9 at each system call on the state folder",
        &lost,
    );
    let wrong = format!("0 of {removals} removals");
    note(
        section,
        "wrongful deletes in the kills at system calls",
        &wrong,
    );
}
