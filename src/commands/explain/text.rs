//! What was found out, for people. (pure)

use std::fmt::Write as _;

use crate::base::live::Live;
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
    if let Some(live) = &one.live {
        now(&mut page, live, one.verdict.safe);
    }
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
                _ => known.state.to_string(),
            };
            line(&mut page, "known", &text);
            if let Some(at) = &known.synced_at {
                compared(&mut page, one, at);
            }
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
    let version = one
        .known
        .as_ref()
        .and_then(|known| known.version_id.as_ref());
    if let Some(version) = version {
        line(&mut page, "version", version);
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
        (None, None) => line(
            &mut page,
            "rules",
            "of the agent that runs, and in the folder",
        ),
    }
    let would_help = !one.verdict.safe && one.verdict.code != "excluded";
    if would_help && !one.agent_alive {
        let text = "none is running for this folder; `tidewatch run` or `sync` goes on";
        line(&mut page, "agent", text);
    }
    page
}

/// Says where the file is on its way.
fn now(page: &mut String, live: &Live, is_safe: bool) {
    let at = live.due_at.as_deref().unwrap_or("soon");
    let times = match live.failures {
        1 => "once".to_owned(),
        n => format!("{n} times"),
    };
    let text = match live.stage.as_str() {
        "settling" => Some(format!("settling until {at}, unless it is touched again")),
        "queued" if live.ahead == 0 => Some("next to be looked at".to_owned()),
        "queued" => Some(format!(
            "queued behind {}; in front: {}",
            live.ahead,
            live.front.join(", ")
        )),
        "in_flight" => Some(in_flight(live)),
        "retrying" => Some(format!("it has failed {times}, and is tried next at {at}")),
        "moving" => Some(format!(
            "it was written to while it was read, and is tried next at {at}"
        )),
        "check" => Some(format!("looked at once more at {at}")),
        _ => None,
    };
    if let Some(text) = text {
        line(page, "now", &text);
    }
    if let Some(error) = &live.error {
        line(page, "error", error);
    }
    if is_safe {
        return;
    }
    if let Some(why) = &live.waits_for {
        line(page, "waits", why);
    }
    if let Some(brake) = &live.brake {
        line(page, "brake", brake);
    }
}

fn in_flight(live: &Live) -> String {
    let (Some(done), Some(all)) = (live.bytes_done, live.bytes_all) else {
        return "being read, or waiting for its turn at the bucket".to_owned();
    };
    let bytes = format!("{} of {}", show_bytes(done), show_bytes(all));
    match (live.parts_done, live.parts_all) {
        (Some(done), Some(all)) => format!("on its way: {bytes}, {done} of {all} parts are there"),
        _ => format!("on its way: {bytes}"),
    }
}

/// Says when the object was last compared with what is known of it.
fn compared(page: &mut String, one: &Explained, synced_at: &str) {
    let last = one.last_audit.iter().chain(&one.last_verify).max();
    let text = match last {
        None => "never compared with the bucket since".to_owned(),
        // Times of one form are in order as text.
        Some(at) if at.as_str() > synced_at => format!("compared with the bucket at {at}"),
        Some(at) => format!("not compared with the bucket since; the last time was {at}"),
    };
    line(page, "verified", &text);
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
