//! One turn: look at what is due, commit what has ended and the intents of what is about to start. One blocking call.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::agent::rest::Rest;
use crate::agent::weigh::{self, Weigh, Weighed};
use crate::agent::{Pending, Then};
use crate::base::clock::{Now, Setting};
use crate::base::failpoint;
use crate::base::path::RelPath;
use crate::base::policy::{Guarding, OnDelete};
use crate::base::stat::{Identity, Kind, Stat};
use crate::manifest::{self, Change, Entry, HeldCounts, State};
use crate::sync::Lane;
use crate::sync::file::{self, Aim, Ctx, Patience, Task};
use crate::sync::plan::{self, Look};
use crate::sync::queue::Job;
use crate::tree::Tree;
use crate::tree::filter::Filter;
use crate::tree::planted::{PLANTED, is_planted};

/// How long after a racy or doubtful read the file is looked at again: longer than the coarsest filesystem clock (2 s).
pub(super) const AFTER_RACE: Duration = Duration::from_millis(2_100);

/// What turns work with.
pub(super) struct Turn {
    pub ctx: Arc<Ctx>,
    pub filter: Arc<Filter>,
    pub rest: Rest,
}

/// What a turn is given.
pub(super) struct Work {
    pub due: Vec<Job>,
    pub pending: Vec<Pending>,
    pub weigh: Weigh,
    /// The folder that the root has to be before anything below it is believed gone.
    pub root: Option<Identity>,
    pub count_held: bool,
    /// False while the first scan of all goes on: what it finds had no other name before.
    pub knows_names: bool,
    pub now: Now,
    /// How the machine's clock is set.
    pub set: Setting,
}

/// How long a turn goes on reading small files after its commit: the next commit waits for it.
const READ_AHEAD: Duration = Duration::from_millis(5);

/// What a turn did.
pub(super) struct Turned {
    pub looked: Vec<(Job, Seen)>,
    /// What was to be committed; it has been, if `result` says so.
    pub pending: Vec<Pending>,
    pub weighed: Weighed,
    /// Other names of files that were written to under one.
    pub also: Vec<RelPath>,
    /// How many rows a brake holds, if that was to be counted.
    pub held: Option<HeldCounts>,
    /// How many rows of the log were made, or why nothing was committed.
    pub result: Result<usize, manifest::Error>,
}

/// What the looks of a turn share.
pub(super) struct Notes {
    pub now: Now,
    set: Setting,
    /// The folder that the root has to be, if it is there; `None` if nobody asked.
    pub root: Option<Identity>,
    /// Whether a file may be known under a name that it had before.
    knows_names: bool,
    /// Whether the root has any name; false if nobody asked.
    root_has_names: bool,
    /// Whether first contact found anything that has not been taken.
    has_remote: bool,
    /// Other names of files that were written to under one.
    pub also: Vec<RelPath>,
    /// What is to be committed.
    pub changes: Vec<Change>,
    /// The manifest could not be asked: nothing of this turn is done.
    pub error: Option<manifest::Error>,
}

/// What a look at a due path found.
#[derive(Debug)]
pub(super) enum Seen {
    /// Level already.
    Level,
    /// To be read; the intent is durable.
    Task(Box<Task>),
    /// Not there.
    Gone {
        /// What is there instead, if anything.
        kind: Option<Kind>,
        /// Wall clock until which its key is ambiguous, nanoseconds; 0: it is not.
        ambiguous_until_ns: i64,
        /// The folder whose listing says what is missing with it, if that is news.
        look_in: Option<RelPath>,
    },
    /// A person is asked about it, or has refused it.
    Held,
    /// This version of it has failed for good.
    Parked,
    Excluded,
    NoKey(String),
    /// Written to so lately that it has to be left alone that much longer.
    Fresh(Duration),
    Unreadable(io::Error),
}

impl Turned {
    fn has_outcomes(&self) -> bool {
        let is_outcome = |item: &Pending| matches!(item.then, Then::Finish(_));
        self.pending.iter().any(is_outcome)
    }

    fn has_intents(&self) -> bool {
        let is_intent = |(_, seen): &(Job, Seen)| matches!(seen, Seen::Task(_));
        self.looked.iter().any(is_intent)
    }
}

