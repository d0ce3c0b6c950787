//! In which order the backlog is worked on: that of paths, loosened.
//!
//! A store divides its load by the beginnings of keys (S3 grants each of its partitions 3,500 writes a second,
//! <https://docs.aws.amazon.com/AmazonS3/latest/userguide/optimizing-performance.html>), and a scan comes in the order of
//! paths: worked on like that, all requests would meet in one place.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use crate::base::path::RelPath;
use crate::sync::Lane;
use crate::sync::queue::{Queue, group};

/// What each path that waits already adds to the time over which the next ones are spread: 10,000 a second, more than are
/// ever worked on, so that nothing idles for it.
const EACH: Duration = Duration::from_micros(100);
/// So many are worked on at once in any case, in whatever order they come.
const AT_ONCE: u64 = 256;

impl Queue {
    /// Returns for how long a path of the backlog lets others go first: a second at most, always the same share for the
    /// same path, nothing while little waits.
    pub(in crate::sync::queue) fn lets_others_go_first(&self, path: &RelPath) -> Duration {
        let waiting = (self.fresh[Lane::Backlog as usize] as u64).saturating_sub(AT_ONCE);
        let waiting = u32::try_from(waiting).unwrap_or(u32::MAX);
        let mut hasher = DefaultHasher::new();
        // What settles together stays together.
        group::main_of(path.as_bytes()).hash(&mut hasher);
        let share = (hasher.finish() >> 32) as f64 / f64::from(u32::MAX);
        EACH.saturating_mul(waiting).mul_f64(share)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::base::clock::Clock;
    use crate::sync::queue::{BACKLOG_MOST, Settings};
    use crate::tree::Touch;

    const SECOND: Duration = Duration::from_secs(1);

    fn path(name: &str) -> RelPath {
        RelPath::new(name.as_bytes()).expect("a valid path")
    }

    fn queue() -> Queue {
        Queue::new(Settings {
            settle: SECOND,
            max_wait: SECOND * 10,
            retry_base: SECOND,
            retry_cap: SECOND * 300,
        })
    }

    #[test]
    fn a_scan_in_the_order_of_paths_is_worked_on_all_over_it() {
        let (mut queue, now) = (queue(), Clock::Real.now());
        for n in 0..BACKLOG_MOST {
            // A hundred files in each folder.
            let file = path(&format!("{:02}/{n:05}", n / 100));
            assert!(queue.touch(file, Touch::Scan, 1, now));
        }
        // After a tenth of a second, a part of what waits is due, out of many folders.
        let jobs = queue.pop_due(now.plus(SECOND / 10), 0, BACKLOG_MOST);
        assert!(
            (500..BACKLOG_MOST / 2).contains(&jobs.len()),
            "{}",
            jobs.len()
        );
        let folder = |path: &RelPath| path.parent().expect("a folder");
        let folders: BTreeSet<RelPath> = jobs.iter().map(|job| folder(&job.path)).collect();
        assert!(folders.len() > 80, "{}", folders.len());
        let side_by_side = |pair: &[_; 2]| folder(&pair[0]) == folder(&pair[1]);
        let paths: Vec<RelPath> = jobs.into_iter().map(|job| job.path).collect();
        let same = paths
            .array_windows()
            .filter(|pair| side_by_side(pair))
            .count();
        assert!(same < paths.len() / 5, "{same} of {}", paths.len());
        // And nothing waits for longer than a second for it.
        let rest = queue.pop_due(now.plus(SECOND), 0, BACKLOG_MOST);
        assert_eq!(paths.len() + rest.len(), BACKLOG_MOST);
    }

    #[test]
    fn few_files_wait_for_nothing_and_a_database_stays_together() {
        let (mut queue, now) = (queue(), Clock::Real.now());
        for n in 0..AT_ONCE {
            queue.touch(path(&n.to_string()), Touch::Scan, 1, now);
        }
        assert_eq!(queue.pop_due(now, 0, 1_000).len() as u64, AT_ONCE);
        for n in 1_000..2_000 {
            queue.touch(path(&n.to_string()), Touch::Scan, 1, now);
        }
        let share = |name| queue.lets_others_go_first(&path(name));
        assert_eq!(share("db"), share("db-wal"));
        assert!(share("db") < SECOND / 10);
    }
}
