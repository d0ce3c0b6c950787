//! Trouble that is everyone's: the endpoint, the bucket, the credentials.
//!
//! A job's error only makes us suspect it; one question to the bucket confirms. Where the bucket answers and yet nine of
//! ten attempts fail, there is an outage too; and what says so in as many words (credentials that nobody knows, a full
//! disk) is believed at once. From then on one job at a time tries whether the store is back, at growing pauses, for ever.
//! One line when an outage begins and one when it ends. A full bucket keeps only what adds to it from going on.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::agent::{Loop, Mode};
use crate::base::clock::Now;
use crate::base::path::RelPath;
use crate::base::units::show_duration;
use crate::store::{self, ErrorKind};
use crate::sync::Lane;

/// The first pause between two tries.
const FIRST: Duration = Duration::from_secs(1);
/// The pause between two tries of a full bucket: a person makes room, which takes a while.
const FULL: Duration = Duration::from_secs(60);
/// Attempts that are looked at, and how many of them may fail before there is an outage whatever the bucket says: nine of
/// ten.
const RECENT: usize = 50;
const RECENT_FAILED: usize = 45;
/// The longest that a store is left alone because it asked to.
pub(in crate::agent) const CALM_MOST: Duration = Duration::from_secs(3600);

pub(super) struct Outage {
    /// The questions that are on their way; at most one.
    pub probes: JoinSet<store::Result<()>>,
    suspected: Option<ErrorKind>,
    on: Option<On>,
    longest_pause: Duration,
    /// Whether each of the last attempts failed for everyone's trouble.
    recent: VecDeque<bool>,
    /// The store has asked to be left alone until then.
    calm_until: Option<Instant>,
    /// The last everyone's error, for people.
    last_error: String,
    /// Paths whose last try met trouble that may be everyone's, and that wait for the next one.
    waiting: BTreeSet<RelPath>,
}

struct On {
    since: Now,
    kind: ErrorKind,
    why: String,
    next: Instant,
    pause: Duration,
    trial: Option<RelPath>,
}

impl Outage {
    pub fn new(mode: Mode) -> Self {
        let longest_pause = match mode {
            Mode::Forever => Duration::from_secs(60),
            Mode::Once { .. } => Duration::from_secs(5),
        };
        Self {
            probes: JoinSet::new(),
            suspected: None,
            on: None,
            longest_pause,
            recent: VecDeque::with_capacity(RECENT),
            calm_until: None,
            last_error: "no answer".to_owned(),
            waiting: BTreeSet::new(),
        }
    }

    pub fn is_on(&self) -> bool {
        self.on.is_some()
    }

    /// Returns true if waiting does not help: a person has to do something.
    pub fn is_final(&self) -> bool {
        self.on.as_ref().is_some_and(|on| {
            matches!(
                on.kind,
                ErrorKind::Denied | ErrorKind::Barred | ErrorKind::NotFound
            )
        })
    }

    pub fn why(&self) -> String {
        self.on
            .as_ref()
            .map_or_else(|| self.last_error.clone(), |on| on.why.clone())
    }

    pub fn since(&self) -> Option<(i64, String)> {
        self.on
            .as_ref()
            .map(|on| (on.since.wall_ns, on.why.clone()))
    }

    pub fn next_at(&self) -> Option<Instant> {
        self.on
            .as_ref()
            .filter(|on| on.trial.is_none() && self.probes.is_empty())
            .map(|on| on.next)
    }

    /// Something met trouble that may be everyone's.
    pub fn suspect(&mut self, kind: ErrorKind, why: &str) {
        why.clone_into(&mut self.last_error);
        if self.on.is_none() {
            self.suspected = Some(kind);
        }
    }

    /// Returns true while the bucket takes nothing new, but lets objects be removed.
    pub fn is_full(&self) -> bool {
        self.on
            .as_ref()
            .is_some_and(|on| on.kind == ErrorKind::Full)
    }

    /// Returns true while there is one that any answer ends.
    pub fn is_the_lines(&self) -> bool {
        self.on
            .as_ref()
            .is_some_and(|on| matches!(on.kind, ErrorKind::Network | ErrorKind::Barred))
    }

