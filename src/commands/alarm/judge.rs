//! What is worth telling somebody who does not look: from where the folders are now and what was told before. (pure)
//!
//! A condition (an outage, a lag over its target, something held) is told when it is first seen and, where that can be said,
//! when it is over; what begins and ends between two tellings of its kind is not told at all. One kind of event of one
//! folder is told at most once in [`EVERY`]; what is still so afterwards is told then. A new process knows of nothing that
//! was told before it: what is wrong at its start is told again.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::base::clock::Now;
use crate::base::snapshot::FolderSnapshot;
use crate::base::units::show_duration;
use crate::report::drill_file::Drilled;

/// The shortest time between two events of one kind of one folder.
pub const EVERY: Duration = Duration::from_secs(15 * 60);
/// The shortest time between two words about the budget: an estimate goes to and fro.
pub const BUDGET_EVERY: Duration = Duration::from_secs(24 * 3600);

/// The kinds of events, in the words of the JSON contract.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The bucket or the folder itself cannot be used.
    OutageBegan,
    /// It can be used again.
    OutageEnded,
    /// The oldest change that is not in the bucket is older than `max_lag`.
    Late,
    /// It no longer is.
    OnTime,
    /// A brake holds deletes or overwrites for a person.
    Held,
    /// Files failed for good: they are left alone until they change, for a while.
    Parked,
    /// A restore drill did not bring back what it should.
    DrillFailed,
    /// The month's requests have passed the budget, or will; of no single folder.
    OverBudget,
}

impl Kind {
    /// Returns the word of the contract.
    pub fn word(self) -> &'static str {
        match self {
            Self::OutageBegan => "outage_began",
            Self::OutageEnded => "outage_ended",
            Self::Late => "late",
            Self::OnTime => "on_time",
            Self::Held => "held",
            Self::Parked => "parked",
            Self::DrillFailed => "drill_failed",
            Self::OverBudget => "over_budget",
        }
    }
}

/// Something to tell of one folder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// What.
    pub kind: Kind,
    /// The folder's name; empty for what is of none.
    pub folder: String,
    /// What happened, a line for people.
    pub text: String,
}

/// What was told of one folder.
#[derive(Default)]
struct Told {
    last: BTreeMap<Kind, Instant>,
    outage: bool,
    /// When the outage that was told began, wall clock, nanoseconds.
    outage_since_ns: Option<i64>,
    late: bool,
    held: u64,
    parked: u64,
    drill_at_ns: i64,
}

/// Where everything is now.
#[derive(Debug)]
pub struct Seen<'a> {
    /// The folders.
    pub folders: &'a [FolderSnapshot],
    /// The last drills, by the folder's URL.
    pub drills: &'a BTreeMap<String, Drilled>,
    /// What is said of a budget that is passed, or about to be.
    pub over: Option<String>,
}

/// Remembers what was told.
#[derive(Default)]
pub struct Judge {
    folders: BTreeMap<String, Told>,
    is_over: bool,
    over_at: Option<Instant>,
}

impl Judge {
    /// Returns what is to be told now.
    pub fn look(&mut self, seen: &Seen<'_>, now: Now) -> Vec<Event> {
        let Seen {
            folders, drills, ..
        } = seen;
        let (wall_ns, now) = (now.wall_ns, now.mono);
        self.folders
            .retain(|name, _| folders.iter().any(|folder| folder.name == *name));
        let mut events: Vec<_> = self.budget(seen.over.as_ref(), now).into_iter().collect();
        for folder in *folders {
            let told = self.folders.entry(folder.name.clone()).or_default();
            let mut tell = |kind, text| {
                events.push(Event {
                    kind,
                    folder: folder.name.clone(),
                    text,
                });
            };
            told.outage(folder, now, wall_ns, &mut tell);
            told.lag(folder, now, &mut tell);
            told.held(folder, now, &mut tell);
            told.parked(folder, now, &mut tell);
            if let Some(drilled) = drills.get(&folder.to) {
                told.drill(drilled, now, &mut tell);
            }
        }
        events
    }

