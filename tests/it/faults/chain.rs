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
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::Command;

use crate::faults::tls::Tls;
use crate::support::endpoint::{Endpoint, Fault};
use crate::support::raw_server::{RawServer, Reply};

/// How long a command may take, on a machine that is busy with other tests.
const DEADLINE: Duration = Duration::from_secs(120);

/// A folder with files, and what surrounds the program.
struct Machine {
    dir: TempDir,
    env: Vec<(String, String)>,
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
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidewatch"));
        command
            .arg("sync")
            .arg(self.at("tree"))
            .args(["s3://tide/p", "--endpoint-url", url, "--timeout", "2s"])
            .arg("--state-dir")
            .arg(self.at("state"))
            .env_clear()
            .env("HOME", self.dir.path())
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = tokio::time::timeout(DEADLINE, command.output()).await;
        let output = output.expect("the command ends").unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
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
    let answer = format!(
        "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleWithWebIdentityResult>\
         <Credentials><AccessKeyId>{}</AccessKeyId><SecretAccessKey>{}</SecretAccessKey><SessionToken>session</SessionToken>\
         <Expiration>2100-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>",
        endpoint.access_key(),
        endpoint.secret_key()
    );
    let sts = RawServer::start([Reply::Answer(
        200,
        "content-type: text/xml\r\n",
        answer.leak(),
    )])
    .await;
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
