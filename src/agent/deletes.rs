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
use crate::agent::{Loop, Pending, Then};
use crate::base::clock::Now;
use crate::base::path::RelPath;
use crate::base::policy::{Brake as Limit, OnDelete};
use crate::base::snapshot::What;
use crate::manifest::Change;
use crate::sync::brake::{Brake, Verdict};
use crate::sync::queue::End;
use crate::tree::scan::Depth;

/// Missing paths remembered at most.
const MISSING_MOST: usize = 100_000;
/// Paths weighed in one turn: each asks the disk and the manifest a few times.
const WEIGHED_AT_ONCE: usize = 500;
/// Paths that could not be stored yet and are compared with the missing ones, at most.
const UNSETTLED_MOST: usize = 10_000;
/// How soon a missing file is looked for again whose new name could not be stored yet.
const UNSETTLED: Duration = Duration::from_secs(15);
/// How long a decision waits for what may still belong to it.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) struct Deletes {
    policy: OnDelete,
    settle: Duration,
    missing: BTreeMap<RelPath, Absence>,
    /// Folders that are listed once more, and when.
    confirm: BTreeMap<RelPath, Instant>,
    brake: Brake,
    /// Files in the bucket, when they were last counted.
    known: u64,
    root_is_empty: bool,
    is_weighing: bool,
    /// How many rows a brake holds.
    pub held: u64,
    pub held_is_stale: bool,
}

struct Absence {
    /// When a listing first did not have it.
    first: Instant,
    /// When the last scan that did not find it began.
    seen: Instant,
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

impl Deletes {
    pub fn new(on_delete: OnDelete, brake: Option<Limit>, settle: Duration) -> Self {
        Self {
            policy: on_delete,
            settle,
            missing: BTreeMap::new(),
            confirm: BTreeMap::new(),
            brake: Brake::new(brake),
            known: 0,
            root_is_empty: false,
            is_weighing: false,
            held: 0,
            held_is_stale: true,
        }
    }

    fn keeps(&self) -> bool {
        self.policy == OnDelete::Keep
    }

    /// A path is there again, or its object has gone.
    pub fn is_back(&mut self, path: &RelPath) {
        self.missing.remove(path);
    }

    /// Returns how many objects are to go and have not gone.
    pub fn waiting(&self) -> u64 {
        self.missing.len() as u64
    }

    /// Returns true if no delete is on its way.
    pub fn is_done(&self) -> bool {
        self.missing.is_empty() && self.confirm.is_empty() && !self.is_weighing
    }

    pub fn next_at(&self) -> Option<Instant> {
        self.confirm.values().min().copied()
    }

    /// A scan that began at `started` did not find the file of a row in the listing of `listed`.
    fn found_missing(&mut self, path: RelPath, listed: RelPath, started: Instant, now: Now) {
        if let Some(absence) = self.missing.get_mut(&path) {
            absence.seen = started;
            if absence.stage == Stage::Once {
                if started >= absence.first + self.settle {
                    absence.stage = Stage::Proven(now.mono);
                } else {
                    self.confirm
                        .entry(listed)
                        .or_insert(absence.first + self.settle);
                }
            }
            return;
        }
        if self.missing.len() >= MISSING_MOST {
            return;
        }
        // Under `keep` nothing is removed, and one listing is enough to say that the file is gone.
        let stage = if self.keeps() {
            Stage::Proven(now.mono)
        } else {
            Stage::Once
        };
        if !self.keeps() {
            self.confirm.entry(listed).or_insert(now.mono + self.settle);
        }
        self.missing.insert(
            path,
            Absence {
                first: now.mono,
                seen: started,
                stage,
            },
        );
    }

    /// A scan of `folder` has ended: what it did not miss any more is there again.
    pub fn scanned(&mut self, folder: &RelPath, depth: Depth, started: Instant) {
        let settle = self.settle;
        self.missing.retain(|path, absence| {
            let was_in_scope = path.is_within(folder)
                && (depth == Depth::Full || path.parent().as_ref() == Some(folder));
            let is_stale = absence.stage == Stage::Once
                && absence.first + settle <= started
                && absence.seen < started;
            !(was_in_scope && is_stale)
        });
    }

