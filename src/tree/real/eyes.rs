//! How the changes of a real tree are noticed: watches, what is polled where there are none, and the mounts that decide.
//!
//! Order: a watch is added, then the folder is listed. Where no watch can be had, or none would tell, the folder is polled,
//! and it is said so: nothing is ever neither. What is polled is named to the agent, which keeps the schedule.
//!
//! Errors: none of this can stop the tree from being read. A watcher that cannot be started is tried again at each scan.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use tracing::{info, warn};

use crate::base::path::{RelPath, escaped};
use crate::base::policy::WatchMode;
use crate::base::stat::Stat;
use crate::tree::budget::Budget;
use crate::tree::real::beneath::gone;
use crate::tree::real::listing::stat_of;
use crate::tree::real::mounts::{Changed, Mount, Mounts, Tells};
use crate::tree::report::{WatchReport, Watching};
use crate::tree::scan::Depth;
use crate::tree::watch::{ArmError, Watch};
use crate::tree::{Hint, HintSender};

/// After how many folders that have gone the watcher is replaced: `notify` 8.2 keeps some 140 bytes of each, so 28 MB.
const WORN_OUT: u64 = 200_000;

/// How a tree is watched.
pub(in crate::tree::real) struct Eyes {
    root: PathBuf,
    hints: HintSender,
    mode: WatchMode,
    budget: Arc<Budget>,
    /// Never locked while something is waited for.
    state: Mutex<State>,
    /// The watches are on a mount that has left: the next scan begins with new ones.
    is_stale: AtomicBool,
}

struct State {
    watch: Option<Arc<Watch>>,
    /// Why no watcher could be started.
    refused: Option<String>,
    mounts: Mounts,
    /// What has come to be polled as a whole, and has not been told yet.
    news: Vec<RelPath>,
}

