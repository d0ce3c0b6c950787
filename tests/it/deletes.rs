//! What becomes of objects whose files go, move or are overwritten: tree and store in memory, paused time.

use std::time::Duration;

use tidewatch::agent::{Control, Mode, Reason, Request, Said};
use tidewatch::base::policy::{Brake, History, OnDelete};
use tidewatch::store::ErrorKind;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use crate::agent::{Agent, Bench, path, slow};
use crate::support::faulty::Fault;
use crate::support::mem_tree::Mount;

const MINUTE: Duration = Duration::from_secs(60);

fn bench(on_delete: OnDelete) -> Bench {
    let mut bench = Bench::new(slow(20));
    bench.settings.on_delete = on_delete;
    bench
}

/// A bench with files, all of them in the bucket, and an agent that watches.
async fn level(bench: &Bench, files: usize) -> Agent {
    for n in 0..files {
        bench.tree.write(
            &path(&format!("d{}/f{n}", n % 3)),
            format!("content {n}").as_bytes(),
        );
    }
    let mut agent = bench.start(Mode::Forever);
    agent.level().await;
    sleep(MINUTE).await;
    agent
}

fn keys(bench: &Bench) -> Vec<String> {
    bench.bucket.objects().keys().cloned().collect()
}

fn trash(bench: &Bench) -> Vec<String> {
    keys(bench)
        .into_iter()
        .filter(|key| key.contains(".tidewatch/trash/"))
        .collect()
}

impl Agent {
    async fn held(&mut self, count: u64) {
        let held = self.snapshots.wait_for(|snapshot| snapshot.held == count);
        timeout(Duration::from_secs(3600), held)
            .await
            .expect("within an hour")
            .unwrap();
    }

    async fn ask(&self, request: Request) -> u64 {
        let (answer, told) = oneshot::channel();
        self.control
            .send(Control { request, answer })
            .await
            .unwrap();
        match told.await.unwrap().unwrap() {
            Said::Count(count) => count,
            Said::Live(_) => unreachable!("nobody asked about a path"),
        }
    }

