//! Writing links: what waits becomes the next link, the link goes into the bucket, and is noted.
//!
//! A link is put only where nothing is. If something is there, or an answer was lost, the object says whose it is: what we
//! were about to write, or have written before a crash, is noted for what it holds; behind another's the chain goes on with
//! a snapshot, as nobody knows what that one has changed. On a store that ignores conditions the place is looked at before
//! each link: at most once a minute, and the lease may have been another's since the one before.
//!
//! Invariant: a link that may be on its way is repeated as it was, byte for byte, until it is settled.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::base::digest::Sha256;
use crate::base::failpoint;
use crate::base::path::RelPath;
use crate::catalog::{self, Draft, Fault, Header, Kind, OBJECT_MOST, Op, Record};
use crate::manifest::{self, Logged, Progress, What};
use crate::store::key::{CATALOG, KeyMap};
use crate::store::{self, Body, Effect, ErrorKind, Meta, When};
use crate::sync::Lane;
use crate::sync::file::Ctx;

/// Rows that are read at once.
const PAGE: usize = 1000;
/// So many records, or twice the number of files, are read at most besides a snapshot by who wants the latest tree.
const RECORDS_BETWEEN: u64 = 100_000;
/// So many links at least lie between two snapshots: some seconds of reading.
const LINKS_BETWEEN: u64 = 1_000;
/// One more of them for so many files: a snapshot of many costs more than links that are read.
const FILES_A_LINK: u64 = 500;
/// How often the files are counted that both depend on, in links; behind a large one always.
const COUNT_EVERY: u64 = 16;
/// How many records make a large link: counting a million files takes less than sending it.
const LARGE: u64 = 10_000;

/// What writes links.
#[derive(Default)]
pub(in crate::agent) struct Desk {
    /// A link that was sent, or was about to be, and is not settled.
    unsettled: Option<Link>,
}

/// A link, and how far the catalog has come with it.
struct Link {
    header: Header,
    bytes: Bytes,
    then: Progress,
    /// Whether a request that carried it may still land.
    is_in_doubt: bool,
}

/// Why a link could not be written.
pub(in crate::agent) enum Failure {
    /// The bucket.
    Store(store::Error),
    /// The manifest.
    Manifest(manifest::Error),
    /// What is in the bucket, or memory.
    Other(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(error) => error.fmt(f),
            Self::Manifest(error) => error.fmt(f),
            Self::Other(why) => f.write_str(why),
        }
    }
}

impl From<store::Error> for Failure {
    fn from(error: store::Error) -> Self {
        Self::Store(error)
    }
}

impl From<manifest::Error> for Failure {
    fn from(error: manifest::Error) -> Self {
        Self::Manifest(error)
    }
}

impl Desk {
    /// Publishes everything that waits; counts the links in `links`.
    pub async fn publish(&mut self, ctx: &Arc<Ctx>, links: &mut u64) -> Result<(), Failure> {
        loop {
            let mut link = match self.unsettled.take() {
                Some(link) => link,
                None => match draft(ctx).await? {
                    Some(link) => link,
                    None => return Ok(()),
                },
            };
            let there = match Self::put(ctx, &link).await {
                Ok(there) => there,
                Err(error) => {
                    // One that was certainly refused is made anew, of more by then.
                    link.is_in_doubt |= error.effect == Effect::Possible;
                    self.unsettled = Some(link).filter(|link| link.is_in_doubt);
                    return Err(error.into());
                }
            };
            failpoint::hit("link-put");
            let noted = match there {
                None => note(ctx, link.then.clone()).await,
                Some(there) => settle(ctx, &link, there).await,
            };
            if let Err(error) = noted {
                self.unsettled = Some(link);
                return Err(error);
            }
            *links += 1;
        }
    }

