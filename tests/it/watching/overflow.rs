//! Rows 9 to 16: overflows, and more at once than anybody keeps up with.

use std::fs;
use std::io::Write as _;
use std::sync::atomic::Ordering;
use std::thread;

use rustix::process::Signal;

use crate::watching::child::Program;
use crate::watching::quiet::Looks;
use crate::watching::rig::{Rig, With, ms, now, pace, scale, write};
use crate::watching::table::row;

#[test]
fn w09_an_overflow_is_noticed_and_made_good() {
    let _row = row!();
    let mut program = Program::new();
    fs::create_dir(program.at("there")).unwrap();
    program.start();
    program.until("a level status", Program::is_level);
    program.signal(Signal::STOP);
    // The kernel keeps 16,384 events; equal neighbours are one, so the files take turns.
    for n in 0..20_000 {
        fs::write(program.at(format!("there/{}", n % 200)), n.to_string()).unwrap();
    }
    for n in 0..scale(200, 400) {
        write(&program.at(format!("new/{n}/file")), n.to_string());
    }
    program.signal(Signal::CONT);
    program.probe();
    let lost = program.log().matches("events were lost").count();
    assert!(lost >= 1, "{}", program.log());
}

#[test]
fn w10_files_in_new_folders_arrive_however_slow_the_hints_are() {
    let _row = row!();
    let (folders, files) = scale((25, 40), (500, 100));
    let mut rig = Rig::started(With {
        per_hint: ms(1),
        // So that nothing says that something was lost.
        hints: 1 << 20,
        ..With::default()
    });
    for folder in 0..folders {
        for file in 0..files {
            rig.write(format!("{folder}/{file}"), format!("{folder} {file}"));
        }
    }
    rig.level();
    rig.with.per_hint = ms(0);
    rig.probe();
}

#[test]
fn w11_a_rescan_causes_no_loss() {
    let _row = row!();
    let folders = scale(9_000, 40_000);
    let mut rig = Rig::new(With {
        rescan: ms(1_000),
        ..With::default()
    });
    for n in 0..folders {
        fs::create_dir_all(rig.at(format!("{}/{n}", n % 90))).unwrap();
    }
    rig.start();
    let looks = Looks::at(&rig.at("0/0"));
    rig.until("two more scans, and the beginning of a third", |_| {
        looks.seen() >= 3
    });
    assert_eq!(rig.lost(), 0);
    assert_eq!(
        rig.tap.hints.load(Ordering::SeqCst),
        0,
        "our own reading is no hint"
    );
}

#[test]
fn w12_a_loss_during_the_rescan_orders_one_more() {
    let _row = row!();
    let mut program = Program::new();
    for n in 0..500 {
        fs::create_dir_all(program.at(format!("{}/{n}", n % 20))).unwrap();
    }
    program.start();
    program.until("a level status", Program::is_level);
    for round in 0..2 {
        program.signal(Signal::STOP);
        for n in 0..18_000 {
            fs::write(
                program.at(format!("{}/file", n % 20)),
                format!("{round} {n}"),
            )
            .unwrap();
        }
        program.signal(Signal::CONT);
    }
    program.level();
    program.until("a level status", Program::is_level);
    // Quiet: what it said of losses does not grow any more, for longer than the pause between two such scans.
    let said = program.log().matches("events were lost").count();
    assert!((1..=6).contains(&said), "{said}");
    // Time has to pass, because the row says that nothing happens in it.
    pace(ms(3_000));
    assert_eq!(program.log().matches("events were lost").count(), said);
}

#[test]
fn w13_hints_that_do_not_fit_count_as_lost() {
    let _row = row!();
    let mut rig = Rig::started(With {
        hints: 64,
        ..With::default()
    });
    for n in 0..20 {
        fs::create_dir(rig.at(n.to_string())).unwrap();
    }
    rig.probe();
    let until = now() + scale(ms(2_000), ms(5_000));
    let threads: Vec<_> = (0..2)
        .map(|thread| {
            let root = rig.root.clone();
            thread::spawn(move || {
                let mut n = 0_u64;
                while now() < until {
                    n += 1;
                    let at = root.join(format!("{}/{thread}-{}", n % 20, n % 97));
                    fs::write(at, n.to_string()).unwrap();
                }
            })
        })
        .collect();
    for one in threads {
        one.join().unwrap();
    }
    rig.probe();
}

#[test]
fn w14_a_write_after_a_big_removal_is_soon_there() {
    let _row = row!();
    let (folders, removed) = scale((6_000, 2_000), (70_000, 5_000));
    let mut rig = Rig::new(With::default());
    for n in 0..folders {
        let top = if n < removed { "gone" } else { "stays" };
        fs::create_dir_all(rig.at(format!("{top}/{}/{n}", n % 100))).unwrap();
    }
    fs::create_dir(rig.at("elsewhere")).unwrap();
    rig.start();
    fs::remove_dir_all(rig.at("gone")).unwrap();
    rig.write("elsewhere/file", "one write");
    let began = now();
    rig.level();
    let took = now() - began;
    assert!(took < rig.with.settle + ms(5_000), "{took:?}");
}

#[test]
fn w15_rounds_of_new_folders_do_not_grow_the_memory() {
    let _row = row!();
    let mut program = Program::new();
    program.start();
    program.until("a level status", Program::is_level);
    let mut used = Vec::new();
    let folders = scale(1_000, 50_000);
    for round in 0..5 {
        for n in 0..folders {
            fs::create_dir_all(program.at(format!("round/{}/{n}", n % 50))).unwrap();
        }
        // Behind everything else in the queue.
        write(&program.at("round/last"), format!("{round}"));
        program.level();
        fs::remove_dir_all(program.at("round")).unwrap();
        fs::write(program.at("done"), format!("{round}")).unwrap();
        program.level();
        used.push(memory_kib(&program));
    }
    assert!(used[4] <= used[1] + used[1] / 10, "{used:?}");
}

fn memory_kib(program: &Program) -> u64 {
    let pid = program.pid().as_raw_nonzero();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let words = line.expect("a line for it").split_whitespace();
    words.into_iter().nth(1).unwrap().parse().unwrap()
}

#[test]
fn w16_many_small_writes_cost_few_uploads() {
    let _row = row!();
    let mut rig = Rig::started(With::default());
    let mut file = fs::File::create(rig.at("busy")).unwrap();
    for n in 0..100_000_u32 {
        file.write_all(&[n as u8]).unwrap();
    }
    drop(file);
    rig.level();
    let uploads = rig.versions("busy").len();
    assert!((1..=20).contains(&uploads), "{uploads}");
    rig.probe();
}
