//! A folder that is changed at random, its bucket with a ledger, and the comparison of all that there is.
//!
//! A name that was removed is never used again: so a removal of its object before the file was removed is wrongful, and
//! the ledger tells.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use md5::{Digest as _, Md5};
use tempfile::TempDir;
use tidewatch::base::clock::Clock;
use tidewatch::base::digest::{Sha256, hex};
use tidewatch::base::path::RelPath;
use tidewatch::manifest::{Entry, Manifest, State};
use tokio::process::Command;

use crate::crash::ledger::{self, Change};
use crate::process::World;
use crate::restore;
use crate::support::endpoint::{BUCKET, Endpoint};

/// Above this a file goes up by parts, bytes.
const LARGE: usize = 16 << 20;

/// How many files the writer lets there be, about.
const FILES: usize = 40;

/// Synced deletes, without waiting long for them.
pub const DELETES: [&str; 4] = ["--on-delete", "delete", "--settle", "10ms"];

pub struct Rig {
    pub world: World,
    pub random: fastrand::Rng,
    pub seed: u64,
    /// How the commands are told what to do.
    pub args: Vec<&'static str>,
    bucket: TempDir,
    next: u64,
    /// What there is.
    files: Vec<String>,
    /// Until when (wall clock, milliseconds) what is gone was certainly there.
    gone: BTreeMap<String, i64>,
}

fn now_ms() -> i64 {
    Clock::Real.now().wall_ns / 1_000_000
}

impl Rig {
    pub async fn new(seed: u64) -> Self {
        let bucket = tempfile::tempdir().unwrap();
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("tree")).unwrap();
        let endpoint = ledger::start(bucket.path()).await;
        Self {
            world: World { dir, endpoint },
            random: fastrand::Rng::with_seed(seed),
            seed,
            args: DELETES.to_vec(),
            bucket,
            next: 0,
            files: Vec::new(),
            gone: BTreeMap::new(),
        }
    }

    pub fn content(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.random.fill(&mut bytes);
        bytes
    }

    fn fresh(&mut self) -> String {
        self.next += 1;
        format!("d{}/f{}", self.next % 5, self.next)
    }

    /// Makes a file of a name that was never used before, and returns that.
    pub fn create(&mut self, bytes: &[u8]) -> String {
        let name = self.fresh();
        self.world.write(&name, bytes);
        self.files.push(name.clone());
        name
    }

    pub fn remove(&mut self, name: &str) {
        self.files.retain(|file| file != name);
        self.gone.insert(name.to_owned(), now_ms());
        fs::remove_file(self.world.tree(name)).unwrap();
    }

    fn rename(&mut self, name: &str) {
        let to = self.fresh();
        let folder = self.world.tree(&to).parent().unwrap().to_owned();
        fs::create_dir_all(folder).unwrap();
        self.files.retain(|file| file != name);
        self.gone.insert(name.to_owned(), now_ms());
        fs::rename(self.world.tree(name), self.world.tree(&to)).unwrap();
        self.files.push(to);
    }

    /// Changes something.
    pub fn change(&mut self) {
        let len = self.random.usize(..8_000);
        let any = self.random.usize(..self.files.len().max(1));
        let Some(name) = self.files.get(any).cloned() else {
            let bytes = self.content(len);
            self.create(&bytes);
            return;
        };
        match self.random.u8(..100) {
            _ if self.files.len() > FILES => self.remove(&name),
            0..30 => {
                let bytes = self.content(len);
                self.create(&bytes);
            }
            30..38 => {
                let bytes = fs::read(self.world.tree(&name)).unwrap();
                self.create(&bytes);
            }
            38..62 => {
                let bytes = self.content(len);
                self.world.write(&name, bytes);
            }
            62..72 => {
                let aside = self.world.dir.path().join("aside");
                fs::write(&aside, self.content(len)).unwrap();
                fs::rename(&aside, self.world.tree(&name)).unwrap();
            }
            72..84 => self.rename(&name),
            84..98 => self.remove(&name),
            _ => {
                let is_large = |name: &&String| {
                    let stat = fs::metadata(self.world.tree(name)).unwrap();
                    stat.len() > LARGE as u64
                };
                // One at a time: their bytes cost more than all the others.
                if let Some(old) = self.files.iter().find(is_large).cloned() {
                    self.remove(&old);
                } else {
                    let bytes = self.content(LARGE + 1 + len);
                    self.create(&bytes);
                }
            }
        }
    }

    /// Makes a sync with another state folder.
    pub fn sync_with(&self, state: &Path) -> Command {
        let world = &self.world;
        let mut command = world.bare(["sync"]);
        command.arg(world.tree(""));
        command.args(["s3://tide/p", "--endpoint-url", &world.endpoint.url()]);
        command.arg("--state-dir").arg(state).args(&self.args);
        command
    }

    /// Syncs to the end, and compares everything.
    pub async fn level(&self) {
        let ended = self.world.sync(&self.args).await;
        let seed = self.seed;
        assert_eq!(
            ended.code,
            Some(0),
            "seed {seed}: {}{}",
            ended.out,
            ended.err
        );
        assert!(
            ended.out.starts_with("level: "),
            "seed {seed}: {}",
            ended.out
        );
        self.compare(&self.world.state());
    }

    /// Compares the files with the objects, and both with the rows in the state folder `state`.
    pub fn compare(&self, state: &Path) {
        let seed = self.seed;
        let files = files_below(&self.world.tree(""));
        let objects = self.world.objects();
        let names = |all: &BTreeMap<String, Vec<u8>>| all.keys().cloned().collect::<Vec<_>>();
        assert_eq!(
            names(&files),
            names(&objects),
            "seed {seed}: files and objects"
        );
        for (name, bytes) in &files {
            assert!(
                objects[name] == *bytes,
                "seed {seed}: {name} has another content"
            );
        }
        let mut rows = rows(state);
        for (name, bytes) in &files {
            let row = rows.remove(name);
            let row = row.unwrap_or_else(|| panic!("seed {seed}: {name} has no row"));
            assert_eq!(row.state, State::Synced, "seed {seed}: {row:?}");
            let stored = row.stored.expect("what is synced is stored");
            assert_eq!(stored.sha256, Sha256::of(bytes), "seed {seed}: {name}");
            if bytes.len() <= LARGE {
                let etag = stored.etag.trim_matches('"');
                assert_eq!(etag, hex(&Md5::digest(bytes)), "seed {seed}: {name}");
            }
        }
        let lies = rows.values().find(|row| row.state == State::Synced);
        assert!(lies.is_none(), "seed {seed}: a row of no file: {lies:?}");
        // What another agent has begun when its questions about the store were killed is only given up when it is a day old:
        // a state folder that the power cut has left empty is another agent's.
        let agent = Manifest::open_read_only(state)
            .unwrap()
            .expect("a manifest");
        let own = format!("p/.tidewatch/probe-{}/", &agent.agent_id()[..16]);
        let mut open = self.world.endpoint.open_uploads();
        open.retain(|(key, _)| key.starts_with(&own) || !key.starts_with("p/.tidewatch/probe-"));
        assert_eq!(open, [], "seed {seed}");
    }

    /// Restores from the URL alone, compares every byte, mode and time, and returns how many files there were.
    pub async fn restored(&self) -> usize {
        let ended = restore::restore(&self.world, &[]).await;
        assert_eq!(ended.code, Some(0), "seed {}: {}", self.seed, ended.err);
        self.compare_restored()
    }

    /// Compares what was restored, and returns how many files there were.
    pub fn compare_restored(&self) -> usize {
        let is_file = |tree: BTreeMap<Vec<u8>, restore::Held>| {
            let files = tree.into_iter();
            files
                .filter(|(_, held)| matches!(held, restore::Held::File(..)))
                .collect::<BTreeMap<_, _>>()
        };
        let there = is_file(restore::tree(&self.world.tree("")));
        let back = is_file(restore::tree(&restore::back(&self.world)));
        assert_eq!(back, there, "seed {}", self.seed);
        back.len()
    }

    /// Ends the endpoint and looks for objects that were removed while their files were there. Returns how many removals
    /// there were.
    pub fn removals(self) -> u64 {
        let Self {
            world,
            bucket,
            gone,
            seed,
            ..
        } = self;
        drop(world);
        let mut removals = 0;
        for change in ledger::read(bucket.path()) {
            let is_own = change.key.starts_with("p/.tidewatch/");
            if change.etag.is_some() || is_own {
                continue;
            }
            removals += 1;
            let name = change.key.strip_prefix("p/").expect("below the prefix");
            let there_until = gone.get(name).copied().unwrap_or(i64::MAX);
            // The ledger's clock is whole milliseconds.
            assert!(
                change.at_ms + 1 >= there_until,
                "seed {seed}: a wrongful delete of {name} at {}, there until {there_until}",
                change.at_ms
            );
        }
        removals
    }

    /// Ends the endpoint and starts it anew; returns what the ledger says by then.
    pub async fn ledger(&mut self) -> Vec<Change> {
        // The folder is locked for as long as an endpoint has it.
        let elsewhere = Endpoint::start().await;
        drop(std::mem::replace(&mut self.world.endpoint, elsewhere));
        let ledger = ledger::read(self.bucket.path());
        self.world.endpoint = Endpoint::start_in(self.bucket.path()).await;
        ledger
    }
}

