//! Reused buffers for bodies. A fresh large allocation costs more than hashing it (page faults), so none is made
//! twice.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// The sizes that are kept, in bytes. A single put takes 16 MiB at most; parts of files above 140 GB are larger, and those
/// above the last of these are of files above a terabyte.
const CLASSES: [usize; 8] = [
    16 << 10,
    256 << 10,
    2 << 20,
    8 << 20,
    16 << 20,
    32 << 20,
    64 << 20,
    128 << 20,
];

/// A free list for each size class. Cheap to clone.
///
/// Bound: what is kept free never exceeds `keep_bytes`; beyond it buffers are given back to the allocator.
#[derive(Clone, Debug)]
pub struct Pool {
    free: Arc<Mutex<Free>>,
    keep_bytes: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Free {
    lists: [Vec<Vec<u8>>; CLASSES.len()],
    bytes: usize,
}

impl Pool {
    /// Makes an empty pool that keeps at most `keep_bytes` of free buffers.
    pub fn new(keep_bytes: usize) -> Self {
        Self {
            free: Arc::default(),
            keep_bytes: Arc::new(AtomicUsize::new(keep_bytes)),
        }
    }

    /// Keeps at most `keep_bytes` of free buffers from now on.
    pub fn set_keep(&self, keep_bytes: usize) {
        self.keep_bytes.store(keep_bytes, Ordering::Relaxed);
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.bytes > keep_bytes {
            *free = Free::default();
        }
    }

    /// Returns a buffer of exactly `len` bytes with unspecified content, to be overwritten by the caller.
    pub fn take(&self, len: usize) -> Buffer {
        let class = CLASSES.iter().position(|size| *size >= len);
        let reused = class.and_then(|class| {
            let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
            let bytes = free.lists[class].pop()?;
            free.bytes -= bytes.capacity();
            Some(bytes)
        });
        let mut bytes =
            reused.unwrap_or_else(|| Vec::with_capacity(class.map_or(len, |class| CLASSES[class])));
        // Only what a shorter use left behind is zeroed again.
        bytes.resize(len, 0);
        Buffer {
            bytes,
            class,
            pool: self.clone(),
        }
    }

    fn give_back(&self, class: usize, bytes: Vec<u8>) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.bytes + bytes.capacity() <= self.keep_bytes.load(Ordering::Relaxed) {
            free.bytes += bytes.capacity();
            free.lists[class].push(bytes);
        }
    }
}

/// A buffer of the pool; returns there when it, or the last [`Bytes`] made of it, is dropped.
#[derive(Debug)]
pub struct Buffer {
    bytes: Vec<u8>,
    class: Option<usize>,
    pool: Pool,
}

impl Buffer {
    /// Returns the bytes to fill.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Freezes the buffer for sending.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(class) = self.class {
            self.pool.give_back(class, std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_when_its_last_bytes_are_dropped() {
        let pool = Pool::new(1 << 20);
        let mut buffer = pool.take(5);
        buffer.bytes_mut().copy_from_slice(b"hello");
        let address = buffer.as_ref().as_ptr();
        let bytes = buffer.freeze();
        let second = bytes.slice(1..3);
        drop(bytes);
        assert_ne!(pool.take(5).as_ref().as_ptr(), address);
        drop(second);
        // The list is last in, first out.
        assert_eq!(pool.take(3).as_ref().as_ptr(), address);
    }

    #[test]
    fn the_pool_keeps_no_more_than_its_bound() {
        let pool = Pool::new(20 << 10);
        let both = (pool.take(10), pool.take(10));
        drop(both);
        assert_eq!(pool.free.lock().expect("not poisoned").bytes, 16 << 10);
    }
}
