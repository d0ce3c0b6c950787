//! What `tidewatch check` finds, with the real program against an endpoint on loopback.
#![expect(
    clippy::disallowed_methods,
    reason = "the files written here are the user's, not state"
)]

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::support::endpoint::{Endpoint, Fault};

/// What a command that mends begins with.
const MEND: &str = "        ";

/// A config with one folder, `photos`, that goes to an endpoint.
struct Machine {
    dir: TempDir,
    env: Vec<(String, String)>,
}

impl Machine {
    fn new(endpoint: &Endpoint) -> Self {
        Self::to(&endpoint.url(), endpoint.bucket(), endpoint.env())
    }

    fn to(url: &str, bucket: &str, env: Vec<(String, String)>) -> Self {
        let dir = TempDir::new().expect("a folder");
        fs::create_dir_all(dir.path().join("photos/raw")).expect("a folder");
        fs::write(dir.path().join("photos/raw/a"), "a").expect("a file");
        let machine = Self { dir, env };
        let config = format!(
            "[agent]\nstate_dir = \"{}\"\n[s3]\nendpoint_url = {url:?}\n[[folder]]\npath = \"{}\"\nto = \"s3://{bucket}/p\"\nwatch = \"native\"\n",
            machine.at("state").display(),
            machine.at("photos").display(),
        );
        fs::write(machine.at("config.toml"), config).expect("a config");
        machine
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    /// Returns the exit code and the lines, each whole again. That a test's state is in a folder for what does not last is
    /// left out, and so are the commands that mend.
    fn check(&self) -> (Option<i32>, String) {
        let (code, out) = self.checked(&[]);
        let mut lines: Vec<String> = Vec::new();
        for line in out.lines().filter(|line| !line.starts_with(MEND)) {
            match (lines.last_mut(), line.strip_prefix("      ")) {
                (Some(last), Some(rest)) => {
                    last.push(' ');
                    last.push_str(rest);
                }
                _ => lines.push(line.to_owned()),
            }
        }
        lines.retain(|line| !line.contains("set agent.state_dir to a lasting folder"));
        (code, lines.join("\n") + "\n")
    }

    fn checked(&self, more: &[&str]) -> (Option<i32>, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_tidewatch"))
            .args(["check", "--config"])
            .arg(self.at("config.toml"))
            .args(more)
            .env_clear()
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .output()
            .expect("the program runs");
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(err, "", "nothing is logged");
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), out)
    }

    /// Checks that it ends with `code` and that exactly one line is of this grade, and returns that line.
    fn one_line(&self, code: i32, grade: &str) -> String {
        let (got, out) = self.check();
        assert_eq!(got, Some(code), "{out}");
        let mut lines = out.lines().filter(|line| line.starts_with(grade));
        let line = lines.next().unwrap_or_else(|| panic!("no {grade}\n{out}"));
        assert_eq!(lines.next(), None, "{out}");
        line.to_owned()
    }
}

#[tokio::test]
async fn where_all_is_well_it_says_so_and_leaves_nothing() {
    let endpoint = Endpoint::start().await;
    let machine = Machine::new(&endpoint);
    let (code, out) = machine.check();
    assert_eq!(code, Some(0), "{out}");
    assert!(!out.contains("\nwarn"), "{out}");
    assert!(out.contains("1 file in 2 folders"), "{out}");
    assert!(out.contains("ok    photos: the store checks CRC64NVME on every upload\n"));
    assert_eq!(out.matches("the store").count(), 1, "{out}");
    for said in [
        "ok    photos: credentials come from the environment (AWS_ACCESS_KEY_ID)\n",
        "ok    photos: this machine's clock is right",
        "ok    photos: the kernel tells of its changes\n",
        "are free, up to 100.0 MiB are needed\n",
        "there are no lifecycle rules here",
    ] {
        assert!(out.contains(said), "{said}: {out}");
    }
    assert_eq!(endpoint.all_keys(), [""; 0]);
    assert!(!machine.at("state").exists());
    for request in endpoint.all_requests() {
        let own = ["p/.tidewatch/check-", "p/.tidewatch/probe-"];
        let own = own.iter().any(|own| request.key.starts_with(own));
        assert!(own || request.key.is_empty(), "{request:?}");
    }
}

