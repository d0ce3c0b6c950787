//! What is on its way to the bucket at this moment, for people: each file with how much of it has gone out.
//!
//! Decides nothing. Bound: one entry for each job that sends bytes, and there are only so many jobs. Counted is what is
//! handed to the line; what has to be handed to it once more is taken back first.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use crate::base::path::RelPath;
use crate::base::snapshot::Up;
use crate::store::{Flow, Tap};

/// The files of one folder that are on their way.
#[derive(Debug, Default)]
pub struct Going {
    files: Mutex<BTreeMap<RelPath, Arc<Progress>>>,
    out: Arc<AtomicU64>,
}

/// How far one file is.
#[derive(Debug, Default)]
pub struct Progress {
    bytes_all: u64,
    /// 0 for a file that goes with one request.
    parts_all: u32,
    bytes_done: AtomicU64,
    parts_done: AtomicU32,
}

impl Progress {
    /// Makes the progress of a file of so many bytes, in so many parts; 0: with one request.
    pub fn new(bytes_all: u64, parts_all: u32) -> Self {
        Self {
            bytes_all,
            parts_all,
            ..Self::default()
        }
    }

    /// A part, or the whole, was answered.
    pub fn part_is_there(&self) {
        self.parts_done.fetch_add(1, Ordering::Relaxed);
    }

    /// Bytes were there already.
    pub fn had(&self, bytes: u64) {
        self.bytes_done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// What was sent so far counts no more: it is begun anew.
    pub fn begins_anew(&self) {
        self.bytes_done.store(0, Ordering::Relaxed);
        self.parts_done.store(0, Ordering::Relaxed);
    }

    fn bytes_done(&self) -> u64 {
        // What ends late of an upload that was begun anew may count twice.
        self.bytes_done.load(Ordering::Relaxed).min(self.bytes_all)
    }

    fn up(&self, path: &RelPath) -> Up {
        let parts_done = self.parts_done.load(Ordering::Relaxed);
        Up {
            path: path.clone(),
            bytes_done: self.bytes_done(),
            bytes_all: self.bytes_all,
            parts: (self.parts_all > 0).then_some((parts_done.min(self.parts_all), self.parts_all)),
        }
    }
}

impl Going {
    /// A file begins to go out.
    pub fn begins(&self, path: &RelPath, progress: &Arc<Progress>) {
        self.files().insert(path.clone(), progress.clone());
    }

    /// A file goes no further; nothing, if it has another progress by now.
    pub fn ends(&self, path: &RelPath, progress: &Arc<Progress>) {
        let mut files = self.files();
        if files
            .get(path)
            .is_some_and(|known| Arc::ptr_eq(known, progress))
        {
            files.remove(path);
        }
    }

    /// Returns what a body of a file goes out through, so that it is counted.
    pub fn tap(&self, progress: &Arc<Progress>, inner: Arc<dyn Tap>) -> Arc<dyn Tap> {
        Arc::new(Counting {
            inner,
            count: Count {
                progress: progress.clone(),
                out: self.out.clone(),
                sent: Arc::default(),
            },
        })
    }

    /// Returns how many bytes have gone out since the start; what goes out again is taken back first.
    pub fn bytes_out(&self) -> u64 {
        self.out.load(Ordering::Relaxed)
    }

    /// Returns how many bytes of the files on their way have gone out.
    pub fn bytes_done(&self) -> u64 {
        self.files().values().map(|one| one.bytes_done()).sum()
    }

    /// Returns at most so many files, the largest first.
    pub fn largest(&self, most: usize) -> Vec<Up> {
        let files = self.files();
        let mut largest: Vec<_> = files.iter().collect();
        largest.sort_unstable_by_key(|(path, one)| (Reverse(one.bytes_all), *path));
        let first = largest.into_iter().take(most);
        first.map(|(path, one)| one.up(path)).collect()
    }

