//! `tidewatch sync --dry-run`: what a sync would send. Takes no lock and writes nothing, neither here nor in the bucket.

mod teller;
mod there;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;

use crate::agent::{self, ManifestRows};
use crate::base::clock::{Clock, Now};
use crate::base::offload::Offload;
use crate::base::path::RelPath;
use crate::base::policy::OnDelete;
use crate::base::stat::{Kind, Stat};
use crate::commands::Exit;
use crate::commands::estimate::{self, NoRows};
use crate::commands::folders::{filter, folder_key, owner, shown};
use crate::commands::stores::Stores;
use crate::commands::sync::SyncOptions;
use crate::commands::sync::dry_run::teller::{Estimate, Teller};
use crate::commands::sync::dry_run::there::There;
use crate::config;
use crate::manifest::{FolderRow, Manifest, OpenError};
use crate::report::out::{Out, note};
use crate::store::key::{KeyMap, LEASE};
use crate::store::s3::S3Store;
use crate::store::{self, Effect, ErrorKind, Store as _};
use crate::sync::brake::{Brake, Verdict};
use crate::sync::lease::{Claim, Holder, Seen, Verdict as Ownership};
use crate::sync::plan::{self, Look};
use crate::tree::Tree;
use crate::tree::filter::Filter;
use crate::tree::real::RealTree;
use crate::tree::scan::{Depth, Rows, Scanner, Scope};

/// Paths that are looked at in one blocking call.
const BATCH: usize = 512;

pub(super) use teller::Telling;

/// Prints what a sync would send, and exits as it would as far as that can be known.
pub(super) async fn dry_run(options: &SyncOptions, telling: Telling) -> anyhow::Result<Exit> {
    let config = &options.config;
    let dir = config.state_dir.clone();
    let opened = Offload::Pool.run(move || Manifest::open_read_only(&dir));
    let manifest = match opened.await {
        Ok(manifest) => manifest,
        Err(OpenError::Damaged { path, reason }) => {
            let path = shown(&path);
            tracing::warn!("the manifest {path} is damaged ({reason}); a sync sets it aside");
            None
        }
        Err(error) => {
            note(format_args!("tidewatch: could not {error}"));
            return Ok(Exit::Usage);
        }
    };
    let stores = Stores::default();
    let mut teller = Teller {
        out: Out::stdout(),
        json: options.json,
        quiet: options.quiet,
        telling,
        there: None,
        sum: Estimate {
            event: telling.word(),
            dry_run: options.dry_run,
            currency: config.prices.currency.clone(),
            ..Estimate::default()
        },
    };
    let mut exit = Exit::Level;
    for folder in &config.folders {
        let looked = look(options, folder, manifest.as_ref(), &stores, &mut teller).await?;
        exit = exit.strongest(looked);
    }
    teller.sum.cost_at_most = estimate::cost_at_most(teller.sum.requests_at_most, &config.prices);
    teller.sum.level = exit == Exit::Level && teller.sum.open() == 0;
    teller.close()?;
    Ok(exit)
}

/// Looks at one folder and its bucket.
async fn look(
    options: &SyncOptions,
    folder: &config::Folder,
    manifest: Option<&Manifest>,
    stores: &Stores,
    teller: &mut Teller,
) -> anyhow::Result<Exit> {
    let complain = |why: &dyn fmt::Display, exit| {
        let path = shown(&folder.path);
        note(format_args!(
            "tidewatch: could not sync {path} to {}: {why}",
            folder.to
        ));
        Ok(exit)
    };
    let store = match stores.open(folder).await {
        Ok(store) => store,
        Err(error) => return complain(&error, Exit::Unreachable),
    };
    let row = match manifest {
        Some(manifest) => {
            let (manifest, key) = (manifest.clone(), folder_key(folder, &store));
            let rows = Offload::Pool.run(move || manifest.folders());
            let rows = rows.await.context("look at what was synced")?;
            rows.into_iter().find(|row| row.key == key)
        }
        None => None,
    };
    let is_contacted = row.as_ref().is_some_and(|row| row.contacted);
    let agent_id = manifest.map_or("", Manifest::agent_id);
    let mut claim = Claim::new(owner(agent_id, &options.config), &folder.name);
    let asker = Asker {
        store: &store,
        keys: KeyMap::new(&folder.to.prefix),
        timeout: options.timeout,
    };
    let answers = async {
        let there = asker.ask(is_contacted).await?;
        store::Result::Ok((there, asker.holder(&mut claim).await?))
    };
    let mut exit = Exit::Level;
    match answers.await {
        Ok((there, holder)) => {
            teller.meets(folder, there)?;
            if let Some(holder) = holder {
                exit = complain(
                    &format_args!("another agent owns the prefix: {holder}"),
                    Exit::Taken,
                )?;
            }
        }
        Err(error) => return complain(&error, Exit::Unreachable),
    }
    let state_dir = options.config.state_dir.clone();
    let state_dir = state_dir.canonicalize().unwrap_or(state_dir);
    let filter = match filter(folder, &state_dir) {
        Ok(filter) => filter,
        Err(why) => {
            note(format_args!("tidewatch: could not {why}"));
            return Ok(Exit::Failed);
        }
    };
    let known = manifest.cloned().zip(row);
    let mut walk = Walk::new(folder, known, filter);
    exit = exit.strongest(walk.run(folder, teller).await?);
    teller.leaves();
    if let Some(why) = walk.away {
        return Ok(exit.strongest(complain(&why, Exit::Failed)?));
    }
    Ok(exit)
}

