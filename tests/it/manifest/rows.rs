//! What is written is what is read, and what cannot be true is not written.

use std::collections::BTreeMap;

use tidewatch::base::digest::{Crc64, Sha256};
use tidewatch::base::path::RelPath;
use tidewatch::base::stat::Kind;
use tidewatch::manifest::{
    Change, Content, Counts, Cut, Entry, ErrorKind, Failure, FolderId, FolderKey, LARGE_BYTES,
    Manifest, Remote, State, Upload, UploadPart,
};

use super::{NOW_NS, all, content, folder, key, path, puts, row, synced};

fn fresh() -> (Manifest, FolderId) {
    let manifest = Manifest::in_memory().expect("a manifest in memory");
    let folder = folder(&manifest);
    (manifest, folder)
}

fn paths(rows: &[Entry]) -> Vec<String> {
    rows.iter().map(|row| row.path.to_string()).collect()
}

#[test]
fn rows_of_every_state_and_any_path_come_back_as_they_were() {
    let (manifest, folder) = fresh();
    let names: [&[u8]; 8] = [
        b"plain",
        b"\xff\xfe",
        b"new\nline/\x1b[2J",
        "für/\u{201b}41".as_bytes(),
        b"-rf *",
        b"'; DROP TABLE files; --",
        b"...",
        &[0xff; 255],
    ];
    let mut rows = Vec::new();
    for (number, name) in names.into_iter().enumerate() {
        for state in [State::Synced, State::Open, State::Kept, State::Unsent] {
            let mut row = row(
                [name, format!(".{state:?}").as_bytes()].concat(),
                state,
                "x",
            );
            if number % 2 == 0 {
                row.want = Some(Sha256::of(b"want"));
                row.ambiguous_until_ns = NOW_NS;
                row.failure = Some(Failure {
                    attempts: u32::MAX,
                    error: "no \"such\" bucket".to_owned(),
                    parked: None,
                });
                row.stored = row.stored.map(|content| Content {
                    version_id: Some("v\u{0}1".to_owned()),
                    ..content
                });
            }
            rows.push(row);
        }
    }
    manifest.commit(folder, &puts(&rows)).expect("a commit");
    let asked: Vec<RelPath> = rows.iter().map(|row| row.path.clone()).collect();
    let found = manifest.entries(folder, &asked).expect("entries");
    assert_eq!(found, rows.iter().cloned().map(Some).collect::<Vec<_>>());
    assert_eq!(
        manifest.entries(folder, &[path("none")]).expect("entries"),
        [None]
    );

    rows.sort_by(|a, b| a.path.cmp(&b.path));
    assert_eq!(all(&manifest, folder), rows);
}

#[test]
fn a_put_over_a_row_leaves_nothing_of_it() {
    let (manifest, folder) = fresh();
    let first = Entry {
        want: Some(Sha256::of(b"w")),
        ambiguous_until_ns: 5,
        failure: Some(Failure {
            attempts: 1,
            error: "e".to_owned(),
            parked: None,
        }),
        ..synced("a")
    };
    manifest.commit(folder, &puts(&[first])).expect("a commit");
    let second = row("a", State::Unsent, "");
    manifest
        .commit(folder, &puts(std::slice::from_ref(&second)))
        .expect("a commit");
    assert_eq!(all(&manifest, folder), [second]);
    manifest
        .commit(folder, &[Change::Forget(path("a"))])
        .expect("a commit");
    assert!(all(&manifest, folder).is_empty());
}

