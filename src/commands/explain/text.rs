//! What was found out, for people. (pure)

use std::fmt::Write as _;

use crate::base::units::show_bytes;
use crate::commands::explain::Explained;

/// How wide a terminal is at least.
const COLUMNS: usize = 80;

/// Where the words of a line begin, in columns.
const INDENT: usize = 11;

/// Returns everything about the path in one folder.
pub(super) fn page(one: &Explained) -> String {
    let mut page = String::new();
    let head = if one.verdict.safe { "safe" } else { "not safe" };
    // Writing to a String cannot fail, here and below.
    let _ = writeln!(page, "{head}: {}", one.path);
    line(&mut page, "why", &one.verdict.why);
    if let Some(disk) = &one.disk {
        let bytes = show_bytes(disk.bytes);
        let text = format!("{}, {bytes}, modified {}", disk.kind, disk.modified);
        line(&mut page, "on disk", &text);
    } else {
        line(&mut page, "on disk", "nothing");
    }
    match &one.known {
        Some(known) => {
            let text = match (known.bytes, &known.synced_at) {
                (Some(bytes), Some(at)) => {
                    let bytes = show_bytes(bytes);
                    format!("{}; {bytes} were synced at {at}", known.state)
                }
                _ => known.state.to_owned(),
            };
            line(&mut page, "known", &text);
            if let Some(sha256) = &known.sha256 {
                line(&mut page, "sha256", sha256);
            }
        }
        None => line(&mut page, "known", "nothing"),
    }
    if let Some(key) = &one.key {
        let bucket = one
            .to
            .strip_prefix("s3://")
            .and_then(|to| to.split('/').next());
        let text = format!("s3://{}/{key}", bucket.unwrap_or_default());
        line(&mut page, "object", &text);
    }
    line(&mut page, "folder", &one.folder);
    match (&one.config, &one.config_missing) {
        (Some(place), _) => line(
            &mut page,
            "rules",
            &format!("of {place}, and in the folder"),
        ),
        (None, Some(why)) => {
            let text = format!(
                "built-in ones and those in the folder; the config's could not be checked: {why}"
            );
            line(&mut page, "rules", &text);
        }
        (None, None) => {}
    }
    let would_help = !one.verdict.safe && one.verdict.code != "excluded";
    if would_help && !one.agent_alive {
        let text = "none is running for this folder; `tidewatch run` or `sync` goes on";
        line(&mut page, "agent", text);
    }
    page
}

/// Adds a line of words, broken where the terminal ends.
fn line(page: &mut String, name: &str, words: &str) {
    let mut column = INDENT;
    let _ = write!(page, "  {name:<width$}", width = INDENT - 2);
    for (number, word) in words.split(' ').enumerate() {
        let width = word.chars().count();
        if number > 0 && column + 1 + width > COLUMNS {
            let _ = write!(page, "\n{:INDENT$}", "");
            column = INDENT;
        } else if number > 0 {
            page.push(' ');
            column += 1;
        }
        page.push_str(word);
        column += width;
    }
    page.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_words_stand_alone_and_short_ones_share_a_line() {
        let mut page = String::new();
        let long = "x".repeat(90);
        line(&mut page, "why", &format!("a b {long} c"));
        assert_eq!(
            page,
            format!("  why      a b\n{:11}{long}\n{:11}c\n", "", "")
        );
    }
}
