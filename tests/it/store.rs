//! The contract of `Store`: one suite, held by the store in memory and by every real server at hand.
//!
//! What a server cannot do is written down as a limit and asserted as that, so that a server that learns it fails here.
//! Real servers are named by `TIDEWATCH_TEST_S3`, one after the other, separated by `;`:
//!
//! ```text
//! name=moto,endpoint=http://127.0.0.1:5000,access=AK,secret=SK,bucket=b,lacks=checksums+signatures;name=…
//! ```
//!
//! `tests/servers.sh` installs and starts some and sets it.
#![allow(
    clippy::print_stdout,
    reason = "what a server could not be tested for is shown"
)]

use std::sync::Arc;
use std::time::Duration;

use tidewatch::commands::features::patience;
use tidewatch::store::key::KeyMap;
use tidewatch::store::probe as ask;
use tidewatch::store::s3::{S3Store, Settings};
use tidewatch::store::{Effect, ErrorKind, Meta, Store};

use crate::store::suite::{Abilities, body, suite};
use crate::support::faulty::{Faulty, Odds};
use crate::support::mem_store::{Habits, MemStore};

mod doubles;
pub mod faults;
mod pages;
pub mod probe;
mod suite;
mod terms;
mod wire;

#[tokio::test]
async fn the_suite_holds_on_the_store_in_memory() {
    let store = MemStore::default();
    suite(Arc::new(store.clone()), "suite/", Abilities::ALL).await;
    assert_eq!(store.open_uploads(), []);
    assert!(store.counts().of("PutObject") > 1000);
}

#[tokio::test(start_paused = true)]
async fn the_suite_holds_through_a_line_that_is_only_slow() {
    let odds = Odds {
        latency: Duration::from_millis(1)..Duration::from_secs(2),
        ..Odds::default()
    };
    let line = Faulty::new(MemStore::default(), 3, odds);
    suite(Arc::new(line.clone()), "suite/", Abilities::ALL).await;
    assert_eq!((line.faults(), line.pending()), (0, 0));
}

#[tokio::test]
async fn the_suite_holds_on_a_lesser_store_in_memory() {
    let habits = Habits {
        ignores_copy_conditions: true,
        drops_metadata: true,
        refuses_copies: false,
        ..Habits::default()
    };
    let can = Abilities::without("metadata+copy_conditions");
    suite(Arc::new(MemStore::with_habits(habits)), "", can).await;
}

#[tokio::test]
async fn the_suite_holds_on_the_least_store_in_memory() {
    let habits = Habits {
        ignores_conditions: true,
        refuses_batches: true,
        lists_no_parts: true,
        lists_no_uploads: true,
        ignores_checksums: true,
        ..Habits::default()
    };
    let can = Abilities::without(
        "conditions+copy_targets+complete_absent+complete_match+delete_conditions+delete_many+list_parts+list_uploads+checksums",
    );
    suite(Arc::new(MemStore::with_habits(habits)), "", can).await;
}

#[cfg(feature = "demo")]
#[tokio::test]
async fn the_suite_holds_on_the_embedded_endpoint() {
    use crate::support::endpoint::{Endpoint, REGION};
    let endpoint = Endpoint::start().await;
    let (access, secret) = (endpoint.access_key(), endpoint.secret_key());
    let settings = Settings {
        endpoint_url: Some(endpoint.url()),
        region: Some(REGION.to_owned()),
        credentials: Some((access.to_owned(), secret.to_owned())),
        ..Settings::default()
    };
    let store = S3Store::new(&settings, endpoint.bucket()).await;
    let store = Arc::new(store.expect("a client"));
    suite(store, "suite/", Abilities::ALL).await;
    assert_eq!(endpoint.open_uploads(), []);
}

/// One entry of `TIDEWATCH_TEST_S3`.
struct Server {
    name: String,
    bucket: String,
    settings: Settings,
    can: Abilities,
}

impl Server {
    fn parse(entry: &str) -> Self {
        let field = |name: &str| {
            let mut fields = entry
                .trim()
                .split(',')
                .filter_map(|field| field.split_once('='));
            fields
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value.to_owned())
        };
        let need = |name| field(name).unwrap_or_else(|| panic!("{name}= is missing in `{entry}`"));
        Self {
            name: need("name"),
            bucket: need("bucket"),
            settings: Settings {
                endpoint_url: Some(need("endpoint")),
                region: field("region"),
                credentials: Some((need("access"), need("secret"))),
                ..Settings::default()
            },
            can: Abilities::without(&field("lacks").unwrap_or_default()),
        }
    }
}

