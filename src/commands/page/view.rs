//! What the page shows, as JSON: to everybody health, counts and lag; names, paths and reasons only to who has the token.

use serde::Serialize;

use crate::base::clock::{rfc3339, rfc3339_millis};
use crate::base::path::told;
use crate::base::price;
use crate::base::snapshot::FolderSnapshot;
use crate::commands::page::Page;
use crate::commands::page::acts::Deed;
use crate::commands::page::guard::Knows;
use crate::commands::page::ready;
use crate::commands::page::recent::Line;
use crate::manifest::Manifest;
use crate::report::bill_file::Cost;
use crate::report::status_file::UpStatus;

/// How many failing paths are named for each folder.
const NAMED: usize = 20;

/// The whole state.
#[derive(Debug, Serialize)]
struct View<'a> {
    version: &'static str,
    at: String,
    started: String,
    /// Whether the one who asks has shown the token.
    knows: bool,
    ready: bool,
    /// Why not, a line each.
    reasons: Vec<String>,
    folders: Vec<FolderView<'a>>,
    /// What can be asked for with the token.
    deeds: &'static [Deed],
    #[serde(skip_serializing_if = "Option::is_none")]
    cost: Option<Spent>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recent: Option<Vec<Line>>,
}

/// What requests cost, for people.
#[derive(Debug, Serialize)]
struct Spent {
    today: String,
    month: String,
    month_at_this_pace: String,
    budget: Option<String>,
    is_over: bool,
}

#[derive(Debug, Serialize)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a field of the JSON of its own"
)]
struct FolderView<'a> {
    name: &'a str,
    level: bool,
    late: bool,
    begun: bool,
    lag_seconds: u64,
    max_lag_seconds: u64,
    queued_files: u64,
    queued_bytes: u64,
    sent_bytes: u64,
    rate_bytes_per_second: u64,
    seconds_left: Option<u64>,
    failed: u64,
    parked: u64,
    retries: u64,
    unsyncable: u64,
    held: u64,
    deletes: u64,
    outage: bool,
    away: bool,
    paused_since: Option<String>,
    last_scan: Option<String>,
    #[serde(flatten)]
    names: Option<Names<'a>>,
}

/// What only the token shows.
#[derive(Debug, Serialize)]
struct Names<'a> {
    path: &'a str,
    to: &'a str,
    watch: &'a str,
    watches_used: Option<u64>,
    watches_allowed: Option<u64>,
    brake: Option<&'a str>,
    lease: Option<&'a str>,
    lease_is_advisory: bool,
    outage_since: Option<String>,
    /// Why the bucket, the folder or the catalog cannot be used.
    troubles: Vec<&'a str>,
    going_up: Vec<UpStatus>,
    failing: Vec<Failing>,
}

/// A path that fails.
#[derive(Clone, Debug, Serialize)]
pub struct Failing {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_base64: Option<String>,
    error: String,
    attempts: u32,
    /// Until when it is left alone unless it changes, RFC 3339; `None`: it is tried again soon.
    parked_until: Option<String>,
}

/// Puts the state into JSON, as far as the one who asks may know it. `failing` has the failing paths of each folder, in the
/// order of the snapshots; it may be shorter.
pub fn text(
    page: &Page,
    knows: Knows,
    snapshots: &[FolderSnapshot],
    mut failing: Vec<Vec<Failing>>,
    now_ns: i64,
) -> String {
    failing.resize(snapshots.len(), Vec::new());
    let folders = snapshots.iter().zip(failing);
    let folders = folders.map(|(snapshot, failing)| FolderView {
        names: (knows == Knows::Names).then(|| names(snapshot, failing)),
        ..counts(snapshot)
    });
    let reasons = ready::reasons(snapshots, page.board.stuck());
    let view = View {
        version: env!("CARGO_PKG_VERSION"),
        at: rfc3339_millis(now_ns),
        started: rfc3339(page.started_ns),
        knows: knows == Knows::Names,
        ready: reasons.is_empty(),
        reasons,
        folders: folders.collect(),
        deeds: Deed::ALL,
        cost: (knows == Knows::Names).then(|| spent(&page.bill.cost())),
        recent: (knows == Knows::Names).then(|| page.recent.lines()),
    };
    serde_json::to_string(&view).unwrap_or_else(|_| "{}".to_owned())
}

