//! Keys, links and metadata that somebody chose who means harm: nothing outside the target, and each is named.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::sync::Arc;

use tidewatch::catalog::Record;
use tidewatch::commands::restore::past::{self, Moment};
use tidewatch::restore::listing::Listing;
use tidewatch::restore::plan::OnConflict;
use tidewatch::restore::target::Owners;
use tidewatch::restore::told::{Happening, Sums, What};
use tidewatch::restore::{Restore, Settings, Trouble};
use tidewatch::store::key::KeyMap;
use tidewatch::store::{Body, Meta, Store};
use tokio_util::sync::CancellationToken;

use crate::catalog::{Scribe, T, put};
use crate::restore::{tree, write};
use crate::support::faulty::{Faulty, Odds};
use crate::support::mem_store::MemStore;

/// Keys that no path has, or none that a file can have.
const REFUSED: &[&str] = &[
    "..",
    "../out",
    "../out/keep",
    "../../etc/passwd",
    "a/..",
    "a/../../out/keep",
    "a/../b",
    "a/b/../../../out/keep",
    "./a",
    "a/.",
    "a/./b",
    ".",
    "/",
    "//",
    "/etc/passwd",
    "//etc/passwd",
    "/../out/keep",
    "a//b",
    "a///b",
    "folder//",
    "nul\0byte",
    "a\0/../../out/keep",
    "\0",
    "‛00",
    "a‛00b",
    "‛2E‛2E",
    "‛2E‛2E/out/keep",
    "..‛2Fout‛2Fkeep",
    "a‛2F..‛2F..‛2Fout",
    "‛2Fetc‛2Fpasswd",
    "‛",
    "‛4",
    "‛zz",
    "‛0a",
    "‛+1",
    "‛41",
    "‛C3‛A9",
    "new\nline",
    "tab\there",
    "bell\u{7}",
    "escape\u{1b}[2J",
    "\u{85}",
    "not a marker/",
    "not/a/marker/",
    "../",
    "../marker/",
    "a/../marker/",
    "/marker/",
    "link",
    "twice.rclonelink",
    "is both",
    "deep/is both",
    ".tidewatch-restore-0123456789abcdef",
    "a/.tidewatch-restore-0123456789abcdef/b",
];

/// Keys that look odd and are harmless.
const TAKEN: &[&str] = &[
    "...",
    "..a",
    "a..",
    "a/...",
    "a/..b",
    " ",
    "two  spaces /. ",
    "trailing ",
    "-rf",
    "~",
    "$HOME",
    "$(reboot)",
    "`reboot`",
    "C:\\windows",
    "..\\..\\out",
    "\\",
    "%2e%2e/%2f",
    "a?b*c",
    "\u{202e}txt.exe",
    "\u{feff}bom",
    "e\u{301}",
    "\u{e9}",
    "CASE",
    "case",
    "‛0A",
    "‛FF",
    "‛E2‛80‛9B",
    ".tidewatchrc",
    ".tidewatch-restore-0123",
    ".git/config",
    "link/child",
    "is both/child",
    "deep/is both/child",
    "twice",
    "proc/self/fd/0",
    "dev/null",
];

/// Runs a restore in memory of a bucket.
async fn run(store: &MemStore, dir: &std::path::Path, on_conflict: OnConflict) -> Told {
    let store: Arc<dyn Store> = Arc::new(store.clone());
    let listing = Listing::of(&store, &KeyMap::new("p/"), &[]).await.unwrap();
    let settings = Settings {
        on_conflict,
        owners: Owners::Mine,
        requests: 8,
        memory_bytes: 1 << 20,
        is_dry_run: false,
    };
    loop {
        let mut told = Vec::new();
        let mut tell = |happening: &Happening<'_>| {
            told.push((happening.what, happening.key.to_owned()));
        };
        let (counters, stop) = (Arc::default(), CancellationToken::new());
        let restore = Restore::new(store.clone(), dir, settings, counters, stop, &mut tell);
        match restore.run(listing.clone()).await {
            // The child of another test has the lock of the run before until it becomes its program.
            Err(Trouble::Taken(_)) => tokio::task::yield_now().await,
            sums => {
                let sums = sums.unwrap();
                return Told { told, sums };
            }
        }
    }
}

