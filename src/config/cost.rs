//! `[cost]`: what the bucket's owner is billed.

use crate::base::price::{Micros, Prices};
use crate::config::read::{Reader, Section};

/// Reads the table; what it leaves open is AWS's.
pub fn read(reader: &mut Reader<'_>, table: &Section<'_, '_>) -> Prices {
    let usual = Prices::default();
    let currency = table.parsed(reader, "currency", currency);
    let mut price = |key: &str| table.parsed(reader, key, money);
    let (put, get, read) = (price("put"), price("get"), price("read"));
    let budget = table.parsed(reader, "budget", |text| match text.trim() {
        "off" => Ok(None),
        text => money(text).map(Some),
    });
    Prices {
        currency: currency.unwrap_or(usual.currency),
        put: put.unwrap_or(usual.put),
        get: get.unwrap_or(usual.get),
        read: read.unwrap_or(usual.read),
        budget: budget.flatten(),
    }
}

/// Returns an amount of money, millionths, from a decimal number with at most six digits behind its point.
fn money(text: &str) -> Result<Micros, String> {
    let wrong = || format!("expected an amount such as \"0.005\" or \"10\", got {text:?}");
    let (whole, part) = text.trim().split_once('.').unwrap_or((text.trim(), ""));
    let is_number = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || part.len() > 6 || !is_number(whole) || !is_number(part) {
        return Err(wrong());
    }
    let whole: Micros = whole.parse().map_err(|_| wrong())?;
    let part: Micros = format!("{part:0<6}").parse().map_err(|_| wrong())?;
    let micros = whole
        .checked_mul(1_000_000)
        .and_then(|it| it.checked_add(part));
    micros.ok_or_else(wrong)
}

fn currency(text: &str) -> Result<String, String> {
    let is_plain = text.chars().all(|c| !c.is_control()) && text.chars().count() <= 8;
    let name = is_plain.then(|| text.trim().to_owned());
    name.ok_or_else(|| format!("expected a short name such as \"USD\", got {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_is_a_decimal_number() {
        for (text, micros) in [
            ("0", 0),
            ("10", 10_000_000),
            ("0.005", 5_000),
            (" 1.000001 ", 1_000_001),
            ("3.", 3_000_000),
        ] {
            assert_eq!(money(text), Ok(micros), "{text}");
        }
        for text in [
            "",
            ".5",
            "-1",
            "1e3",
            "1,5",
            "0.0000001",
            "99999999999999999999",
            "1.x",
        ] {
            assert!(money(text).is_err(), "{text}");
        }
        assert!(currency("a\u{1b}[0m").is_err() && currency("Euro").is_ok());
    }
}
