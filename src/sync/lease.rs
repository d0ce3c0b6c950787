//! Who owns a prefix: what the lease object says, and what follows from seeing it.
//!
//! Format: `PREFIX/.tidewatch/lease.json`, one JSON object with the fields of [`Note`], written anew with each renewal. A lease
//! counts from when the store says that it was written, for as many seconds as it was taken for.
//!
//! Invariant: on a store that holds to conditions two agents never both believe to own a prefix. The owner stops
//! [`MARGIN`] before its lease is over by its own clocks, counted from before the request was sent; everybody else waits
//! [`GRAIN`] longer than it lasts, by the store's clock alone. No agent's own clock says anything about another's lease.
//!
//! Pure: never asks a store, never reads a clock.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::base::clock::rfc3339;
use crate::base::path::escaped;
use crate::store::features::Features;
use crate::store::{Object, When};

/// How long a lease is taken for while there is work.
pub const SHORT: Duration = Duration::from_secs(60);
/// How long it is taken for while there is none: each renewal is a request that somebody pays for.
pub const LONG: Duration = Duration::from_secs(600);
/// How much earlier than its lease an owner ends: answers are slow, and a store's clocks are several.
pub const MARGIN: Duration = Duration::from_secs(5);
/// How much longer than it lasts another's lease is respected: a store tells whole seconds, and two of them are compared.
pub const GRAIN: Duration = Duration::from_secs(2);

/// The format that is written, and the newest one that is understood.
const VERSION: u32 = 1;
/// The longest that any note is believed to last.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// How much of an agent's id people are shown.
const SHOWN: usize = 8;

/// What the lease object holds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Note {
    /// The version of the format.
    pub version: u32,
    /// The agent's id, which its state folder keeps.
    pub agent: String,
    /// The process: random, made at its start.
    pub epoch: String,
    /// Counts what this process has written here, so that no two notes are equal.
    pub turn: u64,
    /// Counts what all processes with the agent's state folder have written here; the state folder keeps it too. A state
    /// folder that knows less is an old copy. 0 from older versions.
    #[serde(default)]
    pub count: u64,
    /// The machine, for people.
    pub host: String,
    /// The process id, for people.
    pub pid: u32,
    /// The folder's name, for people.
    pub folder: String,
    /// The version of the program.
    pub tidewatch: String,
    /// How long it was taken for, seconds.
    pub seconds: u64,
    /// Whether it was given back.
    #[serde(default)]
    pub released: bool,
}

/// Who wants to own a prefix.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Owner {
    /// The agent's id, which its state folder keeps.
    pub agent: String,
    /// The process: random, made at its start.
    pub epoch: String,
    /// The machine, for people.
    pub host: String,
    /// The process id, for people.
    pub pid: u32,
    /// What it does about a living owner.
    pub manners: Manners,
}

/// What is done about a lease that another agent holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Manners {
    /// It is waited for.
    #[default]
    Wait,
    /// It is taken, once: a person has said so.
    TakeOver,
}

/// The lease object as an answer of the store showed it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    /// What it says; `None` if that cannot be read.
    pub note: Option<Note>,
    /// Its ETag.
    pub etag: String,
    /// How old it is by the store's clock; `None` where the store does not tell.
    pub age: Option<Duration>,
    /// When it was asked for, by the store's clock, nanoseconds since the epoch.
    pub date_ns: Option<i64>,
}

impl Seen {
    /// Reads an answer.
    pub fn of(object: &Object, bytes: &[u8]) -> Self {
        let age = object.date_ns.zip(object.modified_ns);
        Self {
            note: serde_json::from_slice(bytes).ok(),
            etag: object.etag.clone(),
            age: age.map(|(date_ns, modified_ns)| {
                // Written after it was asked for: by another clock of the same store.
                Duration::from_nanos(
                    u64::try_from(date_ns.saturating_sub(modified_ns)).unwrap_or(0),
                )
            }),
            date_ns: object.date_ns,
        }
    }

