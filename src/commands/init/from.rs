//! `tidewatch init --from`: the command line of another tool, as a config that does the same.
//!
//! Only uploads of a folder are taken: `rclone sync|copy`, `aws s3 sync`, `s5cmd sync|cp`, `mc mirror`. What cannot be
//! taken over is named, in the config and on standard error. Secrets, in the line or in a tool's own files, are neither
//! read further nor written: the config never holds any.

use std::path::Path;

use crate::commands::init::options::{FLAGS, Means, Tool, VALUES, find};
use crate::commands::init::places::{Bucket, Places};
use crate::config::Target;

/// A config, and what it leaves out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Drawn {
    /// The config.
    pub text: String,
    /// What of the line is not in it, fit after "not taken over: ".
    pub left_out: Vec<String>,
}

/// What a line asks for.
#[derive(Default)]
struct Asked {
    /// Words that are no option; and those that follow an option nobody knows, which may be its value.
    words: Vec<(String, bool)>,
    exclude: Vec<String>,
    include: Vec<String>,
    /// Whether the line takes something in again.
    is_included: bool,
    /// Keys of the folder, in the order of the line.
    folder: Vec<(&'static str, String)>,
    endpoint: Option<String>,
    region: Option<String>,
    profile: Option<String>,
    bandwidth: Option<String>,
    concurrency: Option<String>,
    settings: Option<String>,
    left_out: Vec<String>,
}

/// Draws the config of a command line. The error is one line, fit after "could not".
pub fn draw(line: &str, places: &Places) -> Result<Drawn, String> {
    let words = shlex::split(line)
        .ok_or_else(|| "read the line of --from: a quote in it is not closed".to_owned())?;
    let mut words = words.into_iter().peekable();
    let tool = words.next().unwrap_or_default();
    let tool = match Path::new(&tool).file_name().and_then(|name| name.to_str()) {
        Some("rclone") => Tool::Rclone,
        Some("aws") => Tool::Aws,
        Some("s5cmd") => Tool::S5cmd,
        Some("mc" | "mcli") => Tool::Mc,
        _ => {
            return Err(format!(
                "read the line of --from: `{}` is none of rclone, aws, s5cmd, mc",
                tool.escape_debug()
            ));
        }
    };
    let mut asked = Asked::default();
    while let Some(word) = words.next() {
        let Some(option) = word.strip_prefix('-').filter(|rest| !rest.is_empty()) else {
            asked.words.push((word, false));
            continue;
        };
        let option = option.strip_prefix('-').unwrap_or(option);
        let (name, given) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (option, None),
        };
        if let Some(means) = find(VALUES, tool, name) {
            let value = given.or_else(|| words.next());
            let value =
                value.ok_or_else(|| format!("read the line of --from: --{name} has no value"))?;
            asked.take(tool, name, means, value);
        } else if let Some(means) = find(FLAGS, tool, name) {
            if given.as_deref() != Some("false") {
                asked.take(tool, name, means, String::new());
            }
        } else {
            // Only its name: what it is given may be a secret.
            asked.left_out.push(format!("`{}`", dashed(name)));
            let is_word = words.peek().is_some_and(|next| !next.starts_with('-'));
            if given.is_none()
                && is_word
                && let Some(next) = words.next()
            {
                asked.words.push((next, true));
            }
        }
    }
    asked.draw(tool, places)
}

fn dashed(name: &str) -> String {
    let dashes = if name.len() == 1 { "-" } else { "--" };
    format!("{dashes}{}", name.escape_debug())
}

impl Asked {
    fn take(&mut self, tool: Tool, name: &str, means: Means, value: String) {
        match means {
            Means::Exclude => self.exclude(tool, &value),
            Means::Include => {
                let Rule { text, is_below, .. } = Rule::of(tool, &value);
                // The files themselves: a rule about their folder says less than one that leaves them out.
                let below = if is_below { "/**" } else { "" };
                self.include.push(format!("{text}{below}"));
                self.is_included = true;
            }
            Means::Delete => self.folder.push(("on_delete", "delete".to_owned())),
            Means::Folder(key) => self.folder.push((key, value)),
            Means::Is(key, value) => self.folder.push((key, value.to_owned())),
            Means::Endpoint => self.endpoint = Some(value),
            Means::Region => self.region = Some(value),
            Means::Profile => self.profile = Some(value),
            Means::Bandwidth => match bandwidth(tool, &value) {
                Some(limit) => self.bandwidth = Some(limit),
                None => self.left_out.push(format!("`{}`", dashed(name))),
            },
            Means::Concurrency => match value.parse::<usize>() {
                Ok(count) if count > 0 => self.concurrency = Some(count.min(512).to_string()),
                _ => self.left_out.push(format!("`{}`", dashed(name))),
            },
            Means::Settings => self.settings = Some(value),
            Means::Nothing => {}
            Means::Other => self.left_out.push(format!("`{}`", dashed(name))),
        }
    }

