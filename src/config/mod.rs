//! What the user asked for: text → [`Config`], every problem reported at once with its line.
//!
//! Holds no secrets: credentials come from the standard AWS chain only. What surrounds the process (its host's name,
//! its home, its environment) is handed in as [`Surroundings`], so that loading is a function of its arguments and the
//! disk. What options say ([`Options`]) goes before what the file says; a value of `""` is unset.

mod bandwidth;
mod check;
mod cost;
mod guard;
mod load;
mod notify;
mod places;
mod policy;
mod problem;
mod read;
mod target;
mod terms;
mod values;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use crate::base::policy::{Brake, Guarding, History, OnDelete, Symlinks, WatchMode};
use crate::base::price::Prices;
use crate::base::terms::Terms;

pub use crate::config::bandwidth::{Bandwidth, Rate, Shown as ShownRate};
pub use crate::config::guard::{is_for_all, text_of};
pub use crate::config::load::state_dir_of;
pub use crate::config::notify::{HEARTBEAT_EVERY, Notify};
pub use crate::config::places::{
    Surroundings, adhoc_dir, adhoc_states, find, state_dir, user_units,
};
pub use crate::config::problem::{Problem, Problems};
pub use crate::config::read::KEYS;
pub use crate::config::target::Target;
pub use crate::config::values::{
    MAX_CONCURRENCY, bandwidth, concurrency, duration, endpoint_url, include_rule, on_delete,
    path_style, region, rule, storage_class,
};

/// How long a file must be quiet before it is read, unless it is said otherwise.
pub const SETTLE: Duration = Duration::from_secs(1);
/// How long a file that is touched without rest can wait, unless it is said otherwise.
pub const MAX_WAIT: Duration = Duration::from_secs(5 * 60);
/// How often everything is looked at, unless it is said otherwise.
pub const RESCAN: Duration = Duration::from_secs(10 * 60);
/// Longest lag of a folder that is not late, unless said otherwise.
pub const MAX_LAG: Duration = Duration::from_secs(15 * 60);
/// How long what was set aside is kept, unless it is said otherwise.
pub const TRASH_KEEP: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long running requests may take after a stop signal, unless it is said otherwise.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(30);
/// How often the bucket is compared with what is known of it, unless it is said otherwise.
pub const AUDIT: Duration = Duration::from_secs(7 * 24 * 3600);
/// Where the page of a service listens, unless it is said otherwise.
pub const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8737);
/// File bytes in memory, unless it is said otherwise.
pub const MEMORY_BYTES: u64 = 128 << 20;

/// What a command line says besides the config: each goes before the config's value.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Where the manifest and the lock are.
    pub state_dir: Option<PathBuf>,
    /// How every bucket is reached.
    pub s3: S3Options,
    /// Gitignore rules behind those of each folder.
    pub exclude: Vec<String>,
    /// Gitignore rules of what is taken in again, behind those of each folder.
    pub include: Vec<String>,
    /// What becomes of an object whose file is gone, in every folder.
    pub on_delete: Option<OnDelete>,
    /// Requests in flight.
    pub concurrency: Option<Concurrency>,
    /// How fast bodies may go out.
    pub bandwidth: Option<Bandwidth>,
    /// How long a file must be quiet before it is read, in every folder.
    pub settle: Option<Duration>,
    /// The storage class of every object; `Some(None)` is STANDARD.
    pub storage_class: Option<Option<String>>,
    /// Take every prefix from a living owner.
    pub take_over: bool,
}

/// What a command line or a table says of how a bucket is reached; what is `None` is left to the next in precedence.
#[derive(Clone, Debug, Default)]
pub struct S3Options {
    /// Region.
    pub region: Option<String>,
    /// Custom endpoint.
    pub endpoint_url: Option<String>,
    /// Profile of the shared AWS files.
    pub profile: Option<String>,
    /// How the bucket is named in a request.
    pub path_style: Option<PathStyle>,
    /// PEM file with certificates to trust besides the system's.
    pub ca_bundle: Option<PathBuf>,
    /// Use AWS's endpoints that have IPv6 addresses too.
    pub dualstack: Option<bool>,
    /// Use AWS's transfer acceleration.
    pub accelerate: Option<bool>,
    /// Use AWS's endpoints that hold to FIPS 140.
    pub fips: Option<bool>,
    /// Agree to pay for the requests.
    pub requester_pays: Option<bool>,
}

