//! Single values as people write them. (pure, but for looking whether a path is there)
//!
//! Every error is one line that fits behind the name of the key or option it is about.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::base::path::escaped;
use crate::base::policy::OnDelete;
use crate::base::units;
use crate::config::{Bandwidth, Concurrency, PathStyle};

/// The most requests in flight that can be asked for: beyond it an endpoint throttles, and open files run short.
pub const MAX_CONCURRENCY: usize = 512;

/// The least memory that uploads can be given: two parts of 16 MiB, one going out while the next is read.
const MIN_MEMORY_BYTES: u64 = 32 << 20;

/// The longest duration: far beyond any use, and far from where instants overflow.
const MAX_DURATION: Duration = Duration::from_secs(365 * 24 * 3600);

/// Takes a duration of at most 365 days.
pub fn duration(text: &str) -> Result<Duration, String> {
    let duration = units::duration(text)?;
    if duration > MAX_DURATION {
        return Err(format!("expected at most \"365 days\", got {text:?}"));
    }
    Ok(duration)
}

/// Takes a duration between `least` and 365 days.
pub fn duration_from(least: Duration, text: &str) -> Result<Duration, String> {
    let duration = duration(text)?;
    if duration < least {
        let least = units::show_duration(least);
        return Err(format!("expected at least \"{least}\", got {text:?}"));
    }
    Ok(duration)
}

/// Takes an address to listen at: an IP address, or `localhost`, and a port.
pub fn listen(text: &str) -> Result<SocketAddr, String> {
    let digits = match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => text.to_owned(),
    };
    digits.parse().map_err(|_| {
        format!("expected an address and a port such as \"127.0.0.1:8737\" or \"[::1]:8737\", got {text:?}")
    })
}

/// Takes the memory that uploads may use, in bytes.
pub fn memory(text: &str) -> Result<u64, String> {
    let bytes = units::size_bytes(text)?;
    if bytes < MIN_MEMORY_BYTES {
        return Err(format!("expected at least \"32MiB\", got {text:?}"));
    }
    Ok(bytes)
}

/// Takes a limit of bandwidth, or a timetable of them.
pub fn bandwidth(text: &str) -> Result<Bandwidth, String> {
    Bandwidth::parse(text)
}

/// Takes `auto` or a number of requests.
pub fn concurrency(text: &str) -> Result<Concurrency, String> {
    if text == "auto" {
        return Ok(Concurrency::Auto);
    }
    text.parse()
        .ok()
        .and_then(fixed)
        .ok_or_else(|| concurrency_expected(&format!("{text:?}")))
}

/// Takes a number of requests.
pub fn fixed(count: i64) -> Option<Concurrency> {
    let count = NonZeroUsize::new(usize::try_from(count).ok()?)?;
    (count.get() <= MAX_CONCURRENCY).then_some(Concurrency::Fixed(count))
}

/// Returns what is said of anything else than a concurrency.
pub fn concurrency_expected(got: &str) -> String {
    format!("expected \"auto\" or a number from 1 to {MAX_CONCURRENCY}, got {got}")
}

/// Takes `auto`, `always` or `never`.
pub fn path_style(text: &str) -> Result<PathStyle, String> {
    match text {
        "auto" => Ok(PathStyle::Auto),
        "always" => Ok(PathStyle::Always),
        "never" => Ok(PathStyle::Never),
        _ => Err(format!(
            "expected \"auto\", \"always\" or \"never\", got {text:?}"
        )),
    }
}

/// Takes one of several words. The error lists them.
pub fn choice<T: Copy>(choices: &[(&str, T)], text: &str) -> Result<T, String> {
    let found = choices.iter().find(|(word, _)| *word == text);
    found.map(|(_, choice)| *choice).ok_or_else(|| {
        let words: Vec<String> = choices
            .iter()
            .map(|(word, _)| format!("\"{word}\""))
            .collect();
        let listed = match words.split_last() {
            Some((last, [])) => last.clone(),
            Some((last, before)) => format!("{} or {last}", before.join(", ")),
            None => String::new(),
        };
        format!("expected {listed}, got {text:?}")
    })
}

/// Takes `keep`, `trash` or `delete`.
pub fn on_delete(text: &str) -> Result<OnDelete, String> {
    let choices = [
        ("keep", OnDelete::Keep),
        ("trash", OnDelete::Trash),
        ("delete", OnDelete::Delete),
    ];
    choice(&choices, text)
}

