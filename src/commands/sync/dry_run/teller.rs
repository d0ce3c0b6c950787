//! What a dry run says: a line for each thing that would be done, and the sum of them.

use std::fmt;

use anyhow::Context as _;
use serde::Serialize;

use crate::base::path::RelPath;
use crate::base::policy::OnDelete;
use crate::base::units::show_bytes;
use crate::commands::Exit;
use crate::config;
use crate::report::lines::Event;
use crate::report::out::Out;
use crate::sync::upload::{SINGLE_MOST, part_size_bytes};

/// What a dry run would do, over all folders.
#[derive(Debug, Default, Serialize)]
pub(super) struct Estimate {
    pub event: &'static str,
    pub dry_run: bool,
    pub level: bool,
    pub unchanged: u64,
    pub would_upload: u64,
    pub would_delete: u64,
    pub bytes: u64,
    pub requests: u64,
    pub skipped: u64,
    pub failed: u64,
    pub held: u64,
    pub objects_there: u64,
    #[serde(skip)]
    pub unsyncable: u64,
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            would_upload: files,
            requests,
            unchanged,
            ..
        } = self;
        let bytes = show_bytes(self.bytes);
        write!(
            f,
            "would upload {files} files ({bytes}) with about {requests} requests; {unchanged} unchanged"
        )?;
        if self.would_delete > 0 {
            write!(f, "; would delete {} objects", self.would_delete)?;
        }
        if self.held > 0 {
            write!(f, "; would hold {} deletes for a person", self.held)?;
        }
        if self.unsyncable > 0 {
            write!(f, "; could not sync {}", self.unsyncable)?;
        }
        if self.failed > 0 {
            write!(f, "; failed {}", self.failed)?;
        }
        Ok(())
    }
}

/// Returns how many requests it takes to send a file.
fn requests(size: u64) -> u64 {
    if size <= SINGLE_MOST {
        return 1;
    }
    // Begin, parts, complete.
    2 + size.div_ceil(part_size_bytes(size))
}

/// Where it is told what would be done.
pub(super) struct Teller {
    pub out: Out,
    pub json: bool,
    pub quiet: bool,
    pub sum: Estimate,
}

impl Teller {
    pub fn there(&mut self, folder: &config::Folder, there: Option<u64>) -> anyhow::Result<()> {
        let Some(there) = there else { return Ok(()) };
        self.sum.objects_there += there;
        self.sum.requests += there / 1000 + 1;
        if there > 0 && !self.json && !self.quiet {
            self.line(&format!(
                "{there} objects are under {} already: equal ones would be adopted without sending, others set aside before their key is written",
                folder.to
            ))?;
        }
        Ok(())
    }

    pub fn upload(
        &mut self,
        folder: &config::Folder,
        path: &RelPath,
        key: &str,
        size: u64,
    ) -> anyhow::Result<Exit> {
        self.sum.would_upload += 1;
        self.sum.bytes += size;
        self.sum.requests += requests(size);
        if self.json {
            self.json(&Event {
                key: Some(key),
                bytes: size,
                ..Event::new("would_upload", &folder.name, path)
            })?;
        } else {
            let size = show_bytes(size);
            self.line(&format!("would upload {path} → {key} ({size})"))?;
        }
        Ok(Exit::Level)
    }

    /// An object whose file is gone: it would go, or be held.
    pub fn delete(
        &mut self,
        folder: &config::Folder,
        path: &RelPath,
        key: &str,
        is_held: bool,
    ) -> anyhow::Result<Exit> {
        let (count, what, words) = if is_held {
            (&mut self.sum.held, "would_hold", "would hold the delete of")
        } else {
            (&mut self.sum.would_delete, "would_delete", "would delete")
        };
        *count += 1;
        // A look at it, and the delete; a copy before it where it is set aside.
        self.sum.requests += if is_held {
            0
        } else {
            2 + u64::from(folder.on_delete == OnDelete::Trash)
        };
        if self.json {
            self.json(&Event {
                key: Some(key),
                ..Event::new(what, &folder.name, path)
            })?;
        } else {
            self.line(&format!("{words} {key}"))?;
        }
        Ok(if is_held { Exit::Held } else { Exit::Level })
    }

    pub fn unsyncable(
        &mut self,
        folder: &config::Folder,
        path: &RelPath,
        why: &str,
    ) -> anyhow::Result<Exit> {
        self.sum.unsyncable += 1;
        tracing::warn!(folder = %folder.name, %path, "could not sync the file: {why}");
        self.skipped(folder, path, why)?;
        Ok(Exit::Different)
    }

    pub fn skipped(
        &mut self,
        folder: &config::Folder,
        path: &RelPath,
        why: &str,
    ) -> anyhow::Result<()> {
        self.sum.skipped += 1;
        self.event("skipped", folder, path, why)
    }

    pub fn failed(
        &mut self,
        folder: &config::Folder,
        path: &RelPath,
        why: &str,
    ) -> anyhow::Result<Exit> {
        self.sum.failed += 1;
        tracing::warn!(folder = %folder.name, %path, "{why}");
        self.event("failed", folder, path, why)?;
        Ok(Exit::Failed)
    }

    fn event(
        &mut self,
        what: &str,
        folder: &config::Folder,
        path: &RelPath,
        why: &str,
    ) -> anyhow::Result<()> {
        if !self.json {
            return Ok(());
        }
        self.json(&Event {
            error: Some(why),
            ..Event::new(what, &folder.name, path)
        })
    }

    pub fn close(&mut self) -> anyhow::Result<()> {
        if self.json {
            let line = serde_json::to_string(&self.sum)?;
            self.line(&line)
        } else if self.quiet {
            Ok(())
        } else {
            self.line(&self.sum.to_string())
        }
    }

    fn json(&mut self, line: &impl Serialize) -> anyhow::Result<()> {
        self.line(&serde_json::to_string(line)?)
    }

    fn line(&mut self, line: &str) -> anyhow::Result<()> {
        self.out.line(line).context("write the results")
    }
}