impl S3Options {
    /// Returns these options, and what they leave open from `next`.
    #[must_use]
    pub fn or(self, next: &Self) -> Self {
        Self {
            region: self.region.or_else(|| next.region.clone()),
            endpoint_url: self.endpoint_url.or_else(|| next.endpoint_url.clone()),
            profile: self.profile.or_else(|| next.profile.clone()),
            path_style: self.path_style.or(next.path_style),
            ca_bundle: self.ca_bundle.or_else(|| next.ca_bundle.clone()),
            dualstack: self.dualstack.or(next.dualstack),
            accelerate: self.accelerate.or(next.accelerate),
            fips: self.fips.or(next.fips),
            requester_pays: self.requester_pays.or(next.requester_pays),
        }
    }
}

impl From<S3Options> for S3 {
    fn from(options: S3Options) -> Self {
        Self {
            region: options.region,
            endpoint_url: options.endpoint_url,
            profile: options.profile,
            path_style: options.path_style.unwrap_or_default(),
            ca_bundle: options.ca_bundle,
            dualstack: options.dualstack.unwrap_or_default(),
            accelerate: options.accelerate.unwrap_or_default(),
            fips: options.fips.unwrap_or_default(),
            requester_pays: options.requester_pays.unwrap_or_default(),
        }
    }
}

/// A checked configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// Where the manifest and the lock are.
    pub state_dir: PathBuf,
    /// Where the page, metrics and health of `run` are served; `None`: nowhere.
    pub listen: Option<SocketAddr>,
    /// How long running requests may take after a stop signal.
    pub shutdown_grace: Duration,
    /// What all folders share.
    pub upload: Upload,
    /// What requests cost.
    pub prices: Prices,
    /// Whether a prefix is taken from another agent that owns it. Only a command line says so: said for ever, two agents
    /// would take it from each other for ever.
    pub take_over: bool,
    /// Whom to tell when something is wrong.
    pub notify: Notify,
    /// The folders; at least one.
    pub folders: Vec<Folder>,
}

/// Limits that all folders share.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Upload {
    /// Requests in flight, of each endpoint.
    pub concurrency: Concurrency,
    /// File bytes in memory.
    pub memory_bytes: u64,
    /// How fast bodies may go out, of all folders together.
    pub bandwidth: Bandwidth,
}

impl Default for Upload {
    fn default() -> Self {
        Self {
            concurrency: Concurrency::Auto,
            memory_bytes: MEMORY_BYTES,
            bandwidth: Bandwidth::default(),
        }
    }
}

/// How many requests are in flight.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Concurrency {
    /// Grows and backs off with what the endpoint takes.
    #[default]
    Auto,
    /// Fixed.
    Fixed(NonZeroUsize),
}

