//! What a chain says, link after link. Pure: the bytes come from whoever reads them.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::base::digest::Sha256;
use crate::catalog::link;
use crate::catalog::read::{Folders, Tree, Trouble};
use crate::catalog::record::{Fault, Header, Kind, Op, Record};
use crate::store::key::KeyMap;

/// Takes each record of a link that counts.
type Each<'a> = Box<dyn FnMut(&Header, &Record) + Send + 'a>;

/// A walk along a chain.
pub(in crate::catalog) struct Walk<'a> {
    keys: KeyMap,
    each: Each<'a>,
    pub views: Vec<View>,
    pub troubles: Vec<Trouble>,
    /// When the first that is known happened.
    pub first_ns: Option<i64>,
    /// The number that comes next.
    next: u64,
    /// The last link, which waits for the one behind it to say its hash.
    held: Option<Held>,
    /// Since a link could not be read, deltas say nothing.
    is_broken: bool,
    /// When the last delta was made that counted: what happened before is in it, or in one before it.
    last_ns: i64,
    agent: Option<String>,
    snapshot: Option<Growing>,
}

/// The tree up to an instant.
pub(in crate::catalog) struct View {
    until_ns: i64,
    pub tree: Option<Tree>,
    pub folders: Folders,
    /// The last link that it holds, and when that was made.
    pub number: u64,
    pub time_ns: i64,
    /// Whether nothing is missing from it.
    pub is_whole: bool,
    /// When the snapshot was made that it begins with.
    snapshot_ns: i64,
}

struct Held {
    bytes: Bytes,
    header: Header,
    sha256: Sha256,
}

/// A snapshot of which the first links have been seen.
struct Growing {
    began: u64,
    next: u64,
    tree: Tree,
    folders: Folders,
}

impl<'a> Walk<'a> {
    /// Begins at link `start`.
    pub fn new(start: u64, until_ns: &[i64], keys: KeyMap, each: Each<'a>) -> Self {
        let view = |until_ns: &i64| View {
            until_ns: *until_ns,
            tree: None,
            folders: Folders::new(),
            number: 0,
            time_ns: 0,
            is_whole: true,
            snapshot_ns: i64::MIN,
        };
        Self {
            keys,
            each,
            views: until_ns.iter().map(view).collect(),
            troubles: Vec::new(),
            first_ns: None,
            next: start,
            held: None,
            is_broken: false,
            last_ns: i64::MIN,
            agent: None,
            snapshot: None,
        }
    }

    /// Takes the next link that is there.
    pub fn link(&mut self, number: u64, bytes: Result<Bytes, Fault>) {
        if number > self.next {
            self.settle();
            self.breaks(Trouble::Missing(self.next, number - 1));
        }
        self.next = number + 1;
        let header = match &bytes {
            Ok(bytes) => link::header(bytes),
            Err(fault) => Err(fault.clone()),
        };
        let header = header.and_then(|header| {
            let begins = header.previous.is_none();
            if header.number != number {
                let why = format!("it says that it is link {}", header.number);
                return Err(Fault::Broken(why));
            }
            if begins != (number == 1) {
                return Err(Fault::Broken("only the first link follows none".into()));
            }
            Ok(header)
        });
        match (header, bytes) {
            (Ok(header), Ok(bytes)) => {
                match self.held.take() {
                    Some(before) if header.previous == Some(before.sha256) => self.count(&before),
                    Some(before) => self.breaks(Trouble::Altered(before.header.number)),
                    None => {}
                }
                let sha256 = Sha256::of(&bytes);
                self.held = Some(Held {
                    bytes,
                    header,
                    sha256,
                });
            }
            (Err(fault), _) | (Ok(_), Err(fault)) => {
                self.settle();
                self.faulty(number, fault);
            }
        }
    }

    /// There are no more links.
    pub fn end(&mut self) {
        self.settle();
    }

    /// The link that waits has nobody to confirm it: its own checksum has to do.
    fn settle(&mut self) {
        if let Some(held) = self.held.take() {
            self.count(&held);
        }
    }

    fn faulty(&mut self, number: u64, fault: Fault) {
        self.breaks(match fault {
            Fault::Newer(format) => Trouble::Newer(number, format),
            Fault::Broken(why) => Trouble::Unreadable(number, why),
        });
    }

