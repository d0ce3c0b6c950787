//! What a turn finds out about rows whose files are missing, and about files that may have had another name.
//!
//! Only looks; whether an object goes is decided by the loop, which knows the brake.

use std::collections::BTreeSet;

use crate::agent::turn::{Notes, is_gone, keep};
use crate::base::path::RelPath;
use crate::base::policy::OnDelete;
use crate::base::stat::{Kind, Stat};
use crate::manifest::{Entry, HeldWhat, State};
use crate::sync::file::{self, Ctx};
use crate::sync::plan;
use crate::tree::Tree;

/// Files, by device and inode.
type Inodes = BTreeSet<(u64, u64)>;

/// What the name of a recorded link ends with.
const RECORDED: &[u8] = b".rclonelink";

/// Where something was mounted inside the folder and is not; where something is or was.
type Mounts = (Vec<RelPath>, Vec<RelPath>);

/// What is to be weighed.
#[derive(Debug, Default)]
pub(super) struct Weigh {
    /// Rows whose files are proven missing; under `keep` a scan that did not find them is enough.
    pub paths: Vec<RelPath>,
    /// Paths that could not be stored yet: one of them may be the new name of a missing one.
    pub unsettled: Vec<RelPath>,
    /// Where something was mounted inside the folder, and is not.
    pub away: Vec<RelPath>,
    /// Where something is or was mounted inside the folder.
    pub mounts: Vec<RelPath>,
    /// Whether the files in the bucket are to be counted.
    pub count_known: bool,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Weighed {
    /// Each path with what there is to it.
    pub found: Vec<(RelPath, Missing)>,
    /// How many files are known to be in the bucket, if that was asked.
    pub known: Option<u64>,
    /// The root has no names at all.
    pub root_is_empty: bool,
    /// The root is not the folder that it was: nothing was weighed.
    pub is_away: bool,
}

/// What there is to a missing file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Missing {
    /// It is there again, or nobody knows it any more, or its row says already that it is gone.
    Settled {
        /// Wall clock until which its key is ambiguous, nanoseconds; 0: it is not.
        ambiguous_until_ns: i64,
    },
    /// Its filesystem is not mounted.
    Away,
    /// Its file has another name, which could not be stored yet: the object waits for that.
    Renamed {
        /// The folder whose listing shows that it is missing.
        look_in: RelPath,
    },
    /// Its object can go.
    Gone {
        /// Other paths whose objects have the same content.
        twins: Vec<RelPath>,
        /// A person has let it go.
        released: bool,
    },
}

/// Looks once more at each missing file, and at what its row says.
pub(super) fn weigh(ctx: &Ctx, weigh: Weigh, notes: &mut Notes) -> Weighed {
    let mut weighed = Weighed::default();
    if weigh.paths.is_empty() {
        return weighed;
    }
    let keeps = ctx.policy.on_delete == OnDelete::Keep;
    if !keeps {
        if notes.root.is_none() {
            weighed.is_away = true;
            return weighed;
        }
        weighed.root_is_empty = ctx
            .tree
            .list(&RelPath::root())
            .is_ok_and(|names| names.is_empty());
    }
    let rows = match ctx.manifest.entries(ctx.folder, &weigh.paths) {
        Ok(rows) => rows,
        Err(error) => {
            notes.error.get_or_insert(error);
            return weighed;
        }
    };
    let mounts = (weigh.away, weigh.mounts);
    let unsettled = weigh.unsettled.iter();
    let unsettled: Inodes = unsettled
        .filter_map(|path| ctx.tree.stat(path).ok())
        .map(|stat| (stat.dev, stat.ino))
        .collect();
    for (path, row) in weigh.paths.into_iter().zip(rows) {
        let missing = row.map_or(
            Missing::Settled {
                ambiguous_until_ns: 0,
            },
            |row| judge(ctx, &path, row, (&mounts, &unsettled), notes),
        );
        weighed.found.push((path, missing));
    }
    if weigh.count_known {
        weighed.known = ctx.manifest.count_synced(ctx.folder).ok();
    }
    weighed
}

