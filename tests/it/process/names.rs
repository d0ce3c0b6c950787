//! Every name and every size comes into the bucket as it is.

use std::collections::BTreeMap;

use crate::process::World;
use crate::support::endpoint::Fault;

#[tokio::test]
async fn every_name_becomes_its_key() {
    let world = World::new().await;
    let long = "x".repeat(250);
    let mut expected = BTreeMap::new();
    for name in [
        "plain.txt",
        "a b/c d.txt",
        "ünï/çödé/日本.txt",
        "100%.txt",
        "%41.txt",
        "a+b.txt",
        "it's \"quoted\".txt",
        "back\\slash.txt",
        "#?&=;.txt",
        "deep/er/and/deeper/still/file",
        "same/name/name",
        long.as_str(),
    ] {
        let bytes = format!("content of {name}");
        world.write(name, &bytes);
        expected.insert(name.to_owned(), bytes.into_bytes());
    }
    for (name, key) in [
        (&b"caf\xe9"[..], "caf‛E9"),
        (b"new\nline", "new‛0Aline"),
        ("own‛sign".as_bytes(), "own‛E2‛80‛9Bsign"),
    ] {
        world.write_bytes(name, name);
        expected.insert(key.to_owned(), name.to_vec());
    }
    world.write("empty", b"");
    expected.insert("empty".to_owned(), Vec::new());

    world.sync_level().await;
    let objects = world.objects();
    assert_eq!(
        objects.keys().collect::<Vec<_>>(),
        expected.keys().collect::<Vec<_>>()
    );
    assert_eq!(objects, expected);
}

#[tokio::test]
async fn a_large_file_goes_up_in_parts_and_is_the_same() {
    let world = World::new().await;
    let mut random = fastrand::Rng::with_seed(7);
    let bytes: Vec<u8> = std::iter::repeat_with(|| random.u8(..))
        .take(30 << 20)
        .collect();
    world.write("large", &bytes);
    world.sync_level().await;
    assert!(world.object("large").as_deref() == Some(&bytes));
    assert!(world.endpoint.count("UploadPart") > 1);
    assert_eq!(world.endpoint.count("PutObject"), 0);
    assert_eq!(world.endpoint.open_uploads(), []);
}

#[tokio::test]
async fn forty_equal_files_are_sent_once() {
    let world = World::new().await;
    for number in 0..40 {
        world.write(format!("copy {number}"), b"the same tide");
    }
    world.sync_level().await;
    assert_eq!(world.endpoint.count("PutObject"), 1);
    assert_eq!(world.endpoint.count("CopyObject"), 39);
    assert_eq!(world.objects().len(), 40);
    assert!(world.objects().values().all(|b| b == b"the same tide"));
}

#[tokio::test]
async fn if_a_copy_is_refused_the_bytes_are_sent() {
    let world = World::new().await;
    let refused = Fault::Error(501, "NotImplemented");
    world.endpoint.always("CopyObject", refused);
    for number in 0..5 {
        world.write(format!("copy {number}"), b"the same tide");
    }
    world.sync_level().await;
    assert_eq!(world.endpoint.count("PutObject"), 5);
    assert_eq!(world.objects().len(), 5);
}
