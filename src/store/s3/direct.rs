//! The short way of bodies: a put, or a part, signed here and handed to the HTTP client itself.
//!
//! What the SDK does around a request costs several times what the request costs. Where it goes to, with which scheme it is
//! signed, and with whose credentials, is still the SDK's to say: its rules for endpoints and its chain of credentials. What
//! it signs in another way (`None` here) goes by the SDK as a whole. Watching, repeating and judging are those of every
//! other request.

use std::borrow::Cow;
use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sdk_s3::config::endpoint::{DefaultResolver, Params, ResolveEndpoint as _};
use aws_sdk_s3::primitives::ByteStream;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
    UriPathNormalizationMode, sign,
};
use aws_sigv4::sign::v4;
use aws_smithy_runtime_api::client::connection::CaptureSmithyConnection;
use aws_smithy_runtime_api::client::http::{HttpConnector as _, SharedHttpConnector};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::http::Headers;
use aws_smithy_types::body::SdkBody;
use aws_smithy_xml::decode::{Document, try_data};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::base::clock::Clock;
use crate::base::digest::Sha256;
use crate::store::Body;
use crate::store::s3::attempt::{Payload, Watch};
use crate::store::s3::classify::{self, Trouble};
use crate::store::s3::reach::Reach;

/// Headers of one request, in the order in which they were said.
pub(super) type Said = Vec<(Cow<'static, str>, String)>;

/// The longest answer to a body that is read, bytes: S3's have a few hundred.
const LONGEST: usize = 64 << 10;

/// What a path of a key need not escape: the unreserved characters, and the slash between folders.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// What a word of a query need not escape.
const WORD: &AsciiSet = &PLAIN.add(b'/');

/// Returns the query that names a part of an upload.
pub(super) fn part_query(upload: &str, number: u32) -> String {
    let upload = utf8_percent_encode(upload, WORD);
    format!("?partNumber={number}&uploadId={upload}")
}

/// What the SDK's rules need to know to tell where a bucket is.
#[derive(Clone, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of its own that AWS has"
)]
pub(super) struct Rules {
    pub bucket: String,
    /// Empty for AWS.
    pub endpoint_url: String,
    pub path_style: bool,
    pub accelerate: bool,
    pub fips: bool,
    pub dualstack: bool,
}

/// Where a bucket is, and what its signatures are for.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Place {
    /// Up to the slash before the key.
    base: String,
    region: String,
    service: String,
}

impl Rules {
    /// Asks the SDK's rules; `None` if they do not know, or want another scheme than the usual one.
    async fn place(&self, region: &str) -> Option<Place> {
        let endpoint_url = (!self.endpoint_url.is_empty()).then(|| self.endpoint_url.clone());
        let params = Params::builder()
            .bucket(&self.bucket)
            .region(region)
            .force_path_style(self.path_style)
            .accelerate(self.accelerate)
            .use_fips(self.fips)
            .use_dual_stack(self.dualstack)
            .set_endpoint(endpoint_url)
            .build()
            .ok()?;
        let resolver = DefaultResolver::new();
        let found = resolver.resolve_endpoint(&params).await.ok()?;
        if found.headers().next().is_some() {
            return None;
        }
        // The first is the one that the SDK takes, if it can sign so.
        let (name, service, signs_for) = if let Some(scheme) = found.auth_schemes().first() {
            let word = |key| scheme.get(key).and_then(|word| word.as_string());
            (scheme.name(), word("signingName"), word("signingRegion"))
        } else {
            let schemes = found.properties().get("authSchemes")?.as_array()?;
            let scheme = schemes.first()?.as_object()?;
            let word = |key: &str| scheme.get(key).and_then(|word| word.as_string());
            (word("name")?, word("signingName"), word("signingRegion"))
        };
        (name == "sigv4").then(|| Place {
            base: format!("{}/", found.url().trim_end_matches('/')),
            region: signs_for.unwrap_or(region).to_owned(),
            service: service.unwrap_or("s3").to_owned(),
        })
    }
}

/// The short way to one bucket.
pub(super) struct Direct {
    line: SharedHttpConnector,
    rules: Rules,
    place: RwLock<Option<Arc<Place>>>,
    /// How far the store's clock is ahead of ours, where that is too far for a signature, nanoseconds.
    skew_ns: AtomicI64,
}

impl fmt::Debug for Direct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Direct")
            .field("rules", &self.rules)
            .finish_non_exhaustive()
    }
}

