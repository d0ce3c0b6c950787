//! What a crash leaves behind: the place in the program, and nothing of what it worked on.
//!
//! A core file would hold file contents and keys; what a broken expectation held (a row, a path, an answer) would stand in
//! its message. Neither is made. Never says more because the environment asks for a backtrace.

use std::panic::{self, PanicHookInfo};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::report::out::note;

/// Sees to it for the rest of this process.
pub fn watch() {
    let allowed = getrlimit(Resource::Core);
    let none = Rlimit {
        current: Some(0),
        ..allowed
    };
    // Less than before is always granted.
    let _ = setrlimit(Resource::Core, none);
    panic::set_hook(Box::new(|panic| note(line(panic))));
}

/// Returns the one line that is said of a broken invariant. Words that were put together at run time are left out: only a
/// text of the program's own is known to hold nothing else.
fn line(panic: &PanicHookInfo<'_>) -> String {
    let place = panic.location().map_or_else(
        || "an unknown place".to_owned(),
        |at| format!("{}:{}", at.file(), at.line()),
    );
    let words = panic.payload().downcast_ref::<&'static str>();
    let words = words.map_or(String::new(), |words| format!(" ({words})"));
    format!(
        "tidewatch: a mistake in the program at {place}{words}; please report this line, version {}",
        env!("CARGO_PKG_VERSION")
    )
}
