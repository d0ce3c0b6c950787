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

use crate::endpoint;

/// What a run needs to know.
pub struct Place<'a> {
    /// The folder that is uploaded, or restored to.
    pub folder: &'a Path,
    /// A folder for what the client wants to remember.
    pub state: &'a Path,
    /// Where the endpoint is.
    pub url: &'a str,
}

/// What a client is to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Deed {
    /// Everything into a bucket that has nothing.
    Up,
    /// Nothing: the bucket has it all.
    Level,
    /// The bucket has it all, in a folder of another name.
    Renamed,
    /// Everything back into an empty folder.
    Down,
}

/// A program of some options.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Ours; the bucket is new to it.
    Tidewatch,
    /// Ours; a sync with nothing in it has been there before, and knows what the bucket can do.
    TidewatchKnown,
    /// `JuiceFS`'s `sync`, with 64 threads.
    Juicefs,
    /// s5cmd as it comes, 256 workers.
    S5cmd,
    /// rclone with 64 transfers, without any look that it can do without.
    RcloneTuned,
    /// rclone as it comes, 4 transfers.
    RcloneDefault,
    /// The AWS CLI as it comes, 10 threads.
    Aws,
    /// What walks the tree, and asks no bucket.
    Find,
}

/// A program that uploads or restores a folder.
#[derive(Clone, Debug)]
pub struct Client {
    /// Which it is.
    pub kind: Kind,
    /// What it is called in the table, and by `--only`.
    pub name: &'static str,
    /// Where it is; `None` if it is not on this machine.
    pub program: Option<PathBuf>,
    /// Whether it takes so long that one round has to do.
    pub is_slow: bool,
}

/// What a run cost.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
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

/// Names the clients that can do something, in the order of the table, also what is not installed.
pub fn of(deed: Deed, tidewatch: &Path) -> Vec<Client> {
    let own = Some(tidewatch.to_owned());
    let rclone = find("rclone");
    let mut all = vec![
        (Kind::Tidewatch, "tidewatch", own.clone()),
        (Kind::TidewatchKnown, "tidewatch-known", own),
        (Kind::Juicefs, "juicefs", find("juicefs")),
        (Kind::S5cmd, "s5cmd", find("s5cmd")),
        (Kind::RcloneTuned, "rclone-tuned", rclone.clone()),
        (Kind::RcloneDefault, "rclone-default", rclone),
        (Kind::Aws, "aws-cli", find("aws")),
        (Kind::Find, "find", find("find")),
    ];
    all.retain(|(kind, ..)| match kind {
        Kind::TidewatchKnown => deed == Deed::Up,
        Kind::Find => deed == Deed::Level,
        // Nobody uses it as it comes for this; what `--track-renames` does is measured with the tuned one.
        Kind::RcloneDefault => deed != Deed::Renamed,
        _ => true,
    });
    let clients = all.into_iter().map(|(kind, name, program)| Client {
        kind,
        name,
        program,
        is_slow: matches!(kind, Kind::RcloneDefault | Kind::Aws),
    });
    clients.collect()
}

/// As a user tunes rclone for small files and a bucket that is there.
const TUNED: [&str; 5] = [
    "--transfers",
    "64",
    "--checkers",
    "64",
    "--s3-no-check-bucket",
];

fn line(kind: Kind, deed: Deed, place: &Place<'_>) -> Vec<OsString> {
    match kind {
        Kind::Tidewatch | Kind::TidewatchKnown => tidewatch(deed, place),
        Kind::Juicefs => juicefs(deed, place),
        Kind::S5cmd => s5cmd(deed, place),
        Kind::RcloneTuned | Kind::RcloneDefault => rclone(kind == Kind::RcloneTuned, deed, place),
        Kind::Aws => aws(deed, place),
        Kind::Find => {
            let mut line = vec![place.folder.into()];
            line.extend(words(&["-printf", "%s %T@ %i\n"]));
            line
        }
    }
}

fn tidewatch(deed: Deed, place: &Place<'_>) -> Vec<OsString> {
    if deed == Deed::Down {
        let mut line = words(&["restore", "--quiet", "s3://bucket"]);
        line.extend(words(&["--endpoint-url", place.url, "--to"]));
        line.push(place.folder.into());
        return line;
    }
    let mut line = words(&["sync", "--quiet"]);
    line.push(place.folder.into());
    line.extend(words(&["s3://bucket", "--endpoint-url", place.url]));
    line.extend(words(&["--state-dir"]));
    line.push(place.state.into());
    if deed == Deed::Renamed {
        line.extend(words(&["--on-delete", "delete"]));
    }
    line
}

fn juicefs(deed: Deed, place: &Place<'_>) -> Vec<OsString> {
    let host = place.url.split("//").nth(1).unwrap_or_default();
    let bucket: OsString = format!("minio://bench:benchbench@{host}/bucket/").into();
    let folder = place.folder.join("").into();
    let mut line = words(&["--quiet", "sync", "--threads", "64"]);
    match deed {
        Deed::Down => {
            line.extend(words(&["--exclude", ".tidewatch/"]));
            line.extend([bucket, folder]);
        }
        Deed::Renamed => {
            line.extend(words(&["--delete-dst"]));
            line.extend([folder, bucket]);
        }
        Deed::Up | Deed::Level => line.extend([folder, bucket]),
    }
    line
}

