//! What belongs to a folder: gitignore rules, names of temporary files, and what is never taken.
//!
//! Pure: decides by path and kind alone, never looks at the disk.
//!
//! # Which rule decides
//!
//! Rules are gitignore's, relative to the folder's root, `exclude` first and `include` behind it (as `!` rules); of the
//! rules that match the same path the last one wins. Of a path and the folders above it, the lowest that any rule
//! matches decides: with `exclude = ["node_modules/"]` and `include = ["node_modules/keep.txt"]` that one file is taken,
//! and with `exclude = ["*"]` and `include = ["*.pdf"]` every PDF of the tree. Git itself would not look into an
//! excluded folder again; people who write `include` expect it. The price is that an excluded folder is still walked and
//! watched where something below it could be taken in again: everywhere for a rule without a slash (`*.pdf`), else only
//! on the way to the rule's fixed beginning (`node_modules/keep.txt`).
//!
//! Excluding never deletes: what the bucket already holds under an excluded path stays.

use std::fmt;
use std::path::Path;

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::base::path::{RelPath, escaped};
use crate::base::stat::Kind;

/// The top-level name that is ours in the bucket, and so cannot be the user's in the folder.
const RESERVED: &[u8] = b".tidewatch";

/// Decides which paths of a folder are left out.
#[derive(Clone, Debug)]
pub struct Filter {
    rules: Gitignore,
    reaches: Vec<Reach>,
    builtin: bool,
    hidden: Vec<RelPath>,
}

/// Why a path is left out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reason {
    /// A top-level `.tidewatch`: that part of the bucket is the agent's.
    Reserved,
    /// The agent's own files.
    Own,
    /// A name that a program gives to its temporary files; the shape of it.
    Builtin(&'static str),
    /// A rule of the user; its text.
    Rule(String),
}

/// Shows the reason for people, to stand behind "left out: ".
impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reserved => f.write_str("`.tidewatch` at the top is the agent's own name"),
            Self::Own => f.write_str("the agent's own files"),
            Self::Builtin(shape) => write!(f, "built-in rule `{shape}`"),
            Self::Rule(text) => write!(f, "rule `{}`", escaped(text.as_bytes())),
        }
    }
}

/// A rule that is no gitignore rule.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("use the rule `{rule}`: {why}")]
pub struct BadRule {
    /// The rule as it was given, control characters escaped.
    pub rule: String,
    /// What is wrong with it.
    pub why: String,
}

/// Where a rule that takes in again can match.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Reach {
    Anywhere,
    /// At this path, above it (on the way to it) and below it.
    At(RelPath),
}

impl Reach {
    /// Finds the fixed beginning of a rule, its `!` taken off. Only a rule with a slash before its end is fixed to the root.
    fn of(rule: &str) -> Self {
        let rule = rule.trim_end();
        let rooted = rule.starts_with('/');
        let rule = rule.strip_prefix('/').unwrap_or(rule);
        let rule = rule.strip_suffix('/').unwrap_or(rule);
        if !rooted && !rule.contains('/') {
            return Self::Anywhere;
        }
        let fixed: Vec<&str> = rule
            .split('/')
            .take_while(|part| !part.contains(['*', '?', '[', '{', '\\']))
            .collect();
        match RelPath::new(fixed.join("/").as_bytes()) {
            Some(path) if !path.is_root() => Self::At(path),
            _ => Self::Anywhere,
        }
    }

    fn touches(&self, folder: &RelPath) -> bool {
        match self {
            Self::Anywhere => true,
            Self::At(path) => path.is_within(folder) || folder.is_within(path),
        }
    }
}

impl Filter {
    /// Makes a filter of a folder's `exclude` and `include` rules, with or without the built-in names.
    ///
    /// Empty rules and rules that begin with `#` are comments, as in a gitignore file. The error names the rule.
    pub fn new(exclude: &[String], include: &[String], builtin: bool) -> Result<Self, BadRule> {
        let mut builder = GitignoreBuilder::new("");
        let mut reaches = Vec::new();
        let mut add = |line: &str, given: &str| {
            let bad = |why: String| BadRule {
                rule: escaped(given.as_bytes()),
                why,
            };
            builder
                .add_line(None, line)
                .map_err(|error| bad(error.to_string()))?;
            if let Some(again) = line.strip_prefix('!') {
                reaches.push(Reach::of(again));
            }
            Ok(())
        };
        for rule in exclude {
            add(rule, rule)?;
        }
        for rule in include {
            if rule.starts_with('!') {
                return Err(BadRule {
                    rule: escaped(rule.as_bytes()),
                    why: "an include rule takes in already, leave out the `!`".to_string(),
                });
            }
            if !rule.trim().is_empty() && !rule.starts_with('#') {
                add(&format!("!{rule}"), rule)?;
            }
        }
        let rules = builder.build().map_err(|error| BadRule {
            rule: "all together".to_string(),
            why: error.to_string(),
        })?;
        Ok(Self {
            rules,
            reaches,
            builtin,
            hidden: Vec::new(),
        })
    }

