//! Uploads and restores files, many small ones and a large one, with tidewatch and with the programs that people use for
//! it today, and prints what each took.
//!
//! A measurement, not a test: it judges no time, only that everything arrived, once and whole. `benches/README.md` says how
//! to run and read it. The endpoint is a process of its own; so is what watches each client. Rounds are interleaved, and
//! the tables show the median of each number by itself.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the tables are what it is for"
)]

#[path = "speed/client.rs"]
mod client;
#[path = "speed/endpoint.rs"]
mod endpoint;
#[path = "speed/restore.rs"]
mod restore;
#[path = "speed/table.rs"]
mod table;
#[path = "speed/upload.rs"]
mod upload;

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use client::Client;
use endpoint::Counts;

const USAGE: &str = "words: upload, restore, restore-large (default: all three); options: --files N (5000), \
    --size BYTES (4096), --large BYTES (1073741824), --latency MS (upload: 30, restore: 0), --rounds N (3), \
    --only NAME (repeatable; also rclone-default, which takes long)";

/// Files in one folder.
const IN_FOLDER: usize = 100;

/// What is measured, and how.
#[derive(Clone, Debug)]
pub struct Options {
    files: usize,
    size: usize,
    large: usize,
    latency: Option<Duration>,
    rounds: usize,
    only: Vec<String>,
    what: Vec<String>,
}

fn main() -> ExitCode {
    match begin() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("could not measure: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn begin() -> anyhow::Result<bool> {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    match arguments.split_first() {
        Some((first, rest)) if first == "--runner" => {
            println!("{}", serde_json::to_string(&client::measure(rest)?)?);
            return Ok(true);
        }
        Some((first, _)) if first == "--endpoint" => {
            endpoint::serve()?;
            return Ok(true);
        }
        _ => {}
    }
    let options = options(&arguments)?;
    let mut all_well = true;
    for what in &options.what {
        all_well &= match what.as_str() {
            "upload" => upload::bench(&options)?,
            "restore" => restore::bench(&options, options.files, options.size)?,
            "restore-large" => restore::bench(&options, 1, options.large)?,
            _ => bail!("{what} is unknown; {USAGE}"),
        };
    }
    Ok(all_well)
}

fn options(arguments: &[OsString]) -> anyhow::Result<Options> {
    let mut options = Options {
        files: 5_000,
        size: 4096,
        large: 1 << 30,
        latency: None,
        rounds: 3,
        only: Vec::new(),
        what: Vec::new(),
    };
    let mut words = arguments.iter().map(|word| word.to_string_lossy());
    while let Some(option) = words.next() {
        if !option.starts_with('-') {
            options.what.push(option.into_owned());
            continue;
        }
        // Cargo's own.
        if option == "--bench" {
            continue;
        }
        let value = words
            .next()
            .with_context(|| format!("{option} is unknown or has no value; {USAGE}"))?;
        let number = || {
            value
                .parse::<usize>()
                .with_context(|| format!("{option} {value}: not a number; {USAGE}"))
        };
        match &*option {
            "--files" => options.files = number()?,
            "--size" => options.size = number()?,
            "--large" => options.large = number()?,
            "--latency" => options.latency = Some(Duration::from_millis(number()? as u64)),
            "--rounds" => options.rounds = number()?.max(1),
            "--only" => options.only.push(value.into_owned()),
            _ => bail!("{option} is unknown; {USAGE}"),
        }
    }
    if options.what.is_empty() {
        options.what = ["upload", "restore", "restore-large"]
            .map(str::to_owned)
            .to_vec();
    }
    Ok(options)
}

impl Options {
    /// Returns those of `clients` that are to run.
    fn chosen(&self, clients: Vec<Client>) -> anyhow::Result<Vec<Client>> {
        let is_chosen = |client: &Client| match self.only.as_slice() {
            [] => client.by_default,
            only => only.iter().any(|name| name == client.name),
        };
        let chosen: Vec<Client> = clients.into_iter().filter(is_chosen).collect();
        ensure!(
            !chosen.is_empty(),
            "there is no client of that name; {USAGE}"
        );
        Ok(chosen)
    }
}

/// Makes files: random, so that no two are alike, and flushed, so that nobody pays for writing them.
fn fill(folder: &Path, files: usize, size: usize) -> anyhow::Result<()> {
    let mut random = fastrand::Rng::with_seed(5_000);
    let mut content = vec![0; size];
    for number in 0..files {
        let name = folder.join(name_of(number));
        if number.is_multiple_of(IN_FOLDER) {
            fs::create_dir_all(name.parent().context("a folder")?)?;
        }
        random.fill(&mut content);
        fs::File::create(name)?.write_all(&content)?;
    }
    flush()
}

/// Returns the name of one of the files that [`fill`] makes.
fn name_of(number: usize) -> String {
    format!("{:03}/file-{number:05}.bin", number / IN_FOLDER)
}

/// Brings what others have written to the disk, so that nobody pays for it later.
fn flush() -> anyhow::Result<()> {
    Command::new("sync").status()?;
    Ok(())
}

/// The endpoint's process.
struct Endpoint {
    child: Child,
    asks: Option<ChildStdin>,
    says: BufReader<ChildStdout>,
    url: String,
}

impl Endpoint {
    fn start() -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("--endpoint")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("could not start the endpoint")?;
        let stdout = child.stdout.take().context("the endpoint has no output")?;
        let mut says = BufReader::new(stdout);
        let mut port = String::new();
        says.read_line(&mut port)?;
        Ok(Self {
            asks: child.stdin.take(),
            child,
            says,
            url: format!("http://127.0.0.1:{}", port.trim()),
        })
    }

    /// Sets the latency from now on; returns what it has seen until now, and lets it begin to count anew.
    fn count(&mut self, latency: Duration) -> anyhow::Result<Counts> {
        let asks = self.asks.as_mut().context("the endpoint has ended")?;
        writeln!(asks, "{}", latency.as_millis())?;
        let mut line = String::new();
        self.says.read_line(&mut line)?;
        serde_json::from_str(&line).context("the endpoint does not count")
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        // Without its input it ends by itself.
        drop(self.asks.take());
        let _ = self.child.wait();
    }
}