fn s5cmd(deed: Deed, place: &Place<'_>) -> Vec<OsString> {
    let mut line = words(&["--log", "error", "--endpoint-url", place.url]);
    // The slash makes it the folder's content.
    let folder: OsString = place.folder.join("").into();
    match deed {
        Deed::Up => line.extend([words(&["cp"]), vec![folder]].concat()),
        Deed::Level => line.extend([words(&["sync"]), vec![folder]].concat()),
        Deed::Renamed => line.extend([words(&["sync", "--delete"]), vec![folder]].concat()),
        Deed::Down => {
            line.extend(words(&["cp", "--exclude", ".tidewatch/*", "s3://bucket/*"]));
            line.push(folder);
            return line;
        }
    }
    line.extend(words(&["s3://bucket/"]));
    line
}

fn rclone(is_tuned: bool, deed: Deed, place: &Place<'_>) -> Vec<OsString> {
    let deed_word = if deed == Deed::Renamed {
        "sync"
    } else {
        "copy"
    };
    let mut line = words(&[deed_word, "--config", "/dev/null"]);
    if is_tuned {
        line.extend(words(&TUNED));
        line.extend(words(match deed {
            // It neither looks what is there nor at what it has written.
            Deed::Up => &["--s3-no-head", "--no-check-dest"],
            // It asks for no object's time, and lists everything at once.
            Deed::Level => &["--fast-list", "--update", "--use-server-modtime"],
            Deed::Renamed => &["--fast-list", "--track-renames", "--s3-no-head"],
            Deed::Down => &[
                "--multi-thread-streams",
                "8",
                "--use-server-modtime",
                "--s3-no-head-object",
                "--no-check-dest",
                "--ignore-checksum",
            ],
        }));
    }
    let bucket = format!(
        ":s3,provider=Other,env_auth=true,region=us-east-1,force_path_style=true,endpoint='{}':bucket",
        place.url
    );
    if deed == Deed::Down {
        line.extend(words(&["--exclude", "/.tidewatch/**", &bucket]));
        line.push(place.folder.into());
    } else {
        line.push(place.folder.into());
        line.push(bucket.into());
    }
    line
}

fn aws(deed: Deed, place: &Place<'_>) -> Vec<OsString> {
    let mut line = words(&["--endpoint-url", place.url, "s3"]);
    match deed {
        Deed::Up | Deed::Down => line.extend(words(&["cp", "--recursive"])),
        Deed::Level => line.extend(words(&["sync"])),
        Deed::Renamed => line.extend(words(&["sync", "--delete"])),
    }
    line.extend(words(&["--only-show-errors"]));
    if deed == Deed::Down {
        line.extend(words(&["--exclude", ".tidewatch/*", "s3://bucket/"]));
        line.push(place.folder.into());
    } else {
        line.push(place.folder.into());
        line.extend(words(&["s3://bucket/"]));
    }
    line
}

/// Makes command-line words.
pub fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

/// Finds a program in the folder that `TIDEWATCH_BENCH_PEERS` names, or on the path.
pub fn find(name: &str) -> Option<PathBuf> {
    let given = std::env::var_os("TIDEWATCH_BENCH_PEERS").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    given
        .into_iter()
        .chain(std::env::split_paths(&path))
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
}

/// Gives a command nothing of the user's: no config, no credentials, no proxy; and the endpoint's own.
pub fn surround<'a>(command: &'a mut Command, home: &Path) -> &'a mut Command {
    command
        .env_clear()
        .env("HOME", home)
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("AWS_ACCESS_KEY_ID", "bench")
        .env("AWS_SECRET_ACCESS_KEY", "benchbench")
        .env("AWS_REGION", "us-east-1")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        // As stores that are not Amazon's ask for: without it some of them frame their bodies.
        .env("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
        // Each trusts the endpoint by one of the two.
        .env("AWS_CA_BUNDLE", endpoint::AUTHORITY)
        .env("SSL_CERT_FILE", endpoint::AUTHORITY)
}

/// Runs a command line in the place and returns what it cost.
pub fn run(program: &Path, line: &[OsString], home: &Path) -> anyhow::Result<Cost> {
    let mut command = Command::new(std::env::current_exe()?);
    let output = surround(command.arg("--runner").arg(program).args(line), home)
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("could not run {}", program.display()))?;
    serde_json::from_slice(&output.stdout)
        .with_context(|| format!("{} left no measurement", program.display()))
}

impl Client {
    /// Runs the client once.
    pub fn run(&self, deed: Deed, place: &Place<'_>) -> anyhow::Result<Cost> {
        let Some(program) = &self.program else {
            bail!("{} is not installed", self.name);
        };
        run(program, &line(self.kind, deed, place), place.state)
    }

    /// Lets a client that is to know the bucket get to know it.
    pub fn prepare(&self, place: &Place<'_>) -> anyhow::Result<()> {
        let (Kind::TidewatchKnown, Some(program)) = (self.kind, &self.program) else {
            return Ok(());
        };
        let mut line = tidewatch(Deed::Up, place);
        line.extend(words(&["--exclude", "*"]));
        let cost = run(program, &line, place.state)?;
        anyhow::ensure!(cost.success, "it could not get to know the bucket");
        Ok(())
    }

    /// Returns the first line that the client says of its version.
    pub fn version(&self) -> Option<String> {
        let word = match self.kind {
            Kind::S5cmd | Kind::RcloneTuned | Kind::RcloneDefault => "version",
            _ => "--version",
        };
        let said = Command::new(self.program.as_ref()?)
            .arg(word)
            .env("HOME", "/nonexistent")
            .output()
            .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
            .unwrap_or_default();
        let line = said.lines().next().unwrap_or_default();
        let line = line.split(" Python").next().unwrap_or(line);
        let name = self.name.split('-').next().unwrap_or_default();
        let said = line.trim_start_matches(name).trim_start_matches("-cli");
        Some(format!("{name} {}", said.trim_matches(['/', ' '])))
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
