//! What the service manager is told, where there is one: `sd_notify(3)`.
//!
//! Never an error, and never a long wait: without a manager nothing is sent, and one that does not listen is no reason to
//! stop syncing. (The usual crate for it blocks for as long as the manager's queue is full.)

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use crate::base::clock::monotonic_usec;
use crate::base::snapshot::FolderSnapshot;
use crate::base::units::show_bytes;

/// How long a manager that is busy may keep us waiting with what it has to know.
const PATIENCE: Duration = Duration::from_secs(1);

/// Tells that every folder is being looked after, or that a reload is over. Returns false if the manager was too busy to
/// hear it.
pub fn ready() -> bool {
    is_heard(tell("READY=1\n", PATIENCE))
}

/// Tells that the config is being read again; [`ready`] ends that.
pub fn reloading() {
    let stamp = monotonic_usec();
    let message = format!("RELOADING=1\nMONOTONIC_USEC={stamp}\n");
    is_heard(tell(&message, PATIENCE));
}

/// Tells that the process is on its way out.
pub fn stopping() {
    is_heard(tell("STOPPING=1\n", PATIENCE));
}

/// Asks to be given at least `by` more time for the end.
pub fn extend(by: Duration) {
    let message = format!("EXTEND_TIMEOUT_USEC={}\n", by.as_micros());
    is_heard(tell(&message, PATIENCE));
}

/// Feeds the watchdog.
pub fn feed() {
    is_heard(tell("WATCHDOG=1\n", PATIENCE));
}

/// Returns within which time the manager wants the watchdog of this process fed; `None` if it has none.
pub fn watchdog() -> Option<Duration> {
    let said = |name| std::env::var(name).ok();
    let pid = said("WATCHDOG_PID");
    watchdog_of(
        said("WATCHDOG_USEC").as_deref(),
        pid.as_deref(),
        std::process::id(),
    )
}

/// `pid`: whom it is meant for, if that is said.
fn watchdog_of(usec: Option<&str>, pid: Option<&str>, own: u32) -> Option<Duration> {
    let is_ours = pid.is_none_or(|pid| pid.parse() == Ok(own));
    let usec = usec?.parse().ok().filter(|usec| *usec > 0 && is_ours)?;
    Some(Duration::from_micros(usec))
}

/// Tells how it goes, in one line, and `notes` behind; a busy manager is told the next time.
pub fn status(snapshots: &[FolderSnapshot], notes: &[&str]) {
    let mut line = line(snapshots);
    for note in notes {
        line.push_str("; ");
        // A line break would end the assignment.
        line.extend(note.chars().map(|c| if c.is_control() { ' ' } else { c }));
    }
    is_heard(tell(&format!("STATUS={line}\n"), Duration::ZERO));
}

/// Returns false if the message would be worth repeating.
fn is_heard(told: io::Result<()>) -> bool {
    match told {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
        Err(error) => {
            tracing::debug!(%error, "the service manager could not be told");
            true
        }
    }
}

/// Sends a message to `$NOTIFY_SOCKET`, if there is one, within `patience`.
fn tell(message: &str, patience: Duration) -> io::Result<()> {
    match std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) {
        Some(socket) => send(&socket, message, patience),
        None => Ok(()),
    }
}

fn send(socket: &OsStr, message: &str, patience: Duration) -> io::Result<()> {
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    let from = UnixDatagram::unbound()?;
    if patience.is_zero() {
        from.set_nonblocking(true)?;
    } else {
        from.set_write_timeout(Some(patience))?;
    }
    from.send_to_addr(message.as_bytes(), &address).map(|_| ())
}

/// Says in one line how all folders are.
pub fn line(snapshots: &[FolderSnapshot]) -> String {
    let sum = |of: fn(&FolderSnapshot) -> u64| snapshots.iter().map(of).sum::<u64>();
    let paused = sum(|snapshot| u64::from(snapshot.paused_ns.is_some()));
    if !snapshots.is_empty() && snapshots.iter().all(|snapshot| snapshot.level) {
        return match paused {
            0 => "level".to_owned(),
            paused => format!("level, {paused} paused"),
        };
    }
    let lag = snapshots.iter().map(|snapshot| snapshot.lag_seconds).max();
    let mut line = format!(
        "{} files queued ({}), lag {}s",
        sum(|snapshot| snapshot.queued_files),
        show_bytes(sum(|snapshot| snapshot.queued_bytes)),
        lag.unwrap_or(0),
    );
    for (count, what) in [
        (paused, "paused"),
        (sum(|snapshot| snapshot.failed), "failed"),
        (sum(|snapshot| snapshot.unsyncable), "cannot be synced"),
        (
            sum(|snapshot| u64::from(snapshot.outage.is_some())),
            "without their bucket",
        ),
        (
            sum(|snapshot| u64::from(snapshot.away.is_some())),
            "folders away",
        ),
    ] {
        if count > 0 {
            // Writing to a String cannot fail.
            let _ = write!(line, ", {count} {what}");
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_that_does_not_listen_does_not_hold_us_up() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("notify");
        let ear = UnixDatagram::bind(&path).expect("a socket");
        let full = (0..100_000)
            .find_map(|_| send(path.as_os_str(), "STATUS=x\n", Duration::ZERO).err())
            .expect("a full queue");
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        let short = Duration::from_millis(1);
        assert!(!is_heard(send(path.as_os_str(), "READY=1\n", short)));
        let mut said = [0; 64];
        let len = ear.recv(&mut said).expect("what was sent first");
        assert_eq!(&said[..len], b"STATUS=x\n");
        assert!(is_heard(send(path.as_os_str(), "READY=1\n", short)));
    }

    #[test]
    fn a_watchdog_is_only_fed_by_the_process_that_it_is_meant_for() {
        let second = Some(Duration::from_secs(1));
        for (usec, pid, expected) in [
            (Some("1000000"), Some("7"), second),
            (Some("1000000"), None, second),
            (Some("1000000"), Some("8"), None),
            (Some("1000000"), Some("x"), None),
            (Some("0"), Some("7"), None),
            (None, Some("7"), None),
        ] {
            assert_eq!(watchdog_of(usec, pid, 7), expected, "{usec:?} {pid:?}");
        }
    }

    #[test]
    fn the_line_says_what_is_not_level() {
        let level = FolderSnapshot {
            level: true,
            ..FolderSnapshot::default()
        };
        assert_eq!(line(std::slice::from_ref(&level)), "level");
        let paused = FolderSnapshot {
            paused_ns: Some(1),
            ..level.clone()
        };
        assert_eq!(line(&[level.clone(), paused]), "level, 1 paused");
        let behind = FolderSnapshot {
            queued_files: 3,
            queued_bytes: 1 << 20,
            lag_seconds: 7,
            failed: 1,
            outage: Some((1, "gone".to_owned())),
            paused_ns: Some(1),
            ..FolderSnapshot::default()
        };
        assert_eq!(
            line(&[level, behind]),
            "3 files queued (1.0 MiB), lag 7s, 1 paused, 1 failed, 1 without their bucket"
        );
    }
}
