//! Where a content may be besides its own place, and the first of these places that has it.
//!
//! Only what the bucket says is not there, or is another content, counts as not there. A place that could not be looked at
//! may have it: that is told, and never taken for an answer.

use crate::base::digest::Sha256;
use crate::store::{Error, ErrorKind, Object, Store, Which};

/// A place where a content may be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// The whole key.
    pub key: String,
    /// Which of the key's contents.
    pub which: Which,
    /// The ETag that it has there; `None`: not known.
    pub etag: Option<String>,
    /// What kind of place it is.
    pub place: Place,
}

/// What kind of place it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// The path's own key.
    Own,
    /// A version of that.
    Version,
    /// What was set aside of it.
    Trash,
    /// The key of another path that has the same content.
    Other,
}

/// What came of the search.
#[derive(Debug)]
pub enum Sought<'a> {
    /// It is there.
    There(&'a Candidate, Object),
    /// It is at none of the places.
    Nowhere,
    /// It is at none of those that could be looked at; the first of the others, and why it could not.
    Unknown(&'a Candidate, Error),
}

impl Candidate {
    /// Makes one of the path's own key.
    pub fn own(key: &str, etag: Option<&str>) -> Self {
        Self::new(key, Which::Current, etag, Place::Own)
    }

    /// Makes one of a version.
    pub fn version(key: &str, id: &str) -> Self {
        Self::new(key, Which::Version(id.to_owned()), None, Place::Version)
    }

    /// Makes one of what was set aside.
    pub fn trash(key: &str) -> Self {
        Self::new(key, Which::Current, None, Place::Trash)
    }

    /// Makes one of another path's key.
    pub fn other(key: &str, etag: &str) -> Self {
        Self::new(key, Which::Current, Some(etag), Place::Other)
    }

    fn new(key: &str, which: Which, etag: Option<&str>, place: Place) -> Self {
        Self {
            key: key.to_owned(),
            which,
            etag: etag.map(str::to_owned),
            place,
        }
    }
}

/// Looks for a content of so many bytes, at one place after the other. An error that is every object's ends it.
pub async fn first<'a>(
    store: &dyn Store,
    size: u64,
    sha256: Option<Sha256>,
    candidates: &'a [Candidate],
) -> Sought<'a> {
    let mut unknown = None;
    for candidate in candidates {
        let can_be = |object: &Object| {
            let is_or_unsaid =
                |says: Option<Sha256>| says.is_none() || sha256.is_none() || says == sha256;
            let etag = candidate.etag.as_ref();
            object.size == size
                && is_or_unsaid(object.sha256())
                && etag.is_none_or(|etag| object.etag == *etag)
        };
        match store.head_of(&candidate.key, &candidate.which).await {
            Ok(object) if can_be(&object) => return Sought::There(candidate, object),
            Ok(_) => {}
            Err(error) if error.is_of_all_objects() => return Sought::Unknown(candidate, error),
            Err(error) => match error.kind {
                // A store without versions refuses to be asked for one.
                ErrorKind::NotFound
                | ErrorKind::Precondition
                | ErrorKind::Invalid
                | ErrorKind::Unsupported => {}
                _ => unknown = unknown.or(Some((candidate, error))),
            },
        }
    }
    match unknown {
        Some((candidate, error)) => Sought::Unknown(candidate, error),
        None => Sought::Nowhere,
    }
}