    /// Returns how far a file is; `None` if nothing of it is on its way.
    pub fn of(&self, path: &RelPath) -> Option<Up> {
        self.files().get(path).map(|one| one.up(path))
    }

    fn files(&self) -> std::sync::MutexGuard<'_, BTreeMap<RelPath, Arc<Progress>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the bytes of one body are counted.
#[derive(Clone, Debug)]
struct Count {
    progress: Arc<Progress>,
    out: Arc<AtomicU64>,
    /// By the attempt under way.
    sent: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Counting {
    inner: Arc<dyn Tap>,
    count: Count,
}

impl Tap for Counting {
    fn open(&self) -> Box<dyn Flow> {
        let Count {
            progress,
            out,
            sent,
        } = &self.count;
        let before = sent.swap(0, Ordering::Relaxed);
        out.fetch_sub(before, Ordering::Relaxed);
        // Not below nothing: it may have been begun anew meanwhile.
        let less = |done: u64| Some(done.saturating_sub(before));
        let _ = progress
            .bytes_done
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        Box::new(Counted {
            inner: self.inner.open(),
            count: self.count.clone(),
        })
    }

    fn throttled(&self) {
        self.inner.throttled();
    }
}

struct Counted {
    inner: Box<dyn Flow>,
    count: Count,
}

impl Flow for Counted {
    fn poll_take(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<usize> {
        self.inner.poll_take(cx, wanted).map(|bytes| {
            let Count {
                progress,
                out,
                sent,
            } = &self.count;
            for counter in [&**sent, &**out, &progress.bytes_done] {
                counter.fetch_add(bytes as u64, Ordering::Relaxed);
            }
            bytes
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Open;

    impl Tap for Open {
        fn open(&self) -> Box<dyn Flow> {
            Box::new(Open)
        }
    }

    impl Flow for Open {
        fn poll_take(&mut self, _cx: &mut Context<'_>, wanted: usize) -> Poll<usize> {
            Poll::Ready(wanted)
        }
    }

    fn path(name: &str) -> RelPath {
        RelPath::new(name.as_bytes()).expect("a valid path")
    }

    fn take(flow: &mut Box<dyn Flow>, bytes: usize) {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert_eq!(flow.poll_take(&mut cx, bytes), Poll::Ready(bytes));
    }

    #[test]
    fn what_is_sent_again_counts_once() {
        let going = Going::default();
        let progress = Arc::new(Progress::new(100, 2));
        let large = path("large");
        going.begins(&large, &progress);
        let tap = going.tap(&progress, Arc::new(Open));
        take(&mut tap.open(), 30);
        let mut second = tap.open();
        take(&mut second, 20);
        take(&mut second, 30);
        progress.part_is_there();
        let up = going.of(&large).expect("it is on its way");
        assert_eq!((up.bytes_done, up.parts), (50, Some((1, 2))));
        assert_eq!((going.bytes_out(), going.bytes_done()), (50, 50));
        progress.begins_anew();
        drop(tap.open());
        assert_eq!((going.bytes_out(), going.bytes_done()), (0, 0));
        progress.had(60);
        progress.had(60);
        assert_eq!(going.bytes_done(), 100, "never more than there is");
    }

    #[test]
    fn the_largest_are_named_and_an_old_end_takes_nothing_away() {
        let going = Going::default();
        let of = |bytes| Arc::new(Progress::new(bytes, 0));
        let (old, new) = (of(1), of(2));
        going.begins(&path("a"), &old);
        going.begins(&path("a"), &new);
        going.ends(&path("a"), &old);
        going.begins(&path("b"), &of(9));
        let sizes: Vec<u64> = going.largest(5).iter().map(|up| up.bytes_all).collect();
        assert_eq!(sizes, [9, 2]);
        assert_eq!(going.largest(1).len(), 1);
        going.ends(&path("a"), &new);
        assert_eq!(going.of(&path("a")), None);
    }
}
