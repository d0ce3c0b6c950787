//! The stream of events behind `/events`: what the page shows, whenever it changes.
//!
//! Each event is the whole state, so that one that is missed does no harm. At most four a second go to each listener, and a
//! comment every 15 seconds when nothing changes, by which both ends notice that the other is gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;

use crate::base::clock::Clock;
use crate::commands::page::Page;
use crate::commands::page::guard::Knows;

/// The shortest time between two events.
const EVERY: Duration = Duration::from_millis(250);
/// The longest silence.
const SILENCE: Duration = Duration::from_secs(15);

/// One listener's events.
pub struct Events {
    page: Arc<Page>,
    knows: Knows,
    /// Counts what was said, for whoever watches that the line takes it.
    beats: Arc<AtomicU64>,
    news: watch::Receiver<()>,
    told: watch::Receiver<()>,
    not_before: Option<Instant>,
    has_news: bool,
    _place: OwnedSemaphorePermit,
}

/// A piece of the stream.
pub struct Said {
    /// What is said.
    pub bytes: Bytes,
    /// Who says the next one.
    pub events: Events,
}

impl Events {
    /// Begins with the state as it is now.
    pub fn new(
        page: Arc<Page>,
        knows: Knows,
        beats: Arc<AtomicU64>,
        place: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            news: page.board.news(),
            told: page.recent.news(),
            page,
            knows,
            beats,
            not_before: None,
            has_news: true,
            _place: place,
        }
    }

    /// Waits for the next piece; `None` when nobody tells anything any more.
    pub async fn next(mut self) -> Option<Said> {
        let silent_until = Clock::Real.now().mono + SILENCE;
        let is_first = self.not_before.is_none();
        loop {
            let ready_at = self.not_before.unwrap_or_else(|| Clock::Real.now().mono);
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(ready_at), if self.has_news => break,
                changed = self.news.changed() => changed.ok()?,
                changed = self.told.changed() => changed.ok()?,
                () = tokio::time::sleep_until(silent_until) => {
                    self.beats.fetch_add(1, Ordering::Relaxed);
                    return Some(Said { bytes: Bytes::from_static(b":\n\n"), events: self });
                }
            }
            self.has_news = true;
        }
        self.has_news = false;
        self.not_before = Some(Clock::Real.now().mono + EVERY);
        let mut text = String::new();
        if is_first {
            let past = self.page.recent.past();
            text = format!("event: past\ndata: {past}\n\n");
        }
        let state = self.page.state(self.knows).await;
        // JSON has no line breaks of its own.
        text.push_str("event: state\ndata: ");
        text.push_str(&state);
        text.push_str("\n\n");
        self.beats.fetch_add(1, Ordering::Relaxed);
        Some(Said {
            bytes: Bytes::from(text),
            events: self,
        })
    }
}
