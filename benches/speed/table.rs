//! The tables.

use std::fs;
use std::time::Duration;

use crate::client::{Client, Cost};
use crate::endpoint::Counts;

/// One run of one client.
pub struct Run {
    /// What it took.
    pub cost: Cost,
    /// What the endpoint saw of it.
    pub counts: Counts,
}

/// What each client was given to do.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// Files.
    pub files: usize,
    /// Bytes of each.
    pub size: usize,
    /// What the endpoint waited before each answer.
    pub latency: Duration,
}

/// Prints one row for each client: the median of each number.
pub fn print(title: &str, clients: &[Client], runs: &[Vec<Run>], work: Work) {
    let Work {
        files,
        size,
        latency,
    } = work;
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut versions: Vec<String> = clients.iter().map(Client::version).collect();
    versions.dedup();
    let rounds = runs.iter().map(Vec::len).max().unwrap_or(0);
    println!(
        "{title}: {files} x {size} bytes, {} ms latency, median of {rounds}",
        latency.as_millis()
    );
    println!(
        "{cores} cores, Linux {}; {}\n",
        kernel.trim(),
        versions.join(", ")
    );
    println!(
        "| client         | wall s | files/s |  MB/s | CPU s | CPU µs/file | peak MiB | requests | connections | at once |"
    );
    println!(
        "| -------------- | -----: | ------: | ----: | ----: | ----------: | -------: | -------: | ----------: | ------: |"
    );
    let (files, size) = (files as f64, size as f64);
    for (client, runs) in clients.iter().zip(runs) {
        if runs.is_empty() {
            println!("| {:<14} | not installed |", client.name);
            continue;
        }
        let median = |of: fn(&Run) -> f64| median(runs.iter().map(of).collect());
        let wall = median(|run| run.cost.wall_seconds);
        let cpu = median(|run| run.cost.cpu_seconds);
        println!(
            "| {:<14} | {wall:>6.2} | {:>7.0} | {:>5.0} | {cpu:>5.2} | {:>11.0} | {:>8.1} | {:>8} | {:>11} | {:>7} |",
            client.name,
            files / wall,
            files * size / wall / 1e6,
            cpu * 1e6 / files,
            median(|run| run.cost.peak_kib as f64) / 1024.0,
            median(|run| run.counts.requests as f64),
            median(|run| run.counts.connections as f64),
            median(|run| run.counts.at_once as f64),
        );
    }
    println!();
}

/// Returns the middle one, or the lower of the two.
fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get((numbers.len() - 1) / 2).copied().unwrap_or(0.0)
}
