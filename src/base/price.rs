//! What S3 bills: requests by class and bytes read back, times prices. Not the storage, which depends on what else is there.

use serde::{Deserialize, Serialize};

use crate::base::meter::Reading;

/// Millionths of a unit of money.
pub type Micros = u64;

/// What costs how much. Invariant: whole millionths, so that a config can be compared.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Prices {
    /// The name of the money, for people.
    pub currency: String,
    /// 1,000 PUT, COPY, POST and LIST requests, millionths.
    pub put: Micros,
    /// 1,000 GET, HEAD and all other requests, millionths; removals and given up uploads are free.
    pub get: Micros,
    /// 10⁹ bytes read back, millionths.
    pub read: Micros,
    /// What may be spent in a month, millionths; `None`: nobody minds.
    pub budget: Option<Micros>,
}

impl Default for Prices {
    /// AWS, S3 Standard in us-east-1 (<https://aws.amazon.com/s3/pricing/>); what is read leaves AWS for the internet.
    fn default() -> Self {
        Self {
            currency: "USD".to_owned(),
            put: 5_000,
            get: 400,
            read: 90_000,
            budget: None,
        }
    }
}

/// Counts that are billed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Usage {
    /// PUT, COPY, POST and LIST requests.
    pub puts: u64,
    /// GET, HEAD and other requests.
    pub gets: u64,
    /// Removals and given up uploads, which are free on AWS.
    pub deletes: u64,
    /// Bytes that went out.
    pub sent_bytes: u64,
    /// Bytes of objects that were read back.
    pub read_bytes: u64,
}

/// What an operation is billed as.
enum Class {
    Put,
    Get,
    Free,
}

/// Returns the class of an operation (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/aws-usage-report-understand.html>).
fn class(operation: &str) -> Class {
    match operation {
        "DeleteObject" | "DeleteObjects" | "AbortMultipartUpload" => Class::Free,
        _ if operation.starts_with("List")
            || operation.starts_with("Put")
            || operation.starts_with("Create")
            || operation.starts_with("Complete")
            || operation.starts_with("Upload")
            || operation.starts_with("Copy") =>
        {
            Class::Put
        }
        _ => Class::Get,
    }
}

impl Usage {
    /// Returns what the readings of a meter come to. What the store failed at (a status of 500 and more) is not billed;
    /// what it did not answer may be, and is counted.
    pub fn of(readings: &[Reading]) -> Self {
        let mut usage = Self::default();
        for reading in readings {
            let cell = &reading.cell;
            usage.sent_bytes += cell.sent_bytes;
            usage.read_bytes += cell.received_bytes;
            if reading.status.is_some_and(|status| status >= 500) {
                continue;
            }
            match class(reading.operation) {
                Class::Put => usage.puts += cell.requests,
                Class::Get => usage.gets += cell.requests,
                Class::Free => usage.deletes += cell.requests,
            }
        }
        usage
    }

    /// Returns the sum of two usages.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let add = u64::saturating_add;
        Self {
            puts: add(self.puts, other.puts),
            gets: add(self.gets, other.gets),
            deletes: add(self.deletes, other.deletes),
            sent_bytes: add(self.sent_bytes, other.sent_bytes),
            read_bytes: add(self.read_bytes, other.read_bytes),
        }
    }

    /// Returns what is in this one and not in an earlier one of the same meter.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        let less = u64::saturating_sub;
        Self {
            puts: less(self.puts, earlier.puts),
            gets: less(self.gets, earlier.gets),
            deletes: less(self.deletes, earlier.deletes),
            sent_bytes: less(self.sent_bytes, earlier.sent_bytes),
            read_bytes: less(self.read_bytes, earlier.read_bytes),
        }
    }
}

impl Prices {
    /// Returns what a usage costs, millionths, rounded up.
    pub fn cost(&self, usage: Usage) -> Micros {
        let times = |count: u64, price: Micros, each: u128| {
            (u128::from(count) * u128::from(price)).div_ceil(each)
        };
        let sum = times(usage.puts, self.put, 1_000)
            + times(usage.gets, self.get, 1_000)
            + times(usage.read_bytes, self.read, 1_000_000_000);
        u64::try_from(sum).unwrap_or(u64::MAX)
    }

    /// Returns an amount for people, see [`show`].
    pub fn show(&self, amount: Micros) -> String {
        show(amount, &self.currency)
    }

    /// Returns what a month will have cost, millionths, that has cost `amount` in a share of it that has passed (above 0, at
    /// most 1); within its first day, a whole day counts as passed.
    pub fn by_the_end_of_the_month(amount: Micros, share: f64) -> Micros {
        (amount as f64 / share.clamp(1.0 / 31.0, 1.0)) as Micros
    }
}

/// Returns an amount for people: `0.0123 USD`, with four digits below one and two above.
pub fn show(amount: Micros, currency: &str) -> String {
    if (1..100).contains(&amount) {
        return format!("less than 0.0001 {currency}");
    }
    let units = amount as f64 / 1e6;
    let digits = if amount < 1_000_000 { 4 } else { 2 };
    format!("{units:.digits$} {currency}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::meter::Meter;
    use std::time::Duration;

    #[test]
    fn requests_are_billed_by_their_class_and_failures_of_the_store_are_not() {
        let meter = Meter::default();
        for (operation, status) in [
            ("PutObject", Some(200)),
            ("ListObjectsV2", Some(200)),
            ("CopyObject", None),
            ("UploadPart", Some(503)),
            ("GetObject", Some(404)),
            ("HeadBucket", Some(200)),
            ("DeleteObjects", Some(200)),
        ] {
            meter.count(operation, status, (10, 1), Duration::ZERO);
        }
        let usage = Usage::of(&meter.read());
        assert_eq!((usage.puts, usage.gets, usage.deletes), (3, 2, 1));
        assert_eq!((usage.sent_bytes, usage.read_bytes), (70, 7));
        assert_eq!(usage.plus(usage).since(usage), usage);
    }

    #[test]
    fn a_million_uploads_cost_five_dollars_and_a_gigabyte_read_nine_cents() {
        let prices = Prices::default();
        let puts = Usage {
            puts: 1_000_000,
            ..Usage::default()
        };
        assert_eq!(prices.show(prices.cost(puts)), "5.00 USD");
        let read = Usage {
            read_bytes: 1_000_000_000,
            gets: 1,
            ..Usage::default()
        };
        assert_eq!(prices.show(prices.cost(read)), "0.0900 USD");
        assert_eq!(prices.cost(read), 90_001);
        assert_eq!(prices.show(5), "less than 0.0001 USD");
        assert_eq!(prices.show(0), "0.0000 USD");
    }

    #[test]
    fn a_month_is_foretold_from_its_share_and_not_from_its_first_minutes() {
        let end = Prices::by_the_end_of_the_month;
        assert_eq!(end(5_000, 0.5), 10_000);
        assert_eq!(end(1_000, 0.000_1), 31_000);
        assert_eq!(end(7, 1.0), 7);
    }
}