/// Asks the bucket, with a patience for each request.
struct Asker<'a> {
    store: &'a S3Store,
    keys: KeyMap,
    timeout: Duration,
}

impl Asker<'_> {
    async fn within<T>(
        &self,
        operation: &'static str,
        key: &str,
        request: impl Future<Output = store::Result<T>>,
    ) -> store::Result<T> {
        let answer = tokio::time::timeout(self.timeout, request).await;
        answer.unwrap_or_else(|_| {
            let timeout = crate::base::units::show_duration(self.timeout);
            let why = format!("no answer within {timeout}");
            let kind = ErrorKind::Network;
            Err(store::Error::new(kind, operation, key, Effect::None, &why))
        })
    }

    /// Asks whether the bucket can be used, and, if this would be the first contact, what is there.
    async fn ask(&self, is_contacted: bool) -> store::Result<Option<There>> {
        match self.within("HeadBucket", "", self.store.check()).await {
            Err(error) if error.is_of_bucket() => return Err(error),
            Ok(()) | Err(_) => {}
        }
        if is_contacted {
            return Ok(None);
        }
        let (mut there, mut token) = (There::default(), None);
        loop {
            let prefix = self.keys.prefix();
            let page = self.store.list(prefix, token);
            let page = self.within("ListObjectsV2", prefix, page).await?;
            for object in &page.objects {
                there.add(&self.keys, object);
            }
            token = page.next;
            if token.is_none() {
                return Ok(Some(there));
            }
        }
    }

    /// Looks who else owns the prefix, from whom it would not be taken.
    async fn holder(&self, claim: &mut Claim) -> store::Result<Option<Holder>> {
        let key = self.keys.reserved(LEASE);
        let get = self.store.get(&key, None);
        let (object, bytes) = match self.within("GetObject", &key, get).await {
            Ok(found) => found,
            Err(error) if error.kind == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let seen = Seen::of(&object, &bytes);
        Ok(match claim.judge(Some(&seen), Clock::Real.now().mono) {
            Ownership::Taken(holder) => Some(holder),
            Ownership::Free { .. } => None,
        })
    }
}

/// A walk through one folder.
struct Walk {
    scanner: Option<Scanner>,
    looker: Looker,
    away: Option<String>,
}

/// What a differing path is compared with.
#[derive(Clone)]
struct Looker {
    tree: Arc<dyn Tree>,
    known: Option<(Manifest, FolderRow)>,
    keys: KeyMap,
    filter: Arc<Filter>,
    now: Now,
}

/// What would become of a path.
enum Fate {
    Upload {
        key: String,
        size: u64,
        inode: (u64, u64),
    },
    NoKey(String),
    Unreadable(String),
}

impl Walk {
    fn new(folder: &config::Folder, known: Option<(Manifest, FolderRow)>, filter: Filter) -> Self {
        let tree: Arc<dyn Tree> =
            Arc::new(RealTree::open(&folder.path).with_symlinks(folder.symlinks));
        let filter = Arc::new(filter.reading(tree.clone()));
        let now = Clock::Real.now();
        let rows: Box<dyn Rows> = match &known {
            Some((manifest, row)) => Box::new(ManifestRows {
                manifest: manifest.clone(),
                folder: row.id,
                now,
            }),
            None => Box::new(NoRows),
        };
        let scope = Scope {
            folder: RelPath::root(),
            depth: Depth::Full,
        };
        Self {
            scanner: Some(Scanner::new(tree.clone(), rows, filter.clone(), scope).at(now.wall_ns)),
            looker: Looker {
                tree,
                known,
                keys: KeyMap::new(&folder.to.prefix),
                filter,
                now,
            },
            away: None,
        }
    }