/// Returns every file below `root`, by its path.
pub fn files_below(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap();
                files.insert(name.to_owned(), fs::read(&path).unwrap());
            }
        }
    }
    files
}

/// Returns the rows of the only folder of a state folder.
pub fn rows(state: &Path) -> BTreeMap<String, Entry> {
    let manifest = Manifest::open_read_only(state)
        .unwrap()
        .expect("a manifest");
    rows_of(&manifest)
}

/// Returns the rows of the folder that goes to our bucket, by path; none if there is no such folder.
pub fn rows_of(manifest: &Manifest) -> BTreeMap<String, Entry> {
    let mut all = BTreeMap::new();
    let Some(folder) = manifest
        .folders()
        .unwrap()
        .into_iter()
        .find(|row| row.key.bucket == BUCKET)
        .map(|row| row.id)
    else {
        return all;
    };
    let mut after = RelPath::root();
    loop {
        let page = manifest
            .page(folder, &RelPath::root(), &after, 500)
            .unwrap();
        let Some(last) = page.last() else {
            return all;
        };
        after = last.path.clone();
        for entry in page {
            let name = String::from_utf8(entry.path.as_bytes().to_vec()).unwrap();
            all.insert(name, entry);
        }
    }
}

#[tokio::test]
#[should_panic(expected = "a wrongful delete of d1/f1")]
async fn the_ledger_tells_of_a_wrongful_delete() {
    let mut rig = Rig::new(1).await;
    let name = rig.create(b"still there");
    rig.level().await;
    let client = rig.world.endpoint.client();
    let delete = client
        .delete_object()
        .bucket(BUCKET)
        .key(format!("p/{name}"));
    delete.send().await.unwrap();
    rig.removals();
}

#[tokio::test]
async fn a_delete_of_what_is_gone_is_not_wrongful() {
    let mut rig = Rig::new(1).await;
    let name = rig.create(b"not for long");
    rig.level().await;
    rig.remove(&name);
    rig.level().await;
    assert_eq!(rig.removals(), 1);
}
