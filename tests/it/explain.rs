//! What `tidewatch explain` says of a file: safe, or not and why, and by which rule.
#![allow(
    clippy::disallowed_methods,
    reason = "these are the user's files, not the agent's state"
)]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;
use tidewatch::base::clock::Clock;
use tidewatch::base::digest::Sha256;
use tidewatch::base::path::RelPath;
use tidewatch::manifest::{
    Change, Content, Entry, Failure, FolderKey, FolderRow, Held, HeldWhat, Manifest, State,
};
use tidewatch::tree::Tree;
use tidewatch::tree::real::RealTree;

const MINUTE_NS: i64 = 60_000_000_000;

fn path(bytes: impl AsRef<[u8]>) -> RelPath {
    RelPath::new(bytes.as_ref()).expect("a valid path")
}

/// A folder, its state, and a config that names it.
struct Home {
    dir: TempDir,
    manifest: Manifest,
    row: FolderRow,
}

impl Home {
    fn new() -> Self {
        let dir = TempDir::new().expect("a folder");
        let root = dir.path().canonicalize().expect("a path").join("photos");
        fs::create_dir_all(&root).expect("a folder");
        let now_ns = Clock::Real.now().wall_ns;
        let (manifest, _) = Manifest::open(&dir.path().join("state"), now_ns).expect("a state");
        let key = FolderKey {
            path: root.as_os_str().as_encoded_bytes().to_vec(),
            endpoint: String::new(),
            bucket: "backups".to_owned(),
            prefix: "photos/".to_owned(),
        };
        let row = manifest.folder(&key, "photos").expect("a folder");
        let home = Self { dir, manifest, row };
        home.config("");
        home
    }

    fn root(&self) -> PathBuf {
        let dir = self.dir.path().canonicalize().expect("a path");
        dir.join("photos")
    }

    fn config(&self, more: &str) {
        let dir = self.dir.path().canonicalize().expect("a path");
        let dir = dir.display();
        let text = format!(
            "[agent]\nstate_dir = \"{dir}/state\"\n[[folder]]\npath = \"{dir}/photos\"\n\
             to = \"s3://backups/photos\"\n{more}\n"
        );
        fs::write(self.dir.path().join("config.toml"), text).expect("a config");
    }

    fn write(&self, at: impl AsRef<[u8]>, text: &str) -> PathBuf {
        let at = self.root().join(OsStr::from_bytes(at.as_ref()));
        fs::create_dir_all(at.parent().expect("a folder")).expect("a folder");
        fs::write(&at, text).expect("a file");
        at
    }

    /// Returns the row of a file that was synced as it is now, long after its last change.
    fn synced(&self, at: &str) -> Entry {
        let stat = RealTree::open(&self.root())
            .stat(&path(at))
            .expect("a file");
        Entry {
            stored: Some(Content {
                stat,
                read_at_ns: stat.ctime_ns + MINUTE_NS,
                sha256: Sha256::of(b"x"),
                etag: "e".to_owned(),
                version_id: None,
                synced_at_ns: stat.ctime_ns,
                doubtful: false,
            }),
            ..Entry::blank(path(at), State::Synced)
        }
    }

    fn put(&self, entry: Entry) {
        let changes = [Change::Put(entry)];
        self.manifest
            .commit(self.row.id, &changes)
            .expect("committed");
    }

    fn run(&self, at: &Path, more: &[&str]) -> (Option<i32>, String, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_tidewatch"))
            .arg("explain")
            .arg(at)
            .args(more)
            .env_clear()
            .current_dir(self.root())
            .output()
            .expect("the program runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (
            output.status.code(),
            text(&output.stdout),
            text(&output.stderr),
        )
    }

    fn with_config(&self, at: impl AsRef<Path>, json: bool) -> (Option<i32>, String, String) {
        let config = self.dir.path().join("config.toml");
        let config = config.display().to_string();
        let json: &[&str] = if json { &["--json"] } else { &[] };
        self.run(at.as_ref(), &[&["--config", &config], json].concat())
    }

    /// Returns the exit code, the one word, and the whole object.
    fn said(&self, at: impl AsRef<Path>) -> (Option<i32>, String, Value) {
        let (code, out, err) = self.with_config(at, true);
        assert_eq!((out.lines().count(), &*err), (1, ""), "{out}");
        let said: Value = serde_json::from_str(&out).expect("an object");
        assert_eq!(said["safe"], code == Some(0));
        let word = said["code"].as_str().expect("a word").to_owned();
        (code, word, said)
    }
}

