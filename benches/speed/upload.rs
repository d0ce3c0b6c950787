//! Many small files into an empty bucket: a new endpoint for each run.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::client::{self, Client, Place};
use crate::table::{self, Run, Work};
use crate::{Endpoint, Options, fill};

/// What the endpoint waits before each answer, unless it is said otherwise.
const LATENCY: Duration = Duration::from_millis(30);

/// Measures and prints; returns false if a client did not do its work.
pub fn bench(options: &Options) -> anyhow::Result<bool> {
    let clients = options.chosen(client::uploading())?;
    // Below the target folder, which is on a disk: a commit that waits for nothing would flatter us.
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let folder = place.path().join("folder");
    fill(&folder, options.files, options.size)?;
    let work = Work {
        files: options.files,
        size: options.size,
        latency: options.latency.unwrap_or(LATENCY),
    };
    let mut all_well = true;
    let mut runs: Vec<Vec<Run>> = clients.iter().map(|_| Vec::new()).collect();
    for round in 1..=options.rounds {
        for (client, runs) in clients.iter().zip(&mut runs) {
            if client.program.is_none() {
                continue;
            }
            eprintln!(
                "upload, round {round} of {}: {}",
                options.rounds, client.name
            );
            let state = place.path().join("state");
            fs::create_dir(&state)?;
            let run = once(client, &folder, &state, work)?;
            fs::remove_dir_all(&state)?;
            for fault in faults(client, &run, work) {
                eprintln!("{}: {fault}", client.name);
                all_well = false;
            }
            runs.push(run);
        }
    }
    table::print("upload", &clients, &runs, work);
    Ok(all_well)
}

fn once(client: &Client, folder: &Path, state: &Path, work: Work) -> anyhow::Result<Run> {
    let mut endpoint = Endpoint::start()?;
    endpoint.count(work.latency)?;
    let cost = client.run(&Place {
        folder,
        state,
        url: &endpoint.url,
    })?;
    let counts = endpoint.count(work.latency)?;
    Ok(Run { cost, counts })
}

/// Says what is wrong with a run. Whoever sends a file twice, or not at all, has not been measured at the same work.
fn faults(client: &Client, run: &Run, work: Work) -> Vec<String> {
    let mut faults = Vec::new();
    let (files, counts) = (work.files as u64, &run.counts);
    let mut expect = |what: &str, found: u64, expected: u64| {
        if found != expected {
            faults.push(format!("{what}: {found} instead of {expected}"));
        }
    };
    expect("different objects", counts.keys, files);
    expect("PutObject requests", counts.puts, files);
    expect("bytes", counts.bytes, files * work.size as u64);
    if !run.cost.success {
        faults.push(format!("{} said that it failed", client.name));
    }
    faults
}
