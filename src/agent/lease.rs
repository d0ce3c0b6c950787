//! The loop's part in owning the prefix: it takes the lease, renews it, waits for another's, and gives it back.
//!
//! - Overview: one request at a time, beside everything else and past its limits. While the lease is not held nothing that
//!   changes the bucket begins; the [`Fence`] before the store holds that also for what had begun.
//! - Errors: a request that failed is tried again at growing pauses. In an outage that is the question whether the store is
//!   back: no job is tried before the lease is held again.
//! - After a crash: the next process with the same state folder takes the lease over at once, another one when it is over.
//! - Does not protect against: another agent on a store that ignores conditions, within the moment between two looks.

mod desk;

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::agent::lease::desk::{Desk, Held, Outcome, Rows};
use crate::agent::{Folder, Loop, Mode, Reason};
use crate::base::backoff;
use crate::base::clock::Now;
use crate::store::fence::{Fence, Fenced};
use crate::store::key::LEASE;
use crate::store::{ErrorKind, Store};
use crate::sync::Lane;
use crate::sync::lease::{Claim, GRAIN, Holder, LONG, MARGIN, SHORT, Trust};
use crate::sync::plan::HORIZON_NS;

/// How soon a lease for [`SHORT`] is renewed: twice more before it is over.
const RENEW_SHORT: Duration = Duration::from_secs(20);
/// How soon one for [`LONG`] is: 360 requests a day.
const RENEW_LONG: Duration = Duration::from_secs(240);
/// How long a run that has to end waits for another's lease: until one is over that was renewed just now.
const WAIT: Duration = Duration::from_secs(60 + 2 * GRAIN.as_secs());
/// How often another's lease is looked at meanwhile.
const LOOK_ONCE: Duration = Duration::from_secs(5);
/// How often it is by one that stays: it may be given back early.
const LOOK: Duration = Duration::from_secs(60);
/// The longest pause after a failure, for one that stays and for a run that has to end.
const RETRY: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(5));
/// How long to wait before looking who has won, where the store ignores conditions: longer than most requests take.
const SETTLES: Duration = Duration::from_secs(1);
/// How long after it was due a request may be without any answer, an error's included. One that is not answered takes some
/// 50 s with all its repeats before it is an error; a second one may follow it.
const UNANSWERED: Duration = Duration::from_secs(120);
/// How long what another agent has sent may still land.
const HORIZON: Duration = Duration::from_nanos(HORIZON_NS.unsigned_abs());
/// How long giving it back may keep a process from ending.
const GIVE_BACK: Duration = Duration::from_secs(5);

/// The lease of one folder; without an owner there is none, and everything may be sent.
pub(super) struct Lease {
    /// The request that is on its way; at most one.
    pub tasks: JoinSet<Report>,
    on: Option<On>,
}

struct On {
    desk: Desk,
    fence: Arc<Fence>,
    claim: Claim,
    /// What was last written that counts.
    held: Option<Held>,
    /// No request before that.
    not_before: Instant,
    /// When the last one was sent.
    asked: Instant,
    failures: u32,
    trouble: Option<Trouble>,
    waits: Option<Waits>,
    /// Whether another agent has taken it from us.
    is_lost: bool,
    /// It is held, and opens when what ran under the one before has ended: that knows nothing of what another did.
    is_shut: bool,
    /// Since when there is work.
    works_since: Option<Instant>,
}

struct Trouble {
    kind: ErrorKind,
    why: String,
}

/// Another's lease is waited for.
struct Waits {
    holder: Holder,
    since: Instant,
    looked: Instant,
}

/// What came of an attempt.
pub(super) struct Report {
    claim: Claim,
    outcome: Outcome,
}

impl Lease {
    /// Makes a folder's, and the store that its holder may change; where nobody wants to own the prefix that is the
    /// folder's own.
    pub fn new(folder: &Folder) -> (Self, Arc<dyn Store>) {
        let (clock, store) = (folder.clock, folder.store.clone());
        let Some(owner) = folder.owner.clone() else {
            return (Self::of(None), store);
        };
        let fence = Arc::new(Fence::new(clock));
        let fenced = Arc::new(Fenced::new(store.clone(), fence.clone()));
        let on = On {
            desk: Desk {
                store,
                key: folder.keys.reserved(LEASE),
                clock,
                fence: fence.clone(),
                rows: Rows {
                    manifest: folder.manifest.clone(),
                    folder: folder.row.id,
                    offload: folder.offload,
                },
            },
            fence,
            claim: Claim::new(owner, &folder.name),
            held: None,
            not_before: clock.now().mono,
            asked: clock.now().mono,
            failures: 0,
            trouble: None,
            waits: None,
            is_lost: false,
            is_shut: false,
            works_since: None,
        };
        (Self::of(Some(on)), fenced)
    }

