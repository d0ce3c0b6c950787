//! SIGKILL at the very instant at which the bucket gets a request: what the named places of a build with the feature
//! `failpoints` are on this side of the line, every build can be tried at on the other.
#![cfg(not(feature = "failpoints"))]

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::process::{Pid, Signal, kill_process};

use crate::crash::rig::Rig;
use crate::process::end_of;
use crate::watching::table::row;

/// The requests that change a bucket.
const KINDS: [&str; 6] = [
    "PutObject",
    "CopyObject",
    "CreateMultipartUpload",
    "UploadPart",
    "CompleteMultipartUpload",
    "DeleteObject",
];

/// Changes what leads to a request of that kind.
fn lead_to(rig: &mut Rig, kind: &str, old: &mut Vec<String>) {
    let len = match kind {
        "CreateMultipartUpload" | "UploadPart" | "CompleteMultipartUpload" => (16 << 20) + 1,
        _ => 700,
    };
    let bytes = rig.content(len);
    match kind {
        "DeleteObject" => rig.remove(&old.remove(0)),
        "CopyObject" => {
            let same = std::fs::read(rig.world.tree(&old[0])).unwrap();
            rig.create(&same);
        }
        _ => drop(rig.create(&bytes)),
    }
}

#[tokio::test]
async fn r03_a_kill_at_each_kind_of_request_loses_nothing() {
    let mut row = row!();
    let mut rig = Rig::new(1).await;
    let mut old = Vec::new();
    for n in 0..3 {
        let bytes = rig.content(500 + n);
        old.push(rig.create(&bytes));
    }
    rig.level().await;
    for kind in KINDS {
        lead_to(&mut rig, kind, &mut old);
        let pid = Arc::new(AtomicI32::new(0));
        let victim = Arc::clone(&pid);
        rig.world.endpoint.script(move |seen| {
            let is_it = seen.operation == kind && !seen.key.contains(".tidewatch/");
            if let Some(pid) = Pid::from_raw(victim.load(Ordering::Acquire)).filter(|_| is_it) {
                // It may have been killed by the one before.
                let _ = kill_process(pid, Signal::KILL);
            }
            None
        });
        let child = rig.world.command("sync", &rig.args).spawn().unwrap();
        pid.store(
            child.id().expect("it runs").cast_signed(),
            Ordering::Release,
        );
        let ended = end_of(child).await;
        assert_eq!(ended.code, None, "{kind}: {}{}", ended.out, ended.err);
        rig.world.endpoint.clear();
        rig.level().await;
    }
    rig.removals();
    row.but_not("at the places that only a build with them has (`bash tests/crash.sh points`)");
}
