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
            "[agent]\nstate_dir = \"{}\"\n[s3]\nendpoint_url = {url:?}\n[[folder]]\npath = \"{}\"\nto = \"s3://{bucket}/p\"\n",
            machine.at("state").display(),
            machine.at("photos").display(),
        );
        fs::write(machine.at("config.toml"), config).expect("a config");
        machine
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn check(&self) -> (Option<i32>, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_tidewatch"))
            .args(["check", "--config"])
            .arg(self.at("config.toml"))
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
    assert!(out.ends_with("everything is in order\n"), "{out}");
    assert!(out.contains("1 file in 2 folders"), "{out}");
    assert!(out.contains("ok    photos: the store checks CRC64NVME on every upload\n"));
    assert_eq!(out.matches("the store").count(), 1, "{out}");
    assert_eq!(endpoint.all_keys(), [""; 0]);
    assert!(!machine.at("state").exists());
    for request in endpoint.all_requests() {
        let own = ["p/.tidewatch/check-", "p/.tidewatch/probe-"];
        let own = own.iter().any(|own| request.key.starts_with(own));
        assert!(own || request.key.is_empty(), "{request:?}");
    }
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
