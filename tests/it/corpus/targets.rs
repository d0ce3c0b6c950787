//! What bytes from outside are given to: used by the fuzz targets of `fuzz/` and by the test that replays their corpus.
//!
//! Each takes any bytes, and panics if the code under test does, or if what it returns breaks its promise.

use std::cell::RefCell;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidewatch::base::path::RelPath;
use tidewatch::base::stat::Kind;
use tidewatch::catalog::{self, Fault, Header, Record};
use tidewatch::config::{Config, Options, Surroundings};
use tidewatch::store::key::KeyMap;
use tidewatch::store::s3::{Addressing, Patience, S3Store, Settings};
use tidewatch::store::{Store as _, When};
use tidewatch::tree::filter::Filter;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A target: its name, which is its folder in `fuzz/corpus`, and its function.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const ALL: [Target; 5] = [
    ("answers", answers),
    ("catalog", catalog),
    ("config", config),
    ("ignore", ignore),
    ("keys", keys),
];

/// Holds that a text for people is one line that cannot do anything to a terminal.
fn is_one_line(text: &str) {
    assert!(!text.chars().any(char::is_control), "{text:?}");
}

/// Reads the bytes as a config: it is one, or every problem is one line with a place in it.
pub fn config(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    // Nothing is taken from this machine.
    let around = Surroundings {
        hostname: "host".to_owned(),
        home: Some("/nowhere".into()),
        ..Surroundings::default()
    };
    let read = || {
        Config::load(
            &text,
            Path::new("config.toml"),
            &Options::default(),
            &around,
        )
    };
    let first = read();
    let Err(problems) = &first else {
        let read = format!("{:?}", read());
        assert_eq!(
            format!("{first:?}"),
            read,
            "the same text is the same config"
        );
        return;
    };
    assert!(problems.iter().len() > 0);
    for problem in problems.iter() {
        is_one_line(&problem.to_string());
    }
}

/// Reads the bytes as a link of a catalog, packed or as its lines; what can be read is written as it was read.
pub fn catalog(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else {
        return;
    };
    let keys = KeyMap::new("p/");
    if kind % 2 == 0 {
        // The first byte is part of what a real link begins with.
        let _ = catalog::header(data);
        let _ = catalog::read_link(data, &keys, |_| {});
        return;
    }
    for (number, line) in rest.split(|byte| *byte == b'\n').enumerate() {
        if let Ok(header) = Header::parse(line) {
            let again = Header::parse(header.line().trim_ascii_end());
            assert_eq!(again.as_ref(), Ok(&header));
        }
        if let Ok(record) = Record::parse(line, number as u64 + 2, &keys) {
            let mut lines = Vec::new();
            record.write(&mut lines);
            let again = Record::parse(lines.trim_ascii_end(), 2, &keys);
            assert_eq!(again, Ok(record));
        }
    }
    // What is put together is read as it went in.
    let Ok(packed) = zstd::encode_all(rest, 1) else {
        return;
    };
    let mut count = 0;
    if let Err(Fault::Broken(why)) = catalog::read_link(&packed, &keys, |_| count += 1) {
        is_one_line(&why);
    }
    assert!(count <= rest.len());
}

/// Takes the bytes as a path, and as a key: the way there and back leads to where it began.
pub fn keys(data: &[u8]) {
    for keys in [KeyMap::new(""), KeyMap::new("a prefix/‛/")] {
        if let Some(path) = RelPath::new(data)
            && let Ok(key) = keys.key(&path)
        {
            assert!(key.len() <= 1024 && key.starts_with(keys.prefix()));
            assert!(!keys.is_reserved(&key));
            is_one_line(&key);
            assert_eq!(keys.path(&key), Some(path));
        }
        let Ok(text) = std::str::from_utf8(data) else {
            continue;
        };
        let whole = format!("{}{text}", keys.prefix());
        for key in [text, &whole] {
            if let Some(path) = keys.path(key) {
                assert_eq!(keys.key(&path).as_deref(), Ok(key));
            }
            let _ = catalog::number(&keys, key);
        }
    }
}

/// Takes the first line as a path and each other one as a rule: a file below a folder that is left out is left out too.
pub fn ignore(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut lines = text.split('\n');
    let path = lines.next().unwrap_or_default();
    let (include, exclude): (Vec<String>, Vec<String>) = lines
        .map(str::to_owned)
        .partition(|line| line.starts_with('+'));
    let include: Vec<String> = include.iter().map(|line| line[1..].to_owned()).collect();
    let filter = match Filter::new(&exclude, &include, true) {
        Ok(filter) => filter,
        Err(error) => return is_one_line(&error.to_string()),
    };
    let Some(path) = RelPath::new(path.as_bytes()).filter(|path| !path.is_root()) else {
        return;
    };
    for kind in [Kind::File, Kind::Folder] {
        if let Some(reason) = filter.excludes(&path, kind) {
            is_one_line(&reason.to_string());
        }
    }
    let _ = filter.takes_folder(&path);
}

