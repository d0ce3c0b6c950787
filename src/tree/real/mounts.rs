//! What is mounted inside the tree and under it, what was, and which filesystems tell of changes.
//!
//! From `/proc/self/mountinfo` alone: it names each filesystem more exactly than the number that statfs has for it, and
//! reading it never waits for a server that has died, as statfs does.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::makedev;

use crate::base::path::RelPath;

/// Filesystems whose changes are all made through this kernel, so that it can tell of them.
const TELLING: &[&str] = &[
    "aufs", "bcachefs", "btrfs", "devtmpfs", "ecryptfs", "erofs", "exfat", "ext2", "ext3", "ext4",
    "f2fs", "hfs", "hfsplus", "iso9660", "jffs2", "jfs", "minix", "msdos", "nilfs2", "ntfs",
    "ntfs3", "overlay", "ramfs", "rootfs", "reiserfs", "squashfs", "tmpfs", "ubifs", "udf", "vfat",
    "xfs", "zfs",
];

/// Filesystems that others change behind this kernel's back, or that make up their content when it is read.
const SILENT: &[&str] = &[
    "9p",
    "afs",
    "autofs",
    "beegfs",
    "bpf",
    "ceph",
    "cgroup",
    "cgroup2",
    "cifs",
    "coda",
    "configfs",
    "debugfs",
    "gfs2",
    "glusterfs",
    "gpfs",
    "lustre",
    "ncpfs",
    "nfs",
    "nfs4",
    "ocfs2",
    "orangefs",
    "prl_fs",
    "proc",
    "pstore",
    "pvfs2",
    "securityfs",
    "smb3",
    "smbfs",
    "sysfs",
    "tracefs",
    "vboxsf",
    "virtiofs",
    "vmhgfs",
];

/// Which changes of a filesystem the kernel tells of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::tree::real) enum Tells {
    /// All: it is watched.
    All,
    /// Those made here, or we do not know: it is watched, and polled too.
    Some,
    /// So few that a watch is not worth its memory: it is polled.
    Few,
}

/// Returns which changes of a filesystem, named as in mountinfo, the kernel tells of.
fn tells(filesystem: &str) -> Tells {
    // What stands behind the dot is who serves it (`fuse.sshfs`).
    let kind = filesystem.split('.').next().unwrap_or_default();
    if TELLING.contains(&kind) {
        Tells::All
    } else if SILENT.contains(&kind) {
        Tells::Few
    } else {
        Tells::Some
    }
}

/// A mount, without what can change of it while it stays the same one (its options).
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::tree::real) struct Mount {
    id: u64,
    dev: u64,
    /// Which folder of the filesystem is mounted.
    root: Vec<u8>,
    pub point: PathBuf,
    pub filesystem: String,
}

impl Mount {
    pub fn tells(&self) -> Tells {
        tells(&self.filesystem)
    }
}

/// Reads the text of mountinfo; a line that is not as proc(5) says is left out.
pub(in crate::tree::real) fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|byte| *byte == b'\n').filter_map(line).collect()
}

fn line(line: &[u8]) -> Option<Mount> {
    let text = |field: &[u8]| std::str::from_utf8(field).ok().map(str::to_owned);
    let mut fields = line.split(|byte| *byte == b' ');
    let id = text(fields.next()?)?.parse().ok()?;
    let _parent = fields.next()?;
    let dev = text(fields.next()?)?;
    let (major, minor) = dev.split_once(':')?;
    let dev = makedev(major.parse().ok()?, minor.parse().ok()?);
    let root = unescaped(fields.next()?);
    let point = PathBuf::from(OsString::from_vec(unescaped(fields.next()?)));
    // Any number of optional fields, closed by a dash.
    let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
    let filesystem = text(fields.next()?)?;
    Some(Mount {
        id,
        dev,
        root,
        point,
        filesystem,
    })
}

/// Undoes what the kernel does to space, tab, newline, backslash and `#`: a backslash and three octal digits.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, behind)) = rest.split_first() {
        let octal = behind.get(..3).filter(|_| *first == b'\\');
        let octal = octal.and_then(|digits| std::str::from_utf8(digits).ok());
        if let Some(byte) = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            bytes.push(byte);
            rest = &behind[3..];
        } else {
            bytes.push(*first);
            rest = behind;
        }
    }
    bytes
}

/// When a mount inside the tree came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Since {
    /// It was there when the tree was opened: what belongs to the tree is in it.
    Start,
    /// It came later, perhaps over files of the tree.
    Later,
}

