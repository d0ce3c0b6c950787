//! Where a folder goes: `s3://BUCKET[/PREFIX]`. (pure)

use std::fmt;

/// The longest prefix, in bytes: a whole key has 1,024 (S3's limit), and what the agent keeps beside the files needs
/// about a hundred of them.
const MAX_PREFIX: usize = 900;

/// The folder in which the agent keeps its own objects below each prefix.
const RESERVED: &str = ".tidewatch";

/// A bucket and a prefix.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// The bucket's name.
    pub bucket: String,
    /// Empty, or ends with `/`.
    pub prefix: String,
}

impl Target {
    /// Takes a URL; `s3://b/p` is `s3://b/p/`. The error is one line.
    pub fn parse(url: &str) -> Result<Self, String> {
        let Some(rest) = url.strip_prefix("s3://") else {
            let hint = if url.starts_with("http://") || url.starts_with("https://") {
                " (the address of an S3 server is its endpoint_url)"
            } else {
                ""
            };
            return Err(format!("expected s3://BUCKET[/PREFIX], got {url:?}{hint}"));
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        check_bucket(bucket).map_err(|why| format!("{why} in {url:?}"))?;
        // A lone `/` is an empty component, not an empty prefix with its `/`.
        let prefix = match prefix {
            "/" => prefix,
            _ => prefix.strip_suffix('/').unwrap_or(prefix),
        };
        check_prefix(prefix).map_err(|why| format!("{why} in {url:?}"))?;
        let prefix = match prefix {
            "" => String::new(),
            some => format!("{some}/"),
        };
        Ok(Self {
            bucket: bucket.to_owned(),
            prefix,
        })
    }

    /// Returns true if a key could belong to both: same bucket, and one prefix lies in the other.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.bucket == other.bucket
            && (self.prefix.starts_with(&other.prefix) || other.prefix.starts_with(&self.prefix))
    }
}

/// Shows the normalised URL: `s3://bucket/prefix/`.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.prefix)
    }
}

/// Checks S3's rules for names, but takes upper case and `_`, which old buckets and some compatible stores have.
fn check_bucket(bucket: &str) -> Result<(), String> {
    if bucket.is_empty() {
        return Err("no bucket".to_owned());
    }
    let plain = |c: char| c.is_ascii_alphanumeric();
    let good = bucket.chars().all(|c| plain(c) || ".-_".contains(c))
        && bucket.starts_with(plain)
        && bucket.ends_with(plain)
        && !bucket.contains("..")
        && (3..=63).contains(&bucket.len());
    if good {
        return Ok(());
    }
    Err(format!(
        "`{}` is not a bucket's name (3 to 63 letters, digits, `.`, `-`, `_`)",
        bucket.escape_debug()
    ))
}

/// Checks a prefix without its last `/`.
fn check_prefix(prefix: &str) -> Result<(), String> {
    if prefix.is_empty() {
        return Ok(());
    }
    if prefix.len() > MAX_PREFIX {
        return Err(format!("a prefix of more than {MAX_PREFIX} bytes"));
    }
    if prefix.contains(char::is_control) {
        return Err("a control character".to_owned());
    }
    for part in prefix.split('/') {
        match part {
            "" => return Err("an empty component (`//`) in the prefix".to_owned()),
            "." | ".." => return Err(format!("a `{part}` in the prefix")),
            RESERVED => return Err(format!("`{RESERVED}`, which is reserved, in the prefix")),
            _ => {}
        }
    }
    Ok(())
}

