//! What crashes and disks that refuse do to a manifest.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tidewatch::base::path::RelPath;
use tidewatch::manifest::{Change, ErrorKind, FolderId, Manifest, OpenError, State};

use super::{NOW_NS, count, folder, path, puts, row};

/// What a child process is to do, and in which state folder.
const ROLE: &str = "TIDEWATCH_TEST_MANIFEST_ROLE";
const STATE: &str = "TIDEWATCH_TEST_MANIFEST_STATE";

/// The test that a child process runs.
const CHILD: &str = "manifest::faults::a_child_does_what_its_parent_asks";

/// Rows in each batch of the child that is killed.
const BATCH: usize = 8;

/// Returns the command that runs this binary once more in `role`, behind the words of `wrapper`.
fn child(wrapper: &[&str], role: &str, state: &Path) -> Command {
    let exe = std::env::current_exe().expect("this binary");
    let mut words: Vec<PathBuf> = wrapper.iter().map(PathBuf::from).collect();
    words.push(exe);
    let mut command = Command::new(&words[0]);
    command
        .args(&words[1..])
        .args([CHILD, "--exact", "--nocapture"])
        .env(ROLE, role)
        .env(STATE, state);
    command
}

#[test]
fn a_child_does_what_its_parent_asks() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let state = PathBuf::from(std::env::var_os(STATE).expect("a state folder"));
    match role.as_str() {
        "commit" => commit_for_ever(&state),
        "small files" => commit_under_a_size_limit(&state),
        "full disk" => commit_on_a_full_disk(&state),
        "failing sync" => commit_while_a_sync_fails(&state),
        "leave" => leave(&state),
        "read only" => read_only_folder(&state),
        other => panic!("no such role: {other}"),
    }
}

fn batch(number: usize) -> Vec<Change> {
    let names = (0..BATCH).map(|n| format!("{number:06}/{n}"));
    names
        .map(|name| Change::Put(row(name, State::Synced, &number.to_string())))
        .collect()
}

/// Returns how many batches are there; fails if one is there in part.
fn batches(manifest: &Manifest, folder: FolderId) -> usize {
    let mut number = 0;
    loop {
        let want = batch(number);
        let within = path(format!("{number:06}"));
        let found = manifest
            .page(folder, &within, &RelPath::root(), 100)
            .expect("a page");
        if found.is_empty() {
            return number;
        }
        assert_eq!(puts(&found), want);
        number += 1;
    }
}

fn commit_for_ever(state: &Path) {
    let (manifest, _) = Manifest::open(state, NOW_NS).expect("a manifest");
    let folder = folder(&manifest);
    let mut out = io::stdout().lock();
    for number in batches(&manifest, folder).. {
        let intents = (0..BATCH).map(|n| Change::Intend(path(format!("intents/{number}/{n}"))));
        manifest
            .commit(folder, &intents.collect::<Vec<_>>())
            .expect("a commit");
        manifest.commit(folder, &batch(number)).expect("a commit");
        writeln!(out, "\nack {number}").expect("a parent");
    }
}

#[test]
fn nothing_acknowledged_is_lost_when_the_process_is_killed() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut random = fastrand::Rng::with_seed(3);
    let mut acknowledged = 0;
    for _ in 0..count("TIDEWATCH_KILLS", 4) {
        let mut command = child(&[], "commit", dir.path());
        let mut child = command.stdout(Stdio::piped()).spawn().expect("a child");
        let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let mut next_ack = || {
            lines.by_ref().find_map(|line| {
                line.expect("a line")
                    .strip_prefix("ack ")?
                    .parse::<usize>()
                    .ok()
            })
        };
        for _ in 0..random.usize(1..40) {
            acknowledged = next_ack().expect("a living child") + 1;
        }
        child.kill().expect("a kill");
        // What it said before it died counts too.
        acknowledged = std::iter::from_fn(next_ack)
            .last()
            .map_or(acknowledged, |number| number + 1);
        child.wait().expect("an end");

        let (manifest, opened) = Manifest::open(dir.path(), NOW_NS).expect("a manifest");
        assert!(
            !opened.created && !opened.clean && opened.set_aside.is_none(),
            "{opened:?}"
        );
        let found = batches(&manifest, folder(&manifest));
        assert!(
            found == acknowledged || found == acknowledged + 1,
            "{found} of {acknowledged}"
        );
    }
}

