//! The words on the socket: one line of JSON each way.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};

use crate::agent::Request;
use crate::base::digest::Sha256;
use crate::base::drill::Drill;
use crate::base::path::{RelPath, escaped};
use crate::base::snapshot::Tried;
use crate::commands::explain::Explained;
use crate::commands::status;
use crate::manifest::{FolderRow, Mend, Remote};
use crate::report::status_file::StatusFile;

/// The longest line that is asked, bytes: a path and a URL of the longest kind, escaped.
pub(super) const LINE_MOST: u64 = 64 << 10;
/// The longest line that is answered, bytes: hundreds of folders, with the files that are on their way.
pub(super) const ANSWER_MOST: u64 = 16 << 20;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Line {
    pub request: Word,
    /// The folder's path, as `status` shows it; of what is about no folder, nothing.
    #[serde(default)]
    pub path: String,
    /// The folder's URL.
    #[serde(default)]
    pub to: String,
    /// What is to be sent again, if that is asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mends: Vec<Wrong>,
    /// How a drill went, if that is to be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drill: Option<Box<Drill>>,
    /// When a verify ended (wall clock, nanoseconds) and whether everything was right, if that is to be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<(i64, bool)>,
    /// A file, base64 of its path: in the folder, or absolute if that is to be found out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
}

/// What can be asked, in the words of the line.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Word {
    Release,
    Drop,
    AcceptRoot,
    RetryFailed,
    Mend,
    Drilled,
    Verified,
    Pause,
    Resume,
    SyncNow,
    Status,
    Explain,
}

impl Word {
    /// Returns true for what changes nothing.
    pub fn is_read(self) -> bool {
        matches!(self, Self::Status | Self::Explain)
    }
}

/// A file to be sent again: its path in base64, and what its row claims; the object that somebody else has put there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Wrong {
    path: String,
    sha256: String,
    etag: String,
    there: Option<(String, u64, String)>,
}

impl Wrong {
    pub fn of(mend: &Mend) -> Self {
        let there = mend.there.clone();
        Self {
            path: BASE64_STANDARD.encode(mend.path.as_bytes()),
            sha256: mend.sha256.to_hex(),
            etag: mend.etag.clone(),
            there: there.map(|Remote { key, size, etag }| (key, size, etag)),
        }
    }

    /// Takes it back; `None` if it is not what [`Wrong::of`] makes.
    fn mend(self) -> Option<Mend> {
        Some(Mend {
            path: RelPath::new(&BASE64_STANDARD.decode(self.path).ok()?)?,
            sha256: Sha256::from_hex(&self.sha256)?,
            etag: self.etag,
            there: self
                .there
                .map(|(key, size, etag)| Remote { key, size, etag }),
            failure: None,
        })
    }
}

impl Line {
    pub fn new(row: &FolderRow, request: Word) -> Self {
        Self {
            request,
            path: escaped(&row.key.path),
            to: status::target(row),
            mends: Vec::new(),
            drill: None,
            verified: None,
            file: None,
        }
    }

    /// Makes the line that asks for the state of all folders, or for what is known of a file, by its absolute path.
    pub fn about(request: Word, file: Option<&[u8]>) -> Self {
        Self {
            request,
            path: String::new(),
            to: String::new(),
            mends: Vec::new(),
            drill: None,
            verified: None,
            file: file.map(|file| BASE64_STANDARD.encode(file)),
        }
    }

    /// Returns the bytes of the file's path, if one is named.
    pub fn file(&self) -> Option<Vec<u8>> {
        BASE64_STANDARD.decode(self.file.as_ref()?).ok()
    }

    /// Returns what a folder's loop is asked; `None` if the line does not say what it is about.
    pub fn request(self) -> Option<Request> {
        Some(match self.request {
            Word::Release => Request::Release,
            Word::Drop => Request::Drop,
            Word::AcceptRoot => Request::AcceptRoot,
            Word::RetryFailed => Request::RetryFailed,
            Word::Mend => {
                let mends = self.mends.into_iter().map(Wrong::mend);
                Request::Mend(mends.collect::<Option<_>>()?)
            }
            Word::Drilled => Request::Drilled(self.drill?),
            Word::Verified => {
                let (at_ns, ok) = self.verified?;
                Request::Verified(Tried { at_ns, ok })
            }
            Word::Pause => Request::Pause,
            Word::Resume => Request::Resume,
            Word::SyncNow => {
                let path = match &self.file {
                    Some(_) => RelPath::new(&self.file()?)?,
                    None => RelPath::root(),
                };
                Request::SyncNow(path)
            }
            // They are not for one folder's loop.
            Word::Status | Word::Explain => return None,
        })
    }
}

/// What is answered.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Reply {
    pub count: Option<u64>,
    pub error: Option<String>,
    /// How all folders are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub said: Option<Said>,
    /// What is known of a file, for each folder that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explained: Option<Vec<Explained>>,
}

/// How all folders of an agent are.
#[derive(Debug, Serialize, Deserialize)]
pub struct Said {
    /// The agent's state folder, escaped for people.
    pub state_dir: String,
    /// What it says.
    pub status: StatusFile,
}
