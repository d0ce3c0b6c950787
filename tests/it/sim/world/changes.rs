//! What happens to the tree.

use tidewatch::base::path::RelPath;

use crate::sim::world::{SECOND_NS, World};
use crate::support::mem_tree::Mount;

impl World {
    pub(in crate::sim::world) fn path(&mut self) -> RelPath {
        let names = ["a", "b", "a.txt", "c d", "e"];
        let depth = self.random.usize(1..4);
        let mut path = RelPath::root();
        for _ in 0..depth {
            path = path.join(names[self.random.usize(..names.len())].as_bytes());
        }
        path
    }

    /// Returns a file that is there, or any path.
    fn file(&mut self) -> RelPath {
        let files: Vec<RelPath> = self.tree.files().into_keys().collect();
        self.one_of(files)
    }

    fn one_of(&mut self, paths: Vec<RelPath>) -> RelPath {
        match paths.len() {
            0 => self.path(),
            len => paths.into_iter().nth(self.random.usize(..len)).expect("in"),
        }
    }

    pub(in crate::sim::world) fn content(&mut self) -> Vec<u8> {
        // Few contents, so that many files are equal; in some worlds now and then a large one, which goes up by parts.
        let large = if self.kind.has_large { 20 } else { 0 };
        match self.random.u16(..1000) {
            dice if dice < large => vec![b"LM"[self.random.usize(..2)]; (16 << 20) + 5],
            20..80 => Vec::new(),
            _ => {
                let letter = b"xyz"[self.random.usize(..3)];
                vec![letter; self.random.usize(1..7)]
            }
        }
    }

    /// Lets one thing happen.
    pub(in crate::sim::world) fn change(&mut self) {
        self.tally.changes += 1;
        self.change_mount();
        // Seldom the whole folder goes away, until the next change.
        self.tree.away(self.random.u8(..40) == 0);
        match self.random.u8(..32) {
            0..=9 => {
                let (path, content) = (self.path(), self.content());
                self.write(&path, &content);
            }
            10 | 11 => {
                let (path, mut content) = (self.file(), self.content());
                if self.plant.is_of_ctime()
                    && let Some(old) = self.tree.files().get(&path)
                {
                    // Of the same length: nothing else tells either.
                    content = old.iter().map(|byte| byte ^ 1).collect();
                }
                self.say(&format!("write {path} secretly ({})", content.len()));
                // Only its ctime tells, and a rename on top of it would hide even that: its event is not lost silently.
                self.tree.trouble(0.0, self.trouble.1);
                self.tree.write_secretly(&path, &content);
                self.tree.trouble(self.trouble.0, self.trouble.1);
            }
            12 | 13 => {
                let path = self.path();
                self.say(&format!("remove {path}"));
                self.tree.remove(&path);
            }
            14 => {
                let path = self.file();
                self.say(&format!("remove {path}"));
                self.tree.remove(&path);
            }
            15 => {
                let folders = self.tree.folders();
                let path = self.one_of(folders);
                self.say(&format!("remove {path} with all that is in it"));
                self.tree.remove(&path);
            }
            16..=18 => {
                let (from, to) = (self.path(), self.path());
                self.rename(&from, &to);
            }
            19 | 20 => {
                let (from, to) = (self.file(), self.path());
                self.rename(&from, &to);
            }
            21 => {
                let folders = self.tree.folders();
                let (from, to) = (self.one_of(folders), self.path());
                self.rename(&from, &to);
            }
            22 => {
                // Two files change their names.
                let (a, b) = (self.file(), self.file());
                let aside = RelPath::root().join(b"aside");
                self.rename(&a, &aside);
                self.rename(&b, &a);
                self.rename(&aside, &b);
            }
            23 => {
                let path = self.path();
                self.say(&format!("make the folder {path}"));
                self.tree.mkdir(&path);
            }
            24 | 25 => {
                let (path, mode) = (self.file(), 0o600 + u32::from(self.random.u8(..64)));
                self.tree.chmod(&path, mode);
                // Of a folder's own mode no event tells.
                if let Some(folder) = path.parent() {
                    self.tree.chmod_unheard(&folder, mode | 0o100);
                }
            }
            26 => {
                let folders = self.tree.folders();
                let path = self.one_of(folders);
                self.say(&format!("close {path}"));
                self.tree.close(&path, true);
            }
            27 | 28 => self.tree.open_all(),
            29 => self.run_over(),
            _ => {
                // A tree at once: its inner folders are blind until they are armed.
                let (mut below, content) = (self.path(), self.content());
                for name in ["n1", "n2", "n3"] {
                    below = below.join(name.as_bytes());
                }
                self.write(&below, &content);
            }
        }
    }

    fn write(&mut self, path: &RelPath, content: &[u8]) {
        self.say(&format!("write {path} ({})", content.len()));
        self.tree.write(path, content);
    }

    fn rename(&mut self, from: &RelPath, to: &RelPath) {
        self.say(&format!("rename {from} to {to}"));
        self.tree.rename(from, to);
    }

    /// The kernel's queue runs over: some events are gone, and that is said.
    fn run_over(&mut self) {
        self.say("events are lost");
        self.tree.trouble(1.0, self.trouble.1);
        for _ in 0..self.random.usize(1..4) {
            let (path, content) = (self.path(), self.content());
            self.write(&path, &content);
        }
        self.tree.trouble(self.trouble.0, self.trouble.1);
        if self.plant.tells_losses() {
            self.tree.overflow();
        }
    }

    /// Something else is mounted over the root, from seconds to many minutes.
    fn change_mount(&mut self) {
        if let Some(until_ns) = self.mounted_until_ns {
            if until_ns <= self.wall_ns {
                self.mount_back();
            }
        } else if self.random.u8(..50) == 0 {
            let mount = [Mount::Gone, Mount::Other, Mount::Emptied][self.random.usize(..3)];
            let lasts = if self.random.bool() {
                self.random.i64(1..30)
            } else {
                self.random.i64(30..1200)
            };
            self.say(&format!("{mount:?} for {lasts} s"));
            self.tree.mount(mount);
            self.mounted_until_ns = Some(self.wall_ns + lasts * SECOND_NS);
        }
    }

    pub(in crate::sim::world) fn mount_back(&mut self) {
        if self.mounted_until_ns.take().is_some() {
            self.say("mounted again");
            self.tree.mount(Mount::Here);
        }
    }
}
