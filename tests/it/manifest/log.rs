//! What is logged of which change: each change of a row, seen from the row before and the row after.

use tidewatch::base::drill::Drill;
use tidewatch::base::path::RelPath;
use tidewatch::base::stat::FolderStamp;
use tidewatch::manifest::{
    Aside, Change, Entry, Facts, Held, HeldWhat, Logged, Manifest, Progress, State, Waiting, What,
};

use super::{NOW_NS, folder, path, row, synced};

/// Commits one change and returns what was logged of it, in few words.
fn logs(manifest: &Manifest, change: Change) -> String {
    let number = folder(manifest);
    let last = all(manifest).last().map_or(0, |row| row.seq);
    let logged = manifest.commit_at(number, &[change], NOW_NS + 100);
    let rows = manifest.logged(number, last, 10).expect("readable");
    assert_eq!(logged.expect("a commit"), rows.len());
    let words: Vec<String> = rows.iter().map(word).collect();
    words.join(" ")
}

fn word(row: &Logged) -> String {
    match &row.what {
        What::Put => format!("put:{}", row.path),
        What::Gone { is_kept: true } => format!("kept:{}", row.path),
        What::Gone { is_kept: false } => format!("gone:{}", row.path),
        What::Aside(key) => format!("aside:{}:{key}", row.path),
        What::Folder => format!("folder:{}", row.path),
        What::FolderGone => format!("folder_gone:{}", row.path),
        What::Drill(drill) => format!("drill{}:{}", row.path, drill.files),
    }
}

fn all(manifest: &Manifest) -> Vec<Logged> {
    manifest
        .logged(folder(manifest), 0, 1000)
        .expect("readable")
}

fn changed(change: impl FnOnce(&mut Entry)) -> Change {
    let mut entry = synced("a");
    change(&mut entry);
    Change::Put(entry)
}

#[test]
fn every_change_of_a_row_is_logged_for_what_it_means() {
    let manifest = Manifest::in_memory().expect("a database");
    let log = |change| logs(&manifest, change);
    let stat = |change: fn(&mut tidewatch::base::stat::Stat)| {
        changed(|entry| change(&mut entry.stored.as_mut().expect("stored").stat))
    };
    // A failure of what was never there says nothing.
    assert_eq!(log(Change::Put(row("a", State::Unsent, ""))), "");
    assert_eq!(log(Change::Intend(path("a"))), "");
    assert_eq!(log(Change::Put(synced("a"))), "put:a");
    // Level again: no news, whatever else the row says.
    assert_eq!(log(Change::Put(synced("a"))), "");
    assert_eq!(log(Change::Intend(path("a"))), "");
    assert_eq!(log(Change::Put(row("a", State::Open, "tide"))), "");
    assert_eq!(log(Change::Put(synced("a"))), "");
    assert_eq!(log(changed(|entry| entry.ambiguous_until_ns = 5)), "");
    assert_eq!(
        log(changed(|entry| {
            entry.stored.as_mut().expect("stored").doubtful = true;
        })),
        ""
    );
    // The kernel's own numbers are nobody's business.
    assert_eq!(
        log(stat(|stat| (stat.dev, stat.ino, stat.ctime_ns) = (7, 8, 9))),
        ""
    );
    assert_eq!(log(Change::Renumbered { from: 7, to: 70 }), "");
    assert_eq!(log(stat(|stat| stat.mode = 0o600)), "put:a");
    assert_eq!(log(stat(|stat| stat.mtime_ns += 1)), "put:a");
    assert_eq!(log(stat(|stat| stat.uid = 1)), "put:a");
    assert_eq!(log(Change::Put(row("a", State::Synced, "other"))), "put:a");
    assert_eq!(
        log(changed(|entry| {
            entry.stored.as_mut().expect("stored").version_id = Some("v".into());
        })),
        "put:a"
    );
    // Gone, and its object kept; once. Back without being sent.
    assert_eq!(log(Change::Put(row("a", State::Kept, "tide"))), "kept:a");
    assert_eq!(log(Change::Put(row("a", State::Kept, "tide"))), "");
    assert_eq!(log(Change::Intend(path("a"))), "");
    assert_eq!(log(Change::Put(synced("a"))), "put:a");
    // Removed: through an intent, and as a tombstone.
    assert_eq!(log(Change::Intend(path("a"))), "");
    assert_eq!(log(Change::Forget(path("a"))), "gone:a");
    assert_eq!(log(Change::Forget(path("a"))), "");
    assert_eq!(log(Change::Put(synced("a"))), "put:a");
    assert_eq!(
        log(Change::Put(Entry::blank(path("a"), State::Open))),
        "gone:a"
    );
    assert_eq!(log(Change::Forget(path("a"))), "");
    // What others did is found by first contact: the row stays until that is settled.
    assert_eq!(log(Change::Put(synced("a"))), "put:a");
    let unsent = row("a", State::Synced, "tide");
    let unsent = Entry {
        state: State::Unsent,
        ..unsent
    };
    assert_eq!(log(Change::Put(unsent)), "");
    assert_eq!(log(Change::Recontact), "");
    assert_eq!(log(Change::Forget(path("a"))), "gone:a");
    let last = all(&manifest).pop().expect("a row");
    assert_eq!(last.time_ns, NOW_NS + 100);
    assert_eq!(
        last.facts,
        Facts::of(synced("a").stored.as_ref().expect("stored"))
    );
}

