//! Measures tidewatch beside the programs that people use for it today: uploads, restores, runs with nothing to do, a
//! renamed folder, the time from a save to its object, and what a file costs among a million.
//!
//! A measurement, not a test: it judges no time, only that everything arrived, once and whole. `benches/README.md` says how
//! to run and read it. The endpoint is a process of its own; so is what watches each client. Rounds are interleaved, and
//! the tables show the median of each number by itself.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the tables are what it is for"
)]

#[path = "peers/again.rs"]
mod again;
#[path = "peers/agent.rs"]
mod agent;
#[path = "peers/client.rs"]
mod client;
#[path = "peers/data.rs"]
mod data;
#[path = "peers/endpoint.rs"]
mod endpoint;
#[path = "peers/growth.rs"]
mod growth;
#[path = "peers/live.rs"]
mod live;
#[path = "peers/options.rs"]
mod options;
#[path = "peers/plot.rs"]
mod plot;
#[path = "peers/restore.rs"]
mod restore;
#[path = "peers/table.rs"]
mod table;
#[path = "peers/ten.rs"]
mod ten;
#[path = "peers/upload.rs"]
mod upload;

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::Context as _;

use client::Deed;
use data::Scratch;
use endpoint::{Counts, Way};
use options::{Case, Options};
use table::Results;

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
        Some((first, rest)) if first == "--endpoint" => {
            endpoint::serve(Way {
                keeps: rest.iter().any(|word| word == "keeps"),
                tls: rest.iter().any(|word| word == "tls"),
            })?;
            return Ok(true);
        }
        _ => {}
    }
    let options = Options::parse(&arguments)?;
    let scratch = Scratch::new(options.scratch.clone())?;
    let mut results = Results::load(&options.results)?;
    table::print_machine(&client::of(Deed::Up, &options.program));
    let mut bench = Bench {
        options: &options,
        scratch: &scratch,
        results: &mut results,
        all_well: true,
    };
    for case in &options.cases {
        bench.case(*case)?;
        bench.results.save(&options.results)?;
    }
    Ok(bench.all_well)
}

/// What a case works with.
pub struct Bench<'a> {
    options: &'a Options,
    scratch: &'a Scratch,
    results: &'a mut Results,
    /// Whether every client has done its work.
    all_well: bool,
}

impl Bench<'_> {
    fn case(&mut self, case: Case) -> anyhow::Result<()> {
        match case {
            Case::Ten => ten::bench(self),
            Case::Small => upload::small(self, self.options.files.unwrap_or(5_000)),
            Case::Small50k => upload::small(self, self.options.files.unwrap_or(50_000)),
            Case::Medium => upload::medium(self),
            Case::Large => upload::large(self, self.options.large.unwrap_or(4 << 30), false),
            Case::Large1 => upload::large(self, self.options.large.unwrap_or(1 << 30), false),
            Case::LargeTls => upload::large(self, self.options.large.unwrap_or(4 << 30), true),
            Case::Mixed => upload::mixed(self),
            Case::Second => again::second(self),
            Case::Rename => again::rename(self),
            Case::Latency => live::bench(self),
            Case::Restore => restore::bench(self, self.options.files.unwrap_or(5_000), 4096),
            Case::RestoreLarge => {
                restore::bench(self, 1, self.options.large.unwrap_or(1 << 30) as usize)
            }
            Case::Growth => growth::bench(self),
            Case::Tables => {
                self.results.print_all();
                Ok(())
            }
            Case::Plot => plot::draw(self.results, Path::new(env!("CARGO_MANIFEST_DIR"))),
        }
    }

    /// Says what is wrong with a run.
    fn complain(&mut self, who: &str, faults: &[String]) {
        for fault in faults {
            eprintln!("{who}: {fault}");
            self.all_well = false;
        }
    }
}

/// The endpoint's process.
pub struct Endpoint {
    child: Child,
    asks: Option<ChildStdin>,
    says: BufReader<ChildStdout>,
    /// Where it is.
    pub url: String,
}

impl Endpoint {
    /// Starts one with an empty bucket.
    pub fn start(way: Way) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--endpoint");
        command.args(way.keeps.then_some("keeps"));
        command.args(way.tls.then_some("tls"));
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("could not start the endpoint")?;
        let stdout = child.stdout.take().context("the endpoint has no output")?;
        let mut says = BufReader::new(stdout);
        let mut port = String::new();
        says.read_line(&mut port)?;
        let scheme = if way.tls { "https" } else { "http" };
        Ok(Self {
            asks: child.stdin.take(),
            child,
            says,
            url: format!("{scheme}://127.0.0.1:{}", port.trim()),
        })
    }

    /// Sets the latency from now on; returns what it has seen until now, and lets it begin to count anew.
    pub fn count(&mut self, latency: Duration) -> anyhow::Result<Counts> {
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
