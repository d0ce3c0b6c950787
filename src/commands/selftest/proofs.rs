//! What is proven, one function each. Every one leaves the bucket level with the tree.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::agent::{Mode, Reason};
use crate::base::clock::Clock;
use crate::base::offload::Offload;
use crate::base::policy::{Brake, History, OnDelete};
use crate::base::price::{Prices, Usage};
use crate::base::snapshot::FolderSnapshot;
use crate::base::units::show_bytes;
use crate::commands::folders::{Eyes, Left, Shared, Start, first_snapshot};
use crate::commands::restore::past::{self, Moment};
use crate::commands::selftest::flaky::{Counts, Flaky};
use crate::commands::selftest::ground::{self, DOOMED_FILES, Ground, Held, Picture};
use crate::commands::selftest::{Proof, Trouble, bucket};
use crate::commands::stores::Stores;
use crate::config::{Config, Folder, MEMORY_BYTES, Notify, Upload};
use crate::report::bill_file;
use crate::restore::plan::OnConflict;
use crate::restore::target::Owners;
use crate::restore::told::Happening;
use crate::restore::{Restore, Settings};
use crate::store::features::{Checksum, Features};
use crate::store::key::KeyMap;
use crate::store::probe::probe;
use crate::store::{Body, Meta, Store};

/// How long a run goes on without any success.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// How long the store may take to answer what it can do.
const ASKING: Duration = Duration::from_secs(60);
/// How long what is on its way may take when it is all to end.
const SHUTDOWN: Duration = Duration::from_secs(5);
/// Runs over a broken line until it has to be level: what breaks comes to an end.
const RUNS: u32 = 8;
/// Requests of a restore at once.
const REQUESTS: usize = 16;
/// More deletes than this wait for a person, in the proof of the brake. Fewer than are made there.
const BRAKE: Brake = Brake {
    files: 3,
    share_percent: None,
    window: Duration::from_secs(600),
};

type Told = Result<String, Trouble>;

/// A selftest that runs.
pub struct Trial {
    /// The tree, and where it goes.
    pub folder: Folder,
    /// The bucket, for looking at it.
    pub store: Arc<dyn Store>,
    /// Where the keys are.
    pub keys: KeyMap,
    /// The disk.
    pub ground: Arc<Ground>,
    /// What decides how things change and break.
    pub random: fastrand::Rng,
    /// Ends everything.
    pub stop: CancellationToken,
    /// How often a run is killed.
    pub kills: u32,
    /// Whether the bucket has versions.
    pub has_versions: bool,
    restored: Usage,
}

impl Trial {
    /// Makes one of a tree that nothing has been done with.
    pub fn new(
        folder: Folder,
        store: Arc<dyn Store>,
        ground: Ground,
        random: fastrand::Rng,
        kills: u32,
    ) -> Self {
        Self {
            keys: KeyMap::new(&folder.to.prefix),
            folder: Folder {
                on_delete: OnDelete::Trash,
                audit: None,
                ..folder
            },
            store,
            ground: Arc::new(ground),
            random,
            stop: CancellationToken::new(),
            kills,
            has_versions: false,
            restored: Usage::default(),
        }
    }

    /// Tries one proof; returns what it came to, in words.
    pub async fn prove(&mut self, proof: Proof) -> Told {
        match proof {
            Proof::Store => self.store().await,
            Proof::Synced => self.synced().await,
            Proof::Level => self.level().await,
            Proof::Kills => self.killed().await,
            Proof::Faults => self.faults().await,
            Proof::Trash => self.trash().await,
            Proof::Brake => self.brake().await,
            Proof::Restore => self.restore().await,
            Proof::History => self.history().await,
        }
    }

    /// Returns what the agents have asked of the bucket, those that were killed left out.
    pub fn spent(&self) -> Usage {
        let bill = bill_file::read(&self.ground.state()).unwrap_or_default();
        let days = bill.days.values();
        days.fold(self.restored, |sum, day| sum.plus(day.usage))
    }

    async fn store(&mut self) -> Told {
        let key = format!("{}there", self.keys.prefix());
        let body = Body::of("tidewatch selftest; may be removed\n".into());
        let stored = self.store.put(&key, body.clone(), &Meta::default()).await?;
        let (_, bytes) = self.store.get(&key, None).await?;
        if bytes != body.bytes {
            return Err(Trouble::of(
                "an object that was just stored comes back as another",
            ));
        }
        self.store.delete(&key).await?;
        // Where versioning is suspended there is one that is called so.
        self.has_versions = stored.version_id.is_some_and(|id| id != "null");
        let until = tokio::time::sleep(ASKING);
        let features = probe(&*self.store, &self.keys, self.random.u64(..), until).await?;
        self.store.learn(features);
        Ok(words(&features, self.has_versions))
    }

