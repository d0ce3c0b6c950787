//! The text of a unit for a config, drawn from the units of this repository.                                     (pure)
//!
//! What the machine's manager may ask of the kernel, a user's may not: namespaces for mounts and devices, capabilities, other
//! users. A unit of a user has none of it, and keeps what needs no right.

use std::fmt::Write as _;
use std::path::Path;

use crate::base::path::escaped;
use crate::commands::service::{MACHINE_STATE, Target, Whose};

/// How every file that is written begins.
pub const MARK: &str = "# Written by `tidewatch service install`";

/// What the machine's service is drawn from.
const MACHINE: &str = include_str!("../../../systemd/tidewatch.service");
/// What a user's is.
const USER: &str = include_str!("../../../systemd/tidewatch@.service");

/// Keys that a user's manager does not have, or whose effect needs rights that it does not have.
const NOT_FOR_USERS: &[&str] = &[
    "After",
    "AmbientCapabilities",
    "CapabilityBoundingSet",
    "ConfigurationDirectory",
    "ConfigurationDirectoryMode",
    "DevicePolicy",
    "DynamicUser",
    "EnvironmentFile",
    "Group",
    "KeyringMode",
    "LoadCredential",
    "PrivateDevices",
    "PrivateMounts",
    "PrivateTmp",
    "ProcSubset",
    "ProtectClock",
    "ProtectControlGroups",
    "ProtectHome",
    "ProtectHostname",
    "ProtectKernelLogs",
    "ProtectKernelModules",
    "ProtectKernelTunables",
    "ProtectProc",
    "ProtectSystem",
    "RemoveIPC",
    // Older managers put it beside the config; the program finds its place by itself.
    "StateDirectory",
    "StateDirectoryMode",
    "User",
    "Wants",
];

/// The files of a service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unit {
    /// The unit.
    pub service: String,
    /// The drop-in.
    pub folders: String,
    /// What somebody should know before it is started.
    pub warnings: Vec<String>,
}

impl Unit {
    /// Draws the files for a config.
    pub fn of(target: &Target) -> Self {
        let mut warnings = Vec::new();
        let place = escaped(target.place.as_os_str().as_encoded_bytes());
        let head = format!("{MARK} for {place}; `tidewatch service uninstall` removes it.\n");
        let start = format!(
            "{} run --config {}",
            program(target, &mut warnings),
            config(target, &mut warnings)
        );
        let text = match target.whose {
            Whose::Machine => redrawn(MACHINE, &["Environment"], &start),
            Whose::User(_) => redrawn(USER, NOT_FOR_USERS, &start)
                .replace(" of %i", "")
                .replace(
                    "RuntimeDirectory=tidewatch-%i",
                    "RuntimeDirectory=tidewatch",
                )
                .replace("WantedBy=multi-user.target", "WantedBy=default.target"),
        };
        let folders = format!("{head}{}", drop_in(target, &mut warnings));
        Self {
            service: head + &text,
            folders,
            warnings,
        }
    }
}

/// Returns the unit `text` without the comment at its top and without `dropped` keys, starting with `start`.
///
/// A comment belongs to the key below it and goes with it; a heading (`# -- … --`) to all keys until the next empty line.
fn redrawn(text: &str, dropped: &[&str], start: &str) -> String {
    let (mut out, mut heading, mut comments) = (String::new(), None, Vec::new());
    let body = text.find("[Unit]").map_or(text, |at| &text[at..]);
    for line in body.lines() {
        let key = line.split_once('=').map(|(key, _)| key);
        match key {
            _ if line.is_empty() => {
                heading = None;
                comments.clear();
                if !out.ends_with("\n\n") {
                    out.push('\n');
                }
            }
            _ if line.starts_with("# -- ") => heading = Some(line),
            _ if line.starts_with('#') => comments.push(line),
            Some(key) if dropped.contains(&key) => comments.clear(),
            _ => {
                for line in heading.take().into_iter().chain(comments.drain(..)) {
                    out.push_str(line);
                    out.push('\n');
                }
                match key {
                    Some("ExecStart") => out.extend(["ExecStart=", start]),
                    _ => out.push_str(line),
                }
                out.push('\n');
            }
        }
    }
    out
}