    fn exclude(&mut self, tool: Tool, pattern: &str) {
        if self.is_included {
            // Theirs go by their order, ours take in again what any leaves out.
            self.left_out.push(format!(
                "that `--exclude {}` comes behind an --include",
                pattern.escape_debug()
            ));
        }
        let rule = Rule::of(tool, pattern);
        if rule.is_of_files {
            self.include.push(format!("{}/", rule.text));
        }
        let below = if rule.is_below { "/" } else { "" };
        self.exclude.push(format!("{}{below}", rule.text));
    }

    /// Returns the words that are the tool's verbs, its folder and its remote.
    fn positions(&self, tool: Tool) -> Result<(String, String, String), String> {
        let verbs = if tool == Tool::Aws { 2 } else { 1 };
        let sure = self.words.iter().filter(|(_, maybe)| !maybe);
        let sure: Vec<_> = sure.map(|(word, _)| word.as_str()).collect();
        let all: Vec<_> = self.words.iter().map(|(word, _)| word.as_str()).collect();
        let words = if sure.len() == verbs + 2 { sure } else { all };
        if words.len() != verbs + 2 {
            return Err(
                "read the line of --from: it takes one folder and one remote; write options that are not known here as --name=value"
                    .to_owned(),
            );
        }
        let verb = words[..verbs].join(" ");
        Ok((verb, words[verbs].to_owned(), words[verbs + 1].to_owned()))
    }

    fn draw(mut self, tool: Tool, places: &Places) -> Result<Drawn, String> {
        let (verb, dir, remote) = self.positions(tool)?;
        let is_known = match tool {
            Tool::Rclone => matches!(verb.as_str(), "sync" | "copy"),
            Tool::Aws => verb == "s3 sync",
            Tool::S5cmd => matches!(verb.as_str(), "sync" | "cp"),
            Tool::Mc => verb == "mirror",
        };
        if !is_known {
            return Err(format!(
                "take `{}` over: only `rclone sync|copy`, `aws s3 sync`, `s5cmd sync|cp` and `mc mirror` are known",
                verb.escape_debug()
            ));
        }
        let says = |key| self.folder.iter().any(|(given, _)| *given == key);
        if matches!(tool, Tool::Aws | Tool::S5cmd) && !says("symlinks") {
            self.folder.push(("symlinks", "follow".to_owned()));
        }
        if tool == Tool::Rclone && verb == "sync" {
            self.folder.push(("on_delete", "delete".to_owned()));
        }
        let settings = self.settings.as_deref();
        let bucket = match tool {
            Tool::Rclone => places.of_rclone(&remote, settings)?,
            Tool::Mc => places.of_mc(&remote, settings)?,
            Tool::Aws | Tool::S5cmd => Bucket {
                to: remote.clone(),
                ..Bucket::default()
            },
        };
        let to = Target::parse(&bucket.to).map_err(|why| {
            format!(
                "take the line of --from over, which has to go from a folder to a bucket: {why}"
            )
        })?;
        let path = places.folder(dir.strip_suffix("/*").unwrap_or(&dir))?;
        self.endpoint = self.endpoint.or(bucket.endpoint);
        self.region = self.region.or(bucket.region);
        if let Some(class) = bucket.storage_class
            && !self.folder.iter().any(|(key, _)| *key == "storage_class")
        {
            self.folder.push(("storage_class", class));
        }
        self.left_out.extend(bucket.left_out);
        Ok(self.text(&path, &to.to_string()))
    }