/// Takes a length of files in bytes, of at least one.
pub fn length(text: &str) -> Result<u64, String> {
    match units::size_bytes(text)? {
        0 => Err(format!(
            "expected a size of at least one byte, or \"\" for no limit, got {text:?}"
        )),
        bytes => Ok(bytes),
    }
}

/// Takes a share in percent: `20%`.
pub fn percent(text: &str) -> Result<u8, String> {
    let number = text.trim().strip_suffix('%').map(str::trim_end);
    number
        .and_then(|number| number.parse().ok())
        .filter(|percent| (1..=100).contains(percent))
        .ok_or_else(|| format!("expected a share from \"1%\" to \"100%\", got {text:?}"))
}

/// Takes a region's name.
pub fn region(text: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if text.is_empty() || !text.chars().all(good) {
        return Err(format!(
            "expected a region such as \"eu-central-1\", got {text:?}"
        ));
    }
    Ok(text.to_owned())
}

/// Takes the URL of an endpoint and returns it without a `/` at its end.
pub fn endpoint_url(text: &str) -> Result<String, String> {
    let expected = "expected a URL such as \"https://minio.example.com:9000\"";
    let rest = ["https://", "http://"]
        .iter()
        .find_map(|scheme| text.strip_prefix(scheme));
    let Some(rest) = rest else {
        return Err(format!("{expected}, got {text:?}"));
    };
    let host = rest.split('/').next().unwrap_or_default();
    if host.contains('@') {
        // The text is not repeated: it may hold a password.
        return Err(format!(
            "{expected}, without user and password: credentials come from the standard AWS chain"
        ));
    }
    let odd = |c: char| c.is_whitespace() || c.is_control() || c == '?' || c == '#';
    if host.is_empty() || host.starts_with(':') || rest.contains(odd) {
        return Err(format!("{expected}, got {text:?}"));
    }
    Ok(text.trim_end_matches('/').to_owned())
}

/// Takes one gitignore rule.
pub fn rule(text: &str) -> Result<String, String> {
    let mut rules = ignore::gitignore::GitignoreBuilder::new("/");
    match rules.add_line(None, text) {
        Ok(_) => Ok(text.to_owned()),
        Err(ignore::Error::Glob { err: why, .. }) => {
            Err(format!("expected a gitignore rule, got {text:?}: {why}"))
        }
        Err(error) => Err(format!("expected a gitignore rule, got {text:?}: {error}")),
    }
}

/// Takes one gitignore rule of what is taken in again.
pub fn include_rule(text: &str) -> Result<String, String> {
    if text.starts_with('!') {
        return Err(format!("expected a rule without `!`, got {text:?}"));
    }
    rule(text)
}

/// Takes an absolute path. `home` is what a `~` would have meant, for the message.
pub fn absolute(text: &str, home: Option<&Path>) -> Result<PathBuf, String> {
    let path = Path::new(text);
    if path.is_absolute() {
        return Ok(path.to_path_buf());
    }
    let meant = match (text.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => home.join(rest).display().to_string(),
        _ => "/srv/photos".to_owned(),
    };
    Err(format!(
        "expected an absolute path such as {meant:?}, got {text:?}"
    ))
}

/// Returns true if there is nothing at `path`, not even a link that leads nowhere.
pub fn is_absent(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
}

/// Takes a folder that is there and returns its canonical path.
pub fn folder(path: &Path) -> Result<PathBuf, String> {
    let shown = escaped(path.as_os_str().as_encoded_bytes());
    let canonical = std::fs::canonicalize(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => format!("there is no folder `{shown}`"),
        _ => format!("the folder `{shown}` cannot be used: {error}"),
    })?;
    if !canonical.is_dir() {
        return Err(format!("`{shown}` is not a folder"));
    }
    Ok(canonical)
}

/// Takes a file with certificates that is there.
pub fn ca_bundle(text: &str, home: Option<&Path>) -> Result<PathBuf, String> {
    let path = absolute(text, home)?;
    match std::fs::metadata(&path) {
        Ok(stat) if stat.is_file() => Ok(path),
        Ok(_) => Err(format!("expected a PEM file, and {text:?} is not a file")),
        Err(error) => Err(format!(
            "expected a PEM file, and {text:?} cannot be read: {error}"
        )),
    }
}

