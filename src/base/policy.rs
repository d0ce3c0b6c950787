//! What a folder's owner wants done: the choices of the config that more than one module has to know.

use std::time::Duration;

/// What becomes of an object whose file is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnDelete {
    /// It stays.
    #[default]
    Keep,
    /// It is set aside under `.tidewatch/trash/` and removed from there after `trash_keep`.
    Trash,
    /// It is removed.
    Delete,
}

/// What becomes of an object before other content takes its key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum History {
    /// Nothing: it is overwritten.
    #[default]
    Off,
    /// It is copied aside, as a deleted one is under [`OnDelete::Trash`].
    Trash,
}

/// Whether an object is only changed while it is the one that is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Guarding {
    /// The key is ours: it is written whatever is there.
    #[default]
    Off,
    /// Each write and removal carries a condition; what somebody else wrote stays.
    Strict,
}

/// What becomes of a symbolic link.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Symlinks {
    /// It is left out.
    #[default]
    Skip,
    /// What it leads to is taken under the link's name, if that is inside the root.
    Follow,
    /// A small object `NAME.rclonelink` holds its target, as `rclone --links` writes it.
    Record,
}

/// How changes are noticed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum WatchMode {
    /// By the kernel's events where they tell everything, by looking again and again elsewhere.
    #[default]
    Auto,
    /// By the kernel's events, whatever the filesystem.
    Native,
    /// By looking again and again.
    Poll,
}

/// More than this within the window waits for a person.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Brake {
    /// Files.
    pub files: u64,
    /// Percent of the files that are known to be in the bucket, counted from 50 files up; `None`: no share.
    pub share_percent: Option<u8>,
    /// The time in which they are counted.
    pub window: Duration,
}

impl Brake {
    /// The brake on deletes unless it is said otherwise.
    pub const DELETES: Self = Self {
        files: 1000,
        share_percent: Some(20),
        window: Duration::from_secs(10 * 60),
    };
}
