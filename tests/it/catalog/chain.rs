//! What a reader makes of a chain: whole, cut, flipped, of two agents.

use tidewatch::catalog::{Error, Kind, Trouble};

use super::{SECOND, Scribe, T, aside, drill, folder, folder_gone, gone, key, names, path, put};

/// Ten links: files a to e, a snapshot at 5, changes behind it.
fn ten() -> Scribe {
    let mut scribe = Scribe::new();
    scribe.delta(10, &[put("a", "a1", 1), put("b", "b1", 2)]);
    scribe.delta(20, &[put("c", "c1", 11)]);
    scribe.delta(30, &[aside("a", "a1", 21), put("a", "a2", 22)]);
    scribe.delta(40, &[gone("b", "b1", 31)]);
    scribe.snapshot(50, &[put("a", "a2", 22), put("c", "c1", 11)]);
    scribe.delta(60, &[put("d", "d1", 51)]);
    scribe.delta(70, &[put("a", "a3", 61)]);
    let began = 8;
    let part = |more| Kind::Snapshot { began, more };
    scribe.link(part(true), 80, &[put("a", "a3", 61)]);
    scribe.link(part(false), 81, &[put("c", "c1", 11), put("d", "d1", 51)]);
    scribe.delta(90, &[gone("c", "c1", 82), put("e", "e1", 83)]);
    scribe
}

#[tokio::test]
async fn the_latest_tree_is_read_from_the_last_snapshot_on() {
    let scribe = ten();
    let reading = scribe.chain().await.latest().await.unwrap();
    assert_eq!(names(&reading.tree), ["a", "d", "e"]);
    assert!(reading.is_latest);
    assert_eq!((reading.number, reading.time_ns), (10, T + 90 * SECOND));
    assert_eq!(reading.troubles, []);
    assert_eq!(
        Some(&reading.tree[&path("a")]),
        put("a", "a3", 61).known().as_ref()
    );
    // The last link, and those from the snapshot on.
    assert_eq!(
        scribe.bucket.counts().catalog,
        1 + 4,
        "one listing, four links"
    );
}

#[tokio::test]
async fn folders_are_read_as_they_were_and_drills_say_nothing_of_the_tree() {
    let mut scribe = Scribe::new();
    let a = put("a/x", "x", 1);
    scribe.delta(
        10,
        &[a.clone(), folder("a", 0o755, 2), folder("b", 0o755, 3)],
    );
    scribe.delta(20, &[folder("b", 0o700, 11), drill(12)]);
    scribe.delta(30, &[folder_gone("b", 21), folder("c", 0o755, 22)]);
    scribe.snapshot(40, &[a, folder("a", 0o755, 2), folder("c", 0o755, 22)]);
    scribe.delta(
        50,
        &[folder_gone("a", 41), folder_gone("never", 42), drill(43)],
    );
    let chain = scribe.chain().await;
    for (seconds, expected) in [
        (2, "a 755"),
        (3, "a 755 b 755"),
        (12, "a 755 b 700"),
        (21, "a 755"),
        (45, "c 755"),
        (1000, "c 755"),
    ] {
        let past = chain.at(T + seconds * SECOND).await.unwrap();
        let folders = past.then.folders.iter();
        let folders = folders.map(|(path, stamp)| format!("{path} {:o}", stamp.mode));
        let folders: Vec<String> = folders.collect();
        assert_eq!(folders.join(" "), expected, "{seconds}");
        assert_eq!(names(&past.then.tree), ["a/x"], "{seconds}");
    }
    let history = chain.history(|_| true).await.unwrap();
    assert_eq!(history.troubles, []);
    let files: Vec<_> = history.versions.keys().map(ToString::to_string).collect();
    assert_eq!(files, ["a/x"], "a history is of files");
}

#[tokio::test]
async fn every_former_moment_is_read_as_it_was() {
    let scribe = ten();
    let chain = scribe.chain().await;
    for (seconds, expected) in [
        (1, "a"),
        (2, "a b"),
        (15, "a b c"),
        (30, "a b c"),
        (31, "a c"),
        (55, "a c d"),
        (81, "a c d"),
        (82, "a d"),
        (1000, "a d e"),
    ] {
        let past = chain.at(T + seconds * SECOND).await.unwrap();
        assert_eq!(names(&past.then.tree).join(" "), expected, "{seconds}");
        assert_eq!(names(&past.now().tree), ["a", "d", "e"]);
        assert!(past.then.is_latest && past.now().is_latest);
        let a = if seconds < 22 {
            "a1"
        } else if seconds < 61 {
            "a2"
        } else {
            "a3"
        };
        let known = &past.then.tree[&path("a")];
        assert_eq!(known.etag, format!("etag of {a}"));
    }
    // Where the object of a moment has gone since.
    let past = chain.at(T + 15 * SECOND).await.unwrap();
    let of_a = &past.asides[&path("a")];
    assert_eq!(of_a, &[aside("a", "a1", 21)]);
    let early = chain.at(T).await.expect_err("nothing was known");
    assert!(matches!(early, Error::TooEarly { first_ns } if first_ns == T + SECOND));
    assert_eq!(
        early.to_string(),
        "the catalog begins at 2025-11-24T16:00:01.000Z, and knows nothing of before"
    );
}

