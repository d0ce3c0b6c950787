//! What `tidewatch history` and `tidewatch drill` can be asked.

use std::path::PathBuf;

use clap::Args;

use crate::cli::args::{ConfigArg, S3Args, StateArg};

#[derive(Args, Debug)]
#[command(after_long_help = "Exit codes:\n  \
    0  the versions are printed\n  \
    2  there is no catalog, or it has never had that file\n  \
    3  the catalog is damaged: something is not known\n  \
    5  the bucket cannot be reached, or a right is missing")]
pub(in crate::cli) struct HistoryArgs {
    /// The file: where it is or was on this machine, or inside the folder
    pub path: PathBuf,

    /// A folder's name or path, or any `s3://BUCKET[/PREFIX]`
    #[arg(long, value_name = "FOLDER")]
    pub from: Option<String>,

    #[command(flatten)]
    pub config: ConfigArg,

    #[command(flatten)]
    pub state: StateArg,

    #[command(flatten)]
    pub s3: S3Args,

    /// Print one JSON object for each version
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
#[command(after_long_help = "Exit codes:\n  \
    0  all that was tried came back right\n  \
    2  wrong usage, or there is nothing in the bucket yet\n  \
    3  something did not come back, or came back wrong\n  \
    5  the bucket cannot be reached, or a right is missing")]
pub(in crate::cli) struct DrillArgs {
    /// A folder's name, its path, or its s3:// URL; all of them if not given
    pub folder: Option<String>,

    #[command(flatten)]
    pub config: ConfigArg,

    #[command(flatten)]
    pub state: StateArg,

    #[command(flatten)]
    pub s3: S3Args,

    /// Print one JSON object for each folder
    #[arg(long)]
    pub json: bool,
}
