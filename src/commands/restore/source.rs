//! Which folder is restored: a URL, which needs nothing else, or one that a config or a state knows.
//!
//! A URL is reached as options, the config and the environment say, in this order. What a state knows of the same prefix
//! counts only where the folder was named by its name or path: an old state must not lead a URL to another server.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use crate::base::path::RelPath;
use crate::commands::folders::{of_row, shown};
use crate::commands::status::meant::{self, Meant};
use crate::commands::status::states;
use crate::config::{
    self, Config, Folder, MEMORY_BYTES, Options, Problem, Problems, S3Options, Surroundings, Target,
};
use crate::manifest::Manifest;

/// What the command line says of the source.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// A folder's name, path or URL.
    pub from: Option<String>,
    /// `--config`.
    pub config: Option<PathBuf>,
    /// `--state-dir`.
    pub state_dir: Option<PathBuf>,
    /// How the bucket is reached.
    pub s3: S3Options,
}

/// The source, and the other folders that are known here.
#[derive(Clone, Debug)]
pub struct Source {
    /// The one that is restored. Its path may be empty: nobody knows where it was.
    pub folder: Folder,
    /// Everything that is synced from here.
    pub known: Vec<Folder>,
}

/// Finds what is meant.
pub fn find(asked: &Asked, surroundings: &Surroundings) -> Result<Source, Problems> {
    let url = asked
        .from
        .as_deref()
        .filter(|from| from.starts_with("s3://"));
    let url = url.map(Target::parse).transpose().map_err(Problem::new)?;
    let (known, configured) = match known(asked, surroundings) {
        Ok(known) => known,
        // What is wrong with a config must not keep anybody from what a URL names, unless it was asked for.
        Err(_) if url.is_some() && asked.config.is_none() => (Vec::new(), 0),
        Err(problems) => return Err(problems),
    };
    let lines = || known.iter().map(line).collect::<Vec<_>>();
    let folder = match (&asked.from, url) {
        (_, Some(to)) => known[..configured]
            .iter()
            .find(|folder| folder.to == to)
            .cloned()
            .unwrap_or_else(|| {
                let folder = Folder::new(to.to_string(), PathBuf::new(), to);
                Folder {
                    s3: asked.s3.clone().into(),
                    ..folder
                }
            }),
        (Some(wanted), None) => {
            let meant = Meant::of(wanted);
            let is_meant = |folder: &&Folder| {
                meant.is(&folder.name, &shown(&folder.path), &folder.to.to_string())
            };
            let found: Vec<&Folder> = known.iter().filter(is_meant).collect();
            match found[..] {
                [] => return Err(Problem::new(missing(wanted, &lines())).into()),
                [one] => one.clone(),
                [..] => {
                    let found: Vec<_> = found.into_iter().map(line).collect();
                    let found = found.join("\n");
                    let why = format!("`{wanted}` is more than one folder; name its URL:\n{found}");
                    return Err(Problem::new(why).into());
                }
            }
        }
        (None, None) => match &known[..] {
            [one] => one.clone(),
            [] => {
                let why = "nothing is synced from here; name an s3://BUCKET[/PREFIX]";
                return Err(Problem::new(why).into());
            }
            _ => {
                let lines = lines().join("\n");
                let why =
                    format!("name the folder to restore; there are (name, path, URL):\n{lines}");
                return Err(Problem::new(why).into());
            }
        },
    };
    Ok(Source { folder, known })
}

/// Finds the folders that are synced from here, or the one that `asked` names, and the state folder of each; and how many
/// bytes of content may be in memory.
pub fn places(
    asked: &Asked,
    surroundings: &Surroundings,
) -> Result<(Vec<(Folder, PathBuf)>, u64), Problems> {
    let Places {
        all: mut places,
        memory_bytes,
        ..
    } = all_places(asked, surroundings)?;
    let lines: Vec<String> = places.iter().map(|(folder, _)| line(folder)).collect();
    if let Some(wanted) = &asked.from {
        let meant = Meant::of(wanted);
        places.retain(|(folder, _)| {
            meant.is(&folder.name, &shown(&folder.path), &folder.to.to_string())
        });
        if places.is_empty() {
            let why = meant::missing(wanted, &lines);
            return Err(Problem::new(format!("there is no such thing: {why}")).into());
        }
    }
    if places.is_empty() {
        return Err(Problem::new("nothing is synced from here yet").into());
    }
    Ok((places, memory_bytes))
}

/// Finds the folder that `asked` names, or else the innermost one that has `path`, a path of this machine.
pub fn around(asked: &Asked, path: &Path, surroundings: &Surroundings) -> Result<Source, Problems> {
    if asked.from.is_none()
        && let Ok(path) = std::path::absolute(path)
    {
        let (known, _) = known(asked, surroundings)?;
        let has = |folder: &&Folder| folder.path.is_absolute() && path.starts_with(&folder.path);
        let depth = |folder: &&Folder| folder.path.components().count();
        if let Some(folder) = known.iter().filter(has).max_by_key(depth).cloned() {
            return Ok(Source { folder, known });
        }
    }
    find(asked, surroundings)
}

fn missing(wanted: &str, lines: &[String]) -> String {
    let said = meant::missing(wanted, lines);
    format!(
        "there is no such thing to restore: {said}\nan s3://BUCKET[/PREFIX] needs nothing to be known"
    )
}

fn line(folder: &Folder) -> String {
    format!("  {}  {}  {}", folder.name, shown(&folder.path), folder.to)
}

