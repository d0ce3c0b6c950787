//! A target that has nearly everything: what is compared, and what becomes of that when the bucket does not answer.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tidewatch::base::clock::Clock;
use tidewatch::restore::listing::Listing;
use tidewatch::restore::plan::OnConflict;
use tidewatch::restore::target::Owners;
use tidewatch::restore::told::{Happening, Sums};
use tidewatch::restore::{Restore, Settings};
use tidewatch::store::key::KeyMap;
use tidewatch::store::{ErrorKind, Store};
use tokio_util::sync::CancellationToken;

use crate::agent::{passed, slow};
use crate::restore::write;
use crate::support::faulty::{Fault, Faulty, Odds};
use crate::support::mem_store::MemStore;

/// Files, of which each is in the bucket and in the target: more than are looked at in one go.
const FILES: u64 = 700;
const REQUESTS: usize = 8;

struct Place {
    dir: TempDir,
    store: Faulty<MemStore>,
    listing: Listing,
    stop: CancellationToken,
}

impl Place {
    async fn new(odds: Odds) -> Self {
        let (dir, bucket) = (tempfile::tempdir().unwrap(), MemStore::default());
        for number in 0..FILES {
            let content = format!("content {number}");
            bucket.plant(&format!("p/{number}"), content.as_bytes());
            write(
                &dir.path().join("in").join(number.to_string()),
                content.as_bytes(),
            );
        }
        let store: Arc<dyn Store> = Arc::new(bucket.clone());
        let listing = Listing::of(&store, &KeyMap::new("p/"), &[]).await.unwrap();
        Self {
            dir,
            store: Faulty::new(bucket, 1, odds),
            listing,
            stop: CancellationToken::new(),
        }
    }

    async fn restore(&self) -> Sums {
        let settings = Settings {
            on_conflict: OnConflict::Overwrite,
            owners: Owners::Mine,
            requests: REQUESTS,
            memory_bytes: 1 << 20,
            is_dry_run: false,
        };
        let (store, inside): (_, PathBuf) =
            (Arc::new(self.store.clone()), self.dir.path().join("in"));
        let mut tell = |_: &Happening<'_>| {};
        let stop = self.stop.clone();
        let restore = Restore::new(store, &inside, settings, Arc::default(), stop, &mut tell);
        restore.run(self.listing.clone()).await.unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn a_bucket_that_is_not_there_is_not_asked_about_every_file() {
    let refuses = |kind| {
        move |operation: &str, _: &str| (operation == "HeadObject").then_some(Fault::Refused(kind))
    };
    for kind in [ErrorKind::Network, ErrorKind::Denied] {
        let place = Place::new(Odds::default()).await;
        place.store.rule(refuses(kind));
        let sums = place.restore().await;
        let why = sums.stopped_by.clone().expect("a reason");
        assert!(why.contains("gives nothing any more"), "{why}");
        assert!(sums.is_unreachable && sums.restored == 0, "{sums:?}");
        assert_eq!(sums.failed, 64);
        assert_eq!(sums.untried, FILES - 64, "{sums:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_object_that_cannot_be_looked_at_is_named_and_the_others_are_compared() {
    let place = Place::new(Odds::default()).await;
    place
        .store
        .rule(|_, key| (key == "p/0").then_some(Fault::Refused(ErrorKind::Denied)));
    let sums = place.restore().await;
    assert_eq!((sums.failed, sums.equal, sums.untried), (1, FILES - 1, 0));
    assert!(
        !sums.is_unreachable && sums.stopped_by.is_none(),
        "{sums:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_what_is_being_looked_at() {
    let place = Place::new(slow(3_600_000)).await;
    let began = Clock::Real.now().mono;
    let stop = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        place.stop.cancel();
    };
    let (sums, ()) = tokio::join!(place.restore(), stop);
    assert!(
        passed(began) < Duration::from_secs(2),
        "{:?}",
        passed(began)
    );
    let looked_at = sums.equal + sums.failed + sums.restored;
    assert_eq!((looked_at, sums.untried), (0, FILES), "{sums:?}");
}
