//! The folders of a process that stays: each has its task and its own end, and they begin and end as the config says.
//!
//! What is wanted is set ([`Kept::want`]); what runs follows it, also later, when something has ended. A folder that is as
//! it was is not touched.
//!
//! Invariant: a folder begins only when every one that had its name, or a place in the bucket within its own or around it,
//! has ended: its loop, and so its lease and whatever it had on its way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::agent::{Control, Mode, Reason};
use crate::base::clock::Clock;
use crate::base::offload;
use crate::base::snapshot::{FolderSnapshot, Happening};
use crate::commands::board::Board;
use crate::commands::drill::routine::Routine;
use crate::commands::folders::{Eyes, Left, Shared, Start, shown};
use crate::commands::unusable;
use crate::config::{Config, Folder};

/// How soon a bucket that could not even be asked is tried again.
const RETRY: Duration = Duration::from_secs(60);
/// How much longer than its grace a folder may take to end: the grace once more for what is written last, the lease that is
/// given back, and a machine that is busy.
const ENDING: Duration = Duration::from_secs(60);

/// The folders.
pub struct Kept {
    shared: Arc<Shared>,
    board: Board,
    happenings: Option<mpsc::Sender<Happening>>,
    /// Ends all of them.
    stop: CancellationToken,
    grace: Duration,
    wanted: Vec<Folder>,
    running: Vec<Running>,
    tasks: JoinSet<(u64, Left)>,
    drills: JoinSet<()>,
    /// One for all folders: they drill one after the other.
    turns: Arc<Semaphore>,
    /// File bytes in memory, of a drill.
    memory_bytes: Arc<AtomicU64>,
    next_id: u64,
}

/// A folder that has a seat.
struct Running {
    id: u64,
    folder: Folder,
    stop: CancellationToken,
    snapshots: watch::Sender<FolderSnapshot>,
    stage: Stage,
    /// Whether it came when others ran already: then what it cannot do is no reason for them to end.
    is_late: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It is looked after.
    Staying,
    /// It was told to end.
    Leaving,
    /// It could not be kept as the config says, and waits for another config.
    Refused,
}

/// How the folders that are wanted differ from those that were; by their names.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Changes {
    /// They were not there before.
    pub added: Vec<String>,
    /// They are not wanted any more.
    pub removed: Vec<String>,
    /// They are stopped, and begin anew.
    pub changed: Vec<String>,
}

/// A folder has ended, and that is the whole process's matter.
#[derive(Debug)]
pub enum Trouble {
    /// It cannot go on; why.
    Broken(String),
    /// It cannot be kept as the config says; why.
    Unable(String),
}

impl Running {
    /// Returns true if the other one must not run beside it.
    fn meets(&self, other: &Folder) -> bool {
        let (ours, theirs) = (&self.folder.to, &other.to);
        let is_within =
            ours.prefix.starts_with(&theirs.prefix) || theirs.prefix.starts_with(&ours.prefix);
        self.folder.name == other.name || (ours.bucket == theirs.bucket && is_within)
    }
}

impl Kept {
    /// Begins with every folder of the config; what happens goes to `happenings`, if anybody wants it.
    pub fn begin(
        config: &Config,
        shared: &Arc<Shared>,
        board: &Board,
        happenings: Option<&mpsc::Sender<Happening>>,
        stop: &CancellationToken,
    ) -> Self {
        let mut kept = Self {
            shared: shared.clone(),
            board: board.clone(),
            happenings: happenings.cloned(),
            stop: stop.clone(),
            grace: config.shutdown_grace,
            wanted: config.folders.clone(),
            running: Vec::new(),
            tasks: JoinSet::new(),
            drills: JoinSet::new(),
            turns: Arc::new(Semaphore::new(1)),
            memory_bytes: Arc::new(AtomicU64::new(config.upload.memory_bytes)),
            next_id: 0,
        };
        kept.settle(false);
        kept
    }

    /// Takes other folders for those that are wanted; those that differ end and begin.
    pub fn want(&mut self, folders: &[Folder]) -> Changes {
        let changes = Changes::between(&self.wanted, folders);
        self.wanted = folders.to_vec();
        self.settle(true);
        changes
    }

