//! What we knew and what we see → what to do. Pure: every case is a row of the tables at the end.

use crate::base::clock::Now;
use crate::base::digest::Sha256;
use crate::base::stat::Stat;
use crate::manifest::{Content, Entry, Held, HeldWhat, State};
use crate::tree::Whole;

/// How long a request whose answer is missing may still take effect: a signed request may start up to 15 minutes after it
/// was signed (Signature Version 4).
pub const HORIZON_NS: i64 = 15 * 60 * 1_000_000_000;

/// How far two reads of a doubtful content have to lie apart to agree for good, nanoseconds: the coarsest filesystem
/// clock's grain, and longer than any write is seen half done by both.
const APART_NS: i64 = 2_000_000_000;

/// What a stat says before anything is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Look {
    /// The bucket has this file; nothing to do.
    Nothing,
    /// Same file under the same stamps, but owner or mode are news to the manifest.
    Refresh,
    /// Read it.
    Read,
}

/// Decides from the stat alone. `must_read`: somebody wrote to it since we read it, whatever the stat says.
pub fn look(known: Option<&Entry>, seen: &Stat, must_read: bool, now: Now) -> Look {
    let Some((entry, content)) = known.and_then(certain) else {
        return Look::Read;
    };
    if must_read
        || is_due_again(entry, now)
        || !content.stat.same_content_as(seen)
        || content.stat.is_racy(content.read_at_ns)
        || content.doubtful
    {
        return Look::Read;
    }
    if entry.state == State::Synced && content.stat == *seen {
        Look::Nothing
    } else {
        Look::Refresh
    }
}

/// What a content asks for once it is read and hashed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// The key has this content: only the manifest is told.
    Refresh,
    /// The key has other content, or none.
    Store,
}

/// Decides from the content.
pub fn step(known: Option<&Entry>, sha256: Sha256, now: Now) -> Step {
    match known.and_then(certain) {
        Some((entry, content)) if content.sha256 == sha256 && !is_due_again(entry, now) => {
            Step::Refresh
        }
        _ => Step::Store,
    }
}

/// How a content was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Read {
    /// The file's stat, before and after.
    pub stat: Stat,
    /// Wall clock when it began, nanoseconds.
    pub read_at_ns: i64,
    /// Whether nobody can promise that no writer was at work meanwhile.
    pub doubtful: bool,
    /// Whether it is only what a file began with that is written to without rest.
    pub is_beginning: bool,
}

impl Read {
    /// Returns how a file that is in memory was read.
    pub fn of(whole: &Whole) -> Self {
        Self {
            stat: whole.stat,
            read_at_ns: whole.read_at_ns,
            doubtful: whole.doubtful,
            is_beginning: whole.is_beginning,
        }
    }
}

/// Returns whether a content that `again` has found unchanged is still doubtful, and since when (wall clock, nanoseconds) it
/// has been read as it is. `must_read`: somebody wrote to the file between the two reads, so that they say nothing of each
/// other.
pub fn doubt_after(before: &Content, again: &Read, must_read: bool) -> (bool, i64) {
    let agree =
        before.doubtful && !must_read && before.stat.same_content_as(&again.stat) && again.doubtful;
    let apart_ns = again.read_at_ns.saturating_sub(before.read_at_ns);
    match apart_ns {
        // The clock was set back since: how far they are apart cannot be known, and the next one tells.
        ..0 => (again.doubtful, again.read_at_ns),
        // The first of them counts, or reads that come close after each other would never be far enough apart.
        ..APART_NS if agree => (true, before.read_at_ns),
        _ => (again.doubtful && !agree, again.read_at_ns),
    }
}

/// Returns the content that the key is known to hold; `None` after anything that may have changed it.
pub fn certain(entry: &Entry) -> Option<(&Entry, &Content)> {
    let content = entry.stored.as_ref()?;
    matches!(entry.state, State::Synced | State::Kept).then_some((entry, content))
}