impl Turn {
    pub fn run(&self, work: Work) -> Turned {
        let Work {
            due,
            pending,
            weigh,
            root,
            count_held,
            knows_names,
            now,
            set,
        } = work;
        let paths: Vec<RelPath> = due.iter().map(|job| job.path.clone()).collect();
        let mut turned = Turned {
            looked: Vec::with_capacity(due.len()),
            pending,
            weighed: Weighed::default(),
            also: Vec::new(),
            held: None,
            result: Ok(0),
        };
        let known = match self.ctx.manifest.entries(self.ctx.folder, &paths) {
            Ok(known) => known,
            Err(error) => {
                turned
                    .looked
                    .extend(due.into_iter().map(|job| (job, Seen::Level)));
                turned.result = Err(error);
                return turned;
            }
        };
        let has_remote = self
            .ctx
            .manifest
            .has_remote(self.ctx.folder)
            .unwrap_or(true);
        let changes = turned
            .pending
            .iter()
            .flat_map(|item| item.changes.iter().cloned())
            .collect();
        let is_root = || root.is_some() && self.ctx.tree.identity().ok() == root;
        // Asked once a turn, and only where something may be judged gone.
        let root_is_there =
            (!weigh.paths.is_empty() || due.iter().any(|job| job.remove)) && is_root();
        let root_has_names = root_is_there
            && due.iter().any(|job| job.remove)
            && self
                .ctx
                .tree
                .list(&RelPath::root())
                .is_ok_and(|names| !names.is_empty());
        let mut notes = Notes {
            now,
            set,
            has_remote,
            root: root.filter(|_| root_is_there),
            knows_names,
            root_has_names,
            also: Vec::new(),
            changes,
            error: None,
        };
        for (job, known) in due.into_iter().zip(known) {
            let seen = self.look(&job, known, &mut notes);
            turned.looked.push((job, seen));
        }
        turned.weighed = weigh::weigh(&self.ctx, weigh, &mut notes);
        turned.also = std::mem::take(&mut notes.also);
        turned.result = if let Some(error) = notes.error {
            Err(error)
        } else {
            if turned.has_outcomes() {
                failpoint::hit("outcome-known");
            }
            let (folder, now_ns) = (self.ctx.folder, now.wall_ns);
            let manifest = &self.ctx.manifest;
            // A commit looks by itself; without one nobody would notice.
            let is_there = manifest.check_identity();
            is_there.and_then(|()| manifest.commit_at(folder, &notes.changes, now_ns))
        };
        if turned.result.is_ok() {
            if turned.has_outcomes() {
                failpoint::hit("outcome-committed");
            }
            if turned.has_intents() {
                failpoint::hit("intent-committed");
            }
            if count_held {
                turned.held = self.ctx.manifest.count_held(self.ctx.folder).ok();
            }
            self.read_ahead(&mut turned.looked);
        }
        turned
    }

    /// Reads small files here, one after the other, instead of each in a blocking call of its own: half the cost.
    fn read_ahead(&self, looked: &mut [(Job, Seen)]) {
        let began = self.ctx.clock.now();
        for (_, seen) in looked {
            let now = self.ctx.clock.now();
            if now.mono.saturating_duration_since(began.mono) >= READ_AHEAD {
                break;
            }
            if let Seen::Task(task) = seen {
                self.ctx.read_ahead(task, now);
            }
        }
    }

    fn look(&self, job: &Job, known: Option<Entry>, notes: &mut Notes) -> Seen {
        let stat = match self.ctx.tree.stat(&job.path) {
            Ok(stat) => stat,
            Err(error) if is_gone(&error) => return self.gone(job, None, known, notes),
            Err(error) => {
                let failure = manifest::Failure {
                    attempts: job.failures + 1,
                    error: file::read_error(&error),
                    parked: None,
                };
                notes
                    .changes
                    .push(Change::Put(with_failure(known, &job.path, failure)));
                return Seen::Unreadable(error);
            }
        };
        let now_ns = notes.now.wall_ns;
        if self.filter.leaves_out(&job.path, &stat, now_ns).is_some() {
            return Seen::Excluded;
        }
        match stat.kind {
            Kind::File => self.look_at_file(job, known, stat, notes),
            // Whatever is there now, the file that was is gone.
            kind => self.gone(job, Some(kind), known, notes),
        }
    }

