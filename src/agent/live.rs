//! What the loop knows of one path, for who asks why it is not in the bucket.

use tokio::time::Instant;

use crate::agent::Loop;
use crate::base::clock::{Now, rfc3339, rfc3339_millis};
use crate::base::live::Live;
use crate::base::path::RelPath;
use crate::base::snapshot::Up;
use crate::sync::queue::{Job, Place};

impl Loop {
    /// Says where a path is on its way.
    pub(super) fn live(&self, path: &RelPath, now: Now) -> Live {
        let known = self.failing.get(path).or_else(|| self.unsyncable.get(path));
        let mut live = Live {
            stage: "idle".to_owned(),
            error: known.cloned(),
            waits_for: self.standstill(now),
            brake: self.brake(),
            ..Live::default()
        };
        let Some(place) = self.queue.place(path, now.mono) else {
            return live;
        };
        let (stage, job) = match place {
            Place::Waiting { due, job } => {
                live.due_at = Some(rfc3339_millis(wall_at(due, now)));
                (waiting(&job), job)
            }
            Place::Due { ahead, front, job } => {
                live.ahead = ahead;
                live.front = front.iter().map(ToString::to_string).collect();
                ("queued", job)
            }
            Place::Running { job } => ("in_flight", job),
        };
        stage.clone_into(&mut live.stage);
        live.failures = job.failures;
        if !job.is_check {
            live.waiting_since = Some(rfc3339(job.since.wall_ns));
        }
        if let Some(Up {
            bytes_done,
            bytes_all,
            parts,
            ..
        }) = self.ctx.going.of(path)
        {
            (live.bytes_done, live.bytes_all) = (Some(bytes_done), Some(bytes_all));
            (live.parts_done, live.parts_all) = parts.unzip();
        }
        live
    }

    /// Says why nothing of the folder is sent now; `None`: it is, if there is anything.
    fn standstill(&self, now: Now) -> Option<String> {
        if let Some(since_ns) = self.paused_ns.filter(|_| self.is_paused()) {
            let since = rfc3339(since_ns);
            return Some(format!("paused since {since}; `tidewatch resume` goes on"));
        }
        if let Some(why) = self.scans.away() {
            return Some(format!("the folder cannot be used: {why}"));
        }
        if let Some((since_ns, why)) = self.outage.since() {
            let since = rfc3339(since_ns);
            return Some(format!("the bucket cannot be used since {since}: {why}"));
        }
        if !self.lease.is_held(now) {
            let why = self.lease.why_not(now);
            return Some(why.unwrap_or_else(|| "the lease is being asked for".to_owned()));
        }
        if let Some(until) = self.outage.calm_until(now) {
            let until = rfc3339(wall_at(until, now));
            return Some(format!("the store asks to be left alone until {until}"));
        }
        if self.writing.failures > 0 {
            return Some(format!("could not {}", self.teller.manifest_trouble()));
        }
        (!self.contact.is_done()).then(|| "the prefix is listed first".to_owned())
    }
}

fn waiting(job: &Job) -> &'static str {
    if job.is_check {
        "check"
    } else if job.failures > 0 {
        "retrying"
    } else if job.moves > 0 {
        "moving"
    } else {
        "settling"
    }
}

/// Returns what the clock on the wall shows at an instant that is to come, nanoseconds.
fn wall_at(at: Instant, now: Now) -> i64 {
    now.plus(at.saturating_duration_since(now.mono)).wall_ns
}
