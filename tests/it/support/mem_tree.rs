//! A tree in memory: coarse clocks, folders that are blind until they are armed, writers that write while a file is read.
//!
//! Everything random is drawn from one seed. Time is given from outside, so that it can be virtual.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidewatch::base::clock::Clock;
use tidewatch::base::path::RelPath;
use tidewatch::base::stat::{FolderStamp, Kind, Stat};
use tidewatch::tree::{
    Found, Hint, HintSender, Hold, Identity, Lease, OpenFile, ReadError, Touch, Tree,
};

/// The name in the folder that is where the root should be.
const OTHERS: &[u8] = b"lost+found";
/// All changes within that share their stamps, nanoseconds.
const GRAIN_NS: i64 = 10_000_000;

/// A tree; cheap to clone, all clones are the same tree.
#[derive(Clone)]
pub struct MemTree(Arc<Mutex<World>>);

struct World {
    clock: Clock,
    /// What the clock that stamps files is ahead of that one, nanoseconds.
    ahead_ns: i64,
    random: fastrand::Rng,
    nodes: BTreeMap<RelPath, Node>,
    armed: BTreeSet<RelPath>,
    hints: Option<HintSender>,
    next_inode: u64,
    /// How likely an event is lost without a trace.
    deaf: f64,
    /// How likely somebody writes to a file between two reads of it.
    rude: f64,
    away: bool,
    has_leases: bool,
    mount: Mount,
    /// Folders that may not be listed, nor anything below them looked at.
    /// Files that cannot be opened, and the kernel's number for why.
    damaged: BTreeMap<RelPath, i32>,
    closed: BTreeSet<RelPath>,
    /// How likely an event is told twice.
    echo: f64,
    /// How often a file was read.
    reads: u64,
    /// How often the root was listed.
    walks: u64,
    /// Since when everything can be seen; `None`: not now.
    clear_since_ns: Option<i64>,
}

/// What is where the root should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mount {
    /// The root.
    Here,
    /// The empty folder on which it was mounted.
    Gone,
    /// Another folder, with an empty folder of its own in it.
    Other,
    /// An empty filesystem that cannot be told from it by its numbers.
    Emptied,
}

#[derive(Clone)]
struct Node {
    kind: Kind,
    content: Arc<Vec<u8>>,
    ino: u64,
    mtime_ns: i64,
    ctime_ns: i64,
    mode: u32,
    /// When it came to be under its path.
    since_ns: i64,
    /// When its content was last written.
    written_ns: i64,
}

/// A regular file as it really is, whether it can be seen or not.
#[derive(Clone, Debug)]
pub struct Real {
    /// Its content.
    pub content: Arc<Vec<u8>>,
    /// Its inode.
    pub ino: u64,
    /// Since when it has been under its path.
    pub since_ns: i64,
    /// When its content was last written.
    pub written_ns: i64,
}

impl MemTree {
    /// Makes an empty tree whose stamps come from `clock`.
    pub fn new(seed: u64, clock: Clock) -> Self {
        let mut world = World {
            clock,
            ahead_ns: 0,
            random: fastrand::Rng::with_seed(seed),
            nodes: BTreeMap::new(),
            armed: BTreeSet::new(),
            hints: None,
            next_inode: 2,
            deaf: 0.0,
            rude: 0.0,
            away: false,
            mount: Mount::Here,
            closed: BTreeSet::new(),
            damaged: BTreeMap::new(),
            reads: 0,
            walks: 0,
            has_leases: true,
            echo: 0.0,
            clear_since_ns: None,
        };
        let root = world.node(Kind::Folder, Vec::new());
        world.nodes.insert(RelPath::root(), root);
        world.has_cleared();
        Self(Arc::new(Mutex::new(world)))
    }

