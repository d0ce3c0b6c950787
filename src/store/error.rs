//! What can go wrong with a request, in words that a caller can act on.

use std::fmt;
use std::time::Duration;

/// A request's result.
pub type Result<T> = std::result::Result<T, Error>;

/// A request that did not do what it should.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{operation} of {}: {message}", if key.is_empty() { "the bucket".to_owned() } else { format!("`{}`", crate::base::path::escaped(key.as_bytes())) })]
pub struct Error {
    /// What the caller has to do about it.
    pub kind: ErrorKind,
    /// The request's name, as S3 calls it: `PutObject`.
    pub operation: &'static str,
    /// The key it was about; empty for the bucket.
    pub key: String,
    /// Whether the request may have had, or may still have, its effect.
    pub effect: Effect,
    /// What went wrong: the store's code and words, or the connection's; one line, no secrets.
    pub message: String,
    /// The store's own word for it, such as `NoSuchUpload`; empty if it said none.
    pub code: String,
    /// How long the store asks to be left alone.
    pub retry_after: Option<Duration>,
}

/// Kinds of error, by what the caller does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorKind {
    /// The object, upload or bucket is not there.
    NotFound,
    /// A condition did not hold.
    Precondition,
    /// A right is missing, for this key at least: nobody can help but a person.
    Denied,
    /// The endpoint does not take us at all: credentials, certificate, clock or region are wrong. Nobody can help but a
    /// person, or new credentials.
    Barred,
    /// The bucket's quota or the store's disk is used up: only deletes can succeed.
    Full,
    /// Another request for the key was under way: look again, then repeat.
    Conflict,
    /// The store asks for patience (throttles, 5xx): wait and repeat.
    Busy,
    /// The endpoint could not be reached, or did not answer: wait and repeat.
    Network,
    /// What arrived is not what was sent: read again, then repeat.
    Corrupt,
    /// The store refuses this request for good: repeating does not help.
    Invalid,
    /// The object is larger than the store takes.
    TooLarge,
    /// The store does not have this operation or this header.
    Unsupported,
}

/// What the message begins with when no connection came to stand.
pub const UNREACHED: &str = "cannot connect";

/// What a failed request may have done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Nothing, and nothing to come: it was refused, or never sent.
    None,
    /// Unknown: sent, and the answer is missing. It may still land.
    Possible,
}

impl Error {
    /// Makes an error without the store's own words.
    pub fn new(
        kind: ErrorKind,
        operation: &'static str,
        key: &str,
        effect: Effect,
        message: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            operation,
            key: key.to_owned(),
            effect,
            message: message.into(),
            code: String::new(),
            retry_after: None,
        }
    }

    /// Returns true if no connection came to stand: whatever the trouble is, it is not one of too many requests.
    pub fn never_left(&self) -> bool {
        self.kind == ErrorKind::Network
            && self.effect == Effect::None
            && self.message.starts_with(UNREACHED)
    }

    /// Returns true if the store says that it broke, and not that it wants patience.
    pub fn is_servers_own(&self) -> bool {
        matches!(
            self.code.as_str(),
            "InternalError" | "InternalFailure" | "ServiceUnavailable" | "ServerBusy"
        )
    }

    /// Returns true if the trouble is the endpoint's, the bucket's or the credentials', not this key's.
    pub fn is_everyones(&self) -> bool {
        matches!(
            self.kind,
            ErrorKind::Network
                | ErrorKind::Busy
                | ErrorKind::Denied
                | ErrorKind::Barred
                | ErrorKind::Full
        ) || (self.kind == ErrorKind::NotFound
            && matches!(
                self.operation,
                "PutObject" | "CreateMultipartUpload" | "HeadBucket" | "ListObjectsV2"
            ))
    }

    /// Returns true if an answer to the question for the bucket says that a person has to see to it: it is not there, cannot
    /// be reached, or does not take us.
    pub fn is_of_bucket(&self) -> bool {
        matches!(
            self.kind,
            ErrorKind::NotFound | ErrorKind::Network | ErrorKind::Denied | ErrorKind::Barred
        )
    }

    /// Returns true if no object can be looked at now, whichever it is; a right may be missing for one key alone.
    pub fn is_of_all_objects(&self) -> bool {
        self.is_everyones() && self.kind != ErrorKind::Denied
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self {
            Self::NotFound => "not found",
            Self::Precondition => "condition not met",
            Self::Denied => "denied",
            Self::Barred => "not let in",
            Self::Full => "full",
            Self::Conflict => "conflict",
            Self::Busy => "busy",
            Self::Network => "not reachable",
            Self::Corrupt => "corrupt",
            Self::Invalid => "refused",
            Self::TooLarge => "too large",
            Self::Unsupported => "not supported",
        };
        f.write_str(word)
    }
}
