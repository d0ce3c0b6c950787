//! The disk of a selftest: a folder of its own below the system's place for temporary files, and the tree in it.
//!
//! Nothing outside that folder is written. It is removed when it is dropped.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, FileTimes, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use crate::base::digest::{Hasher, Sha256};
use crate::base::path::RelPath;
use crate::commands::folders::shown;

/// Names that have been trouble for somebody. Not among them: what stores on a file system of their own cannot have, such as
/// a key that is the folder of another.
const ODD: &[&[u8]] = &[
    b"plain.txt",
    b"a",
    b"a-b",
    b"a.b/c",
    b"deep/d/e/e/p/e/r/file",
    b".hidden",
    b" blanks at both ends ",
    b"100%/%41+ &?#=;",
    b"'quoted' \"twice\" `and` $HOME",
    b"back\\slash",
    b"new\nline",
    b"latin \xe9 and \xff",
    "ünï/日本/😀".as_bytes(),
    "own \u{201b} sign \u{201b}0A".as_bytes(),
];

/// Files of nothing.
const EMPTY: [&str; 2] = ["empty", "a.b/empty"];
/// Folders in which nothing is.
const BARE: [&str; 2] = ["bare folder", "deep/bare"];
/// Two files with the same bytes: the second becomes a copy inside the bucket.
const TWINS: [&str; 2] = ["twins/first", "twins/second"];
/// The file that goes up in parts.
const LARGE: &str = "large";
/// Its length in bytes: above 16 MiB, so that it takes parts.
const LARGE_LEN: usize = (16 << 20) + 4321;
/// The folder whose files are removed at once.
pub const DOOMED: &str = "doomed";
/// How many there are.
pub const DOOMED_FILES: usize = 8;
/// Files of no other use, which are changed again and again.
const COMMON: usize = 12;

/// The disk of one selftest.
#[derive(Debug)]
pub struct Ground {
    dir: PathBuf,
}

/// What a tree has under one name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Held {
    /// A folder, with its mode.
    Folder {
        /// Permission bits.
        mode: u32,
    },
    /// A file.
    File {
        /// Of its bytes.
        sha256: Sha256,
        /// Length in bytes.
        size: u64,
        /// Permission bits.
        mode: u32,
        /// Last modification, nanoseconds since the epoch.
        mtime_ns: i64,
    },
}

/// A tree as it is at one moment.
pub type Picture = BTreeMap<RelPath, Held>;

impl Ground {
    /// Makes the folder, with a tree in it that has all that is odd.
    pub fn make(id: u64, random: &mut fastrand::Rng) -> io::Result<Self> {
        let dir = std::env::temp_dir().join(format!("tidewatch-selftest-{id:016x}"));
        DirBuilder::new().mode(0o700).create(&dir)?;
        let ground = Self {
            dir: dir.canonicalize()?,
        };
        fs::create_dir(ground.tree())?;
        ground.plant(random)?;
        Ok(ground)
    }

    /// Returns where the tree is.
    pub fn tree(&self) -> PathBuf {
        self.dir.join("tree")
    }

    /// Returns where the state is.
    pub fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// Returns where what comes back goes; `name` tells one restore from the other.
    pub fn back(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn plant(&self, random: &mut fastrand::Rng) -> io::Result<()> {
        let write = |name: &[u8], bytes: &[u8], random: &mut fastrand::Rng| {
            self.write(Path::new(std::ffi::OsStr::from_bytes(name)), bytes, random)
        };
        for name in ODD {
            write(name, &noise(random, 1..3000), random)?;
        }
        for name in EMPTY {
            write(name.as_bytes(), b"", random)?;
        }
        let twin = noise(random, 100_000..200_000);
        for name in TWINS {
            write(name.as_bytes(), &twin, random)?;
        }
        for number in 0..DOOMED_FILES {
            let name = format!("{DOOMED}/{number}");
            write(name.as_bytes(), &noise(random, 1..3000), random)?;
        }
        for number in 0..COMMON {
            write(common(number).as_bytes(), &noise(random, 1..60_000), random)?;
        }
        write(
            LARGE.as_bytes(),
            &noise(random, LARGE_LEN..LARGE_LEN + 1),
            random,
        )?;
        for name in BARE {
            fs::create_dir_all(self.tree().join(name))?;
        }
        Ok(())
    }

    /// Changes the tree as people do: other bytes, more bytes, a new file, one less, another name, another mode.
    pub fn change(&self, random: &mut fastrand::Rng) -> io::Result<()> {
        let tree = self.tree();
        let pick = |random: &mut fastrand::Rng| PathBuf::from(common(random.usize(0..COMMON)));
        self.write(&pick(random), &noise(random, 1..60_000), random)?;
        self.write(&pick(random), &noise(random, 1..60_000), random)?;
        let grown = tree.join(pick(random));
        if grown.is_file() {
            let mut file = File::options().append(true).open(&grown)?;
            file.write_all(&noise(random, 1..500))?;
        }
        let _ = fs::remove_file(tree.join(pick(random)));
        let (from, to) = (tree.join(pick(random)), tree.join(pick(random)));
        if from.is_file() {
            rustix::fs::rename(&from, &to)?;
        }
        let touched = tree.join(ODD_TOUCHED);
        let mode = if random.bool() { 0o600 } else { 0o644 };
        fs::set_permissions(touched, Permissions::from_mode(mode))?;
        self.write(
            Path::new(&format!("new/{:08x}", random.u32(..))),
            &noise(random, 1..20_000),
            random,
        )
    }

    /// Gives the large file other bytes in every part.
    pub fn change_large(&self, random: &mut fastrand::Rng) -> io::Result<()> {
        let bytes = noise(random, LARGE_LEN..LARGE_LEN + 1);
        self.write(Path::new(LARGE), &bytes, random)
    }

    /// Writes three files that nobody else has the bytes of, and returns their paths.
    pub fn write_three(&self, random: &mut fastrand::Rng) -> io::Result<Vec<RelPath>> {
        let names = ["gone/one", "gone/two", "gone/three"];
        for name in names {
            self.write(Path::new(name), &noise(random, 1..3000), random)?;
        }
        Ok(names
            .iter()
            .filter_map(|name| RelPath::new(name.as_bytes()))
            .collect())
    }

    /// Removes files.
    pub fn remove(&self, paths: &[RelPath]) -> io::Result<()> {
        paths
            .iter()
            .try_for_each(|path| fs::remove_file(path.under(&self.tree())))
    }

    /// Takes the folder [`DOOMED`] out of the tree.
    pub fn take_away(&self) -> io::Result<()> {
        Ok(rustix::fs::rename(
            self.tree().join(DOOMED),
            self.dir.join(DOOMED),
        )?)
    }

    /// Puts it back.
    pub fn put_back(&self) -> io::Result<()> {
        Ok(rustix::fs::rename(
            self.dir.join(DOOMED),
            self.tree().join(DOOMED),
        )?)
    }

    /// Writes a file in place, with a time of its own: the past, to the nanosecond.
    fn write(&self, path: &Path, bytes: &[u8], random: &mut fastrand::Rng) -> io::Result<()> {
        let path = self.tree().join(path);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut file = File::create(&path)?;
        file.write_all(bytes)?;
        let at = UNIX_EPOCH + Duration::from_nanos(random.u64(0..1_700_000_000_000_000_000));
        file.set_times(FileTimes::new().set_modified(at))
    }
}

/// The file whose mode is changed.
const ODD_TOUCHED: &str = "plain.txt";

impl Drop for Ground {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            tracing::warn!(
                "could not take the selftest's folder {} away: {error}",
                shown(&self.dir)
            );
        }
    }
}