    /// Leaves out `path` and what is below it, whatever the rules say: for the state folder, when it is inside the root.
    #[must_use]
    pub fn with_hidden(mut self, path: RelPath) -> Self {
        self.hidden.push(path);
        self
    }

    /// Returns why `path` is left out; `None` if it belongs.
    ///
    /// For a folder: `None` also if the folder itself is excluded but something below it could be taken in again, so that
    /// a walk has to enter it.
    pub fn excludes(&self, path: &RelPath, kind: Kind) -> Option<Reason> {
        let top = path.as_bytes().split(|b| *b == b'/').next();
        if top == Some(RESERVED) {
            return Some(Reason::Reserved);
        }
        if self.hidden.iter().any(|hidden| path.is_within(hidden)) {
            return Some(Reason::Own);
        }
        let is_folder = kind == Kind::Folder;
        let reason = self.judge(path, is_folder)?;
        if is_folder && self.reaches.iter().any(|reach| reach.touches(path)) {
            return None;
        }
        Some(reason)
    }

    /// Applies the rules to the path itself, then the built-in names, then the rules to the folders above it.
    fn judge(&self, path: &RelPath, is_folder: bool) -> Option<Reason> {
        let as_path = Path::new(path.as_os_str());
        let own = self.rules.matched(as_path, is_folder);
        // A program's temporary is always a file, and a folder of such a name may hold anything.
        if own.is_none() && self.builtin && !is_folder {
            let name = path.name();
            if let Some(shape) = SHAPES.iter().find(|shape| (shape.fits)(name)) {
                return Some(Reason::Builtin(shape.text));
            }
        }
        let decided = match (own, as_path.parent()) {
            (Match::None, Some(parent)) => self.rules.matched_path_or_any_parents(parent, true),
            (own, _) => own,
        };
        match decided {
            Match::Ignore(glob) => Some(Reason::Rule(glob.original().to_string())),
            Match::Whitelist(_) | Match::None => None,
        }
    }
}

/// A shape of names that programs give to files that are not meant to stay.
///
/// Each is as narrow as the program allows, because a wrong match leaves a user's file out of the bucket, while a
/// temporary that slips through costs one needless object. Vim's probe `4913` is therefore not here: it lives for
/// microseconds, never long enough to settle, but people do have files of that name.
struct Shape {
    text: &'static str,
    fits: fn(&[u8]) -> bool,
}

const SHAPES: &[Shape] = &[
    Shape {
        text: ".*.sw?",
        fits: is_vim_swap,
    },
    Shape {
        text: ".*.swpx",
        fits: |name| name.starts_with(b".") && name.ends_with(b".swpx"),
    },
    Shape {
        text: ".#*",
        fits: |name| name.starts_with(b".#"),
    },
    Shape {
        text: "#*#",
        fits: |name| name.len() > 2 && name.starts_with(b"#") && name.ends_with(b"#"),
    },
    Shape {
        text: ".~lock.*#",
        fits: |name| name.starts_with(b".~lock.") && name.ends_with(b"#"),
    },
    Shape {
        text: "~$*",
        fits: |name| name.starts_with(b"~$"),
    },
    Shape {
        text: ".NAME.XXXXXX",
        fits: is_rsync_temporary,
    },
    Shape {
        text: "*.crdownload",
        fits: |name| name.ends_with(b".crdownload"),
    },
    Shape {
        text: "*.part",
        fits: |name| name.ends_with(b".part"),
    },
    Shape {
        text: ".nfs*",
        fits: |name| is_hex_behind(name, b".nfs", 16),
    },
    Shape {
        text: ".fuse_hidden*",
        fits: |name| is_hex_behind(name, b".fuse_hidden", 8),
    },
    Shape {
        text: ".goutputstream-*",
        fits: |name| name.starts_with(b".goutputstream-"),
    },
];