#[test]
fn what_a_person_refuses_to_remove_is_gone_and_kept() {
    let manifest = Manifest::in_memory().expect("a database");
    let held = |name: &str, state, what| {
        let held = Held {
            what,
            at_ns: NOW_NS,
            seen: None,
        };
        let row = Entry {
            held: Some(Box::new(held)),
            ..row(name, state, "tide")
        };
        Change::Put(row)
    };
    for name in ["a", "b", "c", "d"] {
        logs(&manifest, Change::Put(synced(name)));
    }
    logs(&manifest, held("a", State::Synced, HeldWhat::Delete));
    logs(&manifest, held("b", State::Synced, HeldWhat::Delete));
    logs(&manifest, held("c", State::Open, HeldWhat::Delete));
    logs(&manifest, held("d", State::Synced, HeldWhat::Overwrite));
    assert_eq!(logs(&manifest, Change::DropHeld), "kept:a kept:b");
    assert_eq!(logs(&manifest, Change::DropHeld), "");
    assert_eq!(logs(&manifest, Change::Put(synced("a"))), "put:a");
}

#[test]
fn numbers_go_up_by_one_and_are_never_used_twice() {
    let manifest = Manifest::in_memory().expect("a database");
    let number = folder(&manifest);
    let aside = Aside {
        path: path("a"),
        trash_key: "host/.tidewatch/trash/T/a".to_owned(),
        facts: Facts::default(),
        at_ns: NOW_NS,
    };
    assert_eq!(
        logs(&manifest, Change::Aside(Box::new(aside))),
        "aside:a:host/.tidewatch/trash/T/a"
    );
    logs(&manifest, Change::Put(synced("a")));
    logs(&manifest, Change::Put(synced("b")));
    let seqs = || -> Vec<u64> { all(&manifest).iter().map(|row| row.seq).collect() };
    assert_eq!(seqs(), [1, 2, 3]);
    let is = Progress {
        number: 1,
        published: 2,
        ..Progress::default()
    };
    manifest.note_progress(number, &is).expect("noted");
    assert_eq!(seqs(), [3]);
    assert_eq!(manifest.progress(number).expect("readable"), is);
    let is = Progress { published: 3, ..is };
    manifest.note_progress(number, &is).expect("noted");
    assert_eq!(
        manifest.waiting(number).expect("readable"),
        Waiting::default()
    );
    logs(&manifest, Change::Forget(path("a")));
    assert_eq!(seqs(), [4]);
    let waiting = manifest.waiting(number).expect("readable");
    assert_eq!((waiting.records, waiting.since_ns), (1, Some(NOW_NS + 100)));
    let whole = Progress {
        number: 9,
        hash: Some(tidewatch::base::digest::Sha256::of(b"x")),
        base: 7,
        published: 4,
        records: 5,
        links: 6,
        is_due: true,
        began: Some(8),
        after: Some(path(b"c/\xff")),
        after_folder: Some(path("d")),
    };
    manifest.note_progress(number, &whole).expect("noted");
    assert_eq!(manifest.progress(number).expect("readable"), whole);
    let live = manifest
        .live(number, &RelPath::root(), 10)
        .expect("readable");
    assert_eq!(live.len(), 1);
    assert_eq!((live[0].path.clone(), live[0].seq), (path("b"), 0));
}

