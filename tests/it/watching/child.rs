//! The real program, for what cannot be done to a thread: stopped, killed, signalled, traced.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tidewatch::report::status_file::{self, StatusFile};
use tokio::runtime::Runtime;

use crate::support::endpoint::Endpoint;
use crate::watching::rig::{deadline, ms, now};

/// A folder, a bucket, and the program between them.
pub struct Program {
    pub dir: TempDir,
    pub endpoint: Endpoint,
    _runtime: Runtime,
    child: Option<Child>,
    /// What it is told to watch: `tree`, or what leads there.
    pub folder: PathBuf,
    pub rescan: &'static str,
}

impl Program {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("tree")).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let endpoint = runtime.block_on(Endpoint::start());
        Self {
            folder: dir.path().join("tree"),
            dir,
            endpoint,
            _runtime: runtime,
            child: None,
            rescan: "1h",
        }
    }

    pub fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join("tree").join(path)
    }

    fn command(&self) -> Command {
        let config = self.dir.path().join("config.toml");
        let text = format!(
            "[agent]\nlisten = \"\"\nstate_dir = \"{}\"\n[s3]\nendpoint_url = \"{}\"\n\
             [[folder]]\npath = \"{}\"\nto = \"s3://tide/p\"\nsettle = \"100ms\"\nrescan = \"{}\"\n",
            self.dir.path().join("state").display(),
            self.endpoint.url(),
            self.folder.display(),
            self.rescan,
        );
        fs::write(&config, text).unwrap();
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_file())
            .unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidewatch"));
        command
            .arg("run")
            .arg("--config")
            .arg(config)
            .env_clear()
            .envs(self.endpoint.env())
            .env("HOME", self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        command
    }

    /// Starts the program.
    pub fn start(&mut self) {
        self.child = Some(self.command().spawn().unwrap());
    }

    fn log_file(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(self.child.as_ref().expect("it runs"))
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Ends the program at once.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub fn is_running(&mut self) -> bool {
        let child = self.child.as_mut().expect("it runs");
        child.try_wait().unwrap().is_none()
    }

    pub fn status(&self) -> Option<StatusFile> {
        status_file::read(&self.dir.path().join("state"))
            .ok()
            .flatten()
    }

    pub fn is_level(&self) -> bool {
        let status = self.status();
        status.is_some_and(|status| status.folders.iter().all(|folder| folder.level))
    }

    pub fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let began = now();
        while !holds(self) {
            assert!(
                now() - began < deadline(),
                "never came to be: {what}; it said\n{}",
                self.log()
            );
            thread::sleep(ms(20));
        }
    }

    /// Waits until each file has its object.
    pub fn level(&self) {
        let mut expected = Vec::new();
        let mut folders = vec![self.at("")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_dir() {
                    folders.push(entry.path());
                } else {
                    let path = entry.path();
                    let name = path.strip_prefix(self.at("")).unwrap();
                    expected.push((format!("p/{}", name.display()), fs::read(&path).unwrap()));
                }
            }
        }
        self.until("all objects", |program| {
            let objects = program.endpoint.objects();
            expected
                .iter()
                .all(|(key, bytes)| objects.get(key) == Some(bytes))
        });
    }

    /// Waits for level, and then for one new file in every folder.
    pub fn probe(&self) {
        self.level();
        let mut folders = vec![self.at("")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_dir() {
                    folders.push(entry.path());
                }
            }
            fs::write(folder.join("probe"), folder.display().to_string()).unwrap();
        }
        self.level();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