#[tokio::test]
async fn every_line_fits_80_columns_or_is_a_command_and_json_says_the_same() {
    let endpoint = Endpoint::start().await;
    let machine = Machine::new(&endpoint);
    endpoint.always(
        "GetBucketLifecycleConfiguration",
        Fault::Error(404, "NoSuchLifecycleConfiguration"),
    );
    let (code, out) = machine.checked(&[]);
    assert_eq!(code, Some(0), "{out}");
    for line in out.lines().filter(|line| !line.starts_with(MEND)) {
        assert!(
            line.chars().count() <= 80 || !line.trim().contains(' '),
            "{line}"
        );
    }
    let (code, json) = machine.checked(&["--json"]);
    assert_eq!(code, Some(0), "{json}");
    let lines: Vec<serde_json::Value> = json
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let (last, findings) = lines.split_last().expect("a summary");
    assert_eq!(
        (&last["event"], &last["exit"]),
        (&"summary".into(), &0.into())
    );
    let warned = findings.iter().filter(|line| line["grade"] == "warn");
    assert_eq!(last["warned"], warned.count());
    let mends: Vec<_> = findings
        .iter()
        .filter_map(|line| line["mend"].as_str())
        .collect();
    assert_eq!(mends.len(), 1, "{json}");
    let shown = out.lines().find_map(|line| line.strip_prefix(MEND));
    assert_eq!(shown, Some(mends[0]));
}

#[tokio::test]
async fn a_rule_for_unfinished_uploads_is_seen_and_the_command_that_makes_one_is_named() {
    let endpoint = Endpoint::start().await;
    let machine = Machine::new(&endpoint);
    let operation = "GetBucketLifecycleConfiguration";
    endpoint.always(operation, Fault::Error(404, "NoSuchLifecycleConfiguration"));
    let line = machine.one_line(0, "warn");
    assert!(
        line.contains("no lifecycle rule ends unfinished uploads"),
        "{line}"
    );
    let (_, out) = machine.checked(&[]);
    let mend = out.lines().find_map(|line| line.strip_prefix(MEND));
    let words = shlex::split(mend.expect("a command")).expect("words");
    let expected = [
        "aws",
        "s3api",
        "put-bucket-lifecycle-configuration",
        "--bucket",
        "tide",
    ];
    assert_eq!(words[..5], expected);
    let rule: serde_json::Value = serde_json::from_str(words.last().unwrap()).expect("JSON");
    assert_eq!(rule["Rules"][0]["Filter"]["Prefix"], "p/");
    endpoint.clear();

    let rule = |prefix: &str| {
        let text = format!(
            "<LifecycleConfiguration><Rule><ID>a</ID><Status>Enabled</Status><Filter><Prefix>{prefix}</Prefix></Filter>\
             <AbortIncompleteMultipartUpload><DaysAfterInitiation>3</DaysAfterInitiation></AbortIncompleteMultipartUpload>\
             </Rule></LifecycleConfiguration>"
        );
        Fault::Answer(200, text)
    };
    endpoint.always(operation, rule(""));
    let (code, out) = machine.check();
    assert_eq!(code, Some(0));
    assert!(
        out.contains("ok    photos: a lifecycle rule ends unfinished uploads after 3 days\n"),
        "{out}"
    );
    endpoint.clear();
    // One for other keys does not count, and must not be written over.
    endpoint.always(operation, rule("other/"));
    let line = machine.one_line(0, "warn");
    assert!(line.contains("add to the rules that are there"), "{line}");
    endpoint.clear();
    endpoint.always(operation, Fault::Error(403, "AccessDenied"));
    let line = machine.one_line(0, "warn");
    assert!(
        line.contains("allow s3:GetLifecycleConfiguration"),
        "{line}"
    );
}

#[tokio::test]
async fn a_right_that_only_tags_need_is_told_from_the_right_to_write() {
    let endpoint = Endpoint::start().await;
    let machine = Machine::new(&endpoint);
    let config = machine.at("config.toml");
    let plain = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{plain}tags = {{ team = \"a\" }}\n")).unwrap();
    endpoint.script(|seen| {
        let is_tagged = seen.headers.contains_key("x-amz-tagging");
        is_tagged.then_some(Fault::Error(403, "AccessDenied"))
    });
    let line = machine.one_line(5, "fail");
    assert!(line.contains("does not let us write with `tags`"), "{line}");
    assert!(
        line.ends_with("allow s3:PutObjectTagging on arn:aws:s3:::tide/p/*"),
        "{line}"
    );
    assert_eq!(endpoint.all_keys(), [""; 0]);
}