fn common(number: usize) -> String {
    format!("common/{number}")
}

/// Makes bytes that do not pack.
fn noise(random: &mut fastrand::Rng, len: std::ops::Range<usize>) -> Vec<u8> {
    let mut bytes = vec![0; random.usize(len)];
    random.fill(&mut bytes);
    bytes
}

/// Looks at everything below a folder.
pub fn picture(root: &Path) -> io::Result<Picture> {
    let mut all = Picture::new();
    let mut open = vec![root.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let stat = fs::symlink_metadata(&path)?;
            let Some(name) = RelPath::below(root, &path) else {
                continue;
            };
            let mode = stat.mode() & 0o7777;
            let held = if stat.is_dir() {
                open.push(path);
                Held::Folder { mode }
            } else {
                Held::File {
                    sha256: hash(&path)?,
                    size: stat.size(),
                    mode,
                    mtime_ns: stat.mtime() * 1_000_000_000 + stat.mtime_nsec(),
                }
            };
            all.insert(name, held);
        }
    }
    Ok(all)
}

fn hash(path: &Path) -> io::Result<Sha256> {
    let (mut file, mut hasher) = (File::open(path)?, Hasher::default());
    let mut piece = vec![0; 1 << 16];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(hasher.finish()),
            len => hasher.update(&piece[..len]),
        }
    }
}

/// Says how one picture differs from another, or how much they have in common.
pub fn compare(wanted: &Picture, found: &Picture) -> Result<(u64, u64), String> {
    for (path, held) in wanted {
        match found.get(path) {
            Some(other) if other == held => {}
            Some(other) => return Err(format!("{path} came back as {other:?}, not as {held:?}")),
            None => return Err(format!("{path} did not come back")),
        }
    }
    if let Some(more) = found.keys().find(|path| !wanted.contains_key(*path)) {
        return Err(format!("{more} came back, which is not in the tree"));
    }
    Ok(files(wanted))
}

/// Returns how many files there are, and their bytes.
pub fn files(picture: &Picture) -> (u64, u64) {
    let sizes = picture.values().filter_map(|held| match held {
        Held::File { size, .. } => Some(*size),
        Held::Folder { .. } => None,
    });
    sizes.fold((0, 0), |(files, bytes), size| (files + 1, bytes + size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ground_is_changed_as_its_seed_says_and_leaves_nothing() {
        let random = || fastrand::Rng::with_seed(7);
        let ground = |id| Ground::make(id, &mut random()).expect("a ground");
        let (one, other) = (ground(fastrand::u64(..)), ground(fastrand::u64(..)));
        let same = picture(&one.tree()).expect("a picture");
        assert!(files(&same).0 > 30, "{same:?}");
        let (mut first, mut second) = (random(), random());
        for _ in 0..20 {
            one.change(&mut first).expect("a change");
            other.change(&mut second).expect("a change");
        }
        let changed = picture(&one.tree()).expect("a picture");
        // What was appended to, or made by a rename, has the time of this moment.
        let contents = |picture: &Picture| -> Vec<_> {
            let content = |(path, held): (&RelPath, &Held)| match held {
                Held::File { sha256, .. } => (path.clone(), Some(*sha256)),
                Held::Folder { .. } => (path.clone(), None),
            };
            picture.iter().map(content).collect()
        };
        assert_eq!(
            contents(&changed),
            contents(&picture(&other.tree()).expect("a picture"))
        );
        assert!(compare(&same, &changed).is_err());
        assert_eq!(compare(&changed, &changed), Ok(files(&changed)));
        let dir = one.dir.clone();
        drop(one);
        assert!(!dir.exists());
    }
}