#[test]
fn pages_are_sorted_by_bytes_and_hold_exactly_what_lies_below() {
    let (manifest, folder) = fresh();
    let names = [
        "a", "a.txt", "a/b", "a/b/c", "a/b0", "a0", "a0/x", "B", "a/\u{fc}", "a-", "b",
    ];
    manifest
        .commit(folder, &puts(&names.map(synced)))
        .expect("a commit");
    let page = |within: &str, after: &str, limit| {
        let page = manifest.page(folder, &path(within), &path(after), limit);
        paths(&page.expect("a page"))
    };
    let sorted = [
        "B", "a", "a-", "a.txt", "a/b", "a/b/c", "a/b0", "a/\u{fc}", "a0", "a0/x", "b",
    ];
    assert_eq!(page("", "", 100), sorted);
    assert_eq!(page("", "a.txt", 2), ["a/b", "a/b/c"]);
    assert_eq!(page("a", "", 100), ["a/b", "a/b/c", "a/b0", "a/\u{fc}"]);
    assert_eq!(page("a", "a", 100), page("a", "", 100));
    assert_eq!(page("a", "a/b", 100), ["a/b/c", "a/b0", "a/\u{fc}"]);
    assert_eq!(page("a/b", "", 100), ["a/b/c"]);
    assert_eq!(page("a", "b", 100), Vec::<String>::new());
    assert_eq!(page("a.txt", "", 100), Vec::<String>::new());
    assert_eq!(page("", "", 0), Vec::<String>::new());

    let has_below = |of: &str| manifest.has_below(folder, &path(of)).expect("an answer");
    assert!(has_below("") && has_below("a") && has_below("a/b") && has_below("a0"));
    assert!(!has_below("a.txt") && !has_below("b") && !has_below("a/b/c") && !has_below("x"));
}

#[test]
fn pages_agree_with_a_sorted_map() {
    let (manifest, folder) = fresh();
    let mut random = fastrand::Rng::with_seed(7);
    let mut model = BTreeMap::new();
    let name = |random: &mut fastrand::Rng| {
        let parts: Vec<String> = (0..random.usize(1..4))
            .map(|_| {
                (0..random.usize(1..3))
                    .map(|_| random.choice(['a', '.', '0', '-', '\u{ff}']).expect("one"))
                    .collect()
            })
            .collect();
        RelPath::new(parts.join("/").as_bytes())
    };
    for _ in 0..40 {
        let rows: Vec<Entry> = (0..10)
            .filter_map(|_| name(&mut random))
            .map(|p| synced(p.as_bytes()))
            .collect();
        manifest.commit(folder, &puts(&rows)).expect("a commit");
        model.extend(rows.into_iter().map(|row| (row.path.clone(), row)));
        let (Some(within), Some(after)) = (name(&mut random), name(&mut random)) else {
            continue;
        };
        let want: Vec<Entry> = model
            .values()
            .filter(|row| row.path.is_within(&within) && row.path != within && row.path > after)
            .take(5)
            .cloned()
            .collect();
        assert_eq!(
            manifest.page(folder, &within, &after, 5).expect("a page"),
            want
        );
    }
    assert_eq!(
        all(&manifest, folder),
        model.into_values().collect::<Vec<_>>()
    );
}

#[test]
fn an_intent_keeps_what_was_stored() {
    let (manifest, folder) = fresh();
    let known = Entry {
        want: Some(Sha256::of(b"old want")),
        ambiguous_until_ns: 9,
        failure: Some(Failure {
            attempts: 2,
            error: "busy".to_owned(),
            parked: None,
        }),
        ..row("kept", State::Kept, "tide")
    };
    manifest
        .commit(folder, &puts(std::slice::from_ref(&known)))
        .expect("a commit");
    let intents = [Change::Intend(path("kept")), Change::Intend(path("new"))];
    manifest.commit(folder, &intents).expect("a commit");
    let kept = Entry {
        state: State::Open,
        want: None,
        ambiguous_until_ns: 0,
        ..known
    };
    let new = Entry {
        state: State::Open,
        stored: None,
        ..row("new", State::Unsent, "")
    };
    assert_eq!(all(&manifest, folder), [kept, new]);
}

#[test]
fn a_commit_is_all_or_nothing() {
    let (manifest, folder) = fresh();
    let bad = Entry {
        stored: None,
        ..synced("bad")
    };
    let mut special = synced("special");
    let mut huge = synced("huge");
    if let (Some(special), Some(huge)) = (&mut special.stored, &mut huge.stored) {
        special.stat.kind = Kind::Symlink;
        huge.stat.size = u64::MAX;
    }
    let root = Entry {
        path: RelPath::root(),
        ..synced("x")
    };
    for lie in [bad, special, huge, root] {
        let changes = [
            Change::Put(synced("good")),
            Change::Contacted,
            Change::Put(lie),
        ];
        let error = manifest
            .commit(folder, &changes)
            .expect_err("a row that lies");
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
        assert!(all(&manifest, folder).is_empty());
        assert!(!manifest.folders().expect("folders")[0].contacted);
    }
    for change in [
        Change::Contacted,
        Change::Intend(path("a")),
        Change::Put(synced("a")),
    ] {
        let error = manifest
            .commit(FolderId(99), &[change])
            .expect_err("no such folder");
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    }
    manifest
        .commit(folder, &puts(&[synced("good")]))
        .expect("a commit after refused ones");
}

