//! The signals that ask a command to end.

use tokio::signal::unix::{Signal, SignalKind, signal};

use anyhow::Context as _;

use crate::commands::Exit;

/// Listens to SIGINT and SIGTERM, which from then on no longer kill the process.
#[derive(Debug)]
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

/// Which signal came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asked {
    /// SIGINT: Ctrl-C.
    Interrupt,
    /// SIGTERM: the service manager.
    Terminate,
}

/// Makes a write beyond the largest file that this process may write an error like any other, for the rest of the process:
/// the signal that comes with it (SIGXFSZ, setrlimit(2)) would end it. Within a runtime.
pub fn outlive_size_limit() {
    let kind = SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw());
    // Its handler stays when nobody listens any more. Without it the signal ends us, as ever.
    if let Err(error) = signal(kind) {
        tracing::debug!(%error, "could not listen to SIGXFSZ");
    }
}

impl Signals {
    /// Begins to listen.
    pub fn listen() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("listen to signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    /// Waits for the next one. Cancel-safe.
    pub async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.interrupt.recv() => Asked::Interrupt,
            _ = self.terminate.recv() => Asked::Terminate,
        }
    }
}

impl Asked {
    /// Returns how a command ends that was stopped by it before it was done.
    pub fn exit(self) -> Exit {
        match self {
            Self::Interrupt => Exit::Interrupted,
            Self::Terminate => Exit::Terminated,
        }
    }

    /// Returns its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
        }
    }
}
