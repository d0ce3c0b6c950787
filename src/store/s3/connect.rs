//! How a bucket is reached: endpoint, region, credentials, TLS, proxy and patience.
//!
//! Order of what decides: the given setting, then the environment, then the profile. Never reads a secret itself: the
//! SDK's chain does.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aws_config::meta::region::RegionProviderChain;
use aws_config::provider_config::ProviderConfig;
use aws_config::{BehaviorVersion, SdkConfig};
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation, RuntimeComponents,
    SharedCredentialsProvider, SharedHttpClient, StalledStreamProtectionConfig,
};
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_http_client::{Builder, Connector};
use aws_smithy_runtime_api::client::http::{
    HttpConnectorSettings, SharedHttpConnector, http_client_fn,
};
use aws_types::service_config::ServiceConfigKey;

use crate::base::meter::Meter;
use crate::base::offload::Offload;
use crate::base::terms::Terms;
use crate::store::s3::direct::{Direct, Rules};
use crate::store::s3::spread::Spread;

/// The file of `$CREDENTIALS_DIRECTORY` that holds keys, in the form of `~/.aws/credentials`.
const HANDED_OVER: &str = "aws-credentials";

/// How to reach a bucket. Everything may stay at its default; then the standard AWS sources decide.
#[derive(Clone, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of its own that AWS has"
)]
pub struct Settings {
    /// Region; else the environment's, the profile's, or for a custom endpoint `us-east-1`; else the instance's.
    pub region: Option<String>,
    /// Endpoint, `http://` or `https://`; else the environment's, else the profile's, else AWS.
    pub endpoint_url: Option<String>,
    /// Profile of the shared AWS files.
    pub profile: Option<String>,
    /// How the bucket is named in a request.
    pub path_style: Addressing,
    /// PEM file with certificates to trust besides the system's; else `AWS_CA_BUNDLE`.
    pub ca_bundle: Option<PathBuf>,
    /// Use AWS's endpoints that have IPv6 addresses too; false: as the environment says.
    pub dualstack: bool,
    /// Use AWS's transfer acceleration, which the bucket must have been given.
    pub accelerate: bool,
    /// Use AWS's endpoints that hold to FIPS 140; false: as the environment says.
    pub fips: bool,
    /// Agree to pay for the requests, where the bucket's owner does not.
    pub requester_pays: bool,
    /// What every object is stored with.
    pub terms: Terms,
    /// Access key and secret of an endpoint that this very program started, which is then reached without a proxy. Only
    /// for the built-in demo endpoint and for tests: a real bucket's credentials come from the AWS chain.
    pub credentials: Option<(String, String)>,
    /// How long to wait for what. The default is right for every real endpoint.
    pub patience: Patience,
    /// Where requests are counted.
    pub meter: Arc<Meter>,
}

/// Shows everything but the credentials.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("region", &self.region)
            .field("endpoint_url", &self.endpoint_url)
            .field("profile", &self.profile)
            .field("path_style", &self.path_style)
            .field("ca_bundle", &self.ca_bundle)
            .field("terms", &self.terms)
            .finish_non_exhaustive()
    }
}

/// Whether the bucket's name is part of the path or of the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Addressing {
    /// Path for any custom endpoint and for buckets with dots, which no wildcard certificate covers.
    #[default]
    Auto,
    /// Always path.
    Path,
    /// Always host.
    Host,
}

/// How long a request may stand still.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Patience {
    /// For a connection to stand, TLS included.
    pub connect: Duration,
    /// For the next piece of a body to go out or to come in.
    pub piece: Duration,
    /// For the answer, once everything is handed to the kernel; what may still lie in its buffers comes on top.
    pub answer: Duration,
    /// For the answer to a request that works on whole objects: copy, complete.
    pub long_answer: Duration,
    /// How long after a request's beginning it may still be repeated.
    pub repeat: Duration,
}

impl Patience {
    /// Returns how long to wait for the answer to `len` bytes of body: a third of the usual and what a store takes that
    /// reads 1 MiB/s, but at least the usual.
    pub(super) fn answer_to(&self, len: u64) -> Duration {
        let reading = Duration::from_secs(len >> 20);
        self.answer.max(self.answer / 3 + reading)
    }
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            // Three for TCP, which sends its first packet again after one and after three, and two for TLS.
            connect: Duration::from_secs(5),
            piece: Duration::from_secs(20),
            answer: Duration::from_secs(15),
            // S3 says that joining parts can take minutes; meanwhile it sends spaces, which count as pieces.
            long_answer: Duration::from_secs(120),
            repeat: Duration::from_secs(30),
        }
    }
}

