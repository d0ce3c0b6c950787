//! Holds the house in order: who may know whom, which file may name which library, and what no file may hold.
//!
//! The checks are functions of a file's path and text; each is shown a planted violation, so that none of them can
//! pass by looking away.

use std::fs;
use std::path::{Path, PathBuf};

/// A module of ours and the modules it may know besides itself. `lib` and `main` are the two roots.
const MAY_KNOW: &[(&str, &[&str])] = &[
    ("lib", &[]),
    ("main", &["cli"]),
    ("cli", &["agent", "commands", "report", "config", "base"]),
    (
        "commands",
        &[
            "agent", "restore", "tree", "sync", "catalog", "manifest", "store", "report", "config",
            "base",
        ],
    ),
    (
        "agent",
        &[
            "tree", "sync", "catalog", "manifest", "store", "report", "config", "base",
        ],
    ),
    ("catalog", &["store", "base"]),
    ("sync", &["manifest", "store", "tree", "base"]),
    ("restore", &["store", "base"]),
    ("tree", &["base"]),
    ("manifest", &["base"]),
    ("store", &["base"]),
    ("report", &["base"]),
    ("config", &["base"]),
    ("base", &[]),
];

/// A word, who may say it, and where: a name of a library that one module keeps to itself.
const KEPT: &[(&str, Match, &[&str])] = &[
    ("aws_", Match::Start, &["store/", "commands/demo"]),
    ("s3s", Match::Whole, &["commands/demo"]),
    ("notify", Match::Crate, &["tree/watch.rs"]),
    ("libc", Match::Crate, &["tree/real/lease.rs"]),
    ("zstd", Match::Crate, &["catalog/link.rs"]),
    ("jiff", Match::Crate, &["base/clock.rs"]),
    ("prometheus_client", Match::Start, &["report/metrics.rs"]),
    ("dashmap", Match::Whole, &["sync/dedupe.rs"]),
    ("DashMap", Match::Whole, &["sync/dedupe.rs"]),
    ("unsafe", Match::Whole, &["tree/real/lease.rs"]),
    ("unsafe_code", Match::Whole, &["tree/real/lease.rs"]),
];

/// The most lines of a file, its unit tests not counted.
const MAX_LINES: usize = 500;

#[derive(Clone, Copy)]
enum Match {
    /// The word itself.
    Whole,
    /// A word that begins with it.
    Start,
    /// The word with `::` behind and none before: a crate's name.
    Crate,
}

/// One file: its path below `src` or `tests`, and its text.
#[derive(Clone)]
struct Source {
    path: String,
    text: String,
}

#[test]
fn every_module_knows_only_whom_it_may() {
    check(&sources("src"), who_knows_whom);
}

#[test]
fn inside_sync_only_file_names_its_siblings() {
    let sources = sources("src");
    let siblings = siblings_of_sync(&sources);
    check(&sources, |source| sync_siblings(source, &siblings));
}

#[test]
fn every_library_is_named_where_it_belongs() {
    check(&sources("src"), kept_names);
}

#[test]
fn super_is_for_unit_tests_and_re_exports_are_for_roots() {
    check(&sources("src"), supers_and_re_exports);
}

#[test]
fn no_file_is_too_long() {
    check(&sources("src"), length);
}

#[test]
fn nothing_is_left_for_later() {
    check(&sources("src"), left_for_later);
    check(&sources("tests"), left_for_later);
    check(&sources("benches"), left_for_later);
}

#[test]
fn every_file_says_what_it_is_for() {
    check(&sources("src"), opens_with_docs);
    check(&sources("tests"), opens_with_docs);
    check(&sources("benches"), opens_with_docs);
}

#[test]
fn every_promise_names_tests_that_are_there() {
    let all = [sources("src"), sources("tests")].concat();
    let missing = missing_tests(&readme(), &all);
    assert!(missing.is_empty(), "\n{}\n", missing.join("\n"));
    let planted =
        "## What it promises\n- **Gold.** Test: `there_is_gold`.\n- **Silver.**\n## Install\n";
    assert_eq!(
        missing_tests(planted, &all),
        [
            "there is no test `there_is_gold`",
            "no test is named for: Silver."
        ]
    );
}