    fn of(on: Option<On>) -> Self {
        Self {
            tasks: JoinSet::new(),
            on,
        }
    }

    /// Returns true if what changes the bucket may be begun.
    pub fn is_held(&self, now: Now) -> bool {
        self.on.as_ref().is_none_or(|on| on.fence.is_open(now))
    }

    /// Returns true unless another agent is known to own the prefix, or nobody has asked yet.
    pub fn is_settled(&self) -> bool {
        self.on.as_ref().is_none_or(|on| on.held.is_some())
    }

    /// Returns true if another agent is known to own the prefix.
    pub fn is_anothers(&self) -> bool {
        self.on.as_ref().is_some_and(|on| on.waits.is_some())
    }

    /// Returns true while the store keeps us from having it, and not another agent.
    pub fn wants_the_store(&self, now: Now) -> bool {
        let is_kept =
            |on: &On| on.waits.is_none() && (on.trouble.is_some() || !self.tasks.is_empty());
        !self.is_held(now) && self.on.as_ref().is_some_and(is_kept)
    }

    /// Returns when the next request is due; `None` while one is on its way.
    fn next_at(&self, now: Now) -> Option<Instant> {
        let on = self.on.as_ref().filter(|_| self.tasks.is_empty())?;
        let due = match &on.held {
            Some(held) if on.fence.is_open(now) || on.is_shut => {
                let works = on
                    .works_since
                    .map(|since| since.max(held.sent.mono) + RENEW_SHORT);
                let usual = held.sent.mono + renewal(held.lasts);
                works.map_or(usual, |works| works.min(usual))
            }
            _ => now.mono,
        };
        Some(due.max(on.not_before))
    }

    /// Returns by when the store has to have answered the request that is on its way or comes next; `None`: no lease.
    pub fn answer_due(&self, now: Now) -> Option<Instant> {
        let asked = self.on.as_ref()?.asked;
        Some(self.next_at(now).unwrap_or(asked) + UNANSWERED)
    }

    /// Says why it is not held.
    pub fn why_not(&self, now: Now) -> Option<String> {
        let on = self.on.as_ref().filter(|on| !on.fence.is_open(now))?;
        if let Some(waits) = &on.waits {
            return Some(format!("waiting for the lease of {}", waits.holder));
        }
        on.trouble.as_ref().map(|trouble| trouble.why.clone())
    }

    /// Says who has it, where that is known, and until when unless it is renewed, wall clock, nanoseconds.
    pub fn owner(&self, now: Now) -> (Option<String>, Option<i64>) {
        let Some(on) = &self.on else {
            return (None, None);
        };
        if let Some(Waits { holder, .. }) = &on.waits {
            return (Some(holder.to_string()), holder.until_ns);
        }
        let held = on.held.as_ref().filter(|_| on.fence.is_open(now));
        let until_ns = held.map(|held| held.sent.plus(held.lasts).wall_ns);
        (held.map(|_| "this agent".to_owned()), until_ns)
    }

    /// Says what people should know of it; `None` if it is held, and keeps others out.
    pub fn words(&self, now: Now) -> Option<String> {
        self.on.as_ref()?;
        if let Some(words) = self.why_not(now) {
            return Some(words);
        }
        let words = || "the store ignores conditions: the lease is advisory".to_owned();
        self.is_advisory(now).then(words)
    }

    /// Returns true if it is held, and keeps nobody out who does not look.
    pub fn is_advisory(&self, now: Now) -> bool {
        let is_untrusted = |on: &On| Trust::of(&on.desk.store.features()) == Trust::None;
        self.why_not(now).is_none() && self.on.as_ref().is_some_and(is_untrusted)
    }
}

/// Returns how soon a lease that was taken for so long is renewed.
fn renewal(lasts: Duration) -> Duration {
    if lasts < LONG {
        RENEW_SHORT
    } else {
        RENEW_LONG
    }
}

