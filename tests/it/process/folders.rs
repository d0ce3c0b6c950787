//! `tidewatch folder`: what is on record of a folder goes along with it, and nothing of it is sent again.

use std::fs;
use std::path::Path;

use crate::process::{Ended, World, ended};

impl World {
    async fn folder(&self, args: &[&str]) -> Ended {
        let mut command = self.bare(["folder"]);
        command.args(args).arg("--state-dir").arg(self.state());
        ended(&mut command).await
    }

    async fn sync_of(&self, dir: &Path, to: &str) -> Ended {
        let mut command = self.bare(["sync"]);
        command.arg(dir).arg(to);
        command.args(["--endpoint-url", &self.endpoint.url()]);
        ended(command.arg("--state-dir").arg(self.state())).await
    }
}

fn ten_files(world: &World) {
    for number in 0..10 {
        world.write(format!("sub/{number}"), format!("content {number}"));
    }
}

#[tokio::test]
async fn a_folder_that_has_moved_goes_on_where_it_was() {
    let world = World::new().await;
    ten_files(&world);
    world.sync_level().await;
    let new = world.dir.path().join("elsewhere");
    fs::rename(world.tree(""), &new).unwrap();
    let set = world
        .folder(&["set", "tree", "--path", new.to_str().unwrap()])
        .await;
    assert_eq!(set.code, Some(0), "{}", set.err);
    assert!(
        set.out.contains("elsewhere now, and goes to s3://tide/p/"),
        "{}",
        set.out
    );
    world.endpoint.reset_counts();
    let synced = world.sync_of(&new, "s3://tide/p").await;
    assert_eq!(synced.code, Some(0), "{}", synced.err);
    assert!(
        synced
            .out
            .starts_with("level: 0 uploaded (0 B), 10 unchanged"),
        "{}",
        synced.out
    );
    assert_eq!(
        world.endpoint.count("*"),
        0,
        "nothing is asked about a level folder"
    );
}

#[tokio::test]
async fn what_lies_in_another_bucket_is_compared_before_anything_is_written() {
    let world = World::new().await;
    ten_files(&world);
    world.sync_level().await;
    // Somebody has copied it there, but for one object, and has got another one wrong.
    let client = world.endpoint.client();
    for number in 0..9 {
        let copied = client.copy_object().bucket("tide");
        let copied = copied.copy_source(format!("tide/p/sub/{number}"));
        copied.key(format!("q/sub/{number}")).send().await.unwrap();
    }
    let wrong = client.put_object().bucket("tide").key("q/sub/3");
    wrong
        .body(b"another content".to_vec().into())
        .send()
        .await
        .unwrap();
    let set = world.folder(&["set", "tree", "--to", "s3://tide/q"]).await;
    assert_eq!(set.code, Some(0), "{}", set.err);
    world.endpoint.reset_counts();
    let synced = world.sync_of(&world.tree(""), "s3://tide/q").await;
    assert_eq!(synced.code, Some(0), "{}", synced.err);
    for number in 0..10 {
        let object = world.endpoint.object(&format!("q/sub/{number}"));
        assert_eq!(object, Some(format!("content {number}").into_bytes()));
    }
    let sent = world.endpoint.count("PutObject");
    assert_eq!(sent, 2, "{:?}", world.endpoint.requests());
    let aside = |key: &String| key.starts_with("q/.tidewatch/trash/") && key.ends_with("sub/3");
    assert!(world.endpoint.all_keys().iter().any(aside));
    // The former place is as it was.
    assert_eq!(
        world.endpoint.object("p/sub/9"),
        Some(b"content 9".to_vec())
    );
}

#[tokio::test]
async fn a_forgotten_folder_leaves_its_objects_and_nothing_else() {
    let world = World::new().await;
    ten_files(&world);
    world.sync_level().await;
    let forgotten = world.folder(&["forget", "tree"]).await;
    assert_eq!(forgotten.code, Some(0), "{}", forgotten.err);
    for part in [
        "tree: forgotten",
        "10 objects (90 B) stay below s3://tide/p/",
        "aws s3 rm --recursive s3://tide/p/",
    ] {
        assert!(forgotten.out.contains(part), "{part}\n{}", forgotten.out);
    }
    assert_eq!(world.endpoint.keys().len(), 10);
    let listed = world.folder(&["list"]).await;
    assert_eq!(listed.out, "no folder is known here yet\n");
    let again = world.folder(&["forget", "tree"]).await;
    assert_eq!(again.code, Some(2), "{}", again.err);
    // It begins anew, and finds everything there.
    world.endpoint.reset_counts();
    world.sync_level().await;
    assert_eq!(world.endpoint.count("PutObject"), 0);
}

#[tokio::test]
async fn what_cannot_be_is_refused_and_nothing_has_changed() {
    let world = World::new().await;
    ten_files(&world);
    world.sync_level().await;
    let other = world.dir.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("file"), "x").unwrap();
    let synced = world.sync_of(&other, "s3://tide/other").await;
    assert_eq!(synced.code, Some(0), "{}", synced.err);
    let before = world.folder(&["list"]).await.out;
    let nowhere = world.dir.path().join("nowhere");
    for (args, part) in [
        (&["set", "tree"][..], "name at least one of --accept-root"),
        (
            &["set", "tree", "--path", nowhere.to_str().unwrap()],
            "nowhere: No such file",
        ),
        (
            &[
                "set",
                "tree",
                "--path",
                other.join("file").to_str().unwrap(),
            ],
            "it is no folder",
        ),
        (&["set", "tree", "--to", "bucket/x"], "expected s3://BUCKET"),
        (
            &["set", "tree", "--to", "s3://tide/{hostname}"],
            "write out what",
        ),
        (
            &["set", "tree", "--endpoint-url", "server:9000"],
            "expected http://",
        ),
        (
            &[
                "set",
                "s3://tide/other/",
                "--to",
                "s3://tide/p",
                "--path",
                world.tree("").to_str().unwrap(),
            ],
            "another folder is on record there",
        ),
        (&["forget", "third"], "third"),
    ] {
        let said = world.folder(args).await;
        assert_eq!(said.code, Some(2), "{args:?}: {}", said.err);
        assert!(said.err.contains(part), "{args:?}: {}", said.err);
    }
    assert_eq!(world.folder(&["list"]).await.out, before);
    // While an agent has it, nothing is changed behind its back.
    let mut agent = world.command("watch", &[]).spawn().unwrap();
    world
        .endpoint
        .until("a lease", |_| {
            tidewatch::manifest::is_locked(&world.state()).unwrap_or(false)
        })
        .await;
    let said = world.folder(&["forget", "tree"]).await;
    assert_eq!(said.code, Some(6), "{}", said.err);
    agent.kill().await.unwrap();
}
