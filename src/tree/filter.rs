//! What belongs to a folder: gitignore rules, names of temporary files, sizes and ages, and what is never taken.
//!
//! Decides by path, kind and stat. From the disk it reads two small files of the folders on the way to a path, through
//! the tree it was given: `.tidewatchignore`, and `CACHEDIR.TAG`.
//!
//! # Which rule decides
//!
//! Rules are gitignore's. Those of the config are relative to the folder's root, `exclude` first and `include` behind it
//! (as `!` rules); those of a `.tidewatchignore` are relative to the folder it lies in and reach to everything below.
//! Of the rules of one place that match the same path the last one wins; of several places the nearest file wins over
//! those above it, and every file over the config, as git's `.gitignore` goes before `core.excludesFile`. What somebody
//! wrote beside the files is nearer to them than what stands in the config, its `include` among it.
//!
//! Of a path and the folders above it, the lowest that any rule matches decides: with `exclude = ["node_modules/"]` and
//! `include = ["node_modules/keep.txt"]` that one file is taken, and with `exclude = ["*"]` and `include = ["*.pdf"]`
//! every PDF of the tree. Git itself would not look into an excluded folder again; people who write `include` expect it.
//! The price is that an excluded folder is still walked and watched where something below it could be taken in again:
//! everywhere for a rule without a slash (`*.pdf`), else only on the way to the rule's fixed beginning
//! (`node_modules/keep.txt`). A `!` in a `.tidewatchignore` does not open a folder: there it is as in git, and the files
//! in a folder that is not entered are not read.
//!
//! # Sizes, ages and caches
//!
//! They stand beside the rules, and no rule takes in again what they leave out. The size is the logical one, the age that
//! of the last modification, as rclone counts it. A file that is too young is taken by the first rescan after it has come
//! of age: nothing tells when that is. A folder with a `CACHEDIR.TAG` that begins as the cache directory tagging
//! specification wants it is left out but for the tag itself, as borg and restic do, so that a restore has a folder that
//! says why it is empty; the root is not, because it was named.
//!
//! Excluding never deletes: what the bucket already holds under an excluded path stays.

mod ground;
pub mod reason;
mod shapes;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::base::path::{RelPath, escaped};
use crate::base::stat::{Kind, Stat};
use crate::base::units::{show_bytes, show_duration};
use crate::tree::filter::ground::{Ground, Grounds, TAG, Verdict};
use crate::tree::filter::reason::{BadRule, Reason};
use crate::tree::{Found, Tree};

/// The name of the files in the tree that hold rules.
pub const IGNORE_FILE: &str = ".tidewatchignore";

/// The top-level name that is ours in the bucket, and so cannot be the user's in the folder.
const RESERVED: &[u8] = b".tidewatch";

/// Decides which paths of a folder are left out.
#[derive(Debug)]
pub struct Filter {
    rules: Gitignore,
    reaches: Vec<Reach>,
    builtin: bool,
    hidden: Vec<RelPath>,
    bounds: Bounds,
    grounds: Grounds,
}

