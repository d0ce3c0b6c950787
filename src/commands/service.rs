//! `tidewatch service`: the systemd unit for this config, and a drop-in with what its folders need; written, shown, removed.
//!
//! Files that are not of its making are never touched: each one begins with a line that says so. Nothing is enabled,
//! started or stopped.

mod unit;

use std::ffi::OsString;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use crate::base::path::escaped;
use crate::commands::Exit;
use crate::commands::service::unit::{MARK, Unit};
use crate::config::Config;
use crate::report::out::{Out, note};

/// Where the machine's service keeps its state, and what `$STATE_DIRECTORY` is there.
pub const MACHINE_STATE: &str = "/var/lib/tidewatch";

/// What `service` is asked to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ServiceCommand {
    /// Write the files.
    Install(Box<Target>),
    /// Print them.
    Show(Box<Target>),
    /// Remove them.
    Uninstall(Whose),
}

/// What the service is to run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// Whose service it is.
    pub whose: Whose,
    /// This program, absolute.
    pub program: PathBuf,
    /// The config, absolute.
    pub place: PathBuf,
    /// What it says.
    pub config: Config,
}

/// Whose service manager runs it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Whose {
    /// The machine's.
    Machine,
    /// The user's, whose units are below this folder.
    User(PathBuf),
}

impl Whose {
    /// Returns where the unit and the drop-in are.
    fn places(&self) -> (PathBuf, PathBuf) {
        let dir = match self {
            Self::Machine => Path::new("/etc/systemd/system"),
            Self::User(dir) => dir,
        };
        let unit = dir.join("tidewatch.service");
        let folders = dir.join("tidewatch.service.d/folders.conf");
        (unit, folders)
    }

    /// Returns the link that `systemctl enable` makes.
    fn enabled(&self) -> PathBuf {
        let wants = match self {
            Self::Machine => "multi-user.target.wants",
            Self::User(_) => "default.target.wants",
        };
        let (unit, _) = self.places();
        unit.with_file_name(wants).join("tidewatch.service")
    }

    /// Returns the manager's command line with `what` behind.
    fn systemctl(&self, what: &str) -> String {
        match self {
            Self::Machine => format!("systemctl {what}"),
            Self::User(_) => format!("systemctl --user {what}"),
        }
    }
}

/// Writes, shows or removes the unit and the drop-in.
pub fn service(command: &ServiceCommand, out: &mut Out) -> anyhow::Result<Exit> {
    match command {
        ServiceCommand::Show(target) => show(target, out),
        ServiceCommand::Install(target) => install(target, out),
        ServiceCommand::Uninstall(whose) => uninstall(whose, out),
    }
    .context("write to standard output")
}

fn show(target: &Target, out: &mut Out) -> io::Result<Exit> {
    let unit = Unit::of(target);
    let (unit_place, folders_place) = target.whose.places();
    warn(&unit);
    out.line(format_args!("# {}\n{}", shown(&unit_place), unit.service))?;
    out.line(format_args!(
        "# {}\n{}",
        shown(&folders_place),
        unit.folders
    ))?;
    Ok(Exit::Level)
}

fn install(target: &Target, out: &mut Out) -> io::Result<Exit> {
    let unit = Unit::of(target);
    let (unit_place, folders_place) = target.whose.places();
    // Both are looked at before either is written.
    for place in [&unit_place, &folders_place] {
        match owner(place) {
            Ok(Owner::Nobody | Owner::Us) => {}
            Ok(Owner::Others) => return Ok(refuse(place)),
            Err(error) => return Ok(failed("look at", place, &error)),
        }
    }
    warn(&unit);
    for (place, text) in [
        (&unit_place, &unit.service),
        (&folders_place, &unit.folders),
    ] {
        if let Err(error) = write(place, text) {
            return Ok(failed("write", place, &error));
        }
        out.line(format_args!("wrote {}", shown(place)))?;
    }
    reload(&target.whose, out)?;
    let start = target.whose.systemctl("enable --now tidewatch");
    out.line(format_args!("start it now and at each boot with `{start}`"))?;
    if matches!(target.whose, Whose::User(_)) {
        out.line(format_args!(
            "to have it run while you are not logged in: `loginctl enable-linger`"
        ))?;
    }
    Ok(Exit::Level)
}

