//! `tidewatch verify`, the real program against an endpoint on loopback: each kind of difference made for real.
#![cfg(feature = "demo")]
#![allow(
    clippy::unwrap_used,
    reason = "clippy knows only the functions that are marked as tests"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "these write users' files, which nobody writes durably"
)]

mod contents;
mod differences;
mod live;
mod old_state;
mod repair;

use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use tidewatch::base::clock::Clock;
use tidewatch::base::path::RelPath;
use tidewatch::manifest::{Change, Entry, Manifest};
use tidewatch::tree::Tree as _;
use tidewatch::tree::real::RealTree;
use tokio::process::Command;

use crate::process::{Ended, World, ended};

/// What `verify --json` said: the code, the lines as `event path`, sorted, and the summary.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub lines: Vec<String>,
    pub all: Vec<Value>,
    pub summary: Value,
    pub err: String,
}

impl Said {
    pub fn count(&self, field: &str) -> u64 {
        self.summary[field].as_u64().expect("a number")
    }
}

/// Makes `verify` of the world's state folder; where the bucket is, the state knows.
pub fn command(world: &World, more: &[&str]) -> Command {
    let mut command = world.bare(["verify", "--state-dir"]);
    command.arg(world.state()).args(more);
    command
}

pub async fn verify(world: &World, more: &[&str]) -> Ended {
    ended(&mut command(world, more)).await
}

/// Verifies with `--json`.
pub async fn said(world: &World, more: &[&str]) -> Said {
    said_by(&mut command(world, &[&["--json"], more].concat())).await
}

pub async fn said_by(command: &mut Command) -> Said {
    let ended = ended(command).await;
    let mut all: Vec<Value> = ended
        .out
        .lines()
        .map(|line| serde_json::from_str(line).expect("an object"))
        .collect();
    let summary = all.pop().expect("a summary");
    assert_eq!(summary["event"], "summary", "{}", ended.err);
    let mut lines: Vec<String> = all
        .iter()
        .map(|line| {
            let text = |field: &str| line[field].as_str().expect("a text").to_owned();
            format!("{} {}", text("event"), text("path"))
        })
        .collect();
    lines.sort();
    Said {
        code: ended.code,
        lines,
        all,
        summary,
        err: ended.err,
    }
}

/// Writes a config that names the world's folder, and returns where it is.
pub fn config(world: &World) -> PathBuf {
    config_with(world, "")
}

/// Writes a config with these lines for the folder.
pub fn config_with(world: &World, more: &str) -> PathBuf {
    let text = format!(
        "[agent]\nlisten = \"\"\nstate_dir = \"{}\"\n[s3]\nendpoint_url = \"{}\"\n\
         [[folder]]\nname = \"photos\"\npath = \"{}\"\nto = \"s3://tide/p\"\nsettle = \"100ms\"\n{more}\n",
        world.state().display(),
        world.endpoint.url(),
        world.tree("").display(),
    );
    let place = world.dir.path().join("config.toml");
    fs::write(&place, text).unwrap();
    place
}

pub fn path(text: &str) -> RelPath {
    RelPath::new(text.as_bytes()).expect("a path")
}

/// Returns a path's row.
pub fn row(world: &World, at: &str) -> Entry {
    let manifest = Manifest::open_read_only(&world.state()).unwrap().unwrap();
    let folder = manifest.folders().unwrap().remove(0).id;
    let rows = manifest.entries(folder, &[path(at)]).unwrap();
    rows.into_iter().next().flatten().expect("a row")
}

/// Gives a file other content that only its bytes show: the row has the stamps that the file has now.
pub fn rot(world: &World, at: &str, content: &[u8]) {
    fs::write(world.tree(at), content).unwrap();
    let mut rotten = row(world, at);
    let stat = RealTree::open(&world.tree("")).stat(&path(at)).unwrap();
    let stored = rotten.stored.as_mut().expect("it was sent");
    assert_eq!(stored.stat.size, stat.size, "a flipped bit changes no size");
    stored.stat = stat;
    (stored.read_at_ns, stored.doubtful) = (stat.ctime_ns + 60_000_000_000, false);
    let (manifest, _) = Manifest::open(&world.state(), Clock::Real.now().wall_ns).unwrap();
    let folder = manifest.folders().unwrap().remove(0).id;
    manifest.commit(folder, &[Change::Put(rotten)]).unwrap();
    manifest.close();
}

/// Flips a bit of an object where the endpoint keeps it.
pub fn damage(world: &World, at: &str) {
    let place = world.endpoint.dir().join("p").join(at);
    let mut bytes = fs::read(&place).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&place, &bytes).unwrap();
    assert_eq!(world.object(at).unwrap(), bytes);
}

/// Removes an object, as somebody else would.
pub async fn lose(world: &World, at: &str) {
    let request = world.endpoint.client().delete_object();
    let request = request.bucket("tide").key(format!("p/{at}"));
    request.send().await.unwrap();
}

/// Stores an object, as somebody else would.
pub async fn put(world: &World, at: &str, content: &str) {
    let request = world.endpoint.client().put_object();
    let request = request.bucket("tide").key(format!("p/{at}"));
    let body = content.as_bytes().to_vec().into();
    request.body(body).send().await.unwrap();
}

/// Returns what lies in trash, as pairs of path and content.
pub fn trash(world: &World) -> Vec<(String, Vec<u8>)> {
    let objects = world.endpoint.objects().into_iter();
    objects
        .filter_map(|(key, bytes)| {
            let (_, path) = key.strip_prefix("p/.tidewatch/trash/")?.split_once('/')?;
            Some((path.to_owned(), bytes))
        })
        .collect()
}
