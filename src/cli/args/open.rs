//! What `open` can be asked.

use clap::Args;

use crate::cli::args::{ConfigArg, StateArg};

/// See `Command::Open`.
#[derive(Args, Debug)]
#[command(
    long_about = "Open the page of the agent that runs, in a browser.\n\n\
        The browser of $BROWSER, else the desktop's; where there is none, the address is printed. \
        It holds the token, which shows names and lets you decide: keep it to yourself.",
    after_long_help = "Examples:\n  \
        tidewatch open\n  \
        tidewatch open --print"
)]
pub(in crate::cli) struct OpenArgs {
    /// Print the address, and start no browser
    #[arg(long)]
    pub print: bool,

    #[command(flatten)]
    pub config: ConfigArg,

    #[command(flatten)]
    pub state: StateArg,
}
