//! What `check` looks at on this machine: the state folder, the folders, the kernel's limits. Leaves nothing behind.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Access, access, statfs, statvfs};
use tokio::time::Instant;

use crate::base::clock::Clock;
use crate::base::path::{RelPath, escaped};
use crate::base::policy::WatchMode;
use crate::base::stat::Kind;
use crate::base::units::show_bytes;
use crate::commands::check::{Finding, number, shown};
use crate::commands::folders::rules;
use crate::config::Folder;
use crate::manifest::{self, Manifest};
use crate::tree::budget::Budget;
use crate::tree::filter::Filter;
use crate::tree::real::RealTree;
use crate::tree::report::Watching;
use crate::tree::watch::Watch;
use crate::tree::{self, Found, Tree as _};

/// How long a folder is walked to count what is in it. What it has not seen by then, the line says.
const WALK: Duration = Duration::from_secs(20);

/// Less room than this for the state is worth a word: a manifest of a hundred thousand files takes about a third of it.
const LITTLE_ROOM_BYTES: u64 = 100 << 20;

/// What a file takes there: 340 MB were measured with a million, and twice that while the log is long.
const ROW_BYTES: u64 = 700;

/// How many mounts inside a folder are named.
const MOUNTS: usize = 5;

/// Where the kernel says how many folders one user may watch, inotify(7).
const MAX_WATCHES: &str = "/proc/sys/fs/inotify/max_user_watches";

/// Looks whether the agent could keep its state in `dir`.
pub(super) fn state(dir: &Path) -> Vec<Finding> {
    let name = escaped(dir.as_os_str().as_encoded_bytes());
    let mut found = Vec::new();
    let mend = "make it writable for this user, or set agent.state_dir to a folder that is";
    match place_of(dir) {
        Err(error) => {
            return vec![Finding::here(format!(
                "{name} cannot be used: {error}; {mend}"
            ))];
        }
        Ok(place) => {
            let rights = Access::WRITE_OK | Access::EXEC_OK | Access::EXISTS;
            if let Err(error) = access(&place, rights) {
                let at = escaped(place.as_os_str().as_encoded_bytes());
                let error = io::Error::from(error);
                let text = format!("{name} cannot be written, {at} refuses it: {error}; {mend}");
                return vec![Finding::here(text)];
            }
            let is_new = if place == dir {
                "can be written"
            } else {
                "can be made"
            };
            found.push(Finding::ok(format!("{name} {is_new}")));
            found.extend(kind(&place, &name));
        }
    }
    match manifest::holder(dir) {
        Ok(Some(pid)) => found.push(Finding::ok(format!("an agent holds it, process {pid}"))),
        Ok(None) => {}
        Err(error) => found.push(Finding::here(format!(
            "its lock cannot be read: {error}; {mend}"
        ))),
    }
    if let Err(error) = Manifest::open_read_only(dir) {
        found.push(Finding::here(format!("could not {error}")));
    }
    found
}

