//! What `verify` prints: a line for each difference, and a summary at the end.
//!
//! The words of [`Kind`] and the names of the fields are a contract with scripts: some may be added, none is changed.

use std::borrow::Cow;
use std::io;
use std::time::Duration;

use serde::Serialize;

use crate::base::path::{RelPath, escaped, told};
use crate::base::units::{show_bytes, show_took};
use crate::report::out::Out;
use crate::report::progress::Progress;

/// What was found of one path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The bucket has no such object.
    Missing,
    /// The object is not the one that was stored.
    Changed,
    /// Nobody here knows the object.
    Extra,
    /// The object has the right size and `ETag`, and other bytes.
    Damaged,
    /// The file has other bytes under unchanged stamps.
    Rotten,
    /// The file is not on the disk.
    Gone,
    /// What is known is not level yet: a sync has work to do.
    NotLevel,
    /// It could not be looked at.
    Failed,
    /// A difference that has been mended and was looked at again.
    Mended,
    /// A difference that the next sync mends.
    Marked,
    /// A difference that was to be mended and is still there.
    NotMended,
}

/// How many kinds there are.
const KINDS: usize = 11;

impl Kind {
    /// Returns its word in a line of JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Changed => "changed",
            Self::Extra => "extra",
            Self::Damaged => "damaged",
            Self::Rotten => "rotten",
            Self::Gone => "gone",
            Self::NotLevel => "not_level",
            Self::Failed => "failed",
            Self::Mended => "mended",
            Self::Marked => "marked",
            Self::NotMended => "not_mended",
        }
    }
}

/// All differences, in the order in which they are summed up.
const DIFFERENCES: [Kind; 7] = [
    Kind::Missing,
    Kind::Changed,
    Kind::Damaged,
    Kind::Extra,
    Kind::Rotten,
    Kind::Gone,
    Kind::NotLevel,
];

/// What was looked at, and what was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    kinds: [u64; KINDS],
    /// Rows that were compared with the listing.
    pub compared: u64,
    /// Files that were read.
    pub files: u64,
    /// Objects that were read.
    pub objects: u64,
    /// Bytes of both.
    pub bytes: u64,
    /// Whether something of a folder was not looked at for another reason than one file's.
    pub is_cut: bool,
}

impl Tally {
    /// Returns how often something was found.
    pub fn of(&self, kind: Kind) -> u64 {
        self.kinds[kind as usize]
    }

    /// Returns how many differences were found.
    pub fn differences(&self) -> u64 {
        DIFFERENCES.iter().map(|kind| self.of(*kind)).sum()
    }

    /// Returns whether nothing differs any more, as far as anybody looked.
    fn is_level(&self) -> bool {
        self.differences() == self.of(Kind::Mended)
    }

    /// Returns whether everything was looked at.
    fn is_whole(&self) -> bool {
        !self.is_cut && self.of(Kind::Failed) == 0
    }

    fn says(&self, took: Duration) -> Summary {
        let of = |kind| self.of(kind);
        Summary {
            event: "summary",
            level: self.is_level() && self.is_whole(),
            whole: self.is_whole(),
            compared: self.compared,
            files_read: self.files,
            objects_read: self.objects,
            missing: of(Kind::Missing),
            changed: of(Kind::Changed),
            damaged: of(Kind::Damaged),
            extra: of(Kind::Extra),
            rotten: of(Kind::Rotten),
            gone: of(Kind::Gone),
            not_level: of(Kind::NotLevel),
            failed: of(Kind::Failed),
            mended: of(Kind::Mended),
            bytes: self.bytes,
            seconds: took.as_millis() as f64 / 1000.0,
        }
    }

