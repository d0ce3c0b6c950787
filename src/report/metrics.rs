//! Where the folders are and what was asked of S3, in the text format of Prometheus (`OpenMetrics` 1.0).
//!
//! Names follow Prometheus's rules: prefix `tidewatch_`, base units, counters end in `_total`. The only label that a user
//! chooses is `folder`, a folder's name; never a path. A value that is not known has no sample.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use crate::base::meter::{BOUNDS, Reading};
use crate::base::snapshot::FolderSnapshot;
use crate::report::bill_file::Cost;
use crate::report::drill_file::Drilled;

/// The content type of what [`text`] returns.
pub const TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the metrics are made of.
#[derive(Clone, Debug)]
pub struct Scrape {
    /// The folders.
    pub folders: Vec<FolderFacts>,
    /// What was asked of S3 since the process began.
    pub requests: Vec<Reading>,
    /// What that costs by the prices that are known, millionths.
    pub cost_micros: u64,
    /// What was spent today and this month.
    pub cost: Cost,
    /// When the process began, wall clock, nanoseconds.
    pub started_ns: i64,
    /// The program's version.
    pub version: &'static str,
}

/// A folder.
#[derive(Clone, Debug)]
pub struct FolderFacts {
    /// Where it is.
    pub snapshot: FolderSnapshot,
    /// Attempts that failed since the start.
    pub failed_attempts: u64,
    /// When it was last level, or a change of it last came into the bucket; wall clock, nanoseconds.
    pub success_ns: Option<i64>,
    /// How its last restore drill went.
    pub drill: Option<Drilled>,
}

/// A metric with one value a folder: name without prefix and unit, unit, help, value.
type Of<T> = (
    &'static str,
    Option<Unit>,
    &'static str,
    fn(&FolderFacts) -> Option<T>,
);

const GAUGES: &[Of<f64>] = &[
    (
        "level",
        None,
        "1 if every file inside the filter has its object, else 0",
        |folder| is(folder.snapshot.level),
    ),
    (
        "lag",
        Some(Unit::Seconds),
        "Age of the oldest change that is not in the bucket, an upper bound; 0 if level",
        |folder| count(folder.snapshot.lag_seconds),
    ),
    (
        "max_lag",
        Some(Unit::Seconds),
        "The longest lag that is not late, as the config says",
        |folder| {
            let most = folder.snapshot.max_lag_seconds;
            count(most).filter(|_| most > 0)
        },
    ),
    (
        "last_success_timestamp",
        Some(Unit::Seconds),
        "When the folder was last level, or a change of it last came into the bucket",
        |folder| folder.success_ns.map(seconds),
    ),
    (
        "last_scan_timestamp",
        Some(Unit::Seconds),
        "When the last complete scan began",
        |folder| folder.snapshot.last_scan_ns.map(seconds),
    ),
    (
        "pending_files",
        None,
        "Files that wait or are on their way",
        |folder| count(folder.snapshot.queued_files),
    ),
    (
        "pending",
        Some(Unit::Bytes),
        "Bytes of files that wait or are on their way, as far as known",
        |folder| count(folder.snapshot.queued_bytes),
    ),
    (
        "failing_files",
        None,
        "Files whose last attempt failed",
        |folder| count(folder.snapshot.failed),
    ),
    (
        "parked_files",
        None,
        "Of the failing files, those that failed for good and are left alone until they change, for a while",
        |folder| count(folder.snapshot.parked),
    ),
    (
        "unsyncable_files",
        None,
        "Files that cannot be synced as they are: no possible key, or never at rest",
        |folder| count(folder.snapshot.unsyncable),
    ),
    (
        "held_files",
        None,
        "Deletes and overwrites that a brake holds for a person",
        |folder| count(folder.snapshot.held),
    ),
    (
        "brake_engaged",
        None,
        "1 if a brake holds anything, else 0",
        |folder| is(folder.snapshot.held > 0),
    ),
    (
        "pending_deletes",
        None,
        "Objects that are to go and have not gone yet",
        |folder| count(folder.snapshot.deletes),
    ),
    (
        "ambiguous_keys",
        None,
        "Keys that are looked at again after an unclear answer",
        |folder| count(folder.snapshot.ambiguous),
    ),
    (
        "outage",
        None,
        "1 if the bucket cannot be used, else 0",
        |folder| is(folder.snapshot.outage.is_some()),
    ),
    (
        "outage_start_timestamp",
        Some(Unit::Seconds),
        "Since when the bucket cannot be used",
        |folder| {
            let outage = folder.snapshot.outage.as_ref();
            outage.map(|(since_ns, _)| seconds(*since_ns))
        },
    ),
    (
        "away",
        None,
        "1 if the folder itself cannot be used, else 0",
        |folder| is(folder.snapshot.away.is_some()),
    ),
    (
        "lease_trouble",
        None,
        "1 if another owns the lease of the prefix, or it is not held; else 0",
        |folder| is(folder.snapshot.lease.is_some() && !folder.snapshot.lease_is_advisory),
    ),
    (
        "catalog_trouble",
        None,
        "1 if the catalog in the bucket cannot be written, else 0",
        |folder| is(folder.snapshot.catalog.is_some()),
    ),
    (
        "lease_expiry_timestamp",
        Some(Unit::Seconds),
        "Until when the lease of the prefix is held, unless it is renewed, by whoever holds it",
        |folder| folder.snapshot.lease_until_ns.map(seconds),
    ),
    (
        "paused",
        None,
        "1 if a person has the folder start nothing new, else 0",
        |folder| is(folder.snapshot.paused_ns.is_some()),
    ),
    (
        "watches",
        None,
        "Watches of the kernel that the folder has; none where it is polled",
        |folder| folder.snapshot.watches_used.map(|used| used as f64),
    ),
    (
        "watches_allowed",
        None,
        "Watches that the user may have, for all programs and folders",
        |folder| folder.snapshot.watches_allowed.map(|most| most as f64),
    ),
    (
        "last_audit_timestamp",
        Some(Unit::Seconds),
        "When the bucket was last compared with what is known of it",
        |folder| folder.snapshot.last_audit_ns.map(seconds),
    ),
    (
        "last_verify_timestamp",
        Some(Unit::Seconds),
        "When the last `tidewatch verify` ended",
        |folder| Some(seconds(folder.snapshot.last_verify?.at_ns)),
    ),
    (
        "last_verify_success",
        None,
        "1 if the last `tidewatch verify` found everything right, else 0",
        |folder| is(folder.snapshot.last_verify?.ok),
    ),
    (
        "last_drill_success",
        None,
        "1 if everything that the last restore drill tried came back right, else 0",
        |folder| is(folder.drill.as_ref()?.ok),
    ),
    (
        "last_drill_timestamp",
        Some(Unit::Seconds),
        "When the last restore drill began",
        |folder| Some(seconds(folder.drill.as_ref()?.at_ns)),
    ),
    (
        "last_drill_duration",
        Some(Unit::Seconds),
        "How long the last restore drill took",
        |folder| Some(folder.drill.as_ref()?.seconds),
    ),
];