/// Vim counts its swap files down from `.swp`; the leading dot stands also for a file that has no name yet (`.swp`).
fn is_vim_swap(name: &[u8]) -> bool {
    let Some((&last, rest)) = name.split_last() else {
        return false;
    };
    name.starts_with(b".") && rest.ends_with(b".sw") && matches!(last, b'a'..=b'p' | b'x')
}

/// Rsync puts a dot before the name and six random letters or digits behind it.
///
/// `.env.sample`, `.bashrc.backup` and `.notes.202401` have that shape too, so a case switch inside the six is asked
/// for, which words and dates do not have and 93 of 100 random endings do.
fn is_rsync_temporary(name: &[u8]) -> bool {
    let Some((rest, ending)) = name.split_last_chunk::<6>() else {
        return false;
    };
    let named = rest.len() > 2 && rest.starts_with(b".") && rest.ends_with(b".");
    let random = ending.iter().all(u8::is_ascii_alphanumeric)
        && ending[1..].iter().any(u8::is_ascii_uppercase)
        && ending.iter().any(|b| !b.is_ascii_uppercase());
    named && random
}

/// The kernel's NFS client and libfuse rename an open file that is deleted to a prefix and hexadecimal numbers.
fn is_hex_behind(name: &[u8], prefix: &[u8], at_least: usize) -> bool {
    name.strip_prefix(prefix)
        .is_some_and(|rest| rest.len() >= at_least && rest.iter().all(u8::is_ascii_hexdigit))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(bytes: impl AsRef<[u8]>) -> RelPath {
        RelPath::new(bytes.as_ref()).expect("a valid path")
    }

    fn filter(exclude: &[&str], include: &[&str]) -> Filter {
        let own = |rules: &[&str]| rules.iter().map(ToString::to_string).collect::<Vec<_>>();
        Filter::new(&own(exclude), &own(include), true).expect("good rules")
    }

    #[test]
    fn the_last_rule_wins_and_the_lowest_match_decides() {
        let table: &[(&[&str], &[&str], &str, bool)] = &[
            (&["*.log"], &[], "a/b/x.log", true),
            (&["*.log"], &[], "a/b/x.txt", false),
            (&["/x.log"], &[], "a/x.log", false),
            (&["/x.log"], &[], "x.log", true),
            (&["build/"], &[], "a/build/out/x", true),
            (&["build/"], &[], "a/build", false),
            (&["*.log"], &["keep.log"], "a/keep.log", false),
            (&["*.log", "!keep.log"], &[], "keep.log", false),
            (&["!keep.log", "*.log"], &[], "keep.log", true),
            (&["n/"], &["n/keep.txt"], "n/keep.txt", false),
            (&["n/"], &["n/keep.txt"], "n/other.txt", true),
            (&["*"], &["*.pdf"], "a/b/c.pdf", false),
            (&["*"], &["*.pdf"], "a/b/c.txt", true),
            (&["*"], &["docs/**"], "docs/a/b", false),
            (&["a/**/z"], &[], "a/b/c/z", true),
            (&["# comment", "", "x"], &["", "# comment"], "x", true),
            (&["\\#x"], &[], "#x", true),
        ];
        for (exclude, include, at, excluded) in table {
            let reason = filter(exclude, include).excludes(&path(at), Kind::File);
            assert_eq!(reason.is_some(), *excluded, "{exclude:?} {include:?} {at}");
        }
    }

    #[test]
    fn an_excluded_folder_is_entered_only_on_the_way_to_what_comes_back() {
        let table: &[(&[&str], &[&str], &str, bool)] = &[
            (&["n/"], &[], "n", true),
            (&["n/"], &[], "n/below", true),
            (&["n/"], &["n/a/keep.txt"], "n", false),
            (&["n/"], &["n/a/keep.txt"], "n/a", false),
            (&["n/"], &["n/a/keep.txt"], "n/b", true),
            (&["n/"], &["/m"], "n", true),
            (&["n/"], &["n/a/*.txt"], "n/a/deep", false),
            (&["n/"], &["*.txt"], "n/b", false),
            (&["n/"], &["**/keep/x"], "n/b", false),
            (&["n/", "!n/a/x"], &[], "n/a", false),
        ];
        for (exclude, include, at, excluded) in table {
            let reason = filter(exclude, include).excludes(&path(at), Kind::Folder);
            assert_eq!(reason.is_some(), *excluded, "{exclude:?} {include:?} {at}");
        }
    }

    #[test]
    fn temporaries_are_left_out_and_look_alikes_are_not() {
        let left_out = [
            ".a.txt.swp",
            ".swp",
            ".a.swo",
            ".a.swx",
            ".a.swpx",
            ".#a.txt",
            "#a.txt#",
            ".~lock.a.odt#",
            "~$a.docx",
            ".a.txt.Zk3PqT",
            ".a.txt.aB1cde",
            "film.mkv.crdownload",
            "film.mkv.part",
            ".nfs000000000123456700000001",
            ".fuse_hidden0001a2b300000001",
            ".goutputstream-ABC123",
        ];
        let kept = [
            "a.swp",
            "a.txt",
            ".bashrc.backup",
            ".env.sample",
            ".env.README",
            ".notes.202401",
            ".env.Backup",
            ".Zk3PqT",
            "4913",
            ".nfsrc",
            ".DS_Store",
            "#a",
            "##",
            "film.part1.rar",
            "a~",
        ];
        let filter = filter(&[], &[]);
        for name in left_out {
            let at = path(format!("d/{name}"));
            let reason = filter.excludes(&at, Kind::File);
            assert!(matches!(reason, Some(Reason::Builtin(_))), "{name}");
            assert_eq!(filter.excludes(&at, Kind::Folder), None, "{name}");
            assert_eq!(filter.excludes(&at.join(b"x"), Kind::File), None, "{name}");
        }
        for name in kept {
            assert_eq!(filter.excludes(&path(name), Kind::File), None, "{name}");
        }
    }

    #[test]
    fn built_in_names_can_be_switched_off_and_taken_in_again() {
        let off = Filter::new(&[], &[], false).expect("no rules");
        assert_eq!(off.excludes(&path("a.part"), Kind::File), None);
        let again = filter(&[], &["*.part"]);
        assert_eq!(again.excludes(&path("d/a.part"), Kind::File), None);
        // A folder that is taken in does not take the temporaries in it along.
        let folder = filter(&[], &["d/"]);
        assert!(folder.excludes(&path("d/a.part"), Kind::File).is_some());
    }

    #[test]
    fn our_own_names_cannot_be_taken_in() {
        let filter = filter(&[], &["**"]).with_hidden(path("var/state"));
        let own = [
            (".tidewatch", Reason::Reserved),
            (".tidewatch/x", Reason::Reserved),
            ("var/state", Reason::Own),
            ("var/state/tidewatch.db", Reason::Own),
        ];
        for (at, reason) in own {
            assert_eq!(
                filter.excludes(&path(at), Kind::Folder),
                Some(reason),
                "{at}"
            );
        }
        for at in ["a/.tidewatch", ".tidewatchignore", "var/state2", "var"] {
            assert_eq!(filter.excludes(&path(at), Kind::File), None, "{at}");
        }
    }

    #[test]
    fn names_are_bytes() {
        let filter = filter(&["*.tmp", "odd?"], &[]);
        assert!(filter.excludes(&path(b"\xff.tmp"), Kind::File).is_some());
        assert!(
            filter
                .excludes(&path(b"a\nb/\xfe.tmp"), Kind::File)
                .is_some()
        );
        assert!(filter.excludes(&path(b"odd\xff"), Kind::File).is_some());
        assert_eq!(filter.excludes(&path(b"\xff.txt"), Kind::File), None);
    }

    #[test]
    fn a_bad_rule_is_named() {
        let bad = Filter::new(&["a{b".to_string()], &[], true).expect_err("an open brace");
        assert_eq!(bad.rule, "a{b");
        let bad = Filter::new(&[], &["!x".to_string()], true).expect_err("a double negation");
        assert!(bad.to_string().contains("leave out the `!`"), "{bad}");
    }

    #[test]
    fn the_reason_names_the_rule() {
        let reason = filter(&["n/"], &[]).excludes(&path("n/a/b"), Kind::File);
        assert_eq!(reason, Some(Reason::Rule("n/".to_string())));
        assert_eq!(reason.map(|r| r.to_string()), Some("rule `n/`".to_string()));
    }
}
