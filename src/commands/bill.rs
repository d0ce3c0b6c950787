//! What the process asks of S3, added up in its state folder.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::base::clock::Clock;
use crate::base::meter::{Meter, Reading};
use crate::base::offload::Offload;
use crate::base::price::{Prices, Usage};
use crate::report::bill_file::{self, Bill, Cost};

/// How often it is written down while anything is asked.
const EVERY: Duration = Duration::from_secs(60);

/// The bill of one state folder; its owner holds the folder's lock.
#[derive(Debug)]
pub struct Biller {
    state_dir: PathBuf,
    meter: Arc<Meter>,
    prices: Mutex<Prices>,
    sofar: Mutex<SoFar>,
}

#[derive(Debug, Default)]
struct SoFar {
    bill: Bill,
    /// What of the meter is on the bill.
    billed: Usage,
    is_over: bool,
    /// Something of it is not in the file.
    is_dirty: bool,
    cannot_write: bool,
}

impl Biller {
    /// Goes on with the bill that is there. Blocks for a small file.
    pub fn new(state_dir: PathBuf, meter: Arc<Meter>, prices: Prices) -> Self {
        let bill = bill_file::read(&state_dir).unwrap_or_default();
        let sofar = SoFar {
            bill,
            ..SoFar::default()
        };
        Self {
            state_dir,
            meter,
            prices: Mutex::new(prices),
            sofar: Mutex::new(sofar),
        }
    }

    /// Returns the prices.
    pub fn prices(&self) -> Prices {
        self.prices
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Returns what was asked of S3 since the process began.
    pub fn requests(&self) -> Vec<Reading> {
        self.meter.read()
    }

    /// Uses other prices from now on.
    pub fn set_prices(&self, prices: Prices) {
        *self.prices.lock().unwrap_or_else(PoisonError::into_inner) = prices;
    }

    /// Returns what it costs now.
    pub fn cost(&self) -> Cost {
        self.add(Clock::Real.now().wall_ns).1
    }

    /// Writes down what has been asked since the last time; says once that the budget is about to be passed.
    pub async fn note(&self) {
        let (bill, cost, is_dirty) = self.add(Clock::Real.now().wall_ns);
        self.mind(&cost);
        if !is_dirty {
            return;
        }
        let dir = self.state_dir.clone();
        self.sofar
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_dirty = false;
        let written = Offload::Pool
            .run(move || bill_file::write(&dir, &bill))
            .await;
        let mut sofar = self.sofar.lock().unwrap_or_else(PoisonError::into_inner);
        match written {
            Ok(()) => sofar.cannot_write = false,
            Err(error) => {
                sofar.is_dirty = true;
                if !std::mem::replace(&mut sofar.cannot_write, true) {
                    tracing::warn!("could not keep what requests cost: {error}; it is counted on");
                }
            }
        }
    }

    /// Writes it down every minute. Cancel-safe.
    pub async fn keep_up(self: Arc<Self>) {
        loop {
            tokio::time::sleep(EVERY).await;
            self.note().await;
        }
    }

    /// Adds what is new on the meter; returns the bill, what it costs, and whether the file lacks anything of it.
    fn add(&self, now_ns: i64) -> (Bill, Cost, bool) {
        let usage = Usage::of(&self.meter.read());
        let prices = self.prices();
        let mut sofar = self.sofar.lock().unwrap_or_else(PoisonError::into_inner);
        let new = usage.since(sofar.billed);
        if new != Usage::default() {
            sofar.bill.add(new, &prices, now_ns);
            (sofar.billed, sofar.is_dirty) = (usage, true);
        }
        let cost = sofar.bill.cost(now_ns);
        (sofar.bill.clone(), cost, sofar.is_dirty)
    }

    /// Says that the budget is, or is about to be, passed; `None` if it is not.
    pub fn over(&self) -> Option<String> {
        let cost = self.cost();
        cost.is_over().then(|| self.words(&cost))
    }

    fn words(&self, cost: &Cost) -> String {
        let prices = self.prices();
        format!(
            "requests of this month will come to {} at this pace ({} so far), more than the budget of {}",
            prices.show(cost.month_at_this_pace),
            prices.show(cost.month.cost),
            prices.show(cost.budget.unwrap_or_default()),
        )
    }

    fn mind(&self, cost: &Cost) {
        let mut sofar = self.sofar.lock().unwrap_or_else(PoisonError::into_inner);
        let was_over = std::mem::replace(&mut sofar.is_over, cost.is_over());
        if cost.is_over() && !was_over {
            tracing::warn!("{}", self.words(cost));
        }
    }
}
