//! Everything that can happen to a folder, and what watchers and jobs say, taken in.

use tokio::sync::{mpsc, oneshot};

use crate::agent::turn::Turned;
use crate::agent::{
    Control, Loop, Pending, Then, audit, catalog, contact, janitor, lease, scans, trash,
};
use crate::base::clock::Now;
use crate::base::path::RelPath;
use crate::manifest::Change;
use crate::store;
use crate::sync::brake::Verdict;
use crate::sync::file::Message;
use crate::sync::queue::Hold;
use crate::tree::{Hint, HintReceiver};

/// Everything that can happen to a folder.
pub(super) enum Event {
    Stop,
    GraceOver,
    Turned(Box<Turned>),
    Message(Message),
    Hint(Hint),
    HintsEnded,
    Scan(scans::Report),
    Contact(contact::Report),
    Probed(store::Result<()>),
    Emptied(trash::Report),
    Cleaned(janitor::Report),
    Audited(Box<audit::Report>),
    Catalogued(Box<catalog::Report>),
    Leased(Box<lease::Report>),
    Control(Control),
    Pulsed(std::io::Result<bool>),
    Told,
    Tick,
}

impl Loop {
    pub(super) fn hint(&mut self, hint: Hint, now: Now) {
        self.scans.heard(&hint, now);
        match hint {
            Hint::Touched { path, touch } => {
                // A link that is recorded is a file of another name.
                let alias = self.ctx.tree.alias(&path);
                if let Some(alias) = alias
                    && !self.queue.touch(alias, touch, 0, now)
                {
                    self.scans.lost(now);
                }
                if !self.queue.touch(path, touch, 0, now) {
                    self.scans.lost(now);
                }
            }
            Hint::Folder(folder) => self.scans.want(folder, crate::tree::scan::Depth::Full, now),
            Hint::Pulse => self.pulses.felt(),
            Hint::Lost => {
                // The marker's event may be among those that were lost, and that is told.
                self.pulses.felt();
                self.teller.lost();
                tracing::info!(folder = %self.teller.name(), "events were lost; everything is looked at");
                self.scans.lost(now);
            }
        }
    }

    pub(super) fn message(&mut self, message: Message, now: Now) {
        match message {
            Message::Done(mut done) => {
                let mut changes = std::mem::take(&mut done.changes);
                self.with_time(&mut done, &mut changes);
                self.trashed(&changes);
                self.janitor.see(&changes);
                self.pending.push_back(Pending {
                    changes,
                    then: Then::Finish(done),
                });
            }
            Message::Begun { upload, noted } => {
                self.note(Change::UploadBegun(upload), Then::Answer(noted));
            }
            Message::Part { upload, part } => {
                self.note(Change::PartStored { upload, part }, Then::Nothing);
            }
            Message::Ended(id) => self.note(Change::UploadEnded(id), Then::Nothing),
            Message::Release(path) => self.queue.release_source(&path),
            Message::Overwrite { path, verdict } => {
                // Each file is asked about once, however often its upload is tried.
                let asked = if self.may_overwrite.contains(&path) {
                    Verdict::Go
                } else {
                    self.overwrites.ask(1, 0, now.mono)
                };
                if asked == Verdict::Go {
                    self.may_overwrite.insert(path);
                } else if self.deletes.held.overwrites == 0 {
                    tracing::warn!(folder = %self.teller.name(), "overwrites are held: more than the overwrite brake \
                        allows; new contents wait in quarantine, see `tidewatch held list`, then release or drop them");
                    self.deletes.held.overwrites = 1;
                    self.deletes.held_is_stale = true;
                }
                // An asker that has gone away overwrites nothing.
                let _ = verdict.send(asked);
            }
            Message::Source { path, granted } => self.answer(path, granted, now),
        }
    }
}

impl Loop {
    /// Answers who wants to copy a path's object; later, while it is being looked at.
    fn answer(&mut self, path: RelPath, granted: oneshot::Sender<bool>, now: Now) {
        let hold = self.queue.hold_source(&path, now);
        if hold == Hold::Later {
            self.askers.push((path, granted));
            return;
        }
        // A running copy holds its source; an asker that has gone away holds nothing.
        let is_heard = granted.send(hold == Hold::Granted).is_ok();
        if hold == Hold::Granted && !is_heard {
            self.queue.release_source(&path);
        }
    }

    /// Answers those that waited for the end of a look.
    pub(super) fn answer_askers(&mut self, now: Now) {
        for (path, granted) in std::mem::take(&mut self.askers) {
            self.answer(path, granted, now);
        }
    }

    /// Leaves what is told of an upload for the next commit.
    fn note(&mut self, change: Change, then: Then) {
        let changes = vec![change];
        self.janitor.see(&changes);
        self.pending.push_back(Pending { changes, then });
    }
}

/// Waits for what a person asks. Cancel-safe.
pub(super) async fn control(control: &mut Option<mpsc::Receiver<Control>>) -> Control {
    if let Some(receiver) = control {
        if let Some(asked) = receiver.recv().await {
            return asked;
        }
        *control = None;
    }
    std::future::pending().await
}

/// Waits for what the watcher says. Cancel-safe.
pub(super) async fn hint(hints: &mut Option<HintReceiver>) -> Option<Hint> {
    match hints {
        Some(hints) => hints.recv().await,
        None => std::future::pending().await,
    }
}