    fn text(self, path: &str, to: &str) -> Drawn {
        let mut text = String::from(
            "# Made by `tidewatch init --from`. `tidewatch init OTHER-FILE` writes all keys with what they mean.\n",
        );
        for what in &self.left_out {
            text += "# Not taken over: ";
            text += what;
            text += "\n";
        }
        text += "# Credentials come from the standard AWS places (AWS_ACCESS_KEY_ID, ~/.aws, roles), never from here.\n";
        let mut section = |head: &str, keys: &[(&str, Option<String>)]| {
            let keys: Vec<_> = keys
                .iter()
                .filter_map(|(key, value)| Some(format!("{key} = {}\n", value.as_ref()?)))
                .collect();
            if !keys.is_empty() {
                text += "\n";
                text += head;
                text += "\n";
                text += &keys.concat();
            }
        };
        let word = |value: Option<String>| value.map(|value| quoted(&value));
        section(
            "[s3]",
            &[
                ("region", word(self.region)),
                ("endpoint_url", word(self.endpoint)),
                ("profile", word(self.profile)),
            ],
        );
        section(
            "[upload]",
            &[
                ("concurrency", self.concurrency),
                ("bandwidth", word(self.bandwidth)),
            ],
        );
        let list = |rules: &[String]| {
            let rules: Vec<_> = rules.iter().map(|rule| quoted(rule)).collect();
            (!rules.is_empty()).then(|| format!("[{}]", rules.join(", ")))
        };
        let mut keys = vec![
            ("path", Some(quoted(path))),
            ("to", Some(quoted(to))),
            ("exclude", list(&self.exclude)),
            ("include", list(&self.include)),
        ];
        for (key, value) in self.folder {
            keys.retain(|(before, _)| *before != key);
            keys.push((key, Some(quoted(&value))));
        }
        section("[[folder]]", &keys);
        Drawn {
            text,
            left_out: self.left_out,
        }
    }
}

/// Returns text as TOML has it.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// A tool's pattern in gitignore's words.
struct Rule {
    text: String,
    /// It names files; gitignore's would leave out folders of that name with all that is in them.
    is_of_files: bool,
    /// It names all that is below a folder.
    is_below: bool,
}

impl Rule {
    fn of(tool: Tool, pattern: &str) -> Self {
        let bare = pattern.trim_start_matches('/');
        if tool == Tool::Rclone {
            return Self::of_rclone(pattern, bare);
        }
        // The whole path is held against it, and a `*` crosses folders.
        let below = bare.strip_suffix("/**").or_else(|| bare.strip_suffix("/*"));
        let name = below.unwrap_or(bare);
        let text = if name.contains('/') {
            let parts = name.split('/').map(|part| match part {
                "*" | "**" => "*/**".to_owned(),
                _ if part.starts_with('*') => format!("**/{part}"),
                _ => part.to_owned(),
            });
            format!("/{}", parts.collect::<Vec<_>>().join("/"))
        } else if name.starts_with('*') {
            name.to_owned()
        } else {
            format!("/{name}")
        };
        Self {
            text,
            is_of_files: below.is_none() && !name.ends_with('*'),
            is_below: below.is_some(),
        }
    }

    /// Only a leading slash fixes it to the folder, and only `**` crosses folders.
    fn of_rclone(pattern: &str, bare: &str) -> Self {
        let below = bare.strip_suffix("/**").or_else(|| bare.strip_suffix('/'));
        let before = if pattern.starts_with('/') {
            "/"
        } else if bare.contains('/') {
            "**/"
        } else {
            ""
        };
        Self {
            text: format!("{before}{}", below.unwrap_or(bare)),
            is_of_files: below.is_none(),
            is_below: below.is_some(),
        }
    }
}