    /// Puts a link; returns what is there instead, if something is.
    async fn put(ctx: &Arc<Ctx>, link: &Link) -> store::Result<Option<Bytes>> {
        let key = catalog::key(&ctx.keys, link.header.number);
        let features = ctx.store.features();
        if !features.put_if_absent
            && let Some(there) = look(ctx, &key).await?
        {
            return Ok(Some(there));
        }
        let meta = Meta {
            content_type: Some("application/zstd".to_owned()),
            is_own: true,
            ..Meta::default()
        };
        let mut when = if features.is_known && !features.put_if_absent {
            When::Always
        } else {
            When::Absent
        };
        loop {
            let permit = ctx.limits.request(Lane::Backlog).await;
            let body = Body::of(link.bytes.clone()).with_tap(Some(ctx.limits.tap(Lane::Backlog)));
            let answer = ctx.store.put_if(&key, body, &meta, &when).await;
            drop(permit);
            let Err(error) = answer else {
                return Ok(None);
            };
            if error.kind == ErrorKind::Unsupported && when == When::Absent {
                when = When::Always;
                continue;
            }
            let is_there = matches!(error.kind, ErrorKind::Precondition | ErrorKind::Conflict);
            if !is_there && error.effect == Effect::None {
                return Err(error);
            }
            return match look(ctx, &key).await {
                Ok(None) => Err(error),
                Ok(there) => Ok(there),
                // Whatever the look says, it does not say that nothing landed.
                Err(look) => Err(store::Error {
                    effect: Effect::Possible,
                    ..look
                }),
            };
        }
    }
}