    async fn synced(&mut self) -> Told {
        let last = self.sync(self.folder.clone()).await?;
        let (files, bytes) = self.compare().await?;
        Ok(format!(
            "{files} files ({}) of odd names and sizes; every object has its file's bytes; {} are copies inside the bucket",
            show_bytes(bytes),
            last.tally.copied
        ))
    }

    async fn level(&mut self) -> Told {
        let last = self.sync(self.folder.clone()).await?;
        let tally = last.tally;
        if tally.uploaded + tally.copied + tally.deleted + tally.bytes > 0 {
            return Err(Trouble::of(format!(
                "a second run sent something though nothing had changed: {} uploads, {} copies, {} deletes",
                tally.uploaded, tally.copied, tally.deleted
            )));
        }
        Ok("a second run sends nothing and removes nothing".to_owned())
    }

    async fn faults(&mut self) -> Told {
        self.change(3).await?;
        let counts = Arc::new(Counts::default());
        let mut runs = 1;
        // A file that fails again and again is left to the next run, which is what a user would start then.
        while !self.once_broken(&counts).await? {
            runs += 1;
            if runs > RUNS {
                let why =
                    format!("it did not come to be level in {RUNS} runs; the log says what failed");
                return Err(Trouble::of(why));
            }
        }
        let (files, _) = self.compare().await?;
        let [all, before, after] =
            [&counts.all, &counts.before, &counts.after].map(|count| count.load(Ordering::Relaxed));
        if before == 0 || after == 0 {
            let why = format!(
                "of {all} requests too few changed anything for one of each kind to go wrong"
            );
            return Err(Trouble::of(why));
        }
        Ok(format!(
            "of {all} requests {before} were never sent and {after} lost their answers; level in run {runs}, {files} files compared"
        ))
    }

    /// Runs once over a line that breaks; returns whether everything is level.
    async fn once_broken(&mut self, counts: &Arc<Counts>) -> Result<bool, Trouble> {
        let (line, random) = (counts.clone(), self.random.fork());
        let through = move |store| Arc::new(Flaky::new(store, random, line)) as Arc<dyn Store>;
        let last = self.run(self.folder.clone(), through).await?;
        if last.held > 0 {
            return Err(Trouble::of("files are held; the log says which"));
        }
        // The old name of a file whose new one could not be stored yet waits for the next run too.
        Ok(last.failed + last.unsyncable == 0)
    }

    async fn trash(&mut self) -> Told {
        let (tree, mut random) = (self.ground.tree(), self.random.fork());
        let gone = self
            .on_disk("write files", move |ground| ground.write_three(&mut random))
            .await?;
        self.sync(self.folder.clone()).await?;
        let picture = look(&tree).await?;
        let paths = gone.clone();
        self.on_disk("remove files", move |ground| ground.remove(&paths))
            .await?;
        self.sync(self.folder.clone()).await?;
        self.compare().await?;
        let trash = bucket::trash(&self.store, &self.keys).await?;
        for path in &gone {
            let Some(Held::File { sha256, .. }) = picture.get(path) else {
                continue;
            };
            if !trash.contains(&sha256.0) {
                return Err(Trouble::of(format!(
                    "{path} was removed, and trash does not have it"
                )));
            }
        }
        Ok(format!(
            "{} removed files are set aside, byte for byte",
            gone.len()
        ))
    }

    async fn brake(&mut self) -> Told {
        let before = self.picture().await?;
        self.on_disk("move a folder", Ground::take_away).await?;
        let folder = Folder {
            delete_brake: Some(BRAKE),
            ..self.folder.clone()
        };
        let ended = self.run(folder, |store| store).await?;
        if ended.held != DOOMED_FILES as u64 {
            return Err(Trouble::of(format!(
                "the brake holds {} deletes, and not {DOOMED_FILES}",
                ended.held
            )));
        }
        bucket::compare(&self.store, &self.keys, &before).await?;
        self.on_disk("move a folder", Ground::put_back).await?;
        self.sync(self.folder.clone()).await?;
        self.compare().await?;
        Ok(format!(
            "{DOOMED_FILES} files gone at once: their objects stay, held for a person, and the files came back"
        ))
    }

