//! A state folder: who may open it, what it looks like, and what older and newer versions do with it.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use rusqlite::Connection;
use tidewatch::base::stat::{FolderStamp, Identity};
use tidewatch::manifest::{
    Change, Cut, Entry, ErrorKind, Failure, FolderKey, Held, HeldWhat, Manifest, OpenError, Remote,
    State, Upload, What, holder, is_locked,
};

use super::{NOW_NS, all, folder, key, path, puts, row, synced};

/// A database that schema 1 wrote, closed in an orderly way. Never edited: what it holds is what [`fixture_rows`] says.
const FIXTURE: &[u8] = include_bytes!("../../fixtures/manifest-v1.db");

/// The same after schema 2 has led it on and written to it.
const SECOND_FIXTURE: &[u8] = include_bytes!("../../fixtures/manifest-v2.db");

/// The same after schema 3 has led it on and written to it.
const THIRD_FIXTURE: &[u8] = include_bytes!("../../fixtures/manifest-v3.db");

/// One that schema 4 wrote, with rows of the log of each kind.
const FOURTH_FIXTURE: &[u8] = include_bytes!("../../fixtures/manifest-v4.db");

fn open(dir: &Path) -> Manifest {
    Manifest::open(dir, NOW_NS).expect("an open manifest").0
}

#[test]
fn everything_is_found_again_after_a_drop_and_after_a_close() {
    let dir = tempfile::tempdir().expect("a folder");
    let (manifest, opened) = Manifest::open(dir.path(), NOW_NS).expect("a manifest");
    assert!(opened.created && opened.clean && opened.set_aside.is_none());
    let id = manifest.agent_id().to_owned();
    assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()));
    let number = folder(&manifest);
    manifest
        .commit(number, &puts(&[synced("a")]))
        .expect("a commit");
    drop(manifest);

    let (manifest, opened) = Manifest::open(dir.path(), NOW_NS).expect("a manifest");
    assert!(!opened.created && !opened.clean);
    assert_eq!(manifest.agent_id(), id);
    assert_eq!(all(&manifest, number), [synced("a")]);
    manifest.close();
    assert!(!dir.path().join("tidewatch.db-wal").exists());

    let (manifest, opened) = Manifest::open(dir.path(), NOW_NS).expect("a manifest");
    assert!(!opened.created && opened.clean);
    assert_eq!(all(&manifest, number), [synced("a")]);
}

#[test]
fn a_closed_manifest_does_nothing_more_and_gives_its_lock_back() {
    let dir = tempfile::tempdir().expect("a folder");
    let manifest = open(dir.path());
    let number = folder(&manifest);
    let clone = manifest.clone();
    manifest.close();
    let error = clone
        .commit(number, &puts(&[synced("a")]))
        .expect_err("it is closed");
    assert_eq!(error.kind(), ErrorKind::Closed);
    assert_eq!(
        clone.folders().expect_err("it is closed").kind(),
        ErrorKind::Closed
    );
    assert_eq!(open(dir.path()).folders().expect("folders").len(), 1);
}

#[test]
fn a_second_agent_is_kept_out_of_the_state_folder() {
    let dir = tempfile::tempdir().expect("a folder");
    assert!(!is_locked(dir.path()).expect("an answer"));
    assert!(!dir.path().join("lock").exists());
    let first = open(dir.path());
    assert!(is_locked(dir.path()).expect("an answer"));
    assert_eq!(
        holder(dir.path()).expect("an answer"),
        Some(std::process::id())
    );
    let error = Manifest::open(dir.path(), NOW_NS).expect_err("a second one");
    assert!(
        matches!(&error, OpenError::Locked { pid: Some(pid), .. } if *pid == std::process::id())
    );
    assert!(
        error.to_string().contains("another agent holds it"),
        "{error}"
    );
    folder(&first);
    drop(first);
    assert!(!is_locked(dir.path()).expect("an answer"));
    assert_eq!(holder(dir.path()).expect("an answer"), None);
    open(dir.path());
}

