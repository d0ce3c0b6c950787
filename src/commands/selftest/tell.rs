//! What a selftest prints: a line for each proof, and what it all took.

use std::fmt;
use std::io;
use std::time::Duration;

use serde::Serialize;

use crate::base::price::{Prices, Usage};
use crate::base::units::{show_bytes, show_took};
use crate::commands::Exit;
use crate::commands::selftest::bucket::Cleaned;
use crate::commands::selftest::{Proof, Trouble};
use crate::config::Target;
use crate::report::out::Out;

/// Where it is told what was proven.
pub struct Teller {
    out: Out,
    to: String,
    seed: u64,
    json: bool,
    counts: [u32; 3],
    /// `None`: it has not come to that.
    is_clean: Option<bool>,
    /// Why a result could not be written. The test goes on: it has to clean up.
    pub trouble: Option<io::Error>,
}

/// What became of a proof.
#[derive(Clone, Copy)]
enum Result {
    Proven,
    Failed,
    Untried,
}

impl Result {
    fn word(self) -> &'static str {
        match self {
            Self::Proven => "proven",
            Self::Failed => "FAILED",
            Self::Untried => "untried",
        }
    }
}

#[derive(Serialize)]
struct Line<'a> {
    event: &'a str,
    proof: &'a str,
    result: String,
    text: &'a str,
}

#[derive(Serialize)]
struct Summary<'a> {
    event: &'a str,
    to: &'a str,
    seed: u64,
    proven: u32,
    failed: u32,
    untried: u32,
    cleaned_up: Option<bool>,
    puts: u64,
    gets: u64,
    deletes: u64,
    sent_bytes: u64,
    read_bytes: u64,
    cost: f64,
    currency: &'a str,
    seconds: f64,
}

impl Teller {
    /// Begins to tell of a test of `to`.
    pub fn new(to: &Target, seed: u64, json: bool) -> Self {
        let mut teller = Self {
            out: Out::stdout(),
            to: to.to_string(),
            seed,
            json,
            counts: [0; 3],
            is_clean: None,
            trouble: None,
        };
        if !json {
            teller.line(&format_args!(
                "selftest in {to}, --seed {seed}; warnings on the way are of what it breaks itself\n"
            ));
        }
        teller
    }

    /// Tells of a proof.
    pub fn proven(&mut self, proof: Proof, text: &str) {
        self.told(Result::Proven, proof.word(), text);
    }

    /// Tells why something is not proven.
    pub fn failed(&mut self, proof: Proof, why: &str) {
        self.told(Result::Failed, proof.word(), why);
    }

    /// Tells that something was not tried, as what comes before it has failed.
    pub fn untried(&mut self, proof: Proof) {
        self.told(Result::Untried, proof.word(), "");
    }

    /// Tells that everything stays.
    pub fn kept(&mut self) {
        if !self.json {
            let to = self.to.clone();
            self.line(&format_args!(
                "\neverything stays in {to}: remove it when you have looked"
            ));
        }
    }

    /// Tells of the end of what was put there; returns what that does to the exit.
    pub fn cleaned(
        &mut self,
        cleaned: &std::result::Result<Cleaned, Trouble>,
        has_versions: bool,
    ) -> Exit {
        let versions = if has_versions {
            "; the bucket keeps versions: old ones, and markers of what was deleted, stay below that prefix until its \
             lifecycle rule removes them"
        } else {
            ""
        };
        let (result, text, exit) = match cleaned {
            Ok(Cleaned { objects, uploads }) => {
                let text = format!(
                    "{objects} objects and {uploads} unfinished uploads removed, nothing is left{versions}"
                );
                (Result::Proven, text, Exit::Level)
            }
            Err(trouble) => {
                let text = format!("{}: something is left in {}", trouble.why, self.to);
                (Result::Failed, text, trouble.exit)
            }
        };
        self.is_clean = Some(exit == Exit::Level);
        self.told(result, "cleaned", &text);
        exit
    }

    /// Tells what it took.
    pub fn close(&mut self, usage: Usage, kills: u32, took: Duration) {
        let prices = Prices::default();
        let cost = prices.cost(usage);
        let [proven, failed, untried] = self.counts;
        if self.json {
            let to = self.to.clone();
            self.json(&Summary {
                event: "summary",
                to: &to,
                seed: self.seed,
                proven,
                failed,
                untried,
                cleaned_up: self.is_clean,
                puts: usage.puts,
                gets: usage.gets,
                deletes: usage.deletes,
                sent_bytes: usage.sent_bytes,
                read_bytes: usage.read_bytes,
                cost: cost as f64 / 1e6,
                currency: &prices.currency,
                seconds: took.as_secs_f64(),
            });
            return;
        }
        let without = if kills > 0 {
            ", without those of the runs that were killed, which could not count"
        } else {
            ""
        };
        self.line(&format_args!(
            "\n{proven} proven, {failed} failed, {untried} untried in {}\n\
             {} writing and {} reading requests, {} removals; {} sent, {} read{without}\n\
             about {} at the prices of S3 Standard in us-east-1",
            show_took(took),
            usage.puts,
            usage.gets,
            usage.deletes,
            show_bytes(usage.sent_bytes),
            show_bytes(usage.read_bytes),
            prices.show(cost),
        ));
    }

    fn told(&mut self, result: Result, proof: &str, text: &str) {
        self.counts[result as usize] += 1;
        if self.json {
            let result = result.word().to_lowercase();
            self.json(&Line {
                event: "proof",
                proof,
                result,
                text,
            });
        } else {
            let line = format!("  {:<8} {proof:<8} {text}", result.word());
            self.line(&line.trim_end());
        }
    }

    fn json(&mut self, value: &impl Serialize) {
        match serde_json::to_string(value) {
            Ok(line) => self.line(&line),
            Err(error) => self.trouble = Some(error.into()),
        }
    }

    fn line(&mut self, line: &dyn fmt::Display) {
        if let Err(error) = self.out.line(line) {
            self.trouble.get_or_insert(error);
        }
    }
}
