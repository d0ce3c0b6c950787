//! Files into an empty bucket: a new endpoint for each run.

use std::time::Duration;

use crate::client::{Client, Deed, Kind, Place};
use crate::data::{self, Tree};
use crate::endpoint::Way;
use crate::table::{Row, Run};
use crate::{Bench, Endpoint};

/// What is uploaded, and where to.
pub struct Work {
    /// What it is called.
    pub name: String,
    /// The files.
    pub tree: Tree,
    /// What the endpoint waits before each answer.
    pub latency: Duration,
    /// Whether it speaks TLS.
    pub tls: bool,
}

/// Files of 4 KiB at the latencies of a loop, of a region, and of a continent.
pub fn small(bench: &mut Bench<'_>, files: usize) -> anyhow::Result<()> {
    let latencies = match bench.options.latency {
        Some(latency) => vec![latency],
        None => [0, 30, 100].map(Duration::from_millis).to_vec(),
    };
    for latency in latencies {
        let tree = bench.scratch.even(files, 4096)?;
        let name = format!("{files} x 4 KiB at {} ms", latency.as_millis());
        run(
            bench,
            &Work {
                name,
                tree,
                latency,
                tls: false,
            },
        )?;
    }
    Ok(())
}

/// 300 files of 1 MiB at 30 ms.
pub fn medium(bench: &mut Bench<'_>) -> anyhow::Result<()> {
    let files = bench.options.files.unwrap_or(300);
    let tree = bench.scratch.even(files, 1 << 20)?;
    at_30(bench, &format!("{files} x 1 MiB"), tree, false)
}

/// One large file at 30 ms.
pub fn large(bench: &mut Bench<'_>, len: u64, tls: bool) -> anyhow::Result<()> {
    let tree = bench.scratch.even(1, len as usize)?;
    let name = match len {
        _ if len.is_multiple_of(1 << 30) => format!("one of {} GiB", len >> 30),
        _ => format!("one of {} MiB", len >> 20),
    };
    at_30(bench, &name, tree, tls)
}

/// Files of every size at 30 ms.
pub fn mixed(bench: &mut Bench<'_>) -> anyhow::Result<()> {
    let tree = bench.scratch.mixed()?;
    at_30(bench, "mixed tree", tree, false)
}

fn at_30(bench: &mut Bench<'_>, name: &str, tree: Tree, tls: bool) -> anyhow::Result<()> {
    let latency = bench.options.latency.unwrap_or(Duration::from_millis(30));
    let over = if tls { " over TLS" } else { "" };
    let name = format!("{name} at {} ms{over}", latency.as_millis());
    run(
        bench,
        &Work {
            name,
            tree,
            latency,
            tls,
        },
    )
}

/// Measures one work with every client that is chosen.
pub fn run(bench: &mut Bench<'_>, work: &Work) -> anyhow::Result<()> {
    let Work { name, tree, .. } = work;
    let mut clients = bench.options.chosen(Deed::Up)?;
    let is_long =
        tree.files > 10_000 || work.latency * tree.files as u32 > Duration::from_secs(300);
    clients.retain(|client| {
        let stays = !(client.is_slow && is_long) || bench.options.names(client);
        if !stays {
            eprintln!("{name}: without {}, which takes minutes", client.name);
        }
        // It takes an address with a port for plain HTTP.
        stays && !(work.tls && client.kind == Kind::Juicefs)
    });
    data::warm(tree)?;
    let mut runs: Vec<Vec<Run>> = clients.iter().map(|_| Vec::new()).collect();
    for round in 1..=bench.options.rounds {
        for (client, runs) in clients.iter().zip(&mut runs) {
            // What is slow at this is so by a factor that one round shows.
            let is_enough = client.is_slow && tree.files > 1_000 && round > 1;
            if client.program.is_none() || is_enough && !bench.options.names(client) {
                continue;
            }
            eprintln!("{name}, round {round}: {}", client.name);
            let run = once(bench, client, work)?;
            let faults = faults(&run, work);
            bench.complain(client.name, &faults);
            // What did not do the work has no time for it.
            if faults.is_empty() {
                runs.push(run);
            }
        }
    }
    for (client, runs) in clients.iter().zip(&runs) {
        let row = Row::of_client(client, runs, tree);
        bench.results.note(name, row);
    }
    bench.results.print(name);
    Ok(())
}

fn once(bench: &Bench<'_>, client: &Client, work: &Work) -> anyhow::Result<Run> {
    let state = bench.scratch.temporary()?;
    let mut endpoint = Endpoint::start(Way {
        keeps: false,
        tls: work.tls,
    })?;
    let url = endpoint.url.clone();
    let place = Place {
        folder: &work.tree.folder,
        state: state.path(),
        url: &url,
    };
    client.prepare(&place)?;
    data::flush()?;
    endpoint.count(work.latency)?;
    let cost = client.run(Deed::Up, &place)?;
    let counts = endpoint.count(work.latency)?;
    Ok(Run { cost, counts })
}

/// Says what is wrong with a run. Whoever sends a file twice, or not at all, has not been measured at the same work.
fn faults(run: &Run, work: &Work) -> Vec<String> {
    let mut faults = Vec::new();
    let (files, counts) = (work.tree.files as u64, &run.counts);
    let mut expect = |what: &str, found: u64, expected: u64| {
        if found != expected {
            faults.push(format!("{what}: {found} instead of {expected}"));
        }
    };
    expect("different objects", counts.keys, files);
    expect("objects written", counts.puts + counts.copies, files);
    // Two of the smallest may be alike; then one is a copy.
    if counts.copies == 0 {
        expect("bytes", counts.bytes, work.tree.bytes);
    }
    if !run.cost.success {
        faults.push("it said that it failed".to_owned());
    }
    faults
}