    /// There is reason to try at once.
    pub fn try_now(&mut self, now: Now) {
        if let Some(on) = &mut self.on {
            on.next = now.mono;
        }
    }

    /// Returns until when the store has asked to be left alone, if that is to come.
    pub fn calm_until(&self, now: Now) -> Option<Instant> {
        self.calm_until.filter(|until| *until > now.mono)
    }

    /// An attempt has failed; `trouble`: of a kind that may be everyone's. Returns the kind of an outage that this proves.
    pub fn failed(
        &mut self,
        trouble: Option<ErrorKind>,
        retry_after: Option<Duration>,
        why: &str,
        now: Now,
    ) -> Option<ErrorKind> {
        if let Some(asked) = retry_after {
            let until = now.mono + asked.min(CALM_MOST);
            self.calm_until = self.calm_until.max(Some(until));
        }
        self.note(trouble.is_some());
        let kind = trouble?;
        self.suspect(kind, why);
        let is_certain = matches!(kind, ErrorKind::Full | ErrorKind::Barred);
        if let Some(on) = &self.on {
            // It began for one reason, and goes on for another.
            return (is_certain && on.kind != kind).then_some(kind);
        }
        let failed = self.recent.iter().filter(|failed| **failed).count();
        if is_certain || failed >= RECENT_FAILED {
            return Some(kind);
        }
        None
    }

    fn note(&mut self, failed: bool) {
        if self.recent.len() >= RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(failed);
    }

    /// Returns true if it is time for a job to try.
    pub fn may_try(&self, now: Now) -> bool {
        self.on
            .as_ref()
            .is_some_and(|on| on.trial.is_none() && on.next <= now.mono)
    }

    /// That job tries.
    pub fn tries(&mut self, path: RelPath) {
        if let Some(on) = &mut self.on {
            on.trial = Some(path);
        }
    }

    /// A path was looked at: one that needed no job was no trial.
    pub fn looked(&mut self, path: &RelPath, is_job: bool, now: Now) {
        if let Some(on) = self
            .on
            .as_mut()
            .filter(|on| !is_job && on.trial.as_ref() == Some(path))
        {
            (on.trial, on.next) = (None, now.mono);
        }
    }

    /// A job ended without the store being back.
    pub fn ended(&mut self, path: &RelPath, now: Now) {
        self.waiting.remove(path);
        let longest = self.longest_pause;
        if let Some(on) = self
            .on
            .as_mut()
            .filter(|on| on.trial.as_ref() == Some(path))
        {
            on.trial = None;
            on.pause = (on.pause * 2).min(longest);
            on.next = now.mono + on.pause;
        }
    }

    /// A path waits for its next try, as the store did not take it.
    pub fn waits(&mut self, path: &RelPath) {
        self.waiting.insert(path.clone());
    }

    /// Begins one, or corrects why it is on; returns true if it is new.
    fn begin(&mut self, kind: ErrorKind, why: &str, now: Now) -> bool {
        self.suspected = None;
        if let Some(on) = &mut self.on {
            (on.kind, on.why) = (kind, why.to_owned());
            return false;
        }
        let pause = if kind == ErrorKind::Full {
            FULL.min(self.longest_pause)
        } else {
            FIRST
        };
        self.recent.clear();
        self.on = Some(On {
            since: now,
            kind,
            why: why.to_owned(),
            next: now.mono + pause,
            pause,
            trial: None,
        });
        true
    }

    /// Ends the outage; returns how long it lasted, if there was one.
    fn end(&mut self, now: Now) -> Option<Duration> {
        self.suspected = None;
        self.note(false);
        let on = self.on.take()?;
        Some(now.mono.saturating_duration_since(on.since.mono))
    }
}

impl Loop {
    /// Begins an outage. Of several folders that find the same endpoint unusable one says so.
    pub(super) fn begin_outage(&mut self, kind: ErrorKind, why: &str, now: Now) {
        if !self.outage.begin(kind, why, now) {
            return;
        }
        let folder = self.teller.name();
        let is_only = self.ctx.limits.is_out(folder);
        let is_the_lines = matches!(kind, ErrorKind::Network | ErrorKind::Busy);
        if is_only || !is_the_lines {
            tracing::warn!(
                folder,
                "the bucket cannot be used: {why}; changes wait until it can"
            );
        } else {
            tracing::debug!(folder, "the bucket cannot be used either: {why}");
        }
    }

