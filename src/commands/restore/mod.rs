//! `tidewatch restore`: brings the files of a folder, or of any prefix, back to a disk.
//!
//! Needs nothing but the bucket: works on a machine that has no config and no state. Never writes to the bucket, takes no
//! lease, and needs no right but to list and to read.

pub mod past;
pub mod seek;
pub mod source;
mod teller;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::base::clock::Clock;
use crate::base::path::RelPath;
use crate::commands::Exit;
use crate::commands::folders::shown;
use crate::commands::restore::past::Moment;
use crate::commands::restore::source::Source;
use crate::commands::restore::teller::{Close, Teller};
use crate::commands::signals::{Asked, Signals};
use crate::commands::stores::Stores;
use crate::config::{Concurrency, MEMORY_BYTES, Problem, Problems};
use crate::report::out::note;
use crate::report::progress::Progress;
use crate::restore::listing::Listing;
use crate::restore::target::Owners;
use crate::restore::told::{Counters, Happening, Sums};
use crate::restore::{Restore, Settings};
use crate::store::Store;
use crate::store::key::KeyMap;

pub use crate::restore::plan::OnConflict;

/// Requests at once, unless it is said otherwise: what small files take to fill a line whose answers are 30 ms away, and
/// what s5cmd sends too. Each costs a socket, of which a process may usually have 1,024.
const REQUESTS: usize = 256;

/// How often the progress bar is told how far it is.
const PROGRESS: Duration = Duration::from_millis(200);

/// What `restore` is asked to do.
#[derive(Clone, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the command line"
)]
pub struct RestoreOptions {
    /// From where.
    pub source: Source,
    /// Only these paths, as they were given; all if there is none.
    pub paths: Vec<PathBuf>,
    /// Where to.
    pub to: PathBuf,
    /// What happens where something else is there.
    pub on_conflict: OnConflict,
    /// As it was then, wall clock, nanoseconds since the epoch; `None`: as it is now.
    pub at_ns: Option<i64>,
    /// Whether files that are gone from the disk come back too, where their objects are kept.
    pub deleted: bool,
    /// Whether files get their owners back.
    pub owner: bool,
    /// Only print what would be done.
    pub dry_run: bool,
    /// One JSON object for each thing.
    pub json: bool,
    /// No progress bar and no closing line.
    pub quiet: bool,
    /// Requests at once.
    pub concurrency: Concurrency,
}

/// Restores. [`Problems`] as an error mean wrong usage.
pub async fn restore(options: RestoreOptions) -> anyhow::Result<Exit> {
    let mut signals = Signals::listen()?;
    if options.owner && !rustix::process::geteuid().is_root() {
        let why = "only root can give files to their owners: run it as root, or without --owner";
        return Err(Problems::from(Problem::new(why)).into());
    }
    let source = &options.source;
    let paths = options.paths.iter().map(|path| source.path(path));
    let mut paths = paths
        .collect::<Result<Vec<RelPath>, Problem>>()
        .map_err(Problems::from)?;
    if paths.iter().any(RelPath::is_root) {
        paths.clear();
    }
    if let Some(folder) = source.around(&options.to) {
        tracing::warn!(
            "{} lies in {}, which is synced to {}: what is restored there is synced like any other file",
            shown(&options.to),
            shown(&folder.path),
            folder.to
        );
    }
    let started = Clock::Real.now();
    let store: Arc<dyn Store> = match Stores::default().open(&source.folder).await {
        Ok(store) => store,
        Err(error) => return Ok(complain(&options, &error, Exit::Unreachable)),
    };
    let listing = tokio::select! {
        listing = list(&options, &store, &paths) => listing,
        asked = signals.next() => return Ok(asked.exit()),
    };
    let (listing, is_damaged) = match listing {
        Ok(listed) => listed,
        Err(exit) => return Ok(exit),
    };
    let mut teller = Teller::new(options.json, options.quiet);
    let (sums, asked) = match bring(&options, store, listing, &mut teller, &mut signals).await {
        Ok(ended) => ended,
        Err(exit) => return Ok(exit),
    };
    let exit = match exit(&options, &sums, asked) {
        Exit::Level if is_damaged => Exit::Different,
        exit => exit,
    };
    let close = Close {
        is_done: exit == Exit::Level,
        is_dry_run: options.dry_run,
        took: Clock::Real
            .now()
            .mono
            .saturating_duration_since(started.mono),
    };
    teller.close(&sums, close);
    match teller.trouble {
        Some(error) => Err(error).context("write the results"),
        None => Ok(exit),
    }
}

/// Says why nothing was restored.
fn complain(options: &RestoreOptions, why: &dyn std::fmt::Display, exit: Exit) -> Exit {
    let from = &options.source.folder.to;
    note(format_args!("tidewatch: could not restore {from}: {why}"));
    exit
}

