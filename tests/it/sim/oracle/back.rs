//! What comes back from the bucket: the tree that the catalog tells, by the real restore, on a real disk.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use tidewatch::base::path::RelPath;
use tidewatch::base::policy::OnDelete;
use tidewatch::commands::restore::past::{self, Moment};
use tidewatch::restore::plan::OnConflict;
use tidewatch::restore::target::Owners;
use tidewatch::restore::told::Happening;
use tidewatch::restore::{Restore, Settings, Trouble};
use tidewatch::store::Store;
use tidewatch::store::key::KeyMap;
use tokio_util::sync::CancellationToken;

use crate::sim::oracle::Oracle;

/// A file: its content, its time (nanoseconds) and its mode.
type File = (Vec<u8>, i64, u32);

impl Oracle {
    /// A restore into an empty folder brings every file back, byte for byte, with its time and mode, and nothing that was
    /// never there.
    pub fn comes_back(&self) {
        // The disk is real, and so is the time that it takes.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime");
        let dir = tempfile::tempdir().expect("a folder");
        let into = dir.path().join("back");
        runtime.block_on(self.restore(&into));
        let mut back = BTreeMap::new();
        collect(&into, &into, &mut back);
        for (path, real) in self.tree.files() {
            let stat = tidewatch::tree::Tree::stat(&self.tree, &path).expect("it is there");
            let expected = (real.to_vec(), stat.mtime_ns, stat.mode);
            let found = back.remove(&path);
            if found.is_none() && self.is_in_the_way(&path) {
                continue;
            }
            assert!(found.is_some(), "{path} has not come back");
            assert!(
                found.as_ref() == Some(&expected),
                "{path} has come back as another: {:?} for {:?}",
                found.map(|(bytes, ns, mode)| (bytes.len(), ns, mode)),
                (expected.0.len(), expected.1, expected.2)
            );
        }
        let strange: Vec<RelPath> = back
            .into_keys()
            .filter(|path| !self.is_theirs(path))
            .collect();
        // Under `keep` an object that landed when its file was gone is newer than all that the catalog knows of it.
        let is_known = self.is_alone && self.on_delete != OnDelete::Keep;
        assert!(
            !is_known || strange.is_empty(),
            "{strange:?} came back, and nobody has such a file"
        );
    }

    /// Somebody else's object lies below the path as if it were a folder: that is told, and the file is not brought back.
    fn is_in_the_way(&self, path: &RelPath) -> bool {
        let objects = self.bucket.objects();
        let mut theirs = self.planted.keys();
        theirs.any(|other| {
            other != path && other.is_within(path) && objects.contains_key(&format!("p/{other}"))
        })
    }

    fn is_theirs(&self, path: &RelPath) -> bool {
        self.planted.contains_key(path)
    }

    async fn restore(&self, into: &Path) {
        let (store, keys): (Arc<dyn Store>, _) = (Arc::new(self.bucket.clone()), KeyMap::new("p/"));
        let moment = Moment {
            at_ns: None,
            deleted: false,
        };
        let found = past::find(&store, &keys, &[], moment)
            .await
            .expect("readable");
        assert!(
            !found.is_damaged && found.lost.is_empty(),
            "{:?}, lost {:?}",
            found.notes,
            found.lost
        );
        let settings = Settings {
            on_conflict: OnConflict::Fail,
            owners: Owners::Mine,
            requests: 8,
            memory_bytes: 64 << 20,
            is_dry_run: false,
        };
        loop {
            let (counters, stop) = (Arc::default(), CancellationToken::new());
            let mut tell = |_: &Happening<'_>| {};
            let restore = Restore::new(store.clone(), into, settings, counters, stop, &mut tell);
            match restore.run(found.listing.clone()).await {
                // The child of another test has the lock until it becomes its program.
                Err(Trouble::Taken(_)) => tokio::task::yield_now().await,
                Err(trouble) => panic!("{trouble}"),
                Ok(sums) => {
                    let bad = (sums.failed, sums.unverified, sums.untried, sums.conflicts);
                    assert_eq!(bad, (0, 0, 0, 0), "{sums:?}");
                    return;
                }
            }
        }
    }
}

fn collect(root: &Path, folder: &Path, files: &mut BTreeMap<RelPath, File>) {
    let Ok(entries) = fs::read_dir(folder) else {
        // Nothing was there to be brought back.
        return;
    };
    for entry in entries {
        let path = entry.expect("readable").path();
        let stat = fs::symlink_metadata(&path).expect("it is there");
        if stat.is_dir() {
            collect(root, &path, files);
            continue;
        }
        let name = path.strip_prefix(root).expect("below it").as_os_str();
        let name = RelPath::new(name.as_bytes()).expect("a path");
        let mtime_ns = stat.mtime() * 1_000_000_000 + stat.mtime_nsec();
        let content = fs::read(&path).expect("readable");
        files.insert(name, (content, mtime_ns, stat.mode() & 0o7777));
    }
}