#[test]
fn a_file_that_the_bucket_holds_is_safe_until_it_changes() {
    let home = Home::new();
    let at = home.write("a/b.jpg", "x");
    let (code, word, said) = home.said(&at);
    assert_eq!((code, &*word), (Some(3), "new"));
    assert_eq!(said["known"], Value::Null);
    home.put(home.synced("a/b.jpg"));
    let (code, word, said) = home.said(Path::new("a/../a/b.jpg"));
    assert_eq!((code, &*word), (Some(0), "level"));
    for (field, value) in [
        ("/path", Value::from(at.display().to_string())),
        ("/folder", "photos".into()),
        ("/to", "s3://backups/photos/".into()),
        ("/key", "photos/a/b.jpg".into()),
        ("/disk/kind", "file".into()),
        ("/disk/bytes", 1.into()),
        ("/known/state", "synced".into()),
        ("/known/sha256", Sha256::of(b"x").to_hex().into()),
        ("/known/attempts", 0.into()),
        ("/config_missing", Value::Null),
        ("/agent_alive", true.into()),
    ] {
        assert_eq!(said.pointer(field), Some(&value), "{field}");
    }
    home.write("a/b.jpg", "xx");
    assert_eq!(home.said(&at).1, "changed");
    fs::remove_file(&at).expect("removed");
    let (code, word, said) = home.said(&at);
    assert_eq!((code, &*word), (Some(0), "gone"));
    assert_eq!(said["disk"], Value::Null);
}

#[test]
fn whatever_is_open_about_a_row_is_not_safe() {
    let home = Home::new();
    let at = home.write("a", "x");
    let good = home.synced("a");
    let held = |what| {
        Some(Box::new(Held {
            what,
            at_ns: 1,
            seen: None,
        }))
    };
    let content = good.stored.clone().expect("stored");
    let failure = Failure {
        attempts: 2,
        error: "the bucket says no".to_owned(),
        parked: None,
    };
    let rows = [
        (
            "failed",
            Entry {
                failure: Some(failure),
                ..good.clone()
            },
        ),
        (
            "open",
            Entry {
                state: State::Open,
                ..good.clone()
            },
        ),
        ("new", Entry::blank(path("a"), State::Unsent)),
        (
            "changed",
            Entry {
                state: State::Kept,
                ..good.clone()
            },
        ),
        (
            "ambiguous",
            Entry {
                ambiguous_until_ns: content.synced_at_ns + 15 * MINUTE_NS,
                ..good.clone()
            },
        ),
        (
            "held",
            Entry {
                held: held(HeldWhat::Overwrite),
                ..good.clone()
            },
        ),
        (
            "dropped",
            Entry {
                held: held(HeldWhat::Dropped),
                ..good.clone()
            },
        ),
        (
            "doubtful",
            Entry {
                stored: Some(Content {
                    doubtful: true,
                    ..content.clone()
                }),
                ..good.clone()
            },
        ),
        // Read in the very tick of its last change.
        (
            "doubtful",
            Entry {
                stored: Some(Content {
                    read_at_ns: content.stat.ctime_ns,
                    ..content
                }),
                ..good.clone()
            },
        ),
    ];
    for (expected, row) in rows {
        home.put(row);
        let (code, word, said) = home.said(&at);
        assert_eq!((code, &*word), (Some(3), expected), "{said:#}");
    }
    home.put(good);
    assert_eq!(home.said(&at).0, Some(0));
}

#[test]
fn of_a_log_that_never_rests_it_is_said_that_only_its_beginning_is_safe() {
    let home = Home::new();
    let at = home.write("log", "x");
    let mut row = home.synced("log");
    row.stored.as_mut().expect("stored").doubtful = true;
    home.put(row);
    home.write("log", "x, and more");
    let (code, word, said) = home.said(&at);
    assert_eq!((code, word.as_str()), (Some(3), "changed"));
    let why = said["why"].as_str().expect("a reason");
    assert!(why.contains("its beginning at an instant"), "{why}");
}

