//! The checksum that goes with an upload: one plain header of the kind that the store takes, never two.
//!
//! A single put carries whatever kind is known to work. The parts of an upload carry the kind that it was created with:
//! S3 refuses another, and the sum of the whole can only be made of sums of one kind. Of the kind MD5 an upload's parts
//! have their own, which says nothing of the whole.
//!
//! What the store echoes is compared whatever its kind is: a store may add one of its own.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumType};
use md5::Digest as _;

use crate::base::digest::{Crc32, Crc32c, Crc64, Sha256, hex};
use crate::store::features::Checksum;
use crate::store::s3::classify::Trouble;
use crate::store::s3::direct::Said;
use crate::store::{self, Body, Part};

/// The most uploads whose kind is remembered; one that was forgotten is taken for one of the usual kind.
const MOST: usize = 4096;

/// The checksum of one body or object as header values: at most one is there.
#[derive(Clone, Default, Debug)]
pub(super) struct Sum {
    pub crc64: Option<String>,
    pub crc32: Option<String>,
    pub md5: Option<String>,
}

impl Sum {
    /// Returns the checksum of `body` of this kind.
    pub fn of(kind: Checksum, body: &Body) -> Self {
        let mut sum = Self::default();
        match kind {
            Checksum::Crc64 => sum.crc64 = Some(base64_64(body.crc64)),
            Checksum::Crc32 => sum.crc32 = Some(base64_32(Crc32::of(body.claims()))),
            Checksum::Md5 => sum.md5 = Some(md5(body.claims())),
            Checksum::None => {}
        }
        sum
    }
}

impl Sum {
    /// Says it in a header.
    pub fn say(&self, said: &mut Said) {
        let sums = [
            ("x-amz-checksum-crc64nvme", &self.crc64),
            ("x-amz-checksum-crc32", &self.crc32),
            ("content-md5", &self.md5),
        ];
        let sums = sums.into_iter();
        said.extend(sums.filter_map(|(name, sum)| Some((name.into(), sum.clone()?))));
    }
}

pub(super) fn base64_64(crc: Crc64) -> String {
    aws_smithy_types::base64::encode(crc.0.to_be_bytes())
}

pub(super) fn base64_32(crc: Crc32) -> String {
    aws_smithy_types::base64::encode(crc.0.to_be_bytes())
}

/// Returns the value of Content-MD5.
pub(super) fn md5(bytes: &[u8]) -> String {
    aws_smithy_types::base64::encode(md5::Md5::digest(bytes))
}

/// Returns the kind to try after this one was refused.
pub(super) fn lower(kind: Checksum) -> Option<Checksum> {
    match kind {
        Checksum::Crc64 => Some(Checksum::Crc32),
        Checksum::Crc32 => Some(Checksum::Md5),
        Checksum::Md5 => Some(Checksum::None),
        Checksum::None => None,
    }
}

/// Returns the kind to try for a part after this one was refused: one that says nothing of the whole.
pub(super) fn lower_in_upload(kind: Checksum) -> Option<Checksum> {
    match kind {
        Checksum::Crc64 | Checksum::Crc32 => Some(Checksum::Md5),
        Checksum::Md5 => Some(Checksum::None),
        Checksum::None => None,
    }
}

/// Returns what an upload of this kind is created with; `None` for kinds that only its parts know.
pub(super) fn algorithm(kind: Checksum) -> Option<ChecksumAlgorithm> {
    match kind {
        Checksum::Crc64 => Some(ChecksumAlgorithm::Crc64Nvme),
        Checksum::Crc32 => Some(ChecksumAlgorithm::Crc32),
        Checksum::Md5 | Checksum::None => None,
    }
}

/// Checks what the store says it has against what was sent: CRC64NVME, CRC32.
pub(super) fn same(
    body: &Body,
    crc64: Option<&str>,
    crc32: Option<&str>,
) -> std::result::Result<(), Trouble> {
    echoed(Some(&base64_64(body.crc64)), crc64)?;
    if crc32.is_some() {
        echoed(Some(&base64_32(Crc32::of(body.claims()))), crc32)?;
    }
    Ok(())
}

