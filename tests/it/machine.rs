//! What people do with a folder, in any order: after each sync the bucket holds what the disk does, and it comes back.
//!
//! The model is the disk itself. `TIDEWATCH_MACHINE` says how many sequences are tried, `TIDEWATCH_MACHINE_SEED` from which
//! seed; what fails is made as short as possible and printed.
#![cfg(feature = "demo")]
#![allow(
    clippy::unwrap_used,
    reason = "clippy knows only the functions that are marked as tests"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "these write users' files, which nobody writes durably"
)]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;
use proptest::test_runner::{Config as Runs, RngAlgorithm, TestRng, TestRunner};
use tempfile::TempDir;
use tidewatch::agent::{Mode, Reason};
use tidewatch::base::path::RelPath;
use tidewatch::base::policy::{OnDelete, Symlinks};
use tidewatch::base::price::Prices;
use tidewatch::commands::folders::{Eyes, Left, Shared, Start, first_snapshot};
use tidewatch::commands::restore::past::{self, Moment};
use tidewatch::commands::stores::Stores;
use tidewatch::config::{Config, Folder, Notify, S3, Target, Upload};
use tidewatch::restore::plan::OnConflict;
use tidewatch::restore::target::Owners;
use tidewatch::restore::{Restore, Settings};
use tidewatch::store::Store;
use tidewatch::store::key::KeyMap;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::restore::{Held, tree};
use crate::support::endpoint::{Endpoint, Fault, REGION};
use crate::support::results;

/// Sequences, unless it is said otherwise: some seconds.
const SEQUENCES: u32 = 6;
/// The most steps of one.
const STEPS: usize = 24;

/// What files are called. Few, so that steps meet.
const FILES: [&[u8]; 8] = [
    b"a",
    b"b",
    b"c",
    b"d/a",
    b"d/b",
    b"d/e/c",
    b"f/a",
    b"odd \xff\n",
];
/// What folders are called.
const FOLDERS: [&[u8]; 4] = [b"d", b"d/e", b"f", b"g"];

/// One step.
#[derive(Clone, Debug)]
enum Step {
    /// Other content, in place.
    Write {
        file: usize,
        content: u8,
    },
    /// Other content, by a rename over what is there.
    Replace {
        file: usize,
        content: u8,
    },
    Append {
        file: usize,
        content: u8,
    },
    Truncate {
        file: usize,
        len: u64,
    },
    /// Each file or folder takes the name of the next.
    Rename {
        names: Vec<usize>,
    },
    Swap {
        one: usize,
        other: usize,
    },
    Remove {
        name: usize,
    },
    Mkdir {
        folder: usize,
    },
    Chmod {
        name: usize,
        mode: u32,
    },
    Touch {
        file: usize,
        seconds: u64,
    },
    Link {
        file: usize,
        to: usize,
    },
    /// A new agent brings the bucket level. Of its requests every so manieth loses its answer; 0: none does.
    Sync {
        lost: usize,
    },
    /// The state is gone.
    Forget,
}

fn step() -> impl Strategy<Value = Step> {
    let file = || 0..FILES.len();
    let name = || 0..FILES.len() + FOLDERS.len();
    prop_oneof![
        5 => (file(), 0..6_u8).prop_map(|(file, content)| Step::Write { file, content }),
        2 => (file(), 0..6_u8).prop_map(|(file, content)| Step::Replace { file, content }),
        2 => (file(), 0..6_u8).prop_map(|(file, content)| Step::Append { file, content }),
        1 => (file(), 0..50_u64).prop_map(|(file, len)| Step::Truncate { file, len }),
        3 => proptest::collection::vec(name(), 2..4).prop_map(|names| Step::Rename { names }),
        2 => (name(), name()).prop_map(|(one, other)| Step::Swap { one, other }),
        2 => name().prop_map(|name| Step::Remove { name }),
        1 => (0..FOLDERS.len()).prop_map(|folder| Step::Mkdir { folder }),
        1 => (name(), 0..3_usize).prop_map(|(name, mode)| Step::Chmod { name, mode: [0o700, 0o755, 0o750][mode] }),
        1 => (file(), 1..2_000_000_000_u64).prop_map(|(file, seconds)| Step::Touch { file, seconds }),
        1 => (file(), file()).prop_map(|(file, to)| Step::Link { file, to }),
        4 => Just(Step::Sync { lost: 0 }),
        1 => (3..9_usize).prop_map(|lost| Step::Sync { lost }),
        1 => Just(Step::Forget),
    ]
}