    /// Sets how many bytes of files a drill may have in memory.
    pub fn set_memory(&self, bytes: u64) {
        self.memory_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Returns true when nothing runs any more, and nothing will.
    pub fn is_over(&self) -> bool {
        self.tasks.is_empty() && (self.stop.is_cancelled() || self.running.is_empty())
    }

    /// Notes that all of them were told to end.
    pub fn leave(&mut self) {
        let by = self.leaves_by();
        for one in &mut self.running {
            self.board.leaves(&one.folder.name, by);
            one.stage = Stage::Leaving;
        }
    }

    /// Waits until one has ended, and begins what waited for it. Returns trouble that is everyone's, if that was it.
    /// Cancel-safe; for ever if none runs.
    pub async fn ended(&mut self) -> Option<Trouble> {
        let Some(ended) = self.tasks.join_next().await else {
            return std::future::pending().await;
        };
        let (id, left) = offload::joined(ended)?;
        let at = self.running.iter().position(|one| one.id == id)?;
        // Whether it may be the config that asks for what cannot be.
        let mut is_unable = false;
        let (why, is_configs) = match left {
            Left::Stopped => (None, false),
            Left::Ended(ended) => match ended.reason {
                Reason::Stopped(true) | Reason::Finished => (None, false),
                Reason::Stopped(false) => {
                    tracing::warn!(folder = %ended.last.name, "what was still on its way was cut off; it is looked at again at the next start");
                    (None, false)
                }
                Reason::Store(why) | Reason::Taken(why) | Reason::Away(why) => (Some(why), false),
                Reason::Manifest(why) => (Some(format!("could not {why}")), false),
            },
            Left::Unable(why) => {
                is_unable = true;
                (Some(why.to_owned()), true)
            }
            Left::Unasked => (Some(unusable::UNASKED.to_owned()), false),
            Left::Broken(why) => (Some(format!("could not {why}")), true),
            Left::NoStore(error) => (Some(error.to_string()), false),
        };
        let one = &mut self.running[at];
        let name = &one.folder.name;
        match why {
            Some(why) if one.stage == Stage::Leaving && !self.stop.is_cancelled() => {
                tracing::warn!(folder = %name, "it has ended otherwise than it should: {why}");
            }
            Some(why) if is_configs && one.is_late && !self.stop.is_cancelled() => {
                tracing::error!(
                    folder = %name,
                    "it cannot be kept level as the config says: {why}; the other folders go on, correct the config and reload"
                );
                unusable::show(&one.snapshots, &why);
                one.stage = Stage::Refused;
                return None;
            }
            Some(why) if is_unable => return Some(Trouble::Unable(why)),
            Some(why) => return Some(Trouble::Broken(why)),
            None => {}
        }
        if !self.stop.is_cancelled() {
            tracing::info!(folder = %name, "stopped");
            self.board.unseat(name);
        }
        self.running.remove(at);
        self.settle(true);
        None
    }

    /// Ends everything at once. Who listens to what happens hears that it is over.
    pub async fn shutdown(&mut self) {
        self.happenings = None;
        self.tasks.shutdown().await;
        self.drills.shutdown().await;
    }

    /// Ends and begins what has to, so that the folders come to be those that are wanted.
    fn settle(&mut self, is_late: bool) {
        if self.stop.is_cancelled() {
            return;
        }
        let by = self.leaves_by();
        for one in &mut self.running {
            if one.stage == Stage::Leaving || self.wanted.contains(&one.folder) {
                continue;
            }
            one.stop.cancel();
            if one.stage == Stage::Refused {
                self.board.unseat(&one.folder.name);
            } else {
                self.board.leaves(&one.folder.name, by);
                one.stage = Stage::Leaving;
            }
        }
        let wanted = &self.wanted;
        self.running
            .retain(|one| one.stage != Stage::Refused || wanted.contains(&one.folder));
        let is_free = |folder: &&Folder| !self.running.iter().any(|one| one.meets(folder));
        let due: Vec<Folder> = self.wanted.iter().filter(is_free).cloned().collect();
        for folder in due {
            self.start(folder, is_late);
        }
        let names: Vec<&str> = self.wanted.iter().map(|one| one.name.as_str()).collect();
        self.board.arrange(&names);
    }

    fn leaves_by(&self) -> tokio::time::Instant {
        Clock::Real.now().mono + self.grace * 2 + ENDING
    }

    fn start(&mut self, folder: Folder, is_late: bool) {
        let (snapshots, asked) = self.board.seat(&folder);
        let (id, stop) = (self.next_id, self.stop.child_token());
        self.next_id += 1;
        let path = shown(&folder.path);
        tracing::info!(folder = %folder.name, "watching {path} → {}", folder.to);
        while self.drills.try_join_next().is_some() {}
        if let Some(every) = folder.drill {
            let routine = Routine {
                folder: folder.clone(),
                state_dir: self.shared.state_dir.clone(),
                every,
                memory_bytes: self.memory_bytes.clone(),
                turns: self.turns.clone(),
            };
            self.drills.spawn(routine.keep_up(stop.clone()));
        }
        self.running.push(Running {
            id,
            folder: folder.clone(),
            stop: stop.clone(),
            snapshots: snapshots.clone(),
            stage: Stage::Staying,
            is_late,
        });
        let (shared, happenings) = (self.shared.clone(), self.happenings.clone());
        self.tasks.spawn(async move {
            let left = keep(&shared, folder, snapshots, happenings, asked, stop).await;
            (id, left)
        });
    }
}

impl Changes {
    /// Compares what was wanted with what is.
    fn between(before: &[Folder], after: &[Folder]) -> Self {
        let find = |all: &[Folder], name: &str| all.iter().find(|one| one.name == name).cloned();
        let names = |of: &[Folder], is_it: &dyn Fn(&Folder) -> bool| {
            let found = of.iter().filter(|one| is_it(one));
            found.map(|one| one.name.clone()).collect()
        };
        Self {
            added: names(after, &|one| find(before, &one.name).is_none()),
            removed: names(before, &|one| find(after, &one.name).is_none()),
            changed: names(after, &|one| {
                find(before, &one.name).is_some_and(|was| was != *one)
            }),
        }
    }
}

/// Runs one folder; while its bucket cannot even be asked, tries again and again.
async fn keep(
    shared: &Shared,
    folder: Folder,
    snapshots: watch::Sender<FolderSnapshot>,
    happenings: Option<mpsc::Sender<Happening>>,
    control: mpsc::Receiver<Control>,
    stop: CancellationToken,
) -> Left {
    let mut told = None;
    loop {
        let opened = tokio::select! {
            opened = shared.stores.open(&folder) => opened,
            () = stop.cancelled() => return Left::Stopped,
        };
        let Err(error) = opened else { break };
        let why = error.to_string();
        if told.as_ref() != Some(&why) {
            tracing::error!(folder = %folder.name, "the bucket cannot be used: {why}; it is tried again every minute");
        }
        unusable::show(&snapshots, &why);
        told = Some(why);
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = stop.cancelled() => return Left::Stopped,
        }
    }
    if told.is_some() {
        tracing::info!(folder = %folder.name, "the bucket can be used now");
    }
    let start = Start {
        control: Some(control),
        retry_failed: false,
        folder,
        mode: Mode::Forever,
        eyes: Eyes::Open,
        scan_settle: Duration::ZERO,
        snapshots,
        happenings,
    };
    shared.drive(start, stop).await
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::config::Target;

