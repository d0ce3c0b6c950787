//! What the catalog keeps of a restore drill: one line, for whoever asks later whether the backup ever came back.

use serde::{Deserialize, Serialize};

/// How a drill went.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Drill {
    /// The machine on which it was.
    pub host: String,
    /// Whether everything that was tried came back right.
    pub ok: bool,
    /// Files that came back.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Of them, files that are the same on the disk.
    pub same: u64,
    /// Of them, files that have changed on the disk, or gone, since they were synced.
    pub changed: u64,
    /// How much did not come back, or came back wrong; what is beyond the first is not counted.
    pub wrong: u64,
}