/// Runs on nothing unless `TIDEWATCH_TEST_S3` names servers: `tests/servers.sh` does.
#[tokio::test]
async fn store_on_real_servers() {
    let servers = std::env::var("TIDEWATCH_TEST_S3").unwrap_or_default();
    let mut found = Vec::new();
    for entry in servers.split(';').filter(|entry| !entry.trim().is_empty()) {
        let server = Server::parse(entry);
        println!("{}:", server.name);
        let store = S3Store::new(&server.settings, &server.bucket)
            .await
            .expect("a client");
        let prefix = format!("suite-{}/", fastrand::u64(..));
        let store = Arc::new(store);
        suite(store.clone(), &prefix, server.can).await;
        strangers_are_told(&server).await;
        found.push((
            server.name,
            findings(&store.apart(patience()), &prefix).await,
        ));
    }
    if !found.is_empty() {
        let memory = findings(&MemStore::default(), "p/").await;
        found.insert(0, ("memory".to_owned(), memory));
        #[cfg(feature = "demo")]
        {
            use crate::support::endpoint::Endpoint;
            let endpoint = Endpoint::start().await;
            let demo = probe::endpoint::client(&endpoint).await;
            found.insert(1, ("demo".to_owned(), findings(&demo, "p/").await));
        }
        println!("{}", table(&found));
    }
}

/// What a probe finds, as names and words; leaves nothing behind.
async fn findings(store: &dyn Store, prefix: &str) -> Vec<(String, String)> {
    let keys = KeyMap::new(prefix);
    let probed = ask::probe(store, &keys, fastrand::u64(..), std::future::pending());
    let features = probed.await.expect("a probe");
    let left = store.list(&keys.reserved(""), None).await.expect("a page");
    assert_eq!(left.objects, [], "a probe leaves nothing");
    let value = serde_json::to_value(features).expect("features as JSON");
    let value = value.as_object().expect("a list of fields");
    value
        .iter()
        .map(|(name, value)| {
            let word = match value.as_bool() {
                Some(true) => "yes".to_owned(),
                Some(false) => "**no**".to_owned(),
                None => value.as_str().unwrap_or_default().to_owned(),
            };
            (name.clone(), word)
        })
        .collect()
}

/// The findings of several stores, one row a feature.
fn table(found: &[(String, Vec<(String, String)>)]) -> String {
    /// Features in the order of their worth, and what they are called.
    const ROWS: [(&str, &str); 17] = [
        ("checksum", "best checksum it takes"),
        ("verifies", "refuses a body with a wrong checksum"),
        ("put_if_absent", "put if nothing is there"),
        ("put_if_match", "put if this object is there"),
        ("complete_if", "join parts under a condition"),
        ("delete_if_match", "delete if this object is there"),
        ("copy", "copy on the server"),
        ("copy_if_match", "copy if the source is this object"),
        ("multipart", "upload by parts"),
        ("part_copy", "make a part of another object"),
        ("list_parts", "list the parts of an open upload"),
        ("list_uploads", "list open uploads"),
        ("delete_many", "delete many keys at once"),
        ("tags", "tags"),
        ("metadata", "user metadata comes back"),
        ("is_ordered", "listings in the order of bytes"),
        ("exact_keys", "listings show keys as written"),
    ];
    let names: Vec<_> = found.iter().map(|(name, _)| name.as_str()).collect();
    let mut table = format!(
        "| | {} |\n|---|{}\n",
        names.join(" | "),
        "---|".repeat(names.len())
    );
    for (field, words) in ROWS {
        let cells = found.iter().map(|(_, features)| {
            let cell = features.iter().find(|(name, _)| name == field);
            cell.map_or("?", |(_, word)| word)
        });
        let cells: Vec<_> = cells.collect();
        table.extend(["| ", words, " | ", &cells.join(" | "), " |\n"]);
    }
    table
}

#[tokio::test]
async fn the_table_of_findings_has_every_feature() {
    let found = findings(&MemStore::default(), "p/").await;
    // All but whether it was asked.
    assert_eq!(found.len(), 18);
    let table = table(&[("memory".to_owned(), found)]);
    assert!(!table.contains('?'), "{table}");
    assert_eq!(table.lines().count(), 2 + 17);
    assert!(table.contains("| tags | **no** |"), "{table}");
}

/// What goes wrong for everything at once: no such bucket, a wrong secret.
async fn strangers_are_told(server: &Server) {
    let nowhere = S3Store::new(&server.settings, "tidewatch-nowhere")
        .await
        .expect("a client");
    let error = nowhere.check().await.expect_err("there is no such bucket");
    assert_eq!(
        (error.kind, error.is_everyones()),
        (ErrorKind::NotFound, true),
        "{error}"
    );
    let mut settings = server.settings.clone();
    if let Some((_, secret)) = &mut settings.credentials {
        "not-the-secret-at-all".clone_into(secret);
    }
    let stranger = S3Store::new(&settings, &server.bucket)
        .await
        .expect("a client");
    let put = stranger.put("stranger", body(b"x"), &Meta::default()).await;
    if server.can.signatures {
        let error = put.expect_err("the secret is wrong");
        assert_eq!(
            (error.kind, error.effect),
            (ErrorKind::Barred, Effect::None),
            "{error}"
        );
        // The answer to a HEAD has no words: it may be a right that is missing.
        let checked = stranger.check().await.expect_err("the secret is wrong");
        let kinds = [ErrorKind::Denied, ErrorKind::Barred];
        assert!(kinds.contains(&checked.kind), "{checked}");
        println!("  says: {error}");
    } else {
        assert!(put.is_ok(), "signatures are checked here after all");
        println!("  not tested: that signatures are checked");
    }
}
