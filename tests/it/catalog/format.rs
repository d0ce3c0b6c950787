//! What a link looks like, and what is refused in one.

use tidewatch::base::digest::Sha256;
use tidewatch::catalog::{self, Draft, Fault, Header, Kind, Record};

use super::{T, aside, drill, folder, folder_gone, gone, keys, put};

/// A link that the first version of the format wrote. Never edited.
const GOLDEN: &[u8] = include_bytes!("../../golden/catalog-link.jsonl.zst");
/// What is in it.
const LINES: &str = include_str!("../../golden/catalog-link.jsonl");
/// The lines of one with folders and a drill.
const FOLDERS: &str = include_str!("../../golden/catalog-folders.jsonl");

fn golden() -> (Header, Vec<Record>) {
    let header = Header {
        number: 42,
        previous: Some(Sha256::of(b"link 41")),
        agent: "0123456789abcdef0123456789abcdef".to_owned(),
        kind: Kind::Delta,
        base: 17,
        first: 1001,
        last: 1005,
        time_ns: T + 123_456_789,
    };
    let mut versioned = put("b/für \"uns\".txt", "tide", 2);
    versioned.version_id = Some("v.1/x".to_owned());
    versioned.mode = Some(0o4755);
    let mut before_1970 = put(b"c/\xff\n\x01", "", 3);
    before_1970.mtime_ns = Some(-1);
    let mut bare = aside("d", "old", 4);
    (bare.mtime_ns, bare.mode, bare.sha256) = (None, None, None);
    (bare.uid, bare.gid) = (None, None);
    let mut removed = gone("e", "ebb", 5);
    removed.key = None;
    let records = vec![put("a", "tide", 1), versioned, before_1970, bare, removed];
    (header, records)
}

/// What was added to the format before its first release: folders and drills.
fn folders() -> (Header, Vec<Record>) {
    let header = Header {
        first: 1001,
        last: 1004,
        ..golden().0
    };
    let records = vec![
        put("a", "tide", 1),
        folder(b"b/\xff", 0o2750, 2),
        folder_gone("c", 3),
        drill(4),
    ];
    (header, records)
}

fn read(bytes: &[u8]) -> Result<(Header, Vec<Record>), Fault> {
    let mut records = Vec::new();
    let header = catalog::read_link(bytes, &keys(), |record| records.push(record))?;
    Ok((header, records))
}

#[test]
fn a_link_comes_back_as_it_was_written_odd_names_and_all() {
    let (header, records) = golden();
    let mut draft = Draft::default();
    for record in &records {
        draft.push(record);
    }
    assert!(!draft.is_full());
    let (bytes, hash) = draft.finish(&header).unwrap();
    assert_eq!(hash, Sha256::of(&bytes));
    assert_eq!(read(&bytes), Ok((header.clone(), records)));
    assert_eq!(catalog::header(&bytes), Ok(header));
    let unpacked = zstd::decode_all(&bytes[..]).unwrap();
    let unpacked = String::from_utf8(unpacked).unwrap();
    let (written, lines) = (unpacked.split_once('\n'), LINES.split_once('\n'));
    assert_eq!(written.unwrap().1, lines.unwrap().1);
}

#[test]
fn folders_and_drills_come_back_as_they_were_written() {
    let (header, records) = folders();
    let mut draft = Draft::default();
    for record in &records {
        draft.push(record);
    }
    let (bytes, _) = draft.finish(&header).unwrap();
    assert_eq!(read(&bytes), Ok((header, records)));
    let unpacked = zstd::decode_all(&bytes[..]).unwrap();
    assert_eq!(String::from_utf8(unpacked).unwrap(), FOLDERS);
}

#[test]
fn the_link_of_the_first_format_is_read_for_ever() {
    assert_eq!(read(GOLDEN), Ok(golden()));
    let unpacked = zstd::decode_all(GOLDEN).unwrap();
    assert_eq!(String::from_utf8(unpacked).unwrap(), LINES);
}