#[test]
fn planted_violations_are_caught() {
    for (path, text, expected) in [
        (
            "base/path.rs",
            "use crate::config::Config;",
            "base/path.rs:1: base may not know config",
        ),
        (
            "store/s3.rs",
            "\nlet x = crate::tree::Tree;",
            "store/s3.rs:2: store may not know tree",
        ),
        (
            "sync/plan.rs",
            "use crate::{base::path, agent::Event};",
            "sync/plan.rs:1: sync may not know agent",
        ),
        (
            "main.rs",
            "tidewatch::agent::run()",
            "main.rs:1: main may not know agent",
        ),
        (
            "odd/new.rs",
            "",
            "odd/new.rs:1: odd is not a module of the house",
        ),
    ] {
        assert_eq!(who_knows_whom(&planted(path, text)), [expected], "{text}");
    }
    let siblings = ["queue", "plan", "file"].map(str::to_owned);
    for text in [
        "use crate::sync::plan::Step;",
        "use crate::sync::{Outcome, plan};",
    ] {
        assert_eq!(
            sync_siblings(&planted("sync/queue.rs", text), &siblings),
            ["sync/queue.rs:1: only sync/file may name sync::plan"],
        );
    }
    for (path, text, word) in [
        ("agent/mod.rs", "aws_sdk_s3::Client", "aws_sdk_s3"),
        ("commands/sync.rs", "use s3s::S3;", "s3s"),
        ("tree/real.rs", "notify::Event", "notify"),
        ("sync/file/mod.rs", "let m: DashMap<u8, u8>;", "DashMap"),
        ("base/path.rs", "unsafe { as_str(x) }", "unsafe"),
        ("base/path.rs", "#![allow(unsafe_code)]", "unsafe_code"),
    ] {
        let expected = format!("{path}:1: `{word}` does not belong here");
        assert_eq!(kept_names(&planted(path, text)), [expected]);
    }
    for (text, expected) in [
        ("use super::x;", "a.rs:1: `super::` outside unit tests"),
        (
            "#[cfg(test)]\nmod tests {\n    use super::super::x;\n}",
            "a.rs:3: `super::` other than `use super::*`",
        ),
        (
            "pub use crate::base::path;",
            "a.rs:1: a re-export outside mod.rs",
        ),
    ] {
        assert_eq!(
            supers_and_re_exports(&planted("a.rs", text)),
            [expected],
            "{text}"
        );
    }
    let long = "x\n".repeat(MAX_LINES + 1);
    assert_eq!(
        length(&planted("a.rs", &long)),
        ["a.rs:501: 501 lines without its tests; 500 at most"]
    );
    for word in MARKS.map(|parts| parts.concat()) {
        let text = format!("fine\n// {word} later");
        assert_eq!(
            left_for_later(&planted("a.rs", &text)),
            [format!("a.rs:2: `{word}`: nothing is left for later")],
        );
    }
    assert_eq!(
        opens_with_docs(&planted("a.rs", "use x;")),
        ["a.rs:1: does not open with `//!`"]
    );
}

#[test]
fn what_is_in_order_is_let_through() {
    for (path, text) in [
        (
            "sync/file/mod.rs",
            "use crate::sync::plan; use crate::store::Store;",
        ),
        (
            "sync/plan.rs",
            "use crate::sync::Outcome; // crate::agent is not named in a comment",
        ),
        (
            "agent/mod.rs",
            "let x = \"crate::cli, aws_sdk_s3, DashMap\";\nlet y = r#\"use super::x \"quoted\" \"#;",
        ),
        (
            "agent/mod.rs",
            "sd_notify::notify(); let c = '\"'; tokio::sync::Notify::new(); fn f<'a>(x: &'a str) {}",
        ),
        (
            "store/s3.rs",
            "use aws_sdk_s3::Client; pub(super) fn x() {}",
        ),
        ("store/mod.rs", "pub use crate::store::key::Key;"),
        ("tree/watch.rs", "notify::Event"),
        (
            "base/path.rs",
            "/* use crate::cli; /* nested */ super:: */ fn x() {}\n#[cfg(test)]\nmod tests {\n use super::*;\n}",
        ),
        ("main.rs", "tidewatch::cli::run()"),
    ] {
        let source = planted(path, text);
        let siblings = ["queue", "plan", "file"].map(str::to_owned);
        let mut found = who_knows_whom(&source);
        found.extend(sync_siblings(&source, &siblings));
        found.extend(kept_names(&source));
        found.extend(supers_and_re_exports(&source));
        found.extend(length(&source));
        assert_eq!(found, [""; 0], "{path}: {text}");
    }
    let tests = format!(
        "x\n#[cfg(test)]\nmod tests {{\n{}}}\n",
        "y\n".repeat(MAX_LINES)
    );
    assert_eq!(length(&planted("a.rs", &tests)), [""; 0]);
}

