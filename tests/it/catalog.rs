//! The catalog: its format, what a reader makes of a chain, and what the agent writes.

mod chain;
mod format;
mod writer;

use std::sync::Arc;

use tidewatch::base::digest::Sha256;
use tidewatch::base::drill::Drill;
use tidewatch::base::path::RelPath;
use tidewatch::catalog::{self, Chain, Draft, Header, Kind, Op, Record};
use tidewatch::store::key::KeyMap;

use crate::support::mem_store::MemStore;

/// 2025-11-24T16:00:00Z.
pub const T: i64 = 1_764_000_000_000_000_000;
const SECOND: i64 = 1_000_000_000;

fn keys() -> KeyMap {
    KeyMap::new("p/")
}

/// The whole key of a link.
fn key(number: u64) -> String {
    catalog::key(&keys(), number)
}

fn path(name: impl AsRef<[u8]>) -> RelPath {
    RelPath::new(name.as_ref()).unwrap()
}

/// The path has the content `word`, since so many seconds after [`T`].
pub fn put(name: impl AsRef<[u8]>, word: &str, seconds: i64) -> Record {
    let path = path(name);
    Record {
        op: Op::Put,
        size: Some(word.len() as u64),
        mtime_ns: Some(T + seconds * SECOND - 7),
        mode: Some(0o644),
        uid: Some(1000),
        gid: Some(100),
        sha256: Some(Sha256::of(word.as_bytes())),
        key: Some(keys().key(&path).unwrap()),
        trash_key: None,
        etag: Some(format!("etag of {word}")),
        version_id: None,
        time_ns: T + seconds * SECOND,
        drill: None,
        path,
    }
}

/// The path is a folder with this mode.
fn folder(name: impl AsRef<[u8]>, mode: u32, seconds: i64) -> Record {
    Record {
        op: Op::Folder,
        size: None,
        mode: Some(mode),
        sha256: None,
        key: None,
        etag: None,
        ..put(name, "", seconds)
    }
}

/// The folder is gone.
fn folder_gone(name: &str, seconds: i64) -> Record {
    Record {
        op: Op::FolderGone,
        mtime_ns: None,
        mode: None,
        uid: None,
        gid: None,
        ..folder(name, 0, seconds)
    }
}

/// A drill has ended.
fn drill(seconds: i64) -> Record {
    let how = Drill {
        host: "tide-1".to_owned(),
        ok: true,
        files: 12,
        bytes: 3456,
        same: 11,
        changed: 1,
        ..Drill::default()
    };
    Record {
        op: Op::Drill,
        path: RelPath::root(),
        drill: Some(Box::new(how)),
        ..folder_gone("a", seconds)
    }
}

/// The file is gone; its object stays.
fn gone(name: &str, word: &str, seconds: i64) -> Record {
    Record {
        op: Op::Gone,
        ..put(name, word, seconds)
    }
}

/// The object is in trash.
fn aside(name: &str, word: &str, seconds: i64) -> Record {
    Record {
        op: Op::Aside,
        key: None,
        trash_key: Some(format!("p/.tidewatch/trash/T{seconds}/{name}")),
        ..put(name, word, seconds)
    }
}

/// A chain that is written link after link.
pub struct Scribe {
    pub bucket: MemStore,
    agent: String,
    number: u64,
    previous: Option<Sha256>,
    base: u64,
    seq: u64,
}

impl Scribe {
    pub fn new() -> Self {
        Self {
            bucket: MemStore::default(),
            agent: "a".repeat(32),
            number: 0,
            previous: None,
            base: 1,
            seq: 0,
        }
    }

    fn link(&mut self, kind: Kind, seconds: i64, records: &[Record]) {
        self.number += 1;
        if let Kind::Snapshot { began, more: false } = kind {
            self.base = began;
        }
        let first = self.seq + 1;
        if kind == Kind::Delta {
            self.seq += records.len() as u64;
        }
        let mut draft = Draft::default();
        for record in records {
            draft.push(record);
        }
        let header = Header {
            number: self.number,
            previous: self.previous,
            agent: self.agent.clone(),
            kind,
            base: self.base,
            first: if kind == Kind::Delta { first } else { self.seq },
            last: self.seq,
            time_ns: T + seconds * SECOND,
        };
        let (bytes, hash) = draft.finish(&header).unwrap();
        self.bucket.plant(&key(self.number), &bytes);
        self.previous = Some(hash);
    }

    pub fn delta(&mut self, seconds: i64, records: &[Record]) {
        self.link(Kind::Delta, seconds, records);
    }

    fn snapshot(&mut self, seconds: i64, records: &[Record]) {
        let began = self.number + 1;
        self.link(Kind::Snapshot { began, more: false }, seconds, records);
    }

    async fn chain(&self) -> Chain {
        chain_of(&self.bucket).await
    }
}

async fn chain_of(bucket: &MemStore) -> Chain {
    Chain::list(Arc::new(bucket.clone()), keys()).await.unwrap()
}

/// Returns the names of a tree.
fn names(tree: &catalog::Tree) -> Vec<String> {
    tree.keys().map(ToString::to_string).collect()
}
