//! The text form of `tidewatch status`: 80 columns but for names, which are never cut.

use std::fmt::Write as _;
use std::time::Duration;

use crate::base::clock::rfc3339;
use crate::base::price;
use crate::base::units::{show_bytes, show_duration};
use crate::commands::drill;
use crate::commands::status::{Agent, State, View};
use crate::report::bill_file::Cost;
use crate::report::status_file::FolderStatus;

/// The columns of a terminal that nobody has widened.
const WIDTH: usize = 80;

/// Files on their way that are named.
const SHOWN: usize = 5;

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
        "requests cost {} today, {} this month ({} writes, {} reads, {} up, {} back), {} at this pace",
        show(today.cost),
        show(month.cost),
        month.usage.puts,
        month.usage.gets,
        show_bytes(month.usage.sent_bytes),
        show_bytes(month.usage.read_bytes),
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
    let how = match status.level {
        false if status.is_late() => format!("{how}, LATE: more than {most}"),
        false if status.max_lag_seconds > 0 => format!("{how} of {most} allowed"),
        _ => how,
    };
    let how = match &status.paused_since {
        Some(since) => format!("{how}, PAUSED since {since}"),
        None => how,
    };
    let mut page = format!("{}  {how}\n", status.name);
    let mut add = |label: &str, value: &str| page.push_str(&line(label, value, INDENT));
    add("folder", &status.path);
    add("bucket", &status.to);
    if let Some(endpoint) = &view.unencrypted {
        add("line", &format!("NOT ENCRYPTED on the way to {endpoint}"));
    }
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
    add("queue", &queue(status));
    if status.paused_since.is_some() {
        add("paused", "`tidewatch resume` goes on");
    }
    going_up(status, &mut page);
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
    if let Some(brake) = &status.brake {
        add("brake", brake);
    }
    if status.deletes > 0 {
        let text = format!("the objects of {} are to go", files(status.deletes));
        add("deletes", &text);
    }
    if let Some(since) = &status.outage_since {
        add("outage", &format!("since {since}"));
    }
    if let Some(trouble) = &status.trouble {
        add("trouble", trouble);
    }
    if let (n @ 1.., Some(until)) = (status.ambiguous, &status.ambiguous_until) {
        add("looked at", &format!("{} again, until {until}", files(n)));
    }
    add("watch", &watch(status));
    add("last scan", status.last_scan.as_deref().unwrap_or("none"));
    proofs(status, &mut page);
    if let Some(drilled) = &view.last_drill {
        let text = format!("{}, {}", rfc3339(drilled.at_ns), drill::text(drilled));
        page.push_str(&line("last drill", &text, INDENT));
    }
    if let Some(text) = lease(status) {
        page.push_str(&line("lease", &text, INDENT));
    }
    page
}

fn queue(status: &FolderStatus) -> String {
    let mut text = match (status.queued_files, status.queued_bytes) {
        (0, _) => return "empty".to_owned(),
        (count, 0) => files(count),
        (count, bytes) => format!("{}, {}", files(count), show_bytes(bytes)),
    };
    // Writing to a String cannot fail, here and below.
    if let Some(seconds) = status.seconds_left {
        let left = show_duration(Duration::from_secs(seconds.max(1)));
        let _ = write!(text, ", {left} left");
    }
    text
}

/// Adds how fast it goes, what is on its way, and how often something had to be tried again.
fn going_up(status: &FolderStatus, page: &mut String) {
    if status.rate_bytes_per_second > 0 {
        let rate = show_bytes(status.rate_bytes_per_second);
        page.push_str(&line("rate", &format!("{rate}/s"), INDENT));
    }
    let mut label = "going up";
    for up in status.going_up.iter().take(SHOWN) {
        let mut text = format!(
            "{}, {} of {}",
            up.path,
            show_bytes(up.bytes_done),
            show_bytes(up.bytes_all)
        );
        if let (Some(done), Some(all)) = (up.parts_done, up.parts_all) {
            let _ = write!(text, ", {done} of {all} parts");
        }
        page.push_str(&line(label, &text, INDENT));
        label = "";
    }
    let more = status.going_up.len().saturating_sub(SHOWN);
    if more > 0 {
        page.push_str(&line("", &format!("and {more} more"), INDENT));
    }
    match status.retries {
        0 => {}
        1 => page.push_str(&line("retries", "1 since the start", INDENT)),
        n => page.push_str(&line("retries", &format!("{n} since the start"), INDENT)),
    }
}

