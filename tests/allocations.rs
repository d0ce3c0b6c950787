//! No allocation of the program is large, and all together stay within what is set: counted by an allocator that the whole
//! program runs on, which is why this is a binary of its own.
//!
//! Started by `cargo test` it makes a folder and an endpoint, and starts itself again as the program; how much that
//! allocated it writes into a file. What SQLite and zstd allocate is C's, and is not counted here; `memory_stays_within_what_is_set`
//! looks at everything.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test, with a main of its own, that writes users' files"
)]
#![expect(
    unsafe_code,
    reason = "the trait of allocators is unsafe; all is handed on to the system's"
)]

#[path = "it/support/endpoint.rs"]
mod endpoint;

use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use endpoint::Endpoint;

/// Where the program writes what it allocated; it is the program if it is set.
const OUT: &str = "TIDEWATCH_ALLOCATIONS";

/// The largest that one allocation may be, bytes.
const LARGEST_MOST: usize = 32 << 20;
/// `upload.memory`, bytes: the least that it can be.
const MEMORY: usize = 32 << 20;
/// What the program may have besides, bytes: more than is ever resident, as buffers are counted that nobody has written to.
const ELSE_MEMORY: usize = 64 << 20;

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

static LARGEST: AtomicUsize = AtomicUsize::new(0);
static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

fn more(len: usize) {
    LARGEST.fetch_max(len, Ordering::Relaxed);
    let now = NOW.fetch_add(len, Ordering::Relaxed) + len;
    MOST.fetch_max(now, Ordering::Relaxed);
}

// SAFETY: each call is handed on to the system's allocator with what it was called with; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        more(layout.size());
        // SAFETY: the caller's promise is the callee's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        more(layout.size());
        // SAFETY: the caller's promise is the callee's.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, len: usize) -> *mut u8 {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        more(len);
        // SAFETY: the caller's promise is the callee's.
        unsafe { System.realloc(at, layout, len) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is the callee's.
        unsafe { System.dealloc(at, layout) }
    }
}

/// What a run of the program allocated, bytes.
#[derive(Debug)]
struct Allocated {
    largest: usize,
    most: usize,
}

fn main() -> ExitCode {
    if let Some(out) = std::env::var_os(OUT) {
        let exit = tidewatch::cli::run();
        let said = format!(
            "{} {}",
            LARGEST.load(Ordering::Relaxed),
            MOST.load(Ordering::Relaxed)
        );
        fs::write(out, said).unwrap();
        return exit;
    }
    let name = "no_allocation_is_large_and_all_stay_within_what_is_set";
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.iter().any(|word| word == "--list") {
        println!("{name}: test");
        return ExitCode::SUCCESS;
    }
    let names: Vec<&String> = words.iter().filter(|word| !word.starts_with('-')).collect();
    if names.is_empty() || names.iter().any(|word| name.contains(word.as_str())) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(no_allocation_is_large_and_all_stay_within_what_is_set());
        println!("test {name} ... ok");
    }
    ExitCode::SUCCESS
}

async fn no_allocation_is_large_and_all_stay_within_what_is_set() {
    let place = tempfile::tempdir().unwrap();
    let endpoint = Endpoint::start().await;
    let tree = place.path().join("tree");
    // Above what there is room for: in one file, in several that are just not sent by parts, and in small ones.
    let mut random = fastrand::Rng::with_seed(8);
    let mut content = vec![0; 48 << 20];
    let mut write = |path: String, len: usize| {
        let path = tree.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        random.fill(&mut content[..len]);
        fs::write(path, &content[..len]).unwrap();
    };
    write("large".to_owned(), 48 << 20);
    for number in 0..3 {
        write(format!("medium/{number}"), 15 << 20);
    }
    for number in 0..500 {
        write(format!("small/{}/{number}", number % 9), number * 20);
    }
    let config = place.path().join("config.toml");
    let text = format!(
        "[agent]\nstate_dir = \"{}\"\n[upload]\nmemory = \"32MiB\"\n[s3]\nendpoint_url = {:?}\n\
         [[folder]]\npath = \"{}\"\nto = \"s3://tide/p\"\n",
        place.path().join("state").display(),
        endpoint.url(),
        tree.display()
    );
    fs::write(&config, text).unwrap();
    let sync = ["sync".into(), "--config".into(), config.into_os_string()];
    let sync = run(&endpoint, place.path(), &sync);
    assert_eq!(endpoint.keys().len(), 504);
    // Buffers of bodies are what is largest: seen, or nothing is counted.
    assert!(sync.largest >= 8 << 20, "{sync:?}");
    assert!(sync.largest <= LARGEST_MOST, "{sync:?}");
    assert!(sync.most <= MEMORY + ELSE_MEMORY, "{sync:?}");

    let back = place.path().join("back");
    let url = endpoint.url();
    let mut line: Vec<OsString> = ["restore", "s3://tide/p", "--endpoint-url", &url, "--to"]
        .map(OsString::from)
        .to_vec();
    line.push(back.clone().into_os_string());
    let restore = run(&endpoint, place.path(), &line);
    assert_eq!(fs::metadata(back.join("large")).unwrap().len(), 48 << 20);
    assert!(restore.largest <= LARGEST_MOST, "{restore:?}");
    println!("sync: {sync:?}; restore: {restore:?}");
}

/// Runs the program to its end, which has to be a good one.
fn run(endpoint: &Endpoint, place: &Path, line: &[OsString]) -> Allocated {
    let out = place.join("allocated");
    let ended = Command::new(std::env::current_exe().unwrap())
        .args(line)
        .env_clear()
        .envs(endpoint.env())
        .env("HOME", place)
        .env(OUT, &out)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{said}");
    let said = fs::read_to_string(out).unwrap();
    let (largest, most) = said.split_once(' ').unwrap();
    Allocated {
        largest: largest.parse().unwrap(),
        most: most.parse().unwrap(),
    }
}
