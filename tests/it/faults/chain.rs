//! Where credentials, trust and proxies come from: the standard AWS places, each in the environment of a program of its own.
#![cfg(feature = "demo")]
#![allow(
    clippy::unwrap_used,
    reason = "clippy knows only the functions that are marked as tests"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "the files written here are the user's, not state"
)]

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::Command;

use crate::faults::tls::Tls;
use crate::support::endpoint::{Endpoint, Fault};
use crate::support::raw_server::{RawServer, Reply, Seen};

/// How long a command may take, on a machine that is busy with other tests.
const DEADLINE: Duration = Duration::from_secs(120);

/// What STS says to this, with these keys.
fn sts_answer(action: &str, endpoint: &Endpoint) -> Reply {
    let answer = format!(
        "<{action}Response xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><{action}Result>\
         <Credentials><AccessKeyId>{}</AccessKeyId><SecretAccessKey>{}</SecretAccessKey><SessionToken>session</SessionToken>\
         <Expiration>2100-01-01T00:00:00Z</Expiration></Credentials></{action}Result></{action}Response>",
        endpoint.access_key(),
        endpoint.secret_key()
    );
    Reply::Answer(200, "content-type: text/xml\r\n", answer.leak())
}

/// A folder with files, and what surrounds the program.
struct Machine {
    dir: TempDir,
    env: Vec<(String, String)>,
    /// How long a sync waits for a success.
    patience: &'static str,
}

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("tree")).unwrap();
        for number in 0..20 {
            let file = dir.path().join(format!("tree/{number}"));
            fs::write(file, format!("file {number}")).unwrap();
        }
        let machine = Self {
            dir,
            env: Vec::new(),
            patience: "2s",
        };
        let none = machine.at("none").display().to_string();
        machine
            .with("AWS_EC2_METADATA_DISABLED", "true")
            .with("AWS_REGION", "us-east-1")
            .with("AWS_CONFIG_FILE", &none)
            .with("AWS_SHARED_CREDENTIALS_FILE", &none)
            .with("PATH", "/usr/bin:/bin")
    }

    fn with(mut self, name: &str, value: &str) -> Self {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    fn with_keys(self, endpoint: &Endpoint) -> Self {
        self.with("AWS_ACCESS_KEY_ID", endpoint.access_key())
            .with("AWS_SECRET_ACCESS_KEY", endpoint.secret_key())
    }

    /// Takes the credentials from a program, which writes down each time it is asked.
    fn with_process(self) -> Self {
        let config = self.at("config").display().to_string();
        let (script, runs, keys) = (self.at("script"), self.at("runs"), self.at("keys.json"));
        let text = format!("echo run >> {}\ncat {}\n", runs.display(), keys.display());
        fs::write(&script, text).unwrap();
        let text = format!(
            "[default]\ncredential_process = /bin/sh {}\n",
            script.display()
        );
        fs::write(&config, text).unwrap();
        self.with("AWS_CONFIG_FILE", &config)
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn runs(&self) -> usize {
        fs::read_to_string(self.at("runs")).unwrap().lines().count()
    }

    /// Syncs once; returns exit code and what was said.
    async fn sync(&self, url: &str) -> (Option<i32>, String) {
        let (tree, state) = (self.at("tree"), self.at("state"));
        let (tree, state) = (tree.display().to_string(), state.display().to_string());
        let what = ["sync", &tree, "s3://tide/p", "--endpoint-url", url];
        let how = ["--timeout", self.patience, "--state-dir", &state];
        self.run(&[&what[..], &how[..]].concat()).await
    }

    /// Makes a config of the folder with these lines under `[s3]` and under `[[folder]]`, and runs `command` on it.
    async fn run_with(&self, command: &[&str], s3: &str, folder: &str) -> (Option<i32>, String) {
        let file = self.at("config.toml");
        let text = format!(
            "[agent]\nstate_dir = \"{}\"\n[s3]\n{s3}\n[[folder]]\npath = \"{}\"\nto = \"s3://tide/p\"\n{folder}\n",
            self.at("state").display(),
            self.at("tree").display(),
        );
        fs::write(&file, text).unwrap();
        let file = file.display().to_string();
        self.run(&[command, &["--config", &file]].concat()).await
    }

    async fn run(&self, args: &[&str]) -> (Option<i32>, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidewatch"));
        command
            .args(args)
            .env_clear()
            .env("HOME", self.dir.path())
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = tokio::time::timeout(DEADLINE, command.output()).await;
        let output = output.expect("the command ends").unwrap();
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        (output.status.code(), text)
    }
}

fn keys(endpoint: &Endpoint, token: &str) -> String {
    format!(
        "{{\"Version\":1,\"AccessKeyId\":\"{}\",\"SecretAccessKey\":\"{}\",\"SessionToken\":\"{token}\",\"Expiration\":\"2100-01-01T00:00:00Z\"}}",
        endpoint.access_key(),
        endpoint.secret_key()
    )
}

#[tokio::test]
async fn f16_expired_credentials_are_loaded_again_once_for_all() {
    let endpoint = Endpoint::start().await;
    let machine = Machine::new().with_process();
    let file = machine.at("keys.json");
    fs::write(&file, keys(&endpoint, "old")).unwrap();
    let renewed = keys(&endpoint, "new");
    endpoint.script(move |seen| {
        if seen.headers.get("x-amz-security-token")? != "old" {
            return None;
        }
        // Whoever makes the tokens has made another meanwhile.
        fs::write(&file, &renewed).unwrap();
        Some(Fault::Error(400, "ExpiredToken"))
    });
    let (code, text) = machine.sync(&endpoint.url()).await;
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(endpoint.keys().len(), 20);
    assert_eq!(machine.runs(), 2, "at the start, and once again");
}

#[tokio::test]
async fn f16_the_same_credentials_again_bar_everything() {
    let endpoint = Endpoint::start().await;
    let machine = Machine::new().with_process();
    fs::write(machine.at("keys.json"), keys(&endpoint, "old")).unwrap();
    endpoint.always("*", Fault::Error(400, "ExpiredToken"));
    let (code, text) = machine.sync(&endpoint.url()).await;
    assert_eq!(code, Some(5), "{text}");
    assert!(text.contains("renew the session's credentials"), "{text}");
    assert_eq!(endpoint.keys().len(), 0);
    let asked = endpoint.all_requests().len();
    // The first load, and at most one for each refusal: what waits together is answered together.
    assert!(
        (2..=asked + 1).contains(&machine.runs()),
        "{}",
        machine.runs()
    );
}

#[tokio::test]
async fn f02_a_bundle_in_the_environment_is_trusted() {
    let endpoint = Endpoint::start().await;
    let tls = Tls::before(endpoint.url().trim_start_matches("http://")).await;
    let machine = Machine::new().with_keys(&endpoint);
    let (code, text) = machine.sync(&tls.url()).await;
    assert_eq!(code, Some(5), "{text}");
    assert!(text.contains("`ca_bundle`"), "{text}");
    assert_eq!(endpoint.all_requests().len(), 0);
    let machine = machine.with("AWS_CA_BUNDLE", &Tls::ca().display().to_string());
    let (code, text) = machine.sync(&tls.url()).await;
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(endpoint.keys().len(), 20);
}

#[tokio::test]
async fn a_proxy_of_the_environment_is_used_and_its_exceptions_are_heard() {
    let denied = "<Error><Code>AccessDenied</Code></Error>";
    let proxy = RawServer::start([Reply::Answer(403, "", denied)]).await;
    let endpoint = Endpoint::start().await;
    let machine = Machine::new()
        .with_keys(&endpoint)
        .with("HTTP_PROXY", proxy.url())
        .with("HTTPS_PROXY", proxy.url());
    let (code, text) = machine.sync("http://store.test").await;
    assert_eq!(code, Some(5), "{text}");
    let seen = proxy.seen();
    assert!(
        seen[0].head.contains(" http://store.test/tide"),
        "the whole URL: {}",
        seen[0].head
    );
    let before = seen.len();
    let (code, text) = machine.sync("https://store.test").await;
    assert_eq!(code, Some(5), "{text}");
    let tunnel = &proxy.seen()[before];
    assert!(
        tunnel.head.starts_with("CONNECT store.test:443 "),
        "{}",
        tunnel.head
    );
    let before = proxy.seen().len();
    let machine = machine.with("NO_PROXY", "127.0.0.1");
    let (code, text) = machine.sync(&endpoint.url()).await;
    assert_eq!(code, Some(0), "{text}");
    assert_eq!((proxy.seen().len(), endpoint.keys().len()), (before, 20));
}

#[tokio::test]
async fn a_token_in_a_file_is_exchanged_for_credentials() {
    let endpoint = Endpoint::start().await;
    let sts = RawServer::start([sts_answer("AssumeRoleWithWebIdentity", &endpoint)]).await;
    let machine = Machine::new();
    let token = machine.at("token");
    fs::write(&token, "the token").unwrap();
    let machine = machine
        .with("AWS_WEB_IDENTITY_TOKEN_FILE", &token.display().to_string())
        .with("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/tide")
        .with("AWS_ENDPOINT_URL_STS", sts.url());
    let (code, text) = machine.sync(&endpoint.url()).await;
    assert_eq!(code, Some(0), "{text}");
    let asked = String::from_utf8_lossy(&sts.seen()[0].body).into_owned();
    assert!(
        asked.contains("the+token") || asked.contains("the%20token"),
        "{asked}"
    );
    let put = &endpoint.requests()[0];
    assert_eq!(put.headers["x-amz-security-token"], "session");
}

#[tokio::test]
async fn a_profile_takes_on_its_role() {
    let endpoint = Endpoint::start().await;
    let sts = RawServer::start([sts_answer("AssumeRole", &endpoint)]).await;
    let machine = Machine::new();
    let config = machine.at("config");
    fs::write(
        &config,
        "[profile base]\naws_access_key_id = BASE\naws_secret_access_key = secret\n\
         [profile tide]\nrole_arn = arn:aws:iam::123456789012:role/tide\nsource_profile = base\n",
    )
    .unwrap();
    let machine = machine
        .with("AWS_CONFIG_FILE", &config.display().to_string())
        .with("AWS_PROFILE", "tide")
        .with("AWS_ENDPOINT_URL_STS", sts.url());
    let (code, text) = machine.sync(&endpoint.url()).await;
    assert_eq!(code, Some(0), "{text}");
    let asked = &sts.seen()[0];
    let signed = asked.header("authorization").unwrap_or_default();
    assert!(signed.contains("Credential=BASE/"), "{signed}");
    let put = &endpoint.requests()[0];
    assert_eq!(put.headers["x-amz-security-token"], "session");
}

/// The keys of the role that the machine has.
static MACHINES_ROLE: OnceLock<&str> = OnceLock::new();

/// The service that a machine of EC2 asks about itself: for a token, for the role's name, for the role's keys.
fn metadata(request: &Seen) -> Reply {
    let path = request.head.split(' ').nth(1).unwrap_or_default();
    if request.head.starts_with("PUT ") {
        let ttl = "x-aws-ec2-metadata-token-ttl-seconds: 21600\r\n";
        return Reply::Answer(200, ttl, "token");
    }
    match path.rsplit('/').next() {
        Some("") => Reply::Answer(200, "", "tide-role"),
        Some("tide-role") => Reply::Answer(200, "", MACHINES_ROLE.get().unwrap()),
        _ => Reply::Answer(404, "", ""),
    }
}

#[tokio::test]
async fn a_role_of_the_container_or_of_the_machine_is_enough() {
    let endpoint = Endpoint::start().await;
    let role = format!(
        "{{\"Code\":\"Success\",\"Type\":\"AWS-HMAC\",\"AccessKeyId\":\"{}\",\"SecretAccessKey\":\"{}\",\"Token\":\"session\",\"Expiration\":\"2100-01-01T00:00:00Z\",\"LastUpdated\":\"2026-01-01T00:00:00Z\"}}",
        endpoint.access_key(),
        endpoint.secret_key()
    );
    let role: &str = role.leak();
    let json = "content-type: application/json\r\n";
    let container = RawServer::start([Reply::Answer(200, json, role)]).await;
    let machine = Machine::new().with("AWS_CONTAINER_CREDENTIALS_FULL_URI", container.url());
    let (code, text) = machine.sync(&endpoint.url()).await;
    assert_eq!((code, container.seen().len()), (Some(0), 1), "{text}");

    MACHINES_ROLE.set(role).unwrap();
    let service = RawServer::start([Reply::By(metadata)]).await;
    let machine = Machine::new()
        .with("AWS_EC2_METADATA_DISABLED", "false")
        .with("AWS_EC2_METADATA_SERVICE_ENDPOINT", service.url());
    endpoint.reset_counts();
    let (code, text) = machine.sync(&endpoint.url()).await;
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(
        endpoint.all_requests()[0].headers["x-amz-security-token"],
        "session"
    );
}

#[tokio::test]
async fn what_a_service_of_credentials_answers_is_never_logged() {
    let endpoint = Endpoint::start().await;
    let answer = "{\"AccessKeyId\":\"hush\",\"SecretAccessKey\":\"hush-hush\",\"Expiration\":7}";
    let json = "content-type: application/json\r\n";
    let container = RawServer::start([Reply::Answer(200, json, answer)]).await;
    let mut machine = Machine::new().with("AWS_CONTAINER_CREDENTIALS_FULL_URI", container.url());
    // The chain asks the service more than once before it gives up.
    machine.patience = "60s";
    let (code, text) = machine.sync(&endpoint.url()).await;
    assert_eq!(code, Some(5), "{text}");
    assert!(!container.seen().is_empty());
    assert!(text.contains("credentials"), "{text}");
    assert!(!text.contains("hush-hush"), "{text}");
}

#[tokio::test]
async fn what_is_set_for_aws_decides_where_requests_go() {
    let proxy = RawServer::start([Reply::Answer(403, "", "")]).await;
    let machine = Machine::new()
        .with("AWS_ACCESS_KEY_ID", "access")
        .with("AWS_SECRET_ACCESS_KEY", "secret")
        .with("HTTPS_PROXY", proxy.url());
    for (setting, host) in [
        ("", "tide.s3.us-east-1.amazonaws.com"),
        (
            "dualstack = true",
            "tide.s3.dualstack.us-east-1.amazonaws.com",
        ),
        ("accelerate = true", "tide.s3-accelerate.amazonaws.com"),
        ("fips = true", "tide.s3-fips.us-east-1.amazonaws.com"),
    ] {
        let before = proxy.seen().len();
        let sync = ["sync", "--timeout", "1s"];
        let (code, text) = machine.run_with(&sync, setting, "").await;
        assert_eq!(code, Some(5), "{text}");
        let tunnel = proxy.seen()[before].head.clone();
        assert!(
            tunnel.starts_with(&format!("CONNECT {host}:443 ")),
            "{tunnel}"
        );
    }
}

#[tokio::test]
async fn what_a_folder_sets_goes_with_its_files_and_is_warned_of() {
    let endpoint = Endpoint::start().await;
    let machine = Machine::new().with_keys(&endpoint);
    let s3 = format!("endpoint_url = \"{}\"", endpoint.url());
    fs::write(machine.at("tree/page.html"), "<p>").unwrap();
    let folder = "storage_class = \"STANDARD_IA\"\ncontent_types = { \"1*\" = \"text/x-tide\" }\ncache_control = { \"*.html\" = \"no-cache\" }\n";
    let (_, text) = machine
        .run_with(&["sync", "--timeout", "1s"], &s3, folder)
        .await;
    assert_eq!(text.matches("bills at least 128 KiB").count(), 1, "{text}");
    let puts = endpoint.requests();
    let puts: Vec<_> = puts
        .iter()
        .filter(|seen| seen.operation == "PutObject")
        .collect();
    assert!(puts.len() >= 21, "{}", puts.len());
    for put in puts {
        let header = |name: &str| put.headers.get(name).map(String::as_str);
        assert_eq!(header("x-amz-storage-class"), Some("STANDARD_IA"));
        let (is_ten, is_page) = (put.key.starts_with("p/1"), put.key == "p/page.html");
        assert_eq!(
            header("content-type") == Some("text/x-tide"),
            is_ten,
            "{put:?}"
        );
        assert_eq!(
            header("cache-control") == Some("no-cache"),
            is_page,
            "{put:?}"
        );
    }
    let (_, text) = machine.run_with(&["check"], &s3, folder).await;
    let mut warned = text.lines().filter(|line| line.starts_with("warn"));
    assert!(
        warned.any(|line| line.contains("bills at least 128 KiB")),
        "{text}"
    );
}
