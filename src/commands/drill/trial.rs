//! One drill: brings a sample back to a scratch place and compares it with the disk.
//!
//! A file that changes while it runs, on the disk or in the bucket, and a catalog that lags behind, are no faults: whatever
//! did not come back is held against the disk before it is called wrong. An outage is no fault of the backup either.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::base::offload::Offload;
use crate::commands::Exit;
use crate::commands::drill::judge::{self, Compared};
use crate::commands::drill::sample;
use crate::commands::folders::shown;
use crate::commands::restore::past::{self, Moment};
use crate::config::Folder;
use crate::report::drill_file::Drilled;
use crate::restore::listing::Listing;
use crate::restore::plan::{By, OnConflict};
use crate::restore::target::Owners;
use crate::restore::told::{Happening, Sums, What};
use crate::restore::wanted::{Kind, Wanted};
use crate::restore::{Restore, Settings};
use crate::store::Store;
use crate::store::key::KeyMap;

/// Requests at once: it has time.
const REQUESTS: usize = 8;
/// What did not come back and is named, at most.
const NAMED: usize = 10;
/// What a scratch place is called.
const SCRATCH: &str = "drill-";
/// How old a scratch place is that nobody uses any more.
const OLD: Duration = Duration::from_secs(24 * 3600);

/// Why it cannot be told whether the backup comes back.
pub type Untold = (String, Exit);

/// Makes one of a bucket that does not answer.
pub fn unreachable(error: &dyn std::fmt::Display) -> Untold {
    (error.to_string(), Exit::Unreachable)
}

/// Makes one of a drill that was stopped.
pub fn stopped() -> Untold {
    ("it was stopped".to_owned(), Exit::Failed)
}

/// Drills one folder whose bucket is `store`, in a scratch place inside `state_dir`.
pub async fn try_out(
    store: Arc<dyn Store>,
    folder: &Folder,
    state_dir: &Path,
    memory_bytes: u64,
    stop: &CancellationToken,
) -> (Drilled, Exit) {
    let mut trial = Trial {
        store,
        folder,
        memory_bytes,
        stop,
        drilled: Drilled::default(),
    };
    let run = trial.run(state_dir).await;
    let mut drilled = trial.drilled;
    drilled.wrong.truncate(NAMED);
    let exit = match run {
        Ok(()) if drilled.wrong.is_empty() => {
            drilled.ok = true;
            Exit::Level
        }
        Ok(()) => Exit::Different,
        Err((why, exit)) => {
            drilled.error = Some(why);
            exit
        }
    };
    (drilled, exit)
}

/// One drill.
struct Trial<'a> {
    store: Arc<dyn Store>,
    folder: &'a Folder,
    memory_bytes: u64,
    stop: &'a CancellationToken,
    drilled: Drilled,
}

