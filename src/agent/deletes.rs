//! Rows whose files are missing, from the first listing without them to the removal of their objects.
//!
//! A delete needs proof of absence: two clean listings without the file, `settle` apart, under the root that is on record.
//! Then it waits until everything that was known by then has been worked on, so that what was renamed has its copy before
//! the old object goes. Then the brake is asked, about all that are ready at once; what it holds waits for a person, in
//! the manifest. Deletes whose content is safe under another key are renames and are not counted.
//!
//! Bound: so many missing paths are remembered; the others are found by the next scan. Never removes anything itself: what
//! may go is a job like any other.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::agent::weigh::{Missing, Weigh, Weighed};
use crate::agent::{Loop, Mode, Pending, Then};
use crate::base::backoff;
use crate::base::clock::Now;
use crate::base::path::RelPath;
use crate::base::policy::{Brake as Limit, OnDelete};
use crate::base::snapshot::What;
use crate::manifest::{Change, HeldCounts};
use crate::sync::brake::{Brake, Verdict};
use crate::sync::queue::End;
use crate::tree::scan::Depth;

/// Why a brake holds deletes, unless the folder is empty.
const TOO_MANY: &str = "more than the delete brake allows";
/// Missing paths remembered at most.
const MISSING_MOST: usize = 100_000;
/// Paths weighed in one turn: each asks the disk and the manifest a few times.
const WEIGHED_AT_ONCE: usize = 500;
/// Paths that could not be stored yet and are compared with the missing ones, at most.
const UNSETTLED_MOST: usize = 10_000;
/// How soon a missing file is looked for again whose new name could not be stored yet.
const UNSETTLED: Duration = Duration::from_secs(15);
/// The first and the longest pause before an object is to be removed again that could not be.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// How long a decision waits for what may still belong to it.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) struct Deletes {
    policy: OnDelete,
    settle: Duration,
    missing: BTreeMap<RelPath, Absence>,
    /// How many of them are in each stage.
    count: [usize; 4],
    /// Folders that are listed once more, and when.
    confirm: BTreeMap<RelPath, Instant>,
    /// More were missing than are remembered: they are to be found again.
    has_more: bool,
    brake: Brake,
    /// Files in the bucket, when they were last counted.
    known: u64,
    root_is_empty: bool,
    /// How many are looked at in the turn under way.
    weighing: usize,
    /// How many rows a brake holds.
    pub held: HeldCounts,
    /// Why deletes were held last.
    pub why: &'static str,
    pub held_is_stale: bool,
}

struct Absence {
    /// When a listing first did not have it; after a failure, when it may be proven anew.
    first: Instant,
    /// When the last scan that did not find it began.
    seen: Instant,
    /// The folder whose listing did not have it.
    listed: RelPath,
    /// How often its object could not be removed.
    failures: u32,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// One listing did not have it.
    Once,
    /// Two did not.
    Proven(Instant),
    /// It was looked at, and may go; `counts`: it is no rename.
    Weighed { counts: bool },
    /// Its removal is in the queue.
    Going,
}

impl Stage {
    /// Its place in [`Deletes::count`].
    fn place(self) -> usize {
        match self {
            Self::Once => 0,
            Self::Proven(_) => 1,
            Self::Weighed { .. } => 2,
            Self::Going => 3,
        }
    }
}

impl Deletes {
    pub fn new(on_delete: OnDelete, brake: Option<Limit>, settle: Duration) -> Self {
        Self {
            policy: on_delete,
            settle,
            missing: BTreeMap::new(),
            count: [0; 4],
            confirm: BTreeMap::new(),
            has_more: false,
            brake: Brake::new(brake),
            known: 0,
            root_is_empty: false,
            weighing: 0,
            held: HeldCounts::default(),
            why: TOO_MANY,
            held_is_stale: true,
        }
    }

    fn keeps(&self) -> bool {
        self.policy == OnDelete::Keep
    }