    fn budget(&mut self, over: Option<&String>, now: Instant) -> Option<Event> {
        let Some(text) = over else {
            self.is_over = false;
            return None;
        };
        let is_early = self.over_at.is_some_and(|at| now < at + BUDGET_EVERY);
        if self.is_over || is_early {
            return None;
        }
        (self.is_over, self.over_at) = (true, Some(now));
        Some(Event {
            kind: Kind::OverBudget,
            folder: String::new(),
            text: text.clone(),
        })
    }
}

impl Told {
    /// Returns true, and notes it, if an event of this kind may be told now.
    fn may(&mut self, kind: Kind, now: Instant) -> bool {
        let is_early = |at: &Instant| now < *at + EVERY;
        if self.last.get(&kind).is_some_and(is_early) {
            return false;
        }
        self.last.insert(kind, now);
        true
    }

    fn outage(
        &mut self,
        folder: &FolderSnapshot,
        now: Instant,
        wall_ns: i64,
        tell: &mut impl FnMut(Kind, String),
    ) {
        let outage = folder
            .outage
            .as_ref()
            .map(|(since, why)| (Some(*since), why));
        let trouble = outage.or(folder.away.as_ref().map(|why| (None, why)));
        match trouble {
            Some((since_ns, why)) if !self.outage && self.may(Kind::OutageBegan, now) => {
                (self.outage, self.outage_since_ns) = (true, since_ns);
                tell(Kind::OutageBegan, format!("cannot be kept level: {why}"));
            }
            None if self.outage && self.may(Kind::OutageEnded, now) => {
                self.outage = false;
                let took = self.outage_since_ns.take().map(|since_ns| {
                    let ns = u64::try_from(wall_ns.saturating_sub(since_ns)).unwrap_or(0);
                    format!(" after {}", show_duration(Duration::from_nanos(ns)))
                });
                let took = took.unwrap_or_default();
                tell(Kind::OutageEnded, format!("works again{took}"));
            }
            _ => {}
        }
    }

    fn lag(&mut self, folder: &FolderSnapshot, now: Instant, tell: &mut impl FnMut(Kind, String)) {
        let show = |seconds| show_duration(Duration::from_secs(seconds));
        let target = show(folder.max_lag_seconds);
        match (folder.is_late(), self.late) {
            (true, false) if self.may(Kind::Late, now) => {
                self.late = true;
                let (lag, files) = (show(folder.lag_seconds), folder.queued_files);
                tell(
                    Kind::Late,
                    format!(
                        "is {lag} behind its bucket, more than {target}; files that wait: {files}"
                    ),
                );
            }
            (false, true) if self.may(Kind::OnTime, now) => {
                self.late = false;
                tell(
                    Kind::OnTime,
                    format!("is within {target} of its bucket again"),
                );
            }
            _ => {}
        }
    }

    fn held(&mut self, folder: &FolderSnapshot, now: Instant, tell: &mut impl FnMut(Kind, String)) {
        // More than was told is told; fewer is somebody's work on it.
        if folder.held > self.held {
            if self.may(Kind::Held, now) {
                self.held = folder.held;
                tell(
                    Kind::Held,
                    format!(
                        "a brake holds deletes or overwrites: {}; look at them with `tidewatch held list`",
                        folder.held
                    ),
                );
            }
        } else {
            self.held = folder.held;
        }
    }

    fn parked(
        &mut self,
        folder: &FolderSnapshot,
        now: Instant,
        tell: &mut impl FnMut(Kind, String),
    ) {
        if folder.parked > self.parked {
            if self.may(Kind::Parked, now) {
                self.parked = folder.parked;
                tell(
                    Kind::Parked,
                    format!(
                        "has files that failed for good and are left alone for now: {}; see `tidewatch status`",
                        folder.parked
                    ),
                );
            }
        } else {
            self.parked = folder.parked;
        }
    }

