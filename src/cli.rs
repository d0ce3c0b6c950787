//! The command line: what can be asked for, and one arm a command.
//!
//! Usage errors are clap's (exit 2). What a command returns becomes the exit code; an error becomes one line on standard
//! error, "tidewatch: could not …" with its causes. Nothing here decides anything about files.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, CommandFactory as _, Parser, Subcommand};

use crate::commands::check::{self, CheckOptions};
#[cfg(feature = "demo")]
use crate::commands::demo::{self, DemoOptions};
use crate::commands::init::{self, InitOptions};
use crate::commands::status::{self, StatusOptions, states};
use crate::commands::sync::{self, SyncOptions};
use crate::commands::watch::{self, WatchOptions};
use crate::commands::{Exit, pages};
use crate::config::{
    self, Concurrency, Config, Options, PathStyle, Problem, Problems, S3Options, Surroundings,
};
use crate::report::log::{self, Loudness};
use crate::report::out::{Out, note};

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
        2  wrong usage or config  6  another agent holds the state or the prefix"
)]
struct Cli {
    #[command(flatten)]
    loud: Loud,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
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

    /// Show how far each folder is: lag, queue, failures
    #[command(after_long_help = "Examples:\n  \
        tidewatch status\n  \
        tidewatch status photos --json\n  \
        tidewatch status s3://my-backups/photos")]
    Status(StatusArgs),

    /// Check config, rights, endpoint and kernel limits, and say what to fix
    #[command(
        long_about = "Check config, rights, endpoint and kernel limits, and say what to fix.\n\n\
            Whether the bucket may be written, read and copied in can only be known by doing it: \
            two small objects, PREFIX/.tidewatch/check-…, are made and removed again. Nothing \
            else is changed, here or there.",
        after_long_help = "Examples:\n  \
            tidewatch check --config config.toml"
    )]
    Check(CheckArgs),

    /// Write a commented config to start from
    #[command(after_long_help = "Examples:\n  \
        tidewatch init\n  \
        sudo tidewatch init /etc/tidewatch/config.toml")]
    Init(InitArgs),

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
struct Loud {
    /// Log each file (-v), or each step and request (-vv)
    #[arg(short, long, global = true, action = clap::ArgAction::Count, conflicts_with = "quiet", display_order = 900)]
    verbose: u8,

    /// Log only what is odd; show no progress
    #[arg(short, long, global = true, display_order = 901)]
    quiet: bool,
}

impl Loud {
    fn loudness(&self) -> Loudness {
        match (self.quiet, self.verbose) {
            (true, _) => Loudness::Quiet,
            (false, 0) => Loudness::Usual,
            (false, 1) => Loudness::Files,
            (false, _) => Loudness::Everything,
        }
    }
}

#[derive(Args, Debug)]
struct RunArgs {
    #[command(flatten)]
    config: ConfigArg,
    #[command(flatten)]
    options: OptionArgs,
}

#[derive(Args, Debug)]
struct WatchArgs {
    /// The folder to watch
    dir: PathBuf,

    /// Where it goes
    #[arg(value_name = URL)]
    url: String,

    #[command(flatten)]
    options: OptionArgs,
}

#[derive(Args, Debug)]
struct SyncArgs {
    /// The folder to sync
    #[arg(requires = "url", conflicts_with = "config")]
    dir: Option<PathBuf>,

    /// Where it goes
    #[arg(value_name = URL)]
    url: Option<String>,

    #[command(flatten)]
    config: ConfigArg,

    /// Give up after this long without any success
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = config::duration)]
    timeout: Duration,

    /// Write nothing anywhere; print what would be done
    #[arg(long, visible_alias = "dryrun")]
    dry_run: bool,

    /// Print one JSON object for each file, and a summary
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    options: OptionArgs,
}

#[derive(Args, Debug)]
struct StatusArgs {
    /// A folder's name, its path, or its s3:// URL; all of them if not given
    folder: Option<String>,

    #[command(flatten)]
    config: ConfigArg,

    #[command(flatten)]
    state: StateArg,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
struct CheckArgs {
    #[command(flatten)]
    config: ConfigArg,
    #[command(flatten)]
    state: StateArg,
    #[command(flatten)]
    s3: S3Args,
}

#[derive(Args, Debug)]
struct InitArgs {
    /// The file to write; it must not be there yet
    #[arg(default_value = "config.toml")]
    file: PathBuf,
}

#[cfg(feature = "demo")]
#[derive(Args, Debug)]
struct DemoArgs {
    /// Where the folder and the bucket are made
    #[arg(default_value = "./tidewatch-demo")]
    dir: PathBuf,

