//! Text or command line → [`Config`].

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::base::path::escaped;
use crate::base::price::Prices;
use crate::base::terms::Terms;
use crate::config::read::{Reader, Section};
use crate::config::target::expand;
use crate::config::{
    Bandwidth, Config, Folder, LISTEN, MAX_LAG, MAX_WAIT, MEMORY_BYTES, Notify, Options, Problem,
    Problems, RESCAN, S3, S3Options, SETTLE, SHUTDOWN_GRACE, Surroundings, Target, Upload,
    adhoc_dir, check, cost, policy, state_dir, terms, values,
};

/// The shortest time between two full walks: without a bound the agent would do nothing else.
const MIN_RESCAN: Duration = Duration::from_secs(1);

impl Config {
    /// Reads `text`, which messages call `place`. The error holds everything that is wrong with it.
    pub fn load(
        text: &str,
        place: &Path,
        options: &Options,
        surroundings: &Surroundings,
    ) -> Result<Self, Problems> {
        let mut reader = Reader::new(place, text);
        let Some(root) = reader.document() else {
            return Err(Problems(reader.problems));
        };
        reader.unknown_tables(&root);

        let agent = reader.table(&root, "agent");
        let state = agent_state_dir(&mut reader, &agent, options, surroundings);
        let listen = listen(&mut reader, &agent);
        let shutdown_grace = agent.parsed(&mut reader, "shutdown_grace", values::duration);

        let table = reader.table(&root, "s3");
        let shared = s3(&mut reader, &table, surroundings);

        let table = reader.table(&root, "upload");
        let upload = Upload {
            concurrency: options
                .concurrency
                .or(table.concurrency(&mut reader, "concurrency"))
                .unwrap_or_default(),
            memory_bytes: table
                .parsed(&mut reader, "memory", values::memory)
                .unwrap_or(MEMORY_BYTES),
            bandwidth: bandwidth(&mut reader, &table, options),
        };

        let table = reader.table(&root, "notify");
        let notify = Notify::read(&mut reader, &table, shared.ca_bundle.clone());
        let table = reader.table(&root, "cost");
        let prices = cost::read(&mut reader, &table);

        let tables = reader.tables(&root, "folder");
        if tables.is_empty() && !root.contains_key("folder") {
            reader.note(0, "there is no [[folder]]; add one with `path` and `to`");
        }
        let mut drafts = Vec::new();
        for table in &tables {
            let near = s3(&mut reader, table, surroundings);
            let s3 = options.s3.clone().or(&near).or(&shared).into();
            drafts.push(Draft::read(&mut reader, table, s3, options, surroundings));
        }
        check::drafts(&mut reader, &drafts);
        let folders = drafts.into_iter().filter_map(Draft::finish).collect();
        Problems::or(
            reader.problems,
            Self {
                state_dir: state.unwrap_or_default(),
                listen,
                shutdown_grace: shutdown_grace.unwrap_or(SHUTDOWN_GRACE),
                upload,
                prices,
                take_over: options.take_over,
                notify,
                folders,
            },
        )
    }

    /// Makes the configuration of one folder that no config names, with its own state folder.
    pub fn ad_hoc(
        dir: &Path,
        url: &str,
        options: &Options,
        surroundings: &Surroundings,
    ) -> Result<Self, Problems> {
        let folder = Folder::ad_hoc(dir, url, options, surroundings)?;
        let state_dir = match &options.state_dir {
            Some(named) => named.clone(),
            None => adhoc_dir(&folder.path, &folder.to, surroundings)?,
        };
        Ok(Self {
            state_dir,
            listen: None,
            shutdown_grace: SHUTDOWN_GRACE,
            upload: Upload {
                concurrency: options.concurrency.unwrap_or_default(),
                bandwidth: options.bandwidth.clone().unwrap_or_default(),
                ..Upload::default()
            },
            prices: Prices::default(),
            take_over: options.take_over,
            notify: Notify::default(),
            folders: vec![folder],
        })
    }
}

