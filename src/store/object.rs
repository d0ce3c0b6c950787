//! An object as the store shows it, and the checksums of its whole that the store keeps.

use crate::base::digest::{Crc32, Crc32c, Crc64, Sha256};

/// An object as a HEAD or GET shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Object {
    /// Length in bytes.
    pub size: u64,
    /// The ETag, without quotes.
    pub etag: String,
    /// The version, in a versioned bucket.
    pub version_id: Option<String>,
    /// User metadata as the store returns it, names in lower case.
    pub user: Vec<(String, String)>,
    /// The whole content's checksum as the store has it; `None` where it was not asked for, or has none.
    pub crc64: Option<Crc64>,
    /// Whether it is encrypted with a key of the users' or of the key service: its ETag is no hash of its content then.
    pub is_keyed: bool,
    /// When it was stored, by the store's clock, nanoseconds since the epoch (whole seconds); `None` where it is not told.
    pub modified_ns: Option<i64>,
    /// When it was asked, by the store's clock, nanoseconds since the epoch (whole seconds); `None` where it is not told.
    pub date_ns: Option<i64>,
    /// A checksum of another kind of the whole object, where the store keeps one and tells it.
    pub sum: Option<Sum>,
}

/// A checksum of a whole object, of another kind than CRC64NVME. One that is made of the sums of parts is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sum {
    /// CRC32, as zip has it.
    Crc32(Crc32),
    /// CRC32C.
    Crc32c(Crc32c),
    /// SHA-256.
    Sha256(Sha256),
}

impl Object {
    /// Returns the SHA-256 that whoever wrote the object declared for it.
    pub fn sha256(&self) -> Option<Sha256> {
        let (_, value) = self.user.iter().find(|(name, _)| name == "sha256")?;
        Sha256::from_hex(value)
    }
}