/// Returns a limit of bandwidth in our words; `None` for a timetable or what is none.
fn bandwidth(tool: Tool, text: &str) -> Option<String> {
    if tool == Tool::Rclone && text == "off" {
        return Some("unlimited".to_owned());
    }
    if text.contains([',', ' ']) {
        return None;
    }
    // Of rclone's pairs the first is the upload.
    let text = text.split(':').next().unwrap_or(text);
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.');
    let (number, unit) = text.split_at(unit_at.unwrap_or(text.len()));
    let number: f64 = number.parse().ok()?;
    let is_binary = tool == Tool::Rclone || unit.contains('i');
    let unit = unit
        .trim_end_matches("/s")
        .trim_end_matches('B')
        .trim_end_matches('i');
    let power = match unit.to_ascii_uppercase().as_str() {
        "" if tool == Tool::Rclone => 1,
        "" => 0,
        "K" => 1,
        "M" => 2,
        "G" => 3,
        _ => return None,
    };
    let base: f64 = if is_binary { 1024.0 } else { 1000.0 };
    let bytes = number * base.powi(power);
    // Less than that cannot be asked for.
    (bytes >= 1024.0).then(|| format!("{}B/s", bytes.round() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::base::path::RelPath;
    use crate::base::stat::Kind;
    use crate::tree::filter::Filter;

    fn places() -> Places {
        let env = |name: &str| match name {
            "MC_HOST_minio" => Some("https://KEY:SECRET@minio.example.com:9000".to_owned()),
            "HOME" => Some("/home/me".to_owned()),
            _ => None,
        };
        let read = |path: &Path| {
            match path.to_str() {
            Some("/home/me/.config/rclone/rclone.conf") => Some(
                "# mine\n[r2]\ntype = s3\nprovider = Cloudflare\naccess_key_id = KEY\nsecret_access_key = SECRET\n\
                 endpoint = https://x.r2.example.com\nregion = auto\n\n[crypt]\ntype = crypt\nremote = r2:b\n"
                    .to_owned(),
            ),
            Some("/home/me/.mc/config.json") => Some(
                r#"{"aliases":{"play":{"url":"https://play.example.com/","accessKey":"KEY","secretKey":"SECRET"}}}"#
                    .to_owned(),
            ),
            _ => None,
        }
        };
        Places::new(env, read, Path::new("/home/me"))
    }

    fn drawn(line: &str) -> Drawn {
        let drawn = draw(line, &places()).unwrap_or_else(|why| panic!("{line}: {why}"));
        assert!(
            !drawn.text.contains("SECRET") && !drawn.text.contains("KEY\""),
            "{}",
            drawn.text
        );
        drawn
    }

    /// Returns what of a config says something.
    fn keys(line: &str) -> Vec<String> {
        let drawn = drawn(line);
        let lines = drawn.text.lines();
        lines
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn each_tools_line_becomes_the_config_that_does_the_same() {
        assert_eq!(
            keys(
                "mc mirror --watch --remove --exclude '*.tmp' --exclude 'cache/*' /srv/photos minio/bucket/photos"
            ),
            [
                "[s3]",
                "endpoint_url = \"https://minio.example.com:9000\"",
                "[[folder]]",
                "path = \"/srv/photos\"",
                "to = \"s3://bucket/photos/\"",
                "exclude = [\"*.tmp\", \"/cache/\"]",
                "include = [\"*.tmp/\"]",
                "on_delete = \"delete\"",
            ]
        );
        assert_eq!(
            keys(
                "rclone sync ~/Photos r2:bucket/p --transfers=32 --bwlimit 10M -P --exclude '*.tmp' --exclude /top/** --exclude sub/x --links"
            ),
            [
                "[s3]",
                "region = \"auto\"",
                "endpoint_url = \"https://x.r2.example.com\"",
                "[upload]",
                "concurrency = 32",
                "bandwidth = \"10485760B/s\"",
                "[[folder]]",
                "path = \"/home/me/Photos\"",
                "to = \"s3://bucket/p/\"",
                "exclude = [\"*.tmp\", \"/top/\", \"**/sub/x\"]",
                "include = [\"*.tmp/\", \"**/sub/x/\"]",
                "symlinks = \"record\"",
                "on_delete = \"delete\"",
            ]
        );
        assert_eq!(
            keys(
                "aws --profile work s3 sync . s3://bucket --delete --exclude '*' --include '*.jpg' --include 'docs/*' --storage-class GLACIER_IR"
            ),
            [
                "[s3]",
                "profile = \"work\"",
                "[[folder]]",
                "path = \"/home/me\"",
                "to = \"s3://bucket/\"",
                "exclude = [\"*\"]",
                "include = [\"*.jpg\", \"/docs/**\"]",
                "on_delete = \"delete\"",
                "storage_class = \"GLACIER_IR\"",
                "symlinks = \"follow\"",
            ]
        );
        assert_eq!(
            keys(
                "/usr/bin/s5cmd --endpoint-url http://127.0.0.1:9000 --numworkers 900 cp 'my dir/*' s3://bucket/x/"
            ),
            [
                "[s3]",
                "endpoint_url = \"http://127.0.0.1:9000\"",
                "[upload]",
                "concurrency = 512",
                "[[folder]]",
                "path = \"/home/me/my dir\"",
                "to = \"s3://bucket/x/\"",
                "symlinks = \"follow\"",
            ]
        );
    }

    #[test]
    fn a_pattern_leaves_out_what_the_tool_does_and_no_more() {
        let kept = |tool, pattern: &str, include: bool, path: &str| {
            let mut asked = Asked::default();
            if include {
                asked.take(tool, "exclude", Means::Exclude, "*".to_owned());
                asked.take(tool, "include", Means::Include, pattern.to_owned());
            } else {
                asked.take(tool, "exclude", Means::Exclude, pattern.to_owned());
            }
            let filter = Filter::new(&asked.exclude, &asked.include, false).unwrap();
            let path = RelPath::new(path.as_bytes()).unwrap();
            filter.excludes(&path, Kind::File).is_none()
        };
        for (tool, pattern, out, taken) in [
            // Their `*` crosses folders, and without one the whole path is meant.
            (Tool::Aws, "*.tmp", "a/b.tmp x.tmp", "x.tmp/a"),
            (Tool::Aws, "name", "name", "sub/name name/a"),
            (Tool::Mc, "cache/*", "cache/a cache/b/c", "a/cache/b cache"),
            (Tool::Mc, "cache*", "cache cache/a cache2/a", "a/cache"),
            (
                Tool::S5cmd,
                "docs/*.txt",
                "docs/a.txt docs/b/c.txt",
                "a.txt docs/a",
            ),
            (
                Tool::Aws,
                "*/node_modules/*",
                "a/node_modules/b a/b/node_modules/c",
                "node_modules/a",
            ),
            // Its `*` does not, and a slash in front fixes it.
            (Tool::Rclone, "*.tmp", "a/b.tmp", "x.tmp/a"),
            (Tool::Rclone, "name", "name sub/name", "name/a"),
            (Tool::Rclone, "/top/*", "top/a", "top/b/c"),
            (Tool::Rclone, "/top/**", "top/a top/b/c", "a/top/b"),
            (Tool::Rclone, "sub/x", "sub/x a/sub/x", "sub/x/a"),
            (Tool::Rclone, "dir/", "dir/a a/dir/b", "dir"),
        ] {
            for path in out.split(' ') {
                assert!(
                    !kept(tool, pattern, false, path),
                    "{tool:?} {pattern} {path}"
                );
            }
            for path in taken.split(' ') {
                assert!(
                    kept(tool, pattern, false, path),
                    "{tool:?} {pattern} {path}"
                );
            }
        }
        assert!(kept(Tool::Aws, "docs/*", true, "docs/a/b"));
        assert!(!kept(Tool::Aws, "docs/*", true, "other/a"));
        let late = drawn("aws s3 sync /a s3://bucket --include '*.jpg' --exclude 'raw*'");
        assert_eq!(
            late.left_out,
            ["that `--exclude raw*` comes behind an --include"]
        );
    }

    #[test]
    fn what_is_not_known_is_named_without_its_value() {
        let drawn = drawn(
            "rclone copy /a ':s3,endpoint=\"http://h:9\",secret_access_key=SECRET:bucket/p' --magic SECRET --tpslimit=5",
        );
        assert_eq!(drawn.left_out, ["`--magic`", "`--tpslimit`"]);
        assert!(
            drawn.text.contains("# Not taken over: `--magic`\n"),
            "{}",
            drawn.text
        );
        assert!(
            drawn.text.contains("endpoint_url = \"http://h:9\""),
            "{}",
            drawn.text
        );
        assert!(!drawn.text.contains("on_delete"), "{}", drawn.text);
    }

    #[test]
    fn a_line_that_is_no_upload_of_a_folder_is_refused() {
        for (line, why) in [
            ("rsync -a /a /b", "none of rclone, aws, s5cmd, mc"),
            ("aws s3 cp a s3://bucket/", "only `rclone sync|copy`"),
            ("aws s3 sync s3://bucket/ /a", "from a folder to a bucket"),
            ("aws s3 sync /a", "one folder and one remote"),
            ("aws s3 sync '/a s3://bucket", "a quote in it is not closed"),
            ("mc mirror /a nowhere/bucket", "alias `nowhere`"),
            ("rclone sync /a gone:bucket", "remote `gone`"),
            ("rclone sync /a crypt:bucket", "not an S3 remote"),
            ("rclone sync /a", "one folder and one remote"),
            (
                "aws s3 sync /a s3://bucket --exclude",
                "--exclude has no value",
            ),
        ] {
            let refused = draw(line, &places()).expect_err(line);
            assert!(refused.contains(why), "{line}: {refused}");
        }
    }

    #[test]
    fn limits_are_read_as_the_tool_reads_them() {
        for (tool, text, limit) in [
            (Tool::Rclone, "512", Some("524288B/s")),
            (Tool::Rclone, "1.5M", Some("1572864B/s")),
            (Tool::Rclone, "10M:off", Some("10485760B/s")),
            (Tool::Rclone, "off", Some("unlimited")),
            (Tool::Rclone, "08:00,512k 12:00,10M", None),
            (Tool::Mc, "10MiB", Some("10485760B/s")),
            (Tool::Mc, "1MB", Some("1000000B/s")),
            (Tool::Mc, "7", None),
        ] {
            assert_eq!(bandwidth(tool, text).as_deref(), limit, "{text}");
        }
    }
}