/// Which files are taken by their stat.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Bounds {
    /// The longest, in bytes.
    pub max_size: Option<u64>,
    /// The shortest, in bytes.
    pub min_size: Option<u64>,
    /// How long ago it must have been modified at least.
    pub min_age: Option<Duration>,
    /// How long ago it can have been modified at most.
    pub max_age: Option<Duration>,
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
                // The reason quotes the rule once more.
                why: escaped(why.as_bytes()),
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
            why: escaped(error.to_string().as_bytes()),
        })?;
        Ok(Self {
            rules,
            reaches,
            builtin,
            hidden: Vec::new(),
            bounds: Bounds::default(),
            grounds: Grounds::default(),
        })
    }

    /// Leaves out `path` and what is below it, whatever the rules say: for the state folder, when it is inside the root.
    #[must_use]
    pub fn with_hidden(mut self, path: RelPath) -> Self {
        self.hidden.push(path);
        self
    }

    /// Leaves out files by their stat too, see [`Filter::leaves_out`].
    #[must_use]
    pub fn with_bounds(mut self, bounds: Bounds) -> Self {
        self.bounds = bounds;
        self
    }

    /// Leaves out folders that say that they are a cache. Needs [`Filter::reading`].
    #[must_use]
    pub fn without_caches(mut self) -> Self {
        self.grounds.without_caches = true;
        self
    }

    /// Reads the rules that lie in this tree.
    #[must_use]
    pub fn reading(mut self, tree: Arc<dyn Tree>) -> Self {
        self.grounds.tree = Some(tree);
        self
    }

    /// Takes a fresh listing of a folder: what was read in it before is read again, and what is not in it not looked for.
    pub fn listed(&self, folder: &RelPath, names: &[Found]) {
        self.grounds.listed(self, folder, names);
    }

    /// Takes note that something happened at `path`. Returns the folder whose rules may be others now, and that has to be
    /// scanned as a whole.
    ///
    /// Cheap; for every path that an event names, before anything else is asked about it.
    pub fn touched(&self, path: &RelPath) -> Option<RelPath> {
        let name = path.name();
        let is_rule = name == IGNORE_FILE.as_bytes();
        let is_tag = name == TAG && self.grounds.without_caches;
        let folder = path.parent().filter(|_| is_rule || is_tag)?;
        self.grounds.tree.as_ref()?;
        self.forget(&folder);
        Some(folder)
    }

    /// Forgets what was read in a folder and below it: it is read again when it is asked about.
    pub fn forget(&self, folder: &RelPath) {
        self.grounds.forget(folder);
    }

    /// Returns why `path` is left out; `None` if it belongs. May read the tree.
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
        let ground = self.grounds.of(self, &path.parent()?);
        self.excludes_on(&ground, path, kind == Kind::Folder)
    }

    /// Returns true if a folder that a walk enters belongs itself, and is not only on the way to what may be taken in again.
    pub fn takes_folder(&self, path: &RelPath) -> bool {
        let Some(folder) = path.parent().filter(|_| !self.reaches.is_empty()) else {
            return true;
        };
        let ground = self.grounds.of(self, &folder);
        closed_to(&ground, path).is_none() && self.ruled_out(&ground, path, true).is_none()
    }

    /// Returns why `path`, which is there and has this stat, is left out: by its path, and a regular file by its size and
    /// its age at `now_wall_ns` too.
    pub fn leaves_out(&self, path: &RelPath, stat: &Stat, now_wall_ns: i64) -> Option<Reason> {
        let by_path = self.excludes(path, stat.kind);
        by_path.or_else(|| {
            (stat.kind == Kind::File)
                .then(|| self.excludes_file(stat, now_wall_ns))
                .flatten()
        })
    }

    /// Returns why a regular file that belongs by its path is left out nevertheless, by its stat.
    fn excludes_file(&self, stat: &Stat, now_wall_ns: i64) -> Option<Reason> {
        let bounds = &self.bounds;
        let over = bounds.max_size.filter(|max| stat.size > *max);
        let under = bounds.min_size.filter(|min| stat.size < *min);
        let size = |(name, limit): (&'static str, u64)| Reason::Size(name, show_bytes(limit));
        let of_size = over.map(|max| ("max_size", max));
        let of_size = of_size.or(under.map(|min| ("min_size", min)));
        if let Some(reason) = of_size.map(size) {
            return Some(reason);
        }
        // A time that lies in the future is as young as can be.
        let age_ns = now_wall_ns.saturating_sub(stat.mtime_ns);
        let age = Duration::from_nanos(u64::try_from(age_ns).unwrap_or(0));
        let young = bounds.min_age.filter(|min| age < *min);
        let old = bounds.max_age.filter(|max| age > *max);
        let of_age = young.map(|min| ("min_age", min));
        let of_age = of_age.or(old.map(|max| ("max_age", max)));
        of_age.map(|(name, limit)| Reason::Age(name, show_duration(limit)))
    }

    /// Judges a path in a folder on this ground; a folder on the way to what may be taken in again is not left out.
    fn excludes_on(&self, ground: &Ground, path: &RelPath, is_folder: bool) -> Option<Reason> {
        if let Some(reason) = closed_to(ground, path) {
            return Some(reason);
        }
        let reason = self.ruled_out(ground, path, is_folder)?;
        let is_way = is_folder && self.reaches.iter().any(|reach| reach.touches(path));
        (!is_way).then_some(reason)
    }

    /// Returns which rule, or which built-in name, leaves a path out on this ground.
    fn ruled_out(&self, ground: &Ground, path: &RelPath, is_folder: bool) -> Option<Reason> {
        match self.verdict(ground, path, is_folder) {
            Some(Verdict::Out(reason)) => Some(reason),
            Some(Verdict::In) => None,
            None => {
                // A program's temporary is always a file, and a folder of such a name may hold anything.
                let is_asked = self.builtin && !is_folder;
                let shape = is_asked.then(|| shapes::of(path.name())).flatten();
                match (shape, &ground.inherited) {
                    (Some(shape), _) => Some(Reason::Builtin(shape)),
                    (None, Some(Verdict::Out(reason))) => Some(reason.clone()),
                    (None, Some(Verdict::In) | None) => None,
                }
            }
        }
    }

    /// Asks the rules about the path itself, the nearest first; not about the folders above it.
    fn verdict(&self, ground: &Ground, path: &RelPath, is_folder: bool) -> Option<Verdict> {
        if let Some(verdict) = ground.verdict(path, is_folder) {
            return Some(verdict);
        }
        match self.rules.matched(Path::new(path.as_os_str()), is_folder) {
            Match::None => None,
            Match::Ignore(glob) => Some(Verdict::Out(Reason::Rule {
                text: glob.original().to_owned(),
                of: None,
            })),
            Match::Whitelist(_) => Some(Verdict::In),
        }
    }
}

/// Returns why nothing of that name is taken on this ground, whatever the rules say.
fn closed_to(ground: &Ground, path: &RelPath) -> Option<Reason> {
    let is_cached = ground.is_cache && path.name() != TAG;
    let cache = || Reason::Cache(path.parent().unwrap_or_else(RelPath::root));
    let closed = ground.closed.clone();
    closed.or_else(|| is_cached.then(cache))
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
        let bad = Filter::new(&["a{\u{1b}[2J".to_string()], &[], true).expect_err("an open brace");
        assert!(!bad.to_string().contains('\u{1b}'), "{bad}");
        let bad = Filter::new(&[], &["!x".to_string()], true).expect_err("a double negation");
        assert!(bad.to_string().contains("leave out the `!`"), "{bad}");
    }

    #[test]
    fn the_reason_names_the_rule() {
        let reason = filter(&["n/"], &[]).excludes(&path("n/a/b"), Kind::File);
        assert_eq!(
            reason,
            Some(Reason::Rule {
                text: "n/".to_string(),
                of: None
            })
        );
        assert_eq!(
            reason.map(|r| r.to_string()),
            Some("rule `n/` of the config".to_string())
        );
    }
}
