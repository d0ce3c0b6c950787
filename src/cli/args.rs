//! What can be asked for on the command line, as clap reads it.

pub(in crate::cli) mod check;
pub(in crate::cli) mod folder;
pub(in crate::cli) mod held;
pub(in crate::cli) mod history;
pub(in crate::cli) mod live;
pub(in crate::cli) mod loud;
pub(in crate::cli) mod open;
pub(in crate::cli) mod restore;
pub(in crate::cli) mod selftest;
pub(in crate::cli) mod service;
pub(in crate::cli) mod verify;

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::base::policy::OnDelete;
use crate::cli::args::check::{CheckArgs, FleetArgs, PolicyArgs};
use crate::cli::args::folder::FolderArgs;
use crate::cli::args::held::HeldArgs;
use crate::cli::args::history::{DrillArgs, HistoryArgs};
use crate::cli::args::live::{ExplainArgs, PauseArgs, ResumeArgs, StatusArgs, SyncNowArgs};
use crate::cli::args::loud::Loud;
use crate::cli::args::open::OpenArgs;
use crate::cli::args::restore::RestoreArgs;
use crate::cli::args::selftest::SelftestArgs;
use crate::cli::args::service::ServiceArgs;
use crate::cli::args::verify::VerifyArgs;
use crate::config::{self, Bandwidth, Concurrency, Options, PathStyle, S3Options};

/// Watches folders and keeps an S3 bucket level with them
#[derive(Parser, Debug)]
#[command(
    name = "tidewatch",
    version,
    max_term_width = 80,
    subcommand_required = true,
    arg_required_else_help = true,
    long_about = "Watches folders and keeps an S3 bucket level with them.\n\n\
        Every file becomes a plain object, PREFIX/relative/path, that any S3 tool can read. \
        Credentials come from the standard AWS places: the environment, ~/.aws, roles, SSO.",
    after_long_help = "Examples:\n  \
        tidewatch sync ~/Photos s3://my-backups/photos    once\n  \
        tidewatch watch ~/Photos s3://my-backups/photos   until Ctrl-C\n  \
        tidewatch init config.toml                        then edit it, and\n  \
        tidewatch run --config config.toml\n\n\
        Exit codes:\n  \
        0  done, level            3  done, but a file could not be synced as it is\n  \
        1  some files failed      5  S3 cannot be reached, or a right is missing\n  \
        2  wrong usage or config  6  another agent holds the state or the prefix\n  \
        4  a brake holds deletes or overwrites: see `tidewatch held list`"
)]
pub(in crate::cli) struct Cli {
    #[command(flatten)]
    pub loud: Loud,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand, Debug)]
pub(in crate::cli) enum Command {
    /// Watch every folder of the config until stopped (the service)
    #[command(after_long_help = "Examples:\n  \
        tidewatch run\n  \
        tidewatch run --config /etc/tidewatch/config.toml -v")]
    Run(RunArgs),

    /// Watch one folder, without a config, until Ctrl-C
    #[command(after_long_help = "Examples:\n  \
        tidewatch watch ~/Photos s3://my-backups/photos\n  \
        tidewatch watch . s3://scratch --endpoint-url http://127.0.0.1:9000\n  \
        tidewatch watch ~/src s3://my-backups/src --exclude target/ --settle 5s")]
    Watch(WatchArgs),

