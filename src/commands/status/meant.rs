//! What a FOLDER argument means: a name, a path, or a URL.

use std::path::Path;

use crate::base::path::escaped;
use crate::config::Target;

/// What a FOLDER argument can mean, in the forms in which folders are known.
pub struct Meant {
    name: String,
    path: Option<String>,
    url: Option<String>,
}

impl Meant {
    /// Takes the argument as it was given.
    pub fn of(wanted: &str) -> Self {
        let shown = |path: &Path| escaped(path.as_os_str().as_encoded_bytes());
        // The folder itself may be gone: then its name as it stands, without a slash behind it, is all there is.
        let absolute = || Some(std::path::absolute(wanted).ok()?.components().collect());
        let path = std::fs::canonicalize(wanted).ok().or_else(absolute);
        Self {
            name: wanted.to_owned(),
            path: path.as_deref().map(shown),
            url: Target::parse(wanted).ok().map(|target| target.to_string()),
        }
    }

    /// Returns true if it means the folder of that name, path (escaped for people) and URL.
    pub fn is(&self, name: &str, path: &str, to: &str) -> bool {
        name == self.name || self.path.as_deref() == Some(path) || self.url.as_deref() == Some(to)
    }
}

/// Says that no folder is meant, and which there are; fits after "could not find".
pub fn missing(wanted: &str, known: &[String]) -> String {
    let wanted = escaped(wanted.as_bytes());
    if known.is_empty() {
        return format!("the folder `{wanted}`: nothing is synced from here yet");
    }
    format!(
        "the folder `{wanted}`; there are (name, path, URL):\n{}",
        known.join("\n")
    )
}
