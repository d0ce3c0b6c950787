//! From a [`Config`] to folders that can be run: what `sync`, `run`, `watch` and `demo` have in common.
//!
//! Sends nothing to a bucket. Trouble with one folder is that folder's: each one is set up in its own task.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::agent::{self, Ended, Mode};
use crate::base::buffers::Pool;
use crate::base::clock::Clock;
use crate::base::digest::Sha256;
use crate::base::offload::Offload;
use crate::base::path::{RelPath, escaped};
use crate::base::policy::Guarding;
use crate::base::snapshot::{FolderSnapshot, Happening};
use crate::commands::bill::Biller;
use crate::commands::estimate::First;
use crate::commands::features::{self, Asker, Bucket};
use crate::commands::lines::Lines;
use crate::commands::stores::Stores;
use crate::commands::{Exit, unusable};
use crate::config::{self, Config, S3Options, Target};
use crate::manifest::{FolderKey, FolderRow, Manifest, OpenError};
use crate::report::out::note;
use crate::store::Store;
use crate::store::key::KeyMap;
use crate::store::s3::{S3Store, SetupError};
use crate::sync::lease::{Manners, Owner};
use crate::sync::meta::Labels;
use crate::tree::filter::reason::BadRule;
use crate::tree::filter::{Bounds, Filter};
use crate::tree::real::RealTree;
use crate::tree::report::Watching;
use crate::tree::{HintReceiver, Tree, hints};

/// Hints that wait for a folder's loop. Beyond it events count as lost, and a scan finds what they said.
const HINTS: usize = 16_384;
/// The file in the state folder by which each watcher shows that it still tells.
const MARKER: &str = "pulse";

/// What the folders of one process share.
#[derive(Debug)]
pub struct Shared {
    /// What was seen synced.
    pub manifest: Manifest,
    /// Clients of buckets.
    pub stores: Stores,
    /// The state folder, canonical.
    pub state_dir: PathBuf,
    /// How much happens at once.
    pub lines: Lines,
    buffers: Pool,
    shutdown_grace: Duration,
    asker: Asker,
    owner: Owner,
    /// What requests cost.
    pub bill: Arc<Biller>,
}

/// A folder to be run, and how.
#[derive(Debug)]
pub struct Start {
    /// What the config says of it.
    pub folder: config::Folder,
    /// Whether it ends by itself.
    pub mode: Mode,
    /// Whether it is watched.
    pub eyes: Eyes,
    /// Quiet time of what a scan found.
    pub scan_settle: Duration,
    /// Where snapshots go.
    pub snapshots: watch::Sender<FolderSnapshot>,
    /// Where each thing that happens goes, if anybody wants it.
    pub happenings: Option<mpsc::Sender<Happening>>,
    /// What people ask of the running folder.
    pub control: Option<mpsc::Receiver<agent::Control>>,
    /// Whether what failed for good is tried again at once.
    pub retry_failed: bool,
}

/// Whether a tree is watched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Eyes {
    /// Events tell what changes.
    Open,
    /// Only scans do.
    Closed,
}