const COUNTERS: &[Of<u64>] = &[
    (
        "sent",
        Some(Unit::Bytes),
        "Bytes of files that were sent",
        |folder| Some(folder.snapshot.sent_bytes),
    ),
    (
        "events_lost",
        None,
        "How often events of the kernel were lost, or may have been; each time everything is looked at",
        |folder| Some(folder.snapshot.lost),
    ),
    (
        "retries",
        None,
        "Attempts that failed and were made again",
        |folder| Some(folder.snapshot.retries),
    ),
    ("rescans", None, "Complete scans", |folder| {
        Some(folder.snapshot.rescans)
    }),
    (
        "changes_missed",
        None,
        "Changes that only a full scan found",
        |folder| Some(folder.snapshot.missed),
    ),
    (
        "reads_disturbed",
        None,
        "Reads that had to wait for a writer",
        |folder| Some(folder.snapshot.reads_disturbed),
    ),
    (
        "reads_unguarded",
        None,
        "Reads for which nobody could promise that there is no writer",
        |folder| Some(folder.snapshot.reads_unguarded),
    ),
];

/// What became of files, by the label `result`.
type Result = (&'static str, fn(&FolderFacts) -> u64);
const RESULTS: &[Result] = &[
    ("uploaded", |folder| folder.snapshot.tally.uploaded),
    ("copied", |folder| folder.snapshot.tally.copied),
    ("deleted", |folder| folder.snapshot.tally.deleted),
    ("unchanged", |folder| folder.snapshot.tally.unchanged),
    ("skipped", |folder| folder.snapshot.tally.skipped),
    ("failed", |folder| folder.failed_attempts),
];

/// Returns the metrics as text.
pub fn text(scrape: Scrape) -> String {
    let mut registry = Registry::with_prefix("tidewatch");
    registry.register_collector(Box::new(scrape));
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = encode(&mut text, &registry);
    text
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        for (name, unit, help, value) in GAUGES {
            let mut metric =
                encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
            for folder in &self.folders {
                if let Some(value) = value(folder) {
                    let label = [("folder", folder.snapshot.name.as_str())];
                    metric.encode_family(&label)?.encode_gauge(&value)?;
                }
            }
        }
        for (name, unit, help, value) in COUNTERS {
            let mut metric =
                encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Counter)?;
            for folder in &self.folders {
                if let Some(value) = value(folder) {
                    let label = [("folder", folder.snapshot.name.as_str())];
                    let mut metric = metric.encode_family(&label)?;
                    metric.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
                }
            }
        }
        self.files(encoder)?;
        self.requests(encoder)?;
        self.process(encoder)
    }
}