#[test]
fn folders_are_logged_when_they_are_new_or_others_and_when_they_go() {
    let manifest = Manifest::in_memory().expect("a database");
    let stamp = |mode| FolderStamp {
        mtime_ns: -1,
        mode,
        uid: u32::MAX,
        gid: 7,
    };
    let log = |change| logs(&manifest, change);
    let is = |name: &str, mode| Change::Folder(path(name), stamp(mode));
    assert_eq!(log(is("a", 0o755)), "folder:a");
    assert_eq!(log(is("a", 0o755)), "");
    assert_eq!(log(is("a", 0o700)), "folder:a");
    let last = all(&manifest).pop().expect("a row");
    assert_eq!(last.facts, Facts::of_folder(&stamp(0o700)));
    assert_eq!(last.time_ns, NOW_NS + 100);
    for name in ["a/b", "a-b", "a.c/d", "b"] {
        log(is(name, 0o755));
    }
    // A file of the same name has its own row, and neither says anything of the other.
    assert_eq!(log(Change::Put(synced("a"))), "put:a");
    assert_eq!(log(Change::Forget(path("a"))), "gone:a");

    let number = folder(&manifest);
    let pages = |within: &str, after: &str, limit| -> String {
        let found = manifest.subfolders(number, &path(within), &path(after), limit);
        let found = found.expect("readable").into_iter();
        let found: Vec<String> = found.map(|(path, _)| path.to_string()).collect();
        found.join(" ")
    };
    // In the order of a walk: what is in `a` comes behind `a-b` and `a.c/d`, as `a/` does.
    assert_eq!(pages("", "", 10), "a-b a.c/d a a/b b");
    assert_eq!(pages("", "a.c/d", 2), "a a/b");
    assert_eq!(pages("a", "a", 10), "a/b");
    assert_eq!(pages("a", "", 10), "a/b");
    assert_eq!(pages("a", "a/b", 10), "");
    let one = |name: &str| manifest.subfolder(number, &path(name)).expect("readable");
    assert_eq!((one("a"), one("c")), (Some(stamp(0o700)), None));
    let has = |name: &str| {
        manifest
            .has_subfolder(number, &path(name))
            .expect("readable")
    };
    assert!(has("a") && has("a.c") && has("a/b") && !has("c") && !has("a/b/c"));
    let live = manifest
        .live_subfolders(number, &path("a"), 10)
        .expect("readable");
    let live: Vec<String> = live.iter().map(word).collect();
    assert_eq!(live, ["folder:a/b", "folder:b"]);

    assert_eq!(log(Change::FolderGone(path("a"))), "folder_gone:a");
    assert_eq!(log(Change::FolderGone(path("a"))), "");
    assert_eq!(pages("", "", 10), "a-b a.c/d a/b b");
}

#[test]
fn a_drill_is_logged_as_it_went() {
    let manifest = Manifest::in_memory().expect("a database");
    let drill = Drill {
        host: "tide-1".to_owned(),
        files: 3,
        ..Drill::default()
    };
    let change = Change::Drilled(Box::new(drill.clone()));
    assert_eq!(logs(&manifest, Change::Put(synced("a"))), "put:a");
    assert_eq!(logs(&manifest, change), "drill:3");
    let last = all(&manifest).pop().expect("a row");
    assert_eq!((last.seq, last.what), (2, What::Drill(Box::new(drill))));
}

#[test]
fn a_commit_that_is_refused_logs_nothing() {
    let manifest = Manifest::in_memory().expect("a database");
    let mut folderless = synced("b");
    if let Some(content) = &mut folderless.stored {
        content.stat.size = u64::MAX;
    }
    let changes = [Change::Put(synced("a")), Change::Put(folderless)];
    let refused = manifest.commit_at(folder(&manifest), &changes, NOW_NS);
    assert!(refused.is_err());
    assert_eq!(all(&manifest), []);
}