impl Direct {
    /// Makes one that knows no place yet.
    pub fn new(line: SharedHttpConnector, rules: Rules) -> Self {
        Self {
            line,
            rules,
            place: RwLock::default(),
            skew_ns: AtomicI64::new(0),
        }
    }

    /// Finds the bucket anew, in this region.
    pub async fn find(&self, region: &str) {
        let place = self.rules.place(region).await.map(Arc::new);
        *self.place.write().unwrap_or_else(PoisonError::into_inner) = place;
    }

    /// Signs by a clock that is so far ahead of ours from now on; returns whether it was another before.
    pub fn set_skew(&self, ahead_ns: i64) -> bool {
        self.skew_ns.swap(ahead_ns, Ordering::Relaxed) != ahead_ns
    }

    fn place(&self) -> Option<Arc<Place>> {
        let place = self.place.read().unwrap_or_else(PoisonError::into_inner);
        place.clone()
    }

    fn now(&self) -> SystemTime {
        let now_ns = Clock::Real.now().wall_ns + self.skew_ns.load(Ordering::Relaxed);
        SystemTime::UNIX_EPOCH + Duration::from_nanos(u64::try_from(now_ns).unwrap_or(0))
    }
}

/// Stores `body` under `key`, with a query that is encoded and more headers; returns the headers of a success. `None`: that
/// is not for the short way.
pub(super) async fn put(
    reach: &Reach,
    watch: &Watch,
    key: &str,
    query: &str,
    said: &Said,
    body: &Body,
) -> Option<Result<Headers, Trouble>> {
    let direct = reach.direct();
    let place = direct.place().filter(|_| watch.is_at_home())?;
    let credentials = reach.signer().await?;
    let key = utf8_percent_encode(key, PLAIN);
    let uri = format!("{}{key}{query}", place.base);
    let mut request = request(&uri, said, body)?;
    let signed = signature(&place, &credentials, direct.now(), &request, watch, body)?;
    for (name, value) in &signed {
        request
            .headers_mut()
            .try_insert(name.clone(), value.clone())
            .ok()?;
    }
    let line = CaptureSmithyConnection::new();
    request.add_extension(line.clone());
    let signed_with = (
        credentials.access_key_id().to_owned(),
        credentials.session_token().map(str::to_owned),
    );
    if let Some(body) = watch.departs(Some(line), Some(signed_with)) {
        *request.body_mut() = body;
    }
    let response = match direct.line.call(request).await {
        Ok(response) => response,
        Err(error) => return Some(Err(classify::line(&error))),
    };
    watch.arrives(&response);
    Some(answer(response).await)
}

/// Makes the request, but for its signature and its bytes.
fn request(uri: &str, said: &Said, body: &Body) -> Option<HttpRequest> {
    let mut request = HttpRequest::new(SdkBody::empty());
    request.set_method("PUT").ok()?;
    request.set_uri(uri).ok()?;
    let headers = request.headers_mut();
    headers.insert(
        "user-agent",
        concat!("tidewatch/", env!("CARGO_PKG_VERSION")),
    );
    headers.insert("content-length", body.bytes.len().to_string());
    for (name, value) in said {
        // What is no header the SDK may refuse in its own words.
        headers.try_insert(name.clone(), value.clone()).ok()?;
    }
    Some(request)
}

/// Returns the headers that sign a request.
fn signature(
    place: &Place,
    credentials: &Credentials,
    now: SystemTime,
    request: &HttpRequest,
    watch: &Watch,
    body: &Body,
) -> Option<Vec<(String, String)>> {
    let mut settings = SigningSettings::default();
    // As S3 has it: https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
    settings.percent_encoding_mode = PercentEncodingMode::Single;
    settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
    settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
    let identity = credentials.clone().into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(&place.region)
        .name(&place.service)
        .time(now)
        .settings(settings)
        .build()
        .ok()?;
    let payload = match watch.payload(request.uri()) {
        Payload::Unsigned => SignableBody::UnsignedPayload,
        Payload::Known(sha256) => SignableBody::Precomputed(sha256.to_hex()),
        Payload::Unknown => SignableBody::Precomputed(Sha256::of(&body.bytes).to_hex()),
    };
    let headers = request.headers().iter();
    let signable = SignableRequest::new("PUT", request.uri(), headers, payload).ok()?;
    let signed = sign(signable, &params.into()).ok()?;
    let (signed, _) = signed.into_parts();
    let headers = signed.headers();
    Some(
        headers
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
    )
}

