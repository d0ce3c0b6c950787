//! A state folder that was put back from an old copy.

use std::fs;
use std::path::Path;

use crate::process::World;
use crate::verify::{said, trash, verify};

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

const WARNING: &str = "the state folder is older than the bucket";

#[tokio::test]
async fn an_old_state_folder_that_is_put_back_is_noticed_and_nothing_is_lost_or_claimed_wrongly() {
    let world = World::new().await;
    for name in ["same", "changed", "back again", "removed"] {
        world.write(name, name);
    }
    world.sync_level().await;
    let saved = world.dir.path().join("saved");
    copy(&world.state(), &saved);
    // What the saved state knows nothing of.
    world.write("changed", "changed since");
    world.write("back again", "changed for a while");
    world.write("new", "new since");
    world.sync_level().await;
    fs::remove_dir_all(world.state()).unwrap();
    copy(&saved, &world.state());
    // As a whole machine that is put back, this file is what the old state knows, with the times that it knows.
    world.write("back again", "back again");
    let before = world.objects();
    world.endpoint.reset_counts();
    let ended = world.sync(&[]).await;
    assert_eq!(ended.code, Some(0), "{}{}", ended.out, ended.err);
    assert!(ended.err.contains(WARNING), "{}", ended.err);
    // Nothing that was there already was sent again.
    let requests = world.endpoint.requests();
    let sent = requests.iter().filter(|seen| seen.operation == "PutObject");
    let sent: Vec<_> = sent.map(|seen| seen.key.as_str()).collect();
    assert_eq!(sent, ["p/back again"]);
    let mut expected = before;
    expected.insert("back again".to_owned(), b"back again".to_vec());
    assert_eq!(world.objects(), expected);
    assert_eq!(
        trash(&world),
        [("back again".to_owned(), b"changed for a while".to_vec())]
    );
    let clean = said(&world, &["--deep", "--local"]).await;
    assert_eq!((clean.code, &*clean.lines), (Some(0), &[][..]), "{clean:?}");
    // Said once.
    let ended = world.sync(&[]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert!(!ended.err.contains(WARNING), "{}", ended.err);
}

#[tokio::test]
async fn an_old_state_folder_does_not_claim_what_was_removed_since() {
    let world = World::new().await;
    for name in ["a", "b"] {
        world.write(name, name);
    }
    let delete = ["--on-delete", "delete"];
    assert_eq!(world.sync(&delete).await.code, Some(0));
    let saved = world.dir.path().join("saved");
    copy(&world.state(), &saved);
    let moved = world.dir.path().join("moved");
    fs::rename(world.tree("b"), &moved).unwrap();
    assert_eq!(world.sync(&delete).await.code, Some(0));
    assert!(world.object("b").is_none());
    fs::remove_dir_all(world.state()).unwrap();
    copy(&saved, &world.state());
    // The same inode under the same stamps but for one: no look at the file alone tells that its object is gone.
    fs::rename(&moved, world.tree("b")).unwrap();
    let ended = world.sync(&delete).await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert!(ended.err.contains(WARNING), "{}", ended.err);
    assert_eq!(world.object("b").unwrap(), b"b");
    assert_eq!(verify(&world, &["--deep", "--local"]).await.code, Some(0));
}

#[tokio::test]
async fn a_state_folder_that_was_copied_and_put_back_at_once_is_as_good_as_before() {
    let world = World::new().await;
    world.write("a", "a");
    world.sync_level().await;
    let saved = world.dir.path().join("saved");
    copy(&world.state(), &saved);
    fs::remove_dir_all(world.state()).unwrap();
    copy(&saved, &world.state());
    world.endpoint.reset_counts();
    let ended = world.sync(&[]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert!(!ended.err.contains(WARNING), "{}", ended.err);
    assert_eq!(world.endpoint.count("*"), 0, "it was level");
}
