//! The conditions of requests: what must be there, or must not be, for a request to have its effect.

use s3s::dto::{ETag, ETagCondition, Timestamp};
use s3s::{S3Result, s3_error};

use crate::commands::demo::storage::index::Object;
use crate::commands::demo::storage::timestamp;

/// The conditions of a write. They are checked under the same lock as the write.
#[derive(Clone, Debug, Default)]
pub struct OnWrite {
    if_match: Option<ETagCondition>,
    if_none_match: bool,
}

impl OnWrite {
    /// Takes the two headers. As S3, it knows only `*` in `If-None-Match`.
    pub fn new(
        if_match: Option<ETagCondition>,
        if_none_match: Option<&ETagCondition>,
    ) -> S3Result<Self> {
        if matches!(if_none_match, Some(ETagCondition::ETag(_))) {
            return Err(s3_error!(
                NotImplemented,
                "If-None-Match can only be `*` here."
            ));
        }
        Ok(Self {
            if_match,
            if_none_match: if_none_match.is_some(),
        })
    }

    /// Compares them with what is there.
    pub fn check(&self, there: Option<&Object>) -> S3Result {
        match (&self.if_match, there) {
            (None, _) => {}
            // An object that has gone is a different answer from one that has changed.
            (Some(_), None) => return Err(s3_error!(NoSuchKey)),
            (Some(wanted), Some(object)) if is_match(wanted, object) => {}
            (Some(_), Some(_)) => return Err(failed("If-Match")),
        }
        if self.if_none_match && there.is_some() {
            return Err(failed("If-None-Match"));
        }
        Ok(())
    }
}

/// The conditions of a read, or on the source of a copy.
#[derive(Clone, Debug, Default)]
pub struct OnRead {
    /// `If-Match`
    pub is: Option<ETagCondition>,
    /// `If-None-Match`
    pub is_not: Option<ETagCondition>,
    /// `If-Modified-Since`
    pub since: Option<Timestamp>,
    /// `If-Unmodified-Since`
    pub not_since: Option<Timestamp>,
}

impl OnRead {
    /// Compares them with the object; where it is unchanged, a reader is told so with `304`.
    pub fn check(&self, object: &Object) -> S3Result {
        match self.outcome(object) {
            Outcome::Read => Ok(()),
            Outcome::Unchanged => Err(s3_error!(NotModified)),
            Outcome::Failed(which) => Err(failed(which)),
        }
    }

    /// Compares them with the source of a copy, for which unchanged is a failure too.
    pub fn check_source(&self, object: &Object) -> S3Result {
        match self.outcome(object) {
            Outcome::Read => Ok(()),
            Outcome::Unchanged => Err(failed("x-amz-copy-source-If-None-Match")),
            Outcome::Failed(which) => Err(failed(which)),
        }
    }

    /// As RFC 9110 orders them: a condition on the ETag overrules its twin on the time.
    fn outcome(&self, object: &Object) -> Outcome {
        // Headers carry whole seconds.
        let modified = timestamp(object.modified_ns / 1_000_000_000 * 1_000_000_000);
        match (&self.is, &self.not_since) {
            (Some(wanted), _) if !is_match(wanted, object) => return Outcome::Failed("If-Match"),
            (None, Some(time)) if modified > *time => {
                return Outcome::Failed("If-Unmodified-Since");
            }
            _ => {}
        }
        match (&self.is_not, &self.since) {
            (Some(known), _) if is_match(known, object) => Outcome::Unchanged,
            (None, Some(time)) if modified <= *time => Outcome::Unchanged,
            _ => Outcome::Read,
        }
    }
}

enum Outcome {
    Read,
    Unchanged,
    Failed(&'static str),
}

/// Returns true if the object has the `ETag`; `*` is any.
pub fn is_match(condition: &ETagCondition, object: &Object) -> bool {
    match condition {
        ETagCondition::Any => true,
        ETagCondition::ETag(etag) => etag.value() == object.etag,
    }
}

/// Returns an `ETag` as answers carry it.
pub fn etag(value: &str) -> ETag {
    ETag::Strong(value.to_owned())
}

fn failed(which: &'static str) -> s3s::S3Error {
    s3_error!(
        PreconditionFailed,
        "At least one of the pre-conditions you specified did not hold: {which}"
    )
}
