//! The metrics: their form is that of the format, and what is documented is what is served.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::page::Site;
use crate::process::{World, ended};

/// A family of metrics as it was served.
#[derive(Debug, Default)]
struct Family {
    kind: String,
    help: String,
    unit: Option<String>,
    /// Name with suffix, labels, value.
    samples: Vec<(String, BTreeMap<String, String>, f64)>,
}

/// Reads the text format; whatever does not hold to it is a panic.
fn parse(text: &str) -> BTreeMap<String, Family> {
    let text = text.strip_suffix("# EOF\n").expect("the end is marked");
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut now = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# ") {
            let mut words = rest.splitn(3, ' ');
            let (what, name, rest) = (words.next().unwrap(), words.next().unwrap(), words.next());
            let rest = rest.expect("HELP, TYPE and UNIT say something").to_owned();
            let family = families.entry(name.to_owned()).or_default();
            assert!(family.samples.is_empty(), "{line}: behind its samples");
            if what == "HELP" {
                assert!(family.help.is_empty(), "{name} is there twice");
            } else {
                assert_eq!(name, now, "{line}: families are mixed");
            }
            name.clone_into(&mut now);
            match what {
                "HELP" => family.help = rest,
                "TYPE" => family.kind = rest,
                "UNIT" => family.unit = Some(rest),
                other => panic!("{other}: no such line"),
            }
            continue;
        }
        let (series, value) = line.rsplit_once(' ').expect("a value");
        let value = value.parse().expect("a number");
        let (name, labels) = match series.split_once('{') {
            Some((name, labels)) => (name, labels.strip_suffix('}').expect("labels end")),
            None => (series, ""),
        };
        let labels = labels
            .split("\",")
            .filter(|label| !label.is_empty())
            .map(|label| {
                let (key, value) = label.split_once("=\"").expect("a label");
                (key.to_owned(), value.trim_end_matches('"').to_owned())
            });
        let family = families.get_mut(&now).expect("a family before its samples");
        let suffix = name.strip_prefix(&now).expect("a sample of its family");
        let allowed: &[&str] = match family.kind.as_str() {
            "counter" => &["_total"],
            "gauge" => &[""],
            "histogram" => &["_bucket", "_count", "_sum"],
            other => panic!("{now}: {other} is no type of ours"),
        };
        assert!(
            allowed.contains(&suffix),
            "{name}: not a name of a {}",
            family.kind
        );
        family
            .samples
            .push((name.to_owned(), labels.collect(), value));
    }
    families
}

/// Returns the name that is queried for: a counter's ends in `_total`.
fn queried(name: &str, family: &Family) -> String {
    match family.kind.as_str() {
        "counter" => format!("{name}_total"),
        _ => name.to_owned(),
    }
}

fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(path).unwrap()
}

