//! What people write, in the config and on the command line, and what they are told when it is wrong.
#![expect(
    clippy::disallowed_methods,
    reason = "the files written here are the user's, not state"
)]

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tidewatch::base::digest::Sha256;
use tidewatch::base::policy::{Brake, Guarding, History, OnDelete, Symlinks, WatchMode};
use tidewatch::base::price::Prices;
use tidewatch::commands::init::EXAMPLE;
use tidewatch::config::{
    self, Concurrency, Config, Folder, KEYS, Options, PathStyle, Problems, S3Options, Surroundings,
    Target,
};

/// A machine called `tide` whose user has a home, and folders that are there: `photos`, `photos/raw`, `music`.
struct Machine {
    dir: TempDir,
    surroundings: Surroundings,
}

impl Machine {
    fn new() -> Self {
        let dir = TempDir::new().expect("a folder");
        let at = fs::canonicalize(dir.path()).expect("a path");
        for folder in ["photos/raw", "music", "home"] {
            fs::create_dir_all(at.join(folder)).expect("a folder");
        }
        fs::write(at.join("file"), "x").expect("a file");
        let surroundings = Surroundings {
            hostname: "tide".to_owned(),
            home: Some(at.join("home")),
            ..Surroundings::default()
        };
        Self { dir, surroundings }
    }

    fn at(&self, path: &str) -> PathBuf {
        fs::canonicalize(self.dir.path())
            .expect("a path")
            .join(path)
    }

    /// Loads a text in which `@` stands for this machine's folder.
    fn load_with(&self, text: &str, options: &Options) -> Result<Config, Problems> {
        let text = text.replace('@', &self.at("").display().to_string());
        Config::load(&text, Path::new("config.toml"), options, &self.surroundings)
    }

    fn load(&self, text: &str) -> Result<Config, Problems> {
        self.load_with(text, &Options::default())
    }

    /// Returns what is wrong with a text, with `@` for this machine's folder.
    fn problems(&self, text: &str) -> String {
        let problems = self.load(text).expect_err(text).to_string();
        problems.replace(&self.at("").display().to_string(), "@")
    }

    /// Returns the program, with this machine's surroundings and nothing else in its environment.
    fn program(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidewatch"));
        command
            .args(arguments)
            .env_clear()
            .env("HOME", self.at("home"))
            .current_dir(self.at(""));
        command
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        Ran::from(self.program(arguments).output().expect("the program runs"))
    }
}

struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

const SMALLEST: &str = "[[folder]]\npath = \"@photos\"\nto = \"s3://bucket/p\"\n";

#[test]
fn the_smallest_config_has_the_defaults() {
    let machine = Machine::new();
    let config = machine.load(SMALLEST).expect("a good config");
    assert_eq!(config.state_dir, machine.at("home/.local/state/tidewatch"));
    assert_eq!(config.shutdown_grace, Duration::from_secs(30));
    assert_eq!(config.upload.concurrency, Concurrency::Auto);
    assert_eq!(config.upload.memory_bytes, 128 << 20);
    assert_eq!(config.upload.bandwidth, config::Bandwidth::default());
    assert_eq!(config.prices, Prices::default());
    let [folder] = &config.folders[..] else {
        panic!("one folder")
    };
    assert_eq!(
        *folder,
        Folder {
            name: "photos".to_owned(),
            path: machine.at("photos"),
            given: machine.at("photos"),
            to: Target::parse("s3://bucket/p/").expect("a target"),
            s3: config::S3::default(),
            exclude: Vec::new(),
            include: Vec::new(),
            builtin_ignores: true,
            settle: Duration::from_secs(1),
            max_wait: Duration::from_secs(300),
            rescan: Duration::from_secs(600),
            max_lag: Duration::from_secs(900),
            on_delete: OnDelete::Keep,
            delete_brake: Some(Brake {
                files: 1000,
                share_percent: Some(20),
                window: Duration::from_secs(600),
            }),
            overwrite_brake: None,
            history: History::Off,
            guard: Guarding::Off,
            trash_keep: Duration::from_secs(30 * 24 * 3600),
            symlinks: Symlinks::Skip,
            watch: WatchMode::Auto,
            audit: Some(Duration::from_secs(7 * 24 * 3600)),
            drill: None,
            max_size: None,
            min_size: None,
            min_age: None,
            max_age: None,
            terms: tidewatch::base::terms::Terms::default(),
            content_types: Vec::new(),
            cache_control: Vec::new(),
            exclude_caches: true,
        }
    );
}

#[test]
fn the_page_listens_where_it_is_told_or_nowhere() {
    let machine = Machine::new();
    let listen = |text: &str| {
        let text = format!(
            "[agent]\nstate_dir = \"/s\"\n{text}\n[[folder]]\npath = \"@photos\"\nto = \"s3://bucket/p\"\n"
        );
        let listen = machine.load(&text).expect("a good config").listen;
        listen.map(|address| address.to_string())
    };
    for (text, expected) in [
        ("", Some("127.0.0.1:8737")),
        ("listen = \"\"", None),
        ("listen = \"127.0.0.1:0\"", Some("127.0.0.1:0")),
        ("listen = \"localhost:99\"", Some("127.0.0.1:99")),
        ("listen = \"[::1]:8737\"", Some("[::1]:8737")),
        ("listen = \"0.0.0.0:80\"", Some("0.0.0.0:80")),
    ] {
        assert_eq!(listen(text).as_deref(), expected, "{text}");
    }
}