#[tokio::test]
async fn a_path_has_its_versions_in_the_order_of_time() {
    let mut scribe = ten();
    // What was logged before the snapshot, and written behind it.
    scribe.delta(100, &[put("c", "c0", 5), put("c", "c2", 95)]);
    let chain = scribe.chain().await;
    let history = chain
        .history(|record| record.path.as_bytes() != b"b")
        .await
        .unwrap();
    let told = |name: &str| {
        let records = &history.versions[&path(name)];
        let word = |record: &tidewatch::catalog::Record| {
            let seconds = (record.time_ns - T) / SECOND;
            format!("{:?} {}", record.op, seconds)
        };
        records.iter().map(word).collect::<Vec<_>>().join(", ")
    };
    assert_eq!(told("a"), "Put 1, Aside 21, Put 22, Put 61");
    assert_eq!(told("c"), "Put 5, Put 11, Gone 82, Put 95");
    assert!(!history.versions.contains_key(&path("b")));
    assert_eq!(history.troubles, []);
}

#[tokio::test]
async fn a_path_that_went_before_anything_was_told_of_it_has_gone_all_the_same() {
    let mut scribe = Scribe::new();
    scribe.snapshot(10, &[put("b", "b1", 1)]);
    scribe.delta(20, &[gone("a", "a1", 5)]);
    let history = scribe.chain().await.history(|_| true).await.unwrap();
    assert_eq!(history.versions[&path("a")], [gone("a", "a1", 5)]);
}

#[tokio::test]
async fn what_a_lost_link_behind_a_snapshot_held_is_missing_from_moments_before_it() {
    // As another agent's chain is gone on with: everything first, then what had been waiting.
    let mut scribe = Scribe::new();
    scribe.delta(10, &[put("a", "a1", 5)]);
    scribe.snapshot(50, &[put("a", "a2", 30), put("b", "b1", 40)]);
    scribe.delta(60, &[put("a", "a2", 30), put("b", "b1", 40)]);
    scribe.delta(70, &[put("c", "c1", 65)]);
    scribe.bucket.uproot(&key(3));
    let chain = scribe.chain().await;
    let of = async |seconds: i64| chain.at(T + seconds * SECOND).await.unwrap().then;
    assert!(of(8).await.is_latest);
    assert!(!of(35).await.is_latest, "link 3 said what came at 30 s");
    let then = of(50).await;
    assert!(then.is_latest, "the snapshot says everything");
    assert_eq!(names(&then.tree), ["a", "b"]);
    assert!(!of(55).await.is_latest);
}

#[tokio::test]
async fn a_flipped_byte_is_named_and_what_comes_after_the_next_snapshot_is_good() {
    for number in 1..=10 {
        let scribe = ten();
        let link = key(number);
        let mut bytes = scribe.bucket.catalog()[&link].bytes.to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        scribe.bucket.plant(&link, &bytes);
        let history = scribe.chain().await.history(|_| true).await.unwrap();
        let [trouble] = &history.troubles[..] else {
            panic!("{number}: {:?}", history.troubles)
        };
        let is_it = match trouble {
            Trouble::Altered(at) | Trouble::Unreadable(at, _) => *at == number,
            _ => false,
        };
        assert!(is_it && trouble.is_damage(), "{number}: {trouble}");
        let reading = scribe.chain().await.latest().await.unwrap();
        let (expected, is_latest) = match number {
            // Before the last snapshot nothing of it matters.
            1..=7 => ("a d e", true),
            // The last snapshot is not whole: the one before, and what is behind it up to the break.
            _ => ("a c d", false),
        };
        assert_eq!(names(&reading.tree).join(" "), expected, "{number}");
        assert_eq!(reading.is_latest, is_latest, "{number}");
        assert_eq!(reading.troubles.is_empty(), is_latest, "{number}");
    }
}

#[tokio::test]
async fn a_link_that_was_replaced_by_a_well_formed_one_is_named() {
    let mut other = Scribe::new();
    for number in 1..=5 {
        other.delta(number * 10, &[put("evil", "x", number)]);
    }
    let scribe = ten();
    let forged = other.bucket.catalog()[&key(4)].bytes.to_vec();
    scribe.bucket.plant(&key(4), &forged);
    let history = scribe.chain().await.history(|_| true).await.unwrap();
    assert_eq!(history.troubles, [Trouble::Altered(3), Trouble::Altered(4)]);
    assert_eq!(
        history.troubles[1].to_string(),
        "link 4 does not hash to what link 5 says"
    );
    assert!(!history.versions.contains_key(&path("evil")));
}

