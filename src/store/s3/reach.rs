//! The way to the bucket as it is now, and what can be put right on it while a request waits.
//!
//! A bucket that lives in another region, credentials that have expired, a clock that is wrong, a connection that died
//! while it lay idle: each is put right once for a request, and what was learned holds for those that follow. Whoever
//! comes second to the same trouble takes what the first has found.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, UNIX_EPOCH};

use aws_credential_types::provider::{self, ProvideCredentials, future};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{Credentials, Region, SharedCredentialsProvider, SharedHttpClient};
use hyper::http::Uri;
use tokio::time::Instant;

use crate::base::clock::Clock;
use crate::base::meter::Meter;
use crate::store::s3::attempt::flight::Flight;
use crate::store::s3::classify::Cure;
use crate::store::s3::connect::{self, Connected, Settings};
use crate::store::s3::direct::Direct;

/// The clocks may be this far apart before a refused signature is put down to them. The SDK signs by the store's clock,
/// which each answer tells, from the same bound on.
const SKEW: Duration = Duration::from_secs(4 * 60);

/// Returns whether a request may be sent on to `url` by the store at `endpoint` (empty: AWS's own): only to the same host or
/// one below it, or from AWS to AWS. Whoever can answer once must not get everything from then on.
fn is_of(endpoint: &str, url: &str) -> bool {
    const AWS: [&str; 2] = [".amazonaws.com", ".amazonaws.com.cn"];
    let host = |url: &str| {
        let url: Uri = url.parse().ok()?;
        let is_web = matches!(url.scheme_str(), Some("http" | "https"));
        let host = url.host().filter(|_| is_web)?;
        Some(host.trim_end_matches('.').to_ascii_lowercase())
    };
    let is_aws = |host: &str| AWS.iter().any(|end| host.ends_with(end));
    let Some(to) = host(url) else {
        return false;
    };
    match host(endpoint) {
        Some(from) if is_aws(&from) => is_aws(&to),
        Some(from) => {
            to == from
                || to
                    .strip_suffix(&from)
                    .is_some_and(|rest| rest.ends_with('.'))
        }
        None => endpoint.is_empty() && is_aws(&to),
    }
}

/// The way to one bucket.
#[derive(Debug)]
pub(super) struct Reach {
    client: RwLock<Client>,
    region: RwLock<String>,
    /// Counts the clients that have followed each other.
    generation: AtomicU64,
    settings: Settings,
    /// Empty: AWS's own.
    endpoint_url: String,
    /// For the services that credentials come from.
    http: SharedHttpClient,
    last: Last,
    /// Where they come from.
    provider: RwLock<Option<SharedCredentialsProvider>>,
    /// Held while somebody asks there.
    loading: tokio::sync::Mutex<()>,
    direct: Direct,
    /// When credentials were last loaded again.
    renewed: tokio::sync::Mutex<Option<Instant>>,
    lines: Lines,
    is_skew_told: AtomicBool,
}

impl Reach {
    pub async fn new(connected: Connected, settings: Settings) -> Self {
        connected.direct.find(&connected.region).await;
        let reach = Self {
            client: RwLock::new(connected.client),
            region: RwLock::new(connected.region),
            generation: AtomicU64::new(0),
            settings,
            endpoint_url: connected.endpoint_url,
            http: connected.http,
            last: Last::default(),
            provider: RwLock::default(),
            loading: tokio::sync::Mutex::default(),
            direct: connected.direct,
            renewed: tokio::sync::Mutex::default(),
            lines: Lines::default(),
            is_skew_told: AtomicBool::new(false),
        };
        if let Some(provider) = connected.credentials {
            reach.use_credentials(provider, None);
        }
        reach
    }