#[test]
fn every_value_arrives() {
    let machine = Machine::new();
    let config = machine.load(
        "[agent]\nstate_dir = \"/s\"\nshutdown_grace = \"1m\"\n[s3]\nregion = \"eu-central-1\"\n\
         endpoint_url = \"http://h:9/\"\nprofile = \"p\"\npath_style = \"always\"\nca_bundle = \"@file\"\n\
         [upload]\nconcurrency = 64\nmemory = \"1GiB\"\nbandwidth = \"Sat,Sun 10MiB/s, else 2MiB/s\"\n\
         [cost]\ncurrency = \"EUR\"\nput = \"0.01\"\nget = \"0\"\nread = \"1\"\nbudget = \"2.5\"\n\
         [[folder]]\nname = \"pics\"\npath = \"@photos\"\nto = \"s3://bucket/{hostname}/{name}\"\n\
         exclude = [\"*.iso\"]\ninclude = [\"keep.iso\"]\nbuiltin_ignores = false\nsettle = \"2s\"\n\
         max_wait = \"3s\"\nrescan = \"4s\"\nmax_lag = \"5s\"\n\
         [[folder]]\npath = \"@music\"\nto = \"s3://bucket/m\"\nregion = \"r2\"\npath_style = \"never\"\nprofile = \"\"\n",
    );
    let config = config.expect("a good config");
    assert_eq!(config.state_dir, Path::new("/s"));
    assert_eq!(config.shutdown_grace, Duration::from_secs(60));
    assert_eq!(
        config.upload.concurrency,
        config::concurrency("64").expect("a number")
    );
    assert_eq!(config.upload.memory_bytes, 1 << 30);
    assert!(config.upload.bandwidth.is_timetable());
    let prices = Prices {
        currency: "EUR".to_owned(),
        put: 10_000,
        get: 0,
        read: 1_000_000,
        budget: Some(2_500_000),
    };
    assert_eq!(config.prices, prices);
    let [pics, music] = &config.folders[..] else {
        panic!("two folders")
    };
    assert_eq!(pics.to.to_string(), "s3://bucket/tide/pics/");
    assert_eq!(
        (&*pics.exclude, &*pics.include),
        (&["*.iso".to_owned()][..], &["keep.iso".to_owned()][..])
    );
    assert!(!pics.builtin_ignores);
    assert_eq!(
        [pics.settle, pics.max_wait, pics.rescan, pics.max_lag].map(|time| time.as_secs()),
        [2, 3, 4, 5]
    );
    let shared = config::S3 {
        region: Some("eu-central-1".to_owned()),
        endpoint_url: Some("http://h:9".to_owned()),
        profile: Some("p".to_owned()),
        path_style: PathStyle::Always,
        ca_bundle: Some(machine.at("file")),
        ..config::S3::default()
    };
    assert_eq!(pics.s3, shared);
    let own = config::S3 {
        region: Some("r2".to_owned()),
        path_style: PathStyle::Never,
        ..shared
    };
    assert_eq!(music.s3, own);
}

#[test]
fn what_a_folder_wants_done_arrives() {
    let machine = Machine::new();
    let text = format!(
        "{SMALLEST}on_delete = \"trash\"\ndelete_brake = \"off\"\n\
         overwrite_brake = {{ files = 500, window = \"1h\" }}\nhistory = \"trash\"\nguard = \"strict\"\ntrash_keep = \"7d\"\n\
         symlinks = \"record\"\nwatch = \"poll\"\ndrill = \"7d\"\nmax_size = \"10GiB\"\nmin_size = \"1\"\nmin_age = \"5m\"\n\
         max_age = \"300d\"\nexclude_caches = false\n"
    );
    let config = machine.load(&text).expect("a good config");
    let folder = &config.folders[0];
    let hours = |hours: u64| Duration::from_secs(hours * 3600);
    assert_eq!(
        (
            folder.on_delete,
            folder.history,
            folder.symlinks,
            folder.guard
        ),
        (
            OnDelete::Trash,
            History::Trash,
            Symlinks::Record,
            Guarding::Strict
        )
    );
    assert_eq!(folder.delete_brake, None);
    let overwrites = Brake {
        files: 500,
        share_percent: None,
        window: hours(1),
    };
    assert_eq!(folder.overwrite_brake, Some(overwrites));
    assert_eq!(folder.trash_keep, hours(7 * 24));
    assert_eq!(folder.watch, WatchMode::Poll);
    assert_eq!(folder.drill, Some(Duration::from_secs(7 * 24 * 3600)));
    assert_eq!(
        (folder.max_size, folder.min_size),
        (Some(10 << 30), Some(1))
    );
    assert_eq!(folder.min_age, Some(Duration::from_secs(300)));
    assert_eq!(folder.max_age, Some(hours(300 * 24)));
    assert!(!folder.exclude_caches);
    let options = Options {
        on_delete: Some(OnDelete::Delete),
        ..Options::default()
    };
    let config = machine.load_with(&text, &options).expect("a good config");
    assert_eq!(config.folders[0].on_delete, OnDelete::Delete);
    let folder = Folder::ad_hoc(
        &machine.at("photos"),
        "s3://bucket",
        &options,
        &machine.surroundings,
    );
    assert_eq!(folder.expect("a good folder").on_delete, OnDelete::Delete);
    let share = "delete_brake = { files = 9, share = \"100%\" }";
    let config = machine.load(&format!("{SMALLEST}{share}\n"));
    let brake = Brake {
        files: 9,
        share_percent: Some(100),
        window: Duration::from_secs(600),
    };
    assert_eq!(
        config.expect("a good config").folders[0].delete_brake,
        Some(brake)
    );
}