/// Checks one echoed value, where both are known. Of a sum of sums, which some stores answer with, nothing can be said.
pub(super) fn echoed(
    sent: Option<&str>,
    answered: Option<&str>,
) -> std::result::Result<(), Trouble> {
    match (sent, answered) {
        (Some(sent), Some(answered)) if sent != answered && !answered.contains('-') => {
            Err(Trouble::Different(format!(
                "the store has checksum {answered:?}, and {sent:?} was sent"
            )))
        }
        _ => Ok(()),
    }
}

/// What an answer tells of the checksums of an object, as header values.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told<'a> {
    pub crc64: Option<&'a str>,
    pub crc32: Option<&'a str>,
    pub crc32c: Option<&'a str>,
    pub sha256: Option<&'a str>,
    /// Whether they are of the whole, or of its parts' checksums.
    pub of: Option<&'a ChecksumType>,
}

/// Takes the checksums out of an answer that has them.
macro_rules! sums_of {
    ($answer:expr) => {
        Told {
            crc64: $answer.checksum_crc64_nvme(),
            crc32: $answer.checksum_crc32(),
            crc32c: $answer.checksum_crc32_c(),
            sha256: $answer.checksum_sha256(),
            of: $answer.checksum_type(),
        }
    };
}
pub(super) use sums_of;

impl Told<'_> {
    /// Returns the checksums of the whole content: CRC64NVME, and the strongest of the others.
    ///
    /// A sum of the parts' sums says nothing that could be compared with a file. CRC64NVME is never one unless that is
    /// said; of the others some stores do not say what they are, and an object in parts (`…-3`) has such sums.
    pub fn of_whole(self, etag: &str) -> (Option<Crc64>, Option<store::Sum>) {
        if self.of == Some(&ChecksumType::Composite) {
            return (None, None);
        }
        let crc64 = self.crc64.and_then(decoded).map(u64::from_be_bytes);
        let is_told = self.of.is_some() || !etag.contains('-');
        let crc = |value: Option<&str>| value.and_then(decoded).map(u32::from_be_bytes);
        let sha256 = self.sha256.and_then(decoded);
        let of_sha256 = || sha256.map(|sum| store::Sum::Sha256(Sha256(sum)));
        let of_crc32 = || crc(self.crc32).map(|sum| store::Sum::Crc32(Crc32(sum)));
        let of_crc32c = || crc(self.crc32c).map(|sum| store::Sum::Crc32c(Crc32c(sum)));
        let strongest = || of_sha256().or_else(of_crc32).or_else(of_crc32c);
        (crc64.map(Crc64), is_told.then(strongest).flatten())
    }
}

fn decoded<const N: usize>(value: &str) -> Option<[u8; N]> {
    let bytes = aws_smithy_types::base64::decode(value).ok()?;
    bytes.try_into().ok()
}

/// Checks an ETag that has the form of an MD5 against the MD5 that was sent.
pub(super) fn etag_of(md5: Option<&str>, etag: &str) -> std::result::Result<(), Trouble> {
    let is_md5 = etag.len() == 32 && etag.bytes().all(|byte| byte.is_ascii_hexdigit());
    let sent = md5
        .filter(|_| is_md5)
        .and_then(|md5| aws_smithy_types::base64::decode(md5).ok())
        .map(|md5| hex(&md5));
    match sent {
        Some(sent) if !sent.eq_ignore_ascii_case(etag) => Err(Trouble::Different(format!(
            "the store has content of MD5 {etag}, and {sent} was sent"
        ))),
        _ => Ok(()),
    }
}

/// What is known of the uploads that are open: of which kind each is, and the sums that its whole is made of.
#[derive(Default, Debug)]
pub(super) struct Uploads(Mutex<HashMap<String, Upload>>);

#[derive(Clone, Debug)]
struct Upload {
    kind: Checksum,
    /// By number, with the length; only of an upload of that kind.
    crc32: BTreeMap<u32, (Crc32, u64)>,
}

impl Uploads {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Upload>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the kind of an upload, if it is known.
    pub fn kind(&self, id: &str) -> Option<Checksum> {
        self.lock().get(id).map(|upload| upload.kind)
    }

