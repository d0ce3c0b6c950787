//! The trees that are uploaded: made once, random, so that no two files are alike, and of one age.
//!
//! With a scratch folder they stay there for the next run; else everything lies in a temporary folder.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

/// Files in one folder.
const IN_FOLDER: usize = 100;

/// When every file says that it was changed, seconds since 1970: before the endpoint says that any object was stored, so
/// that who compares the two finds nothing to do.
const CHANGED: u64 = 1_750_000_000;

/// Where everything lies.
pub struct Scratch {
    dir: PathBuf,
    _temporary: Option<TempDir>,
}

/// A tree of files.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Tree {
    /// Its root.
    pub folder: PathBuf,
    /// How many files.
    pub files: usize,
    /// Bytes of all of them.
    pub bytes: u64,
}

impl Scratch {
    /// Takes a folder that stays, or makes one that is removed at the end: below the target folder, which is on a disk. A
    /// commit that waits for nothing would flatter us.
    pub fn new(given: Option<PathBuf>) -> anyhow::Result<Self> {
        if let Some(dir) = given {
            fs::create_dir_all(&dir)?;
            let dir = dir.canonicalize()?;
            return Ok(Self {
                dir,
                _temporary: None,
            });
        }
        let temporary = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        Ok(Self {
            dir: temporary.path().to_owned(),
            _temporary: Some(temporary),
        })
    }

    /// Makes a folder that is removed when it is dropped.
    pub fn temporary(&self) -> anyhow::Result<TempDir> {
        Ok(tempfile::tempdir_in(&self.dir)?)
    }

    /// Returns files of one size, a hundred in each folder; makes them if they are not there.
    pub fn even(&self, files: usize, size: usize) -> anyhow::Result<Tree> {
        self.tree(&format!("{files}x{size}"), |_, _| size, files)
    }

    /// Returns files of 0 to 100 bytes.
    pub fn tiny(&self, files: usize) -> anyhow::Result<Tree> {
        let size = |_, random: &mut fastrand::Rng| random.usize(..=100);
        self.tree(&format!("{files}-tiny"), size, files)
    }

    /// Returns what a home has: 3,000 files up to 64 KiB, 300 up to 2 MiB, 20 up to 16 MiB, and two of 64 MiB. Sizes below
    /// each bound are spread over their logarithm.
    pub fn mixed(&self) -> anyhow::Result<Tree> {
        let size = |number, random: &mut fastrand::Rng| {
            let (least, most): (f64, f64) = match number {
                0..2 => return 64 << 20,
                2..22 => (4_194_304.0, 16_777_216.0),
                22..322 => (65_536.0, 2_097_152.0),
                _ => (16.0, 65_536.0),
            };
            (least * (most / least).powf(random.f64())) as usize
        };
        self.tree("mixed", size, 3_322)
    }

    fn tree(
        &self,
        name: &str,
        size: impl Fn(usize, &mut fastrand::Rng) -> usize,
        files: usize,
    ) -> anyhow::Result<Tree> {
        let made = self.dir.join(format!("{name}.made"));
        if let Ok(text) = fs::read_to_string(&made)
            && let Ok(tree) = serde_json::from_str::<Tree>(&text)
            && tree.folder.is_dir()
        {
            return Ok(tree);
        }
        let folder = self.dir.join(name);
        // What an interrupted run has left.
        let _ = fs::remove_dir_all(&folder);
        let mut random = fastrand::Rng::with_seed(5_000);
        let mut content = Vec::new();
        let mut bytes = 0;
        for number in 0..files {
            let path = folder.join(name_of(number));
            if number.is_multiple_of(IN_FOLDER) {
                fs::create_dir_all(path.parent().context("a folder")?)?;
            }
            let mut left = size(number, &mut random);
            bytes += left as u64;
            let mut file = File::create(path)?;
            while left > 0 {
                content.resize(left.min(64 << 20), 0);
                random.fill(&mut content);
                file.write_all(&content)?;
                left -= content.len();
            }
            age(&file)?;
        }
        flush()?;
        let tree = Tree {
            folder,
            files,
            bytes,
        };
        File::create(made)?.write_all(serde_json::to_string(&tree)?.as_bytes())?;
        Ok(tree)
    }
}

/// Writes one more file of the age of all.
pub fn write(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    fs::create_dir_all(path.parent().context("a folder")?)?;
    let mut file = File::create(path)?;
    file.write_all(content)?;
    age(&file)
}

fn age(file: &File) -> anyhow::Result<()> {
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(CHANGED))?;
    Ok(())
}

/// Returns the name of one of the files of a tree.
pub fn name_of(number: usize) -> String {
    format!("{:03}/file-{number:05}.bin", number / IN_FOLDER)
}

/// Brings what others have written to the disk, so that nobody pays for it later.
pub fn flush() -> anyhow::Result<()> {
    Command::new("sync").status()?;
    Ok(())
}

/// Reads every file once, so that the first client finds the page cache as the others do.
pub fn warm(tree: &Tree) -> anyhow::Result<()> {
    let mut folders = vec![tree.folder.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else {
                std::io::copy(&mut File::open(entry.path())?, &mut std::io::sink())?;
            }
        }
    }
    Ok(())
}

/// A folder that is removed when this is dropped: what a case has added to a tree that stays.
pub struct Removed(pub PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
