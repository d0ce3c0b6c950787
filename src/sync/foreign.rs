//! Whether an object that somebody else wrote has the content of a file, and what proves it. (pure)
//!
//! An object says something of its content in up to five ways. They are tried in this order, and only what the first of
//! them asks for is computed, in one pass over the content:
//!
//! 1. the SHA-256 of its metadata: another one, and it is another content;
//! 2. an `ETag` of 32 hexadecimal digits: the MD5 of what went up in one piece, unless a KMS or a customer's key encrypts
//!    it: then it is something else, and simply does not match;
//! 3. an MD5 of its metadata, which rclone (`md5chksum`) and s3cmd (`s3cmd-attrs`) leave on what they send in parts;
//! 4. the checksum of the whole that the store keeps: another one, and it is another content whatever the metadata says;
//! 5. the `ETag` of an upload by parts, `md5(md5s of the parts)-N`: made again for each of the part sizes that tools use
//!    and that come to N parts.
//!
//! Size and times are never enough: nothing is taken for equal that was not compared by its content.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use md5::{Digest as _, Md5};

use crate::base::digest::{Crc32, Crc32c, Crc64, Sha256, unhex};
use crate::base::proof::Proof;
use crate::store::{Object, Sum};

/// The most parts of an upload (S3's limit).
const MOST_PARTS: u64 = 10_000;

const MIB: u64 = 1 << 20;

/// Part sizes in MiB: 5 (rclone, many SDKs), 8 (aws-cli, boto3), 10 (s3fs), 15 (s3cmd), 16 (mc, minio-go, restic), 50
/// (s5cmd), 64 (Hadoop), 100 (Hadoop before), 128 (mc before), and what people set. aws-cli doubles its own until the
/// parts are few enough, so that the powers of two are its too.
const USUAL_MIB: [u64; 16] = [
    5, 6, 8, 10, 15, 16, 20, 25, 32, 50, 64, 100, 128, 256, 512, 1024,
];

/// Part sizes of whole MiB are all tried where no more than these come to the number of parts: each one costs an MD5.
const MOST_WHOLE_MIB: u64 = 8;

/// What an object says of its content.
#[derive(Clone, Debug)]
pub struct Claims {
    size: u64,
    sha256: Option<Sha256>,
    etag: Option<[u8; 16]>,
    md5: Option<[u8; 16]>,
    crc64: Option<Crc64>,
    sum: Option<Sum>,
    parts: Option<Parts>,
}

/// What an `ETag` says of parts.
#[derive(Clone, Debug)]
struct Parts {
    md5: [u8; 16],
    /// The part sizes to try, bytes.
    sizes: BTreeSet<u64>,
}

impl Claims {
    /// Takes what `object` says. `own_part_bytes` is the part size that we would cut it by.
    pub fn of(object: &Object, own_part_bytes: u64) -> Self {
        let size = object.size;
        let parts = object.etag.split_once('-').and_then(|(md5, count)| {
            let sizes = part_sizes(size, count.parse().ok()?, own_part_bytes);
            let md5 = unhex(md5)?;
            (!sizes.is_empty()).then_some(Parts { md5, sizes })
        });
        Self {
            size,
            sha256: object.sha256(),
            etag: unhex(&object.etag),
            md5: declared_md5(object),
            crc64: object.crc64,
            sum: object.sum,
            parts,
        }
    }

    /// Returns true if a content of `size` bytes can be the object's.
    pub fn is_of_size(&self, size: u64) -> bool {
        self.size == size
    }

    /// Begins to compute what has to be compared.
    pub fn sums(&self) -> Sums {
        let is_named = self.sha256.is_some();
        let has_sum = self.crc64.is_some() || self.sum.is_some();
        let wants_md5 = !is_named && (self.etag.is_some() || self.md5.is_some());
        let is_cut = !is_named && !has_sum && self.md5.is_none();
        let parts = self.parts.iter().filter(|_| is_cut);
        Sums {
            size: 0,
            crc64: self.crc64.map(|_| Crc64::of(&[])),
            crc32: matches!(self.sum, Some(Sum::Crc32(_))).then(|| Crc32::of(&[])),
            crc32c: matches!(self.sum, Some(Sum::Crc32c(_))).then(|| Crc32c::of(&[])),
            md5: wants_md5.then(Md5::new),
            parts: parts
                .flat_map(|parts| &parts.sizes)
                .map(|part_bytes| Cut::new(*part_bytes))
                .collect(),
        }
    }

