//! `tidewatch status --follow`: the same again and again, until Ctrl-C.
//!
//! On a terminal the page is drawn where it was; elsewhere, and as JSON, a new one follows whenever anything has changed.

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;

use crate::base::offload::Offload;
use crate::commands::Exit;
use crate::commands::signals::Signals;
use crate::commands::status::{State, StatusOptions, gather, show, text};
use crate::report::out::Out;

/// How often it is asked.
const EVERY: Duration = Duration::from_secs(1);

/// Shows the folders until it is told to end, or nobody reads any more.
///
/// Exit 2 if a folder was asked for that is not there, else 0.
pub async fn follow(options: StatusOptions) -> anyhow::Result<Exit> {
    let mut signals = Signals::listen()?;
    let mut out = Out::stdout();
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    let in_place = std::io::stdout().is_terminal() && !options.json && !is_dumb;
    let options = Arc::new(options);
    let mut before = None;
    loop {
        let asked = options.clone();
        let gathered = Offload::Pool.run(move || gather(&asked));
        let gathered = tokio::select! {
            gathered = gathered => gathered,
            _ = signals.next() => return Ok(Exit::Level),
        };
        let Some((states, exit)) = gathered else {
            return Ok(Exit::Usage);
        };
        let is_new = before.replace(essence(&states)?) != Some(essence(&states)?);
        let shown = if in_place {
            out.raw(frame(&page(&states)).as_bytes())
        } else if is_new {
            show(&states, options.json, exit, &mut out)
        } else {
            Ok(())
        };
        shown.context("write to standard output")?;
        if out.is_gone() {
            return Ok(Exit::Level);
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            _ = signals.next() => return Ok(Exit::Level),
        }
    }
}

fn page(states: &[State]) -> String {
    let pages: Vec<String> = states.iter().map(text::page).collect();
    if pages.is_empty() {
        return "nothing is synced from here yet\n".to_owned();
    }
    pages.join("\n")
}

/// Returns what has to change to be news: all but when it was asked.
fn essence(states: &[State]) -> anyhow::Result<String> {
    let mut values = serde_json::to_value(states)?;
    for state in values.as_array_mut().into_iter().flatten() {
        if let Some(alive) = state.get_mut("agent")
            && alive["alive"] == true
        {
            alive["last_heard"].take();
        }
    }
    Ok(values.to_string())
}

/// Returns what draws a page over the one before: from the upper left corner, each line to its end, then the rest of the
/// screen. (pure)
fn frame(page: &str) -> String {
    let mut frame = "\x1b[H".to_owned();
    for line in page.lines() {
        frame.push_str(line);
        frame.push_str("\x1b[K\r\n");
    }
    frame.push_str("\x1b[J");
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_drawn_over_the_one_before() {
        assert_eq!(
            frame("one\n\ntwo\n"),
            "\x1b[Hone\x1b[K\r\n\x1b[K\r\ntwo\x1b[K\r\n\x1b[J"
        );
    }
}