/// Takes a file with a key, which nobody else may read.
pub fn key_file(text: &str, home: Option<&Path>) -> Result<PathBuf, String> {
    let path = absolute(text, home)?;
    let stat = std::fs::metadata(&path)
        .map_err(|error| format!("expected a file, and {text:?} cannot be read: {error}"))?;
    if !stat.is_file() {
        return Err(format!("expected a file, and {text:?} is not one"));
    }
    if stat.permissions().mode() & 0o004 != 0 {
        return Err(format!(
            "everybody may read the key in {text:?}; run `chmod 600` on it"
        ));
    }
    Ok(path)
}

/// Takes the name of a storage class; `None` is STANDARD. Other stores than S3 have names of their own.
pub fn storage_class(text: &str) -> Result<Option<String>, String> {
    let good = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || matches!(c, '_' | '-');
    match text {
        "" | "STANDARD" => Ok(None),
        _ if text.chars().all(good) => Ok(Some(text.to_owned())),
        _ => Err(format!(
            "expected a storage class such as \"STANDARD_IA\", got {text:?}"
        )),
    }
}

/// Takes what a header can hold.
pub fn header_value(text: &str) -> Result<String, String> {
    let good = |c: char| c == ' ' || c.is_ascii_graphic();
    if text.trim() != text || text.is_empty() || !text.chars().all(good) {
        return Err(format!(
            "expected a text of printable ASCII characters, got {text:?}"
        ));
    }
    Ok(text.to_owned())
}

/// Takes a MIME type.
pub fn content_type(text: &str) -> Result<String, String> {
    match text.split_once('/') {
        Some((kind, rest)) if !kind.is_empty() && !rest.is_empty() => header_value(text),
        _ => Err(format!(
            "expected a type such as \"text/html\", got {text:?}"
        )),
    }
}

/// Checks a tag against S3's limits, which count characters.
pub fn tag(name: &str, value: &str) -> Result<(), String> {
    let fits = |text: &str, most| text.chars().count() <= most && !text.contains(char::is_control);
    if name.is_empty() || !fits(name, 128) || !fits(value, 256) || name.starts_with("aws:") {
        return Err(format!(
            "expected a name of 1 to 128 characters, not beginning with \"aws:\", and a value of at most 256, got {name:?}"
        ));
    }
    Ok(())
}

/// Takes what a folder is called.
pub fn name(text: &str) -> Result<String, String> {
    // A name with a `/` could not be told from a path or a URL where commands take either.
    if text.is_empty() || text.contains('/') || text.contains(char::is_control) {
        return Err(format!(
            "expected a name without `/` and control characters, got {text:?}"
        ));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_web_address_without_secrets() {
        let good = |text| endpoint_url(text).is_ok();
        assert_eq!(
            endpoint_url("http://127.0.0.1:9000/").as_deref(),
            Ok("http://127.0.0.1:9000")
        );
        assert!(good("https://[::1]:9000") && good("https://x.example/s3"));
        for bad in [
            "",
            "minio:9000",
            "s3://x",
            "https://",
            "https://:9",
            "http://a b",
            "http://a?b",
        ] {
            assert!(!good(bad), "{bad}");
        }
        let error = endpoint_url("https://ann:secret@x").expect_err("a password");
        assert!(!error.contains("secret"), "{error}");
    }

    #[test]
    fn concurrency_is_auto_or_a_number_in_bounds() {
        assert_eq!(concurrency("auto"), Ok(Concurrency::Auto));
        assert_eq!(concurrency("64").ok(), fixed(64));
        for bad in ["", "0", "-1", "513", "many", "1.5"] {
            assert!(concurrency(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_stay_where_instants_do_not_overflow() {
        assert!(duration("365d").is_ok());
        assert!(duration("1000000 years").is_err());
        assert!(duration_from(Duration::from_secs(1), "999ms").is_err());
    }

    #[test]
    fn a_rule_must_be_one_that_gitignore_understands() {
        for good in ["*.tmp", "/build/", "!keep", "# note", "a[0-9]"] {
            assert!(rule(good).is_ok(), "{good}");
        }
        assert!(rule("a[z-a]").is_err());
    }
}
