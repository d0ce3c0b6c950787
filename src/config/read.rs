//! TOML with the place of every value: each wrong type and unknown key becomes a problem with its line.
//!
//! What a table may hold is listed once, in [`KEYS`]; a key that is not in the list cannot be read either.

use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::{Concurrency, Problem, values};

/// Every table of the config and the keys it may hold; those of `s3` may stand in each folder too.
pub const KEYS: &[(&str, &[&str])] = &[
    ("agent", &["state_dir", "listen", "shutdown_grace"]),
    (
        "s3",
        &[
            "region",
            "endpoint_url",
            "profile",
            "path_style",
            "ca_bundle",
            "dualstack",
            "accelerate",
            "fips",
            "requester_pays",
        ],
    ),
    ("upload", &["concurrency", "memory", "bandwidth"]),
    ("cost", &["currency", "put", "get", "read", "budget"]),
    (
        "notify",
        &["command", "webhook", "heartbeat", "heartbeat_every"],
    ),
    (
        "folder",
        &[
            "name",
            "path",
            "to",
            "exclude",
            "include",
            "builtin_ignores",
            "settle",
            "max_wait",
            "rescan",
            "max_lag",
            "on_delete",
            "delete_brake",
            "overwrite_brake",
            "history",
            "guard",
            "trash_keep",
            "symlinks",
            "watch",
            "audit",
            "drill",
            "max_size",
            "min_size",
            "min_age",
            "max_age",
            "exclude_caches",
            "storage_class",
            "sse",
            "sse_kms_key",
            "sse_c_key_file",
            "acl",
            "tags",
            "object_lock",
            "content_types",
            "cache_control",
            "region",
            "endpoint_url",
            "profile",
            "path_style",
            "ca_bundle",
            "dualstack",
            "accelerate",
            "fips",
            "requester_pays",
        ],
    ),
];

/// Returns the keys that `table` may hold.
fn keys_of(table: &str) -> &'static [&'static str] {
    KEYS.iter()
        .find(|(name, _)| *name == table)
        .map_or(&[], |(_, keys)| keys)
}

/// Returns a table's name as it stands in the file.
fn header(table: &str) -> &'static str {
    match table {
        "agent" => "[agent]",
        "s3" => "[s3]",
        "upload" => "[upload]",
        "cost" => "[cost]",
        "notify" => "[notify]",
        _ => "[[folder]]",
    }
}

/// Returns the names of all tables, as people list them.
fn headers() -> String {
    let mut names: Vec<&str> = KEYS.iter().map(|(table, _)| header(table)).collect();
    let last = names.pop().unwrap_or_default();
    format!("{} and {last}", names.join(", "))
}

