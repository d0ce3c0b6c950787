//! Files that somebody holds open and writes to without rest: of those that only grow the beginning is sent.

use std::fs::{self, File};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::time::Duration;

use tidewatch::agent::Mode;
use tidewatch::base::buffers::Pool;
use tidewatch::base::clock::Clock;
use tidewatch::base::digest::Sha256;
use tidewatch::base::snapshot::What;
use tidewatch::tree::real::RealTree;
use tidewatch::tree::{Beginning, ReadError, Whole, read_beginning};

use crate::reads::bench::{Bench, Restless, now_ns, open_to_write, path, until};

/// Lines of a log, none like another, of about so many bytes.
fn lines(bytes: usize) -> Vec<u8> {
    let mut all = Vec::new();
    for n in 0.. {
        writeln!(all, "line {n} of what was there before").unwrap();
        if all.len() >= bytes {
            break;
        }
    }
    all
}

/// Holds a file open and appends a line every few milliseconds.
fn appender(bench: &Bench, name: &str) -> Restless {
    let options = File::options().append(true).create(true).clone();
    let mut file = options.open(bench.at(name)).unwrap();
    let mut n = 0_u64;
    Restless::new(move |_| {
        n += 1;
        writeln!(file, "appended {n}").unwrap();
    })
}

/// WATCHING 58, also of a file that is sent by parts.
#[tokio::test(flavor = "multi_thread")]
async fn of_a_log_that_never_rests_the_beginning_is_sent_now_and_then() {
    for size in [1 << 10, 17 << 20] {
        log_that_never_rests(size).await;
    }
}

async fn log_that_never_rests(size: usize) {
    let mut bench = Bench::new(None);
    bench.max_wait = Duration::from_millis(300);
    bench.write("log", &lines(size));
    let writer = appender(&bench, "log");
    let mut agent = bench.start(Mode::Forever);
    let began_ns = now_ns();
    let mut versions = Vec::new();
    for _ in 0..3 {
        agent.uploaded("log").await;
        versions.push(bench.object("log").unwrap());
        agent
            .until("named", |now| now.unsyncable == 1 && !now.level)
            .await;
    }
    let elapsed_ms = (now_ns() - began_ns) / 1_000_000;
    // Each is due only when it has been waited for as long as for the first one.
    assert!(elapsed_ms >= 3 * 300, "{elapsed_ms} ms");
    assert!(bench.content("log").unwrap().doubtful);
    tokio::task::spawn_blocking(|| writer.stop()).await.unwrap();
    agent.level(&bench, "log").await;
    agent
        .until("named no more", |now| now.unsyncable == 0)
        .await;
    let last = bench.object("log").unwrap();
    for version in &versions {
        assert!(version.len() >= size && version.len() < last.len());
        assert!(last.starts_with(version), "no beginning of it");
    }
    assert!(versions.is_sorted_by_key(Vec::len));
    agent.stop().await;
}

/// A file that is rewritten in place is not safe at any instant that could be met, whether or not it grows as well.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_rewritten_in_place_without_rest_is_not_recorded() {
    const SIZE: usize = 1 << 20;
    for grows in [0, 512] {
        let mut bench = Bench::new(None);
        bench.max_wait = Duration::from_millis(100);
        bench.write("db", &vec![1; SIZE]);
        let mut file = open_to_write(bench.at("db"));
        let mut size = SIZE;
        let writer = Restless::new(move |byte| {
            size += grows;
            file.seek(SeekFrom::Start(0)).unwrap();
            file.write_all(&vec![byte; size]).unwrap();
        });
        let mut agent = bench.start(Mode::Forever);
        agent.until("named", |now| now.unsyncable == 1).await;
        // Some more tries, which must all come to nothing.
        let opened = bench.opened();
        until("more tries", || bench.opened() >= opened + 5).await;
        assert!(bench.object("db").is_none() && bench.content("db").is_none());
        tokio::task::spawn_blocking(|| writer.stop()).await.unwrap();
        agent.level(&bench, "db").await;
        agent.stop().await;
    }
}

