//! Who else may write or read the config: it names programs that are run (`[notify]`), and where files go.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::base::path::escaped;
use crate::config::{Notify, Problem};

/// What the mode of a file lets its group and others do to it.
const WRITE: u32 = 0o022;
/// What the mode of a file lets everybody do with it.
const READ: u32 = 0o004;

/// Returns what the config at `place` says, unread. One that its group or others can write is refused.
pub fn text_of(place: &Path) -> Result<String, Problem> {
    let shown = || escaped(place.as_os_str().as_encoded_bytes());
    let read = || {
        let mut file = File::open(place)?;
        let stat = file.metadata()?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        Ok::<_, std::io::Error>((stat, text))
    };
    let (stat, text) = read().map_err(|error| {
        let shown = shown();
        Problem::new(format!("the config `{shown}` cannot be read: {error}"))
    })?;
    // A pipe, as a shell makes one, has its own owner.
    if stat.is_file() && stat.mode() & WRITE != 0 {
        return Err(Problem::new(format!(
            "the config `{}` can be written by others than its owner (mode {:o}), who could have any program run by it; \
             `chmod go-w` it",
            shown(),
            stat.mode() & 0o777
        )));
    }
    Ok(text)
}

/// Returns true if everybody on this machine can read addresses in the config at `place` that are as good as passwords.
pub fn is_for_all(place: &Path, notify: &Notify) -> bool {
    let has_secret = notify.webhook.is_some() || notify.heartbeat.is_some();
    has_secret
        && std::fs::metadata(place).is_ok_and(|stat| stat.is_file() && stat.mode() & READ != 0)
}
