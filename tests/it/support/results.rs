//! The results file: a table of figures that the runs themselves write, so that no figure in it was typed.
//!
//! `TIDEWATCH_RESULTS=tests/RESULTS.md cargo test ...` lets a run note what it has found. A row is known by its section and its
//! name; noted again, it is replaced. Without the variable nothing is written.
#![allow(
    clippy::unwrap_used,
    reason = "clippy knows only the functions that are marked as tests"
)]
#![allow(
    dead_code,
    reason = "the tests' vocabulary; without the demo's endpoint nobody measures"
)]

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;
use std::process::Command;

use tidewatch::base::clock::{Clock, rfc3339};

/// What a new file begins with.
const OPENING: &str = "# Results\n\nWritten by the runs themselves: each row names the commit, the day and the command that repeats it.\n";

/// What each section begins with.
const HEAD: &str = "| what | figure | commit | date | command |\n|---|---|---|---|---|\n";

/// Notes a figure under `section`, in the row of the name `row`; does nothing unless `$TIDEWATCH_RESULTS` names a file.
///
/// The file is found from the repository's own folder. Runs side by side wait for each other.
pub fn note(section: &str, row: &str, figure: &str) {
    let Some(file) = std::env::var_os("TIDEWATCH_RESULTS").filter(|file| !file.is_empty()) else {
        return;
    };
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let cells = [row, figure, &commit(), &day(), &command()].map(plain);
    write(&file, section, &cells);
}

/// Puts a row into a file, under a lock on it.
fn write(file: &Path, section: &str, cells: &[String; 5]) {
    let mut options = File::options();
    let mut file = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(file)
        .unwrap();
    file.lock().unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    let mut text = with_row(&text, section, cells);
    if let Some(figure) = wrongful(&text) {
        let [_, _, commit, day, command] = cells.clone();
        let total = [ALL_OF_THEM.to_owned(), figure, commit, day, command];
        text = with_row(&text, "Wrongful deletes", &total);
    }
    file.rewind().unwrap();
    file.set_len(0).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

/// Where the wrongful deletes of all runs are stated.
const ALL_OF_THEM: &str = "in all of the above";

/// Adds up what the rows say of wrongful deletes, which were none or the runs would have failed; `None` if none says
/// anything.
fn wrongful(text: &str) -> Option<String> {
    let (mut removals, mut judged, mut rows) = (0, 0, 0);
    for line in text.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = line.split(" | ").collect();
        let (Some(name), Some(figure)) = (cells.first(), cells.get(1)) else {
            continue;
        };
        let number = |words: &str| words.rsplit(' ').next()?.parse::<u64>().ok();
        if name.contains("wrongful deletes in") {
            let words = figure.strip_prefix("0 of ")?.strip_suffix(" removals")?;
            removals += number(words)?;
            rows += 1;
        } else if let Some((words, _)) = figure.split_once(" deletes judged") {
            judged += number(words)?;
            rows += 1;
        }
    }
    (rows > 0).then(|| {
        format!(
            "0 of {removals} removals by the real program and of {judged} deletes in the simulator"
        )
    })
}

/// Returns `text` with this row in this section: in the place of the row of that name, else behind the section's last.
fn with_row(text: &str, section: &str, cells: &[String; 5]) -> String {
    let row = format!("| {} |\n", cells.join(" | "));
    let mut text = if text.is_empty() {
        OPENING.to_owned()
    } else {
        text.to_owned()
    };
    let title = format!("\n## {section}\n\n");
    let Some(begin) = text.find(&title) else {
        return text + &title + HEAD + &row;
    };
    let begin = begin + title.len();
    let len = text[begin..].find("\n\n");
    let end = len.map_or(text.len(), |len| begin + len + 1);
    let name = format!("| {} |", cells[0]);
    let mut at = begin;
    for line in text[begin..end].split_inclusive('\n') {
        if line.starts_with(&name) {
            let old = at..at + line.len();
            text.replace_range(old, &row);
            return text;
        }
        at += line.len();
    }
    text.insert_str(end, &row);
    text
}

/// Returns `cell` as one cell of a table.
fn plain(cell: &str) -> String {
    cell.replace('|', "\\|").replace('\n', " ")
}

/// Returns the commit that was built: `$TIDEWATCH_COMMIT`, where a script that builds has said it; else the newest, with `+` behind it where files had been changed since.
fn commit() -> String {
    if let Ok(commit) = std::env::var("TIDEWATCH_COMMIT") {
        return commit;
    }
    let git = |args: &[&str]| {
        let mut command = Command::new("git");
        let output = command
            .args(args)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output();
        let text = output.map_or_else(|_| Vec::new(), |output| output.stdout);
        String::from_utf8_lossy(&text).trim().to_owned()
    };
    let commit = git(&["rev-parse", "--short", "HEAD"]);
    let changed = git(&["status", "--porcelain", "--", ".", ":!tests/RESULTS.md"]);
    match (commit.is_empty(), changed.is_empty()) {
        (true, _) => "unknown".to_owned(),
        (false, true) => commit,
        (false, false) => commit + "+",
    }
}