/// What is known here.
struct Places {
    /// What the config has, and behind it what else the states know; each with its state folder.
    all: Vec<(Folder, PathBuf)>,
    /// How many of them the config has.
    configured: usize,
    /// Bytes of content in memory, as the config says.
    memory_bytes: u64,
}

/// Returns the folders that are known here, and how many of them, the first, the config has.
fn known(asked: &Asked, surroundings: &Surroundings) -> Result<(Vec<Folder>, usize), Problems> {
    let places = all_places(asked, surroundings)?;
    let known = places.all.into_iter().map(|(folder, _)| folder).collect();
    Ok((known, places.configured))
}

fn all_places(asked: &Asked, surroundings: &Surroundings) -> Result<Places, Problems> {
    let named = asked.config.as_deref();
    let mut places: Vec<(Folder, PathBuf)> = Vec::new();
    let mut memory_bytes = MEMORY_BYTES;
    match config::find(named, surroundings) {
        Ok(place) => {
            let config = from_config(&place, asked, surroundings)?;
            memory_bytes = config.upload.memory_bytes;
            let folders = config.folders.into_iter();
            places.extend(folders.map(|folder| (folder, config.state_dir.clone())));
        }
        Err(problem) if named.is_some() => return Err(problem.into()),
        Err(_) => {}
    }
    let configured = places.len();
    for dir in states::find(named, asked.state_dir.clone(), surroundings)? {
        for folder in from_state(&dir, asked) {
            let is_known = |(other, _): &(Folder, PathBuf)| {
                other.to == folder.to && same_endpoint(other, &folder)
            };
            if !places.iter().any(is_known) {
                places.push((folder, dir.clone()));
            }
        }
    }
    Ok(Places {
        all: places,
        configured,
        memory_bytes,
    })
}

/// A config that leaves the endpoint open means the one that its environment names, as its state then says.
fn same_endpoint(config: &Folder, state: &Folder) -> bool {
    let of = |folder: &Folder| folder.s3.endpoint_url.clone();
    of(config).is_none_or(|url| of(state).is_none_or(|other| url == other))
}

fn from_config(
    place: &Path,
    asked: &Asked,
    surroundings: &Surroundings,
) -> Result<Config, Problems> {
    let options = Options {
        state_dir: asked.state_dir.clone(),
        s3: asked.s3.clone(),
        ..Options::default()
    };
    Config::load(&config::text_of(place)?, place, &options, surroundings)
}

/// Returns the folders of a state; none of one that cannot be read, which may be another user's or damaged: a URL always
/// helps.
fn from_state(dir: &Path, asked: &Asked) -> Vec<Folder> {
    let rows = match Manifest::open_read_only(dir) {
        Ok(Some(manifest)) => manifest.folders().map_err(|error| error.to_string()),
        Ok(None) => return Vec::new(),
        Err(error) => Err(error.to_string()),
    };
    let rows = rows.unwrap_or_else(|error| {
        let why = format!("what was synced from here is not known: could not {error}");
        // Whoever named a URL does not need it.
        match asked.from.as_deref() {
            Some(from) if from.starts_with("s3://") => tracing::debug!("{why}"),
            _ => tracing::warn!("{why}"),
        }
        Vec::new()
    });
    rows.iter().map(|row| of_row(row, &asked.s3)).collect()
}

impl Source {
    /// Takes a path of the command line: inside the folder, or where the folder has it on this machine.
    pub fn path(&self, given: &Path) -> Result<RelPath, Problem> {
        let inside = match given.strip_prefix(&self.folder.path) {
            Ok(rest) if given.is_absolute() && self.folder.path.is_absolute() => rest,
            _ => given,
        };
        // `./a/` is `a`.
        let plain: PathBuf = inside.components().collect();
        let plain = plain.strip_prefix(".").unwrap_or(&plain);
        RelPath::new(plain.as_os_str().as_bytes())
            .filter(|path| !path.is_root() || inside.as_os_str() == ".")
            .ok_or_else(|| {
                let shown = shown(given);
                Problem::new(format!("`{shown}` is not a path inside the folder"))
            })
    }

    /// Returns the folder of those that are synced from here in which `dir` lies.
    pub fn around(&self, dir: &Path) -> Option<&Folder> {
        let dir = std::path::absolute(dir).ok()?;
        // It may not be there yet: then what it will be made in tells where it is.
        let there = dir
            .ancestors()
            .find_map(|above| above.canonicalize().ok())?;
        let mut known = self.known.iter();
        known.find(|folder| folder.path.is_absolute() && there.starts_with(&folder.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source() -> Source {
        let to = Target::parse("s3://bucket/p").expect("a URL");
        Source {
            folder: Folder::new("f".to_owned(), PathBuf::from("/srv/f"), to),
            known: Vec::new(),
        }
    }

    #[test]
    fn a_path_is_inside_the_folder_however_it_is_given() {
        let of = |given: &str| {
            let path = source().path(Path::new(given));
            path.map(|path| path.to_string()).map_err(|_| ())
        };
        for (given, expected) in [
            ("a/b", Ok("a/b")),
            ("./a/b/", Ok("a/b")),
            ("/srv/f/a", Ok("a")),
            (".", Ok("")),
            ("/srv/g/a", Err(())),
            ("../a", Err(())),
            ("a/../b", Err(())),
            ("", Err(())),
        ] {
            assert_eq!(of(given), expected.map(str::to_owned), "{given}");
        }
    }
}
