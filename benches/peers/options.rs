//! What is measured, and how: the words and options of the command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use crate::client::{Client, Deed, of};

const USAGE: &str = "cases: ten, small, small50k, medium, large, large-1g, large-tls, mixed, second, rename, latency, \
    restore, restore-large, growth (default: all but small50k, large-1g and growth), tables, plot; options: --files N, \
    --large BYTES, --latency MS, --rounds N (3), --only NAME (repeatable), --scratch DIR, --results FILE, --program FILE";

/// Something to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Case {
    /// Ten small files, in every way.
    Ten,
    /// 5,000 x 4 KiB.
    Small,
    /// 50,000 x 4 KiB.
    Small50k,
    /// 300 x 1 MiB.
    Medium,
    /// One file of 4 GiB.
    Large,
    /// One file of 1 GiB.
    Large1,
    /// One file of 4 GiB over TLS.
    LargeTls,
    /// What a home has.
    Mixed,
    /// 100,000 files that are there already.
    Second,
    /// A folder of 10,000 files with another name.
    Rename,
    /// From a save to its object.
    Latency,
    /// 5,000 x 4 KiB back.
    Restore,
    /// One file of 1 GiB back.
    RestoreLarge,
    /// What a file costs among 10,000, 100,000 and a million.
    Growth,
    /// Prints what has been measured.
    Tables,
    /// Draws it.
    Plot,
}

/// Every case by its name, and whether it is measured without being named.
const CASES: [(&str, Case, bool); 16] = [
    ("ten", Case::Ten, true),
    ("small", Case::Small, true),
    ("small50k", Case::Small50k, false),
    ("medium", Case::Medium, true),
    ("large", Case::Large, true),
    ("large-1g", Case::Large1, false),
    ("large-tls", Case::LargeTls, true),
    ("mixed", Case::Mixed, true),
    ("second", Case::Second, true),
    ("rename", Case::Rename, true),
    ("latency", Case::Latency, true),
    ("restore", Case::Restore, true),
    ("restore-large", Case::RestoreLarge, true),
    ("growth", Case::Growth, false),
    ("tables", Case::Tables, false),
    ("plot", Case::Plot, false),
];

/// The command line.
#[derive(Clone, Debug)]
pub struct Options {
    /// What to do, in this order.
    pub cases: Vec<Case>,
    /// Files, where a case has a number of them.
    pub files: Option<usize>,
    /// Length of the large file, bytes.
    pub large: Option<u64>,
    /// What the endpoint waits, instead of what the case says.
    pub latency: Option<Duration>,
    /// How often each client runs.
    pub rounds: usize,
    /// The names of the clients; empty: all.
    pub only: Vec<String>,
    /// Where the trees stay.
    pub scratch: Option<PathBuf>,
    /// Where the rows are kept.
    pub results: PathBuf,
    /// Which tidewatch.
    pub program: PathBuf,
}

impl Options {
    /// Reads the words behind `--`.
    pub fn parse(arguments: &[OsString]) -> anyhow::Result<Self> {
        let mut options = Self {
            cases: Vec::new(),
            files: None,
            large: None,
            latency: None,
            rounds: 3,
            only: Vec::new(),
            scratch: std::env::var_os("TIDEWATCH_BENCH_SCRATCH").map(PathBuf::from),
            results: PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("peers.json"),
            program: PathBuf::from(env!("CARGO_BIN_EXE_tidewatch")),
        };
        let mut words = arguments.iter().map(|word| word.to_string_lossy());
        while let Some(option) = words.next() {
            if !option.starts_with('-') {
                let known = CASES.iter().find(|(name, ..)| *name == option);
                let (_, case, _) =
                    known.with_context(|| format!("{option} is unknown; {USAGE}"))?;
                options.cases.push(*case);
                continue;
            }
            // Cargo's own.
            if option == "--bench" {
                continue;
            }
            let value = words
                .next()
                .with_context(|| format!("{option} is unknown or has no value; {USAGE}"))?;
            let number = || {
                value
                    .parse::<u64>()
                    .with_context(|| format!("{option} {value}: not a number; {USAGE}"))
            };
            match &*option {
                "--files" => options.files = Some(number()?.max(1) as usize),
                "--large" => options.large = Some(number()?),
                "--latency" => options.latency = Some(Duration::from_millis(number()?)),
                "--rounds" => options.rounds = number()?.max(1) as usize,
                "--only" => options.only.push(value.into_owned()),
                "--scratch" => options.scratch = Some(PathBuf::from(&*value)),
                "--results" => options.results = PathBuf::from(&*value),
                "--program" => options.program = PathBuf::from(&*value).canonicalize()?,
                _ => bail!("{option} is unknown; {USAGE}"),
            }
        }
        if options.cases.is_empty() {
            let usual = CASES.iter().filter(|(.., is_usual)| *is_usual);
            options.cases = usual.map(|(_, case, _)| *case).collect();
        }
        Ok(options)
    }

    /// Returns those clients that are to do something.
    pub fn chosen(&self, deed: Deed) -> anyhow::Result<Vec<Client>> {
        let mut clients = of(deed, &self.program);
        clients.retain(|client| self.only.is_empty() || self.names(client));
        ensure!(
            !clients.is_empty(),
            "there is no client of that name for this; {USAGE}"
        );
        Ok(clients)
    }

    /// Returns true if a client was asked for by its name.
    pub fn names(&self, client: &Client) -> bool {
        self.only.iter().any(|name| name == client.name)
    }
}