    /// Returns what proves that the object has the content of which these are the sums and the name; `None`: nothing does.
    pub fn judge(&self, sums: Sums, sha256: Sha256) -> Option<Proof> {
        let is_other_sum = match self.sum {
            None => false,
            Some(Sum::Crc32(sum)) => sums.crc32 != Some(sum),
            Some(Sum::Crc32c(sum)) => sums.crc32c != Some(sum),
            Some(Sum::Sha256(sum)) => sum != sha256,
        };
        if sums.size != self.size || sums.crc64 != self.crc64 || is_other_sum {
            return None;
        }
        if let Some(declared) = self.sha256 {
            return (declared == sha256).then_some(Proof::Sha256);
        }
        let md5: Option<[u8; 16]> = sums.md5.map(|md5| md5.finalize().into());
        if md5.is_some() && md5 == self.etag {
            return Some(Proof::Etag);
        }
        if self.md5.is_some() {
            return (md5 == self.md5).then_some(Proof::Md5);
        }
        if self.crc64.is_some() || self.sum.is_some() {
            return Some(Proof::Checksum);
        }
        let wanted = self.parts.as_ref()?.md5;
        let is_cut_so = sums.parts.into_iter().any(|cut| cut.end() == wanted);
        is_cut_so.then_some(Proof::Parts)
    }
}

/// What is computed of a content while it is read.
///
/// Bound: a few hundred bytes for each part size that is tried, of which there are at most two dozen.
#[derive(Clone)]
pub struct Sums {
    size: u64,
    crc64: Option<Crc64>,
    crc32: Option<Crc32>,
    crc32c: Option<Crc32c>,
    md5: Option<Md5>,
    parts: Vec<Cut>,
}

impl Sums {
    /// Takes the next bytes of the content.
    pub fn update(&mut self, bytes: &[u8]) {
        let len = bytes.len() as u64;
        self.size += len;
        self.crc64 = self.crc64.map(|crc| crc.followed_by(Crc64::of(bytes), len));
        self.crc32 = self.crc32.map(|crc| crc.followed_by(Crc32::of(bytes), len));
        self.crc32c = self
            .crc32c
            .map(|crc| crc.followed_by(Crc32c::of(bytes), len));
        if let Some(md5) = &mut self.md5 {
            md5.update(bytes);
        }
        for cut in &mut self.parts {
            cut.update(bytes);
        }
    }
}

/// The `ETag` that a content has when it is cut into parts of one size.
#[derive(Clone)]
struct Cut {
    part_bytes: u64,
    /// What the part that is under way still takes, bytes.
    left: u64,
    part: Md5,
    joined: Md5,
    count: u64,
}

impl Cut {
    fn new(part_bytes: u64) -> Self {
        Self {
            part_bytes,
            left: part_bytes,
            part: Md5::new(),
            joined: Md5::new(),
            count: 0,
        }
    }

    fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(self.left.min(bytes.len() as u64) as usize);
            self.part.update(now);
            self.left -= now.len() as u64;
            if self.left == 0 {
                self.close();
            }
            bytes = rest;
        }
    }

    fn close(&mut self) {
        self.joined.update(self.part.finalize_reset());
        self.left = self.part_bytes;
        self.count += 1;
    }

    fn end(mut self) -> [u8; 16] {
        // The last part is what is left; of nothing there is one, too.
        if self.left < self.part_bytes || self.count == 0 {
            self.close();
        }
        self.joined.finalize().into()
    }
}

