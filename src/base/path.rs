//! A path below a folder's root, as the bytes the kernel gave.
//!
//! Never decoded, never normalised: two names are the same only if their bytes are.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::fmt::{self, Write as _};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

/// A path relative to a folder's root; empty for the root itself.
///
/// Invariant: no leading or trailing `/`, no empty, `.` or `..` component, no NUL. Ordered by bytes. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelPath(Arc<[u8]>);

impl RelPath {
    /// Returns the root itself.
    pub fn root() -> Self {
        Self(Arc::from(&b""[..]))
    }

    /// Takes bytes that come from a listing or from the manifest; `None` if they break the invariant.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let bad =
            |part: &[u8]| part.is_empty() || part == b"." || part == b".." || part.contains(&0);
        if !bytes.is_empty() && bytes.split(|b| *b == b'/').any(bad) {
            return None;
        }
        Some(Self(Arc::from(bytes)))
    }

    /// Returns what is left of `path` below `root`; `None` if it is not below it.
    pub fn below(root: &Path, path: &Path) -> Option<Self> {
        let rest = path.strip_prefix(root).ok()?;
        Self::new(rest.as_os_str().as_bytes())
    }

    /// Returns this path with one more component.
    ///
    /// `name` must be a single component as a directory listing yields it.
    #[must_use]
    pub fn join(&self, name: &[u8]) -> Self {
        debug_assert!(!name.is_empty() && !name.contains(&b'/'));
        if self.0.is_empty() {
            return Self(Arc::from(name));
        }
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + name.len());
        bytes.extend_from_slice(&self.0);
        bytes.push(b'/');
        bytes.extend_from_slice(name);
        Self(Arc::from(bytes))
    }

    /// Returns the folder that holds this path; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        if self.0.is_empty() {
            return None;
        }
        let end = self.0.iter().rposition(|b| *b == b'/').unwrap_or(0);
        Some(Self(Arc::from(&self.0[..end])))
    }

    /// Returns the last component; empty for the root.
    pub fn name(&self) -> &[u8] {
        let start = self
            .0
            .iter()
            .rposition(|b| *b == b'/')
            .map_or(0, |at| at + 1);
        &self.0[start..]
    }

    /// Returns true for the root itself.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns true if this path is `folder` or lies below it.
    pub fn is_within(&self, folder: &Self) -> bool {
        folder.is_root()
            || self
                .0
                .strip_prefix(&*folder.0)
                .is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
    }

    /// Returns the raw bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the path as the operating system's functions take it.
    pub fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }

    /// Returns the absolute path below `root`.
    pub fn under(&self, root: &Path) -> PathBuf {
        if self.0.is_empty() {
            root.to_path_buf()
        } else {
            root.join(OsString::from_vec(self.0.to_vec()))
        }
    }
}

/// Returns a path as lines of JSON have it: as it is; or, if it is not UTF-8, escaped for people, and its bytes in base64
/// beside it.
pub fn told(bytes: &[u8]) -> (Cow<'_, str>, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Cow::Borrowed(text), None),
        Err(_) => (
            Cow::Owned(escaped(bytes)),
            Some(BASE64_STANDARD.encode(bytes)),
        ),
    }
}

/// Shows the path for people and logs, as [`escaped`] does.
impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escaped(&self.0))
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{self}`")
    }
}

/// Returns true for what has no place in a line that people read: control characters, those that end a line or turn the
/// order of letters round.
pub fn is_unruly(c: char) -> bool {
    // Most text is none of it.
    !c.is_ascii_graphic()
        && (c.is_control()
            || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'))
}

/// Returns bytes as one line of text: what [`is_unruly`] and bytes that are not UTF-8 appear as `\xNN` or `\u{N}`, a
/// backslash doubled, everything else as it is.
pub fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '\\' {
                text.push_str("\\\\");
            } else if is_unruly(c) {
                text.extend(c.escape_default());
            } else {
                text.push(c);
            }
        }
        for byte in chunk.invalid() {
            // Writing to a String cannot fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).expect("a valid path")
    }

    #[test]
    fn a_path_that_could_leave_the_root_is_refused() {
        for bad in ["/a", "a/", "a//b", ".", "..", "a/../b", "a/./b", "a\0b"] {
            assert!(RelPath::new(bad.as_bytes()).is_none(), "{bad}");
        }
        assert!(RelPath::new(b"").is_some_and(|p| p.is_root()));
    }

    #[test]
    fn parent_and_name_take_a_path_apart() {
        assert_eq!(path("a/b/c").parent(), Some(path("a/b")));
        assert_eq!(path("a").parent(), Some(RelPath::root()));
        assert_eq!(RelPath::root().parent(), None);
        assert_eq!(path("a/b").name(), b"b");
        assert_eq!(RelPath::root().join(b"x").join(b"y"), path("x/y"));
    }

    #[test]
    fn within_looks_at_whole_components() {
        assert!(path("a/b").is_within(&path("a")));
        assert!(path("a").is_within(&path("a")));
        assert!(!path("ab").is_within(&path("a")));
        assert!(path("x").is_within(&RelPath::root()));
    }

    #[test]
    fn what_could_forge_a_log_line_is_escaped() {
        assert_eq!(escaped(b"a\nb\x1b[2J\xff\\"), "a\\nb\\u{1b}[2J\\xff\\\\");
        assert_eq!(escaped("für \u{202e}x".as_bytes()), "für \\u{202e}x");
        assert_eq!(
            escaped("\u{61c}\u{85}\u{2028}\u{feff}".as_bytes()),
            "\\u{61c}\\u{85}\\u{2028}\u{feff}"
        );
    }
}
