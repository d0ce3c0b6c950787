//! Whether the folder's watcher still tells: its marker is opened, and the event of that has to come back as a hint.
//!
//! Errors: a marker that cannot be opened is told to whoever asks. Who asks sets how long it waits; nothing here is repeated.

use std::io;

use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::agent::Loop;
use crate::agent::control::{Answer, Said};

/// Those who wait for the watcher to tell.
pub(super) struct Pulses {
    /// The opening that is on its way; at most one, as it may hang.
    pub tasks: JoinSet<io::Result<bool>>,
    waiting: Vec<oneshot::Sender<Answer>>,
}

impl Pulses {
    pub fn new() -> Self {
        Self {
            tasks: JoinSet::new(),
            waiting: Vec::new(),
        }
    }

    /// Answers all.
    fn answer(&mut self, answer: &Answer) {
        for one in self.waiting.drain(..) {
            // An asker that has gone away needs no answer.
            drop(one.send(answer.clone()));
        }
    }

    /// The watcher has told something.
    pub fn felt(&mut self) {
        self.answer(&Ok(Said::Count(1)));
    }
}

impl Loop {
    /// Has the marker opened.
    pub(super) fn feel_pulse(&mut self, answer: oneshot::Sender<Answer>) {
        self.pulses.waiting.retain(|one| !one.is_closed());
        self.pulses.waiting.push(answer);
        if self.pulses.tasks.is_empty() {
            let (tree, offload) = (self.ctx.tree.clone(), self.ctx.offload);
            self.pulses
                .tasks
                .spawn(async move { offload.run(move || tree.pulse()).await });
        }
    }

    /// The marker was opened, or there is nobody to hear of it. What is heard comes as a hint.
    pub(super) fn pulsed(&mut self, opened: io::Result<bool>) {
        match opened {
            Ok(true) => {}
            Ok(false) => self.pulses.answer(&Ok(Said::Count(0))),
            Err(error) => {
                let why = format!("its watcher could not be tried: {error}");
                self.pulses.answer(&Err(why));
            }
        }
    }
}