/// Returns the object under `key`; `None`: there is none.
async fn look(ctx: &Arc<Ctx>, key: &str) -> store::Result<Option<Bytes>> {
    let _permit = ctx.limits.request(Lane::Backlog).await;
    let size = match ctx.store.head(key).await {
        Ok(object) => object.size,
        Err(error) if error.kind == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    // No link of anybody's is so long, and none is empty: it is not read.
    if size == 0 || size > OBJECT_MOST {
        return Ok(Some(Bytes::new()));
    }
    let (_, bytes) = ctx.store.get(key, Some(0..size)).await?;
    Ok(Some(bytes))
}

/// Takes what was found in the place of a link for what it is.
async fn settle(ctx: &Arc<Ctx>, link: &Link, there: Bytes) -> Result<(), Failure> {
    if there == link.bytes {
        return note(ctx, link.then.clone()).await;
    }
    if let Some(then) = ours(ctx, link, there).await? {
        return note(ctx, then).await;
    }
    behind(ctx, link).await
}

/// Returns how far the catalog has come with a delta of our own log that was stored and not noted: before a crash there may
/// have been less in it.
async fn ours(ctx: &Arc<Ctx>, link: &Link, there: Bytes) -> Result<Option<Progress>, Failure> {
    let (reading, header) = (ctx.clone(), link.header.clone());
    let read = ctx.offload.run(move || {
        let mut records = Vec::new();
        let Ok(found) = catalog::read_link(&there, &reading.keys, |record| records.push(record))
        else {
            return Ok(None);
        };
        let is_next = found.number == header.number
            && found.agent == header.agent
            && found.previous == header.previous
            && (found.kind, header.kind) == (Kind::Delta, Kind::Delta)
            && found.first == header.first
            && found.last.checked_sub(found.first) == Some((records.len() as u64).wrapping_sub(1));
        if !is_next {
            return Ok(None);
        }
        // The same numbers can be those of an older state folder that was put back: the rows have to be the same too.
        let rows = reading
            .manifest
            .logged(reading.folder, found.first - 1, records.len())?;
        let rows = rows.into_iter().map(|row| record(&reading.keys, row));
        Ok::<_, manifest::Error>(rows.eq(records.into_iter().map(Some)).then(|| {
            let count = found.last - found.first + 1;
            (found, Sha256::of(&there), count)
        }))
    });
    let Some((found, hash, count)) = read.await? else {
        return Ok(None);
    };
    let is = progress(ctx).await?;
    Ok(Some(Progress {
        number: found.number,
        hash: Some(hash),
        base: found.base,
        published: found.last,
        records: is.records + count,
        links: is.links + 1,
        ..is
    }))
}

/// Another agent has written: the chain goes on behind it, with a snapshot.
async fn behind(ctx: &Arc<Ctx>, link: &Link) -> Result<(), Failure> {
    let (mut last, mut token) = (link.header.number, None);
    loop {
        let permit = ctx.limits.request(Lane::Backlog).await;
        let page = ctx.store.list(&ctx.keys.reserved(CATALOG), token).await?;
        drop(permit);
        let numbers = page.objects.iter();
        last = numbers
            .filter_map(|object| catalog::number(&ctx.keys, &object.key))
            .fold(last, u64::max);
        token = page.next;
        if token.is_none() {
            break;
        }
    }
    let key = catalog::key(&ctx.keys, last);
    let bytes = look(ctx, &key).await?.unwrap_or_default();
    let (base, who) = match catalog::header(&bytes) {
        // More than this state knows of: it is an old one, or was cut off inside a snapshot.
        Ok(header) if header.agent == link.header.agent => (header.base, "an earlier run"),
        Ok(header) => (header.base, "another agent"),
        Err(Fault::Newer(format)) => {
            return Err(Failure::Other(format!(
                "a newer version of tidewatch has written `{key}`, in format {format}: use that one"
            )));
        }
        // What cannot be read gives no tree; the snapshot does.
        Err(Fault::Broken(_)) => (0, "somebody"),
    };
    tracing::info!(
        link = last,
        "{who} has written the catalog: it goes on behind that with a snapshot"
    );
    let is = progress(ctx).await?;
    note(
        ctx,
        Progress {
            number: last,
            hash: Some(Sha256::of(&bytes)),
            base,
            published: is.published,
            is_due: true,
            ..Progress::default()
        },
    )
    .await
}

async fn progress(ctx: &Arc<Ctx>) -> Result<Progress, manifest::Error> {
    let reading = ctx.clone();
    let read = move || reading.manifest.progress(reading.folder);
    ctx.offload.run(read).await
}

/// Notes how far the catalog has come, and whether a snapshot comes next.
async fn note(ctx: &Arc<Ctx>, mut is: Progress) -> Result<(), Failure> {
    let noting = ctx.clone();
    let noted = ctx.offload.run(move || {
        let may_be_due = is.records > RECORDS_BETWEEN || is.links > LINKS_BETWEEN;
        let before = noting.manifest.progress(noting.folder)?.records;
        let is_large = is.records.saturating_sub(before) >= LARGE;
        if may_be_due && !is.is_due && (is_large || is.links.is_multiple_of(COUNT_EVERY)) {
            let files = noting.manifest.count_live(noting.folder)?;
            is.is_due = is.records > RECORDS_BETWEEN.max(2 * files)
                || is.links > LINKS_BETWEEN.max(files / FILES_A_LINK);
        }
        noting.manifest.note_progress(noting.folder, &is)
    });
    noted.await.map_err(Failure::from)
}

/// Makes the next link of what waits; `None`: nothing does.
async fn draft(ctx: &Arc<Ctx>) -> Result<Option<Link>, Failure> {
    let reading = ctx.clone();
    let drafted = ctx.offload.run(move || {
        let is = reading.manifest.progress(reading.folder)?;
        if is.is_due {
            snapshot(&reading, &is).map(Some)
        } else {
            delta(&reading, is)
        }
    });
    drafted.await
}

fn delta(ctx: &Ctx, is: Progress) -> Result<Option<Link>, Failure> {
    let (mut draft, mut last, mut count) = (Draft::default(), is.published, 0);
    'full: loop {
        let rows = ctx.manifest.logged(ctx.folder, last, PAGE)?;
        if rows.is_empty() {
            break;
        }
        for row in rows {
            last = row.seq;
            count += 1;
            if let Some(record) = record(&ctx.keys, row) {
                draft.push(&record);
            }
            if draft.is_full() {
                break 'full;
            }
        }
    }
    if count == 0 {
        return Ok(None);
    }
    let header = Header {
        kind: Kind::Delta,
        // Of a folder that never had a catalog, and of which nothing was known before, the first link says everything.
        base: if is.number == 0 { 1 } else { is.base },
        first: is.published + 1,
        last,
        ..header(ctx, &is)
    };
    let then = Progress {
        base: header.base,
        published: last,
        records: is.records + count,
        links: is.links + 1,
        ..is
    };
    finish(&draft, header, then).map(Some)
}

