//! `tidewatch init`: a commented config to start from, or one that does what another tool's command line does.
//!
//! Never writes over a file that is there.

mod from;
mod options;
mod places;

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::base::path::escaped;
use crate::commands::Exit;
use crate::commands::init::places::Places;
use crate::report::out::{Out, note};

/// The config that is written: every key at its default, with what it means.
pub const EXAMPLE: &str = include_str!("../../config.example.toml");

/// What `init` is asked to do.
#[derive(Clone, Debug)]
pub struct InitOptions {
    /// The file to write.
    pub file: PathBuf,
    /// The command line of another tool that the config is to do the work of.
    pub from: Option<String>,
}

/// Writes the example, or what is drawn from another tool's line, to a new file that only its owner can read.
pub fn init(options: &InitOptions, out: &mut Out) -> anyhow::Result<Exit> {
    let file = &options.file;
    let (text, next) = match &options.from {
        None => (EXAMPLE.to_owned(), "set `path` and `to` in it, then"),
        Some(line) => match from::draw(line, &Places::of_process()) {
            Ok(drawn) => {
                for what in &drawn.left_out {
                    note(format_args!("tidewatch: not taken over: {what}"));
                }
                (drawn.text, "look through it, then")
            }
            Err(why) => {
                note(format_args!("tidewatch: could not {why}"));
                return Ok(Exit::Usage);
            }
        },
    };
    let shown = escaped(file.as_os_str().as_encoded_bytes());
    // Only the owner: what is backed up to where is nobody else's business.
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file);
    let mut made = match made {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            note(format_args!(
                "tidewatch: could not write `{shown}`: it is there already; name another file"
            ));
            return Ok(Exit::Usage);
        }
        Err(error) => {
            note(format_args!(
                "tidewatch: could not write `{shown}`: {error}"
            ));
            return Ok(Exit::Usage);
        }
        Ok(made) => made,
    };
    if let Err(error) = made
        .write_all(text.as_bytes())
        .and_then(|()| made.sync_all())
    {
        // Half a config must not stay: the next `init` would refuse to replace it.
        let _ = std::fs::remove_file(file);
        return Err(error).with_context(|| format!("write `{shown}`"));
    }
    out.line(format_args!(
        "wrote {shown}: {next} run `tidewatch check --config {}`",
        quoted(file)
    ))
    .context("write to standard output")?;
    Ok(Exit::Level)
}

/// Returns a path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = escaped(path.as_os_str().as_encoded_bytes());
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@%".contains(c);
    if text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_can_be_pasted_into_a_shell() {
        assert_eq!(quoted(Path::new("./config.toml")), "./config.toml");
        assert_eq!(quoted(Path::new("it's mine")), "'it'\\''s mine'");
    }
}
