//! A file mapped for writing, as a program does that writes without ever calling `write`.
#![expect(
    unsafe_code,
    reason = "mapping memory is not safe, and no library of ours wraps it"
)]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};

/// A shared, writable mapping of a whole file; unmapped when it is dropped.
pub struct Mapping {
    start: NonNull<libc::c_void>,
    len: usize,
}

// SAFETY: the memory belongs to the process, and every use goes through a borrow of this value.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps the first `len` bytes of a file that has them. The file may be closed afterwards.
    pub fn new(file: &File, len: usize) -> Self {
        // SAFETY: the kernel chooses the place, so nothing that is mapped already is replaced.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        assert!(start != libc::MAP_FAILED, "the file can be mapped");
        let start = NonNull::new(start).expect("a mapping is not at address 0");
        Self { start, len }
    }

    /// Writes `byte` everywhere.
    pub fn fill(&mut self, byte: u8) {
        // SAFETY: the mapping has `len` bytes, is writable, and nobody has a reference into it.
        unsafe { ptr::write_bytes(self.start.as_ptr().cast::<u8>(), byte, self.len) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly what was mapped, and nobody uses it after this.
        unsafe { libc::munmap(self.start.as_ptr(), self.len) };
    }
}