impl Folder {
    /// Makes a folder that no config names. `dir` may be relative or a symlink; it is called by its last component.
    pub fn ad_hoc(
        dir: &Path,
        url: &str,
        options: &Options,
        surroundings: &Surroundings,
    ) -> Result<Self, Problems> {
        let mut problems = Vec::new();
        let mut note = |why: String| problems.push(Problem::new(why));
        let path = values::folder(dir).map_err(&mut note).unwrap_or_default();
        let name = default_name(dir).or_else(|| default_name(&path));
        let name = name.unwrap_or_else(|| "root".to_owned());
        let to = target(url, &name, surroundings).map_err(&mut note).ok();
        let settle = options.settle.unwrap_or(SETTLE);
        let to = Problems::or(problems, to)?;
        // The only way to have no target is a problem.
        let to = to.ok_or_else(|| Problem::new("no target"))?;
        Ok(Self {
            given: std::path::absolute(dir).unwrap_or_else(|_| path.clone()),
            s3: options.s3.clone().into(),
            exclude: options.exclude.clone(),
            include: options.include.clone(),
            settle,
            max_wait: MAX_WAIT.max(settle),
            on_delete: options.on_delete.unwrap_or_default(),
            terms: Terms {
                storage_class: options.storage_class.clone().flatten(),
                ..Terms::default()
            },
            ..Self::new(name, path, to)
        })
    }
}

/// Returns the state folder that `text` leads to, whatever else is wrong with it: reading a state must not depend on
/// whether every folder is there.
pub fn state_dir_of(
    text: &str,
    place: &Path,
    options: &Options,
    surroundings: &Surroundings,
) -> Result<PathBuf, Problems> {
    let mut reader = Reader::new(place, text);
    let Some(root) = reader.document() else {
        return Err(Problems(reader.problems));
    };
    let agent = reader.table(&root, "agent");
    reader.problems.clear();
    let state = agent_state_dir(&mut reader, &agent, options, surroundings);
    Problems::or(reader.problems, state.unwrap_or_default())
}

fn agent_state_dir(
    reader: &mut Reader<'_>,
    agent: &Section<'_, '_>,
    options: &Options,
    surroundings: &Surroundings,
) -> Option<PathBuf> {
    let home = surroundings.home.as_deref();
    let written = reader.problems.len();
    let named = agent.parsed(reader, "state_dir", |text| values::absolute(text, home));
    if reader.problems.len() > written {
        return None;
    }
    match state_dir(options.state_dir.as_deref(), named.as_deref(), surroundings) {
        Ok(dir) => Some(dir),
        Err(problem) => {
            reader.note(agent.at, problem.to_string());
            None
        }
    }
}

/// Reads where the page is served; `""` says nowhere.
fn listen(reader: &mut Reader<'_>, agent: &Section<'_, '_>) -> Option<SocketAddr> {
    if agent.is_empty("listen") {
        return None;
    }
    agent
        .parsed(reader, "listen", values::listen)
        .or(Some(LISTEN))
}

/// Reads the limit of bandwidth; what is written is checked also where an option goes before it.
fn bandwidth(reader: &mut Reader<'_>, table: &Section<'_, '_>, options: &Options) -> Bandwidth {
    let written = table.parsed(reader, "bandwidth", values::bandwidth);
    let named = options.bandwidth.clone();
    named.or(written).unwrap_or_default()
}

/// Reads the keys that say how a bucket is reached, from [s3] or from a folder.
fn s3(reader: &mut Reader<'_>, table: &Section<'_, '_>, surroundings: &Surroundings) -> S3Options {
    let home = surroundings.home.as_deref();
    S3Options {
        region: table.parsed(reader, "region", values::region),
        endpoint_url: table.parsed(reader, "endpoint_url", values::endpoint_url),
        profile: table.text(reader, "profile").map(str::to_owned),
        path_style: table.parsed(reader, "path_style", values::path_style),
        ca_bundle: table.parsed(reader, "ca_bundle", |text| values::ca_bundle(text, home)),
        dualstack: table.flag(reader, "dualstack"),
        accelerate: table.flag(reader, "accelerate"),
        fips: table.flag(reader, "fips"),
        requester_pays: table.flag(reader, "requester_pays"),
    }
}

fn target(url: &str, name: &str, surroundings: &Surroundings) -> Result<Target, String> {
    let url =
        expand(url, name, &surroundings.hostname).map_err(|why| format!("{why} in {url:?}"))?;
    Target::parse(&url)
}

/// Returns the last component of a path, escaped for people.
fn default_name(path: &Path) -> Option<String> {
    Some(escaped(path.file_name()?.as_encoded_bytes()))
}

/// A folder as far as it could be read: what is missing was noted.
pub struct Draft {
    /// The byte at which its table begins.
    pub at: usize,
    /// The byte at which its name is, or its table.
    pub name_at: usize,
    /// The byte at which its path is.
    pub path_at: usize,
    /// The byte at which its target is.
    pub to_at: usize,
    /// Its name, given or taken from the path.
    pub name: Option<String>,
    /// Its canonical path.
    pub path: Option<PathBuf>,
    /// Its target.
    pub to: Option<Target>,
    /// Everything else, with a name, a path and a target that do not count.
    rest: Folder,
}

