//! Uploads of earlier tries: the one that is gone on with, and those that are given up.
//!
//! Gives nothing up but what is ours: uploads that the manifest knows, and those that were begun under exactly one key, by
//! the store's clock, when we had asked for one there and were not answered.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::manifest;
use crate::store::{self, ErrorKind, ListedUpload};
use crate::sync::Lane;
use crate::sync::file::Way;
use crate::sync::file::job::{Ctx, JobGate};
use crate::sync::plan::HORIZON_NS;
use crate::sync::upload::{Former, Gate as _, Source};

impl Way {
    /// Returns the upload of an earlier try under `key` that can be gone on with, and gives all others of this path up. What
    /// cannot be given up now, the folder's loop gives up later.
    pub(in crate::sync::file) async fn former(&self, key: &str, source: &Source) -> Option<Former> {
        let (ctx, path) = (self.ctx.clone(), self.task.job.path.clone());
        let cut = source.lasts.then(|| source.cut());
        let key = key.to_owned();
        let sort = move || {
            // A manifest that cannot be read has no upload to go on with; the loop meets the same error when it commits.
            let uploads = ctx
                .manifest
                .uploads_of(ctx.folder, &path)
                .unwrap_or_default();
            let (mut best, mut others): (Option<(manifest::Upload, Former)>, _) =
                (None, Vec::new());
            for upload in uploads {
                let serves = upload.is_answered() && upload.cut == cut && upload.key == key;
                let parts = ctx.manifest.parts(ctx.folder, &upload.id);
                let Some(parts) = parts.ok().filter(|_| serves && cut.is_some()) else {
                    others.push(upload);
                    continue;
                };
                let former = Former {
                    id: upload.id.clone(),
                    parts,
                };
                let is_better = |(_, best): &(_, Former)| best.parts.len() < former.parts.len();
                if best.as_ref().is_none_or(is_better) {
                    others.extend(best.replace((upload, former)).map(|(upload, _)| upload));
                } else {
                    others.push(upload);
                }
            }
            (best.map(|(_, former)| former), others)
        };
        let (best, others) = self.ctx.offload.run(sort).await;
        for upload in others {
            if let Err(error) = give_up(&self.ctx, &upload).await {
                tracing::debug!(%error, "could not give up a multipart upload; it is tried again later");
            }
        }
        best
    }
}

/// Gives an upload up that nobody is at work on. Returns until when it has to be tried again (wall clock, nanoseconds);
/// `None`: the store has it no more, and it is forgotten.
///
/// One whose creation was not answered is looked for. It may be created late, and is looked for once more after that.
pub async fn give_up(ctx: &Arc<Ctx>, upload: &manifest::Upload) -> store::Result<Option<i64>> {
    let gate = JobGate {
        ctx: ctx.clone(),
        path: upload.path.clone(),
        key: upload.key.clone(),
        lane: Lane::Backlog,
        progress: Arc::default(),
    };
    if upload.is_answered() {
        gate.send(0, ctx.store.abort(&upload.key, &upload.id))
            .await?;
        ctx.moved.fetch_add(1, Ordering::Relaxed);
        gate.ended(&upload.id).await;
        return Ok(None);
    }
    // Before the listing: whatever is created after this instant is found by it, or is too late to be created at all.
    let passed = ctx.clock.now().wall_ns.abs_diff(upload.begun_at_ns);
    match unanswered(&gate, upload).await {
        Ok(found) => {
            for id in found {
                gate.send(0, ctx.store.abort(&upload.key, &id)).await?;
                tracing::debug!(key = %upload.key, "gave up an upload whose creation was not answered");
            }
        }
        Err(error)
            if matches!(
                error.kind,
                ErrorKind::Unsupported | ErrorKind::Denied | ErrorKind::Invalid
            ) =>
        {
            tracing::debug!(%error, "could not look for an upload whose creation was not answered");
        }
        Err(error) => return Err(error),
    }
    if passed < HORIZON_NS.unsigned_abs() {
        return Ok(Some(upload.begun_at_ns.saturating_add(HORIZON_NS)));
    }
    gate.ended(&upload.id).await;
    Ok(None)
}

/// Returns the ids of the uploads that may be the one whose creation was not answered: begun under its key within a request
/// horizon of the question, and not known to be another one.
async fn unanswered(gate: &JobGate, asked: &manifest::Upload) -> store::Result<Vec<String>> {
    let ctx = &gate.ctx;
    let features = ctx.store.features();
    if features.is_known && !features.list_uploads {
        return Ok(Vec::new());
    }
    let (mut found, mut token) = (Vec::new(), None);
    loop {
        let page = ctx.store.list_uploads(&asked.key, token);
        let page = gate.send(0, page).await?;
        let may_be_it = |upload: &ListedUpload| {
            let begun = |ns: i64| ns.abs_diff(asked.begun_at_ns) <= HORIZON_NS.unsigned_abs();
            upload.key == asked.key && upload.begun_ns.is_some_and(begun)
        };
        found.extend(page.uploads.into_iter().filter(may_be_it));
        token = page.next;
        if token.is_none() {
            break;
        }
    }
    if found.is_empty() {
        return Ok(Vec::new());
    }
    // Nobody creates uploads of this path meanwhile, so that every other one of ours is known by now.
    let reading = ctx.clone();
    let known = ctx
        .offload
        .run(move || reading.manifest.uploads(reading.folder))
        .await;
    let Ok(known) = known else {
        return Err(store::Error::new(
            ErrorKind::Busy,
            "ListMultipartUploads",
            &asked.key,
            store::Effect::None,
            "the manifest cannot tell which uploads are known",
        ));
    };
    let known: BTreeSet<String> = known.into_iter().map(|upload| upload.id).collect();
    let ids = found.into_iter().map(|upload| upload.id);
    Ok(ids.filter(|id| !known.contains(id)).collect())
}
