//! Whether bytes are the content that was stored: the best proof that there is, and the sum that it takes.

use md5::Digest as _;

use crate::base::digest::{Crc64, Hasher, Sha256, hex};
use crate::restore::plan::By;
use crate::store::Object;

/// What a content is held against.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Check {
    /// Its SHA-256.
    Sha256(Sha256),
    /// Its CRC64NVME.
    Crc64(Crc64),
    /// Its MD5, as lower-case hexadecimal digits.
    Md5(String),
    /// Nothing but its size.
    Size,
}

impl Check {
    /// Returns the best check of an object. `known` is the hash that somebody else knows of it.
    pub fn best(known: Option<Sha256>, object: &Object) -> Self {
        let sha256 = known.or_else(|| object.sha256());
        let etag = &object.etag;
        let is_md5 = !object.is_keyed
            && etag.len() == 32
            && etag.bytes().all(|byte| byte.is_ascii_hexdigit());
        match (sha256, object.crc64) {
            (Some(sha256), _) => Self::Sha256(sha256),
            (None, Some(crc64)) => Self::Crc64(crc64),
            (None, None) if is_md5 => Self::Md5(etag.to_ascii_lowercase()),
            (None, None) => Self::Size,
        }
    }

    /// Returns which one it is.
    pub fn by(&self) -> By {
        match self {
            Self::Sha256(_) => By::Sha256,
            Self::Crc64(_) => By::Crc64,
            Self::Md5(_) => By::Md5,
            Self::Size => By::Size,
        }
    }

    /// Begins to sum a content up for this check.
    pub fn begin(&self) -> Summing {
        Summing {
            len: 0,
            sum: match self {
                Self::Sha256(_) => Sum::Sha256(Hasher::default()),
                Self::Crc64(_) => Sum::Crc64(Crc64::of(b"")),
                Self::Md5(_) => Sum::Md5(md5::Md5::new()),
                Self::Size => Sum::None,
            },
        }
    }

    /// Returns true if a content that was summed up has `size` bytes and is the right one.
    pub fn holds(&self, summing: Summing, size: u64) -> bool {
        summing.len == size
            && match (self, summing.sum) {
                (Self::Sha256(sha256), Sum::Sha256(hasher)) => hasher.finish() == *sha256,
                (Self::Crc64(crc64), Sum::Crc64(sum)) => sum == *crc64,
                (Self::Md5(md5), Sum::Md5(hasher)) => hex(&hasher.finalize()) == *md5,
                (Self::Size, Sum::None) => true,
                _ => false,
            }
    }
}

/// A sum of the bytes of a content so far, in their order.
#[derive(Clone)]
pub struct Summing {
    len: u64,
    sum: Sum,
}

#[derive(Clone)]
enum Sum {
    Sha256(Hasher),
    Crc64(Crc64),
    Md5(md5::Md5),
    None,
}

impl Summing {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.len += bytes.len() as u64;
        match &mut self.sum {
            Sum::Sha256(hasher) => hasher.update(bytes),
            Sum::Crc64(sum) => *sum = sum.followed_by(Crc64::of(bytes), bytes.len() as u64),
            Sum::Md5(hasher) => hasher.update(bytes),
            Sum::None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(etag: &str) -> Object {
        Object {
            size: 4,
            etag: etag.to_owned(),
            version_id: None,
            user: Vec::new(),
            crc64: None,
            sum: None,
            is_keyed: false,
            modified_ns: None,
            date_ns: None,
        }
    }

    #[test]
    fn the_best_proof_is_taken_and_each_tells_right_from_wrong() {
        let md5 = hex(&md5::Md5::digest(b"tide"));
        let plain = object(&md5);
        let keyed = Object {
            is_keyed: true,
            ..object(&md5)
        };
        let parts = object(&format!("{md5}-2"));
        let summed = Object {
            crc64: Some(Crc64::of(b"tide")),
            ..object(&md5)
        };
        let declared = Object {
            user: vec![("sha256".to_owned(), Sha256::of(b"tide").to_hex())],
            ..summed.clone()
        };
        for (object, known, by) in [
            (&plain, None, By::Md5),
            (&keyed, None, By::Size),
            (&parts, None, By::Size),
            (&summed, None, By::Crc64),
            (&declared, None, By::Sha256),
            (&parts, Some(Sha256::of(b"tide")), By::Sha256),
        ] {
            let check = Check::best(known, object);
            assert_eq!(check.by(), by);
            let of = |pieces: &[&[u8]]| {
                let mut summing = check.begin();
                for piece in pieces {
                    summing.update(piece);
                }
                check.holds(summing, 4)
            };
            assert!(of(&[b"ti", b"", b"de"]), "{by:?}");
            assert_eq!(of(&[b"tidy"]), by == By::Size, "{by:?}");
            assert!(!of(&[b"tid"]), "{by:?}");
        }
    }
}
