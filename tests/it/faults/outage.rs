//! The bucket goes away and comes back: nobody spins meanwhile, and all is level soon after.

use std::time::Duration;

use tidewatch::agent::{Mode, Reason};
use tidewatch::base::clock::Clock;
use tidewatch::store::ErrorKind;
use tokio::time::sleep;

use crate::agent::{Bench, passed, path, slow};
use crate::support::faulty::{Fault, Odds};

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn twenty_minutes_without_a_bucket_cost_little_and_end_within_a_minute() {
    for kind in [ErrorKind::Network, ErrorKind::Busy] {
        let bench = Bench::new(slow(30));
        for n in 0..300_u32 {
            let name = path(&format!("d{}/f{n}", n % 7));
            bench.tree.write(&name, &n.to_be_bytes());
        }
        let mut agent = bench.start(Mode::Forever);
        agent.level().await;
        bench.store.rule(move |_, _| Some(Fault::Refused(kind)));
        let before = bench.store.asked("*", "");
        let began = Clock::Real.now().mono;
        let mut n = 1_000_u32;
        while passed(began) < 20 * MINUTE {
            let name = path(&format!("d{}/f{n}", n % 7));
            bench.tree.write(&name, &n.to_be_bytes());
            n += 1;
            sleep(Duration::from_secs(2)).await;
        }
        let asked = bench.store.asked("*", "") - before;
        // Fifty until the failures prove it, pauses that double up to a minute, and one or two requests at each.
        assert!(asked < 150, "{kind}: {asked} requests in twenty minutes");
        assert!(agent.snapshots.borrow().outage.is_some(), "{kind}");
        bench.store.rule(|_, _| None);
        let ended = Clock::Real.now().mono;
        agent.level().await;
        assert!(
            passed(ended) <= MINUTE + Duration::from_secs(5),
            "{kind}: level after {:?}",
            passed(ended)
        );
        agent.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_asks_to_be_left_alone_is_left_alone() {
    let bench = Bench::new(slow(30));
    let mut agent = bench.start(Mode::Forever);
    agent.level().await;
    bench.store.ask_for_patience(Duration::from_secs(300));
    bench
        .store
        .next("PutObject", Fault::Refused(ErrorKind::Busy));
    bench.tree.write(&path("first"), b"1");
    sleep(Duration::from_secs(10)).await;
    bench.tree.write(&path("second"), b"2");
    let before = bench.store.asked("*", "");
    sleep(Duration::from_secs(280)).await;
    assert_eq!(bench.store.asked("*", "") - before, 0);
    agent.level().await;
    assert_eq!(bench.bucket.objects().len(), 2);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_bucket_that_answers_and_takes_a_file_never_is_a_silence_too() {
    let bench = Bench::new(Odds::default());
    bench.tree.write(&path("fine"), b"fine");
    bench.tree.write(&path("never"), b"never");
    let reset = Fault::Refused(ErrorKind::Network);
    bench.store.rule(move |operation, key| {
        (operation == "PutObject" && key == "p/never").then_some(reset)
    });
    let timeout = Duration::from_secs(15);
    let began = Clock::Real.now().mono;
    let agent = bench.start(Mode::Once { timeout });
    let ended = agent.task.await.unwrap();
    let took = passed(began);
    let Reason::Store(why) = &ended.reason else {
        panic!("{:?}", ended.reason);
    };
    assert!(why.starts_with("nothing could be sent for 15s: "), "{why}");
    // From its last success on; a try that is under way is not waited for.
    assert!(took < timeout + Duration::from_secs(5), "{took:?}");
    assert_eq!(bench.object("fine").unwrap(), b"fine");
    assert_eq!(bench.object("never"), None);
}