    fn lock(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A watcher comes, or goes; no folder is armed.
    pub fn watch(&self, hints: Option<HintSender>, clock: Clock) {
        let mut world = self.lock();
        world.armed.clear();
        (world.hints, world.clock) = (hints, clock);
    }

    /// Somebody has set the machine's clock: files get stamps that are so far ahead of the time, nanoseconds.
    pub fn set_ahead(&self, ahead_ns: i64) {
        self.lock().ahead_ns = ahead_ns;
    }

    /// Sets how likely events are lost, and how likely files change under a reader.
    pub fn trouble(&self, deaf: f64, rude: f64) {
        let mut world = self.lock();
        (world.deaf, world.rude) = (deaf, rude);
    }

    /// From now on there are no leases: the files are not ours.
    pub fn without_leases(&self) {
        self.lock().has_leases = false;
    }

    /// The root goes away, or comes back.
    pub fn away(&self, away: bool) {
        let mut world = self.lock();
        if world.away != away {
            world.away = away;
            world.has_cleared();
        }
    }

    /// Puts something else where the root is, or the root back. No event tells.
    pub fn mount(&self, mount: Mount) {
        let mut world = self.lock();
        world.mount = mount;
        world.armed.clear();
        world.has_cleared();
    }

    /// Takes the right to look into a folder away, or gives it back.
    pub fn close(&self, folder: &RelPath, is_closed: bool) {
        let mut world = self.lock();
        if is_closed {
            world.closed.insert(folder.clone());
        } else {
            world.closed.remove(folder);
        }
        world.has_cleared();
        world.event(folder, Touch::Meta);
    }

    /// Gives all rights back.
    pub fn open_all(&self) {
        let mut world = self.lock();
        let closed = std::mem::take(&mut world.closed);
        world.has_cleared();
        for folder in closed {
            world.event(&folder, Touch::Meta);
        }
    }

    /// From now on a file cannot be opened, for the reason that the kernel's number stands for; `None`: it can again.
    pub fn damage(&self, path: &RelPath, errno: Option<i32>) {
        let mut world = self.lock();
        match errno {
            Some(errno) => drop(world.damaged.insert(path.clone(), errno)),
            None => drop(world.damaged.remove(path)),
        }
    }

    /// Returns whether a path is below a folder that may not be looked into.
    pub fn is_hidden(&self, path: &RelPath) -> bool {
        let world = self.lock();
        world.closed.iter().any(|folder| path.is_within(folder))
    }

    /// Returns since when everything can be seen; `None`: not now.
    pub fn clear_since_ns(&self) -> Option<i64> {
        self.lock().clear_since_ns
    }

    /// Returns its time, nanoseconds.
    pub fn now_ns(&self) -> i64 {
        self.lock().clock.now().wall_ns
    }

    /// Returns the folders in it.
    pub fn folders(&self) -> Vec<RelPath> {
        let world = self.lock();
        let folders = world
            .nodes
            .iter()
            .filter(|(path, node)| node.kind == Kind::Folder && !path.is_root());
        folders.map(|(path, _)| path.clone()).collect()
    }

    /// Returns the folders in it as a catalog has them.
    pub fn folder_stamps(&self) -> BTreeMap<RelPath, FolderStamp> {
        let world = self.lock();
        let folders = world
            .nodes
            .iter()
            .filter(|(path, node)| node.kind == Kind::Folder && !path.is_root());
        folders
            .map(|(path, node)| (path.clone(), FolderStamp::of(&stat_of(node))))
            .collect()
    }

    /// Returns all regular files as they really are.
    pub fn real(&self) -> BTreeMap<RelPath, Real> {
        let world = self.lock();
        let files = world
            .nodes
            .iter()
            .filter(|(_, node)| node.kind == Kind::File);
        let real = |node: &Node| Real {
            content: node.content.clone(),
            ino: node.ino,
            since_ns: node.since_ns,
            written_ns: node.written_ns,
        };
        files
            .map(|(path, node)| (path.clone(), real(node)))
            .collect()
    }

    /// Returns how often the root was listed so far.
    pub fn walks(&self) -> u64 {
        self.lock().walks
    }

    /// Returns how often files were read so far.
    pub fn reads(&self) -> u64 {
        self.lock().reads
    }

    /// Sets how likely an event is told twice.
    pub fn echo(&self, echo: f64) {
        self.lock().echo = echo;
    }

    /// The kernel's queue has run over.
    pub fn overflow(&self) {
        if let Some(hints) = &self.lock().hints {
            hints.send(Hint::Lost);
        }
    }

    /// Returns all regular files with their content.
    pub fn files(&self) -> BTreeMap<RelPath, Arc<Vec<u8>>> {
        let world = self.lock();
        let files = world
            .nodes
            .iter()
            .filter(|(_, node)| node.kind == Kind::File);
        files
            .map(|(path, node)| (path.clone(), node.content.clone()))
            .collect()
    }

    /// Makes a folder and those above it.
    pub fn mkdir(&self, path: &RelPath) {
        let mut world = self.lock();
        world.mkdir(path);
    }

    /// Writes a file, new or old, in place; folders above are made.
    pub fn write(&self, path: &RelPath, content: &[u8]) {
        let mut world = self.lock();
        if let Some(parent) = path.parent() {
            world.mkdir(&parent);
        }
        world.write(path, content);
    }

    /// Writes a file and sets its mtime back to what it was: only ctime tells.
    pub fn write_secretly(&self, path: &RelPath, content: &[u8]) {
        let mut world = self.lock();
        let before = world.nodes.get(path).map(|node| node.mtime_ns);
        if let Some(mtime_ns) = before {
            world.write(path, content);
            if let Some(node) = world.nodes.get_mut(path) {
                node.mtime_ns = mtime_ns;
            }
        }
    }

    /// Changes the mode.
    pub fn chmod(&self, path: &RelPath, mode: u32) {
        let mut world = self.lock();
        let now = world.stamp();
        if let Some(node) = world.nodes.get_mut(path) {
            (node.mode, node.ctime_ns) = (mode, now);
            world.event(path, Touch::Meta);
        }
    }

    /// Changes the mode; no event tells.
    pub fn chmod_unheard(&self, path: &RelPath, mode: u32) {
        let mut world = self.lock();
        let now = world.stamp();
        if let Some(node) = world.nodes.get_mut(path) {
            (node.mode, node.ctime_ns) = (mode, now);
        }
    }

    /// Removes a file, or a folder with everything below.
    pub fn remove(&self, path: &RelPath) {
        let mut world = self.lock();
        let gone: Vec<RelPath> = world
            .nodes
            .keys()
            .filter(|p| !p.is_root() && p.is_within(path))
            .cloned()
            .collect();
        for path in gone.iter().rev() {
            world.event(path, Touch::Meta);
            world.nodes.remove(path);
            world.armed.remove(path);
            world.closed.remove(path);
        }
    }

    /// Renames a file or folder over `to`, which must not be within `from`.
    pub fn rename(&self, from: &RelPath, to: &RelPath) {
        if from.is_root() || to.is_within(from) || from.is_within(to) {
            return;
        }
        self.remove(to);
        let mut world = self.lock();
        if let Some(parent) = to.parent() {
            world.mkdir(&parent);
        }
        let moved: Vec<RelPath> = world
            .nodes
            .keys()
            .filter(|p| p.is_within(from))
            .cloned()
            .collect();
        if moved.is_empty() || world.nodes.contains_key(to) {
            return;
        }
        world.event(from, Touch::Meta);
        for path in moved {
            let rest = &path.as_bytes()[from.as_bytes().len()..];
            let target = RelPath::new(&[to.as_bytes(), rest].concat()).expect("a valid path");
            let mut node = world.nodes.remove(&path).expect("listed");
            node.since_ns = world.clock.now().wall_ns;
            // The right to look into a folder goes with it.
            if world.closed.remove(&path) {
                world.closed.insert(target.clone());
            }
            world.nodes.insert(target, node);
            world.armed.remove(&path);
        }
        let now = world.stamp();
        if let Some(node) = world.nodes.get_mut(to) {
            node.ctime_ns = now;
        }
        world.event(to, Touch::Moved);
    }
}

impl World {
    fn has_cleared(&mut self) {
        let is_clear = !self.away && self.mount == Mount::Here && self.closed.is_empty();
        self.clear_since_ns = is_clear.then(|| self.clock.now().wall_ns);
    }

