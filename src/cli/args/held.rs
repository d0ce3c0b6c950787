//! What `tidewatch held` can be asked.

use clap::{Args, Subcommand};

use crate::cli::args::{ConfigArg, StateArg};

#[derive(Args, Debug)]
pub(in crate::cli) struct HeldArgs {
    #[command(subcommand)]
    pub what: HeldVerb,
}

#[derive(Subcommand, Debug)]
pub(in crate::cli) enum HeldVerb {
    /// Show what is held
    List {
        #[command(flatten)]
        of: HeldOf,
        /// Print one JSON object for each path
        #[arg(long)]
        json: bool,
    },
    /// Do what is held after all
    Release(HeldOf),
    /// Forget what is held; the objects stay as they are
    Drop(HeldOf),
}

#[derive(Args, Debug)]
pub(in crate::cli) struct HeldOf {
    /// A folder's name, its path, or its s3:// URL; all of them if not given
    pub folder: Option<String>,
    #[command(flatten)]
    pub config: ConfigArg,
    #[command(flatten)]
    pub state: StateArg,
}