    /// A path is there again, or its object has gone.
    pub fn is_back(&mut self, path: &RelPath) {
        if let Some(absence) = self.missing.remove(path) {
            self.count[absence.stage.place()] -= 1;
        }
    }

    /// A path's removal is not in the queue any more.
    pub fn is_not_going(&mut self, path: &RelPath) {
        if self
            .missing
            .get(path)
            .is_some_and(|absence| absence.stage == Stage::Going)
        {
            self.is_back(path);
        }
    }

    /// Returns how many objects are to go and have not gone.
    pub fn waiting(&self) -> u64 {
        self.missing.len() as u64
    }

    /// Returns true if no delete is on its way.
    pub fn is_done(&self) -> bool {
        self.missing.is_empty() && self.confirm.is_empty() && self.weighing == 0 && !self.has_more
    }

    pub fn next_at(&self) -> Option<Instant> {
        self.confirm.values().min().copied()
    }

    /// A scan that began at `started` did not find the file of a row in the listing of `listed`.
    fn found_missing(&mut self, path: RelPath, listed: RelPath, started: Instant, now: Now) {
        if let Some(absence) = self.missing.get_mut(&path) {
            absence.seen = started;
            if absence.stage != Stage::Once {
                return;
            }
            absence.listed.clone_from(&listed);
            let again = absence.first + self.settle;
            if started >= again {
                self.set(&path, Stage::Proven(now.mono));
            } else {
                self.confirm.entry(listed).or_insert(again);
            }
            return;
        }
        if self.missing.len() >= MISSING_MOST {
            self.has_more = true;
            return;
        }
        // Under `keep` nothing is removed, and one listing is enough to say that the file is gone.
        let stage = if self.keeps() {
            Stage::Proven(now.mono)
        } else {
            Stage::Once
        };
        if !self.keeps() {
            self.confirm
                .entry(listed.clone())
                .or_insert(now.mono + self.settle);
        }
        self.count[stage.place()] += 1;
        let (first, seen) = (now.mono, started);
        self.missing.insert(
            path,
            Absence {
                first,
                seen,
                listed,
                failures: 0,
                stage,
            },
        );
    }

    /// A scan of `folder` has ended: what it did not miss any more is there again.
    pub fn scanned(&mut self, folder: &RelPath, depth: Depth, started: Instant) {
        if self.count[Stage::Once.place()] == 0 {
            return;
        }
        let settle = self.settle;
        let is_back = |(path, absence): &(&RelPath, &Absence)| {
            let was_in_scope = if depth == Depth::Full {
                path.is_within(folder)
            } else {
                absence.listed == *folder
            };
            let is_stale = absence.first + settle <= started && absence.seen < started;
            absence.stage == Stage::Once && was_in_scope && is_stale
        };
        let back: Vec<RelPath> = self
            .missing
            .iter()
            .filter(is_back)
            .map(|(path, _)| path.clone())
            .collect();
        for path in back {
            self.is_back(&path);
        }
    }

    /// Takes what is to be weighed in the next turn: what was proven gone before everything that is still worked on.
    fn take(&mut self, before: Option<Instant>, looks: impl Fn(Instant) -> bool) -> Weigh {
        let keeps = self.keeps();
        let is_ready = |(_, absence): &(&RelPath, &Absence)| match absence.stage {
            Stage::Proven(at) => keeps || (before.is_none_or(|before| at < before) && !looks(at)),
            _ => false,
        };
        let paths: Vec<RelPath> = self
            .missing
            .iter()
            .filter(is_ready)
            .map(|(path, _)| path.clone())
            .take(WEIGHED_AT_ONCE)
            .collect();
        self.weighing = paths.len();
        let count_known = self.brake.needs_known(self.missing.len() as u64);
        Weigh {
            paths,
            count_known,
            ..Weigh::default()
        }
    }