/// The mounts of one tree.
#[derive(Debug)]
pub(in crate::tree::real) struct Mounts {
    root: PathBuf,
    /// What the root lies on; `None` where that cannot be known.
    under: Option<Mount>,
    inside: BTreeMap<RelPath, Mount>,
    since: BTreeMap<RelPath, Since>,
    /// Were mounted, are not, and what is seen in their place is not the tree's: since when they were there.
    away: BTreeMap<RelPath, Since>,
}

/// What is different.
#[derive(PartialEq, Eq, Debug, Default)]
pub(in crate::tree::real) struct Changed {
    /// What the root lies on.
    pub under: bool,
    /// The places inside at which something was mounted or unmounted.
    pub inside: Vec<RelPath>,
    /// Those from which something has gone that came later than the tree was opened, perhaps over files of the tree.
    pub uncovered: Vec<RelPath>,
}

impl Mounts {
    pub fn new(root: &Path, listed: &[Mount]) -> Self {
        let mut mounts = Self {
            root: root.to_path_buf(),
            under: None,
            inside: BTreeMap::new(),
            since: BTreeMap::new(),
            away: BTreeMap::new(),
        };
        mounts.update(listed);
        for since in mounts.since.values_mut() {
            *since = Since::Start;
        }
        mounts
    }

    /// Takes what is mounted now. Whatever has gone is away; see [`Mounts::give_back`] for what it lay over.
    pub fn update(&mut self, listed: &[Mount]) -> Changed {
        let mut under: Option<&Mount> = None;
        let mut inside = BTreeMap::new();
        // Later lines lie over earlier ones at the same place.
        for mount in listed {
            match RelPath::below(&self.root, &mount.point) {
                Some(point) if !point.is_root() => drop(inside.insert(point, mount.clone())),
                _ if self.root.starts_with(&mount.point) => {
                    let depth = |mount: &Mount| mount.point.components().count();
                    if under.is_none_or(|under| depth(under) <= depth(mount)) {
                        under = Some(mount);
                    }
                }
                _ => {}
            }
        }
        let mut changed = Changed {
            under: self.under.as_ref() != under,
            ..Changed::default()
        };
        self.under = under.cloned();
        let before = std::mem::replace(&mut self.inside, inside);
        for (point, mount) in &self.inside {
            if before.get(point) != Some(mount) {
                let since = self.away.remove(point).unwrap_or(Since::Later);
                self.since.entry(point.clone()).or_insert(since);
                changed.inside.push(point.clone());
            }
        }
        for point in before.into_keys() {
            if self.inside.contains_key(&point) {
                continue;
            }
            let since = self.since.remove(&point).unwrap_or(Since::Later);
            self.away.insert(point.clone(), since);
            if since == Since::Later {
                changed.uncovered.push(point.clone());
            }
            changed.inside.push(point);
        }
        changed
    }

    /// Takes a place for the tree's own again: something is there that a mount had covered.
    pub fn give_back(&mut self, point: &RelPath) {
        self.away.remove(point);
    }

    /// Returns what `path` lies on.
    pub fn at(&self, path: &RelPath) -> Option<&Mount> {
        if self.inside.is_empty() {
            return self.under.as_ref();
        }
        let mut folder = Some(path.clone());
        while let Some(path) = folder {
            if let Some(mount) = self.inside.get(&path) {
                return Some(mount);
            }
            folder = path.parent();
        }
        self.under.as_ref()
    }

    /// Returns true if what belongs at `path` is on a filesystem that was mounted and is not now.
    pub fn is_away(&self, path: &RelPath) -> bool {
        self.away.keys().any(|point| path.is_within(point))
    }

    pub fn away(&self) -> Vec<RelPath> {
        self.away.keys().cloned().collect()
    }

