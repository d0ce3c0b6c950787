//! An agent beside writers: what it records, and where it ends.

use std::fs::{self, File, FileTimes};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::thread;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use tidewatch::agent::Mode;
use tidewatch::base::snapshot::What;
use tidewatch::tree::real::RealTree;
use tidewatch::tree::{Lease, Tree as _};

use crate::reads::bench::{
    Bench, Restless, is_of_one_piece, now_ns, open_to_write, path, say, until,
};
use crate::support::mapping::Mapping;

/// The size of a file that is rewritten as a whole: large enough to be met half written.
const SIZE: usize = 4 << 20;

/// Lets an agent watch a file that is written without rest, until a few versions of it have been sent; each of them, and
/// the last one, has to be of one piece.
async fn never_torn(bench: &Bench, writer: impl FnMut(u8) + Send + 'static) {
    let mut agent = bench.start(Mode::Forever);
    let writer = Restless::new(writer);
    let looking = async {
        let mut versions = 0;
        while versions < 3 {
            let happening = agent.happenings.recv().await.expect("the agent runs");
            if happening.what == What::Uploaded {
                let object = bench.object("f").expect("it was uploaded");
                assert!(is_of_one_piece(&object), "a torn version was recorded");
                versions += 1;
            }
        }
    };
    // Not every machine lets so many reads through beside such a writer; those that it does must be whole.
    let few = tokio::time::timeout(Duration::from_secs(10), looking).await;
    say(&format!("versions met in time: {}", few.is_ok()));
    tokio::task::spawn_blocking(|| writer.stop()).await.unwrap();
    agent.level(bench, "f").await;
    assert!(is_of_one_piece(&bench.object("f").unwrap()));
    agent.stop().await;
}

/// WATCHING 46.
#[tokio::test(flavor = "multi_thread")]
async fn w46_a_file_rewritten_all_the_time_is_never_recorded_torn() {
    let bench = Bench::new(None);
    bench.write("f", &vec![1; SIZE]);
    let at = bench.at("f");
    never_torn(&bench, move |byte| {
        open_to_write(&at).write_all(&vec![byte; SIZE]).unwrap();
    })
    .await;
}

/// WATCHING 47.
#[tokio::test(flavor = "multi_thread")]
async fn w47_a_file_rewritten_through_a_mapping_is_never_recorded_torn() {
    let bench = Bench::new(None);
    bench.write("f", &vec![1; SIZE]);
    let at = bench.at("f");
    never_torn(&bench, move |byte| {
        let file = File::options().read(true).write(true).open(&at).unwrap();
        Mapping::new(&file, SIZE).fill(byte);
    })
    .await;
}