impl Scrape {
    fn files(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "What became of files; a file that is tried again counts each time";
        let mut metric = encoder.encode_descriptor("files", help, None, MetricType::Counter)?;
        for folder in &self.folders {
            for (result, value) in RESULTS {
                let labels = [
                    ("folder", folder.snapshot.name.as_str()),
                    ("result", *result),
                ];
                let mut metric = metric.encode_family(&labels)?;
                metric.encode_counter::<NoLabelSet, _, u64>(&value(folder), None)?;
            }
        }
        Ok(())
    }

    fn requests(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Requests to S3, by operation and HTTP status; `none`: there was no answer";
        let mut metric = encoder.encode_descriptor("requests", help, None, MetricType::Counter)?;
        for Reading {
            operation,
            status,
            cell,
        } in &self.requests
        {
            let status = status.map_or_else(|| "none".to_owned(), |status| status.to_string());
            let labels = [("operation", *operation), ("status", status.as_str())];
            let mut metric = metric.encode_family(&labels)?;
            metric.encode_counter::<NoLabelSet, _, u64>(&cell.requests, None)?;
        }
        for (name, help, bytes) in [
            (
                "request_sent",
                "Bytes of bodies that went out",
                (|reading| reading.cell.sent_bytes) as fn(&Reading) -> u64,
            ),
            (
                "request_received",
                "Bytes of objects that came in",
                |reading| reading.cell.received_bytes,
            ),
        ] {
            let unit = Some(&Unit::Bytes);
            let mut metric = encoder.encode_descriptor(name, help, unit, MetricType::Counter)?;
            let sum: u64 = self.requests.iter().map(bytes).sum();
            metric.encode_counter::<NoLabelSet, _, u64>(&sum, None)?;
        }
        let help = "How long requests to S3 took, by operation";
        let unit = Some(&Unit::Seconds);
        let mut metric =
            encoder.encode_descriptor("request_duration", help, unit, MetricType::Histogram)?;
        for of_one in self.requests.chunk_by(|a, b| a.operation == b.operation) {
            let mut buckets: Vec<(f64, u64)> = BOUNDS.map(|bound| (bound, 0)).to_vec();
            buckets.push((f64::INFINITY, 0));
            for (at, bucket) in buckets.iter_mut().enumerate() {
                bucket.1 = of_one.iter().map(|reading| reading.cell.took[at]).sum();
            }
            let count = of_one.iter().map(|reading| reading.cell.requests).sum();
            let sum = of_one.iter().map(|reading| reading.cell.seconds).sum();
            let label = [("operation", of_one[0].operation)];
            let mut metric = metric.encode_family(&label)?;
            metric.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
        let help = "What the requests to S3 cost by the prices that are known, an estimate";
        let mut metric =
            encoder.encode_descriptor("request_cost", help, None, MetricType::Counter)?;
        let label = [("currency", self.cost.currency.as_str())];
        let money = |micros: u64| micros as f64 / 1e6;
        metric
            .encode_family(&label)?
            .encode_counter::<NoLabelSet, _, u64>(&money(self.cost_micros), None)?;
        for (name, help, micros) in [
            (
                "cost_today",
                "What requests cost today (UTC), an estimate",
                Some(self.cost.today.cost),
            ),
            (
                "cost_this_month",
                "What requests cost since the month began, an estimate",
                Some(self.cost.month.cost),
            ),
            (
                "cost_month_at_this_pace",
                "What the requests of this month will have cost if it goes on like this",
                Some(self.cost.month_at_this_pace),
            ),
            (
                "cost_budget",
                "What may be spent in a month, as the config says",
                self.cost.budget,
            ),
        ] {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            if let Some(micros) = micros {
                metric.encode_family(&label)?.encode_gauge(&money(micros))?;
            }
        }
        Ok(())
    }

    fn process(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "1, with the program's version";
        let mut metric = encoder.encode_descriptor("build_info", help, None, MetricType::Gauge)?;
        let label = [("version", self.version)];
        metric.encode_family(&label)?.encode_gauge(&1_i64)?;
        let unit = Some(&Unit::Seconds);
        let help = "When the process began";
        let name = "process_start_time";
        let mut metric = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        metric.encode_gauge(&seconds(self.started_ns))
    }
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "the tables hold values that may not be known"
)]
fn count(value: u64) -> Option<f64> {
    Some(value as f64)
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "the tables hold values that may not be known"
)]
fn is(value: bool) -> Option<f64> {
    Some(f64::from(u8::from(value)))
}

fn seconds(ns: i64) -> f64 {
    ns as f64 / 1e9
}
