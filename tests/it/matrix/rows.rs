//! The 67 rows by their faults, that each has its test, and what became of them.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::support::results;
use crate::watching::table::{TABLES, folder};

/// The faults, from 1.
pub const ROWS: [&str; 67] = [
    "kill -9 at a random moment under load",
    "kill -9 at each system call of the commit path",
    "kill -9 at each named fail point",
    "kill -9 during recovery, repeatedly",
    "SIGTERM under load",
    "power loss, ordered metadata",
    "power loss, strict directory model",
    "torn last write, lost pages",
    "manifest deleted while stopped",
    "manifest deleted while running",
    "manifest bit flips, truncation",
    "manifest restored from yesterday",
    "newer manifest format",
    "crash in each step of migration",
    "state directory read-only",
    "second agent, same state directory",
    "second agent, same prefix, other state",
    "root unmounted",
    "root replaced by another directory",
    "sub-mount below the root disappears",
    "subdirectory unreadable",
    "EIO while reading a file",
    "EIO from fsync of the manifest",
    "state disk full",
    "state disk out of inodes",
    "file-size limit",
    "out of file handles",
    "out of memory",
    "inotify watch limit",
    "inotify queue overflow",
    "events for moved-in and moved-out directories",
    "event storm on one file",
    "file written during hashing",
    "file written during upload",
    "file truncated during upload",
    "same size, same mtime, new content",
    "content and times put back while down",
    "deleted and re-created between scan and delete",
    "rename chains, swaps, cycles",
    "replace by rename",
    "hard links, many names",
    "FIFO, socket, device in the tree",
    "sparse 1 TB file",
    "connection refused, DNS failure",
    "reply lost after the effect",
    "request lands late, after a newer one",
    "body cut half-way",
    "500, 503 SlowDown, 429 bursts",
    "200 with an error document inside",
    "corrupted bytes on the wire",
    "credentials expire, are revoked, return",
    "bucket gone, wrong region, versioning or lock on",
    "multipart: part lost, upload id gone, complete unanswered",
    "bucket refuses conditions",
    "listing incomplete or stale page",
    "somebody else deletes or changes our object",
    "clock back a day, forward a year, at run time",
    "suspend and resume for hours",
    "slow disk",
    "slow store",
    "1 M files at first start",
    "names of every kind",
    "deep and long paths",
    "symlink swapped under us",
    "mass deletion",
    "config changed",
    "soak, all random faults on",
];

/// Adds the numbers of the tests below `dir` whose names begin with `letter` and two digits.
pub fn collect(dir: &Path, letter: char, found: &mut BTreeSet<usize>) {
    let begin = format!("fn {letter}");
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, letter, found);
            continue;
        }
        let text = fs::read_to_string(&path).unwrap_or_default();
        found.extend(text.split(&begin).skip(1).filter_map(|rest| {
            let (number, _) = rest.split_once('_')?;
            number.parse::<usize>().ok().filter(|_| number.len() == 2)
        }));
    }
}

/// Returns the numbers of the tests in this suite.
pub fn numbers(letter: char) -> BTreeSet<usize> {
    let mut found = BTreeSet::new();
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    collect(&tests, letter, &mut found);
    found
}

#[test]
fn every_row_of_the_fault_matrix_has_its_test() {
    let found = numbers('r');
    let missing: Vec<_> = (1..=ROWS.len())
        .filter(|number| !found.contains(number))
        .map(|number| format!("r{number:02}: {}", ROWS[number - 1]))
        .collect();
    assert!(
        missing.is_empty(),
        "without a test:\n{}",
        missing.join("\n")
    );
    assert!(found.iter().all(|number| (1..=ROWS.len()).contains(number)));
}

/// Says what became of rows, by the lines that they have left: of those that did not run everywhere, which.
fn became<'a>(lines: impl Iterator<Item = (usize, &'a str)>) -> String {
    let (mut ran, mut all) = (0, 0);
    let mut others = [
        (", but not ", "ran in part", Vec::new()),
        (": could not run", "could not run here", Vec::new()),
        (": failed", "failed", Vec::new()),
        ("", "left no word", Vec::new()),
    ];
    for (number, line) in lines {
        all += 1;
        if line.trim_end().ends_with(": ran") {
            ran += 1;
        } else {
            let is_it = |(words, ..): &&mut (&str, _, _)| {
                if words.is_empty() {
                    true
                } else {
                    line.contains(*words)
                }
            };
            let which = others.iter_mut().find(is_it);
            which
                .expect("the last takes all")
                .2
                .push(format!("{number:02}"));
        }
    }
    let mut said = format!("{all} rows: {ran} ran");
    for (_, words, numbers) in others.iter().filter(|(.., numbers)| !numbers.is_empty()) {
        // Writing to a String cannot fail.
        let _ = write!(said, ", {} {words} ({})", numbers.len(), numbers.join(", "));
    }
    said
}

#[test]
fn what_became_of_the_rows_is_said_in_a_line() {
    let lines = [
        " 1. a: ran\n",
        " 2. b: ran, but not everywhere\n",
        " 3. c: could not run: needs root\n",
        " 4. d: ran\n",
        "",
    ];
    assert_eq!(
        became((1..).zip(lines)),
        "5 rows: 2 ran, 1 ran in part (02), 1 could not run here (03), 1 left no word (05)"
    );
}

/// Notes what the rows of the last run have left; `tests/watching.sh` asks for it.
#[test]
fn what_became_of_the_rows_of_the_last_run_is_noted() {
    for (letter, table, rows) in TABLES {
        let lines: Vec<String> = (1..=rows.len())
            .map(|number| folder(table).join(format!("{number:02}")))
            .map(|file| fs::read_to_string(file).unwrap_or_default())
            .collect();
        let figure = became((1..).zip(lines.iter().map(String::as_str)));
        assert!(
            figure.starts_with(&format!("{} rows: ", rows.len())),
            "{letter}: {figure}"
        );
        if std::env::var_os("TIDEWATCH_TOLD").is_some() {
            let section = match table {
                "matrix" => "Fault matrix",
                "security" => "Security",
                _ => "Watching",
            };
            results::note(section, "what became of the rows", &figure);
        }
    }
}
