//! What rotten bytes do to a manifest: they are noticed or harmless, and nothing is deleted.

use std::fs::{self, File};
use std::io::Write as _;

use rusqlite::Connection;
use tidewatch::manifest::{Change, Entry, FolderId, Manifest, OpenError, State};

use super::{NOW_NS, all, count, folder, path, puts, row};

/// Rows enough for tables and indexes of several pages.
fn specimen() -> Vec<Entry> {
    let states = [State::Synced, State::Open, State::Kept, State::Unsent];
    (0..300)
        .map(|n| row(format!("f{n:04}"), states[n % 4], &n.to_string()))
        .collect()
}

/// Returns the bytes of a database with [`specimen`], as an orderly stop or a crash leaves it.
fn database(clean: bool) -> Vec<u8> {
    let dir = tempfile::tempdir().expect("a folder");
    let (manifest, _) = Manifest::open(dir.path(), NOW_NS).expect("a manifest");
    manifest
        .commit(folder(&manifest), &puts(&specimen()))
        .expect("a commit");
    manifest.close();
    let file = dir.path().join("tidewatch.db");
    if !clean {
        let connection = Connection::open(&file).expect("a database");
        connection
            .execute_batch("UPDATE meta SET v = 0 WHERE k = 'clean_stop'")
            .expect("a mark");
    }
    fs::read(&file).expect("its bytes")
}

/// What came of a damaged database.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    SetAside,
    Harmless,
    Noticed,
    Refused,
}

/// Opens a state folder that holds `bytes` and looks at every row: it must be right, or the damage must be noticed.
fn open_damaged(bytes: &[u8], log: Option<&[u8]>) -> End {
    let dir = tempfile::tempdir().expect("a folder");
    let store = |name: &str, bytes: &[u8]| {
        File::create(dir.path().join(name))
            .and_then(|mut file| file.write_all(bytes))
            .expect("a file");
    };
    store("tidewatch.db", bytes);
    if let Some(log) = log {
        store("tidewatch.db-wal", log);
    }
    let (manifest, opened) = match Manifest::open(dir.path(), NOW_NS) {
        Ok(opened) => opened,
        Err(OpenError::Newer { .. }) => return End::Refused,
        Err(error) => panic!("{error}"),
    };
    if let Some(kept) = opened.set_aside {
        assert!(opened.created && !opened.clean);
        assert!(fs::read(kept).expect("what was kept") == bytes);
        assert!(manifest.folders().expect("folders").is_empty());
        let folder = folder(&manifest);
        manifest
            .commit(folder, &puts(&specimen()))
            .expect("a commit");
        assert_eq!(all(&manifest, folder), specimen());
        return End::SetAside;
    }
    let (mut wrong, mut noticed) = (0, 0);
    let number = FolderId(1);
    for row in specimen() {
        match manifest.entries(number, std::slice::from_ref(&row.path)) {
            Ok(found) => {
                // A row that cannot be found is no claim: its file is read again.
                if let Some(found) = &found[0] {
                    assert_eq!((&found.path, found.state), (&row.path, row.state));
                    wrong += usize::from(*found != row);
                }
            }
            Err(_) => noticed += 1,
        }
    }
    // A flipped bit may be in one value of one row, and is a difference then.
    assert!(wrong <= 1, "{wrong} rows are wrong");
    let written = manifest.commit(number, &[Change::Intend(path("f0001"))]);
    noticed += usize::from(written.is_err());
    if noticed > 0 {
        End::Noticed
    } else {
        End::Harmless
    }
}

#[test]
fn a_flipped_bit_is_noticed_or_harmless() {
    let mut random = fastrand::Rng::with_seed(11);
    let mut ends = std::collections::BTreeMap::new();
    for whole in [database(true), database(false)] {
        for turn in 0..count("TIDEWATCH_FLIPS", 40) {
            // The header and the schema are small and matter most.
            let range = if turn % 4 == 0 { 100 } else { whole.len() };
            let at = random.usize(..range);
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << random.usize(..8);
            let end = open_damaged(&bytes, None);
            // The schema's number may become a higher one.
            assert!(end != End::Refused || (60..64).contains(&at), "{at}");
            *ends.entry(end).or_insert(0) += 1;
        }
    }
    assert!(ends.contains_key(&End::SetAside), "{ends:?}");
}

#[test]
fn a_file_that_is_no_database_of_ours_is_set_aside() {
    let whole = database(true);
    for len in [
        0,
        1,
        99,
        100,
        4095,
        4096,
        whole.len() / 2,
        whole.len() - 4096,
    ] {
        assert_eq!(open_damaged(&whole[..len], None), End::SetAside, "{len}");
    }
    // SQLite takes the missing end of the last page for zeros; that is one value.
    assert_ne!(open_damaged(&whole[..whole.len() - 1], None), End::SetAside);
    let mut random = fastrand::Rng::with_seed(5);
    let garbage: Vec<u8> = (0..50_000).map(|_| random.u8(..)).collect();
    assert_eq!(open_damaged(&garbage, None), End::SetAside);
    assert_eq!(open_damaged(&[0; 8192], None), End::SetAside);
    // After a crash the structure of every page is checked.
    let crashed = database(false);
    let page_of_garbage = [&crashed[..8192], &garbage[..4096], &crashed[12288..]].concat();
    assert_eq!(open_damaged(&page_of_garbage, None), End::SetAside);

    let dir = tempfile::tempdir().expect("a folder");
    let other = dir.path().join("other.db");
    let connection = Connection::open(&other).expect("a database");
    connection
        .execute_batch("CREATE TABLE t (x)")
        .expect("a table");
    drop(connection);
    assert_eq!(
        open_damaged(&fs::read(&other).expect("bytes"), None),
        End::SetAside
    );
}

#[test]
fn a_log_of_garbage_is_not_believed() {
    let mut random = fastrand::Rng::with_seed(6);
    let garbage: Vec<u8> = (0..50_000).map(|_| random.u8(..)).collect();
    assert_eq!(
        open_damaged(&database(false), Some(&garbage)),
        End::Harmless
    );
}

#[test]
fn two_damaged_databases_in_one_second_are_both_kept() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut kept = Vec::new();
    for text in ["first", "second"] {
        let mut file = File::create(dir.path().join("tidewatch.db")).expect("a file");
        file.write_all(text.as_bytes()).expect("bytes");
        let (manifest, opened) = Manifest::open(dir.path(), NOW_NS).expect("a manifest");
        manifest.close();
        kept.push(opened.set_aside.expect("a name"));
    }
    let texts: Vec<String> = kept
        .iter()
        .map(|path| fs::read_to_string(path).expect("a text"))
        .collect();
    assert_eq!(texts, ["first", "second"]);
}