// -- the checks: what is wrong with one file, a line each --

fn who_knows_whom(source: &Source) -> Vec<String> {
    let module = source.module();
    let Some((_, may)) = MAY_KNOW.iter().find(|(name, _)| *name == module) else {
        return vec![source.at(1, &format!("{module} is not a module of the house"))];
    };
    let known = |name: &str| MAY_KNOW.iter().any(|(module, _)| *module == name);
    let code = code(&source.text);
    // The binary names the library by its own name.
    let root = if module == "main" {
        "tidewatch"
    } else {
        "crate"
    };
    paths(&code, root)
        .into_iter()
        // What is not a module (`crate::Item`) would be an item of lib.rs, which has none.
        .filter(|(_, path)| {
            known(&path[0]) && path[0] != module && !may.contains(&path[0].as_str())
        })
        .map(|(line, path)| source.at(line, &format!("{module} may not know {}", path[0])))
        .collect()
}

fn sync_siblings(source: &Source, siblings: &[String]) -> Vec<String> {
    let Some(own) = source.path.strip_prefix("sync/") else {
        return Vec::new();
    };
    // A folder of several files is one sibling.
    let own = own.split('/').next().unwrap_or(own).trim_end_matches(".rs");
    if own == "file" || own == "mod" {
        return Vec::new();
    }
    paths(&code(&source.text), "crate")
        .into_iter()
        .filter(|(_, path)| path[0] == "sync")
        .filter_map(|(line, path)| Some((line, path.get(1)?.clone())))
        .filter(|(_, second)| second != own && siblings.contains(second))
        .map(|(line, second)| source.at(line, &format!("only sync/file may name sync::{second}")))
        .collect()
}

fn kept_names(source: &Source) -> Vec<String> {
    let code = code(&source.text);
    let mut found = Vec::new();
    for (line, before, word, after) in words(&code) {
        for (name, how, places) in KEPT {
            let hit = match how {
                Match::Whole => word == *name,
                Match::Start => word.starts_with(name),
                Match::Crate => word == *name && after.starts_with("::") && !before.ends_with("::"),
            };
            if hit && !places.iter().any(|place| source.path.starts_with(place)) {
                found.push(source.at(line, &format!("`{word}` does not belong here")));
            }
        }
    }
    found
}

fn supers_and_re_exports(source: &Source) -> Vec<String> {
    let code = code(&source.text);
    let tests = test_lines(&code);
    let root = source.path.ends_with("mod.rs") || source.path == "lib.rs";
    let mut found = Vec::new();
    for (number, line) in code.lines().enumerate() {
        let in_tests = tests.contains(&number);
        let number = number + 1;
        if line.contains("super::") && !in_tests {
            found.push(source.at(number, "`super::` outside unit tests"));
        } else if line.contains("super::") && line.trim() != "use super::*;" {
            found.push(source.at(number, "`super::` other than `use super::*`"));
        }
        if line.trim_start().starts_with("pub use ") && !root {
            found.push(source.at(number, "a re-export outside mod.rs"));
        }
    }
    found
}

fn length(source: &Source) -> Vec<String> {
    let code = code(&source.text);
    let lines = code.lines().count() - test_lines(&code).len();
    if lines <= MAX_LINES {
        return Vec::new();
    }
    let what = format!("{lines} lines without its tests; {MAX_LINES} at most");
    vec![source.at(lines, &what)]
}

/// In two pieces each, so that this file does not hold what it looks for.
const MARKS: [[&str; 2]; 5] = [
    ["TO", "DO"],
    ["FIX", "ME"],
    ["unimple", "mented!"],
    ["to", "do!"],
    ["#[igno", "re"],
];

