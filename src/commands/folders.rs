//! From a [`Config`] to folders that can be run: what `sync`, `run`, `watch` and `demo` have in common.
//!
//! Sends nothing to a bucket. Trouble with one folder is that folder's: each one is set up in its own task.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OnceCell, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::agent::{self, Ended, Mode};
use crate::base::buffers::Pool;
use crate::base::clock::Clock;
use crate::base::offload::Offload;
use crate::base::path::{RelPath, escaped};
use crate::base::policy::Guarding;
use crate::base::snapshot::{FolderSnapshot, Happening};
use crate::commands::{Exit, settings};
use crate::config::{self, Concurrency, Config, S3};
use crate::manifest::{FolderKey, FolderRow, Manifest, OpenError};
use crate::report::out::note;
use crate::store::key::KeyMap;
use crate::store::s3::{S3Store, Settings, SetupError};
use crate::store::{Store as _, guarded};
use crate::sync::lease::{Manners, Owner};
use crate::sync::limits::Limits;
use crate::tree::filter::reason::BadRule;
use crate::tree::filter::{Bounds, Filter};
use crate::tree::real::RealTree;
use crate::tree::report::Watching;
use crate::tree::{HintReceiver, Tree, hints};

/// Hints that wait for a folder's loop. Beyond it events count as lost, and a scan finds what they said.
const HINTS: usize = 16_384;

/// What the folders of one process share.
#[derive(Debug)]
pub struct Shared {
    /// What was seen synced.
    pub manifest: Manifest,
    /// Clients of buckets.
    pub stores: Stores,
    /// The state folder, canonical.
    pub state_dir: PathBuf,
    limits: Arc<Limits>,
    buffers: Pool,
    shutdown_grace: Duration,
    owner: Owner,
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
    /// It was stopped before its loop began.
    Stopped,
}

impl Shared {
    /// Opens the state folder. What stands in the way is told, and is then the exit of the command.
    pub async fn open(config: &Config, stores: Stores, eyes: Eyes) -> Result<Self, Exit> {
        let (dir, now) = (config.state_dir.clone(), Clock::Real.now());
        let opened = Offload::Pool
            .run(move || {
                let opened = Manifest::open(&dir, now.wall_ns)?;
                // Made just now, if it was not there; a name that stays as it is only hides less.
                Ok::<_, OpenError>((opened, dir.canonicalize().unwrap_or(dir)))
            })
            .await;
        let ((manifest, _), state_dir) = opened.map_err(|error| {
            note(format_args!("tidewatch: could not {error}"));
            match error {
                OpenError::Locked { .. } => Exit::Taken,
                // Another state folder, or another version, is for the user to choose.
                OpenError::Newer { .. }
                | OpenError::Damaged { .. }
                | OpenError::Unusable { .. } => Exit::Usage,
            }
        })?;
        let fixed = match config.upload.concurrency {
            Concurrency::Auto => None,
            Concurrency::Fixed(requests) => Some(requests.get()),
        };
        let memory_bytes = config.upload.memory_bytes;
        let limits = Limits::new(fixed, memory_bytes);
        let owner = owner(manifest.agent_id(), config);
        Ok(Self {
            manifest,
            stores,
            state_dir,
            limits: Arc::new(match eyes {
                Eyes::Open => limits,
                // Nothing is live where nothing is watched.
                Eyes::Closed => limits.without_live_lane(),
            }),
            buffers: Pool::new(usize::try_from(memory_bytes).unwrap_or(usize::MAX)),
            shutdown_grace: config.shutdown_grace,
            owner,
        })
    }

    /// Sets a folder up and runs it until it ends or `stop` is cancelled.
    pub async fn drive(&self, start: Start, stop: CancellationToken) -> Left {
        let store = tokio::select! {
            store = self.stores.open(&start.folder) => store,
            () = stop.cancelled() => return Left::Stopped,
        };
        match store {
            Ok(store) => {
                if start.folder.guard == Guarding::Strict
                    && let Some(why) = guarded::trouble(&store.features())
                {
                    return Left::Unable(why);
                }
                match self.assemble(start, store).await {
                    Ok(folder) => Left::Ended(Box::new(agent::run(folder, stop).await)),
                    Err(why) => Left::Broken(why),
                }
            }
            Err(error) => Left::NoStore(error),
        }
    }