/// Returns until when a certain row is in doubt (wall clock, nanoseconds); 0: it is not.
///
/// A request on its way that carries the very content that the row claims does no harm when it lands. It is remembered all
/// the same: the key may get other content before.
pub fn doubt_until(entry: &Entry) -> i64 {
    let claimed = certain(entry).map(|(_, content)| content.sha256);
    if claimed.is_some() && claimed == entry.want {
        0
    } else {
        entry.ambiguous_until_ns
    }
}

/// Returns true if an earlier request may have changed the key behind a certain row, and can no longer do so: one look at
/// the key now settles it.
pub fn is_due_again(entry: &Entry, now: Now) -> bool {
    let until = doubt_until(entry);
    until != 0 && until <= now.wall_ns
}

/// Returns true if a missing file is no news: it is kept or held for that reason, or only waits for its horizon.
pub fn is_old_news(entry: &Entry, now: Now) -> bool {
    let waits = entry.state == State::Open
        && entry.stored.is_none()
        && entry.ambiguous_until_ns > now.wall_ns;
    let is_held = entry
        .held
        .as_ref()
        .is_some_and(|held| held.what == HeldWhat::Delete);
    waits || is_held || entry.state == State::Kept || entry.is_landed()
}

/// Returns true if nothing was ever sent for the row, so that without its file it can go.
pub fn says_nothing(entry: &Entry, now: Now) -> bool {
    entry.state == State::Unsent
        && entry.stored.is_none()
        && !entry.is_landed()
        && outstanding_until(entry, now) == 0
}

/// Returns true if a person is asked about this version of the file, or has refused it.
pub fn is_held(entry: &Entry, seen: &Stat) -> bool {
    let is_waiting = |held: &Held| matches!(held.what, HeldWhat::Overwrite | HeldWhat::Dropped);
    let held = entry.held.as_ref().filter(|held| is_waiting(held));
    held.and_then(|held| held.seen.as_ref())
        .is_some_and(|version| *version == seen.fingerprint())
}

/// Returns true if this version of the file has failed for good, and is not tried again yet.
pub fn is_parked(entry: &Entry, seen: &Stat, now: Now) -> bool {
    let failure = entry.failure.as_ref();
    failure
        .and_then(|failure| failure.parked.as_ref())
        .is_some_and(|parked| parked.until_ns > now.wall_ns && parked.seen == seen.fingerprint())
}

/// Returns until when an earlier request may still change the key (wall clock, nanoseconds); 0: none can.
///
/// An open intent of a run that was killed has no time yet; its request may have been sent just before.
pub fn outstanding_until(entry: &Entry, now: Now) -> i64 {
    match (entry.state, entry.ambiguous_until_ns) {
        (State::Open, 0) => now.wall_ns.saturating_add(HORIZON_NS),
        (_, until) if until > now.wall_ns => until,
        _ => 0,
    }
}

/// Takes into `row`, which claims a content that has just been put, what may still land on top of it.
pub fn remember_outstanding(row: &mut Entry, known: Option<&Entry>, now: Now) {
    let until = known.map_or(0, |entry| outstanding_until(entry, now));
    row.ambiguous_until_ns = until;
    row.want = known.and_then(|entry| entry.want).filter(|_| until != 0);
}

