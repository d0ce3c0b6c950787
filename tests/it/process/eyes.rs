//! `watch` where not everything can be watched: limits, permissions, mounts.
//!
//! Limits are those of a user namespace of the test's own, mounts those of a mount namespace of its own: nothing of the
//! machine is changed. Where such a thing cannot be had the test says so and is over.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::process::{Command as Blocking, Stdio};

use rustix::process::{Signal, geteuid};
use tidewatch::report::status_file::{self, FolderStatus};
use tokio::process::{Child, Command};

use crate::process::{World, end_of, eventually, send};

/// The user `nobody`.
const NOBODY: u32 = 65_534;

/// How many watches the namespace has: four fifths of it are ours.
const WATCHES: usize = 50;

/// The program below other programs that prepare its place and become it.
struct Placed {
    world: World,
    child: Child,
}

impl Placed {
    /// Starts `watch` below `wrapper`, whose words are followed by the program and its arguments.
    fn begin(world: World, wrapper: &[&str]) -> Self {
        let watch = world.command("watch", &["--settle", "100ms"]);
        let watch = watch.as_std();
        let mut command = Command::new(wrapper[0]);
        command
            .args(&wrapper[1..])
            .arg(watch.get_program())
            .args(watch.get_args())
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", world.dir.path())
            .env("TREE", world.dir.path().join("tree"))
            .envs(world.endpoint.env())
            .current_dir(world.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let child = command.spawn().unwrap();
        Self { world, child }
    }

    /// Starts `watch` and waits until the folder is level.
    async fn start(world: World, wrapper: &[&str]) -> Self {
        let placed = Self::begin(world, wrapper);
        placed.until("level", |status| status.level).await;
        placed
    }

    fn status(&self) -> FolderStatus {
        let status = status_file::read(&self.world.state()).ok().flatten();
        let first = status.and_then(|status| status.folders.into_iter().next());
        first.expect("it has said something of itself")
    }

    async fn until(&self, what: &str, holds: impl Fn(&FolderStatus) -> bool) {
        eventually(what, || {
            let status = status_file::read(&self.world.state()).ok().flatten();
            let first = status.and_then(|status| status.folders.into_iter().next());
            first.is_some_and(|first| holds(&first))
        })
        .await;
    }

    async fn eventually(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        eventually(what, || holds(self)).await;
    }

    async fn until_there(&self, paths: impl IntoIterator<Item = String>) {
        for path in paths {
            self.eventually(&path, |placed| placed.world.object(&path).is_some())
                .await;
        }
    }

    /// Runs a line of shell where the program is; `$TREE` is its folder.
    fn shell(&self, namespaces: &[&str], line: &str) {
        let pid = self.child.id().unwrap().to_string();
        let done = Blocking::new("nsenter")
            .args(["-t", &pid])
            .args(namespaces)
            .args(["sh", "-ec", line])
            .env("TREE", self.world.dir.path().join("tree"))
            .status();
        assert!(done.unwrap().success(), "{line}");
    }

    fn mount(&self, line: &str) {
        self.shell(&["-m"], line);
    }

    /// Stops it; returns what it logged.
    async fn stop(self) -> String {
        send(&self.child, Signal::TERM);
        let ended = end_of(self.child).await;
        assert_eq!(ended.code, Some(0), "{}", ended.err);
        ended.err
    }
}

/// Returns whether a command line works here; says so if it does not.
#[expect(clippy::print_stderr, reason = "why nothing was tested")]
fn can(line: &[&str]) -> bool {
    let done = Blocking::new(line[0]).args(&line[1..]).output();
    let can = done.is_ok_and(|output| output.status.success());
    if !can {
        eprintln!("skipped: `{}` does not work here", line.join(" "));
    }
    can
}

fn limits(line: &str) -> Option<Vec<String>> {
    let line = format!("{line} && exec \"$@\"");
    can(&["unshare", "-Ur", "sh", "-c", &line, "sh", "true"]).then(|| {
        let words = ["unshare", "-Ur", "sh", "-c", &line, "sh"];
        words.map(str::to_owned).to_vec()
    })
}

async fn limited(world: World, line: &str) -> Option<Placed> {
    let wrapper = limits(line)?;
    let wrapper: Vec<&str> = wrapper.iter().map(String::as_str).collect();
    Some(Placed::start(world, &wrapper).await)
}

const MOUNTS: &[&str] = &["unshare", "-m", "--propagation", "private", "sh", "-ec"];

/// Starts `watch` in a mount namespace in which `line` was run before.
async fn with_mounts(world: World, line: &str) -> Option<Placed> {
    if !can(&[MOUNTS, &["mount -t tmpfs tide /mnt", "sh"]].concat()) {
        return None;
    }
    let line = format!("{line}\nexec \"$@\"");
    Some(Placed::start(world, &[MOUNTS, &[&line, "sh"]].concat()).await)
}

/// Gives everything of a world to `nobody`, if this is root; returns what makes the program nobody's.
fn unprivileged(world: &World) -> Option<&'static [&'static str]> {
    const SETPRIV: &[&str] = &[
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
    ];
    if !geteuid().is_root() {
        return Some(&["env"]);
    }
    let program = env!("CARGO_BIN_EXE_tidewatch");
    if !can(&[SETPRIV, &[program, "--version"]].concat()) {
        return None;
    }
    give(world.dir.path());
    Some(SETPRIV)
}