/// Text → exactly what is said of it.
const WRONG: &[(&str, &str)] = &[
    (
        "",
        "config.toml:1: there is no [[folder]]; add one with `path` and `to`",
    ),
    (
        "a = = 1",
        "config.toml:1: not TOML: extra `=`, expected nothing",
    ),
    (
        "\n\n[agent]\nstate_dir = \"x",
        "config.toml:4: not TOML: invalid basic string, expected `\"`",
    ),
    (
        "[agnet]\n+",
        "config.toml:1: unknown table `agnet`; did you mean [agent]?",
    ),
    (
        "[[folders]]\n+",
        "config.toml:1: unknown table `folders`; did you mean [[folder]]?",
    ),
    (
        "[zzz]\n+",
        "config.toml:1: unknown table `zzz`; there are [agent], [s3], [upload], [cost], [notify] and [[folder]]",
    ),
    (
        "memory = \"1GiB\"\n+",
        "config.toml:1: unknown key `memory`; it belongs in [upload]",
    ),
    (
        "+setle = \"1s\"",
        "config.toml:4: unknown key `setle` in [[folder]]; did you mean `settle`?",
    ),
    (
        "[upload]\nsettle = \"1s\"\n+",
        "config.toml:2: unknown key `settle` in [upload]; it belongs in [[folder]]",
    ),
    (
        "[upload]\nxyz = 1\n+",
        "config.toml:2: unknown key `xyz` in [upload]; there are `concurrency`, `memory`, `bandwidth`",
    ),
    (
        "agent = 3\n+",
        "config.toml:1: expected a table [agent], got the number 3",
    ),
    (
        "[folder]\npath = \"@photos\"",
        "config.toml:1: expected a list [[folder]], got a table",
    ),
    (
        "folder = [1]",
        "config.toml:1: expected a table [[folder]], got the number 1",
    ),
    (
        "+settle = 5",
        "config.toml:4: `settle`: expected a text in quotes, got the number 5",
    ),
    (
        "+settle = \"5\"",
        "config.toml:4: `settle`: expected a duration such as \"1s\", \"10m\" or \"1h 30m\", got \"5\"",
    ),
    (
        "+settle = \"2000 years\"",
        "config.toml:4: `settle`: expected at most \"365 days\", got \"2000 years\"",
    ),
    (
        "+drill = \"10m\"",
        "config.toml:4: `drill`: expected at least \"1h\", got \"10m\"",
    ),
    (
        "+rescan = \"0s\"",
        "config.toml:4: `rescan`: expected at least \"1s\", got \"0s\"",
    ),
    (
        "+settle = \"10m\"\nmax_wait = \"5m\"",
        "config.toml:5: `max_wait`: expected at least as long as `settle`",
    ),
    (
        "+builtin_ignores = \"yes\"",
        "config.toml:4: `builtin_ignores`: expected true or false, got \"yes\"",
    ),
    (
        "+exclude = \"*.tmp\"",
        "config.toml:4: `exclude`: expected a list of texts such as [\"*.tmp\"], got \"*.tmp\"",
    ),
    (
        "+exclude = [\n\"*.tmp\",\n3]",
        "config.toml:6: `exclude`: expected a list of texts such as [\"*.tmp\"], got the number 3",
    ),
    (
        "+exclude = [\"a[z-a]\"]",
        "config.toml:4: `exclude`: expected a gitignore rule, got \"a[z-a]\": invalid range; 'z' > 'a'",
    ),
    (
        "+include = [\"!x\"]",
        "config.toml:4: `include`: expected a rule without `!`, got \"!x\"",
    ),
    (
        "+on_delete = \"remove\"\nhistory = \"on\"\nsymlinks = \"copy\"\nwatch = \"inotify\"",
        "config.toml:4: `on_delete`: expected \"keep\", \"trash\" or \"delete\", got \"remove\"\n\
         config.toml:5: `history`: expected \"off\" or \"trash\", got \"on\"\n\
         config.toml:6: `symlinks`: expected \"skip\", \"follow\" or \"record\", got \"copy\"\n\
         config.toml:7: `watch`: expected \"auto\", \"native\" or \"poll\", got \"inotify\"",
    ),
    (
        "+delete_brake = { files = 0, share = \"0%\", window = \"0s\" }",
        "config.toml:4: `delete_brake.share`: expected a share from \"1%\" to \"100%\", got \"0%\"\n\
         config.toml:4: `delete_brake.window`: expected at least \"1s\", got \"0s\"\n\
         config.toml:4: `delete_brake.files`: expected a number from 1 up, got the number 0",
    ),
    (
        "[agent]\nstate_dir = \"/s\"\nlisten = \"8737\"\n+",
        "config.toml:3: `listen`: expected an address and a port such as \"127.0.0.1:8737\" or \"[::1]:8737\", got \"8737\"",
    ),
    (
        "[agent]\nstate_dir = \"/s\"\nlisten = 8737\n+",
        "config.toml:3: `listen`: expected a text in quotes, got the number 8737",
    ),
    (
        "+delete_brake = 5\noverwrite_brake = \"on\"",
        "config.toml:4: `delete_brake`: expected \"off\" or a table such as { files = 1000, share = \"20%\", window = \"10m\" }, got the number 5\n\
         config.toml:5: `overwrite_brake`: expected \"off\" or a table such as { files = 500, window = \"10m\" }, got \"on\"",
    ),
    (
        "+delete_brake = { file = 5 }\noverwrite_brake = { files = 5, share = \"5%\" }",
        "config.toml:4: `delete_brake`: unknown key `file`; did you mean `files`?\n\
         config.toml:4: `delete_brake`: `files` is missing\n\
         config.toml:5: `overwrite_brake`: unknown key `share`; there are `files`, `window`",
    ),
    (
        "+max_size = \"0\"\nmin_size = \"few\"\nexclude_caches = \"no\"",
        "config.toml:4: `max_size`: expected a size of at least one byte, or \"\" for no limit, got \"0\"\n\
         config.toml:5: `min_size`: expected a size such as \"128MiB\" or \"1GB\", got \"few\"\n\
         config.toml:6: `exclude_caches`: expected true or false, got \"no\"",
    ),
    (
        "+max_size = \"1\"\nmin_size = \"2\"\nmin_age = \"1d\"\nmax_age = \"1d\"",
        "config.toml:4: `max_size`: expected at least as much as `min_size`\n\
         config.toml:7: `max_age`: expected longer than `min_age`",
    ),
    (
        "[upload]\nconcurrency = 0\nmemory = \"1MiB\"\n+",
        "config.toml:2: `concurrency`: expected \"auto\" or a number from 1 to 512, got 0\n\
         config.toml:3: `memory`: expected at least \"32MiB\", got \"1MiB\"",
    ),
    (
        "[upload]\nbandwidth = \"0\"\n+",
        "config.toml:2: `bandwidth`: `0` would send nothing (without a limit: `unlimited`) in \"0\"; \
         expected \"unlimited\", \"10MiB/s\" or \"Mon-Fri 08:00-18:00 2MiB/s, else unlimited\"",
    ),
    (
        "[upload]\nbandwidth = 10\n+",
        "config.toml:2: `bandwidth`: expected a text in quotes, got the number 10",
    ),
    (
        "[upload]\nconcurrency = \"lots\"\nmemory = \"much\"\n+",
        "config.toml:2: `concurrency`: expected \"auto\" or a number from 1 to 512, got \"lots\"\n\
         config.toml:3: `memory`: expected a size such as \"128MiB\" or \"1GB\", got \"much\"",
    ),
    (
        "[s3]\nregion = \"eu central\"\nendpoint_url = \"minio:9000\"\npath_style = \"yes\"\nca_bundle = \"ca.pem\"\n+",
        "config.toml:2: `region`: expected a region such as \"eu-central-1\", got \"eu central\"\n\
         config.toml:3: `endpoint_url`: expected a URL such as \"https://minio.example.com:9000\", got \"minio:9000\"\n\
         config.toml:4: `path_style`: expected \"auto\", \"always\" or \"never\", got \"yes\"\n\
         config.toml:5: `ca_bundle`: expected an absolute path such as \"/srv/photos\", got \"ca.pem\"",
    ),
    (
        "[s3]\nca_bundle = \"@none.pem\"\n+",
        "config.toml:2: `ca_bundle`: expected a PEM file, and \"@none.pem\" cannot be read: No such file or directory (os error 2)",
    ),
    (
        "[agent]\nstate_dir = \"state\"\n+",
        "config.toml:2: `state_dir`: expected an absolute path such as \"/srv/photos\", got \"state\"",
    ),
    (
        "[[folder]]\n",
        "config.toml:1: `path` is missing in [[folder]]\nconfig.toml:1: `to` is missing in [[folder]]",
    ),
    (
        "[[folder]]\npath = \"~/Photos\"\nto = \"s3://bucket\"",
        "config.toml:2: `path`: expected an absolute path such as \"@home/Photos\", got \"~/Photos\"",
    ),
    (
        "[[folder]]\npath = \"@file\"\nto = \"s3://bucket\"",
        "config.toml:2: `path`: `@file` is not a folder",
    ),
    (
        "[[folder]]\npath = \"@photos\"\nto = \"s3:///p\"",
        "config.toml:3: `to`: no bucket in \"s3:///p\"",
    ),
    (
        "[[folder]]\npath = \"@photos\"\nto = \"s3://bucket/{host}\"",
        "config.toml:3: `to`: unknown placeholder `{host}`; there are `{hostname}` and `{name}` in \"s3://bucket/{host}\"",
    ),
    (
        "[[folder]]\nname = \"a/b\"\npath = \"@photos\"\nto = \"s3://bucket\"",
        "config.toml:2: `name`: expected a name without `/` and control characters, got \"a/b\"",
    ),
    (
        "+[[folder]]\npath = \"@photos/raw\"\nto = \"s3://bucket/raw\"",
        "config.toml:5: `path`: `@photos/raw` lies inside the folder of line 1; folders must not overlap",
    ),
    (
        "[[folder]]\npath = \"@photos/raw\"\nto = \"s3://bucket/raw\"\n+",
        "config.toml:5: `path`: `@photos` contains the folder of line 1; folders must not overlap",
    ),
    (
        "+[[folder]]\nname = \"again\"\npath = \"@photos/raw/..\"\nto = \"s3://bucket/q\"",
        "config.toml:6: `path`: `@photos` is the folder of line 1; folders must not overlap",
    ),
    (
        "+[[folder]]\npath = \"@music\"\nto = \"s3://bucket/p/\"",
        "config.toml:6: `to`: `s3://bucket/p/` is where the folder of line 1 goes already; each folder needs a prefix of its own",
    ),
    (
        "+[[folder]]\npath = \"@music\"\nto = \"s3://bucket/p/q\"",
        "config.toml:6: `to`: `s3://bucket/p/q/` lies inside the prefix of line 1; each folder needs a prefix of its own",
    ),
    (
        "+[[folder]]\npath = \"@music\"\nto = \"s3://bucket\"",
        "config.toml:6: `to`: `s3://bucket/` contains the prefix of line 1; each folder needs a prefix of its own",
    ),
    (
        "+[[folder]]\nname = \"photos\"\npath = \"@music\"\nto = \"s3://bucket/m\"",
        "config.toml:5: the folder of line 1 is called `photos` too; give each its own `name`",
    ),
];

