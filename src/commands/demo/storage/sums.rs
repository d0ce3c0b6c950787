//! The checksums of S3: which a request gives, what a body has, and how those of parts join.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use crc_fast::CrcAlgorithm;
use s3s::checksum::ChecksumHasher;
use s3s::crypto::{Checksum as _, Md5};
use s3s::{S3Result, TrailingHeaders, s3_error};

use crate::commands::demo::storage::bad_request;

/// An algorithm.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    Crc64Nvme,
    Crc32,
    Crc32c,
    Sha1,
    Sha256,
}

/// What a multipart object's checksum is computed over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The bytes.
    FullObject,
    /// The checksums of the parts.
    Composite,
}

/// A checksum as S3 shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sum {
    pub method: Method,
    pub kind: Kind,
    /// Base64; of a composite one with `-` and the number of parts.
    pub value: String,
}

impl Method {
    const ALL: [Self; 5] = [
        Self::Crc64Nvme,
        Self::Crc32,
        Self::Crc32c,
        Self::Sha1,
        Self::Sha256,
    ];

    /// Returns S3's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Crc64Nvme => "CRC64NVME",
            Self::Crc32 => "CRC32",
            Self::Crc32c => "CRC32C",
            Self::Sha1 => "SHA1",
            Self::Sha256 => "SHA256",
        }
    }

    /// Takes S3's name of it.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|method| method.name().eq_ignore_ascii_case(name))
    }

    fn len(self) -> usize {
        match self {
            Self::Crc64Nvme => 8,
            Self::Crc32 | Self::Crc32c => 4,
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }

    fn crc(self) -> Option<CrcAlgorithm> {
        match self {
            Self::Crc64Nvme => Some(CrcAlgorithm::Crc64Nvme),
            Self::Crc32 => Some(CrcAlgorithm::Crc32IsoHdlc),
            Self::Crc32c => Some(CrcAlgorithm::Crc32Iscsi),
            Self::Sha1 | Self::Sha256 => None,
        }
    }

    /// Returns the kind that S3 takes when none is named, or refuses the one that this method does not have.
    pub fn kind(self, named: Option<&str>) -> S3Result<Kind> {
        let kind = match named {
            Some(name) => {
                Kind::from_name(name).ok_or_else(|| s3_error!(InvalidArgument, "checksum type"))?
            }
            None if self == Self::Crc64Nvme => Kind::FullObject,
            None => Kind::Composite,
        };
        let possible = match kind {
            Kind::FullObject => self.crc().is_some(),
            Kind::Composite => self != Self::Crc64Nvme,
        };
        if possible {
            Ok(kind)
        } else {
            Err(s3_error!(
                InvalidRequest,
                "The {} checksum type cannot be used with the {} checksum algorithm.",
                kind.name(),
                self.name()
            ))
        }
    }
}

impl Kind {
    /// Returns S3's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::FullObject => "FULL_OBJECT",
            Self::Composite => "COMPOSITE",
        }
    }

    /// Takes S3's name of it.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::FullObject, Self::Composite]
            .into_iter()
            .find(|kind| kind.name() == name)
    }
}

/// Returns what a request or a listed part gives: its checksum fields, by method.
macro_rules! given {
    ($input:expr) => {
        [
            (Method::Crc64Nvme, $input.checksum_crc64nvme.take()),
            (Method::Crc32, $input.checksum_crc32.take()),
            (Method::Crc32c, $input.checksum_crc32c.take()),
            (Method::Sha1, $input.checksum_sha1.take()),
            (Method::Sha256, $input.checksum_sha256.take()),
        ]
    };
}
pub(super) use given;

/// Sets the checksum field of an answer that belongs to the sum's method.
macro_rules! show {
    ($sum:expr, $output:expr) => {{
        let value = Some($sum.value.clone());
        match $sum.method {
            Method::Crc64Nvme => $output.checksum_crc64nvme = value,
            Method::Crc32 => $output.checksum_crc32 = value,
            Method::Crc32c => $output.checksum_crc32c = value,
            Method::Sha1 => $output.checksum_sha1 = value,
            Method::Sha256 => $output.checksum_sha256 = value,
        }
    }};
}
pub(super) use show;

/// All five checksum fields of a request.
pub type Given = [(Method, Option<String>); 5];

/// Returns the one checksum among the fields; S3 refuses more than one.
pub fn single(given: Given) -> S3Result<Option<(Method, String)>> {
    let mut given = given
        .into_iter()
        .filter_map(|(method, value)| Some((method, value?)));
    let first = given.next();
    if given.next().is_some() {
        return Err(s3_error!(
            InvalidRequest,
            "Expecting a single x-amz-checksum- header. Multiple checksum types are not allowed."
        ));
    }
    Ok(first)
}

