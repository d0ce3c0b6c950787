//! Running a test where its row needs it: in a mount namespace of its own, as another user, with fewer watches.
//!
//! The test runs itself once more in that place. What it needs and the machine has not is written down, not guessed.
//! Never writes a setting of the machine: the limits that are set belong to the new namespace.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::watching::table::Row;

/// Names the test that is to do its work in here.
const INSIDE: &str = "TIDEWATCH_WATCHING_INSIDE";
/// The user namespace that was left.
const LEFT: &str = "TIDEWATCH_WATCHING_LEFT";

/// What a row needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Root, and mounts that nobody else sees.
    Mounts,
    /// A user who is not root.
    Nobody,
    /// A user namespace, whose limits are its own.
    Limits,
    /// Root without the right to take leases on files of others.
    NoLease,
}

impl Place {
    fn command(self) -> Command {
        let mut command;
        match self {
            Self::Mounts => {
                command = Command::new("unshare");
                command.args(["--mount", "--propagation", "private", "--"]);
            }
            Self::Nobody => {
                command = Command::new("setpriv");
                command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]);
            }
            Self::NoLease => {
                command = Command::new("setpriv");
                command.args(["--bounding-set", "-lease", "--"]);
            }
            Self::Limits => {
                command = Command::new("unshare");
                command.args(["--user", "--map-root-user", "--"]);
            }
        }
        command
    }

    fn why_not(self) -> Option<String> {
        let is_root = rustix::process::geteuid().is_root();
        if !is_root && self != Self::Limits {
            return Some("needs root".to_owned());
        }
        let tried = self.command().arg("true").stderr(Stdio::piped()).output();
        match tried {
            Ok(output) if output.status.success() => None,
            Ok(output) => Some(format!(
                "needs {self:?}: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            )),
            Err(error) => Some(format!("needs {self:?}: {error}")),
        }
    }
}

impl Row {
    /// Returns true if the test is where it needs to be. Elsewhere runs it there, and returns false.
    pub fn inside(&mut self, place: Place) -> bool {
        if std::env::var(INSIDE).is_ok_and(|name| name == self.test) {
            return true;
        }
        if let Some(why) = place.why_not() {
            self.could_not(&why);
            return false;
        }
        let output = place
            .command()
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", self.test, "--nocapture", "--test-threads=1"])
            .env(INSIDE, self.test)
            .env(LEFT, user_namespace())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = |bytes| String::from_utf8_lossy(bytes).into_owned();
        let (out, err) = (said(&output.stdout), said(&output.stderr));
        assert!(output.status.success(), "{out}\n{err}");
        assert!(out.contains("1 passed"), "it did not run inside:\n{out}");
        for line in err.lines().chain(out.lines()) {
            if let Some((_, why)) = line.split_once("COULD NOT: ") {
                self.could_not(why);
            }
            if let Some((_, what)) = line.split_once("BUT NOT: ") {
                self.but_not(what);
            }
        }
        false
    }
}

/// Returns true in the run that does the work of a row that needs a place of its own.
pub fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

fn user_namespace() -> String {
    let link = std::fs::read_link("/proc/self/ns/user").unwrap();
    link.to_str().unwrap().to_owned()
}

/// Sets one of the limits `/proc/sys/user/NAME` of the user namespace that the test was put into.
pub fn limit(name: &str, count: u64) {
    let left = std::env::var(LEFT).expect("only inside");
    assert_ne!(
        left,
        user_namespace(),
        "the machine's own limits are not ours to set"
    );
    std::fs::write(format!("/proc/sys/user/{name}"), count.to_string()).unwrap();
}

/// Runs a program that has to succeed.
pub fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(
        output.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Returns true if a program is there.
pub fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Something mounted, which ends with this.
pub struct Mounted(String);

impl Mounted {
    /// Mounts with the arguments of `mount(8)`, the last of which says where.
    pub fn new(args: &[&str]) -> Self {
        run("mount", args);
        Self((*args.last().expect("a place")).to_owned())
    }

    /// Takes over what is mounted there.
    pub fn at(place: &Path) -> Self {
        Self(text(place).to_owned())
    }

    /// Makes an ext4 image of the size and mounts it. Stamps of 128-byte inodes are whole seconds.
    pub fn image(file: &Path, at: &Path, inode_bytes: u32) -> Self {
        let image = std::fs::File::create(file).unwrap();
        image.set_len(64 << 20).unwrap();
        let inodes = inode_bytes.to_string();
        run("mkfs.ext4", &["-q", "-I", &inodes, text(file)]);
        Self::new(&["-o", "loop", text(file), text(at)])
    }

    /// Makes a btrfs image and mounts it.
    pub fn btrfs(file: &Path, at: &Path) -> Self {
        let image = std::fs::File::create(file).unwrap();
        image.set_len(256 << 20).unwrap();
        run("mkfs.btrfs", &["-q", text(file)]);
        Self::new(&["-o", "loop", text(file), text(at)])
    }

    /// Takes the mount away, from under whoever still has something open there.
    pub fn lazily(self) {
        drop(self);
    }

    /// Tries to take the mount away as a person would.
    pub fn unmount(self) -> Result<(), Self> {
        let done = Command::new("umount").arg(&self.0).output().unwrap();
        if done.status.success() {
            std::mem::forget(self);
            Ok(())
        } else {
            Err(self)
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-l", &self.0]).output();
    }
}

/// Returns a path of our own making as text.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("made of letters")
}
