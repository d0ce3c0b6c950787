//! A disk that loses its power: which files there are after it, and what is in them.
//!
//! What was synced is kept. Of the rest is kept nothing, all, a random half of the pages of 4 KiB, or all but a part of the
//! last write. Names are kept by one of two models: *ordered*, where a sync also carries all earlier names, in order
//! (ext4, XFS), and *strict*, where a name is durable only when its folder was synced (POSIX).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::crash::trace::{Op, Step};

/// What is kept or lost as one, bytes.
const PAGE: usize = 4_096;

/// How names become durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Model {
    Ordered,
    Strict,
}

/// What is kept of what was not synced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keep {
    Nothing,
    All,
    Half,
    Torn,
}

#[derive(Clone, Debug)]
enum Data {
    Write(usize, Vec<u8>),
    Truncate(usize),
}

#[derive(Default)]
struct File {
    synced: Vec<u8>,
    since: Vec<Data>,
}

type Names = BTreeMap<PathBuf, usize>;

/// A change of names.
enum Naming {
    Made(PathBuf, usize),
    Renamed(PathBuf, PathBuf),
    Unlinked(PathBuf),
}

impl Naming {
    fn apply(&self, names: &mut Names) {
        match self {
            Self::Made(path, file) => {
                names.insert(path.clone(), *file);
            }
            Self::Renamed(from, to) => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
            Self::Unlinked(path) => {
                names.remove(path);
            }
        }
    }
}

/// Returns the files that there are when the power goes after these steps, by path.
pub fn after(
    steps: &[Step],
    model: Model,
    keep: Keep,
    random: &mut fastrand::Rng,
) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files: Vec<File> = Vec::new();
    let (mut names, mut durable) = (Names::new(), Names::new());
    let mut loose: Vec<Naming> = Vec::new();
    for Step { op, .. } in steps {
        let naming = match op {
            Op::Open(path) if names.contains_key(path) => continue,
            Op::OpenEmpty(path) if names.contains_key(path) => {
                files[names[path]].since.push(Data::Truncate(0));
                continue;
            }
            Op::Open(path) | Op::OpenEmpty(path) => {
                files.push(File::default());
                Naming::Made(path.clone(), files.len() - 1)
            }
            Op::Rename(from, to) => Naming::Renamed(from.clone(), to.clone()),
            Op::Unlink(path) => Naming::Unlinked(path.clone()),
            Op::Write { path, at, bytes } => {
                let file = &mut files[names[path]];
                file.since.push(Data::Write(*at as usize, bytes.clone()));
                continue;
            }
            Op::Truncate(path, len) => {
                files[names[path]].since.push(Data::Truncate(*len as usize));
                continue;
            }
            Op::Sync(path) => {
                if let Some(file) = names.get(path) {
                    let file = &mut files[*file];
                    for data in std::mem::take(&mut file.since) {
                        data.apply(&mut file.synced);
                    }
                }
                // In the strict model a file's sync says nothing of its name, and a folder's only of what is in it.
                let is_carried = |naming: &Naming| match naming {
                    Naming::Made(name, _) | Naming::Unlinked(name) | Naming::Renamed(name, _) => {
                        model == Model::Ordered || name.parent() == Some(path)
                    }
                };
                loose.retain(|naming| {
                    let is_carried = is_carried(naming);
                    if is_carried {
                        naming.apply(&mut durable);
                    }
                    !is_carried
                });
                continue;
            }
            Op::Mkdir(_) | Op::Said(_) => continue,
        };
        naming.apply(&mut names);
        loose.push(naming);
    }
    let kept = match keep {
        Keep::Nothing => 0,
        Keep::All => loose.len(),
        Keep::Half | Keep::Torn => random.usize(..=loose.len()),
    };
    for naming in &loose[..kept] {
        naming.apply(&mut durable);
    }
    let is_mapped = |path: &Path| path.to_string_lossy().ends_with("-shm");
    let contents = durable.into_iter().map(|(path, file)| {
        let mut bytes = files[file].kept(keep, random);
        if is_mapped(&path) {
            // Written through a mapping, which no call shows: whatever.
            random.fill(&mut bytes);
        }
        (path, bytes)
    });
    contents.collect()
}