/// The text being read and what was found wrong in it so far.
pub struct Reader<'a> {
    place: &'a Path,
    text: &'a str,
    /// What is wrong so far.
    pub problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    /// Begins to read `text`, which messages call `place`.
    pub fn new(place: &'a Path, text: &'a str) -> Self {
        Self {
            place,
            text,
            problems: Vec::new(),
        }
    }

    /// Returns the whole document; a syntax error is the only problem then.
    pub fn document(&mut self) -> Option<DeTable<'a>> {
        match DeTable::parse(self.text) {
            Ok(document) => Some(document.into_inner()),
            Err(error) => {
                let at = error.span().map_or(0, |span| span.start);
                let message = error.message().lines().collect::<Vec<_>>().join(", ");
                self.note(at, format!("not TOML: {message}"));
                None
            }
        }
    }

    /// Notes a problem at byte `at` of the text.
    pub fn note(&mut self, at: usize, message: impl Into<String>) {
        let problem = Problem::at(self.place, self.line(at), message);
        self.problems.push(problem);
    }

    /// Returns the line of byte `at`, from 1.
    pub fn line(&self, at: usize) -> usize {
        let before = self.text.get(..at).unwrap_or(self.text);
        before.matches('\n').count() + 1
    }

    /// Returns the one table `name`, empty if it is not there.
    pub fn table<'t>(&mut self, root: &'t DeTable<'a>, name: &'static str) -> Section<'t, 'a> {
        let mut section = Section {
            name,
            table: None,
            at: 0,
        };
        if let Some(value) = lookup(root, name) {
            section.at = value.span().start;
            match value.get_ref() {
                DeValue::Table(table) => section = self.section(name, table, section.at),
                other => self.note(
                    section.at,
                    format!("expected a table {}, got {}", header(name), kind(other)),
                ),
            }
        }
        section
    }

    /// Returns the tables of the list `name`, in the order of the text.
    pub fn tables<'t>(
        &mut self,
        root: &'t DeTable<'a>,
        name: &'static str,
    ) -> Vec<Section<'t, 'a>> {
        let Some(value) = lookup(root, name) else {
            return Vec::new();
        };
        let at = value.span().start;
        let DeValue::Array(items) = value.get_ref() else {
            let got = kind(value.get_ref());
            self.note(at, format!("expected a list {}, got {got}", header(name)));
            return Vec::new();
        };
        let mut sections = Vec::new();
        for item in items {
            let at = item.span().start;
            match item.get_ref() {
                DeValue::Table(table) => sections.push(self.section(name, table, at)),
                other => self.note(
                    at,
                    format!("expected a table {}, got {}", header(name), kind(other)),
                ),
            }
        }
        sections
    }

    /// Notes every name at the top that is not a table of ours.
    pub fn unknown_tables(&mut self, root: &DeTable<'a>) {
        for (key, value) in root {
            let name: &str = key.get_ref();
            if KEYS.iter().any(|(known, _)| *known == name) {
                continue;
            }
            let tables = KEYS.iter().map(|(name, _)| *name);
            let remedy = match (owner(name, ""), close(name, tables)) {
                (Some(owner), _) => format!("; it belongs in {}", header(owner)),
                (None, Some(near)) => format!("; did you mean {}?", header(near)),
                (None, None) => format!("; there are {}", headers()),
            };
            let what = match value.get_ref() {
                DeValue::Table(_) => "table",
                DeValue::Array(items) if items.iter().any(|item| item.get_ref().is_table()) => {
                    "table"
                }
                _ => "key",
            };
            self.note(
                key.span().start,
                format!("unknown {what} `{}`{remedy}", name.escape_debug()),
            );
        }
    }

    fn section<'t>(
        &mut self,
        name: &'static str,
        table: &'t DeTable<'a>,
        at: usize,
    ) -> Section<'t, 'a> {
        for (key, _) in table {
            let text: &str = key.get_ref();
            if keys_of(name).contains(&text) {
                continue;
            }
            let near = close(text, keys_of(name).iter().copied());
            let remedy = match (near, owner(text, name)) {
                (_, Some(owner)) => format!("; it belongs in {}", header(owner)),
                (Some(near), None) => format!("; did you mean `{near}`?"),
                (None, None) => format!("; there are `{}`", keys_of(name).join("`, `")),
            };
            self.note(
                key.span().start,
                format!(
                    "unknown key `{}` in {}{remedy}",
                    text.escape_debug(),
                    header(name)
                ),
            );
        }
        Section {
            name,
            table: Some(table),
            at,
        }
    }
}

/// One table, and where it begins in the text.
pub struct Section<'t, 'i> {
    name: &'static str,
    table: Option<&'t DeTable<'i>>,
    /// The byte at which it begins.
    pub at: usize,
}

impl<'t, 'i> Section<'t, 'i> {
    /// Returns where `key` is, or the table if it is not there.
    pub fn place_of(&self, key: &str) -> usize {
        self.value(key).map_or(self.at, |value| value.span().start)
    }

    /// Returns true if `key` is there and says nothing.
    pub fn is_empty(&self, key: &str) -> bool {
        let value = self.value(key).map(toml::Spanned::get_ref);
        matches!(value, Some(DeValue::String(text)) if text.is_empty())
    }

