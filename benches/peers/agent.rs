//! A running `tidewatch watch`, and what the kernel says of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::client::{Place, surround};
use crate::endpoint::now_micros;

/// How long it may take to get level.
const PATIENCE: Duration = Duration::from_secs(600);

/// The clock ticks of `/proc/PID/stat` in a second, on every Linux that this runs on.
const TICKS: f64 = 100.0;

/// The agent; dropped, it is asked to end, and waited for.
pub struct Agent {
    child: Child,
    program: PathBuf,
    state: PathBuf,
}

impl Agent {
    /// Starts one.
    pub fn start(program: &Path, place: &Place<'_>) -> anyhow::Result<Self> {
        let mut command = Command::new(program);
        surround(&mut command, place.state)
            .args(["--quiet", "watch"])
            .arg(place.folder)
            .args(["s3://bucket", "--endpoint-url", place.url, "--state-dir"])
            .arg(place.state)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        Ok(Self {
            child: command.spawn().context("could not start the agent")?,
            program: program.to_owned(),
            state: place.state.to_owned(),
        })
    }

    /// Waits until it says that all is level.
    pub fn until_level(&mut self) -> anyhow::Result<()> {
        let most = now_micros() + PATIENCE.as_micros() as u64;
        while !self.is_level()? {
            ensure!(now_micros() < most, "the agent does not get level");
            ensure!(self.child.try_wait()?.is_none(), "the agent has ended");
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    fn is_level(&self) -> anyhow::Result<bool> {
        let mut command = Command::new(&self.program);
        let said = surround(&mut command, &self.state)
            .args(["status", "--json", "--state-dir"])
            .arg(&self.state)
            .stderr(Stdio::null())
            .output()?;
        let said: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap_or_default();
        Ok(said["agent"]["alive"] == true && said["folders"][0]["level"] == true)
    }

    /// Returns the user and system time that it has had, in seconds, to a hundredth.
    pub fn cpu(&self) -> anyhow::Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The name before the last parenthesis may hold anything; the times are the 12th and 13th words behind it.
        let (_, rest) = stat.rsplit_once(')').context("no stat")?;
        let words = rest.split_whitespace().skip(11).take(2);
        let ticks: f64 = words.filter_map(|word| word.parse::<f64>().ok()).sum();
        Ok(ticks / TICKS)
    }

    /// Returns the memory that it has allocated now, and the most that was resident, MiB.
    pub fn memory(&self) -> anyhow::Result<(f64, f64)> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let mib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
            kib.map(|kib| kib / 1024.0).context("no status")
        };
        Ok((mib("RssAnon:")?, mib("VmHWM:")?))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let _ = kill_process(pid, Signal::TERM);
        }
        let _ = self.child.wait();
    }
}
