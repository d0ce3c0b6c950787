//! What must be true: of every change of the bucket when it is asked for, of what the manifest claims at any time, and of
//! everything at the end.

mod back;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tidewatch::base::digest::Sha256;
use tidewatch::base::path::RelPath;
use tidewatch::base::policy::OnDelete;
use tidewatch::catalog::{Chain, Folders, Known, Tree, Trouble};
use tidewatch::manifest::{Entry, FolderId, Manifest, State, Waiting};
use tidewatch::store::key::KeyMap;
use tidewatch::sync::plan;

use crate::support::faulty::Faulty;
use crate::support::mem_store::MemStore;
use crate::support::mem_tree::MemTree;

const SECOND_NS: i64 = 1_000_000_000;
/// A file that has been there for so long must not lose its object: longer than from the last look to the request.
const THERE_NS: i64 = 60 * SECOND_NS;
/// What a file has been for so long, in the open, has been found by a rescan: one every minute, with jitter.
const FOUND_NS: i64 = 80 * SECOND_NS;

/// Knows everything, and judges.
#[derive(Clone)]
pub struct Oracle {
    pub tree: MemTree,
    pub bucket: MemStore,
    pub store: Faulty<MemStore>,
    pub manifest: Manifest,
    pub folder: FolderId,
    pub on_delete: OnDelete,
    /// Objects of others, as they were planted.
    pub planted: Arc<BTreeMap<RelPath, Vec<u8>>>,
    /// How many removals were judged.
    pub judged: Arc<AtomicU64>,
    /// Nobody else writes there, and the state is what it was: nothing is ever left that nobody remembers, and what is
    /// claimed is true at any time.
    pub is_alone: bool,
}

impl Oracle {
    /// Judges from now on what is asked for on a line.
    pub fn watch(&self, line: &Faulty<MemStore>) {
        let oracle = self.clone();
        line.on_delete(move |key| oracle.removal(key));
        let oracle = self.clone();
        line.on_change(move |operation, key| oracle.change(operation, key));
    }

    /// A change of a file's object is asked for: that it may come has to be on record.
    fn change(&self, operation: &str, key: &str) {
        let keys = KeyMap::new("p/");
        // What becomes of an upload that is given up, no file's object can tell.
        if key.is_empty() || keys.is_reserved(key) || operation == "AbortMultipartUpload" {
            return;
        }
        let path = keys.path(key).expect("a key of ours");
        let row = self
            .manifest
            .entries(self.folder, std::slice::from_ref(&path))
            .expect("readable")
            .pop()
            .flatten();
        let state = row.map(|row| row.state);
        assert_eq!(
            state,
            Some(State::Open),
            "{operation} of {path} is asked for, and no intent is on record"
        );
    }

    /// A removal is asked for: is it right?
    fn removal(&self, key: &str) {
        let keys = KeyMap::new("p/");
        if keys.is_reserved(key) {
            return;
        }
        self.judged.fetch_add(1, Ordering::Relaxed);
        let path = keys.path(key).expect("a key of ours");
        let now_ns = self.tree.now_ns();
        if let Some(file) = self.tree.real().get(&path) {
            let there = now_ns - file.since_ns;
            assert!(
                there < THERE_NS,
                "the object of {path} is removed, and the file has been there for {there} ns"
            );
        }
        if self.on_delete == OnDelete::Delete {
            self.has_a_copy(&path, key, now_ns);
        }
    }

    /// The content of a file that was renamed long enough ago is somewhere else in the bucket too.
    fn has_a_copy(&self, path: &RelPath, key: &str, now_ns: i64) {
        let mut rows = self
            .manifest
            .entries(self.folder, std::slice::from_ref(path))
            .expect("readable");
        let Some(content) = rows.pop().flatten().and_then(|row| row.stored) else {
            return;
        };
        let is_long_ago = |ns: i64| now_ns - ns >= FOUND_NS;
        if !self.tree.clear_since_ns().is_some_and(is_long_ago) {
            return;
        }
        for (to, file) in self.tree.real() {
            let is_it = file.ino == content.stat.ino
                && to != *path
                && is_long_ago(file.since_ns)
                && is_long_ago(file.written_ns)
                && !self.store.was_late(&format!("p/{to}"))
                && Sha256::of(&file.content) == content.sha256;
            if is_it {
                let objects = self.bucket.objects();
                let mut others = objects.iter().filter(|(other, _)| *other != key);
                assert!(
                    others.any(|(_, object)| object.bytes == file.content.as_slice()),
                    "the only object with the content of {to}, which was {path}, is removed"
                );
            }
        }
    }

    fn rows(&self) -> Vec<Entry> {
        self.manifest
            .page(self.folder, &RelPath::root(), &RelPath::root(), 10_000)
            .expect("readable")
    }

