//! What goes into a job and what comes out, and what it asks of its folder's loop on the way.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::base::buffers::Pool;
use crate::base::clock::{Clock, Now, Setting};
use crate::base::offload::Offload;
use crate::base::path::RelPath;
use crate::base::policy::{Guarding, History, OnDelete};
use crate::base::proof::Proof;
use crate::base::stat::{Identity, Kind, Stat};
use crate::manifest::{self, Change, Entry, FolderId, Manifest, Remote, UploadPart};
use crate::store::key::KeyMap;
use crate::store::{ErrorKind, Store};
use crate::sync::brake::Verdict;
use crate::sync::dedupe::{Claim, Dedupe, First};
use crate::sync::going::Going;
use crate::sync::limits::{Limits, Permit};
use crate::sync::meta::Labels;
use crate::sync::plan::{self, Step};
use crate::sync::queue;
use crate::sync::removals::Removals;
use crate::sync::upload::SINGLE_MOST;
use crate::tree::{self, Beginning, ReadError, Tree, Whole};

/// What the files of one folder share.
pub struct Ctx {
    /// The disk.
    pub tree: Arc<dyn Tree>,
    /// The bucket.
    pub store: Arc<dyn Store>,
    /// What was seen synced; only read here.
    pub manifest: Manifest,
    /// The folder's number in it.
    pub folder: FolderId,
    /// Paths to keys.
    pub keys: KeyMap,
    /// What objects say of themselves by their names.
    pub labels: Arc<Labels>,
    /// Requests and memory, shared by all folders.
    pub limits: Arc<Limits>,
    /// Contents on their way.
    pub dedupe: Dedupe,
    /// Removals on their way.
    pub removals: Removals,
    /// Buffers for bodies.
    pub buffers: Pool,
    /// Where `now` comes from.
    pub clock: Clock,
    /// Where blocking work runs.
    pub offload: Offload,
    /// What the folder's owner wants done with old objects.
    pub policy: Policy,
    /// Counts what moves: bodies that were answered, pages of a first listing, pieces that were hashed. How the loop knows
    /// that waiting is worth while.
    pub moved: Arc<AtomicU64>,
    /// Bytes of files that were sent and answered, parts too: what a progress bar shows.
    pub sent_bytes: Arc<AtomicU64>,
    /// What is on its way, for people.
    pub going: Going,
    /// To the folder's loop.
    pub to_loop: mpsc::Sender<Message>,
    /// Cancelled when what takes long is to come to an end: what is on its way is finished, and the rest left.
    pub stop: CancellationToken,
}

/// What the folder's owner wants done with old objects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Policy {
    /// With the object of a file that is gone.
    pub on_delete: OnDelete,
    /// With an object before it is overwritten.
    pub history: History,
    /// Whether the loop has to be asked before an object is overwritten.
    pub asks_before_overwriting: bool,
    /// How long what was set aside is kept.
    pub trash_keep: Duration,
    /// Whether an object is only changed while it is the one that is known.
    pub guard: Guarding,
}

/// What a job tells or asks the folder's loop.
#[derive(Debug)]
pub enum Message {
    /// The job has ended.
    Done(Box<Done>),
    /// A multipart upload is about to be created, or has been: note it durably, then answer.
    Begun {
        /// The upload.
        upload: Box<manifest::Upload>,
        /// Answered when it is durable.
        noted: oneshot::Sender<()>,
    },
    /// A part of a multipart upload was answered: note it.
    Part {
        /// The upload's id.
        upload: String,
        /// The part.
        part: UploadPart,
    },
    /// A multipart upload has ended: forget its id.
    Ended(String),
    /// May this path's object be copied from? Granted: no job of it starts until the asker has ended.
    Source {
        /// The path.
        path: RelPath,
        /// The answer.
        granted: oneshot::Sender<bool>,
    },
    /// Who asked for a source that is no file's job has ended.
    Release(RelPath),
    /// May an object be overwritten with other content?
    Overwrite {
        /// The path.
        path: RelPath,
        /// The answer.
        verdict: oneshot::Sender<Verdict>,
    },
}

