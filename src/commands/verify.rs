//! `tidewatch verify`: is it all there?
//!
//! Compares what the manifest claims with what the bucket lists, and, if asked, with the bytes of the files and of the
//! objects. Only reads: it takes no lock, and the agent may go on working; what the agent changes meanwhile is never told
//! as a difference. `--repair` is the one part that has something changed (`mend`).
//!
//! Files of which the manifest has never heard are not its matter: what a sync would send, `sync --dry-run` says. A file
//! whose content has changed under unchanged stamps is named and left alone. The agent does not read such a file, as nothing
//! says that it should; but a program that opens it for writing makes the agent read and send it.
//!
//! Exit 0 if nothing differs, or all that differed is mended and was looked at again; 3 if something differs; 1 if something
//! could not be looked at; 5 if the bucket does not answer; 6 if `--repair` finds the state folder held by somebody who does
//! not listen.

mod compare;
mod contents;
mod look;
mod mend;
pub mod sample;
mod tell;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use crate::base::clock::Clock;
use crate::base::offload::Offload;
use crate::base::policy::Symlinks;
use crate::base::snapshot::Tried;
use crate::commands::folders;
use crate::commands::signals::Signals;
use crate::commands::status::target;
use crate::commands::stores::Stores;
use crate::commands::verify::contents::{Contents, Disk};
use crate::commands::verify::look::{Look, Trouble, lock};
use crate::commands::verify::sample::{Sample, Share};
use crate::commands::verify::tell::{Kind, Tally, Teller};
use crate::commands::{Exit, control, held};
use crate::config::{self, Config, S3Options};
use crate::manifest::{self, FolderRow, Manifest};
use crate::report::out::note;
use crate::store::s3::{S3Store, SetupError};

/// What `verify` is asked.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the command line"
)]
pub struct VerifyOptions {
    /// The state folders to look into.
    pub states: Vec<PathBuf>,
    /// A folder's name, path or URL; all folders if `None`.
    pub folder: Option<String>,
    /// The config, if there is one.
    pub config: Option<Config>,
    /// How the buckets of folders are reached that no config names.
    pub s3: S3Options,
    /// Whether the files are read.
    pub local: bool,
    /// Whether the objects are read.
    pub deep: bool,
    /// How many of them.
    pub sample: Share,
    /// Whether what the bucket has lost is sent again.
    pub repair: bool,
    /// One JSON object for each difference.
    pub json: bool,
    /// No progress bar and no closing line.
    pub quiet: bool,
}

/// Looks whether everything is there.
pub async fn verify(options: VerifyOptions) -> anyhow::Result<Exit> {
    let mut signals = Signals::listen()?;
    let stop = CancellationToken::new();
    let mut work = Box::pin(run(&options, &stop));
    let asked = tokio::select! {
        exit = &mut work => return exit,
        asked = signals.next() => asked,
    };
    stop.cancel();
    // A repair ends in an orderly way, unless it is asked once more.
    tokio::select! {
        ended = &mut work => drop(ended?),
        _ = signals.next() => {}
    }
    Ok(asked.exit())
}

async fn run(options: &VerifyOptions, stop: &CancellationToken) -> anyhow::Result<Exit> {
    let started = Clock::Real.now();
    let (states, wanted) = (options.states.clone(), options.folder.clone());
    let found = Offload::Pool.run(move || held::places(&states, wanted.as_deref()));
    let Some(places) = found.await? else {
        return Ok(Exit::Usage);
    };
    if places.is_empty() {
        note("tidewatch: could not verify anything: nothing is synced from here yet");
        return Ok(Exit::Usage);
    }
    let teller = Teller::new(options.json, options.quiet, places.len());
    let teller = Arc::new(Mutex::new(teller));
    let stores = Stores::default();
    let mut exit = Exit::Level;
    for place in &places {
        let (name, to) = (&place.row.name, target(&place.row));
        lock(&teller).begin(name, &to);
        let work = Folder::new(options, &place.dir, &place.row);
        // Until everything has been looked at; what becomes of a repair is another matter.
        lock(&teller).tally.is_cut = true;
        let looked = work.look(&teller, &stores, stop).await?;
        let tally = lock(&teller).end();
        let folder_exit = looked.strongest(exit_of(&tally));
        exit = exit.strongest(folder_exit);
        if !tally.is_cut {
            keep(&work, folder_exit == Exit::Level).await;
        }
        hint(&work, &tally, options);
        if stop.is_cancelled() {
            lock(&teller).sum.is_cut = true;
            break;
        }
    }
    let now = Clock::Real.now();
    let took = now.mono.saturating_duration_since(started.mono);
    lock(&teller).close(took).context("write the results")?;
    Ok(exit)
}