    fn breaks(&mut self, trouble: Trouble) {
        self.troubles.push(trouble);
        (self.is_broken, self.snapshot) = (true, None);
        for view in &mut self.views {
            // What a view wants may all lie before.
            view.is_whole &= self.last_ns.max(view.snapshot_ns) >= view.until_ns;
        }
    }

    /// A link counts.
    fn count(&mut self, link: &Held) {
        let header = &link.header;
        let mut records = Vec::new();
        if let Err(fault) = link::read(&link.bytes, &self.keys, |record| records.push(record)) {
            return self.faulty(header.number, fault);
        }
        if let Some(from) = self.agent.as_ref().filter(|agent| **agent != header.agent) {
            self.troubles.push(Trouble::Handed {
                number: header.number,
                from: from.clone(),
                to: header.agent.clone(),
            });
        }
        self.agent = Some(header.agent.clone());
        for record in &records {
            (self.each)(header, record);
        }
        match header.kind {
            Kind::Delta => {
                self.delta(header, &records);
                self.last_ns = self.last_ns.max(header.time_ns);
            }
            // What happened before it may stand in a delta behind it.
            Kind::Snapshot { began, more } => self.snapshot(header, records, began, more),
        }
    }

    fn delta(&mut self, header: &Header, records: &[Record]) {
        if self.is_broken {
            return;
        }
        if header.number == 1 && header.base == 1 {
            let first = records.iter().map(|record| record.time_ns).min();
            self.first_ns = first.or(Some(header.time_ns));
            for view in &mut self.views {
                view.tree = Some(BTreeMap::new());
            }
        }
        for view in &mut self.views {
            let Some(tree) = &mut view.tree else {
                continue;
            };
            let due = records
                .iter()
                .filter(|record| record.time_ns <= view.until_ns);
            let mut count = 0;
            for record in due {
                count += 1;
                match record.op {
                    Op::Put => {
                        if let Some(known) = record.known() {
                            tree.insert(record.path.clone(), known);
                        }
                    }
                    Op::Gone => drop(tree.remove(&record.path)),
                    Op::Folder => {
                        if let Some(stamp) = record.folder() {
                            view.folders.insert(record.path.clone(), stamp);
                        }
                    }
                    Op::FolderGone => drop(view.folders.remove(&record.path)),
                    Op::Aside | Op::Drill => {}
                }
            }
            if count > 0 || records.is_empty() {
                (view.number, view.time_ns) = (header.number, header.time_ns);
            }
        }
    }

    fn snapshot(&mut self, header: &Header, records: Vec<Record>, began: u64, more: bool) {
        if began == header.number {
            self.snapshot = Some(Growing {
                began,
                next: began,
                tree: Tree::new(),
                folders: Folders::new(),
            });
        }
        let goes_on = |growing: &Growing| growing.began == began && growing.next == header.number;
        let Some(mut growing) = self.snapshot.take().filter(goes_on) else {
            return;
        };
        growing.next += 1;
        for record in records {
            if let Some(known) = record.known() {
                growing.tree.insert(record.path, known);
            } else if let Some(stamp) = record.folder() {
                growing.folders.insert(record.path, stamp);
            }
        }
        if more {
            self.snapshot = Some(growing);
            return;
        }
        // Whatever could not be read before: this is the whole tree.
        self.is_broken = false;
        self.first_ns.get_or_insert(header.time_ns);
        let takes = |view: &&mut View| header.time_ns <= view.until_ns;
        let mut left = self.views.iter_mut().filter(takes).collect::<Vec<_>>();
        let last = left.pop();
        for view in left {
            view.takes(growing.tree.clone(), growing.folders.clone(), header);
        }
        if let Some(view) = last {
            view.takes(growing.tree, growing.folders, header);
        }
    }
}

impl View {
    fn takes(&mut self, tree: Tree, folders: Folders, header: &Header) {
        (self.tree, self.folders) = (Some(tree), folders);
        self.is_whole = true;
        self.snapshot_ns = header.time_ns;
        (self.number, self.time_ns) = (header.number, header.time_ns);
    }
}