/// A job that may start: its intent is durable.
#[derive(Debug)]
pub struct Task {
    /// What the queue said.
    pub job: queue::Job,
    /// Its key.
    pub key: String,
    /// Its stat a moment ago; before it was gone, for a removal.
    pub stat: Stat,
    /// What is to be done.
    pub aim: Aim,
    /// Its row before the intent.
    pub known: Option<Entry>,
    /// What first contact found under its key.
    pub remote: Option<Remote>,
    /// Its content, if it has been read already.
    pub ahead: Option<Ahead>,
    /// Whether it may still come to rest.
    pub patience: Patience,
    /// How the machine's clock was set when its row was read.
    pub set: Setting,
}

/// Whether a file that is being written to is waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Patience {
    /// It may come to rest by itself.
    Left,
    /// It has been waited for long enough: a clone of it is read, where one can be made; else its beginning, if it only
    /// grows.
    Over {
        /// What it was at an earlier try.
        before: Option<Beginning>,
    },
}

/// What a job is to do.
#[derive(Clone, PartialEq, Debug)]
pub enum Aim {
    /// Bring the object to what the file has.
    Store,
    /// The same, for a file that had another name: by a copy of that name's object.
    Rename {
        /// The row of that name.
        from: Box<Entry>,
        /// Wall clock when the file's stat was taken, nanoseconds.
        looked_at_ns: i64,
    },
    /// Remove the object: the file is proven gone.
    Remove {
        /// The folder under which it was.
        root: Identity,
    },
}

/// A file that was read before its job began.
#[derive(Debug)]
pub struct Ahead(pub(in crate::sync::file) Result<Small, ReadError>);

/// A content that is in memory, and the right to hold it there.
#[derive(Debug)]
pub(in crate::sync::file) struct Small {
    pub whole: Whole,
    pub claim: Option<Claim>,
    pub twins: Vec<Entry>,
    pub hold: Permit,
}

/// The largest file that is read before its job begins, bytes: a few hundred of them take a few milliseconds.
const AHEAD_MOST: u64 = 256 << 10;

impl Ctx {
    /// Reads a task's file now, if it is small and there is memory for it. Blocks.
    pub fn read_ahead(&self, task: &mut Task, now: Now) {
        let Task {
            job,
            stat,
            known,
            remote,
            ahead,
            aim,
            patience,
            ..
        } = task;
        let is_doubtful = known
            .as_ref()
            .is_some_and(|entry| plan::is_due_again(entry, now));
        if stat.size > AHEAD_MOST || is_doubtful || *aim != Aim::Store {
            return;
        }
        if let Some(hold) = self.limits.try_memory(stat.size, job.lane) {
            let sharing = if remote.is_none() {
                Sharing::Claim
            } else {
                Sharing::Alone
            };
            *ahead = Some(Ahead(self.read_small(
                &job.path,
                known.as_ref(),
                sharing,
                now,
                hold,
                *patience,
            )));
        }
    }

    fn read_whole(&self, path: &RelPath, patience: Patience) -> Result<Whole, ReadError> {
        let (tree, buffers) = (&*self.tree, &self.buffers);
        let read = tree::read_whole(tree, path, SINGLE_MOST, buffers, self.clock);
        match (&read, patience) {
            (Err(ReadError::Moving), Patience::Over { before }) => {
                match tree::read_captured(tree, path, SINGLE_MOST, buffers, self.clock)? {
                    Some(whole) => Ok(whole),
                    None => {
                        tree::read_beginning(tree, path, SINGLE_MOST, before, buffers, self.clock)
                    }
                }
            }
            _ => read,
        }
    }

