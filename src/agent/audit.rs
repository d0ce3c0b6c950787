//! The loop's part in the audit: now and then the rows are held against the bucket's listing, as `verify` does.
//!
//! - Overview: what somebody else has removed or changed is believed no more, and sent again as any other file is; what lies
//!   under its key is set aside first. An object that is wrong once more at the next audit is not sent a third time: its file
//!   is parked. Objects without a row are left alone.
//! - Cost: one request for a thousand objects, and one for each that does not look right; a page of rows and of the listing
//!   in memory. Uploads go on meanwhile.
//! - Errors and retries: tried again after an hour, then later. In an outage nothing is tried.
//! - After a crash: it begins anew. When the last one ended is in the manifest.

pub mod compare;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::agent::audit::compare::{
    Judge, Rows, Sight, There, Verdict, compare, is_odd, settle, short,
};
use crate::agent::control::Mending;
use crate::agent::{Loop, Mode, Pending, Then};
use crate::base::clock::Now;
use crate::base::offload::joined;
use crate::base::path::RelPath;
use crate::base::snapshot::What;
use crate::manifest::{self, Change, Entry, Failure, Mark, Marks, Mend, Parked, Remote, State};
use crate::store::key::KeyMap;
use crate::store::{self, ErrorKind, Page};
use crate::sync::Lane;
use crate::sync::file::Ctx;
use crate::sync::plan;

/// The first pause after a failure; doubled with each, up to [`LONGEST`].
const RETRY: Duration = Duration::from_secs(3600);
/// The longest pause after a failure.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// The most files that one audit sends again; the next one comes after [`RETRY`] then.
const MOST: usize = 10_000;
/// How long a file is left alone whose object was wrong at two audits in a row.
const PARK: Duration = Duration::from_secs(30 * 24 * 3600);
/// Paths that are looked at at once.
const LOOKS: usize = 8;

/// What is said of a file whose object is wrong at two audits in a row.
const AGAIN: &str = "its object was wrong again after it had been sent again: somebody else changes it, or the store does not keep what it is given";

pub(super) struct Audit {
    pub tasks: JoinSet<Report>,
    every: Option<Duration>,
    due: Option<Instant>,
    failures: u32,
    /// What the last one has found wrong.
    wrong: BTreeSet<RelPath>,
}

/// How an audit ended.
pub(super) type Report = Result<Found, Trouble>;

/// What an audit has found.
#[derive(Default)]
pub(super) struct Found {
    compared: u64,
    missing: u64,
    changed: u64,
    /// An example.
    first: Option<RelPath>,
    mends: Vec<Mend>,
}