#[test]
fn a_refused_row_is_named() {
    let (manifest, folder) = fresh();
    let bad = Entry {
        stored: None,
        ..synced("b\nd")
    };
    let mut huge = synced("b\nd");
    if let Some(stored) = &mut huge.stored {
        stored.stat.size = u64::MAX;
    }
    for (lie, why) in [(bad, "CHECK"), (huge, "a length that no file has")] {
        let error = manifest
            .commit(folder, &puts(&[lie]))
            .expect_err("a row that lies");
        let text = error.to_string();
        assert!(text.contains("b\\nd: ") && text.contains(why), "{text}");
    }
}

#[test]
fn folders_do_not_see_one_another() {
    let (manifest, first) = fresh();
    let other = FolderKey {
        bucket: "other".to_owned(),
        ..key()
    };
    let second = manifest.folder(&other, "b").expect("a folder").id;
    let large = Entry {
        stored: Some(content("tide", LARGE_BYTES + 1)),
        ..synced("large")
    };
    let upload = Upload {
        path: path("a"),
        key: "a".to_owned(),
        id: "1".to_owned(),
        begun_at_ns: 0,
        cut: None,
    };
    let remote = Remote {
        key: "k".to_owned(),
        size: 1,
        etag: "e".to_owned(),
    };
    let mut changes = puts(&[synced("a"), large, row("open", State::Open, "o")]);
    changes.extend([
        Change::UploadBegun(Box::new(upload)),
        Change::RemoteFound(vec![remote]),
    ]);
    manifest.commit(first, &changes).expect("a commit");
    assert!(all(&manifest, second).is_empty());
    assert!(
        !manifest
            .has_below(second, &RelPath::root())
            .expect("an answer")
    );
    assert!(
        manifest
            .by_content(second, &Sha256::of(b"tide"))
            .expect("rows")
            .is_empty()
    );
    assert!(
        !manifest
            .knows_size(second, LARGE_BYTES + 1, &path("x"))
            .expect("an answer")
    );
    assert!(
        manifest
            .open_rows(second, &RelPath::root(), 9)
            .expect("rows")
            .is_empty()
    );
    assert!(manifest.uploads(second).expect("uploads").is_empty());
    assert_eq!(manifest.remote(second, "k").expect("a remote"), None);
    assert_eq!(manifest.counts(second).expect("counts"), Counts::default());
}

#[test]
fn a_content_is_found_where_it_is_stored_and_certain_rows_come_first() {
    let (manifest, folder) = fresh();
    let doubtful = Entry {
        ambiguous_until_ns: 5,
        ..synced("a")
    };
    let rows = [
        doubtful,
        row("b", State::Open, "tide"),
        row("c", State::Kept, "tide"),
        row("d", State::Synced, "ebb"),
    ];
    manifest.commit(folder, &puts(&rows)).expect("a commit");
    let tide = Sha256::of(b"tide");
    let found = manifest.by_content(folder, &tide).expect("rows");
    assert_eq!(paths(&found), ["c", "a"]);
    let more: Vec<Entry> = (0..9).map(|n| synced(format!("m{n}"))).collect();
    manifest.commit(folder, &puts(&more)).expect("a commit");
    let found = manifest.by_content(folder, &tide).expect("rows");
    assert_eq!(found.len(), 4);
    assert!(found.iter().all(|row| row.ambiguous_until_ns == 0));
    // Another hash with the same first eight bytes is another content.
    let mut near = tide;
    near.0[31] ^= 1;
    assert!(manifest.by_content(folder, &near).expect("rows").is_empty());
}

