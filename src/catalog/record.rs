//! The lines of a link: what they say, and how they are written and read.
//!
//! Never believes a line: a path that could leave the folder, a key that is not the path's own, a place outside trash are
//! errors, which name the line.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::base::clock::{parse_rfc3339_nanos, rfc3339_nanos};
use crate::base::digest::Sha256;
use crate::base::drill::Drill;
use crate::base::path::{RelPath, escaped};
use crate::base::stat::FolderStamp;
use crate::store::key::KeyMap;

/// The format that this version writes, and the newest that it reads.
pub const FORMAT: u64 = 1;

/// What the first line of a link says of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// Its number, from 1: also its name.
    pub number: u64,
    /// The SHA-256 of the link before, as it is stored; `None` for the first.
    pub previous: Option<Sha256>,
    /// The agent that wrote it, as its manifest names it.
    pub agent: String,
    /// What it holds.
    pub kind: Kind,
    /// With which link reading may begin to know the whole tree after this one: the first of the latest complete snapshot,
    /// or 1 where the chain began with an empty folder; 0: none yet.
    pub base: u64,
    /// The number of its first record in the agent's log; of a snapshot, of the last record before it.
    pub first: u64,
    /// The number of its last record in the agent's log; of a snapshot, of the last record before it.
    pub last: u64,
    /// When it was made, wall clock, nanoseconds since the epoch.
    pub time_ns: i64,
}

/// What a link holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// What has changed, in the order in which it did.
    Delta,
    /// A part of the whole tree, by path. Rows may change while it is made: the deltas behind it are replayed over it.
    Snapshot {
        /// The number of the snapshot's first link.
        began: u64,
        /// Whether it goes on in the next link.
        more: bool,
    },
}

/// What happened to a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// The path now has this content, under its key.
    Put,
    /// The file is gone from the disk. With a key, its object is still there.
    Gone,
    /// The object that the path had was copied to `trash_key`.
    Aside,
    /// The path is a folder, with this time, mode and owner.
    Folder,
    /// The folder is gone from the disk.
    FolderGone,
    /// A restore drill has ended; it is about no path.
    Drill,
}

impl Op {
    /// Returns true for what happens to a file.
    pub fn is_of_file(self) -> bool {
        matches!(self, Self::Put | Self::Gone | Self::Aside)
    }
}

/// One line, about a path or a drill.
///
/// Invariant: a `Put` has everything but `trash_key` and `drill`, and perhaps a version; an `Aside` has its `trash_key`, a
/// `Folder` its time, mode and owner, a `Drill` its `drill` and the root as its path; no other has either.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// What happened.
    pub op: Op,
    /// To which path.
    pub path: RelPath,
    /// Length in bytes.
    pub size: Option<u64>,
    /// The file's mtime, nanoseconds since the epoch.
    pub mtime_ns: Option<i64>,
    /// The file's permission bits.
    pub mode: Option<u32>,
    /// The file's owner.
    pub uid: Option<u32>,
    /// The file's group.
    pub gid: Option<u32>,
    /// The content's name. Of a `Gone` and an `Aside`: the content that the path had.
    pub sha256: Option<Sha256>,
    /// The whole key under which the object is.
    pub key: Option<String>,
    /// The whole key under which it was set aside.
    pub trash_key: Option<String>,
    /// The object's ETag; of an `Aside`, the one that it had under the path's key.
    pub etag: Option<String>,
    /// The object's version, in a versioned bucket; of an `Aside`, the one that it had under the path's key.
    pub version_id: Option<String>,
    /// When, wall clock of the agent, nanoseconds since the epoch. Of a `Put`: when it was found level.
    pub time_ns: i64,
    /// How a drill went.
    pub drill: Option<Box<Drill>>,
}

/// Why a line, or a link, cannot be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// A newer version has written it.
    Newer(u64),
    /// It is not what a link is; why.
    Broken(String),
}

/// The first line. It has every column that any line of its link has, so that what guesses them from the first lines sees
/// all of them.
#[derive(Serialize, Deserialize)]
struct HeaderLine {
    op: String,
    #[serde(flatten, skip_deserializing)]
    nothing: Nothing,
    time: String,
    format: u64,
    number: u64,
    previous: String,
    agent: String,
    kind: String,
    snapshot: Option<u64>,
    base: u64,
    first: u64,
    last: u64,
    more: bool,
}

/// The columns of a record, in the header.
#[derive(Default, Serialize)]
struct Nothing {
    path: Option<()>,
    path_base64: Option<()>,
    size: Option<()>,
    mtime: Option<()>,
    mode: Option<()>,
    uid: Option<()>,
    gid: Option<()>,
    sha256: Option<()>,
    key: Option<()>,
    trash_key: Option<()>,
    etag: Option<()>,
    version_id: Option<()>,
    drill: Option<()>,
}