    async fn run(&mut self, folder: &config::Folder, teller: &mut Teller) -> anyhow::Result<Exit> {
        let looker = self.looker.clone();
        let trouble = Offload::Pool.run(move || match &looker.known {
            Some((manifest, row)) => agent::root_trouble(&looker.tree, manifest, row),
            None => looker.tree.identity().err().map(|error| error.to_string()),
        });
        self.away = trouble.await;
        if self.away.is_some() {
            return Ok(Exit::Failed);
        }
        let mut exit = Exit::Level;
        let (mut missing, mut inodes) = (Vec::new(), BTreeSet::new());
        while let Some(mut scanner) = self.scanner.take() {
            let looker = self.looker.clone();
            let step = Offload::Pool.run(move || {
                let step = scanner.step(BATCH)?;
                let paths = step.differing.iter().map(|(path, _)| path.clone());
                let fates = looker.fates(paths.collect())?;
                anyhow::Ok((scanner, step, fates))
            });
            let (scanner, step, fates) = step.await.context("look at what was synced")?;
            teller.sum.unchanged += step.unchanged + (step.differing.len() - fates.len()) as u64;
            for (path, reason) in &step.skipped {
                teller.skipped(folder, path, &format!("it is {reason}"))?;
            }
            for (path, error) in &step.unreadable {
                let why = format!("could not list `{path}`: {error}");
                exit = exit.strongest(teller.failed(folder, path, &why)?);
            }
            for (path, fate) in &fates {
                let told = match fate {
                    Fate::Upload { key, size, inode } => {
                        inodes.insert(*inode);
                        teller.upload(folder, path, key, *size)?
                    }
                    Fate::NoKey(why) => teller.unsyncable(folder, path, why)?,
                    Fate::Unreadable(why) => teller.failed(folder, path, why)?,
                };
                exit = exit.strongest(told);
            }
            missing.extend(step.missing.into_iter().map(|(path, _)| path));
            if !step.done {
                self.scanner = Some(scanner);
            }
        }
        if folder.on_delete == OnDelete::Keep {
            return Ok(exit);
        }
        let looker = self.looker.clone();
        let doomed = Offload::Pool.run(move || looker.doomed(&missing, &inodes));
        let (doomed, known) = doomed.await.context("look at what was synced")?;
        let counted = doomed.iter().filter(|(_, _, counts)| *counts).count() as u64;
        let asked = Brake::new(folder.delete_brake).ask(counted, known, self.looker.now.mono);
        for (path, key, counts) in &doomed {
            let is_held = *counts && asked == Verdict::Hold;
            exit = exit.strongest(teller.delete(folder, path, key, is_held)?);
        }
        Ok(exit)
    }
}

impl Looker {
    fn is_left_out(&self, path: &RelPath, stat: &Stat) -> bool {
        let reason = self.filter.leaves_out(path, stat, self.now.wall_ns);
        reason.is_some()
    }

    /// Returns the keys of missing files whose objects would go, whether each counts for the brake (a file that is there
    /// under another name does not), and how many files are known.
    #[expect(
        clippy::type_complexity,
        reason = "taken apart where it is returned to"
    )]
    fn doomed(
        &self,
        missing: &[RelPath],
        inodes: &BTreeSet<(u64, u64)>,
    ) -> anyhow::Result<(Vec<(RelPath, String, bool)>, u64)> {
        let Some((manifest, row)) = &self.known else {
            return Ok((Vec::new(), 0));
        };
        let mut doomed = Vec::new();
        for (path, entry) in missing.iter().zip(manifest.entries(row.id, missing)?) {
            let Some(entry) = entry.filter(|entry| !plan::is_old_news(entry, self.now)) else {
                continue;
            };
            let stat = entry.stored.map(|content| content.stat);
            let is_elsewhere = stat.is_some_and(|stat| inodes.contains(&(stat.dev, stat.ino)));
            if let Ok(key) = self.keys.key(path) {
                doomed.push((path.clone(), key, !is_elsewhere));
            }
        }
        Ok((doomed, manifest.count_synced(row.id)?))
    }

    /// Returns what would become of the paths; nothing of those that are level, gone, or not files.
    fn fates(&self, paths: Vec<RelPath>) -> anyhow::Result<BTreeMap<RelPath, Fate>> {
        let known = match &self.known {
            Some((manifest, row)) => manifest.entries(row.id, &paths)?,
            None => paths.iter().map(|_| None).collect(),
        };
        let mut fates = BTreeMap::new();
        for (path, known) in paths.into_iter().zip(known) {
            let fate = match self.tree.stat(&path) {
                Ok(stat) if stat.kind != Kind::File => continue,
                Ok(stat) if self.is_left_out(&path, &stat) => continue,
                Ok(stat) if plan::look(known.as_ref(), &stat, false, self.now) != Look::Read => {
                    continue;
                }
                Ok(stat) => match self.keys.key(&path) {
                    Ok(key) => Fate::Upload {
                        key,
                        size: stat.size,
                        inode: (stat.dev, stat.ino),
                    },
                    Err(error) => Fate::NoKey(error.to_string()),
                },
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => Fate::Unreadable(error.to_string()),
            };
            fates.insert(path, fate);
        }
        Ok(fates)
    }
}
