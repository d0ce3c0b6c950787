//! What a running agent knows of one path at this moment, in the words of the JSON contract.

use serde::{Deserialize, Serialize};

/// Where the path is on its way, and what it waits for.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Live {
    /// `idle`, `settling`, `queued`, `in_flight`, `retrying` (it failed), `moving` (it was written to while it was read), or
    /// `check` (it is looked at once more).
    pub stage: String,
    /// Until when it settles, or when it is tried next, RFC 3339.
    pub due_at: Option<String>,
    /// Since when its oldest change waits, RFC 3339.
    pub waiting_since: Option<String>,
    /// How many paths are before it.
    pub ahead: u64,
    /// The first of them.
    pub front: Vec<String>,
    /// How often it has failed since it was last done.
    pub failures: u32,
    /// Why, the last time.
    pub error: Option<String>,
    /// Bytes that have gone out, while it is on its way.
    pub bytes_done: Option<u64>,
    /// Its size, bytes, while it is on its way.
    pub bytes_all: Option<u64>,
    /// Parts that were answered, of a large file.
    pub parts_done: Option<u32>,
    /// Parts that it has.
    pub parts_all: Option<u32>,
    /// Why nothing of the folder is sent now.
    pub waits_for: Option<String>,
    /// What is held back in the folder, and why.
    pub brake: Option<String>,
}
