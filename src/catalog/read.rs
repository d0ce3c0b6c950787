//! Reading the chain: the latest tree, the tree at an instant, the versions of a path; and what is wrong with the chain.
//!
//! Nothing is believed that the next link does not confirm: a link's records count when the link behind it names its hash,
//! or when it is the last. What follows a break counts again from the next complete snapshot on.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinSet;

use crate::base::clock::rfc3339_millis;
use crate::base::path::{RelPath, escaped};
use crate::base::stat::FolderStamp;
use crate::catalog::link::{self, OBJECT_MOST};
use crate::catalog::record::{Fault, Header, Known, Op, Record};
use crate::catalog::walk::Walk;
use crate::store::key::{CATALOG, KeyMap};
use crate::store::{self, ErrorKind, Store};

/// Links that are read at once; each has some megabytes.
const AT_ONCE: u64 = 8;

/// What the catalog knows of each file.
pub type Tree = BTreeMap<RelPath, Known>;

/// What the catalog knows of each folder inside the synced one, empty or not.
pub type Folders = BTreeMap<RelPath, FolderStamp>;

/// The links of a prefix, as a listing shows them.
pub struct Chain {
    store: Arc<dyn Store>,
    keys: KeyMap,
    /// Each link's number and its length in bytes.
    links: BTreeMap<u64, u64>,
    strays: Vec<String>,
}

/// The latest tree that is known.
#[derive(Clone, Debug)]
pub struct Reading {
    /// What is known of each file.
    pub tree: Tree,
    /// What is known of each folder. A scan sees those, and files go their own way: one of the two may be ahead.
    pub folders: Folders,
    /// The last link that the tree holds.
    pub number: u64,
    /// When that was made, wall clock of its agent, nanoseconds since the epoch.
    pub time_ns: i64,
    /// False if links behind it could not be read: what has happened since is not known.
    pub is_latest: bool,
    /// What is wrong with the chain, as far as it was read.
    pub troubles: Vec<Trouble>,
}

/// The tree as it was at an instant, and what has become of its objects.
#[derive(Clone, Debug)]
pub struct Past {
    /// What was known of each file then.
    pub then: Reading,
    /// The latest tree, if that is another one.
    now: Option<Reading>,
    /// What was set aside since the snapshot that `then` begins with, by path, in the order in which it was.
    pub asides: BTreeMap<RelPath, Vec<Record>>,
}

impl Past {
    /// Returns the latest tree.
    pub fn now(&self) -> &Reading {
        self.now.as_ref().unwrap_or(&self.then)
    }
}

/// What has happened to some paths.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// What happened to each path, by time. A `Put` that says the same as the one before is left out.
    pub versions: BTreeMap<RelPath, Vec<Record>>,
    /// What is wrong with the chain.
    pub troubles: Vec<Trouble>,
}

/// Why a tree cannot be had.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The bucket could not be read.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// There is no catalog.
    #[error("there is no catalog under `{0}`")]
    None(String),
    /// No snapshot is complete, or none can be read.
    #[error("the catalog has no whole tree{}", listed(.0))]
    NoTree(Vec<Trouble>),
    /// The instant lies before everything that the catalog knows.
    #[error("the catalog begins at {}, and knows nothing of before", rfc3339_millis(*.first_ns))]
    TooEarly {
        /// When it begins, nanoseconds since the epoch.
        first_ns: i64,
    },
}

/// What is wrong with a chain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Trouble {
    /// Links are not there, from one number to another.
    Missing(u64, u64),
    /// A link is not what the one behind it says.
    Altered(u64),
    /// A link cannot be read, and why.
    Unreadable(u64, String),
    /// A newer version has written a link, in this format.
    Newer(u64, u64),
    /// Another agent goes on with the chain.
    Handed {
        /// Its first link.
        number: u64,
        /// The agent before.
        from: String,
        /// The agent from here on.
        to: String,
    },
    /// An object is no link.
    Stray(String),
}

impl Trouble {
    /// Returns true if something is not known because of it.
    pub fn is_damage(&self) -> bool {
        !matches!(self, Self::Handed { .. } | Self::Stray(_))
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(from, to) if from == to => write!(f, "link {from} is missing"),
            Self::Missing(from, to) => write!(f, "links {from} to {to} are missing"),
            Self::Altered(number) => {
                let next = number + 1;
                write!(f, "link {number} does not hash to what link {next} says")
            }
            Self::Unreadable(number, why) => write!(f, "link {number} cannot be read: {why}"),
            Self::Newer(number, format) => write!(
                f,
                "link {number} has format {format}: a newer version of tidewatch wrote it, and reads it"
            ),
            Self::Handed { number, from, to } => {
                let (from, to) = (escaped(from.as_bytes()), escaped(to.as_bytes()));
                write!(f, "link {number} is of another agent: {to} after {from}")
            }
            Self::Stray(key) => write!(f, "`{}` is no link", escaped(key.as_bytes())),
        }
    }
}

