//! What `tidewatch restore` can be asked.

use std::path::PathBuf;

use clap::Args;

use crate::base::clock::parse_moment;
use crate::cli::args::{ConfigArg, S3Args, StateArg};
use crate::commands::restore::OnConflict;
use crate::config::{self, Concurrency};

#[derive(Args, Debug)]
#[command(
    long_about = "Bring files back from the bucket.\n\n\
        From a folder that is known here by its name or path, or from any prefix by its URL, \
        which needs no config and no state. Each file is verified before it gets its name. \
        Run again, it goes on where it stopped: what is there already is compared and left.",
    after_long_help = "Examples:\n  \
        tidewatch restore s3://my-backups/photos --to /restore/photos\n  \
        tidewatch restore photos 2026/beach.jpg --to .\n  \
        tidewatch restore photos --to ~/Photos --on-conflict skip --dry-run\n\n\
        Exit codes:\n  \
        0  everything is there and verified\n  \
        1  some files failed, or others are in the way\n  \
        2  wrong usage, or there is nothing to restore\n  \
        3  something could not be verified, or its key is no path\n  \
        5  the bucket cannot be reached, or a right is missing"
)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the command line"
)]
pub(in crate::cli) struct RestoreArgs {
    /// A folder's name, its path, or any `s3://BUCKET[/PREFIX]`
    #[arg(value_name = "FOLDER")]
    pub from: Option<String>,

    /// Only these files and folders, as paths inside the folder
    #[arg(value_name = "PATH")]
    pub paths: Vec<PathBuf>,

    /// Where the files come to; made if it is not there
    #[arg(long, value_name = "DIR", required = true)]
    pub to: PathBuf,

    /// What happens where something else is there: fail, skip or overwrite
    #[arg(long, value_name = "WHAT", default_value = "fail", value_parser = on_conflict)]
    pub on_conflict: OnConflict,

    /// As it was then: "2026-11-20 10:00" by this machine's clocks, or RFC 3339
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub at: Option<i64>,

    /// Bring files back too that are gone from the disk, if their objects are kept
    #[arg(long, conflicts_with = "at")]
    pub deleted: bool,

    /// Give files their owners back, and the bits that act in their name; as root
    #[arg(long)]
    pub owner: bool,

    /// Write nothing; print what would be done
    #[arg(long, visible_alias = "dryrun")]
    pub dry_run: bool,

    /// Print one JSON object for each file, and a summary
    #[arg(long)]
    pub json: bool,

    /// Requests at once: auto (256), or 1 to 512
    #[arg(long, value_name = "N", default_value = "auto", value_parser = config::concurrency)]
    pub concurrency: Concurrency,

    #[command(flatten)]
    pub config: ConfigArg,

    #[command(flatten)]
    pub state: StateArg,

    #[command(flatten)]
    pub s3: S3Args,
}

pub(in crate::cli) fn moment(text: &str) -> Result<i64, String> {
    let why = "expected a time such as \"2026-11-20 10:00\" or 2026-11-20T10:00:00Z";
    parse_moment(text).ok_or_else(|| why.to_owned())
}

fn on_conflict(text: &str) -> Result<OnConflict, String> {
    match text {
        "fail" => Ok(OnConflict::Fail),
        "skip" => Ok(OnConflict::Skip),
        "overwrite" => Ok(OnConflict::Overwrite),
        _ => Err("expected fail, skip or overwrite".to_owned()),
    }
}
