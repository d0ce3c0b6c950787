//! `tidewatch open`: the page of the agent that runs, in a browser.
//!
//! The token goes into the fragment of the address, which a browser sends to nobody; the page's script takes it from
//! there. A browser is started with that address as its argument, which the users of this machine may see in the list of
//! processes while it starts; `--print` only prints it.

use std::env;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context as _;
use serde::Serialize;

use crate::base::path::escaped;
use crate::commands::Exit;
use crate::commands::page::token;
use crate::commands::settings;
use crate::manifest;
use crate::report::out::{Out, note};
use crate::report::status_file;

/// What `open` is asked.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// The state folders to look into; the first whose agent has a page counts.
    pub states: Vec<PathBuf>,
    /// Print the address, and start nothing.
    pub print: bool,
}

/// Opens the page in a browser, or prints its address where there is none. Exit 1 if no agent with a page runs.
pub fn open(options: &OpenOptions, out: &mut Out) -> anyhow::Result<Exit> {
    let mut link = None;
    for dir in &options.states {
        let reading = || {
            let shown = escaped(dir.as_os_str().as_encoded_bytes());
            format!("read the state folder {shown}; is it another user's?")
        };
        link = link_of(dir).with_context(reading)?;
        if link.is_some() {
            break;
        }
    }
    let Some(link) = link else {
        note(
            "tidewatch: could not find a page: no `tidewatch run` with one is at work here; see `listen` in the config",
        );
        return Ok(Exit::Failed);
    };
    let is_open = !options.print && browsers().iter().any(|browser| start(browser, &link));
    if is_open {
        // Without what only the browser has to know.
        let address = link.split('#').next().unwrap_or_default();
        out.line(format!("opened {address} in a browser"))?;
    } else {
        out.line(&link)?;
    }
    Ok(Exit::Level)
}

/// Returns the address of the page of a state folder, with its token; `None` if no agent with a page runs there.
fn link_of(dir: &Path) -> io::Result<Option<String>> {
    let Some(address) = page_of(dir)? else {
        return Ok(None);
    };
    let token = token::read(dir)?;
    Ok(token.map(|token| format!("{address}#token={}", token.reveal())))
}

fn page_of(dir: &Path) -> io::Result<Option<String>> {
    let Some(pid) = manifest::holder(dir)? else {
        return Ok(None);
    };
    let said = status_file::read(dir)?;
    Ok(said
        .filter(|said| said.pid == pid)
        .and_then(|said| said.page))
}

/// Where the page of an agent is, and what opens it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct PagePlace {
    /// Its address.
    address: String,
    /// The file that holds the token, for its owner.
    token_file: String,
}

impl fmt::Display for PagePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            address,
            token_file,
        } = self;
        write!(
            f,
            "the page is at {address} (token in {token_file}): `tidewatch open`"
        )
    }
}

/// Returns where the page of a state folder is, if the agent that runs there has one. Blocks.
pub fn place_of(dir: &Path) -> Option<PagePlace> {
    let address = page_of(dir).ok().flatten()?;
    let token_file = escaped(token::place(dir).as_os_str().as_encoded_bytes());
    Some(PagePlace {
        address,
        token_file,
    })
}

/// Returns the browsers to try, in this order, as their command lines; none where there is no screen and none is named.
fn browsers() -> Vec<String> {
    let named = env::var("BROWSER").unwrap_or_default();
    let mut browsers: Vec<String> = named
        .split(':')
        .filter(|name| !name.trim().is_empty())
        .map(str::to_owned)
        .collect();
    let has_screen = ["DISPLAY", "WAYLAND_DISPLAY"]
        .iter()
        .any(|name| env::var_os(name).is_some_and(|value| !value.is_empty()));
    if has_screen {
        browsers.push("xdg-open".to_owned());
    }
    browsers
}

/// Starts a browser and lets it be; returns false if there is none of that name.
fn start(browser: &str, link: &str) -> bool {
    let mut words = shlex::split(browser).unwrap_or_default();
    if words.iter().any(|word| word.contains("%s")) {
        for word in &mut words {
            *word = word.replace("%s", link);
        }
    } else {
        words.push(link.to_owned());
    }
    let mut words = words.into_iter();
    let Some(program) = words.next() else {
        return false;
    };
    let mut command = Command::new(program);
    for key in settings::KEYS {
        command.env_remove(key);
    }
    command
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.spawn().is_ok()
}