    async fn assemble(&self, start: Start, store: Arc<S3Store>) -> Result<agent::Folder, String> {
        let config = start.folder;
        let key = folder_key(&config, &store);
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
            limits: self.limits.clone(),
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
                shutdown_grace: self.shutdown_grace,
                on_delete: config.on_delete,
                delete_brake: config.delete_brake,
                overwrite_brake: config.overwrite_brake,
                history: config.history,
                trash_keep: config.trash_keep,
                guard: config.guard,
            },
            control: start.control,
            mode: start.mode,
            snapshots: start.snapshots,
            happenings: start.happenings,
            name: config.name,
        })
    }

    /// Ends in an orderly way. Nothing of it may be running.
    pub async fn close(&self) {
        let manifest = self.manifest.clone();
        Offload::Pool.run(move || manifest.close()).await;
    }
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
            (Arc::new(tree.with_captures(state_dir)), receiver, is_told)
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

/// The clients of buckets: one for all folders that reach the same bucket in the same way.
#[derive(Debug, Default)]
pub struct Stores {
    /// Access key and secret of an endpoint inside this process.
    credentials: Option<(String, String)>,
    known: Mutex<Vec<(S3, String, Client)>>,
    warned: Mutex<BTreeSet<String>>,
}

type Client = Arc<OnceCell<Arc<S3Store>>>;

impl Stores {
    /// Reaches every bucket with these keys, which an endpoint inside this process has made.
    #[cfg(feature = "demo")]
    pub fn with_credentials(access_key: &str, secret_key: &str) -> Self {
        Self {
            credentials: Some((access_key.to_owned(), secret_key.to_owned())),
            ..Self::default()
        }
    }

    /// Returns the client of a folder's bucket. Sends nothing to it.
    ///
    /// An error is not remembered: what it names may have been put right when it is asked again.
    pub async fn open(&self, folder: &config::Folder) -> Result<Arc<S3Store>, SetupError> {
        let client = self.client(&folder.s3, &folder.to.bucket);
        let settings = self.settings(&folder.s3);
        let made = client.get_or_try_init(|| async {
            let store = S3Store::new(&settings, &folder.to.bucket).await?;
            self.warn_if_open(store.endpoint_url());
            Ok(Arc::new(store))
        });
        made.await.cloned()
    }

    fn client(&self, s3: &S3, bucket: &str) -> Client {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let same = known.iter().find(|(a, b, _)| a == s3 && b == bucket);
        if let Some((_, _, client)) = same {
            return client.clone();
        }
        let client = Client::default();
        known.push((s3.clone(), bucket.to_owned(), client.clone()));
        client
    }

    fn settings(&self, s3: &S3) -> Settings {
        Settings {
            credentials: self.credentials.clone(),
            ..settings::of(s3)
        }
    }

    /// Says once of each endpoint that what is sent to it can be read on the way.
    fn warn_if_open(&self, endpoint_url: &str) {
        let Some(host) = endpoint_url.strip_prefix("http://") else {
            return;
        };
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if !is_loopback(host) && warned.insert(endpoint_url.to_owned()) {
            tracing::warn!("files are sent unencrypted to {endpoint_url}");
        }
    }
}

/// Returns true if `host`, with its port and path perhaps, is this machine.
pub fn is_loopback(host: &str) -> bool {
    let host = host.split('/').next().unwrap_or_default();
    let name = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let is_address = name
        .parse::<std::net::IpAddr>()
        .is_ok_and(|address| address.is_loopback());
    is_address || name == "localhost" || name.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_loopback() {
        for host in [
            "127.0.0.1:9000",
            "127.1.2.3",
            "localhost:1/x",
            "s3.localhost",
            "[::1]:9000",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "10.0.0.1",
            "minio:9000",
            "localhost.example.com",
            "[fe80::1]",
            "",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
