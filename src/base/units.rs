//! Sizes and durations as people write them.

use std::time::Duration;

/// Returns the duration that `text` says: `1s`, `10m`, `1h 30m`, `250ms`. The error is fit for "expected …".
pub fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text.trim()).map_err(|_| {
        format!("expected a duration such as \"1s\", \"10m\" or \"1h 30m\", got {text:?}")
    })
}

/// Returns the number of bytes that `text` says: `128MiB`, `1GB`, `4096`. The error is fit for "expected …".
pub fn size_bytes(text: &str) -> Result<u64, String> {
    text.trim()
        .parse::<bytesize::ByteSize>()
        .map(|size| size.as_u64())
        .map_err(|_| format!("expected a size such as \"128MiB\" or \"1GB\", got {text:?}"))
}

/// Returns a size for people: `1.5 MiB`.
pub fn show_bytes(bytes: u64) -> String {
    bytesize::ByteSize(bytes).display().iec().to_string()
}

/// Returns a duration for people, to the second above one second and to the millisecond below.
pub fn show_duration(duration: Duration) -> String {
    let rounded = if duration >= Duration::from_secs(1) {
        Duration::from_secs(duration.as_secs())
    } else {
        Duration::from_millis(duration.as_millis() as u64)
    };
    humantime::format_duration(rounded).to_string()
}

/// Returns how long something took, for people: to a tenth of a second below a minute.
pub fn show_took(took: Duration) -> String {
    if took < Duration::from_secs(60) {
        format!("{:.1}s", took.as_secs_f64())
    } else {
        show_duration(took)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_write_sizes_and_durations_in_many_ways() {
        assert_eq!(size_bytes("128MiB"), Ok(128 << 20));
        assert_eq!(size_bytes("1 GB"), Ok(1_000_000_000));
        assert_eq!(size_bytes("4096"), Ok(4096));
        assert!(size_bytes("much").is_err());
        assert_eq!(duration("1h 30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert!(duration("10").is_err());
    }

    #[test]
    fn people_read_them_rounded() {
        assert_eq!(show_duration(Duration::from_millis(65_432)), "1m 5s");
        assert_eq!(show_duration(Duration::from_micros(1_500)), "1ms");
        assert_eq!(show_took(Duration::from_millis(1_234)), "1.2s");
        assert_eq!(show_took(Duration::from_millis(65_432)), "1m 5s");
        assert_eq!(show_bytes(1536 * 1024), "1.5 MiB");
    }
}