#[test]
fn a_reader_sees_what_a_living_agent_commits() {
    let dir = tempfile::tempdir().expect("a folder");
    assert!(
        Manifest::open_read_only(dir.path())
            .expect("nothing there")
            .is_none()
    );
    assert!(
        Manifest::open_read_only(&dir.path().join("none"))
            .expect("nothing there")
            .is_none()
    );
    assert_eq!(fs::read_dir(dir.path()).expect("a listing").count(), 0);

    let writer = open(dir.path());
    let number = folder(&writer);
    let reader = Manifest::open_read_only(dir.path())
        .expect("a reader")
        .expect("a database");
    assert_eq!(reader.agent_id(), writer.agent_id());
    writer
        .commit(number, &puts(&[synced("a")]))
        .expect("a commit");
    assert_eq!(all(&reader, number), [synced("a")]);
    let error = reader
        .commit(number, &puts(&[synced("b")]))
        .expect_err("a reader");
    assert_eq!(error.kind(), ErrorKind::ReadOnly);
    reader.close();
    // The reader took nothing from the writer when it went.
    writer
        .commit(number, &puts(&[synced("b")]))
        .expect("a commit");
    drop(writer);
    let reader = Manifest::open_read_only(dir.path())
        .expect("a reader")
        .expect("a database");
    assert_eq!(all(&reader, number), [synced("a"), synced("b")]);
}

#[test]
fn only_the_owner_can_read_the_state_folder() {
    let dir = tempfile::tempdir().expect("a folder");
    let state = dir.path().join("deep/state");
    let manifest = open(&state);
    folder(&manifest);
    let mode = |path: &Path| fs::metadata(path).expect("metadata").permissions().mode() & 0o777;
    assert_eq!(mode(&state), 0o700);
    assert_eq!(mode(&dir.path().join("deep")), 0o700);
    let mut names = Vec::new();
    for file in fs::read_dir(&state).expect("a listing") {
        let file = file.expect("an entry");
        assert_eq!(mode(&file.path()), 0o600, "{file:?}");
        names.push(file.file_name().into_string().expect("a name"));
    }
    names.sort();
    assert_eq!(
        names,
        [
            "lock",
            "tidewatch.db",
            "tidewatch.db-shm",
            "tidewatch.db-wal"
        ]
    );
}

#[test]
fn a_state_folder_that_cannot_be_written_is_refused_in_clear_words() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("file");
    fs::File::create(&file).expect("a file");
    let error = Manifest::open(&file.join("state"), NOW_NS).expect_err("below a file");
    let text = error.to_string();
    assert!(matches!(error, OpenError::Unusable { .. }));
    assert!(
        text.contains("cannot create") && text.contains("Not a directory"),
        "{text}"
    );
    let error = Manifest::open(Path::new("/proc/self"), NOW_NS).expect_err("not for files");
    assert!(
        error
            .to_string()
            .contains("cannot create the lock /proc/self/lock"),
        "{error}"
    );
    assert!(Manifest::open_read_only(&file.join("state")).is_err());
}

#[test]
fn a_newer_schema_is_refused_and_the_file_is_not_touched() {
    let dir = tempfile::tempdir().expect("a folder");
    open(dir.path()).close();
    let database = dir.path().join("tidewatch.db");
    let connection = Connection::open(&database).expect("a database");
    connection
        .pragma_update(None, "user_version", 6)
        .expect("a newer version");
    drop(connection);
    let before = (
        fs::read(&database).expect("bytes"),
        fs::metadata(&database).expect("metadata"),
    );
    let error = Manifest::open(dir.path(), NOW_NS).expect_err("a newer one");
    assert!(
        matches!(
            error,
            OpenError::Newer {
                found: 6,
                known: 5,
                ..
            }
        ),
        "{error}"
    );
    let error = Manifest::open_read_only(dir.path()).expect_err("a newer one");
    assert!(matches!(error, OpenError::Newer { .. }), "{error}");
    let after = (
        fs::read(&database).expect("bytes"),
        fs::metadata(&database).expect("metadata"),
    );
    assert!(before.0 == after.0);
    assert_eq!(
        (before.1.ino(), before.1.mtime_nsec()),
        (after.1.ino(), after.1.mtime_nsec())
    );
    assert!(!is_locked(dir.path()).expect("an answer"));
}

