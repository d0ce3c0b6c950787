//! Uploads many small files to an endpoint with latency, with tidewatch and with the programs that people use for it
//! today, and prints what each took.
//!
//! A measurement, not a test: it judges no time, only that every file arrived, once and whole. `benches/README.md` says how
//! to run and read it. The endpoint is a process of its own, new for each run; so is what watches each client. Rounds are
//! interleaved, and the table shows the median of each number by itself.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the table is what it is for"
)]

#[path = "upload/client.rs"]
mod client;
#[path = "upload/endpoint.rs"]
mod endpoint;

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use client::{Client, Cost, Place};
use endpoint::Counts;

const USAGE: &str = "options: --files N (5000), --size BYTES (4096), --latency MS (30), --rounds N (3), \
    --only NAME (repeatable; also rclone-default, which takes long)";

/// Files in one folder.
const IN_FOLDER: usize = 100;

#[derive(Debug)]
struct Options {
    files: usize,
    size: usize,
    latency: Duration,
    rounds: usize,
    only: Vec<String>,
}

/// One run of one client.
struct Run {
    cost: Cost,
    counts: Counts,
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
            Ok(true)
        }
        Some((first, rest)) if first == "--endpoint" => {
            let latency = rest.first().and_then(|text| text.to_str()?.parse().ok());
            endpoint::serve(Duration::from_millis(latency.context("no latency")?))?;
            Ok(true)
        }
        _ => bench(&options(&arguments)?),
    }
}

fn options(arguments: &[OsString]) -> anyhow::Result<Options> {
    let mut options = Options {
        files: 5_000,
        size: 4096,
        latency: Duration::from_millis(30),
        rounds: 3,
        only: Vec::new(),
    };
    let mut words = arguments.iter().map(|word| word.to_string_lossy());
    while let Some(option) = words.next() {
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
            "--latency" => options.latency = Duration::from_millis(number()? as u64),
            "--rounds" => options.rounds = number()?.max(1),
            "--only" => options.only.push(value.into_owned()),
            _ => bail!("{option} is unknown; {USAGE}"),
        }
    }
    Ok(options)
}

/// Measures and prints; returns false if a client did not do its work.
fn bench(options: &Options) -> anyhow::Result<bool> {
    let clients: Vec<Client> = client::all()
        .into_iter()
        .filter(|client| match options.only.as_slice() {
            [] => client.by_default,
            only => only.iter().any(|name| name == client.name),
        })
        .collect();
    ensure!(
        !clients.is_empty(),
        "there is no client of that name; {USAGE}"
    );
    // Below the target folder, which is on a disk: a commit that waits for nothing would flatter us.
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let folder = place.path().join("folder");
    fill(&folder, options)?;
    let mut all_well = true;
    let mut runs: Vec<Vec<Run>> = clients.iter().map(|_| Vec::new()).collect();
    for round in 1..=options.rounds {
        for (client, runs) in clients.iter().zip(&mut runs) {
            if client.program.is_none() {
                continue;
            }
            eprintln!("round {round} of {}: {}", options.rounds, client.name);
            let state = place.path().join("state");
            fs::create_dir(&state)?;
            let run = once(client, &folder, &state, options.latency)?;
            fs::remove_dir_all(&state)?;
            for fault in faults(client, &run, options) {
                eprintln!("{}: {fault}", client.name);
                all_well = false;
            }
            runs.push(run);
        }
    }
    print(&clients, &runs, options);
    Ok(all_well)
}

/// Makes the files: random, so that no two are alike, and flushed, so that nobody pays for writing them.
fn fill(folder: &Path, options: &Options) -> anyhow::Result<()> {
    let mut random = fastrand::Rng::with_seed(5_000);
    let mut content = vec![0; options.size];
    for number in 0..options.files {
        let below = folder.join(format!("{:03}", number / IN_FOLDER));
        if number.is_multiple_of(IN_FOLDER) {
            fs::create_dir_all(&below)?;
        }
        random.fill(&mut content);
        let name = below.join(format!("file-{number:05}.bin"));
        fs::File::create(name)?.write_all(&content)?;
    }
    // All at once instead of one by one.
    Command::new("sync").status()?;
    Ok(())
}

