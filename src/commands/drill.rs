//! `tidewatch drill`, and the drills of a service: does the backup come back?
//!
//! A drill restores a random sample of files and one whole folder into a scratch place inside the state folder, in the same
//! way as `restore` does, compares what came back with the disk, takes the scratch place away, and keeps how it went: in the
//! state folder, and as a line that the agent writes into the catalog. Only reads the bucket. What changed on the disk since
//! it was synced is counted and is no fault.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::base::clock::{Clock, rfc3339};
use crate::base::digest::{Hasher, Sha256};
use crate::base::drill::Drill;
use crate::base::offload::Offload;
use crate::base::path::RelPath;
use crate::base::units::{show_bytes, show_duration};
use crate::commands::Exit;
use crate::commands::control;
use crate::commands::folders::{Stores, shown};
use crate::commands::restore::past::{self, Moment};
use crate::commands::signals::Signals;
use crate::config::{Folder, MEMORY_BYTES};
use crate::report::drill_file::{self, Drilled};
use crate::report::out::{Out, note};
use crate::restore::listing::Listing;
use crate::restore::plan::{By, OnConflict};
use crate::restore::target::Owners;
use crate::restore::told::{Counters, Happening, What};
use crate::restore::wanted::{Kind, Wanted};
use crate::restore::{Restore, Settings};
use crate::store::Store;
use crate::store::key::KeyMap;

/// Files of the sample, at most.
const SAMPLE: usize = 50;
/// Bytes of the sample, and of the folder, at most: enough to mean something, and a small bill for the traffic. One file is
/// always taken, however large it is.
const BYTES: u64 = 64 << 20;
/// Files of the folder, at most.
const FOLDER: usize = 500;
/// Requests at once: it has time.
const REQUESTS: usize = 8;
/// What did not come back and is named, at most.
const NAMED: usize = 10;
/// What a scratch place is called.
const SCRATCH: &str = "drill-";
/// How long a drill that could not be tried waits for the next try.
const RETRY: Duration = Duration::from_secs(3600);

