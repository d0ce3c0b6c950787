//! Files out of a bucket into an empty folder: what one `tidewatch sync` has put there, catalog and all, for each client.

use std::fs;
use std::path::Path;

use crate::again::fill;
use crate::client::{Deed, Place};
use crate::data::{self, name_of};
use crate::endpoint::Way;
use crate::table::{Row, Run};
use crate::{Bench, Endpoint};

/// Measures and prints.
pub fn bench(bench: &mut Bench<'_>, files: usize, size: usize) -> anyhow::Result<()> {
    let clients = bench.options.chosen(Deed::Down)?;
    let latency = bench.options.latency.unwrap_or_default();
    let tree = bench.scratch.even(files, size)?;
    let name = match files {
        1 => format!("one of {} MiB back", size >> 20),
        _ => format!("{files} x {} KiB back", size >> 10),
    };
    let name = format!("{name} at {} ms", latency.as_millis());
    let mut endpoint = Endpoint::start(Way {
        keeps: true,
        tls: false,
    })?;
    let url = endpoint.url.clone();
    let state = bench.scratch.temporary()?;
    fill(
        bench,
        &Place {
            folder: &tree.folder,
            state: state.path(),
            url: &url,
        },
    )?;
    // Nothing is removed before the end: ext4 passes over the inodes of files that were just removed, which would make
    // each run slower than the one before.
    let place = bench.scratch.temporary()?;
    let mut runs: Vec<Vec<Run>> = clients.iter().map(|_| Vec::new()).collect();
    for round in 1..=bench.options.rounds {
        for (client, runs) in clients.iter().zip(&mut runs) {
            let is_enough =
                client.is_slow && files > 1_000 && round > 1 && !bench.options.names(client);
            if client.program.is_none() || is_enough {
                continue;
            }
            eprintln!("{name}, round {round}: {}", client.name);
            let back = place.path().join(format!("{}-{round}", client.name));
            let home = bench.scratch.temporary()?;
            fs::create_dir(&back)?;
            data::flush()?;
            endpoint.count(latency)?;
            let cost = client.run(
                Deed::Down,
                &Place {
                    folder: &back,
                    state: home.path(),
                    url: &url,
                },
            )?;
            let counts = endpoint.count(latency)?;
            let mut faults = Vec::new();
            if !cost.success {
                faults.push("it said that it failed".to_owned());
            }
            faults.extend(difference(&tree.folder, &back, files)?);
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

/// Says what is wrong with what came back.
fn difference(folder: &Path, back: &Path, files: usize) -> anyhow::Result<Option<String>> {
    for number in 0..files {
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
    Ok((count != files).then(|| format!("{count} files came back")))
}