    /// Remembers the kind of an upload; the sums of its parts are kept.
    pub fn set_kind(&self, id: &str, kind: Checksum) {
        let mut uploads = self.lock();
        if let Some(upload) = uploads.get_mut(id) {
            upload.kind = kind;
            return;
        }
        if uploads.len() >= MOST {
            uploads.clear();
        }
        let crc32 = BTreeMap::new();
        uploads.insert(id.to_owned(), Upload { kind, crc32 });
    }

    /// Remembers the CRC32 of a part of `len` bytes.
    pub fn note(&self, id: &str, number: u32, crc32: Crc32, len: u64) {
        if let Some(upload) = self.lock().get_mut(id) {
            upload.crc32.insert(number, (crc32, len));
        }
    }

    /// Returns the CRC32 of the parts that are known, and of the whole if all are.
    pub fn crc32(&self, id: &str, parts: &[Part]) -> (Vec<Option<Crc32>>, Option<Crc32>) {
        let uploads = self.lock();
        let known = |part: &Part| uploads.get(id)?.crc32.get(&part.number).copied();
        let known: Vec<_> = parts.iter().map(known).collect();
        let whole = known.iter().copied().collect::<Option<Vec<_>>>();
        let whole = whole.and_then(|parts| {
            let join = |a: (Crc32, u64), b: (Crc32, u64)| (a.0.followed_by(b.0, b.1), a.1 + b.1);
            parts.into_iter().reduce(join).map(|(crc32, _)| crc32)
        });
        let parts = known.into_iter().map(|part| part.map(|(crc32, _)| crc32));
        (parts.collect(), whole)
    }

    /// Forgets an upload that is over.
    pub fn end(&self, id: &str) {
        self.lock().remove(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_false_claim_is_false_in_every_kind() {
        let bytes = |text: &'static [u8]| bytes::Bytes::from_static(text);
        let (right, wrong) = (
            Body::of(bytes(b"one")),
            Body::claiming(bytes(b"one"), bytes(b"two")),
        );
        for kind in [Checksum::Crc64, Checksum::Crc32, Checksum::Md5] {
            let values = |body| {
                let sum = Sum::of(kind, body);
                [sum.crc64, sum.crc32, sum.md5].into_iter().flatten().next()
            };
            assert!(values(&right).is_some());
            assert_ne!(values(&right), values(&wrong), "{kind:?}");
        }
        assert_eq!(right.sha256, wrong.sha256, "the signature is not meant");
    }

    #[test]
    fn one_kind_is_one_header() {
        let body = Body::of(b"tide".to_vec().into());
        let count = |kind| {
            let sum = Sum::of(kind, &body);
            [sum.crc64, sum.crc32, sum.md5].iter().flatten().count()
        };
        let mut kind = Some(Checksum::Crc64);
        let mut counts = Vec::new();
        while let Some(this) = kind {
            counts.push(count(this));
            kind = lower(this);
        }
        assert_eq!(counts, [1, 1, 1, 0]);
    }

    #[test]
    fn the_sum_of_the_whole_needs_every_part() {
        let uploads = Uploads::default();
        uploads.set_kind("id", Checksum::Crc32);
        uploads.note("id", 1, Crc32::of(b"hello"), 5);
        let part = |number| Part {
            number,
            etag: String::new(),
            crc64: None,
        };
        let parts = [part(1), part(2)];
        assert_eq!(
            uploads.crc32("id", &parts),
            (vec![Some(Crc32::of(b"hello")), None], None)
        );
        uploads.note("id", 2, Crc32::of(b", tide"), 6);
        assert_eq!(
            uploads.crc32("id", &parts).1,
            Some(Crc32::of(b"hello, tide"))
        );
        uploads.end("id");
        assert_eq!(
            (uploads.kind("id"), uploads.crc32("id", &parts).1),
            (None, None)
        );
    }

    #[test]
    fn only_an_etag_that_can_be_an_md5_is_held_against_one() {
        let sent = md5(b"tide");
        let right = hex(&md5::Md5::digest(b"tide"));
        assert!(etag_of(Some(&sent), &right).is_ok());
        assert!(etag_of(Some(&sent), &right.to_uppercase()).is_ok());
        assert!(etag_of(Some(&sent), "opaque").is_ok());
        assert!(etag_of(Some(&sent), &"0".repeat(32)).is_err());
        assert!(etag_of(None, &"0".repeat(32)).is_ok());
    }
}
