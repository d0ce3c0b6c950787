//! `tidewatch drill`, and the drills of a service: does the backup come back?
//!
//! A drill restores a random sample of files and one whole folder into a scratch place inside the state folder, in the same
//! way as `restore` does, compares what came back with the disk, takes the scratch place away, and keeps how it went: in the
//! state folder, and as a line that the agent writes into the catalog. Only reads the bucket. What changed on the disk since
//! it was synced is counted and is no fault. A bucket that goes away meanwhile is the reason why it could not be told, and
//! no fault of the backup.

mod judge;
pub mod routine;
mod sample;
pub mod trial;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::base::clock::{Clock, rfc3339};
use crate::base::drill::Drill;
use crate::base::offload::Offload;
use crate::base::units::{show_bytes, show_duration};
use crate::commands::Exit;
use crate::commands::control;
use crate::commands::drill::trial::{stopped, unreachable};
use crate::commands::folders::shown;
use crate::commands::signals::Signals;
use crate::commands::stores::Stores;
use crate::config::Folder;
use crate::report::drill_file::{self, Drilled};
use crate::report::out::{Out, note};

/// What `drill` is asked to do.
#[derive(Clone, Debug)]
pub struct DrillOptions {
    /// The folders, and the state folder of each.
    pub folders: Vec<(Folder, PathBuf)>,
    /// Bytes of content in memory.
    pub memory_bytes: u64,
    /// One JSON object for each folder.
    pub json: bool,
}

#[derive(Serialize)]
struct Told<'a> {
    folder: &'a str,
    to: String,
    time: String,
    #[serde(flatten)]
    drilled: &'a Drilled,
}

/// Drills each folder, now. Exit 0: all came back; 3: something did not; 5: the bucket cannot be reached.
pub async fn drill(options: DrillOptions) -> anyhow::Result<Exit> {
    let mut signals = Signals::listen()?;
    let stop = CancellationToken::new();
    let (mut out, mut exit) = (Out::stdout(), Exit::Level);
    for (folder, state_dir) in &options.folders {
        let (drilled, ended) = {
            let mut work = Box::pin(one(folder, state_dir, options.memory_bytes, &stop));
            tokio::select! {
                done = &mut work => done,
                asked = signals.next() => {
                    stop.cancel();
                    // What was restored is taken away again.
                    tokio::select! {
                        _ = &mut work => {}
                        _ = signals.next() => {}
                    }
                    return Ok(asked.exit());
                }
            }
        };
        exit = exit.strongest(ended);
        let line = if options.json {
            let (to, time) = (folder.to.to_string(), rfc3339(drilled.at_ns));
            let folder = folder.name.as_str();
            serde_json::to_string(&Told {
                folder,
                to,
                time,
                drilled: &drilled,
            })?
        } else {
            format!("{}: {}", folder.name, text(&drilled))
        };
        out.line(line).context("write the results")?;
        if !options.json {
            for wrong in &drilled.wrong {
                out.line(format!("  {wrong}"))
                    .context("write the results")?;
            }
        }
    }
    Ok(exit)
}

/// Returns how a drill went, as one line.
pub fn text(drilled: &Drilled) -> String {
    if let Some(error) = &drilled.error {
        return format!("FAILED: {error}");
    }
    let took = show_duration(Duration::from_secs_f64(drilled.seconds.max(0.0)));
    let how = if drilled.ok { "ok" } else { "FAILED" };
    format!(
        "{how}: {} files ({}) came back in {took}; {} are the same on the disk, {} have changed since",
        drilled.files,
        show_bytes(drilled.bytes),
        drilled.same,
        drilled.changed
    )
}

/// Drills one folder, and keeps how it went.
pub async fn one(
    folder: &Folder,
    state_dir: &Path,
    memory_bytes: u64,
    stop: &CancellationToken,
) -> (Drilled, Exit) {
    let began = Clock::Real.now();
    let stores = Stores::default();
    let opened = tokio::select! {
        opened = stores.open(folder) => opened.map_err(|error| unreachable(&error)),
        () = stop.cancelled() => Err(stopped()),
    };
    let (mut drilled, exit) = match opened {
        Ok(store) => trial::try_out(store, folder, state_dir, memory_bytes, stop).await,
        Err((why, exit)) => {
            let error = Some(why);
            (
                Drilled {
                    error,
                    ..Drilled::default()
                },
                exit,
            )
        }
    };
    let took = Clock::Real.now().mono.saturating_duration_since(began.mono);
    (drilled.at_ns, drilled.seconds) = (began.wall_ns, took.as_secs_f64());
    if !stop.is_cancelled() {
        let (dir, to, kept) = (state_dir.to_owned(), folder.to.to_string(), drilled.clone());
        let kept = Offload::Pool.run(move || drill_file::keep(&dir, &to, &kept));
        if let Err(error) = kept.await {
            let dir = shown(state_dir);
            note(format_args!(
                "tidewatch: how the drill went could not be kept in {dir}: {error}"
            ));
        }
        if drilled.error.is_none() {
            tell_catalog(folder, state_dir, &drilled).await;
        }
    }
    (drilled, exit)
}

/// Leaves a line for the catalog; the agent of the folder writes it.
async fn tell_catalog(folder: &Folder, state_dir: &Path, drilled: &Drilled) {
    let host = rustix::system::uname().nodename().to_string_lossy().into();
    let line = Drill {
        host,
        ok: drilled.ok,
        files: drilled.files,
        bytes: drilled.bytes,
        same: drilled.same,
        changed: drilled.changed,
        wrong: drilled.wrong.len() as u64,
    };
    let (dir, root, to) = (state_dir.to_owned(), folder.path.clone(), folder.to.clone());
    let told = Offload::Pool.run(move || control::note_drill(&dir, (&root, &to), line));
    if let Err(error) = told.await {
        tracing::warn!(folder = %folder.name, "the catalog is not told how the drill went: could not {error}");
    }
}
