//! What every object of a folder is stored with: class, encryption, access, tags, retention.

use std::path::PathBuf;
use std::time::Duration;

/// What every object of a folder is stored with. The default leaves everything to the bucket.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Terms {
    /// S3's name of a storage class; `None` is STANDARD, and nothing is said then.
    pub storage_class: Option<String>,
    /// Who encrypts it, and with which key.
    pub encryption: Encryption,
    /// S3's name of an access list, such as `bucket-owner-full-control`.
    pub acl: Option<String>,
    /// Names and values; at most ten (S3's limit).
    pub tags: Vec<(String, String)>,
    /// How long it cannot be removed.
    pub lock: Option<Lock>,
}

/// Who encrypts objects at rest.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Encryption {
    /// As the bucket does.
    #[default]
    Bucket,
    /// The store, with keys of its own.
    Aes256,
    /// The store, with a key of a key service; `None`: the account's key for S3.
    Kms(Option<String>),
    /// The store, with a key that each request brings: 32 bytes, or their base64, in this file.
    Customer(PathBuf),
}

/// For how long an object is kept from being removed or overwritten for good.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lock {
    /// Who may still do it.
    pub mode: LockMode,
    /// How long from when it is stored.
    pub keep: Duration,
}

/// Who may remove what is locked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockMode {
    /// Who has the right to bypass it.
    Governance,
    /// Nobody.
    Compliance,
}

/// The storage classes that S3 knows; other stores have others.
pub const STORAGE_CLASSES: &[&str] = &[
    "STANDARD",
    "REDUCED_REDUNDANCY",
    "STANDARD_IA",
    "ONEZONE_IA",
    "INTELLIGENT_TIERING",
    "GLACIER",
    "DEEP_ARCHIVE",
    "OUTPOSTS",
    "GLACIER_IR",
    "SNOW",
    "EXPRESS_ONEZONE",
];

impl Terms {
    /// Returns whether objects have to be taken out of an archive before they can be read or copied.
    pub fn is_archive(&self) -> bool {
        matches!(
            self.storage_class.as_deref(),
            Some("GLACIER" | "DEEP_ARCHIVE")
        )
    }

    /// Returns what a person should know before objects are stored so, each a sentence.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let Some(class) = &self.storage_class else {
            return warnings;
        };
        if !STORAGE_CLASSES.contains(&class.as_str()) {
            warnings.push(format!(
                "S3 has no storage class {class}; the store may refuse every upload"
            ));
        }
        if matches!(class.as_str(), "STANDARD_IA" | "ONEZONE_IA" | "GLACIER_IR") {
            let days = if class == "GLACIER_IR" { 90 } else { 30 };
            warnings.push(format!(
                "storage class {class} bills at least 128 KiB and {days} days for each object: small or short-lived files cost more than in STANDARD"
            ));
        }
        if self.is_archive() {
            warnings.push(format!(
                "objects of storage class {class} can be neither read nor copied until they are restored: renamed and equal files are sent again, and nothing can be set aside as trash"
            ));
        }
        warnings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_that_surprise_are_told() {
        let told = |class: Option<&str>| {
            let storage_class = class.map(str::to_owned);
            let terms = Terms {
                storage_class,
                ..Terms::default()
            };
            terms.warnings().join(" ")
        };
        assert_eq!(told(None), "");
        assert_eq!(told(Some("INTELLIGENT_TIERING")), "");
        assert!(told(Some("STANDARD_IA")).contains("30 days"));
        assert!(told(Some("DEEP_ARCHIVE")).contains("sent again"));
        assert!(told(Some("COLD")).contains("no storage class COLD"));
    }
}
