//! The clients: how each is called, and what one run of it cost.
//!
//! A client runs under a small process of its own that does nothing else (this program, started as `--runner`): what the
//! kernel then says of that process's children is this one client's CPU time and peak memory.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, bail};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use serde::{Deserialize, Serialize};

/// What a run needs to know.
pub struct Place<'a> {
    /// The folder that is uploaded.
    pub folder: &'a Path,
    /// An empty folder for what the client wants to remember.
    pub state: &'a Path,
    /// Where the endpoint is.
    pub url: &'a str,
}

/// A program that uploads a folder.
#[derive(Clone, Debug)]
pub struct Client {
    /// What it is called in the table, and by `--only`.
    pub name: &'static str,
    /// Where it is; `None` if it is not on this machine.
    pub program: Option<PathBuf>,
    /// What it is told to get its version.
    pub version: &'static str,
    /// Whether it runs without being asked for.
    pub by_default: bool,
    arguments: fn(&Place<'_>) -> Vec<OsString>,
}

/// What a run cost.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Cost {
    /// From start to end.
    pub wall_seconds: f64,
    /// User and system time together.
    pub cpu_seconds: f64,
    /// The most memory that was resident.
    pub peak_kib: i64,
    /// Whether it ended well.
    pub success: bool,
}

/// Returns all clients that are known, those that are not installed among them.
pub fn all() -> Vec<Client> {
    let tidewatch = PathBuf::from(env!("CARGO_BIN_EXE_tidewatch"));
    let rclone = find("rclone");
    vec![
        Client {
            name: "tidewatch",
            program: Some(tidewatch),
            version: "--version",
            by_default: true,
            arguments: |place| {
                let mut line = words(&["sync", "--quiet"]);
                line.push(place.folder.into());
                line.extend(words(&["s3://bucket", "--endpoint-url", place.url]));
                line.extend(words(&["--state-dir"]));
                line.push(place.state.into());
                line
            },
        },
        Client {
            name: "rclone",
            program: rclone.clone(),
            version: "version",
            by_default: true,
            // As a user would tune it who knows that the bucket is there.
            arguments: |place| {
                rclone_line(
                    place,
                    &[
                        "--transfers",
                        "64",
                        "--checkers",
                        "64",
                        "--s3-no-check-bucket",
                    ],
                )
            },
        },
        Client {
            name: "rclone-bare",
            program: rclone.clone(),
            version: "version",
            by_default: true,
            // As fast as it goes: it neither looks what is there nor at what it has written.
            arguments: |place| {
                rclone_line(
                    place,
                    &[
                        "--transfers",
                        "64",
                        "--checkers",
                        "64",
                        "--s3-no-check-bucket",
                        "--s3-no-head",
                        "--no-check-dest",
                    ],
                )
            },
        },
        Client {
            name: "rclone-default",
            program: rclone,
            version: "version",
            by_default: false,
            arguments: |place| rclone_line(place, &[]),
        },
        Client {
            name: "s5cmd",
            program: find("s5cmd"),
            version: "version",
            by_default: true,
            arguments: |place| {
                let mut line = words(&["--log", "error", "--endpoint-url", place.url, "cp"]);
                // The slash makes it the folder's content.
                line.push(place.folder.join("").into());
                line.extend(words(&["s3://bucket/"]));
                line
            },
        },
    ]
}

fn rclone_line(place: &Place<'_>, options: &[&str]) -> Vec<OsString> {
    let mut line = words(&["copy", "--config", "/dev/null"]);
    line.extend(words(options));
    line.push(place.folder.into());
    let url = place.url;
    line.push(
        format!(
            ":s3,provider=Other,env_auth=true,region=us-east-1,force_path_style=true,endpoint='{url}':bucket"
        )
        .into(),
    );
    line
}

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

/// Finds a program in the folder that `TIDEWATCH_BENCH_PEERS` names, or on the path.
fn find(name: &str) -> Option<PathBuf> {
    let given = std::env::var_os("TIDEWATCH_BENCH_PEERS").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    given
        .into_iter()
        .chain(std::env::split_paths(&path))
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
}

impl Client {
    /// Runs the client once.
    pub fn run(&self, place: &Place<'_>) -> anyhow::Result<Cost> {
        let Some(program) = &self.program else {
            bail!("{} is not installed", self.name);
        };
        let output = Command::new(std::env::current_exe()?)
            .arg("--runner")
            .arg(program)
            .args((self.arguments)(place))
            // Nothing of the user's: no config, no credentials, no proxy.
            .env_clear()
            .env("HOME", place.state)
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("AWS_ACCESS_KEY_ID", "bench")
            .env("AWS_SECRET_ACCESS_KEY", "benchbench")
            .env("AWS_REGION", "us-east-1")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .stderr(Stdio::inherit())
            .output()
            .with_context(|| format!("could not run {}", self.name))?;
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("{} left no measurement", self.name))
    }

    /// Returns the first line that the client says of its version.
    pub fn version(&self) -> String {
        let Some(program) = &self.program else {
            return "not installed".to_owned();
        };
        let said = Command::new(program)
            .arg(self.version)
            .env("HOME", "/nonexistent")
            .output()
            .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
            .unwrap_or_default();
        let line = said.lines().next().unwrap_or_default();
        let name = self.name.split('-').next().unwrap_or_default();
        let version = line.trim_start_matches(name).trim();
        format!("{name} {version}")
    }
}

/// Runs a command line and returns what it cost. Only right in a process that has had no other child.
#[expect(
    clippy::disallowed_methods,
    reason = "a benchmark measures the real clock"
)]
pub fn measure(line: &[OsString]) -> anyhow::Result<Cost> {
    let (program, arguments) = line.split_first().context("there is nothing to run")?;
    let began = Instant::now();
    let status = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .with_context(|| format!("could not run {}", program.display()))?;
    let wall_seconds = began.elapsed().as_secs_f64();
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let cpu = usage.user_time() + usage.system_time();
    Ok(Cost {
        wall_seconds,
        cpu_seconds: cpu.num_microseconds() as f64 / 1e6,
        peak_kib: usage.max_rss(),
        success: status.success(),
    })
}