/// Keeps for `status` that a folder was looked at as a whole.
async fn keep(folder: &Folder<'_>, ok: bool) {
    let (dir, row) = (folder.dir.to_path_buf(), folder.row.clone());
    let at_ns = Clock::Real.now().wall_ns;
    let kept = Offload::Pool.run(move || control::note_verify(&dir, &row, Tried { at_ns, ok }));
    if let Err(error) = kept.await {
        // Nothing that was looked at is less right for that.
        tracing::debug!("could not keep when this verify ended: {error}");
    }
}

fn exit_of(tally: &Tally) -> Exit {
    if tally.of(Kind::Failed) > 0 {
        Exit::Failed
    } else if tally.differences() > tally.of(Kind::Mended) {
        Exit::Different
    } else {
        Exit::Level
    }
}

/// Says what to do about what was found.
fn hint(folder: &Folder<'_>, tally: &Tally, options: &VerifyOptions) {
    let of = |kind| tally.of(kind);
    let (name, root) = (
        &folder.row.name,
        folders::shown(Path::new(folders::root_of(folder.row))),
    );
    if of(Kind::Rotten) > 0 {
        note(format_args!(
            "tidewatch: {name}: the bucket has the good content of a rotten file: \
             tidewatch restore '{name}' PATH --to '{root}' --on-conflict overwrite"
        ));
    }
    let mendable = of(Kind::Missing) + of(Kind::Changed) + of(Kind::Damaged);
    if mendable > 0 && !options.repair {
        note(format_args!(
            "tidewatch: {name}: `tidewatch verify '{name}' --repair` sends again what the bucket has lost"
        ));
    }
    if of(Kind::NotLevel) > 0 {
        note(format_args!(
            "tidewatch: {name}: what is not level yet is sent by a sync; `tidewatch explain PATH` says why it was not"
        ));
    }
}

/// Returns true for two names of one state folder.
fn is_same(one: &Path, other: &Path) -> bool {
    one == other
        || matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

/// One folder.
struct Folder<'a> {
    options: &'a VerifyOptions,
    dir: &'a Path,
    row: &'a FolderRow,
    /// The folder in the config, if that names it.
    config: Option<(&'a Config, &'a config::Folder)>,
}

impl<'a> Folder<'a> {
    fn new(options: &'a VerifyOptions, dir: &'a Path, row: &'a FolderRow) -> Self {
        let is_this = |folder: &&config::Folder| {
            folder.path.as_os_str().as_encoded_bytes() == row.key.path
                && folder.to.bucket == row.key.bucket
                && folder.to.prefix == row.key.prefix
        };
        let config = options.config.as_ref().and_then(|config| {
            let folder = config.folders.iter().find(is_this)?;
            Some((config, folder))
        });
        Self {
            options,
            dir,
            row,
            config,
        }
    }

    /// Reaches the bucket that the rows are about; the error says why that cannot be done.
    async fn reach(&self, stores: &Stores) -> Result<Arc<S3Store>, (String, Exit)> {
        let endpoint = &self.row.key.endpoint;
        let unreachable = |error: SetupError| (error.to_string(), Exit::Unreachable);
        let mut reached = self.reached();
        let mut store = stores.open(&reached).await.map_err(unreachable)?;
        // A person who names an endpoint knows that the server has moved.
        if self.options.s3.endpoint_url.is_some() || store.endpoint_url() == endpoint {
            return Ok(store);
        }
        // A folder that has gone elsewhere before, under the same name of a bucket.
        if !endpoint.is_empty() {
            reached.s3.endpoint_url = Some(endpoint.clone());
            store = stores.open(&reached).await.map_err(unreachable)?;
        }
        if store.endpoint_url() == endpoint {
            return Ok(store);
        }
        let of = |url: &str| {
            if url.is_empty() {
                "AWS".to_owned()
            } else {
                url.to_owned()
            }
        };
        let why = format!(
            "it was synced to {}, and the settings lead to {}; name the right one with --endpoint-url",
            of(endpoint),
            of(store.endpoint_url())
        );
        Err((why, Exit::Usage))
    }

