//! Large files: what a kill, a stop, a store that loses things, and a file that changes leave of their uploads.
//!
//! `TIDEWATCH_LARGE_MIB=1024` makes the files that are interrupted a gigabyte large; 160 MiB by default.
#![allow(
    clippy::disallowed_methods,
    reason = "these write users' files, which nobody writes durably"
)]

use std::fmt::Write as _;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use tidewatch::agent::Mode;
use tidewatch::base::buffers::Pool;
use tidewatch::base::clock::Clock;
use tidewatch::base::digest::Crc64;
use tidewatch::base::offload::Offload;
use tidewatch::base::path::RelPath;
use tidewatch::manifest::{self, Change, Cut, FolderId, Manifest, Upload};
use tidewatch::store::features::Features;
use tidewatch::store::{self, ErrorKind, Meta, Part, Store, Tap};
use tidewatch::sync::Lane;
use tidewatch::sync::limits::Limits;
use tidewatch::sync::upload::{self, Gate, Source, Stop};
use tidewatch::tree::Tree as _;

use crate::agent::{Agent, Bench};
use crate::process::{World, end_of, eventually, send};
use crate::support::endpoint::{Endpoint, Fault, Seen};
use crate::support::faulty::{Fault as Line, Odds};
use crate::support::mem_store::{Habits, MemStore};
use crate::support::mem_tree::MemTree;

/// The size of the parts of all files here.
const PART: u64 = 8 << 20;
/// Time for several tries.
const A_WHILE: Duration = Duration::from_secs(900);

/// Returns how large an interrupted file is, in bytes.
fn size() -> u64 {
    let mib = std::env::var("TIDEWATCH_LARGE_MIB").map_or(160, |text| text.parse().unwrap());
    mib << 20
}

/// Writes a file of that size, mostly holes, of which every mebibyte is another one.
fn write_large(path: &Path, size: u64) {
    let file = File::create(path).unwrap();
    file.set_len(size).unwrap();
    for at in (0..size).step_by(1 << 20) {
        file.write_all_at(&(at + 1).to_le_bytes(), at).unwrap();
    }
}

/// Returns the number of the part that a request sends.
fn number(seen: &Seen) -> Option<u64> {
    let (_, rest) = seen.path.split_once("partNumber=")?;
    let digits = rest.split('&').next()?;
    (seen.operation == "UploadPart").then(|| digits.parse().unwrap())
}

/// Returns the numbers of the parts that were sent, in the order of their numbers.
fn sent(endpoint: &Endpoint) -> Vec<u64> {
    let mut numbers: Vec<u64> = endpoint.requests().iter().filter_map(number).collect();
    numbers.sort_unstable();
    numbers
}

/// Returns how many parts the manifest has noted, seen from outside.
fn noted(world: &World) -> usize {
    let Ok(Some(manifest)) = Manifest::open_read_only(&world.state()) else {
        return 0;
    };
    let folder = FolderId(1);
    let uploads = manifest.uploads(folder).unwrap();
    let parts = uploads
        .iter()
        .map(|upload| manifest.parts(folder, &upload.id));
    parts.map(|parts| parts.unwrap().len()).sum()
}

/// A sync of one large file that was killed, or stopped, when three fifths of its parts were answered.
struct Interrupted {
    world: World,
    /// How many parts were answered.
    before: u64,
}

impl Interrupted {
    async fn by(signal: Signal) -> Self {
        let world = World::new().await;
        write_large(&world.tree("large"), size());
        let before = size() / PART * 3 / 5;
        let is_kill = signal == Signal::KILL;
        world.endpoint.script(move |seen| {
            let is_late = number(seen)? > before;
            // A kill finds parts on their way; a stop waits for them.
            let slow = Fault::Delay(Duration::from_millis(500));
            is_late.then_some(if is_kill { Fault::Hang } else { slow })
        });
        let child = world
            .command("sync", &["--concurrency", "2"])
            .spawn()
            .unwrap();
        eventually("the parts are noted", || noted(&world) as u64 >= before).await;
        send(&child, signal);
        let code = end_of(child).await.code;
        assert_eq!(code, (!is_kill).then_some(143));
        assert_eq!(world.object("large"), None);
        assert_eq!(world.endpoint.open_uploads().len(), 1, "it waits");
        world.endpoint.clear();
        world.endpoint.reset_counts();
        Self { world, before }
    }

