//! `tidewatch completions` and `tidewatch man`: pages made of the command line's own description.

use std::fmt::Write as _;
use std::io;

use anyhow::Context as _;
use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::Roff;

use crate::commands::Exit;
use crate::report::out::Out;

/// Writes the completions of `program` for `shell`.
pub fn completions(
    mut program: Command,
    shell: clap_complete::Shell,
    out: &mut Out,
) -> anyhow::Result<Exit> {
    let mut page = Vec::new();
    let name = program.get_name().to_owned();
    clap_complete::generate(shell, &mut program, name, &mut page);
    out.raw(&page).context("write to standard output")?;
    Ok(Exit::Level)
}

/// Writes the manual page of `program` with all its commands.
pub fn man(program: Command, out: &mut Out) -> anyhow::Result<Exit> {
    let page = man_page(program).context("make the manual page")?;
    out.raw(page.as_bytes())
        .context("write to standard output")?;
    Ok(Exit::Level)
}

fn man_page(mut program: Command) -> io::Result<String> {
    // Fills in the usage lines of the subcommands, with the program's name in front.
    program.build();
    let mut page = Vec::new();
    let whole = Man::new(program.clone());
    whole.render_title(&mut page)?;
    whole.render_name_section(&mut page)?;
    whole.render_synopsis_section(&mut page)?;
    whole.render_description_section(&mut page)?;
    whole.render_options_section(&mut page)?;
    let mut page = text(page)?;
    for command in program.get_subcommands() {
        if command.get_name() != "help" && !command.is_hide_set() {
            page.push_str(&command_section(command)?);
        }
    }
    page.push_str(&examples(&program, ".SH"));
    page.push_str(FILES);
    Ok(page)
}

/// Returns the section of one command, its parts below its heading.
fn command_section(command: &Command) -> io::Result<String> {
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name());
    let mut part = Vec::new();
    let man = Man::new(command.clone().disable_help_subcommand(true));
    man.render_synopsis_section(&mut part)?;
    man.render_description_section(&mut part)?;
    man.render_options_section(&mut part)?;
    // Every rendering begins with the same definitions, which the page has already.
    let part = text(part)?
        .replace(&Roff::new().render(), "")
        .replace(".SH ", ".SS ");
    let heading = format!(".SH \"{}\"\n", name.to_uppercase());
    Ok(heading + &part + &examples(command, ".SS"))
}

/// Returns the examples behind the help as they stand there, line by line.
fn examples(command: &Command, heading: &str) -> String {
    let Some(help) = command.get_after_long_help() else {
        return String::new();
    };
    let mut page = String::new();
    for block in help.to_string().split("\n\n") {
        let (title, lines) = block.split_once('\n').unwrap_or((block, ""));
        let title = title.trim_end_matches(':').to_uppercase();
        let lines = lines.replace('\\', "\\\\").replace('-', "\\-");
        // Writing to a String cannot fail.
        let _ = write!(page, "{heading} \"{title}\"\n.nf\n{lines}\n.fi\n");
    }
    page
}

fn text(page: Vec<u8>) -> io::Result<String> {
    String::from_utf8(page).map_err(io::Error::other)
}

/// What no command's help says.
const FILES: &str = "\
.SH FILES
.TP
$XDG_CONFIG_HOME/tidewatch/config.toml, /etc/tidewatch/config.toml
The config; the first that exists. It is commented: see
.B tidewatch init
and the keys in it.
.TP
$XDG_STATE_HOME/tidewatch
The state, unless a config, an option or the service names another folder.
.SH ENVIRONMENT
.TP
TIDEWATCH_CONFIG
The config to read.
.TP
AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_PROFILE, AWS_REGION, AWS_ENDPOINT_URL_S3, ...
As every AWS tool understands them. An option and the config go before them.
.TP
NO_COLOR
If it is set and not empty, no colours are used.
";
