//! The thread that hears of mounts: it sleeps until the kernel says that `/proc/self/mountinfo` has changed.
//!
//! Where that file cannot be read, it looks every 5 seconds whether the root is still the same folder. Ends, and is waited
//! for, when the handle is dropped.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use rustix::io::Errno;
use tracing::warn;

use crate::tree::real::eyes::Eyes;
use crate::tree::real::listing::stat_of;
use crate::tree::real::mounts::{Mount, parse};

const MOUNTINFO: &str = "/proc/self/mountinfo";

/// How often the root is looked at where mounts are hidden.
const LOOK: Timespec = Timespec {
    tv_sec: 5,
    tv_nsec: 0,
};

/// The thread's handle.
pub(in crate::tree::real) struct MountWatch {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

/// Returns what is mounted now.
pub(in crate::tree::real) fn mounted() -> io::Result<Vec<Mount>> {
    std::fs::read(MOUNTINFO).map(|text| parse(&text))
}

impl MountWatch {
    pub fn start(eyes: Arc<Eyes>, root: &Path) -> io::Result<Self> {
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (told, root) = (stop.clone(), root.to_path_buf());
        let thread = std::thread::Builder::new().name("mounts".to_owned());
        let thread = thread.spawn(move || {
            let ended = match File::open(MOUNTINFO) {
                Ok(file) => hear(&file, &told, &eyes),
                Err(_) => look(&root, &told, &eyes),
            };
            if let Err(error) = ended {
                warn!(%error, "mounts cannot be followed any more; scans still check the root");
            }
        })?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for MountWatch {
    fn drop(&mut self) {
        let told = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
        // A thread that cannot be told to end must not be waited for.
        if let Some(thread) = self.thread.take().filter(|_| told.is_ok()) {
            let _ = thread.join();
        }
    }
}

fn hear(mut mountinfo: &File, stop: &OwnedFd, eyes: &Eyes) -> io::Result<()> {
    loop {
        // Also at first: something may have changed since the tree was opened. What changes from now on wakes us, because
        // the file remembers what it was when it was polled last.
        let mut text = Vec::new();
        mountinfo.rewind()?;
        mountinfo.read_to_end(&mut text)?;
        eyes.mounted(&parse(&text));
        let mut waiting = [
            PollFd::new(mountinfo, PollFlags::PRI | PollFlags::ERR),
            PollFd::new(stop, PollFlags::IN),
        ];
        wait(&mut waiting, None)?;
        if !waiting[1].revents().is_empty() {
            return Ok(());
        }
    }
}

fn look(root: &Path, stop: &OwnedFd, eyes: &Eyes) -> io::Result<()> {
    let now = || {
        let stat = statx(
            CWD,
            root,
            AtFlags::SYMLINK_NOFOLLOW,
            StatxFlags::BASIC_STATS,
        );
        stat.ok()
            .map(|stat| stat_of(&stat))
            .map(|stat| (stat.dev, stat.ino))
    };
    let mut was = now();
    loop {
        let mut waiting = [PollFd::new(stop, PollFlags::IN)];
        wait(&mut waiting, Some(&LOOK))?;
        if !waiting[0].revents().is_empty() {
            return Ok(());
        }
        let is = now();
        if is != was {
            was = is;
            eyes.root_moved();
        }
    }
}

fn wait(waiting: &mut [PollFd<'_>], timeout: Option<&Timespec>) -> io::Result<()> {
    loop {
        match poll(waiting, timeout) {
            Err(Errno::INTR) => {}
            other => return other.map(drop).map_err(io::Error::from),
        }
    }
}