#[test]
fn every_mistake_has_its_line_what_is_wrong_and_what_was_expected() {
    let machine = Machine::new();
    for (text, expected) in WRONG {
        let text = text.replace('+', SMALLEST);
        assert_eq!(machine.problems(&text), *expected, "\n{text}");
    }
}

#[test]
fn all_mistakes_are_told_at_once_in_the_order_of_the_lines() {
    let machine = Machine::new();
    let text = "[[folder]]\npath = \"relative\"\nto = \"bucket\"\nsetle = \"1s\"\nrescan = 5\n\
                [upload]\nmemory = \"1\"\n[agent]\nstate_dir = \"x\"\n";
    let problems = machine.load(text).expect_err("all wrong");
    let lines: Vec<String> = problems
        .to_string()
        .lines()
        .map(|line| line.split(':').nth(1).unwrap_or_default().to_owned())
        .collect();
    assert_eq!(lines, ["2", "3", "4", "5", "7", "9"]);
}

#[test]
fn a_prefix_may_be_the_same_on_another_endpoint_or_bucket() {
    let machine = Machine::new();
    for second in [
        "to = \"s3://bucket/p\"\nendpoint_url = \"http://other:9\"",
        "to = \"s3://bucket2/p\"",
        "to = \"s3://bucket/pq\"",
    ] {
        let text = format!("{SMALLEST}[[folder]]\npath = \"@music\"\n{second}\n");
        assert!(machine.load(&text).is_ok(), "{second}");
    }
    let all = Options {
        s3: S3Options {
            endpoint_url: Some("http://one:9".to_owned()),
            ..S3Options::default()
        },
        ..Options::default()
    };
    let text = format!(
        "{SMALLEST}[[folder]]\npath = \"@music\"\nto = \"s3://bucket/p\"\nendpoint_url = \"http://two:9\"\n"
    );
    assert!(
        machine.load_with(&text, &all).is_err(),
        "an option sends both to one place"
    );
}

