//! Getting files back: the real binary against an endpoint, and crafted buckets in memory.
#![allow(
    clippy::unwrap_used,
    reason = "clippy knows only the functions that are marked as tests"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "these write users' files, which nobody writes durably"
)]

mod comparing;
mod conflicts;
mod drill;
mod faults;
mod hostile;
mod past;
mod resume;
mod round;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use aws_sdk_s3::primitives::ByteStream;
use serde_json::Value;
use tidewatch::base::digest::Sha256;
use tokio::process::Command;

use crate::process::{Ended, World, ended};
use crate::support::endpoint::BUCKET;

/// Where the tests restore to.
pub fn back(world: &World) -> PathBuf {
    world.dir.path().join("back")
}

/// Makes `restore` of the whole prefix from its URL alone, with more arguments behind.
pub fn command(world: &World, more: &[&str]) -> Command {
    let mut command = world.bare(["restore", "s3://tide/p"]);
    command.args(["--endpoint-url", &world.endpoint.url()]);
    command.arg("--to").arg(back(world)).args(more);
    command
}

/// Restores the whole prefix from its URL alone.
pub async fn restore(world: &World, more: &[&str]) -> Ended {
    ended(&mut command(world, more)).await
}

/// Returns the events of a JSON run by their word, and the summary.
pub fn told(ended: &Ended) -> (Vec<(String, String)>, Value) {
    let mut lines: Vec<Value> = ended
        .out
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line of JSON"))
        .collect();
    let summary = lines.pop().expect("a summary");
    assert_eq!(summary["event"], "summary");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut events: Vec<_> = lines
        .iter()
        .map(|line| (text(&line["event"]), text(&line["path"])))
        .collect();
    events.sort();
    (events, summary)
}

/// Writes the config of one folder, with more keys of it behind, and returns where.
pub fn config(world: &World, more: &str) -> String {
    let text = format!(
        "[agent]\nstate_dir = \"{}\"\n[s3]\nendpoint_url = \"{}\"\n[[folder]]\nname = \"f\"\npath = \"{}\"\n\
         to = \"s3://tide/p\"\n{more}\n",
        world.state().display(),
        world.endpoint.url(),
        world.tree("").display(),
    );
    let config = world.dir.path().join("config.toml");
    fs::write(&config, text).unwrap();
    config.display().to_string()
}

/// What a tree holds under one name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Held {
    /// A folder.
    Folder,
    /// A link and its target.
    Link(PathBuf),
    /// A file: content, mode and time.
    File(Sha256, u32, i64, i64),
    /// Anything else.
    Other,
}

/// Returns everything below a folder, by path.
pub fn tree(root: &Path) -> BTreeMap<Vec<u8>, Held> {
    let mut all = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let stat = fs::symlink_metadata(&path).unwrap();
            let held = if stat.is_dir() {
                open.push(path.clone());
                Held::Folder
            } else if stat.is_symlink() {
                Held::Link(fs::read_link(&path).unwrap())
            } else if stat.is_file() {
                let sha256 = Sha256::of(&fs::read(&path).unwrap());
                let mode = stat.mode() & 0o7777;
                Held::File(sha256, mode, stat.mtime(), stat.mtime_nsec())
            } else {
                Held::Other
            };
            let name = path.strip_prefix(root).unwrap();
            all.insert(name.as_os_str().as_bytes().to_vec(), held);
        }
    }
    all
}

/// Stores an object as another tool would.
pub async fn plant(world: &World, key: &str, bytes: &[u8], user: &[(&str, &str)]) {
    let mut put = world.endpoint.client().put_object().bucket(BUCKET).key(key);
    for (name, value) in user {
        put = put.metadata(*name, *value);
    }
    let body = ByteStream::from(bytes.to_vec());
    put.body(body).send().await.expect("a put");
}

/// Writes a file into what is restored to.
pub fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// Returns the names of a folder, in order.
pub fn names(folder: &Path) -> Vec<Vec<u8>> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().as_bytes().to_vec())
        .collect();
    names.sort();
    names
}

/// Takes bytes as a path.
pub fn path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}