/// Returns the row after a put of `want` (unknown: `None`) whose effect is uncertain.
pub fn row_after_doubt(
    known: Option<&Entry>,
    mut row: Entry,
    want: Option<Sha256>,
    now: Now,
) -> Entry {
    let others =
        known.is_some_and(|entry| outstanding_until(entry, now) != 0 && entry.want != want);
    row.state = State::Open;
    // With two different bodies on their way nobody can say which one lands last.
    row.want = if others { None } else { want };
    row.ambiguous_until_ns = now.wall_ns.saturating_add(HORIZON_NS);
    row
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::path::RelPath;
    use crate::base::stat::Kind;

    const T: i64 = 1_000_000_000_000;

    fn now(wall_ns: i64) -> Now {
        Now {
            wall_ns,
            ..crate::base::clock::Clock::Real.now()
        }
    }

    fn stat(mtime_ns: i64) -> Stat {
        Stat {
            kind: Kind::File,
            size: 3,
            mtime_ns,
            ctime_ns: mtime_ns,
            dev: 1,
            ino: 1,
            mode: 0o644,
            uid: 0,
            gid: 0,
            nlink: 1,
        }
    }

    fn entry(state: State) -> Entry {
        let content = Content {
            stat: stat(T + 1),
            read_at_ns: T + 3_000_000_000,
            sha256: Sha256::of(b"old"),
            etag: "e".into(),
            version_id: None,
            synced_at_ns: 0,
            doubtful: false,
        };
        Entry {
            path: RelPath::root().join(b"a"),
            state,
            stored: Some(content),
            want: None,
            ambiguous_until_ns: 0,
            failure: None,
            held: None,
        }
    }

    #[test]
    fn the_stat_decides_only_when_nothing_is_in_doubt() {
        let synced = entry(State::Synced);
        let racy = {
            let mut racy = entry(State::Synced);
            racy.stored.as_mut().expect("stored").read_at_ns = T + 5;
            racy
        };
        let doubtful = {
            let mut doubtful = entry(State::Synced);
            doubtful.stored.as_mut().expect("stored").doubtful = true;
            doubtful
        };
        let due = Entry {
            ambiguous_until_ns: 5,
            ..entry(State::Synced)
        };
        let later = Entry {
            ambiguous_until_ns: T * 2,
            ..entry(State::Synced)
        };
        let chmod = Stat {
            mode: 0o600,
            ..stat(T + 1)
        };
        let table = [
            (None, stat(T + 1), false, Look::Read),
            (Some(&synced), stat(T + 1), false, Look::Nothing),
            (Some(&synced), stat(T + 1), true, Look::Read),
            (Some(&synced), stat(T + 2), false, Look::Read),
            (Some(&synced), chmod, false, Look::Refresh),
            (Some(&racy), stat(T + 1), false, Look::Read),
            (Some(&doubtful), stat(T + 1), false, Look::Read),
            (Some(&due), stat(T + 1), false, Look::Read),
            (Some(&later), stat(T + 1), false, Look::Nothing),
            (Some(&entry(State::Kept)), stat(T + 1), false, Look::Refresh),
            (Some(&entry(State::Open)), stat(T + 1), false, Look::Read),
            (Some(&entry(State::Unsent)), stat(T + 1), false, Look::Read),
        ];
        for (at, (known, seen, must_read, expected)) in table.into_iter().enumerate() {
            assert_eq!(look(known, &seen, must_read, now(T)), expected, "row {at}");
        }
    }

    #[test]
    fn two_reads_that_agree_two_seconds_apart_end_a_doubt_unless_somebody_wrote_between() {
        let before = |doubtful| Content {
            doubtful,
            ..entry(State::Synced).stored.expect("stored")
        };
        let first_ns = before(true).read_at_ns;
        let again = |stat, after_ns, doubtful| Read {
            stat,
            read_at_ns: first_ns + after_ns,
            doubtful,
            is_beginning: false,
        };
        let same = stat(T + 1);
        let (late, soon) = (first_ns + APART_NS, first_ns + APART_NS - 1);
        let table = [
            (true, again(same, APART_NS, true), false, (false, late)),
            (
                true,
                again(same, APART_NS - 1, true),
                false,
                (true, first_ns),
            ),
            (true, again(same, APART_NS, true), true, (true, late)),
            (true, again(same, APART_NS - 1, true), true, (true, soon)),
            (
                true,
                again(stat(T + 2), APART_NS, true),
                false,
                (true, late),
            ),
            // The clock was set back between them: the next one is held against this one.
            (true, again(same, -1, true), false, (true, first_ns - 1)),
            // The first of two.
            (false, again(same, APART_NS, true), false, (true, late)),
            // Under a lease one is enough.
            (
                true,
                again(stat(T + 2), 1, false),
                true,
                (false, first_ns + 1),
            ),
        ];
        for (at, (was, again, must_read, expected)) in table.into_iter().enumerate() {
            let is = doubt_after(&before(was), &again, must_read);
            assert_eq!(is, expected, "row {at}");
        }
    }

    #[test]
    fn only_a_certain_row_with_the_same_content_spares_the_put() {
        let old = Sha256::of(b"old");
        let table = [
            (None, old, Step::Store),
            (Some(entry(State::Synced)), old, Step::Refresh),
            (Some(entry(State::Synced)), Sha256::of(b"new"), Step::Store),
            (Some(entry(State::Kept)), old, Step::Refresh),
            (Some(entry(State::Open)), old, Step::Store),
            (
                Some(Entry {
                    ambiguous_until_ns: 5,
                    ..entry(State::Synced)
                }),
                old,
                Step::Store,
            ),
        ];
        for (at, (known, sha256, expected)) in table.into_iter().enumerate() {
            assert_eq!(step(known.as_ref(), sha256, now(T)), expected, "row {at}");
        }
    }

    #[test]
    fn an_outstanding_request_is_remembered_through_a_success_and_in_doubt_only_with_other_bytes() {
        let (old, b) = (Sha256::of(b"old"), Sha256::of(b"b"));
        let open = |want, until| Entry {
            want,
            ambiguous_until_ns: until,
            ..entry(State::Open)
        };
        let late = |want, until| Entry {
            want,
            ambiguous_until_ns: until,
            ..entry(State::Synced)
        };
        // What was known; what is remembered with a row that claims "old"; until when that row is in doubt.
        let table = [
            (None, 0, 0),
            (Some(open(Some(old), T + 7)), T + 7, 0),
            (Some(open(Some(b), T + 7)), T + 7, T + 7),
            (Some(open(None, T + 7)), T + 7, T + 7),
            (Some(open(None, 0)), T + HORIZON_NS, T + HORIZON_NS),
            (Some(open(Some(b), T - 7)), 0, 0),
            (Some(late(None, T + 9)), T + 9, T + 9),
            (Some(late(Some(old), T + 9)), T + 9, 0),
            (Some(late(Some(b), T + 9)), T + 9, T + 9),
        ];
        for (at, (known, remembered, doubt)) in table.into_iter().enumerate() {
            let mut row = entry(State::Synced);
            remember_outstanding(&mut row, known.as_ref(), now(T));
            assert_eq!(
                (row.ambiguous_until_ns, doubt_until(&row)),
                (remembered, doubt),
                "row {at}"
            );
        }
    }

    #[test]
    fn two_bodies_on_their_way_make_the_wanted_one_unknown() {
        let (a, b) = (Sha256::of(b"a"), Sha256::of(b"b"));
        let doubt =
            |known: Option<&Entry>| row_after_doubt(known, entry(State::Synced), Some(a), now(T));
        assert_eq!(doubt(None).want, Some(a));
        assert_eq!(doubt(Some(&entry(State::Synced))).want, Some(a));
        let open = |want| Entry {
            want,
            ambiguous_until_ns: T + 7,
            ..entry(State::Open)
        };
        assert_eq!(doubt(Some(&open(Some(a)))).want, Some(a));
        assert_eq!(doubt(Some(&open(Some(b)))).want, None);
        assert_eq!(doubt(Some(&open(None))).want, None);
        let late = Entry {
            ambiguous_until_ns: T + 9,
            ..entry(State::Synced)
        };
        assert_eq!(doubt(Some(&late)).want, None);
        assert_eq!(doubt(None).ambiguous_until_ns, T + HORIZON_NS);
    }
}