#[test]
fn an_option_goes_before_the_config_and_the_config_before_the_default() {
    let machine = Machine::new();
    let options = Options {
        state_dir: Some(PathBuf::from("/option")),
        s3: S3Options {
            region: Some("option".to_owned()),
            ..S3Options::default()
        },
        exclude: vec!["*.b".to_owned()],
        include: vec!["x.b".to_owned()],
        on_delete: None,
        concurrency: config::concurrency("3").ok(),
        bandwidth: config::bandwidth("3MiB/s").ok(),
        settle: Some(Duration::from_secs(3600)),
        storage_class: Some(Some("ONEZONE_IA".to_owned())),
        take_over: true,
    };
    let text = format!(
        "[agent]\nstate_dir = \"/config\"\n[s3]\nregion = \"shared\"\nprofile = \"shared\"\n[upload]\nconcurrency = 9\nbandwidth = \"1MiB/s\"\n\
         {SMALLEST}region = \"near\"\nendpoint_url = \"\"\nexclude = [\"*.a\"]\nsettle = \"2s\"\n"
    );
    let config = machine.load_with(&text, &options).expect("a good config");
    let folder = &config.folders[0];
    assert_eq!(config.state_dir, Path::new("/option"));
    assert_eq!(
        config.upload.concurrency,
        config::concurrency("3").expect("a number")
    );
    assert_eq!(
        Some(config.upload.bandwidth),
        config::bandwidth("3MiB/s").ok()
    );
    assert_eq!(folder.s3.region.as_deref(), Some("option"));
    assert_eq!(folder.terms.storage_class.as_deref(), Some("ONEZONE_IA"));
    assert_eq!(folder.s3.profile.as_deref(), Some("shared"));
    assert_eq!(folder.s3.endpoint_url, None, "\"\" is unset");
    assert_eq!(folder.exclude, ["*.a", "*.b"]);
    assert_eq!(folder.include, ["x.b"]);
    assert_eq!(folder.settle, Duration::from_secs(3600));
    assert_eq!(
        folder.max_wait, folder.settle,
        "a longest wait is never shorter than the quiet time"
    );
    let config = machine.load(&text).expect("a good config");
    assert_eq!(config.state_dir, Path::new("/config"));
    assert_eq!(config.folders[0].s3.region.as_deref(), Some("near"));
}

#[test]
fn the_state_is_where_the_nearest_says() {
    let mut around = Surroundings {
        home: Some(PathBuf::from("/home/ann")),
        ..Surroundings::default()
    };
    let state = |option: Option<&str>, config: Option<&str>, around: &Surroundings| {
        config::state_dir(option.map(Path::new), config.map(Path::new), around)
            .map(|dir| dir.display().to_string())
            .map_err(|problem| problem.to_string())
    };
    assert_eq!(
        state(None, None, &around).as_deref(),
        Ok("/home/ann/.local/state/tidewatch")
    );
    around.xdg_state_home = Some(PathBuf::from("/xdg"));
    assert_eq!(state(None, None, &around).as_deref(), Ok("/xdg/tidewatch"));
    around.state_directory = Some("/var/lib/tidewatch:/var/lib/second".into());
    assert_eq!(
        state(None, None, &around).as_deref(),
        Ok("/var/lib/tidewatch")
    );
    assert_eq!(
        state(None, Some("/config"), &around).as_deref(),
        Ok("/config")
    );
    assert_eq!(
        state(Some("/option"), Some("/config"), &around).as_deref(),
        Ok("/option")
    );
    assert_eq!(
        state(None, None, &Surroundings::default()).expect_err("no place"),
        "there is no place for the state: HOME is not set; name a folder with --state-dir or agent.state_dir"
    );
}

#[test]
fn the_config_is_where_the_nearest_says() {
    let machine = Machine::new();
    let mut around = machine.surroundings.clone();
    around.machine_config = Some(machine.at("etc.toml"));
    let find = |option: Option<&Path>, around: &Surroundings| config::find(option, around);
    let nothing = find(None, &around).expect_err("none is there").to_string();
    assert_eq!(
        nothing,
        format!(
            "there is no config: neither --config nor TIDEWATCH_CONFIG is given, and there is no {} and no {}; \
             `tidewatch init` writes one to start from",
            machine.at("home/.config/tidewatch/config.toml").display(),
            machine.at("etc.toml").display()
        )
    );
    fs::write(machine.at("etc.toml"), "").expect("a file");
    assert_eq!(find(None, &around), Ok(machine.at("etc.toml")));
    around.xdg_config_home = Some(machine.at("xdg"));
    fs::create_dir_all(machine.at("xdg/tidewatch")).expect("a folder");
    fs::write(machine.at("xdg/tidewatch/config.toml"), "").expect("a file");
    assert_eq!(
        find(None, &around),
        Ok(machine.at("xdg/tidewatch/config.toml"))
    );
    around.config = Some(PathBuf::from("/named/by/environment"));
    assert_eq!(
        find(None, &around),
        Ok(PathBuf::from("/named/by/environment"))
    );
    let option = Path::new("/named/by/option");
    assert_eq!(find(Some(option), &around), Ok(option.to_path_buf()));
}