    fn stamp(&self) -> i64 {
        let now = self.clock.now().wall_ns + self.ahead_ns;
        // Never whole seconds: a filesystem whose stamps have a fraction.
        now - now.rem_euclid(GRAIN_NS) + 1
    }

    fn node(&mut self, kind: Kind, content: Vec<u8>) -> Node {
        let now = self.stamp();
        self.next_inode += 1;
        let mode = if kind == Kind::Folder { 0o755 } else { 0o644 };
        let (ino, content) = (self.next_inode, Arc::new(content));
        Node {
            kind,
            content,
            ino,
            mtime_ns: now,
            ctime_ns: now,
            mode,
            since_ns: self.clock.now().wall_ns,
            written_ns: self.clock.now().wall_ns,
        }
    }

    fn mkdir(&mut self, path: &RelPath) {
        let mut missing = Vec::new();
        let mut at = Some(path.clone());
        while let Some(folder) = at {
            match self.nodes.get(&folder) {
                Some(node) if node.kind == Kind::Folder => break,
                Some(_) => {
                    self.nodes.remove(&folder);
                    self.event(&folder, Touch::Meta);
                }
                None => {}
            }
            at = folder.parent();
            missing.push(folder);
        }
        for folder in missing.into_iter().rev() {
            let node = self.node(Kind::Folder, Vec::new());
            self.nodes.insert(folder.clone(), node);
            self.hint(&folder, Hint::Folder(folder.clone()));
        }
    }

