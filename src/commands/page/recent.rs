//! What has happened lately, in memory: the last files, what each folder has come to, and the course of the last minutes.
//!
//! Bounds: `KEPT` happenings of the process, and `SAMPLES` samples of each folder, one every `PACE`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::{mpsc, watch};

use crate::base::clock::{Clock, rfc3339_millis};
use crate::base::path::told;
use crate::base::snapshot::{FolderSnapshot, Happening, What};
use crate::commands::board::Board;

/// Happenings that are kept.
const KEPT: usize = 50;
/// Samples of each folder: ten minutes.
const SAMPLES: usize = 120;
/// How often a sample is taken.
const PACE: Duration = Duration::from_secs(5);

/// What has happened lately; a clone is the same.
#[derive(Clone, Debug)]
pub struct Recent(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    kept: Mutex<Kept>,
    news: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Kept {
    /// With the wall clock, nanoseconds; the last one at the end.
    happenings: VecDeque<(i64, Happening)>,
    folders: BTreeMap<String, Past>,
}

#[derive(Debug, Default)]
struct Past {
    came_to: CameTo,
    samples: VecDeque<Sample>,
}

/// What a folder has come to since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CameTo {
    /// Attempts that failed.
    pub failed: u64,
    /// When it was last level, or a change of it last came into the bucket; wall clock, nanoseconds.
    pub success_ns: Option<i64>,
}

/// A folder at one moment: milliseconds since the epoch, lag in seconds, files that wait, bytes a second.
#[derive(Clone, Copy, Debug, Serialize)]
struct Sample(i64, u64, u64, u64);

/// A happening, in the words of the page.
#[derive(Debug, Serialize)]
pub struct Line {
    at: String,
    what: &'static str,
    folder: String,
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_base64: Option<String>,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Default for Recent {
    fn default() -> Self {
        Self(Arc::new(Inner {
            kept: Mutex::default(),
            news: watch::channel(()).0,
        }))
    }
}

impl Recent {
    /// Takes what the folders tell, and samples where they are, until nobody tells anything any more.
    pub async fn listen(self, board: Board, mut happenings: mpsc::Receiver<Happening>) {
        let mut next = Clock::Real.now().mono;
        loop {
            tokio::select! {
                happening = happenings.recv() => match happening {
                    Some(happening) => self.tell(happening, Clock::Real.now().wall_ns),
                    None => return,
                },
                () = tokio::time::sleep_until(next) => {
                    next = Clock::Real.now().mono + PACE;
                    self.sample(&board.snapshots(), Clock::Real.now().wall_ns);
                }
            }
        }
    }

    fn tell(&self, happening: Happening, at_ns: i64) {
        let mut kept = self.kept();
        let came_to = &mut kept
            .folders
            .entry(happening.folder.clone())
            .or_default()
            .came_to;
        match happening.what {
            What::Failed => came_to.failed += 1,
            What::Held | What::Skipped => {}
            What::Uploaded | What::Copied | What::Deleted | What::Adopted | What::Noted => {
                came_to.success_ns = Some(at_ns);
            }
        }
        if happening.what.word().is_some() {
            if kept.happenings.len() == KEPT {
                kept.happenings.pop_front();
            }
            kept.happenings.push_back((at_ns, happening));
        }
        drop(kept);
        self.0.news.send_replace(());
    }

    fn sample(&self, snapshots: &[FolderSnapshot], at_ns: i64) {
        let mut kept = self.kept();
        // A folder that has gone leaves nothing behind.
        kept.folders
            .retain(|name, _| snapshots.iter().any(|snapshot| snapshot.name == *name));
        for snapshot in snapshots {
            let past = kept.folders.entry(snapshot.name.clone()).or_default();
            if snapshot.level {
                past.came_to.success_ns = Some(at_ns);
            }
            if past.samples.len() == SAMPLES {
                past.samples.pop_front();
            }
            past.samples.push_back(Sample(
                at_ns / 1_000_000,
                snapshot.lag_seconds,
                snapshot.queued_files,
                snapshot.rate_bytes_per_second,
            ));
        }
    }

    /// Returns what a folder has come to.
    pub fn came_to(&self, folder: &str) -> CameTo {
        let kept = self.kept();
        kept.folders
            .get(folder)
            .map_or_else(CameTo::default, |past| past.came_to)
    }

    /// Returns the happenings that are kept, the last one first.
    pub fn lines(&self) -> Vec<Line> {
        let kept = self.kept();
        let line = |(at_ns, happening): &(i64, Happening)| {
            let (path, path_base64) = told(happening.path.as_bytes());
            Line {
                at: rfc3339_millis(*at_ns),
                what: happening.what.word().unwrap_or_default(),
                folder: happening.folder.clone(),
                path: path.into_owned(),
                path_base64,
                bytes: happening.bytes,
                error: happening.error.clone(),
            }
        };
        kept.happenings.iter().rev().map(line).collect()
    }

    /// Returns the samples that are kept of each folder, as JSON. They name folders only.
    pub fn past(&self) -> String {
        let kept = self.kept();
        let samples: BTreeMap<&String, &VecDeque<Sample>> = kept
            .folders
            .iter()
            .map(|(name, past)| (name, &past.samples))
            .collect();
        serde_json::to_string(&samples).unwrap_or_else(|_| "{}".to_owned())
    }

    /// Returns what changes with each happening.
    pub fn news(&self) -> watch::Receiver<()> {
        self.0.news.subscribe()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::path::RelPath;

    fn happening(what: What, path: &str) -> Happening {
        Happening {
            what,
            folder: "f".into(),
            path: RelPath::new(path.as_bytes()).expect("a path"),
            key: None,
            bytes: 1,
            error: None,
        }
    }

    #[test]
    fn the_last_fifty_are_kept_and_all_are_counted() {
        let recent = Recent::default();
        for number in 0..60 {
            recent.tell(happening(What::Uploaded, &format!("{number}")), number);
        }
        recent.tell(happening(What::Noted, "same"), 70);
        recent.tell(happening(What::Failed, "bad"), 80);
        let lines = recent.lines();
        assert_eq!(lines.len(), KEPT);
        assert_eq!((lines[0].what, &*lines[0].path), ("failed", "bad"));
        assert_eq!((lines[1].what, &*lines[1].path), ("uploaded", "59"));
        let expected = CameTo {
            failed: 1,
            success_ns: Some(70),
        };
        assert_eq!(recent.came_to("f"), expected);
        assert_eq!(recent.came_to("g"), CameTo::default());
    }

    #[test]
    fn samples_are_bounded_and_go_with_their_folder() {
        let recent = Recent::default();
        let folder = |name: &str| FolderSnapshot {
            name: name.into(),
            level: name == "level",
            ..FolderSnapshot::default()
        };
        for at in 0..200 {
            recent.sample(&[folder("level"), folder("f")], at * 1_000_000);
        }
        let past: BTreeMap<String, Vec<[u64; 4]>> =
            serde_json::from_str(&recent.past()).expect("JSON");
        assert_eq!((past["f"].len(), past["f"][0][0]), (SAMPLES, 80));
        assert_eq!(recent.came_to("level").success_ns, Some(199_000_000));
        assert_eq!(recent.came_to("f").success_ns, None);
        recent.sample(&[folder("f")], 0);
        assert!(!recent.past().contains("level"));
    }
}
