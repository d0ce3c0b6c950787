//! What a probe finds, and that it leaves nothing behind.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tidewatch::base::clock::Clock;
#[cfg(feature = "demo")]
use tidewatch::commands::features::patience;
use tidewatch::store::features::{Checksum, Features};
use tidewatch::store::key::KeyMap;
use tidewatch::store::probe;
use tidewatch::store::{ErrorKind, Meta, Result, Store};

use crate::store::suite::body;
use crate::support::faulty::{Fault, Faulty, Odds};
use crate::support::mem_store::{Habits, MemStore};

/// Probes a store below `p/`.
pub async fn probed(store: &dyn Store) -> Result<Features> {
    probe::probe(store, &KeyMap::new("p/"), 7, std::future::pending()).await
}

fn habits() -> Vec<Habits> {
    let all = Habits::default();
    vec![
        all,
        Habits {
            ignores_conditions: true,
            ..all
        },
        Habits {
            ignores_copy_conditions: true,
            ..all
        },
        Habits {
            refuses_copies: true,
            ..all
        },
        Habits {
            drops_metadata: true,
            ..all
        },
        Habits {
            lists_no_parts: true,
            ..all
        },
        Habits {
            lists_no_uploads: true,
            ..all
        },
        Habits {
            refuses_batches: true,
            ..all
        },
        Habits {
            refuses_multipart: true,
            ..all
        },
        Habits {
            checksum: Checksum::Crc32,
            ..all
        },
        Habits {
            checksum: Checksum::Md5,
            ..all
        },
        Habits {
            checksum: Checksum::None,
            ..all
        },
        Habits {
            ignores_checksums: true,
            ..all
        },
        Habits {
            lists_oddly: true,
            ..all
        },
        Habits {
            composes_keys: true,
            ..all
        },
        Habits {
            ignores_conditions: true,
            ignores_copy_conditions: true,
            drops_metadata: true,
            refuses_batches: true,
            lists_no_uploads: true,
            ignores_checksums: true,
            ..all
        },
    ]
}

#[tokio::test]
async fn every_habit_of_a_store_is_found_and_only_that() {
    for habits in habits() {
        let store = MemStore::with_habits(habits);
        let claims = *store.features();
        let found = probed(&store).await.expect("a probe");
        assert_eq!(found, claims, "{habits:?}");
        assert!(found.is_known);
        assert!(store.objects().is_empty(), "{habits:?}");
        assert_eq!(store.open_uploads(), [], "{habits:?}");
        assert_eq!(*store.features(), claims, "what it had learned stands");
        // A store that does all costs the fewest.
        let most = if claims == *MemStore::default().features() {
            34
        } else {
            50
        };
        let counts = store.counts();
        assert!(counts.total() <= most, "{counts:?}");
    }
}

#[tokio::test]
async fn a_probe_touches_only_keys_of_its_own() {
    let store = MemStore::default();
    store.plant("p/a-b", b"a file");
    store.plant("p/.tidewatch/lease.json", b"a lease");
    store.plant("p/.tidewatch/probe-0000000000000008/a-b", b"another's");
    let before = store.objects();
    let theirs = store.create_multipart("p/large", &Meta::default()).await;
    theirs.expect("an upload");
    probed(&store).await.expect("a probe");
    assert_eq!(store.objects(), before);
    assert_eq!(store.open_uploads().len(), 1);
}