#[test]
fn a_large_size_is_known_where_another_path_stores_it() {
    let (manifest, folder) = fresh();
    let sized = |name: &str, state, size| Entry {
        stored: Some(content("x", size)),
        ..row(name, state, "x")
    };
    let rows = [
        sized("synced", State::Synced, LARGE_BYTES + 1),
        sized("kept", State::Kept, LARGE_BYTES + 2),
        sized("open", State::Open, LARGE_BYTES + 3),
        sized("small", State::Synced, LARGE_BYTES),
    ];
    manifest.commit(folder, &puts(&rows)).expect("a commit");
    let knows = |size, except: &str| {
        manifest
            .knows_size(folder, size, &path(except))
            .expect("an answer")
    };
    assert!(knows(LARGE_BYTES + 1, "new") && knows(LARGE_BYTES + 2, "new"));
    assert!(!knows(LARGE_BYTES + 1, "synced"));
    assert!(
        !knows(LARGE_BYTES + 3, "new") && !knows(LARGE_BYTES, "new") && !knows(u64::MAX, "new")
    );
}

#[test]
fn what_is_undone_is_found_and_counted() {
    let (manifest, folder) = fresh();
    let failure = Failure {
        attempts: 3,
        error: "refused".to_owned(),
        parked: None,
    };
    let rows = [
        row("1 synced", State::Synced, "12345"),
        Entry {
            ambiguous_until_ns: 7,
            ..row("2 doubtful", State::Synced, "12345")
        },
        row("3 open", State::Open, "x"),
        row("4 kept", State::Kept, "x"),
        Entry {
            ambiguous_until_ns: 7,
            ..row("5 kept", State::Kept, "x")
        },
        Entry {
            failure: Some(failure.clone()),
            ..row("6 unsent", State::Unsent, "")
        },
    ];
    manifest.commit(folder, &puts(&rows)).expect("a commit");
    let open = manifest
        .open_rows(folder, &RelPath::root(), 9)
        .expect("rows");
    assert_eq!(paths(&open), ["2 doubtful", "3 open", "5 kept", "6 unsent"]);
    let open = manifest
        .open_rows(folder, &path("2 doubtful"), 2)
        .expect("rows");
    assert_eq!(paths(&open), ["3 open", "5 kept"]);
    let counts = Counts {
        synced: 2,
        synced_bytes: 10,
        open: 2,
        failed: 1,
        ambiguous: 2,
        held: 0,
    };
    assert_eq!(manifest.counts(folder).expect("counts"), counts);
    assert_eq!(
        manifest.failures(folder, 9).expect("failures"),
        [(path("6 unsent"), failure)]
    );
    assert!(manifest.failures(folder, 0).expect("failures").is_empty());
}

#[test]
fn uploads_and_first_contact_are_remembered_until_they_are_over() {
    let (manifest, folder) = fresh();
    let upload = |id: &str| Upload {
        path: path("big"),
        key: "p/big".to_owned(),
        id: id.to_owned(),
        begun_at_ns: NOW_NS,
        cut: Some(Cut::of(&content("big", 20 << 20).stat, 8 << 20)),
    };
    let remote = |key: &str, size| Remote {
        key: key.to_owned(),
        size,
        etag: "\"e\"".to_owned(),
    };
    let begun = [
        Change::UploadBegun(Box::new(upload("1"))),
        Change::UploadBegun(Box::new(upload("2"))),
        Change::UploadBegun(Box::new(upload("2"))),
        Change::RemoteFound(vec![remote("p/a", 1), remote("p/b", 2)]),
        Change::RemoteFound(vec![remote("p/b", 3)]),
    ];
    manifest.commit(folder, &begun).expect("a commit");
    assert_eq!(
        manifest.uploads(folder).expect("uploads"),
        [upload("1"), upload("2")]
    );
    assert_eq!(
        manifest.remote(folder, "p/b").expect("a remote"),
        Some(remote("p/b", 3))
    );
    let ended = [
        Change::UploadEnded("1".to_owned()),
        Change::RemoteTaken("p/a".to_owned()),
    ];
    manifest.commit(folder, &ended).expect("a commit");
    // Forgetting twice is no failure: a step may be done again after a crash.
    manifest.commit(folder, &ended).expect("a commit");
    assert_eq!(manifest.uploads(folder).expect("uploads"), [upload("2")]);
    assert_eq!(manifest.remote(folder, "p/a").expect("a remote"), None);
}