/// Returns what the config's folders need.
fn drop_in(target: &Target, warnings: &mut Vec<String>) -> String {
    let mut text = "\n[Unit]\n# Starts when the disks of the folders are there.\n".to_owned();
    let is_machines = target.whose == Whose::Machine;
    for folder in &target.config.folders {
        let path = &folder.given;
        let shown = escaped(path.as_os_str().as_encoded_bytes());
        match word(path) {
            Some(word) => {
                // Writing to a String cannot fail.
                let _ = writeln!(text, "RequiresMountsFor={word}");
            }
            None => warnings.push(format!(
                "the path {shown} cannot be written in a unit: the service does not wait for its disk"
            )),
        }
        if is_machines && is_private(path) {
            warnings.push(format!(
                "the folder {shown} is not seen by the service, which has a /tmp of its own (PrivateTmp)"
            ));
        }
    }
    let state = &target.config.state_dir;
    if is_machines && state != Path::new(MACHINE_STATE) {
        let shown = escaped(state.as_os_str().as_encoded_bytes());
        if let Some(word) = word(state) {
            let _ = write!(
                text,
                "\n[Service]\n# state_dir; everything else is read-only.\nReadWritePaths=-{word}\n"
            );
        }
        warnings.push(format!(
            "the state folder {shown} has to be there, and to belong to the user `tidewatch`; simpler is \
             state_dir = \"{MACHINE_STATE}\", which the service has anyway"
        ));
    }
    text
}

fn is_private(path: &Path) -> bool {
    path.starts_with("/tmp") || path.starts_with("/var/tmp")
}

fn program(target: &Target, warnings: &mut Vec<String>) -> String {
    let path = &target.program;
    let shown = escaped(path.as_os_str().as_encoded_bytes());
    if target.whose == Whose::Machine && (is_private(path) || path.starts_with("/home")) {
        warnings.push(format!(
            "the service is to run {shown}; put the program into /usr/local/bin, where only root can change it, and run that"
        ));
    }
    word(path).unwrap_or_else(|| {
        warnings.push(format!(
            "the path {shown} cannot be written in a unit; move the program"
        ));
        "/usr/local/bin/tidewatch".to_owned()
    })
}

fn config(target: &Target, warnings: &mut Vec<String>) -> String {
    let path = &target.place;
    let shown = escaped(path.as_os_str().as_encoded_bytes());
    if target.whose == Whose::Machine && is_private(path) {
        warnings.push(format!(
            "the config {shown} is not seen by the service, which has a /tmp of its own (PrivateTmp)"
        ));
    }
    // Of an argument, unlike a path, `$` is replaced, too.
    let word = word(path).map(|word| word.replace('$', "$$"));
    word.unwrap_or_else(|| {
        warnings.push(format!(
            "the path {shown} cannot be written in a unit; move the config"
        ));
        "/etc/tidewatch/config.toml".to_owned()
    })
}

