//! The one way to do something that blocks: read, hash, SQLite.

/// Where blocking work runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offload {
    /// On tokio's blocking pool, which also holds tokio's paused clock still: production.
    Pool,
    /// On the caller's thread, in the order it is asked for: the simulator, which is deterministic by it.
    Inline,
}

impl Offload {
    /// Runs `work` and returns what it returns. A panic in `work` goes on in the caller.
    ///
    /// Work that has begun is finished even if the caller goes away.
    pub async fn run<R: Send + 'static>(self, work: impl FnOnce() -> R + Send + 'static) -> R {
        match self {
            Self::Inline => work(),
            Self::Pool => match tokio::task::spawn_blocking(work).await {
                Ok(result) => result,
                Err(gone) => match gone.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    // The runtime is being torn down; nobody will look at this future again.
                    Err(_) => std::future::pending().await,
                },
            },
        }
    }
}
