//! The table of answers: what each of the store's words and statuses means, what can be put right, what a person can do.

use crate::store::ErrorKind;
use crate::store::s3::attempt::Call;
use crate::store::s3::classify::{Answer, Blip, Cure};

/// The table of answers: first by the store's word, which is the same with every status, then by status.
pub(super) fn kind(answer: &Answer) -> (ErrorKind, Option<Blip>) {
    use ErrorKind::{
        Barred, Busy, Conflict, Corrupt, Denied, Full, Invalid, Network, NotFound, Precondition,
        TooLarge, Unsupported,
    };
    match answer.code.as_str() {
        "SlowDown" | "SlowDownRead" | "SlowDownWrite" | "Throttling" | "ThrottlingException"
        | "ThrottledException" | "TooManyRequests" | "TooManyRequestsException"
        | "RequestLimitExceeded" | "BandwidthLimitExceeded" | "RequestThrottled"
        | "RequestThrottledException" | "ProvisionedThroughputExceededException"
        | "LimitExceededException" | "PriorRequestNotComplete" | "KMS.ThrottlingException" => {
            (Busy, Some(Blip::Throttle))
        }
        "InternalError" | "InternalFailure" | "ServiceUnavailable" | "ServerBusy" => {
            (Busy, Some(Blip::Server))
        }
        // The server saw no more of the body for a while, and has not stored anything.
        "RequestTimeout" => (Network, Some(Blip::Connection)),
        "NoSuchKey" | "NoSuchBucket" | "NoSuchUpload" | "NoSuchVersion" | "NotFound" => {
            (NotFound, None)
        }
        "PreconditionFailed" => (Precondition, None),
        "OperationAborted" | "ConditionalRequestConflict" => (Conflict, None),
        "BadDigest" | "InvalidDigest" | "XAmzContentSHA256Mismatch" | "XAmzContentChecksumMismatch" => {
            (Corrupt, None)
        }
        "EntityTooLarge" => (TooLarge, None),
        "NotImplemented" => (Unsupported, None),
        "AccessDenied" => (Denied, None),
        "QuotaExceeded" | "XMinioStorageFull" | "EntityQuotaExceeded" | "InsufficientStorage" => (Full, None),
        "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "AllAccessDisabled" | "AccountProblem"
        | "ExpiredToken" | "ExpiredTokenException" | "InvalidToken" | "TokenRefreshRequired"
        | "InvalidSecurity" | "NotSignedUp" | "RequestTimeTooSkewed" | "RequestExpired"
        // The bucket lives elsewhere: nothing that this key or a repetition could change.
        | "PermanentRedirect" | "TemporaryRedirect" | "Redirect" | "AuthorizationHeaderMalformed"
        | "IllegalLocationConstraintException" => (Barred, None),
        // 403 by its status, yet about this object only: it rests in an archive.
        "InvalidObjectState"
        // These stand inside a success too, where the status says nothing.
        | "InvalidPart" | "InvalidPartOrder" | "EntityTooSmall" | "InvalidArgument" | "InvalidRequest"
        | "KeyTooLongError" | "MetadataTooLarge" | "InvalidStorageClass" | "MalformedXML" => {
            (Invalid, None)
        }
        _ => match answer.status {
            301 | 302 | 307 | 308 | 401 | 407 => (Barred, None),
            403 => (Denied, None),
            507 => (Full, None),
            404 => (NotFound, None),
            408 => (Network, Some(Blip::Connection)),
            409 => (Conflict, None),
            412 => (Precondition, None),
            413 => (TooLarge, None),
            429 => (Busy, Some(Blip::Throttle)),
            501 => (Unsupported, None),
            // An error inside a success is one of the server's that came late.
            200..=299 | 500..=599 => (Busy, Some(Blip::Server)),
            _ => (Invalid, None),
        },
    }
}

pub(super) fn status_words(status: u16) -> String {
    let words = match status {
        301 | 307 | 308 => "the bucket is elsewhere",
        400 => "bad request",
        401 | 403 => "access is denied",
        404 => "not found",
        405 => "the store does not allow this",
        409 => "conflict",
        412 => "the condition does not hold",
        413 => "too large",
        429 => "too many requests",
        501 => "the store does not have this operation",
        502..=504 => "the server, or a proxy before it, is not available",
        _ => return format!("the store answered {status}"),
    };
    format!("{words} ({status})")
}