impl Eyes {
    pub fn new(
        root: PathBuf,
        hints: HintSender,
        mode: WatchMode,
        budget: Arc<Budget>,
        mounts: Mounts,
    ) -> Self {
        let eyes = Self {
            root,
            hints,
            mode,
            budget,
            state: Mutex::new(State {
                watch: None,
                refused: None,
                mounts,
                news: Vec::new(),
            }),
            is_stale: AtomicBool::new(false),
        };
        if eyes.wants_watches()
            && let Err(error) = eyes.start_watching()
        {
            eyes.refuse(&error);
        }
        eyes.note_silent_mounts();
        eyes
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn watch(&self) -> Option<Arc<Watch>> {
        self.state().watch.clone()
    }

    fn shown(&self) -> String {
        escaped(self.root.as_os_str().as_encoded_bytes())
    }

    /// Returns whether watches tell anything of the root's filesystem.
    fn wants_watches(&self) -> bool {
        self.tells(&RelPath::root()) != Tells::Few
    }

    /// Returns which changes at `path` are told; `Few` where no watch is wanted.
    fn tells(&self, path: &RelPath) -> Tells {
        match self.mode {
            WatchMode::Native => Tells::All,
            WatchMode::Poll => Tells::Few,
            // Where mountinfo is hidden nothing is known of any filesystem.
            WatchMode::Auto => self
                .state()
                .mounts
                .at(path)
                .map_or(Tells::Some, Mount::tells),
        }
    }

    fn start_watching(&self) -> io::Result<()> {
        let new = Watch::new(&self.root, self.hints.clone(), self.budget.clone())?;
        let mut state = self.state();
        state.refused = None;
        let old = state.watch.replace(Arc::new(new));
        drop(state);
        // Its end waits for its thread.
        drop(old);
        Ok(())
    }

    fn refuse(&self, error: &io::Error) {
        let mut state = self.state();
        let is_news = state.refused.is_none();
        state.refused = Some(error.to_string());
        state.news.push(RelPath::root());
        drop(state);
        if is_news {
            warn!(root = %self.shown(), "the kernel's events cannot be had: {error}; the folder is polled instead");
        }
    }

    /// Replaces the watcher: the old one's watches are on a folder that has left, and go on telling under the root's path.
    pub fn start_over(&self) {
        self.is_stale.store(false, Ordering::SeqCst);
        let old = self.state().watch.take();
        if self.wants_watches() {
            let mut started = self.start_watching();
            if started.is_err() {
                // The old one may have held the last instance.
                drop(old);
                started = self.start_watching();
            }
            if let Err(error) = started {
                self.refuse(&error);
            }
        }
        self.note_silent_mounts();
        self.hints.send(Hint::Lost);
    }

    /// The root is to be looked at: it was found away.
    pub fn hint_root(&self) {
        self.hints.send(Hint::Folder(RelPath::root()));
    }

    /// What is due before each scan; the scan itself then arms what it lists.
    pub fn before_scan(&self) {
        if self.is_stale.load(Ordering::SeqCst) {
            return self.start_over();
        }
        let Some(watch) = self.watch() else {
            if self.state().refused.is_some() && self.start_watching().is_ok() {
                info!(root = %self.shown(), "the kernel's events can be had again");
                self.hints.send(Hint::Lost);
            }
            return;
        };
        let (_, polled, removed) = watch.counts();
        if polled > 0 {
            self.budget.refresh();
        }
        if removed > WORN_OUT {
            drop(watch);
            self.start_over();
        }
    }

    /// Adds the folder's watch; an error means that the path does not name the open folder any more.
    ///
    /// `is_still` says whether another path names that same folder.
    pub fn arm(
        &self,
        watch: &Watch,
        path: &RelPath,
        open: &Stat,
        is_still: impl Fn(&RelPath) -> bool,
    ) -> io::Result<()> {
        if self.tells(path) == Tells::Few {
            return Ok(());
        }
        let inode = (open.dev, open.ino);
        let armed = watch.arm(path, inode, is_still).and_then(|()| {
            // The watch was added by path, which may have come to name something else, or a link to it.
            let named = statx(
                CWD,
                path.under(&self.root),
                AtFlags::SYMLINK_NOFOLLOW,
                StatxFlags::BASIC_STATS,
            );
            let named = named.map_err(|error| match gone(error).kind() {
                io::ErrorKind::NotFound => ArmError::Gone,
                _ => ArmError::Io(error.into()),
            });
            match named.map(|named| stat_of(&named)) {
                Ok(named) if (named.dev, named.ino) == inode => return Ok(()),
                Ok(_) => watch.disarm(path),
                Err(error) => {
                    watch.disarm(path);
                    return Err(error);
                }
            }
            Err(ArmError::Gone)
        });
        match armed {
            Ok(()) => {
                if watch.stop_polling(path) {
                    info!(root = %self.shown(), "every folder is watched again");
                }
            }
            Err(ArmError::Gone) => return Err(io::ErrorKind::NotFound.into()),
            Err(error) => {
                if watch.poll(path) {
                    warn!(root = %self.shown(), folder = %path, %error,
                        "a folder cannot be watched and is polled instead, and others may follow");
                }
            }
        }
        Ok(())
    }

    /// Returns whether changes in the folder at `path` are noticed without its being entered now.
    pub fn is_looked_after(&self, watch: &Watch, path: &RelPath, stat: &Stat) -> bool {
        watch.is_looked_after(path, (stat.dev, stat.ino)) || self.tells(path) == Tells::Few
    }

    // -- what is polled --

    /// Notes what has to be polled as a whole because its filesystem does not tell everything.
    fn note_silent_mounts(&self) {
        if self.tells(&RelPath::root()) != Tells::All {
            self.state().news.push(RelPath::root());
        }
        if self.mode == WatchMode::Auto {
            let mut state = self.state();
            let silent: Vec<_> = state.mounts.silent().map(|(at, _)| at.clone()).collect();
            state.news.extend(silent);
        }
    }

    /// Returns what has come to be polled since it was asked last.
    pub fn take_polled(&self) -> Vec<(RelPath, Depth)> {
        let mut state = self.state();
        let whole = std::mem::take(&mut state.news).into_iter();
        let watch = state.watch.clone();
        drop(state);
        let single = watch.map(|watch| watch.take_news()).unwrap_or_default();
        let single = single.into_iter().map(|path| (path, Depth::NewFolders));
        whole
            .map(|path| (path, Depth::Full))
            .chain(single)
            .collect()
    }

    /// Returns how deep `path` is polled; `None` if it is not, or not any more.
    pub fn polled(&self, path: &RelPath) -> Option<Depth> {
        let is_whole = if path.is_root() {
            self.tells(path) != Tells::All || self.state().refused.is_some()
        } else {
            let state = self.state();
            self.mode == WatchMode::Auto && state.mounts.silent().any(|(at, _)| at == path)
        };
        if is_whole {
            return Some(Depth::Full);
        }
        let is_polled = self.watch().is_some_and(|watch| watch.is_polled(path));
        is_polled.then_some(Depth::NewFolders)
    }

    /// The polled folder at `path` was found changed.
    pub fn prefer(&self, path: &RelPath) {
        if let Some(watch) = self.watch() {
            watch.prefer(path);
        }
    }

    pub fn report(&self) -> WatchReport {
        let tells = self.tells(&RelPath::root());
        let state = self.state();
        let filesystem = |mount: &Mount| mount.filesystem.clone();
        let why = || {
            let under = state.mounts.at(&RelPath::root());
            under.map_or_else(|| "an unknown filesystem".to_owned(), filesystem)
        };
        let mode = match (&state.refused, self.mode, tells) {
            (_, WatchMode::Poll, _) => Watching::Polling("as configured".to_owned()),
            (Some(refused), _, _) => Watching::Polling(refused.clone()),
            (None, _, Tells::All) => Watching::Native,
            (None, _, Tells::Some) => Watching::Both(why()),
            (None, _, Tells::Few) => Watching::Polling(why()),
        };
        let mut untold = Vec::new();
        if self.mode == WatchMode::Native {
            let all = state.mounts.at(&RelPath::root()).into_iter();
            let all = all.chain(state.mounts.silent().map(|(_, mount)| mount));
            untold.extend(all.filter(|on| on.tells() != Tells::All).map(filesystem));
            untold.sort_unstable();
            untold.dedup();
        }
        let counts = state.watch.as_ref().map(|watch| watch.counts());
        let (watched, polled, _) = counts.unwrap_or_default();
        let (all, without) = ((watched + polled) as u64, polled as u64);
        let silent = state.mounts.silent();
        WatchReport {
            mode,
            watched,
            allowed: counts.and_then(|_| self.budget.limit()),
            polled,
            advice: (polled > 0).then(|| self.budget.advice(all, without)),
            mounts: match self.mode {
                WatchMode::Auto => silent
                    .map(|(at, on)| (at.clone(), filesystem(on)))
                    .collect(),
                WatchMode::Native | WatchMode::Poll => Vec::new(),
            },
            untold,
            away: state.mounts.away(),
        }
    }

    // -- mounts --

    /// Returns true if what belongs at `path` is on a filesystem that was mounted and is not now.
    pub fn is_away(&self, path: &RelPath) -> bool {
        self.state().mounts.is_away(path)
    }

    /// Takes what is mounted now.
    pub fn mounted(&self, listed: &[Mount]) {
        let Changed {
            under,
            inside,
            uncovered,
        } = self.state().mounts.update(listed);
        for point in uncovered {
            // An empty place has nothing to show, and may only wait for its filesystem.
            let mut entries = fs::read_dir(point.under(&self.root)).into_iter().flatten();
            if entries.next().is_some() {
                self.state().mounts.give_back(&point);
            }
        }
        let watch = self.watch();
        for point in inside {
            info!(root = %self.shown(), folder = %point, "a filesystem was mounted or unmounted inside the folder");
            let mut state = self.state();
            let silent = state.mounts.silent().any(|(at, _)| *at == point);
            if silent && self.mode == WatchMode::Auto {
                state.news.push(point.clone());
            }
            drop(state);
            if let Some(watch) = &watch {
                // They are on the folders that were to be seen here before.
                watch.forget(&point);
            }
            self.hints.send(Hint::Folder(point));
        }
        if under {
            self.root_moved();
        }
    }

    /// The root may be another one, or the same one on a new mount, which the old watches tell nothing of.
    pub fn root_moved(&self) {
        self.is_stale.store(true, Ordering::SeqCst);
        self.hints.send(Hint::Lost);
    }
}
