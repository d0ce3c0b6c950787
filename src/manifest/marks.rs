//! When what is done now and then for a folder was done last, and whether a person has it do nothing: a row of `meta` each,
//! named by the mark and the folder's number.

use rusqlite::{Connection, params};

use crate::base::clock::Setting;
use crate::base::snapshot::Tried;
use crate::manifest::connections::Manifest;
use crate::manifest::error::Error;
use crate::manifest::{FolderId, Mark};

const MARKS: &str = "SELECT substr(k, 1, instr(k, ':') - 1), v FROM meta
    WHERE k IN ('audited:' || ?1, 'audits_from:' || ?1, 'verified:' || ?1, 'drilled:' || ?1, 'paused:' || ?1,
      'boot:' || ?1, 'clock:' || ?1, 'recontact:' || ?1)";
const MARK: &str = "INSERT INTO meta (k, v) VALUES (?2 || ':' || ?1, ?3)
    ON CONFLICT (k) DO UPDATE SET v = excluded.v";
const UNMARK: &str = "DELETE FROM meta WHERE k = ?2 || ':' || ?1";

/// Every statement of this file.
pub(super) const ALL: [&str; 3] = [MARKS, MARK, UNMARK];

/// A folder's marks; times are wall clock, nanoseconds since the epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Marks {
    /// When the bucket was last compared with the rows.
    pub audited_ns: Option<i64>,
    /// From when on the time before the first comparison counts.
    pub audits_from_ns: Option<i64>,
    /// The last `tidewatch verify`.
    pub verified: Option<Tried>,
    /// The last restore drill.
    pub drilled: Option<Tried>,
    /// Since when nothing new is to be started.
    pub paused_ns: Option<i64>,
    /// How the machine's clock was set when the rows' horizons were written.
    pub clock: Option<Setting>,
    /// From when on the bucket is listed once more.
    pub recontact_ns: Option<i64>,
}

impl Manifest {
    /// Returns a folder's marks.
    pub fn marks(&self, folder: FolderId) -> Result<Marks, Error> {
        self.ask(|connection| {
            let mut statement = connection.prepare_cached(MARKS)?;
            let mut rows = statement.query(params![folder.0])?;
            let mut marks = Marks::default();
            let (mut boot, mut clock) = (None, None);
            while let Some(row) = rows.next()? {
                let (name, value): (String, i64) = (row.get(0)?, row.get(1)?);
                // What did not go well has a negative time.
                let tried = Tried {
                    at_ns: value.saturating_abs(),
                    ok: value >= 0,
                };
                match name.as_str() {
                    "audited" => marks.audited_ns = Some(value),
                    "audits_from" => marks.audits_from_ns = Some(value),
                    "verified" => marks.verified = Some(tried),
                    "drilled" => marks.drilled = Some(tried),
                    "boot" => boot = Some(value),
                    "clock" => clock = Some(value),
                    "recontact" => marks.recontact_ns = Some(value),
                    _ => marks.paused_ns = Some(value),
                }
            }
            marks.clock = boot
                .zip(clock)
                .map(|(boot, offset_ns)| Setting { boot, offset_ns });
            Ok(marks)
        })
    }
}

/// Sets a mark; `connection` is inside a transaction.
pub(super) fn set(connection: &Connection, folder: FolderId, mark: Mark) -> rusqlite::Result<()> {
    let tried = |Tried { at_ns, ok }: Tried| if ok { at_ns } else { -at_ns };
    let unset = |name| {
        let mut statement = connection.prepare_cached(UNMARK)?;
        statement.execute(params![folder.0, name]).map(drop)
    };
    let (name, value) = match mark {
        Mark::Audited(at_ns) => ("audited", at_ns),
        Mark::AuditsFrom(at_ns) => ("audits_from", at_ns),
        Mark::Verified(last) => ("verified", tried(last)),
        Mark::Drilled(last) => ("drilled", tried(last)),
        Mark::Clock(Setting { boot, offset_ns }) => {
            let mut statement = connection.prepare_cached(MARK)?;
            statement.execute(params![folder.0, "boot", boot])?;
            ("clock", offset_ns)
        }
        Mark::Paused(Some(since_ns)) => ("paused", since_ns),
        Mark::Paused(None) => return unset("paused"),
        Mark::Recontact(Some(at_ns)) => ("recontact", at_ns),
        Mark::Recontact(None) => return unset("recontact"),
    };
    let mut statement = connection.prepare_cached(MARK)?;
    statement.execute(params![folder.0, name, value]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Change;

    #[test]
    fn each_folder_has_its_own_marks_and_a_pause_goes_without_a_trace() -> Result<(), Error> {
        let manifest = Manifest::in_memory().expect("a database in memory");
        let (one, other) = (FolderId(1), FolderId(11));
        let wrong = Tried {
            at_ns: 7,
            ok: false,
        };
        let right = Tried { at_ns: 8, ok: true };
        let set = |mark| manifest.commit(one, &[Change::Mark(mark)]);
        set(Mark::AuditsFrom(3))?;
        set(Mark::Verified(wrong))?;
        set(Mark::Drilled(right))?;
        let clock = Setting {
            boot: 4,
            offset_ns: -3,
        };
        set(Mark::Clock(clock))?;
        set(Mark::Paused(Some(5)))?;
        set(Mark::Paused(Some(6)))?;
        let mut expected = Marks {
            audits_from_ns: Some(3),
            verified: Some(wrong),
            drilled: Some(right),
            paused_ns: Some(6),
            clock: Some(clock),
            ..Marks::default()
        };
        assert_eq!(manifest.marks(one)?, expected);
        assert_eq!(manifest.marks(other)?, Marks::default());
        set(Mark::Paused(None))?;
        set(Mark::Audited(9))?;
        (expected.paused_ns, expected.audited_ns) = (None, Some(9));
        assert_eq!(manifest.marks(one)?, expected);
        Ok(())
    }
}
