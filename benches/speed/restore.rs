//! Files out of a bucket into an empty folder: what one `tidewatch sync` has put there, catalog and all, for each client.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::ensure;

use crate::client::{self, Client, Place};
use crate::table::{self, Run, Work};
use crate::{Endpoint, Options, fill, flush, name_of};

/// Measures and prints; returns false if a client did not do its work.
pub fn bench(options: &Options, files: usize, size: usize) -> anyhow::Result<bool> {
    let clients = options.chosen(client::restoring())?;
    // Below the target folder, which is on a disk.
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let folder = place.path().join("folder");
    fill(&folder, files, size)?;
    let mut endpoint = Endpoint::start()?;
    endpoint.count(Duration::ZERO)?;
    put_there(&folder, place.path(), &endpoint.url)?;
    let work = Work {
        files,
        size,
        latency: options.latency.unwrap_or_default(),
    };
    let mut all_well = true;
    let mut runs: Vec<Vec<Run>> = clients.iter().map(|_| Vec::new()).collect();
    for round in 1..=options.rounds {
        for (client, runs) in clients.iter().zip(&mut runs) {
            if client.program.is_none() {
                continue;
            }
            eprintln!(
                "restore, round {round} of {}: {}",
                options.rounds, client.name
            );
            // Nothing is removed before the end: ext4 passes over the inodes of files that were just removed, which would
            // make each run slower than the one before.
            let back = place.path().join(format!("{}-{round}", client.name));
            let state = place.path().join("state");
            fs::create_dir(&back)?;
            fs::create_dir(&state)?;
            flush()?;
            endpoint.count(work.latency)?;
            let cost = client.run(&Place {
                folder: &back,
                state: &state,
                url: &endpoint.url,
            })?;
            let counts = endpoint.count(work.latency)?;
            if let Some(fault) = fault(&folder, &back, cost.success, work)? {
                eprintln!("{}: {fault}", client.name);
                all_well = false;
            }
            fs::remove_dir_all(&state)?;
            runs.push(Run { cost, counts });
        }
    }
    table::print("restore", &clients, &runs, work);
    Ok(all_well)
}

/// Lets tidewatch sync the folder to the endpoint.
fn put_there(folder: &Path, place: &Path, url: &str) -> anyhow::Result<()> {
    let state = place.join("state");
    fs::create_dir(&state)?;
    let clients = client::uploading().into_iter();
    for tidewatch in clients.filter(|client: &Client| client.name == "tidewatch") {
        let cost = tidewatch.run(&Place {
            folder,
            state: &state,
            url,
        })?;
        ensure!(cost.success, "there is nothing to restore");
    }
    fs::remove_dir_all(&state)?;
    Ok(())
}

/// Says what is wrong with what came back.
fn fault(folder: &Path, back: &Path, success: bool, work: Work) -> anyhow::Result<Option<String>> {
    if !success {
        return Ok(Some("it said that it failed".to_owned()));
    }
    for number in 0..work.files {
        let name = name_of(number);
        let is_back = fs::read(back.join(&name)).ok();
        if is_back.as_ref() != Some(&fs::read(folder.join(&name))?) {
            return Ok(Some(format!("{name} did not come back as it was")));
        }
    }
    let folders = fs::read_dir(back)?.collect::<Result<Vec<_>, _>>()?;
    let inside = folders
        .iter()
        .map(|one| Ok(fs::read_dir(one.path())?.count()));
    let count: usize = inside.sum::<anyhow::Result<usize>>()?;
    Ok((count != work.files).then(|| format!("{count} files came back")))
}
