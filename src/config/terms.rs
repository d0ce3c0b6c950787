//! The keys of a folder that say what every object is stored with: class, encryption, access, tags, retention, types.

use std::path::Path;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use crate::base::host::is_loopback;
use crate::base::terms::{Encryption, Lock, LockMode, Terms};
use crate::config::read::{Reader, Section, close, lookup, wrong};
use crate::config::{Folder, S3, values};

/// The most tags of an object (S3's limit).
const MOST_TAGS: usize = 10;

/// The access lists that S3 knows.
const ACLS: &[&str] = &[
    "private",
    "public-read",
    "public-read-write",
    "authenticated-read",
    "aws-exec-read",
    "bucket-owner-read",
    "bucket-owner-full-control",
];

/// The shortest retention: S3 counts in days.
const MIN_KEEP: Duration = Duration::from_secs(24 * 3600);

/// Reads the keys into `folder`, whose bucket is reached as it says already.
pub fn read(
    reader: &mut Reader<'_>,
    table: &Section<'_, '_>,
    folder: &mut Folder,
    home: Option<&Path>,
) {
    let class = table.parsed(reader, "storage_class", values::storage_class);
    let acl = table.parsed(reader, "acl", |text| {
        let choices: Vec<_> = ACLS.iter().map(|acl| (*acl, *acl)).collect();
        values::choice(&choices, text)
    });
    folder.terms = Terms {
        storage_class: class.flatten(),
        encryption: encryption(reader, table, &folder.s3, home),
        acl: acl.map(str::to_owned),
        tags: tags(reader, table),
        lock: lock(reader, table),
    };
    folder.content_types = by_rule(reader, table, "content_types", values::content_type);
    folder.cache_control = by_rule(reader, table, "cache_control", values::header_value);
    only_aws(reader, table, &folder.s3);
}

fn encryption(
    reader: &mut Reader<'_>,
    table: &Section<'_, '_>,
    s3: &S3,
    home: Option<&Path>,
) -> Encryption {
    let choices = [
        ("AES256", Encryption::Aes256),
        ("aws:kms", Encryption::Kms(None)),
    ];
    let names: Vec<_> = choices.iter().map(|(name, _)| (*name, *name)).collect();
    let sse = table.parsed(reader, "sse", |text| values::choice(&names, text));
    let kms_key = table.parsed(reader, "sse_kms_key", values::header_value);
    let file = table.parsed(reader, "sse_c_key_file", |text| {
        values::key_file(text, home)
    });
    if kms_key.is_some() && sse != Some("aws:kms") {
        let why = "`sse_kms_key`: it needs sse = \"aws:kms\"";
        reader.note(table.place_of("sse_kms_key"), why);
    }
    let Some(file) = file else {
        return match sse {
            Some("aws:kms") => Encryption::Kms(kms_key),
            Some(_) => Encryption::Aes256,
            None => Encryption::Bucket,
        };
    };
    let at = table.place_of("sse_c_key_file");
    if sse.is_some() {
        reader.note(at, "`sse_c_key_file`: it cannot be together with `sse`");
    }
    let open = s3
        .endpoint_url
        .as_deref()
        .and_then(|url| url.strip_prefix("http://"));
    if open.is_some_and(|host| !is_loopback(host)) {
        let why = "`sse_c_key_file`: the key would cross the network in the clear; use an https:// endpoint";
        reader.note(at, why);
    }
    Encryption::Customer(file)
}

/// Notes what only AWS has, where the endpoint is another.
fn only_aws(reader: &mut Reader<'_>, table: &Section<'_, '_>, s3: &S3) {
    for (is_set, key) in [
        (s3.dualstack, "dualstack"),
        (s3.accelerate, "accelerate"),
        (s3.fips, "fips"),
    ] {
        if is_set && s3.endpoint_url.is_some() {
            let why =
                format!("`{key}`: it is for AWS alone and cannot be together with `endpoint_url`");
            reader.note(table.place_of(key), why);
        }
    }
}

