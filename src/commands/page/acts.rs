//! What a person decides on the page, and the list of what is held that is looked at before.

use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::agent::{Control, Request, Said};
use crate::base::clock::rfc3339;
use crate::base::path::{RelPath, told};
use crate::commands::board::{Board, Seat};
use crate::commands::page::view::is_same;
use crate::manifest::{HeldWhat, Manifest};

/// Held paths of one page of the list.
pub const PAGE: usize = 100;
/// How long a folder's loop may take to answer: a release looks at every held row.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    /// The folder's name.
    folder: String,
    #[serde(rename = "do")]
    deed: Deed,
    /// How many held paths the one who decides has seen: a decision is about all of them.
    #[serde(default)]
    held: Option<u64>,
}

/// What can be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Deed {
    /// Everything that the brakes hold is done after all.
    Release,
    /// It is forgotten, and the objects stay.
    Drop,
    /// What failed for good is tried again.
    RetryFailed,
    /// Everything is looked at now, and nothing waits for its time.
    SyncNow,
    /// Nothing new is started.
    Pause,
    /// It goes on.
    Resume,
}

impl Deed {
    /// Every one.
    pub const ALL: &'static [Self] = &[
        Self::Release,
        Self::Drop,
        Self::RetryFailed,
        Self::SyncNow,
        Self::Pause,
        Self::Resume,
    ];
}

/// How it did not come about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refused {
    /// There is no such folder.
    Missing,
    /// More or less is held than was seen.
    Changed(u64),
    /// It was not said how many have been seen.
    Unseen,
    /// The folder's loop said no, or nothing.
    Failed(String),
}

/// Has it done; returns how many paths it was about.
pub async fn act(board: &Board, ask: Ask) -> Result<u64, Refused> {
    let seat = seat(board, &ask.folder).ok_or(Refused::Missing)?;
    let request = match ask.deed {
        Deed::Release => Request::Release,
        Deed::Drop => Request::Drop,
        Deed::RetryFailed => Request::RetryFailed,
        Deed::SyncNow => Request::SyncNow(RelPath::root()),
        Deed::Pause => Request::Pause,
        Deed::Resume => Request::Resume,
    };
    if matches!(request, Request::Release | Request::Drop) {
        let held = seat.snapshots.borrow().held;
        let seen = ask.held.ok_or(Refused::Unseen)?;
        if seen != held {
            return Err(Refused::Changed(held));
        }
    }
    let (answer, told) = oneshot::channel();
    let asking = async {
        let gone = || "reach the folder's loop: it is stopping".to_owned();
        let asked = Control { request, answer };
        seat.asks.send(asked).await.map_err(|_| gone())?;
        told.await.map_err(|_| gone())?
    };
    let said = tokio::time::timeout(PATIENCE, asking).await;
    let silent = |_| Err("have an answer of the folder's loop in time".to_owned());
    match said.unwrap_or_else(silent).map_err(Refused::Failed)? {
        Said::Count(count) => Ok(count),
        Said::Live(_) => Ok(0),
    }
}

/// Returns a folder's seat.
pub fn seat(board: &Board, name: &str) -> Option<Seat> {
    board.seats().into_iter().find(|seat| seat.name == name)
}

/// A page of the list.
#[derive(Debug, Serialize)]
pub struct List {
    items: Vec<Held>,
    /// What the next page is asked for with; `None`: this is the last one.
    next: Option<String>,
}

/// A held path.
#[derive(Debug, Serialize)]
struct Held {
    what: &'static str,
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_base64: Option<String>,
    bytes: u64,
    since: String,
}

/// Returns where a page of the list begins; `None` if `next` is not what a page before said.
pub fn after(next: Option<&str>) -> Option<RelPath> {
    match next {
        None => Some(RelPath::root()),
        Some(text) => RelPath::new(&BASE64_URL_SAFE_NO_PAD.decode(text).ok()?),
    }
}

/// Reads a page of what is held in a folder, behind `after`; the error fits after "could not". Blocks.
pub fn held(state_dir: &Path, seat: &Seat, after: &RelPath) -> Result<List, String> {
    let none = || List {
        items: Vec::new(),
        next: None,
    };
    let manifest = Manifest::open_read_only(state_dir).map_err(|error| error.to_string())?;
    let Some(manifest) = manifest else {
        return Ok(none());
    };
    let rows = manifest.folders().map_err(|error| error.to_string())?;
    let Some(folder) = rows.iter().find(|row| is_same(row, &seat.path, &seat.to)) else {
        return Ok(none());
    };
    let rows = manifest.held(folder.id, after, PAGE);
    let rows = rows.map_err(|error| error.to_string())?;
    let last = rows.last().filter(|_| rows.len() == PAGE);
    let next = last.map(|row| BASE64_URL_SAFE_NO_PAD.encode(row.path.as_bytes()));
    let items = rows.iter().filter_map(|row| {
        let held = row.held.as_ref().filter(|held| held.what.is_waiting())?;
        let (path, path_base64) = told(row.path.as_bytes());
        Some(Held {
            what: if held.what == HeldWhat::Delete {
                "delete"
            } else {
                "overwrite"
            },
            path: path.into_owned(),
            path_base64,
            bytes: row.stored.as_ref().map_or(0, |content| content.stat.size),
            since: rfc3339(held.at_ns),
        })
    });
    Ok(List {
        items: items.collect(),
        next,
    })
}