    /// Asks the bucket when there is suspicion; in an outage, lets one job try when it is time.
    pub(super) fn start_probe(&mut self, now: Now) {
        // Without the lease, asking for it says whether the store is back.
        let has_nothing_to_try = self.outage.may_try(now)
            && !self.is_paused()
            && self.lease.is_held(now)
            && self.contact.is_done()
            && [Lane::Live, Lane::Backlog]
                .iter()
                .all(|lane| self.queue.next_due(*lane).is_none_or(|due| due > now.mono))
            && !self.queue.wake_one(now);
        let asks = has_nothing_to_try || self.outage.suspected.is_some();
        if asks && self.outage.probes.is_empty() {
            let (store, limits) = (self.ctx.store.clone(), self.ctx.limits.clone());
            self.outage.probes.spawn(async move {
                let _permit = limits.request(Lane::Live).await;
                store.check().await
            });
        }
    }

    pub(super) fn probed(&mut self, answer: store::Result<()>, now: Now) {
        let suspected = self.outage.suspected.take();
        match answer {
            // That it answers says nothing of what it refuses to our files.
            Ok(()) if self.outage.is_on() && self.queue.has_failed() => {
                if let Some(on) = &mut self.outage.on {
                    on.next = now.mono + on.pause;
                }
            }
            Ok(()) if self.outage.is_on() => self.store_works(now),
            Ok(()) => {}
            // A key that may write objects need not be allowed to look at the bucket.
            Err(error)
                if error.kind == ErrorKind::Denied
                    && !matches!(suspected, Some(ErrorKind::Denied | ErrorKind::Barred)) =>
            {
                if let Some(on) = &mut self.outage.on {
                    on.next = now.mono + on.pause;
                }
            }
            Err(error) if error.is_of_bucket() => {
                let was_on = self.outage.is_on();
                // The job's own words say more than the answer to a question without a body.
                let why = match error.kind {
                    ErrorKind::Denied | ErrorKind::Barred => self.outage.last_error.clone(),
                    _ => error.to_string(),
                };
                self.begin_outage(error.kind, &why, now);
                let longest = self.outage.longest_pause;
                if let Some(on) = self.outage.on.as_mut().filter(|_| was_on) {
                    on.pause = (on.pause * 2).min(longest);
                    on.next = now.mono + on.pause;
                }
            }
            // Busy: the number of requests in flight follows, and each file has its own pause.
            Err(_) => {
                if let Some(on) = &mut self.outage.on {
                    on.next = now.mono + on.pause;
                }
            }
        }
    }

    /// The store has done something for us.
    pub(super) fn store_works(&mut self, now: Now) {
        if let Some(lasted) = self.outage.end(now) {
            let (folder, lasted) = (self.teller.name(), show_duration(lasted));
            if self.ctx.limits.is_back(folder) {
                tracing::info!(folder, lasted, "the bucket can be used again");
            } else {
                tracing::debug!(
                    folder,
                    lasted,
                    "the bucket can be used again by this folder"
                );
            }
            self.queue.wake_failed(now);
            // What was refused then may be taken now.
            self.unpark();
        }
    }

    /// Returns true while something is wanted of the store.
    pub(super) fn wants_the_store(&self, now: Now) -> bool {
        self.outage.is_on()
            // Between the tries too: a bucket that answers and takes nothing is silent all the same.
            || !self.outage.waiting.is_empty()
            || (self.outage.calm_until(now).is_some() && !self.queue.is_empty())
            || !self.jobs.is_empty()
            || self.contact.is_running()
            || self.lease.wants_the_store(now)
    }

    /// Says what a silence of that length was about.
    pub(super) fn silence(&self, timeout: Duration) -> String {
        let timeout = crate::base::units::show_duration(timeout);
        let lease = self.lease.why_not(self.ctx.clock.now());
        let why = lease.clone().unwrap_or_else(|| self.outage.why());
        let last = self
            .failing
            .values()
            .next()
            .filter(|_| lease.is_none())
            .map_or(why.as_str(), String::as_str);
        format!("nothing could be sent for {timeout}: {last}")
    }
}