/// Why a bucket cannot even be asked: something to correct in the settings.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// Neither a region nor an endpoint is known.
    #[error(
        "no region is known; set `region` or AWS_REGION, or `endpoint_url` for a store that is not AWS"
    )]
    NoRegion,
    /// The endpoint is not a URL that requests can be sent to.
    #[error("the endpoint `{0}` is not a URL such as `https://s3.example.com`")]
    Endpoint(String),
    /// The file of certificates cannot be used.
    #[error("the certificates of ca_bundle `{}` cannot be used: {why}", path.display())]
    CaBundle {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The key that each request brings cannot be used.
    #[error("the key of sse_c_key_file `{}` cannot be used: {why}", path.display())]
    CustomerKey {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// What only AWS has is asked of another store.
    #[error("`{0}` is for AWS alone, and the endpoint is `{1}`; leave one of them out")]
    AwsOnly(&'static str, String),
}

/// What [`client`] found and made.
pub(super) struct Connected {
    pub client: Client,
    pub endpoint_url: String,
    pub region: String,
    /// Reaches the services that credentials come from.
    pub http: SharedHttpClient,
    pub credentials: Option<SharedCredentialsProvider>,
    /// The short way of bodies.
    pub direct: Direct,
}

/// The SDK's defaults, by their date: the one place that decides which.
fn behavior() -> BehaviorVersion {
    BehaviorVersion::latest()
}

/// Resolves `settings` and makes the client for `bucket`.
pub(super) async fn client(settings: &Settings, bucket: &str) -> Result<Connected, SetupError> {
    let proxy = if settings.credentials.is_some() {
        ProxyConfig::disabled()
    } else {
        ProxyConfig::from_env()
    };
    let trust = trust(settings).await?;
    let tls = tls_client(trust.clone(), proxy.clone());
    let sdk = load(settings, tls.clone()).await;
    let endpoint_url = endpoint(settings, &sdk)?;
    let region = match sdk.region() {
        Some(region) => region.clone(),
        None if !endpoint_url.is_empty() => Region::from_static("us-east-1"),
        // Only an instance of EC2 can still tell, and asking takes seconds everywhere else.
        None => instance_region(tls.clone())
            .await
            .ok_or(SetupError::NoRegion)?,
    };
    let path = match settings.path_style {
        Addressing::Auto => !endpoint_url.is_empty() || bucket.contains('.'),
        Addressing::Path => true,
        Addressing::Host => false,
    };
    for (is_set, name) in [
        (settings.dualstack, "dualstack"),
        (settings.accelerate, "accelerate"),
        (settings.fips, "fips"),
    ] {
        if is_set && !endpoint_url.is_empty() {
            return Err(SetupError::AwsOnly(name, endpoint_url));
        }
    }
    let rules = Rules {
        bucket: bucket.to_owned(),
        endpoint_url: endpoint_url.clone(),
        path_style: path,
        accelerate: settings.accelerate,
        fips: sdk.use_fips().unwrap_or_default(),
        dualstack: sdk.use_dual_stack().unwrap_or_default(),
    };
    let mut line = Connector::builder()
        .proxy_config(proxy.clone())
        .pool_idle_timeout(IDLE)
        .connector_settings(
            HttpConnectorSettings::builder()
                .connect_timeout(settings.patience.connect)
                .build(),
        );
    line.set_sleep_impl(sdk.sleep_impl());
    // No TLS is set up where there is none: it loads every root certificate, and some small machines have none.
    let line = if endpoint_url.starts_with("http://") {
        line.build_http()
    } else {
        line.tls_provider(Provider::Rustls(CryptoMode::Ring))
            .tls_context(tls_context(trust))
            .build_with_resolver(Spread)
    };
    // One pool of connections, whoever asks.
    let line = SharedHttpConnector::new(line);
    let of_all = line.clone();
    let http = http_client_fn(move |_, _| of_all.clone());
    let mut config = aws_sdk_s3::config::Builder::from(&sdk)
        .http_client(http)
        .region(region.clone())
        .force_path_style(path)
        .accelerate(settings.accelerate)
        // The requests carry their own checksum, as one plain header; a trailer breaks half of the stores.
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        // Repeating is this module's own: one layer, with classes and a bound.
        .retry_config(RetryConfig::disabled())
        // Standing still is watched per request: the SDK's read timeout counts the sending of the body too, and its
        // stream protection sees neither a missing answer nor a server that stops reading.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .timeout_config(
            TimeoutConfig::builder()
                .connect_timeout(settings.patience.connect)
                .disable_read_timeout()
                .build(),
        );
    if !endpoint_url.is_empty() {
        config = config.endpoint_url(&endpoint_url);
    }
    Ok(Connected {
        client: Client::from_conf(config.build()),
        endpoint_url,
        region: region.to_string(),
        http: tls,
        credentials: sdk.credentials_provider(),
        direct: Direct::new(line, rules),
    })
}

/// Asks the standard AWS sources, all of them anew.
pub(super) async fn load(settings: &Settings, http: SharedHttpClient) -> SdkConfig {
    let mut environment = RegionProviderChain::first_try(settings.region.clone().map(Region::new))
        .or_else(aws_config::environment::EnvironmentVariableRegionProvider::new());
    let mut profile = aws_config::profile::region::Builder::default();
    if let Some(name) = &settings.profile {
        profile = profile.profile_name(name);
    }
    environment = environment.or_else(profile.build());
    // A store that is not AWS needs no region, and without one the chain of credentials looks for an instance's, which
    // takes seconds everywhere else and is logged.
    let is_elsewhere = settings.endpoint_url.is_some()
        || ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]
            .iter()
            .any(|name| std::env::var_os(name).is_some_and(|url| !url.is_empty()));
    environment = environment.or_else(is_elsewhere.then(|| Region::from_static("us-east-1")));
    let mut loader = aws_config::defaults(behavior())
        .region(environment)
        .http_client(http);
    if let Some(files) = handed_over() {
        loader = loader.profile_files(files);
    }
    if let Some(name) = &settings.profile {
        loader = loader.profile_name(name);
    }
    if let Some(url) = &settings.endpoint_url {
        loader = loader.endpoint_url(url);
    }
    if settings.dualstack {
        loader = loader.use_dual_stack(true);
    }
    if settings.fips {
        loader = loader.use_fips(true);
    }
    if let Some((access, secret)) = &settings.credentials {
        loader = loader.credentials_provider(Credentials::new(
            access,
            secret,
            None,
            None,
            "settings of a built-in endpoint",
        ));
    }
    loader.load().await
}