/// Returns a path as a word of a unit; `None` if it cannot be one: systemd reads units as lines of UTF-8.
fn word(path: &Path) -> Option<String> {
    let text = path
        .to_str()
        .filter(|text| !text.chars().any(char::is_control))?;
    let plain = |c: char| c.is_alphanumeric() || "/._-+=:,@~".contains(c);
    let text = text.replace('%', "%%");
    Some(if text.chars().all(|c| plain(c) || c == '%') {
        text
    } else {
        // Both ways in which systemd reads quotes understand these two.
        format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
    })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::config::{Config, Folder, Options, Surroundings, Target as To};

    fn target(whose: Whose, folder: &str) -> Target {
        let to = To {
            bucket: "b".to_owned(),
            prefix: String::new(),
        };
        let dir = tempfile::tempdir().expect("a temporary folder");
        let options = Options {
            state_dir: Some(PathBuf::from(MACHINE_STATE)),
            ..Options::default()
        };
        let around = Surroundings::default();
        let made = Config::ad_hoc(dir.path(), "s3://bucket/p", &options, &around);
        Target {
            whose,
            program: PathBuf::from("/usr/local/bin/tidewatch"),
            place: PathBuf::from("/etc/tidewatch/config.toml"),
            config: Config {
                folders: vec![Folder::new("a".to_owned(), folder.into(), to)],
                ..made.expect("a config")
            },
        }
    }

    fn keys(text: &str) -> Vec<&str> {
        let keys = text.lines().filter(|line| !line.starts_with('#'));
        keys.filter_map(|line| Some(line.split_once('=')?.0))
            .collect()
    }

    #[test]
    fn the_machines_unit_says_what_the_one_of_the_repository_says() {
        let unit = Unit::of(&target(Whose::Machine, "/srv/a"));
        assert!(unit.service.starts_with(MARK) && unit.folders.starts_with(MARK));
        assert_eq!(unit.warnings, Vec::<String>::new());
        let settings = |text: &str| -> Vec<String> {
            let lines = text
                .lines()
                .filter(|line| !line.starts_with('#') && !line.is_empty());
            let kept = lines.filter(|line| {
                !line.starts_with("ExecStart=") && !line.starts_with("Environment=")
            });
            kept.map(str::to_owned).collect()
        };
        assert_eq!(settings(&unit.service), settings(MACHINE));
        let start = "ExecStart=/usr/local/bin/tidewatch run --config /etc/tidewatch/config.toml\n";
        assert!(unit.service.contains(start), "{}", unit.service);
        assert!(unit.folders.contains("\n[Unit]\n"), "{}", unit.folders);
        assert!(
            unit.folders.contains("\nRequiresMountsFor=/srv/a\n"),
            "{}",
            unit.folders
        );
    }

    #[test]
    fn a_users_unit_has_nothing_that_needs_rights() {
        let unit = Unit::of(&target(Whose::User("/home/u".into()), "/tmp/a"));
        assert_eq!(unit.warnings, Vec::<String>::new());
        let keys = keys(&unit.service);
        for key in NOT_FOR_USERS {
            assert!(!keys.contains(key), "{key}\n{}", unit.service);
        }
        for key in [
            "WatchdogSec",
            "NoNewPrivileges",
            "SystemCallFilter",
            "Restart",
            "MemoryMax",
        ] {
            assert!(keys.contains(&key), "{key}\n{}", unit.service);
        }
        assert!(
            unit.service.contains("WantedBy=default.target\n"),
            "{}",
            unit.service
        );
        assert!(!unit.service.contains('%'), "{}", unit.service);
        // A heading goes with the last of its keys.
        assert!(
            !unit.service.contains("# -- what it sees"),
            "{}",
            unit.service
        );
        assert!(unit.service.contains("# -- how much"), "{}", unit.service);
    }

    #[test]
    fn the_list_of_what_users_do_not_have_names_only_what_is_there() {
        let known: Vec<&str> = keys(MACHINE).into_iter().chain(keys(USER)).collect();
        for key in NOT_FOR_USERS.iter().filter(|key| **key != "Group") {
            assert!(known.contains(key), "{key}");
        }
    }

    #[test]
    fn a_path_is_written_as_systemd_reads_it() {
        for (path, expected) in [
            ("/srv/photos-2026", Some("/srv/photos-2026")),
            ("/srv/my photos", Some("\"/srv/my photos\"")),
            ("/srv/50%", Some("/srv/50%%")),
            ("/srv/a\"b\\c", Some("\"/srv/a\\\"b\\\\c\"")),
            ("/srv/it's;#", Some("\"/srv/it's;#\"")),
            ("/srv/Bücher", Some("/srv/Bücher")),
            ("/srv/a\nb", None),
        ] {
            assert_eq!(word(Path::new(path)).as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn what_the_service_will_not_see_is_told_before() {
        let mut target = target(Whose::Machine, "/tmp/a");
        target.program = "/home/u/tidewatch".into();
        target.place = "/var/tmp/$x.toml".into();
        target.config.state_dir = "/srv/state".into();
        let unit = Unit::of(&target);
        assert_eq!(unit.warnings.len(), 4, "{:?}", unit.warnings);
        assert!(
            unit.service
                .contains("run --config \"/var/tmp/$$x.toml\"\n"),
            "{}",
            unit.service
        );
        assert!(
            unit.folders.contains("\nReadWritePaths=-/srv/state\n"),
            "{}",
            unit.folders
        );
    }
}
