//! The connections of the page. Each brings one request; a slow client holds a place for a bounded time, and nothing else.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::commands::page::Page;
use crate::commands::page::routes;

/// Connections at once; further ones wait in the kernel.
const CONNECTIONS: usize = 64;
/// How long the head of a request may take.
const HEAD: Duration = Duration::from_secs(5);
/// The longest head, bytes.
const HEAD_MOST: usize = 16 << 10;
/// How long a line may take nothing of what it is sent before it is cut.
const STUCK: Duration = Duration::from_secs(60);

/// Answers until it is dropped.
pub async fn serve(listener: TcpListener, page: Arc<Page>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(ended) = connections.join_next() => {
                // Whatever breaks here must not keep files from being synced.
                if let Err(error) = ended && error.is_panic() {
                    tracing::error!("answering a request of the page broke off: {error}");
                }
            }
            accepted = listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                Ok((stream, _)) => drop(connections.spawn(attend(stream, page.clone()))),
                // Out of handles, perhaps: it passes.
                Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
            },
        }
    }
}

async fn attend(stream: TcpStream, page: Arc<Page>) {
    let beats = Arc::new(AtomicU64::new(0));
    let service = service_fn(|request| {
        let (page, beats) = (page.clone(), beats.clone());
        async move { Ok::<_, Infallible>(routes::answer(page, request, beats).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(4 * HEAD_MOST)
        .max_header_size(HEAD_MOST)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let mut before = 0;
    loop {
        tokio::select! {
            // Somebody who hangs up, or sends nonsense, has no answer coming.
            _ = &mut connection => return,
            () = tokio::time::sleep(STUCK) => {
                let now = beats.load(Ordering::Relaxed);
                if now == before {
                    return;
                }
                before = now;
            }
        }
    }
}