#[tokio::test]
async fn a_removed_link_is_named_and_the_tree_before_it_is_known() {
    let scribe = ten();
    for number in [2, 3, 7] {
        scribe.bucket.uproot(&key(number));
    }
    let chain = scribe.chain().await;
    let reading = chain.latest().await.unwrap();
    assert!(reading.is_latest, "the last snapshot is behind the gap");
    let history = chain.history(|_| true).await.unwrap();
    assert_eq!(
        history.troubles,
        [Trouble::Missing(2, 3), Trouble::Missing(7, 7)]
    );
    assert_eq!(history.troubles[0].to_string(), "links 2 to 3 are missing");
    assert_eq!(history.troubles[1].to_string(), "link 7 is missing");
    // At 75 s the snapshot of 50 s and the link of 60 s are known, and no more.
    let past = chain.at(T + 75 * SECOND).await.unwrap();
    assert_eq!(names(&past.then.tree), ["a", "c", "d"]);
    assert_eq!(past.then.number, 6);
    assert!(!past.then.is_latest && past.now().is_latest);
    // Of before the gap everything is known; a gap far behind does no harm.
    let past = chain.at(T + 5 * SECOND).await.unwrap();
    assert!(past.then.is_latest);
    let past = chain.at(T + 65 * SECOND).await.unwrap();
    assert!(!past.then.is_latest, "link 7 may have held records of then");

    // Without any whole tree there is none to give.
    for number in [1, 5, 8] {
        scribe.bucket.uproot(&key(number));
    }
    let error = scribe.chain().await.latest().await.expect_err("no tree");
    assert_eq!(
        error.to_string(),
        "the catalog has no whole tree; links 1 to 3 are missing; link 5 is missing; links 7 to 8 are missing"
    );
    let nothing = Scribe::new().chain().await;
    assert!(nothing.is_empty());
    let error = nothing.latest().await.expect_err("nothing");
    assert_eq!(
        error.to_string(),
        "there is no catalog under `p/.tidewatch/catalog/`"
    );
}

#[tokio::test]
async fn a_second_agent_is_named_and_its_snapshot_is_the_tree() {
    let mut scribe = ten();
    scribe.agent = "b".repeat(32);
    scribe.snapshot(100, &[put("z", "z1", 99)]);
    scribe.delta(110, &[put("y", "y1", 105)]);
    let chain = scribe.chain().await;
    let reading = chain.latest().await.unwrap();
    assert_eq!(
        (names(&reading.tree), reading.is_latest),
        (vec!["y".into(), "z".into()], true)
    );
    let history = chain.history(|_| true).await.unwrap();
    let [trouble] = &history.troubles[..] else {
        panic!("{:?}", history.troubles)
    };
    assert!(!trouble.is_damage());
    assert_eq!(
        trouble.to_string(),
        format!(
            "link 11 is of another agent: {} after {}",
            "b".repeat(32),
            "a".repeat(32)
        )
    );
}

#[tokio::test]
async fn a_snapshot_that_was_not_finished_and_a_newer_format_and_strays_are_told_for_what_they_are()
{
    let mut scribe = ten();
    scribe.link(
        Kind::Snapshot {
            began: 11,
            more: true,
        },
        100,
        &[put("a", "a3", 61)],
    );
    scribe.delta(110, &[put("f", "f1", 105)]);
    scribe
        .bucket
        .plant("p/.tidewatch/catalog/readme.txt", b"hello");
    let reading = scribe.chain().await.latest().await.unwrap();
    assert_eq!(names(&reading.tree), ["a", "d", "e", "f"]);
    let [stray] = &reading.troubles[..] else {
        panic!("{:?}", reading.troubles)
    };
    assert_eq!(
        stray.to_string(),
        "`p/.tidewatch/catalog/readme.txt` is no link"
    );
    assert!(reading.is_latest && !stray.is_damage());

    let lines = zstd::decode_all(&scribe.bucket.catalog()[&key(12)].bytes[..]).unwrap();
    let lines = String::from_utf8(lines).unwrap();
    let newer = lines.replace("\"format\":1", "\"format\":7");
    let newer = zstd::encode_all(newer.as_bytes(), 1).unwrap();
    scribe.bucket.plant(&key(12), &newer);
    let reading = scribe.chain().await.latest().await.unwrap();
    assert!(!reading.is_latest);
    assert_eq!(names(&reading.tree), ["a", "d", "e"]);
    assert_eq!(reading.troubles[0], Trouble::Newer(12, 7));
    assert_eq!(
        reading.troubles[0].to_string(),
        "link 12 has format 7: a newer version of tidewatch wrote it, and reads it"
    );
    assert_eq!(reading.troubles.get(1), Some(stray));
}

#[tokio::test]
async fn a_link_that_is_too_long_or_empty_is_not_read() {
    let scribe = ten();
    scribe.bucket.plant(&key(3), &vec![0; (32 << 20) + 1]);
    scribe.bucket.plant(&key(4), b"");
    let history = scribe.chain().await.history(|_| true).await.unwrap();
    let told: Vec<String> = history.troubles.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "link 3 cannot be read: it has 33554433 bytes, and a link at most 33554432",
            "link 4 cannot be read: it is empty"
        ]
    );
}
