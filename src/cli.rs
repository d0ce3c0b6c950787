//! The command line: what can be asked for, and one arm a command.
//!
//! Usage errors are clap's (exit 2). What a command returns becomes the exit code; an error becomes one line on standard
//! error, "tidewatch: could not …" with its causes. Nothing here decides anything about files.

mod args;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser as _};

use crate::base::path::escaped;
use crate::cli::args::check::{CheckArgs, FleetArgs, PolicyArgs};
use crate::cli::args::folder::Where;
use crate::cli::args::held::HeldVerb;
use crate::cli::args::history::{DrillArgs, HistoryArgs};
use crate::cli::args::live::{Known, StatusArgs, SyncNowArgs};
use crate::cli::args::open::OpenArgs;
use crate::cli::args::restore::RestoreArgs;
use crate::cli::args::selftest::SelftestArgs;
use crate::cli::args::service::{ServiceArgs, ServiceVerb};
use crate::cli::args::verify::VerifyArgs;
use crate::cli::args::{Cli, Command, SyncArgs};
use crate::commands::check::{self, CheckOptions};
use crate::commands::control::Verb;
#[cfg(feature = "demo")]
use crate::commands::demo::{self, DemoOptions};
use crate::commands::drill::{self, DrillOptions};
use crate::commands::explain::{self, ExplainOptions};
use crate::commands::fleet::{self, FleetOptions};
use crate::commands::folder::{self, FolderOptions};
use crate::commands::held::{self, HeldCommand, HeldOptions};
use crate::commands::history::{self, HistoryOptions};
use crate::commands::init::{self, InitOptions};
use crate::commands::open::{self, OpenOptions};
use crate::commands::pause::{self, SyncNowOptions};
use crate::commands::policy::{self, PolicyOptions};
use crate::commands::reload::Reader;
use crate::commands::restore::{self, RestoreOptions, source};
use crate::commands::selftest::{self, SelftestOptions};
use crate::commands::service::{self, ServiceCommand, Whose};
use crate::commands::status::{self, StatusOptions, states};
use crate::commands::sync::{self, SyncOptions};
use crate::commands::verify::{self, VerifyOptions};
use crate::commands::watch::{self, WatchOptions};
use crate::commands::{Exit, pages, signals};
use crate::config::{self, Config, Options, Problem, Problems, S3Options, Surroundings, Target};
use crate::report::last_words;
use crate::report::log;
use crate::report::out::{Out, note};

/// Runs the command line of this process.
pub fn run() -> ExitCode {
    last_words::watch();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help goes to standard output, errors to standard error; a reader that has gone is no error.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let loudness = match &cli.command {
        Command::Selftest(_) => cli.loud.loudness_of_proofs(),
        _ => cli.loud.loudness(),
    };
    log::start(loudness, cli.loud.form());
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
            let named = args.config.config.as_deref();
            let options = running(named, args.options.into(), surroundings)?;
            drive(watch::run(options))
        }
        Command::Watch(args) => {
            let config = Config::ad_hoc(&args.dir, &args.url, &args.options.into(), surroundings)?;
            drive(watch::watch(WatchOptions {
                config,
                reader: None,
            }))
        }
        Command::Sync(args) => drive(sync::sync(sync_options(args, quiet, surroundings)?)),
        Command::Restore(args) => drive(restore::restore(restore_options(
            args,
            quiet,
            surroundings,
        )?)),
        Command::Adopt(args) => drive(sync::adopt(sync_options(args, quiet, surroundings)?)),
        Command::Status(args) => status(args, surroundings),
        Command::Open(args) => open::open(&open_options(args, surroundings)?, &mut out),
        Command::Pause(args) => pause(args.of, Verb::Pause, surroundings, &mut out),
        Command::Resume(args) => pause(args.of, Verb::Resume, surroundings, &mut out),
        Command::SyncNow(args) => sync_now(args, surroundings, &mut out),
        Command::Explain(args) => {
            let named = args.config.config.as_deref();
            explain::explain(&ExplainOptions {
                states: states::find(named, args.state.state_dir, surroundings)?,
                config: explain::config(named, surroundings),
                path: args.path,
                json: args.json,
            })
        }
        Command::History(args) => drive(history::history(history_options(args, surroundings)?)),
        Command::Drill(args) => drive(drill::drill(drill_options(args, surroundings)?)),
        Command::Verify(args) => drive(verify::verify(verify_options(args, quiet, surroundings)?)),
        Command::Held(args) => {
            let (of, what) = match args.what {
                HeldVerb::List { of, json } => (of, HeldCommand::List { json }),
                HeldVerb::Release(of) => (of, HeldCommand::Release),
                HeldVerb::Drop(of) => (of, HeldCommand::Drop),
            };
            let states = states::find(
                of.config.config.as_deref(),
                of.state.state_dir,
                surroundings,
            )?;
            held::held(
                &HeldOptions {
                    states,
                    folder: of.folder,
                    what,
                },
                &mut out,
            )
        }
        Command::Folder(args) => {
            let (what, Where { config, state }) = args.what.parts();
            let states = states::find(config.config.as_deref(), state.state_dir, surroundings)?;
            folder::folder(&FolderOptions { states, what }, &mut out)
        }
        Command::Check(args) => drive(check::check(check_options(args, surroundings)?)),
        Command::Policy(args) => policy::policy(&policy_options(args, surroundings)?, &mut out),
        Command::Fleet(args) => drive(fleet::fleet(fleet_options(args)?, &mut out)),
        Command::Init(args) => {
            let (file, from) = (args.file, args.from);
            init::init(&InitOptions { file, from }, &mut out)
        }
        Command::Service(args) => service::service(&service_command(args, surroundings)?, &mut out),
        #[cfg(feature = "demo")]
        Command::Demo(args) => drive(demo::demo(DemoOptions {
            dir: args.dir,
            duration: args.duration,
        })),
        Command::Selftest(args) => drive(selftest::selftest(selftest_options(args)?)),
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
    let config = Config::load(&config::text_of(&place)?, &place, options, surroundings)?;
    if config::is_for_all(&place, &config.notify) {
        tracing::warn!(
            "everybody can read the addresses of [notify] in {}, and whoever knows them can often write there; `chmod o-r` it",
            escaped(place.as_os_str().as_encoded_bytes())
        );
    }
    Ok(config)
}