/// One folder and where it goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Folder {
    /// What messages and commands call it.
    pub name: String,
    /// Canonical absolute path.
    pub path: PathBuf,
    /// The path as it was given, absolute: it may lead through links, which may come to lead elsewhere.
    pub given: PathBuf,
    /// Where it goes.
    pub to: Target,
    /// How the bucket is reached.
    pub s3: S3,
    /// Gitignore rules of what is left out.
    pub exclude: Vec<String>,
    /// Gitignore rules of what is taken in again.
    pub include: Vec<String>,
    /// Whether the built-in list of temporary names is left out.
    pub builtin_ignores: bool,
    /// How long a file must be quiet before it is read.
    pub settle: Duration,
    /// How long a file that is touched without rest can wait.
    pub max_wait: Duration,
    /// How often everything is looked at.
    pub rescan: Duration,
    /// How old a change may be that is not in the bucket yet, before the folder counts as late.
    pub max_lag: Duration,
    /// What becomes of an object whose file is gone.
    pub on_delete: OnDelete,
    /// How many deletes wait for a person; `None`: none do.
    pub delete_brake: Option<Brake>,
    /// How many overwrites wait for a person; `None`: none do.
    pub overwrite_brake: Option<Brake>,
    /// What becomes of an object before other content takes its key.
    pub history: History,
    /// Whether an object is only changed while it is the one that is known.
    pub guard: Guarding,
    /// How long what was set aside is kept.
    pub trash_keep: Duration,
    /// What becomes of symbolic links.
    pub symlinks: Symlinks,
    /// How changes are noticed.
    pub watch: WatchMode,
    /// How often a service compares the bucket with what is known of it; `None`: never by itself.
    pub audit: Option<Duration>,
    /// How often a service restores a sample and compares it; `None`: never by itself.
    pub drill: Option<Duration>,
    /// A longer file is left out; bytes.
    pub max_size: Option<u64>,
    /// A shorter file is left out; bytes.
    pub min_size: Option<u64>,
    /// A file that changed less long ago is left out.
    pub min_age: Option<Duration>,
    /// A file that changed longer ago is left out.
    pub max_age: Option<Duration>,
    /// Whether folders that say that they are a cache are left out.
    pub exclude_caches: bool,
    /// What every object is stored with.
    pub terms: Terms,
    /// Gitignore rules and the MIME type of what they name; the first that fits counts.
    pub content_types: Vec<(String, String)>,
    /// Gitignore rules and the Cache-Control of what they name; the first that fits counts.
    pub cache_control: Vec<(String, String)>,
}

impl Folder {
    /// Makes a folder in which everything is as it is unless it is said otherwise.
    pub fn new(name: String, path: PathBuf, to: Target) -> Self {
        Self {
            name,
            given: path.clone(),
            path,
            to,
            s3: S3::default(),
            exclude: Vec::new(),
            include: Vec::new(),
            builtin_ignores: true,
            settle: SETTLE,
            max_wait: MAX_WAIT,
            rescan: RESCAN,
            max_lag: MAX_LAG,
            on_delete: OnDelete::default(),
            delete_brake: Some(Brake::DELETES),
            overwrite_brake: None,
            history: History::default(),
            guard: Guarding::default(),
            trash_keep: TRASH_KEEP,
            symlinks: Symlinks::default(),
            watch: WatchMode::default(),
            audit: Some(AUDIT),
            drill: None,
            max_size: None,
            min_size: None,
            min_age: None,
            max_age: None,
            exclude_caches: true,
            terms: Terms::default(),
            content_types: Vec::new(),
            cache_control: Vec::new(),
        }
    }
}

/// How a bucket is reached.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of its own that AWS has"
)]
pub struct S3 {
    /// Region; else the environment's or profile's, else `us-east-1` for a custom endpoint.
    pub region: Option<String>,
    /// Custom endpoint; else the environment's, else AWS.
    pub endpoint_url: Option<String>,
    /// Profile of the shared AWS files.
    pub profile: Option<String>,
    /// How the bucket is named in a request.
    pub path_style: PathStyle,
    /// PEM file with certificates to trust besides the system's.
    pub ca_bundle: Option<PathBuf>,
    /// Use AWS's endpoints that have IPv6 addresses too.
    pub dualstack: bool,
    /// Use AWS's transfer acceleration.
    pub accelerate: bool,
    /// Use AWS's endpoints that hold to FIPS 140.
    pub fips: bool,
    /// Agree to pay for the requests.
    pub requester_pays: bool,
}

/// Whether the bucket's name is part of the path or of the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PathStyle {
    /// Path for any custom endpoint and for buckets with dots.
    #[default]
    Auto,
    /// Always path.
    Always,
    /// Always host.
    Never,
}
