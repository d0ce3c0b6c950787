//! What a folder's loop is given, and what it leaves behind.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::agent::Control;
use crate::base::buffers::Pool;
use crate::base::clock::Clock;
use crate::base::offload::Offload;
use crate::base::policy::{Brake, Guarding, History, OnDelete};
use crate::base::snapshot::{FolderSnapshot, Happening};
use crate::manifest::{FolderRow, Manifest};
use crate::store::Store;
use crate::store::key::KeyMap;
use crate::sync::file::Policy;
use crate::sync::lease::Owner;
use crate::sync::limits::Limits;
use crate::sync::meta::Labels;
use crate::sync::queue;
use crate::tree::filter::Filter;
use crate::tree::{HintReceiver, Tree};

/// What a folder's loop is given.
pub struct Folder {
    /// What it is called.
    pub name: String,
    /// Its path, for people.
    pub path: String,
    /// Where it goes, for people.
    pub to: String,
    /// Its row in the manifest.
    pub row: FolderRow,
    /// The disk.
    pub tree: Arc<dyn Tree>,
    /// The bucket.
    pub store: Arc<dyn Store>,
    /// What was seen synced.
    pub manifest: Manifest,
    /// What belongs.
    pub filter: Arc<Filter>,
    /// Who wants to own the prefix; `None`: nobody else can, and no lease is taken.
    pub owner: Option<Owner>,
    /// Paths to keys.
    pub keys: KeyMap,
    /// What objects say of themselves by their names.
    pub labels: Arc<Labels>,
    /// Shared by all folders.
    pub limits: Arc<Limits>,
    /// Shared by all folders.
    pub buffers: Pool,
    /// Where `now` comes from.
    pub clock: Clock,
    /// Where blocking work runs.
    pub offload: Offload,
    /// Jitter.
    pub random: fastrand::Rng,
    /// What the watcher says.
    pub hints: HintReceiver,
    /// The numbers.
    pub settings: Settings,
    /// Whether it ends.
    pub mode: Mode,
    /// Where snapshots go.
    pub snapshots: watch::Sender<FolderSnapshot>,
    /// Where each thing that happens goes, if anybody wants it.
    pub happenings: Option<mpsc::Sender<Happening>>,
    /// What people ask of the running loop.
    pub control: Option<mpsc::Receiver<Control>>,
}

impl Folder {
    /// Returns what is known of it before its loop runs.
    pub(in crate::agent) fn snapshot(&self) -> FolderSnapshot {
        FolderSnapshot {
            name: self.name.clone(),
            path: self.path.clone(),
            to: self.to.clone(),
            last_scan_ns: self.row.last_scan_ns,
            max_lag_seconds: self.settings.max_lag.as_secs(),
            ..FolderSnapshot::default()
        }
    }
}

/// A folder's numbers.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Quiet time of a watched file.
    pub settle: Duration,
    /// Quiet time of a file that a scan found: by its own stamps, as no event told.
    pub scan_settle: Duration,
    /// The longest that touches can hold a file back.
    pub max_wait: Duration,
    /// Time between two full scans.
    pub rescan: Duration,
    /// The longest lag that is not late.
    pub max_lag: Duration,
    /// Time for running jobs after a stop.
    pub shutdown_grace: Duration,
    /// What becomes of the object of a file that is gone.
    pub on_delete: OnDelete,
    /// When deletes wait for a person.
    pub delete_brake: Option<Brake>,
    /// When overwrites wait for a person.
    pub overwrite_brake: Option<Brake>,
    /// What becomes of an object before it is overwritten.
    pub history: History,
    /// How long what was set aside is kept.
    pub trash_keep: Duration,
    /// Whether an object is only changed while it is the one that is known.
    pub guard: Guarding,
    /// How often the bucket is compared with what is known of it, by a loop that stays; `None`: never.
    pub audit: Option<Duration>,
    /// What the config says of the folder, as a number: when it changes, what failed for good is tried again.
    pub config: u64,
    /// Whether what failed for good is tried again at once.
    pub retry_failed: bool,
}

impl Settings {
    /// Returns what the queue needs to know of them.
    pub(in crate::agent) fn queue(&self, mode: Mode) -> queue::Settings {
        let (retry_base, retry_cap) = mode.retry();
        queue::Settings {
            settle: self.settle,
            max_wait: self.max_wait,
            retry_base,
            retry_cap,
        }
    }

    /// Returns what jobs need to know of them.
    pub(in crate::agent) fn policy(&self) -> Policy {
        Policy {
            on_delete: self.on_delete,
            history: self.history,
            asks_before_overwriting: self.overwrite_brake.is_some(),
            trash_keep: self.trash_keep,
            guard: self.guard,
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            settle: Duration::from_secs(1),
            scan_settle: Duration::ZERO,
            max_wait: Duration::from_secs(5 * 60),
            rescan: Duration::from_secs(10 * 60),
            max_lag: Duration::from_secs(15 * 60),
            shutdown_grace: Duration::from_secs(30),
            on_delete: OnDelete::Keep,
            delete_brake: Some(Brake::DELETES),
            overwrite_brake: None,
            history: History::Off,
            trash_keep: Duration::from_secs(30 * 24 * 3600),
            config: 0,
            retry_failed: false,
            guard: Guarding::Off,
            audit: None,
        }
    }
}

/// Whether the loop ends by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Until it is stopped.
    Forever,
    /// When the folder is level, or cannot become so; after `timeout` without any answer of the store.
    Once {
        /// The longest without a success.
        timeout: Duration,
    },
}

impl Mode {
    /// Returns the first and the longest pause after a failure.
    pub(super) fn retry(self) -> (Duration, Duration) {
        match self {
            Self::Forever => (Duration::from_secs(1), Duration::from_secs(300)),
            Self::Once { .. } => (Duration::from_millis(300), Duration::from_secs(5)),
        }
    }
}

/// Why the loop ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reason {
    /// It did what could be done.
    Finished,
    /// It was stopped, and everything that ran has ended (`true`) or was dropped (`false`).
    Stopped(bool),
    /// The store cannot be reached or a right is missing.
    Store(String),
    /// Another agent owns the prefix.
    Taken(String),
    /// The folder's root is not there.
    Away(String),
    /// The manifest cannot be written.
    Manifest(String),
}

/// What a loop leaves behind.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Why.
    pub reason: Reason,
    /// The last snapshot.
    pub last: FolderSnapshot,
}