/// Returns `text` with `{hostname}` and `{name}` filled in. The error is one line.
pub fn expand(text: &str, name: &str, hostname: &str) -> Result<String, String> {
    let mut done = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('{') {
        let (before, from) = rest.split_at(at);
        done.push_str(before);
        // A brace that is never closed is a character like any other.
        let Some(end) = from.find('}') else {
            rest = from;
            break;
        };
        match &from[1..end] {
            "hostname" if hostname.is_empty() => {
                return Err(
                    "`{hostname}` cannot be filled in: this machine has no host name".to_owned(),
                );
            }
            "hostname" => done.push_str(hostname),
            "name" => done.push_str(name),
            other => {
                return Err(format!(
                    "unknown placeholder `{{{}}}`; there are `{{hostname}}` and `{{name}}`",
                    other.escape_debug()
                ));
            }
        }
        rest = &from[end + 1..];
    }
    done.push_str(rest);
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_with_a_slash_or_is_empty() {
        let shown = |url| Target::parse(url).map(|target| target.to_string());
        for (url, normal) in [
            ("s3://bucket", "s3://bucket/"),
            ("s3://bucket/", "s3://bucket/"),
            ("s3://bucket/p", "s3://bucket/p/"),
            ("s3://bucket/p/", "s3://bucket/p/"),
            ("s3://Old_Bucket.x/a b/ü+%", "s3://Old_Bucket.x/a b/ü+%/"),
        ] {
            assert_eq!(shown(url).as_deref(), Ok(normal));
        }
    }

    #[test]
    fn what_is_not_a_bucket_and_a_clean_prefix_is_refused() {
        for (url, why) in [
            ("", "expected s3://BUCKET[/PREFIX], got \"\""),
            (
                "bucket/p",
                "expected s3://BUCKET[/PREFIX], got \"bucket/p\"",
            ),
            (
                "https://x/b",
                "expected s3://BUCKET[/PREFIX], got \"https://x/b\" (the address of an S3 server is its endpoint_url)",
            ),
            ("s3://", "no bucket in \"s3://\""),
            ("s3:///p", "no bucket in \"s3:///p\""),
            (
                "s3://ab",
                "`ab` is not a bucket's name (3 to 63 letters, digits, `.`, `-`, `_`) in \"s3://ab\"",
            ),
            (
                "s3://bucket/a//b",
                "an empty component (`//`) in the prefix in \"s3://bucket/a//b\"",
            ),
            (
                "s3://bucket//",
                "an empty component (`//`) in the prefix in \"s3://bucket//\"",
            ),
            (
                "s3://bucket/a/../b",
                "a `..` in the prefix in \"s3://bucket/a/../b\"",
            ),
            ("s3://bucket/.", "a `.` in the prefix in \"s3://bucket/.\""),
            (
                "s3://bucket/.tidewatch/x",
                "`.tidewatch`, which is reserved, in the prefix in \"s3://bucket/.tidewatch/x\"",
            ),
            (
                "s3://bucket/a\nb",
                "a control character in \"s3://bucket/a\\nb\"",
            ),
        ] {
            assert_eq!(Target::parse(url), Err(why.to_owned()), "{url}");
        }
        for bucket in [
            "-abc",
            "abc.",
            "a..b",
            "a b c",
            "a:b:c",
            "bücket",
            &"x".repeat(64),
        ] {
            assert!(
                Target::parse(&format!("s3://{bucket}")).is_err(),
                "{bucket}"
            );
        }
        assert!(Target::parse(&format!("s3://bucket/{}", "x".repeat(901))).is_err());
    }

    #[test]
    fn targets_overlap_by_whole_components_of_one_bucket() {
        let target = |url| Target::parse(url).expect("a good URL");
        let overlap = |a, b| target(a).overlaps(&target(b)) && target(b).overlaps(&target(a));
        assert!(overlap("s3://bucket/p", "s3://bucket/p/"));
        assert!(overlap("s3://bucket", "s3://bucket/p"));
        assert!(overlap("s3://bucket/p", "s3://bucket/p/q"));
        assert!(!overlap("s3://bucket/p", "s3://bucket/pq"));
        assert!(!overlap("s3://bucket/p", "s3://bucket2/p"));
    }

    #[test]
    fn only_the_host_and_the_name_are_filled_in() {
        let fill = |text| expand(text, "photos", "tide");
        assert_eq!(
            fill("s3://b/{hostname}/{name}").as_deref(),
            Ok("s3://b/tide/photos")
        );
        assert_eq!(fill("s3://b/{open").as_deref(), Ok("s3://b/{open"));
        assert_eq!(
            fill("s3://b/{host}").expect_err("unknown"),
            "unknown placeholder `{host}`; there are `{hostname}` and `{name}`"
        );
        assert!(expand("s3://b/{hostname}", "n", "").is_err());
    }
}