    fn write(&mut self, path: &RelPath, content: &[u8]) {
        let (now, exactly) = (self.stamp(), self.clock.now().wall_ns);
        match self.nodes.get_mut(path) {
            Some(node) if node.kind == Kind::File => {
                node.written_ns = exactly;
                node.content = Arc::new(content.to_vec());
                (node.mtime_ns, node.ctime_ns) = (now, now);
            }
            Some(_) => return,
            None => {
                let node = self.node(Kind::File, content.to_vec());
                self.nodes.insert(path.clone(), node);
            }
        }
        self.event(path, Touch::Data);
        self.event(path, Touch::Closed);
    }

    fn event(&mut self, path: &RelPath, touch: Touch) {
        self.hint(
            path,
            Hint::Touched {
                path: path.clone(),
                touch,
            },
        );
    }

    /// An event reaches the watcher only if the folder that holds the name is armed.
    fn hint(&mut self, path: &RelPath, hint: Hint) {
        let heard = path
            .parent()
            .is_some_and(|parent| self.armed.contains(&parent));
        if heard
            && self.mount == Mount::Here
            && self.random.f64() >= self.deaf
            && let Some(hints) = &self.hints
        {
            if self.echo > 0.0 && self.random.f64() < self.echo {
                hints.send(hint.clone());
            }
            hints.send(hint);
        }
    }

    fn stat(&self, path: &RelPath) -> io::Result<Stat> {
        if self.away {
            return Err(io::ErrorKind::NotFound.into());
        }
        if self.mount == Mount::Other && path.as_bytes() == OTHERS {
            // An inode that no node has.
            let root = stat_of(&self.nodes[&RelPath::root()]);
            return Ok(Stat { ino: 1, ..root });
        }
        if self.mount != Mount::Here && !path.is_root() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let is_below = |folder: &RelPath| path != folder && path.is_within(folder);
        if self.closed.iter().any(is_below) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let node = self.nodes.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(stat_of(node))
    }
}

fn stat_of(node: &Node) -> Stat {
    Stat {
        kind: node.kind,
        size: node.content.len() as u64,
        mtime_ns: node.mtime_ns,
        ctime_ns: node.ctime_ns,
        dev: 1,
        ino: node.ino,
        mode: node.mode,
        uid: 0,
        gid: 0,
        nlink: 1,
    }
}

impl Tree for MemTree {
    fn identity(&self) -> io::Result<Identity> {
        let world = self.lock();
        let stat = world.stat(&RelPath::root())?;
        Ok(Identity {
            dev: 1,
            ino: stat.ino,
            fsid: match world.mount {
                Mount::Here | Mount::Emptied => 1,
                Mount::Gone | Mount::Other => 2,
            },
        })
    }