    fn look_at_file(&self, job: &Job, known: Option<Entry>, stat: Stat, notes: &mut Notes) -> Seen {
        if !job.must_read
            && known
                .as_ref()
                .is_some_and(|entry| plan::is_held(entry, &stat))
        {
            return Seen::Held;
        }
        if !job.must_read
            && known
                .as_ref()
                .is_some_and(|entry| plan::is_parked(entry, &stat, notes.now))
        {
            return Seen::Parked;
        }
        match plan::look(known.as_ref(), &stat, job.must_read, notes.now) {
            Look::Nothing => {
                // A failure that has passed by itself is forgotten, and so is a hold on a file that is back.
                let is_stale = |entry: &Entry| entry.failure.is_some() || entry.held.is_some();
                if let Some(entry) = known.filter(is_stale) {
                    notes.changes.push(Change::Put(Entry {
                        failure: None,
                        held: None,
                        ..entry
                    }));
                }
                return Seen::Level;
            }
            Look::Refresh => {
                if let Some(mut entry) = known {
                    (entry.state, entry.failure, entry.held) = (State::Synced, None, None);
                    if let Some(content) = &mut entry.stored {
                        content.stat = stat;
                        content.synced_at_ns = notes.now.wall_ns;
                    }
                    notes.changes.push(Change::Put(entry));
                }
                return Seen::Level;
            }
            Look::Read => {}
        }
        if stat.nlink > 1 {
            if is_planted(&*self.ctx.tree, &job.path, &stat) {
                return Seen::NoKey(PLANTED.to_owned());
            }
            if job.must_read {
                self.other_names(&job.path, &stat, notes);
            }
        }
        if let Some(left) = self.rest.unsettled(job, &stat, notes.now) {
            return Seen::Fresh(left);
        }
        let key = match self.ctx.keys.key(&job.path) {
            Ok(key) => key,
            Err(error) => return Seen::NoKey(error.to_string()),
        };
        let may_be_theirs = notes.has_remote && known.as_ref().and_then(plan::certain).is_none();
        let mut remote = None;
        if may_be_theirs {
            match self.ctx.manifest.remote(self.ctx.folder, &key) {
                Ok(found) => remote = found,
                // Nothing may be written over an object that could be somebody else's.
                Err(error) => {
                    notes.error = Some(error);
                    return Seen::Level;
                }
            }
        }
        notes.changes.push(Change::Intend(job.path.clone()));
        // What a scan finds before anything was ever known had no other name here.
        let may_be_renamed = !job.must_read && (notes.knows_names || job.lane == Lane::Live);
        let from = may_be_renamed
            .then(|| weigh::former_name(&self.ctx, &job.path, &stat, known.as_ref(), job.moved))
            .flatten();
        let aim = from.map_or(Aim::Store, |from| Aim::Rename {
            from: Box::new(from),
            looked_at_ns: notes.now.wall_ns,
        });
        Seen::Task(Box::new(Task {
            job: job.clone(),
            key,
            stat,
            aim,
            known,
            remote,
            ahead: None,
            patience: self.rest.patience(job, notes.now),
            set: notes.set,
        }))
    }

    /// A file was written to under one of its names: the event told of that name only.
    fn other_names(&self, path: &RelPath, stat: &Stat, notes: &mut Notes) {
        let rows = self
            .ctx
            .manifest
            .by_inode(self.ctx.folder, stat.dev, stat.ino);
        let names = rows.unwrap_or_default().into_iter().map(|row| row.path);
        notes.also.extend(names.filter(|name| name != path));
    }

