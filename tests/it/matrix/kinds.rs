//! Rows 42 and 43: what is no file, and what is too much of one.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixListener;

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use tidewatch::base::snapshot::What;
use tidewatch::sync::upload::part_size_bytes;

use crate::process::{World, ended};
use crate::watching::rig::{Rig, With};
use crate::watching::table::row;

#[test]
fn r42_what_is_no_file_is_skipped_and_counted_and_hangs_nobody() {
    let mut row = row!();
    let mut rig = Rig::new(With::default());
    let make = |rig: &Rig, at: &str| {
        rig.write(format!("{at}/file"), "an honest file");
        let mode = Mode::from_raw_mode(0o600);
        mknodat(CWD, rig.at(at).join("fifo"), FileType::Fifo, mode, 0).unwrap();
        drop(UnixListener::bind(rig.at(at).join("socket")).unwrap());
        // The device of /dev/zero, which has no end. Root alone may make one.
        let device = rig.at(at).join("device");
        mknodat(CWD, device, FileType::CharacterDevice, mode, makedev(1, 5)).is_ok()
    };
    let mut devices = usize::from(make(&rig, "before"));
    rig.start();
    devices += usize::from(make(&rig, "watched"));
    rig.probe();
    let skipped = rig.happened(What::Skipped).len();
    assert!(skipped >= 4 + devices, "{skipped}");
    assert!(rig.bucket.objects().keys().all(|key| {
        ["fifo", "socket", "device"]
            .iter()
            .all(|kind| !key.ends_with(kind))
    }));
    if devices < 2 {
        row.but_not("a device, which root alone can make");
    }
}

#[tokio::test]
async fn r43_a_sparse_file_of_a_terabyte_is_left_out_by_the_limit_or_goes_up_in_parts_that_fit() {
    const TERABYTE: u64 = 1 << 40;
    const SPARSE: u64 = (40 << 20) + 1;
    let mut row = row!();
    let world = World::new().await;
    world.write("small", "small");
    let sparse = fs::File::create(world.tree("sparse")).unwrap();
    let is_made = sparse.set_len(TERABYTE).is_ok();
    // Whoever has it open for writing keeps it from being read.
    drop(sparse);
    if !is_made {
        return row.could_not("needs a filesystem that holds files of a terabyte");
    }
    let config = world.dir.path().join("config.toml");
    let text = format!(
        "[agent]\nlisten = \"\"\nstate_dir = {:?}\n[s3]\nendpoint_url = {:?}\n\
         [[folder]]\npath = {:?}\nto = \"s3://tide/p\"\nmax_size = \"1GiB\"\n",
        world.state(),
        world.endpoint.url(),
        world.tree(""),
    );
    fs::write(&config, text).unwrap();
    let limited = ended(&mut world.bare(["sync", "--config", config.to_str().unwrap()])).await;
    assert_eq!(limited.code, Some(0), "{}", limited.err);
    assert_eq!(world.objects().len(), 1);
    let mut explain = world.bare(["explain", world.tree("sparse").to_str().unwrap()]);
    let why = ended(explain.arg("--config").arg(&config)).await;
    assert!(why.out.contains("max_size"), "{}{}", why.out, why.err);
    assert_eq!(world.endpoint.count("CreateMultipartUpload"), 0);
    // Without a limit it goes up by parts: fewer than S3 takes, none longer than it takes.
    let part = part_size_bytes(TERABYTE);
    assert!(
        TERABYTE.div_ceil(part) <= 10_000 && part <= 5 << 30,
        "{part}"
    );
    // One that a test can wait for goes the whole way.
    let file = fs::File::options().write(true).open(world.tree("sparse"));
    let file = file.unwrap();
    file.set_len(0).unwrap();
    file.set_len(SPARSE).unwrap();
    file.write_all_at(b"not a hole", SPARSE / 2).unwrap();
    drop(file);
    world.sync_level().await;
    assert!(world.endpoint.count("UploadPart") > 1);
    let object = world.object("sparse").unwrap();
    assert_eq!(object.len() as u64, SPARSE);
    assert!(object == fs::read(world.tree("sparse")).unwrap());
    row.but_not("the whole way to the bucket with a terabyte");
}