/// Returns the day, UTC.
fn day() -> String {
    rfc3339(Clock::Real.now().wall_ns)[..10].to_owned()
}

/// Returns the command that repeats this run: `$TIDEWATCH_COMMAND`, where a script says its own; else the counts from the
/// environment, and the filters of the tests.
fn command() -> String {
    if let Ok(command) = std::env::var("TIDEWATCH_COMMAND") {
        return format!("`{command}`");
    }
    let mut counts: Vec<String> = std::env::vars()
        .filter(|(name, _)| name.starts_with("TIDEWATCH_"))
        .filter(|(name, _)| name != "TIDEWATCH_RESULTS" && name != "TIDEWATCH_COMMIT")
        .map(|(name, value)| format!("{name}={value} "))
        .collect();
    counts.sort();
    let features = if cfg!(feature = "failpoints") {
        "--features failpoints "
    } else {
        ""
    };
    let release = if cfg!(debug_assertions) {
        ""
    } else {
        "--release "
    };
    let args: Vec<String> = std::env::args().skip(1).collect();
    let line = format!(
        "`{}cargo test --locked {release}{features}--test it -- {}",
        counts.concat(),
        args.join(" ")
    );
    line.trim_end_matches([' ', '-']).to_owned() + "`"
}

/// What a script has measured comes into the file this way: `TIDEWATCH_NOTE='section;row;figure'`.
#[test]
fn a_figure_that_a_script_has_found_is_noted() {
    let said = std::env::var("TIDEWATCH_NOTE");
    let said = said.unwrap_or_else(|_| "section;row;figure".to_owned());
    let mut words = said.splitn(3, ';');
    let mut word = || words.next().filter(|word| !word.is_empty());
    let (section, row, figure) = (word(), word(), word());
    let figure = figure.expect("TIDEWATCH_NOTE='section;row;figure'");
    if std::env::var_os("TIDEWATCH_NOTE").is_some() {
        note(section.unwrap_or_default(), row.unwrap_or_default(), figure);
    }
}

#[test]
fn wrongful_deletes_are_added_up_by_themselves() {
    let row = |name: &str, figure: &str| format!("| {name} | {figure} | a | b | c |\n");
    let text = row("wrongful deletes in the kills", "0 of 30 removals")
        + &row("kills", "12 kills")
        + &row("wrongful deletes in the soak", "0 of 4 removals")
        + &row(
            "seeds 1 to 9",
            "9 seeds: 3 changes of the tree, 17 deletes judged, 0 clock jumps",
        );
    let said = "0 of 34 removals by the real program and of 17 deletes in the simulator";
    assert_eq!(wrongful(&text).as_deref(), Some(said));
    assert_eq!(wrongful(&row("kills", "12 kills")), None);
}

#[test]
fn a_row_is_noted_once_in_its_section_and_replaced_when_noted_again() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("RESULTS.md");
    let cells = |row: &str, figure: &str| [row, figure, "abc", "2026-01-01", "`x`"].map(plain);
    for (section, row, figure) in [
        ("Crash", "kills", "12"),
        ("Power", "images", "60"),
        ("Crash", "kills by|name", "0"),
        ("Crash", "kills", "3,000"),
        ("Power", "torn", "1"),
    ] {
        write(&file, section, &cells(row, figure));
    }
    let row = |row: &str, figure: &str| format!("| {row} | {figure} | abc | 2026-01-01 | `x` |\n");
    let crash = row("kills", "3,000") + &row("kills by\\|name", "0");
    let power = row("images", "60") + &row("torn", "1");
    assert_eq!(
        std::fs::read_to_string(&file).unwrap(),
        format!("{OPENING}\n## Crash\n\n{HEAD}{crash}\n## Power\n\n{HEAD}{power}")
    );
}

#[test]
fn rows_that_are_noted_at_once_are_all_there() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("RESULTS.md");
    std::thread::scope(|scope| {
        for n in 0..8 {
            let file = &file;
            scope.spawn(move || {
                let cells = [&format!("row {n}"), "1", "a", "b", "c"].map(plain);
                write(file, &format!("section {}", n % 2), &cells);
            });
        }
    });
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(text.matches("| row ").count(), 8, "{text}");
    assert_eq!(text.matches("## section").count(), 2, "{text}");
}

#[test]
fn a_run_can_name_its_commit_its_day_and_its_command() {
    assert!(day().len() == 10 && day().starts_with("20"));
    assert!(!commit().is_empty());
    assert!(command().contains("cargo test --locked"), "{}", command());
}
