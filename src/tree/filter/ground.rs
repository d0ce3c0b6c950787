//! What the names in a folder are judged by besides the config: rules that lie in the tree, and what is above the folder.
//!
//! Each folder has a ground, made of the one above it and of what is read in the folder itself, when it is first asked
//! for. A folder in which nothing was read, and which no rule names, has the very ground of the folder above it.
//!
//! # What is kept
//!
//! A bounded number of grounds, and a bounded length of rules; beyond it everything is forgotten and read again where it
//! is needed, so that the bounds change no answer. A listing brings what is kept of its folder up to date; an event that
//! names one of the two files has it forgotten.
//!
//! # Errors
//!
//! A file that cannot be read, and a line that is no rule, are told once, and the other rules count.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use tracing::warn;

use crate::base::digest::Sha256;
use crate::base::path::{RelPath, escaped};
use crate::base::stat::Kind;
use crate::tree::filter::reason::{Reason, RuleOf};
use crate::tree::filter::{Filter, IGNORE_FILE};
use crate::tree::{Found, ReadError, Tree};

/// The file that says that a folder is a cache.
pub(in crate::tree::filter) const TAG: &[u8] = b"CACHEDIR.TAG";

/// How that file begins, as the cache directory tagging specification (version 0.6) has it.
const SIGNATURE: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";

/// The longest ignore file, in bytes. Beyond it the rules of whole lines count and the rest does not.
const MAX_RULES_BYTES: usize = 64 << 10;

/// How many grounds are kept: those of the folders that a scan and the touched files of some minutes are in.
const MAX_GROUNDS: usize = 4_096;

/// How many bytes of rules are kept. Compiled they take up to some hundred times as much.
const MAX_KEPT_BYTES: usize = 1 << 20;

/// How many complaints are remembered, so that each is told once.
const MAX_TOLD: usize = 1_000;

/// What a rule says.
#[derive(Clone, PartialEq, Debug)]
pub(in crate::tree::filter) enum Verdict {
    Out(Reason),
    In,
}

/// What the names in a folder are judged by.
#[derive(Clone, Debug, Default)]
pub(in crate::tree::filter) struct Ground {
    /// The folder itself is left out and not entered, and with it everything below.
    pub closed: Option<Reason>,
    /// What a rule said of the folder, or of the nearest folder above it that any rule matched.
    pub inherited: Option<Verdict>,
    /// The folder says that it is a cache.
    pub is_cache: bool,
    /// The nearest ignore file, in the folder or above it.
    nearest: Option<Arc<IgnoreFile>>,
}

impl Ground {
    /// Asks the ignore files about a path, the nearest first.
    pub fn verdict(&self, path: &RelPath, is_folder: bool) -> Option<Verdict> {
        let mut next = self.nearest.as_ref();
        while let Some(file) = next {
            let verdict = file.verdict(path, is_folder);
            if verdict.is_some() {
                return verdict;
            }
            next = file.above.as_ref();
        }
        None
    }

    /// Returns the content of the folder's own ignore file.
    fn own(&self, folder: &RelPath) -> Option<Sha256> {
        let nearest = self.nearest.as_ref();
        let own = nearest.filter(|file| file.folder == *folder);
        own.map(|file| file.content)
    }
}

/// The rules of one file in the tree.
#[derive(Debug)]
struct IgnoreFile {
    folder: RelPath,
    content: Sha256,
    rules: Gitignore,
    above: Option<Arc<Self>>,
}

impl IgnoreFile {
    fn verdict(&self, path: &RelPath, is_folder: bool) -> Option<Verdict> {
        let skip = match self.folder.as_bytes().len() {
            0 => 0,
            len => len + 1,
        };
        let below = Path::new(OsStr::from_bytes(&path.as_bytes()[skip..]));
        match self.rules.matched(below, is_folder) {
            Match::None => None,
            Match::Whitelist(_) => Some(Verdict::In),
            Match::Ignore(glob) => {
                let line = glob.from().and_then(Path::to_str);
                Some(Verdict::Out(Reason::Rule {
                    text: glob.original().to_owned(),
                    of: Some(RuleOf {
                        folder: self.folder.clone(),
                        line: line.and_then(|line| line.parse().ok()).unwrap_or(0),
                    }),
                }))
            }
        }
    }
}

/// What was read in a folder itself.
#[derive(Default)]
struct Own {
    rules: Option<Vec<u8>>,
    is_cache: bool,
}

/// The grounds of a tree's folders.
#[derive(Default)]
pub(in crate::tree::filter) struct Grounds {
    /// Where rules are read; `None`: only the config's count.
    pub tree: Option<Arc<dyn Tree>>,
    /// Whether folders that say that they are a cache are left out.
    pub without_caches: bool,
    kept: RwLock<Kept>,
    told: Mutex<BTreeSet<String>>,
}

