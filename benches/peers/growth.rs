//! What a file costs among 10,000, among 100,000 and among a million; and an agent that starts with a million and then
//! has nothing to do.

use std::time::Duration;

use crate::agent::Agent;
use crate::client::{Deed, Kind, Place};
use crate::data;
use crate::endpoint::{Way, now_micros};
use crate::live::until_there;
use crate::table::{Row, Run};
use crate::{Bench, Endpoint};

/// The work's name.
pub const NAME: &str = "first sync of files up to 100 bytes at 0 ms";

/// How long an agent with nothing to do is watched.
const IDLE: Duration = Duration::from_secs(60);

/// Measures and prints.
pub fn bench(bench: &mut Bench<'_>) -> anyhow::Result<()> {
    let sizes = match bench.options.files {
        Some(files) => vec![files],
        None => vec![10_000, 100_000, 1_000_000],
    };
    for files in sizes {
        let rounds = if files > 100_000 {
            1
        } else {
            bench.options.rounds
        };
        let tree = bench.scratch.tiny(files)?;
        data::warm(&tree)?;
        let mut runs = Vec::new();
        for round in 1..=rounds {
            eprintln!("{NAME}, {files} files, round {round}");
            let state = bench.scratch.temporary()?;
            let mut endpoint = Endpoint::start(Way::default())?;
            let url = endpoint.url.clone();
            let place = Place {
                folder: &tree.folder,
                state: state.path(),
                url: &url,
            };
            data::flush()?;
            endpoint.count(Duration::ZERO)?;
            let clients = bench.options.chosen(Deed::Up)?;
            for client in clients.iter().filter(|one| one.kind == Kind::Tidewatch) {
                let cost = client.run(Deed::Up, &place)?;
                let counts = endpoint.count(Duration::ZERO)?;
                let mut faults = Vec::new();
                if !cost.success || counts.keys != files as u64 {
                    faults.push(format!("{} of {files} are there", counts.keys));
                }
                bench.complain(client.name, &faults);
                runs.push(Run { cost, counts });
            }
            if round == rounds && files >= 1_000_000 {
                staying(bench, &place, &mut endpoint, files)?;
            }
        }
        let row = Row::of(&format!("{files} files"), &runs, tree.files, tree.bytes);
        bench.results.note(NAME, row);
        bench.results.save(&bench.options.results)?;
    }
    bench.results.print(NAME);
    Ok(())
}

/// An agent that starts where all is known and one file is new; and what it takes while nothing happens.
fn staying(
    bench: &mut Bench<'_>,
    place: &Place<'_>,
    endpoint: &mut Endpoint,
    files: usize,
) -> anyhow::Result<()> {
    let live = data::Removed(place.folder.join("live"));
    data::write(&live.0.join("new"), b"written while nobody looked")?;
    endpoint.count(Duration::ZERO)?;
    let began = now_micros();
    let mut agent = Agent::start(&bench.options.program, place)?;
    let counts = until_there(endpoint, Duration::ZERO, 1)?;
    let first = (counts.last_micros - began) as f64 / 1e6;
    agent.until_level()?;
    let (level, scan) = ((now_micros() - began) as f64 / 1e6, agent.cpu()?);
    // What a scan has left is given back within moments.
    std::thread::sleep(Duration::from_secs(10));
    let cpu = agent.cpu()?;
    std::thread::sleep(IDLE);
    let share = (agent.cpu()? - cpu) / IDLE.as_secs_f64() * 100.0;
    let (own, most) = agent.memory()?;
    drop(agent);
    drop(live);
    for (what, figure) in [
        ("restart to the first object, s", first),
        ("restart to level, s", level),
        ("CPU from restart to level, s", scan),
        ("CPU while nothing happens, percent of a core", share),
        ("allocated while nothing happens, MiB", own),
        ("most that was resident, MiB", most),
    ] {
        println!("an agent with {files} files: {what}: {figure:.3}");
        let figures = &mut bench.results.figures;
        figures.insert(format!("an agent with {files} files: {what}"), figure);
    }
    Ok(())
}