    /// Returns a text that is not empty.
    pub fn text(&self, reader: &mut Reader<'_>, key: &str) -> Option<&'t str> {
        let value = self.value(key)?;
        match value.get_ref() {
            DeValue::String(text) if text.is_empty() => None,
            DeValue::String(text) => Some(text),
            other => {
                reader.note(value.span().start, wrong(key, "a text in quotes", other));
                None
            }
        }
    }

    /// Returns what `parse` makes of a text that is not empty.
    pub fn parsed<T>(
        &self,
        reader: &mut Reader<'_>,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        match parse(self.text(reader, key)?) {
            Ok(value) => Some(value),
            Err(why) => {
                reader.note(self.place_of(key), format!("`{key}`: {why}"));
                None
            }
        }
    }

    /// Returns true or false.
    pub fn flag(&self, reader: &mut Reader<'_>, key: &str) -> Option<bool> {
        let value = self.value(key)?;
        match value.get_ref() {
            DeValue::Boolean(flag) => Some(*flag),
            DeValue::String(text) if text.is_empty() => None,
            other => {
                reader.note(value.span().start, wrong(key, "true or false", other));
                None
            }
        }
    }

    /// Returns a list of texts, each as `parse` makes it.
    pub fn list(
        &self,
        reader: &mut Reader<'_>,
        key: &str,
        parse: impl Fn(&str) -> Result<String, String>,
    ) -> Vec<String> {
        let expected = "a list of texts such as [\"*.tmp\"]";
        let Some(value) = self.value(key) else {
            return Vec::new();
        };
        let items = match value.get_ref() {
            DeValue::Array(items) => items,
            DeValue::String(text) if text.is_empty() => return Vec::new(),
            other => {
                reader.note(value.span().start, wrong(key, expected, other));
                return Vec::new();
            }
        };
        let mut texts = Vec::new();
        for item in items {
            let at = item.span().start;
            match item.get_ref() {
                DeValue::String(text) => match parse(text) {
                    Ok(text) => texts.push(text),
                    Err(why) => reader.note(at, format!("`{key}`: {why}")),
                },
                other => reader.note(at, wrong(key, expected, other)),
            }
        }
        texts
    }

    /// Returns `"auto"` or a number, which may be in quotes.
    pub fn concurrency(&self, reader: &mut Reader<'_>, key: &str) -> Option<Concurrency> {
        let value = self.value(key)?;
        let DeValue::Integer(number) = value.get_ref() else {
            return self.parsed(reader, key, values::concurrency);
        };
        let count = i64::from_str_radix(number.as_str(), number.radix()).ok();
        let concurrency = count.and_then(values::fixed);
        if concurrency.is_none() {
            let why = values::concurrency_expected(&number.to_string());
            reader.note(value.span().start, format!("`{key}`: {why}"));
        }
        concurrency
    }

    /// Returns what `key` holds, as it was written.
    pub fn value(&self, key: &str) -> Option<&'t Spanned<DeValue<'i>>> {
        debug_assert!(
            keys_of(self.name).contains(&key),
            "`{key}` is read from {} and not in KEYS",
            self.name
        );
        lookup(self.table?, key)
    }
}

/// Returns what a table holds under `key`.
pub fn lookup<'t, 'i>(table: &'t DeTable<'i>, key: &str) -> Option<&'t Spanned<DeValue<'i>>> {
    table
        .iter()
        .find(|(name, _)| name.get_ref() == key)
        .map(|(_, value)| value)
}

/// Returns what is said of a value of the wrong type.
pub fn wrong(key: &str, expected: &str, got: &DeValue<'_>) -> String {
    format!("`{key}`: expected {expected}, got {}", kind(got))
}

fn kind(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(number) => format!("the number {number}"),
        DeValue::Float(number) => format!("the number {number}"),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(time) => format!("the time {time}"),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// Returns the table, other than `not`, that has a key of this name.
fn owner(key: &str, not: &str) -> Option<&'static str> {
    KEYS.iter()
        .find(|(table, keys)| *table != not && keys.contains(&key))
        .map(|(table, _)| *table)
}

/// Returns the nearest of `known` to `word`, if it is near enough to be meant.
pub fn close<'k>(word: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    known
        .map(|candidate| (strsim::jaro_winkler(word, candidate), candidate))
        // clap uses the same measure and a bound of 0.7, under which short words are near to everything.
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}