/// What is kept of grounds.
///
/// Invariant: with a folder's ground that of the folder above it is kept, so that nothing is below one that is not.
#[derive(Default)]
struct Kept {
    grounds: HashMap<RelPath, Arc<Ground>>,
    /// Bytes of rules that were read for them.
    bytes: usize,
    /// Changes whenever something is forgotten: what was read before is then not kept.
    generation: u64,
}

impl Kept {
    fn clear(&mut self) {
        self.grounds.clear();
        self.bytes = 0;
    }
}

impl fmt::Debug for Grounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grounds")
            .field("reads", &self.tree.is_some())
            .field("without_caches", &self.without_caches)
            .finish_non_exhaustive()
    }
}

impl Grounds {
    /// Returns the ground of a folder.
    pub fn of(&self, filter: &Filter, folder: &RelPath) -> Arc<Ground> {
        let (ground, generation) = self.kept(folder);
        if let Some(ground) = ground {
            return ground;
        }
        let mut missing = vec![folder.clone()];
        let mut at = folder.parent();
        let mut above = None;
        while let Some(next) = at {
            above = self.kept(&next).0;
            if above.is_some() {
                break;
            }
            at = next.parent();
            missing.push(next);
        }
        let mut ground = above.unwrap_or_default();
        while let Some(folder) = missing.pop() {
            let own = || self.read(&folder, true, true);
            ground = self.lay(filter, &ground, &folder, own, generation);
        }
        ground
    }

    /// Takes a listing: reads again what is in it, and forgets what was read of the folder if that is another content.
    pub fn listed(&self, filter: &Filter, folder: &RelPath, names: &[Found]) {
        if self.tree.is_none() {
            return;
        }
        let has = |name: &[u8]| {
            let at = names.binary_search_by(|found| found.order().cmp(name.iter().copied()));
            at.is_ok_and(|at| names[at].stat.kind == Kind::File)
        };
        let (has_rules, has_tag) = (has(IGNORE_FILE.as_bytes()), has(TAG));
        let (before, generation) = self.kept(folder);
        let own = self.read(folder, has_rules, has_tag);
        let content = own.rules.as_deref().map(Sha256::of);
        let is_same =
            |before: &Arc<Ground>| before.own(folder) == content && before.is_cache == own.is_cache;
        if before.as_ref().is_some_and(is_same) {
            return;
        }
        let generation = match before {
            Some(_) => self.forget(folder),
            None => generation,
        };
        let above = match folder.parent() {
            Some(parent) => self.of(filter, &parent),
            None => Arc::default(),
        };
        self.lay(filter, &above, folder, || own, generation);
    }

    /// Forgets the grounds of a folder and of those below it. Returns the generation that begins with it.
    pub fn forget(&self, folder: &RelPath) -> u64 {
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        kept.generation += 1;
        if folder.is_root() {
            kept.clear();
        } else if kept.grounds.contains_key(folder) {
            kept.grounds.retain(|path, _| !path.is_within(folder));
        }
        kept.generation
    }

    fn kept(&self, folder: &RelPath) -> (Option<Arc<Ground>>, u64) {
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        (kept.grounds.get(folder).cloned(), kept.generation)
    }

    fn keep(&self, folder: RelPath, ground: Arc<Ground>, bytes: usize, generation: u64) {
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        if kept.generation != generation {
            return;
        }
        if kept.grounds.len() >= MAX_GROUNDS || kept.bytes + bytes > MAX_KEPT_BYTES {
            kept.clear();
        }
        let above = folder.parent();
        if above.is_none_or(|above| kept.grounds.contains_key(&above)) {
            kept.bytes += bytes;
            kept.grounds.insert(folder, ground);
        }
    }

    /// Makes the ground of a folder of what is above it and of what is read in it, and keeps it.
    fn lay(
        &self,
        filter: &Filter,
        above: &Arc<Ground>,
        folder: &RelPath,
        own: impl FnOnce() -> Own,
        generation: u64,
    ) -> Arc<Ground> {
        let mut bytes = 0;
        let ground = match filter.below(above, folder) {
            // What lies in a folder that is not entered is not read.
            Err(closed) => Arc::new(closed),
            Ok(below) => {
                let (base, own) = (below.unwrap_or_else(|| above.clone()), own());
                bytes = own.rules.as_ref().map_or(0, Vec::len);
                self.with_own(base, folder, own)
            }
        };
        self.keep(folder.clone(), ground.clone(), bytes, generation);
        ground
    }