    /// How long it lasts from when it was written.
    fn lasts(&self) -> Duration {
        self.note
            .as_ref()
            .map_or(LONG, |note| Duration::from_secs(note.seconds).min(LONGEST))
    }
}

/// What an owner may do about what it saw.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It may write its own note, under this condition.
    Free {
        /// Only if the lease still is what was seen.
        when: When,
        /// The living owner from whom it is taken, if a person said so.
        from: Option<Holder>,
    },
    /// Another agent owns it.
    Taken(Holder),
}

/// Another owner, for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Holder {
    /// What it says of itself; `None` if that cannot be read.
    pub note: Option<Note>,
    /// How long its lease still lasts unless it is renewed, at most.
    pub left: Duration,
    /// Until when, by the store's clock, nanoseconds since the epoch; `None` where the store does not tell.
    pub until_ns: Option<i64>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |text: &str| escaped(text.as_bytes());
        match &self.note {
            Some(note) => write!(
                f,
                "host `{}` (process {}, folder `{}`, agent {})",
                shown(&note.host),
                note.pid,
                shown(&note.folder),
                shown(&note.agent.chars().take(SHOWN).collect::<String>()),
            )?,
            None => f.write_str("somebody whose note cannot be read")?,
        }
        write!(f, " for {} s more", self.left.as_secs())?;
        match self.until_ns {
            Some(until_ns) => write!(f, ", until {} by the store's clock", rfc3339(until_ns)),
            None => Ok(()),
        }
    }
}

/// How far a store's conditions are believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trust {
    /// It was found to hold to them.
    Known,
    /// Nobody has asked it: they are sent, and what came of them is looked at.
    Unknown,
    /// It was found to ignore or refuse them: the lease is advisory.
    None,
}

impl Trust {
    /// Says how far those of a store with these features are.
    pub fn of(features: &Features) -> Self {
        match (
            features.put_if_absent && features.put_if_match,
            features.is_known,
        ) {
            (true, _) => Self::Known,
            (false, true) => Self::None,
            (false, false) => Self::Unknown,
        }
    }
}

/// One owner's view of one lease.
#[derive(Clone, Debug)]
pub struct Claim {
    owner: Owner,
    folder: String,
    turn: u64,
    /// What was last seen, and since when by our own clock: for stores that tell no times.
    unchanged: Option<(String, Instant)>,
    /// Whether this process has owned it before.
    has_owned: bool,
    /// Whether a note of another agent was seen since that was last asked.
    follows: bool,
    /// What the state folder knows of [`Note::count`]; `None` if it was not asked.
    count: Option<u64>,
    /// Whether a note was seen since that was last asked that our own state folder wrote later than it remembers.
    is_behind: bool,
}

impl Claim {
    /// Begins one; `folder` is named to people.
    pub fn new(owner: Owner, folder: &str) -> Self {
        Self {
            owner,
            folder: folder.to_owned(),
            turn: 0,
            unchanged: None,
            has_owned: false,
            follows: false,
            count: None,
            is_behind: false,
        }
    }

    /// Takes what the state folder remembers of [`Note::count`].
    pub fn remembers(&mut self, count: u64) {
        self.count = Some(self.count.map_or(count, |known| known.max(count)));
    }

    /// Returns the count of the next note, which has to be on record before that is written; `None` if it is not known what
    /// the state folder remembers.
    pub fn next_count(&self) -> Option<u64> {
        self.count.map(|count| count.saturating_add(1))
    }

    /// Returns true if the state folder is older than what was seen: what lies below the prefix may be newer than the rows.
    pub fn is_behind(&self) -> bool {
        self.is_behind
    }

    /// Returns what to write next, for a lease of that length.
    pub fn next_note(&mut self, lasts: Duration) -> Note {
        self.turn += 1;
        Note {
            version: VERSION,
            agent: self.owner.agent.clone(),
            epoch: self.owner.epoch.clone(),
            turn: self.turn,
            count: self.count.unwrap_or(0),
            host: self.owner.host.clone(),
            pid: self.owner.pid,
            folder: self.folder.clone(),
            tidewatch: env!("CARGO_PKG_VERSION").to_owned(),
            seconds: lasts.as_secs(),
            released: false,
        }
    }