/// Returns which promises of the README name no test, and which tests it names are not there.
fn missing_tests(readme: &str, sources: &[Source]) -> Vec<String> {
    let (_, promises) = readme
        .split_once("## What it promises")
        .expect("the README promises something");
    let promises = promises.split("\n## ").next().unwrap_or_default();
    let mut missing = Vec::new();
    for promise in promises.split("\n- **").skip(1) {
        // A test's name is a statement: more words than any other name that stands there.
        let names = promise.split('`').skip(1).step_by(2);
        let names: Vec<&str> = names.filter(|name| name.matches('_').count() > 1).collect();
        if names.is_empty() {
            let title = promise.split("**").next().unwrap_or_default();
            missing.push(format!("no test is named for: {title}"));
        }
        for name in names {
            let head = format!("fn {name}(");
            if !sources.iter().any(|source| source.text.contains(&head)) {
                missing.push(format!("there is no test `{name}`"));
            }
        }
    }
    missing
}

fn left_for_later(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    for (number, line) in source.text.lines().enumerate() {
        for mark in MARKS.map(|parts| parts.concat()) {
            if line.contains(&mark) {
                let what = format!("`{mark}`: nothing is left for later");
                found.push(source.at(number + 1, &what));
            }
        }
    }
    found
}

fn opens_with_docs(source: &Source) -> Vec<String> {
    if source.text.starts_with("//! ") {
        return Vec::new();
    }
    vec![source.at(1, "does not open with `//!`")]
}

// -- reading Rust as far as it is needed --

impl Source {
    fn module(&self) -> &str {
        let first = self.path.split('/').next().unwrap_or_default();
        first.trim_end_matches(".rs")
    }

    fn at(&self, line: usize, what: &str) -> String {
        format!("{}:{line}: {what}", self.path)
    }
}

/// Returns `text` with the content of comments, strings and character literals blanked out, line by line as before.
fn code(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = literal_end(text, at);
        for byte in &mut code[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end.max(at + 1);
    }
    String::from_utf8(code).expect("blanked characters are blanked whole")
}

/// Returns the end of the comment or literal that begins at `at`; `at` if none does.
fn literal_end(text: &str, at: usize) -> usize {
    let bytes = text.as_bytes();
    let rest = &bytes[at..];
    let find = |needle: &str, from: usize| {
        let found = text.as_bytes()[from..]
            .windows(needle.len())
            .position(|window| window == needle.as_bytes());
        found.map_or(bytes.len(), |found| from + found + needle.len())
    };
    let word_before = at > 0 && is_word(bytes[at - 1]);
    if rest.starts_with(b"//") {
        find("\n", at) - 1
    } else if rest.starts_with(b"/*") {
        block_comment_end(bytes, at)
    } else if !word_before
        && (rest.starts_with(b"r\"") || rest.starts_with(b"r#\"") || rest.starts_with(b"r##\""))
    {
        let hashes = rest[1..].iter().take_while(|byte| **byte == b'#').count();
        find(&format!("\"{}", "#".repeat(hashes)), at + 2 + hashes)
    } else if rest[0] == b'"' {
        quoted_end(bytes, at, b'"')
    } else if rest.starts_with(b"'\\") {
        quoted_end(bytes, at, b'\'')
    } else if rest[0] == b'\'' {
        // One character and a quote; anything else is a lifetime.
        let next = text[at + 1..].chars().next().map_or(0, char::len_utf8);
        if bytes.get(at + 1 + next) == Some(&b'\'') {
            at + 2 + next
        } else {
            at
        }
    } else {
        at
    }
}

