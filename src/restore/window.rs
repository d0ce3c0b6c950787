//! How many files are on their way at once: as many as make it faster, up to what was asked for. (pure)
//!
//! Where answers are far away many requests fill the line; where they are near, or something else is the bottleneck, more
//! of them only cost connections and memory. So it begins with few, and takes four times as many while that brings at
//! least 30 % more; else it goes back, and tries again much later.

use tokio::time::Instant;

/// Files at once in the beginning: what fills most lines whose answers are near.
const FIRST: usize = 32;

/// How many more are tried at a step. Larger steps are faster where answers are far away; a step too far costs as many
/// connections.
const STEP: usize = 4;

/// What a step must bring to be kept, in percent of the speed before.
const WORTH: u128 = 130;

/// After how many windows a step that brought nothing is tried again: the line, or the store, may be another by then.
const AGAIN: usize = 64;

/// What a file costs besides its bytes, in bytes: about what goes over the line in the time of one small request.
const FILE: u64 = 64 << 10;

/// The number of files at once, and what it is judged by.
#[derive(Debug)]
pub struct Window {
    size: usize,
    most: usize,
    /// Files that are left until something is decided.
    left: usize,
    stage: Stage,
    /// Bytes, and files as bytes, since this instant.
    work: u64,
    since: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// The files on their way began with another window, or with connections that had to be made.
    Settling(Option<Before>),
    /// These count.
    Measuring(Option<Before>),
    /// A step has brought nothing.
    Resting,
}

/// The window before the step, and how fast it was: bytes in a second.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Before {
    size: usize,
    speed: u128,
}

impl Window {
    /// Begins at `now`, with a bound.
    pub fn new(most: usize, now: Instant) -> Self {
        let size = most.min(FIRST);
        Self {
            size,
            most,
            left: size,
            stage: Stage::Settling(None),
            work: 0,
            since: now,
        }
    }

    /// Returns how many files may be on their way now.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Notes that a file of so many bytes is done.
    pub fn done(&mut self, bytes: u64, now: Instant) {
        self.work += FILE + bytes;
        self.left = self.left.saturating_sub(1);
        if self.left > 0 || self.size == self.most && self.stage == Stage::Settling(None) {
            return;
        }
        match self.stage {
            Stage::Settling(before) => self.begin(Stage::Measuring(before), self.size, now),
            Stage::Resting => self.begin(Stage::Measuring(None), self.size, now),
            Stage::Measuring(before) => {
                let passed = now.duration_since(self.since).as_micros().max(1);
                let speed = u128::from(self.work) * 1_000_000 / passed;
                match before {
                    Some(before) if speed * 100 < before.speed * WORTH => {
                        self.size = before.size;
                        self.begin(Stage::Resting, self.size * AGAIN, now);
                    }
                    _ if self.size == self.most => self.begin(Stage::Settling(None), 1, now),
                    _ => {
                        let size = self.size;
                        self.size = self.most.min(size * STEP);
                        let before = Some(Before { size, speed });
                        // Those that are on their way, and as many as were begun beside them.
                        self.begin(Stage::Settling(before), self.size, now);
                    }
                }
            }
        }
    }

    fn begin(&mut self, stage: Stage, left: usize, now: Instant) {
        (self.stage, self.left, self.work, self.since) = (stage, left, 0, now);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::clock::Clock;

    /// Runs `files` files of 4 KiB against something that takes so long for each window, and returns the window's sizes.
    fn sizes(most: usize, files: usize, answer: impl Fn(usize) -> Duration) -> Vec<usize> {
        let mut now = Clock::Real.now().mono;
        let mut window = Window::new(most, now);
        let mut sizes = vec![window.size()];
        for _ in 0..files {
            now += answer(window.size()) / window.size() as u32;
            window.done(4096, now);
            if sizes.last() != Some(&window.size()) {
                sizes.push(window.size());
            }
        }
        sizes
    }

    #[test]
    fn answers_that_are_far_away_get_all_that_was_asked_for() {
        let far = |_| Duration::from_millis(30);
        assert_eq!(sizes(256, 5000, far), [32, 128, 256]);
        assert_eq!(sizes(100, 5000, far), [32, 100]);
        assert_eq!(sizes(8, 5000, far), [8]);
    }

    #[test]
    fn what_is_not_faster_is_taken_back_and_tried_again_later() {
        // A store that gives 3,000 files in a second, however many are asked for.
        let near = |size: usize| Duration::from_micros(size as u64 * 333);
        assert_eq!(sizes(256, 1000, near), [32, 128, 32]);
        assert_eq!(sizes(256, 4000, near), [32, 128, 32, 128, 32]);
        // One whose answers take 10 ms, up to that.
        let between = |size| near(size).max(Duration::from_millis(10));
        assert_eq!(sizes(256, 2000, between), [32, 128, 32]);
        let farther = |size| near(size).max(Duration::from_millis(30));
        assert_eq!(sizes(256, 4000, farther), [32, 128, 256, 128]);
    }
}