fn snapshot(ctx: &Ctx, is: &Progress) -> Result<Link, Failure> {
    let began = is.began.unwrap_or(is.number + 1);
    let mut after = is.after.clone().unwrap_or_else(RelPath::root);
    let mut after_folder = is.after_folder.clone();
    let mut draft = Draft::default();
    let more = 'full: loop {
        let rows = match &after_folder {
            None => ctx.manifest.live(ctx.folder, &after, PAGE)?,
            Some(after) => ctx.manifest.live_subfolders(ctx.folder, after, PAGE)?,
        };
        if rows.is_empty() && after_folder.is_some() {
            break false;
        }
        if rows.is_empty() {
            // Folders come when all files are in it.
            after_folder = Some(RelPath::root());
        }
        for row in rows {
            if draft.is_full() {
                break 'full true;
            }
            *after_folder.as_mut().unwrap_or(&mut after) = row.path.clone();
            if let Some(record) = record(&ctx.keys, row) {
                draft.push(&record);
            }
        }
    };
    let header = Header {
        kind: Kind::Snapshot { began, more },
        base: if more { is.base } else { began },
        ..header(ctx, is)
    };
    let then = if more {
        Progress {
            began: Some(began),
            after: Some(after),
            after_folder,
            ..is.clone()
        }
    } else {
        Progress {
            base: began,
            published: is.published,
            ..Progress::default()
        }
    };
    finish(&draft, header, then)
}

/// Returns the header of the next link, as that of an empty delta.
fn header(ctx: &Ctx, is: &Progress) -> Header {
    Header {
        number: is.number + 1,
        previous: is.hash,
        agent: ctx.manifest.agent_id().to_owned(),
        kind: Kind::Delta,
        base: is.base,
        first: is.published,
        last: is.published,
        time_ns: ctx.clock.now().wall_ns,
    }
}

fn finish(draft: &Draft, header: Header, then: Progress) -> Result<Link, Failure> {
    let packed = draft.finish(&header);
    let (bytes, hash) = packed.map_err(|error| Failure::Other(error.to_string()))?;
    let then = Progress {
        number: header.number,
        hash: Some(hash),
        ..then
    };
    Ok(Link {
        header,
        bytes,
        then,
        is_in_doubt: false,
    })
}

/// Returns a row of the log as the catalog says it; `None` for a file that has no key, and so had no object.
fn record(keys: &KeyMap, row: Logged) -> Option<Record> {
    let key = || keys.key(&row.path).ok();
    let mut drill = None;
    let (op, key, trash_key) = match row.what {
        What::Put => (Op::Put, Some(key()?), None),
        What::Gone { is_kept } => (Op::Gone, Some(key()?).filter(|_| is_kept), None),
        What::Aside(trash_key) => {
            key()?;
            (Op::Aside, None, Some(trash_key))
        }
        What::Folder => (Op::Folder, None, None),
        What::FolderGone => (Op::FolderGone, None, None),
        What::Drill(how) => {
            drill = Some(how);
            (Op::Drill, None, None)
        }
    };
    let facts = row.facts;
    Some(Record {
        op,
        path: row.path,
        size: facts.size,
        mtime_ns: facts.mtime_ns,
        mode: facts.mode,
        uid: facts.uid,
        gid: facts.gid,
        sha256: facts.sha256,
        key,
        trash_key,
        etag: facts.etag,
        version_id: facts.version_id,
        time_ns: row.time_ns,
        drill,
    })
}