fn judge(
    ctx: &Ctx,
    path: &RelPath,
    row: Entry,
    (mounts, unsettled): (&Mounts, &Inodes),
    notes: &mut Notes,
) -> Missing {
    let is_gone = match ctx.tree.stat(path) {
        Ok(stat) => stat.kind != Kind::File,
        Err(error) => is_gone(&error),
    };
    if !is_gone || plan::is_old_news(&row, notes.now) {
        return Missing::Settled {
            ambiguous_until_ns: 0,
        };
    }
    if ctx.policy.on_delete == OnDelete::Keep || plan::says_nothing(&row, notes.now) {
        return Missing::Settled {
            ambiguous_until_ns: keep(Some(row), path, ctx.policy.guard, notes),
        };
    }
    if ctx.tree.is_away(path) || is_covered(ctx, path, &row, mounts) {
        return Missing::Away;
    }
    if is_behind_link(&*ctx.tree, path) {
        // Links are not taken any more, or this is one now: what is left out is not removed.
        let (change, ambiguous_until_ns) = file::gone(Some(row), path, ctx.policy.guard, notes.now);
        notes.changes.push(change);
        return Missing::Settled { ambiguous_until_ns };
    }
    let inode = row.stored.as_ref().map(|content| content.stat);
    if inode.is_some_and(|stat| unsettled.contains(&(stat.dev, stat.ino))) {
        let look_in = lowest_folder(&*ctx.tree, path);
        return Missing::Renamed { look_in };
    }
    let released = is_released(&row);
    let twins = row
        .stored
        .as_ref()
        .map(|content| ctx.manifest.by_content(ctx.folder, &content.sha256));
    let twins = twins.and_then(Result::ok).unwrap_or_default().into_iter();
    // A twin whose file cannot be seen keeps nothing safe: it may be the next to go, or be held for that.
    let is_there = |twin: &Entry| {
        let stat = ctx.tree.stat(&twin.path);
        stat.is_ok_and(|stat| stat.kind == Kind::File)
    };
    let twins =
        twins.filter(|twin| twin.path != *path && twin.state == State::Synced && is_there(twin));
    Missing::Gone {
        twins: twins.map(|twin| twin.path).collect(),
        released,
    }
}

/// Returns true if a person has let it go.
pub(super) fn is_released(row: &Entry) -> bool {
    row.held
        .as_ref()
        .is_some_and(|held| held.what == HeldWhat::Released)
}

/// Returns the lowest folder on the way to `path` that is there.
pub(super) fn lowest_folder(tree: &dyn Tree, path: &RelPath) -> RelPath {
    let mut folder = path.parent();
    while let Some(at) = folder.filter(|at| !at.is_root()) {
        if tree.stat(&at).is_ok_and(|stat| stat.kind == Kind::Folder) {
            return at;
        }
        folder = at.parent();
    }
    RelPath::root()
}

/// Returns true if the file of a row may be on a filesystem that is not mounted, or below one that is.
fn is_covered(ctx: &Ctx, path: &RelPath, row: &Entry, (away, mounts): &Mounts) -> bool {
    let is_within = |points: &[RelPath]| points.iter().any(|point| path.is_within(point));
    if is_within(away) {
        return true;
    }
    // What was read from another device than is mounted there now lies under that, or on what was mounted before.
    let device = || {
        ctx.tree
            .stat(&lowest_folder(&*ctx.tree, path))
            .ok()
            .map(|stat| stat.dev)
    };
    let stored = row.stored.as_ref().filter(|_| is_within(mounts));
    stored.is_some_and(|content| device() != Some(content.stat.dev))
}

/// Returns true if `path`, or a folder above it, is a link that is not followed, or the path records one.
fn is_behind_link(tree: &dyn Tree, path: &RelPath) -> bool {
    let is_link = |at: &RelPath| tree.stat(at).is_ok_and(|stat| stat.kind == Kind::Symlink);
    let recorded = path
        .as_bytes()
        .strip_suffix(RECORDED)
        .and_then(RelPath::new);
    let mut at = Some(path.clone());
    while let Some(here) = at.filter(|here| !here.is_root()) {
        if is_link(&here) {
            return true;
        }
        at = here.parent();
    }
    recorded.is_some_and(|link| is_link(&link))
}

/// Returns the row of the name under which this very file was synced, if that name is gone and nothing says that the
/// file has changed since.
///
/// A file inside a renamed folder keeps its whole stat. One that was renamed itself has the rename's ctime: then it takes an
/// event that told of the move (`moved`), since a write that put the mtime back would leave no other trace. An inode alone
/// proves nothing: ext4 gives one away again at once.
pub(super) fn former_name(
    ctx: &Ctx,
    path: &RelPath,
    stat: &Stat,
    known: Option<&Entry>,
    moved: bool,
) -> Option<Entry> {
    let is_same = |other: &Stat| (other.dev, other.ino) == (stat.dev, stat.ino);
    if stat.size == 0
        || known
            .and_then(|row| row.stored.as_ref())
            .is_some_and(|content| is_same(&content.stat))
    {
        return None;
    }
    let rows = ctx.manifest.by_inode(ctx.folder, stat.dev, stat.ino).ok()?;
    rows.into_iter().find(|row| {
        let Some((_, content)) = plan::certain(row) else {
            return false;
        };
        let was = &content.stat;
        row.path != *path
            && is_same(was)
            && (was.size, was.mtime_ns) == (stat.size, stat.mtime_ns)
            && ((moved && row.state == State::Synced) || was.ctime_ns == stat.ctime_ns)
            && plan::doubt_until(row) == 0
            && !content.doubtful
            && !was.is_racy(content.read_at_ns)
            && !ctx.tree.stat(&row.path).is_ok_and(|there| is_same(&there))
    })
}
