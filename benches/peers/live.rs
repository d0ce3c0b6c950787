//! From a save to its object: of a running agent that has nothing else to do, and of one in the middle of its first sync.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::ensure;

use crate::agent::Agent;
use crate::client::Place;
use crate::data;
use crate::endpoint::{Counts, Way, now_micros};
use crate::table::quantile;
use crate::{Bench, Endpoint};

/// Saves while there is nothing else to do.
const IDLE: usize = 100;

/// How long a save may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two saves during the first sync.
const PAUSE: Duration = Duration::from_millis(150);

/// Waits until so many files in a folder `live` are there; returns what the endpoint saw meanwhile.
pub fn until_there(
    endpoint: &mut Endpoint,
    latency: Duration,
    files: usize,
) -> anyhow::Result<Counts> {
    let until = now_micros() + PATIENCE.as_micros() as u64;
    let mut all = Counts::default();
    while all.live.len() < files {
        ensure!(now_micros() < until, "a save did not arrive");
        std::thread::sleep(Duration::from_millis(10));
        let counts = endpoint.count(latency)?;
        all.requests += counts.requests;
        all.connections += counts.connections;
        all.at_once = all.at_once.max(counts.at_once);
        all.puts += counts.puts;
        all.bytes += counts.bytes;
        all.last_micros = all.last_micros.max(counts.last_micros);
        all.live.extend(counts.live);
    }
    Ok(all)
}

/// Measures and prints.
pub fn bench(bench: &mut Bench<'_>) -> anyhow::Result<()> {
    let latency = bench.options.latency.unwrap_or(Duration::from_millis(30));
    let (idle, during) = (idle(bench, latency)?, during(bench, latency)?);
    println!(
        "\nfrom a save to its object at {} ms\n",
        latency.as_millis()
    );
    println!("| while             | saves | p50 ms | p99 ms | most ms |");
    println!("| ----------------- | ----: | -----: | -----: | ------: |");
    for (name, waits) in [("idle", idle), ("the first sync", during)] {
        let [p50, p99, most] = [0.5, 0.99, 1.0].map(|share| quantile(waits.clone(), share));
        println!(
            "| {name:<17} | {:>5} | {p50:>6.0} | {p99:>6.0} | {most:>7.0} |",
            waits.len()
        );
        let figures = &mut bench.results.figures;
        let name = format!("save to object at {} ms, {name}", latency.as_millis());
        figures.insert(format!("{name}: saves"), waits.len() as f64);
        figures.insert(format!("{name}: p50 ms"), p50);
        figures.insert(format!("{name}: p99 ms"), p99);
        figures.insert(format!("{name}: most ms"), most);
    }
    Ok(())
}

/// One save after the other, each waited for.
fn idle(bench: &Bench<'_>, latency: Duration) -> anyhow::Result<Vec<f64>> {
    eprintln!("saves while there is nothing else to do");
    let (folder, state) = (bench.scratch.temporary()?, bench.scratch.temporary()?);
    let mut endpoint = Endpoint::start(Way::default())?;
    endpoint.count(latency)?;
    let url = endpoint.url.clone();
    let mut agent = Agent::start(
        &bench.options.program,
        &Place {
            folder: folder.path(),
            state: state.path(),
            url: &url,
        },
    )?;
    agent.until_level()?;
    let mut waits = Vec::new();
    for number in 0..bench.options.files.unwrap_or(IDLE) {
        let written = save(folder.path(), number)?;
        let counts = until_there(&mut endpoint, latency, 1)?;
        waits.push((counts.last_micros - written) as f64 / 1e3);
    }
    Ok(waits)
}

/// Saves beside 50,000 files that go up for the first time.
fn during(bench: &Bench<'_>, latency: Duration) -> anyhow::Result<Vec<f64>> {
    eprintln!("saves during a first sync");
    let tree = bench.scratch.even(50_000, 4096)?;
    // The tree is there for others too.
    let live = data::Removed(tree.folder.join("live"));
    data::warm(&tree)?;
    let state = bench.scratch.temporary()?;
    let mut endpoint = Endpoint::start(Way::default())?;
    endpoint.count(latency)?;
    let url = endpoint.url.clone();
    let agent = Agent::start(
        &bench.options.program,
        &Place {
            folder: &tree.folder,
            state: state.path(),
            url: &url,
        },
    )?;
    let (mut written, mut arrived) = (BTreeMap::new(), BTreeMap::new());
    let (mut puts, mut number) = (0, 0);
    let until = now_micros() + 10 * PATIENCE.as_micros() as u64;
    // The watcher is armed before the first file is sent.
    loop {
        ensure!(now_micros() < until, "the first sync does not end");
        std::thread::sleep(PAUSE);
        let counts = endpoint.count(latency)?;
        puts += counts.puts;
        arrived.extend(counts.live);
        if puts >= (tree.files + written.len()) as u64 {
            break;
        }
        // What comes when nearly all are there would not be beside them.
        if puts > 0 && puts < tree.files as u64 * 9 / 10 {
            written.insert(
                format!("/bucket/live/{number}"),
                save(&tree.folder, number)?,
            );
            number += 1;
        }
    }
    drop(agent);
    drop(live);
    let waits = written.into_iter().map(|(path, written)| {
        let arrived = arrived.get(&path).copied().unwrap_or(u64::MAX);
        arrived.saturating_sub(written) as f64 / 1e3
    });
    Ok(waits.collect())
}

/// Writes a file; returns when that was done, microseconds since 1970.
fn save(folder: &Path, number: usize) -> anyhow::Result<u64> {
    let mut content = vec![0; 4096];
    fastrand::Rng::with_seed(number as u64 + 1).fill(&mut content);
    data::write(&folder.join(format!("live/{number}")), &content)?;
    Ok(now_micros())
}
