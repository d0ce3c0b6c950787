//! What can be asked of `tidewatch service`.

use clap::{Args, Subcommand};

use crate::cli::args::ConfigArg;

#[derive(Args, Debug)]
#[command(
    long_about = "Write, show or remove the systemd unit for this config.\n\n\
        The unit runs this program with the config, shut in as far as it can be; a drop-in has it \
        wait for the disks of the folders. For the machine it goes to /etc/systemd/system, with \
        --user to $XDG_CONFIG_HOME/systemd/user. Nothing is started or stopped, and no file \
        that another hand has written is touched. After a change of the folders, run it again.",
    after_long_help = "Examples:\n  \
        tidewatch service show --user\n  \
        sudo tidewatch service install --config /etc/tidewatch/config.toml\n  \
        sudo tidewatch service uninstall"
)]
pub(in crate::cli) struct ServiceArgs {
    #[command(subcommand)]
    pub what: ServiceVerb,
}

#[derive(Subcommand, Debug)]
pub(in crate::cli) enum ServiceVerb {
    /// Write the unit and its drop-in
    Install {
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        whose: UserArg,
    },
    /// Remove what `install` wrote, and nothing else
    Uninstall {
        #[command(flatten)]
        whose: UserArg,
    },
    /// Print what `install` would write
    Show {
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        whose: UserArg,
    },
}

#[derive(Args, Clone, Copy, Debug)]
pub(in crate::cli) struct UserArg {
    /// A service of this user alone, not of the machine
    #[arg(long)]
    pub user: bool,
}