/// Returns the part sizes, in bytes, by which tools cut `size` bytes into `count` parts.
fn part_sizes(size: u64, count: u64, own_part_bytes: u64) -> BTreeSet<u64> {
    match count {
        0 => return BTreeSet::new(),
        // However large the part could have been.
        1 => return BTreeSet::from([size.max(1)]),
        _ if count > MOST_PARTS || size < count => return BTreeSet::new(),
        _ => {}
    }
    let usual = USUAL_MIB.iter().map(|mib| mib * MIB);
    let grown = [
        own_part_bytes,
        // The AWS SDKs for Go, and so s5cmd, where their own size came to too many parts.
        size / MOST_PARTS + 1,
        // minio-go then, and so mc.
        size.div_ceil(MOST_PARTS).next_multiple_of(16 * MIB),
    ];
    // rclone takes the next whole MiB then; and any that somebody has set, where there are few.
    let (least, most) = (
        size.div_ceil(count).div_ceil(MIB),
        (size - 1) / (count - 1) / MIB,
    );
    let whole = (least..=most)
        .filter(|_| most.saturating_sub(least) < MOST_WHOLE_MIB)
        .map(|mib| mib * MIB);
    usual
        .chain(grown)
        .chain(whole)
        .filter(|part| *part > 0 && size.div_ceil(*part) == count)
        .collect()
}

