//! What is wrong with what the user wrote: one line each, fit to be acted on.
//!
//! A problem names the thing, says what was expected, and never holds more than one line.

use std::fmt;
use std::path::Path;

use crate::base::path::escaped;

/// One thing that is wrong.
///
/// Shown as `config.toml:12: message`, or as the message alone where no file is involved.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// The file, escaped for people, and the line in it, from 1.
    place: Option<(String, usize)>,
    message: String,
}

impl Problem {
    /// Makes a problem of a command line.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            place: None,
            message: message.into(),
        }
    }

    /// Makes a problem of line `line` of the file `place`.
    pub fn at(place: &Path, line: usize, message: impl Into<String>) -> Self {
        Self {
            place: Some((escaped(place.as_os_str().as_encoded_bytes()), line)),
            message: message.into(),
        }
    }

    /// Returns the file it is in, escaped for people.
    pub fn place(&self) -> Option<&str> {
        self.place.as_ref().map(|(place, _)| place.as_str())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((place, line)) = &self.place {
            write!(f, "{place}:{line}: ")?;
        }
        f.write_str(&self.message)
    }
}

/// Everything that is wrong, in the order of the lines.
///
/// Invariant: not empty.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problems(pub(crate) Vec<Problem>);

impl Problems {
    /// Returns `value`, or the problems if there are any.
    pub fn or<T>(mut problems: Vec<Problem>, value: T) -> Result<T, Self> {
        if problems.is_empty() {
            return Ok(value);
        }
        // Stable: problems of one line stay in the order they were found in, and those without a line come first.
        problems.sort_by_key(|problem| problem.place.as_ref().map_or(0, |(_, line)| *line));
        Err(Self(problems))
    }

    /// Returns each of them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Problem> {
        self.0.iter()
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}

/// Shows one problem a line.
impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, problem) in self.0.iter().enumerate() {
            if number > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
