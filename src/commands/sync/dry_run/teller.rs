//! What a dry run says: a line for each thing that would be done, and the sum of them.

use std::fmt;

use anyhow::Context as _;
use serde::Serialize;

use crate::base::path::{RelPath, escaped};
use crate::base::policy::OnDelete;
use crate::base::price::{self, Micros};
use crate::base::units::show_bytes;
use crate::commands::Exit;
use crate::commands::estimate::requests;
use crate::commands::folders::shown;
use crate::commands::sync::dry_run::there::{Found, There};
use crate::config;
use crate::report::lines::Event;
use crate::report::out::Out;

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
    /// Files whose object has their size, but that somebody else wrote: they are compared by content. Not in `requests`
    /// and `bytes`, but for the look at the object.
    pub would_compare: u64,
    pub compare_bytes: u64,
    /// Those of `would_upload` whose key has an object of another size, which is set aside first.
    pub would_set_aside: u64,
    pub set_aside_bytes: u64,
    /// Objects that are no file's: they stay.
    pub only_there: u64,
    pub only_there_bytes: u64,
    pub folder_markers: u64,
    /// Keys that no file can have; the first of them by name.
    pub odd_keys: u64,
    pub odd_key_names: Vec<String>,
    /// If none of those that are compared turns out to be equal.
    pub requests_at_most: u64,
    pub bytes_at_most: u64,
    /// What all these requests cost, as if each were an upload: millionths of `currency`.
    pub cost_at_most: Micros,
    pub currency: String,
    #[serde(skip)]
    pub unsyncable: u64,
    /// Folders that were synced to their prefix before.
    #[serde(skip)]
    pub known: u64,
}

impl Estimate {
    /// Returns how much would be done, or may have to be.
    pub fn open(&self) -> u64 {
        self.would_upload + self.would_delete + self.would_compare
    }

    /// Returns the lines in which people are told what becomes of how many.
    fn plan(&self) -> Vec<String> {
        let only_here = self.would_upload - self.would_set_aside;
        let only_here_bytes = self.bytes - self.set_aside_bytes;
        let mut lines = Vec::new();
        let mut say = |count: u64, line: String| lines.extend((count > 0).then_some(line));
        let n = files;
        say(
            self.would_compare,
            format!(
                "{} ({}) of the same size as the object there: compared by content, and sent only if it differs",
                n(self.would_compare),
                show_bytes(self.compare_bytes)
            ),
        );
        say(
            self.would_set_aside,
            format!(
                "{} ({}) of another size than the object there: that is set aside into trash, the file is sent",
                n(self.would_set_aside),
                show_bytes(self.set_aside_bytes)
            ),
        );
        let what = if self.known > 0 {
            "new or changed since it was synced there: sent"
        } else {
            "only here: sent"
        };
        say(
            only_here,
            format!("{} ({}) {what}", n(only_here), show_bytes(only_here_bytes)),
        );
        say(
            self.unchanged,
            format!("{} unchanged since it was synced there", n(self.unchanged)),
        );
        say(
            self.only_there,
            format!(
                "{} ({}) only there: they stay",
                objects(self.only_there),
                show_bytes(self.only_there_bytes)
            ),
        );
        say(
            self.folder_markers,
            format!(
                "{} that only mark a folder: ignored",
                objects(self.folder_markers)
            ),
        );
        let named = self.odd_key_names.iter();
        let named: Vec<_> = named.map(|key| escaped(key.as_bytes())).collect();
        let more = if self.odd_keys > named.len() as u64 {
            ", …"
        } else {
            ""
        };
        say(
            self.odd_keys,
            format!(
                "{} of them under keys that no file can have: `{}`{more}",
                self.odd_keys,
                named.join("`, `")
            ),
        );
        say(
            self.would_delete,
            format!("{} whose file is gone: removed", objects(self.would_delete)),
        );
        say(
            self.held,
            format!("{} deletes held for a person", self.held),
        );
        say(
            self.unsyncable,
            format!("could not sync {}", self.unsyncable),
        );
        say(self.failed, format!("failed {}", self.failed));
        lines.push(format!(
            "so {} ({}) to send with about {} requests; {} ({}) with {} ({} at most) if nothing is equal",
            n(self.would_upload),
            show_bytes(self.bytes),
            self.requests,
            n(self.would_upload + self.would_compare),
            show_bytes(self.bytes_at_most),
            self.requests_at_most,
            price::show(self.cost_at_most, &self.currency)
        ));
        lines
    }
}

fn files(count: u64) -> String {
    format!("{count} file{}", if count == 1 { "" } else { "s" })
}

fn objects(count: u64) -> String {
    format!("{count} object{}", if count == 1 { "" } else { "s" })
}