    async fn restore(&mut self) -> Told {
        let wanted = self.picture().await?;
        let (files, bytes) = self.bring_back("back", None, &wanted).await?;
        Ok(format!(
            "{files} files ({}) from the URL alone: bytes, times, modes and empty folders are the same",
            show_bytes(bytes)
        ))
    }

    async fn history(&mut self) -> Told {
        let folder = Folder {
            history: History::Trash,
            ..self.folder.clone()
        };
        self.change(1).await?;
        self.sync(folder.clone()).await?;
        let wanted = self.picture().await?;
        let at_ns = Clock::Real.now().wall_ns;
        self.change(2).await?;
        self.sync(folder).await?;
        self.compare().await?;
        let (files, _) = self.bring_back("past", Some(at_ns), &wanted).await?;
        Ok(format!("{files} files as they were before later changes"))
    }

    /// Changes the tree some times.
    pub async fn change(&mut self, times: u32) -> Result<(), Trouble> {
        let mut random = self.random.fork();
        self.on_disk("change files", move |ground| {
            (0..times).try_for_each(|_| ground.change(&mut random))
        })
        .await?;
        // So that nothing of it looks as if it were still being written.
        tokio::time::sleep(Duration::from_millis(20)).await;
        Ok(())
    }

    /// Changes every part of the large file.
    pub async fn change_large(&mut self) -> Result<(), Trouble> {
        let mut random = self.random.fork();
        let change = move |ground: &Ground| ground.change_large(&mut random);
        self.on_disk("change a file", change).await
    }

    /// Does something with the disk.
    pub async fn on_disk<T: Send + 'static>(
        &self,
        what: &str,
        work: impl FnOnce(&Ground) -> io::Result<T> + Send + 'static,
    ) -> Result<T, Trouble> {
        let ground = self.ground.clone();
        let done = Offload::Pool.run(move || work(&ground)).await;
        done.map_err(|error| Trouble::here(what, &error))
    }

    /// Looks at the tree.
    pub async fn picture(&self) -> Result<Picture, Trouble> {
        look(&self.ground.tree()).await
    }

    /// Compares every object with its file.
    pub async fn compare(&self) -> Result<(u64, u64), Trouble> {
        let picture = self.picture().await?;
        bucket::compare(&self.store, &self.keys, &picture).await
    }

    /// Syncs once in this process; anything but level is trouble.
    async fn sync(&mut self, folder: Folder) -> Result<FolderSnapshot, Trouble> {
        let last = self.run(folder, |store| store).await?;
        let counts = [
            (last.failed, "failed"),
            (last.unsyncable, "cannot be synced as they are"),
            (last.held, "are held"),
        ];
        match counts.iter().find(|(count, _)| *count > 0) {
            Some((count, what)) => Err(Trouble::of(format!(
                "a run did not come to be level: {count} files {what}; the log says which"
            ))),
            None => Ok(last),
        }
    }

    async fn run(
        &mut self,
        folder: Folder,
        through: impl FnOnce(Arc<dyn Store>) -> Arc<dyn Store> + Send,
    ) -> Result<FolderSnapshot, Trouble> {
        let config = Config {
            prices: Prices::default(),
            state_dir: self.ground.state(),
            listen: None,
            shutdown_grace: SHUTDOWN,
            upload: Upload::default(),
            take_over: false,
            notify: Notify::default(),
            folders: vec![folder.clone()],
        };
        let shared = Shared::open(&config, Stores::default(), Eyes::Closed).await;
        let shared = shared.map_err(|_| Trouble::of("the state folder cannot be opened"))?;
        let (snapshots, _) = watch::channel(first_snapshot(&folder));
        let start = Start {
            control: None,
            retry_failed: false,
            folder,
            mode: Mode::Once { timeout: PATIENCE },
            eyes: Eyes::Closed,
            scan_settle: Duration::ZERO,
            snapshots,
            happenings: None,
        };
        let left = shared
            .drive_through(start, self.stop.clone(), through)
            .await;
        shared.close().await;
        match left {
            Left::Ended(ended) => match ended.reason {
                Reason::Finished => Ok(ended.last),
                Reason::Store(why) => Err(Trouble::unreachable(&why)),
                Reason::Stopped(_) => Err(Trouble::of("it was stopped")),
                Reason::Taken(why) | Reason::Away(why) | Reason::Manifest(why) => {
                    Err(Trouble::of(why))
                }
            },
            Left::NoStore(error) => Err(Trouble::unreachable(&error)),
            Left::Broken(why) => Err(Trouble::of(format!("could not {why}"))),
            Left::Unable(why) => Err(Trouble::of(why)),
            Left::Unasked => Err(Trouble::unreachable(
                "the store does not say what it can do",
            )),
            Left::Stopped => Err(Trouble::of("it was stopped")),
        }
    }

    /// Restores with nothing but the URL, and compares what came back.
    async fn bring_back(
        &mut self,
        name: &str,
        at_ns: Option<i64>,
        wanted: &Picture,
    ) -> Result<(u64, u64), Trouble> {
        let stores = Stores::default();
        let store = stores.open(&self.folder).await;
        let store: Arc<dyn Store> = store.map_err(|error| Trouble::unreachable(&error))?;
        let moment = Moment {
            at_ns,
            deleted: false,
        };
        let found = past::find(&store, &self.keys, &[], moment).await;
        let found = found.map_err(|trouble| match trouble {
            past::Trouble::Store(error) => error.into(),
            past::Trouble::Catalog(error) => Trouble::of(error.to_string()),
        })?;
        if found.is_damaged {
            return Err(Trouble::of(found.notes.join("; ")));
        }
        if let Some(refused) = found.listing.refused.first() {
            return Err(Trouble::of(format!(
                "`{}` cannot come back: {}",
                refused.key, refused.why
            )));
        }
        let settings = Settings {
            on_conflict: OnConflict::Fail,
            owners: Owners::Mine,
            requests: REQUESTS,
            memory_bytes: MEMORY_BYTES,
            is_dry_run: false,
        };
        let mut errors = Vec::new();
        let mut tell = |told: &Happening<'_>| {
            errors.extend(told.error.map(|why| format!("`{}`: {why}", told.key)));
        };
        let to = self.ground.back(name);
        let stop = self.stop.clone();
        let restore = Restore::new(store, &to, settings, Arc::default(), stop, &mut tell);
        let sums = restore.run(found.listing).await;
        let sums = sums.map_err(|error| Trouble::of(format!("could not {error}")))?;
        self.restored = self.restored.plus(stores.usage());
        if sums.is_unreachable && sums.restored == 0 {
            return Err(Trouble::unreachable(&errors.join("; ")));
        }
        if let Some(first) = errors.first() {
            return Err(Trouble::of(first.as_str()));
        }
        let back = look(&to).await?;
        ground::compare(wanted, &back).map_err(Trouble::of)
    }
}

