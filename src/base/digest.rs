//! The name of a content, and the check of a request.

use std::fmt;

use sha2::Digest as _;

/// The SHA-256 of a content: its identity in manifest, dedupe map and metadata.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256(pub [u8; 32]);

impl Sha256 {
    /// Returns the digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// Takes 32 bytes, as the manifest holds them.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// Takes 64 hexadecimal digits of either case, as an object's metadata holds them.
    pub fn from_hex(text: &str) -> Option<Self> {
        unhex(text).map(Self)
    }

    /// Returns 64 lower-case hexadecimal digits.
    pub fn to_hex(self) -> String {
        hex(&self.0)
    }
}

/// Returns bytes as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from(HEX[usize::from(value)]);
    bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
        .collect()
}

/// Takes `2 * N` hexadecimal digits of either case.
pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digit = |c: u8| char::from(c).to_digit(16);
        *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
    }
    Some(bytes)
}

const HEX: &[u8; 16] = b"0123456789abcdef";

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}…", &self.to_hex()[..12])
    }
}

/// A running SHA-256, for contents that are read in pieces.
#[derive(Clone, Default)]
pub struct Hasher(sha2::Sha256);

impl Hasher {
    /// Takes the next bytes of the content.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Returns the digest of everything taken.
    pub fn finish(self) -> Sha256 {
        Sha256(self.0.finalize().into())
    }
}

/// The CRC64NVME of a request's body or of a whole object, as S3 names and checks it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Crc64(pub u64);

impl Crc64 {
    /// Returns the checksum of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, bytes))
    }

    /// Returns the checksum of this content followed by one of `next_len` bytes whose checksum is `next`.
    #[must_use]
    pub fn followed_by(self, next: Self, next_len: u64) -> Self {
        Self(crc_fast::checksum_combine(
            crc_fast::CrcAlgorithm::Crc64Nvme,
            self.0,
            next.0,
            next_len,
        ))
    }
}

/// The CRC32 of a request's body or of a whole object, for stores that do not know CRC64NVME.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Crc32(pub u32);

impl Crc32 {
    /// Returns the checksum of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32IsoHdlc, bytes);
        Self(crc as u32)
    }

    /// Returns the checksum of this content followed by one of `next_len` bytes whose checksum is `next`.
    #[must_use]
    pub fn followed_by(self, next: Self, next_len: u64) -> Self {
        let crc = crc_fast::checksum_combine(
            crc_fast::CrcAlgorithm::Crc32IsoHdlc,
            self.0.into(),
            next.0.into(),
            next_len,
        );
        Self(crc as u32)
    }
}

/// The CRC32C (Castagnoli) of a whole object, which some tools have S3 keep.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Crc32c(pub u32);

impl Crc32c {
    /// Returns the checksum of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes);
        Self(crc as u32)
    }

    /// Returns the checksum of this content followed by one of `next_len` bytes whose checksum is `next`.
    #[must_use]
    pub fn followed_by(self, next: Self, next_len: u64) -> Self {
        let crc = crc_fast::checksum_combine(
            crc_fast::CrcAlgorithm::Crc32Iscsi,
            self.0.into(),
            next.0.into(),
            next_len,
        );
        Self(crc as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_goes_both_ways() {
        let digest = Sha256::of(b"tide");
        assert_eq!(Sha256::from_hex(&digest.to_hex()), Some(digest));
        assert_eq!(
            Sha256::from_hex(&digest.to_hex().to_uppercase()),
            Some(digest)
        );
        assert_eq!(Sha256::from_hex("00"), None);
        assert_eq!(
            Sha256::of(b"").to_hex(),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }

    #[test]
    fn the_parts_checksums_join_to_the_whole() {
        let whole = Crc64::of(b"hello, tide");
        assert_eq!(
            Crc64::of(b"hello").followed_by(Crc64::of(b", tide"), 6),
            whole
        );
        // The check value of CRC-64/NVME.
        assert_eq!(Crc64::of(b"123456789").0, 0xae8b_1486_0a79_9888);
        assert_eq!(
            Crc32::of(b"hello").followed_by(Crc32::of(b", tide"), 6),
            Crc32::of(b"hello, tide")
        );
        // The check value of CRC-32, as zip and PNG use it.
        assert_eq!(Crc32::of(b"123456789").0, 0xcbf4_3926);
        assert_eq!(
            Crc32c::of(b"hello").followed_by(Crc32c::of(b", tide"), 6),
            Crc32c::of(b"hello, tide")
        );
        // The check value of CRC-32C, as iSCSI uses it.
        assert_eq!(Crc32c::of(b"123456789").0, 0xe306_9283);
    }

    #[test]
    fn pieces_hash_like_the_whole() {
        let mut hasher = Hasher::default();
        hasher.update(b"ti");
        hasher.update(b"de");
        assert_eq!(hasher.finish(), Sha256::of(b"tide"));
    }
}