#[test]
fn an_ad_hoc_folder_has_a_state_of_its_own() {
    let machine = Machine::new();
    symlink(machine.at("photos"), machine.at("link")).expect("a link");
    let load = |dir: &str, url: &str, options: &Options| {
        Config::ad_hoc(&machine.at(dir), url, options, &machine.surroundings)
            .expect("a good folder")
    };
    let plain = Options::default();
    let config = load("photos", "s3://bucket/p", &plain);
    let hashed = format!("{}\0s3://bucket/p/", machine.at("photos").display());
    let id = &Sha256::of(hashed.as_bytes()).to_hex()[..16];
    let states = machine.at("home/.local/state/tidewatch/adhoc");
    assert_eq!(config.state_dir, states.join(id));
    assert_eq!(
        load("link", "s3://bucket/p/", &plain).state_dir,
        states.join(id)
    );
    assert_ne!(
        load("photos", "s3://bucket/q", &plain).state_dir,
        states.join(id)
    );
    assert_ne!(
        load("music", "s3://bucket/p", &plain).state_dir,
        states.join(id)
    );
    let link = load("link", "s3://bucket/{hostname}/{name}", &plain);
    assert_eq!(link.folders[0].name, "link");
    assert_eq!(
        link.folders[0].path,
        machine.at("photos"),
        "a link is resolved once"
    );
    assert_eq!(link.folders[0].to.to_string(), "s3://bucket/tide/link/");
    let named = Options {
        state_dir: Some(PathBuf::from("/here")),
        ..plain
    };
    assert_eq!(
        load("photos", "s3://bucket/p", &named).state_dir,
        Path::new("/here")
    );

    assert!(config::adhoc_states(&machine.surroundings).is_empty());
    fs::create_dir_all(states.join(id)).expect("a folder");
    assert_eq!(
        config::adhoc_states(&machine.surroundings),
        [states.join(id)]
    );
}

#[test]
fn the_state_of_a_config_is_found_whatever_else_is_wrong_with_it() {
    let machine = Machine::new();
    let text = "[agent]\nstate_dir = \"/s\"\n[[folder]]\npath = \"/unplugged\"\nto = 3\n";
    let place = Path::new("config.toml");
    let state = config::state_dir_of(text, place, &Options::default(), &machine.surroundings);
    assert_eq!(state.as_deref(), Ok(Path::new("/s")));
    assert!(config::state_dir_of("x", place, &Options::default(), &machine.surroundings).is_err());
}

/// Returns the example with every `#key = value` and `#[table]` made real.
fn uncommented() -> String {
    let real = |line: &&str| {
        let key = line.split(" = ").next().unwrap_or_default();
        let word = |text: &str| {
            text.chars()
                .all(|c| c.is_ascii_lowercase() || "_3[]".contains(c))
        };
        line.starts_with('#') && line.contains(" = ") && word(&key[1..])
    };
    EXAMPLE
        .lines()
        .map(|line| if real(&line) { &line[1..] } else { line })
        .fold(String::new(), |text, line| text + line + "\n")
}

#[test]
fn the_example_holds_every_key_and_no_other() {
    let example: toml::Table = uncommented().parse().expect("the example is TOML");
    let mut tables: Vec<&str> = example.keys().map(String::as_str).collect();
    let mut known: Vec<&str> = KEYS.iter().map(|(table, _)| *table).collect();
    tables.sort_unstable();
    known.sort_unstable();
    assert_eq!(tables, known);
    for (table, keys) in KEYS {
        let shown = match &example[*table] {
            toml::Value::Array(list) => list[0].as_table(),
            other => other.as_table(),
        };
        let shown = shown.expect("a table");
        let mut shown: Vec<&str> = shown.keys().map(String::as_str).collect();
        let mut keys = keys.to_vec();
        shown.sort_unstable();
        keys.sort_unstable();
        assert_eq!(shown, keys, "[{table}]");
    }
}

#[test]
fn the_readme_names_every_key() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(readme).expect("a README");
    let (_, table) = readme.split_once("## Config").expect("a section");
    let table = table.split("\n## ").next().unwrap_or_default();
    for key in KEYS.iter().flat_map(|(_, keys)| *keys) {
        assert!(table.contains(&format!("`{key}`")), "{key}");
    }
}

#[test]
fn the_example_shows_every_default_as_it_is() {
    let machine = Machine::new();
    let here = |text: &str| text.replace("/srv/photos", "@photos");
    let written = machine
        .load(&here(EXAMPLE))
        .expect("the example is a good config");
    let explicit = machine
        .load(&here(&uncommented()))
        .expect("so it is with every key");
    let smallest =
        here("[[folder]]\npath = \"/srv/photos\"\nto = \"s3://my-backups/{hostname}/photos\"\n");
    let silent = machine.load(&smallest).expect("a good config");
    assert_eq!(explicit, silent);
    assert_eq!(written, silent);
    assert!(
        uncommented().contains("\nsettle = \"1s\"\n"),
        "the keys were made real"
    );
}