impl Trial<'_> {
    async fn run(&mut self, state_dir: &Path) -> Result<(), Untold> {
        let wanted = self.choose().await?;
        if wanted.is_empty() {
            return Ok(());
        }
        let scratch = Scratch::make(state_dir).map_err(|error| {
            let dir = shown(state_dir);
            let why = format!("could not make a scratch folder in {dir}: {error}");
            (why, Exit::Failed)
        })?;
        let mut rest = wanted.clone();
        for is_last in [false, true] {
            let (sums, failed) = self.bring(&scratch, rest).await?;
            if sums.is_unreachable && sums.restored == 0 && !is_last {
                let first = failed.into_iter().next();
                let why = first.map(|(_, why)| why).unwrap_or_default();
                return Err((why, Exit::Unreachable));
            }
            let failed = self.still_there(failed, |(wanted, _)| wanted).await;
            let Some((first, _)) = failed.first() else {
                break;
            };
            if is_last {
                let named = failed
                    .iter()
                    .map(|(one, why)| format!("{}: {why}", one.path));
                self.drilled.wrong.extend(named);
                break;
            }
            // What an outage has cut off is tried once more, if that is over.
            self.ask(first).await?;
            rest = failed.into_iter().map(|(wanted, _)| wanted).collect();
        }
        self.compare(&scratch, wanted).await
    }

    /// Looks at an object: an error is one that is every object's.
    async fn ask(&self, wanted: &Wanted) -> Result<(), Untold> {
        let which = wanted.which();
        let looked = tokio::select! {
            looked = self.store.head_of(&wanted.key, &which) => looked,
            () = self.stop.cancelled() => return Err(stopped()),
        };
        match looked {
            Err(error) if error.is_of_all_objects() => Err(unreachable(&error)),
            _ => Ok(()),
        }
    }

    /// Finds what there is, notes what is lost, and chooses what is brought back; nothing, if all of it is lost.
    async fn choose(&mut self) -> Result<Vec<Wanted>, Untold> {
        let now = Moment {
            at_ns: None,
            deleted: false,
        };
        let keys = KeyMap::new(&self.folder.to.prefix);
        let found = tokio::select! {
            found = past::find(&self.store, &keys, &[], now) => found,
            () = self.stop.cancelled() => return Err(stopped()),
        };
        let found = found.map_err(|error| unreachable(&error))?;
        let mut wrong = Vec::new();
        if found.is_damaged {
            wrong.extend(found.notes.into_iter().take(NAMED));
        }
        // The catalog may lag behind a file that has gone, or changed, since.
        let lost = self.still_there(found.lost, |wanted| wanted).await;
        let lost = lost.iter().take(NAMED);
        wrong.extend(
            lost.map(|one| format!("{}: its content is not in the bucket any more", one.path)),
        );
        self.drilled.wrong = wrong;
        let all = found.listing.wanted;
        let chosen = Offload::Pool.run(move || sample::pick(all, &mut fastrand::Rng::new()));
        let chosen = chosen.await;
        if chosen.is_empty() && self.drilled.wrong.is_empty() {
            let why = "there is nothing in the bucket yet that could come back";
            return Err((why.to_owned(), Exit::Usage));
        }
        Ok(chosen)
    }

    /// Returns those that the disk still has as they were synced: only of these the bucket owes anything.
    async fn still_there<T: Send + 'static>(
        &self,
        mut some: Vec<T>,
        wanted: impl Fn(&T) -> &Wanted + Send + 'static,
    ) -> Vec<T> {
        let root = self.folder.path.clone();
        let judged = Offload::Pool.run(move || {
            some.retain(|one| !judge::has_changed(&root, wanted(one)));
            some
        });
        judged.await
    }

    /// Restores into the scratch place; returns what the bucket did not give, and why.
    async fn bring(
        &mut self,
        scratch: &Scratch,
        wanted: Vec<Wanted>,
    ) -> Result<(Sums, Vec<(Wanted, String)>), Untold> {
        let settings = Settings {
            on_conflict: OnConflict::Fail,
            owners: Owners::Mine,
            requests: REQUESTS,
            memory_bytes: self.memory_bytes,
            is_dry_run: false,
        };
        let mut by_path: HashMap<_, _> = wanted
            .iter()
            .map(|wanted| (wanted.path.clone(), wanted.clone()))
            .collect();
        let (mut wrong, mut failed, mut unproven) = (Vec::new(), Vec::new(), 0);
        let mut tell = |told: &Happening<'_>| match told.what {
            What::Restored => unproven += u64::from(told.by == Some(By::Size)),
            What::Equal | What::WouldRestore => {}
            What::Failed => {
                let wanted = told.path.and_then(|path| by_path.remove(path));
                let why = told.error.unwrap_or_default().to_owned();
                failed.extend(wanted.map(|wanted| (wanted, why)));
            }
            _ => wrong.push(named(told)),
        };
        let listing = Listing {
            wanted,
            ..Listing::default()
        };
        let (store, counters) = (self.store.clone(), Arc::default());
        let stop = self.stop.clone();
        let restore = Restore::new(store, &scratch.0, settings, counters, stop, &mut tell);
        let sums = restore.run(listing).await;
        let sums = sums.map_err(|error| (format!("could not {error}"), Exit::Failed))?;
        if self.stop.is_cancelled() {
            return Err(stopped());
        }
        if let Some(why) = &sums.stopped_by {
            if let Some((first, _)) = failed.first() {
                self.ask(first).await?;
            }
            return Err((why.clone(), Exit::Failed));
        }
        self.drilled.files += sums.restored;
        self.drilled.bytes += sums.bytes;
        self.drilled.verified += sums.restored.saturating_sub(unproven);
        self.drilled.wrong.extend(wrong);
        Ok((sums, failed))
    }

    /// Compares what came back with the disk.
    async fn compare(&mut self, scratch: &Scratch, wanted: Vec<Wanted>) -> Result<(), Untold> {
        let (root, place) = (self.folder.path.clone(), scratch.0.clone());
        let stop = self.stop.clone();
        let compared = Offload::Pool.run(move || {
            let files = wanted.into_iter().filter(|one| one.kind == Kind::File);
            let judged = files.map(|wanted| {
                let compared = judge::compare(&root, &place, &wanted.path, &stop);
                (wanted.path, compared)
            });
            judged.collect::<Vec<_>>()
        });
        let drilled = &mut self.drilled;
        for (path, compared) in compared.await {
            match compared {
                Ok(Compared::Same) => drilled.same += 1,
                Ok(Compared::Changed) => drilled.changed += 1,
                Ok(Compared::Missing) => {}
                Ok(Compared::Different) => {
                    drilled.wrong.push(format!("{path}: what came back is not what is on the disk, though nothing says that it has changed"));
                }
                Err(error) => drilled
                    .wrong
                    .push(format!("{path}: could not be compared: {error}")),
            }
        }
        if self.stop.is_cancelled() {
            return Err(stopped());
        }
        Ok(())
    }
}

fn named(told: &Happening<'_>) -> String {
    let name = told
        .path
        .map_or_else(|| format!("`{}`", told.key), ToString::to_string);
    format!("{name}: {}", told.error.unwrap_or(told.what.word()))
}

/// A folder of our own, taken away when it is dropped.
struct Scratch(PathBuf);

impl Scratch {
    /// Makes one, and takes away what drills that were killed have left.
    fn make(state_dir: &Path) -> io::Result<Self> {
        for entry in fs::read_dir(state_dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let id = name.to_str().and_then(|name| name.strip_prefix(SCRATCH));
            let is_old = id
                .is_some_and(|id| id.len() == 16 && id.bytes().all(|b| b.is_ascii_hexdigit()))
                && entry
                    .metadata()?
                    .modified()?
                    .elapsed()
                    .is_ok_and(|age| age > OLD);
            if is_old {
                fs::remove_dir_all(entry.path())?;
            }
        }
        let place = state_dir.join(format!("{SCRATCH}{:016x}", fastrand::u64(..)));
        fs::DirBuilder::new().mode(0o700).create(&place)?;
        Ok(Self(place))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(
                "could not take the drill's scratch folder {} away: {error}",
                shown(&self.0)
            );
        }
    }
}