    async fn level_again(&mut self) {
        sleep(Duration::from_millis(500)).await;
        self.level().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_that_goes_takes_its_object_with_it_under_delete() {
    let bench = bench(OnDelete::Delete);
    let mut agent = level(&bench, 9).await;
    bench.tree.remove(&path("d0/f0"));
    agent.level_again().await;
    assert_eq!(bench.object("d0/f0"), None);
    assert_eq!(keys(&bench).len(), 8);
    let row = bench
        .manifest
        .entries(bench.manifest.folders().unwrap()[0].id, &[path("d0/f0")])
        .unwrap();
    assert_eq!(row, [None]);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_folder_that_goes_takes_all_its_objects_with_it() {
    let mut bench = bench(OnDelete::Delete);
    bench.settings.delete_brake = None;
    let mut agent = level(&bench, 300).await;
    bench.tree.remove(&path("d1"));
    agent.level_again().await;
    assert_eq!(keys(&bench).len(), 200);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn under_trash_the_object_is_set_aside_and_goes_after_its_time() {
    let mut bench = bench(OnDelete::Trash);
    bench.settings.trash_keep = Duration::from_secs(24 * 3600);
    let mut agent = level(&bench, 3).await;
    bench.tree.remove(&path("d0/f0"));
    agent.level_again().await;
    assert_eq!(bench.object("d0/f0"), None);
    let aside = trash(&bench);
    assert_eq!(aside.len(), 1);
    assert!(aside[0].ends_with("/d0/f0"), "{aside:?}");
    assert_eq!(
        bench.bucket.objects()[&aside[0]].bytes,
        b"content 0".to_vec()
    );
    sleep(Duration::from_secs(23 * 3600)).await;
    assert_eq!(trash(&bench).len(), 1);
    sleep(Duration::from_secs(2 * 3600)).await;
    assert_eq!(trash(&bench).len(), 0);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_file_that_comes_back_before_its_second_listing_keeps_its_object() {
    let bench = bench(OnDelete::Delete);
    let mut agent = level(&bench, 3).await;
    bench.tree.remove(&path("d0/f0"));
    sleep(Duration::from_millis(1500)).await;
    bench.tree.write(&path("d0/f0"), b"content 0");
    agent.level_again().await;
    assert_eq!(bench.bucket.counts().of("DeleteObject"), 0);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_sync_removes_what_is_gone_after_a_second_look() {
    let bench = bench(OnDelete::Delete);
    level(&bench, 9).await.stop().await;
    bench.tree.remove(&path("d0/f0"));
    let ended = bench.sync().await;
    assert_eq!(
        (ended.reason, ended.last.tally.deleted, ended.last.level),
        (Reason::Finished, 1, true)
    );
    let requests = bench.bucket.counts().total();
    assert!(bench.sync().await.last.level);
    assert_eq!(
        bench.bucket.counts().total(),
        requests,
        "a level sync asks nothing"
    );
}

#[tokio::test(start_paused = true)]
async fn an_unmounted_or_emptied_root_removes_nothing_and_resumes_by_itself() {
    for mount in [Mount::Gone, Mount::Emptied] {
        let bench = bench(OnDelete::Delete);
        let mut agent = level(&bench, 9).await;
        bench.tree.mount(mount);
        bench.tree.overflow();
        sleep(30 * MINUTE).await;
        assert_eq!(keys(&bench).len(), 9, "{mount:?}");
        assert!(!agent.snapshots.borrow().level, "{mount:?}");
        bench
            .tree
            .write(&path("d0/new"), b"written while nobody looked");
        bench.tree.mount(Mount::Here);
        sleep(30 * MINUTE).await;
        agent.level().await;
        assert_eq!(keys(&bench).len(), 10, "{mount:?}");
        assert_eq!(bench.bucket.counts().of("DeleteObject"), 0, "{mount:?}");
        agent.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn another_root_is_not_believed_about_a_file_whose_first_answer_was_lost() {
    let bench = bench(OnDelete::Delete);
    bench.tree.write(&path("only"), b"content");
    bench
        .store
        .rule(|operation, _| (operation == "PutObject").then_some(Fault::Lost));
    let agent = bench.start(Mode::Forever);
    while bench.object("only").is_none() {
        sleep(Duration::from_millis(10)).await;
    }
    agent.task.abort();
    assert!(agent.task.await.unwrap_err().is_cancelled());
    bench.store.calm();
    // No row says yet what is in the bucket, so no row can tell whether this is the folder.
    bench.tree.mount(Mount::Other);
    let mut agent = bench.start(Mode::Forever);
    sleep(30 * MINUTE).await;
    assert!(bench.object("only").is_some());
    assert_eq!(bench.bucket.counts().of("DeleteObject"), 0);
    bench.tree.mount(Mount::Here);
    sleep(15 * MINUTE).await;
    agent.level().await;
    assert!(bench.object("only").is_some());
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_below_a_folder_that_cannot_be_read_is_removed() {
    let bench = bench(OnDelete::Delete);
    let mut agent = level(&bench, 9).await;
    bench.tree.close(&path("d1"), true);
    bench.tree.remove(&path("d2/f2"));
    bench.tree.overflow();
    sleep(30 * MINUTE).await;
    assert_eq!(keys(&bench).len(), 8);
    assert!(bench.object("d1/f1").is_some());
    bench.tree.close(&path("d1"), false);
    sleep(15 * MINUTE).await;
    agent.level().await;
    assert_eq!(bench.bucket.counts().of("DeleteObject"), 1);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_mass_deletion_is_held_until_a_person_decides() {
    let bench = bench(OnDelete::Delete);
    let mut agent = level(&bench, 300).await;
    bench.tree.remove(&path("d1"));
    agent.held(100).await;
    bench.tree.write(&path("d0/new"), b"uploads go on");
    agent.until_uploaded("d0/new").await;
    assert_eq!(keys(&bench).len(), 301);
    assert_eq!(bench.bucket.counts().of("DeleteObject"), 0);
    assert_eq!(agent.ask(Request::Release).await, 100);
    // Not only when the next scan is due.
    timeout(MINUTE, agent.level_again()).await.expect("soon");
    assert_eq!(keys(&bench).len(), 201);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn held_deletes_outlive_a_restart_and_a_refused_one_keeps_its_object() {
    let bench = bench(OnDelete::Delete);
    level(&bench, 300).await.stop().await;
    bench.tree.remove(&path("d1"));
    let ended = bench.sync().await;
    assert_eq!(
        (ended.reason, ended.last.held, ended.last.level),
        (Reason::Finished, 100, false)
    );
    let mut agent = bench.start(Mode::Forever);
    agent.held(100).await;
    bench.tree.write(&path("d1/f1"), b"back again");
    agent.held(99).await;
    assert_eq!(agent.ask(Request::Drop).await, 99);
    agent.level_again().await;
    assert_eq!(keys(&bench).len(), 300);
    sleep(30 * MINUTE).await;
    assert_eq!(bench.bucket.counts().of("DeleteObject"), 0);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_renamed_folder_is_copied_without_reading_and_is_no_mass_deletion() {
    for on_delete in [OnDelete::Keep, OnDelete::Delete] {
        let bench = bench(on_delete);
        let mut agent = level(&bench, 300).await;
        let (puts, reads) = (bench.bucket.counts().of("PutObject"), bench.tree.reads());
        bench.tree.rename(&path("d1"), &path("moved"));
        agent.level_again().await;
        assert_eq!(bench.bucket.counts().of("PutObject"), puts, "{on_delete:?}");
        assert_eq!(bench.tree.reads(), reads, "{on_delete:?}");
        assert_eq!(bench.object("moved/f1").unwrap(), b"content 1");
        let left = if on_delete == OnDelete::Keep {
            400
        } else {
            300
        };
        assert_eq!(keys(&bench).len(), left, "{on_delete:?}");
        agent.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn no_instant_of_a_rename_has_neither_object() {
    let bench = bench(OnDelete::Delete);
    let mut agent = level(&bench, 30).await;
    bench
        .store
        .next("CopyObject", Fault::Refused(ErrorKind::Busy));
    bench.tree.rename(&path("d1"), &path("moved"));
    let both = async {
        loop {
            for n in (1..30).step_by(3) {
                let there = |folder: &str| bench.object(&format!("{folder}/f{n}")).is_some();
                assert!(there("d1") || there("moved"), "f{n}");
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        () = agent.level_again() => {}
        () = both => {}
    }
    assert_eq!(keys(&bench).len(), 30);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_swap_and_a_chain_of_names_end_with_the_right_contents() {
    let bench = bench(OnDelete::Delete);
    let mut agent = level(&bench, 3).await;
    let (a, b, c) = (path("d0/f0"), path("d1/f1"), path("d2/f2"));
    bench.tree.rename(&a, &path("t"));
    bench.tree.rename(&b, &a);
    bench.tree.rename(&c, &b);
    bench.tree.rename(&path("t"), &c);
    agent.level_again().await;
    let content = |name: &str| String::from_utf8(bench.object(name).unwrap()).unwrap();
    let all = ["d0/f0", "d1/f1", "d2/f2"].map(content);
    assert_eq!(all, ["content 1", "content 2", "content 0"]);
    assert_eq!(keys(&bench).len(), 3);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_written_and_renamed_at_once_is_read() {
    let bench = bench(OnDelete::Delete);
    let mut agent = level(&bench, 3).await;
    bench.tree.write_secretly(&path("d0/f0"), b"CONTENT 0");
    bench.tree.rename(&path("d0/f0"), &path("d0/g0"));
    agent.level_again().await;
    assert_eq!(bench.object("d0/g0").unwrap(), b"CONTENT 0");
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn with_history_the_old_object_is_set_aside_before_it_is_overwritten() {
    let mut bench = bench(OnDelete::Keep);
    bench.settings.history = History::Trash;
    let mut agent = level(&bench, 3).await;
    bench.tree.write(&path("d0/f0"), b"newer");
    agent.until_uploaded("d0/f0").await;
    agent.level_again().await;
    let aside = trash(&bench);
    assert_eq!(aside.len(), 1);
    assert_eq!(
        bench.bucket.objects()[&aside[0]].bytes,
        b"content 0".to_vec()
    );
    assert_eq!(bench.object("d0/f0").unwrap(), b"newer");
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_mass_rewrite_goes_into_quarantine_until_a_person_decides() {
    for request in [Request::Release, Request::Drop] {
        let mut bench = bench(OnDelete::Keep);
        bench.settings.overwrite_brake = Some(Brake {
            files: 10,
            share_percent: None,
            window: 10 * MINUTE,
        });
        let mut agent = level(&bench, 60).await;
        for n in 0..60 {
            bench.tree.write(
                &path(&format!("d{}/f{n}", n % 3)),
                format!("encrypted {n}").as_bytes(),
            );
        }
        agent.held(50).await;
        let good = |bench: &Bench| {
            (0..60)
                .filter(|n| {
                    bench
                        .object(&format!("d{}/f{n}", n % 3))
                        .unwrap()
                        .starts_with(b"content")
                })
                .count()
        };
        let waiting = |bench: &Bench| {
            keys(bench)
                .iter()
                .filter(|key| key.contains("/quarantine/"))
                .count()
        };
        assert_eq!((good(&bench), waiting(&bench)), (50, 50));
        sleep(30 * MINUTE).await;
        assert_eq!((good(&bench), waiting(&bench)), (50, 50));
        assert_eq!(agent.ask(request.clone()).await, 50);
        agent.level_again().await;
        sleep(30 * MINUTE).await;
        match request {
            Request::Drop => assert_eq!(good(&bench), 50),
            _ => assert_eq!((good(&bench), waiting(&bench)), (0, 0)),
        }
        agent.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_object_that_somebody_else_wrote_is_not_removed() {
    let bench = bench(OnDelete::Delete);
    let mut agent = level(&bench, 3).await;
    bench.bucket.plant("p/d0/f0", b"theirs");
    bench.tree.remove(&path("d0/f0"));
    agent.level_again().await;
    assert_eq!(bench.object("d0/f0").unwrap(), b"theirs");
    bench.tree.write(&path("d0/f0"), b"ours again");
    sleep(MINUTE).await;
    agent.level().await;
    let aside = trash(&bench);
    assert_eq!(bench.bucket.objects()[&aside[0]].bytes, b"theirs".to_vec());
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_delete_whose_answer_was_lost_does_not_hurt_what_comes_after() {
    let bench = bench(OnDelete::Delete);
    let mut agent = level(&bench, 3).await;
    bench
        .store
        .next("DeleteObject", Fault::Late(Duration::from_secs(300)));
    bench.tree.remove(&path("d0/f0"));
    sleep(Duration::from_secs(20)).await;
    bench.tree.write(&path("d0/f0"), b"content 0");
    agent.until_uploaded("d0/f0").await;
    sleep(40 * MINUTE).await;
    agent.level().await;
    assert_eq!(bench.object("d0/f0").unwrap(), b"content 0");
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_changed_config_deletes_nothing() {
    let mut bench = bench(OnDelete::Delete);
    level(&bench, 9).await.stop().await;
    bench.exclude = vec!["/d1/".to_owned()];
    let mut agent = bench.start(Mode::Forever);
    agent.level().await;
    sleep(30 * MINUTE).await;
    assert_eq!(keys(&bench).len(), 9);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn another_root_is_used_only_when_a_person_says_so() {
    let bench = bench(OnDelete::Delete);
    let mut agent = level(&bench, 9).await;
    bench.tree.mount(Mount::Gone);
    bench.tree.overflow();
    sleep(10 * MINUTE).await;
    assert!(agent.snapshots.borrow().away.is_some());
    agent.ask(Request::AcceptRoot).await;
    // Even then an empty folder removes nothing by itself.
    agent.held(9).await;
    assert_eq!(keys(&bench).len(), 9);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_back_just_before_its_removal_keeps_its_object() {
    let mut bench = Bench::new(slow(5_000));
    bench.settings.on_delete = OnDelete::Trash;
    let mut agent = level(&bench, 3).await;
    let heads = bench.bucket.counts().of("HeadObject");
    bench.tree.remove(&path("d0/f0"));
    while bench.bucket.counts().of("HeadObject") == heads {
        sleep(Duration::from_millis(100)).await;
    }
    // Its object is on the way into trash: the removal itself comes five seconds later.
    bench.tree.write(&path("d0/f0"), b"content 0");
    sleep(MINUTE).await;
    agent.level().await;
    assert_eq!(bench.bucket.counts().of("DeleteObject"), 0);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn more_files_than_are_weighed_at_once_are_one_question_for_the_brake() {
    let mut bench = bench(OnDelete::Delete);
    bench.settings.delete_brake = Some(Brake {
        files: 1_000,
        share_percent: None,
        window: 10 * MINUTE,
    });
    let mut agent = level(&bench, 3_300).await;
    bench.tree.remove(&path("d1"));
    // An upload that takes its time holds the question back.
    bench.tree.write(&path("d0/slow"), &vec![1; 1 << 20]);
    agent.held(1_100).await;
    assert_eq!(bench.bucket.counts().of("DeleteObject"), 0);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_undecided_overwrite_stays_held_whatever_comes_after() {
    let mut bench = bench(OnDelete::Keep);
    bench.settings.overwrite_brake = Some(Brake {
        files: 2,
        share_percent: None,
        window: 10 * MINUTE,
    });
    let mut agent = level(&bench, 9).await;
    for n in 0..9 {
        bench.tree.write(
            &path(&format!("d{}/f{n}", n % 3)),
            format!("encrypted {n}").as_bytes(),
        );
    }
    agent.held(7).await;
    sleep(60 * MINUTE).await;
    // The window has passed; a newer version waits in the place of the one before.
    for n in 0..9 {
        bench.tree.write(
            &path(&format!("d{}/f{n}", n % 3)),
            format!("encrypted again {n}").as_bytes(),
        );
    }
    sleep(60 * MINUTE).await;
    let is_good = |n: &usize| {
        bench
            .object(&format!("d{}/f{n}", n % 3))
            .unwrap()
            .starts_with(b"content")
    };
    assert_eq!((0..9).filter(is_good).count(), 7);
    assert_eq!(agent.snapshots.borrow().held, 7);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_object_that_cannot_be_removed_is_tried_again_and_named() {
    let bench = bench(OnDelete::Delete);
    let mut agent = level(&bench, 3).await;
    for _ in 0..3 {
        bench
            .store
            .next("DeleteObject", Fault::Refused(ErrorKind::Invalid));
    }
    bench.tree.remove(&path("d0/f0"));
    let failed = agent.snapshots.wait_for(|snapshot| snapshot.failed == 1);
    timeout(30 * MINUTE, failed)
        .await
        .expect("it is named")
        .unwrap();
    agent.level_again().await;
    assert_eq!(bench.object("d0/f0"), None);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_sync_that_cannot_remove_an_object_ends() {
    let bench = bench(OnDelete::Delete);
    level(&bench, 3).await.stop().await;
    for _ in 0..50 {
        bench
            .store
            .next("DeleteObject", Fault::Refused(ErrorKind::Invalid));
    }
    bench.tree.remove(&path("d0/f0"));
    let ended = bench.sync().await;
    assert_eq!(
        (ended.reason, ended.last.failed, ended.last.level),
        (Reason::Finished, 1, false)
    );
}

#[tokio::test(start_paused = true)]
async fn the_old_object_stays_while_the_new_name_cannot_be_stored() {
    let bench = bench(OnDelete::Delete);
    let mut agent = level(&bench, 3).await;
    for _ in 0..40 {
        bench
            .store
            .next("CopyObject", Fault::Refused(ErrorKind::Conflict));
        bench
            .store
            .next("PutObject", Fault::Refused(ErrorKind::Conflict));
    }
    bench.tree.rename(&path("d0/f0"), &path("d0/new"));
    for _ in 0..30 {
        sleep(MINUTE).await;
        assert!(bench.object("d0/f0").is_some() || bench.object("d0/new").is_some());
    }
    sleep(240 * MINUTE).await;
    agent.level().await;
    assert_eq!(bench.object("d0/new").unwrap(), b"content 0");
    assert_eq!(bench.object("d0/f0"), None);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_was_made_and_could_not_be_looked_at_is_not_forgotten() {
    let bench = bench(OnDelete::Delete);
    // Its ETag is of parts, and that of a copy is not: only a look tells that the copy is what was meant.
    bench.tree.write(&path("large"), &vec![7; 17 << 20]);
    bench.tree.write(&path("stays"), b"here");
    let mut agent = bench.start(Mode::Forever);
    agent.level().await;
    sleep(MINUTE).await;
    bench.store.rule(|operation, key| {
        let is_look = operation == "HeadObject" && key == "p/large";
        is_look.then_some(Fault::Lost)
    });
    bench.tree.write(&path("too"), &vec![7; 17 << 20]);
    let made = async {
        while !keys(&bench).iter().any(|key| key == "p/too") {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(10 * MINUTE, made).await.expect("it is copied");
    bench.tree.remove(&path("too"));
    bench.store.rule(|_, _| None);
    timeout(120 * MINUTE, async {
        while keys(&bench).iter().any(|key| key == "p/too") {
            sleep(MINUTE).await;
        }
    })
    .await
    .expect("it goes with its file");
    agent.level().await;
    agent.stop().await;
}
