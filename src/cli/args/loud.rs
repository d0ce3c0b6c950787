//! How much is logged, and in which form.

use clap::Args;

use crate::report::log::{Form, Loudness};

#[derive(Args, Debug)]
pub(in crate::cli) struct Loud {
    /// Log each file (-v), or each step and request (-vv)
    #[arg(short, long, global = true, action = clap::ArgAction::Count, conflicts_with = "quiet", display_order = 900)]
    pub verbose: u8,

    /// Log only what is odd; show no progress
    #[arg(short, long, global = true, display_order = 901)]
    pub quiet: bool,

    /// The log's form: auto is text, in the journal's form where that reads it
    #[arg(
        long,
        global = true,
        value_name = "FORM",
        value_enum,
        default_value_t,
        hide_default_value = true,
        display_order = 902
    )]
    log_format: LogFormat,
}

/// The forms that a log can have.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
enum LogFormat {
    #[default]
    Auto,
    Text,
    Json,
}

impl Loud {
    pub fn loudness(&self) -> Loudness {
        match (self.quiet, self.verbose) {
            (true, _) => Loudness::Quiet,
            (false, 0) => Loudness::Usual,
            (false, 1) => Loudness::Files,
            (false, _) => Loudness::Everything,
        }
    }

    /// Returns the same for what tells by itself how it goes on: without `-v` only what is odd.
    pub fn loudness_of_proofs(&self) -> Loudness {
        match self.loudness() {
            Loudness::Usual => Loudness::Quiet,
            other => other,
        }
    }

    pub fn form(&self) -> Form {
        match self.log_format {
            LogFormat::Auto => Form::of_surroundings(),
            LogFormat::Text => Form::Text,
            LogFormat::Json => Form::Json,
        }
    }
}
