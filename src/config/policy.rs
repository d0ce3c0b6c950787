//! The keys of a folder that say what it wants done: deletes, brakes, history, links, watching, sizes and ages.

use std::time::Duration;

use toml::de::{DeTable, DeValue};

use crate::base::policy::{Brake, Guarding, History, Symlinks, WatchMode};
use crate::config::read::{Reader, Section, close, lookup, wrong};
use crate::config::{Folder, values};

/// What a brake's table may hold.
const DELETE_BRAKE: &[&str] = &["files", "share", "window"];

/// A share of all files says nothing about overwrites: a job that touches every file is as usual as one that touches few.
const OVERWRITE_BRAKE: &[&str] = &["files", "window"];

/// The shortest window of a brake: what is counted in less is not a number of people's mistakes.
const MIN_WINDOW: Duration = Duration::from_secs(1);

/// The shortest time between two drills: each costs requests and traffic.
const LEAST_DRILL: Duration = Duration::from_secs(3600);

/// The shortest time between two audits: each lists the whole bucket.
const LEAST_AUDIT: Duration = Duration::from_secs(3600);

/// Reads the keys into `folder`; one that is not there, or wrong, leaves it as it is.
pub fn read(reader: &mut Reader<'_>, table: &Section<'_, '_>, folder: &mut Folder) {
    set(
        &mut folder.on_delete,
        table.parsed(reader, "on_delete", values::on_delete),
    );
    let place = &mut folder.delete_brake;
    brake(reader, table, "delete_brake", DELETE_BRAKE, place);
    let place = &mut folder.overwrite_brake;
    brake(reader, table, "overwrite_brake", OVERWRITE_BRAKE, place);
    let choices = [("off", History::Off), ("trash", History::Trash)];
    let history = |text: &str| values::choice(&choices, text);
    set(
        &mut folder.history,
        table.parsed(reader, "history", history),
    );
    let choices = [("off", Guarding::Off), ("strict", Guarding::Strict)];
    let guard = |text: &str| values::choice(&choices, text);
    set(&mut folder.guard, table.parsed(reader, "guard", guard));
    set(
        &mut folder.trash_keep,
        table.parsed(reader, "trash_keep", values::duration),
    );
    let choices = [
        ("skip", Symlinks::Skip),
        ("follow", Symlinks::Follow),
        ("record", Symlinks::Record),
    ];
    let symlinks = |text: &str| values::choice(&choices, text);
    set(
        &mut folder.symlinks,
        table.parsed(reader, "symlinks", symlinks),
    );
    let choices = [
        ("auto", WatchMode::Auto),
        ("native", WatchMode::Native),
        ("poll", WatchMode::Poll),
    ];
    let watch = |text: &str| values::choice(&choices, text);
    set(&mut folder.watch, table.parsed(reader, "watch", watch));
    set(
        &mut folder.exclude_caches,
        table.flag(reader, "exclude_caches"),
    );
    folder.drill = table.parsed(reader, "drill", |text| {
        values::duration_from(LEAST_DRILL, text)
    });
    let audit = |text: &str| match text {
        "off" => Ok(None),
        text => values::duration_from(LEAST_AUDIT, text).map(Some),
    };
    set(&mut folder.audit, table.parsed(reader, "audit", audit));
    limits(reader, table, folder);
}

/// Reads which files are too long, short, young or old; pairs that leave nothing are wrong.
fn limits(reader: &mut Reader<'_>, table: &Section<'_, '_>, folder: &mut Folder) {
    folder.max_size = table.parsed(reader, "max_size", values::length);
    folder.min_size = table.parsed(reader, "min_size", values::length);
    folder.min_age = table.parsed(reader, "min_age", values::duration);
    folder.max_age = table.parsed(reader, "max_age", values::duration);
    if let (Some(max), Some(min)) = (folder.max_size, folder.min_size)
        && max < min
    {
        let why = "`max_size`: expected at least as much as `min_size`";
        reader.note(table.place_of("max_size"), why);
    }
    if let (Some(max), Some(min)) = (folder.max_age, folder.min_age)
        && max <= min
    {
        let why = "`max_age`: expected longer than `min_age`";
        reader.note(table.place_of("max_age"), why);
    }
}

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

/// Reads `"off"` or a table of limits into `place`; it stays as it is if there is none, or a wrong one.
fn brake(
    reader: &mut Reader<'_>,
    table: &Section<'_, '_>,
    key: &str,
    known: &[&str],
    place: &mut Option<Brake>,
) {
    let Some(value) = table.value(key) else {
        return;
    };
    let at = value.span().start;
    let expected = if known.contains(&"share") {
        "\"off\" or a table such as { files = 1000, share = \"20%\", window = \"10m\" }"
    } else {
        "\"off\" or a table such as { files = 500, window = \"10m\" }"
    };
    match value.get_ref() {
        DeValue::String(text) if text.is_empty() => {}
        DeValue::String(text) if text == "off" => *place = None,
        DeValue::Table(limits) => {
            for (name, _) in limits {
                let name_at = name.span().start;
                let name: &str = name.get_ref();
                if !known.contains(&name) {
                    let remedy = match close(name, known.iter().copied()) {
                        Some(near) => format!("did you mean `{near}`?"),
                        None => format!("there are `{}`", known.join("`, `")),
                    };
                    let name = name.escape_debug();
                    reader.note(name_at, format!("`{key}`: unknown key `{name}`; {remedy}"));
                }
            }
            *place = limits_of(reader, key, limits, at).or(*place);
        }
        other => reader.note(at, wrong(key, expected, other)),
    }
}

/// Reads a brake's table. `files` has to be there: it is the limit, the others only shape it.
fn limits_of(reader: &mut Reader<'_>, key: &str, limits: &DeTable<'_>, at: usize) -> Option<Brake> {
    let mut text = |name: &str| {
        let value = lookup(limits, name)?;
        match value.get_ref() {
            DeValue::String(text) if text.is_empty() => None,
            DeValue::String(text) => Some((value.span().start, text.to_string())),
            other => {
                let why = wrong(&format!("{key}.{name}"), "a text in quotes", other);
                reader.note(value.span().start, why);
                None
            }
        }
    };
    let (share, window) = (text("share"), text("window"));
    let mut note = |name: &str, at: usize, why: String| {
        reader.note(at, format!("`{key}.{name}`: {why}"));
    };
    let share_percent = share.and_then(|(at, text)| {
        let percent = values::percent(&text);
        percent.map_err(|why| note("share", at, why)).ok()
    });
    let window = window.and_then(|(at, text)| {
        let window = values::duration_from(MIN_WINDOW, &text);
        window.map_err(|why| note("window", at, why)).ok()
    });
    let Some(files) = lookup(limits, "files") else {
        reader.note(at, format!("`{key}`: `files` is missing"));
        return None;
    };
    let number = match files.get_ref() {
        DeValue::Integer(number) => u64::from_str_radix(number.as_str(), number.radix()).ok(),
        _ => None,
    };
    let Some(number) = number.filter(|number| *number > 0) else {
        let why = wrong(
            &format!("{key}.files"),
            "a number from 1 up",
            files.get_ref(),
        );
        reader.note(files.span().start, why);
        return None;
    };
    Some(Brake {
        files: number,
        share_percent,
        window: window.unwrap_or(Brake::DELETES.window),
    })
}
