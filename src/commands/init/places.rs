//! Where other tools keep what a command line leaves out: rclone's remotes, mc's aliases, the home folder.
//!
//! Takes endpoint, region and storage class from there, and never a secret.

use std::path::{Path, PathBuf};

/// What is known by name.
type Answers<Name> = Box<dyn Fn(&Name) -> Option<String>>;

/// How the surroundings are asked, so that a test can answer.
pub struct Places {
    env: Answers<str>,
    read: Answers<Path>,
    working_dir: PathBuf,
}

/// A bucket as another tool's settings name it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Bucket {
    /// `s3://BUCKET[/PREFIX]`.
    pub to: String,
    /// The address of the server.
    pub endpoint: Option<String>,
    /// The region.
    pub region: Option<String>,
    /// What the remote stores with.
    pub storage_class: Option<String>,
    /// What of the settings is not taken over.
    pub left_out: Vec<String>,
}

impl Places {
    /// Asks `env` for variables and `read` for the text of files.
    pub fn new(
        env: impl Fn(&str) -> Option<String> + 'static,
        read: impl Fn(&Path) -> Option<String> + 'static,
        working_dir: &Path,
    ) -> Self {
        Self {
            env: Box::new(env),
            read: Box::new(read),
            working_dir: working_dir.to_owned(),
        }
    }

    /// Asks this process and this machine.
    pub fn of_process() -> Self {
        let env = |name: &str| std::env::var(name).ok();
        let read = |path: &Path| std::fs::read_to_string(path).ok();
        let working_dir = std::env::current_dir().unwrap_or_default();
        Self::new(env, read, &working_dir)
    }

    fn home(&self) -> PathBuf {
        (self.env)("HOME").map_or_else(PathBuf::new, PathBuf::from)
    }

    /// Returns the folder as an absolute path: the shell that would have known `~` has not seen it.
    pub fn folder(&self, dir: &str) -> Result<String, String> {
        if dir.contains("://") {
            return Err(
                "take the line of --from over: it has to go from a folder to a bucket".to_owned(),
            );
        }
        let dir = dir
            .strip_suffix('/')
            .filter(|dir| !dir.is_empty())
            .unwrap_or(dir);
        let path = match dir.strip_prefix("~/") {
            Some(below) => self.home().join(below),
            None if dir == "~" => self.home(),
            None if dir == "." => self.working_dir.clone(),
            None => self.working_dir.join(dir.strip_prefix("./").unwrap_or(dir)),
        };
        path.into_os_string()
            .into_string()
            .map_err(|_| "take the folder of --from over: its path is not UTF-8".to_owned())
    }

    /// Finds `remote:bucket/prefix`, or `:s3,key=value:bucket/prefix`, as rclone does.
    pub fn of_rclone(&self, remote: &str, config: Option<&str>) -> Result<Bucket, String> {
        let (name, given, path) = split_remote(remote).ok_or_else(|| {
            format!(
                "take `{remote}` over: it is not rclone's REMOTE:BUCKET/PREFIX",
                remote = remote.escape_debug()
            )
        })?;
        let on_the_fly = name == ":s3";
        let place = match config
            .map(PathBuf::from)
            .or_else(|| (self.env)("RCLONE_CONFIG").map(PathBuf::from))
        {
            Some(place) => place,
            None => self.home().join(".config/rclone/rclone.conf"),
        };
        let text = (self.read)(&place).unwrap_or_default();
        let of_environment = |key: &str| {
            let name = format!("RCLONE_CONFIG_{name}_{key}").to_ascii_uppercase();
            (self.env)(&name.replace('-', "_"))
        };
        let of_all = |key: &str| (self.env)(&format!("RCLONE_S3_{}", key.to_ascii_uppercase()));
        let value = |key: &str| {
            let inline = given.iter().find(|(name, _)| name == key);
            inline
                .map(|(_, value)| value.clone())
                .or_else(|| of_environment(key))
                .or_else(|| {
                    section(&text, &name)
                        .and_then(|keys| keys.into_iter().find(|(k, _)| k == key))
                        .map(|(_, v)| v)
                })
                .or_else(|| of_all(key))
                .filter(|value| !value.is_empty())
        };
        let kind = value("type");
        if !on_the_fly && kind.as_deref() != Some("s3") {
            return Err(match kind {
                Some(_) => format!("take `{name}:` over: it is not an S3 remote"),
                None => format!(
                    "find rclone's remote `{name}` in {}; name its file with --config or RCLONE_CONFIG",
                    place.display()
                ),
            });
        }
        let mut left_out = Vec::new();
        if value("sse_customer_key").is_some() {
            left_out.push("the remote's `sse_customer_key`; see `sse_c_key_file`".to_owned());
        }
        Ok(Bucket {
            to: format!("s3://{path}"),
            endpoint: value("endpoint").map(|url| with_scheme(&url)),
            region: value("region"),
            storage_class: value("storage_class"),
            left_out,
        })
    }

