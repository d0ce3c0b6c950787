//! `tidewatch check`: is everything there that the agent will need, and if not, what mends it.
//!
//! One line a finding on standard output: `ok`, `warn` or `fail`, what it is about, what was found, and what to do.
//! Looks at the state folder, the folders and the kernel's limits without leaving anything behind; takes no lock. The
//! only way to know the rights in a bucket is to use them, on objects of its own: see `bucket`. Where a command mends what
//! was found, it has a line of its own, to be pasted as it is; the rest fits 80 columns.

mod bucket;
mod local;
mod rules;
mod store;

use std::io;

use anyhow::Context as _;
use serde_json::json;

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
    /// One JSON object for each finding, and a last one that sums up.
    pub json: bool,
}

/// Checks the config's state folder, folders and buckets, and prints what it finds.
///
/// Exit 0 if nothing stands in the way, 2 for trouble on this machine, 5 for trouble with a bucket.
pub async fn check(options: CheckOptions) -> anyhow::Result<Exit> {
    let mut findings = Findings::new(Out::stdout(), options.json);
    run(options.config, &mut findings)
        .await
        .context("write to standard output")?;
    Ok(findings.exit)
}

async fn run(config: Config, findings: &mut Findings) -> io::Result<()> {
    let state_dir = config.state_dir;
    let dir = state_dir.clone();
    findings.add_all("state", Offload::Pool.run(move || local::state(&dir)).await)?;
    let (mut folders, mut files) = (0, 0);
    for folder in &config.folders {
        let (folder, state_dir) = (folder.clone(), state_dir.clone());
        let (name, walking) = (folder.name.clone(), move || {
            local::folder(&folder, &state_dir)
        });
        let (found, counted) = Offload::Pool.run(walking).await;
        folders += counted.folders;
        files += counted.files;
        findings.add_all(&name, found)?;
    }
    let dir = state_dir.clone();
    findings.add_all(
        "state",
        Offload::Pool.run(move || local::room(&dir, files)).await,
    )?;
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
    /// A command that mends it.
    mend: Option<String>,
}

impl Finding {
    fn new(grade: Grade, text: impl Into<String>) -> Self {
        Self {
            grade,
            text: text.into(),
            mend: None,
        }
    }

    fn ok(text: impl Into<String>) -> Self {
        Self::new(Grade::Ok, text)
    }

    fn warn(text: impl Into<String>) -> Self {
        Self::new(Grade::Warn, text)
    }

    /// Names the command that mends it.
    fn mended_by(self, command: impl Into<String>) -> Self {
        Self {
            mend: Some(command.into()),
            ..self
        }
    }

    /// Trouble on this machine.
    fn here(text: impl Into<String>) -> Self {
        Self::new(Grade::Fail(Exit::Usage), text)
    }

    /// Trouble with a bucket.
    fn there(text: impl Into<String>) -> Self {
        Self::new(Grade::Fail(Exit::Unreachable), text)
    }
}

/// Where findings go, and what they come to.
struct Findings {
    out: Out,
    json: bool,
    exit: Exit,
    failed: usize,
    warned: usize,
}

impl Findings {
    fn new(out: Out, json: bool) -> Self {
        Self {
            out,
            json,
            exit: Exit::Level,
            failed: 0,
            warned: 0,
        }
    }

    fn add_all(&mut self, about: &str, findings: Vec<Finding>) -> io::Result<()> {
        for Finding { grade, text, mend } in findings {
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
            if self.json {
                let line = json!({
                    "event": "finding", "grade": word, "about": about, "text": text, "mend": mend,
                });
                self.out.line(line)?;
                continue;
            }
            for line in wrapped(&format!("{word:<4}  {about}: {text}")) {
                self.out.line(line)?;
            }
            if let Some(mend) = mend {
                self.out.line(format_args!("        {mend}"))?;
            }
        }
        Ok(())
    }

    fn sum(&mut self) -> io::Result<()> {
        let (failed, warned) = (self.failed, self.warned);
        if self.json {
            let line = json!({
                "event": "summary", "failed": failed, "warned": warned, "exit": self.exit.code(),
            });
            return self.out.line(line);
        }
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

/// How wide the text is.
const COLUMNS: usize = 80;
/// What the second line of a finding begins with, and each after it.
const INDENT: &str = "      ";

/// Breaks a line between words, so that it fits; a word that is longer stays whole, to be pasted.
fn wrapped(line: &str) -> Vec<String> {
    let (mut lines, mut last) = (Vec::new(), String::new());
    let mut width = 0;
    // Two spaces after the grade stay as they are.
    for word in line.split(' ') {
        let len = word.chars().count();
        if width > 0 && width + 1 + len > COLUMNS {
            lines.push(std::mem::replace(&mut last, INDENT.to_owned() + word));
            width = INDENT.len() + len;
        } else {
            if !last.is_empty() {
                last.push(' ');
                width += 1;
            }
            last.push_str(word);
            width += len;
        }
    }
    lines.push(last);
    lines
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_broken_between_words_and_nothing_is_lost() {
        let text = format!("ok    a: {}", "word and another ".repeat(12));
        let lines = wrapped(text.trim_end());
        assert!(lines.len() > 2);
        assert!(lines.iter().all(|line| line.chars().count() <= COLUMNS));
        assert!(lines[1..].iter().all(|line| line.starts_with(INDENT)));
        let whole: Vec<_> = lines.iter().map(|line| line.trim_start()).collect();
        assert_eq!(whole.join(" "), text.trim_end());
        let long = format!("warn  a: {}", "x".repeat(100));
        assert_eq!(wrapped(&long).len(), 2);
    }
}