    fn with_own(&self, base: Arc<Ground>, folder: &RelPath, own: Own) -> Arc<Ground> {
        if own.rules.is_none() && !own.is_cache {
            return base;
        }
        let mut ground = (*base).clone();
        ground.is_cache = own.is_cache;
        if let Some(text) = own.rules {
            ground.nearest = Some(Arc::new(IgnoreFile {
                content: Sha256::of(&text),
                rules: self.compile(folder, &text),
                folder: folder.clone(),
                above: ground.nearest,
            }));
        }
        Arc::new(ground)
    }

    /// Reads the two files of a folder, or those of them that can be there.
    fn read(&self, folder: &RelPath, may_have_rules: bool, may_have_tag: bool) -> Own {
        let Some(tree) = &self.tree else {
            return Own::default();
        };
        let mut own = Own::default();
        if may_have_rules {
            let path = folder.join(IGNORE_FILE.as_bytes());
            // One byte more than is taken tells that there is more.
            match beginning(&**tree, &path, MAX_RULES_BYTES + 1) {
                Ok(text) => own.rules = text.map(|text| self.shortened(&path, text)),
                Err(error) => self.tell(&path, &format!("it cannot be read: {error}")),
            }
        }
        // The root was named by the user, whatever it says of itself.
        if may_have_tag && self.without_caches && !folder.is_root() {
            let path = folder.join(TAG);
            match beginning(&**tree, &path, SIGNATURE.len()) {
                Ok(text) => own.is_cache = text.as_deref() == Some(SIGNATURE),
                Err(error) => self.tell(&path, &format!("it cannot be read: {error}")),
            }
        }
        own
    }

    /// Cuts what is too long behind its last whole line.
    fn shortened(&self, path: &RelPath, mut text: Vec<u8>) -> Vec<u8> {
        if text.len() > MAX_RULES_BYTES {
            self.tell(
                path,
                "it is longer than 64 KiB; what is behind that does not count",
            );
            let end = text.iter().rposition(|byte| *byte == b'\n');
            text.truncate(end.unwrap_or(0));
        }
        text
    }

    fn compile(&self, folder: &RelPath, text: &[u8]) -> Gitignore {
        let path = folder.join(IGNORE_FILE.as_bytes());
        let text = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text);
        let mut builder = GitignoreBuilder::new("");
        for (number, line) in text.split(|byte| *byte == b'\n').enumerate() {
            let number = number + 1;
            let Ok(rule) = std::str::from_utf8(line) else {
                self.tell(&path, &format!("line {number} is not UTF-8"));
                continue;
            };
            // The builder keeps where a rule is from as a path; all that is wanted of it is the line.
            let from = PathBuf::from(number.to_string());
            if let Err(error) = builder.add_line(Some(from), rule) {
                let why = match error {
                    ignore::Error::Glob { err, .. } => err,
                    other => other.to_string(),
                };
                // The reason quotes the rule once more.
                let why = escaped(why.as_bytes());
                let rule = escaped(rule.trim().as_bytes());
                self.tell(
                    &path,
                    &format!("line {number}, `{rule}`, is no rule: {why}"),
                );
            }
        }
        builder.build().unwrap_or_else(|error| {
            self.tell(&path, &format!("its rules cannot be used: {error}"));
            Gitignore::empty()
        })
    }

    /// Complains about a file in the tree, once.
    fn tell(&self, path: &RelPath, why: &str) {
        let line = format!("{path}: {why}");
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() >= MAX_TOLD {
            told.clear();
        }
        if told.insert(line) {
            warn!("`{path}`: {why}; the other rules count");
        }
    }
}

impl Filter {
    /// Returns the ground that a folder begins with: `None` if it is that of the folder above it. The error is the ground
    /// of a folder that is not entered.
    fn below(&self, above: &Ground, folder: &RelPath) -> Result<Option<Arc<Ground>>, Ground> {
        if folder.is_root() {
            return Ok(None);
        }
        if let Some(reason) = self.excludes_on(above, folder, true) {
            return Err(Ground {
                closed: Some(reason),
                ..Ground::default()
            });
        }
        let verdict = self.verdict(above, folder, true);
        Ok(verdict.map(|verdict| {
            Arc::new(Ground {
                inherited: Some(verdict),
                ..above.clone()
            })
        }))
    }
}

/// Reads at most `limit` bytes from the beginning of a regular file; `None` if there is none.
fn beginning(tree: &dyn Tree, path: &RelPath, limit: usize) -> std::io::Result<Option<Vec<u8>>> {
    let file = match tree.open(path) {
        Ok(file) => file,
        Err(ReadError::Gone | ReadError::Kind(_)) => return Ok(None),
        Err(ReadError::Io(error)) => return Err(error),
        Err(error @ (ReadError::Moving | ReadError::Restless(_))) => {
            return Err(std::io::Error::other(error));
        }
    };
    let mut text = vec![0; limit];
    let len = file.read_at(0, &mut text)?;
    text.truncate(len);
    Ok(Some(text))
}
