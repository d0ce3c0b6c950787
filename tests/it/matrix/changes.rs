//! Rows 33 to 38: files that change at the worst moment.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tidewatch::agent::Mode;
use tidewatch::base::clock::Clock;
use tidewatch::base::policy::OnDelete;
use tokio::time::sleep;

use crate::agent::{Bench, path, slow};
use crate::support::faulty::{Fault, Odds};
use crate::support::mem_tree::MemTree;
use crate::watching::table::row;

/// Asserts that everything that the key ever had was one of these.
fn only(bench: &Bench, key: &str, contents: &[&[u8]]) {
    for (at, bytes) in bench.bucket.history() {
        let Some(bytes) = bytes.filter(|_| at == key) else {
            continue;
        };
        let is_whole = contents.iter().any(|content| bytes[..] == **content);
        assert!(is_whole, "{} bytes that the file never had", bytes.len());
    }
}

#[tokio::test(start_paused = true)]
async fn r33_a_file_written_while_it_is_hashed_is_sent_whole_or_not() {
    let _row = row!();
    let bench = Bench::new(slow(20));
    bench.bucket.keep_history();
    bench.tree.without_leases();
    let mut agent = bench.start(Mode::Forever);
    agent.level().await;
    bench.tree.trouble(0.0, 0.7);
    for n in 0..5_u8 {
        bench.tree.write(&path(&format!("f{n}")), &vec![n; 100_000]);
    }
    sleep(Duration::from_secs(600)).await;
    assert!(bench.tree.reads() > 5, "nobody was disturbed");
    bench.tree.trouble(0.0, 0.0);
    let written = bench.tree.files();
    sleep(Duration::from_secs(20 * 60)).await;
    agent.level().await;
    for (at, content) in written {
        assert_eq!(bench.object(&at.to_string()).unwrap(), *content, "{at}");
    }
    agent.stop().await;
}

/// Changes a large file when its second part is sent.
async fn changed_while_it_goes_up(changed: Vec<u8>) {
    let bench = Bench::new(Odds::default());
    bench.bucket.keep_history();
    let first = vec![1; 40 << 20];
    bench.tree.write(&path("large"), &first);
    // Rested: what it is read for is to be sent.
    sleep(Duration::from_secs(10)).await;
    let (tree, is_done, new) = (bench.tree.clone(), AtomicBool::new(false), changed.clone());
    let parts = std::sync::atomic::AtomicUsize::new(0);
    bench.store.rule(move |operation, _| {
        let is_second = operation == "UploadPart" && parts.fetch_add(1, Ordering::SeqCst) == 1;
        if is_second && !is_done.swap(true, Ordering::SeqCst) {
            tree.write(&path("large"), &new);
        }
        None
    });
    let mut agent = bench.start(Mode::Forever);
    sleep(Duration::from_secs(20 * 60)).await;
    agent.level().await;
    assert!(bench.object("large").unwrap() == changed);
    only(&bench, "p/large", &[&first, &changed]);
    assert_eq!(bench.bucket.open_uploads(), []);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn r34_a_file_written_while_it_goes_up_is_never_mixed() {
    let _row = row!();
    changed_while_it_goes_up(vec![2; 40 << 20]).await;
}

#[tokio::test(start_paused = true)]
async fn r35_a_file_cut_off_while_it_goes_up_is_sent_as_it_ends() {
    let _row = row!();
    changed_while_it_goes_up(vec![1; 9 << 20]).await;
    // Now it fits one request.
    changed_while_it_goes_up(vec![1; 3]).await;
}

#[tokio::test(start_paused = true)]
async fn r36_new_content_under_the_same_size_and_mtime_is_found() {
    let _row = row!();
    let bench = Bench::new(Odds::default());
    bench.tree.write(&path("f"), b"old content");
    sleep(Duration::from_secs(10)).await;
    assert!(bench.sync().await.last.level);
    // While nobody runs: only ctime tells.
    bench.tree.write_secretly(&path("f"), b"new content");
    assert!(bench.sync().await.last.level);
    assert_eq!(bench.object("f").unwrap(), b"new content");
    // Within one tick of the clock: no stamp tells.
    bench.tree.write(&path("g"), b"first");
    assert!(bench.sync().await.last.level);
    bench.tree.write_secretly(&path("g"), b"other");
    sleep(Duration::from_secs(10)).await;
    assert!(bench.sync().await.last.level);
    assert_eq!(bench.object("g").unwrap(), b"other");
}

#[tokio::test(start_paused = true)]
async fn r37_what_was_put_back_while_down_is_sent_again_because_its_intent_is_on_record() {
    let _row = row!();
    let mut bench = Bench::new(Odds::default());
    let began = bench.clock.now().wall_ns;
    bench.tree.write(&path("f"), b"first");
    sleep(Duration::from_secs(10)).await;
    let mut agent = bench.start(Mode::Forever);
    agent.level().await;
    sleep(Duration::from_secs(60)).await;
    // The second content is stored, and before anybody knows the process dies.
    bench.store.next("PutObject", Fault::Lost);
    bench.tree.write(&path("f"), b"other");
    let failed = agent.snapshots.wait_for(|now| now.failed == 1);
    failed.await.unwrap();
    agent.task.abort();
    assert!(agent.task.await.unwrap_err().is_cancelled());
    assert_eq!(bench.object("f").unwrap(), b"other");
    // The same content, inode and stamps as before: to the eye nothing ever happened.
    let as_it_began = Clock::Virtual {
        since: Clock::Real.now().mono,
        wall_ns: began,
    };
    bench.tree = MemTree::new(1, as_it_began);
    bench.tree.write(&path("f"), b"first");
    assert!(bench.sync().await.last.failed == 0);
    assert_eq!(bench.object("f").unwrap(), b"first");
}

#[tokio::test(start_paused = true)]
async fn r38_what_comes_back_just_before_its_delete_has_an_object_in_the_end() {
    let _row = row!();
    let mut bench = Bench::new(slow(20));
    bench.settings.on_delete = OnDelete::Delete;
    for n in 0..6 {
        bench.tree.write(&path(&format!("f{n}")), b"before");
    }
    let mut agent = bench.start(Mode::Forever);
    agent.level().await;
    sleep(Duration::from_secs(60)).await;
    // When its removal is on the way it is too late to take that back.
    let tree = bench.tree.clone();
    bench.store.on_delete(move |key| {
        if let Some(name) = key.strip_prefix("p/f0") {
            tree.write(&path(&format!("f0{name}")), b"again");
        }
    });
    bench.tree.remove(&path("f0"));
    // Between the two looks that a delete takes.
    bench.tree.remove(&path("f1"));
    sleep(Duration::from_millis(1_100)).await;
    bench.tree.write(&path("f1"), b"before");
    sleep(Duration::from_secs(120)).await;
    agent.level().await;
    assert_eq!(bench.object("f0").unwrap(), b"again");
    assert_eq!(bench.object("f1").unwrap(), b"before");
    assert_eq!(
        bench.bucket.counts().of("DeleteObject") + bench.bucket.counts().of("DeleteObjects"),
        1
    );
    agent.stop().await;
}
