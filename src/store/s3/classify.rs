//! What went wrong, in words that a caller can act on: the table from answers and broken lines to kinds and effects.
//!
//! Rule for effects: a request had none only where that is sure: it was refused by a 4xx, or no byte of it left. Everything else
//! (no answer, half an answer, a 5xx, an error inside a 200) may have worked, or may still.

use std::error::Error as StdError;
use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::ConnectorError;

use crate::store::s3::attempt::{Call, Nature};
use crate::store::{Effect, Error, ErrorKind, UNREACHED};

/// What one attempt met, without the SDK's types.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Trouble {
    /// The store answered.
    Answer(Answer),
    /// There is an answer, but not all of it, or it says success without saying what.
    Garbled(String),
    /// What was stored is not what was sent.
    Different(String),
    /// Nothing moved for this long.
    Stalled(Duration),
    /// No connection came to stand.
    Unreachable(String),
    /// The connection broke.
    Broken(String),
    /// TLS refused the other side.
    Untrusted(String),
    /// There is nothing to sign with.
    Credentials(String),
    /// The request could not even be made.
    Local(String),
}

/// An error that the store answered with.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Answer {
    pub status: u16,
    pub code: String,
    pub message: String,
    /// The bucket's region, where the store tells it.
    pub region: Option<String>,
    /// When to come again, where the store tells it.
    pub retry_after: Option<Duration>,
}

/// A stumble that a repetition within the request can get over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Blip {
    /// The line.
    Connection,
    /// The server.
    Server,
    /// The server's patience.
    Throttle,
}

/// A failed attempt, judged.
#[derive(Debug)]
pub(super) struct Failure {
    pub error: Error,
    pub blip: Option<Blip>,
    /// Whether the store may have minded the checksum header only.
    pub minds_checksum: bool,
    /// Whether the answer, if any, arrived: then repeating makes nothing twice.
    pub answered: bool,
}

impl Failure {
    /// Returns whether another attempt can do no harm.
    pub fn may_repeat(&self, nature: Nature) -> bool {
        nature != Nature::Create || self.answered || self.error.effect == Effect::None
    }
}

/// Takes the SDK's error apart.
pub(super) fn trouble<E>(error: SdkError<E, HttpResponse>) -> Trouble
where
    E: StdError + ProvideErrorMetadata + Send + Sync + 'static,
{
    match error {
        SdkError::ServiceError(context) => {
            let (error, response) = (context.err(), context.raw());
            let answer = answer(response, error.code(), error.message());
            if answer.code.is_empty() && response.status().is_success() {
                return Trouble::Garbled(innermost(error));
            }
            Trouble::Answer(answer)
        }
        SdkError::ResponseError(context) => {
            let answer = answer(context.raw(), None, None);
            if !context.raw().status().is_success() {
                return Trouble::Answer(answer);
            }
            let source = SdkError::<E, _>::ResponseError(context).into_source();
            Trouble::Garbled(source.map_or_else(
                |_| "it cannot be read".to_owned(),
                |source| innermost(source.as_ref()),
            ))
        }
        SdkError::DispatchFailure(failure) => failure
            .as_connector_error()
            .map_or_else(|| Trouble::Broken("no reason is known".to_owned()), line),
        SdkError::TimeoutError(_) => Trouble::Stalled(Duration::ZERO),
        other => Trouble::Local(other.into_source().map_or_else(
            |_| "the request could not be made".to_owned(),
            |source| innermost(source.as_ref()),
        )),
    }
}

fn answer(response: &HttpResponse, code: Option<&str>, message: Option<&str>) -> Answer {
    let header = |name| response.headers().get(name).map(str::to_owned);
    Answer {
        status: response.status().as_u16(),
        code: code.unwrap_or_default().to_owned(),
        message: message.unwrap_or_default().to_owned(),
        region: header("x-amz-bucket-region"),
        retry_after: header("retry-after")
            .and_then(|seconds| seconds.trim().parse().ok())
            .map(Duration::from_secs),
    }
}

