//! Who may ask the page for what. Pure.
//!
//! The page listens where any program of this machine, and any site that a browser of it shows, can send requests to. So
//! a request has to be for this host by a name that no foreign site can have (against DNS that is rebound), must not come
//! from a foreign site (against forged requests), and shows names or decides anything only with the token.

use std::net::{IpAddr, SocketAddr};

use hyper::header::{self, HeaderMap, HeaderName};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};

use crate::base::host::is_loopback;
use crate::commands::page::token::Token;

/// What a browser says of where a request comes from.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Whether a request has shown the token.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Knows {
    /// It has: names and decisions.
    Names,
    /// It has none: health, counts and lag.
    Counts,
}

/// Why a request is not answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// What its answer says.
    pub status: StatusCode,
    /// For people.
    pub why: &'static str,
}

/// What requests are judged by.
#[derive(Debug)]
pub struct Guard {
    /// Where the page listens.
    pub address: SocketAddr,
    /// What this machine is called.
    pub hostname: String,
    /// The token.
    pub token: Token,
}

impl Guard {
    /// Judges the head of a request.
    pub fn judge(&self, head: &Parts) -> Result<Knows, Refusal> {
        let refuse = |status, why| Err(Refusal { status, why });
        let headers = &head.headers;
        let Some(host) = one(headers, &header::HOST).filter(|host| self.is_ours(host)) else {
            return refuse(StatusCode::FORBIDDEN, FOREIGN_HOST);
        };
        // What a proxy is asked: nobody has business doing that here.
        if head.uri.authority().is_some() {
            return refuse(StatusCode::FORBIDDEN, FOREIGN_HOST);
        }
        if headers.contains_key(header::ORIGIN)
            && !one(headers, &header::ORIGIN).is_some_and(|origin| is_same(origin, host))
        {
            return refuse(StatusCode::FORBIDDEN, FOREIGN_SITE);
        }
        if headers.contains_key(SEC_FETCH_SITE)
            && !matches!(one(headers, &SEC_FETCH_SITE), Some("same-origin" | "none"))
        {
            return refuse(StatusCode::FORBIDDEN, FOREIGN_SITE);
        }
        let knows = if headers.contains_key(header::AUTHORIZATION) {
            let given = one(headers, &header::AUTHORIZATION).and_then(bearer);
            if !given.is_some_and(|given| self.token.is(given)) {
                return refuse(StatusCode::UNAUTHORIZED, WRONG_TOKEN);
            }
            Knows::Names
        } else {
            Knows::Counts
        };
        if head.method == Method::POST {
            if knows == Knows::Counts {
                return refuse(StatusCode::UNAUTHORIZED, NO_TOKEN);
            }
            if !one(headers, &header::CONTENT_TYPE).is_some_and(is_json) {
                return refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, NOT_JSON);
            }
        }
        Ok(knows)
    }

    /// Returns true if a `Host` is a name of this machine that nobody else can have: a loopback name, where we listen, or
    /// the machine's own. Where we listen on every address, that is any address in digits.
    fn is_ours(&self, host: &str) -> bool {
        if is_loopback(host) {
            return true;
        }
        let name = without_port(host);
        let digits = name.trim_start_matches('[').trim_end_matches(']');
        if let Ok(ip) = digits.parse::<IpAddr>() {
            return self.address.ip().is_unspecified() || ip == self.address.ip();
        }
        // A machine that listens for itself alone is not asked by its name.
        !self.address.ip().is_loopback()
            && !self.hostname.is_empty()
            && name.eq_ignore_ascii_case(&self.hostname)
    }
}

/// For a request that needs the token and has none.
pub const NO_TOKEN: &str = "this needs the token: `tidewatch open`, or `Authorization: Bearer`";
const WRONG_TOKEN: &str = "the token is not the right one: `tidewatch open` has it";
const FOREIGN_HOST: &str = "the Host is not a name of this page";
const FOREIGN_SITE: &str = "the request comes from another site";
const NOT_JSON: &str = "the Content-Type has to be application/json";

/// Returns the value of a header that is there exactly once, as text.
fn one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let (first, more) = (values.next()?, values.next());
    if more.is_some() {
        return None;
    }
    first.to_str().ok()
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, given) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| given.trim())
}

fn is_json(value: &str) -> bool {
    let kind = value.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/json")
}

/// Returns true if an `Origin` is the page at `host`.
fn is_same(origin: &str, host: &str) -> bool {
    let rest = origin
        .strip_prefix("http://")
        .or_else(|| origin.strip_prefix("https://"));
    rest.is_some_and(|rest| rest.eq_ignore_ascii_case(host))
}

