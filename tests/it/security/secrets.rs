//! S8, S9 and S24: what is secret stays where it is, and what is ours stays ours.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;

use crate::process::{World, complaints, end_of, ended, eventually, send};
use crate::support::endpoint::Fault;
use crate::watching::table::row;

fn config(world: &World, more: &str) -> std::path::PathBuf {
    let config = world.dir.path().join("config.toml");
    let text = format!(
        "[agent]\nlisten = \"\"\nstate_dir = \"{}\"\n[s3]\nendpoint_url = {:?}\n{more}\n\
         [[folder]]\npath = \"{}\"\nto = \"s3://tide/p\"\nsettle = \"20ms\"\non_delete = \"delete\"\n\
         delete_brake = {{ files = 1, window = \"10m\" }}\n",
        world.state().display(),
        world.endpoint.url(),
        world.tree("").display(),
    );
    fs::write(&config, text).unwrap();
    fs::set_permissions(&config, Permissions::from_mode(0o600)).unwrap();
    config
}

/// Calls `see` with the bytes of each file below `dir`.
fn files(dir: &Path, see: &mut impl FnMut(&Path, &[u8])) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let stat = fs::symlink_metadata(&path).unwrap();
        if stat.is_dir() {
            files(&path, see);
        } else if stat.is_file() {
            see(&path, &fs::read(&path).unwrap());
        }
    }
}

fn holds(bytes: &[u8], secret: &str) -> bool {
    bytes
        .windows(secret.len())
        .any(|part| part == secret.as_bytes())
}