fn uninstall(whose: &Whose, out: &mut Out) -> io::Result<Exit> {
    let (unit, folders) = whose.places();
    // Without its unit it could not be disabled any more.
    if fs::symlink_metadata(whose.enabled()).is_ok() {
        let stop = whose.systemctl("disable --now tidewatch");
        note(format_args!(
            "tidewatch: could not remove the service: it is enabled; run `{stop}` first"
        ));
        return Ok(Exit::Failed);
    }
    let mut exit = Exit::Level;
    let mut has_removed = false;
    // The drop-in first: without it the unit still is one.
    for place in [&folders, &unit] {
        match owner(place) {
            Ok(Owner::Nobody) => {}
            Ok(Owner::Others) => exit = refuse(place),
            Ok(Owner::Us) => match fs::remove_file(place) {
                Ok(()) => {
                    has_removed = true;
                    out.line(format_args!("removed {}", shown(place)))?;
                }
                Err(error) => exit = failed("remove", place, &error),
            },
            Err(error) => exit = failed("look at", place, &error),
        }
    }
    // What others have put there keeps the folder.
    if let Some(dir) = folders.parent().filter(|_| has_removed) {
        let _ = fs::remove_dir(dir);
    }
    if has_removed {
        reload(whose, out)?;
        let stop = whose.systemctl("stop tidewatch");
        out.line(format_args!("if it still runs, `{stop}` ends it"))?;
        out.line(format_args!(
            "the config, the state folder and what is in the bucket are as they were"
        ))?;
    } else if exit == Exit::Level {
        out.line(format_args!(
            "there is nothing to remove: no {}",
            shown(&unit)
        ))?;
    }
    Ok(exit)
}

/// Has the service manager read its units again, if there is one that may be asked; says how that went.
fn reload(whose: &Whose, out: &mut Out) -> io::Result<()> {
    // As sd_booted(3) finds it out.
    if !Path::new("/run/systemd/system").is_dir() {
        return out.line(format_args!(
            "systemd does not run here: nothing was told to it"
        ));
    }
    let line = whose.systemctl("daemon-reload");
    let mut words = line.split(' ').map(OsString::from);
    let program = words.next().unwrap_or_default();
    let done = Command::new(program).args(words).output();
    match done {
        Ok(done) if done.status.success() => out.line(format_args!("`{line}` was done")),
        Ok(done) => {
            let said = escaped(done.stderr.trim_ascii());
            out.line(format_args!("`{line}` is still to be done: {said}"))
        }
        Err(error) => out.line(format_args!("`{line}` is still to be done: {error}")),
    }
}

fn warn(unit: &Unit) {
    for warning in &unit.warnings {
        note(format_args!("tidewatch: {warning}"));
    }
}

/// Who has written a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Owner {
    /// It is not there.
    Nobody,
    /// This command.
    Us,
    /// Somebody else, or it is no file.
    Others,
}

fn owner(place: &Path) -> io::Result<Owner> {
    match fs::symlink_metadata(place) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Owner::Nobody),
        Err(error) => return Err(error),
        // `systemctl mask` and `link` leave links.
        Ok(found) if !found.is_file() => return Ok(Owner::Others),
        Ok(_) => {}
    }
    let text = fs::read(place)?;
    Ok(if text.starts_with(MARK.as_bytes()) {
        Owner::Us
    } else {
        Owner::Others
    })
}

/// Writes a file under a name of its own and gives it its name when it is whole, so that a unit is never half of one.
#[expect(
    clippy::disallowed_methods,
    reason = "no state: what is lost in a power cut is written by the next install"
)]
fn write(place: &Path, text: &str) -> io::Result<()> {
    if let Some(dir) = place.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(dir)?;
    }
    // systemd takes no file that ends like this for a unit or a drop-in.
    let mut new = place.as_os_str().to_owned();
    new.push(".new");
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o644)
        .open(&new)?;
    let written = file
        .write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&new, place));
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written
}

fn refuse(place: &Path) -> Exit {
    let place = shown(place);
    note(format_args!(
        "tidewatch: could not touch {place}: `tidewatch service` has not written it; move it away first"
    ));
    Exit::Failed
}

fn failed(what: &str, place: &Path, error: &io::Error) -> Exit {
    let place = shown(place);
    let remedy = match error.kind() {
        io::ErrorKind::PermissionDenied => "; run it with sudo, or with --user",
        _ => "",
    };
    note(format_args!(
        "tidewatch: could not {what} {place}: {error}{remedy}"
    ));
    Exit::Failed
}

fn shown(path: &Path) -> String {
    escaped(path.as_os_str().as_encoded_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_this_command_wrote_is_replaced_or_removed() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let place = dir.path().join("a/b.service");
        assert_eq!(owner(&place).expect("looked at"), Owner::Nobody);
        write(&place, &format!("{MARK}\n")).expect("written");
        assert_eq!(owner(&place).expect("looked at"), Owner::Us);
        let left: Vec<_> = fs::read_dir(dir.path().join("a"))
            .expect("a folder")
            .collect();
        assert_eq!(left.len(), 1, "nothing else stays: {left:?}");
        write(&place, "[Unit]\n").expect("written");
        assert_eq!(owner(&place).expect("looked at"), Owner::Others);
        let link = dir.path().join("masked.service");
        std::os::unix::fs::symlink("/dev/null", &link).expect("a link");
        assert_eq!(owner(&link).expect("looked at"), Owner::Others);
    }
}