    /// Syncs once more; the object is the file then, and no upload is open.
    async fn again(&self) {
        self.world.sync_level().await;
        self.is_right();
        assert_eq!(self.world.endpoint.open_uploads(), []);
    }

    fn is_right(&self) {
        let object = self.world.object("large").unwrap();
        assert!(object == std::fs::read(self.world.tree("large")).unwrap());
    }

    /// Only the rest was sent.
    fn went_on(&self) {
        let received = self.world.endpoint.received();
        assert!(
            received * 100 <= size() * 45,
            "{received} bytes of {}",
            size()
        );
        assert_eq!(self.world.endpoint.count("CreateMultipartUpload"), 0);
    }

    /// All of it was sent, under another upload.
    fn began_anew(&self) {
        let all: Vec<u64> = (1..=size() / PART).collect();
        assert_eq!(sent(&self.world.endpoint), all);
        assert_eq!(self.world.endpoint.count("CreateMultipartUpload"), 1);
    }
}

#[tokio::test]
async fn f32_after_a_kill_in_the_middle_of_a_large_file_only_the_rest_is_sent() {
    let interrupted = Interrupted::by(Signal::KILL).await;
    interrupted.again().await;
    interrupted.went_on();
}

#[tokio::test]
async fn f33_a_stop_in_the_middle_of_a_large_file_is_soon_over_and_leaves_only_the_rest() {
    let interrupted = Interrupted::by(Signal::TERM).await;
    // Two were on their way, and were waited for; the others were not begun.
    assert!(noted(&interrupted.world) as u64 <= interrupted.before + 3);
    interrupted.again().await;
    interrupted.went_on();
}

#[tokio::test]
async fn f32_a_large_file_that_changed_while_nobody_ran_is_sent_whole() {
    let interrupted = Interrupted::by(Signal::KILL).await;
    let file = File::options()
        .write(true)
        .open(interrupted.world.tree("large"));
    file.unwrap().write_all_at(b"changed", PART + 5).unwrap();
    interrupted.again().await;
    interrupted.began_anew();
    assert_eq!(interrupted.world.endpoint.count("AbortMultipartUpload"), 1);
}

#[tokio::test]
async fn f32_the_upload_of_a_large_file_that_is_gone_is_given_up() {
    let interrupted = Interrupted::by(Signal::KILL).await;
    std::fs::remove_file(interrupted.world.tree("large")).unwrap();
    interrupted.world.sync_level().await;
    assert_eq!(interrupted.world.endpoint.open_uploads(), []);
    assert_eq!(interrupted.world.object("large"), None);
}

#[tokio::test]
async fn f32_where_parts_cannot_be_listed_those_that_were_noted_are_trusted() {
    let interrupted = Interrupted::by(Signal::KILL).await;
    let no = Fault::Error(501, "NotImplemented");
    interrupted.world.endpoint.always("ListParts", no);
    interrupted.again().await;
    interrupted.went_on();
}

#[tokio::test]
async fn f23_an_upload_that_the_store_gave_up_meanwhile_is_begun_anew() {
    let interrupted = Interrupted::by(Signal::KILL).await;
    let endpoint = &interrupted.world.endpoint;
    let (key, id) = endpoint.open_uploads().remove(0);
    let abort = endpoint.client().abort_multipart_upload();
    let abort = abort.bucket("tide").key(key).upload_id(id);
    abort.send().await.unwrap();
    endpoint.reset_counts();
    interrupted.again().await;
    interrupted.began_anew();
}