#[test]
fn the_first_line_of_a_link_has_every_column_of_the_others() {
    let mut lines = FOLDERS.lines();
    let columns = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let columns = line.as_object().unwrap().keys().cloned();
        columns.collect::<std::collections::BTreeSet<_>>()
    };
    let first = columns(lines.next().unwrap());
    for line in lines {
        assert!(columns(line).is_subset(&first), "{line}");
        let of_drills = usize::from(line.contains("\"op\":\"drill\""));
        assert_eq!(columns(line).len(), 14 + of_drills);
    }
}

#[test]
fn names_of_links_are_numbers_and_nothing_else_is_a_link() {
    let key = catalog::key(&keys(), 42);
    assert_eq!(key, "p/.tidewatch/catalog/0000000042.jsonl.zst");
    assert_eq!(catalog::number(&keys(), &key), Some(42));
    for stray in [
        "p/.tidewatch/catalog/42.jsonl.zst",
        "p/.tidewatch/catalog/0000000000.jsonl.zst",
        "p/.tidewatch/catalog/+000000042.jsonl.zst",
        "p/.tidewatch/catalog/0000000042.jsonl",
        "p/.tidewatch/catalog/x/0000000042.jsonl.zst",
        "q/.tidewatch/catalog/0000000042.jsonl.zst",
    ] {
        assert_eq!(catalog::number(&keys(), stray), None, "{stray}");
    }
}

#[test]
fn what_a_fault_quotes_of_a_line_can_do_nothing_to_a_terminal() {
    let line = "{\"op\":\"\\u001b[31mput\",\"path\":\"a\"}\n";
    let Err(Fault::Broken(why)) = read(&packed(line)) else {
        panic!("it is no record")
    };
    assert!(why.starts_with("line 2: unknown variant"), "{why}");
    assert!(!why.chars().any(char::is_control), "{why:?}");
    assert!(why.contains("u{1b}[31mput"), "{why}");
}

/// Packs lines behind a header.
fn packed(lines: &str) -> Vec<u8> {
    let header = LINES.lines().next().unwrap();
    zstd::encode_all(format!("{header}\n{lines}").as_bytes(), 1).unwrap()
}

#[test]
fn what_could_lead_out_of_the_folder_or_the_prefix_is_refused_with_its_line() {
    let good = LINES.lines().nth(1).unwrap();
    assert!(read(&packed(&format!("{good}\n"))).is_ok());
    for (from, to, why) in [
        ("\"path\":\"a\"", "\"path\":\"../a\"", "the path is none"),
        ("\"path\":\"a\"", "\"path\":\"/a\"", "the path is none"),
        ("\"path\":\"a\"", "\"path\":\"\"", "the path is none"),
        (
            "\"path\":\"a\"",
            "\"path\":\"a\\u0000\"",
            "the path is none",
        ),
        (
            "\"path_base64\":null",
            "\"path_base64\":\"Li4=\"",
            "the path is none",
        ),
        (
            "\"path_base64\":null",
            "\"path_base64\":\"!\"",
            "not base64",
        ),
        ("\"path\":\"a\"", "\"path\":\"b\"", "not the path's own"),
        ("\"key\":\"p/a\"", "\"key\":\"q/a\"", "not the path's own"),
        (
            "\"key\":\"p/a\"",
            "\"key\":\"p/.tidewatch/lease.json\"",
            "not the path's own",
        ),
        (
            "\"key\":\"p/a\"",
            "\"key\":null",
            "lacks what it has to say",
        ),
        (
            "\"trash_key\":null",
            "\"trash_key\":\"p/x\"",
            "not in trash",
        ),
        ("\"mode\":\"0644\"", "\"mode\":\"100644\"", "`mode` is none"),
        ("\"size\":4", "\"size\":-4", "invalid value"),
        ("\"op\":\"put\"", "\"op\":\"aside\"", "does not say where"),
        ("\"op\":\"put\"", "\"op\":\"move\"", "unknown variant"),
        ("\"op\":\"put\"", "\"op\":\"drill\"", "the path is none"),
        ("\"path\":\"a\"", "\"path\":null", "the path is none"),
    ] {
        let bad = good.replace(from, to);
        assert_ne!(bad, good, "{from}");
        let fault = read(&packed(&format!("{good}\n{bad}\n"))).expect_err(to);
        let Fault::Broken(told) = fault else {
            panic!("{fault:?}")
        };
        assert!(
            told.starts_with("line 3: ") && told.contains(why),
            "{to}: {told}"
        );
    }
}

