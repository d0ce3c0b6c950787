//! `tidewatch check`: is everything there that the agent will need, and if not, what mends it.
//!
//! One line a finding on standard output: `ok`, `warn` or `fail`, what it is about, what was found, and what to do.
//! Looks at the state folder, the folders and the kernel's limits without leaving anything behind; takes no lock. The
//! only way to know the rights in a bucket is to use them, on objects of its own: see `bucket`.

mod bucket;
mod local;
mod store;

use std::io;

use anyhow::Context as _;

use crate::base::offload::Offload;
use crate::base::path::escaped;
use crate::commands::Exit;
use crate::config::{Config, Folder};
use crate::report::out::Out;

/// What `check` is asked to do.
#[derive(Clone, Debug)]
pub struct CheckOptions {
    /// The config to check, already free of problems in itself.
    pub config: Config,
}

/// Checks the config's state folder, folders and buckets, and prints what it finds.
///
/// Exit 0 if nothing stands in the way, 2 for trouble on this machine, 5 for trouble with a bucket.
pub async fn check(options: CheckOptions) -> anyhow::Result<Exit> {
    let mut findings = Findings::new(Out::stdout());
    run(options.config, &mut findings)
        .await
        .context("write to standard output")?;
    Ok(findings.exit)
}

async fn run(config: Config, findings: &mut Findings) -> io::Result<()> {
    let state_dir = config.state_dir;
    let dir = state_dir.clone();
    findings.add_all("state", Offload::Pool.run(move || local::state(&dir)).await)?;
    let mut folders = 0;
    for folder in &config.folders {
        let (folder, state_dir) = (folder.clone(), state_dir.clone());
        let (name, walking) = (folder.name.clone(), move || {
            local::folder(&folder, &state_dir)
        });
        let (found, count) = Offload::Pool.run(walking).await;
        folders += count;
        findings.add_all(&name, found)?;
    }
    findings.add_all(
        "kernel",
        Offload::Pool.run(move || local::kernel(folders)).await,
    )?;
    for folder in &config.folders {
        let found = bucket::check(folder).await;
        findings.add_all(&folder.name, found)?;
    }
    findings.sum()
}

/// How good something is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Grade {
    /// As it should be.
    Ok,
    /// It works, but not as well as it could, or is not certain.
    Warn,
    /// The agent cannot do its work.
    Fail(Exit),
}

/// One line.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Finding {
    grade: Grade,
    text: String,
}

impl Finding {
    fn ok(text: impl Into<String>) -> Self {
        Self {
            grade: Grade::Ok,
            text: text.into(),
        }
    }

    fn warn(text: impl Into<String>) -> Self {
        Self {
            grade: Grade::Warn,
            text: text.into(),
        }
    }

    /// Trouble on this machine.
    fn here(text: impl Into<String>) -> Self {
        Self {
            grade: Grade::Fail(Exit::Usage),
            text: text.into(),
        }
    }

    /// Trouble with a bucket.
    fn there(text: impl Into<String>) -> Self {
        Self {
            grade: Grade::Fail(Exit::Unreachable),
            text: text.into(),
        }
    }
}

/// Where findings go, and what they come to.
struct Findings {
    out: Out,
    exit: Exit,
    failed: usize,
    warned: usize,
}

impl Findings {
    fn new(out: Out) -> Self {
        Self {
            out,
            exit: Exit::Level,
            failed: 0,
            warned: 0,
        }
    }

    fn add_all(&mut self, about: &str, findings: Vec<Finding>) -> io::Result<()> {
        for Finding { grade, text } in findings {
            let word = match grade {
                Grade::Ok => "ok",
                Grade::Warn => {
                    self.warned += 1;
                    "warn"
                }
                Grade::Fail(exit) => {
                    self.failed += 1;
                    self.exit = self.exit.strongest(exit);
                    "fail"
                }
            };
            let about = escaped(about.as_bytes());
            self.out.line(format_args!("{word:<4}  {about}: {text}"))?;
        }
        Ok(())
    }

    fn sum(&mut self) -> io::Result<()> {
        let (failed, warned) = (self.failed, self.warned);
        match (failed, warned) {
            (0, 0) => self.out.line("everything is in order"),
            (0, _) => self.out.line(format_args!(
                "nothing stands in the way; to look at: {warned}"
            )),
            _ => self
                .out
                .line(format_args!("to mend: {failed}; to look at: {warned}")),
        }
    }
}

/// Returns a number of things in words.
fn number(count: u64, what: &str) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{count} {what}{s}")
}

/// Returns what a folder is called in a line.
fn shown(folder: &Folder) -> String {
    escaped(folder.path.as_os_str().as_encoded_bytes())
}