#[test]
fn init_writes_the_example_for_its_owner_and_never_over_a_file() {
    let machine = Machine::new();
    let ran = machine.run(&["init"]);
    assert_eq!((ran.code, &*ran.err), (Some(0), ""));
    assert_eq!(
        ran.out,
        "wrote config.toml: set `path` and `to` in it, then run `tidewatch check --config config.toml`\n"
    );
    let file = machine.at("config.toml");
    assert_eq!(fs::read_to_string(&file).expect("a file"), EXAMPLE);
    let mode = fs::metadata(&file).expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    fs::write(&file, "mine").expect("a file");
    let ran = machine.run(&["init"]);
    assert_eq!((ran.code, &*ran.out), (Some(2), ""));
    assert_eq!(
        ran.err,
        "tidewatch: could not write `config.toml`: it is there already; name another file\n"
    );
    assert_eq!(fs::read_to_string(&file).expect("a file"), "mine");
    // Not even through a link that leads nowhere yet.
    symlink(machine.at("target"), machine.at("link.toml")).expect("a link");
    assert_eq!(machine.run(&["init", "link.toml"]).code, Some(2));
    assert!(!machine.at("target").exists());

    let ran = machine.run(&["init", "none/config.toml"]);
    assert_eq!(ran.code, Some(2));
    assert_eq!(
        ran.err,
        "tidewatch: could not write `none/config.toml`: No such file or directory (os error 2)\n"
    );
}

#[test]
fn init_draws_a_config_from_another_tools_line_that_is_in_order_and_holds_no_secret() {
    let machine = Machine::new();
    let line = "mc mirror --watch --remove --exclude '*.tmp' --limit-upload 10MiB --magic SECRET photos m/bucket/p";
    let mut program = machine.program(&["init", "--from", line]);
    program.env("MC_HOST_m", "https://ACCESS:SECRET@minio.example.com:9000");
    let ran = Ran::from(program.output().expect("the program runs"));
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert_eq!(ran.err, "tidewatch: not taken over: `--magic`\n");
    assert_eq!(
        ran.out,
        "wrote config.toml: look through it, then run `tidewatch check --config config.toml`\n"
    );
    let text = fs::read_to_string(machine.at("config.toml")).expect("a file");
    assert!(
        !text.contains("SECRET") && !text.contains("ACCESS:"),
        "{text}"
    );
    assert!(text.contains("# Not taken over: `--magic`\n"), "{text}");
    let config = machine.load(&text).expect(&text);
    let folder = &config.folders[0];
    assert_eq!(folder.path, machine.at("photos"));
    assert_eq!(folder.to.to_string(), "s3://bucket/p/");
    assert_eq!(folder.exclude, ["*.tmp"]);
    assert_eq!(folder.on_delete, OnDelete::Delete);
    let endpoint = folder.s3.endpoint_url.as_deref();
    assert_eq!(endpoint, Some("https://minio.example.com:9000"));
    assert_eq!(
        config.upload.bandwidth,
        config::Bandwidth::parse("10MiB/s").expect("a limit")
    );
    // Never over a file, and nothing is written of a line that is none.
    let ran = machine.run(&["init", "--from", "aws s3 sync photos s3://bucket"]);
    assert_eq!(ran.code, Some(2), "{}", ran.err);
    let ran = machine.run(&["init", "other.toml", "--from", "rsync -a photos host:"]);
    assert_eq!(ran.code, Some(2), "{}", ran.err);
    assert!(!machine.at("other.toml").exists());
}

#[test]
fn completions_and_the_manual_name_every_command() {
    let machine = Machine::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = machine.run(&["completions", shell]);
        assert_eq!((ran.code, &*ran.err), (Some(0), ""), "{shell}");
        assert!(ran.out.contains("path-style"), "{shell}");
    }
    let ran = machine.run(&["man"]);
    assert_eq!((ran.code, &*ran.err), (Some(0), ""));
    for command in [
        "run",
        "watch",
        "sync",
        "status",
        "check",
        "init",
        "completions",
        "man",
    ] {
        let heading = format!(".SH \"TIDEWATCH {}\"", command.to_uppercase());
        assert!(ran.out.contains(&heading), "{command}");
    }
    assert!(ran.out.starts_with(".ie ") && ran.out.matches(".TH ").count() == 1);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let machine = Machine::new();
    for arguments in [&["man"][..], &["--help"], &["completions", "bash"]] {
        let mut child = machine
            .program(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program runs");
        drop(child.stdout.take());
        let mut err = String::new();
        let mut pipe = child.stderr.take().expect("a pipe");
        pipe.read_to_string(&mut err).expect("text");
        let code = child.wait().expect("an end").code();
        assert_eq!((code, &*err), (Some(0), ""), "{arguments:?}");
    }
}

#[test]
fn wrong_usage_ends_with_2_and_help_with_0() {
    let machine = Machine::new();
    let wrong = [
        &["sync", "--on-delete", "trash"][..],
        &["frobnicate"],
        &["sync", "photos"],
        &["sync", "photos", "s3://bucket", "--config", "x"],
        &["watch"],
        &["watch", "photos", "s3://bucket", "--config", "x"],
        &["sync", "--timeout", "soon"],
        &["sync", "--concurrency", "0"],
        &["sync", "--endpoint-url", "minio:9000"],
        &["sync", "--path-style", "yes"],
        &["run", "-q", "-v"],
        &["run", "--dry-run"],
        &[],
    ];
    for arguments in wrong {
        let ran = machine.run(arguments);
        assert_eq!((ran.code, &*ran.out), (Some(2), ""), "{arguments:?}");
        assert!(!ran.err.is_empty(), "{arguments:?}");
    }
    let near = machine.run(&["sync", "--dryrum"]);
    assert!(near.err.contains("'--dryrun'"), "{}", near.err);
    for arguments in [
        &["--help"][..],
        &["sync", "--help"],
        &["help", "sync"],
        &["--version"],
    ] {
        let ran = machine.run(arguments);
        assert_eq!((ran.code, &*ran.err), (Some(0), ""), "{arguments:?}");
        assert!(
            ran.out.lines().all(|line| line.chars().count() <= 80),
            "{}",
            ran.out
        );
    }
}

