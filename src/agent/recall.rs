//! What a former run left undone: open intents, keys in doubt, multipart uploads, rows of the log.

use std::time::Duration;

use crate::agent::{Loop, Mode};
use crate::base::path::RelPath;
use crate::sync::plan;

impl Loop {
    /// Reads what a former run left undone: open intents, ambiguous keys, multipart uploads.
    pub(super) async fn recall(&mut self) -> Result<(), crate::manifest::Error> {
        let now = self.ctx.clock.now();
        let (manifest, folder) = (self.ctx.manifest.clone(), self.ctx.folder);
        let read = self.ctx.offload.run(move || {
            let mut rows = Vec::new();
            let mut after = RelPath::root();
            loop {
                let page = manifest.open_rows(folder, &after, 1000)?;
                let Some(last) = page.last() else { break };
                after = last.path.clone();
                // An open row is found by the scan, and worked on at once; only a certain one waits for its time.
                let certain = page.into_iter().filter(|row| plan::certain(row).is_some());
                rows.extend(certain.map(|row| (row.path.clone(), plan::doubt_until(&row))));
            }
            let has_rows = manifest.has_below(folder, &RelPath::root())?;
            let waiting = manifest.waiting(folder)?;
            let marks = manifest.marks(folder)?;
            let uploads = manifest.uploads(folder)?;
            Ok::<_, crate::manifest::Error>((rows, uploads, has_rows, waiting, marks))
        });
        let (rows, uploads, has_rows, waiting, marks) = read.await?;
        self.recall_audit(&marks, now);
        self.teller.proven(&marks);
        self.recall_pause(marks.paused_ns);
        self.recall_contact(marks.recontact_ns, now);
        self.catalog.recall(waiting, now);
        // Without rows too: what happened to the last of them is still to be told, and that is not before contact.
        let is_wanted = has_rows || waiting.records > 0 || waiting.snapshot;
        if is_wanted && !self.contact.is_done() {
            self.contact.wants_rows();
        }
        for (path, until_ns) in rows.into_iter().filter(|(_, until_ns)| *until_ns != 0) {
            let left = u64::try_from(until_ns - now.wall_ns).unwrap_or(0);
            if self.mode == Mode::Forever {
                self.queue
                    .hold_until(path.clone(), now.mono + Duration::from_nanos(left), now);
            }
            if left > 0 {
                self.ambiguous.insert(path, until_ns);
            }
        }
        self.janitor.recall(uploads, now);
        Ok(())
    }
}