/// Reads an answer to its end, so that its connection can be used again.
async fn answer(response: HttpResponse) -> Result<Headers, Trouble> {
    let status = response.status();
    let headers = response.headers().clone();
    let mut whole = Vec::new();
    let mut body = ByteStream::new(response.into_body());
    while let Some(piece) = body.next().await {
        let piece = piece.map_err(|error| error.to_string());
        match piece {
            Ok(piece) if whole.len() + piece.len() <= LONGEST => whole.extend_from_slice(&piece),
            // The status says enough of an answer that failed; of one that succeeded its end was lost.
            _ if !status.is_success() => break,
            Ok(_) => return Err(Trouble::Garbled("it does not end".to_owned())),
            Err(why) => return Err(Trouble::Garbled(why)),
        }
    }
    if status.is_success() {
        return Ok(headers);
    }
    let (code, message) = error_words(&whole);
    Err(Trouble::Answer(classify::answer(
        status.as_u16(),
        &headers,
        code.as_deref(),
        message.as_deref(),
    )))
}

/// Takes code and message out of an error; none from what is not S3's.
pub(super) fn error_words(xml: &[u8]) -> (Option<String>, Option<String>) {
    let (mut code, mut message) = (None, None);
    let Ok(text) = std::str::from_utf8(xml) else {
        return (None, None);
    };
    let mut document = Document::new(text);
    let Ok(mut root) = document.root_element() else {
        return (None, None);
    };
    if root.start_el().local() != "Error" {
        return (None, None);
    }
    while let Some(mut tag) = root.next_tag() {
        let into = match tag.start_el().local() {
            "Code" => &mut code,
            "Message" => &mut message,
            _ => continue,
        };
        *into = try_data(&mut tag).ok().map(Cow::into_owned);
    }
    (code, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(bucket: &str, endpoint_url: &str, path_style: bool) -> Rules {
        Rules {
            bucket: bucket.to_owned(),
            endpoint_url: endpoint_url.to_owned(),
            path_style,
            accelerate: false,
            fips: false,
            dualstack: false,
        }
    }

    async fn base(rules: &Rules) -> Option<(String, String)> {
        let place = rules.place("eu-central-1").await?;
        assert_eq!(place.service, "s3");
        Some((place.base, place.region))
    }

    #[tokio::test]
    async fn the_sdks_rules_say_where_a_bucket_is() {
        let said = |base: &str| Some((base.to_owned(), "eu-central-1".to_owned()));
        assert_eq!(
            base(&rules("b", "http://localhost:9000", true)).await,
            said("http://localhost:9000/b/")
        );
        assert_eq!(
            base(&rules("bucket", "", false)).await,
            said("https://bucket.s3.eu-central-1.amazonaws.com/")
        );
        assert_eq!(
            base(&rules("b.c", "", true)).await,
            said("https://s3.eu-central-1.amazonaws.com/b.c/")
        );
        let accelerated = Rules {
            accelerate: true,
            ..rules("bucket", "", false)
        };
        assert_eq!(
            base(&accelerated).await,
            said("https://bucket.s3-accelerate.amazonaws.com/")
        );
    }

    #[tokio::test]
    async fn what_is_signed_in_another_way_is_left_to_the_sdk() {
        assert_eq!(base(&rules("b--euc1-az1--x-s3", "", false)).await, None);
        let everywhere = "arn:aws:s3::123456789012:accesspoint:abc.mrap";
        assert_eq!(base(&rules(everywhere, "", false)).await, None);
    }

    #[test]
    fn the_words_of_an_error_are_found_and_what_is_none_says_nothing() {
        let words = |xml: &str| error_words(xml.as_bytes());
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            words(
                "<?xml version=\"1.0\"?>\n<Error><Code>SlowDown</Code><Message>a &amp; b</Message></Error>"
            ),
            (some("SlowDown"), some("a & b"))
        );
        assert_eq!(
            words("<Error><Key>k</Key><Code>NoSuchBucket</Code>"),
            (some("NoSuchBucket"), None)
        );
        for nothing in ["", "<html><Code>x</Code></html>", "<Error", "\u{0}"] {
            assert_eq!(words(nothing), (None, None), "{nothing}");
        }
        assert_eq!(error_words(b"\xff<Error>"), (None, None));
    }
}