/// What becomes of a folder.
#[derive(Debug)]
pub enum Left {
    /// Its loop ended.
    Ended(Box<Ended>),
    /// Its bucket cannot even be asked.
    NoStore(SetupError),
    /// Something else of it cannot be used; fit after "could not".
    Broken(String),
    /// What the config asks of its bucket cannot be had there.
    Unable(&'static str),
    /// The bucket could not be asked what has to be known of it before anything is written there.
    Unasked,
    /// It was stopped before its loop began.
    Stopped,
}

impl Shared {
    /// Opens the state folder. What stands in the way is told, and is then the exit of the command.
    pub async fn open(config: &Config, stores: Stores, eyes: Eyes) -> Result<Self, Exit> {
        let (dir, now) = (config.state_dir.clone(), Clock::Real.now());
        let (meter, prices) = (stores.meter().clone(), config.prices.clone());
        let opened = Offload::Pool
            .run(move || {
                let opened = Manifest::open(&dir, now.wall_ns)?;
                // Made just now, if it was not there; a name that stays as it is only hides less.
                let dir = dir.canonicalize().unwrap_or(dir);
                let bill = Biller::new(dir.clone(), meter, prices);
                Ok::<_, OpenError>((opened, dir, bill))
            })
            .await;
        let ((manifest, _), state_dir, bill) = opened.map_err(|error| {
            note(format_args!("tidewatch: could not {error}"));
            match error {
                OpenError::Locked { .. } => Exit::Taken,
                // Another state folder, or another version, is for the user to choose.
                OpenError::Newer { .. }
                | OpenError::Damaged { .. }
                | OpenError::Unusable { .. } => Exit::Usage,
            }
        })?;
        let memory_bytes = config.upload.memory_bytes;
        let owner = owner(manifest.agent_id(), config);
        Ok(Self {
            asker: Asker::new(manifest.clone(), Clock::Real, Offload::Pool),
            manifest,
            stores,
            state_dir,
            lines: Lines::open(&config.upload, eyes),
            buffers: Pool::new(usize::try_from(memory_bytes).unwrap_or(usize::MAX)),
            shutdown_grace: config.shutdown_grace,
            owner,
            bill: Arc::new(bill),
        })
    }

    /// Sets a folder up and runs it until it ends or `stop` is cancelled.
    pub async fn drive(&self, start: Start, stop: CancellationToken) -> Left {
        self.drive_through(start, stop, |store| store).await
    }

    /// Does the same over a line that `through` lays to the bucket.
    pub async fn drive_through(
        &self,
        start: Start,
        stop: CancellationToken,
        through: impl FnOnce(Arc<dyn Store>) -> Arc<dyn Store> + Send,
    ) -> Left {
        let store = tokio::select! {
            store = self.stores.open(&start.folder) => store,
            () = stop.cancelled() => return Left::Stopped,
        };
        match store {
            Ok(store) => self.run(start, store, stop, through).await,
            Err(error) => Left::NoStore(error),
        }
    }

    async fn run(
        &self,
        start: Start,
        store: Arc<S3Store>,
        stop: CancellationToken,
        through: impl FnOnce(Arc<dyn Store>) -> Arc<dyn Store> + Send,
    ) -> Left {
        let bucket = Bucket {
            endpoint: store.endpoint_url().to_owned(),
            name: start.folder.to.bucket.clone(),
            keys: KeyMap::new(&start.folder.to.prefix),
            asked: Arc::new(store.apart(features::patience())),
            store: store.clone(),
        };
        self.asker.begin(&bucket, &stop).await;
        if start.folder.guard == Guarding::Strict
            && let Err(left) = unusable::strict(&self.asker, &bucket, &start, &stop).await
        {
            return left;
        }
        let config = start.folder.clone();
        let folder = match self.assemble(start, store).await {
            Ok(folder) => agent::Folder {
                store: through(folder.store),
                ..folder
            },
            Err(why) => return Left::Broken(why),
        };
        let first = (!folder.row.contacted).then(|| First {
            folder: config,
            filter: folder.filter.clone(),
            prices: self.bill.prices(),
            now_ns: Clock::Real.now().wall_ns,
        });
        let over = stop.child_token();
        let running = async {
            let ended = Box::pin(agent::run(folder, stop)).await;
            over.cancel();
            ended
        };
        let telling = async {
            if let Some(first) = first {
                over.run_until_cancelled(first.tell()).await;
            }
        };
        let (ended, (), ()) = tokio::join!(running, self.asker.keep_up(&bucket, &over), telling);
        Left::Ended(Box::new(ended))
    }

