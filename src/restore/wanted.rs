//! What is to be on the disk: one object and the path, time, mode and owner that it has there.

use crate::base::digest::Sha256;
use crate::base::path::RelPath;
use crate::base::stat::FolderStamp;
use crate::restore::temporary::is_temporary;
use crate::store::{Object, Which};

/// The longest name that a file of the disk can have, in bytes (the kernel's `NAME_MAX`).
const NAME_MAX: usize = 255;

/// One thing that is to be on the disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// Where, below the target.
    pub path: RelPath,
    /// The object that holds it; empty for a folder without one.
    pub key: String,
    /// What it becomes.
    pub kind: Kind,
    /// Length of the content in bytes.
    pub size: u64,
    /// The object's ETag, where it is known.
    pub etag: Option<String>,
    /// Which of the object's versions it is; `None`: the one that is there.
    pub version_id: Option<String>,
    /// The content's hash, where it is known without asking.
    pub sha256: Option<Sha256>,
    /// What goes with it, as far as it is known without asking.
    pub stamp: Stamp,
}

/// What something becomes on the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder, which may be empty.
    Folder,
    /// A symbolic link; the content is its target.
    Link,
}

/// Time, mode and owner, as far as they are known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stamp {
    /// Last modification, nanoseconds since the epoch.
    pub mtime_ns: Option<i64>,
    /// Permission bits, 0 to 0o7777.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
}

/// A key, or a path, that cannot be on the disk as it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refused {
    /// The object's key.
    pub key: String,
    /// Why.
    pub why: String,
}

impl Wanted {
    /// Returns true for a folder that has no object: the catalog has it on record.
    pub fn is_bare_folder(&self) -> bool {
        self.kind == Kind::Folder && self.key.is_empty()
    }

    /// Returns which of the object's contents it is.
    pub fn which(&self) -> Which {
        match &self.version_id {
            Some(id) => Which::Version(id.clone()),
            None => Which::Current,
        }
    }
}

impl From<FolderStamp> for Stamp {
    fn from(stamp: FolderStamp) -> Self {
        Self {
            mtime_ns: Some(stamp.mtime_ns),
            mode: Some(stamp.mode),
            uid: Some(stamp.uid),
            gid: Some(stamp.gid),
        }
    }
}

impl Stamp {
    /// Reads what an object says of its file, in the forms that Tidewatch and rclone write.
    pub fn of(object: &Object) -> Self {
        let value = |name: &str| {
            let mut user = object.user.iter();
            user.find(|(known, _)| known == name)
                .map(|(_, value)| value.trim())
        };
        let id = |name| value(name).and_then(|text| text.parse().ok());
        Self {
            mtime_ns: value("mtime").and_then(nanoseconds),
            // rclone writes the kind of file in front of the bits.
            mode: value("mode")
                .and_then(|text| u32::from_str_radix(text, 8).ok())
                .map(|mode| mode & 0o7777),
            uid: id("uid"),
            gid: id("gid"),
        }
    }

    /// Returns this, and what it leaves open from `next`.
    #[must_use]
    pub fn or(self, next: Self) -> Self {
        Self {
            mtime_ns: self.mtime_ns.or(next.mtime_ns),
            mode: self.mode.or(next.mode),
            uid: self.uid.or(next.uid),
            gid: self.gid.or(next.gid),
        }
    }
}

/// Reads decimal seconds since the epoch with up to nine digits behind the point, as rclone writes them. The fraction
/// counts upwards also before the epoch, as a `timespec` has it and as our own metadata does.
fn nanoseconds(text: &str) -> Option<i64> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let fraction = &fraction[..fraction.len().min(9)];
    let nanoseconds: i64 = format!("{fraction:0<9}").parse().ok()?;
    let seconds: i64 = seconds.parse().ok()?;
    seconds.checked_mul(1_000_000_000)?.checked_add(nanoseconds)
}

/// Says why nothing can be restored under this path; `None` if something can.
pub fn trouble(path: &RelPath) -> Option<String> {
    let mut parts = path.as_bytes().split(|byte| *byte == b'/');
    parts.find_map(|part| {
        if part.len() > NAME_MAX {
            return Some(format!(
                "a name in it has more than {NAME_MAX} bytes, which no file of the disk can have"
            ));
        }
        // The next run would take it for what a killed one has left, and remove it.
        is_temporary(part)
            .then(|| "a name in it is one that files have while they are being restored".to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_we_and_rclone_write_them() {
        for (text, expected) in [
            ("1764000000.123456789", Some(1_764_000_000_123_456_789)),
            ("1764000000.5", Some(1_764_000_000_500_000_000)),
            ("1764000000", Some(1_764_000_000_000_000_000)),
            ("-1.999999999", Some(-1)),
            ("0.0000000001", Some(0)),
            ("99999999999999999999", None),
            ("9999999999999", None),
            ("1.-5", None),
            ("yesterday", None),
            ("", None),
        ] {
            assert_eq!(nanoseconds(text), expected, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_not_known() {
        let user = [
            ("gid", "x"),
            ("mode", "100644"),
            ("mtime", "?"),
            ("uid", "1000"),
        ];
        let object = Object {
            size: 0,
            etag: String::new(),
            version_id: None,
            user: user.map(|(a, b)| (a.to_owned(), b.to_owned())).to_vec(),
            crc64: None,
            sum: None,
            is_keyed: false,
            modified_ns: None,
            date_ns: None,
        };
        let known = Stamp {
            mode: Some(0o644),
            uid: Some(1000),
            ..Stamp::default()
        };
        assert_eq!(Stamp::of(&object), known);
    }
}
