//! How the last restore drill of each folder went, in the state folder: what `status` shows.
//!
//! Written by rename, so that a reader never sees half of it. What cannot be read counts as never drilled: the next drill
//! writes it anew.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

const NAME: &str = "drill.json";

/// How a drill went, in the words of the JSON contract.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Drilled {
    /// When it began, wall clock, nanoseconds since the epoch.
    pub at_ns: i64,
    /// Whether everything that was tried came back right.
    pub ok: bool,
    /// Files that came back.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Of them, files whose content was proven by a hash or checksum.
    pub verified: u64,
    /// Of them, files that are the same on the disk.
    pub same: u64,
    /// Of them, files that have changed on the disk, or gone, since they were synced.
    pub changed: u64,
    /// What did not come back, or came back wrong; the first of them.
    pub wrong: Vec<String>,
    /// Why nothing could be tried.
    pub error: Option<String>,
    /// How long it took, seconds.
    pub seconds: f64,
}

/// Returns how the last drills went, by the folder's URL.
pub fn read(state_dir: &Path) -> BTreeMap<String, Drilled> {
    let text = fs::read(state_dir.join(NAME)).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// Keeps how a drill of the folder that goes `to` went.
#[expect(
    clippy::disallowed_methods,
    reason = "not durable on purpose: after a power cut the drill before it, or none, is as true"
)]
pub fn keep(state_dir: &Path, to: &str, drilled: &Drilled) -> io::Result<()> {
    // Another one that ends just now waits, so that neither is lost. A filesystem that has no locks on folders keeps
    // nobody out.
    let turn = fs::File::open(state_dir)?;
    let _ = rustix::fs::flock(&turn, rustix::fs::FlockOperation::LockExclusive);
    let mut all = read(state_dir);
    all.insert(to.to_owned(), drilled.clone());
    // Two that are not kept out must at least not write into one file.
    let random = fastrand::u64(..);
    let temporary = state_dir.join(format!("{NAME}.{random:016x}"));
    let mut options = OpenOptions::new();
    let options = options.write(true).create_new(true).mode(0o600);
    let written = options.open(&temporary).and_then(|mut file| {
        file.write_all(&serde_json::to_vec(&all)?)?;
        fs::rename(&temporary, state_dir.join(NAME))
    });
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drills_that_end_at_once_are_all_kept() {
        let dir = tempfile::tempdir().expect("a folder");
        std::thread::scope(|scope| {
            for number in 0..16 {
                let dir = dir.path();
                scope.spawn(move || {
                    let drilled = Drilled::default();
                    keep(dir, &format!("s3://{number}/"), &drilled).expect("it is kept");
                });
            }
        });
        assert_eq!(read(dir.path()).len(), 16);
    }

    #[test]
    fn each_folder_has_its_last_drill() {
        let dir = tempfile::tempdir().expect("a folder");
        assert_eq!(read(dir.path()), BTreeMap::new());
        let drilled = |files| Drilled {
            files,
            ..Drilled::default()
        };
        for (to, files) in [("s3://a/", 1), ("s3://b/", 2), ("s3://a/", 3)] {
            keep(dir.path(), to, &drilled(files)).expect("it is kept");
        }
        let all = read(dir.path());
        assert_eq!(all.len(), 2);
        assert_eq!((all["s3://a/"].files, all["s3://b/"].files), (3, 2));
        let names = fs::read_dir(dir.path()).expect("a listing").count();
        assert_eq!(names, 1, "nothing is left beside it");
        let mut half = fs::File::create(dir.path().join(NAME)).expect("a file");
        half.write_all(b"{\"s3://a/\":").expect("half of it");
        assert_eq!(read(dir.path()), BTreeMap::new());
    }
}
