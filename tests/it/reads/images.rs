//! Filesystems that are not there by themselves: made in a file and mounted, which only root can.

use std::fs::File;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use tidewatch::agent::Mode;

use crate::reads::agent::same_inode_same_second;
use crate::reads::bench::{Bench, Restless, is_of_one_piece, say};

/// A filesystem in a file, mounted.
struct Image {
    _dir: TempDir,
    at: PathBuf,
}

impl Image {
    /// Makes and mounts one; says why and returns `None` where that cannot be done.
    fn new(size_mib: u64, mkfs: &[&str]) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let (image, at) = (dir.path().join("image"), dir.path().join("mounted"));
        File::create(&image)
            .unwrap()
            .set_len(size_mib << 20)
            .unwrap();
        std::fs::create_dir(&at).unwrap();
        let mut make = Command::new(mkfs[0]);
        make.args(&mkfs[1..]).arg(&image);
        let mut mount = Command::new("mount");
        mount.args(["-o", "loop"]).arg(&image).arg(&at);
        for step in [&mut make, &mut mount] {
            match step.output() {
                Ok(output) if output.status.success() => {}
                Ok(output) => {
                    let why = String::from_utf8_lossy(&output.stderr).into_owned();
                    say(&format!("not run: {step:?}: {why}"));
                    return None;
                }
                Err(error) => {
                    say(&format!("not run: {step:?}: {error}"));
                    return None;
                }
            }
        }
        Some(Self { _dir: dir, at })
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(&self.at).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            say(&format!("could not unmount {}", self.at.display()));
        }
    }
}

/// Stamps of whole seconds: an inode of 128 bytes has no room for more.
fn coarse() -> Option<Image> {
    Image::new(64, &["mkfs.ext4", "-q", "-F", "-I", "128"])
}

/// WATCHING 62.
#[tokio::test(flavor = "multi_thread")]
async fn w62_the_last_of_two_writes_within_one_tick_is_there_in_the_end() {
    let Some(image) = coarse() else {
        return;
    };
    let bench = Bench::new(Some(&image.at));
    let mut equal_stamps = 0;
    for round in 0..5 {
        let (name, stamps) = (format!("f{round}"), |content: Option<_>| {
            content.map(|content: tidewatch::manifest::Content| content.stat.ctime_ns)
        });
        bench.write(&name, b"old");
        assert!(bench.sync().await.last.level);
        let first = stamps(bench.content(&name));
        // Nobody hears of it: only that the row is not trusted leads to another look.
        bench.write(&name, b"new");
        assert!(bench.sync().await.last.level);
        assert_eq!(bench.object(&name).unwrap(), b"new", "round {round}");
        equal_stamps += u32::from(first == stamps(bench.content(&name)));
    }
    say(&format!("rounds within one tick: {equal_stamps}"));
}

/// WATCHING 63, where stamps are of whole seconds.
#[tokio::test(flavor = "multi_thread")]
async fn w63_the_same_inode_size_and_second_with_coarse_stamps_is_read_anew() {
    let Some(image) = coarse() else {
        return;
    };
    same_inode_same_second(&Bench::new(Some(&image.at))).await;
}

/// Rule 22: after `max_wait` a clone is read, whole as it was at one instant; by one put or by parts.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_never_closed_is_captured_where_clones_can_be_made() {
    for (size_mib, mkfs) in [
        (320, &["mkfs.xfs", "-q", "-f"][..]),
        (256, &["mkfs.btrfs", "-q", "-f"][..]),
    ] {
        let Some(image) = Image::new(size_mib, mkfs) else {
            continue;
        };
        for size in [1 << 20, 17 << 20] {
            captured(&Bench::new(Some(&image.at)), size).await;
        }
    }
}

async fn captured(bench: &Bench, size: usize) {
    bench.write("f", &vec![1; size]);
    let mut file = File::options().write(true).open(bench.at("f")).unwrap();
    let writer = Restless::new(move |byte| {
        file.seek(SeekFrom::Start(0)).unwrap();
        file.write_all(&vec![byte; size]).unwrap();
    });
    let mut agent = bench.start(Mode::Forever);
    for _ in 0..2 {
        agent.uploaded("f").await;
        let object = bench.object("f").unwrap();
        assert!(object.len() == size && is_of_one_piece(&object), "{size}");
    }
    assert!(bench.content("f").unwrap().doubtful, "it is read again");
    tokio::task::spawn_blocking(|| writer.stop()).await.unwrap();
    agent.level(bench, "f").await;
    agent.stop().await;
    assert!(is_empty(&bench.state), "a clone has no name");
}

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).unwrap().next().is_none()
}

/// Without clones the file is named as not safe, and nothing torn is claimed.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_never_closed_is_named_where_no_clone_can_be_made() {
    let bench = Bench::new(None);
    bench.write("f", b"1");
    let file = File::options().write(true).open(bench.at("f")).unwrap();
    let mut agent = bench.start(Mode::Forever);
    agent
        .until("named or, by a clone, uploaded", |snapshot| {
            snapshot.unsyncable == 1 || snapshot.tally.uploaded > 0
        })
        .await;
    drop(file);
    agent.level(&bench, "f").await;
    agent
        .until("named no more", |snapshot| snapshot.unsyncable == 0)
        .await;
    // Nobody writes any more: what is left of the file's last moments is looked at and found level.
    tokio::time::timeout(Duration::from_secs(30), agent.stop())
        .await
        .unwrap();
}
