//! Where the config is read from and where the state is kept.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use crate::base::digest::Hasher;
use crate::config::{Problem, Target};

/// What surrounds the process, as far as it decides something.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// This machine's name; empty if it has none.
    pub hostname: String,
    /// `$HOME`.
    pub home: Option<PathBuf>,
    /// `$TIDEWATCH_CONFIG`.
    pub config: Option<PathBuf>,
    /// `$XDG_CONFIG_HOME`.
    pub xdg_config_home: Option<PathBuf>,
    /// `$XDG_STATE_HOME`.
    pub xdg_state_home: Option<PathBuf>,
    /// `$STATE_DIRECTORY`, which systemd sets: one or several paths with `:` between them.
    pub state_directory: Option<OsString>,
    /// The config of the whole machine: `/etc/tidewatch/config.toml`.
    pub machine_config: Option<PathBuf>,
}

impl Surroundings {
    /// Looks at this process's surroundings.
    pub fn of_process() -> Self {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        // A relative path in such a variable is to be ignored (XDG base directory specification).
        let absolute = |name| {
            set(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        Self {
            hostname: rustix::system::uname()
                .nodename()
                .to_string_lossy()
                .into_owned(),
            home: absolute("HOME"),
            config: set("TIDEWATCH_CONFIG").map(PathBuf::from),
            xdg_config_home: absolute("XDG_CONFIG_HOME"),
            xdg_state_home: absolute("XDG_STATE_HOME"),
            state_directory: set("STATE_DIRECTORY"),
            machine_config: Some(PathBuf::from("/etc/tidewatch/config.toml")),
        }
    }
}

/// Returns the config to read: `option`, else `$TIDEWATCH_CONFIG`, else the first that exists of the user's and the
/// machine's.
///
/// The two that were named by someone are returned whether they exist or not. The error lists the places looked at.
pub fn find(option: Option<&Path>, surroundings: &Surroundings) -> Result<PathBuf, Problem> {
    if let Some(named) = option.or(surroundings.config.as_deref()) {
        return Ok(named.to_path_buf());
    }
    let user = below_home(
        surroundings.xdg_config_home.as_deref(),
        ".config",
        surroundings,
    )
    .map(|dir| dir.join("tidewatch/config.toml"));
    let places: Vec<PathBuf> = user
        .into_iter()
        .chain(surroundings.machine_config.clone())
        .collect();
    if let Some(found) = places.iter().find(|place| place.exists()) {
        return Ok(found.clone());
    }
    let listed: Vec<String> = places
        .iter()
        .map(|place| place.display().to_string())
        .collect();
    Err(Problem::new(format!(
        "there is no config: neither --config nor TIDEWATCH_CONFIG is given, and there is no {}; \
         `tidewatch init` writes one to start from",
        listed.join(" and no ")
    )))
}

/// Returns the state folder: `option`, else `config` (`agent.state_dir`), else the first of `$STATE_DIRECTORY`, else
/// `tidewatch` in the user's folder for state.
pub fn state_dir(
    option: Option<&Path>,
    config: Option<&Path>,
    surroundings: &Surroundings,
) -> Result<PathBuf, Problem> {
    let named = option.or(config).map(Path::to_path_buf);
    named.map_or_else(|| state_base(surroundings), Ok)
}

/// Returns the state folder of one folder that no config names: `tidewatch/adhoc/<id>`.
///
/// The id is the first 16 hexadecimal digits of the SHA-256 of the canonical path, a NUL and the normalised URL, so
/// that each pair of folder and target has its own database and lock.
pub fn adhoc_dir(
    canonical: &Path,
    to: &Target,
    surroundings: &Surroundings,
) -> Result<PathBuf, Problem> {
    let mut hasher = Hasher::default();
    hasher.update(canonical.as_os_str().as_encoded_bytes());
    hasher.update(b"\0");
    hasher.update(to.to_string().as_bytes());
    let mut id = hasher.finish().to_hex();
    id.truncate(16);
    Ok(state_base(surroundings)?.join("adhoc").join(id))
}

/// Returns the state folders of all ad-hoc commands that have been run, by id. None if there is no such place.
pub fn adhoc_states(surroundings: &Surroundings) -> Vec<PathBuf> {
    let Ok(base) = state_base(surroundings) else {
        return Vec::new();
    };
    let Ok(entries) = std::fs::read_dir(base.join("adhoc")) else {
        return Vec::new();
    };
    let mut states: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_dir())
        .collect();
    states.sort();
    states
}

fn state_base(surroundings: &Surroundings) -> Result<PathBuf, Problem> {
    if let Some(systemd) = surroundings.state_directory.as_deref().and_then(first_of) {
        return Ok(systemd);
    }
    below_home(surroundings.xdg_state_home.as_deref(), ".local/state", surroundings)
        .map(|dir| dir.join("tidewatch"))
        .ok_or_else(|| {
            Problem::new(
                "there is no place for the state: HOME is not set; name a folder with --state-dir or agent.state_dir",
            )
        })
}

/// Returns where the units of this user's service manager are.
pub fn user_units(surroundings: &Surroundings) -> Result<PathBuf, Problem> {
    below_home(
        surroundings.xdg_config_home.as_deref(),
        ".config",
        surroundings,
    )
    .map(|dir| dir.join("systemd/user"))
    .ok_or_else(|| Problem::new("there is no place for units: HOME is not set"))
}

/// Returns the first path of a list with `:` between them, if it is absolute.
fn first_of(list: &OsStr) -> Option<PathBuf> {
    std::env::split_paths(list)
        .next()
        .filter(|path| path.is_absolute())
}

fn below_home(named: Option<&Path>, usual: &str, surroundings: &Surroundings) -> Option<PathBuf> {
    match named {
        Some(named) => Some(named.to_path_buf()),
        None => surroundings.home.as_ref().map(|home| home.join(usual)),
    }
}