    /// Returns the mounts inside of which not everything is told.
    pub fn silent(&self) -> impl Iterator<Item = (&RelPath, &Mount)> {
        self.inside
            .iter()
            .filter(|(_, mount)| mount.tells() != Tells::All)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).expect("a valid path")
    }

    fn mount(id: u64, point: &str, filesystem: &str) -> Mount {
        let line = format!("{id} 1 8:{id} / {point} rw - {filesystem} src rw");
        let mounts = parse(line.as_bytes());
        mounts.into_iter().next().expect("a valid line")
    }

    #[test]
    fn mountinfo_is_read_with_its_escapes_and_optional_fields() {
        let text = b"36 35 98:0 /mnt1 /with\\040space\\134and\\011tab rw,noatime master:1 shared:2 - ext3 /dev/root rw\n\
            a line that is none\n\
            37 35 0:42 / /plain rw - fuse.sshfs me@there: rw\n";
        let mounts = parse(text);
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[0].point, Path::new("/with space\\and\ttab"));
        assert_eq!((mounts[0].id, mounts[0].dev), (36, makedev(98, 0)));
        assert_eq!(mounts[0].root, b"/mnt1");
        assert_eq!(mounts[0].filesystem, "ext3");
        assert_eq!(mounts[1].filesystem, "fuse.sshfs");
        assert_eq!(unescaped(b"\\"), b"\\");
        assert_eq!(unescaped(b"a\\9x"), b"a\\9x");
    }

    #[test]
    fn the_machines_own_mountinfo_has_a_root() {
        let text = std::fs::read("/proc/self/mountinfo").expect("readable");
        let mounts = Mounts::new(Path::new("/"), &parse(&text));
        assert!(mounts.at(&RelPath::root()).is_some());
    }

    #[test]
    fn each_filesystem_tells_what_it_can() {
        for kind in ["ext4", "xfs", "btrfs", "tmpfs", "overlay", "zfs", "f2fs"] {
            assert_eq!(tells(kind), Tells::All, "{kind}");
        }
        for kind in [
            "nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs", "vboxsf", "afs", "ceph", "proc",
            "gfs2", "ocfs2",
        ] {
            assert_eq!(tells(kind), Tells::Few, "{kind}");
        }
        for kind in ["fuse", "fuse.sshfs", "fuseblk", "never-heard-of"] {
            assert_eq!(tells(kind), Tells::Some, "{kind}");
        }
    }

    #[test]
    fn what_a_path_lies_on_is_the_nearest_mount_and_the_latest_there() {
        let listed = [
            mount(1, "/", "ext4"),
            mount(2, "/srv", "xfs"),
            mount(3, "/srv/tree/share", "nfs4"),
            mount(4, "/srv/tree/share", "tmpfs"),
            mount(5, "/srv/tree-2", "nfs"),
        ];
        let mounts = Mounts::new(Path::new("/srv/tree"), &listed);
        let at = |text: &str| mounts.at(&path(text)).map(|mount| mount.id);
        assert_eq!(at(""), Some(2));
        assert_eq!(at("share-2/a"), Some(2));
        assert_eq!(at("share/a/b"), Some(4));
        assert_eq!(mounts.silent().count(), 0);
    }

    #[test]
    fn a_mount_that_vanishes_is_away_until_it_is_back() {
        let (root, disk) = (mount(1, "/t", "ext4"), mount(2, "/t/disk", "ext4"));
        let both = [root.clone(), disk.clone()];
        let mut mounts = Mounts::new(Path::new("/t"), &both);
        assert_eq!(mounts.update(&both), Changed::default());
        // Files in its place are not the tree's: it was a mount from the start.
        let changed = mounts.update(std::slice::from_ref(&root));
        assert_eq!(changed.inside, [path("disk")]);
        assert!(changed.uncovered.is_empty());
        assert!(mounts.is_away(&path("disk/a")) && mounts.is_away(&path("disk")));
        assert!(!mounts.is_away(&path("disk2")) && !mounts.is_away(&path("a")));
        let again = [root.clone(), mount(9, "/t/disk", "ext4")];
        assert_eq!(mounts.update(&again).inside, [path("disk")]);
        assert!(!mounts.is_away(&path("disk/a")));
        mounts.update(&[root]);
        assert!(mounts.is_away(&path("disk/a")), "it is what it was before");
    }

    #[test]
    fn a_mount_that_came_over_files_gives_them_back() {
        let root = [mount(1, "/t", "ext4")];
        let both = [mount(1, "/t", "ext4"), mount(2, "/t/a", "tmpfs")];
        let mut mounts = Mounts::new(Path::new("/t"), &root);
        assert_eq!(mounts.update(&both).inside, [path("a")]);
        let changed = mounts.update(&root);
        assert_eq!(
            (changed.inside, changed.uncovered),
            (vec![path("a")], vec![path("a")])
        );
        // Until somebody has seen files there, nothing there is judged.
        assert!(mounts.is_away(&path("a/b")));
        mounts.give_back(&path("a"));
        assert!(!mounts.is_away(&path("a/b")));
    }

    #[test]
    fn another_mount_under_the_root_is_noticed() {
        let mut mounts = Mounts::new(Path::new("/t/x"), &[mount(1, "/", "ext4")]);
        let over = [mount(1, "/", "ext4"), mount(2, "/t", "tmpfs")];
        let under = Changed {
            under: true,
            ..Changed::default()
        };
        assert_eq!(mounts.update(&over), under);
        assert_eq!(mounts.update(&over), Changed::default());
        let elsewhere = [over[0].clone(), over[1].clone(), mount(3, "/u", "tmpfs")];
        assert_eq!(mounts.update(&elsewhere), Changed::default());
    }
}
