//! Many files and some large ones through a line and a store that fail in every way at once.
//!
//! `TIDEWATCH_FULL=1` runs it at its full size: 2,000 files and three of 100 MiB.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use tokio::process::Command;

use crate::process::World;
use crate::support::endpoint::Fault;

/// What the program may take besides `upload.memory`, bytes.
const ELSE_MOST: u64 = 60 << 20;
/// `upload.memory`, as it is when nobody sets it, bytes.
const MEMORY: u64 = 128 << 20;

fn is_full_size() -> bool {
    std::env::var_os("TIDEWATCH_FULL").is_some()
}

/// Bytes that no other seed gives and that do not compress.
fn content(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

/// The most memory that a process has had, bytes.
#[derive(Clone, Copy, Default)]
pub struct Peak {
    /// Resident, with the code of the program, which is long when it is not optimised.
    pub resident: u64,
    /// What it has allocated; sampled.
    pub own: u64,
}

impl Peak {
    /// Looks once more; a process that has ended changes nothing.
    fn look(&mut self, pid: u32) {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let bytes = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name))?;
            let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
            Some(kib << 10)
        };
        self.resident = bytes("VmHWM:").unwrap_or(0).max(self.resident);
        self.own = bytes("RssAnon:").unwrap_or(0).max(self.own);
    }
}

/// Runs a sync that has to end well; returns the most memory that it had.
pub async fn peak_of(mut command: Command) -> Peak {
    let child = command.spawn().unwrap();
    let pid = child.id().expect("it runs");
    let (sender, mut ended) = tokio::sync::oneshot::channel::<()>();
    let watching = async move {
        let mut most = Peak::default();
        loop {
            most.look(pid);
            tokio::select! {
                _ = &mut ended => return most,
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
            }
        }
    };
    let running = async move {
        // Requests that hang take their patience each, and at full size there are dozens.
        let output = tokio::time::timeout(Duration::from_secs(900), child.wait_with_output());
        let output = output.await.expect("it ends").unwrap();
        let _ = sender.send(());
        output
    };
    let (most, ended) = tokio::join!(watching, running);
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(0), "{said}");
    most
}

#[tokio::test]
async fn everything_arrives_through_a_storm_in_bounded_memory() {
    let (small, large, large_size) = if is_full_size() {
        (2_000, 3, 100 << 20)
    } else {
        (300, 1, 24 << 20)
    };
    let world = World::new().await;
    let mut expected = BTreeMap::new();
    for n in 0..small {
        let name = format!("d{}/f{n}", n % 17);
        let bytes = content(n, 1 + (n as usize * 37) % 20_000);
        world.write(&name, &bytes);
        expected.insert(name, bytes);
    }
    for n in 0..large {
        let name = format!("large{n}");
        let bytes = content(1 << 32 | n, large_size);
        world.write(&name, &bytes);
        expected.insert(name, bytes);
    }
    let mut random = fastrand::Rng::with_seed(7);
    world.endpoint.script(move |_| match random.u8(..100) {
        0..15 => Some(Fault::Error(503, "SlowDown")),
        15..20 => Some(Fault::Reset),
        20..25 => Some(Fault::Error(500, "InternalError")),
        25..28 => Some(Fault::DropAnswer),
        28 => Some(Fault::Hang),
        _ => None,
    });
    let command = world.command("sync", &["--timeout", "10m"]);
    let most = peak_of(command).await.resident;
    let objects = world.objects();
    assert_eq!(objects.len(), expected.len());
    let wrong = expected
        .iter()
        .find(|(name, bytes)| objects.get(*name) != Some(bytes));
    assert!(wrong.is_none(), "{:?}", wrong.map(|(name, _)| name));
    assert_eq!(world.endpoint.open_uploads(), []);
    assert!(
        most > 0 && most < MEMORY + ELSE_MOST,
        "{} MiB resident",
        most >> 20
    );
}
