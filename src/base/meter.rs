//! What has been asked of S3 since the process began, counted: for metrics and for the bill.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The upper bounds of the classes into which the time of a request falls, seconds; longer ones are beyond the last.
pub const BOUNDS: [f64; 12] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// Counts requests. Bound: one cell for each operation and status, of which there are some dozens.
#[derive(Debug, Default)]
pub struct Meter {
    cells: Mutex<BTreeMap<(&'static str, Option<u16>), Cell>>,
}

/// What was asked in one way and answered in one way.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Cell {
    /// Requests.
    pub requests: u64,
    /// Bytes of bodies that went out.
    pub sent_bytes: u64,
    /// Bytes of objects that came in.
    pub received_bytes: u64,
    /// How long they took together, seconds.
    pub seconds: f64,
    /// How many took no longer than each of [`BOUNDS`] and longer than the one before; the last: longer than all.
    pub took: [u64; BOUNDS.len() + 1],
}

/// A row of what was counted.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Reading {
    /// As S3 names it: `PutObject`.
    pub operation: &'static str,
    /// The HTTP status; `None`: there was no answer.
    pub status: Option<u16>,
    /// The counts.
    pub cell: Cell,
}

impl Meter {
    /// Counts one request.
    pub fn count(
        &self,
        operation: &'static str,
        status: Option<u16>,
        (sent_bytes, received_bytes): (u64, u64),
        took: Duration,
    ) {
        let seconds = took.as_secs_f64();
        let class = BOUNDS.partition_point(|bound| *bound < seconds);
        let mut cells = self.cells();
        let cell = cells.entry((operation, status)).or_default();
        cell.requests += 1;
        cell.sent_bytes += sent_bytes;
        cell.received_bytes += received_bytes;
        cell.seconds += seconds;
        cell.took[class] += 1;
    }

    /// Returns what has been counted, in the order of operations and statuses.
    pub fn read(&self) -> Vec<Reading> {
        let cells = self.cells();
        let reading =
            |(&(operation, status), &cell): (&(&'static str, Option<u16>), &Cell)| Reading {
                operation,
                status,
                cell,
            };
        cells.iter().map(reading).collect()
    }

    fn cells(&self) -> MutexGuard<'_, BTreeMap<(&'static str, Option<u16>), Cell>> {
        self.cells.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_request_is_in_one_class_of_time() {
        let meter = Meter::default();
        for (millis, class) in [(0, 0), (5, 0), (6, 1), (1_000, 7), (1_001, 8), (40_000, 12)] {
            let before = meter.read().first().map_or(0, |it| it.cell.took[class]);
            meter.count(
                "PutObject",
                Some(200),
                (7, 1),
                Duration::from_millis(millis),
            );
            assert_eq!(meter.read()[0].cell.took[class], before + 1, "{millis}");
        }
        meter.count("PutObject", None, (0, 0), Duration::ZERO);
        let read = meter.read();
        assert_eq!([read[0].status, read[1].status], [None, Some(200)]);
        let cell = read[1].cell;
        assert_eq!(
            (cell.requests, cell.sent_bytes, cell.received_bytes),
            (6, 42, 6)
        );
        assert_eq!(cell.took.iter().sum::<u64>(), cell.requests);
    }
}