    fn drill(&mut self, drilled: &Drilled, now: Instant, tell: &mut impl FnMut(Kind, String)) {
        if drilled.ok || drilled.at_ns == self.drill_at_ns {
            return;
        }
        if self.may(Kind::DrillFailed, now) {
            self.drill_at_ns = drilled.at_ns;
            let why = drilled.error.as_ref().or(drilled.wrong.first());
            let why = why.map_or("see the log", String::as_str);
            tell(Kind::DrillFailed, format!("a restore drill failed: {why}"));
        }
    }
}

/// Returns whether all is well, as the heartbeat says it: every folder is looked after, none is late or in trouble, and
/// nothing is `stuck`: a loop that hangs would say for ever what it said last.
pub fn is_well(folders: &[FolderSnapshot], stuck: Option<&str>) -> bool {
    !folders.is_empty()
        && stuck.is_none()
        && folders
            .iter()
            .all(|folder| folder.begun && !folder.is_late() && folder.away.is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Table {
        judge: Judge,
        start: Now,
        drills: BTreeMap<String, Drilled>,
        over: Option<String>,
    }

    impl Table {
        fn new() -> Self {
            Self {
                judge: Judge::default(),
                start: crate::base::clock::Clock::Real.now(),
                drills: BTreeMap::new(),
                over: None,
            }
        }

        fn at(&mut self, minute: u64, folder: &FolderSnapshot) -> Vec<Kind> {
            let now = self.start.plus(Duration::from_secs(60 * minute));
            let seen = Seen {
                folders: std::slice::from_ref(folder),
                drills: &self.drills,
                over: self.over.clone(),
            };
            let events = self.judge.look(&seen, now);
            events.iter().map(|event| event.kind).collect()
        }
    }

    fn fine() -> FolderSnapshot {
        FolderSnapshot {
            name: "a".to_owned(),
            to: "s3://b/".to_owned(),
            begun: true,
            level: true,
            max_lag_seconds: 60,
            ..FolderSnapshot::default()
        }
    }

    fn late() -> FolderSnapshot {
        FolderSnapshot {
            level: false,
            lag_seconds: 61,
            ..fine()
        }
    }

    #[test]
    fn a_lag_over_its_target_is_told_once_and_when_it_is_over() {
        let mut table = Table::new();
        assert_eq!(table.at(0, &fine()), []);
        assert_eq!(table.at(1, &late()), [Kind::Late]);
        assert_eq!(table.at(2, &late()), []);
        assert_eq!(table.at(3, &fine()), [Kind::OnTime]);
        // To and fro is told a quarter of an hour after the last of its kind, if it is still so.
        assert_eq!(table.at(4, &late()), []);
        assert_eq!(table.at(15, &late()), []);
        assert_eq!(table.at(16, &late()), [Kind::Late]);
        assert_eq!(table.at(17, &fine()), []);
        assert_eq!(table.at(18, &fine()), [Kind::OnTime]);
    }

    #[test]
    fn an_outage_is_told_with_its_reason_and_its_end_with_its_length() {
        let mut judge = Judge::default();
        let start = crate::base::clock::Clock::Real.now();
        let drills = BTreeMap::new();
        let mut look = |folder: FolderSnapshot, now: Now| {
            let seen = Seen {
                folders: &[folder],
                drills: &drills,
                over: None,
            };
            judge.look(&seen, now)
        };
        let out = FolderSnapshot {
            outage: Some((start.wall_ns, "no route".to_owned())),
            ..fine()
        };
        let events = look(out, start);
        assert_eq!(events[0].kind, Kind::OutageBegan);
        assert!(events[0].text.ends_with("no route"));
        let events = look(fine(), start.plus(Duration::from_secs(90)));
        assert_eq!(events[0].kind, Kind::OutageEnded);
        assert!(events[0].text.ends_with("after 1m 30s"));
    }

    #[test]
    fn a_root_that_is_away_is_an_outage_too() {
        let mut table = Table::new();
        let away = FolderSnapshot {
            away: Some("the disk is gone".to_owned()),
            ..fine()
        };
        assert_eq!(table.at(0, &away), [Kind::OutageBegan]);
        assert_eq!(table.at(1, &fine()), [Kind::OutageEnded]);
    }

    #[test]
    fn what_is_held_is_told_again_only_when_it_grows() {
        let mut table = Table::new();
        let held = |held| FolderSnapshot { held, ..fine() };
        assert_eq!(table.at(0, &held(5)), [Kind::Held]);
        assert_eq!(table.at(20, &held(5)), []);
        assert_eq!(table.at(21, &held(3)), []);
        assert_eq!(table.at(22, &held(4)), [Kind::Held]);
        assert_eq!(table.at(23, &held(9)), []);
        assert_eq!(table.at(37, &held(9)), [Kind::Held]);
    }

    #[test]
    fn files_that_failed_for_good_are_told_when_there_are_more() {
        let mut table = Table::new();
        let parked = |parked| FolderSnapshot { parked, ..fine() };
        assert_eq!(table.at(0, &parked(1)), [Kind::Parked]);
        assert_eq!(table.at(20, &parked(1)), []);
        assert_eq!(table.at(21, &parked(2)), [Kind::Parked]);
    }

    #[test]
    fn a_budget_is_told_of_once_and_an_estimate_that_goes_to_and_fro_once_a_day() {
        let mut table = Table::new();
        table.over = Some("too much".to_owned());
        assert_eq!(table.at(0, &fine()), [Kind::OverBudget]);
        assert_eq!(table.at(2000, &fine()), []);
        table.over = None;
        assert_eq!(table.at(2001, &fine()), []);
        table.over = Some("too much".to_owned());
        assert_eq!(table.at(2002, &fine()), [Kind::OverBudget]);
        table.over = None;
        assert_eq!(table.at(2003, &fine()), []);
        table.over = Some("too much".to_owned());
        assert_eq!(table.at(2004, &fine()), []);
        assert_eq!(table.at(2002 + 24 * 60, &fine()), [Kind::OverBudget]);
    }

    #[test]
    fn each_drill_that_fails_is_told_once() {
        let mut table = Table::new();
        let failed = |at_ns| Drilled {
            at_ns,
            ok: false,
            ..Drilled::default()
        };
        table.drills.insert("s3://b/".to_owned(), failed(1));
        assert_eq!(table.at(0, &fine()), [Kind::DrillFailed]);
        assert_eq!(table.at(20, &fine()), []);
        table.drills.insert("s3://b/".to_owned(), failed(2));
        assert_eq!(table.at(21, &fine()), [Kind::DrillFailed]);
        let well = Drilled {
            ok: true,
            ..failed(3)
        };
        table.drills.insert("s3://b/".to_owned(), well);
        assert_eq!(table.at(60, &fine()), []);
    }

    #[test]
    fn a_folder_that_went_is_forgotten() {
        let mut table = Table::new();
        assert_eq!(table.at(0, &late()), [Kind::Late]);
        let other = FolderSnapshot {
            name: "b".to_owned(),
            ..fine()
        };
        assert_eq!(table.at(1, &other), []);
        assert_eq!(table.at(2, &late()), [Kind::Late]);
    }

    #[test]
    fn the_heart_beats_only_while_every_folder_is_looked_after_and_none_is_late() {
        assert!(is_well(&[fine()], None));
        assert!(!is_well(&[fine()], Some("its loop does not answer")));
        assert!(!is_well(&[], None));
        assert!(!is_well(&[fine(), late()], None));
        let new = FolderSnapshot {
            begun: false,
            ..fine()
        };
        assert!(!is_well(&[new], None));
        let behind = FolderSnapshot {
            level: false,
            lag_seconds: 59,
            ..fine()
        };
        assert!(is_well(&[behind], None));
    }
}