    fn list(&self, folder: &RelPath) -> io::Result<Vec<Found>> {
        let mut world = self.lock();
        world.walks += u64::from(folder.is_root());
        if world.stat(folder)?.kind != Kind::Folder {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        if world.closed.iter().any(|closed| folder.is_within(closed)) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        if world.mount != Mount::Here {
            let has_name = world.mount == Mount::Other && folder.is_root();
            let other = has_name.then(|| Found {
                name: OTHERS.into(),
                stat: world.stat(&RelPath::root().join(OTHERS)).expect("there"),
                armed: true,
            });
            return Ok(other.into_iter().collect());
        }
        let watched = world.hints.is_some();
        if watched {
            world.armed.insert(folder.clone());
        }
        let mut found: Vec<Found> = world
            .nodes
            .iter()
            .filter(|(path, _)| path.parent().as_ref() == Some(folder))
            .map(|(path, node)| Found {
                name: path.name().into(),
                stat: stat_of(node),
                armed: !watched || world.armed.contains(path),
            })
            .collect();
        found.sort_by(|a, b| a.order().cmp(b.order()));
        Ok(found)
    }

    fn stat(&self, path: &RelPath) -> io::Result<Stat> {
        self.lock().stat(path)
    }

    fn open(&self, path: &RelPath) -> Result<Box<dyn OpenFile>, ReadError> {
        let stat = self.lock().stat(path).map_err(ReadError::from_io)?;
        if stat.kind != Kind::File {
            return Err(ReadError::Kind(stat.kind));
        }
        if let Some(errno) = self.lock().damaged.get(path) {
            return Err(ReadError::from_io(io::Error::from_raw_os_error(*errno)));
        }
        Ok(Box::new(MemFile {
            tree: self.clone(),
            path: path.clone(),
            ino: stat.ino,
        }))
    }
}

/// An open file. What is removed or renamed away meanwhile can no longer be read: the simulation's files are re-read by
/// name and inode.
struct MemFile {
    tree: MemTree,
    path: RelPath,
    ino: u64,
}

impl MemFile {
    fn node(&self, world: &World) -> io::Result<Node> {
        let node = world
            .nodes
            .get(&self.path)
            .filter(|node| node.ino == self.ino);
        node.cloned().ok_or(io::ErrorKind::NotFound.into())
    }
}

impl OpenFile for MemFile {
    fn stat(&self) -> io::Result<Stat> {
        let world = self.tree.lock();
        self.node(&world).map(|node| stat_of(&node))
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut world = self.tree.lock();
        world.reads += 1;
        let (rude, dice) = (world.rude, world.random.f64());
        if dice < rude {
            let mut content = self.node(&world)?.content.to_vec();
            content.push(b'!');
            world.write(&self.path, &content);
        }
        let node = self.node(&world)?;
        let rest = node.content.get(offset as usize..).unwrap_or(&[]);
        let len = rest.len().min(into.len());
        into[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn lease(&self) -> Lease<'_> {
        let world = self.tree.lock();
        match self.node(&world) {
            Ok(node) if world.has_leases => Lease::Held(Box::new(MemLease {
                file: self,
                content: node.content,
            })),
            _ => Lease::Unavailable,
        }
    }
}

/// A lease on a file in memory: writers do not wait, but break it.
struct MemLease<'a> {
    file: &'a MemFile,
    content: Arc<Vec<u8>>,
}

impl Hold for MemLease<'_> {
    fn is_held(&self) -> bool {
        let world = self.file.tree.lock();
        // What is gone by its name is not written to any more.
        let node = self.file.node(&world);
        node.map_or(true, |node| Arc::ptr_eq(&node.content, &self.content))
    }
}