/// Returns the profile files where the service manager hands keys over (`LoadCredential=`): its file then takes the place of
/// `~/.aws/credentials`, as one that `AWS_SHARED_CREDENTIALS_FILE` names does, which goes before it.
fn handed_over() -> Option<EnvConfigFiles> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    if set("AWS_SHARED_CREDENTIALS_FILE").is_some() {
        return None;
    }
    let file = PathBuf::from(set("CREDENTIALS_DIRECTORY")?).join(HANDED_OVER);
    file.is_file().then(|| {
        EnvConfigFiles::builder()
            .include_default_config_file(true)
            .with_file(EnvConfigFileKind::Credentials, file)
            .build()
    })
}

/// Returns the endpoint that the SDK would choose, which it does not tell; empty for AWS.
fn endpoint(settings: &Settings, sdk: &SdkConfig) -> Result<String, SetupError> {
    let key = ServiceConfigKey::builder()
        .service_id("S3")
        .env("AWS_ENDPOINT_URL")
        .profile("endpoint_url")
        .build();
    let for_s3 = || sdk.service_config()?.load_config(key.ok()?);
    let url = settings
        .endpoint_url
        .clone()
        .or_else(for_s3)
        .or_else(|| sdk.endpoint_url().map(str::to_owned))
        .unwrap_or_default();
    let url = url.trim().trim_end_matches('/').to_owned();
    let host = url
        .strip_prefix("http://")
        .or_else(|| url.strip_prefix("https://"));
    let ok = url.is_empty()
        || host.is_some_and(|host| {
            !host.is_empty()
                && !host.starts_with(['/', ':'])
                && !host.contains(|c: char| c.is_whitespace() || c.is_control())
        });
    if ok {
        Ok(url)
    } else {
        Err(SetupError::Endpoint(url))
    }
}

async fn instance_region(http: SharedHttpClient) -> Option<Region> {
    aws_config::imds::region::ImdsRegionProvider::builder()
        .configure(&ProviderConfig::without_region().with_http_client(http))
        .build()
        .region()
        .await
}

