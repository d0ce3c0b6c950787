//! What a content is read into while it arrives: the seam between the store, which receives, and whoever keeps the bytes.

use bytes::Bytes;

/// Takes a content piece by piece.
pub trait Sink: Send + Sync {
    /// Takes the next piece, which begins at `at` of the object, in bytes. Pieces come in order and leave nothing out; must
    /// not block, and has to have room for all that was asked for.
    fn take(&self, at: u64, piece: Bytes);
}
