//! What SIGHUP asks for: read the config again, and take over what can change while everything runs.
//!
//! That is the bandwidth. Of whatever else has changed it is said that it waits for a restart. A config with problems is
//! reported as at the start, and the one that is in force stays.

use std::sync::Arc;

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::base::offload::Offload;
use crate::commands::lines::Lines;
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

    /// Reads the config and takes over what can be taken over.
    pub async fn reload(&mut self, lines: &Lines) {
        let Some(source) = &mut self.source else {
            tracing::info!("SIGHUP: there is no config to read again; going on");
            return;
        };
        let Reader(read) = source.reader.clone();
        let config = match Offload::Pool.run(move || read()).await {
            Ok(config) => config,
            Err(problems) => {
                for problem in problems.iter() {
                    note(problem);
                }
                tracing::error!(
                    "SIGHUP: could not use the config as it is now; what was read before stays in force"
                );
                return;
            }
        };
        let bandwidth = config.upload.bandwidth.clone();
        source.running.upload.bandwidth = bandwidth.clone();
        lines.set_bandwidth(bandwidth);
        let others = changed(&source.running, &config);
        if others.is_empty() {
            tracing::info!("SIGHUP: the config has been read again");
        } else {
            tracing::warn!(
                "SIGHUP: only a new `bandwidth` is used at once; {} changed too and needs a restart",
                others.join(", ")
            );
        }
    }
}

/// Names what is not the same in two configs.
fn changed(running: &Config, config: &Config) -> Vec<String> {
    let mut others = Vec::new();
    let mut compare = |is_same: bool, name: &str| {
        if !is_same {
            others.push(format!("`{name}`"));
        }
    };
    compare(running.state_dir == config.state_dir, "state_dir");
    let (was, is) = (&running.upload, &config.upload);
    compare(
        running.shutdown_grace == config.shutdown_grace,
        "shutdown_grace",
    );
    compare(was.concurrency == is.concurrency, "concurrency");
    compare(was.memory_bytes == is.memory_bytes, "memory");
    compare(running.notify == config.notify, "[notify]");
    compare(running.folders == config.folders, "[[folder]]");
    // What has no name here is something that a restart changes all the same.
    if others.is_empty() && running != config {
        others.push("something else".to_owned());
    }
    others
}
