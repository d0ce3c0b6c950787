//! Which folders are armed, under which names, and which should be and are polled instead.
//!
//! The kernel has one watch for each folder, whatever names it has: a folder that is mounted under a second name tells
//! all its events under the name that was armed last. So the table knows all names of such a folder.
//!
//! Where there are fewer watches than folders, those that change should hold them: a polled folder that was found changed
//! may take the watch of one that has told nothing since the hand of the clock passed it last.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use crate::base::path::RelPath;
use crate::tree::budget::Budget;

/// A device and an inode number: which folder a path names.
pub type Inode = (u64, u64);

type Name = Arc<[u8]>;

/// How many armed folders are asked for their watch before a hotter one goes without.
const SWEEP: usize = 1_000;

struct Armed {
    inode: Inode,
    /// It has told something since the hand passed it.
    is_hot: bool,
}

/// Which folders are armed.
///
/// Invariant: each name in `armed` is in `names` or, if its folder has several, in `aliases`, and none other is. What is in
/// here may have lost its watch to a race; what is not may still have one. Both only cost a listing, see `watch`'s docs.
pub(in crate::tree) struct Table {
    armed: BTreeMap<Name, Armed>,
    /// The name that each folder was armed under last: the one that the kernel's events bear.
    names: HashMap<Inode, Name>,
    /// All names of the folders that have more than one.
    aliases: HashMap<Inode, BTreeSet<Name>>,
    polled: BTreeSet<Name>,
    /// Those of `polled` that were found changed.
    preferred: BTreeSet<Name>,
    /// Where the search for a cold folder goes on.
    hand: Name,
    /// Folders that have come to be polled, and have not been told yet.
    news: Vec<RelPath>,
    /// How many armed folders have gone.
    removed: u64,
    budget: Arc<Budget>,
}

/// What was taken out of the table with a folder.
#[derive(Default)]
pub(in crate::tree) struct Gone {
    /// What was armed.
    pub names: Vec<Arc<[u8]>>,
    /// Other names of the same folders: still there perhaps, and their watches may be gone.
    pub others: Vec<RelPath>,
}

impl Table {
    pub fn new(budget: Arc<Budget>) -> Self {
        Self {
            armed: BTreeMap::new(),
            names: HashMap::new(),
            aliases: HashMap::new(),
            polled: BTreeSet::new(),
            preferred: BTreeSet::new(),
            hand: Arc::from(&b""[..]),
            news: Vec::new(),
            removed: 0,
            budget,
        }
    }

    /// Returns whether a folder can be armed at `path` without taking a watch from others.
    pub fn has_room(&self, path: &RelPath) -> bool {
        self.armed.contains_key(path.as_bytes()) || self.budget.has_room()
    }

    /// Returns the other path under which `inode` was armed last.
    pub fn other_name(&self, path: &RelPath, inode: Inode) -> Option<RelPath> {
        let name = self.names.get(&inode)?;
        RelPath::new(name).filter(|name| name != path)
    }

    /// Returns true if `path` is armed as another folder than `inode`.
    pub fn is_another(&self, path: &RelPath, inode: Inode) -> bool {
        let armed = self.armed.get(path.as_bytes());
        armed.is_some_and(|armed| armed.inode != inode)
    }

    pub fn is_armed(&self, path: &RelPath) -> bool {
        self.armed.contains_key(path.as_bytes())
    }

    /// Returns true if `path` is armed as the folder `inode`, or polled.
    pub fn is_looked_after(&self, path: &RelPath, inode: Inode) -> bool {
        let armed = self.armed.get(path.as_bytes());
        armed.is_some_and(|armed| armed.inode == inode) || self.is_polled(path)
    }

    /// Returns the other names of the folder that is armed at `path`.
    pub fn aliases(&self, path: &RelPath) -> Vec<RelPath> {
        if self.aliases.is_empty() {
            return Vec::new();
        }
        let names = self.armed.get(path.as_bytes());
        let names = names.and_then(|armed| self.aliases.get(&armed.inode));
        let names = names.into_iter().flatten();
        names
            .filter(|name| &***name != path.as_bytes())
            .filter_map(|name| RelPath::new(name))
            .collect()
    }