    /// Finds `alias/bucket/prefix` as mc does.
    pub fn of_mc(&self, remote: &str, config_dir: Option<&str>) -> Result<Bucket, String> {
        let (alias, path) = remote.split_once('/').unwrap_or((remote, ""));
        let url = (self.env)(&format!("MC_HOST_{alias}")).or_else(|| {
            let dir = config_dir.map_or_else(|| self.home().join(".mc"), PathBuf::from);
            let text = (self.read)(&dir.join("config.json"))?;
            let json: serde_json::Value = serde_json::from_str(&text).ok()?;
            Some(json["aliases"][alias]["url"].as_str()?.to_owned())
        });
        let url = url.ok_or_else(|| {
            format!(
                "find mc's alias `{}`: neither MC_HOST_… nor ~/.mc/config.json names it",
                alias.escape_debug()
            )
        })?;
        // What is before the `@` is a secret.
        let (scheme, rest) = url.split_once("://").unwrap_or(("https", &url));
        let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
        let is_aws = host.trim_end_matches('/') == "s3.amazonaws.com";
        Ok(Bucket {
            to: format!("s3://{path}"),
            endpoint: (!is_aws).then(|| format!("{scheme}://{}", host.trim_end_matches('/'))),
            ..Bucket::default()
        })
    }
}

fn with_scheme(url: &str) -> String {
    if url.contains("://") {
        url.to_owned()
    } else {
        format!("https://{url}")
    }
}

/// Takes `NAME[,key=value…]:PATH` apart; a value may be quoted.
#[expect(
    clippy::type_complexity,
    reason = "taken apart where it is returned to"
)]
fn split_remote(remote: &str) -> Option<(String, Vec<(String, String)>, String)> {
    let mut is_quoted = false;
    let end = remote.char_indices().skip(1).find(|(_, c)| {
        is_quoted ^= *c == '"';
        *c == ':' && !is_quoted
    });
    let (head, path) = (&remote[..end?.0], &remote[end?.0 + 1..]);
    let mut pieces = vec![String::new()];
    is_quoted = false;
    for c in head.chars() {
        match c {
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => pieces.push(String::new()),
            c => pieces.last_mut()?.push(c),
        }
    }
    let name = pieces.remove(0);
    let given = pieces.into_iter().map(|piece| match piece.split_once('=') {
        Some((key, value)) => (key.to_owned(), value.to_owned()),
        None => (piece, "true".to_owned()),
    });
    Some((
        name,
        given.collect(),
        path.trim_start_matches('/').to_owned(),
    ))
}

/// Returns the keys of one section of an INI file.
fn section(text: &str, wanted: &str) -> Option<Vec<(String, String)>> {
    let mut found: Option<Vec<(String, String)>> = None;
    for line in text.lines().map(str::trim) {
        if let Some(name) = line
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            if found.is_some() {
                break;
            }
            if name == wanted {
                found = Some(Vec::new());
            }
        } else if let (Some(keys), Some((key, value))) = (&mut found, line.split_once('='))
            && !line.starts_with(['#', ';'])
        {
            keys.push((key.trim().to_owned(), value.trim().to_owned()));
        }
    }
    found
}