    /// Returns the client of now, and which one it is.
    pub fn client(&self) -> Client {
        self.client
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub fn region(&self) -> String {
        self.region
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub fn meter(&self) -> &Meter {
        &self.settings.meter
    }

    /// Returns the name of the provider that the last credentials came from, and when they end.
    pub fn credentials_source(&self) -> Option<(String, Option<u64>)> {
        self.last.with(|last| {
            // The SDK tells it only there, and the credentials themselves are not part of it but for their id.
            let shown = format!("{last:?}");
            let name = shown.split_once("provider_name: \"").map(|(_, rest)| rest);
            let name = name.and_then(|rest| rest.split('"').next());
            let ends = last.expiry().and_then(|at| {
                let since = at.duration_since(std::time::UNIX_EPOCH).ok()?;
                Some(since.as_secs())
            });
            (name.unwrap_or_default().to_owned(), ends)
        })
    }

    /// Returns the short way of bodies.
    pub fn direct(&self) -> &Direct {
        &self.direct
    }

    /// Returns credentials to sign with; `None` if there are none, or if they cannot be had.
    pub async fn signer(&self) -> Option<Credentials> {
        if let Some(known) = self.last.if_fresh(KEPT) {
            return Some(known);
        }
        let _one = self.loading.lock().await;
        // Whoever waited for somebody else has what that one was given.
        if let Some(known) = self.last.if_fresh(KEPT) {
            return Some(known);
        }
        let provider = self
            .provider
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        provider?.provide_credentials().await.ok()
    }

    pub fn lines(&self) -> &Lines {
        &self.lines
    }

    fn replace(&self, client: Client) {
        *self.client.write().unwrap_or_else(PoisonError::into_inner) = client;
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Tries to put right what an attempt has met; returns what gives reason to try again.
    pub async fn first_cure(&self, cures: Vec<Cure>, flight: &Flight) -> Option<Cure> {
        for cure in cures {
            if self.cure(&cure, flight).await {
                return Some(cure);
            }
        }
        None
    }

    async fn cure(&self, cure: &Cure, flight: &Flight) -> bool {
        match cure {
            Cure::Clock => self.is_skewed(flight),
            Cure::Credentials => Box::pin(self.renew(flight)).await,
            Cure::Region(region) => self.move_to(region, flight).await,
            // The next attempt goes there.
            Cure::Follow(url) => is_of(&self.endpoint_url, url),
        }
    }

    /// Returns whether the clocks are apart, by what the answer says. The SDK has taken the store's time from it.
    fn is_skewed(&self, flight: &Flight) -> bool {
        let Some(theirs_ns) = flight.date_ns() else {
            return false;
        };
        let ahead_ns = theirs_ns - Clock::Real.now().wall_ns;
        let apart = Duration::from_nanos(ahead_ns.unsigned_abs());
        if apart <= SKEW {
            // Somebody may have set our clock since.
            return self.direct.set_skew(0);
        }
        self.direct.set_skew(ahead_ns);
        if !self.is_skew_told.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "this machine's clock and the store's are {} min apart; requests are signed by the store's from now on, but let NTP set the clock",
                apart.as_secs() / 60
            );
        }
        true
    }

    async fn move_to(&self, region: &str, flight: &Flight) -> bool {
        if self.region() == region {
            return flight.generation != self.generation();
        }
        self.direct.find(region).await;
        let mut now = self.region.write().unwrap_or_else(PoisonError::into_inner);
        if *now == region {
            return true;
        }
        tracing::warn!(
            "the bucket is in region {region}, not in {now}: set `region` to that; until then the first request of each start goes astray"
        );
        region.clone_into(&mut now);
        let config = self.client().config().to_builder();
        let config = config.region(Region::new(region.to_owned()));
        self.replace(Client::from_conf(config.build()));
        true
    }

    /// Loads the credentials again; returns whether they are others than those that the attempt was signed with.
    async fn renew(&self, flight: &Flight) -> bool {
        // An endpoint inside this program has no others.
        if self.settings.credentials.is_some() {
            return false;
        }
        let mut renewed = self.renewed.lock().await;
        if flight.generation != self.generation() || !self.last.has_signed(flight) {
            return true;
        }
        // Whoever waited here while somebody else asked has the answer.
        if renewed.is_some_and(|at| at >= flight.began) {
            return false;
        }
        let sdk = connect::load(&self.settings, self.http.clone()).await;
        let loaded = match sdk.credentials_provider() {
            Some(provider) => match provider.provide_credentials().await {
                Ok(credentials) => Some((provider, credentials)),
                Err(error) => {
                    tracing::debug!("could not load the credentials again: {error}");
                    None
                }
            },
            None => None,
        };
        *renewed = Some(Clock::Real.now().mono);
        let Some((provider, credentials)) = loaded else {
            return false;
        };
        if self.last.is(&credentials) {
            return false;
        }
        tracing::info!("the store no longer took the credentials; they were loaded again");
        self.use_credentials(provider, Some(credentials));
        true
    }

    fn use_credentials(&self, inner: SharedCredentialsProvider, first: Option<Credentials>) {
        if let Some(first) = &first {
            self.last.set(first.clone());
        }
        let provider = SharedCredentialsProvider::new(Remembering {
            inner,
            first: Mutex::new(first),
            last: self.last.clone(),
        });
        *self
            .provider
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Some(provider.clone());
        // A provider of its own has a partition of its own in the SDK's cache of identities.
        let config = self.client().config().to_builder();
        let config = config.credentials_provider(provider);
        self.replace(Client::from_conf(config.build()));
    }
}

/// How long credentials that do not say when they end are used before their source is asked again: it may be a file that
/// somebody changes. The SDK's own cache keeps them for 15 minutes.
const KEPT: Duration = Duration::from_secs(10 * 60);

/// What was loaded so lately is not loaded again: the SDK and the short way ask for themselves.
const LATELY: Duration = Duration::from_secs(60);

/// How long before their end credentials are not used any more, for new ones.
const BEFORE_THE_END: Duration = Duration::from_secs(60);

/// The credentials that were last handed to the signer, and since when they are.
#[derive(Clone, Default, Debug)]
struct Last(Arc<Mutex<Option<(Credentials, Instant)>>>);

impl Last {
    fn set(&self, credentials: Credentials) {
        let known = (credentials, Clock::Real.now().mono);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(known);
    }

