//! What is wrong between folders: two of one name, one inside another, two on one prefix.

use crate::base::path::escaped;
use crate::config::load::Draft;
use crate::config::read::Reader;

/// Notes every pair of folders that cannot be together, at the second of them.
pub fn drafts(reader: &mut Reader<'_>, drafts: &[Draft]) {
    for (number, second) in drafts.iter().enumerate() {
        for first in &drafts[..number] {
            let line = reader.line(first.at);
            names(reader, first, second, line);
            paths(reader, first, second, line);
            targets(reader, first, second, line);
        }
    }
}

fn names(reader: &mut Reader<'_>, first: &Draft, second: &Draft, line: usize) {
    let Some(name) = &second.name else { return };
    if first.name.as_ref() == Some(name) {
        let why =
            format!("the folder of line {line} is called `{name}` too; give each its own `name`");
        reader.note(second.name_at, why);
    }
}

fn paths(reader: &mut Reader<'_>, first: &Draft, second: &Draft, line: usize) {
    let (Some(a), Some(b)) = (&first.path, &second.path) else {
        return;
    };
    let how = if a == b {
        "is the folder"
    } else if b.starts_with(a) {
        "lies inside the folder"
    } else if a.starts_with(b) {
        "contains the folder"
    } else {
        return;
    };
    let shown = escaped(b.as_os_str().as_encoded_bytes());
    let why = format!("`path`: `{shown}` {how} of line {line}; folders must not overlap");
    reader.note(second.path_at, why);
}

fn targets(reader: &mut Reader<'_>, first: &Draft, second: &Draft, line: usize) {
    let (Some(a), Some(b)) = (&first.to, &second.to) else {
        return;
    };
    if first.s3().endpoint_url != second.s3().endpoint_url || !a.overlaps(b) {
        return;
    }
    let how = if a == b {
        "is where the folder of line"
    } else if b.prefix.starts_with(&a.prefix) {
        "lies inside the prefix of line"
    } else {
        "contains the prefix of line"
    };
    let rest = if a == b { " goes already" } else { "" };
    let why = format!(
        "`to`: `{}` {how} {line}{rest}; each folder needs a prefix of its own",
        b.to_string().escape_debug()
    );
    reader.note(second.to_at, why);
}