/// Why an audit came to no end.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error("{0}")]
    Bucket(#[from] store::Error),
    #[error("{0}")]
    Manifest(#[from] manifest::Error),
}

impl Audit {
    pub fn new(every: Option<Duration>, mode: Mode) -> Self {
        Self {
            tasks: JoinSet::new(),
            every: every.filter(|_| mode == Mode::Forever),
            due: None,
            failures: 0,
            wrong: BTreeSet::new(),
        }
    }

    pub fn stop(&mut self) {
        self.tasks.abort_all();
    }
}

impl Loop {
    /// Takes when the last one of a former run ended; the time before the first counts from now.
    pub(super) fn recall_audit(&mut self, marks: &Marks, now: Now) {
        let Some(every) = self.audit.every else {
            return;
        };
        let last_ns = marks.audited_ns.or(marks.audits_from_ns);
        let since_ns = now.wall_ns.saturating_sub(last_ns.unwrap_or(now.wall_ns));
        let since = Duration::from_nanos(u64::try_from(since_ns).unwrap_or(0));
        self.audit.due = Some(now.mono + every.saturating_sub(since));
        if last_ns.is_none() {
            self.mark(Mark::AuditsFrom(now.wall_ns));
        }
    }

    /// Keeps when something was done, with the next commit.
    pub(super) fn mark(&mut self, mark: Mark) {
        self.teller.marked(mark);
        self.pending.push_back(Pending {
            changes: vec![Change::Mark(mark)],
            then: Then::Nothing,
        });
    }

    /// Begins an audit when it is time.
    pub(super) fn start_auditing(&mut self, now: Now) {
        if self.audit_wake(now).is_none_or(|at| at > now.mono) {
            return;
        }
        self.audit.due = None;
        let park_ns = i64::try_from(PARK.as_nanos()).unwrap_or(i64::MAX);
        let eyes = Arc::new(Eyes {
            ctx: self.ctx.clone(),
            wrong_before: self.audit.wrong.clone(),
            parked_until_ns: now.wall_ns.saturating_add(park_ns),
        });
        self.audit.tasks.spawn(audit(eyes));
    }

    pub(super) fn audit_wake(&self, now: Now) -> Option<Instant> {
        let may = self.audit.tasks.is_empty()
            && !self.is_paused()
            && self.contact.is_done()
            && self.lease.is_held(now)
            && !self.outage.is_on();
        let due = self.audit.due.filter(|_| may)?;
        Some(self.outage.calm_until(now).map_or(due, |at| due.max(at)))
    }

    pub(super) fn audited(&mut self, report: Report, now: Now) {
        let Some(every) = self.audit.every else {
            return;
        };
        let found = match report {
            // Who has the prefix now changes objects by right.
            Ok(_) if !self.lease.is_held(now) => {
                self.audit.due = Some(now.mono + RETRY.min(every));
                return;
            }
            Ok(found) => found,
            Err(error) => {
                let pause = RETRY.saturating_mul(1 << self.audit.failures.min(5));
                let pause = pause.min(LONGEST).min(every);
                self.audit.failures += 1;
                self.audit.due = Some(now.mono + pause);
                if self.audit.failures == 1 {
                    let folder = self.teller.name();
                    tracing::warn!(
                        folder,
                        "could not compare the bucket with what is known: {error}; it is tried again"
                    );
                }
                return;
            }
        };
        self.audit.failures = 0;
        let is_all = found.mends.len() < MOST;
        self.audit.due = Some(now.mono + if is_all { every } else { RETRY.min(every) });
        self.mark(Mark::Audited(now.wall_ns));
        self.audit.wrong = found.mends.iter().map(|mend| mend.path.clone()).collect();
        self.tell_audit(found.compared, (found.missing, found.changed), found.first);
        for mend in &found.mends {
            if let Some(failure) = &mend.failure {
                let why = failure.error.clone();
                self.teller
                    .tell(What::Failed, &mend.path, None, 0, Some(why.clone()));
                self.failing.insert(mend.path.clone(), why);
                self.parked.insert(mend.path.clone());
            }
        }
        if !found.mends.is_empty() {
            // Nobody waits for the answer.
            self.mends
                .push(Mending::new(found.mends, oneshot::channel().0));
        }
    }

    fn tell_audit(&self, compared: u64, (missing, changed): (u64, u64), first: Option<RelPath>) {
        let folder = self.teller.name();
        match first {
            None => tracing::info!(folder, compared, "the bucket holds what is known of it"),
            Some(path) => tracing::warn!(
                folder,
                compared,
                missing,
                changed,
                %path,
                "somebody else has removed or changed objects; their files are sent again"
            ),
        }
    }
}

/// Compares everything.
async fn audit(eyes: Arc<Eyes>) -> Report {
    let mut hand = Hand {
        eyes: eyes.clone(),
        looks: JoinSet::new(),
        found: Found::default(),
    };
    let merged = compare(&eyes, &mut hand).await?;
    if merged.has_odd {
        let mut rows = eyes.rows();
        while let Some(row) = rows.next().await? {
            let keys = &eyes.ctx.keys;
            let Some(key) = plan::certain(&row).and_then(|_| keys.key(&row.path).ok()) else {
                continue;
            };
            if is_odd(keys.prefix(), &key) && !merged.seen.contains(&short(row.path.as_bytes())) {
                hand.path(row.path, key).await?;
            }
        }
    }
    while !hand.looks.is_empty() {
        hand.take().await?;
    }
    Ok(hand.found)
}

/// The folder and its bucket.
struct Eyes {
    ctx: Arc<Ctx>,
    /// What the last audit has found wrong.
    wrong_before: BTreeSet<RelPath>,
    /// Until when is left alone what is wrong again, wall clock, nanoseconds.
    parked_until_ns: i64,
}

#[async_trait]
impl Sight for Eyes {
    type Error = Trouble;

    fn keys(&self) -> &KeyMap {
        &self.ctx.keys
    }

    fn rows(&self) -> Rows {
        Rows::new(self.ctx.manifest.clone(), self.ctx.folder, self.ctx.offload)
    }

    async fn list(&self, token: Option<String>) -> Result<Page, Trouble> {
        let _permit = self.ctx.limits.request(Lane::Backlog).await;
        Ok(self.ctx.store.list(self.ctx.keys.prefix(), token).await?)
    }

    async fn entry(&self, path: &RelPath) -> Result<Option<Entry>, Trouble> {
        Ok(self.entries(vec![path.clone()]).await?.pop().flatten())
    }

    async fn entries(&self, paths: Vec<RelPath>) -> Result<Vec<Option<Entry>>, Trouble> {
        let (manifest, folder) = (self.ctx.manifest.clone(), self.ctx.folder);
        let read = self
            .ctx
            .offload
            .run(move || manifest.entries(folder, &paths));
        Ok(read.await?)
    }

    async fn head(&self, _: &RelPath, key: &str) -> Result<There, Trouble> {
        let _permit = self.ctx.limits.request(Lane::Backlog).await;
        match self.ctx.store.head(key).await {
            Ok(object) => Ok(There::Object(Box::new(object))),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(There::Nothing),
            Err(error) if error.is_everyones() => Err(error.into()),
            Err(_) => Ok(There::Unknown),
        }
    }
}

/// Looks at what does not look equal, some at once.
struct Hand {
    eyes: Arc<Eyes>,
    looks: JoinSet<Result<(String, Verdict), Trouble>>,
    found: Found,
}

impl Hand {
    async fn take(&mut self) -> Result<(), Trouble> {
        let Some(look) = self.looks.join_next().await.and_then(joined) else {
            return Ok(());
        };
        let (key, verdict) = look?;
        match verdict {
            Verdict::Missing(row) => self.wrong(&row, None),
            Verdict::Changed(row, object) => {
                // Another ETag of what is ours by its own account: a store that makes a new one when it moves objects.
                let stored = row.stored.as_ref().map(|stored| stored.sha256);
                if object.sha256().is_some() && object.sha256() == stored {
                    return Ok(());
                }
                let (size, etag) = (object.size, object.etag);
                self.wrong(&row, Some(Remote { key, size, etag }));
            }
            Verdict::Same | Verdict::Extra | Verdict::Waits | Verdict::Unknown => {}
        }
        Ok(())
    }

    /// Takes note of a row whose object is not what it says; of a file that is gone there is nothing to send.
    fn wrong(&mut self, row: &Entry, there: Option<Remote>) {
        let Some(stored) = row.stored.as_ref().filter(|_| row.state == State::Synced) else {
            return;
        };
        let found = &mut self.found;
        if found.mends.len() >= MOST {
            return;
        }
        *(if there.is_some() {
            &mut found.changed
        } else {
            &mut found.missing
        }) += 1;
        found.first.get_or_insert_with(|| row.path.clone());
        found.mends.push(Mend {
            path: row.path.clone(),
            sha256: stored.sha256,
            etag: stored.etag.clone(),
            there,
            failure: self.eyes.wrong_before.contains(&row.path).then(|| Failure {
                attempts: 1,
                error: AGAIN.to_owned(),
                parked: Some(Box::new(Parked {
                    until_ns: self.eyes.parked_until_ns,
                    seen: stored.stat.fingerprint(),
                })),
            }),
        });
    }
}

#[async_trait]
impl Judge for Hand {
    type Error = Trouble;

    fn met(&mut self, _: &Entry, claims: bool) {
        self.found.compared += u64::from(claims);
    }

    async fn path(&mut self, path: RelPath, key: String) -> Result<(), Trouble> {
        while self.looks.len() >= LOOKS {
            self.take().await?;
        }
        let eyes = self.eyes.clone();
        self.looks.spawn(async move {
            let verdict = settle(&*eyes, &path, &key).await?;
            Ok((key, verdict))
        });
        Ok(())
    }

    async fn key(&mut self, _: &str) -> Result<(), Trouble> {
        Ok(())
    }
}
