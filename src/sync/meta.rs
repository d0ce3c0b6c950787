//! What an object says of its file besides the bytes.

use std::path::Path;

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::base::digest::Sha256;
use crate::base::path::RelPath;
use crate::base::stat::Stat;
use crate::store::Meta;

/// What objects say of themselves by their names. The default guesses the type and says nothing of caches.
#[derive(Default, Debug)]
pub struct Labels {
    content_types: Vec<(Gitignore, String)>,
    cache_control: Vec<(Gitignore, String)>,
}

impl Labels {
    /// Takes pairs of a gitignore rule and the value for what it names: of several the first counts. The error says which
    /// rule is none.
    pub fn new(
        content_types: &[(String, String)],
        cache_control: &[(String, String)],
    ) -> Result<Self, String> {
        Ok(Self {
            content_types: rules(content_types)?,
            cache_control: rules(cache_control)?,
        })
    }

    /// Returns what an object says of its file: names in the form that rclone and others read.
    pub fn meta(&self, path: &RelPath, stat: &Stat, sha256: Option<Sha256>) -> Meta {
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
            content_type: self.content_type(path),
            cache_control: first(&self.cache_control, path),
            ..Meta::default()
        }
    }

    /// Returns the MIME type that is given for the name, or guesses it; `None` where nothing is known.
    pub fn content_type(&self, path: &RelPath) -> Option<String> {
        first(&self.content_types, path).or_else(|| {
            let name = std::str::from_utf8(path.name()).ok()?;
            mime_guess::from_path(name).first_raw().map(str::to_owned)
        })
    }
}

fn rules(pairs: &[(String, String)]) -> Result<Vec<(Gitignore, String)>, String> {
    let rule = |(text, value): &(String, String)| {
        let mut builder = GitignoreBuilder::new("");
        let built = builder
            .add_line(None, text)
            .and_then(|builder| builder.build());
        let rule = built.map_err(|error| format!("use the rule {text:?}: {error}"))?;
        Ok((rule, value.clone()))
    };
    pairs.iter().map(rule).collect()
}

fn first(rules: &[(Gitignore, String)], path: &RelPath) -> Option<String> {
    let path = Path::new(path.as_os_str());
    let fits = |(rule, _): &&(Gitignore, String)| {
        rule.matched_path_or_any_parents(path, false).is_ignore()
    };
    rules.iter().find(fits).map(|(_, value)| value.clone())
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
        let labels = Labels::default();
        let meta = labels.meta(&path, &stat, Some(Sha256::of(b"x")));
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
        let before_epoch = labels.meta(
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

    #[test]
    fn the_first_rule_that_fits_says_type_and_cache() {
        let pair = |rule: &str, value: &str| (rule.to_owned(), value.to_owned());
        let types = [
            pair("*.log", "text/plain"),
            pair("/raw/", "application/x-raw"),
            pair("*", "application/octet-stream"),
        ];
        let labels = Labels::new(&types, &[pair("*.html", "no-cache")]).expect("good rules");
        let of = |path: &[u8]| labels.content_type(&RelPath::new(path).expect("a path"));
        assert_eq!(of(b"a/b.log").as_deref(), Some("text/plain"));
        assert_eq!(of(b"raw/x.jpg").as_deref(), Some("application/x-raw"));
        assert_eq!(
            of(b"a/raw/x.jpg").as_deref(),
            Some("application/octet-stream")
        );
        let cache =
            |path: &[u8]| first(&labels.cache_control, &RelPath::new(path).expect("a path"));
        assert_eq!(cache(b"x/index.html").as_deref(), Some("no-cache"));
        assert_eq!(cache(b"x/index.css"), None);
    }
}
