//! What `tidewatch selftest` can be asked.

use clap::Args;

use crate::cli::args::{S3Args, URL};

#[derive(Args, Debug)]
#[command(
    long_about = "Prove the promises against a bucket of yours.\n\n\
        Makes a prefix of its own below the given one, and a folder with odd names and sizes. \
        Syncs it, kills runs, breaks the line, removes files, restores; reads every object \
        after each step and holds it against the disk. Then removes all it has put there. \
        Touches nothing else. Sends some 150 MiB with the default of 5 kills; S3 bills a cent \
        or two for that, and as much again if it is read over the internet.",
    after_long_help = "Examples:\n  \
        tidewatch selftest s3://my-backups/scratch\n  \
        tidewatch selftest s3://scratch --endpoint-url http://127.0.0.1:9000 --kills 20\n\n\
        Exit codes:\n  \
        0  everything is proven, and nothing is left in the bucket\n  \
        1  something is not, and is named\n  \
        2  wrong usage\n  \
        5  the bucket cannot be reached, or a right is missing"
)]
pub(in crate::cli) struct SelftestArgs {
    /// Below which prefix it makes one of its own
    #[arg(value_name = URL)]
    pub url: String,

    /// How often a run is killed
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub kills: u32,

    /// Repeat the changes, kills and faults of a run that printed this
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,

    /// Leave in the bucket what it has put there
    #[arg(long)]
    pub keep: bool,

    #[command(flatten)]
    pub s3: S3Args,

    /// Print one JSON object for each proof, and a summary
    #[arg(long)]
    pub json: bool,
}