/// Returns `dir` if it is there, else the folder in which it would be made, or its parents.
fn place_of(dir: &Path) -> io::Result<PathBuf> {
    for place in dir.ancestors() {
        match std::fs::metadata(place) {
            Ok(stat) if stat.is_dir() => return Ok(place.to_path_buf()),
            Ok(_) => return Err(io::ErrorKind::NotADirectory.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

/// Says of a place that loses what is in it, or where a database cannot be.
fn kind(place: &Path, name: &str) -> Option<Finding> {
    let stat = statfs(place).ok()?;
    // Numbers as statfs(2) lists them.
    let network = match stat.f_type as u32 {
        0x6969 => Some("NFS"),
        0xff53_4d42 | 0xfe53_4d42 | 0x517b => Some("SMB"),
        0x0102_1997 => Some("9p"),
        0x00c3_6400 => Some("Ceph"),
        _ => None,
    };
    if let Some(network) = network {
        return Some(Finding::warn(format!(
            "{name} is on {network}, where the locks that keep a database whole may not hold; set agent.state_dir to a folder \
             on a disk of this machine"
        )));
    }
    let is_in_memory = matches!(stat.f_type as u32, 0x0102_1994 | 0x8584_58f6);
    let is_swept = ["/tmp", "/var/tmp", "/dev/shm", "/run"]
        .iter()
        .any(|swept| place.starts_with(swept));
    (is_in_memory || is_swept).then(|| {
        let why = if is_in_memory {
            "is in memory and lost at a restart"
        } else {
            "may be swept by the system"
        };
        Finding::warn(format!(
            "{name} {why}: everything would be compared with the bucket again; set agent.state_dir to a lasting folder such \
             as /var/lib/tidewatch"
        ))
    })
}

/// Looks whether there is room for the state of so many files.
pub(super) fn room(dir: &Path, files: u64) -> Vec<Finding> {
    let name = escaped(dir.as_os_str().as_encoded_bytes());
    // A filesystem that does not tell is not a finding; what is wrong with the place was said before.
    let stat = place_of(dir).and_then(|place| Ok(statvfs(&place)?));
    let Ok(stat) = stat else {
        return Vec::new();
    };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let needed = ROW_BYTES.saturating_mul(files).max(LITTLE_ROOM_BYTES);
    let (free_shown, shown) = (show_bytes(free), show_bytes(needed));
    let finding = if free < needed {
        Finding::warn(format!(
            "only {free_shown} are free for {name}, and up to {shown} are needed for {}; make some room",
            number(files, "file")
        ))
    } else {
        Finding::ok(format!("{free_shown} are free, up to {shown} are needed"))
    };
    vec![finding]
}

/// Says how changes are noticed.
fn watching(folder: &Folder) -> Vec<Finding> {
    let (sender, _kept) = tree::hints(1);
    let tree = match RealTree::watched(&folder.path, sender, folder.watch) {
        Ok(tree) => tree,
        Err(error) => {
            return vec![Finding::warn(format!(
                "it cannot be watched: {error}; changes are found by looking again and again"
            ))];
        }
    };
    let report = tree.watch_report();
    let by_choice = folder.watch == WatchMode::Poll;
    let mut found = vec![match report.mode {
        Watching::Polling(_) | Watching::Off if by_choice => {
            Finding::ok("changes are found by looking again and again, as `watch` says")
        }
        Watching::Native => Finding::ok("the kernel tells of its changes"),
        Watching::Both(why) => Finding::warn(format!(
            "the kernel tells of changes made here only ({why}): it is looked at again and again too"
        )),
        Watching::Polling(why) => Finding::warn(format!(
            "the kernel tells nothing of its changes ({why}): they are found by looking again and again, every `rescan` at \
             the latest"
        )),
        Watching::Off => Finding::warn("nothing tells of its changes: only scans find them"),
    }];
    for (mount, filesystem) in report.mounts.iter().take(MOUNTS) {
        found.push(Finding::warn(format!(
            "`{mount}` inside it is {filesystem}, of which the kernel tells little: it is looked at again and again"
        )));
    }
    found
}

/// Looks whether a folder can be read, and returns how many folders are in it, as far as they were counted.
pub(super) fn folder(folder: &Folder, state_dir: &Path) -> (Vec<Finding>, Counted) {
    let name = shown(folder);
    let tree = Arc::new(RealTree::open(&folder.path).with_symlinks(folder.symlinks));
    let filter = match rules(folder) {
        Ok(filter) => filter.reading(tree.clone()),
        Err(error) => {
            let found = vec![Finding::here(format!("could not {error}"))];
            return (found, Counted::default());
        }
    };
    // The agent leaves its own files out, so they are not counted either.
    let filter = match RelPath::below(&folder.path, state_dir) {
        Some(own) => filter.with_hidden(own),
        None => filter,
    };
    if let Err(error) = tree.identity().and_then(|_| tree.list(&RelPath::root())) {
        let mend = match error.raw_os_error() {
            Some(code) if code == rustix::io::Errno::NOSYS.raw_os_error() => {
                "Linux 5.6 or newer is needed (openat2)"
            }
            _ => "run as a user who can read it, or correct `path`",
        };
        return (
            vec![Finding::here(format!(
                "{name} cannot be read: {error}; {mend}"
            ))],
            Counted::default(),
        );
    }
    let counted = count(&tree, &filter, Clock::Real.now().mono + WALK);
    let Counted { folders, files, .. } = &counted;
    let more = if counted.is_whole { "" } else { "more than " };
    let mut found = vec![Finding::ok(format!(
        "{name} can be read, {more}{} in {}",
        number(*files, "file"),
        number(*folders, "folder")
    ))];
    found.extend(watching(folder));
    if let Some((path, error)) = &counted.unreadable {
        found.push(Finding::warn(format!(
            "{} cannot be read, the first `{path}`: {error}; run as a user who can, or exclude them",
            number(counted.refused, "folder")
        )));
    }
    (found, counted)
}

/// What a walk has met.
#[derive(Default)]
pub(super) struct Counted {
    pub folders: u64,
    pub files: u64,
    refused: u64,
    unreadable: Option<(RelPath, io::Error)>,
    is_whole: bool,
}

impl Counted {
    /// Adds one folder's listing, and to `folders` those that are still to be listed.
    fn add(
        &mut self,
        folder: &RelPath,
        listing: Vec<Found>,
        filter: &Filter,
        folders: &mut Vec<RelPath>,
    ) {
        self.folders += 1;
        filter.listed(folder, &listing);
        for found in listing {
            let path = folder.join(&found.name);
            if filter.excludes(&path, found.stat.kind).is_some() {
                continue;
            }
            match found.stat.kind {
                Kind::Folder => folders.push(path),
                Kind::File => self.files += 1,
                _ => {}
            }
        }
    }
}

fn count(tree: &RealTree, filter: &Filter, until: Instant) -> Counted {
    let mut counted = Counted::default();
    let mut folders = vec![RelPath::root()];
    while let Some(folder) = folders.pop() {
        if Clock::Real.now().mono > until {
            return counted;
        }
        match tree.list(&folder) {
            Ok(listing) => counted.add(&folder, listing, filter, &mut folders),
            // Gone meanwhile, which is no finding.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) => {}
            Err(error) => {
                counted.refused += 1;
                counted.unreadable.get_or_insert((folder, error));
            }
        }
    }
    counted.is_whole = true;
    counted
}

/// Looks whether the kernel lets so many folders be watched.
pub(super) fn kernel(folders: u64) -> Vec<Finding> {
    let (hints, _kept) = tree::hints(1);
    if let Err(error) = Watch::new(Path::new("/"), hints, Budget::given(0)) {
        return vec![
            Finding::warn(format!(
                "no watcher can be started: {error}; until there are more, folders are polled"
            ))
            .mended_by("sudo sysctl fs.inotify.max_user_instances=1024"),
        ];
    }
    let text = std::fs::read_to_string(MAX_WATCHES).ok();
    let limit = text.and_then(|text| text.trim().parse().ok());
    vec![watches(folders, limit)]
}

/// Judges the limit of watches, which a sandbox may hide.
fn watches(folders: u64, limit: Option<u64>) -> Finding {
    let Some(limit) = limit else {
        return Finding::ok(format!(
            "folders to watch: {folders}; how many may be (fs.inotify.max_user_watches) is hidden here"
        ));
    };
    // A fifth is left to other programs.
    if folders < limit - limit / 5 {
        return Finding::ok(format!(
            "folders to watch: {folders}, {limit} may be (fs.inotify.max_user_watches)"
        ));
    }
    // Twice what is there now: folders are added, and other programs watch too.
    let enough = folders.saturating_mul(2).next_power_of_two();
    Finding::warn(format!(
        "folders to watch: {folders}, and only {limit} may be; until there are more, the others are polled"
    ))
    .mended_by(format!(
        "sudo sysctl fs.inotify.max_user_watches={enough}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::check::Grade;

    #[test]
    fn watches_are_enough_or_the_command_that_raises_them_is_named() {
        assert_eq!(watches(10, Some(8192)).grade, Grade::Ok);
        assert_eq!(watches(10, None).grade, Grade::Ok);
        let few = watches(10_000, Some(8192));
        assert_eq!(few.grade, Grade::Warn);
        let mend = few.mend.expect("a command");
        assert_eq!(mend, "sudo sysctl fs.inotify.max_user_watches=32768");
    }

    #[test]
    fn a_state_folder_is_looked_at_and_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let state_dir = dir.path().join("a/b");
        let found = state(&state_dir);
        assert!(
            found
                .iter()
                .all(|one| one.grade != Grade::Fail(crate::commands::Exit::Usage))
        );
        assert!(found[0].text.ends_with("can be made"));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let file = tempfile::NamedTempFile::new().unwrap();
        let found = state(&file.path().join("state"));
        assert_eq!(found[0].grade, Grade::Fail(crate::commands::Exit::Usage));
    }
}
