//! Bringing what was written to the disks: for certain at the end, and already before whenever much has been written, so
//! that the end has little left to wait for and no power cut takes much.
//!
//! The kernel says only once that a flush has failed. So flushes come one after the other, what one of them is told is
//! remembered, and each later one says it too; none is tried again.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::base::offload::Offload;

/// Bytes after which a flush begins: some tenths of a second of a disk, and enough to make each worth its journal commit.
const MUCH: u64 = 128 << 20;

/// What a file costs a disk besides its bytes, in bytes.
const FILE: u64 = 64 << 10;

/// The filesystems that were written to.
#[derive(Debug, Default)]
pub struct Flush {
    /// One handle on each, by device.
    devices: Mutex<HashMap<u64, Arc<OwnedFd>>>,
    /// Bytes since the last flush began.
    written: AtomicU64,
    is_due: Notify,
    failed: Mutex<Option<Errno>>,
}

impl Flush {
    /// Notes that something will be written to this device, in a folder that is open.
    pub fn on(&self, device: u64, folder: &Arc<OwnedFd>) {
        let mut devices = lock(&self.devices);
        devices.entry(device).or_insert_with(|| folder.clone());
    }

    /// Notes that so many bytes were written.
    pub fn wrote(&self, bytes: u64) {
        if self.written.fetch_add(bytes, Ordering::Relaxed) + bytes >= MUCH {
            self.is_due.notify_one();
        }
    }

    /// Notes that a file was put in its place.
    pub fn placed(&self) {
        self.wrote(FILE);
    }

    /// Brings everything that was written to the disks. Until then a power cut can take it. Blocks.
    pub fn sync(&self) -> io::Result<()> {
        let mut failed = lock(&self.failed);
        if let Some(error) = *failed {
            return Err(error.into());
        }
        self.written.store(0, Ordering::Relaxed);
        let devices: Vec<_> = lock(&self.devices).values().cloned().collect();
        for device in devices {
            if let Err(error) = rustix::fs::syncfs(&*device) {
                *failed = Some(error);
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// Flushes whenever much has been written, until what this returns is dropped.
    pub fn keep_flushing(self: &Arc<Self>) -> JoinSet<()> {
        let (mut task, flush) = (JoinSet::new(), self.clone());
        task.spawn(async move {
            loop {
                flush.is_due.notified().await;
                let flush = flush.clone();
                // What went wrong is said again by the last one.
                let _ = Offload::Pool.run(move || flush.sync()).await;
            }
        });
        task
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_flush_was_told_is_said_by_each_later_one() {
        let dir = tempfile::tempdir().unwrap();
        let flush = Flush::default();
        let folder = Arc::new(OwnedFd::from(std::fs::File::open(dir.path()).unwrap()));
        flush.on(1, &folder);
        flush.sync().expect("a flush");
        *lock(&flush.failed) = Some(Errno::IO);
        for _ in 0..2 {
            let error = flush.sync().expect_err("it has failed");
            assert_eq!(Errno::from_io_error(&error), Some(Errno::IO));
        }
    }

    #[tokio::test]
    async fn much_that_was_written_is_flushed_before_the_end() {
        let flush = Arc::new(Flush::default());
        let flushing = flush.keep_flushing();
        flush.wrote(MUCH - 2 * FILE);
        flush.placed();
        tokio::task::yield_now().await;
        assert_eq!(flush.written.load(Ordering::Relaxed), MUCH - FILE);
        flush.placed();
        let flushed = async {
            while flush.written.load(Ordering::Relaxed) > 0 {
                tokio::task::yield_now().await;
            }
        };
        let waited = tokio::time::timeout(std::time::Duration::from_secs(30), flushed).await;
        assert!(waited.is_ok(), "nobody flushed");
        drop(flushing);
    }
}
