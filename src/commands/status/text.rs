//! The text form of `tidewatch status`: 80 columns but for names, which are never cut.

use std::fmt::Write as _;
use std::time::Duration;

use crate::base::clock::rfc3339;
use crate::base::price;
use crate::base::units::{show_bytes, show_duration};
use crate::commands::drill;
use crate::commands::status::{Agent, State, View};
use crate::report::bill_file::Cost;

/// The columns of a terminal that nobody has widened.
const WIDTH: usize = 80;

/// Where the values begin.
const INDENT: usize = 13;

/// Returns what is shown of one state folder: whole lines.
pub(super) fn page(state: &State) -> String {
    let mut page = line("", &agent(&state.agent), 0);
    if state.folders.is_empty() {
        page.push_str("no folder is known here yet\n");
    }
    for view in &state.folders {
        page.push('\n');
        page.push_str(&folder(view, &state.agent));
    }
    if let Some(place) = &state.page {
        page.push('\n');
        page.push_str(&line("", &place.to_string(), 0));
    }
    if let Some(cost) = &state.cost {
        page.push('\n');
        page.push_str(&line("", &bill(cost), 0));
    }
    page
}

/// What requests cost, and whether that is too much.
fn bill(cost: &Cost) -> String {
    let show = |amount| price::show(amount, &cost.currency);
    let (today, month) = (&cost.today, &cost.month);
    let mut text = format!(
        "requests cost {} today, {} this month ({} writes, {} reads), {} at this pace",
        show(today.cost),
        show(month.cost),
        month.usage.puts,
        month.usage.gets,
        show(cost.month_at_this_pace),
    );
    if let Some(budget) = cost.budget {
        let word = if cost.is_over() {
            "MORE THAN"
        } else {
            "within"
        };
        // Writing to a String cannot fail.
        let _ = write!(text, ": {word} the budget of {}", show(budget));
    }
    text
}

fn agent(agent: &Agent) -> String {
    if !agent.alive {
        return "agent not running".to_owned();
    }
    let mut text = "agent running".to_owned();
    // Writing to a String cannot fail.
    if let Some(pid) = agent.pid {
        let _ = write!(text, ", process {pid}");
    }
    match &agent.version {
        Some(version) => {
            let _ = write!(text, ", version {version}");
        }
        None => text.push_str(", has not said anything yet; shown is the manifest"),
    }
    text
}

fn folder(view: &View, agent: &Agent) -> String {
    let status = &view.status;
    let lag = show_duration(Duration::from_secs(status.lag_seconds));
    let how = match (status.level, agent.alive) {
        (true, _) => "level".to_owned(),
        (false, true) if agent.version.is_some() => format!("BEHIND {lag}"),
        (false, _) => format!("BEHIND up to {lag}"),
    };
    let most = show_duration(Duration::from_secs(status.max_lag_seconds));
    let how = if status.is_late() {
        format!("{how}, LATE: more than {most}")
    } else {
        how
    };
    let mut page = format!("{}  {how}\n", status.name);
    let mut add = |label: &str, value: &str| page.push_str(&line(label, value, INDENT));
    add("folder", &status.path);
    add("bucket", &status.to);
    if !agent.alive {
        let since = agent.last_heard.as_deref().unwrap_or("an unknown time");
        let known = match view.last_known_level {
            Some(true) => "level",
            Some(false) => "behind",
            None => "nothing",
        };
        let text = format!("not running since {since} or later; last known: {known}");
        add("agent", &text);
    }
    add("queue", &queue(status.queued_files, status.queued_bytes));
    failed(view, &mut page);
    let mut add = |label: &str, value: &str| page.push_str(&line(label, value, INDENT));
    if status.unsyncable > 0 {
        let text = format!(
            "{} cannot be synced as they are; the log names them",
            files(status.unsyncable)
        );
        add("skipped", &text);
    }
    if status.held > 0 {
        add(
            "held",
            &format!(
                "{} wait for a person: see `tidewatch held list`",
                files(status.held)
            ),
        );
    }
    if let Some(since) = &status.outage_since {
        add("outage", &format!("since {since}"));
    }
    if let Some(lease) = &status.lease {
        add("lease", lease);
    }
    if let Some(trouble) = &status.trouble {
        add("trouble", trouble);
    }
    if let (n @ 1.., Some(until)) = (status.ambiguous, &status.ambiguous_until) {
        add("looked at", &format!("{} again, until {until}", files(n)));
    }
    add("watch", &status.watch);
    add("last scan", status.last_scan.as_deref().unwrap_or("none"));
    if let Some(drilled) = &view.last_drill {
        let text = format!("{}, {}", rfc3339(drilled.at_ns), drill::text(drilled));
        add("last drill", &text);
    }
    page
}

fn queue(count: u64, bytes: u64) -> String {
    match (count, bytes) {
        (0, _) => "empty".to_owned(),
        (count, 0) => files(count),
        (count, bytes) => format!("{}, {}", files(count), show_bytes(bytes)),
    }
}

fn failed(view: &View, page: &mut String) {
    let count = view.status.failed;
    if count == 0 {
        page.push_str(&line("failed", "none", INDENT));
        return;
    }
    let named = view.failing.len() as u64;
    let text = match named {
        0 => files(count),
        _ if named < count => format!("{}; the first {named}:", files(count)),
        _ => format!("{}:", files(count)),
    };
    page.push_str(&line("failed", &text, INDENT));
    for failing in &view.failing {
        let tries = match failing.attempts {
            0 | 1 => String::new(),
            n => format!(" ({n} times)"),
        };
        page.push_str(&line("", &format!("{}{tries}", failing.path), INDENT));
        page.push_str(&line("", &failing.error, INDENT + 2));
        if let Some(until) = &failing.parked_until {
            let text = format!(
                "left alone until {until}, or until it changes; `tidewatch sync --retry-failed` tries it now"
            );
            page.push_str(&line("", &text, INDENT + 2));
        }
    }
}