#[tokio::test]
async fn f23_a_part_that_the_store_has_lost_is_sent_again() {
    let interrupted = Interrupted::by(Signal::KILL).await;
    let endpoint = &interrupted.world.endpoint;
    let (key, id) = endpoint.open_uploads().remove(0);
    let list = endpoint.client().list_parts();
    let list = list.bucket("tide").key(&key).upload_id(&id);
    let listed = list.send().await.unwrap();
    let mut xml = String::new();
    for part in listed.parts() {
        let (number, size) = (part.part_number().unwrap(), part.size().unwrap());
        // One is not there, of one only the beginning, and one is another.
        let (size, etag) = match number {
            3 => continue,
            4 => (size - 1, part.e_tag().unwrap()),
            5 => (size, "\"00000000000000000000000000000000\""),
            _ => (size, part.e_tag().unwrap()),
        };
        let _ = write!(
            xml,
            "<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag><Size>{size}</Size></Part>"
        );
    }
    let answer = format!(
        "<ListPartsResult><Bucket>tide</Bucket><Key>{key}</Key><UploadId>{id}</UploadId>\
         <IsTruncated>false</IsTruncated>{xml}</ListPartsResult>"
    );
    endpoint.always("ListParts", Fault::Answer(200, answer));
    endpoint.reset_counts();
    interrupted.again().await;
    let expected = (3..=5).chain(interrupted.before + 1..=size() / PART);
    assert_eq!(sent(endpoint), expected.collect::<Vec<_>>());
}

#[tokio::test]
async fn f32_uploads_of_others_are_never_given_up() {
    let interrupted = Interrupted::by(Signal::KILL).await;
    let endpoint = &interrupted.world.endpoint;
    let mut theirs = Vec::new();
    for key in ["p/large", "p/other", "p/large2"] {
        let create = endpoint.client().create_multipart_upload();
        let created = create.bucket("tide").key(key).send().await.unwrap();
        theirs.push((key.to_owned(), created.upload_id().unwrap().to_owned()));
    }
    theirs.sort();
    interrupted.world.sync_level().await;
    interrupted.is_right();
    assert_eq!(endpoint.open_uploads(), theirs);
}

#[tokio::test]
async fn a_creation_that_was_not_answered_is_found_and_given_up() {
    let world = World::new().await;
    write_large(&world.tree("large"), 24 << 20);
    // Of another key that begins in the same way: not what was asked for.
    let create = world.endpoint.client().create_multipart_upload();
    let theirs = create.bucket("tide").key("p/large2").send().await.unwrap();
    world
        .endpoint
        .fail_next("CreateMultipartUpload", 1, Fault::DropAnswer);
    world.sync_level().await;
    let theirs = theirs.upload_id().unwrap().to_owned();
    assert_eq!(
        world.endpoint.open_uploads(),
        [("p/large2".to_owned(), theirs)]
    );
    assert_eq!(world.endpoint.count("AbortMultipartUpload"), 1);
    assert_eq!(world.object("large").unwrap().len(), 24 << 20);
}

#[tokio::test(start_paused = true)]
async fn f05_a_lost_join_whose_etag_is_no_hash_is_proven_by_the_checksum_of_the_whole() {
    for (ignores_checksums, parts) in [(false, 3), (true, 6)] {
        let habits = Habits {
            opaque_etags: true,
            ignores_checksums,
            ..Habits::default()
        };
        let bench = Bench::with_habits(Odds::default(), habits);
        bench.tree.write(&large(), &vec![7; 20 << 20]);
        bench.store.next("CompleteMultipartUpload", Line::Lost);
        let ended = bench.sync().await;
        assert!(ended.last.level, "{:?}", ended.last);
        assert_eq!(bench.object("large").unwrap().len(), 20 << 20);
        // Where the store has no checksum either, nothing proves it, and it is sent once more.
        assert_eq!(bench.bucket.counts().of("UploadPart"), parts);
        assert_eq!(bench.bucket.open_uploads(), []);
    }
}

#[tokio::test]
async fn f14_parts_that_cannot_be_joined_are_sent_once_more_and_then_it_is_a_failure() {
    for code in ["InvalidPart", "InvalidPartOrder", "EntityTooSmall"] {
        let world = World::new().await;
        write_large(&world.tree("large"), 24 << 20);
        let no = Fault::Error(400, code);
        world
            .endpoint
            .fail_next("CompleteMultipartUpload", 1, no.clone());
        world.sync_level().await;
        assert_eq!(world.object("large").unwrap().len(), 24 << 20);
        assert_eq!(world.endpoint.count("AbortMultipartUpload"), 1);
        assert_eq!(sent(&world.endpoint), [1, 1, 2, 2, 3, 3]);

        world.endpoint.always("CompleteMultipartUpload", no);
        world.endpoint.reset_counts();
        write_large(&world.tree("other"), 25 << 20);
        let ended = world.sync(&[]).await;
        assert_eq!(ended.code, Some(1), "{}", ended.err);
        assert!(ended.err.contains(code), "{}", ended.err);
        // Refused for good: not tried again and again.
        assert_eq!(world.endpoint.count("CreateMultipartUpload"), 2);
        assert_eq!(world.endpoint.open_uploads(), []);
    }
}

