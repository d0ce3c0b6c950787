//! Which of a store's addresses a new connection goes to: any of them, so that many connections do not all end at one.
//!
//! Of the two families the one that the system prefers stays first, as it knows which of them leads anywhere.

use std::io;
use std::net::IpAddr;

use aws_smithy_runtime_api::client::dns::{DnsFuture, ResolveDns, ResolveDnsError};

/// Asks the system for a name's addresses, and shuffles them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spread;

impl ResolveDns for Spread {
    fn resolve_dns<'a>(&'a self, name: &'a str) -> DnsFuture<'a> {
        DnsFuture::new(async move {
            let found: io::Result<Vec<_>> = tokio::net::lookup_host((name, 0))
                .await
                .map(|found| found.map(|address| address.ip()).collect());
            let mut addresses = found.map_err(ResolveDnsError::new)?;
            shuffle(&mut addresses, &mut fastrand::Rng::new());
            Ok(addresses)
        })
    }
}

fn shuffle(addresses: &mut [IpAddr], random: &mut fastrand::Rng) {
    let is_first = addresses.first().map(IpAddr::is_ipv4);
    random.shuffle(addresses);
    // A stable sort: what is of one family keeps its new order.
    addresses.sort_by_key(|address| Some(address.is_ipv4()) != is_first);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_address_comes_first_at_some_time_and_the_preferred_family_always() {
        let of = |texts: &[&str]| -> Vec<IpAddr> {
            let parsed = texts.iter().map(|text| text.parse().expect("an address"));
            parsed.collect()
        };
        let all = of(&["::1", "::2", "::3", "10.0.0.1", "10.0.0.2"]);
        let mut random = fastrand::Rng::with_seed(1);
        let mut first = BTreeSet::new();
        for _ in 0..100 {
            let mut addresses = all.clone();
            shuffle(&mut addresses, &mut random);
            assert!(addresses[..3].iter().all(IpAddr::is_ipv6));
            first.insert(addresses[0]);
            addresses.sort();
            let mut whole = all.clone();
            whole.sort();
            assert_eq!(addresses, whole);
        }
        assert_eq!(first.len(), 3);
        let mut none = Vec::new();
        shuffle(&mut none, &mut random);
    }

    #[tokio::test]
    async fn a_name_is_asked_for_and_one_that_is_none_is_an_error() {
        let found = Spread.resolve_dns("localhost").await.expect("addresses");
        assert!(found.iter().all(IpAddr::is_loopback), "{found:?}");
        assert!(Spread.resolve_dns("no such name.invalid").await.is_err());
    }
}