    async fn assemble(&self, start: Start, store: Arc<S3Store>) -> Result<agent::Folder, String> {
        let config = start.folder;
        let key = folder_key(&config, &store);
        let limits = self.lines.to(store.endpoint_url());
        let (manifest, name) = (self.manifest.clone(), config.name.clone());
        let row = Offload::Pool.run(move || manifest.folder(&key, &name));
        let row = row.await.map_err(|error| error.to_string())?;
        let filter = filter(&config, &self.state_dir)?;
        let (tree, hints, is_watched) = match start.eyes {
            Eyes::Open => eyes(&config, &self.state_dir).await,
            Eyes::Closed => closed(&config, &self.state_dir),
        };
        // Where no event tells that a file is being written, its stamps do.
        let scan_settle = match start.eyes {
            Eyes::Open if !is_watched => config.settle,
            Eyes::Open | Eyes::Closed => start.scan_settle,
        };
        Ok(agent::Folder {
            path: shown(&config.path),
            to: config.to.to_string(),
            row,
            filter: Arc::new(filter.reading(tree.clone())),
            tree,
            store,
            manifest: self.manifest.clone(),
            owner: Some(self.owner.clone()),
            keys: KeyMap::new(&config.to.prefix),
            labels: Arc::new(labels(&config)?),
            limits,
            buffers: self.buffers.clone(),
            clock: Clock::Real,
            offload: Offload::Pool,
            random: fastrand::Rng::new(),
            hints,
            settings: agent::Settings {
                settle: config.settle,
                scan_settle,
                max_wait: config.max_wait,
                rescan: config.rescan,
                max_lag: config.max_lag,
                shutdown_grace: self.shutdown_grace,
                on_delete: config.on_delete,
                delete_brake: config.delete_brake,
                overwrite_brake: config.overwrite_brake,
                history: config.history,
                trash_keep: config.trash_keep,
                guard: config.guard,
                audit: config.audit,
                config: word(&config),
                retry_failed: start.retry_failed,
            },
            control: start.control,
            mode: start.mode,
            snapshots: start.snapshots,
            happenings: start.happenings,
            name: config.name,
        })
    }

    /// Takes over what the folders share of uploading, for what is on its way too.
    pub fn set_upload(&self, upload: &config::Upload) {
        self.lines.set_bandwidth(upload.bandwidth.clone());
        self.lines.set_concurrency(upload.concurrency);
        self.lines.set_memory(upload.memory_bytes);
        let bytes = usize::try_from(upload.memory_bytes).unwrap_or(usize::MAX);
        self.buffers.set_keep(bytes);
    }

