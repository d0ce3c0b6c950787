//! A second run: with nothing to do, and after a folder got another name.

use std::path::Path;
use std::time::Duration;

use anyhow::ensure;

use crate::client::{Client, Deed, Kind, Place};
use crate::data;
use crate::endpoint::Way;
use crate::table::{Row, Run};
use crate::{Bench, Endpoint};

/// 100,000 files that the bucket has: one tidewatch has put them there, and every client finds them.
pub fn second(bench: &mut Bench<'_>) -> anyhow::Result<()> {
    let files = bench.options.files.unwrap_or(100_000);
    let latency = bench.options.latency.unwrap_or(Duration::from_millis(30));
    let mut clients = bench.options.chosen(Deed::Level)?;
    let tree = bench.scratch.even(files, 4096)?;
    let name = format!("nothing to do, {files} files at {} ms", latency.as_millis());
    clients.retain(|client| {
        // It asks for each object's time, eight at once.
        let stays = client.kind != Kind::RcloneDefault || files <= 10_000;
        if !stays && !bench.options.names(client) {
            eprintln!("{name}: without {}, which takes minutes", client.name);
        }
        stays || bench.options.names(client)
    });
    // With what was stored beside the files: some look at nothing else.
    let mut endpoint = Endpoint::start(Way {
        keeps: true,
        tls: false,
    })?;
    let url = endpoint.url.clone();
    // Tidewatch's own is known; what the others leave there is removed with it.
    let state = bench.scratch.temporary()?;
    let place = Place {
        folder: &tree.folder,
        state: state.path(),
        url: &url,
    };
    eprintln!("{name}: filling the bucket");
    fill(bench, &place)?;
    data::warm(&tree)?;
    let mut runs: Vec<Vec<Run>> = clients.iter().map(|_| Vec::new()).collect();
    for round in 1..=bench.options.rounds {
        for (client, runs) in clients.iter().zip(&mut runs) {
            let is_enough = client.is_slow && round > 1 && !bench.options.names(client);
            if client.program.is_none() || is_enough {
                continue;
            }
            eprintln!("{name}, round {round}: {}", client.name);
            data::flush()?;
            endpoint.count(latency)?;
            let cost = client.run(Deed::Level, &place)?;
            let counts = endpoint.count(latency)?;
            let mut faults = Vec::new();
            if !cost.success {
                faults.push("it said that it failed".to_owned());
            }
            if counts.puts + counts.copies + counts.deletes > 0 {
                faults.push(format!("it wrote {} objects", counts.puts + counts.copies));
            }
            if client.kind == Kind::Tidewatch && counts.requests != counts.lease {
                let more = counts.requests - counts.lease;
                faults.push(format!("{more} requests besides the lease's"));
            }
            bench.complain(client.name, &faults);
            if faults.is_empty() {
                runs.push(Run { cost, counts });
            }
        }
    }
    for (client, runs) in clients.iter().zip(&runs) {
        let row = Row::of_client(client, runs, &tree);
        bench.results.note(&name, row);
    }
    bench.results.print(&name);
    Ok(())
}

/// Lets tidewatch sync the folder to the endpoint.
pub fn fill(bench: &Bench<'_>, place: &Place<'_>) -> anyhow::Result<()> {
    let clients = crate::client::of(Deed::Up, &bench.options.program);
    for tidewatch in clients.iter().filter(|one| one.kind == Kind::Tidewatch) {
        ensure!(
            tidewatch.run(Deed::Up, place)?.success,
            "the bucket could not be filled"
        );
    }
    Ok(())
}

/// A folder of 10,000 files that each client has uploaded itself, and that then has another name.
pub fn rename(bench: &mut Bench<'_>) -> anyhow::Result<()> {
    let files = bench.options.files.unwrap_or(10_000);
    let latency = bench.options.latency.unwrap_or(Duration::from_millis(30));
    let mut clients = bench.options.chosen(Deed::Renamed)?;
    let tree = bench.scratch.even(files, 4096)?;
    let name = format!("a folder of {files} renamed at {} ms", latency.as_millis());
    clients.retain(|client| !client.is_slow || bench.options.names(client));
    data::warm(&tree)?;
    let root = bench.scratch.temporary()?;
    let names = [root.path().join("before"), root.path().join("after")];
    moved(&tree.folder, &names[0])?;
    let mut runs: Vec<Vec<Run>> = clients.iter().map(|_| Vec::new()).collect();
    for round in 1..=bench.options.rounds {
        for (client, runs) in clients.iter().zip(&mut runs) {
            if client.program.is_none() {
                continue;
            }
            eprintln!("{name}, round {round}: {}", client.name);
            let run = renamed(bench, client, root.path(), &names, latency)?;
            moved(&names[1], &names[0])?;
            let mut faults = Vec::new();
            if !run.cost.success {
                faults.push("it said that it failed".to_owned());
            }
            if run.counts.keys != files as u64 {
                faults.push(format!("{} objects are there", run.counts.keys));
            }
            bench.complain(client.name, &faults);
            if faults.is_empty() {
                runs.push(run);
            }
        }
    }
    moved(&names[0], &tree.folder)?;
    for (client, runs) in clients.iter().zip(&runs) {
        let row = Row::of_client(client, runs, &tree);
        bench.results.note(&name, row);
    }
    bench.results.print(&name);
    Ok(())
}

fn renamed(
    bench: &Bench<'_>,
    client: &Client,
    root: &Path,
    names: &[std::path::PathBuf; 2],
    latency: Duration,
) -> anyhow::Result<Run> {
    let state = bench.scratch.temporary()?;
    let mut endpoint = Endpoint::start(Way::default())?;
    let url = endpoint.url.clone();
    let place = Place {
        folder: root,
        state: state.path(),
        url: &url,
    };
    ensure!(
        client.run(Deed::Up, &place)?.success,
        "{} could not upload the folder",
        client.name
    );
    moved(&names[0], &names[1])?;
    data::flush()?;
    endpoint.count(latency)?;
    let cost = client.run(Deed::Renamed, &place)?;
    let counts = endpoint.count(latency)?;
    Ok(Run { cost, counts })
}

#[expect(
    clippy::disallowed_methods,
    reason = "these are users' files, which nobody renames durably"
)]
fn moved(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::rename(from, to)?;
    Ok(())
}
