//! Which of a key's contents is read.

/// Which of a key's contents a read wants.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Which {
    /// The one that is there now.
    #[default]
    Current,
    /// The one that is there now, if it has this ETag; else [`Precondition`](crate::store::ErrorKind::Precondition).
    Is(String),
    /// The one of this version, in a versioned bucket; [`NotFound`](crate::store::ErrorKind::NotFound) once it is gone.
    Version(String),
}

impl Which {
    /// Returns the ETag that the content must have.
    pub fn etag(&self) -> Option<&str> {
        match self {
            Self::Is(etag) => Some(etag),
            Self::Current | Self::Version(_) => None,
        }
    }

    /// Returns the version that is wanted.
    pub fn version_id(&self) -> Option<&str> {
        match self {
            Self::Version(id) => Some(id),
            Self::Current | Self::Is(_) => None,
        }
    }
}