/// What a request says of its body.
#[derive(Debug, Default)]
pub struct Claims {
    length: Option<u64>,
    md5: Option<String>,
    sum: Option<(Method, String)>,
    trailer: Option<(Method, TrailingHeaders)>,
}

impl Claims {
    /// Gathers them from the fields, and from the announcement of a trailer.
    pub fn new(
        length: Option<i64>,
        md5: Option<String>,
        given: Given,
        trailer: Option<(Option<&str>, TrailingHeaders)>,
    ) -> S3Result<Self> {
        let sum = single(given)?;
        let trailer = trailer.and_then(|(name, headers)| {
            let name = name?.trim().strip_prefix("x-amz-checksum-")?;
            Some((Method::from_name(name)?, headers))
        });
        if sum.is_some() && trailer.is_some() {
            return Err(s3_error!(
                InvalidRequest,
                "Expecting a single x-amz-checksum- header or trailer."
            ));
        }
        Ok(Self {
            length: length.and_then(|length| u64::try_from(length).ok()),
            md5,
            sum,
            trailer,
        })
    }

    /// Returns the length that was announced.
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// Returns the method of the checksum that was sent or announced.
    pub fn method(&self) -> Option<Method> {
        let sent = self.sum.as_ref().map(|(method, _)| *method);
        sent.or(self.trailer.as_ref().map(|(method, _)| *method))
    }

    /// Compares the claims with what has arrived.
    pub fn check(self, size: u64, md5: [u8; 16], sum: &Sum) -> S3Result {
        if self.length.is_some_and(|length| length != size) {
            return Err(s3_error!(IncompleteBody));
        }
        if let Some(claimed) = self.md5 {
            match BASE64.decode(&claimed) {
                Ok(claimed) if claimed == md5 => {}
                Ok(claimed) if claimed.len() == md5.len() => {
                    return Err(s3_error!(
                        BadDigest,
                        "The Content-MD5 you specified did not match what we received."
                    ));
                }
                _ => return Err(s3_error!(InvalidDigest)),
            }
        }
        let claimed = match (self.sum, self.trailer) {
            (Some(sum), _) => Some(sum),
            (None, Some((method, headers))) => {
                let name = format!("x-amz-checksum-{}", method.name().to_ascii_lowercase());
                let value = headers.read(|headers| {
                    let value = headers.get(name.as_str())?.to_str().ok()?;
                    Some(value.trim().to_owned())
                });
                let Some(value) = value.flatten() else {
                    return Err(bad_request(
                        "MalformedTrailerError",
                        "The announced trailer is missing.",
                    ));
                };
                Some((method, value))
            }
            (None, None) => None,
        };
        claimed.map_or(Ok(()), |(method, value)| {
            compare(method, &value, &sum.value)
        })
    }
}

/// Compares a claimed checksum of bytes with the computed one of the same method.
pub fn compare(method: Method, claimed: &str, computed: &str) -> S3Result {
    if claimed == computed {
        return Ok(());
    }
    let plain = claimed.split_once('-').map_or(claimed, |(sum, _)| sum);
    if BASE64.decode(plain).map(|bytes| bytes.len()) != Ok(method.len()) {
        return Err(s3_error!(
            InvalidRequest,
            "Value for x-amz-checksum-{} header is invalid.",
            method.name().to_ascii_lowercase()
        ));
    }
    Err(s3_error!(
        BadDigest,
        "The {} you specified did not match the calculated checksum.",
        method.name()
    ))
}

/// The running digests of a body: its MD5, which becomes the `ETag`, and one checksum.
pub struct Hasher {
    md5: Md5,
    method: Method,
    sum: ChecksumHasher,
}

impl Hasher {
    /// Begins with no bytes.
    pub fn new(method: Method) -> Self {
        let mut sum = ChecksumHasher::default();
        match method {
            Method::Crc64Nvme => sum.crc64nvme = Some(s3s::crypto::Crc64Nvme::new()),
            Method::Crc32 => sum.crc32 = Some(s3s::crypto::Crc32::new()),
            Method::Crc32c => sum.crc32c = Some(s3s::crypto::Crc32c::new()),
            Method::Sha1 => sum.sha1 = Some(s3s::crypto::Sha1::new()),
            Method::Sha256 => sum.sha256 = Some(s3s::crypto::Sha256::new()),
        }
        Self {
            md5: Md5::new(),
            method,
            sum,
        }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.md5.update(bytes);
        self.sum.update(bytes);
    }