/// A folder, its bucket, and what is known of both.
struct Machine<'a> {
    dir: TempDir,
    endpoint: &'a Endpoint,
    runtime: &'a tokio::runtime::Runtime,
    folder: Folder,
    /// Whether the bucket may have more than the disk: what a lost state knew of is not removed at once.
    has_forgotten: bool,
    states: u32,
}

impl<'a> Machine<'a> {
    fn new(number: u32, endpoint: &'a Endpoint, runtime: &'a tokio::runtime::Runtime) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("tree")).unwrap();
        let to = Target {
            bucket: endpoint.bucket().to_owned(),
            prefix: format!("m{number}/"),
        };
        let folder = Folder {
            s3: S3 {
                region: Some(REGION.to_owned()),
                endpoint_url: Some(endpoint.url()),
                ..S3::default()
            },
            on_delete: OnDelete::Delete,
            delete_brake: None,
            symlinks: Symlinks::Record,
            // How far apart two listings are that have to agree that a file is gone.
            settle: Duration::from_millis(5),
            builtin_ignores: false,
            ..Folder::new(
                "m".to_owned(),
                dir.path().join("tree").canonicalize().unwrap(),
                to,
            )
        };
        Self {
            dir,
            endpoint,
            runtime,
            folder,
            has_forgotten: false,
            states: 0,
        }
    }

    fn at(&self, name: &[u8]) -> PathBuf {
        self.folder.path.join(OsStr::from_bytes(name))
    }

    fn file(&self, number: usize) -> PathBuf {
        let path = self.at(FILES[number]);
        // A file may stand where a folder has to be; then the step comes to nothing.
        let _ = fs::create_dir_all(path.parent().unwrap());
        path
    }

    fn name(&self, number: usize) -> PathBuf {
        match FILES.get(number) {
            Some(name) => self.at(name),
            None => self.at(FOLDERS[number - FILES.len()]),
        }
    }

    /// Does one step. What the disk refuses is not done: what counts is what it has then.
    fn step(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match step {
            Step::Sync { lost } => return self.sync(*lost),
            Step::Forget => {
                self.states += 1;
                self.has_forgotten = true;
            }
            step => drop(self.on_disk(step)),
        }
        Ok(())
    }

    fn on_disk(&self, step: &Step) -> io::Result<()> {
        match step {
            Step::Write { file, content } => fs::write(self.file(*file), bytes(*content)),
            Step::Replace { file, content } => {
                let aside = self.dir.path().join("aside");
                fs::write(&aside, bytes(*content))?;
                fs::rename(aside, self.file(*file))
            }
            Step::Append { file, content } => {
                let mut file = File::options().append(true).open(self.file(*file))?;
                file.write_all(&bytes(*content))
            }
            Step::Truncate { file, len } => {
                let file = File::options().write(true).open(self.file(*file))?;
                file.set_len(*len)
            }
            Step::Rename { names } => {
                let last_first = names.windows(2).rev();
                for pair in last_first {
                    let _ = fs::rename(self.name(pair[0]), self.name(pair[1]));
                }
                Ok(())
            }
            Step::Swap { one, other } => {
                let (one, other) = (self.name(*one), self.name(*other));
                let exchange = rustix::fs::RenameFlags::EXCHANGE;
                let here = rustix::fs::CWD;
                Ok(rustix::fs::renameat_with(here, one, here, other, exchange)?)
            }
            Step::Remove { name } => {
                let path = self.name(*name);
                fs::remove_file(&path).or_else(|_| fs::remove_dir_all(path))
            }
            Step::Mkdir { folder } => fs::create_dir_all(self.at(FOLDERS[*folder])),
            Step::Chmod { name, mode } => {
                let path = self.name(*name);
                if fs::symlink_metadata(&path)?.is_symlink() {
                    return Ok(());
                }
                fs::set_permissions(path, Permissions::from_mode(*mode))
            }
            Step::Touch { file, seconds } => {
                let at = UNIX_EPOCH + Duration::from_secs(*seconds);
                File::open(self.file(*file))?.set_modified(at)
            }
            Step::Link { file, to } => symlink(OsStr::from_bytes(FILES[*to]), self.file(*file)),
            Step::Sync { .. } | Step::Forget => Ok(()),
        }
    }

    fn sync(&mut self, lost: usize) -> Result<(), TestCaseError> {
        if lost > 0 {
            let mut count = 0;
            self.endpoint.script(move |_| {
                count += 1;
                (count % lost == 0).then_some(Fault::DropAnswer)
            });
        }
        let ended = self.runtime.block_on(self.run());
        self.endpoint.clear();
        ended.map_err(TestCaseError::fail)?;
        self.compare()
    }

    fn stores(&self) -> Stores {
        Stores::with_credentials(self.endpoint.access_key(), self.endpoint.secret_key())
    }

    async fn run(&self) -> Result<(), String> {
        let config = Config {
            prices: Prices::default(),
            state_dir: self.dir.path().join(format!("state{}", self.states)),
            listen: None,
            shutdown_grace: Duration::from_secs(5),
            upload: Upload::default(),
            take_over: true,
            notify: Notify::default(),
            folders: vec![self.folder.clone()],
        };
        let shared = Shared::open(&config, self.stores(), Eyes::Closed).await;
        let shared = shared.map_err(|exit| format!("the state: {exit:?}"))?;
        let (snapshots, _) = watch::channel(first_snapshot(&self.folder));
        let start = Start {
            control: None,
            retry_failed: false,
            folder: self.folder.clone(),
            mode: Mode::Once {
                timeout: Duration::from_secs(60),
            },
            eyes: Eyes::Closed,
            scan_settle: Duration::ZERO,
            snapshots,
            happenings: None,
        };
        let left = shared.drive(start, CancellationToken::new()).await;
        shared.close().await;
        match left {
            Left::Ended(ended) if matches!(ended.reason, Reason::Finished) => {
                let last = ended.last;
                match last.failed + last.held + last.unsyncable {
                    0 => Ok(()),
                    _ => Err(format!("not level: {last:?}")),
                }
            }
            other => Err(format!("{other:?}")),
        }
    }

    /// Holds the bucket against the disk.
    fn compare(&self) -> Result<(), TestCaseError> {
        let keys = KeyMap::new(&self.folder.to.prefix);
        let mut wanted = BTreeMap::new();
        for (name, held) in tree(&self.folder.path) {
            let path = RelPath::new(&name).unwrap();
            let key = keys.key(&path).unwrap();
            match held {
                Held::File(..) => {
                    wanted.insert(key, fs::read(path.under(&self.folder.path)).unwrap());
                }
                Held::Link(to) => {
                    let target = to.as_os_str().as_bytes().to_vec();
                    wanted.insert(format!("{key}.rclonelink"), target);
                }
                Held::Folder | Held::Other => {}
            }
        }
        let mut found = self.endpoint.objects();
        found.retain(|key, _| key.starts_with(keys.prefix()) && !keys.is_reserved(key));
        if self.has_forgotten {
            found.retain(|key, _| wanted.contains_key(key));
        }
        let short = |all: &BTreeMap<String, Vec<u8>>| -> Vec<_> {
            let cut = |(key, bytes): (&String, &Vec<u8>)| {
                (key.clone(), bytes.len(), bytes.first().copied())
            };
            all.iter().map(cut).collect()
        };
        let (wanted_short, found_short) = (short(&wanted), short(&found));
        prop_assert_eq!(wanted_short, found_short);
        prop_assert!(wanted == found, "an object has other bytes than its file");
        Ok(())
    }

    /// Brings everything back from the URL, and holds it against the disk.
    fn restore(&self) -> Result<(), TestCaseError> {
        let wanted = tree(&self.folder.path);
        if wanted.is_empty() || self.has_forgotten {
            return Ok(());
        }
        let to = self.dir.path().join("back");
        self.runtime
            .block_on(self.bring_back(&to))
            .map_err(TestCaseError::fail)?;
        let back = if to.exists() {
            tree(&to)
        } else {
            BTreeMap::new()
        };
        prop_assert_eq!(wanted, back);
        Ok(())
    }

    async fn bring_back(&self, to: &Path) -> Result<(), String> {
        let stores = self.stores();
        let store = stores
            .open(&self.folder)
            .await
            .map_err(|error| error.to_string())?;
        let store: Arc<dyn Store> = store;
        let now = Moment {
            at_ns: None,
            deleted: false,
        };
        let keys = KeyMap::new(&self.folder.to.prefix);
        let found = past::find(&store, &keys, &[], now).await;
        let found = found.map_err(|error| error.to_string())?;
        if !found.notes.is_empty() || !found.listing.refused.is_empty() {
            return Err(format!("{:?} {:?}", found.notes, found.listing.refused));
        }
        let settings = Settings {
            on_conflict: OnConflict::Fail,
            owners: Owners::Mine,
            requests: 8,
            memory_bytes: 64 << 20,
            is_dry_run: false,
        };
        let mut errors = Vec::new();
        let mut tell = |told: &tidewatch::restore::told::Happening<'_>| {
            errors.extend(told.error.map(str::to_owned));
        };
        let stop = CancellationToken::new();
        let restore = Restore::new(store, to, settings, Arc::default(), stop, &mut tell);
        restore
            .run(found.listing)
            .await
            .map_err(|error| error.to_string())?;
        match errors.first() {
            None => Ok(()),
            Some(first) => Err(first.clone()),
        }
    }
}

