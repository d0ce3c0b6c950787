//! What SIGHUP asks for: read the config again, and take over what can change while everything runs.
//!
//! That is the folders, which begin, end, or end and begin anew, each without touching the others, and what they share of
//! uploading. Of whatever else has changed it is said by name that it needs a restart. A config with problems is reported
//! as at the start, and the one that is in force stays.

use std::fmt::Write as _;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::base::offload::Offload;
use crate::commands::folders::Shared;
use crate::commands::kept::{Changes, Kept};
use crate::config::{Config, Problems};
use crate::report::out::note;

/// Reads the config anew.
#[derive(Clone)]
pub struct Reader(Arc<dyn Fn() -> Result<Config, Problems> + Send + Sync>);

impl Reader {
    /// Makes one that calls `read`, which may block.
    pub fn new(read: impl Fn() -> Result<Config, Problems> + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reader")
    }
}

/// Listens to SIGHUP, which from then on no longer kills the process.
#[derive(Debug)]
pub struct Reloads {
    hangups: Signal,
    source: Option<Source>,
}

#[derive(Debug)]
struct Source {
    reader: Reader,
    /// What is in force.
    running: Config,
}

impl Reloads {
    /// Begins to listen, on behalf of a process that runs with `running` and can read it again.
    pub fn listen(running: &Config, reader: Reader) -> anyhow::Result<Self> {
        let running = running.clone();
        Self::new(Some(Source { reader, running }))
    }

    /// Begins to listen, on behalf of a process that has no config.
    pub fn without_config() -> anyhow::Result<Self> {
        Self::new(None)
    }

    fn new(source: Option<Source>) -> anyhow::Result<Self> {
        let hangups = signal(SignalKind::hangup()).context("listen to signals")?;
        Ok(Self { hangups, source })
    }

    /// Waits until it is asked for. Cancel-safe.
    pub async fn asked(&mut self) {
        // The stream ends with the process only.
        let _ = self.hangups.recv().await;
    }

    /// Reads the config and takes over what can be taken over. An error says in a line why the config could not be used; it
    /// has been logged, and nothing has changed.
    pub async fn reload(&mut self, shared: &Shared, kept: &mut Kept) -> Result<(), String> {
        let Some(source) = &mut self.source else {
            tracing::info!("SIGHUP: there is no config to read again; going on");
            return Ok(());
        };
        let (Reader(read), running) = (source.reader.clone(), source.running.clone());
        let read = Offload::Pool.run(move || Ok::<_, Problems>(still_there(read()?, &running)));
        let config = match read.await {
            Ok(config) => config,
            Err(problems) => {
                for problem in problems.iter() {
                    note(problem);
                }
                tracing::error!(
                    "SIGHUP: could not use the config as it is now; what was read before stays in force"
                );
                let first = problems.iter().next();
                return Err(first.map(ToString::to_string).unwrap_or_default());
            }
        };
        let running = &mut source.running;
        if running.upload != config.upload {
            shared.set_upload(&config.upload);
            kept.set_memory(config.upload.memory_bytes);
        }
        running.upload = config.upload.clone();
        shared.bill.set_prices(config.prices.clone());
        running.prices = config.prices.clone();
        let changes = if running.folders == config.folders {
            Changes::default()
        } else {
            kept.want(&config.folders)
        };
        running.folders.clone_from(&config.folders);
        let waiting = restart(running, &config);
        if !waiting.is_empty() {
            tracing::warn!(
                "SIGHUP: {} changed too and needs a restart",
                waiting.join(", ")
            );
        }
        tracing::info!("SIGHUP: the config has been read again{}", told(&changes));
        Ok(())
    }
}

/// Keeps the path of a folder that was there before and is not now: where it was reached by a link it would seem to be
/// another one, and it is waited for as it is.
fn still_there(mut config: Config, running: &Config) -> Config {
    for folder in &mut config.folders {
        let before = running
            .folders
            .iter()
            .find(|was| was.given == folder.given && was.name == folder.name);
        if let Some(before) = before.filter(|was| was.path != folder.path && !folder.path.exists())
        {
            folder.path.clone_from(&before.path);
        }
    }
    config
}

/// Names what has changed between two configs and is only taken over at a start.
fn restart(running: &Config, config: &Config) -> Vec<String> {
    let mut others = Vec::new();
    let mut compare = |is_same: bool, name: &str| {
        if !is_same {
            others.push(format!("`{name}`"));
        }
    };
    compare(running.state_dir == config.state_dir, "state_dir");
    compare(
        running.shutdown_grace == config.shutdown_grace,
        "shutdown_grace",
    );
    compare(running.notify == config.notify, "[notify]");
    // What has no name here is something that a restart changes all the same.
    if others.is_empty() && running != config {
        others.push("something else".to_owned());
    }
    others
}

/// Says which folders a reload is about.
fn told(changes: &Changes) -> String {
    let parts = [
        ("added", &changes.added),
        ("removed, and what is in the bucket stays", &changes.removed),
        ("changed, and begun anew", &changes.changed),
    ];
    let mut text = String::new();
    for (what, names) in parts {
        if !names.is_empty() {
            // Writing to a String cannot fail.
            let _ = write!(text, "; {what}: {}", names.join(", "));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::config::{Folder, Options, Surroundings, Target};

    fn config(given: &Path, path: &Path) -> Config {
        let to = Target {
            bucket: "b".to_owned(),
            prefix: "p/".to_owned(),
        };
        let dir = tempfile::tempdir().expect("a temporary folder");
        let options = Options {
            state_dir: Some(PathBuf::from("/state")),
            ..Options::default()
        };
        let around = Surroundings::default();
        let made = Config::ad_hoc(dir.path(), "s3://bucket/p", &options, &around);
        Config {
            folders: vec![Folder {
                given: given.to_path_buf(),
                ..Folder::new("a".to_owned(), path.to_path_buf(), to)
            }],
            ..made.expect("a config")
        }
    }

    #[test]
    fn a_folder_whose_disk_is_away_at_a_reload_is_the_same_one() {
        let place = tempfile::tempdir().expect("a temporary folder");
        let (link, there) = (place.path().join("link"), place.path().join("there"));
        // Its link leads nowhere now, so that the path cannot be made canonical.
        let running = config(&link, &there);
        let again = still_there(config(&link, &link), &running);
        assert_eq!(again, running);
        // Where there is something else now, that is what is wanted.
        std::fs::create_dir(&link).expect("a folder");
        let other = config(&link, &link);
        assert_eq!(still_there(other.clone(), &running), other);
    }

    #[test]
    fn what_needs_a_restart_is_named() {
        let (place, other) = (Path::new("/a"), Path::new("/b"));
        let (running, mut config) = (config(place, place), config(place, place));
        assert!(restart(&running, &config).is_empty());
        config.state_dir = other.to_path_buf();
        assert_eq!(restart(&running, &config), ["`state_dir`"]);
        config.state_dir.clone_from(&running.state_dir);
        config.take_over = true;
        assert_eq!(restart(&running, &config), ["something else"]);
    }

    #[test]
    fn the_line_says_which_folders_it_is_about() {
        let changes = Changes {
            added: vec!["a".to_owned(), "b".to_owned()],
            removed: Vec::new(),
            changed: vec!["c".to_owned()],
        };
        assert_eq!(told(&changes), "; added: a, b; changed, and begun anew: c");
        assert_eq!(told(&Changes::default()), "");
    }
}
