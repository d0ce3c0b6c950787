//! `tidewatch service`, and what a service manager hands over.

use std::fs;
use std::path::PathBuf;

use tokio::process::Command;

use crate::process::{World, ended};

/// Writes a config of one folder, whose name is no easy one.
fn config(world: &World) -> PathBuf {
    let path = world.tree("a folder, 100%");
    fs::create_dir(&path).unwrap();
    let place = world.dir.path().join("config.toml");
    let shown = path.display();
    let text = format!("[[folder]]\npath = \"{shown}\"\nto = \"s3://tide/p\"\n");
    fs::write(&place, text).unwrap();
    place
}

/// Makes `service` of this user, whose units are below `units`.
fn service(world: &World, verb: &str, more: &[&str]) -> Command {
    let mut command = world.bare(["service", verb, "--user"]);
    command
        .args(more)
        .env("XDG_CONFIG_HOME", world.dir.path().join("units"));
    command
}

#[tokio::test]
async fn a_users_service_is_shown_written_and_removed_without_a_trace() {
    let world = World::new().await;
    let place = config(&world);
    let named = ["--config", place.to_str().unwrap()];
    let units = world.dir.path().join("units/systemd/user");
    let (unit, folders) = (
        units.join("tidewatch.service"),
        units.join("tidewatch.service.d/folders.conf"),
    );
    let shown = ended(&mut service(&world, "show", &named)).await;
    assert_eq!(shown.code, Some(0), "{}", shown.err);
    assert!(!units.exists(), "only shown");

    let done = ended(&mut service(&world, "install", &named)).await;
    assert_eq!(done.code, Some(0), "{}", done.err);
    let text = fs::read_to_string(&unit).unwrap();
    assert!(shown.out.contains(&text), "{}", shown.out);
    let start = format!(
        "ExecStart={} run --config {}\n",
        env!("CARGO_BIN_EXE_tidewatch"),
        place.display()
    );
    assert!(text.contains(&start), "{text}");
    let text = fs::read_to_string(&folders).unwrap();
    assert!(shown.out.contains(&text), "{}", shown.out);
    let needs = format!(
        "RequiresMountsFor=\"{}%\"\n",
        world.tree("a folder, 100%").display()
    );
    assert!(text.contains(&needs), "{text}");

    // Again, after a change, it replaces what it wrote.
    let done = ended(&mut service(&world, "install", &named)).await;
    assert_eq!(done.code, Some(0), "{}", done.err);
    // While it is enabled it stays: afterwards that could not be undone.
    let wants = units.join("default.target.wants");
    fs::create_dir(&wants).unwrap();
    std::os::unix::fs::symlink(&unit, wants.join("tidewatch.service")).unwrap();
    let done = ended(&mut service(&world, "uninstall", &[])).await;
    assert_eq!(done.code, Some(1), "{}", done.out);
    assert!(done.err.contains("disable --now tidewatch"), "{}", done.err);
    assert!(unit.exists() && folders.exists());
    fs::remove_dir_all(&wants).unwrap();
    let done = ended(&mut service(&world, "uninstall", &[])).await;
    assert_eq!(done.code, Some(0), "{}", done.err);
    assert_eq!(fs::read_dir(&units).unwrap().count(), 0, "{}", done.out);
    let done = ended(&mut service(&world, "uninstall", &[])).await;
    assert_eq!(done.code, Some(0), "{}", done.err);
    assert!(done.out.contains("nothing to remove"), "{}", done.out);
}

#[tokio::test]
async fn a_unit_of_another_hand_is_neither_replaced_nor_removed() {
    let world = World::new().await;
    let place = config(&world);
    let units = world.dir.path().join("units/systemd/user");
    fs::create_dir_all(&units).unwrap();
    let unit = units.join("tidewatch.service");
    fs::write(&unit, "[Service]\nExecStart=/mine\n").unwrap();
    let named = ["--config", place.to_str().unwrap()];
    for mut command in [
        service(&world, "install", &named),
        service(&world, "uninstall", &[]),
    ] {
        let done = ended(&mut command).await;
        assert_eq!(done.code, Some(1), "{}", done.err);
        assert!(done.err.contains("move it away first"), "{}", done.err);
        assert_eq!(
            fs::read_to_string(&unit).unwrap(),
            "[Service]\nExecStart=/mine\n"
        );
        assert!(!units.join("tidewatch.service.d").exists());
    }
}

#[tokio::test]
async fn keys_that_the_service_manager_hands_over_are_used_and_not_told() {
    let world = World::new().await;
    world.write("a", b"a");
    let handed = world.dir.path().join("credentials");
    fs::create_dir(&handed).unwrap();
    let (key, secret) = (world.endpoint.access_key(), world.endpoint.secret_key());
    let text = format!("[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n");
    fs::write(handed.join("aws-credentials"), text).unwrap();
    let sync = |other: Option<&str>| {
        let mut command = world.command("sync", &["-vv", "--timeout", "5s"]);
        command
            .env_remove("AWS_ACCESS_KEY_ID")
            .env_remove("AWS_SECRET_ACCESS_KEY")
            .env_remove("AWS_SHARED_CREDENTIALS_FILE")
            .env("CREDENTIALS_DIRECTORY", &handed);
        if let Some(other) = other {
            command.env("AWS_SHARED_CREDENTIALS_FILE", other);
        }
        command
    };
    // A file that is named by the environment goes before it, and this one holds nothing.
    let done = ended(&mut sync(Some("/dev/null"))).await;
    assert_ne!(done.code, Some(0), "{}", done.err);
    assert_eq!(world.object("a"), None);
    let done = ended(&mut sync(None)).await;
    assert_eq!(done.code, Some(0), "{}", done.err);
    assert_eq!(world.object("a").as_deref(), Some(&b"a"[..]));
    assert!(
        !done.err.contains(secret) && !done.out.contains(secret),
        "{}",
        done.err
    );
}