#[test]
fn the_rule_that_leaves_a_file_out_is_named_with_its_place() {
    let home = Home::new();
    home.config("exclude = [\"*.iso\"]\nmax_size = \"10B\"");
    home.write(".tidewatchignore", "# mine\nbuild/\n");
    home.write(
        "cache/CACHEDIR.TAG",
        "Signature: 8a477f597d28d172789f06886806bc55",
    );
    let table = [
        ("a.iso", "rule `*.iso` of the config", "*.iso", Value::Null),
        (
            "build/out/x",
            "rule `build/` of `.tidewatchignore`, line 2",
            "build/",
            2.into(),
        ),
        (".a.swp", "built-in rule `.*.sw?`", ".*.sw?", Value::Null),
        ("cache/x", "`cache` holds a CACHEDIR.TAG", "", Value::Null),
        ("long", "longer than max_size = 10 B", "", Value::Null),
    ];
    for (name, why, rule, line) in table {
        let at = home.write(name, if name == "long" { "much too long" } else { "x" });
        let (code, word, said) = home.said(&at);
        assert_eq!((code, &*word), (Some(3), "excluded"), "{name}");
        assert_eq!(said["why"], format!("left out: {why}"), "{name}");
        assert_eq!(said["rule"].as_str().unwrap_or_default(), rule, "{name}");
        assert_eq!(said["rule_line"], line, "{name}");
    }
}

#[test]
fn without_a_config_the_rules_of_the_tree_are_checked_and_the_gap_is_told() {
    let home = Home::new();
    home.config("exclude = [\"*.iso\"]");
    home.write(".tidewatchignore", "*.tmp\n");
    let state = home.dir.path().join("state").display().to_string();
    let without = |at: &Path| {
        let (code, out, _) = home.run(at, &["--state-dir", &state]);
        (code, out.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    let (code, text) = without(&home.write("a.tmp", "x"));
    assert_eq!(code, Some(3));
    assert!(
        text.contains("left out: rule `*.tmp` of `.tidewatchignore`, line 1"),
        "{text}"
    );
    let (code, text) = without(&home.write("a.iso", "x"));
    assert_eq!(code, Some(3));
    assert!(text.contains("it has not been synced yet"), "{text}");
    assert!(text.contains("could not be checked"), "{text}");
}

#[test]
fn the_page_fits_into_80_columns_and_says_what_to_do() {
    let home = Home::new();
    let at = home.write("a", "x");
    home.put(Entry {
        failure: Some(Failure {
            attempts: 1,
            error: "send it: the bucket backups says that access is denied; ask who owns it"
                .to_owned(),
            parked: None,
        }),
        ..home.synced("a")
    });
    let Home { dir, manifest, row } = home;
    manifest.close();
    let (manifest, _) = Manifest::open(&dir.path().join("other"), 1).expect("another state");
    let home = Home { dir, manifest, row };
    let (code, text, err) = home.with_config(&at, false);
    assert_eq!((code, &*err), (Some(3), ""));
    assert!(text.starts_with("not safe: /"), "{text}");
    for line in text
        .lines()
        .skip(1)
        .filter(|line| !line.contains("/photos"))
    {
        assert!(line.chars().count() <= 80, "{line}");
    }
    assert!(text.contains("it failed 1 time, last: send it:"), "{text}");
    assert!(text.contains("none is running"), "{text}");
}

#[test]
fn what_is_no_file_in_a_folder_is_wrong_usage_or_said_so() {
    let home = Home::new();
    let (code, _, err) = home.with_config(home.root(), false);
    assert_eq!(code, Some(2));
    assert!(err.contains("it is a folder"), "{err}");
    let (code, _, err) = home.with_config("/elsewhere/x", false);
    assert_eq!(code, Some(2));
    assert!(err.contains("it is in no folder that is synced"), "{err}");
    assert!(err.contains("/photos"), "{err}");
    let (code, word, _) = home.said(home.root().join("never/was"));
    assert_eq!((code, &*word), (Some(3), "unknown"));
    std::os::unix::fs::symlink("x", home.root().join("link")).expect("a link");
    let (code, word, _) = home.said(home.root().join("link"));
    assert_eq!((code, &*word), (Some(3), "skipped"));
    home.config("symlinks = \"record\"");
    let (_, word, said) = home.said(home.root().join("link"));
    assert_eq!(word, "new");
    assert_eq!(said["key"], "photos/link.rclonelink");
    let long = "n".repeat(250);
    let deep = [&*long; 5].join("/");
    assert_eq!(home.said(home.write(&deep, "x")).1, "no_key");
    let odd = home.write(b"odd\xff", "x");
    assert!(home.said(odd).2["path_base64"].is_string());
}

#[test]
fn a_hard_link_to_somebody_elses_file_is_named() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let home = Home::new();
    let link = home.write("theirs/link", "x");
    fs::hard_link(&link, home.root().join("elsewhere")).expect("a link");
    let folder = home.root().join("theirs");
    std::os::unix::fs::chown(&folder, Some(12_345), None).expect("another owner");
    let (code, word, said) = home.said(&link);
    assert_eq!((code, &*word), (Some(3), "planted"), "{said}");
}