    /// Reads a file into memory, claims its content, and looks for others that have it. Blocks.
    pub(in crate::sync::file) fn read_small(
        &self,
        path: &RelPath,
        known: Option<&Entry>,
        sharing: Sharing,
        now: Now,
        hold: Permit,
        patience: Patience,
    ) -> Result<Small, ReadError> {
        let whole = self.read_whole(path, patience)?;
        let is_level = plan::step(known, whole.sha256, now) == Step::Refresh;
        // An empty file costs as much to copy as to put.
        if is_level || sharing == Sharing::Alone || whole.stat.size == 0 {
            return Ok(Small {
                whole,
                claim: None,
                twins: Vec::new(),
                hold,
            });
        }
        // Claimed first, looked up second: whoever had the claim before has committed its row by now.
        let claim = self.dedupe.claim(whole.sha256);
        let twins = match claim {
            Claim::First(_) => self.twins(path, &whole.sha256),
            Claim::Later(_) => Vec::new(),
        };
        Ok(Small {
            whole,
            claim: Some(claim),
            twins,
            hold,
        })
    }
}

/// Whether a file's content is shared with those that have the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::sync::file) enum Sharing {
    /// It may be sent for others, or copied from them.
    Claim,
    /// Its own bytes are sent.
    Alone,
}

/// How a job ended, and what the manifest may say now.
#[derive(Debug)]
pub struct Done {
    /// The path.
    pub path: RelPath,
    /// Its key.
    pub key: String,
    /// What the queue had said.
    pub job: queue::Job,
    /// How the machine's clock was set that it went by.
    pub set: Setting,
    /// How it ended.
    pub outcome: Outcome,
    /// What to commit.
    pub changes: Vec<Change>,
    /// Sources that were granted and are to be released.
    pub sources: Vec<RelPath>,
    /// The duty to tell waiters, once the row is durable.
    pub first: Option<First>,
    /// The content's size in bytes.
    pub size: u64,
    /// Whether an object of somebody else's was moved into trash.
    pub set_aside: bool,
}

/// The ways a job can end.
#[derive(Debug)]
pub enum Outcome {
    /// The bucket has what the disk had.
    Synced {
        /// How it got there.
        how: How,
        /// Wall clock until which the key is ambiguous all the same, nanoseconds; 0: it is not.
        ambiguous_until_ns: i64,
        /// Whether the file may have changed under the same stamps, or while it was read, so that it has to be read once more.
        racy: bool,
        /// Whether it has only what the file began with, which is written to without rest.
        is_beginning: bool,
    },
    /// The file is gone.
    Gone {
        /// What is there instead, if anything.
        kind: Option<Kind>,
        /// Wall clock until which its key is ambiguous, nanoseconds; 0: it is not.
        ambiguous_until_ns: i64,
    },
    /// The file is gone, and its object too.
    Deleted {
        /// Wall clock until which the key is ambiguous all the same, nanoseconds; 0: it is not.
        ambiguous_until_ns: i64,
    },
    /// The file is there again, or cannot be looked for: its object was not touched.
    Back,
    /// The file is gone, and the object under its key is not the one that we know: it was left alone.
    Foreign,
    /// Somebody else wrote the object, which is guarded: it stays, and the file is not safe.
    Theirs,
    /// The new content waits in quarantine until a person has decided.
    Held,
    /// It changed while it was read.
    Moving {
        /// What it was, to be compared at the next try.
        beginning: Option<Beginning>,
    },
    /// It was asked to stop, and what it has sent so far waits for the next try.
    Stopped,
    /// It did not work.
    Failed(Failed),
}

/// What went wrong with a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failed {
    /// Why, for people.
    pub error: String,
    /// The store's kind of error, if it was the store's.
    pub kind: Option<ErrorKind>,
    /// Whether the trouble may be the endpoint's, the bucket's or the credentials', not this file's.
    pub is_everyones: bool,
    /// Whether it is left alone for a while, because trying again soon would not help.
    pub is_parked: bool,
    /// Whether somebody should look at the machine.
    pub is_alarm: bool,
    /// How long the store asks to be left alone.
    pub retry_after: Option<Duration>,
}

/// How a file became level.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    /// Its bytes were sent.
    Uploaded,
    /// The server copied them.
    Copied,
    /// They were there already.
    Noted,
    /// They were there already, in an object that somebody else wrote.
    Adopted(Proof),
}