#[test]
fn the_parts_of_an_upload_are_remembered_until_it_is_over() {
    let (manifest, folder) = fresh();
    let asked = Upload::asked(path("big"), "p/big".to_owned(), NOW_NS);
    assert!(!asked.is_answered());
    let begun = Upload {
        id: "1".to_owned(),
        cut: Some(Cut::of(&content("big", 20 << 20).stat, 8 << 20)),
        ..asked.clone()
    };
    let part = |number: u32, etag: &str, crc64| UploadPart {
        number,
        etag: etag.to_owned(),
        crc64: Crc64(crc64),
        stored_at_ns: NOW_NS + i64::from(number),
    };
    let stored = |upload: &str, part: UploadPart| Change::PartStored {
        upload: upload.to_owned(),
        part,
    };
    let note_of = |upload: &Upload| Change::UploadBegun(Box::new(upload.clone()));
    let uploads = || manifest.uploads_of(folder, &path("big")).expect("uploads");
    let parts = |id| manifest.parts(folder, id).expect("parts");

    manifest
        .commit(folder, &[note_of(&asked)])
        .expect("a commit");
    assert_eq!(uploads(), std::slice::from_ref(&asked));
    // A question that is asked once more later is another one; an answer takes the place of its own question only.
    let later = Upload::asked(path("big"), "p/big".to_owned(), NOW_NS + 1);
    let changes = [note_of(&later), note_of(&begun)];
    manifest.commit(folder, &changes).expect("a commit");
    assert_eq!(uploads(), [begun.clone(), later.clone()]);
    assert_eq!(manifest.progress_ns(folder, &begun).ok(), Some(NOW_NS));

    let changes = [
        stored("1", part(2, "b", u64::MAX)),
        stored("1", part(10_000, "c", 1 << 63)),
        stored("1", part(1, "a", 0)),
        stored("1", part(2, "b2", 5)),
        // What is told late of an upload that is over is no part of anything.
        stored("never", part(1, "a", 0)),
    ];
    manifest.commit(folder, &changes).expect("a commit");
    let expected = [
        part(1, "a", 0),
        part(2, "b2", 5),
        part(10_000, "c", 1 << 63),
    ];
    assert_eq!(parts("1"), expected);
    assert_eq!(parts("never"), []);
    let last = Some(NOW_NS + 10_000);
    assert_eq!(manifest.progress_ns(folder, &begun).ok(), last);
    // Beginning again what has begun loses no part: a step may be done again after a crash.
    manifest
        .commit(folder, &[note_of(&begun)])
        .expect("a commit");
    assert_eq!(parts("1"), expected);

    let ends = [
        Change::UploadEnded("1".to_owned()),
        Change::UploadEnded(later.id),
    ];
    manifest.commit(folder, &ends).expect("a commit");
    assert_eq!((uploads(), parts("1")), (vec![], vec![]));
    let impossible = [note_of(&begun), stored("1", part(10_001, "d", 0))];
    assert!(manifest.commit(folder, &impossible).is_err());
    assert_eq!(uploads(), []);
}

#[test]
fn horizons_go_with_the_clock_and_rows_without_one_get_none() {
    let (manifest, folder) = fresh();
    let until = |until_ns| Entry {
        ambiguous_until_ns: until_ns,
        ..row(format!("{until_ns}").into_bytes(), State::Synced, "x")
    };
    let rows = [until(0), until(5), until(NOW_NS)];
    manifest.commit(folder, &puts(&rows)).expect("a commit");
    let horizons = |change| {
        manifest.commit(folder, &[change]).expect("a commit");
        let asked = rows.each_ref().map(|row| row.path.clone());
        let found = manifest.entries(folder, &asked).expect("entries");
        let found = found.into_iter().map(|row| row.expect("it is there"));
        found.map(|row| row.ambiguous_until_ns).collect::<Vec<_>>()
    };
    assert_eq!(horizons(Change::ClockSet(10)), [0, 15, NOW_NS + 10]);
    // One that would end before the epoch is over, and still to be looked at.
    assert_eq!(horizons(Change::ClockSet(-20)), [0, 1, NOW_NS - 10]);
    assert_eq!(horizons(Change::Horizons(NOW_NS)), [0, NOW_NS, NOW_NS]);
}