impl File {
    fn kept(&self, keep: Keep, random: &mut fastrand::Rng) -> Vec<u8> {
        let mut all = self.synced.clone();
        let mut since = self.since.clone();
        match keep {
            Keep::Nothing => return all,
            Keep::All => {}
            Keep::Half => {
                for data in &since {
                    data.apply(&mut all);
                }
                return half(&self.synced, all, random);
            }
            Keep::Torn => {
                since.truncate(random.usize(..=since.len()));
                if let Some(Data::Write(_, bytes)) = since.last_mut() {
                    bytes.truncate(random.usize(..=bytes.len()));
                }
            }
        }
        for data in &since {
            data.apply(&mut all);
        }
        all
    }
}

/// Mixes the pages of two states of a file.
fn half(old: &[u8], mut new: Vec<u8>, random: &mut fastrand::Rng) -> Vec<u8> {
    if random.bool() && new.len() < old.len() {
        // The truncation is lost.
        let len = new.len();
        new.extend_from_slice(&old[len..]);
    }
    for (number, page) in new.chunks_mut(PAGE).enumerate() {
        if random.bool() {
            let from = number * PAGE;
            for (offset, byte) in page.iter_mut().enumerate() {
                *byte = old.get(from + offset).copied().unwrap_or(0);
            }
        }
    }
    if random.bool() && new.len() > old.len() {
        // The new length is lost, and with it what lies behind the old one.
        new.truncate(old.len());
    }
    new
}

impl Data {
    fn apply(&self, to: &mut Vec<u8>) {
        match self {
            Self::Write(at, bytes) => {
                let end = at + bytes.len();
                if to.len() < end {
                    to.resize(end, 0);
                }
                to[*at..end].copy_from_slice(bytes);
            }
            Self::Truncate(len) => to.resize(*len, 0),
        }
    }
}

#[test]
fn what_was_synced_is_kept_and_of_the_rest_what_the_model_says() {
    let path = PathBuf::from("/s/f");
    let write = |text: &str| Op::Write {
        path: path.clone(),
        at: 0,
        bytes: text.into(),
    };
    let steps = |ops: &[Op]| -> Vec<Step> {
        let steps = ops.iter().cloned();
        steps.map(|op| Step { at_ms: 0, op }).collect()
    };
    let mut random = fastrand::Rng::with_seed(1);
    let mut left = |ops: &[Op], model, keep| after(&steps(ops), model, keep, &mut random);
    let made = [Op::Open(path.clone()), write("old"), Op::Sync(path.clone())];
    let named = [&made[..], &[Op::Sync("/s".into()), write("new")]].concat();
    assert!(left(&made, Model::Strict, Keep::Nothing).is_empty());
    assert_eq!(left(&made, Model::Ordered, Keep::Nothing)[&path], b"old");
    assert_eq!(left(&named, Model::Strict, Keep::Nothing)[&path], b"old");
    assert_eq!(left(&named, Model::Strict, Keep::All)[&path], b"new");
    let renamed = [&named[..], &[Op::Rename(path.clone(), "/s/g".into())]].concat();
    assert!(left(&renamed, Model::Ordered, Keep::Nothing).contains_key(&path));
    assert!(!left(&renamed, Model::Ordered, Keep::All).contains_key(&path));
    let torn = (0..50).map(|_| left(&named, Model::Ordered, Keep::Torn)[&path].clone());
    let torn: std::collections::BTreeSet<Vec<u8>> = torn.collect();
    let expected = ["new", "ned", "nld", "old"].map(|text| text.as_bytes().to_vec());
    assert_eq!(torn, std::collections::BTreeSet::from(expected));
}
