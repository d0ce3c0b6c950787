//! What can be asked for of the agent that runs: how it is, what becomes of a file, to stop for a while, to look now.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use crate::cli::args::{ConfigArg, StateArg};

#[derive(Args, Debug)]
#[command(
    long_about = "Show how far each folder is: level, or how old the oldest change is that is not \
        in the bucket; then the queue, what goes up, what failed, what is held back, how the \
        folder is watched, and when it was last looked at as a whole, and proven.\n\n\
        Asks the running agent; where none runs it shows what is known, and since when nobody \
        is at work.",
    after_long_help = "Examples:\n  \
        tidewatch status\n  \
        tidewatch status photos --json\n  \
        tidewatch status --follow\n  \
        tidewatch status s3://my-backups/photos"
)]
pub(in crate::cli) struct StatusArgs {
    /// A folder's name, its path, or its s3:// URL; all of them if not given
    pub folder: Option<String>,

    #[command(flatten)]
    pub config: ConfigArg,

    #[command(flatten)]
    pub state: StateArg,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,

    /// Go on showing it until Ctrl-C: in place on a terminal, else at each change
    #[arg(long, short = 'f')]
    pub follow: bool,
}

#[derive(Args, Debug)]
#[command(
    long_about = "Say whether a file is safe, and if not, why.\n\n\
        Safe means that the bucket holds the file as it is on the disk now. Compares the \
        disk, the rules and what is known of the file, and asks no bucket; a running agent \
        says besides where the file is on its way. Exits with 0 if the file is safe and with \
        3 if it is not.",
    after_long_help = "Examples:\n  \
        tidewatch explain ~/Photos/2026/beach.jpg\n  \
        tidewatch explain draft.odt --json"
)]
pub(in crate::cli) struct ExplainArgs {
    /// The file
    pub path: PathBuf,

    #[command(flatten)]
    pub config: ConfigArg,

    #[command(flatten)]
    pub state: StateArg,

    /// Print one JSON object for each folder that holds the file
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct Known {
    /// A folder's name, its path, or its s3:// URL; all of them if not given
    pub folder: Option<String>,

    #[command(flatten)]
    pub config: ConfigArg,

    #[command(flatten)]
    pub state: StateArg,
}

#[derive(Args, Debug)]
#[command(
    long_about = "Let the running agent start nothing new.\n\n\
        What is on its way ends; changes are still noticed, and wait. It lasts until \
        `tidewatch resume`, also when the agent is started anew. Where none runs, the next one \
        starts paused. `tidewatch sync` is not held back by it.",
    after_long_help = "Examples:\n  \
        tidewatch pause\n  \
        tidewatch pause photos"
)]
pub(in crate::cli) struct PauseArgs {
    #[command(flatten)]
    pub of: Known,
}

#[derive(Args, Debug)]
#[command(
    long_about = "Let a folder go on that was paused with `tidewatch pause`.",
    after_long_help = "Examples:\n  \
        tidewatch resume\n  \
        tidewatch resume photos"
)]
pub(in crate::cli) struct ResumeArgs {
    #[command(flatten)]
    pub of: Known,
}

#[derive(Args, Debug)]
#[command(
    long_about = "Let the running agent look now, and wait for nothing.\n\n\
        What settles, and what waits because it failed, is tried at once, and everything is \
        looked at; with PATH only that file or folder, whatever is known of it.",
    after_long_help = "Examples:\n  \
        tidewatch sync-now\n  \
        tidewatch sync-now photos\n  \
        tidewatch sync-now ~/Photos/2026/beach.jpg\n  \
        tidewatch sync-now photos 2026/beach.jpg"
)]
pub(in crate::cli) struct SyncNowArgs {
    /// A folder's name, its path, or its s3:// URL, or a path in it; all folders if not given
    pub folder: Option<OsString>,

    /// A file or folder in FOLDER
    pub path: Option<PathBuf>,

    #[command(flatten)]
    pub config: ConfigArg,

    #[command(flatten)]
    pub state: StateArg,
}