    /// Returns what is ready to be decided about; empty while more may belong to it.
    fn ready(&self, now: Now) -> Vec<(RelPath, bool)> {
        let [once, proven, weighed, _] = self.count;
        if weighed == 0 || proven > 0 || self.weighing > 0 {
            return Vec::new();
        }
        let mut ready = Vec::with_capacity(weighed);
        let mut oldest = now.mono;
        for (path, absence) in &self.missing {
            if let Stage::Weighed { counts } = absence.stage {
                oldest = oldest.min(absence.first);
                ready.push((path.clone(), counts));
            }
        }
        // Files that go one after the other for ever are not waited for.
        if once > 0 && oldest + self.settle + PATIENCE > now.mono {
            ready.clear();
        }
        ready
    }

    /// Nothing was found out, and nothing was counted.
    pub fn turn_failed(&mut self) {
        (self.weighing, self.held_is_stale) = (0, true);
    }

    fn set(&mut self, path: &RelPath, stage: Stage) {
        if let Some(absence) = self.missing.get_mut(path) {
            self.count[absence.stage.place()] -= 1;
            self.count[stage.place()] += 1;
            absence.stage = stage;
        }
    }
}

impl Loop {
    /// Takes the rows that a scan found without their files.
    pub(super) fn found_missing(
        &mut self,
        missing: Vec<(RelPath, RelPath)>,
        started: Now,
        now: Now,
    ) {
        for (path, listed) in missing {
            self.deletes.found_missing(path, listed, started.mono, now);
        }
    }

    /// Has folders listed once more when it is time.
    pub(super) fn start_confirming(&mut self, now: Now) {
        let is_due = |_: &RelPath, at: &mut Instant| *at <= now.mono;
        let due: Vec<RelPath> = self
            .deletes
            .confirm
            .extract_if(.., is_due)
            .map(|(folder, _)| folder)
            .collect();
        for folder in due {
            self.scans.want(folder, Depth::NewFolders, now);
        }
    }

    /// Returns what the next turn is to weigh: nothing before all that was known when its file was proven gone has been
    /// worked on.
    pub(super) fn take_missing(&mut self, now: Now) -> Weigh {
        if self.deletes.count[1] == 0 {
            return Weigh::default();
        }
        let is_out = self.outage.is_on() && !self.outage.is_full();
        let waits = self.scans.away().is_some()
            || is_out
            || !self.contact.is_done()
            || !self.lease.is_held(now);
        if !self.deletes.keeps() && waits {
            return Weigh::default();
        }
        let mut unsettled = Vec::new();
        if !self.deletes.keeps() {
            // Where a file of theirs may be that has no object yet.
            let named = self.failing.keys().chain(self.unsyncable.keys()).cloned();
            let is_full = self.outage.is_full();
            unsettled = self.queue.unsettled(UNSETTLED_MOST, is_full);
            unsettled.extend(named.take(UNSETTLED_MOST));
            if unsettled.len() >= UNSETTLED_MOST {
                // Too many to be sure of any.
                return Weigh::default();
            }
        }
        // A full bucket takes nothing before there is room: what waits for that is only compared, file by file.
        let oldest = if self.outage.is_full() {
            None
        } else {
            self.queue.oldest_work()
        };
        let scans = &self.scans;
        let mut weigh = self.deletes.take(oldest, |at| scans.is_looking(at, now));
        weigh.unsettled = unsettled;
        weigh.away.clone_from(&self.mounts_away);
        weigh.mounts = self.mounts.iter().cloned().collect();
        weigh
    }

