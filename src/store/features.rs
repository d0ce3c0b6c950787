//! What a store can do: found by asking it once, kept in the state folder, and believed until it is asked again.

use serde::{Deserialize, Serialize};

/// What a store was found to do.
///
/// The default is what may be assumed of a store that nobody has asked: that it stores, reads, lists and removes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "a list of what can be missing"
)]
pub struct Features {
    /// Whether it has been asked at all.
    pub is_known: bool,
    /// The checksum that goes with each upload.
    pub checksum: Checksum,
    /// Whether it refuses a body whose checksum is wrong.
    pub verifies: bool,
    /// Whether a put with "if absent" is refused where something is.
    pub put_if_absent: bool,
    /// Whether a put with "if it is this" is refused where it is not.
    pub put_if_match: bool,
    /// Whether a completion with a condition that does not hold is refused.
    pub complete_if: bool,
    /// Whether a removal with "if it is this" leaves what is not; `None`: the right to remove was missing when it was asked.
    pub delete_if_match: Option<bool>,
    /// Whether it copies on its side.
    pub copy: bool,
    /// Whether a copy is refused whose source is another by now.
    pub copy_if_match: bool,
    /// Whether it takes uploads by parts.
    pub multipart: bool,
    /// Whether a part can be copied from a range of another object.
    pub part_copy: bool,
    /// Whether the parts of an open upload can be listed.
    pub list_parts: bool,
    /// Whether open uploads can be listed.
    pub list_uploads: bool,
    /// Whether several objects can be removed with one request.
    pub delete_many: bool,
    /// Whether objects take tags.
    pub tags: bool,
    /// Whether listings are in the order of the keys' bytes.
    pub is_ordered: bool,
    /// Whether listings show each key as it was written.
    pub exact_keys: bool,
    /// Whether user metadata comes back.
    pub metadata: bool,
}

/// A checksum that goes with an upload, as one plain header. From the best to none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Checksum {
    /// CRC64NVME, over the whole object also for one of parts.
    #[default]
    Crc64,
    /// CRC32.
    Crc32,
    /// MD5, as `Content-MD5`.
    Md5,
    /// None: the store refuses them all.
    None,
}

impl Features {
    /// What S3 itself does.
    pub const ALL: Self = Self {
        is_known: true,
        checksum: Checksum::Crc64,
        verifies: true,
        put_if_absent: true,
        put_if_match: true,
        complete_if: true,
        delete_if_match: Some(true),
        copy: true,
        copy_if_match: true,
        multipart: true,
        part_copy: true,
        list_parts: true,
        list_uploads: true,
        delete_many: true,
        tags: true,
        is_ordered: true,
        exact_keys: true,
        metadata: true,
    };
}