    fn folder(name: &str, prefix: &str) -> Folder {
        let to = Target {
            bucket: "b".to_owned(),
            prefix: prefix.to_owned(),
        };
        Folder::new(name.to_owned(), PathBuf::from("/srv").join(name), to)
    }

    fn running(folder: Folder) -> Running {
        Running {
            id: 0,
            folder,
            stop: CancellationToken::new(),
            snapshots: watch::channel(FolderSnapshot::default()).0,
            stage: Stage::Leaving,
            is_late: false,
        }
    }

    #[test]
    fn what_has_the_same_name_or_place_is_waited_for() {
        let old = running(folder("photos", "a/b/"));
        for (other, meets) in [
            (folder("photos", "z/"), true),
            (folder("other", "a/b/"), true),
            (folder("other", "a/"), true),
            (folder("other", "a/b/c/"), true),
            (folder("other", ""), true),
            (folder("other", "a/bb/"), false),
        ] {
            assert_eq!(old.meets(&other), meets, "{:?}", other.to);
        }
        let mut elsewhere = folder("other", "a/b/");
        elsewhere.to.bucket = "c".to_owned();
        assert!(!old.meets(&elsewhere));
    }

    #[test]
    fn folders_are_told_apart_by_name_and_compared_as_a_whole() {
        let (a, b, c) = (folder("a", "a/"), folder("b", "b/"), folder("c", "c/"));
        let mut other = b.clone();
        other.settle *= 2;
        let changes = Changes::between(&[a.clone(), b], &[other, c]);
        let one = |name: &str| vec![name.to_owned()];
        assert_eq!(changes.added, one("c"));
        assert_eq!(changes.removed, one("a"));
        assert_eq!(changes.changed, one("b"));
        assert_eq!(
            Changes::between(std::slice::from_ref(&a), std::slice::from_ref(&a)),
            Changes::default()
        );
    }
}