    /// Takes what a turn found out about missing files, and lets them go or not.
    pub(super) fn weighed(&mut self, weighed: Weighed, now: Now) {
        self.deletes.weighing = 0;
        if weighed.is_away {
            // A scan says what is wrong with the root, or finds it whole; at once, as nothing else keeps this from being
            // asked again and again.
            return self.scans.look_now(now);
        }
        if let Some(known) = weighed.known {
            self.deletes.known = known;
        }
        self.deletes.root_is_empty = weighed.root_is_empty;
        let found: Vec<_> = weighed.found.into_iter().collect();
        for (path, missing) in found {
            match missing {
                Missing::Settled { ambiguous_until_ns } => {
                    self.deletes.is_back(&path);
                    self.is_well(&path);
                    if let End::Again(due) = self.look_again(&path, ambiguous_until_ns, now) {
                        self.queue.hold_until(path, due, now);
                    }
                }
                Missing::Away => self.deletes.is_back(&path),
                Missing::Renamed { look_in } => {
                    self.deletes.is_back(&path);
                    if self.mode == Mode::Forever {
                        // Proven anew later, when the new name may have its object.
                        let again = now.mono + UNSETTLED;
                        self.deletes.confirm.entry(look_in).or_insert(again);
                    } else {
                        let why = "it has another name now, under which it could not be stored: its object stays";
                        self.cannot_sync(&path, why);
                    }
                }
                Missing::Gone { twins, released } => {
                    // A twin that is missing itself keeps nothing safe.
                    let is_missing = |twin: &RelPath| self.deletes.missing.contains_key(twin);
                    let is_safe =
                        !self.deletes.has_more && twins.iter().any(|twin| !is_missing(twin));
                    self.deletes.set(
                        &path,
                        Stage::Weighed {
                            counts: !released && !is_safe,
                        },
                    );
                }
            }
        }
    }

    /// Asks the brake about everything that is ready, and queues or holds it.
    pub(super) fn decide_deletes(&mut self, now: Now) {
        if self.deletes.missing.is_empty() && self.deletes.has_more {
            self.deletes.has_more = false;
            self.scans.look_now(now);
        }
        let mut ready = self.deletes.ready(now);
        // One that is looked at for another reason has its turn after that.
        ready.retain(|(path, _)| !self.queue.is_running(path));
        if ready.is_empty() {
            return;
        }
        let counted = ready.iter().filter(|(_, counts)| *counts).count() as u64;
        let asked = self
            .deletes
            .brake
            .ask(counted, self.deletes.known, now.mono);
        let holds = counted > 0 && (asked == Verdict::Hold || self.deletes.root_is_empty);
        if holds {
            let why = if self.deletes.root_is_empty {
                "the folder is empty"
            } else {
                TOO_MANY
            };
            self.deletes.why = why;
            tracing::warn!(folder = %self.teller.name(), files = counted,
                "deletes are held: {why}; see `tidewatch held list`, then release or drop them");
        }
        for (path, counts) in ready {
            if holds && counts {
                self.deletes.is_back(&path);
                self.deletes.held_is_stale = true;
                self.teller.tell(What::Held, &path, None, 0, None);
                let changes = vec![Change::HoldDelete(path, now.wall_ns)];
                self.pending.push_back(Pending {
                    changes,
                    then: Then::Nothing,
                });
            } else if self.queue.remove(&path, now) {
                self.deletes.set(&path, Stage::Going);
            }
        }
    }

    /// An object could not be removed: its file is proven gone anew before the next try.
    pub(super) fn not_removed(&mut self, path: &RelPath, end: End, now: Now) -> End {
        let Some(absence) = self.deletes.missing.get_mut(path) else {
            return end;
        };
        absence.failures += 1;
        if self.mode != Mode::Forever && absence.failures >= crate::agent::PATIENCE {
            self.deletes.is_back(path);
            return End::GivenUp;
        }
        let pause = backoff::pause(absence.failures, RETRY.0, RETRY.1, &mut self.random);
        absence.first = now.mono + pause;
        let listed = absence.listed.clone();
        let again = absence.first + self.deletes.settle;
        self.deletes.set(path, Stage::Once);
        self.deletes.confirm.entry(listed).or_insert(again);
        End::Done
    }

    /// Looks again at everything that a person has let go.
    pub(super) fn released(&mut self, paths: BTreeSet<RelPath>, now: Now) {
        self.deletes.held_is_stale = true;
        self.deletes.brake = self.deletes.brake.clone().reset();
        for path in paths {
            self.queue.touch(path, crate::tree::Touch::Scan, 0, now);
        }
    }
}
