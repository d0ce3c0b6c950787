//! The 85 rows, and what became of each: ran, or could not and why. The fault matrix and the measures of security have
//! theirs told in the same way.
//!
//! Each test leaves one line in `target/tmp/TABLE/NN` and says it on stderr; `tests/watching.sh` reads the lines.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::watching::place;
use crate::{matrix, security};

/// What each row holds the program to, from 1.
pub const ROWS: [&str; 85] = [
    "folders made at once",
    "folders made one by one",
    "folders made while those above are renamed",
    "copied folders",
    "a repository made in the tree",
    "random changes by three threads",
    "folders gone at once",
    "a tree moved in while it is deleted",
    "an overflow",
    "an overflow that never comes",
    "a rescan causes no loss",
    "an overflow during the rescan",
    "hints faster than their channel",
    "a write after a big removal",
    "memory of many rounds",
    "many small writes",
    "a folder renamed",
    "a write behind a rename",
    "a folder moved in",
    "a folder moved out",
    "an exchange",
    "a ring of renames",
    "a file over another",
    "renames by four threads",
    "a folder that becomes a file",
    "ignored names become wanted ones",
    "the root made again",
    "the root replaced",
    "the root unmounted",
    "the root unmounted lazily",
    "the root mounted again",
    "a mount over a subfolder",
    "a root behind a link",
    "two names by a bind mount",
    "the root inside itself",
    "changes behind FUSE",
    "overlay",
    "a disk that fails",
    "more folders than watches",
    "more watches later",
    "no instances",
    "an unreadable folder",
    "a folder made readable",
    "an unreadable folder moved in",
    "an unreadable file",
    "a file rewritten without rest",
    "a file rewritten through a mapping",
    "a file of somebody else rewritten",
    "the event is believed, not the stat",
    "a writer waits little",
    "SIGIO",
    "a slow writer",
    "a mapping that outlives its descriptor",
    "AIO without a close",
    "a loop device",
    "a hard link outside",
    "a truncation",
    "an endless append",
    "replaced while uploaded",
    "two writers, one descriptor",
    "mtime put back",
    "two writes in one tick",
    "unlinked and made again",
    "times in the future",
    "programs that save",
    "rsync",
    "cp -p",
    "tar",
    "browsers",
    "SFTP servers",
    "O_TMPFILE",
    "SQLite",
    "what is no file",
    "a FIFO in a file's place",
    "a link in a folder's place",
    "strange names",
    "deep folders",
    "sparse files",
    "metadata only",
    "opened and not written",
    "our own reading",
    "an idle tree",
    "changes while stopped",
    "killed in the first walk",
    "a busy neighbour",
];

/// The tables, by the first letter of their tests' names.
pub const TABLES: [(&str, &str, &[&str]); 3] = [
    ("w", "watching", &ROWS),
    ("r", "matrix", &matrix::rows::ROWS),
    ("s", "security", &security::ROWS),
];

/// A row that is being tried. Dropped without more, it ran.
pub struct Row {
    pub number: usize,
    table: &'static str,
    title: &'static str,
    /// The test's full name.
    pub test: &'static str,
    outcome: String,
}

/// Begins the row of the test that says it.
macro_rules! row {
    () => {{
        fn here() {}
        $crate::watching::table::Row::begin(std::any::type_name_of_val(&here))
    }};
}
pub(crate) use row;

impl Row {
    pub fn begin(here: &'static str) -> Self {
        let test = here.strip_suffix("::here").expect("the macro's name");
        let test = test.strip_suffix("::{{closure}}").unwrap_or(test);
        let (_, test) = test.split_once("::").expect("a crate's name before it");
        let name = test.rsplit("::").next().expect("a name");
        let number: usize = name[1..3].parse().expect("wNN_");
        let is_it = |(letter, ..): &&(&str, _, _)| name.starts_with(letter);
        let (_, table, titles) = TABLES.iter().find(is_it).expect("a table");
        let row = Self {
            number,
            table,
            title: titles[number - 1],
            test,
            outcome: "ran".to_owned(),
        };
        row.note("failed");
        row
    }

    /// Writes down why the row cannot be tried here.
    pub fn could_not(&mut self, why: &str) {
        self.outcome = format!("could not run: {why}");
        if place::is_inside() {
            say(&format!("COULD NOT: {why}"));
        }
    }

    /// Writes down which part of a row that ran cannot be tried here.
    pub fn but_not(&mut self, what: &str) {
        self.outcome = format!("ran, but not {what}");
        if place::is_inside() {
            say(&format!("BUT NOT: {what}"));
        }
    }

    fn note(&self, outcome: &str) {
        // The run outside writes it down.
        if place::is_inside() {
            return;
        }
        let folder = folder(self.table);
        let file = folder.join(format!("{:02}", self.number));
        fs::create_dir_all(folder).unwrap();
        let line = format!("{:>2}. {}: {outcome}\n", self.number, self.title);
        fs::write(file, line).unwrap();
    }
}

impl Drop for Row {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        self.note(&self.outcome);
        if self.outcome != "ran" {
            let table = self.table.to_uppercase();
            say(&format!("{table} {}: {}", self.number, self.outcome));
        }
    }
}

#[expect(clippy::print_stderr, reason = "it is for whoever runs the tests")]
fn say(line: &str) {
    eprintln!("{line}");
}

/// Returns where the rows of a table leave their lines.
pub fn folder(table: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(table)
}

#[test]
fn all_85_rows_have_a_test() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    let mut files: Vec<PathBuf> = ["reads.rs", "eyes.rs", "filter.rs"]
        .iter()
        .map(|name| tests.join(name))
        .filter(|file| file.exists())
        .collect();
    let here = fs::read_dir(tests.join("watching")).unwrap();
    files.extend(here.map(|entry| entry.unwrap().path()));
    let mut found = BTreeSet::new();
    for file in files {
        for line in fs::read_to_string(file).unwrap().lines() {
            let name = line.trim_start().trim_start_matches("async ");
            if let Some(number) = name.strip_prefix("fn w").and_then(|rest| rest.get(..2))
                && let Ok(number) = number.parse::<usize>()
            {
                found.insert(number);
            }
        }
    }
    let missing: Vec<usize> = (1..=85).filter(|number| !found.contains(number)).collect();
    assert!(missing.is_empty(), "rows without a test: {missing:?}");
}