async fn look(root: &Path) -> Result<Picture, Trouble> {
    let root = root.to_owned();
    let looked = Offload::Pool.run(move || ground::picture(&root));
    looked
        .await
        .map_err(|error| Trouble::here("look at the tree", &error))
}

/// Says what a store can do.
fn words(features: &Features, has_versions: bool) -> String {
    let checksum = match features.checksum {
        Checksum::Crc64 => Some("CRC64NVME"),
        Checksum::Crc32 => Some("CRC32"),
        Checksum::Md5 => Some("MD5"),
        Checksum::None => None,
    };
    let mut able = Vec::new();
    let mut unable = Vec::new();
    let mut sort = |is: bool, what: &'static str| {
        if is {
            able.push(what);
        } else {
            unable.push(what);
        }
    };
    sort(
        features.put_if_absent && features.put_if_match && features.complete_if,
        "conditions on writes",
    );
    sort(
        features.delete_if_match == Some(true),
        "conditions on removals",
    );
    sort(features.copy, "copies inside the bucket");
    sort(features.multipart, "uploads by parts");
    sort(features.delete_many, "removals in batches");
    sort(features.metadata, "metadata");
    sort(features.exact_keys, "exact keys");
    sort(has_versions, "versions");
    let list = |some: &[&str]| {
        if some.is_empty() {
            "nothing".to_owned()
        } else {
            some.join(", ")
        }
    };
    let checks = match checksum {
        Some(sum) if features.verifies => format!("checks bodies by {sum}"),
        Some(sum) => format!("takes {sum}, but does not check it"),
        None => "takes no checksum".to_owned(),
    };
    format!("{checks}; has {}; lacks {}", list(&able), list(&unable))
}
