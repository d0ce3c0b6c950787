//! How long a file is given to come to rest before it is read, and before it is read all the same.

use std::time::Duration;

use crate::agent::{Mode, PATIENCE, Settings};
use crate::base::clock::Now;
use crate::base::stat::Stat;
use crate::sync::file::Patience;
use crate::sync::queue::Job;

/// What a folder says of rest.
pub(super) struct Rest {
    scan_settle: Duration,
    max_wait: Duration,
    /// How often a file may be found moving before that counts as waited long enough.
    moves_most: u32,
}

impl Rest {
    pub fn new(settings: &Settings, mode: Mode) -> Self {
        Self {
            scan_settle: settings.scan_settle,
            max_wait: settings.max_wait,
            moves_most: match mode {
                Mode::Forever => u32::MAX,
                // Its last two tries: what a file began with has to be seen twice.
                Mode::Once { .. } => PATIENCE - 2,
            },
        }
    }

    /// Returns how much longer a file that no event told of has to rest. Times in the future count as now's.
    pub fn unsettled(&self, job: &Job, stat: &Stat, now: Now) -> Option<Duration> {
        if self.is_overdue(job, now) {
            return None;
        }
        let newest = stat.mtime_ns.max(stat.ctime_ns);
        let rested = u64::try_from(now.wall_ns.saturating_sub(newest)).ok()?;
        self.scan_settle
            .checked_sub(Duration::from_nanos(rested))
            .filter(|left| !left.is_zero())
    }

    /// Returns whether a file that is still being written to goes on being waited for.
    pub fn patience(&self, job: &Job, now: Now) -> Patience {
        if self.is_overdue(job, now) || job.moves >= self.moves_most {
            Patience::Over {
                before: job.beginning.as_deref().copied(),
            }
        } else {
            Patience::Left
        }
    }

    fn is_overdue(&self, job: &Job, now: Now) -> bool {
        now.mono.saturating_duration_since(job.since.mono) >= self.max_wait
    }
}
