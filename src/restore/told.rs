//! What a restore says of itself: each thing that happens, the sums at the end, and how far it is meanwhile.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::base::path::RelPath;
use crate::restore::plan::By;

/// What happened to one path or key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// It was brought back.
    Restored,
    /// It would be, if this were not a dry run.
    WouldRestore,
    /// It was there already; perhaps its time or mode were put right.
    Equal,
    /// Something else is there and stays, as was asked for.
    Skipped,
    /// Something else is there and stays.
    Conflict,
    /// It could not be brought back this time.
    Failed,
    /// What the bucket has is not what was stored there: it was not put in place.
    Unverified,
    /// Its key is no path that the disk can have here.
    Refused,
}

impl What {
    /// Returns its name in results.
    pub fn word(self) -> &'static str {
        match self {
            Self::Restored => "restored",
            Self::WouldRestore => "would_restore",
            Self::Equal => "equal",
            Self::Skipped => "skipped",
            Self::Conflict => "conflict",
            Self::Failed => "failed",
            Self::Unverified => "unverified",
            Self::Refused => "refused",
        }
    }
}

/// One thing that happened.
#[derive(Clone, Copy, Debug)]
pub struct Happening<'a> {
    /// What.
    pub what: What,
    /// To which path; `None` for a key that has none.
    pub path: Option<&'a RelPath>,
    /// The object's key.
    pub key: &'a str,
    /// Bytes of content that were brought back.
    pub bytes: u64,
    /// What proved that the content is the right one.
    pub by: Option<By>,
    /// Why not.
    pub error: Option<&'a str>,
}

impl Happening<'_> {
    /// Returns true if it is about a folder that has no object.
    pub fn is_bare_folder(&self) -> bool {
        self.path.is_some() && self.key.is_empty()
    }
}

/// Who is told what happens, as it happens.
pub type Tell<'a> = &'a mut (dyn FnMut(&Happening<'_>) + Send + Sync);

/// What a restore has done.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sums {
    /// Files and links that were brought back, and folders that have an object of their own.
    pub restored: u64,
    /// Empty folders that have no object, and were made, or would be.
    pub folders: u64,
    /// Those that a real run would bring back, of a dry run.
    pub would_restore: u64,
    /// What was there already.
    pub equal: u64,
    /// What stays as was asked for.
    pub skipped: u64,
    /// What stays and is in the way.
    pub conflicts: u64,
    /// What could not be brought back.
    pub failed: u64,
    /// What is not what was stored.
    pub unverified: u64,
    /// Keys that are no paths.
    pub refused: u64,
    /// What was not tried any more.
    pub untried: u64,
    /// Bytes brought back.
    pub bytes: u64,
    /// How many of the restored files were verified by SHA-256, CRC64NVME, MD5, and by nothing but their size.
    pub by: [u64; 4],
    /// How many of the restored files have no time in the bucket, and got the present one.
    pub without_time: u64,
    /// Whether everything that failed did so because the bucket could not be reached, or did not let us in.
    pub is_unreachable: bool,
    /// Why it ended before everything was tried.
    pub stopped_by: Option<String>,
}

impl Sums {
    /// Counts one thing.
    pub fn count(&mut self, happening: &Happening<'_>) {
        let is_folder = happening.is_bare_folder();
        let count = match happening.what {
            What::Restored | What::WouldRestore if is_folder => &mut self.folders,
            What::Restored => &mut self.restored,
            What::WouldRestore => &mut self.would_restore,
            What::Equal => &mut self.equal,
            What::Skipped => &mut self.skipped,
            What::Conflict => &mut self.conflicts,
            What::Failed => &mut self.failed,
            What::Unverified => &mut self.unverified,
            What::Refused => &mut self.refused,
        };
        *count += 1;
        self.bytes += happening.bytes;
        if let Some(by) = happening.by.filter(|_| happening.what == What::Restored) {
            self.by[by as usize] += 1;
        }
    }
}

/// How far a restore is, for whoever shows it.
#[derive(Debug, Default)]
pub struct Counters {
    /// Files and links that are settled, one way or the other.
    pub files: AtomicU64,
    /// All of them; 0 until that is known.
    pub all_files: AtomicU64,
    /// Bytes of content that have arrived.
    pub bytes: AtomicU64,
    /// All of them, as far as it is known.
    pub all_bytes: AtomicU64,
}

impl Counters {
    /// Adds to a counter.
    pub fn add(counter: &AtomicU64, by: u64) {
        counter.fetch_add(by, Ordering::Relaxed);
    }

    /// Reads a counter.
    pub fn of(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }
}
