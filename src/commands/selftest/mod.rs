//! `tidewatch selftest`: proves the promises against a bucket of the user's own.
//!
//! A tree is made in a temporary folder, synced, changed, killed on, broken and restored, and after each step every object
//! is read and held against the disk. What kills is SIGKILL to this very program; what breaks is the line between an agent
//! in this process and its store, so that it works against any endpoint.
//!
//! Must never touch anything outside the prefix that it makes for itself, which is empty before and, unless it is to be
//! kept, empty afterwards, also after a failure and after Ctrl-C.

mod bucket;
mod flaky;
mod ground;
mod kills;
mod proofs;
mod tell;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::base::clock::Clock;
use crate::base::offload::Offload;
use crate::commands::Exit;
use crate::commands::folders::shown;
use crate::commands::selftest::ground::Ground;
use crate::commands::selftest::proofs::Trial;
use crate::commands::selftest::tell::Teller;
use crate::commands::signals::{Asked, Signals};
use crate::commands::stores::Stores;
use crate::config::{Folder, S3, Target};
use crate::report::out::note;
use crate::store::{self, Store};

/// How long what runs may take to end after a signal, before it is dropped.
const GRACE: Duration = Duration::from_secs(10);

/// What `selftest` is asked to do.
#[derive(Clone, Debug)]
pub struct SelftestOptions {
    /// Below which prefix it makes one of its own.
    pub to: Target,
    /// How the bucket is reached.
    pub s3: S3,
    /// How often a run is killed.
    pub kills: u32,
    /// What decides how files change, when a run is killed, and which requests go wrong; `None`: another one each time.
    pub seed: Option<u64>,
    /// Whether what it put into the bucket stays.
    pub keep: bool,
    /// One JSON object for each proof, and a summary.
    pub json: bool,
}

/// What a selftest proves, in this order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Proof {
    Store,
    Synced,
    Level,
    Kills,
    Faults,
    Trash,
    Brake,
    Restore,
    History,
}

impl Proof {
    const ALL: [Self; 9] = [
        Self::Store,
        Self::Synced,
        Self::Level,
        Self::Kills,
        Self::Faults,
        Self::Trash,
        Self::Brake,
        Self::Restore,
        Self::History,
    ];

    fn word(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Synced => "synced",
            Self::Level => "level",
            Self::Kills => "kills",
            Self::Faults => "faults",
            Self::Trash => "trash",
            Self::Brake => "brake",
            Self::Restore => "restore",
            Self::History => "history",
        }
    }
}

/// Why something was not proven.
#[derive(Debug)]
struct Trouble {
    why: String,
    exit: Exit,
}

impl Trouble {
    /// Makes one of what was found to be wrong.
    fn of(why: impl Into<String>) -> Self {
        let (why, exit) = (why.into(), Exit::Failed);
        Self { why, exit }
    }

    /// Makes one of a bucket that does not answer.
    fn unreachable(why: &(impl ToString + ?Sized)) -> Self {
        let (why, exit) = (why.to_string(), Exit::Unreachable);
        Self { why, exit }
    }

    /// Makes one of something that this machine does not do.
    fn here(what: &str, error: &std::io::Error) -> Self {
        Self::of(format!("could not {what}: {error}"))
    }
}

impl From<store::Error> for Trouble {
    fn from(error: store::Error) -> Self {
        if error.is_everyones() {
            Self::unreachable(&error)
        } else {
            Self::of(error.to_string())
        }
    }
}

