//! `--repair` where no agent runs.

use std::fs;

use tidewatch::base::clock::Clock;
use tidewatch::manifest::Manifest;

use crate::process::{World, complaints, ended};
use crate::verify::{
    config, config_with, damage, lose, put, rot, row, said, said_by, trash, verify,
};

#[tokio::test]
async fn what_is_missing_changed_or_damaged_is_sent_again_and_nothing_of_others_is_lost() {
    let world = World::new().await;
    let large: Vec<u8> = (0..17_000_001_u32).map(|n| (n % 241) as u8).collect();
    for name in ["good", "missing", "changed", "damaged", "empty"] {
        world.write(name, if name == "empty" { "" } else { name });
    }
    world.write_bytes(b"odd\x01", "odd");
    world.write("large", &large);
    let config = config(&world);
    let sync = || ended_of(&world, &["sync"], &config);
    assert_eq!(sync().await.code, Some(0));
    let before = world.objects();
    for name in ["missing", "empty", "odd\u{201b}01"] {
        lose(&world, name).await;
    }
    put(&world, "changed", "somebody else's").await;
    put(&world, "extra", "somebody else's too").await;
    damage(&world, "damaged");
    damage(&world, "large");

    let mut command = world.bare(["verify", "--config"]);
    command.arg(&config).args(["--deep", "--repair", "--json"]);
    let said = said_by(&mut command).await;
    // The extra object is nobody's to mend.
    assert_eq!(said.code, Some(3), "{said:?}");
    assert_eq!(
        said.lines,
        [
            "changed changed",
            "damaged damaged",
            "damaged large",
            "extra extra",
            "mended changed",
            "mended damaged",
            "mended empty",
            "mended large",
            "mended missing",
            "mended odd\u{1}",
            "missing empty",
            "missing missing",
            "missing odd\u{1}",
        ],
        "{}",
        said.err
    );
    let mut after = world.objects();
    assert_eq!(after.remove("extra").unwrap(), b"somebody else's too");
    assert!(after == before, "{:?}", after.keys());
    assert_eq!(
        trash(&world),
        [("changed".to_owned(), b"somebody else's".to_vec())]
    );
    lose(&world, "extra").await;
    let clean = ended_of(&world, &["verify", "--deep", "--local"], &config).await;
    assert_eq!(clean.code, Some(0), "{}{}", clean.out, clean.err);
    world.endpoint.reset_counts();
    assert_eq!(sync().await.code, Some(0));
    assert_eq!(world.endpoint.count("PutObject"), 0, "it was level");
}

async fn ended_of(world: &World, args: &[&str], config: &std::path::Path) -> crate::process::Ended {
    ended(world.bare(args).arg("--config").arg(config)).await
}

#[tokio::test]
async fn what_was_all_mended_exits_0() {
    let world = World::new().await;
    world.write("a", "a");
    world.write("b", "b");
    let config = config(&world);
    assert_eq!(ended_of(&world, &["sync"], &config).await.code, Some(0));
    lose(&world, "a").await;
    let mended = ended_of(&world, &["verify", "--repair"], &config).await;
    assert_eq!(mended.code, Some(0), "{}{}", mended.out, mended.err);
    assert!(
        mended
            .out
            .contains("all there now: 1 missing, 1 mended; 2 objects compared"),
        "{}",
        mended.out
    );
    assert_eq!(world.object("a").unwrap(), b"a");
}

#[tokio::test]
async fn a_guarded_object_of_somebody_else_is_set_aside_because_a_person_says_so() {
    let world = World::new().await;
    world.write("missing", "missing");
    world.write("changed", "changed");
    let config = config_with(&world, "guard = \"strict\"");
    assert_eq!(ended_of(&world, &["sync"], &config).await.code, Some(0));
    lose(&world, "missing").await;
    put(&world, "changed", "somebody else's").await;
    let mended = ended_of(&world, &["verify", "--repair"], &config).await;
    assert_eq!(mended.code, Some(0), "{}{}", mended.out, mended.err);
    assert_eq!(world.object("missing").unwrap(), b"missing");
    assert_eq!(world.object("changed").unwrap(), b"changed");
    assert_eq!(
        trash(&world),
        [("changed".to_owned(), b"somebody else's".to_vec())]
    );
}

#[tokio::test]
async fn without_a_config_the_next_sync_sends_it_again() {
    let world = World::new().await;
    world.write("a", "a");
    world.write("secret", "never to be sent");
    let sync = async || world.sync(&["--exclude", "secret"]).await;
    assert_eq!(sync().await.code, Some(0));
    lose(&world, "a").await;
    let marked = said(&world, &["--repair"]).await;
    assert_eq!(marked.code, Some(3), "{marked:?}");
    assert_eq!(marked.lines, ["marked a", "missing a"]);
    // What a command was told to leave out is not known here, and so nothing was sent.
    assert!(world.objects().is_empty());
    let again = said(&world, &[]).await;
    assert_eq!(
        (again.code, &*again.lines),
        (Some(3), &["not_level a".to_owned()][..])
    );
    assert_eq!(sync().await.code, Some(0));
    assert_eq!(world.objects().keys().collect::<Vec<_>>(), ["a"]);
    assert_eq!(verify(&world, &[]).await.code, Some(0));
}

#[tokio::test]
async fn a_rotten_file_is_never_sent_and_a_touched_one_is() {
    let world = World::new().await;
    for name in ["rotten", "touched", "gone"] {
        world.write(name, name);
    }
    let config = config(&world);
    assert_eq!(ended_of(&world, &["sync"], &config).await.code, Some(0));
    rot(&world, "rotten", b"rOtten");
    for name in ["rotten", "touched", "gone"] {
        lose(&world, name).await;
    }
    fs::write(world.tree("touched"), "touched").unwrap();
    fs::remove_file(world.tree("gone")).unwrap();
    let before = row(&world, "rotten");
    let mut command = world.bare(["verify", "--config"]);
    command.arg(&config).args(["--repair", "--json"]);
    let said = said_by(&mut command).await;
    assert_eq!(said.code, Some(3), "{said:?}");
    let done: Vec<_> = said
        .lines
        .iter()
        .filter(|line| !line.starts_with("missing"))
        .collect();
    assert_eq!(
        done,
        ["mended touched", "not_mended gone", "not_mended rotten"]
    );
    assert!(world.object("rotten").is_none());
    assert_eq!(row(&world, "rotten"), before, "nothing was changed of it");
    assert_eq!(world.object("touched").unwrap(), b"touched");
}

#[tokio::test]
async fn a_state_folder_that_is_held_by_who_does_not_listen_exits_6() {
    let world = World::new().await;
    world.write("a", "a");
    world.sync_level().await;
    lose(&world, "a").await;
    let (manifest, _) = Manifest::open(&world.state(), Clock::Real.now().wall_ns).unwrap();
    let only_read = verify(&world, &[]).await;
    assert_eq!(only_read.code, Some(3), "{}", only_read.err);
    let ended = verify(&world, &["--repair"]).await;
    assert_eq!(ended.code, Some(6), "{}", ended.err);
    assert!(
        complaints(&ended)
            .iter()
            .any(|line| line.contains("could not")),
        "{}",
        ended.err
    );
    // Everything was looked at all the same.
    assert!(
        ended.out.contains("\ndifferent: 1 missing"),
        "{}",
        ended.out
    );
    manifest.close();
}