fn without_port(host: &str) -> &str {
    if let Some(end) = host.rfind(']') {
        return &host[..=end];
    }
    host.split(':').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    fn guard(address: &str) -> Guard {
        let dir = tempfile::tempdir().expect("a folder");
        Guard {
            address: address.parse().expect("an address"),
            hostname: "nas".to_owned(),
            token: crate::commands::page::token::keep(dir.path()).expect("a token"),
        }
    }

    fn head(method: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri("/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a request").into_parts().0
    }

    fn judged(guard: &Guard, method: &str, headers: &[(&str, &str)]) -> u16 {
        match guard.judge(&head(method, headers)) {
            Ok(Knows::Counts) => 0,
            Ok(Knows::Names) => 1,
            Err(refusal) => refusal.status.as_u16(),
        }
    }

    #[test]
    fn only_names_that_no_foreign_site_can_have_are_answered() {
        let alone = guard("127.0.0.1:8737");
        let open = guard("0.0.0.0:8737");
        let one = guard("10.0.0.5:8737");
        for (host, expected) in [
            ("127.0.0.1:8737", [0, 0, 0]),
            ("localhost:9000", [0, 0, 0]),
            ("[::1]:8737", [0, 0, 0]),
            ("10.0.0.5:8737", [403, 0, 0]),
            ("10.0.0.6:8737", [403, 0, 403]),
            ("[fe80::1]", [403, 0, 403]),
            ("NAS:8737", [403, 0, 0]),
            ("nas.example.com", [403, 403, 403]),
            ("evil.example", [403, 403, 403]),
            ("127.0.0.1.evil.example", [403, 403, 403]),
            ("localhost.evil.example", [403, 403, 403]),
            ("", [403, 403, 403]),
        ] {
            let got = [&alone, &open, &one].map(|guard| judged(guard, "GET", &[("host", host)]));
            assert_eq!(got, expected, "{host}");
        }
        assert_eq!(judged(&alone, "GET", &[]), 403);
        let twice = [("host", "localhost"), ("host", "localhost")];
        assert_eq!(judged(&alone, "GET", &twice), 403);
        let request = Request::builder()
            .uri("http://localhost/")
            .header("host", "localhost");
        let proxied = request.body(()).expect("a request").into_parts().0;
        assert!(alone.judge(&proxied).is_err());
    }

    #[test]
    fn foreign_sites_are_refused() {
        let guard = guard("127.0.0.1:8737");
        let host = ("host", "localhost:8737");
        for (name, value, expected) in [
            ("origin", "http://localhost:8737", 0),
            ("origin", "http://LOCALHOST:8737", 0),
            ("origin", "http://localhost:9000", 403),
            ("origin", "http://evil.example", 403),
            ("origin", "null", 403),
            ("sec-fetch-site", "same-origin", 0),
            ("sec-fetch-site", "none", 0),
            ("sec-fetch-site", "same-site", 403),
            ("sec-fetch-site", "cross-site", 403),
            ("sec-fetch-site", "", 403),
        ] {
            let got = judged(&guard, "GET", &[host, (name, value)]);
            assert_eq!(got, expected, "{name}: {value}");
        }
    }

    #[test]
    fn deciding_takes_the_token_and_json() {
        let guard = guard("127.0.0.1:8737");
        let host = ("host", "localhost");
        let right = format!("Bearer {}", guard.token.reveal());
        let wrong = format!("Bearer {}0", &guard.token.reveal()[1..]);
        let basic = right.replace("Bearer", "Basic");
        let json = ("content-type", "application/json; charset=utf-8");
        let form = ("content-type", "text/plain");
        let (right, wrong) = (("authorization", &*right), ("authorization", &*wrong));
        for (method, headers, expected) in [
            ("GET", vec![host], 0),
            ("GET", vec![host, right], 1),
            ("GET", vec![host, wrong], 401),
            ("GET", vec![host, ("authorization", &basic)], 401),
            ("GET", vec![host, ("authorization", "")], 401),
            ("GET", vec![host, right, right], 401),
            ("POST", vec![host, json], 401),
            ("POST", vec![host, wrong, json], 401),
            ("POST", vec![host, right], 415),
            ("POST", vec![host, right, form], 415),
            ("POST", vec![host, right, json], 1),
        ] {
            assert_eq!(judged(&guard, method, &headers), expected, "{headers:?}");
        }
    }
}