fn listed(troubles: &[Trouble]) -> String {
    let mut text = String::new();
    for trouble in troubles {
        // Writing to a String cannot fail.
        let _ = write!(text, "; {trouble}");
    }
    text
}

impl Chain {
    /// Lists the links under the prefix of `keys`.
    pub async fn list(store: Arc<dyn Store>, keys: KeyMap) -> store::Result<Self> {
        let (mut links, mut strays, mut token) = (BTreeMap::new(), Vec::new(), None);
        let prefix = keys.reserved(CATALOG);
        loop {
            let page = store.list(&prefix, token).await?;
            for object in page.objects {
                match link::number(&keys, &object.key) {
                    Some(number) => drop(links.insert(number, object.size)),
                    None => strays.push(object.key),
                }
            }
            token = page.next;
            if token.is_none() {
                break;
            }
        }
        Ok(Self {
            store,
            keys,
            links,
            strays,
        })
    }

    /// Returns true if there is no link.
    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    /// Returns the number of the last link; `None` if there is none.
    fn last(&self) -> Option<u64> {
        self.links.last_key_value().map(|(number, _)| *number)
    }

    /// Returns the latest tree that is known. Reads from the latest complete snapshot on; where something is wrong there,
    /// the whole chain.
    pub async fn latest(&self) -> Result<Reading, Error> {
        let last = self.last().ok_or_else(|| self.none())?;
        if let Some(base) = self.base(last).await?.filter(|base| *base > 1) {
            let walk = self.walk(base, &[i64::MAX], |_, _| {}).await?;
            if let Ok([reading]) = self.readings(walk)
                && reading.is_latest
            {
                return Ok(reading);
            }
        }
        let walk = self.walk(1, &[i64::MAX], |_, _| {}).await?;
        let [reading] = self.readings(walk)?;
        Ok(reading)
    }

    /// Returns the tree as it was at `at_ns` (wall clock, nanoseconds since the epoch): with what was recorded until then.
    pub async fn at(&self, at_ns: i64) -> Result<Past, Error> {
        let mut start = self.start_for(at_ns).await?;
        loop {
            let mut asides: BTreeMap<RelPath, Vec<Record>> = BTreeMap::new();
            let take = |_: &Header, record: &Record| {
                if record.op == Op::Aside {
                    let of_path = asides.entry(record.path.clone()).or_default();
                    of_path.push(record.clone());
                }
            };
            // Of what is now, one tree is enough.
            let is_now = at_ns == i64::MAX;
            let until_ns = &[at_ns, i64::MAX][usize::from(is_now)..];
            let walk = self.walk(start, until_ns, take).await?;
            let first_ns = walk.first_ns;
            let read = if is_now {
                self.readings(walk).map(|[then]| (then, None))
            } else {
                self.readings(walk).map(|[then, now]| (then, Some(now)))
            };
            match read {
                Ok((then, now)) if start == 1 || then.is_latest => {
                    if start == 1 && first_ns.is_none_or(|first_ns| at_ns < first_ns) {
                        let first_ns = first_ns.unwrap_or(at_ns);
                        return Err(Error::TooEarly { first_ns });
                    }
                    return Ok(Past { then, now, asides });
                }
                Err(Error::NoTree(_)) if start == 1 && first_ns.is_some_and(|ns| at_ns < ns) => {
                    let first_ns = first_ns.unwrap_or(at_ns);
                    return Err(Error::TooEarly { first_ns });
                }
                Err(error) if start == 1 => return Err(error),
                _ => start = 1,
            }
        }
    }

    /// Returns what has happened to files, as far as `wants` is true of it, by path. Reads the whole chain.
    pub async fn history(&self, wants: impl Fn(&Record) -> bool + Send) -> Result<History, Error> {
        let mut versions: BTreeMap<RelPath, Vec<Record>> = BTreeMap::new();
        let found = &mut versions;
        self.last().ok_or_else(|| self.none())?;
        let take = move |_: &Header, record: &Record| {
            if record.op.is_of_file() && wants(record) {
                let of_path = found.entry(record.path.clone()).or_default();
                of_path.push(record.clone());
            }
        };
        let troubles = self.walk(1, &[], take).await?.troubles;
        for records in versions.values_mut() {
            // What was logged before a snapshot can be written behind it.
            records.sort_by_key(|record| record.time_ns);
            let mut is: Option<Record> = None;
            records.retain(|record| match record.op {
                Op::Put => {
                    let same = is.as_ref().is_some_and(|is| {
                        let time_ns = record.time_ns;
                        Record {
                            time_ns,
                            ..is.clone()
                        } == *record
                    });
                    is = Some(record.clone());
                    !same
                }
                // One without a put before it counts too: that was before the first link, or in one that is lost.
                Op::Gone => {
                    is = None;
                    true
                }
                Op::Aside => true,
                Op::Folder | Op::FolderGone | Op::Drill => false,
            });
        }
        Ok(History {
            versions,
            troubles: self.troubles(troubles),
        })
    }