fn watch(status: &FolderStatus) -> String {
    let mut text = status.watch.clone();
    if let Some(used) = status.watches_used {
        let _ = write!(text, "; {used} watches");
        if let Some(allowed) = status.watches_allowed {
            let _ = write!(text, " of {allowed} allowed");
        }
    }
    text
}

/// Adds when the bucket was last held against what is known of it.
fn proofs(status: &FolderStatus, page: &mut String) {
    if let Some(at) = &status.last_audit {
        page.push_str(&line("last audit", at, INDENT));
    }
    if let Some(last) = &status.last_verify {
        let how = if last.ok {
            "everything is there"
        } else {
            "not everything was right"
        };
        let text = format!("{}, {how}", last.at);
        page.push_str(&line("verified", &text, INDENT));
    }
}

fn lease(status: &FolderStatus) -> Option<String> {
    let until = status.lease_until.as_ref();
    let until = until.map_or(String::new(), |until| format!(", until {until}"));
    match (&status.lease, &status.lease_holder) {
        (Some(words), _) => Some(words.clone()),
        (None, Some(holder)) => Some(format!("{holder}{until}")),
        (None, None) => None,
    }
}

fn failed(view: &View, page: &mut String) {
    let count = view.status.failed;
    if count == 0 {
        page.push_str(&line("failed", "none", INDENT));
        return;
    }
    let named = view.failing.len() as u64;
    let all = match view.status.parked {
        0 => files(count),
        parked => format!("{}, {parked} left alone", files(count)),
    };
    let text = match named {
        0 => all,
        _ if named < count => format!("{all}; the first {named}:"),
        _ => format!("{all}:"),
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
    use crate::report::status_file::{TriedStatus, UpStatus};

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
            unencrypted: None,
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
    fn a_busy_folder_says_how_fast_it_goes_and_what_is_held_back_within_80_columns() {
        let mut view = view();
        let status = &mut view.status;
        status.level = false;
        (status.lag_seconds, status.max_lag_seconds) = (192, 900);
        status.paused_since = Some("2025-11-24T16:05:00Z".to_owned());
        (status.queued_files, status.queued_bytes) = (3, 96 << 20);
        (status.seconds_left, status.rate_bytes_per_second) = (Some(42), 2 << 20);
        status.going_up = (0..7)
            .map(|number| UpStatus {
                path: format!("film {number}.mkv"),
                path_base64: None,
                bytes_done: 8 << 20,
                bytes_all: 40 << 20,
                parts_done: Some(1),
                parts_all: Some(5),
            })
            .collect();
        (status.retries, status.failed, status.parked) = (4, 2, 1);
        (status.held, status.deletes) = (9, 2);
        let brake = "deletes: 9 held, more than the delete brake allows";
        status.brake = Some(brake.to_owned());
        (status.watches_used, status.watches_allowed) = (Some(120), Some(65_536));
        status.last_audit = Some("2025-11-23T16:05:00Z".to_owned());
        status.last_verify = Some(TriedStatus {
            at: "2025-11-22T16:05:00Z".to_owned(),
            ok: false,
        });
        status.lease_holder = Some("this agent".to_owned());
        status.lease_until = Some("2025-11-24T16:11:00Z".to_owned());
        let page = page(&state(true, view));
        for part in [
            "photos  BEHIND 3m 12s of 15m allowed, PAUSED since 2025-11-24T16:05:00Z\n",
            "  queue      3 files, 96.0 MiB, 42s left\n",
            "  rate       2.0 MiB/s\n  going up   film 0.mkv, 8.0 MiB of 40.0 MiB, 1 of 5 parts\n",
            "             and 2 more\n  retries    4 since the start\n  failed     2 files, 1 left alone\n",
            "  brake      deletes: 9 held, more than the delete brake allows\n",
            "  deletes    the objects of 2 files are to go\n",
            "  watch      native; 120 watches of 65536 allowed\n",
            "  last audit 2025-11-23T16:05:00Z\n  verified   2025-11-22T16:05:00Z, not everything was right\n",
            "  lease      this agent, until 2025-11-24T16:11:00Z\n",
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
        cost.month.usage.sent_bytes = 3 << 20;
        state.cost = Some(cost.clone());
        let shown = page(&state);
        let part = "\nrequests cost 0.0000 USD today, 0.2500 USD this month (50000 writes, 0 reads,\n3.0 MiB up, 0 B back), 1.50 USD at this pace: within the budget of 2.00 USD\n";
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
