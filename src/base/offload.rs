//! The one way to do something that blocks: read, hash, SQLite; and how to take what tasks have come to.

use tokio::task::JoinError;

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
            Self::Pool => match joined(tokio::task::spawn_blocking(work).await) {
                Some(result) => result,
                // The runtime is being torn down; nobody will look at this future again.
                None => std::future::pending().await,
            },
        }
    }
}

/// Takes what a task has returned; `None` if it was dropped. Its panic is ours.
pub fn joined<T>(ended: Result<T, JoinError>) -> Option<T> {
    match ended {
        Ok(value) => Some(value),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => None,
        },
    }
}
