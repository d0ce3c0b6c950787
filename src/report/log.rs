//! The log on standard error.
//!
//! Never on standard output, which is for results; never with a secret: the SDK's modules are heard at debug at most,
//! where it does not say what it signs with, and its search for credentials only when it fails altogether. Never more or
//! less than one line a record, whatever the names in it hold, and nothing that a terminal would act on but colours.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal as _};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::base::path::is_unruly;
use crate::report::out::Stderr;

/// How much is said.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Loudness {
    /// Only what is odd or needs someone.
    Quiet,
    /// Start, stop, scans and outages too.
    Usual,
    /// Each file too.
    Files,
    /// Each step and each request too.
    Everything,
}

impl Loudness {
    fn directives(self) -> &'static str {
        match self {
            // The demo's endpoint calls every request that it refuses an error, also those that its client expects.
            // What a service of credentials answers, the SDK logs as a warning, whatever is in it.
            Self::Quiet => "warn,s3s=off,aws_config=error",
            Self::Usual => "warn,tidewatch=info,s3s=off,aws_config=error",
            Self::Files => "warn,tidewatch=debug,s3s=off,aws_config=error",
            Self::Everything => {
                "info,tidewatch=trace,s3s=off,aws_config=error,aws_sdk_s3=debug,aws_smithy_runtime=debug,aws_smithy_http_client=debug"
            }
        }
    }
}

/// What a log line looks like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// Time, level and words, coloured on a terminal.
    Text,
    /// Words with a priority in front; the journal has the time.
    Journal,
    /// One JSON object: `timestamp`, `level`, `message`, `target`, and what else is known of the event.
    Json,
}

impl Form {
    /// Returns the journal's form where standard error is the journal's, else text.
    pub fn of_surroundings() -> Self {
        if is_journal() {
            Self::Journal
        } else {
            Self::Text
        }
    }
}

/// Sends everything that is logged from here on to standard error. The first call counts.
pub fn start(loudness: Loudness, form: Form) {
    let filter = EnvFilter::new(loudness.directives());
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // Nobody may read it any more; told on standard error that this failed, the process would end for it.
        .log_internal_errors(false)
        .with_writer(move || OneLine(form));
    // An error means that a log is there already, which only a test's can be.
    let _ = match form {
        Form::Journal => builder
            .with_ansi(false)
            .event_format(Journal::default())
            .try_init(),
        Form::Json => builder.json().flatten_event(true).try_init(),
        Form::Text => builder
            .with_ansi(is_coloured())
            .with_target(loudness >= Loudness::Everything)
            .try_init(),
    };
}

/// Standard error, a record at a time.
struct OneLine(Form);

impl io::Write for OneLine {
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        self.write_all(record).map(|()| record.len())
    }

    fn write_all(&mut self, record: &[u8]) -> io::Result<()> {
        Stderr.write_all(tame(&String::from_utf8_lossy(record), self.0).as_bytes())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns a record as one line. What has no place in one is escaped, as JSON does where it is JSON.
fn tame(record: &str, form: Form) -> Cow<'_, str> {
    let line = record.strip_suffix('\n').unwrap_or(record);
    if !line.contains(is_unruly) {
        return Cow::Borrowed(record);
    }
    let mut tamed = String::with_capacity(record.len() + 16);
    let mut rest = line;
    while let Some(c) = rest.chars().next() {
        let colour = colour(rest).filter(|_| form == Form::Text);
        let (taken, after) = rest.split_at(colour.unwrap_or(c.len_utf8()));
        rest = after;
        // Writing to a String cannot fail.
        let _ = match form {
            _ if colour.is_some() || !is_unruly(c) => tamed.write_str(taken),
            // All of them are within the first plane, which four digits hold.
            Form::Json => write!(tamed, "\\u{:04x}", u32::from(c)),
            Form::Text | Form::Journal => write!(tamed, "{}", c.escape_default()),
        };
    }
    tamed.push('\n');
    Cow::Owned(tamed)
}

/// Returns the length of the change of colour that `text` begins with, if it begins with one.
fn colour(text: &str) -> Option<usize> {
    let after = text.strip_prefix("\u{1b}[")?;
    let end = after.find(|c: char| !c.is_ascii_digit() && c != ';')?;
    after[end..].starts_with('m').then_some(end + 3)
}

/// Returns whether colours are wanted: on a terminal, unless `NO_COLOR` is set and not empty.
fn is_coloured() -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !refused && std::io::stderr().is_terminal()
}

/// Returns whether standard error is the journal's, and not what a child of a service has made of it.
fn is_journal() -> bool {
    let Some(named) = std::env::var_os("JOURNAL_STREAM") else {
        return false;
    };
    let Ok(stat) = rustix::fs::fstat(std::io::stderr()) else {
        return false;
    };
    // Device and inode in decimal, systemd.exec(5).
    named.to_str() == Some(&format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// Lines for the journal, which adds the time itself and takes the level from a `<n>` in front, sd-daemon(3).
struct Journal(Format<Full, ()>);

impl Default for Journal {
    fn default() -> Self {
        let plain = Format::default().with_ansi(false).without_time();
        Self(plain.with_level(false).with_target(false))
    }
}

impl<S, N> FormatEvent<S, N> for Journal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        write!(writer, "<{}>", priority(*event.metadata().level()))?;
        self.0.format_event(context, writer, event)
    }
}

fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn every_loudness_is_understood() {
        for loudness in [
            Loudness::Quiet,
            Loudness::Usual,
            Loudness::Files,
            Loudness::Everything,
        ] {
            assert!(
                EnvFilter::try_new(loudness.directives()).is_ok(),
                "{loudness:?}"
            );
        }
    }

    #[test]
    fn the_journal_learns_the_level_and_needs_no_time() {
        let written = Arc::new(Mutex::new(Vec::new()));
        let writer = Arc::clone(&written);
        let log = tracing_subscriber::fmt()
            .with_ansi(false)
            .event_format(Journal::default())
            .with_writer(move || Shared(Arc::clone(&writer)))
            .finish();
        tracing::subscriber::with_default(log, || {
            tracing::warn!(files = 3, "odd");
            tracing::error!("bad");
        });
        let written = written.lock().unwrap();
        assert_eq!(
            String::from_utf8_lossy(&written),
            "<4>odd files=3\n<3>bad\n"
        );
    }

    #[test]
    fn a_record_is_one_line_that_no_name_can_break_or_turn_round() {
        let plain = "für 3 files\n";
        assert!(matches!(tame(plain, Form::Text), Cow::Borrowed(_)));
        let wild = "\u{1b}[33mWARN\u{1b}[0m a\nb\r\u{1b}[2J\u{1b}]0;x\u{7}\u{9b}\u{202e}\u{2028}\n";
        assert_eq!(
            tame(wild, Form::Text),
            "\u{1b}[33mWARN\u{1b}[0m a\\nb\\r\\u{1b}[2J\\u{1b}]0;x\\u{7}\\u{9b}\\u{202e}\\u{2028}\n"
        );
        let journal = tame(wild, Form::Journal);
        assert!(!journal.trim_end().contains(is_unruly), "{journal}");
        assert_eq!(
            tame("{\"a\":\"\u{85}\u{202e}\"}\n", Form::Json),
            "{\"a\":\"\\u0085\\u202e\"}\n"
        );
    }

    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
}
