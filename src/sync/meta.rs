//! What an object says of its file besides the bytes.

use crate::base::digest::Sha256;
use crate::base::path::RelPath;
use crate::base::stat::Stat;
use crate::store::Meta;

/// Returns what an object says of its file: names in the form that rclone and others read.
pub fn of(path: &RelPath, stat: &Stat, sha256: Option<Sha256>) -> Meta {
    let seconds = stat.mtime_ns.div_euclid(1_000_000_000);
    let mtime = format!("{seconds}.{:09}", stat.mtime_ns.rem_euclid(1_000_000_000));
    let mut user = vec![
        ("gid".into(), stat.gid.to_string()),
        ("mode".into(), format!("{:04o}", stat.mode)),
        ("mtime".into(), mtime),
    ];
    user.extend(sha256.map(|sha256| ("sha256".into(), sha256.to_hex())));
    user.push(("uid".into(), stat.uid.to_string()));
    Meta {
        user,
        content_type: content_type(path),
        ..Meta::default()
    }
}

/// Guesses the MIME type from the name; `None` where nothing is known.
pub fn content_type(path: &RelPath) -> Option<String> {
    let name = std::str::from_utf8(path.name()).ok()?;
    mime_guess::from_path(name).first_raw().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::stat::Kind;

    #[test]
    fn metadata_is_what_rclone_writes() {
        let path = RelPath::root().join(b"photo.jpg");
        let stat = Stat {
            kind: Kind::File,
            size: 1,
            mtime_ns: 1_764_000_000_123_456_789,
            ctime_ns: 0,
            dev: 0,
            ino: 0,
            mode: 0o640,
            uid: 1000,
            gid: 100,
            nlink: 1,
        };
        let meta = of(&path, &stat, Some(Sha256::of(b"x")));
        let value = |name: &str| {
            meta.user
                .iter()
                .find(|(n, _)| n == name)
                .map(|(_, value)| value.clone())
        };
        assert_eq!(value("mtime").as_deref(), Some("1764000000.123456789"));
        assert_eq!(value("mode").as_deref(), Some("0640"));
        assert_eq!(value("uid").as_deref(), Some("1000"));
        assert_eq!(value("sha256"), Some(Sha256::of(b"x").to_hex()));
        assert_eq!(meta.content_type.as_deref(), Some("image/jpeg"));
        let before_epoch = of(
            &path,
            &Stat {
                mtime_ns: -1,
                ..stat
            },
            None,
        );
        let mtime = before_epoch
            .user
            .iter()
            .find(|(n, _)| n == "mtime")
            .map(|(_, v)| v.as_str());
        assert_eq!(mtime, Some("-1.999999999"));
    }
}