    /// Returns the MD5 and the checksum of everything taken.
    pub fn finish(self) -> ([u8; 16], Sum) {
        let mut all = self.sum.finalize();
        let value = given!(all)
            .into_iter()
            .find_map(|(method, value)| value.filter(|_| method == self.method));
        let sum = Sum {
            method: self.method,
            kind: Kind::FullObject,
            value: value.unwrap_or_default(),
        };
        (self.md5.finalize(), sum)
    }
}

/// Joins the checksums of parts, each with its part's size in bytes, into the object's.
pub fn join(method: Method, kind: Kind, parts: &[(&str, u64)]) -> S3Result<Sum> {
    let broken = || s3_error!(InternalError, "a part's checksum in the index is broken");
    let mut raw = Vec::with_capacity(parts.len());
    for (value, size) in parts {
        raw.push((BASE64.decode(value).map_err(|_| broken())?, *size));
    }
    let value = match (kind, method.crc()) {
        (Kind::FullObject, Some(crc)) => {
            let number = |bytes: &[u8]| bytes.iter().fold(0, |sum, b| sum << 8 | u64::from(*b));
            let whole = raw
                .iter()
                .map(|(bytes, size)| (number(bytes), *size))
                .reduce(|(sum, total), (next, size)| {
                    let joined = crc_fast::checksum_combine(crc, sum, next, size);
                    (joined, total + size)
                });
            let (whole, _) = whole.ok_or_else(broken)?;
            BASE64.encode(&whole.to_be_bytes()[8 - method.len()..])
        }
        (Kind::FullObject, None) => return Err(broken()),
        (Kind::Composite, _) => {
            let mut hasher = Hasher::new(method);
            for (bytes, _) in &raw {
                hasher.update(bytes);
            }
            format!("{}-{}", hasher.finish().1.value, raw.len())
        }
    };
    Ok(Sum {
        method,
        kind,
        value,
    })
}

/// Returns the MD5 of the parts' MD5s, with their number: the `ETag` of a multipart object.
pub fn etag_of_parts<'e>(etags: impl ExactSizeIterator<Item = &'e str>) -> String {
    let count = etags.len();
    let mut md5 = Md5::new();
    for etag in etags {
        let digits: Vec<u8> = etag
            .bytes()
            .map(|digit| char::from(digit).to_digit(16).unwrap_or(0) as u8)
            .collect();
        let bytes: Vec<u8> = digits
            .chunks_exact(2)
            .map(|pair| pair[0] << 4 | pair[1])
            .collect();
        md5.update(&bytes);
    }
    format!("{}-{count}", hex(&md5.finalize()))
}

/// Returns bytes as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(method: Method, bytes: &[u8]) -> Sum {
        let mut hasher = Hasher::new(method);
        hasher.update(bytes);
        hasher.finish().1
    }

    #[test]
    fn the_sums_of_parts_join_to_the_whole() {
        for method in [Method::Crc64Nvme, Method::Crc32, Method::Crc32c] {
            let (a, b) = (sum(method, b"hello, "), sum(method, b"tide"));
            let joined = join(
                method,
                Kind::FullObject,
                &[(a.value.as_str(), 7), (b.value.as_str(), 4)],
            );
            assert_eq!(joined.unwrap(), sum(method, b"hello, tide"), "{method:?}");
        }
    }

    #[test]
    fn the_check_values_are_those_of_the_catalogue() {
        assert_eq!(
            BASE64
                .decode(sum(Method::Crc32c, b"123456789").value)
                .unwrap(),
            0xe306_9283_u32.to_be_bytes()
        );
        assert_eq!(
            BASE64
                .decode(sum(Method::Crc64Nvme, b"123456789").value)
                .unwrap(),
            0xae8b_1486_0a79_9888_u64.to_be_bytes()
        );
    }

    #[test]
    fn a_kind_that_a_method_does_not_have_is_refused() {
        assert!(Method::Crc64Nvme.kind(Some("COMPOSITE")).is_err());
        assert!(Method::Sha256.kind(Some("FULL_OBJECT")).is_err());
        assert_eq!(Method::Crc32.kind(None).unwrap(), Kind::Composite);
    }

    #[test]
    fn two_checksums_in_one_request_are_refused() {
        let mut given: Given = given!(s3s::dto::Checksum::default());
        given[0].1 = Some("a".to_owned());
        given[1].1 = Some("b".to_owned());
        assert!(single(given).is_err());
    }
}