#[tokio::test]
async fn a_lock_that_the_bucket_does_not_have_is_trouble_with_the_bucket() {
    let endpoint = Endpoint::start().await;
    let machine = Machine::new(&endpoint);
    let config = machine.at("config.toml");
    let plain = fs::read_to_string(&config).unwrap();
    let lock = "object_lock = { mode = \"governance\", keep = \"1d\" }\n";
    fs::write(&config, plain + lock).unwrap();
    let operation = "GetObjectLockConfiguration";
    endpoint.always(
        operation,
        Fault::Error(404, "ObjectLockConfigurationNotFoundError"),
    );
    let line = machine.one_line(5, "fail");
    assert!(line.contains("the bucket has no Object Lock"), "{line}");
    endpoint.clear();
    let text = "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled></ObjectLockConfiguration>";
    endpoint.always(operation, Fault::Answer(200, text.to_owned()));
    let (code, out) = machine.check();
    assert_eq!(code, Some(0), "{out}");
    assert!(out.contains("objects can be locked"), "{out}");
}

#[tokio::test]
async fn each_missing_right_is_named_in_one_line() {
    let endpoint = Endpoint::start().await;
    let machine = Machine::new(&endpoint);
    let denied = Fault::Error(403, "AccessDenied");
    for (operation, right) in [
        ("ListObjectsV2", "allow s3:ListBucket on arn:aws:s3:::tide"),
        ("PutObject", "allow s3:PutObject on arn:aws:s3:::tide/p/*"),
        ("GetObject", "allow s3:GetObject on arn:aws:s3:::tide/p/*"),
        ("HeadObject", "allow s3:GetObject on arn:aws:s3:::tide/p/*"),
    ] {
        endpoint.always(operation, denied.clone());
        let line = machine.one_line(5, "fail");
        assert!(
            line.contains("bucket `tide` at http://127.0.0.1:"),
            "{line}"
        );
        assert!(line.ends_with(right), "{line}");
        endpoint.clear();
        assert_eq!(endpoint.keys(), [""; 0], "{operation}");
    }
}

#[tokio::test]
async fn what_the_agent_can_do_without_is_only_a_warning() {
    let endpoint = Endpoint::start().await;
    let machine = Machine::new(&endpoint);
    endpoint.meet_probes();
    for (operation, said) in [
        (
            "CopyObject",
            "does not copy: equal and renamed files are sent again",
        ),
        (
            "UploadPartCopy",
            "does not copy by parts: files above 5 GiB are sent again instead",
        ),
        (
            "ListParts",
            "cannot list parts: resumed uploads trust their notes",
        ),
        (
            "ListMultipartUploads",
            "cannot list open uploads: one whose beginning was not answered stays",
        ),
        (
            "DeleteObjects",
            "has no DeleteObjects: one request per delete",
        ),
        (
            "CreateMultipartUpload",
            "takes no uploads by parts: large files cannot be sent",
        ),
    ] {
        endpoint.always(operation, Fault::Error(501, "NotImplemented"));
        let line = machine.one_line(0, "warn");
        assert_eq!(line, format!("warn  photos: the store {said}"));
        endpoint.clear();
        assert_eq!(endpoint.all_keys(), [""; 0], "{operation}");
    }
    endpoint.always("DeleteObject", Fault::Error(403, "AccessDenied"));
    let line = machine.one_line(0, "warn");
    let left = endpoint.all_keys();
    assert_eq!(left.len(), 1, "nothing more is put that cannot be removed");
    assert!(line.contains(&left[0]), "{line}");
    assert!(line.contains("was not asked"), "{line}");
    let config = machine.at("config.toml");
    let keeps = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{keeps}on_delete = \"trash\"\n")).unwrap();
    let line = machine.one_line(5, "fail");
    assert!(line.contains("allow s3:DeleteObject on"), "{line}");
    fs::write(&config, keeps).unwrap();
    endpoint.clear();
    // A right that nothing needs: the listing answers for the bucket.
    endpoint.always("HeadBucket", Fault::Error(403, "AccessDenied"));
    let (code, out) = machine.check();
    assert_eq!(code, Some(0), "{out}");
}