/// A run that ends sends the beginning too, and says that it is no more than that.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_ends_sends_the_beginning_and_is_not_level() {
    let bench = Bench::new(None);
    bench.write("log", &lines(1 << 10));
    let writer = appender(&bench, "log");
    let ended = bench.sync().await.last;
    assert_eq!((ended.tally.uploaded, ended.unsyncable), (1, 1));
    assert!(!ended.level);
    tokio::task::spawn_blocking(|| writer.stop()).await.unwrap();
    let object = bench.object("log").unwrap();
    assert!(fs::read(bench.at("log")).unwrap().starts_with(&object));
    assert!(bench.sync().await.last.level);
}

/// Status names it once, not each time that more of it is sent.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_never_rests_is_named_once() {
    let bench = Bench::new(None);
    bench.write("log", &lines(1 << 10));
    let writer = appender(&bench, "log");
    let mut agent = bench.start(Mode::Forever);
    let mut said = Vec::new();
    let mut uploads = 0;
    while uploads < 3 {
        let happening = agent.happenings.recv().await.expect("the agent runs");
        uploads += u32::from(happening.what == What::Uploaded);
        said.extend(happening.error);
    }
    said.retain(|why| why.contains("what was sent is its beginning at an instant"));
    assert_eq!(said.len(), 1, "{said:?}");
    tokio::task::spawn_blocking(|| writer.stop()).await.unwrap();
    agent.level(&bench, "log").await;
    agent.stop().await;
}

/// What is read of one file at one try after another.
struct Tries {
    bench: Bench,
    tree: RealTree,
    before: Option<Beginning>,
}

impl Tries {
    fn new() -> Self {
        let bench = Bench::new(None);
        let tree = RealTree::open(&bench.root);
        Self {
            bench,
            tree,
            before: None,
        }
    }

    /// Returns what is taken, if anything is.
    fn next(&mut self) -> Option<Whole> {
        let (buffers, limit) = (Pool::new(0), 16 << 20);
        let file = path("f");
        match read_beginning(&self.tree, &file, limit, self.before, &buffers, Clock::Real) {
            Ok(whole) => Some(whole),
            Err(ReadError::Restless(beginning)) => {
                self.before = Some(*beginning);
                None
            }
            Err(ReadError::Moving) => None,
            Err(error) => panic!("{error}"),
        }
    }

    fn seen(&self) -> Option<Sha256> {
        self.before.expect("it was looked at").sha256
    }
}

#[test]
fn a_beginning_is_taken_only_of_a_file_that_has_grown_and_begins_as_before() {
    let mut tries = Tries::new();
    tries.bench.write("f", b"");
    assert!(tries.next().is_none() && tries.before.is_none(), "empty");
    tries.bench.write("f", b"one");
    assert!(tries.next().is_none(), "seen once");
    assert_eq!(tries.seen(), Some(Sha256::of(b"one")));
    assert!(tries.next().is_none(), "it has not grown");
    tries.bench.write("f", b"one, two");
    let whole = tries.next().expect("it has grown");
    assert_eq!((&whole.bytes[..], whole.stat.size), (&b"one"[..], 3));
    assert!(whole.doubtful && whole.is_beginning);
    let now = fs::metadata(tries.bench.at("f")).unwrap().len();
    assert_ne!(whole.stat.size, now, "the row is not level");
    // One that begins otherwise is let alone until it is shorter, or another one.
    tries.bench.write("f", b"ONE, two");
    assert!(tries.next().is_none());
    assert_eq!(tries.seen(), None);
    tries.bench.write("f", b"ONE, two, three");
    assert!(tries.next().is_none());
    assert_eq!(tries.seen(), None);
    tries.bench.write("f", b"1");
    assert!(tries.next().is_none());
    assert_eq!(tries.seen(), Some(Sha256::of(b"1")));
    // Its inode lives on under another name.
    fs::hard_link(tries.bench.at("f"), tries.bench.at("f.1")).unwrap();
    fs::remove_file(tries.bench.at("f")).unwrap();
    tries.bench.write("f", b"12");
    assert!(tries.next().is_none(), "another file");
    assert_eq!(tries.seen(), Some(Sha256::of(b"12")));
}
