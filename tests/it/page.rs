//! The page, its API, metrics and health, over raw HTTP: the real binary, each with a port of its own.
#![cfg(feature = "demo")]
#![allow(
    clippy::unwrap_used,
    reason = "clippy knows only the functions that are marked as tests"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "these write users' files, which nobody writes durably, and measure real time"
)]

mod metrics;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use tidewatch::report::status_file;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Child;

use crate::process::{DEADLINE, World, end_of, ended, eventually, send};
use crate::support::endpoint::Fault;

/// A running agent and where its page is.
struct Site {
    child: Child,
    /// `127.0.0.1:4711`.
    host: String,
    token: String,
}

/// An answer, as it came.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

impl Site {
    /// Starts `run` on the world's folder, with more keys of the folder, and waits until its page is there.
    async fn start(world: &World, folder: &str) -> Self {
        let config = world.dir.path().join("config.toml");
        let text = format!(
            "[agent]\nlisten = \"127.0.0.1:0\"\nstate_dir = \"{}\"\n[s3]\nendpoint_url = {:?}\n\
             [[folder]]\nname = \"photos\"\npath = \"{}\"\nto = \"s3://tide/p\"\nsettle = \"100ms\"\n{folder}\n",
            world.state().display(),
            world.endpoint.url(),
            world.tree("").display(),
        );
        fs::write(&config, text).unwrap();
        let mut command = world.bare(["run", "--config", config.to_str().unwrap()]);
        let child = command.spawn().unwrap();
        let pid = child.id().unwrap();
        let page = || {
            let said = status_file::read(&world.state()).ok().flatten();
            said.filter(|said| said.pid == pid)?.page
        };
        eventually("an address in the status", || page().is_some()).await;
        let address = page().unwrap();
        let host = address.strip_prefix("http://").unwrap();
        Self {
            child,
            host: host.trim_end_matches('/').to_owned(),
            token: fs::read_to_string(world.state().join("token"))
                .unwrap()
                .trim_end()
                .to_owned(),
        }
    }

    /// Sends a request as it is written, and reads until the line is closed.
    async fn raw(&self, request: &str) -> Answer {
        let mut line = TcpStream::connect(&self.host).await.unwrap();
        line.write_all(request.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        let read = tokio::time::timeout(DEADLINE, line.read_to_end(&mut bytes)).await;
        read.expect("the line is closed").unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).unwrap_or("0");
        Answer {
            status: status.parse().unwrap_or(0),
            head: head.to_ascii_lowercase(),
            body: body.to_owned(),
        }
    }

    async fn get(&self, path: &str, headers: &str) -> Answer {
        let host = &self.host;
        self.raw(&format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n"
        ))
        .await
    }

    /// Asks with the token.
    async fn known(&self, path: &str) -> Answer {
        let bearer = self.bearer();
        self.get(path, &bearer).await
    }

    fn bearer(&self) -> String {
        format!("Authorization: Bearer {}\r\n", self.token)
    }

    async fn post(&self, headers: &str, body: &str) -> Answer {
        let (host, length) = (&self.host, body.len());
        self.raw(&format!(
            "POST /api/act HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
        ))
        .await
    }

    /// Waits until the state, asked with the token, is as wanted.
    async fn until(&self, what: &str, holds: impl Fn(&Value) -> bool) {
        let waiting = async {
            while !holds(&self.known("/api/state").await.json()) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let waited = tokio::time::timeout(DEADLINE, waiting).await;
        assert!(waited.is_ok(), "never came to be: {what}");
    }

    async fn until_level(&self) {
        self.until("level", |state| state["folders"][0]["level"] == true)
            .await;
    }

    /// Ends it; returns its log.
    async fn stop(self) -> String {
        send(&self.child, Signal::TERM);
        let ended = end_of(self.child).await;
        assert_eq!(ended.code, Some(0), "{}", ended.err);
        assert!(!ended.err.contains(&self.token), "the token is in the log");
        ended.err
    }
}