#[test]
fn a_row_that_lies_cannot_be_stored_by_any_program() {
    let dir = tempfile::tempdir().expect("a folder");
    let manifest = open(dir.path());
    let number = folder(&manifest);
    manifest
        .commit(number, &puts(&[synced("a")]))
        .expect("a commit");
    manifest.close();
    let connection = Connection::open(dir.path().join("tidewatch.db")).expect("a database");
    for lie in [
        "UPDATE files SET sha256 = NULL",
        "UPDATE files SET etag = NULL",
        "UPDATE files SET sha256 = x'00'",
        "UPDATE files SET sha256 = 'not bytes'",
        "UPDATE files SET size = NULL",
        "UPDATE files SET size = -1",
        "UPDATE files SET state = 'level'",
        "UPDATE files SET want_sha256 = x''",
        "UPDATE files SET path = x''",
        "INSERT INTO files (folder_id, path, state) VALUES (1, x'62', 'synced')",
        "INSERT INTO files (folder_id, path, state) VALUES (1, x'62', 'kept')",
        "INSERT INTO files (folder_id, path, state, etag) VALUES (1, x'62', 'open', 'e')",
        "INSERT INTO files (folder_id, path, state, version_id) VALUES (1, x'62', 'open', 'v')",
        "INSERT INTO files (folder_id, path, state) VALUES (1, x'61', 'open')",
    ] {
        assert!(connection.execute_batch(lie).is_err(), "{lie}");
    }
    connection
        .execute_batch("UPDATE files SET state = 'open'")
        .expect("the truth");
}

