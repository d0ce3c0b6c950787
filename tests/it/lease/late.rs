//! What an agent has sent that is no more: it may land under the next one.

use std::time::Duration;

use tidewatch::agent::Mode;
use tokio::time::sleep;

use crate::agent::{Bench, path};
use crate::lease::{first, line, second};
use crate::support::faulty::Fault;
use crate::support::mem_store::Habits;

/// Starts an agent, and kills it while a write is on its way that lands ten minutes later.
async fn killed() -> Bench {
    let bench = first(line(5), Habits::default());
    bench.tree.write(&path("a.txt"), b"first");
    let mut agent = bench.start(Mode::Forever);
    agent.level().await;
    let late = Fault::Late(Duration::from_secs(600));
    bench.store.next("PutObject", late);
    bench.tree.write(&path("a.txt"), b"of the dead");
    while bench.store.asked("PutObject", "p/a.txt") < 2 {
        sleep(Duration::from_millis(100)).await;
    }
    agent.task.abort();
    assert!(agent.task.await.unwrap_err().is_cancelled());
    bench
}

#[tokio::test(start_paused = true)]
async fn what_the_dead_have_sent_is_found_when_the_last_of_it_has_landed() {
    let bench = killed().await;
    // Another state folder: nothing of what the dead one has sent is on record in it.
    let next = second(&bench, line(5));
    next.tree.write(&path("a.txt"), b"living");
    let mut agent = next.start(Mode::Forever);
    agent.until_uploaded("a.txt").await;
    agent.level().await;
    assert_eq!(next.object("a.txt").unwrap(), b"living");
    sleep(Duration::from_secs(600)).await;
    bench.store.settle().await;
    assert_eq!(next.object("a.txt").unwrap(), b"of the dead", "it landed");
    sleep(Duration::from_secs(600)).await;
    agent.level().await;
    assert_eq!(next.object("a.txt").unwrap(), b"living");
    // Once: after that nothing of theirs can come any more.
    next.bucket.reset_counts();
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(next.bucket.counts().of("ListObjectsV2"), 0);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_the_dead_have_sent_is_found_by_the_first_sync_after_the_last_of_it_has_landed() {
    let bench = killed().await;
    let next = second(&bench, line(5));
    next.tree.write(&path("a.txt"), b"living");
    assert!(next.sync().await.last.level);
    sleep(Duration::from_secs(60)).await;
    assert!(
        next.sync().await.last.level,
        "before that it is not looked for"
    );
    sleep(Duration::from_secs(600)).await;
    bench.store.settle().await;
    assert_eq!(next.object("a.txt").unwrap(), b"of the dead", "it landed");
    sleep(Duration::from_secs(600)).await;
    assert!(next.sync().await.last.level);
    assert_eq!(next.object("a.txt").unwrap(), b"living");
    next.bucket.reset_counts();
    assert!(next.sync().await.last.level);
    assert_eq!(next.bucket.counts().of("ListObjectsV2"), 0);
}