/// Lets a store answer with the bytes: the first says to what, the second with which status, the rest is the body.
///
/// Whatever it says, there is an answer or an error, in one line of bounded length, and soon.
pub fn answers(data: &[u8]) {
    let [what, status, body @ ..] = data else {
        return;
    };
    let status = [
        200, 200, 200, 206, 301, 400, 403, 404, 409, 412, 416, 500, 503,
    ][usize::from(*status) % 13];
    // One for each thread: a test and a fuzzer ask thousands of times.
    thread_local!(static LINE: RefCell<Option<Line>> = const { RefCell::new(None) });
    LINE.with_borrow_mut(|line| line.get_or_insert_with(Line::new).ask(*what, status, body));
}

/// A client, and a server that says what it is told.
struct Line {
    runtime: tokio::runtime::Runtime,
    store: S3Store,
    answer: Arc<Mutex<Vec<u8>>>,
    _server: JoinSet<()>,
}

impl Line {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let bind = TcpListener::bind("127.0.0.1:0");
        let listener = runtime.block_on(bind).expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let long = Duration::from_secs(10);
        let settings = Settings {
            endpoint_url: Some(url),
            region: Some("us-east-1".to_owned()),
            path_style: Addressing::Path,
            credentials: Some(("id".to_owned(), "secret".to_owned())),
            patience: Patience {
                connect: long,
                piece: long,
                answer: long,
                long_answer: long,
                repeat: Duration::ZERO,
            },
            ..Settings::default()
        };
        let store = runtime.block_on(S3Store::new(&settings, "tide"));
        let answer = Arc::<Mutex<Vec<u8>>>::default();
        let said = answer.clone();
        let mut server = JoinSet::new();
        let serving = async move {
            loop {
                if let Ok((stream, _)) = listener.accept().await {
                    let answer = said.lock().expect("nobody panics with it").clone();
                    serve(stream, &answer).await;
                }
            }
        };
        server.spawn_on(serving, runtime.handle());
        Self {
            runtime,
            store: store.expect("a client"),
            answer,
            _server: server,
        }
    }

    fn ask(&self, what: u8, status: u16, body: &[u8]) {
        let head = format!(
            "HTTP/1.1 {status} X\r\netag: \"e\"\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        *self.answer.lock().expect("nobody panics with it") = [head.as_bytes(), body].concat();
        // A timeout is made inside the runtime.
        let said =
            async { tokio::time::timeout(Duration::from_secs(20), said(&self.store, what)).await };
        let said = self.runtime.block_on(said);
        let said = said.expect("an answer comes to an end");
        if let Err(error) = said {
            let text = error.to_string();
            is_one_line(&text);
            assert!(text.len() < 4096, "{} bytes: {text}", text.len());
        }
    }
}

/// Asks one thing; returns the error, if it is one.
async fn said(store: &S3Store, what: u8) -> tidewatch::store::Result<()> {
    let keys = ["a".to_owned(), "b".to_owned()];
    match what % 8 {
        0 => {
            let page = store.list("p/", None).await?;
            assert!(
                page.objects
                    .iter()
                    .all(|object| object.etag.len() < 1 << 16)
            );
        }
        1 => drop(store.list_parts("p/a", "id", 0).await?),
        2 => drop(store.list_uploads("p/", None).await?),
        3 => assert_eq!(store.delete_many(&keys).await?.len(), keys.len()),
        4 => drop(
            store
                .create_multipart("p/a", &tidewatch::store::Meta::default())
                .await?,
        ),
        5 => drop(
            store
                .complete_if("p/a", "id", &[], None, &When::Always)
                .await?,
        ),
        6 => drop(store.get("p/a", None).await?),
        _ => drop(
            store
                .copy("p/a", "e", "p/b", &tidewatch::store::Meta::default())
                .await?,
        ),
    }
    Ok(())
}

/// Reads a request, and says the answer.
async fn serve(mut stream: TcpStream, answer: &[u8]) {
    let mut seen = Vec::new();
    let end = loop {
        if let Some(at) = seen.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(&mut seen).await.unwrap_or(0) == 0 {
            return;
        }
    };
    let head = String::from_utf8_lossy(&seen[..end]).to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok())
        .unwrap_or(0);
    while seen.len() < end + length {
        if stream.read_buf(&mut seen).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let _ = stream.write_all(answer).await;
    let _ = stream.shutdown().await;
}
