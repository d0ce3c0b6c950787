//! Which path is looked at when. Pure: time comes in as an argument, randomness as a generator.
//!
//! A path is held until an instant, or running; never both: two jobs for one path cannot exist. What happens while it
//! runs makes it held once more when it ends. A path that is the source of a running copy is not handed out until the
//! copy has ended.

mod ask;
mod group;
mod job;
mod shuffle;
mod sources;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::base::backoff;
use crate::base::clock::Now;
use crate::base::path::RelPath;
use crate::sync::Lane;
use crate::tree::Touch;

pub use job::{End, Job};
pub use sources::Hold;

/// Backlog held at most; beyond it the scan waits.
pub const BACKLOG_MOST: usize = 10_000;
/// Watched paths held at most; beyond it a touch is refused, and the caller has to scan later.
pub const LIVE_MOST: usize = 200_000;

/// How files settle and how failures retry.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Quiet time after a touch; a fifth of it after a close.
    pub settle: Duration,
    /// The longest that touches without rest can hold a path back.
    pub max_wait: Duration,
    /// The first pause after a failure.
    pub retry_base: Duration,
    /// The longest pause after failures.
    pub retry_cap: Duration,
}

/// The paths of one folder that are waiting or being worked on.
#[derive(Debug)]
pub struct Queue {
    settings: Settings,
    slots: BTreeMap<RelPath, Slot>,
    live: BTreeSet<(Instant, RelPath)>,
    backlog: BTreeSet<(Instant, RelPath)>,
    sources: BTreeMap<RelPath, usize>,
    running: BTreeMap<Lane, usize>,
    /// How many held paths of each lane are fresh.
    fresh: [usize; 2],
}

/// Invariant: a held slot is in the set of its lane under `due`, unless its path is a source and came up; a running one
/// is in none.
#[derive(Clone, Debug)]
struct Slot {
    job: Job,
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    Held {
        due: Instant,
        parked: bool,
    },
    Running {
        again: Option<(Touch, Now)>,
        /// It was looked at, and is being worked on.
        is_started: bool,
    },
}

impl State {
    const RUNNING: Self = Self::Running {
        again: None,
        is_started: false,
    };
}

