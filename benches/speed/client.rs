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
    /// The folder that is uploaded, or restored to.
    pub folder: &'a Path,
    /// An empty folder for what the client wants to remember.
    pub state: &'a Path,
    /// Where the endpoint is.
    pub url: &'a str,
}

/// A program that uploads or restores a folder.
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

/// Returns what uploads, also what is not installed.
pub fn uploading() -> Vec<Client> {
    clients([
        |place| {
            let mut line = words(&["sync", "--quiet"]);
            line.push(place.folder.into());
            line.extend(words(&["s3://bucket", "--endpoint-url", place.url]));
            line.extend(words(&["--state-dir"]));
            line.push(place.state.into());
            line
        },
        // As a user would tune it who knows that the bucket is there.
        |place| rclone_up(place, &TUNED),
        // As fast as it goes: it neither looks what is there nor at what it has written.
        |place| {
            let bare = ["--s3-no-head", "--no-check-dest"];
            rclone_up(place, &[&TUNED[..], &bare].concat())
        },
        |place| rclone_up(place, &[]),
        |place| {
            let mut line = words(&["--log", "error", "--endpoint-url", place.url, "cp"]);
            // The slash makes it the folder's content.
            line.push(place.folder.join("").into());
            line.extend(words(&["s3://bucket/"]));
            line
        },
    ])
}

/// Returns what restores, also what is not installed. What tidewatch keeps for itself nobody is asked to fetch.
pub fn restoring() -> Vec<Client> {
    clients([
        |place| {
            let line = [
                "restore",
                "--quiet",
                "s3://bucket",
                "--endpoint-url",
                place.url,
            ];
            let mut line = words(&line);
            line.extend(words(&["--to"]));
            line.push(place.folder.into());
            line
        },
        |place| {
            let streams = ["--multi-thread-streams", "8"];
            rclone_down(place, &[&TUNED[..], &streams].concat())
        },
        // As fast as it goes: it asks for no object's time, and looks at nothing that is there or that it has written.
        |place| {
            let streams = ["--multi-thread-streams", "8"];
            let bare = [
                "--use-server-modtime",
                "--s3-no-head-object",
                "--no-check-dest",
                "--ignore-checksum",
            ];
            rclone_down(place, &[&TUNED[..], &streams, &bare].concat())
        },
        |place| rclone_down(place, &[]),
        |place| {
            let line = ["--log", "error", "--endpoint-url", place.url, "cp"];
            let mut line = words(&line);
            line.extend(words(&["--exclude", ".tidewatch/*", "s3://bucket/*"]));
            line.push(place.folder.join("").into());
            line
        },
    ])
}

/// Names the clients, in the order of the table, and how each is called.
fn clients(arguments: [fn(&Place<'_>) -> Vec<OsString>; 5]) -> Vec<Client> {
    let tidewatch = PathBuf::from(env!("CARGO_BIN_EXE_tidewatch"));
    let rclone = find("rclone");
    let known = [
        ("tidewatch", Some(tidewatch), "--version"),
        ("rclone", rclone.clone(), "version"),
        ("rclone-bare", rclone.clone(), "version"),
        ("rclone-default", rclone, "version"),
        ("s5cmd", find("s5cmd"), "version"),
    ];
    let known = known.into_iter().zip(arguments);
    known
        .map(|((name, program, version), arguments)| Client {
            name,
            program,
            version,
            by_default: name != "rclone-default",
            arguments,
        })
        .collect()
}

/// As a user tunes rclone for small files.
const TUNED: [&str; 5] = [
    "--transfers",
    "64",
    "--checkers",
    "64",
    "--s3-no-check-bucket",
];

fn rclone_up(place: &Place<'_>, options: &[&str]) -> Vec<OsString> {
    let mut line = words(&["copy", "--config", "/dev/null"]);
    line.extend(words(options));
    line.push(place.folder.into());
    line.push(rclone_bucket(place.url));
    line
}

fn rclone_down(place: &Place<'_>, options: &[&str]) -> Vec<OsString> {
    let mut line = words(&["copy", "--config", "/dev/null"]);
    line.extend(words(options));
    line.extend(words(&["--exclude", "/.tidewatch/**"]));
    line.push(rclone_bucket(place.url));
    line.push(place.folder.into());
    line
}

fn rclone_bucket(url: &str) -> OsString {
    format!(
        ":s3,provider=Other,env_auth=true,region=us-east-1,force_path_style=true,endpoint='{url}':bucket"
    )
    .into()
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
