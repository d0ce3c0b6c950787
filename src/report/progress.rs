//! The progress bar of a run that ends: files, bytes, rate, time left. On standard error, and only on a terminal.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::base::snapshot::FolderSnapshot;
use crate::report::out::step_around;

/// How often it is drawn at most, times a second.
const DRAWS: u8 = 5;

/// The bar takes what the words leave of the line, so that 80 columns show all of them.
const TEMPLATE: &str =
    "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta} left";

/// The same for files alone.
const FILES: &str = "{msg} {wide_bar} {eta} left";

/// A bar, perhaps an invisible one.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Shows a bar on standard error if that is a terminal; the log steps around it.
    pub fn on_terminal() -> Self {
        Self::drawn_by(TEMPLATE)
    }

    /// Shows one that counts files, not bytes.
    pub fn of_files() -> Self {
        Self::drawn_by(FILES)
    }

    fn drawn_by(template: &str) -> Self {
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr_with_hz(DRAWS));
        // The templates are constants, which the test below parses.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        if !bar.is_hidden() {
            step_around(Some(bar.clone()));
        }
        Self { bar }
    }

    /// Shows nothing.
    pub fn hidden() -> Self {
        Self {
            bar: ProgressBar::hidden(),
        }
    }

    /// Shows where the folders are.
    pub fn show(&self, snapshots: &[FolderSnapshot]) {
        let sum = |of: fn(&FolderSnapshot) -> u64| snapshots.iter().map(of).sum::<u64>();
        let done = sum(|snapshot| snapshot.tally.bytes);
        let all = done.saturating_add(sum(|snapshot| snapshot.queued_bytes));
        self.bar.set_length(all);
        // What was sent again counts once.
        self.bar
            .set_position(sum(|snapshot| snapshot.sent_bytes).clamp(done, all));
        self.bar.set_message(files(snapshots));
    }

    /// Shows so many of all files, and so many of all bytes.
    pub fn set(&self, files: (u64, u64), bytes: (u64, u64)) {
        self.bar.set_length(bytes.1);
        self.bar.set_position(bytes.0.min(bytes.1));
        self.bar
            .set_message(format!("{} of {} files", files.0, files.1));
    }

    /// Shows that `done` of `all` have been looked at.
    pub fn count(&self, done: u64, all: u64, message: String) {
        self.bar.set_length(all);
        self.bar.set_position(done);
        self.bar.set_message(message);
    }

    /// Takes the bar away while something else is printed, and puts it back below.
    pub fn around<T>(&self, print: impl FnOnce() -> T) -> T {
        self.bar.suspend(print)
    }

    /// Takes the bar away.
    pub fn end(&self) {
        step_around(None);
        self.bar.finish_and_clear();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}

/// Says how many of the files that are known to differ are done.
fn files(snapshots: &[FolderSnapshot]) -> String {
    let (mut done, mut left, mut failed) = (0, 0, 0);
    for snapshot in snapshots {
        done += snapshot.tally.uploaded + snapshot.tally.copied;
        left += snapshot.queued_files;
        failed += snapshot.failed;
    }
    if failed > 0 {
        format!("{done} of {} files, {failed} failed", done + left)
    } else {
        format!("{done} of {} files", done + left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::snapshot::Tally;

    #[test]
    fn the_bar_shows_files_bytes_rate_and_time_left() {
        for template in [TEMPLATE, FILES] {
            assert!(ProgressStyle::with_template(template).is_ok());
        }
        let progress = Progress::hidden();
        let tally = Tally {
            uploaded: 3,
            bytes: 1 << 20,
            ..Tally::default()
        };
        let mut snapshot = FolderSnapshot {
            queued_files: 5,
            queued_bytes: 3 << 20,
            tally,
            ..FolderSnapshot::default()
        };
        progress.show(std::slice::from_ref(&snapshot));
        assert_eq!(progress.bar.message(), "3 of 8 files");
        assert_eq!(progress.bar.position(), 1 << 20);
        assert_eq!(progress.bar.length(), Some(4 << 20));
        // A large file on its way moves the bar before it is done.
        snapshot.sent_bytes = 2 << 20;
        snapshot.failed = 1;
        progress.show(&[snapshot]);
        assert_eq!(progress.bar.position(), 2 << 20);
        assert_eq!(progress.bar.message(), "3 of 8 files, 1 failed");
    }
}