/// Returns some bytes; 0 is nothing, and few others there are, so that files have the same.
fn bytes(content: u8) -> Vec<u8> {
    let len = [0, 1, 40, 40, 5_000, 70_000][usize::from(content) % 6];
    vec![b'0' + content; len]
}

fn of_environment(name: &str, usual: u32) -> u32 {
    std::env::var(name).map_or(usual, |text| text.parse().expect("a number"))
}

#[test]
fn whatever_is_done_to_a_folder_the_bucket_is_level_after_a_sync() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let endpoint = runtime.block_on(Endpoint::start());
    let seed = of_environment("TIDEWATCH_MACHINE_SEED", 1).to_le_bytes();
    let runs = Runs {
        cases: of_environment("TIDEWATCH_MACHINE", SEQUENCES),
        failure_persistence: None,
        max_shrink_iters: 400,
        ..Runs::default()
    };
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &seed.repeat(8));
    let mut runner = TestRunner::new_with_rng(runs, random);
    let number = std::cell::Cell::new(0);
    let steps = proptest::collection::vec(step(), 1..STEPS);
    let tried = runner.run(&steps, |steps| {
        number.set(number.get() + 1);
        let mut machine = Machine::new(number.get(), &endpoint, &runtime);
        for step in &steps {
            machine.step(step)?;
        }
        machine.step(&Step::Sync { lost: 0 })?;
        machine.restore()
    });
    if let Err(why) = tried {
        panic!("{why}");
    }
    let figure = format!("{} sequences, all level and restored", number.get());
    results::note(
        "Model",
        "any steps on a real folder, against an endpoint",
        &figure,
    );
}
