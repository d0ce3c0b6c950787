//! Whom to tell when something is wrong: the table `[notify]`.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::read::{Reader, Section};
use crate::config::values;

/// How often the heartbeat is sent, unless it is said otherwise.
pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(5 * 60);

/// The shortest time between two heartbeats: whoever counts them counts minutes.
const LEAST_EVERY: Duration = Duration::from_secs(1);

/// Whom to tell. The default tells nobody.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Notify {
    /// A program and its arguments; empty: none.
    pub command: Vec<String>,
    /// Where messages are posted, `http://` or `https://`. Who knows it can often write there: it is not shown.
    pub webhook: Option<String>,
    /// What is asked for while all is well, `http://` or `https://`; not shown either.
    pub heartbeat: Option<String>,
    /// How often that is.
    pub heartbeat_every: Duration,
    /// PEM file with certificates to trust besides the system's: that of `[s3]`.
    pub ca_bundle: Option<PathBuf>,
}

impl Default for Notify {
    fn default() -> Self {
        Self {
            command: Vec::new(),
            webhook: None,
            heartbeat: None,
            heartbeat_every: HEARTBEAT_EVERY,
            ca_bundle: None,
        }
    }
}

impl Notify {
    /// Reads the table.
    pub(in crate::config) fn read(
        reader: &mut Reader<'_>,
        table: &Section<'_, '_>,
        ca_bundle: Option<PathBuf>,
    ) -> Self {
        Self {
            command: table.parsed(reader, "command", command).unwrap_or_default(),
            webhook: table.parsed(reader, "webhook", address),
            heartbeat: table.parsed(reader, "heartbeat", address),
            heartbeat_every: table
                .parsed(reader, "heartbeat_every", |text| {
                    values::duration_from(LEAST_EVERY, text)
                })
                .unwrap_or(HEARTBEAT_EVERY),
            ca_bundle,
        }
    }
}

/// Takes a command line apart as a shell does, without being one.
fn command(text: &str) -> Result<Vec<String>, String> {
    match shlex::split(text) {
        Some(words) if words.first().is_some_and(|word| !word.is_empty()) => Ok(words),
        Some(_) => Err("expected a program and its arguments".to_owned()),
        None => Err(format!("a quote is not closed in {text:?}")),
    }
}

/// Takes an address of the web. What is wrong with it is told without it: it may be as good as a password.
fn address(text: &str) -> Result<String, String> {
    let host = text
        .strip_prefix("http://")
        .or_else(|| text.strip_prefix("https://"))
        .map(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default());
    let is_clean = text
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'<' | b'>'));
    match host {
        Some(host) if is_clean && !host.is_empty() && !host.contains('@') => Ok(text.to_owned()),
        _ => Err("expected an address such as \"https://hooks.example.com/…\"".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_taken_apart_and_no_shell_is_needed() {
        let words = command("mail -s 'tide watch' root@example.com").unwrap();
        assert_eq!(words, ["mail", "-s", "tide watch", "root@example.com"]);
        assert!(command("mail 'open").is_err());
        assert!(command("  ").is_err());
        assert!(command("''").is_err());
    }

    #[test]
    fn an_address_is_of_the_web_and_is_not_told_when_it_is_wrong() {
        assert!(address("https://hooks.example.com/T0/secret").is_ok());
        assert!(address("http://127.0.0.1:1/").is_ok());
        for wrong in [
            "ftp://secret",
            "https://",
            "https:///secret",
            "https://me:secret@example.com/",
            "https://a b/secret",
        ] {
            let why = address(wrong).unwrap_err();
            assert!(!why.contains("secret"), "{why}");
        }
    }
}