    /// Returns them if they do not end soon and are not older than this.
    fn if_fresh(&self, oldest: Duration) -> Option<Credentials> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (credentials, since) = last.as_ref()?;
        let now = Clock::Real.now();
        let soon_ns = now.wall_ns + BEFORE_THE_END.as_nanos() as i64;
        let soon = UNIX_EPOCH + Duration::from_nanos(soon_ns.unsigned_abs());
        let is_young = now.mono.duration_since(*since) < oldest;
        let is_good = credentials.expiry().is_none_or(|end| end > soon);
        (is_young && is_good).then(|| credentials.clone())
    }

    fn with<T>(&self, look: impl FnOnce(&Credentials) -> T) -> Option<T> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().map(|(credentials, _)| look(credentials))
    }

    fn is(&self, other: &Credentials) -> bool {
        let same = |last: &Credentials| {
            last.access_key_id() == other.access_key_id()
                && last.secret_access_key() == other.secret_access_key()
                && last.session_token() == other.session_token()
        };
        self.with(same) == Some(true)
    }

    /// Returns false if the attempt was surely signed with others.
    fn has_signed(&self, flight: &Flight) -> bool {
        let Some((id, token)) = flight.signed_with() else {
            return true;
        };
        let same = |last: &Credentials| {
            last.access_key_id() == id && last.session_token() == token.as_deref()
        };
        self.with(same) != Some(false)
    }
}

/// Hands out another's credentials, and remembers them.
#[derive(Debug)]
struct Remembering {
    inner: SharedCredentialsProvider,
    /// Loaded already.
    first: Mutex<Option<Credentials>>,
    last: Last,
}

impl Remembering {
    async fn load(&self) -> provider::Result {
        let first = self
            .first
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(known) = first.or_else(|| self.last.if_fresh(LATELY)) {
            return Ok(known);
        }
        let credentials = self.inner.provide_credentials().await?;
        self.last.set(credentials.clone());
        Ok(credentials)
    }
}

impl ProvideCredentials for Remembering {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.load())
    }

    fn fallback_on_interrupt(&self) -> Option<Credentials> {
        self.inner.fallback_on_interrupt()
    }
}

/// The connections on which an answer has come: one that dies now has died while it lay idle.
///
/// A connection is known by its own address. The kernel may give the same address to a later one: then one attempt too
/// few is counted, which is bounded where it is used.
#[derive(Default, Debug)]
pub(super) struct Lines(Mutex<HashSet<SocketAddr>>);

/// More than there are connections at once; beyond it all are taken for new.
const MOST_LINES: usize = 4096;

impl Lines {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<SocketAddr>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers that an answer has come on a connection, if it is known on which.
    pub fn answered(&self, line: Option<SocketAddr>) {
        let Some(line) = line else { return };
        let mut lines = self.lock();
        if lines.len() >= MOST_LINES {
            lines.clear();
        }
        lines.insert(line);
    }

    /// Forgets a connection that died; returns whether it had answered before.
    pub fn died(&self, line: SocketAddr) -> bool {
        self.lock().remove(&line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_sent_on_within_the_store_alone() {
        let own = "https://s3.example.com:9000";
        for (endpoint, url) in [
            (own, "https://s3.example.com/b/k"),
            (own, "https://b.S3.example.com:9001/k?x=1"),
            ("http://127.0.0.1:1", "http://127.0.0.1:2/"),
            ("", "https://b.s3-us-west-2.amazonaws.com/k"),
            (
                "https://s3.eu-west-1.amazonaws.com",
                "https://b.s3.us-east-1.amazonaws.com/k",
            ),
        ] {
            assert!(is_of(endpoint, url), "{endpoint} {url}");
        }
        for (endpoint, url) in [
            (own, "https://evil.example/"),
            (own, "https://evils3.example.com/"),
            (own, "https://s3.example.com.evil.example/"),
            (own, "https://s3.example.com@evil.example/"),
            (own, "https://example.com/"),
            (own, "//evil.example/"),
            (own, "file://s3.example.com/etc/passwd"),
            (own, "/b/k"),
            ("http://127.0.0.1:1", "http://169.254.169.254/latest/"),
            ("", "https://amazonaws.com.evil.example/"),
            ("", "https://evilamazonaws.com/"),
            ("", "http://169.254.169.254/latest/"),
        ] {
            assert!(!is_of(endpoint, url), "{endpoint} {url}");
        }
    }
}
