//! S5 and S21: what names and answers can do to those who read logs and status.

use serde_json::Value;
use tidewatch::base::path::{escaped, is_unruly};

use crate::process::{World, ended};
use crate::support::endpoint::Fault;
use crate::watching::table::row;

/// Names that somebody chose who means harm.
const NAMES: [&[u8]; 8] = [
    b"line\nERROR forged: everything is lost",
    b"\x1b[2J\x1b[1;1Hcleared",
    b"\x1b]0;title\x07",
    b"back\x08\x08\x08space\rreturn",
    "c1 \u{9b}31m\u{85}next".as_bytes(),
    "right to left \u{202e}gpj.exe \u{2066}x\u{2069}".as_bytes(),
    "lines \u{2028}and \u{2029}paragraphs".as_bytes(),
    b"\xff\xfe not UTF-8",
];

#[tokio::test]
async fn s05_no_name_and_no_answer_forges_a_line_or_moves_a_terminal() {
    let _row = row!();
    let world = World::new().await;
    for name in NAMES {
        world.write_bytes(name, name);
    }
    // All of them fail, with words of the store's that are no better.
    let words = "no\nWARN forged\u{1b}[31m\u{202e}";
    let error = format!(
        "<Error><Code>InvalidRequest</Code><Message>{}</Message></Error>",
        words.replace('\u{1b}', "&#27;")
    );
    world.endpoint.script(move |seen| {
        let is_file = seen.operation == "PutObject" && !seen.key.contains(".tidewatch/");
        is_file.then(|| Fault::Answer(400, error.clone()))
    });
    for form in [&[][..], &["-vv"], &["--log-format", "json"]] {
        let done = ended(
            world
                .command("sync", &["--retry-failed", "--timeout", "2s"])
                .args(form),
        )
        .await;
        assert_eq!(done.code, Some(1), "{}", done.err);
        for line in done.err.lines().chain(done.out.lines()) {
            assert!(!line.contains(is_unruly), "{form:?}: {line:?}");
            assert!(!line.starts_with("ERROR forged") && !line.starts_with("WARN forged"));
            if form.contains(&"json") && line.starts_with('{') {
                let parsed: Result<Value, _> = serde_json::from_str(line);
                assert!(parsed.is_ok(), "{line}");
            }
        }
        for name in NAMES {
            let shown = escaped(name);
            let json = shown.replace('\\', "\\\\");
            assert!(
                done.err.contains(&shown) || done.err.contains(&json),
                "{form:?}: not named: {shown}\n{}",
                done.err
            );
        }
    }
    let mut status = world.bare(["status", "--state-dir"]);
    let status = ended(status.arg(world.state())).await;
    for line in status.out.lines() {
        assert!(!line.contains(is_unruly), "{line:?}");
    }
    // What machines read brings the very bytes back.
    let said = world
        .sync(&["--json", "--retry-failed", "--timeout", "2s"])
        .await;
    let mut seen = 0;
    for line in said.out.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        let bytes = match (&event["path_base64"], &event["path"]) {
            (Value::String(base64), _) => {
                use base64::Engine as _;
                base64::prelude::BASE64_STANDARD.decode(base64).unwrap()
            }
            (_, Value::String(path)) => path.as_bytes().to_vec(),
            _ => continue,
        };
        seen += usize::from(NAMES.contains(&&bytes[..]));
    }
    assert_eq!(seen, NAMES.len(), "{}", said.out);
}

#[tokio::test]
async fn s21_a_log_at_its_usual_loudness_and_the_metrics_name_no_file_that_is_well() {
    let _row = row!();
    let world = World::new().await;
    world.write("diary of a whale/secret plan.txt", "1");
    world.write("diary of a whale/another.txt", "1");
    let first = world.sync(&[]).await;
    assert_eq!(first.code, Some(0), "{}", first.err);
    world.write("diary of a whale/secret plan.txt", "2");
    let second = world.sync(&["--log-format", "json"]).await;
    assert_eq!(second.code, Some(0), "{}", second.err);
    for said in [&first.err, &second.err] {
        for name in ["whale", "secret plan", "another.txt"] {
            assert!(!said.contains(name), "{said}");
        }
    }
    // Metrics are proven nameless with the page: `without_the_token_no_name_is_shown`. Here the list of what they say.
    let readme = include_str!("../../../README.md");
    let (_, metrics) = readme.split_once("### Metrics").expect("a section");
    let labels = metrics
        .lines()
        .take_while(|line| !line.starts_with("## "))
        .filter(|line| line.starts_with("| `tidewatch_"))
        .filter_map(|line| line.split('|').nth(2));
    let mut count = 0;
    for label in labels {
        count += 1;
        assert!(
            !label.contains("path") && !label.contains("file") && !label.contains("key"),
            "{label}"
        );
    }
    assert!(count > 10, "{count} metrics in the README");
}