    /// End after this long, with 0 if the bucket is level and 1 if not
    #[arg(long = "for", value_name = "DURATION", value_parser = config::duration)]
    duration: Option<Duration>,
}

#[derive(Args, Debug)]
struct ConfigArg {
    /// The config to read
    #[arg(
        long,
        value_name = "FILE",
        long_help = "The config to read. Otherwise $TIDEWATCH_CONFIG, \
            $XDG_CONFIG_HOME/tidewatch/config.toml, /etc/tidewatch/config.toml."
    )]
    config: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct StateArg {
    /// Where the list of what has been synced is kept
    #[arg(long, value_name = "DIR", value_parser = clap::builder::TypedValueParser::try_map(clap::builder::OsStringValueParser::new(), absolute))]
    state_dir: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct S3Args {
    /// The address of an S3-compatible server
    #[arg(long, value_name = "URL", value_parser = config::endpoint_url, help_heading = S3)]
    endpoint_url: Option<String>,

    /// The region
    #[arg(long, value_parser = config::region, help_heading = S3)]
    region: Option<String>,

    /// A profile of the shared AWS files
    #[arg(long, help_heading = S3)]
    profile: Option<String>,

    /// Name the bucket in the path: auto, always or never
    #[arg(long, value_name = "WHEN", value_parser = config::path_style, help_heading = S3)]
    path_style: Option<PathStyle>,
}

#[derive(Args, Debug)]
struct OptionArgs {
    #[command(flatten)]
    state: StateArg,

    /// Leave out what this gitignore rule names (repeatable)
    #[arg(long, value_name = "RULE", value_parser = config::rule)]
    exclude: Vec<String>,

    /// Take in again what this gitignore rule names (repeatable)
    #[arg(long, value_name = "RULE", value_parser = config::include_rule)]
    include: Vec<String>,

    /// Requests at once: auto, or 1 to 512
    #[arg(long, value_name = "N", value_parser = config::concurrency)]
    concurrency: Option<Concurrency>,

    /// How long a file must be quiet before it is read
    #[arg(long, value_name = "DURATION", value_parser = config::duration)]
    settle: Option<Duration>,

    #[command(flatten)]
    s3: S3Args,
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
            ca_bundle: None,
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
            concurrency: args.concurrency,
            settle: args.settle,
        }
    }
}

/// Takes a path of the command line, relative to the working directory.
fn absolute(path: OsString) -> io::Result<PathBuf> {
    std::path::absolute(path)
}

/// Runs the command line of this process.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help goes to standard output, errors to standard error; a reader that has gone is no error.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    log::start(cli.loud.loudness());
    let exit = dispatch(cli, &Surroundings::of_process()).unwrap_or_else(|error| {
        if let Some(problems) = error.downcast_ref::<Problems>() {
            refuse(problems)
        } else {
            note(format_args!("tidewatch: could not {error:#}"));
            Exit::Failed
        }
    });
    exit.into()
}

/// Runs one command. [`Problems`] as an error mean wrong usage or config.
fn dispatch(cli: Cli, surroundings: &Surroundings) -> anyhow::Result<Exit> {
    let mut out = Out::stdout();
    let quiet = cli.loud.quiet;
    match cli.command {
        Command::Run(args) => {
            let config = load(
                args.config.config.as_deref(),
                &args.options.into(),
                surroundings,
            )?;
            drive(watch::run(WatchOptions { config }))
        }
        Command::Watch(args) => {
            let config = Config::ad_hoc(&args.dir, &args.url, &args.options.into(), surroundings)?;
            drive(watch::watch(WatchOptions { config }))
        }
        Command::Sync(args) => {
            let settle = args.options.settle;
            let options = args.options.into();
            let config = match (&args.dir, &args.url) {
                (Some(dir), Some(url)) => Config::ad_hoc(dir, url, &options, surroundings)?,
                _ => load(args.config.config.as_deref(), &options, surroundings)?,
            };
            drive(sync::sync(SyncOptions {
                config,
                settle,
                timeout: args.timeout,
                dry_run: args.dry_run,
                json: args.json,
                quiet,
            }))
        }
        Command::Status(args) => status::status(&StatusOptions {
            states: states::find(
                args.config.config.as_deref(),
                args.state.state_dir,
                surroundings,
            )?,
            folder: args.folder,
            json: args.json,
        }),
        Command::Check(args) => {
            let options = Options {
                state_dir: args.state.state_dir,
                s3: args.s3.into(),
                ..Options::default()
            };
            let config = load(args.config.config.as_deref(), &options, surroundings)?;
            drive(check::check(CheckOptions { config }))
        }
        Command::Init(args) => init::init(&InitOptions { file: args.file }, &mut out),
        #[cfg(feature = "demo")]
        Command::Demo(args) => drive(demo::demo(DemoOptions {
            dir: args.dir,
            duration: args.duration,
        })),
        Command::Completions { shell } => pages::completions(Cli::command(), shell, &mut out),
        Command::Man => pages::man(Cli::command(), &mut out),
    }
}

/// Prints everything that is wrong, a line each.
fn refuse(problems: &Problems) -> Exit {
    for problem in problems.iter() {
        match problem.place() {
            Some(_) => note(problem),
            None => note(format_args!("tidewatch: could not start: {problem}")),
        }
    }
    let place = problems.iter().find_map(Problem::place);
    if let Some(place) = place {
        let count = problems.iter().len();
        let s = if count == 1 { "" } else { "s" };
        note(format_args!(
            "tidewatch: could not use {place}: {count} problem{s}"
        ));
    }
    Exit::Usage
}

/// Reads the config that `named` or the surroundings lead to.
fn load(
    named: Option<&Path>,
    options: &Options,
    surroundings: &Surroundings,
) -> Result<Config, Problems> {
    let place = config::find(named, surroundings)?;
    Config::load(&config::text_of(&place)?, &place, options, surroundings)
}

/// Runs a command that waits for files, timers and sockets.
fn drive(command: impl Future<Output = anyhow::Result<Exit>>) -> anyhow::Result<Exit> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the runtime")?
        .block_on(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_fits_into_80_columns() {
        let mut program = Cli::command();
        program.build();
        let pages = std::iter::once(&program).chain(program.get_subcommands());
        for page in pages.filter(|page| page.get_name() != "help") {
            let help = page.clone().render_long_help().to_string();
            for line in help
                .lines()
                .filter(|line| !line.contains("bash-completion"))
            {
                assert!(line.chars().count() <= 80, "{}: {line}", page.get_name());
            }
        }
    }
}