fn spent(cost: &Cost) -> Spent {
    let show = |micros| price::show(micros, &cost.currency);
    Spent {
        today: show(cost.today.cost),
        month: show(cost.month.cost),
        month_at_this_pace: show(cost.month_at_this_pace),
        budget: cost.budget.map(show),
        is_over: cost.is_over(),
    }
}

fn counts(snapshot: &FolderSnapshot) -> FolderView<'_> {
    FolderView {
        name: &snapshot.name,
        level: snapshot.level,
        late: snapshot.is_late(),
        begun: snapshot.begun,
        lag_seconds: snapshot.lag_seconds,
        max_lag_seconds: snapshot.max_lag_seconds,
        queued_files: snapshot.queued_files,
        queued_bytes: snapshot.queued_bytes,
        sent_bytes: snapshot.sent_bytes,
        rate_bytes_per_second: snapshot.rate_bytes_per_second,
        seconds_left: snapshot.seconds_left,
        failed: snapshot.failed,
        parked: snapshot.parked,
        retries: snapshot.retries,
        unsyncable: snapshot.unsyncable,
        held: snapshot.held,
        deletes: snapshot.deletes,
        outage: snapshot.outage.is_some(),
        away: snapshot.away.is_some(),
        paused_since: snapshot.paused_ns.map(rfc3339),
        last_scan: snapshot.last_scan_ns.map(rfc3339),
        names: None,
    }
}

fn names(snapshot: &FolderSnapshot, failing: Vec<Failing>) -> Names<'_> {
    let outage = snapshot.outage.as_ref();
    let troubles = [
        snapshot.away.as_deref(),
        outage.map(|(_, why)| why.as_str()),
        snapshot.catalog.as_deref(),
    ];
    Names {
        path: &snapshot.path,
        to: &snapshot.to,
        watch: &snapshot.watch,
        watches_used: snapshot.watches_used,
        watches_allowed: snapshot.watches_allowed,
        brake: snapshot.brake.as_deref(),
        lease: snapshot.lease.as_deref(),
        lease_is_advisory: snapshot.lease_is_advisory,
        outage_since: outage.map(|(since_ns, _)| rfc3339(*since_ns)),
        troubles: troubles.into_iter().flatten().collect(),
        going_up: snapshot.going_up.iter().map(UpStatus::of).collect(),
        failing,
    }
}

/// Reads which paths of each folder fail, and why; nothing of a folder whose rows cannot be read now. Blocks.
pub fn failing(manifest: &Manifest, snapshots: &[FolderSnapshot]) -> Vec<Vec<Failing>> {
    let rows = manifest.folders().unwrap_or_default();
    let of = |snapshot: &FolderSnapshot| {
        let mut rows = rows.iter();
        let row = rows.find(|row| is_same(row, &snapshot.path, &snapshot.to));
        let row = row.filter(|_| snapshot.failed > 0)?;
        let failures = manifest.failures(row.id, NAMED).ok()?;
        let failing = failures.into_iter().map(|(path, failure)| {
            let (path, path_base64) = told(path.as_bytes());
            Failing {
                path: path.into_owned(),
                path_base64,
                error: failure.error,
                attempts: failure.attempts,
                parked_until: failure.parked.map(|parked| rfc3339(parked.until_ns)),
            }
        });
        Some(failing.collect())
    };
    snapshots
        .iter()
        .map(|snapshot| of(snapshot).unwrap_or_default())
        .collect()
}

/// Returns true if a row is that of the folder with this path and URL, as people see them.
pub fn is_same(row: &crate::manifest::FolderRow, path: &str, to: &str) -> bool {
    crate::base::path::escaped(&row.key.path) == path && crate::commands::status::target(row) == to
}