/// Reads the config, and makes that it can be read again.
fn running(
    named: Option<&Path>,
    options: Options,
    surroundings: &Surroundings,
) -> Result<WatchOptions, Problems> {
    // Wherever it was found: a reload reads the same one.
    let place = config::find(named, surroundings)?;
    let surroundings = surroundings.clone();
    let read = move || load(Some(&place), &options, &surroundings);
    let config = read()?;
    let reader = Some(Reader::new(read));
    Ok(WatchOptions { config, reader })
}

fn service_command(
    args: ServiceArgs,
    surroundings: &Surroundings,
) -> anyhow::Result<ServiceCommand> {
    let whose = |user: bool| {
        if !user {
            return Ok(Whose::Machine);
        }
        let dir = config::user_units(surroundings)?;
        Ok::<_, Problems>(Whose::User(dir))
    };
    let target = |named: Option<&Path>, user: bool| {
        let whose = whose(user)?;
        let place = config::find(named, surroundings).map_err(Problems::from)?;
        let place = std::path::absolute(place).context("make the path of the config absolute")?;
        // As the service will see it.
        let mut around = surroundings.clone();
        if whose == Whose::Machine {
            around.state_directory = Some(service::MACHINE_STATE.into());
        }
        let program = std::env::current_exe().context("find this program")?;
        anyhow::Ok(Box::new(service::Target {
            config: load(Some(&place), &Options::default(), &around)?,
            whose,
            program,
            place,
        }))
    };
    Ok(match args.what {
        ServiceVerb::Install { config, whose } => {
            ServiceCommand::Install(target(config.config.as_deref(), whose.user)?)
        }
        ServiceVerb::Show { config, whose } => {
            ServiceCommand::Show(target(config.config.as_deref(), whose.user)?)
        }
        ServiceVerb::Uninstall { whose: by } => ServiceCommand::Uninstall(whose(by.user)?),
    })
}

/// Runs a command that waits for files, timers and sockets.
fn drive(command: impl Future<Output = anyhow::Result<Exit>>) -> anyhow::Result<Exit> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the runtime")?
        .block_on(async {
            signals::outlive_size_limit();
            command.await
        })
}

/// Shows how the folders are, once or again and again.
fn status(args: StatusArgs, surroundings: &Surroundings) -> anyhow::Result<Exit> {
    let named = args.config.config.as_deref();
    let options = StatusOptions {
        states: states::find(named, args.state.state_dir, surroundings)?,
        folder: args.folder,
        json: args.json,
    };
    if args.follow {
        drive(status::follow::follow(options))
    } else {
        status::status(&options)
    }
}

fn sync_now(args: SyncNowArgs, surroundings: &Surroundings, out: &mut Out) -> anyhow::Result<Exit> {
    let named = args.config.config.as_deref();
    let options = SyncNowOptions {
        states: states::find(named, args.state.state_dir, surroundings)?,
        folder: args.folder,
        path: args.path,
    };
    pause::sync_now(&options, out)
}

/// Has folders pause, or go on.
fn pause(
    of: Known,
    verb: Verb,
    surroundings: &Surroundings,
    out: &mut Out,
) -> anyhow::Result<Exit> {
    let named = of.config.config.as_deref();
    let states = states::find(named, of.state.state_dir, surroundings)?;
    pause::decide(&states, of.folder.as_deref(), verb, out)
}