impl Queue {
    /// Makes an empty queue.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            slots: BTreeMap::new(),
            live: BTreeSet::new(),
            backlog: BTreeSet::new(),
            sources: BTreeMap::new(),
            running: BTreeMap::new(),
            fresh: [0; 2],
        }
    }

    /// Takes a touch. Returns false if the queue is full and the path was not taken: it has to be found by a scan.
    pub fn touch(&mut self, path: RelPath, touch: Touch, size: u64, now: Now) -> bool {
        if let Some(slot) = self.slots.get_mut(&path) {
            if let State::Running { again, .. } = &mut slot.state {
                let stronger = again.map_or(touch, |(before, _)| before.max(touch));
                *again = Some((stronger, again.map_or(now, |(_, first)| first)));
                return true;
            }
            if touch == Touch::Scan && !slot.job.is_check {
                // It is on its way already, with a better reason.
                slot.job.size = slot.job.size.max(size);
                return true;
            }
            let mut job = slot.job.clone();
            if std::mem::take(&mut job.is_check) {
                (job.since, job.size) = (now, size);
            }
            job.told(touch);
            let due = self.first_due(&path, touch, job.since, now);
            if self.wakes(&job, touch, now) {
                job.not_before = None;
            }
            let due = job.not_before.map_or(due, |not_before| due.max(not_before));
            self.remove_held(&path);
            self.hold(job, due);
            self.settle_group(&path, now);
            return true;
        }
        if touch > Touch::Scan && self.live.len() >= LIVE_MOST {
            return false;
        }
        let mut job = Job {
            size,
            ..Job::new(path, now)
        };
        job.told(touch);
        let path = job.path.clone();
        let due = self.first_due(&path, touch, now, now);
        self.hold(job, due);
        if touch > Touch::Scan {
            self.settle_group(&path, now);
        }
        true
    }

    /// Takes a path whose file is proven gone: it is due now. Returns false if it is running.
    pub fn remove(&mut self, path: &RelPath, now: Now) -> bool {
        let job = match self.slots.get(path) {
            Some(Slot {
                state: State::Running { .. },
                ..
            }) => return false,
            Some(slot) => slot.job.clone(),
            None => Job::new(path.clone(), now),
        };
        self.remove_held(path);
        self.hold(
            Job {
                remove: true,
                is_check: false,
                ..job
            },
            now.mono,
        );
        true
    }

    /// Holds a path until `due`, without a touch: a key that has to be looked at again.
    pub fn hold_until(&mut self, path: RelPath, due: Instant, now: Now) {
        if !self.slots.contains_key(&path) {
            self.hold(
                Job {
                    is_check: true,
                    ..Job::new(path, now)
                },
                due,
            );
        }
    }

    /// Takes the paths that are due, live before backlog, at most so many of each; they are running from now on.
    pub fn pop_due(&mut self, now: Now, live: usize, backlog: usize) -> Vec<Job> {
        let mut jobs = Vec::new();
        for (lane, most) in [(Lane::Live, live), (Lane::Backlog, backlog)] {
            let mut taken = 0;
            while taken < most {
                let Some((due, path)) = self.lane(lane).first().cloned() else {
                    break;
                };
                if due > now.mono {
                    break;
                }
                self.lane(lane).remove(&(due, path.clone()));
                let Some(slot) = self.slots.get_mut(&path) else {
                    continue;
                };
                if self.sources.contains_key(&path) {
                    slot.state = State::Held { due, parked: true };
                    continue;
                }
                slot.state = State::RUNNING;
                self.fresh[lane as usize] -= usize::from(slot.job.is_fresh());
                jobs.push(slot.job.clone());
                *self.running.entry(lane).or_default() += 1;
                taken += 1;
            }
        }
        jobs
    }

    /// Takes removals that are due; they are running from now on. Looks at everything that is due.
    pub fn pop_removals(&mut self, now: Now, most: usize) -> Vec<Job> {
        let is_due = |(due, path): &&(Instant, RelPath)| {
            let slot = self.slots.get(path);
            *due <= now.mono
                && !self.sources.contains_key(path)
                && slot.is_some_and(|slot| slot.job.remove)
        };
        let due: Vec<(Instant, RelPath)> = self
            .live
            .iter()
            .chain(&self.backlog)
            .filter(is_due)
            .take(most)
            .cloned()
            .collect();
        let mut jobs = Vec::with_capacity(due.len());
        for (due, path) in due {
            let Some(slot) = self.slots.get_mut(&path) else {
                continue;
            };
            slot.state = State::RUNNING;
            let job = slot.job.clone();
            self.fresh[job.lane as usize] -= usize::from(job.is_fresh());
            self.lane(job.lane).remove(&(due, path));
            *self.running.entry(job.lane).or_default() += 1;
            jobs.push(job);
        }
        jobs
    }

    /// A running path was looked at, has so many bytes, and there is something to do.
    pub fn started(&mut self, path: &RelPath, size: u64) {
        if let Some(slot) = self.slots.get_mut(path)
            && let State::Running { is_started, .. } = &mut slot.state
        {
            *is_started = true;
            slot.job.size = size;
        }
    }

    /// Takes the end of a running path.
    pub fn finish(&mut self, path: &RelPath, end: End, now: Now, random: &mut fastrand::Rng) {
        let Some(Slot {
            mut job,
            state: State::Running { again, .. },
        }) = self.slots.remove(path)
        else {
            debug_assert!(false, "{path} ended without running");
            return;
        };
        if let Some(count) = self.running.get_mut(&job.lane) {
            *count -= 1;
        }
        let fresh = Job {
            lane: job.lane,
            size: job.size,
            ..Job::new(job.path.clone(), now)
        };
        let due = match end {
            End::Done | End::GivenUp => None,
            End::Again(due) | End::Grows(due) => {
                job = Job {
                    lane: Lane::Backlog,
                    is_check: true,
                    ..fresh.clone()
                };
                Some(due)
            }
            End::Moving(beginning) => {
                job.moves += 1;
                // What was seen for the first time is compared soon, however long it was waited for that.
                let is_first = beginning.is_some() && job.beginning.is_none();
                job.beginning = beginning.map(Box::new).or(job.beginning);
                let doublings = if is_first { 1 } else { job.moves.min(16) };
                let longer = self.settings.settle.max(Duration::from_millis(100));
                let pause = longer.saturating_mul(1 << doublings);
                Some(now.mono + pause.min(self.settings.max_wait))
            }
            End::Fresh(due) => {
                job.moves += 1;
                Some(due)
            }
            End::Failed => {
                job.failures += 1;
                let (base, cap) = (self.settings.retry_base, self.settings.retry_cap);
                Some(now.mono + backoff::pause(job.failures, base, cap, random))
            }
        };
        // What is to be removed is proven gone anew before each try.
        job.remove = false;
        let waits = matches!(end, End::Moving(_) | End::Fresh(_) | End::Failed);
        job.not_before = due.filter(|_| waits);
        // Failures beyond the bound are left to the next scan: their rows say that they are open.
        let due = due.filter(|_| end != End::Failed || self.slots.len() < LIVE_MOST);
        let Some((touch, first)) = again else {
            if let Some(due) = due {
                self.hold(job, due);
            }
            return;
        };
        // Touched while it ran: it is looked at once more, whatever was found.
        match end {
            End::Done | End::GivenUp | End::Again(_) => {
                job = Job {
                    since: first,
                    ..fresh
                };
            }
            // Else what took long to send would be due at once.
            End::Grows(_) => job = fresh,
            End::Moving(_) | End::Fresh(_) | End::Failed => {}
        }
        job.told(touch);
        let quiet = self.quiet_at(touch, job.since, now);
        if self.wakes(&job, touch, now) {
            job.not_before = None;
        }
        // What failed, or would not rest, keeps its pause.
        let due = job
            .not_before
            .map_or(quiet, |not_before| quiet.max(not_before));
        self.hold(job, due);
    }

    /// Makes every path that waits because it failed due now: the store is back.
    pub fn wake_failed(&mut self, now: Now) {
        let failed: Vec<Job> = self
            .held()
            .filter(|job| job.failures > 0)
            .cloned()
            .collect();
        for job in failed {
            self.remove_held(&job.path);
            self.hold(
                Job {
                    not_before: None,
                    ..job
                },
                now.mono,
            );
        }
    }

    /// Makes the failed path that is due first due now, to try whether the store is back. Returns false if none waits.
    pub fn wake_one(&mut self, now: Now) -> bool {
        let has_failed = |path: &RelPath| {
            self.slots
                .get(path)
                .is_some_and(|slot| slot.job.failures > 0)
        };
        let held = self
            .live
            .iter()
            .chain(&self.backlog)
            .filter(|(_, path)| has_failed(path));
        let Some(job) = held
            .min()
            .and_then(|(_, path)| self.slots.get(path))
            .map(|slot| slot.job.clone())
        else {
            return false;
        };
        self.remove_held(&job.path);
        self.hold(job, now.mono);
        true
    }

    fn held(&self) -> impl Iterator<Item = &Job> {
        let held = |slot: &&Slot| matches!(slot.state, State::Held { .. });
        self.slots.values().filter(held).map(|slot| &slot.job)
    }

    /// Returns true if a touch ends the pause of a path that was found moving: the writer that was in the way has closed
    /// it. One that has not rested for so long keeps its pause, or every close would be a try.
    fn wakes(&self, job: &Job, touch: Touch, now: Now) -> bool {
        let is_overdue = now.mono >= job.since.mono + self.settings.max_wait;
        touch == Touch::Closed && job.failures == 0 && !is_overdue
    }

    /// When a path is due that is taken in.
    fn first_due(&self, path: &RelPath, touch: Touch, since: Now, now: Now) -> Instant {
        let due = self.quiet_at(touch, since, now);
        if touch == Touch::Scan {
            due + self.lets_others_go_first(path)
        } else {
            due
        }
    }

    fn quiet_at(&self, touch: Touch, since: Now, now: Now) -> Instant {
        let quiet = match touch {
            Touch::Scan => return now.mono,
            Touch::Meta | Touch::Data => self.settings.settle,
            // The writer has let go of it; only a rename or a second writer is waited for.
            Touch::Moved | Touch::Closed => self.settings.settle / 5,
        };
        (now.mono + quiet)
            .min(since.mono + self.settings.max_wait)
            .max(now.mono)
    }

    fn hold(&mut self, job: Job, due: Instant) {
        self.lane(job.lane).insert((due, job.path.clone()));
        self.fresh[job.lane as usize] += usize::from(job.is_fresh());
        self.slots.insert(
            job.path.clone(),
            Slot {
                job,
                state: State::Held { due, parked: false },
            },
        );
    }

    fn remove_held(&mut self, path: &RelPath) {
        if let Some(Slot {
            job,
            state: State::Held { due, .. },
        }) = self.slots.remove(path)
        {
            self.fresh[job.lane as usize] -= usize::from(job.is_fresh());
            self.lane(job.lane).remove(&(due, job.path));
        }
    }

    fn lane(&mut self, lane: Lane) -> &mut BTreeSet<(Instant, RelPath)> {
        match lane {
            Lane::Live => &mut self.live,
            Lane::Backlog => &mut self.backlog,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::stat::Stat;
    use crate::tree::Beginning;

    const SETTLE: Duration = Duration::from_secs(1);

    struct Bench {
        queue: Queue,
        now: Now,
        random: fastrand::Rng,
    }

    fn bench() -> Bench {
        let settings = Settings {
            settle: SETTLE,
            max_wait: SETTLE * 10,
            retry_base: SETTLE,
            retry_cap: SETTLE * 300,
        };
        let now = crate::base::clock::Clock::Real.now();
        Bench {
            queue: Queue::new(settings),
            now,
            random: fastrand::Rng::with_seed(7),
        }
    }

    fn path(name: &str) -> RelPath {
        RelPath::new(name.as_bytes()).expect("a valid path")
    }

    impl Bench {
        fn touch(&mut self, name: &str, touch: Touch) {
            assert!(self.queue.touch(path(name), touch, 1, self.now));
        }
        fn wait(&mut self, by: Duration) {
            self.now = self.now.plus(by);
        }
        fn pop(&mut self) -> Vec<String> {
            self.queue
                .pop_due(self.now, 9, 9)
                .iter()
                .map(|job| job.path.to_string())
                .collect()
        }
        fn hold(&mut self, name: &str) -> bool {
            self.queue.hold_source(&path(name), self.now) == Hold::Granted
        }
        fn finish(&mut self, name: &str, end: End) {
            self.queue
                .finish(&path(name), end, self.now, &mut self.random);
        }
    }

    #[test]
    fn a_watched_path_is_due_when_it_has_been_quiet() {
        let mut b = bench();
        b.touch("a", Touch::Data);
        b.wait(SETTLE / 2);
        b.touch("a", Touch::Data);
        b.wait(SETTLE * 9 / 10);
        assert!(b.pop().is_empty());
        b.wait(SETTLE / 10);
        assert_eq!(b.pop(), ["a"]);
        assert!(b.pop().is_empty());
    }

    #[test]
    fn a_close_shortens_the_quiet_time() {
        let mut b = bench();
        b.touch("a", Touch::Data);
        b.touch("a", Touch::Closed);
        b.wait(SETTLE / 5);
        assert_eq!(b.pop(), ["a"]);
    }

    #[test]
    fn a_path_that_never_rests_is_due_after_the_longest_wait() {
        let mut b = bench();
        for _ in 0..19 {
            b.touch("a", Touch::Data);
            b.wait(SETTLE / 2);
            assert!(b.pop().is_empty());
        }
        b.touch("a", Touch::Data);
        b.wait(SETTLE / 2);
        assert_eq!(b.pop(), ["a"]);
    }

    #[test]
    fn what_a_scan_found_is_due_at_once_and_after_live() {
        let mut b = bench();
        b.touch("scan", Touch::Scan);
        assert_eq!(b.pop(), ["scan"]);
        b.touch("z", Touch::Meta);
        b.wait(SETTLE);
        b.touch("a", Touch::Scan);
        assert_eq!(b.pop(), ["z", "a"]);
    }

    #[test]
    fn a_touch_while_running_runs_again_and_reads() {
        let mut b = bench();
        b.touch("a", Touch::Scan);
        b.pop();
        b.touch("a", Touch::Data);
        assert!(b.pop().is_empty());
        b.finish("a", End::Done);
        assert!(b.pop().is_empty());
        b.wait(SETTLE);
        let jobs = b.queue.pop_due(b.now, 9, 9);
        assert!(jobs[0].must_read && jobs[0].lane == Lane::Live);
        b.finish("a", End::Done);
        assert!(b.queue.is_empty());
    }

    #[test]
    fn what_a_scan_sees_of_a_running_path_is_looked_at_again() {
        let mut b = bench();
        b.touch("a", Touch::Scan);
        b.pop();
        b.touch("a", Touch::Scan);
        b.finish("a", End::Done);
        assert_eq!(b.pop(), ["a"]);
    }

    #[test]
    fn a_failure_waits_longer_each_time_and_a_success_forgets_it() {
        let mut b = bench();
        b.touch("a", Touch::Scan);
        let mut last = Duration::ZERO;
        for _ in 0..6 {
            assert_eq!(b.pop(), ["a"]);
            b.finish("a", End::Failed);
            let pause = b.queue.next_due(Lane::Backlog).expect("held") - b.now.mono;
            assert!(pause >= last / 2 && pause >= SETTLE / 2, "{pause:?}");
            last = pause;
            b.wait(pause);
        }
        assert!(last > SETTLE * 10);
        assert_eq!(b.queue.jobs().next().expect("one").failures, 6);
        b.pop();
        b.finish("a", End::Done);
        assert!(b.queue.is_empty());
    }

    #[test]
    fn a_moving_path_waits_longer_each_time() {
        let mut b = bench();
        b.touch("a", Touch::Scan);
        for expected in [2, 4, 8, 10, 10] {
            b.pop();
            b.finish("a", End::Moving(None));
            let pause = b.queue.next_due(Lane::Backlog).expect("held") - b.now.mono;
            assert_eq!(pause, SETTLE * expected);
            b.wait(pause);
        }
    }

    #[test]
    fn what_a_file_began_with_is_compared_soon_the_first_time_only() {
        let mut b = bench();
        b.touch("a", Touch::Scan);
        let beginning = Some(Beginning {
            stat: Stat::NONE,
            read_at_ns: 0,
            sha256: None,
        });
        for (seen, expected) in [(None, 2), (None, 4), (beginning, 2), (beginning, 10)] {
            b.pop();
            b.finish("a", End::Moving(seen));
            let pause = b.queue.next_due(Lane::Backlog).expect("held") - b.now.mono;
            assert_eq!(pause, SETTLE * expected);
            b.wait(pause);
        }
        let jobs = b.queue.pop_due(b.now, 9, 9);
        assert_eq!(jobs[0].beginning.as_deref(), beginning.as_ref());
    }

    #[test]
    fn a_database_settles_with_what_is_beside_it() {
        let mut b = bench();
        b.touch("db", Touch::Data);
        b.touch("other", Touch::Data);
        b.wait(SETTLE / 2);
        // The log is still written to: neither is read.
        b.touch("db-wal", Touch::Data);
        b.wait(SETTLE / 2);
        assert_eq!(b.pop(), ["other"]);
        b.wait(SETTLE / 2);
        assert_eq!(b.pop(), ["db", "db-wal"]);
        // Nothing keeps them from being read for longer than the longest wait.
        let mut b = bench();
        b.touch("db", Touch::Data);
        let start = b.now.mono;
        while b.now.mono < start + SETTLE * 10 {
            b.touch("db-wal", Touch::Data);
            assert!(b.pop().is_empty());
            b.wait(SETTLE / 2);
        }
        assert_eq!(b.pop(), ["db", "db-wal"]);
        // A close shortens the wait of all only as far as the others allow.
        let mut b = bench();
        b.touch("db-wal", Touch::Data);
        b.touch("db", Touch::Closed);
        b.wait(SETTLE / 5);
        assert!(b.pop().is_empty());
        b.wait(SETTLE);
        assert_eq!(b.pop(), ["db", "db-wal"]);
    }

    #[test]
    fn what_goes_on_growing_is_waited_for_as_long_as_before() {
        for (end, is_overdue) in [
            (End::Grows as fn(Instant) -> End, false),
            (End::Again, true),
        ] {
            let mut b = bench();
            b.touch("a", Touch::Data);
            b.wait(SETTLE);
            b.pop();
            b.touch("a", Touch::Data);
            // It took that long to be sent.
            b.wait(SETTLE * 10);
            b.finish("a", end(b.now.mono + SETTLE));
            b.wait(SETTLE / 2);
            b.touch("a", Touch::Data);
            assert_eq!(b.pop() == ["a"], is_overdue);
        }
    }

    #[test]
    fn touches_do_not_shorten_the_pause_of_what_failed_or_would_not_rest() {
        for end in [End::Failed, End::Moving(None)] {
            let mut b = bench();
            b.touch("a", Touch::Data);
            b.wait(SETTLE * 20);
            b.pop();
            b.touch("a", Touch::Data);
            b.finish("a", end);
            b.touch("a", Touch::Closed);
            b.wait(SETTLE * 2 / 5);
            assert!(b.pop().is_empty(), "{end:?}");
            b.wait(SETTLE * 2);
            assert_eq!(b.pop(), ["a"], "{end:?}");
        }
    }

    #[test]
    fn a_close_ends_the_pause_of_a_path_that_was_found_moving() {
        let mut b = bench();
        b.touch("a", Touch::Scan);
        b.pop();
        b.finish("a", End::Moving(None));
        b.wait(SETTLE * 2);
        b.pop();
        b.finish("a", End::Moving(None));
        // Four times the settle time from here on, if nothing but writes comes.
        b.touch("a", Touch::Data);
        b.wait(SETTLE);
        assert!(b.pop().is_empty());
        b.touch("a", Touch::Closed);
        b.wait(SETTLE / 5);
        assert_eq!(b.pop(), ["a"]);
        // And one that comes while the job runs.
        b.touch("a", Touch::Closed);
        b.finish("a", End::Moving(None));
        b.wait(SETTLE / 5);
        assert_eq!(b.pop(), ["a"]);
    }

    #[test]
    fn what_only_waits_to_be_checked_is_worked_on_when_a_scan_finds_it() {
        let mut b = bench();
        b.queue
            .hold_until(path("a"), b.now.mono + SETTLE * 900, b.now);
        assert!(b.queue.jobs().all(|job| job.is_check));
        b.touch("a", Touch::Scan);
        assert!(b.queue.jobs().all(|job| !job.is_check));
        assert_eq!(b.pop(), ["a"]);
    }

    #[test]
    fn paths_that_fail_do_not_fill_the_queue_for_a_scan() {
        let mut b = bench();
        for n in 0..BACKLOG_MOST {
            b.touch(&n.to_string(), Touch::Scan);
        }
        assert!(b.queue.is_full(Lane::Backlog));
        for job in b.queue.pop_due(b.now, 0, BACKLOG_MOST) {
            b.queue.finish(&job.path, End::Failed, b.now, &mut b.random);
        }
        assert_eq!(b.queue.len(), BACKLOG_MOST);
        assert!(!b.queue.is_full(Lane::Backlog));
    }

    #[test]
    fn the_source_of_a_copy_does_not_start() {
        let mut b = bench();
        assert!(b.hold("a"));
        assert!(b.hold("a"));
        b.touch("a", Touch::Scan);
        b.touch("b", Touch::Scan);
        assert_eq!(b.pop(), ["b"]);
        b.queue.release_source(&path("a"));
        assert!(b.pop().is_empty());
        b.queue.release_source(&path("a"));
        assert_eq!(b.pop(), ["a"]);
    }

    #[test]
    fn who_is_due_is_a_source_and_who_is_looked_at_may_be_one_afterwards() {
        let mut b = bench();
        b.touch("a", Touch::Scan);
        assert!(b.hold("a"), "its turn has not come");
        b.queue.release_source(&path("a"));
        assert_eq!(b.pop(), ["a"]);
        assert_eq!(b.queue.hold_source(&path("a"), b.now), Hold::Later);
        b.queue.started(&path("a"), 1);
        assert_eq!(b.queue.hold_source(&path("a"), b.now), Hold::Refused);
        b.finish("a", End::Done);
        assert!(b.hold("a"));
    }

    #[test]
    fn copies_without_end_do_not_put_off_what_is_due() {
        let mut b = bench();
        assert!(b.hold("a"));
        b.touch("a", Touch::Scan);
        assert!(b.pop().is_empty());
        assert!(b.hold("a"), "its turn has only just come");
        b.queue.release_source(&path("a"));
        b.wait(SETTLE * 2);
        assert_eq!(b.queue.hold_source(&path("a"), b.now), Hold::Refused);
        b.queue.release_source(&path("a"));
        assert_eq!(b.pop(), ["a"]);
    }

    #[test]
    fn a_touch_of_a_parked_source_is_not_lost() {
        let mut b = bench();
        assert!(b.hold("a"));
        b.touch("a", Touch::Scan);
        assert!(b.pop().is_empty());
        b.touch("a", Touch::Data);
        b.wait(SETTLE);
        assert!(b.pop().is_empty());
        b.queue.release_source(&path("a"));
        assert_eq!(b.pop(), ["a"]);
    }

    #[test]
    fn when_the_store_is_back_every_failed_path_is_due() {
        let mut b = bench();
        for name in ["a", "b", "c"] {
            b.touch(name, Touch::Scan);
        }
        b.pop();
        for name in ["a", "b", "c"] {
            b.finish(name, End::Failed);
        }
        assert!(b.pop().is_empty());
        assert!(b.queue.wake_one(b.now));
        assert_eq!(b.pop().len(), 1);
        b.queue.wake_failed(b.now);
        assert_eq!(b.pop().len(), 2);
    }

    #[test]
    fn a_full_queue_refuses_and_says_so() {
        let mut b = bench();
        for n in 0..LIVE_MOST {
            assert!(b.queue.touch(path(&n.to_string()), Touch::Meta, 0, b.now));
        }
        assert!(!b.queue.touch(path("more"), Touch::Meta, 0, b.now));
        assert!(
            b.queue.touch(path("7"), Touch::Data, 0, b.now),
            "a known path is always taken"
        );
    }

    #[test]
    fn random_use_never_runs_a_path_twice_and_loses_none() {
        for seed in 0..300 {
            let mut b = bench();
            b.random = fastrand::Rng::with_seed(seed);
            let names = ["a", "b", "c", "d"];
            let (mut running, mut sources) = (BTreeSet::new(), Vec::new());
            for _ in 0..200 {
                let (name, dice) = (names[b.random.usize(..4)], b.random.u32(..4));
                match b.random.u8(..6) {
                    0 => b.touch(name, Touch::Data),
                    1 => b.touch(name, Touch::Scan),
                    2 => {
                        for job in b.pop() {
                            assert!(
                                !sources.contains(&job),
                                "seed {seed}: a source was handed out"
                            );
                            assert!(running.insert(job), "seed {seed}: handed out twice");
                        }
                    }
                    3 if running.remove(name) => {
                        let ends = [End::Done, End::Moving(None), End::Failed];
                        b.finish(name, ends[dice as usize % 3]);
                    }
                    4 if b.hold(name) => sources.push(name.to_owned()),
                    4 if dice == 0 => b.queue.started(&path(name), 1),
                    4 | 3 => {}
                    _ => b.wait(SETTLE * dice),
                }
                for lane in [Lane::Live, Lane::Backlog] {
                    let fresh = b
                        .queue
                        .held()
                        .filter(|job| job.lane == lane && job.is_fresh());
                    assert_eq!(fresh.count(), b.queue.fresh[lane as usize], "seed {seed}");
                }
                if b.random.u8(..4) == 0
                    && let Some(source) = sources.pop()
                {
                    b.queue.release_source(&path(&source));
                }
            }
            for source in sources.drain(..) {
                b.queue.release_source(&path(&source));
            }
            for _ in 0..100 {
                b.wait(SETTLE * 400);
                for name in running.iter().cloned().collect::<Vec<_>>() {
                    b.finish(&name, End::Done);
                }
                running = b.pop().into_iter().collect();
            }
            assert!(b.queue.is_empty(), "seed {seed}: {:?}", b.queue);
        }
    }
}