/// Returns every name of ours in a text.
fn names_in(text: &str) -> BTreeSet<String> {
    let word = |c: char| !c.is_ascii_alphanumeric() && c != '_';
    text.split(word)
        .filter(|word| word.starts_with("tidewatch_"))
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn the_metrics_hold_to_the_format_and_are_those_that_are_documented() {
    let world = World::new().await;
    world.write("secret name.txt", "content");
    let site = Site::start(&world, "").await;
    site.until_level().await;
    let drill = ended(
        world
            .bare(["drill", "--config"])
            .arg(world.dir.path().join("config.toml"))
            .env("HOME", world.dir.path()),
    )
    .await;
    assert_eq!(drill.code, Some(0), "{}{}", drill.out, drill.err);
    let answer = site.get("/metrics", "").await;
    let families = parse(&answer.body);
    let served: BTreeSet<String> = families
        .iter()
        .map(|(name, it)| queried(name, it))
        .collect();
    for (name, family) in &families {
        assert!(name.starts_with("tidewatch_"), "{name}");
        assert!(!family.help.is_empty() && !family.kind.is_empty(), "{name}");
        if let Some(unit) = &family.unit {
            assert!(name.ends_with(&format!("_{unit}")), "{name} is in {unit}");
        }
        for (_, labels, _) in &family.samples {
            let folder = labels.get("folder").map_or("photos", String::as_str);
            assert_eq!(folder, "photos", "{name}");
        }
    }
    assert!(!answer.body.contains("secret"), "{}", answer.body);

    let value = |name: &str, labels: &[(&str, &str)]| {
        let family = families
            .values()
            .find(|it| it.samples.iter().any(|it| it.0 == name));
        let family = family.unwrap_or_else(|| panic!("{name} is not served"));
        let fits = |sample: &&(String, BTreeMap<String, String>, f64)| {
            let has =
                |(key, value): &(&str, &str)| sample.1.get(*key).is_some_and(|it| it == value);
            sample.0 == name && labels.iter().all(has)
        };
        family
            .samples
            .iter()
            .find(fits)
            .unwrap_or_else(|| panic!("{name} {labels:?}"))
            .2
    };
    let put = [("operation", "PutObject"), ("status", "200")];
    let uploaded = [("folder", "photos"), ("result", "uploaded")];
    assert!((value("tidewatch_level", &[]) - 1.0).abs() < 1e-9);
    assert!((value("tidewatch_files_total", &uploaded) - 1.0).abs() < 1e-9);
    assert!(value("tidewatch_requests_total", &put) >= 1.0);
    assert!(value("tidewatch_last_success_timestamp_seconds", &[]) > 1.6e9);
    assert!((value("tidewatch_last_drill_success", &[]) - 1.0).abs() < 1e-9);
    assert!(value("tidewatch_request_cost_total", &[]) > 0.0);
    // Each operation's classes grow up to its count.
    let duration = &families["tidewatch_request_duration_seconds"];
    let of_puts = |suffix: &str| -> Vec<f64> {
        let name = format!("tidewatch_request_duration_seconds_{suffix}");
        let samples = duration.samples.iter();
        samples
            .filter(|it| it.0 == name && it.1["operation"] == "PutObject")
            .map(|it| it.2)
            .collect()
    };
    let buckets = of_puts("bucket");
    assert_eq!(buckets.len(), 13);
    assert!(buckets.is_sorted());
    assert_eq!(buckets.last(), of_puts("count").first());
    assert!(answer.body.contains("le=\"+Inf\""), "{}", answer.body);

    are_documented(&served);
    site.stop().await;
}

/// Compares what is served with the README's table, the dashboard and the alerts.
fn are_documented(served: &BTreeSet<String>) {
    let readme = file("README.md");
    let (_, table) = readme.split_once("### Metrics").expect("a section");
    let table = table
        .split("\n## ")
        .next()
        .unwrap()
        .split("\n### ")
        .next()
        .unwrap();
    assert_eq!(&names_in(table), served, "the README's table");
    let dashboard: Value = serde_json::from_str(&file("docs/grafana.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    assert!(panels.iter().all(|panel| panel["title"].is_string()));
    let families = |names: BTreeSet<String>| -> BTreeSet<String> {
        let base = |name: String| {
            let of_histogram = ["_bucket", "_count", "_sum"].iter().find_map(|suffix| {
                let name = name.strip_suffix(suffix)?;
                served.contains(name).then(|| name.to_owned())
            });
            of_histogram.unwrap_or(name)
        };
        names.into_iter().map(base).collect()
    };
    for place in ["docs/grafana.json", "docs/alerts.yml"] {
        let named = families(names_in(&file(place)));
        assert!(named.len() > 5, "{place} names metrics");
        let unknown: Vec<&String> = named.difference(served).collect();
        assert!(
            unknown.is_empty(),
            "{place} names what is not served: {unknown:?}"
        );
    }
}

#[test]
fn what_does_not_hold_to_the_format_is_noticed() {
    let fine =
        "# HELP tidewatch_a b\n# TYPE tidewatch_a counter\ntidewatch_a_total{x=\"y\"} 1\n# EOF\n";
    assert_eq!(parse(fine)["tidewatch_a"].samples.len(), 1);
    for (from, to) in [
        ("# EOF\n", ""),
        ("_total", ""),
        ("counter", "number"),
        (" 1", " one"),
        ("# TYPE tidewatch_a counter\n", ""),
        ("tidewatch_a_total", "tidewatch_b_total"),
    ] {
        let text = fine.replace(from, to);
        let parsed = std::panic::catch_unwind(|| parse(&text));
        assert!(parsed.is_err(), "{text}");
    }
}
