//! Where an agent is reached, and who may do what there.
//!
//! Its own socket lies in the state folder (mode 0700). Under a service manager that gave it a runtime directory
//! (`$RUNTIME_DIRECTORY`), another one lies there for the service's group, mode 0660: the kernel lets nobody in who is not
//! the owner, the superuser or a member of the group. Who asks is known by the credentials of the connection
//! (`SO_PEERCRED`), which nobody can forge: the owner and the superuser may do everything; whoever else the kernel let in
//! through the group's socket may only read; nobody else may do anything.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

/// The socket's name, in the state folder and in the runtime directory.
const NAME: &str = "agent.sock";
/// The runtime directory of the service, as its unit names it: where its group finds it.
const SERVICE: &str = "/run/tidewatch";
/// Owner and group may connect.
const MODE: u32 = 0o660;

/// Which socket somebody came through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Door {
    /// The one in the state folder.
    Own,
    /// The group's.
    Group,
}

/// What somebody may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Right {
    /// Everything.
    All,
    /// Ask how it is.
    Read,
    /// Nothing.
    None,
}

impl Door {
    /// Judges who came through it, by user.
    pub fn right(self, peer: u32, own: u32) -> Right {
        match self {
            _ if peer == own || peer == 0 => Right::All,
            Self::Group => Right::Read,
            Self::Own => Right::None,
        }
    }
}

/// Makes a socket's path short enough for the kernel (108 bytes), however long its folder's is.
fn address(dir: &File, name: &OsStr) -> PathBuf {
    Path::new(&format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name)
}

/// Opens the socket in the state folder, whose lock is ours: whoever left one there is gone.
pub(super) fn bind_own(state_dir: &Path) -> io::Result<UnixListener> {
    let dir = File::open(state_dir)?;
    match fs::remove_file(state_dir.join(NAME)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    UnixListener::bind(address(&dir, NAME.as_ref()))
}

/// Opens the group's socket in a runtime directory: it has its mode before it has its name.
pub(super) fn bind_group(runtime_dir: &Path) -> io::Result<UnixListener> {
    let dir = File::open(runtime_dir)?;
    let temporary = format!("{NAME}.{:016x}", fastrand::u64(..));
    let place = runtime_dir.join(&temporary);
    let listener = UnixListener::bind(address(&dir, temporary.as_ref()))?;
    let named = fs::set_permissions(&place, Permissions::from_mode(MODE)).and_then(|()| {
        // Nothing durable: the directory goes with the service.
        rustix::fs::renameat(&dir, &temporary, &dir, NAME).map_err(io::Error::from)
    });
    if named.is_err() {
        let _ = fs::remove_file(&place);
    }
    named.map(|()| listener)
}

/// Returns the runtime directory that the service manager gave us; of several the first.
pub(super) fn runtime_dir() -> Option<PathBuf> {
    let given = std::env::var_os("RUNTIME_DIRECTORY")?;
    let first = given
        .as_encoded_bytes()
        .split(|byte| *byte == b':')
        .next()?;
    let first = Path::new(OsStr::from_bytes(first));
    first.is_absolute().then(|| first.to_path_buf())
}

/// Connects to the agent's own socket; `None` if nobody listens, or it may not be reached.
pub(super) fn own(state_dir: &Path) -> Option<UnixStream> {
    connect(state_dir)
}

/// Connects to the agent's own socket, or, where its state folder may not be entered, to the group's.
pub(super) fn reach(state_dir: &Path) -> Option<UnixStream> {
    own(state_dir).or_else(|| {
        let is_barred = fs::read_dir(state_dir)
            .is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied);
        let place = runtime_dir().unwrap_or_else(|| SERVICE.into());
        is_barred.then(|| connect(&place)).flatten()
    })
}

fn connect(dir: &Path) -> Option<UnixStream> {
    let dir = File::open(dir).ok()?;
    UnixStream::connect(address(&dir, NAME.as_ref())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_and_the_superuser_may_do_everything_and_the_group_may_read() {
        for (door, peer, right) in [
            (Door::Own, 1000, Right::All),
            (Door::Own, 0, Right::All),
            (Door::Own, 1001, Right::None),
            (Door::Group, 1000, Right::All),
            (Door::Group, 0, Right::All),
            (Door::Group, 1001, Right::Read),
        ] {
            assert_eq!(door.right(peer, 1000), right, "{door:?} {peer}");
        }
        assert_eq!(Door::Group.right(1001, 0), Right::Read, "an agent of root");
    }

    #[tokio::test]
    async fn the_groups_socket_has_its_mode_and_takes_the_place_of_a_stale_one() {
        let dir = tempfile::tempdir().expect("a folder");
        drop(File::create(dir.path().join(NAME)).expect("a stale file"));
        let _listener = bind_group(dir.path()).expect("a socket");
        let stat = fs::symlink_metadata(dir.path().join(NAME)).expect("it is there");
        assert_eq!(stat.permissions().mode() & 0o7777, MODE);
        assert_eq!(fs::read_dir(dir.path()).expect("a listing").count(), 1);
        assert!(connect(dir.path()).is_some());
    }
}