#[tokio::test]
async fn f23_an_upload_that_is_lost_under_way_is_begun_anew_once_a_try() {
    let world = World::new().await;
    write_large(&world.tree("large"), 24 << 20);
    let no = Fault::Error(404, "NoSuchUpload");
    world.endpoint.fail_next("UploadPart", 1, no.clone());
    world.sync_level().await;
    assert_eq!(world.endpoint.count("CreateMultipartUpload"), 2);
    assert_eq!(world.endpoint.open_uploads(), []);

    world.endpoint.always("UploadPart", no);
    world.endpoint.reset_counts();
    write_large(&world.tree("other"), 25 << 20);
    let ended = world.sync(&[]).await;
    assert_eq!(ended.code, Some(1), "{}", ended.err);
    let creations = world.endpoint.count("CreateMultipartUpload");
    assert_eq!(creations, 2 * 4, "two in each of four tries");
    assert_eq!(world.endpoint.open_uploads(), []);
}

#[tokio::test]
async fn f23_a_completion_without_an_answer_counts_only_if_the_object_is_made_of_these_parts() {
    for is_done in [true, false] {
        let world = World::new().await;
        write_large(&world.tree("large"), 24 << 20);
        let mut completions = 0;
        world.endpoint.script(move |seen| {
            if seen.operation != "CompleteMultipartUpload" {
                return None;
            }
            completions += 1;
            match completions {
                1 if is_done => Some(Fault::DropAnswer),
                1 => Some(Fault::Reset),
                2 => Some(Fault::Error(404, "NoSuchUpload")),
                _ => None,
            }
        });
        if !is_done {
            // What is there is of the same length.
            let put = world.endpoint.client().put_object();
            let put = put.bucket("tide").key("p/large");
            let body = vec![7; 24 << 20].into();
            put.body(body).send().await.unwrap();
            world.endpoint.reset_counts();
        }
        let ended = world.sync(&[]).await;
        assert_eq!(ended.code, Some(0), "{}", ended.err);
        let expected = std::fs::read(world.tree("large")).unwrap();
        assert!(world.object("large").unwrap() == expected);
        let sendings = if is_done { 1 } else { 2 };
        assert_eq!(world.endpoint.count("CreateMultipartUpload"), sendings);
        assert_eq!(world.endpoint.open_uploads(), []);
    }
}

#[tokio::test]
async fn f29_a_large_file_that_changes_or_vanishes_while_it_is_sent_leaves_no_upload_open() {
    for vanishes in [false, true] {
        let world = World::new().await;
        let path = world.tree("large");
        write_large(&path, 64 << 20);
        let slow = Fault::Delay(Duration::from_millis(200));
        world.endpoint.always("UploadPart", slow);
        let child = world
            .command("sync", &["--concurrency", "1"])
            .spawn()
            .unwrap();
        let midway = world
            .endpoint
            .until("a part", |endpoint| sent(endpoint).contains(&2));
        midway.await;
        if vanishes {
            std::fs::remove_file(&path).unwrap();
        } else {
            let file = File::options().write(true).open(&path).unwrap();
            file.write_all_at(b"changed", 60 << 20).unwrap();
        }
        world.endpoint.clear();
        let ended = end_of(child).await;
        assert_eq!(ended.code, Some(0), "{}", ended.err);
        assert_eq!(world.endpoint.open_uploads(), []);
        if vanishes {
            // An open file has no name and can still be read: what was sent of it is right, or nothing is.
            let object = world.object("large");
            assert!(object.is_none_or(|bytes| bytes.len() == 64 << 20));
        } else {
            assert!(world.object("large").unwrap() == std::fs::read(&path).unwrap());
        }
    }
}

fn large() -> RelPath {
    RelPath::root().join(b"large")
}

