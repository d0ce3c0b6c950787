//! What a store can do is asked once per bucket and state, kept, and never in a folder's way.

use std::sync::Arc;
use std::time::Duration;

use tidewatch::base::clock::Clock;
use tidewatch::base::offload::Offload;
use tidewatch::commands::features::{Asker, Bucket};
use tidewatch::manifest::{Manifest, Probed};
use tidewatch::store::features::{Checksum, Features};
use tidewatch::store::key::KeyMap;
use tidewatch::store::{ErrorKind, Store};
use tokio_util::sync::CancellationToken;

use crate::support::faulty::{Fault, Faulty, Odds};
use crate::support::mem_store::{Habits, MemStore};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A state, and a bucket behind a line.
struct Place {
    manifest: Manifest,
    clock: Clock,
    line: Faulty<MemStore>,
}

impl Place {
    fn new() -> Self {
        Self::with(Odds::default())
    }

    fn with(odds: Odds) -> Self {
        let habits = Habits {
            ignores_conditions: true,
            ..Habits::default()
        };
        Self {
            manifest: Manifest::in_memory().expect("a manifest"),
            clock: Clock::Virtual {
                since: Clock::Real.now().mono,
                wall_ns: 1_800_000_000_000_000_000,
            },
            line: Faulty::new(MemStore::with_habits(habits), 1, odds),
        }
    }

    /// What a new process has.
    fn asker(&self) -> Asker {
        Asker::new(self.manifest.clone(), self.clock, Offload::Inline)
    }

    /// A folder's bucket, with a store that knows nothing yet.
    fn bucket(&self) -> (Bucket, Arc<MemStore>) {
        let learner = Arc::new(MemStore::default());
        learner.learn(Features::default());
        let bucket = Bucket {
            endpoint: "http://x".to_owned(),
            name: "b".to_owned(),
            keys: KeyMap::new("p/"),
            store: learner.clone(),
            asked: Arc::new(self.line.clone()),
        };
        (bucket, learner)
    }

    fn requests(&self) -> u64 {
        self.line.inner().counts().total()
    }

    fn kept(&self) -> Option<Probed> {
        self.manifest.probed("http://x", "b").expect("a row")
    }
}

#[tokio::test(start_paused = true)]
async fn a_bucket_is_asked_once_however_many_folders_go_there_and_never_by_the_next_process() {
    let place = Place::with(Odds {
        latency: Duration::from_millis(50)..Duration::from_millis(51),
        ..Odds::default()
    });
    let (asker, stop) = (place.asker(), CancellationToken::new());
    let buckets: Vec<_> = (0..3).map(|_| place.bucket()).collect();
    tokio::join!(
        asker.begin(&buckets[0].0, &stop),
        asker.begin(&buckets[1].0, &stop),
        asker.begin(&buckets[2].0, &stop),
    );
    let counts = place.line.inner().counts();
    assert_eq!(counts.of("ListParts"), 1, "{counts:?}");
    for (_, learner) in &buckets {
        let features = learner.features();
        assert!(features.is_known && features.copy && !features.put_if_match);
    }
    let before = place.requests();
    let (bucket, learner) = place.bucket();
    place.asker().begin(&bucket, &stop).await;
    assert!(learner.features().is_known);
    assert_eq!(place.requests(), before);
}

#[tokio::test(start_paused = true)]
async fn what_the_state_says_in_words_that_nobody_reads_is_asked_again() {
    let place = Place::new();
    for features in [
        "",
        "{",
        "[1]",
        "{}",
        r#"{"is_known":false}"#,
        r#"{"checksum":"crc99"}"#,
    ] {
        let probed = Probed {
            features: features.to_owned(),
            at_ns: place.clock.now().wall_ns,
        };
        let kept = place.manifest.keep_probed("http://x", "b", &probed);
        kept.expect("a row");
        place.line.inner().reset_counts();
        let (bucket, learner) = place.bucket();
        place
            .asker()
            .begin(&bucket, &CancellationToken::new())
            .await;
        assert!(learner.features().is_known, "{features}");
        assert!(place.requests() > 20, "{features}");
        assert_ne!(place.kept(), Some(probed));
    }
}

