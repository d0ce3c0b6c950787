//! An HTTP server of a few lines that answers what it is told, or does not: what goes over the wire, byte by byte.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// What the server does with one request.
#[derive(Clone, Debug)]
pub enum Reply {
    /// Status, headers (each line with its `\r\n`) and body, of which the length is sent.
    Answer(u16, &'static str, &'static str),
    /// Reads the request and says nothing.
    Silence,
    /// Reads the head of the request only, and says nothing.
    StopReading,
    /// Reads the request and closes the connection.
    Close,
    /// Reads the head of the request only, and closes the connection.
    CloseEarly,
    /// Announces a hundred bytes more than it sends, and closes.
    Cut(&'static str),
    /// A part of an object, with headers (each line with its `\r\n`): announces so many bytes more than it sends, and closes if
    /// there are any.
    Part(&'static str, &'static str, usize),
    /// What this makes of the request.
    By(fn(&Seen) -> Reply),
}

/// A request as it came over the wire.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Request line and headers, in lower case but for the first line.
    pub head: String,
    /// The body as it came.
    pub body: Vec<u8>,
    /// On which connection it came, from 0.
    pub connection: usize,
}

impl Seen {
    /// Returns a header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().skip(1);
        lines
            .filter_map(|line| line.split_once(": "))
            .find_map(|(key, value)| (key.eq_ignore_ascii_case(name)).then_some(value))
    }
}

/// The server; it ends when it is dropped.
pub struct RawServer {
    url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    _tasks: JoinSet<()>,
}

impl RawServer {
    /// Starts a server that gives these replies, in this order; the last one for ever.
    pub async fn start(replies: impl IntoIterator<Item = Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let replies = Arc::new(Mutex::new(replies.into_iter().collect::<VecDeque<_>>()));
        let mut tasks = JoinSet::new();
        let seen_too = Arc::clone(&seen);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            for number in 0.. {
                let Ok((stream, _)) = listener.accept().await else {
                    return;
                };
                let (replies, seen) = (Arc::clone(&replies), Arc::clone(&seen_too));
                connections.spawn(serve(stream, number, replies, seen));
            }
        });
        Self {
            url,
            seen,
            _tasks: tasks,
        }
    }

    /// Returns its host and port.
    pub fn address(&self) -> &str {
        self.url.trim_start_matches("http://")
    }

    /// Returns where it listens.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns the requests that came so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

async fn serve(
    mut stream: TcpStream,
    number: usize,
    replies: Arc<Mutex<VecDeque<Reply>>>,
    seen: Arc<Mutex<Vec<Seen>>>,
) {
    let mut buffer = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            if stream.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                return;
            }
        };
        let mut request = Seen {
            head: String::from_utf8_lossy(&buffer[..end]).into_owned(),
            body: Vec::new(),
            connection: number,
        };
        let reply = {
            let mut replies = replies.lock().unwrap_or_else(PoisonError::into_inner);
            match replies.len() {
                0 => Reply::Close,
                1 => replies[0].clone(),
                _ => replies.pop_front().unwrap_or(Reply::Close),
            }
        };
        if let Reply::StopReading | Reply::CloseEarly = reply {
            seen.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(request);
            if let Reply::CloseEarly = reply {
                return;
            }
            return std::future::pending().await;
        }
        let len = request
            .header("content-length")
            .map_or(0, |len| len.parse().unwrap_or(0));
        while buffer.len() < end + len {
            if stream.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                return;
            }
        }
        request.body = buffer[end..end + len].to_vec();
        let reply = match reply {
            Reply::By(judge) => judge(&request),
            reply => reply,
        };
        let is_head = request.head.starts_with("HEAD");
        buffer.drain(..end + len);
        seen.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(request);
        let text = match reply {
            Reply::Answer(status, headers, body) => {
                let shown = if is_head { "" } else { body };
                format!(
                    "HTTP/1.1 {status} X\r\n{headers}content-length: {}\r\n\r\n{shown}",
                    body.len()
                )
            }
            Reply::Cut(body) => {
                let text = format!(
                    "HTTP/1.1 200 OK\r\netag: \"e\"\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len() + 100
                );
                let _ = stream.write_all(text.as_bytes()).await;
                return;
            }
            Reply::Part(headers, body, missing) => {
                let text = format!(
                    "HTTP/1.1 206 X\r\n{headers}content-length: {}\r\n\r\n{body}",
                    body.len() + missing
                );
                if missing > 0 {
                    let _ = stream.write_all(text.as_bytes()).await;
                    return;
                }
                text
            }
            Reply::Silence => return std::future::pending().await,
            Reply::StopReading | Reply::Close | Reply::CloseEarly | Reply::By(_) => return,
        };
        if stream.write_all(text.as_bytes()).await.is_err() {
            return;
        }
    }
}