    fn none(&self) -> Error {
        Error::None(self.keys.reserved(CATALOG))
    }

    fn troubles(&self, mut troubles: Vec<Trouble>) -> Vec<Trouble> {
        troubles.extend(self.strays.iter().cloned().map(Trouble::Stray));
        troubles
    }

    fn readings<const N: usize>(&self, walk: Walk<'_>) -> Result<[Reading; N], Error> {
        let troubles = self.troubles(walk.troubles);
        let mut readings = Vec::with_capacity(N);
        for view in walk.views {
            let Some(tree) = view.tree else {
                return Err(Error::NoTree(troubles));
            };
            readings.push(Reading {
                tree,
                folders: view.folders,
                number: view.number,
                time_ns: view.time_ns,
                is_latest: view.is_whole,
                troubles: troubles.clone(),
            });
        }
        readings.try_into().map_err(|_| Error::NoTree(Vec::new()))
    }

    /// Returns with which link reading begins to know the tree after link `number`; `None` if that cannot be told.
    async fn base(&self, number: u64) -> Result<Option<u64>, Error> {
        Ok(self.header(number).await?.map(|header| header.base))
    }

    async fn header(&self, number: u64) -> Result<Option<Header>, Error> {
        let Some(size) = self.links.get(&number) else {
            return Ok(None);
        };
        let got = fetch(&*self.store, &link::key(&self.keys, number), *size).await?;
        Ok(got.ok().and_then(|bytes| link::header(&bytes).ok()))
    }

    /// Returns with which link to begin for the tree at `at_ns`: the base of the last link that was made by then.
    async fn start_for(&self, at_ns: i64) -> Result<u64, Error> {
        let numbers: Vec<u64> = self.links.keys().copied().collect();
        if numbers.is_empty() {
            return Err(self.none());
        }
        let (mut low, mut high, mut start) = (0, numbers.len(), 1);
        while low < high {
            let middle = usize::midpoint(low, high);
            let Some(header) = self.header(numbers[middle]).await? else {
                return Ok(1);
            };
            if header.time_ns <= at_ns {
                (low, start) = (middle + 1, header.base.max(1));
            } else {
                high = middle;
            }
        }
        Ok(start)
    }

    /// Goes through the links from `start` on. `until_ns`: up to which instants trees are wanted.
    async fn walk<'a>(
        &self,
        start: u64,
        until_ns: &[i64],
        each: impl FnMut(&Header, &Record) + Send + 'a,
    ) -> Result<Walk<'a>, Error> {
        let mut walk = Walk::new(start, until_ns, self.keys.clone(), Box::new(each));
        let mut numbers = self.links.range(start..).peekable();
        let mut getting = JoinSet::new();
        let mut got: BTreeMap<u64, Option<Result<Bytes, Fault>>> = BTreeMap::new();
        loop {
            while (got.len() as u64) < AT_ONCE
                && let Some((&number, &size)) = numbers.next()
            {
                let (store, key) = (self.store.clone(), link::key(&self.keys, number));
                got.insert(number, None);
                getting.spawn(async move { (number, fetch(&*store, &key, size).await) });
            }
            // In their order: the first of those that are asked for is the next.
            while let Some(entry) = got.first_entry() {
                if entry.get().is_none() {
                    break;
                }
                let (number, bytes) = entry.remove_entry();
                if let Some(bytes) = bytes {
                    walk.link(number, bytes);
                }
            }
            match getting.join_next().await {
                Some(Ok((number, bytes))) => drop(got.insert(number, Some(bytes?))),
                Some(Err(gone)) => match gone.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(_) => unreachable!("nobody aborts a request of these"),
                },
                None if got.is_empty() && numbers.peek().is_none() => break,
                None => {}
            }
        }
        walk.end();
        Ok(walk)
    }
}

/// Reads a link that was listed with this size. What is wrong with the link itself is the inner error.
async fn fetch(
    store: &dyn Store,
    key: &str,
    size: u64,
) -> Result<Result<Bytes, Fault>, store::Error> {
    if size == 0 {
        return Ok(Err(Fault::Broken("it is empty".into())));
    }
    if size > OBJECT_MOST {
        let why = format!("it has {size} bytes, and a link at most {OBJECT_MOST}");
        return Ok(Err(Fault::Broken(why)));
    }
    match store.get(key, Some(0..size)).await {
        Ok((_, bytes)) => Ok(Ok(bytes)),
        Err(error) if error.kind == ErrorKind::NotFound => {
            Ok(Err(Fault::Broken("it went away while it was read".into())))
        }
        Err(error) if matches!(error.kind, ErrorKind::Corrupt | ErrorKind::Invalid) => {
            Ok(Err(Fault::Broken(error.message)))
        }
        Err(error) => Err(error),
    }
}