    /// Adds a name of a folder. Names of it that are not its own any more have to be taken out before.
    pub fn insert(&mut self, path: &RelPath, inode: Inode) {
        let name: Name = Arc::from(path.as_bytes());
        let armed = Armed {
            inode,
            is_hot: true,
        };
        match self.armed.insert(name.clone(), armed) {
            None => self.budget.take(),
            Some(before) if before.inode != inode => drop(self.unlink(&name, before.inode)),
            Some(_) => {}
        }
        let last = self.names.insert(inode, name.clone());
        if let Some(other) = last.filter(|last| *last != name) {
            let all = self.aliases.entry(inode).or_default();
            all.extend([other, name]);
        }
    }

    /// Takes one name out; returns another one of the same folder.
    pub fn remove(&mut self, path: &[u8]) -> Option<RelPath> {
        let (name, armed) = self.armed.remove_entry(path)?;
        self.budget.give_back(1);
        let other = self.unlink(&name, armed.inode)?;
        RelPath::new(&other)
    }

    fn unlink(&mut self, name: &Name, inode: Inode) -> Option<Name> {
        let Some(all) = self.aliases.get_mut(&inode) else {
            self.names.remove(&inode);
            return None;
        };
        all.remove(name);
        let other = all.first().cloned();
        if all.len() < 2 {
            self.aliases.remove(&inode);
        }
        match &other {
            Some(other) => self.names.insert(inode, other.clone()),
            None => self.names.remove(&inode),
        };
        other
    }

    /// Removes `path` and all below it.
    pub fn remove_within(&mut self, path: &[u8]) -> Gone {
        // From "path/" up to but without "path0", the byte after the slash; the root holds everything.
        let from = [path, b"/"].concat();
        let to = [path, b"0"].concat();
        let below = if path.is_empty() {
            (Bound::Unbounded, Bound::Unbounded)
        } else {
            (
                Bound::Included(from.as_slice()),
                Bound::Excluded(to.as_slice()),
            )
        };
        let mut gone = Gone::default();
        let armed = self.armed.range::<[u8], _>(below);
        gone.names = armed.map(|(name, _)| name.clone()).collect();
        let own = self.armed.get_key_value(path);
        let own = own.filter(|_| !path.is_empty());
        gone.names.extend(own.map(|(name, _)| name.clone()));
        for name in &gone.names {
            gone.others.extend(self.remove(name));
        }
        let armed = &self.armed;
        gone.others
            .retain(|other| armed.contains_key(other.as_bytes()));
        self.removed += gone.names.len() as u64;
        let blind: Vec<_> = self.polled.range::<[u8], _>(below).cloned().collect();
        for name in blind.iter().map(|name| &**name).chain([path]) {
            self.polled.remove(name);
            self.preferred.remove(name);
        }
        gone
    }

    /// Notes that the folder at `path` is to be polled; returns true if it is the first one.
    pub fn poll(&mut self, path: &RelPath) -> bool {
        let is_first = self.polled.is_empty();
        if self.polled.insert(Arc::from(path.as_bytes())) {
            self.news.push(path.clone());
        }
        is_first
    }

    /// Notes that the folder at `path` is armed; returns true if it was the last one that was polled.
    pub fn stop_polling(&mut self, path: &RelPath) -> bool {
        self.preferred.remove(path.as_bytes());
        self.polled.remove(path.as_bytes()) && self.polled.is_empty()
    }

    pub fn is_polled(&self, path: &RelPath) -> bool {
        self.polled.contains(path.as_bytes())
    }

    /// Notes that the folder at `path` has told something.
    pub fn heard(&mut self, path: &RelPath) {
        if let Some(armed) = self.armed.get_mut(path.as_bytes()) {
            armed.is_hot = true;
        }
    }

    /// Notes that the polled folder at `path` was found changed.
    pub fn prefer(&mut self, path: &RelPath) {
        if let Some(name) = self.polled.get(path.as_bytes()) {
            self.preferred.insert(name.clone());
        }
    }

    /// Returns an armed folder that may give its watch to the one at `path`.
    pub fn colder_than(&mut self, path: &RelPath) -> Option<RelPath> {
        if !self.preferred.remove(path.as_bytes()) {
            return None;
        }
        let mut cold = None;
        let from = (Bound::Excluded(self.hand.clone()), Bound::Unbounded);
        for (name, armed) in self.armed.range_mut::<Name, _>(from).take(SWEEP) {
            self.hand = name.clone();
            if !std::mem::take(&mut armed.is_hot) {
                cold = RelPath::new(name);
                break;
            }
        }
        if cold.is_none() {
            // From the beginning next time. The root, which tells of itself, keeps its watch.
            self.hand = Arc::from(&b""[..]);
        }
        cold
    }