/// Returns the texts of a table, by place, each with the byte at which its name is.
fn texts(
    reader: &mut Reader<'_>,
    table: &Section<'_, '_>,
    key: &str,
    expected: &str,
) -> Vec<(usize, String, String)> {
    let Some(value) = table.value(key) else {
        return Vec::new();
    };
    let entries = match value.get_ref() {
        DeValue::Table(entries) => entries,
        DeValue::String(text) if text.is_empty() => return Vec::new(),
        other => {
            reader.note(value.span().start, wrong(key, expected, other));
            return Vec::new();
        }
    };
    let mut texts = Vec::new();
    for (name, value) in entries {
        let at = name.span().start;
        match value.get_ref() {
            DeValue::String(text) => texts.push((at, name.get_ref().to_string(), text.to_string())),
            other => {
                let key = format!("{key}.{}", name.get_ref().escape_debug());
                reader.note(value.span().start, wrong(&key, "a text in quotes", other));
            }
        }
    }
    // The table has lost the order in which they stand.
    texts.sort_by_key(|(at, _, _)| *at);
    texts
}

fn tags(reader: &mut Reader<'_>, table: &Section<'_, '_>) -> Vec<(String, String)> {
    let expected = "a table such as { team = \"photos\" }";
    let found = texts(reader, table, "tags", expected);
    if found.len() > MOST_TAGS {
        let why = format!("`tags`: expected at most {MOST_TAGS}, got {}", found.len());
        reader.note(table.place_of("tags"), why);
    }
    let mut tags = Vec::new();
    for (at, name, value) in found {
        match values::tag(&name, &value) {
            Ok(()) => tags.push((name, value)),
            Err(why) => reader.note(at, format!("`tags`: {why}")),
        }
    }
    tags
}

/// Reads a table from gitignore rules to values, in the order of the text.
fn by_rule(
    reader: &mut Reader<'_>,
    table: &Section<'_, '_>,
    key: &str,
    parse: fn(&str) -> Result<String, String>,
) -> Vec<(String, String)> {
    let expected = "a table such as { \"*.html\" = \"…\" }";
    let mut found = Vec::new();
    for (at, rule, value) in texts(reader, table, key, expected) {
        let pair = values::include_rule(&rule).and_then(|rule| Ok((rule, parse(&value)?)));
        match pair {
            Ok(pair) => found.push(pair),
            Err(why) => reader.note(at, format!("`{key}`: {why}")),
        }
    }
    found
}

/// Reads `"off"` or a table of mode and time.
fn lock(reader: &mut Reader<'_>, table: &Section<'_, '_>) -> Option<Lock> {
    const KNOWN: &[&str] = &["mode", "keep"];
    let value = table.value("object_lock")?;
    let at = value.span().start;
    let entries = match value.get_ref() {
        DeValue::String(text) if text.is_empty() || text == "off" => return None,
        DeValue::Table(entries) => entries,
        other => {
            let expected = "\"off\" or a table such as { mode = \"governance\", keep = \"30d\" }";
            reader.note(at, wrong("object_lock", expected, other));
            return None;
        }
    };
    for (name, _) in entries {
        let word: &str = name.get_ref();
        if !KNOWN.contains(&word) {
            let remedy = match close(word, KNOWN.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("there are `{}`", KNOWN.join("`, `")),
            };
            let word = word.escape_debug();
            let why = format!("`object_lock`: unknown key `{word}`; {remedy}");
            reader.note(name.span().start, why);
        }
    }
    let modes = [
        ("governance", LockMode::Governance),
        ("compliance", LockMode::Compliance),
    ];
    let mode = entry(reader, entries, at, "mode", |text| {
        values::choice(&modes, text)
    });
    let keep = entry(reader, entries, at, "keep", |text| {
        values::duration_from(MIN_KEEP, text)
    });
    Some(Lock {
        mode: mode?,
        keep: keep?,
    })
}

/// Reads a text of the lock's table, which has to be there.
fn entry<T>(
    reader: &mut Reader<'_>,
    entries: &DeTable<'_>,
    at: usize,
    name: &str,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Option<T> {
    let Some(value) = lookup(entries, name) else {
        reader.note(at, format!("`object_lock`: `{name}` is missing"));
        return None;
    };
    let at = value.span().start;
    let key = format!("object_lock.{name}");
    match value.get_ref() {
        DeValue::String(text) => parse(text)
            .map_err(|why| reader.note(at, format!("`{key}`: {why}")))
            .ok(),
        other => {
            reader.note(at, wrong(&key, "a text in quotes", other));
            None
        }
    }
}
