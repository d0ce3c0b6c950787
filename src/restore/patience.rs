//! How long a bucket that gives nothing is asked for more. (pure)
//!
//! Each request has been tried for as long as that is worth it before it counts here: when so many in a row have failed
//! for a reason that is not theirs alone, the rest would fail too, and would take hours to say so.

use crate::restore::told::Sums;
use crate::store::{Error, ErrorKind};

/// Requests in a row of which the bucket answers none before the rest is not tried any more.
const IN_A_ROW: u32 = 64;

/// How often in a row the bucket has not answered.
#[derive(Debug, Default)]
pub struct Patience {
    in_a_row: u32,
    has_answered: bool,
}

impl Patience {
    /// The bucket has answered.
    pub fn answered(&mut self, sums: &mut Sums) {
        (self.in_a_row, self.has_answered) = (0, true);
        sums.is_unreachable = false;
    }

    /// The bucket has given an error: notes in `sums`, before that one is counted there, what it says of the whole.
    pub fn refused(&mut self, error: &Error, sums: &mut Sums) {
        let is_everyones = error.is_everyones();
        let has_given = self.has_answered || sums.restored > 0;
        let is_first = !has_given && sums.failed == 0;
        sums.is_unreachable = is_everyones && (is_first || sums.is_unreachable);
        // A right may be missing for some objects only: not where others came.
        let counts = is_everyones && !(error.kind == ErrorKind::Denied && has_given);
        self.in_a_row = if counts { self.in_a_row + 1 } else { 0 };
        if self.in_a_row >= IN_A_ROW && sums.stopped_by.is_none() {
            sums.stopped_by = Some(format!("the bucket gives nothing any more: {error}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Effect;

    /// Refuses so often, and returns whether that was the end of it.
    fn ends(kind: ErrorKind, times: u32, sums: &mut Sums) -> bool {
        let mut patience = Patience::default();
        for _ in 0..times {
            let error = Error::new(kind, "GetObject", "a", Effect::None, "no");
            patience.refused(&error, sums);
            sums.failed += 1;
        }
        sums.stopped_by.is_some()
    }

    #[test]
    fn a_bucket_that_gives_nothing_any_more_ends_it_and_missing_objects_do_not() {
        for (kind, restored, ended) in [
            (ErrorKind::Network, 0, true),
            (ErrorKind::Network, 5, true),
            (ErrorKind::Denied, 0, true),
            (ErrorKind::Denied, 5, false),
            (ErrorKind::NotFound, 0, false),
        ] {
            let sums = Sums {
                restored,
                ..Sums::default()
            };
            assert!(!ends(kind, IN_A_ROW - 1, &mut sums.clone()), "{kind}");
            assert_eq!(ends(kind, IN_A_ROW, &mut sums.clone()), ended, "{kind}");
        }
    }

    #[test]
    fn it_is_unreachable_if_that_is_why_everything_failed() {
        let mut sums = Sums::default();
        ends(ErrorKind::Network, 2, &mut sums);
        assert!(sums.is_unreachable);
        ends(ErrorKind::NotFound, 1, &mut sums);
        assert!(!sums.is_unreachable);
        ends(ErrorKind::Network, 1, &mut sums);
        assert!(!sums.is_unreachable, "one was not for that reason");
        let (mut sums, mut patience) = (Sums::default(), Patience::default());
        let error = Error::new(ErrorKind::Denied, "HeadObject", "a", Effect::None, "no");
        patience.refused(&error, &mut sums);
        assert!(sums.is_unreachable);
        patience.answered(&mut sums);
        assert!(!sums.is_unreachable, "another one was answered");
    }
}
