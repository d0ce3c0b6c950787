//! What the kernel says of a file, as far as we compare or keep it.

/// What kind of thing a name is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link, not followed.
    Symlink,
    /// A FIFO, socket or device.
    Special,
}

/// A file's stat, taken from a handle or a listing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stat {
    /// What it is.
    pub kind: Kind,
    /// Length in bytes.
    pub size: u64,
    /// Last modification, nanoseconds since the epoch; a user's value.
    pub mtime_ns: i64,
    /// Last change of content or inode, nanoseconds since the epoch; the kernel's value.
    pub ctime_ns: i64,
    /// Device number.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Permission bits (`st_mode & 0o7777`).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Number of names of the inode.
    pub nlink: u64,
}

/// Which folder the root is: what must be equal for a delete to be believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Device number.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Filesystem id as statfs gives it, 0 where there is none.
    pub fsid: u64,
}

/// What is kept of a folder: it has no content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FolderStamp {
    /// Last modification, nanoseconds since the epoch.
    pub mtime_ns: i64,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl FolderStamp {
    /// Returns what is kept of the folder with this stat.
    pub fn of(stat: &Stat) -> Self {
        Self {
            mtime_ns: stat.mtime_ns,
            mode: stat.mode,
            uid: stat.uid,
            gid: stat.gid,
        }
    }
}

impl Stat {
    /// The stat of a file of which nothing is known.
    pub const NONE: Self = Self {
        kind: Kind::File,
        size: 0,
        mtime_ns: 0,
        ctime_ns: 0,
        dev: 0,
        ino: 0,
        mode: 0,
        uid: 0,
        gid: 0,
        nlink: 0,
    };

    /// Returns true if nothing says that the content may differ: same file, size, mtime and ctime.
    ///
    /// ctime is compared because mtime can be set back by anyone; inode and device because a replacement by rename can
    /// carry the same times.
    pub fn same_content_as(&self, other: &Self) -> bool {
        self.kind == other.kind
            && self.size == other.size
            && self.mtime_ns == other.mtime_ns
            && self.ctime_ns == other.ctime_ns
            && self.dev == other.dev
            && self.ino == other.ino
    }

    /// Returns a text that is equal only for what [`Stat::same_content_as`] calls equal.
    pub fn fingerprint(&self) -> String {
        let Self {
            size,
            mtime_ns,
            ctime_ns,
            dev,
            ino,
            ..
        } = self;
        format!("{size}:{mtime_ns}:{ctime_ns}:{dev}:{ino}")
    }

    /// Returns true if a read that began at `read_at_ns` (wall clock) may have missed a later write under the same stamps.
    ///
    /// All changes within one grain of the filesystem's clock share a stamp: git's racy index problem. Grain: two ticks of
    /// the slowest usual kernel clock (10 ms each) where stamps have a fraction of a second, else 2 s (FAT; ext4 with
    /// 128-byte inodes has 1 s).
    pub fn is_racy(&self, read_at_ns: i64) -> bool {
        let fine = self.mtime_ns % 1_000_000_000 != 0 || self.ctime_ns % 1_000_000_000 != 0;
        let grain_ns = if fine { 20_000_000 } else { 2_000_000_000 };
        let racy = |stamp_ns: i64| stamp_ns.saturating_sub(read_at_ns).saturating_abs() < grain_ns;
        // A stamp that lies in the future is a user's, or the clock was set back; a later change gets another one.
        racy(self.mtime_ns) || racy(self.ctime_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(mtime_ns: i64, ctime_ns: i64) -> Stat {
        Stat {
            kind: Kind::File,
            size: 1,
            mtime_ns,
            ctime_ns,
            dev: 1,
            ino: 2,
            mode: 0o644,
            uid: 0,
            gid: 0,
            nlink: 1,
        }
    }

    #[test]
    fn a_read_within_the_clocks_grain_is_racy() {
        assert!(stat(5, 1_000_000_005).is_racy(1_010_000_000));
        assert!(!stat(5, 1_000_000_005).is_racy(1_030_000_000));
        assert!(stat(1_000_000_000, 1_000_000_000).is_racy(2_500_000_000));
        assert!(!stat(1_000_000_000, 1_000_000_000).is_racy(3_000_000_000));
    }

    #[test]
    fn a_stamp_in_the_future_does_not_make_a_row_racy_for_ever() {
        assert!(!stat(1, 9_500_000_001).is_racy(9_000_000_000));
        assert!(!stat(i64::MAX, 1_000_000_001).is_racy(9_000_000_000));
    }

    #[test]
    fn ctime_gives_a_reset_mtime_away() {
        assert!(!stat(5, 6).same_content_as(&stat(5, 7)));
        assert!(stat(5, 6).same_content_as(&Stat {
            mode: 0o600,
            nlink: 2,
            ..stat(5, 6)
        }));
    }
}