/// Leaves what a probe leaves that was killed.
async fn leave(store: &MemStore, id: &str) {
    for (name, is_upload) in [("a-b", false), ("parts", true)] {
        let key = format!("p/.tidewatch/probe-{id}/{name}");
        if is_upload {
            let begun = store.create_multipart(&key, &Meta::default()).await;
            begun.expect("an upload");
        } else {
            let put = store.put(&key, body(b"left"), &Meta::default()).await;
            put.expect("an object");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_killed_probe_has_left_is_removed_by_the_next_and_others_after_a_day() {
    let store = MemStore::default();
    store.set_clock(Clock::Virtual {
        since: Clock::Real.now().mono,
        wall_ns: 1_764_000_000_000_000_000,
    });
    leave(&store, "0000000000000007").await;
    leave(&store, "0000000000000008").await;
    probed(&store).await.expect("a probe");
    let theirs = "p/.tidewatch/probe-0000000000000008/";
    let left = || -> Vec<String> {
        let objects = store.objects().into_keys();
        let uploads = store.open_uploads().into_iter().map(|(_, key)| key);
        objects.chain(uploads).collect()
    };
    assert_eq!(left(), [format!("{theirs}a-b"), format!("{theirs}parts")]);

    tokio::time::sleep(Duration::from_hours(23)).await;
    probed(&store).await.expect("a probe");
    assert_eq!(left().len(), 2, "it may still be asking");
    tokio::time::sleep(Duration::from_hours(2)).await;
    // Nothing but a probe's is ever touched.
    store
        .put("p/.tidewatch/probed", body(b"x"), &Meta::default())
        .await
        .expect("an object");
    tokio::time::sleep(Duration::from_hours(48)).await;
    probed(&store).await.expect("a probe");
    assert_eq!(left(), ["p/.tidewatch/probed"]);
}

/// What a whole probe asks of a store that can do everything.
async fn asked() -> Vec<(&'static str, u64)> {
    let store = MemStore::default();
    probed(&store).await.expect("a probe");
    store.counts().requests.into_iter().collect()
}

#[tokio::test(start_paused = true)]
async fn whatever_request_fails_nothing_is_left() {
    let faults = [
        Fault::Lost,
        Fault::Refused(ErrorKind::Network),
        Fault::Refused(ErrorKind::Busy),
        Fault::Refused(ErrorKind::Denied),
        Fault::Refused(ErrorKind::Barred),
        Fault::Refused(ErrorKind::Unsupported),
        Fault::Refused(ErrorKind::Invalid),
    ];
    let (mut failed, mut done) = (0, 0);
    for (operation, times) in asked().await {
        for (fault, number) in faults.iter().flat_map(|f| (0..times).map(move |n| (*f, n))) {
            let line = Faulty::new(MemStore::default(), 1, Odds::default());
            for _ in 0..number {
                line.next(operation, Fault::Fine);
            }
            line.next(operation, fault);
            let what = format!("{operation} {number}: {fault:?}");
            match probed(&line).await {
                Ok(_) => done += 1,
                Err(error) => {
                    assert_ne!(error.kind, ErrorKind::Unsupported, "{what}: {error}");
                    failed += 1;
                }
            }
            line.calm();
            let (left, open) = (line.inner().objects(), line.inner().open_uploads());
            assert!(
                left.is_empty() && open.is_empty(),
                "{what}: {left:?} {open:?}"
            );
        }
    }
    assert!(failed > 20 && done > 50, "{failed} failed, {done} done");
}

#[tokio::test(start_paused = true)]
async fn what_a_question_alone_does_to_a_server_is_a_finding_and_an_outage_is_none() {
    // A server that stumbles over copies, and over nothing else, cannot copy.
    let line = Faulty::new(MemStore::default(), 1, Odds::default());
    for _ in 0..2 {
        line.next("CopyObject", Fault::Refused(ErrorKind::Network));
    }
    let found = probed(&line).await.expect("a probe");
    assert!(!found.copy && found.multipart && found.part_copy);

    // One that stumbled once can.
    let line = Faulty::new(MemStore::default(), 1, Odds::default());
    line.next("CopyObject", Fault::Refused(ErrorKind::Network));
    assert!(probed(&line).await.expect("a probe").copy);

    // One that answers nothing meanwhile is not there.
    let line = Faulty::new(MemStore::default(), 1, Odds::default());
    let copied = AtomicBool::new(false);
    line.rule(move |operation, _| {
        copied.fetch_or(operation == "CopyObject", Ordering::Relaxed);
        let is_gone = copied.load(Ordering::Relaxed);
        is_gone.then_some(Fault::Refused(ErrorKind::Network))
    });
    let error = probed(&line).await.expect_err("it is not there");
    assert_eq!(error.kind, ErrorKind::Network);
}

#[tokio::test(start_paused = true)]
async fn a_probe_ends_when_it_is_told_to_cleans_up_and_waits_for_eight_answers_in_turn() {
    for millis in (0..1500).step_by(50) {
        let odds = Odds {
            latency: Duration::from_millis(100)..Duration::from_millis(101),
            ..Odds::default()
        };
        let line = Faulty::new(MemStore::default(), 1, odds);
        let until = tokio::time::sleep(Duration::from_millis(millis));
        let found = probe::probe(&line, &KeyMap::new("p/"), 7, until).await;
        assert_eq!(found.is_ok(), millis > 8 * 101, "{millis} ms");
        let (left, open) = (line.inner().objects(), line.inner().open_uploads());
        assert!(
            left.is_empty() && open.is_empty(),
            "{millis}: {left:?} {open:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn what_lands_after_a_probe_is_removed_by_the_next_one() {
    let line = Faulty::new(MemStore::default(), 1, Odds::default());
    line.next("PutObject", Fault::Late(Duration::from_secs(60)));
    probed(&line).await.expect_err("an answer is missing");
    line.settle().await;
    assert_eq!(line.inner().objects().len(), 1);
    probed(&line).await.expect("a probe");
    assert!(line.inner().objects().is_empty());
}

#[tokio::test]
async fn who_may_not_write_cannot_ask() {
    let line = Faulty::new(MemStore::default(), 1, Odds::default());
    line.next("PutObject", Fault::Refused(ErrorKind::Denied));
    let error = probed(&line).await.expect_err("denied");
    assert_eq!(error.kind, ErrorKind::Denied);
    let store = MemStore::default();
    store
        .put("x", body(b"x"), &Meta::default())
        .await
        .expect("a put");
    assert!(probed(&store).await.is_ok());
}

#[cfg(feature = "demo")]
pub mod endpoint {
    use tidewatch::store::s3::{Patience, S3Store, Settings};

    use super::*;
    use crate::support::endpoint::{self, Endpoint};

    /// A client of the endpoint, with the patience of a probe.
    pub async fn client(endpoint: &Endpoint) -> S3Store {
        let keys = (endpoint.access_key(), endpoint.secret_key());
        let settings = Settings {
            endpoint_url: Some(endpoint.url()),
            region: Some(endpoint::REGION.to_owned()),
            credentials: Some((keys.0.to_owned(), keys.1.to_owned())),
            ..Settings::default()
        };
        let store = S3Store::new(&settings, endpoint.bucket()).await;
        store.expect("a client").apart(Patience {
            // So that a test of a server that hangs is done in time.
            answer: Duration::from_secs(1),
            long_answer: Duration::from_secs(1),
            ..patience()
        })
    }

    fn assert_nothing_is_left(endpoint: &Endpoint, what: &str) {
        let keys = endpoint.all_keys();
        assert_eq!(keys, [""; 0], "{what}");
        assert_eq!(endpoint.open_uploads(), [], "{what}");
    }

    #[tokio::test]
    async fn the_embedded_endpoint_does_everything_but_tags() {
        let endpoint = Endpoint::start().await;
        let store = client(&endpoint).await;
        let found = probed(&store).await.expect("a probe");
        let all = Features {
            tags: false,
            ..Features::ALL
        };
        assert_eq!(found, all);
        assert_nothing_is_left(&endpoint, "all went well");
        let requests = endpoint.all_requests();
        assert!(requests.len() <= 36, "{}", requests.len());
        // Listings name a prefix, and no key.
        let own = "p/.tidewatch/probe-0000000000000007/";
        for request in &requests {
            assert!(
                request.key.starts_with(own) || request.key.is_empty(),
                "{request:?}"
            );
        }
    }

    #[tokio::test]
    async fn whatever_answer_of_the_endpoint_is_missing_nothing_is_left() {
        let endpoint = Endpoint::start().await;
        let store = client(&endpoint).await;
        probed(&store).await.expect("a probe");
        let requests = endpoint.all_requests().len();
        endpoint.meet_probes();
        for number in 0..requests {
            for fault in [
                endpoint::Fault::DropAnswer,
                endpoint::Fault::Error(403, "AccessDenied"),
                endpoint::Fault::Error(501, "NotImplemented"),
            ] {
                let (mut seen, what) = (0, format!("{number}: {fault:?}"));
                endpoint.script(move |_| {
                    seen += 1;
                    (seen == number + 1).then(|| fault.clone())
                });
                let _ = probed(&store).await;
                endpoint.clear();
                assert_nothing_is_left(&endpoint, &what);
            }
        }
    }

    /// A request, and what a store can do that answers it.
    type Lacks = (&'static str, fn(&Features) -> bool);

    #[tokio::test]
    async fn an_endpoint_that_lacks_something_is_known_for_it() {
        let endpoint = Endpoint::start().await;
        let store = client(&endpoint).await;
        endpoint.meet_probes();
        let lacks: [Lacks; 6] = [
            ("CopyObject", |found| found.copy),
            ("UploadPartCopy", |found| found.part_copy),
            ("ListParts", |found| found.list_parts),
            ("ListMultipartUploads", |found| found.list_uploads),
            ("DeleteObjects", |found| found.delete_many),
            ("CreateMultipartUpload", |found| found.multipart),
        ];
        for (operation, has) in lacks {
            for fault in [
                endpoint::Fault::Error(501, "NotImplemented"),
                endpoint::Fault::Error(403, "AccessDenied"),
                endpoint::Fault::Error(405, "MethodNotAllowed"),
                // No words of S3's at all.
                endpoint::Fault::Answer(200, "<html>hello</html>".to_owned()),
            ] {
                let what = format!("{operation}: {fault:?}");
                endpoint.always(operation, fault);
                let found = probed(&store).await.expect(&what);
                assert!(!has(&found), "{what}");
                endpoint.clear();
                assert_nothing_is_left(&endpoint, &what);
            }
        }
    }
}

#[test]
fn what_was_kept_by_an_older_version_is_read() {
    let old = r#"{"is_known":true,"copy":true,"checksum":"md5","was":"once"}"#;
    let features: Features = serde_json::from_str(old).expect("features");
    assert!(features.copy && !features.exact_keys);
    assert_eq!(features.checksum, Checksum::Md5);
    let text = serde_json::to_string(&Features::ALL).expect("text");
    let again: Features = serde_json::from_str(&text).expect("features");
    assert_eq!(again, Features::ALL);
}