#[test]
fn an_interrupted_creation_leaves_nothing_half_made() {
    let dir = tempfile::tempdir().expect("a folder");
    for name in [
        "tidewatch.db.new",
        "tidewatch.db.new-wal",
        "tidewatch.db.new-shm",
    ] {
        fs::copy("/proc/self/status", dir.path().join(name)).expect("a leftover");
    }
    assert!(
        Manifest::open_read_only(dir.path())
            .expect("nothing there")
            .is_none()
    );
    let (manifest, opened) = Manifest::open(dir.path(), NOW_NS).expect("a manifest");
    assert!(opened.created && opened.set_aside.is_none());
    manifest.close();
    let left: Vec<_> = fs::read_dir(dir.path())
        .expect("a listing")
        .flatten()
        .map(|e| e.file_name())
        .collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn a_log_without_its_database_is_not_replayed_into_a_new_one() {
    let dir = tempfile::tempdir().expect("a folder");
    let manifest = open(dir.path());
    let number = folder(&manifest);
    manifest
        .commit(number, &puts(&[synced("a")]))
        .expect("a commit");
    drop(manifest);
    fs::remove_file(dir.path().join("tidewatch.db")).expect("removed");
    let (manifest, opened) = Manifest::open(dir.path(), NOW_NS).expect("a manifest");
    assert!(opened.created && manifest.folders().expect("folders").is_empty());
    let kept = opened.set_aside.expect("the log");
    assert!(
        kept.ends_with("tidewatch.db.damaged-20251124T160000Z-wal"),
        "{kept:?}"
    );
}

#[test]
fn a_database_that_is_removed_while_in_use_is_noticed() {
    let dir = tempfile::tempdir().expect("a folder");
    let manifest = open(dir.path());
    let number = folder(&manifest);
    fs::remove_file(dir.path().join("tidewatch.db")).expect("removed");
    let error = manifest
        .commit(number, &puts(&[synced("a")]))
        .expect_err("it is gone");
    assert_eq!(error.kind(), ErrorKind::Gone);
    assert!(
        error
            .to_string()
            .contains("tidewatch.db: it was removed or replaced"),
        "{error}"
    );
    fs::copy("/proc/self/status", dir.path().join("tidewatch.db")).expect("another file");
    let error = manifest
        .commit(number, &puts(&[synced("a")]))
        .expect_err("it is another");
    assert_eq!(error.kind(), ErrorKind::Gone);
}

#[test]
fn a_folder_is_the_same_by_path_endpoint_bucket_and_prefix() {
    let manifest = Manifest::in_memory().expect("a manifest");
    let first = manifest.folder(&key(), "photos").expect("a folder");
    assert_eq!((first.contacted, first.last_scan_ns), (false, None));
    let again = manifest.folder(&key(), "pictures").expect("a folder");
    assert_eq!((again.id, again.name.as_str()), (first.id, "pictures"));
    for other in [
        FolderKey {
            path: b"/srv".to_vec(),
            ..key()
        },
        FolderKey {
            endpoint: "http://localhost:9000".to_owned(),
            ..key()
        },
        FolderKey {
            bucket: "other".to_owned(),
            ..key()
        },
        FolderKey {
            prefix: String::new(),
            ..key()
        },
    ] {
        assert_ne!(
            manifest.folder(&other, "photos").expect("a folder").id,
            first.id
        );
    }
    manifest
        .commit(first.id, &[Change::Contacted, Change::Scanned(NOW_NS)])
        .expect("a commit");
    let folders = manifest.folders().expect("folders");
    assert_eq!(folders.len(), 5);
    assert_eq!(
        (folders[0].contacted, folders[0].last_scan_ns),
        (true, Some(NOW_NS))
    );
    assert_eq!(
        (folders[1].contacted, folders[1].last_scan_ns),
        (false, None)
    );
    assert_eq!(
        folders[0],
        manifest.folder(&key(), "pictures").expect("a folder")
    );
}

fn fixture_rows() -> Vec<Entry> {
    let mut rows = vec![
        synced("a/synced"),
        row("b/open", State::Open, "tide"),
        row(b"c/\xff", State::Kept, "ebb"),
        row("d", State::Unsent, ""),
    ];
    rows[3].ambiguous_until_ns = NOW_NS;
    rows[3].failure = Some(Failure {
        attempts: 4,
        error: "refused".to_owned(),
        parked: None,
    });
    rows
}

fn fixture(bytes: &[u8]) -> (tempfile::TempDir, Manifest) {
    let dir = tempfile::tempdir().expect("a folder");
    let mut file = fs::File::create(dir.path().join("tidewatch.db")).expect("a file");
    std::io::Write::write_all(&mut file, bytes).expect("a copy");
    drop(file);
    let (manifest, opened) = Manifest::open(dir.path(), NOW_NS).expect("a manifest");
    assert!(opened.clean && !opened.created && opened.set_aside.is_none());
    assert_eq!(manifest.agent_id(), "0123456789abcdef0123456789abcdef");
    (dir, manifest)
}

/// An upload of before there was a way to go on with one.
fn old_upload(name: &str, id: &str) -> Upload {
    Upload {
        path: path(name),
        key: format!("host/{name}"),
        id: id.to_owned(),
        begun_at_ns: 0,
        cut: None,
    }
}

#[test]
fn the_database_of_every_older_version_is_opened() {
    let (_dir, manifest) = fixture(FIXTURE);
    let number = folder(&manifest);
    let known = &manifest.folders().expect("folders")[0];
    assert_eq!((known.contacted, known.last_scan_ns), (true, Some(NOW_NS)));
    assert_eq!(all(&manifest, number), fixture_rows());
    let upload = old_upload("b/open", "u1");
    assert_eq!(manifest.uploads(number).expect("uploads"), [upload]);
    let remote = Remote {
        key: "host/old".to_owned(),
        size: 3,
        etag: "\"e\"".to_owned(),
    };
    assert_eq!(
        manifest.remote(number, "host/old").expect("a remote"),
        Some(remote)
    );
    manifest
        .commit(number, &[Change::Intend(path("d"))])
        .expect("a commit");
}

#[test]
fn the_database_of_schema_2_keeps_everything_when_it_is_led_on() {
    let (dir, manifest) = fixture(SECOND_FIXTURE);
    let number = folder(&manifest);
    let known = &manifest.folders().expect("folders")[0];
    assert_eq!((known.contacted, known.last_scan_ns), (true, Some(NOW_NS)));
    let root = Identity {
        dev: 2049,
        ino: 2,
        fsid: 77,
    };
    assert_eq!(known.root, Some(root));
    assert_eq!(known.trash_due_ns, Some(NOW_NS + 5));
    assert_eq!(known.mounts, [path("mnt"), path("usb")]);
    let mut rows = fixture_rows();
    if let Some(content) = &mut rows[0].stored {
        content.doubtful = true;
    }
    rows[1].held = Some(Box::new(Held {
        what: HeldWhat::Overwrite,
        at_ns: NOW_NS + 7,
        seen: Some("3:1:1:1:1".to_owned()),
    }));
    assert_eq!(all(&manifest, number), rows);
    let uploads = [old_upload("b/open", "u1"), old_upload("e", "u2")];
    assert_eq!(manifest.uploads(number).expect("uploads"), uploads);
    assert_eq!(manifest.parts(number, "u2").expect("parts"), []);

    // And it is one of this version now.
    let cut = Cut {
        part_size: 8 << 20,
        size: 1 << 30,
        mtime_ns: -1,
        ctime_ns: NOW_NS,
        dev: u64::MAX,
        ino: 1 << 63,
    };
    let upload = Upload {
        begun_at_ns: NOW_NS,
        cut: Some(cut),
        ..old_upload("e", "u2")
    };
    let begun = Change::UploadBegun(Box::new(upload.clone()));
    manifest.commit(number, &[begun]).expect("a commit");
    manifest.close();
    let (manifest, opened) = Manifest::open(dir.path(), NOW_NS).expect("a manifest");
    assert!(opened.clean && !opened.created);
    let uploads = [old_upload("b/open", "u1"), upload];
    assert_eq!(manifest.uploads(number).expect("uploads"), uploads);
}

#[test]
fn the_database_of_schema_4_keeps_its_log_and_how_far_the_catalog_has_come() {
    let (_dir, manifest) = fixture(FOURTH_FIXTURE);
    let number = folder(&manifest);
    let is = manifest.progress(number).expect("readable");
    assert_eq!((is.number, is.base, is.published, is.links), (3, 1, 5, 3));
    assert_eq!(is.after_folder, None);
    let rows = manifest.logged(number, 5, 10).expect("readable");
    let rows: Vec<_> = rows
        .into_iter()
        .map(|row| (row.seq, row.path, row.what, row.time_ns - NOW_NS))
        .collect();
    let expected = [
        (6, path("a"), What::Put, 0),
        (7, path("b"), What::Gone { is_kept: true }, 1),
        (8, path(b"c/\xff"), What::Aside("t/x".to_owned()), 2),
    ];
    assert_eq!(rows, expected);
    // And it takes what this version has to say.
    let stamp = FolderStamp {
        mtime_ns: 1,
        mode: 0o755,
        uid: 0,
        gid: 0,
    };
    let change = Change::Folder(path("d"), stamp);
    let logged = manifest.commit_at(number, &[change], NOW_NS);
    assert_eq!(logged.expect("a commit"), 1);
    let rows = manifest.logged(number, 8, 10).expect("readable");
    assert_eq!((rows[0].seq, &rows[0].what), (9, &What::Folder));
}

#[test]
fn the_database_of_schema_3_is_led_on_and_gets_a_snapshot_of_what_it_holds() {
    let (_dir, manifest) = fixture(THIRD_FIXTURE);
    let number = folder(&manifest);
    let known = &manifest.folders().expect("folders")[0];
    assert_eq!(known.config.as_deref(), Some("00000000000000aa"));
    assert!(manifest.probed("", "bucket").expect("readable").is_some());
    let mut rows = fixture_rows();
    if let Some(content) = &mut rows[0].stored {
        content.doubtful = true;
    }
    assert_eq!(all(&manifest, number)[0], rows[0]);
    // Nothing was logged before there was a log.
    let waiting = manifest.waiting(number).expect("readable");
    assert_eq!((waiting.records, waiting.snapshot), (0, true));
    let live = |manifest: &Manifest| -> Vec<String> {
        let root = path("");
        let live = manifest.live(number, &root, 10).expect("readable");
        live.into_iter().map(|row| row.path.to_string()).collect()
    };
    assert_eq!(live(&manifest), ["a/synced"]);
    // What was in doubt then is news when it is level, also with the same content.
    let level = Entry {
        state: State::Synced,
        ..rows[1].clone()
    };
    let logged = manifest.commit_at(number, &[Change::Put(level)], NOW_NS);
    assert_eq!(logged.expect("a commit"), 1);
    assert_eq!(live(&manifest), ["a/synced", "b/open"]);
    // A folder of which nothing was known begins with nothing.
    let other = FolderKey {
        prefix: "other/".to_owned(),
        ..key()
    };
    let other = manifest.folder(&other, "other").expect("a folder").id;
    let waiting = manifest.waiting(other).expect("readable");
    assert_eq!((waiting.records, waiting.snapshot), (0, false));
}