/// What `drill` is asked to do.
#[derive(Clone, Debug)]
pub struct DrillOptions {
    /// The folders, and the state folder of each.
    pub folders: Vec<(Folder, PathBuf)>,
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
            let mut work = Box::pin(one(folder, state_dir, &stop));
            tokio::select! {
                done = &mut work => done,
                asked = signals.next() => {
                    stop.cancel();
                    // What was restored is taken away again.
                    let _ = work.await;
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

/// Drills a folder of a service whenever `every` has passed since the last drill, until `stop`.
pub async fn keep_drilling(
    folder: Folder,
    state_dir: PathBuf,
    every: Duration,
    stop: CancellationToken,
) {
    let to = folder.to.to_string();
    loop {
        let (dir, name) = (state_dir.clone(), to.clone());
        let last = Offload::Pool.run(move || drill_file::read(&dir).remove(&name));
        let pause = match last.await {
            Some(last) => {
                let wait = if last.error.is_some() {
                    RETRY.min(every)
                } else {
                    every
                };
                let passed_ns = Clock::Real.now().wall_ns.saturating_sub(last.at_ns);
                wait.saturating_sub(Duration::from_nanos(u64::try_from(passed_ns).unwrap_or(0)))
            }
            // So that a new folder has something in the bucket.
            None => every.min(RETRY),
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        let (drilled, _) = one(&folder, &state_dir, &stop).await;
        if stop.is_cancelled() {
            return;
        }
        if drilled.ok {
            tracing::info!(folder = %folder.name, "restore drill {}", text(&drilled));
        } else {
            let wrong = drilled.wrong.join("; ");
            tracing::error!(folder = %folder.name, "restore drill {}: {wrong}", text(&drilled));
        }
    }
}

/// Drills one folder, and keeps how it went.
async fn one(folder: &Folder, state_dir: &Path, stop: &CancellationToken) -> (Drilled, Exit) {
    let began = Clock::Real.now();
    let mut drilled = Drilled {
        at_ns: began.wall_ns,
        ..Drilled::default()
    };
    let exit = match attempt(folder, state_dir, stop, &mut drilled).await {
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
    let took = Clock::Real.now().mono.saturating_duration_since(began.mono);
    drilled.seconds = took.as_secs_f64();
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

async fn attempt(
    folder: &Folder,
    state_dir: &Path,
    stop: &CancellationToken,
    drilled: &mut Drilled,
) -> Result<(), (String, Exit)> {
    let unreachable = |error: &dyn std::fmt::Display| (error.to_string(), Exit::Unreachable);
    let store: Arc<dyn Store> = match Stores::default().open(folder).await {
        Ok(store) => store,
        Err(error) => return Err(unreachable(&error)),
    };
    let now = Moment {
        at_ns: None,
        deleted: false,
    };
    let found = past::find(&store, &KeyMap::new(&folder.to.prefix), &[], now).await;
    let found = found.map_err(|error| unreachable(&error))?;
    if found.is_damaged {
        drilled.wrong.extend(found.notes.into_iter().take(NAMED));
    }
    let lost = found.lost.iter().take(NAMED);
    drilled
        .wrong
        .extend(lost.map(|path| format!("{path}: its content is not in the bucket any more")));
    let wanted = pick(found.listing.wanted, &mut fastrand::Rng::new());
    if wanted.is_empty() {
        let why = "there is nothing in the bucket yet that could come back";
        return Err((why.to_owned(), Exit::Usage));
    }
    let scratch = Scratch::make(state_dir).map_err(|error| {
        let dir = shown(state_dir);
        (
            format!("could not make a scratch folder in {dir}: {error}"),
            Exit::Failed,
        )
    })?;
    let settings = Settings {
        on_conflict: OnConflict::Fail,
        owners: Owners::Mine,
        requests: REQUESTS,
        memory_bytes: MEMORY_BYTES,
        is_dry_run: false,
    };
    let (mut wrong, mut unproven) = (Vec::new(), 0);
    let mut tell = |told: &Happening<'_>| match told.what {
        What::Restored => unproven += u64::from(told.by == Some(By::Size)),
        What::Equal | What::WouldRestore => {}
        _ => wrong.push(named(told)),
    };
    let listing = Listing {
        wanted: wanted.clone(),
        ..Listing::default()
    };
    let counters = Arc::new(Counters::default());
    let restore = Restore::new(
        store,
        &scratch.0,
        settings,
        counters,
        stop.clone(),
        &mut tell,
    );
    let sums = restore.run(listing).await;
    let sums = sums.map_err(|error| (format!("could not {error}"), Exit::Failed))?;
    if sums.is_unreachable && sums.restored == 0 {
        let why = wrong.first().cloned().unwrap_or_default();
        return Err((why, Exit::Unreachable));
    }
    drilled.files = sums.restored;
    drilled.bytes = sums.bytes;
    drilled.verified = sums.restored.saturating_sub(unproven);
    let (root, place) = (folder.path.clone(), scratch.0.clone());
    let compared = Offload::Pool.run(move || {
        let files = wanted.iter().filter(|wanted| wanted.kind == Kind::File);
        let judged =
            files.map(|wanted| (wanted.path.clone(), compare(&root, &place, &wanted.path)));
        judged.collect::<Vec<_>>()
    });
    for (path, compared) in compared.await {
        match compared {
            Ok(Compared::Same) => drilled.same += 1,
            Ok(Compared::Changed) => drilled.changed += 1,
            Ok(Compared::Missing) => {}
            Ok(Compared::Different) => {
                wrong.push(format!("{path}: what came back is not what is on the disk, though nothing says that it has changed"));
            }
            Err(error) => wrong.push(format!("{path}: could not be compared: {error}")),
        }
    }
    wrong.truncate(NAMED);
    drilled.wrong.extend(wrong);
    Ok(())
}

fn named(told: &Happening<'_>) -> String {
    let name = told
        .path
        .map_or_else(|| format!("`{}`", told.key), ToString::to_string);
    format!("{name}: {}", told.error.unwrap_or(told.what.word()))
}

/// Picks a random sample of files, and everything of one random folder that is small enough.
fn pick(mut wanted: Vec<Wanted>, random: &mut fastrand::Rng) -> Vec<Wanted> {
    random.shuffle(&mut wanted);
    let is_file = |one: &&Wanted| one.kind == Kind::File;
    let whole = wanted
        .iter()
        .filter(is_file)
        .filter_map(|one| one.path.parent());
    let whole = whole.take(SAMPLE).find(|folder| {
        let inside = wanted.iter().filter(|one| one.path.is_within(folder));
        let (count, bytes) = inside.fold((0, 0_u64), |(count, bytes), one| {
            (count + 1, bytes.saturating_add(one.size))
        });
        count <= FOLDER && bytes <= BYTES
    });
    let (mut files, mut bytes) = (0, 0_u64);
    wanted.retain(|one| {
        if whole
            .as_ref()
            .is_some_and(|folder| one.path.is_within(folder))
        {
            return true;
        }
        let fits = files == 0 || (files < SAMPLE && bytes.saturating_add(one.size) <= BYTES);
        if fits && one.kind == Kind::File {
            (files, bytes) = (files + 1, bytes.saturating_add(one.size));
            return true;
        }
        false
    });
    wanted.sort_by(|a, b| a.path.cmp(&b.path));
    wanted
}

/// What a file that came back is beside the one on the disk.
enum Compared {
    Same,
    /// The one on the disk has changed since, or is gone.
    Changed,
    Different,
    /// It did not come back, and has been told of.
    Missing,
}

fn compare(root: &Path, scratch: &Path, path: &RelPath) -> io::Result<Compared> {
    let (ours, back) = (root.join(path.as_os_str()), scratch.join(path.as_os_str()));
    let Ok(returned) = fs::symlink_metadata(&back) else {
        return Ok(Compared::Missing);
    };
    let stamp = |stat: &fs::Metadata| (stat.size(), stat.mtime(), stat.mtime_nsec());
    let is_as_synced = |stat: &fs::Metadata| stat.is_file() && stamp(stat) == stamp(&returned);
    let before = match fs::symlink_metadata(&ours) {
        Ok(stat) if is_as_synced(&stat) => stat,
        Ok(_) => return Ok(Compared::Changed),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Compared::Changed),
        Err(error) => return Err(error),
    };
    let (on_disk, in_bucket) = (hash(&ours)?, hash(&back)?);
    if on_disk == in_bucket {
        return Ok(Compared::Same);
    }
    // It may have been written to while it was read.
    let after = fs::symlink_metadata(&ours)?;
    let is_still = is_as_synced(&after) && after.ctime_nsec() == before.ctime_nsec();
    Ok(if is_still && after.ctime() == before.ctime() {
        Compared::Different
    } else {
        Compared::Changed
    })
}

fn hash(path: &Path) -> io::Result<Sha256> {
    let mut file = File::options()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)?;
    let (mut hasher, mut piece) = (Hasher::default(), vec![0; 1 << 16]);
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(hasher.finish()),
            len => hasher.update(&piece[..len]),
        }
    }
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
                    .is_ok_and(|age| age > RETRY * 24);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restore::wanted::Stamp;

    fn wanted(path: String, size: u64) -> Wanted {
        Wanted {
            path: RelPath::new(path.as_bytes()).expect("a path"),
            key: path,
            kind: Kind::File,
            size,
            etag: None,
            version_id: None,
            sha256: None,
            stamp: Stamp::default(),
        }
    }

    #[test]
    fn a_drill_takes_a_bounded_sample_and_one_whole_folder() {
        for seed in 0..50 {
            let mut random = fastrand::Rng::with_seed(seed);
            let many = (0..40).flat_map(|folder| (0..30).map(move |file| (folder, file)));
            let all = many.map(|(folder, file)| wanted(format!("{folder}/{file}"), 1000));
            let picked = pick(all.collect(), &mut random);
            let within = |folder: usize| {
                let prefix = format!("{folder}/");
                picked
                    .iter()
                    .filter(|one| one.key.starts_with(&prefix))
                    .count()
            };
            assert!((0..40).any(|folder| within(folder) == 30), "one is whole");
            assert_eq!(picked.len(), SAMPLE + 30);
        }
    }

    #[test]
    fn one_file_is_taken_however_large_it_is() {
        let mut random = fastrand::Rng::with_seed(1);
        let large = wanted("large".to_owned(), BYTES * 100);
        assert_eq!(pick(vec![large], &mut random).len(), 1);
        assert_eq!(pick(Vec::new(), &mut random), []);
    }
}
