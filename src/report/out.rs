//! Results on standard output.
//!
//! Never panics: a reader that has gone away (`tidewatch … | head`) is not an error, what is written after that is
//! dropped. Any other failure to write is the caller's to report.

use std::fmt;
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use indicatif::ProgressBar;

/// Where results go.
pub struct Out {
    to: Box<dyn Write + Send + Sync>,
    gone: bool,
}

impl fmt::Debug for Out {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Out")
            .field("gone", &self.gone)
            .finish_non_exhaustive()
    }
}

impl Out {
    /// Writes to the process's standard output.
    pub fn stdout() -> Self {
        Self::to(Box::new(io::stdout()))
    }

    /// Writes to `to`.
    pub fn to(to: Box<dyn Write + Send + Sync>) -> Self {
        Self { to, gone: false }
    }

    /// Writes one line and passes it on at once, so that a reader sees each result when it happens.
    pub fn line(&mut self, line: impl fmt::Display) -> io::Result<()> {
        self.raw(format!("{line}\n").as_bytes())
    }

    /// Writes bytes as they are and passes them on at once.
    pub fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.gone {
            return Ok(());
        }
        match self.to.write_all(bytes).and_then(|()| self.to.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.gone = true;
                Ok(())
            }
            other => other,
        }
    }

    /// Returns true once the reader has gone away: nobody will see what is written from here on.
    pub fn is_gone(&self) -> bool {
        self.gone
    }
}

/// Writes one line to standard error. A failure is ignored: there is nowhere left to tell it.
pub fn note(line: impl fmt::Display) {
    let _ = Stderr.write_all(format!("{line}\n").as_bytes());
}

/// The progress bar that stands on standard error now, if one does.
static BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// Lets whatever is written to [`Stderr`] from here on step around `bar`; `None`: nothing stands there any more.
pub fn step_around(bar: Option<ProgressBar>) {
    *BAR.lock().unwrap_or_else(PoisonError::into_inner) = bar;
}

/// Standard error, shared with a progress bar: each write takes the bar away and puts it back below.
#[derive(Clone, Copy, Debug)]
pub struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes).map(|()| bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let bar = BAR.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match bar {
            Some(bar) => bar.suspend(|| io::stderr().write_all(bytes)),
            None => io::stderr().write_all(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Failing(io::ErrorKind);

    impl Write for Failing {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_has_gone_is_no_error() {
        let mut out = Out::to(Box::new(Failing(io::ErrorKind::BrokenPipe)));
        assert!(out.line("one").is_ok() && out.is_gone());
        assert!(out.line("two").is_ok());
    }

    #[test]
    fn a_full_disk_is_one() {
        let mut out = Out::to(Box::new(Failing(io::ErrorKind::StorageFull)));
        assert!(out.line("one").is_err() && !out.is_gone());
    }
}
