//! Named places at which the tests of crashes let the process end, as a kill would end it there.
//!
//! Only with the feature `failpoints`, which no release build has; without it a place does nothing and costs nothing.
//! `$TIDEWATCH_FAILPOINT=NAME:N` ends the process when it passes the place of that name for the N-th time, from 1.

/// Passes a named place.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub fn hit(name: &str) {
    let _ = name;
}

/// Passes a named place, or ends the process there by SIGKILL.
#[cfg(feature = "failpoints")]
pub fn hit(name: &str) {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static WANTED: LazyLock<Option<(String, u64)>> = LazyLock::new(|| {
        let wanted = std::env::var("TIDEWATCH_FAILPOINT").ok()?;
        let (name, times) = wanted.split_once(':')?;
        Some((name.to_owned(), times.parse().ok()?))
    });
    static PASSED: AtomicU64 = AtomicU64::new(0);

    if let Some((wanted, times)) = &*WANTED
        && wanted == name
        && PASSED.fetch_add(1, Ordering::Relaxed) + 1 == *times
    {
        let own = rustix::process::getpid();
        let _ = rustix::process::kill_process(own, rustix::process::Signal::KILL);
        // The kernel is about to end it; nothing more happens here meanwhile.
        loop {
            std::thread::park();
        }
    }
}
