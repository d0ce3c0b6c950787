//! What a first sync takes, told while it begins: files, bytes, requests, and what they cost.
//!
//! A walk of its own, which only looks: the agent's own goes on as fast as files are sent, and so would tell it last.

use std::sync::Arc;

use crate::base::offload::Offload;
use crate::base::path::RelPath;
use crate::base::price::{Prices, Usage};
use crate::base::units::show_bytes;
use crate::config;
use crate::sync::upload::{SINGLE_MOST, part_size_bytes};
use crate::tree::Tree;
use crate::tree::filter::Filter;
use crate::tree::real::RealTree;
use crate::tree::scan::{Depth, Known, Rows, Scanner, Scope};

/// Paths looked at in one call.
const BATCH: usize = 1_000;

/// Returns how many requests it takes to send a file.
pub fn requests(size: u64) -> u64 {
    if size <= SINGLE_MOST {
        return 1;
    }
    // Begin, parts, complete.
    2 + size.div_ceil(part_size_bytes(size))
}

/// Returns what so many requests cost at most: as if all were uploads, the dearest kind.
pub fn cost_at_most(requests: u64, prices: &Prices) -> u64 {
    prices.cost(Usage {
        puts: requests,
        ..Usage::default()
    })
}

/// A folder of which nothing is known.
pub struct NoRows;

impl Rows for NoRows {
    fn page(&mut self, _: &RelPath, _: &RelPath, _: usize) -> anyhow::Result<Vec<Known>> {
        Ok(Vec::new())
    }
}

fn plural(count: u64) -> &'static str {
    if count == 1 { "" } else { "s" }
}

/// A folder that meets its bucket for the first time.
#[derive(Debug)]
pub struct First {
    /// What the config says of it.
    pub folder: config::Folder,
    /// What belongs.
    pub filter: Arc<Filter>,
    /// What requests cost.
    pub prices: Prices,
    /// The wall clock by which the ages of files are judged, nanoseconds.
    pub now_ns: i64,
}

impl First {
    /// Counts, and says in a line of the log what was counted. Cancel-safe.
    pub async fn tell(self) {
        let tree = RealTree::open(&self.folder.path).with_symlinks(self.folder.symlinks);
        let tree: Arc<dyn Tree> = Arc::new(tree);
        let scope = Scope {
            folder: RelPath::root(),
            depth: Depth::Full,
        };
        let scanner = Scanner::new(tree, Box::new(NoRows), self.filter.clone(), scope);
        let mut scanner = scanner.at(self.now_ns);
        let (mut files, mut bytes, mut asks) = (0_u64, 0_u64, 0_u64);
        loop {
            let step = Offload::Pool.run(move || {
                let step = scanner.step(BATCH);
                (scanner, step)
            });
            let (next, step) = step.await;
            // What stands in the way is the agent's to tell.
            let Ok(step) = step else { return };
            for (_, size) in &step.differing {
                files += 1;
                bytes = bytes.saturating_add(*size);
                asks += requests(*size);
            }
            if step.done {
                break;
            }
            scanner = next;
        }
        if files > 0 {
            let cost = self.prices.show(cost_at_most(asks, &self.prices));
            tracing::info!(folder = %self.folder.name,
                "a first sync: {files} file{s} ({}) here, about {asks} request{asked} if all are sent, {cost}", show_bytes(bytes),
                s = plural(files), asked = plural(asks));
        }
    }
}