#[derive(Serialize, Deserialize)]
struct RecordLine<'a> {
    op: Op,
    #[serde(borrow)]
    path: Option<Cow<'a, str>>,
    path_base64: Option<String>,
    size: Option<u64>,
    mtime: Option<String>,
    mode: Option<String>,
    uid: Option<u32>,
    gid: Option<u32>,
    sha256: Option<String>,
    #[serde(borrow)]
    key: Option<Cow<'a, str>>,
    #[serde(borrow)]
    trash_key: Option<Cow<'a, str>>,
    #[serde(borrow)]
    etag: Option<Cow<'a, str>>,
    #[serde(borrow)]
    version_id: Option<Cow<'a, str>>,
    time: String,
    /// There are a few in a year: the other lines do without the column.
    #[serde(skip_serializing_if = "Option::is_none")]
    drill: Option<Box<Drill>>,
}

/// What a line of any format has.
#[derive(Deserialize)]
struct FormatLine {
    op: String,
    format: u64,
}

impl Header {
    /// Returns the line, with its end.
    pub fn line(&self) -> Vec<u8> {
        let (kind, snapshot, more) = match self.kind {
            Kind::Delta => ("delta", None, false),
            Kind::Snapshot { began, more } => ("snapshot", Some(began), more),
        };
        let mut line = Vec::with_capacity(512);
        write(
            &HeaderLine {
                op: "link".to_owned(),
                nothing: Nothing::default(),
                time: rfc3339_nanos(self.time_ns),
                format: FORMAT,
                number: self.number,
                previous: self.previous.map(Sha256::to_hex).unwrap_or_default(),
                agent: self.agent.clone(),
                kind: kind.to_owned(),
                snapshot,
                base: self.base,
                first: self.first,
                last: self.last,
                more,
            },
            &mut line,
        );
        line
    }

    /// Reads a link's first line.
    pub fn parse(line: &[u8]) -> Result<Self, Fault> {
        let seen: FormatLine =
            serde_json::from_slice(line).map_err(|error| broken(1, &error.to_string()))?;
        if seen.op != "link" {
            return Err(broken(1, "it is not a link's header"));
        }
        if seen.format > FORMAT {
            return Err(Fault::Newer(seen.format));
        }
        let line: HeaderLine =
            serde_json::from_slice(line).map_err(|error| broken(1, &error.to_string()))?;
        let previous = match line.previous.as_str() {
            "" => None,
            text => Some(Sha256::from_hex(text).ok_or_else(|| broken(1, "`previous` is no hash"))?),
        };
        let kind = match (line.kind.as_str(), line.snapshot) {
            ("delta", _) => Kind::Delta,
            ("snapshot", Some(began)) if began <= line.number => Kind::Snapshot {
                began,
                more: line.more,
            },
            _ => return Err(broken(1, "it is neither a delta nor a snapshot")),
        };
        Ok(Self {
            number: line.number,
            previous,
            agent: line.agent,
            kind,
            base: line.base,
            first: line.first,
            last: line.last,
            time_ns: time(1, &line.time)?,
        })
    }
}

impl Record {
    /// Adds the line, with its end, to `lines`.
    pub fn write(&self, lines: &mut Vec<u8>) {
        let bytes = self.path.as_bytes();
        let (path, path_base64) = match std::str::from_utf8(bytes) {
            Ok(text) => (Cow::Borrowed(text), None),
            Err(_) => (Cow::Owned(escaped(bytes)), Some(STANDARD.encode(bytes))),
        };
        write(
            &RecordLine {
                op: self.op,
                path: (!self.path.is_root()).then_some(path),
                path_base64,
                size: self.size,
                mtime: self.mtime_ns.map(rfc3339_nanos),
                mode: self.mode.map(|mode| format!("{mode:04o}")),
                uid: self.uid,
                gid: self.gid,
                sha256: self.sha256.map(Sha256::to_hex),
                key: self.key.as_deref().map(Cow::Borrowed),
                trash_key: self.trash_key.as_deref().map(Cow::Borrowed),
                etag: self.etag.as_deref().map(Cow::Borrowed),
                version_id: self.version_id.as_deref().map(Cow::Borrowed),
                time: rfc3339_nanos(self.time_ns),
                drill: self.drill.clone(),
            },
            lines,
        );
    }

