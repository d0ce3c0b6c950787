//! `tidewatch folder`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::cli::args::{ConfigArg, StateArg};
use crate::commands::folder::{FolderCommand, Moved};

#[derive(Args, Debug)]
pub(in crate::cli) struct FolderArgs {
    #[command(subcommand)]
    pub what: FolderVerb,
}

#[derive(Subcommand, Debug)]
pub(in crate::cli) enum FolderVerb {
    /// List the folders that are known here
    List(Where),
    /// Change what is on record of a folder: it has moved, or its bucket has
    #[command(
        long_about = "Change what is on record of a folder: it has moved, or its bucket has.\n\n\
            What has been synced stays on record, so that nothing is sent again that is there. \
            No agent may be running; change the config too.",
        after_long_help = "Examples:\n  \
            tidewatch folder set photos --accept-root\n  \
            tidewatch folder set photos --path /mnt/new/photos\n  \
            tidewatch folder set photos --to s3://other-bucket/photos"
    )]
    Set {
        /// A folder's name, its path, or its s3:// URL
        folder: String,
        /// Take what is at the folder's path now for the right folder
        #[arg(long)]
        accept_root: bool,
        /// The folder is here now
        #[arg(long, value_name = "DIR")]
        path: Option<PathBuf>,
        /// Its objects are there now
        #[arg(long, value_name = "s3://BUCKET[/PREFIX]")]
        to: Option<String>,
        /// The server they are on now; "" is AWS
        #[arg(long, value_name = "URL")]
        endpoint_url: Option<String>,
        #[command(flatten)]
        place: Where,
    },
    /// Forget a folder, whose objects stay in the bucket
    #[command(after_long_help = "Example:\n  tidewatch folder forget photos")]
    Forget {
        /// A folder's name, its path, or its s3:// URL
        folder: String,
        #[command(flatten)]
        place: Where,
    },
}

#[derive(Args, Debug)]
pub(in crate::cli) struct Where {
    #[command(flatten)]
    pub config: ConfigArg,
    #[command(flatten)]
    pub state: StateArg,
}

impl FolderVerb {
    /// Returns what is to be done, and where to look.
    pub fn parts(self) -> (FolderCommand, Where) {
        match self {
            Self::List(place) => (FolderCommand::List, place),
            Self::Forget { folder, place } => (FolderCommand::Forget { folder }, place),
            Self::Set {
                folder,
                accept_root,
                path,
                to,
                endpoint_url,
                place,
            } => {
                let moved = Moved {
                    path,
                    to,
                    endpoint_url,
                };
                let what = FolderCommand::Set {
                    folder,
                    accept_root,
                    moved,
                };
                (what, place)
            }
        }
    }
}