    /// Ends in an orderly way. Nothing of it may be running.
    pub async fn close(&self) {
        self.lines.close().await;
        self.bill.note().await;
        let manifest = self.manifest.clone();
        Offload::Pool.run(move || manifest.close()).await;
    }
}

/// Returns a number that stands for everything that the config says of a folder.
fn word(config: &config::Folder) -> u64 {
    let digest = Sha256::of(format!("{config:?}").as_bytes());
    u64::from_be_bytes(*digest.0.first_chunk().unwrap_or(&[0; 8]))
}

/// Returns who this process is to other owners of its prefixes.
pub fn owner(agent_id: &str, config: &Config) -> Owner {
    Owner {
        agent: agent_id.to_owned(),
        epoch: format!("{:032x}", fastrand::u128(..)),
        host: rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned(),
        pid: std::process::id(),
        manners: if config.take_over {
            Manners::TakeOver
        } else {
            Manners::Wait
        },
    }
}

/// Returns the folder that a state knows, reached as `s3` says, and where that is silent as it was when it was synced.
pub fn of_row(row: &FolderRow, s3: &S3Options) -> config::Folder {
    let to = Target {
        bucket: row.key.bucket.clone(),
        prefix: row.key.prefix.clone(),
    };
    let known = S3Options {
        endpoint_url: Some(row.key.endpoint.clone()).filter(|url| !url.is_empty()),
        ..S3Options::default()
    };
    config::Folder {
        s3: s3.clone().or(&known).into(),
        ..config::Folder::new(row.name.clone(), PathBuf::from(root_of(row)), to)
    }
}

/// Returns a folder's root as it is on record.
pub fn root_of(row: &FolderRow) -> &OsStr {
    OsStr::from_bytes(&row.key.path)
}

/// Returns what makes this folder the same one again.
pub fn folder_key(config: &config::Folder, store: &S3Store) -> FolderKey {
    FolderKey {
        path: config.path.as_os_str().as_encoded_bytes().to_vec(),
        endpoint: store.endpoint_url().to_owned(),
        bucket: config.to.bucket.clone(),
        prefix: config.to.prefix.clone(),
    }
}

/// Makes a filter of what the config says of a folder.
pub fn rules(config: &config::Folder) -> Result<Filter, BadRule> {
    let filter = Filter::new(&config.exclude, &config.include, config.builtin_ignores)?;
    let filter = filter.with_bounds(Bounds {
        max_size: config.max_size,
        min_size: config.min_size,
        min_age: config.min_age,
        max_age: config.max_age,
    });
    Ok(if config.exclude_caches {
        filter.without_caches()
    } else {
        filter
    })
}

/// Makes of what the config says of types and caches.
fn labels(config: &config::Folder) -> Result<Labels, String> {
    Labels::new(&config.content_types, &config.cache_control)
}

/// Makes a folder's filter, which reads no tree yet. The state folder, if it lies inside, is left out.
pub fn filter(config: &config::Folder, state_dir: &Path) -> Result<Filter, String> {
    let filter = rules(config).map_err(|error| error.to_string())?;
    let Some(hidden) = RelPath::below(&config.path, state_dir) else {
        return Ok(filter);
    };
    if hidden.is_root() {
        return Err(format!(
            "sync {}: it is its own state folder; name another one with --state-dir or agent.state_dir",
            shown(&config.path)
        ));
    }
    tracing::info!(folder = %config.name, "the state folder `{hidden}` lies inside the folder and is left out");
    Ok(filter.with_hidden(hidden))
}

/// Returns the first snapshot of a folder, before anything is known of it.
pub fn first_snapshot(config: &config::Folder) -> FolderSnapshot {
    FolderSnapshot {
        name: config.name.clone(),
        path: shown(&config.path),
        to: config.to.to_string(),
        watch: "off".to_owned(),
        max_lag_seconds: config.max_lag.as_secs(),
        ..FolderSnapshot::default()
    }
}

/// Returns a path for people.
pub fn shown(path: &Path) -> String {
    escaped(path.as_os_str().as_encoded_bytes())
}

/// Opens a tree that is watched, or, where not even a thread can be started, one that is not; says whether the kernel
/// tells of all its changes.
async fn eyes(config: &config::Folder, state_dir: &Path) -> (Arc<dyn Tree>, HintReceiver, bool) {
    let (sender, receiver) = hints(HINTS);
    let (path, symlinks) = (config.path.clone(), config.symlinks);
    let mode = config.watch;
    let given = config.given.clone();
    let opened = Offload::Pool.run(move || {
        let tree = RealTree::watched(&path, sender, mode)?;
        Ok::<_, io::Error>(tree.with_symlinks(symlinks).with_given(&given))
    });
    match opened.await {
        Ok(tree) => {
            let is_told = matches!(tree.watch_report().mode, Watching::Native);
            let tree = tree.with_captures(state_dir);
            let tree = tree.with_marker(&state_dir.join(MARKER));
            (Arc::new(tree), receiver, is_told)
        }
        Err(error) => {
            let every = crate::base::units::show_duration(config.rescan);
            tracing::warn!(
                folder = %config.name,
                "the folder cannot be watched: {error}; changes are only found by the scan every {every}"
            );
            closed(config, state_dir)
        }
    }
}

fn closed(config: &config::Folder, state_dir: &Path) -> (Arc<dyn Tree>, HintReceiver, bool) {
    // The sender's end tells the loop that nothing will be heard.
    let (_, receiver) = hints(1);
    let tree = RealTree::open(&config.path)
        .with_symlinks(config.symlinks)
        .with_given(&config.given)
        .with_captures(state_dir);
    (Arc::new(tree), receiver, false)
}