#[test]
fn a_kill_during_the_first_start_does_no_harm() {
    for pause_ms in 0..count("TIDEWATCH_KILLS", 4) as u64 {
        let dir = tempfile::tempdir().expect("a folder");
        let mut command = child(&[], "commit", dir.path());
        let mut child = command.stdout(Stdio::null()).spawn().expect("a child");
        // A moment of real time: where in the creation the kill falls is the point.
        std::thread::sleep(Duration::from_millis(pause_ms % 40 * 2));
        child.kill().expect("a kill");
        child.wait().expect("an end");
        let (manifest, opened) = Manifest::open(dir.path(), NOW_NS).expect("a manifest");
        assert!(opened.set_aside.is_none(), "{opened:?}");
        batches(&manifest, folder(&manifest));
    }
}

#[test]
fn a_write_that_fails_changes_nothing_and_work_goes_on_when_it_can() {
    let dir = tempfile::tempdir().expect("a folder");
    // The signal for a file that grows too long would end the process; what is ignored stays ignored in a child.
    let ignoring = ["sh", "-c", "trap '' XFSZ; exec \"$0\" \"$@\""];
    let output = child(&ignoring, "small files", dir.path())
        .output()
        .expect("a child");
    assert!(output.status.success(), "{output:?}");
}

fn commit_under_a_size_limit(state: &Path) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let (manifest, _) = Manifest::open(state, NOW_NS).expect("a manifest");
    let folder = folder(&manifest);
    manifest.commit(folder, &batch(0)).expect("a commit");
    let usual = getrlimit(Resource::Fsize);
    for room in [0, 4096, 30_000] {
        let log = fs::metadata(state.join("tidewatch.db-wal"))
            .expect("a log")
            .len();
        let before = batches(&manifest, folder);
        let tight = Rlimit {
            current: Some(log + room),
            ..usual
        };
        setrlimit(Resource::Fsize, tight).expect("a limit");
        let many: Vec<Change> = (0..400).flat_map(|n| batch(before + n)).collect();
        for _ in 0..3 {
            let error = manifest.commit(folder, &many).expect_err("no room");
            assert!(
                matches!(error.kind(), ErrorKind::Io | ErrorKind::Full),
                "{error}"
            );
            assert_eq!(batches(&manifest, folder), before);
        }
        setrlimit(Resource::Fsize, usual).expect("no limit");
        manifest.commit(folder, &batch(before)).expect("a commit");
        assert_eq!(batches(&manifest, folder), before + 1);
    }
    drop(manifest);
    let (manifest, opened) = Manifest::open(state, NOW_NS).expect("a manifest");
    assert!(opened.set_aside.is_none());
    assert_eq!(batches(&manifest, folder), 4);
}

#[test]
fn a_failed_sync_fails_its_commit_and_no_other() {
    let possible = Command::new("strace")
        .args(["-f", "-o", "/dev/null", "true"])
        .output();
    if !possible.is_ok_and(|output| output.status.success()) {
        let note = "not run: this machine has no strace that may trace, to make a sync fail";
        writeln!(io::stderr(), "{note}").expect("a note");
        return;
    }
    // After those of the creation.
    for number in [20, 21, 30] {
        let dir = tempfile::tempdir().expect("a folder");
        let inject = format!("inject=fdatasync,fsync:error=EIO:when={number}");
        let wrapper = ["strace", "-f", "-o", "/dev/null", "-e", &inject];
        let output = child(&wrapper, "failing sync", dir.path())
            .output()
            .expect("a child");
        assert!(output.status.success(), "{output:?}");
    }
}

fn commit_while_a_sync_fails(state: &Path) {
    let (manifest, _) = Manifest::open(state, NOW_NS).expect("a manifest");
    let folder = folder(&manifest);
    let mut failures = 0;
    for number in 0..40 {
        if let Err(error) = manifest.commit(folder, &batch(number)) {
            assert_eq!(error.kind(), ErrorKind::Io, "{error}");
            assert_eq!(batches(&manifest, folder), number);
            failures += 1;
            manifest
                .commit(folder, &batch(number))
                .expect("the next one");
        }
        assert_eq!(batches(&manifest, folder), number + 1);
    }
    assert_eq!(failures, 1);
    manifest.close();
    let (manifest, opened) = Manifest::open(state, NOW_NS).expect("a manifest");
    assert!(opened.clean);
    assert_eq!(batches(&manifest, folder), 40);
}

#[test]
fn a_full_disk_stops_commits_until_there_is_room() {
    let dir = tempfile::tempdir().expect("a folder");
    let Some(mount) = tmpfs(dir.path()) else {
        return;
    };
    let script = format!("{mount} && exec \"$0\" \"$@\"");
    let wrapper = ["unshare", "-rm", "sh", "-c", &script];
    let output = child(&wrapper, "full disk", dir.path())
        .output()
        .expect("a child");
    assert!(output.status.success(), "{output:?}");
}

