//! What the files and the objects hold: both are read and hashed, and compared with what the manifest has on record.
//!
//! A file is read as the agent reads it: beneath the root by handle, under a read lease where there is one. That its content
//! has changed under unchanged stamps is only said where nothing else can explain it: the row was read when its stamps had
//! come to rest, no writer is there now, and row and stat are the same before and after. Memory is bounded: pieces of a file,
//! and ranges of an object, whose number is bounded over all objects.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit as Place, Semaphore};
use tokio::task::JoinSet;

use crate::agent::audit::compare::{Sight as _, Verdict};
use crate::base::buffers::Pool;
use crate::base::digest::{Hasher, Sha256};
use crate::base::offload::{self, Offload};
use crate::base::path::RelPath;
use crate::base::policy::Symlinks;
use crate::base::stat::Stat;
use crate::commands::folders;
use crate::commands::verify::compare::joined;
use crate::commands::verify::look::{CLOCK, Look, Trouble};
use crate::commands::verify::sample::Sample;
use crate::commands::verify::tell::{Kind, Whose};
use crate::manifest::{Content, Entry, FolderRow, State};
use crate::store::{self, ErrorKind};
use crate::sync::plan;
use crate::tree::real::RealTree;
use crate::tree::{ReadError, Reading, Tree};

/// Files that are read at once: a disk is no faster for more.
const FILES: usize = 2;
/// Objects that are read at once.
const OBJECTS: usize = 16;
/// What is read at once of a file, and between two looks whether a writer waits.
const PIECE: u64 = 1 << 20;
/// What one request reads of an object, bytes.
const RANGE: u64 = 4 << 20;
/// Ranges in memory, over all objects: 96 MiB.
pub const RANGES: usize = 24;
/// Ranges of one object that are asked for ahead.
const AHEAD: usize = 4;
/// What is being done, for people.
const DOING: &str = "read";

/// A folder on the disk, as it has to be for its files to be judged.
pub struct Disk {
    tree: RealTree,
    /// The device number in the rows, and what it is now.
    renumbered: Option<(u64, u64)>,
    /// Filesystems that were mounted inside and are not now.
    away: Vec<RelPath>,
    pool: Pool,
}

/// What a file turned out to be.
#[derive(Debug)]
pub enum File {
    /// It has the content that is on record.
    Good,
    /// It has another one under the same stamps.
    Rotten,
    /// It is not there.
    Gone,
    /// It has changed since it was sent.
    Changed,
    /// It may be changing, or may have changed since it was read.
    Unsure(&'static str),
    /// It could not be read.
    Failed(String),
}

impl Disk {
    /// Opens a folder; the error says why nothing below it can be judged.
    pub fn open(row: &FolderRow, symlinks: Symlinks) -> Result<Self, String> {
        let root = Path::new(folders::root_of(row));
        let tree = RealTree::open(root).with_symlinks(symlinks);
        let is = tree.identity().map_err(|error| error.to_string())?;
        if row.root.is_some_and(|was| was.ino != is.ino) {
            return Err(format!(
                "another folder is in its place; if it is the right one: `tidewatch folder set {} --accept-root`",
                row.name
            ));
        }
        tree.accept(is);
        let mounted = tree.mounts();
        let is_away = |point: &&RelPath| mounted.as_ref().is_some_and(|now| !now.contains(point));
        Ok(Self {
            renumbered: row.root.map(|was| (was.dev, is.dev)),
            away: row.mounts.iter().filter(is_away).cloned().collect(),
            tree,
            pool: Pool::new(FILES * PIECE as usize),
        })
    }