    /// Bring the bucket level once, then exit
    #[command(
        long_about = "Bring the bucket level once, then exit.\n\n\
            With DIR and s3://BUCKET[/PREFIX] this one folder, without a config; without them \
            every folder of the config.",
        after_long_help = "Examples:\n  \
            tidewatch sync ~/Photos s3://my-backups/photos\n  \
            tidewatch sync ~/Photos s3://my-backups/photos --dry-run\n  \
            tidewatch sync --config config.toml --json"
    )]
    Sync(SyncArgs),

    /// Bring files back from the bucket
    Restore(RestoreArgs),
    /// Take over a prefix that another tool wrote, and send only what differs
    #[command(
        long_about = "Take over a prefix that another tool wrote, and send only what differs.\n\n\
            Says first what that comes to, and then does it, as `sync` does. A file whose object \
            is proven to have the same content (by a SHA-256, an MD5 or a checksum of the whole, \
            or the ETag of its parts) is not sent again. An object that differs is set aside \
            into trash before the file is sent; what no file has stays. With --dry-run it only \
            says so, and writes nothing. Works on what rclone, the AWS CLI, s5cmd and mc leave.",
        after_long_help = "Examples:\n  \
            tidewatch adopt ~/Photos s3://my-backups/photos --dry-run\n  \
            tidewatch adopt ~/Photos s3://my-backups/photos\n  \
            tidewatch adopt --config config.toml"
    )]
    Adopt(SyncArgs),

    /// Show how far each folder is: lag, queue, failures
    Status(StatusArgs),
    /// Open the page of the agent that runs, in a browser
    Open(OpenArgs),

    /// Say whether a file is safe, and if not, why (0 safe, 3 not)
    Explain(ExplainArgs),
    /// Let the running agent start nothing new
    Pause(PauseArgs),
    /// Let it go on
    Resume(ResumeArgs),
    /// Let the running agent look now, and wait for nothing
    SyncNow(SyncNowArgs),
    /// Show the versions that a file has had
    History(HistoryArgs),
    /// Restore a sample to a scratch place, and compare it
    Drill(DrillArgs),

    /// Show what a brake holds; let it go, or forget it
    #[command(
        long_about = "Show what a brake holds; let it go, or forget it.\n\n\
            More deletes than `delete_brake` allows, or more overwrites than `overwrite_brake` \
            allows, wait for a person. What is released is done after all; what is dropped is \
            forgotten, and its objects stay as they are.",
        after_long_help = "Examples:\n  \
            tidewatch held list\n  \
            tidewatch held release photos\n  \
            tidewatch held drop s3://my-backups/photos"
    )]
    Held(HeldArgs),

    /// List the folders that are known here, move one, or forget it
    #[command(after_long_help = "Examples:\n  \
        tidewatch folder list\n  \
        tidewatch folder set photos --accept-root")]
    Folder(FolderArgs),

    /// Is it all there? Compare what is known with what the bucket has
    #[command(after_long_help = "Examples:\n  \
        tidewatch verify\n  \
        tidewatch verify photos --local --deep --sample 1%\n  \
        tidewatch verify photos --repair")]
    Verify(VerifyArgs),

    /// Check config, rights, endpoint and kernel limits, and say what to fix
    #[command(
        long_about = "Check config, rights, endpoint and kernel limits, and say what to fix.\n\n\
            Whether the bucket may be written, read and copied in can only be known by doing it: \
            two small objects, PREFIX/.tidewatch/check-…, are made and removed again. Nothing \
            else is changed, here or there.",
        after_long_help = "Examples:\n  \
            tidewatch check --config config.toml\n\n\
            Exit codes:\n  \
            0  nothing stands in the way; a `warn` is worth a look\n  \
            2  something on this machine does, or in the config\n  \
            5  something with a bucket does"
    )]
    Check(CheckArgs),

    /// Print the least-privilege IAM policy and lifecycle rule for this config
    Policy(PolicyArgs),
    /// Show how far every host is, from what each says in the bucket
    Fleet(FleetArgs),

    /// Write a commented config to start from
    #[command(after_long_help = "Examples:\n  \
        tidewatch init\n  \
        sudo tidewatch init /etc/tidewatch/config.toml\n  \
        tidewatch init --from \"mc mirror --watch ~/Photos minio/my-backups/photos\"")]
    Init(InitArgs),

    /// Write, show or remove the systemd unit for this config
    Service(ServiceArgs),

    /// Try it: a folder and an S3 endpoint inside the program
    #[cfg(feature = "demo")]
    #[command(
        long_about = "Try it: a folder and an S3 endpoint inside the program.\n\n\
            Needs no account, no server and no config. Drop files into DIR/folder and find \
            them in DIR/bucket.",
        after_long_help = "Examples:\n  \
            tidewatch demo\n  \
            tidewatch demo /tmp/try --for 30s"
    )]
    Demo(DemoArgs),

    /// Prove the promises against a bucket of yours
    Selftest(SelftestArgs),

    /// Write the completions for a shell to standard output
    #[command(after_long_help = "Examples:\n  \
        tidewatch completions bash > ~/.local/share/bash-completion/completions/tidewatch\n  \
        tidewatch completions fish > ~/.config/fish/completions/tidewatch.fish")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },

    /// Write the manual page to standard output
    #[command(after_long_help = "Examples:\n  \
        tidewatch man > tidewatch.1 && man ./tidewatch.1")]
    Man,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct RunArgs {
    #[command(flatten)]
    pub config: ConfigArg,
    #[command(flatten)]
    pub options: OptionArgs,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct WatchArgs {
    /// The folder to watch
    pub dir: PathBuf,

    /// Where it goes
    #[arg(value_name = URL)]
    pub url: String,

    #[command(flatten)]
    pub options: OptionArgs,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct SyncArgs {
    /// The folder to sync
    #[arg(requires = "url", conflicts_with = "config")]
    pub dir: Option<PathBuf>,

    /// Where it goes
    #[arg(value_name = URL)]
    pub url: Option<String>,

    #[command(flatten)]
    pub config: ConfigArg,

    /// Give up after this long without any success
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = config::duration)]
    pub timeout: Duration,

    /// Write nothing anywhere; print what would be done
    #[arg(long, visible_alias = "dryrun")]
    pub dry_run: bool,

    /// Try files at once that failed for good; the agent that runs does it, if one does
    #[arg(long, conflicts_with = "dry_run")]
    pub retry_failed: bool,

    /// Print one JSON object for each file, and a summary
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub options: OptionArgs,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct InitArgs {
    /// The file to write; it must not be there yet
    #[arg(default_value = "config.toml")]
    pub file: PathBuf,

    /// Do what this line of rclone, aws, s5cmd or mc does
    #[arg(long, value_name = "LINE")]
    pub from: Option<String>,
}

#[cfg(feature = "demo")]
#[derive(Args, Debug)]
pub(in crate::cli) struct DemoArgs {
    /// Where the folder and the bucket are made
    #[arg(default_value = "./tidewatch-demo")]
    pub dir: PathBuf,

    /// End after this long, with 0 if the bucket is level and 1 if not
    #[arg(long = "for", value_name = "DURATION", value_parser = config::duration)]
    pub duration: Option<Duration>,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct ConfigArg {
    /// The config to read
    #[arg(
        long,
        value_name = "FILE",
        long_help = "The config to read. Otherwise $TIDEWATCH_CONFIG, \
            $XDG_CONFIG_HOME/tidewatch/config.toml, /etc/tidewatch/config.toml."
    )]
    pub config: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct StateArg {
    /// Where the list of what has been synced is kept
    #[arg(long, value_name = "DIR", value_parser = clap::builder::TypedValueParser::try_map(clap::builder::OsStringValueParser::new(), absolute))]
    pub state_dir: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct S3Args {
    /// The address of an S3-compatible server
    #[arg(long, value_name = "URL", value_parser = config::endpoint_url, help_heading = S3)]
    pub endpoint_url: Option<String>,

    /// The region
    #[arg(long, value_parser = config::region, help_heading = S3)]
    pub region: Option<String>,

    /// A profile of the shared AWS files
    #[arg(long, help_heading = S3)]
    pub profile: Option<String>,

    /// Name the bucket in the path: auto, always or never
    #[arg(long, value_name = "WHEN", value_parser = config::path_style, help_heading = S3)]
    pub path_style: Option<PathStyle>,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct OptionArgs {
    #[command(flatten)]
    pub state: StateArg,

    /// Leave out what this gitignore rule names (repeatable)
    #[arg(long, value_name = "RULE", value_parser = config::rule)]
    pub exclude: Vec<String>,

    /// Take in again what this gitignore rule names (repeatable)
    #[arg(long, value_name = "RULE", value_parser = config::include_rule)]
    pub include: Vec<String>,

    /// The object of a file that is gone: keep, trash or delete
    #[arg(long, value_name = "WHAT", value_parser = config::on_delete)]
    pub on_delete: Option<OnDelete>,

    /// Requests at once: auto, or 1 to 512
    #[arg(long, value_name = "N", value_parser = config::concurrency)]
    pub concurrency: Option<Concurrency>,

    /// How fast to send: unlimited, 10MiB/s, 10Mbit/s, or a timetable
    #[arg(
        long,
        value_name = "LIMIT",
        value_parser = config::bandwidth,
        long_help = "How fast to send, all folders together: unlimited, 10MiB/s, 10Mbit/s, or a \
            timetable such as \"Mon-Fri 08:00-18:00 2MiB/s, else unlimited\""
    )]
    pub bandwidth: Option<Bandwidth>,

    /// How long a file must be quiet before it is read
    #[arg(long, value_name = "DURATION", value_parser = config::duration)]
    pub settle: Option<Duration>,

    /// The storage class of what is uploaded
    #[arg(long, value_name = "CLASS", value_parser = storage_class)]
    pub storage_class: Option<StorageClass>,

    /// Take the prefix from another agent that owns it
    #[arg(long)]
    pub take_over: bool,

    #[command(flatten)]
    pub s3: S3Args,
}

/// A storage class; `None` is STANDARD.
#[derive(Clone, Debug)]
pub(in crate::cli) struct StorageClass(Option<String>);

fn storage_class(text: &str) -> Result<StorageClass, String> {
    config::storage_class(text).map(StorageClass)
}

const URL: &str = "s3://BUCKET[/PREFIX]";
const S3: &str = "How the bucket is reached";

impl From<S3Args> for S3Options {
    fn from(args: S3Args) -> Self {
        Self {
            region: args.region,
            endpoint_url: args.endpoint_url,
            profile: args.profile,
            path_style: args.path_style,
            ..Self::default()
        }
    }
}

impl From<OptionArgs> for Options {
    fn from(args: OptionArgs) -> Self {
        Self {
            state_dir: args.state.state_dir,
            s3: args.s3.into(),
            exclude: args.exclude,
            include: args.include,
            on_delete: args.on_delete,
            concurrency: args.concurrency,
            bandwidth: args.bandwidth,
            settle: args.settle,
            storage_class: args.storage_class.map(|StorageClass(class)| class),
            take_over: args.take_over,
        }
    }
}

/// Takes a path of the command line, relative to the working directory.
fn absolute(path: OsString) -> io::Result<PathBuf> {
    std::path::absolute(path)
}