/// Tests. Exit 0: all is proven; 1: something is not, and is named; 5: the bucket cannot be reached.
pub async fn selftest(options: SelftestOptions) -> anyhow::Result<Exit> {
    let mut signals = Signals::listen()?;
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..));
    // Never from the seed: two runs with one seed must not share a prefix.
    let id = fastrand::u64(..);
    let to = Target {
        bucket: options.to.bucket.clone(),
        prefix: format!("{}tidewatch-selftest-{id:016x}/", options.to.prefix),
    };
    let mut random = fastrand::Rng::with_seed(seed);
    let made = Offload::Pool.run(move || Ground::make(id, &mut random).map(|made| (made, random)));
    let (ground, random) = made
        .await
        .with_context(|| format!("make a folder in {}", shown(&std::env::temp_dir())))?;
    let folder = Folder {
        s3: options.s3.clone(),
        ..Folder::new("selftest".to_owned(), ground.tree(), to.clone())
    };
    let stores = Stores::default();
    let store: Arc<dyn Store> = match stores.open(&folder).await {
        Ok(store) => store,
        Err(error) => return Ok(complain(&to, &error, Exit::Unreachable)),
    };
    let is_empty = tokio::select! {
        listed = store.list(&to.prefix, None) => listed.map(|page| page.objects.is_empty()),
        asked = signals.next() => return Ok(asked.exit()),
    };
    match is_empty {
        Ok(true) => {}
        Ok(false) => {
            let why = "something is there already, below a name that was made just now: the store does not \
                       list what it is asked for";
            return Ok(complain(&to, &why, Exit::Failed));
        }
        Err(error) => return Ok(complain(&to, &error, Exit::Unreachable)),
    }
    let mut teller = Teller::new(&to, seed, options.json);
    let began = Clock::Real.now().mono;
    let mut trial = Trial::new(folder, store.clone(), ground, random, options.kills);
    let (mut exit, asked) = attend(&mut trial, &mut teller, &mut signals).await;
    let agents = trial.spent();
    let has_versions = trial.has_versions;
    // The disk of it goes first: what follows may be cut off by a second signal.
    drop(trial);
    if options.keep {
        teller.kept();
    } else {
        let cleaned = tokio::select! {
            cleaned = bucket::clean_up(&store, &to.prefix) => cleaned,
            asked = signals.next() => {
                complain(&to, &"it was stopped while it cleaned up: what is left there may be removed", asked.exit());
                return Ok(asked.exit());
            }
        };
        exit = exit.strongest(teller.cleaned(&cleaned, has_versions));
    }
    let took = Clock::Real.now().mono.saturating_duration_since(began);
    teller.close(agents.plus(stores.usage()), options.kills, took);
    if let Some(error) = teller.trouble {
        return Err(error).context("write the results");
    }
    Ok(asked.map_or(exit, Asked::exit))
}

/// Tries one proof after the other, until one fails or a signal comes.
async fn attend(
    trial: &mut Trial,
    teller: &mut Teller,
    signals: &mut Signals,
) -> (Exit, Option<Asked>) {
    let stop: CancellationToken = trial.stop.clone();
    let mut work = Box::pin(prove_all(trial, teller));
    tokio::select! {
        exit = &mut work => (exit, None),
        asked = signals.next() => {
            note(format_args!("tidewatch: {}: it is cleaned up; once more to leave it as it is", asked.name()));
            stop.cancel();
            tokio::select! {
                _ = timeout(GRACE, &mut work) => {}
                _ = signals.next() => {}
            }
            (Exit::Level, Some(asked))
        }
    }
}

async fn prove_all(trial: &mut Trial, teller: &mut Teller) -> Exit {
    let mut exit = Exit::Level;
    for proof in Proof::ALL {
        if exit != Exit::Level {
            teller.untried(proof);
            continue;
        }
        match trial.prove(proof).await {
            Ok(text) => teller.proven(proof, &text),
            Err(_) if trial.stop.is_cancelled() => return Exit::Failed,
            Err(trouble) => {
                teller.failed(proof, &trouble.why);
                exit = trouble.exit;
            }
        }
    }
    exit
}

fn complain(to: &Target, why: &dyn std::fmt::Display, exit: Exit) -> Exit {
    note(format_args!("tidewatch: could not test {to}: {why}"));
    exit
}