    /// Reads the file of a row that is certain. Blocks.
    pub fn check(&self, row: &Entry, content: &Content) -> File {
        if self.away.iter().any(|away| row.path.is_within(away)) {
            return File::Failed("its filesystem is not mounted".to_owned());
        }
        let mut known = content.stat;
        if let Some((_, is)) = self.renumbered.filter(|(was, _)| *was == known.dev) {
            known.dev = is;
        }
        match self.tree.stat(&row.path) {
            Err(error) if is_gone(&error) => return File::Gone,
            Err(error) => return File::Failed(error.to_string()),
            Ok(stat) if !known.same_content_as(&stat) => {
                return File::Changed;
            }
            Ok(_) => {}
        }
        match self.hash(&row.path) {
            Ok((stat, _, _)) if !known.same_content_as(&stat) => File::Changed,
            Ok((_, sha256, _)) if sha256 == content.sha256 => File::Good,
            Ok((_, _, true)) => File::Unsure("a writer may be at work: look again in a minute"),
            Ok(_) if content.doubtful || known.is_racy(content.read_at_ns) => {
                File::Unsure("it changed in the moment in which it was read: it is read again")
            }
            Ok(_) => File::Rotten,
            Err(ReadError::Gone) => File::Gone,
            Err(ReadError::Kind(_)) => File::Unsure("it is no regular file any more"),
            Err(ReadError::Moving | ReadError::Restless(_)) => {
                File::Unsure("somebody has it open for writing")
            }
            Err(ReadError::Io(error)) => File::Failed(error.to_string()),
        }
    }