/// Returns the command that mounts a small filesystem on `dir` inside a user namespace; `None`, with a note, where that
/// is not possible.
pub fn tmpfs(dir: &Path) -> Option<String> {
    let mount = format!("mount -t tmpfs -o size=3m none '{}'", dir.display());
    let tried = Command::new("unshare")
        .args(["-rm", "sh", "-c", &mount])
        .output();
    if tried.is_ok_and(|output| output.status.success()) {
        return Some(mount);
    }
    let note = "not run: this machine lets us mount no tmpfs in a user namespace";
    writeln!(io::stderr(), "{note}").expect("a note");
    None
}

#[test]
fn a_read_only_state_folder_can_be_read_but_not_used() {
    let dir = tempfile::tempdir().expect("a folder");
    let Some(mount) = tmpfs(dir.path()) else {
        return;
    };
    let remount = format!("mount -o remount,ro '{}'", dir.path().display());
    let script =
        format!("{mount} && {ROLE}=leave \"$0\" \"$@\" && {remount} && exec \"$0\" \"$@\"");
    let wrapper = ["unshare", "-rm", "sh", "-c", &script];
    let output = child(&wrapper, "read only", dir.path())
        .output()
        .expect("a child");
    assert!(output.status.success(), "{output:?}");
}

/// Leaves a manifest that was closed and one that was not.
fn leave(state: &Path) {
    for name in ["closed", "crashed"] {
        let (manifest, _) = Manifest::open(&state.join(name), NOW_NS).expect("a manifest");
        manifest
            .commit(folder(&manifest), &batch(0))
            .expect("a commit");
        if name == "closed" {
            manifest.close();
        }
    }
}

fn read_only_folder(state: &Path) {
    for name in ["closed", "crashed"] {
        let dir = state.join(name);
        let error = Manifest::open(&dir, NOW_NS).expect_err("nothing can be written");
        assert!(
            error.to_string().contains("Read-only file system"),
            "{error}"
        );
        let manifest = Manifest::open_read_only(&dir)
            .expect("a reader")
            .expect("a database");
        assert_eq!(batches(&manifest, FolderId(1)), 1);
        let error = manifest
            .commit(FolderId(1), &batch(1))
            .expect_err("a reader");
        assert_eq!(error.kind(), ErrorKind::ReadOnly);
    }
    let new = Manifest::open(&state.join("new"), NOW_NS).expect_err("nothing can be written");
    assert!(new.to_string().contains("Read-only file system"), "{new}");
}

/// A file that takes all the room there is, until it is dropped.
struct Ballast(PathBuf);

impl Ballast {
    fn fill(dir: &Path) -> Self {
        let path = dir.join("ballast");
        let mut file = File::create(&path).expect("a file");
        while file.write_all(&[1; 4096]).is_ok() {}
        Self(path)
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        fs::remove_file(&self.0).expect("removed");
    }
}

fn commit_on_a_full_disk(state: &Path) {
    let (manifest, _) = Manifest::open(state, NOW_NS).expect("a manifest");
    let folder = folder(&manifest);
    manifest.commit(folder, &batch(0)).expect("a commit");
    let ballast = Ballast::fill(state);
    // Small commits still fit into the log's last page.
    let full = (1..1000).find_map(|n| manifest.commit(folder, &batch(n)).err().map(|e| (n, e)));
    let (number, error) = full.expect("an error");
    assert_eq!(error.kind(), ErrorKind::Full, "{error}");
    let error = manifest
        .commit(folder, &batch(number))
        .expect_err("still full");
    assert!(
        matches!(error.kind(), ErrorKind::Full | ErrorKind::Io),
        "{error}"
    );
    assert_eq!(batches(&manifest, folder), number);
    drop(manifest);
    match Manifest::open(state, NOW_NS) {
        // A disk without room is no damage.
        Ok((_, opened)) => assert!(!opened.created && opened.set_aside.is_none(), "{opened:?}"),
        Err(error) => assert!(matches!(error, OpenError::Unusable { .. }), "{error}"),
    }
    drop(ballast);
    let (manifest, opened) = Manifest::open(state, NOW_NS).expect("room again");
    assert!(!opened.created && opened.set_aside.is_none(), "{opened:?}");
    assert_eq!(batches(&manifest, folder), number);

    // Once more without a restart in between.
    let ballast = Ballast::fill(state);
    let full = (number..2000).find_map(|n| manifest.commit(folder, &batch(n)).err().map(|_| n));
    let number = full.expect("an error");
    drop(ballast);
    manifest.commit(folder, &batch(number)).expect("room again");
    assert_eq!(batches(&manifest, folder), number + 1);
}
