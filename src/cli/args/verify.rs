//! What `tidewatch verify` is told.

use clap::Args;

use crate::cli::args::{ConfigArg, S3Args, StateArg};
use crate::commands::verify::sample::{self, Share};

#[derive(Args, Debug)]
#[command(group(clap::ArgGroup::new("contents").multiple(true)))]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the command line"
)]
pub(in crate::cli) struct VerifyArgs {
    /// A folder's name, its path, or its s3:// URL; all of them if not given
    pub folder: Option<String>,

    /// Read the files too: has their content changed, and nothing else of them?
    #[arg(long, group = "contents")]
    pub local: bool,

    /// Read the objects back, and compare their bytes
    #[arg(long, group = "contents")]
    pub deep: bool,

    /// Read only so many of them, chosen by chance
    #[arg(long, value_name = "P%", default_value = "100%", value_parser = sample::share, requires = "contents")]
    pub sample: Share,

    /// Send again what the bucket has lost, or what is not right there
    #[arg(long)]
    pub repair: bool,

    /// Print one JSON object for each difference, and a summary
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub config: ConfigArg,

    #[command(flatten)]
    pub state: StateArg,

    #[command(flatten)]
    pub s3: S3Args,
}