fn once(client: &Client, folder: &Path, state: &Path, latency: Duration) -> anyhow::Result<Run> {
    let mut endpoint = Endpoint::start(latency)?;
    let cost = client.run(&Place {
        folder,
        state,
        url: &endpoint.url,
    })?;
    let counts = endpoint.stop()?;
    Ok(Run { cost, counts })
}

/// Says what is wrong with a run. Whoever sends a file twice, or not at all, has not been measured at the same work.
fn faults(client: &Client, run: &Run, options: &Options) -> Vec<String> {
    let mut faults = Vec::new();
    let (files, counts) = (options.files as u64, &run.counts);
    let mut expect = |what: &str, found: u64, expected: u64| {
        if found != expected {
            faults.push(format!("{what}: {found} instead of {expected}"));
        }
    };
    expect("different objects", counts.keys, files);
    expect("PutObject requests", counts.puts, files);
    expect("bytes", counts.bytes, files * options.size as u64);
    if !run.cost.success {
        faults.push(format!("{} said that it failed", client.name));
    }
    faults
}

/// The endpoint's process.
struct Endpoint {
    child: Child,
    said: BufReader<ChildStdout>,
    url: String,
}

impl Endpoint {
    fn start(latency: Duration) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--endpoint", &latency.as_millis().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("could not start the endpoint")?;
        let stdout = child.stdout.take().context("the endpoint has no output")?;
        let mut said = BufReader::new(stdout);
        let mut port = String::new();
        said.read_line(&mut port)?;
        let url = format!("http://127.0.0.1:{}", port.trim());
        Ok(Self { child, said, url })
    }

    /// Ends it, and returns what it saw.
    fn stop(&mut self) -> anyhow::Result<Counts> {
        drop(self.child.stdin.take());
        let mut line = String::new();
        self.said.read_line(&mut line)?;
        self.child.wait()?;
        serde_json::from_str(&line).context("the endpoint ended without its counts")
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        // Without its input it ends by itself.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

fn print(clients: &[Client], runs: &[Vec<Run>], options: &Options) {
    let Options {
        files,
        size,
        latency,
        rounds,
        ..
    } = options;
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut versions: Vec<String> = clients.iter().map(Client::version).collect();
    versions.dedup();
    println!(
        "{files} files of {size} bytes, {} ms latency, median of {rounds}",
        latency.as_millis()
    );
    println!(
        "{cores} cores, Linux {}; {}\n",
        kernel.trim(),
        versions.join(", ")
    );
    println!(
        "| client         | wall s | files/s | CPU s | CPU µs/file | peak MiB | requests | connections | at once |"
    );
    println!(
        "| -------------- | -----: | ------: | ----: | ----------: | -------: | -------: | ----------: | ------: |"
    );
    let files = *files as f64;
    for (client, runs) in clients.iter().zip(runs) {
        if runs.is_empty() {
            println!("| {:<14} | not installed |", client.name);
            continue;
        }
        let median = |of: fn(&Run) -> f64| median(runs.iter().map(of).collect());
        let wall = median(|run| run.cost.wall_seconds);
        let cpu = median(|run| run.cost.cpu_seconds);
        println!(
            "| {:<14} | {wall:>6.2} | {:>7.0} | {cpu:>5.2} | {:>11.0} | {:>8.1} | {:>8} | {:>11} | {:>7} |",
            client.name,
            files / wall,
            cpu * 1e6 / files,
            median(|run| run.cost.peak_kib as f64) / 1024.0,
            median(|run| run.counts.requests as f64),
            median(|run| run.counts.connections as f64),
            median(|run| run.counts.at_once as f64),
        );
    }
}

/// Returns the middle one, or the lower of the two.
fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get((numbers.len() - 1) / 2).copied().unwrap_or(0.0)
}