#[tokio::test]
async fn s08_the_secret_is_in_no_argument_no_child_no_log_no_status_no_file_and_no_core() {
    let _row = row!();
    let world = World::new().await;
    for name in ["a", "b", "c"] {
        world.write(name, name);
    }
    let told = world.dir.path().join("told");
    let script = format!(
        "env >> {0}; cat >> {0}; tr '\\\\0' ' ' < /proc/self/cmdline >> {0}",
        told.display()
    );
    let notify = format!("[notify]\ncommand = \"sh -c \\\"{script}\\\"\"");
    let config = config(&world, &notify);
    let secret = world.endpoint.secret_key().to_owned();
    let log = world.dir.path().join("log");
    let mut command = world.bare(["run", "-vv", "--config", config.to_str().unwrap()]);
    let child = command
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("RUST_LOG", "trace")
        // A pipe that nobody reads would be full soon.
        .stderr(fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let pid = child.id().unwrap();
    eventually("the objects", || world.objects().len() == 3).await;
    // What is wrong is told to a program of the user's own: too many deletes at once.
    for name in ["a", "b", "c"] {
        fs::remove_file(world.tree(name)).unwrap();
    }
    eventually("the program was told", || {
        fs::read_to_string(&told).is_ok_and(|told| told.contains("TIDEWATCH_EVENT=held"))
    })
    .await;
    let cmdline = fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    assert!(!holds(&cmdline, &secret));
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"));
    let soft = core.and_then(|line| line.split_whitespace().nth(4));
    assert_eq!(soft, Some("0"), "{core:?}");
    let mut status = world.bare(["status", "--json", "--state-dir"]);
    let status = ended(status.arg(world.state())).await;
    let explain =
        ended(&mut world.bare(["explain", world.tree("a").to_str().unwrap(), "--json"])).await;
    send(&child, Signal::TERM);
    let run = end_of(child).await;
    let log = fs::read_to_string(&log).unwrap();
    assert_eq!(run.code, Some(0), "{log}");
    assert!(log.contains("DEBUG") || log.contains("TRACE"), "it is loud");
    for (what, text) in [
        ("log", &log),
        ("output", &run.out),
        ("status", &status.out),
        ("explain", &explain.out),
        ("explain's log", &explain.err),
    ] {
        assert!(!text.contains(&secret), "{what}");
    }
    // The program's environment and the state folder, and what was stored.
    files(world.dir.path(), &mut |path, bytes| {
        assert!(!holds(bytes, &secret), "{}", path.display());
    });
    for key in world.endpoint.all_keys() {
        let bytes = world.endpoint.object(&key).unwrap_or_default();
        assert!(!holds(&bytes, &secret), "{key}");
    }
}

#[tokio::test]
async fn s08_a_key_that_is_refused_is_not_told_either() {
    let _row = row!();
    let world = World::new().await;
    world.write("a", "a");
    for code in [
        "SignatureDoesNotMatch",
        "InvalidAccessKeyId",
        "ExpiredToken",
    ] {
        world.endpoint.always("*", Fault::Error(403, code));
        let mut command = world.command("sync", &["-vv", "--timeout", "1s"]);
        command.env(
            "AWS_SECRET_ACCESS_KEY",
            "canary-secret-key-0123456789abcdef",
        );
        let ended = ended(&mut command).await;
        assert_eq!(ended.code, Some(5), "{code}: {}", ended.err);
        assert!(!ended.err.contains("canary-secret"), "{code}");
        world.endpoint.clear();
    }
    let help = ended(&mut world.bare(["sync", "--help"])).await.out;
    for option in ["secret", "access-key", "token"] {
        assert!(!help.contains(&format!("--{option}")), "{option}");
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o777
}

#[tokio::test]
async fn s09_a_state_folder_is_its_owners_alone_whatever_it_was() {
    let _row = row!();
    let world = World::new().await;
    world.write("a", "a");
    // Made by us, made before, and opened up by somebody since.
    for before in [None, Some(0o755), Some(0o777)] {
        if let Some(before) = before {
            fs::create_dir_all(world.state()).unwrap();
            fs::set_permissions(world.state(), Permissions::from_mode(before)).unwrap();
            for entry in fs::read_dir(world.state()).unwrap() {
                let path = entry.unwrap().path();
                if path.is_file() {
                    fs::set_permissions(path, Permissions::from_mode(0o666)).unwrap();
                }
            }
        }
        world.sync_level().await;
        assert_eq!(mode(&world.state()), 0o700, "{before:?}");
        for name in ["tidewatch.db", "lock"] {
            assert_eq!(mode(&world.state().join(name)), 0o600, "{before:?} {name}");
        }
        if before.is_none() {
            fs::remove_dir_all(world.state()).unwrap();
        }
    }
    // A folder of other things that others can write to is none for a state.
    let shared = world.dir.path().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::write(shared.join("other"), "of others").unwrap();
    fs::set_permissions(&shared, Permissions::from_mode(0o777)).unwrap();
    let mut command = world.bare(["sync"]);
    command
        .arg(world.tree(""))
        .args(["s3://tide/q", "--endpoint-url", &world.endpoint.url()])
        .arg("--state-dir")
        .arg(&shared);
    let ended = ended(&mut command).await;
    assert_eq!(ended.code, Some(2), "{}", ended.err);
    assert!(
        complaints(&ended)[0].contains("chmod go-w"),
        "{}",
        ended.err
    );
    assert_eq!(mode(&shared), 0o777);
    assert_eq!(fs::read_dir(&shared).unwrap().count(), 1);
}

#[tokio::test]
async fn s09_a_config_that_others_can_write_is_refused_and_one_with_secrets_that_all_can_read_warned_of()
 {
    let _row = row!();
    let world = World::new().await;
    world.write("a", "a");
    let hook = "[notify]\nwebhook = \"http://127.0.0.1:9/services/canary\"";
    for (rights, more, code, warned) in [
        (0o600, hook, 0, false),
        (0o640, hook, 0, false),
        (0o644, "", 0, false),
        (0o644, hook, 0, true),
        (0o664, "", 2, false),
        (0o646, "", 2, false),
        (0o666, hook, 2, false),
    ] {
        let config = config(&world, more);
        fs::set_permissions(&config, Permissions::from_mode(rights)).unwrap();
        let args = ["sync", "--config", config.to_str().unwrap()];
        let ended = ended(&mut world.bare(args)).await;
        assert_eq!(ended.code, Some(code), "{rights:o}: {}", ended.err);
        assert_eq!(
            ended.err.contains("chmod o-r"),
            warned,
            "{rights:o}: {}",
            ended.err
        );
        assert_eq!(ended.err.contains("chmod go-w"), code == 2, "{rights:o}");
        assert!(!ended.err.contains("canary"), "{}", ended.err);
    }
}

/// What is never right, and says so with what it is.
#[derive(Debug)]
struct Content;

impl std::str::FromStr for Content {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Err(text.to_owned())
    }
}

/// Makes the test of S24 break in a child.
const BREAK: &str = "TIDEWATCH_TEST_BREAK";

#[test]
fn s24_a_crash_tells_its_place_and_nothing_of_what_it_worked_on() {
    let _row = row!();
    if let Ok(how) = std::env::var(BREAK) {
        tidewatch::report::last_words::watch();
        let content = String::from("canary of a content");
        match how.as_str() {
            "formatted" => panic!("the row was {content:?}"),
            "expected" => content.parse::<Content>().map(drop).expect("a content"),
            "literal" => panic!("a text of the program"),
            _ => {
                let thread = std::thread::spawn(move || panic!("in a thread: {content}"));
                thread.join().unwrap_err();
                std::process::abort();
            }
        }
    }
    for how in ["formatted", "expected", "literal", "thread"] {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", "--test-threads=1"])
            .arg("security::secrets::s24_a_crash_tells_its_place_and_nothing_of_what_it_worked_on")
            .env(BREAK, how)
            .env("RUST_BACKTRACE", "1")
            .output()
            .unwrap();
        assert!(!output.status.success(), "{how}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned()
            + &String::from_utf8_lossy(&output.stdout);
        assert!(!said.contains("canary"), "{how}: {said}");
        assert!(!said.contains("stack backtrace"), "{how}: {said}");
        assert!(
            said.contains("tidewatch: a mistake in the program at tests/it/security/secrets.rs:"),
            "{how}: {said}"
        );
        assert_eq!(
            said.contains("(a text of the program)"),
            how == "literal",
            "{said}"
        );
    }
}