    /// Reads line `number` (from 1) of a link of the folder whose keys are `keys`.
    pub fn parse(line: &[u8], number: u64, keys: &KeyMap) -> Result<Self, Fault> {
        let bad = |why: &str| broken(number, why);
        let line: RecordLine<'_> =
            serde_json::from_slice(line).map_err(|error| bad(&error.to_string()))?;
        let path = match (&line.path_base64, &line.path) {
            (Some(text), _) => STANDARD
                .decode(text)
                .map_err(|_| bad("`path_base64` is not base64"))?,
            (None, Some(path)) => path.as_bytes().to_vec(),
            (None, None) => Vec::new(),
        };
        let path = RelPath::new(&path)
            .filter(|path| path.is_root() == (line.op == Op::Drill))
            .ok_or_else(|| bad("the path is none that a file can have"))?;
        // Of a file the key tells; a folder has none.
        let is_own = || keys.is_reserved(&format!("{}{path}", keys.prefix()));
        if matches!(line.op, Op::Folder | Op::FolderGone) && is_own() {
            return Err(bad("the path is Tidewatch's own"));
        }
        let key = line.key.map(Cow::into_owned);
        if key
            .as_ref()
            .is_some_and(|key| keys.key(&path).as_ref() != Ok(key))
        {
            return Err(bad("the key is not the path's own"));
        }
        let trash_key = line.trash_key.map(Cow::into_owned);
        let trash = keys.trash_prefix();
        if trash_key
            .as_ref()
            .is_some_and(|key| !key.starts_with(&trash) || key.len() == trash.len())
        {
            return Err(bad("`trash_key` is not in trash"));
        }
        let stamp = |text: &Option<String>| text.as_deref().map(|text| time(number, text));
        let mode = |text: &String| {
            let mode = u32::from_str_radix(text, 8).ok();
            mode.filter(|mode| *mode <= 0o7777)
                .ok_or_else(|| bad("`mode` is none"))
        };
        let hash = |text: &String| Sha256::from_hex(text).ok_or_else(|| bad("`sha256` is no hash"));
        let record = Self {
            op: line.op,
            path,
            size: line.size,
            mtime_ns: stamp(&line.mtime).transpose()?,
            mode: line.mode.as_ref().map(mode).transpose()?,
            uid: line.uid,
            gid: line.gid,
            sha256: line.sha256.as_ref().map(hash).transpose()?,
            key,
            trash_key,
            etag: line.etag.map(Cow::into_owned),
            version_id: line.version_id.map(Cow::into_owned),
            time_ns: time(number, &line.time)?,
            drill: line.drill,
        };
        match record.op {
            Op::Put if record.known().is_none() => Err(bad("a `put` lacks what it has to say")),
            Op::Aside if record.trash_key.is_none() => Err(bad("an `aside` does not say where")),
            Op::Folder if record.folder().is_none() => {
                Err(bad("a `folder` lacks what it has to say"))
            }
            Op::Drill if record.drill.is_none() => Err(bad("a `drill` does not say how it went")),
            _ => Ok(record),
        }
    }

    /// Returns what a `Folder` says; `None` for others.
    pub fn folder(&self) -> Option<FolderStamp> {
        if self.op != Op::Folder {
            return None;
        }
        Some(FolderStamp {
            mtime_ns: self.mtime_ns?,
            mode: self.mode?,
            uid: self.uid?,
            gid: self.gid?,
        })
    }

    /// Returns what a `Put` says; `None` for others.
    pub fn known(&self) -> Option<Known> {
        if self.op != Op::Put {
            return None;
        }
        Some(Known {
            size: self.size?,
            mtime_ns: self.mtime_ns?,
            mode: self.mode?,
            uid: self.uid?,
            gid: self.gid?,
            sha256: self.sha256?,
            key: self.key.clone()?,
            etag: self.etag.clone()?,
            version_id: self.version_id.clone(),
            time_ns: self.time_ns,
        })
    }
}

/// What the catalog knows of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Known {
    /// Length in bytes.
    pub size: u64,
    /// The file's mtime, nanoseconds since the epoch.
    pub mtime_ns: i64,
    /// The file's permission bits.
    pub mode: u32,
    /// The file's owner.
    pub uid: u32,
    /// The file's group.
    pub gid: u32,
    /// The content's name.
    pub sha256: Sha256,
    /// The whole key of its object.
    pub key: String,
    /// The object's ETag.
    pub etag: String,
    /// The object's version, in a versioned bucket.
    pub version_id: Option<String>,
    /// When it was found level, wall clock of the agent, nanoseconds since the epoch.
    pub time_ns: i64,
}

fn write(line: &impl Serialize, lines: &mut Vec<u8>) {
    serde_json::to_writer(&mut *lines, line).expect("a line has only plain fields");
    lines.push(b'\n');
}

fn time(number: u64, text: &str) -> Result<i64, Fault> {
    parse_rfc3339_nanos(text).ok_or_else(|| broken(number, "a time is none that can be"))
}

/// Makes the fault of a line, from 1.
pub(in crate::catalog) fn broken(line: u64, why: &str) -> Fault {
    // What the parser quotes of the line is whatever somebody has put into the bucket.
    Fault::Broken(format!("line {line}: {}", escaped(why.as_bytes())))
}
