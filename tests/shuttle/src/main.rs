//! Many orders of the threads that share the map of contents: no content is sent by two at once, nobody waits for ever, and
//! who is told that a content is stored is told the truth.
//!
//! `TIDEWATCH_SHUTTLE` says how many orders are tried of each kind.
//!
//! The manifest's writer is not tried like this: what it shares is a connection of SQLite behind `std`'s mutex, and a file
//! cannot be compiled with another `std` while its prelude stays. It has real threads in `tests/it/manifest/threads.rs`.

/// What the file names of the program, as far as it needs it.
mod base {
    pub mod digest {
        /// The name of a content.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub struct Sha256(pub u8);
    }
    pub mod path {
        /// A path.
        #[derive(Clone, PartialEq, Eq, Debug)]
        pub struct RelPath(pub usize);
    }
}

#[path = "../../../src/sync/dedupe.rs"]
mod dedupe;

use shuttle::sync::atomic::{AtomicUsize, Ordering};
use shuttle::sync::{Arc, Mutex};
use shuttle::{future, thread};

use crate::base::digest::Sha256;
use crate::base::path::RelPath;
use crate::dedupe::{Claim, Dedupe};

/// Threads that want the same content at once.
const THREADS: usize = 4;
/// Orders of each kind, unless it is said otherwise.
const ORDERS: usize = 3_000;

/// What all threads share.
#[derive(Default)]
struct Bucket {
    map: Dedupe,
    /// How many are sending each content now.
    sending: [AtomicUsize; 2],
    /// Which paths are stored, by content.
    stored: Mutex<Vec<(Sha256, RelPath)>>,
}

/// Lets a thread come to have its content in the bucket. The first `failures` of its tries to send it fail.
fn want(bucket: &Bucket, me: usize, content: Sha256, mut failures: usize, leaves: bool) {
    loop {
        match bucket.map.claim(content) {
            Claim::First(first) => {
                let sending = &bucket.sending[usize::from(content.0)];
                assert_eq!(sending.fetch_add(1, Ordering::SeqCst), 0, "two send the same content");
                thread::yield_now();
                let is_sent = failures == 0;
                if is_sent {
                    bucket.stored.lock().unwrap().push((content, RelPath(me)));
                }
                // The claim ends after the sending, never before.
                sending.fetch_sub(1, Ordering::SeqCst);
                if is_sent {
                    first.stored(&RelPath(me));
                    return;
                }
                drop(first);
                failures -= 1;
            }
            Claim::Later(waiter) if leaves => return drop(waiter),
            Claim::Later(waiter) => {
                if let Some(path) = future::block_on(waiter.wait()) {
                    let stored = bucket.stored.lock().unwrap();
                    assert!(stored.contains(&(content, path)), "told of what is not there");
                    return;
                }
            }
        }
    }
}

/// One order: threads with one content or two, of which some fail, and one may go away while it waits.
fn scene(failures: [usize; THREADS], contents: u8, leaver: Option<usize>) {
    let bucket = Arc::new(Bucket::default());
    let threads: Vec<_> = (0..THREADS)
        .map(|me| {
            let bucket = bucket.clone();
            let content = Sha256(u8::try_from(me).unwrap() % contents);
            thread::spawn(move || want(&bucket, me, content, failures[me], leaver == Some(me)))
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert!(bucket.map.is_empty() && bucket.map.len() == 0, "a claim is left behind");
    let stored = bucket.stored.lock().unwrap();
    for content in 0..contents {
        assert!(stored.iter().any(|(known, _)| known.0 == content));
    }
}

fn main() {
    let orders = std::env::var("TIDEWATCH_SHUTTLE");
    let orders = orders.map_or(ORDERS, |text| text.parse().expect("a number"));
    let scenes: [([usize; THREADS], u8, Option<usize>); 5] = [
        ([0, 0, 0, 0], 1, None),
        ([1, 0, 0, 0], 1, None),
        ([2, 1, 0, 1], 1, None),
        ([1, 0, 0, 1], 2, None),
        ([1, 0, 0, 0], 1, Some(3)),
    ];
    for (failures, contents, leaver) in scenes {
        shuttle::check_random(move || scene(failures, contents, leaver), orders);
        shuttle::check_pct(move || scene(failures, contents, leaver), orders, 3);
    }
    println!("{} orders of {THREADS} threads, nothing wrong", scenes.len() * 2 * orders);
}