impl Loop {
    /// Sends what the lease needs when it is due.
    pub(super) fn start_leasing(&mut self, now: Now) {
        let is_working = self.is_working(now);
        let is_idle = self.jobs.is_empty();
        let Some(on) = &mut self.lease.on else {
            return;
        };
        if on.is_shut && is_idle {
            on.is_shut = false;
            if let Some(held) = &on.held {
                on.fence.open(held.sent, held.lasts.saturating_sub(MARGIN));
            }
        }
        if is_working {
            on.works_since.get_or_insert(now.mono);
        } else {
            on.works_since = None;
        }
        let is_due = self.lease_due(now).is_some_and(|due| due <= now.mono);
        let Some(on) = self.lease.on.as_mut().filter(|_| is_due) else {
            return;
        };
        on.asked = now.mono;
        let lasts = match (self.mode, on.works_since, &on.held) {
            (Mode::Forever, None, Some(_)) => LONG,
            _ => SHORT,
        };
        let (desk, mut claim, held) = (on.desk.clone(), on.claim.clone(), on.held.clone());
        // It may land without an answer, and then counts for no longer than it says.
        on.fence.cap(now, lasts.saturating_sub(MARGIN));
        let settles = SETTLES.mul_f64(1.0 + self.random.f64());
        self.lease.tasks.spawn(async move {
            let outcome = desk.seek(&mut claim, held, lasts, settles).await;
            Report { claim, outcome }
        });
    }

    /// Returns when the lease needs a request; a process that ends only renews what it holds.
    pub(super) fn lease_due(&self, now: Now) -> Option<Instant> {
        let on = self.lease.on.as_ref()?;
        let is_wanted = self.stopping.is_none() || on.held.is_some();
        self.lease.next_at(now).filter(|_| is_wanted)
    }

    /// Returns true while there is something to send, or will be before a short lease is renewed.
    fn is_working(&self, now: Now) -> bool {
        let soon = now.mono + RENEW_SHORT;
        let is_soon = |lane: &Lane| {
            let due = self.queue.next_due(*lane);
            due.is_some_and(|due| due <= soon) && !self.is_paused()
        };
        !self.jobs.is_empty()
            || self.contact.is_running()
            || self.trash.is_running()
            || !self.deletes.is_done()
            || [Lane::Live, Lane::Backlog].iter().any(is_soon)
    }

    /// Takes what came of an attempt.
    pub(super) fn leased(&mut self, report: Report, now: Now) {
        let Report { claim, outcome } = report;
        let Some(on) = &mut self.lease.on else {
            return;
        };
        on.claim = claim;
        let folder = self.teller.name();
        match outcome {
            Outcome::Held(held, from) => self.holds(held, from, now),
            Outcome::Taken(holder) => {
                on.fence.close();
                on.is_shut = false;
                self.contact.interrupt();
                let was_ours = on.held.take().is_some();
                if was_ours {
                    on.is_lost = true;
                    tracing::warn!(
                        folder,
                        "lost the lease of the prefix: another agent took it, {holder}; nothing is sent until it ends"
                    );
                } else if on.waits.is_none() {
                    tracing::warn!(
                        folder,
                        "waiting for the lease of {holder}: nothing is sent until it ends"
                    );
                }
                let since = on.waits.as_ref().map_or(now.mono, |waits| waits.since);
                let look = match self.mode {
                    Mode::Forever => LOOK.mul_f64(1.0 - self.random.f64() / 10.0),
                    Mode::Once { .. } => LOOK_ONCE,
                };
                // At least a second: what is over by now was not when it was looked at.
                let pause = holder.left.clamp(Duration::from_secs(1), look);
                (on.failures, on.trouble) = (0, None);
                on.not_before = now.mono + pause;
                on.waits = Some(Waits {
                    holder,
                    since,
                    looked: now.mono,
                });
            }
            Outcome::Failed(error) => {
                on.failures += 1;
                let longest = match self.mode {
                    Mode::Forever => RETRY.0,
                    Mode::Once { .. } => RETRY.1,
                };
                let first = Duration::from_secs(1);
                on.not_before =
                    now.mono + backoff::pause(on.failures, first, longest, &mut self.random);
                let needs = match error.kind {
                    ErrorKind::Denied => {
                        "; these credentials have to read and write below `.tidewatch/` of the prefix, where the lease is"
                    }
                    _ => "",
                };
                let why = format!("could not hold the lease of the prefix: {error}{needs}");
                // Of what is an outage, its own line says the same.
                let is_outage = matches!(
                    error.kind,
                    ErrorKind::Barred | ErrorKind::Network | ErrorKind::NotFound
                );
                if on.failures == 1 && !self.outage.is_on() && !is_outage {
                    tracing::warn!(folder, "{why}; it is tried again");
                }
                let kind = error.kind;
                if error.is_everyones() {
                    self.outage.suspect(kind, &why);
                }
                on.trouble = Some(Trouble { kind, why });
            }
        }
    }

