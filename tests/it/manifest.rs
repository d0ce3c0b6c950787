//! The manifest, on real files in real folders: rows, and what can happen to a state folder.

mod damage;
pub mod faults;
mod log;
mod places;
mod rows;
mod threads;

use tidewatch::base::digest::Sha256;
use tidewatch::base::path::RelPath;
use tidewatch::base::stat::{Kind, Stat};
use tidewatch::manifest::{Change, Content, Entry, FolderId, FolderKey, Manifest, State};

/// Some wall-clock stamp: 2025-11-24T16:00:00Z.
const NOW_NS: i64 = 1_764_000_000_000_000_000;

fn path(text: impl AsRef<[u8]>) -> RelPath {
    RelPath::new(text.as_ref()).expect("a valid path")
}

/// A content of `size` bytes whose hash is that of `word`.
fn content(word: &str, size: u64) -> Content {
    Content {
        stat: Stat {
            kind: Kind::File,
            size,
            mtime_ns: -1,
            ctime_ns: NOW_NS,
            dev: u64::MAX,
            ino: 1 << 63,
            mode: 0o7777,
            uid: u32::MAX,
            gid: 0,
            nlink: 2,
        },
        read_at_ns: NOW_NS + 1,
        sha256: Sha256::of(word.as_bytes()),
        etag: format!("\"{word}\""),
        version_id: None,
        synced_at_ns: NOW_NS + 2,
        doubtful: false,
    }
}

/// A row in `state` that stores `word`, or nothing if it is `Unsent`.
fn row(name: impl AsRef<[u8]>, state: State, word: &str) -> Entry {
    Entry {
        path: path(name),
        state,
        stored: (state != State::Unsent).then(|| content(word, word.len() as u64)),
        want: None,
        ambiguous_until_ns: 0,
        failure: None,
        held: None,
    }
}

fn synced(name: impl AsRef<[u8]>) -> Entry {
    row(name, State::Synced, "tide")
}

fn puts(rows: &[Entry]) -> Vec<Change> {
    rows.iter().cloned().map(Change::Put).collect()
}

fn key() -> FolderKey {
    FolderKey {
        path: b"/srv/\xff".to_vec(),
        endpoint: String::new(),
        bucket: "bucket".to_owned(),
        prefix: "host/".to_owned(),
    }
}

fn folder(manifest: &Manifest) -> FolderId {
    manifest.folder(&key(), "photos").expect("a folder").id
}

/// All rows of a folder, through pages of three.
fn all(manifest: &Manifest, folder: FolderId) -> Vec<Entry> {
    let mut found: Vec<Entry> = Vec::new();
    loop {
        let after = found
            .last()
            .map_or(RelPath::root(), |last| last.path.clone());
        let page = manifest
            .page(folder, &RelPath::root(), &after, 3)
            .expect("a page");
        if page.is_empty() {
            return found;
        }
        found.extend(page);
    }
}

/// Returns a count from the environment, for long runs.
fn count(name: &str, usual: usize) -> usize {
    std::env::var(name).map_or(usual, |text| text.parse().expect("a number"))
}