/// Returns the MD5 that whoever wrote the object declared for it.
fn declared_md5(object: &Object) -> Option<[u8; 16]> {
    let of = |wanted: &str| {
        let mut user = object.user.iter();
        user.find(|(name, _)| name == wanted)
            .map(|(_, value)| value.as_str())
    };
    let by_rclone = of("md5chksum")
        .and_then(|value| BASE64_STANDARD.decode(value).ok())
        .and_then(|bytes| bytes.try_into().ok());
    by_rclone.or_else(|| {
        let mut attributes = of("s3cmd-attrs")?.split('/');
        attributes.find_map(|attribute| unhex(attribute.strip_prefix("md5:")?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::digest::hex;

    const OWN: u64 = 8 * MIB;

    fn bytes(len: usize) -> Vec<u8> {
        (0..len).map(|n| (n % 251) as u8).collect()
    }

    fn object(size: usize, etag: &str, user: &[(&str, &str)]) -> Object {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Object {
            is_keyed: false,
            size: size as u64,
            etag: etag.to_owned(),
            version_id: None,
            user: user.iter().map(own).collect(),
            modified_ns: None,
            date_ns: None,
            crc64: None,
            sum: None,
        }
    }

    /// What a store answers to parts of one size.
    fn etag_of_parts(content: &[u8], part_bytes: usize) -> String {
        let mut joined = Md5::new();
        for part in content.chunks(part_bytes) {
            joined.update(Md5::digest(part));
        }
        let count = content.len().div_ceil(part_bytes);
        format!("{}-{count}", hex(&joined.finalize()))
    }

    fn judged(object: &Object, content: &[u8]) -> Option<Proof> {
        let claims = Claims::of(object, OWN);
        let mut sums = claims.sums();
        // In pieces that no part size is a multiple of.
        for piece in content.chunks((1 << 20) + 7) {
            sums.update(piece);
        }
        claims.judge(sums, Sha256::of(content))
    }

    #[test]
    fn each_claim_proves_an_equal_content_and_no_other() {
        let content = bytes(1000);
        let mut other = content.clone();
        other[500] ^= 1;
        let md5 = Md5::digest(&content);
        let (etag, declared) = (hex(&md5), BASE64_STANDARD.encode(md5));
        let sha256 = Sha256::of(&content).to_hex();
        let attributes = format!("atime:1/md5:{etag}/mode:33188");
        let opaque = "0123456789abcdef0123456789abcdef";
        let with = |crc64, sum| Object {
            crc64,
            sum,
            ..object(1000, opaque, &[])
        };
        let by_parts = etag_of_parts(&content, 5 << 20);
        let table = [
            (object(1000, opaque, &[("sha256", &sha256)]), Proof::Sha256),
            (object(1000, &etag.to_uppercase(), &[]), Proof::Etag),
            (object(1000, "x-3", &[("md5chksum", &declared)]), Proof::Md5),
            (
                object(1000, "x-3", &[("s3cmd-attrs", &attributes)]),
                Proof::Md5,
            ),
            (with(Some(Crc64::of(&content)), None), Proof::Checksum),
            (
                with(None, Some(Sum::Crc32(Crc32::of(&content)))),
                Proof::Checksum,
            ),
            (
                with(None, Some(Sum::Crc32c(Crc32c::of(&content)))),
                Proof::Checksum,
            ),
            (
                with(None, Some(Sum::Sha256(Sha256::of(&content)))),
                Proof::Checksum,
            ),
            (object(1000, &by_parts, &[]), Proof::Parts),
        ];
        for (at, (object, proof)) in table.into_iter().enumerate() {
            assert_eq!(judged(&object, &content), Some(proof), "row {at}");
            assert_eq!(judged(&object, &other), None, "row {at}");
            assert_eq!(judged(&object, &content[1..]), None, "row {at}");
        }
        // Same size, and nothing that says more.
        assert_eq!(
            judged(&object(1000, "opaque", &[("mtime", "1")]), &content),
            None
        );
    }

    #[test]
    fn a_claim_that_contradicts_another_is_not_believed() {
        let content = bytes(1000);
        let (sha256, etag) = (Sha256::of(&content).to_hex(), hex(&Md5::digest(&content)));
        let other = Sha256::of(b"other").to_hex();
        // Metadata that was carried along with other bytes.
        let lies = Object {
            crc64: Some(Crc64::of(b"other")),
            ..object(1000, "x", &[("sha256", &sha256)])
        };
        assert_eq!(judged(&lies, &content), None);
        assert_eq!(
            judged(&object(1000, &etag, &[("sha256", &other)]), &content),
            None
        );
        let declared = BASE64_STANDARD.encode(Md5::digest(b"other"));
        let by_parts = etag_of_parts(&content, 5 << 20);
        assert_eq!(
            judged(
                &object(1000, &by_parts, &[("md5chksum", &declared)]),
                &content
            ),
            None
        );
        // One piece after all: the store has said so itself.
        assert_eq!(
            judged(&object(1000, &etag, &[("md5chksum", &declared)]), &content),
            Some(Proof::Etag)
        );
    }

    #[test]
    fn the_parts_of_each_tool_are_found_again() {
        let content = bytes((20 << 20) + 3);
        for part_mib in [5, 8, 10, 15, 16, 20] {
            let etag = etag_of_parts(&content, part_mib << 20);
            assert_eq!(
                judged(&object(content.len(), &etag, &[]), &content),
                Some(Proof::Parts),
                "{part_mib} MiB"
            );
        }
        // A size that nobody is known to use, and too many whole MiB that it could be.
        let etag = etag_of_parts(&content, 11 << 20);
        assert_eq!(judged(&object(content.len(), &etag, &[]), &content), None);
        let empty = format!("{}-1", hex(&Md5::digest(Md5::digest(b""))));
        assert_eq!(judged(&object(0, &empty, &[]), b""), Some(Proof::Parts));
    }

    #[test]
    fn part_sizes_come_to_the_number_of_parts_and_are_few() {
        let has = |size: u64, part: u64| {
            let sizes = part_sizes(size, size.div_ceil(part), OWN);
            assert!(sizes.len() <= 24, "{size} {part}: {sizes:?}");
            sizes.contains(&part)
        };
        let tib = 1_u64 << 40;
        for (size, part) in [
            (60 * MIB, 8 * MIB),
            (60 * MIB, 50 * MIB),
            (100 * MIB, 7 * MIB),
            // aws-cli doubles 8 MiB, rclone takes the next MiB, s5cmd the very byte, mc whole 16 MiB.
            (tib, 128 * MIB),
            (tib, 105 * MIB),
            (tib, tib / 10_000 + 1),
            (tib, 112 * MIB),
        ] {
            assert!(has(size, part), "{size} {part}");
        }
        assert!(part_sizes(60 * MIB, 10_001, OWN).is_empty());
        assert!(part_sizes(3, 7, OWN).is_empty());
        assert!(part_sizes(60 * MIB, 0, OWN).is_empty());
        assert_eq!(part_sizes(60 * MIB, 1, OWN), BTreeSet::from([60 * MIB]));
    }
}