    /// Returns what says how the bucket is reached.
    fn reached(&self) -> config::Folder {
        if let Some((_, folder)) = self.config {
            return folder.clone();
        }
        folders::of_row(self.row, &self.options.s3)
    }

    /// Looks at it; the exit is that of trouble beyond single files.
    async fn look(
        &self,
        teller: &Arc<Mutex<Teller>>,
        stores: &Stores,
        stop: &CancellationToken,
    ) -> anyhow::Result<Exit> {
        let name = &self.row.name;
        let complain = |why: &dyn std::fmt::Display, exit| {
            let to = target(self.row);
            note(format_args!(
                "tidewatch: could not verify {name} in {to}: {why}"
            ));
            exit
        };
        let store = match self.reach(stores).await {
            Ok(store) => store,
            Err((why, exit)) => return Ok(complain(&why, exit)),
        };
        let dir = self.dir.to_path_buf();
        let opened = move || {
            let has_agent = manifest::is_locked(&dir)?;
            anyhow::Ok((Manifest::open_read_only(&dir)?, has_agent))
        };
        let (Some(manifest), has_agent) = Offload::Pool.run(opened).await? else {
            return Ok(complain(&"its state folder is gone", Exit::Failed));
        };
        let mut look = Look::new(store, manifest, self.row.clone(), teller.clone());
        (look.repair, look.has_agent) = (self.options.repair, has_agent);
        let looked = self.look_at(&Arc::new(look), stop).await;
        Ok(match looked {
            Ok(exit) => exit,
            Err(Trouble::Bucket(error)) => complain(&error, Exit::Unreachable),
            Err(Trouble::Manifest(error)) => {
                complain(&format_args!("could not {error}"), Exit::Failed)
            }
        })
    }

    async fn look_at(&self, look: &Arc<Look>, stop: &CancellationToken) -> Result<Exit, Trouble> {
        let (mut exit, disk) = self.disk().await;
        let (manifest, folder) = (look.manifest.clone(), look.row.id);
        let counts = Offload::Pool.run(move || manifest.counts(folder)).await?;
        look.teller().looks_at(counts.synced + counts.open);
        let comparing = async {
            compare::compare(look).await?;
            if self.options.local || self.options.deep {
                let all = look.teller().tally.compared;
                look.teller().looks_at(all);
                let readable = disk.as_ref().and_then(|disk| disk.as_ref().ok());
                let contents = Contents {
                    disk: readable.filter(|_| self.options.local).cloned(),
                    deep: self.options.deep,
                    sample: Sample::new(self.options.sample, all, fastrand::Rng::new()),
                };
                contents::read(look, contents).await?;
            }
            Ok::<_, Trouble>(())
        };
        tokio::select! {
            compared = comparing => compared?,
            () = stop.cancelled() => return Ok(exit),
        }
        look.teller().tally.is_cut = exit != Exit::Level;
        if self.options.repair {
            let place = mend::Place {
                dir: self.dir,
                disk: disk.unwrap_or_else(|| Err("nobody has looked".to_owned())),
                config: self
                    .config
                    .filter(|(config, _)| is_same(&config.state_dir, self.dir)),
            };
            exit = exit.strongest(mend::mend(look, &place, stop).await?);
        }
        Ok(exit)
    }

    /// Opens the folder on the disk, if it is needed.
    async fn disk(&self) -> (Exit, Option<Result<Arc<Disk>, String>>) {
        if !self.options.local && !self.options.repair {
            return (Exit::Level, None);
        }
        let row = self.row.clone();
        let symlinks = self
            .config
            .map_or(Symlinks::Skip, |(_, folder)| folder.symlinks);
        let opened = Offload::Pool.run(move || Disk::open(&row, symlinks)).await;
        let exit = match &opened {
            Err(why) if self.options.local => {
                let root = folders::shown(Path::new(folders::root_of(self.row)));
                note(format_args!(
                    "tidewatch: could not read the files of {root}: {why}"
                ));
                Exit::Failed
            }
            _ => Exit::Level,
        };
        (exit, Some(opened.map(Arc::new)))
    }
}