async fn stopped(agent: Agent) {
    agent.stop.cancel();
    agent.task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_on_record_and_serves_nobody_is_given_up_and_nothing_else() {
    let bench = Bench::new(Odds::default());
    bench.tree.write(&large(), &vec![1; 20 << 20]);
    bench.tree.write(&RelPath::root().join(b"small"), b"small");
    bench.sync().await;
    let (folder, now) = (bench.manifest.folders().unwrap()[0].id, bench.clock.now());
    let cut_of = |name: &[u8]| {
        let stat = bench.tree.stat(&RelPath::root().join(name)).unwrap();
        Some(Cut::of(&stat, PART))
    };
    let other = Cut {
        ino: u64::MAX,
        ..cut_of(b"small").unwrap()
    };
    let mut changes = Vec::new();
    for (path, cut) in [
        // Already synced, changed, gone, and of a version that noted nothing to go on with.
        (&b"large"[..], cut_of(b"large")),
        (b"small", Some(other)),
        (b"gone", cut_of(b"small")),
        (b"small", None),
    ] {
        let path = RelPath::root().join(path);
        let key = format!("p/{path}");
        let id = bench.bucket.create_multipart(&key, &Meta::default()).await;
        changes.push(Change::UploadBegun(Box::new(Upload {
            id: id.unwrap(),
            begun_at_ns: now.wall_ns,
            path,
            key,
            cut,
        })));
    }
    bench.manifest.commit(folder, &changes).unwrap();
    let meta = Meta::default();
    let theirs = bench.bucket.create_multipart("p/large", &meta).await;
    let theirs = (theirs.unwrap(), "p/large".to_owned());
    bench.sync().await;
    assert_eq!(bench.bucket.open_uploads(), [theirs]);
    assert_eq!(bench.manifest.uploads(folder).unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_does_not_come_on_waits_for_a_day_and_is_given_up_until_that_works() {
    let mut bench = Bench::new(Odds::default());
    bench.tree.write(&large(), &vec![1; 20 << 20]);
    // Only the first part ever gets through, and no try begins anew for that.
    bench.store.next("UploadPart", Line::Fine);
    for _ in 0..3_000 {
        let no = Line::Refused(ErrorKind::Busy);
        bench.store.next("UploadPart", no);
    }
    let agent = bench.start(Mode::Forever);
    tokio::time::sleep(A_WHILE).await;
    let bucket = bench.bucket.clone();
    let counts = || {
        let of = |operation| bucket.counts().of(operation);
        (of("CreateMultipartUpload"), of("AbortMultipartUpload"))
    };
    assert_eq!(counts(), (1, 0));
    stopped(agent).await;

    // A day later that is enough.
    let now = bench.clock.now();
    bench.clock = Clock::Virtual {
        since: now.mono,
        wall_ns: now.wall_ns + 24 * 3600 * 1_000_000_000,
    };
    let agent = bench.start(Mode::Forever);
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(counts(), (2, 1));
    assert_eq!(bench.bucket.open_uploads().len(), 1);
    stopped(agent).await;

    // It is excluded now: nobody will go on with it. The first tries to give it up fail.
    bench.exclude = vec!["large".to_owned()];
    for _ in 0..3 {
        let no = Line::Refused(ErrorKind::Busy);
        bench.store.next("AbortMultipartUpload", no);
    }
    let agent = bench.start(Mode::Forever);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(bench.bucket.open_uploads().len(), 1);
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(bench.bucket.open_uploads(), []);
    let folder = bench.manifest.folders().unwrap()[0].id;
    assert_eq!(bench.manifest.uploads(folder).unwrap(), []);
    stopped(agent).await;
}

#[tokio::test(start_paused = true)]
async fn trouble_that_passes_leaves_the_upload_open_and_the_next_try_sends_only_the_rest() {
    for lists_no_parts in [false, true] {
        let habits = Habits {
            lists_no_parts,
            ..Habits::default()
        };
        for kind in [ErrorKind::Network, ErrorKind::Busy, ErrorKind::Full] {
            let bench = Bench::with_habits(Odds::default(), habits);
            bench.tree.write(&large(), &vec![1; 36 << 20]);
            for fault in [Line::Fine, Line::Refused(kind), Line::Fine, Line::Fine] {
                bench.store.next("UploadPart", fault);
            }
            bench.sync().await;
            let counts = bench.bucket.counts();
            // Five parts, each of which the store has seen once.
            assert_eq!(counts.of("UploadPart"), 5, "{kind}");
            assert_eq!(counts.of("CreateMultipartUpload"), 1, "{kind}");
            assert_eq!(counts.of("AbortMultipartUpload"), 0, "{kind}");
            assert_eq!(bench.bucket.open_uploads(), []);
            assert!(bench.object("large").unwrap() == vec![1; 36 << 20]);
            let folder = bench.manifest.folders().unwrap()[0].id;
            assert_eq!(bench.manifest.uploads(folder).unwrap(), []);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_for_good_gives_the_upload_up() {
    for kind in [ErrorKind::Invalid, ErrorKind::TooLarge] {
        let bench = Bench::new(Odds::default());
        bench.tree.write(&large(), &vec![1; 36 << 20]);
        // As often as it is tried.
        for _ in 0..100 {
            bench.store.next("UploadPart", Line::Refused(kind));
        }
        bench.sync().await;
        assert!(bench.object("large").is_none(), "{kind}");
        assert_eq!(bench.bucket.open_uploads(), [], "{kind}");
    }
}

/// Lets everything through, and puts another object under the key before the last look at it.
struct Meddler {
    bucket: MemStore,
    meddles: bool,
    requests: AtomicU64,
}

impl Gate for Meddler {
    type Hold = ();

    async fn memory(&self, _bytes: u64) {}

    async fn send<T: Send>(
        &self,
        bytes: u64,
        request: impl Future<Output = store::Result<T>> + Send,
    ) -> store::Result<T> {
        // Creation and completion move nothing; the third that does not is the look.
        let number = match bytes {
            0 => self.requests.fetch_add(1, Ordering::Relaxed),
            _ => 0,
        };
        if number == 2 && self.meddles {
            self.bucket.plant("large", b"another");
        }
        request.await
    }

    fn tap(&self) -> Arc<dyn Tap> {
        Arc::new(Limits::new(None, 1 << 20)).tap(Lane::Backlog)
    }

    async fn asks(&self) -> manifest::Upload {
        Upload::asked(large(), "large".to_owned(), 1)
    }

    async fn begun(&self, _upload: manifest::Upload) {}

    async fn stored(&self, _upload: &str, _part: &Part, _crc64: Crc64) {}

    async fn ended(&self, _upload: &str) {}

    async fn stopped(&self) {
        std::future::pending::<()>().await;
    }

    fn went_on(&self, _bytes: u64) {}
}

#[tokio::test(start_paused = true)]
async fn f28_where_a_store_does_not_verify_the_object_is_looked_at_once_more() {
    for (verifies, meddles, is_good) in [
        (true, true, true),
        (false, false, true),
        (false, true, false),
    ] {
        let bucket = MemStore::default();
        bucket.learn(Features {
            verifies,
            ..Features::ALL
        });
        let bench = Bench::new(Odds::default());
        let tree: &MemTree = &bench.tree;
        tree.write(&large(), &vec![1; 20 << 20]);
        let file: Arc<dyn tidewatch::tree::OpenFile> = tree.open(&large()).unwrap().into();
        let source = Source {
            stat: file.stat().unwrap(),
            file,
            read_at_ns: bench.clock.now().wall_ns,
            expected: None,
            lasts: true,
            offload: Offload::Inline,
            buffers: Pool::new(1 << 20),
        };
        let gate = Arc::new(Meddler {
            bucket: bucket.clone(),
            meddles,
            requests: AtomicU64::new(0),
        });
        let store: Arc<dyn Store> = Arc::new(bucket.clone());
        let meta = Meta::default();
        let sent = upload::multipart(&store, &gate, "large", &meta, &source, None).await;
        let looks = bucket.counts().of("HeadObject");
        assert_eq!(looks, u64::from(!verifies));
        match sent {
            Ok(_) => assert!(is_good),
            Err(Stop::Store(error)) => {
                assert!(!is_good);
                assert_eq!(error.kind, ErrorKind::Corrupt);
                assert_eq!(error.effect, store::Effect::Possible);
            }
            Err(other) => panic!("{other:?}"),
        }
        assert_eq!(bucket.open_uploads(), []);
    }
}