fn files(count: u64) -> String {
    match count {
        1 => "1 file".to_owned(),
        n => format!("{n} files"),
    }
}

/// Returns a label and, from column `indent` on, its value in as many lines as it takes. A word is never broken.
fn line(label: &str, value: &str, indent: usize) -> String {
    let mut lines = String::new();
    let mut current = match label {
        "" => " ".repeat(indent),
        label => format!("{:<indent$}", format!("  {label}")),
    };
    let mut is_begun = false;
    for word in value.split(' ') {
        let would_be = current.chars().count() + 1 + word.chars().count();
        if is_begun && would_be > WIDTH {
            lines.push_str(&current);
            lines.push('\n');
            current = " ".repeat(indent);
            is_begun = false;
        }
        if is_begun {
            current.push(' ');
        }
        current.push_str(word);
        is_begun = true;
    }
    lines.push_str(&current);
    lines.push('\n');
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::snapshot::FolderSnapshot;
    use crate::commands::status::Failing;
    use crate::report::status_file::FolderStatus;

    fn view() -> View {
        let snapshot = FolderSnapshot {
            name: "photos".to_owned(),
            path: "/srv/photos".to_owned(),
            to: "s3://my-backups/tide/photos/".to_owned(),
            level: true,
            watch: "native".to_owned(),
            last_scan_ns: Some(1_764_000_000_000_000_000),
            ..FolderSnapshot::default()
        };
        View {
            status: FolderStatus::of(&snapshot),
            last_known_level: Some(true),
            last_drill: None,
            failing: Vec::new(),
        }
    }

    fn state(alive: bool, view: View) -> State {
        State {
            agent: Agent {
                alive,
                pid: alive.then_some(4711),
                version: Some("0.1.0".to_owned()),
                last_heard: Some("2025-11-24T16:10:00Z".to_owned()),
                state_dir: "/var/lib/tidewatch".to_owned(),
            },
            folders: vec![view],
            cost: None,
            page: None,
        }
    }

    #[test]
    fn a_level_folder_is_shown_in_few_lines() {
        assert_eq!(
            page(&state(true, view())),
            "\
agent running, process 4711, version 0.1.0

photos  level
  folder     /srv/photos
  bucket     s3://my-backups/tide/photos/
  queue      empty
  failed     none
  watch      native
  last scan  2025-11-24T16:00:00Z
"
        );
    }

    #[test]
    fn a_folder_in_trouble_says_what_and_why_within_80_columns() {
        let mut view = view();
        view.status.level = false;
        (view.status.lag_seconds, view.status.max_lag_seconds) = (192, 60);
        view.status.queued_files = 12;
        view.status.queued_bytes = 1536 * 1024;
        view.status.failed = 7;
        view.status.outage_since = Some("2025-11-24T16:05:00Z".to_owned());
        view.status.trouble = Some("cannot connect: Connection refused; ".repeat(4));
        view.failing = vec![Failing {
            path: "a/b c.txt".to_owned(),
            path_base64: None,
            error: "could not read the file: Permission denied (os error 13)".to_owned(),
            attempts: 3,
            parked_until: Some("2025-11-24T17:05:00Z".to_owned()),
        }];
        let page = page(&state(true, view));
        for part in [
            "photos  BEHIND 3m 12s, LATE: more than 1m\n",
            "  queue      12 files, 1.5 MiB\n",
            "  failed     7 files; the first 1:\n             a/b c.txt (3 times)\n               could not read",
            "left alone until 2025-11-24T17:05:00Z",
            "  outage     since 2025-11-24T16:05:00Z\n  trouble    cannot connect: Connection refused;",
        ] {
            assert!(page.contains(part), "{part}\n{page}");
        }
        assert!(
            page.lines().all(|line| line.chars().count() <= 80),
            "{page}"
        );
    }

    #[test]
    fn what_requests_cost_is_shown_with_the_budget() {
        let mut state = state(true, view());
        let mut cost = Cost {
            currency: "USD".to_owned(),
            budget: Some(2_000_000),
            month_at_this_pace: 1_500_000,
            ..Cost::default()
        };
        cost.month.cost = 250_000;
        cost.month.usage.puts = 50_000;
        state.cost = Some(cost.clone());
        let shown = page(&state);
        let part = "\nrequests cost 0.0000 USD today, 0.2500 USD this month (50000 writes, 0 reads),\n1.50 USD at this pace: within the budget of 2.00 USD\n";
        assert!(shown.ends_with(part), "{shown}");
        cost.month_at_this_pace = 2_000_001;
        state.cost = Some(cost);
        let shown = page(&state);
        assert!(
            shown.ends_with("MORE THAN the budget of 2.00 USD\n"),
            "{shown}"
        );
    }

    #[test]
    fn a_dead_agents_folder_is_only_what_was_last_known() {
        let mut view = view();
        view.status.level = false;
        view.status.lag_seconds = 600;
        let page = page(&state(false, view));
        assert!(page.contains("photos  BEHIND up to 10m\n"), "{page}");
        assert!(
            page.contains("not running since 2025-11-24T16:10:00Z or later; last known: level\n"),
            "{page}"
        );
    }
}