    fn line(&self, took: Duration) -> String {
        let mut found: Vec<String> = DIFFERENCES
            .into_iter()
            .chain([Kind::Failed, Kind::Mended])
            .filter(|kind| self.of(*kind) > 0)
            .map(|kind| format!("{} {}", self.of(kind), kind.word().replace('_', " ")))
            .collect();
        let head = match (self.is_level(), self.is_whole()) {
            (false, true) => "different",
            (false, false) => "different, and not all was looked at",
            (true, false) => "not all was looked at",
            (true, true) if found.is_empty() => "all there",
            (true, true) => "all there now",
        };
        if found.is_empty() {
            found.push("nothing differs".to_owned());
        }
        let mut looked = vec![format!("{} objects compared", self.compared)];
        let read = [(self.files, "files"), (self.objects, "objects")];
        for (count, what) in read.into_iter().filter(|(count, _)| *count > 0) {
            looked.push(format!("{count} {what} read"));
        }
        if self.bytes > 0 {
            looked.push(show_bytes(self.bytes));
        }
        let took = show_took(took);
        format!(
            "{head}: {}; {} in {took}",
            found.join(", "),
            looked.join(", ")
        )
    }
}

#[derive(Debug, Serialize)]
struct Summary {
    event: &'static str,
    level: bool,
    whole: bool,
    compared: u64,
    files_read: u64,
    objects_read: u64,
    missing: u64,
    changed: u64,
    damaged: u64,
    extra: u64,
    rotten: u64,
    gone: u64,
    not_level: u64,
    failed: u64,
    mended: u64,
    bytes: u64,
    seconds: f64,
}

/// Whose line it is: a path, or a key that no path has.
#[derive(Clone, Copy, Debug)]
pub enum Whose<'a> {
    /// A path and, where it has one, its key.
    Path(&'a RelPath, Option<&'a str>),
    /// A key, and the part of it below the prefix.
    Key(&'a str, &'a str),
}

#[derive(Debug, Serialize)]
struct Line<'a> {
    event: &'static str,
    folder: &'a str,
    path: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_base64: Option<String>,
    key: Option<&'a str>,
    error: Option<&'a str>,
}

/// Where it is told what is found.
#[derive(Debug)]
pub struct Teller {
    out: Out,
    json: bool,
    quiet: bool,
    /// Whether each folder's lines stand below a line with its name.
    has_heads: bool,
    /// The folder that is looked at, and its head if that is still to be printed.
    folder: String,
    head: Option<String>,
    progress: Progress,
    /// Files that there are to look at.
    all: u64,
    done: u64,
    /// Of all folders so far.
    pub sum: Tally,
    /// Of the folder that is looked at.
    pub tally: Tally,
    /// Why a result could not be written.
    trouble: Option<io::Error>,
}

impl Teller {
    /// Begins to tell; `folders` are to be looked at.
    pub fn new(json: bool, quiet: bool, folders: usize) -> Self {
        let progress = if quiet || json {
            Progress::hidden()
        } else {
            Progress::of_files()
        };
        Self {
            out: Out::stdout(),
            json,
            quiet,
            has_heads: folders > 1 && !json,
            folder: String::new(),
            head: None,
            progress,
            all: 0,
            done: 0,
            sum: Tally::default(),
            tally: Tally::default(),
            trouble: None,
        }
    }

    /// Goes on to another folder.
    pub fn begin(&mut self, name: &str, to: &str) {
        name.clone_into(&mut self.folder);
        self.head = self.has_heads.then(|| format!("{name}  {to}"));
        self.tally = Tally::default();
    }

    /// Ends with a folder; returns what was found there.
    pub fn end(&mut self) -> Tally {
        let tally = std::mem::take(&mut self.tally);
        for (sum, found) in self.sum.kinds.iter_mut().zip(tally.kinds) {
            *sum += found;
        }
        self.sum.compared += tally.compared;
        self.sum.files += tally.files;
        self.sum.objects += tally.objects;
        self.sum.bytes += tally.bytes;
        self.sum.is_cut |= tally.is_cut;
        tally
    }

    /// Begins to look at `all` files anew.
    pub fn looks_at(&mut self, all: u64) {
        (self.all, self.done) = (all, 0);
    }