impl Draft {
    fn read(
        reader: &mut Reader<'_>,
        table: &Section<'_, '_>,
        s3: S3,
        options: &Options,
        surroundings: &Surroundings,
    ) -> Self {
        let home = surroundings.home.as_deref();
        let known = reader.problems.len();
        let given = table.parsed(reader, "path", |text| values::absolute(text, home));
        let path = given.as_deref().and_then(|given| {
            // A disk that is not there yet must not keep the other folders from being looked after: it is waited for.
            if values::is_absent(given) {
                return Some(given.to_path_buf());
            }
            let found = values::folder(given);
            found
                .map_err(|why| reader.note(table.place_of("path"), format!("`path`: {why}")))
                .ok()
        });
        if given.is_none() && reader.problems.len() == known {
            reader.note(table.at, "`path` is missing in [[folder]]");
        }
        let name = read_name(reader, table, given.as_deref());
        let to = read_target(reader, table, name.as_deref(), surroundings);
        let (settle, max_wait) = read_waits(reader, table, options);
        let mut exclude = table.list(reader, "exclude", values::rule);
        exclude.extend(options.exclude.iter().cloned());
        let mut include = table.list(reader, "include", values::include_rule);
        include.extend(options.include.iter().cloned());
        let nowhere = Target {
            bucket: String::new(),
            prefix: String::new(),
        };
        let mut rest = Folder {
            given: given.unwrap_or_default(),
            s3,
            exclude,
            include,
            builtin_ignores: table.flag(reader, "builtin_ignores").unwrap_or(true),
            settle,
            max_wait,
            rescan: table
                .parsed(reader, "rescan", |text| {
                    values::duration_from(MIN_RESCAN, text)
                })
                .unwrap_or(RESCAN),
            max_lag: table
                .parsed(reader, "max_lag", values::duration)
                .unwrap_or(MAX_LAG),
            ..Folder::new(String::new(), PathBuf::new(), nowhere)
        };
        policy::read(reader, table, &mut rest);
        rest.on_delete = options.on_delete.unwrap_or(rest.on_delete);
        terms::read(reader, table, &mut rest, home);
        if let Some(class) = &options.storage_class {
            rest.terms.storage_class.clone_from(class);
        }
        Self {
            at: table.at,
            name_at: table.place_of("name"),
            path_at: table.place_of("path"),
            to_at: table.place_of("to"),
            name,
            path,
            to,
            rest,
        }
    }

    /// Returns how the bucket is reached.
    pub fn s3(&self) -> &S3 {
        &self.rest.s3
    }

    fn finish(self) -> Option<Folder> {
        Some(Folder {
            name: self.name?,
            path: self.path?,
            to: self.to?,
            ..self.rest
        })
    }
}

/// Reads the name; without one it is the last component of the path.
fn read_name(
    reader: &mut Reader<'_>,
    table: &Section<'_, '_>,
    path: Option<&Path>,
) -> Option<String> {
    let known = reader.problems.len();
    let named = table.parsed(reader, "name", values::name);
    if named.is_some() || reader.problems.len() > known {
        return named;
    }
    let path = path?;
    let name = default_name(path);
    if name.is_none() {
        let why = format!(
            "`name` is missing, and `{}` has no last component to take it from",
            path.display()
        );
        reader.note(table.at, why);
    }
    name
}

/// Reads the target. Where the name is not known the placeholders are checked nevertheless.
fn read_target(
    reader: &mut Reader<'_>,
    table: &Section<'_, '_>,
    name: Option<&str>,
    surroundings: &Surroundings,
) -> Option<Target> {
    let known = reader.problems.len();
    let to = table.parsed(reader, "to", |text| {
        target(text, name.unwrap_or("name"), surroundings)
    });
    if to.is_none() && reader.problems.len() == known {
        reader.note(table.at, "`to` is missing in [[folder]]");
    }
    to
}

/// Reads how long a file must be quiet and how long it can wait at most.
fn read_waits(
    reader: &mut Reader<'_>,
    table: &Section<'_, '_>,
    options: &Options,
) -> (Duration, Duration) {
    let settle = table
        .parsed(reader, "settle", values::duration)
        .unwrap_or(SETTLE);
    let max_wait = table.parsed(reader, "max_wait", values::duration);
    if max_wait.is_some_and(|max_wait| max_wait < settle) {
        let why = "`max_wait`: expected at least as long as `settle`";
        reader.note(table.place_of("max_wait"), why);
    }
    let settle = options.settle.unwrap_or(settle);
    (settle, max_wait.unwrap_or(MAX_WAIT).max(settle))
}
