//! The rows: medians of runs, printed as tables, and kept in a file that plots are drawn from.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::client::{Client, Cost};
use crate::data::Tree;
use crate::endpoint::Counts;

/// One run of one client.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// What it took.
    pub cost: Cost,
    /// What the endpoint saw of it.
    pub counts: Counts,
}

/// The median of each number by itself, of one client at one work.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Row {
    /// Who.
    pub client: String,
    /// Of how many runs.
    pub rounds: usize,
    /// Why there is none.
    #[serde(default)]
    pub without: String,
    /// Files of the work.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Seconds from start to end.
    pub wall: f64,
    /// Seconds of user and system time.
    pub cpu: f64,
    /// The most that was resident, MiB.
    pub peak_mib: f64,
    /// What the endpoint was asked.
    pub requests: f64,
    /// Connections that it accepted.
    pub connections: f64,
    /// The most requests that were in flight.
    pub at_once: f64,
    /// Bytes of files that were sent.
    pub sent: f64,
}

/// Everything that has been measured.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Results {
    /// The rows by the name of the work.
    pub works: BTreeMap<String, Vec<Row>>,
    /// Single figures by their name.
    pub figures: BTreeMap<String, f64>,
}

impl Row {
    /// Takes the medians.
    pub fn of(client: &str, runs: &[Run], files: usize, bytes: u64) -> Self {
        let median = |of: fn(&Run) -> f64| median(runs.iter().map(of).collect());
        Self {
            client: client.to_owned(),
            rounds: runs.len(),
            without: "failed".to_owned(),
            files,
            bytes,
            wall: median(|run| run.cost.wall_seconds),
            cpu: median(|run| run.cost.cpu_seconds),
            peak_mib: median(|run| run.cost.peak_kib as f64) / 1024.0,
            requests: median(|run| run.counts.requests as f64),
            connections: median(|run| run.counts.connections as f64),
            at_once: median(|run| run.counts.at_once as f64),
            sent: median(|run| run.counts.bytes as f64),
        }
    }

    /// Takes the medians of a client's runs.
    pub fn of_client(client: &Client, runs: &[Run], tree: &Tree) -> Self {
        let mut row = Self::of(client.name, runs, tree.files, tree.bytes);
        if client.program.is_none() {
            "not installed".clone_into(&mut row.without);
        }
        row
    }

    /// CPU for each file, microseconds.
    pub fn cpu_a_file(&self) -> f64 {
        self.cpu * 1e6 / self.files as f64
    }

    fn print(&self) {
        if self.rounds == 0 {
            println!("| {:<15} | {} |", self.client, self.without);
            return;
        }
        println!(
            "| {:<15} | {:>6} | {:>7.3} | {:>8.0} | {:>7.1} | {:>6.2} | {:>11.0} | {:>8.1} | {:>8} | {:>11} | {:>7} | {:>8.1} |",
            self.client,
            self.rounds,
            self.wall,
            self.files as f64 / self.wall,
            mib(self.bytes as f64) / self.wall,
            self.cpu,
            self.cpu_a_file(),
            self.peak_mib,
            self.requests,
            self.connections,
            self.at_once,
            mib(self.sent),
        );
    }
}

fn mib(bytes: f64) -> f64 {
    bytes / f64::from(1 << 20)
}

impl Results {
    /// Reads what other runs have left.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .with_context(|| format!("{} is not in order; remove it", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).context("could not read the results"),
        }
    }

    /// Takes a row in the place of the one of the same client.
    pub fn note(&mut self, work: &str, row: Row) {
        let rows = self.works.entry(work.to_owned()).or_default();
        match rows.iter_mut().find(|old| old.client == row.client) {
            Some(old) => *old = row,
            None => rows.push(row),
        }
    }

    /// Leaves it for other runs.
    pub fn save(&self, path: &Path) -> anyhow::Result<()> {
        let mut file = fs::File::create(path)?;
        file.write_all(serde_json::to_string_pretty(self)?.as_bytes())?;
        Ok(())
    }

    /// Prints the table of one work.
    pub fn print(&self, work: &str) {
        println!("\n{work}\n");
        println!(
            "| client          | rounds |  wall s |  files/s |   MiB/s |  CPU s | CPU µs/file | peak MiB | requests | connections | at once | sent MiB |"
        );
        println!(
            "| --------------- | -----: | ------: | -------: | ------: | -----: | ----------: | -------: | -------: | ----------: | ------: | -------: |"
        );
        for row in self.works.get(work).into_iter().flatten() {
            row.print();
        }
    }

    /// Prints everything.
    pub fn print_all(&self) {
        for work in self.works.keys() {
            self.print(work);
        }
        println!();
        for (name, value) in &self.figures {
            println!("{name}: {value:.3}");
        }
    }
}

/// Says what machine this is, and who was measured on it.
pub fn print_machine(clients: &[Client]) {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    let model = model.unwrap_or_default().trim_matches([' ', '\t', ':']);
    let mut versions: Vec<String> = clients.iter().filter_map(Client::version).collect();
    versions.dedup();
    println!(
        "{cores} cores of {model}, Linux {}; {}",
        kernel.trim(),
        versions.join(", ")
    );
}

/// Returns the middle one, or the lower of the two.
pub fn median(numbers: Vec<f64>) -> f64 {
    quantile(numbers, 0.5)
}

/// Returns the smallest number that at least `share` of them are not above.
pub fn quantile(mut numbers: Vec<f64>, share: f64) -> f64 {
    numbers.sort_by(f64::total_cmp);
    let place = (numbers.len() as f64 * share).ceil() as usize;
    let at = place.max(1) - 1;
    numbers.get(at).copied().unwrap_or(0.0)
}