    /// Takes what is to be weighed in the next turn.
    fn take(&mut self) -> Weigh {
        let is_proven =
            |(_, absence): &(&RelPath, &Absence)| matches!(absence.stage, Stage::Proven(_));
        let paths: Vec<RelPath> = self
            .missing
            .iter()
            .filter(is_proven)
            .map(|(path, _)| path.clone())
            .take(WEIGHED_AT_ONCE)
            .collect();
        self.is_weighing = !paths.is_empty();
        Weigh {
            paths,
            unsettled: Vec::new(),
            count_known: self.brake.needs_known(self.missing.len() as u64),
        }
    }

    /// Returns the latest proof of what has not been weighed yet.
    fn last_proof(&self) -> Option<Instant> {
        let proofs = self
            .missing
            .values()
            .filter_map(|absence| match absence.stage {
                Stage::Proven(at) => Some(at),
                _ => None,
            });
        proofs.max()
    }

    /// Returns what is ready to be decided about; empty while more may belong to it.
    fn ready(&self, now: Now) -> Vec<(RelPath, bool)> {
        let mut ready = Vec::new();
        let mut oldest = now.mono;
        let mut has_more = self.is_weighing;
        for (path, absence) in &self.missing {
            match absence.stage {
                Stage::Weighed { counts } => {
                    oldest = oldest.min(absence.first);
                    ready.push((path.clone(), counts));
                }
                Stage::Once | Stage::Proven(_) => has_more = true,
                Stage::Going => {}
            }
        }
        if has_more && oldest + self.settle + PATIENCE > now.mono {
            ready.clear();
        }
        ready
    }

    /// Nothing was found out, and nothing was counted.
    pub fn turn_failed(&mut self) {
        (self.is_weighing, self.held_is_stale) = (false, true);
    }

    fn set(&mut self, path: &RelPath, stage: Stage) {
        if let Some(absence) = self.missing.get_mut(path) {
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

    /// Returns what the next turn is to weigh: nothing before all that was known when the last file was proven gone has
    /// been worked on.
    pub(super) fn take_missing(&mut self) -> Weigh {
        let Some(proof) = self.deletes.last_proof() else {
            return Weigh::default();
        };
        let may_hide_a_name = self.scans.is_looking() || self.scans.away().is_some();
        let waits = self.queue.has_work_since(proof) || may_hide_a_name || self.outage.is_on();
        if !self.deletes.keeps() && (waits || !self.contact.is_done()) {
            return Weigh::default();
        }
        let mut weigh = self.deletes.take();
        if !self.deletes.keeps() {
            weigh.unsettled = self.queue.unsettled(UNSETTLED_MOST);
        }
        weigh
    }

    /// Takes what a turn found out about missing files, and lets them go or not.
    pub(super) fn weighed(&mut self, weighed: Weighed, now: Now) {
        self.deletes.is_weighing = false;
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
                Missing::Away => {
                    self.deletes.is_back(&path);
                    let why = "its filesystem is not mounted: the file is not taken for deleted";
                    self.cannot_sync(&path, why);
                }
                Missing::Renamed { look_in } => {
                    // Proven anew later, when the new name may have its object.
                    self.deletes.is_back(&path);
                    let again = now.mono + UNSETTLED;
                    self.deletes.confirm.entry(look_in).or_insert(again);
                }
                Missing::Gone { twins, released } => {
                    // A twin that is missing itself keeps nothing safe.
                    let is_safe = twins
                        .iter()
                        .any(|twin| !self.deletes.missing.contains_key(twin));
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
        if self.deletes.missing.is_empty() {
            return;
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
                "more than the delete brake allows"
            };
            tracing::warn!(folder = %self.teller.name(), files = counted,
                "deletes are held: {why}; see `tidewatch held list`, then release or drop them");
        }
        for (path, counts) in ready {
            if holds && counts {
                self.deletes.missing.remove(&path);
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

    /// Looks again at everything that a person has let go.
    pub(super) fn released(&mut self, paths: BTreeSet<RelPath>, now: Now) {
        self.deletes.held_is_stale = true;
        self.deletes.brake = self.deletes.brake.clone().reset();
        for path in paths {
            self.queue.touch(path, crate::tree::Touch::Scan, 0, now);
        }
    }
}