/// Lists what there is, and whether not all of it is known because of damage; nothing at all is wrong usage.
async fn list(
    options: &RestoreOptions,
    store: &Arc<dyn Store>,
    paths: &[RelPath],
) -> Result<(Listing, bool), Exit> {
    let to = &options.source.folder.to;
    let moment = Moment {
        at_ns: options.at_ns,
        deleted: options.deleted,
    };
    let found = past::find(store, &KeyMap::new(&to.prefix), paths, moment).await;
    let found = found.map_err(|error| {
        let exit = match error {
            past::Trouble::Store(_) => Exit::Unreachable,
            past::Trouble::Catalog(_) => Exit::Usage,
        };
        complain(options, &error, exit)
    })?;
    for line in &found.notes {
        note(format_args!("tidewatch: {line}"));
    }
    let listing = found.listing;
    for path in &listing.unmatched {
        complain(
            options,
            &format_args!("there is nothing at `{path}`"),
            Exit::Usage,
        );
    }
    if !listing.unmatched.is_empty() {
        return Err(Exit::Usage);
    }
    if listing.wanted.is_empty() && listing.refused.is_empty() {
        let why = format!(
            "the bucket `{}` has nothing under the prefix `{}`",
            to.bucket, to.prefix
        );
        return Err(complain(options, &why, Exit::Usage));
    }
    Ok((listing, found.is_damaged))
}

/// Brings back what is listed, and shows how far it is. Stops when a signal asks for it, at once at the second.
async fn bring(
    options: &RestoreOptions,
    store: Arc<dyn Store>,
    listing: Listing,
    teller: &mut Teller,
    signals: &mut Signals,
) -> Result<(Sums, Option<Asked>), Exit> {
    let settings = Settings {
        on_conflict: options.on_conflict,
        owners: if options.owner {
            Owners::Theirs
        } else {
            Owners::Mine
        },
        requests: match options.concurrency {
            Concurrency::Auto => REQUESTS,
            Concurrency::Fixed(requests) => requests.get(),
        },
        memory_bytes: MEMORY_BYTES,
        is_dry_run: options.dry_run,
    };
    let progress = if options.quiet || options.json {
        Progress::hidden()
    } else {
        Progress::on_terminal()
    };
    let counters = Arc::new(Counters::default());
    let stop = CancellationToken::new();
    let mut tell = |told: &Happening<'_>| teller.tell(told);
    let restore = Restore::new(
        store,
        &options.to,
        settings,
        counters.clone(),
        stop.clone(),
        &mut tell,
    );
    let mut run = Box::pin(restore.run(listing));
    let mut ticks = tokio::time::interval(PROGRESS);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut stopped_by = None;
    let ended = loop {
        tokio::select! {
            ended = &mut run => break ended,
            asked = signals.next() => {
                if stopped_by.is_some() {
                    return Err(asked.exit());
                }
                stopped_by = Some(asked);
                stop.cancel();
                tracing::info!("{}: what is on its way is dropped; once more to stop at once", asked.name());
            }
            _ = ticks.tick() => {
                let of = Counters::of;
                let files = (of(&counters.files), of(&counters.all_files));
                progress.set(files, (of(&counters.bytes), of(&counters.all_bytes)));
            }
        }
    };
    progress.end();
    match ended {
        Ok(sums) => Ok((sums, stopped_by)),
        Err(error) => Err(complain(
            options,
            &format_args!("could not {error}"),
            Exit::Failed,
        )),
    }
}

/// Tells why not everything was done, where that is more than single files, and returns the exit.
fn exit(options: &RestoreOptions, sums: &Sums, asked: Option<Asked>) -> Exit {
    if let Some(asked) = asked {
        return asked.exit();
    }
    if let Some(why) = &sums.stopped_by {
        complain(
            options,
            &format_args!("{why}; {} not tried", sums.untried),
            Exit::Failed,
        );
    }
    if sums.conflicts > 0 {
        let done = match options.on_conflict {
            OnConflict::Fail => {
                "nothing was written; --on-conflict skip leaves them, overwrite replaces files and links"
            }
            OnConflict::Skip | OnConflict::Overwrite => "they stay; move them away first",
        };
        let (count, to) = (sums.conflicts, shown(&options.to));
        let s = if count == 1 { " is" } else { "s are" };
        note(format_args!(
            "tidewatch: could not restore everything: {count} path{s} in the way in {to}: {done}"
        ));
    }
    if sums.is_unreachable && sums.restored == 0 {
        return Exit::Unreachable;
    }
    if sums.failed + sums.conflicts + sums.untried > 0 || sums.stopped_by.is_some() {
        return Exit::Failed;
    }
    if sums.unverified + sums.refused > 0 {
        return Exit::Different;
    }
    Exit::Level
}
