//! What a job asks of the limits and of its folder's loop for each request, on behalf of its path; and what is counted.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::oneshot;

use crate::base::digest::Crc64;
use crate::base::path::RelPath;
use crate::manifest::{self, UploadPart};
use crate::store::{self, Object, Part, Tap};
use crate::sync::file::job::{Ctx, Message};
use crate::sync::going::Progress;
use crate::sync::limits::{self, Permit};
use crate::sync::{Lane, removals, upload};

/// What a job asks for, on behalf of its path.
pub(in crate::sync::file) struct JobGate {
    pub ctx: Arc<Ctx>,
    pub path: RelPath,
    pub key: String,
    pub lane: Lane,
    pub progress: Arc<Progress>,
}

impl Drop for JobGate {
    fn drop(&mut self) {
        self.ctx.going.ends(&self.path, &self.progress);
    }
}

impl JobGate {
    pub async fn head(&self, key: &str) -> store::Result<Object> {
        upload::Gate::send(self, 0, self.ctx.store.head(key)).await
    }
}

impl removals::Gate for JobGate {
    async fn send<T: Send>(
        &self,
        request: impl Future<Output = store::Result<T>> + Send,
    ) -> store::Result<T> {
        upload::Gate::send(self, 0, request).await
    }
}

impl upload::Gate for JobGate {
    type Hold = Permit;

    async fn memory(&self, bytes: u64) -> Permit {
        self.ctx.limits.memory(bytes, self.lane).await
    }

    async fn send<T: Send>(
        &self,
        bytes: u64,
        request: impl Future<Output = store::Result<T>> + Send,
    ) -> store::Result<T> {
        let limits = &self.ctx.limits;
        let _seat = if bytes > 0 {
            limits.seat(self.lane).await
        } else {
            None
        };
        let permit = limits.request(self.lane).await;
        let began = self.ctx.clock.now().mono;
        limits.began(began);
        let answer = request.await;
        let verdict = limits::Verdict::of(&answer, bytes);
        if answer.is_ok() {
            self.ctx.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
            // A question that is answered moves nothing.
            self.ctx
                .moved
                .fetch_add(u64::from(bytes > 0), Ordering::Relaxed);
            if bytes > 0 {
                self.progress.part_is_there();
            }
        }
        drop(permit);
        limits.ended(verdict, began, self.ctx.clock.now().mono);
        answer
    }

    fn tap(&self) -> Arc<dyn Tap> {
        let (going, progress) = (&self.ctx.going, &self.progress);
        going.begins(&self.path, progress);
        going.tap(progress, self.ctx.limits.tap(self.lane))
    }

    async fn asks(&self) -> manifest::Upload {
        self.progress.begins_anew();
        let now_ns = self.ctx.clock.now().wall_ns;
        let upload = manifest::Upload::asked(self.path.clone(), self.key.clone(), now_ns);
        self.begun(upload.clone()).await;
        upload
    }

    async fn begun(&self, upload: manifest::Upload) {
        let (noted, durable) = oneshot::channel();
        let upload = Box::new(upload);
        if self
            .ctx
            .to_loop
            .send(Message::Begun { upload, noted })
            .await
            .is_ok()
        {
            // An answer that never comes means that the loop has ended, and this job with it.
            let _ = durable.await;
        }
    }

    async fn stored(&self, upload: &str, part: &Part, crc64: Crc64) {
        let part = UploadPart {
            number: part.number,
            etag: part.etag.clone(),
            crc64,
            stored_at_ns: self.ctx.clock.now().wall_ns,
        };
        let upload = upload.to_owned();
        let _ = self.ctx.to_loop.send(Message::Part { upload, part }).await;
    }

    async fn ended(&self, upload: &str) {
        let _ = self
            .ctx
            .to_loop
            .send(Message::Ended(upload.to_owned()))
            .await;
    }

    async fn stopped(&self) {
        self.ctx.stop.cancelled().await;
    }

    fn went_on(&self, bytes: u64) {
        self.ctx.going.begins(&self.path, &self.progress);
        self.progress.had(bytes);
        self.progress.part_is_there();
        self.ctx.moved.fetch_add(1, Ordering::Relaxed);
    }
}