/// What is told of a dry run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::commands::sync) enum Telling {
    /// What would become of each path, and the sum.
    Paths,
    /// What becomes of how many; of paths only what goes wrong.
    Plan,
    /// The same, and of paths nothing: the run itself will tell.
    PlanFirst,
}

impl Telling {
    /// Returns what its last line is called in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Paths => "summary",
            Self::Plan | Self::PlanFirst => "plan",
        }
    }
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
            "would upload {files} files ({bytes}) with about {requests} requests, for {} at most; {unchanged} unchanged",
            price::show(self.cost_at_most, &self.currency)
        )?;
        if self.would_compare > 0 {
            let (count, bytes) = (self.would_compare, show_bytes(self.compare_bytes));
            write!(
                f,
                "; would compare {count} ({bytes}) with the objects there"
            )?;
        }
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

/// Where it is told what would be done.
pub(super) struct Teller {
    pub out: Out,
    pub json: bool,
    pub quiet: bool,
    pub telling: Telling,
    /// What is under the prefix of the folder that is looked at, if it is met for the first time.
    pub there: Option<There>,
    pub sum: Estimate,
}

impl Teller {
    /// Begins with a folder: what is under its prefix, if it is met for the first time.
    pub fn meets(&mut self, folder: &config::Folder, there: Option<There>) -> anyhow::Result<()> {
        self.there = there;
        let Some(there) = &mut self.there else {
            self.sum.known += 1;
            if self.telling != Telling::Paths && self.says_words() {
                let path = shown(&folder.path);
                self.line(&format!("{path} was synced to {} before", folder.to))?;
            }
            return Ok(());
        };
        let objects = there.objects;
        self.sum.objects_there += objects;
        self.sum.folder_markers += there.markers;
        self.sum.odd_keys += there.odd;
        self.sum.odd_key_names.append(&mut there.odd_names);
        self.asks(objects / 1000 + 1);
        if objects > 0 && self.telling == Telling::Paths && self.says_words() {
            self.line(&format!(
                "{objects} objects are under {} already: equal ones would be adopted without sending, others set aside before their key is written",
                folder.to
            ))?;
        }
        Ok(())
    }

    /// Ends with a folder.
    pub fn leaves(&mut self) {
        let (objects, bytes) = self.there.take().map_or((0, 0), |there| there.left());
        self.sum.only_there += objects;
        self.sum.only_there_bytes += bytes;
    }

    fn asks(&mut self, requests: u64) {
        self.sum.requests += requests;
        self.sum.requests_at_most += requests;
    }

    pub fn upload(
        &mut self,
        folder: &config::Folder,
        path: &RelPath,
        key: &str,
        size: u64,
    ) -> anyhow::Result<Exit> {
        let found = self.there.as_mut().map(|there| there.take(key, size));
        self.sum.bytes_at_most += size;
        let (event, words) = if found == Some(Found::SameSize) {
            self.sum.would_compare += 1;
            self.sum.compare_bytes += size;
            self.asks(1);
            self.sum.requests_at_most += 1 + requests(size);
            ("would_compare", "would compare")
        } else {
            self.sum.would_upload += 1;
            self.sum.bytes += size;
            self.asks(requests(size));
            if found == Some(Found::OtherSize) {
                self.sum.would_set_aside += 1;
                self.sum.set_aside_bytes += size;
                // A look at the object, and its copy.
                self.asks(2);
            }
            ("would_upload", "would upload")
        };
        if self.telling != Telling::Paths {
            return Ok(Exit::Level);
        }
        if self.json {
            self.json(&Event {
                key: Some(key),
                bytes: size,
                ..Event::new(event, &folder.name, path)
            })?;
        } else {
            let size = show_bytes(size);
            self.line(&format!("{words} {path} → {key} ({size})"))?;
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
        self.asks(if is_held {
            0
        } else {
            2 + u64::from(folder.on_delete == OnDelete::Trash)
        });
        if self.telling != Telling::Paths {
            // Only counted.
        } else if self.json {
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
        if self.telling != Telling::PlanFirst {
            tracing::warn!(folder = %folder.name, %path, "could not sync the file: {why}");
        }
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
        if self.telling != Telling::PlanFirst {
            tracing::warn!(folder = %folder.name, %path, "{why}");
        }
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
        if !self.json || self.telling == Telling::PlanFirst {
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
        } else if self.telling == Telling::Paths {
            self.line(&self.sum.to_string())
        } else {
            let lines = self.sum.plan();
            lines.iter().try_for_each(|line| self.line(line))
        }
    }

    fn says_words(&self) -> bool {
        !self.json && !self.quiet
    }

    fn json(&mut self, line: &impl Serialize) -> anyhow::Result<()> {
        self.line(&serde_json::to_string(line)?)
    }

    fn line(&mut self, line: &str) -> anyhow::Result<()> {
        self.out.line(line).context("write the results")
    }
}