fn sync_options(
    args: SyncArgs,
    quiet: bool,
    surroundings: &Surroundings,
) -> anyhow::Result<SyncOptions> {
    let settle = args.options.settle;
    let options = args.options.into();
    let config = match (&args.dir, &args.url) {
        (Some(dir), Some(url)) => Config::ad_hoc(dir, url, &options, surroundings)?,
        _ => load(args.config.config.as_deref(), &options, surroundings)?,
    };
    Ok(SyncOptions {
        config,
        settle,
        timeout: args.timeout,
        dry_run: args.dry_run,
        retry_failed: args.retry_failed,
        json: args.json,
        quiet,
    })
}

fn open_options(args: OpenArgs, surroundings: &Surroundings) -> Result<OpenOptions, Problems> {
    let named = args.config.config.as_deref();
    Ok(OpenOptions {
        states: states::find(named, args.state.state_dir, surroundings)?,
        print: args.print,
    })
}

fn drill_options(args: DrillArgs, surroundings: &Surroundings) -> Result<DrillOptions, Problems> {
    let asked = source::Asked {
        from: args.folder,
        config: args.config.config,
        state_dir: args.state.state_dir,
        s3: args.s3.into(),
    };
    let (folders, memory_bytes) = source::places(&asked, surroundings)?;
    Ok(DrillOptions {
        folders,
        memory_bytes,
        json: args.json,
    })
}

fn check_options(args: CheckArgs, surroundings: &Surroundings) -> Result<CheckOptions, Problems> {
    let options = Options {
        state_dir: args.state.state_dir,
        s3: args.s3.into(),
        ..Options::default()
    };
    Ok(CheckOptions {
        config: load(args.config.config.as_deref(), &options, surroundings)?,
        json: args.json,
    })
}

fn policy_options(
    args: PolicyArgs,
    surroundings: &Surroundings,
) -> Result<PolicyOptions, Problems> {
    let named = args.config.config.as_deref();
    Ok(PolicyOptions {
        config: load(named, &Options::default(), surroundings)?,
        lifecycle: args.lifecycle,
        json: args.json,
    })
}

fn fleet_options(args: FleetArgs) -> Result<FleetOptions, Problems> {
    let s3: S3Options = args.s3.into();
    Ok(FleetOptions {
        to: Target::parse(&args.url).map_err(Problem::new)?,
        s3: s3.into(),
        json: args.json,
    })
}

fn selftest_options(args: SelftestArgs) -> Result<SelftestOptions, Problems> {
    let s3: S3Options = args.s3.into();
    Ok(SelftestOptions {
        to: Target::parse(&args.url).map_err(Problem::new)?,
        s3: s3.into(),
        kills: args.kills,
        seed: args.seed,
        keep: args.keep,
        json: args.json,
    })
}

fn history_options(
    args: HistoryArgs,
    surroundings: &Surroundings,
) -> Result<HistoryOptions, Problems> {
    let asked = source::Asked {
        from: args.from,
        config: args.config.config,
        state_dir: args.state.state_dir,
        s3: args.s3.into(),
    };
    Ok(HistoryOptions {
        source: source::around(&asked, &args.path, surroundings)?,
        path: args.path,
        json: args.json,
    })
}

fn restore_options(
    args: RestoreArgs,
    quiet: bool,
    surroundings: &Surroundings,
) -> Result<RestoreOptions, Problems> {
    let asked = source::Asked {
        from: args.from,
        config: args.config.config,
        state_dir: args.state.state_dir,
        s3: args.s3.into(),
    };
    Ok(RestoreOptions {
        source: source::find(&asked, surroundings)?,
        paths: args.paths,
        to: args.to,
        on_conflict: args.on_conflict,
        at_ns: args.at,
        deleted: args.deleted,
        owner: args.owner,
        dry_run: args.dry_run,
        json: args.json,
        quiet,
        concurrency: args.concurrency,
    })
}

fn verify_options(
    args: VerifyArgs,
    quiet: bool,
    surroundings: &Surroundings,
) -> Result<VerifyOptions, Problems> {
    let named = args.config.config.as_deref();
    let s3: S3Options = args.s3.into();
    let options = Options {
        state_dir: args.state.state_dir.clone(),
        s3: s3.clone(),
        ..Options::default()
    };
    let config = match load(named, &options, surroundings) {
        Ok(config) => Some(config),
        Err(problems) if named.is_some() => return Err(problems),
        // Folders that were synced without a config must not depend on one that nobody has named.
        Err(problems) => {
            let first = problems.iter().next();
            if let (Ok(_), Some(why)) = (config::find(None, surroundings), first) {
                note(format_args!("tidewatch: the config is left aside: {why}"));
            }
            None
        }
    };
    Ok(VerifyOptions {
        states: states::find(named, args.state.state_dir, surroundings)?,
        folder: args.folder,
        config,
        s3,
        local: args.local,
        deep: args.deep,
        sample: args.sample,
        repair: args.repair,
        json: args.json,
        quiet,
    })
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