    /// Returns a file's stat, its hash, and whether a writer may have been at work.
    fn hash(&self, path: &RelPath) -> Result<(Stat, Sha256, bool), ReadError> {
        let file = self.tree.open(path)?;
        let reading = Reading::begin(&*file, CLOCK.now().wall_ns)?;
        let stat = reading.stat;
        let mut hasher = Hasher::default();
        let mut at = 0;
        while at < stat.size {
            let mut buffer = self.pool.take((stat.size - at).min(PIECE) as usize);
            reading.fill(at, &mut buffer)?;
            hasher.update(buffer.as_ref());
            at += buffer.as_ref().len() as u64;
        }
        let is_doubtful = reading.end()?;
        Ok((stat, hasher.finish(), is_doubtful))
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// What is read, and how many of all files.
pub struct Contents {
    /// The files, if they are read.
    pub disk: Option<Arc<Disk>>,
    /// Whether the objects are read.
    pub deep: bool,
    /// Which.
    pub sample: Sample,
}

/// Reads what was asked for of all rows, and names what differs.
pub async fn read(look: &Arc<Look>, mut contents: Contents) -> Result<(), Trouble> {
    let ranges = Arc::new(Semaphore::new(RANGES));
    let (mut files, mut objects) = (JoinSet::new(), JoinSet::new());
    let mut rows = look.rows();
    while let Some(row) = rows.next().await? {
        if plan::certain(&row).is_none() {
            continue;
        }
        look.teller().passed(1, DOING);
        if !contents.sample.takes() {
            continue;
        }
        // A row that is kept is one whose file is gone.
        if let Some(disk) = contents
            .disk
            .as_ref()
            .filter(|_| row.state == State::Synced)
        {
            while files.len() >= FILES {
                joined(files.join_next().await)?;
            }
            files.spawn(read_file(look.clone(), disk.clone(), row.clone()));
        }
        if contents.deep {
            while objects.len() >= OBJECTS {
                joined(objects.join_next().await)?;
            }
            objects.spawn(read_object(look.clone(), ranges.clone(), row));
        }
    }
    while let Some(ended) = files.join_next().await {
        joined(Some(ended))?;
    }
    while let Some(ended) = objects.join_next().await {
        joined(Some(ended))?;
    }
    Ok(())
}

/// Reads one file and tells what differs.
async fn read_file(look: Arc<Look>, disk: Arc<Disk>, row: Entry) -> Result<(), Trouble> {
    let known = row.clone();
    let checked = Offload::Pool.run(move || {
        let content = known.stored.as_ref()?;
        Some(disk.check(&known, content))
    });
    let Some(found) = checked.await else {
        return Ok(());
    };
    if matches!(found, File::Good | File::Rotten) {
        let mut teller = look.teller();
        teller.tally.files += 1;
        teller.tally.bytes += row.stored.as_ref().map_or(0, |content| content.stat.size);
    }
    let (kind, why) = match found {
        File::Good => return Ok(()),
        File::Failed(why) => (Kind::Failed, why),
        File::Rotten => (Kind::Rotten, ROTTEN.to_owned()),
        File::Gone => (Kind::Gone, "there is no such file".to_owned()),
        File::Changed => (
            Kind::NotLevel,
            "it has changed since it was sent".to_owned(),
        ),
        File::Unsure(why) => (Kind::NotLevel, why.to_owned()),
    };
    // What the agent has done meanwhile is no difference.
    if kind == Kind::Failed || look.entry(&row.path).await?.as_ref() == Some(&row) {
        look.say(kind, &row.path, &why);
    }
    Ok(())
}

/// What is said of a rotten file.
const ROTTEN: &str = "its content has changed and nothing else of it";

/// How an object was read back.
#[derive(Debug)]
pub enum Back {
    /// As a whole: its hash.
    Whole(Sha256),
    /// It is not there, or another one.
    Other,
    /// It could not be read.
    Failed(store::Error),
}

/// Reads one object back and tells what differs.
async fn read_object(look: Arc<Look>, ranges: Arc<Semaphore>, row: Entry) -> Result<(), Trouble> {
    let (Some((_, content)), Ok(key)) = (plan::certain(&row), look.keys.key(&row.path)) else {
        return Ok(());
    };
    // Once more before it is said: what one answer garbled is no damage.
    for is_last in [false, true] {
        match back(&look, &ranges, &key, content).await {
            Back::Whole(sha256) => {
                let is_good = sha256 == content.sha256;
                if is_good || is_last {
                    let mut teller = look.teller();
                    teller.tally.objects += 1;
                    teller.tally.bytes += content.stat.size;
                }
                if is_good {
                    return Ok(());
                }
            }
            Back::Other => {
                if look.has_said(&row.path) {
                    return Ok(());
                }
                let verdict = look.judge(&row.path, &key).await?;
                // Shown as it is claimed, and not given so.
                let is_same = matches!(verdict, Verdict::Same);
                if !is_same || look.entry(&row.path).await?.as_ref() != Some(&row) {
                    return Ok(());
                }
                if is_last {
                    let why = "the bucket shows the object, and gives none or another one";
                    look.say(Kind::Failed, &row.path, why);
                    return Ok(());
                }
            }
            Back::Failed(error) => {
                return look.failed(error, Whose::Path(&row.path, Some(&key)));
            }
        }
    }
    if look.entry(&row.path).await?.as_ref() == Some(&row) {
        look.differs(
            Kind::Damaged,
            &row,
            None,
            "the object's bytes are not those that were stored",
        );
    }
    Ok(())
}

/// Reads an object back, in ranges, and hashes it.
pub async fn back(look: &Arc<Look>, ranges: &Arc<Semaphore>, key: &str, content: &Content) -> Back {
    let size = content.stat.size;
    let mut hasher = Hasher::default();
    let mut asked: JoinSet<(u64, store::Result<Option<Bytes>>, Option<Place>)> = JoinSet::new();
    let mut early: BTreeMap<u64, (Bytes, Option<Place>)> = BTreeMap::new();
    // An empty object is asked for too: it may be another one, or none.
    let (mut begin, mut next) = (0, 0);
    let mut is_asked = false;
    loop {
        while asked.len() + early.len() < AHEAD && (begin < size || !is_asked) {
            // Who holds a place never waits for another one: somebody can always go on. Never closed.
            let place = if asked.is_empty() && early.is_empty() {
                ranges.clone().acquire_owned().await.ok()
            } else {
                match ranges.clone().try_acquire_owned() {
                    Ok(place) => Some(place),
                    Err(_) => break,
                }
            };
            let end = (begin + RANGE).min(size);
            let (look, key, etag) = (look.clone(), key.to_owned(), content.etag.clone());
            asked.spawn(async move {
                let permit = look.requests.acquire().await;
                let got = look.store.get(&key, Some(begin..end)).await;
                drop(permit);
                let same = |(object, bytes): (store::Object, Bytes)| {
                    let is_it = object.etag == etag
                        && object.size == size
                        && bytes.len() as u64 == end - begin;
                    is_it.then_some(bytes)
                };
                (begin, got.map(same), place)
            });
            (begin, is_asked) = (end, true);
        }
        let Some(got) = asked.join_next().await else {
            return Back::Whole(hasher.finish());
        };
        match offload::joined(got) {
            Some((at, Ok(Some(bytes)), place)) => drop(early.insert(at, (bytes, place))),
            Some((_, Ok(None), _)) | None => return Back::Other,
            Some((_, Err(error), _)) if error.kind == ErrorKind::NotFound => return Back::Other,
            Some((_, Err(error), _)) => return Back::Failed(error),
        }
        while let Some((bytes, _place)) = early.remove(&next) {
            next += bytes.len() as u64;
            hasher.update(&bytes);
            if bytes.is_empty() {
                break;
            }
        }
    }
}
