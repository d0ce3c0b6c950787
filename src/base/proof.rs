//! What proves that an object that somebody else wrote has the content of a file.

use serde::Serialize;

/// What was compared. Each one is of the whole content, together with its size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Proof {
    /// The SHA-256 that its metadata declares.
    Sha256,
    /// The `ETag`, which of most objects that went up in one piece is the MD5.
    Etag,
    /// The MD5 that its metadata declares, as rclone's `md5chksum` does.
    Md5,
    /// The checksum that the store itself keeps of it.
    Checksum,
    /// The `ETag` of an object that went up in parts, made again for the part size that the file was cut by.
    Parts,
}

impl Proof {
    /// Returns it as people read it, fit after "by".
    pub fn words(self) -> &'static str {
        match self {
            Self::Sha256 => "SHA-256",
            Self::Etag => "ETag",
            Self::Md5 => "declared MD5",
            Self::Checksum => "checksum",
            Self::Parts => "ETag of parts",
        }
    }
}

/// How many objects were adopted by which proof.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Adopted {
    /// By [`Proof::Sha256`].
    pub sha256: u64,
    /// By [`Proof::Etag`].
    pub etag: u64,
    /// By [`Proof::Md5`].
    pub md5: u64,
    /// By [`Proof::Checksum`].
    pub checksum: u64,
    /// By [`Proof::Parts`].
    pub parts: u64,
}

impl Adopted {
    /// Counts one more.
    pub fn count(&mut self, proof: Proof) {
        *match proof {
            Proof::Sha256 => &mut self.sha256,
            Proof::Etag => &mut self.etag,
            Proof::Md5 => &mut self.md5,
            Proof::Checksum => &mut self.checksum,
            Proof::Parts => &mut self.parts,
        } += 1;
    }

    /// Returns both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            sha256: self.sha256 + other.sha256,
            etag: self.etag + other.etag,
            md5: self.md5 + other.md5,
            checksum: self.checksum + other.checksum,
            parts: self.parts + other.parts,
        }
    }

    /// Returns how many they are.
    pub fn total(&self) -> u64 {
        self.each().iter().map(|(_, count)| count).sum()
    }

    /// Returns the count of each proof.
    pub fn each(&self) -> [(Proof, u64); 5] {
        [
            (Proof::Sha256, self.sha256),
            (Proof::Etag, self.etag),
            (Proof::Md5, self.md5),
            (Proof::Checksum, self.checksum),
            (Proof::Parts, self.parts),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_proof_is_counted_for_itself() {
        let mut adopted = Adopted::default();
        for (times, (proof, _)) in (1..).zip(Adopted::default().each()) {
            for _ in 0..times {
                adopted.count(proof);
            }
        }
        assert_eq!(adopted.each().map(|(_, count)| count), [1, 2, 3, 4, 5]);
        assert_eq!(adopted.and(adopted).total(), 30);
    }
}