#[tokio::test(start_paused = true)]
async fn a_bucket_that_cannot_be_asked_holds_nobody_up_and_is_asked_until_it_answers() {
    let place = Place::with(Odds {
        refused: 1.0,
        ..Odds::default()
    });
    let (asker, stop) = (place.asker(), CancellationToken::new());
    let (bucket, learner) = place.bucket();
    let (second, other) = place.bucket();
    let began = place.clock.now().mono;
    asker.begin(&bucket, &stop).await;
    asker.begin(&second, &stop).await;
    let took = place.clock.now().mono - began;
    assert!(took < Duration::from_secs(30), "{took:?}");
    assert!(!learner.features().is_known);
    assert_eq!(place.kept(), None);
    let running = async {
        tokio::time::sleep(DAY / 2).await;
        assert!(!learner.features().is_known);
        // One that is down is asked with one request every five minutes, whoever wants to know, and cleaned up after.
        let requests = place.requests() + place.line.faults();
        assert!(requests < 12 * 12 * 40, "{requests}");
        place.line.calm();
        tokio::time::sleep(Duration::from_secs(6 * 60)).await;
        assert!(learner.features().is_known && other.features().is_known);
        assert!(place.kept().is_some());
        place.line.inner().reset_counts();
        tokio::time::sleep(DAY * 80).await;
        assert_eq!(place.requests(), 0);
        stop.cancel();
    };
    tokio::join!(
        asker.keep_up(&bucket, &stop),
        asker.keep_up(&second, &stop),
        running
    );
}

#[tokio::test(start_paused = true)]
async fn a_missing_right_is_tried_again_too() {
    let place = Place::new();
    let (asker, stop) = (place.asker(), CancellationToken::new());
    let (bucket, learner) = place.bucket();
    place
        .line
        .next("PutObject", Fault::Refused(ErrorKind::Denied));
    asker.begin(&bucket, &stop).await;
    assert!(!learner.features().is_known);
    let running = async {
        tokio::time::sleep(Duration::from_secs(6 * 60)).await;
        assert!(learner.features().is_known);
        stop.cancel();
    };
    tokio::join!(asker.keep_up(&bucket, &stop), running);
}

#[tokio::test(start_paused = true)]
async fn what_was_found_three_months_ago_is_believed_at_first_and_asked_again_beside_the_folder() {
    let place = Place::new();
    let (bucket, _) = place.bucket();
    place
        .asker()
        .begin(&bucket, &CancellationToken::new())
        .await;
    let first = place.kept().expect("kept");
    tokio::time::sleep(DAY * 91).await;

    place.line.inner().reset_counts();
    let (asker, stop) = (place.asker(), CancellationToken::new());
    let (bucket, learner) = place.bucket();
    asker.begin(&bucket, &stop).await;
    assert!(learner.features().is_known);
    assert_eq!(place.requests(), 0, "the folder need not wait");
    let running = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let renewed = place.kept().expect("kept");
        assert!(renewed.at_ns > first.at_ns);
        // Three months later it is asked once more, though nobody has started anything.
        place.line.inner().reset_counts();
        tokio::time::sleep(DAY * 92).await;
        assert!(place.kept().expect("kept").at_ns > renewed.at_ns);
        assert_eq!(place.line.inner().counts().of("ListParts"), 1);
        stop.cancel();
    };
    tokio::join!(asker.keep_up(&bucket, &stop), running);
}

#[tokio::test(start_paused = true)]
async fn what_a_store_has_learned_by_itself_is_kept() {
    let place = Place::new();
    let (asker, stop) = (place.asker(), CancellationToken::new());
    let (bucket, learner) = place.bucket();
    asker.begin(&bucket, &stop).await;
    learner.learn(Features {
        checksum: Checksum::Md5,
        ..*learner.features()
    });
    stop.cancel();
    asker.keep_up(&bucket, &stop).await;
    let (bucket, learner) = place.bucket();
    place
        .asker()
        .begin(&bucket, &CancellationToken::new())
        .await;
    assert_eq!(learner.features().checksum, Checksum::Md5);
}

#[tokio::test(start_paused = true)]
async fn a_folder_that_ends_takes_its_questions_along() {
    let place = Place::with(Odds {
        latency: Duration::from_millis(500)..Duration::from_millis(501),
        ..Odds::default()
    });
    let (asker, stop) = (place.asker(), CancellationToken::new());
    let (bucket, learner) = place.bucket();
    let stopping = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        stop.cancel();
    };
    tokio::join!(asker.begin(&bucket, &stop), stopping);
    assert!(!learner.features().is_known);
    assert!(place.line.inner().objects().is_empty());
    assert_eq!(place.kept(), None);
}