struct Told {
    told: Vec<(What, String)>,
    sums: Sums,
}

impl Told {
    fn of(&self, what: What) -> BTreeSet<&str> {
        let told = self.told.iter().filter(|(which, _)| *which == what);
        told.map(|(_, key)| key.strip_prefix("p/").unwrap())
            .collect()
    }
}

async fn link(store: &MemStore, key: &str, target: &str) {
    let bytes = target.as_bytes().to_vec();
    let meta = Meta {
        user: vec![("mode".into(), "0777".to_owned())],
        ..Meta::default()
    };
    store.put(key, Body::of(bytes.into()), &meta).await.unwrap();
}

#[tokio::test]
async fn no_key_leads_out_of_the_target_and_every_refused_one_is_named() {
    assert!(REFUSED.len() + TAKEN.len() >= 60 && REFUSED.len() >= 50);
    let dir = tempfile::tempdir().unwrap();
    let inside = dir.path().join("a/b/in");
    for name in ["out/keep", "a/keep", "a/b/keep", "a/b/out/keep"] {
        write(&dir.path().join(name), b"mine");
    }
    let before = tree(dir.path());
    let store = MemStore::default();
    for key in REFUSED.iter().chain(TAKEN) {
        store.plant(&format!("p/{key}"), key.as_bytes());
    }
    let long = ["x".repeat(256), format!("a/{}/b", "y".repeat(300))];
    for key in &long {
        store.plant(&format!("p/{key}"), b"too long");
    }
    // Ours, and nobody's business.
    store.plant("p/.tidewatch/lease.json", b"{}");
    store.plant("p/", b"");
    store.uproot("p/link");
    link(&store, "p/link.rclonelink", "../../../out").await;
    link(&store, "p/twice.rclonelink", "../../../out").await;
    link(&store, "p/way out.rclonelink", "../../../out").await;

    let told = run(&store, &inside, OnConflict::Fail).await;
    let mut refused: BTreeSet<&str> = REFUSED.iter().copied().collect();
    refused.remove("link");
    refused.insert("link.rclonelink");
    refused.extend(long.iter().map(String::as_str));
    assert_eq!(told.of(What::Refused), refused);
    let mut taken: BTreeSet<&str> = TAKEN.iter().copied().collect();
    taken.insert("way out.rclonelink");
    assert_eq!(told.of(What::Restored), taken);
    assert_eq!(told.told.len(), refused.len() + taken.len());

    let mut after = tree(dir.path());
    after.retain(|name, _| !name.starts_with(b"a/b/in"));
    assert_eq!(before, after);
    assert_eq!(fs::read(inside.join("...")).unwrap(), b"...");
    assert_eq!(fs::read(inside.join("link/child")).unwrap(), b"link/child");
    assert!(inside.join("link").symlink_metadata().unwrap().is_dir());
    let to = fs::read_link(inside.join("way out")).unwrap();
    assert_eq!(to.as_os_str(), "../../../out");
}

#[tokio::test]
async fn what_a_catalog_names_is_refused_like_what_a_listing_names() {
    let mut scribe = Scribe::new();
    let bucket = scribe.bucket.clone();
    let long = "x".repeat(256);
    let names = [
        "a/.tidewatch-restore-0123456789abcdef",
        "good",
        "good/.tidewatch-restore-0123456789abcdef",
        &long,
    ];
    let record = |name: &&str| {
        let key = format!("p/{name}");
        bucket.plant(&key, b"word");
        let etag = Some(bucket.objects()[&key].etag.clone());
        Record {
            etag,
            ..put(name, "word", 1)
        }
    };
    scribe.delta(2, &names.iter().map(record).collect::<Vec<_>>());
    let store: Arc<dyn Store> = Arc::new(bucket.clone());
    for at_ns in [None, Some(T + 10_000_000_000)] {
        let deleted = false;
        let moment = Moment { at_ns, deleted };
        let found = past::find(&store, &KeyMap::new("p/"), &[], moment).await;
        let listing = found.unwrap().listing;
        let taken = listing.wanted.iter().map(|wanted| wanted.path.to_string());
        assert_eq!(taken.collect::<Vec<_>>(), ["good"]);
        let refused = listing.refused.iter().map(|refused| &refused.key[2..]);
        let refused: BTreeSet<&str> = refused.collect();
        assert_eq!(refused, BTreeSet::from([names[0], names[2], names[3]]));
        assert_eq!(listing.refused.len(), 3);
    }
}

