//! Which hosts are this machine.

/// Returns true if `host`, with its port and path perhaps, is this machine.
pub fn is_loopback(host: &str) -> bool {
    let host = host.split('/').next().unwrap_or_default();
    let name = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let is_address = name
        .parse::<std::net::IpAddr>()
        .is_ok_and(|address| address.is_loopback());
    is_address || name == "localhost" || name.ends_with(".localhost")
}

/// Returns true if requests to the endpoint `url` would cross a network in the clear.
pub fn is_open_line(url: &str) -> bool {
    url.strip_prefix("http://")
        .is_some_and(|host| !is_loopback(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_loopback() {
        for host in [
            "127.0.0.1:9000",
            "127.1.2.3",
            "localhost:1/x",
            "s3.localhost",
            "[::1]:9000",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "10.0.0.1",
            "minio:9000",
            "localhost.example.com",
            "[fe80::1]",
            "",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn only_plain_http_across_a_network_is_an_open_line() {
        assert!(is_open_line("http://minio:9000"));
        for url in ["https://minio:9000", "http://127.0.0.1:9000", ""] {
            assert!(!is_open_line(url), "{url}");
        }
    }
}