    /// The lease is held, for so long from when its request was sent.
    fn holds(&mut self, held: Held, from: Option<Holder>, now: Now) {
        let (was_held, has_failed) = (self.lease.is_held(now), self.queue.has_failed());
        let Some(on) = &mut self.lease.on else {
            return;
        };
        let folder = self.teller.name();
        let (follows, is_behind) = (on.claim.follows(), on.claim.is_behind());
        on.claim.looks_again();
        on.is_shut = (on.is_shut || follows) && !self.jobs.is_empty();
        if on.is_shut {
            on.fence.close();
        } else {
            on.fence.open(held.sent, held.lasts.saturating_sub(MARGIN));
        }
        let (key, waited) = (&on.desk.key, on.waits.take().is_some());
        if let Some(from) = from {
            tracing::warn!(
                folder,
                "the lease `{key}` was taken from {from}, as --take-over says"
            );
        } else if waited {
            tracing::info!(
                folder,
                "the lease `{key}` is ours now: what has waited goes on"
            );
        } else if on.failures > 0 {
            tracing::info!(folder, "the lease `{key}` is held again");
        }
        (on.held, on.failures, on.trouble) = (Some(held), 0, None);
        on.is_lost = false;
        on.not_before = now.mono;
        if follows {
            self.contact.list_after(now.mono + HORIZON);
        }
        let looks_again = follows && self.contact.again();
        if is_behind {
            tracing::warn!(
                folder,
                "the state folder is older than the bucket, an old copy was put back or a copy of it is at work somewhere else: \
                 everything in the bucket is looked at again"
            );
        } else if looks_again {
            tracing::info!(
                folder,
                "another agent had the prefix: everything in the bucket is looked at again"
            );
        }
        // A small object passes where files may not: of those, one tries.
        if self.outage.is_the_lines() && !has_failed {
            self.store_works(now);
        } else {
            self.outage.try_now(now);
        }
        if !was_held {
            self.queue.wake_failed(now);
        }
    }

    /// Returns why a run that has to end does so without the lease.
    pub(super) fn ends_without_lease(&self, timeout: Duration, now: Now) -> Option<Reason> {
        let on = self.lease.on.as_ref()?;
        let is_denied = |trouble: &&Trouble| trouble.kind == ErrorKind::Denied;
        let denied = on.trouble.as_ref().filter(is_denied);
        if let Some(denied) = denied.filter(|_| !on.fence.is_open(now)) {
            return Some(Reason::Store(denied.why.clone()));
        }
        let waits = on.waits.as_ref()?;
        let until = waits.since + WAIT.min(timeout);
        // Looks that fail say nothing of when it ends.
        let known = if on.failures > 0 {
            now.mono
        } else {
            waits.looked
        };
        let is_over = known >= until || (on.is_lost && self.lease.tasks.is_empty());
        let holder = &waits.holder;
        is_over.then(|| {
            Reason::Taken(format!(
                "another agent owns the prefix: {holder}; end that one, or take it from it with --take-over"
            ))
        })
    }

    /// Gives the lease back, so that nobody has to wait for its end.
    pub(super) async fn give_lease_back(&mut self) {
        let Some(on) = &mut self.lease.on else {
            return;
        };
        let clock = on.desk.clock;
        let tasks = &mut self.lease.tasks;
        let given = tokio::time::timeout(GIVE_BACK, async {
            // A renewal that is on its way changes what there is to give back.
            if let Some(Ok(report)) = tasks.join_next().await {
                on.claim = report.claim;
                on.held = match report.outcome {
                    Outcome::Held(held, _) => Some(held),
                    Outcome::Taken(_) => None,
                    Outcome::Failed(_) => on.held.take(),
                };
            }
            let is_open = on.fence.is_open(clock.now());
            on.fence.close();
            match on.held.take().filter(|_| is_open) {
                Some(held) => on.desk.give_back(&mut on.claim, held).await,
                None => Ok(()),
            }
        });
        let why = match given.await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        tracing::debug!(folder = %self.teller.name(), "the lease was not given back: {why}; it ends by itself");
    }
}
