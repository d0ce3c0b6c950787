//! That each row of the table of failures has a test with its number.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The rows, by what fails.
const ROWS: [&str; 36] = [
    "no name, no connection, no route",
    "a certificate that is not trusted",
    "a reset of a reused connection before any byte",
    "a reset while sending",
    "a reset or silence after the body was sent",
    "a server that stops reading",
    "a server that never answers",
    "an answer that is cut off, or no XML",
    "500, 502, 503, 504",
    "503 SlowDown, 429",
    "200 with an error in it",
    "400 RequestTimeout",
    "400 BadDigest and its like",
    "400 EntityTooSmall, InvalidPart, InvalidPartOrder",
    "400 EntityTooLarge, InvalidArgument and their like",
    "400 ExpiredToken and its like",
    "403 RequestTimeTooSkewed",
    "403 SignatureDoesNotMatch, InvalidAccessKeyId",
    "403 AccessDenied",
    "403 QuotaExceeded, 507",
    "301, 307",
    "404 NoSuchBucket",
    "404 NoSuchUpload",
    "404 or 412 of a copy's source",
    "409",
    "412",
    "501",
    "an answer that is not about what was sent",
    "a file that changes while it is read",
    "a file that cannot be read",
    "a manifest that cannot be written",
    "a crash at any point",
    "a signal to stop",
    "two agents on one prefix",
    "a store that ignores conditions",
    "a store that loses metadata, orders oddly or changes keys",
];

fn collect(dir: &Path, found: &mut BTreeSet<usize>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, found);
            continue;
        }
        let text = fs::read_to_string(&path).unwrap_or_default();
        let names = text.split("fn f").skip(1);
        found.extend(names.filter_map(|rest| {
            let (number, _) = rest.split_once('_')?;
            number.parse::<usize>().ok().filter(|_| number.len() == 2)
        }));
    }
}

#[test]
fn every_row_of_the_table_of_failures_has_its_test() {
    let mut found = BTreeSet::new();
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    collect(&tests, &mut found);
    let missing: Vec<_> = ROWS
        .iter()
        .enumerate()
        .filter(|(at, _)| !found.contains(&(at + 1)))
        .map(|(at, what)| format!("f{:02}: {what}", at + 1))
        .collect();
    assert!(
        missing.is_empty(),
        "without a test:\n{}",
        missing.join("\n")
    );
}
