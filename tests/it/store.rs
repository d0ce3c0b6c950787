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

use tidewatch::store::s3::{S3Store, Settings};
use tidewatch::store::{Effect, ErrorKind, Meta, Store};

use crate::store::suite::{Abilities, body, suite};
use crate::support::faulty::{Faulty, Odds};
use crate::support::mem_store::{Habits, MemStore};

mod doubles;
pub mod faults;
mod pages;
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

// The embedded endpoint's run of the suite belongs here: `suite` on an `S3Store` whose `Settings` have the endpoint's URL
// and keys, with the abilities that its documentation claims.

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
    for entry in servers.split(';').filter(|entry| !entry.trim().is_empty()) {
        let server = Server::parse(entry);
        println!("{}:", server.name);
        let store = S3Store::new(&server.settings, &server.bucket)
            .await
            .expect("a client");
        let prefix = format!("suite-{}/", fastrand::u64(..));
        suite(Arc::new(store), &prefix, server.can).await;
        strangers_are_told(&server).await;
    }
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
            (ErrorKind::Denied, Effect::None),
            "{error}"
        );
        assert_eq!(
            stranger.check().await.expect_err("denied").kind,
            ErrorKind::Denied
        );
        println!("  says: {error}");
    } else {
        assert!(put.is_ok(), "signatures are checked here after all");
        println!("  not tested: that signatures are checked");
    }
}
