//! A folder whose bucket cannot be used yet: what is shown of it, and what has to be known before a strict guard begins.

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::agent::Mode;
use crate::base::clock::Clock;
use crate::base::snapshot::FolderSnapshot;
use crate::commands::features::{Asker, Bucket};
use crate::commands::folders::{Left, Start};
use crate::store::{self, ErrorKind, Store, guarded};

/// How soon a bucket is asked again that has to be known before anything is written there.
const ASK_AGAIN: Duration = Duration::from_secs(30);
/// What is said of one that could not be asked.
pub const UNASKED: &str = "the bucket could not be asked whether it holds to conditions, without which `guard = \"strict\"` \
    writes nothing; is it there, and may objects be written under the prefix?";

/// Shows that a folder's bucket cannot be used, and since when. The folder is looked after as well as it can be: its start
/// is over, and keeps no service from being ready.
pub fn show(snapshots: &watch::Sender<FolderSnapshot>, why: &str) {
    let now = Clock::Real.now();
    snapshots.send_modify(|snapshot| {
        snapshot.begun = true;
        let since = snapshot.outage.as_ref().map_or(now.wall_ns, |(ns, _)| *ns);
        snapshot.outage = Some((since, why.to_owned()));
    });
}

/// Asks whether a bucket is there and may be used. A key that may only list the folder's prefix, as the least of policies
/// allows, may not look at the bucket as a whole.
pub async fn ask(store: &dyn Store, prefix: &str) -> store::Result<()> {
    match store.check().await {
        Err(error) if error.kind == ErrorKind::Denied => store.list(prefix, None).await.map(drop),
        answer => answer,
    }
}

/// Waits until it is known that a bucket holds to conditions; the error says what becomes of the folder if it does not, or
/// if a run that has to end cannot find out.
pub async fn strict(
    asker: &Asker,
    bucket: &Bucket,
    start: &Start,
    stop: &CancellationToken,
) -> Result<(), Left> {
    // What was found before refuses nothing: the store may be another by now.
    if guarded::trouble(&bucket.store.features()).is_some() {
        asker.again(bucket, stop).await;
    }
    let name = &start.folder.name;
    let mut is_told = false;
    while !bucket.store.features().is_known {
        if start.mode != Mode::Forever {
            return Err(Left::Unasked);
        }
        if !is_told {
            tracing::error!(folder = %name, "{UNASKED}");
            is_told = true;
        }
        show(&start.snapshots, UNASKED);
        tokio::select! {
            () = tokio::time::sleep(ASK_AGAIN) => {}
            () = stop.cancelled() => return Err(Left::Stopped),
        }
        asker.begin(bucket, stop).await;
    }
    if is_told {
        tracing::info!(folder = %name, "the bucket could be asked now");
    }
    match guarded::trouble(&bucket.store.features()) {
        Some(why) => Err(Left::Unable(why)),
        None => Ok(()),
    }
}