/// What a person can do about it; empty where there is nothing to say.
pub(super) fn advice(answer: &Answer, call: &Call<'_>) -> String {
    if let Some(region) = region(answer) {
        return format!("the bucket is in region {region}: set `region` to that");
    }
    let elsewhere = is_elsewhere(answer);
    match answer.code.as_str() {
        _ if elsewhere => "set `region` to the bucket's region",
        "NoSuchBucket" => "create the bucket first, or correct its name",
        "NotFound" | "" if answer.status == 404 && call.key.is_empty() => {
            "create the bucket first, or correct its name"
        }
        "InvalidAccessKeyId" | "NotSignedUp" => "check AWS_ACCESS_KEY_ID or the profile",
        "SignatureDoesNotMatch" => {
            "check AWS_SECRET_ACCESS_KEY or the profile, and this machine's clock"
        }
        "ExpiredToken" | "ExpiredTokenException" | "InvalidToken" | "TokenRefreshRequired" => {
            "renew the session's credentials"
        }
        "AccessDenied" => "the credentials lack this right on the bucket",
        "" if answer.status == 403 => "the credentials are wrong, or lack this right on the bucket",
        "RequestTimeTooSkewed" => "set this machine's clock, or let NTP do it",
        "QuotaExceeded" | "XMinioStorageFull" => "make room in the bucket",
        "" if answer.status == 407 => "the proxy wants a user and a password",
        _ => "",
    }
    .to_owned()
}

fn is_elsewhere(answer: &Answer) -> bool {
    matches!(answer.status, 301 | 302 | 307 | 308)
        || matches!(
            answer.code.as_str(),
            "PermanentRedirect"
                | "TemporaryRedirect"
                | "AuthorizationHeaderMalformed"
                | "IllegalLocationConstraintException"
        )
}

/// Returns the region in which the bucket is, if that is what the answer says.
fn region(answer: &Answer) -> Option<&str> {
    // A HEAD has no words; a wrong region then is a bare 400 with this header.
    let may_be = is_elsewhere(answer) || (answer.code.is_empty() && answer.status == 400);
    answer.region.as_deref().filter(|_| may_be)
}

/// Returns what may be put right before the request is tried again.
pub(super) fn cures(answer: &Answer) -> Vec<Cure> {
    let mut cures = Vec::new();
    cures.extend(region(answer).map(|region| Cure::Region(region.to_owned())));
    if matches!(answer.status, 307 | 308) {
        cures.extend(answer.location.clone().map(Cure::Follow));
    }
    match (answer.code.as_str(), answer.status) {
        // A HEAD has no words for it.
        ("RequestTimeTooSkewed" | "RequestExpired", _) | ("", 403) => cures.push(Cure::Clock),
        // The clocks may be to blame, or the key.
        ("SignatureDoesNotMatch", _) => cures.extend([Cure::Clock, Cure::Credentials]),
        (
            "InvalidAccessKeyId"
            | "ExpiredToken"
            | "ExpiredTokenException"
            | "InvalidToken"
            | "TokenRefreshRequired",
            _,
        )
        | ("", 400) => cures.push(Cure::Credentials),
        _ => {}
    }
    cures
}

/// Returns whether the store may have refused the checksum header rather than the request.
///
/// Only a guess, for the caller to prove by repeating without it. A checksum that did not match is not meant.
pub(super) fn minds_checksum(answer: &Answer) -> bool {
    if answer.status == 501 || answer.code == "NotImplemented" {
        return true;
    }
    let words = answer.message.to_ascii_lowercase();
    answer.status == 400
        && matches!(
            answer.code.as_str(),
            "InvalidArgument" | "InvalidRequest" | "UnsupportedHeader" | "ExcessHeaderValues"
        )
        && (words.contains("checksum")
            || words.contains("unsupported header")
            || words.contains("excess header"))
        && !words.contains("match")
}