#[test]
fn every_problem_of_a_config_is_printed_and_ends_with_2() {
    let machine = Machine::new();
    let text = "[[folder]]\npath = \"/proc/version\"\nto = \"s3://bucket\"\nsetle = \"1s\"\n";
    fs::write(machine.at("c.toml"), text).expect("a file");
    for arguments in [&["run"][..], &["sync"], &["check"]] {
        let ran = machine.run(&[arguments, &["--config", "c.toml"]].concat());
        assert_eq!((ran.code, &*ran.out), (Some(2), ""), "{arguments:?}");
        assert_eq!(
            ran.err,
            "c.toml:2: `path`: `/proc/version` is not a folder\n\
             c.toml:4: unknown key `setle` in [[folder]]; did you mean `settle`?\n\
             tidewatch: could not use c.toml: 2 problems\n"
        );
    }
}

#[test]
fn a_config_that_is_not_there_is_named() {
    let machine = Machine::new();
    let ran = machine.run(&["run", "--config", "none.toml"]);
    assert_eq!(ran.code, Some(2));
    assert_eq!(
        ran.err,
        "tidewatch: could not start: the config `none.toml` cannot be read: No such file or directory (os error 2)\n"
    );
    let ran = Ran::from(
        machine
            .program(&["run"])
            .env("TIDEWATCH_CONFIG", "also-none.toml")
            .output()
            .expect("the program runs"),
    );
    assert!(
        ran.code == Some(2) && ran.err.contains("`also-none.toml`"),
        "{}",
        ran.err
    );
}

#[test]
fn everything_wrong_with_an_ad_hoc_folder_is_printed() {
    let machine = Machine::new();
    let ran = machine.run(&["watch", "none", "s3://ab"]);
    assert_eq!((ran.code, &*ran.out), (Some(2), ""));
    assert_eq!(
        ran.err,
        "tidewatch: could not start: there is no folder `none`\n\
         tidewatch: could not start: `ab` is not a bucket's name (3 to 63 letters, digits, `.`, `-`, `_`) in \"s3://ab\"\n"
    );
}

#[test]
fn what_objects_are_stored_with_is_read_whole() {
    use tidewatch::base::terms::{Encryption, Lock, LockMode, Terms};
    let machine = Machine::new();
    let text = format!(
        "[s3]\nrequester_pays = true\n{SMALLEST}storage_class = \"STANDARD_IA\"\nsse = \"aws:kms\"\nsse_kms_key = \"alias/x\"\nacl = \"private\"\ntags = {{ team = \"a b\", none = \"\" }}\nobject_lock = {{ mode = \"compliance\", keep = \"30d\" }}\ncontent_types = {{ \"*.ts\" = \"text/plain\", \"*\" = \"a/b\" }}\ncache_control = {{ \"*.html\" = \"no-cache\" }}\nrequester_pays = false\n"
    );
    let config = machine.load(&text).expect("a good config");
    let folder = &config.folders[0];
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(
        folder.terms,
        Terms {
            storage_class: Some("STANDARD_IA".to_owned()),
            encryption: Encryption::Kms(Some("alias/x".to_owned())),
            acl: Some("private".to_owned()),
            tags: vec![pair("team", "a b"), pair("none", "")],
            lock: Some(Lock {
                mode: LockMode::Compliance,
                keep: Duration::from_secs(30 * 24 * 3600),
            }),
        }
    );
    assert_eq!(
        folder.content_types,
        [pair("*.ts", "text/plain"), pair("*", "a/b")],
        "in the order of the text"
    );
    assert_eq!(folder.cache_control, [pair("*.html", "no-cache")]);
    assert!(!folder.s3.requester_pays, "the folder's goes before");
    // The command line goes before the config, and STANDARD is nothing to say.
    let options = Options {
        storage_class: Some(None),
        ..Options::default()
    };
    let config = machine.load_with(&text, &options).expect("a good config");
    assert_eq!(config.folders[0].terms.storage_class, None);
    // A class that S3 does not have may be one of another store's.
    let text = format!("{SMALLEST}storage_class = \"COLD\"\n");
    let config = machine.load(&text).expect("a warning at most");
    assert_eq!(config.folders[0].terms.warnings().len(), 1);
}

#[test]
fn what_objects_cannot_be_stored_with_is_told_all_at_once() {
    let machine = Machine::new();
    let key = machine.at("key");
    fs::write(&key, [7; 32]).expect("a key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("a mode");
    let tags: Vec<String> = (0..11).map(|n| format!("t{n} = \"v\"")).collect();
    let text = format!(
        "{SMALLEST}sse = \"AES256\"\nsse_kms_key = \"k\"\nsse_c_key_file = \"@key\"\nstorage_class = \"cold\"\nacl = \"mine\"\ntags = {{ {} }}\nobject_lock = {{ mode = \"x\", kep = \"1d\" }}\ncontent_types = {{ \"*.x\" = \"plain\", \"a[z-a]\" = \"a/b\" }}\nfips = true\nendpoint_url = \"http://minio\"\n",
        tags.join(", ")
    );
    let told = machine.problems(&text);
    for words in [
        "config.toml:5: `sse_kms_key`: it needs",
        "config.toml:6: `sse_c_key_file`: everybody may read",
        "config.toml:7: `storage_class`: expected",
        "config.toml:8: `acl`: expected \"private\"",
        "config.toml:9: `tags`: expected at most 10, got 11",
        "config.toml:10: `object_lock`: unknown key `kep`; did you mean `keep`?",
        "config.toml:10: `object_lock.mode`: expected \"governance\"",
        "config.toml:10: `object_lock`: `keep` is missing",
        "config.toml:11: `content_types`: expected a type",
        "config.toml:11: `content_types`: expected a gitignore rule",
        "config.toml:12: `fips`: it is for AWS alone",
    ] {
        assert!(told.contains(words), "{words}:\n{told}");
    }
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("a mode");
    let told = machine.problems(&text);
    for words in [
        "config.toml:6: `sse_c_key_file`: it cannot be together with `sse`",
        "config.toml:6: `sse_c_key_file`: the key would cross the network in the clear",
    ] {
        assert!(told.contains(words), "{words}:\n{told}");
    }
}