/// Reads and checks the certificates to trust besides the system's.
pub(super) async fn trust(settings: &Settings) -> Result<TrustStore, SetupError> {
    let mut trust = TrustStore::default();
    let path = settings.ca_bundle.clone().or_else(|| {
        // The SDK does not read this variable, unlike every other AWS tool.
        // An endpoint inside this program needs none.
        std::env::var_os("AWS_CA_BUNDLE")
            .filter(|path| !path.is_empty() && settings.credentials.is_none())
            .map(PathBuf::from)
    });
    let Some(path) = path else {
        return Ok(trust);
    };
    let wrong = |why: String| SetupError::CaBundle {
        path: path.clone(),
        why,
    };
    let file = path.clone();
    let pem = Offload::Pool
        .run(move || std::fs::read(file))
        .await
        .map_err(|error| wrong(error.to_string()))?;
    check_pem(&pem).map_err(wrong)?;
    trust.add_pem_certificate(pem);
    Ok(trust)
}

/// Refuses what the TLS client would panic on: it takes the certificates as they are, at the first connection.
fn check_pem(pem: &[u8]) -> Result<(), String> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let text = std::str::from_utf8(pem).map_err(|_| "it is not PEM text".to_owned())?;
    let mut found = 0;
    for block in text.split(BEGIN).skip(1) {
        found += 1;
        let (body, _) = block
            .split_once(END)
            .ok_or_else(|| format!("certificate {found} has no end"))?;
        let body: String = body.split_whitespace().collect();
        let der = aws_smithy_types::base64::decode(&body)
            .map_err(|_| format!("certificate {found} is not base64"))?;
        // An X.509 certificate is a sequence (0x30) longer than 127 bytes, which says its length.
        let sequence = match der.as_slice() {
            [0x30, 0x81, len, rest @ ..] => rest.len() == usize::from(*len),
            [0x30, 0x82, high, low, rest @ ..] => {
                rest.len() == usize::from(u16::from_be_bytes([*high, *low]))
            }
            _ => false,
        };
        if !sequence {
            return Err(format!("certificate {found} is damaged"));
        }
    }
    if found == 0 {
        return Err("it holds no certificate".to_owned());
    }
    Ok(())
}

/// S3 closes an idle connection after about 20 s, and a request on one that is just closing dies.
const IDLE: Duration = Duration::from_secs(15);

fn tls_client(trust: TrustStore, proxy: ProxyConfig) -> SharedHttpClient {
    let context = tls_context(trust);
    Builder::new().build_with_connector_fn(move |settings, components| {
        let mut builder = Connector::builder()
            .proxy_config(proxy.clone())
            .pool_idle_timeout(IDLE);
        builder.set_connector_settings(settings.cloned());
        builder.set_sleep_impl(components.and_then(RuntimeComponents::sleep_impl));
        builder
            .tls_provider(Provider::Rustls(CryptoMode::Ring))
            .tls_context(context.clone())
            .build_with_resolver(Spread)
    })
}

/// Makes a line of its own, which nothing of the SDK watches.
pub(super) fn tls_connector(trust: TrustStore, proxy: ProxyConfig) -> Connector {
    Connector::builder()
        .proxy_config(proxy)
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .tls_context(tls_context(trust))
        .build_with_resolver(Spread)
}

fn tls_context(trust: TrustStore) -> TlsContext {
    TlsContext::builder()
        .with_trust_store(trust)
        .build()
        .expect("a context of a trust store alone is always complete")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(der: &[u8]) -> String {
        format!(
            "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
            aws_smithy_types::base64::encode(der)
        )
    }

    #[test]
    fn a_large_body_has_time_to_be_read() {
        let patience = Patience::default();
        let seconds = |len: u64| patience.answer_to(len).as_secs();
        assert_eq!((seconds(0), seconds(10 << 20)), (15, 15));
        assert_eq!(seconds(16 << 20), 21);
        assert_eq!(seconds(5 << 30), 5 + 5120);
    }

    #[test]
    fn certificates_that_the_client_would_panic_on_are_refused() {
        let mut whole = vec![0x30, 0x81, 200];
        whole.extend([0; 200]);
        assert_eq!(check_pem(block(&whole).as_bytes()), Ok(()));
        let bad = [
            String::new(),
            "no PEM".to_owned(),
            "-----BEGIN CERTIFICATE-----\nMIIB".to_owned(),
            "-----BEGIN CERTIFICATE-----\n???\n-----END CERTIFICATE-----".to_owned(),
            block(&whole[..100]),
            block(b"hello"),
        ];
        for text in bad {
            assert!(check_pem(text.as_bytes()).is_err(), "{text}");
        }
        assert!(check_pem(b"\xff").is_err());
    }

    #[test]
    fn the_secret_is_never_shown() {
        let settings = Settings {
            credentials: Some(("access".into(), "hush".into())),
            ..Settings::default()
        };
        let text = format!("{settings:?}");
        assert!(!text.contains("hush") && !text.contains("access\""));
    }
}