#[tokio::test]
async fn the_page_is_found_and_opened_by_its_owner() {
    let world = World::new().await;
    let site = Site::start(&world, "").await;
    let mode = fs::metadata(world.state().join("token"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let link = format!("http://{}/#token={}", site.host, site.token);
    let state = world.state();
    let open = |more: &'static str| {
        let mut command = world.bare(["open", "--state-dir"]);
        command.arg(&state);
        command.args((!more.is_empty()).then_some(more));
        command
    };
    // No screen here, and no browser.
    for more in ["--print", ""] {
        let told = ended(&mut open(more)).await;
        assert_eq!(
            (told.code, told.out.trim_end()),
            (Some(0), &*link),
            "{}",
            told.err
        );
    }
    // A browser gets the whole address, and nobody is shown the token.
    let seen = world.dir.path().join("seen");
    let browser = format!(
        "no-such-browser:sh -c 'echo \"$1\" > {}' sh %s",
        seen.display()
    );
    let told = ended(
        open("")
            .env("BROWSER", browser)
            .env("PATH", "/usr/bin:/bin"),
    )
    .await;
    assert_eq!(told.code, Some(0), "{}", told.err);
    assert!(
        told.out.contains(&site.host) && !told.out.contains(&site.token),
        "{}",
        told.out
    );
    eventually("the browser", || {
        fs::read_to_string(&seen).is_ok_and(|text| text.trim_end() == link)
    })
    .await;
    let status = ended(world.bare(["status", "--state-dir"]).arg(&state)).await;
    assert!(
        status.out.contains(&format!("http://{}/", site.host)),
        "{}",
        status.out
    );
    assert!(status.out.contains("state/token") && !status.out.contains(&site.token));
    let status = ended(world.bare(["status", "--json", "--state-dir"]).arg(&state)).await;
    let status: Value = serde_json::from_str(&status.out).unwrap();
    assert_eq!(status["page"]["address"], format!("http://{}/", site.host));
    let token = site.token.clone();
    let log = site.stop().await;
    assert!(log.contains("the page is at http://127.0.0.1:"), "{log}");
    // Nobody serves it any more; the token stays for the next start.
    let told = ended(&mut open("")).await;
    assert_eq!(told.code, Some(1), "{}", told.out);
    let site = Site::start(&world, "").await;
    assert_eq!(site.token, token);
    site.stop().await;
}

#[tokio::test]
async fn what_comes_from_elsewhere_is_refused_and_every_answer_is_guarded() {
    let world = World::new().await;
    let site = Site::start(&world, "").await;
    let host = site.host.clone();
    let port = host.rsplit(':').next().unwrap();
    for path in [
        "/",
        "/page.js",
        "/events",
        "/api/state",
        "/metrics",
        "/healthz",
        "/readyz",
    ] {
        let foreign = format!("GET {path} HTTP/1.1\r\nHost: evil.example:{port}\r\n\r\n");
        assert_eq!(site.raw(&foreign).await.status, 403, "{path}");
        for header in [
            "Origin: http://evil.example\r\n",
            "Origin: null\r\n",
            "Sec-Fetch-Site: cross-site\r\n",
            "Sec-Fetch-Site: same-site\r\n",
            "Host: evil.example\r\n",
        ] {
            assert_eq!(site.get(path, header).await.status, 403, "{path} {header}");
        }
    }
    for (path, status, kind) in [
        ("/", 200, "text/html"),
        ("/page.js", 200, "text/javascript"),
        ("/page.css", 200, "text/css"),
        ("/icon.svg", 200, "image/svg+xml"),
        ("/healthz", 200, "text/plain"),
        ("/api/state", 200, "application/json"),
        ("/metrics", 200, "application/openmetrics-text"),
        ("/nothing", 404, "application/json"),
        ("/api/act", 405, "application/json"),
        ("/api/held", 401, "application/json"),
    ] {
        let answer = site.get(path, "").await;
        assert_eq!(answer.status, status, "{path}");
        for line in [
            &format!("content-type: {kind}"),
            "content-security-policy: default-src 'none'; script-src 'self'",
            "frame-ancestors 'none'",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
            "cache-control: no-store",
        ] {
            assert!(
                answer.head.contains(line),
                "{path}: {line}\n{}",
                answer.head
            );
        }
        assert!(
            !answer.head.contains("access-control"),
            "{path}: {}",
            answer.head
        );
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"] {
        let request = format!(
            "{method} /api/state HTTP/1.1\r\nHost: {host}\r\n{}Content-Type: application/json\r\n\
             Content-Length: 0\r\n\r\n",
            site.bearer()
        );
        assert_eq!(site.raw(&request).await.status, 405, "{method}");
    }
    // Nothing on it comes from elsewhere.
    for path in ["/", "/page.css", "/page.js"] {
        let text = site
            .get(path, "")
            .await
            .body
            .replace("http://www.w3.org/2000/svg", "");
        assert!(
            !text.contains("http://") && !text.contains("https://"),
            "{path}"
        );
        assert!(
            !text.contains("innerHTML") && !text.contains("eval("),
            "{path}"
        );
    }
    site.stop().await;
}

#[tokio::test]
async fn without_the_token_no_name_is_shown() {
    let world = World::new().await;
    world.write("diary.txt", "dear diary");
    world.write("sealed.txt", "nobody can read this");
    world.endpoint.script(|seen| {
        seen.key
            .ends_with("sealed.txt")
            .then_some(Fault::Error(403, "AccessDenied"))
    });
    let site = Site::start(&world, "").await;
    site.until("a failure and an upload", |state| {
        let folder = &state["folders"][0];
        folder["failing"][0]["path"] == "sealed.txt"
            && state["recent"].to_string().contains("diary.txt")
    })
    .await;
    let tree = world.tree("");
    let secret = [
        "diary",
        "sealed",
        tree.to_str().unwrap(),
        "s3://",
        "AccessDenied",
    ];
    let mut said = String::new();
    for path in ["/api/state", "/metrics", "/readyz", "/"] {
        said += &site.get(path, "").await.body;
    }
    let mut line = TcpStream::connect(&site.host).await.unwrap();
    let ask = format!("GET /events HTTP/1.1\r\nHost: {}\r\n\r\n", site.host);
    line.write_all(ask.as_bytes()).await.unwrap();
    said += &read_until(&mut line, "event: state").await;
    for name in secret {
        assert!(
            !said.contains(name),
            "{name} is shown without the token:\n{said}"
        );
    }
    let state = site.get("/api/state", "").await.json();
    assert_eq!(state["knows"], false);
    assert_eq!(state["folders"][0]["failed"], 1);
    assert_eq!(state["folders"][0]["name"], "photos");
    for headers in [
        format!("Authorization: Bearer {}\r\n", "0".repeat(64)),
        format!("Authorization: Basic {}\r\n", site.token),
    ] {
        for path in ["/api/state", "/events", "/api/held?folder=photos"] {
            assert_eq!(
                site.get(path, &headers).await.status,
                401,
                "{path} {headers}"
            );
        }
    }
    // The token is no use in an address.
    let path = format!("/api/state?token={}", site.token);
    assert_eq!(site.get(&path, "").await.json()["knows"], false);
    let state = site.known("/api/state").await.json();
    assert_eq!(state["knows"], true);
    let failing = &state["folders"][0]["failing"][0];
    assert!(
        failing["error"].as_str().unwrap().contains("AccessDenied"),
        "{failing}"
    );
    site.stop().await;
}

/// Reads until `wanted` and the end of its event have come.
async fn read_until(line: &mut TcpStream, wanted: &str) -> String {
    let reading = async {
        let (mut text, mut buffer) = (String::new(), vec![0; 65_536]);
        loop {
            let length = line.read(&mut buffer).await.unwrap();
            assert!(length > 0, "the stream ended: {text}");
            text.push_str(&String::from_utf8_lossy(&buffer[..length]));
            if let Some(at) = text.find(wanted)
                && text[at..].contains("\n\n")
            {
                return text;
            }
        }
    };
    tokio::time::timeout(DEADLINE, reading).await.expect(wanted)
}

#[tokio::test]
async fn a_file_that_goes_up_is_told_of_within_a_second() {
    let world = World::new().await;
    world.write("first", "first");
    let site = Site::start(&world, "").await;
    site.until_level().await;
    let mut line = TcpStream::connect(&site.host).await.unwrap();
    let ask = format!(
        "GET /events HTTP/1.1\r\nHost: {}\r\n{}\r\n",
        site.host,
        site.bearer()
    );
    line.write_all(ask.as_bytes()).await.unwrap();
    let first = read_until(&mut line, "event: state").await;
    assert!(
        first.contains("text/event-stream") && first.contains("event: past"),
        "{first}"
    );
    let mut took = Vec::new();
    for number in 0..5 {
        let began = Instant::now();
        let name = format!("tide {number}.txt");
        world.write(&name, format!("water {number}"));
        read_until(&mut line, &name).await;
        took.push(began.elapsed());
        assert!(world.object(&name).is_some());
    }
    took.sort();
    // The middle one: the tests around this one may keep the machine busy for a moment.
    assert!(took[2] < Duration::from_secs(1), "{took:?}");
    site.stop().await;
}

#[tokio::test]
async fn listeners_are_bounded_and_give_their_place_back() {
    let world = World::new().await;
    let site = Site::start(&world, "").await;
    let ask = format!("GET /events HTTP/1.1\r\nHost: {}\r\n\r\n", site.host);
    let mut lines = Vec::new();
    for _ in 0..16 {
        let mut line = TcpStream::connect(&site.host).await.unwrap();
        line.write_all(ask.as_bytes()).await.unwrap();
        read_until(&mut line, "event: state").await;
        lines.push(line);
    }
    assert_eq!(site.get("/events", "").await.status, 503);
    assert_eq!(site.get("/api/state", "").await.status, 200);
    lines.pop();
    let waiting = async {
        loop {
            let mut line = TcpStream::connect(&site.host).await.unwrap();
            line.write_all(ask.as_bytes()).await.unwrap();
            let mut begin = [0; 12];
            line.read_exact(&mut begin).await.unwrap();
            if &begin == b"HTTP/1.1 200" {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(DEADLINE, waiting)
        .await
        .expect("a place");
    site.stop().await;
}

#[tokio::test]
async fn a_held_delete_is_released_with_the_token_and_never_without() {
    let world = World::new().await;
    let name = |n: u32| format!("photo {n:03}.jpg");
    for n in 0..130 {
        world.write(name(n), format!("picture {n}"));
    }
    let site = Site::start(
        &world,
        "on_delete = \"delete\"\ndelete_brake = { files = 5, window = \"10m\" }",
    )
    .await;
    site.until_level().await;
    for n in 0..120 {
        fs::remove_file(world.tree(name(n))).unwrap();
    }
    site.until("held", |state| state["folders"][0]["held"] == 120)
        .await;

    // The list, by pages.
    let first = site.known("/api/held?folder=photos").await.json();
    assert_eq!(first["items"].as_array().unwrap().len(), 100);
    assert_eq!(first["items"][0]["path"], "photo 000.jpg");
    assert_eq!(first["items"][0]["what"], "delete");
    let next = first["next"].as_str().unwrap();
    let path = format!("/api/held?folder=photos&next={next}");
    let second = site.known(&path).await.json();
    assert_eq!(second["items"].as_array().unwrap().len(), 20);
    assert_eq!(
        (&second["items"][0]["path"], &second["next"]),
        (&json!("photo 100.jpg"), &Value::Null)
    );
    assert_eq!(site.known("/api/held?folder=other").await.status, 404);
    assert_eq!(
        site.known("/api/held?folder=photos&next=%%").await.status,
        400
    );

    let ask = |held: u64| json!({ "folder": "photos", "do": "release", "held": held }).to_string();
    let bearer = site.bearer();
    let json = "Content-Type: application/json\r\n";
    let with = format!("{bearer}{json}");
    let wrong = format!("Authorization: Bearer {}\r\n{json}", "f".repeat(64));
    let form = format!("{bearer}Content-Type: application/x-www-form-urlencoded\r\n");
    let foreign = format!("{with}Origin: http://evil.example\r\n");
    for (headers, body, status) in [
        (json, ask(120), 401),
        (&wrong, ask(120), 401),
        (&bearer, ask(120), 415),
        (&form, ask(120), 415),
        (&foreign, ask(120), 403),
        (&with, ask(119), 409),
        (
            &with,
            json!({ "folder": "photos", "do": "release" }).to_string(),
            400,
        ),
        (
            &with,
            json!({ "folder": "other", "do": "drop", "held": 120 }).to_string(),
            404,
        ),
        (
            &with,
            json!({ "folder": "photos", "do": "format", "held": 120 }).to_string(),
            400,
        ),
        (&with, "{".to_owned(), 400),
        (&with, format!("{}{}", ask(120), " ".repeat(20_000)), 413),
    ] {
        let answer = site.post(headers, &body).await;
        assert_eq!(answer.status, status, "{headers} {body}\n{}", answer.body);
    }
    assert_eq!(world.objects().len(), 130, "something was deleted");
    let done = site.post(&with, &ask(120)).await;
    assert_eq!((done.status, &done.json()["count"]), (200, &json!(120)));
    eventually("the objects to go", || world.objects().len() == 10).await;
    site.until_level().await;
    site.stop().await;
}

/// Sleeps real time: what is held to is how long a client may take.
#[tokio::test]
async fn a_slow_client_holds_nothing() {
    let world = World::new().await;
    let site = Site::start(&world, "").await;
    let mut slow = Vec::new();
    for _ in 0..70 {
        let mut line = TcpStream::connect(&site.host).await.unwrap();
        line.write_all(b"GET / HTTP/1.1\r\nHost: loc")
            .await
            .unwrap();
        slow.push(line);
    }
    let began = Instant::now();
    // All places are taken, until the heads have taken too long.
    assert_eq!(site.get("/healthz", "").await.status, 200);
    assert!(
        began.elapsed() < Duration::from_secs(30),
        "{:?}",
        began.elapsed()
    );
    let mut rest = Vec::new();
    let read = tokio::time::timeout(DEADLINE, slow[0].read_to_end(&mut rest)).await;
    assert!(read.is_ok(), "a slow line is closed");
    drop(slow);
    // A body that never comes.
    let head = format!(
        "POST /api/act HTTP/1.1\r\nHost: {}\r\n{}Content-Type: application/json\r\nContent-Length: 9\r\n\r\n{{",
        site.host,
        site.bearer()
    );
    assert_eq!(site.raw(&head).await.status, 408);
    let long = format!("X: {}\r\n", "x".repeat(20_000));
    assert_eq!(site.get("/", &long).await.status, 431);
    site.stop().await;
}

#[tokio::test]
async fn readiness_ends_while_the_bucket_cannot_be_used_and_comes_back() {
    let world = World::new().await;
    world.write("a", "a");
    let site = Site::start(&world, "").await;
    site.until_level().await;
    let ready = site.get("/readyz", "").await;
    assert_eq!((ready.status, &*ready.body), (200, "ready\n"));
    world.endpoint.always("*", Fault::Reset);
    world.write("b", "b");
    let is = async |status: u16| {
        let waiting = async {
            while site.get("/readyz", "").await.status != status {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let waited = tokio::time::timeout(DEADLINE, waiting).await;
        assert!(waited.is_ok(), "readiness never says {status}");
    };
    is(503).await;
    let why = site.get("/readyz", "").await.body;
    assert_eq!(why, "photos: its bucket cannot be used\n");
    assert_eq!(site.get("/healthz", "").await.status, 200);
    world.endpoint.clear();
    is(200).await;
    site.stop().await;
}

#[tokio::test]
async fn readiness_ends_when_a_change_is_late() {
    let world = World::new().await;
    let folder = "max_wait = \"1h\"\nmax_lag = \"1s\"";
    let site = Site::start(&world, folder).await;
    site.until_level().await;
    world.endpoint.always("PutObject", Fault::Hang);
    world.write("late", "late");
    let waiting = async {
        loop {
            let said = site.get("/readyz", "").await;
            if said.status == 503 && said.body.starts_with("photos: late, ") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(DEADLINE, waiting)
        .await
        .expect("it is late");
    assert_eq!(site.known("/api/state").await.json()["ready"], false);
    world.endpoint.clear();
    send(&site.child, Signal::TERM);
    send(&site.child, Signal::TERM);
    end_of(site.child).await;
}

#[tokio::test]
async fn a_taken_port_is_a_warning_and_not_an_end() {
    let world = World::new().await;
    world.write("a", "a");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let config = world.dir.path().join("config.toml");
    let text = format!(
        "[agent]\nlisten = \"{}\"\nstate_dir = \"{}\"\n[s3]\nendpoint_url = {:?}\n\
         [[folder]]\npath = \"{}\"\nto = \"s3://tide/p\"\n",
        taken.local_addr().unwrap(),
        world.state().display(),
        world.endpoint.url(),
        world.tree("").display(),
    );
    fs::write(&config, text).unwrap();
    let child = world
        .bare(["run", "--config", config.to_str().unwrap()])
        .spawn()
        .unwrap();
    eventually("the object", || world.object("a").is_some()).await;
    send(&child, Signal::TERM);
    let ended = end_of(child).await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    let warned = ended
        .err
        .lines()
        .any(|line| line.contains("WARN") && line.contains("no page"));
    assert!(warned, "{}", ended.err);
}