    /// The file is not there. Under `keep` its row says so at once; else listings decide whether its object goes.
    fn gone(&self, job: &Job, kind: Option<Kind>, known: Option<Entry>, notes: &mut Notes) -> Seen {
        let path = &job.path;
        let is_news = known
            .as_ref()
            .is_some_and(|entry| !plan::is_old_news(entry, notes.now));
        let keeps = self.ctx.policy.on_delete == OnDelete::Keep;
        let known_to_nobody = known.is_none();
        if job.remove
            && is_news
            && !keeps
            && let (Some(entry), Some(root)) = (&known, notes.root)
            // A root that has become empty since it was asked about holds whatever nobody has released.
            && (notes.root_has_names || weigh::is_released(entry))
        {
            return self.doomed(job, entry.clone(), root, notes);
        }
        let ambiguous_until_ns = match known {
            Some(entry)
                if keeps || entry.state == State::Kept || plan::says_nothing(&entry, notes.now) =>
            {
                keep(Some(entry), path, self.ctx.policy.guard, notes)
            }
            // What may still land with the very content that a row claims leaves no doubt to be told.
            Some(entry) if entry.ambiguous_until_ns > notes.now.wall_ns => {
                plan::doubt_until(&entry)
            }
            _ => 0,
        };
        let manifest = &self.ctx.manifest;
        let had_files = || {
            manifest.has_below(self.ctx.folder, path).unwrap_or(true)
                || manifest
                    .has_subfolder(self.ctx.folder, path)
                    .unwrap_or(true)
        };
        // A name of the past: its folder is gone too, and may be somewhere else by now.
        let is_stale = || {
            known_to_nobody
                && path
                    .parent()
                    .is_some_and(|parent| !is_folder(&*self.ctx.tree, &parent))
        };
        let is_told = kind.is_none() && (is_ghost(path) || had_files() || is_stale());
        let look_in =
            ((is_news && !keeps) || is_told).then(|| weigh::lowest_folder(&*self.ctx.tree, path));
        Seen::Gone {
            kind,
            ambiguous_until_ns,
            look_in,
        }
    }

    /// Its object goes: the intent first.
    fn doomed(&self, job: &Job, entry: Entry, root: Identity, notes: &mut Notes) -> Seen {
        let key = match self.ctx.keys.key(&job.path) {
            Ok(key) => key,
            Err(error) => return Seen::NoKey(error.to_string()),
        };
        let mut remote = None;
        if notes.has_remote && plan::certain(&entry).is_none() {
            match self.ctx.manifest.remote(self.ctx.folder, &key) {
                Ok(found) => remote = found,
                Err(error) => {
                    notes.error = Some(error);
                    return Seen::Level;
                }
            }
        }
        notes.changes.push(Change::Intend(job.path.clone()));
        let stat = entry
            .stored
            .as_ref()
            .map_or(Stat::NONE, |content| content.stat);
        Seen::Task(Box::new(Task {
            job: job.clone(),
            key,
            stat,
            aim: Aim::Remove { root },
            known: Some(entry),
            remote,
            ahead: None,
            patience: Patience::Left,
            set: notes.set,
        }))
    }
}

/// A file is gone: its object stays, and so does what is certain of it. Returns until when its key is ambiguous.
pub(super) fn keep(
    known: Option<Entry>,
    path: &RelPath,
    guard: Guarding,
    notes: &mut Notes,
) -> i64 {
    let is_old_news = |entry: &Entry| {
        entry.state == State::Kept && entry.ambiguous_until_ns == 0 || entry.is_landed()
    };
    if known.as_ref().is_none_or(is_old_news) {
        return 0;
    }
    let (change, until) = file::gone(known, path, guard, notes.now);
    notes.changes.push(change);
    until
}

fn is_folder(tree: &dyn Tree, path: &RelPath) -> bool {
    tree.stat(path).is_ok_and(|stat| stat.kind == Kind::Folder)
}

/// Returns true for a name under which the kernel tells of a file that was made without one (`O_TMPFILE`: `#` and its
/// inode) and has a name by now: what it told is about a neighbour.
fn is_ghost(path: &RelPath) -> bool {
    let digits = path.name().strip_prefix(b"#");
    digits.is_some_and(|digits| !digits.is_empty() && digits.iter().all(u8::is_ascii_digit))
}

pub(super) fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn with_failure(known: Option<Entry>, path: &RelPath, failure: manifest::Failure) -> Entry {
    let unsent = || Entry::blank(path.clone(), State::Unsent);
    Entry {
        failure: Some(failure),
        ..known.unwrap_or_else(unsent)
    }
}
