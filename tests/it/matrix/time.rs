//! Rows 57 and 58: clocks that jump, and machines that sleep.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;
use tidewatch::base::clock::Clock;
use tidewatch::base::policy::OnDelete;
use tokio::time::sleep;

use crate::agent::{Bench, path};
use crate::process::{World, complaints};
use crate::support::endpoint::Fault;
use crate::support::faulty::Odds;
use crate::watching::child::Program;
use crate::watching::rig::{ms, pace};
use crate::watching::table::row;

#[tokio::test(start_paused = true)]
async fn r57_a_clock_that_jumps_skips_no_change_and_deletes_nothing() {
    const DAY_NS: i64 = 24 * 3600 * 1_000_000_000;
    let mut row = row!();
    row.but_not("with the binary's own clock");
    let mut bench = Bench::new(Odds::default());
    bench.settings.on_delete = OnDelete::Delete;
    for n in 0..20 {
        bench.tree.write(&path(&format!("f{n}")), b"before");
    }
    sleep(Duration::from_secs(10)).await;
    assert!(bench.sync().await.last.level);
    for (turn, jump_ns) in [-DAY_NS, 366 * DAY_NS, -366 * DAY_NS]
        .into_iter()
        .enumerate()
    {
        bench.clock = Clock::Virtual {
            since: Clock::Real.now().mono,
            wall_ns: bench.clock.now().wall_ns + jump_ns,
        };
        // The machine's clock is the filesystem's too.
        bench.tree.watch(None, bench.clock);
        bench.bucket.reset_counts();
        let content = format!("turn {turn}");
        bench.tree.write(&path("f1"), content.as_bytes());
        let ended = bench.sync().await;
        assert!(
            ended.last.failed == 0 && ended.last.held == 0,
            "{:?}",
            ended.last
        );
        assert_eq!(bench.object("f1").unwrap(), content.as_bytes());
        let counts = bench.bucket.counts();
        assert_eq!(
            counts.of("PutObject"),
            1,
            "what has not changed is not sent"
        );
        assert_eq!(counts.of("DeleteObject") + counts.of("DeleteObjects"), 0);
    }
}

#[tokio::test]
async fn r57_a_clock_that_the_store_does_not_accept_is_told_for_what_it_is() {
    let mut row = row!();
    row.but_not("with the binary's own clock");
    let world = World::new().await;
    world.write("a", "a");
    world
        .endpoint
        .always("*", Fault::Error(403, "RequestTimeTooSkewed"));
    let ended = world.sync(&["--timeout", "2s"]).await;
    assert_eq!(ended.code, Some(5), "{}", ended.err);
    let said = complaints(&ended).join("\n");
    assert!(said.contains("clock"), "{}", ended.err);
    world.endpoint.clear();
    world.sync_level().await;
}

#[test]
fn r58_what_happens_while_it_sleeps_is_found_when_it_wakes() {
    let mut row = row!();
    row.but_not("for hours");
    let mut program = Program::new();
    fs::write(program.at("f"), "before").unwrap();
    program.start();
    program.level();
    program.until("a level status", Program::is_level);
    program.signal(Signal::STOP);
    fs::write(program.at("f"), "changed meanwhile").unwrap();
    fs::write(program.at("new"), "made meanwhile").unwrap();
    // A sleep takes time: the row is about it.
    pace(ms(300));
    program.signal(Signal::CONT);
    program.probe();
    program.until("a level status", Program::is_level);
}
