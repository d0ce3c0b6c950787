//! A line to the web besides the bucket: one message to one address, by the bucket's own client, proxies and
//! certificates. Never follows a redirect, never signs anything, never tells an address in an error: who knows it may be
//! able to write there.

use std::path::PathBuf;
use std::time::Duration;

use aws_smithy_http_client::Connector;
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_runtime_api::client::http::HttpConnector as _;
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_types::body::SdkBody;

use crate::store::s3::connect::{self, Settings, SetupError};

/// How long a message may take, connection and answer included.
const PATIENCE: Duration = Duration::from_secs(20);

/// Sends messages to addresses of the web.
#[derive(Debug)]
pub struct Web {
    tls: Connector,
    plain: Connector,
}

impl Web {
    /// Makes one that trusts these certificates besides the system's; else those of `AWS_CA_BUNDLE`.
    pub async fn new(ca_bundle: Option<PathBuf>) -> Result<Self, SetupError> {
        let settings = Settings {
            ca_bundle,
            ..Settings::default()
        };
        let trust = connect::trust(&settings).await?;
        let proxy = ProxyConfig::from_env();
        Ok(Self {
            tls: connect::tls_connector(trust, proxy.clone()),
            plain: Connector::builder().proxy_config(proxy).build_http(),
        })
    }

    /// Posts a JSON text to `url`, or asks for `url` where there is none. Anything but a status of success is an error, in
    /// words that fit after "could not send: ".
    pub async fn send(&self, url: &str, json: Option<String>) -> Result<(), String> {
        let mut request =
            HttpRequest::new(json.as_deref().map_or_else(SdkBody::empty, SdkBody::from));
        request
            .set_method(if json.is_some() { "POST" } else { "GET" })
            .map_err(|error| error.to_string())?;
        request
            .set_uri(url)
            .map_err(|_| "the address is not one that can be asked".to_owned())?;
        let headers = request.headers_mut();
        headers.insert(
            "user-agent",
            concat!("tidewatch/", env!("CARGO_PKG_VERSION")),
        );
        if json.is_some() {
            headers.insert("content-type", "application/json");
        }
        let line = if url.starts_with("https://") {
            &self.tls
        } else {
            &self.plain
        };
        let answer = tokio::time::timeout(PATIENCE, line.call(request))
            .await
            .map_err(|_| format!("no answer within {} s", PATIENCE.as_secs()))?
            .map_err(|error| why(&error))?;
        let status = answer.status();
        if status.is_success() {
            Ok(())
        } else {
            Err(format!("the answer was {}", status.as_u16()))
        }
    }
}

/// Returns the innermost reason, which names no address.
fn why(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