#[tokio::test]
async fn a_wrong_key_a_wrong_secret_and_none_are_told_apart() {
    let endpoint = Endpoint::start().await;
    for (name, value, said) in [
        ("AWS_ACCESS_KEY_ID", Some("NOBODY"), "AWS_ACCESS_KEY_ID"),
        (
            "AWS_SECRET_ACCESS_KEY",
            Some("hush"),
            "AWS_SECRET_ACCESS_KEY",
        ),
        (
            "AWS_SECRET_ACCESS_KEY",
            None,
            "no credentials were found; set AWS_",
        ),
    ] {
        let mut env = endpoint.env();
        env.retain(|(known, _)| known != name);
        env.extend(value.map(|value| (name.to_owned(), value.to_owned())));
        let line = Machine::to(&endpoint.url(), endpoint.bucket(), env).one_line(5, "fail");
        assert!(line.contains(said) && !line.contains("hush"), "{line}");
    }
}

#[tokio::test]
async fn a_missing_bucket_and_a_silent_address_are_one_line_each() {
    let endpoint = Endpoint::start().await;
    let line = Machine::to(&endpoint.url(), "nowhere", endpoint.env()).one_line(5, "fail");
    assert!(line.contains("bucket `nowhere`"), "{line}");
    assert!(line.contains("create the bucket first"), "{line}");
    let (url, env) = (endpoint.url(), endpoint.env());
    drop(endpoint);
    let line = Machine::to(&url, "tide", env).one_line(5, "fail");
    assert!(
        line.contains(&url) && line.contains("cannot connect"),
        "{line}"
    );
    assert!(line.ends_with("is the server running, and is its address (endpoint_url) right?"));
}

#[tokio::test]
async fn a_state_folder_that_cannot_be_is_trouble_of_this_machine() {
    let endpoint = Endpoint::start().await;
    let machine = Machine::new(&endpoint);
    fs::write(machine.at("state"), "a file").expect("a file");
    let (code, out) = machine.check();
    assert_eq!(code, Some(2), "{out}");
    assert!(out.starts_with("fail  state: "), "{out}");
    assert!(out.contains("agent.state_dir"), "{out}");
}

#[tokio::test]
async fn what_the_store_can_do_is_asked_anew_and_written_nowhere() {
    let endpoint = Endpoint::start().await;
    let machine = Machine::new(&endpoint);
    let asks = |endpoint: &Endpoint| {
        let requests = endpoint.all_requests();
        let copies = requests
            .iter()
            .filter(|seen| seen.operation == "CopyObject");
        copies.count()
    };
    for _ in 0..2 {
        endpoint.reset_counts();
        assert_eq!(machine.check().0, Some(0));
        assert_eq!(asks(&endpoint), 2);
        assert!(!machine.at("state").exists());
    }
}

#[tokio::test]
async fn a_probe_that_comes_to_nothing_is_a_warning() {
    let endpoint = Endpoint::start().await;
    let machine = Machine::new(&endpoint);
    endpoint.meet_probes();
    endpoint.script(|seen| {
        let is_probe = seen.path.contains(".tidewatch/probe-");
        (is_probe && seen.operation == "PutObject").then_some(Fault::Error(503, "SlowDown"))
    });
    let line = machine.one_line(0, "warn");
    assert!(line.contains("could not be found out"), "{line}");
    assert!(line.contains("SlowDown"), "{line}");
}

#[tokio::test]
async fn a_strict_guard_on_a_store_that_takes_no_conditions_is_trouble_of_the_config() {
    let endpoint = Endpoint::start().await;
    let machine = Machine::new(&endpoint);
    endpoint.meet_probes();
    endpoint.script(|seen| {
        let is_asked = seen.operation == "PutObject" && seen.headers.contains_key("if-match");
        is_asked.then_some(Fault::Error(501, "NotImplemented"))
    });
    assert_eq!(machine.check().0, Some(0));

    let config = machine.at("config.toml");
    let strict = fs::read_to_string(&config).unwrap() + "guard = \"strict\"\n";
    fs::write(&config, strict).unwrap();
    let line = machine.one_line(2, "fail");
    assert!(line.contains("If-Match"), "{line}");
    assert!(line.contains("set `guard = \"off\"`"), "{line}");
}
