//! TLS in front of a server that has none, with a certificate that only its own issuer vouches for.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// The server; it ends when it is dropped.
pub struct Tls {
    host: &'static str,
    port: u16,
    connections: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Tls {
    /// Starts one that hands everything on to `address`.
    pub async fn before(address: &str) -> Self {
        Self::on("127.0.0.1", address).await
    }

    /// Starts one on another address of this machine, for which its certificate does not hold.
    pub async fn misnamed(address: &str) -> Self {
        Self::on("127.0.0.2", address).await
    }

    /// Starts one whose certificate held for January 2020; its issuer is [`Self::ca_of_expired`].
    #[cfg(feature = "demo")]
    pub async fn expired(address: &str) -> Self {
        Self::with("127.0.0.1", include_bytes!("tls/expired.pem"), address).await
    }

    async fn on(host: &'static str, address: &str) -> Self {
        Self::with(host, include_bytes!("tls/server.pem"), address).await
    }

    async fn with(host: &'static str, certificate: &[u8], address: &str) -> Self {
        let chain = CertificateDer::from_pem_slice(certificate).unwrap();
        let key = PrivateKeyDer::from_pem_slice(include_bytes!("tls/server.key")).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![chain], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind((host, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::<AtomicUsize>::default();
        let (counter, address) = (Arc::clone(&connections), address.to_owned());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut lines = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::Relaxed);
                let (acceptor, address) = (acceptor.clone(), address.clone());
                lines.spawn(async move {
                    let Ok(mut near) = acceptor.accept(stream).await else {
                        return;
                    };
                    let mut far = TcpStream::connect(address).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                });
            }
        });
        Self {
            host,
            port,
            connections,
            _tasks: tasks,
        }
    }

    /// Returns `https://HOST:PORT`.
    pub fn url(&self) -> String {
        format!("https://{}:{}", self.host, self.port)
    }

    /// Returns how many connections were made, whatever became of them.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Returns the file with the issuer's certificate.
    pub fn ca() -> PathBuf {
        [env!("CARGO_MANIFEST_DIR"), "tests/it/faults/tls/ca.pem"]
            .iter()
            .collect()
    }

    /// Returns the file with the certificate of the issuer of the expired one.
    #[cfg(feature = "demo")]
    pub fn ca_of_expired() -> PathBuf {
        [
            env!("CARGO_MANIFEST_DIR"),
            "tests/it/faults/tls/expired-ca.pem",
        ]
        .iter()
        .collect()
    }
}