    /// A row says "synced" without reserve only if the bucket holds exactly that.
    pub fn claims_are_true(&self) {
        let objects = self.bucket.objects();
        for row in self.rows() {
            if plan::doubt_until(&row) != 0 || !matches!(row.state, State::Synced | State::Kept) {
                continue;
            }
            let content = row.stored.as_ref().expect("a synced row has a content");
            let object = objects
                .get(&format!("p/{}", row.path))
                .unwrap_or_else(|| panic!("{} is said to be in the bucket and is not", row.path));
            assert_eq!(
                object.etag, content.etag,
                "{}: another object than the manifest says",
                row.path
            );
            assert_eq!(
                Sha256::of(&object.bytes),
                content.sha256,
                "{}: other bytes than the manifest says",
                row.path
            );
        }
    }

    /// The storm is over, and its last request has landed.
    pub fn everything_agrees(&self) {
        self.claims_are_true();
        let objects = self.bucket.objects();
        let rows: BTreeMap<RelPath, _> = self
            .rows()
            .into_iter()
            .map(|row| (row.path.clone(), row))
            .collect();
        let files = self.tree.files();
        for (path, content) in &files {
            let object = objects
                .get(&format!("p/{path}"))
                .unwrap_or_else(|| panic!("{path} is not in the bucket"));
            assert!(
                object.bytes == content.as_slice(),
                "{path}: the bucket has another content"
            );
            let row = rows
                .get(path)
                .unwrap_or_else(|| panic!("{path} has no row"));
            assert_eq!(row.state, State::Synced, "{path}");
            assert_eq!(row.held, None, "{path}");
        }
        let keeps = self.on_delete == OnDelete::Keep;
        for (path, row) in &rows {
            assert!(
                keeps || files.contains_key(path),
                "a row is left of a file that is gone: {row:?}"
            );
            let expected = if files.contains_key(path) {
                State::Synced
            } else {
                State::Kept
            };
            // Of a guarded object that was sent late nobody looks whether it has come.
            assert!(row.state == expected || row.is_landed(), "{path}: {row:?}");
        }
        if !keeps && self.is_alone {
            self.nothing_is_left_over(&files.into_keys().collect());
        }
    }

    /// Whenever the agent is down: every link of the catalog is there, and is what the one behind it says.
    pub async fn chain_holds(&self) -> Chain {
        let (store, keys) = (Arc::new(self.bucket.clone()), KeyMap::new("p/"));
        let chain = Chain::list(store, keys).await.expect("readable");
        if !chain.is_empty() {
            let history = chain.history(|_| true).await.expect("readable");
            let is_bad = |trouble: &Trouble| self.is_alone || trouble.is_damage();
            let troubles: Vec<&Trouble> =
                history.troubles.iter().filter(|one| is_bad(one)).collect();
            assert!(troubles.is_empty(), "the catalog is damaged: {troubles:?}");
        }
        chain
    }

    /// At a quiet end the catalog says exactly what the manifest does.
    pub async fn catalog_agrees(&self) {
        let chain = self.chain_holds().await;
        let rows = self.rows().into_iter();
        let rows = rows.filter(|row| row.state == State::Synced);
        let expected: Tree = rows
            .map(|row| {
                let content = row.stored.expect("a synced row has a content");
                let known = Known {
                    size: content.stat.size,
                    mtime_ns: content.stat.mtime_ns,
                    mode: content.stat.mode,
                    uid: content.stat.uid,
                    gid: content.stat.gid,
                    sha256: content.sha256,
                    key: format!("p/{}", row.path),
                    etag: content.etag,
                    version_id: content.version_id,
                    // When it was found level says nothing of what it is.
                    time_ns: 0,
                };
                (row.path, known)
            })
            .collect();
        let folders = self.tree.folder_stamps();
        if chain.is_empty() {
            assert_eq!(expected, Tree::new(), "there is no catalog");
            assert_eq!(folders, Folders::new(), "there is no catalog");
            return;
        }
        let reading = chain.latest().await.expect("a whole tree");
        assert!(reading.is_latest);
        let mut tree = reading.tree;
        for known in tree.values_mut() {
            known.time_ns = 0;
        }
        assert_eq!(tree, expected, "the catalog says something else");
        assert_eq!(
            reading.folders, folders,
            "the catalog has other folders than the disk"
        );
        let waiting = self.manifest.waiting(self.folder).expect("readable");
        assert_eq!(waiting, Waiting::default(), "something is not published");
    }

    /// Every upload was completed or given up, also one whose creation was answered late or never.
    pub fn no_upload_is_left(&self) {
        let uploads = self.manifest.uploads(self.folder).expect("readable");
        assert_eq!(uploads, [], "unfinished uploads were left on record");
        let open = self.bucket.open_uploads();
        assert_eq!(open, [], "unfinished uploads were left in the bucket");
    }

    /// No object is left whose file is gone, but those of others.
    fn nothing_is_left_over(&self, files: &BTreeSet<RelPath>) {
        let keys = KeyMap::new("p/");
        for (key, object) in self.bucket.objects() {
            if keys.is_reserved(&key) {
                continue;
            }
            let path = keys.path(&key).expect("a key of ours");
            let is_theirs = self
                .planted
                .get(&path)
                .is_some_and(|bytes| object.bytes == bytes.as_slice());
            assert!(
                files.contains(&path) || is_theirs,
                "an object is left whose file is gone: {path}"
            );
        }
    }
}