    /// So many more files have been looked at; `doing` says how.
    pub fn passed(&mut self, count: u64, doing: &str) {
        self.done += count;
        let differ = self.tally.differences();
        let found = if differ > 0 {
            format!(", {differ} differ")
        } else {
            String::new()
        };
        let (done, all) = (self.done, self.all.max(self.done));
        self.progress
            .count(done, all, format!("{doing} {done} of {all} files{found}"));
    }

    /// Tells one thing; `why` is for people.
    pub fn say(&mut self, kind: Kind, whose: Whose<'_>, why: &str) {
        self.tally.kinds[kind as usize] += 1;
        if self.json {
            let folder = std::mem::take(&mut self.folder);
            let line = serde_json::to_string(&line(kind, &folder, whose, why));
            self.folder = folder;
            match line {
                Ok(line) => self.line(&line),
                Err(error) => self.trouble = Some(error.into()),
            }
            return;
        }
        if let Some(head) = self.head.take() {
            self.line(&head);
        }
        let path = match whose {
            Whose::Path(path, _) => path.to_string(),
            Whose::Key(_, rest) => escaped(rest.as_bytes()),
        };
        let word = kind.word().replace('_', " ");
        self.line(&format!("{word:<10}  {path}  ({why})"));
    }

    /// Prints the summary over all folders.
    pub fn close(&mut self, took: Duration) -> io::Result<()> {
        self.progress.end();
        if self.json {
            match serde_json::to_string(&self.sum.says(took)) {
                Ok(line) => self.line(&line),
                Err(error) => self.trouble = Some(error.into()),
            }
        } else if !self.quiet {
            let line = self.sum.line(took);
            self.line(&line);
        }
        self.trouble.take().map_or(Ok(()), Err)
    }

    fn line(&mut self, line: &str) {
        let written = self.progress.around(|| self.out.line(line));
        if let Err(error) = written {
            self.trouble.get_or_insert(error);
        }
    }
}

fn line<'a>(kind: Kind, folder: &'a str, whose: Whose<'a>, why: &'a str) -> Line<'a> {
    let (path, path_base64, key) = match whose {
        Whose::Path(path, key) => {
            let (path, path_base64) = told(path.as_bytes());
            (path, path_base64, key)
        }
        Whose::Key(key, rest) => (Cow::Borrowed(rest), None, Some(key)),
    };
    Line {
        event: kind.word(),
        folder,
        path,
        path_base64,
        key,
        error: Some(why).filter(|why| !why.is_empty()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_says_what_differs_and_what_was_looked_at() {
        let mut tally = Tally {
            compared: 12,
            ..Tally::default()
        };
        let took = Duration::from_millis(240);
        assert_eq!(
            tally.line(took),
            "all there: nothing differs; 12 objects compared in 0.2s"
        );
        tally.kinds[Kind::Missing as usize] = 2;
        tally.kinds[Kind::NotLevel as usize] = 1;
        (tally.files, tally.objects, tally.bytes) = (3, 4, 2048);
        assert_eq!(
            tally.line(took),
            "different: 2 missing, 1 not level; 12 objects compared, 3 files read, 4 objects read, 2.0 KiB in 0.2s"
        );
        assert!(!tally.says(took).level);
        tally.kinds[Kind::Mended as usize] = 3;
        assert!(tally.line(took).starts_with("all there now: "));
        tally.kinds[Kind::Failed as usize] = 1;
        assert!(!tally.says(took).level);
        assert!(tally.line(took).starts_with("not all was looked at: "));
        let cut = Tally {
            is_cut: true,
            ..Tally::default()
        };
        assert!(!cut.says(took).level);
        assert_eq!(
            cut.line(took),
            "not all was looked at: nothing differs; 0 objects compared in 0.2s"
        );
    }

    #[test]
    fn a_line_of_json_has_all_of_its_fields() {
        let path = RelPath::new(b"a\xff").expect("a path");
        let line = line(Kind::NotLevel, "f", Whose::Path(&path, None), "why");
        assert_eq!(
            serde_json::to_string(&line).expect("plain data"),
            r#"{"event":"not_level","folder":"f","path":"a\\xff","path_base64":"Yf8=","key":null,"error":"why"}"#
        );
    }
}
