//! The real binary against an S3 endpoint on loopback. Each test has its own folder, state and endpoint.
#![cfg(feature = "demo")]
#![allow(
    clippy::unwrap_used,
    reason = "clippy knows only the functions that are marked as tests"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "these write users' files, which nobody writes durably"
)]

mod again;
mod asked;
mod bandwidth;
mod costs;
mod deletes;
mod exits;
mod eyes;
mod fleet;
mod folders;
mod json;
mod names;
mod notify;
mod output;
mod policy;
mod refused;
mod reload;
mod selftest;
mod service;
mod soak;
mod staying;
mod watchdog;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::UnixDatagram;
use tokio::process::{Child, Command};

use crate::support::endpoint::Endpoint;

/// How long a test waits for what must happen, on a machine that is busy with other tests.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// A folder, a state folder, and the bucket that the folder goes to.
pub struct World {
    pub dir: TempDir,
    pub endpoint: Endpoint,
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl World {
    pub async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("tree")).unwrap();
        Self {
            dir,
            endpoint: Endpoint::start().await,
        }
    }

    /// Returns where a path of the synced folder is.
    pub fn tree(&self, path: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join("tree").join(path)
    }

    pub fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub fn write(&self, path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) {
        let path = self.tree(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    pub fn write_bytes(&self, path: &[u8], bytes: impl AsRef<[u8]>) {
        self.write(OsStr::from_bytes(path), bytes);
    }

    /// Makes a command with nothing of the machine's own settings around it.
    pub fn bare<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidewatch"));
        command
            .args(args)
            .env_clear()
            .envs(self.endpoint.env())
            .env("HOME", self.dir.path())
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Makes `sync` or `watch` of the folder, with more arguments behind.
    pub fn command(&self, name: &str, more: &[&str]) -> Command {
        let mut command = self.bare([name]);
        command.arg(self.tree(""));
        command.args(["s3://tide/p", "--endpoint-url", &self.endpoint.url()]);
        command.arg("--state-dir").arg(self.state()).args(more);
        command
    }

    /// Syncs once.
    pub async fn sync(&self, more: &[&str]) -> Ended {
        ended(&mut self.command("sync", more)).await
    }

    /// Syncs once; every file has its object then.
    pub async fn sync_level(&self) {
        let ended = self.sync(&[]).await;
        assert_eq!(ended.code, Some(0), "{}", ended.err);
        assert!(ended.out.starts_with("level: "), "{}", ended.out);
    }

    pub fn object(&self, path: &str) -> Option<Vec<u8>> {
        self.endpoint.object(&format!("p/{path}"))
    }

    /// Returns what the bucket holds of the folder, by path.
    pub fn objects(&self) -> BTreeMap<String, Vec<u8>> {
        let objects = self.endpoint.objects().into_iter();
        objects
            .filter_map(|(key, bytes)| {
                let path = key.strip_prefix("p/")?;
                (!path.starts_with(".tidewatch/")).then(|| (path.to_owned(), bytes))
            })
            .collect()
    }
}

/// A service manager's ear.
pub struct Ear(UnixDatagram);

impl Ear {
    pub fn at(path: &Path) -> Self {
        Self(UnixDatagram::bind(path).unwrap())
    }

    /// Waits for a message with a line that begins with `wanted`; returns it, and all before it.
    pub async fn hear(&self, wanted: &str) -> Vec<String> {
        let mut all = Vec::new();
        let waiting = async {
            let mut buffer = vec![0; 65_536];
            loop {
                let len = self.0.recv(&mut buffer).await.unwrap();
                let said = String::from_utf8_lossy(&buffer[..len]).into_owned();
                let is_it = said.lines().any(|line| line.starts_with(wanted));
                all.push(said);
                if is_it {
                    return;
                }
            }
        };
        let heard = tokio::time::timeout(DEADLINE, waiting).await;
        assert!(heard.is_ok(), "never heard {wanted}, but {all:?}");
        all
    }

    /// Returns what has been said by now.
    pub fn heard(&self) -> Vec<String> {
        let mut all = Vec::new();
        let mut buffer = vec![0; 65_536];
        while let Ok(len) = self.0.try_recv(&mut buffer) {
            all.push(String::from_utf8_lossy(&buffer[..len]).into_owned());
        }
        all
    }
}

/// Reads what a child says until a line holds `wanted`; returns all lines until then.
pub async fn told(child: &mut Child, wanted: &str) -> String {
    let stderr = child.stderr.as_mut().expect("it is piped");
    let mut lines = BufReader::with_capacity(1, stderr).lines();
    let mut all = String::new();
    let reading = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            all += &line;
            all.push('\n');
            if line.contains(wanted) {
                return true;
            }
        }
        false
    };
    let said = tokio::time::timeout(DEADLINE, reading).await;
    assert_eq!(said, Ok(true), "never said `{wanted}`:\n{all}");
    all
}

/// Runs a command to its end.
pub async fn ended(command: &mut Command) -> Ended {
    let output = tokio::time::timeout(DEADLINE, command.output()).await;
    let output = output.expect("the command ends").unwrap();
    Ended {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Waits for the end of a child that was started.
pub async fn end_of(child: Child) -> Ended {
    let output = tokio::time::timeout(DEADLINE, child.wait_with_output()).await;
    let output = output.expect("the child ends").unwrap();
    Ended {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

pub fn send(child: &Child, signal: Signal) {
    let pid = i32::try_from(child.id().expect("it runs")).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

/// Waits until `holds`, asking again and again: no event tells.
pub async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = tokio::time::timeout(DEADLINE, waiting).await;
    assert!(waited.is_ok(), "never came to be: {what}");
}

/// Returns the lines that tell why a command could not do its work.
pub fn complaints(ended: &Ended) -> Vec<&str> {
    let lines = ended.err.lines();
    lines
        .filter(|line| line.starts_with("tidewatch: "))
        .collect()
}