    /// Returns true if this process wrote what was seen.
    pub fn is_ours(&self, seen: &Seen) -> bool {
        let is_ours =
            |note: &Note| note.epoch == self.owner.epoch && note.agent == self.owner.agent;
        seen.note.as_ref().is_some_and(is_ours)
    }

    /// Returns true if what was seen is the last that this process has written.
    pub fn is_latest(&self, seen: &Seen) -> bool {
        self.is_ours(seen)
            && seen
                .note
                .as_ref()
                .is_some_and(|note| note.turn == self.turn)
    }

    /// Takes note that this process owns it now.
    pub fn owned(&mut self) {
        self.has_owned = true;
    }

    /// Returns true if a note was seen of another agent, or of a later time than our state folder remembers: what lies below
    /// the prefix may have changed.
    pub fn follows(&self) -> bool {
        self.follows
    }

    /// Takes note that what another agent may have changed is going to be looked at.
    pub fn looks_again(&mut self) {
        (self.follows, self.is_behind) = (false, false);
    }

    /// Judges what was seen at `now`; `None`: nothing was there.
    pub fn judge(&mut self, seen: Option<&Seen>, now: Instant) -> Verdict {
        let Some(seen) = seen else {
            self.unchanged = None;
            return Verdict::Free {
                when: When::Absent,
                from: None,
            };
        };
        let since = match &self.unchanged {
            Some((etag, since)) if *etag == seen.etag => *since,
            _ => now,
        };
        self.unchanged = Some((seen.etag.clone(), since));
        let free = |from| Verdict::Free {
            when: When::Is(seen.etag.clone()),
            from,
        };
        let is_given_back = seen.note.as_ref().is_some_and(|note| note.released);
        // Once it has owned the prefix, an equal id is a copy of its state folder at work somewhere else.
        let is_former = |note: &Note| note.agent == self.owner.agent && !self.has_owned;
        let is_own = self.is_ours(seen) || seen.note.as_ref().is_some_and(is_former);
        self.follows |= !is_own;
        if let (Some(note), Some(count)) = (&seen.note, self.count)
            && note.agent == self.owner.agent
            && note.count > count
        {
            (self.follows, self.is_behind) = (true, true);
            self.count = Some(note.count);
        }
        if is_given_back || is_own {
            return free(None);
        }
        let age = seen
            .age
            .unwrap_or_else(|| now.saturating_duration_since(since));
        let lasts = seen.lasts() + GRAIN;
        let Some(left) = lasts.checked_sub(age).filter(|left| !left.is_zero()) else {
            return free(None);
        };
        let left_ns = i64::try_from(left.as_nanos()).unwrap_or(i64::MAX);
        let holder = Holder {
            note: seen.note.clone(),
            left,
            until_ns: seen.date_ns.map(|date_ns| date_ns.saturating_add(left_ns)),
        };
        if self.owner.manners == Manners::TakeOver && !self.has_owned {
            return free(Some(holder));
        }
        Verdict::Taken(holder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: i64 = 1_000_000_000;

    fn owner(agent: &str, epoch: &str) -> Owner {
        Owner {
            agent: agent.to_owned(),
            epoch: epoch.to_owned(),
            host: "here".to_owned(),
            pid: 7,
            manners: Manners::Wait,
        }
    }

    fn claim(agent: &str, epoch: &str) -> Claim {
        Claim::new(owner(agent, epoch), "photos")
    }

    fn seen(note: Option<Note>, age: Option<u64>) -> Seen {
        Seen {
            etag: note.as_ref().map_or("etag".to_owned(), |note| {
                format!("{}{}", note.epoch, note.turn)
            }),
            note,
            age: age.map(Duration::from_secs),
            date_ns: age.map(|_| 1_764_000_000 * SECOND_NS),
        }
    }

    fn start() -> Instant {
        crate::base::clock::Clock::Real.now().mono
    }

    fn is_free(verdict: &Verdict) -> bool {
        matches!(verdict, Verdict::Free { .. })
    }

    #[test]
    fn an_absent_lease_is_taken_only_if_it_is_still_absent() {
        let verdict = claim("a", "1").judge(None, start());
        let expected = Verdict::Free {
            when: When::Absent,
            from: None,
        };
        assert_eq!(verdict, expected);
    }

    #[test]
    fn another_agents_lease_lasts_its_seconds_and_a_grain_by_the_stores_clock() {
        let note = claim("b", "2").next_note(SHORT);
        for (age, free) in [
            (0, false),
            (60, false),
            (61, false),
            (62, true),
            (600, true),
        ] {
            let seen = seen(Some(note.clone()), Some(age));
            let verdict = claim("a", "1").judge(Some(&seen), start());
            assert_eq!(is_free(&verdict), free, "{age} s: {verdict:?}");
            if free {
                let expected = Verdict::Free {
                    when: When::Is(seen.etag),
                    from: None,
                };
                assert_eq!(verdict, expected);
            }
        }
        let note = claim("b", "2").next_note(LONG);
        let verdict = claim("a", "1").judge(Some(&seen(Some(note), Some(599))), start());
        let Verdict::Taken(holder) = verdict else {
            panic!("{verdict:?}")
        };
        assert_eq!(holder.left, Duration::from_secs(3));
        assert_eq!(holder.until_ns, Some(1_764_000_003 * SECOND_NS));
        let text = holder.to_string();
        assert!(
            text.contains("host `here` (process 7, folder `photos`, agent b)"),
            "{text}"
        );
        assert!(
            text.contains("for 3 s more, until 2025-11-24T16:00:03Z"),
            "{text}"
        );
    }

    #[test]
    fn a_lease_that_was_given_back_is_free_at_once() {
        let mut note = claim("b", "2").next_note(LONG);
        note.released = true;
        let verdict = claim("a", "1").judge(Some(&seen(Some(note), Some(0))), start());
        assert!(is_free(&verdict), "{verdict:?}");
    }

    #[test]
    fn a_former_run_of_the_same_state_folder_is_taken_over_at_once() {
        let note = claim("a", "0").next_note(LONG);
        let verdict = claim("a", "1").judge(Some(&seen(Some(note), Some(0))), start());
        assert!(is_free(&verdict), "{verdict:?}");
    }

    #[test]
    fn a_note_that_the_state_folder_does_not_remember_shows_that_it_is_an_old_copy() {
        let mut former = claim("a", "0");
        former.remembers(6);
        let note = former.next_note(LONG);
        assert_eq!((note.count, former.next_count()), (6, Some(7)));
        let seen = |note| seen(Some(note), Some(0));
        for (remembered, is_old) in [(5, true), (6, false), (7, false)] {
            let mut ours = claim("a", "1");
            ours.remembers(remembered);
            assert!(is_free(&ours.judge(Some(&seen(note.clone())), start())));
            assert_eq!((ours.follows(), ours.is_behind()), (is_old, is_old));
            assert_eq!(ours.next_count(), Some(remembered.max(6) + 1));
            ours.looks_again();
            assert!(!ours.follows() && !ours.is_behind());
        }
        // Another agent counts for itself, and who does not know what it remembers says nothing.
        let mut other = claim("b", "1");
        other.remembers(0);
        other.judge(Some(&seen(note.clone())), start());
        assert!(other.follows() && !other.is_behind());
        let mut unasked = claim("a", "1");
        unasked.judge(Some(&seen(note)), start());
        assert!(!unasked.follows());
    }

    #[test]
    fn an_equal_id_that_took_the_lease_from_its_owner_is_another_agent() {
        let note = claim("a", "2").next_note(LONG);
        let mut ours = claim("a", "1");
        ours.owned();
        let verdict = ours.judge(Some(&seen(Some(note), Some(0))), start());
        assert!(!is_free(&verdict), "{verdict:?}");
    }

    #[test]
    fn what_this_process_wrote_is_its_own() {
        let mut ours = claim("a", "1");
        let note = ours.next_note(SHORT);
        let seen = seen(Some(note), Some(0));
        assert!(ours.is_ours(&seen) && ours.is_latest(&seen));
        ours.owned();
        assert!(is_free(&ours.judge(Some(&seen), start())));
        ours.next_note(SHORT);
        assert!(ours.is_ours(&seen) && !ours.is_latest(&seen));
    }

    #[test]
    fn a_store_without_clocks_is_judged_by_how_long_nothing_changed() {
        let (now, mut theirs, mut ours) = (start(), claim("b", "2"), claim("a", "1"));
        let first = seen(Some(theirs.next_note(SHORT)), None);
        assert!(!is_free(&ours.judge(Some(&first), now)));
        assert!(!is_free(
            &ours.judge(Some(&first), now + Duration::from_secs(50))
        ));
        // A renewal begins the count anew.
        let second = seen(Some(theirs.next_note(SHORT)), None);
        assert!(!is_free(
            &ours.judge(Some(&second), now + Duration::from_secs(55))
        ));
        assert!(!is_free(
            &ours.judge(Some(&second), now + Duration::from_secs(116))
        ));
        assert!(is_free(
            &ours.judge(Some(&second), now + Duration::from_secs(117))
        ));
    }

    #[test]
    fn what_cannot_be_read_is_respected_for_the_longest_lease() {
        for (age, free) in [(0, false), (601, false), (602, true)] {
            let verdict = claim("a", "1").judge(Some(&seen(None, Some(age))), start());
            assert_eq!(is_free(&verdict), free, "{age} s: {verdict:?}");
        }
    }

    #[test]
    fn a_note_cannot_claim_a_prefix_for_ever() {
        let mut note = claim("b", "2").next_note(SHORT);
        note.seconds = u64::MAX;
        let verdict = claim("a", "1").judge(Some(&seen(Some(note), Some(2 * 24 * 3600))), start());
        assert!(is_free(&verdict), "{verdict:?}");
    }

    #[test]
    fn a_person_can_have_a_living_lease_taken_once() {
        let mut ours = Claim::new(
            Owner {
                manners: Manners::TakeOver,
                ..owner("a", "1")
            },
            "photos",
        );
        let theirs = seen(Some(claim("b", "2").next_note(LONG)), Some(0));
        let verdict = ours.judge(Some(&theirs), start());
        let Verdict::Free { from, .. } = verdict else {
            panic!("{verdict:?}")
        };
        assert_eq!(from.unwrap().note, theirs.note);
        ours.owned();
        assert!(!is_free(&ours.judge(Some(&theirs), start())));
    }

    #[test]
    fn a_note_from_a_clock_ahead_of_the_stores_answer_is_new() {
        let object = Object {
            size: 0,
            etag: "e".to_owned(),
            version_id: None,
            user: Vec::new(),
            crc64: None,
            is_keyed: false,
            modified_ns: Some(5 * SECOND_NS),
            date_ns: Some(4 * SECOND_NS),
            sum: None,
        };
        assert_eq!(Seen::of(&object, b"{").age, Some(Duration::ZERO));
    }

    #[test]
    fn a_note_is_read_as_it_was_written_and_a_newer_one_too() {
        let note = claim("a", "1").next_note(SHORT);
        let text = serde_json::to_string(&note).unwrap();
        assert_eq!(serde_json::from_str::<Note>(&text).unwrap(), note);
        let newer = text.replace("\"version\":1", "\"version\":2,\"more\":[]");
        assert_eq!(serde_json::from_str::<Note>(&newer).unwrap().agent, "a");
        let older = text.replace("\"count\":0,", "");
        assert_eq!(serde_json::from_str::<Note>(&older).unwrap(), note);
    }
}