    /// Returns the folders that have come to be polled since it was asked last.
    pub fn take_news(&mut self) -> Vec<RelPath> {
        std::mem::take(&mut self.news)
    }

    /// Returns how many folders are armed, how many are polled, and how many armed ones have gone so far.
    pub fn counts(&self) -> (usize, usize, u64) {
        (self.armed.len(), self.polled.len(), self.removed)
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        self.budget.give_back(self.armed.len() as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).expect("a valid path")
    }

    fn table() -> Table {
        Table::new(Budget::given(100))
    }

    #[test]
    fn a_folder_that_is_armed_as_another_one_has_one_name() {
        let mut table = table();
        table.insert(&path("a"), (1, 1));
        assert_eq!(table.other_name(&path("b"), (1, 1)), Some(path("a")));
        assert_eq!(table.other_name(&path("a"), (1, 1)), None);
        assert!(table.is_another(&path("a"), (1, 2)) && !table.is_another(&path("a"), (1, 1)));
        // It moved: the old name goes first.
        assert_eq!(table.remove(b"a"), None);
        table.insert(&path("b"), (1, 1));
        assert_eq!((table.armed.len(), table.names.len()), (1, 1));
        table.insert(&path("b"), (1, 2));
        assert_eq!((table.armed.len(), table.names.len()), (1, 1));
        assert!(table.aliases.is_empty());
    }

    #[test]
    fn a_folder_with_several_names_is_known_under_all_of_them() {
        let mut table = table();
        for name in ["a", "b", "c"] {
            table.insert(&path(name), (1, 1));
        }
        assert_eq!(table.aliases(&path("b")), [path("a"), path("c")]);
        assert_eq!(table.other_name(&path("a"), (1, 1)), Some(path("c")));
        // The one that the kernel knew goes; another one has to be armed.
        assert_eq!(table.remove(b"c"), Some(path("a")));
        assert_eq!(table.aliases(&path("a")), [path("b")]);
        let gone = table.remove_within(b"b");
        assert_eq!((gone.names.len(), gone.others), (1, vec![path("a")]));
        assert!(table.aliases(&path("a")).is_empty() && table.aliases.is_empty());
        table.insert(&path("a"), (1, 2));
        assert_eq!((table.armed.len(), table.names.len()), (1, 1));
    }

    #[test]
    fn a_folder_that_changes_takes_the_watch_of_one_that_does_not() {
        let mut table = table();
        for (ino, name) in (1..).zip(["", "a", "b", "c"]) {
            table.insert(&path(name), (0, ino));
        }
        table.poll(&path("x"));
        assert_eq!(
            table.colder_than(&path("x")),
            None,
            "nobody found it changed"
        );
        table.prefer(&path("x"));
        assert_eq!(table.colder_than(&path("x")), None, "all are new");
        table.heard(&path("a"));
        table.prefer(&path("x"));
        assert_eq!(table.colder_than(&path("x")), Some(path("b")));
        table.prefer(&path("x"));
        assert_eq!(
            table.colder_than(&path("x")),
            Some(path("c")),
            "the hand goes on"
        );
        table.prefer(&path("y"));
        assert_eq!(table.colder_than(&path("y")), None, "it is not polled");
    }

    #[test]
    fn a_folder_takes_all_below_it_and_its_share_of_the_budget_along() {
        let budget = Budget::given(10);
        let mut table = Table::new(budget.clone());
        for (ino, name) in (1..).zip(["", "a", "a/b", "a-b", "a0", "a/b/c", "x", "y"]) {
            table.insert(&path(name), (0, ino));
        }
        assert!(!budget.has_room() && table.has_room(&path("a")) && !table.has_room(&path("z")));
        assert!(table.poll(&path("a/x")) && !table.poll(&path("z")));
        assert_eq!(table.take_news(), [path("a/x"), path("z")]);
        assert_eq!(table.remove_within(b"a").names.len(), 3);
        assert!(budget.has_room());
        assert!(!table.is_polled(&path("a/x")));
        assert!(table.stop_polling(&path("z")));
        assert_eq!(table.counts(), (5, 0, 3));
        drop(table);
        for _ in 0..8 {
            assert!(budget.has_room());
            budget.take();
        }
        assert!(!budget.has_room());
    }
}