/// WATCHING 48.
#[tokio::test(flavor = "multi_thread")]
async fn w48_without_leases_rows_are_doubtful_until_a_second_read_agrees() {
    let mut bench = Bench::new(None);
    bench.eyes.leaseless = true;
    bench.write("f", &vec![1; SIZE]);
    let mut agent = bench.start(Mode::Forever);
    let at = bench.at("f");
    let writer = Restless::new(move |byte| {
        open_to_write(&at).write_all(&vec![byte; SIZE]).unwrap();
    });
    agent.uploaded("f").await;
    tokio::task::spawn_blocking(|| writer.stop()).await.unwrap();
    let is_doubtful = || bench.content("f").is_some_and(|content| content.doubtful);
    until("a doubtful row", is_doubtful).await;
    until("a doubt that ends", || !is_doubtful()).await;
    agent.level(&bench, "f").await;
    assert!(is_of_one_piece(&bench.object("f").unwrap()));
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_ends_leaves_a_doubtful_row_to_the_next_one() {
    let mut bench = Bench::new(None);
    bench.eyes.leaseless = true;
    bench.write("f", b"young");
    assert!(bench.sync().await.last.level);
    let first = bench.content("f").unwrap();
    assert!(first.doubtful);
    until("two seconds later", || {
        now_ns() >= first.read_at_ns + 2_100_000_000
    })
    .await;
    let opened = bench.opened();
    let ended = bench.sync().await;
    assert_eq!((bench.opened(), ended.last.tally.uploaded), (opened + 1, 0));
    assert!(!bench.content("f").unwrap().doubtful);
    bench.sync().await;
    assert_eq!(bench.opened(), opened + 1, "nothing is left to be read");
}

/// WATCHING 49.
#[tokio::test(flavor = "multi_thread")]
async fn w49_an_event_after_a_read_leads_to_another_read_though_the_stat_is_equal() {
    let mut bench = Bench::new(None);
    // An hour old, whatever is done to it.
    bench.eyes.frozen_ns = Some(now_ns() - 3_600_000_000_000);
    bench.write("f", b"old");
    let mut agent = bench.start(Mode::Forever);
    agent.level(&bench, "f").await;
    let opened = bench.opened();
    open_to_write(bench.at("f")).write_all(b"new").unwrap();
    agent.level(&bench, "f").await;
    assert_eq!(bench.object("f").unwrap(), b"new");
    assert!(bench.opened() > opened);
    agent.stop().await;
}

/// WATCHING 53.
#[tokio::test(flavor = "multi_thread")]
async fn w53_a_mapping_whose_file_is_closed_is_not_claimed_and_is_level_after_the_unmap() {
    let bench = Bench::new(None);
    bench.write("f", &vec![1; SIZE]);
    let mut agent = bench.start(Mode::Forever);
    agent.level(&bench, "f").await;
    let file = File::options()
        .read(true)
        .write(true)
        .open(bench.at("f"))
        .unwrap();
    let mut mapping = Mapping::new(&file, SIZE);
    drop(file);
    mapping.fill(2);
    // Something makes the agent look; what it finds is a file that somebody can write to.
    let only_ours = fs::Permissions::from_mode(0o600);
    fs::set_permissions(bench.at("f"), only_ours).unwrap();
    agent.until("not level", |snapshot| !snapshot.level).await;
    assert!(bench.object("f").unwrap().iter().all(|byte| *byte == 1));
    drop(mapping);
    agent.level(&bench, "f").await;
    assert!(bench.object("f").unwrap().iter().all(|byte| *byte == 2));
    agent.stop().await;
}

/// WATCHING 57, the first half.
#[tokio::test(flavor = "multi_thread")]
async fn w57_an_empty_moment_before_a_rewrite_is_not_the_last_word() {
    let bench = Bench::new(None);
    bench.write("f", b"before");
    let mut agent = bench.start(Mode::Forever);
    agent.level(&bench, "f").await;
    let mut file = File::create(bench.at("f")).unwrap();
    // The pause of the program that is played: the empty file is looked at meanwhile.
    tokio::time::sleep(Duration::from_millis(200)).await;
    file.write_all(b"after").unwrap();
    drop(file);
    agent.level(&bench, "f").await;
    assert_eq!(bench.object("f").unwrap(), b"after");
    agent.stop().await;
}

/// WATCHING 60.
#[tokio::test(flavor = "multi_thread")]
async fn w60_what_two_writers_with_one_descriptor_wrote_is_there() {
    let bench = Bench::new(None);
    bench.write("f", b"");
    let mut agent = bench.start(Mode::Forever);
    agent.level(&bench, "f").await;
    let opened = bench.opened();
    let mut one = open_to_write(bench.at("f"));
    let mut other = one.try_clone().unwrap();
    let first = thread::spawn(move || one.write_all(b"one ").unwrap());
    first.join().unwrap();
    // The first write has been looked at, whatever came of it, when the second one comes.
    until("a look", || bench.opened() > opened).await;
    let second = thread::spawn(move || other.write_all(b"other").unwrap());
    second.join().unwrap();
    agent.level(&bench, "f").await;
    assert_eq!(bench.object("f").unwrap(), b"one other");
    agent.stop().await;
}

/// WATCHING 61.
#[tokio::test(flavor = "multi_thread")]
async fn w61_a_change_that_puts_size_and_mtime_back_is_found_by_ctime() {
    let bench = Bench::new(None);
    bench.write("f", b"old");
    assert!(bench.sync().await.last.level);
    let before = fs::metadata(bench.at("f")).unwrap();
    let mut file = open_to_write(bench.at("f"));
    file.write_all(b"new").unwrap();
    let times = FileTimes::new().set_modified(before.modified().unwrap());
    file.set_times(times).unwrap();
    drop(file);
    let after = fs::metadata(bench.at("f")).unwrap();
    assert_eq!(
        (before.len(), before.mtime_nsec()),
        (after.len(), after.mtime_nsec())
    );
    assert!(bench.sync().await.last.level);
    assert_eq!(bench.object("f").unwrap(), b"new");
}

/// WATCHING 63.
#[tokio::test(flavor = "multi_thread")]
async fn w63_a_file_made_anew_in_the_same_second_is_read_anew() {
    let bench = Bench::new(None);
    same_inode_same_second(&bench).await;
}

/// Removes a file and makes another of the same size at once; most filesystems give it the same inode.
pub async fn same_inode_same_second(bench: &Bench) {
    bench.write("f", b"old");
    assert!(bench.sync().await.last.level);
    let before = fs::metadata(bench.at("f")).unwrap().ino();
    fs::remove_file(bench.at("f")).unwrap();
    bench.write("f", b"new");
    let after = fs::metadata(bench.at("f")).unwrap().ino();
    say(&format!("the same inode: {}", before == after));
    assert!(bench.sync().await.last.level);
    assert_eq!(bench.object("f").unwrap(), b"new");
}

/// WATCHING 79.
#[tokio::test(flavor = "multi_thread")]
async fn w79_what_changes_only_the_inode_sends_nothing() {
    let bench = Bench::new(None);
    bench.write("f", b"content");
    let mut agent = bench.start(Mode::Forever);
    agent.level(&bench, "f").await;
    let puts = bench.bucket.counts().of("PutObject");
    let at = bench.at("f");
    let before = fs::metadata(&at).unwrap();
    fs::set_permissions(&at, fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::chown(&at, Some(before.uid()), Some(before.gid())).unwrap();
    let times = FileTimes::new().set_modified(before.modified().unwrap());
    File::open(&at).unwrap().set_times(times).unwrap();
    until("the row knows the mode", || {
        bench
            .content("f")
            .is_some_and(|content| content.stat.mode == 0o640)
    })
    .await;
    agent.caught_up(&bench, "probe").await;
    assert_eq!(
        bench.bucket.counts().of("PutObject"),
        puts + 1,
        "the probe's only"
    );
    agent.stop().await;
}

/// WATCHING 80.
#[tokio::test(flavor = "multi_thread")]
async fn w80_locking_a_file_or_opening_it_for_writing_sends_nothing() {
    let bench = Bench::new(None);
    bench.write("f", b"content");
    let mut agent = bench.start(Mode::Forever);
    agent.level(&bench, "f").await;
    let (puts, opened) = (bench.bucket.counts().of("PutObject"), bench.opened());
    let file = open_to_write(bench.at("f"));
    flock(&file, FlockOperation::LockExclusive).unwrap();
    drop(file);
    until("it is read again", || bench.opened() > opened).await;
    agent.caught_up(&bench, "probe").await;
    assert_eq!(
        bench.bucket.counts().of("PutObject"),
        puts + 1,
        "the probe's only"
    );
    agent.stop().await;
}

/// A file that is sent by parts: each is read under a lease; without one the row is doubtful, and a second read that agrees
/// sends nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_is_certain_under_leases_and_doubtful_without() {
    let mut bench = Bench::new(None);
    bench.write("f", &vec![1; 20 << 20]);
    assert!(bench.sync().await.last.level);
    assert_eq!(bench.content("f").unwrap().doubtful, !has_leases(&bench));
    bench.eyes.leaseless = true;
    bench.write("f", &vec![2; 20 << 20]);
    let mut agent = bench.start(Mode::Forever);
    let is_doubtful = || bench.content("f").is_some_and(|content| content.doubtful);
    until("a doubtful row", is_doubtful).await;
    let parts = bench.bucket.counts().of("UploadPart");
    until("a doubt that ends", || !is_doubtful()).await;
    agent.level(&bench, "f").await;
    assert_eq!(bench.bucket.counts().of("UploadPart"), parts);
    agent.stop().await;
}

fn has_leases(bench: &Bench) -> bool {
    let tree = RealTree::open(&bench.root);
    let file = tree.open(&path("f")).unwrap();
    matches!(file.lease(), Lease::Held(_))
}

/// A large file that somebody has open for writing is not sent at all, and is sent once it is closed.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_is_sent_when_its_writer_has_closed_it() {
    let bench = Bench::new(None);
    bench.write("f", &vec![1; 20 << 20]);
    let has_leases = has_leases(&bench);
    let file = open_to_write(bench.at("f"));
    let mut agent = bench.start(Mode::Forever);
    until("a look", || bench.opened() > 1).await;
    if has_leases {
        assert_eq!(bench.bucket.counts().of("UploadPart"), 0);
    }
    drop(file);
    agent.level(&bench, "f").await;
    agent.stop().await;
}

/// A doubt does not outlast its reason: a row that was doubtful is like any other once a lease was had.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_ends_a_doubt_at_once() {
    let mut bench = Bench::new(None);
    bench.eyes.leaseless = true;
    bench.write("f", b"young");
    bench.sync().await;
    assert!(bench.content("f").unwrap().doubtful);
    bench.eyes.leaseless = false;
    bench.sync().await;
    assert!(!bench.content("f").unwrap().doubtful);
    assert_eq!(bench.opened(), 2);
}
