//! Ten small files at 130 ms: once with every client, with an agent that runs already, and with boto3 in three ways.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use crate::agent::Agent;
use crate::client::{self, Deed, Kind, Place, words};
use crate::data;
use crate::endpoint::{Way, now_micros};
use crate::live::until_there;
use crate::table::{Row, Run};
use crate::upload::{self, Work};
use crate::{Bench, Endpoint};

/// Files of the case.
const FILES: usize = 10;

/// Measures and prints.
pub fn bench(bench: &mut Bench<'_>) -> anyhow::Result<()> {
    let latency = bench.options.latency.unwrap_or(Duration::from_millis(130));
    let work = Work {
        name: format!("ten files at {} ms", latency.as_millis()),
        tree: bench.scratch.even(FILES, 4096)?,
        latency,
        tls: false,
    };
    let clients = bench.options.chosen(Deed::Up)?;
    if clients.iter().any(|client| client.kind == Kind::Tidewatch) {
        running(bench, &work)?;
    }
    if bench.options.only.is_empty() {
        boto3(bench, &work)?;
    }
    upload::run(bench, &work)
}

/// An agent holds the lease: from the last write to the last object.
fn running(bench: &mut Bench<'_>, work: &Work) -> anyhow::Result<()> {
    let (folder, state) = (bench.scratch.temporary()?, bench.scratch.temporary()?);
    let mut endpoint = Endpoint::start(Way::default())?;
    endpoint.count(work.latency)?;
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
    let mut runs = Vec::new();
    for round in 1..=bench.options.rounds {
        eprintln!("{}, round {round}: a running agent", work.name);
        agent.until_level()?;
        endpoint.count(work.latency)?;
        let cpu = agent.cpu()?;
        for number in 0..FILES {
            let content = vec![(round * FILES + number) as u8; 4096];
            data::write(
                &folder.path().join(format!("live/{round}-{number}")),
                &content,
            )?;
        }
        let written = now_micros();
        let counts = until_there(&mut endpoint, work.latency, FILES)?;
        let mut run = Run {
            counts,
            ..Run::default()
        };
        run.cost.wall_seconds = (run.counts.last_micros - written) as f64 / 1e6;
        run.cost.cpu_seconds = agent.cpu()? - cpu;
        run.cost.peak_kib = (agent.memory()?.1 * 1024.0) as i64;
        runs.push(run);
    }
    let row = Row::of("tidewatch watch", &runs, FILES, work.tree.bytes);
    bench.results.note(&work.name, row);
    Ok(())
}

/// What the article that this began with measured, with every thread waited for.
fn boto3(bench: &mut Bench<'_>, work: &Work) -> anyhow::Result<()> {
    let ways = [
        ("one", "boto3, one after another"),
        ("pool", "boto3, pool of ten"),
        ("threads", "boto3, ten threads, joined"),
    ];
    let Some(python) = python() else {
        for (_, name) in ways {
            let mut row = Row::of(name, &[], FILES, work.tree.bytes);
            "not installed".clone_into(&mut row.without);
            bench.results.note(&work.name, row);
        }
        return Ok(());
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers/seed.py");
    let mut runs = ways.map(|_| Vec::new());
    for round in 1..=bench.options.rounds {
        for ((way, name), runs) in ways.iter().zip(&mut runs) {
            eprintln!("{}, round {round}: {name}", work.name);
            let home = bench.scratch.temporary()?;
            let out = home.path().join("seconds");
            let mut endpoint = Endpoint::start(Way::default())?;
            endpoint.count(work.latency)?;
            let mut line = vec![script.clone().into()];
            line.extend(words(&[way]));
            line.push(work.tree.folder.clone().into());
            line.extend(words(&[&endpoint.url]));
            line.push(out.clone().into());
            let mut cost = client::run(&python, &line, home.path())?;
            let counts = endpoint.count(work.latency)?;
            ensure!(
                cost.success && counts.puts == FILES as u64,
                "{name} did not send them all"
            );
            cost.wall_seconds = fs::read_to_string(out)?.parse().context("no seconds")?;
            runs.push(Run { cost, counts });
        }
    }
    for ((_, name), runs) in ways.iter().zip(&runs) {
        bench
            .results
            .note(&work.name, Row::of(name, runs, FILES, work.tree.bytes));
    }
    Ok(())
}

/// Finds a Python that has boto3.
fn python() -> Option<PathBuf> {
    let python = client::find("python3")?;
    let said = Command::new(&python).args(["-c", "import boto3"]).output();
    said.is_ok_and(|said| said.status.success())
        .then_some(python)
}