fn block_comment_end(bytes: &[u8], from: usize) -> usize {
    let (mut at, mut depth) = (from, 0);
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if bytes[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    at
}

fn quoted_end(bytes: &[u8], from: usize, quote: u8) -> usize {
    let mut at = from + 1;
    while at < bytes.len() && bytes[at] != quote {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(bytes.len())
}

/// Returns the lines, from 0, that belong to `#[cfg(test)] mod … { … }`.
fn test_lines(code: &str) -> std::ops::Range<usize> {
    let lines: Vec<&str> = code.lines().collect();
    let begin = lines.windows(2).position(|pair| {
        pair[0].trim() == "#[cfg(test)]" && pair[1].trim_start().starts_with("mod ")
    });
    let Some(begin) = begin else { return 0..0 };
    let mut depth = 0;
    for (number, line) in lines.iter().enumerate().skip(begin + 1) {
        depth += line.matches('{').count();
        depth -= line.matches('}').count();
        if depth == 0 {
            return begin..number + 1;
        }
    }
    begin..lines.len()
}

/// Returns every path that begins with `root`, groups taken apart, and its line, without the root itself.
fn paths(code: &str, root: &str) -> Vec<(usize, Vec<String>)> {
    let mut found = Vec::new();
    for (line, before, word, after) in words(code) {
        if word == root && after.starts_with("::") && !before.ends_with("::") {
            let mut tree = Vec::new();
            use_tree(&after[2..], &[], &mut tree);
            found.extend(tree.into_iter().map(|path| (line, path)));
        }
    }
    found
}

/// Reads one path or `{group}` and adds what it names to `found`; returns what is left of the text.
fn use_tree<'a>(text: &'a str, above: &[String], found: &mut Vec<Vec<String>>) -> &'a str {
    let text = text.trim_start();
    if let Some(mut rest) = text.strip_prefix('{') {
        loop {
            rest = rest.trim_start().trim_start_matches(',').trim_start();
            if let Some(after) = rest.strip_prefix('}') {
                return after;
            }
            if rest.is_empty() {
                return rest;
            }
            let left = use_tree(rest, above, found);
            // ` as other` and whatever else stands before the next comma.
            let skip = left.find([',', '}']).unwrap_or(left.len());
            rest = &left[skip..];
        }
    }
    let end = text
        .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .unwrap_or(text.len());
    let mut path = above.to_vec();
    if end > 0 {
        path.push(text[..end].to_owned());
    }
    match text[end..].strip_prefix("::") {
        Some(rest) if end > 0 => use_tree(rest, &path, found),
        _ => {
            if !path.is_empty() {
                found.push(path);
            }
            &text[end..]
        }
    }
}

/// Returns every word with its line, what stands before it and what stands behind it.
fn words(code: &str) -> Vec<(usize, &str, &str, &str)> {
    let bytes = code.as_bytes();
    let (mut found, mut at, mut line) = (Vec::new(), 0, 1);
    while at < bytes.len() {
        if !is_word(bytes[at]) {
            line += usize::from(bytes[at] == b'\n');
            at += 1;
            continue;
        }
        let length = bytes[at..]
            .iter()
            .take_while(|byte| is_word(**byte))
            .count();
        found.push((
            line,
            &code[..at],
            &code[at..at + length],
            &code[at + length..],
        ));
        at += length;
    }
    found
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

// -- the files --

fn readme() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    fs::read_to_string(path).expect("a README")
}

/// Returns every Rust file below a folder of the crate; none if the folder is not there.
fn sources(folder: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut files: Vec<PathBuf> = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(next) = folders.pop() {
        let Ok(entries) = fs::read_dir(&next) else {
            continue;
        };
        for entry in entries {
            let path = entry.expect("a readable folder").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    assert!(
        folder != "src" || files.len() > 20,
        "the sources were not found"
    );
    let read = |path: &PathBuf| Source {
        path: path
            .strip_prefix(&root)
            .expect("below the root")
            .display()
            .to_string(),
        text: fs::read_to_string(path).expect("a readable file"),
    };
    files.iter().map(read).collect()
}

fn siblings_of_sync(sources: &[Source]) -> Vec<String> {
    let names = sources
        .iter()
        .filter_map(|source| source.path.strip_prefix("sync/"));
    names
        .map(|name| name.split(['/', '.']).next().unwrap_or(name).to_owned())
        .collect()
}

fn planted(path: &str, text: &str) -> Source {
    Source {
        path: path.to_owned(),
        text: text.to_owned(),
    }
}

fn check(sources: &[Source], rule: impl Fn(&Source) -> Vec<String>) {
    let found: Vec<String> = sources.iter().flat_map(rule).collect();
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}