/// Judges an error of the connection, or of what comes before it.
fn line(error: &ConnectorError) -> Trouble {
    let text = innermost(error);
    if let Some(error) = find::<CredentialsError>(error) {
        return match error {
            CredentialsError::CredentialsNotLoaded(_) => Trouble::Credentials(String::new()),
            _ => Trouble::Credentials(text),
        };
    }
    let whole = chain(error)
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ");
    if whole.contains("certificate") {
        return Trouble::Untrusted(text);
    }
    let connecting = find::<hyper_util::client::legacy::Error>(error)
        .is_some_and(hyper_util::client::legacy::Error::is_connect);
    if connecting && error.is_timeout() {
        Trouble::Unreachable("the connection did not come to stand in time".to_owned())
    } else if connecting && whole.contains("dns error") {
        Trouble::Unreachable(format!("its name cannot be resolved: {text}"))
    } else if connecting {
        Trouble::Unreachable(text)
    } else if error.is_user() || (error.as_other().is_none() && error.is_other()) {
        Trouble::Local(text)
    } else {
        Trouble::Broken(text)
    }
}

fn chain<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

fn find<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    chain(error).find_map(|error| error.downcast_ref())
}

/// Returns the words of the cause at the bottom, which is the one that says something.
fn innermost(error: &(dyn StdError + 'static)) -> String {
    chain(error)
        .map(ToString::to_string)
        .filter(|text| !text.is_empty())
        .last()
        .unwrap_or_default()
}

/// Judges what an attempt met. `left` says whether a byte of the request may have gone out.
pub(super) fn judge(trouble: Trouble, call: &Call<'_>, left: bool) -> Failure {
    let lost = if left && call.nature != Nature::Read {
        Effect::Possible
    } else {
        Effect::None
    };
    let mut failure = failure(call, lost);
    let error = &mut failure.error;
    let message = match trouble {
        Trouble::Answer(answer) => return judge_answer(answer, call, failure),
        Trouble::Garbled(why) => {
            failure.blip = Some(Blip::Server);
            format!("the answer is not what S3 answers ({why}); is the endpoint an S3 store?")
        }
        Trouble::Different(why) => {
            error.kind = ErrorKind::Corrupt;
            why
        }
        // Not repeated here: it has taken its time, and a server that hangs hangs again.
        Trouble::Stalled(after) => format!("no answer for {} s", after.as_secs_f32().ceil()),
        Trouble::Unreachable(why) => {
            failure.blip = Some(Blip::Connection);
            error.effect = Effect::None;
            format!("{UNREACHED}: {why}")
        }
        Trouble::Broken(why) => {
            failure.blip = Some(Blip::Connection);
            format!("the connection broke: {why}")
        }
        Trouble::Untrusted(why) => {
            error.kind = ErrorKind::Barred;
            error.effect = Effect::None;
            format!(
                "the endpoint's certificate is not trusted ({why}); if it is your own, set `ca_bundle` to the PEM file of its issuer"
            )
        }
        Trouble::Credentials(why) => {
            error.kind = ErrorKind::Barred;
            error.effect = Effect::None;
            let what = if why.is_empty() {
                "no credentials were found".to_owned()
            } else {
                format!("credentials could not be loaded ({why})")
            };
            format!("{what}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile")
        }
        Trouble::Local(why) => {
            error.kind = ErrorKind::Invalid;
            format!("the request cannot be sent: {why}")
        }
    };
    error.message = one_line(&message);
    failure
}

fn judge_answer(answer: Answer, call: &Call<'_>, mut failure: Failure) -> Failure {
    let (kind, blip) = kind(&answer);
    let error = &mut failure.error;
    error.kind = kind;
    // 501 says that nobody even tried. A 200 with an error in it is a 5xx that came late.
    let refused = matches!(answer.status, 300..=499 | 501);
    if refused {
        error.effect = Effect::None;
    }
    let words = answer.message.trim().trim_end_matches('.');
    let what = match (answer.code.is_empty(), words.is_empty()) {
        (false, false) => format!("{}: {words}", answer.code),
        (false, true) => answer.code.clone(),
        (true, _) => status_words(answer.status),
    };
    let next = advice(&answer, call);
    error.message = one_line(&if next.is_empty() {
        what
    } else {
        format!("{what}; {next}")
    });
    failure.blip = blip;
    failure.minds_checksum = minds_checksum(&answer);
    failure.error.retry_after = answer.retry_after;
    failure.error.code = answer.code;
    failure.answered = true;
    failure
}

/// Judges what a batch says of one of its keys.
pub(super) fn refused(key: &str, code: &str, message: &str) -> Error {
    let answer = Answer {
        // Inside a success; the code decides.
        status: 200,
        code: code.to_owned(),
        message: message.to_owned(),
        ..Answer::default()
    };
    let call = Call::write("DeleteObjects", key);
    judge_answer(answer, &call, failure(&call, Effect::Possible)).error
}

fn failure(call: &Call<'_>, effect: Effect) -> Failure {
    Failure {
        error: Error::new(ErrorKind::Network, call.operation, call.key, effect, ""),
        blip: None,
        minds_checksum: false,
        answered: false,
    }
}

/// The table of answers: first by the store's word, which is the same with every status, then by status.
fn kind(answer: &Answer) -> (ErrorKind, Option<Blip>) {
    use ErrorKind::{
        Barred, Busy, Conflict, Corrupt, Denied, Full, Invalid, Network, NotFound, Precondition,
        TooLarge, Unsupported,
    };
    match answer.code.as_str() {
        "SlowDown" | "SlowDownRead" | "SlowDownWrite" | "Throttling" | "ThrottlingException"
        | "ThrottledException" | "TooManyRequests" | "TooManyRequestsException"
        | "RequestLimitExceeded" | "BandwidthLimitExceeded" | "RequestThrottled" => {
            (Busy, Some(Blip::Throttle))
        }
        "InternalError" | "InternalFailure" | "ServiceUnavailable" | "ServerBusy" => {
            (Busy, Some(Blip::Server))
        }
        // The server saw no more of the body for a while, and has not stored anything.
        "RequestTimeout" => (Network, Some(Blip::Connection)),
        // The SDK has taken the server's clock from this very answer, so that the next attempt can succeed.
        "RequestTimeTooSkewed" => (Barred, Some(Blip::Connection)),
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
        | "InvalidSecurity" | "NotSignedUp"
        // The bucket lives elsewhere: nothing that this key or a repetition could change.
        | "PermanentRedirect" | "TemporaryRedirect" | "Redirect" | "AuthorizationHeaderMalformed"
        | "IllegalLocationConstraintException" => (Barred, None),
        // 403 by its status, yet about this object only: it rests in an archive.
        "InvalidObjectState" => (Invalid, None),
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

fn status_words(status: u16) -> String {
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
fn advice(answer: &Answer, call: &Call<'_>) -> String {
    let elsewhere = matches!(answer.status, 301 | 307 | 308)
        || matches!(
            answer.code.as_str(),
            "PermanentRedirect"
                | "TemporaryRedirect"
                | "AuthorizationHeaderMalformed"
                | "IllegalLocationConstraintException"
        );
    // A HEAD has no words; a wrong region then is a bare 400, or a 403, with this header.
    let region = answer
        .region
        .as_deref()
        .filter(|_| elsewhere || (answer.code.is_empty() && answer.status == 400));
    if let Some(region) = region {
        return format!("the bucket is in region {region}: set `region` to that");
    }
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

/// Returns whether the store may have refused the checksum header rather than the request.
///
/// Only a guess, for the caller to prove by repeating without it. A checksum that did not match is not meant.
fn minds_checksum(answer: &Answer) -> bool {
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

/// Folds text of others into one line of a bounded length, without control characters.
fn one_line(text: &str) -> String {
    const LONGEST: usize = 500;
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let text = text.trim_end_matches('.');
    let mut line: String = text
        .chars()
        .filter(|c| !c.is_control())
        .take(LONGEST)
        .collect();
    if line.len() < text.len() && line.chars().count() == LONGEST {
        line.push('…');
    }
    line
}
