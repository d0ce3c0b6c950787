//! Why a path is left out, in words. (pure)

use std::fmt;

use crate::base::path::{RelPath, escaped};
use crate::tree::filter::IGNORE_FILE;

/// Why a path is left out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reason {
    /// A top-level `.tidewatch`: that part of the bucket is the agent's.
    Reserved,
    /// The agent's own files.
    Own,
    /// A name that a program gives to its temporary files; the shape of it.
    Builtin(&'static str),
    /// A rule of the user.
    Rule {
        /// The rule as it was written.
        text: String,
        /// The file in the tree that it stands in; `None`: the config, or an option.
        of: Option<RuleOf>,
    },
    /// The folder says that it is a cache.
    Cache(RelPath),
    /// The size is beyond what this key says.
    Size(&'static str, String),
    /// The age is beyond what this key says.
    Age(&'static str, String),
}

/// Where in the tree a rule stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RuleOf {
    /// The folder whose ignore file it is.
    pub folder: RelPath,
    /// The line in it, from 1.
    pub line: usize,
}

impl RuleOf {
    /// Returns the path of the ignore file.
    pub fn file(&self) -> RelPath {
        self.folder.join(IGNORE_FILE.as_bytes())
    }
}

/// Shows the reason for people, to stand behind "left out: ".
impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reserved => f.write_str("`.tidewatch` at the top is the agent's own name"),
            Self::Own => f.write_str("the agent's own files"),
            Self::Builtin(shape) => write!(f, "built-in rule `{shape}`"),
            Self::Rule { text, of: None } => {
                write!(f, "rule `{}` of the config", escaped(text.as_bytes()))
            }
            Self::Rule { text, of: Some(of) } => {
                let text = escaped(text.as_bytes());
                write!(f, "rule `{text}` of `{}`, line {}", of.file(), of.line)
            }
            Self::Cache(folder) => write!(f, "`{folder}` holds a CACHEDIR.TAG"),
            Self::Size(key @ "min_size", limit) => write!(f, "shorter than {key} = {limit}"),
            Self::Size(key, limit) => write!(f, "longer than {key} = {limit}"),
            Self::Age(key @ "min_age", limit) => write!(f, "younger than {key} = {limit}"),
            Self::Age(key, limit) => write!(f, "older than {key} = {limit}"),
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