#[tokio::test]
async fn nothing_goes_through_a_link_that_an_earlier_restore_made() {
    let dir = tempfile::tempdir().unwrap();
    let inside = dir.path().join("in");
    write(&dir.path().join("out/keep"), b"mine");
    let store = MemStore::default();
    link(&store, "p/way.rclonelink", "../out").await;
    let told = run(&store, &inside, OnConflict::Fail).await;
    assert_eq!(told.sums.restored, 1);
    // Another day the bucket says that it was a folder.
    store.uproot("p/way.rclonelink");
    store.plant("p/way/keep", b"theirs");
    store.plant("p/way/new", b"theirs");
    let before = tree(dir.path());
    for mode in [OnConflict::Fail, OnConflict::Skip, OnConflict::Overwrite] {
        let told = run(&store, &inside, mode).await;
        assert_eq!(told.sums.restored, 0, "{mode:?}");
        assert_eq!(before, tree(dir.path()), "{mode:?}");
    }
}

#[tokio::test]
async fn a_link_that_comes_to_be_while_it_runs_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let inside = dir.path().join("in");
    fs::create_dir_all(&inside).unwrap();
    write(&dir.path().join("out/keep"), b"mine");
    let store = MemStore::default();
    store.plant("p/0", b"first");
    store.plant("p/way/keep", b"theirs");
    let line = Faulty::new(store, 1, Odds::default());
    let target: Arc<dyn Store> = Arc::new(line.clone());
    let listing = Listing::of(&target, &KeyMap::new("p/"), &[]).await.unwrap();
    let before = tree(&dir.path().join("out"));
    // Everything has been looked at, and nothing was there; the folder is made when the content has come.
    let way = inside.join("way");
    line.rule(move |operation, key| {
        if (operation, key) == ("GetObject", "p/way/keep") {
            symlink("../out", &way).unwrap();
        }
        None
    });
    let mut failed = Vec::new();
    let mut tell = |happening: &Happening<'_>| {
        if happening.what == What::Failed {
            failed.push(happening.key.to_owned());
        }
    };
    let settings = Settings {
        on_conflict: OnConflict::Overwrite,
        owners: Owners::Mine,
        requests: 1,
        memory_bytes: 1 << 20,
        is_dry_run: false,
    };
    let (counters, stop) = (Arc::default(), CancellationToken::new());
    let restore = Restore::new(target, &inside, settings, counters, stop, &mut tell);
    restore.run(listing).await.unwrap();
    assert_eq!(before, tree(&dir.path().join("out")));
    assert_eq!(failed, ["p/way/keep"]);
    assert!(inside.join("way").symlink_metadata().unwrap().is_symlink());
}

#[tokio::test]
async fn bits_that_act_in_an_owners_name_do_not_come_back_by_themselves() {
    let dir = tempfile::tempdir().unwrap();
    let store = MemStore::default();
    let meta = Meta {
        user: vec![
            ("gid".into(), "0".to_owned()),
            ("mode".into(), "107777".to_owned()),
            ("mtime".into(), "99999999999999999999".to_owned()),
            ("uid".into(), "0".to_owned()),
        ],
        ..Meta::default()
    };
    let body = Body::of(b"#!/bin/sh".to_vec().into());
    store.put("p/root shell", body, &meta).await.unwrap();
    let inside = dir.path().join("in");
    let told = run(&store, &inside, OnConflict::Fail).await;
    assert_eq!((told.sums.restored, told.sums.without_time), (1, 1));
    let stat = fs::metadata(inside.join("root shell")).unwrap();
    assert_eq!(stat.mode() & 0o7777, 0o777);
    assert_eq!(stat.uid(), fs::metadata(dir.path()).unwrap().uid());
}
