//! How many watches our trees may take: four fifths of what the user has, so that other programs can watch too.
//!
//! All trees of a process share one budget, as the kernel counts by user. It only counts: whether a watch can be had, the
//! kernel says in the end.

use std::fs;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

/// The two limits, of the machine and of the user namespace: the smaller one holds.
const LIMITS: [(&str, &str); 2] = [
    (
        "fs.inotify.max_user_watches",
        "/proc/sys/fs/inotify/max_user_watches",
    ),
    (
        "user.max_inotify_watches",
        "/proc/sys/user/max_inotify_watches",
    ),
];

/// Watches that may be taken, and how many are.
#[derive(Debug)]
pub struct Budget {
    source: Source,
    limit: AtomicU64,
    /// Which of the two limits it is.
    which: AtomicUsize,
    used: AtomicU64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Source {
    Kernel,
    Given,
}

impl Budget {
    /// Returns the budget that all trees of this process share.
    pub fn of_the_user() -> Arc<Self> {
        static SHARED: LazyLock<Arc<Budget>> = LazyLock::new(|| {
            let budget = Budget::new(Source::Kernel, u64::MAX);
            budget.refresh();
            Arc::new(budget)
        });
        SHARED.clone()
    }

    /// Makes a budget for a limit that is given, of which four fifths may be taken.
    pub fn given(limit: u64) -> Arc<Self> {
        Arc::new(Self::new(Source::Given, limit))
    }

    fn new(source: Source, limit: u64) -> Self {
        Self {
            source,
            limit: AtomicU64::new(limit),
            which: AtomicUsize::new(0),
            used: AtomicU64::new(0),
        }
    }

    /// Gives another limit.
    pub fn set_limit(&self, limit: u64) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Reads the kernel's limit anew: it can be raised while we run.
    pub fn refresh(&self) {
        if self.source == Source::Kernel {
            let (which, limit) = kernel_limit();
            self.which.store(which, Ordering::Relaxed);
            self.set_limit(limit);
        }
    }

    /// Returns how many watches the user may have; `None` where the kernel hides that.
    pub fn limit(&self) -> Option<u64> {
        let limit = self.limit.load(Ordering::Relaxed);
        (limit < u64::MAX).then_some(limit)
    }

    /// Returns whether one more watch may be taken.
    pub fn has_room(&self) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        self.used.load(Ordering::Relaxed) < limit - limit / 5
    }

    /// Counts one watch more.
    pub fn take(&self) {
        self.used.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts so many watches less.
    pub fn give_back(&self, watches: u64) {
        self.used.fetch_sub(watches, Ordering::Relaxed);
    }

    /// Returns what to do so that `folders` can be watched, `without` of which are not.
    pub fn advice(&self, folders: u64, without: u64) -> String {
        let limit = self.limit.load(Ordering::Relaxed);
        // Twice what is there now: folders are added, and other programs watch too.
        let wanted = (folders * 2).max(limit.saturating_add(without * 2));
        let (name, _) = LIMITS[self.which.load(Ordering::Relaxed)];
        format!("raise {name} to {wanted}")
    }
}

/// Returns which limit holds, and how much it is; none where both are hidden.
fn kernel_limit() -> (usize, u64) {
    let limits = LIMITS.iter().enumerate().filter_map(|(which, (_, path))| {
        let text = fs::read_to_string(path).ok()?;
        Some((which, text.trim().parse().ok()?))
    });
    limits
        .min_by_key(|(_, limit)| *limit)
        .unwrap_or((0, u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifth_is_left_to_others() {
        let budget = Budget::given(10);
        for _ in 0..8 {
            assert!(budget.has_room());
            budget.take();
        }
        assert!(!budget.has_room());
        budget.give_back(1);
        assert!(budget.has_room());
        budget.take();
        budget.set_limit(20);
        assert!(budget.has_room());
        assert!(budget.advice(200, 160).ends_with(" to 400"));
    }
}
