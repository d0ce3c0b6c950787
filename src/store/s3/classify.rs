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
use aws_smithy_runtime_api::http::Headers;
use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;

use crate::base::path::is_unruly;
use crate::store::s3::attempt::{Call, Nature};
use crate::store::s3::table::{advice, cures, kind, minds_checksum, status_words};
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
    /// Where else to ask, where the store tells it.
    pub location: Option<String>,
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

/// What may be put right before the request is tried again: once each.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Cure {
    /// Sign by the store's clock.
    Clock,
    /// Load the credentials again.
    Credentials,
    /// Ask in this region.
    Region(String),
    /// Ask at this URL, this once.
    Follow(String),
}

impl Cure {
    /// Returns whether both are of one sort.
    pub fn is_like(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }

    /// Returns where else to ask.
    pub fn place(&self) -> Option<&str> {
        match self {
            Self::Follow(url) => Some(url),
            _ => None,
        }
    }
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
    /// What may be put right, the likeliest first.
    pub cures: Vec<Cure>,
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
            let answer = answer(
                response.status().as_u16(),
                response.headers(),
                error.code(),
                error.message(),
            );
            if answer.code.is_empty() && response.status().is_success() {
                return Trouble::Garbled(innermost(error));
            }
            Trouble::Answer(answer)
        }
        SdkError::ResponseError(context) => {
            let raw = context.raw();
            let answer = answer(raw.status().as_u16(), raw.headers(), None, None);
            if !raw.status().is_success() {
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

/// Puts together what an answer says of its error.
pub(super) fn answer(
    status: u16,
    headers: &Headers,
    code: Option<&str>,
    message: Option<&str>,
) -> Answer {
    let header = |name| headers.get(name).map(str::to_owned);
    Answer {
        status,
        code: code.unwrap_or_default().to_owned(),
        message: message.unwrap_or_default().to_owned(),
        region: header("x-amz-bucket-region"),
        retry_after: header("retry-after")
            .and_then(|text| later(text.trim(), header("date").as_deref())),
        location: header("location"),
    }
}

/// Takes Retry-After: seconds, or a date, which counts from the answer's own.
fn later(text: &str, date: Option<&str>) -> Option<Duration> {
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let seconds = |text| Some(DateTime::from_str(text, Format::HttpDate).ok()?.secs());
    let wait = seconds(text)?.checked_sub(seconds(date?)?)?;
    u64::try_from(wait).ok().map(Duration::from_secs)
}

/// Judges an error of the connection, or of what comes before it.
pub(super) fn line(error: &ConnectorError) -> Trouble {
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
    let (mut kind, mut blip) = kind(&answer);
    // An answer that could have S3's words and has none is a proxy's, behind which nobody was: it says nothing of the
    // object. (`NotFound` is what the SDK makes of an empty body.)
    let is_wordless = matches!(answer.code.as_str(), "" | "NotFound");
    if kind == ErrorKind::NotFound && is_wordless && !call.operation.starts_with("Head") {
        (kind, blip) = (ErrorKind::Busy, Some(Blip::Server));
    }
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
    failure.cures = cures(&answer);
    failure.error.retry_after = answer.retry_after;
    failure.error.code = answer.code;
    failure.answered = true;
    failure
}

/// Judges what a batch says of one of its keys. `is_outstanding`: an earlier attempt at the batch may still land.
pub(super) fn refused(key: &str, code: &str, message: &str, is_outstanding: bool) -> Error {
    let answer = Answer {
        // Inside a success; the code decides.
        status: 200,
        code: code.to_owned(),
        message: message.to_owned(),
        ..Answer::default()
    };
    let call = Call::write("DeleteObjects", key);
    let mut error = judge_answer(answer, &call, failure(&call, Effect::Possible)).error;
    let is_refusal = !matches!(error.kind, ErrorKind::Busy | ErrorKind::Network);
    if is_refusal && !is_outstanding {
        error.effect = Effect::None;
    }
    error
}

fn failure(call: &Call<'_>, effect: Effect) -> Failure {
    Failure {
        error: Error::new(ErrorKind::Network, call.operation, call.key, effect, ""),
        blip: None,
        minds_checksum: false,
        answered: false,
        cures: Vec::new(),
    }
}

/// Folds text of others into one line of a bounded length, without control characters.
fn one_line(text: &str) -> String {
    const LONGEST: usize = 500;
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let text = text.trim_end_matches('.');
    let mut line: String = text
        .chars()
        .filter(|c| !is_unruly(*c))
        .take(LONGEST)
        .collect();
    if line.len() < text.len() && line.chars().count() == LONGEST {
        line.push('…');
    }
    line
}