#[test]
fn a_folder_that_is_ours_or_says_too_little_is_refused() {
    let good = FOLDERS.lines().nth(2).unwrap();
    let gone = FOLDERS.lines().nth(3).unwrap();
    let drill = FOLDERS.lines().nth(4).unwrap();
    let path = "\"path_base64\":\"Yi//\"";
    for (line, from, to, why) in [
        (good, path, "\"path_base64\":\"Li4=\"", "the path is none"),
        (
            good,
            path,
            "\"path_base64\":\"LnRpZGV3YXRjaC94\"",
            "Tidewatch's own",
        ),
        (
            gone,
            "\"path\":\"c\"",
            "\"path\":\".tidewatch\"",
            "Tidewatch's own",
        ),
        (
            good,
            "\"mode\":\"2750\"",
            "\"mode\":null",
            "lacks what it has to say",
        ),
        (
            good,
            "\"mode\":\"2750\"",
            "\"mode\":\"40755\"",
            "`mode` is none",
        ),
        (drill, "\"path\":null", "\"path\":\"a\"", "the path is none"),
        (drill, "\"drill\":{", "\"how\":{", "does not say how"),
    ] {
        assert!(read(&packed(&format!("{line}\n"))).is_ok());
        let bad = line.replace(from, to);
        assert_ne!(bad, line, "{from}");
        let Fault::Broken(told) = read(&packed(&format!("{bad}\n"))).expect_err(to) else {
            panic!("{to}");
        };
        assert!(told.contains(why), "{to}: {told}");
    }
}

#[test]
fn bytes_that_are_no_link_are_refused_without_taking_much() {
    let broken = |bytes: &[u8]| match read(bytes).expect_err("no link") {
        Fault::Broken(why) => why,
        fault @ Fault::Newer(_) => panic!("{fault:?}"),
    };
    assert!(broken(b"").contains("does not unpack"));
    let empty = zstd::encode_all(&b""[..], 1).unwrap();
    assert!(broken(&empty).contains("no header"));
    assert!(broken(b"hello").contains("does not unpack"));
    let half = &GOLDEN[..GOLDEN.len() - 9];
    assert!(broken(half).contains("does not unpack"));
    let good = LINES.lines().nth(1).unwrap();
    assert!(broken(&packed(good)).contains("line 2: it is too long, or cut off"));
    // Lines without an end, and links without one: a gigabyte packs into some kilobytes.
    assert!(broken(&packed(&"x".repeat(1 << 20))).contains("too long"));
    let many = format!("{good}\n").repeat((80 << 20) / good.len());
    assert!(broken(&packed(&many)).contains("unpacks to more"));
    let newer = LINES.replace("\"format\":1", "\"format\":2,\"what\":\"ever\"");
    let newer = zstd::encode_all(newer.as_bytes(), 1).unwrap();
    assert_eq!(read(&newer), Err(Fault::Newer(2)));
    for at in 0..GOLDEN.len() {
        let mut flipped = GOLDEN.to_vec();
        flipped[at] ^= 1 << (at % 8);
        let same = read(&flipped).is_ok_and(|found| found == golden());
        let refused = read(&flipped).is_err();
        // One unused bit of the frame's head says nothing.
        assert!(refused || same, "byte {at}");
    }
}