fn give(path: &Path) {
    chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    if path.is_dir() && !path.is_symlink() {
        for entry in fs::read_dir(path).unwrap() {
            give(&entry.unwrap().path());
        }
    }
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[tokio::test]
async fn folders_beyond_the_limit_are_polled_and_nothing_is_missed() {
    const FOLDERS: usize = 200;
    let world = World::new().await;
    for number in 0..FOLDERS {
        world.write(format!("{number}/before"), b"before");
    }
    let line = format!("echo {WATCHES} > /proc/sys/user/max_inotify_watches");
    let Some(placed) = limited(world, &line).await else {
        return;
    };
    assert_eq!(
        placed.status().watch,
        "native; 161 of 201 folders are polled: raise user.max_inotify_watches to 402"
    );
    for number in 0..FOLDERS {
        placed.world.write(format!("{number}/new"), b"new");
    }
    // A folder in a polled one is found as well, with what is in it.
    placed
        .world
        .write(format!("{}/x/y/new", FOLDERS - 1), b"new");
    placed
        .until_there((0..FOLDERS).map(|number| format!("{number}/new")))
        .await;
    placed
        .until_there([format!("{}/x/y/new", FOLDERS - 1)])
        .await;
    placed.until("level", |status| status.level).await;
    assert_eq!(placed.status().missed, 0);
    placed.stop().await;
}

#[tokio::test]
async fn a_limit_that_is_raised_is_used_without_a_restart() {
    let world = World::new().await;
    let line = format!("echo {WATCHES} > /proc/sys/user/max_inotify_watches");
    let Some(placed) = limited(world, &line).await else {
        return;
    };
    assert_eq!(placed.status().watch, "native");
    for number in 0..60 {
        placed.world.write(format!("{number}/file"), b"new");
    }
    placed
        .until("polled", |status| status.watch.contains("are polled"))
        .await;
    placed
        .until_there((0..60).map(|number| format!("{number}/file")))
        .await;
    // Into its user namespace, and that alone.
    placed.shell(
        &["-U", "--preserve-credentials"],
        "echo 500 > /proc/sys/user/max_inotify_watches",
    );
    placed
        .until("watched", |status| status.watch == "native")
        .await;
    for number in 0..60 {
        placed.world.write(format!("{number}/later"), b"later");
    }
    placed
        .until_there((0..60).map(|number| format!("{number}/later")))
        .await;
    let log = placed.stop().await;
    assert!(log.contains("every folder is watched again"), "{log}");
}

#[tokio::test]
async fn without_an_instance_the_folder_is_polled_and_it_is_said() {
    let world = World::new().await;
    world.write("a/before", b"before");
    let line = "echo 0 > /proc/sys/user/max_inotify_instances";
    let Some(placed) = limited(world, line).await else {
        return;
    };
    let watch = placed.status().watch;
    assert!(
        watch.starts_with("polling: ") && watch.contains("fs.inotify.max_user_instances"),
        "{watch}"
    );
    placed.world.write("a/new", b"new");
    placed.world.write("b/c/new", b"new");
    placed
        .until_there(["a/new", "b/c/new"].map(str::to_owned))
        .await;
    // One is free again.
    placed.shell(
        &["-U", "--preserve-credentials"],
        "echo 8 > /proc/sys/user/max_inotify_instances",
    );
    placed
        .until("watched", |status| status.watch == "native")
        .await;
    let log = placed.stop().await;
    assert!(log.contains("the folder is polled instead"), "{log}");
}

#[tokio::test]
async fn an_unreadable_folder_is_said_once_and_seen_when_it_opens() {
    let world = World::new().await;
    world.write("closed/below/old", b"old");
    world.write("open/old", b"old");
    world.sync_level().await;
    let Some(wrapper) = unprivileged(&world) else {
        return;
    };
    let closed = world.tree("closed");
    world.write("closed/new", b"new");
    chmod(&closed, 0);
    let placed = Placed::begin(world, wrapper);
    placed
        .until("it is found", |status| status.failed == 1)
        .await;
    let status = placed.status();
    assert_eq!(status.watch, "native; unreadable: 1");
    assert!(!status.level && status.failed == 1, "{status:?}");
    // The rest is watched, and hints at the closed one's neighbours do not say it again.
    placed.world.write("open/new", b"new");
    placed.world.write("open2/new", b"new");
    placed
        .until_there(["open/new", "open2/new"].map(str::to_owned))
        .await;
    assert_eq!(placed.world.object("closed/below/old").unwrap(), b"old");
    chmod(&closed, 0o755);
    placed.until_there(["closed/new".to_owned()]).await;
    placed.until("level", |status| status.level).await;
    assert_eq!(placed.status().watch, "native");
    // And from now on it is watched like the others.
    placed.world.write("closed/below/later", b"later");
    placed.until_there(["closed/below/later".to_owned()]).await;
    let log = placed.stop().await;
    assert_eq!(log.matches("could not list").count(), 1, "{log}");
}

#[tokio::test]
async fn a_closed_folder_in_a_tree_that_moves_in_hides_only_itself() {
    let world = World::new().await;
    world.write("first", b"first");
    let Some(wrapper) = unprivileged(&world) else {
        return;
    };
    let placed = Placed::start(world, wrapper).await;
    let aside = placed.world.dir.path().join("aside");
    for number in 0..40 {
        fs::create_dir_all(aside.join(format!("{number}/a"))).unwrap();
    }
    fs::create_dir_all(aside.join("20/closed/deep")).unwrap();
    if geteuid().is_root() {
        give(&aside);
    }
    chmod(&aside.join("20/closed"), 0);
    fs::rename(&aside, placed.world.tree("in")).unwrap();
    placed
        .until("it is found", |status| status.failed == 1)
        .await;
    let folders = (0..40).flat_map(|n| [format!("in/{n}"), format!("in/{n}/a")]);
    let probes: Vec<String> = folders.map(|folder| format!("{folder}/probe")).collect();
    for probe in &probes {
        placed.world.write(probe, b"probe");
    }
    placed.until_there(probes).await;
    chmod(&placed.world.tree("in/20/closed"), 0o755);
    placed.until("level", |status| status.level).await;
    placed.stop().await;
}

#[tokio::test]
async fn a_mount_that_vanishes_takes_nothing_along() {
    let world = World::new().await;
    world.write("here", b"here");
    fs::create_dir(world.tree("disk")).unwrap();
    let line = "mount -t tmpfs tide $TREE/disk; mkdir $TREE/disk/a; echo old > $TREE/disk/a/old";
    let Some(placed) = with_mounts(world, line).await else {
        return;
    };
    assert_eq!(placed.world.object("disk/a/old").unwrap(), b"old\n");
    placed.mount("umount $TREE/disk");
    placed
        .until("away", |status| {
            status.watch == "native; `disk` is not mounted; unreadable: 1"
        })
        .await;
    // What is written into the empty place is not the tree's.
    placed.mount("mkdir $TREE/disk/a; echo wrong > $TREE/disk/a/old; echo new > $TREE/new");
    placed.until_there(["new".to_owned()]).await;
    assert_eq!(placed.world.object("disk/a/old").unwrap(), b"old\n");
    // Mounted again, it is looked at, armed and watched.
    placed.mount("mount -t tmpfs tide $TREE/disk; mkdir $TREE/disk/b; echo 1 > $TREE/disk/b/one");
    placed.until_there(["disk/b/one".to_owned()]).await;
    placed
        .until("watched", |status| status.watch == "native")
        .await;
    placed.mount("echo 2 > $TREE/disk/b/two");
    placed.until_there(["disk/b/two".to_owned()]).await;
    assert!(placed.world.object("disk/a/old").is_some());
    placed.stop().await;
}

#[tokio::test]
async fn a_mount_over_a_watched_folder_is_seen_and_gives_it_back() {
    let world = World::new().await;
    world.write("sub/deep/hidden", b"hidden");
    let Some(placed) = with_mounts(world, "true").await else {
        return;
    };
    placed.mount("mount -t tmpfs tide $TREE/sub; echo over > $TREE/sub/over");
    placed.until_there(["sub/over".to_owned()]).await;
    placed.mount("mkdir -p $TREE/sub/deep; echo later > $TREE/sub/deep/later");
    placed.until_there(["sub/deep/later".to_owned()]).await;
    placed.mount("umount $TREE/sub");
    placed.until("level", |status| status.level).await;
    assert_eq!(placed.world.object("sub/deep/hidden").unwrap(), b"hidden");
    placed.mount("echo probe > $TREE/sub/deep/probe; echo probe > $TREE/sub/probe");
    let probes = ["sub/deep/probe", "sub/probe"].map(str::to_owned);
    placed.until_there(probes).await;
    placed.stop().await;
}

#[tokio::test]
async fn both_names_of_a_folder_are_level_whichever_was_written() {
    let world = World::new().await;
    world.write("one/x/file", b"first");
    fs::create_dir(world.tree("two")).unwrap();
    let Some(placed) = with_mounts(world, "mount --bind $TREE/one $TREE/two").await else {
        return;
    };
    for (name, content) in [("one", "second\n"), ("two", "third\n")] {
        let text = content.trim_end();
        placed.mount(&format!("echo {text} > $TREE/{name}/x/file"));
        placed
            .eventually("both", |placed| {
                ["one/x/file", "two/x/file"]
                    .iter()
                    .all(|path| placed.world.object(path).as_deref() == Some(content.as_bytes()))
            })
            .await;
        placed.mount(&format!(
            "mkdir $TREE/{name}/by-{name}; echo 1 > $TREE/{name}/by-{name}/f"
        ));
        let both = ["one", "two"].map(|at| format!("{at}/by-{name}/f"));
        placed.until_there(both).await;
    }
    // When one name goes, the other one stays watched.
    placed.mount("umount $TREE/two");
    placed
        .until("one name less", |status| {
            status.watch.contains("`two` is not mounted")
        })
        .await;
    placed.mount("echo fourth > $TREE/one/x/file; echo 1 > $TREE/one/probe");
    placed.until_there(["one/probe".to_owned()]).await;
    placed
        .eventually("the other name", |placed| {
            placed.world.object("one/x/file").as_deref() == Some(b"fourth\n")
        })
        .await;
    placed.stop().await;
}

#[tokio::test]
async fn a_root_mounted_inside_itself_ends() {
    let world = World::new().await;
    world.write("a/file", b"content");
    fs::create_dir(world.tree("loop")).unwrap();
    let Some(placed) = with_mounts(world, "mount --bind $TREE $TREE/loop").await else {
        return;
    };
    placed.mount("echo new > $TREE/a/new");
    placed.until_there(["a/new".to_owned()]).await;
    assert!(
        placed
            .world
            .objects()
            .keys()
            .all(|key| !key.starts_with("loop/"))
    );
    placed.stop().await;
}

#[tokio::test]
async fn a_root_that_is_mounted_again_is_watched_again() {
    let world = World::new().await;
    let line = "truncate -s 16M disk.img; mkfs.ext4 -q -F disk.img; mount -o loop disk.img $TREE; \
        rmdir $TREE/lost+found; mkdir $TREE/a; echo old > $TREE/a/old";
    if !can(&[
        "sh",
        "-ec",
        "command -v mkfs.ext4 && test -e /dev/loop-control",
    ]) {
        return;
    }
    let Some(placed) = with_mounts(world, line).await else {
        return;
    };
    placed.mount("umount -l $TREE");
    placed.mount("mount -o loop $TREE/../disk.img $TREE; echo while > $TREE/a/away");
    placed.until_there(["a/away".to_owned()]).await;
    placed.mount("echo new > $TREE/a/new; mkdir $TREE/b; echo new > $TREE/b/new");
    placed
        .until_there(["a/new", "b/new"].map(str::to_owned))
        .await;
    assert_eq!(placed.world.object("a/old").unwrap(), b"old\n");
    placed.mount("cd /; umount -l $TREE");
    placed.stop().await;
}
